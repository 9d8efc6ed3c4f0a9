/* SPDX-License-Identifier: Apache-2.0 */
/* Xen without Xen: grants, event channels under all ABIs, what is refused, and what is left behind. */
#include "guest/sim_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/persistent.h"

#define GUEST 7

struct bed {
    char dir[64];
    struct sim *sim;
    struct xen *xen;
    struct sim_guest *guest;
    struct xen_budget budget;
};

static void bed_open(struct bed *b, const struct sim_options *o)
{
    struct errmsg e = {{0}};
    strcpy(b->dir, "/tmp/creedence-sim-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    b->budget = (struct xen_budget){.max = 32};
    if (sim_create(&b->sim, b->dir, o, &e)) fail_msg("%s", e.text);
    if (sim_xen_open(&b->xen, b->sim, &b->budget, false, &e)) fail_msg("%s", e.text);
    struct sim_guest_options g = {.domid = GUEST, .pages = 64, .grants = 64, .abi = o->abi};
    if (sim_guest_create(&b->guest, b->sim, &g, &e)) fail_msg("%s", e.text);
}

static void bed_close(struct bed *b)
{
    xen_close(b->xen);
    sim_guest_free(b->guest);
    assert_int_equal(sim_maps_used(b->sim), 0);
    assert_int_equal(sim_ports_used(b->sim, SIM_HOST), 0);
    assert_int_equal(atomic_load(&b->budget.used), 0);
    sim_detach(b->sim);
    sim_remove(b->dir);
    assert_int_not_equal(access(b->dir, F_OK), 0);
}

static const struct sim_options fifo = {.abi = SIM_FIFO};

/* A page granted, with its number in its first byte. */
static uint32_t granted(struct bed *b, bool readonly, uint32_t *frame)
{
    int64_t f = sim_page_take(b->guest);
    assert_true(f >= 0);
    memset(sim_guest_page(b->guest, (uint32_t)f), (int)f + 1, XEN_PAGE_BYTES);
    int64_t ref = sim_grant(b->guest, SIM_HOST, (uint32_t)f, readonly);
    assert_true(ref >= 8);
    if (frame) *frame = (uint32_t)f;
    return (uint32_t)ref;
}

static void maps(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    uint32_t frame[2];
    uint32_t ref[2] = {granted(&b, false, &frame[0]), granted(&b, true, &frame[1])};
    struct xen_map m[5] = {{.ref = ref[0]}, {.ref = 63}, {.ref = ref[1]}, {.ref = 1u << 31}, {.ref = ref[0]}};
    b.xen->ops->map(b.xen, GUEST, m, 5, false);
    assert_int_equal(m[0].status, 0);
    assert_int_equal(m[1].status, -EINVAL); /* not granted; costs itself only */
    assert_int_equal(m[2].status, 0);
    assert_int_equal(m[3].status, -EINVAL);
    assert_int_equal(m[4].status, 0); /* twice the same */
    assert_null(m[1].page);
    assert_int_equal(*(uint8_t *)m[2].page, frame[1] + 1);
    *(uint8_t *)sim_guest_page(b.guest, frame[0]) = 99;
    assert_int_equal(*(uint8_t *)m[0].page, 99);
    assert_int_equal(sim_maps_used(b.sim), 3);
    assert_int_equal(sim_revoke(b.guest, ref[0]), -EBUSY);
    b.xen->ops->unmap(b.xen, m, 4);
    assert_int_equal(sim_revoke(b.guest, ref[0]), -EBUSY); /* the other map of it */
    assert_int_equal(sim_revoke(b.guest, ref[1]), 0);
    b.xen->ops->unmap(b.xen, m, 5);
    assert_int_equal(sim_revoke(b.guest, ref[0]), 0);
    m[0] = (struct xen_map){.ref = ref[0]};
    b.xen->ops->map(b.xen, GUEST, m, 1, false);
    assert_int_equal(m[0].status, -EINVAL); /* revoked */
    bed_close(&b);
}

static void writable_maps(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    uint32_t ro = granted(&b, true, NULL), rw = granted(&b, false, NULL);
    struct xen_map m[2] = {{.ref = ro}, {.ref = rw}}, reading = {.ref = rw};
    b.xen->ops->map(b.xen, GUEST, &reading, 1, false);
    b.xen->ops->map(b.xen, GUEST, m, 2, true);
    assert_int_equal(m[0].status, -EINVAL);
    assert_int_equal(m[1].status, 0);
    *(uint8_t *)m[1].page = 42;
    assert_int_equal(*(uint8_t *)reading.page, 42);
    _Atomic uint32_t *entry = sim_grant_entry(b.guest, rw);
    assert_int_equal(atomic_load(entry) & 0xffff, 1 | 8 | 16);
    b.xen->ops->unmap(b.xen, m, 2);
    assert_int_equal(atomic_load(entry) & 0xffff, 1 | 8);
    b.xen->ops->unmap(b.xen, &reading, 1);
    assert_int_equal(atomic_load(entry) & 0xffff, 1);
    bed_close(&b);
}

/* Entries that the guest wrote itself: another domain, a frame that is not there, other types, no domain of that number. */
static void bad_entries(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    uint32_t ref = granted(&b, false, NULL);
    _Atomic uint32_t *entry = sim_grant_entry(b.guest, ref);
    struct {
        uint32_t head, frame;
        int status;
    } cases[] = {{1 | 5u << 16, 0, -EINVAL},
                 {1, 64, -EFAULT},
                 {1, UINT32_MAX, -EFAULT},
                 {2, 0, -EINVAL},
                 {3, 0, -EINVAL},
                 {0, 0, -EINVAL},
                 {1, 0, 0}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct xen_map m = {.ref = ref};
        atomic_store(&entry[0], cases[i].head);
        atomic_store(&entry[1], cases[i].frame);
        b.xen->ops->map(b.xen, GUEST, &m, 1, true);
        assert_int_equal(m.status, cases[i].status);
        b.xen->ops->unmap(b.xen, &m, 1);
        assert_int_equal(atomic_load(entry), cases[i].head); /* no bit of use stays */
    }
    struct xen_map m = {.ref = ref};
    b.xen->ops->map(b.xen, GUEST + 1, &m, 1, false);
    assert_int_equal(m.status, -ESRCH);
    b.xen->ops->map(b.xen, SIM_HOST, &m, 1, false);
    assert_int_equal(m.status, -ESRCH);
    bed_close(&b);
}

/* The frame was read at the first use: what the guest writes into its entry later moves no map. */
static void the_frame_is_read_once(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    uint32_t frame, ref = granted(&b, false, &frame);
    struct xen_map m[2] = {{.ref = ref}, {.ref = ref}};
    b.xen->ops->map(b.xen, GUEST, &m[0], 1, false);
    atomic_store(sim_grant_entry(b.guest, ref) + 1, UINT32_MAX);
    b.xen->ops->map(b.xen, GUEST, &m[1], 1, false);
    assert_int_equal(m[1].status, 0);
    assert_int_equal(*(uint8_t *)m[1].page, frame + 1);
    b.xen->ops->unmap(b.xen, m, 2);
    bed_close(&b);
}

static void rings(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    uint32_t refs[4], frame[4];
    int ret;
    for (unsigned i = 0; i < 4; i++)
        refs[3 - i] = granted(&b, false, &frame[3 - i]); /* adjacent there, backwards here */
    uint8_t *ring = b.xen->ops->map_ring(b.xen, GUEST, refs, 4, &ret);
    assert_non_null(ring);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(ring[i * XEN_PAGE_BYTES], frame[i] + 1);
    assert_int_equal(sim_revoke(b.guest, refs[2]), -EBUSY);
    b.xen->ops->unmap_ring(b.xen, ring, 4);
    assert_int_equal(sim_maps_used(b.sim), 0);
    assert_int_equal(sim_revoke(b.guest, refs[2]), 0);
    assert_null(b.xen->ops->map_ring(b.xen, GUEST, refs, 4, &ret)); /* all or none */
    assert_int_equal(ret, -EINVAL);
    assert_int_equal(sim_maps_used(b.sim), 0);
    assert_null(b.xen->ops->map_ring(b.xen, GUEST, refs, 0, &ret));
    uint32_t same[2] = {refs[0], refs[0]};
    assert_non_null(b.xen->ops->map_ring(b.xen, GUEST, same, 2, &ret)); /* left to be released at the close */
    bed_close(&b);
}

static void budget(void **state)
{
    struct bed b;
    bed_open(&b, &(struct sim_options){.abi = SIM_FIFO, .maptrack = 40});
    uint32_t ref = granted(&b, false, NULL);
    struct xen_map m[40];
    for (unsigned i = 0; i < 40; i++)
        m[i] = (struct xen_map){.ref = ref};
    b.xen->ops->map(b.xen, GUEST, m, 40, false);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(m[i].status, i < 32 ? 0 : -ENOSPC);
    /* The hypervisor's own table ends as well. */
    struct xen *other;
    assert_int_equal(sim_xen_open(&other, b.sim, NULL, true, NULL), 0);
    struct xen_map n[10];
    for (unsigned i = 0; i < 10; i++)
        n[i] = (struct xen_map){.ref = ref};
    other->ops->map(other, GUEST, n, 10, false);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(n[i].status, i < 8 ? 0 : -ENOSPC);
    xen_close(other);
    assert_int_equal(sim_maps_used(b.sim), 32);
    /* A ring is counted and not refused; it takes the room of pages to come. */
    int ret;
    void *ring = b.xen->ops->map_ring(b.xen, GUEST, &ref, 1, &ret);
    assert_non_null(ring);
    assert_int_equal(atomic_load(&b.budget.rings), 1);
    b.xen->ops->unmap(b.xen, m, 32);
    b.budget.reserve = 10;
    b.xen->ops->map(b.xen, GUEST, m, 40, false);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(m[i].status, i < 22 ? 0 : -ENOSPC);
    b.xen->ops->unmap_ring(b.xen, ring, 1);
    assert_int_equal(atomic_load(&b.budget.rings), 0);
    bed_close(&b); /* with everything mapped */
}

static void copies(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    uint32_t frame, rw = granted(&b, false, &frame), ro = granted(&b, true, NULL);
    char in[64] = "0123456789", out[64] = "";
    struct xen_copy c[] = {
        {.ref = rw, .offset = 4090, .length = 6, .local = in, .to_guest = true},
        {.ref = rw, .offset = 4090, .length = 7, .local = in, .to_guest = true}, /* over the page's end */
        {.ref = ro, .offset = 0, .length = 5, .local = in, .to_guest = true},    /* read-only */
        {.ref = ro, .offset = 0, .length = 5, .local = out},
        {.ref = rw, .offset = 4090, .length = 6, .local = out + 8},
        {.ref = 60, .offset = 0, .length = 1, .local = out},
        {.ref = rw, .offset = 65535, .length = 65535, .local = out},
        {.ref = rw, .offset = 4096, .length = 0, .local = out},
    };
    int expected[] = {0, -EINVAL, -EINVAL, 0, 0, -EINVAL, -EINVAL, 0};
    b.xen->ops->copy(b.xen, GUEST, c, 8);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(c[i].status, expected[i]);
    assert_memory_equal(out + 8, "012345", 6);
    assert_memory_equal((char *)sim_guest_page(b.guest, frame) + 4090, "012345", 6);
    assert_int_equal(atomic_load(sim_grant_entry(b.guest, rw)) & 0xffff, 1);
    assert_int_equal(sim_revoke(b.guest, rw), 0);
    bed_close(&b);
}

static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static int bound(struct bed *b, int *guest_port)
{
    *guest_port = sim_port_alloc(b->guest, SIM_HOST);
    assert_true(*guest_port > 0);
    int port = b->xen->ops->bind(b->xen, GUEST, (uint32_t)*guest_port);
    assert_true(port > 0);
    return port;
}

/* The first event of a new port is taken, and the port open. */
static int bound_quiet(struct bed *b, int *guest_port)
{
    int ports[4], port = bound(b, guest_port);
    assert_int_equal(b->xen->ops->pending(b->xen, ports, 4), 1);
    assert_int_equal(ports[0], port);
    b->xen->ops->unmask(b->xen, port);
    return port;
}

static void events_of(enum sim_abi abi)
{
    struct bed b;
    bed_open(&b, &(struct sim_options){.abi = abi});
    const struct xen_ops *ops = b.xen->ops;
    int guest_port, ports[4], port = bound(&b, &guest_port), fd = ops->event_fd(b.xen);
    assert_true(readable(fd)); /* at once: what came before */
    assert_int_equal(ops->pending(b.xen, ports, 4), 1);
    assert_int_equal(ports[0], port);
    assert_false(readable(fd));
    sim_port_notify(b.guest, guest_port); /* masked: not lost */
    sim_port_notify(b.guest, guest_port);
    assert_false(readable(fd));
    assert_int_equal(ops->pending(b.xen, ports, 4), 0);
    ops->unmask(b.xen, port);
    assert_true(readable(fd));
    assert_int_equal(ops->pending(b.xen, ports, 4), 1); /* many are one */
    ops->unmask(b.xen, port);
    ops->unmask(b.xen, port);
    assert_int_equal(ops->pending(b.xen, ports, 4), 0);
    assert_false(readable(fd));

    ops->notify(b.xen, port);
    assert_true(readable(sim_event_fd(b.guest)));
    assert_int_equal(sim_pending(b.guest, ports, 4), 1);
    assert_int_equal(ports[0], guest_port);
    sim_unmask(b.guest, guest_port);
    sim_mask(b.guest, guest_port);
    ops->notify(b.xen, port);
    assert_int_equal(sim_pending(b.guest, ports, 4), 0);
    sim_unmask(b.guest, guest_port);
    assert_int_equal(sim_pending(b.guest, ports, 4), 1);
    bed_close(&b);
}

static void events(void **state)
{
    for (unsigned abi = SIM_2L_1023; abi <= SIM_FIFO; abi++)
        events_of(abi);
}

/* More at once than are asked for: the descriptor stays readable until the last, and each comes once. */
static void many_events_of(enum sim_abi abi)
{
    struct bed b;
    bed_open(&b, &(struct sim_options){.abi = abi});
    int guest_port[200], port[200], ports[7], seen[1024] = {0};
    for (unsigned i = 0; i < 200; i++)
        port[i] = bound_quiet(&b, &guest_port[i]);
    for (unsigned i = 0; i < 200; i++)
        sim_port_notify(b.guest, guest_port[i * 37 % 200]);
    for (unsigned got = 0; got < 200;) {
        assert_true(readable(b.xen->ops->event_fd(b.xen)));
        unsigned n = b.xen->ops->pending(b.xen, ports, 7);
        assert_true(n > 0 && n <= 7);
        for (unsigned i = 0; i < n; i++, got++)
            assert_int_equal(seen[ports[i]]++, 0);
    }
    assert_int_equal(b.xen->ops->pending(b.xen, ports, 7), 0);
    assert_false(readable(b.xen->ops->event_fd(b.xen)));
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(seen[port[i]], 1);
    bed_close(&b);
}

static void many_events(void **state)
{
    for (unsigned abi = SIM_2L_1023; abi <= SIM_FIFO; abi++)
        many_events_of(abi);
}

static void binding(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    const struct xen_ops *ops = b.xen->ops;
    int ports[4], guest_port, port = bound_quiet(&b, &guest_port);
    assert_int_equal(ops->bind(b.xen, GUEST, (uint32_t)guest_port), -EINVAL); /* bound already */
    assert_int_equal(ops->bind(b.xen, GUEST, 0), -EINVAL);
    assert_int_equal(ops->bind(b.xen, GUEST, UINT32_MAX), -EINVAL);
    assert_int_equal(ops->bind(b.xen, GUEST, (uint32_t)guest_port + 1), -EINVAL); /* free */
    assert_int_equal(ops->bind(b.xen, GUEST + 1, 1), -ESRCH);
    int other = sim_port_alloc(b.guest, 3); /* for another domain */
    assert_int_equal(ops->bind(b.xen, GUEST, (uint32_t)other), -EINVAL);
    assert_int_equal(sim_ports_used(b.sim, SIM_HOST), 1); /* failures leave none */
    ops->unbind(b.xen, port);
    sim_port_notify(b.guest, guest_port);                 /* nobody there: no harm */
    port = ops->bind(b.xen, GUEST, (uint32_t)guest_port); /* as a restarted backend does */
    assert_true(port > 0);
    sim_port_notify(b.guest, guest_port);
    assert_int_equal(ops->pending(b.xen, ports, 4), 1);
    sim_port_free(b.guest, guest_port);
    ops->notify(b.xen, port);
    ops->unmask(b.xen, 0);
    ops->unmask(b.xen, -1);
    ops->notify(b.xen, INT32_MAX);
    ops->unbind(b.xen, port);
    ops->unbind(b.xen, port);
    bed_close(&b);
}

static void bounds_of(enum sim_abi abi, unsigned channels)
{
    struct bed b;
    bed_open(&b, &(struct sim_options){.abi = abi});
    for (unsigned i = 0; i < channels; i++)
        assert_true(sim_port_alloc(b.guest, SIM_HOST) > 0);
    assert_int_equal(sim_port_alloc(b.guest, SIM_HOST), -ENOSPC);
    int last = 0;
    for (unsigned i = 1; i <= channels; i++)
        if ((last = b.xen->ops->bind(b.xen, GUEST, i)) < 0) break;
    assert_true(last > 0);
    assert_int_equal(sim_ports_used(b.sim, SIM_HOST), channels);
    assert_int_equal(b.xen->ops->bind(b.xen, GUEST, 1), -ENOSPC);
    sim_port_free(b.guest, 500);
    assert_int_equal(sim_port_alloc(b.guest, SIM_HOST), 500);
    bed_close(&b);
}

static void bounds(void **state)
{
    bounds_of(SIM_2L_1023, 1023);
    bounds_of(SIM_2L_4096, 4095);
    bounds_of(SIM_FIFO, 131071);
}

/* Urgent ones first, whatever the order they came in; and a port that changed its queue does not spoil the old one. */
static void priorities(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    int port[8], guest_port[8], ports[8];
    for (unsigned i = 0; i < 8; i++)
        port[i] = bound_quiet(&b, &guest_port[i]);
    for (unsigned i = 0; i < 8; i++) /* both ends' first event, at the default priority */
        b.xen->ops->notify(b.xen, port[i]);
    assert_int_equal(sim_pending(b.guest, ports, 8), 8);
    for (unsigned i = 0; i < 8; i++) {
        sim_unmask(b.guest, guest_port[i]);
        assert_int_equal(sim_port_priority(b.guest, guest_port[i], i < 4 ? 15 - i : 7), 0);
    }
    assert_int_equal(sim_port_priority(b.guest, guest_port[0], 16), -EINVAL);
    for (unsigned i = 0; i < 8; i++)
        b.xen->ops->notify(b.xen, port[i]);
    assert_int_equal(sim_pending(b.guest, ports, 8), 8);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(ports[i], guest_port[i + 4]);
        assert_int_equal(ports[4 + i], guest_port[3 - i]);
    }
    bed_close(&b);
}

