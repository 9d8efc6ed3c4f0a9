/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Freeing host clusters that the image does not refer to any more. That change is durable when a
 * batch arrives here; what may still use the clusters are requests in flight that looked up the old
 * entry. A batch waits until every one of them has ended (eras), then its clusters are punched out of the
 * file and their refcounts lowered, which lets the allocator hand them out again.
 */
#include "disk/format/qcow2_impl.h"

#include <stdlib.h>
#include <string.h>

#include "disk/format/qcow2_stash.h"

void qcow2_reclaim_add(struct qcow2 *q, struct qcow2_free_batch *batch)
{
    /* A request that starts from here on sees the new entries: they were stored before this. */
    batch->era = atomic_fetch_add_explicit(&q->era, 1, memory_order_seq_cst) + 1;
    list_push_back(&q->keeper.free_batches, &batch->node);
}

/* The oldest era that a request in flight belongs to. */
static uint64_t oldest_era(struct qcow2 *q)
{
    uint64_t oldest = UINT64_MAX;
    pthread_mutex_lock(&q->lock);
    LIST_FOR_EACH (node, &q->chans) {
        struct qcow2_chan *c = list_entry(node, struct qcow2_chan, node);
        oldest = min_u64(oldest, atomic_load_explicit(&c->oldest_era, memory_order_seq_cst));
    }
    pthread_mutex_unlock(&q->lock);
    return oldest;
}

/* Give the storage back, where the file can: holes read as zeroes and cost nothing. */
static void punch(struct qcow2 *q, uint64_t first, uint64_t count)
{
    if (count == 0 || q->punch_refused) return;
    int ret =
        engine_op_now(q->keeper.engine, q->file, ENGINE_PUNCH, first << q->cluster_bits, count << q->cluster_bits);
    if (ret == -EOPNOTSUPP || ret == -EINVAL) q->punch_refused = true;
}

/* Lower the refcounts of a run; what reaches zero is punched first. */
static int free_run(struct qcow2 *q, uint64_t first, uint64_t count)
{
    uint64_t end = first + count, run = first;
    for (uint64_t cluster = first; cluster < end; cluster++) {
        uint64_t refs;
        int ret = qcow2_refs_get(q, cluster, &refs);
        if (ret < 0) return ret;
        if (refs == 1) continue;
        punch(q, run, cluster - run);
        run = cluster + 1;
    }
    punch(q, run, end - run);
    engine_point(q->keeper.engine, "qcow2-reclaim-punched");
    return qcow2_refs_add(q, first, count, -1);
}

static void clear_slots(struct qcow2 *q)
{
    pthread_mutex_lock(&q->lock);
    for (uint32_t i = 0; i < QCOW2_STASH_SLOTS; i++)
        if (bitmap_test(q->log.slot_replayed, i)) qcow2_stash_alloc_done(q, i);
    memset(q->log.slot_replayed, 0, sizeof q->log.slot_replayed);
    pthread_mutex_unlock(&q->lock);
}

/* As long as a snapshot has it, it stays one that must not be written over. */
static int forget_table(struct qcow2 *q, uint64_t cluster)
{
    uint64_t refs;
    int ret = qcow2_refs_get(q, cluster, &refs);
    if (ret == 0 && refs == 0) qcow2_meta_remove(&q->meta, cluster, 1);
    return ret;
}

static void free_batch(struct qcow2 *q, struct qcow2_free_batch *b)
{
    int ret = 0;
    for (uint64_t i = 0; i < b->count && ret == 0; i++)
        ret = free_run(q, b->freed[i].first, b->freed[i].count);
    if (ret == 0 && b->is_table) ret = forget_table(q, b->freed[0].first);
    int written = qcow2_refs_write(q);
    engine_point(q->keeper.engine, "qcow2-reclaim-written");
    if (ret == 0) ret = written;
    if (ret < 0)
        log_limited(LOG_LEVEL_WARN, "%s: freeing clusters: %s; some are leaked", q->layer.name, strerror(-ret));
    if (b->from_slots) clear_slots(q);
    free(b);
}

bool qcow2_reclaim(struct qcow2 *q, bool all)
{
    struct list *batches = &q->keeper.free_batches;
    if (list_empty(batches)) return false;
    uint64_t oldest = all ? UINT64_MAX : oldest_era(q);
    while (!list_empty(batches)) {
        struct qcow2_free_batch *b = list_entry(batches->next, struct qcow2_free_batch, node);
        if (b->era > oldest) return true;
        list_remove(&b->node);
        free_batch(q, b);
    }
    return false;
}
