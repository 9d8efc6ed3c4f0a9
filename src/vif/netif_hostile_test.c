/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Xen guest that lies to its card: grants that fail, headers that are not what is said of them, a receiver that takes nothing, one
 * that is gone; and thousands of connections. The ring's own rules have ring/netif_hostile_test.c.
 */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vif/test_netif.h"

#ifdef CREEDENCE_SANITIZED
#define ROUNDS 300u
#else
#define ROUNDS 3000u
#endif

static uint64_t seed = 1;

static uint64_t pick(uint64_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % below;
}

static _Alignas(XEN_PAGE_BYTES) uint8_t frame[65536]; /* where it lies decides how many pages of a receiver it takes */

static void add(struct netif_bed *b, uint32_t length, const struct netfront_send *how)
{
    assert_true(netfront_add(&b->front, &b->front.queue[0], frame, length, how));
}

static void publish(struct netif_bed *b)
{
    netfront_publish_tx(&b->front, &b->front.queue[0]);
}

/* XSA-361's kind: each grant of a frame in turn is none; its neighbours are not harmed, and nothing of it stays mapped. */
static void grants(enum netif_transmit transmit)
{
    for (unsigned bad = 0; bad < 5; bad++) {
        struct netif_bed b;
        struct packet *packets[PACKET_BATCH];
        bed_open(&b, 1, true, transmit, &bed_takes_all);
        struct netfront_queue *q = &b.front.queue[0];
        struct netfront_send plain = {0};
        add(&b, 100, &plain);
        uint32_t at = q->tx.req_prod + bad;
        add(&b, 20000, &plain);
        add(&b, 9000, &plain);
        uint16_t id = q->tx.id[at % NETIF_ENTRIES];
        assert_int_equal(sim_revoke(b.front.guest, q->tx_grant[id]), 0);
        publish(&b);
        assert_int_equal(bed_receive(&b, 0, packets), 2);
        assert_int_equal(packets[0]->length_bytes, 100);
        assert_int_equal(packets[1]->length_bytes, 9000);
        bed_release(&b, 0);
        netfront_reap(q);
        assert_int_equal(q->answered, 9);
        assert_int_equal(q->failed, 5);
        assert_int_equal(sim_maps_used(b.sim), 2); /* the rings */
        assert_null(q->tx.error);
        assert_null(vif_broken(b.vif));
        bed_close(&b);
    }
}

static void test_grants_copied(void **state)
{
    grants(NETIF_COPY);
}

static void test_grants_mapped(void **state)
{
    grants(NETIF_MAP);
}

/* No entries are left in the map-track table, or in our part of it: frames are copied, all the same. */
static void test_no_maps(void **state)
{
    struct netif_bed b;
    struct packet *packets[PACKET_BATCH];
    bed_open(&b, 1, true, NETIF_MAP, &bed_takes_all);
    for (unsigned max = 2; max < 12; max++) {
        b.budget.max = max; /* two are the rings' */
        struct netfront_send plain = {0};
        for (unsigned i = 0; i < 20000; i++)
            frame[i] = (uint8_t)pick(256);
        add(&b, 20000, &plain);
        publish(&b);
        assert_int_equal(bed_receive(&b, 0, packets), 1);
        static uint8_t seen[65536];
        packet_read(packets[0], 0, seen, 20000);
        assert_memory_equal(seen, frame, 20000);
        bed_release(&b, 0);
        netfront_reap(&b.front.queue[0]);
    }
    assert_int_equal(b.front.queue[0].failed, 0);
    bed_close(&b);
}

/* As many pieces as a ring takes, none of which can be mapped: each is copied twice, which is what the tables are for. More than the
 * ring has entries there never are, whatever its index says. */
static void test_most_pieces(void **state)
{
    struct netif_bed b;
    struct packet *packets[PACKET_BATCH];
    static uint8_t seen[65536];
    struct netfront_send how = {.piece_bytes = 14};
    bed_open(&b, 1, true, NETIF_MAP, &bed_takes_all);
    struct netfront_queue *q = &b.front.queue[0];
    const struct netif_tx_side *t = &b.vif->netif->queue[0].tx;
    b.budget.max = 0;
    for (unsigned i = 0; i < 280; i++)
        frame[i] = (uint8_t)pick(256);
    for (unsigned i = 0; i < 12; i++)
        add(&b, 280, &how);
    how.piece_bytes = 19;
    add(&b, 270, &how);
    publish(&b);
    assert_int_equal(bed_receive(&b, 0, packets), 13);
    assert_int_equal(t->map_count, 12 * 2 + 2); /* what lies behind the head only */
    assert_int_equal(t->copy_count, 12 * (19 + 20) + 14 + 15);
    for (unsigned i = 0; i < 12; i++) {
        packet_read(packets[i], 0, seen, 280);
        assert_memory_equal(seen, frame, 280);
    }
    bed_release(&b, 0);
    netfront_reap(q);
    assert_int_equal(q->failed, 0);
    /* An index that runs ahead while a batch is under way. */
    for (unsigned i = 0; i < 12; i++)
        add(&b, 270, &how);
    publish(&b);
    assert_int_equal(bed_receive(&b, 0, packets), 12);
    struct xen_ring *ring = q->tx.ring;
    ring->req_prod += NETIF_ENTRIES;
    struct netif_tx_frame f;
    struct netif_slot slots[NETIF_SLOTS_MAX];
    assert_int_equal(netif_tx_pop(t->ring, &f, slots), -EPROTO);
    bed_release(&b, 0);
    bed_close(&b);
}

