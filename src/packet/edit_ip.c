/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of IP, what is above it, and ARP. */
#include "packet/edit.h"
#include "packet/edit_internal.h"
#include "packet/parse.h"
#include "packet/wire.h"

#include "base/checked.h"
#include "packet/checksum.h"

/* ---- the checksum above IP ---- */

/* What must follow when something that it sums up is changed. */
struct l4 {
    struct packet_layers l;
    struct be16 *field; /* NULL: there is none to be kept */
    bool udp;           /* zero means none */
    bool unfinished;    /* it has the pseudo header's sum only */
};

/* It is at frame byte `at`, unless the sender made none. */
static void find_csum(const struct packet *p, uint32_t at, struct l4 *t)
{
    struct be16 *field = (void *)(p->head + at);
    t->unfinished = p->offload.csum_partial && p->offload.csum_start == t->l.l4_at;
    t->udp = t->l.proto == IP_PROTO_UDP || t->l.proto == IP_PROTO_UDPLITE;
    t->field = t->unfinished || !t->udp || csum_of_be16(*field) != 0 ? field : NULL;
}

/* In the L4 header; 0: that protocol has none, or none that we know. */
static unsigned csum_offset(uint8_t proto)
{
    switch (proto) {
    case IP_PROTO_TCP: return TCP_CSUM_OFFSET;
    case IP_PROTO_UDP:
    case IP_PROTO_UDPLITE:
    case IP_PROTO_DCCP: return UDP_CSUM_OFFSET;
    case IP_PROTO_ICMP:
    case IP_PROTO_ICMPV6: return offsetof(struct wire_icmp, csum);
    default: return 0;
    }
}

/* IPv4 without options or fragments, with all of a TCP header, or as many bytes of UDP, in the head: most packets. */
static bool is_plain(const struct packet *p)
{
    if (!range_fits(p->l3_at, IPV4_HEADER_BYTES + sizeof(struct wire_tcp), p->head_bytes)) return false;
    const struct wire_ipv4 *ip = (const void *)(p->head + p->l3_at);
    uint32_t total = be16_get(ip->total_bytes);
    return ip->version_words == 0x45 && !(be16_get(ip->fragment) & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET)) &&
           (ip->proto == IP_PROTO_TCP || ip->proto == IP_PROTO_UDP) &&
           total >= IPV4_HEADER_BYTES + sizeof(struct wire_tcp) && range_fits(p->l3_at, total, p->length_bytes);
}

/* False: there is a checksum, or there may be, where it cannot be reached, so nothing that it depends on may be changed. */
static bool find_l4(const struct packet *p, uint8_t version, struct l4 *t)
{
    *t = (struct l4){.l = packet_parse_ip(p, p->l3_at)};
    if (t->l.version != version && version != 0) return false;
    if (t->l.version == 0) return false;
    if (t->l.l4_at == PACKET_NO_LAYER) return t->l.fragment || t->l.end_at <= p->head_bytes;
    unsigned offset = csum_offset(t->l.proto);
    if (offset == 0) return true;
    uint32_t at = t->l.l4_at + offset;
    if (at + 2 > t->l.end_at) return true; /* the frame itself is cut off */
    if (at + 2 > p->head_bytes) return false;
    find_csum(p, at, t);
    return true;
}

/* Of the L4 header and what follows. */
static void l4_changed(const struct l4 *t, uint64_t removed, uint64_t added)
{
    if (!t->field || t->unfinished) return;
    *t->field = csum_update(*t->field, removed, added);
    if (t->udp && csum_of_be16(*t->field) == 0) *t->field = be16_make(0xffff);
}

/* Of the pseudo header. */
static void pseudo_changed(const struct l4 *t, uint64_t removed, uint64_t added)
{
    if (!t->field || t->l.proto == IP_PROTO_ICMP) return;
    if (t->unfinished) *t->field = csum_update_unfinished(*t->field, removed, added);
    else l4_changed(t, removed, added);
}

/* Bytes that stand for themselves in the checksum: whole words, at an even place. */
static void replace_l4(const struct l4 *t, void *at, const void *bytes, size_t n)
{
    uint64_t removed = csum_memory(at, n);
    memcpy(at, bytes, n);
    l4_changed(t, removed, csum_memory(bytes, n));
}

/* ---- IPv4 ---- */

