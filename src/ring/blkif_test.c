/* SPDX-License-Identifier: Apache-2.0 */
/* A blkif ring with a well-behaved front end: all layouts and sizes, every kind of request, events, restarts, no memory. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/test_alloc.h"
#include "ring/blkif_sim.h"
#include "ring/test_rig.h"

static _Alignas(4096) char memory[BLKIF_RING_PAGES_MAX * 4096];
static _Alignas(64) char table[128 * 1024];
static struct blkif_sim sim;
static struct blkif_ring *ring;
static struct blkif_segment segments[BLKIF_SEGMENTS_MAX];
static struct blkif_request got;
static struct blkif_setup setup;

static const enum blkif_abi abis[] = {BLKIF_ABI_NATIVE, BLKIF_ABI_X86_32, BLKIF_ABI_X86_64};

static void start(enum blkif_abi abi, unsigned pages, bool tracked)
{
    blkif_sim_init(&sim, memory, pages, abi);
    setup = (struct blkif_setup){memory, pages, abi, BLKIF_SEGMENTS_MAX, tracked ? table : NULL, false};
    assert_true(blkif_inflight_bytes(abi, pages) <= sizeof table);
    assert_int_equal(blkif_new(&ring, &setup, NULL), 0);
    got = (struct blkif_request){.segments = segments};
}

static void restart(void)
{
    blkif_free(ring);
    setup.resume = true;
    assert_int_equal(blkif_new(&ring, &setup, NULL), 0);
}

static void add(const struct blkif_request *q, uint64_t token)
{
    assert_true(blkif_sim_add(&sim, q, token));
    blkif_sim_publish(&sim);
}

static void pop(void)
{
    assert_int_equal(blkif_pop(ring, &got), 1);
}

static void answered(uint64_t token, int status)
{
    uint64_t t;
    int s;
    assert_true(blkif_sim_get(&sim, &t, &s));
    assert_int_equal(t, token);
    assert_int_equal(s, status);
}

static void answer(uint64_t token, enum blkif_status status)
{
    blkif_push(ring, got.slot, status);
    blkif_publish(ring);
    answered(token, status);
}

static void test_entries(void **state)
{
    static const unsigned expected[] = {32, 64, 128, 256, 512};
    for (unsigned a = 0; a < 3; a++)
        for (unsigned i = 0; i < 5; i++)
            assert_int_equal(blkif_ring_entries(abis[a], 1u << i), expected[i]);
    static const unsigned no_ring[] = {0, 3, 17, 32, 1u << 31, UINT32_MAX};
    for (unsigned i = 0; i < sizeof no_ring / sizeof no_ring[0]; i++)
        assert_int_equal(blkif_ring_entries(BLKIF_ABI_X86_64, no_ring[i]), 0);
}

static void each_direct(unsigned count)
{
    struct blkif_segment give[11];
    for (unsigned i = 0; i < 11; i++)
        give[i] = (struct blkif_segment){0x80000000u + i, (uint8_t)(i % 8), 7};
    for (unsigned op = BLKIF_READ; op <= BLKIF_WRITE_BARRIER; op++) {
        struct blkif_request q = {.op = (uint8_t)op, .sector = UINT64_C(0x123456789a), .segments = give};
        q.segment_count = count;
        add(&q, op);
        pop();
        assert_false(got.invalid);
        assert_int_equal(got.op, op);
        assert_true(got.sector == q.sector);
        assert_int_equal(got.segment_count, count);
        assert_int_equal(got.indirect_pages, 0);
        for (unsigned i = 0; i < count; i++) {
            assert_int_equal(got.segments[i].ref, give[i].ref);
            assert_int_equal(got.segments[i].first_sect, give[i].first_sect);
            assert_int_equal(got.segments[i].last_sect, 7);
        }
        answer(op, BLKIF_OKAY);
    }
}

static void each_indirect(unsigned count)
{
    struct blkif_request q = {.op = BLKIF_WRITE, .sector = 77, .segment_count = count, .indirect_pages = 1};
    q.indirect_ref[0] = 0xdeadbeef;
    add(&q, 5);
    pop();
    assert_false(got.invalid);
    assert_int_equal(got.op, BLKIF_WRITE);
    assert_true(got.sector == 77);
    assert_int_equal(got.indirect_pages, 1);
    assert_int_equal(got.indirect_ref[0], 0xdeadbeef);
    assert_int_equal(got.segment_count, count);
    static uint8_t page[4096];
    for (unsigned i = 0; i < count; i++) {
        uint32_t ref = i * 3;
        memcpy(page + i * 8, &ref, 4);
        page[i * 8 + 4] = 1, page[i * 8 + 5] = 6;
    }
    assert_true(blkif_add_segments(&got, page, sizeof page));
    assert_int_equal(got.indirect_pages, 0);
    assert_int_equal(got.segments[count - 1].ref, (count - 1) * 3);
    assert_int_equal(got.segments[count - 1].last_sect, 6);
    answer(5, BLKIF_ERROR);
}

static void test_requests(void **state)
{
    for (unsigned a = 0; a < 3; a++) {
        start(abis[a], 1, false);
        each_direct(1);
        each_direct(11);
        each_indirect(1);
        each_indirect(BLKIF_SEGMENTS_MAX);
        struct blkif_request flush = {.op = BLKIF_FLUSH_DISKCACHE};
        add(&flush, 1);
        pop();
        assert_int_equal(got.op, BLKIF_FLUSH_DISKCACHE);
        assert_int_equal(got.segment_count, 0);
        assert_false(got.invalid);
        answer(1, BLKIF_EOPNOTSUPP);
        struct blkif_request discard = {.op = BLKIF_DISCARD, .discard_flags = 1, .sector = 8};
        discard.discard_sectors = UINT64_C(0xfedcba9876543210);
        add(&discard, 2);
        pop();
        assert_int_equal(got.op, BLKIF_DISCARD);
        assert_int_equal(got.discard_flags, BLKIF_DISCARD_F_SECURE);
        assert_true(got.sector == 8 && got.discard_sectors == discard.discard_sectors);
        answer(2, BLKIF_OKAY);
        assert_int_equal(blkif_pop(ring, &got), 0);
        blkif_free(ring);
    }
}

/* A flush that carries data is as strong as a barrier, and answered as what it was. */
static void test_flush_with_data(void **state)
{
    start(BLKIF_ABI_NATIVE, 1, false);
    struct blkif_segment one = {1, 0, 7};
    struct blkif_request q = {.op = BLKIF_FLUSH_DISKCACHE, .segment_count = 1, .segments = &one};
    add(&q, 1);
    pop();
    assert_int_equal(got.op, BLKIF_WRITE_BARRIER);
    assert_int_equal(got.segment_count, 1);
    answer(1, BLKIF_OKAY);
    blkif_free(ring);
}

