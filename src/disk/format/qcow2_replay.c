/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Going on where a killed process stopped: what its stash holds is checked word by word, as
 * something that a hostile front end may have written, and taken over.
 *
 * Records become dirty entries of the shadow, as if they had been published now; the image is not
 * touched. Runs go back to the pool. Clusters of writes that were in flight are free, once no write of
 * the dead process can land on them any more.
 */
#include "disk/format/qcow2_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "disk/format/qcow2_stash.h"

struct replay {
    struct qcow2 *q;
    struct errmsg *e;
    struct qcow2_record *records[2]; /* of each half; one allocation */
    uint64_t *used;                  /* host clusters that records name, sorted once all are read */
    uint64_t used_count;
    uint64_t counts[2];
    uint64_t pool[QCOW2_POOL_RUNS];
    uint64_t slots[QCOW2_STASH_SLOTS];
};

static int refuse(struct replay *r, const char *what, uint64_t value)
{
    return errmsg_set(r->e, EINVAL,
                      "%s: what the last process left (its stash) cannot be taken over: %s (0x%" PRIx64 ")",
                      r->q->layer.name, what, value);
}

/* A host cluster that may hold data: inside the file, and no table. Its refcount may be 0 only where that is no harm. */
static int check_cluster(struct replay *r, uint64_t cluster, bool may_be_free, uint64_t *refs_out)
{
    struct qcow2 *q = r->q;
    uint64_t refs = 0;
    if (cluster == 0 || cluster >= QCOW2_DATA_OFFSET_LIMIT >> q->cluster_bits)
        return refuse(r, "a host cluster is out of range", cluster);
    if (qcow2_meta_at(&q->meta, cluster)) return refuse(r, "a host cluster holds one of the image's tables", cluster);
    int ret = qcow2_refs_get(q, cluster, &refs);
    if (ret < 0) return errmsg_sys(r->e, -ret, "%s: reading refcounts", q->layer.name);
    if (refs > 1 || (refs == 0 && !may_be_free)) return refuse(r, "a host cluster has the wrong refcount", cluster);
    *refs_out = refs;
    return 0;
}

static int check_record(struct replay *r, const struct qcow2_record *rec)
{
    struct qcow2 *q = r->q;
    uint64_t host = rec->entry & QCOW2_OFFSET_MASK;
    if (rec->index >= min_u64((uint64_t)q->l1_entries << q->l2_bits, q->clusters_max))
        return refuse(r, "a record is past the end of the L1 table", rec->index);
    if (rec->entry & (QCOW2_COMPRESSED | QCOW2_L2_RESERVED)) return refuse(r, "an entry is malformed", rec->entry);
    if ((rec->entry & QCOW2_ZERO) && q->header.version < 3)
        return refuse(r, "a zero flag in a version 2 image", rec->entry);
    if (!host) return rec->entry & QCOW2_COPIED ? refuse(r, "an entry is malformed", rec->entry) : 0;
    if (!(rec->entry & QCOW2_COPIED) || (host & (q->cluster_bytes - 1)))
        return refuse(r, "an entry is malformed", rec->entry);
    uint64_t refs;
    return check_cluster(r, host >> q->cluster_bits, false, &refs);
}

