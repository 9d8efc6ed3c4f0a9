/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commit: the published entries of one half of the log go into the image. The order, for each batch
 * of pages (see the head of qcow2_impl.h):
 *
 *   copy     pages of the shadow. Every entry seen there was published, so its data has been written.
 *   tables   where the L2 table of a page does not exist, or is shared with a snapshot, a new one is written in full
 *   sync     data, refcounts, new tables: all that the next step refers to
 *   pages    over the existing tables; L1 entries of the new ones
 *
 * Then the half is retired, and, for a flush or when clusters wait to be freed, a second sync.
 *
 * Failure: the half stays sealed and is committed again by the next attempt. New tables that nothing
 * refers to yet are given back. An L1 entry that may or may not have reached storage is taken for
 * written, and written again next time.
 */
#include "disk/format/qcow2_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_PAGES 512u /* 2 MiB of copies */
#define PAGE_ENTRIES (1u << QCOW2_PAGE_BITS)

/* A table that is being replaced by one of our own. */
struct new_table {
    uint64_t l1_index;
    uint64_t old_offset; /* 0: there was none */
    uint64_t cluster;
};

struct commit {
    struct qcow2 *q;
    struct qcow2_half *half;
    uint64_t *pages; /* of this batch */
    unsigned page_count;
    struct be64 *copies; /* page_count * PAGE_ENTRIES */
    struct new_table *tables;
    unsigned table_count;
    unsigned table_max;
    unsigned writes; /* in flight */
    int error;
};

struct page_write {
    struct commit *c;
    struct engine_io io;
    struct iovec iov;
};

/* An entry that made no sense when it was loaded stays on storage as it is. */
static int keep_bad_entry(struct commit *c, uint64_t index, struct be64 *copy)
{
    struct qcow2 *q = c->q;
    uint64_t table = atomic_load_explicit(&q->l1[index >> q->l2_bits], memory_order_relaxed) & QCOW2_OFFSET_MASK;
    uint64_t at = table + (index & ((UINT64_C(1) << q->l2_bits) - 1)) * 8;
    autofree char *block = aligned_alloc(4096, align_up(q->io_align, 4096));
    if (!block) return -ENOMEM;
    int ret = engine_read_now(q->keeper.engine, q->file, block, align_down(at, q->io_align), q->io_align);
    if (ret == 0) memcpy(copy, block + at % q->io_align, sizeof *copy);
    return ret;
}

static int copy_pages(struct commit *c)
{
    for (unsigned p = 0; p < c->page_count; p++) {
        uint64_t first = c->pages[p] << QCOW2_PAGE_BITS;
        for (unsigned i = 0; i < PAGE_ENTRIES; i++) {
            struct be64 *copy = &c->copies[(size_t)p * PAGE_ENTRIES + i];
            uint64_t entry = atomic_load_explicit(&c->q->shadow[first + i], memory_order_acquire);
            *copy = be64_make(entry);
            int ret = entry == QCOW2_BAD ? keep_bad_entry(c, first + i, copy) : 0;
            if (ret < 0) return ret;
        }
    }
    return 0;
}

/* ---- new tables ---- */

static struct new_table *new_table_of(struct commit *c, uint64_t l1_index)
{
    for (unsigned i = c->table_count; i-- > 0;)
        if (c->tables[i].l1_index == l1_index) return &c->tables[i];
    return NULL;
}

/* All entries of a table as they are now: from the shadow where it is present, else from the old table, else zeroes. */
static int compose_table(struct commit *c, const struct new_table *t, struct be64 *out)
{
    struct qcow2 *q = c->q;
    uint64_t first = t->l1_index << q->l2_bits, entries = UINT64_C(1) << q->l2_bits;
    int ret = 0;
    memset(out, 0, q->cluster_bytes);
    if (t->old_offset) ret = engine_read_now(q->keeper.engine, q->file, out, t->old_offset, q->cluster_bytes);
    if (ret < 0) return ret;
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t entry = QCOW2_BAD;
        if (qcow2_slice_present(q, qcow2_slice_of(q, first + i)))
            entry = atomic_load_explicit(&q->shadow[first + i], memory_order_acquire);
        if (entry != QCOW2_BAD) out[i] = be64_make(entry);
        else if (t->old_offset && !(be64_get(out[i]) & QCOW2_COMPRESSED))
            out[i] = be64_make(be64_get(out[i]) & ~QCOW2_COPIED); /* a shared table's clusters are shared */
    }
    return 0;
}

