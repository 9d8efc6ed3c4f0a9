/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation of a Xen guest's card fails once, and of a connection all that the hypervisor does: what could not be made leaves
 * nothing, and is made the next time. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/test_alloc.h"
#include "guest/test_failing_xen.h"
#include "ring/netif_wire.h"
#include "vif/test_netif.h"

static void fail_at(unsigned n)
{
    alloc_failed = false;
    alloc_countdown = n;
}

/* It works: a frame comes and goes, on each queue. */
static void use(struct netif_bed *b)
{
    static uint8_t frame[20000], got[65536];
    for (unsigned i = 0; i < b->front.queues; i++) {
        struct netfront_queue *q = &b->front.queue[i];
        struct packet *packets[PACKET_BATCH];
        struct netfront_send plain = {0};
        frame[0] = 2;
        assert_true(netfront_add(&b->front, q, frame, sizeof frame, &plain));
        netfront_publish_tx(&b->front, q);
        assert_int_equal(bed_receive(b, i, packets), 1);
        for (unsigned k = 0; k < b->front.queues; k++) {
            netfront_post(&b->front.queue[k], 10);
            netfront_publish_rx(&b->front, &b->front.queue[k]);
        }
        bed_deliver(b, packets, 1);
        bed_release(b, i);
        assert_int_equal(netfront_reap(q), 5);
        unsigned frames = 0;
        for (unsigned k = 0; k < b->front.queues; k++) {
            struct netfront_frame f = {.bytes = got};
            if (!netfront_get(&b->front, &b->front.queue[k], &f)) continue;
            assert_int_equal(f.length, sizeof frame);
            frames++;
        }
        assert_int_equal(frames, 1);
    }
}

static void test_cards(void **state)
{
    bool done = false;
    for (unsigned n = 1; !done; n++) {
        struct netif_bed b;
        struct errmsg e = {""};
        bed_open(&b, 2, true, NETIF_MAP, &bed_takes_all);
        vif_free(b.vif);
        b.vif = NULL;
        fail_at(n);
        int ret = bed_card_try(&b, 2, NETIF_MAP, &e);
        alloc_countdown = 0;
        assert_true(ret == 0 || (alloc_failed && e.text[0]));
        assert_int_equal(atomic_load(&b.mappers), ret == 0);
        if (ret) bed_card_new(&b, 2, NETIF_MAP);
        bed_connect(&b, &bed_takes_all, true);
        use(&b);
        bed_close(&b);
        done = !alloc_failed;
    }
}

/* ---- with a control ring ---- */

struct control {
    struct netif_bed bed;
    struct netif_control_setup setup;
    struct xen_ring *ring;
    uint32_t list_ref;
    void *list;
};

static uint32_t page_new(struct netif_bed *b, void *page)
{
    int64_t frame = sim_page_take(b->front.guest);
    assert_true(frame >= 0);
    *(void **)page = sim_guest_page(b->front.guest, (uint32_t)frame);
    return (uint32_t)sim_grant(b->front.guest, SIM_HOST, (uint32_t)frame, false);
}

static int connect_all(struct control *c)
{
    struct errmsg e = {""};
    struct netif_queue_setup setup[NETFRONT_QUEUES_MAX];
    netfront_setup(&c->bed.front, setup);
    return netif_connect(c->bed.vif, &bed_takes_all, setup, c->bed.front.queues, &c->setup, true, &e);
}

static void open_control(struct control *c)
{
    bed_open(&c->bed, 2, true, NETIF_COPY, &bed_takes_all);
    netif_disconnect(c->bed.vif);
    c->setup.ref = page_new(&c->bed, &c->ring);
    c->list_ref = page_new(&c->bed, &c->list);
    c->setup.port = (uint32_t)sim_port_alloc(c->bed.front.guest, SIM_HOST);
    memset(c->ring, 0, XEN_PAGE_BYTES);
    c->ring->req_event = c->ring->rsp_event = 1;
    assert_int_equal(connect_all(c), 0);
}

