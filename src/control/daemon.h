/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host daemon: what an operator can ask of it (methods*.c) on top of struct host.
 * docs/man/creedenced.8 lists the methods with their parameters.
 */
#ifndef CONTROL_DAEMON_H
#define CONTROL_DAEMON_H

#include "control/host.h"
#include "control/rpc.h"

struct daemon {
    struct host host;
    struct rpc_server *rpc;
    uint64_t started_ns;
    struct rpc_call *shutdown_call; /* answered when the last worker has ended */
    bool shutting_down;
};

/* Load the saved disks and go on with (or start) their workers. settled() is called when every one serves or was
 * found not to; it may be called from inside. 0 or -errno. */
int daemon_restore(struct daemon *d, void (*settled)(struct daemon *d), struct errmsg *e);

/* For rpc_server_new(); arg is the struct daemon. */
extern const struct rpc_method daemon_methods[];

#endif
