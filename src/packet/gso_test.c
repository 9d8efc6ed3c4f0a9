/* SPDX-License-Identifier: Apache-2.0 */
/* Segments against those that a naive sender writes one by one. */
#include "packet/gso.h"
#include "packet/test_util.h"

#include <errno.h>

static uint8_t payload[TEST_FRAME_BYTES];

/* A large frame with everything that may stand before its payload. */
static void random_large(struct test_random *r, struct test_spec *s, uint32_t most)
{
    test_spec_random(r, s, test_chance(r, 3) ? 17 : 6);
    s->labels = test_chance(r, 4) ? 1 + test_below(r, 3) : 0;
    s->option_words = test_chance(r, 4) ? test_below(r, 11) : 0;
    s->hop_by_hop = test_chance(r, 4);
    s->routing = test_chance(r, 6);
    s->destination = test_chance(r, 4);
    s->flags = (uint8_t)(0x10 | (test_random(r) & 0xc9)); /* CWR, ECE, PSH, FIN */
    s->payload = payload;
    s->payload_bytes = test_below(r, most);
    s->unfinished = true;
}

static struct packet_offload offload_of(const struct test_spec *s, const struct test_built *b, uint16_t size)
{
    uint8_t gso = s->proto == 6 ? (s->version == 4 ? PACKET_GSO_TCP4 : PACKET_GSO_TCP6)
                                : (s->version == 4 ? PACKET_GSO_UDP4 : PACKET_GSO_UDP6);
    return (struct packet_offload){
        .csum_partial = true, .gso = gso, .gso_size = size, .csum_start = b->l4_at, .csum_offset = b->csum_offset};
}

static struct test_spec segment_of(const struct test_spec *whole, uint32_t at, uint16_t size, unsigned index,
                                   bool unfinished)
{
    struct test_spec s = *whole;
    bool last = whole->payload_bytes - at <= size;
    s.payload = whole->payload + at;
    s.payload_bytes = last ? whole->payload_bytes - at : size;
    s.seq += at;
    s.id = (uint16_t)(s.id + index);
    s.unfinished = unfinished;
    if (!last) s.flags &= (uint8_t)~0x09;
    if (index > 0) s.flags &= 0x7f;
    return s;
}

/* Cut the frame up, a few segments at a time; how many. */
static unsigned compare_segments(struct packet_pool *pool, struct test_packet *t, const struct test_spec *whole,
                                 uint16_t size, bool leave)
{
    static struct test_built want;
    struct gso g;
    assert_int_equal(gso_begin(&g, pool, &t->p, leave), 0);
    struct packet_pool_mark mark = packet_pool_mark(pool);
    unsigned index = 0;
    uint32_t at = 0;
    for (struct packet *p; (p = gso_next(&g)); index++) {
        struct test_spec s = segment_of(whole, at, size, index, leave);
        test_build(&want, &s);
        test_assert_bytes(p, want.bytes, want.n);
        assert_int_equal(p->offload.csum_partial, leave);
        assert_int_equal(p->offload.gso, PACKET_GSO_NONE);
        if (leave) assert_int_equal(p->offload.csum_start, want.l4_at);
        if (leave) assert_int_equal(p->offload.csum_offset, want.csum_offset);
        at += s.payload_bytes;
        if (index % 8 == 7) packet_pool_rewind(pool, mark);
    }
    assert_int_equal(at, whole->payload_bytes);
    assert_int_equal(gso_left(&g), 0);
    assert_null(gso_next(&g));
    return index;
}

static void segments_are_what_a_sender_would_have_sent(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    struct test_random r = {1};
    static struct test_built b;
    test_fill(&r, payload, sizeof payload);
    for (unsigned round = 0; round < 1500; round++) {
        struct test_spec s;
        random_large(&r, &s, round % 50 == 0 ? 65200 : 9000);
        test_build(&b, &s);
        if (b.payload_at > PACKET_HEAD_BYTES || b.n - b.l3_at > 65535) continue;
        uint16_t size = (uint16_t)(1 + test_below(&r, test_chance(&r, 4) ? 40 : 1500));
        struct test_packet *t = test_packet_new(&r, b.bytes, b.n, 0);
        t->p.offload = offload_of(&s, &b, size);
        unsigned count = compare_segments(pool, t, &s, size, test_chance(&r, 2));
        assert_int_equal(count, s.payload_bytes ? (s.payload_bytes + size - 1) / size : 1);
        packet_pool_reset(pool);
        test_packet_free(t);
    }
    packet_pool_free(pool);
}

