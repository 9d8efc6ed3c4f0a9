/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flows from text: settings (priority, table, ..) and the match. Actions: flow_parse_action.c.
 *
 * Fields may come in any order ("tp_dst=80,tcp"), and some names mean another field according to the protocol (nw_src is
 * arp_spa for ARP, tp_src belongs to TCP, UDP or SCTP). So everything is noted first and prerequisites are looked at in
 * the end; that is why mentions remember where they stood. Stricter than ovs-ofctl, which drops fields whose
 * prerequisites are missing and cuts values that do not fit: these are errors here.
 */
#include <errno.h>

#include "switch/flow_text.h"

/* Names that are no fields themselves. */
enum { MENTION_TP_SRC = FIELD_COUNT, MENTION_TP_DST, MENTIONS };

struct parser {
    struct text_source s;
    enum flow_parse how;
    bool is_key; /* flow_parse_key(): values only */
    struct flow_spec *f;
    uint32_t settings_seen;
    struct text mentions[MENTIONS]; /* at == NULL: not mentioned */
};

enum { TYPE_IPV4 = 0x0800, TYPE_ARP = 0x0806, TYPE_RARP = 0x8035, TYPE_IPV6 = 0x86dd };
enum { TYPE_MPLS = 0x8847, TYPE_MPLS_MULTICAST = 0x8848, TYPE_PBB = 0x88e7, TYPE_NONE = 0x05ff };
enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ICMPV6 = 58, PROTO_SCTP = 132 };

/* ---- match ---- */

static int add_bits(struct parser *p, enum field_id id, struct field_value v, struct field_value mask, struct text at)
{
    struct flow_match *m = &p->f->match;
    struct field_value before = field_get(&m->key, id), known = field_get(&m->mask, id);
    for (unsigned i = 0; i < FIELD_VALUE_BYTES; i++)
        if ((before.raw[i] ^ v.raw[i]) & known.raw[i] & mask.raw[i])
            return text_refuse(&p->s, at, "it contradicts what stands before it");
    field_set_masked(&m->key, id, v, mask);
    field_set_masked(&m->mask, id, mask, mask);
    return 0;
}

static int add_number(struct parser *p, enum field_id id, uint64_t n, struct text at)
{
    return add_bits(p, id, field_value_of(n), field_all_ones(id), at);
}

static const struct {
    const char *word;
    uint16_t type;
    uint8_t proto;
} shorthands[] = {
    {"ip", TYPE_IPV4, 0},
    {"ipv6", TYPE_IPV6, 0},
    {"ip6", TYPE_IPV6, 0},
    {"icmp", TYPE_IPV4, PROTO_ICMP},
    {"icmp6", TYPE_IPV6, PROTO_ICMPV6},
    {"tcp", TYPE_IPV4, PROTO_TCP},
    {"tcp6", TYPE_IPV6, PROTO_TCP},
    {"udp", TYPE_IPV4, PROTO_UDP},
    {"udp6", TYPE_IPV6, PROTO_UDP},
    {"sctp", TYPE_IPV4, PROTO_SCTP},
    {"sctp6", TYPE_IPV6, PROTO_SCTP},
    {"arp", TYPE_ARP, 0},
    {"rarp", TYPE_RARP, 0},
    {"mpls", TYPE_MPLS, 0},
    {"mplsm", TYPE_MPLS_MULTICAST, 0},
};

static int parse_shorthand(struct parser *p, struct text word)
{
    for (unsigned i = 0; i < sizeof shorthands / sizeof shorthands[0]; i++) {
        if (!text_is(word, shorthands[i].word)) continue;
        int ret = add_number(p, FIELD_ETH_TYPE, shorthands[i].type, word);
        if (!ret && shorthands[i].proto) ret = add_number(p, FIELD_IP_PROTO, shorthands[i].proto, word);
        return ret;
    }
    return text_fail(&p->s, word, "FIELD=VALUE, a protocol (ip, tcp, arp, ..) or a setting (priority=.., table=..)");
}

