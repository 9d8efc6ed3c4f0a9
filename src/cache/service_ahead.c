/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What to read beyond a miss. The service sees misses only, never hits, and must not read what nobody will
 * want: base layers are read by many, in different orders, and what one boot reads is the measure.
 *
 *  - The first miss in a chunk reads what was asked for. A second one in the same chunk soon after says that its
 *    neighbourhood is wanted: the whole chunk. (Much later it says nothing: random readers meet everywhere.)
 *  - A miss where another one ended goes on a sequential run. When a run is long enough, half as much as
 *    it has read so far is read ahead (at most 1 MiB), apart from what is waited for. The next miss is then expected
 *    where that ends; a fill that meets it half-way (it came before the data did) moves it on too.
 */
#include "cache/service_internal.h"

#define NEAR_MISSES 64u    /* so few misses ago is soon after */
#define RUN_MIN_BLOCKS 32u /* 128 KiB: two requests of a guest that reads ahead itself */

static struct stream *stream_find(struct base_layer *b, uint64_t first)
{
    for (unsigned i = 0; i < STREAMS_PER_BASE; i++) {
        struct stream *t = &b->stream[i];
        if (t->run_blocks && first >= t->ahead_block && first <= t->next_block) return t;
    }
    return NULL;
}

static struct stream *stream_new(struct base_layer *b)
{
    struct stream *oldest = &b->stream[0];
    for (unsigned i = 1; i < STREAMS_PER_BASE; i++)
        if (b->miss_clock - b->stream[i].miss_clock > b->miss_clock - oldest->miss_clock) oldest = &b->stream[i];
    *oldest = (struct stream){0};
    return oldest;
}

static bool missed_before(const struct base_layer *b, uint64_t block)
{
    const struct chunk *c = service_chunk_find(b, block / CACHE_CHUNK_BLOCKS);
    return c && c->data_blocks && b->miss_clock - c->miss_clock <= NEAR_MISSES;
}

static void widen_to_chunks(const struct base_layer *b, struct ahead_plan *plan)
{
    if (missed_before(b, plan->first)) plan->first -= plan->first % CACHE_CHUNK_BLOCKS;
    if (missed_before(b, plan->end - 1))
        plan->end = min_u64(((plan->end - 1) / CACHE_CHUNK_BLOCKS + 1) * CACHE_CHUNK_BLOCKS, b->block_count);
}

void service_ahead_note(struct base_layer *b, const struct ahead_plan *plan)
{
    uint64_t first = plan->first / CACHE_CHUNK_BLOCKS, last = (plan->end - 1) / CACHE_CHUNK_BLOCKS;
    struct chunk *c = service_chunk_find(b, first);
    if (c) c->miss_clock = b->miss_clock;
    c = service_chunk_find(b, last);
    if (c) c->miss_clock = b->miss_clock;
}

void service_ahead_plan(struct base_layer *b, uint64_t first, uint64_t end, struct ahead_plan *out)
{
    *out = (struct ahead_plan){.first = first, .end = end};
    b->miss_clock++;
    widen_to_chunks(b, out);
    struct stream *t = stream_find(b, first);
    if (!t) {
        t = stream_new(b);
        t->ahead_block = t->next_block = end;
    }
    t->miss_clock = b->miss_clock;
    t->run_blocks += end - first;
    if (t->run_blocks < RUN_MIN_BLOCKS || t->run_blocks == end - first) {
        if (end > t->next_block) t->ahead_block = t->next_block = end;
        return;
    }
    uint64_t from = max_u64(t->next_block, out->end);
    uint64_t window = min_u64(t->run_blocks / 2, AHEAD_BLOCKS_MAX);
    /* Still far from the end of what is on its way: enough for now. */
    if (end < t->next_block && t->next_block - end > window / 2) return;
    out->ahead_first = from;
    out->ahead_end = min_u64(align_up(from + window, CACHE_CHUNK_BLOCKS), b->block_count);
    t->ahead_block = end;
    t->next_block = max_u64(out->ahead_end, from);
}
