/* SPDX-License-Identifier: Apache-2.0 */
/* A hash of references (open chains of slot numbers) and a list of slots by last use; everything is allocated at the start. */
#include "guest/persistent.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define NONE UINT32_MAX

struct slot {
    struct xen_map map;
    bool writable;
    unsigned holders;
    uint32_t used;         /* in which period it was last */
    uint32_t chain;        /* next in its bucket, or in the free list */
    uint32_t newer, older; /* by last use */
};

struct persistent {
    struct xen *xen;
    xen_domid domid;
    unsigned capacity, buckets; /* a power of two */
    uint32_t *bucket;
    struct slot *slot;
    uint32_t free, newest, oldest;
    uint32_t period;
    struct persistent_stats stats;
};

struct persistent *persistent_new(struct xen *x, xen_domid domid, unsigned capacity)
{
    assert(capacity && capacity < 1u << 24);
    struct persistent *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    *p = (struct persistent){
        .xen = x, .domid = domid, .capacity = capacity, .buckets = 1, .newest = NONE, .oldest = NONE};
    while (p->buckets < capacity * 2)
        p->buckets *= 2;
    p->bucket = malloc(p->buckets * sizeof *p->bucket);
    p->slot = calloc(capacity, sizeof *p->slot);
    if (!p->bucket || !p->slot) {
        persistent_free(p);
        return NULL;
    }
    for (unsigned i = 0; i < p->buckets; i++)
        p->bucket[i] = NONE;
    for (unsigned i = 0; i < capacity; i++)
        p->slot[i].chain = i + 1 < capacity ? i + 1 : NONE;
    p->free = 0;
    return p;
}

void persistent_free(struct persistent *p)
{
    if (!p) return;
    for (unsigned i = 0; p->slot && i < p->capacity; i++)
        p->xen->ops->unmap(p->xen, &p->slot[i].map, 1);
    free(p->slot);
    free(p->bucket);
    free(p);
}

static uint32_t *bucket_of(struct persistent *p, uint32_t ref)
{
    return &p->bucket[ref * UINT32_C(2654435761) >> 7 & (p->buckets - 1)];
}

static void list_remove(struct persistent *p, uint32_t i)
{
    struct slot *s = &p->slot[i];
    *(s->newer == NONE ? &p->newest : &p->slot[s->newer].older) = s->older;
    *(s->older == NONE ? &p->oldest : &p->slot[s->older].newer) = s->newer;
}

static void list_add(struct persistent *p, uint32_t i)
{
    struct slot *s = &p->slot[i];
    s->newer = NONE;
    s->older = p->newest;
    *(p->newest == NONE ? &p->oldest : &p->slot[p->newest].newer) = i;
    p->newest = i;
}

static void chain_remove(struct persistent *p, uint32_t i)
{
    uint32_t *at = bucket_of(p, p->slot[i].map.ref);
    while (*at != i)
        at = &p->slot[*at].chain;
    *at = p->slot[i].chain;
}

static void slot_release(struct persistent *p, uint32_t i)
{
    struct slot *s = &p->slot[i];
    chain_remove(p, i);
    list_remove(p, i);
    p->xen->ops->unmap(p->xen, &s->map, 1);
    s->map.page = NULL;
    s->chain = p->free;
    p->free = i;
    p->stats.mapped--;
}

/* The oldest that nobody holds makes room; false: all are held. */
static bool evict(struct persistent *p)
{
    for (uint32_t i = p->oldest; i != NONE; i = p->slot[i].newer) {
        if (p->slot[i].holders) continue;
        slot_release(p, i);
        p->stats.evictions++;
        return true;
    }
    return false;
}

static int slot_map(struct persistent *p, uint32_t ref, bool writable, uint32_t *out)
{
    if (p->free == NONE && !evict(p)) return -ENOSPC;
    uint32_t i = p->free;
    struct slot *s = &p->slot[i];
    s->map = (struct xen_map){.ref = ref};
    p->xen->ops->map(p->xen, p->domid, &s->map, 1, writable);
    if (s->map.status == -ENOSPC && evict(p)) /* the budget, of which this cache may have the most */
        p->xen->ops->map(p->xen, p->domid, &s->map, 1, writable);
    if (s->map.status) return s->map.status;
    /* An eviction just now put its slot in front of this one. */
    uint32_t *at = &p->free;
    while (*at != i)
        at = &p->slot[*at].chain;
    *at = s->chain;
    s->writable = writable;
    s->holders = 0;
    s->chain = *bucket_of(p, ref);
    *bucket_of(p, ref) = i;
    list_add(p, i);
    p->stats.mapped++;
    p->stats.maps++;
    *out = i;
    return 0;
}

int persistent_get(struct persistent *p, uint32_t ref, bool writable, void **page, unsigned *slot)
{
    uint32_t i = *bucket_of(p, ref);
    while (i != NONE && p->slot[i].map.ref != ref)
        i = p->slot[i].chain;
    if (i != NONE && writable && !p->slot[i].writable) {
        if (p->slot[i].holders) return -EBUSY;
        slot_release(p, i);
        i = NONE;
    }
    if (i == NONE) {
        int ret = slot_map(p, ref, writable, &i);
        if (ret) return ret;
    } else {
        p->stats.hits++;
        if (p->newest != i) {
            list_remove(p, i);
            list_add(p, i);
        }
    }
    p->slot[i].holders++;
    p->slot[i].used = p->period;
    *page = p->slot[i].map.page;
    *slot = i;
    return 0;
}

void persistent_put(struct persistent *p, unsigned slot)
{
    assert(slot < p->capacity && p->slot[slot].holders);
    p->slot[slot].holders--;
}

void persistent_age(struct persistent *p, unsigned periods, unsigned max)
{
    p->period++;
    for (uint32_t i = p->oldest, newer; i != NONE && max; i = newer) {
        newer = p->slot[i].newer;
        if (p->period - p->slot[i].used <= periods) return; /* the rest was used later still */
        if (p->slot[i].holders) continue;
        slot_release(p, i);
        p->stats.aged++;
        max--;
    }
}

struct persistent_stats persistent_stats(const struct persistent *p)
{
    return p->stats;
}
