/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reference counts of host clusters. The refcount table is in memory; of the blocks a few pieces
 * ("slices", up to 64 KiB) are, replaced by last use. Changes are made in memory and written by
 * qcow2_refs_write(), before whatever depends on them is told that they happened.
 *
 * Order with respect to the rest: raising a refcount is written before the cluster is used, and the
 * fdatasync of the next commit comes before an L2 entry refers to it; lowering comes after the
 * change that dropped the reference is durable. So a crash leaves refcounts too high, never too low.
 *
 * Source: QEMU docs/interop/qcow2, "Host cluster management".
 */
#include "disk/format/qcow2_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "disk/format/qcow2_refbits.h"

#define SLICE_BYTES_MAX 65536u
#define SEARCH_SLICES 16u /* pieces looked through for free clusters before appending to the file instead */

static int check_table_entry(struct qcow2 *q, uint64_t i, uint64_t raw, struct errmsg *e)
{
    const char *why = NULL;
    if (raw & QCOW2_REFTABLE_RESERVED) why = "reserved bits are set";
    else if (raw & (q->cluster_bytes - 1)) why = "the refcount block is not aligned to a cluster";
    else if (raw >> q->cluster_bits >= q->file_clusters) why = "the refcount block lies past the end of the file";
    if (!why) return 0;
    return errmsg_set(e, EINVAL, "%s: at byte %" PRIu64 ": refcount table entry %" PRIu64 " is 0x%016" PRIx64 ": %s",
                      q->layer.name, q->header.reftable_offset + i * 8, i, raw, why);
}

int qcow2_refs_open(struct qcow2 *q, struct errmsg *e)
{
    struct qcow2_refs *r = &q->refs;
    for (unsigned i = 0; i < QCOW2_REF_SLICES; i++)
        r->slices[i].index = UINT64_MAX;
    r->order = q->header.refcount_order;
    r->slice_bytes = (unsigned)min_u64(q->cluster_bytes, SLICE_BYTES_MAX);
    r->block_bits = q->cluster_bits + 3 - r->order;
    r->slice_bits = (unsigned)__builtin_ctz(r->slice_bytes) + 3 - r->order;
    uint64_t bytes = (uint64_t)q->header.reftable_clusters << q->cluster_bits;
    r->table_entries = bytes / 8;
    r->table = calloc(r->table_entries, 8);
    autofree struct be64 *raw = aligned_alloc(4096, align_up(bytes, 4096));
    if (!r->table || !raw)
        return errmsg_sys(e, ENOMEM, "%s: refcount table of %" PRIu64 " bytes", q->layer.name, bytes);
    int ret = engine_read_now(q->keeper.engine, q->file, raw, q->header.reftable_offset, bytes);
    if (ret < 0)
        return errmsg_sys(e, -ret, "%s: reading the refcount table at 0x%" PRIx64, q->layer.name,
                          q->header.reftable_offset);
    for (uint64_t i = 0; i < r->table_entries; i++) {
        uint64_t entry = be64_get(raw[i]);
        ret = check_table_entry(q, i, entry, e);
        if (ret < 0) return ret;
        if (entry) r->table[i] = entry;
    }
    return 0;
}

void qcow2_refs_free(struct qcow2 *q)
{
    for (unsigned i = 0; i < QCOW2_REF_SLICES; i++)
        free(q->refs.slices[i].data);
    free(q->refs.table);
}

/* ---- slices ---- */

static uint64_t slice_offset(const struct qcow2 *q, uint64_t index)
{
    const struct qcow2_refs *r = &q->refs;
    unsigned per_block_bits = r->block_bits - r->slice_bits;
    uint64_t block = r->table[index >> per_block_bits];
    return block + (index & ((UINT64_C(1) << per_block_bits) - 1)) * r->slice_bytes;
}

static int slice_write(struct qcow2 *q, struct qcow2_ref_slice *s)
{
    if (s->dirty_from == s->dirty_to) return 0;
    uint64_t from = align_down(s->dirty_from, q->io_align), to = align_up(s->dirty_to, q->io_align);
    int ret = qcow2_meta_write(q, QCOW2_META_REFBLOCK, s->data + from, slice_offset(q, s->index) + from, to - from);
    if (ret == 0) s->dirty_from = s->dirty_to = 0;
    return ret;
}