static int parse_dl_vlan(struct parser *p, const struct text_item *i)
{
    uint64_t n;
    if (!text_number(i->value, 0xffff, &n) || (n > 0xfff && n != 0xffff))
        return text_fail(&p->s, i->value, "a VLAN number (0 to 4095), or 0xffff for frames without a tag");
    return add_number(p, FIELD_VLAN_VID, n == 0xffff ? 0 : n | FLOW_VLAN_PRESENT, i->whole);
}

static int parse_pcp(struct parser *p, const struct text_item *i)
{
    struct field_value present = field_value_of(FLOW_VLAN_PRESENT), v, mask;
    int ret = text_field(&p->s, FIELD_VLAN_PCP, i->value, &v, &mask);
    if (!ret && !text_field_is_full(FIELD_VLAN_PCP, mask))
        ret = text_refuse(&p->s, i->value, "a priority is matched as a whole, without a mask");
    if (!ret) ret = add_bits(p, FIELD_VLAN_PCP, v, mask, i->whole);
    return ret ? ret : add_bits(p, FIELD_VLAN_VID, present, present, i->whole);
}

static int parse_nw_tos(struct parser *p, const struct text_item *i)
{
    uint64_t n;
    if (!text_number(i->value, 255, &n) || n % 4)
        return text_fail(&p->s, i->value, "a multiple of 4 up to 252 (DSCP, shifted by the two bits of ECN)");
    p->mentions[FIELD_IP_DSCP] = i->whole;
    return add_number(p, FIELD_IP_DSCP, n / 4, i->whole);
}

static int parse_in_port(struct parser *p, const struct text_item *i)
{
    uint32_t port;
    if (!text_port(&p->s, i->value, &port)) return text_fail(&p->s, i->value, "a port's number or name");
    return add_number(p, FIELD_IN_PORT, port, i->whole);
}

/* What a match key means: a field, or one of the names above. */
static unsigned find_mention(struct text key)
{
    if (text_is(key, "tp_src")) return MENTION_TP_SRC;
    if (text_is(key, "tp_dst")) return MENTION_TP_DST;
    if (text_is(key, "nw_frag")) return FIELD_IP_FRAG;
    enum field_id id = field_find(key.at, key.length);
    return id == FIELD_COUNT ? MENTIONS : id;
}

static int parse_field(struct parser *p, const struct text_item *i)
{
    if (text_is(i->key, "dl_vlan")) return parse_dl_vlan(p, i);
    if (text_is(i->key, "dl_vlan_pcp") || text_is(i->key, "vlan_pcp")) return parse_pcp(p, i);
    if (text_is(i->key, "nw_tos")) return parse_nw_tos(p, i);
    unsigned what = find_mention(i->key);
    if (what == FIELD_IN_PORT || what == FIELD_IN_PHY_PORT) return parse_in_port(p, i);
    enum field_id id = what == MENTION_TP_SRC   ? FIELD_TCP_SRC
                       : what == MENTION_TP_DST ? FIELD_TCP_DST
                                                : (enum field_id)what;
    if (what == MENTIONS) return text_fail(&p->s, i->key, "a field or a setting");
    if (text_is(i->value, "*") && !p->is_key) return 0;
    struct field_value v, mask;
    int ret = text_field(&p->s, id, i->value, &v, &mask);
    if (ret) return ret;
    if (!text_field_is_full(id, mask) && !text_field_maskable(id))
        return text_refuse(&p->s, i->value, "%s is matched as a whole, without a mask", fields[id].name);
    if (p->is_key && id != FIELD_IP_FRAG && id != FIELD_TCP_FLAGS && !text_field_is_full(id, mask))
        return text_refuse(&p->s, i->value, "no mask, as this is one packet");
    p->mentions[what] = i->whole;
    return add_bits(p, id, v, mask, i->whole);
}

/* ---- prerequisites ---- */

static unsigned known(const struct flow_match *m, enum field_id id)
{
    if (!text_field_is_full(id, field_get(&m->mask, id))) return UINT32_MAX;
    return (unsigned)field_value_u64(field_get(&m->key, id));
}