static struct wire_ipv4 *ipv4_at(const struct packet *p, uint32_t at)
{
    if (!range_fits(at, IPV4_HEADER_BYTES, p->head_bytes)) return NULL;
    struct wire_ipv4 *ip = (void *)(p->head + at);
    return ip->version_words >> 4 == 4 ? ip : NULL;
}

static struct wire_ipv6 *ipv6_at(const struct packet *p, uint32_t at)
{
    if (!range_fits(at, IPV6_HEADER_BYTES, p->head_bytes)) return NULL;
    struct wire_ipv6 *ip = (void *)(p->head + at);
    return ip->version_class_label.raw[0] >> 4 == 6 ? ip : NULL;
}

static void replace_ipv4(struct wire_ipv4 *ip, void *at, const void *bytes, size_t n)
{
    uint64_t removed = csum_memory(at, n);
    memcpy(at, bytes, n);
    ip->csum = csum_update(ip->csum, removed, csum_memory(bytes, n));
}

/* What find_l4() says of plain packets, without all of the parsing; no more than pseudo_changed() needs. */
static void plain_l4(const struct packet *p, struct l4 *t)
{
    const struct wire_ipv4 *ip = (const void *)(p->head + p->l3_at);
    t->l.l3_at = p->l3_at;
    t->l.l4_at = (uint16_t)(p->l3_at + IPV4_HEADER_BYTES);
    t->l.proto = ip->proto;
    find_csum(p, t->l.l4_at + (ip->proto == IP_PROTO_TCP ? TCP_CSUM_OFFSET : UDP_CSUM_OFFSET), t);
}

static bool set_ipv4_addr(struct packet *p, size_t member, struct be32 addr)
{
    struct l4 t;
    if (is_plain(p)) plain_l4(p, &t);
    else if (!find_l4(p, 4, &t)) return false;
    struct wire_ipv4 *ip = (void *)(p->head + t.l.l3_at);
    struct be32 *field = (void *)((uint8_t *)ip + member);
    uint64_t removed = csum_of_be32(*field), added = csum_of_be32(addr);
    pseudo_changed(&t, removed, added);
    ip->csum = csum_update(ip->csum, removed, added);
    *field = addr;
    return true;
}

bool packet_set_ipv4_src(struct packet *p, struct be32 addr)
{
    return set_ipv4_addr(p, offsetof(struct wire_ipv4, src), addr);
}

bool packet_set_ipv4_dst(struct packet *p, struct be32 addr)
{
    return set_ipv4_addr(p, offsetof(struct wire_ipv4, dst), addr);
}

bool packet_set_ipv4_tos(struct packet *p, uint8_t tos)
{
    struct wire_ipv4 *ip = ipv4_at(p, p->l3_at);
    if (!ip) return false;
    uint8_t word[2] = {ip->version_words, tos};
    replace_ipv4(ip, ip, word, sizeof word);
    return true;
}

static void set_ttl(struct wire_ipv4 *ip, uint8_t ttl)
{
    uint8_t word[2] = {ttl, ip->proto};
    replace_ipv4(ip, &ip->ttl, word, sizeof word);
}

bool packet_set_ipv4_ttl(struct packet *p, uint8_t ttl)
{
    struct wire_ipv4 *ip = ipv4_at(p, p->l3_at);
    if (ip) set_ttl(ip, ttl);
    return ip;
}

bool packet_set_ip_proto(struct packet *p, uint8_t proto)
{
    struct l4 t;
    if (!find_l4(p, 0, &t)) return false;
    uint8_t old[2] = {0, t.l.proto}, new[2] = {0, proto};
    pseudo_changed(&t, csum_memory(old, sizeof old), csum_memory(new, sizeof new));
    struct wire_ipv4 *ip = ipv4_at(p, p->l3_at);
    if (ip) {
        uint8_t word[2] = {ip->ttl, proto};
        replace_ipv4(ip, &ip->ttl, word, sizeof word);
    } else {
        p->head[t.l.proto_at] = proto;
    }
    return true;
}

/* ---- IPv6 ---- */

static bool set_ipv6_addr(struct packet *p, size_t member, const uint8_t addr[16])
{
    struct l4 t;
    if (!find_l4(p, 6, &t)) return false;
    uint8_t *field = p->head + t.l.l3_at + member;
    bool counts = !t.l.routed || member == offsetof(struct wire_ipv6, src);
    if (counts) pseudo_changed(&t, csum_memory(field, 16), csum_memory(addr, 16));
    memcpy(field, addr, 16);
    return true;
}

