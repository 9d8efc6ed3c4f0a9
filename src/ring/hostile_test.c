/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hostile driver writes into its rings, one case each. The queue breaks, says why, stays broken, and
 * what had been popped before can still be given back.
 */
#include "ring/virtq.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ring/test_rig.h"
#include "ring/wire.h"

#define SIZE 8u
#define IOV_MAX_TEST 16u

static struct rig rig;
static struct virtq_chain chain;
static struct iovec iov[IOV_MAX_TEST];

static void open_rig(bool packed)
{
    struct rig_options o = {.size = SIZE, .packed = packed, .event_idx = true, .base = packed ? 0x80008000 : 0};
    rig_open(&rig, &o);
}

static char *desc(unsigned at)
{
    return (char *)rig.setup.desc + at * DESC_BYTES;
}

/* Write a descriptor; extra is next (split) or id (packed). */
static void set_words(char *to, uint64_t addr, uint32_t length, unsigned flags, unsigned extra)
{
    bool packed = rig.setup.packed;
    uint64_t third = packed ? extra : flags, fourth = packed ? flags : extra;
    uint64_t words[2] = {addr, length | third << 32 | fourth << 48};
    memcpy(to, words, sizeof words);
}

static void set(unsigned at, uint64_t addr, uint32_t length, unsigned flags, unsigned extra)
{
    set_words(desc(at), addr, length, rig.setup.packed ? flags | DESC_F_AVAIL : flags, extra);
}

static void set_good(unsigned at, unsigned flags, unsigned extra)
{
    set(at, rig.buffers_gpa, 512, flags, extra);
}

/* Split: put heads into the available ring from position 0 on and set its index. */
static void offer(unsigned count, const uint16_t *heads, uint16_t idx)
{
    char *avail = rig.setup.driver;
    for (unsigned i = 0; i < count; i++)
        ring_store16(avail + SPLIT_RING + i * SPLIT_AVAIL_ENTRY, heads[i]);
    ring_store16_release(avail + SPLIT_IDX, idx);
}

static void offer_one(uint16_t head)
{
    offer(1, &head, 1);
}

static int pop(void)
{
    return virtq_pop(rig.q, &chain, iov, IOV_MAX_TEST);
}

static void breaks(const char *words)
{
    assert_int_equal(pop(), -EPROTO);
    assert_non_null(virtq_broken(rig.q));
    if (!strstr(virtq_broken(rig.q), words)) fail_msg("\"%s\" does not say \"%s\"", virtq_broken(rig.q), words);
    assert_int_equal(pop(), -EPROTO);
    assert_false(virtq_has_work(rig.q));
    assert_false(virtq_kick_enable(rig.q));
    rig_close(&rig);
}

/* --- both kinds: the buffers of a chain --- */

/* Offer what starts at descriptor 0. */
static void open_with(bool packed)
{
    open_rig(packed);
    if (!packed) offer_one(0);
}

#define FOR_BOTH(packed) for (int packed = 0; packed < 2; packed++)

static void test_outside_memory(void **state)
{
    uint64_t end = RIG_BASE;
    open_rig(false);
    for (unsigned i = 0; i < rig.map->count; i++)
        end += rig.map->region[i].size_bytes;
    rig_close(&rig);
    const struct {
        uint64_t addr;
        uint32_t length;
    } bad[] = {{0, 512},
               {RIG_BASE - 1, 512},
               {end, 1},
               {end - 511, 512},
               {UINT64_MAX, 1},
               {UINT64_MAX - 100, 512},
               {RIG_BASE, UINT32_MAX},
               {end - 1, UINT32_MAX}};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++)
        FOR_BOTH(packed)
        {
            open_with(packed);
            set(0, bad[i].addr, bad[i].length, 0, 0);
            breaks("outside the guest's memory");
        }
}

static void test_no_length(void **state)
{
    FOR_BOTH(packed)
    {
        open_with(packed);
        set_good(0, DESC_F_NEXT, 1);
        set(1, rig.buffers_gpa, 0, DESC_F_WRITE, 0);
        breaks("no length");
    }
}

static void test_readable_after_writable(void **state)
{
    FOR_BOTH(packed)
    {
        open_with(packed);
        set_good(0, DESC_F_WRITE | DESC_F_NEXT, 1);
        set_good(1, 0, 0);
        breaks("readable buffer follows");
    }
}

