/* SPDX-License-Identifier: Apache-2.0 */
#include "ring/test_kill.h"

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

#include "loop/clock.h"

#define EXIT_NO_TRACE 99
#define RACE_MAX_NS UINT64_C(2000000000) /* a racer that ended by itself is found then */

static bool in_child;

bool kill_in_child(void)
{
    return in_child;
}

static uint64_t pick(const struct kill_world *w, uint64_t below)
{
    return rig_random(w->random_state) % below;
}

/* 0: this is the child. */
static pid_t start_child(void)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) return pid;
    in_child = true;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return 0;
}

/* ---- stepped ---- */

struct snapshot {
    const struct kill_world *w;
    char *rings, *kept, *guest;
};

static void snapshot_open(struct snapshot *s, const struct kill_world *w)
{
    *s = (struct snapshot){w, malloc(w->rings_bytes), malloc(w->kept_bytes), malloc(w->guest_bytes)};
    assert_true(s->rings && s->kept && s->guest);
}

static void snapshot_close(struct snapshot *s)
{
    free(s->rings);
    free(s->kept);
    free(s->guest);
}

static void snapshot_take(struct snapshot *s)
{
    memcpy(s->rings, s->w->rig->mem, s->w->rings_bytes);
    memcpy(s->kept, s->w->kept, s->w->kept_bytes);
    memcpy(s->guest, s->w->guest, s->w->guest_bytes);
}

static void snapshot_restore(const struct snapshot *s)
{
    memcpy(s->w->rig->mem, s->rings, s->w->rings_bytes);
    memcpy(s->w->kept, s->kept, s->w->kept_bytes);
    memcpy(s->w->guest, s->guest, s->w->guest_bytes);
}

static bool snapshot_differs(const struct snapshot *s)
{
    return memcmp(s->rings, s->w->rig->mem, s->w->rings_bytes) != 0 ||
           memcmp(s->kept, s->w->kept, s->w->kept_bytes) != 0;
}

/* Suppose that the device died here. Leaves everything as it was. */
static void suppose_killed(struct snapshot *s, bool driver_first)
{
    const struct kill_world *w = s->w;
    struct driver_sim *d = NULL;
    snapshot_take(s);
    if (w->rig->driver) assert_int_equal(driver_sim_clone(&d, w->rig->driver), 0);
    if (driver_first) {
        w->guest_gets(d);
        w->guest_adds(d, w->add_most);
    }
    w->finish(d);
    driver_sim_free(d);
    snapshot_restore(s);
}

/* It stops before it attaches, and again after it if there are two stops. */
static pid_t start_stepped(const struct kill_world *w)
{
    pid_t pid = start_child();
    if (pid) return pid;
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL)) _exit(EXIT_NO_TRACE);
    raise(SIGSTOP);
    w->attach();
    if (w->stops > 1) raise(SIGSTOP);
    w->live(w->steps);
    _exit(0);
}

/* Step a child through one life, or up to a kill. The number of places where a kill was supposed, or -1: no tracing. */
static int step_through(struct snapshot *s)
{
    const struct kill_world *w = s->w;
    int status, places = 0;
    pid_t pid = start_stepped(w);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_NO_TRACE) return -1;
    if (w->stops > 1 && pick(w, 4)) { /* taking over is long: step through that only now and then */
        assert_int_equal(ptrace(PTRACE_CONT, pid, NULL, NULL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
    }
    int killed_at = pick(w, 2) ? (int)pick(w, 60) : -1;
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

bool kill_stepped(const struct kill_world *w, unsigned lives)
{
    const char *more = getenv("KILL_TEST_LIVES");
    if (more) lives = (unsigned)strtoul(more, NULL, 10);
    struct snapshot s;
    unsigned places = 0;
    int ret = 0;
    snapshot_open(&s, w);
    for (unsigned life = 0; life < lives && ret >= 0; life++) {
        w->guest_gets(w->rig->driver);
        w->guest_adds(w->rig->driver, w->add_most);
        ret = step_through(&s);
        if (ret > 0) places += (unsigned)ret;
    }
    w->finish(w->rig->driver);
    snapshot_close(&s);
    if (ret < 0) return false;
    print_message("%u places in %u lives\n", places, lives);
    assert_true(places > lives);
    return true;
}

/* ---- racing ---- */

static pid_t start_racer(const struct kill_world *w)
{
    pid_t pid = start_child();
    if (pid) return pid;
    w->attach();
    for (;;) {
        w->live(20);
        w->rest();
    }
}

/* What it has had of a processor: on a busy machine a device that was never on one would be killed again and again. */
static uint64_t cpu_ns(pid_t pid)
{
    clockid_t clock;
    struct timespec t;
    assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
    assert_int_equal(clock_gettime(clock, &t), 0);
    return (uint64_t)t.tv_sec * NS_PER_SECOND + (uint64_t)t.tv_nsec;
}

void kill_racing(const struct kill_world *w, unsigned kills)
{
    for (unsigned i = 0; i < kills; i++) {
        *w->random_state += i;
        pid_t pid = start_racer(w);
        uint64_t life_ns = 200000 + pick(w, w->race_ns), until_ns = clock_now_ns() + RACE_MAX_NS;
        while (cpu_ns(pid) < life_ns && clock_now_ns() < until_ns) {
            w->guest_gets(w->rig->driver);
            w->guest_adds(w->rig->driver, (unsigned)pick(w, w->add_most) + 1);
            sched_yield();
        }
        int status;
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSIGNALED(status)) fail_msg("device %u: fault %d", i, WEXITSTATUS(status));
    }
    w->guest_gets(w->rig->driver);
    w->finish(w->rig->driver);
}
