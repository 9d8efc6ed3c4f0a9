/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw images: byte N of the disk is byte N of the file or block device. The bottom of a chain.
 *
 * A file whose size is no multiple of a sector counts as rounded up: the missing bytes read as zeroes (the engine
 * sees to it), and writing the last sector makes the file longer.
 *
 * WRITE_ZEROES goes down a ladder until one step is supported: deallocate (only when asked for), tell the file system
 * to zero the range, write zeroes. What turned out to be unsupported is remembered per layer and not tried again. A
 * discard that is not supported succeeds: it is advice.
 *
 * A sync that fails through the page cache is final (disk/sync.h): every later flush fails, and so does closing.
 *
 * Thread-safety: the layer is read-only after open but for the three hints, which only ever become true, and the size. A channel belongs to one thread.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "disk/disk.h"
#include "disk/sync.h"

#define RAW_SLAB_REQUESTS 32
#define RAW_ZERO_BYTES (64u << 10)
#define RAW_ZERO_IOVS 16 /* 1 MiB of zeroes a write */

struct raw_layer {
    struct layer base;
    const struct engine_file *file;
    _Atomic bool cannot_discard, cannot_punch, cannot_zero;
    struct disk_sync *sync, own_sync;
};

struct raw_io {
    struct engine_io io;
    struct raw_chan *chan;
    struct disk_req *req;
    uint64_t zeroed_bytes; /* by writing */
    struct iovec tail;     /* of zeroes, shorter than the buffer */
    struct list node;      /* while free */
};

struct raw_slab {
    struct list node;
    struct raw_io io[RAW_SLAB_REQUESTS];
};

struct raw_chan {
    struct layer_chan base;
    struct list free;  /* raw_io */
    struct list slabs; /* raw_slab; grows with the number of requests in flight, up to what the rings allow */
    unsigned busy;
};

/* Never written, so it costs no memory beyond the kernel's own page of zeroes. */
static _Alignas(ENGINE_ALIGN_MAX) const char zeroes[RAW_ZERO_BYTES];
#define Z                                                                                                              \
    {                                                                                                                  \
        (void *)(uintptr_t)zeroes, RAW_ZERO_BYTES                                                                      \
    }
static const struct iovec zero_iov[RAW_ZERO_IOVS] = {Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z};
#undef Z

static struct raw_layer *raw_of(struct layer *l)
{
    return container_of(l, struct raw_layer, base);
}

/* ---- Requests ---- */

static struct raw_io *io_get(struct raw_chan *c)
{
    if (list_empty(&c->free)) {
        struct raw_slab *slab = calloc(1, sizeof *slab);
        if (!slab) return NULL;
        list_push_back(&c->slabs, &slab->node);
        for (unsigned i = 0; i < RAW_SLAB_REQUESTS; i++) {
            slab->io[i].chan = c;
            list_push_back(&c->free, &slab->io[i].node);
        }
    }
    c->busy++;
    return list_entry(list_pop_front(&c->free), struct raw_io, node);
}

static void finish(struct raw_io *r, int res)
{
    struct disk_req *req = r->req;
    r->chan->busy--;
    list_push_front(&r->chan->free, &r->node); /* the next request finds it in the CPU's cache */
    req->done(req, res);
}

static void run_answer(struct engine_task *t)
{
    struct disk_req *req = container_of(t, struct disk_req, task);
    req->done(req, (int)(intptr_t)req->priv);
}

/* For what is known at once: completions never come from inside submit. */
static void answer_later(struct raw_chan *c, struct disk_req *req, int res)
{
    req->priv = (void *)(intptr_t)res;
    req->task.run = run_answer;
    engine_defer(c->base.engine, &req->task);
}

static void plain_done(struct engine_io *io, int res)
{
    finish(container_of(io, struct raw_io, io), res);
}

static void sync_done(struct engine_io *io, int res)
{
    struct raw_io *r = container_of(io, struct raw_io, io);
    struct raw_layer *l = raw_of(r->chan->base.layer);
    finish(r, disk_sync_result(l->sync, l->file, res));
}

