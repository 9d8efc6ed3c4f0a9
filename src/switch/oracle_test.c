/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random flows, random frames, random changes. What leaves the switch, caches and all, is what the naive interpreter says;
 * and no bit that a translation's mask leaves out has an influence on what it says. Of frames that are looked up again, after a label or a
 * tag is off, and of those that choose a bucket, every bit is flipped on the way to the switch: whatever megaflows there are, the flipped one fares as the interpreter says.
 *
 * CREEDENCE_ORACLE_S: seconds to go on for, with the seeds that follow (default: a few rounds at fixed seeds).
 * CREEDENCE_ORACLE_SEED: the seed to begin with; without the above only that one.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "switch/extract.h"
#include "switch/group_internal.h"
#include "switch/meter.h"
#include "switch/naive.h"
#include "switch/oracle_counts.h"
#include "switch/oracle_frame.h"
#include "switch/test_rig.h"
#include "switch/translate.h"

#define PORTS 5u
#define TABLES 4u
#define ROUND_STEPS 1500u
#ifdef CREEDENCE_SANITIZED
#define ROUNDS 12u
#else
#define ROUNDS 100u
#endif

static uint64_t seed;
static bool openings; /* in this round most frames come with labels or I-TAGs, which are taken off */

static unsigned rnd(unsigned below)
{
    return oracle_random(&seed, below);
}

/* ---- flows ---- */

static void want(struct flow_match *m, enum field_id id, uint64_t value)
{
    field_set(&m->key, id, field_value_of(value));
    field_set(&m->mask, id, field_all_ones(id));
}

static void want_masked(struct flow_match *m, enum field_id id, uint64_t value, uint64_t mask)
{
    field_set_masked(&m->key, id, field_value_of(value & mask), field_value_of(mask));
    field_set_masked(&m->mask, id, field_value_of(mask), field_value_of(mask));
}

static uint64_t random_mask32(void)
{
    if (rnd(4) == 0) return (uint64_t)rnd(65536) << 16 | rnd(65536);
    unsigned length = rnd(33);
    return length ? UINT32_MAX << (32 - length) & UINT32_MAX : 0;
}

static uint64_t random_ip(void)
{
    return 10u << 24 | rnd(2) << 8 | (rnd(2) ? rnd(4) : 128 + rnd(4));
}

static void match_nd(struct flow_match *m)
{
    bool asks = rnd(2);
    struct field_value target = {{0xfd, [15] = (uint8_t)rnd(3)}};
    want(m, FIELD_ICMPV6_TYPE, asks ? 135 : 136);
    if (rnd(2)) want(m, FIELD_ICMPV6_CODE, 0);
    if (rnd(2)) want_masked(m, asks ? FIELD_ND_SLL : FIELD_ND_TLL, UINT64_C(0x020000000000) | rnd(3), 3);
    if (rnd(2)) return;
    field_set(&m->key, FIELD_ND_TARGET, target);
    field_set(&m->mask, FIELD_ND_TARGET, field_all_ones(FIELD_ND_TARGET));
}

static void match_l4(struct flow_match *m, bool six)
{
    switch (six && rnd(4) == 0 ? 2 : rnd(6)) {
    case 0:
        want(m, FIELD_IP_PROTO, 6);
        if (rnd(2)) want(m, FIELD_TCP_DST, 80 + rnd(4));
        if (rnd(3) == 0) want_masked(m, FIELD_TCP_SRC, 1000 + rnd(4), 0xfffe);
        if (rnd(3) == 0) want_masked(m, FIELD_TCP_FLAGS, 2, 2);
        break;
    case 1:
        want(m, FIELD_IP_PROTO, 17);
        if (rnd(2)) want(m, FIELD_UDP_DST, 80 + rnd(4));
        if (rnd(3) == 0) want_masked(m, FIELD_UDP_DST, 80 + rnd(4), 0xfffc | rnd(4));
        break;
    case 2:
        want(m, FIELD_IP_PROTO, six ? 58 : 1);
        if (six && rnd(4)) match_nd(m);
        else if (rnd(2)) want(m, six ? FIELD_ICMPV6_TYPE : FIELD_ICMPV4_TYPE, rnd(2) * 8);
        break;
    case 3:
        want(m, FIELD_IP_PROTO, 132);
        if (rnd(2)) want(m, FIELD_SCTP_DST, 80 + rnd(4));
        if (rnd(3) == 0) want_masked(m, FIELD_SCTP_SRC, 1000 + rnd(4), 0xfffe);
        break;
    case 4: want(m, FIELD_IP_PROTO, rnd(2) ? 0 : 44); break;
    default: break;
    }
}

