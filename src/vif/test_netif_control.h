/* SPDX-License-Identifier: Apache-2.0 */
/* A Xen guest's card with a control ring (test_netif.h has the rest), and the guest's side of it. */
#ifndef VIF_TEST_NETIF_CONTROL_H
#define VIF_TEST_NETIF_CONTROL_H

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "ring/netif_wire.h"
#include "vif/test_netif.h"

struct guest_control {
    struct netif_bed bed;
    uint32_t page, ref, list_page, list_ref;
    int port;
    uint32_t asked;
    uint16_t id;
};

static inline uint32_t page_new(struct netif_bed *b, uint32_t *page)
{
    int64_t frame = sim_page_take(b->front.guest);
    assert_true(frame >= 0);
    *page = (uint32_t)frame;
    int64_t ref = sim_grant(b->front.guest, SIM_HOST, *page, false);
    assert_true(ref >= 0);
    return (uint32_t)ref;
}

static inline void connect_all(struct guest_control *g, bool resume)
{
    struct errmsg e = {""};
    struct netif_queue_setup setup[NETFRONT_QUEUES_MAX];
    struct netif_control_setup control = {g->ref, (uint32_t)g->port};
    netfront_setup(&g->bed.front, setup);
    int ret = netif_connect(g->bed.vif, &bed_takes_all, setup, g->bed.front.queues, &control, resume, &e);
    if (ret) fail_msg("%s", e.text);
}

static inline void open_control(struct guest_control *g, unsigned queues)
{
    memset(g, 0, sizeof *g);
    bed_open(&g->bed, queues, true, NETIF_COPY, &bed_takes_all);
    netif_disconnect(g->bed.vif);
    g->ref = page_new(&g->bed, &g->page);
    g->list_ref = page_new(&g->bed, &g->list_page);
    g->port = sim_port_alloc(g->bed.front.guest, SIM_HOST);
    struct xen_ring *ring = sim_guest_page(g->bed.front.guest, g->page);
    memset(ring, 0, XEN_PAGE_BYTES);
    ring->req_event = ring->rsp_event = 1;
    connect_all(g, false);
    assert_true(netif_control_fd(g->bed.vif) >= 0);
}

static inline char *entry(struct guest_control *g, uint32_t index)
{
    return (char *)sim_guest_page(g->bed.front.guest, g->page) + sizeof(struct xen_ring) +
           index % NETIF_CTRL_ENTRIES * sizeof(struct netif_ctrl_request);
}

static inline void put_request(struct guest_control *g, unsigned type, uint32_t a, uint32_t b, uint32_t c)
{
    struct xen_ring *ring = sim_guest_page(g->bed.front.guest, g->page);
    struct netif_ctrl_request q = {++g->id, (uint16_t)type, {a, b, c}};
    memcpy(entry(g, g->asked), &q, sizeof q);
    ring->req_prod = g->asked + 1;
}

static inline uint32_t answered(struct guest_control *g, uint32_t *data)
{
    struct xen_ring *ring = sim_guest_page(g->bed.front.guest, g->page);
    struct netif_ctrl_request q;
    struct netif_ctrl_response r;
    memcpy(&q, entry(g, g->asked), sizeof q);
    while (netif_control_serve(g->bed.vif)) {
    }
    assert_int_equal(ring->rsp_prod, g->asked + 1);
    memcpy(&r, entry(g, g->asked), sizeof r);
    assert_int_equal(r.id, q.id);
    assert_int_equal(r.type, q.type);
    g->asked++;
    if (data) *data = r.data;
    return r.status;
}

static inline uint32_t ask(struct guest_control *g, unsigned type, uint32_t a, uint32_t b, uint32_t c, uint32_t *data)
{
    put_request(g, type, a, b, c);
    return answered(g, data);
}

static inline void *list(struct guest_control *g)
{
    return sim_guest_page(g->bed.front.guest, g->list_page);
}

/* The process ends, another one takes its place. */
static inline void restart(struct guest_control *g)
{
    bed_restart(&g->bed, NETIF_COPY);
    connect_all(g, true);
}

#endif
