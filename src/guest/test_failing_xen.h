/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For fault loops: a hypervisor whose rings, ports and pages are refused one by one, in one count with allocations (base/test_alloc.h).
 *
 * Thread-safety: as base/test_alloc.h says. One at a time.
 */
#ifndef GUEST_TEST_FAILING_XEN_H
#define GUEST_TEST_FAILING_XEN_H

#include <errno.h>

#include "base/test_alloc.h"
#include "guest/xen.h"

static const struct xen_ops *failing_xen_real;

static void *failing_xen_map_ring(struct xen *x, xen_domid domid, const uint32_t *refs, unsigned count, int *ret)
{
    *ret = -EINVAL;
    return alloc_fails() ? NULL : failing_xen_real->map_ring(x, domid, refs, count, ret);
}

static int failing_xen_bind(struct xen *x, xen_domid domid, uint32_t remote_port)
{
    return alloc_fails() ? -EINVAL : failing_xen_real->bind(x, domid, remote_port);
}

static void failing_xen_map(struct xen *x, xen_domid domid, struct xen_map *maps, unsigned count, bool writable)
{
    if (!alloc_fails()) {
        failing_xen_real->map(x, domid, maps, count, writable);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        maps[i].page = NULL;
        maps[i].status = -EINVAL;
    }
}

/* The operations of such a one over `real`. */
static inline struct xen_ops failing_xen(const struct xen_ops *real)
{
    struct xen_ops ops = *(failing_xen_real = real);
    ops.map_ring = failing_xen_map_ring;
    ops.bind = failing_xen_bind;
    ops.map = failing_xen_map;
    return ops;
}

#endif
