/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a virtio-net card; private to vif/.
 *
 *   virtio.c    features, configuration space, orders to the queues (control thread)
 *   transmit.c  a transmit queue as a source of frames (its runner's thread)
 *   receive.c   the port's send: which receive queue, and the copy into its buffers (any runner's thread)
 *   header.c    the virtio-net header, both ways
 */
#ifndef VIF_VIRTIO_H
#define VIF_VIRTIO_H

#include "ring/virtq.h"
#include "vif/vif_impl.h"

#define VIF_RX_CHAINS 512u  /* reserved before they are filled */
#define VIF_IOV_SLACK 1024u /* entries beyond the ring's size: buffers that lie in several regions, indirect tables */

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

    struct vif_tx_counts count;
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

    struct vif_rx_counts count;
} __attribute__((aligned(64)));

/* virtio.c; any thread */
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

#endif
