/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host daemon: what an operator can ask of it (methods*.c) on top of struct host.
 * docs/man/creedenced.8 lists the methods with their parameters.
 */
#ifndef CONTROL_DAEMON_H
#define CONTROL_DAEMON_H

#include "control/host.h"
#include "control/rpc.h"

/* Disks on their way to their end (methods_shutdown.c). */
struct shutdown {
    struct rpc_call *call; /* answered when that is over */
    bool force;
    uint64_t began_ns, killed_ns; /* when the last one was killed */
    struct loop_timer timer;
    unsigned outstanding, killed, stopped; /* asked and not ended: all, and those that were killed; ended */
    bool failed;
    char problems[2048]; /* what to answer then */
};

struct daemon {
    struct host host;
    struct rpc_server *rpc;
    uint64_t started_ns;
    bool shutting_down;
    struct shutdown shutdown;
};

/* Load the saved disks and go on with (or start) their workers. settled() is called when every one serves or was
 * found not to; it may be called from inside. 0 or -errno. */
int daemon_restore(struct daemon *d, void (*settled)(struct daemon *d), struct errmsg *e);

/* Something else ends the daemon: answer a shutdown that is going on, after all disks were freed. */
void daemon_shutdown_cut_short(struct daemon *d);

/* For rpc_server_new(); arg is the struct daemon. */
extern const struct rpc_method daemon_methods[];

#endif
