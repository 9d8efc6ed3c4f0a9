/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A card of a Xen guest: what stands behind its port is a netfront's rings (ring/netif.h) in place of virtqueues.
 *
 *     vif_new(.xen)     the card is on its bridge, link down, nothing is mapped
 *     netif_connect()   the front end's rings are mapped, its event channels bound, queues run
 *     netif_disconnect()  all is given back; another front end may come
 *
 * A guest's memory is reached through grants only. Transmit: a batch of frames is copied out by one call, the smaller ones whole,
 * of larger ones (with NETIF_MAP) the headers, while the rest is mapped and unmapped with its batch. Receive: the thread that brings
 * frames has the hypervisor copy them, a batch by one call, into the pages that the guest posted. A guest that posts none loses
 * frames; it makes nobody wait and holds nobody's memory.
 *
 * Surviving the process: netif_state says where each ring stands (ring/netif.h); frames that were under way are lost or sent twice.
 *
 * Sources: Xen's public io/netif.h.
 *
 * Thread-safety: as vif.h.
 */
#ifndef VIF_NETIF_H
#define VIF_NETIF_H

#include "guest/xen.h"
#include "ring/netif.h"
#include "vif/vif.h"

/* How a guest's frames are fetched. Copied ones cost two copies, mapped ones map, unmap, and a bounce where another Xen guest is
 * the receiver (the hypervisor copies from pages of our own only). */
enum netif_transmit { NETIF_AUTO, NETIF_COPY, NETIF_MAP };

struct netif_state; /* what survives; zeroed when new */
size_t netif_state_bytes(unsigned queues);

struct netif_config {
    xen_domid domid;
    enum netif_transmit transmit;
    /* A way into Xen for one queue, or the control ring, to this guest; called by vif_new() for each. 0 or -errno. */
    int (*open)(void *arg, xen_domid domid, struct xen **out, struct errmsg *e);
    void *arg;
    /* Returns when no thread is in a batch any more that it was in before. NULL: there are no threads. */
    void (*barrier)(void *arg);
    struct netif_state *state; /* netif_state_bytes(); outlives the card */
    /* Cards that map frames (NETIF_MAP), counted here, of all whose frames may come to this one. NULL: nobody knows. */
    atomic_uint *mappers;
};

struct netif_queue_setup {
    uint32_t tx_ref, rx_ref;
    uint32_t tx_port, rx_port; /* the same one: not split */
};

struct netif_control_setup {
    uint32_t ref, port;
};

/* What the front end takes. */
struct netif_front {
    bool sg;            /* frames in several pages */
    bool csum_offload;  /* of IPv4 (feature-no-csum-offload is not there, or 0) */
    bool csum_offload6; /* feature-ipv6-csum-offload */
    bool gso_tcp4, gso_tcp6;
    bool multicast_control; /* only groups that it asks for; may change while it is connected */
};

/* Of a card of vif_new(.xen). control: NULL: it has no control ring. 0, or -errno with the reason: nothing runs. resume: go on where
 * another process stopped. */
int netif_connect(struct vif *v, const struct netif_front *front, const struct netif_queue_setup *queues,
                  unsigned count, const struct netif_control_setup *control, bool resume, struct errmsg *e);
/* What was kept of the connection is forgotten (vif_free() leaves it to a successor). Harmless when not connected. */
void netif_disconnect(struct vif *v);
bool netif_connected(const struct vif *v);
/* The front end wants only groups that it asks for, or all from now on (feature-dynamic-multicast-control). What it asked for is
 * known either way. Harmless when not connected. */
void netif_multicast_control(struct vif *v, bool on);

/* The control ring: readable when there may be requests; -1: there is none. */
int netif_control_fd(const struct vif *v);
/* Carry out some. True: there may be more, to be asked for again after 10 ms (not at once: they have their price). */
bool netif_control_serve(struct vif *v);

#endif
