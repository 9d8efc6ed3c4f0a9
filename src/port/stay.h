/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A busy thread stays on the CPU where it is, and asks every now and then whether another one is better.
 *
 * Who wakes a thread through a socket or a tap says by it that he is about to sleep, and the scheduler pulls the thread to him. A
 * sender of TCP is not about to sleep: with two CPUs, sender, switch and receiver change places thousands of times a second, two of
 * them end up on one CPU, and BBR takes what they reach by that for what the path can carry (docs/adr/0009). When one of them stays, the
 * others arrange themselves around it.
 *
 * Bound for good, it would be in the way of a guest's CPU that never sleeps. So a stay is STAY_NS long; then the thread is free for
 * STAY_FREE_NS at least, which is enough for a scheduler that knows of an idle CPU. Only who passes on at least STAY_PACKETS_PER_MS stays
 * again, where it then is. A thread that is mostly idle is never bound.
 *
 * The operator's word stands: only CPUs that the thread was allowed are chosen from, and an affinity that somebody else has set
 * meanwhile is what it is given back. One that nobody has set, because the thread may use its whole cpuset, is given back as "any": then
 * it follows the cpuset, and CPUs that come online.
 *
 * Thread-safety: none; of one thread, which alone calls.
 */
#ifndef PORT_STAY_H
#define PORT_STAY_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

struct stay {
    bool wanted, bound;
    bool chosen;       /* `allowed` is less than the cpuset: somebody set it */
    cpu_set_t allowed; /* what the thread could use when it was bound last */
    int cpu;           /* while bound */
    uint64_t until_ns; /* nothing is to be done before */
    uint64_t since_ns; /* free since then; packets: how many there had been */
    uint64_t packets;
};

/* All zero: not wanted. */
void stay_set(struct stay *s, bool wanted);
/* The time has come to look; packets: those passed on so far. */
void stay_look(struct stay *s, uint64_t now_ns, uint64_t packets);

#endif
