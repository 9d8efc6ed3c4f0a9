/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ghost is a set-associative table of tags and times instead of a list: an entry is alive while fewer
 * chunks than are now cached have gone after it. A tag of 32 bits may be mistaken for another's: that puts
 * one chunk into main that had not earned it.
 */
#include "cache/policy.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define LOOKS_MAX 3u
#define YOUNG_MIN 16u

int policy_init(struct policy *p, uint64_t items_max, bool (*touched)(struct policy_item *),
                bool (*busy)(struct policy_item *))
{
    *p = (struct policy){.touched = touched, .busy = busy, .ghost_sets = 64};
    while (p->ghost_sets < items_max / POLICY_GHOST_WAYS && p->ghost_sets < (UINT64_C(1) << 28))
        p->ghost_sets *= 2;
    p->ghost = calloc(p->ghost_sets * POLICY_GHOST_WAYS, sizeof *p->ghost);
    if (!p->ghost) return -ENOMEM;
    for (unsigned q = 0; q < POLICY_QUEUES; q++)
        list_init(&p->queue[q]);
    return 0;
}

void policy_destroy(struct policy *p)
{
    free(p->ghost);
    p->ghost = NULL;
}

/* The finalising step of splitmix64: every bit of the key reaches every bit of the result. */
static uint64_t hash_key(uint64_t key)
{
    key ^= key >> 30;
    key *= UINT64_C(0xbf58476d1ce4e5b9);
    key ^= key >> 27;
    key *= UINT64_C(0x94d049bb133111eb);
    return key ^ key >> 31;
}

static struct policy_ghost *ghost_set(struct policy *p, uint64_t hash)
{
    return &p->ghost[(hash & (p->ghost_sets - 1)) * POLICY_GHOST_WAYS];
}

/* Tag 0 is an empty entry. */
static uint32_t ghost_tag(uint64_t hash)
{
    return (uint32_t)(hash >> 32) | 1u;
}

static void ghost_add(struct policy *p, uint64_t key)
{
    uint64_t hash = hash_key(key);
    struct policy_ghost *set = ghost_set(p, hash), *oldest = set;
    for (unsigned i = 0; i < POLICY_GHOST_WAYS; i++) {
        if (!set[i].tag) {
            oldest = &set[i];
            break;
        }
        if (p->ghost_time - set[i].time > p->ghost_time - oldest->time) oldest = &set[i];
    }
    *oldest = (struct policy_ghost){.tag = ghost_tag(hash), .time = p->ghost_time++};
}

static bool ghost_take(struct policy *p, uint64_t key)
{
    uint64_t hash = hash_key(key);
    struct policy_ghost *set = ghost_set(p, hash);
    for (unsigned i = 0; i < POLICY_GHOST_WAYS; i++) {
        if (set[i].tag != ghost_tag(hash)) continue;
        bool alive = p->ghost_time - set[i].time <= max_u64(policy_total(p), YOUNG_MIN);
        set[i].tag = 0;
        return alive;
    }
    return false;
}

static void queue_put(struct policy *p, struct policy_item *item, enum policy_queue q)
{
    item->queue = (uint8_t)q;
    list_push_back(&p->queue[q], &item->node);
    p->count[q]++;
}

static void queue_take(struct policy *p, struct policy_item *item)
{
    list_remove(&item->node);
    p->count[item->queue]--;
    item->queue = POLICY_NONE;
}

static struct policy_item *queue_oldest(struct policy *p, enum policy_queue q)
{
    return list_entry(p->queue[q].next, struct policy_item, node);
}

static void young_to_small(struct policy *p)
{
    struct policy_item *item = queue_oldest(p, POLICY_YOUNG);
    queue_take(p, item);
    p->touched(item); /* the correlated period is over: what counts is what comes now */
    queue_put(p, item, POLICY_SMALL);
}

void policy_insert(struct policy *p, struct policy_item *item)
{
    assert(item->queue == POLICY_NONE);
    item->looks_left = 0;
    if (ghost_take(p, item->key)) {
        queue_put(p, item, POLICY_MAIN);
        return;
    }
    queue_put(p, item, POLICY_YOUNG);
    if (p->count[POLICY_YOUNG] > max_u64(policy_total(p) / 20, YOUNG_MIN)) young_to_small(p);
}

void policy_remove(struct policy *p, struct policy_item *item)
{
    if (item->queue != POLICY_NONE) queue_take(p, item);
}

/* Where the next victim is to be looked for, the queues in `full_of_busy` left out; POLICY_NONE when there is none. */
static enum policy_queue victim_queue(const struct policy *p, unsigned full_of_busy)
{
    uint64_t on_trial = p->count[POLICY_YOUNG] + p->count[POLICY_SMALL];
    bool main_first = on_trial <= policy_total(p) / 10;
    const enum policy_queue order[] = {main_first ? POLICY_MAIN : POLICY_SMALL, POLICY_SMALL, POLICY_YOUNG,
                                       POLICY_MAIN};
    for (unsigned i = 0; i < ARRAY_LEN(order); i++)
        if (p->count[order[i]] && !(full_of_busy & 1u << order[i])) return order[i];
    return POLICY_NONE;
}

/* True when the item earned another round; where it goes next is then decided. */
static bool item_survives(struct policy *p, struct policy_item *item)
{
    bool touched = p->touched(item);
    enum policy_queue from = item->queue;
    if (from == POLICY_MAIN) {
        if (touched && item->looks_left < LOOKS_MAX) item->looks_left++;
        else if (!touched && item->looks_left > 0) item->looks_left--;
        else if (!touched) return false;
    } else if (from == POLICY_YOUNG || !touched) {
        return false;
    }
    queue_take(p, item);
    queue_put(p, item, POLICY_MAIN);
    return true;
}

struct policy_item *policy_evict(struct policy *p)
{
    unsigned full_of_busy = 0;
    uint64_t busy_seen[POLICY_QUEUES] = {0};
    for (unsigned looks = 0; looks < 2 * POLICY_LOOKS_MAX; looks++) {
        enum policy_queue q = victim_queue(p, full_of_busy);
        if (q == POLICY_NONE) return NULL;
        struct policy_item *item = queue_oldest(p, q);
        bool busy = p->busy(item);
        if (!busy && looks < POLICY_LOOKS_MAX && item_survives(p, item)) continue;
        queue_take(p, item);
        if (!busy) {
            if (q != POLICY_MAIN) ghost_add(p, item->key);
            return item;
        }
        queue_put(p, item, q);
        if (++busy_seen[q] >= p->count[q]) full_of_busy |= 1u << q;
    }
    return NULL;
}
