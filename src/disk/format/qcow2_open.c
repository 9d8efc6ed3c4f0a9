/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening and closing a qcow2 image as a layer, and the checked metadata writes that everything else uses.
 *
 * Open reads header, L1 table and, when writable, refcount table and snapshot table; everything
 * else is loaded when needed. A read-only layer keeps no map of its metadata: nothing is written.
 */
#include "disk/format/qcow2_impl.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/format/qcow2_image.h"

/* ---- what may be written where ---- */

int qcow2_sync(struct qcow2 *q)
{
    if (disk_sync_failed(q->sync)) return -EIO;
    return disk_sync_result(q->sync, q->file, engine_op_now(q->keeper.engine, q->file, ENGINE_SYNC, 0, 0));
}

int qcow2_corrupt(struct qcow2 *q, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_error("%s: the image is corrupt: %s. It is not written to any more; check it.", q->layer.name, text);
    if (atomic_exchange(&q->broken, -EIO) == 0 && q->header.version >= 3) {
        q->header.incompatible |= QCOW2_INCOMPAT_CORRUPT;
        int ret = qcow2_header_update(q->keeper.engine, q->file, &q->header);
        if (ret < 0) log_error("%s: it could not be marked corrupt: %s", q->layer.name, strerror(-ret));
    }
    return -EIO;
}

int qcow2_meta_write(struct qcow2 *q, enum qcow2_meta_type type, const void *data, uint64_t offset_bytes,
                     uint64_t length_bytes)
{
    uint64_t first = offset_bytes >> q->cluster_bits, last = (offset_bytes + length_bytes - 1) >> q->cluster_bits;
    for (uint64_t cluster = first; cluster <= last; cluster++) {
        enum qcow2_meta_type found = qcow2_meta_at(&q->meta, cluster);
        if (found != type)
            return qcow2_corrupt(q, "%s would be written over %s at 0x%" PRIx64, qcow2_meta_name(type),
                                 qcow2_meta_name(found), cluster << q->cluster_bits);
    }
    return engine_write_now(q->keeper.engine, q->file, data, offset_bytes, length_bytes);
}

/* ---- open ---- */

static int claim_range(struct qcow2 *q, uint64_t offset, uint64_t bytes, enum qcow2_meta_type type, struct errmsg *e)
{
    enum qcow2_meta_type other;
    if (!bytes) return 0;
    uint64_t first = offset >> q->cluster_bits, count = div_round_up(bytes, q->cluster_bytes);
    int ret = qcow2_meta_add(&q->meta, first, count, type, &other);
    if (ret == -EEXIST)
        return errmsg_set(e, EINVAL, "%s: %s at byte %" PRIu64 " (%" PRIu64 " bytes) overlaps %s", q->layer.name,
                          qcow2_meta_name(type), offset, bytes, qcow2_meta_name(other));
    return ret < 0 ? errmsg_sys(e, -ret, "%s: table of metadata", q->layer.name) : 0;
}

static int claim_snapshot(void *arg, const struct qcow2_snapshot *s, struct errmsg *e)
{
    struct qcow2 *q = arg;
    return claim_range(q, s->l1_offset, (uint64_t)s->l1_entries * 8, QCOW2_META_SNAPSHOT_L1, e);
}

/* Everything that must not be written over; finds tables that overlap. */
static int map_metadata(struct qcow2 *q, struct errmsg *e)
{
    const struct qcow2_header *h = &q->header;
    int ret = claim_range(q, 0, 1, QCOW2_META_HEADER, e);
    if (ret == 0) ret = claim_range(q, h->l1_offset, (uint64_t)h->l1_entries * 8, QCOW2_META_L1, e);
    if (ret == 0)
        ret = claim_range(q, h->reftable_offset, (uint64_t)h->reftable_clusters << q->cluster_bits, QCOW2_META_REFTABLE,
                          e);
    for (uint64_t i = 0; i < q->refs.table_entries && ret == 0; i++)
        if (q->refs.table[i]) ret = claim_range(q, q->refs.table[i], 1, QCOW2_META_REFBLOCK, e);
    for (uint64_t i = 0; i < q->l1_entries && ret == 0; i++) {
        uint64_t entry = atomic_load_explicit(&q->l1[i], memory_order_relaxed);
        if (entry) ret = claim_range(q, entry & QCOW2_OFFSET_MASK, 1, QCOW2_META_L2, e);
    }
    uint64_t table_bytes = 0;
    if (ret == 0)
        ret = qcow2_snapshots_read(q->keeper.engine, q->file, h, q->file_clusters << q->cluster_bits, claim_snapshot, q,
                                   &table_bytes, e);
    if (ret == 0) ret = claim_range(q, h->snapshot_offset, table_bytes, QCOW2_META_SNAPSHOTS, e);
    return ret;
}