int qcow2_refs_write(struct qcow2 *q)
{
    for (unsigned i = 0; i < QCOW2_REF_SLICES; i++) {
        int ret = slice_write(q, &q->refs.slices[i]);
        if (ret < 0) return ret;
    }
    return 0;
}

static struct qcow2_ref_slice *slice_in_memory(struct qcow2_refs *r, uint64_t index)
{
    for (unsigned i = 0; i < QCOW2_REF_SLICES; i++) {
        if (r->slices[i].index != index) continue;
        r->slices[i].used = ++r->clock;
        return &r->slices[i];
    }
    return NULL;
}

/* The piece with these refcounts, *out = NULL when its block does not exist (all are zero). */
static int slice_get(struct qcow2 *q, uint64_t index, struct qcow2_ref_slice **out)
{
    struct qcow2_refs *r = &q->refs;
    uint64_t block = index >> (r->block_bits - r->slice_bits);
    *out = NULL;
    if (block >= r->table_entries || !r->table[block]) return 0;
    *out = slice_in_memory(r, index);
    if (*out) return 0;
    struct qcow2_ref_slice *victim = &r->slices[0];
    for (unsigned i = 1; i < QCOW2_REF_SLICES; i++)
        if (r->slices[i].used < victim->used) victim = &r->slices[i];
    int ret = slice_write(q, victim);
    if (ret < 0) return ret;
    if (!victim->data) victim->data = aligned_alloc(4096, max_u64(r->slice_bytes, 4096));
    if (!victim->data) return -ENOMEM;
    victim->index = UINT64_MAX;
    ret = engine_read_now(q->keeper.engine, q->file, victim->data, slice_offset(q, index), r->slice_bytes);
    if (ret < 0) return ret;
    victim->index = index;
    victim->used = ++r->clock;
    *out = victim;
    return 0;
}

int qcow2_refs_get(struct qcow2 *q, uint64_t cluster, uint64_t *out)
{
    struct qcow2_ref_slice *s;
    int ret = slice_get(q, cluster >> q->refs.slice_bits, &s);
    if (ret < 0) return ret;
    *out = s ? qcow2_ref_get(s->data, q->refs.order, cluster & ((UINT64_C(1) << q->refs.slice_bits) - 1)) : 0;
    return 0;
}

static void mark_dirty(struct qcow2_ref_slice *s, unsigned order, uint64_t i)
{
    uint64_t from = (i << order) / 8, to = (((i + 1) << order) + 7) / 8;
    if (s->dirty_from == s->dirty_to) {
        s->dirty_from = from;
        s->dirty_to = to;
        return;
    }
    s->dirty_from = min_u64(s->dirty_from, from);
    s->dirty_to = max_u64(s->dirty_to, to);
}

int qcow2_refs_add(struct qcow2 *q, uint64_t first, uint64_t count, int delta)
{
    struct qcow2_refs *r = &q->refs;
    for (uint64_t cluster = first; cluster < first + count; cluster++) {
        struct qcow2_ref_slice *s;
        int ret = slice_get(q, cluster >> r->slice_bits, &s);
        if (ret < 0) return ret;
        uint64_t i = cluster & ((UINT64_C(1) << r->slice_bits) - 1);
        uint64_t value = s ? qcow2_ref_get(s->data, r->order, i) : 0;
        if (!s || (delta < 0 ? value == 0 : value == qcow2_ref_max(r->order)))
            return qcow2_corrupt(q, "the refcount of host cluster %" PRIu64 " is %" PRIu64 " and cannot be %s", cluster,
                                 value, delta < 0 ? "lowered: something else refers to it too" : "raised");
        qcow2_ref_set(s->data, r->order, i, delta < 0 ? value - 1 : value + 1);
        mark_dirty(s, r->order, i);
        if (delta < 0 && value == 1 && cluster < r->search_at) r->search_at = cluster;
    }
    return 0;
}

/* ---- finding free clusters ---- */

/* Free clusters in a row within one piece, from cluster on; *count = 0 when there are none. */
static void run_in_slice(struct qcow2 *q, const struct qcow2_ref_slice *s, uint64_t cluster, uint64_t end,
                         uint64_t want, uint64_t least, uint64_t *first, uint64_t *count)
{
    uint64_t mask = (UINT64_C(1) << q->refs.slice_bits) - 1;
    *count = 0;
    for (; cluster < end && *count < want; cluster++) {
        if (s && qcow2_ref_get(s->data, q->refs.order, cluster & mask)) {
            if (*count >= least) return;
            *count = 0;
            continue;
        }
        if (*count == 0) *first = cluster;
        ++*count;
    }
    if (*count < least) *count = 0;
}

