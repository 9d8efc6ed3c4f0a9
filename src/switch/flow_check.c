/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is wrong with a flow, whoever made it (the text syntax, OpenFlow, a saved state): nothing here trusts the parser.
 *
 * A match may look only at fields that it makes sure of: every 1 bit of its mask must belong to such a field. Actions are
 * followed with what is known about a packet at that place, a match that starts as the flow's own: push and pop change
 * it, set-field adds to it, move takes away from it. Source: OpenFlow 1.3.5, sections 5.9 to 5.12, 7.2.3.
 */
#include <errno.h>

#include "switch/flow_text.h"
#include "switch/group.h"
#include "switch/meter.h"

struct check {
    bool unknown; /* a bucket of a group: nothing is known about the packets that come to it */
    enum flow_wrong why;
    bool packet_out;
    struct errmsg *e;
};

#define WRONG(c, reason, ...) ((c)->why = (reason), errmsg_set((c)->e, EINVAL, __VA_ARGS__))

/* ---- match ---- */

static bool is_subset(struct field_value v, struct field_value of)
{
    for (unsigned i = 0; i < FIELD_VALUE_BYTES; i++)
        if (v.raw[i] & ~of.raw[i]) return false;
    return true;
}

/* A field with 1 bits in the mask that the match makes sure of; its bits are taken from *left. */
static int check_field(struct check *c, const struct flow_match *m, enum field_id id, struct flow_key *left)
{
    if (!field_is_ensured(id, m)) return 0;
    struct field_value mask = field_get(&m->mask, id);
    field_set(left, id, (struct field_value){0});
    /* The same bits may be of several fields: VLAN_TCI has all of the tag's, and may be masked. */
    if (text_field_is_full(id, mask) || text_field_maskable(id) || id == FIELD_VLAN_PCP) return 0;
    return WRONG(c, FLOW_BAD_MASK, "%s cannot be matched in parts", fields[id].name);
}

/* Bits are left over: of which field, and what does it miss? */
static int explain_left(struct check *c, const struct flow_key *left)
{
    for (unsigned id = 0; id < FIELD_COUNT; id++)
        if (!field_is_zero(left, id))
            return WRONG(c, FLOW_BAD_PREREQ, "%s is matched without %s", fields[id].name, text_needs(fields[id].needs));
    return WRONG(c, FLOW_BAD_FIELD, "the match looks at bits that are of no field");
}

static bool is_empty(const struct flow_key *k)
{
    uint64_t all = 0;
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        all |= k->words[i];
    return all == 0;
}

static int check_match(struct check *c, const struct flow_match *m)
{
    struct flow_key left = m->mask;
    uint64_t outside = 0;
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        outside |= m->key.words[i] & ~m->mask.words[i];
    if (outside) return WRONG(c, FLOW_BAD_WILDCARDS, "the match has bits outside of its mask");
    for (unsigned id = 0; id < FIELD_COUNT; id++) {
        if (field_is_zero(&m->mask, id)) continue;
        int ret = check_field(c, m, id, &left);
        if (ret) return ret;
        if (is_empty(&left)) return 0; /* fields that come later have no bits, or others' */
    }
    return is_empty(&left) ? 0 : explain_left(c, &left);
}

/* ---- what is known after an action ---- */

static void learn(struct flow_match *m, enum field_id id, struct field_value v, struct field_value mask)
{
    field_set_masked(&m->key, id, v, mask);
    field_set_masked(&m->mask, id, mask, mask);
}

static void learn_number(struct flow_match *m, enum field_id id, uint64_t n)
{
    learn(m, id, field_value_of(n), field_all_ones(id));
}

static void forget(struct flow_match *m, enum field_id id, struct field_value mask)
{
    field_set_masked(&m->key, id, (struct field_value){0}, mask);
    field_set_masked(&m->mask, id, (struct field_value){0}, mask);
}

/* Another header begins behind the tags: nothing is known of what follows. */
static void forget_from_l3(struct flow_match *m)
{
    for (unsigned id = FIELD_IP_DSCP; id < FIELD_REG0; id++)
        if (id != FIELD_TUNNEL_ID) forget(m, id, field_all_ones(id));
}

/* Another type or protocol: what is behind it is something else. */
static void forget_behind(struct flow_match *m, enum field_id id)
{
    static const enum field_id l4[] = {FIELD_TCP_SRC,   FIELD_TCP_DST, FIELD_TCP_FLAGS,
                                       FIELD_ND_TARGET, FIELD_ND_SLL,  FIELD_ND_TLL};
    if (id == FIELD_ETH_TYPE) forget_from_l3(m);
    for (unsigned i = 0; id == FIELD_IP_PROTO && i < sizeof l4 / sizeof l4[0]; i++)
        forget(m, l4[i], field_all_ones(l4[i]));
}