bool packet_set_ipv6_src(struct packet *p, const uint8_t addr[16])
{
    return set_ipv6_addr(p, offsetof(struct wire_ipv6, src), addr);
}

bool packet_set_ipv6_dst(struct packet *p, const uint8_t addr[16])
{
    return set_ipv6_addr(p, offsetof(struct wire_ipv6, dst), addr);
}

/* The bits of the first word that are in the mask. */
static bool set_ipv6_word(struct packet *p, uint32_t value, uint32_t mask)
{
    struct wire_ipv6 *ip = ipv6_at(p, p->l3_at);
    if (ip) ip->version_class_label = be32_make((be32_get(ip->version_class_label) & ~mask) | (value & mask));
    return ip;
}

bool packet_set_ipv6_class(struct packet *p, uint8_t traffic_class)
{
    return set_ipv6_word(p, (uint32_t)traffic_class << 20, 0x0ff00000);
}

bool packet_set_ipv6_label(struct packet *p, uint32_t label)
{
    return set_ipv6_word(p, label, 0x000fffff);
}

bool packet_set_ipv6_hop_limit(struct packet *p, uint8_t hop_limit)
{
    struct wire_ipv6 *ip = ipv6_at(p, p->l3_at);
    if (ip) ip->hop_limit = hop_limit;
    return ip;
}

/* ---- TTL ---- */

int packet_ip_ttl_get(const struct packet *p, uint32_t at)
{
    const struct wire_ipv4 *ip4 = ipv4_at(p, at);
    if (ip4) return ip4->ttl;
    const struct wire_ipv6 *ip6 = ipv6_at(p, at);
    return ip6 ? ip6->hop_limit : -1;
}

bool packet_ip_ttl_set(struct packet *p, uint32_t at, uint8_t ttl)
{
    struct wire_ipv4 *ip4 = ipv4_at(p, at);
    struct wire_ipv6 *ip6 = ipv6_at(p, at);
    if (ip4) set_ttl(ip4, ttl);
    if (ip6) ip6->hop_limit = ttl;
    return ip4 || ip6;
}

bool packet_dec_ttl(struct packet *p)
{
    int ttl = packet_ip_ttl_get(p, p->l3_at);
    return ttl > 1 && packet_ip_ttl_set(p, p->l3_at, (uint8_t)(ttl - 1));
}

/* ---- ports ---- */

/* The CRC is linear: the difference of two frames' sums is the sum (begun with zero) of their difference, which is the port
 * and then zeros to the end of the packet. */
static bool set_sctp_port(struct packet *p, const struct l4 *t, unsigned offset, struct be16 port)
{
    struct wire_sctp *sctp = (void *)(p->head + t->l.l4_at);
    if (t->l.payload_at == PACKET_NO_LAYER || t->l.fragment || t->l.bad_length) return false;
    struct be16 *field = (void *)((uint8_t *)sctp + offset);
    uint8_t difference[2] = {field->raw[0] ^ port.raw[0], field->raw[1] ^ port.raw[1]};
    uint32_t crc = crc32c_bytes(0, difference, sizeof difference);
    crc = crc32c_zeros(crc, t->l.end_at - t->l.l4_at - offset - sizeof difference);
    if (!t->unfinished) sctp->crc = le32_make(le32_get(sctp->crc) ^ crc);
    *field = port;
    return true;
}

static bool set_port(struct packet *p, unsigned offset, struct be16 port)
{
    struct l4 t;
    if (!find_l4(p, 0, &t) || t.l.l4_at == PACKET_NO_LAYER) return false;
    if (t.l.proto == IP_PROTO_SCTP) return set_sctp_port(p, &t, offset, port);
    if (t.l.proto != IP_PROTO_TCP && t.l.proto != IP_PROTO_UDP) return false;
    if (!range_fits(t.l.l4_at + offset, sizeof port, p->head_bytes)) return false;
    replace_l4(&t, p->head + t.l.l4_at + offset, &port, sizeof port);
    return true;
}

bool packet_set_port_src(struct packet *p, struct be16 port)
{
    return set_port(p, 0, port);
}

bool packet_set_port_dst(struct packet *p, struct be16 port)
{
    return set_port(p, 2, port);
}

/* ---- ICMP and neighbour discovery ---- */

