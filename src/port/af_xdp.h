/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network card as a port through AF_XDP: its frames go past the kernel's network stack.
 *
 * Received frames are used where the card put them (UMEM); frames to be sent are copied there, and finished before (checksums,
 * segments): there is no offload. The card's queues are all served; a program of ours in the kernel, which goes when the port goes
 * or this process dies, hands their frames over. A card that takes VLAN tags off the frames (rxvlan) is told not to,
 * and stays so; one that cannot is refused. What is beside a frame and not in it is lost: the other end of a veth pair must
 * be told to finish checksums and to put tags into its frames (ethtool -K DEV tx-checksumming off txvlan off).
 *
 * native: in the card's driver, without a copy where it can; generic: any card, with one copy more.
 *
 * Source: Linux, Documentation/networking/af_xdp.rst; libxdp's xsk.h.
 *
 * Thread-safety: as port.h and source.h say.
 */
#ifndef PORT_AF_XDP_H
#define PORT_AF_XDP_H

#include "base/errmsg.h"
#include "port/source.h"

#define AF_XDP_QUEUES_MAX 16u
#define AF_XDP_MTU_MAX 3500u

enum af_xdp_mode { AF_XDP_AUTO, AF_XDP_NATIVE, AF_XDP_GENERIC };

struct af_xdp_config {
    const char *name;   /* of the port */
    const char *device; /* of the interface */
    enum af_xdp_mode mode;
    bool no_gro;
};

struct af_xdp;

/* 0 or -errno; -ENOSYS: built without libxdp. To be freed through its port (ops->free), when its sources have been removed. */
int af_xdp_open(struct af_xdp **out, const struct af_xdp_config *c, struct errmsg *e);
struct port *af_xdp_port(struct af_xdp *x);
struct port_source *af_xdp_source(struct af_xdp *x, unsigned queue); /* NULL: there are no more */
/* What was found possible. */
enum af_xdp_mode af_xdp_mode(const struct af_xdp *x);

#endif
