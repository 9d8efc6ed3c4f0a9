/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads: split at what lies where, each piece to the file, to the layer below, to the decompressor, or
 * filled with zeroes on the spot. Also MAP, which answers with the first piece only.
 */
#include "disk/format/qcow2_impl.h"

#include <string.h>

/* ---- pieces ---- */

static struct qcow2_part *part_new(struct qcow2_op *op)
{
    struct qcow2_part *part = qcow2_slab_take(&op->chan->parts);
    if (part) part->op = op;
    else qcow2_op_wait_local(op);
    return part;
}

static void part_free(struct qcow2_part *part, int res)
{
    struct qcow2_op *op = part->op;
    struct qcow2_chan *c = op->chan;
    qcow2_slab_give(&c->parts, part);
    qcow2_op_part_done(op, res);
    qcow2_chan_wake(c);
}

static void file_done(struct engine_io *io, int res)
{
    part_free(container_of(io, struct qcow2_part, io), res);
}

static void below_done(struct disk_req *req, int res)
{
    part_free(container_of(req, struct qcow2_part, below), res);
}

/* The whole request in one piece, which is the rule, uses the request's own vectors. */
static void part_vectors(struct qcow2_part *part, uint64_t at, uint64_t length, const struct iovec **iov,
                         unsigned *count)
{
    const struct qcow2_op *op = part->op;
    if (at == op->req->offset_bytes && length == op->req->length_bytes && op->req->op != DISK_WRITE_ZEROES) {
        *iov = op->req->iov;
        *count = op->req->iov_count;
        return;
    }
    *iov = part->iov;
    *count = qcow2_op_slice(op, part->iov, at, length);
}

void qcow2_file_piece(struct qcow2_op *op, enum engine_op kind, uint64_t host_bytes, uint64_t length)
{
    struct qcow2_part *part = part_new(op);
    if (!part) return;
    struct engine_io *io = &part->io;
    *io = (struct engine_io){.op = kind,
                             .file = qcow2_of_chan(op->chan)->file,
                             .offset_bytes = host_bytes,
                             .length_bytes = length,
                             .done = file_done};
    part_vectors(part, op->at, length, &io->iov, &io->iov_count);
    op->parts++;
    op->at += length;
    engine_submit(op->chan->chan.engine, io);
}

static void zero_piece(struct qcow2_op *op, uint64_t length)
{
    iov_zero(op->req->iov, op->req->iov_count, op->at - op->req->offset_bytes, length);
    op->at += length;
}

/* How much of the piece the layer below has; what is past its end reads as zeroes. */
uint64_t qcow2_below_has(struct qcow2_chan *c, uint64_t at, uint64_t length)
{
    if (!c->chan.below) return 0;
    uint64_t size = layer_size(c->chan.below->layer);
    return at < size ? min_u64(length, size - at) : 0;
}

static void below_piece(struct qcow2_op *op, uint64_t length)
{
    struct qcow2_chan *c = op->chan;
    uint64_t below = qcow2_below_has(c, op->at, length);
    if (!below) {
        zero_piece(op, length);
        return;
    }
    struct qcow2_part *part = part_new(op);
    if (!part) return;
    struct disk_req *req = &part->below;
    *req = (struct disk_req){.op = DISK_READ, .offset_bytes = op->at, .length_bytes = below, .done = below_done};
    part_vectors(part, op->at, below, &req->iov, &req->iov_count);
    op->parts++;
    op->at += below;
    layer_submit(c->chan.below, req);
}

static void cluster_ready(struct qcow2_inflate *job, const uint8_t *cluster, int res)
{
    struct qcow2_compressed_part *part = container_of(job, struct qcow2_compressed_part, job);
    struct qcow2_op *op = part->op;
    struct qcow2_chan *c = op->chan;
    uint64_t inside = part->at & (qcow2_of_chan(c)->cluster_bytes - 1);
    if (res == 0)
        iov_copy_to(op->req->iov, op->req->iov_count, part->at - op->req->offset_bytes, cluster + inside, part->length);
    qcow2_slab_give(&c->compressed, part);
    qcow2_op_part_done(op, res);
    qcow2_chan_wake(c);
}

