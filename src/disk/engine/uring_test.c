/* SPDX-License-Identifier: Apache-2.0 */
/* The io_uring engine against real files: data, ends of files, alignment, errors, limits, watches, sleeping. */
#include "disk/test_util.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/iov.h"
#include "disk/engine/bounce.h"
#include "loop/clock.h"
#include "loop/mailbox.h"

#define MIB (1u << 20)

static struct engine *new_engine(unsigned depth)
{
    struct engine *e;
    struct errmsg msg = {""};
    if (engine_uring_new(&e, depth, &msg) < 0) fail_msg("%s", msg.text);
    return e;
}

struct request {
    struct engine_io io;
    struct iovec iov;
    bool done;
    int res;
};

static void request_done(struct engine_io *io, int res)
{
    struct request *r = container_of(io, struct request, io);
    assert_false(r->done);
    r->done = true;
    r->res = res;
}

static void request_submit(struct engine *e, struct request *r, const struct engine_file *f, enum engine_op op,
                           uint64_t offset, void *buf, size_t len)
{
    r->done = false;
    r->iov = (struct iovec){buf, len};
    r->io = (struct engine_io){.op = op,
                               .file = f,
                               .offset_bytes = offset,
                               .length_bytes = len,
                               .iov = &r->iov,
                               .iov_count = 1,
                               .done = request_done};
    engine_submit(e, &r->io);
}

static void wait_all(struct engine *e)
{
    while (e->inflight)
        assert_true(engine_sleep(e, UINT64_MAX) >= 0);
}

static bool is_zero(const void *buf, size_t n)
{
    const char *p = buf;
    for (size_t i = 0; i < n; i++)
        if (p[i]) return false;
    return true;
}

/* ---- Data ---- */

static void check_write_then_read(unsigned flags)
{
    struct scratch s;
    scratch_open(&s, MIB, DISK_FILE_WRITE | flags);
    struct engine *e = new_engine(8);
    uint64_t seed = 42;
    autofree char *out = aligned_alloc(4096, MIB), *in = aligned_alloc(4096, MIB);
    rnd_fill(&seed, out, MIB);
    assert_int_equal(engine_write_now(e, &s.file, out, 0, MIB), 0);
    assert_int_equal(engine_op_now(e, &s.file, ENGINE_SYNC, 0, 0), 0);
    assert_int_equal(engine_read_now(e, &s.file, in, 0, MIB), 0);
    assert_memory_equal(in, out, MIB);

    /* Any address, any offset, any length; longer than a bounce slot as well. */
    for (int i = 0; i < 200; i++) {
        size_t skew = rnd_below(&seed, 4096), len = rnd_below(&seed, i % 10 ? 5000 : 600000);
        uint64_t at = rnd_below(&seed, MIB - len);
        memset(in, 0xee, MIB);
        assert_int_equal(engine_read_now(e, &s.file, in + skew, at, len), 0);
        assert_memory_equal(in + skew, out + at, len);
        assert_true(is_zero(in, 0) && (unsigned char)in[skew + len] == 0xee);
    }
    engine_free(e);
    scratch_drop(&s);
}

static void test_write_then_read(void **state)
{
    check_write_then_read(0);
}

static void test_write_then_read_direct(void **state)
{
    check_write_then_read(DISK_FILE_DIRECT);
}

static void test_unaligned_direct_write(void **state)
{
    struct scratch s;
    scratch_open(&s, MIB, DISK_FILE_WRITE | DISK_FILE_DIRECT);
    struct engine *e = new_engine(8);
    uint64_t seed = 7;
    autofree char *model = aligned_alloc(4096, MIB), *buf = malloc(MIB + 8), *in = malloc(MIB);
    memset(model, 0, MIB);
    for (int i = 0; i < 50; i++) { /* misplaced memory is the engine's business */
        uint64_t at = rnd_below(&seed, 128) * 4096, len = (1 + rnd_below(&seed, 128)) * 4096;
        rnd_fill(&seed, model + at, len);
        memcpy(buf + 3, model + at, len);
        assert_int_equal(engine_write_now(e, &s.file, buf + 3, at, len), 0);
    }
    assert_int_equal(engine_read_now(e, &s.file, in, 0, MIB), 0);
    assert_memory_equal(in, model, MIB);
    /* A misplaced range is the caller's. */
    assert_int_equal(engine_write_now(e, &s.file, buf, 100, 512), -EINVAL);
    assert_int_equal(engine_write_now(e, &s.file, buf, 0, 100), -EINVAL);
    engine_free(e);
    scratch_drop(&s);
}