static void match_ip(struct flow_match *m)
{
    bool six = rnd(5) < 2;
    want(m, FIELD_ETH_TYPE, six ? 0x86dd : 0x0800);
    if (six) {
        if (rnd(2)) {
            struct field_value v = {{0xfd, [15] = (uint8_t)rnd(3)}};
            field_set(&m->key, FIELD_IPV6_DST, v);
            field_set(&m->mask, FIELD_IPV6_DST, field_all_ones(FIELD_IPV6_DST));
        }
        if (rnd(4) == 0) want_masked(m, FIELD_IPV6_EXTHDR, rnd(512), 1u << rnd(9));
        if (rnd(6) == 0) want(m, FIELD_IPV6_FLABEL, rnd(2));
    } else {
        if (rnd(2)) want_masked(m, FIELD_IPV4_SRC, random_ip(), random_mask32());
        if (rnd(2)) want_masked(m, FIELD_IPV4_DST, random_ip(), random_mask32());
    }
    if (rnd(6) == 0) want(m, FIELD_IP_DSCP, rnd(3));
    if (rnd(6) == 0) want_masked(m, FIELD_IP_FRAG, rnd(4), 1 + rnd(3));
    if (rnd(6) == 0) want(m, FIELD_IP_TTL, rnd(2) ? 63 : rnd(3));
    match_l4(m, six);
}

static void match_mpls(struct flow_match *m)
{
    want(m, FIELD_ETH_TYPE, rnd(4) ? 0x8847 : 0x8848);
    if (rnd(3) == 0) want(m, FIELD_MPLS_LABEL, rnd(2) * 16);
    if (rnd(3) == 0) want(m, FIELD_MPLS_TC, rnd(3));
    if (rnd(3) == 0) want(m, FIELD_MPLS_BOS, rnd(2));
}

static void random_match(struct flow_match *m)
{
    memset(m, 0, sizeof *m);
    if (rnd(4) == 0) want(m, FIELD_IN_PORT, 1 + rnd(PORTS));
    if (rnd(4) == 0)
        want_masked(m, FIELD_ETH_DST, UINT64_C(0x020000000000) | rnd(4), rnd(2) ? UINT64_C(0xffffffffffff) : 3);
    if (rnd(6) == 0) want(m, FIELD_ETH_SRC, UINT64_C(0x020000000000) | rnd(4));
    if (rnd(6) == 0) want_masked(m, FIELD_VLAN_VID, rnd(2) * FLOW_VLAN_PRESENT, FLOW_VLAN_PRESENT);
    if (rnd(6) == 0) want(m, FIELD_VLAN_VID, FLOW_VLAN_PRESENT | rnd(4));
    if (rnd(6) == 0) want_masked(m, FIELD_METADATA, rnd(4), 1 + rnd(3));
    if (rnd(6) == 0) want_masked(m, FIELD_REG0, rnd(4), 1 + rnd(3));
    unsigned kind = rnd(10);
    if (kind < 6) match_ip(m);
    if (kind == 7) match_mpls(m);
    if (kind == 8) {
        want(m, FIELD_ETH_TYPE, 0x88e7);
        if (rnd(2)) want_masked(m, FIELD_PBB_ISID, rnd(3), 3);
    }
    if (kind == 6) {
        want(m, FIELD_ETH_TYPE, 0x0806);
        if (rnd(2)) want(m, FIELD_ARP_OP, 1 + rnd(2));
        if (rnd(2)) want_masked(m, FIELD_ARP_SPA, random_ip(), random_mask32());
    }
}

