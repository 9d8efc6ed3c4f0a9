/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes. What has a host cluster of its own is overwritten in place; everything else is allocated:
 *
 *   1. under the lock: nobody else allocates the same clusters (or wait for him), host clusters from the
 *      pool, room promised in the log
 *   2. what was there before is read where the guest does not write a whole cluster: from below, a shared
 *      cluster, or compressed data. Zeroes need no reading, and no writing either on clusters that are known to be zero.
 *   3. one write: fill, the guest's bytes, fill
 *   4. under the lock: publish the entries; whoever waited goes on
 *
 * Several clusters in a row are one allocation and one write, as far as the pool has them in a row.
 */
#include "disk/format/qcow2_impl.h"

#include <string.h>

void qcow2_write_step(struct qcow2_op *op)
{
    struct qcow2 *q = qcow2_of_chan(op->chan);
    while (op->at < op->end && !op->parked && op->error == 0) {
        struct qcow2_extent ext;
        qcow2_map_extent(q, op->at, op->end - op->at, true, &ext);
        switch (ext.kind) {
        case QCOW2_KIND_DATA:
            if (!atomic_load_explicit(&q->written, memory_order_relaxed)) atomic_store(&q->written, true);
            qcow2_file_piece(op, ENGINE_WRITE, ext.host_bytes, ext.length_bytes);
            break;
        case QCOW2_KIND_BELOW:
        case QCOW2_KIND_ZERO:
        case QCOW2_KIND_COMPRESSED: qcow2_cow_begin(op, ext.length_bytes); break;
        case QCOW2_KIND_BAD: op->error = -EIO; break;
        case QCOW2_KIND_ABSENT: qcow2_op_park_for(op, QCOW2_WANT_LOAD, op->at >> q->cluster_bits); break;
        }
    }
}

/* ---- flush ---- */

static void synced(struct engine_io *io, int res)
{
    struct qcow2_part *part = container_of(io, struct qcow2_part, io);
    struct qcow2_op *op = part->op;
    struct qcow2_chan *c = op->chan;
    struct qcow2 *q = qcow2_of_chan(c);
    qcow2_slab_give(&c->parts, part);
    qcow2_op_part_done(op, disk_sync_result(q->sync, q->file, res));
    qcow2_chan_wake(c);
}

/* With nothing published since the last commit, the file's own sync is all there is to do. */
void qcow2_flush_step(struct qcow2_op *op)
{
    struct qcow2_chan *c = op->chan;
    struct qcow2 *q = qcow2_of_chan(c);
    pthread_mutex_lock(&q->lock);
    bool empty = qcow2_log_empty(q);
    pthread_mutex_unlock(&q->lock);
    if (!empty) {
        op->at = op->end;
        qcow2_op_park_for(op, QCOW2_WANT_FLUSH, 0);
        return;
    }
    if (disk_sync_failed(q->sync)) {
        op->error = -EIO;
        return;
    }
    struct qcow2_part *part = qcow2_slab_take(&c->parts);
    if (!part) {
        qcow2_op_wait_local(op);
        return;
    }
    part->op = op;
    part->io = (struct engine_io){.op = ENGINE_SYNC, .file = q->file, .done = synced};
    op->at = op->end;
    op->parts++;
    engine_submit(c->chan.engine, &part->io);
}

/* ---- claiming clusters: under the lock ---- */

struct qcow2_alloc *qcow2_alloc_conflict(struct qcow2 *q, uint64_t index, uint64_t count)
{
    struct qcow2_alloc *first = NULL;
    LIST_FOR_EACH (node, &q->allocs) {
        struct qcow2_alloc *a = list_entry(node, struct qcow2_alloc, node);
        if (range_overlaps(a->index, a->count, index, count) && (!first || a->index < first->index)) first = a;
    }
    return first;
}