/* ARP's operation may be called nw_proto. */
static int move_arp_op(struct parser *p)
{
    struct flow_match *m = &p->f->match;
    uint64_t op = m->key.nw_proto;
    if (!p->mentions[FIELD_IP_PROTO].at) return 0;
    m->key.nw_proto = m->mask.nw_proto = 0;
    p->mentions[FIELD_ARP_OP] = p->mentions[FIELD_IP_PROTO];
    p->mentions[FIELD_IP_PROTO].at = NULL;
    return add_number(p, FIELD_ARP_OP, op, p->mentions[FIELD_ARP_OP]);
}

/* The field that a mention stands for in this match. */
static enum field_id resolve(unsigned mention, const struct flow_match *m)
{
    unsigned type = known(m, FIELD_ETH_TYPE), proto = known(m, FIELD_IP_PROTO);
    bool arp = type == TYPE_ARP || type == TYPE_RARP, src = mention == MENTION_TP_SRC;
    switch (mention) {
    case FIELD_IPV4_SRC: return arp ? FIELD_ARP_SPA : FIELD_IPV4_SRC;
    case FIELD_IPV4_DST: return arp ? FIELD_ARP_TPA : FIELD_IPV4_DST;
    case FIELD_ICMPV4_TYPE: return type == TYPE_IPV6 ? FIELD_ICMPV6_TYPE : FIELD_ICMPV4_TYPE;
    case FIELD_ICMPV4_CODE: return type == TYPE_IPV6 ? FIELD_ICMPV6_CODE : FIELD_ICMPV4_CODE;
    case MENTION_TP_SRC:
    case MENTION_TP_DST:
        if (proto == PROTO_UDP) return src ? FIELD_UDP_SRC : FIELD_UDP_DST;
        if (proto == PROTO_SCTP) return src ? FIELD_SCTP_SRC : FIELD_SCTP_DST;
        return src ? FIELD_TCP_SRC : FIELD_TCP_DST;
    default: return (enum field_id)mention;
    }
}

static const char *const need_texts[] = {
    [NEEDS_NOTHING] = "",
    [NEEDS_VLAN] = "a VLAN (dl_vlan=..)",
    [NEEDS_IP] = "ip or ipv6",
    [NEEDS_IPV4] = "ip",
    [NEEDS_IPV6] = "ipv6",
    [NEEDS_TCP] = "tcp or tcp6",
    [NEEDS_UDP] = "udp or udp6",
    [NEEDS_SCTP] = "sctp or sctp6",
    [NEEDS_ICMPV4] = "icmp",
    [NEEDS_ICMPV6] = "icmp6",
    [NEEDS_ND] = "icmp6,icmp_type=135 or 136",
    [NEEDS_NS] = "icmp6,icmp_type=135",
    [NEEDS_NA] = "icmp6,icmp_type=136",
    [NEEDS_ARP] = "arp or rarp",
    [NEEDS_MPLS] = "mpls or mplsm",
    [NEEDS_PBB] = "dl_type=0x88e7",
};

const char *text_needs(enum field_needs needs)
{
    return need_texts[needs];
}

static int check_mentions(struct parser *p)
{
    for (unsigned what = 0; what < MENTIONS; what++) {
        if (!p->mentions[what].at) continue;
        enum field_id id = resolve(what, &p->f->match);
        if (field_is_ensured(id, &p->f->match)) continue;
        if (what >= FIELD_COUNT) return text_refuse(&p->s, p->mentions[what], "it needs tcp, udp or sctp");
        return text_refuse(&p->s, p->mentions[what], "it needs %s", need_texts[fields[id].needs]);
    }
    return 0;
}

static int finish_match(struct parser *p)
{
    unsigned type = known(&p->f->match, FIELD_ETH_TYPE);
    int ret = type == TYPE_ARP || type == TYPE_RARP ? move_arp_op(p) : 0;
    return ret ? ret : check_mentions(p);
}

/* ---- settings ---- */

enum { TO_ADD = 1 << FLOW_PARSE_ADD, TO_MOD = 1 << FLOW_PARSE_MOD, TO_DEL = 1 << FLOW_PARSE_DEL };
enum { TO_SELECT = 1 << FLOW_PARSE_SELECT, TO_CHANGE = TO_ADD | TO_MOD, TO_CHOOSE = TO_DEL | TO_SELECT };
enum { TO_ANY = TO_CHANGE | TO_CHOOSE };

