/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process is killed with writes, or reads into shared memory, in flight. After engine_wait_previous() no write may land any more, and
 * no read that was bounced at all: what we write then must stay. Where control groups let us, the dead process's writes are also held back in the kernel, which
 * makes sure that there is something to wait for.
 */
#include "disk/test_util.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "loop/clock.h"

#define WRITES 32u
#define WRITE_BYTES (128u << 10)
#define GROUP "/sys/fs/cgroup/blkio/previous-test"

static void ignore_done(struct engine_io *io, int res) {}

static bool put_text(const char *path, const char *text)
{
    autoclose int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

/* into: WRITES * WRITE_BYTES of memory to read into; NULL: writes. */
static void submit_until_killed(const struct engine_file *f, char *into, int ready_fd)
{
    struct engine *e;
    if (engine_uring_new(&e, 64, NULL) < 0) _exit(1);
    char *buf = aligned_alloc(4096, WRITE_BYTES);
    memset(buf, 'A', WRITE_BYTES);
    static struct iovec iov[WRITES];
    static struct engine_io io[WRITES];
    for (unsigned i = 0; i < WRITES; i++) {
        iov[i] = (struct iovec){into ? into + i * WRITE_BYTES : buf, WRITE_BYTES};
        io[i] = (struct engine_io){.op = into ? ENGINE_READ : ENGINE_WRITE,
                                   .file = f,
                                   .offset_bytes = (uint64_t)i * WRITE_BYTES,
                                   .length_bytes = WRITE_BYTES,
                                   .iov = &iov[i],
                                   .iov_count = 1,
                                   .done = ignore_done};
        engine_submit(e, &io[i]);
    }
    engine_poll(e);
    if (write(ready_fd, "x", 1) != 1) _exit(1);
    for (;;)
        engine_sleep(e, UINT64_MAX);
}

static void kill_one(const struct engine_file *f, char *into, bool held_back)
{
    int pipes[2];
    char byte;
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        if (held_back && !put_text(GROUP "/cgroup.procs", "0")) _exit(1);
        submit_until_killed(f, into, pipes[1]);
    }
    close(pipes[1]);
    assert_int_equal(read(pipes[0], &byte, 1), 1);
    close(pipes[0]);
    kill(child, SIGKILL);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
}

static void fill(const struct engine_file *f, int value)
{
    autofree char *buf = aligned_alloc(4096, WRITE_BYTES);
    memset(buf, value, WRITE_BYTES);
    for (unsigned i = 0; i < WRITES; i++)
        assert_int_equal(pwrite(f->fd, buf, WRITE_BYTES, (off_t)i * WRITE_BYTES), WRITE_BYTES);
}

static void check_still(const struct engine_file *f, int value)
{
    autofree char *buf = aligned_alloc(4096, WRITE_BYTES);
    for (unsigned i = 0; i < WRITES; i++) {
        assert_int_equal(pread(f->fd, buf, WRITE_BYTES, (off_t)i * WRITE_BYTES), WRITE_BYTES);
        for (unsigned k = 0; k < WRITE_BYTES; k += 512)
            assert_int_equal(buf[k], value);
    }
}

static void test_killed_writer(void **state)
{
    struct scratch s;
    scratch_open(&s, WRITES * WRITE_BYTES, DISK_FILE_WRITE | DISK_FILE_DIRECT);
    for (int round = 0; round < 10; round++) {
        fill(&s.file, 'C'); /* allocated: its writes go straight to the device */
        kill_one(&s.file, NULL, false);
        assert_int_equal(engine_wait_previous(&s.file), 0);
        fill(&s.file, 'B');
        usleep(20000);
        check_still(&s.file, 'B');
    }
    scratch_drop(&s);
}

static void test_killed_writer_on_a_device(void **state)
{
    struct scratch s;
    if (!scratch_open_loop(&s, WRITES * WRITE_BYTES, 512, DISK_FILE_WRITE | DISK_FILE_DIRECT)) skip();
    for (int round = 0; round < 5; round++) {
        fill(&s.file, 'C');
        kill_one(&s.file, NULL, false);
        assert_int_equal(engine_wait_previous(&s.file), 0);
        fill(&s.file, 'B');
        usleep(20000);
        check_still(&s.file, 'B');
    }
    scratch_drop(&s);
}