/* A chain that there is no room for stays: it may be popped with more. */
static void test_too_many_buffers(void **state)
{
    FOR_BOTH(packed)
    {
        open_with(packed);
        for (unsigned i = 0; i < 4; i++)
            set_good(i, i < 3 ? DESC_F_NEXT : 0, i + 1);
        for (unsigned room = 1; room < 4; room++)
            assert_int_equal(virtq_pop(rig.q, &chain, iov, room), -E2BIG);
        assert_null(virtq_broken(rig.q));
        assert_int_equal(virtq_in_flight(rig.q), 0);
        assert_true(virtq_has_work(rig.q));
        assert_int_equal(virtq_pop(rig.q, &chain, iov, 4), 1);
        assert_int_equal(chain.out_count, 4);
        assert_int_equal(chain.split_count, 0);
        virtq_push(rig.q, chain.id, 0);
        virtq_publish(rig.q);
        rig_close(&rig);
    }
    FOR_BOTH(packed) /* one buffer, two regions, one place */
    {
        open_with(packed);
        set(0, rig.buffers_gpa + RIG_BUFFERS_BYTES / 2 - 1, 2, 0, 0);
        assert_int_equal(virtq_pop(rig.q, &chain, iov, 1), -E2BIG);
        assert_int_equal(virtq_pop(rig.q, &chain, iov, 2), 1);
        assert_int_equal(chain.out_count, 2);
        assert_int_equal(chain.split_count, 1);
        rig_close(&rig);
    }
}

/* Many descriptors of the same large buffer: 2^32 bytes are allowed, more are not. */
static void test_too_many_bytes(void **state)
{
    uint64_t buffer = 240 * 1024, count = (UINT64_C(1) << 32) / buffer + 1;
    struct iovec *many = calloc(2 * count, sizeof many[0]); /* each lies in two regions */
    FOR_BOTH(packed)
    {
        uint64_t size = 32768;
        struct rig_options o = {.size = (uint16_t)size, .packed = packed, .base = packed ? 0x80008000 : 0};
        rig_open(&rig, &o);
        if (!packed) offer_one(0);
        for (unsigned i = 0; i < count; i++)
            set(i, rig.buffers_gpa, (uint32_t)buffer, i + 1 < count ? DESC_F_NEXT : 0, i + 1);
        assert_int_equal(virtq_pop(rig.q, &chain, many, 2 * (unsigned)count), -EPROTO);
        breaks("more than 4 GiB");
    }
    free(many);
}

/* --- both kinds: indirect tables --- */

static void set_inner(unsigned at, unsigned flags, unsigned next)
{
    set_words(rig.indirect + at * DESC_BYTES, rig.buffers_gpa + 100 * at, 100, flags, next);
}

static void test_indirect_good(void **state)
{
    FOR_BOTH(packed)
    {
        open_with(packed);
        set(0, rig.indirect_gpa, 2 * DESC_BYTES, DESC_F_INDIRECT | DESC_F_WRITE, 3); /* WRITE is to be ignored here */
        set_inner(0, packed ? 0 : DESC_F_NEXT, 1);
        set_inner(1, DESC_F_WRITE, 0);
        assert_int_equal(pop(), 1);
        assert_int_equal(chain.out_count, 1);
        assert_int_equal(chain.in_count, 1);
        assert_int_equal(chain.in_bytes, 100);
        rig_close(&rig);
    }
}

static void test_indirect_unaligned(void **state)
{
    FOR_BOTH(packed)
    {
        open_with(packed);
        set(0, rig.indirect_gpa + 3, DESC_BYTES, DESC_F_INDIRECT, 0);
        set_words(rig.indirect + 3, rig.buffers_gpa + 7, 9, 0, 0);
        assert_int_equal(pop(), 1);
        assert_int_equal(chain.out_bytes, 9);
        rig_close(&rig);
    }
}

static void test_indirect_not_negotiated(void **state)
{
    FOR_BOTH(packed)
    {
        open_with(packed);
        virtq_free(rig.q);
        rig.setup.indirect = false;
        assert_int_equal(virtq_new(&rig.q, &rig.setup, rig.map, NULL), 0);
        set(0, rig.indirect_gpa, DESC_BYTES, DESC_F_INDIRECT, 0);
        breaks("not negotiated");
    }
}

static void test_indirect_lengths(void **state)
{
    const uint32_t bad[] = {0, 1, 15, 17, 8 * 16 + 8, (VIRTQ_SIZE_MAX + 1) * 16, UINT32_MAX, UINT32_MAX & ~15u};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++)
        FOR_BOTH(packed)
        {
            open_with(packed);
            set(0, rig.indirect_gpa, bad[i], DESC_F_INDIRECT, 0);
            breaks("impossible length");
        }
}

static void test_indirect_outside(void **state)
{
    FOR_BOTH(packed)
    {
        open_with(packed);
        set(0, UINT64_MAX - 15, DESC_BYTES, DESC_F_INDIRECT, 0);
        breaks("indirect table outside");
    }
}