static void start(struct raw_io *r, enum engine_op op, void (*done)(struct engine_io *, int))
{
    r->io.op = op;
    r->io.done = done;
    engine_submit(r->chan->base.engine, &r->io);
}

/* What a discard is worth trying by; false when by nothing. A device that does not know discard (or a kernel that does
 * not pass it on) may know how to deallocate zeroes. */
static bool discard_step(const struct raw_layer *l, enum engine_op *op)
{
    *op = atomic_load_explicit(&l->cannot_discard, memory_order_relaxed) ? ENGINE_PUNCH : ENGINE_DISCARD;
    return *op == ENGINE_DISCARD || !atomic_load_explicit(&l->cannot_punch, memory_order_relaxed);
}

static void discard_done(struct engine_io *io, int res)
{
    struct raw_io *r = container_of(io, struct raw_io, io);
    struct raw_layer *l = raw_of(r->chan->base.layer);
    enum engine_op next;
    if (res == -EOPNOTSUPP) {
        bool punched = io->op == ENGINE_PUNCH;
        atomic_store_explicit(punched ? &l->cannot_punch : &l->cannot_discard, true, memory_order_relaxed);
        res = 0;
        if (discard_step(l, &next)) {
            start(r, next, discard_done);
            return;
        }
    }
    finish(r, res);
}

/* ---- Zeroes ---- */

static void zeroes_written(struct engine_io *io, int res);

static void write_zeroes_on(struct raw_io *r)
{
    uint64_t left = r->req->length_bytes - r->zeroed_bytes;
    r->io.offset_bytes = r->req->offset_bytes + r->zeroed_bytes;
    r->io.length_bytes = min_u64(left, (uint64_t)RAW_ZERO_BYTES * RAW_ZERO_IOVS);
    r->io.iov_count = (unsigned)(r->io.length_bytes / RAW_ZERO_BYTES);
    r->io.iov = zero_iov;
    if (r->io.iov_count == 0) { /* less than one buffer */
        r->tail = (struct iovec){zero_iov[0].iov_base, r->io.length_bytes};
        r->io.iov = &r->tail;
        r->io.iov_count = 1;
    } else {
        r->io.length_bytes = (uint64_t)r->io.iov_count * RAW_ZERO_BYTES;
    }
    start(r, ENGINE_WRITE, zeroes_written);
}

static void zeroes_written(struct engine_io *io, int res)
{
    struct raw_io *r = container_of(io, struct raw_io, io);
    r->zeroed_bytes += io->length_bytes;
    if (res < 0 || r->zeroed_bytes == r->req->length_bytes) finish(r, res);
    else write_zeroes_on(r);
}

static void zero_done(struct engine_io *io, int res);

/* The next step of the ladder that may be possible. */
static void zero_by_next(struct raw_io *r, bool may_punch)
{
    struct raw_layer *l = raw_of(r->chan->base.layer);
    if (may_punch && !atomic_load_explicit(&l->cannot_punch, memory_order_relaxed)) start(r, ENGINE_PUNCH, zero_done);
    else if (!atomic_load_explicit(&l->cannot_zero, memory_order_relaxed)) start(r, ENGINE_ZERO, zero_done);
    else write_zeroes_on(r);
}

static void zero_done(struct engine_io *io, int res)
{
    struct raw_io *r = container_of(io, struct raw_io, io);
    struct raw_layer *l = raw_of(r->chan->base.layer);
    if (res != -EOPNOTSUPP) {
        finish(r, res);
        return;
    }
    atomic_store_explicit(io->op == ENGINE_PUNCH ? &l->cannot_punch : &l->cannot_zero, true, memory_order_relaxed);
    zero_by_next(r, false);
}

/* ---- What lies where ---- */

/* Moves the descriptor's file position, which nothing uses. The kernel's answer is in bytes, ours in sectors: a
 * sector with one byte of data is data. */
