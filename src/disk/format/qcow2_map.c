/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From guest clusters to host clusters: the L1 table in memory, and the shadow of the L2 tables.
 *
 * A lookup takes no lock. It reads the slice's generation, the entry, and the generation again;
 * equal and odd means that the entry is good. Where the slice is absent but the L1 entry is zero,
 * the answer is "not allocated" with no I/O, which makes a fresh clone as cheap as its base: the L1
 * entry of an absent slice cannot become non-zero without the slice being present in between.
 *
 * Everything lies in one sparse mapping made at open, so that no pointer moves when a disk grows.
 */
#include "disk/format/qcow2_impl.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES 4096u

const uint8_t qcow2_zeroes[QCOW2_ZEROES_BYTES] __attribute__((aligned(PAGE_BYTES)));

/* Guest clusters that there must be room for: a writable disk may grow while it is open. */
static uint64_t clusters_with_room(const struct qcow2 *q)
{
    uint64_t most = (QCOW2_L1_MAX_BYTES / 8) << q->l2_bits;
    uint64_t bytes = atomic_load(&q->layer.size_bytes);
    uint64_t need = qcow2_cluster_count(q, bytes);
    if (q->layer.writable) need = max_u64(need, QCOW2_LIVE_SIZE_MAX >> q->cluster_bits);
    return align_up(max_u64(min_u64(need, most), 1), UINT64_C(1) << max_u64(q->slice_bits, q->l2_bits));
}

struct carve {
    uint64_t used_bytes;
    char *base; /* NULL while only measuring */
};

static void *carve(struct carve *c, uint64_t bytes)
{
    void *p = c->base ? c->base + c->used_bytes : NULL;
    c->used_bytes += align_up(bytes, PAGE_BYTES);
    return p;
}

static void carve_all(struct qcow2 *q, struct carve *c)
{
    uint64_t slices = q->clusters_max >> q->slice_bits;
    q->shadow = carve(c, q->clusters_max * 8);
    q->generations = carve(c, slices * sizeof *q->generations);
    q->l1 = carve(c, QCOW2_L1_MAX_BYTES); /* may have entries past the disk's end, to be kept */
    q->pins = carve(c, slices * sizeof *q->pins);
    q->page_logs = carve(c, q->clusters_max >> QCOW2_PAGE_BITS);
    q->l1_dirty = carve(c, QCOW2_L1_MAX_BYTES / 512 / 8);
}

int qcow2_map_init(struct qcow2 *q, struct errmsg *e)
{
    q->clusters_max = clusters_with_room(q);
    struct carve c = {0};
    carve_all(q, &c);
    uint64_t bytes = c.used_bytes;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        q->shadow = NULL;
        return errmsg_sys(e, errno, "%s: no address space for %" PRIu64 " bytes of tables", q->layer.name, bytes);
    }
    madvise(base, bytes, MADV_DONTDUMP);
    madvise(base, bytes, MADV_NOHUGEPAGE); /* sparse: a huge page would make it dense */
    c = (struct carve){.base = base};
    carve_all(q, &c);
    return 0;
}

void qcow2_map_free(struct qcow2 *q)
{
    if (!q->shadow) return;
    struct carve c = {0};
    void *base = (void *)q->shadow;
    carve_all(q, &c);
    munmap(base, c.used_bytes);
    q->shadow = NULL;
}

/* ---- looking up: any thread ---- */

bool qcow2_map_lookup(struct qcow2 *q, uint64_t index, uint64_t *entry)
{
    _Atomic uint32_t *generation = &q->generations[qcow2_slice_of(q, index)];
    for (;;) {
        /* Sequentially consistent (as cheap as acquire): ordered after the request entered its era. */
        uint32_t before = atomic_load_explicit(generation, memory_order_seq_cst);
        uint64_t found = 0;
        if (before & 1) found = atomic_load_explicit(&q->shadow[index], memory_order_seq_cst);
        else if (atomic_load_explicit(&q->l1[index >> q->l2_bits], memory_order_acquire)) return false;
        if (atomic_load_explicit(generation, memory_order_relaxed) == before) {
            *entry = found;
            return true;
        }
    }
}

