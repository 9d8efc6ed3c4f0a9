/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rate limit in bits and in packets per second: the generic cell rate algorithm, once for each. What is left of a limit is the
 * time at which it would be used up exactly; a frame moves that time on by what it costs at the rate. While the time is at
 * most burst_ns ahead of now, frames pass; so a burst is what the rate gives in that time and one
 * frame more. A large frame costs what its segments will.
 *
 * Who waits for a limit needs little of that (BUCKET_BURST_NS). Where what exceeds it is lost (BUCKET_LOSSY_BURST_NS) TCP needs more: a window of
 * large frames comes at once, and when most of it is lost it stands still until its timer runs out.
 *
 * Time is in 64ths of a nanosecond since the bucket was made: at 400 Gb/s the smallest frame costs 1.2 ns.
 *
 * Thread-safety: any number of threads; bucket_set() may be called at any time.
 */
#ifndef VIF_BUCKET_H
#define VIF_BUCKET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "loop/clock.h"

#define BUCKET_BURST_NS (5 * NS_PER_MS)
#define BUCKET_LOSSY_BURST_NS (100 * NS_PER_MS)
#define BUCKET_UNITS 64u /* per nanosecond */
#define BUCKET_DEBT_MAX                                                                                                \
    (UINT64_C(1) << 61) /* units: more than a year; what is charged twice and more does not wrap around */

struct bucket {
    _Atomic uint64_t bits_per_s, packets_per_s; /* 0: no limit */
    _Atomic uint64_t bits_until, packets_until; /* units */
    uint64_t start_ns, burst_ns;
};

static inline void bucket_set(struct bucket *b, uint64_t bits_per_s, uint64_t packets_per_s)
{
    atomic_store_explicit(&b->bits_per_s, bits_per_s, memory_order_relaxed);
    atomic_store_explicit(&b->packets_per_s, packets_per_s, memory_order_relaxed);
    /* A debt at the old rate is not owed at the new one. */
    atomic_store_explicit(&b->bits_until, 0, memory_order_relaxed);
    atomic_store_explicit(&b->packets_until, 0, memory_order_relaxed);
}

static inline bool bucket_limits(const struct bucket *b)
{
    return (atomic_load_explicit(&b->bits_per_s, memory_order_relaxed) |
            atomic_load_explicit(&b->packets_per_s, memory_order_relaxed)) != 0;
}

static inline uint64_t bucket_now(const struct bucket *b)
{
    return (clock_now_ns() - b->start_ns) * BUCKET_UNITS;
}

/* 0: a frame may pass now; else when, in units. */
static inline uint64_t bucket_waits_until(const struct bucket *b, uint64_t now)
{
    uint64_t bits = atomic_load_explicit(&b->bits_until, memory_order_relaxed);
    uint64_t packets = atomic_load_explicit(&b->packets_until, memory_order_relaxed);
    uint64_t until = bits > packets ? bits : packets;
    uint64_t burst = b->burst_ns * BUCKET_UNITS;
    return until > now + burst ? until - burst : 0;
}

static inline uint64_t bucket_ns(const struct bucket *b, uint64_t units)
{
    return b->start_ns + units / BUCKET_UNITS + 1;
}

static inline void bucket_move(_Atomic uint64_t *until, uint64_t now, uint64_t amount, uint64_t per_s)
{
    if (per_s == 0) return;
    /* At most 2^27 bits: 2^27 * 10^9 * 64 is less than 2^63. */
    uint64_t cost = (amount * NS_PER_SECOND * BUCKET_UNITS + per_s - 1) / per_s;
    uint64_t old = atomic_load_explicit(until, memory_order_relaxed), next;
    do {
        next = (old > now ? old : now) + cost;
        if (next > now + BUCKET_DEBT_MAX) next = now + BUCKET_DEBT_MAX;
    } while (!atomic_compare_exchange_weak_explicit(until, &old, next, memory_order_relaxed, memory_order_relaxed));
}

static inline void bucket_charge(struct bucket *b, uint64_t now, uint32_t packets, uint32_t bytes)
{
    uint64_t bits = (bytes < 1u << 24 ? bytes : 1u << 24) * UINT64_C(8);
    bucket_move(&b->bits_until, now, bits, atomic_load_explicit(&b->bits_per_s, memory_order_relaxed));
    bucket_move(&b->packets_until, now, packets < 1u << 24 ? packets : 1u << 24,
                atomic_load_explicit(&b->packets_per_s, memory_order_relaxed));
}

#endif
