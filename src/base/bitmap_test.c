/* SPDX-License-Identifier: Apache-2.0 */
/* Finding set bits, against looking at each bit. */
#include "base/bitmap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void set_test_clear_touch_one_bit(void **state)
{
    uint64_t map[3] = {0};
    assert_int_equal(bitmap_words(0), 0);
    assert_int_equal(bitmap_words(64), 1);
    assert_int_equal(bitmap_words(65), 2);
    for (size_t bit = 0; bit < 192; bit++) {
        bitmap_set(map, bit);
        for (size_t other = 0; other < 192; other++)
            assert_int_equal(bitmap_test(map, other), other == bit);
        bitmap_clear(map, bit);
        assert_false(bitmap_test(map, bit));
    }
}

static size_t next_set_naive(const uint64_t *map, size_t bits, size_t from)
{
    while (from < bits && !bitmap_test(map, from))
        from++;
    return from < bits ? from : bits;
}

static void next_set_agrees_with_looking(void **state)
{
    uint64_t map[3];
    uint64_t random = 88172645463325252u; /* xorshift: any sequence does */
    for (int round = 0; round < 200; round++) {
        for (int w = 0; w < 3; w++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            map[w] = round % 3 ? random & (random >> 3) & (random << 5) : random;
        }
        for (size_t bits = 0; bits <= 192; bits += 17)
            for (size_t from = 0; from <= 192; from++)
                assert_int_equal(bitmap_next_set(map, bits, from),
                                 from < bits ? next_set_naive(map, bits, from) : bits);
    }
}

/* A bit past the end that happens to be set is not found. */
static void next_set_ignores_bits_past_the_end(void **state)
{
    uint64_t map[1] = {UINT64_C(1) << 40};
    assert_int_equal(bitmap_next_set(map, 40, 0), 40);
    assert_int_equal(bitmap_next_set(map, 41, 0), 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_test_clear_touch_one_bit),
        cmocka_unit_test(next_set_agrees_with_looking),
        cmocka_unit_test(next_set_ignores_bits_past_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
