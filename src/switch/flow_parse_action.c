/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Actions and instructions from text. Actions that stand by themselves are the apply-actions instruction; the others must
 * come in the order in which OpenFlow carries them out: meter, actions, clear_actions, write_actions, write_metadata,
 * goto_table.
 */
#include <errno.h>
#include <stdlib.h>

#include "switch/flow_parse_action.h"
#include "switch/group.h"

static const char *rank_name(enum rank rank)
{
    switch (rank) {
    case RANK_METER: return "meter";
    case RANK_CLEAR: return "clear_actions";
    case RANK_WRITE: return "write_actions";
    case RANK_METADATA: return "write_metadata";
    case RANK_GOTO: return "goto_table";
    default: return "actions";
    }
}

static int parse_list(struct actions *a, struct text t);

/* ---- lists ---- */

int actions_add(struct actions *a, struct text at, struct action action)
{
    if (a->list->count == ACTIONS_MAX) return text_refuse(a->s, at, "there are no more than %u actions", ACTIONS_MAX);
    if (a->list->count == a->room) {
        unsigned room = a->room ? 2 * a->room : 4;
        struct action *list = reallocarray(a->list->list, room, sizeof *list);
        if (!list) return errmsg_set(a->s->e, ENOMEM, "no memory for the actions");
        a->list->list = list;
        a->room = room;
    }
    a->list->list[a->list->count++] = action;
    return 0;
}

/* An instruction, in its turn and once. */
static int enter(struct actions *a, const struct text_item *i, enum rank rank)
{
    if (a->nested) return text_refuse(a->s, i->whole, "it is an instruction, not an action");
    if (a->rank == rank && rank != RANK_APPLY) return text_refuse(a->s, i->whole, "it was said before");
    if (a->rank > rank) return text_refuse(a->s, i->whole, "it must stand before %s", rank_name(a->rank));
    a->rank = rank;
    return 0;
}

int actions_number(struct actions *a, struct text t, uint64_t max, const char *expected, uint64_t *out)
{
    return text_number(t, max, out) ? 0 : text_fail(a->s, t, "%s", expected);
}

/* ---- output ---- */

static int add_output(struct actions *a, struct text at, uint32_t port, uint64_t max_len)
{
    bool controller = port == SWITCH_PORT_CONTROLLER;
    return actions_add(a, at,
                       (struct action){.type = ACTION_OUTPUT,
                                       .output = {.port = port, .max_len = controller ? (uint16_t)max_len : 0}});
}

static int parse_output(struct actions *a, const struct text_item *i)
{
    uint32_t port;
    if (!text_port(a->s, i->value, &port)) return text_fail(a->s, i->value, "a port's number or name");
    return add_output(a, i->whole, port, UINT16_MAX);
}

/* controller, controller:LEN, controller(max_len=LEN) */
static int parse_controller(struct actions *a, const struct text_item *i)
{
    uint64_t length = UINT16_MAX;
    struct text key, value, t = i->value;
    if (text_split(t, '=', &key, &value)) {
        if (!text_is(key, "max_len")) return text_fail(a->s, key, "max_len=BYTES");
        t = value;
    }
    if (t.length) {
        int ret = actions_number(a, t, UINT16_MAX, "how many bytes to send (0 to 65535)", &length);
        if (ret) return ret;
    }
    return add_output(a, i->whole, SWITCH_PORT_CONTROLLER, length);
}

static int parse_reserved(struct actions *a, const struct text_item *i)
{
    uint32_t port;
    if (i->has_value || !text_port_reserved(i->key, &port)) return text_refuse(a->s, i->whole, "it has no value");
    return add_output(a, i->whole, port, 0);
}

static int parse_drop(struct actions *a, const struct text_item *i)
{
    if (i->has_value) return text_refuse(a->s, i->whole, "it has no value");
    a->drop = true;
    return 0;
}