/* The domain's own words with anything in them: it loses events, nobody else does, nothing runs for ever. */
static void spoilt_words(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    int guest_port[16], port[16], ports[16];
    for (unsigned i = 0; i < 16; i++)
        port[i] = bound_quiet(&b, &guest_port[i]);
    struct sim_view *v = sim_view_get(b.sim, GUEST);
    sim_view_put(v); /* the guest has it */
    srand(1);
    for (unsigned n = 0; n < 20000; n++) {
        uint32_t word = (uint32_t)rand() << 16 ^ (uint32_t)rand();
        atomic_store(&v->fifo[guest_port[rand() % 16]], n % 3 ? (word & 0xf0000000u) | word % 20 : word);
        if (n % 5 == 0) atomic_store(&v->d->info[0].head[rand() % 16], word);
        if (n % 7 == 0) atomic_store(&v->d->info[0].ready, word);
        b.xen->ops->notify(b.xen, port[rand() % 16]);
        if (n % 100 == 0) sim_pending(b.guest, ports, 16);
        unsigned i = (unsigned)rand() % 16;
        sim_unmask(b.guest, guest_port[i]);
        sim_port_notify(b.guest, guest_port[i]); /* the host's are whole */
        assert_int_equal(b.xen->ops->pending(b.xen, ports, 16), 1);
        assert_int_equal(ports[0], port[i]);
        b.xen->ops->unmask(b.xen, port[i]);
    }
    bed_close(&b);
}