static void pin(struct qcow2 *q, const struct qcow2_alloc *a, int by)
{
    uint64_t last = qcow2_slice_of(q, a->index + a->count - 1);
    for (uint64_t slice = qcow2_slice_of(q, a->index); slice <= last; slice++)
        q->pins[slice] += (uint32_t)by;
}

static bool is_preallocated(uint64_t entry)
{
    return (entry & QCOW2_ZERO) && (entry & QCOW2_COPIED) && (entry & QCOW2_OFFSET_MASK);
}

/* How many clusters from a->index on can be treated alike, at most a->count; 0: not even the first. */
static uint64_t alike(struct qcow2 *q, struct qcow2_alloc *a)
{
    uint64_t n = 0;
    for (; n < a->count; n++) {
        if (!qcow2_map_ensure(q, a->index + n)) break;
        uint64_t entry = atomic_load_explicit(&q->shadow[a->index + n], memory_order_relaxed);
        enum qcow2_kind kind = qcow2_entry_kind(entry);
        if (kind == QCOW2_KIND_BAD || (kind == QCOW2_KIND_DATA && (entry & QCOW2_COPIED))) break;
        uint64_t host = entry & QCOW2_OFFSET_MASK;
        if (n == 0) {
            a->reused = is_preallocated(entry);
            a->host = a->reused ? host : 0;
        } else if (is_preallocated(entry) != a->reused || (a->reused && host != a->host + (n << q->cluster_bits))) {
            break;
        }
    }
    return n;
}

enum claim { CLAIMED, CLAIM_LOOK_AGAIN, CLAIM_WAIT_LOAD, CLAIM_WAIT_ALLOC, CLAIM_WAIT_LOG, CLAIM_WAIT_POOL };

static enum claim claim_locked(struct qcow2 *q, struct qcow2_op *op, struct qcow2_alloc *a)
{
    struct qcow2_alloc *other = qcow2_alloc_conflict(q, a->index, a->count);
    if (other && other->index <= a->index) {
        list_push_back(&other->waiters, &op->wait_node);
        return CLAIM_WAIT_ALLOC;
    }
    if (other) a->count = other->index - a->index;
    if (!qcow2_map_ensure(q, a->index)) return CLAIM_WAIT_LOAD;
    a->count = alike(q, a);
    if (a->count == 0) return CLAIM_LOOK_AGAIN;
    if (!qcow2_log_promise(q, a->count)) return CLAIM_WAIT_LOG;
    if (!a->reused) {
        uint64_t first, got = qcow2_pool_take(q, a->count, &first, &a->zero, &a->slot);
        q->log.promised -= a->count - got;
        if (got == 0) return CLAIM_WAIT_POOL;
        a->count = got;
        a->host = first << q->cluster_bits;
    }
    pin(q, a, 1);
    list_push_back(&q->allocs, &a->node);
    return CLAIMED;
}

/* ---- ending ---- */

static void wake_waiters(struct qcow2_cow *cow, struct list *waiters)
{
    struct list *node;
    while ((node = list_pop_front(waiters)))
        qcow2_keeper_answer(list_entry(node, struct qcow2_op, wait_node), 0);
}

static void cow_free(struct qcow2_cow *cow)
{
    struct qcow2_chan *c = cow->op->chan;
    for (unsigned i = 0; i < 2; i++)
        if (cow->old[i].buffer) qcow2_buffer_give(c, cow->old[i].buffer);
    qcow2_slab_give(&c->cows, cow);
}

