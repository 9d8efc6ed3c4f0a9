/* SPDX-License-Identifier: Apache-2.0 */
/* Pulling from a buffer: what is short moves nothing; byte orders are what they say. */
#include "base/cursor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void short_pull_moves_nothing(void **state)
{
    static const uint8_t data[] = {1, 2, 3, 4, 5};
    struct cursor c = cursor_over(data, sizeof data);
    assert_ptr_equal(cursor_pull(&c, 2), data);
    assert_null(cursor_pull(&c, 4));
    assert_int_equal(c.left_bytes, 3);
    uint32_t v = 7;
    assert_false(cursor_be32(&c, &v));
    assert_int_equal(v, 7);
    assert_ptr_equal(cursor_pull(&c, 3), data + 2);
    assert_non_null(cursor_pull(&c, 0));
    assert_null(cursor_pull(&c, 1));
    assert_null(cursor_pull(&c, SIZE_MAX));
}

static void both_byte_orders(void **state)
{
    static const uint8_t data[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
    uint16_t v16 = 0;
    uint32_t v32 = 0;
    uint64_t v64 = 0;
    struct cursor c = cursor_over(data, sizeof data);
    assert_true(cursor_be16(&c, &v16) && cursor_be32(&c, &v32) && cursor_be64(&c, &v64));
    assert_int_equal(v16, 0x0102);
    assert_int_equal(v32, 0x03040506);
    assert_int_equal(v64, 0x0708090a0b0c0d0e);
    c = cursor_over(data, sizeof data);
    assert_true(cursor_le16(&c, &v16) && cursor_le32(&c, &v32) && cursor_le64(&c, &v64));
    assert_int_equal(v16, 0x0201);
    assert_int_equal(v32, 0x06050403);
    assert_int_equal(v64, 0x0e0d0c0b0a090807);
}

static void made_and_read_back(void **state)
{
    assert_int_equal(be64_get(be64_make(0x0123456789abcdef)), 0x0123456789abcdef);
    assert_int_equal(le64_get(le64_make(0x0123456789abcdef)), 0x0123456789abcdef);
    assert_int_equal(be16_make(0x1234).raw[0], 0x12);
    assert_int_equal(le32_make(0x12345678).raw[0], 0x78);
    assert_int_equal(_Alignof(struct be64), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_pull_moves_nothing),
        cmocka_unit_test(both_byte_orders),
        cmocka_unit_test(made_and_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