static void a_destroyed_guest(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    uint32_t frame, ref = granted(&b, false, &frame);
    struct xen_map m = {.ref = ref}, again = {.ref = ref};
    int guest_port, port = bound_quiet(&b, &guest_port);
    b.xen->ops->map(b.xen, GUEST, &m, 1, true);
    sim_guest_free(b.guest);
    *(uint8_t *)m.page = 1; /* still there */
    b.xen->ops->map(b.xen, GUEST, &again, 1, false);
    assert_int_equal(again.status, -ESRCH);
    b.xen->ops->notify(b.xen, port);
    /* The same number again is another domain. */
    struct sim_guest_options g = {.domid = GUEST, .pages = 64, .grants = 64, .abi = SIM_2L_4096};
    assert_int_equal(sim_guest_create(&b.guest, b.sim, &g, NULL), 0);
    assert_int_equal(granted(&b, false, NULL), ref);
    b.xen->ops->map(b.xen, GUEST, &again, 1, true);
    assert_int_equal(again.status, 0);
    b.xen->ops->unmap(b.xen, &m, 1);
    assert_int_equal(sim_revoke(b.guest, ref), -EBUSY);
    b.xen->ops->unmap(b.xen, &again, 1);
    assert_int_equal(sim_revoke(b.guest, ref), 0);
    b.xen->ops->unbind(b.xen, port);
    bound_quiet(&b, &guest_port);
    bed_close(&b);
}

