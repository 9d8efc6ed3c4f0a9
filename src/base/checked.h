/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arithmetic on numbers that somebody else wrote. Every range is tested by subtraction or by
 * checked addition, never by a sum that may wrap.
 */
#ifndef BASE_CHECKED_H
#define BASE_CHECKED_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True when [offset, offset + length) lies within [0, limit). A zero length at the limit does. */
static inline bool range_fits(uint64_t offset, uint64_t length, uint64_t limit)
{
    return offset <= limit && length <= limit - offset;
}

/* True when [a, a + a_len) and [b, b + b_len) share a byte. Neither range may wrap. */
static inline bool range_overlaps(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
    if (a_len == 0 || b_len == 0) return false;
    return a <= b ? b - a < a_len : a - b < b_len;
}

/* These return false when the result does not fit, and leave *out unspecified. */
static inline bool add_fits(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

static inline bool mul_fits(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool is_power_of_2(uint64_t v)
{
    return v != 0 && (v & (v - 1)) == 0;
}

/* `align` is a power of two; align_up must not be asked for a result past 2^64 - 1. */
static inline uint64_t align_down(uint64_t v, uint64_t align)
{
    return v & ~(align - 1);
}

static inline uint64_t align_up(uint64_t v, uint64_t align)
{
    assert(v <= UINT64_MAX - (align - 1));
    return (v + align - 1) & ~(align - 1);
}

static inline uint64_t div_round_up(uint64_t v, uint64_t by)
{
    return v / by + (v % by != 0);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
