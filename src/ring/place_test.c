/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queues that complete in order and survive by their place alone (virtq_setup.place).
 *
 * The guest makes chains of all shapes available, numbered. A device gives them back in order, alone or several as one
 * frame, whose first buffer says how many they are. Then, whatever happens to devices: every chain comes back exactly once,
 * in order; a frame comes whole; all of its chains but the last are filled.
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
#define ROOM_MAX 96u
#define SHARED_BYTES 4096u /* of the buffers that are used */
#define NAMES 32u          /* buffers in turn */

#ifdef CREEDENCE_SANITIZED
#define LIVES 2
#define KILLS 60
#else
#define LIVES 5
#define KILLS 250
#endif

struct guest {
    uint64_t added, came;
    unsigned frame_left;        /* chains of the frame that is coming */
    uint32_t room_bytes[NAMES]; /* of the chain of this name */
};

static struct rig rig;
static struct guest guest;
static uint64_t random_state;

static uint64_t pick(uint64_t below)
{
    return rig_random(&random_state) % below;
}

static uint8_t *buffer(uint64_t number)
{
    return (uint8_t *)rig.buffers + number % NAMES * (SHARED_BYTES / NAMES);
}

static void guest_gets_one(uint64_t number, uint32_t written)
{
    uint32_t room = guest.room_bytes[number % NAMES];
    assert_int_equal(number, guest.came);
    guest.came++;
    if (room == 0) {
        assert_int_equal(written, 0);
        assert_int_equal(guest.frame_left, 0);
        return;
    }
    if (guest.frame_left == 0) guest.frame_left = __atomic_load_n(buffer(number), __ATOMIC_RELAXED);
    assert_true(guest.frame_left > 0 && written > 0);
    if (--guest.frame_left > 0) assert_int_equal(written, room);
}

static void guest_gets(struct driver_sim *d)
{
    uint64_t token;
    uint32_t written;
    while (driver_sim_get(d, &token, &written))
        guest_gets_one(token, written);
    if (driver_sim_error(d)) fail_msg("driver: %s", driver_sim_error(d));
    if (guest.frame_left) fail_msg("a frame did not come whole");
}

static void guest_adds(struct driver_sim *d, unsigned at_most)
{
    for (unsigned n = 0; n < at_most && guest.added - guest.came < NAMES; n++) {
        uint64_t number = guest.added, at = rig.buffers_gpa + (uint64_t)((char *)buffer(number) - rig.buffers);
        unsigned count = 1 + (unsigned)pick(3);
        bool writable = pick(4);
        struct driver_sim_buf buf[3];
        uint32_t room = 0;
        for (unsigned i = 0; i < count; i++) {
            buf[i] = (struct driver_sim_buf){{at + room}, 1 + (uint32_t)pick(ROOM_MAX / 3), writable};
            room += buf[i].length;
        }
        /* Before it is added: in a packed ring a device that races may have it at once. */
        if (writable) __atomic_store_n(buffer(number), 0, __ATOMIC_RELAXED);
        if (!driver_sim_add(d, buf, count, pick(3) == 0, number)) break;
        guest.room_bytes[number % NAMES] = writable ? room : 0;
        guest.added++;
    }
    driver_sim_publish(d);
}

/* One device's life. */
struct device {
    struct virtq *q;
    struct virtq_chain held[SIZE];
    uint8_t *first[SIZE]; /* where its buffer begins, here */
    unsigned held_count;
};

/* In a child these are exit codes. */
enum fault { FAULT_ATTACH = 10, FAULT_BROKEN };

static void device_fault(enum fault f)
{
    if (kill_in_child()) _exit(f);
    fail_msg("the device %s", f == FAULT_ATTACH ? "cannot resume" : "finds its queue broken");
}

static void attach(struct device *v)
{
    *v = (struct device){0};
    struct virtq_setup s = rig.setup;
    s.resume = true;
    s.base = __atomic_load_n(s.place, __ATOMIC_RELAXED);
    if (virtq_new(&v->q, &s, rig.map, NULL)) device_fault(FAULT_ATTACH);
}

static bool pop_some(struct device *v)
{
    struct iovec iov[4 * SIZE], *at = iov;
    unsigned most = SIZE - v->held_count;
    int ret = virtq_pop_many(v->q, &v->held[v->held_count], pick(2) && most ? 1 : most, iov, 4 * SIZE);
    if (ret < 0) device_fault(FAULT_BROKEN);
    for (int i = 0; i < ret; i++) {
        const struct virtq_chain *c = &v->held[v->held_count];
        v->first[v->held_count++] = at->iov_base;
        at += c->out_count + c->in_count;
    }
    return ret > 0;
}

