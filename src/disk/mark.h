/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Marks: how a process learns that the direct I/O of one before it is over.
 *
 * When a process dies its io_uring workers are waited for, so its buffered reads and writes are over when it is. Direct
 * ones that the block layer has accepted are not: a write may still land on the file after a successor has written
 * the same place, and a read in memory that the dead process shared, a guest's, after the successor has answered it. The kernel
 * offers no call that waits for them. (A device's number of requests in flight does not tell: what a device's full queue or
 * a bandwidth limit holds back is not counted.) But every one of them holds the open file description that it
 * went through, and that holds its locks. So
 *
 *  - a process that uses a file with direct I/O does so on a description of its own, of which nobody has a duplicate, and
 *    puts a lock on one byte of the file through it: its mark, a random number. The lock is shared, on a byte far
 *    behind the end of any image, and collides with nothing;
 *  - it leaves the mark where its successor finds it;
 *  - the successor asks the kernel until nobody holds a lock on that byte.
 *
 * That works for files and devices, for descriptors that can only be read, and with what no process can see. Over NFS the
 * locks are the server's, and the client gives them back when its I/O is over.
 */
#ifndef DISK_MARK_H
#define DISK_MARK_H

#include "base/errmsg.h"
#include "disk/engine/engine.h"

#define DISK_MARK_NONE 0u

/* One that no other process has; never DISK_MARK_NONE. */
uint64_t disk_mark_new(void);

/* Mark the file for as long as its description lives. 0 or -errno. */
int disk_mark_set(const struct engine_file *f, uint64_t mark, struct errmsg *e);

/*
 * Wait until no description but f's own is marked so, which is at once for DISK_MARK_NONE. Any number is taken for a
 * mark: it may come from memory that others write. Blocks, until deadline_ns of clock_now_ns() at most. 0, -ETIMEDOUT or other -errno.
 */
int disk_mark_wait(const struct engine_file *f, uint64_t mark, uint64_t deadline_ns, struct errmsg *e);

#endif
