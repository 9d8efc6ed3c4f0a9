/* SPDX-License-Identifier: Apache-2.0 */
/* The control ring of a Xen guest's card: hashing, pages that stay mapped, and what a guest can ask for that it must not get. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "vif/test_netif_control.h"

/* ---- hashing ---- */

/* The key and the values that Microsoft published for the verification of receive side scaling. */
static const uint8_t rss_key[40] = {0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
                                    0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
                                    0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

static const struct {
    uint8_t src[4], dst[4];
    uint16_t sport, dport;
    uint32_t ip, tcp;
} rss_cases[] = {
    {{66, 9, 149, 187}, {161, 142, 100, 80}, 2794, 1766, 0x323e8fc2, 0x51ccc178},
    {{199, 92, 111, 2}, {65, 69, 140, 83}, 14230, 4739, 0xd718262a, 0xc626b0ea},
    {{24, 19, 198, 95}, {12, 22, 207, 184}, 12898, 38024, 0xd2d0a5de, 0x5c2b394a},
    {{38, 27, 205, 30}, {209, 142, 163, 6}, 48228, 2217, 0x82989176, 0xafc7327f},
    {{153, 39, 163, 191}, {202, 188, 127, 2}, 44251, 1303, 0x5d1809c5, 0x10e828a2},
};

static uint8_t frame[256];

static struct packet make_frame(unsigned i, uint8_t proto)
{
    memset(frame, 0, sizeof frame);
    frame[12] = 8;
    frame[14] = 0x45;
    frame[17] = 60;
    frame[23] = proto;
    memcpy(frame + 26, rss_cases[i].src, 4);
    memcpy(frame + 30, rss_cases[i].dst, 4);
    frame[34] = (uint8_t)(rss_cases[i].sport >> 8), frame[35] = (uint8_t)rss_cases[i].sport;
    frame[36] = (uint8_t)(rss_cases[i].dport >> 8), frame[37] = (uint8_t)rss_cases[i].dport;
    frame[46] = 0x50;
    return (struct packet){.head = frame, .head_bytes = 100, .length_bytes = 100};
}

/* Where it arrives, and the hash that is told. */
static unsigned arrives(struct guest_control *g, struct packet *p, uint8_t *type, uint32_t *value)
{
    for (unsigned i = 0; i < g->bed.front.queues; i++) {
        netfront_post(&g->bed.front.queue[i], 4);
        netfront_publish_rx(&g->bed.front, &g->bed.front.queue[i]);
    }
    bed_deliver(&g->bed, &p, 1);
    for (unsigned i = 0; i < g->bed.front.queues; i++) {
        struct netif_wire_rx_response w;
        struct netif_wire_extra x = {0};
        uint16_t id;
        struct netfront_queue *q = &g->bed.front.queue[i];
        if (!netif_sim_get_rx(&q->rx, &w, &id)) continue;
        q->rx_free[q->rx_free_count++] = id;
        *type = 255;
        if (w.flags & NETIF_RX_EXTRA_INFO) {
            assert_true(netif_sim_get_rx(&q->rx, &w, &id));
            q->rx_free[q->rx_free_count++] = id;
            memcpy(&x, &w, sizeof x);
            assert_int_equal(x.type, NETIF_EXTRA_HASH);
            assert_int_equal(x.hash.algorithm, NETIF_HASH_TOEPLITZ);
            *type = x.hash.type;
            memcpy(value, x.hash.value, 4);
        }
        return i;
    }
    fail_msg("it is lost");
    return 0;
}

static void test_hash(void **state)
{
    struct guest_control g;
    uint32_t data, value = 0;
    uint8_t type;
    open_control(&g, 4);
    assert_int_equal(ask(&g, NETIF_CTRL_GET_HASH_FLAGS, 0, 0, 0, NULL), NETIF_CTRL_NOT_SUPPORTED);
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_FLAGS, 1, 0, 0, NULL), NETIF_CTRL_NOT_SUPPORTED);
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_ALGORITHM, 2, 0, 0, NULL), NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_ALGORITHM, NETIF_HASH_TOEPLITZ, 0, 0, NULL), NETIF_CTRL_SUCCESS);
    assert_int_equal(ask(&g, NETIF_CTRL_GET_HASH_FLAGS, 0, 0, 0, &data), NETIF_CTRL_SUCCESS);
    assert_int_equal(data, NETIF_HASH_ALL);
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_FLAGS, 16, 0, 0, NULL), NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_FLAGS, NETIF_HASH_ALL, 0, 0, NULL), NETIF_CTRL_SUCCESS);
    memcpy(list(&g), rss_key, sizeof rss_key);
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_KEY, g.list_ref, 41, 0, NULL), NETIF_CTRL_BUFFER_OVERFLOW);
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_KEY, 99999, 40, 0, NULL), NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_KEY, g.list_ref, 40, 0, NULL), NETIF_CTRL_SUCCESS);
    for (unsigned i = 0; i < 5; i++) {
        struct packet p = make_frame(i, 6);
        assert_int_equal(arrives(&g, &p, &type, &value), rss_cases[i].tcp % 4);
        assert_int_equal(type, 1);
        assert_int_equal(value, rss_cases[i].tcp);
        p = make_frame(i, 17);
        assert_int_equal(arrives(&g, &p, &type, &value), rss_cases[i].ip % 4);
        assert_int_equal(type, 0);
        assert_int_equal(value, rss_cases[i].ip);
    }
    /* A table. */
    assert_int_equal(ask(&g, NETIF_CTRL_GET_HASH_MAPPING_SIZE, 0, 0, 0, &data), NETIF_CTRL_SUCCESS);
    assert_int_equal(data, NETIF_HASH_MAPPING_MAX);
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_MAPPING_SIZE, 129, 0, 0, NULL), NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_MAPPING_SIZE, 10, 0, 0, NULL), NETIF_CTRL_SUCCESS);
    uint32_t *mapping = list(&g);
    for (unsigned i = 0; i < 10; i++)
        mapping[i] = 3;
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_MAPPING, g.list_ref, 10, 1, NULL), NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_MAPPING, g.list_ref, 1, UINT32_MAX, NULL),
                     NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_MAPPING, g.list_ref, UINT32_MAX, 1, NULL), NETIF_CTRL_BUFFER_OVERFLOW);
    mapping[4] = 4; /* there is no such queue: XSA-216's and 423's kind of trust */
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_MAPPING, g.list_ref, 10, 0, NULL), NETIF_CTRL_INVALID_PARAMETER);
    mapping[4] = 3;
    assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_MAPPING, g.list_ref, 10, 0, NULL), NETIF_CTRL_SUCCESS);
    for (unsigned i = 0; i < 5; i++) {
        struct packet p = make_frame(i, 6);
        assert_int_equal(arrives(&g, &p, &type, &value), 3);
    }
    /* A successor has it all; another front end does not. */
    bed_restart(&g.bed, NETIF_COPY);
    connect_all(&g, true);
    struct packet p = make_frame(0, 6);
    assert_int_equal(arrives(&g, &p, &type, &value), 3);
    assert_int_equal(value, rss_cases[0].tcp);
    netif_disconnect(g.bed.vif);
    connect_all(&g, true); /* whatever is said of it */
    p = make_frame(0, 6);
    arrives(&g, &p, &type, &value);
    assert_int_equal(type, 255);
    bed_close(&g.bed);
}

