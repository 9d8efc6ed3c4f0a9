/* SPDX-License-Identifier: Apache-2.0 */
/* A thread has its name, and no signal but faults reaches it. */
#include "loop/thread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <string.h>

struct seen {
    char name[16];
    sigset_t mask;
};

static void *look(void *arg)
{
    struct seen *seen = arg;
    pthread_sigmask(SIG_SETMASK, NULL, &seen->mask);
    return seen;
}

static void *look_at_name(void *arg)
{
    struct seen *seen = arg;
    /* thread_start() names the thread after it began. */
    do {
        pthread_getname_np(pthread_self(), seen->name, sizeof seen->name);
    } while (strncmp(seen->name, "a-long-", 7) != 0);
    return seen;
}

static void signals_are_blocked_but_faults_are_not(void **state)
{
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    struct seen seen;
    pthread_t thread;
    assert_int_equal(thread_start(&thread, "looker", look, &seen), 0);
    void *result;
    pthread_join(thread, &result);
    assert_ptr_equal(result, &seen);
    static const int blocked[] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGPIPE, SIGALRM, SIGUSR1};
    static const int open[] = {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGABRT, SIGTRAP};
    for (size_t i = 0; i < sizeof blocked / sizeof *blocked; i++)
        assert_int_equal(sigismember(&seen.mask, blocked[i]), 1);
    for (size_t i = 0; i < sizeof open / sizeof *open; i++)
        assert_int_equal(sigismember(&seen.mask, open[i]), 0);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int signal = 1; signal < SIGRTMIN; signal++)
        assert_int_equal(sigismember(&before, signal), sigismember(&after, signal));
}

static void long_names_are_cut(void **state)
{
    struct seen seen;
    pthread_t thread;
    assert_int_equal(thread_start(&thread, "a-long-name-for-a-thread", look_at_name, &seen), 0);
    pthread_join(thread, NULL);
    assert_string_equal(seen.name, "a-long-name-for");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signals_are_blocked_but_faults_are_not),
        cmocka_unit_test(long_names_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