static struct action set_action(enum field_id id, uint64_t value, uint64_t mask)
{
    struct action a = {.type = ACTION_SET_FIELD, .set = {.field = (uint8_t)id, .value = field_value_of(value & mask)}};
    a.set.mask = mask == UINT64_MAX ? field_all_ones(id) : field_value_of(mask);
    return a;
}

/* Of labels and I-TAGs. */
static struct action random_shim(bool apply)
{
    static const uint16_t after[] = {0x0800, 0x0800, 0x86dd, 0x8847, 0x8848, 0x0806, 0x1234};
    switch (rnd(12)) {
    case 0: return (struct action){.type = ACTION_PUSH_MPLS, .eth_type = rnd(4) ? 0x8847 : 0x8848};
    case 1:
    case 2:
    case 3: return (struct action){.type = ACTION_POP_MPLS, .eth_type = after[rnd(7)]};
    case 4: return (struct action){.type = ACTION_PUSH_PBB, .eth_type = 0x88e7};
    case 5:
    case 6: return (struct action){.type = ACTION_POP_PBB};
    case 7: return (struct action){.type = rnd(2) ? ACTION_COPY_TTL_OUT : ACTION_COPY_TTL_IN};
    case 8: return (struct action){.type = ACTION_DEC_MPLS_TTL};
    case 9:
        if (!apply) break;
        return (struct action){.type = rnd(2) ? ACTION_SET_MPLS_TTL : ACTION_SET_NW_TTL, .ttl = (uint8_t)rnd(3)};
    case 10: return set_action(FIELD_PBB_ISID, rnd(3), UINT64_MAX);
    default: break;
    }
    return rnd(2) ? set_action(FIELD_MPLS_LABEL, rnd(2) * 16, UINT64_MAX)
                  : set_action(FIELD_MPLS_TC, rnd(3), UINT64_MAX);
}

static struct action random_action(uint8_t table, bool apply)
{
    static const uint32_t special[] = {SWITCH_PORT_IN_PORT, SWITCH_PORT_ALL, SWITCH_PORT_FLOOD};
    if (rnd(6) == 0) return random_shim(apply);
    switch (rnd(17)) {
    case 0: return set_action(FIELD_ETH_DST, UINT64_C(0x020000000000) | rnd(4), UINT64_MAX);
    case 1: return set_action(FIELD_IPV4_DST, random_ip(), apply && rnd(2) ? 255 : UINT64_MAX);
    case 2: return set_action(rnd(4) ? FIELD_TCP_DST : FIELD_SCTP_DST, 80 + rnd(4), UINT64_MAX);
    case 3: return set_action(FIELD_UDP_SRC, 1000 + rnd(4), UINT64_MAX);
    case 4: return set_action(FIELD_REG0, rnd(4), apply && rnd(2) ? 1 + rnd(3) : UINT64_MAX);
    case 5: return (struct action){.type = ACTION_PUSH_VLAN, .eth_type = 0x8100};
    case 6: return (struct action){.type = ACTION_POP_VLAN};
    case 7: return (struct action){.type = ACTION_DEC_NW_TTL};
    case 8: return set_action(FIELD_VLAN_VID, FLOW_VLAN_PRESENT | rnd(4), UINT64_MAX);
    case 9: return set_action(FIELD_IP_DSCP, rnd(3), UINT64_MAX);
    case 10:
        if (!apply) break;
        if (rnd(3) == 0) { /* into a tag, over its presence, too */
            enum field_id to = rnd(2) ? FIELD_VLAN_TCI : FIELD_VLAN_VID;
            unsigned bits = 13 + (to == FIELD_VLAN_TCI) * rnd(4), from = rnd(2) ? FIELD_ETH_SRC : FIELD_REG0;
            return (struct action){.type = ACTION_MOVE,
                                   .move = {.from = (uint8_t)from, .to = (uint8_t)to, .bits = (uint8_t)bits}};
        }
        return (struct action){.type = ACTION_MOVE,
                               .move = {.from = FIELD_ETH_SRC, .to = FIELD_REG0, .bits = 2, .to_bit = (uint8_t)rnd(2)}};
    case 11:
        if (!apply || table + 1u >= TABLES) break;
        return (struct action){
            .type = ACTION_RESUBMIT,
            .resubmit = {.port = rnd(3) ? SWITCH_PORT_IN_PORT : 1 + rnd(PORTS), .table = (uint8_t)(table + 1)}};
    case 12: /* seldom: what is left has little more to look at */
        if (rnd(3)) break;
        return rnd(2) ? set_action(FIELD_ETH_TYPE, 0x1234, UINT64_MAX) : set_action(FIELD_IP_PROTO, 47, UINT64_MAX);
    case 13: return (struct action){.type = ACTION_GROUP, .group = 1 + rnd(NAIVE_GROUPS - 1)};
    default: break;
    }
    return (struct action){.type = ACTION_OUTPUT, .output = {.port = rnd(5) ? 1 + rnd(PORTS + 1) : special[rnd(3)]}};
}