static int map(struct raw_layer *l, struct disk_req *req)
{
    uint64_t limit = layer_size(&l->base) - req->offset_bytes;
    if (req->length_bytes) limit = min_u64(limit, req->length_bytes);
    off_t at = (off_t)req->offset_bytes;
    req->map = (struct disk_extent){.kind = DISK_EXTENT_DATA, .length_bytes = limit};
    off_t data = lseek(l->file->fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) { /* a hole to the end */
        req->map.kind = DISK_EXTENT_ZERO;
        return 0;
    }
    if (data < 0) return errno == EINVAL ? 0 : -errno; /* cannot tell (a device): all is data */
    uint64_t hole_bytes = align_down((uint64_t)(data - at), DISK_SECTOR_BYTES);
    if (hole_bytes) {
        req->map = (struct disk_extent){.kind = DISK_EXTENT_ZERO, .length_bytes = min_u64(limit, hole_bytes)};
        return 0;
    }
    off_t hole = lseek(l->file->fd, data, SEEK_HOLE);
    if (hole > at) req->map.length_bytes = min_u64(limit, align_up((uint64_t)(hole - at), DISK_SECTOR_BYTES));
    return 0;
}

/* ---- The layer ---- */

static int check(const struct raw_layer *l, const struct disk_req *req)
{
    if (req->op == DISK_FLUSH) return disk_sync_failed(l->sync) ? -EIO : 0;
    uint64_t size_bytes = atomic_load_explicit(&l->base.size_bytes, memory_order_acquire);
    if (!range_fits(req->offset_bytes, req->length_bytes, size_bytes)) return -EINVAL;
    if ((req->offset_bytes | req->length_bytes) % DISK_SECTOR_BYTES) return -EINVAL;
    if (req->op == DISK_MAP) return req->offset_bytes < size_bytes ? 0 : -EINVAL;
    return req->op == DISK_READ || l->base.writable ? 0 : -EROFS;
}

static void raw_submit(struct layer_chan *chan, struct disk_req *req)
{
    struct raw_chan *c = container_of(chan, struct raw_chan, base);
    struct raw_layer *l = raw_of(chan->layer);
    int ret = check(l, req);
    enum engine_op discard = ENGINE_DISCARD;
    bool moot = req->op == DISK_DISCARD && !discard_step(l, &discard);
    if (ret == 0 && req->op == DISK_MAP) ret = map(l, req);
    if (ret < 0 || moot || req->op == DISK_MAP || (req->op != DISK_FLUSH && req->length_bytes == 0)) {
        answer_later(c, req, ret);
        return;
    }
    struct raw_io *r = io_get(c);
    if (!r) {
        answer_later(c, req, -ENOMEM);
        return;
    }
    r->req = req;
    r->zeroed_bytes = 0;
    r->io.file = l->file;
    r->io.offset_bytes = req->offset_bytes;
    r->io.length_bytes = req->length_bytes;
    r->io.iov = req->iov;
    r->io.iov_count = req->iov_count;
    switch (req->op) {
    case DISK_READ: start(r, ENGINE_READ, plain_done); break;
    case DISK_WRITE: start(r, ENGINE_WRITE, plain_done); break;
    case DISK_FLUSH: start(r, ENGINE_SYNC, sync_done); break;
    case DISK_DISCARD: start(r, discard, discard_done); break;
    case DISK_WRITE_ZEROES: zero_by_next(r, req->flags & DISK_REQ_UNMAP); break;
    case DISK_MAP: break; /* answered above */
    }
}

static int raw_chan_open(struct layer *l, struct engine *e, struct layer_chan *below, struct layer_chan **out)
{
    assert(!below);
    struct raw_chan *c = calloc(1, sizeof *c);
    if (!c) return -ENOMEM;
    c->base = (struct layer_chan){.layer = l, .engine = e};
    list_init(&c->free);
    list_init(&c->slabs);
    *out = &c->base;
    return 0;
}

static void raw_chan_close(struct layer_chan *chan)
{
    struct raw_chan *c = container_of(chan, struct raw_chan, base);
    assert(c->busy == 0);
    LIST_FOR_EACH_SAFE (node, &c->slabs)
        free(list_entry(node, struct raw_slab, node));
    free(c);
}

