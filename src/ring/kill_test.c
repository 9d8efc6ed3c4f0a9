/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device that is killed, and the next one that goes on from the in-flight table.
 *
 * The "disk" is an array of numbers in shared memory. A request writes its own number, ever larger, to one
 * block; the guest has at most one request open per block. Then, whatever happens to devices:
 *
 *   - each request comes back exactly once (driver_sim.h notices a second time, the end of the test a loss);
 *   - when it comes back its number is on the disk;
 *   - no older number ever comes over it: a request that had come back is not done again;
 *   - a device pops in ascending order, what it takes over before what is new.
 *
 * Killed one instruction at a time, and racing: test_kill.h.
 */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "ring/test_kill.h"

#define SIZE 8u
#define BLOCKS 7u
#define STATUS_AT 32u
#define DISK_AT 2048u
#define SHARED_BYTES 4096u /* of the buffers that are used */

#ifdef CREEDENCE_SANITIZED
#define LIVES 2
#define KILLS 60
#else
#define LIVES 8
#define KILLS 250
#endif

/* The guest's own memory: what it has asked for and what it was told. */
struct guest {
    uint64_t number; /* of the last request */
    uint64_t wrote[BLOCKS];
    bool open[BLOCKS];
    uint64_t completed;
};

static struct rig rig;
static struct guest guest;
static uint64_t random_state;

static uint64_t pick(uint64_t below)
{
    return rig_random(&random_state) % below;
}

static uint64_t *disk(unsigned block)
{
    return (uint64_t *)(void *)(rig.buffers + DISK_AT) + block;
}

static char *header(unsigned block)
{
    return rig.buffers + block * 64;
}

static void check_disk(void)
{
    for (unsigned b = 0; b < BLOCKS; b++)
        if (!guest.open[b]) assert_int_equal(__atomic_load_n(disk(b), __ATOMIC_RELAXED), guest.wrote[b]);
}

static void guest_gets(struct driver_sim *d)
{
    uint64_t token;
    uint32_t written;
    while (driver_sim_get(d, &token, &written)) {
        unsigned block = (unsigned)(token % BLOCKS);
        assert_true(guest.open[block]);
        assert_int_equal(written, 1);
        assert_int_equal(__atomic_load_n(header(block) + STATUS_AT, __ATOMIC_RELAXED), 0);
        assert_int_equal(token / BLOCKS, guest.wrote[block]);
        guest.open[block] = false;
        guest.completed++;
    }
    if (driver_sim_error(d)) fail_msg("driver: %s", driver_sim_error(d));
    check_disk();
}

static void guest_adds(struct driver_sim *d, unsigned at_most)
{
    for (unsigned n = 0; n < at_most; n++) {
        unsigned block = (unsigned)pick(BLOCKS);
        if (guest.open[block]) continue;
        uint64_t number = guest.number + 1, at = rig.buffers_gpa + block * 64;
        __atomic_store_n((uint64_t *)(void *)header(block), number, __ATOMIC_RELAXED);
        __atomic_store_n(header(block) + STATUS_AT, (char)-1, __ATOMIC_RELAXED);
        struct driver_sim_buf buf[3] = {{{at}, 16, false}, {{at + STATUS_AT}, 1, true}};
        unsigned count = 2;
        if (pick(2)) { /* sometimes three */
            buf[2] = buf[1];
            buf[1] = (struct driver_sim_buf){{rig.buffers_gpa + SHARED_BYTES}, 512, false};
            count = 3;
        }
        if (!driver_sim_add(d, buf, count, pick(3) == 0, number * BLOCKS + block)) break;
        guest.number = guest.wrote[block] = number;
        guest.open[block] = true;
    }
    driver_sim_publish(d);
}

static unsigned guest_open_requests(void)
{
    unsigned n = 0;
    for (unsigned b = 0; b < BLOCKS; b++)
        n += guest.open[b];
    return n;
}

/* One device's life. */
struct device {
    struct virtq *q;
    uint16_t held[SIZE];
    unsigned held_count;
    uint64_t last; /* number popped */
};

/* In a child these are exit codes. */
enum fault { FAULT_ATTACH = 10, FAULT_BROKEN, FAULT_ORDER };

static void device_fault(enum fault f)
{
    static const char *const words[] = {"cannot resume", "finds its queue broken", "pops a request out of order"};
    if (kill_in_child()) _exit(f);
    fail_msg("the device %s", words[f - FAULT_ATTACH]);
}

