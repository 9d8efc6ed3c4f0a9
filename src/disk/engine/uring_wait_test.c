/* SPDX-License-Identifier: Apache-2.0 */
/* The io_uring engine: watches, deferred tasks, sleeping, threads, and what it costs in system calls. */
#include "disk/test_util.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "loop/clock.h"
#include "loop/mailbox.h"

#define MIB (1u << 20)

/* ---- Watches, tasks, sleeping ---- */

struct counted_watch {
    struct engine_watch watch;
    unsigned count;
};

static void count_ready(struct engine_watch *w)
{
    container_of(w, struct counted_watch, watch)->count++;
}

static void signal_fd(int fd)
{
    uint64_t one = 1;
    assert_int_equal(write(fd, &one, sizeof one), sizeof one);
}

static void test_watch(void **state)
{
    struct engine *e = new_engine(2);
    struct counted_watch w[5];
    for (int i = 0; i < 5; i++) { /* more than the submission queue holds at once */
        w[i] = (struct counted_watch){.watch = {.fd = eventfd(0, EFD_NONBLOCK), .ready = count_ready}};
        assert_int_equal(engine_watch(e, &w[i].watch), 0);
    }
    signal_fd(w[3].watch.fd); /* before the kernel has been told */
    while (w[3].count == 0)
        assert_true(engine_sleep(e, UINT64_MAX) >= 0);
    assert_int_equal(w[3].count, 1);
    for (unsigned round = 1; round <= 100; round++) { /* never read: still once per signal */
        signal_fd(w[0].watch.fd);
        assert_int_equal(engine_sleep(e, UINT64_MAX), 1);
        assert_int_equal(w[0].count, round);
    }
    assert_int_equal(engine_poll(e), 0);

    signal_fd(w[1].watch.fd);
    engine_unwatch(e, &w[1].watch); /* what was signalled before is not reported after */
    close(w[1].watch.fd);
    assert_int_equal(engine_sleep(e, 5 * NS_PER_MS), 0);
    assert_int_equal(w[1].count, 0);
    engine_unwatch(e, &w[1].watch); /* harmless */

    assert_int_equal(engine_watch(e, &w[1].watch), -EBADF);
    for (int i = 0; i < 5; i++) {
        engine_unwatch(e, &w[i].watch);
        if (i != 1) close(w[i].watch.fd);
    }
    engine_free(e);
}

/* The kernel must let go of a descriptor that is no longer watched, or the other end would never see it closed. */
static void test_unwatch_lets_go(void **state)
{
    struct engine *e = new_engine(4);
    int pipes[2];
    assert_int_equal(pipe2(pipes, O_NONBLOCK), 0);
    struct counted_watch w = {.watch = {.fd = pipes[0], .ready = count_ready}};
    assert_int_equal(engine_watch(e, &w.watch), 0);
    assert_int_equal(engine_poll(e), 0);
    engine_unwatch(e, &w.watch);
    close(pipes[0]);
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(write(pipes[1], "x", 1), -1);
    assert_int_equal(errno, EPIPE);
    close(pipes[1]);
    engine_free(e);
}

static void test_many_signals_before_a_poll(void **state)
{
    struct engine *e = new_engine(1);
    struct counted_watch w = {.watch = {.fd = eventfd(0, EFD_NONBLOCK), .ready = count_ready}};
    assert_int_equal(engine_watch(e, &w.watch), 0);
    assert_int_equal(engine_poll(e), 0);
    for (int i = 0; i < 10000; i++)
        signal_fd(w.watch.fd);
    while (engine_poll(e) > 0) {
    }
    assert_true(w.count >= 1);
    unsigned seen = w.count;
    signal_fd(w.watch.fd); /* it is still armed */
    while (w.count == seen)
        assert_true(engine_sleep(e, UINT64_MAX) >= 0);
    engine_unwatch(e, &w.watch);
    close(w.watch.fd);
    engine_free(e);
}

struct again {
    struct engine_task task;
    struct engine *engine;
    unsigned left, ran;
};

static void run_again(struct engine_task *t)
{
    struct again *a = container_of(t, struct again, task);
    a->ran++;
    if (a->left-- > 0) engine_defer(a->engine, t);
}

static void test_deferred(void **state)
{
    struct engine *e = new_engine(4);
    struct again a = {.task.run = run_again, .engine = e, .left = 3}, b = {.task.run = run_again, .engine = e};
    engine_defer(e, &a.task);
    engine_defer(e, &b.task);
    assert_int_equal(a.ran, 0);
    assert_int_equal(engine_poll(e), 2);
    assert_int_equal(a.ran, 1); /* what a task defers is for the next poll */
    assert_int_equal(engine_sleep(e, UINT64_MAX), 1);
    assert_int_equal(engine_sleep(e, UINT64_MAX), 1);
    assert_int_equal(engine_sleep(e, UINT64_MAX), 1);
    assert_int_equal(engine_poll(e), 0);
    assert_int_equal(a.ran, 4);
    assert_int_equal(b.ran, 1);
    engine_free(e);
}

