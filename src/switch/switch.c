/* SPDX-License-Identifier: Apache-2.0 */
/* Switches, bridges and ports: who is there. Flows are flows.c's, packets thread.c's. */
#include <errno.h>
#include <stdlib.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "loop/clock.h"
#include "switch/thread.h"

void switch_config_default(struct switch_config *c)
{
    *c = (struct switch_config){
        .flows = SWITCH_FLOWS_MEGA, .exact_max = 65536, .megaflows_max = 200000, .masks_max = 64, .emc_entries = 8192};
}

int switch_new(struct net_switch **out, const struct switch_config *c)
{
    if (c->emc_entries && (!is_power_of_2(c->emc_entries) || c->emc_entries < 2)) return -EINVAL;
    if (c->megaflows_max == 0 || c->megaflows_max > SWITCH_FLOWS_MAX_DEFAULT || c->exact_max > SWITCH_FLOWS_MAX_DEFAULT)
        return -EINVAL;
    struct net_switch *s = aligned_alloc(64, (sizeof *s + 63) / 64 * 64);
    if (!s) return -ENOMEM;
    memset(s, 0, sizeof *s);
    s->config = *c;
    epoch_init(&s->epoch);
    change_init(&s->log);
    pthread_mutex_init(&s->threads_lock, NULL);
    list_init(&s->threads);
    thread_sink_init(s);
    *out = s;
    return 0;
}

void switch_free(struct net_switch *s)
{
    if (!s) return;
    assert(list_empty(&s->threads));
    for (unsigned i = 0; i < SWITCH_BRIDGES_MAX; i++) {
        struct bridge *b = atomic_load(&s->bridges[i]);
        if (b) bridge_free(b);
    }
    epoch_destroy(&s->epoch);
    free(atomic_load(&s->packet_in));
    change_destroy(&s->log);
    pthread_mutex_destroy(&s->threads_lock);
    free(s);
}

const struct runner_sink *switch_sink(struct net_switch *s)
{
    return &s->sink;
}

void switch_barrier(struct net_switch *s)
{
    epoch_wait(&s->epoch);
}

static void handler_free(struct epoch_node *n)
{
    free(container_of(n, struct packet_in_handler, retired));
}

void switch_on_packet_in(struct net_switch *s, void (*received)(void *arg, const struct packet_in *in), void *arg)
{
    struct packet_in_handler *h = received ? malloc(sizeof *h) : NULL;
    if (received && !h) return;
    if (h) *h = (struct packet_in_handler){.received = received, .arg = arg};
    struct packet_in_handler *old = atomic_exchange(&s->packet_in, h);
    if (old) epoch_retire(&s->epoch, &old->retired, handler_free);
}

/* ---- bridges ---- */

/* Standalone: table 0 has one flow, NORMAL for everything. */
static int add_normal(struct bridge *b, struct errmsg *e)
{
    struct action normal = {.type = ACTION_OUTPUT, .output = {.port = SWITCH_PORT_NORMAL}};
    struct flow_spec f = {.out_port = SWITCH_PORT_ANY,
                          .out_group = SWITCH_PORT_ANY,
                          .instructions = {.has_apply = true, .apply = {.count = 1, .list = &normal}}};
    return bridge_flow_add(b, &f, NULL, e);
}

int bridge_new(struct bridge **out, struct net_switch *s, const char *name, enum bridge_fail fail, struct errmsg *e)
{
    unsigned i = 0;
    if (bridge_find(s, name)) return errmsg_set(e, EEXIST, "there is a bridge named %s", name);
    if (!*name || strlen(name) >= PORT_NAME_BYTES)
        return errmsg_set(e, EINVAL, "a bridge's name has 1 to %u characters", PORT_NAME_BYTES - 1);
    while (i < SWITCH_BRIDGES_MAX && atomic_load(&s->bridges[i]))
        i++;
    if (i == SWITCH_BRIDGES_MAX) return errmsg_set(e, ENOSPC, "there are %u bridges", SWITCH_BRIDGES_MAX);
    struct bridge *b = calloc(1, sizeof *b);
    struct mac_table *macs = mac_new(MAC_ENTRIES_DEFAULT);
    if (!b || !macs) {
        free(b);
        mac_free(macs);
        return errmsg_set(e, ENOMEM, "no memory for a bridge");
    }
    b->sw = s;
    b->index = (uint16_t)i;
    b->mac_ageing_s = MAC_AGEING_S_DEFAULT;
    strcpy(b->name, name);
    atomic_init(&b->macs, macs);
    for (unsigned t = 0; t < SWITCH_TABLES; t++)
        table_init(&b->tables[t]);
    list_init(&b->timed);
    atomic_store(&s->bridges[i], b);
    int ret = fail == BRIDGE_STANDALONE ? add_normal(b, e) : 0;
    if (ret) bridge_free(b);
    else *out = b;
    return ret;
}

