/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/extract.h"

#define ETH_BYTES 14u
#define TYPE_MIN 0x600u
#define TYPE_NONE 0x05ffu

enum { TYPE_IPV4 = 0x0800, TYPE_ARP = 0x0806, TYPE_RARP = 0x8035, TYPE_VLAN = 0x8100, TYPE_QINQ = 0x88a8 };
enum { TYPE_IPV6 = 0x86dd, TYPE_MPLS = 0x8847, TYPE_MPLS_MULTICAST = 0x8848, TYPE_PBB = 0x88e7 };
enum { IP_ICMP = 1, IP_TCP = 6, IP_UDP = 17, IP_ICMPV6 = 58, IP_SCTP = 132 };
enum { IP6_HOP = 0, IP6_ROUTING = 43, IP6_FRAGMENT = 44, IP6_ESP = 50, IP6_AH = 51, IP6_NONE = 59, IP6_DEST = 60 };
enum { EXT_NONEXT = 1, EXT_ESP = 2, EXT_AUTH = 4, EXT_DEST = 8, EXT_FRAG = 16, EXT_ROUTER = 32, EXT_HOP = 64 };
enum { EXT_UNREP = 128, EXT_UNSEQ = 256 };
#define EXT_HEADERS_MAX 16u

/* A frame's head from `at` on, and where its present layer ends (in the frame, which may be longer than the head). */
struct view {
    const uint8_t *head;
    uint32_t at, head_bytes, end;
};

static bool has(const struct view *v, uint32_t n)
{
    return v->at <= v->head_bytes && n <= v->head_bytes - v->at && v->at <= v->end && n <= v->end - v->at;
}

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void options(const uint8_t *o, uint32_t left, uint8_t type, struct flow_key *k)
{
    bool source = false, target = false;
    while (left >= 8) {
        uint32_t bytes = o[1] * 8u;
        if (bytes == 0 || bytes > left) break;
        if (o[0] == 1 && bytes == 8 && type == 135) {
            if (source) goto invalid;
            source = true;
            memcpy(k->arp_sha, o + 2, 6);
        } else if (o[0] == 2 && bytes == 8 && type == 136) {
            if (target) goto invalid;
            target = true;
            memcpy(k->arp_tha, o + 2, 6);
        }
        o += bytes;
        left -= bytes;
    }
    return;
invalid: /* two of a kind: which one a host believes nobody knows */
    memset(k->nd_target, 0, sizeof k->nd_target);
    memset(k->arp_sha, 0, sizeof k->arp_sha);
    memset(k->arp_tha, 0, sizeof k->arp_tha);
}

static enum extract icmpv6(const struct view *v, struct flow_key *k, uint16_t *l4_at)
{
    if (!has(v, 8)) return EXTRACT_FULL;
    const uint8_t *h = v->head + v->at;
    k->tp_src = be16_make(h[0]);
    k->tp_dst = be16_make(h[1]);
    *l4_at = (uint16_t)v->at;
    if ((h[0] != 135 && h[0] != 136) || h[1] != 0 || !has(v, 24)) return EXTRACT_FULL;
    if (v->end > v->head_bytes) return EXTRACT_FULL; /* an option that is not seen may be the one that hosts believe */
    memcpy(k->nd_target, h + 8, 16);
    options(h + 24, v->end - v->at - 24, h[0], k);
    return EXTRACT_FULL;
}

static void ports(const struct view *v, uint32_t least, struct flow_key *k, uint16_t *l4_at)
{
    if (!has(v, least)) return;
    memcpy(&k->tp_src, v->head + v->at, 4);
    *l4_at = (uint16_t)v->at;
}

static void l4(const struct view *v, uint8_t proto, struct flow_key *k, uint16_t *l4_at)
{
    const uint8_t *h = v->head + v->at;
    switch (proto) {
    case IP_TCP:
        ports(v, 20, k, l4_at);
        if (*l4_at == v->at) k->tcp_flags = be16_make(u16_at(h + 12) & 0xfff);
        break;
    case IP_UDP: ports(v, 8, k, l4_at); break;
    case IP_SCTP: ports(v, 12, k, l4_at); break;
    case IP_ICMP:
        if (!has(v, 8)) return;
        k->tp_src = be16_make(h[0]);
        k->tp_dst = be16_make(h[1]);
        *l4_at = (uint16_t)v->at;
        break;
    default: break;
    }
}

