/* SPDX-License-Identifier: Apache-2.0 */
/* Scattered buffers, every offset and length of a small one, against a flat copy. */
#include "base/iov.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/checked.h"

#define TOTAL 12

/* 12 bytes in four pieces, one of them empty. */
struct scattered {
    char a[3], b[1], c[8];
    struct iovec iov[4];
};

static void scatter(struct scattered *s)
{
    memset(s, '.', sizeof *s);
    s->iov[0] = (struct iovec){s->a, sizeof s->a};
    s->iov[1] = (struct iovec){s->b, 0};
    s->iov[2] = (struct iovec){s->b, sizeof s->b};
    s->iov[3] = (struct iovec){s->c, sizeof s->c};
}

static void gather(const struct scattered *s, char flat[TOTAL])
{
    memcpy(flat, s->a, 3);
    memcpy(flat + 3, s->b, 1);
    memcpy(flat + 4, s->c, 8);
}

static void copies_agree_with_a_flat_buffer(void **state)
{
    for (size_t offset = 0; offset <= TOTAL + 2; offset++) {
        for (size_t length = 0; length <= TOTAL + 2; length++) {
            size_t left = offset < TOTAL ? TOTAL - offset : 0;
            size_t moved = length < left ? length : left;
            struct scattered s;
            scatter(&s);
            assert_int_equal(iov_copy_to(s.iov, 4, offset, "abcdefghijklmn", length), moved);
            char flat[TOTAL], want[TOTAL];
            gather(&s, flat);
            memset(want, '.', sizeof want);
            memcpy(want + (moved ? offset : 0), "abcdefghijklmn", moved);
            assert_memory_equal(flat, want, TOTAL);

            char back[TOTAL + 2];
            memset(back, '#', sizeof back);
            assert_int_equal(iov_copy_from(back, s.iov, 4, offset, length), moved);
            assert_memory_equal(back, "abcdefghijklmn", moved);
            assert_true(moved == sizeof back || back[moved] == '#');

            assert_int_equal(iov_zero(s.iov, 4, offset, length), moved);
            gather(&s, flat);
            for (size_t i = 0; i < TOTAL; i++)
                assert_int_equal(flat[i], i >= offset && i - offset < moved ? 0 : '.');
        }
    }
}

static void slices_cover_exactly_the_range(void **state)
{
    static const char letters[] = "abcdefghijkl";
    struct scattered s;
    scatter(&s);
    assert_int_equal(iov_bytes(s.iov, 4), TOTAL);
    iov_copy_to(s.iov, 4, 0, letters, TOTAL);
    for (size_t offset = 0; offset <= TOTAL; offset++) {
        for (size_t length = 0; length <= TOTAL; length++) {
            struct iovec part[4];
            int n = iov_slice(part, 4, s.iov, 4, offset, length);
            if (length > TOTAL - offset) {
                assert_int_equal(n, -1);
                continue;
            }
            assert_true(n >= 0);
            assert_int_equal(iov_bytes(part, (unsigned)n), length);
            char back[TOTAL];
            iov_copy_from(back, part, (unsigned)n, 0, length);
            assert_memory_equal(back, letters + offset, length);
        }
    }
}

static void slice_that_needs_more_entries_than_there_are(void **state)
{
    struct scattered s;
    scatter(&s);
    struct iovec part[2];
    assert_int_equal(iov_slice(part, 2, s.iov, 4, 0, TOTAL), -1);
    assert_int_equal(iov_slice(part, 2, s.iov, 4, 3, TOTAL - 3), 2);
    assert_int_equal(iov_slice(part, 0, s.iov, 4, 5, 0), 0);
}

static void alignment_looks_at_bases_and_lengths(void **state)
{
    _Alignas(64) static char room[256];
    struct iovec iov[2] = {{room, 64}, {room + 128, 64}};
    assert_true(iov_aligned(iov, 2, 64));
    iov[1].iov_len = 32;
    assert_false(iov_aligned(iov, 2, 64));
    iov[1] = (struct iovec){room + 32, 64};
    assert_false(iov_aligned(iov, 2, 64));
    assert_true(iov_aligned(iov, 2, 32));
    assert_true(iov_aligned(NULL, 0, 4096));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_agree_with_a_flat_buffer),
        cmocka_unit_test(slices_cover_exactly_the_range),
        cmocka_unit_test(slice_that_needs_more_entries_than_there_are),
        cmocka_unit_test(alignment_looks_at_bases_and_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
