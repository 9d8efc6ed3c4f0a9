/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every ring of Xen's begins with (Xen's public io/ring.h), and how each side asks for events and finds out whether the other
 * wants one. Private to ring/.
 */
#ifndef RING_XEN_RING_H
#define RING_XEN_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "ring/wire.h"

struct xen_ring {
    uint32_t req_prod, req_event;
    uint32_t rsp_prod, rsp_event;
    uint8_t unused[48];
};
_Static_assert(sizeof(struct xen_ring) == 64, "io/ring.h");

/* After an index moved from old to now: is the other side to be notified, by the event that it asked for? */
static inline bool xen_ring_notify(const uint32_t *event, uint32_t old, uint32_t now)
{
    ring_full_fence();
    return now - __atomic_load_n(event, __ATOMIC_RELAXED) < now - old;
}

/* Ask for an event with the next entry after cons. True: one is there already. */
static inline bool xen_ring_final_check(uint32_t *event, const uint32_t *prod, uint32_t cons)
{
    __atomic_store_n(event, cons + 1, __ATOMIC_RELAXED);
    ring_full_fence();
    return __atomic_load_n(prod, __ATOMIC_RELAXED) != cons;
}

#endif
