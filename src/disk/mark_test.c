/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process is killed with direct writes, or direct reads into shared memory, in flight. After disk_mark_wait() none may land
 * any more: what we write then must stay. Where control groups let us, the dead process's requests are held back in the
 * kernel, which makes sure that there is something to wait for, and that it is what no device counts. And with a
 * stand-in: another description that is marked.
 */
#include "disk/mark.h"

#include "disk/test_util.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "loop/clock.h"

#define REQUESTS 32u
#define REQUEST_BYTES (128u << 10)
#define BYTES (REQUESTS * (size_t)REQUEST_BYTES)
#define GROUP "/sys/fs/cgroup/blkio/mark-test"
#define HELD_BACK_NS (300 * NS_PER_MS) /* what a limited process takes for all its requests */
#define MARK UINT64_C(0xfedcba9876543210)

static void ignore_done(struct engine_io *io, int res) {}

static bool put_text(const char *path, const char *text)
{
    autoclose int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

static uint64_t soon(void)
{
    return clock_now_ns() + 10 * NS_PER_SECOND;
}

/* ---- the process that dies ---- */

/* into: memory to read into; NULL: writes. */
static void submit_until_killed(struct engine_file *f, char *into, int ready_fd)
{
    struct engine *e;
    int shared;
    if (disk_file_reopen(f, &shared, NULL) < 0 || disk_mark_set(f, MARK, NULL) < 0) _exit(1);
    if (engine_uring_new(&e, 64, NULL) < 0) _exit(1);
    char *buf = aligned_alloc(4096, REQUEST_BYTES);
    memset(buf, 'A', REQUEST_BYTES);
    static struct iovec iov[REQUESTS];
    static struct engine_io io[REQUESTS];
    for (unsigned i = 0; i < REQUESTS; i++) {
        iov[i] = (struct iovec){into ? into + i * REQUEST_BYTES : buf, REQUEST_BYTES};
        io[i] = (struct engine_io){.op = into ? ENGINE_READ : ENGINE_WRITE,
                                   .file = f,
                                   .offset_bytes = (uint64_t)i * REQUEST_BYTES,
                                   .length_bytes = REQUEST_BYTES,
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

/* It has inherited a duplicate of f's descriptor, and uses one of its own. */
static void kill_one(const struct engine_file *f, char *into, bool held_back)
{
    int pipes[2];
    char byte;
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        struct engine_file own = *f;
        if (held_back && !put_text(GROUP "/cgroup.procs", "0")) _exit(1);
        submit_until_killed(&own, into, pipes[1]);
    }
    close(pipes[1]);
    assert_int_equal(read(pipes[0], &byte, 1), 1);
    close(pipes[0]);
    kill(child, SIGKILL);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
}

/* ---- what must stay ---- */

static void fill(const struct engine_file *f, int value)
{
    autofree char *buf = aligned_alloc(4096, REQUEST_BYTES);
    memset(buf, value, REQUEST_BYTES);
    for (unsigned i = 0; i < REQUESTS; i++)
        assert_int_equal(pwrite(f->fd, buf, REQUEST_BYTES, (off_t)i * REQUEST_BYTES), REQUEST_BYTES);
}

static void check_still(const struct engine_file *f, int value)
{
    autofree char *buf = aligned_alloc(4096, REQUEST_BYTES);
    for (unsigned i = 0; i < REQUESTS; i++) {
        assert_int_equal(pread(f->fd, buf, REQUEST_BYTES, (off_t)i * REQUEST_BYTES), REQUEST_BYTES);
        for (unsigned k = 0; k < REQUEST_BYTES; k += 512)
            assert_int_equal(buf[k], value);
    }
}

static void kill_writers(const struct engine_file *f, unsigned times)
{
    struct errmsg e;
    for (unsigned round = 0; round < times; round++) {
        fill(f, 'C'); /* allocated: its writes go straight to the device */
        kill_one(f, NULL, false);
        assert_int_equal(disk_mark_wait(f, MARK, soon(), &e), 0);
        fill(f, 'B');
        usleep(20000);
        check_still(f, 'B');
    }
}

static void test_killed_writer(void **state)
{
    struct scratch s;
    scratch_open(&s, BYTES, DISK_FILE_WRITE | DISK_FILE_DIRECT);
    kill_writers(&s.file, 10);
    scratch_drop(&s);
}

static void test_killed_writer_on_a_device(void **state)
{
    struct scratch s;
    if (!scratch_open_loop(&s, BYTES, 512, DISK_FILE_WRITE | DISK_FILE_DIRECT)) skip();
    kill_writers(&s.file, 5);
    scratch_drop(&s);
}

static char *shared_memory(void)
{
    char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    return memory;
}

static void check_memory(const char *memory, int value)
{
    for (size_t i = 0; i < BYTES; i += 512)
        assert_int_equal(memory[i], value);
}

/* A guest's memory outlives its worker. The file can only be read, by us and by the one that died. */
static void test_killed_reader(void **state)
{
    struct scratch s;
    struct errmsg e;
    scratch_open(&s, BYTES, DISK_FILE_WRITE | DISK_FILE_DIRECT);
    fill(&s.file, 'A');
    disk_file_close(&s.file);
    assert_int_equal(disk_file_open(&s.file, s.path, DISK_FILE_DIRECT, &e), 0);
    char *memory = shared_memory();
    for (int round = 0; round < 10; round++) {
        kill_one(&s.file, memory, false);
        assert_int_equal(disk_mark_wait(&s.file, MARK, soon(), &e), 0);
        memset(memory, 'X', BYTES);
        usleep(20000);
        check_memory(memory, 'X');
    }
    munmap(memory, BYTES);
    scratch_drop(&s);
}

/* ---- held back ---- */

/* The device, or the whole disk that a file lies on, as MAJOR:MINOR; throttling does not know partitions. */
static bool disk_under(const struct engine_file *f, char *out, size_t size)
{
    struct stat st;
    char path[96], line[32];
    if (fstat(f->fd, &st) < 0) return false;
    dev_t device = f->block_device ? st.st_rdev : st.st_dev;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/partition", major(device), minor(device));
    bool partition = access(path, F_OK) == 0;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%sdev", major(device), minor(device), partition ? "../" : "");
    FILE *file = fopen(path, "re");
    if (!file) return false;
    bool good = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    line[strcspn(line, "\n")] = 0;
    snprintf(out, size, "%s", line);
    return good;
}

static bool limit(const struct engine_file *f)
{
    char disk[32], text[64];
    if (!disk_under(f, disk, sizeof disk) || mkdir(GROUP, 0700) < 0) return false;
    snprintf(text, sizeof text, "%s %llu", disk, (unsigned long long)(BYTES * NS_PER_SECOND / HELD_BACK_NS));
    if (put_text(GROUP "/blkio.throttle.write_bps_device", text) &&
        put_text(GROUP "/blkio.throttle.read_bps_device", text))
        return true;
    rmdir(GROUP);
    return false;
}

/* What no device counts: what waits for its turn. */
static void kill_held_back(const struct engine_file *f, char *memory)
{
    struct errmsg e;
    fill(f, 'C');
    kill_one(f, memory, true);
    uint64_t start = clock_now_ns();
    int ret = disk_mark_wait(f, MARK, soon(), &e);
    uint64_t waited = clock_now_ns() - start;
    if (memory) memset(memory, 'X', BYTES);
    else fill(f, 'B');
    usleep(HELD_BACK_NS * 3 / 2 / 1000);
    rmdir(GROUP);
    assert_int_equal(ret, 0);
    assert_in_range(waited, HELD_BACK_NS / 4, 10 * HELD_BACK_NS);
    if (memory) check_memory(memory, 'X');
    else check_still(f, 'B');
}

static void test_held_back(void **state)
{
    struct scratch s;
    char *memory = shared_memory();
    for (unsigned i = 0; i < 4; i++) {
        unsigned flags = DISK_FILE_WRITE | DISK_FILE_DIRECT;
        if (i & 1) scratch_open(&s, BYTES, flags);
        else if (!scratch_open_loop(&s, BYTES, 512, flags)) skip();
        if (!limit(&s.file)) {
            scratch_drop(&s);
            skip();
        }
        kill_held_back(&s.file, i & 2 ? memory : NULL);
        scratch_drop(&s);
    }
    munmap(memory, BYTES);
}

/* ---- a stand-in ---- */

struct holder {
    struct engine_file file;
    uint64_t let_go_after_ns;
};

static void *let_go(void *arg)
{
    struct holder *h = arg;
    usleep((useconds_t)(h->let_go_after_ns / 1000));
    disk_file_close(&h->file);
    return NULL;
}

/* Marked through another description of the same file. */
static struct holder mark_other(const struct engine_file *f, uint64_t mark)
{
    struct holder h = {.file = *f};
    struct errmsg e;
    int old;
    assert_int_equal(disk_file_reopen(&h.file, &old, &e), 0);
    assert_int_equal(old, f->fd);
    assert_int_not_equal(h.file.fd, f->fd);
    assert_int_equal(fcntl(h.file.fd, F_GETFL), fcntl(f->fd, F_GETFL));
    assert_int_equal(disk_mark_set(&h.file, mark, &e), 0);
    return h;
}

static void test_waits_until_it_is_let_go(void **state)
{
    for (unsigned flags = 0; flags <= DISK_FILE_WRITE; flags++) {
        struct scratch s;
        struct errmsg e;
        pthread_t thread;
        scratch_open(&s, 4096, flags | DISK_FILE_DIRECT);
        struct holder h = mark_other(&s.file, MARK);
        h.let_go_after_ns = 100 * NS_PER_MS;
        uint64_t start = clock_now_ns();
        assert_int_equal(pthread_create(&thread, NULL, let_go, &h), 0);
        assert_int_equal(disk_mark_wait(&s.file, MARK, soon(), &e), 0);
        assert_in_range(clock_now_ns() - start, 100 * NS_PER_MS, 2 * NS_PER_SECOND);
        pthread_join(thread, NULL);
        scratch_drop(&s);
    }
}

static void test_limit(void **state)
{
    struct scratch s;
    struct errmsg e;
    scratch_open(&s, 4096, DISK_FILE_WRITE);
    struct holder h = mark_other(&s.file, MARK);
    uint64_t start = clock_now_ns();
    assert_int_equal(disk_mark_wait(&s.file, MARK, start + 50 * NS_PER_MS, &e), -ETIMEDOUT);
    assert_in_range(clock_now_ns() - start, 50 * NS_PER_MS, NS_PER_SECOND);
    assert_non_null(strstr(e.text, s.path));
    assert_non_null(strstr(e.text, "lslocks"));
    assert_int_equal(disk_mark_wait(&s.file, MARK, 0, &e), -ETIMEDOUT); /* looked at once all the same */
    int duplicate = dup(h.file.fd);
    disk_file_close(&h.file);
    assert_int_equal(disk_mark_wait(&s.file, MARK, 0, &e), -ETIMEDOUT); /* why nobody may have one */
    close(duplicate);
    assert_int_equal(disk_mark_wait(&s.file, MARK, 0, &e), 0);
    scratch_drop(&s);
}

/* A mark is as good as any other number, and is in nobody's way. */
static void test_marks(void **state)
{
    const uint64_t marks[] = {1, 100, 203, INT64_MAX, UINT64_MAX, UINT64_C(1) << 62, UINT64_C(3) << 62, MARK};
    struct scratch s;
    struct errmsg e;
    scratch_open(&s, 4096, DISK_FILE_WRITE);
    assert_int_equal(disk_mark_wait(&s.file, DISK_MARK_NONE, 0, &e), 0);
    for (unsigned i = 0; i < ARRAY_LEN(marks); i++) {
        struct holder h = {0};
        struct engine_file reader;
        assert_int_equal(disk_file_open(&h.file, s.path, DISK_FILE_WRITE | DISK_FILE_NO_LOCK, &e), 0);
        assert_int_equal(disk_mark_set(&h.file, marks[i], &e), 0);
        assert_int_equal(disk_mark_set(&s.file, marks[i], &e), 0); /* shared; and one's own does not count */
        assert_int_equal(disk_mark_wait(&s.file, marks[i], 0, &e), -ETIMEDOUT);
        disk_file_close(&s.file);
        assert_int_equal(disk_mark_wait(&h.file, marks[i], 0, &e), 0);
        assert_int_equal(disk_mark_wait(&h.file, disk_mark_new(), 0, &e), 0);
        /* Nor does it keep others from locking the image as they do. */
        assert_int_equal(disk_file_open(&reader, s.path, DISK_FILE_WRITE, &e), 0);
        s.file = reader;
        disk_file_close(&h.file);
    }
    assert_int_not_equal(disk_mark_new(), disk_mark_new());
    scratch_drop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_writer),
        cmocka_unit_test(test_held_back),
        cmocka_unit_test(test_killed_writer_on_a_device),
        cmocka_unit_test(test_killed_reader),
        cmocka_unit_test(test_waits_until_it_is_let_go),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
