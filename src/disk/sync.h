/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a flush of a buffered file is worth.
 *
 * The page cache drops what it cannot write, and the kernel says so once for each open file description: to the first
 * flush through it that ends afterwards. All queues of a disk flush through one, so
 *
 *  - a failure is final: what was dropped is lost, and a later success would mean nothing;
 *  - a success of one queue is believed only when no other's flush has been told of a failure, which may be on its way to its
 *    thread still, or to a process that was killed. So a second description, the witness, is asked as well, through which
 *    nothing is flushed: whatever any flush was told since the last look, it is told too.
 *
 * Direct writes fail themselves, and are the guest's to repeat: nothing here concerns them.
 *
 * Thread-safety: any thread.
 */
#ifndef DISK_SYNC_H
#define DISK_SYNC_H

#include <pthread.h>
#include <stdatomic.h>

#include "disk/engine/engine.h"

struct disk_sync {
    int witness_fd; /* not owned; -1: none */
    pthread_mutex_t lock;
    _Atomic bool failed;
    _Atomic bool *_Atomic kept; /* set along with it; shared with the processes before and after; or NULL */
};

void disk_sync_init(struct disk_sync *s, int witness_fd);
void disk_sync_destroy(struct disk_sync *s);

/* Where the processes after us look, or NULL. What one before us left there counts. */
void disk_sync_keep(struct disk_sync *s, _Atomic bool *kept);

/* What to answer to a flush of f that ended with res (0 or -errno). */
int disk_sync_result(struct disk_sync *s, const struct engine_file *f, int res);

static inline bool disk_sync_failed(const struct disk_sync *s)
{
    return atomic_load_explicit(&s->failed, memory_order_relaxed);
}

#endif