/* Where storage is full one of those that are reserved for writes: what was acknowledged goes before what may come. A kill before
 * the L1 table refers to it leaks it. */
static int take_cluster(struct qcow2 *q, uint64_t *cluster)
{
    uint64_t count;
    uint32_t slot;
    bool zero;
    int ret = qcow2_refs_take(q, 1, 1, cluster, &count, &zero);
    if (ret != -ENOSPC) return ret;
    pthread_mutex_lock(&q->lock);
    count = qcow2_pool_take(q, 1, cluster, &zero, &slot);
    if (count) qcow2_stash_alloc_done(q, slot);
    pthread_mutex_unlock(&q->lock);
    return count ? 0 : ret;
}

static int make_table(struct commit *c, uint64_t l1_index, uint64_t old_offset)
{
    struct qcow2 *q = c->q;
    struct new_table *t = &c->tables[c->table_count];
    assert(c->table_count < c->table_max);
    *t = (struct new_table){.l1_index = l1_index, .old_offset = old_offset};
    int ret = take_cluster(q, &t->cluster);
    if (ret < 0) return ret;
    c->table_count++;
    enum qcow2_meta_type other;
    ret = qcow2_meta_add(&q->meta, t->cluster, 1, QCOW2_META_L2, &other);
    assert(ret != -EEXIST); /* refs_take has looked */
    if (ret < 0) return ret;
    autofree struct be64 *entries = aligned_alloc(4096, align_up(q->cluster_bytes, 4096));
    if (!entries) return -ENOMEM;
    ret = compose_table(c, t, entries);
    if (ret < 0) return ret;
    return qcow2_meta_write(q, QCOW2_META_L2, entries, t->cluster << q->cluster_bits, q->cluster_bytes);
}

static bool all_zero(const struct be64 *entries, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (be64_get(entries[i])) return false;
    return true;
}

/* Entries of one table within a page. A page is a part of one table, or several small tables. */
static uint64_t entries_per_step(const struct qcow2 *q)
{
    return min_u64(PAGE_ENTRIES, UINT64_C(1) << q->l2_bits);
}

/* Every table that pages of the batch lie in: ours, or made so. */
static int make_tables(struct commit *c)
{
    struct qcow2 *q = c->q;
    uint64_t step = entries_per_step(q);
    for (uint64_t at = 0; at < (uint64_t)c->page_count * PAGE_ENTRIES; at += step) {
        uint64_t index = (c->pages[at / PAGE_ENTRIES] << QCOW2_PAGE_BITS) + at % PAGE_ENTRIES;
        uint64_t i = index >> q->l2_bits;
        if (i >= q->l1_entries) continue;
        uint64_t l1 = atomic_load_explicit(&q->l1[i], memory_order_relaxed);
        if ((l1 & QCOW2_COPIED) || new_table_of(c, i)) continue;
        if (!l1 && all_zero(c->copies + at, step)) continue;
        int ret = make_table(c, i, l1 & QCOW2_OFFSET_MASK);
        if (ret < 0) return ret;
    }
    return 0;
}

/* Nothing on storage refers to them. */
static void drop_tables(struct commit *c)
{
    for (unsigned i = 0; i < c->table_count; i++) {
        qcow2_meta_remove(&c->q->meta, c->tables[i].cluster, 1);
        qcow2_refs_give_back(c->q, c->tables[i].cluster, 1);
    }
    c->table_count = 0;
}

/* ---- pages over existing tables ---- */

static void page_written(struct engine_io *io, int res)
{
    struct page_write *w = container_of(io, struct page_write, io);
    if (res < 0) w->c->error = res;
    w->c->writes--;
}