static void check_end_of_file(unsigned flags, uint64_t size)
{
    struct scratch s;
    scratch_open(&s, 0, DISK_FILE_WRITE | flags);
    struct engine *e = new_engine(8);
    autofree char *in = aligned_alloc(4096, 65536), *fill = malloc(size + 1);
    memset(fill, 'x', size + 1);
    int fd = open(s.path, O_WRONLY);
    assert_int_equal(pwrite(fd, fill, size, 0), (ssize_t)size);
    close(fd);
    for (uint64_t at = 0; at < 16384; at += 512) {
        memset(in, 0xee, 65536);
        /* Several buffers, the end of the file in any of them. */
        struct iovec iov[3] = {{in, 512}, {in + 4096, 4096}, {in + 16384, 8192}};
        struct request r = {.io = {.op = ENGINE_READ,
                                   .file = &s.file,
                                   .offset_bytes = at,
                                   .length_bytes = 12800,
                                   .iov = iov,
                                   .iov_count = 3,
                                   .done = request_done}};
        engine_submit(e, &r.io);
        wait_all(e);
        assert_int_equal(r.res, 0);
        uint64_t have = at < size ? min_u64(size - at, 12800) : 0;
        char flat[12800];
        iov_copy_from(flat, iov, 3, 0, sizeof flat);
        assert_memory_equal(flat, fill, have);
        assert_true(is_zero(flat + have, sizeof flat - have));
    }
    engine_free(e);
    scratch_drop(&s);
}

static void test_end_of_file(void **state)
{
    check_end_of_file(0, 5000);
    check_end_of_file(0, 0);
    check_end_of_file(0, 8192);
}

static void test_end_of_file_direct(void **state)
{
    check_end_of_file(DISK_FILE_DIRECT, 5000);
    check_end_of_file(DISK_FILE_DIRECT, 0);
    check_end_of_file(DISK_FILE_DIRECT, 8192);
    check_end_of_file(DISK_FILE_DIRECT, 512);
}

static void test_punch_and_zero(void **state)
{
    struct scratch s;
    scratch_open(&s, MIB, DISK_FILE_WRITE | DISK_FILE_DIRECT);
    struct engine *e = new_engine(8);
    autofree char *buf = aligned_alloc(4096, MIB);
    memset(buf, 'a', MIB);
    assert_int_equal(engine_write_now(e, &s.file, buf, 0, MIB), 0);
    struct stat before, after;
    assert_int_equal(fstat(s.file.fd, &before), 0);
    assert_int_equal(engine_op_now(e, &s.file, ENGINE_PUNCH, 65536, 65536), 0);
    int zeroed = engine_op_now(e, &s.file, ENGINE_ZERO, 262144, 512); /* not every file system can */
    assert_true(zeroed == 0 || zeroed == -EOPNOTSUPP);
    assert_int_equal(engine_read_now(e, &s.file, buf, 0, MIB), 0);
    assert_int_equal(buf[65535], 'a');
    assert_true(is_zero(buf + 65536, 65536));
    assert_int_equal(buf[131072], 'a');
    if (zeroed == 0) assert_true(is_zero(buf + 262144, 512));
    assert_int_equal(buf[262144 + 512], 'a');
    assert_int_equal(fstat(s.file.fd, &after), 0);
    assert_true(after.st_blocks < before.st_blocks);
    assert_int_equal(after.st_size, before.st_size);
    assert_int_equal(engine_op_now(e, &s.file, ENGINE_DISCARD, 524288, 65536), 0);
    assert_int_equal(engine_read_now(e, &s.file, buf, 524288, 65536), 0);
    assert_true(is_zero(buf, 65536));
    engine_free(e);
    scratch_drop(&s);
}