#define LIST 6u

/* Those that flow_check() likes where they stand. */
static void random_actions(struct flow_spec *f, struct action_list *l, bool *has, unsigned tries)
{
    struct errmsg e;
    for (; tries > 0; tries--) {
        l->list[l->count++] = random_action(f->table, has == &f->instructions.has_apply);
        *has = true;
        if (flow_check(f, &e)) l->count--;
        *has = l->count > 0;
    }
}

/* In table 0: off with the outer header, and on with what is inside. */
static void opening_flow(struct flow_spec *f, struct action *room)
{
    bool label = rnd(3);
    struct instructions *i = &f->instructions;
    memset(f, 0, sizeof *f);
    f->priority = (uint16_t)rnd(6);
    f->out_port = f->out_group = SWITCH_PORT_ANY;
    if (rnd(4) == 0) want(&f->match, FIELD_IN_PORT, 1 + rnd(PORTS));
    want(&f->match, FIELD_ETH_TYPE, label ? 0x8847 : 0x88e7);
    i->apply = (struct action_list){.list = room, .count = 1};
    i->write.list = room + LIST;
    room[0] = (struct action){.type = label ? ACTION_POP_MPLS : ACTION_POP_PBB,
                              .eth_type = rnd(4) == 0 ? 0x8847
                                          : rnd(2)    ? 0x86dd
                                                      : 0x0800};
    i->has_apply = i->has_goto = true;
    i->goto_table = 1;
}

/* In table 1: by what is inside. */
static void inner_flow(struct flow_spec *f, struct action *room)
{
    struct errmsg e;
    do {
        memset(f, 0, sizeof *f);
        match_ip(&f->match);
    } while (flow_check(f, &e));
    f->table = 1;
    f->priority = (uint16_t)rnd(6);
    f->out_port = f->out_group = SWITCH_PORT_ANY;
    f->instructions.apply = (struct action_list){.list = room, .count = 1};
    f->instructions.write.list = room + LIST;
    f->instructions.has_apply = true;
    room[0] = (struct action){.type = ACTION_OUTPUT, .output = {.port = 1 + rnd(PORTS)}};
}

static void random_flow(struct flow_spec *f, struct action *room)
{
    struct errmsg e;
    if (openings && rnd(3)) {
        if (rnd(3) == 0) opening_flow(f, room);
        else inner_flow(f, room);
        return;
    }
    memset(f, 0, sizeof *f);
    f->table = (uint8_t)(rnd(2) ? 0 : rnd(TABLES));
    f->priority = (uint16_t)rnd(6);
    f->out_port = f->out_group = SWITCH_PORT_ANY;
    do
        random_match(&f->match);
    while (flow_check(f, &e));
    struct instructions *i = &f->instructions;
    i->apply.list = room;
    i->write.list = room + LIST;
    random_actions(f, &i->apply, &i->has_apply, rnd(LIST));
    random_actions(f, &i->write, &i->has_write, rnd(4) ? 0 : rnd(LIST));
    i->clear = rnd(8) == 0;
    i->has_metadata = rnd(5) == 0;
    if (i->has_metadata) {
        i->metadata_mask = 1 + rnd(3);
        i->metadata = rnd(4) & i->metadata_mask;
    }
    if (rnd(6) == 0) i->meter = 1 + rnd(NAIVE_METERS - 1);
    i->has_goto = f->table + 1u < TABLES && rnd(3);
    if (i->has_goto) i->goto_table = (uint8_t)(f->table + 1 + rnd(TABLES - f->table - 1));
    assert_int_equal(flow_check(f, &e), 0);
}

