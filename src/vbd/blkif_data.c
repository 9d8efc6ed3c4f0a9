/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the data of a blkif request are: in the guest's pages, mapped for the request or for long, or in buffers of ours from or to
 * which the hypervisor copies. Either way they become entries of the request's iovec.
 *
 * Copies are collected and made together: those of a group of writes before the first of them is carried out, those of all reads
 * that are over before they are answered.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "vbd/blkif_impl.h"

size_t vbd_blkif_extra_bytes(const struct vbd_blkif *b)
{
    return sizeof(struct blkif_extra) + b->segments * (sizeof(struct xen_map) + sizeof(struct blkif_segment));
}

static bool to_guest(const struct vbd_request *r)
{
    return r->type == VIRTIO_BLK_T_IN;
}

/* ---- pages that stay mapped ---- */

#define AGE_AT_ONCE 128u /* pages unmapped at a time: each is a system call, and the ring waits */

static void age_timer_set(struct vbd_blkif *b, unsigned ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};
    struct itimerspec every = {t, t};
    timerfd_settime(b->age_watch.fd, 0, &every, NULL);
    b->ageing = ms != 0;
}

static void period_over(struct engine_watch *w)
{
    struct vbd_blkif *b = container_of(w, struct vbd_blkif, age_watch);
    uint64_t times;
    if (read(w->fd, &times, sizeof times) != sizeof times) return;
    persistent_age(b->persistent, BLKIF_IDLE_PERIODS, AGE_AT_ONCE);
    if (persistent_stats(b->persistent).mapped == 0) age_timer_set(b, 0);
}

int vbd_blkif_persistent_start(struct vbd_blkif *b, unsigned max, unsigned idle_ms)
{
    b->persistent = persistent_new(b->xen, b->domid, max);
    if (!b->persistent) return -ENOMEM;
    b->period_ms = (unsigned)max_u64((idle_ms ? idle_ms : BLKIF_IDLE_MS) / BLKIF_IDLE_PERIODS, 1);
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (fd < 0) return -errno;
    b->age_watch = (struct engine_watch){.fd = fd, .ready = period_over};
    int ret = engine_watch(b->queue->engine, &b->age_watch);
    b->age_watching = ret == 0;
    if (ret < 0) close(fd);
    return ret;
}

void vbd_blkif_persistent_stop(struct vbd_blkif *b)
{
    if (b->age_watching) {
        engine_unwatch(b->queue->engine, &b->age_watch);
        close(b->age_watch.fd);
    }
    b->age_watching = false;
    persistent_free(b->persistent);
    b->persistent = NULL;
}

void vbd_blkif_persistent_watch(struct vbd_blkif *b)
{
    if (persistent_stats(b->persistent).mapped) age_timer_set(b, b->period_ms);
}

/* ---- indirect segments ---- */

static int fetch_page(struct vbd_blkif *b, uint32_t ref, void *to, unsigned bytes)
{
    if (b->way == VBD_BLKIF_PERSISTENT) {
        void *page;
        unsigned slot;
        if (persistent_get(b->persistent, ref, true, &page, &slot) == 0) {
            memcpy(to, page, bytes);
            persistent_put(b->persistent, slot);
            return 0;
        }
    }
    struct xen_copy copy = {.ref = ref, .length = (uint16_t)bytes, .local = to};
    b->xen->ops->copy(b->xen, b->domid, &copy, 1);
    return copy.status;
}

bool vbd_blkif_fetch_segments(struct vbd_blkif *b, struct blkif_request *q)
{
    size_t bytes = q->segment_count * 8, done = 0;
    assert(bytes <= sizeof b->indirect);
    for (unsigned i = 0; i < q->indirect_pages; i++, done += XEN_PAGE_BYTES) {
        unsigned part = (unsigned)min_u64(bytes - done, XEN_PAGE_BYTES);
        if (fetch_page(b, q->indirect_ref[i], b->indirect + done, part)) return false;
    }
    return blkif_add_segments(q, b->indirect, bytes);
}

/* ---- pages ---- */

static bool map_pages(struct vbd_blkif *b, struct blkif_extra *x, bool writable)
{
    for (unsigned i = 0; i < x->segment_count; i++)
        x->page[i] = (struct xen_map){.ref = x->segment[i].ref};
    b->xen->ops->map(b->xen, b->domid, x->page, x->segment_count, writable);
    for (unsigned i = 0; i < x->segment_count; i++) {
        if (x->page[i].page) continue;
        b->xen->ops->unmap(b->xen, x->page, x->segment_count);
        return false;
    }
    return true;
}

/* Mapped writable whatever the request: the front end uses the same pages for both. */
static bool hold_pages(struct vbd_blkif *b, struct blkif_extra *x)
{
    for (unsigned i = 0; i < x->segment_count; i++) {
        unsigned slot;
        if (persistent_get(b->persistent, x->segment[i].ref, true, &x->page[i].page, &slot)) {
            while (i-- > 0)
                persistent_put(b->persistent, (unsigned)x->page[i].cookie);
            return false;
        }
        x->page[i].cookie = slot;
    }
    return true;
}

