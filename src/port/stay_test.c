/* SPDX-License-Identifier: Apache-2.0 */
/* When a thread stays, and that it is never kept from what the operator says. The times are made up. */
#include "port/stay.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#include "loop/clock.h"

#define BUSY 1000u /* packets in a millisecond */

static cpu_set_t all;

/* A kernel that is made up, of a thread whose cpuset changes: as since Linux 6.2, what was asked for holds when it does. */
static struct {
    bool used;
    cpu_set_t cpuset, asked;
    int cpu;
} kernel;

static void may_use(cpu_set_t *out)
{
    CPU_AND(out, &kernel.cpuset, &kernel.asked);
    if (CPU_COUNT(out) == 0) *out = kernel.cpuset; /* nothing is left of what was asked for */
}

/* The C library's, of the made-up kernel or the real one. */
int sched_setaffinity(pid_t pid, size_t bytes, const cpu_set_t *set)
{
    cpu_set_t both;
    if (!kernel.used) return (int)syscall(SYS_sched_setaffinity, pid, bytes, set);
    CPU_AND(&both, &kernel.cpuset, set);
    if (CPU_COUNT(&both) == 0) {
        errno = EINVAL;
        return -1;
    }
    kernel.asked = *set;
    while (!CPU_ISSET((unsigned)kernel.cpu, &both))
        kernel.cpu = (kernel.cpu + 1) % CPU_SETSIZE;
    return 0;
}

int sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set)
{
    memset(set, 0, bytes);
    if (!kernel.used) return syscall(SYS_sched_getaffinity, pid, bytes, set) < 0 ? -1 : 0;
    may_use(set);
    return 0;
}

int sched_getcpu(void)
{
    unsigned cpu;
    if (kernel.used) return kernel.cpu;
    return syscall(SYS_getcpu, &cpu, NULL, NULL) < 0 ? -1 : (int)cpu;
}

static cpu_set_t cpus(unsigned first, unsigned last)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (unsigned i = first; i <= last; i++)
        CPU_SET(i, &set);
    return set;
}

static void set_cpuset(unsigned first, unsigned last)
{
    cpu_set_t now;
    kernel.cpuset = cpus(first, last);
    may_use(&now);
    while (!CPU_ISSET((unsigned)kernel.cpu, &now))
        kernel.cpu = (kernel.cpu + 1) % CPU_SETSIZE;
}

static int allowed_now(void)
{
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    return CPU_COUNT(&set);
}

/* Wanted, busy for a millisecond, and bound since the time that is returned. */
static uint64_t bound(struct stay *s)
{
    if (CPU_COUNT(&all) < 2) skip();
    *s = (struct stay){0};
    stay_set(s, true);
    uint64_t now_ns = NS_PER_SECOND;
    stay_look(s, now_ns, 0);
    assert_int_equal(allowed_now(), CPU_COUNT(&all));
    assert_int_equal(s->until_ns, now_ns + NS_PER_MS);
    now_ns += NS_PER_MS;
    stay_look(s, now_ns, BUSY);
    assert_int_equal(allowed_now(), 1);
    assert_true(s->until_ns > now_ns + NS_PER_MS);
    return now_ns;
}

static int put_back(void **state)
{
    (void)state;
    kernel.used = false;
    return sched_setaffinity(0, sizeof all, &all);
}

static void a_busy_one_stays_and_looks_again(void **state)
{
    struct stay s;
    (void)state;
    bound(&s);
    for (uint64_t i = 1; i < 10; i++) {
        stay_look(&s, s.until_ns, i * 100 * BUSY); /* free for a while */
        assert_int_equal(allowed_now(), CPU_COUNT(&all));
        stay_look(&s, s.until_ns, i * 100 * BUSY + BUSY);
        assert_int_equal(allowed_now(), 1);
    }
    stay_set(&s, false);
    assert_int_equal(allowed_now(), CPU_COUNT(&all));
}

static void one_that_is_idle_is_let_go(void **state)
{
    struct stay s;
    (void)state;
    bound(&s);
    stay_look(&s, s.until_ns, 100 * BUSY);
    for (uint64_t i = 0; i < 10; i++) { /* a packet in each second */
        stay_look(&s, s.until_ns + NS_PER_SECOND, 100 * BUSY + i);
        assert_int_equal(allowed_now(), CPU_COUNT(&all));
    }
}

/* Told again, it does not go by what was before. */
static void nothing_is_kept_of_before(void **state)
{
    struct stay s;
    (void)state;
    uint64_t now_ns = bound(&s);
    stay_set(&s, false);
    stay_set(&s, true);
    stay_look(&s, now_ns + NS_PER_MS, 2 * BUSY);
    assert_int_equal(allowed_now(), CPU_COUNT(&all));
}

