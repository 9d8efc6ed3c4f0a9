/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New refcount structures for an image whose own are broken: table and blocks are written to free space,
 * synced, and only then the header refers to them. The old ones become free space.
 */
#include "disk/format/qcow2_check_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "disk/format/qcow2_refbits.h"

struct rebuild {
    struct qcow2_check_state *s;
    uint64_t refs;                          /* in a block */
    uint64_t first, blocks, table_clusters; /* blocks, then the table, in a row */
    uint64_t *table;
    uint64_t table_entries;
    uint8_t *buf;
};

/* Blocks for everything in use and for themselves; blocks of regions with nothing in them are left out, except
 * that this simple layout makes one for every region up to the end. */
static void plan(struct rebuild *r)
{
    struct qcow2_check_state *s = r->s;
    r->first = s->counted_end;
    r->blocks = r->table_clusters = 1;
    for (;;) {
        uint64_t end = r->first + r->blocks + r->table_clusters;
        uint64_t blocks = div_round_up(end, r->refs), tables = div_round_up(blocks * 8, s->cluster_bytes);
        if (blocks <= r->blocks && tables <= r->table_clusters) return;
        r->blocks = max_u64(blocks, r->blocks);
        r->table_clusters = max_u64(tables, r->table_clusters);
    }
}

/* The old structures are not counted any more; what else refers to their clusters still is. */
static void forget_old(struct qcow2_check_state *s)
{
    uint64_t first = s->h.reftable_offset >> s->cluster_bits;
    for (uint64_t i = 0; i < s->h.reftable_clusters; i++)
        if (first + i < s->counted_max && s->counts[first + i]) s->counts[first + i]--;
    for (uint64_t i = 0; i < s->table_entries; i++) {
        uint64_t cluster = s->table[i] >> s->cluster_bits;
        if (s->table[i] && cluster < s->counted_max && s->counts[cluster]) s->counts[cluster]--;
    }
}

static uint64_t count_of(const struct rebuild *r, uint64_t cluster)
{
    if (cluster - r->first < r->blocks + r->table_clusters) return 1;
    return qcow2_check_count(r->s, cluster);
}

static int write_blocks(struct rebuild *r)
{
    struct qcow2_check_state *s = r->s;
    uint64_t max = qcow2_ref_max(s->h.refcount_order);
    for (uint64_t b = 0; b < r->blocks; b++) {
        memset(r->buf, 0, s->cluster_bytes);
        for (uint64_t i = 0; i < r->refs; i++) {
            uint64_t count = count_of(r, b * r->refs + i);
            if (count > max)
                return errmsg_set(s->e, ERANGE,
                                  "%s: host cluster %" PRIu64 " has %" PRIu64
                                  " references, more than a refcount of %u bits holds",
                                  s->file->name, b * r->refs + i, count, 1u << s->h.refcount_order);
            qcow2_ref_set(r->buf, s->h.refcount_order, i, count);
        }
        int ret =
            qcow2_check_write(s, r->buf, (r->first + b) << s->cluster_bits, s->cluster_bytes, "a new refcount block");
        if (ret < 0) return ret;
    }
    return 0;
}

static int write_table(struct rebuild *r)
{
    struct qcow2_check_state *s = r->s;
    uint64_t per_cluster = s->cluster_bytes / 8;
    for (uint64_t c = 0; c < r->table_clusters; c++) {
        for (uint64_t i = 0; i < per_cluster; i++) {
            uint64_t b = c * per_cluster + i;
            ((struct be64 *)r->buf)[i] = be64_make(b < r->blocks ? (r->first + b) << s->cluster_bits : 0);
        }
        int ret = qcow2_check_write(s, r->buf, (r->first + r->blocks + c) << s->cluster_bits, s->cluster_bytes,
                                    "the new refcount table");
        if (ret < 0) return ret;
    }
    return 0;
}

static int switch_header(struct rebuild *r)
{
    struct qcow2_check_state *s = r->s;
    int ret = engine_op_now(s->engine, s->file, ENGINE_SYNC, 0, 0);
    s->h.reftable_offset = (r->first + r->blocks) << s->cluster_bits;
    s->h.reftable_clusters = (uint32_t)r->table_clusters;
    if (ret == 0) ret = qcow2_header_update(s->engine, s->file, &s->h);
    if (ret == 0) ret = engine_op_now(s->engine, s->file, ENGINE_SYNC, 0, 0);
    return ret < 0 ? errmsg_sys(s->e, -ret, "%s: switching to new refcounts", s->file->name) : 0;
}

int qcow2_repair_rebuild(struct qcow2_check_state *s)
{
    struct rebuild r = {.s = s, .refs = s->cluster_bytes * 8 >> s->h.refcount_order};
    autofree uint8_t *buf = aligned_alloc(4096, align_up(s->cluster_bytes, 4096));
    if (!buf) return errmsg_sys(s->e, ENOMEM, "%s: rebuilding refcounts", s->file->name);
    r.buf = buf;
    plan(&r);
    uint64_t end = r.first + r.blocks + r.table_clusters;
    if (r.table_clusters << s->cluster_bits > QCOW2_REFTABLE_MAX_BYTES)
        return errmsg_set(s->e, EFBIG, "%s: its refcount table would be too large", s->file->name);
    if (s->file->block_device && end > s->file_clusters)
        return errmsg_set(s->e, ENOSPC, "%s: no room for new refcounts at the end of the device", s->file->name);
    forget_old(s);
    int ret = write_blocks(&r);
    if (ret == 0) ret = write_table(&r);
    return ret < 0 ? ret : switch_header(&r);
}
