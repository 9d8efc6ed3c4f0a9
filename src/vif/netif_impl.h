/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a Xen guest's card; private to vif/.
 *
 *   netif.c           connecting, disconnecting (control thread)
 *   netif_transmit.c  a transmit ring as a source of frames (its runner's thread)
 *   netif_receive.c   the port's send: which queue, and the copy into the guest's pages (any runner's thread)
 *   netif_control.c   the control ring: hashing (netif_hash.c), pages that stay mapped (netif_static.c)
 *   netif_multicast.c which groups the guest wants
 *   netif_header.c    checksum and segmentation flags, both ways
 *
 * A queue has one way into Xen. Mapping, binding and looking for events are its runner's (the control thread's, while no
 * runner has it); copying and notifying are done by whoever brings frames, too, under the receive side's lock.
 */
#ifndef VIF_NETIF_IMPL_H
#define VIF_NETIF_IMPL_H

#include "ring/netif_ctrl.h"
#include "vif/netif.h"
#include "vif/vif_impl.h"

struct netif_hash;
struct netif_static;

#define NETIF_COPY_AUTO_BYTES 65535u /* NETIF_AUTO: frames up to that length are copied whole */

#define NETIF_ARENA_BYTES (18 * XEN_PAGE_BYTES) /* for a frame that is copied whole, laid out by pages */

#define NETIF_STATIC_MAX 512u /* pages of a queue that stay mapped: a list of one page */

/* Of a control ring, carried out without a pause: each has its price for others, and each grant that it names has one of its own. */
#define NETIF_CONTROL_PAUSE_NS (10 * NS_PER_MS)
#define NETIF_CONTROL_REQUESTS 16u
#define NETIF_CONTROL_GRANTS 512u

#define NETIF_HASH_NONE 0u
#define NETIF_HASH_TOEPLITZ 1u
#define NETIF_HASH_IPV4 1u
#define NETIF_HASH_IPV4_TCP 2u
#define NETIF_HASH_IPV6 4u
#define NETIF_HASH_IPV6_TCP 8u
#define NETIF_HASH_ALL 15u
#define NETIF_HASH_KEY_MAX 40u
#define NETIF_HASH_MAPPING_MAX 128u

struct netif_hash_settings {
    uint32_t algorithm, flags, mapping_count;
    uint8_t key[NETIF_HASH_KEY_MAX];
    uint32_t mapping[NETIF_HASH_MAPPING_MAX];
};

struct netif_state_queue {
    struct netif_queue_setup setup; /* of whose rings the rest is */
    uint32_t domid, static_count;
    uint64_t changed_by; /* netif_control.c: the request that changed the list of pages last */
    uint32_t unused[8];
    struct netif_kept tx, rx;
    struct netif_gref static_grant[NETIF_STATIC_MAX];
};

#define NETIF_GROUPS_MAX 64u

struct netif_state {
    _Atomic uint64_t group[NETIF_GROUPS_MAX]; /* netif_multicast.c; 0: none */
    struct netif_hash_settings hash;
    struct netif_state_queue queue[VIF_QUEUE_PAIRS_MAX];
};

/* A frame of a batch that was taken off the transmit ring. */
struct netif_tx_job {
    struct netif_tx_frame frame;
    struct netif_slot slot[NETIF_SLOTS_MAX];
    enum netif_status status;
    bool mapped;
    unsigned copy_at, copy_count; /* in the batch's copies */
    unsigned map_at, map_count;   /* in the batch's maps */
    uint8_t *whole;               /* its copy, or NULL */
    struct iovec iov[NETIF_SLOTS_MAX];
};

struct netif_tx_side {
    struct netif_tx *ring; /* NULL: not running */
    void *page;
    int port;
    bool masked; /* its event was taken */
    bool broken;
    unsigned job_count; /* taken, to be given back by release */
    unsigned copy_count, map_count;
    size_t arena_used;
    const struct netif_static *pages; /* for this batch */
    struct netif_tx_job job[PACKET_BATCH];
    struct packet packet[PACKET_BATCH];
    /* A batch has no more pieces than the ring has entries: each is copied in part and mapped, and copied again if that fails. */
    struct xen_copy copy[2 * NETIF_ENTRIES];
    struct xen_map map[NETIF_ENTRIES];
    uint8_t *heads;
    uint8_t *arena; /* pages: NETIF_ARENA_BYTES for each frame of a batch, used from the front */
    struct vif_tx_counts count;
    struct vif_counter bad_grants;
};

#define NETIF_NO_COPY UINT16_MAX

/* An entry of the receive ring that is about to be answered. */
struct netif_rx_answer {
    uint8_t extra; /* enum netif_extra, or 0: data */
    bool more;     /* another extra info follows */
    uint16_t flags, bytes;
    uint16_t copy_at; /* NETIF_NO_COPY: it is there already */
    uint8_t type;     /* enum netif_gso; the hash's type */
    uint16_t gso_size;
    uint32_t hash;
};

struct netif_rx_side {
    pthread_mutex_t lock;  /* over all that follows */
    struct netif_rx *ring; /* NULL: not running */
    void *page;
    int port;
    bool broken, sg;
    unsigned answer_count, copy_count;
    struct netif_rx_answer answer[NETIF_ENTRIES];
    struct xen_copy copy[NETIF_ENTRIES];
    bool of_body[NETIF_ENTRIES]; /* it is copied from where a frame's body lies */
    uint8_t *bounce;             /* a page for each copy */
    struct vif_rx_counts count;
    struct vif_counter bad_grants;
};

struct netif_queue {
    struct port_source source;
    struct vif *vif;
    unsigned pair;
    struct runner *runner; /* NULL: not running */
    struct xen *xen;
    _Atomic(struct netif_static *) pages; /* that stay mapped; NULL: none */
    struct netif_tx_side tx __attribute__((aligned(64)));
    struct netif_rx_side rx __attribute__((aligned(64)));
} __attribute__((aligned(64)));

struct netif_control {
    struct xen *xen;
    void *page; /* NULL: there is none */
    int port;
    bool told;
    uint64_t served_ns;        /* when a request was carried out last, ... */
    unsigned requests, grants; /* ... and how much without a pause */
    struct netif_ctrl ring;
};

struct netif_card {
    struct netif_config config;
    struct netif_front front;
    unsigned queues;     /* connected; 0: none */
    _Atomic bool filter; /* frames to groups that nobody asked for are dropped */
    pthread_mutex_t groups_lock;
    struct netif_queue *queue;
    struct netif_control control;
    _Atomic(struct netif_hash *) hash; /* NULL: queues are ours to choose */
};

/* netif_transmit.c; on the control thread */
int netif_tx_side_make(struct netif_queue *q); /* memory; 0 or -errno */
void netif_tx_side_unmake(struct netif_queue *q);
/* The ring is there, the port bound: from now on it is a source. */
int netif_tx_run(struct netif_queue *q);
void netif_tx_halt(struct netif_queue *q); /* everything is given back; harmless when it does not run */

/* netif_receive.c; the first on any runner's thread */
void netif_send(struct port *p, struct packet *const *packets, unsigned count, struct packet_pool *pool);
int netif_rx_side_make(struct netif_queue *q);
void netif_rx_side_unmake(struct netif_queue *q);

/* netif_multicast.c: an order of the front end (any transmit ring's thread); frames that it wants (any thread) */
enum netif_status netif_multicast_order(struct netif_card *c, uint8_t order, const uint8_t *mac);
void netif_multicast_clear(struct netif_card *c);
unsigned netif_multicast_filter(struct netif_card *c, struct packet *const *packets, unsigned count,
                                struct packet **wanted);

/* netif_hash.c */
struct netif_hashed {
    bool there;
    uint8_t type; /* the number of its NETIF_HASH_ bit */
    uint32_t value;
};
struct netif_hash *netif_hash_new(const struct netif_hash_settings *s); /* free(); NULL: no memory */
struct netif_hashed netif_hash_of(const struct netif_hash *h, const struct packet *p);
unsigned netif_hash_queue(const struct netif_hash *h, struct netif_hashed v, unsigned queues);

/* netif_static.c */
struct netif_static_page {
    struct xen_map map;
    bool writable;
};
const struct netif_static_page *netif_static_find(const struct netif_static *s, uint32_t ref);
struct netif_static *netif_static_copy(
    const struct netif_static *s); /* of NULL: an empty one. NULL: no memory. free() */
unsigned netif_static_count(const struct netif_static *s);
const struct netif_static_page *netif_static_at(const struct netif_static *s, unsigned i);
/* All, or -errno and none. To a copy, before anybody looks at it. again: some may be there already. */
int netif_static_add(struct netif_static *s, struct xen *x, xen_domid domid, const struct netif_gref *list,
                     unsigned count, bool again);
bool netif_static_take(struct netif_static *s, uint32_t ref, struct xen_map *out);
void netif_static_free(struct netif_static *s, struct xen *x); /* unmaps all */

/* netif_control.c; on the control thread */
int netif_control_open(struct vif *v, const struct netif_control_setup *s, bool resume, struct errmsg *e);
void netif_control_close(struct vif *v); /* harmless when it is not open; the queues still are */

/* netif_header.c: what the front end said of a frame, made into offloads; the packet's head and length are set. False: it is
 * not what was said. */
bool netif_header_parse(const struct netif_tx_frame *f, struct packet *p);
/* Flags of a frame's first entry. */
uint16_t netif_header_flags(const struct packet *p);

#endif
