/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reservation pool: host clusters whose refcounts are raised already, so that an allocating
 * write touches no refcount. The keeper fills it in runs that double in size while writes keep
 * coming; what is left is given back at close. A crash leaks at most what is in it; a process that is
 * killed leaks nothing, because the stash mirrors the pool.
 *
 * Direct writes that make a file longer, or fill a hole in it, are done one at a time by the file system. So what is
 * reserved past the end of a file gets its storage, still reading as zeroes, and its place within the file's
 * length in one go; what was not used of it is cut off at close.
 */
#include "disk/format/qcow2_impl.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t qcow2_pool_take(struct qcow2 *q, uint64_t want, uint64_t *first, bool *zero, uint32_t *slot)
{
    struct qcow2_pool *p = &q->pool;
    struct qcow2_run *run = NULL;
    for (unsigned i = 0; i < QCOW2_POOL_RUNS; i++) {
        struct qcow2_run *r = &p->runs[i];
        if (!r->count) continue;
        /* The lowest run that is long enough, or else the longest. */
        if (!run || (r->count >= want ? run->count < want || r->first < run->first : r->count > run->count)) run = r;
    }
    if (!run) return 0;
    uint64_t count = min_u64(want, run->count);
    *first = run->first;
    *zero = run->zero;
    *slot = qcow2_stash_alloc(q, run->first, count); /* before the run is lowered (qcow2_log.c) */
    run->first += count;
    run->count -= count;
    p->clusters -= count;
    qcow2_stash_pool(q, (unsigned)(run - p->runs));
    if (p->clusters < p->low) qcow2_keeper_ask_refill(q);
    return count;
}

bool qcow2_pool_add(struct qcow2 *q, uint64_t first, uint64_t count, bool zero)
{
    struct qcow2_pool *p = &q->pool;
    for (unsigned i = 0; i < QCOW2_POOL_RUNS; i++) {
        struct qcow2_run *r = &p->runs[i];
        bool follows =
            r->count && r->first + r->count == first && r->zero == zero && r->count + count <= QCOW2_RUN_MAX * 2;
        if (r->count && !follows) continue;
        if (!follows) *r = (struct qcow2_run){.first = first, .zero = zero};
        r->count += count;
        p->clusters += count;
        qcow2_stash_pool(q, i);
        return true;
    }
    return false;
}

static bool pool_has_room(struct qcow2 *q)
{
    bool room = false;
    pthread_mutex_lock(&q->lock);
    for (unsigned i = 0; i < QCOW2_POOL_RUNS; i++)
        room = room || q->pool.runs[i].count == 0;
    pthread_mutex_unlock(&q->lock);
    return room;
}

/* A failure costs speed, nothing else: a full file system is reported by the write that needs it. */
static void allocate_storage(struct qcow2 *q, uint64_t first, uint64_t count)
{
    if (!q->file->direct || q->file->block_device || q->allocate_refused) return;
    struct engine *e = q->keeper.engine;
    uint64_t end_bytes = (first + count) << q->cluster_bits;
    int ret = engine_op_now(e, q->file, ENGINE_ZERO, first << q->cluster_bits, count << q->cluster_bits);
    if (ret == 0) ret = engine_write_now(e, q->file, qcow2_zeroes, end_bytes - q->io_align, q->io_align);
    if (ret == -EOPNOTSUPP || ret == -EINVAL) q->allocate_refused = true;
    if (ret == 0) q->storage_allocated = true;
}

/* Reserved clusters at the very end of the file, given back by now. */
static void cut_off_end(struct qcow2 *q, const struct qcow2_run *given_back)
{
    struct stat st;
    uint64_t end = q->file_clusters;
    for (unsigned i = 0; i < QCOW2_POOL_RUNS; i++) {
        const struct qcow2_run *r = &given_back[i];
        if (!r->count || r->first + r->count != end) continue;
        end = r->first;
        i = UINT32_MAX; /* another one may end there: from the first again */
    }
    if (!q->storage_allocated || end == q->file_clusters || fstat(q->file->fd, &st) < 0) return;
    off_t bytes = (off_t)(end << q->cluster_bits);
    if (st.st_size > bytes && ftruncate(q->file->fd, bytes) == 0) q->file_clusters = end;
}

int qcow2_pool_refill(struct qcow2 *q)
{
    struct qcow2_pool *p = &q->pool;
    pthread_mutex_lock(&q->lock);
    uint64_t target = p->next_run, have = p->clusters;
    pthread_mutex_unlock(&q->lock);
    int ret = 0;
    uint64_t got = 0;
    while (ret == 0 && have + got < target && pool_has_room(q)) {
        uint64_t first, count;
        bool zero;
        ret = qcow2_refs_take(q, target - have - got, 1, &first, &count, &zero);
        if (ret < 0) break;
        if (zero) allocate_storage(q, first, count);
        pthread_mutex_lock(&q->lock);
        bool added = qcow2_pool_add(q, first, count, zero);
        pthread_mutex_unlock(&q->lock);
        assert(added);
        got += count;
    }
    uint64_t most = max_u64(min_u64(QCOW2_RUN_MAX, QCOW2_RUN_MAX_BYTES >> q->cluster_bits), QCOW2_RUN_MIN);
    pthread_mutex_lock(&q->lock);
    p->low = p->next_run / 2;
    p->next_run = min_u64(p->next_run * 2, most);
    pthread_mutex_unlock(&q->lock);
    return got ? 0 : ret;
}

void qcow2_pool_drain(struct qcow2 *q)
{
    struct qcow2_run given_back[QCOW2_POOL_RUNS];
    memcpy(given_back, q->pool.runs, sizeof given_back);
    for (unsigned i = 0; i < QCOW2_POOL_RUNS; i++) {
        struct qcow2_run *r = &q->pool.runs[i];
        if (!r->count) continue;
        qcow2_refs_give_back(q, r->first, r->count);
        pthread_mutex_lock(&q->lock);
        q->pool.clusters -= r->count;
        r->count = 0;
        qcow2_stash_pool(q, i);
        pthread_mutex_unlock(&q->lock);
    }
    cut_off_end(q, given_back);
}
