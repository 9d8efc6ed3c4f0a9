/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One virtio-blk request, from popped chain to status byte (virtio 1.2, section 5.2.6).
 *
 * The chain's entries were checked by ring/: they are in guest memory. Here they are given their
 * meaning: the first 16 bytes that the device may read are the header (copied out once, then only
 * the copy counts), the last byte that it may write is the status, what lies between is data, used
 * in place. Framing is free (section 2.7.4): header and status may be cut up or joined to data in any
 * way; the usual framing costs nothing extra.
 */
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
    struct vbd_queue *q = r->queue;
    uint32_t written = 1;
    if (status == VIRTIO_BLK_S_OK) {
        if (r->type == VIRTIO_BLK_T_IN) written += (uint32_t)r->data_bytes;
        if (r->type == VIRTIO_BLK_T_GET_ID) written += VIRTIO_BLK_ID_BYTES;
    } else {
        counter_add(&q->count.errors, 1);
    }
    *r->status = status;
    vbd_queue_finish(q, r, written);
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

static void request_done(struct disk_req *req, int ret)
{
    struct vbd_request *r = container_of(req, struct vbd_request, disk);
    struct vbd *d = r->queue->vbd;
    if (ret < 0) {
        if (ret != -EOPNOTSUPP) report(r, ret);
        finish(r, status_of(ret));
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
    bool changes = r->type == VIRTIO_BLK_T_OUT || r->type == VIRTIO_BLK_T_WRITE_ZEROES;
    if (changes && !r->flushing && atomic_load_explicit(&d->write_through, memory_order_relaxed)) {
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

/* No more data segments than were announced (seg_max), and as small as the driver agreed to make them (size_max)? A buffer
 * that lies in several regions of the guest's memory is one segment in several entries. */
static bool segments_valid(const struct vbd_request *r)
{
    const struct vbd *d = r->queue->vbd;
    if (r->data_count > d->config.seg_max + r->chain.split_count) return false;
    uint32_t size_max_bytes = atomic_load_explicit(&d->size_max_bytes, memory_order_relaxed);
    if (size_max_bytes == 0) return true;
    for (unsigned i = 0; i < r->data_count; i++)
        if (r->data[i].iov_len > size_max_bytes) return false;
    return true;
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
    if (!range_valid(q, r->sector, bytes, &offset_bytes) || !segments_valid(r)) {
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

static void begin_write(struct vbd_request *r)
{
    struct vbd_queue *q = r->queue;
    uint64_t offset_bytes, bytes = r->data_bytes;
    if (q->vbd->config.read_only || !range_valid(q, r->sector, bytes, &offset_bytes) || !segments_valid(r)) {
        finish(r, VIRTIO_BLK_S_IOERR);
        return;
    }
    counter_add(&q->count.writes, 1);
    counter_add(&q->count.write_bytes, bytes);
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
    submit(r, DISK_WRITE, offset_bytes, bytes);
}

static void begin_flush(struct vbd_request *r)
{
    struct vbd_queue *q = r->queue;
    counter_add(&q->count.flushes, 1);
    if (q->vbd->config.read_only) finish(r, VIRTIO_BLK_S_OK);
    else submit(r, DISK_FLUSH, 0, 0);
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

/* Cut `bytes` off the front of the entries; empty ones are dropped. */
static void trim_front(struct iovec **iov, unsigned *count, uint64_t bytes)
{
    while (*count && bytes >= (*iov)->iov_len) {
        bytes -= (*iov)->iov_len;
        (*iov)++;
        (*count)--;
    }
    if (*count && bytes) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + bytes;
        (*iov)->iov_len -= bytes;
    }
}

/* Take the last byte off the entries and return its address. */
static uint8_t *take_last_byte(struct iovec *iov, unsigned *count)
{
    while (*count && iov[*count - 1].iov_len == 0)
        (*count)--;
    if (*count == 0) return NULL;
    struct iovec *last = &iov[*count - 1];
    last->iov_len--;
    uint8_t *byte = (uint8_t *)last->iov_base + last->iov_len;
    if (last->iov_len == 0) (*count)--;
    return byte;
}

bool vbd_request_parse(struct vbd_request *r, struct iovec *iov, const char **why)
{
    struct virtq_chain *c = &r->chain;
    struct iovec *out = iov, *in = iov + c->out_count;
    unsigned out_count = c->out_count, in_count = c->in_count;
    struct virtio_blk_header header;

    r->range_at = r->range_count = 0;
    r->left_bytes = 0;
    r->flushing = false;
    r->disk.flags = 0;
    if (c->out_bytes < sizeof header) {
        *why = "request shorter than its header";
        return false;
    }
    if (out[0].iov_len == sizeof header) memcpy(&header, out[0].iov_base, sizeof header);
    else iov_copy_from(&header, out, out_count, 0, sizeof header);
    trim_front(&out, &out_count, sizeof header);
    r->status = take_last_byte(in, &in_count);
    if (!r->status) {
        *why = "request without room for a status";
        return false;
    }
    r->type = le32_get(header.type);
    r->sector = le64_get(header.sector);
    bool reads = r->type == VIRTIO_BLK_T_IN || r->type == VIRTIO_BLK_T_GET_ID;
    r->data = reads ? in : out;
    r->data_count = reads ? in_count : out_count;
    r->data_bytes = reads ? c->in_bytes - 1 : c->out_bytes - sizeof header;
    return true;
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
    default: finish(r, VIRTIO_BLK_S_UNSUPP); break;
    }
}
