/* SPDX-License-Identifier: Apache-2.0 */
/* Switches, bridges and ports: who is there. Flows are flows.c's, packets thread.c's. */
#include <errno.h>
#include <stdlib.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "loop/clock.h"
#include "switch/group_internal.h"
#include "switch/meter_internal.h"
#include "switch/thread.h"

void switch_config_default(struct switch_config *c)
{
    *c = (struct switch_config){.flows = SWITCH_FLOWS_MEGA,
                                .exact_max = 65536,
                                .megaflows_max = 200000,
                                .masks_max = 64,
                                .emc_entries = 8192,
                                .new_flows_ns = QUOTA_ROUND_NS};
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
    packet_out_free(s->packet_out);
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
    struct flow_spec f = {.cookie = SWITCH_COOKIE_OWN,
                          .out_port = SWITCH_PORT_ANY,
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
    for (unsigned j = 0; j < BRIDGE_REFER_LISTS; j++)
        list_init(&b->refer_to[j]);
    list_init(&b->refer_to_several);
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
    groups_destroy(b);
    meters_destroy(b);
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

void bridge_forget_macs(struct bridge *b, uint32_t port)
{
    mac_remove(atomic_load(&b->macs), UINT32_MAX, port, mac_gone, b);
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
