/* SPDX-License-Identifier: Apache-2.0 */
#include "packet/parse.h"

#include "packet/wire.h"

/* Bounds on what stands in a row. */
#define TAGS_MAX 8u
#define LABELS_MAX 8u
#define EXTENSIONS_MAX 10u

#define ETH_TYPE_QINQ_OLD                                                                                              \
    0x9100u /* a tag before 802.1ad: none that is pushed, popped or matched, but hosts see through it */

static uint16_t be16_at(const uint8_t *at)
{
    struct be16 v;
    memcpy(v.raw, at, sizeof v.raw);
    return be16_get(v);
}

/* The type after VLAN tags and an I-TAG with the VLAN tags of the customer; sets type_at. 0: a short frame. */
static uint16_t parse_ethernet(const struct packet *p, struct packet_layers *l)
{
    uint32_t at = ETH_TYPE_AT;
    for (unsigned i = 0; i <= TAGS_MAX && at + 2 <= p->head_bytes; i++) {
        uint16_t type = be16_at(p->head + at);
        if (eth_type_is_vlan(type) || type == ETH_TYPE_QINQ_OLD) {
            l->tags++;
            at += VLAN_TAG_BYTES;
        } else if (type == ETH_TYPE_PBB) {
            l->encapsulated = true;
            at += PBB_TAG_BYTES;
        } else {
            l->type_at = (uint16_t)at;
            return type;
        }
    }
    return 0;
}

/* What a label stack carries is told by its first four bits, as routers do. */
static uint16_t parse_mpls(const struct packet *p, uint32_t *at)
{
    for (unsigned i = 0; i < LABELS_MAX && *at + MPLS_LABEL_BYTES < p->head_bytes; i++) {
        bool bottom = p->head[*at + 2] & 1;
        *at += MPLS_LABEL_BYTES;
        if (!bottom) continue;
        unsigned version = p->head[*at] >> 4;
        return version == 4 ? ETH_TYPE_IPV4 : version == 6 ? ETH_TYPE_IPV6 : 0;
    }
    return 0;
}

static void parse_l4(const struct packet *p, struct packet_layers *l, uint32_t at)
{
    uint32_t limit = l->end_at < p->head_bytes ? l->end_at : p->head_bytes;
    if (at > limit) return;
    l->l4_at = (uint16_t)at;
    uint32_t bytes;
    switch (l->proto) {
    case IP_PROTO_TCP:
        if (limit - at < sizeof(struct wire_tcp)) return;
        bytes = (p->head[at + offsetof(struct wire_tcp, words_reserved)] >> 4) * 4u;
        if (bytes < sizeof(struct wire_tcp)) return;
        break;
    case IP_PROTO_UDP: bytes = sizeof(struct wire_udp); break;
    case IP_PROTO_SCTP: bytes = sizeof(struct wire_sctp); break;
    case IP_PROTO_ICMP:
    case IP_PROTO_ICMPV6: bytes = sizeof(struct wire_icmp); break;
    default: return;
    }
    if (bytes <= limit - at) l->payload_at = (uint16_t)(at + bytes);
}

static void set_end(const struct packet *p, struct packet_layers *l, uint32_t end_at, uint32_t header_end_at)
{
    l->bad_length = end_at < header_end_at || end_at > p->length_bytes;
    l->end_at = l->bad_length ? p->length_bytes : end_at;
}

static void parse_ipv4(const struct packet *p, struct packet_layers *l, uint32_t at)
{
    if (at > p->head_bytes || p->head_bytes - at < IPV4_HEADER_BYTES) return;
    const struct wire_ipv4 *ip = (const void *)(p->head + at);
    uint32_t header = (ip->version_words & 0x0fu) * 4u;
    if (ip->version_words >> 4 != 4 || header < IPV4_HEADER_BYTES || header > p->head_bytes - at) return;
    l->version = 4;
    l->l3_at = (uint16_t)at;
    l->proto = ip->proto;
    l->proto_at = (uint16_t)(at + offsetof(struct wire_ipv4, proto));
    l->options = header > IPV4_HEADER_BYTES;
    uint16_t fragment = be16_get(ip->fragment);
    l->fragment = (fragment & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET)) != 0;
    set_end(p, l, at + be16_get(ip->total_bytes), at + header);
    if (!(fragment & IPV4_FRAGMENT_OFFSET)) parse_l4(p, l, at + header);
}

static bool is_ipv6_ext(uint8_t proto)
{
    return proto == IPV6_HOP_BY_HOP || proto == IPV6_ROUTING || proto == IPV6_FRAGMENT ||
           proto == IPV6_AUTHENTICATION || proto == IPV6_DESTINATION || proto == IPV6_MOBILITY;
}