static int submit_piece(struct commit *c, struct page_write *w, const struct be64 *data, uint64_t offset,
                        uint64_t bytes)
{
    struct qcow2 *q = c->q;
    if (qcow2_meta_at(&q->meta, offset >> q->cluster_bits) != QCOW2_META_L2)
        return qcow2_corrupt(q, "L2 entries would be written over %s at 0x%" PRIx64,
                             qcow2_meta_name(qcow2_meta_at(&q->meta, offset >> q->cluster_bits)), offset);
    w->c = c;
    w->iov = (struct iovec){(void *)(uintptr_t)data, bytes};
    w->io = (struct engine_io){.op = ENGINE_WRITE,
                               .file = q->file,
                               .offset_bytes = offset,
                               .length_bytes = bytes,
                               .iov = &w->iov,
                               .iov_count = 1,
                               .done = page_written};
    c->writes++;
    engine_submit(q->keeper.engine, &w->io);
    return 0;
}

static int submit_page(struct commit *c, unsigned p, struct page_write *writes)
{
    struct qcow2 *q = c->q;
    uint64_t index = c->pages[p] << QCOW2_PAGE_BITS;
    uint64_t step = entries_per_step(q);
    const struct be64 *data = c->copies + (size_t)p * PAGE_ENTRIES;
    int ret = 0;
    for (unsigned n = 0; n < PAGE_ENTRIES / step && ret == 0; n++, index += step, data += step) {
        uint64_t l1_index = index >> q->l2_bits;
        if (l1_index >= q->l1_entries || new_table_of(c, l1_index)) continue;
        uint64_t table = atomic_load_explicit(&q->l1[l1_index], memory_order_relaxed) & QCOW2_OFFSET_MASK;
        if (!table) continue; /* and nothing in it */
        ret = submit_piece(c, &writes[n], data, table + (index & ((UINT64_C(1) << q->l2_bits) - 1)) * 8, step * 8);
    }
    return ret;
}

static int write_pages(struct commit *c)
{
    struct qcow2 *q = c->q;
    size_t per_page = q->l2_bits < QCOW2_PAGE_BITS ? (size_t)1 << (QCOW2_PAGE_BITS - q->l2_bits) : 1;
    autofree struct page_write *writes = calloc(c->page_count * per_page, sizeof *writes);
    if (!writes) return -ENOMEM;
    int ret = 0;
    c->error = 0;
    for (unsigned p = 0; p < c->page_count && ret == 0; p++)
        ret = submit_page(c, p, writes + p * per_page);
    while (c->writes) {
        int slept = engine_sleep(q->keeper.engine, UINT64_MAX);
        assert(slept >= 0);
    }
    return ret < 0 ? ret : c->error;
}

/* ---- L1 ---- */

static int write_l1_block(struct qcow2 *q, uint64_t block)
{
    uint64_t per_block = q->io_align / 8;
    autofree struct be64 *raw = aligned_alloc(4096, align_up(q->io_align, 4096));
    if (!raw) return -ENOMEM;
    for (uint64_t i = 0; i < per_block; i++) {
        uint64_t at = block * per_block + i;
        raw[i] = be64_make(at < q->l1_entries ? atomic_load_explicit(&q->l1[at], memory_order_relaxed) : 0);
    }
    return qcow2_meta_write(q, QCOW2_META_L1, raw, q->header.l1_offset + block * q->io_align, q->io_align);
}

int qcow2_l1_write_dirty(struct qcow2 *q)
{
    uint64_t blocks = div_round_up((uint64_t)q->l1_entries * 8, q->io_align);
    for (uint64_t b = bitmap_next_set(q->l1_dirty, blocks, 0); b < blocks;
         b = bitmap_next_set(q->l1_dirty, blocks, b + 1)) {
        int ret = write_l1_block(q, b);
        if (ret < 0) return ret;
        bitmap_clear(q->l1_dirty, b);
    }
    return 0;
}

/* The new tables are durable: from here on they are the tables. Old ones lose a reference once this is durable too. */
static void switch_tables(struct commit *c)
{
    struct qcow2 *q = c->q;
    for (unsigned i = 0; i < c->table_count; i++) {
        struct new_table *t = &c->tables[i];
        atomic_store_explicit(&q->l1[t->l1_index], (t->cluster << q->cluster_bits) | QCOW2_COPIED,
                              memory_order_release);
        bitmap_set(q->l1_dirty, t->l1_index * 8 / q->io_align);
        if (!t->old_offset) continue;
        struct qcow2_free_batch *b = malloc(sizeof *b + sizeof b->freed[0]);
        if (!b) continue; /* a leak of one cluster */
        *b = (struct qcow2_free_batch){.is_table = true, .count = 1};
        b->freed[0] = (struct qcow2_freed){t->old_offset >> q->cluster_bits, 1};
        list_push_back(&q->keeper.tables_to_free, &b->node);
    }
}

