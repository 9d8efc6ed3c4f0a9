/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking the kernel about a network interface. The socket says in which name space; the number stays when the interface is
 * renamed.
 *
 * Thread-safety: any thread.
 */
#ifndef PORT_DEVICE_H
#define PORT_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/errmsg.h"

struct device {
    int control_fd; /* closed by device_close() */
    int ifindex;
    uint32_t mtu; /* when it was looked up */
};

/* 0 or -errno; on failure there is nothing to close (control_fd is -1). */
int device_open(struct device *d, const char *name, struct errmsg *e);
void device_close(struct device *d);
/* IFF_*. False: it is gone. */
bool device_flags(const struct device *d, short *flags);
/* A cable is in it, and it is on. */
bool device_link_up(const struct device *d);
/* Its Ethernet address. False: it has none, or is gone. */
bool device_mac(const struct device *d, uint8_t mac[6]);
/* Receive queues that it has in use; 1 when it does not say. */
unsigned device_queues(const struct device *d);
/* Frames that are received are to keep their VLAN tags from now on. 0, or -errno: it takes them off all the same. */
int device_keep_tags(const struct device *d);

#endif