static int take_buffers(struct vbd_blkif *b, struct blkif_extra *x)
{
    if (x->segment_count > b->free_count) return -EAGAIN;
    for (unsigned i = 0; i < x->segment_count; i++)
        x->page[i].page = b->pool + b->free[--b->free_count] * (size_t)XEN_PAGE_BYTES;
    return 0;
}

static void give_buffers(struct vbd_blkif *b, const struct blkif_extra *x)
{
    for (unsigned i = x->segment_count; i-- > 0;)
        b->free[b->free_count++] = (uint16_t)(((char *)x->page[i].page - b->pool) / XEN_PAGE_BYTES);
}

/* Whatever the reason why pages cannot be mapped (the grant device has one word for all): the copy, which has a status for each
 * reference, decides whether they are any good. */
static int get(struct vbd_blkif *b, struct blkif_extra *x, bool writable)
{
    x->way = b->way;
    if (x->way == VBD_BLKIF_MAP && map_pages(b, x, writable)) return 0;
    if (x->way == VBD_BLKIF_PERSISTENT && hold_pages(b, x)) return 0;
    x->way = VBD_BLKIF_COPY;
    return take_buffers(b, x);
}

void vbd_blkif_put_pages(struct vbd_blkif *b, struct vbd_request *r)
{
    struct blkif_extra *x = vbd_request_extra(r);
    if (!x->has_pages) return;
    x->has_pages = false;
    switch (x->way) {
    case VBD_BLKIF_COPY: give_buffers(b, x); break;
    case VBD_BLKIF_MAP: b->xen->ops->unmap(b->xen, x->page, x->segment_count); break;
    case VBD_BLKIF_PERSISTENT:
        for (unsigned i = 0; i < x->segment_count; i++)
            persistent_put(b->persistent, (unsigned)x->page[i].cookie);
        break;
    }
}

/* ---- from segments to an iovec ---- */

static unsigned offset_of(struct blkif_segment s)
{
    return s.first_sect * DISK_SECTOR_BYTES;
}

static unsigned length_of(struct blkif_segment s)
{
    return (s.last_sect - s.first_sect + 1u) * DISK_SECTOR_BYTES;
}

/* Neighbours become one entry. */
static void make_iov(struct vbd_request *r, const struct blkif_extra *x)
{
    unsigned n = 0;
    r->data_bytes = 0;
    for (unsigned i = 0; i < x->segment_count; i++) {
        char *at = (char *)x->page[i].page + offset_of(x->segment[i]);
        size_t length = length_of(x->segment[i]);
        r->data_bytes += length;
        if (n && (char *)r->iov[n - 1].iov_base + r->iov[n - 1].iov_len == at) r->iov[n - 1].iov_len += length;
        else r->iov[n++] = (struct iovec){at, length};
    }
    r->data = r->iov;
    r->data_count = n;
}

/* ---- copies ---- */

void vbd_blkif_copy(struct vbd_blkif *b)
{
    if (b->copy_count == 0) return;
    b->xen->ops->copy(b->xen, b->domid, b->copy, b->copy_count);
    unsigned at = 0;
    for (unsigned i = 0; i < b->copier_count; i++) {
        struct vbd_request *r = b->copier[i].request;
        bool failed = false;
        for (; at < b->copier[i].end; at++)
            failed = failed || b->copy[at].status;
        if (!failed) continue;
        if (to_guest(r)) {
            r->result = VIRTIO_BLK_S_IOERR;
            counter_add(&b->queue->count.errors, 1);
        } else {
            r->type = VBD_T_REFUSED;
        }
    }
    b->copy_count = b->copier_count = 0;
}

static void note(struct vbd_blkif *b, struct vbd_request *r, const struct blkif_extra *x)
{
    if (b->copy_count + x->segment_count > BLKIF_COPIES || b->copier_count == BLKIF_COPIERS) vbd_blkif_copy(b);
    for (unsigned i = 0; i < x->segment_count; i++) {
        unsigned offset = offset_of(x->segment[i]);
        b->copy[b->copy_count++] = (struct xen_copy){.ref = x->segment[i].ref,
                                                     .offset = (uint16_t)offset,
                                                     .length = (uint16_t)length_of(x->segment[i]),
                                                     .local = (char *)x->page[i].page + offset,
                                                     .to_guest = to_guest(r)};
    }
    b->copier[b->copier_count].request = r;
    b->copier[b->copier_count++].end = b->copy_count;
}

void vbd_blkif_note_read(struct vbd_blkif *b, struct vbd_request *r)
{
    struct blkif_extra *x = vbd_request_extra(r);
    if (x->has_pages && x->way == VBD_BLKIF_COPY && to_guest(r) && r->result == VIRTIO_BLK_S_OK) note(b, r, x);
}

int vbd_blkif_get_pages(struct vbd_blkif *b, struct vbd_request *r)
{
    struct blkif_extra *x = vbd_request_extra(r);
    int ret = get(b, x, to_guest(r));
    if (ret) return ret;
    x->has_pages = true;
    make_iov(r, x);
    if (x->way == VBD_BLKIF_COPY && !to_guest(r)) note(b, r, x);
    return 0;
}