/* Some senders leave IP's length zero, and the pseudo header's sum without a length. */
static void lengths_in_the_whole_frame_do_not_count(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    struct test_random r = {2};
    static struct test_built b;
    for (unsigned round = 0; round < 200; round++) {
        struct test_spec s;
        test_spec_random(&r, &s, 6);
        s.payload = payload;
        s.payload_bytes = 5000;
        s.unfinished = true;
        test_build(&b, &s);
        test_fill(&r, b.bytes + b.l3_at + (s.version == 4 ? 2 : 4), 2);
        test_fill(&r, b.bytes + b.l4_at + b.csum_offset, 2);
        if (round % 2) memset(b.bytes + b.l3_at + (s.version == 4 ? 2 : 4), 0, 2);
        struct test_packet *t = test_packet_new(&r, b.bytes, b.n, 0);
        t->p.offload = offload_of(&s, &b, 1448);
        struct gso g;
        int ret = gso_begin(&g, pool, &t->p, false);
        if (ret == 0) compare_segments(pool, t, &s, 1448, false);
        else assert_true(round % 2 == 0); /* a length that ends within the headers */
        packet_pool_reset(pool);
        test_packet_free(t);
    }
    packet_pool_free(pool);
}

static void a_pool_that_ends_stops_the_segments(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    struct test_random r = {3};
    static struct test_built b;
    struct test_spec s;
    test_spec_random(&r, &s, 6);
    s.payload = payload;
    s.payload_bytes = 2000;
    s.unfinished = true;
    test_build(&b, &s);
    struct test_packet *t = test_packet_new(&r, b.bytes, b.n, 200);
    t->p.offload = offload_of(&s, &b, 1);
    struct gso g;
    assert_int_equal(gso_begin(&g, pool, &t->p, true), 0);
    unsigned count = 0;
    while (gso_next(&g))
        count++;
    assert_int_equal(count, PACKET_POOL_PACKETS);
    assert_int_equal(gso_left(&g), 2000 - PACKET_POOL_PACKETS);
    packet_pool_reset(pool);
    while (gso_next(&g)) { /* it goes on where it stopped */
        count++;
        packet_pool_reset(pool);
    }
    assert_int_equal(count, 2000);
    test_packet_free(t);
    packet_pool_free(pool);
}

/* For every number of iovs that are left: the segments that there are are right, and it goes on with a pool that is empty again. */
static void a_pool_without_iovs_stops_the_segments(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    struct test_random r = {6};
    static struct test_built b, want;
    for (unsigned spare = 0; spare < 60; spare++) {
        struct test_spec s;
        test_spec_random(&r, &s, 6);
        s.payload = payload;
        s.payload_bytes = 3000;
        s.unfinished = true;
        test_build(&b, &s);
        struct test_packet *t = test_packet_new(&r, b.bytes, b.n, 150);
        t->p.offload = offload_of(&s, &b, 400);
        struct gso g;
        assert_int_equal(gso_begin(&g, pool, &t->p, false), 0);
        packet_pool_iov(pool, PACKET_POOL_IOVS - spare);
        for (unsigned index = 0; index < 8; index++) {
            struct packet *p = gso_next(&g);
            if (!p) {
                assert_int_equal(gso_left(&g), 3000 - index * 400);
                packet_pool_reset(pool);
                p = gso_next(&g);
            }
            struct test_spec segment = segment_of(&s, index * 400, 400, index, false);
            test_build(&want, &segment);
            test_assert_bytes(p, want.bytes, want.n);
        }
        assert_null(gso_next(&g));
        packet_pool_reset(pool);
        test_packet_free(t);
    }
    packet_pool_free(pool);
}

