/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front end against a server that is not ours: qemu-storage-daemon (its path is argv[1]) on a raw file with a
 * known content. So the front end cannot be wrong in the way in which our own back end would be wrong too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "pattern.h"

enum { DISK_BYTES = 8 << 20, WAIT_MS = 10000 };

static const char *daemon_path;

struct server {
    char dir[64], socket[96], image[96];
    pid_t pid;
};

static void server_start(struct server *s)
{
    char file[256], export[256];
    snprintf(file, sizeof file, "driver=file,node-name=disk,filename=%s", s->image);
    snprintf(export, sizeof export,
             "type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=%s,num-queues=2,writable=on", s->socket);
    unlink(s->socket);
    s->pid = fork();
    if (s->pid == 0) {
        execl(daemon_path, daemon_path, "--blockdev", file, "--export", export, (char *)NULL);
        _exit(127);
    }
    assert_true(s->pid > 0);
}

static void server_kill(struct server *s)
{
    if (s->pid <= 0) return;
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    s->pid = 0;
}

static int server_setup(void **state)
{
    struct errmsg e;
    struct server *s = calloc(1, sizeof *s);
    if (!s) return -1;
    strcpy(s->dir, "/tmp/creedence-frontend-XXXXXX");
    if (!mkdtemp(s->dir)) return -1;
    snprintf(s->socket, sizeof s->socket, "%s/disk.sock", s->dir);
    snprintf(s->image, sizeof s->image, "%s/disk.raw", s->dir);
    if (pattern_make_file(s->image, DISK_BYTES, &e) < 0) return -1;
    server_start(s);
    *state = s;
    return 0;
}

static int server_teardown(void **state)
{
    struct server *s = *state;
    server_kill(s);
    unlink(s->socket);
    unlink(s->image);
    rmdir(s->dir);
    free(s);
    return 0;
}

static struct frontend *attach(const struct server *s, const struct frontend_args *how)
{
    struct errmsg e;
    struct frontend *f;
    struct frontend_args a = *how;
    a.socket_path = s->socket;
    a.connect_wait_ms = WAIT_MS;
    if (frontend_new(&f, &a, &e) < 0) fail_msg("%s", e.text);
    if (frontend_attach(f, &e) < 0) fail_msg("%s", e.text);
    assert_int_equal(f->capacity_bytes, DISK_BYTES);
    return f;
}

static void detach(struct frontend *f)
{
    struct errmsg e;
    if (frontend_detach(f, &e) < 0) fail_msg("%s", e.text);
    frontend_free(f);
}

static void expect_pattern(struct fe_queue *q, uint64_t offset, uint32_t length)
{
    assert_int_equal(fe_queue_do(q, VIRTIO_BLK_T_IN, offset / 512, length, WAIT_MS), VIRTIO_BLK_S_OK);
    assert_int_equal(pattern_check(q->slot[0].data, offset, length, PATTERN_FULL), -1);
}

/* Reads, a write, a flush, each on every queue, for one way of setting things up. */
static void exercise(const struct server *s, const struct frontend_args *how)
{
    struct frontend *f = attach(s, how);
    for (unsigned i = 0; i < f->args.queues; i++) {
        struct fe_queue *q = &f->queue[i];
        uint64_t last = DISK_BYTES - f->args.slot_bytes;
        expect_pattern(q, 0, f->args.slot_bytes);
        expect_pattern(q, last, f->args.slot_bytes);
        memset(q->slot[0].data, 0x5a, 512);
        assert_int_equal(fe_queue_do(q, VIRTIO_BLK_T_OUT, 8, 512, WAIT_MS), VIRTIO_BLK_S_OK);
        assert_int_equal(fe_queue_do(q, VIRTIO_BLK_T_FLUSH, 0, 0, WAIT_MS), VIRTIO_BLK_S_OK);
        assert_int_equal(fe_queue_do(q, VIRTIO_BLK_T_IN, 8, 512, WAIT_MS), VIRTIO_BLK_S_OK);
        assert_int_equal(q->slot[0].data[511], 0x5a);
        pattern_fill(q->slot[0].data, 4096, 512);
        assert_int_equal(fe_queue_do(q, VIRTIO_BLK_T_OUT, 8, 512, WAIT_MS), VIRTIO_BLK_S_OK);
        assert_int_not_equal(fe_queue_do(q, VIRTIO_BLK_T_IN, DISK_BYTES / 512, 512, WAIT_MS), VIRTIO_BLK_S_OK);
    }
    detach(f);
}

static void test_kinds(void **state)
{
    static const struct frontend_args kinds[] = {
        {.queues = 1},
        {.queues = 2, .depth = 4},
        {.event_idx = true, .depth = 8},
        {.indirect = true, .slot_bytes = 65536, .segment_bytes = 4096},
        {.slot_bytes = 65536, .segment_bytes = 8192},
        {.regions = 4, .slot_bytes = 262144, .queue_size = 64}, /* a buffer per region counts as a descriptor */
        {.mem_slots = true, .regions = 3, .slot_bytes = 131072, .queue_size = 64},
        {.event_idx = true, .indirect = true, .queues = 2, .queue_size = 128, .depth = 64},
    };
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        exercise(*state, &kinds[i]);
    }
}

static void test_packed_refused(void **state)
{
    struct errmsg e;
    struct frontend *f;
    const struct server *s = *state;
    struct frontend_args a = {.socket_path = s->socket, .connect_wait_ms = WAIT_MS, .packed = true};
    assert_int_equal(frontend_new(&f, &a, &e), 0);
    int ret = frontend_attach(f, &e);
    if (ret == 0) skip(); /* a later version that has packed virtqueues */
    assert_int_equal(ret, -ENOTSUP);
    assert_non_null(strstr(e.text, "packed"));
    frontend_free(f);
}

/* The daemon is killed; with another one the front end goes on, and what was in flight completes. */
static void test_reconnect(void **state)
{
    struct errmsg e;
    struct server *s = *state;
    struct frontend_args how = {.depth = 4, .no_inflight = true};
    struct frontend *f = attach(s, &how);
    expect_pattern(&f->queue[0], 4096, 4096);
    server_kill(s);
    assert_false(frontend_alive(f));
    fe_queue_add(&f->queue[0], 1, VIRTIO_BLK_T_IN, 16, 4096);
    fe_queue_submit(&f->queue[0]);
    server_start(s);
    if (frontend_attach(f, &e) < 0) fail_msg("%s", e.text);
    for (unsigned waited = 0; f->queue[0].in_flight; waited++) {
        uint16_t done;
        assert_true(waited < WAIT_MS);
        assert_true(fe_queue_reap(&f->queue[0], &done, 1) >= 0);
        usleep(1000);
    }
    assert_int_equal(pattern_check(f->queue[0].slot[1].data, 8192, 4096, PATTERN_FULL), -1);
    detach(f);
}

static void test_nobody_there(void **state)
{
    struct errmsg e;
    struct frontend *f;
    struct frontend_args a = {.socket_path = "/nonexistent/disk.sock"};
    assert_int_equal(frontend_new(&f, &a, &e), 0);
    assert_int_equal(frontend_attach(f, &e), -ENOENT);
    assert_non_null(strstr(e.text, "/nonexistent/disk.sock"));
    frontend_free(f);
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    daemon_path = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kinds, server_setup, server_teardown),
        cmocka_unit_test_setup_teardown(test_packed_refused, server_setup, server_teardown),
        cmocka_unit_test_setup_teardown(test_reconnect, server_setup, server_teardown),
        cmocka_unit_test(test_nobody_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
