/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A runner thread's part of the switch: its caches, and the way of a burst through them.
 *
 *     keys -> caches -> still true? -> actions          hits first
 *                   \-> translate -> megaflow -> actions    misses and what is no longer true, in order, each kind once a burst
 *
 * A thread that is awake holds its own mutex, and lets go of it between two batches when somebody wants it: so the control
 * thread can look at, or clean, the caches of all threads, sleeping or not (thread_hold()).
 */
#ifndef SWITCH_THREAD_H
#define SWITCH_THREAD_H

#include "switch/bridge.h"
#include "switch/cache.h"
#include "switch/execute.h"
#include "switch/translate.h"

struct thread_counters {
    _Atomic uint64_t packets, emc_hits, megaflow_hits, translations, revalidated, dropped, over_quota, expired, evicted;
    _Atomic unsigned megaflows, masks;
};

struct switch_thread {
    struct epoch_reader reader;
    struct net_switch *sw;
    struct packet_pool *pool;
    struct list node;
    char name[16];
    bool is_awake;
    pthread_mutex_t own;
    _Atomic unsigned wanted;
    uint64_t now_ns;
    uint64_t seen[2]; /* of the burst's bridge: last change but of addresses; last change */
    uint64_t simple_hits, packets, translations, revalidated, dropped, over_quota;
    uint64_t round;     /* of the runner: batches of each of its sources, and those that its sleep could have been */
    uint64_t last_word; /* of the port that sent last */
    uint64_t shared_until_ns; /* several ports send to this thread, as far as one knows */
    struct thread_counters counters;
    struct cache cache;
    struct outbox outbox;
    struct meter_run meters;
    struct flow_key keys[PACKET_BATCH];
    struct translation *translation;
    struct dp_action steps[TRANSLATION_CHANGES + 1]; /* of a megaflow that is about to be kept (recirculate.c) */
};

static inline bool thread_is_valid(const struct switch_thread *t, const struct megaflow *m)
{
    return m->valid_at >= t->seen[m->watches_mac];
}

/* Valid, or found to be still true. */
static inline bool thread_holds_true(struct switch_thread *t, uint32_t line)
{
    return thread_is_valid(t, cache_megaflow(&t->cache, line)) ||
           cache_revalidate(&t->cache, line, &t->sw->log, t->seen[1]);
}

void thread_sink_init(struct net_switch *s);

/* Until thread_release() the thread touches nothing of its own. Control thread. */
void thread_hold(struct switch_thread *t);
void thread_release(struct switch_thread *t);
/* Each thread, held, in turn. */
void thread_each(struct net_switch *s, void (*visit)(void *arg, struct switch_thread *t), void *arg);
/* Ageing for threads that sleep. */
void thread_sweep_asleep(struct net_switch *s, uint64_t now_ns);
void thread_counters_add(struct switch_thread *t, struct switch_stats *out);

#endif
