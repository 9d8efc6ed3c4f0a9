/* SPDX-License-Identifier: Apache-2.0 */
/* One case for each lie that a front end can tell on a network ring, and the cases that were found in others by name. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ring/netif_sim.h"

static _Alignas(4096) char page[4096];

struct bed {
    struct netif_sim sim;
    struct netif_tx *tx;
    struct netif_tx_frame f;
    struct netif_slot slots[NETIF_SLOTS_MAX];
};

static struct xen_ring *shared(void)
{
    return (struct xen_ring *)(void *)page;
}

static void bed_open(struct bed *b)
{
    struct netif_setup s = {.ring = page};
    memset(b, 0, sizeof *b);
    netif_sim_init(&b->sim, page, true);
    assert_int_equal(netif_tx_new(&b->tx, &s, NULL), 0);
}

static void bed_close(struct bed *b)
{
    netif_tx_free(b->tx);
}

static void add(struct bed *b, uint16_t size, uint16_t offset, uint16_t flags)
{
    struct netif_wire_tx w = {.ref = 8, .id = (uint16_t)(b->sim.req_prod % NETIF_ENTRIES), .size = size};
    w.offset = offset;
    w.flags = flags;
    assert_true(netif_sim_add_tx(&b->sim, &w));
}

static int pop(struct bed *b)
{
    netif_sim_publish(&b->sim);
    return netif_tx_pop(b->tx, &b->f, b->slots);
}

static void answer(struct bed *b, unsigned expected)
{
    uint16_t id;
    int status;
    netif_tx_push(b->tx, b->f.entries, b->f.invalid ? NETIF_ERROR : NETIF_OKAY);
    netif_tx_publish(b->tx);
    for (unsigned i = 0; i < expected; i++) {
        assert_true(netif_sim_get_tx(&b->sim, &id, &status));
        assert_int_equal(status, b->f.invalid ? NETIF_ERROR : NETIF_OKAY);
    }
    assert_false(netif_sim_get_tx(&b->sim, &id, &status));
    assert_null(b->sim.error);
}

/* An index further than the ring has entries, or one that goes back. */
static void test_index(void **state)
{
    static const uint32_t jumps[] = {NETIF_ENTRIES + 1, 0x80000000u, UINT32_MAX};
    for (unsigned i = 0; i < 3; i++) {
        struct bed b;
        bed_open(&b);
        shared()->req_prod = jumps[i];
        assert_int_equal(netif_tx_pop(b.tx, &b.f, b.slots), -EPROTO);
        assert_non_null(netif_tx_broken(b.tx));
        assert_int_equal(netif_tx_pop(b.tx, &b.f, b.slots), -EPROTO);
        assert_false(netif_tx_final_check(b.tx));
        bed_close(&b);
    }
    /* Over entries that are not answered yet. */
    struct bed b;
    bed_open(&b);
    add(&b, 60, 0, 0);
    assert_int_equal(pop(&b), 1);
    shared()->req_prod = NETIF_ENTRIES + 1;
    assert_int_equal(netif_tx_pop(b.tx, &b.f, b.slots), -EPROTO);
    bed_close(&b);
}

