/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port: where frames leave to and come from. What the switch asks of one is small:
 *
 *     source (port/source.h) --frames--> runner --> sink (the switch) --port_send()--> port ops->send
 *
 * port_send() is the only way out: it counts, mirrors to a capture, finishes in software what this port cannot take
 * (segmentation, checksums), drops what is longer than its MTU, and calls ops->send with what is left.
 *
 * out.packets and out.bytes count what ops->send was given (segments one by one), what the port then drops included.
 *
 * A send is over when it returns: the port has copied the frame into its receiver's buffers, or given it to the kernel, or
 * dropped it. So nobody can hold the sender's memory past its own batch, however slow he is (docs/adr/0007).
 *
 * Thread-safety: port_send() from any runner thread, several at once; everything else on the control thread. A port is
 * freed only after every thread has passed a quiescent state (the switch sees to that).
 */
#ifndef PORT_PORT_H
#define PORT_PORT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "packet/packet.h"

#define PORT_NAME_BYTES 32 /* with the final zero */

/* What a receiver takes as it is. */
#define PORT_TAKES_CSUM 1u /* csum_partial */
#define PORT_TAKES_TSO4 2u
#define PORT_TAKES_TSO6 4u
#define PORT_TAKES_USO4 8u
#define PORT_TAKES_USO6 16u
#define PORT_TAKES_ALL 31u
/* The receiver is told that a checksum is missing, and not where: so only TCP's or UDP's straight behind an IP header that nothing
 * precedes. All else is finished here. */
#define PORT_PLAIN_OFFLOADS 32u

struct port_counters {
    _Atomic uint64_t packets, bytes, dropped, errors;
};

struct port_stats { /* in: from this port into the switch; out: to it */
    uint64_t in_packets, in_bytes, in_dropped, in_errors;
    uint64_t out_packets, out_bytes, out_dropped, out_errors;
    uint64_t out_copied_bytes;               /* by us: into a guest's buffers or a ring */
    uint64_t segmented, checksummed, merged; /* finished in software; merged by GRO */
};

struct port;

struct port_ops {
    const char *type; /* "vif", "tap", "af_packet", "af_xdp" */
    /* Give count frames (1..PACKET_BATCH) to the receiver, in order. What it does not take is dropped and counted in
     * port->out.dropped. pool is the calling thread's. Any runner thread. */
    void (*send)(struct port *p, struct packet *const *packets, unsigned count, struct packet_pool *pool);
    /* Link seen by the port (a guest's LINK_UP, a NIC's carrier). May be NULL: always up. */
    bool (*link_up)(struct port *p);
    /* Its own address. False: it has none, or cannot be asked now. May be NULL. */
    bool (*mac)(struct port *p, uint8_t mac[6]);
    /* 0, or the -errno for which it will never have frames again, where its sources' receive does not say so. May be NULL. */
    int (*broken)(struct port *p);
    /* Add what the port counts itself to *out (already filled from in and out). May be NULL. */
    void (*stats)(struct port *p, struct port_stats *out);
    void (*free)(struct port *p);
};

struct port_capture; /* port/capture.h */

/* Embedded at the start of each kind of port. */
struct port {
    const struct port_ops *ops;
    char name[PORT_NAME_BYTES];
    _Atomic uint32_t takes; /* PORT_TAKES_* */
    _Atomic uint32_t mtu;   /* of IP; a frame may have 18 bytes more, and tags */
    _Atomic(struct port_capture *) capture;
    /* The switch's own. */
    _Atomic(void *) switch_port;
    /* What is above is read by every thread that sends here; what each thread writes for itself must not share lines with it. */
    uint8_t apart0[64];
    struct port_counters in;
    uint8_t apart1[64];
    struct port_counters out;
    _Atomic uint64_t segmented, checksummed, merged, copied_bytes;
};

void port_init(struct port *p, const struct port_ops *ops, const char *name);
void port_send(struct port *p, struct packet *const *packets, unsigned count, struct packet_pool *pool);
void port_stats_read(struct port *p, struct port_stats *out);
/* It takes the place of a port that counted that much, and counts on from there. Before it is used. */
void port_stats_go_on(struct port *p, const struct port_stats *from);

#endif