static unsigned descriptors(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 1000; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Guests come and go, one number or many; nothing of them stays in this process. */
static void guests_come_and_go(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    unsigned before = 0;
    for (unsigned i = 0; i < 300; i++) {
        struct sim_guest *g;
        struct sim_guest_options o = {.domid = (xen_domid)(20 + i % 3), .pages = 4, .grants = 16, .abi = SIM_FIFO};
        assert_int_equal(sim_guest_create(&g, b.sim, &o, NULL), 0);
        struct xen_map m = {.ref = (uint32_t)sim_grant(g, SIM_HOST, 0, false)};
        b.xen->ops->map(b.xen, o.domid, &m, 1, true);
        int port = b.xen->ops->bind(b.xen, o.domid, (uint32_t)sim_port_alloc(g, SIM_HOST));
        assert_int_equal(m.status, 0);
        assert_true(port > 0);
        b.xen->ops->notify(b.xen, port);
        if (i % 2) sim_guest_free(g);
        *(uint8_t *)m.page = 1;
        b.xen->ops->unmap(b.xen, &m, 1);
        b.xen->ops->unbind(b.xen, port);
        if (i % 2 == 0) sim_guest_free(g);
        if (i == 10) before = descriptors();
    }
    assert_int_equal(descriptors(), before);
    bed_close(&b);
}

static void refused(void **state)
{
    struct bed b;
    struct errmsg e = {{0}};
    bed_open(&b, &fifo);
    struct sim_guest *g;
    struct sim *s;
    assert_int_equal(sim_guest_create(&g, b.sim, &(struct sim_guest_options){.domid = GUEST}, &e), -EEXIST);
    assert_int_equal(sim_guest_create(&g, b.sim, &(struct sim_guest_options){.domid = SIM_HOST}, &e), -EINVAL);
    assert_int_equal(sim_create(&s, b.dir, &fifo, &e), -EEXIST);
    assert_int_equal(sim_attach(&s, "/nowhere", &e), -ENODEV);
    struct xen *all[SIM_VCPUS_MAX];
    for (unsigned i = 1; i < SIM_VCPUS_MAX; i++)
        assert_int_equal(sim_xen_open(&all[i], b.sim, NULL, false, &e), 0);
    assert_int_equal(sim_xen_open(&all[0], b.sim, NULL, false, &e), -EBUSY);
    for (unsigned i = 1; i < SIM_VCPUS_MAX; i++)
        xen_close(all[i]);
    bed_close(&b);
}

/* A backend in a process of its own: works, is killed with a page mapped, a port bound; the next one finds all free. */
static void a_killed_backend(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    uint32_t frame, ref = granted(&b, false, &frame);
    int guest_port = sim_port_alloc(b.guest, SIM_HOST), ports[4];
    pid_t pid = fork();
    if (pid == 0) {
        struct sim *s;
        struct xen *x;
        if (sim_attach(&s, b.dir, NULL) || sim_xen_open(&x, s, NULL, false, NULL)) _exit(1);
        struct xen_map m = {.ref = ref};
        x->ops->map(x, GUEST, &m, 1, true);
        int port = x->ops->bind(x, GUEST, (uint32_t)guest_port);
        if (m.status || port < 0) _exit(2);
        strcpy(m.page, "from another process");
        x->ops->notify(x, port);
        for (;;)
            pause();
    }
    struct pollfd p = {.fd = sim_event_fd(b.guest), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 10000), 1);
    assert_int_equal(sim_pending(b.guest, ports, 4), 1);
    assert_string_equal(sim_guest_page(b.guest, frame), "from another process");
    assert_int_equal(sim_kill(b.sim, pid), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(sim_revoke(b.guest, ref), -EBUSY);
    struct xen *next;
    assert_int_equal(sim_xen_open(&next, b.sim, NULL, false, NULL), 0);
    assert_int_equal(sim_maps_used(b.sim), 0);
    assert_int_equal(sim_revoke(b.guest, ref), 0);
    sim_unmask(b.guest, guest_port);
    assert_int_equal(next->ops->confine(next, GUEST), 0);
    assert_int_equal(next->ops->confine(next, GUEST + 1), -EACCES);
    assert_int_equal(next->ops->bind(next, GUEST + 1, (uint32_t)guest_port), -EACCES);
    int port = next->ops->bind(next, GUEST, (uint32_t)guest_port);
    assert_true(port > 0);
    sim_port_notify(b.guest, guest_port);
    assert_int_equal(next->ops->pending(next, ports, 4), 1);
    xen_close(next);
    bed_close(&b);
}

static void persistent(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    struct persistent *p = persistent_new(b.xen, GUEST, 4);
    uint32_t ref[8], frame[8];
    void *page;
    unsigned slot, held;
    for (unsigned i = 0; i < 8; i++)
        ref[i] = granted(&b, i == 7, &frame[i]);
    for (unsigned n = 0; n < 3; n++)
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(persistent_get(p, ref[i], true, &page, &slot), 0);
            assert_int_equal(*(uint8_t *)page, frame[i] + 1);
            persistent_put(p, slot);
        }
    assert_int_equal(persistent_stats(p).maps, 4);
    assert_int_equal(persistent_stats(p).hits, 8);
    assert_int_equal(persistent_get(p, ref[0], true, &page, &held), 0);
    for (unsigned i = 4; i < 7; i++) { /* 1, 2, 3 go; 0 is held */
        assert_int_equal(persistent_get(p, ref[i], false, &page, &slot), 0);
        persistent_put(p, slot);
    }
    assert_int_equal(persistent_stats(p).evictions, 3);
    assert_int_equal(sim_maps_used(b.sim), 4);
    assert_int_equal(sim_revoke(b.guest, ref[0]), -EBUSY);
    assert_int_equal(sim_revoke(b.guest, ref[1]), 0);
    assert_int_equal(persistent_get(p, ref[1], false, &page, &slot), -EINVAL);
    assert_int_equal(persistent_get(p, ref[6], true, &page, &slot), 0); /* anew, for writing */
    persistent_put(p, slot);
    assert_int_equal(persistent_get(p, ref[7], false, &page, &slot), 0);
    assert_int_equal(persistent_get(p, ref[7], true, &page, &slot), -EBUSY);
    persistent_free(p);
    assert_int_equal(sim_maps_used(b.sim), 0);
    bed_close(&b);
}

