/* SPDX-License-Identifier: Apache-2.0 */
/* Messages are cut, never overrun, and keep their code. */
#include "base/errmsg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

static void set_returns_the_negative_code(void **state)
{
    struct errmsg e;
    assert_int_equal(errmsg_set(&e, EINVAL, "%s: bad header", "x.qcow2"), -EINVAL);
    assert_string_equal(e.text, "x.qcow2: bad header");
    assert_int_equal(errmsg_sys(&e, ENOENT, "open %s", "y"), -ENOENT);
    assert_string_equal(e.text, "open y: No such file or directory");
    assert_int_equal(errmsg_set(NULL, EIO, "nobody listens"), -EIO);
    assert_int_equal(errmsg_sys(NULL, EIO, "nobody listens"), -EIO);
    assert_int_equal(errmsg_prefix(NULL, -EIO, "nobody listens"), -EIO);
}

static void prefix_keeps_the_text_behind_it(void **state)
{
    struct errmsg e;
    errmsg_set(&e, EINVAL, "bad header");
    assert_int_equal(errmsg_prefix(&e, -EINVAL, "layer %d", 3), -EINVAL);
    assert_string_equal(e.text, "layer 3: bad header");
}

static void long_texts_are_cut_at_the_end(void **state)
{
    char big[2048];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    struct errmsg e;
    errmsg_set(&e, EIO, "%s", big);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
    errmsg_sys(&e, EIO, "%s", big);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
    errmsg_prefix(&e, -EIO, "abc");
    assert_int_equal(strncmp(e.text, "abc: xxx", 8), 0);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
    /* The old text, when nothing of the prefix could be followed by it. */
    errmsg_set(&e, EIO, "short");
    errmsg_prefix(&e, -EIO, "%s", big);
    assert_true(strlen(e.text) < sizeof e.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_returns_the_negative_code),
        cmocka_unit_test(prefix_keeps_the_text_behind_it),
        cmocka_unit_test(long_texts_are_cut_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