static void cow_end(struct qcow2_cow *cow, int res)
{
    struct qcow2_op *op = cow->op;
    struct qcow2_chan *c = op->chan;
    struct qcow2 *q = qcow2_of_chan(c);
    struct qcow2_alloc *a = &cow->alloc;
    struct list waiters;
    list_init(&waiters);
    pthread_mutex_lock(&q->lock);
    if (res == 0) {
        for (uint64_t i = 0; i < a->count; i++)
            qcow2_log_publish(q, a->index + i, (a->host + (i << q->cluster_bits)) | QCOW2_COPIED);
    } else if (a->reused) {
        q->log.promised -= a->count;
    } else {
        q->log.promised -= a->count - 1;
        qcow2_log_free_later(q, a->host >> q->cluster_bits, a->count);
    }
    qcow2_stash_alloc_done(q, a->slot);
    pin(q, a, -1);
    list_remove(&a->node);
    list_splice_back(&waiters, &a->waiters);
    if (qcow2_log_wants_commit(q)) qcow2_keeper_ask_commit(q);
    pthread_mutex_unlock(&q->lock);
    wake_waiters(cow, &waiters);
    op->published = op->published || res == 0;
    cow_free(cow);
    qcow2_op_part_done(op, res);
    qcow2_chan_wake(c);
}

static void cow_written(struct engine_io *io, int res)
{
    cow_end(container_of(io, struct qcow2_cow, io), res);
}

/* ---- writing ---- */

/* Bytes [from, to) of a cluster as they were. */
static unsigned old_vectors(const struct qcow2_old *old, struct iovec *dst, uint64_t from, uint64_t to)
{
    if (from == to) return 0;
    if (!old->buffer) return qcow2_zero_vectors(dst, to - from);
    dst[0] = (struct iovec){old->buffer + from, to - from};
    return 1;
}

static bool is_zero(const uint8_t *p, uint64_t bytes)
{
    static const uint8_t zero[64];
    uint64_t first = min_u64(bytes, sizeof zero);
    return memcmp(p, zero, first) == 0 && memcmp(p, p + first, bytes - first) == 0;
}

/* Free space of a base is mostly zeroes: it costs neither time nor storage then. */
static void drop_zero_fill(struct qcow2_cow *cow, const struct qcow2_old *last, uint64_t inside, uint64_t cluster_bytes)
{
    const uint8_t *before = cow->old[0].buffer, *after = last->buffer;
    if (cow->head && before && is_zero(before + inside - cow->head, cow->head)) cow->head = 0;
    if (cow->tail && after && is_zero(after + cluster_bytes - cow->tail, cow->tail)) cow->tail = 0;
}

static void cow_write(struct qcow2_cow *cow)
{
    struct qcow2_op *op = cow->op;
    struct qcow2 *q = qcow2_of_chan(op->chan);
    if (cow->error) {
        cow_end(cow, cow->error);
        return;
    }
    uint64_t inside = cow->at & (q->cluster_bytes - 1);
    const struct qcow2_old *last = cow->alloc.count > 1 ? &cow->old[1] : &cow->old[0];
    if (cow->alloc.zero) drop_zero_fill(cow, last, inside, q->cluster_bytes);
    unsigned n = old_vectors(&cow->old[0], cow->iov, inside - cow->head, inside);
    n += qcow2_op_slice(op, cow->iov + n, cow->at, cow->length);
    n += old_vectors(last, cow->iov + n, q->cluster_bytes - cow->tail, q->cluster_bytes);
    assert(n <= QCOW2_COW_IOV);
    cow->io = (struct engine_io){.op = ENGINE_WRITE,
                                 .file = q->file,
                                 .offset_bytes = cow->alloc.host + inside - cow->head,
                                 .length_bytes = cow->head + cow->length + cow->tail,
                                 .iov = cow->iov,
                                 .iov_count = n,
                                 .done = cow_written};
    engine_submit(op->chan->chan.engine, &cow->io);
}

/* ---- what was there before ---- */

static void old_read(struct qcow2_cow *cow, int res)
{
    if (res < 0) cow->error = res;
    if (--cow->reads == 0) cow_write(cow);
}

static void old_from_file(struct engine_io *io, int res)
{
    old_read(container_of(io, struct qcow2_old, io)->cow, res);
}

static void old_from_below(struct disk_req *req, int res)
{
    old_read(container_of(req, struct qcow2_old, below)->cow, res);
}