/* resubmit:PORT, resubmit(PORT,TABLE), either may be missing */
static int parse_resubmit(struct actions *a, const struct text_item *i)
{
    struct text port, table;
    uint64_t n = SWITCH_TABLE_ALL;
    struct action action = {.type = ACTION_RESUBMIT, .resubmit = {.port = SWITCH_PORT_IN_PORT}};
    text_split(i->value, ',', &port, &table);
    if (!port.length && !table.length) return text_fail(a->s, i->whole, "resubmit:PORT or resubmit(PORT,TABLE)");
    if (port.length && !text_port(a->s, port, &action.resubmit.port))
        return text_fail(a->s, port, "a port's number or name");
    if (table.length && (!text_number(table, SWITCH_TABLE_ALL, &n) || (n >= SWITCH_TABLES && n != SWITCH_TABLE_ALL)))
        return text_fail(a->s, table, "a table's number (0 to %u)", SWITCH_TABLES - 1);
    if (n == SWITCH_TABLE_ALL && action.resubmit.port == SWITCH_PORT_IN_PORT)
        return text_refuse(a->s, i->whole, "the same port and the same table would go round for ever");
    action.resubmit.table = (uint8_t)n;
    return actions_add(a, i->whole, action);
}

/* ---- headers ---- */

static int parse_type(struct actions *a, const struct text_item *i, enum action_type type, unsigned one, unsigned other)
{
    uint64_t n;
    if (!text_number(i->value, 0xffff, &n) || (one && n != one && n != other)) {
        if (one == other && one) return text_fail(a->s, i->value, "the Ethernet type 0x%04x", one);
        if (one) return text_fail(a->s, i->value, "the Ethernet type 0x%04x or 0x%04x", one, other);
        return text_fail(a->s, i->value, "an Ethernet type");
    }
    return actions_add(a, i->whole, (struct action){.type = (uint8_t)type, .eth_type = (uint16_t)n});
}

static int parse_push_vlan(struct actions *a, const struct text_item *i)
{
    a->tagged = true;
    return parse_type(a, i, ACTION_PUSH_VLAN, 0x8100, 0x88a8);
}

static int parse_ttl(struct actions *a, const struct text_item *i, enum action_type type)
{
    uint64_t n;
    int ret = actions_number(a, i->value, 255, "a time to live (0 to 255)", &n);
    return ret ? ret : actions_add(a, i->whole, (struct action){.type = (uint8_t)type, .ttl = (uint8_t)n});
}

static int parse_plain(struct actions *a, const struct text_item *i, enum action_type type)
{
    if (i->value.length) return text_refuse(a->s, i->whole, "it has no value");
    return actions_add(a, i->whole, (struct action){.type = (uint8_t)type});
}

static int parse_pop_vlan(struct actions *a, const struct text_item *i)
{
    a->tagged = false;
    return parse_plain(a, i, ACTION_POP_VLAN);
}

static int parse_queue(struct actions *a, const struct text_item *i)
{
    uint64_t n;
    int ret = actions_number(a, i->value, UINT32_MAX, "a queue's number", &n);
    return ret ? ret : actions_add(a, i->whole, (struct action){.type = ACTION_SET_QUEUE, .queue = (uint32_t)n});
}

static int parse_group(struct actions *a, const struct text_item *i)
{
    uint64_t n;
    int ret = actions_number(a, i->value, SWITCH_GROUP_MAX, "a group's number", &n);
    return ret ? ret : actions_add(a, i->whole, (struct action){.type = ACTION_GROUP, .group = (uint32_t)n});
}

/* ---- instructions ---- */

static int parse_meter(struct actions *a, const struct text_item *i)
{
    uint64_t n;
    int ret = enter(a, i, RANK_METER);
    if (!ret) ret = actions_number(a, i->value, 0xffff0000, "a meter's number (from 1)", &n);
    if (!ret && n == 0) ret = text_fail(a->s, i->value, "a meter's number (from 1)");
    if (!ret) a->out->meter = (uint32_t)n;
    return ret;
}

static int parse_goto(struct actions *a, const struct text_item *i)
{
    uint64_t n;
    int ret = enter(a, i, RANK_GOTO);
    if (!ret) ret = actions_number(a, i->value, SWITCH_TABLES - 1, "a table's number (0 to 253)", &n);
    if (ret) return ret;
    a->out->has_goto = true;
    a->out->goto_table = (uint8_t)n;
    return 0;
}