/* ---- both of them ---- */

struct both {
    struct rig rig;
    struct naive naive;
    struct naive_result said;
    struct translation *translation;
    struct oracle_frame frame;
    struct naive_frame naive_frame; /* the same */
    struct oracle_counts counts[2];
    unsigned frames, outputs, flips, changes;
};

/* Buckets send to, and watch, groups of higher numbers only. */
static void random_bucket(struct both *b, const struct group_spec *g, struct group_bucket *k)
{
    *k = (struct group_bucket){.watch_port = SWITCH_PORT_ANY, .watch_group = SWITCH_GROUP_ANY, .actions = k->actions};
    k->actions.count = 0;
    if (g->type == GROUP_SELECT) k->weight = (uint16_t)rnd(4);
    if (g->type == GROUP_FAST_FAILOVER || (g->type == GROUP_SELECT && rnd(2))) k->watch_port = 1 + rnd(PORTS + 1);
    uint32_t watched = g->id + 1 + rnd(3);
    if (k->watch_port != SWITCH_PORT_ANY && watched < NAIVE_GROUPS && b->naive.has_group[watched] && rnd(2))
        k->watch_group = watched;
    for (unsigned tries = rnd(LIST); tries > 0; tries--) {
        struct action *a = &k->actions.list[k->actions.count];
        *a = random_action(TABLES, false);
        if (a->type == ACTION_GROUP && (a->group <= g->id || !b->naive.has_group[a->group])) continue;
        k->actions.count++;
        if (flow_check_bucket(&k->actions, NULL, NULL)) k->actions.count--;
    }
}

static void set_group(struct both *b)
{
    struct action room[NAIVE_BUCKETS][LIST];
    struct group_bucket buckets[NAIVE_BUCKETS];
    struct errmsg e;
    struct group_spec g = {.id = 1 + rnd(NAIVE_GROUPS - 1), .type = (uint8_t)rnd(GROUP_TYPES), .buckets = buckets};
    g.count = g.type == GROUP_INDIRECT ? 1 : rnd(4);
    if (g.type == GROUP_SELECT && rnd(2)) g.count = rnd(NAIVE_BUCKETS) + 1;
    for (unsigned i = 0; i < g.count; i++) {
        buckets[i].actions.list = room[i];
        random_bucket(b, &g, &buckets[i]);
    }
    int ret = b->naive.has_group[g.id] ? bridge_group_modify(b->rig.bridge, &g, NULL, &e)
                                       : bridge_group_add(b->rig.bridge, &g, NULL, &e);
    if (ret) fail_msg("group %u: %s", g.id, e.text);
    naive_group_set(&b->naive, &g);
}

static void change_a_group(struct both *b)
{
    struct errmsg e;
    uint32_t id = 1 + rnd(NAIVE_GROUPS - 1), port = 1 + rnd(PORTS);
    switch (rnd(8)) {
    case 0:
        assert_int_equal(bridge_group_delete(b->rig.bridge, id, NULL, &e),
                         naive_group_delete(&b->naive, id) ? 0 : -EBUSY);
        assert_int_equal(bridge_flow_count(b->rig.bridge), b->naive.count);
        break;
    case 1:
    case 2:
    case 3:
        b->naive.down ^= 1u << port;
        b->rig.ports[port]->link_down = b->naive.down >> port & 1;
        switch_tick(b->rig.sw, clock_now_ns());
        break;
    default: set_group(b); break;
    }
}

static void add_meter(struct both *b, uint32_t id)
{
    struct errmsg e;
    struct meter_spec m = {.id = id, .flags = METER_PKTPS, .count = id > 1};
    m.bands[0].type = id == NAIVE_METER_DROPS ? METER_DROP : METER_DSCP_REMARK;
    m.bands[0].prec_level = 1;
    assert_int_equal(bridge_meter_add(b->rig.bridge, &m, NULL, &e), 0);
}

