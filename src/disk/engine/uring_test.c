/* SPDX-License-Identifier: Apache-2.0 */
/* The io_uring engine against real files: data, ends of files, alignment, errors, limits. */
#include "disk/test_util.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/iov.h"
#include "disk/engine/bounce.h"

#define MIB (1u << 20)

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

/* One at a time and several at a time take different ways for files in memory: both, and from one to the other. */
static void test_file_in_memory(void **state)
{
    enum { SIZE = 256 << 10 };
    struct engine_file f;
    struct errmsg msg;
    int fd = memfd_create("in memory", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    assert_int_equal(disk_file_adopt(&f, fd, "in memory", &msg), 0);
    assert_true(f.in_memory);
    struct engine *e = new_engine(8);
    uint64_t seed = 5;
    autofree unsigned char *model = calloc(1, SIZE), *buf = malloc(SIZE);
    autofree struct request *r = calloc(16, sizeof *r);
    for (int round = 0; round < 600; round++) {
        unsigned together = round / 150 % 2 ? 1 + (unsigned)rnd_below(&seed, 16) : 1;
        for (unsigned i = 0; i < together; i++) { /* each in a part of its own */
            uint64_t at = i * (SIZE / 16) + rnd_below(&seed, 8192), len = rnd_below(&seed, 8192);
            bool write = rnd_below(&seed, 2);
            if (write) rnd_fill(&seed, model + at, len);
            if (write) memcpy(buf + at, model + at, len);
            request_submit(e, &r[i], &f, write ? ENGINE_WRITE : ENGINE_READ, at, buf + at, len);
            assert_false(r[i].done);
        }
        wait_all(e);
        for (unsigned i = 0; i < together; i++) {
            assert_int_equal(r[i].res, 0);
            assert_memory_equal(r[i].iov.iov_base, model + r[i].io.offset_bytes, r[i].iov.iov_len);
        }
    }
    /* Past the end, and no memory there: as with any other file. */
    memset(buf, 0xee, 8192);
    assert_int_equal(engine_read_now(e, &f, buf, SIZE - 4096, 8192), 0);
    assert_memory_equal(buf, model + SIZE - 4096, 4096);
    assert_true(is_zero(buf + 4096, 4096));
    for (int i = 0; i < 100; i++)
        assert_int_equal(engine_read_now(e, &f, buf, 0, 1), 0);
    assert_int_equal(engine_read_now(e, &f, (void *)1, 0, 4096), -EFAULT);
    assert_int_equal(engine_write_now(e, &f, (void *)1, 0, 4096), -EFAULT);
    engine_free(e);
    disk_file_close(&f);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_then_read),   cmocka_unit_test(test_write_then_read_direct),
        cmocka_unit_test(test_file_in_memory),    cmocka_unit_test(test_unaligned_direct_write),
        cmocka_unit_test(test_end_of_file),       cmocka_unit_test(test_end_of_file_direct),
        cmocka_unit_test(test_punch_and_zero),    cmocka_unit_test(test_device),
        cmocka_unit_test(test_errors_are_passed), cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_more_than_depth),   cmocka_unit_test(test_bounce_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
