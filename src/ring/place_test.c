/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queues that complete in order and survive by their place alone (virtq_setup.place).
 *
 * The guest makes chains of all shapes available, numbered. A device gives them back in order, alone or several as one
 * frame, whose first buffer says how many they are. Then, whatever happens to devices: every chain comes back exactly once,
 * in order; a frame comes whole; all of its chains but the last are filled.
 *
 * stepped: the device is a child run one machine instruction at a time, and wherever it has changed the shared memory the test
 * supposes that it is killed there (compare kill_test.c): a driver and a new device must go on to an end without
 * fault. Some of these kills are carried out, so that a recovery is interrupted too.
 * racing: child and driver run at the same time, and SIGKILL comes when it comes.
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "ring/test_rig.h"

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
static bool in_child;

static void device_fault(enum fault f)
{
    if (in_child) _exit(f);
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

/* --- stepped --- */

struct snapshot {
    char *rings;
    size_t rings_bytes;
    uint32_t place;
    struct guest guest;
};

static void snapshot_take(struct snapshot *s)
{
    memcpy(s->rings, rig.mem, s->rings_bytes);
    s->place = *rig.setup.place;
    s->guest = guest;
}

static void snapshot_restore(const struct snapshot *s)
{
    memcpy(rig.mem, s->rings, s->rings_bytes);
    *rig.setup.place = s->place;
    guest = s->guest;
}

static bool snapshot_differs(const struct snapshot *s)
{
    return memcmp(s->rings, rig.mem, s->rings_bytes) != 0 || s->place != *rig.setup.place;
}

/* Suppose that the device died here. Leaves everything as it was. */
static void suppose_killed(struct snapshot *s, bool driver_first)
{
    struct driver_sim *d;
    snapshot_take(s);
    assert_int_equal(driver_sim_clone(&d, rig.driver), 0);
    if (driver_first) {
        guest_gets(d);
        guest_adds(d, SIZE);
    }
    finish(d);
    driver_sim_free(d);
    snapshot_restore(s);
}

/* The child stops once before it attaches; the caller steps through from there. */
static pid_t start_child(void)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        in_child = true;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL)) _exit(99);
        raise(SIGSTOP);
        struct device v;
        attach(&v);
        live(&v, 30);
        _exit(0);
    }
    return pid;
}

/* Step a child through one life, or up to a kill. Returns the number of places where a kill was supposed. */
static unsigned step_through(struct snapshot *s, bool *may_trace)
{
    unsigned places = 0;
    int status;
    pid_t pid = start_child();
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 99) {
        *may_trace = false;
        return 0;
    }
    uint64_t killed_at = pick(2) ? pick(60) : UINT64_MAX;
    snapshot_take(s);
    while (WIFSTOPPED(status)) {
        if (snapshot_differs(s)) {
            suppose_killed(s, false);
            suppose_killed(s, true);
            if (++places == killed_at) kill(pid, SIGKILL);
        }
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) && errno != ESRCH) fail_msg("ptrace: %s", strerror(errno));
        assert_int_equal(waitpid(pid, &status, 0), pid);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status)) fail_msg("device: fault %d", WEXITSTATUS(status));
    return places;
}

static void stepped(bool packed, bool in_order)
{
#ifdef __SANITIZE_THREAD__ /* its instructions are many, and nothing here is about threads */
    skip();
#endif
    bool may_trace = true;
    open_world(packed, in_order, 42 + packed);
    struct snapshot s = {.rings_bytes = (size_t)(rig.buffers - rig.mem) + SHARED_BYTES};
    s.rings = malloc(s.rings_bytes);
    unsigned places = 0;
    const char *more = getenv("KILL_TEST_LIVES"); /* for a longer look */
    unsigned lives = more ? (unsigned)strtoul(more, NULL, 10) : LIVES;
    for (unsigned life = 0; life < lives && may_trace; life++) {
        guest_gets(rig.driver);
        guest_adds(rig.driver, SIZE);
        places += step_through(&s, &may_trace);
    }
    finish(rig.driver);
    rig_close(&rig);
    free(s.rings);
    if (!may_trace) skip();
    print_message("%u places in %u lives\n", places, lives);
    assert_true(places > lives);
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

/* --- racing --- */

static pid_t start_racer(void)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        in_child = true;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct device v;
        attach(&v);
        for (;;) {
            live(&v, 20);
            if (!virtq_has_work(v.q) && v.held_count == 0) {
                virtq_publish(v.q);
                sched_yield();
            }
        }
    }
    return pid;
}

static void racing(bool packed, bool in_order)
{
    open_world(packed, in_order, 7);
    for (unsigned i = 0; i < KILLS; i++) {
        random_state += i;
        pid_t pid = start_racer();
        uint64_t until_ns = clock_now_ns() + 200000 + pick(1500000);
        while (clock_now_ns() < until_ns) {
            guest_gets(rig.driver);
            guest_adds(rig.driver, (unsigned)pick(SIZE) + 1);
            sched_yield();
        }
        int status;
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSIGNALED(status)) fail_msg("device %u: fault %d", i, WEXITSTATUS(status));
    }
    guest_gets(rig.driver);
    finish(rig.driver);
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