/* What was not used in so many periods goes, the oldest first; what is held, or was used since, stays. */
static void persistent_ages(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    struct persistent *p = persistent_new(b.xen, GUEST, 16);
    uint32_t ref[10], frame[10];
    void *page;
    unsigned slot, held;
    for (unsigned i = 0; i < 10; i++) {
        ref[i] = granted(&b, false, &frame[i]);
        assert_int_equal(persistent_get(p, ref[i], true, &page, i ? &slot : &held), 0);
        if (i) persistent_put(p, slot);
    }
    for (unsigned n = 0; n < 2; n++)
        persistent_age(p, 2, 4);
    assert_int_equal(sim_maps_used(b.sim), 10);
    for (unsigned i = 8; i < 10; i++) {
        assert_int_equal(persistent_get(p, ref[i], true, &page, &slot), 0);
        persistent_put(p, slot);
    }
    persistent_age(p, 2, 4); /* 1 to 4 */
    assert_int_equal(sim_maps_used(b.sim), 6);
    assert_int_equal(sim_revoke(b.guest, ref[4]), 0);
    assert_int_equal(sim_revoke(b.guest, ref[5]), -EBUSY);
    persistent_age(p, 2, 4); /* 5 to 7 */
    assert_int_equal(sim_maps_used(b.sim), 3);
    persistent_age(p, 2, 4); /* 8 and 9 */
    assert_int_equal(sim_maps_used(b.sim), 1);
    assert_int_equal(sim_revoke(b.guest, ref[0]), -EBUSY);
    persistent_put(p, held);
    persistent_age(p, 2, 4);
    assert_int_equal(persistent_stats(p).mapped, 0);
    assert_int_equal(persistent_stats(p).aged, 10);
    assert_int_equal(persistent_get(p, ref[9], true, &page, &slot), 0);
    assert_int_equal(*(uint8_t *)page, frame[9] + 1);
    persistent_put(p, slot);
    persistent_free(p);
    bed_close(&b);
}

