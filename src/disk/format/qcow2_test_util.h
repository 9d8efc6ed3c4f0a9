/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the tests of qcow2: images, disks over them, blocking requests, a model of what a disk holds, and qemu-img as
 * the judge of every image.
 */
#ifndef DISK_FORMAT_QCOW2_TEST_UTIL_H
#define DISK_FORMAT_QCOW2_TEST_UTIL_H

#include "disk/test_util.h"

#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/checked.h"
#include "base/iov.h"
#include "disk/disk.h"
#include "disk/engine/fault.h"
#include "disk/format/qcow2_image.h"

#define MiB (UINT64_C(1) << 20)
#define GiB (UINT64_C(1) << 30)

/* ---- shell ---- */

/* Exit status; output is kept for the message. */
static inline int run_shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static char run_output[65536];

static inline int run_shell(const char *format, ...)
{
    char command[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command - 6, format, args);
    va_end(args);
    strcat(command, " 2>&1");
    FILE *p = popen(command, "r"); /* NOLINT(cert-env33-c): the tests' own command lines */
    assert_non_null(p);
    size_t n = fread(run_output, 1, sizeof run_output - 1, p);
    run_output[n] = 0;
    char rest[4096];
    while (fread(rest, 1, sizeof rest, p) > 0)
        continue;
    int status = pclose(p);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define run_ok(...)                                                                                                    \
    do {                                                                                                               \
        if (run_shell(__VA_ARGS__) != 0) fail_msg("%s", run_output);                                                   \
    } while (0)

/* Status 3 of qemu-img check is "leaks only". */
static inline void image_is_sound(const char *path, bool leaks_allowed)
{
    int status = run_shell("qemu-img check -U -f qcow2 %s", path);
    if (status == 0 || (leaks_allowed && status == 3)) return;
    fprintf(stderr, "%s\n", run_output); /* all of it: a message of cmocka's ends after a kilobyte */
    fail_msg("qemu-img check %s: %d", path, status);
}

/* ---- disks ---- */

struct disk {
    char path[64];
    struct engine_file file;
    struct layer *layer;
    struct engine *engine;
    struct layer_chan *chan;
    struct errmsg e;
};

/* In memory where possible, where a sync costs nothing; on a real file system for direct I/O. */
static bool scratch_on_disk;

static inline void name_make(char path[64])
{
    bool memory = !scratch_on_disk && access("/dev/shm", W_OK) == 0;
    strcpy(path, memory ? "/dev/shm/creedence-test-XXXXXX" : "scratch-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
}

static inline void image_make(char path[64], const struct qcow2_create_args *args)
{
    struct errmsg e = {""};
    struct engine_file f;
    struct engine *engine;
    name_make(path);
    assert_int_equal(engine_uring_new(&engine, 8, &e), 0);
    if (disk_file_open(&f, path, DISK_FILE_WRITE, &e) < 0) fail_msg("%s", e.text);
    if (qcow2_create(engine, &f, args, &e) < 0) fail_msg("%s", e.text);
    engine_free(engine);
    disk_file_close(&f);
}

struct disk_options {
    unsigned flags; /* disk_file_flags */
    const struct engine_maker *maker;
    struct disk *below;
    struct disk_stash stash;
    uint64_t budget;
    const struct engine_maker *chan_maker; /* NULL: like maker */
};

/* The kernel may hold the lock of whoever had it last for a moment longer, while it takes a ring apart. */
static inline int file_open_patiently(struct engine_file *f, const char *path, unsigned flags, struct errmsg *e)
{
    int ret = disk_file_open(f, path, flags, e);
    for (unsigned i = 0; ret == -EAGAIN && i < 2000; i++) {
        usleep(1000);
        ret = disk_file_open(f, path, flags, e);
    }
    return ret;
}

static inline int disk_try_open(struct disk *d, const char *path, const struct disk_options *o)
{
    if (d->path != path) strcpy(d->path, path);
    d->layer = NULL;
    d->engine = NULL;
    int ret = file_open_patiently(&d->file, d->path, o->flags, &d->e);
    if (ret < 0) return ret;
    const struct engine_maker *maker = o->maker ? o->maker : &engine_uring_maker;
    struct layer_args args = {.file = &d->file,
                              .below = o->below ? o->below->layer : NULL,
                              .writable = o->flags & DISK_FILE_WRITE,
                              .stash = o->stash,
                              .maker = maker,
                              .metadata_budget_bytes = o->budget};
    ret = layer_qcow2_open(&d->layer, &args, &d->e);
    if (ret < 0) {
        disk_file_close(&d->file);
        d->layer = NULL;
        return ret;
    }
    const struct engine_maker *chan_maker = o->chan_maker ? o->chan_maker : maker;
    if (o->below) d->engine = o->below->engine;
    else assert_int_equal(chan_maker->make(chan_maker->arg, &d->engine, &d->e), 0);
    assert_int_equal(d->layer->ops->chan_open(d->layer, d->engine, o->below ? o->below->chan : NULL, &d->chan), 0);
    return 0;
}

static inline void disk_open(struct disk *d, const char *path, const struct disk_options *o)
{
    if (disk_try_open(d, path, o) < 0) fail_msg("%s", d->e.text);
}

static inline int disk_try_close(struct disk *d, bool last)
{
    d->layer->ops->chan_close(d->chan);
    int ret = d->layer->ops->close(d->layer, &d->e);
    if (last) engine_free(d->engine);
    disk_file_close(&d->file);
    return ret;
}

static inline void disk_close(struct disk *d, bool last)
{
    d->e.text[0] = 0;
    if (disk_try_close(d, last) < 0) fail_msg("%s", d->e.text);
}

/* ---- blocking requests ---- */

struct sync_req {
    struct disk_req req;
    struct iovec iov;
    int res;
    bool finished;
};

static inline void sync_done(struct disk_req *req, int res)
{
    struct sync_req *s = container_of(req, struct sync_req, req);
    assert_false(s->finished);
    s->res = res;
    s->finished = true;
}

static inline int disk_wait(struct disk *d, struct sync_req *s)
{
    while (!s->finished)
        assert_true(engine_sleep(d->engine, UINT64_MAX) >= 0);
    return s->res;
}

static inline int disk_run(struct disk *d, struct sync_req *s)
{
    s->req.done = sync_done;
    layer_submit(d->chan, &s->req);
    return disk_wait(d, s);
}

/* Not waited for. */
static inline void disk_begin(struct disk *d, struct sync_req *s, enum disk_op op, unsigned flags, uint64_t offset,
                              uint64_t length, void *buf)
{
    *s = (struct sync_req){.iov = {buf, length},
                           .req = {.op = op,
                                   .flags = flags,
                                   .offset_bytes = offset,
                                   .length_bytes = length,
                                   .iov = buf ? &s->iov : NULL,
                                   .iov_count = buf ? 1 : 0,
                                   .done = sync_done}};
    layer_submit(d->chan, &s->req);
}

static inline int disk_io(struct disk *d, enum disk_op op, unsigned flags, uint64_t offset, uint64_t length, void *buf)
{
    struct sync_req s;
    disk_begin(d, &s, op, flags, offset, length, buf);
    return disk_wait(d, &s);
}

static inline void disk_write(struct disk *d, uint64_t offset, uint64_t length, const void *buf)
{
    assert_int_equal(disk_io(d, DISK_WRITE, 0, offset, length, (void *)(uintptr_t)buf), 0);
}

static inline void disk_read(struct disk *d, uint64_t offset, uint64_t length, void *buf)
{
    assert_int_equal(disk_io(d, DISK_READ, 0, offset, length, buf), 0);
}

static inline void disk_flush(struct disk *d)
{
    assert_int_equal(disk_io(d, DISK_FLUSH, 0, 0, 0, NULL), 0);
}

static inline struct disk_extent disk_map(struct disk *d, uint64_t offset, uint64_t length)
{
    struct sync_req s = {.req = {.op = DISK_MAP, .offset_bytes = offset, .length_bytes = length}};
    assert_int_equal(disk_run(d, &s), 0);
    return s.req.map;
}

/* Sleep until the layer has nothing left to do in this thread. */
static inline void disk_settle(struct disk *d)
{
    while (engine_poll(d->engine) > 0)
        continue;
}

/* The content of an image as qemu-img reads it must equal this. */
static inline void image_equals(const char *path, const void *data, uint64_t bytes)
{
    char raw[80];
    snprintf(raw, sizeof raw, "%s.raw", path);
    FILE *f = fopen(raw, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    fclose(f);
    int status = run_shell("qemu-img compare -U -f qcow2 -F raw %s %s", path, raw);
    unlink(raw);
    if (status) fail_msg("%s differs: %s", path, run_output);
}

#endif
