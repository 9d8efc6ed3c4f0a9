/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs in dom0 and checks guest/xen.c against a real hypervisor, with dom0 as its own guest:
 *
 *     xen-check events COUNT    bind COUNT channels, and have each wake one event loop, some of them while they are masked
 *     xen-check grants COUNT    grant COUNT pages, map them, copy from and to them; and references that are none
 *
 * The last line starts with "xen-check: ok" or "xen-check: FAILED"; the exit status says the same.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include <xenevtchn.h>
#include <xengnttab.h>

#include "base/list.h"
#include "guest/xen.h"
#include "loop/clock.h"
#include "loop/loop.h"

#define OWN_DOMID 0
#define TAKE_PORTS 64u
#define PORTS_MAX 131072u
#define QUIET_MS 2000 /* no event for so long: none will come */

static void __attribute__((format(printf, 1, 2), noreturn)) fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("xen-check: FAILED: ");
    vprintf(format, args);
    printf("\n");
    exit(1);
}

static struct xen *open_xen(struct xen_budget *budget)
{
    struct xen *x = NULL;
    struct errmsg e = {0};
    if (xen_open(&x, budget, &e)) fail("%s", e.text);
    return x;
}

/* -- events */

struct events {
    struct loop_watch watch;
    struct xen *xen;
    xenevtchn_handle *peer; /* who notifies */
    unsigned count, woken, came;
    int *remote, *local;       /* ports by index */
    uint32_t index[PORTS_MAX]; /* of a local port, + 1 */
    unsigned *seen;            /* events by index */
};

static void take(struct loop_watch *w, uint32_t unused)
{
    (void)unused;
    struct events *v = container_of(w, struct events, watch);
    int ports[TAKE_PORTS];
    unsigned n = v->xen->ops->pending(v->xen, ports, TAKE_PORTS);
    v->woken++;
    for (unsigned i = 0; i < n; i++) {
        unsigned index = (unsigned)ports[i] < PORTS_MAX ? v->index[ports[i]] : 0;
        if (!index) fail("an event at port %d, which was not bound", ports[i]);
        v->seen[index - 1]++;
        v->came++;
        v->xen->ops->unmask(v->xen, ports[i]);
    }
}

/* Until `wanted` events have come since the last call, and then for no more than come by themselves. */
static void run_until(struct events *v, struct loop *l, unsigned wanted)
{
    v->came = 0;
    while (v->came < wanted) {
        unsigned before = v->came;
        if (loop_run_once(l, QUIET_MS)) fail("epoll");
        if (v->came == before) fail("%u of %u events came", v->came, wanted);
    }
    while (v->woken = 0, loop_run_once(l, 0) == 0 && v->woken) {
    }
    if (v->came != wanted) fail("%u events came, %u were sent", v->came, wanted);
}

static void bind_all(struct events *v)
{
    v->remote = calloc(v->count, sizeof *v->remote);
    v->local = calloc(v->count, sizeof *v->local);
    v->seen = calloc(v->count, sizeof *v->seen);
    if (!v->remote || !v->local || !v->seen) fail("no memory");
    for (unsigned i = 0; i < v->count; i++) {
        v->remote[i] = xenevtchn_bind_unbound_port(v->peer, OWN_DOMID);
        if (v->remote[i] < 0) fail("channel %u: no port: %s", i, strerror(errno));
        v->local[i] = v->xen->ops->bind(v->xen, OWN_DOMID, (uint32_t)v->remote[i]);
        if (v->local[i] < 0) fail("channel %u: bind: %s", i, strerror(-v->local[i]));
        if (v->local[i] >= (int)PORTS_MAX || v->index[v->local[i]]) fail("port %d twice", v->local[i]);
        v->index[v->local[i]] = i + 1;
    }
}

static void check_each(struct events *v, unsigned wanted)
{
    for (unsigned i = 0; i < v->count; i++)
        if (v->seen[i] != wanted) fail("channel %u: %u events, expected %u", i, v->seen[i], wanted);
}

