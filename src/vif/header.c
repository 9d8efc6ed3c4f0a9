/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio-net header (Virtual I/O Device 1.2, section 5.1.6): from a driver into offloads, and back.
 *
 * What a driver wrote is believed in nothing: a checksum is where the frame's headers say, within the part of it that
 * was copied out, segmentation was agreed on, and the frame is what it is said to be (a length of headers that is claimed
 * is not used at all, only compared). A frame for which any of that fails is dropped; its guest hurts nobody else by it, and
 * the queue is sound.
 */
#include "packet/parse.h"
#include "vif/vif_impl.h"

#define ETH_TYPE_AT 12u
#define ETH_VLAN 0x8100u
#define ETH_QINQ 0x88a8u
#define ETH_IPV4 0x0800u
#define ETH_IPV6 0x86ddu
#define IPV4_BYTES 20u
#define IPV6_BYTES 40u
#define IP_TCP 6u
#define IP_UDP 17u
#define TCP_CHECKSUM_AT 16u
#define TCP_BYTES 20u
#define UDP_CHECKSUM_AT 6u
#define UDP_BYTES 8u

static uint16_t head_u16(const struct packet *p, unsigned at)
{
    return (uint16_t)(p->head[at] << 8 | p->head[at + 1]);
}

/* The type of what the frame carries, after up to two tags, and where that begins. */
static uint16_t ether_type(const struct packet *p, unsigned *l3)
{
    unsigned at = ETH_TYPE_AT;
    for (unsigned tags = 0; tags <= 2 && at + 2 <= p->head_bytes; tags++, at += 4) {
        uint16_t type = head_u16(p, at);
        *l3 = at + 2;
        if (type != ETH_VLAN && type != ETH_QINQ) return type;
    }
    return 0;
}

/* Does what begins at csum_start belong to `protocol`, over this IP? */
static bool carries(const struct packet *p, unsigned type, uint8_t protocol)
{
    unsigned l3 = 0, l4 = p->offload.csum_start;
    if (ether_type(p, &l3) != type) return false;
    if (type == ETH_IPV4) {
        if (l3 + IPV4_BYTES > p->head_bytes || p->head[l3] >> 4 != 4) return false;
        bool fragment = (head_u16(p, l3 + 6) & 0x3fff) != 0;
        return !fragment && p->head[l3 + 9] == protocol && l3 + (p->head[l3] & 15u) * 4 == l4 && l4 >= l3 + IPV4_BYTES;
    }
    if (l3 + IPV6_BYTES > p->head_bytes || p->head[l3] >> 4 != 6 || l4 < l3 + IPV6_BYTES) return false;
    /* With extension headers in between: the checksum's place, which was compared with the frame, says which protocol it is. */
    return l4 > l3 + IPV6_BYTES || p->head[l3 + 6] == protocol;
}

static bool parse_tcp(struct packet *p, unsigned type, uint8_t gso)
{
    struct packet_offload *o = &p->offload;
    if (o->csum_offset != TCP_CHECKSUM_AT || !carries(p, type, IP_TCP)) return false;
    if (o->csum_start + TCP_BYTES > p->head_bytes) return false;
    unsigned bytes = (p->head[o->csum_start + 12] >> 4) * 4u;
    if (bytes < TCP_BYTES || o->csum_start + bytes > p->head_bytes) return false;
    if (o->gso_size < VIF_TCP_SEGMENT_MIN) return false;
    if (p->length_bytes - o->csum_start - bytes > o->gso_size) o->gso = gso; /* else there is nothing to be cut */
    return true;
}

static bool parse_udp(struct packet *p)
{
    struct packet_offload *o = &p->offload;
    bool v4 = carries(p, ETH_IPV4, IP_UDP);
    if (o->csum_offset != UDP_CHECKSUM_AT || (!v4 && !carries(p, ETH_IPV6, IP_UDP))) return false;
    if (o->csum_start + UDP_BYTES > p->head_bytes || o->gso_size == 0) return false;
    unsigned payload = p->length_bytes - o->csum_start - UDP_BYTES;
    if (payload > o->gso_size * VIF_UDP_SEGMENTS_MAX) return false;
    if (payload > o->gso_size) o->gso = v4 ? PACKET_GSO_UDP4 : PACKET_GSO_UDP6;
    return true;
}

