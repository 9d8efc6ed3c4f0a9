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
#include "vif/test_netif.h"

#ifdef CREEDENCE_SANITIZED
#define BATCHES 200u
#else
#define BATCHES 3000u
#endif
static uint64_t seed = 1;

static uint64_t pick(uint64_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % below;
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
    struct netif_bed b;
    bed_open(&b, 1, split, transmit, &bed_takes_all);
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
        int n = bed_receive(&b, 0, packets);
        assert_int_equal(n, count);
        for (unsigned i = 0; i < count; i++) {
            assert_int_equal(packets[i]->length_bytes, length[i]);
            packet_read(packets[i], 0, seen, length[i]);
            assert_memory_equal(seen, sent[i], length[i]);
        }
        bed_deliver(&b, packets, count);
        assert_int_equal(netfront_reap(q), 0);
        bed_release(&b, 0);
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

/* ---- what it costs ---- */

/* A copy is an operation of the hypervisor, and two where its side that is ours lies across the end of a page: the grant device cuts
 * it there. */
struct counted {
    struct xen_ops ops;
    const struct xen_ops *real;
    unsigned copies, operations;
};

static struct counted counted;

static void count_copies(struct xen *x, xen_domid domid, struct xen_copy *copies, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        counted.operations += 1 + ((uintptr_t)copies[i].local % XEN_PAGE_BYTES + copies[i].length > XEN_PAGE_BYTES);
    counted.copies += count;
    counted.real->copy(x, domid, copies, count);
}

static void count_from_here(struct netif_bed *b)
{
    struct xen *x = b->vif->netif->queue[0].xen;
    if (x->ops != &counted.ops) counted.real = x->ops;
    counted.ops = *counted.real;
    counted.ops.copy = count_copies;
    counted.copies = counted.operations = 0;
    x->ops = &counted.ops;
}

/* `frames` of a kind there and back: operations to take them, and to give them. */
static void cost_of(struct netif_bed *b, unsigned frames, uint32_t length, const struct netfront_send *how,
                    unsigned *taken, unsigned *given)
{
    static uint8_t sent[65536], seen[65536];
    struct netfront_queue *q = &b->front.queue[0];
    struct packet *packets[PACKET_BATCH];
    fill_random(sent, length);
    for (unsigned i = 0; i < frames; i++)
        assert_true(netfront_add(&b->front, q, sent, length, how));
    netfront_publish_tx(&b->front, q);
    netfront_post(q, NETIF_ENTRIES);
    netfront_publish_rx(&b->front, q);
    count_from_here(b);
    assert_int_equal(bed_receive(b, 0, packets), frames);
    *taken = counted.operations;
    count_from_here(b);
    bed_deliver(b, packets, frames);
    *given = counted.operations;
    bed_release(b, 0);
    netfront_reap(q);
    for (unsigned i = 0; i < frames; i++) {
        struct netfront_frame f = {.bytes = seen};
        assert_true(netfront_get(&b->front, q, &f));
        assert_int_equal(f.status, 0);
        assert_int_equal(f.length, length);
        assert_memory_equal(seen, sent, length);
    }
}

static void test_operations(void **state)
{
    static const struct {
        unsigned frames;
        uint32_t length;
        struct netfront_send how;
        unsigned pieces, to_give; /* operations for each frame */
    } cases[] = {
        {32, 60, {0}, 1, 1},
        {32, 250, {0}, 1, 1},
        {32, 1514, {0}, 1, 1},
        {16, 1514, {.head_bytes = 66}, 2, 1},
        {10, 8000, {.head_bytes = 66}, 3, 3}, /* two pages: not one more than there must be, but one is cut */
        {10, 9014, {.head_bytes = 66}, 4, 4},
        {3, 65226, {.head_bytes = 66}, 17, 17},
        {3, 65226, {.head_bytes = 201}, 17, 17},
        {3, 65226, {0}, 16, 17},
        {10, 13000, {.head_bytes = 66}, 5, 5},
    };
    struct netif_bed b;
    bed_open(&b, 1, true, NETIF_COPY, &bed_takes_all);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        unsigned taken, given;
        cost_of(&b, cases[i].frames, cases[i].length, &cases[i].how, &taken, &given);
        print_message("%u bytes, %u first: %.1f operations to take, %.1f to give\n", cases[i].length,
                      cases[i].how.head_bytes, taken / (double)cases[i].frames, given / (double)cases[i].frames);
        assert_int_equal(taken, cases[i].frames * cases[i].pieces);
        assert_int_equal(given, cases[i].frames * cases[i].to_give);
    }
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copied),
        cmocka_unit_test(test_mapped),
        cmocka_unit_test(test_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
