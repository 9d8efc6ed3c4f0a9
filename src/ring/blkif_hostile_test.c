/* SPDX-License-Identifier: Apache-2.0 */
/* What a hostile front end writes into its ring, one case each, in both layouts. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ring/blkif.h"
#include "ring/blkif_wire.h"

static _Alignas(4096) char memory[4096];
static _Alignas(64) char table[8192];
static struct blkif_ring *ring;
static struct blkif_segment segments[BLKIF_SEGMENTS_MAX];
static struct blkif_request got;
static const struct blkif_layout *layout;
static enum blkif_abi abi;

static struct xen_ring *shared(void)
{
    return (struct xen_ring *)(void *)memory;
}

static char *entry(unsigned at)
{
    return memory + sizeof(struct xen_ring) + at * layout->entry_bytes;
}

static void open_ring(void)
{
    memset(memory, 0, sizeof memory);
    memset(table, 0, sizeof table);
    layout = abi == BLKIF_ABI_X86_32 ? &blkif_layout32 : &blkif_layout64;
    struct blkif_setup s = {memory, 1, abi, 64, table, false};
    assert_int_equal(blkif_new(&ring, &s, NULL), 0);
    got = (struct blkif_request){.segments = segments};
}

/* A request of one segment, at the ring's start. */
static void put(uint8_t op, uint8_t second)
{
    struct blkif_wire_segment one = {5, 0, 7, 0};
    entry(0)[0] = (char)op;
    entry(0)[1] = (char)second;
    memcpy(entry(0) + layout->segment, &one, sizeof one);
    shared()->req_prod = 1;
}

static void set_segment(unsigned at, uint8_t first, uint8_t last)
{
    struct blkif_wire_segment s = {9, first, last, 0xffff};
    memcpy(entry(0) + layout->segment + at * sizeof s, &s, sizeof s);
}

static void set_count16(uint16_t count)
{
    memcpy(entry(0) + 2, &count, sizeof count);
}

static void pop(void)
{
    assert_int_equal(blkif_pop(ring, &got), 1);
}

/* It is answered with an error, and the next is as good as ever. */
static void costs_the_request_only(void)
{
    pop();
    assert_true(got.invalid);
    assert_int_equal(got.segment_count, 0);
    assert_int_equal(got.indirect_pages, 0);
    assert_int_not_equal(got.op, BLKIF_INDIRECT);
    blkif_push(ring, got.slot, BLKIF_ERROR);
    blkif_publish(ring);
    assert_int_equal(shared()->rsp_prod, 1);
    entry(1)[0] = BLKIF_FLUSH_DISKCACHE;
    shared()->req_prod = 2;
    pop();
    assert_false(got.invalid);
    blkif_free(ring);
}

static void test_counts(void **state)
{
    static const uint8_t ops[] = {BLKIF_READ, BLKIF_WRITE, BLKIF_WRITE_BARRIER, BLKIF_FLUSH_DISKCACHE};
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned count = 12; count < 256; count++) {
            open_ring();
            put(ops[i], (uint8_t)count);
            costs_the_request_only();
        }
        if (i > 1) continue;
        open_ring();
        put(ops[i], 0);
        costs_the_request_only();
    }
}

static void test_sectors(void **state)
{
    for (unsigned first = 0; first < 256; first++)
        for (unsigned last = 0; last < 256; last += last < 16 ? 1 : 5) {
            open_ring();
            put(BLKIF_WRITE, 11);
            for (unsigned i = 0; i < 11; i++)
                set_segment(i, 0, 7);
            set_segment(10, (uint8_t)first, (uint8_t)last);
            if (first > last || last > 7) {
                costs_the_request_only();
                continue;
            }
            pop();
            assert_false(got.invalid);
            assert_int_equal(got.segment_count, 11);
            blkif_free(ring);
        }
}

static void test_unknown_operations(void **state)
{
    for (unsigned op = 0; op < 256; op++) {
        if (op <= BLKIF_FLUSH_DISKCACHE || op == BLKIF_DISCARD || op == BLKIF_INDIRECT) continue;
        open_ring();
        put((uint8_t)op, 11);
        pop();
        assert_false(got.invalid);
        assert_int_equal(got.op, op);
        assert_int_equal(got.segment_count, 0);
        blkif_push(ring, got.slot, BLKIF_EOPNOTSUPP);
        blkif_publish(ring);
        int16_t status;
        memcpy(&status, entry(0) + 10, sizeof status);
        assert_int_equal(status, BLKIF_EOPNOTSUPP);
        assert_int_equal((uint8_t)entry(0)[8], op);
        blkif_free(ring);
    }
}

static void test_indirect(void **state)
{
    for (unsigned inner = 0; inner < 256; inner++) { /* an indirect one within it among them */
        open_ring();
        put(BLKIF_INDIRECT, (uint8_t)inner);
        set_count16(3);
        if (inner > BLKIF_WRITE) {
            costs_the_request_only();
            continue;
        }
        pop();
        assert_int_equal(got.indirect_pages, 1);
        blkif_free(ring);
    }
    static const uint16_t bad[] = {0, 65, 512, 513, 4096, 4097, 65535};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        open_ring();
        put(BLKIF_INDIRECT, BLKIF_READ);
        set_count16(bad[i]);
        costs_the_request_only();
    }
}

static void indirect_pages(struct blkif_wire_segment *page, size_t bytes, bool expected)
{
    open_ring();
    put(BLKIF_INDIRECT, BLKIF_WRITE);
    set_count16(64);
    pop();
    assert_int_equal(blkif_add_segments(&got, page, bytes), expected);
    assert_int_equal(got.invalid, !expected);
    assert_int_equal(got.segment_count, expected ? 64 : 0);
    blkif_free(ring);
}