/* Every record of a half, fetched once and checked. */
static int fetch_records(struct replay *r, unsigned half, struct qcow2_record *out)
{
    for (uint64_t i = 0; i < r->counts[half]; i++) {
        out[i] = r->q->log.half[half].records[i];
        __asm__ volatile("" ::: "memory");
        int ret = check_record(r, &out[i]);
        if (ret < 0) return ret;
        uint64_t host = (out[i].entry & QCOW2_OFFSET_MASK) >> r->q->cluster_bits;
        if (host) r->used[r->used_count++] = host;
    }
    return 0;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static bool is_recorded(const struct replay *r, uint64_t cluster)
{
    return r->used_count && bsearch(&cluster, r->used, r->used_count, sizeof cluster, compare_u64);
}

/*
 * The entries as they are in the image, for the records to go on from. The last process may have been killed after it
 * wrote them and before it dropped the records: then the image has what some record, often the last, made of an entry.
 * The records tell again how it came to that, and what that replaced on the way; that they begin from what they end in is
 * no replacement. So what a record names does not count as having been there before.
 */
static int load_entries(struct replay *r, unsigned half)
{
    struct qcow2 *q = r->q;
    for (uint64_t i = 0; i < r->counts[half]; i++) {
        uint64_t index = r->records[half][i].index;
        int ret = qcow2_load_now(q, qcow2_slice_of(q, index));
        if (ret < 0) return errmsg_sys(r->e, -ret, "%s: reading L2 entries", q->layer.name);
        pthread_mutex_lock(&q->lock);
        uint64_t entry = atomic_load_explicit(&q->shadow[index], memory_order_relaxed);
        qcow2_log_mark(q, half, index);
        if (!(entry & QCOW2_COMPRESSED) && is_recorded(r, (entry & QCOW2_OFFSET_MASK) >> q->cluster_bits))
            qcow2_map_set(q, index, 0);
        pthread_mutex_unlock(&q->lock);
    }
    return 0;
}

static void replay_half(struct replay *r, unsigned half)
{
    struct qcow2 *q = r->q;
    pthread_mutex_lock(&q->lock);
    for (uint64_t i = 0; i < r->counts[half]; i++) {
        const struct qcow2_record *rec = &r->records[half][i];
        uint64_t old = atomic_load_explicit(&q->shadow[rec->index], memory_order_relaxed);
        q->file_clusters = max_u64(q->file_clusters, ((rec->entry & QCOW2_OFFSET_MASK) >> q->cluster_bits) + 1);
        qcow2_map_set(q, rec->index, rec->entry);
        qcow2_log_note_replaced(q, half, old, rec->entry);
    }
    q->log.half[half].count = r->counts[half];
    pthread_mutex_unlock(&q->lock);
}

/* The older half first: what it says of an entry, the active one may say again. */
static int replay_records(struct replay *r)
{
    struct qcow2 *q = r->q;
    unsigned older = q->log.active ^ 1;
    uint64_t count = r->counts[0] + r->counts[1];
    r->used = calloc(count + 1, sizeof *r->used);
    r->records[0] = calloc(count + 1, sizeof *r->records[0]);
    if (!r->used || !r->records[0]) return errmsg_sys(r->e, ENOMEM, "%s: taking over the stash", q->layer.name);
    r->records[1] = r->records[0] + r->counts[0];
    for (unsigned half = 0; half < 2; half++) {
        int ret = fetch_records(r, half, r->records[half]);
        if (ret < 0) return ret;
    }
    qsort(r->used, r->used_count, sizeof *r->used, compare_u64);
    q->log.sealed = r->counts[older] > 0;
    for (unsigned half = 0; half < 2; half++) {
        int ret = load_entries(r, half);
        if (ret < 0) return ret;
    }
    replay_half(r, older);
    replay_half(r, q->log.active);
    return 0;
}

/* The clusters of a slot were taken from a run whose word may not have been lowered yet. */
static bool in_slot(const struct replay *r, uint64_t cluster)
{
    for (unsigned i = 0; i < QCOW2_STASH_SLOTS; i++)
        if (cluster - (r->slots[i] >> 16) < (r->slots[i] & 0xffff)) return true;
    return false;
}

static int replay_pool(struct replay *r)
{
    struct qcow2 *q = r->q;
    for (unsigned i = 0; i < QCOW2_POOL_RUNS; i++) {
        uint64_t first = r->pool[i] >> 16, end = first + (r->pool[i] & 0xffff);
        while (first < end && (is_recorded(r, first) || in_slot(r, first)))
            first++;
        for (uint64_t cluster = first; cluster < end; cluster++) {
            uint64_t refs;
            int ret = check_cluster(r, cluster, true, &refs);
            if (ret < 0) return ret;
            if (is_recorded(r, cluster)) return refuse(r, "a reserved cluster is in use", cluster);
            if (refs == 0) end = cluster; /* killed while it gave them back */
        }
        if (first >= end) continue;
        pthread_mutex_lock(&q->lock);
        q->pool.runs[i] = (struct qcow2_run){.first = first, .count = end - first};
        q->pool.clusters += end - first;
        pthread_mutex_unlock(&q->lock);
        q->file_clusters = max_u64(q->file_clusters, end);
    }
    return 0;
}

/* One slot: clusters of a write that was in flight, unless it was published or given back since. */
static int replay_slot(struct replay *r, unsigned i, struct qcow2_free_batch *b)
{
    struct qcow2 *q = r->q;
    uint64_t first = r->slots[i] >> 16, count = r->slots[i] & 0xffff, counted = 0;
    bool recorded = false;
    for (uint64_t cluster = first; cluster < first + count; cluster++) {
        uint64_t refs;
        int ret = check_cluster(r, cluster, true, &refs);
        if (ret < 0) return ret;
        counted += refs;
        recorded = recorded || is_recorded(r, cluster);
    }
    if (count == 0 || recorded || counted < count) {
        r->slots[i] = 0;
        return 0;
    }
    q->file_clusters = max_u64(q->file_clusters, first + count);
    q->log.slot_used[i] = true;
    bitmap_set(q->log.slot_replayed, i);
    b->freed[b->count++] = (struct qcow2_freed){first, count};
    return 0;
}

/* Of what was in flight nothing can land any more (disk.h, struct disk_stash). */
static int replay_slots(struct replay *r)
{
    struct qcow2 *q = r->q;
    struct qcow2_free_batch *b = calloc(1, sizeof *b + QCOW2_STASH_SLOTS * sizeof b->freed[0]);
    if (!b) return errmsg_sys(r->e, ENOMEM, "%s: taking over the stash", q->layer.name);
    int ret = 0;
    for (unsigned i = 0; i < QCOW2_STASH_SLOTS && ret == 0; i++)
        ret = replay_slot(r, i, b);
    if (ret < 0 || b->count == 0) {
        free(b);
        return ret;
    }
    b->from_slots = true;
    qcow2_reclaim_add(q, b);
    return 0;
}

/* Everything of the head is fetched once. */
static int fetch_head(struct replay *r)
{
    struct qcow2 *q = r->q;
    struct qcow2_stash_head *h = q->log.head, own = {0};
    int ret = qcow2_stash_identity(q, &own);
    if (ret < 0) return errmsg_sys(r->e, -ret, "%s", q->layer.name);
    uint64_t device = h->device, inode = h->inode, capacity = h->capacity, active = atomic_load(&h->active);
    if (h->version != QCOW2_STASH_VERSION) return refuse(r, "unknown version", h->version);
    if (device != own.device || inode != own.inode || h->cluster_bits != q->cluster_bits)
        return refuse(r, "it belongs to another image, inode", inode);
    if (capacity != q->log.capacity) return refuse(r, "it has another size, records", capacity);
    if (active > 1) return refuse(r, "the active half is neither 0 nor 1", active);
    for (unsigned i = 0; i < 2; i++) {
        r->counts[i] = atomic_load_explicit(&h->half[i].count, memory_order_acquire);
        if (r->counts[i] > capacity) return refuse(r, "too many records", r->counts[i]);
    }
    for (unsigned i = 0; i < QCOW2_POOL_RUNS; i++)
        r->pool[i] = atomic_load(&h->pool[i]);
    for (unsigned i = 0; i < QCOW2_STASH_SLOTS; i++)
        r->slots[i] = atomic_load(&h->slots[i]);
    q->log.active = (unsigned)active;
    return 0;
}

static int replay_all(struct replay *r)
{
    struct qcow2 *q = r->q;
    int ret = fetch_head(r);
    if (ret < 0) return ret;
    ret = replay_records(r);
    if (ret == 0) ret = replay_slots(r);
    if (ret == 0) ret = replay_pool(r);
    if (ret < 0) return ret;
    /* The stash as it is to us now: runs without what others hold, slots that are to be freed only. */
    for (unsigned i = 0; i < QCOW2_POOL_RUNS; i++)
        qcow2_stash_pool(q, i);
    for (unsigned i = 0; i < QCOW2_STASH_SLOTS; i++)
        atomic_store_explicit(&q->log.head->slots[i], r->slots[i], memory_order_release);
    return 0;
}

int qcow2_replay(struct qcow2 *q, struct errmsg *e)
{
    if (!q->log.persistent) return 0;
    uint64_t magic = atomic_load_explicit(&q->log.head->magic, memory_order_acquire);
    if (magic == 0) {
        int ret = qcow2_stash_format(q);
        return ret < 0 ? errmsg_sys(e, -ret, "%s: preparing the stash", q->layer.name) : 0;
    }
    autofree struct replay *r = calloc(1, sizeof *r);
    if (!r) return errmsg_sys(e, ENOMEM, "%s: taking over the stash", q->layer.name);
    r->q = q;
    r->e = e;
    if (magic != QCOW2_STASH_MAGIC) return refuse(r, "unknown magic number", magic);
    int ret = replay_all(r);
    free(r->used);
    free(r->records[0]);
    return ret;
}
