/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flows as text, in the normal form: what ovs-ofctl dump-flows -O OpenFlow15 writes. What was written is read back as the
 * same flow, whatever names ports have.
 */
#include <inttypes.h>
#include <stdarg.h>

#include "switch/flow_text.h"

/* ---- match ---- */

struct line { /* items with commas between them */
    FILE *out;
    bool begun;
};

static void begin_item(struct line *l)
{
    if (l->begun) fputc(',', l->out);
    l->begun = true;
}

__attribute__((format(printf, 2, 3))) static void item(struct line *l, const char *format, ...)
{
    va_list args;
    begin_item(l);
    va_start(args, format);
    vfprintf(l->out, format, args);
    va_end(args);
}

static bool is_known(const struct flow_match *m, enum field_id id)
{
    return text_field_is_full(id, field_get(&m->mask, id));
}

static unsigned value_of(const struct flow_match *m, enum field_id id)
{
    return is_known(m, id) ? (unsigned)field_value_u64(field_get(&m->key, id)) : UINT32_MAX;
}

static void put(struct line *l, const struct flow_match *m, enum field_id id, const char *name)
{
    struct field_value mask = field_get(&m->mask, id);
    if (text_field_is_zero(mask)) return;
    item(l, "%s=", name ? name : fields[id].name);
    text_field_print(l->out, id, field_get(&m->key, id), mask);
}

struct protocol {
    const char *name; /* NULL: none */
    unsigned type, proto;
    bool names_proto; /* the name says the IP protocol too */
};

enum { TYPE_IPV4 = 0x0800, TYPE_ARP = 0x0806, TYPE_RARP = 0x8035, TYPE_IPV6 = 0x86dd };
enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ICMPV6 = 58, PROTO_SCTP = 132 };

static const char *name_of_proto(unsigned type, unsigned proto)
{
    bool six = type == TYPE_IPV6;
    switch (proto) {
    case PROTO_TCP: return six ? "tcp6" : "tcp";
    case PROTO_UDP: return six ? "udp6" : "udp";
    case PROTO_SCTP: return six ? "sctp6" : "sctp";
    case PROTO_ICMP: return six ? NULL : "icmp";
    case PROTO_ICMPV6: return six ? "icmp6" : NULL;
    default: return NULL;
    }
}

static struct protocol protocol_of(const struct flow_match *m)
{
    struct protocol p = {.type = value_of(m, FIELD_ETH_TYPE), .proto = value_of(m, FIELD_IP_PROTO)};
    switch (p.type) {
    case TYPE_IPV4:
    case TYPE_IPV6:
        p.name = name_of_proto(p.type, p.proto);
        p.names_proto = p.name;
        if (!p.name) p.name = p.type == TYPE_IPV4 ? "ip" : "ipv6";
        break;
    case TYPE_ARP: p.name = "arp"; break;
    case TYPE_RARP: p.name = "rarp"; break;
    case 0x8847: p.name = "mpls"; break;
    case 0x8848: p.name = "mplsm"; break;
    default: break;
    }
    return p;
}

/* The outer tag in the most readable way that says exactly the same. */
static void put_vlan(struct line *l, const struct flow_match *m)
{
    unsigned tci = be16_get(m->key.vlan[0].tci), mask = be16_get(m->mask.vlan[0].tci);
    unsigned vid = mask & 0xfff, pcp = mask & 0xe000;
    bool tagged = mask & tci & FLOW_VLAN_PRESENT;
    if (tagged && (vid == 0 || vid == 0xfff) && (pcp == 0 || pcp == 0xe000) && (vid || pcp)) {
        if (vid) item(l, "dl_vlan=%u", tci & 0xfff);
        if (pcp) item(l, "dl_vlan_pcp=%u", tci >> 13);
        return;
    }
    put(l, m, FIELD_VLAN_TCI, NULL);
}

static void put_metadata(struct line *l, const struct flow_match *m, const struct flow_names *names)
{
    for (unsigned i = 0; i < 16; i++)
        put(l, m, FIELD_REG0 + i, NULL);
    put(l, m, FIELD_TUNNEL_ID, NULL);
    put(l, m, FIELD_METADATA, NULL);
    if (!is_known(m, FIELD_IN_PORT)) return;
    item(l, "in_port=");
    text_port_print(l->out, value_of(m, FIELD_IN_PORT), names);
}

static void put_addresses(struct line *l, const struct flow_match *m, const struct protocol *p)
{
    bool arp = p->type == TYPE_ARP || p->type == TYPE_RARP;
    put(l, m, FIELD_ETH_SRC, NULL);
    put(l, m, FIELD_ETH_DST, NULL);
    if (!p->name) put(l, m, FIELD_ETH_TYPE, NULL);
    put(l, m, FIELD_IPV6_SRC, NULL);
    put(l, m, FIELD_IPV6_DST, NULL);
    put(l, m, arp ? FIELD_ARP_SPA : FIELD_IPV4_SRC, NULL);
    put(l, m, arp ? FIELD_ARP_TPA : FIELD_IPV4_DST, NULL);
    put(l, m, FIELD_IPV6_FLABEL, NULL);
    put(l, m, FIELD_IPV6_EXTHDR, NULL);
    if (!p->names_proto) put(l, m, FIELD_IP_PROTO, NULL);
    put(l, m, FIELD_ARP_OP, NULL);
    if (!arp) return;
    put(l, m, FIELD_ARP_SHA, NULL);
    put(l, m, FIELD_ARP_THA, NULL);
}