static enum qcow2_kind kind_for(uint64_t entry, bool writing)
{
    enum qcow2_kind kind = qcow2_entry_kind(entry);
    if (writing && kind == QCOW2_KIND_DATA && !(entry & QCOW2_COPIED)) return QCOW2_KIND_BELOW;
    return kind;
}

/* How many clusters from index on are unallocated because their slice or table is not there at all. */
static uint64_t empty_clusters(struct qcow2 *q, uint64_t index)
{
    if (qcow2_slice_present(q, qcow2_slice_of(q, index))) return 1;
    unsigned bits = q->slice_bits < q->l2_bits ? q->slice_bits : q->l2_bits;
    return (UINT64_C(1) << bits) - (index & ((UINT64_C(1) << bits) - 1));
}

void qcow2_map_extent(struct qcow2 *q, uint64_t at, uint64_t length_bytes, bool writing, struct qcow2_extent *out)
{
    uint64_t index = at >> q->cluster_bits, inside = at & (q->cluster_bytes - 1);
    *out = (struct qcow2_extent){.kind = QCOW2_KIND_ABSENT};
    uint64_t entry;
    if (!qcow2_map_lookup(q, index, &entry)) return;
    out->entry = entry;
    out->kind = kind_for(entry, writing);
    uint64_t host = entry & QCOW2_OFFSET_MASK;
    if (out->kind == QCOW2_KIND_DATA) out->host_bytes = host + inside;
    uint64_t covered = q->cluster_bytes - inside;
    while (covered < length_bytes && out->kind != QCOW2_KIND_COMPRESSED) {
        index++;
        host += q->cluster_bytes;
        if (!qcow2_map_lookup(q, index, &entry) || kind_for(entry, writing) != out->kind) break;
        if (out->kind == QCOW2_KIND_DATA && (entry & QCOW2_OFFSET_MASK) != host) break;
        uint64_t more = entry ? 1 : empty_clusters(q, index);
        index += more - 1;
        covered += more << q->cluster_bits;
    }
    out->length_bytes = min_u64(covered, length_bytes);
}

/* ---- changing: under the lock ---- */

bool qcow2_map_ensure(struct qcow2 *q, uint64_t index)
{
    uint64_t slice = qcow2_slice_of(q, index);
    if (qcow2_slice_present(q, slice)) return true;
    uint64_t first = (slice << q->slice_bits) >> q->l2_bits;
    uint64_t tables = q->slice_bits > q->l2_bits ? UINT64_C(1) << (q->slice_bits - q->l2_bits) : 1;
    for (uint64_t i = first; i < first + tables; i++)
        if (atomic_load_explicit(&q->l1[i], memory_order_acquire)) return false;
    atomic_fetch_add_explicit(&q->generations[slice], 1, memory_order_release); /* its memory is all zeroes */
    q->keeper.resident_count++;
    return true;
}

void qcow2_map_set(struct qcow2 *q, uint64_t index, uint64_t entry)
{
    assert(qcow2_slice_present(q, qcow2_slice_of(q, index)));
    atomic_store_explicit(&q->shadow[index], entry, memory_order_release);
}

void qcow2_map_install(struct qcow2 *q, uint64_t slice, const struct be64 *entries)
{
    uint64_t first = slice << q->slice_bits;
    pthread_mutex_lock(&q->lock);
    if (!qcow2_slice_present(q, slice)) {
        for (uint64_t i = 0; i < UINT64_C(1) << q->slice_bits; i++) {
            uint64_t raw = be64_get(entries[i]);
            if (!raw) continue; /* untouched memory stays untouched */
            bool copied = atomic_load_explicit(&q->l1[(first + i) >> q->l2_bits], memory_order_relaxed) & QCOW2_COPIED;
            uint64_t entry = qcow2_map_check_entry(q, raw, copied, first + i);
            atomic_store_explicit(&q->shadow[first + i], entry, memory_order_relaxed);
        }
        atomic_fetch_add_explicit(&q->generations[slice], 1, memory_order_release);
        q->keeper.resident_count++;
    }
    pthread_mutex_unlock(&q->lock);
}

