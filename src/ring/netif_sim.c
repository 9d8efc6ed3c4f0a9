/* SPDX-License-Identifier: Apache-2.0 */
#include "ring/netif_sim.h"

#include <string.h>

static struct xen_ring *shared_of(const struct netif_sim *s)
{
    return s->ring;
}

static char *entry_at(const struct netif_sim *s, uint32_t index)
{
    size_t bytes = s->transmit ? sizeof(struct netif_wire_tx) : sizeof(struct netif_wire_rx);
    return (char *)s->ring + sizeof(struct xen_ring) + (index & (NETIF_ENTRIES - 1)) * bytes;
}

void netif_sim_init(struct netif_sim *s, void *ring, bool transmit)
{
    memset(s, 0, sizeof *s);
    s->ring = ring;
    s->transmit = transmit;
    struct xen_ring *w = ring;
    memset(w, 0, sizeof *w);
    w->req_event = w->rsp_event = 1;
}

unsigned netif_sim_free(const struct netif_sim *s)
{
    return NETIF_ENTRIES - (s->req_prod - s->rsp_cons);
}

static bool add(struct netif_sim *s, const void *entry, size_t bytes, uint16_t id)
{
    if (netif_sim_free(s) == 0) return false;
    memcpy(entry_at(s, s->req_prod), entry, bytes);
    s->id[s->req_prod++ & (NETIF_ENTRIES - 1)] = id;
    return true;
}

bool netif_sim_add_tx(struct netif_sim *s, const struct netif_wire_tx *w)
{
    return add(s, w, sizeof *w, w->id);
}

bool netif_sim_add_extra(struct netif_sim *s, const struct netif_wire_extra *x)
{
    return add(s, x, sizeof *x, NETIF_SIM_EXTRA);
}

bool netif_sim_add_rx(struct netif_sim *s, uint16_t id, uint32_t ref)
{
    struct netif_wire_rx w = {.id = id, .ref = ref};
    return add(s, &w, sizeof w, id);
}

bool netif_sim_publish(struct netif_sim *s)
{
    uint32_t old = s->published, now = s->req_prod;
    if (now == old) return false;
    __atomic_store_n(&shared_of(s)->req_prod, now, __ATOMIC_RELEASE);
    s->published = now;
    return xen_ring_notify(&shared_of(s)->req_event, old, now);
}

static bool fault(struct netif_sim *s, const char *why)
{
    s->error = why;
    return false;
}

static bool is_there(struct netif_sim *s)
{
    if (s->error) return false;
    uint32_t there = __atomic_load_n(&shared_of(s)->rsp_prod, __ATOMIC_ACQUIRE) - s->rsp_cons;
    if (there > s->published - s->rsp_cons) return fault(s, "the response index jumps");
    return there > 0;
}

bool netif_sim_get_tx(struct netif_sim *s, uint16_t *id, int *status)
{
    while (is_there(s)) {
        struct netif_wire_tx_response w;
        memcpy(&w, entry_at(s, s->rsp_cons), sizeof w);
        uint16_t expected = s->id[s->rsp_cons & (NETIF_ENTRIES - 1)];
        bool null = w.status == 1, extra = expected == NETIF_SIM_EXTRA;
        if (null != extra || (!extra && w.id != expected)) return fault(s, "an answer that is not its request's");
        s->rsp_cons++;
        if (extra) continue;
        *id = w.id;
        *status = w.status;
        return true;
    }
    return false;
}

bool netif_sim_get_rx(struct netif_sim *s, struct netif_wire_rx_response *w, uint16_t *id)
{
    if (!is_there(s)) return false;
    memcpy(w, entry_at(s, s->rsp_cons), sizeof *w);
    *id = s->id[s->rsp_cons++ & (NETIF_ENTRIES - 1)];
    return true;
}

bool netif_sim_final_check(struct netif_sim *s)
{
    return xen_ring_final_check(&shared_of(s)->rsp_event, &shared_of(s)->rsp_prod, s->rsp_cons);
}
