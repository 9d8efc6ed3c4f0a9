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

struct bed {
    struct net_sync *sync;
    FILE *file;
    int pipes[2]; /* they cannot be synced */
};

static int setup(void **state)
{
    static struct bed b;
    b.file = tmpfile();
    *state = &b;
    return b.file && pipe(b.pipes) == 0 && net_sync_new(&b.sync) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
    struct bed *b = *state;
    net_sync_free(b->sync);
    close(b->pipes[0]);
    close(b->pipes[1]);
    fclose(b->file);
    return 0;
}

static void test_results(void **state)
{
    struct bed *b = *state;
    struct net_sync *s = b->sync;
    assert_int_equal(net_sync_result(s, 0, 0), 0);
    for (unsigned i = 0; i < SWITCH_BRIDGES_MAX; i++) {
        assert_int_equal(net_sync_begin(s, i, 0, fileno(b->file)), 0);
        assert_int_equal(net_sync_begin(s, i, 1, b->pipes[0]), 0); /* it cannot be synced */
    }
    for (unsigned i = 0; i < SWITCH_BRIDGES_MAX; i++) {
        assert_int_equal(result(s, i, 0), 0);
        assert_int_equal(result(s, i, 1), -EINVAL);
    }
    assert_int_equal(net_sync_begin(s, 0, 0, -1), -EBADF);
    assert_int_equal(net_sync_result(s, 0, 0), 0);
}

/* Whether it was begun or not: there is no result but that of the last. */
static void test_forgotten(void **state)
{
    struct bed *b = *state;
    struct net_sync *s = b->sync;
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(net_sync_begin(s, 7, 1, b->pipes[0]), 0);
        if (i % 3 == 1) usleep(i);
        if (i % 2) net_sync_forget(s, 7, 1);
        else assert_int_equal(net_sync_begin(s, 7, 1, fileno(b->file)), 0);
        assert_int_equal(result(s, 7, 1), 0);
    }
    assert_int_equal(net_sync_begin(s, 7, 1, fileno(b->file)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_results, setup, teardown),
                                       cmocka_unit_test_setup_teardown(test_forgotten, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