static void test_indirect_pages(void **state)
{
    struct blkif_wire_segment page[64];
    for (unsigned i = 0; i < 64; i++)
        page[i] = (struct blkif_wire_segment){i, 0, 7, 0};
    indirect_pages(page, sizeof page, true);
    indirect_pages(page, sizeof page - 1, false);
    indirect_pages(page, 0, false);
    page[63].last_sect = 8, indirect_pages(page, sizeof page, false);
    page[63].last_sect = 7, page[0].first_sect = 8, indirect_pages(page, sizeof page, false);
}

/* The index jumps, at once or after what was good. */
static void jumps(uint32_t good, uint32_t to)
{
    open_ring();
    for (unsigned i = 0; i < 32; i++)
        entry(i)[0] = BLKIF_FLUSH_DISKCACHE;
    shared()->req_prod = good;
    for (uint32_t i = 0; i < good; i++)
        pop();
    shared()->req_prod = to;
    assert_true(blkif_has_work(ring));
    assert_int_equal(blkif_pop(ring, &got), -EPROTO);
    assert_non_null(blkif_broken(ring));
    assert_false(blkif_has_work(ring));
    shared()->req_prod = good + 1;
    assert_int_equal(blkif_pop(ring, &got), -EPROTO);
    if (good) blkif_push(ring, got.slot, BLKIF_OKAY); /* what had been taken is still answered */
    blkif_publish(ring);
    assert_int_equal(shared()->rsp_prod, good ? 1 : 0);
    blkif_free(ring);
}

static void test_jumps(void **state)
{
    jumps(0, 33);
    jumps(0, 0x80000000u);
    jumps(0, 0xffffffffu);
    jumps(8, 33 + 8);
    jumps(8, 33); /* none of the first was answered */
    jumps(8, 7);  /* backwards */
    jumps(32, 33);
    jumps(32, 0);
}

/* The guest writes over its requests while they are in flight, and over everything that is ours to say. */
static void test_own_copy(void **state)
{
    open_ring();
    put(BLKIF_WRITE, 1);
    uint64_t id = 0x1122334455667788;
    memcpy(entry(0) + layout->id, &id, sizeof id);
    pop();
    memset(memory + 64, 0xff, sizeof memory - 64);
    shared()->rsp_prod = 77;
    blkif_push(ring, got.slot, BLKIF_OKAY);
    blkif_publish(ring);
    assert_int_equal(shared()->rsp_prod, 1);
    uint64_t answered;
    memcpy(&answered, entry(0), sizeof answered);
    assert_true(answered == id);
    assert_int_equal(entry(0)[8], BLKIF_WRITE);
    for (unsigned i = layout->response_bytes; i < layout->entry_bytes; i++)
        assert_int_equal((uint8_t)entry(0)[i], 0xff); /* and nothing after it is touched */
    blkif_free(ring);
}

/* What lay on the stack before is to be told from what was written. */
__attribute__((noinline)) static void spoil_stack(void)
{
    volatile uint8_t bytes[8192];
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = 0xaa;
}

/* XSA-216: every byte of an answer is written, and what it does not need is 0: nothing of another guest's is left in it, neither from the
 * ring nor from our stack. */
static void test_answers_leak_nothing(void **state)
{
    struct blkif_wire_response64 expected = {.id = 0x1122334455667788, .op = BLKIF_WRITE, .status = BLKIF_ERROR};
    open_ring();
    put(BLKIF_WRITE, 1);
    memcpy(entry(0) + layout->id, &expected.id, sizeof expected.id);
    pop();
    memset(memory + 64, 0xaa, sizeof memory - 64);
    spoil_stack();
    blkif_push(ring, got.slot, BLKIF_ERROR);
    blkif_publish(ring);
    assert_memory_equal(entry(0), &expected, layout->response_bytes);
    blkif_free(ring);
}

/* A successor does not believe the ring's word about answers, and what it takes over is checked like what is new. */
static void test_restart(void **state)
{
    open_ring();
    put(BLKIF_WRITE, 1);
    pop();
    blkif_push(ring, got.slot, BLKIF_OKAY);
    blkif_free(ring);
    shared()->rsp_prod = 1; /* it is not published */
    memset(table + 64 + 16, 0xff, 112);
    struct blkif_setup s = {memory, 1, abi, 64, table, true};
    assert_int_equal(blkif_new(&ring, &s, NULL), 0);
    assert_int_equal(shared()->rsp_prod, 0);
    pop();
    assert_int_equal(got.op, 0xff);
    assert_int_equal(got.segment_count, 0);
    assert_int_equal(blkif_pop(ring, &got), 0);
    blkif_free(ring);
}

static int use_32(void **state)
{
    abi = BLKIF_ABI_X86_32;
    return 0;
}

static int use_64(void **state)
{
    abi = BLKIF_ABI_X86_64;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_sectors),
        cmocka_unit_test(test_unknown_operations),
        cmocka_unit_test(test_indirect),
        cmocka_unit_test(test_indirect_pages),
        cmocka_unit_test(test_jumps),
        cmocka_unit_test(test_own_copy),
        cmocka_unit_test(test_answers_leak_nothing),
        cmocka_unit_test(test_restart),
    };
    int failed = cmocka_run_group_tests(tests, use_32, NULL);
    return failed + cmocka_run_group_tests(tests, use_64, NULL);
}