/* Headers in many tiny pieces (XSA-423's and CVE-2023-34319's kind): as long as there are not too many, they are one frame's, with every byte
 * in its place, whether it is copied whole or what lies behind the head is mapped. */
static void tiny_pieces(enum netif_transmit transmit)
{
    struct netif_bed b;
    struct packet *packets[PACKET_BATCH];
    static uint8_t seen[65536];
    bed_open(&b, 1, true, transmit, &bed_takes_all);
    struct netfront_queue *q = &b.front.queue[0];
    for (unsigned i = 0; i < 400; i++)
        frame[i] = (uint8_t)pick(256);
    for (unsigned length = 14; length < 400; length++) {
        struct netfront_send how = {.piece_bytes = 1 + length / 21, .offset = (uint16_t)(length * 9)};
        unsigned pieces = (length + how.piece_bytes - 1) / how.piece_bytes;
        bool taken = pieces <= NETIF_SLOTS_MAX;
        uint64_t failed = q->failed;
        add(&b, length, &how);
        publish(&b);
        assert_int_equal(bed_receive(&b, 0, packets), taken);
        if (taken) {
            assert_int_equal(packets[0]->length_bytes, length);
            packet_read(packets[0], 0, seen, length);
            assert_memory_equal(seen, frame, length);
            bed_release(&b, 0);
        }
        netfront_reap(q);
        assert_int_equal(q->failed - failed, taken ? 0 : pieces);
    }
    bed_close(&b);
}

static void test_tiny_pieces(void **state)
{
    tiny_pieces(NETIF_COPY);
    tiny_pieces(NETIF_MAP);
}

/* XSA-155: what is parsed is ours. A guest that writes over its pages once its frame was taken changes what is mapped of it, and nothing else. */
static void test_heads_are_copies(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        bool mapped = i & 1;
        struct netif_bed b;
        struct packet *packets[PACKET_BATCH];
        static uint8_t seen[65536];
        bed_open(&b, 1, true, mapped ? NETIF_MAP : NETIF_COPY, &bed_takes_all);
        struct netfront_queue *q = &b.front.queue[0];
        for (unsigned k = 0; k < 5000; k++)
            frame[k] = (uint8_t)pick(255);
        struct netfront_send how = {.piece_bytes = 1000, .head_bytes = i & 2 ? 100 : 0};
        add(&b, 5000, &how);
        publish(&b);
        assert_int_equal(bed_receive(&b, 0, packets), 1);
        for (unsigned k = 0; k < NETIF_ENTRIES; k++)
            memset(sim_guest_page(b.front.guest, q->tx_page[k]), 255, XEN_PAGE_BYTES);
        assert_int_equal(packets[0]->head_bytes, PACKET_HEAD_BYTES);
        assert_memory_equal(packets[0]->head, frame, PACKET_HEAD_BYTES);
        packet_read(packets[0], 0, seen, 5000);
        if (mapped) memset(frame + PACKET_HEAD_BYTES, 255, 5000 - PACKET_HEAD_BYTES);
        assert_memory_equal(seen, frame, 5000);
        bed_release(&b, 0);
        bed_close(&b);
    }
}

static void put16(unsigned at, unsigned v)
{
    frame[at] = (uint8_t)(v >> 8);
    frame[at + 1] = (uint8_t)v;
}

static void tcp_frame(unsigned version, unsigned proto)
{
    memset(frame, 0, 4000);
    put16(12, version == 4 ? 0x0800 : 0x86dd);
    unsigned l4 = version == 4 ? 34 : 54;
    frame[14] = version == 4 ? 0x45 : 0x60;
    if (version == 4) frame[23] = (uint8_t)proto;
    else frame[20] = (uint8_t)proto;
    put16(version == 4 ? 16 : 18, 4000 - (version == 4 ? 14 : 54));
    frame[l4 + 12] = 0x50;
}