static int begin(struct packet_pool *pool, const struct test_built *b, struct packet_offload o, uint32_t n)
{
    struct test_random r = {9};
    struct test_packet *t = test_packet_new(&r, b->bytes, n, 0);
    t->p.offload = o;
    struct gso g;
    int ret = gso_begin(&g, pool, &t->p, false);
    packet_pool_reset(pool);
    test_packet_free(t);
    return ret;
}

static void what_is_not_what_it_says_is_refused(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    struct test_random r = {4};
    static struct test_built b;
    for (unsigned kind = 0; kind < 4; kind++) {
        struct test_spec s;
        test_spec_random(&r, &s, kind & 1 ? 17 : 6);
        s.version = kind & 2 ? 6 : 4;
        s.payload = payload;
        s.payload_bytes = 3000;
        test_build(&b, &s);
        struct packet_offload right = offload_of(&s, &b, 1000), o = right;
        assert_int_equal(begin(pool, &b, right, b.n), 0);
        for (unsigned gso = 0; gso < 256; gso++) {
            o.gso = (uint8_t)gso;
            assert_int_equal(begin(pool, &b, o, b.n), gso == right.gso ? 0 : -EINVAL);
        }
        o = right;
        o.gso_size = 0;
        assert_int_equal(begin(pool, &b, o, b.n), -EINVAL);
        o = right;
        o.csum_partial = false;
        assert_int_equal(begin(pool, &b, o, b.n), -EINVAL);
        o = right;
        o.csum_start++;
        assert_int_equal(begin(pool, &b, o, b.n), -EINVAL);
        o = right;
        o.csum_offset -= 2;
        assert_int_equal(begin(pool, &b, o, b.n), -EINVAL);
        for (uint32_t n = 0; n < b.payload_at; n++)
            assert_int_equal(begin(pool, &b, right, n), -EINVAL);
        s.fragment = s.version == 4 ? 0x2000 : 1;
        s.fragment_header = true;
        test_build(&b, &s);
        assert_int_equal(begin(pool, &b, offload_of(&s, &b, 1000), b.n), -EINVAL);
        s.fragment = 0;
        s.routing = true;
        s.segments_left = 1;
        test_build(&b, &s);
        assert_int_equal(begin(pool, &b, offload_of(&s, &b, 1000), b.n), s.version == 6 ? -EINVAL : 0);
    }
    packet_pool_free(pool);
}

/* Whatever the bytes are: nothing is read or written outside, and what is cut up is all there. */
static void random_bytes_and_broken_headers(void **state)
{
    struct packet_pool *pool = packet_pool_new();
    struct test_random r = {5};
    static struct test_built b;
    unsigned accepted = 0;
    for (unsigned round = 0; round < 20000; round++) {
        struct test_spec s;
        random_large(&r, &s, 600);
        test_build(&b, &s);
        for (unsigned i = test_below(&r, 4); i > 0; i--)
            b.bytes[test_below(&r, b.payload_at)] = (uint8_t)test_random(&r);
        uint32_t n = test_chance(&r, 3) ? test_below(&r, b.n + 1) : b.n;
        if (test_chance(&r, 8)) test_fill(&r, b.bytes, n);
        struct test_packet *t = test_packet_new(&r, b.bytes, n, 0);
        t->p.offload = offload_of(&s, &b, (uint16_t)(1 + test_below(&r, 300)));
        struct gso g;
        if (gso_begin(&g, pool, &t->p, test_chance(&r, 2)) == 0) {
            uint32_t sum = 0, had = gso_left(&g);
            struct packet_pool_mark mark = packet_pool_mark(pool);
            for (struct packet *p; (p = gso_next(&g)); packet_pool_rewind(pool, mark))
                sum += p->length_bytes - g.header_bytes;
            assert_int_equal(sum, had);
            accepted++;
        }
        packet_pool_reset(pool);
        test_packet_free(t);
    }
    assert_true(accepted > 1000);
    packet_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(segments_are_what_a_sender_would_have_sent),
        cmocka_unit_test(lengths_in_the_whole_frame_do_not_count),
        cmocka_unit_test(a_pool_that_ends_stops_the_segments),
        cmocka_unit_test(a_pool_without_iovs_stops_the_segments),
        cmocka_unit_test(what_is_not_what_it_says_is_refused),
        cmocka_unit_test(random_bytes_and_broken_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
