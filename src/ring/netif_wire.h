/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What both sides of a netif's rings agree on: Xen's public io/ring.h and io/netif.h, in our own words. Private to ring/.
 *
 * A ring is one page: 64 bytes of indices, then entries, as many as fit, rounded down to a power of two (256 on both rings). An
 * entry is a request or, once it was taken, a response. Numbers are in the machine's own byte order; the layout is the same for
 * guests of 32 and of 64 bits.
 */
#ifndef RING_NETIF_WIRE_H
#define RING_NETIF_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "ring/xen_ring.h"

#define NETIF_PAGE_BYTES 4096u

#define NETIF_TX_CSUM_BLANK 1u
#define NETIF_TX_DATA_VALIDATED 2u
#define NETIF_TX_MORE_DATA 4u
#define NETIF_TX_EXTRA_INFO 8u

struct netif_wire_tx {
    uint32_t ref;
    uint16_t offset, flags;
    uint16_t id, size; /* of the first entry: the whole frame's; of others: their own */
};

struct netif_wire_tx_response {
    uint16_t id;
    int16_t status;
};

struct netif_wire_rx {
    uint16_t id, unused;
    uint32_t ref;
};

struct netif_wire_rx_response {
    uint16_t id, offset;
    uint16_t flags;
    int16_t status; /* bytes, or an error */
};

#define NETIF_EXTRA_FLAG_MORE 1u

/* In place of a request (transmit) or a response (receive). */
struct netif_wire_extra {
    uint8_t type, flags;
    union {
        struct {
            uint16_t size;
            uint8_t type, unused;
            uint16_t features;
        } gso;
        uint8_t mcast[6];
        struct {
            uint8_t type, algorithm;
            uint8_t value[4];
        } hash;
        uint8_t bytes[6];
    };
};

_Static_assert(sizeof(struct netif_wire_tx) == 12 && sizeof(struct netif_wire_tx_response) == 4, "io/netif.h");
_Static_assert(sizeof(struct netif_wire_rx) == 8 && sizeof(struct netif_wire_rx_response) == 8, "io/netif.h");
_Static_assert(sizeof(struct netif_wire_extra) == 8, "io/netif.h");
_Static_assert(offsetof(struct netif_wire_tx, id) == 8 && offsetof(struct netif_wire_rx, ref) == 4, "io/netif.h");

#endif