/* What is said of a frame, and what it is. */
static void test_headers(void **state)
{
    static const struct {
        unsigned version, proto;
        uint8_t gso;
        uint16_t flags, gso_size;
        bool taken;
    } cases[] = {
        {4, 6, NETIF_GSO_TCP4, NETIF_TX_CSUM_BLANK, 1448, true},
        {6, 6, NETIF_GSO_TCP6, NETIF_TX_CSUM_BLANK, 1428, true},
        {4, 6, NETIF_GSO_TCP4, 0, 1448, true}, /* the checksum is missing, whether it says so or not */
        {4, 6, NETIF_GSO_TCP6, NETIF_TX_CSUM_BLANK, 1448, false},
        {6, 6, NETIF_GSO_TCP4, NETIF_TX_CSUM_BLANK, 1448, false},
        {4, 17, NETIF_GSO_TCP4, NETIF_TX_CSUM_BLANK, 1448, false},
        {4, 6, NETIF_GSO_TCP4, NETIF_TX_CSUM_BLANK, 1, false}, /* XSA-216's neighbours: thousands of segments */
        {4, 6, NETIF_GSO_TCP4, NETIF_TX_CSUM_BLANK, 65535, true},
        {4, 17, 0, NETIF_TX_CSUM_BLANK, 0, true},
        {4, 132, 0, NETIF_TX_CSUM_BLANK, 0, false},
        {4, 1, 0, NETIF_TX_CSUM_BLANK, 0, false},
    };
    struct netif_bed b;
    bed_open(&b, 1, true, NETIF_COPY, &bed_takes_all);
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct packet *packets[PACKET_BATCH];
        struct netfront_send how = {.flags = cases[i].flags, .gso = cases[i].gso, .gso_size = cases[i].gso_size};
        tcp_frame(cases[i].version, cases[i].proto);
        add(&b, 4000, &how);
        publish(&b);
        int n = bed_receive(&b, 0, packets);
        if (n != cases[i].taken) fail_msg("case %u: %d", i, n);
        if (n) {
            const struct packet_offload *o = &packets[0]->offload;
            assert_true(o->csum_partial);
            assert_int_equal(o->csum_start, cases[i].version == 4 ? 34 : 54);
            bool cut = cases[i].gso && cases[i].gso_size < 4000;
            assert_int_equal(o->gso, cut ? cases[i].version == 4 ? PACKET_GSO_TCP4 : PACKET_GSO_TCP6 : 0);
            bed_release(&b, 0);
        }
        netfront_reap(&b.front.queue[0]);
    }
    bed_close(&b);
}

/* Whatever is in a frame and said of it: what is taken is sound. */
static void test_random_headers(void **state)
{
    struct netif_bed b;
    bed_open(&b, 1, true, NETIF_COPY, &bed_takes_all);
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct packet *packets[PACKET_BATCH];
        uint32_t length = 14 + (uint32_t)pick(300);
        tcp_frame(pick(2) ? 4 : 6, pick(3) ? 6 : 17);
        for (unsigned k = (unsigned)pick(4); k > 0; k--)
            frame[pick(length)] = (uint8_t)pick(256);
        struct netfront_send how = {
            .flags = (uint16_t)pick(4), .gso = (uint8_t)pick(4), .gso_size = (uint16_t)pick(200)};
        add(&b, length, &how);
        publish(&b);
        if (bed_receive(&b, 0, packets) == 1) {
            const struct packet *p = packets[0];
            const struct packet_offload *o = &p->offload;
            if (o->csum_partial) assert_true(o->csum_start + o->csum_offset + 2u <= p->head_bytes);
            if (o->gso) assert_true(o->csum_partial && o->gso_size >= VIF_TCP_SEGMENT_MIN);
            bed_release(&b, 0);
        }
        netfront_reap(&b.front.queue[0]);
    }
    assert_null(b.front.queue[0].tx.error);
    bed_close(&b);
}

static struct packet outgoing(uint32_t length, struct iovec *body)
{
    uint32_t head = length < PACKET_HEAD_BYTES ? length : PACKET_HEAD_BYTES;
    *body = (struct iovec){frame + head, length - head};
    return (struct packet){
        .head = frame, .head_bytes = (uint16_t)head, .length_bytes = length, .body = body, .body_count = length > head};
}

static void send_events(struct netif_bed *b, unsigned count)
{
    for (; count; count--) {
        sim_port_notify(b->front.guest, b->front.queue[0].tx_port);
        sim_port_notify(b->front.guest, b->front.queue[0].rx_port);
    }
}

static int is_woken(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0);
}

