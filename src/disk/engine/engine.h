/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The I/O engine: asynchronous reads and writes of image files, and the only place where a queue
 * thread sleeps. One engine belongs to one thread; there is no lock in it.
 *
 * Two engines exist: `uring` (io_uring; production) and `fault` (wraps another one and fails,
 * delays, tears, or cuts the power at a chosen point; tests). Layers know this header only.
 *
 * Rules
 *  - A completion comes exactly once, from engine_poll() or engine_sleep(), never from inside
 *    engine_submit() or engine_defer().
 *  - A read past the end of the file is completed with zeroes; short reads and writes are carried
 *    on by the engine. `res` is 0 or -errno, never a count.
 *  - Buffers that do not satisfy the file's memory alignment are bounced by the engine (bounded
 *    memory: when the bounce pool is empty the request waits inside). Offsets and lengths that do
 *    not satisfy io_align: reads are widened and bounced; writes fail with -EINVAL (the layer above
 *    must not issue them: a disk whose sector is smaller than its storage's direct-I/O unit
 *    is refused at open, see disk/file.h).
 *  - Memory, files and iovec arrays named by a request stay valid until its completion.
 *
 * Thread-safety: none; every call from the owning thread. Another thread wakes an engine by
 * writing to a watched descriptor (loop/mailbox.h).
 */
#ifndef DISK_ENGINE_ENGINE_H
#define DISK_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/errmsg.h"
#include "base/list.h"

/* An open image file or block device. Shared read-only by all threads; owned by whoever opened it. */
struct engine_file {
    int fd;
    bool direct; /* O_DIRECT is set on fd */
    bool block_device;
    bool writable;
    bool in_memory;      /* tmpfs, ramfs: the page cache is all of its storage */
    uint32_t mem_align;  /* bytes; what buffers must be aligned to, 1 when buffered */
    uint32_t io_align;   /* bytes; what offsets and lengths must be multiples of, 1 when buffered */
    uint64_t size_bytes; /* at open */
    const char *name;    /* for messages; owned by the opener */
};

enum engine_op {
    ENGINE_READ,
    ENGINE_WRITE,
    ENGINE_SYNC,    /* fdatasync: everything completed before it was submitted becomes durable */
    ENGINE_PUNCH,   /* deallocate a range, which then reads as zeroes; -EOPNOTSUPP where it can't */
    ENGINE_ZERO,    /* make a range read as zeroes, allocated or not; -EOPNOTSUPP where it can't */
    ENGINE_DISCARD, /* nobody needs a range any more: reads as zeroes or as before; -EOPNOTSUPP where it can't */
    ENGINE_OP_COUNT
};

/* A request. Owned by the caller, embedded in something of its own; the engine's from submit to done. */
struct engine_io {
    enum engine_op op;
    const struct engine_file *file;
    uint64_t offset_bytes;
    uint64_t length_bytes;   /* READ, WRITE: equals the bytes of iov */
    const struct iovec *iov; /* READ, WRITE only */
    unsigned iov_count;      /* at most ENGINE_IOV_MAX */
    void (*done)(struct engine_io *io, int res);

    struct { /* the engine's own, meaningless to others */
        struct list node;
        void *bounce;
        uint64_t moved_bytes; /* how far a request that goes in pieces has come */
        uint32_t retries;
        int res;
    } priv;
};
#define ENGINE_IOV_MAX 1024
#define ENGINE_ALIGN_MAX (64u << 10) /* largest mem_align and io_align; disk/file.h refuses more */

/* Something to be run by the next poll, on the same thread, with no system call. */
struct engine_task {
    void (*run)(struct engine_task *t);
    struct list node;
};

/* Call `ready` whenever fd becomes readable (edge: once for every time it is signalled; the callee
 * need not read an eventfd). */
struct engine_watch {
    int fd;
    void (*ready)(struct engine_watch *w);
    void *priv;
};

struct engine;

struct engine_ops {
    void (*submit)(struct engine *e, struct engine_io *io);
    /* Give what was submitted to the kernel, run completions, watches and deferred tasks. Sleeps
     * up to wait_ns when there is nothing to run (0: never; UINT64_MAX: for ever). Returns how
     * many things ran, or -errno when the engine itself is broken. May return 0 before its time: a signal,
     * or a request of which only a piece was finished. */
    int (*poll)(struct engine *e, uint64_t wait_ns);
    int (*watch)(struct engine *e, struct engine_watch *w);
    void (*unwatch)(struct engine *e, struct engine_watch *w); /* `ready` is not called after it */
    void (*free)(struct engine *e);                            /* all requests must be complete */
    void (*point)(struct engine *e, const char *name);         /* optional: see engine_point() */
};

/* Common head of every engine. */
struct engine {
    const struct engine_ops *ops;
    struct list deferred; /* engine_task */
    unsigned inflight;    /* requests submitted and not yet done */
};

static inline void engine_submit(struct engine *e, struct engine_io *io)
{
    e->ops->submit(e, io);
}

static inline int engine_poll(struct engine *e)
{
    return e->ops->poll(e, 0);
}

static inline int engine_sleep(struct engine *e, uint64_t wait_ns)
{
    return e->ops->poll(e, wait_ns);
}

static inline void engine_defer(struct engine *e, struct engine_task *t)
{
    list_push_back(&e->deferred, &t->node);
}

static inline int engine_watch(struct engine *e, struct engine_watch *w)
{
    return e->ops->watch(e, w);
}

static inline void engine_unwatch(struct engine *e, struct engine_watch *w)
{
    e->ops->unwatch(e, w);
}

static inline void engine_free(struct engine *e)
{
    if (e) e->ops->free(e);
}

/* Tell a test that the layer has come to the place of this name, at which it may cut the power (disk/engine/fault.h). For
 * the steps of metadata updates; nothing happens in production. */
static inline void engine_point(struct engine *e, const char *name)
{
    if (e->ops->point) e->ops->point(e, name);
}

/* For implementations: run the tasks deferred so far (not those that they defer); returns how many. */
unsigned engine_run_deferred(struct engine *e);

/*
 * Blocking forms for metadata threads and tools: submit, then sleep in the engine until done (other
 * completions of the engine run meanwhile). 0 or -errno. Not to be called from a completion.
 */
int engine_read_now(struct engine *e, const struct engine_file *f, void *buf, uint64_t offset_bytes,
                    uint64_t length_bytes);
int engine_write_now(struct engine *e, const struct engine_file *f, const void *buf, uint64_t offset_bytes,
                     uint64_t length_bytes);
int engine_op_now(struct engine *e, const struct engine_file *f, enum engine_op op, uint64_t offset_bytes,
                  uint64_t length_bytes);

/* How layers that need an engine for a thread of their own get one (production: uring). */
struct engine_maker {
    int (*make)(void *arg, struct engine **out, struct errmsg *e);
    void *arg;
};

/* io_uring (disk/engine/uring.c). depth: how many requests the kernel is given at once (a power of
 * two, 1..32768); more wait inside. The engine belongs to the thread that first polls it, which may be another one
 * than made it; it is freed by that thread, or by another one when that thread has ended. */
int engine_uring_new(struct engine **out, unsigned depth, struct errmsg *e);
extern const struct engine_maker engine_uring_maker; /* of ENGINE_URING_DEPTH */
#define ENGINE_URING_DEPTH 128u

#endif