void bridge_free(struct bridge *b)
{
    if (!b) return;
    struct net_switch *s = b->sw;
    struct port_map *m = atomic_load(&b->ports);
    assert(!m || m->count == 0);
    atomic_store(&s->bridges[b->index], NULL);
    epoch_wait(&s->epoch);
    for (unsigned t = 0; t < SWITCH_TABLES; t++)
        table_destroy(&b->tables[t]);
    mac_free(atomic_load(&b->macs));
    free(m);
    free(b);
}

uint16_t bridge_number(const struct bridge *b)
{
    return b->index;
}

struct bridge *bridge_find(struct net_switch *s, const char *name)
{
    for (unsigned i = 0; i < SWITCH_BRIDGES_MAX; i++) {
        struct bridge *b = atomic_load(&s->bridges[i]);
        if (b && strcmp(b->name, name) == 0) return b;
    }
    return NULL;
}

/* ---- addresses ---- */

static void macs_free(struct epoch_node *n)
{
    mac_free(container_of(n, struct mac_table, retired));
}

void bridge_set_mac_ageing(struct bridge *b, unsigned seconds, unsigned max_entries)
{
    struct mac_table *old = atomic_load(&b->macs);
    b->mac_ageing_s = seconds;
    if (max_entries < MAC_ENTRIES_LEAST) max_entries = MAC_ENTRIES_LEAST;
    if (max_entries > MAC_ENTRIES_MOST) max_entries = MAC_ENTRIES_MOST;
    if (max_entries == old->max) return;
    struct mac_table *t = mac_new(max_entries);
    if (!t) return; /* it stays as large as it was */
    atomic_store_explicit(&b->macs, t, memory_order_release);
    epoch_retire(&b->sw->epoch, &old->retired, macs_free);
    change_bridge(&b->sw->log, b->index);
}

static void mac_gone(void *arg, uint64_t key)
{
    struct bridge *b = arg;
    change_mac(&b->sw->log, b->index, key);
}

void bridge_mac_flush(struct bridge *b)
{
    mac_remove(atomic_load(&b->macs), UINT32_MAX, 0, NULL, NULL);
    change_bridge(&b->sw->log, b->index);
}

void bridge_age_macs(struct bridge *b, uint64_t now_ns)
{
    uint64_t now_s = now_ns / NS_PER_SECOND;
    if (b->mac_ageing_s == 0 || now_s < b->mac_ageing_s) return;
    mac_remove(atomic_load(&b->macs), (uint32_t)(now_s - b->mac_ageing_s), 0, mac_gone, b);
}

struct mac_visit {
    void (*visit)(void *arg, const struct mac_info *m);
    void *arg;
    uint64_t now_s;
};

static void visit_mac(void *arg, uint64_t key, uint32_t port, uint32_t used_s)
{
    struct mac_visit *v = arg;
    struct mac_info m = {.vlan = mac_key_vlan(key), .port = port};
    m.age_s = v->now_s > used_s ? (unsigned)(v->now_s - used_s) : 0;
    mac_key_address(key, m.mac);
    v->visit(v->arg, &m);
}

void bridge_mac_each(struct bridge *b, void (*visit)(void *arg, const struct mac_info *m), void *arg)
{
    struct mac_visit v = {visit, arg, clock_now_ns() / NS_PER_SECOND};
    mac_each(atomic_load(&b->macs), visit_mac, &v);
}

/* ---- ports ---- */

static void map_free(struct epoch_node *n)
{
    free(container_of(n, struct port_map, retired));
}

/* Publish the ports with one more or less (either may be NULL). */
static int remap(struct bridge *b, struct switch_port *more, const struct switch_port *less)
{
    struct port_map *old = atomic_load(&b->ports);
    unsigned count = old ? old->count : 0;
    struct port_map *m = malloc(sizeof *m + (count + 1) * sizeof m->ports[0]);
    if (!m) return -ENOMEM;
    m->count = 0;
    for (unsigned i = 0; i < count; i++) {
        if (more && more->number < old->ports[i]->number) {
            m->ports[m->count++] = more;
            more = NULL;
        }
        if (old->ports[i] != less) m->ports[m->count++] = old->ports[i];
    }
    if (more) m->ports[m->count++] = more;
    atomic_store_explicit(&b->ports, m, memory_order_release);
    if (old) epoch_retire(&b->sw->epoch, &old->retired, map_free);
    change_bridge(&b->sw->log, b->index);
    return 0;
}

