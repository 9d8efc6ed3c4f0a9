/* SPDX-License-Identifier: Apache-2.0 */
/* Sums against the same sums made byte by byte. */
#include "packet/checksum.h"
#include "packet/test_util.h"

static uint16_t host_order(uint64_t sum)
{
    return be16_get(csum_unfinished(sum));
}

static void sums_of_memory(void **state)
{
    struct test_random r = {1};
    static uint8_t bytes[70000];
    test_fill(&r, bytes, sizeof bytes);
    for (size_t n = 0; n < 700; n++)
        assert_int_equal(host_order(csum_memory(bytes + n % 9, n)), naive_sum(0, bytes + n % 9, n));
    for (unsigned round = 0; round < 300; round++) {
        uint32_t at = test_below(&r, 100), n = test_below(&r, sizeof bytes - 100);
        assert_int_equal(host_order(csum_memory(bytes + at, n)), naive_sum(0, bytes + at, n));
    }
    memset(bytes, 0xff, sizeof bytes); /* every carry there is */
    for (size_t n = 0; n < sizeof bytes; n += n < 300 ? 1 : 977)
        assert_int_equal(host_order(csum_memory(bytes, n)), naive_sum(0, bytes, n));
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(csum_memory(bytes, sizeof bytes), 0);
}

static void sums_of_frames_in_pieces(void **state)
{
    struct test_random r = {2};
    uint8_t flat[3000];
    test_fill(&r, flat, sizeof flat);
    for (unsigned round = 0; round < 3000; round++) {
        uint32_t n = test_below(&r, sizeof flat + 1);
        struct test_packet *t = test_packet_new(&r, flat, n, 0);
        uint32_t at = test_below(&r, n + 1), length = test_below(&r, n - at + 1);
        assert_int_equal(host_order(packet_csum(&t->p, at, length)), naive_sum(0, flat + at, length));
        if (length >= 4) {
            uint32_t field = at + test_below(&r, length - 3);
            uint8_t saved[4];
            memcpy(saved, flat + field, 4);
            memset(flat + field, 0, 4);
            assert_int_equal(packet_crc32c(&t->p, at, length, field), naive_crc32c(flat + at, length));
            memcpy(flat + field, saved, 4);
        }
        test_packet_free(t);
    }
}

static void updates_equal_a_new_sum(void **state)
{
    struct test_random r = {3};
    for (unsigned round = 0; round < 200000; round++) {
        uint8_t words[12] = {0x45};
        test_fill(&r, words + 2, 10);
        if (test_chance(&r, 4)) memset(words + 2, test_chance(&r, 2) ? 0 : 0xff, 4);
        struct be16 field = csum_finished(csum_memory(words, 12)), open = csum_unfinished(csum_memory(words, 12));
        uint64_t removed = csum_memory(words + 2, 4);
        test_fill(&r, words + 2, 4);
        if (test_chance(&r, 4)) memset(words + 2, test_chance(&r, 2) ? 0 : 0xff, 4);
        uint64_t added = csum_memory(words + 2, 4);
        uint16_t want = (uint16_t)naive_sum(0, words, 12);
        assert_int_equal(be16_get(csum_update(field, removed, added)), (uint16_t)~want);
        assert_int_equal(be16_get(csum_update_unfinished(open, removed, added)), want);
    }
}

static void crc32c_of_known_strings(void **state)
{
    assert_int_equal(~crc32c_bytes(~0u, "123456789", 9), 0xe3069283u);
    struct test_random r = {4};
    uint8_t bytes[600];
    for (size_t n = 0; n < sizeof bytes; n++) {
        test_fill(&r, bytes, sizeof bytes);
        assert_int_equal(~crc32c_bytes(~0u, bytes, n), naive_crc32c(bytes, n));
        memset(bytes + n / 3, 0, n - n / 3);
        uint32_t crc = crc32c_bytes(~0u, bytes, n / 3);
        assert_int_equal(~crc32c_zeros(crc, n - n / 3), naive_crc32c(bytes, n));
    }
}