static void test_events(void **state)
{
    start(BLKIF_ABI_NATIVE, 1, false);
    struct blkif_request q = {.op = BLKIF_FLUSH_DISKCACHE};
    assert_false(blkif_final_check(ring));
    assert_true(blkif_sim_add(&sim, &q, 1));
    assert_true(blkif_sim_publish(&sim)); /* the first after it was asked for */
    assert_true(blkif_sim_add(&sim, &q, 2));
    assert_false(blkif_sim_publish(&sim));
    assert_true(blkif_final_check(ring)); /* two that nobody notified of since */
    assert_false(blkif_sim_final_check(&sim));
    for (unsigned i = 0; i < 2; i++) {
        pop();
        blkif_push(ring, got.slot, BLKIF_OKAY);
        assert_int_equal(blkif_publish(ring), i == 0);
        assert_false(blkif_publish(ring));
    }
    assert_true(blkif_sim_final_check(&sim));
    answered(1, 0);
    answered(2, 0);
    assert_false(blkif_sim_final_check(&sim));
    assert_null(sim.error);
    blkif_free(ring);
}

/* Random traffic, answered in any order; restarts in between, when there is a table. */
static void traffic(enum blkif_abi abi, unsigned pages, bool tracked)
{
    static uint16_t held[BLKIF_SIM_ENTRIES_MAX];
    unsigned held_count = 0;
    uint64_t seed = abi + pages, token, added = 0, finished = 0;
    int status;
    start(abi, pages, tracked);
    for (unsigned step = 0; step < 20000; step++) {
        struct blkif_request q = {.op = BLKIF_FLUSH_DISKCACHE};
        unsigned what = (unsigned)(rig_random(&seed) % (tracked && step % 16 == 0 ? 6 : 5));
        if (what == 0) {
            while (rig_random(&seed) % 8 && blkif_sim_add(&sim, &q, added))
                added++;
            blkif_sim_publish(&sim);
        } else if (what == 1) {
            while (rig_random(&seed) % 8 && blkif_pop(ring, &got) == 1)
                held[held_count++] = got.slot;
        } else if (what == 2 && held_count) {
            unsigned which = (unsigned)(rig_random(&seed) % held_count);
            blkif_push(ring, held[which], BLKIF_OKAY);
            held[which] = held[--held_count];
        } else if (what == 3) {
            blkif_publish(ring);
        } else if (what == 4) {
            while (blkif_sim_get(&sim, &token, &status))
                finished++;
        } else if (what == 5) {
            restart();
            held_count = 0;
        }
        if (sim.error) fail_msg("%s", sim.error);
        assert_null(blkif_broken(ring));
        assert_int_equal(blkif_in_flight(ring), held_count);
    }
    while (held_count)
        blkif_push(ring, held[--held_count], BLKIF_OKAY);
    while (blkif_pop(ring, &got) == 1)
        blkif_push(ring, got.slot, BLKIF_OKAY);
    blkif_publish(ring);
    while (blkif_sim_get(&sim, &token, &status))
        finished++;
    assert_int_equal(added, finished);
    assert_true(finished > 1000);
    blkif_free(ring);
}