/* And makes another of that number. */
static void delete_a_meter(struct both *b)
{
    struct errmsg e;
    uint32_t id = 1 + rnd(NAIVE_METERS - 1);
    assert_int_equal(bridge_meter_delete(b->rig.bridge, id, NULL, &e), 0);
    naive_meter_delete(&b->naive, id);
    add_meter(b, id);
}

static bool knows_groups(const struct both *b, const struct flow_spec *f)
{
    return naive_knows_groups(&b->naive, &f->instructions.apply) &&
           naive_knows_groups(&b->naive, &f->instructions.write);
}

static void change(struct both *b)
{
    struct flow_spec f;
    struct action room[2 * LIST];
    struct errmsg e;
    unsigned changed;
    random_flow(&f, room);
    unsigned what = rnd(10);
    if (rnd(3) == 0) {
        change_a_group(b);
        return;
    }
    if (rnd(30) == 0) {
        delete_a_meter(b);
        return;
    }
    if (what < 8 && !knows_groups(b, &f)) {
        assert_int_equal(bridge_flow_add(b->rig.bridge, &f, NULL, &e), -EINVAL);
        return;
    }
    if (b->naive.count > 60) what = 9;
    b->changes++;
    if (what < 6) {
        assert_int_equal(bridge_flow_add(b->rig.bridge, &f, NULL, &e), 0);
        assert_true(naive_add(&b->naive, &f));
    } else if (what < 8) {
        if (b->naive.count && rnd(2)) { /* something that is there */
            const struct flow_spec *have = &b->naive.flows[rnd(b->naive.count)];
            if (have->table != f.table) return;
            f.match = have->match;
            f.priority = have->priority;
            if (flow_check(&f, &e)) return;
        }
        bool strict = rnd(2);
        assert_int_equal(bridge_flow_modify(b->rig.bridge, &f, strict, &changed, NULL, &e), 0);
        assert_int_equal(changed, naive_modify(&b->naive, &f, strict));
    } else {
        if (b->naive.count) f = b->naive.flows[rnd(b->naive.count)];
        if (rnd(4) == 0) random_match(&f.match);
        bool strict = rnd(4);
        assert_int_equal(bridge_flow_delete(b->rig.bridge, &f, strict, &changed, NULL, &e), 0);
        assert_int_equal(changed, naive_delete(&b->naive, &f, strict));
    }
}

static void key_of(const uint8_t *f, unsigned bytes, unsigned port, struct flow_key *k)
{
    struct packet p = {.head = (uint8_t *)(uintptr_t)f, .head_bytes = (uint16_t)bytes, .length_bytes = bytes};
    memset(k, 0, sizeof *k);
    assert_int_not_equal(extract_key(&p, k), EXTRACT_INVALID);
    k->words[0] = 0;
    k->in_port = be32_make(port);
}

static void check_frame(struct both *b, unsigned i, unsigned at)
{
    const struct rig_port *p = b->rig.ports[b->said.out[i].port];
    struct flow_key k;
    key_of(p->last[at].bytes, p->last[at].length, 0, &k);
    for (unsigned w = 1; w < FLOW_KEY_PACKET_WORDS; w++)
        if (k.words[w] != b->said.out[i].key.words[w]) fail_msg("output %u differs in word %u", i, w);
    if (b->said.out[i].sum && b->said.out[i].sum != naive_sum(p->last[at].bytes, p->last[at].length))
        fail_msg("output %u differs in bytes", i);
}

/* Is what comes out known? */
static bool is_sure(const struct both *b)
{
    return !(b->said.unsure || ((b->frame.broken || b->said.odd) && b->said.edited));
}

