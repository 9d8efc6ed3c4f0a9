/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/epoch.h"

#include <sched.h>
#include <time.h>

#define SPINS 200u /* before the writer sleeps between looks */
#define SLEEP_NS 50000

void epoch_init(struct epoch *e)
{
    atomic_init(&e->now, 1);
    pthread_mutex_init(&e->lock, NULL);
    list_init(&e->readers);
    e->first = NULL;
    e->last = &e->first;
}

static void free_until(struct epoch *e, uint64_t passed)
{
    while (e->first && e->first->epoch <= passed) {
        struct epoch_node *n = e->first;
        e->first = n->next;
        if (!e->first) e->last = &e->first;
        n->free(n);
    }
}

void epoch_destroy(struct epoch *e)
{
    free_until(e, UINT64_MAX);
    pthread_mutex_destroy(&e->lock);
}

void epoch_join(struct epoch *e, struct epoch_reader *r)
{
    atomic_init(&r->seen, EPOCH_ASLEEP);
    pthread_mutex_lock(&e->lock);
    list_push_back(&e->readers, &r->node);
    pthread_mutex_unlock(&e->lock);
}

void epoch_leave(struct epoch *e, struct epoch_reader *r)
{
    pthread_mutex_lock(&e->lock);
    list_remove(&r->node);
    pthread_mutex_unlock(&e->lock);
}

/* The epoch that every reader has seen. */
static uint64_t passed_by_all(struct epoch *e)
{
    uint64_t passed = atomic_load(&e->now);
    pthread_mutex_lock(&e->lock);
    LIST_FOR_EACH (node, &e->readers) {
        uint64_t seen = atomic_load(&list_entry(node, struct epoch_reader, node)->seen);
        if (seen != EPOCH_ASLEEP && seen < passed) passed = seen;
    }
    pthread_mutex_unlock(&e->lock);
    return passed;
}

void epoch_retire(struct epoch *e, struct epoch_node *n, void (*free)(struct epoch_node *n))
{
    n->next = NULL;
    n->free = free;
    n->epoch = atomic_fetch_add(&e->now, 1) + 1;
    *e->last = n;
    e->last = &n->next;
}

void epoch_poll(struct epoch *e)
{
    if (e->first) free_until(e, passed_by_all(e));
}

void epoch_wait(struct epoch *e)
{
    uint64_t target = atomic_fetch_add(&e->now, 1) + 1;
    for (unsigned i = 0; passed_by_all(e) < target; i++) {
        if (i < SPINS) sched_yield();
        else nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL);
    }
    free_until(e, target);
}