static void test_device(void **state)
{
    struct scratch s;
    if (!scratch_open_loop(&s, MIB, 512, DISK_FILE_WRITE | DISK_FILE_DIRECT)) skip();
    struct engine *e = new_engine(8);
    autofree char *buf = aligned_alloc(4096, MIB);
    memset(buf, 'a', MIB);
    assert_int_equal(engine_write_now(e, &s.file, buf, 0, MIB), 0);
    int discarded = engine_op_now(e, &s.file, ENGINE_DISCARD, 0, 65536); /* not with Linux before 6.12 */
    assert_true(discarded == 0 || discarded == -EOPNOTSUPP);
    assert_int_equal(engine_op_now(e, &s.file, ENGINE_PUNCH, 131072, 65536), 0);
    assert_int_equal(engine_op_now(e, &s.file, ENGINE_ZERO, 262144, 65536), 0);
    assert_int_equal(engine_op_now(e, &s.file, ENGINE_SYNC, 0, 0), 0);
    assert_int_equal(engine_read_now(e, &s.file, buf, 0, MIB), 0);
    if (discarded == 0) assert_true(is_zero(buf, 65536)); /* over a file it is a hole */
    assert_true(is_zero(buf + 131072, 65536) && is_zero(buf + 262144, 65536));
    assert_true(buf[65536] == 'a' && buf[196608] == 'a' && buf[MIB - 1] == 'a');
    engine_free(e);
    scratch_drop(&s);
}

static void test_errors_are_passed(void **state)
{
    struct scratch s;
    scratch_open(&s, MIB, 0);
    struct engine *e = new_engine(8);
    char buf[512];
    assert_int_equal(engine_write_now(e, &s.file, buf, 0, 512), -EBADF); /* read-only descriptor */
    assert_int_equal(engine_op_now(e, &s.file, ENGINE_PUNCH, 0, 512), -EBADF);
    struct engine_file f = s.file;
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    f.fd = pipes[1];
    assert_int_equal(engine_op_now(e, &f, ENGINE_SYNC, 0, 0), -EINVAL);
    /* The memory is not there. */
    void *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_int_equal(engine_read_now(e, &s.file, hole, 0, 4096), -EFAULT);
    munmap(hole, 4096);
    close(pipes[0]);
    close(pipes[1]);
    engine_free(e);
    scratch_drop(&s);
}