static int set_table(struct parser *p, struct text t)
{
    uint64_t n, max = 1u << p->how & TO_CHOOSE ? SWITCH_TABLE_ALL : SWITCH_TABLES - 1;
    if (!text_number(t, max, &n) || (n >= SWITCH_TABLES && n != SWITCH_TABLE_ALL))
        return text_fail(&p->s, t, "a table's number (0 to %u)", SWITCH_TABLES - 1);
    p->f->table = (uint8_t)n;
    return 0;
}

static int set_priority(struct parser *p, struct text t)
{
    uint64_t n;
    if (!text_number(t, UINT16_MAX, &n)) return text_fail(&p->s, t, "a priority (0 to 65535)");
    p->f->priority = (uint16_t)n;
    p->f->has_priority = true;
    return 0;
}

static int set_cookie(struct parser *p, struct text t)
{
    struct text value, mask;
    bool masked = text_split(t, '/', &value, &mask);
    if (!text_number(value, UINT64_MAX, &p->f->cookie))
        return text_fail(&p->s, value, "a cookie (a number of 64 bits)");
    if (masked && p->how == FLOW_PARSE_ADD) return text_refuse(&p->s, mask, "no mask, as a new flow has one cookie");
    if (masked && text_is(mask, "-1")) p->f->cookie_mask = UINT64_MAX;
    else if (masked && !text_number(mask, UINT64_MAX, &p->f->cookie_mask))
        return text_fail(&p->s, mask, "a mask of 64 bits, or -1");
    else if (!masked && 1u << p->how & TO_CHOOSE) p->f->cookie_mask = UINT64_MAX;
    return 0;
}

static int set_seconds(struct parser *p, struct text t, uint16_t *seconds)
{
    uint64_t n;
    if (!text_number(t, UINT16_MAX, &n)) return text_fail(&p->s, t, "seconds (0 to 65535; 0: no limit)");
    *seconds = (uint16_t)n;
    return 0;
}

static int set_idle(struct parser *p, struct text t)
{
    return set_seconds(p, t, &p->f->idle_timeout_s);
}

static int set_hard(struct parser *p, struct text t)
{
    return set_seconds(p, t, &p->f->hard_timeout_s);
}

static int set_out_port(struct parser *p, struct text t)
{
    if (!text_port(&p->s, t, &p->f->out_port)) return text_fail(&p->s, t, "a port's number or name");
    return 0;
}

static int set_out_group(struct parser *p, struct text t)
{
    uint64_t n = SWITCH_PORT_ANY;
    if (!text_is(t, "any") && !text_number(t, UINT32_MAX, &n)) return text_fail(&p->s, t, "a group's number");
    p->f->out_group = (uint32_t)n;
    return 0;
}

static const struct {
    const char *name;
    int (*set)(struct parser *p, struct text value); /* NULL: a flag */
    uint16_t flag;
    uint8_t allowed;
} settings[] = {
    {"table", set_table, 0, TO_ANY},
    {"priority", set_priority, 0, TO_ANY},
    {"cookie", set_cookie, 0, TO_ANY},
    {"idle_timeout", set_idle, 0, TO_CHANGE},
    {"hard_timeout", set_hard, 0, TO_CHANGE},
    {"out_port", set_out_port, 0, TO_CHOOSE},
    {"out_group", set_out_group, 0, TO_CHOOSE},
    {"send_flow_rem", NULL, FLOW_SEND_REMOVED, TO_CHANGE},
    {"check_overlap", NULL, FLOW_CHECK_OVERLAP, TO_CHANGE},
    {"reset_counts", NULL, FLOW_RESET_COUNTS, TO_CHANGE},
    {"no_packet_counts", NULL, FLOW_NO_PACKET_COUNTS, TO_CHANGE},
    {"no_byte_counts", NULL, FLOW_NO_BYTE_COUNTS, TO_CHANGE},
};

