/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Growing the refcount structures: a new block for clusters that no block describes yet, and a
 * larger table when the table itself is full.
 *
 * Order: a new block is written and synced before the table refers to it; a new table, with the
 * blocks that describe it, is written and synced before the header refers to it, and the header is synced
 * before the old table's clusters are free. New structures are put at the end of the file.
 *
 * Failure before the switch leaves nothing behind: what was claimed is as free as it was. A larger table is tried in the
 * same place again: it has to begin with a region that no block describes yet, and on storage that is full for long the
 * file would grow by one each time. The switch itself, an entry of the table or the header, is not undone: it may be on
 * storage, and is written again first (qcow2_settle.c).
 */
#include "disk/format/qcow2_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "disk/format/qcow2_refbits.h"

static uint64_t block_refs(const struct qcow2 *q)
{
    return UINT64_C(1) << q->refs.block_bits;
}

static int room_for(struct qcow2 *q, uint64_t first, uint64_t count)
{
    uint64_t limit = QCOW2_DATA_OFFSET_LIMIT >> q->cluster_bits;
    if (q->file->block_device) limit = min_u64(limit, q->file->size_bytes >> q->cluster_bits);
    return range_fits(first, count, limit) ? 0 : -ENOSPC;
}

static int claim(struct qcow2 *q, uint64_t first, uint64_t count, enum qcow2_meta_type type)
{
    enum qcow2_meta_type other;
    int ret = qcow2_meta_add(&q->meta, first, count, type, &other);
    if (ret == -EEXIST)
        return qcow2_corrupt(q, "%s would be put over %s at host cluster %" PRIu64, qcow2_meta_name(type),
                             qcow2_meta_name(other), first);
    return ret;
}

/* Set refcounts to one in a block that is being built; clusters of other blocks are skipped. */
static void block_fill(const struct qcow2 *q, uint8_t *data, uint64_t region, uint64_t first, uint64_t count)
{
    for (uint64_t cluster = first; cluster < first + count; cluster++)
        if (cluster >> q->refs.block_bits == region)
            qcow2_ref_set(data, q->refs.order, cluster & (block_refs(q) - 1), 1);
}

int qcow2_refs_write_entry(struct qcow2 *q, uint64_t region)
{
    struct qcow2_refs *r = &q->refs;
    uint64_t per_block = q->io_align / 8, from = align_down(region, per_block);
    autofree struct be64 *raw = aligned_alloc(4096, align_up(q->io_align, 4096));
    if (!raw) return -ENOMEM;
    for (uint64_t i = 0; i < per_block; i++)
        raw[i] = be64_make(from + i < r->table_entries ? r->table[from + i] : 0);
    return qcow2_meta_write(q, QCOW2_META_REFTABLE, raw, q->header.reftable_offset + from * 8, q->io_align);
}

/* A new block for a region that the table has room for. */
static int add_block(struct qcow2 *q, uint64_t region)
{
    struct qcow2_refs *r = &q->refs;
    uint64_t at, at_region, count;
    int ret = 0;
    for (;;) {
        ret = qcow2_refs_find_end(q, 1, 1, &at, &count);
        if (ret < 0) return ret;
        at_region = at >> r->block_bits;
        if (at_region == region || (at_region < r->table_entries && r->table[at_region])) break;
        ret = qcow2_refs_cover(q, at, 1); /* the new block's own refcount needs a block too */
        if (ret < 0) return ret;
    }
    if (r->table[region]) return 0;
    autofree uint8_t *data = aligned_alloc(4096, align_up(q->cluster_bytes, 4096));
    if (!data) return -ENOMEM;
    memset(data, 0, q->cluster_bytes);
    block_fill(q, data, region, at, 1);
    ret = claim(q, at, 1, QCOW2_META_REFBLOCK);
    if (ret < 0) return ret;
    q->file_clusters = at + 1;
    if (at_region != region) ret = qcow2_refs_add(q, at, 1, 1);
    bool counted = ret == 0 && at_region != region;
    if (ret == 0) ret = qcow2_refs_write(q);
    if (ret == 0) ret = qcow2_meta_write(q, QCOW2_META_REFBLOCK, data, at << q->cluster_bits, q->cluster_bytes);
    if (ret == 0) ret = qcow2_sync(q);
    if (ret < 0) {
        qcow2_meta_remove(&q->meta, at, 1);
        if (counted) qcow2_refs_give_back(q, at, 1);
        return ret;
    }
    engine_point(q->keeper.engine, "qcow2-refblock-synced");
    ret = qcow2_switch_entry(q, region, at << q->cluster_bits);
    engine_point(q->keeper.engine, "qcow2-refblock-linked");
    return ret;
}

/* ---- a larger table ---- */

struct new_table {
    uint64_t first;            /* host cluster where the area begins: blocks, then the table */
    uint64_t blocks, clusters; /* of blocks, of the table */
    uint64_t region;           /* of the first block */
    uint64_t *entries;
    uint64_t entry_count;
};

