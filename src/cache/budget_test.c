/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/budget.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "cache/service.h"
#include "loop/clock.h"

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)

static const struct cache_memory idle_host = {.total_bytes = 32 * GIB,
                                              .available_bytes = 30 * GIB,
                                              .group_left_bytes = UINT64_MAX,
                                              .group_limit_bytes = UINT64_MAX};

static void test_all_but_the_reserve(void **state)
{
    (void)state;
    struct cache_budget b = {0};
    cache_budget_auto(&b, &idle_host, 0);
    assert_int_equal(b.bytes, 26 * GIB);
    /* What the cache took is not available any more, but it is its own: the budget does not move. */
    struct cache_memory m = idle_host;
    m.available_bytes = 10 * GIB;
    assert_false(cache_budget_tick(&b, &m, 20 * GIB, 1));
    assert_int_equal(b.bytes, 26 * GIB);
}

static void test_down_at_once_and_up_slowly(void **state)
{
    (void)state;
    struct cache_budget b = {0};
    cache_budget_auto(&b, &idle_host, 0);
    struct cache_memory m = idle_host;
    m.available_bytes = 1 * GIB; /* somebody else took 21 GiB */
    assert_true(cache_budget_tick(&b, &m, 8 * GIB, 1));
    assert_int_equal(b.bytes, 5 * GIB);
    m.available_bytes = 24 * GIB;
    assert_true(cache_budget_tick(&b, &m, 5 * GIB, 2));
    assert_int_equal(b.bytes, 5 * GIB + 5 * GIB / 8);
    for (unsigned i = 0; i < 40; i++)
        cache_budget_tick(&b, &m, 5 * GIB, 3 + i);
    assert_in_range(b.bytes, 24 * GIB, 25 * GIB);
}

static void test_pressure(void **state)
{
    (void)state;
    struct cache_budget b = {0};
    cache_budget_auto(&b, &idle_host, 0);
    assert_true(cache_budget_pressure(&b, 8 * GIB, NS_PER_SECOND));
    assert_int_equal(b.bytes, 7 * GIB);
    assert_true(cache_budget_pressure(&b, 7 * GIB, 2 * NS_PER_SECOND));
    assert_false(cache_budget_tick(&b, &idle_host, 6 * GIB, 3 * NS_PER_SECOND)); /* held */
    assert_true(cache_budget_tick(&b, &idle_host, 6 * GIB, 20 * NS_PER_SECOND));
    assert_int_equal(b.pressure_shrinks, 2);
    for (unsigned i = 0; i < 100; i++)
        cache_budget_pressure(&b, b.bytes, NS_PER_SECOND);
    assert_int_equal(b.bytes, CACHE_BUDGET_MIN_BYTES);
}

static void test_fixed_is_fixed(void **state)
{
    (void)state;
    struct cache_budget b = {0};
    cache_budget_fix(&b, 1);
    assert_int_equal(b.bytes, CACHE_BUDGET_MIN_BYTES);
    cache_budget_fix(&b, 3 * GIB);
    assert_false(cache_budget_pressure(&b, 2 * GIB, 1));
    assert_false(cache_budget_tick(&b, &idle_host, 0, 1));
    assert_int_equal(b.bytes, 3 * GIB);
}

static void test_control_group(void **state)
{
    (void)state;
    struct cache_budget b = {0};
    struct cache_memory m = idle_host;
    m.group_limit_bytes = 8 * GIB;
    m.group_left_bytes = 6 * GIB;
    cache_budget_auto(&b, &m, 1 * GIB);
    assert_int_equal(b.bytes, 6 * GIB);
    m.available_bytes = 0;
    cache_budget_auto(&b, &m, 0);
    assert_int_equal(b.bytes, CACHE_BUDGET_MIN_BYTES);
}

static void test_this_host(void **state)
{
    (void)state;
    struct cache_memory_source s;
    struct cache_memory m;
    assert_int_equal(cache_memory_open(&s), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(cache_memory_read(&s, &m), 0);
        assert_true(m.total_bytes >= 64 * MIB && m.available_bytes <= m.total_bytes);
    }
    cache_memory_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_but_the_reserve),
        cmocka_unit_test(test_down_at_once_and_up_slowly),
        cmocka_unit_test(test_pressure),
        cmocka_unit_test(test_fixed_is_fixed),
        cmocka_unit_test(test_control_group),
        cmocka_unit_test(test_this_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