static void put_dscp(struct line *l, const struct flow_match *m)
{
    if (is_known(m, FIELD_IP_DSCP)) item(l, "nw_tos=%u", 4 * value_of(m, FIELD_IP_DSCP));
    else put(l, m, FIELD_IP_DSCP, NULL);
}

static void put_l4(struct line *l, const struct flow_match *m, const struct protocol *p)
{
    bool icmp = p->type == TYPE_IPV4 && p->proto == PROTO_ICMP,
         icmp6 = p->type == TYPE_IPV6 && p->proto == PROTO_ICMPV6;
    if (icmp || icmp6) {
        put(l, m, FIELD_ICMPV4_TYPE, "icmp_type");
        put(l, m, FIELD_ICMPV4_CODE, "icmp_code");
    } else {
        put(l, m, FIELD_TCP_SRC, "tp_src");
        put(l, m, FIELD_TCP_DST, "tp_dst");
    }
    put(l, m, FIELD_TCP_FLAGS, NULL);
    put(l, m, FIELD_ND_TARGET, NULL);
    if (!icmp6) return;
    put(l, m, FIELD_ND_SLL, NULL);
    put(l, m, FIELD_ND_TLL, NULL);
}

/* What no field has, and no flow can match, but megaflows do: types of tags, the inner tag, labels below the first. */
static void put_inner(struct line *l, const struct flow_match *m)
{
    const struct flow_key *k = &m->key, *mask = &m->mask;
    for (unsigned i = 0; i < FLOW_VLANS; i++) {
        unsigned tpid = be16_get(mask->vlan[i].tpid), tci = be16_get(mask->vlan[i].tci);
        if (tpid) item(l, "vlan_tpid%u=0x%04x/0x%04x", i, be16_get(k->vlan[i].tpid), tpid);
        if (i && tci) item(l, "vlan_tci%u=0x%04x/0x%04x", i, be16_get(k->vlan[i].tci), tci);
    }
    for (unsigned i = 1; i < FLOW_MPLS_LABELS; i++)
        if (be32_get(mask->mpls[i])) item(l, "mpls%u=0x%08x/0x%08x", i, be32_get(k->mpls[i]), be32_get(mask->mpls[i]));
}

static void put_rest(struct line *l, const struct flow_match *m, const struct protocol *p)
{
    put_vlan(l, m);
    put_addresses(l, m, p);
    put_dscp(l, m);
    put(l, m, FIELD_IP_ECN, NULL);
    put(l, m, FIELD_IP_TTL, NULL);
    put(l, m, FIELD_MPLS_LABEL, NULL);
    put(l, m, FIELD_MPLS_TC, NULL);
    put(l, m, FIELD_MPLS_TTL, NULL);
    put(l, m, FIELD_MPLS_BOS, NULL);
    put(l, m, FIELD_PBB_ISID, NULL);
    put(l, m, FIELD_IP_FRAG, "nw_frag");
    put_l4(l, m, p);
    put_inner(l, m);
}

static void put_match(struct line *l, const struct flow_match *m, const struct flow_names *names)
{
    struct protocol p = protocol_of(m);
    if (p.name) item(l, "%s", p.name);
    put_metadata(l, m, names);
    put_rest(l, m, &p);
}

void flow_format_match(FILE *out, const struct flow_match *m, const struct flow_names *names)
{
    put_match(&(struct line){.out = out}, m, names);
}

/* ---- flows ---- */

static const struct {
    const char *name;
    uint16_t flag;
} flag_names[] = {
    {"send_flow_rem", FLOW_SEND_REMOVED},    {"check_overlap", FLOW_CHECK_OVERLAP},
    {"reset_counts", FLOW_RESET_COUNTS},     {"no_packet_counts", FLOW_NO_PACKET_COUNTS},
    {"no_byte_counts", FLOW_NO_BYTE_COUNTS},
};

static void put_settings(struct line *l, const struct flow_spec *f)
{
    if (f->table != 0) item(l, "table=%u", f->table);
    if (f->cookie || f->cookie_mask) item(l, "cookie=%#" PRIx64, f->cookie);
    if (f->cookie_mask) fprintf(l->out, "/%#" PRIx64, f->cookie_mask);
    if (f->idle_timeout_s) item(l, "idle_timeout=%u", f->idle_timeout_s);
    if (f->hard_timeout_s) item(l, "hard_timeout=%u", f->hard_timeout_s);
    for (unsigned i = 0; i < sizeof flag_names / sizeof flag_names[0]; i++)
        if (f->flags & flag_names[i].flag) item(l, "%s", flag_names[i].name);
}

static void put_flow(struct line *l, const struct flow_spec *f, const struct flow_names *names)
{
    if (f->priority != FLOW_PRIORITY_DEFAULT) item(l, "priority=%u", f->priority);
    put_match(l, &f->match, names);
    fprintf(l->out, "%sactions=", l->begun ? " " : "");
    flow_format_actions(l->out, &f->instructions, names);
}

void flow_format(FILE *out, const struct flow_spec *f, const struct flow_names *names)
{
    put_flow(&(struct line){.out = out}, f, names);
}

void flow_format_all(FILE *out, const struct flow_spec *f, const struct flow_names *names)
{
    struct line l = {.out = out};
    put_settings(&l, f);
    put_flow(&l, f, names);
}
