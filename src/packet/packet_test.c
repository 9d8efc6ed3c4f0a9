/* SPDX-License-Identifier: Apache-2.0 */
/* Frames in pieces against a flat array of the same bytes, and the pool's bounds. */
#include "packet/test_util.h"

#include <errno.h>

static void fill_counting(uint8_t *bytes, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 251);
}

static void reading_and_describing_agree_with_a_flat_frame(void **state)
{
    struct test_random r = {1};
    uint8_t flat[600], back[600];
    fill_counting(flat, sizeof flat);
    for (unsigned round = 0; round < 3000; round++) {
        uint32_t n = test_below(&r, sizeof flat + 1);
        struct test_packet *t = test_packet_new(&r, flat, n, 0);
        uint32_t at = test_below(&r, n + 1), length = test_below(&r, n - at + 1);
        packet_read(&t->p, at, back, length);
        assert_memory_equal(back, flat + at, length);

        struct iovec iov[TEST_PIECES + 1];
        int count = packet_iov(&t->p, at, length, iov, TEST_PIECES + 1);
        assert_true(count >= 0);
        uint32_t sum = 0;
        for (int i = 0; i < count; i++) {
            assert_memory_equal(iov[i].iov_base, flat + at + sum, iov[i].iov_len);
            sum += (uint32_t)iov[i].iov_len;
        }
        assert_int_equal(sum, length);
        if (count > 0) assert_int_equal(packet_iov(&t->p, at, length, iov, (unsigned)count - 1), -E2BIG);
        test_packet_free(t);
    }
}

static void pulled_frames_have_the_same_bytes(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    struct test_random r = {2};
    uint8_t flat[600];
    fill_counting(flat, sizeof flat);
    for (unsigned round = 0; round < 3000; round++) {
        uint32_t n = test_below(&r, sizeof flat + 1);
        struct test_packet *t = test_packet_new(&r, flat, n, 0);
        struct iovec before[TEST_PIECES];
        memcpy(before, t->iov, sizeof before);
        uint16_t had = t->p.head_bytes, want = (uint16_t)test_below(&r, 320);
        bool fits = want <= had || (want <= n && want <= PACKET_HEAD_BYTES);
        assert_int_equal(packet_pull(pool, &t->p, want), fits);
        assert_int_equal(t->p.head_bytes, fits && want > had ? want : had);
        test_assert_bytes(&t->p, flat, n);
        assert_memory_equal(before, t->iov, sizeof before); /* it may be shared */
        packet_pool_reset(pool);
        test_packet_free(t);
    }
    packet_pool_free(pool);
}

static void a_pull_does_not_leave_the_heads_buffer(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    struct test_random r = {3};
    uint8_t flat[600];
    fill_counting(flat, sizeof flat);
    struct test_packet *t = test_packet_with_head(&r, flat, sizeof flat, 100);
    assert_true(packet_remove(&t->p, 12, 4));
    assert_false(packet_pull(pool, &t->p, PACKET_HEAD_BYTES - 3));
    assert_true(packet_pull(pool, &t->p, PACKET_HEAD_BYTES - 4));
    test_packet_free(t);
    packet_pool_free(pool);
}

static void a_pull_without_an_iov_changes_nothing(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    uint8_t bytes[8] = "abcdefgh", buffer[PACKET_BUFFER_BYTES];
    struct iovec body = {bytes, 8};
    struct packet p = {.head = buffer + 64, .room_bytes = 64, .length_bytes = 8, .body = &body, .body_count = 1};
    assert_non_null(packet_pool_iov(pool, PACKET_POOL_IOVS));
    assert_int_equal(packet_pool_iov_left(pool), 0);
    assert_false(packet_pull(pool, &p, 3));
    assert_ptr_equal(p.body, &body);
    assert_int_equal(p.head_bytes, 0);
    assert_true(packet_pull(pool, &p, 8)); /* a whole piece: none is needed */
    assert_int_equal(p.body_count, 0);
    packet_pool_free(pool);
}

/* Where a layer goes: it moves with the byte that it is at. */
static uint16_t moved_in(uint16_t layer, uint16_t at, uint16_t n)
{
    return layer == PACKET_NO_LAYER ? layer : layer >= at ? (uint16_t)(layer + n) : layer;
}

