/* SPDX-License-Identifier: Apache-2.0 */
/* Opening image files: what is found out about them, clear refusals, and locks that real QEMU programs honour. */
#include "disk/test_util.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "loop/clock.h"

static struct errmsg msg;

static int open_again(const struct scratch *s, unsigned flags)
{
    struct engine_file f;
    int ret = disk_file_open(&f, s->path, flags, &msg);
    if (ret == 0) disk_file_close(&f);
    return ret;
}

static void assert_message(const char *part)
{
    if (!strstr(msg.text, part)) fail_msg("\"%s\" is not in the message: %s", part, msg.text);
}

/* ---- What is found out ---- */

static void test_describes_a_file(void **state)
{
    struct scratch s;
    scratch_open(&s, 1000000, DISK_FILE_WRITE);
    assert_int_equal(s.file.size_bytes, 1000000);
    assert_true(s.file.writable && !s.file.direct && !s.file.block_device && !s.file.in_memory);
    assert_int_equal(s.file.mem_align, 1);
    assert_int_equal(s.file.io_align, 1);
    assert_ptr_equal(s.file.name, s.path);
    assert_true(fcntl(s.file.fd, F_GETFD) & FD_CLOEXEC);
    assert_false(fcntl(s.file.fd, F_GETFL) & O_NONBLOCK);
    scratch_drop(&s);
}

static void test_alignment_is_the_real_one(void **state)
{
    struct scratch s;
    scratch_open(&s, 1 << 20, DISK_FILE_DIRECT | DISK_FILE_WRITE);
    assert_true(s.file.direct && s.file.writable);
    assert_true(is_power_of_2(s.file.mem_align) && is_power_of_2(s.file.io_align));
    autofree char *buf = aligned_alloc(65536, 131072);
    memset(buf, 1, 131072);
    assert_int_equal(pwrite(s.file.fd, buf, 131072, 0), 131072); /* over a hole nothing is checked */
    /* It works, and less does not. */
    assert_int_equal(pread(s.file.fd, buf + s.file.mem_align, s.file.io_align, s.file.io_align), s.file.io_align);
    assert_true(pread(s.file.fd, buf, s.file.io_align, s.file.io_align / 2) < 0);
    scratch_drop(&s);
}

static void test_adopts_a_descriptor(void **state)
{
    struct scratch s;
    struct engine_file f;
    scratch_make(&s, 4096);
    assert_int_equal(disk_file_adopt(&f, open(s.path, O_RDWR | O_NONBLOCK), "adopted", &msg), 0);
    assert_true(f.writable && f.size_bytes == 4096);
    assert_false(fcntl(f.fd, F_GETFL) & O_NONBLOCK);
    disk_file_close(&f);
    disk_file_close(&f); /* harmless */

    int fd = open(s.path, O_WRONLY);
    assert_int_equal(disk_file_adopt(&f, fd, "adopted", &msg), -EINVAL);
    assert_message("adopted");
    assert_int_equal(fcntl(fd, F_GETFD), -1); /* taken over all the same */
    assert_int_equal(f.fd, -1);

    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    assert_int_equal(disk_file_adopt(&f, sockets[0], "a socket", &msg), -EINVAL);
    assert_message("regular file or a block device");
    assert_int_equal(disk_file_adopt(&f, 12345, "closed", &msg), -EBADF);
    close(sockets[1]);
    scratch_drop(&s);
}

static void test_identity(void **state)
{
    struct scratch s, t;
    struct disk_file_identity a, b;
    scratch_open(&s, 4096, DISK_FILE_WRITE);
    scratch_open(&t, 4096, DISK_FILE_WRITE);
    assert_int_equal(disk_file_identify(&s.file, &a), 0);
    assert_int_equal(disk_file_identify(&s.file, &b), 0);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(disk_file_identify(&t.file, &b), 0);
    assert_true(a.inode != b.inode);
    usleep(20000); /* a tick of the file system's clock */
    assert_int_equal(pwrite(s.file.fd, "x", 1, 0), 1);
    assert_int_equal(disk_file_identify(&s.file, &b), 0);
    assert_true(a.inode == b.inode && a.mtime_ns != b.mtime_ns);
    scratch_drop(&s);
    scratch_drop(&t);
}

/* ---- Refusals ---- */