/* Against a plain list of what was used last, with a budget smaller than the cache. */
static void persistent_oracle(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    b.budget.max = 12;
    struct persistent *p = persistent_new(b.xen, GUEST, 16);
    uint32_t ref[30], frame[30], order[12];
    unsigned known = 0;
    for (unsigned i = 0; i < 30; i++)
        ref[i] = granted(&b, false, &frame[i]);
    srand(2);
    for (unsigned n = 0; n < 5000; n++) {
        uint32_t i = (uint32_t)(rand() % (n % 100 < 50 ? 30 : 10)), at = 0;
        void *page;
        unsigned slot;
        uint64_t hits = persistent_stats(p).hits;
        while (at < known && order[at] != i)
            at++;
        bool hit = at < known;
        assert_int_equal(persistent_get(p, ref[i], true, &page, &slot), 0);
        assert_int_equal(*(uint8_t *)page, frame[i] + 1);
        assert_int_equal(persistent_stats(p).hits - hits, hit);
        persistent_put(p, slot);
        if (!hit && known < 12) known++;
        if (!hit) at = known - 1;
        memmove(order + 1, order, at * sizeof *order);
        order[0] = i;
    }
    persistent_free(p);
    bed_close(&b);
}

/* ---- threads ---- */

#define ROUNDS 3000u
#define CHANNELS 20u