static enum extract ipv4(struct view *v, struct flow_key *k, uint16_t *l4_at)
{
    if (!has(v, 20)) return EXTRACT_SHORT;
    const uint8_t *h = v->head + v->at;
    uint32_t header = (h[0] & 15u) * 4u, total = u16_at(h + 2);
    if (h[0] >> 4 != 4 || header < 20 || total < header || !has(v, header) || total > v->end - v->at)
        return EXTRACT_SHORT;
    memcpy(&k->ipv4_src, h + 12, 8);
    k->nw_proto = h[9];
    k->nw_tos = h[1];
    k->nw_ttl = h[8];
    uint16_t fragment = u16_at(h + 6);
    if (fragment & 0x3fff) k->nw_frag = FLOW_FRAG_ANY | (fragment & 0x1fff ? FLOW_FRAG_LATER : 0);
    v->end = v->at + total;
    v->at += header;
    if (!(k->nw_frag & FLOW_FRAG_LATER)) l4(v, h[9], k, l4_at);
    return EXTRACT_SHORT;
}

/* Where a header stands in the order that RFC 8200, section 4.1, recommends. */
static unsigned rank(uint8_t type)
{
    switch (type) {
    case IP6_HOP: return 1;
    case IP6_DEST: return 2; /* also the last: 6 */
    case IP6_ROUTING: return 3;
    case IP6_FRAGMENT: return 4;
    case IP6_AH: return 5;
    case IP6_ESP: return 6;
    default: return 0;
    }
}

static unsigned exthdr_bit(uint8_t type)
{
    switch (type) {
    case IP6_HOP: return EXT_HOP;
    case IP6_DEST: return EXT_DEST;
    case IP6_ROUTING: return EXT_ROUTER;
    case IP6_FRAGMENT: return EXT_FRAG;
    case IP6_AH: return EXT_AUTH;
    case IP6_ESP: return EXT_ESP;
    case IP6_NONE: return EXT_NONEXT;
    default: return 0;
    }
}

/* Over the extension headers. What is behind them, or the first that cannot be read (which then is the protocol). *ends:
 * there is nothing to be read behind it. *passed: the last that was passed, if any. */
static uint8_t extensions(struct view *v, uint8_t next, struct flow_key *k, bool *ends, uint8_t *passed)
{
    unsigned bits = 0, last = 0, destinations = 0;
    *ends = false;
    for (unsigned i = 0; i < EXT_HEADERS_MAX; i++) {
        unsigned bit = exthdr_bit(next), place = rank(next);
        if (bit == 0) break;
        if (bit == EXT_DEST) {
            if (++destinations > 2) bits |= EXT_UNREP;
            if (last > place) place = 6;
        } else if (bits & bit) bits |= EXT_UNREP;
        if (place < last) bits |= EXT_UNSEQ;
        last = place > last ? place : last;
        bits |= bit;
        k->ipv6_exthdr = be16_make((uint16_t)bits);
        *ends = true; /* until it has been passed */
        if (bit == EXT_NONEXT || bit == EXT_ESP || !has(v, 8)) return next;
        const uint8_t *h = v->head + v->at;
        uint32_t bytes = bit == EXT_FRAG ? 8 : bit == EXT_AUTH ? (h[1] + 2u) * 4u : (h[1] + 1u) * 8u;
        if (bit == EXT_FRAG) {
            uint16_t offset = u16_at(h + 2);
            if (offset & 0xfff9) k->nw_frag = FLOW_FRAG_ANY;
            if (offset & 0xfff8) {
                k->nw_frag |= FLOW_FRAG_LATER;
                return next;
            }
        }
        if (!has(v, bytes)) return next;
        v->at += bytes;
        *passed = next;
        next = h[0];
        *ends = false;
    }
    if (exthdr_bit(next)) *ends = true;
    return next;
}

