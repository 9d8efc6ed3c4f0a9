/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Epochs: when may the writer free what readers without locks may still hold?
 *
 * The writer publishes a change, then raises the epoch. A reader notes the epoch it sees whenever it holds nothing
 * (between two batches). Once every reader that is awake has noted an epoch no older than the one after the change, nobody holds
 * what was before. A reader that sleeps has noted that it holds nothing at all.
 *
 * Thread-safety: epoch_retire(), _poll() and _wait() on the one writer's thread; epoch_join(), _leave() any; the rest on
 * the reader's own.
 */
#ifndef SWITCH_EPOCH_H
#define SWITCH_EPOCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

#define EPOCH_ASLEEP 0u

/* In every reader. */
struct epoch_reader {
    _Alignas(64) _Atomic uint64_t seen; /* EPOCH_ASLEEP, or what it noted last */
    struct list node;
};

/* In everything that is freed late. */
struct epoch_node {
    struct epoch_node *next;
    void (*free)(struct epoch_node *n);
    uint64_t epoch;
};

struct epoch {
    _Alignas(64) _Atomic uint64_t now;
    _Alignas(64) pthread_mutex_t lock; /* of the list of readers */
    struct list readers;
    struct epoch_node *first, **last; /* retired, oldest first */
};

void epoch_init(struct epoch *e);
/* Frees everything that was retired: no reader may be left. */
void epoch_destroy(struct epoch *e);

/* A reader is asleep when it joins, and must be so when it leaves. */
void epoch_join(struct epoch *e, struct epoch_reader *r);
void epoch_leave(struct epoch *e, struct epoch_reader *r);

static inline void epoch_quiescent(const struct epoch *e, struct epoch_reader *r)
{
    uint64_t now = atomic_load_explicit(&e->now, memory_order_acquire);
    if (atomic_load_explicit(&r->seen, memory_order_relaxed) != now)
        atomic_store_explicit(&r->seen, now, memory_order_release);
}

static inline void epoch_asleep(struct epoch_reader *r)
{
    atomic_store_explicit(&r->seen, EPOCH_ASLEEP, memory_order_release);
}

/* Either the writer sees that the reader is awake, or the reader sees all that the writer published: both order a store before
 * a load, sequentially consistent. */
static inline void epoch_awake(const struct epoch *e, struct epoch_reader *r)
{
    atomic_store(&r->seen, atomic_load(&e->now));
    (void)atomic_load(&e->now);
}

/* Free n when nobody can hold it; it has been unpublished. */
void epoch_retire(struct epoch *e, struct epoch_node *n, void (*free)(struct epoch_node *n));
/* Free what can be freed, without waiting. */
void epoch_poll(struct epoch *e);
/* Return when every reader has passed a quiescent state after all that was published before; then as epoch_poll(). */
void epoch_wait(struct epoch *e);

#endif