/* Without this, requests for more slices than the budget has room for could evict each other's for ever. */
void qcow2_map_pin_for(struct qcow2 *q, struct qcow2_op *op)
{
    uint64_t slice = qcow2_slice_of(q, op->want_index);
    pthread_mutex_lock(&q->lock);
    op->pins_slice = qcow2_slice_present(q, slice);
    if (op->pins_slice) q->pins[slice]++;
    pthread_mutex_unlock(&q->lock);
}

void qcow2_map_unpin(struct qcow2 *q, uint64_t index)
{
    pthread_mutex_lock(&q->lock);
    q->pins[qcow2_slice_of(q, index)]--;
    pthread_mutex_unlock(&q->lock);
}

static bool evict_one(struct qcow2 *q, uint64_t slice)
{
    pthread_mutex_lock(&q->lock);
    bool evict = qcow2_slice_present(q, slice) && q->pins[slice] == 0;
    if (evict) {
        atomic_fetch_add_explicit(&q->generations[slice], 1, memory_order_seq_cst);
        q->keeper.resident_count--;
        uint64_t bytes = UINT64_C(8) << q->slice_bits;
        madvise((char *)q->shadow + slice * bytes, bytes, MADV_DONTNEED);
    }
    pthread_mutex_unlock(&q->lock);
    return evict;
}

/* Keeper: back under the budget, oldest position first. What is dirty stays, and is asked to be committed. */
void qcow2_map_evict(struct qcow2 *q)
{
    struct qcow2_keeper *k = &q->keeper;
    uint64_t most = max_u64(q->metadata_budget_bytes >> (q->slice_bits + 3), 2);
    uint64_t slices = q->clusters_max >> q->slice_bits;
    pthread_mutex_lock(&q->lock);
    uint64_t excess = k->resident_count > most ? k->resident_count - most : 0;
    pthread_mutex_unlock(&q->lock);
    for (uint64_t looked = 0; excess && looked < slices; looked++) {
        uint64_t slice = k->evict_at;
        k->evict_at = slice + 1 < slices ? slice + 1 : 0;
        if (qcow2_slice_present(q, slice) && evict_one(q, slice)) excess--;
    }
    if (excess) k->commit_wanted = true;
}

/* ---- what storage holds, checked ---- */

