/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker and the cache service give up, for good, before they read the first byte that a guest wrote:
 *
 *   1. the network, IPC, mount and host-name namespaces, and in them the file system: the root becomes an
 *      empty read-only directory
 *   2. root: another user, when asked, and every capability; no way to gain any (no_new_privs)
 *   3. system calls but those listed in sandbox.c, each with why it is needed (seccomp)
 *
 * The network process keeps the host's network, and what it needs to open ports of it.
 *
 * io_uring could open files without openat(2) being allowed: that is what 1. is for.
 */
#ifndef CMD_SANDBOX_H
#define CMD_SANDBOX_H

#include <stdbool.h>

#include "base/errmsg.h"

struct sandbox_args {
    bool required;    /* a part that this host does not allow is an error instead of a line in the log */
    const char *user; /* become this user; NULL: stay */
};

/* 1. and 2. Before any thread is started: the others would keep the old namespaces. 0 or -errno. */
int sandbox_leave_host(const struct sandbox_args *args, struct errmsg *e);

/*
 * The same for the network process, which opens ports of the host while it runs: the host's network stays, and of root's
 * capabilities those for networks. files: give up the file system too, but for what opening ports takes (the tap device,
 * what loading a program for AF_XDP reads, and Xen's devices, where there are any: a card's queues each have their own).
 */
int sandbox_leave_host_but_network(const struct sandbox_args *args, bool files, struct errmsg *e);

enum sandbox_extra {
    SANDBOX_NONE = 0,
    SANDBOX_REOPEN = 1,  /* open for reading, relative to a directory descriptor held (its own descriptors anew) */
    SANDBOX_XEN = 4,     /* Xen's grant and event channel devices, opened before */
    SANDBOX_NETWORK = 2, /* sockets of the host's network, taps, programs for AF_XDP */
};

/* 3. For all threads there are. 0 or -errno. */
int sandbox_filter(const struct sandbox_args *args, enum sandbox_extra extra, struct errmsg *e);

#endif