struct nested {
    struct engine_task task;
    struct engine *engine;
    const struct engine_file *file;
    int res;
};

static void run_nested(struct engine_task *t)
{
    struct nested *n = container_of(t, struct nested, task);
    char buf[512];
    n->res = engine_read_now(n->engine, n->file, buf, 0, sizeof buf);
}

static void test_blocking_read_in_a_task(void **state)
{
    struct scratch s;
    scratch_open(&s, 4096, 0);
    struct engine *e = new_engine(4);
    struct nested n = {.task.run = run_nested, .engine = e, .file = &s.file, .res = 1};
    struct again before = {.task.run = run_again, .engine = e, .left = 2},
                 after = {.task.run = run_again, .engine = e, .left = 2};
    engine_defer(e, &before.task);
    engine_defer(e, &n.task);
    engine_defer(e, &after.task);
    assert_true(engine_poll(e) >= 1);
    assert_int_equal(n.res, 0);
    while (engine_poll(e) > 0) {
    }
    assert_int_equal(before.ran, 3);
    assert_int_equal(after.ran, 3);
    engine_free(e);
    scratch_drop(&s);
}

static void test_sleep_ends_in_time(void **state)
{
    struct engine *e = new_engine(4);
    uint64_t start = clock_now_ns();
    assert_int_equal(engine_sleep(e, 20 * NS_PER_MS), 0);
    uint64_t took = clock_now_ns() - start;
    assert_true(took >= 20 * NS_PER_MS && took < 2000 * NS_PER_MS);
    engine_free(e);
}

/* Bounce memory goes away during a long sleep, and the sleep still takes its time. */
static void test_sleep_gives_bounce_memory_back(void **state)
{
    struct scratch s;
    scratch_open(&s, MIB, DISK_FILE_DIRECT);
    struct engine *e = new_engine(4);
    char buf[600];
    assert_int_equal(engine_read_now(e, &s.file, buf + 1, 3, 500), 0);
    uint64_t start = clock_now_ns();
    assert_int_equal(engine_sleep(e, 1100 * NS_PER_MS), 0);
    assert_true(clock_now_ns() - start >= 1100 * NS_PER_MS);
    assert_int_equal(engine_read_now(e, &s.file, buf + 1, 3, 500), 0);
    engine_free(e);
    scratch_drop(&s);
}

static void on_alarm(int signal_number) {}

/* A sleep may be cut short by a signal, a request may not. */
static void test_signals(void **state)
{
    struct scratch s;
    scratch_open(&s, MIB, DISK_FILE_WRITE);
    struct engine *e = new_engine(4);
    struct sigaction action = {.sa_handler = on_alarm}, old;
    sigaction(SIGALRM, &action, &old);
    struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &often, NULL);
    autofree char *buf = malloc(65536);
    for (int i = 0; i < 200; i++) {
        memset(buf, i, 65536);
        assert_int_equal(engine_write_now(e, &s.file, buf, 0, 65536), 0);
        if (i % 20 == 0) assert_int_equal(engine_op_now(e, &s.file, ENGINE_SYNC, 0, 0), 0);
        assert_int_equal(engine_read_now(e, &s.file, buf, 0, 65536), 0);
        assert_int_equal((unsigned char)buf[65535], i);
    }
    assert_int_equal(engine_sleep(e, UINT64_MAX), 0);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &old, NULL);
    engine_free(e);
    scratch_drop(&s);
}

/* ---- Threads ---- */

struct thread_arg {
    struct engine *engine;
    const struct engine_file *file;
    unsigned char value;
    uint64_t at;
};

static void *use_engine(void *arg)
{
    struct thread_arg *t = arg;
    autofree char *buf = aligned_alloc(4096, 65536);
    for (int i = 0; i < 100; i++) {
        memset(buf, t->value, 65536);
        if (engine_write_now(t->engine, t->file, buf, t->at, 65536) < 0) abort();
        memset(buf, 0, 65536);
        if (engine_read_now(t->engine, t->file, buf, t->at, 65536) < 0) abort();
        if ((unsigned char)buf[0] != t->value || (unsigned char)buf[65535] != t->value) abort();
    }
    return NULL;
}

