/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tap: the host's own port. Its network interface is the host's end, this is the other one.
 *
 * Large segments and unfinished checksums pass both ways as they are (IFF_VNET_HDR). Receive reads frames into buffers of
 * the queue, where head and body both lie; send writes them from wherever they are. Several queues are several sources; a
 * frame is sent through the queue that its flow's hash selects, and the kernel answers through the same one.
 *
 * What the kernel does not take at once is dropped: its queue behind the tap is the bounded one that a slow port may have
 * (docs/adr/0007).
 *
 * Source: Linux, Documentation/networking/tuntap.rst; linux/if_tun.h.
 *
 * Thread-safety: as port.h and source.h say.
 */
#ifndef PORT_TAP_H
#define PORT_TAP_H

#include "base/errmsg.h"
#include "port/source.h"

#define TAP_QUEUES_MAX 16u

struct tap_config {
    const char *name;   /* of the port */
    const char *device; /* of the interface; NULL or "": the kernel chooses (see tap_device) */
    unsigned queues;    /* 1..TAP_QUEUES_MAX */
    uint32_t mtu;       /* 0: as it is */
    bool persist;       /* the interface stays when the port is gone; false: as it is (a new one goes) */
    bool no_offloads;   /* the kernel is to finish checksums and segments itself */
    /* Queues that somebody opened already, with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR: then `queues` of them, and
     * device does not matter. They are duplicated. */
    const int *fds;
};

struct tap;

/* 0 or -errno. To be freed through its port (ops->free), when its sources have been removed. */
int tap_open(struct tap **out, const struct tap_config *c, struct errmsg *e);
struct port *tap_port(struct tap *t);
struct port_source *tap_source(struct tap *t, unsigned queue); /* NULL: there are no more */
const char *tap_device(struct tap *t);

#endif