static void old_inflated(struct qcow2_inflate *job, const uint8_t *cluster, int res)
{
    struct qcow2_old *old = container_of(job, struct qcow2_old, job);
    if (res == 0) memcpy(old->buffer + old->from, cluster + old->from, old->to - old->from);
    old_read(old->cow, res);
}

/* How many bytes of [from, to) are something other than zeroes. */
static uint64_t old_bytes(struct qcow2_chan *c, const struct qcow2_old *old)
{
    uint64_t start = old->index << qcow2_of_chan(c)->cluster_bits;
    switch (qcow2_entry_kind(old->entry)) {
    case QCOW2_KIND_BELOW: return qcow2_below_has(c, start + old->from, old->to - old->from);
    case QCOW2_KIND_ZERO: return 0;
    default: return old->to - old->from;
    }
}

static void old_start(struct qcow2_chan *c, struct qcow2_old *old)
{
    struct qcow2 *q = qcow2_of_chan(c);
    uint64_t bytes = old_bytes(c, old), at = (old->index << q->cluster_bits) + old->from;
    memset(old->buffer + old->from + bytes, 0, old->to - old->from - bytes);
    old->iov = (struct iovec){old->buffer + old->from, bytes};
    enum qcow2_kind kind = qcow2_entry_kind(old->entry);
    if (kind == QCOW2_KIND_BELOW && layer_try_read(c->chan.below, at, bytes, &old->iov, 1) == 0) return;
    old->cow->reads++;
    switch (kind) {
    case QCOW2_KIND_BELOW:
        old->below = (struct disk_req){.op = DISK_READ,
                                       .offset_bytes = at,
                                       .length_bytes = bytes,
                                       .iov = &old->iov,
                                       .iov_count = 1,
                                       .done = old_from_below};
        layer_submit(c->chan.below, &old->below);
        break;
    case QCOW2_KIND_COMPRESSED:
        old->job = (struct qcow2_inflate){.chan = c, .entry = old->entry, .done = old_inflated};
        qcow2_inflate_start(&old->job);
        break;
    default:
        old->io = (struct engine_io){.op = ENGINE_READ,
                                     .file = q->file,
                                     .offset_bytes = (old->entry & QCOW2_OFFSET_MASK) + old->from,
                                     .length_bytes = bytes,
                                     .iov = &old->iov,
                                     .iov_count = 1,
                                     .done = old_from_file};
        engine_submit(c->chan.engine, &old->io);
        break;
    }
}

/* Zeroes need no buffer; and no filling where the new cluster holds zeroes already. */
static void old_plan(struct qcow2_cow *cow, struct qcow2_old *old, uint64_t *fill_head, uint64_t *fill_tail)
{
    struct qcow2_chan *c = cow->op->chan;
    if (old->from != old->to && old_bytes(c, old) > 0) return;
    if (old->buffer) qcow2_buffer_give(c, old->buffer);
    old->buffer = NULL;
    if (!cow->alloc.zero) return;
    if (fill_head) *fill_head = 0;
    if (fill_tail) *fill_tail = 0;
}

static void cow_read_old(struct qcow2_cow *cow, const uint64_t entries[2])
{
    struct qcow2_chan *c = cow->op->chan;
    struct qcow2 *q = qcow2_of_chan(c);
    bool single = cow->alloc.count == 1;
    struct qcow2_old *first = &cow->old[0], *last = single ? first : &cow->old[1];
    cow->head = cow->at & (q->cluster_bytes - 1);
    cow->tail = (cow->alloc.count << q->cluster_bits) - cow->head - cow->length;
    for (unsigned i = 0; i < 2; i++) {
        cow->old[i].cow = cow;
        cow->old[i].index = cow->alloc.index + (i ? cow->alloc.count - 1 : 0);
        cow->old[i].entry = entries[i];
    }
    if (cow->head) first->to = cow->head;
    if (cow->tail && last->from == last->to) last->from = q->cluster_bytes - cow->tail;
    if (cow->tail) last->to = q->cluster_bytes;
    old_plan(cow, first, &cow->head, single ? &cow->tail : NULL);
    if (!single) old_plan(cow, last, NULL, &cow->tail);
    else if (cow->old[1].buffer) qcow2_buffer_give(c, cow->old[1].buffer);
    if (single) cow->old[1].buffer = NULL;
    cow->reads = 1;
    for (unsigned i = 0; i < 2; i++)
        if (cow->old[i].buffer) old_start(c, &cow->old[i]);
    old_read(cow, 0);
}

