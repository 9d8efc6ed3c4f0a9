/* SPDX-License-Identifier: Apache-2.0 */
/* One write per line, levels in the journal's form, bounded length, a limit per call site. */
#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int log_pipe[2];
static int real_stderr;

/* What was logged since the last call; standard error is a pipe meanwhile. */
static const char *logged(void)
{
    static char text[65536];
    fflush(stderr);
    ssize_t n = read(log_pipe[0], text, sizeof text - 1);
    text[n < 0 ? 0 : n] = 0;
    return text;
}

static int redirect(void **state)
{
    if (pipe(log_pipe)) return -1;
    real_stderr = dup(STDERR_FILENO);
    dup2(log_pipe[1], STDERR_FILENO);
    log_setup("tester", LOG_LEVEL_INFO);
    return 0;
}

static int restore(void **state)
{
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    close(log_pipe[0]);
    close(log_pipe[1]);
    return 0;
}

static void lines_carry_level_program_and_pid(void **state)
{
    char want[64];
    log_warn("disk %s is %d %% full", "a", 90);
    snprintf(want, sizeof want, "<4>tester[%d]: warning: disk a is 90 %% full\n", (int)getpid());
    assert_string_equal(logged(), want);
}

static void levels_above_the_chosen_are_dropped(void **state)
{
    log_debug("not this");
    log_info("this");
    const char *text = logged();
    assert_null(strstr(text, "not this"));
    assert_non_null(strstr(text, "this\n"));
}

static void long_lines_are_cut_and_ended(void **state)
{
    char big[4096];
    memset(big, 'y', sizeof big - 1);
    big[sizeof big - 1] = 0;
    log_error("%s", big);
    const char *text = logged();
    size_t len = strlen(text);
    assert_in_range(len, 1000, 1024);
    assert_int_equal(text[len - 1], '\n');
    assert_ptr_equal(strchr(text, '\n'), text + len - 1);
}

static void a_call_site_is_limited_and_counts(void **state)
{
    struct log_limit limit = {0};
    for (int i = 0; i < 1000; i++)
        log_write_limited(&limit, LOG_LEVEL_WARN, "guest does it again");
    const char *text = logged();
    assert_ptr_equal(strstr(text, "guest does it again"), strrchr(text, ':') + 2);
    assert_int_equal(limit.suppressed, 999);
    limit.last_ns = 1; /* as if long ago */
    log_write_limited(&limit, LOG_LEVEL_WARN, "guest does it again");
    assert_non_null(strstr(logged(), "(999 more like this)"));
    assert_int_equal(limit.suppressed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines_carry_level_program_and_pid, redirect, restore),
        cmocka_unit_test_setup_teardown(levels_above_the_chosen_are_dropped, redirect, restore),
        cmocka_unit_test_setup_teardown(long_lines_are_cut_and_ended, redirect, restore),
        cmocka_unit_test_setup_teardown(a_call_site_is_limited_and_counts, redirect, restore),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
