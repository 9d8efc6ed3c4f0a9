/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a virtual network card; private to vif/.
 *
 *   vif.c       what all cards have: port, link, limits, announcements, counters
 *   virtio.h    virtio-net: virtio.c, transmit.c, receive.c, header.c
 *   netif_impl.h  a Xen guest's netfront: netif.c, netif_transmit.c, netif_receive.c, netif_header.c
 */
#ifndef VIF_VIF_IMPL_H
#define VIF_VIF_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/types.h>

#include "packet/hash.h"
#include "vif/bucket.h"
#include "vif/vif.h"
#include "vif/virtio_net.h"

#define BIT64(n) (UINT64_C(1) << (n))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define VIF_ETH_BYTES 14u
#define VIF_TCP_SEGMENT_MIN 16u /* payload bytes; nothing that speaks TCP cuts smaller */
#define VIF_UDP_SEGMENTS_MAX 128u
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

/* What each kind of card counts, per queue. */
struct vif_tx_counts {
    struct vif_counter packets, bytes, invalid, dropped, copied_bytes, throttled, calls, kicks;
};
struct vif_rx_counts {
    struct vif_counter packets, bytes, no_buffer, too_long, limited, copied_bytes, calls;
};
/* A pair's, on top of what is in *out. */
void vif_stats_add(struct vif_stats *out, const struct vif_tx_counts *t, const struct vif_rx_counts *r);

/* A frame's head, in pieces of a size that the compiler knows, of which the last may overlap the one before it: otherwise it takes
 * "rep movs", which has 30 cycles to start and lets nothing pass until it has read, and the smallest frames are most of all. */
static inline void vif_copy_head(void *dst, const void *src, size_t bytes)
{
    char *to = dst;
    const char *from = src;
    if (unlikely(bytes < 16)) {
        memcpy(to, from, bytes);
    } else if (unlikely(bytes < 32)) {
        memcpy(to, from, 16);
        memcpy(to + bytes - 16, from + bytes - 16, 16);
    } else if (bytes < 64) {
        memcpy(to, from, 32);
        memcpy(to + bytes - 32, from + bytes - 32, 32);
    } else {
        for (size_t at = 0; at + 64 < bytes; at += 64)
            memcpy(to + at, from + at, 64);
        memcpy(to + bytes - 64, from + bytes - 64, 64);
    }
}

struct vif;
struct vif_tx;     /* virtio.h */
struct vif_rx;     /* virtio.h */
struct netif_card; /* netif_impl.h */

/* What stands behind the port: virtio-net's virtqueues, or a netfront's rings. All on the control thread, except stats (any). */
struct vif_kind {
    const struct port_ops *port_ops;
    int (*make)(struct vif *v, struct errmsg *e); /* 0 or -errno; unmake is called then, too */
    void (*unmake)(struct vif *v);
    /* Has the transmit queue of this pair look at what is due. False: it does not run. */
    bool (*wake)(struct vif *v, unsigned pair);
    void (*stats)(struct vif *v, struct vif_stats *out); /* adds */
};

struct vif {
    struct port port; /* first */
    struct vif_config config;
    struct vif_runners runners;
    const struct vif_kind *kind;
    struct guest_device_ops ops; /* virtio-net's */
    uint64_t features;           /* accepted, virtio-net's */
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
    struct vif_tx *tx; /* queue_pairs of each; virtio-net's */
    struct vif_rx *rx;
    struct netif_card *netif; /* a netfront's */
};

extern const struct vif_kind vif_virtio_kind, vif_netif_kind;

/* ---- vif.c ---- */

void vif_break(struct vif *v, unsigned queue, const char *why); /* any thread */
void vif_mend(struct vif *v);                                   /* what was broken was taken away */
/* Tell senders which receive queues there are, a bit each, and how many pairs are whole. They may still come to one that was just
 * stopped, and find that out under its lock. */
void vif_steer(struct vif *v, uint32_t receiving, unsigned whole);
bool vif_port_link_up(struct port *p);
bool vif_port_mac(struct port *p, uint8_t mac[6]);
void vif_port_stats(struct port *p, struct port_stats *out);
void vif_port_free(struct port *p);
void vif_announce_due(struct vif *v); /* the guest's place is to be announced */

/* A transmit queue's part: a frame that says where the guest is now, from the queue's thread. */
static inline bool vif_announcement_waits(struct vif *v)
{
    return unlikely(atomic_load_explicit(&v->announce, memory_order_relaxed)) &&
           !atomic_load_explicit(&v->link_down, memory_order_relaxed);
}

static inline bool vif_announcement_is_due(struct vif *v)
{
    return vif_announcement_waits(v) &&
           clock_now_ns() >= atomic_load_explicit(&v->announce_after_ns, memory_order_relaxed);
}

/* p's head begins at `head`, behind PACKET_ROOM_BYTES of room. */
void vif_announcement_make(struct vif *v, struct packet *p, uint8_t *head);

/* Which receive queue each frame goes to, by its flow's hash; returns a bit for each pair that gets any. */
static inline uint32_t vif_pick_queues(const struct vif *v, struct packet *const *packets, unsigned count,
                                       unsigned queues, uint8_t *to)
{
    uint64_t pairs = atomic_load_explicit(&v->steer_pairs, memory_order_relaxed);
    uint32_t wanted = 0;
    for (unsigned i = 0; i < count; i++) {
        unsigned at = packet_queue(packets[i], queues);
        to[i] = (pairs >> (at * 4)) & 15;
        wanted |= 1u << to[i];
    }
    return wanted;
}

static inline unsigned vif_gather(struct packet *const *packets, unsigned count, const uint8_t *to, unsigned pair,
                                  struct packet **mine)
{
    unsigned n = 0;
    for (unsigned i = 0; i < count; i++)
        if (to[i] == pair) mine[n++] = packets[i];
    return n;
}

/* Leaves in `within` those that are within the limit of what goes to the guest. */
unsigned vif_police(struct vif *v, struct packet *const *packets, unsigned count, struct packet **within);

/* ---- header.c ---- */

/* What a driver wrote, a private copy of it, made into offloads; the packet's head and length are set. False: an
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