static void attach(struct device *v)
{
    *v = (struct device){0};
    struct virtq_setup s = rig.setup;
    s.resume = true;
    if (virtq_new(&v->q, &s, rig.map, NULL)) device_fault(FAULT_ATTACH);
}

static bool pop_one(struct device *v)
{
    struct virtq_chain c;
    struct iovec iov[4];
    int ret = virtq_pop(v->q, &c, iov, 4);
    if (ret < 0) device_fault(FAULT_BROKEN);
    if (ret == 0) return false;
    const uint64_t *h = iov[0].iov_base;
    uint64_t number = __atomic_load_n(h, __ATOMIC_RELAXED);
    if (number <= v->last) device_fault(FAULT_ORDER);
    v->last = number;
    const char *buffers = guest_map_at(rig.map, (struct gpa){rig.buffers_gpa}, 1);
    __atomic_store_n(disk((unsigned)(((char *)iov[0].iov_base - buffers) / 64)), number, __ATOMIC_RELAXED);
    __atomic_store_n((char *)iov[c.out_count].iov_base, 0, __ATOMIC_RELAXED);
    v->held[v->held_count++] = c.id;
    return true;
}

static void push_one(struct device *v)
{
    if (v->held_count == 0) return;
    unsigned which = (unsigned)pick(v->held_count);
    virtq_push(v->q, v->held[which], 1);
    v->held[which] = v->held[--v->held_count];
}

static void live(struct device *v, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        switch (pick(5)) {
        case 0:
        case 1: pop_one(v); break;
        case 2:
        case 3: push_one(v); break;
        case 4: virtq_publish(v->q); break;
        }
    }
}

/* Another device takes over and everything comes to an end. */
static void finish(struct driver_sim *d)
{
    struct device v;
    attach(&v);
    guest_gets(d); /* what the last one published */
    while (guest_open_requests() > 0) {
        bool moved = false;
        while (pop_one(&v))
            moved = true;
        moved |= v.held_count > 0;
        if (!moved) fail_msg("%u requests were lost", guest_open_requests());
        for (unsigned n = (unsigned)pick(v.held_count) + 1; n > 0; n--)
            push_one(&v);
        virtq_publish(v.q);
        guest_gets(d);
    }
    assert_int_equal(virtq_in_flight(v.q), 0);
    assert_false(virtq_resuming(v.q));
    virtq_free(v.q);
}

static void open_world(bool packed, uint64_t seed)
{
    struct rig_options o = {.size = SIZE, .packed = packed, .event_idx = true, .tracked = true};
    o.base = packed ? 0x80008000 : 65530;
    rig_open(&rig, &o);
    guest = (struct guest){0};
    random_state = seed;
    virtq_free(rig.q); /* it has started the in-flight table */
    rig.q = NULL;
}

/* ---- the device of a child ---- */

static struct device child;

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
    if (virtq_has_work(child.q) || child.held_count) return;
    virtq_publish(child.q);
    sched_yield();
}

static struct kill_world world(void)
{
    return (struct kill_world){.rig = &rig,
                               .rings_bytes = (size_t)(rig.buffers - rig.mem) + SHARED_BYTES,
                               .kept = rig.setup.inflight,
                               .kept_bytes = virtq_inflight_bytes(SIZE, rig.setup.packed),
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

static void stepped(bool packed)
{
#ifdef __SANITIZE_THREAD__ /* its instructions are many, and nothing here is about threads */
    skip();
#endif
    open_world(packed, 42 + packed);
    struct kill_world w = world();
    bool may_trace = kill_stepped(&w, LIVES);
    rig_close(&rig);
    if (!may_trace) skip();
}

static void test_stepped_split(void **state)
{
    stepped(false);
}

static void test_stepped_packed(void **state)
{
    stepped(true);
}

static void racing(bool packed)
{
    open_world(packed, 7);
    struct kill_world w = world();
    kill_racing(&w, KILLS);
    print_message("%llu requests through %u devices\n", (unsigned long long)guest.completed, KILLS);
    assert_true(guest.completed > KILLS);
    assert_int_equal(guest.completed, guest.number);
    rig_close(&rig);
}

static void test_racing_split(void **state)
{
    racing(false);
}

static void test_racing_packed(void **state)
{
    racing(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stepped_split),
        cmocka_unit_test(test_stepped_packed),
        cmocka_unit_test(test_racing_split),
        cmocka_unit_test(test_racing_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
