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
#include <string.h>

#include "base/iov.h"
#include "vbd/queue.h"

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

bool vbd_virtio_parse(struct vbd_request *r, struct iovec *iov, const char **why)
{
    struct virtq_chain *c = &r->chain;
    struct iovec *out = iov, *in = iov + c->out_count;
    unsigned out_count = c->out_count, in_count = c->in_count;
    struct virtio_blk_header header;

    r->range_at = r->range_count = 0;
    r->left_bytes = 0;
    r->flushing = r->before = false;
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
    if (r->type > VBD_T_UNKNOWN) r->type = VBD_T_UNKNOWN;
    r->sector = le64_get(header.sector);
    bool reads = r->type == VIRTIO_BLK_T_IN || r->type == VIRTIO_BLK_T_GET_ID;
    r->data = reads ? in : out;
    r->data_count = reads ? in_count : out_count;
    r->data_bytes = reads ? c->in_bytes - 1 : c->out_bytes - sizeof header;
    r->refused = !segments_valid(r);
    return true;
}
