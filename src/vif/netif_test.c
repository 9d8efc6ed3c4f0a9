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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copied),
        cmocka_unit_test(test_mapped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
