/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flushes of a buffered disk that loses writes: a loop device over a sparse file on a file system that is full. What the kernel
 * tells to one flush only, no other may take for a success.
 */
#include "disk/sync.h"

#include "disk/test_util.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "disk/disk.h"

#define LOST_BYTES (256u << 10)

static struct scratch lossy;

static void fill_up(void)
{
    static const char buf[4096] = "x";
    int fd = open("filler", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (write(fd, buf, sizeof buf) > 0) {
    }
    close(fd);
}

static int lossy_open(void **state)
{
    char directory[] = "lossy-XXXXXX", before[4096];
    (void)state;
    lossy.file.fd = -1;
    if (geteuid() != 0 || !getcwd(before, sizeof before) || !mkdtemp(directory)) return 0;
    if (mount("none", directory, "tmpfs", 0, "size=64k") == 0) {
        if (chdir(directory) == 0 && scratch_open_loop(&lossy, 1 << 20, 512, DISK_FILE_WRITE)) fill_up();
        if (chdir(before) < 0) return -1;
        umount2(directory, MNT_DETACH); /* until the device is gone */
    }
    rmdir(directory);
    return 0;
}

static int lossy_drop(void **state)
{
    char command[128];
    (void)state;
    if (lossy.file.fd < 0) return 0;
    disk_file_close(&lossy.file);
    snprintf(command, sizeof command, "losetup -d %s", lossy.device);
    return shell(command);
}

/* One more description of it. */
static struct engine_file another(void)
{
    struct engine_file f = lossy.file;
    struct errmsg e;
    int old;
    if (lossy.file.fd < 0) skip();
    assert_int_equal(disk_file_reopen(&f, &old, &e), 0);
    return f;
}

static void write_what_is_lost(const struct engine_file *f)
{
    static char buf[LOST_BYTES];
    assert_int_equal(pwrite(f->fd, buf, sizeof buf, 0), sizeof buf);
}

static int flush(const struct engine_file *f)
{
    return fdatasync(f->fd) < 0 ? -errno : 0;
}

static void test_told_to_another_queue(void **state)
{
    (void)state;
    struct engine_file f = another(), witness = another();
    struct disk_sync s, blind;
    disk_sync_init(&s, witness.fd);
    disk_sync_init(&blind, -1);
    assert_int_equal(disk_sync_result(&s, &f, 0), 0);
    write_what_is_lost(&f);
    assert_true(flush(&f) < 0); /* of a queue whose thread has not heard of it yet */
    int second = flush(&f);
    assert_int_equal(second, 0); /* the kernel has said it */
    assert_int_equal(disk_sync_result(&blind, &f, second), 0);
    assert_int_equal(disk_sync_result(&s, &f, second), -EIO);
    assert_true(disk_sync_failed(&s));
    assert_int_equal(disk_sync_result(&s, &f, flush(&f)), -EIO); /* for good */
    disk_file_close(&f);
    disk_file_close(&witness);
    disk_sync_destroy(&s);
    disk_sync_destroy(&blind);
}

static void test_told_to_a_process_that_died(void **state)
{
    (void)state;
    struct engine_file witness = another();
    struct disk_sync s;
    int status;
    pid_t child = fork();
    if (child == 0) {
        struct engine_file own = another();
        write_what_is_lost(&own);
        _exit(flush(&own) < 0 ? 9 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 9);
    struct engine_file f = another();
    disk_sync_init(&s, witness.fd);
    assert_int_equal(flush(&f), 0);
    assert_int_equal(disk_sync_result(&s, &f, 0), -EIO);
    disk_file_close(&f);
    disk_file_close(&witness);
    disk_sync_destroy(&s);
}

static void test_kept(void **state)
{
    (void)state;
    const struct engine_file buffered = {.fd = -1}, direct = {.fd = -1, .direct = true};
    _Atomic bool first = false, second = false;
    struct disk_sync a, b;
    disk_sync_init(&a, -1);
    disk_sync_init(&b, -1);
    disk_sync_keep(&a, &first);
    assert_int_equal(disk_sync_result(&a, &direct, -EIO), -EIO);
    assert_int_equal(disk_sync_result(&a, &buffered, 0), 0);
    assert_false(first);
    assert_int_equal(disk_sync_result(&a, &buffered, -ENOSPC), -ENOSPC);
    assert_int_equal(disk_sync_result(&a, &buffered, 0), -EIO);
    assert_true(first);
    disk_sync_keep(&a, &second); /* it moves on */
    assert_true(second);
    disk_sync_keep(&a, NULL);
    disk_sync_keep(&b, &second); /* a process that comes after */
    assert_int_equal(disk_sync_result(&b, &buffered, 0), -EIO);
    disk_sync_destroy(&a);
    disk_sync_destroy(&b);
}

struct asked {
    struct disk_req req;
    int res; /* 1: none yet */
};

static void note_done(struct disk_req *req, int res)
{
    container_of(req, struct asked, req)->res = res;
}

static void test_a_layer_asks(void **state)
{
    (void)state;
    struct engine_file f = another(), witness = another();
    struct disk_sync s;
    struct errmsg e;
    struct layer *l;
    struct layer_chan *c;
    struct engine *engine = new_engine(4);
    disk_sync_init(&s, witness.fd);
    assert_int_equal(layer_raw_open(&l, &(struct layer_args){.file = &f, .writable = true, .sync = &s}, &e), 0);
    assert_int_equal(l->ops->chan_open(l, engine, NULL, &c), 0);
    for (int expected = 0; expected >= -EIO; expected -= EIO) {
        struct asked a = {.req = {.op = DISK_FLUSH, .done = note_done}, .res = 1};
        l->ops->submit(c, &a.req);
        while (a.res == 1)
            engine_sleep(engine, UINT64_MAX);
        assert_int_equal(a.res, expected);
        write_what_is_lost(&f);
        assert_true(flush(&f) < 0);
    }
    l->ops->chan_close(c);
    assert_int_equal(l->ops->close(l, &e), -EIO);
    engine_free(engine);
    disk_file_close(&f);
    disk_file_close(&witness);
    disk_sync_destroy(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_told_to_another_queue),
        cmocka_unit_test(test_told_to_a_process_that_died),
        cmocka_unit_test(test_a_layer_asks),
        cmocka_unit_test(test_kept),
    };
    return cmocka_run_group_tests(tests, lossy_open, lossy_drop);
}