static void put_back(struct device *v)
{
    if (v->held_count) virtq_unpop(v->q, &v->held[--v->held_count]);
}

/* The oldest that are held: one without room, or a frame. */
static void push_some(struct device *v)
{
    uint32_t written[SIZE];
    unsigned n = 0, most = 1 + (unsigned)pick(4);
    while (n < most && n < v->held_count && v->held[n].in_bytes) {
        written[n] = (uint32_t)v->held[n].in_bytes;
        n++;
    }
    if (n) {
        __atomic_store_n(v->first[0], (uint8_t)n, __ATOMIC_RELAXED);
        written[n - 1] = 1 + (uint32_t)pick(written[n - 1]);
        virtq_push_frame(v->q, v->held, written, n);
    } else {
        while (n < most && n < v->held_count && v->held[n].in_bytes == 0)
            n++;
        if (n == 1) virtq_push(v->q, v->held[0].id, 0);
        else virtq_push_many(v->q, v->held, NULL, n);
    }
    v->held_count -= n;
    memmove(v->held, v->held + n, v->held_count * sizeof v->held[0]);
    memmove(v->first, v->first + n, v->held_count * sizeof v->first[0]);
}

static void live(struct device *v, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        switch (pick(6)) {
        case 0:
        case 1:
        case 2: pop_some(v); break;
        case 3: push_some(v); break;
        case 4: virtq_publish(v->q); break;
        case 5:
            if (pick(3) == 0) put_back(v);
            break;
        }
    }
}

/* Another device takes over and everything comes to an end. */
static void finish(struct driver_sim *d)
{
    struct device v;
    attach(&v);
    guest_gets(d); /* what the last one published */
    while (guest.came < guest.added) {
        bool moved = false;
        while (v.held_count < SIZE && pop_some(&v))
            moved = true;
        moved |= v.held_count > 0;
        if (!moved) fail_msg("%u chains were lost", (unsigned)(guest.added - guest.came));
        for (unsigned n = (unsigned)pick(v.held_count) + 1; n > 0; n--)
            push_some(&v);
        if (pick(2)) put_back(&v);
        virtq_publish(v.q);
        guest_gets(d);
    }
    while (v.held_count > 0)
        put_back(&v);
    assert_int_equal(virtq_in_flight(v.q), 0);
    virtq_free(v.q);
}

static void open_world(bool packed, bool in_order, uint64_t seed)
{
    struct rig_options o = {.size = SIZE, .packed = packed, .event_idx = true, .in_order = in_order, .placed = true};
    o.base = packed ? 0x80008000 : 65530;
    rig_open(&rig, &o);
    guest = (struct guest){0};
    random_state = seed;
    virtq_free(rig.q); /* it has stored its place */
    rig.q = NULL;
    assert_int_equal(*rig.setup.place, o.base);
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
                               .kept = rig.setup.place,
                               .kept_bytes = sizeof *rig.setup.place,
                               .guest = &guest,
                               .guest_bytes = sizeof guest,
                               .random_state = &random_state,
                               .stops = 1,
                               .steps = 30,
                               .add_most = SIZE,
                               .race_ns = 1500000,
                               .guest_gets = guest_gets,
                               .guest_adds = guest_adds,
                               .attach = child_attach,
                               .live = child_live,
                               .rest = child_rest,
                               .finish = finish};
}

static void stepped(bool packed, bool in_order)
{
#ifdef __SANITIZE_THREAD__ /* its instructions are many, and nothing here is about threads */
    skip();
#endif
    open_world(packed, in_order, 42 + packed);
    struct kill_world w = world();
    bool may_trace = kill_stepped(&w, LIVES);
    rig_close(&rig);
    if (!may_trace) skip();
}

static void test_stepped_split(void **state)
{
    stepped(false, false);
}

static void test_stepped_packed(void **state)
{
    stepped(true, false);
}

static void test_stepped_in_order(void **state)
{
    stepped(false, true);
    stepped(true, true);
}

static void racing(bool packed, bool in_order)
{
    open_world(packed, in_order, 7);
    struct kill_world w = world();
    kill_racing(&w, KILLS);
    print_message("%llu chains through %u devices\n", (unsigned long long)guest.came, KILLS);
    assert_true(guest.came > KILLS);
    rig_close(&rig);
}

static void test_racing_split(void **state)
{
    racing(false, false);
}

static void test_racing_packed(void **state)
{
    racing(true, false);
    racing(true, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stepped_split),    cmocka_unit_test(test_stepped_packed),
        cmocka_unit_test(test_stepped_in_order), cmocka_unit_test(test_racing_split),
        cmocka_unit_test(test_racing_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
