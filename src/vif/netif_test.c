/* SPDX-License-Identifier: Apache-2.0 */
/* Frames through a Xen guest's card, on a simulated machine: both ways, byte for byte, whatever the shape of the pieces. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "vif/netif_impl.h"
#include "vif/test_card.h"
#include "vif/test_netfront.h"

#ifdef CREEDENCE_SANITIZED
#define BATCHES 200u
#else
#define BATCHES 3000u
#endif
#define DOMID 7

struct bed {
    char dir[64];
    struct sim *sim;
    struct xen_budget budget;
    struct vif_kept kept;
    struct netif_state *state;
    struct vif *vif;
    struct netfront front;
};

static uint64_t seed = 1;

static uint64_t pick(uint64_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % below;
}

static int open_door(void *arg, struct xen **out, struct errmsg *e)
{
    struct bed *b = arg;
    return sim_xen_open(out, b->sim, &b->budget, false, e);
}

static void card_new(struct bed *b, unsigned queues, enum netif_transmit transmit)
{
    struct errmsg e = {""};
    struct netif_config xen = {.domid = DOMID, .transmit = transmit, .open = open_door, .arg = b, .state = b->state};
    struct vif_config c = {
        .name = "x", .mac = {2}, .mtu = 1500, .queue_pairs = queues, .offloads = true, .kept = &b->kept, .xen = &xen};
    if (vif_new(&b->vif, &c, &card_runners, &e)) fail_msg("%s", e.text);
}

static const struct netif_front takes_all = {
    .sg = true, .csum_offload = true, .csum_offload6 = true, .gso_tcp4 = true, .gso_tcp6 = true};

static void connect_front(struct bed *b, const struct netif_front *front, bool resume)
{
    struct errmsg e = {""};
    struct netif_queue_setup setup[NETFRONT_QUEUES_MAX];
    netfront_setup(&b->front, setup);
    if (netif_connect(b->vif, front, setup, b->front.queues, resume, &e)) fail_msg("%s", e.text);
}

static void bed_open(struct bed *b, unsigned queues, bool split, enum netif_transmit transmit,
                     const struct netif_front *front)
{
    struct errmsg e = {""};
    memset(b, 0, sizeof *b);
    strcpy(b->dir, "/tmp/creedence-netif-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    b->budget.max = 100000;
    b->state = calloc(1, netif_state_bytes(queues));
    struct sim_options o = {.abi = SIM_FIFO};
    if (sim_create(&b->sim, b->dir, &o, &e)) fail_msg("%s", e.text);
    assert_int_equal(netfront_open(&b->front, b->sim, DOMID, queues, split), 0);
    card_new(b, queues, transmit);
    connect_front(b, front, false);
}

static void bed_close(struct bed *b)
{
    vif_free(b->vif);
    assert_int_equal(sim_maps_used(b->sim), 0);
    assert_int_equal(sim_ports_used(b->sim, SIM_HOST), 0);
    assert_int_equal(atomic_load(&b->budget.used), 0);
    netfront_close(&b->front);
    sim_detach(b->sim);
    sim_remove(b->dir);
    free(b->state);
}

static int receive(struct bed *b, unsigned queue, struct packet **out)
{
    struct port_source *s = &b->vif->netif->queue[queue].source;
    return s->ops->receive(s, out, PACKET_BATCH, NULL);
}

static void release(struct bed *b, unsigned queue)
{
    struct port_source *s = &b->vif->netif->queue[queue].source;
    s->ops->release(s);
}

static void fill_random(uint8_t *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)pick(256);
    to[12] = to[13] = 0; /* no type that anybody knows */
}

static uint32_t random_length(void)
{
    switch (pick(5)) {
    case 0: return 14 + (uint32_t)pick(20);
    case 1: return 60 + (uint32_t)pick(10);
    case 2: return 250 + (uint32_t)pick(20); /* about the head's end */
    case 3: return 1000 + (uint32_t)pick(600);
    default: return 14 + (uint32_t)pick(65535 - 14);
    }
}

/* What a guest sends is what comes out, and goes into it again. */
static void oracle(enum netif_transmit transmit, bool split)
{
    static uint8_t sent[4][65536], seen[65536];
    struct bed b;
    bed_open(&b, 1, split, transmit, &takes_all);
    struct netfront_queue *q = &b.front.queue[0];
    for (unsigned batch = 0; batch < BATCHES; batch++) {
        struct packet *packets[PACKET_BATCH];
        uint32_t length[4];
        unsigned count = 1 + (unsigned)pick(4);
        for (unsigned i = 0; i < count; i++) {
            length[i] = random_length();
            fill_random(sent[i], length[i]);
            struct netfront_send how = {.offset = (uint16_t)(length[i] < 60000 ? pick(100) : 0)};
            if (length[i] < 2000) how.piece_bytes = length[i] / 15 + 1 + (unsigned)pick(500);
            assert_true(netfront_add(&b.front, q, sent[i], length[i], &how));
        }
        netfront_publish_tx(&b.front, q);
        netfront_post(q, NETIF_ENTRIES);
        netfront_publish_rx(&b.front, q);
        int n = receive(&b, 0, packets);
        assert_int_equal(n, count);
        for (unsigned i = 0; i < count; i++) {
            assert_int_equal(packets[i]->length_bytes, length[i]);
            packet_read(packets[i], 0, seen, length[i]);
            assert_memory_equal(seen, sent[i], length[i]);
        }
        vif_port(b.vif)->ops->send(vif_port(b.vif), packets, count, NULL);
        assert_int_equal(netfront_reap(q), 0);
        release(&b, 0);
        netfront_reap(q);
        for (unsigned i = 0; i < count; i++) {
            struct netfront_frame f = {.bytes = seen};
            assert_true(netfront_get(&b.front, q, &f));
            assert_int_equal(f.status, 0);
            assert_int_equal(f.length, length[i]);
            assert_int_equal(f.flags & ~NETIF_RX_MORE_DATA, 0);
            assert_memory_equal(seen, sent[i], length[i]);
        }
        assert_null(q->tx.error);
        assert_null(q->rx.error);
    }
    assert_int_equal(q->sent, q->answered);
    assert_int_equal(q->failed, 0);
    assert_null(vif_broken(b.vif));
    bed_close(&b);
}

static void test_copied(void **state)
{
    oracle(NETIF_COPY, true);
}

static void test_mapped(void **state)
{
    oracle(NETIF_MAP, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copied),
        cmocka_unit_test(test_mapped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
