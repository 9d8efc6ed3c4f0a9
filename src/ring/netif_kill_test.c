/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network backend that is killed, and the next one that goes on from what was kept: kill_test.c's card, on netif rings.
 *
 * Transmit: each frame has a number of its own (in its first grant reference), ever larger. The "wire" is one word in shared memory: the
 * highest number that was taken; a frame has one to three pieces, and maybe an extra info. Receive: the backend answers each buffer with its
 * own reference, cut short, as length. Then, whatever happens to backends:
 *
 *   - each entry is answered exactly once, in its place (netif_sim.h notices);
 *   - an answered frame had come to the wire;
 *   - a frame's number may come again, and only after a kill; none is left out;
 *   - a buffer's answer is what was decided for it.
 */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "ring/netif_sim.h"
#include "ring/test_kill.h"

#define PAGE 4096u
#define RX_AT PAGE
#define WIRE_AT (2 * PAGE)
#define KEPT_AT (3 * PAGE)
#define MEMORY_BYTES (6 * PAGE)
#define HELD_MAX 8u

#ifdef CREEDENCE_SANITIZED
#define LIVES 2
#define KILLS 60
#else
#define LIVES 8
#define KILLS 250
#endif

/* The guest's own memory. */
struct guest {
    struct netif_sim tx, rx;
    uint32_t number; /* of the last frame */
    uint32_t number_of[NETIF_ENTRIES];
    uint64_t open, completed, buffers;
};

static struct rig rig;
static struct guest guest;
static uint64_t random_state;

static uint64_t pick(uint64_t below)
{
    return rig_random(&random_state) % below;
}

static uint32_t *wire(void)
{
    return (uint32_t *)(void *)(rig.mem + WIRE_AT);
}

static struct netif_kept *kept(unsigned i)
{
    return (struct netif_kept *)(void *)(rig.mem + KEPT_AT) + i;
}

static void guest_gets(struct driver_sim *none)
{
    struct netif_wire_rx_response w;
    uint16_t id;
    int status;
    while (netif_sim_get_tx(&guest.tx, &id, &status)) {
        assert_int_equal(status, NETIF_OKAY);
        assert_true(guest.number_of[id] <= __atomic_load_n(wire(), __ATOMIC_RELAXED));
        guest.open--;
        guest.completed++;
    }
    while (netif_sim_get_rx(&guest.rx, &w, &id)) {
        assert_int_equal(w.id, id);
        assert_int_equal(w.status, id + 1);
        guest.buffers++;
    }
    if (guest.tx.error) fail_msg("front end, transmit: %s", guest.tx.error);
    if (guest.rx.error) fail_msg("front end, receive: %s", guest.rx.error);
}

static void guest_adds(struct driver_sim *none, unsigned at_most)
{
    for (unsigned n = 0; n < at_most && netif_sim_free(&guest.tx) > 4; n++) {
        unsigned pieces = 1 + (unsigned)pick(3);
        bool extra = pick(3) == 0;
        guest.number++;
        for (unsigned i = 0; i < pieces; i++) {
            uint16_t id = (uint16_t)(guest.tx.req_prod % NETIF_ENTRIES);
            struct netif_wire_tx w = {.ref = guest.number, .id = id, .size = i ? 10 : 100};
            w.flags = (i + 1 < pieces ? NETIF_TX_MORE_DATA : 0) | (extra && !i ? NETIF_TX_EXTRA_INFO : 0);
            guest.number_of[id] = guest.number;
            netif_sim_add_tx(&guest.tx, &w);
            guest.open++;
            struct netif_wire_extra x = {.type = NETIF_EXTRA_GSO};
            x.gso.type = NETIF_GSO_TCP4, x.gso.size = 1;
            if (extra && !i) netif_sim_add_extra(&guest.tx, &x);
        }
    }
    for (unsigned n = 0; n < at_most && netif_sim_free(&guest.rx); n++)
        netif_sim_add_rx(&guest.rx, (uint16_t)(guest.rx.req_prod % NETIF_ENTRIES), guest.rx.req_prod);
    netif_sim_publish(&guest.tx);
    netif_sim_publish(&guest.rx);
}

/* One backend's life. */
struct backend {
    struct netif_tx *tx;
    struct netif_rx *rx;
    unsigned held[HELD_MAX], held_count; /* entries of frames, oldest first */
    unsigned buffers;
    uint32_t ref[HELD_MAX];
    uint32_t last;
};

/* In a child these are exit codes. */
enum fault { FAULT_ATTACH = 10, FAULT_BROKEN, FAULT_ORDER };

static void backend_fault(enum fault f)
{
    static const char *const words[] = {"cannot resume", "finds its ring broken", "leaves a frame out"};
    if (kill_in_child()) _exit(f);
    fail_msg("the backend %s", words[f - FAULT_ATTACH]);
}

static void attach(struct backend *v)
{
    *v = (struct backend){0};
    struct netif_setup tx = {rig.mem, kept(0), true}, rx = {rig.mem + RX_AT, kept(1), true};
    if (netif_tx_new(&v->tx, &tx, NULL) || netif_rx_new(&v->rx, &rx, NULL)) backend_fault(FAULT_ATTACH);
}

