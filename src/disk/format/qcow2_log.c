/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log of published L2 entries, and its form in the stash.
 *
 * The stash is memory that outlives the process but not the host (disk.h). What is in it lets the
 * next process go on where this one was killed, between any two instructions:
 *
 *   head     which image; which half is active; how many records each half has
 *   pool     reserved clusters not yet handed out, one word per run
 *   slots    clusters handed out to writes in flight, one word per write
 *   records  two halves
 *
 * Order of stores: a record before the count that covers it (release). A run's word is lowered after
 * the slot of the write that takes the clusters is set; a slot is cleared after the records of the write
 * are counted. So a cluster is always in the pool, in a slot, or in a record, sometimes in two of them;
 * the next process prefers the record, then the slot.
 *
 * Somebody else may be able to write the stash (a front end that keeps it): it is read once, at open, with every
 * word checked (qcow2_replay.c), and only written from then on.
 */
#include "disk/format/qcow2_impl.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "disk/format/qcow2_stash.h"

static uint64_t record_capacity(uint64_t stash_bytes)
{
    return (stash_bytes - QCOW2_STASH_HEAD_BYTES) / sizeof(struct qcow2_record) / 2;
}

/* What is never read from the stash: pages and freed clusters of each half, and the log itself without one. */
static int map_own_memory(struct qcow2 *q, uint64_t log_bytes, struct errmsg *e)
{
    struct qcow2_log *l = &q->log;
    uint64_t pages = l->capacity * sizeof(uint64_t), freed = l->capacity * sizeof(struct qcow2_freed);
    l->own_bytes = align_up(log_bytes + 2 * (pages + freed), 4096);
    void *p = mmap(NULL, l->own_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return errmsg_sys(e, errno, "%s: memory for the log", q->layer.name);
    l->own_memory = p;
    char *at = (char *)p + log_bytes;
    for (unsigned i = 0; i < 2; i++) {
        l->half[i].pages = (uint64_t *)at;
        at += pages;
        l->half[i].freed = (struct qcow2_freed *)at;
        at += freed;
    }
    return 0;
}

int qcow2_stash_identity(struct qcow2 *q, struct qcow2_stash_head *out)
{
    struct stat st;
    if (fstat(q->file->fd, &st) < 0) return -errno;
    out->device = (uint64_t)st.st_dev;
    out->inode = (uint64_t)st.st_ino;
    out->cluster_bits = q->cluster_bits;
    return 0;
}

int qcow2_log_init(struct qcow2 *q, const struct disk_stash *stash, struct errmsg *e)
{
    struct qcow2_log *l = &q->log;
    if (!q->layer.writable) return 0;
    l->persistent = stash->mem != NULL;
    uint64_t bytes = l->persistent ? stash->size_bytes : QCOW2_LOG_DEFAULT_BYTES;
    if (l->persistent && (bytes < QCOW2_STASH_MIN_BYTES || (uintptr_t)stash->mem % 64))
        return errmsg_set(e, EINVAL, "%s: a stash of %" PRIu64 " bytes: expected at least %u, aligned to 64",
                          q->layer.name, bytes, QCOW2_STASH_MIN_BYTES);
    l->capacity = record_capacity(bytes);
    int ret = map_own_memory(q, l->persistent ? 0 : bytes, e);
    if (ret < 0) return ret;
    l->head = l->persistent ? stash->mem : l->own_memory;
    for (unsigned i = 0; i < 2; i++)
        l->half[i].records = (struct qcow2_record *)((char *)l->head + QCOW2_STASH_HEAD_BYTES) + i * l->capacity;
    return 0;
}

void qcow2_log_free(struct qcow2 *q)
{
    if (q->log.own_memory) munmap(q->log.own_memory, q->log.own_bytes);
    q->log.own_memory = NULL;
}

/* An image that is open with a stash which says so: from here on it may hold something. */
int qcow2_stash_format(struct qcow2 *q)
{
    struct qcow2_stash_head *h = q->log.head;
    memset(h, 0, sizeof *h);
    int ret = qcow2_stash_identity(q, h);
    if (ret < 0) return ret;
    h->version = QCOW2_STASH_VERSION;
    h->capacity = q->log.capacity;
    atomic_store_explicit(&h->magic, QCOW2_STASH_MAGIC, memory_order_release);
    return 0;
}

void qcow2_stash_reset(struct qcow2 *q)
{
    if (!q->log.head) return;
    atomic_store_explicit(&q->log.head->magic, 0, memory_order_release);
    memset(q->log.head, 0, sizeof *q->log.head);
}

bool qcow2_log_empty(const struct qcow2 *q)
{
    return !q->log.sealed && q->log.half[q->log.active].count == 0 && q->log.half[q->log.active].freed_count == 0;
}

bool qcow2_log_wants_commit(const struct qcow2 *q)
{
    return q->log.half[q->log.active].count + q->log.promised > q->log.capacity / 2;
}

bool qcow2_log_promise(struct qcow2 *q, uint64_t records)
{
    struct qcow2_log *l = &q->log;
    if (l->half[l->active].count + l->promised + records > l->capacity) return false;
    /* What failed was freed without a record: it takes room in the list of freed clusters only. */
    if (l->half[l->active].freed_count + l->promised + records > l->capacity) return false;
    l->promised += records;
    return true;
}

static void note_freed(struct qcow2_half *h, uint64_t first, uint64_t count)
{
    struct qcow2_freed *last = h->freed_count ? &h->freed[h->freed_count - 1] : NULL;
    if (last && last->first + last->count == first) last->count += count;
    else h->freed[h->freed_count++] = (struct qcow2_freed){first, count};
}

void qcow2_log_free_later(struct qcow2 *q, uint64_t first, uint64_t count)
{
    assert(q->log.promised > 0);
    q->log.promised--;
    note_freed(&q->log.half[q->log.active], first, count);
}

/* The shadow's page of this cluster must be written by the commit of this half. */
void qcow2_log_mark(struct qcow2 *q, unsigned half, uint64_t index)
{
    struct qcow2_half *h = &q->log.half[half];
    uint64_t page = index >> QCOW2_PAGE_BITS;
    if (q->page_logs[page] & 1u << half) return;
    q->page_logs[page] |= (uint8_t)(1u << half);
    q->pins[qcow2_slice_of(q, index)]++;
    h->pages[h->page_count++] = page;
}

/* The host clusters that the old entry referred to and the new one does not. */
void qcow2_log_note_replaced(struct qcow2 *q, unsigned half, uint64_t old, uint64_t entry)
{
    uint64_t offset, bytes;
    if (old & QCOW2_COMPRESSED) {
        qcow2_compressed_range(q, old, &offset, &bytes);
        uint64_t first = offset >> q->cluster_bits, last = (offset + bytes - 1) >> q->cluster_bits;
        note_freed(&q->log.half[half], first, last - first + 1);
    } else if ((old & QCOW2_OFFSET_MASK) && !(old & QCOW2_BAD) && ((old ^ entry) & QCOW2_OFFSET_MASK)) {
        note_freed(&q->log.half[half], (old & QCOW2_OFFSET_MASK) >> q->cluster_bits, 1);
    }
}

void qcow2_log_publish(struct qcow2 *q, uint64_t index, uint64_t entry)
{
    struct qcow2_log *l = &q->log;
    struct qcow2_half *h = &l->half[l->active];
    assert(l->promised > 0 && h->count < l->capacity);
    l->promised--;
    h->records[h->count++] = (struct qcow2_record){index, entry};
    atomic_store_explicit(&l->head->half[l->active].count, h->count, memory_order_release);
    uint64_t old = atomic_load_explicit(&q->shadow[index], memory_order_relaxed);
    qcow2_log_mark(q, l->active, index);
    qcow2_map_set(q, index, entry);
    qcow2_log_note_replaced(q, l->active, old, entry);
}

struct qcow2_half *qcow2_log_seal(struct qcow2 *q)
{
    struct qcow2_log *l = &q->log;
    if (!l->sealed) {
        if (qcow2_log_empty(q)) return NULL;
        l->active ^= 1;
        l->sealed = true;
        atomic_store_explicit(&l->head->active, l->active, memory_order_release);
    }
    return &l->half[l->active ^ 1];
}

void qcow2_log_retire(struct qcow2 *q, struct qcow2_half *h)
{
    unsigned half = (unsigned)(h - q->log.half);
    assert(q->log.sealed && half != q->log.active);
    for (uint64_t i = 0; i < h->page_count; i++) {
        q->page_logs[h->pages[i]] &= (uint8_t) ~(1u << half);
        q->pins[qcow2_slice_of(q, h->pages[i] << QCOW2_PAGE_BITS)]--;
    }
    h->count = h->page_count = h->freed_count = 0;
    atomic_store_explicit(&q->log.head->half[half].count, 0, memory_order_release);
    q->log.sealed = false;
}

/* ---- pool and allocations ---- */

void qcow2_stash_pool(struct qcow2 *q, unsigned run)
{
    const struct qcow2_run *r = &q->pool.runs[run];
    if (q->log.head)
        atomic_store_explicit(&q->log.head->pool[run], qcow2_stash_run(r->first, r->count), memory_order_release);
}

uint32_t qcow2_stash_alloc(struct qcow2 *q, uint64_t first, uint64_t count)
{
    struct qcow2_stash_head *h = q->log.head;
    if (!q->log.persistent) return QCOW2_NO_SLOT;
    for (unsigned n = 0; n < QCOW2_STASH_SLOTS; n++) {
        uint32_t slot = q->log.next_slot++ % QCOW2_STASH_SLOTS;
        if (q->log.slot_used[slot]) continue;
        q->log.slot_used[slot] = true;
        atomic_store_explicit(&h->slots[slot], qcow2_stash_run(first, count), memory_order_release);
        return slot;
    }
    return QCOW2_NO_SLOT; /* a kill now would leak these clusters, no more */
}

void qcow2_stash_alloc_done(struct qcow2 *q, uint32_t slot)
{
    if (slot == QCOW2_NO_SLOT) return;
    q->log.slot_used[slot] = false;
    atomic_store_explicit(&q->log.head->slots[slot], 0, memory_order_release);
}
