/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets and bytes of a group, or of all buckets of one: what megaflows count for beside flows. They hold references, so counters
 * outlive what they are of, and are freed by whoever lets go last.
 *
 * Thread-safety: any thread. Who takes a first reference must be sure that somebody else has one (a group that is read within a
 * batch has).
 */
#ifndef SWITCH_COUNTS_H
#define SWITCH_COUNTS_H

#include <assert.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

struct counts {
    _Atomic unsigned refs;
    unsigned count;
    struct {
        _Atomic uint64_t packets, bytes;
    } of[];
};

/* One of them. No padding: they are compared as bytes. */
struct counted {
    struct counts *in;
    size_t at;
};

/* How much of a way through the tables comes before one of its meters, the flow that has it included. A packet that the meter drops counts
 * for that, and for nothing that comes later. No padding: they are compared as bytes. */
struct count_mark {
    uint64_t tables[4];                      /* a bit each */
    uint16_t flows, counted, misses, unused; /* so many of each list */
};
static_assert(sizeof(struct count_mark) == 40, "no padding");

#define COUNT_ALL UINT_MAX /* instead of a meter's number: none has dropped the packet */

/* NULL: no memory. */
static inline struct counts *counts_new(unsigned count)
{
    struct counts *c = calloc(1, sizeof *c + count * sizeof c->of[0]);
    if (!c) return NULL;
    atomic_init(&c->refs, 1);
    c->count = count;
    return c;
}

static inline struct counts *counts_ref(struct counts *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

static inline void counts_unref(struct counts *c)
{
    if (c && atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1) free(c);
}

static inline void counts_add(struct counted c, uint64_t packets, uint64_t bytes)
{
    atomic_fetch_add_explicit(&c.in->of[c.at].packets, packets, memory_order_relaxed);
    atomic_fetch_add_explicit(&c.in->of[c.at].bytes, bytes, memory_order_relaxed);
}

#endif
