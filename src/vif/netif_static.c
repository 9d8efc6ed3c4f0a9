/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Static grants: pages that the guest uses again and again and has us keep mapped, by its control ring. What lies in one is copied with
 * no call into the hypervisor.
 *
 * A table is never changed: a new one takes its place, and it goes when nobody can be looking at it any more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vif/netif_impl.h"

#define BUCKETS (4 * NETIF_STATIC_MAX)

struct netif_static {
    unsigned count;
    struct netif_static_page page[NETIF_STATIC_MAX];
    uint16_t bucket[BUCKETS]; /* index + 1, or 0 */
};
_Static_assert((BUCKETS & (BUCKETS - 1)) == 0, "a mask");

static unsigned bucket_of(uint32_t ref)
{
    return (ref * UINT32_C(0x9e3779b1)) >> 20 & (BUCKETS - 1);
}

const struct netif_static_page *netif_static_find(const struct netif_static *s, uint32_t ref)
{
    for (unsigned i = bucket_of(ref); s->bucket[i]; i = (i + 1) & (BUCKETS - 1))
        if (s->page[s->bucket[i] - 1].map.ref == ref) return &s->page[s->bucket[i] - 1];
    return NULL;
}

static void index_one(struct netif_static *s, unsigned k)
{
    unsigned i = bucket_of(s->page[k].map.ref);
    while (s->bucket[i])
        i = (i + 1) & (BUCKETS - 1);
    s->bucket[i] = (uint16_t)(k + 1);
}

static void index_all(struct netif_static *s)
{
    memset(s->bucket, 0, sizeof s->bucket);
    for (unsigned k = 0; k < s->count; k++)
        index_one(s, k);
}

struct netif_static *netif_static_copy(const struct netif_static *s)
{
    struct netif_static *n = malloc(sizeof *n);
    if (n && s) *n = *s;
    else if (n) *n = (struct netif_static){0};
    return n;
}

unsigned netif_static_count(const struct netif_static *s)
{
    return s ? s->count : 0;
}

const struct netif_static_page *netif_static_at(const struct netif_static *s, unsigned i)
{
    return &s->page[i];
}

/* Noted, before any is mapped. */
static int list_add(struct netif_static *s, const struct netif_gref *list, unsigned count, bool again)
{
    for (unsigned i = 0; i < count; i++) {
        bool writable = !(list[i].flags & NETIF_GREF_READONLY);
        const struct netif_static_page *there = netif_static_find(s, list[i].ref);
        if (there && again && there->writable == writable) continue;
        if (there) return -EEXIST;
        if (s->count == NETIF_STATIC_MAX) return -ENOSPC;
        s->page[s->count] = (struct netif_static_page){.map = {.ref = list[i].ref}, .writable = writable};
        index_one(s, s->count++);
    }
    return 0;
}

/* One by one, as they will go. */
static int map_from(struct netif_static *s, unsigned at, struct xen *x, xen_domid domid)
{
    for (; at < s->count; at++) {
        x->ops->map(x, domid, &s->page[at].map, 1, s->page[at].writable);
        if (s->page[at].map.status) return s->page[at].map.status;
    }
    return 0;
}

int netif_static_add(struct netif_static *s, struct xen *x, xen_domid domid, const struct netif_gref *list,
                     unsigned count, bool again)
{
    unsigned before = s->count;
    int ret = list_add(s, list, count, again);
    if (ret == 0) ret = map_from(s, before, x, domid);
    if (ret == 0) return 0;
    for (; s->count > before; s->count--)
        x->ops->unmap(x, &s->page[s->count - 1].map, 1); /* those that are mapped */
    index_all(s);
    return ret;
}

bool netif_static_take(struct netif_static *s, uint32_t ref, struct xen_map *out)
{
    const struct netif_static_page *p = netif_static_find(s, ref);
    if (!p) return false;
    *out = p->map;
    s->page[p - s->page] = s->page[--s->count];
    index_all(s);
    return true;
}

void netif_static_free(struct netif_static *s, struct xen *x)
{
    for (unsigned i = 0; s && x && i < s->count; i++)
        x->ops->unmap(x, &s->page[i].map, 1);
    free(s);
}
