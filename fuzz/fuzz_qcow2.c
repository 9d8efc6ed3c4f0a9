/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile image: the input is a byte of options and then the file. It is opened for reading and mapped and
 * read, opened for writing (with a stash made of the input's end, when asked for) and worked on, and last checked
 * and repaired. Whatever comes: no crash, no hang, and an image that was repaired without a remaining error is found sound.
 *
 * The file is a memfd, the engine below does its I/O on the spot, so that runs are fast and repeatable but for the
 * keeper's thread.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/iov.h"
#include "base/log.h"
#include "disk/disk.h"
#include "disk/file.h"
#include "disk/format/qcow2_image.h"
#include "disk/format/qcow2_stash.h"
#include "loop/clock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define IMAGE_MAX (1u << 20)
#define GROWTH_MAX (64u << 20) /* a write past it fails: ENOSPC */
#define STASH_BYTES QCOW2_STASH_MIN_BYTES
#define WATCHES_MAX 4

/* ---- an engine that does everything at once ---- */

struct plain {
    struct engine base;
    struct list done;
    struct engine_watch *watch[WATCHES_MAX];
    unsigned watches;
};

static int transfer(struct engine_io *io)
{
    uint64_t at = io->offset_bytes;
    for (unsigned i = 0; i < io->iov_count; i++) {
        char *p = io->iov[i].iov_base;
        for (size_t left = io->iov[i].iov_len; left;) {
            ssize_t n = io->op == ENGINE_READ ? pread(io->file->fd, p, left, (off_t)at)
                                              : pwrite(io->file->fd, p, left, (off_t)at);
            if (n < 0) return io->op == ENGINE_READ ? 0 : -EIO; /* offsets past what a file can have */
            if (n == 0) {
                memset(p, 0, left);
                n = (ssize_t)left;
            }
            p += n;
            at += (uint64_t)n;
            left -= (size_t)n;
        }
    }
    return 0;
}

static void plain_submit(struct engine *e, struct engine_io *io)
{
    struct plain *p = container_of(e, struct plain, base);
    int res = 0;
    if (io->op == ENGINE_WRITE && !range_fits(io->offset_bytes, io->length_bytes, GROWTH_MAX)) res = -ENOSPC;
    else if (io->op == ENGINE_READ || io->op == ENGINE_WRITE) res = transfer(io);
    else if (io->op != ENGINE_SYNC) res = -EOPNOTSUPP;
    io->priv.res = res;
    list_push_back(&p->done, &io->priv.node);
}

static unsigned run_watches(struct plain *p, uint64_t wait_ns)
{
    struct pollfd fds[WATCHES_MAX];
    unsigned ran = 0, count = p->watches;
    for (unsigned i = 0; i < count; i++)
        fds[i] = (struct pollfd){.fd = p->watch[i]->fd, .events = POLLIN};
    int wait_ms = wait_ns == UINT64_MAX ? -1 : (int)div_round_up(wait_ns, NS_PER_MS);
    if (poll(fds, count, wait_ms) <= 0) return 0;
    for (unsigned i = 0; i < count; i++) {
        if (!fds[i].revents) continue;
        uint64_t drained;
        if (read(fds[i].fd, &drained, sizeof drained) < 0) continue;
        p->watch[i]->ready(p->watch[i]);
        ran++;
    }
    return ran;
}

static int plain_poll(struct engine *e, uint64_t wait_ns)
{
    struct plain *p = container_of(e, struct plain, base);
    unsigned ran = engine_run_deferred(e);
    struct list *node;
    while ((node = list_pop_front(&p->done))) {
        struct engine_io *io = container_of(node, struct engine_io, priv.node);
        io->done(io, io->priv.res);
        ran++;
    }
    return (int)(ran + run_watches(p, ran ? 0 : wait_ns));
}

static int plain_watch(struct engine *e, struct engine_watch *w)
{
    struct plain *p = container_of(e, struct plain, base);
    if (p->watches == WATCHES_MAX) return -ENOSPC;
    p->watch[p->watches++] = w;
    return 0;
}

static void plain_unwatch(struct engine *e, struct engine_watch *w)
{
    struct plain *p = container_of(e, struct plain, base);
    for (unsigned i = 0; i < p->watches; i++)
        if (p->watch[i] == w) p->watch[i] = p->watch[--p->watches];
}

static void plain_free(struct engine *e)
{
    free(container_of(e, struct plain, base));
}

static int plain_make(void *arg, struct engine **out, struct errmsg *e)
{
    static const struct engine_ops ops = {
        .submit = plain_submit, .poll = plain_poll, .watch = plain_watch, .unwatch = plain_unwatch, .free = plain_free};
    (void)arg, (void)e;
    struct plain *p = calloc(1, sizeof *p);
    if (!p) abort();
    p->base.ops = &ops;
    list_init(&p->base.deferred);
    list_init(&p->done);
    *out = &p->base;
    return 0;
}

static const struct engine_maker plain_maker = {.make = plain_make};

/* ---- a disk ---- */

struct disk {
    struct engine_file file;
    struct engine *engine;
    struct layer *layer;
    struct layer_chan *chan;
};

struct wait {
    struct disk_req req;
    bool finished;
};

static void finished(struct disk_req *req, int ret)
{
    (void)ret;
    container_of(req, struct wait, req)->finished = true;
}

static uint64_t request(struct disk *d, enum disk_op op, unsigned flags, uint64_t offset, uint64_t length)
{
    static uint8_t buf[16384];
    struct iovec iov = {buf, length};
    uint64_t size = layer_size(d->layer);
    if (op != DISK_FLUSH && offset >= size) return 0;
    if (op != DISK_FLUSH) length = min_u64(length, size - offset);
    if (op == DISK_READ || op == DISK_WRITE) iov.iov_len = length = min_u64(length, sizeof buf);
    struct wait w = {.req = {.op = op,
                             .flags = flags,
                             .offset_bytes = offset,
                             .length_bytes = length,
                             .iov = &iov,
                             .iov_count = 1,
                             .done = finished}};
    layer_submit(d->chan, &w.req);
    while (!w.finished)
        engine_sleep(d->engine, UINT64_MAX);
    return w.req.map.length_bytes;
}

static bool disk_open(struct disk *d, bool writable, struct disk_stash stash)
{
    struct errmsg e;
    struct layer_args args = {.file = &d->file, .writable = writable, .stash = stash, .maker = &plain_maker};
    d->file.writable = writable;
    if (layer_qcow2_open(&d->layer, &args, &e) < 0) return false;
    plain_make(NULL, &d->engine, NULL);
    if (d->layer->ops->chan_open(d->layer, d->engine, NULL, &d->chan) < 0) abort();
    return true;
}

static void disk_close(struct disk *d)
{
    struct errmsg e;
    d->layer->ops->chan_close(d->chan);
    d->layer->ops->close(d->layer, &e);
    engine_free(d->engine);
}

static void read_all_over(struct disk *d)
{
    uint64_t size = layer_size(d->layer), at = 0;
    for (unsigned i = 0; i < 64 && at < size; i++) {
        uint64_t length = request(d, DISK_MAP, 0, at, size - at);
        request(d, DISK_READ, 0, at, 4096);
        at += length ? length : 4096;
    }
    if (size >= 512) request(d, DISK_READ, 0, size - 512, 512);
}

static void change_a_little(struct disk *d)
{
    uint64_t size = layer_size(d->layer);
    for (unsigned round = 0; round < 2; round++) {
        for (uint64_t at = 0; at < min_u64(size, 65536); at += 8192)
            request(d, DISK_WRITE, 0, at + round * 512, 1024);
        request(d, DISK_FLUSH, 0, 0, 0);
        request(d, DISK_DISCARD, 0, 4096, 20480);
        request(d, DISK_WRITE_ZEROES, round ? DISK_REQ_UNMAP : 0, 512, 30000 / 512 * 512);
        if (size >= 1024) request(d, DISK_WRITE, 0, size - 1024, 1024);
    }
    read_all_over(d);
}

/* A stash that passes for ours, with whatever the input ends with inside. */
static struct disk_stash make_stash(const struct disk *d, const uint8_t *data, size_t size)
{
    static _Alignas(64) uint8_t mem[STASH_BYTES];
    struct qcow2_stash_head *h = (struct qcow2_stash_head *)(void *)mem;
    struct stat st;
    size_t n = size < sizeof mem ? size : sizeof mem;
    memset(mem, 0, sizeof mem);
    memcpy(mem + sizeof mem - n, data + size - n, n);
    memcpy(mem + offsetof(struct qcow2_stash_head, active), data + size - n, n < 64 ? n : 64);
    fstat(d->file.fd, &st);
    h->magic = QCOW2_STASH_MAGIC;
    h->version = QCOW2_STASH_VERSION;
    h->cluster_bits = size > 24 ? data[24] : 16;
    h->device = (uint64_t)st.st_dev;
    h->inode = (uint64_t)st.st_ino;
    h->capacity = (STASH_BYTES - QCOW2_STASH_HEAD_BYTES) / sizeof(struct qcow2_record) / 2;
    h->active &= 1;
    for (unsigned i = 0; i < 2; i++)
        h->half[i].count %= h->capacity;
    return (struct disk_stash){mem, STASH_BYTES};
}

static void check_and_repair(const struct disk *d)
{
    struct engine *engine;
    struct qcow2_check_args args = {0};
    struct qcow2_check_result r;
    struct errmsg e;
    plain_make(NULL, &engine, NULL);
    qcow2_check(engine, &d->file, &args, &r, &e);
    args.repair_leaks = args.repair_all = true;
    if (qcow2_check(engine, &d->file, &args, &r, &e) == 0 && r.errors == r.errors_fixed && r.leaks == r.leaks_fixed) {
        args.repair_leaks = args.repair_all = false;
        if (qcow2_check(engine, &d->file, &args, &r, &e) == 0 && r.errors + r.leaks > 0) abort();
    }
    engine_free(engine);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct disk d = {.file = {.fd = -1}};
    struct errmsg e;
    if (size < 2 || size > IMAGE_MAX) return -1;
    log_setup("fuzz", 0);
    int fd = memfd_create("fuzz-qcow2", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data + 1, size - 1) != (ssize_t)(size - 1)) abort();
    if (disk_file_adopt(&d.file, fd, "image", &e) < 0) abort();
    struct disk_stash none = {0};
    if (disk_open(&d, false, none)) {
        read_all_over(&d);
        disk_close(&d);
    }
    if (disk_open(&d, true, data[0] & 1 ? make_stash(&d, data, size) : none)) {
        change_a_little(&d);
        disk_close(&d);
    }
    check_and_repair(&d);
    disk_file_close(&d.file);
    return 0;
}