struct pair {
    struct bed *b;
    int guest_port[CHANNELS], port[CHANNELS];
    atomic_uint sent[CHANNELS], done; /* what the guest counted up before it notified */
};

static void *sender(void *arg)
{
    struct pair *p = arg;
    for (unsigned n = 0; n < ROUNDS; n++) {
        unsigned i = n * 7 % CHANNELS;
        atomic_fetch_add(&p->sent[i], 1);
        sim_port_notify(p->b->guest, p->guest_port[i]);
        if (n % 64 == 0) sched_yield();
    }
    atomic_store(&p->done, 1);
    return NULL;
}

/* Whatever was counted before an event is seen by who takes it, and no last event is lost. */
static void no_event_is_lost_of(enum sim_abi abi)
{
    struct bed b;
    bed_open(&b, &(struct sim_options){.abi = abi});
    struct pair p = {.b = &b};
    unsigned seen[CHANNELS] = {0}, total = 0;
    for (unsigned i = 0; i < CHANNELS; i++)
        p.port[i] = bound_quiet(&b, &p.guest_port[i]);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, sender, &p), 0);
    while (total < ROUNDS) {
        struct pollfd fd = {.fd = b.xen->ops->event_fd(b.xen), .events = POLLIN};
        if (poll(&fd, 1, 5000) != 1) fail_msg("an event was lost: %u of %u, ABI %u", total, ROUNDS, abi);
        int ports[5];
        unsigned n = b.xen->ops->pending(b.xen, ports, 5);
        for (unsigned k = 0; k < n; k++)
            for (unsigned i = 0; i < CHANNELS; i++) {
                if (p.port[i] != ports[k]) continue;
                b.xen->ops->unmask(b.xen, ports[k]);
                unsigned now = atomic_load(&p.sent[i]);
                total += now - seen[i];
                seen[i] = now;
            }
    }
    pthread_join(t, NULL);
    bed_close(&b);
}