static struct wire_icmp *find_icmp(const struct packet *p, struct l4 *t)
{
    if (!find_l4(p, 0, t) || t->l.payload_at == PACKET_NO_LAYER) return NULL;
    if (t->l.proto != (t->l.version == 4 ? IP_PROTO_ICMP : IP_PROTO_ICMPV6)) return NULL;
    return (void *)(p->head + t->l.l4_at);
}

static bool set_icmp(struct packet *p, bool is_code, uint8_t value)
{
    struct l4 t;
    struct wire_icmp *icmp = find_icmp(p, &t);
    if (!icmp) return false;
    uint8_t word[2] = {is_code ? icmp->type : value, is_code ? value : icmp->code};
    replace_l4(&t, icmp, word, sizeof word);
    return true;
}

bool packet_set_icmp_type(struct packet *p, uint8_t type)
{
    return set_icmp(p, false, type);
}

bool packet_set_icmp_code(struct packet *p, uint8_t code)
{
    return set_icmp(p, true, code);
}

static uint32_t head_end(const struct packet *p, const struct l4 *t)
{
    return t->l.end_at < p->head_bytes ? t->l.end_at : p->head_bytes;
}

static struct wire_nd *find_nd(const struct packet *p, struct l4 *t)
{
    const struct wire_icmp *icmp = find_icmp(p, t);
    if (!icmp || t->l.version != 6 || t->l.fragment || icmp->code != 0) return NULL;
    if (icmp->type != ICMPV6_NEIGHBOR_SOLICIT && icmp->type != ICMPV6_NEIGHBOR_ADVERT) return NULL;
    if (!range_fits(t->l.l4_at, sizeof(struct wire_nd), head_end(p, t))) return NULL;
    return (void *)(p->head + t->l.l4_at);
}

bool packet_set_nd_target(struct packet *p, const uint8_t addr[16])
{
    struct l4 t;
    struct wire_nd *nd = find_nd(p, &t);
    if (nd) replace_l4(&t, nd->target, addr, 16);
    return nd;
}

static bool set_nd_option(struct packet *p, uint8_t type, const uint8_t mac[6])
{
    struct l4 t;
    if (!find_nd(p, &t)) return false;
    uint32_t end = head_end(p, &t);
    for (uint32_t at = t.l.l4_at + (uint32_t)sizeof(struct wire_nd); range_fits(at, 8, end);) {
        uint8_t *option = p->head + at;
        uint32_t bytes = option[1] * 8u;
        if (bytes == 0) return false;
        if (option[0] == type && bytes == 8) {
            replace_l4(&t, option + 2, mac, 6);
            return true;
        }
        at += bytes;
    }
    return false;
}

bool packet_set_nd_sll(struct packet *p, const uint8_t mac[6])
{
    return set_nd_option(p, ND_OPTION_SOURCE_LINK, mac);
}

bool packet_set_nd_tll(struct packet *p, const uint8_t mac[6])
{
    return set_nd_option(p, ND_OPTION_TARGET_LINK, mac);
}

/* ---- ARP ---- */

static bool set_arp(struct packet *p, size_t member, const void *bytes, size_t n)
{
    if (!range_fits(p->l3_at, sizeof(struct wire_arp), p->head_bytes)) return false;
    struct wire_arp *arp = (void *)(p->head + p->l3_at);
    bool known = be16_get(arp->hardware) == 1 && be16_get(arp->protocol) == ETH_TYPE_IPV4 && arp->hardware_bytes == 6 &&
                 arp->protocol_bytes == 4;
    if (known) memcpy((uint8_t *)arp + member, bytes, n);
    return known;
}

bool packet_set_arp_op(struct packet *p, struct be16 op)
{
    return set_arp(p, offsetof(struct wire_arp, op), &op, sizeof op);
}

bool packet_set_arp_sha(struct packet *p, const uint8_t mac[6])
{
    return set_arp(p, offsetof(struct wire_arp, sha), mac, 6);
}

bool packet_set_arp_tha(struct packet *p, const uint8_t mac[6])
{
    return set_arp(p, offsetof(struct wire_arp, tha), mac, 6);
}

bool packet_set_arp_spa(struct packet *p, struct be32 addr)
{
    return set_arp(p, offsetof(struct wire_arp, spa), &addr, sizeof addr);
}

bool packet_set_arp_tpa(struct packet *p, struct be32 addr)
{
    return set_arp(p, offsetof(struct wire_arp, tpa), &addr, sizeof addr);
}