static void test_indirect_nested(void **state)
{
    FOR_BOTH(packed)
    {
        open_with(packed);
        set(0, rig.indirect_gpa, DESC_BYTES, DESC_F_INDIRECT, 0);
        set_words(rig.indirect, rig.indirect_gpa, DESC_BYTES, DESC_F_INDIRECT, 0);
        breaks("inside an indirect table");
    }
}

/* The table is the ring itself, or an entry of the table the table: still inside one. */
static void test_indirect_itself(void **state)
{
    FOR_BOTH(packed)
    {
        open_with(packed);
        set(0, RIG_BASE, SIZE * DESC_BYTES, DESC_F_INDIRECT, 0);
        breaks("inside an indirect table");
    }
}

static void test_indirect_and_next(void **state)
{
    FOR_BOTH(packed)
    {
        open_with(packed);
        set(0, rig.indirect_gpa, DESC_BYTES, DESC_F_INDIRECT | DESC_F_NEXT, 1);
        set_inner(0, 0, 0);
        set_good(1, 0, 0);
        breaks(packed ? "in a chain of several" : "not the last of its chain");
    }
}

/* Direct descriptors and then a table: the split ring allows it, the packed one does not. */
static void test_indirect_last(void **state)
{
    FOR_BOTH(packed)
    {
        open_with(packed);
        set_good(0, DESC_F_NEXT, 5);
        set(packed ? 1 : 5, rig.indirect_gpa, DESC_BYTES, DESC_F_INDIRECT, 0);
        set_inner(0, DESC_F_WRITE, 0);
        if (packed) {
            breaks("in a chain of several");
            continue;
        }
        assert_int_equal(pop(), 1);
        assert_int_equal(chain.out_count, 1);
        assert_int_equal(chain.in_count, 1);
        rig_close(&rig);
    }
}

/* Drivers make tables longer than the queue: only the device's own limit counts. */
static void test_indirect_longer_than_queue(void **state)
{
    FOR_BOTH(packed)
    {
        open_with(packed);
        set(0, rig.indirect_gpa, 2 * SIZE * DESC_BYTES, DESC_F_INDIRECT, 0);
        for (unsigned i = 0; i < 2 * SIZE; i++)
            set_inner(i, !packed && i + 1 < 2 * SIZE ? DESC_F_NEXT : 0, i + 1);
        assert_int_equal(pop(), 1);
        assert_int_equal(chain.out_count, 2 * SIZE);
        rig_close(&rig);
    }
}

/* --- split --- */

static void test_index_jumps(void **state)
{
    const uint16_t bad[] = {SIZE + 1, 1000, 40000, 65535};
    for (unsigned i = 0; i < 4; i++) {
        open_rig(false);
        offer(0, NULL, bad[i]);
        breaks("index jumped");
    }
}

static void test_index_goes_back(void **state)
{
    const uint16_t heads[] = {0, 1};
    open_rig(false);
    set_good(0, 0, 0);
    set_good(1, 0, 0);
    offer(2, heads, 2);
    assert_int_equal(pop(), 1);
    assert_int_equal(pop(), 1);
    offer(0, NULL, 1);
    breaks("index jumped");
}

static void test_head_outside(void **state)
{
    const uint16_t bad[] = {SIZE, 100, 65535};
    for (unsigned i = 0; i < 3; i++) {
        open_rig(false);
        offer_one(bad[i]);
        breaks("past the descriptor table's end");
    }
}

static void test_head_twice(void **state)
{
    const uint16_t heads[] = {2, 2};
    open_rig(false);
    set_good(2, 0, 0);
    offer(2, heads, 2);
    assert_int_equal(pop(), 1);
    breaks("while in flight");

    open_rig(false); /* pushed, but the driver cannot know yet */
    set_good(2, 0, 0);
    offer(2, heads, 1);
    assert_int_equal(pop(), 1);
    virtq_push(rig.q, chain.id, 0);
    offer(0, NULL, 2);
    breaks("while in flight");

    open_rig(false); /* and published: now it may */
    set_good(2, 0, 0);
    offer(2, heads, 1);
    assert_int_equal(pop(), 1);
    virtq_push(rig.q, chain.id, 0);
    virtq_publish(rig.q);
    offer(0, NULL, 2);
    assert_int_equal(pop(), 1);
    rig_close(&rig);
}

static void test_next_outside(void **state)
{
    const uint16_t bad[] = {SIZE, 65535};
    for (unsigned i = 0; i < 2; i++) {
        open_with(false);
        set_good(0, DESC_F_NEXT, bad[i]);
        breaks("next is past");
        open_with(false); /* the same in a table of two, where 2 is already outside */
        set(0, rig.indirect_gpa, 2 * DESC_BYTES, DESC_F_INDIRECT, 0);
        set_inner(0, DESC_F_NEXT, bad[i] == SIZE ? 2 : bad[i]);
        breaks("next is past");
    }
}