static void test_full_disk(void **state)
{
    /* A file size limit stands for it: part of the write fits, the rest fails. */
    pid_t child = fork();
    if (child == 0) {
        struct scratch s;
        scratch_open(&s, 0, DISK_FILE_WRITE);
        struct engine *e = new_engine(8);
        signal(SIGXFSZ, SIG_IGN);
        struct rlimit limit = {65536, 65536};
        setrlimit(RLIMIT_FSIZE, &limit);
        static char buf[131072];
        int ret = engine_write_now(e, &s.file, buf, 0, sizeof buf);
        engine_free(e);
        scratch_drop(&s);
        _exit(ret == -EFBIG ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* ---- Limits ---- */

static void check_many(unsigned depth, unsigned flags, size_t skew)
{
    enum { COUNT = 300, SIZE = 4096 };
    struct scratch s;
    scratch_open(&s, COUNT * SIZE, DISK_FILE_WRITE | flags);
    struct engine *e = new_engine(depth);
    autofree struct request *r = calloc(COUNT, sizeof *r);
    autofree char *buf = aligned_alloc(4096, (COUNT + 1) * SIZE);
    for (unsigned i = 0; i < COUNT; i++) {
        memset(buf + skew + i * SIZE, (int)i + 1, SIZE);
        request_submit(e, &r[i], &s.file, ENGINE_WRITE, (uint64_t)i * SIZE, buf + skew + i * SIZE, SIZE);
        assert_false(r[i].done);
    }
    assert_int_equal(e->inflight, COUNT);
    wait_all(e);
    memset(buf, 0, (COUNT + 1) * SIZE);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(r[i].res, 0);
        request_submit(e, &r[i], &s.file, ENGINE_READ, (uint64_t)i * SIZE, buf + skew + i * SIZE, SIZE);
    }
    wait_all(e);
    for (unsigned i = 0; i < COUNT; i++)
        assert_true(r[i].res == 0 && (unsigned char)buf[skew + i * SIZE] == (unsigned char)(i + 1));
    engine_free(e);
    scratch_drop(&s);
}

static void test_more_than_depth(void **state)
{
    for (unsigned depth = 1; depth <= 512; depth *= 8) {
        check_many(depth, 0, 0);
        check_many(depth, DISK_FILE_DIRECT, 0);
        check_many(depth, DISK_FILE_DIRECT, 100); /* more than there are bounce slots */
    }
}

static void test_bounce_pool(void **state)
{
    struct bounce_pool pool = {NULL};
    void *slot[BOUNCE_SLOTS], *more;
    assert_false(bounce_is_idle(&pool));
    for (unsigned i = 0; i < BOUNCE_SLOTS; i++) {
        assert_int_equal(bounce_take(&pool, &slot[i]), 0);
        assert_int_equal((uintptr_t)slot[i] % ENGINE_ALIGN_MAX, 0);
        memset(slot[i], (int)i, BOUNCE_BYTES);
    }
    assert_int_equal(bounce_take(&pool, &more), -EAGAIN);
    bounce_trim(&pool); /* in use: nothing happens */
    assert_non_null(pool.memory);
    for (unsigned i = 0; i < BOUNCE_SLOTS; i++) {
        assert_int_equal(((unsigned char *)slot[i])[BOUNCE_BYTES - 1], i);
        bounce_give(&pool, slot[i]);
    }
    assert_true(bounce_is_idle(&pool));
    bounce_trim(&pool);
    assert_null(pool.memory);
}

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

static void count_body(void)
{
    struct scratch s;
    scratch_open(&s, MIB, 0);
    struct engine *e = new_engine(8);
    char buf[512];
    engine_read_now(e, &s.file, buf, 0, 512);
    struct request r[8];
    syscall(SYS_getppid); /* from here on it is counted: 1000 idle polls: nothing */
    for (int i = 0; i < 1000; i++)
        engine_poll(e);
    syscall(SYS_getppid); /* a timed sleep: 1 */
    engine_sleep(e, NS_PER_MS);
    syscall(SYS_getppid); /* eight reads and sleeping for them: 1 */
    for (int i = 0; i < 8; i++)
        request_submit(e, &r[i], &s.file, ENGINE_READ, 0, buf, 512);
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
    assert_int_equal(count[3], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_then_read),
        cmocka_unit_test(test_write_then_read_direct),
        cmocka_unit_test(test_unaligned_direct_write),
        cmocka_unit_test(test_end_of_file),
        cmocka_unit_test(test_end_of_file_direct),
        cmocka_unit_test(test_punch_and_zero),
        cmocka_unit_test(test_device),
        cmocka_unit_test(test_errors_are_passed),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_more_than_depth),
        cmocka_unit_test(test_bounce_pool),
        cmocka_unit_test(test_watch),
        cmocka_unit_test(test_unwatch_lets_go),
        cmocka_unit_test(test_many_signals_before_a_poll),
        cmocka_unit_test(test_deferred),
        cmocka_unit_test(test_blocking_read_in_a_task),
        cmocka_unit_test(test_sleep_ends_in_time),
        cmocka_unit_test(test_sleep_gives_bounce_memory_back),
        cmocka_unit_test(test_two_threads),
        cmocka_unit_test(test_mailbox_wakes_a_sleeper),
        cmocka_unit_test(test_system_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
