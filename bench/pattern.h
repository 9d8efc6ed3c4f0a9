/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Content that is a function of its place, so that any read can be checked with nothing but its offset:
 * the 64-bit little-endian word at byte offset N (a multiple of 8) is pattern_word(N).
 */
#ifndef BENCH_PATTERN_H
#define BENCH_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"

enum pattern_depth {
    PATTERN_NONE,
    PATTERN_BLOCK,   /* the first and last word of each 4 KiB */
    PATTERN_SECTORS, /* the first and last word of each sector */
    PATTERN_FULL,    /* every word */
};

static inline uint64_t pattern_word(uint64_t offset)
{
    uint64_t x = offset * UINT64_C(0x9e3779b97f4a7c15) + UINT64_C(0x632be59bd9b4e019);
    x ^= x >> 29;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    return x ^ x >> 32;
}

void pattern_fill(void *data, uint64_t offset, size_t length);
/* -1 when right, else how far into data the first wrong word is. */
int64_t pattern_check(const void *data, uint64_t offset, size_t length, enum pattern_depth depth);
/* Write (or replace) a file of that size. 0 or -errno. */
int pattern_make_file(const char *path, uint64_t size_bytes, struct errmsg *e);

#endif
