/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest/xen.c over libraries that this test plays: what it asks of the grant device and the event device, and that it gives all back.
 * The grant device unmaps exactly what was mapped by one call; the libraries here insist on it.
 */
#include "guest/xen.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xenevtchn.h>
#include <xengnttab.h>

#include "guest/persistent.h"

#define GRANTED 1000u /* references below are good */
#define POISON 2000u  /* a copy of it makes the call fail as a whole */
#define RANGES 256u

static struct {
    uint8_t page[GRANTED][16]; /* a guest's pages begin like this */
    struct {
        void *base;
        uint32_t count;
    } range[RANGES];
    unsigned maps, unmaps, copies, opened, closed;
    int events[2], bound, unmasked, notified, confined, cannot_confine;
    bool no_events;
} fake;

xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned flags)
{
    fake.opened++;
    return (xengnttab_handle *)&fake;
}

int xengnttab_close(xengnttab_handle *h)
{
    fake.closed++;
    return 0;
}

void *xengnttab_map_domain_grant_refs(xengnttab_handle *h, uint32_t count, uint32_t domid, uint32_t *refs, int prot)
{
    fake.maps++;
    for (uint32_t i = 0; i < count; i++)
        if (refs[i] >= GRANTED) {
            errno = EINVAL;
            return NULL;
        }
    uint8_t *base = mmap(NULL, count * XEN_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (uint32_t i = 0; i < count; i++)
        memcpy(base + i * XEN_PAGE_BYTES, fake.page[refs[i]], sizeof fake.page[0]);
    mprotect(base, count * XEN_PAGE_BYTES, prot);
    for (unsigned i = 0; i < RANGES; i++) {
        if (fake.range[i].base) continue;
        fake.range[i].base = base;
        fake.range[i].count = count;
        return base;
    }
    fail_msg("too many maps");
    return NULL;
}

int xengnttab_unmap(xengnttab_handle *h, void *base, uint32_t count)
{
    for (unsigned i = 0; i < RANGES; i++) {
        if (fake.range[i].base != base) continue;
        assert_int_equal(fake.range[i].count, count);
        fake.range[i].base = NULL;
        fake.unmaps++;
        return munmap(base, count * XEN_PAGE_BYTES);
    }
    fail_msg("unmapped what is not mapped");
    return -1;
}

int xengnttab_grant_copy(xengnttab_handle *h, uint32_t count, xengnttab_grant_copy_segment_t *segments)
{
    fake.copies++;
    for (uint32_t i = 0; i < count; i++) {
        bool to = segments[i].flags & GNTCOPY_dest_gref;
        if ((to ? segments[i].dest : segments[i].source).foreign.ref == POISON) {
            errno = EFAULT;
            return -1;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        xengnttab_grant_copy_segment_t *s = &segments[i];
        bool to = s->flags & GNTCOPY_dest_gref;
        uint32_t ref = (to ? s->dest : s->source).foreign.ref;
        s->status = ref < GRANTED ? GNTST_okay : GNTST_bad_gntref;
        if (ref >= GRANTED) continue;
        if (to) memcpy(fake.page[ref] + s->dest.foreign.offset, s->source.virt, s->len);
        else memcpy(s->dest.virt, fake.page[ref] + s->source.foreign.offset, s->len);
    }
    return 0;
}

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned flags)
{
    if (fake.no_events) return NULL;
    assert_int_equal(pipe(fake.events), 0);
    fake.opened++;
    return (xenevtchn_handle *)&fake;
}

int xenevtchn_close(xenevtchn_handle *h)
{
    fake.closed++;
    fake.bound = 0;
    close(fake.events[0]);
    close(fake.events[1]);
    return 0;
}

int xenevtchn_fd(xenevtchn_handle *h)
{
    return fake.events[0];
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *h, uint32_t domid, evtchn_port_t remote)
{
    if (remote == 0) {
        errno = EINVAL;
        return -1;
    }
    fake.bound++;
    return (int)remote + 100;
}

int xenevtchn_unbind(xenevtchn_handle *h, evtchn_port_t port)
{
    fake.bound--;
    return 0;
}

int xenevtchn_notify(xenevtchn_handle *h, evtchn_port_t port)
{
    fake.notified = (int)port;
    return 0;
}

int xenevtchn_restrict(xenevtchn_handle *h, domid_t domid)
{
    errno = fake.cannot_confine;
    if (errno) return -1;
    fake.confined = domid;
    return 0;
}

int xenevtchn_unmask(xenevtchn_handle *h, evtchn_port_t port)
{
    fake.unmasked = (int)port;
    return 0;
}

static struct xen *opened(struct xen_budget *budget)
{
    struct xen *x = NULL;
    memset(&fake, 0, sizeof fake);
    for (unsigned i = 0; i < GRANTED; i++)
        memset(fake.page[i], (int)i, sizeof fake.page[i]);
    assert_int_equal(xen_open(&x, budget, NULL), 0);
    return x;
}

static void closed(struct xen *x)
{
    xen_close(x);
    assert_int_equal(fake.opened, fake.closed);
    assert_int_equal(fake.bound, 0);
    for (unsigned i = 0; i < RANGES; i++)
        assert_null(fake.range[i].base);
}

/* Entries of the map-track table for a page: 2 where domain 0 is paravirtual, or nobody says what it is. */
static unsigned per_page(void)
{
    struct xen_budget budget = {.max = 2};
    struct xen *x = opened(&budget);
    struct xen_map m = {.ref = 1};
    x->ops->map(x, 1, &m, 1, false);
    unsigned used = atomic_load(&budget.used);
    assert_true(used == 1 || used == 2);
    closed(x);
    return used;
}

/* One call for all; unmapped by one, when the last is given back. */
static void a_batch(void **state)
{
    struct xen *x = opened(NULL);
    struct xen_map m[5];
    for (unsigned i = 0; i < 5; i++)
        m[i] = (struct xen_map){.ref = 10 + i};
    x->ops->map(x, 1, m, 5, false);
    assert_int_equal(fake.maps, 1);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(m[i].status, 0);
        assert_int_equal(*(uint8_t *)m[i].page, 10 + i);
    }
    x->ops->unmap(x, m + 2, 3);
    x->ops->unmap(x, m + 2, 3); /* those are NULL now */
    assert_int_equal(fake.unmaps, 0);
    x->ops->unmap(x, m, 2);
    assert_int_equal(fake.unmaps, 1);
    closed(x);
}