static void test_loops(void **state)
{
    open_with(false);
    set_good(0, DESC_F_NEXT, 0);
    breaks("loops");

    open_with(false);
    for (unsigned i = 0; i < SIZE; i++)
        set_good(i, DESC_F_NEXT, (i + 1) % SIZE);
    breaks("loops");

    open_with(false);
    set(0, rig.indirect_gpa, 2 * DESC_BYTES, DESC_F_INDIRECT, 0);
    set_inner(0, DESC_F_NEXT, 1);
    set_inner(1, DESC_F_NEXT, 0);
    breaks("loops");

    open_with(false); /* as long as the table, and no loop */
    for (unsigned i = 0; i < SIZE; i++)
        set_good(i, i + 1 < SIZE ? DESC_F_NEXT : 0, i + 1);
    assert_int_equal(pop(), 1);
    assert_int_equal(chain.out_count, SIZE);
    rig_close(&rig);
}

/* --- packed --- */

static void test_packed_id_twice(void **state)
{
    open_rig(true);
    set_good(0, 0, 9);
    set_good(1, 0, 9);
    assert_int_equal(pop(), 1);
    breaks("buffer id was made available while in flight");
}

static void test_packed_any_id(void **state)
{
    open_rig(true);
    set_good(0, 0, 65535); /* the id is the driver's own business */
    assert_int_equal(pop(), 1);
    assert_true(chain.id < SIZE);
    virtq_push(rig.q, chain.id, 0);
    virtq_publish(rig.q);
    assert_int_equal(ring_load16(desc(0) + PACKED_ID), 65535);
    rig_close(&rig);
}

static void test_packed_endless(void **state)
{
    open_rig(true);
    for (unsigned i = 0; i < SIZE; i++)
        set_good(i, DESC_F_NEXT, 0);
    breaks("longer than the room");

    open_rig(true); /* more slots than the ring has left */
    set_good(0, 0, 0);
    assert_int_equal(pop(), 1);
    for (unsigned i = 1; i < SIZE; i++)
        set_good(i, DESC_F_NEXT, 1);
    set(0, rig.buffers_gpa, 1, DESC_F_USED, 1);
    ring_store16(desc(0) + PACKED_FLAGS, DESC_F_USED);
    breaks("longer than the room");
}

static void test_packed_overtakes(void **state)
{
    open_rig(true);
    for (unsigned i = 0; i < SIZE; i++)
        set_good(i, 0, i);
    for (unsigned i = 0; i < SIZE; i++)
        assert_int_equal(pop(), 1);
    assert_int_equal(pop(), 0);
    set_words(desc(0), rig.buffers_gpa, 512, DESC_F_USED, 100); /* available in the next round, with none returned */
    breaks("longer than the room");
}

/* --- what breaks does not take the chains in flight with it --- */

static void test_push_after_break(void **state)
{
    FOR_BOTH(packed)
    {
        open_rig(packed);
        struct driver_sim_buf b = {{rig.buffers_gpa}, 512, true};
        assert_true(driver_sim_add(rig.driver, &b, 1, false, 77));
        driver_sim_publish(rig.driver);
        assert_int_equal(pop(), 1);
        virtq_break(rig.q, "test");
        virtq_push(rig.q, chain.id, 512);
        assert_true(virtq_publish(rig.q));
        uint64_t token;
        uint32_t written;
        assert_true(driver_sim_get(rig.driver, &token, &written));
        assert_int_equal(token, 77);
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outside_memory),
        cmocka_unit_test(test_no_length),
        cmocka_unit_test(test_readable_after_writable),
        cmocka_unit_test(test_too_many_buffers),
        cmocka_unit_test(test_too_many_bytes),
        cmocka_unit_test(test_indirect_good),
        cmocka_unit_test(test_indirect_unaligned),
        cmocka_unit_test(test_indirect_not_negotiated),
        cmocka_unit_test(test_indirect_lengths),
        cmocka_unit_test(test_indirect_outside),
        cmocka_unit_test(test_indirect_nested),
        cmocka_unit_test(test_indirect_itself),
        cmocka_unit_test(test_indirect_and_next),
        cmocka_unit_test(test_indirect_last),
        cmocka_unit_test(test_indirect_longer_than_queue),
        cmocka_unit_test(test_index_jumps),
        cmocka_unit_test(test_index_goes_back),
        cmocka_unit_test(test_head_outside),
        cmocka_unit_test(test_head_twice),
        cmocka_unit_test(test_next_outside),
        cmocka_unit_test(test_loops),
        cmocka_unit_test(test_packed_id_twice),
        cmocka_unit_test(test_packed_any_id),
        cmocka_unit_test(test_packed_endless),
        cmocka_unit_test(test_packed_overtakes),
        cmocka_unit_test(test_push_after_break),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