/* The packet has its L4 header, but it does not lie in the head. */
static bool is_out_of_sight(const struct view *v, uint8_t proto)
{
    uint32_t least = proto == IP_TCP ? 20 : proto == IP_SCTP ? 12 : proto == IP_UDP || proto == IP_ICMPV6 ? 8 : 0;
    return least && v->at <= v->end && least <= v->end - v->at && !has(v, least);
}

static enum extract ipv6(struct view *v, struct flow_key *k, uint16_t *l4_at)
{
    if (!has(v, 40)) return EXTRACT_SHORT;
    const uint8_t *h = v->head + v->at;
    uint32_t payload = u16_at(h + 4);
    if (h[0] >> 4 != 6 || payload > v->end - v->at - 40) return EXTRACT_SHORT;
    memcpy(k->ipv6_src, h + 8, 32);
    k->nw_tos = (uint8_t)(h[0] << 4 | h[1] >> 4);
    k->nw_ttl = h[7];
    k->ipv6_label = be32_make((uint32_t)(h[1] & 15) << 16 | u16_at(h + 2));
    v->at += 40;
    v->end = v->at + payload;
    bool ends;
    uint8_t passed = h[6];
    k->nw_proto = extensions(v, h[6], k, &ends, &passed);
    /* Ports or a type that nobody saw are not 0: the chain that hides them is what the packet is known by. */
    if (!ends && is_out_of_sight(v, k->nw_proto)) k->nw_proto = passed;
    if (ends || exthdr_bit(k->nw_proto)) return EXTRACT_FULL;
    if (k->nw_proto == IP_ICMPV6) return icmpv6(v, k, l4_at);
    if (k->nw_proto != IP_ICMP) l4(v, k->nw_proto, k, l4_at);
    return EXTRACT_FULL;
}

static enum extract arp(const struct view *v, struct flow_key *k)
{
    const uint8_t *h = v->head + v->at;
    if (!has(v, 28) || u16_at(h) != 1 || u16_at(h + 2) != TYPE_IPV4 || h[4] != 6 || h[5] != 4) return EXTRACT_SHORT;
    memcpy(&k->arp_op, h + 6, 2);
    memcpy(k->arp_sha, h + 8, 6);
    memcpy(&k->ipv4_src, h + 14, 4);
    memcpy(k->arp_tha, h + 18, 6);
    memcpy(&k->ipv4_dst, h + 24, 4);
    return EXTRACT_FULL;
}

static void mpls(const struct view *v, struct flow_key *k)
{
    struct view at = *v;
    for (unsigned i = 0; i < FLOW_MPLS_LABELS && has(&at, 4); i++, at.at += 4) {
        memcpy(&k->mpls[i], at.head + at.at, 4);
        if (at.head[at.at + 2] & 1) break;
    }
}

static enum extract by_type(struct view *v, uint16_t type, struct flow_key *k, uint16_t *l3_at, uint16_t *l4_at)
{
    k->eth_type = be16_make(type);
    *l3_at = v->at <= v->head_bytes ? (uint16_t)v->at : PACKET_NO_LAYER;
    switch (type) {
    case TYPE_IPV4: return ipv4(v, k, l4_at);
    case TYPE_IPV6: return ipv6(v, k, l4_at);
    case TYPE_ARP:
    case TYPE_RARP: return arp(v, k);
    case TYPE_MPLS:
    case TYPE_MPLS_MULTICAST: mpls(v, k); return EXTRACT_FULL;
    case TYPE_PBB:
        if (has(v, 4))
            k->pbb_isid = be32_make(1u << 24 | (uint32_t)v->head[v->at + 1] << 16 | u16_at(v->head + v->at + 2));
        return EXTRACT_FULL;
    default: return EXTRACT_SHORT;
    }
}