static int device_holds(const struct raw_layer *l, uint64_t size_bytes, struct errmsg *e)
{
    uint64_t device_bytes;
    if (ioctl(l->file->fd, BLKGETSIZE64, &device_bytes) < 0)
        return errmsg_sys(e, errno, "%s: cannot read the size of the device", l->base.name);
    if (size_bytes > device_bytes)
        return errmsg_set(e, ENOSPC, "%s: the device has %llu bytes, %llu were asked for", l->base.name,
                          (unsigned long long)device_bytes, (unsigned long long)size_bytes);
    return 0;
}

static int raw_resize(struct layer *layer, uint64_t new_size_bytes, struct errmsg *e)
{
    struct raw_layer *l = raw_of(layer);
    if (!layer->writable) return errmsg_set(e, EROFS, "%s: opened read-only, cannot be resized", layer->name);
    if (new_size_bytes % DISK_SECTOR_BYTES || new_size_bytes > INT64_MAX)
        return errmsg_set(e, EINVAL, "%s: size %llu: a multiple of %u below 2^63 is expected", layer->name,
                          (unsigned long long)new_size_bytes, DISK_SECTOR_BYTES);
    if (new_size_bytes < layer_size(layer))
        return errmsg_set(e, ENOTSUP, "%s: it has %llu bytes and cannot shrink to %llu while it is in use", layer->name,
                          (unsigned long long)layer_size(layer), (unsigned long long)new_size_bytes);
    if (l->file->block_device) {
        int ret = device_holds(l, new_size_bytes, e);
        if (ret < 0) return ret;
    } else if (ftruncate(l->file->fd, (off_t)new_size_bytes) < 0) {
        return errmsg_sys(e, errno, "%s: cannot resize it to %llu bytes", layer->name,
                          (unsigned long long)new_size_bytes);
    }
    atomic_store_explicit(&layer->size_bytes, new_size_bytes, memory_order_release);
    return 0;
}

static int raw_close(struct layer *layer, struct errmsg *e)
{
    struct raw_layer *l = raw_of(layer);
    int ret = 0;
    if (!disk_sync_failed(l->sync) && layer->writable) {
        ret = disk_sync_result(l->sync, l->file, fdatasync(l->file->fd) < 0 ? -errno : 0);
        if (ret < 0) errmsg_sys(e, -ret, "%s: cannot make the last writes durable", layer->name);
    } else if (disk_sync_failed(l->sync)) {
        ret = errmsg_set(e, EIO, "%s: a flush failed: writes before it may be lost", layer->name);
    }
    disk_sync_destroy(&l->own_sync);
    free(l);
    return ret;
}

static const struct layer_ops raw_ops = {
    .type = "raw",
    .chan_open = raw_chan_open,
    .chan_close = raw_chan_close,
    .submit = raw_submit,
    .resize = raw_resize,
    .close = raw_close,
};

int layer_raw_open(struct layer **out, const struct layer_args *args, struct errmsg *e)
{
    const struct engine_file *f = args->file;
    if (args->below) return errmsg_set(e, EINVAL, "%s: a raw image cannot have a layer below it", f->name);
    if (args->writable && !f->writable) return errmsg_set(e, EROFS, "%s: opened read-only, cannot be written", f->name);
    if (f->size_bytes > INT64_MAX - DISK_SECTOR_BYTES)
        return errmsg_set(e, EFBIG, "%s: larger than 2^63 bytes", f->name);
    struct raw_layer *l = calloc(1, sizeof *l);
    if (!l) return errmsg_sys(e, ENOMEM, "%s", f->name);
    l->base = (struct layer){.ops = &raw_ops, .name = f->name, .writable = args->writable};
    atomic_init(&l->base.size_bytes, align_up(f->size_bytes, DISK_SECTOR_BYTES));
    l->file = f;
    disk_sync_init(&l->own_sync, -1);
    l->sync = args->sync ? args->sync : &l->own_sync;
    *out = &l->base;
    return 0;
}
