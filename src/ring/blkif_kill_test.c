/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block backend that is killed, and the next one that goes on from the in-flight table: kill_test.c's disk, on a blkif ring.
 *
 * The "disk" is an array of numbers in shared memory. A request writes its own number (it stands where a grant reference would), ever
 * larger, to one block; the guest has at most one request open per block. Then, whatever happens to backends:
 *
 *   - each request is answered exactly once (blkif_sim.h notices a second time, the end of the test a loss);
 *   - when it is answered its number is on the disk;
 *   - no older number ever comes over it: a request that was answered is not done again;
 *   - a backend pops in ascending order, what it takes over before what is new.
 */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "ring/blkif_sim.h"
#include "ring/test_kill.h"

#define BLOCKS 31u /* fewer than the ring has entries */
#define PAGE 4096u
#define TABLE_AT 8192u
#define MEMORY_BYTES 32768u

#ifdef CREEDENCE_SANITIZED
#define LIVES 2
#define KILLS 60
#else
#define LIVES 8
#define KILLS 250
#endif

/* The guest's own memory: its front end, what it has asked for and what it was told. */
struct guest {
    struct blkif_sim sim;
    uint32_t number; /* of the last request */
    uint32_t wrote[BLOCKS];
    bool open[BLOCKS];
    uint64_t completed;
};

static struct rig rig;
static struct guest guest;
static struct blkif_setup setup;
static uint64_t random_state;

static uint64_t pick(uint64_t below)
{
    return rig_random(&random_state) % below;
}

static uint32_t *disk(unsigned block)
{
    return (uint32_t *)(void *)(rig.mem + PAGE) + block;
}

static void guest_gets(struct driver_sim *none)
{
    uint64_t token;
    int status;
    while (blkif_sim_get(&guest.sim, &token, &status)) {
        unsigned block = (unsigned)(token % BLOCKS);
        assert_true(guest.open[block]);
        assert_int_equal(status, BLKIF_OKAY);
        assert_int_equal(token / BLOCKS, guest.wrote[block]);
        guest.open[block] = false;
        guest.completed++;
    }
    if (guest.sim.error) fail_msg("front end: %s", guest.sim.error);
    for (unsigned b = 0; b < BLOCKS; b++)
        if (!guest.open[b]) assert_int_equal(__atomic_load_n(disk(b), __ATOMIC_RELAXED), guest.wrote[b]);
}

static void guest_adds(struct driver_sim *none, unsigned at_most)
{
    for (unsigned n = 0; n < at_most; n++) {
        unsigned block = (unsigned)pick(BLOCKS);
        if (guest.open[block]) continue;
        uint32_t number = guest.number + 1;
        struct blkif_segment segment = {number, 0, 7};
        struct blkif_request q = {.op = BLKIF_WRITE, .sector = block, .segment_count = 1, .segments = &segment};
        if (pick(3) == 0) q.indirect_pages = 1, q.indirect_ref[0] = number;
        if (!blkif_sim_add(&guest.sim, &q, (uint64_t)number * BLOCKS + block)) break;
        guest.number = guest.wrote[block] = number;
        guest.open[block] = true;
    }
    blkif_sim_publish(&guest.sim);
}

/* One backend's life. */
struct backend {
    struct blkif_ring *ring;
    uint16_t held[64];
    unsigned held_count;
    uint32_t last; /* number popped */
};

/* In a child these are exit codes. */
enum fault { FAULT_ATTACH = 10, FAULT_BROKEN, FAULT_ORDER };

static void backend_fault(enum fault f)
{
    static const char *const words[] = {"cannot resume", "finds its ring broken", "pops a request out of order"};
    if (kill_in_child()) _exit(f);
    fail_msg("the backend %s", words[f - FAULT_ATTACH]);
}

static void attach(struct backend *v)
{
    *v = (struct backend){0};
    if (blkif_new(&v->ring, &setup, NULL)) backend_fault(FAULT_ATTACH);
}

static bool pop_one(struct backend *v)
{
    struct blkif_segment segments[BLKIF_SEGMENTS_MAX];
    struct blkif_request q = {.segments = segments};
    int ret = blkif_pop(v->ring, &q);
    if (ret == 0) return false;
    if (ret < 0 || q.invalid || q.sector >= BLOCKS) backend_fault(FAULT_BROKEN);
    uint32_t number = q.indirect_pages ? q.indirect_ref[0] : q.segments[0].ref;
    if (number <= v->last) backend_fault(FAULT_ORDER);
    v->last = number;
    __atomic_store_n(disk((unsigned)q.sector), number, __ATOMIC_RELAXED);
    v->held[v->held_count++] = q.slot;
    return true;
}