static void forget_vlan(struct flow_match *m)
{
    forget(m, FIELD_VLAN_TCI, field_all_ones(FIELD_VLAN_TCI));
}

/* ---- actions ---- */

static int check_port(struct check *c, uint32_t port)
{
    switch (port) {
    case SWITCH_PORT_IN_PORT:
    case SWITCH_PORT_NORMAL:
    case SWITCH_PORT_FLOOD:
    case SWITCH_PORT_ALL:
    case SWITCH_PORT_CONTROLLER:
    case SWITCH_PORT_LOCAL: return 0;
    case SWITCH_PORT_TABLE:
        if (c->packet_out) return 0;
        return WRONG(c, FLOW_BAD_OUT_PORT, "TABLE is only for packets that a controller sends");
    default: break;
    }
    if (port >= 1 && port <= SWITCH_PORT_MAX) return 0;
    return WRONG(c, FLOW_BAD_OUT_PORT, "%u is no port that packets can be sent to", port);
}

static int check_needed(struct check *c, const struct flow_match *m, enum field_id id, const char *action)
{
    if (c->unknown || field_is_ensured(id, m)) return 0;
    return WRONG(c, FLOW_BAD_MATCH_INCONSISTENT, "%s needs %s at its place: match it", action,
                 text_needs(fields[id].needs));
}

static int check_set(struct check *c, struct flow_match *m, const struct action *a)
{
    enum field_id id = a->set.field;
    if (id >= FIELD_COUNT) return WRONG(c, FLOW_BAD_SET_TYPE, "set_field of no field");
    if (!fields[id].writable) return WRONG(c, FLOW_BAD_SET_TYPE, "%s cannot be written", fields[id].name);
    if (text_field_is_zero(a->set.mask)) return WRONG(c, FLOW_BAD_SET_ARGUMENT, "set_field of no bit");
    if (!is_subset(a->set.mask, field_all_ones(id)) || !is_subset(a->set.value, a->set.mask))
        return WRONG(c, FLOW_BAD_SET_ARGUMENT, "the value does not fit into %s", fields[id].name);
    if (id == FIELD_VLAN_VID) {
        int ret = check_needed(c, m, FIELD_VLAN_PCP, "set_field of vlan_vid");
        if (ret) return ret;
        if (field_value_u64(a->set.mask) & ~field_value_u64(a->set.value) & FLOW_VLAN_PRESENT)
            return WRONG(c, FLOW_BAD_SET_ARGUMENT, "vlan_vid without its bit 0x1000: add it, or use pop_vlan");
    }
    if (!c->unknown && !field_is_ensured(id, m))
        return WRONG(c, FLOW_BAD_MATCH_INCONSISTENT, "set_field of %s needs %s at its place: match it", fields[id].name,
                     text_needs(fields[id].needs));
    forget_behind(m, id);
    learn(m, id, a->set.value, a->set.mask);
    return 0;
}

static struct field_value ones_at(unsigned at, unsigned count)
{
    struct field_value v = {0};
    for (unsigned bit = at; bit < at + count; bit++)
        v.raw[15 - bit / 8] |= (uint8_t)(1u << bit % 8);
    return v;
}

static int check_move(struct check *c, struct flow_match *m, const struct action *a)
{
    if (a->move.from >= FIELD_COUNT || a->move.to >= FIELD_COUNT)
        return WRONG(c, FLOW_BAD_SET_TYPE, "move of no field");
    const struct field *from = &fields[a->move.from], *to = &fields[a->move.to];
    if (!to->writable) return WRONG(c, FLOW_BAD_SET_TYPE, "%s cannot be written", to->name);
    if (a->move.bits == 0 || a->move.from_bit + a->move.bits > from->bits || a->move.to_bit + a->move.bits > to->bits)
        return WRONG(c, FLOW_BAD_SET_ARGUMENT, "move from %s to %s: bits that are not there", from->name, to->name);
    bool tag = a->move.from == FIELD_VLAN_VID || a->move.to == FIELD_VLAN_VID || a->move.to == FIELD_VLAN_TCI;
    int ret = tag ? check_needed(c, m, FIELD_VLAN_PCP, "move of a VLAN tag") : 0;
    if (!ret) ret = check_needed(c, m, a->move.from, "move");
    if (!ret) ret = check_needed(c, m, a->move.to, "move");
    if (ret) return ret;
    forget_behind(m, a->move.to);
    forget(m, a->move.to, ones_at(a->move.to_bit, a->move.bits));
    if (tag) learn(m, FIELD_VLAN_VID, field_value_of(FLOW_VLAN_PRESENT), field_value_of(FLOW_VLAN_PRESENT));
    return ret;
}