/* Sizes that lie (XSA-155 and XSA-39's kind): pieces that are more than the whole, or leave more for the first than a page. */
static void test_sizes(void **state)
{
    static const struct {
        uint16_t first, offset, second, second_offset;
        bool invalid;
    } cases[] =
        {
            {100, 0, 100, 0, false}, /* nothing is left for the first: XSA-423, CVE-2022-3643's kind */
            {100, 0, 101, 0, true},     {5000, 0, 100, 0, true},
            {4196, 0, 100, 0, false},   {4196, 1, 100, 0, true},
            {100, 4096, 100, 0, false}, {100, 4097, 100, 0, true},
            {100, 65535, 50, 0, true},  {100, 4046, 50, 0, false},
            {100, 4047, 50, 0, true},   {200, 0, 100, 3996, false},
            {200, 0, 100, 3997, true},  {200, 0, 100, 65535, true},
            {5000, 0, 4097, 0, true},   {65535, 0, 65535, 0, true},
            {100, 0, 0, 0, false}, /* a piece of nothing: CVE-2023-34319, CVE-2023-46838's kind */
        };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct bed b;
        bed_open(&b);
        add(&b, cases[i].first, cases[i].offset, NETIF_TX_MORE_DATA);
        add(&b, cases[i].second, cases[i].second_offset, 0);
        assert_int_equal(pop(&b), 1);
        if (b.f.invalid != cases[i].invalid) fail_msg("case %u: %s", i, b.f.invalid ? "invalid" : "taken");
        assert_int_equal(b.f.entries, 2);
        uint32_t sum = 0;
        for (unsigned k = 0; k < b.f.slot_count; k++) {
            sum += b.slots[k].length;
            if (!b.f.invalid) assert_true(b.slots[k].offset + b.slots[k].length <= NETIF_PAGE_BYTES);
        }
        if (!b.f.invalid) assert_int_equal(sum, b.f.length);
        answer(&b, 2);
        bed_close(&b);
    }
}

/* Pieces that are more than the whole by so much that, in 16 bits, something sound is left for the first: the whole's length is what the
 * frame is given room for. */
static void test_sizes_that_wrap(void **state)
{
    for (unsigned left = 0; left <= NETIF_PAGE_BYTES; left += 64) {
        struct bed b;
        bed_open(&b);
        unsigned rest = 65536 + 100 - left;
        add(&b, 100, 0, NETIF_TX_MORE_DATA);
        for (; rest > NETIF_PAGE_BYTES; rest -= NETIF_PAGE_BYTES)
            add(&b, NETIF_PAGE_BYTES, 0, NETIF_TX_MORE_DATA);
        add(&b, (uint16_t)rest, 0, 0);
        assert_int_equal(pop(&b), 1);
        assert_true(b.f.slot_count <= NETIF_SLOTS_MAX && b.f.invalid);
        answer(&b, b.f.entries);
        bed_close(&b);
    }
}

/* CVE-2023-34319's kind: more pieces than anybody can hold are answered, and not kept. */
static void test_many_pieces(void **state)
{
    for (unsigned pieces = NETIF_SLOTS_MAX - 1; pieces <= NETIF_ENTRIES; pieces++) {
        struct bed b;
        bed_open(&b);
        for (unsigned i = 0; i < pieces; i++)
            add(&b, i ? 1 : 1000, 0, i + 1 < pieces ? NETIF_TX_MORE_DATA : 0);
        assert_int_equal(pop(&b), 1);
        assert_int_equal(b.f.invalid, pieces > NETIF_SLOTS_MAX);
        assert_true(b.f.slot_count <= NETIF_SLOTS_MAX);
        assert_int_equal(b.f.entries, pieces);
        answer(&b, pieces);
        bed_close(&b);
    }
}

/* A frame without an end, in pieces or in extra infos. */
static void test_endless(void **state)
{
    for (unsigned n = 1; n <= NETIF_ENTRIES; n += 51) {
        struct bed b;
        bed_open(&b);
        for (unsigned i = 0; i < n; i++)
            add(&b, 100, 0, NETIF_TX_MORE_DATA);
        assert_int_equal(pop(&b), -EPROTO);
        bed_close(&b);
        bed_open(&b);
        add(&b, 100, 0, NETIF_TX_EXTRA_INFO);
        struct netif_wire_extra x = {.type = NETIF_EXTRA_HASH, .flags = NETIF_EXTRA_FLAG_MORE};
        for (unsigned i = 1; i < n; i++)
            netif_sim_add_extra(&b.sim, &x);
        assert_int_equal(pop(&b), -EPROTO);
        assert_string_equal(netif_tx_broken(b.tx), "a frame's extra infos without an end");
        bed_close(&b);
    }
}