/* XSA-332: after an event no other comes until the card is about to sleep, however many are sent; and of the receive ring none at all, as
 * there is nothing to be done then. */
static void test_event_storm(void **state)
{
    struct netif_bed b;
    bed_open(&b, 1, true, NETIF_COPY, &bed_takes_all);
    struct port_source *s = &b.vif->netif->queue[0].source;
    s->ops->woken(s); /* what came before it was connected */
    for (unsigned i = 0; i < 10; i++) {
        assert_false(s->ops->arm(s));
        assert_int_equal(is_woken(s->fd), i > 0);
        send_events(&b, 1);
        assert_int_equal(is_woken(s->fd), 1);
        s->ops->woken(s);
        send_events(&b, 100);
        assert_int_equal(is_woken(s->fd), 0);
    }
    for (unsigned i = 0; i < 2; i++) {
        s->ops->arm(s);
        s->ops->woken(s);
    }
    s->ops->arm(s);
    for (unsigned i = 0; i < 100; i++)
        sim_port_notify(b.front.guest, b.front.queue[0].rx_port);
    assert_int_equal(is_woken(s->fd), 0);
    bed_close(&b);
}

/* XSA-392's kind: a receiver that posts nothing costs nobody anything, however much comes for it. */
static void test_stalled(void **state)
{
    struct netif_bed b;
    struct iovec body;
    bed_open(&b, 1, true, NETIF_COPY, &bed_takes_all);
    struct packet p = outgoing(20000, &body), *one = &p;
    for (unsigned i = 0; i < 10000; i++)
        bed_deliver(&b, &one, 1);
    struct vif_stats s;
    vif_stats_read(b.vif, &s);
    assert_int_equal(s.rx_no_buffer, 10000);
    assert_int_equal(s.rx_packets, 0);
    /* Four pages are too few for five; a smaller frame takes them. */
    struct netfront_queue *q = &b.front.queue[0];
    netfront_post(q, 4);
    netfront_publish_rx(&b.front, q);
    bed_deliver(&b, &one, 1);
    p = outgoing(16384, &body);
    bed_deliver(&b, &one, 1);
    static uint8_t got[65536];
    struct netfront_frame f = {.bytes = got};
    assert_true(netfront_get(&b.front, q, &f));
    assert_int_equal(f.length, 16384);
    assert_int_equal(f.entries, 4);
    bed_close(&b);
}

/* References that are none, or for reading only, or a whole ring of one page: the frame is lost, the next one comes. */
static void test_receive_grants(void **state)
{
    struct netif_bed b;
    struct iovec body;
    static uint8_t got[65536];
    bed_open(&b, 1, false, NETIF_COPY, &bed_takes_all);
    struct netfront_queue *q = &b.front.queue[0];
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint16_t id = q->rx_free[--q->rx_free_count];
        uint32_t refs[] = {(uint32_t)pick(UINT32_MAX), q->tx_grant[id], 0, q->rx_grant[id]};
        unsigned which = (unsigned)pick(4);
        netif_sim_add_rx(&q->rx, id, refs[which]);
        netfront_publish_rx(&b.front, q);
        struct packet p = outgoing(14 + (uint32_t)pick(1500), &body), *one = &p;
        bed_deliver(&b, &one, 1);
        struct netfront_frame f = {.bytes = got};
        assert_true(netfront_get(&b.front, q, &f));
        assert_int_equal(f.status, which == 3 ? 0 : NETIF_ERROR);
        if (which == 3) assert_memory_equal(got, frame, p.length_bytes);
    }
    assert_null(q->rx.error);
    assert_null(vif_broken(b.vif));
    /* And an index that jumps ends its receiving, not its sending. */
    struct xen_ring *ring = q->rx.ring;
    ring->req_prod += NETIF_ENTRIES + 1;
    struct packet p = outgoing(100, &body), *one = &p;
    bed_deliver(&b, &one, 1);
    bed_deliver(&b, &one, 1);
    assert_non_null(vif_broken(b.vif));
    assert_int_equal(vif_broken_take(b.vif), 1);
    netif_disconnect(b.vif);
    assert_null(vif_broken(b.vif));
    bed_close(&b);
}

static const struct xen_ops *real_ops;
static unsigned copy_calls;
static const uint8_t *foreign; /* the hypervisor does not copy from here */

static void copy_as_xen(struct xen *x, xen_domid domid, struct xen_copy *copies, unsigned count)
{
    copy_calls++;
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *at = copies[i].local;
        if (foreign && at >= foreign && at < foreign + 65536) copies[i].status = -EFAULT;
        else real_ops->copy(x, domid, &copies[i], 1);
    }
}

