/* SPDX-License-Identifier: Apache-2.0 */
#include "port/vnet.h"

#include <linux/virtio_net.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "packet/parse.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 /* Linux 6.2 */
#endif

#define ETHERNET_BYTES 14u
#define TAGS_MAX 2u
#define TCP_CHECKSUM_AT 16u
#define UDP_CHECKSUM_AT 6u
/* Below (above), a frame would become thousands: Linux sends neither. */
#define TCP_SEGMENT_MIN 16u
#define UDP_SEGMENTS_MAX 128u

static_assert(sizeof(struct virtio_net_hdr) == VNET_HEADER_BYTES, "the short form, without num_buffers");

static uint16_t be16_at(const uint8_t *at)
{
    struct be16 v;
    memcpy(&v, at, sizeof v);
    return be16_get(v);
}

/* Where L3 begins; its type in *type. The head holds an Ethernet header at least. */
static unsigned skip_tags(const struct packet *p, uint16_t *type)
{
    unsigned at = ETHERNET_BYTES;
    *type = be16_at(p->head + 12);
    for (unsigned i = 0; i < TAGS_MAX && (*type == 0x8100 || *type == 0x88a8); i++) {
        if (at + 4 > p->head_bytes) break;
        *type = be16_at(p->head + at + 2);
        at += 4;
    }
    return at;
}

static bool is_tcp(uint8_t gso)
{
    return gso == PACKET_GSO_TCP4 || gso == PACKET_GSO_TCP6;
}

/* The headers are what the kind of segmentation says, and are all in the head. Behind IPv6
 * extension headers, packet_csum_place() has found L4. */
static bool gso_fits(const struct packet *p, unsigned *headers_bytes)
{
    const struct packet_offload *o = &p->offload;
    bool v4 = o->gso == PACKET_GSO_TCP4 || o->gso == PACKET_GSO_UDP4, tcp = is_tcp(o->gso);
    uint16_t type;
    unsigned l3 = skip_tags(p, &type), l4 = o->csum_start;
    if (type != (v4 ? 0x0800 : 0x86dd)) return false;
    if (o->csum_offset != (tcp ? TCP_CHECKSUM_AT : UDP_CHECKSUM_AT)) return false;
    if (l4 < l3 + (v4 ? 20u : 40u) || l4 + (tcp ? 20u : 8u) > p->head_bytes) return false;
    if (v4 && (p->head[l3] >> 4 != 4 || l4 != l3 + (p->head[l3] & 15u) * 4)) return false;
    if (v4 && (p->head[l3 + 9] != (tcp ? 6 : 17) || be16_at(p->head + l3 + 6) & 0x3fff))
        return false; /* no fragments */
    if (!v4 && p->head[l3] >> 4 != 6) return false;
    unsigned l4_bytes = tcp ? (p->head[l4 + 12] >> 4) * 4u : 8;
    *headers_bytes = l4 + l4_bytes;
    return (!tcp || l4_bytes >= 20) && *headers_bytes <= p->head_bytes;
}

static bool read_gso(const struct virtio_net_hdr *h, struct packet *p)
{
    struct packet_offload *o = &p->offload;
    unsigned headers_bytes;
    uint16_t type;
    switch (h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_TCPV4: o->gso = PACKET_GSO_TCP4; break;
    case VIRTIO_NET_HDR_GSO_TCPV6: o->gso = PACKET_GSO_TCP6; break;
    case VIRTIO_NET_HDR_GSO_UDP_L4:
        skip_tags(p, &type);
        o->gso = type == 0x0800 ? PACKET_GSO_UDP4 : PACKET_GSO_UDP6;
        break;
    default: return false;
    }
    o->gso_ecn = h->gso_type & VIRTIO_NET_HDR_GSO_ECN;
    o->gso_size = h->gso_size;
    if (!o->csum_partial || o->gso_size == 0 || !gso_fits(p, &headers_bytes)) return false;
    uint32_t payload_bytes = p->length_bytes - headers_bytes;
    if (is_tcp(o->gso) ? o->gso_size < TCP_SEGMENT_MIN : o->gso_ecn || payload_bytes > o->gso_size * UDP_SEGMENTS_MAX)
        return false;
    /* One segment only: nothing to cut. */
    if (payload_bytes <= o->gso_size) {
        o->gso = PACKET_GSO_NONE;
        o->gso_size = 0;
        o->gso_ecn = false;
    }
    return true;
}

bool vnet_read(const uint8_t header[VNET_HEADER_BYTES], struct packet *p)
{
    struct virtio_net_hdr h;
    memcpy(&h, header, sizeof h);
    p->offload = (struct packet_offload){.csum_valid = h.flags & VIRTIO_NET_HDR_F_DATA_VALID};
    if (h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        p->offload.csum_partial = true;
        p->offload.csum_start = h.csum_start;
        p->offload.csum_offset = h.csum_offset;
    }
    enum packet_csum_place place = p->offload.csum_partial ? packet_csum_place(p) : PACKET_CSUM_WRONG;
    if (h.gso_type != VIRTIO_NET_HDR_GSO_NONE) return place == PACKET_CSUM_L4 && read_gso(&h, p);
    return !p->offload.csum_partial || place != PACKET_CSUM_WRONG;
}

void vnet_write(uint8_t header[VNET_HEADER_BYTES], const struct packet *p)
{
    static const uint8_t types[] = {
        [PACKET_GSO_NONE] = VIRTIO_NET_HDR_GSO_NONE,   [PACKET_GSO_TCP4] = VIRTIO_NET_HDR_GSO_TCPV4,
        [PACKET_GSO_TCP6] = VIRTIO_NET_HDR_GSO_TCPV6,  [PACKET_GSO_UDP4] = VIRTIO_NET_HDR_GSO_UDP_L4,
        [PACKET_GSO_UDP6] = VIRTIO_NET_HDR_GSO_UDP_L4,
    };
    const struct packet_offload *o = &p->offload;
    struct virtio_net_hdr h = {0};
    if (o->csum_partial) {
        h.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        h.csum_start = o->csum_start;
        h.csum_offset = o->csum_offset;
    } else if (o->csum_valid) {
        h.flags = VIRTIO_NET_HDR_F_DATA_VALID;
    }
    if (o->gso != PACKET_GSO_NONE) {
        h.gso_type = types[o->gso];
        if (o->gso_ecn) h.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
        h.gso_size = o->gso_size;
        unsigned l4 = o->csum_start;
        /* With it the kernel copies the headers to one place and the rest to whole pages; without, all to one large block. */
        bool tcp = is_tcp(o->gso) && l4 + 20u <= p->head_bytes;
        h.hdr_len = (uint16_t)min_u64(l4 + (tcp ? (p->head[l4 + 12] >> 4) * 4u : 8), p->length_bytes);
    }
    memcpy(header, &h, sizeof h);
}