/* The frame came out of each port as often as it should have, and the last few look as they should. */
static void compare(struct both *b)
{
    unsigned expected[32] = {0};
    if (!is_sure(b)) {
        rig_got(&b->rig);
        return;
    }
    for (unsigned i = 0; i < b->said.count; i++)
        expected[b->said.out[i].port]++;
    for (unsigned port = 1; port <= PORTS; port++)
        assert_int_equal(b->rig.ports[port]->got, expected[port]);
    unsigned seen[32] = {0};
    for (unsigned i = 0; i < b->said.count && !b->said.deep; i++) {
        unsigned port = b->said.out[i].port, nth = seen[port]++;
        if (expected[port] - nth <= 8) check_frame(b, i, nth % 8);
    }
    b->outputs += b->said.count;
    rig_got(&b->rig);
}

/* What the interpreter says of the frame. */
static void ask(struct both *b, unsigned port, struct flow_key *k)
{
    struct naive_frame *f = &b->naive_frame;
    *f = (struct naive_frame){.length = b->frame.length};
    memcpy(f->bytes, b->frame.bytes, b->frame.length);
    key_of(b->frame.bytes, b->frame.length, port, k);
    naive_run(&b->naive, k, f, &b->said);
}

static void send_again(struct both *b, unsigned port)
{
    for (unsigned j = 1; j <= PORTS; j++)
        memset(b->rig.ports[j]->last, 0, sizeof b->rig.ports[j]->last);
    rig_send(&b->rig, port, b->frame.bytes, b->frame.length, 1);
    compare(b);
}

/* No bit matters more than the megaflows say that have been made by now. */
static void flip_on_the_wire(struct both *b, unsigned port)
{
    struct flow_key k;
    for (unsigned bit = 0; bit < b->frame.length * 8; bit++) {
        uint8_t *at = &b->frame.bytes[bit / 8], was = *at;
        *at ^= (uint8_t)(0x80 >> bit % 8);
        b->frame.broken = true;
        ask(b, port, &k);
        send_again(b, port);
        *at = was;
    }
}

static void send(struct both *b)
{
    struct flow_key k;
    oracle_frame(&b->frame, &seed, openings);
    unsigned port = 1 + rnd(PORTS);
    ask(b, port, &k);
    bool counted = is_sure(b) && rnd(8) == 0;
    unsigned copies = 1 + rnd(3);
    if (counted) oracle_counts_read(b->rig.bridge, &b->naive, &b->counts[0]);
    for (unsigned i = 0; i < copies; i++)
        send_again(b, port);
    if (counted) oracle_counts_read(b->rig.bridge, &b->naive, &b->counts[1]);
    if (counted) oracle_counts_check(&b->naive, &b->said, &b->counts[0], &b->counts[1], copies, b->frame.length);
    if ((b->said.shimmed || b->said.choices) && rnd(100) == 0) flip_on_the_wire(b, port);
    b->frames++;
}

/* Nothing but the flipped bit may differ. */
static void check_flip(struct both *b, const struct flow_key *k, unsigned bit, struct naive_result *other)
{
    struct flow_key flipped = *k, delta = {0};
    ((uint8_t *)&delta)[bit / 8] = (uint8_t)(0x80 >> bit % 8);
    for (unsigned w = 0; w < FLOW_KEY_WORDS; w++)
        flipped.words[w] ^= delta.words[w];
    b->naive.chosen = &b->said; /* what each packet chooses by need not have been looked at */
    naive_run(&b->naive, &flipped, NULL, other);
    b->naive.chosen = NULL;
    if (other->raised) delta.nw_tos |= 0xfc; /* of that it need not have been looked at: each packet's own is raised */
    if (other->count != b->said.count) fail_msg("bit %u is not in the mask, and matters", bit);
    for (unsigned i = 0; i < other->count; i++) {
        if (other->out[i].port != b->said.out[i].port) fail_msg("bit %u is not in the mask, and matters", bit);
        for (unsigned w = 0; w < FLOW_KEY_PACKET_WORDS; w++)
            if ((other->out[i].key.words[w] ^ b->said.out[i].key.words[w]) & ~delta.words[w])
                fail_msg("bit %u is not in the mask, and matters", bit);
    }
    b->flips++;
}

