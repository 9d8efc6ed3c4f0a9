/* SPDX-License-Identifier: Apache-2.0 */
/* When a thread stays, and that it is never kept from what the operator says. The times are made up. */
#include "port/stay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "loop/clock.h"

#define BUSY 1000u /* packets in a millisecond */

static cpu_set_t all;

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
        cmocka_unit_test_teardown(one_cpu_is_no_choice, put_back),
    };
    if (sched_getaffinity(0, sizeof all, &all) < 0) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