static int plan_table(struct qcow2 *q, uint64_t region, struct new_table *t)
{
    struct qcow2_refs *r = &q->refs;
    t->first = r->tried_at; /* nothing else can be there: it has no refcounts before the table has grown */
    if (!t->first) t->first = align_up(max_u64(q->file_clusters, r->table_entries << r->block_bits), block_refs(q));
    t->region = t->first >> r->block_bits;
    uint64_t last = max_u64(region, t->region) + 1;
    if (last > QCOW2_REFTABLE_MAX_BYTES / 8) return -EFBIG;
    for (t->blocks = 1;; t->blocks++) {
        uint64_t want = last + t->blocks;
        t->entry_count = align_up(want + want / 2, q->cluster_bytes / 8);
        t->clusters = t->entry_count * 8 >> q->cluster_bits;
        if (t->blocks << r->block_bits >= t->blocks + t->clusters) break;
    }
    if (t->entry_count * 8 > QCOW2_REFTABLE_MAX_BYTES) return -EFBIG;
    return room_for(q, t->first, t->blocks + t->clusters);
}

static int write_table_area(struct qcow2 *q, const struct new_table *t)
{
    autofree uint8_t *data = aligned_alloc(4096, align_up(q->cluster_bytes, 4096));
    if (!data) return -ENOMEM;
    int ret = 0;
    for (uint64_t i = 0; i < t->blocks && ret == 0; i++) {
        memset(data, 0, q->cluster_bytes);
        block_fill(q, data, t->region + i, t->first, t->blocks + t->clusters);
        ret = qcow2_meta_write(q, QCOW2_META_REFBLOCK, data, (t->first + i) << q->cluster_bits, q->cluster_bytes);
    }
    uint64_t per_cluster = q->cluster_bytes / 8;
    for (uint64_t i = 0; i < t->clusters && ret == 0; i++) {
        for (uint64_t j = 0; j < per_cluster; j++)
            ((struct be64 *)data)[j] = be64_make(t->entries[i * per_cluster + j]);
        ret = qcow2_meta_write(q, QCOW2_META_REFTABLE, data, (t->first + t->blocks + i) << q->cluster_bits,
                               q->cluster_bytes);
    }
    return ret;
}

static int claim_table_area(struct qcow2 *q, const struct new_table *t)
{
    int ret = 0;
    for (uint64_t i = 0; i < t->blocks && ret == 0; i++)
        ret = claim(q, t->first + i, 1, QCOW2_META_REFBLOCK);
    return ret < 0 ? ret : claim(q, t->first + t->blocks, t->clusters, QCOW2_META_REFTABLE);
}

/* Whatever of it was claimed, unless it was found taken (qcow2_corrupt): then it is somebody else's. */
static void unclaim_table_area(struct qcow2 *q, const struct new_table *t)
{
    if (atomic_load(&q->broken)) return;
    for (uint64_t i = 0; i < t->blocks; i++)
        qcow2_meta_remove(&q->meta, t->first + i, 1);
    qcow2_meta_remove(&q->meta, t->first + t->blocks, t->clusters);
}

static int switch_table(struct qcow2 *q, struct new_table *t)
{
    struct qcow2_refs *r = &q->refs;
    struct qcow2_freed old = {q->header.reftable_offset >> q->cluster_bits, q->header.reftable_clusters};
    q->header.reftable_offset = (t->first + t->blocks) << q->cluster_bits;
    q->header.reftable_clusters = (uint32_t)t->clusters;
    free(r->table);
    r->table = steal_ptr(&t->entries);
    r->table_entries = t->entry_count;
    r->tried_at = 0;
    return qcow2_switch_header(q, old);
}

static int grow_table(struct qcow2 *q, uint64_t region)
{
    struct qcow2_refs *r = &q->refs;
    struct new_table t = {0};
    int ret = plan_table(q, region, &t);
    if (ret < 0) return ret;
    t.entries = calloc(t.entry_count, 8);
    if (!t.entries) return -ENOMEM;
    memcpy(t.entries, r->table, r->table_entries * 8);
    for (uint64_t i = 0; i < t.blocks; i++)
        t.entries[t.region + i] = (t.first + i) << q->cluster_bits;
    r->tried_at = t.first;
    ret = claim_table_area(q, &t);
    q->file_clusters = max_u64(q->file_clusters, t.first + t.blocks + t.clusters);
    if (ret == 0) ret = write_table_area(q, &t);
    if (ret == 0) ret = qcow2_sync(q);
    if (ret < 0) {
        unclaim_table_area(q, &t);
        free(t.entries);
        return ret;
    }
    engine_point(q->keeper.engine, "qcow2-reftable-synced");
    ret = switch_table(q, &t);
    engine_point(q->keeper.engine, "qcow2-reftable-switched");
    return ret;
}

int qcow2_refs_cover(struct qcow2 *q, uint64_t first, uint64_t count)
{
    struct qcow2_refs *r = &q->refs;
    int settled = qcow2_settle(q);
    if (settled < 0) return settled;
    for (uint64_t region = first >> r->block_bits; region <= (first + count - 1) >> r->block_bits; region++) {
        int ret = 0;
        if (region >= r->table_entries) ret = grow_table(q, region);
        if (ret == 0 && !r->table[region]) ret = add_block(q, region);
        if (ret < 0) return ret;
    }
    return 0;
}
