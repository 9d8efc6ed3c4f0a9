/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NORMAL: what a learning bridge does (IEEE 802.1Q, as far as it goes without spanning tree).
 *
 * The packet's VLAN is that of its tag, or of its port when it has none (or one with number 0). It goes to the ports that are in
 * that VLAN, each with or without the tag as the port has it.
 */
#include "switch/translate_internal.h"

#include "base/bitmap.h"

static bool is_multicast(const uint8_t *mac)
{
    return mac[0] & 1;
}

/* 01:80:c2:00:00:0X: for the neighbour only, never forwarded. */
static bool is_reserved(const uint8_t *mac)
{
    static const uint8_t prefix[5] = {0x01, 0x80, 0xc2, 0, 0};
    return memcmp(mac, prefix, sizeof prefix) == 0 && mac[5] < 0x10;
}

static bool carries(const struct port_settings *s, uint16_t vlan)
{
    bool own = s->c.vlan_mode != VLAN_TRUNK && vlan == s->c.tag;
    if (s->c.vlan_mode == VLAN_ACCESS) return own;
    return own || s->all_trunks || bitmap_test(s->c.trunks, vlan);
}

static bool wants_tag(const struct port_settings *s, uint16_t vlan)
{
    if (vlan == 0 || s->c.vlan_mode == VLAN_ACCESS) return false;
    return !(s->c.vlan_mode == VLAN_NATIVE_UNTAGGED && vlan == s->c.tag);
}

/* False: it may not come in like that. */
static bool vlan_in(const struct port_settings *s, uint16_t tci, uint16_t *vlan)
{
    *vlan = tci & 0xfff;
    if (!(tci & FLOW_VLAN_PRESENT) || *vlan == 0) {
        *vlan = s->c.vlan_mode == VLAN_TRUNK ? 0 : s->c.tag;
        return carries(s, *vlan);
    }
    return s->c.vlan_mode != VLAN_ACCESS && carries(s, *vlan);
}

/* A tag with number 0 before another tag. Where the outer one is taken off again, the inner one would come into force: whoever
 * may only send to one VLAN could choose another. */
static bool hides_a_tag(struct walk *w)
{
    uint16_t tci = be16_get(w->key.vlan[0].tci), type = be16_get(w->key.eth_type);
    if (!(tci & FLOW_VLAN_PRESENT) || (tci & 0xfff)) return false;
    struct be16 *inner = &seen(w)->vlan[1].tci;
    *inner = be16_make(be16_get(*inner) | FLOW_VLAN_PRESENT);
    return (be16_get(w->key.vlan[1].tci) & FLOW_VLAN_PRESENT) || type == 0x8100 || type == 0x88a8 || type == 0x9100;
}

static void learn(struct walk *w, uint64_t key, uint32_t port)
{
    struct mac_table *macs = atomic_load_explicit(&w->r->bridge->macs, memory_order_acquire);
    w->out->refresh = true;
    if (!w->r->learn) return;
    if (mac_lookup(macs, key) == port) {
        mac_refresh(macs, key, port, w->r->now_s);
        return;
    }
    uint64_t evicted;
    struct change_log *log = &w->r->bridge->sw->log;
    if (mac_learn(macs, key, port, w->r->now_s, &evicted)) change_mac(log, w->r->bridge->index, key);
    if (evicted) change_mac(log, w->r->bridge->index, evicted);
}

/* From the packet as it is to one with or without the VLAN's tag, and back. */
struct retag {
    bool pop, push;
    uint16_t type, tci;
};

static void emit_retag(struct walk *w, const struct retag *t)
{
    if (t->pop && !walk_emit(w, DP_POP_VLAN)) return;
    if (!t->push) return;
    struct dp_action *a = walk_emit(w, DP_PUSH_VLAN);
    if (!a) return;
    a->eth_type = t->type;
    a->entry = t->tci;
}

static void retag_for(struct walk *w, bool tag, uint16_t vlan, struct retag *there, struct retag *back)
{
    uint16_t tci = be16_get(w->key.vlan[0].tci);
    bool has = tci & FLOW_VLAN_PRESENT, right = has && (tci & 0xfff) == vlan;
    *there = *back = (struct retag){0};
    if (tag ? right : !has) return;
    there->pop = back->push = has;
    there->push = back->pop = tag;
    there->type = 0x8100;
    there->tci = (uint16_t)((tci & 0xe000) | FLOW_VLAN_PRESENT | vlan);
    back->type = be16_get(w->key.vlan[0].tpid);
    back->tci = tci;
}

/* To all of those that want it with the tag, or without. */
static void flood(struct walk *w, uint16_t vlan, uint32_t in_port, bool tag)
{
    const struct port_map *m = atomic_load_explicit(&w->r->bridge->ports, memory_order_acquire);
    struct retag there, back;
    retag_for(w, tag, vlan, &there, &back);
    bool ready = false;
    for (unsigned i = 0; m && i < m->count && !w->stop; i++) {
        struct switch_port *sp = m->ports[i];
        const struct port_settings *s = port_settings(sp);
        if (sp->number == in_port || s->c.no_flood || !carries(s, vlan) || wants_tag(s, vlan) != tag) continue;
        if (!ready) emit_retag(w, &there);
        ready = true;
        walk_output(w, sp);
    }
    if (ready) emit_retag(w, &back);
}

static void forward(struct walk *w, uint16_t vlan, struct switch_port *sp)
{
    const struct port_settings *s = port_settings(sp);
    struct retag there, back;
    if (!carries(s, vlan)) return;
    retag_for(w, wants_tag(s, vlan), vlan, &there, &back);
    emit_retag(w, &there);
    walk_output(w, sp);
    emit_retag(w, &back);
}

void walk_normal(struct walk *w)
{
    struct flow_key *m = seen(w), *k = &w->key;
    uint32_t in_port = be32_get(k->in_port);
    struct switch_port *in = bridge_find_port(w->r->bridge, in_port);
    if (walk_refuses(w)) return; /* it would learn where the packet may not have been */
    memset(m->eth_src, 0xff, sizeof m->eth_src);
    memset(m->eth_dst, 0xff, sizeof m->eth_dst);
    memset(&m->vlan[0], 0xff, sizeof m->vlan[0]);
    uint16_t vlan = be16_get(k->vlan[0].tci) & 0xfff;
    bool ours = !in && w->r->actions; /* a controller sends it from no port: into any VLAN */
    if ((!in && !ours) || is_reserved(k->eth_dst) || hides_a_tag(w) ||
        (in && !vlan_in(port_settings(in), be16_get(k->vlan[0].tci), &vlan))) {
        walk_trace(w, "NORMAL: drop");
        return;
    }
    struct change_deps *d = &w->out->deps;
    if (d->mac) d->modified = w->out->once = true; /* twice: its dependencies do not fit */
    d->mac = true;
    d->mac_src = mac_key(vlan, k->eth_src);
    d->mac_dst = mac_key(vlan, k->eth_dst);
    if (in && !is_multicast(k->eth_src)) learn(w, d->mac_src, in_port);
    uint32_t port = is_multicast(k->eth_dst)
                        ? 0
                        : mac_lookup(atomic_load_explicit(&w->r->bridge->macs, memory_order_acquire), d->mac_dst);
    struct switch_port *to = port ? bridge_find_port(w->r->bridge, port) : NULL;
    walk_trace(w, "NORMAL: VLAN %u, to %s", vlan, to ? to->port->name : "all ports");
    if (!to) {
        flood(w, vlan, in_port, false);
        flood(w, vlan, in_port, true);
    } else if (port != in_port) {
        forward(w, vlan, to);
    }
}
