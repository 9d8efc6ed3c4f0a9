/* SPDX-License-Identifier: Apache-2.0 */
/* A bridge's ports: who is there, how they are set, and telling of it. */
#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "switch/thread.h"

#define CONFIG_ALL (PORT_CONFIG_DOWN | PORT_CONFIG_NO_RECV | PORT_CONFIG_NO_FWD | PORT_CONFIG_NO_PACKET_IN)

/* ---- what is told of one ---- */

static bool link_of(struct port *p)
{
    return !p->ops->link_up || p->ops->link_up(p);
}

/* Of a port that has none of its own: always the same, locally administered, from its bridge's name and its number. */
static void make_mac(const struct switch_port *sp, uint8_t mac[6])
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (const char *c = sp->bridge->name; *c; c++)
        h = (h ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
    h = (h ^ sp->number) * UINT64_C(0x9e3779b97f4a7c15);
    h ^= h >> 32;
    mac[0] = 0x02;
    for (unsigned i = 1; i < 6; i++)
        mac[i] = (uint8_t)(h >> 8 * i);
}

static struct switch_port_info info_of(struct switch_port *sp)
{
    uint32_t config = port_settings(sp)->config;
    bool link = atomic_load_explicit(&sp->link, memory_order_relaxed);
    struct switch_port_info i = {.sp = sp,
                                 .number = sp->number,
                                 .name = sp->port->name,
                                 .config = config,
                                 .state = link ? 0 : PORT_STATE_LINK_DOWN,
                                 .port = sp->port,
                                 .duration_ns = clock_now_ns() - sp->created_ns};
    if (switch_port_is_live(sp)) i.state |= PORT_STATE_LIVE;
    if (!sp->port->ops->mac || !sp->port->ops->mac(sp->port, i.mac)) make_mac(sp, i.mac);
    return i;
}

static void tell(struct switch_port *sp, enum port_event what)
{
    struct bridge *b = sp->bridge;
    if (!b->on_port) return;
    struct switch_port_info i = info_of(sp);
    b->on_port(b->on_port_arg, what, &i);
}

void bridge_on_port(struct bridge *b, void (*event)(void *arg, enum port_event what, const struct switch_port_info *p),
                    void *arg)
{
    b->on_port = event;
    b->on_port_arg = arg;
}

void bridge_port_each(struct bridge *b, void (*visit)(void *arg, const struct switch_port_info *p), void *arg)
{
    const struct port_map *m = atomic_load(&b->ports);
    for (unsigned i = 0; m && i < m->count; i++) {
        struct switch_port_info info = info_of(m->ports[i]);
        visit(arg, &info);
    }
}

/* Choices that were made by a link are made anew before anybody is told. */
void bridge_look_at_links(struct bridge *b)
{
    const struct port_map *m = atomic_load(&b->ports);
    bool changed = false;
    for (unsigned i = 0; m && i < m->count; i++) {
        struct switch_port *sp = m->ports[i];
        bool link = link_of(sp->port);
        sp->link_changed = link != atomic_load_explicit(&sp->link, memory_order_relaxed);
        atomic_store_explicit(&sp->link, link, memory_order_release);
        changed |= sp->link_changed;
    }
    if (!changed) return;
    change_bridge(&b->sw->log, b->index);
    for (unsigned i = 0; i < m->count; i++)
        if (m->ports[i]->link_changed) tell(m->ports[i], PORT_EVENT_MODIFY);
}

/* ---- coming and going ---- */

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

static struct port_settings *settings_new(const struct switch_port_config *c, uint32_t config)
{
    struct port_settings *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    uint64_t any = 0;
    for (unsigned i = 0; c && i < ARRAY_LEN(c->trunks); i++)
        any |= c->trunks[i];
    if (c) p->c = *c;
    p->c.tag &= 0xfff;
    p->config = config;
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
    struct port_settings *settings = settings_new(c, 0);
    if (!sp || !settings) goto no_memory;
    *sp = (struct switch_port){.bridge = b, .port = p, .number = number, .created_ns = clock_now_ns()};
    struct flow_key k = {.in_port = be32_make(number), .bridge = b->index};
    sp->word = k.words[0];
    sp->changes = &s->log.bridges[b->index];
    atomic_init(&sp->settings, settings);
    atomic_init(&sp->link, link_of(p));
    if (remap(b, sp, NULL)) goto no_memory;
    s->port_count++;
    atomic_store_explicit(&p->switch_port, sp, memory_order_release);
    *out = sp;
    tell(sp, PORT_EVENT_ADD);
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
    bridge_forget_macs(b, sp->number);
    b->sw->port_count--;
    tell(sp, PORT_EVENT_DELETE);
    free(atomic_load(&sp->settings));
    free(sp);
}

static void settings_free(struct epoch_node *n)
{
    free(container_of(n, struct port_settings, retired));
}

static void put_settings(struct switch_port *sp, const struct switch_port_config *c, uint32_t config)
{
    struct epoch *epoch = &sp->bridge->sw->epoch;
    struct port_settings *p;
    while (!(p = settings_new(c, config)))
        epoch_wait(epoch);
    struct port_settings *old = atomic_load(&sp->settings);
    atomic_store_explicit(&sp->settings, p, memory_order_release);
    epoch_retire(epoch, &old->retired, settings_free);
    change_bridge(&sp->bridge->sw->log, sp->bridge->index);
}

void switch_port_set(struct switch_port *sp, const struct switch_port_config *c)
{
    put_settings(sp, c, port_settings(sp)->config);
}

void switch_port_set_config(struct switch_port *sp, uint32_t config, uint32_t mask)
{
    const struct port_settings *old = port_settings(sp);
    mask &= CONFIG_ALL;
    config = (old->config & ~mask) | (config & mask);
    if (config == old->config) return;
    put_settings(sp, &old->c, config);
    tell(sp, PORT_EVENT_MODIFY);
}

uint32_t switch_port_number(const struct switch_port *sp)
{
    return sp->number;
}

struct switch_port *bridge_port(struct bridge *b, uint32_t number)
{
    return bridge_find_port(b, number);
}