static void test_refusals(void **state)
{
    struct engine_file f;
    struct scratch s;
    scratch_make(&s, 512);
    assert_int_equal(disk_file_open(&f, "/nonexistent/x", 0, &msg), -ENOENT);
    assert_message("/nonexistent/x: cannot open for reading");
    assert_int_equal(disk_file_open(&f, ".", 0, &msg), -EINVAL);
    assert_message("a regular file or a block device is expected");
    assert_int_equal(disk_file_open(&f, "/dev/null", 0, &msg), -EINVAL);
    assert_int_equal(disk_file_open(&f, s.path, DISK_FILE_WRITE | DISK_FILE_CREATE, &msg), -EEXIST);
    assert_message("cannot create");
    unlink(s.path);
    assert_int_equal(mkfifo(s.path, 0600), 0);
    assert_int_equal(disk_file_open(&f, s.path, 0, &msg), -EINVAL); /* and does not hang */
    unlink(s.path);
    assert_int_equal(disk_file_open(&f, s.path, DISK_FILE_WRITE | DISK_FILE_CREATE, &msg), 0);
    assert_int_equal(f.size_bytes, 0);
    disk_file_close(&f);
    unlink(s.path);
}

/* ---- Locks among ourselves ---- */

static void test_locks(void **state)
{
    struct scratch s;
    scratch_open(&s, 4096, DISK_FILE_WRITE);
    assert_int_equal(open_again(&s, DISK_FILE_WRITE), -EAGAIN);
    assert_message(s.path);
    assert_message("in use by another program");
    assert_int_equal(open_again(&s, 0), -EAGAIN);
    assert_int_equal(open_again(&s, DISK_FILE_WRITE | DISK_FILE_NO_LOCK), 0);

    int dup_fd = dup(s.file.fd); /* what a daemon keeps while a worker is replaced */
    disk_file_close(&s.file);
    assert_int_equal(open_again(&s, 0), -EAGAIN);
    close(dup_fd);
    assert_int_equal(open_again(&s, DISK_FILE_WRITE), 0);

    assert_int_equal(disk_file_open(&s.file, s.path, 0, &msg), 0); /* a base */
    assert_int_equal(open_again(&s, 0), 0);
    assert_int_equal(open_again(&s, DISK_FILE_WRITE), -EAGAIN);
    assert_message("does not let others write");
    scratch_drop(&s);
}

static void test_a_lock_that_is_not_waited_for(void **state)
{
    struct scratch s;
    scratch_open(&s, 4096, DISK_FILE_WRITE);
    uint64_t start_ns = clock_now_ns();
    for (int i = 0; i < 60; i++) /* half a minute, otherwise */
        assert_int_equal(open_again(&s, DISK_FILE_WRITE | DISK_FILE_NO_WAIT), -EAGAIN);
    assert_message("in use by another program");
    assert_true(clock_now_ns() - start_ns < 15 * NS_PER_SECOND);
    disk_file_close(&s.file);
    assert_int_equal(open_again(&s, DISK_FILE_WRITE | DISK_FILE_NO_WAIT), 0);
    scratch_drop(&s);
}

/* Writes that a killed process has left in the kernel hold the description that they go through, and nothing else. */
static void test_locks_of_one_opened_again(void **state)
{
    struct scratch s;
    for (unsigned flags = 0; flags <= DISK_FILE_WRITE; flags++) {
        int old;
        scratch_make(&s, 4096);
        assert_int_equal(disk_file_open(&s.file, s.path, flags, &msg), 0);
        assert_int_equal(disk_file_reopen(&s.file, &old, &msg), 0);
        assert_int_equal(open_again(&s, DISK_FILE_WRITE), -EAGAIN);
        close(old);
        assert_int_equal(open_again(&s, DISK_FILE_WRITE), flags ? -EAGAIN : 0);
        disk_file_close(&s.file);
        assert_int_equal(open_again(&s, DISK_FILE_WRITE), 0);
        scratch_drop(&s);
    }
}

/* ---- Locks against QEMU ---- */

static bool have(const char *program)
{
    char command[128];
    snprintf(command, sizeof command, "command -v %s >/dev/null", program);
    return shell(command) == 0;
}