static int search_holes(struct qcow2 *q, uint64_t want, uint64_t least, uint64_t *first, uint64_t *count)
{
    struct qcow2_refs *r = &q->refs;
    uint64_t per_slice = UINT64_C(1) << r->slice_bits;
    *count = 0;
    uint64_t at = r->search_at;
    for (unsigned n = 0; n < SEARCH_SLICES && at < q->file_clusters; n++) {
        uint64_t end = min_u64(align_down(at, per_slice) + per_slice, q->file_clusters);
        struct qcow2_ref_slice *s;
        int ret = slice_get(q, at >> r->slice_bits, &s);
        if (ret < 0) return ret;
        run_in_slice(q, s, at, end, want, least, first, count);
        if (*count) {
            if (least == 1) r->search_at = *first;
            return 0;
        }
        at = end;
        if (least == 1) r->search_at = at;
    }
    return 0;
}

/* Past what was ever part of the file. Refcounts there may not be zero: a crash leaves those of a reserved run. */
int qcow2_refs_find_end(struct qcow2 *q, uint64_t want, uint64_t least, uint64_t *first, uint64_t *count)
{
    uint64_t limit = QCOW2_DATA_OFFSET_LIMIT >> q->cluster_bits;
    if (q->file->block_device) limit = min_u64(limit, q->file->size_bytes >> q->cluster_bits);
    *first = q->file_clusters;
    *count = 0;
    for (uint64_t cluster = *first; *count < want && cluster < limit; cluster++) {
        uint64_t refs;
        int ret = qcow2_refs_get(q, cluster, &refs);
        if (ret < 0) return ret;
        if (refs == 0) {
            ++*count;
            continue;
        }
        if (*count >= least) break;
        *first = cluster + 1;
        *count = 0;
    }
    return *count >= least ? 0 : -ENOSPC;
}

int qcow2_refs_find(struct qcow2 *q, uint64_t want, uint64_t least, uint64_t *first, uint64_t *count)
{
    int ret = search_holes(q, want, least, first, count);
    if (ret < 0 || *count) return ret;
    return qcow2_refs_find_end(q, want, least, first, count);
}

static int check_found(struct qcow2 *q, uint64_t first, uint64_t count)
{
    uint64_t bad = qcow2_meta_find(&q->meta, first, count);
    if (bad == first + count) return 0;
    return qcow2_corrupt(q, "host cluster %" PRIu64 " holds %s but its refcount is 0", bad,
                         qcow2_meta_name(qcow2_meta_at(&q->meta, bad)));
}

int qcow2_refs_take(struct qcow2 *q, uint64_t want, uint64_t least, uint64_t *first, uint64_t *count, bool *zero)
{
    int ret = atomic_load_explicit(&q->broken, memory_order_relaxed);
    if (ret < 0) return ret;
    for (;;) {
        ret = qcow2_refs_find(q, want, least, first, count);
        if (ret < 0) return ret;
        uint64_t before = q->file_clusters, entries = q->refs.table_entries;
        ret = qcow2_refs_cover(q, *first, *count);
        if (ret < 0) return ret;
        if (q->file_clusters == before && q->refs.table_entries == entries) break;
        /* covering them took clusters of their own: look again */
    }
    ret = check_found(q, *first, *count);
    if (ret == 0) ret = qcow2_refs_add(q, *first, *count, 1);
    if (ret < 0) return ret;
    *zero = *first >= q->file_clusters && !q->file->block_device;
    q->file_clusters = max_u64(q->file_clusters, *first + *count);
    q->refs.search_at = q->refs.search_at == *first ? *first + *count : q->refs.search_at;
    ret = qcow2_refs_write(q);
    if (ret < 0) qcow2_refs_give_back(q, *first, *count);
    return ret;
}

void qcow2_refs_give_back(struct qcow2 *q, uint64_t first, uint64_t count)
{
    int ret = qcow2_refs_add(q, first, count, -1);
    if (ret == 0) ret = qcow2_refs_write(q);
    if (ret < 0)
        log_limited(LOG_LEVEL_WARN, "%s: %" PRIu64 " host clusters from %" PRIu64 " on could not be given back: %s",
                    q->layer.name, count, first, strerror(-ret));
}