/* Which of the cases arrived here with its hash, a bit each; on the queue that its hash says. */
static unsigned cases_that_came(struct guest_control *g, unsigned queue)
{
    struct netfront_queue *q = &g->bed.front.queue[queue];
    struct netif_wire_rx_response w;
    struct netif_wire_extra x;
    uint32_t value;
    uint16_t id;
    unsigned seen = 0;
    while (netif_sim_get_rx(&q->rx, &w, &id)) {
        const uint8_t *bytes = sim_guest_page(g->bed.front.guest, q->rx_page[id]);
        unsigned i = 0;
        while (i < 5 && memcmp(bytes + 26, rss_cases[i].src, 4) != 0)
            i++;
        assert_in_range(i, 0, 4);
        q->rx_free[q->rx_free_count++] = id;
        assert_true(w.flags & NETIF_RX_EXTRA_INFO);
        assert_true(netif_sim_get_rx(&q->rx, &w, &id));
        q->rx_free[q->rx_free_count++] = id;
        memcpy(&x, &w, sizeof x);
        memcpy(&value, x.hash.value, 4);
        assert_int_equal(value, rss_cases[i].tcp);
        assert_int_equal(value % g->bed.front.queues, queue);
        seen |= 1u << i;
    }
    return seen;
}

/* Frames of a batch that go to several queues, some of which are beyond the limit, each with its own hash. */
static void test_hash_batch(void **state)
{
    static uint8_t bytes[5][100];
    struct packet p[5], *batch[5];
    struct guest_control g;
    open_control(&g, 4);
    memcpy(list(&g), rss_key, sizeof rss_key);
    ask(&g, NETIF_CTRL_SET_HASH_ALGORITHM, NETIF_HASH_TOEPLITZ, 0, 0, NULL);
    ask(&g, NETIF_CTRL_SET_HASH_FLAGS, NETIF_HASH_ALL, 0, 0, NULL);
    ask(&g, NETIF_CTRL_SET_HASH_KEY, g.list_ref, 40, 0, NULL);
    for (unsigned i = 0; i < 5; i++) {
        p[i] = make_frame(i, 6);
        memcpy(bytes[i], frame, sizeof bytes[i]);
        p[i].head = bytes[i];
        batch[i] = &p[i];
    }
    for (unsigned limit = 0; limit < 2; limit++) {
        unsigned seen = 0;
        if (limit) bucket_set(&g.bed.vif->to_guest, 0, 1); /* a second's: none but the first */
        for (unsigned i = 0; i < 4; i++) {
            netfront_post(&g.bed.front.queue[i], 20);
            netfront_publish_rx(&g.bed.front, &g.bed.front.queue[i]);
        }
        bed_deliver(&g.bed, batch, 5);
        for (unsigned i = 0; i < 4; i++)
            seen |= cases_that_came(&g, i);
        assert_int_equal(__builtin_popcount(seen), limit ? 1 : 5);
    }
    bed_close(&g.bed);
}

