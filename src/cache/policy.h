/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which 64 KiB chunk of the read cache goes next. Pure bookkeeping: no I/O, no clock, no lock.
 *
 * Readers tell nothing but one bit per chunk ("touched since you last looked"), so this is S3-FIFO (Yang and
 * others, SOSP 2023) with that bit in the place of a counter of hits, and with 2Q's correlated period in front:
 *
 *   young -> small -> main
 *             |
 *             +--> ghost (a memory of what was thrown out)
 *
 *   young  just fetched. Touches here belong to the request that fetched the chunk (one sequential reader
 *          touches a chunk many times within a moment) and are forgotten when it leaves.
 *   small  on trial. Touched again by the time it reaches the end: somebody came back for it, into main.
 *          Not touched: out, and remembered in ghost. A scan passes through here and moves nothing else.
 *   main   the hot set: second-chance with a count of up to 3 looks.
 *   ghost  a chunk fetched again while remembered here goes straight into main.
 *
 * young and small together are kept at a tenth of what is cached.
 *
 * Thread-safety: none.
 */
#ifndef CACHE_POLICY_H
#define CACHE_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

enum policy_queue { POLICY_NONE, POLICY_YOUNG, POLICY_SMALL, POLICY_MAIN, POLICY_QUEUES };

/* Embedded in what is cached. Zero it and list_init(&node) before first use. */
struct policy_item {
    struct list node;
    uint64_t key; /* identifies it in the ghost; the same when it comes back */
    uint8_t queue;
    uint8_t looks_left;
};

struct policy_ghost {
    uint32_t tag;
    uint32_t time;
};

struct policy {
    struct list queue[POLICY_QUEUES]; /* oldest first */
    uint64_t count[POLICY_QUEUES];
    struct policy_ghost *ghost;                /* sets of POLICY_GHOST_WAYS */
    uint64_t ghost_sets;                       /* a power of two */
    uint32_t ghost_time;                       /* goes up by one with each entry */
    bool (*touched)(struct policy_item *item); /* read and clear the item's mark */
    bool (*busy)(struct policy_item *item);    /* must not go now */
};
#define POLICY_GHOST_WAYS 4u
/* Items looked at for one victim; whoever comes after them goes, touched or not. */
#define POLICY_LOOKS_MAX 512u

/* Remembers up to about items_max chunks that went. 0 or -ENOMEM. */
int policy_init(struct policy *p, uint64_t items_max, bool (*touched)(struct policy_item *),
                bool (*busy)(struct policy_item *));
void policy_destroy(struct policy *p);

/* The item was fetched. It must be in no queue. */
void policy_insert(struct policy *p, struct policy_item *item);
/* The item goes for another reason than having been chosen; harmless when it is in no queue. */
void policy_remove(struct policy *p, struct policy_item *item);
/* Choose one to go and take it out of its queue; NULL when there is none, or all that were looked at are busy. */
struct policy_item *policy_evict(struct policy *p);

static inline uint64_t policy_total(const struct policy *p)
{
    return p->count[POLICY_YOUNG] + p->count[POLICY_SMALL] + p->count[POLICY_MAIN];
}

#endif