/* A receiver whose references are all bad costs whoever sends to it no more calls than one whose are not; where others' frames may be
 * mapped one more, whatever the number of pieces. And those that are mapped arrive. */
static void test_receive_calls(void **state)
{
    struct netif_bed b;
    struct iovec body;
    static uint8_t got[65536];
    bed_open(&b, 1, false, NETIF_COPY, &bed_takes_all);
    struct netfront_queue *q = &b.front.queue[0];
    struct xen *x = b.vif->netif->queue[0].xen;
    real_ops = x->ops;
    struct xen_ops counting = *real_ops;
    counting.copy = copy_as_xen;
    x->ops = &counting;
    for (unsigned mapped = 0; mapped < 2; mapped++) {
        atomic_store(&b.mappers, mapped);
        for (unsigned i = 0; i < 50; i++) {
            bool good = mapped && i % 2;
            foreign = good ? frame + 256 : NULL;
            for (unsigned k = 0; k < 16; k++) {
                uint16_t id = q->rx_free[--q->rx_free_count];
                netif_sim_add_rx(&q->rx, id, good ? q->rx_grant[id] : 99999);
            }
            netfront_publish_rx(&b.front, q);
            struct iovec none;
            struct packet p = outgoing(57000, &body), small = outgoing(200, &none), *packets[2] = {&p, &small};
            for (unsigned k = 0; k < 57000; k++)
                frame[k] = (uint8_t)pick(256);
            copy_calls = 0;
            bed_deliver(&b, packets, 2);
            assert_int_equal(copy_calls, mapped ? 2 : 1);
            struct netfront_frame f = {.bytes = got};
            assert_true(netfront_get(&b.front, q, &f));
            assert_int_equal(f.status, good ? 0 : NETIF_ERROR);
            if (good) assert_memory_equal(got, frame, 57000);
            assert_true(netfront_get(&b.front, q, &f));
        }
    }
    atomic_store(&b.mappers, 0);
    x->ops = real_ops;
    bed_close(&b);
}

/* A frame of pieces that are all one page, by one reference. */
static void add_same(struct netif_bed *b, uint32_t ref, unsigned pieces)
{
    struct netfront_queue *q = &b->front.queue[0];
    for (unsigned i = 0; i < pieces; i++) {
        uint16_t id = q->tx_free[--q->tx_free_count];
        struct netif_wire_tx w = {.ref = ref, .id = id, .size = (uint16_t)(i ? 1000 : 1000 * pieces)};
        if (i + 1 < pieces) w.flags = NETIF_TX_MORE_DATA;
        netif_sim_add_tx(&q->tx, &w);
        q->sent++;
    }
}

/* References are not compared: one that is used twice, in a frame and in others under way, is as good as another. Each use is a copy or
 * a map of its own, of which the hypervisor keeps count. */
static void same_reference(enum netif_transmit transmit, unsigned budget)
{
    struct netif_bed b;
    struct packet *packets[PACKET_BATCH];
    static uint8_t seen[65536];
    bed_open(&b, 1, true, transmit, &bed_takes_all);
    struct netfront_queue *q = &b.front.queue[0];
    uint8_t *page = sim_guest_page(b.front.guest, q->tx_page[0]);
    for (unsigned i = 0; i < 1000; i++)
        page[i] = (uint8_t)pick(256);
    page[12] = page[13] = 0;
    b.budget.max = budget;
    for (unsigned i = 0; i < 10; i++)
        add_same(&b, q->tx_grant[0], 1 + i);
    publish(&b);
    assert_int_equal(bed_receive(&b, 0, packets), 10);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(packets[i]->length_bytes, 1000 * (1 + i));
        packet_read(packets[i], 0, seen, packets[i]->length_bytes);
        for (unsigned k = 0; k <= i; k++)
            assert_memory_equal(seen + 1000 * k, page, 1000);
    }
    /* All pages for them are one, the sender's even: who reads its own memory then has what it asked for. */
    for (uint16_t i = 0; i < 100; i++)
        assert_true(netif_sim_add_rx(&q->rx, q->rx_free[--q->rx_free_count], q->rx_grant[0]));
    netfront_publish_rx(&b.front, q);
    bed_deliver(&b, packets, 10);
    bed_release(&b, 0);
    assert_int_equal(netfront_reap(q), 55);
    assert_int_equal(q->failed, 0);
    struct netfront_frame f = {.bytes = seen};
    unsigned frames = 0;
    for (; netfront_get(&b.front, q, &f); frames++) {
        assert_int_equal(f.status, 0);
        assert_int_equal(f.length, 1000 * (1 + frames));
    }
    assert_int_equal(frames, 10);
    assert_null(q->tx.error);
    assert_null(q->rx.error);
    assert_null(vif_broken(b.vif));
    assert_int_equal(sim_maps_used(b.sim), 2); /* the rings */
    assert_int_equal(sim_revoke(b.front.guest, q->tx_grant[0]), 0);
    assert_int_equal(sim_revoke(b.front.guest, q->rx_grant[0]), 0);
    bed_close(&b);
}

