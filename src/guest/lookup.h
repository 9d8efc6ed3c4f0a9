/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fast way into a guest_map, for rings that translate several addresses per request: a copy of the
 * region that answered last, then a binary search. Nothing here can fail in another way than by
 * saying that the range is not in one region.
 *
 * Thread-safety: a guest_lookup belongs to one thread and is valid while its owner holds the map.
 */
#ifndef GUEST_LOOKUP_H
#define GUEST_LOOKUP_H

#include "guest/memory.h"

struct guest_lookup {
    uint64_t start;      /* guest address */
    uint64_t size_bytes; /* 0: nothing remembered */
    char *host;
};

/* The region that holds addr, or NULL. */
static inline const struct guest_region *guest_map_find(const struct guest_map *m, struct gpa addr)
{
    const struct guest_region *base = m->region;
    unsigned left = m->count;
    /* The last region that starts at or below addr stays within [base, base + left). */
    while (left > 1) {
        unsigned half = left / 2;
        if (base[half].guest_addr.v <= addr.v) base += half;
        left -= half;
    }
    if (left == 0 || addr.v < base->guest_addr.v || addr.v - base->guest_addr.v >= base->size_bytes) return NULL;
    return base;
}

/* Host address of [addr, addr + length), or NULL unless the remembered region holds all of it. */
static inline void *guest_lookup_hit(const struct guest_lookup *l, struct gpa addr, uint64_t length_bytes)
{
    uint64_t offset = addr.v - l->start; /* below start: wraps to more than any size */
    if (__builtin_expect(offset < l->size_bytes && length_bytes <= l->size_bytes - offset, 1)) return l->host + offset;
    return NULL;
}

/* As guest_map_at(), remembering the region. A length of 0 asks for a place inside a region. */
static inline void *guest_lookup_at(struct guest_lookup *l, const struct guest_map *m, struct gpa addr,
                                    uint64_t length_bytes)
{
    void *hit = guest_lookup_hit(l, addr, length_bytes);
    if (hit) return hit;
    const struct guest_region *r = guest_map_find(m, addr);
    if (!r) return NULL;
    *l = (struct guest_lookup){r->guest_addr.v, r->size_bytes, r->host};
    return guest_lookup_hit(l, addr, length_bytes);
}

#endif
