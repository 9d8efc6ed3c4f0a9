/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The holder: a process that does nothing but keep duplicates of what the daemon holds for its disks and network cards
 * (control/held.h). Below, a disk is either.
 * A worker that dies while there is no daemon, or together with it, is then still replaced under its guest by the
 * next daemon. Nobody but the daemon talks to it.
 *
 *     daemon --link (RUNDIR/holder.sock)--> holder
 *       put {"disk"} + one named descriptor, drop {"disk", "name"}, clear {"disk"}: notifications
 *       get {"disk", "from": N}: answered with {"more": bool} and descriptors, from the Nth on
 *
 * It ends when no daemon is connected and there is nothing to hold, or when the name of its socket has gone (then
 * no daemon will ever find it). A holder that dies is replaced, and filled again from the daemon's own.
 *
 * Thread-safety: none. What talks to the holder waits for it (LINK_SEND_WAIT_MS at most): it is always quick.
 */
#ifndef CONTROL_HOLDER_H
#define CONTROL_HOLDER_H

#include "control/disk_config.h"
#include "control/held.h"
#include "control/host.h"

struct holder;

/* Things are held for disks, under their names, and for network cards, under names that no disk can have. */
#define HOLDER_VIF_PREFIX "vif/"
#define HOLDER_NAME_MAX (DISK_NAME_MAX + 4)

/* Find the holder of an earlier daemon, or start one. Without one (the reason goes to the log) the host works,
 * but for the case above. NULL: out of memory. */
struct holder *holder_new(struct host *h);
void holder_free(struct holder *k); /* it lives on */

/* Harmless with k NULL or when it cannot be reached. */
void holder_put(struct holder *k, const char *disk, const char *name, int fd);
void holder_drop(struct holder *k, const char *disk, const char *name);
void holder_clear(struct holder *k, const char *disk);
/* All that it holds for a disk goes into *out, marked stale. */
void holder_get(struct holder *k, const char *disk, struct held *out);

/* The holder's own program: serve the socket (that has this name) until there is no more need. Exit status. */
int holder_run(int listen_fd, const char *path);

#endif