/* Behind tags: a type, or a length and LLC. */
static enum extract behind_tags(struct view *v, uint16_t type, struct flow_key *k, uint16_t *l3_at, uint16_t *l4_at)
{
    static const uint8_t snap[6] = {0xaa, 0xaa, 3, 0, 0, 0};
    if (type >= TYPE_MIN) return by_type(v, type, k, l3_at, l4_at);
    if (has(v, 8) && memcmp(v->head + v->at, snap, sizeof snap) == 0 && u16_at(v->head + v->at + 6) >= TYPE_MIN) {
        type = u16_at(v->head + v->at + 6);
        v->at += 8;
        return by_type(v, type, k, l3_at, l4_at);
    }
    k->eth_type = be16_make(TYPE_NONE);
    return EXTRACT_SHORT;
}

static struct view view_of(const struct packet *p, uint32_t at)
{
    uint32_t head = p->head_bytes < p->length_bytes ? p->head_bytes : p->length_bytes;
    return (struct view){.head = p->head, .at = at, .head_bytes = head, .end = p->length_bytes};
}

static enum extract tagged(struct packet *p, uint16_t type, struct flow_key *k)
{
    struct view v = view_of(p, ETH_BYTES);
    for (unsigned i = 0; i < FLOW_VLANS && (type == TYPE_VLAN || type == TYPE_QINQ) && has(&v, 4); i++, v.at += 4) {
        k->vlan[i].tpid = be16_make(type);
        k->vlan[i].tci = be16_make((uint16_t)(u16_at(v.head + v.at) | FLOW_VLAN_PRESENT));
        type = u16_at(v.head + v.at + 2);
    }
    return behind_tags(&v, type, k, &p->l3_at, &p->l4_at);
}

/* IPv4 without options or fragments, with all of a TCP or UDP header in the head: most frames. */
static bool plain_ipv4(struct packet *p, struct flow_key *k)
{
    const uint8_t *h = p->head + ETH_BYTES;
    if (p->head_bytes < ETH_BYTES + 40 || p->length_bytes < p->head_bytes || h[0] != 0x45) return false;
    uint32_t total = u16_at(h + 2);
    if (((h[6] & 0x3f) | h[7]) != 0 || total < 40 || total > p->length_bytes - ETH_BYTES) return false;
    if (h[9] == IP_TCP) k->tcp_flags = be16_make(u16_at(h + 32) & 0xfff);
    else if (h[9] != IP_UDP) return false;
    memcpy(&k->ipv4_src, h + 12, 8);
    k->nw_proto = h[9];
    k->nw_tos = h[1];
    k->nw_ttl = h[8];
    memcpy(&k->tp_src, h + 20, 4);
    p->l4_at = ETH_BYTES + 20;
    return true;
}

enum extract extract_key(struct packet *p, struct flow_key *k)
{
    if (p->head_bytes < ETH_BYTES || p->length_bytes < ETH_BYTES) return EXTRACT_INVALID;
    memset((uint64_t *)k + 1, 0, sizeof *k - sizeof k->words[0]);
    p->l3_at = p->l4_at = PACKET_NO_LAYER;
    memcpy(k->eth_dst, p->head, 6);
    memcpy(k->eth_src, p->head + 6, 6);
    uint16_t type = u16_at(p->head + 12);
    if (type == TYPE_IPV4 && plain_ipv4(p, k)) {
        k->eth_type = be16_make(TYPE_IPV4);
        p->l3_at = ETH_BYTES;
        return EXTRACT_SHORT;
    }
    return tagged(p, type, k);
}

uint32_t extract_simple_word(struct packet *p)
{
    const uint8_t *h = p->head + ETH_BYTES;
    if (p->head_bytes < ETH_BYTES + 40 || p->length_bytes < p->head_bytes) return 0;
    uint32_t type = u16_at(p->head + 12), left = p->length_bytes - ETH_BYTES;
    p->l3_at = ETH_BYTES;
    p->l4_at = PACKET_NO_LAYER;
    if (type == TYPE_IPV4) {
        uint32_t total = u16_at(h + 2);
        if (h[0] != 0x45 || ((h[6] & 0x3f) | h[7]) != 0 || total < 40 || total > left) return 0;
        if (h[9] != IP_TCP && h[9] != IP_UDP) return 0;
        p->l4_at = ETH_BYTES + 20;
        return type << 16 | (uint32_t)h[9] << 8;
    }
    if (type == TYPE_IPV6) {
        uint32_t payload = u16_at(h + 4);
        if (h[0] >> 4 != 6 || payload > left - 40 || payload < 20 || p->head_bytes < ETH_BYTES + 60) return 0;
        if (h[6] != IP_TCP && h[6] != IP_UDP) return 0;
        p->l4_at = ETH_BYTES + 40;
        return type << 16 | (uint32_t)h[6] << 8;
    }
    bool plain = type >= TYPE_MIN && type != TYPE_VLAN && type != TYPE_QINQ;
    return plain ? type << 16 : 0;
}