/* 1: it is none. */
static int parse_setting(struct parser *p, const struct text_item *i)
{
    for (unsigned n = 0; !p->is_key && n < sizeof settings / sizeof settings[0]; n++) {
        if (!text_is(i->key, settings[n].name)) continue;
        if (!(settings[n].allowed >> p->how & 1))
            return text_refuse(&p->s, i->key, "it does not %s",
                               1u << p->how & TO_CHOOSE ? "select flows" : "belong to a flow, it selects flows");
        if (p->settings_seen >> n & 1) return text_refuse(&p->s, i->key, "it was said before");
        p->settings_seen |= 1u << n;
        if (settings[n].set) return settings[n].set(p, i->value);
        if (i->has_value) return text_refuse(&p->s, i->whole, "it has no value");
        p->f->flags |= settings[n].flag;
        return 0;
    }
    return 1;
}

static int parse_item(struct parser *p, const struct text_item *i)
{
    int ret = parse_setting(p, i);
    if (ret <= 0) return ret;
    return i->has_value ? parse_field(p, i) : parse_shorthand(p, i->key);
}

/* ---- the whole ---- */

static bool is_actions(const struct text_item *i)
{
    return text_is(i->key, "actions") || text_is(i->key, "action");
}

/* "actions=" may be followed by anything, unbalanced parentheses too: it must not be taken for an item first. */
static bool starts_actions(struct text rest, struct text *actions)
{
    struct text key, value;
    if (!text_split(rest, '=', &key, &value)) return false;
    struct text_item i = {.key = key};
    if (!is_actions(&i)) return false;
    *actions = value;
    return true;
}

static void skip_separators(struct text *rest)
{
    size_t n = 0;
    while (n < rest->length && strchr(", \t\r\n", rest->at[n]))
        n++;
    *rest = (struct text){rest->at + n, rest->length - n};
}

/* Everything up to the actions. *actions: NULL when there are none. */
static int parse_items(struct parser *p, struct text rest, struct text *actions)
{
    *actions = (struct text){0};
    for (;;) {
        struct text_item i;
        skip_separators(&rest);
        if (!p->is_key && starts_actions(rest, actions)) return 0;
        int ret = text_next(&p->s, &rest, &i);
        if (ret <= 0) return ret;
        if (is_actions(&i)) return text_fail(&p->s, i.whole, p->is_key ? "fields only" : "actions=LIST");
        ret = parse_item(p, &i);
        if (ret) return ret;
    }
}

static int text_of(struct parser *p, const char *text, struct text *out)
{
    size_t length = strnlen(text, FLOW_TEXT_MAX + 1);
    p->s.start = text;
    *out = (struct text){text, length};
    if (length > FLOW_TEXT_MAX)
        return errmsg_set(p->s.e, EINVAL, "the flow has more than %u characters", FLOW_TEXT_MAX);
    return 0;
}

int flow_parse(struct flow_spec *out, const char *text, enum flow_parse how, const struct flow_names *names,
               struct errmsg *e)
{
    bool choose = how == FLOW_PARSE_DEL || how == FLOW_PARSE_SELECT;
    *out = (struct flow_spec){.table = choose ? SWITCH_TABLE_ALL : 0,
                              .priority = FLOW_PRIORITY_DEFAULT,
                              .out_port = SWITCH_PORT_ANY,
                              .out_group = SWITCH_PORT_ANY};
    struct parser p = {.s = {.names = names, .e = e}, .how = how, .f = out};
    struct text all, actions;
    int ret = text_of(&p, text, &all);
    if (!ret) ret = parse_items(&p, all, &actions);
    if (!ret) ret = finish_match(&p);
    if (ret) return ret;
    if (choose && actions.at) return text_refuse(&p.s, actions, "actions do not select flows");
    if (choose) return 0;
    if (!actions.at) return text_fail(&p.s, (struct text){all.at + all.length, 0}, "actions=LIST");
    return text_actions(&p.s, actions, &out->match, &out->instructions);
}

/* ---- a packet ---- */

static void imply(struct flow_match *m, enum field_id id, uint64_t value)
{
    if (!text_field_is_zero(field_get(&m->mask, id))) return;
    field_set(&m->key, id, field_value_of(value));
    field_set(&m->mask, id, field_all_ones(id));
}

