/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtual network card: virtio-net shown to one guest, and a port to the switch.
 *
 *     guest/ session --guest_device_ops--> vif (control thread)
 *                                           |  queues start and stop
 *                                           v
 *     transmit virtq --source (transmit.c)--> runner --> sink ... port_send --> receive.c --receive virtq--> guest
 *
 * Transmit: one source per queue pair, on a runner of its own (or on one that the owner of the runners chooses). A batch of
 * chains is popped, headers are copied out, the rest stays in the guest's memory until the sink has finished with the
 * batch; then the chains go back, in the order in which they came.
 *
 * Receive: any runner thread may bring frames. A receive queue has a lock of its own, the only one on a packet's way; the
 * thread that brings a frame copies it straight from where it lies into the guest's buffers: the one copy. A guest
 * without buffers loses frames (counted), it makes nobody wait.
 *
 * Surviving the process: everything is completed in order, so a queue's place in its ring says all; the session keeps
 * it (guest_device_ops.in_order) and the successor goes on from there. Frames that were under way are lost or sent twice, as on any wire.
 *
 * Sources: Virtual I/O Device specification 1.2, section 5.1 (network device); vhost-user.
 *
 * Thread-safety: every function on the control thread, except statistics (any).
 */
#ifndef VIF_VIF_H
#define VIF_VIF_H

#include "base/errmsg.h"
#include "guest/vhost_user.h"
#include "port/source.h"

#define VIF_QUEUE_PAIRS_MAX 16u
#define VIF_MTU_MIN 68u
#define VIF_MTU_MAX 65535u

/* What survives with the session's state (a fixed layout; zeroed when new). */
struct vif_kept {
    uint8_t announce; /* the guest's place is to be announced, and has not been yet */
    uint8_t link_down;
    uint8_t unused[62];
};

struct vif_rate {
    uint64_t bits_per_s, packets_per_s; /* 0: no limit */
};

struct vif_config {
    const char *name; /* outlives the card */
    uint8_t mac[6];
    uint16_t mtu;
    unsigned queue_pairs; /* 1..VIF_QUEUE_PAIRS_MAX */
    bool packed;          /* offer the packed ring */
    bool in_order;        /* offer VIRTIO_F_IN_ORDER */
    bool offloads;        /* offer checksum and segmentation offloads */
    bool transmit_copy;   /* copy each frame out of the guest's memory first (the 6.2 design, for comparison) */
    struct vif_rate from_guest, to_guest;
    struct vif_kept *kept;          /* outlives the card */
    const struct netif_config *xen; /* netif.h: the guest is a Xen guest; NULL: a front end of vhost-user. Copied. */
};

/* Which thread serves the transmit queue of a pair. */
struct vif_runners {
    int (*get)(void *arg, unsigned pair, struct runner **out); /* 0 or -errno */
    void (*put)(void *arg, unsigned pair, struct runner *r);   /* its source was removed */
    void *arg;
};

struct vif;
struct netif_config;

/* All config fields are used as they are. 0 or -errno. */
int vif_new(struct vif **out, const struct vif_config *c, const struct vif_runners *runners, struct errmsg *e);
/* The session must be gone, and the port removed from its bridge. */
void vif_free(struct vif *v);

/* Of a virtio-net card, to be given to vhost_session_new() with the card as `device`. */
const struct guest_device_ops *vif_guest_ops(struct vif *v);
/* Valid as long as the card. */
struct port *vif_port(struct vif *v);

/* Changes: true when the guest must be told that its configuration changed. */
bool vif_set_link(struct vif *v, bool up);
bool vif_set_mtu(struct vif *v, uint16_t mtu);
/* Announce where the guest is, after it moved or its switch was replaced: its transmit queue gives a reverse ARP request of
 * its address (what vhost-user front ends ask for with SEND_RARP), at most one a second. */
bool vif_announce(struct vif *v);
void vif_set_rate(struct vif *v, struct vif_rate from_guest, struct vif_rate to_guest);

/* Why a queue broke the card (the first reason), or NULL while it is sound; vif_broken_fd() as vbd_broken_fd(). */
const char *vif_broken(struct vif *v);
uint64_t vif_broken_take(struct vif *v);
int vif_broken_fd(struct vif *v);

struct vif_stats {
    uint64_t tx_packets, tx_bytes, tx_invalid; /* from the guest; frames with an impossible header */
    uint64_t tx_dropped;                       /* the link was down */
    uint64_t rx_packets, rx_bytes, rx_no_buffer, rx_too_long, rx_limited; /* to the guest */
    uint64_t rx_copied_bytes, tx_copied_bytes, tx_throttled, calls, kicks;
    uint64_t tx_bad_grants, rx_bad_grants; /* frames, and pieces of frames, that a grant was no good for; Xen only */
    unsigned pairs_running;
};
void vif_stats_read(struct vif *v, struct vif_stats *out);

#endif
