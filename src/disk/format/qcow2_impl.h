/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the qcow2 layer. Theory of operation.
 *
 * Mapping. `shadow` holds one 64-bit L2 entry per guest cluster, identity-indexed, in a sparse
 * anonymous mapping. It is filled slice by slice (512 to 8192 entries) when first needed. A
 * generation word per slice says whether it is present (odd): a queue thread looks an entry up with no
 * lock by reading generation, entry, generation. What was validated is validated once, when the
 * slice is loaded: an entry that makes no sense becomes QCOW2_BAD, and requests for that cluster fail.
 *
 * Writing. A write to a cluster that has no host cluster of its own takes one from the reservation
 * pool (refcounts of a pool's clusters are raised on storage before they get there), fills up the rest of the
 * cluster from what was there before, writes data and fill in one go, and then *publishes* the new entry: into
 * the log and into the shadow, at once, under the lock. The log lies in the disk's stash, which outlives
 * the process, so the write may be acknowledged: whoever opens the image next, with that stash,
 * replays it. Without a stash the write waits for the next commit.
 *
 * Commit (keeper thread; qcow2_commit.c), for a flush, a full log, or writes with no stash:
 *   1. copy the dirty pages of the shadow; write new L2 tables in full where none is ours
 *   2. fdatasync: data, refcounts and new tables are durable
 *   3. write the copied pages over existing L2 tables, and the L1 entries of new ones
 *   4. the log is empty again; fdatasync when somebody asked for it or clusters are to be freed
 *   5. clusters that are no longer referenced: wait until every request that may have seen the old
 *      entry has ended (eras, below), punch them, lower their refcounts; only then they can be reused
 * At every point what is on storage is consistent, up to clusters whose refcount is too high.
 *
 * Two logs: one is being committed ("sealed") while the other one ("active") takes new records.
 *
 * Eras. `era` counts what was freed so far. Every request notes the era at its start; each channel
 * publishes the oldest era among its requests. Clusters freed in era n are reused when no channel has a
 * request from before n.
 *
 * Threads.
 *   queue threads: channels, requests, parts. They never block and never touch metadata on storage.
 *   keeper: started when first needed; tables, refcounts, commits, frees. It has an engine of its own.
 *   control thread: open, resize, close.
 * Lock `lock` guards log, pool, allocations in flight, pins and the list of channels; it is never held
 * over I/O. The shadow is written by the keeper when a slice is absent and under the lock when it
 * is present.
 */
#ifndef DISK_FORMAT_QCOW2_IMPL_H
#define DISK_FORMAT_QCOW2_IMPL_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/iov.h"
#include "base/log.h"
#include "disk/disk.h"
#include "disk/format/qcow2_format.h"
#include "disk/sync.h"
#include "loop/mailbox.h"

/* ---- limits, all per layer or per channel ---- */

#define QCOW2_METADATA_BUDGET_DEFAULT (UINT64_C(32) << 20)
#define QCOW2_PAGE_BITS 9u       /* entries of the shadow that are written to storage together (4 KiB), log2 */
#define QCOW2_SLICE_BITS_MAX 13u /* entries loaded together at most (64 KiB), log2 */
#define QCOW2_LIVE_SIZE_MAX (UINT64_C(64) << 40) /* a smaller disk can grow up to this while it is open */
#define QCOW2_OPS_MAX 256u                       /* requests worked on at once, per channel; more wait */
#define QCOW2_PARTS_MAX 256u                     /* reads and writes in flight, per channel */
#define QCOW2_COWS_MAX 64u                       /* allocating writes in flight, per channel */
#define QCOW2_PART_IOV DISK_IOV_MAX
#define QCOW2_COW_IOV (DISK_IOV_MAX + 2 * 32 + 2) /* zeroes before and after: 2 MiB in pieces of QCOW2_ZEROES_BYTES */
#define QCOW2_COW_MAX_BYTES (UINT64_C(4) << 20)   /* of one allocation; a larger write is several */
#define QCOW2_BUFFERS_BYTES (UINT64_C(2) << 20)   /* of a channel's copy-on-write buffers; at least two of them */
#define QCOW2_BUFFERS_MAX 64u
#define QCOW2_INFLATERS_MAX 4u /* compressed clusters read at once, per channel */
#define QCOW2_RUN_MIN 16u      /* clusters reserved at once: at first ... */
#define QCOW2_RUN_MAX 1024u    /* ... and when writes keep coming */
#define QCOW2_RUN_MAX_BYTES (UINT64_C(64) << 20)
#define QCOW2_POOL_RUNS 16u
#define QCOW2_LOG_DEFAULT_BYTES (UINT64_C(128) << 10) /* when there is no stash */
#define QCOW2_RECORD_BATCH UINT64_C(256) /* entries published at once, at most; any log has room for several */

/* An entry of the shadow that failed its checks. Uses a bit that is reserved in the format. */
#define QCOW2_BAD (UINT64_C(1) << 61)

enum qcow2_kind {
    QCOW2_KIND_BELOW, /* not allocated */
    QCOW2_KIND_ZERO,  /* reads as zeroes; may have a host cluster */
    QCOW2_KIND_DATA,  /* a host cluster; ours alone when QCOW2_COPIED is set */
    QCOW2_KIND_COMPRESSED,
    QCOW2_KIND_BAD,
    QCOW2_KIND_ABSENT, /* not known without I/O */
};

static inline enum qcow2_kind qcow2_entry_kind(uint64_t entry)
{
    if (entry == 0) return QCOW2_KIND_BELOW;
    if (entry & QCOW2_COMPRESSED) return QCOW2_KIND_COMPRESSED;
    if (entry & QCOW2_BAD) return QCOW2_KIND_BAD;
    return entry & QCOW2_ZERO ? QCOW2_KIND_ZERO : QCOW2_KIND_DATA;
}

/* ---- metadata map (qcow2_meta.c): which host clusters hold what; writable layers only ---- */

enum qcow2_meta_type {
    QCOW2_META_NONE,
    QCOW2_META_HEADER,
    QCOW2_META_L1,
    QCOW2_META_REFTABLE,
    QCOW2_META_REFBLOCK,
    QCOW2_META_L2,
    QCOW2_META_SNAPSHOTS,
    QCOW2_META_SNAPSHOT_L1,
    QCOW2_META_BITMAPS,
    QCOW2_META_COUNT,
};

struct qcow2_meta_range {
    uint64_t first, count; /* host clusters */
    enum qcow2_meta_type type;
};

struct qcow2_meta {
    struct qcow2_meta_range *ranges; /* sorted, disjoint: tables of several clusters */
    unsigned range_count, range_max;
    uint64_t *slots; /* hash of single clusters: cluster << 8 | type; 0 is free */
    uint64_t slot_mask, slot_used;
};

const char *qcow2_meta_name(enum qcow2_meta_type type);
void qcow2_meta_free(struct qcow2_meta *m);
/* 0, -ENOMEM, or -EEXIST when the range shares a cluster with one that is known (*other says what). */
int qcow2_meta_add(struct qcow2_meta *m, uint64_t first, uint64_t count, enum qcow2_meta_type type,
                   enum qcow2_meta_type *other);
void qcow2_meta_remove(struct qcow2_meta *m, uint64_t first, uint64_t count);
enum qcow2_meta_type qcow2_meta_at(const struct qcow2_meta *m, uint64_t cluster);
/* The first cluster of the range that is metadata of any type, or first + count. */
uint64_t qcow2_meta_find(const struct qcow2_meta *m, uint64_t first, uint64_t count);

/* ---- refcounts (qcow2_refs.c, qcow2_refs_grow.c): keeper only ---- */

#define QCOW2_REF_SLICES 8u /* pieces of refcount blocks kept in memory */

struct qcow2_ref_slice {
    uint64_t index; /* which piece of all refcounts; UINT64_MAX: none */
    uint8_t *data;
    uint64_t dirty_from, dirty_to; /* bytes in data to be written; equal: none */
    uint64_t used;                 /* clock of the last use */
};

struct qcow2_refs {
    uint64_t *table; /* refcount table, host order */
    uint64_t table_entries;
    unsigned order;       /* log2 of the width in bits */
    unsigned block_bits;  /* log2 of the refcounts in a block */
    unsigned slice_bytes; /* size of a piece */
    unsigned slice_bits;  /* log2 of the refcounts in a piece */
    uint64_t clock;
    struct qcow2_ref_slice slices[QCOW2_REF_SLICES];
    uint64_t search_at; /* no free cluster is known of below this one */
    uint64_t tried_at;  /* host cluster where a larger table was to begin that could not be written; 0: none */
};

/* ---- what was switched to in memory and may not be on storage (qcow2_settle.c): keeper only ---- */

/* Host clusters that an entry no longer refers to. */
struct qcow2_freed {
    uint64_t first, count;
};

struct qcow2_unsettled {
    bool header;            /* the fields of q->header that change */
    struct qcow2_freed old; /* a table that it referred to before; count 0: none */
    bool entry;             /* of the refcount table ... */
    uint64_t region;        /* ... for this block */
};

/* ---- log of published entries (qcow2_log.c): under the lock ---- */

struct qcow2_record {
    uint64_t index; /* guest cluster */
    uint64_t entry;
};

struct qcow2_half {
    struct qcow2_record *records; /* in the stash, written and never read back */
    uint64_t count;
    uint64_t *pages; /* pages of the shadow that the records touch, each once */
    uint64_t page_count;
    struct qcow2_freed *freed;
    uint64_t freed_count;
};

#define QCOW2_STASH_SLOTS 896u /* allocating writes in flight that a kill does not leak */

struct qcow2_stash_head;

struct qcow2_log {
    struct qcow2_stash_head *head; /* in the stash */
    bool persistent;               /* a real stash: what is in it survives the process */
    uint64_t capacity;             /* records per half */
    uint64_t promised;             /* records that allocations in flight will need */
    unsigned active;               /* which half takes records */
    bool sealed;                   /* the other half is being committed, or failed to be */
    struct qcow2_half half[2];
    bool slot_used[QCOW2_STASH_SLOTS];
    uint64_t slot_replayed[QCOW2_STASH_SLOTS / 64]; /* bitmap: of the process before us */
    uint32_t next_slot;
    void *own_memory; /* what is not in the stash */
    uint64_t own_bytes;
};

/* ---- the reservation pool (qcow2_pool.c): under the lock ---- */

struct qcow2_run {
    uint64_t first, count; /* host clusters */
    bool zero;             /* known to read as zeroes */
};

struct qcow2_pool {
    struct qcow2_run runs[QCOW2_POOL_RUNS];
    uint64_t clusters; /* in all runs */
    uint64_t low;      /* ask for more below this */
    uint64_t next_run; /* size of the next reservation, clusters */
};

/* ---- an allocation in flight: under the lock ---- */

#define QCOW2_NO_SLOT UINT32_MAX

struct qcow2_alloc {
    struct list node;      /* qcow2.allocs */
    struct list waiters;   /* qcow2_op.wait_node */
    uint64_t index, count; /* guest clusters */
    uint64_t host;         /* first host cluster */
    bool zero;             /* the host clusters read as zeroes */
    bool reused;           /* the host clusters were preallocated for these guest clusters */
    uint32_t slot;         /* in the stash */
};

/* ---- the layer ---- */

struct qcow2_free_batch {
    struct list node;
    uint64_t era;
    bool from_slots; /* slots of the stash name them until they are free */
    bool is_table;   /* one cluster, which was an L2 table of ours */
    uint64_t count;
    struct qcow2_freed freed[];
};

struct qcow2_keeper {
    struct mailbox box;
    struct engine_watch watch;
    struct engine *engine; /* NULL while the thread does not run */
    pthread_t thread;
    bool thread_running; /* under the lock */
    bool stop;
    struct mail refill_mail, commit_mail;
    bool refill_asked, commit_asked; /* the mail is on its way: under the lock */
    /* the keeper's own */
    struct list loads;        /* qcow2_load: reads in flight */
    struct list load_waiters; /* ops to start loads for */
    struct list pool_waiters, log_waiters, commit_waiters, flush_waiters;
    struct list calls;
    bool refill_wanted, commit_wanted, commit_failed;
    struct list tables_to_free; /* qcow2_free_batch: once the change is durable */
    struct list free_batches;   /* once no request can see them */
    uint64_t resident_count;    /* slices present: under the lock */
    uint64_t evict_at;          /* where the search for one to evict goes on */
};

struct qcow2 {
    struct layer layer;
    const struct engine_file *file;
    const struct engine_maker *maker;
    struct qcow2_header header; /* fields that change: keeper only */
    unsigned cluster_bits;
    unsigned l2_bits;    /* log2 of the entries in an L2 table */
    unsigned slice_bits; /* log2 of the entries in a slice */
    uint64_t cluster_bytes;
    bool has_backing;       /* what is not allocated may be something other than zeroes */
    uint64_t cow_bytes_max; /* allocated by one write at most */
    uint32_t io_align;      /* of metadata reads and writes: at least 512 */

    _Atomic uint64_t *shadow;
    _Atomic uint32_t *generations; /* per slice */
    _Atomic uint64_t *l1;          /* host order; written by the keeper */
    uint32_t *pins;                /* per slice: uncommitted pages and allocations in flight; under the lock */
    uint8_t *page_logs;            /* per page: bit n set when half n has it; under the lock */
    uint64_t *l1_dirty;            /* bitmap of L1 blocks (io_align bytes) that storage may not have */
    uint64_t clusters_max;         /* what the mappings above have room for */
    uint32_t l1_entries;           /* in use */

    pthread_mutex_t lock;
    struct qcow2_log log;
    struct qcow2_pool pool;
    struct list allocs; /* qcow2_alloc in flight */
    struct list chans;
    _Atomic uint64_t era;
    _Atomic int broken; /* -errno: metadata turned out to be corrupt, nothing may be changed any more */
    struct disk_sync *sync, own_sync;
    _Atomic bool written;                 /* something was written in place since open: close must sync */
    bool punch_refused, allocate_refused; /* the file system cannot */
    bool storage_allocated;               /* past what is in use (qcow2_pool.c) */

    struct qcow2_keeper keeper;
    struct qcow2_refs refs;
    struct qcow2_meta meta;
    struct qcow2_unsettled unsettled;
    uint64_t file_clusters; /* host clusters that were ever part of the file, reserved ones included */
    uint64_t metadata_budget_bytes;
};

static inline struct qcow2 *qcow2_of(struct layer *l)
{
    return container_of(l, struct qcow2, layer);
}

static inline uint64_t qcow2_cluster_count(const struct qcow2 *q, uint64_t size_bytes)
{
    return (size_bytes >> q->cluster_bits) + ((size_bytes & (q->cluster_bytes - 1)) != 0);
}

/* ---- requests ---- */

struct qcow2_chan;
struct qcow2_op;
struct qcow2_part;

/* What a parked request waits for. */
enum qcow2_want {
    QCOW2_WANT_LOAD,   /* the slice of cluster want_index */
    QCOW2_WANT_POOL,   /* clusters in the pool */
    QCOW2_WANT_LOG,    /* room in the log */
    QCOW2_WANT_COMMIT, /* what was published so far is in the image */
    QCOW2_WANT_FLUSH,  /* ... and durable */
};

/* One request. States: running (parts in flight or being stepped), parked (the keeper, another
 * request or a wait list has it), ending. Only its channel's thread touches it, except while the keeper has it. */
struct qcow2_op {
    struct disk_req *req;
    struct qcow2_chan *chan;
    struct list era_node;  /* chan->running, in order of start */
    struct list wait_node; /* in whatever list it is parked */
    uint64_t era;
    uint64_t at, end; /* what was not begun yet */
    unsigned parts;   /* begun and not done */
    int error;
    bool in_era, parked, stepping, submitting, published;
    void (*step)(struct qcow2_op *op); /* begin what can be begun from `at` on */
    enum qcow2_want want;
    uint64_t want_index;
    int want_error;
    bool pins_slice; /* of want_index, so that it is not evicted before this request has seen it */
    struct mail mail;
    struct engine_task task;
};

/* One piece of a request. */
struct qcow2_part {
    struct qcow2_op *op;
    struct engine_io io;
    struct disk_req below;
    struct iovec iov[QCOW2_PART_IOV];
};

/* Read a compressed cluster (qcow2_inflate.c). */
struct qcow2_inflate {
    struct qcow2_chan *chan;
    uint64_t entry;
    void (*done)(struct qcow2_inflate *job, const uint8_t *cluster, int res); /* cluster valid during the call */
    struct list node;                                                         /* chan->inflate_waiters */
};

struct qcow2_inflater {
    struct qcow2_inflate *job; /* NULL: free */
    uint64_t entry;            /* what `out` holds; 0: nothing */
    uint8_t *in, *out;
    uint64_t in_bytes, in_skip;
    uint64_t used; /* clock of the last use */
    struct engine_io io;
    struct iovec iov;
};

struct qcow2_compressed_part {
    struct qcow2_inflate job;
    struct qcow2_op *op;
    uint64_t at, length;
};

/* What was in one cluster before, on its way into a buffer. */
struct qcow2_old {
    struct qcow2_cow *cow;
    uint64_t index, entry; /* guest cluster */
    uint64_t from, to;     /* bytes of it that are needed; equal: none */
    uint8_t *buffer;       /* cluster-sized; NULL: zeroes */
    struct engine_io io;
    struct disk_req below;
    struct qcow2_inflate job;
    struct iovec iov;
};

/* An allocating write. */
struct qcow2_cow {
    struct qcow2_op *op;
    struct qcow2_alloc alloc;
    uint64_t at, length;     /* guest bytes that are written */
    uint64_t head, tail;     /* bytes to fill up before and after them; 0 where nothing is needed */
    struct qcow2_old old[2]; /* the first cluster, and the last when it is another one */
    unsigned reads;          /* of old content, in flight */
    int error;
    struct engine_io io;
    struct iovec iov[QCOW2_COW_IOV]; /* last: not initialised */
};

/* Equal items from one lazily touched mapping. */
struct qcow2_slab {
    uint8_t *base;
    size_t item_bytes;
    unsigned max, used;
    void *free_list;
};

struct qcow2_chan {
    struct layer_chan chan;
    struct list node; /* qcow2.chans */
    _Atomic uint64_t oldest_era;
    struct mailbox box;
    pthread_mutex_t posting; /* held by others while they post there, so that close can wait until they have left */
    struct engine_watch watch;
    struct qcow2_slab ops, parts, cows, compressed;
    struct list running;      /* ops, oldest first */
    struct list waiting_reqs; /* disk_req: no op was free */
    struct list part_waiters; /* ops: no part, cow or buffer was free */
    uint64_t waits;           /* how often an op had to wait so */
    uint8_t *buffers;         /* cluster-sized */
    unsigned buffer_count, buffer_touched;
    unsigned free_buffers[QCOW2_BUFFERS_MAX], free_buffer_count;
    struct qcow2_inflater inflaters[QCOW2_INFLATERS_MAX];
    uint64_t inflate_clock;
    struct list inflate_waiters;
    void *inflate_memory;
    void *zlib; /* z_stream, once needed */
    void *zstd; /* ZSTD_DCtx, once needed */
};

static inline struct qcow2_chan *qcow2_chan_of(struct layer_chan *c)
{
    return container_of(c, struct qcow2_chan, chan);
}

static inline struct qcow2 *qcow2_of_chan(const struct qcow2_chan *c)
{
    return container_of(c->chan.layer, struct qcow2, layer);
}

/* ---- qcow2_map.c ---- */

struct qcow2_extent {
    enum qcow2_kind kind;
    uint64_t entry;        /* of the first cluster */
    uint64_t host_bytes;   /* DATA: where the first byte lies */
    uint64_t length_bytes; /* same kind; DATA: contiguous */
};

int qcow2_map_init(struct qcow2 *q, struct errmsg *e);
void qcow2_map_free(struct qcow2 *q);
bool qcow2_map_lookup(struct qcow2 *q, uint64_t index, uint64_t *entry);
/* For a writer, DATA means that it may be overwritten in place; everything else must be allocated first. */
void qcow2_map_extent(struct qcow2 *q, uint64_t at, uint64_t length_bytes, bool writing, struct qcow2_extent *out);
/* Under the lock: make the slice of `index` present if that needs no I/O. False: it must be loaded. */
bool qcow2_map_ensure(struct qcow2 *q, uint64_t index);
/* Under the lock, slice present and pinned. */
void qcow2_map_set(struct qcow2 *q, uint64_t index, uint64_t entry);
static inline uint64_t qcow2_slice_of(const struct qcow2 *q, uint64_t index)
{
    return index >> q->slice_bits;
}
static inline bool qcow2_slice_present(struct qcow2 *q, uint64_t slice)
{
    return atomic_load_explicit(&q->generations[slice], memory_order_acquire) & 1;
}
/* Turn entries as they are on storage into shadow entries (validated). table_copied: the L1 entry has COPIED. */
uint64_t qcow2_map_check_entry(struct qcow2 *q, uint64_t raw, bool table_copied, uint64_t index);
/* Keeper (or open): make present what was read. */
void qcow2_map_install(struct qcow2 *q, uint64_t slice, const struct be64 *entries);
/* Answer a request that waited for the slice of op->want_index: it stays until the request has looked at it. */
void qcow2_map_pin_for(struct qcow2 *q, struct qcow2_op *op);
void qcow2_map_unpin(struct qcow2 *q, uint64_t index);
void qcow2_map_evict(struct qcow2 *q);
int qcow2_l1_load(struct qcow2 *q, struct errmsg *e);
/* Where the compressed data of an entry lies. */
void qcow2_compressed_range(const struct qcow2 *q, uint64_t entry, uint64_t *offset_bytes, uint64_t *length_bytes);

/* ---- qcow2_load.c: keeper ---- */
void qcow2_load_start(struct qcow2 *q, struct qcow2_op *op);
/* Blocking, on the thread that owns keeper.engine. */
int qcow2_load_now(struct qcow2 *q, uint64_t slice);

/* ---- qcow2_refs.c: keeper (or open, which lends its engine) ---- */
int qcow2_refs_open(struct qcow2 *q, struct errmsg *e);
void qcow2_refs_free(struct qcow2 *q);
int qcow2_refs_get(struct qcow2 *q, uint64_t cluster, uint64_t *out);
/* Add delta (1 or -1) to count clusters, in memory. Refuses to wrap: -EIO, nothing or a part done. */
int qcow2_refs_add(struct qcow2 *q, uint64_t first, uint64_t count, int delta);
int qcow2_refs_write(struct qcow2 *q);
/* Find up to `want` clusters in a row that are free, at least `least`; refcounts not raised. */
int qcow2_refs_find(struct qcow2 *q, uint64_t want, uint64_t least, uint64_t *first, uint64_t *count);
int qcow2_refs_find_end(struct qcow2 *q, uint64_t want, uint64_t least, uint64_t *first, uint64_t *count);
/* Find, raise and write: what is returned belongs to the caller. */
int qcow2_refs_take(struct qcow2 *q, uint64_t want, uint64_t least, uint64_t *first, uint64_t *count, bool *zero);
/* Give back clusters that nothing on storage refers to. */
void qcow2_refs_give_back(struct qcow2 *q, uint64_t first, uint64_t count);
/* qcow2_refs_grow.c: have refcount blocks for these clusters. Takes clusters at the end of the file. */
int qcow2_refs_cover(struct qcow2 *q, uint64_t first, uint64_t count);
/* Write the block of the table on storage that holds this entry. */
int qcow2_refs_write_entry(struct qcow2 *q, uint64_t region);

/* ---- qcow2_settle.c: keeper ---- */
/* q->header was changed, from referring to `old` (count 0: nothing is given up), which is free once that is durable. */
int qcow2_switch_header(struct qcow2 *q, struct qcow2_freed old);
/* The refcount table's entry refers to this block, which is durable. */
int qcow2_switch_entry(struct qcow2 *q, uint64_t region, uint64_t offset_bytes);
/* Write what one of these could not: before anything builds on it. */
int qcow2_settle(struct qcow2 *q);

/* ---- checked metadata writes (qcow2_open.c) ---- */

/* Write, after checking that every cluster touched is of that type. */
int qcow2_meta_write(struct qcow2 *q, enum qcow2_meta_type type, const void *data, uint64_t offset_bytes,
                     uint64_t length_bytes);
/* The image contradicts itself: say so, mark it, and refuse every further change. Returns -EIO. */
int qcow2_corrupt(struct qcow2 *q, const char *format, ...) __attribute__((format(printf, 2, 3)));
int qcow2_sync(struct qcow2 *q);

/* ---- qcow2_log.c: under the lock ---- */
int qcow2_log_init(struct qcow2 *q, const struct disk_stash *stash, struct errmsg *e);
void qcow2_log_free(struct qcow2 *q);
bool qcow2_log_promise(struct qcow2 *q, uint64_t records);
/* Record, change the shadow, mark the page, and note what is freed. Uses up one promise. */
void qcow2_log_publish(struct qcow2 *q, uint64_t index, uint64_t entry);
void qcow2_log_free_later(struct qcow2 *q, uint64_t first, uint64_t count); /* uses up one promise too */
bool qcow2_log_empty(const struct qcow2 *q);
bool qcow2_log_wants_commit(const struct qcow2 *q);
struct qcow2_half *qcow2_log_seal(struct qcow2 *q); /* NULL: nothing to commit */
void qcow2_log_retire(struct qcow2 *q, struct qcow2_half *half);
/* What the stash mirrors of pool and allocations. */
void qcow2_stash_pool(struct qcow2 *q, unsigned run);
uint32_t qcow2_stash_alloc(struct qcow2 *q, uint64_t first, uint64_t count);
void qcow2_stash_alloc_done(struct qcow2 *q, uint32_t slot);
void qcow2_stash_reset(struct qcow2 *q);
/* qcow2_replay.c: take over what a stash holds, and begin to use it. Blocking, on the thread that owns keeper.engine. */
int qcow2_replay(struct qcow2 *q, struct errmsg *e);
int qcow2_set_stash(struct layer *l, struct disk_stash stash, struct errmsg *e);

/* ---- qcow2_pool.c ---- */
/* Under the lock. 0: empty. The clusters are in the stash's slot then; qcow2_stash_alloc_done() ends that. */
uint64_t qcow2_pool_take(struct qcow2 *q, uint64_t want, uint64_t *first, bool *zero, uint32_t *slot);
bool qcow2_pool_add(struct qcow2 *q, uint64_t first, uint64_t count, bool zero); /* under the lock */
int qcow2_pool_refill(struct qcow2 *q);                                          /* keeper */
void qcow2_pool_drain(struct qcow2 *q);                                          /* keeper, at close */

/* ---- qcow2_commit.c, qcow2_reclaim.c: keeper ---- */
int qcow2_commit(struct qcow2 *q, bool durable);
int qcow2_l1_write_dirty(struct qcow2 *q);
void qcow2_reclaim_add(struct qcow2 *q, struct qcow2_free_batch *batch);
/* Free what no request can see any more; true when something is left to wait for. */
bool qcow2_reclaim(struct qcow2 *q, bool all);

/* ---- qcow2_keeper.c ---- */
struct qcow2_call {
    struct mail mail;
    struct list node;
    struct qcow2 *q;
    int (*run)(struct qcow2 *q, void *arg);
    void *arg;
    int ret;
    bool finished;
    pthread_mutex_t lock;
    pthread_cond_t done;
};
int qcow2_keeper_init(struct qcow2 *q);
void qcow2_keeper_destroy(struct qcow2 *q);
int qcow2_keeper_start(struct qcow2 *q);       /* harmless when it runs */
void qcow2_keeper_ask_refill(struct qcow2 *q); /* under the lock */
void qcow2_keeper_ask_commit(struct qcow2 *q); /* under the lock */
void qcow2_keeper_send(struct qcow2_op *op, enum qcow2_want want, uint64_t index);
void qcow2_keeper_answer(struct qcow2_op *op, int ret);
int qcow2_keeper_call(struct qcow2 *q, int (*run)(struct qcow2 *q, void *arg), void *arg);
void qcow2_keeper_stop(struct qcow2 *q);

/* ---- qcow2_op.c ---- */
void qcow2_submit(struct layer_chan *c, struct disk_req *req);
void qcow2_submit_inside(struct qcow2_chan *c, struct disk_req *req); /* may be for the rest of the last cluster */
void qcow2_op_continue(struct qcow2_op *op);
void qcow2_op_park(struct qcow2_op *op); /* leaves the era when nothing is in flight */
void qcow2_op_resume(struct qcow2_op *op);
void qcow2_op_park_for(struct qcow2_op *op, enum qcow2_want want, uint64_t index);
void qcow2_op_wait_local(struct qcow2_op *op); /* for a part, cow or buffer of this channel */
void qcow2_op_part_done(struct qcow2_op *op, int res);
void qcow2_chan_wake(struct qcow2_chan *c); /* something of the channel's was given back */
int qcow2_slab_init(struct qcow2_slab *s, size_t item_bytes, unsigned max);
void qcow2_slab_destroy(struct qcow2_slab *s);
void *qcow2_slab_take(struct qcow2_slab *s);
void qcow2_slab_give(struct qcow2_slab *s, void *item);

/* ---- requests by kind ---- */
void qcow2_read_step(struct qcow2_op *op);
void qcow2_prefetch(struct layer_chan *c, uint64_t offset_bytes);
int qcow2_try_read(struct layer_chan *c, uint64_t offset_bytes, uint64_t length_bytes, const struct iovec *iov,
                   unsigned iov_count);
void qcow2_file_piece(struct qcow2_op *op, enum engine_op kind, uint64_t host_bytes, uint64_t length);
uint64_t qcow2_below_has(struct qcow2_chan *c, uint64_t at, uint64_t length);
void qcow2_write_step(struct qcow2_op *op);
void qcow2_cow_begin(struct qcow2_op *op, uint64_t length);
/* Under the lock: the allocation in flight that touches these clusters first, or NULL. */
struct qcow2_alloc *qcow2_alloc_conflict(struct qcow2 *q, uint64_t index, uint64_t count);
void qcow2_zero_step(struct qcow2_op *op);
void qcow2_map_step(struct qcow2_op *op);
void qcow2_flush_step(struct qcow2_op *op);
/* Bytes [at, at + length) of the request as vectors in dst, which has room for DISK_IOV_MAX; zeroes for a write of those. */
unsigned qcow2_op_slice(const struct qcow2_op *op, struct iovec *dst, uint64_t at, uint64_t length);
unsigned qcow2_zero_vectors(struct iovec *dst, uint64_t length);

/* ---- qcow2_inflate.c ---- */
int qcow2_inflate_init(struct qcow2_chan *c);
void qcow2_inflate_destroy(struct qcow2_chan *c);
void qcow2_inflate_start(struct qcow2_inflate *job);

/* ---- qcow2_chan.c ---- */
int qcow2_chan_open(struct layer *l, struct engine *e, struct layer_chan *below, struct layer_chan **out);
void qcow2_chan_close(struct layer_chan *c);
uint8_t *qcow2_buffer_take(struct qcow2_chan *c);
void qcow2_buffer_give(struct qcow2_chan *c, uint8_t *buffer);

/* ---- qcow2_resize.c ---- */
int qcow2_resize(struct layer *l, uint64_t new_size_bytes, struct errmsg *e);

/* A page that reads as zeroes, for writing zeroes with an iovec. */
#define QCOW2_ZEROES_BYTES 65536u
extern const uint8_t qcow2_zeroes[QCOW2_ZEROES_BYTES];

#endif