/* Most are: IPv4 with the header of TCP or UDP. */
static bool has_plain_ports(const struct flow_key *k)
{
    return be16_get(k->eth_type) == TYPE_IPV4 && (k->nw_proto == IP_TCP || k->nw_proto == IP_UDP) &&
           !(k->nw_frag & FLOW_FRAG_LATER);
}

/* What extract_trim_mask() does with these. */
static void trim_plain(const struct flow_key *k, struct flow_key *mask)
{
    mask->words[4] = mask->words[5] = 0;
    for (unsigned i = 9; i <= 16; i++)
        mask->words[i] = 0;
    memset(&mask->ipv6_label, 0, sizeof mask->ipv6_label);
    memset(&mask->arp_op, 0, sizeof mask->arp_op);
    if (k->nw_proto == IP_UDP) memset(&mask->tcp_flags, 0, sizeof mask->tcp_flags);
}

void extract_trim_mask(const struct flow_key *k, struct flow_key *mask)
{
    uint16_t type = be16_get(k->eth_type);
    bool is_arp = type == TYPE_ARP || type == TYPE_RARP;
    bool is_ip = type == TYPE_IPV4 || type == TYPE_IPV6;
    for (unsigned i = FLOW_KEY_PACKET_WORDS; i < FLOW_KEY_WORDS; i++)
        mask->words[i] = 0;
    memset(mask->recirculation_high, 0, sizeof mask->recirculation_high);
    memset(mask->recirculation_low, 0, sizeof mask->recirculation_low);
    if (has_plain_ports(k)) {
        trim_plain(k, mask);
        return;
    }
    if (type != TYPE_MPLS && type != TYPE_MPLS_MULTICAST) memset(mask->mpls, 0, sizeof mask->mpls);
    if (type != TYPE_PBB) memset(&mask->pbb_isid, 0, sizeof mask->pbb_isid);
    if (type != TYPE_IPV4 && !is_arp) mask->words[6] = 0;
    if (!is_ip) {
        mask->nw_tos = mask->nw_ttl = 0;
        memset(&mask->tp_src, 0, 6);
    }
    if (!is_arp) memset(&mask->arp_op, 0, sizeof mask->arp_op);
    if (type != TYPE_IPV6) {
        memset(&mask->ipv6_label, 0, sizeof mask->ipv6_label);
        memset(&mask->ipv6_exthdr, 0, sizeof mask->ipv6_exthdr);
        for (unsigned i = 9; i <= 14; i++)
            mask->words[i] = 0;
    }
    uint8_t proto = k->nw_proto;
    bool has_ports = proto == IP_TCP || proto == IP_UDP || proto == IP_SCTP || proto == IP_ICMP || proto == IP_ICMPV6;
    if (is_ip && (!has_ports || (k->nw_frag & FLOW_FRAG_LATER))) memset(&mask->tp_src, 0, 6);
    if (proto != IP_TCP) memset(&mask->tcp_flags, 0, sizeof mask->tcp_flags);
    bool is_nd = type == TYPE_IPV6 && proto == IP_ICMPV6;
    if (!is_nd) memset(mask->nd_target, 0, sizeof mask->nd_target);
    if (!is_nd && !is_arp) {
        memset(mask->arp_sha, 0, sizeof mask->arp_sha);
        memset(mask->arp_tha, 0, sizeof mask->arp_tha);
    }
}
