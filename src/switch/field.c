/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of fields, and reading and writing them in a key. Not for the packet path: translation and parsers use it.
 *
 * nw_tos (DSCP in the upper six bits of a byte) and tp_src (of the protocol that the flow has) are other notations, not
 * fields; the text syntax knows them.
 */
#include "switch/field.h"

#include <stddef.h>

#define AT(member) (offsetof(struct flow_key, member) * 8)

#define FIELD(id, n, at, width, number, mask, write, need, ...)                                                        \
    [FIELD_##id] = {.name = n,                                                                                         \
                    .aliases = {__VA_ARGS__},                                                                          \
                    .bit_at = at,                                                                                      \
                    .bits = width,                                                                                     \
                    .oxm = number,                                                                                     \
                    .maskable = mask,                                                                                  \
                    .writable = write,                                                                                 \
                    .needs = NEEDS_##need}

#define REGISTER(n)                                                                                                    \
    [FIELD_REG0 + n] = {.name = "reg" #n,                                                                              \
                        .aliases = {"NXM_NX_REG" #n},                                                                  \
                        .bit_at = AT(reg[n]),                                                                          \
                        .bits = 32,                                                                                    \
                        .oxm = FIELD_NO_OXM,                                                                           \
                        .maskable = true,                                                                              \
                        .writable = true,                                                                              \
                        .needs = NEEDS_NOTHING}

/* Maskable fields that OpenFlow 1.3 does not have are those that ovs-fields(7) calls maskable. */
const struct field fields[FIELD_COUNT] = {
    FIELD(IN_PORT, "in_port", AT(in_port), 32, 0, false, false, NOTHING, "OXM_OF_IN_PORT"),
    FIELD(IN_PHY_PORT, "in_phy_port", AT(in_port), 32, 1, false, false, NOTHING, "OXM_OF_IN_PHY_PORT"),
    FIELD(METADATA, "metadata", AT(metadata), 64, 2, true, true, NOTHING, "OXM_OF_METADATA"),
    FIELD(ETH_DST, "dl_dst", AT(eth_dst), 48, 3, true, true, NOTHING, "eth_dst", "OXM_OF_ETH_DST", "NXM_OF_ETH_DST"),
    FIELD(ETH_SRC, "dl_src", AT(eth_src), 48, 4, true, true, NOTHING, "eth_src", "OXM_OF_ETH_SRC", "NXM_OF_ETH_SRC"),
    FIELD(ETH_TYPE, "dl_type", AT(eth_type), 16, 5, false, true, NOTHING, "eth_type", "OXM_OF_ETH_TYPE",
          "NXM_OF_ETH_TYPE"),
    FIELD(VLAN_VID, "vlan_vid", AT(vlan[0].tci) + 3, 13, 6, true, true, NOTHING, "OXM_OF_VLAN_VID"),
    FIELD(VLAN_PCP, "vlan_pcp", AT(vlan[0].tci), 3, 7, false, true, VLAN, "OXM_OF_VLAN_PCP"),
    FIELD(VLAN_TCI, "vlan_tci", AT(vlan[0].tci), 16, FIELD_NO_OXM, true, true, NOTHING, "NXM_OF_VLAN_TCI"),
    FIELD(IP_DSCP, "ip_dscp", AT(nw_tos), 6, 8, false, true, IP, "nw_tos_shifted", "OXM_OF_IP_DSCP"),
    FIELD(IP_ECN, "nw_ecn", AT(nw_tos) + 6, 2, 9, false, true, IP, "ip_ecn", "OXM_OF_IP_ECN", "NXM_NX_IP_ECN"),
    FIELD(IP_PROTO, "nw_proto", AT(nw_proto), 8, 10, false, true, IP, "ip_proto", "OXM_OF_IP_PROTO", "NXM_OF_IP_PROTO"),
    FIELD(IP_TTL, "nw_ttl", AT(nw_ttl), 8, FIELD_NO_OXM, false, true, IP, "ip_ttl", "NXM_NX_IP_TTL"),
    FIELD(IP_FRAG, "ip_frag", AT(nw_frag) + 6, 2, FIELD_NO_OXM, true, false, IP, "NXM_NX_IP_FRAG"),
    FIELD(IPV4_SRC, "nw_src", AT(ipv4_src), 32, 11, true, true, IPV4, "ip_src", "OXM_OF_IPV4_SRC", "NXM_OF_IP_SRC"),
    FIELD(IPV4_DST, "nw_dst", AT(ipv4_dst), 32, 12, true, true, IPV4, "ip_dst", "OXM_OF_IPV4_DST", "NXM_OF_IP_DST"),
    FIELD(TCP_SRC, "tcp_src", AT(tp_src), 16, 13, false, true, TCP, "OXM_OF_TCP_SRC", "NXM_OF_TCP_SRC"),
    FIELD(TCP_DST, "tcp_dst", AT(tp_dst), 16, 14, false, true, TCP, "OXM_OF_TCP_DST", "NXM_OF_TCP_DST"),
    FIELD(TCP_FLAGS, "tcp_flags", AT(tcp_flags) + 4, 12, FIELD_NO_OXM, true, false, TCP, "OXM_OF_TCP_FLAGS",
          "NXM_NX_TCP_FLAGS"),
    FIELD(UDP_SRC, "udp_src", AT(tp_src), 16, 15, false, true, UDP, "OXM_OF_UDP_SRC", "NXM_OF_UDP_SRC"),
    FIELD(UDP_DST, "udp_dst", AT(tp_dst), 16, 16, false, true, UDP, "OXM_OF_UDP_DST", "NXM_OF_UDP_DST"),
    FIELD(SCTP_SRC, "sctp_src", AT(tp_src), 16, 17, false, true, SCTP, "OXM_OF_SCTP_SRC"),
    FIELD(SCTP_DST, "sctp_dst", AT(tp_dst), 16, 18, false, true, SCTP, "OXM_OF_SCTP_DST"),
    FIELD(ICMPV4_TYPE, "icmp_type", AT(tp_src) + 8, 8, 19, false, true, ICMPV4, "icmpv4_type", "OXM_OF_ICMPV4_TYPE",
          "NXM_OF_ICMP_TYPE"),
    FIELD(ICMPV4_CODE, "icmp_code", AT(tp_dst) + 8, 8, 20, false, true, ICMPV4, "icmpv4_code", "OXM_OF_ICMPV4_CODE",
          "NXM_OF_ICMP_CODE"),
    FIELD(ARP_OP, "arp_op", AT(arp_op), 16, 21, false, true, ARP, "OXM_OF_ARP_OP", "NXM_OF_ARP_OP"),
    FIELD(ARP_SPA, "arp_spa", AT(ipv4_src), 32, 22, true, true, ARP, "OXM_OF_ARP_SPA", "NXM_OF_ARP_SPA"),
    FIELD(ARP_TPA, "arp_tpa", AT(ipv4_dst), 32, 23, true, true, ARP, "OXM_OF_ARP_TPA", "NXM_OF_ARP_TPA"),
    FIELD(ARP_SHA, "arp_sha", AT(arp_sha), 48, 24, true, true, ARP, "OXM_OF_ARP_SHA", "NXM_NX_ARP_SHA"),
    FIELD(ARP_THA, "arp_tha", AT(arp_tha), 48, 25, true, true, ARP, "OXM_OF_ARP_THA", "NXM_NX_ARP_THA"),
    FIELD(IPV6_SRC, "ipv6_src", AT(ipv6_src), 128, 26, true, true, IPV6, "OXM_OF_IPV6_SRC", "NXM_NX_IPV6_SRC"),
    FIELD(IPV6_DST, "ipv6_dst", AT(ipv6_dst), 128, 27, true, true, IPV6, "OXM_OF_IPV6_DST", "NXM_NX_IPV6_DST"),
    FIELD(IPV6_FLABEL, "ipv6_label", AT(ipv6_label) + 12, 20, 28, true, true, IPV6, "ipv6_flabel", "OXM_OF_IPV6_FLABEL",
          "NXM_NX_IPV6_LABEL"),
    FIELD(ICMPV6_TYPE, "icmpv6_type", AT(tp_src) + 8, 8, 29, false, true, ICMPV6, "OXM_OF_ICMPV6_TYPE",
          "NXM_NX_ICMPV6_TYPE"),
    FIELD(ICMPV6_CODE, "icmpv6_code", AT(tp_dst) + 8, 8, 30, false, true, ICMPV6, "OXM_OF_ICMPV6_CODE",
          "NXM_NX_ICMPV6_CODE"),
    FIELD(ND_TARGET, "nd_target", AT(nd_target), 128, 31, false, true, ND, "ipv6_nd_target", "OXM_OF_IPV6_ND_TARGET",
          "NXM_NX_ND_TARGET"),
    FIELD(ND_SLL, "nd_sll", AT(arp_sha), 48, 32, false, true, NS, "ipv6_nd_sll", "OXM_OF_IPV6_ND_SLL", "NXM_NX_ND_SLL"),
    FIELD(ND_TLL, "nd_tll", AT(arp_tha), 48, 33, false, true, NA, "ipv6_nd_tll", "OXM_OF_IPV6_ND_TLL", "NXM_NX_ND_TLL"),
    FIELD(MPLS_LABEL, "mpls_label", AT(mpls[0]), 20, 34, false, true, MPLS, "OXM_OF_MPLS_LABEL"),
    FIELD(MPLS_TC, "mpls_tc", AT(mpls[0]) + 20, 3, 35, false, true, MPLS, "OXM_OF_MPLS_TC"),
    FIELD(MPLS_BOS, "mpls_bos", AT(mpls[0]) + 23, 1, 36, false, true, MPLS, "OXM_OF_MPLS_BOS"),
    FIELD(MPLS_TTL, "mpls_ttl", AT(mpls[0]) + 24, 8, FIELD_NO_OXM, false, true, MPLS, "NXM_NX_MPLS_TTL"),
    FIELD(PBB_ISID, "pbb_isid", AT(pbb_isid) + 8, 24, 37, true, true, PBB, "OXM_OF_PBB_ISID"),
    FIELD(TUNNEL_ID, "tun_id", AT(tunnel_id), 64, 38, true, true, NOTHING, "tunnel_id", "OXM_OF_TUNNEL_ID",
          "NXM_NX_TUN_ID"),
    FIELD(IPV6_EXTHDR, "ipv6_exthdr", AT(ipv6_exthdr) + 7, 9, 39, true, false, IPV6, "OXM_OF_IPV6_EXTHDR"),
    REGISTER(0),
    REGISTER(1),
    REGISTER(2),
    REGISTER(3),
    REGISTER(4),
    REGISTER(5),
    REGISTER(6),
    REGISTER(7),
    REGISTER(8),
    REGISTER(9),
    REGISTER(10),
    REGISTER(11),
    REGISTER(12),
    REGISTER(13),
    REGISTER(14),
    REGISTER(15),
};

/* ---- values ---- */

/* Every field lies within one word of the key, or is two whole words: translation reads and writes fields for every new
 * flow, so this is done without loops. */
#define WHOLE 128u

static uint64_t ones(unsigned bits)
{
    return bits >= 64 ? UINT64_MAX : (1ull << bits) - 1;
}

static unsigned word_of(const struct field *f)
{
    return f->bit_at / 64u;
}

/* How far its last bit is from the word's. */
static unsigned shift_of(const struct field *f)
{
    return 64u - f->bit_at % 64u - f->bits;
}

static uint64_t load(const void *from)
{
    struct be64 x;
    memcpy(&x, from, sizeof x);
    return be64_get(x);
}

static void store(void *to, uint64_t n)
{
    struct be64 x = be64_make(n);
    memcpy(to, &x, sizeof x);
}

struct field_value field_get(const struct flow_key *k, enum field_id id)
{
    const struct field *f = &fields[id];
    struct field_value v;
    if (f->bits == WHOLE) memcpy(&v, &k->words[word_of(f)], sizeof v);
    else v = field_value_of(load(&k->words[word_of(f)]) >> shift_of(f) & ones(f->bits));
    return v;
}

/* Most words of most masks are 0. */
bool field_is_zero(const struct flow_key *k, enum field_id id)
{
    const struct field *f = &fields[id];
    const uint64_t *word = &k->words[word_of(f)];
    if (f->bits == WHOLE) return !(word[0] | word[1]);
    return !*word || !(load(word) >> shift_of(f) & ones(f->bits));
}

void field_set_masked(struct flow_key *k, enum field_id id, struct field_value v, struct field_value mask)
{
    const struct field *f = &fields[id];
    uint64_t *word = &k->words[word_of(f)];
    if (f->bits == WHOLE) {
        uint64_t n[2], m[2];
        memcpy(n, &v, sizeof n);
        memcpy(m, &mask, sizeof m);
        for (unsigned i = 0; i < 2; i++)
            word[i] = (word[i] & ~m[i]) | (n[i] & m[i]);
        return;
    }
    uint64_t m = (field_value_u64(mask) & ones(f->bits)) << shift_of(f), n = field_value_u64(v) << shift_of(f);
    store(word, (load(word) & ~m) | (n & m));
}

void field_write(struct flow_key *k, struct flow_key *written, enum field_id id, struct field_value v,
                 struct field_value mask)
{
    const struct field *f = &fields[id];
    if (f->bits == WHOLE) {
        field_set_masked(k, id, v, mask);
        field_set_masked(written, id, mask, mask);
        return;
    }
    uint64_t m = ENDIAN_BE(64, (field_value_u64(mask) & ones(f->bits)) << shift_of(f));
    uint64_t n = ENDIAN_BE(64, field_value_u64(v) << shift_of(f));
    uint64_t *word = &k->words[word_of(f)];
    *word = (*word & ~m) | (n & m);
    written->words[word_of(f)] |= m;
}

void field_set(struct flow_key *k, enum field_id id, struct field_value v)
{
    field_set_masked(k, id, v, field_all_ones(id));
}

struct field_value field_all_ones(enum field_id id)
{
    struct field_value v;
    memset(v.raw, fields[id].bits == WHOLE ? 0xff : 0, sizeof v.raw);
    store(v.raw + 8, ones(fields[id].bits));
    return v;
}

struct field_value field_value_of(uint64_t n)
{
    struct field_value v;
    memset(v.raw, 0, 8);
    store(v.raw + 8, n);
    return v;
}

uint64_t field_value_u64(struct field_value v)
{
    return load(v.raw + 8);
}

/* ---- names ---- */

static bool is_name(const char *name, const char *text, size_t length)
{
    return name && strncmp(name, text, length) == 0 && name[length] == 0;
}

enum field_id field_find(const char *name, size_t length)
{
    for (unsigned i = 0; i < FIELD_COUNT; i++) {
        const struct field *f = &fields[i];
        if (is_name(f->name, name, length)) return i;
        for (unsigned a = 0; a < sizeof f->aliases / sizeof f->aliases[0]; a++)
            if (is_name(f->aliases[a], name, length)) return i;
    }
    return FIELD_COUNT;
}

/* ---- what must hold ---- */

enum { TYPE_IPV4 = 0x0800, TYPE_ARP = 0x0806, TYPE_RARP = 0x8035, TYPE_IPV6 = 0x86dd, TYPE_MPLS = 0x8847 };
enum { TYPE_MPLS_MULTICAST = 0x8848, TYPE_PBB = 0x88e7 };
enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ICMPV6 = 58, PROTO_SCTP = 132 };
enum { ICMPV6_NS = 135, ICMPV6_NA = 136 };

/* What is asked of a key, one question after the other. The answers of a match's key are those that its mask has; a
 * packet's are all known, and `used` remembers which were needed. UINT32_MAX: not known. */
struct asked {
    const struct flow_key *key;
    const struct flow_key *known; /* NULL: everything */
    struct flow_key *used;        /* NULL: nobody wants to know */
};

static unsigned eth_type(const struct asked *a)
{
    if (a->used) a->used->eth_type = be16_make(UINT16_MAX);
    if (a->known && be16_get(a->known->eth_type) != UINT16_MAX) return UINT32_MAX;
    return be16_get(a->key->eth_type);
}

static unsigned ip_proto(const struct asked *a)
{
    if (a->used) a->used->nw_proto = UINT8_MAX;
    if (a->known && a->known->nw_proto != UINT8_MAX) return UINT32_MAX;
    return a->key->nw_proto;
}

static unsigned icmp_type(const struct asked *a)
{
    if (a->used) a->used->tp_src.raw[1] = UINT8_MAX;
    if (a->known && a->known->tp_src.raw[1] != UINT8_MAX) return UINT32_MAX;
    return a->key->tp_src.raw[1];
}

static bool has_vlan(const struct asked *a)
{
    const uint8_t present = FLOW_VLAN_PRESENT >> 8;
    if (a->used) a->used->vlan[0].tci.raw[0] |= present;
    if (a->known && !(a->known->vlan[0].tci.raw[0] & present)) return false;
    return a->key->vlan[0].tci.raw[0] & present;
}

/* A fragment other than the first has the protocol's number but not its header. A match need not exclude them: such
 * packets have zeros where the header would be. */
static bool has_l4_header(const struct asked *a)
{
    if (a->known) return true;
    if (a->used) a->used->nw_frag |= FLOW_FRAG_LATER;
    return !(a->key->nw_frag & FLOW_FRAG_LATER);
}

static bool is_l4(const struct asked *a, unsigned proto)
{
    return ip_proto(a) == proto && has_l4_header(a);
}

static bool is_icmpv6(const struct asked *a, unsigned type)
{
    if (eth_type(a) != TYPE_IPV6 || !is_l4(a, PROTO_ICMPV6)) return false;
    return type == 0 || icmp_type(a) == type;
}

static bool is_ip(const struct asked *a)
{
    unsigned type = eth_type(a);
    return type == TYPE_IPV4 || type == TYPE_IPV6;
}

static bool is_arp(unsigned type)
{
    return type == TYPE_ARP || type == TYPE_RARP;
}

static bool is_mpls(unsigned type)
{
    return type == TYPE_MPLS || type == TYPE_MPLS_MULTICAST;
}

/* Inline: who asks of a packet knows that everything is known. */
static inline __attribute__((always_inline)) bool holds(enum field_needs needs, const struct asked *a)
{
    switch (needs) {
    case NEEDS_NOTHING: return true;
    case NEEDS_VLAN: return has_vlan(a);
    case NEEDS_IP: return is_ip(a);
    case NEEDS_IPV4: return eth_type(a) == TYPE_IPV4;
    case NEEDS_IPV6: return eth_type(a) == TYPE_IPV6;
    case NEEDS_TCP: return is_ip(a) && is_l4(a, PROTO_TCP);
    case NEEDS_UDP: return is_ip(a) && is_l4(a, PROTO_UDP);
    case NEEDS_SCTP: return is_ip(a) && is_l4(a, PROTO_SCTP);
    case NEEDS_ICMPV4: return eth_type(a) == TYPE_IPV4 && is_l4(a, PROTO_ICMP);
    case NEEDS_ICMPV6: return is_icmpv6(a, 0);
    case NEEDS_ND: return is_icmpv6(a, ICMPV6_NS) || is_icmpv6(a, ICMPV6_NA);
    case NEEDS_NS: return is_icmpv6(a, ICMPV6_NS);
    case NEEDS_NA: return is_icmpv6(a, ICMPV6_NA);
    case NEEDS_ARP: return is_arp(eth_type(a));
    case NEEDS_MPLS: return is_mpls(eth_type(a));
    case NEEDS_PBB: return eth_type(a) == TYPE_PBB;
    }
    return false;
}

bool field_exists(enum field_id id, const struct flow_key *k, struct flow_key *used)
{
    return holds(fields[id].needs, &(struct asked){.key = k, .used = used});
}

bool field_is_ensured(enum field_id id, const struct flow_match *m)
{
    return holds(fields[id].needs, &(struct asked){.key = &m->key, .known = &m->mask});
}