/* Bits that say "whoever does not know this must clear it before writing": also those that we know of but
 * whose promise we don't keep (bitmaps become inconsistent). */
static int prepare_for_writing(struct qcow2 *q, struct errmsg *e)
{
    struct qcow2_header *h = &q->header;
    if (h->incompatible & QCOW2_INCOMPAT_CORRUPT)
        return errmsg_set(
            e, EIO, "%s: at byte %d: the image is marked corrupt and cannot be written to: check and repair it first",
            q->layer.name, QCOW2_AT_INCOMPATIBLE);
    if (!h->autoclear) return 0;
    h->autoclear = 0;
    int ret = qcow2_header_update(q->keeper.engine, q->file, h);
    if (ret == 0) ret = qcow2_sync(q);
    return ret < 0 ? errmsg_sys(e, -ret, "%s: clearing the autoclear feature bits", q->layer.name) : 0;
}

static int open_tables(struct qcow2 *q, const struct layer_args *args, struct errmsg *e)
{
    int ret = qcow2_l1_load(q, e);
    if (ret < 0 || !q->layer.writable) return ret;
    ret = qcow2_refs_open(q, e);
    if (ret == 0) ret = map_metadata(q, e);
    if (ret == 0) ret = prepare_for_writing(q, e);
    if (ret == 0) ret = qcow2_log_init(q, &args->stash, e);
    return ret < 0 ? ret : qcow2_replay(q, e);
}

static uint64_t file_bytes_now(const struct engine_file *f)
{
    struct stat st;
    if (f->block_device || fstat(f->fd, &st) < 0) return f->size_bytes;
    return (uint64_t)st.st_size;
}

static void set_geometry(struct qcow2 *q, const struct layer_args *args)
{
    const struct qcow2_header *h = &q->header;
    q->cluster_bits = h->cluster_bits;
    q->cluster_bytes = qcow2_cluster_bytes(h);
    q->l2_bits = h->cluster_bits - 3;
    q->slice_bits = (unsigned)max_u64(min_u64(q->l2_bits, QCOW2_SLICE_BITS_MAX), QCOW2_PAGE_BITS);
    q->cow_bytes_max = max_u64(min_u64(QCOW2_COW_MAX_BYTES, QCOW2_RECORD_BATCH << q->cluster_bits), q->cluster_bytes);
    q->layer.unit_bytes = (uint32_t)q->cluster_bytes;
    q->has_backing = args->below || h->backing_name[0];
    q->io_align = (uint32_t)max_u64(512, q->file->io_align);
    q->file_clusters = div_round_up(file_bytes_now(q->file), q->cluster_bytes);
    q->metadata_budget_bytes =
        args->metadata_budget_bytes ? args->metadata_budget_bytes : QCOW2_METADATA_BUDGET_DEFAULT;
    q->pool.next_run = QCOW2_RUN_MIN;
    atomic_store(&q->layer.size_bytes, h->size_bytes);
}

/* With keeper.engine lent by open. */
static int open_image(struct qcow2 *q, const struct layer_args *args, struct errmsg *e)
{
    struct engine_file now = *q->file;
    now.size_bytes = file_bytes_now(q->file);
    int ret = qcow2_header_read(q->keeper.engine, &now, &q->header, e);
    if (ret < 0) return ret;
    if (args->writable && (q->header.incompatible & QCOW2_INCOMPAT_DIRTY) &&
        !(q->header.incompatible & QCOW2_INCOMPAT_CORRUPT)) {
        log_info("%s: the image was not closed cleanly: rebuilding its refcounts", q->layer.name);
        ret = qcow2_rebuild_refcounts(q->keeper.engine, q->file, e);
        if (ret < 0) return errmsg_prefix(e, ret, "%s: rebuilding the refcounts", q->layer.name);
        now.size_bytes = file_bytes_now(q->file);
        ret = qcow2_header_read(q->keeper.engine, &now, &q->header, e);
        if (ret < 0) return ret;
    }
    set_geometry(q, args);
    if (args->writable && q->io_align > q->cluster_bytes)
        return errmsg_set(e, ENOTSUP,
                          "%s: clusters of %" PRIu64 " bytes cannot be written: the storage works in units of %" PRIu32
                          " bytes; open it without direct I/O",
                          q->layer.name, q->cluster_bytes, q->io_align);
    ret = qcow2_map_init(q, e);
    return ret < 0 ? ret : open_tables(q, args, e);
}

