/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue's ring as a blkif ring: what the thread (queue.c) asks of it.
 *
 * A request that was taken from the ring is given to the thread at once, but for two cases, in which it is held back and nothing
 * else is taken: there are no buffers for its data (until others are answered), or it is a barrier and others are not complete.
 * After a barrier was given out nothing is taken before it is over.
 */
#include "vbd/blkif.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "vbd/blkif_impl.h"

#define PORTS 8u /* of those that are pending, asked for at a time; there is one */

/* ---- events ---- */

static void notify_guest(struct vbd_blkif *b)
{
    counter_add(&b->queue->count.calls, 1);
    b->xen->ops->notify(b->xen, b->port);
}

/* The thread is awake now, and that is all that an event is for. The port stays masked until it sleeps again. One look: there is but
 * one port, and it is a system call. */
static void event_ready(struct engine_watch *w)
{
    struct vbd_blkif *b = container_of(w, struct vbd_blkif, watch);
    int ports[PORTS];
    if (b->xen->ops->pending(b->xen, ports, PORTS) > 0) b->masked = true;
}

/* ---- requests ---- */

/* What it asks for, in the thread's words. */
static uint32_t type_of(const struct vbd_blkif *b, const struct blkif_request *q)
{
    if (q->invalid) return VBD_T_REFUSED;
    switch (q->op) {
    case BLKIF_READ: return VIRTIO_BLK_T_IN;
    case BLKIF_WRITE: return VIRTIO_BLK_T_OUT;
    case BLKIF_WRITE_BARRIER: return VBD_T_BARRIER;
    case BLKIF_FLUSH_DISKCACHE: return VIRTIO_BLK_T_FLUSH;
    case BLKIF_DISCARD:
        return b->no_discard || q->discard_flags & BLKIF_DISCARD_F_SECURE ? VBD_T_UNKNOWN : VBD_T_DISCARD;
    default: return VBD_T_UNKNOWN;
    }
}

static void translate(const struct vbd_blkif *b, struct vbd_request *r, const struct blkif_request *q)
{
    r->type = type_of(b, q);
    r->sector = q->sector;
    r->refused = r->flushing = r->before = false;
    r->range_at = r->range_count = 0;
    r->left_bytes = 0;
    r->disk.flags = 0;
    r->data = r->iov;
    r->data_count = 0;
    r->data_bytes = 0;
    if (r->type == VBD_T_DISCARD && !mul_fits(q->discard_sectors, DISK_SECTOR_BYTES, &r->data_bytes))
        r->type = VBD_T_REFUSED;
}

/* Its data's pages. False: it waits for buffers. */
static bool get_pages(struct vbd_blkif *b, struct vbd_request *r)
{
    const struct blkif_extra *x = vbd_request_extra(r);
    b->waiting = NULL;
    if (x->segment_count == 0) return true;
    if (vbd_blkif_get_pages(b, r) == 0) return true;
    b->waiting = r;
    return false;
}

/* May it be given out now? */
static bool ready(struct vbd_blkif *b, struct vbd_request *r)
{
    if (!get_pages(b, r)) return false;
    if (r->type == VBD_T_BARRIER) {
        b->barrier = r;
        b->barrier_runs = b->queue->in_flight == 1;
        return b->barrier_runs;
    }
    return true;
}

/* One that was held back. NULL: it still is, or nothing was. */
static struct vbd_request *held_back(struct vbd_blkif *b)
{
    struct vbd_request *r = b->waiting;
    if (r) return ready(b, r) ? r : NULL;
    if (!b->barrier || b->barrier_runs || b->queue->in_flight > 1) return NULL;
    b->barrier_runs = true;
    return b->barrier;
}

static bool is_blocked(const struct vbd_blkif *b)
{
    return b->waiting || b->barrier;
}

static void broke(struct vbd_queue *q, const char *why)
{
    blkif_break(q->blkif->ring, why);
    vbd_queue_broke(q, why);
}

/* The next of the ring. NULL: there is none, or it is held back, or the ring broke. */
static struct vbd_request *take_next(struct vbd_blkif *b)
{
    struct vbd_queue *q = b->queue;
    struct vbd_request *r = vbd_request_next(q);
    if (!r) {
        /* There are as many requests as entries. */
        if (blkif_has_work(b->ring)) broke(q, "more requests than its ring has entries");
        return NULL;
    }
    struct blkif_extra *x = vbd_request_extra(r);
    x->segment = (struct blkif_segment *)(void *)(x->page + b->segments);
    struct blkif_request request = {.segments = x->segment};
    int ret = blkif_pop(b->ring, &request);
    if (ret <= 0) {
        if (ret < 0) broke(q, blkif_broken(b->ring));
        return NULL;
    }
    vbd_request_taken(q, r);
    vbd_request_sample(q, r);
    if (request.indirect_pages && !vbd_blkif_fetch_segments(b, &request)) request.invalid = true;
    x->slot = request.slot;
    x->segment_count = request.invalid ? 0 : request.segment_count;
    translate(b, r, &request);
    return ready(b, r) ? r : NULL;
}

