/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network card's guest half with no virtual machine: a vhost-user-net front end over frontend.h, fast enough to fill any
 * switch from one core.
 *
 *     netfe_tx_take -> write the frame -> netfe_tx_add ... netfe_submit     netfe_tx_reap: buffers come back
 *     netfe_rx_reap -> look at the frames -> netfe_rx_give ... netfe_submit
 *
 * Theory. Each queue has as many buffers as fit its ring, laid out once; a buffer is its virtio-net header and the
 * frame behind it, and (split) owns its descriptors for good. A transmit buffer may be cut into several descriptors, as a
 * guest's large segments are; a received frame may fill several buffers (MRG_RXBUF).
 *
 * Everything that the device writes is checked: an answer for a buffer that it does not have is its error (-EPROTO,
 * queue->broken says why).
 *
 * Thread-safety: none; a card belongs to one thread.
 *
 * Source: Virtual I/O Device specification 1.2, 2.7, 2.8, 5.1.
 */
#ifndef BENCH_NET_FRONTEND_H
#define BENCH_NET_FRONTEND_H

#include <stdbool.h>
#include <stdint.h>
#include <linux/virtio_net.h>

#include "frontend.h"

#define NETFE_HEADER_BYTES 12u
#define NETFE_PAIRS_MAX 16u
#define NETFE_FRAME_BYTES_MAX 65550u
#define NETFE_FRAME_BUFFERS_MAX 256u /* of a received frame */

struct netfe_args {
    struct frontend_args link; /* the socket, ring kinds, memory; what concerns request slots is not used */
    unsigned pairs;            /* 0: 1 */
    unsigned queue_size;       /* ring entries; 0: 1024 */
    uint32_t rx_buffer_bytes;  /* with header; 0: 2048 */
    uint32_t tx_buffer_bytes;  /* with header; 0: 2048 */
    uint32_t tx_segment_bytes; /* a transmit buffer is cut into descriptors of at most this; 0: one */
    bool offloads;             /* accept checksum and segmentation offloads both ways */
};

struct netfe_used {
    uint16_t slot;
    uint16_t buffers; /* of the frame that begins here; 0: one more buffer of the frame before */
    uint32_t bytes;   /* written into this buffer, with header in the first */
};

struct netfe_queue {
    struct frontend *link;
    unsigned index;
    uint16_t size;
    bool packed, event_idx, device_writes;
    uint16_t slot_count, segments; /* buffers, descriptors of each */
    uint32_t buffer_bytes, segment_bytes;
    char *buffers;
    uint32_t *length; /* per slot: bytes as its descriptors say */
    uint16_t *descs;  /* per slot: descriptors in use */
    bool *busy;       /* per slot: with the device */
    uint16_t *free_slots;
    unsigned free_count;
    int kick_fd, call_fd;

    void *ring_desc, *ring_driver, *ring_device;
    uint16_t avail_next, avail_published, used_next; /* split: free-running; packed: positions */
    bool avail_wrap, used_wrap;
    uint16_t held_at, held_flags, added; /* packed: the batch's first descriptor gets its flags last */
    unsigned in_flight;
    uint64_t kicks;
    const char *broken;
};

struct netfe {
    struct frontend *link;
    struct netfe_args args;
    uint64_t features; /* offered and accepted */
    struct virtio_net_config config;
    struct netfe_queue rx[NETFE_PAIRS_MAX], tx[NETFE_PAIRS_MAX];
};

/* Memory, rings, buffers; nothing is connected yet. 0 or -errno. */
int netfe_new(struct netfe **out, const struct netfe_args *args, struct errmsg *e);
void netfe_free(struct netfe *n);
/* Connect, agree, share memory, start all queues, receive buffers given. Again after a lost connection: goes on where the
 * device was. 0 or -errno. */
int netfe_attach(struct netfe *n, struct errmsg *e);
/* Stop all queues and close. */
int netfe_detach(struct netfe *n, struct errmsg *e);

static inline char *netfe_buffer(const struct netfe_queue *q, unsigned slot)
{
    return q->buffers + (uint64_t)slot * q->buffer_bytes;
}

/* Free transmit buffers, at most max; how many. They must be added, or stay lost. */
unsigned netfe_tx_take(struct netfe_queue *q, uint16_t *slots, unsigned max);
/* Bytes count from the header on. Not seen by the device before netfe_submit(). */
void netfe_tx_add(struct netfe_queue *q, unsigned slot, uint32_t bytes);
/* Collect what was sent: how many buffers came back, or -EPROTO. */
int netfe_tx_reap(struct netfe_queue *q, unsigned max);
/* Received buffers of whole frames; how many entries, or -EPROTO. No frame is begun after max, but out has room for the
 * rest of the last one: max + NETFE_FRAME_BUFFERS_MAX entries. */
int netfe_rx_reap(struct netfe_queue *q, struct netfe_used *out, unsigned max);
void netfe_rx_give(struct netfe_queue *q, unsigned slot);
/* Show the device what was added; kick it if it wants that. */
void netfe_submit(struct netfe_queue *q);
void netfe_kick(struct netfe_queue *q);
/* Ask for calls, or for none. */
void netfe_want_calls(struct netfe_queue *q, bool want);

/* net_queue.c, for netfe_new(): */
uint64_t netfe_queue_bytes(unsigned size, unsigned segments, uint32_t buffer_bytes);
int netfe_queue_init(struct netfe_queue *q, struct frontend *link, unsigned index, const struct netfe_args *a);
void netfe_queue_clear(struct netfe_queue *q);
/* Empty rings. What was in flight is free again. */
void netfe_queue_restart(struct netfe_queue *q, bool event_idx);
/* For SET_VRING_BASE. */
uint32_t netfe_queue_base(const struct netfe_queue *q);

#endif