/* Made and freed by one thread, used by another; two engines on one file at once. */
static void test_two_threads(void **state)
{
    struct scratch s;
    scratch_open(&s, MIB, DISK_FILE_WRITE | DISK_FILE_DIRECT);
    struct thread_arg arg[2];
    pthread_t thread[2];
    for (int i = 0; i < 2; i++) {
        arg[i] = (struct thread_arg){new_engine(16), &s.file, (unsigned char)(i + 1), (uint64_t)i * 65536};
        assert_int_equal(pthread_create(&thread[i], NULL, use_engine, &arg[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(thread[i], NULL);
        engine_free(arg[i].engine);
    }
    scratch_drop(&s);
}

struct ping {
    struct mailbox box;
    struct engine_watch watch;
    struct mail mail;
    _Atomic unsigned got;
};

static void ping_ready(struct engine_watch *w)
{
    mailbox_run(&container_of(w, struct ping, watch)->box);
}

static void ping_run(struct mail *m)
{
    atomic_fetch_add(&container_of(m, struct ping, mail)->got, 1);
}

static void *post_pings(void *arg)
{
    struct ping *p = arg;
    for (unsigned i = 0; i < 200; i++) {
        mailbox_post(&p->box, &p->mail);
        while (atomic_load(&p->got) <= i)
            usleep(1);
    }
    return NULL;
}

static void test_mailbox_wakes_a_sleeper(void **state)
{
    struct engine *e = new_engine(4);
    struct ping p = {.watch.ready = ping_ready, .mail.run = ping_run};
    assert_int_equal(mailbox_init(&p.box), 0);
    p.watch.fd = mailbox_fd(&p.box);
    assert_int_equal(engine_watch(e, &p.watch), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, post_pings, &p), 0);
    while (atomic_load(&p.got) < 200)
        assert_true(engine_sleep(e, UINT64_MAX) >= 0);
    pthread_join(thread, NULL);
    engine_unwatch(e, &p.watch);
    mailbox_destroy(&p.box);
    engine_free(e);
}

/* ---- The price ---- */

static void ignore_done(struct engine_io *io, int res) {}

static void read_submit(struct engine *e, struct engine_io *io, const struct engine_file *f, const struct iovec *iov)
{
    *io = (struct engine_io){.op = ENGINE_READ, .file = f, .length_bytes = iov->iov_len, .done = ignore_done};
    io->iov = iov;
    io->iov_count = 1;
    engine_submit(e, io);
}

static void count_body(void)
{
    struct scratch s;
    scratch_open(&s, MIB, 0);
    struct engine *e = new_engine(8);
    char buf[512];
    engine_read_now(e, &s.file, buf, 0, 512);
    struct iovec iov = {buf, sizeof buf};
    struct engine_io io[8];
    syscall(SYS_getppid); /* from here on it is counted: 1000 idle polls: nothing */
    for (int i = 0; i < 1000; i++)
        engine_poll(e);
    syscall(SYS_getppid); /* a timed sleep: 1 */
    engine_sleep(e, NS_PER_MS);
    syscall(
        SYS_getppid); /* eight reads, sent off by fours, and sleeping for them, unless they are done by then: 2 or 3 */
    for (int i = 0; i < 8; i++)
        read_submit(e, &io[i], &s.file, &iov);
    engine_sleep(e, UINT64_MAX);
    syscall(SYS_getppid);
    engine_free(e);
    scratch_drop(&s);
}

static void test_system_calls(void **state)
{
#ifdef CREEDENCE_SANITIZED
    skip();
#endif
    pid_t child = fork();
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0) _exit(77);
        raise(SIGSTOP);
        count_body();
        _exit(0);
    }
    unsigned count[8] = {0}, phase = 0;
    int status;
    waitpid(child, &status, 0);
    if (WIFEXITED(status)) skip(); /* being traced is not allowed here */
    ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    bool entry = true;
    while (ptrace(PTRACE_SYSCALL, child, NULL, NULL) == 0 && waitpid(child, &status, 0) == child &&
           !WIFEXITED(status)) {
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
        if (entry) {
            struct __ptrace_syscall_info info;
            ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof info, &info);
            if (info.entry.nr == SYS_getppid) phase++;
            else if (phase < 8) count[phase]++;
        }
        entry = !entry;
    }
    assert_int_equal(count[1], 0);
    assert_int_equal(count[2], 1);
    assert_in_range(count[3], 2, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_watch),
        cmocka_unit_test(test_unwatch_lets_go),
        cmocka_unit_test(test_many_signals_before_a_poll),
        cmocka_unit_test(test_deferred),
        cmocka_unit_test(test_blocking_read_in_a_task),
        cmocka_unit_test(test_sleep_ends_in_time),
        cmocka_unit_test(test_sleep_gives_bounce_memory_back),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_two_threads),
        cmocka_unit_test(test_mailbox_wakes_a_sleeper),
        cmocka_unit_test(test_system_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