/* A ring that is to stop gives what an earlier process had in flight, and nothing new: its guest could go on for ever. */
static bool may_take(const struct vbd_queue *q)
{
    const struct vbd_blkif *b = q->blkif;
    return !q->broken && !is_blocked(b) && (!q->draining || blkif_resuming(b->ring));
}

static unsigned pop(struct vbd_queue *q, struct vbd_request **popped, unsigned max)
{
    struct vbd_blkif *b = q->blkif;
    unsigned n = 0;
    if (is_blocked(b)) {
        struct vbd_request *r = held_back(b);
        if (r) popped[n++] = r;
    }
    while (n < max && may_take(q)) {
        struct vbd_request *r = take_next(b);
        if (r) popped[n++] = r;
        else break;
    }
    vbd_blkif_copy(b);
    return n;
}

/* ---- answers ---- */

static enum blkif_status status_of(const struct vbd_request *r)
{
    switch (r->result) {
    case VIRTIO_BLK_S_OK: return BLKIF_OKAY;
    case VIRTIO_BLK_S_UNSUPP: return BLKIF_EOPNOTSUPP;
    default: return BLKIF_ERROR;
    }
}

/* The guest may take back its pages as soon as it sees the answer: nothing of them is mapped any more then. */
static void publish(struct vbd_queue *q, struct vbd_request *first)
{
    struct vbd_blkif *b = q->blkif;
    struct vbd_request *r;
    for (r = first; r; r = r->next)
        vbd_blkif_note_read(b, r);
    vbd_blkif_copy(b);
    for (r = first; r; r = r->next) {
        const struct blkif_extra *x = vbd_request_extra(r);
        vbd_blkif_put_pages(b, r);
        blkif_push(b->ring, x->slot, status_of(r));
        if (r == b->barrier) {
            b->barrier = NULL;
            b->barrier_runs = false;
        }
    }
    if (blkif_publish(b->ring)) notify_guest(b);
    if (b->persistent && !b->ageing) vbd_blkif_persistent_watch(b);
}

/* ---- what the thread sleeps on ---- */

/* Could what is held back go on? */
static bool may_go_on(const struct vbd_blkif *b)
{
    if (b->waiting) return ((struct blkif_extra *)vbd_request_extra(b->waiting))->segment_count <= b->free_count;
    return b->barrier && !b->barrier_runs && b->queue->in_flight == 1;
}

static bool has_work(const struct vbd_queue *q)
{
    return is_blocked(q->blkif) ? may_go_on(q->blkif) : blkif_has_work(q->blkif->ring);
}

/* The guest looks at how far its requests were taken when events were last asked for: as long as nobody asks, none come. */
static void events_off(struct vbd_queue *q)
{
    (void)q;
}

/* The port is unmasked, by a system call, only if the thread sleeps: an event that comes before is not lost. */
static bool events_on(struct vbd_queue *q)
{
    struct vbd_blkif *b = q->blkif;
    bool more = blkif_final_check(b->ring);
    if (is_blocked(b)) more = may_go_on(b);
    if (!more && b->masked) {
        b->masked = false;
        b->xen->ops->unmask(b->xen, b->port);
    }
    return more;
}

static bool resuming(const struct vbd_queue *q)
{
    const struct vbd_blkif *b = q->blkif;
    return b->waiting || (b->barrier && !b->barrier_runs) || (!q->broken && blkif_resuming(b->ring));
}

static const char *check(struct vbd_queue *q)
{
    (void)q; /* pages that were granted stay while they are mapped */
    return NULL;
}

static uint32_t base(const struct vbd_queue *q)
{
    (void)q; /* the ring itself says where it stands */
    return 0;
}

/* ---- connecting ---- */

static void stop(struct vbd_queue *q)
{
    struct vbd_blkif *b = q->blkif;
    if (!b) return;
    if (b->watching) engine_unwatch(q->engine, &b->watch);
    blkif_free(b->ring);
    vbd_blkif_persistent_stop(b);
    if (b->port >= 0) b->xen->ops->unbind(b->xen, b->port);
    if (b->ring_pages) b->xen->ops->unmap_ring(b->xen, b->ring_pages, b->ring_page_count);
    if (b->pool) munmap(b->pool, (size_t)BLKIF_POOL_PAGES * XEN_PAGE_BYTES);
    free(b);
    q->blkif = NULL;
}