static uint32_t free_number(const struct bridge *b)
{
    const struct port_map *m = atomic_load(&b->ports);
    uint32_t number = 1;
    for (unsigned i = 0; m && i < m->count && m->ports[i]->number <= number; i++)
        number = m->ports[i]->number + 1;
    return number;
}

static struct port_settings *settings_new(const struct switch_port_config *c)
{
    struct port_settings *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    uint64_t any = 0;
    for (unsigned i = 0; c && i < ARRAY_LEN(c->trunks); i++)
        any |= c->trunks[i];
    if (c) p->c = *c;
    p->c.tag &= 0xfff;
    p->all_trunks = any == 0;
    return p;
}

static int number_for(const struct bridge *b, uint32_t *number, struct errmsg *e)
{
    if (*number == 0) *number = free_number(b);
    if (*number >= SWITCH_PORT_MAX && *number != SWITCH_PORT_LOCAL)
        return errmsg_set(e, EINVAL, "%u is no port number", *number);
    if (bridge_find_port(b, *number)) return errmsg_set(e, EEXIST, "%s has a port %u", b->name, *number);
    return 0;
}

int bridge_add_port(struct bridge *b, struct port *p, uint32_t number, const struct switch_port_config *c,
                    struct switch_port **out, struct errmsg *e)
{
    struct net_switch *s = b->sw;
    int ret = number_for(b, &number, e);
    if (ret) return ret;
    if (s->port_count == SWITCH_PORTS_MAX) return errmsg_set(e, ENOSPC, "there are %u ports", SWITCH_PORTS_MAX);
    struct switch_port *sp = calloc(1, sizeof *sp);
    struct port_settings *settings = settings_new(c);
    if (!sp || !settings) goto no_memory;
    *sp = (struct switch_port){.bridge = b, .port = p, .number = number};
    struct flow_key k = {.in_port = be32_make(number), .bridge = b->index};
    sp->word = k.words[0];
    sp->changes = &s->log.bridges[b->index];
    atomic_init(&sp->settings, settings);
    if (remap(b, sp, NULL)) goto no_memory;
    s->port_count++;
    atomic_store_explicit(&p->switch_port, sp, memory_order_release);
    *out = sp;
    return 0;
no_memory:
    free(settings);
    free(sp);
    return errmsg_set(e, ENOMEM, "no memory for a port");
}

static void forget(void *arg, struct switch_thread *t)
{
    const struct switch_port *sp = arg;
    cache_forget_port(&t->cache, sp->word);
}

void bridge_remove_port(struct switch_port *sp)
{
    if (!sp) return;
    struct bridge *b = sp->bridge;
    atomic_store_explicit(&sp->port->switch_port, NULL, memory_order_release);
    while (remap(b, NULL, sp)) /* it cannot stay: make room by giving back what waits */
        epoch_wait(&b->sw->epoch);
    epoch_wait(&b->sw->epoch);
    thread_each(b->sw, forget, sp);
    mac_remove(atomic_load(&b->macs), UINT32_MAX, sp->number, mac_gone, b);
    b->sw->port_count--;
    free(atomic_load(&sp->settings));
    free(sp);
}

static void settings_free(struct epoch_node *n)
{
    free(container_of(n, struct port_settings, retired));
}

void switch_port_set(struct switch_port *sp, const struct switch_port_config *c)
{
    struct epoch *epoch = &sp->bridge->sw->epoch;
    struct port_settings *p;
    while (!(p = settings_new(c)))
        epoch_wait(epoch);
    struct port_settings *old = atomic_load(&sp->settings);
    atomic_store_explicit(&sp->settings, p, memory_order_release);
    epoch_retire(epoch, &old->retired, settings_free);
    change_bridge(&sp->bridge->sw->log, sp->bridge->index);
}

uint32_t switch_port_number(const struct switch_port *sp)
{
    return sp->number;
}

struct switch_port *bridge_port(struct bridge *b, uint32_t number)
{
    return bridge_find_port(b, number);
}