static void test_extras(void **state)
{
    for (unsigned type = 0; type < 256; type++) {
        struct bed b;
        bed_open(&b);
        add(&b, 100, 0, NETIF_TX_EXTRA_INFO);
        struct netif_wire_extra x = {.type = (uint8_t)type};
        x.gso.size = 100, x.gso.type = NETIF_GSO_TCP4;
        netif_sim_add_extra(&b.sim, &x);
        assert_int_equal(pop(&b), 1);
        assert_int_equal(b.f.invalid, type < NETIF_EXTRA_GSO || type > NETIF_EXTRA_XDP);
        answer(&b, 1);
        bed_close(&b);
    }
    static const struct {
        uint8_t type;
        uint16_t size;
    } gso[] = {{0, 100}, {3, 100}, {255, 100}, {NETIF_GSO_TCP6, 0}};
    for (unsigned i = 0; i < 4; i++) {
        struct bed b;
        bed_open(&b);
        add(&b, 100, 0, NETIF_TX_EXTRA_INFO);
        struct netif_wire_extra x = {.type = NETIF_EXTRA_GSO};
        x.gso.size = gso[i].size, x.gso.type = gso[i].type;
        netif_sim_add_extra(&b.sim, &x);
        assert_int_equal(pop(&b), 1);
        assert_true(b.f.invalid);
        answer(&b, 1);
        bed_close(&b);
    }
    /* As many as the ring has: all answered. */
    struct bed b;
    bed_open(&b);
    add(&b, 100, 0, NETIF_TX_EXTRA_INFO);
    for (unsigned i = 1; i < NETIF_ENTRIES; i++) {
        struct netif_wire_extra x = {.type = NETIF_EXTRA_GSO,
                                     .flags = i + 1 < NETIF_ENTRIES ? NETIF_EXTRA_FLAG_MORE : 0};
        x.gso.type = NETIF_GSO_TCP4, x.gso.size = (uint16_t)i;
        netif_sim_add_extra(&b.sim, &x);
    }
    assert_int_equal(pop(&b), 1);
    assert_false(b.f.invalid);
    assert_int_equal(b.f.gso_size, NETIF_ENTRIES - 1);
    answer(&b, 1);
    bed_close(&b);
}

static void test_receive_index(void **state)
{
    struct netif_sim sim;
    struct netif_rx *r;
    struct netif_setup s = {.ring = page};
    netif_sim_init(&sim, page, false);
    assert_int_equal(netif_rx_new(&r, &s, NULL), 0);
    shared()->req_prod = NETIF_ENTRIES + 1;
    assert_int_equal(netif_rx_available(r), -EPROTO);
    assert_non_null(netif_rx_broken(r));
    netif_rx_free(r);
}

/* The other side's words of the ring are not believed either: whatever a guest writes there about answers, it gets all of them. */
static void test_our_words(void **state)
{
    struct bed b;
    bed_open(&b);
    for (unsigned i = 0; i < 1000; i++) {
        shared()->rsp_prod = i * 77777;
        shared()->req_event = shared()->rsp_event = i;
        uint32_t entries = 1 + i % 3;
        for (unsigned k = 0; k < entries; k++)
            add(&b, k ? 1 : 100, 0, k + 1 < entries ? NETIF_TX_MORE_DATA : 0);
        assert_int_equal(pop(&b), 1);
        answer(&b, entries);
    }
    bed_close(&b);
}

/* What lay on the stack before is to be told from what was written. */
__attribute__((noinline)) static void spoil_stack(void)
{
    volatile uint8_t bytes[8192];
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = 0xaa;
}

static void is_answer(unsigned at, const void *expected, size_t bytes)
{
    assert_memory_equal(page + sizeof(struct xen_ring) + at, expected, bytes);
}