static void test_traffic(void **state)
{
    for (unsigned a = 0; a < 3; a++)
        for (unsigned pages = 1; pages <= BLKIF_RING_PAGES_MAX; pages *= 4)
            for (unsigned tracked = 0; tracked < 2; tracked++)
                traffic(abis[a], pages, tracked);
}

/* What was taken comes again, in that order; what was pushed only, too; what was published does not. */
static void test_restart(void **state)
{
    uint16_t slot[6];
    struct blkif_request q = {.op = BLKIF_FLUSH_DISKCACHE};
    start(BLKIF_ABI_NATIVE, 1, true);
    for (unsigned i = 0; i < 6; i++) {
        q.sector = i;
        add(&q, i);
    }
    for (unsigned i = 0; i < 5; i++) {
        pop();
        slot[i] = got.slot;
    }
    blkif_push(ring, slot[3], BLKIF_OKAY);
    blkif_publish(ring);
    blkif_push(ring, slot[2], BLKIF_OKAY);
    restart();
    assert_true(blkif_publish(ring)); /* the guest may not have heard of the last */
    assert_false(blkif_publish(ring));
    answered(3, BLKIF_OKAY);
    static const unsigned again[] = {0, 1, 2, 4, 5};
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(blkif_resuming(ring), i < 4);
        pop();
        assert_int_equal(got.sector, again[i]);
        answer(again[i], BLKIF_OKAY);
    }
    assert_int_equal(blkif_pop(ring, &got), 0);
    blkif_free(ring);
}

static void refuses(const struct blkif_setup *s, const char *words)
{
    struct errmsg e = {""};
    struct blkif_ring *r;
    assert_int_equal(blkif_new(&r, s, &e), -EINVAL);
    if (!strstr(e.text, words)) fail_msg("\"%s\" does not say \"%s\"", e.text, words);
}

static int again(bool resume, struct errmsg *e)
{
    blkif_free(ring);
    ring = NULL;
    setup.resume = resume;
    return blkif_new(&ring, &setup, e);
}

