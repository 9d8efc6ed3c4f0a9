/* SPDX-License-Identifier: Apache-2.0 */
/* Bitmaps over arrays of 64-bit words; bit 0 is the lowest bit of word 0. Not thread-safe. */
#ifndef BASE_BITMAP_H
#define BASE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline size_t bitmap_words(size_t bits)
{
    return bits / 64 + (bits % 64 != 0);
}

static inline bool bitmap_test(const uint64_t *map, size_t bit)
{
    return (map[bit / 64] >> (bit % 64)) & 1;
}

static inline void bitmap_set(uint64_t *map, size_t bit)
{
    map[bit / 64] |= UINT64_C(1) << (bit % 64);
}

static inline void bitmap_clear(uint64_t *map, size_t bit)
{
    map[bit / 64] &= ~(UINT64_C(1) << (bit % 64));
}

/* The first set bit at or after `from`, or `bits` when there is none. */
static inline size_t bitmap_next_set(const uint64_t *map, size_t bits, size_t from)
{
    while (from < bits) {
        uint64_t word = map[from / 64] >> (from % 64);
        if (word) {
            from += (size_t)__builtin_ctzll(word);
            return from < bits ? from : bits;
        }
        from = (from / 64 + 1) * 64;
    }
    return bits;
}

#endif
