/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Meters at work.
 *
 * A band is a token bucket, written as one number: when it will be full again, if nothing more is taken. Time is counted in sixteenths
 * of nanoseconds, and so is what a packet costs (how long the band's rate needs for it).
 *
 * A thread takes some more from a bucket than its packet needs, uses that for the packets that follow, and gives back the rest at the
 * end of the burst: so a packet costs no atomic operation, usually. It takes a small part of what is there, so that the others
 * do not find a bucket empty that is not.
 *
 * Bands are asked from the highest rate down; the first that is exceeded is the one that counts (OpenFlow 1.3.5, section 5.7.1), and
 * the rest are not charged.
 *
 * Who holds a pointer to a meter: flows (until they are removed, with it), megaflows (validated before they are obeyed) and a
 * thread's holds (to the end of its burst).
 */
#ifndef SWITCH_METER_INTERNAL_H
#define SWITCH_METER_INTERNAL_H

#include "switch/epoch.h"
#include "switch/flow.h"
#include "switch/meter.h"

#define METER_HOLDS 4u /* meters of a burst whose tokens are kept to its end */

struct meter_rate {
    uint8_t type, prec_level;
    uint8_t band;      /* its place in the specification */
    bool never;        /* rate 0: everything exceeds it */
    uint64_t per_unit; /* cost of a byte or packet, shifted (meter_pass.c) */
    double units;      /* 1 / cost */
    uint64_t depth;    /* of the bucket */
    _Alignas(64) _Atomic uint64_t full_at;
    _Atomic uint64_t packets, bytes; /* that exceeded it */
};

/* Replaced as a whole. */
struct meter_config {
    struct epoch_node retired;
    bool by_packet;
    bool coarse;  /* its buckets are so deep that a clock does that is some milliseconds behind */
    bool remarks; /* it has such a band */
    unsigned count;
    struct meter_rate rates[]; /* the highest first */
};

struct meter {
    struct epoch_node retired;
    _Atomic(struct meter_config *) config;
    uint64_t created_ns;
    unsigned flows;
    struct meter_spec spec;
    _Alignas(64) _Atomic uint64_t packets, bytes;
};

struct meter_hold {
    struct meter *meter;
    struct meter_config *config;
    bool by_packet;
    uint64_t budget, budget_was; /* bytes or packets that all bands let through, out of what is left */
    uint64_t packets, bytes;
    struct {
        uint64_t left; /* taken, and not used */
        uint64_t packets, bytes;
    } rates[METER_BANDS_MAX];
};

/* Of a thread, within a burst. */
struct meter_run {
    uint64_t now_ns;         /* 0: the clock has not been read yet */
    uint64_t coarse_ns;      /* by a clock that costs nothing; 0: there is none */
    struct meter_hold *last; /* of the packet before; NULL: none */
    unsigned count;
    struct meter_hold holds[METER_HOLDS];
};

struct meter_config *meter_config_new(const struct meter_spec *spec); /* NULL: no memory */

/* The last packet's meter has let so much through already. False: ask meter_pass(). */
static inline bool meter_passes(struct meter_run *r, struct meter *m, uint32_t bytes)
{
    struct meter_hold *h = r->last;
    if (!h || h->meter != m) return false;
    uint64_t need = h->by_packet ? 1 : bytes;
    if (h->budget < need) return false;
    h->budget -= need;
    h->packets++;
    h->bytes += bytes;
    return true;
}

#define METER_EXCEEDED (-1)
/* A packet of so many bytes comes to a meter. METER_EXCEEDED: drop it; else by how much to raise its drop precedence. */
int meter_pass(struct meter_run *r, struct meter *m, uint32_t bytes);
/* All of them, if they pass all bands. False: none has been charged. */
bool meter_pass_all(struct meter_run *r, struct meter *m, unsigned packets, uint64_t bytes);
/* A DSCP (the upper six bits of tos) of a higher drop precedence. */
uint8_t meter_raise(uint8_t tos, unsigned levels);

static inline bool meter_remarks(const struct meter *m)
{
    return atomic_load_explicit(&m->config, memory_order_acquire)->remarks;
}

/* At the end of a burst. */
void meter_run_end(struct meter_run *r);

/* ---- of a bridge; the control thread ---- */

struct bridge;

/* NULL: there is none. */
struct meter *bridge_meter(const struct bridge *b, uint32_t id);
/* The meter of a flow, if it has one: is it there? 0 or -EINVAL, *why FLOW_BAD_METER. */
int meter_check_instructions(const struct bridge *b, const struct instructions *i, enum flow_wrong *why,
                             struct errmsg *e);
/* A flow with these instructions has come, or gone. */
void meter_refer(struct bridge *b, const struct instructions *i, bool comes);
void meters_destroy(struct bridge *b);

#endif
