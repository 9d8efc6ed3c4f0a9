/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A histogram of durations: 64 buckets to each power of two, so a percentile is right within 1.6 %.
 * Adding costs a few instructions and one counter.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_SUB_BITS 6
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS)

struct histogram {
    uint64_t count, sum, max;
    uint64_t bucket[HISTOGRAM_BUCKETS];
};

static inline unsigned histogram_index(uint64_t v)
{
    if (v < (1u << HISTOGRAM_SUB_BITS)) return (unsigned)v;
    unsigned shift = 63u - (unsigned)__builtin_clzll(v) - HISTOGRAM_SUB_BITS;
    return ((shift + 1) << HISTOGRAM_SUB_BITS) + (unsigned)((v >> shift) & ((1u << HISTOGRAM_SUB_BITS) - 1));
}

static inline void histogram_add(struct histogram *h, uint64_t v)
{
    h->bucket[histogram_index(v)]++;
    h->count++;
    h->sum += v;
    if (v > h->max) h->max = v;
}

/* The least value that `percent` of all are not above; 0 when there are none. */
static inline uint64_t histogram_percentile(const struct histogram *h, double percent)
{
    uint64_t want = (uint64_t)((double)h->count * percent / 100.0 + 0.5), seen = 0;
    if (want == 0) want = 1;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS && h->count; i++) {
        seen += h->bucket[i];
        if (seen < want) continue;
        if (i < (1u << HISTOGRAM_SUB_BITS)) return i;
        unsigned shift = (i >> HISTOGRAM_SUB_BITS) - 1;
        uint64_t top = ((uint64_t)(i & ((1u << HISTOGRAM_SUB_BITS) - 1)) | (1u << HISTOGRAM_SUB_BITS)) + 1;
        uint64_t v = (top << shift) - 1;
        return v < h->max ? v : h->max;
    }
    return 0;
}

#endif