static void check_events(unsigned count)
{
    struct events *v = calloc(1, sizeof *v);
    struct loop *l = loop_new();
    if (!v || !l) fail("no memory");
    v->count = count;
    v->xen = open_xen(NULL);
    v->peer = xenevtchn_open(NULL, 0);
    if (!v->peer || loop_add(l, &v->watch, v->xen->ops->event_fd(v->xen), EPOLLIN, take)) fail("no event channels");
    uint64_t start_ns = clock_now_ns();
    bind_all(v);
    uint64_t bound_ns = clock_now_ns();
    run_until(v, l, count); /* each is pending once it is bound */
    check_each(v, 1);
    uint64_t notify_ns = clock_now_ns();
    for (unsigned i = 0; i < count; i++)
        if (xenevtchn_notify(v->peer, (evtchn_port_t)v->remote[i])) fail("channel %u: notify", i);
    run_until(v, l, count);
    check_each(v, 2);
    uint64_t end_ns = clock_now_ns();

    /* Events that come while a port is masked: one when it is unmasked. */
    int held[TAKE_PORTS];
    xenevtchn_notify(v->peer, (evtchn_port_t)v->remote[0]);
    unsigned n = 0;
    while (!(n = v->xen->ops->pending(v->xen, held, TAKE_PORTS))) {
    }
    for (unsigned i = 0; i < 3; i++)
        xenevtchn_notify(v->peer, (evtchn_port_t)v->remote[0]);
    if (n != 1 || v->xen->ops->pending(v->xen, held + 1, 1)) fail("a masked port has events");
    v->xen->ops->unmask(v->xen, held[0]);
    run_until(v, l, 1);

    for (unsigned i = 0; i < count; i += 2) /* closing the handle must take the others */
        v->xen->ops->unbind(v->xen, v->local[i]);
    loop_remove(&v->watch);
    xen_close(v->xen);
    xenevtchn_close(v->peer);
    printf("xen-check: ok: %u channels, bound in %llu us each, an event in %llu us\n", count,
           (unsigned long long)(bound_ns - start_ns) / 1000 / count,
           (unsigned long long)(end_ns - notify_ns) / 1000 / count);
}

/* -- grants */

static void fill(uint8_t *page, unsigned number)
{
    for (unsigned i = 0; i < XEN_PAGE_BYTES; i++)
        page[i] = (uint8_t)(number * 31 + i * 7 + (i >> 8));
}

static void check_page(const char *what, const uint8_t *page, unsigned number)
{
    static uint8_t expected[XEN_PAGE_BYTES];
    fill(expected, number);
    if (memcmp(page, expected, XEN_PAGE_BYTES)) fail("%s: page %u is not as it was written", what, number);
}

#define BAD_REF 0x7ffffff0u

static void check_maps(struct xen *x, struct xen_budget *budget, const uint32_t *refs, uint8_t *pages, unsigned count)
{
    struct xen_map *maps = calloc(count, sizeof *maps);
    if (!maps) fail("no memory");
    for (unsigned i = 0; i < count; i++)
        maps[i].ref = i == count / 2 ? BAD_REF : refs[i];
    x->ops->map(x, OWN_DOMID, maps, count, true);
    for (unsigned i = 0; i < count; i++) {
        if (i == count / 2) {
            if (!maps[i].status || maps[i].page) fail("a reference that is none was mapped");
            continue;
        }
        if (maps[i].status) fail("map %u: %s", i, strerror(-maps[i].status));
        check_page("mapped", maps[i].page, i);
        fill(maps[i].page, i + 1);
        check_page("written through the map", pages + (size_t)i * XEN_PAGE_BYTES, i + 1);
    }
    /* Where dom0 is paravirtual a page takes two. */
    unsigned used = budget->used;
    if (used != count - 1 && used != 2 * (count - 1))
        fail("%u entries of the budget are used, expected %u or twice that", used, count - 1);
    x->ops->unmap(x, maps, count);
    if (budget->used) fail("%u entries of the budget are left", budget->used);
    free(maps);
}

