/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Xen's grants and event channels: libxengnttab (the devices gntdev and gntalloc) and libxenevtchn.
 *
 * The grant device maps and unmaps by ranges: what was mapped by one call is unmapped by one. So the pages of a call are a *batch*,
 * which goes when the last of them is given back; one bad reference makes the call fail, and then each page is tried as a batch of its
 * own. Copies carry their own status.
 *
 * The event device hands over the ports that were pending and masks each until it is written back. One handle a thread.
 */
#include "guest/xen.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xenevtchn.h>
#include <xengnttab.h>
#include <xentoollog.h>

#include "base/list.h"

#define BATCH_PAGES 128u
#define BATCH_COPIES 64u
#define BATCH_PORTS 64u

struct batch {
    struct list link; /* of those mapped, or of those to be used again */
    uint8_t *base;
    unsigned count, left;
    bool ring;
};

struct real_xen {
    struct xen xen;
    xengnttab_handle *grants;
    xenevtchn_handle *events;
    struct xen_budget *budget;
    unsigned entries; /* of the map-track table, for a page */
    struct list mapped, spare;
    uint64_t *bound; /* ports, a bit each: closing the handle unbinds what is left, this keeps others' numbers out */
};

#define PORTS (1u << 17)

static struct real_xen *from_xen(struct xen *x)
{
    return (struct real_xen *)x;
}

static int grant_error(int16_t status)
{
    switch (status) {
    case GNTST_okay: return 0;
    case GNTST_bad_domain: return -ESRCH;
    case GNTST_no_device_space: return -ENOSPC;
    case GNTST_permission_denied: return -EACCES;
    case GNTST_bad_page: return -EFAULT;
    case GNTST_eagain: return -EAGAIN;
    default: return -EINVAL;
    }
}

static struct batch *batch_new(struct real_xen *r)
{
    if (list_empty(&r->spare)) return calloc(1, sizeof(struct batch));
    struct batch *b = container_of(r->spare.next, struct batch, link);
    list_remove(&b->link);
    return b;
}

static bool budget_take(struct real_xen *r, unsigned count, bool ring)
{
    if (!ring) return xen_budget_take(r->budget, count * r->entries);
    xen_budget_take_ring(r->budget, count * r->entries);
    return true;
}

static void budget_give(struct real_xen *r, unsigned count, bool ring)
{
    (ring ? xen_budget_give_ring : xen_budget_give)(r->budget, count * r->entries);
}

/* Takes of the budget; the batch, or NULL and *ret. */
static struct batch *batch_map(struct real_xen *r, xen_domid domid, const uint32_t *refs, unsigned count, bool writable,
                               bool ring, int *ret)
{
    *ret = -ENOSPC;
    if (!budget_take(r, count, ring)) return NULL;
    struct batch *b = batch_new(r);
    *ret = -ENOMEM;
    if (b) {
        b->base = xengnttab_map_domain_grant_refs(r->grants, count, domid, (uint32_t *)refs,
                                                  PROT_READ | (writable ? PROT_WRITE : 0));
        *ret = b->base ? 0 : errno ? -errno : -EINVAL;
        b->count = b->left = count;
        b->ring = ring;
        list_push_back(b->base ? &r->mapped : &r->spare, &b->link);
    }
    if (*ret) budget_give(r, count, ring);
    return *ret ? NULL : b;
}

static void batch_unmap(struct real_xen *r, struct batch *b)
{
    xengnttab_unmap(r->grants, b->base, b->count);
    budget_give(r, b->count, b->ring);
    list_remove(&b->link);
    list_push_back(&r->spare, &b->link);
}

static void map_some(struct real_xen *r, xen_domid domid, struct xen_map *maps, unsigned count, bool writable)
{
    uint32_t refs[BATCH_PAGES];
    int ret;
    for (unsigned i = 0; i < count; i++)
        refs[i] = maps[i].ref;
    struct batch *b = batch_map(r, domid, refs, count, writable, false, &ret);
    if (!b && count > 1) {
        for (unsigned i = 0; i < count; i++)
            map_some(r, domid, &maps[i], 1, writable);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        maps[i].status = ret;
        maps[i].page = b ? b->base + (size_t)i * XEN_PAGE_BYTES : NULL;
        maps[i].cookie = (uint64_t)(uintptr_t)b;
    }
}

static void op_map(struct xen *x, xen_domid domid, struct xen_map *maps, unsigned count, bool writable)
{
    for (unsigned done = 0, some; done < count; done += some) {
        some = count - done < BATCH_PAGES ? count - done : BATCH_PAGES;
        map_some(from_xen(x), domid, maps + done, some, writable);
    }
}

