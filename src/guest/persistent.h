/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Persistent grants: pages of a guest that stay mapped from one request to the next, by grant reference, for front ends that agreed
 * to use the same references again and again (blkif's feature-persistent).
 *
 * The cache is bounded: over its capacity the least recently used page that nobody holds goes. A front end that keeps sending new
 * references costs maps and unmaps, and never memory. With a front end that did not agree it must not be used: that one revokes each
 * grant after its request, cannot while it is mapped here, and crawls.
 *
 * Thread-safety: none; it belongs to its `struct xen`'s thread, and is freed before it is closed.
 */
#ifndef GUEST_PERSISTENT_H
#define GUEST_PERSISTENT_H

#include "guest/xen.h"

struct persistent;

/* NULL: out of memory. */
struct persistent *persistent_new(struct xen *x, xen_domid domid, unsigned capacity);
void persistent_free(struct persistent *p); /* unmaps all, held or not */

/*
 * The reference's page, mapped and held; *slot for the put. -errno: as of a map (-ENOSPC: the budget, or everything is held: the
 * user copies instead). A page mapped for reading and now needed for writing is mapped anew, if nobody else holds it (-EBUSY).
 */
int persistent_get(struct persistent *p, uint32_t ref, bool writable, void **page, unsigned *slot);
void persistent_put(struct persistent *p, unsigned slot);

/* A period is over. Pages that nobody used in so many of them are unmapped, at most max (each has its price), and asked for again
 * when they are used again: without that a guest's busiest minute would hold its part of the map-track table for good. */
void persistent_age(struct persistent *p, unsigned periods, unsigned max);

struct persistent_stats {
    uint64_t hits, maps, evictions, aged;
    unsigned mapped;
};
struct persistent_stats persistent_stats(const struct persistent *p);

#endif
