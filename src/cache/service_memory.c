/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service's memory: which blocks are published, what that costs, and giving it back.
 *
 * Counted against the budget: the data of DATA blocks, a page of words per region, the structs here, the
 * touched marks, and what fetches under way will bring. Eviction goes chunk by chunk in the order of the policy;
 * what must happen in which order is said in cache/layout.h. Neighbours that go together are punched
 * together: a punch has to visit every client's page tables.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cache/service_internal.h"

#define EVICT_BATCH_MAX 32u
#define SHRINK_CHUNKS_PER_TURN 64u

static struct chunk *item_chunk(struct policy_item *item)
{
    return container_of(item, struct chunk, item);
}

static bool chunk_touched(struct policy_item *item)
{
    struct chunk *c = item_chunk(item);
    _Atomic uint8_t *mark = &c->base->touched[c->index];
    if (!atomic_load_explicit(mark, memory_order_relaxed)) return false;
    atomic_store_explicit(mark, 0, memory_order_relaxed);
    return true;
}

static bool chunk_busy(struct policy_item *item)
{
    return item_chunk(item)->fetch != NULL;
}

uint64_t service_used_bytes(const struct cache_service *s)
{
    return s->data_bytes + s->fetching_bytes + s->meta_bytes;
}

/* ---- regions and chunks ---- */

#define REGION_COST_BYTES (4096 + sizeof(struct region))

static struct region *region_get(struct base_layer *b, uint64_t index)
{
    struct region *r = b->regions[index];
    if (r) return r;
    r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->base = b;
    r->index = index;
    b->regions[index] = r;
    b->words_bytes += 4096;
    b->service->region_bytes += REGION_COST_BYTES;
    b->service->meta_bytes += REGION_COST_BYTES;
    list_push_back(&b->service->empty_regions, &r->node);
    list_init(&r->huge_node);
    return r;
}

/* Nothing in it is DATA, so nobody copies on the word of it: the page of words may go as it is. */
static void region_free(struct region *r)
{
    struct base_layer *b = r->base;
    assert(r->chunk_count == 0);
    if (fallocate(b->words_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(r->index * 4096), 4096) < 0)
        log_limited(LOG_LEVEL_WARN, "%s: cannot give back a page of the cache's words: %s", b->path, strerror(errno));
    b->regions[r->index] = NULL;
    b->words_bytes -= 4096;
    b->service->region_bytes -= REGION_COST_BYTES;
    b->service->meta_bytes -= REGION_COST_BYTES;
    list_remove(&r->node);
    list_remove(&r->huge_node);
    free(r);
}

struct chunk *service_chunk_find(const struct base_layer *b, uint64_t index)
{
    const struct region *r = b->regions[index / REGION_CHUNKS];
    return r ? r->chunk[index % REGION_CHUNKS] : NULL;
}

struct chunk *service_chunk_get(struct base_layer *b, uint64_t index)
{
    struct region *r = region_get(b, index / REGION_CHUNKS);
    if (!r) return NULL;
    struct chunk **slot = &r->chunk[index % REGION_CHUNKS];
    if (*slot) return *slot;
    struct chunk *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    list_init(&c->item.node);
    c->item.key = b->identity.inode * UINT64_C(0x9e3779b97f4a7c15) + index;
    c->base = b;
    c->index = index;
    *slot = c;
    if (r->chunk_count++ == 0) list_remove(&r->node);
    b->service->meta_bytes += sizeof *c;
    return c;
}

void service_chunk_put(struct chunk *c)
{
    if (c->fetch || c->data_blocks) return;
    struct base_layer *b = c->base;
    struct region *r = b->regions[c->index / REGION_CHUNKS];
    r->chunk[c->index % REGION_CHUNKS] = NULL;
    if (--r->chunk_count == 0) list_push_back(&b->service->empty_regions, &r->node);
    b->service->meta_bytes -= sizeof *c;
    policy_remove(&b->service->policy, &c->item);
    free(c);
}

/* ---- publishing ---- */