static void compressed_piece(struct qcow2_op *op, uint64_t entry, uint64_t length)
{
    struct qcow2_compressed_part *part = qcow2_slab_take(&op->chan->compressed);
    if (!part) {
        qcow2_op_wait_local(op);
        return;
    }
    part->op = op;
    part->at = op->at;
    part->length = length;
    part->job = (struct qcow2_inflate){.chan = op->chan, .entry = entry, .done = cluster_ready};
    op->parts++;
    op->at += length;
    qcow2_inflate_start(&part->job);
}

void qcow2_read_step(struct qcow2_op *op)
{
    struct qcow2 *q = qcow2_of_chan(op->chan);
    while (op->at < op->end && !op->parked && op->error == 0) {
        struct qcow2_extent ext;
        qcow2_map_extent(q, op->at, op->end - op->at, false, &ext);
        switch (ext.kind) {
        case QCOW2_KIND_BELOW: below_piece(op, ext.length_bytes); break;
        case QCOW2_KIND_ZERO: zero_piece(op, ext.length_bytes); break;
        case QCOW2_KIND_DATA: qcow2_file_piece(op, ENGINE_READ, ext.host_bytes, ext.length_bytes); break;
        case QCOW2_KIND_COMPRESSED: compressed_piece(op, ext.entry, ext.length_bytes); break;
        case QCOW2_KIND_BAD: op->error = -EIO; break;
        case QCOW2_KIND_ABSENT: qcow2_op_park_for(op, QCOW2_WANT_LOAD, op->at >> q->cluster_bits); break;
        }
    }
}

/* All of the range must be of one kind that needs no I/O. */
static enum qcow2_kind kind_of_range(struct qcow2 *q, uint64_t offset_bytes, uint64_t length_bytes)
{
    uint64_t entry;
    if ((offset_bytes & (q->cluster_bytes - 1)) + length_bytes <= q->cluster_bytes)
        return qcow2_map_lookup(q, offset_bytes >> q->cluster_bits, &entry) ? qcow2_entry_kind(entry)
                                                                            : QCOW2_KIND_ABSENT;
    struct qcow2_extent ext;
    qcow2_map_extent(q, offset_bytes, length_bytes, false, &ext);
    return ext.length_bytes == length_bytes ? ext.kind : QCOW2_KIND_ABSENT;
}

/* The hot path of a clone: nothing of its own here, and the answer in the read cache below. */
int qcow2_try_read(struct layer_chan *chan, uint64_t offset_bytes, uint64_t length_bytes, const struct iovec *iov,
                   unsigned iov_count)
{
    struct qcow2 *q = qcow2_of(chan->layer);
    enum qcow2_kind kind = kind_of_range(q, offset_bytes, length_bytes);
    if (kind == QCOW2_KIND_BELOW && chan->below) {
        uint64_t size = layer_size(chan->below->layer);
        if (range_fits(offset_bytes, length_bytes, size))
            return layer_try_read(chan->below, offset_bytes, length_bytes, iov, iov_count);
        if (offset_bytes < size) return -EAGAIN;
    } else if (kind != QCOW2_KIND_ZERO && kind != QCOW2_KIND_BELOW) {
        return -EAGAIN;
    }
    iov_zero(iov, iov_count, 0, length_bytes);
    return 0;
}

/* Whether the leaf has the block is not worth looking up for a hint: most of a clone is below. */
void qcow2_prefetch(struct layer_chan *chan, uint64_t offset_bytes)
{
    if (chan->below) layer_prefetch(chan->below, offset_bytes);
}

void qcow2_map_step(struct qcow2_op *op)
{
    static const enum disk_extent_kind kinds[] = {
        [QCOW2_KIND_BELOW] = DISK_EXTENT_BELOW,
        [QCOW2_KIND_ZERO] = DISK_EXTENT_ZERO,
        [QCOW2_KIND_DATA] = DISK_EXTENT_DATA,
        [QCOW2_KIND_COMPRESSED] = DISK_EXTENT_DATA,
    };
    struct qcow2 *q = qcow2_of_chan(op->chan);
    struct qcow2_extent ext;
    qcow2_map_extent(q, op->at, op->end - op->at, false, &ext);
    if (ext.kind == QCOW2_KIND_ABSENT) {
        qcow2_op_park_for(op, QCOW2_WANT_LOAD, op->at >> q->cluster_bits);
        return;
    }
    if (ext.kind == QCOW2_KIND_BAD) op->error = -EIO;
    else op->req->map = (struct disk_extent){.kind = kinds[ext.kind], .length_bytes = ext.length_bytes};
    op->at = op->end;
}