static void check_ring(struct xen *x, const uint32_t *refs, uint8_t *pages, unsigned count)
{
    int ret = 0;
    uint8_t *ring = x->ops->map_ring(x, OWN_DOMID, refs, count, &ret);
    if (!ring) fail("ring of %u pages: %s", count, strerror(-ret));
    for (unsigned i = 0; i < count; i++)
        fill(ring + (size_t)i * XEN_PAGE_BYTES, i);
    for (unsigned i = 0; i < count; i++)
        check_page("ring", pages + (size_t)i * XEN_PAGE_BYTES, i);
    x->ops->unmap_ring(x, ring, count);
    uint32_t with_bad[2] = {refs[0], BAD_REF};
    if (x->ops->map_ring(x, OWN_DOMID, with_bad, 2, &ret) || !ret) fail("a ring with a bad page was mapped");
}

static void check_copies(struct xen *x, const uint32_t *refs, uint8_t *pages, unsigned count)
{
    struct xen_copy *copies = calloc(count, sizeof *copies);
    uint8_t *local = malloc((size_t)count * XEN_PAGE_BYTES);
    if (!copies || !local) fail("no memory");
    for (unsigned to_guest = 0; to_guest < 2; to_guest++) {
        for (unsigned i = 0; i < count; i++) {
            copies[i] =
                (struct xen_copy){.ref = i == 1 ? BAD_REF : refs[i], .length = XEN_PAGE_BYTES, .to_guest = to_guest};
            copies[i].local = local + (size_t)i * XEN_PAGE_BYTES;
            fill(to_guest ? copies[i].local : pages + (size_t)i * XEN_PAGE_BYTES, i + to_guest * 5);
        }
        x->ops->copy(x, OWN_DOMID, copies, count);
        for (unsigned i = 0; i < count; i++) {
            if (i == 1) {
                if (!copies[i].status) fail("a reference that is none was copied");
                continue;
            }
            if (copies[i].status) fail("copy %u: %s", i, strerror(-copies[i].status));
            check_page("copied", to_guest ? pages + (size_t)i * XEN_PAGE_BYTES : copies[i].local, i + to_guest * 5);
        }
    }
    free(copies);
    free(local);
}

static void check_grants(unsigned count)
{
    struct xen_budget budget = {.max = 2 * count};
    struct xen *x = open_xen(&budget);
    xengntshr_handle *guest = xengntshr_open(NULL, 0);
    uint32_t *refs = calloc(count, sizeof *refs);
    if (!guest || !refs) fail("cannot grant");
    uint8_t *pages = xengntshr_share_pages(guest, OWN_DOMID, (int)count, refs, 1);
    if (!pages) fail("grant %u pages: %s", count, strerror(errno));
    for (unsigned i = 0; i < count; i++)
        fill(pages + (size_t)i * XEN_PAGE_BYTES, i);
    check_maps(x, &budget, refs, pages, count);
    check_ring(x, refs, pages, count < 16 ? count : 16);
    check_copies(x, refs, pages, count);
    xen_close(x);
    if (xengntshr_unshare(guest, pages, count)) fail("the grants cannot be taken back: %s", strerror(errno));
    xengntshr_close(guest);
    free(refs);
    printf("xen-check: ok: %u pages mapped and copied\n", count);
}

int main(int argc, char **argv)
{
    unsigned long count = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
    if (count < 2 || count > 60000) {
        fprintf(stderr, "usage: xen-check events|grants COUNT\n");
        return 2;
    }
    if (!strcmp(argv[1], "events")) check_events((unsigned)count);
    else check_grants((unsigned)count);
    return 0;
}