/* ---- one half ---- */

static int commit_batch(struct commit *c)
{
    struct qcow2 *q = c->q;
    c->table_count = 0;
    int ret = copy_pages(c);
    engine_point(q->keeper.engine, "qcow2-commit-copied");
    if (ret == 0) ret = make_tables(c);
    if (ret == 0) ret = qcow2_sync(q);
    if (ret < 0) {
        drop_tables(c);
        return ret;
    }
    engine_point(q->keeper.engine, "qcow2-commit-synced");
    ret = write_pages(c); /* skips the new tables */
    switch_tables(c);
    int l1 = qcow2_l1_write_dirty(q);
    engine_point(q->keeper.engine, "qcow2-commit-written");
    return ret < 0 ? ret : l1;
}

static int commit_half(struct qcow2 *q, struct qcow2_half *half)
{
    struct commit c = {.q = q, .half = half};
    uint64_t most = min_u64(half->page_count, BATCH_PAGES);
    if (!most) return qcow2_l1_write_dirty(q);
    size_t per_page = q->l2_bits < QCOW2_PAGE_BITS ? (size_t)1 << (QCOW2_PAGE_BITS - q->l2_bits) : 1;
    c.table_max = (unsigned)(most * per_page);
    autofree struct be64 *copies = aligned_alloc(4096, most * PAGE_ENTRIES * 8);
    autofree struct new_table *tables = calloc(c.table_max, sizeof *tables);
    if (!copies || !tables) return -ENOMEM;
    c.copies = copies;
    c.tables = tables;
    int ret = 0;
    for (uint64_t at = 0; at < half->page_count && ret == 0; at += c.page_count) {
        c.pages = half->pages + at;
        c.page_count = (unsigned)min_u64(half->page_count - at, BATCH_PAGES);
        ret = commit_batch(&c);
    }
    return ret;
}

static struct qcow2_free_batch *take_freed(const struct qcow2_half *half)
{
    if (!half->freed_count) return NULL;
    struct qcow2_free_batch *b = malloc(sizeof *b + half->freed_count * sizeof b->freed[0]);
    if (!b) return NULL; /* a leak */
    *b = (struct qcow2_free_batch){.count = half->freed_count};
    memcpy(b->freed, half->freed, half->freed_count * sizeof b->freed[0]);
    return b;
}

/* Until storage has what dropped the references, nothing is free. */
static int free_after_sync(struct qcow2 *q, struct list *batches, bool durable)
{
    if (list_empty(batches) && !durable) return 0;
    int ret = qcow2_sync(q);
    if (ret < 0) return ret;
    struct list *node;
    while ((node = list_pop_front(batches)))
        qcow2_reclaim_add(q, list_entry(node, struct qcow2_free_batch, node));
    return 0;
}

int qcow2_commit(struct qcow2 *q, bool durable)
{
    struct list *batches = &q->keeper.tables_to_free;
    int ret = atomic_load_explicit(&q->broken, memory_order_relaxed);
    if (ret == 0) ret = qcow2_settle(q);
    if (ret < 0) return ret;
    /* At most a half that failed before, and the one that is active now. */
    for (unsigned n = 0; n < 2; n++) {
        pthread_mutex_lock(&q->lock);
        bool again = q->log.sealed;
        struct qcow2_half *half = qcow2_log_seal(q);
        pthread_mutex_unlock(&q->lock);
        if (!half) break;
        ret = commit_half(q, half);
        if (ret < 0) return ret;
        struct qcow2_free_batch *b = take_freed(half);
        if (b) list_push_back(batches, &b->node);
        pthread_mutex_lock(&q->lock);
        qcow2_log_retire(q, half);
        pthread_mutex_unlock(&q->lock);
        if (!again) break;
    }
    return free_after_sync(q, batches, durable);
}