static int parse_metadata(struct actions *a, const struct text_item *i)
{
    struct field_value v, mask;
    int ret = enter(a, i, RANK_METADATA);
    if (!ret) ret = text_field(a->s, FIELD_METADATA, i->value, &v, &mask);
    if (ret) return ret;
    a->out->has_metadata = true;
    a->out->metadata = field_value_u64(v);
    a->out->metadata_mask = field_value_u64(mask);
    return 0;
}

static int parse_clear(struct actions *a, const struct text_item *i)
{
    int ret = enter(a, i, RANK_CLEAR);
    if (!ret && i->value.length) ret = text_refuse(a->s, i->whole, "it has no value");
    if (!ret) a->out->clear = true;
    return ret;
}

/* A list in parentheses, into the list of its own. */
static int parse_nested(struct actions *a, const struct text_item *i, struct action_list *list)
{
    struct actions inner = {.s = a->s, .m = a->m, .out = a->out, .list = list, .nested = true, .tagged = a->tagged};
    if (!i->has_value || i->value.at[-1] != '(') return text_fail(a->s, i->whole, "a list of actions in parentheses");
    return parse_list(&inner, i->value);
}

static int parse_write(struct actions *a, const struct text_item *i)
{
    int ret = enter(a, i, RANK_WRITE);
    if (!ret) ret = parse_nested(a, i, &a->out->write);
    if (!ret) a->out->has_write = a->out->write.count > 0;
    return ret;
}

static int parse_apply(struct actions *a, const struct text_item *i)
{
    int ret = enter(a, i, RANK_APPLY);
    if (!ret && a->list->count) ret = text_refuse(a->s, i->whole, "actions stand before it: write them all in one way");
    if (!ret) ret = parse_nested(a, i, &a->out->apply);
    a->room = a->out->apply.count;
    return ret;
}

/* ---- names ---- */

struct action_name {
    const char *name;
    int (*parse)(struct actions *a, const struct text_item *i);                              /* one of these */
    int (*parse_field)(struct actions *a, const struct text_item *i, enum field_id id);      /* with .field */
    int (*parse_typed)(struct actions *a, const struct text_item *i, enum action_type type); /* with .type */
    enum field_id field;
    enum action_type type;
};

static int parse_push_mpls(struct actions *a, const struct text_item *i)
{
    return parse_type(a, i, ACTION_PUSH_MPLS, 0x8847, 0x8848);
}

static int parse_pop_mpls(struct actions *a, const struct text_item *i)
{
    return parse_type(a, i, ACTION_POP_MPLS, 0, 0);
}

static int parse_push_pbb(struct actions *a, const struct text_item *i)
{
    return parse_type(a, i, ACTION_PUSH_PBB, 0x88e7, 0x88e7);
}

