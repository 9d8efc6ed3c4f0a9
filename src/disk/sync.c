/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/sync.h"

#include <errno.h>
#include <fcntl.h>

/* Behind all pages that there can be: nothing is waited for, only the description is asked. */
#define NOWHERE (INT64_MAX - (1 << 20))

void disk_sync_init(struct disk_sync *s, int witness_fd)
{
    s->witness_fd = witness_fd;
    pthread_mutex_init(&s->lock, NULL);
    atomic_init(&s->failed, false);
    atomic_init(&s->kept, NULL);
}

void disk_sync_destroy(struct disk_sync *s)
{
    pthread_mutex_destroy(&s->lock);
}

static void fail(struct disk_sync *s)
{
    _Atomic bool *kept = atomic_load(&s->kept);
    if (kept) atomic_store(kept, true);
    atomic_store(&s->failed, true);
}

void disk_sync_keep(struct disk_sync *s, _Atomic bool *kept)
{
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->kept, kept);
    if (atomic_load(&s->failed) || (kept && atomic_load(kept))) fail(s);
    pthread_mutex_unlock(&s->lock);
}

static bool witness_knows(const struct disk_sync *s)
{
    if (s->witness_fd < 0 || sync_file_range(s->witness_fd, NOWHERE, 1, SYNC_FILE_RANGE_WAIT_BEFORE) == 0) return false;
    return errno != EINVAL && errno != ESPIPE && errno != ENOSYS && errno != EOPNOTSUPP;
}

int disk_sync_result(struct disk_sync *s, const struct engine_file *f, int res)
{
    if (f->direct) return res;
    /* The witness tells one of those who ask: the others see what that one makes of it. */
    pthread_mutex_lock(&s->lock);
    if (res < 0 || (!disk_sync_failed(s) && witness_knows(s))) fail(s);
    bool failed = disk_sync_failed(s);
    pthread_mutex_unlock(&s->lock);
    return res == 0 && failed ? -EIO : res;
}
