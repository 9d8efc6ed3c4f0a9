/* SPDX-License-Identifier: Apache-2.0 */
/* What the filter of system calls leaves of locks, and of where threads run. Each case in a process of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/checked.h"
#include "cmd/sandbox.h"

static int lock_call(int fd, int command, short type)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = 200, .l_len = 1};
    return fcntl(fd, command, &lock) < 0 ? -errno : lock.l_type;
}

/* The number of what went wrong, 0: nothing. */
static int filtered(int fd, enum sandbox_extra extra)
{
    static const struct sandbox_args args = {.required = true};
    static const int changing[] = {F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW};
    struct errmsg e;
    if (lock_call(fd, F_OFD_SETLK, F_RDLCK) < 0) return 1;
    if (sandbox_filter(&args, extra, &e) < 0) return 2;
    for (unsigned i = 0; i < ARRAY_LEN(changing); i++) {
        if (lock_call(fd, changing[i], F_RDLCK) != -ENOSYS) return 10 + (int)i;
        if (lock_call(fd, changing[i], F_UNLCK) != -ENOSYS) return 20 + (int)i;
    }
    if (fcntl(fd, F_SETLEASE, F_RDLCK) == 0) return 3;
    if (lock_call(fd, F_OFD_GETLK, F_WRLCK) != F_UNLCK) return 4; /* one's own do not count */
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0 || fcntl(copy, F_SETFL, fcntl(copy, F_GETFL) & ~O_NONBLOCK) < 0) return 5;
    return fcntl(copy, F_GETFD) == FD_CLOEXEC ? 0 : 6;
}

static int set_affinity(pid_t of)
{
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);
    return sched_setaffinity(of, sizeof all, &all) < 0 ? -errno : 0;
}

/* The switch's threads may say where they stay, each of itself; nobody else says so of any. */
static int filtered_affinity(int fd, enum sandbox_extra extra)
{
    static const struct sandbox_args args = {.required = true};
    struct errmsg e;
    (void)fd;
    if (sandbox_filter(&args, extra, &e) < 0) return 2;
    if (set_affinity(0) != (extra & SANDBOX_NETWORK ? 0 : -ENOSYS)) return 3;
    return set_affinity(getpid()) == -ENOSYS ? 0 : 4;
}

static void check_in_child(int (*check)(int fd, enum sandbox_extra extra), enum sandbox_extra extra)
{
    int status, fd = memfd_create("sandbox-test", MFD_CLOEXEC);
    assert_true(fd >= 0);
    pid_t child = fork();
    if (child == 0) _exit(check(fd, extra));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close(fd);
}

static void test_locks_are_only_looked_at(void **state)
{
    static const enum sandbox_extra extras[] = {SANDBOX_NONE, SANDBOX_REOPEN};
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(extras); i++)
        check_in_child(filtered, extras[i]);
}

static void test_a_thread_says_where_it_stays_in_the_switch_only(void **state)
{
    static const enum sandbox_extra extras[] = {SANDBOX_NONE, SANDBOX_REOPEN, SANDBOX_XEN,
                                                SANDBOX_NETWORK | SANDBOX_XEN};
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(extras); i++)
        check_in_child(filtered_affinity, extras[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_locks_are_only_looked_at),
                                       cmocka_unit_test(test_a_thread_says_where_it_stays_in_the_switch_only)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