/* A guest's memory outlives its worker, and of a file that is only read nobody can say what is on its way: it goes elsewhere. */
static void test_killed_reader(void **state)
{
    struct scratch s;
    struct errmsg e;
    size_t bytes = WRITES * WRITE_BYTES;
    scratch_open(&s, bytes, DISK_FILE_WRITE | DISK_FILE_DIRECT);
    fill(&s.file, 'A');
    disk_file_close(&s.file);
    assert_int_equal(disk_file_open(&s.file, s.path, DISK_FILE_DIRECT, &e), 0);
    s.file.bounced = true;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    for (int round = 0; round < 10; round++) {
        kill_one(&s.file, memory, false);
        memset(memory, 'X', bytes);
        usleep(20000);
        for (size_t i = 0; i < bytes; i += 512)
            assert_int_equal(memory[i], 'X');
    }
    munmap(memory, bytes);
    scratch_drop(&s);
}

/* The whole disk that a file lies on, as MAJOR:MINOR; throttling does not know partitions. */
static bool disk_under(const struct engine_file *f, char *out, size_t size)
{
    struct stat st;
    char path[96], line[32];
    if (fstat(f->fd, &st) < 0) return false;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/partition", major(st.st_dev), minor(st.st_dev));
    bool partition = access(path, F_OK) == 0;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%sdev", major(st.st_dev), minor(st.st_dev),
             partition ? "../" : "");
    FILE *file = fopen(path, "re");
    if (!file) return false;
    bool good = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    line[strcspn(line, "\n")] = 0;
    snprintf(out, size, "%s", line);
    return good;
}

static void test_killed_writer_held_back(void **state)
{
    struct scratch s;
    char disk[32], limit[64];
    scratch_open(&s, WRITES * WRITE_BYTES, DISK_FILE_WRITE | DISK_FILE_DIRECT);
    bool can = disk_under(&s.file, disk, sizeof disk) && mkdir(GROUP, 0700) == 0;
    snprintf(limit, sizeof limit, "%s %u", disk, WRITES * WRITE_BYTES * 2); /* half a second for all of it */
    if (!can || !put_text(GROUP "/blkio.throttle.write_bps_device", limit)) {
        if (can) rmdir(GROUP);
        scratch_drop(&s);
        skip();
    }
    fill(&s.file, 'C');
    kill_one(&s.file, NULL, true);
    uint64_t start = clock_now_ns();
    int ret = engine_wait_previous(&s.file);
    uint64_t waited = clock_now_ns() - start;
    fill(&s.file, 'B');
    usleep(700000);
    rmdir(GROUP);
    assert_int_equal(ret, 0);
    assert_true(waited > 200 * NS_PER_MS);
    check_still(&s.file, 'B');
    scratch_drop(&s);
}

static void test_changes_nothing(void **state)
{
    struct scratch s;
    struct stat before, after;
    scratch_open(&s, 1 << 20, DISK_FILE_WRITE);
    assert_int_equal(pwrite(s.file.fd, "x", 1, 500000), 1);
    assert_int_equal(fsync(s.file.fd), 0);
    assert_int_equal(fstat(s.file.fd, &before), 0);
    assert_int_equal(engine_wait_previous(&s.file), 0);
    assert_int_equal(fstat(s.file.fd, &after), 0);
    assert_int_equal(before.st_blocks, after.st_blocks);
    assert_int_equal(before.st_size, after.st_size);
    scratch_drop(&s);
    scratch_open(&s, 0, DISK_FILE_WRITE); /* nothing in it, not even a size */
    assert_int_equal(engine_wait_previous(&s.file), 0);
    assert_int_equal(fstat(s.file.fd, &after), 0);
    assert_int_equal(after.st_size, 0);
    scratch_drop(&s);
    scratch_open(&s, 4096, 0);
    assert_int_equal(engine_wait_previous(&s.file), 0);
    scratch_drop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_writer),
        cmocka_unit_test(test_killed_writer_held_back),
        cmocka_unit_test(test_killed_writer_on_a_device),
        cmocka_unit_test(test_killed_reader),
        cmocka_unit_test(test_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