static int check_push_vlan(struct check *c, struct flow_match *m, const struct action *a)
{
    if (a->eth_type != 0x8100 && a->eth_type != 0x88a8)
        return WRONG(c, FLOW_BAD_ARGUMENT, "push_vlan of 0x%04x: not 0x8100 or 0x88a8", a->eth_type);
    struct field_value present = field_value_of(FLOW_VLAN_PRESENT);
    m->key.vlan[1] = m->key.vlan[0];
    m->mask.vlan[1] = m->mask.vlan[0];
    forget_vlan(m);
    learn(m, FIELD_VLAN_VID, present, present);
    return 0;
}

static int check_pop_vlan(struct check *c, struct flow_match *m)
{
    int ret = check_needed(c, m, FIELD_VLAN_PCP, "pop_vlan");
    m->key.vlan[0] = m->key.vlan[1];
    m->mask.vlan[0] = m->mask.vlan[1];
    m->key.vlan[1] = m->mask.vlan[1] = (struct flow_vlan){0};
    return ret;
}

static bool is_mpls(unsigned type)
{
    return type == 0x8847 || type == 0x8848;
}

static int check_push_mpls(struct check *c, struct flow_match *m, const struct action *a)
{
    if (!is_mpls(a->eth_type))
        return WRONG(c, FLOW_BAD_ARGUMENT, "push_mpls of 0x%04x: not 0x8847 or 0x8848", a->eth_type);
    forget_from_l3(m);
    learn_number(m, FIELD_ETH_TYPE, a->eth_type);
    return 0;
}

static int check_pop_mpls(struct check *c, struct flow_match *m, const struct action *a)
{
    int ret = check_needed(c, m, FIELD_MPLS_LABEL, "pop_mpls");
    forget_from_l3(m);
    learn_number(m, FIELD_ETH_TYPE, a->eth_type);
    return ret;
}

static int check_push_pbb(struct check *c, struct flow_match *m, const struct action *a)
{
    if (a->eth_type != 0x88e7) return WRONG(c, FLOW_BAD_ARGUMENT, "push_pbb of 0x%04x: not 0x88e7", a->eth_type);
    forget_from_l3(m);
    forget_vlan(m);
    learn_number(m, FIELD_ETH_TYPE, a->eth_type);
    return 0;
}

static int check_pop_pbb(struct check *c, struct flow_match *m)
{
    int ret = check_needed(c, m, FIELD_PBB_ISID, "pop_pbb");
    forget_from_l3(m);
    forget_vlan(m);
    forget(m, FIELD_ETH_TYPE, field_all_ones(FIELD_ETH_TYPE));
    return ret;
}

static int check_resubmit(struct check *c, const struct action *a)
{
    if (a->resubmit.table >= SWITCH_TABLES && a->resubmit.table != SWITCH_TABLE_ALL)
        return WRONG(c, FLOW_BAD_ARGUMENT, "resubmit to table %u: there are %u", a->resubmit.table, SWITCH_TABLES);
    if (a->resubmit.port == SWITCH_PORT_IN_PORT || a->resubmit.port == SWITCH_PORT_LOCAL) return 0;
    if (a->resubmit.port >= 1 && a->resubmit.port <= SWITCH_PORT_MAX) return 0;
    return WRONG(c, FLOW_BAD_OUT_PORT, "resubmit of port %u: no packet comes from there", a->resubmit.port);
}

static int check_action(struct check *c, struct flow_match *m, const struct action *a)
{
    switch ((enum action_type)a->type) {
    case ACTION_OUTPUT: return check_port(c, a->output.port);
    case ACTION_GROUP:
        if (a->group <= SWITCH_GROUP_MAX) return 0; /* whether it is there the bridge knows */
        return WRONG(c, FLOW_BAD_OUT_GROUP, "%u is no group's number", a->group);
    case ACTION_SET_QUEUE: return 0;
    case ACTION_SET_FIELD: return check_set(c, m, a);
    case ACTION_MOVE: return check_move(c, m, a);
    case ACTION_PUSH_VLAN: return check_push_vlan(c, m, a);
    case ACTION_POP_VLAN: return check_pop_vlan(c, m);
    case ACTION_PUSH_MPLS: return check_push_mpls(c, m, a);
    case ACTION_POP_MPLS: return check_pop_mpls(c, m, a);
    case ACTION_PUSH_PBB: return check_push_pbb(c, m, a);
    case ACTION_POP_PBB: return check_pop_pbb(c, m);
    case ACTION_DEC_NW_TTL: return check_needed(c, m, FIELD_IP_TTL, "dec_ttl");
    case ACTION_SET_NW_TTL: return check_needed(c, m, FIELD_IP_TTL, "mod_nw_ttl");
    case ACTION_DEC_MPLS_TTL: return check_needed(c, m, FIELD_MPLS_TTL, "dec_mpls_ttl");
    case ACTION_SET_MPLS_TTL: return check_needed(c, m, FIELD_MPLS_TTL, "set_mpls_ttl");
    case ACTION_COPY_TTL_OUT: return check_needed(c, m, FIELD_MPLS_TTL, "copy_ttl_out");
    case ACTION_COPY_TTL_IN: return check_needed(c, m, FIELD_MPLS_TTL, "copy_ttl_in");
    case ACTION_RESUBMIT: return check_resubmit(c, a);
    case ACTION_TYPES: break;
    }
    return WRONG(c, FLOW_BAD_ACTION, "there is no action %u", a->type);
}

