/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any network interface of the host as a port, through packet sockets.
 *
 * What the interface receives (promiscuously) comes in, what is sent goes out of it; what the host itself sends through it is
 * not seen, and the host's own stack should have no address on it. Offload metadata goes both ways (PACKET_VNET_HDR): frames
 * that the kernel or the card merged come in large, large frames are cut up by the card or, last of all, by the kernel.
 * VLAN tags that the kernel took off are put back.
 *
 * Frames up to about the MTU come through a ring that is shared with the kernel (TPACKET_V2), where they are used in place;
 * larger ones are fetched one by one (PACKET_COPY_THRESH). Not TPACKET_V3 (docs/adr/0008): it shows a block when that is full or a
 * millisecond old at the earliest, and every request and answer would wait for that.
 *
 * What the kernel does not take at once is dropped: the socket's send buffer is the bounded queue of a slow port
 * (docs/adr/0007).
 *
 * Source: Linux, Documentation/networking/packet_mmap.rst; packet(7).
 *
 * Thread-safety: as port.h and source.h say.
 */
#ifndef PORT_AF_PACKET_H
#define PORT_AF_PACKET_H

#include "base/errmsg.h"
#include "port/source.h"

#define AF_PACKET_QUEUES_MAX 16u
#define AF_PACKET_RING_DEFAULT 1024u

struct af_packet_config {
    const char *name;   /* of the port */
    const char *device; /* of the interface */
    unsigned queues;    /* 1..AF_PACKET_QUEUES_MAX; flows are spread over them by the kernel */
    unsigned ring;      /* frames that wait in each; 0: AF_PACKET_RING_DEFAULT */
    bool no_gro;        /* do not merge */
    bool
        qdisc_bypass; /* straight to the driver: less work, but no queue, and the card must be able to cut up large frames */
};

struct af_packet;

/* 0 or -errno. To be freed through its port (ops->free), when its sources have been removed. */
int af_packet_open(struct af_packet **out, const struct af_packet_config *c, struct errmsg *e);
struct port *af_packet_port(struct af_packet *a);
struct port_source *af_packet_source(struct af_packet *a, unsigned queue); /* NULL: there are no more */

#endif
