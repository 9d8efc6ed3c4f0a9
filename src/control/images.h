/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening and locking a disk's images before a worker is given them: the only place where paths that an operator
 * named become descriptors. What the images say about themselves (backing file and its format, sizes) is
 * compared with what was configured; nothing is ever opened because an image says so.
 */
#ifndef CONTROL_IMAGES_H
#define CONTROL_IMAGES_H

#include "control/disk_config.h"

/*
 * Open those of fds[0..layer_count-1] that are -1. The leaf is opened for writing (unless the disk is read-only)
 * and locked; bases are opened for reading. check: compare the chain with the configuration, too.
 * What was opened stays open on failure. 0 or -errno with the reason, which names the file. A lock is not waited for: after
 * -EAGAIN one tries again a little later (VDISK_LOCK_TRIES), as whoever had it may just have ended.
 */
int images_open(const struct disk_config *c, int fds[DISK_CHAIN_MAX], bool check, struct errmsg *e);

#endif
