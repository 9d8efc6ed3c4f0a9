/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the daemon share. One per process; filled by cmd/creedenced.c.
 *
 *   rpc.c            an operator's requests --> methods.c
 *   vdisk*.c         one disk each: its images, sockets, held descriptors, and its worker
 *   cache_keeper.c   the cache service
 *   network*.c       bridges, ports and network cards, and the switch (switch_keeper.c)
 *   xenstore*.c      disks and cards of Xen guests
 *   holder.c         a process that holds what disks and cards hold, too
 *   process.c        programs that were started
 *   peer.c, link.c   talking to them
 *   state.c          what survives
 *
 * Thread-safety: the daemon has one thread.
 */
#ifndef CONTROL_HOST_H
#define CONTROL_HOST_H

#include <limits.h>

#include "control/process.h"
#include "control/state.h"

struct cache_keeper;
struct holder;
struct network;
struct xen_backends;

struct host {
    struct loop *loop;
    const char *state_dir, *run_dir; /* absolute */
    const char *bin_dir;             /* where the programs are that are started; looked at each time */
    const char *cgroup_dir;          /* parent of each program's own cgroup; NULL: none */
    struct process_user user;
    mode_t socket_mode; /* of the sockets for front ends */
    gid_t socket_gid;   /* -1: the daemon's */
    struct cache_settings cache_settings;
    struct cache_keeper *cache;
    struct holder *holder; /* NULL: none */
    struct network *network;
    struct xen_backends *xen; /* NULL: there is no Xen */
    bool sandbox_warned;      /* that workers keep more rights than they need was said */
    struct list disks;        /* struct vdisk, by name */
    unsigned disk_count;
};

/* RUNDIR/what, or RUNDIR/disks/NAME.what. False when it does not fit. */
bool host_path(char out[PATH_MAX], const struct host *h, const char *what);
bool host_disk_path(char out[PATH_MAX], const struct host *h, const char *name, const char *what);

/* Start BIN_DIR/argv[0], as process_spawn(), with the host's cgroup (a child named `cgroup`). */
int host_spawn(const struct host *h, struct process *p, struct process_args *a, const char *cgroup,
               void (*exited)(struct process *, int), struct errmsg *e);

/* How long to wait before starting a program again that has ended `recent` times in the last minute: not at all at
 * first, then longer and longer up to most_ms. */
uint64_t host_backoff_ns(unsigned recent, unsigned most_ms);

/* When something ended lately. */
#define HOST_CRASHES_KEPT 128
struct crash_log {
    uint64_t at_ns[HOST_CRASHES_KEPT];
    unsigned next;
};
/* Note one now; returns how many there were in the last minute, this one included. */
unsigned crash_log_add(struct crash_log *log);

#endif