/* ---- beginning ---- */

/* Everything that it may need of the channel's, or nothing. */
static struct qcow2_cow *cow_new(struct qcow2_op *op, uint64_t length)
{
    struct qcow2_chan *c = op->chan;
    uint64_t mask = qcow2_of_chan(c)->cluster_bytes - 1;
    struct qcow2_cow *cow = qcow2_slab_take(&c->cows);
    if (!cow) return NULL;
    memset(cow, 0, offsetof(struct qcow2_cow, iov));
    cow->op = op;
    bool head = op->at & mask, tail = (op->at + length) & mask;
    bool several = (op->at & mask) + length > mask + 1;
    if (head || (tail && !several)) cow->old[0].buffer = qcow2_buffer_take(c);
    if (tail && several) cow->old[1].buffer = qcow2_buffer_take(c);
    if ((cow->old[0].buffer || !(head || (tail && !several))) && (cow->old[1].buffer || !(tail && several))) return cow;
    cow_free(cow);
    return NULL;
}

static void cow_refused(struct qcow2_cow *cow, enum claim why)
{
    struct qcow2_op *op = cow->op;
    struct qcow2 *q = qcow2_of_chan(op->chan);
    cow_free(cow);
    switch (why) {
    case CLAIM_WAIT_LOAD: qcow2_op_park_for(op, QCOW2_WANT_LOAD, op->at >> q->cluster_bits); break;
    case CLAIM_WAIT_ALLOC: qcow2_op_park(op); break; /* the other one answers */
    case CLAIM_WAIT_LOG: qcow2_op_park_for(op, QCOW2_WANT_LOG, 0); break;
    case CLAIM_WAIT_POOL: qcow2_op_park_for(op, QCOW2_WANT_POOL, 0); break;
    case CLAIM_LOOK_AGAIN:
    case CLAIMED: break;
    }
}

/* Allocate for up to `length` bytes from op->at on. */
void qcow2_cow_begin(struct qcow2_op *op, uint64_t length)
{
    struct qcow2 *q = qcow2_of_chan(op->chan);
    length = min_u64(length, q->cow_bytes_max - (op->at & (q->cluster_bytes - 1)));
    struct qcow2_cow *cow = cow_new(op, length);
    if (!cow) {
        qcow2_op_wait_local(op);
        return;
    }
    struct qcow2_alloc *a = &cow->alloc;
    a->index = op->at >> q->cluster_bits;
    a->count = ((op->at + length - 1) >> q->cluster_bits) - a->index + 1;
    a->slot = QCOW2_NO_SLOT;
    list_init(&a->waiters);
    pthread_mutex_lock(&q->lock);
    enum claim how = claim_locked(q, op, a);
    uint64_t entries[2] = {0};
    if (how == CLAIMED) {
        entries[0] = atomic_load_explicit(&q->shadow[a->index], memory_order_relaxed);
        entries[1] = atomic_load_explicit(&q->shadow[a->index + a->count - 1], memory_order_relaxed);
    }
    pthread_mutex_unlock(&q->lock);
    if (how != CLAIMED) {
        cow_refused(cow, how);
        return;
    }
    uint64_t end = min_u64(op->at + length, (a->index + a->count) << q->cluster_bits);
    cow->at = op->at;
    cow->length = end - op->at;
    op->parts++;
    op->at = end;
    cow_read_old(cow, entries);
}