static void finishing_gives_what_the_sender_would_have(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    struct test_random r = {5};
    static const uint8_t protos[] = {6, 17, 58};
    static uint8_t payload[2000];
    static struct test_built open, done;
    for (unsigned round = 0; round < 3000; round++) {
        struct test_spec s;
        test_spec_random(&r, &s, protos[round % 3]);
        if (s.proto == 58) s.version = 6;
        test_fill(&r, payload, sizeof payload);
        s.payload = payload;
        s.payload_bytes = test_below(&r, sizeof payload);
        test_build(&done, &s);
        s.unfinished = true;
        test_build(&open, &s);
        struct test_packet *t = test_packet_new(&r, open.bytes, open.n, 0);
        t->p.offload =
            (struct packet_offload){.csum_partial = true, .csum_start = open.l4_at, .csum_offset = open.csum_offset};
        assert_true(packet_finish_csum(pool, &t->p));
        assert_false(t->p.offload.csum_partial);
        test_assert_bytes(&t->p, done.bytes, done.n);
        assert_true(packet_finish_csum(pool, &t->p)); /* nothing to do */
        test_assert_bytes(&t->p, done.bytes, done.n);
        packet_pool_reset(pool);
        test_packet_free(t);
    }
    packet_pool_free(pool);
}

/* A payload that makes the sum zero: UDP says 0xffff then, TCP says zero. */
static void a_sum_of_zero(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    struct test_random r = {6};
    static struct test_built b;
    for (unsigned i = 0; i < 2; i++) {
        struct test_spec s;
        test_spec_random(&r, &s, i ? 6 : 17);
        uint8_t payload[2] = {0};
        s.payload = payload;
        s.payload_bytes = 2;
        test_build(&b, &s);
        memcpy(payload, b.bytes + b.l4_at + b.csum_offset, 2);
        s.unfinished = true;
        test_build(&b, &s);
        struct test_packet *t = test_packet_new(&r, b.bytes, b.n, 0);
        t->p.offload =
            (struct packet_offload){.csum_partial = true, .csum_start = b.l4_at, .csum_offset = b.csum_offset};
        assert_true(packet_finish_csum(pool, &t->p));
        struct be16 field;
        packet_read(&t->p, b.l4_at + b.csum_offset, &field, 2);
        assert_int_equal(be16_get(field), i ? 0 : 0xffff);
        test_packet_free(t);
    }
    packet_pool_free(pool);
}

static void fields_outside_the_frame_are_refused(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    struct test_random r = {7};
    uint8_t flat[600] = {0};
    for (unsigned round = 0; round < 20000; round++) {
        uint32_t n = test_below(&r, sizeof flat);
        struct test_packet *t = test_packet_new(&r, flat, n, 0);
        t->p.offload.csum_partial = true;
        t->p.offload.csum_start = (uint16_t)(test_chance(&r, 4) ? test_random(&r) : test_below(&r, 600));
        t->p.offload.csum_offset = (uint16_t)(test_chance(&r, 4) ? test_random(&r) : test_below(&r, 60));
        uint32_t end = (uint32_t)t->p.offload.csum_start + t->p.offload.csum_offset + 2;
        assert_int_equal(packet_finish_csum(pool, &t->p), end <= n && end <= PACKET_HEAD_BYTES);
        packet_pool_reset(pool);
        test_packet_free(t);
    }
    packet_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_of_memory),
        cmocka_unit_test(sums_of_frames_in_pieces),
        cmocka_unit_test(updates_equal_a_new_sum),
        cmocka_unit_test(crc32c_of_known_strings),
        cmocka_unit_test(finishing_gives_what_the_sender_would_have),
        cmocka_unit_test(a_sum_of_zero),
        cmocka_unit_test(fields_outside_the_frame_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