/* ---- pages that stay mapped ---- */

static void test_static(void **state)
{
    struct guest_control g;
    uint32_t data;
    open_control(&g, 1);
    struct netfront_queue *q = &g.bed.front.queue[0];
    struct netif_gref *grefs = list(&g);
    assert_int_equal(ask(&g, NETIF_CTRL_GET_GREF_MAPPING_SIZE, 1, 0, 0, NULL), NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(ask(&g, NETIF_CTRL_GET_GREF_MAPPING_SIZE, 0, 0, 0, &data), NETIF_CTRL_SUCCESS);
    assert_int_equal(data, NETIF_STATIC_MAX);
    unsigned maps = sim_maps_used(g.bed.sim);
    for (unsigned i = 0; i < 200; i++)
        grefs[i] = (struct netif_gref){i < 100 ? q->tx_grant[i] : q->rx_grant[i - 100], i < 100, 77};
    grefs[150].ref = 99999; /* all or none */
    assert_int_equal(ask(&g, NETIF_CTRL_ADD_GREF_MAPPING, 0, g.list_ref, 200, NULL), NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(sim_maps_used(g.bed.sim), maps);
    grefs[150].ref = q->rx_grant[50];
    assert_int_equal(ask(&g, NETIF_CTRL_ADD_GREF_MAPPING, 0, g.list_ref, 200, NULL), NETIF_CTRL_SUCCESS);
    assert_int_equal(sim_maps_used(g.bed.sim), maps + 200);
    assert_int_equal(ask(&g, NETIF_CTRL_ADD_GREF_MAPPING, 0, g.list_ref, 1, NULL),
                     NETIF_CTRL_INVALID_PARAMETER); /* twice */
    assert_int_equal(ask(&g, NETIF_CTRL_ADD_GREF_MAPPING, 0, g.list_ref, 513, NULL), NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(ask(&g, NETIF_CTRL_ADD_GREF_MAPPING, 1, g.list_ref, 1, NULL), NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(sim_revoke(g.bed.front.guest, q->tx_grant[5]), -EBUSY);

    /* Frames, some of whose pages are such and some not, both ways; also after a restart. */
    static uint8_t sent[30000], seen[65536];
    for (unsigned i = 0; i < 300; i++) {
        struct packet *packets[PACKET_BATCH];
        struct netfront_send plain = {0};
        for (unsigned k = 0; k < sizeof sent; k++)
            sent[k] = (uint8_t)(k * 7 + i);
        uint32_t length = 100 + i * 99;
        if (i == 150) {
            bed_restart(&g.bed, NETIF_COPY);
            connect_all(&g, true);
            assert_int_equal(sim_maps_used(g.bed.sim), maps + 200);
        }
        assert_true(netfront_add(&g.bed.front, q, sent, length, &plain));
        netfront_publish_tx(&g.bed.front, q);
        assert_int_equal(bed_receive(&g.bed, 0, packets), 1);
        packet_read(packets[0], 0, seen, length);
        assert_memory_equal(seen, sent, length);
        netfront_post(q, 200);
        netfront_publish_rx(&g.bed.front, q);
        bed_deliver(&g.bed, packets, 1);
        bed_release(&g.bed, 0);
        netfront_reap(q);
        struct netfront_frame f = {.bytes = seen};
        assert_true(netfront_get(&g.bed.front, q, &f));
        assert_int_equal(f.status, 0);
        assert_int_equal(f.length, length);
        assert_memory_equal(seen, sent, length);
    }
    assert_int_equal(q->failed, 0);

    /* Taken back: those that there are. */
    grefs[1].ref = 99999;
    assert_int_equal(ask(&g, NETIF_CTRL_DEL_GREF_MAPPING, 0, g.list_ref, 3, &data), NETIF_CTRL_SUCCESS);
    assert_int_equal(data, 2);
    assert_int_equal(grefs[0].status, NETIF_CTRL_SUCCESS);
    assert_int_equal(grefs[1].status, NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(sim_maps_used(g.bed.sim), maps + 198);
    assert_int_equal(sim_revoke(g.bed.front.guest, q->tx_grant[0]), 0);
    bed_close(&g.bed);
}

static unsigned mapped_pages;
static const struct xen_ops *real_ops;

static void count_maps(struct xen *x, xen_domid domid, struct xen_map *maps, unsigned count, bool writable)
{
    mapped_pages += count;
    real_ops->map(x, domid, maps, count, writable);
}

static void request_at(struct guest_control *g, unsigned i, unsigned type, unsigned count)
{
    struct netif_ctrl_request q = {.id = (uint16_t)i, .type = (uint16_t)type, .data = {0, g->list_ref, count}};
    memcpy(entry(g, g->asked + i), &q, sizeof q);
}

/* Lists that are no good cost little, and however long they are, the control thread goes on with others soon. */
static void test_static_price(void **state)
{
    struct guest_control g;
    open_control(&g, 1);
    struct netfront_queue *q = &g.bed.front.queue[0];
    struct xen_ring *ring = sim_guest_page(g.bed.front.guest, g.page);
    struct netif_gref *grefs = list(&g);
    struct xen *x = g.bed.vif->netif->control.xen;
    real_ops = x->ops;
    struct xen_ops counting = *real_ops;
    counting.map = count_maps;
    x->ops = &counting;
    for (unsigned i = 0; i < NETIF_STATIC_MAX; i++)
        grefs[i].ref = i < NETIF_ENTRIES ? q->tx_grant[i] : q->rx_grant[i - NETIF_ENTRIES];
    uint32_t last = grefs[NETIF_STATIC_MAX - 1].ref;
    grefs[NETIF_STATIC_MAX - 1].ref = grefs[0].ref;
    for (unsigned i = 0; i < NETIF_STATIC_MAX; i++)
        grefs[i].flags = NETIF_GREF_READONLY;
    assert_int_equal(ask(&g, NETIF_CTRL_ADD_GREF_MAPPING, 0, g.list_ref, NETIF_STATIC_MAX, NULL),
                     NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(mapped_pages, 0);
    grefs[NETIF_STATIC_MAX - 1].ref = last;
    for (unsigned i = 0; i < 20; i++)
        request_at(&g, i, i % 2 ? NETIF_CTRL_DEL_GREF_MAPPING : NETIF_CTRL_ADD_GREF_MAPPING, NETIF_STATIC_MAX);
    ring->req_prod = g.asked + 20;
    unsigned turns = 0;
    for (bool more = true; more; turns++) {
        unsigned before = mapped_pages;
        more = netif_control_serve(g.bed.vif);
        assert_true(mapped_pages - before <= NETIF_STATIC_MAX);
    }
    assert_true(turns >= 20);
    assert_int_equal(mapped_pages, 10 * NETIF_STATIC_MAX);
    assert_int_equal(ring->rsp_prod, g.asked + 20);
    x->ops = real_ops;
    bed_close(&g.bed);
}

/* Nor does a guest get more by asking for a little, again and again, as soon as it has its answer. */
static void test_pace(void **state)
{
    struct guest_control g;
    open_control(&g, 1);
    struct netfront_queue *q = &g.bed.front.queue[0];
    struct netif_gref *grefs = list(&g);
    for (unsigned i = 0; i < NETIF_ENTRIES; i++)
        grefs[i] = (struct netif_gref){.ref = q->rx_grant[i]};
    uint64_t begun_ns = clock_now_ns();
    for (unsigned i = 0; i < 10 * NETIF_CONTROL_REQUESTS; i++)
        assert_int_equal(ask(&g, NETIF_CTRL_SET_HASH_ALGORITHM, NETIF_HASH_TOEPLITZ, 0, 0, NULL), NETIF_CTRL_SUCCESS);
    assert_true(clock_now_ns() - begun_ns >= 9 * NETIF_CONTROL_PAUSE_NS);
    begun_ns = clock_now_ns();
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(ask(&g, i % 2 ? NETIF_CTRL_DEL_GREF_MAPPING : NETIF_CTRL_ADD_GREF_MAPPING, 0, g.list_ref,
                             NETIF_ENTRIES, NULL),
                         NETIF_CTRL_SUCCESS);
    assert_true(clock_now_ns() - begun_ns >= 9 * NETIF_CONTROL_PAUSE_NS);
    bed_close(&g.bed);
}

static void test_nonsense(void **state)
{
    struct guest_control g;
    open_control(&g, 2);
    for (unsigned type = 0; type < 70; type++) {
        uint32_t status = ask(&g, type, UINT32_MAX, UINT32_MAX, UINT32_MAX, NULL);
        if (type == 0 || type > 10) assert_int_equal(status, NETIF_CTRL_NOT_SUPPORTED);
        else if (type != NETIF_CTRL_GET_HASH_MAPPING_SIZE) assert_int_not_equal(status, NETIF_CTRL_SUCCESS);
    }
    struct xen_ring *ring = sim_guest_page(g.bed.front.guest, g.page);
    ring->req_prod += NETIF_CTRL_ENTRIES + 1;
    assert_false(netif_control_serve(g.bed.vif));
    ring->req_prod = g.asked + 1;
    assert_false(netif_control_serve(g.bed.vif)); /* it stays so */
    assert_null(vif_broken(g.bed.vif));           /* its frames do not suffer */
    /* Many at once are carried out a few at a time. */
    netif_disconnect(g.bed.vif);
    connect_all(&g, true);
    for (unsigned i = 0; i < 100; i++) {
        struct netif_ctrl_request q = {.id = (uint16_t)i, .type = NETIF_CTRL_GET_HASH_MAPPING_SIZE};
        memcpy(entry(&g, g.asked + i), &q, sizeof q);
    }
    ring->req_prod = g.asked + 100;
    unsigned turns = 1;
    for (; netif_control_serve(g.bed.vif); turns++) {
    }
    assert_true(turns > 5);
    assert_int_equal(ring->rsp_prod, g.asked + 100);
    /* What cannot be connected leaves nothing. */
    netif_disconnect(g.bed.vif);
    struct errmsg e = {""};
    struct netif_queue_setup setup[2];
    netfront_setup(&g.bed.front, setup);
    struct netif_control_setup bad[] = {{99999, (uint32_t)g.port}, {g.ref, 99999}};
    for (unsigned i = 0; i < 2; i++) {
        assert_true(netif_connect(g.bed.vif, &bed_takes_all, setup, 2, &bad[i], false, &e) < 0);
        assert_int_equal(sim_maps_used(g.bed.sim), 0);
        assert_int_equal(sim_ports_used(g.bed.sim, SIM_HOST), 0);
    }
    bed_close(&g.bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash),         cmocka_unit_test(test_hash_batch), cmocka_unit_test(test_static),
        cmocka_unit_test(test_static_price), cmocka_unit_test(test_pace),       cmocka_unit_test(test_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