static void what_the_operator_sets_stands(void **state)
{
    struct stay s;
    cpu_set_t others, now;
    (void)state;
    bound(&s);
    others = all;
    CPU_CLR((unsigned)s.cpu, &others);
    assert_int_equal(sched_setaffinity(0, sizeof others, &others), 0);
    stay_look(&s, s.until_ns, 100 * BUSY);
    sched_getaffinity(0, sizeof now, &now);
    assert_true(CPU_EQUAL(&now, &others));
    stay_look(&s, s.until_ns, 101 * BUSY); /* and one of these is chosen from here on */
    stay_set(&s, false);
    sched_getaffinity(0, sizeof now, &now);
    assert_true(CPU_EQUAL(&now, &others));
}

/* On CPU 1 of 0 to 3, where nobody has asked for less, and bound. */
static void bound_in_cpuset(struct stay *s)
{
    kernel.used = true;
    kernel.cpu = 1;
    set_cpuset(0, 3);
    memset(&kernel.asked, 0xff, sizeof kernel.asked);
    *s = (struct stay){0};
    stay_set(s, true);
    stay_look(s, NS_PER_SECOND, 0);
    stay_look(s, s->until_ns, BUSY);
    assert_int_equal(allowed_now(), 1);
}

static void next_look(struct stay *s, uint64_t packets)
{
    stay_look(s, s->until_ns, packets);
}

static void a_cpuset_is_followed(void **state)
{
    struct stay s;
    (void)state;
    bound_in_cpuset(&s);
    set_cpuset(0, 7);
    next_look(&s, 100 * BUSY);
    assert_int_equal(allowed_now(), 8); /* it grew while the thread was bound */
    set_cpuset(0, 5);
    assert_int_equal(allowed_now(), 6); /* while it was free */
    set_cpuset(0, 7);
    assert_int_equal(allowed_now(), 8);
    next_look(&s, 101 * BUSY);
    assert_true(s.bound);
    set_cpuset(4, 7); /* without the one that it was on */
    next_look(&s, 200 * BUSY);
    assert_int_equal(allowed_now(), 4);
    set_cpuset(0, 7);
    assert_int_equal(allowed_now(), 8);
    next_look(&s, 201 * BUSY);
    assert_true(s.bound);
    stay_set(&s, false);
    assert_int_equal(allowed_now(), 8);
}

static void what_was_chosen_stands_in_any_cpuset(void **state)
{
    struct stay s;
    cpu_set_t chosen = cpus(2, 3);
    (void)state;
    bound_in_cpuset(&s);
    sched_setaffinity(0, sizeof chosen, &chosen);
    for (uint64_t i = 1; i < 5; i++) {
        next_look(&s, i * 100 * BUSY);
        assert_true(CPU_EQUAL(&kernel.asked, &chosen));
        next_look(&s, i * 100 * BUSY + BUSY);
        assert_true(s.bound && s.cpu >= 2 && s.cpu <= 3);
        set_cpuset(0, 3 + (unsigned)i);
    }
    next_look(&s, 500 * BUSY);
    memset(&kernel.asked, 0xff, sizeof kernel.asked); /* any, after all */
    next_look(&s, 501 * BUSY);
    set_cpuset(0, 9);
    next_look(&s, 600 * BUSY);
    assert_int_equal(allowed_now(), 10);
}

static void one_cpu_is_no_choice(void **state)
{
    struct stay s = {0};
    cpu_set_t one;
    (void)state;
    CPU_ZERO(&one);
    CPU_SET((unsigned)sched_getcpu(), &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    stay_set(&s, true);
    stay_look(&s, NS_PER_SECOND, 0);
    stay_look(&s, s.until_ns, BUSY);
    assert_false(s.bound);
    stay_set(&s, false);
    assert_int_equal(allowed_now(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_busy_one_stays_and_looks_again, put_back),
        cmocka_unit_test_teardown(one_that_is_idle_is_let_go, put_back),
        cmocka_unit_test_teardown(nothing_is_kept_of_before, put_back),
        cmocka_unit_test_teardown(what_the_operator_sets_stands, put_back),
        cmocka_unit_test_teardown(a_cpuset_is_followed, put_back),
        cmocka_unit_test_teardown(what_was_chosen_stands_in_any_cpuset, put_back),
        cmocka_unit_test_teardown(one_cpu_is_no_choice, put_back),
    };
    if (sched_getaffinity(0, sizeof all, &all) < 0) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