/* Exit status of a shell command about the file, which finds its path in $F. */
static int run(const char *command, const char *path)
{
    setenv("F", path, 1);
    int status = shell(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void check_qemu_is_refused(const char *format, unsigned flags)
{
    struct scratch s;
    char command[256];
    scratch_make(&s, 0);
    snprintf(command, sizeof command, "qemu-img create -q -f %s $F 1M", format);
    assert_int_equal(run(command, s.path), 0);
    assert_int_equal(disk_file_open(&s.file, s.path, flags, &msg), 0);
    snprintf(command, sizeof command, "qemu-io -f %s -c 'write 0 512' $F 2>&1 | grep -q lock", format);
    assert_int_equal(run(command, s.path), 0);
    snprintf(command, sizeof command, "qemu-io -f %s -r -c 'read 0 512' $F 2>&1 | grep -q lock", format);
    /* Reading a raw image that changes does no harm; QEMU lets it. */
    bool may_read = !(flags & DISK_FILE_WRITE) || strcmp(format, "raw") == 0;
    assert_int_equal(run(command, s.path), may_read ? 1 : 0);
    disk_file_close(&s.file);
    snprintf(command, sizeof command, "qemu-io -f %s -c 'write 0 512' $F >/dev/null 2>&1", format);
    assert_int_equal(run(command, s.path), 0); /* and let in when we are gone */
    scratch_drop(&s);
}

static void test_qemu_is_refused(void **state)
{
    if (!have("qemu-io") || !have("qemu-img")) skip();
    check_qemu_is_refused("raw", DISK_FILE_WRITE);
    check_qemu_is_refused("qcow2", DISK_FILE_WRITE);
    check_qemu_is_refused("raw", 0);
    check_qemu_is_refused("qcow2", 0);
}

static bool is_locked_by(const struct scratch *s, const char *bytes)
{
    char command[256];
    struct stat st;
    assert_int_equal(stat(s->path, &st), 0);
    snprintf(command, sizeof command, "grep -q 'OFDLCK.*:%lu %s' /proc/locks", (unsigned long)st.st_ino, bytes);
    return shell(command) == 0;
}

/* A qemu-io that waits for commands holds the image; a pipe that we close ends it. */
static void check_qemu_holds(const char *mode, bool reader_may, bool writer_may)
{
    struct scratch s;
    char command[256];
    scratch_make(&s, 0);
    assert_int_equal(run("qemu-img create -q -f qcow2 $F 1M", s.path), 0);
    snprintf(command, sizeof command, "exec qemu-io -f qcow2 %s %s >/dev/null", mode, s.path);
    FILE *qemu = shell_open(command, "we");
    assert_non_null(qemu);
    int patience = 500;
    while (!is_locked_by(&s, "203") && patience-- > 0)
        usleep(10000);
    assert_true(patience > 0);
    assert_int_equal(open_again(&s, DISK_FILE_WRITE), writer_may ? 0 : -EAGAIN);
    assert_int_equal(open_again(&s, 0), reader_may ? 0 : -EAGAIN);
    pclose(qemu);
    assert_int_equal(open_again(&s, DISK_FILE_WRITE), 0);
    scratch_drop(&s);
}

static void test_qemu_holds(void **state)
{
    if (!have("qemu-io") || !have("qemu-img") || access("/proc/locks", R_OK) < 0) skip();
    check_qemu_holds("", false, false);
    check_qemu_holds("-r", true, false);
}

/* ---- Block devices ---- */

static void test_block_device(void **state)
{
    struct scratch s;
    if (!scratch_open_loop(&s, 1 << 20, 4096, DISK_FILE_WRITE | DISK_FILE_DIRECT)) skip();
    assert_true(s.file.block_device && s.file.writable && s.file.direct);
    assert_int_equal(s.file.size_bytes, 1 << 20);
    assert_int_equal(s.file.io_align, 4096);
    struct engine_file again;
    assert_int_equal(disk_file_open(&again, s.device, DISK_FILE_WRITE, &msg), -EAGAIN);
    assert_message(s.device);
    struct disk_file_identity a;
    assert_int_equal(disk_file_identify(&s.file, &a), 0);
    assert_int_equal(a.size_bytes, 1 << 20);
    scratch_drop(&s);
}

/* A file system that does not say how direct I/O must be aligned, and one that has it only in name. */
static void test_alignment_is_found_out(void **state)
{
    char path[] = "/dev/shm/file-test-XXXXXX", content[4096] = "x";
    int fd = mkstemp(path);
    if (fd < 0) skip();
    struct engine_file f;
    assert_int_equal(disk_file_open(&f, path, 0, &msg), 0);
    disk_file_close(&f);
    for (int filled = 0; filled < 2; filled++) {
        int ret = disk_file_open(&f, path, DISK_FILE_DIRECT, &msg);
        if (ret == 0) {
            assert_true(is_power_of_2(f.io_align) && f.io_align >= 512 && f.mem_align == f.io_align);
            disk_file_close(&f);
        } else {
            assert_int_equal(ret, -EINVAL); /* a tmpfs of older kernels */
            assert_message("open it buffered");
        }
        assert_int_equal(write(fd, content, sizeof content), sizeof content);
    }
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_describes_a_file),
        cmocka_unit_test(test_alignment_is_the_real_one),
        cmocka_unit_test(test_adopts_a_descriptor),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_locks),
        cmocka_unit_test(test_a_lock_that_is_not_waited_for),
        cmocka_unit_test(test_locks_of_one_opened_again),
        cmocka_unit_test(test_qemu_is_refused),
        cmocka_unit_test(test_qemu_holds),
        cmocka_unit_test(test_block_device),
        cmocka_unit_test(test_alignment_is_found_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