/* What a packet must be to have such a field, as far as it was not said. */
static void imply_for(struct flow_match *m, enum field_needs needs, bool ipv6)
{
    static const uint8_t protos[] = {
        [NEEDS_TCP] = PROTO_TCP,     [NEEDS_UDP] = PROTO_UDP,       [NEEDS_SCTP] = PROTO_SCTP,
        [NEEDS_ICMPV4] = PROTO_ICMP, [NEEDS_ICMPV6] = PROTO_ICMPV6, [NEEDS_ND] = PROTO_ICMPV6,
        [NEEDS_NS] = PROTO_ICMPV6,   [NEEDS_NA] = PROTO_ICMPV6,     [NEEDS_PBB] = 0,
    };
    static const uint16_t types[] = {
        [NEEDS_IPV4] = TYPE_IPV4, [NEEDS_ICMPV4] = TYPE_IPV4, [NEEDS_IPV6] = TYPE_IPV6, [NEEDS_ICMPV6] = TYPE_IPV6,
        [NEEDS_ND] = TYPE_IPV6,   [NEEDS_NS] = TYPE_IPV6,     [NEEDS_NA] = TYPE_IPV6,   [NEEDS_ARP] = TYPE_ARP,
        [NEEDS_MPLS] = TYPE_MPLS, [NEEDS_PBB] = TYPE_PBB,
    };
    if (needs == NEEDS_NOTHING || needs == NEEDS_VLAN) return;
    imply(m, FIELD_ETH_TYPE, types[needs] ? types[needs] : ipv6 ? TYPE_IPV6 : TYPE_IPV4);
    if (protos[needs]) imply(m, FIELD_IP_PROTO, protos[needs]);
    if (needs == NEEDS_NS || needs == NEEDS_ND) imply(m, FIELD_ICMPV6_TYPE, 135);
    if (needs == NEEDS_NA) imply(m, FIELD_ICMPV6_TYPE, 136);
}

static void imply_prerequisites(struct parser *p)
{
    bool ipv6 = p->mentions[FIELD_IPV6_SRC].at || p->mentions[FIELD_IPV6_DST].at || p->mentions[FIELD_IPV6_FLABEL].at;
    /* Solicitations and advertisements differ: those that say which come first. */
    static const enum field_id first[] = {FIELD_ND_SLL, FIELD_ND_TLL};
    for (unsigned i = 0; i < 2; i++)
        if (p->mentions[first[i]].at) imply_for(&p->f->match, fields[first[i]].needs, true);
    for (unsigned id = 0; id < FIELD_COUNT; id++)
        if (p->mentions[id].at) imply_for(&p->f->match, fields[id].needs, ipv6);
}

/* What every packet has, though nobody says so: tags with a type, a bottom of its label stack, a time to live. */
static void complete(struct flow_match *m)
{
    unsigned type = known(m, FIELD_ETH_TYPE);
    if (be16_get(m->key.vlan[0].tci) & FLOW_VLAN_PRESENT) m->key.vlan[0].tpid = be16_make(0x8100);
    if (type == UINT32_MAX) m->key.eth_type = be16_make(TYPE_NONE);
    if (type == TYPE_PBB) m->key.pbb_isid.raw[0] |= 1;
    if (type == TYPE_MPLS || type == TYPE_MPLS_MULTICAST) {
        imply(m, FIELD_MPLS_BOS, 1);
        imply(m, FIELD_MPLS_TTL, 64);
    }
    if (type == TYPE_IPV4 || type == TYPE_IPV6) imply(m, FIELD_IP_TTL, 64);
}

int flow_parse_key(struct flow_key *out, const char *text, const struct flow_names *names, struct errmsg *e)
{
    struct flow_spec f = {0};
    struct parser p = {.s = {.names = names, .e = e}, .how = FLOW_PARSE_SELECT, .is_key = true, .f = &f};
    struct text all, actions;
    int ret = text_of(&p, text, &all);
    if (!ret) ret = parse_items(&p, all, &actions);
    if (ret) return ret;
    imply_prerequisites(&p);
    ret = finish_match(&p);
    if (ret) return ret;
    complete(&f.match);
    *out = f.match.key;
    return 0;
}