static void test_same_reference(void **state)
{
    same_reference(NETIF_COPY, 100000);
    same_reference(NETIF_MAP, 100000);
    same_reference(NETIF_MAP, 5); /* not all of them can be mapped */
}

/* Domain and grants are gone while frames are under way. */
static void test_destroyed(void **state)
{
    for (unsigned mapped = 0; mapped < 2; mapped++) {
        struct netif_bed b;
        struct iovec body;
        struct packet *packets[PACKET_BATCH];
        bed_open(&b, 1, true, mapped ? NETIF_MAP : NETIF_COPY, &bed_takes_all);
        struct netfront_queue *q = &b.front.queue[0];
        struct netfront_send plain = {0};
        netfront_post(q, 50);
        netfront_publish_rx(&b.front, q);
        add(&b, 30000, &plain);
        add(&b, 100, &plain);
        publish(&b);
        assert_int_equal(bed_receive(&b, 0, packets), 2);
        netfront_close(&b.front);
        bed_release(&b, 0);
        struct packet p = outgoing(20000, &body), *one = &p;
        bed_deliver(&b, &one, 1);
        netif_disconnect(b.vif);
        assert_int_equal(netfront_open(&b.front, b.sim, BED_DOMID, 1, true), 0);
        bed_connect(&b, &bed_takes_all, false);
        bed_close(&b);
    }
}

/* XSA-350's kind: however often it comes and goes, nothing is left behind; what is refused leaves nothing either. */
static void test_connections(void **state)
{
    struct netif_bed b;
    bed_open(&b, 2, true, NETIF_COPY, &bed_takes_all);
    netif_disconnect(b.vif);
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct netif_queue_setup setup[2];
        struct errmsg e = {""};
        netfront_setup(&b.front, setup);
        unsigned wrong = (unsigned)pick(8);
        uint32_t *fields[] = {&setup[0].tx_ref, &setup[0].rx_ref, &setup[0].tx_port, &setup[0].rx_port,
                              &setup[1].tx_ref, &setup[1].rx_ref, &setup[1].tx_port, &setup[1].rx_port};
        bool spoilt = pick(2);
        if (spoilt) *fields[wrong] = 100000u + (uint32_t)pick(UINT32_MAX - 100000u);
        int ret = netif_connect(b.vif, &bed_takes_all, setup, 2, NULL, pick(2), &e);
        assert_int_equal(ret < 0, spoilt);
        if (spoilt) assert_true(e.text[0]);
        assert_int_equal(netif_connected(b.vif), !spoilt);
        if (!spoilt) assert_int_equal(netif_connect(b.vif, &bed_takes_all, setup, 2, NULL, false, &e), -EISCONN);
        netif_disconnect(b.vif);
        assert_int_equal(sim_maps_used(b.sim), 0);
        assert_int_equal(sim_ports_used(b.sim, SIM_HOST), 0);
    }
    struct netif_queue_setup setup[3] = {{0}};
    assert_int_equal(netif_connect(b.vif, &bed_takes_all, setup, 3, NULL, false, NULL), -EINVAL);
    assert_int_equal(netif_connect(b.vif, &bed_takes_all, setup, 0, NULL, false, NULL), -EINVAL);
    bed_connect(&b, &bed_takes_all, false);
    bed_close(&b);
}

static void group_order(struct netif_bed *b, uint8_t order, unsigned group, int expected)
{
    struct netfront_queue *q = &b->front.queue[0];
    struct packet *packets[PACKET_BATCH];
    uint16_t id = q->tx_free[--q->tx_free_count];
    struct netif_wire_tx w = {.ref = q->tx_grant[id], .id = id, .size = 0, .flags = NETIF_TX_EXTRA_INFO};
    struct netif_wire_extra x = {.type = order, .mcast = {1, 0, 0x5e, 0, 0, (uint8_t)group}};
    netif_sim_add_tx(&q->tx, &w);
    netif_sim_add_extra(&q->tx, &x);
    publish(b);
    assert_int_equal(bed_receive(b, 0, packets), 0);
    int status;
    assert_true(netif_sim_get_tx(&q->tx, &id, &status));
    q->tx_free[q->tx_free_count++] = id;
    assert_int_equal(status, expected);
}