static uint32_t ask(struct control *c, unsigned type, uint32_t first, uint32_t second, uint32_t third)
{
    struct netif_ctrl_request q = {1, (uint16_t)type, {first, second, third}};
    struct netif_ctrl_response r;
    void *at = (char *)(c->ring + 1) + c->ring->req_prod % NETIF_CTRL_ENTRIES * sizeof q;
    memcpy(at, &q, sizeof q);
    c->ring->req_prod++;
    while (netif_control_serve(c->bed.vif)) {
    }
    memcpy(&r, at, sizeof r);
    return r.status;
}

static uint32_t set_all(struct control *c)
{
    struct netif_gref *list = c->list;
    for (unsigned i = 0; i < 8; i++)
        list[i] = (struct netif_gref){.ref = c->bed.front.queue[0].rx_grant[i]};
    uint32_t failures = ask(c, NETIF_CTRL_SET_HASH_ALGORITHM, NETIF_HASH_TOEPLITZ, 0, 0);
    failures += ask(c, NETIF_CTRL_SET_HASH_FLAGS, NETIF_HASH_ALL, 0, 0);
    return failures + ask(c, NETIF_CTRL_ADD_GREF_MAPPING, 0, c->list_ref, 8);
}

static void test_requests(void **state)
{
    bool done = false;
    for (unsigned n = 1; !done; n++) {
        struct control c;
        open_control(&c);
        fail_at(n);
        uint32_t failures = set_all(&c);
        alloc_countdown = 0;
        done = !alloc_failed;
        assert_int_equal(failures > 0, alloc_failed);
        use(&c.bed);
        if (failures) assert_int_equal(ask(&c, NETIF_CTRL_SET_HASH_FLAGS, NETIF_HASH_ALL, 0, 0), NETIF_CTRL_SUCCESS);
        assert_non_null(atomic_load(&c.bed.vif->netif->hash));
        fail_at(1); /* a list that cannot be copied loses nothing */
        uint32_t count = c.bed.state->queue[0].static_count;
        ask(&c, NETIF_CTRL_DEL_GREF_MAPPING, 0, c.list_ref, 8);
        alloc_countdown = 0;
        assert_int_equal(c.bed.state->queue[0].static_count, count);
        use(&c.bed);
        bed_close(&c.bed);
    }
}

/* What the hypervisor is asked for fails, too. */
static void xen_may_fail(struct control *c, struct xen_ops *ops)
{
    struct netif_card *card = c->bed.vif->netif;
    *ops = failing_xen(card->control.xen->ops);
    card->control.xen->ops = ops;
    for (unsigned i = 0; i < c->bed.front.queues; i++)
        card->queue[i].xen->ops = ops;
}

/* What was set comes back with the connection; if not, frames go on without it. */
static void test_connections(void **state)
{
    struct xen_ops ops;
    bool done = false;
    for (unsigned n = 1; !done; n++) {
        struct control c;
        open_control(&c);
        assert_int_equal(set_all(&c), 0);
        bed_restart(&c.bed, NETIF_COPY);
        xen_may_fail(&c, &ops);
        fail_at(n);
        int ret = connect_all(&c);
        alloc_countdown = 0;
        done = !alloc_failed;
        assert_true(ret == 0 || ((ret == -ENOMEM || ret == -EINVAL) && alloc_failed));
        if (ret) {
            assert_int_equal(sim_maps_used(c.bed.sim), 0);
            assert_int_equal(sim_ports_used(c.bed.sim, SIM_HOST), 0);
            assert_int_equal(connect_all(&c), 0);
        }
        if (ret || !alloc_failed) {
            assert_non_null(atomic_load(&c.bed.vif->netif->hash));
            assert_int_equal(netif_static_count(atomic_load(&c.bed.vif->netif->queue[0].pages)), 8);
        }
        use(&c.bed);
        bed_close(&c.bed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cards),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