static void push_one(struct backend *v)
{
    if (v->held_count == 0) return;
    unsigned which = (unsigned)pick(v->held_count);
    blkif_push(v->ring, v->held[which], BLKIF_OKAY);
    v->held[which] = v->held[--v->held_count];
}

static void live(struct backend *v, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        switch (pick(5)) {
        case 0:
        case 1: pop_one(v); break;
        case 2:
        case 3: push_one(v); break;
        case 4: blkif_publish(v->ring); break;
        }
    }
}

/* Another backend takes over and everything comes to an end. */
static void finish(struct driver_sim *none)
{
    struct backend v;
    attach(&v);
    guest_gets(NULL); /* what the last one published */
    while (guest.sim.in_flight > 0) {
        bool moved = v.held_count > 0;
        while (pop_one(&v))
            moved = true;
        if (!moved) fail_msg("%u requests are lost", guest.sim.in_flight);
        for (unsigned n = (unsigned)pick(v.held_count) + 1; n > 0; n--)
            push_one(&v);
        blkif_publish(v.ring);
        guest_gets(NULL);
    }
    assert_int_equal(blkif_in_flight(v.ring), 0);
    assert_false(blkif_resuming(v.ring));
    blkif_free(v.ring);
}

static void open_world(enum blkif_abi abi, uint64_t seed)
{
    rig = (struct rig){0};
    rig.mem = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(rig.mem != MAP_FAILED);
    memset(&guest, 0, sizeof guest);
    blkif_sim_init(&guest.sim, rig.mem, 1, abi);
    setup = (struct blkif_setup){rig.mem, 1, abi, BLKIF_SEGMENTS_MAX, rig.mem + TABLE_AT, true};
    random_state = seed;
    /* Indices that will wrap: a front end that has been going on for long. */
    uint32_t *words = (uint32_t *)(void *)rig.mem;
    words[0] = words[2] = guest.sim.req_prod = guest.sim.published = guest.sim.rsp_cons = 0xfffffff0u;
    /* And a back end that was there before: the table goes on with that. */
    struct blkif_ring *first;
    assert_int_equal(blkif_new(&first, &setup, NULL), 0);
    blkif_free(first);
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
    if (blkif_has_work(child.ring) || child.held_count) return;
    blkif_publish(child.ring);
    sched_yield();
}

static struct kill_world world(void)
{
    return (struct kill_world){.rig = &rig,
                               .rings_bytes = 2 * PAGE, /* the ring, the disk */
                               .kept = setup.inflight,
                               .kept_bytes = blkif_inflight_bytes(setup.abi, setup.pages),
                               .guest = &guest,
                               .guest_bytes = sizeof guest,
                               .random_state = &random_state,
                               .stops = 2,
                               .steps = 25,
                               .add_most = BLOCKS,
                               .race_ns = 2000000,
                               .guest_gets = guest_gets,
                               .guest_adds = guest_adds,
                               .attach = child_attach,
                               .live = child_live,
                               .rest = child_rest,
                               .finish = finish};
}

static void stepped(enum blkif_abi abi)
{
#ifdef __SANITIZE_THREAD__ /* its instructions are many, and nothing here is about threads */
    skip();
#endif
    open_world(abi, 42 + abi);
    struct kill_world w = world();
    bool may_trace = kill_stepped(&w, LIVES);
    close_world();
    if (!may_trace) skip();
}

static void test_stepped_x86_64(void **state)
{
    stepped(BLKIF_ABI_X86_64);
}

static void test_stepped_x86_32(void **state)
{
    stepped(BLKIF_ABI_X86_32);
}

static void test_racing(void **state)
{
    open_world(BLKIF_ABI_NATIVE, 7);
    struct kill_world w = world();
    kill_racing(&w, KILLS);
    print_message("%llu requests through %u backends\n", (unsigned long long)guest.completed, KILLS);
    assert_true(guest.completed > KILLS);
    assert_int_equal(guest.completed, guest.number);
    close_world();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stepped_x86_64),
        cmocka_unit_test(test_stepped_x86_32),
        cmocka_unit_test(test_racing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
