/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a disk must hold after verified writes: per block the generation last acknowledged, kept in memory, loaded
 * and saved between runs.
 *
 * Each sector of a written block carries its own offset and generation, the rest is a function of both;
 * so whatever is read in its place can be named: an older generation (a write was lost, or done
 * again out of order), another offset's content, half of each (torn), or nothing of ours.
 */
#ifndef BENCH_MODEL_H
#define BENCH_MODEL_H

#include <stdint.h>

#include "bench.h"

#define MODEL_ZEROED 0x80000000u /* the generation is one of zeroes (WRITE_ZEROES) */

struct model {
    uint32_t block_bytes;
    enum bench_initial initial;
    uint64_t seed, offset_bytes, block_count;
    uint32_t *generation; /* 0: never written */
};

int model_new(struct model *m, const struct bench_options *o, uint64_t block_count, struct errmsg *e);
void model_clear(struct model *m);
/* -ENOENT when there is no such file. */
int model_load(struct model *m, const char *path, struct errmsg *e);
int model_save(const struct model *m, const char *path, struct errmsg *e);

static inline uint64_t model_offset(const struct model *m, uint64_t block)
{
    return m->offset_bytes + block * m->block_bytes;
}

/* True when what the block holds is known. */
static inline bool model_known(const struct model *m, uint64_t block)
{
    return m->generation[block] != 0 || m->initial != INITIAL_ANY;
}

/* The generation after this one. */
static inline uint32_t model_next(const struct model *m, uint64_t block, bool zeroed)
{
    uint32_t g = ((m->generation[block] & ~MODEL_ZEROED) + 1) & ~MODEL_ZEROED;
    return (g ? g : 1) | (zeroed ? MODEL_ZEROED : 0);
}

void model_fill(const struct model *m, uint64_t block, uint32_t generation, void *data);
/* 0 when data is what the block must hold, else -EILSEQ and a sentence that says what it is instead. */
int model_check(const struct model *m, uint64_t block, const void *data, struct errmsg *e);

#endif