static int open_pool(struct vbd_blkif *b, struct errmsg *e)
{
    void *pool = mmap(NULL, (size_t)BLKIF_POOL_PAGES * XEN_PAGE_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pool == MAP_FAILED) return errmsg_sys(e, errno, "buffers");
    b->pool = pool;
    for (unsigned i = 0; i < BLKIF_POOL_PAGES; i++)
        b->free[i] = (uint16_t)(BLKIF_POOL_PAGES - 1 - i);
    b->free_count = BLKIF_POOL_PAGES;
    return 0;
}

static int open_ring(struct vbd_blkif *b, const struct vbd_blkif_setup *s, struct errmsg *e)
{
    int ret = 0;
    if (s->ring_pages == 0 || s->ring_pages > BLKIF_RING_PAGES_MAX)
        return errmsg_set(e, EINVAL, "a ring of %u pages, expected 1 to %u", s->ring_pages, BLKIF_RING_PAGES_MAX);
    b->ring_page_count = s->ring_pages;
    b->ring_pages = b->xen->ops->map_ring(b->xen, s->domid, s->ring_ref, s->ring_pages, &ret);
    if (!b->ring_pages) return errmsg_sys(e, -ret, "ring of domain %u, first reference %u", s->domid, s->ring_ref[0]);
    struct blkif_setup setup = {.ring = b->ring_pages,
                                .pages = s->ring_pages,
                                .abi = s->abi,
                                .segments_max = s->segments_max,
                                .inflight = s->inflight,
                                .resume = s->resume};
    ret = blkif_new(&b->ring, &setup, e);
    if (ret) return ret;
    b->port = b->xen->ops->bind(b->xen, s->domid, s->remote_port);
    if (b->port < 0) return errmsg_sys(e, -b->port, "event channel %u of domain %u", s->remote_port, s->domid);
    b->watch = (struct engine_watch){.fd = b->xen->ops->event_fd(b->xen), .ready = event_ready};
    ret = engine_watch(b->queue->engine, &b->watch);
    if (ret) return errmsg_sys(e, -ret, "event channels");
    b->watching = true;
    return 0;
}

static int open_all(struct vbd_blkif *b, const struct vbd_blkif_setup *s, struct errmsg *e)
{
    int ret = open_pool(b, e);
    if (ret) return ret;
    if (b->way == VBD_BLKIF_PERSISTENT) ret = vbd_blkif_persistent_start(b, s->persistent_max, s->idle_ms);
    if (ret) return errmsg_sys(e, -ret, "persistent grants");
    return open_ring(b, s, e);
}

struct start_args {
    const struct vbd_blkif_setup *setup;
    struct errmsg *e;
};

static int start(struct vbd_queue *q, const void *arg, struct guest_map *map, unsigned *requests)
{
    const struct start_args *args = arg;
    const struct vbd_blkif_setup *s = args->setup;
    (void)map;
    struct vbd_blkif *b = calloc(1, sizeof *b);
    if (!b) return errmsg_sys(args->e, ENOMEM, "disk %s", q->vbd->config.name);
    q->blkif = b;
    b->queue = q;
    b->xen = s->xen;
    b->port = -1;
    b->domid = s->domid;
    b->no_discard = s->no_discard;
    b->way = s->way == VBD_BLKIF_PERSISTENT && s->persistent_max == 0 ? VBD_BLKIF_MAP : s->way;
    b->segments = (unsigned)max_u64(s->segments_max, BLKIF_DIRECT_SEGMENTS);
    int ret = open_all(b, s, args->e);
    if (ret) {
        stop(q);
        return errmsg_prefix(args->e, ret, "disk %s: queue %u", q->vbd->config.name, q->index);
    }
    q->iov_max = b->segments;
    q->extra_bytes = vbd_blkif_extra_bytes(b);
    *requests = blkif_ring_entries(s->abi, s->ring_pages);
    /* A successor cannot know whether the guest was told of the last publication: tell it again. */
    if (blkif_publish(b->ring)) notify_guest(b);
    return 0;
}

static const struct vbd_ring_ops blkif_ops = {
    .start = start,
    .stop = stop,
    .pop = pop,
    .publish = publish,
    .has_work = has_work,
    .events_off = events_off,
    .events_on = events_on,
    .resuming = resuming,
    .check = check,
    .base = base,
};

int vbd_blkif_start(struct vbd *d, unsigned queue, const struct vbd_blkif_setup *s, struct errmsg *e)
{
    if (queue >= d->config.queues)
        return errmsg_set(e, EINVAL, "disk %s: queue %u of %u", d->config.name, queue, d->config.queues);
    struct start_args args = {s, e};
    errmsg_set(e, ENOMEM, "disk %s: queue %u cannot be started", d->config.name,
               queue); /* for what says nothing itself */
    return vbd_queue_start(&d->queue[queue], &blkif_ops, &args, NULL);
}

void vbd_blkif_stop(struct vbd *d, unsigned queue)
{
    assert(queue < d->config.queues);
    vbd_queue_stop(&d->queue[queue]);
}
