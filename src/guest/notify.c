/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals to and from a front end, without waiting.
 *
 * Sockets and pipes take "do not wait" with each call, and so does reading an eventfd. Writing to one does not: write(2) waits
 * when the counter is full, unless O_NONBLOCK is set on what the front end shares with us; poll(2) before it leaves a
 * moment in which that may change. But the kernel itself can always signal an eventfd, and does so when an asynchronous
 * operation of io_submit(2) is done: the counter goes up, or stays where it is when it is full. So an operation is submitted
 * that is done at once (reading an empty file). That costs some 200 ns more than write(2), once for a batch of frames and
 * only when the driver wants to be told.
 *
 * Where io_submit is not to be had (a worker's sandbox does not permit it; a kernel without it), poll and write it is.
 */
#include "guest/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "loop/thread.h"

#define SUBMITS 64u /* whose ends may lie unread */

int guest_fd_kind(int fd)
{
    struct statx st;
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0) return -errno;
    return st.stx_mode & S_IFMT;
}

/* ---- what is not wanted ---- */

static _Atomic unsigned drops;

static void *drop_main(void *arg)
{
    close((int)(intptr_t)arg);
    atomic_fetch_sub(&drops, 1);
    return NULL;
}

static bool drop_slowly(int fd)
{
    pthread_t thread;
    if (atomic_fetch_add(&drops, 1) < GUEST_DROPS_MAX &&
        thread_start(&thread, "drop", drop_main, (void *)(intptr_t)fd) == 0)
        return pthread_detach(thread) == 0;
    atomic_fetch_sub(&drops, 1);
    return false;
}

void guest_fd_drop(int fd)
{
    int kind = guest_fd_kind(fd);
    bool is_file = kind != 0 && kind != S_IFSOCK && kind != S_IFIFO && fcntl(fd, F_GET_SEALS) < 0;
    if (!is_file) close(fd);
    else if (!drop_slowly(fd))
        log_limited(LOG_LEVEL_WARN, "vhost-user: files that a front end handed over do not close, one more stays open");
}

unsigned guest_fd_drops(void)
{
    return atomic_load(&drops);
}

/* ---- eventfds ---- */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static aio_context_t context; /* 0: there is none */
static int empty_fd = -1;

static void context_make(void)
{
    empty_fd = memfd_create("notify", MFD_CLOEXEC);
    if (empty_fd >= 0 && syscall(SYS_io_setup, SUBMITS, &context) == 0) return;
    log_info("no asynchronous I/O (%s): a front end that fills its eventfds can make their writer wait",
             strerror(errno));
    context = 0;
}

/* What has ended must be read at times, or nothing more can be submitted. */
static void forget_ended(void)
{
    struct io_event ended[SUBMITS];
    struct timespec now = {0};
    while (syscall(SYS_io_getevents, context, 0L, (long)SUBMITS, ended, &now) == (long)SUBMITS)
        ;
}

/* True: signalled, or it is no eventfd. */
static bool signal_eventfd(int fd)
{
    char nothing;
    pthread_once(&once, context_make);
    if (!context) return false;
    struct iocb read_nothing = {.aio_lio_opcode = IOCB_CMD_PREAD,
                                .aio_fildes = (uint32_t)empty_fd,
                                .aio_buf = (uintptr_t)&nothing,
                                .aio_nbytes = 1,
                                .aio_flags = IOCB_FLAG_RESFD,
                                .aio_resfd = (uint32_t)fd};
    struct iocb *one = &read_nothing;
    for (unsigned i = 0; i < SUBMITS; i++) {
        if (syscall(SYS_io_submit, context, 1L, &one) == 1) return true;
        if (errno != EAGAIN) return errno == EINVAL || errno == EBADF;
        forget_ended();
    }
    return false;
}

static bool ready(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    return poll(&p, 1, 0) > 0 && p.revents & events;
}

/* ---- all ---- */

/* Is it that the kernel does not know how not to wait? */
static bool cannot_tell(ssize_t n)
{
    return n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS);
}

static void signal_pipe(int fd)
{
    uint64_t one = 1;
    struct iovec v = {&one, sizeof one};
    ssize_t n = pwritev2(fd, &v, 1, -1, RWF_NOWAIT);
    if (cannot_tell(n) && ready(fd, POLLOUT)) n = write(fd, &one, sizeof one);
    (void)n;
}

void guest_notify(int fd, int kind)
{
    uint64_t one = 1;
    ssize_t n = 0;
    if (fd < 0) return;
    if (kind == S_IFSOCK) n = send(fd, &one, sizeof one, MSG_DONTWAIT | MSG_NOSIGNAL);
    else if (kind == S_IFIFO) signal_pipe(fd);
    else if (kind == 0 && !signal_eventfd(fd) && ready(fd, POLLOUT)) n = write(fd, &one, sizeof one);
    (void)n; /* full: the other side has not looked at earlier ones yet; gone: the session will hear of it */
}

ssize_t guest_notify_take(int fd, int kind, void *buf, size_t n)
{
    struct iovec v = {buf, n};
    if (kind == S_IFSOCK) return recv(fd, buf, n, MSG_DONTWAIT);
    ssize_t got = preadv2(fd, &v, 1, -1, RWF_NOWAIT);
    if (!cannot_tell(got)) return got;
    return ready(fd, POLLIN) ? read(fd, buf, n) : 0;
}
