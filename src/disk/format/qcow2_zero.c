/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DISCARD and WRITE_ZEROES. Whole clusters change their L2 entry only; what of a cluster's part has to
 * read as zeroes is written. Entries change in batches under the lock, through the log like any other.
 *
 *                     discard                    write zeroes        ... that may unmap
 *   not allocated     as it is                   zero, if something lies below; else as it is
 *   data              zero, or not allocated     zero, keeping its   zero, or not allocated
 *                     when nothing lies below    cluster when it is ours
 *
 * Version 2 images have no zero flag: there, what would need one is written out (zeroes) or left
 * as it is (discard).
 */
#include "disk/format/qcow2_impl.h"

static bool has_zero_flag(const struct qcow2 *q)
{
    return q->header.version >= 3;
}

/* A cluster of this kind that is not allocated reads as zeroes, now and after a restart. */
static bool empty_is_zero(const struct qcow2_op *op, uint64_t at, uint64_t length)
{
    const struct qcow2 *q = qcow2_of_chan(op->chan);
    if (!q->has_backing) return true;
    return op->chan->chan.below && qcow2_below_has(op->chan, at, length) == 0;
}

static uint64_t discarded(const struct qcow2 *q, uint64_t entry)
{
    enum qcow2_kind kind = qcow2_entry_kind(entry);
    if (kind == QCOW2_KIND_BELOW || kind == QCOW2_KIND_BAD) return entry;
    if (!q->has_backing) return 0;
    return has_zero_flag(q) ? QCOW2_ZERO : entry;
}

static uint64_t zeroed(const struct qcow2_op *op, uint64_t entry)
{
    const struct qcow2 *q = qcow2_of_chan(op->chan);
    bool ours = (entry & QCOW2_COPIED) && (entry & QCOW2_OFFSET_MASK);
    if (!(op->req->flags & DISK_REQ_UNMAP) && ours) return entry | QCOW2_ZERO;
    return q->has_backing ? QCOW2_ZERO : 0;
}

static uint64_t new_entry(const struct qcow2_op *op, uint64_t entry)
{
    return op->req->op == DISK_DISCARD ? discarded(qcow2_of_chan(op->chan), entry) : zeroed(op, entry);
}

/* Change up to `count` entries from op->at on, in one slice. Returns how many were handled; parks when 0. */
static uint64_t change_entries(struct qcow2_op *op, uint64_t count)
{
    struct qcow2 *q = qcow2_of_chan(op->chan);
    uint64_t index = op->at >> q->cluster_bits, mask = (UINT64_C(1) << q->slice_bits) - 1;
    count = min_u64(min_u64(count, QCOW2_RECORD_BATCH), mask + 1 - (index & mask));
    bool absent = false, full = false;
    pthread_mutex_lock(&q->lock);
    struct qcow2_alloc *other = qcow2_alloc_conflict(q, index, count);
    if (other && other->index <= index) {
        list_push_back(&other->waiters, &op->wait_node);
        count = 0;
    } else {
        if (other) count = other->index - index;
        absent = !qcow2_map_ensure(q, index);
        full = !absent && !qcow2_log_promise(q, count);
        if (absent || full) count = 0;
    }
    for (uint64_t i = index; i < index + count; i++) {
        uint64_t old = atomic_load_explicit(&q->shadow[i], memory_order_relaxed), entry = new_entry(op, old);
        if (entry == old) q->log.promised--;
        else qcow2_log_publish(q, i, entry);
        op->published = op->published || entry != old;
    }
    if (qcow2_log_wants_commit(q)) qcow2_keeper_ask_commit(q);
    pthread_mutex_unlock(&q->lock);
    if (absent) qcow2_op_park_for(op, QCOW2_WANT_LOAD, index);
    else if (full) qcow2_op_park_for(op, QCOW2_WANT_LOG, 0);
    else if (!count) qcow2_op_park(op);
    return count;
}

/* Zeroes as data: parts of clusters, and version 2. */
static void write_zero_bytes(struct qcow2_op *op, uint64_t length)
{
    struct qcow2 *q = qcow2_of_chan(op->chan);
    struct qcow2_extent ext;
    length = min_u64(length, q->cluster_bytes - (op->at & (q->cluster_bytes - 1)));
    qcow2_map_extent(q, op->at, length, true, &ext);
    if (ext.kind == QCOW2_KIND_ABSENT) {
        qcow2_op_park_for(op, QCOW2_WANT_LOAD, op->at >> q->cluster_bits);
    } else if (ext.kind == QCOW2_KIND_DATA) {
        atomic_store_explicit(&q->written, true, memory_order_relaxed);
        qcow2_file_piece(op, ENGINE_WRITE, ext.host_bytes, length);
    } else {
        qcow2_cow_begin(op, length);
    }
}

/* What to do with [op->at, op->at + ext->length), all of one kind. */
static void zero_piece(struct qcow2_op *op, const struct qcow2_extent *ext)
{
    struct qcow2 *q = qcow2_of_chan(op->chan);
    bool discard = op->req->op == DISK_DISCARD;
    uint64_t mask = q->cluster_bytes - 1, length = ext->length_bytes;
    bool reads_zero = (ext->kind == QCOW2_KIND_ZERO && !(ext->entry & QCOW2_OFFSET_MASK)) ||
                      (ext->kind == QCOW2_KIND_BELOW && ext->entry == 0 && empty_is_zero(op, op->at, length));
    if (reads_zero || (discard && (ext->kind == QCOW2_KIND_BELOW || ext->kind == QCOW2_KIND_BAD))) {
        op->at += length;
        return;
    }
    uint64_t whole = length & ~mask;
    if (op->at + length == layer_size(&q->layer)) whole = align_up(length, mask + 1);
    if (op->at & mask) whole = 0;
    if (whole && (discard || has_zero_flag(q) || (!q->has_backing && (op->req->flags & DISK_REQ_UNMAP)))) {
        uint64_t done = change_entries(op, whole >> q->cluster_bits) << q->cluster_bits;
        op->at = min_u64(op->at + done, op->end);
    } else if (discard) {
        op->at += min_u64(length, q->cluster_bytes - (op->at & mask));
    } else if (ext->kind == QCOW2_KIND_ZERO) {
        op->at += length;
    } else {
        write_zero_bytes(op, length);
    }
}

void qcow2_zero_step(struct qcow2_op *op)
{
    struct qcow2 *q = qcow2_of_chan(op->chan);
    while (op->at < op->end && !op->parked && op->error == 0) {
        struct qcow2_extent ext;
        qcow2_map_extent(q, op->at, op->end - op->at, false, &ext);
        if (ext.kind == QCOW2_KIND_ABSENT) qcow2_op_park_for(op, QCOW2_WANT_LOAD, op->at >> q->cluster_bits);
        else if (ext.kind == QCOW2_KIND_BAD && op->req->op == DISK_WRITE_ZEROES) op->error = -EIO;
        else zero_piece(op, &ext);
    }
}