static bool parse_gso(const struct virtio_net_hdr *h, uint64_t features, struct packet *p)
{
    bool ecn = h->gso_type & VIRTIO_NET_HDR_GSO_ECN, sound = false;
    unsigned type = h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;
    p->offload.gso_size = le16_get(h->gso_size);
    if (!p->offload.csum_partial || le16_get(h->hdr_len) > p->length_bytes) return false;
    if (type == VIRTIO_NET_HDR_GSO_TCPV4)
        sound = features & BIT64(VIRTIO_NET_F_HOST_TSO4) && parse_tcp(p, ETH_IPV4, PACKET_GSO_TCP4);
    else if (type == VIRTIO_NET_HDR_GSO_TCPV6)
        sound = features & BIT64(VIRTIO_NET_F_HOST_TSO6) && parse_tcp(p, ETH_IPV6, PACKET_GSO_TCP6);
    else if (type == VIRTIO_NET_HDR_GSO_UDP_L4) sound = features & BIT64(VIRTIO_NET_F_HOST_USO) && !ecn && parse_udp(p);
    if (ecn && !(features & BIT64(VIRTIO_NET_F_HOST_ECN))) return false;
    p->offload.gso_ecn = ecn && p->offload.gso;
    if (!p->offload.gso) p->offload.gso_size = 0;
    return sound;
}

bool vif_header_parse(const struct virtio_net_hdr *h, uint64_t features, struct packet *p)
{
    p->offload = (struct packet_offload){0};
    if (likely(!((h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) | h->gso_type))) return true;
    if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        unsigned start = le16_get(h->csum_start), offset = le16_get(h->csum_offset);
        if (!(features & BIT64(VIRTIO_NET_F_CSUM))) return false;
        p->offload.csum_partial = true;
        p->offload.csum_start = (uint16_t)start;
        p->offload.csum_offset = (uint16_t)offset;
    }
    enum packet_csum_place place = p->offload.csum_partial ? packet_csum_place(p) : PACKET_CSUM_WRONG;
    if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE) return place == PACKET_CSUM_L4 && parse_gso(h, features, p);
    return !p->offload.csum_partial || place != PACKET_CSUM_WRONG;
}

/* Bytes of all headers of a frame that is to be cut: a hint for the driver (5.1.6.4). */
static unsigned headers_bytes(const struct packet *p)
{
    unsigned at = p->offload.csum_start;
    if (p->offload.gso == PACKET_GSO_UDP4 || p->offload.gso == PACKET_GSO_UDP6) return at + UDP_BYTES;
    if (at + TCP_BYTES > p->head_bytes) return at + TCP_BYTES;
    return at + (p->head[at + 12] >> 4) * 4u;
}

struct vif_cost vif_cost(const struct packet *p)
{
    unsigned headers = headers_bytes(p), size = p->offload.gso_size;
    if (p->offload.gso == PACKET_GSO_NONE || size == 0 || p->length_bytes <= headers + size)
        return (struct vif_cost){1, p->length_bytes};
    uint32_t more = (p->length_bytes - headers - 1) / size;
    return (struct vif_cost){1 + more, p->length_bytes + more * headers};
}

void vif_header_make(struct virtio_net_hdr *h, uint64_t features, const struct packet *p, unsigned buffers)
{
    static const uint8_t types[] = {[PACKET_GSO_TCP4] = VIRTIO_NET_HDR_GSO_TCPV4,
                                    [PACKET_GSO_TCP6] = VIRTIO_NET_HDR_GSO_TCPV6,
                                    [PACKET_GSO_UDP4] = VIRTIO_NET_HDR_GSO_UDP_L4,
                                    [PACKET_GSO_UDP6] = VIRTIO_NET_HDR_GSO_UDP_L4};
    const struct packet_offload *o = &p->offload;
    *h = (struct virtio_net_hdr){.num_buffers = le16_make((uint16_t)buffers)};
    if (o->csum_partial) {
        h->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        h->csum_start = le16_make(o->csum_start);
        h->csum_offset = le16_make(o->csum_offset);
    } else if (o->csum_valid && features & BIT64(VIRTIO_NET_F_GUEST_CSUM)) {
        h->flags = VIRTIO_NET_HDR_F_DATA_VALID;
    }
    if (likely(o->gso == PACKET_GSO_NONE)) return;
    h->gso_type = types[o->gso];
    if (o->gso_ecn && features & BIT64(VIRTIO_NET_F_GUEST_ECN)) h->gso_type |= VIRTIO_NET_HDR_GSO_ECN;
    h->gso_size = le16_make(o->gso_size);
    h->hdr_len = le16_make((uint16_t)headers_bytes(p));
}