/* Some answered and some open: only who has the table can go on. */
static void test_open_from_before(void **state)
{
    struct blkif_request q = {.op = BLKIF_FLUSH_DISKCACHE};
    struct errmsg e = {""};
    start(BLKIF_ABI_NATIVE, 1, true);
    add(&q, 0), add(&q, 1);
    assert_int_equal(again(false, &e), 0); /* nothing was answered: all are there */
    pop(), pop();
    answer(1, BLKIF_OKAY);
    assert_int_equal(again(false, &e), -EBUSY);
    assert_non_null(strstr(e.text, "open from before"));
    assert_int_equal(again(true, &e), 0);
    pop();
    answer(0, BLKIF_OKAY);
    assert_int_equal(again(false, &e), 0);
    add(&q, 2);
    pop();
    blkif_inflight_forget(table);
    assert_int_equal(again(true, &e), -EBUSY);
}

static void test_setups(void **state)
{
    struct blkif_setup good = {memory, 1, BLKIF_ABI_NATIVE, 16, table, false}, s;
    s = good, s.pages = 0, refuses(&s, "power of two");
    s = good, s.pages = 3, refuses(&s, "power of two");
    s = good, s.pages = 32, refuses(&s, "power of two");
    s = good, s.segments_max = BLKIF_SEGMENTS_MAX + 1, refuses(&s, "segments");
    s = good, s.abi = 3, refuses(&s, "layout");
    s = good, s.ring = NULL, refuses(&s, "page");
    s = good, s.ring = memory + 8, refuses(&s, "page");
    s = good, s.inflight = table + 8, refuses(&s, "table");
}

static void test_spoilt_tables(void **state)
{
    struct blkif_request q = {.op = BLKIF_FLUSH_DISKCACHE};
    static char kept[sizeof table];
    start(BLKIF_ABI_NATIVE, 1, true);
    add(&q, 1), add(&q, 2);
    pop(), pop();
    blkif_push(ring, got.slot, BLKIF_OKAY);
    blkif_free(ring);
    memcpy(kept, table, sizeof table);
    setup.resume = true;
    struct blkif_setup other = setup;
    other.pages = 2, refuses(&other, "another kind");
    other = setup, other.abi = BLKIF_ABI_X86_32, refuses(&other, "another kind");
    table[0] ^= 1, refuses(&setup, "another kind");
    memcpy(table, kept, sizeof table);
    memcpy(table + 64, table + 64 + 128, 8), refuses(&setup, "contradicts"); /* two taken at once */
    memcpy(table, kept, sizeof table);
    table[64 + 128 + 8 + 6] = 1, refuses(&setup, "contradicts"); /* an answer without end */
    memcpy(table, kept, sizeof table);
    table[12] += 100, refuses(&setup, "contradicts"); /* answered long ago and not free */
    memcpy(table, kept, sizeof table);
    memset(table + 64, 0xff, 8), refuses(&setup, "contradicts"); /* taken after all that could ever be */
    memset(table, 0, sizeof table);                              /* never started */
    assert_int_equal(blkif_new(&ring, &setup, NULL), 0);
    assert_false(blkif_resuming(ring));
    blkif_free(ring);
}

static void test_no_memory(void **state)
{
    struct errmsg e;
    for (unsigned tracked = 0; tracked < 2; tracked++) {
        struct blkif_setup s = {memory, 1, BLKIF_ABI_NATIVE, 16, tracked ? table : NULL, tracked};
        unsigned failures = 0;
        for (;; failures++) {
            alloc_countdown = failures + 1;
            int ret = blkif_new(&ring, &s, &e);
            bool all = alloc_countdown > 0;
            alloc_countdown = 0;
            if (all) {
                assert_int_equal(ret, 0);
                break;
            }
            assert_int_equal(ret, -ENOMEM);
            assert_null(ring);
        }
        assert_true(failures >= 5);
        blkif_free(ring);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries),          cmocka_unit_test(test_requests),
        cmocka_unit_test(test_flush_with_data),  cmocka_unit_test(test_events),
        cmocka_unit_test(test_traffic),          cmocka_unit_test(test_restart),
        cmocka_unit_test(test_open_from_before), cmocka_unit_test(test_setups),
        cmocka_unit_test(test_spoilt_tables),    cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