static void inserting_and_removing_are_as_on_a_flat_frame(void **state)
{
    struct test_random r = {4};
    uint8_t flat[700];
    for (unsigned round = 0; round < 3000; round++) {
        uint32_t n = test_below(&r, 500);
        fill_counting(flat, n);
        struct test_packet *t = test_packet_new(&r, flat, n, 0);
        struct packet *p = &t->p;
        p->l3_at = test_chance(&r, 4) ? PACKET_NO_LAYER : (uint16_t)test_below(&r, 100);
        p->offload = (struct packet_offload){.csum_partial = true, .csum_start = (uint16_t)test_below(&r, 100)};
        uint16_t at = (uint16_t)test_below(&r, 300), k = (uint16_t)test_below(&r, 70);
        uint16_t l3_at = p->l3_at, start = p->offload.csum_start, head = p->head_bytes;
        bool fits = at <= head && k <= PACKET_ROOM_BYTES;
        assert_int_equal(packet_insert(p, at, k), fits);
        if (fits) {
            memmove(flat + at + k, flat + at, n - at);
            for (unsigned i = 0; i < k; i++)
                p->head[at + i] = flat[at + i] = (uint8_t)i;
            test_assert_bytes(p, flat, n + k);
            assert_int_equal(p->l3_at, moved_in(l3_at, at, k));
            assert_int_equal(p->offload.csum_start, moved_in(start, at, k));
            assert_int_equal(p->room_bytes, PACKET_ROOM_BYTES - k);
            assert_false(packet_remove(p, at, (uint16_t)(p->head_bytes - at + 1)));
            assert_true(packet_remove(p, at, k));
            memmove(flat + at, flat + at + k, n - at);
            assert_int_equal(p->l3_at, l3_at);
            assert_int_equal(p->offload.csum_start, start);
        }
        assert_int_equal(p->room_bytes, PACKET_ROOM_BYTES);
        test_assert_bytes(p, flat, n);
        test_packet_free(t);
    }
}

static void a_layer_that_is_removed_is_none(void **state)
{
    uint8_t buffer[PACKET_BUFFER_BYTES] = {0};
    struct packet p = {.head = buffer + 64, .room_bytes = 64, .head_bytes = 100, .length_bytes = 100};
    p.l3_at = 14;
    p.l4_at = 34;
    p.offload = (struct packet_offload){.csum_partial = true, .csum_start = 20};
    assert_true(packet_remove(&p, 12, 10));
    assert_int_equal(p.l3_at, PACKET_NO_LAYER);
    assert_int_equal(p.l4_at, 24);
    assert_int_equal(p.offload.csum_start, 12);
}

static void a_clone_has_a_head_of_its_own_and_room_again(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    struct test_random r = {5};
    uint8_t flat[400];
    fill_counting(flat, sizeof flat);
    struct test_packet *t = test_packet_with_head(&r, flat, sizeof flat, PACKET_HEAD_BYTES);
    t->p.hash = 77;
    assert_true(packet_insert(&t->p, 0, 40));
    assert_true(packet_remove(&t->p, 0, 40));
    struct packet *c = packet_clone(pool, &t->p);
    test_assert_bytes(c, flat, sizeof flat);
    assert_int_equal(c->hash, 77);
    assert_int_equal(c->room_bytes, PACKET_ROOM_BYTES);
    assert_ptr_equal(c->body, t->p.body);
    memset(c->head, 0, c->head_bytes);
    test_assert_bytes(&t->p, flat, sizeof flat);

    /* A head that has grown to the whole of its buffer has no room, and nor has its clone. */
    assert_true(packet_insert(&t->p, 0, PACKET_ROOM_BYTES));
    memset(t->p.head, 9, PACKET_ROOM_BYTES);
    struct packet *full = packet_clone(pool, &t->p);
    assert_int_equal(full->room_bytes, 0);
    assert_int_equal(full->head_bytes, PACKET_BUFFER_BYTES);
    assert_memory_equal(full->head, t->p.head, PACKET_BUFFER_BYTES);
    test_packet_free(t);
    packet_pool_free(pool);
}

static void the_pool_ends_and_begins_again(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    uint8_t nothing[1];
    struct packet empty = {.head = nothing};
    for (unsigned turn = 0; turn < 2; turn++) {
        struct packet *last = NULL;
        for (unsigned i = 0; i < PACKET_POOL_PACKETS; i++) {
            struct packet *p = i % 2 ? packet_clone(pool, &empty) : packet_pool_packet(pool);
            assert_non_null(p);
            assert_ptr_not_equal(p, last);
            memset(p->head - p->room_bytes, 0xff, PACKET_BUFFER_BYTES);
            last = p;
        }
        assert_null(packet_pool_packet(pool));
        assert_null(packet_clone(pool, &empty));
        assert_non_null(packet_pool_iov(pool, PACKET_POOL_IOVS - 1));
        assert_null(packet_pool_iov(pool, 2));
        assert_non_null(packet_pool_iov(pool, 1));
        packet_pool_reset(pool);
    }
    packet_pool_packet(pool);
    struct packet_pool_mark mark = packet_pool_mark(pool);
    struct packet *p = packet_pool_packet(pool);
    struct iovec *iov = packet_pool_iov(pool, 5);
    packet_pool_rewind(pool, mark);
    assert_ptr_equal(packet_pool_packet(pool), p);
    assert_ptr_equal(packet_pool_iov(pool, 1), iov);
    packet_pool_free(pool);
    packet_pool_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reading_and_describing_agree_with_a_flat_frame),
        cmocka_unit_test(pulled_frames_have_the_same_bytes),
        cmocka_unit_test(a_pull_does_not_leave_the_heads_buffer),
        cmocka_unit_test(a_pull_without_an_iov_changes_nothing),
        cmocka_unit_test(inserting_and_removing_are_as_on_a_flat_frame),
        cmocka_unit_test(a_layer_that_is_removed_is_none),
        cmocka_unit_test(a_clone_has_a_head_of_its_own_and_room_again),
        cmocka_unit_test(the_pool_ends_and_begins_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