static void op_unmap(struct xen *x, struct xen_map *maps, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (!maps[i].page) continue;
        struct batch *b = (struct batch *)(uintptr_t)maps[i].cookie;
        assert(b->left);
        maps[i].page = NULL;
        if (--b->left == 0) batch_unmap(from_xen(x), b);
    }
}

static void *op_map_ring(struct xen *x, xen_domid domid, const uint32_t *refs, unsigned count, int *ret)
{
    *ret = -EINVAL;
    if (!count) return NULL;
    struct batch *b = batch_map(from_xen(x), domid, refs, count, true, true, ret);
    return b ? b->base : NULL;
}

static void op_unmap_ring(struct xen *x, void *ring, unsigned count)
{
    struct real_xen *r = from_xen(x);
    if (!ring) return;
    for (struct list *n = r->mapped.next; n != &r->mapped; n = n->next) {
        struct batch *b = container_of(n, struct batch, link);
        if (b->base != ring) continue;
        assert(b->count == count);
        batch_unmap(r, b);
        return;
    }
}

static void segment_fill(xengnttab_grant_copy_segment_t *s, xen_domid domid, const struct xen_copy *c)
{
    memset(s, 0, sizeof *s);
    s->len = c->length;
    s->flags = c->to_guest ? GNTCOPY_dest_gref : GNTCOPY_source_gref;
    if (c->to_guest) {
        s->source.virt = c->local;
        s->dest.foreign.ref = c->ref;
        s->dest.foreign.offset = c->offset;
        s->dest.foreign.domid = domid;
    } else {
        s->dest.virt = c->local;
        s->source.foreign.ref = c->ref;
        s->source.foreign.offset = c->offset;
        s->source.foreign.domid = domid;
    }
}

/* Those that stay within their page. A call that fails as a whole says nothing about each: then one by one. */
static void copy_some(struct real_xen *r, xen_domid domid, struct xen_copy **copies, unsigned count)
{
    xengnttab_grant_copy_segment_t segments[BATCH_COPIES];
    for (unsigned i = 0; i < count; i++)
        segment_fill(&segments[i], domid, copies[i]);
    int ret = xengnttab_grant_copy(r->grants, count, segments) ? (errno ? -errno : -EIO) : 0;
    for (unsigned i = 0; i < count; i++)
        if (ret && count > 1) copy_some(r, domid, &copies[i], 1);
        else copies[i]->status = ret ? ret : grant_error(segments[i].status);
}

static void op_copy(struct xen *x, xen_domid domid, struct xen_copy *copies, unsigned count)
{
    struct xen_copy *some[BATCH_COPIES];
    unsigned n = 0;
    for (unsigned i = 0; i < count; i++) {
        struct xen_copy *c = &copies[i];
        c->status = c->length > XEN_PAGE_BYTES || c->offset > XEN_PAGE_BYTES - c->length ? -EINVAL : 0;
        if (!c->status) some[n++] = c;
        if (n < BATCH_COPIES && i + 1 < count) continue;
        if (n) copy_some(from_xen(x), domid, some, n);
        n = 0;
    }
}

static bool is_bound(const struct real_xen *r, int port)
{
    return port >= 0 && (unsigned)port < PORTS && r->bound[port / 64] >> (port % 64) & 1;
}

static int op_bind(struct xen *x, xen_domid domid, uint32_t remote_port)
{
    struct real_xen *r = from_xen(x);
    int port = xenevtchn_bind_interdomain(r->events, domid, remote_port);
    if (port < 0) return errno ? -errno : -EINVAL;
    if ((unsigned)port >= PORTS) {
        xenevtchn_unbind(r->events, (evtchn_port_t)port);
        return -ENOSPC;
    }
    r->bound[port / 64] |= UINT64_C(1) << (port % 64);
    return port;
}

static void op_unbind(struct xen *x, int port)
{
    struct real_xen *r = from_xen(x);
    if (!is_bound(r, port)) return;
    r->bound[port / 64] &= ~(UINT64_C(1) << (port % 64));
    xenevtchn_unbind(r->events, (evtchn_port_t)port);
}

static void op_notify(struct xen *x, int port)
{
    if (is_bound(from_xen(x), port)) xenevtchn_notify(from_xen(x)->events, (evtchn_port_t)port);
}

static int op_event_fd(struct xen *x)
{
    return xenevtchn_fd(from_xen(x)->events);
}