static const struct action_name names[] = {
    {"drop", .parse = parse_drop},
    {"output", .parse = parse_output},
    {"normal", .parse = parse_reserved},
    {"flood", .parse = parse_reserved},
    {"all", .parse = parse_reserved},
    {"in_port", .parse = parse_reserved},
    {"local", .parse = parse_reserved},
    {"controller", .parse = parse_controller},
    {"strip_vlan", .parse = parse_pop_vlan},
    {"pop_vlan", .parse = parse_pop_vlan},
    {"push_vlan", .parse = parse_push_vlan},
    {"mod_vlan_vid", .parse = parse_mod_vlan_vid},
    {"set_vlan_vid", .parse = parse_mod_vlan_vid},
    {"mod_vlan_pcp", .parse = parse_mod_vlan_pcp},
    {"set_vlan_pcp", .parse = parse_mod_vlan_pcp},
    {"mod_dl_src", .parse_field = parse_mod, .field = FIELD_ETH_SRC},
    {"mod_dl_dst", .parse_field = parse_mod, .field = FIELD_ETH_DST},
    {"mod_nw_src", .parse_field = parse_mod, .field = FIELD_IPV4_SRC},
    {"mod_nw_dst", .parse_field = parse_mod, .field = FIELD_IPV4_DST},
    {"mod_nw_ecn", .parse_field = parse_mod, .field = FIELD_IP_ECN},
    {"mod_nw_tos", .parse = parse_mod_nw_tos},
    {"mod_nw_ttl", .parse_typed = parse_ttl, .type = ACTION_SET_NW_TTL},
    {"mod_tp_src", .parse = parse_mod_tp},
    {"mod_tp_dst", .parse = parse_mod_tp},
    {"set_field", .parse = parse_set_field},
    {"load", .parse = parse_load},
    {"move", .parse = parse_move},
    {"push_mpls", .parse = parse_push_mpls},
    {"pop_mpls", .parse = parse_pop_mpls},
    {"set_mpls_label", .parse_field = parse_mod, .field = FIELD_MPLS_LABEL},
    {"set_mpls_tc", .parse_field = parse_mod, .field = FIELD_MPLS_TC},
    {"set_mpls_ttl", .parse_typed = parse_ttl, .type = ACTION_SET_MPLS_TTL},
    {"dec_mpls_ttl", .parse_typed = parse_plain, .type = ACTION_DEC_MPLS_TTL},
    {"push_pbb", .parse = parse_push_pbb},
    {"pop_pbb", .parse_typed = parse_plain, .type = ACTION_POP_PBB},
    {"dec_ttl", .parse_typed = parse_plain, .type = ACTION_DEC_NW_TTL},
    {"copy_ttl_out", .parse_typed = parse_plain, .type = ACTION_COPY_TTL_OUT},
    {"copy_ttl_in", .parse_typed = parse_plain, .type = ACTION_COPY_TTL_IN},
    {"set_tunnel", .parse_field = parse_mod, .field = FIELD_TUNNEL_ID},
    {"set_tunnel64", .parse_field = parse_mod, .field = FIELD_TUNNEL_ID},
    {"set_queue", .parse = parse_queue},
    {"group", .parse = parse_group},
    {"resubmit", .parse = parse_resubmit},
    {"meter", .parse = parse_meter},
    {"apply_actions", .parse = parse_apply},
    {"clear_actions", .parse = parse_clear},
    {"write_actions", .parse = parse_write},
    {"write_metadata", .parse = parse_metadata},
    {"goto_table", .parse = parse_goto},
};

static const struct action_name *find_name(struct text t)
{
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
        if (text_is(t, names[i].name)) return &names[i];
    return NULL;
}

bool text_is_action_name(struct text t)
{
    return find_name(t) != NULL;
}

static bool is_instruction(const struct action_name *n)
{
    return n->parse == parse_meter || n->parse == parse_apply || n->parse == parse_clear || n->parse == parse_write ||
           n->parse == parse_metadata || n->parse == parse_goto;
}

/* A port by itself, or an action of ours. */
static int parse_one(struct actions *a, const struct text_item *i)
{
    uint32_t port;
    const struct action_name *n = find_name(i->key);
    bool instruction = n && is_instruction(n);
    if (!a->nested && !instruction) {
        int ret = enter(a, i, RANK_APPLY);
        if (ret) return ret;
    }
    if (!n && text_port(a->s, i->whole, &port)) return add_output(a, i->whole, port, UINT16_MAX);
    if (!n) return text_fail(a->s, i->key, "an action, or a port's number or name");
    if (n->parse_field) return n->parse_field(a, i, n->field);
    if (n->parse_typed) return n->parse_typed(a, i, n->type);
    return n->parse(a, i);
}

static int parse_list(struct actions *a, struct text t)
{
    struct text rest = t;
    struct text_item i;
    unsigned items = 0;
    for (;;) {
        int ret = text_next(a->s, &rest, &i);
        if (ret < 0) return ret;
        if (ret == 0) return 0;
        ret = parse_one(a, &i);
        if (ret) return ret;
        if (a->drop && items++) return text_refuse(a->s, i.whole, "drop stands alone");
        items += !a->drop;
    }
}

int actions_piece(struct actions *a, struct text t)
{
    unsigned before = a->list->count;
    bool dropped = a->drop;
    int ret = parse_list(a, t);
    if (!ret && ((dropped && t.length) || (a->drop && before))) return text_refuse(a->s, t, "drop stands alone");
    return ret;
}

int text_actions(const struct text_source *s, struct text t, const struct flow_match *m, struct instructions *out)
{
    *out = (struct instructions){0};
    struct actions a = {.s = s, .m = m, .out = out, .list = &out->apply, .tagged = field_is_ensured(FIELD_VLAN_PCP, m)};
    int ret = parse_list(&a, t);
    out->has_apply = out->apply.count > 0;
    if (ret) instructions_clear(out);
    return ret;
}
