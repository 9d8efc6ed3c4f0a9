/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net on the wire: Virtual I/O Device specification 1.2, sections 5.1.3, 5.1.4 and 5.1.6. */
#ifndef VIF_VIRTIO_NET_H
#define VIF_VIRTIO_NET_H

#include <assert.h>
#include <stddef.h>

#include "base/endian.h"

enum virtio_net_feature {
    VIRTIO_NET_F_CSUM = 0, /* the device takes frames with partial checksums */
    VIRTIO_NET_F_GUEST_CSUM = 1,
    VIRTIO_NET_F_MTU = 3,
    VIRTIO_NET_F_MAC = 5,
    VIRTIO_NET_F_GUEST_TSO4 = 7,
    VIRTIO_NET_F_GUEST_TSO6 = 8,
    VIRTIO_NET_F_GUEST_ECN = 9,
    VIRTIO_NET_F_HOST_TSO4 = 11,
    VIRTIO_NET_F_HOST_TSO6 = 12,
    VIRTIO_NET_F_HOST_ECN = 13,
    VIRTIO_NET_F_MRG_RXBUF = 15,
    VIRTIO_NET_F_STATUS = 16,
    VIRTIO_NET_F_GUEST_ANNOUNCE = 21,
    VIRTIO_NET_F_MQ = 22,
    VIRTIO_NET_F_GUEST_USO4 = 54,
    VIRTIO_NET_F_GUEST_USO6 = 55,
    VIRTIO_NET_F_HOST_USO = 56,
};

#define VIRTIO_NET_S_LINK_UP 1u

/* As far as fields of the features above go: their places do not depend on which were agreed on. */
struct virtio_net_config {
    uint8_t mac[6];
    struct le16 status;
    struct le16 max_virtqueue_pairs;
    struct le16 mtu;
};
static_assert(sizeof(struct virtio_net_config) == 12, "5.1.4");

#define VIRTIO_NET_HDR_F_NEEDS_CSUM 1u
#define VIRTIO_NET_HDR_F_DATA_VALID 2u

#define VIRTIO_NET_HDR_GSO_NONE 0u
#define VIRTIO_NET_HDR_GSO_TCPV4 1u
#define VIRTIO_NET_HDR_GSO_TCPV6 4u
#define VIRTIO_NET_HDR_GSO_UDP_L4 5u
#define VIRTIO_NET_HDR_GSO_ECN 0x80u

struct virtio_net_hdr {
    uint8_t flags;
    uint8_t gso_type;
    struct le16 hdr_len;
    struct le16 gso_size;
    struct le16 csum_start;
    struct le16 csum_offset;
    struct le16 num_buffers; /* not with drivers that know neither VERSION_1 nor MRG_RXBUF */
};
static_assert(sizeof(struct virtio_net_hdr) == 12, "5.1.6");
#define VIRTIO_NET_HDR_LEGACY_BYTES 10u

#endif