static unsigned arrives(struct netif_bed *b, uint8_t first, unsigned last)
{
    static uint8_t got[65536];
    struct netfront_queue *q = &b->front.queue[0];
    struct iovec body;
    struct packet p = outgoing(100, &body), *one = &p;
    memcpy(frame, (uint8_t[]){first, 0, 0x5e, 0, 0, (uint8_t)last}, 6);
    if (first == 0xff) memset(frame, 0xff, 6);
    netfront_post(q, 1);
    netfront_publish_rx(&b->front, q);
    bed_deliver(b, &one, 1);
    struct netfront_frame f = {.bytes = got};
    return netfront_get(&b->front, q, &f);
}

static void test_multicast(void **state)
{
    struct netif_bed b;
    struct netif_front front = bed_takes_all;
    front.multicast_control = true;
    bed_open(&b, 1, true, NETIF_COPY, &front);
    assert_int_equal(arrives(&b, 1, 5), 0);
    assert_int_equal(arrives(&b, 2, 5), 1);
    assert_int_equal(arrives(&b, 0xff, 0), 1);
    for (unsigned i = 0; i < NETIF_GROUPS_MAX; i++)
        group_order(&b, NETIF_EXTRA_MCAST_ADD, i, NETIF_OKAY);
    group_order(&b, NETIF_EXTRA_MCAST_ADD, 5, NETIF_OKAY); /* it is there */
    group_order(&b, NETIF_EXTRA_MCAST_ADD, 99, NETIF_ERROR);
    assert_int_equal(arrives(&b, 1, 5), 1);
    assert_int_equal(arrives(&b, 1, 99), 0);
    group_order(&b, NETIF_EXTRA_MCAST_DEL, 5, NETIF_OKAY);
    group_order(&b, NETIF_EXTRA_MCAST_DEL, 98, NETIF_OKAY);
    assert_int_equal(arrives(&b, 1, 5), 0);
    /* It is kept for a successor, and not for another front end. */
    bed_restart(&b, NETIF_COPY);
    bed_connect(&b, &front, true);
    assert_int_equal(arrives(&b, 1, 6), 1);
    netif_disconnect(b.vif);
    bed_connect(&b, &front, true);
    assert_int_equal(arrives(&b, 1, 6), 0);
    bed_close(&b);
}

/* The front end changes its mind while it is connected (feature-dynamic-multicast-control): the list is there, filtered by or not, and
 * has its bound either way, however many addresses are sent. */
static void test_multicast_changes(void **state)
{
    struct netif_bed b;
    bed_open(&b, 1, true, NETIF_COPY, &bed_takes_all);
    for (unsigned i = 0; i < 250; i++)
        group_order(&b, NETIF_EXTRA_MCAST_ADD, i, i < NETIF_GROUPS_MAX ? NETIF_OKAY : NETIF_ERROR);
    assert_int_equal(arrives(&b, 1, 200), 1);
    netif_multicast_control(b.vif, true);
    assert_int_equal(arrives(&b, 1, 200), 0);
    assert_int_equal(arrives(&b, 1, 6), 1);
    assert_int_equal(arrives(&b, 0xff, 0), 1);
    group_order(&b, NETIF_EXTRA_MCAST_DEL, 6, NETIF_OKAY);
    group_order(&b, NETIF_EXTRA_MCAST_ADD, 200, NETIF_OKAY);
    assert_int_equal(arrives(&b, 1, 6), 0);
    assert_int_equal(arrives(&b, 1, 200), 1);
    netif_multicast_control(b.vif, false);
    assert_int_equal(arrives(&b, 1, 6), 1);
    netif_multicast_control(b.vif, true);
    assert_int_equal(arrives(&b, 1, 6), 0);
    /* It is that front end's. */
    netif_disconnect(b.vif);
    netif_multicast_control(b.vif, true);
    bed_connect(&b, &bed_takes_all, false);
    assert_int_equal(arrives(&b, 1, 6), 1);
    bed_close(&b);
}

/* Without feature-sg a frame has one page; what comes in several is taken, all the same. */
static void test_no_sg(void **state)
{
    struct netif_bed b;
    struct iovec body;
    struct packet *packets[PACKET_BATCH];
    struct netif_front front = {.csum_offload = true, .csum_offload6 = true, .gso_tcp4 = true};
    bed_open(&b, 1, true, NETIF_COPY, &front);
    assert_int_equal(atomic_load(&vif_port(b.vif)->takes) & PORT_TAKES_ALL, PORT_TAKES_CSUM);
    struct netfront_queue *q = &b.front.queue[0];
    netfront_post(q, 10);
    netfront_publish_rx(&b.front, q);
    struct packet p = outgoing(4097, &body), *one = &p;
    bed_deliver(&b, &one, 1);
    struct vif_stats s;
    vif_stats_read(b.vif, &s);
    assert_int_equal(s.rx_too_long, 1);
    struct netfront_send plain = {0};
    add(&b, 9000, &plain);
    publish(&b);
    assert_int_equal(bed_receive(&b, 0, packets), 1);
    bed_release(&b, 0);
    front.csum_offload6 = false;
    netif_disconnect(b.vif);
    bed_connect(&b, &front, true);
    assert_int_equal(atomic_load(&vif_port(b.vif)->takes), 0);
    bed_close(&b);
}