/* XSA-216: nothing that was in the ring before, or on our stack, is in an answer. */
static void test_transmit_answers_leak_nothing(void **state)
{
    struct bed b;
    bed_open(&b);
    add(&b, 100, 0, NETIF_TX_EXTRA_INFO);
    struct netif_wire_extra x = {.type = NETIF_EXTRA_HASH};
    netif_sim_add_extra(&b.sim, &x);
    assert_int_equal(pop(&b), 1);
    memset(page + sizeof(struct xen_ring), 0xaa, sizeof page - sizeof(struct xen_ring));
    spoil_stack();
    netif_tx_push(b.tx, 2, NETIF_ERROR);
    netif_tx_publish(b.tx);
    is_answer(0, &(struct netif_wire_tx_response){0, NETIF_ERROR}, 4);
    is_answer(sizeof(struct netif_wire_tx), &(struct netif_wire_tx_response){0, 1}, 4);
    bed_close(&b);
}

static void test_receive_answers_leak_nothing(void **state)
{
    struct netif_rx *r;
    struct netif_setup s = {.ring = page};
    memset(page, 0, sizeof(struct xen_ring));
    memset(page + sizeof(struct xen_ring), 0xaa, sizeof page - sizeof(struct xen_ring));
    assert_int_equal(netif_rx_new(&r, &s, NULL), 0);
    shared()->req_prod = 3;
    assert_int_equal(netif_rx_available(r), 3);
    for (unsigned i = 0; i < 3; i++)
        netif_rx_pop(r);
    spoil_stack();
    netif_rx_push(r, NETIF_RX_EXTRA_INFO, 77);
    spoil_stack();
    netif_rx_push_gso(r, NETIF_GSO_TCP6, 1400, true);
    spoil_stack();
    netif_rx_push_hash(r, 2, 1, 0x04030201, false);
    netif_rx_publish(r);
    is_answer(0, (uint8_t[]){0xaa, 0xaa, 0, 0, NETIF_RX_EXTRA_INFO, 0, 77, 0}, 8); /* the first two are its id */
    is_answer(8, (uint8_t[]){NETIF_EXTRA_GSO, NETIF_EXTRA_FLAG_MORE, 0x78, 0x05, NETIF_GSO_TCP6, 0, 0, 0}, 8);
    is_answer(16, (uint8_t[]){NETIF_EXTRA_HASH, 0, 2, 1, 1, 2, 3, 4}, 8);
    netif_rx_free(r);
}

static void test_setup(void **state)
{
    struct netif_tx *t;
    struct errmsg e = {""};
    struct netif_setup s = {.ring = page + 64};
    assert_int_equal(netif_tx_new(&t, &s, &e), -EINVAL);
    s.ring = NULL;
    assert_int_equal(netif_tx_new(&t, &s, &e), -EINVAL);
    /* What was kept of something else: the ring itself says where it stands. */
    struct netif_kept kept;
    memset(&kept, 0x5a, sizeof kept);
    struct bed b;
    bed_open(&b);
    shared()->rsp_prod = shared()->req_prod = 77;
    s = (struct netif_setup){.ring = page, .kept = &kept, .resume = true};
    assert_int_equal(netif_tx_new(&t, &s, &e), 0);
    assert_int_equal(netif_tx_pop(t, &b.f, b.slots), 0);
    assert_true(netif_tx_publish(t)); /* the guest may wait */
    assert_int_equal(kept.done, 77);
    netif_tx_free(t);
    bed_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_sizes_that_wrap),
        cmocka_unit_test(test_many_pieces),
        cmocka_unit_test(test_endless),
        cmocka_unit_test(test_extras),
        cmocka_unit_test(test_receive_index),
        cmocka_unit_test(test_our_words),
        cmocka_unit_test(test_transmit_answers_leak_nothing),
        cmocka_unit_test(test_receive_answers_leak_nothing),
        cmocka_unit_test(test_setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
