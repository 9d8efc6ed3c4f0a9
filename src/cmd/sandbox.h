/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker and the cache service give up, for good, before they read the first byte that a guest wrote:
 *
 *   1. the network, IPC, mount and host-name namespaces, and in them the file system: the root becomes an
 *      empty read-only directory
 *   2. root: another user, when asked, and every capability; no way to gain any (no_new_privs)
 *   3. system calls but those listed in sandbox.c, each with why it is needed (seccomp)
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

enum sandbox_extra {
    SANDBOX_NONE = 0,
    SANDBOX_REOPEN = 1, /* open for reading, relative to a directory descriptor held (its own descriptors anew) */
};

/* 3. For all threads there are. 0 or -errno. */
int sandbox_filter(const struct sandbox_args *args, enum sandbox_extra extra, struct errmsg *e);

#endif
