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
 * stepped: the device is a child run one machine instruction at a time, and wherever it has changed the shared memory
 * the test supposes that it is killed there: a driver (a copy, either as it stands or after it has taken all that it
 * could see and added more) and a new device must go on to an end without fault. Some of these kills are carried
 * out, so that a recovery is interrupted too.
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
static unsigned long steps_taken;
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
static bool in_child;

static void device_fault(enum fault f)
{
    static const char *const words[] = {"cannot resume", "finds its queue broken", "pops a request out of order"};
    if (in_child) _exit(f);
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

/* --- stepped --- */

struct snapshot {
    char *rings, *inflight;
    size_t rings_bytes, inflight_bytes;
    struct guest guest;
};

static void snapshot_take(struct snapshot *s)
{
    memcpy(s->rings, rig.mem, s->rings_bytes);
    memcpy(s->inflight, rig.setup.inflight, s->inflight_bytes);
    s->guest = guest;
}

static void snapshot_restore(const struct snapshot *s)
{
    memcpy(rig.mem, s->rings, s->rings_bytes);
    memcpy(rig.setup.inflight, s->inflight, s->inflight_bytes);
    guest = s->guest;
}

static bool snapshot_differs(const struct snapshot *s)
{
    return memcmp(s->rings, rig.mem, s->rings_bytes) != 0 ||
           memcmp(s->inflight, rig.setup.inflight, s->inflight_bytes) != 0;
}

/* Suppose that the device died here. Leaves everything as it was. */
static void suppose_killed(struct snapshot *s, bool driver_first)
{
    struct driver_sim *d;
    snapshot_take(s);
    assert_int_equal(driver_sim_clone(&d, rig.driver), 0);
    if (driver_first) {
        guest_gets(d);
        guest_adds(d, BLOCKS);
    }
    finish(d);
    driver_sim_free(d);
    snapshot_restore(s);
}

/* The child stops once before it attaches and once after; the caller steps through from where it likes. */
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
        raise(SIGSTOP);
        live(&v, 25);
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
    if (pick(4)) { /* taking over is long: step through that only now and then */
        assert_int_equal(ptrace(PTRACE_CONT, pid, NULL, NULL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
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
        steps_taken++;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status)) fail_msg("device: fault %d", WEXITSTATUS(status));
    return places;
}

static void stepped(bool packed)
{
#ifdef __SANITIZE_THREAD__ /* its instructions are many, and nothing here is about threads */
    skip();
#endif
    bool may_trace = true;
    steps_taken = 0;
    open_world(packed, 42 + packed);
    struct snapshot s = {.inflight_bytes = virtq_inflight_bytes(SIZE, packed)};
    s.rings_bytes = (size_t)(rig.buffers - rig.mem) + SHARED_BYTES;
    s.rings = malloc(s.rings_bytes);
    s.inflight = malloc(s.inflight_bytes);
    unsigned places = 0;
    const char *more = getenv("KILL_TEST_LIVES"); /* for a longer look */
    unsigned lives = more ? (unsigned)strtoul(more, NULL, 10) : LIVES;
    for (unsigned life = 0; life < lives && may_trace; life++) {
        guest_gets(rig.driver);
        guest_adds(rig.driver, BLOCKS);
        places += step_through(&s, &may_trace);
    }
    finish(rig.driver);
    rig_close(&rig);
    free(s.rings);
    free(s.inflight);
    if (!may_trace) skip();
    print_message("%u places and %lu instructions in %u lives\n", places, steps_taken, lives);
    assert_true(places > lives);
}

static void test_stepped_split(void **state)
{
    stepped(false);
}

static void test_stepped_packed(void **state)
{
    stepped(true);
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

static void racing(bool packed)
{
    open_world(packed, 7);
    for (unsigned i = 0; i < KILLS; i++) {
        random_state += i;
        pid_t pid = start_racer();
        uint64_t until_ns = clock_now_ns() + 200000 + pick(2000000);
        while (clock_now_ns() < until_ns) {
            guest_gets(rig.driver);
            guest_adds(rig.driver, (unsigned)pick(BLOCKS) + 1);
            sched_yield();
        }
        int status;
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSIGNALED(status)) fail_msg("device %u: fault %d", i, WEXITSTATUS(status));
    }
    guest_gets(rig.driver);
    finish(rig.driver);
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
