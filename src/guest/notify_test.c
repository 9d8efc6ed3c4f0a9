/* SPDX-License-Identifier: Apache-2.0 */
/* Signals through descriptors that a hostile front end has made blocking, and filled or emptied. Whoever waits is killed. */
#include "guest/notify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define FULL (UINT64_MAX - 1)

static void kinds(void **state)
{
    int pipes[2], sockets[2], event = eventfd(0, 0), file = memfd_create("file", 0);
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    assert_int_equal(guest_fd_kind(event), 0);
    assert_int_equal(guest_fd_kind(file), S_IFREG);
    assert_int_equal(guest_fd_kind(pipes[1]), S_IFIFO);
    assert_int_equal(guest_fd_kind(sockets[0]), S_IFSOCK);
    int all[] = {event, file, pipes[0], pipes[1], sockets[0], sockets[1]};
    for (unsigned i = 0; i < 6; i++)
        close(all[i]);
    assert_int_equal(guest_fd_kind(event), -EBADF);
}

/* Each signal counts, more of them than may be under way at once. */
static void eventfds_count(void **state)
{
    uint64_t v = 0;
    int fd = eventfd(0, 0);
    for (unsigned i = 0; i < 1000; i++)
        guest_notify(fd, 0);
    assert_int_equal(guest_notify_take(fd, 0, &v, sizeof v), sizeof v);
    assert_int_equal(v, 1000);
    assert_true(guest_notify_take(fd, 0, &v, sizeof v) <= 0); /* empty, and blocking */
    close(fd);
}

static void a_full_eventfd(void **state)
{
    uint64_t v = FULL;
    int fd = eventfd(0, 0);
    assert_int_equal(write(fd, &v, sizeof v), sizeof v);
    for (unsigned i = 0; i < 3; i++)
        guest_notify(fd, 0);
    assert_int_equal(read(fd, &v, sizeof v), sizeof v);
    assert_true(v >= FULL);
    close(fd);
}

static void no_eventfd(void **state)
{
    int fd = memfd_create("file", 0);
    guest_notify(fd, 0);
    guest_notify(-1, 0);
    guest_notify(fd, -EBADF);
    assert_int_equal(lseek(fd, 0, SEEK_END), 0); /* nothing was written */
    close(fd);
}

static void full_and_empty(int to, int from, int kind)
{
    static char buf[1 << 20];
    uint64_t v;
    fcntl(to, F_SETFL, O_NONBLOCK);
    while (write(to, buf, sizeof buf) > 0)
        ;
    fcntl(to, F_SETFL, 0);
    guest_notify(to, kind);
    while (guest_notify_take(from, kind, buf, sizeof buf) > 0)
        ; /* empty, and blocking */
    guest_notify(to, kind);
    assert_int_equal(guest_notify_take(from, kind, &v, sizeof v), sizeof v);
    close(to);
    close(from);
}

static void pipes_and_sockets(void **state)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    full_and_empty(fds[1], fds[0], S_IFIFO);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    full_and_empty(fds[1], fds[0], S_IFSOCK);
}

static int shared;
static _Atomic bool stop;

static void *filler(void *arg)
{
    uint64_t v = FULL, w;
    while (!atomic_load(&stop)) {
        fcntl(shared, F_SETFL, O_NONBLOCK);
        if (write(shared, &v, sizeof v) < 0 && read(shared, &w, sizeof w) < 0) continue;
        fcntl(shared, F_SETFL, 0);
    }
    return NULL;
}

/* Filled, emptied and made blocking, while several signal it. */
static void *signaller(void *arg)
{
    uint64_t v;
    for (unsigned i = 0; i < 20000; i++) {
        guest_notify(shared, 0);
        if (i % 4 == 0) guest_notify_take(shared, 0, &v, sizeof v);
    }
    return NULL;
}

static void while_it_changes(void **state)
{
    pthread_t thread[3];
    shared = eventfd(0, 0);
    atomic_store(&stop, false);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, i ? signaller : filler, NULL), 0);
    pthread_join(thread[1], NULL);
    pthread_join(thread[2], NULL);
    atomic_store(&stop, true);
    fcntl(shared, F_SETFL, O_NONBLOCK);
    uint64_t v; /* the filler may be waiting itself */
    while (read(shared, &v, sizeof v) > 0)
        ;
    pthread_join(thread[0], NULL);
    close(shared);
}

static _Atomic bool slow;
static _Atomic unsigned closing, closed;

int __real_close(int fd);
int __wrap_close(int fd);

/* As FUSE does it: closing a file asks whoever serves it. */
int __wrap_close(int fd)
{
    struct stat st;
    if (!atomic_load(&slow) || fstat(fd, &st) < 0 || !S_ISDIR(st.st_mode)) return __real_close(fd);
    atomic_fetch_add(&closing, 1);
    while (atomic_load(&slow))
        usleep(1000);
    atomic_fetch_add(&closed, 1);
    return __real_close(fd);
}

static void files_that_do_not_close(void **state)
{
    int fd[GUEST_DROPS_MAX + 4], memory = memfd_create("memory", 0);
    atomic_store(&slow, true);
    for (unsigned i = 0; i < GUEST_DROPS_MAX + 4; i++) {
        fd[i] = open("/", O_RDONLY);
        guest_fd_drop(fd[i]);
    }
    guest_fd_drop(memory);
    assert_int_equal(fcntl(memory, F_GETFD), -1);
    while (atomic_load(&closing) < GUEST_DROPS_MAX)
        usleep(1000);
    atomic_store(&slow, false);
    while (atomic_load(&closed) < GUEST_DROPS_MAX)
        usleep(1000);
    assert_int_equal(atomic_load(&closing), GUEST_DROPS_MAX);
    for (unsigned i = GUEST_DROPS_MAX; i < GUEST_DROPS_MAX + 4; i++)
        assert_int_equal(close(fd[i]), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds),
        cmocka_unit_test(eventfds_count),
        cmocka_unit_test(a_full_eventfd),
        cmocka_unit_test(no_eventfd),
        cmocka_unit_test(pipes_and_sockets),
        cmocka_unit_test(while_it_changes),
        cmocka_unit_test(files_that_do_not_close),
    };
    alarm(20);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