void qcow2_compressed_range(const struct qcow2 *q, uint64_t entry, uint64_t *offset_bytes, uint64_t *length_bytes)
{
    unsigned x = 62 - (q->cluster_bits - 8);
    uint64_t offset = entry & ((UINT64_C(1) << x) - 1);
    uint64_t more_sectors = (entry & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> x;
    *offset_bytes = offset;
    *length_bytes = (more_sectors + 1) * 512 - (offset & 511);
}

static const char *why_compressed_is_bad(struct qcow2 *q, uint64_t raw)
{
    uint64_t offset, bytes;
    qcow2_compressed_range(q, raw, &offset, &bytes);
    if (raw & QCOW2_COPIED) return "a compressed cluster has the COPIED flag";
    if (offset >= QCOW2_DATA_OFFSET_LIMIT || offset >> q->cluster_bits >= q->file_clusters)
        return "compressed data lies past the end of the file";
    uint64_t first = offset >> q->cluster_bits, last = (offset + bytes - 1) >> q->cluster_bits;
    if (qcow2_meta_find(&q->meta, first, last - first + 1) <= last)
        return "compressed data overlaps the image's own tables";
    return NULL;
}

static const char *why_standard_is_bad(struct qcow2 *q, uint64_t raw)
{
    uint64_t offset = raw & QCOW2_OFFSET_MASK;
    if (raw & QCOW2_L2_RESERVED) return "reserved bits are set";
    if ((raw & QCOW2_ZERO) && q->header.version < 3) return "the zero flag is set in a version 2 image";
    if (!offset) return raw & QCOW2_COPIED ? "the COPIED flag is set without a host cluster" : NULL;
    if (offset & (q->cluster_bytes - 1)) return "the host offset is not aligned to a cluster";
    if (offset >> q->cluster_bits >= q->file_clusters) return "the host cluster lies past the end of the file";
    if (qcow2_meta_at(&q->meta, offset >> q->cluster_bits)) return "the host cluster is one of the image's own tables";
    return NULL;
}

uint64_t qcow2_map_check_entry(struct qcow2 *q, uint64_t raw, bool table_copied, uint64_t index)
{
    if (!raw) return 0;
    const char *why = raw & QCOW2_COMPRESSED ? why_compressed_is_bad(q, raw) : why_standard_is_bad(q, raw);
    if (why) {
        uint64_t table = atomic_load_explicit(&q->l1[index >> q->l2_bits], memory_order_relaxed) & QCOW2_OFFSET_MASK;
        uint64_t at = table + (index & ((UINT64_C(1) << q->l2_bits) - 1)) * 8;
        log_limited(LOG_LEVEL_ERROR,
                    "%s: at byte %" PRIu64 ": L2 entry 0x%016" PRIx64 " of guest cluster %" PRIu64
                    " (guest offset 0x%" PRIx64 "): %s",
                    q->layer.name, at, raw, index, index << q->cluster_bits, why);
        return QCOW2_BAD;
    }
    return table_copied || (raw & QCOW2_COMPRESSED) ? raw : raw & ~QCOW2_COPIED;
}

static int check_l1_entry(struct qcow2 *q, uint64_t i, uint64_t raw, struct errmsg *e)
{
    const char *why = NULL;
    uint64_t offset = raw & QCOW2_OFFSET_MASK;
    if (!raw) return 0;
    if (raw & QCOW2_L1_RESERVED) why = "reserved bits are set";
    else if (!offset) why = "the COPIED flag is set without an L2 table";
    else if (offset & (q->cluster_bytes - 1)) why = "the L2 table is not aligned to a cluster";
    else if (offset >> q->cluster_bits >= q->file_clusters) why = "the L2 table lies past the end of the file";
    if (!why) return 0;
    return errmsg_set(e, EINVAL, "%s: at byte %" PRIu64 ": L1 entry %" PRIu64 " is 0x%016" PRIx64 ": %s", q->layer.name,
                      q->header.l1_offset + i * 8, i, raw, why);
}

int qcow2_l1_load(struct qcow2 *q, struct errmsg *e)
{
    q->l1_entries = q->header.l1_entries;
    uint64_t bytes = align_up((uint64_t)q->l1_entries * 8, q->io_align);
    if (!bytes) return 0;
    autofree struct be64 *raw = aligned_alloc(PAGE_BYTES, align_up(bytes, PAGE_BYTES));
    if (!raw) return errmsg_sys(e, ENOMEM, "%s: L1 table of %" PRIu64 " bytes", q->layer.name, bytes);
    int ret = engine_read_now(q->keeper.engine, q->file, raw, q->header.l1_offset, bytes);
    if (ret < 0)
        return errmsg_sys(e, -ret, "%s: reading the L1 table at 0x%" PRIx64 " (%" PRIu64 " bytes)", q->layer.name,
                          q->header.l1_offset, bytes);
    for (uint64_t i = 0; i < q->l1_entries; i++) {
        uint64_t entry = be64_get(raw[i]);
        ret = check_l1_entry(q, i, entry, e);
        if (ret < 0) return ret;
        if (entry) atomic_store_explicit(&q->l1[i], entry, memory_order_relaxed);
    }
    return 0;
}