/* A front end that goes, and comes with new rings in the old ones' pages, whoever says that it never went: they begin at 0. */
static void test_same_pages(void **state)
{
    struct netif_bed b;
    struct packet *packets[PACKET_BATCH];
    bed_open(&b, 1, true, NETIF_COPY, &bed_takes_all);
    struct netfront_queue *q = &b.front.queue[0];
    struct netfront_send plain = {0};
    for (unsigned i = 0; i < 3; i++) {
        add(&b, 9000, &plain);
        publish(&b);
        netfront_post(q, 10);
        netfront_publish_rx(&b.front, q);
        assert_int_equal(bed_receive(&b, 0, packets), 1);
        bed_deliver(&b, packets, 1);
        bed_release(&b, 0);
        assert_int_equal(netfront_reap(q), 3);
        netif_disconnect(b.vif);
        netif_sim_init(&q->tx, q->tx.ring, true);
        netif_sim_init(&q->rx, q->rx.ring, false);
        for (q->rx_free_count = 0; q->rx_free_count < NETIF_ENTRIES; q->rx_free_count++)
            q->rx_free[q->rx_free_count] = (uint16_t)q->rx_free_count;
        bed_connect(&b, &bed_takes_all, true);
        assert_int_equal(netfront_reap(q), 0);
        assert_null(q->tx.error);
        assert_null(vif_broken(b.vif));
    }
    bed_close(&b);
}

/* The switch is killed with frames under way: they are given out again, and everything is answered once. */
static void test_killed(void **state)
{
    struct netif_bed b;
    struct packet *packets[PACKET_BATCH];
    bed_open(&b, 1, true, NETIF_MAP, &bed_takes_all);
    struct netfront_queue *q = &b.front.queue[0];
    struct netfront_send plain = {0};
    for (unsigned i = 0; i < 200; i++) {
        netfront_post(q, NETIF_ENTRIES);
        netfront_publish_rx(&b.front, q);
        for (unsigned k = 0; k < 3; k++)
            add(&b, 5000 + k, &plain);
        publish(&b);
        assert_int_equal(bed_receive(&b, 0, packets), 3);
        bed_deliver(&b, packets, 3);
        /* Nothing of it is given back; what is mapped and bound goes with the process. */
        struct netif_queue *old = &b.vif->netif->queue[0];
        old->xen->ops->unmap(old->xen, old->tx.map, old->tx.map_count);
        old->tx.job_count = old->tx.map_count = 0;
        bed_restart(&b, NETIF_MAP);
        bed_connect(&b, &bed_takes_all, true);
        assert_int_equal(netfront_reap(q), 0);
        assert_int_equal(bed_receive(&b, 0, packets), 3);
        for (unsigned k = 0; k < 3; k++)
            assert_int_equal(packets[k]->length_bytes, 5000 + k);
        bed_release(&b, 0);
        assert_int_equal(netfront_reap(q), 6);
        static uint8_t got[65536];
        struct netfront_frame f = {.bytes = got};
        for (unsigned k = 0; k < 3; k++)
            assert_true(netfront_get(&b.front, q, &f));
    }
    assert_null(q->tx.error);
    assert_null(q->rx.error);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grants_copied),  cmocka_unit_test(test_grants_mapped),
        cmocka_unit_test(test_no_maps),        cmocka_unit_test(test_most_pieces),
        cmocka_unit_test(test_tiny_pieces),    cmocka_unit_test(test_heads_are_copies),
        cmocka_unit_test(test_event_storm),    cmocka_unit_test(test_headers),
        cmocka_unit_test(test_random_headers), cmocka_unit_test(test_stalled),
        cmocka_unit_test(test_receive_grants), cmocka_unit_test(test_receive_calls),
        cmocka_unit_test(test_destroyed),      cmocka_unit_test(test_connections),
        cmocka_unit_test(test_multicast),      cmocka_unit_test(test_multicast_changes),
        cmocka_unit_test(test_no_sg),          cmocka_unit_test(test_same_reference),
        cmocka_unit_test(test_same_pages),     cmocka_unit_test(test_killed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