static bool pop_one(struct backend *v)
{
    struct netif_slot slots[NETIF_SLOTS_MAX];
    struct netif_tx_frame f;
    if (v->held_count == HELD_MAX) return false;
    int ret = netif_tx_pop(v->tx, &f, slots);
    if (ret == 0) return false;
    if (ret < 0 || f.invalid || f.length != 100 || f.slot_count > 3) backend_fault(FAULT_BROKEN);
    uint32_t number = slots[0].ref, seen = __atomic_load_n(wire(), __ATOMIC_RELAXED);
    if (number > seen + 1 || (v->last && number != v->last + 1)) backend_fault(FAULT_ORDER);
    v->last = number;
    if (number > seen) __atomic_store_n(wire(), number, __ATOMIC_RELAXED);
    v->held[v->held_count++] = f.entries;
    return true;
}

static void push_one(struct backend *v)
{
    if (v->held_count == 0) return;
    netif_tx_push(v->tx, v->held[0], NETIF_OKAY);
    memmove(v->held, v->held + 1, --v->held_count * sizeof v->held[0]);
}

static bool fill_one(struct backend *v)
{
    int there = netif_rx_available(v->rx);
    if (there < 0) backend_fault(FAULT_BROKEN);
    if (there == 0) return false;
    uint32_t ref = netif_rx_pop(v->rx);
    netif_rx_push(v->rx, 0, (int16_t)(ref % NETIF_ENTRIES + 1));
    return true;
}

static void live(struct backend *v, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        switch (pick(6)) {
        case 0:
        case 1: pop_one(v); break;
        case 2: push_one(v); break;
        case 3: fill_one(v); break;
        case 4: netif_tx_publish(v->tx); break;
        case 5: netif_rx_publish(v->rx); break;
        }
    }
}

/* Another backend takes over and everything comes to an end. */
static void finish(struct driver_sim *none)
{
    struct backend v;
    attach(&v);
    guest_gets(NULL); /* what the last one published */
    while (guest.open > 0) {
        bool moved = v.held_count > 0;
        while (pop_one(&v))
            moved = true;
        if (!moved) fail_msg("%llu pieces are lost", (unsigned long long)guest.open);
        for (unsigned n = (unsigned)pick(v.held_count) + 1; n > 0; n--)
            push_one(&v);
        netif_tx_publish(v.tx);
        while (fill_one(&v)) {
        }
        netif_rx_publish(v.rx);
        guest_gets(NULL);
    }
    netif_tx_free(v.tx);
    netif_rx_free(v.rx);
}

static void open_world(uint64_t seed)
{
    rig = (struct rig){0};
    rig.mem = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(rig.mem != MAP_FAILED);
    memset(&guest, 0, sizeof guest);
    netif_sim_init(&guest.tx, rig.mem, true);
    netif_sim_init(&guest.rx, rig.mem + RX_AT, false);
    random_state = seed;
    /* Indices that will wrap: a front end that has been going on for long. */
    for (unsigned i = 0; i < 2; i++) {
        struct netif_sim *s = i ? &guest.rx : &guest.tx;
        uint32_t *words = s->ring;
        words[0] = words[2] = s->req_prod = s->published = s->rsp_cons = 0xfffffff0u;
    }
}

static void close_world(void)
{
    munmap(rig.mem, MEMORY_BYTES);
}

/* ---- the backend of a child ---- */

static struct backend child;

static void child_attach(void)
{
    attach(&child);
}

static void child_live(unsigned steps)
{
    live(&child, steps);
}

static void child_rest(void)
{
    netif_tx_publish(child.tx);
    netif_rx_publish(child.rx);
    if (!child.held_count) sched_yield();
}

static struct kill_world world(void)
{
    return (struct kill_world){.rig = &rig,
                               .rings_bytes = 3 * PAGE, /* the rings, the wire */
                               .kept = kept(0),
                               .kept_bytes = 2 * sizeof(struct netif_kept),
                               .guest = &guest,
                               .guest_bytes = sizeof guest,
                               .random_state = &random_state,
                               .stops = 2,
                               .steps = 25,
                               .add_most = 12,
                               .race_ns = 2000000,
                               .guest_gets = guest_gets,
                               .guest_adds = guest_adds,
                               .attach = child_attach,
                               .live = child_live,
                               .rest = child_rest,
                               .finish = finish};
}

static void test_stepped(void **state)
{
#ifdef __SANITIZE_THREAD__ /* its instructions are many, and nothing here is about threads */
    skip();
#endif
    open_world(42);
    struct kill_world w = world();
    bool may_trace = kill_stepped(&w, LIVES);
    close_world();
    if (!may_trace) skip();
}

static void test_racing(void **state)
{
    open_world(7);
    struct kill_world w = world();
    kill_racing(&w, KILLS);
    print_message("%llu pieces, %llu buffers through %u backends\n", (unsigned long long)guest.completed,
                  (unsigned long long)guest.buffers, KILLS);
    assert_true(guest.completed > KILLS && guest.buffers > KILLS);
    assert_int_equal(guest.number, __atomic_load_n(wire(), __ATOMIC_RELAXED));
    close_world();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stepped),
        cmocka_unit_test(test_racing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
