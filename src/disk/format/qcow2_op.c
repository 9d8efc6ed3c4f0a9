/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a request in a channel.
 *
 *   submit -> [waits for a free op] -> running -> ... -> done
 *                                       |   ^
 *                                       v   |   answered by the keeper, or by another request
 *                                      parked
 *
 * While it runs, its `step` begins pieces from `at` on (reads, writes, allocations) until all have been
 * begun, or one has to wait. A piece that ends calls qcow2_op_part_done(), which steps again. The
 * request is done when everything was begun and nothing is in flight; after an error nothing more is begun.
 *
 * A request belongs to the era of its start (see qcow2_impl.h) while it holds on to host clusters; as soon as it is
 * parked with nothing in flight it leaves its era, and enters the current one when it goes on.
 */
#include "disk/format/qcow2_impl.h"

#include <string.h>

/* ---- eras ---- */

static void enter_era(struct qcow2_op *op)
{
    struct qcow2_chan *c = op->chan;
    if (op->in_era) return;
    op->in_era = true;
    op->era = atomic_load_explicit(&qcow2_of_chan(c)->era, memory_order_seq_cst);
    bool first = list_empty(&c->running);
    list_push_back(&c->running, &op->era_node);
    /* Ordered before the look-ups that follow: either the keeper sees this request, or it sees the new entry. */
    if (first) atomic_store_explicit(&c->oldest_era, op->era, memory_order_seq_cst);
}

static void leave_era(struct qcow2_op *op)
{
    struct qcow2_chan *c = op->chan;
    if (!op->in_era) return;
    op->in_era = false;
    bool first = c->running.next == &op->era_node;
    list_remove(&op->era_node);
    if (!first) return;
    uint64_t oldest = UINT64_MAX;
    if (!list_empty(&c->running)) oldest = list_entry(c->running.next, struct qcow2_op, era_node)->era;
    atomic_store_explicit(&c->oldest_era, oldest, memory_order_seq_cst);
}

/* ---- ending ---- */

static void start(struct qcow2_chan *c, struct qcow2_op *op, struct disk_req *req);

static void end(struct qcow2_op *op)
{
    struct qcow2_chan *c = op->chan;
    struct disk_req *req = op->req;
    int ret = op->error;
    leave_era(op);
    struct list *next = list_pop_front(&c->waiting_reqs);
    if (next) start(c, op, list_entry(next, struct disk_req, node));
    else qcow2_slab_give(&c->ops, op);
    req->done(req, ret);
}

static void end_later(struct engine_task *t)
{
    end(container_of(t, struct qcow2_op, task));
}

/* Published entries of this request must be in the image before it is acknowledged, where nothing else would
 * remember them. */
static bool needs_commit(const struct qcow2_op *op)
{
    return op->published && op->error == 0 && !qcow2_of_chan(op->chan)->log.persistent;
}

static void all_begun_and_done(struct qcow2_op *op)
{
    if (needs_commit(op)) {
        op->published = false;
        qcow2_op_park_for(op, QCOW2_WANT_COMMIT, 0);
        return;
    }
    if (!op->submitting) {
        end(op);
        return;
    }
    op->parked = true; /* nothing wakes it but its own task */
    op->task.run = end_later;
    engine_defer(op->chan->chan.engine, &op->task);
}

void qcow2_op_continue(struct qcow2_op *op)
{
    if (op->stepping || op->parked) return; /* whoever steps it, or wakes it, sees the change */
    op->stepping = true;
    if (op->error == 0 && op->at < op->end) op->step(op);
    op->stepping = false;
    if (op->parked || op->parts) return;
    if (op->error || op->at == op->end) all_begun_and_done(op);
}

void qcow2_op_part_done(struct qcow2_op *op, int res)
{
    if (res < 0 && op->error == 0) op->error = res;
    assert(op->parts > 0);
    op->parts--;
    if (op->parked && op->parts == 0) leave_era(op); /* what it waits for may be freed only when it has left */
    qcow2_op_continue(op);
}

/* ---- parking ---- */

void qcow2_op_park(struct qcow2_op *op)
{
    op->parked = true;
    if (op->parts == 0) leave_era(op);
}