static void a_bad_reference_costs_itself(void **state)
{
    unsigned each = per_page();
    struct xen_budget budget = {.max = 100};
    struct xen *x = opened(&budget);
    struct xen_map m[4] = {{.ref = 1}, {.ref = GRANTED}, {.ref = 3}, {.ref = UINT32_MAX}};
    x->ops->map(x, 1, m, 4, true);
    assert_int_equal(m[0].status, 0);
    assert_int_equal(m[1].status, -EINVAL);
    assert_null(m[1].page);
    assert_int_equal(m[2].status, 0);
    assert_int_equal(m[3].status, -EINVAL);
    assert_int_equal(fake.maps, 5);
    assert_int_equal(atomic_load(&budget.used), 2 * each);
    x->ops->unmap(x, m, 4);
    assert_int_equal(atomic_load(&budget.used), 0);
    closed(x);
}

static void the_budget(void **state)
{
    unsigned each = per_page();
    struct xen_budget budget = {.max = 200 * each};
    struct xen *x = opened(&budget);
    struct xen_map m[300];
    for (unsigned i = 0; i < 300; i++)
        m[i] = (struct xen_map){.ref = i};
    x->ops->map(x, 1, m, 300, false);
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(m[i].status, i < 200 ? 0 : -ENOSPC);
    x->ops->unmap(x, m, 300);
    assert_int_equal(atomic_load(&budget.used), 0);
    /* Rings are never refused. Pages leave them their reserve, and what they have on top of it. */
    uint32_t refs[3] = {1, 2, 3}, bad[2] = {1, GRANTED};
    void *ring[3];
    int ret;
    budget.reserve = 50 * each;
    for (unsigned n = 0; n < 3; n++) {
        ring[n] = x->ops->map_ring(x, 1, refs, 3, &ret);
        assert_non_null(ring[n]);
        assert_int_equal(atomic_load(&budget.rings), (n + 1) * 3 * each);
        unsigned most = n < 2 ? 150 : 191;
        x->ops->map(x, 1, m, 300, false);
        for (unsigned i = 0; i < 300; i++)
            assert_int_equal(m[i].status, i < most ? 0 : -ENOSPC);
        x->ops->unmap(x, m, 300);
        if (n == 1) budget.reserve = 5 * each;
    }
    assert_null(x->ops->map_ring(x, 1, bad, 2, &ret));
    x->ops->unmap_ring(x, ring[0], 3);
    assert_int_equal(atomic_load(&budget.rings), 6 * each);
    budget.max = 0;
    assert_non_null(x->ops->map_ring(x, 1, refs, 3, &ret));
    x->ops->map(x, 1, m, 1, false);
    assert_int_equal(m[0].status, -ENOSPC);
    closed(x);
    assert_int_equal(atomic_load(&budget.used), 0);
    assert_int_equal(atomic_load(&budget.rings), 0);
}

