/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtual disks as a stack of layers: a leaf that the guest writes, and the layers below it that it
 * was cloned from. A layer receives requests for a range of its virtual bytes, answers what it
 * has, and hands the rest to the layer below.
 *
 *      vbd queue thread 0          vbd queue thread 1          (each with its own engine)
 *             |                           |
 *         channel ------- leaf ------- channel
 *             |                           |
 *         channel ------- base ------- channel
 *
 * A `layer` is one per image and process, shared by all threads. A `layer_chan` is one per layer
 * and thread: requests go into a channel on its own thread and complete on that thread. What a
 * layer shares between threads it protects itself.
 *
 * Sizes: a layer below may be shorter than the one above: what is past its end reads as zeroes
 * (the layer above sees to it: it never asks past below's size).
 *
 * Completion: exactly once, never from inside submit(); 0 or -errno. An error concerns that
 * request only.
 */
#ifndef DISK_DISK_H
#define DISK_DISK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/errmsg.h"
#include "base/list.h"
#include "disk/engine/engine.h"

#define DISK_CHAIN_MAX 64                           /* layers in a chain, leaf included */
#define DISK_SECTOR_BYTES 512u                      /* requests are multiples of this at least */
#define DISK_REQUEST_MAX_BYTES (UINT64_C(32) << 20) /* of one READ or WRITE; others: the disk's size */
#define DISK_IOV_MAX 512                            /* entries of one request's iov */

enum disk_op {
    DISK_READ,
    DISK_WRITE,
    DISK_FLUSH,        /* every write completed before it was submitted survives a power cut */
    DISK_DISCARD,      /* content no longer needed; reads back as zeroes or as before */
    DISK_WRITE_ZEROES, /* reads back as zeroes */
    DISK_MAP,          /* what lies at offset? answers with `map` */
};

enum disk_req_flags {
    DISK_REQ_UNMAP = 1 << 0, /* WRITE_ZEROES: may deallocate */
};

enum disk_extent_kind {
    DISK_EXTENT_DATA,  /* this layer has bytes of its own */
    DISK_EXTENT_ZERO,  /* this layer says zeroes */
    DISK_EXTENT_BELOW, /* this layer has nothing: ask the layer below (zeroes when there is none) */
};

struct disk_extent {
    enum disk_extent_kind kind;
    uint64_t length_bytes; /* from the asked offset on; at least 1 sector, may stop early */
};

/* A request: the caller's, embedded in something of its own; the channel's from submit to done. */
struct disk_req {
    enum disk_op op;
    unsigned flags;
    uint64_t offset_bytes; /* multiple of DISK_SECTOR_BYTES, range inside the layer */
    uint64_t length_bytes;
    const struct iovec *iov; /* READ, WRITE: exactly length_bytes in all; any alignment */
    unsigned iov_count;
    struct disk_extent map; /* MAP: the answer */
    void (*done)(struct disk_req *req, int ret);

    struct list node; /* the layer's that has the request */
    struct engine_task task;
    void *priv;
};

struct layer;
struct layer_chan;

/*
 * Memory that outlives this process but not the host: a piece of the memfd that the daemon (or a
 * front end with INFLIGHT_SHMFD) keeps while a worker is replaced. A layer records in it what it
 * has acknowledged but not yet written to storage, so that the next worker can go on. All
 * zeroes when new. Updates must leave it readable when the process is killed between any two
 * instructions. mem is NULL when there is none; the layer then writes before it acknowledges.
 * Whoever gives one that a process before us filled has waited for the end of its I/O (disk/mark.h).
 */
struct disk_stash {
    void *mem; /* 64-byte aligned, shared mapping */
    uint64_t size_bytes;
};

struct disk_sync; /* disk/sync.h */

struct layer_ops {
    const char *type; /* "raw", "qcow2", "cached" */

    /* Open this layer for one more thread. `below` is that thread's channel of the layer below,
     * NULL when there is none. 0 or -errno. Called on the thread that will use the channel. */
    int (*chan_open)(struct layer *l, struct engine *e, struct layer_chan *below, struct layer_chan **out);
    /* No request may be in flight. */
    void (*chan_close)(struct layer_chan *c);

    /* Optional fast path: fill the buffers now when that needs neither I/O nor waiting.
     * 0: done, -EAGAIN: use submit(), other -errno: failed. Never blocks. */
    int (*try_read)(struct layer_chan *c, uint64_t offset_bytes, uint64_t length_bytes, const struct iovec *iov,
                    unsigned iov_count);

    void (*submit)(struct layer_chan *c, struct disk_req *req);

    /* Grow the layer. Shrinking would throw away data under a running guest: -ENOTSUP. Blocking; control thread.
     * 0 or -errno. */
    int (*resize)(struct layer *l, uint64_t new_size_bytes, struct errmsg *e);

    /* Make everything durable and release the layer; all channels are closed. The layer is gone even when
     * the answer is an error (which then says what could not be written). Does not touch `below`. */
    int (*close)(struct layer *l, struct errmsg *e);

    /* Optional: use another stash from now on (mem NULL: none). Everything recorded in the old one is
     * written out first; what the new one holds is checked and taken over. No request may be in flight.
     * Blocking; control thread. 0 or -errno. */
    int (*set_stash)(struct layer *l, struct disk_stash stash, struct errmsg *e);

    /* Optional hint: try_read() of this offset comes in a moment. Tens of nanoseconds at most; does not wait. */
    void (*prefetch)(struct layer_chan *c, uint64_t offset_bytes);
};

/* Common head of every layer. */
struct layer {
    const struct layer_ops *ops;
    struct layer *below; /* not owned */
    const char *name;    /* path, for messages; outlives the layer */
    bool writable;
    uint32_t unit_bytes;         /* what the format allocates at once (a cluster), 0: nothing to say */
    _Atomic uint64_t size_bytes; /* virtual size; changes in resize() only */
};

/* Common head of every channel. */
struct layer_chan {
    struct layer *layer;
    struct engine *engine;
    struct layer_chan *below; /* not owned */
};

static inline void layer_submit(struct layer_chan *c, struct disk_req *req)
{
    c->layer->ops->submit(c, req);
}

static inline int layer_try_read(struct layer_chan *c, uint64_t offset_bytes, uint64_t length_bytes,
                                 const struct iovec *iov, unsigned iov_count)
{
    if (!c->layer->ops->try_read) return -11; /* -EAGAIN */
    return c->layer->ops->try_read(c, offset_bytes, length_bytes, iov, iov_count);
}

static inline void layer_prefetch(struct layer_chan *c, uint64_t offset_bytes)
{
    if (c->layer->ops->prefetch) c->layer->ops->prefetch(c, offset_bytes);
}

static inline uint64_t layer_size(struct layer *l)
{
    return atomic_load_explicit(&l->size_bytes, memory_order_acquire);
}

/* What every format needs to open an image as a layer. */
struct layer_args {
    const struct engine_file *file;
    struct layer *below; /* NULL at the bottom */
    bool writable;
    struct disk_stash stash;          /* leaf only */
    struct disk_sync *sync;           /* leaf only: outlives the layer; NULL: one of its own */
    const struct engine_maker *maker; /* for a layer that runs a thread of its own */
    uint64_t metadata_budget_bytes;   /* most that cached tables may take; 0: the default */
};

enum disk_format { DISK_FORMAT_RAW, DISK_FORMAT_QCOW2, DISK_FORMAT_COUNT };

/* "raw", "qcow2"; NULL and -1 for what is unknown. Formats are always named, never probed. */
const char *disk_format_name(enum disk_format f);
int disk_format_parse(const char *name, enum disk_format *out);

int layer_raw_open(struct layer **out, const struct layer_args *args, struct errmsg *e);
int layer_qcow2_open(struct layer **out, const struct layer_args *args, struct errmsg *e);
/* By format. 0 or -errno with the reason in e; nothing is left open on failure. */
int layer_open(struct layer **out, enum disk_format f, const struct layer_args *args, struct errmsg *e);

/*
 * Whole chains. layers[0] is the leaf. Channels are opened bottom up and returned in chans, whose
 * first entry takes the guest's requests.
 */
struct disk_chans {
    unsigned count;
    struct layer_chan *chan[DISK_CHAIN_MAX];
};
int disk_chans_open(struct disk_chans *out, struct layer *const *layers, unsigned count, struct engine *e);
void disk_chans_close(struct disk_chans *chans);

#endif