static void no_event_is_lost(void **state)
{
    for (unsigned abi = SIM_2L_1023; abi <= SIM_FIFO; abi++)
        no_event_is_lost_of(abi);
}

struct copier {
    struct bed *b;
    uint32_t ref;
    unsigned failed;
};

static void *copier(void *arg)
{
    struct copier *c = arg;
    struct xen *x;
    if (sim_xen_open(&x, c->b->sim, NULL, false, NULL)) return NULL;
    for (unsigned n = 0; n < ROUNDS; n++) {
        char bytes[16];
        struct xen_copy copy = {.ref = c->ref, .length = 16, .local = bytes};
        struct xen_map map = {.ref = c->ref};
        x->ops->copy(x, GUEST, &copy, 1);
        if (n % 16 == 0) x->ops->map(x, GUEST, &map, 1, n % 32 == 0);
        x->ops->unmap(x, &map, 1);
        c->failed += copy.status != 0;
    }
    xen_close(x);
    return NULL;
}

/* Two that use one grant, and a guest that tries to revoke it all the time: in the end it can, and no bit stays. */
static void grants_of_threads_with(bool one_lock)
{
    struct bed b;
    bed_open(&b, &(struct sim_options){.abi = SIM_FIFO, .one_lock = one_lock});
    uint32_t frame, ref = granted(&b, false, &frame);
    struct copier c[2] = {{.b = &b, .ref = ref}, {.b = &b, .ref = ref}};
    pthread_t t[2];
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, copier, &c[i]), 0);
    for (unsigned n = 0; n < ROUNDS; n++) {
        if (sim_revoke(b.guest, ref) == 0) assert_int_equal(sim_grant(b.guest, SIM_HOST, frame, false), ref);
        if (n % 16 == 0) sched_yield();
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(atomic_load(sim_grant_entry(b.guest, ref)) & 0xffff, 1);
    assert_int_equal(sim_revoke(b.guest, ref), 0);
    bed_close(&b);
}

static void grants_of_threads(void **state)
{
    grants_of_threads_with(false);
    grants_of_threads_with(true);
}

static void *churner(void *arg)
{
    struct pair *p = arg;
    while (!atomic_load(&p->done)) {
        int port = sim_port_alloc(p->b->guest, SIM_HOST);
        sim_port_notify(p->b->guest, port);
        atomic_store(&p->sent[0], (unsigned)port);
        sched_yield();
        sim_port_free(p->b->guest, port);
    }
    return NULL;
}

/* Both ends of channels come and go at once. */
static void connects(void **state)
{
    struct bed b;
    bed_open(&b, &fifo);
    struct pair p = {.b = &b};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, churner, &p), 0);
    for (unsigned n = 0; n < ROUNDS; n++) {
        int ports[4], port = b.xen->ops->bind(b.xen, GUEST, atomic_load(&p.sent[0]));
        if (port > 0) b.xen->ops->notify(b.xen, port);
        b.xen->ops->pending(b.xen, ports, 4);
        b.xen->ops->unbind(b.xen, port);
    }
    atomic_store(&p.done, 1);
    pthread_join(t, NULL);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps),
        cmocka_unit_test(writable_maps),
        cmocka_unit_test(bad_entries),
        cmocka_unit_test(the_frame_is_read_once),
        cmocka_unit_test(rings),
        cmocka_unit_test(budget),
        cmocka_unit_test(copies),
        cmocka_unit_test(events),
        cmocka_unit_test(many_events),
        cmocka_unit_test(binding),
        cmocka_unit_test(bounds),
        cmocka_unit_test(priorities),
        cmocka_unit_test(spoilt_words),
        cmocka_unit_test(a_destroyed_guest),
        cmocka_unit_test(guests_come_and_go),
        cmocka_unit_test(refused),
        cmocka_unit_test(a_killed_backend),
        cmocka_unit_test(persistent),
        cmocka_unit_test(persistent_ages),
        cmocka_unit_test(persistent_oracle),
        cmocka_unit_test(no_event_is_lost),
        cmocka_unit_test(grants_of_threads),
        cmocka_unit_test(connects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
