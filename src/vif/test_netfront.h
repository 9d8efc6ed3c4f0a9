/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Xen guest's network front end on a simulated machine (guest/sim.h): pages, grants, event channels and both rings, behaving as
 * Linux' netfront does. For tests, fuzzers and load generators.
 *
 * Thread-safety: none; a queue may be a thread's own once the front end is open.
 */
#ifndef VIF_TEST_NETFRONT_H
#define VIF_TEST_NETFRONT_H

#include "guest/sim.h"
#include "ring/netif_sim.h"
#include "vif/netif.h"

#define NETFRONT_QUEUES_MAX 4u
#define NETFRONT_PAGES_PER_QUEUE (2 * NETIF_ENTRIES + 2)

struct netfront_queue {
    struct netif_sim tx, rx;
    uint32_t tx_ref, rx_ref;
    int tx_port, rx_port;
    /* A page and its grant for each id; of the transmit side those that are free are on a stack. */
    uint32_t tx_page[NETIF_ENTRIES], tx_grant[NETIF_ENTRIES];
    uint32_t rx_page[NETIF_ENTRIES], rx_grant[NETIF_ENTRIES];
    uint16_t tx_free[NETIF_ENTRIES], rx_free[NETIF_ENTRIES];
    unsigned tx_free_count, rx_free_count;
    unsigned sent, answered, failed;
};

struct netfront {
    struct sim_guest *guest;
    unsigned queues;
    struct netfront_queue queue[NETFRONT_QUEUES_MAX];
};

/* How a frame is sent; zeros: plain, in as few pages as possible. */
struct netfront_send {
    uint16_t flags; /* NETIF_TX_CSUM_BLANK, NETIF_TX_DATA_VALIDATED */
    uint8_t gso;    /* enum netif_gso */
    uint16_t gso_size;
    unsigned head_bytes;  /* in the first entry, as Linux sends a large segment's headers; 0: as in others */
    unsigned piece_bytes; /* at most, in each entry; 0: a page */
    uint16_t offset;      /* in each page */
};

struct netfront_frame {
    uint8_t *bytes; /* the caller's, of 64 KiB */
    uint32_t length;
    uint16_t flags; /* of its first entry */
    uint8_t gso;
    uint16_t gso_size;
    unsigned entries;
    int status; /* of the first entry that failed, or 0 */
};

/* 0 or -errno. split: an event channel for each direction. */
int netfront_open(struct netfront *f, struct sim *sim, xen_domid domid, unsigned queues, bool split);
void netfront_close(struct netfront *f); /* the domain is destroyed */
void netfront_setup(const struct netfront *f, struct netif_queue_setup *out);

/* Post up to n buffers; how many. To be published with netfront_publish_rx(). */
unsigned netfront_post(struct netfront_queue *q, unsigned n);
void netfront_publish_rx(struct netfront *f, struct netfront_queue *q);
void netfront_publish_tx(struct netfront *f, struct netfront_queue *q);

/* Ethernet, IPv4 and the rest of a frame of length bytes from guest `from` (0, 1) to the other: a UDP datagram without a checksum,
 * padded, or a TCP segment whose checksum is missing. Each queue has a port of its own. */
#define NETFRONT_HEADER_BYTES 54u
void netfront_headers(uint8_t *f, unsigned from, unsigned queue, unsigned length, bool tcp);

/* False: no space. */
bool netfront_add(struct netfront *f, struct netfront_queue *q, const void *frame, uint32_t length,
                  const struct netfront_send *how);
/* Take answers; how many frames' entries were answered. */
unsigned netfront_reap(struct netfront_queue *q);
/* The next frame that came. False: none is there whole. */
bool netfront_get(struct netfront *f, struct netfront_queue *q, struct netfront_frame *out);

#endif
