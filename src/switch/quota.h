/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much of a runner thread's time a port's new flows may take.
 *
 * A thread that only one port sends to is that port's own: nothing is limited, because whoever floods it harms nobody else. Where
 * another port sent something in the last second, a port may translate for QUOTA_ROUND_NS (or as configured) in each of the thread's
 * rounds, in which every source has its turn. What it does not use is saved, up to QUOTA_SAVED_NS; what one translation takes beyond that is owed.
 * Packets of a port that owes are dropped when they want a translation; those that the caches know are not concerned. So a
 * neighbour waits no longer than that for its turn, whatever flows there are and whatever packets the other one sends.
 *
 * The time that the thread sleeps, because nobody wanted anything, counts as the rounds that it could have been. Where the thread was
 * taken off its CPU in the middle of a translation a port owes far more than is its own fault, and of rounds there are few where
 * little is sent: it would go on losing the first packet of each flow.
 *
 * Time, not a number of translations: one takes 100 ns or, through thousands of resubmits, a millisecond.
 *
 * Thread-safety: of its thread.
 */
#ifndef SWITCH_QUOTA_H
#define SWITCH_QUOTA_H

#include <stdbool.h>
#include <stdint.h>

#include "loop/clock.h"

#define QUOTA_ROUND_NS 50000 /* 32 packets among 10,000 rules of an access list */
#define QUOTA_SAVED_NS 1000000
#define QUOTA_SHARED_NS NS_PER_SECOND
#define QUOTA_ROUNDS_MOST 1000000u /* that are counted; far more than anybody owes */

struct quota {
    uint64_t round; /* up to which it has been given */
    int64_t left_ns;
};

/* Of a sleep. */
static inline uint64_t quota_rounds(uint64_t slept_ns, unsigned round_ns)
{
    return round_ns ? slept_ns / round_ns : 0;
}

static inline void quota_give(struct quota *q, uint64_t round, unsigned round_ns)
{
    uint64_t rounds = round - q->round;
    if (rounds > QUOTA_ROUNDS_MOST) rounds = QUOTA_ROUNDS_MOST;
    q->round = round;
    q->left_ns += (int64_t)rounds * round_ns;
    if (q->left_ns > QUOTA_SAVED_NS) q->left_ns = QUOTA_SAVED_NS;
}

static inline bool quota_is_left(const struct quota *q)
{
    return q->left_ns > 0;
}

static inline void quota_take(struct quota *q, uint64_t ns)
{
    q->left_ns -= (int64_t)ns;
}

#endif