/* Step over the extension header at *at. False: it does not lie within the head, or what follows is no header. */
static bool parse_ipv6_ext(const struct packet *p, struct packet_layers *l, uint32_t *at)
{
    uint32_t limit = l->end_at < p->head_bytes ? l->end_at : p->head_bytes;
    if (*at > limit || limit - *at < sizeof(struct wire_ipv6_ext)) return false;
    const struct wire_ipv6_ext *e = (const void *)(p->head + *at);
    const struct wire_ipv6_fragment *f = (const void *)e;
    uint32_t bytes = l->proto == IPV6_FRAGMENT         ? (uint32_t)sizeof *f
                     : l->proto == IPV6_AUTHENTICATION ? (e->length + 2u) * 4u
                                                       : (e->length + 1u) * 8u;
    if (bytes > limit - *at) return false;
    bool later_fragment = l->proto == IPV6_FRAGMENT && be16_get(f->offset_more) & 0xfff8u;
    if (l->proto == IPV6_FRAGMENT && be16_get(f->offset_more) & 0xfff9u) l->fragment = true;
    if (l->proto == IPV6_ROUTING && e->segments_left > 0) l->routed = true;
    l->proto = e->next;
    l->proto_at = (uint16_t)(*at + offsetof(struct wire_ipv6_ext, next));
    *at += bytes;
    return !later_fragment;
}

static void parse_ipv6(const struct packet *p, struct packet_layers *l, uint32_t at)
{
    if (at > p->head_bytes || p->head_bytes - at < IPV6_HEADER_BYTES) return;
    const struct wire_ipv6 *ip = (const void *)(p->head + at);
    if (ip->version_class_label.raw[0] >> 4 != 6) return;
    l->version = 6;
    l->l3_at = (uint16_t)at;
    l->proto = ip->next;
    l->proto_at = (uint16_t)(at + offsetof(struct wire_ipv6, next));
    at += IPV6_HEADER_BYTES;
    /* Zero is said of what is longer than the field can say. */
    uint32_t bytes = be16_get(ip->payload_bytes);
    set_end(p, l, bytes ? at + bytes : 0, at);
    for (unsigned i = 0; is_ipv6_ext(l->proto); i++) {
        l->options = true;
        if (i == EXTENSIONS_MAX || !parse_ipv6_ext(p, l, &at)) return;
    }
    parse_l4(p, l, at);
}

static struct packet_layers nothing(const struct packet *p)
{
    return (struct packet_layers){.type_at = PACKET_NO_LAYER,
                                  .l3_at = PACKET_NO_LAYER,
                                  .l4_at = PACKET_NO_LAYER,
                                  .payload_at = PACKET_NO_LAYER,
                                  .end_at = p->length_bytes};
}

struct packet_layers packet_parse_ip(const struct packet *p, uint16_t l3_at)
{
    struct packet_layers l = nothing(p);
    if (l3_at >= p->head_bytes) return l;
    if (p->head[l3_at] >> 4 == 4) parse_ipv4(p, &l, l3_at);
    else parse_ipv6(p, &l, l3_at);
    return l;
}

struct packet_layers packet_parse(const struct packet *p)
{
    struct packet_layers l = nothing(p);
    uint16_t type = parse_ethernet(p, &l);
    uint32_t at = l.type_at + 2u;
    if (eth_type_is_mpls(type)) {
        l.encapsulated = true;
        type = parse_mpls(p, &at);
    }
    if (type == ETH_TYPE_IPV4) parse_ipv4(p, &l, at);
    else if (type == ETH_TYPE_IPV6) parse_ipv6(p, &l, at);
    return l;
}

static bool is_csum_of(uint8_t proto, unsigned offset)
{
    return (proto == IP_PROTO_TCP && offset == TCP_CSUM_OFFSET) || (proto == IP_PROTO_UDP && offset == UDP_CSUM_OFFSET);
}

/* Where what a tunnel carries begins at the earliest; PACKET_NO_LAYER: this is none. */
static uint32_t tunnel_end(const struct packet_layers *l)
{
    switch (l->proto) {
    case IP_PROTO_UDP: return l->l4_at + (uint32_t)sizeof(struct wire_udp);
    case IP_PROTO_GRE: return l->l4_at + GRE_HEADER_BYTES;
    case IP_PROTO_IPV4: return l->l4_at + IPV4_HEADER_BYTES;
    case IP_PROTO_IPV6: return l->l4_at + IPV6_HEADER_BYTES;
    default: return PACKET_NO_LAYER;
    }
}

enum packet_csum_place packet_csum_place(const struct packet *p)
{
    uint32_t start = p->offload.csum_start, offset = p->offload.csum_offset;
    if (start + offset + 2u > p->head_bytes) return PACKET_CSUM_WRONG;
    struct packet_layers l = packet_parse(p);
    if (l.l4_at == PACKET_NO_LAYER) return PACKET_CSUM_WRONG;
    if (start == l.l4_at) return is_csum_of(l.proto, offset) ? PACKET_CSUM_L4 : PACKET_CSUM_WRONG;
    if (offset != TCP_CSUM_OFFSET && offset != UDP_CSUM_OFFSET) return PACKET_CSUM_WRONG;
    return start >= tunnel_end(&l) ? PACKET_CSUM_INNER : PACKET_CSUM_WRONG;
}
