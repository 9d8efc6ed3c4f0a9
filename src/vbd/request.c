/* SPDX-License-Identifier: Apache-2.0 */
/* What requests ask for, carried out on the layers. Whatever ring they come from, they speak virtio-blk's words (virtio 1.2, 5.2.6). */
#include <errno.h>
#include <string.h>

#include "base/iov.h"
#include "base/log.h"
#include "loop/clock.h"
#include "vbd/queue.h"

static uint8_t status_of(int ret)
{
    if (ret == 0) return VIRTIO_BLK_S_OK;
    return ret == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

static void finish(struct vbd_request *r, uint8_t status)
{
    if (status != VIRTIO_BLK_S_OK) counter_add(&r->queue->count.errors, 1);
    r->result = status;
    vbd_queue_finish(r);
}

static void report(struct vbd_request *r, int ret)
{
    static const char *const verb[] = {[DISK_READ] = "read",
                                       [DISK_WRITE] = "write",
                                       [DISK_FLUSH] = "flush",
                                       [DISK_DISCARD] = "discard",
                                       [DISK_WRITE_ZEROES] = "write zeroes",
                                       [DISK_MAP] = "map"};
    log_limited(LOG_LEVEL_ERROR, "disk %s: %s of %llu bytes at %llu failed: %s (the guest got an I/O error)",
                r->queue->vbd->config.name, verb[r->disk.op], (unsigned long long)r->disk.length_bytes,
                (unsigned long long)r->disk.offset_bytes, strerror(-ret));
}

static void range_next(struct vbd_request *r);
static void piece_next(struct vbd_request *r);
static void write_data(struct vbd_request *r, uint64_t offset_bytes);

/* What a request has changed is to be durable before it is over. */
static bool flushes_after(const struct vbd_request *r)
{
    if (r->type == VBD_T_BARRIER) return true;
    bool changes = r->type == VIRTIO_BLK_T_OUT || r->type == VIRTIO_BLK_T_WRITE_ZEROES;
    return changes && atomic_load_explicit(&r->queue->vbd->write_through, memory_order_relaxed);
}

static void request_done(struct disk_req *req, int ret)
{
    struct vbd_request *r = container_of(req, struct vbd_request, disk);
    if (ret < 0) {
        if (ret != -EOPNOTSUPP) report(r, ret);
        finish(r, status_of(ret));
        return;
    }
    if (r->before) {
        r->before = false;
        write_data(r, r->sector * DISK_SECTOR_BYTES);
        return;
    }
    if (r->left_bytes) {
        piece_next(r);
        return;
    }
    if (r->range_at + 1u < r->range_count) {
        r->range_at++;
        range_next(r);
        return;
    }
    if (!r->flushing && flushes_after(r)) {
        r->flushing = true;
        r->disk.op = DISK_FLUSH;
        layer_submit(r->queue->top, &r->disk);
        return;
    }
    finish(r, VIRTIO_BLK_S_OK);
}

static void submit(struct vbd_request *r, enum disk_op op, uint64_t offset_bytes, uint64_t length_bytes)
{
    r->disk.op = op;
    r->disk.offset_bytes = offset_bytes;
    r->disk.length_bytes = length_bytes;
    r->disk.done = request_done;
    layer_submit(r->queue->top, &r->disk);
}

/* Is [sector, sector + length) whole logical blocks inside the disk? */
static bool range_valid(const struct vbd_queue *q, uint64_t sector, uint64_t length_bytes, uint64_t *offset_bytes)
{
    if (!mul_fits(sector, DISK_SECTOR_BYTES, offset_bytes)) return false;
    uint64_t mask = q->vbd->config.sector_bytes - 1;
    if ((*offset_bytes | length_bytes) & mask) return false;
    return range_fits(*offset_bytes, length_bytes, atomic_load_explicit(&q->vbd->capacity_bytes, memory_order_relaxed));
}

/* Submit the next piece: the entries at r->disk.iov on, as many as make up its bytes. The last of them is cut in place (the
 * entries are ours) and continued by piece_next(). */
static void piece_submit(struct vbd_request *r, uint64_t offset_bytes)
{
    uint64_t bytes = min_u64(r->left_bytes, DISK_REQUEST_MAX_BYTES), have = 0;
    struct iovec *iov = r->data;
    unsigned count = 0;
    while (have < bytes)
        have += iov[count++].iov_len;
    r->left_bytes -= bytes;
    r->cut_bytes = have - bytes;
    iov[count - 1].iov_len -= r->cut_bytes;
    r->disk.iov = iov;
    r->disk.iov_count = count;
    submit(r, r->type == VIRTIO_BLK_T_IN ? DISK_READ : DISK_WRITE, offset_bytes, bytes);
}

static void piece_next(struct vbd_request *r)
{
    unsigned whole = r->disk.iov_count - (r->cut_bytes ? 1 : 0);
    r->data += whole;
    r->data_count -= whole;
    if (r->cut_bytes) {
        r->data->iov_base = (char *)r->data->iov_base + r->data->iov_len;
        r->data->iov_len = r->cut_bytes;
    }
    piece_submit(r, r->disk.offset_bytes + r->disk.length_bytes);
}

static void begin_pieces(struct vbd_request *r, uint64_t offset_bytes)
{
    r->left_bytes = r->data_bytes;
    piece_submit(r, offset_bytes);
}

static void begin_read(struct vbd_request *r)
{
    struct vbd_queue *q = r->queue;
    uint64_t offset_bytes, bytes = r->data_bytes;
    if (!range_valid(q, r->sector, bytes, &offset_bytes) || r->refused) {
        finish(r, VIRTIO_BLK_S_IOERR);
        return;
    }
    counter_add(&q->count.reads, 1);
    counter_add(&q->count.read_bytes, bytes);
    if (bytes == 0) {
        finish(r, VIRTIO_BLK_S_OK);
        return;
    }
    if (bytes > DISK_REQUEST_MAX_BYTES) {
        begin_pieces(r, offset_bytes);
        return;
    }
    r->disk.iov = r->data;
    r->disk.iov_count = r->data_count;
    int ret = layer_try_read(q->top, offset_bytes, bytes, r->data, r->data_count);
    if (ret == -EAGAIN) {
        submit(r, DISK_READ, offset_bytes, bytes);
        return;
    }
    counter_add(&q->count.fast_reads, 1);
    r->disk.op = DISK_READ;
    r->disk.offset_bytes = offset_bytes;
    r->disk.length_bytes = bytes;
    if (ret < 0) report(r, ret);
    finish(r, status_of(ret));
}

static void write_data(struct vbd_request *r, uint64_t offset_bytes)
{
    if (r->data_bytes > DISK_REQUEST_MAX_BYTES) {
        begin_pieces(r, offset_bytes);
        return;
    }
    r->disk.iov = r->data;
    r->disk.iov_count = r->data_count;
    submit(r, DISK_WRITE, offset_bytes, r->data_bytes);
}

/* May it write, and there? Counted, if so. */
static bool write_accept(struct vbd_request *r, uint64_t *offset_bytes)
{
    struct vbd_queue *q = r->queue;
    if (q->vbd->config.read_only || !range_valid(q, r->sector, r->data_bytes, offset_bytes) || r->refused) return false;
    counter_add(&q->count.writes, 1);
    counter_add(&q->count.write_bytes, r->data_bytes);
    return true;
}

static void begin_write(struct vbd_request *r)
{
    uint64_t offset_bytes;
    if (!write_accept(r, &offset_bytes)) finish(r, VIRTIO_BLK_S_IOERR);
    else if (r->data_bytes == 0) finish(r, VIRTIO_BLK_S_OK);
    else write_data(r, offset_bytes);
}

static void begin_flush(struct vbd_request *r)
{
    struct vbd_queue *q = r->queue;
    counter_add(&q->count.flushes, 1);
    if (q->vbd->config.read_only) finish(r, VIRTIO_BLK_S_OK);
    else submit(r, DISK_FLUSH, 0, 0);
}

static void begin_barrier(struct vbd_request *r)
{
    uint64_t offset_bytes;
    if (r->data_bytes == 0) {
        r->flushing = true; /* once is enough */
        begin_flush(r);
    } else if (!write_accept(r, &offset_bytes)) {
        finish(r, VIRTIO_BLK_S_IOERR);
    } else {
        counter_add(&r->queue->count.flushes, 1);
        r->before = true;
        submit(r, DISK_FLUSH, 0, 0);
    }
}

static void begin_discard(struct vbd_request *r)
{
    struct vbd_queue *q = r->queue;
    uint64_t offset_bytes;
    if (q->vbd->config.read_only || !range_valid(q, r->sector, r->data_bytes, &offset_bytes)) {
        finish(r, VIRTIO_BLK_S_IOERR);
        return;
    }
    counter_add(&q->count.discards, 1);
    if (r->data_bytes == 0) finish(r, VIRTIO_BLK_S_OK);
    else submit(r, DISK_DISCARD, offset_bytes, r->data_bytes);
}

/* The ranges, once copied out, live where the iov entries were. */
static const struct virtio_blk_range *ranges_of(const struct vbd_request *r)
{
    return (const struct virtio_blk_range *)(const void *)r->iov;
}

static void range_next(struct vbd_request *r)
{
    const struct virtio_blk_range *range = &ranges_of(r)[r->range_at];
    bool zeroes = r->type == VIRTIO_BLK_T_WRITE_ZEROES;
    r->disk.flags = zeroes && (le32_get(range->flags) & VIRTIO_BLK_RANGE_UNMAP) ? DISK_REQ_UNMAP : 0;
    submit(r, zeroes ? DISK_WRITE_ZEROES : DISK_DISCARD, le64_get(range->sector) * DISK_SECTOR_BYTES,
           (uint64_t)le32_get(range->num_sectors) * DISK_SECTOR_BYTES);
}

/* All ranges are checked before the first is carried out. */
static uint8_t ranges_check(const struct vbd_request *r)
{
    uint32_t known = r->type == VIRTIO_BLK_T_WRITE_ZEROES ? VIRTIO_BLK_RANGE_UNMAP : 0;
    for (unsigned i = 0; i < r->range_count; i++) {
        const struct virtio_blk_range *range = &ranges_of(r)[i];
        uint64_t offset_bytes, bytes = (uint64_t)le32_get(range->num_sectors) * DISK_SECTOR_BYTES;
        if (le32_get(range->flags) & ~known) return VIRTIO_BLK_S_UNSUPP;
        if (!range_valid(r->queue, le64_get(range->sector), bytes, &offset_bytes)) return VIRTIO_BLK_S_IOERR;
    }
    return VIRTIO_BLK_S_OK;
}

static void begin_ranges(struct vbd_request *r)
{
    struct vbd_queue *q = r->queue;
    size_t each = sizeof(struct virtio_blk_range), bytes = r->data_bytes;
    if (q->vbd->config.read_only || bytes == 0 || bytes % each || bytes / each > VBD_DISCARD_SEGMENTS) {
        finish(r, VIRTIO_BLK_S_IOERR);
        return;
    }
    struct virtio_blk_range copy[VBD_DISCARD_SEGMENTS];
    iov_copy_from(copy, r->data, r->data_count, 0, bytes);
    memcpy(r->iov, copy, bytes);
    r->range_count = (uint8_t)(bytes / each);
    uint8_t status = ranges_check(r);
    if (status != VIRTIO_BLK_S_OK) {
        finish(r, status);
        return;
    }
    counter_add(r->type == VIRTIO_BLK_T_DISCARD ? &q->count.discards : &q->count.write_zeroes, 1);
    range_next(r);
}

static void begin_get_id(struct vbd_request *r)
{
    char id[VIRTIO_BLK_ID_BYTES] = {0};
    memcpy(id, r->queue->vbd->config.serial, strnlen(r->queue->vbd->config.serial, sizeof id));
    if (r->data_bytes < sizeof id) {
        finish(r, VIRTIO_BLK_S_IOERR);
        return;
    }
    iov_copy_to(r->data, r->data_count, 0, id, sizeof id);
    finish(r, VIRTIO_BLK_S_OK);
}

void vbd_request_hint(const struct vbd_request *r)
{
    if (r->type == VIRTIO_BLK_T_IN && r->sector < UINT64_MAX / DISK_SECTOR_BYTES)
        layer_prefetch(r->queue->top, r->sector * DISK_SECTOR_BYTES);
}

void vbd_request_refuse(struct vbd_request *r)
{
    counter_add(&r->queue->count.requests, 1);
    finish(r, VIRTIO_BLK_S_IOERR);
}

void vbd_request_run(struct vbd_request *r)
{
    counter_add(&r->queue->count.requests, 1);
    switch (r->type) {
    case VIRTIO_BLK_T_IN: begin_read(r); break;
    case VIRTIO_BLK_T_OUT: begin_write(r); break;
    case VIRTIO_BLK_T_FLUSH: begin_flush(r); break;
    case VIRTIO_BLK_T_GET_ID: begin_get_id(r); break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES: begin_ranges(r); break;
    case VBD_T_BARRIER: begin_barrier(r); break;
    case VBD_T_DISCARD: begin_discard(r); break;
    case VBD_T_REFUSED: finish(r, VIRTIO_BLK_S_IOERR); break;
    default: finish(r, VIRTIO_BLK_S_UNSUPP); break;
    }
}