static int check_list(struct check *c, struct flow_match *m, const struct action_list *l)
{
    if (l->count > ACTIONS_MAX)
        return WRONG(c, FLOW_TOO_MANY, "%u actions: no more than %u in a list", l->count, ACTIONS_MAX);
    for (unsigned i = 0; i < l->count; i++) {
        int ret = check_action(c, m, &l->list[i]);
        if (ret) return ret;
    }
    return 0;
}

/* A set is carried out in an order of its own (OpenFlow 1.3.5, 5.10), in which it must make sense. */
static int check_set_of_actions(struct check *c, struct flow_match *m, const struct action_list *l)
{
    struct action actions[ACTIONS_MAX];
    struct action_list set = {.list = actions};
    if (l->count > ACTIONS_MAX)
        return WRONG(c, FLOW_TOO_MANY, "%u actions: no more than %u in a list", l->count, ACTIONS_MAX);
    for (unsigned i = 0; i < l->count; i++)
        if (l->list[i].type == ACTION_RESUBMIT) return WRONG(c, FLOW_BAD_ACTION, "resubmit cannot be in an action set");
    action_set_merge_into(&set, l);
    return check_list(c, m, &set);
}

/* ---- the whole ---- */

static int check_instructions(struct check *c, const struct flow_spec *f)
{
    const struct instructions *i = &f->instructions;
    struct flow_match known = f->match;
    if (i->meter > SWITCH_METER_MAX) return WRONG(c, FLOW_BAD_METER, "%u is no meter's number", i->meter);
    int ret = check_list(c, &known, &i->apply);
    if (!ret) ret = check_set_of_actions(c, &known, &i->write);
    if (ret) return ret;
    if (i->has_metadata && i->metadata & ~i->metadata_mask)
        return WRONG(c, FLOW_BAD_METADATA, "write_metadata has bits outside of its mask");
    if (!i->has_goto) return 0;
    if (i->goto_table >= SWITCH_TABLES)
        return WRONG(c, FLOW_BAD_GOTO, "goto_table:%u: there are %u tables", i->goto_table, SWITCH_TABLES);
    if (i->goto_table <= f->table)
        return WRONG(c, FLOW_BAD_GOTO, "goto_table:%u in table %u: only to a later table", i->goto_table, f->table);
    return 0;
}

int flow_check_why(const struct flow_spec *f, enum flow_wrong *why, struct errmsg *e)
{
    const uint16_t flags =
        FLOW_SEND_REMOVED | FLOW_CHECK_OVERLAP | FLOW_RESET_COUNTS | FLOW_NO_PACKET_COUNTS | FLOW_NO_BYTE_COUNTS;
    struct check c = {.e = e};
    int ret = 0;
    if (f->table >= SWITCH_TABLES)
        ret = WRONG(&c, FLOW_BAD_TABLE_ID, "table %u: there are %u", f->table, SWITCH_TABLES);
    else if (f->flags & ~flags) ret = WRONG(&c, FLOW_BAD_FLAGS, "flags 0x%x: there are no such", f->flags & ~flags);
    if (!ret) ret = check_match(&c, &f->match);
    if (!ret) ret = check_instructions(&c, f);
    if (why) *why = c.why;
    return ret;
}

int flow_check_packet_out(const struct action_list *l, const struct flow_match *known, enum flow_wrong *why,
                          struct errmsg *e)
{
    struct check c = {.e = e, .packet_out = true};
    struct flow_match m = *known;
    int ret = check_list(&c, &m, l);
    if (why) *why = c.why;
    return ret;
}

int flow_check_bucket(const struct action_list *l, enum flow_wrong *why, struct errmsg *e)
{
    struct check c = {.unknown = true, .e = e};
    struct flow_match any = {0};
    int ret = check_set_of_actions(&c, &any, l);
    if (why) *why = c.why;
    return ret;
}

int flow_check(const struct flow_spec *f, struct errmsg *e)
{
    return flow_check_why(f, NULL, e);
}