/* Pages that stay mapped are ranges of their own: a guest that keeps one page of each request in use holds that one, and neither
 * those that were asked for together with it nor more than its part. */
static void persistent_pages(void **state)
{
    unsigned each = per_page(), held[16], slot;
    struct xen_budget budget = {.max = 500 * each};
    struct xen *x = opened(&budget);
    struct persistent *p = persistent_new(x, 1, 128);
    void *page;
    for (uint32_t i = 0; i < 128; i++) {
        assert_int_equal(persistent_get(p, i, true, &page, i % 8 ? &slot : &held[i / 8]), 0);
        if (i % 8) persistent_put(p, slot);
    }
    for (uint32_t i = 128; i < GRANTED; i++) {
        assert_int_equal(persistent_get(p, i, true, &page, &slot), 0);
        assert_int_equal(*(uint8_t *)page, (uint8_t)i);
        persistent_put(p, slot);
        assert_int_equal(atomic_load(&budget.used), 128 * each);
    }
    for (unsigned i = 0; i < RANGES; i++)
        assert_true(!fake.range[i].base || fake.range[i].count == 1);
    persistent_age(p, 0, UINT32_MAX);
    assert_int_equal(atomic_load(&budget.used), 16 * each);
    for (unsigned i = 0; i < 16; i++)
        persistent_put(p, held[i]);
    persistent_age(p, 0, UINT32_MAX);
    assert_int_equal(atomic_load(&budget.used), 0);
    persistent_free(p);
    closed(x);
}

static void rings(void **state)
{
    struct xen *x = opened(NULL);
    uint32_t refs[3] = {7, 5, 6}, bad[2] = {1, GRANTED};
    int ret = 1;
    uint8_t *ring = x->ops->map_ring(x, 1, refs, 3, &ret), *left = x->ops->map_ring(x, 1, refs, 2, &ret);
    assert_non_null(ring);
    assert_non_null(left);
    assert_int_equal(ring[XEN_PAGE_BYTES], 5);
    ring[0] = 1; /* rings are written */
    assert_null(x->ops->map_ring(x, 1, bad, 2, &ret));
    assert_int_equal(ret, -EINVAL);
    assert_null(x->ops->map_ring(x, 1, bad, 0, &ret));
    x->ops->unmap_ring(x, ring, 3);
    x->ops->unmap_ring(x, NULL, 3);
    closed(x); /* takes what is left */
}

