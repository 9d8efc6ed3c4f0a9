/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What to read beyond a miss. The service sees misses only, never hits, and must not read what nobody will
 * want: base layers are read by many, in different orders, and what one boot reads is the measure.
 *
 *  - The first miss in a chunk reads what was asked for. A second one in the same chunk says that its
 *    neighbourhood is wanted: the whole chunk.
 *  - A miss where another one ended goes on a sequential run. When a run is long enough, half as much as
 *    it has read so far is read ahead (at most 1 MiB), apart from what is waited for. The next miss is then expected
 *    where that ends; a fill that meets it half-way (it came before the data did) moves it on too.
 */
#include "cache/service_internal.h"

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
        if (b->stream[i].used < oldest->used) oldest = &b->stream[i];
    *oldest = (struct stream){0};
    return oldest;
}

static bool chunk_has_data(const struct base_layer *b, uint64_t block)
{
    const struct chunk *c = service_chunk_find(b, block / CACHE_CHUNK_BLOCKS);
    return c && c->data_blocks;
}

static void widen_to_chunks(const struct base_layer *b, struct ahead_plan *plan)
{
    if (chunk_has_data(b, plan->first)) plan->first -= plan->first % CACHE_CHUNK_BLOCKS;
    if (chunk_has_data(b, plan->end - 1))
        plan->end = min_u64(((plan->end - 1) / CACHE_CHUNK_BLOCKS + 1) * CACHE_CHUNK_BLOCKS, b->block_count);
}

void service_ahead_plan(struct base_layer *b, uint64_t first, uint64_t end, struct ahead_plan *out)
{
    *out = (struct ahead_plan){.first = first, .end = end};
    widen_to_chunks(b, out);
    struct stream *t = stream_find(b, first);
    if (!t) {
        t = stream_new(b);
        t->ahead_block = t->next_block = end;
    }
    t->used = ++b->stream_clock;
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