void qcow2_op_resume(struct qcow2_op *op)
{
    op->parked = false;
    if (op->want_error < 0 && op->error == 0) op->error = op->want_error;
    op->want_error = 0;
    bool pinned = op->pins_slice;
    uint64_t index = op->want_index;
    struct qcow2 *q = qcow2_of_chan(op->chan);
    op->pins_slice = false;
    enter_era(op);
    qcow2_op_continue(op); /* may end it */
    if (pinned) qcow2_map_unpin(q, index);
}

void qcow2_op_park_for(struct qcow2_op *op, enum qcow2_want want, uint64_t index)
{
    qcow2_op_park(op);
    qcow2_keeper_send(op, want, index);
}

void qcow2_op_wait_local(struct qcow2_op *op)
{
    qcow2_op_park(op);
    op->chan->waits++;
    list_push_back(&op->chan->part_waiters, &op->wait_node);
}

/* Who was woken may need something else, or nothing any more: then the next one gets its chance. */
static void resume_later(struct engine_task *t)
{
    struct qcow2_op *op = container_of(t, struct qcow2_op, task);
    struct qcow2_chan *c = op->chan;
    uint64_t waits = c->waits;
    qcow2_op_resume(op);
    if (c->waits == waits) qcow2_chan_wake(c);
}

/* Deferred: the one who gives something back is in the middle of his own work. */
void qcow2_chan_wake(struct qcow2_chan *c)
{
    struct list *node = list_pop_front(&c->part_waiters);
    if (!node) return;
    struct qcow2_op *op = list_entry(node, struct qcow2_op, wait_node);
    op->task.run = resume_later;
    engine_defer(c->chan.engine, &op->task);
}

/* ---- starting ---- */

static void (*step_for(enum disk_op kind))(struct qcow2_op *op)
{
    switch (kind) {
    case DISK_READ: return qcow2_read_step;
    case DISK_WRITE: return qcow2_write_step;
    case DISK_FLUSH: return qcow2_flush_step;
    case DISK_DISCARD:
    case DISK_WRITE_ZEROES: return qcow2_zero_step;
    case DISK_MAP: return qcow2_map_step;
    }
    return NULL;
}

static bool changes(enum disk_op kind)
{
    return kind == DISK_WRITE || kind == DISK_DISCARD || kind == DISK_WRITE_ZEROES;
}

static void start(struct qcow2_chan *c, struct qcow2_op *op, struct disk_req *req)
{
    struct qcow2 *q = qcow2_of_chan(c);
    *op = (struct qcow2_op){.req = req, .chan = c, .at = req->offset_bytes, .step = step_for(req->op)};
    op->end = req->op == DISK_FLUSH ? op->at + 1 : req->offset_bytes + req->length_bytes; /* a flush has one step */
    if (changes(req->op))
        op->error = q->layer.writable ? atomic_load_explicit(&q->broken, memory_order_relaxed) : -EROFS;
    else if (req->op == DISK_FLUSH && !q->layer.writable) op->at = op->end;
    enter_era(op);
    op->submitting = true;
    qcow2_op_continue(op); /* does not end it: see all_begun_and_done() */
    op->submitting = false;
}

void qcow2_submit_inside(struct qcow2_chan *c, struct disk_req *req)
{
    struct qcow2_op *op = list_empty(&c->waiting_reqs) ? qcow2_slab_take(&c->ops) : NULL;
    if (op) start(c, op, req);
    else list_push_back(&c->waiting_reqs, &req->node);
}

void qcow2_submit(struct layer_chan *chan, struct disk_req *req)
{
    assert(req->op == DISK_FLUSH || range_fits(req->offset_bytes, req->length_bytes, layer_size(chan->layer)));
    qcow2_submit_inside(qcow2_chan_of(chan), req);
}

/* ---- buffers of a request ---- */

unsigned qcow2_zero_vectors(struct iovec *dst, uint64_t length)
{
    unsigned n = 0;
    for (uint64_t take; length; length -= take) {
        take = min_u64(length, QCOW2_ZEROES_BYTES);
        dst[n++] = (struct iovec){(void *)(uintptr_t)qcow2_zeroes, take};
    }
    return n;
}

unsigned qcow2_op_slice(const struct qcow2_op *op, struct iovec *dst, uint64_t at, uint64_t length)
{
    const struct disk_req *req = op->req;
    if (req->op == DISK_WRITE_ZEROES) return qcow2_zero_vectors(dst, length);
    int n = iov_slice(dst, DISK_IOV_MAX, req->iov, req->iov_count, at - req->offset_bytes, length);
    assert(n > 0);
    return (unsigned)n;
}