static void copies(void **state)
{
    struct xen *x = opened(NULL);
    char out[8] = "", in[8] = "abcdefg";
    struct xen_copy c[] = {
        {.ref = 5, .offset = 1, .length = 4, .local = out},
        {.ref = GRANTED, .offset = 0, .length = 4, .local = out},
        {.ref = 6, .offset = 2, .length = 4, .local = in, .to_guest = true},
        {.ref = 5, .offset = 4000, .length = 97, .local = out},
        {.ref = POISON, .offset = 0, .length = 1, .local = out + 5},
    };
    x->ops->copy(x, 1, c, 4);
    assert_int_equal(fake.copies, 1);
    int expected[] = {0, -EINVAL, 0, -EINVAL, -EFAULT};
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(c[i].status, expected[i]);
    assert_memory_equal(out, "\5\5\5\5\0", 5);
    assert_memory_equal(fake.page[6], "\6\6abcd\6", 7);
    for (unsigned i = 0; i < 5; i++)
        c[i].status = 1;
    x->ops->copy(x, 1, c, 5); /* one makes the call fail: the others do not suffer */
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(c[i].status, expected[i]);
    struct xen_copy many[300];
    for (unsigned i = 0; i < 300; i++)
        many[i] = (struct xen_copy){.ref = i, .length = i % 3 ? 1 : 5000, .local = out, .status = 1};
    x->ops->copy(x, 1, many, 300);
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(many[i].status, i % 3 ? 0 : -EINVAL);
    closed(x);
}

static void events(void **state)
{
    struct xen *x = opened(NULL);
    int ports[4], a = x->ops->bind(x, 1, 1), b = x->ops->bind(x, 1, 2);
    assert_int_equal(x->ops->bind(x, 1, 0), -EINVAL);
    assert_int_equal(x->ops->pending(x, ports, 4), 0); /* and does not wait */
    evtchn_port_t come[] = {(evtchn_port_t)a, 77, (evtchn_port_t)b, (evtchn_port_t)a, (evtchn_port_t)b,
                            (evtchn_port_t)a};
    assert_int_equal(write(fake.events[1], come, sizeof come), sizeof come);
    assert_int_equal(x->ops->pending(x, ports, 4), 4); /* what is not ours is left out */
    assert_int_equal(ports[0], a);
    assert_int_equal(ports[1], b);
    assert_int_equal(x->ops->pending(x, ports, 4), 1);
    x->ops->unmask(x, a);
    assert_int_equal(fake.unmasked, a);
    assert_int_equal(x->ops->confine(x, 5), 0);
    assert_int_equal(fake.confined, 5);
    static const int answers[][2] = {{ENOTTY, -ENOTTY}, {ENOSYS, -ENOTTY}, {EACCES, -EACCES}};
    for (unsigned i = 0; i < 3; i++) {
        fake.cannot_confine = answers[i][0];
        assert_int_equal(x->ops->confine(x, 6), answers[i][1]);
    }
    x->ops->notify(x, b);
    assert_int_equal(fake.notified, b);
    x->ops->unbind(x, a);
    x->ops->unbind(x, a);
    x->ops->notify(x, a);
    x->ops->notify(x, -1);
    assert_int_equal(fake.notified, b);
    assert_int_equal(fake.bound, 1);
    closed(x); /* unbinds what is left, with the handle */
}

static void no_xen(void **state)
{
    struct xen *x = NULL;
    struct errmsg e;
    memset(&fake, 0, sizeof fake);
    fake.no_events = true;
    assert_int_equal(xen_open(&x, NULL, &e), -ENODEV);
    assert_non_null(strstr(e.text, "evtchn"));
    assert_int_equal(fake.opened, fake.closed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch),    cmocka_unit_test(a_bad_reference_costs_itself),
        cmocka_unit_test(the_budget), cmocka_unit_test(rings),
        cmocka_unit_test(copies),     cmocka_unit_test(events),
        cmocka_unit_test(no_xen),     cmocka_unit_test(persistent_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