static void publish_data(struct base_layer *b, uint64_t block)
{
    struct chunk *c = service_chunk_find(b, block / CACHE_CHUNK_BLOCKS);
    assert(c); /* the fetch that read the block holds it */
    c->data_blocks |= (uint16_t)(1u << block % CACHE_CHUNK_BLOCKS);
    b->cached_bytes += CACHE_BLOCK_BYTES;
    b->service->data_bytes += CACHE_BLOCK_BYTES;
    service_huge_added(b->regions[block / REGION_BLOCKS], block);
    if (c->item.queue == POLICY_NONE) policy_insert(&b->service->policy, &c->item);
}

int service_publish(struct base_layer *b, uint64_t first, uint64_t end, enum cache_state state)
{
    for (uint64_t block = first; block < end; block++) {
        if ((block == first || block % REGION_BLOCKS == 0) && !region_get(b, block / REGION_BLOCKS)) return -ENOMEM;
        if (service_known(b, block)) continue;
        if (state == CACHE_DATA) publish_data(b, block);
        atomic_store_explicit(&b->words[block], cache_word_next(b->generation << 2, state), memory_order_release);
    }
    return 0;
}

/* ---- eviction ---- */

/* First half: nobody may begin to use it. */
static void chunk_withdraw(struct chunk *c)
{
    struct base_layer *b = c->base;
    b->generation++;
    for (unsigned i = 0; i < CACHE_CHUNK_BLOCKS; i++)
        if (c->data_blocks & 1u << i)
            atomic_store_explicit(&b->words[c->index * CACHE_CHUNK_BLOCKS + i],
                                  cache_word_next(b->generation << 2, CACHE_ABSENT), memory_order_release);
    unsigned count = (unsigned)__builtin_popcount(c->data_blocks);
    uint64_t bytes = count * CACHE_BLOCK_BYTES;
    service_huge_removed(b->regions[c->index / REGION_CHUNKS], c->index * CACHE_CHUNK_BLOCKS, count);
    b->cached_bytes -= bytes;
    b->service->data_bytes -= bytes;
    b->stats.evicted_bytes += bytes;
    c->data_blocks = 0;
    atomic_store_explicit(&b->touched[c->index], 0, memory_order_relaxed);
}

static void punch_chunks(const struct base_layer *b, uint64_t first, uint64_t count)
{
    if (fallocate(b->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first << CACHE_CHUNK_SHIFT),
                  (off_t)(count << CACHE_CHUNK_SHIFT)) < 0)
        log_limited(LOG_LEVEL_WARN, "%s: cannot give back cache memory: %s", b->path, strerror(errno));
}

static int compare_chunks(const void *left, const void *right)
{
    const struct chunk *l = *(const struct chunk *const *)left, *r = *(const struct chunk *const *)right;
    if (l->base != r->base) return l->base < r->base ? -1 : 1;
    return l->index < r->index ? -1 : l->index > r->index;
}

/* The chunks are in no queue any more, and freed on return. */
static void chunks_evict(struct chunk **chunks, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        chunk_withdraw(chunks[i]);
    atomic_thread_fence(memory_order_seq_cst); /* the words are gone before the pages are */
    qsort(chunks, count, sizeof(struct chunk *), compare_chunks);
    for (unsigned i = 0, run; i < count; i += run) {
        for (run = 1; i + run < count; run++)
            if (chunks[i + run]->base != chunks[i]->base || chunks[i + run]->index != chunks[i]->index + run) break;
        punch_chunks(chunks[i]->base, chunks[i]->index, run);
    }
    for (unsigned i = 0; i < count; i++)
        service_chunk_put(chunks[i]);
}

/* Evict about `bytes`, at least one chunk. False when nothing can go. */
static bool evict_some(struct cache_service *s, uint64_t bytes)
{
    struct chunk *victims[EVICT_BATCH_MAX];
    uint64_t freed = 0;
    unsigned count = 0;
    while (count < EVICT_BATCH_MAX && freed < bytes) {
        struct policy_item *item = policy_evict(&s->policy);
        if (!item) break;
        victims[count] = item_chunk(item);
        freed += (uint64_t)__builtin_popcount(victims[count++]->data_blocks) * CACHE_BLOCK_BYTES;
    }
    if (count) chunks_evict(victims, count);
    return count > 0;
}

