/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cmd/switch_keep.h"

static int result(struct net_sync *s, unsigned bridge, unsigned slot)
{
    int ret;
    while ((ret = net_sync_result(s, bridge, slot)) == -EINPROGRESS)
        usleep(1000);
    return ret;
}

static void test_results(void **state)
{
    struct net_sync *s;
    int pipes[2];
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(net_sync_new(&s), 0);
    assert_int_equal(net_sync_result(s, 0, 0), 0);
    for (unsigned i = 0; i < SWITCH_BRIDGES_MAX; i++) {
        assert_int_equal(net_sync_begin(s, i, 0, fileno(file)), 0);
        assert_int_equal(net_sync_begin(s, i, 1, pipes[0]), 0); /* it cannot be synced */
    }
    for (unsigned i = 0; i < SWITCH_BRIDGES_MAX; i++) {
        assert_int_equal(result(s, i, 0), 0);
        assert_int_equal(result(s, i, 1), -EINVAL);
    }
    assert_int_equal(net_sync_begin(s, 0, 0, -1), -EBADF);
    assert_int_equal(net_sync_result(s, 0, 0), 0);
    net_sync_free(s);
    close(pipes[0]);
    close(pipes[1]);
    fclose(file);
    (void)state;
}

/* Whether it was begun or not: there is no result but that of the last. */
static void test_forgotten(void **state)
{
    struct net_sync *s;
    int pipes[2];
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(net_sync_new(&s), 0);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(net_sync_begin(s, 7, 1, pipes[0]), 0);
        if (i % 3 == 1) usleep(i);
        if (i % 2) net_sync_forget(s, 7, 1);
        else assert_int_equal(net_sync_begin(s, 7, 1, fileno(file)), 0);
        assert_int_equal(result(s, 7, 1), 0);
    }
    assert_int_equal(net_sync_begin(s, 7, 1, fileno(file)), 0);
    net_sync_free(s);
    close(pipes[0]);
    close(pipes[1]);
    fclose(file);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_results), cmocka_unit_test(test_forgotten)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