/* The library's call takes one port of the device's; the device gives as many as fit. */
static unsigned op_pending(struct xen *x, int *ports, unsigned max)
{
    struct real_xen *r = from_xen(x);
    evtchn_port_t some[BATCH_PORTS];
    unsigned n = 0;
    while (n < max) {
        unsigned room = max - n < BATCH_PORTS ? max - n : BATCH_PORTS;
        ssize_t got = read(xenevtchn_fd(r->events), some, room * sizeof some[0]);
        if (got < (ssize_t)sizeof some[0]) break;
        unsigned count = (unsigned)((size_t)got / sizeof some[0]);
        for (unsigned i = 0; i < count; i++)
            if (is_bound(r, (int)some[i])) ports[n++] = (int)some[i];
        if (count < room) break;
    }
    return n;
}

static void op_unmask(struct xen *x, int port)
{
    if (is_bound(from_xen(x), port)) xenevtchn_unmask(from_xen(x)->events, (evtchn_port_t)port);
}

/* Linux' device has answered requests that it does not know with -ENOSYS, where others say -ENOTTY. */
static int op_confine(struct xen *x, xen_domid domid)
{
    if (xenevtchn_restrict(from_xen(x)->events, domid) == 0) return 0;
    return errno == ENOSYS ? -ENOTTY : errno ? -errno : -EINVAL;
}

static void op_free(struct xen *x)
{
    struct real_xen *r = from_xen(x);
    while (!list_empty(&r->mapped))
        batch_unmap(r, container_of(r->mapped.next, struct batch, link));
    while (!list_empty(&r->spare)) {
        struct batch *b = container_of(r->spare.next, struct batch, link);
        list_remove(&b->link);
        free(b);
    }
    if (r->events) xenevtchn_close(r->events);
    if (r->grants) xengnttab_close(r->grants);
    free(r->bound);
    free(r);
}

static const struct xen_ops real_ops = {.map = op_map,
                                        .unmap = op_unmap,
                                        .map_ring = op_map_ring,
                                        .unmap_ring = op_unmap_ring,
                                        .copy = op_copy,
                                        .bind = op_bind,
                                        .unbind = op_unbind,
                                        .notify = op_notify,
                                        .event_fd = op_event_fd,
                                        .pending = op_pending,
                                        .unmask = op_unmask,
                                        .confine = op_confine,
                                        .free = op_free};

/* The libraries write a line to stderr for each map that fails: a guest would write the log. */
static void quiet_message(struct xentoollog_logger *l, xentoollog_level level, int errnoval, const char *context,
                          const char *format, va_list al)
{
}

static void quiet_progress(struct xentoollog_logger *l, const char *context, const char *doing, int percent,
                           unsigned long done, unsigned long total)
{
}

static void quiet_destroy(struct xentoollog_logger *l) {}

static struct xentoollog_logger quiet = {
    .vmessage = quiet_message, .progress = quiet_progress, .destroy = quiet_destroy};

/* In a paravirtual domain 0 the grant device has each page mapped twice. */
static unsigned entries_per_page(void)
{
    char type[16] = "";
    int fd = open("/sys/hypervisor/guest_type", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 2; /* an old kernel */
    ssize_t n = read(fd, type, sizeof type - 1);
    close(fd);
    return n > 0 && strncmp(type, "PV\n", 3) != 0 ? 1 : 2;
}

int xen_open(struct xen **out, struct xen_budget *budget, struct errmsg *e)
{
    struct real_xen *r = calloc(1, sizeof *r);
    if (!r) return errmsg_set(e, ENOMEM, "out of memory");
    r->xen.ops = &real_ops;
    r->budget = budget;
    r->entries = entries_per_page();
    list_init(&r->mapped);
    list_init(&r->spare);
    r->bound = calloc(PORTS / 64, sizeof *r->bound);
    if (r->bound) r->grants = xengnttab_open(&quiet, 0);
    if (r->grants) r->events = xenevtchn_open(&quiet, 0);
    int fd = r->events ? xenevtchn_fd(r->events) : -1;
    if (fd >= 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0) {
        *out = &r->xen;
        return 0;
    }
    const char *what = !r->bound ? "memory" : !r->grants ? "/dev/xen/gntdev" : "/dev/xen/evtchn";
    int code = !r->bound ? ENOMEM : ENODEV;
    op_free(&r->xen);
    return errmsg_set(e, code, "no Xen here, or not for us: %s cannot be opened", what);
}