/* Whatever its flows looked at: without these a megaflow would take packets of another shape for its own. */
static void check_shape(const struct flow_key *k, const struct flow_key *mask)
{
    unsigned type = be16_get(k->eth_type);
    bool is_ip = type == 0x0800 || type == 0x86dd;
    assert_int_equal(be32_get(mask->in_port), UINT32_MAX);
    assert_int_equal(mask->bridge, UINT16_MAX);
    assert_int_equal(be16_get(mask->eth_type), UINT16_MAX);
    if (is_ip) assert_int_equal(mask->nw_proto, UINT8_MAX);
    if (is_ip) assert_int_equal(mask->nw_frag, UINT8_MAX);
}

/* Every bit that another packet of this shape may have otherwise: by what is left when a mask is trimmed, and by the fields. */
static void may_differ(const struct flow_key *k, struct flow_key *out)
{
    memset(out, 0xff, sizeof *out);
    extract_trim_mask(k, out);
    for (enum field_id id = 0; id < FIELD_COUNT; id++) {
        bool of_l4 = fields[id].needs >= NEEDS_TCP && fields[id].needs <= NEEDS_NA;
        if (of_l4 && k->nw_frag & FLOW_FRAG_LATER) continue;
        if (field_exists(id, k, NULL)) field_set(out, id, field_all_ones(id));
    }
}

static void flip(struct both *b)
{
    static struct naive_result other;
    struct flow_key k, possible;
    oracle_frame(&b->frame, &seed, openings);
    ask(b, 1 + rnd(PORTS), &k);
    struct translation_request r = {.bridge = b->rig.bridge, .key = &k};
    translate(&r, b->translation);
    check_shape(&k, &b->translation->mask);
    if (b->translation->once) return; /* nobody looks at its mask */
    if (b->said.shimmed) return;      /* pushed to a frame, not to a key: flip_on_the_wire() */
    may_differ(&k, &possible);
    for (unsigned bit = 64; bit < FLOW_KEY_PACKET_WORDS * 64; bit++) {
        unsigned is = 0x80u >> bit % 8, at = bit / 8;
        if (((const uint8_t *)&possible)[at] & ~((const uint8_t *)&b->translation->mask)[at] & is)
            check_flip(b, &k, bit, &other);
    }
}

static void run(uint64_t from)
{
    struct both *b = calloc(1, sizeof *b);
    struct switch_config c;
    seed = from * UINT64_C(0x9e3779b97f4a7c15) | 1;
    switch_config_default(&c);
    c.new_flows_ns = 0;
    openings = rnd(2);
    if (rnd(3) == 0) c.masks_max = 1 + rnd(8);
    if (rnd(4) == 0) c.megaflows_max = 1 + rnd(50);
    if (rnd(4) == 0) c.emc_entries = 0;
    if (rnd(6) == 0) c.flows = SWITCH_FLOWS_EXACT;
    c.exact_max = 100;
    rig_open(&b->rig, &c, BRIDGE_SECURE, PORTS);
    for (uint32_t id = 1; id < NAIVE_METERS; id++)
        add_meter(b, id);
    b->naive.ports = ((1u << PORTS) - 1) << 1;
    b->translation = malloc(sizeof *b->translation);
    for (unsigned i = 0; i < ROUND_STEPS; i++) {
        if (i < 30 || rnd(8) == 0) change(b);
        send(b);
        if (rnd(16) == 0) flip(b);
    }
    free(b->translation);
    naive_clear(&b->naive);
    rig_close(&b->rig);
    free(b);
}

static void as_the_naive_interpreter(void **state)
{
    const char *seconds = getenv("CREEDENCE_ORACLE_S"), *from = getenv("CREEDENCE_ORACLE_SEED");
    uint64_t end = clock_now_ns() + (seconds ? strtoull(seconds, NULL, 10) : 0) * NS_PER_SECOND;
    uint64_t first = from ? strtoull(from, NULL, 10) : 1, least = first + (from ? 1 : ROUNDS);
    (void)state;
    for (uint64_t i = first; i < least || clock_now_ns() < end; i++) {
        if (seconds) print_message("seed %llu\n", (unsigned long long)i);
        run(i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_the_naive_interpreter)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
