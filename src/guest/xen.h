/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TRUST BOUNDARY 1, on Xen: pages that a guest has granted, and event channels.
 *
 * A guest's memory is reached only where the guest has agreed in advance: page by page, by grant reference. A page is mapped (and
 * unmapped later), or bytes are copied from or to it by the hypervisor. Two worlds are behind the same calls:
 *
 *   guest/xen.c  Xen's: the grant device and the event channel device
 *   guest/sim.c  Xen without Xen: grant tables and event channels in memory that two processes share, laid out and ordered as
 *                the hypervisor does it
 *
 * Every reference comes from a guest: a bad one costs that entry only (its status), never the batch. What the status of a map is says
 * little: the grant device has one word for whatever the hypervisor refused, an end of its map-track table included. Who cannot map
 * copies instead, and the copy's status is the reference's own.
 *
 * Thread-safety: a `struct xen` belongs to one thread, its event channels too; but copy() and notify() may be called by any, while what
 * they name is bound. The budget is its process's.
 */
#ifndef GUEST_XEN_H
#define GUEST_XEN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"

#define XEN_PAGE_BYTES 4096u

typedef uint16_t xen_domid;

/* A page to be mapped. */
struct xen_map {
    uint32_t ref;    /* in */
    int status;      /* out: 0 or -errno; -ENOSPC is the budget's */
    void *page;      /* out: NULL when status is not 0 */
    uint64_t cookie; /* the world's own, for the unmap */
};

/* Bytes to be copied; within one page on the guest's side. */
struct xen_copy {
    uint32_t ref;
    uint16_t offset, length; /* in the guest's page; checked again here */
    void *local;
    bool to_guest;
    int status; /* out: 0 or -errno */
};

struct xen;

struct xen_ops {
    /* Several pages in one call as far as the world allows it. They may stay mapped until the last of them is unmapped. */
    void (*map)(struct xen *x, xen_domid domid, struct xen_map *maps, unsigned count, bool writable);
    void (*unmap)(struct xen *x, struct xen_map *maps, unsigned count); /* those whose page is not NULL */
    /* Adjacent pages at adjacent addresses (a ring of several pages): all of them or none. NULL and *ret. */
    void *(*map_ring)(struct xen *x, xen_domid domid, const uint32_t *refs, unsigned count, int *ret);
    void (*unmap_ring)(struct xen *x, void *ring, unsigned count);
    void (*copy)(struct xen *x, xen_domid domid, struct xen_copy *copies, unsigned count);

    /* A local port bound to a guest's, or -errno. It is not masked, and pending at once: events may have come before. */
    int (*bind)(struct xen *x, xen_domid domid, uint32_t remote_port);
    void (*unbind)(struct xen *x, int port);
    void (*notify)(struct xen *x, int port);
    /* Readable while a port that is not masked is pending. */
    int (*event_fd)(struct xen *x);
    /* Up to max ports that are pending, which are masked now, and whose event is taken. How many. */
    unsigned (*pending)(struct xen *x, int *ports, unsigned max);
    /* An event that came while it was masked is not lost. */
    void (*unmask)(struct xen *x, int port);
    /* From now on event channels only of this domain, for good; 0 or -errno (-ENOTTY: the kernel, before 4.7, cannot).
     * Grants cannot be confined: the device has no such word. */
    int (*confine)(struct xen *x, xen_domid domid);
    void (*free)(struct xen *x); /* unmaps and unbinds everything */
};

/* Embedded at the start of each world's. */
struct xen {
    const struct xen_ops *ops;
};

/*
 * Entries of the hypervisor's map-track table that this process's backends may use together: one for each page, and two where domain
 * 0 is paravirtual, whose kernel maps the page as well as its process. A map over it fails with -ENOSPC, and its user copies instead.
 * Rings are not refused, since without them nothing is served, but room is kept for them: as long as they stay within the reserve, all
 * together stay within max. NULL: what the hypervisor has. Thread-safe.
 */
struct xen_budget {
    unsigned max;
    unsigned reserve; /* of max: for rings only, those to come too */
    atomic_uint used; /* by pages */
    atomic_uint rings;
};

static inline bool xen_budget_take(struct xen_budget *b, unsigned entries)
{
    if (!b) return true;
    unsigned used = atomic_load_explicit(&b->used, memory_order_relaxed);
    unsigned rings = atomic_load_explicit(&b->rings, memory_order_relaxed);
    if (rings < b->reserve) rings = b->reserve;
    unsigned most = rings < b->max ? b->max - rings : 0;
    do {
        if (used > most || entries > most - used) return false;
    } while (!atomic_compare_exchange_weak_explicit(&b->used, &used, used + entries, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

static inline void xen_budget_give(struct xen_budget *b, unsigned entries)
{
    if (b) atomic_fetch_sub_explicit(&b->used, entries, memory_order_relaxed);
}

static inline void xen_budget_take_ring(struct xen_budget *b, unsigned entries)
{
    if (b) atomic_fetch_add_explicit(&b->rings, entries, memory_order_relaxed);
}

static inline void xen_budget_give_ring(struct xen_budget *b, unsigned entries)
{
    if (b) atomic_fetch_sub_explicit(&b->rings, entries, memory_order_relaxed);
}

/* 0 or -errno with the reason (no Xen here: -ENODEV). */
int xen_open(struct xen **out, struct xen_budget *budget, struct errmsg *e);

static inline void xen_close(struct xen *x)
{
    if (x) x->ops->free(x);
}

#endif
