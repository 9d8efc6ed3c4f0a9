/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of a disk worker outlives it: one memfd, whose descriptor the daemon holds too, laid out as
 *
 *     head (with worker_kept) | vhost_state | in-flight tables of every queue | stash of the leaf
 *
 * With a Xen guest its rings' note and tables (vbd_xen.h) are in the place of the in-flight tables. Of a worker that nobody keeps
 * anything for it is private memory.
 *
 * Thread-safety: control thread.
 */
#ifndef CMD_VBD_STATE_H
#define CMD_VBD_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "cmd/vbd_worker.h"
#include "disk/disk.h"
#include "vbd/vbd.h"

#define WORKER_STASH_BYTES (UINT64_C(1) << 20)

/* Beside requests and the stash. */
struct worker_kept {
    struct vbd_kept device;
    _Atomic bool sync_failed; /* disk/sync.h */
    uint64_t mark;            /* of the worker that serves, or did; everything of those before it is over */
};

struct worker_state {
    char *mem; /* mapped */
    size_t bytes, vhost_bytes, inflight_bytes;
    int fd; /* -1: nobody keeps it */
};

/* fd: a predecessor's, taken over, or -1 for a new one, which is a memfd when it is to survive. 0 or -errno; what there is then is
 * undone by worker_state_unmap() in any case. */
int worker_state_map(struct worker_state *s, const struct worker_config *c, int fd, bool survives, struct errmsg *e);
void worker_state_unmap(struct worker_state *s);

struct worker_kept *worker_state_kept(const struct worker_state *s);
void *worker_state_vhost(const struct worker_state *s);
void *worker_state_inflight(const struct worker_state *s);
struct disk_stash worker_state_stash(const struct worker_state *s); /* none, where nobody keeps it */

#endif
