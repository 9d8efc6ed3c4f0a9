/* SPDX-License-Identifier: Apache-2.0 */
/* Range and overflow arithmetic at its edges. */
#include "base/checked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void range_fits_at_the_edges(void **state)
{
    assert_true(range_fits(0, 0, 0));
    assert_true(range_fits(10, 0, 10));
    assert_true(range_fits(0, 10, 10));
    assert_true(range_fits(9, 1, 10));
    assert_false(range_fits(9, 2, 10));
    assert_false(range_fits(11, 0, 10));
    assert_true(range_fits(UINT64_MAX, 0, UINT64_MAX));
}

static void range_fits_does_not_wrap(void **state)
{
    assert_false(range_fits(UINT64_MAX, 2, 10));
    assert_false(range_fits(2, UINT64_MAX, 10));
    assert_false(range_fits(UINT64_MAX - 1, 3, UINT64_MAX));
    assert_true(range_fits(UINT64_MAX - 1, 1, UINT64_MAX));
}

static void overlap_is_symmetric_and_needs_a_shared_byte(void **state)
{
    static const struct {
        uint64_t a, a_len, b, b_len;
        bool overlaps;
    } cases[] = {
        {0, 10, 10, 10, false},
        {0, 11, 10, 10, true},
        {5, 1, 0, 10, true},
        {5, 0, 0, 10, false},
        {0, 10, 5, 0, false},
        {7, 7, 7, 7, true},
        {UINT64_MAX - 1, 1, UINT64_MAX - 2, 1, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(range_overlaps(cases[i].a, cases[i].a_len, cases[i].b, cases[i].b_len), cases[i].overlaps);
        assert_int_equal(range_overlaps(cases[i].b, cases[i].b_len, cases[i].a, cases[i].a_len), cases[i].overlaps);
    }
}

/* Every pair of small ranges, against marking bytes. */
static void overlap_agrees_with_bytes(void **state)
{
    for (unsigned a = 0; a < 6; a++)
        for (unsigned a_len = 0; a_len < 6; a_len++)
            for (unsigned b = 0; b < 6; b++)
                for (unsigned b_len = 0; b_len < 6; b_len++) {
                    unsigned a_bytes = ((1u << a_len) - 1) << a, b_bytes = ((1u << b_len) - 1) << b;
                    assert_int_equal(range_overlaps(a, a_len, b, b_len), (a_bytes & b_bytes) != 0);
                }
}

static void sums_and_products_that_do_not_fit(void **state)
{
    uint64_t out = 0;
    assert_true(add_fits(UINT64_MAX - 1, 1, &out));
    assert_int_equal(out, UINT64_MAX);
    assert_false(add_fits(UINT64_MAX, 1, &out));
    assert_true(mul_fits(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &out));
    assert_int_equal(out, 0xffffffff00000000u);
    assert_false(mul_fits(UINT64_C(1) << 32, UINT64_C(1) << 32, &out));
}

static void powers_and_alignment(void **state)
{
    assert_false(is_power_of_2(0));
    assert_true(is_power_of_2(1));
    assert_false(is_power_of_2(3));
    assert_true(is_power_of_2(UINT64_C(1) << 63));
    assert_int_equal(align_down(4097, 4096), 4096);
    assert_int_equal(align_up(4097, 4096), 8192);
    assert_int_equal(align_up(4096, 4096), 4096);
    assert_int_equal(align_up(UINT64_MAX - 4095, 4096), UINT64_MAX - 4095);
    assert_int_equal(div_round_up(0, 7), 0);
    assert_int_equal(div_round_up(UINT64_MAX, 2), (UINT64_C(1) << 63));
    assert_int_equal(min_u64(1, 2), 1);
    assert_int_equal(max_u64(1, 2), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(range_fits_at_the_edges),
        cmocka_unit_test(range_fits_does_not_wrap),
        cmocka_unit_test(overlap_is_symmetric_and_needs_a_shared_byte),
        cmocka_unit_test(overlap_agrees_with_bytes),
        cmocka_unit_test(sums_and_products_that_do_not_fit),
        cmocka_unit_test(powers_and_alignment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
