/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a virtual network card; private to vif/.
 *
 *   vif.c       the device: features, configuration space, orders to its queues (control thread)
 *   transmit.c  a transmit queue as a source of frames (its runner's thread)
 *   receive.c   the port's send: which receive queue, and the copy into its buffers (any runner's thread)
 *   header.c    the virtio-net header, both ways
 */
#ifndef VIF_VIF_IMPL_H
#define VIF_VIF_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "ring/virtq.h"
#include "vif/bucket.h"
#include "vif/vif.h"
#include "vif/virtio_net.h"

#define BIT64(n) (UINT64_C(1) << (n))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define VIF_ETH_BYTES 14u
#define VIF_TCP_SEGMENT_MIN 16u /* payload bytes; nothing that speaks TCP cuts smaller */
#define VIF_UDP_SEGMENTS_MAX 128u
#define VIF_RX_CHAINS 512u    /* reserved before they are filled */
#define VIF_IOV_SLACK 1024u   /* entries beyond the ring's size: buffers that lie in several regions, indirect tables */
#define VIF_COPY_BYTES 65600u /* of a frame that is copied out whole */

/* A counter with one writer at a time, read by anybody. */
struct vif_counter {
    _Atomic uint64_t v;
};

static inline void counter_add(struct vif_counter *c, uint64_t n)
{
    atomic_store_explicit(&c->v, atomic_load_explicit(&c->v, memory_order_relaxed) + n, memory_order_relaxed);
}

static inline uint64_t counter_read(const struct vif_counter *c)
{
    return atomic_load_explicit(&c->v, memory_order_relaxed);
}

/* How the driver is told of used buffers. */
struct vif_call {
    int fd;   /* -1: it polls */
    int kind; /* guest_fd_kind() */
};

struct vif_tx {
    struct port_source source;
    struct vif *vif;
    unsigned pair;
    struct runner *runner; /* NULL: not running */

    /* The runner's thread's, while it runs. */
    struct virtq *vq;
    struct guest_map *map;
    struct vif_call call;
    int kick_kind; /* guest_fd_kind() */
    uint64_t features;
    unsigned header_bytes;
    bool broken;
    unsigned chain_count; /* popped, to be given back by release */
    struct virtq_chain chain[PACKET_BATCH];
    struct packet packet[PACKET_BATCH];
    struct iovec *iov;
    unsigned iov_max;
    uint8_t *heads;
    uint8_t *copies; /* transmit_copy: VIF_COPY_BYTES for each packet of a batch */

    struct {
        struct vif_counter packets, bytes, invalid, dropped, copied_bytes, throttled, calls, kicks;
    } count;
} __attribute__((aligned(64)));

/* A frame on its way into buffers that were popped for it. */
struct vif_rx_frame {
    struct packet *packet;
    unsigned chain_at, chain_count;
    unsigned iov_at;
};

struct vif_rx {
    pthread_mutex_t lock; /* over all that follows */
    struct vif *vif;
    unsigned pair;
    struct virtq *vq; /* NULL: not running */
    struct guest_map *map;
    struct vif_call call;
    /* Senders that are calling the driver, without the lock; those from before and since the descriptor last changed. */
    _Atomic unsigned calling[2];
    unsigned turn;
    uint64_t features;
    unsigned header_bytes;
    bool mergeable, broken;
    struct vif_rx_frame frame[PACKET_BATCH];
    struct virtq_chain *chain; /* VIF_RX_CHAINS */
    struct iovec *iov;
    unsigned iov_max;

    struct {
        struct vif_counter packets, bytes, no_buffer, too_long, limited, copied_bytes, calls;
    } count;
} __attribute__((aligned(64)));

struct vif {
    struct port port; /* first */
    struct vif_config config;
    struct vif_runners runners;
    struct guest_device_ops ops;
    uint64_t features; /* accepted */
    _Atomic bool link_down;
    _Atomic bool announce;              /* a frame that says where the guest is now is due */
    _Atomic uint64_t announce_after_ns; /* not before */
    _Atomic uint32_t mtu;
    struct bucket from_guest, to_guest;
    /* Which receive queues run: how many, and their pairs, four bits each. */
    _Atomic uint64_t steer_pairs;
    _Atomic uint32_t steer_count;
    _Atomic uint32_t pairs_running;
    _Atomic(const char *) broken_why;
    _Atomic uint64_t broken_queues; /* one bit each; taken out by vif_broken_take() */
    int broken_fd;
    struct vif_tx *tx; /* queue_pairs of each */
    struct vif_rx *rx;
};

/* vif.c; any thread */
void vif_break(struct vif *v, unsigned queue, const char *why);
void vif_call_set(struct vif_call *c, int fd);
void vif_call_driver(const struct vif_call *c);
unsigned vif_header_bytes(uint64_t features);

/* transmit.c; on the control thread */
void vif_tx_init(struct vif_tx *t, struct vif *v, unsigned pair);
int vif_tx_start(struct vif_tx *t, const struct guest_queue *q, struct guest_map *map);
uint32_t vif_tx_stop(struct vif_tx *t);
void vif_tx_set_call(struct vif_tx *t, int call_fd);
void vif_tx_set_map(struct vif_tx *t, struct guest_map *map);
/* Have it look at what is due. */
void vif_tx_wake(struct vif_tx *t);

/* receive.c; the first on any runner's thread, the others on the control thread */
void vif_send(struct port *p, struct packet *const *packets, unsigned count, struct packet_pool *pool);
void vif_rx_init(struct vif_rx *r, struct vif *v, unsigned pair);
int vif_rx_start(struct vif_rx *r, const struct guest_queue *q, struct guest_map *map);
uint32_t vif_rx_stop(struct vif_rx *r);
void vif_rx_set_call(struct vif_rx *r, int call_fd);
void vif_rx_set_map(struct vif_rx *r, struct guest_map *map);

/* header.c: what a driver wrote, a private copy of it, made into offloads; the packet's head and length are set. False: an
 * impossible header. */
bool vif_header_parse(const struct virtio_net_hdr *h, uint64_t features, struct packet *p);
/* What a driver with these features is told of the packet. */
void vif_header_make(struct virtio_net_hdr *h, uint64_t features, const struct packet *p, unsigned buffers);

/* What the frame is in packets, which a large one is cut into, and the bytes of these. */
struct vif_cost {
    uint32_t packets, bytes;
};
struct vif_cost vif_cost(const struct packet *p);

#endif
