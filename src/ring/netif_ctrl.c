/* SPDX-License-Identifier: Apache-2.0 */
#include "ring/netif_ctrl.h"

#include <errno.h>
#include <string.h>

#include "ring/netif_wire.h"

_Static_assert(sizeof(struct netif_ctrl_request) == 16 && sizeof(struct netif_ctrl_response) == 12, "io/netif.h");
_Static_assert((NETIF_PAGE_BYTES - sizeof(struct xen_ring)) / sizeof(struct netif_ctrl_request) >= NETIF_CTRL_ENTRIES,
               "io/ring.h");
_Static_assert(sizeof(struct netif_gref) == 8, "io/netif.h");

static struct xen_ring *shared_of(const struct netif_ctrl *c)
{
    return c->shared;
}

static char *entry_at(const struct netif_ctrl *c, uint32_t index)
{
    return (char *)c->shared + sizeof(struct xen_ring) +
           (index & (NETIF_CTRL_ENTRIES - 1)) * sizeof(struct netif_ctrl_request);
}

void netif_ctrl_init(struct netif_ctrl *c, void *ring)
{
    *c = (struct netif_ctrl){.shared = ring};
    c->req_cons = c->rsp_prod = __atomic_load_n(&shared_of(c)->rsp_prod, __ATOMIC_RELAXED);
}

int netif_ctrl_pop(struct netif_ctrl *c, struct netif_ctrl_request *out)
{
    if (c->broken) return -EPROTO;
    uint32_t there = __atomic_load_n(&shared_of(c)->req_prod, __ATOMIC_ACQUIRE) - c->req_cons;
    if (there == 0) return 0;
    if (there > NETIF_CTRL_ENTRIES - (c->req_cons - c->rsp_prod)) {
        c->broken = "its request index jumps";
        return -EPROTO;
    }
    const volatile uint32_t *from = (const volatile uint32_t *)(const void *)entry_at(c, c->req_cons);
    uint32_t words[4] = {from[0], from[1], from[2], from[3]};
    memcpy(out, words, sizeof *out);
    c->req_cons++;
    return 1;
}

bool netif_ctrl_answer(struct netif_ctrl *c, const struct netif_ctrl_response *r)
{
    uint32_t old = c->rsp_prod, now = old + 1;
    memcpy(entry_at(c, old), r, sizeof *r);
    c->rsp_prod = now;
    __atomic_store_n(&shared_of(c)->rsp_prod, now, __ATOMIC_RELEASE);
    return xen_ring_notify(&shared_of(c)->rsp_event, old, now);
}

bool netif_ctrl_final_check(struct netif_ctrl *c)
{
    return xen_ring_final_check(&shared_of(c)->req_event, &shared_of(c)->req_prod, c->req_cons) && !c->broken;
}