/* The words of a sparse layer that somebody scans must not push the data out: they get a sixteenth. */
static bool drop_oldest_region(struct cache_service *s, bool any)
{
    if (list_empty(&s->empty_regions)) return false;
    if (!any && s->region_bytes <= s->budget_bytes / 16) return false;
    region_free(list_entry(s->empty_regions.next, struct region, node));
    return true;
}

bool service_make_room(struct cache_service *s, uint64_t bytes)
{
    while (service_used_bytes(s) + bytes > s->budget_bytes) {
        if (drop_oldest_region(s, false)) continue;
        uint64_t too_much = service_used_bytes(s) + bytes - s->budget_bytes;
        /* A little more than asked for, so that not every fetch has to come here. */
        uint64_t ahead = min_u64(s->budget_bytes / 256, EVICT_BATCH_MAX * CACHE_CHUNK_BYTES / 2);
        if (!evict_some(s, too_much + ahead) && !drop_oldest_region(s, true))
            return s->fetching_bytes < FETCH_UNCOUNTED_BYTES;
    }
    return true;
}

/* Evict what can be of the regions from *cursor on, at most max_chunks; true when the end was reached. */
static bool base_drop_step(struct base_layer *b, unsigned max_chunks)
{
    struct chunk *victims[REGION_CHUNKS];
    for (unsigned done = 0; b->drop_region < b->region_count; b->drop_region++) {
        struct region *r = b->regions[b->drop_region];
        if (!r) continue;
        if (done >= max_chunks) return false;
        unsigned count = 0;
        for (unsigned i = 0; i < REGION_CHUNKS; i++)
            if (r->chunk[i] && !r->chunk[i]->fetch) victims[count++] = r->chunk[i];
        for (unsigned i = 0; i < count; i++)
            policy_remove(&b->service->policy, &victims[i]->item);
        if (count) chunks_evict(victims, count);
        if (r->chunk_count == 0) region_free(r);
        done += count + 1;
    }
    return true;
}

static void shrink_turn(struct engine_task *task)
{
    struct cache_service *s = container_of(task, struct cache_service, shrink_task);
    s->shrink_queued = false;
    bool more = false;
    LIST_FOR_EACH (node, &s->bases) {
        struct base_layer *b = list_entry(node, struct base_layer, node);
        if (!b->dropping) continue;
        b->dropping = !base_drop_step(b, SHRINK_CHUNKS_PER_TURN);
        more |= b->dropping;
    }
    if (service_used_bytes(s) > s->budget_bytes) {
        uint64_t too_much = service_used_bytes(s) - s->budget_bytes;
        bool some = drop_oldest_region(s, false) || evict_some(s, too_much) || drop_oldest_region(s, true);
        more |= some && service_used_bytes(s) > s->budget_bytes;
    }
    if (more) service_shrink_soon(s);
}

void service_shrink_soon(struct cache_service *s)
{
    if (s->shrink_queued) return;
    s->shrink_queued = true;
    engine_defer(s->engine, &s->shrink_task);
}

void service_base_drop(struct base_layer *b)
{
    b->dropping = true;
    b->drop_region = 0;
    service_shrink_soon(b->service);
}

void service_base_forget(struct base_layer *b)
{
    for (uint64_t i = 0; i < b->region_count; i++) {
        struct region *r = b->regions[i];
        if (!r) continue;
        for (unsigned n = 0; n < REGION_CHUNKS; n++) {
            struct chunk *c = r->chunk[n];
            if (!c) continue;
            assert(!c->fetch);
            chunk_withdraw(c);
            service_chunk_put(c);
        }
        region_free(r);
    }
}

int service_memory_init(struct cache_service *s, uint64_t budget_most_bytes)
{
    list_init(&s->empty_regions);
    s->shrink_task.run = shrink_turn;
    return policy_init(&s->policy, budget_most_bytes / CACHE_CHUNK_BYTES, chunk_touched, chunk_busy);
}

void service_memory_destroy(struct cache_service *s)
{
    policy_destroy(&s->policy);
}