static void layer_free(struct qcow2 *q)
{
    qcow2_keeper_destroy(q);
    struct list *lists[] = {&q->keeper.free_batches, &q->keeper.tables_to_free};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        struct list *node;
        while ((node = list_pop_front(lists[i])))
            free(list_entry(node, struct qcow2_free_batch, node));
    }
    qcow2_log_free(q);
    qcow2_refs_free(q);
    qcow2_meta_free(&q->meta);
    qcow2_map_free(q);
    disk_sync_destroy(&q->own_sync);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

/* ---- close ---- */

static int close_call(struct qcow2 *q, void *arg)
{
    struct errmsg *e = arg;
    int ret = qcow2_commit(q, true);
    if (ret < 0) return errmsg_sys(e, -ret, "%s: writing what is left of its tables", q->layer.name);
    qcow2_reclaim(q, true);
    qcow2_pool_drain(q);
    ret = qcow2_sync(q);
    return ret < 0 ? errmsg_sys(e, -ret, "%s: flushing it to storage", q->layer.name) : 0;
}

/* Nothing was changed since the last time that all was durable, and nothing is reserved. */
static bool nothing_to_close(struct qcow2 *q)
{
    return !q->layer.writable || (!q->keeper.thread_running && qcow2_log_empty(q) && q->pool.clusters == 0 &&
                                  list_empty(&q->keeper.free_batches) && !atomic_load(&q->written));
}

static int close_layer(struct layer *l, struct errmsg *e)
{
    struct qcow2 *q = qcow2_of(l);
    assert(list_empty(&q->chans));
    int ret = nothing_to_close(q) ? 0 : qcow2_keeper_call(q, close_call, e);
    qcow2_keeper_stop(q);
    if (ret == 0) qcow2_stash_reset(q);
    layer_free(q);
    return ret;
}

const struct layer_ops qcow2_ops = {
    .type = "qcow2",
    .chan_open = qcow2_chan_open,
    .chan_close = qcow2_chan_close,
    .try_read = qcow2_try_read,
    .prefetch = qcow2_prefetch,
    .submit = qcow2_submit,
    .resize = qcow2_resize,
    .close = close_layer,
    .set_stash = qcow2_set_stash,
};

int layer_qcow2_open(struct layer **out, const struct layer_args *args, struct errmsg *e)
{
    assert(args->maker);
    struct qcow2 *q = calloc(1, sizeof *q);
    if (!q) return errmsg_sys(e, ENOMEM, "%s", args->file->name);
    q->layer =
        (struct layer){.ops = &qcow2_ops, .below = args->below, .name = args->file->name, .writable = args->writable};
    q->file = args->file;
    disk_sync_init(&q->own_sync, -1);
    q->sync = args->sync ? args->sync : &q->own_sync;
    q->maker = args->maker;
    pthread_mutex_init(&q->lock, NULL);
    list_init(&q->allocs);
    list_init(&q->chans);
    int ret = qcow2_keeper_init(q);
    if (ret < 0) errmsg_sys(e, -ret, "%s: a mailbox", args->file->name);
    if (ret == 0) ret = q->maker->make(q->maker->arg, &q->keeper.engine, e);
    if (ret == 0) ret = open_image(q, args, e);
    engine_free(q->keeper.engine);
    q->keeper.engine = NULL;
    if (ret < 0) layer_free(q);
    else *out = &q->layer;
    return ret;
}

/* ---- another stash ---- */

struct set_stash {
    struct disk_stash stash;
    struct errmsg *e;
};

static int set_stash_call(struct qcow2 *q, void *arg)
{
    struct set_stash *s = arg;
    int ret = qcow2_commit(q, false);
    if (ret < 0) return errmsg_sys(s->e, -ret, "%s: writing what the old stash holds", q->layer.name);
    /* The pool is given back: what the new stash holds may be a pool of its own. */
    qcow2_reclaim(q, true);
    qcow2_pool_drain(q);
    qcow2_stash_reset(q);
    qcow2_log_free(q);
    q->log = (struct qcow2_log){0};
    q->pool = (struct qcow2_pool){.next_run = QCOW2_RUN_MIN};
    ret = qcow2_log_init(q, &s->stash, s->e);
    if (ret == 0) ret = qcow2_replay(q, s->e);
    if (ret < 0) atomic_store(&q->broken, ret); /* half taken over: reads may be wrong, writes would make it worse */
    return ret;
}

int qcow2_set_stash(struct layer *l, struct disk_stash stash, struct errmsg *e)
{
    struct qcow2 *q = qcow2_of(l);
    if (!q->layer.writable) return 0;
    return qcow2_keeper_call(q, set_stash_call, &(struct set_stash){stash, e});
}
