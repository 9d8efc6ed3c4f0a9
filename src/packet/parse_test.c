/* SPDX-License-Identifier: Apache-2.0 */
/* Where headers are, against where they were written; and whatever the bytes are, layers lie within the head. */
#include "packet/parse.h"
#include "packet/test_util.h"

static uint8_t payload[600];

static void random_spec(struct test_random *r, struct test_spec *s)
{
    static const uint8_t protos[] = {6, 17, 132, 1, 58};
    test_spec_random(r, s, protos[test_below(r, sizeof protos)]);
    s->vlans = test_below(r, 4);
    s->labels = test_chance(r, 4) ? test_below(r, 4) : 0;
    s->option_words = test_chance(r, 3) ? test_below(r, 11) : 0;
    s->hop_by_hop = test_chance(r, 3);
    s->routing = test_chance(r, 3);
    s->segments_left = (uint8_t)test_below(r, 2);
    s->destination = test_chance(r, 3);
    s->fragment_header = test_chance(r, 3);
    s->fragment = 0;
    if (s->version == 4 || s->fragment_header) s->fragment = test_chance(r, 4) ? (uint16_t)test_random(r) : 0;
    s->payload = payload;
    s->payload_bytes = test_below(r, sizeof payload);
    s->padding_bytes = test_chance(r, 3) ? test_below(r, 20) : 0;
}

static bool is_later(const struct test_spec *s)
{
    return s->version == 4 ? s->fragment & 0x1fff : s->fragment_header && s->fragment & 0xfff8;
}

static bool is_fragment(const struct test_spec *s)
{
    return s->version == 4 ? s->fragment & 0x3fff : s->fragment_header && s->fragment & 0xfff9;
}

static void check_whole(const struct test_spec *s, const struct test_built *b, const struct packet_layers *l)
{
    bool v4 = s->version == 4;
    assert_int_equal(l->type_at, b->type_at);
    assert_int_equal(l->l3_at, b->l3_at);
    assert_int_equal(l->version, s->version);
    assert_int_equal(l->tags, s->vlans);
    assert_int_equal(l->encapsulated, s->labels > 0);
    assert_int_equal(l->end_at, b->end_at);
    assert_false(l->bad_length);
    assert_int_equal(l->fragment, is_fragment(s));
    if (v4) assert_int_equal(l->options, s->option_words > 0);
    else assert_int_equal(l->options, s->hop_by_hop || s->routing || s->destination || s->fragment_header);
    if (is_later(s)) {
        assert_int_equal(l->l4_at, PACKET_NO_LAYER);
        assert_int_equal(l->payload_at, PACKET_NO_LAYER);
        return;
    }
    assert_int_equal(l->proto, s->proto);
    assert_int_equal(l->l4_at, b->l4_at);
    assert_int_equal(l->payload_at, b->payload_at);
    assert_int_equal(l->routed, !v4 && s->routing && s->segments_left);
}

static void headers_are_found(void **state)
{
    struct test_random r = {1};
    static struct test_built b;
    for (unsigned round = 0; round < 20000; round++) {
        struct test_spec s;
        random_spec(&r, &s);
        test_build(&b, &s);
        struct test_packet *t = test_packet_new(&r, b.bytes, b.n, b.payload_at);
        struct packet_layers l = packet_parse(&t->p);
        check_whole(&s, &b, &l);
        struct packet_layers ip = packet_parse_ip(&t->p, b.l3_at);
        assert_int_equal(ip.l3_at, l.l3_at);
        assert_int_equal(ip.l4_at, l.l4_at);
        assert_int_equal(ip.payload_at, l.payload_at);
        assert_int_equal(ip.proto, l.proto);
        test_packet_free(t);
    }
}

/* A head that ends earlier has no more, and never something else. */
static void short_heads(void **state)
{
    struct test_random r = {2};
    static struct test_built b;
    for (unsigned round = 0; round < 300; round++) {
        struct test_spec s;
        random_spec(&r, &s);
        s.fragment = 0;
        test_build(&b, &s);
        for (uint32_t head = 0; head < b.payload_at; head++) {
            struct test_packet *t = test_packet_with_head(&r, b.bytes, b.n, head);
            struct packet_layers l = packet_parse(&t->p);
            assert_true(l.type_at == PACKET_NO_LAYER || l.type_at == b.type_at);
            assert_true(l.l3_at == PACKET_NO_LAYER || l.l3_at == b.l3_at);
            assert_true(l.l4_at == PACKET_NO_LAYER || (l.l4_at == b.l4_at && head >= b.l4_at));
            assert_int_equal(l.payload_at, PACKET_NO_LAYER);
            test_packet_free(t);
        }
    }
}

static void lengths_that_cannot_be(void **state)
{
    struct test_random r = {3};
    static struct test_built b;
    for (unsigned round = 0; round < 200; round++) {
        struct test_spec s;
        random_spec(&r, &s);
        s.padding_bytes = 0;
        test_build(&b, &s);
        struct test_packet *t = test_packet_new(&r, b.bytes, b.n - 1, b.payload_at);
        if (s.payload_bytes > 0) {
            struct packet_layers l = packet_parse(&t->p);
            assert_true(l.bad_length);
            assert_int_equal(l.end_at, b.n - 1);
        }
        memset(t->p.head + b.l3_at + (s.version == 4 ? 2 : 4), 0, 2);
        struct packet_layers l = packet_parse(&t->p);
        assert_true(l.bad_length);
        test_packet_free(t);
    }
}

static void anything_stays_inside(void **state)
{
    struct test_random r = {4};
    static struct test_built b;
    for (unsigned round = 0; round < 50000; round++) {
        struct test_spec s;
        random_spec(&r, &s);
        test_build(&b, &s);
        for (unsigned i = test_below(&r, 6); i > 0; i--)
            b.bytes[test_below(&r, b.payload_at)] = (uint8_t)test_random(&r);
        if (test_chance(&r, 4)) test_fill(&r, b.bytes + 12, 100);
        uint32_t n = test_below(&r, b.n + 1);
        struct test_packet *t = test_packet_new(&r, b.bytes, n, 0);
        /* The head as an allocation of its own: a sanitizer sees what is read behind it. */
        uint8_t *head = malloc(t->p.head_bytes + 1u);
        memcpy(head, t->p.head, t->p.head_bytes);
        t->p.head = head;
        struct packet_layers l = packet_parse(&t->p);
        uint16_t end = t->p.head_bytes;
        assert_true(l.end_at <= n);
        assert_true(l.type_at == PACKET_NO_LAYER || l.type_at + 2 <= end);
        assert_true(l.l3_at == PACKET_NO_LAYER || l.l3_at + (l.version == 4 ? 20 : 40) <= end);
        assert_true(l.l4_at == PACKET_NO_LAYER || (l.l3_at < l.l4_at && l.l4_at <= end && l.l4_at <= l.end_at));
        assert_true(l.payload_at == PACKET_NO_LAYER ||
                    (l.l4_at < l.payload_at && l.payload_at <= end && l.payload_at <= l.end_at));
        packet_parse_ip(&t->p, (uint16_t)test_below(&r, 300));
        free(head);
        test_packet_free(t);
    }
}

static enum packet_csum_place place_of(struct test_packet *t, uint32_t start, uint32_t offset)
{
    t->p.offload =
        (struct packet_offload){.csum_partial = true, .csum_start = (uint16_t)start, .csum_offset = (uint16_t)offset};
    return packet_csum_place(&t->p);
}

/* Of all places only the protocol's own is right, and in a tunnel those behind the outer headers. */
static void places_of_checksums(void **state)
{
    struct test_random r = {5};
    static struct test_built b;
    for (unsigned round = 0; round < 400; round++) {
        struct test_spec s;
        random_spec(&r, &s);
        test_build(&b, &s);
        struct test_packet *t =
            test_packet_with_head(&r, b.bytes, b.n, b.n < PACKET_HEAD_BYTES ? b.n : PACKET_HEAD_BYTES);
        uint32_t own = s.proto == 6 ? 16 : s.proto == 17 ? 6 : UINT32_MAX;
        for (uint32_t start = 0; start < 280; start++)
            for (uint32_t offset = 0; offset < 20; offset += 2) {
                bool fits = start + offset + 2 <= t->p.head_bytes && !is_later(&s);
                bool l4 = fits && start == b.l4_at && offset == own;
                bool inner = fits && s.proto == 17 && start >= b.l4_at + 8u && (offset == 6 || offset == 16);
                enum packet_csum_place wanted = l4 ? PACKET_CSUM_L4 : inner ? PACKET_CSUM_INNER : PACKET_CSUM_WRONG;
                assert_int_equal(place_of(t, start, offset), wanted);
            }
        assert_int_equal(place_of(t, 65535, 65535), PACKET_CSUM_WRONG);
        test_packet_free(t);
    }
}

static void places_in_tunnels(void **state)
{
    static const struct {
        uint8_t proto;
        unsigned bytes; /* of the outer header */
    } tunnels[] = {{4, 20}, {41, 40}, {47, 4}, {17, 8}};
    static const uint8_t none[] = {1, 2, 6, 50, 58, 89, 132};
    struct test_random r = {6};
    uint8_t f[200] = {[12] = 8, [14] = 0x45, [17] = 186};
    for (unsigned i = 0; i < 4; i++) {
        f[23] = tunnels[i].proto;
        struct test_packet *t = test_packet_with_head(&r, f, sizeof f, sizeof f);
        assert_int_equal(place_of(t, 34 + tunnels[i].bytes, 16), PACKET_CSUM_INNER);
        assert_int_equal(place_of(t, 34 + tunnels[i].bytes, 6), PACKET_CSUM_INNER);
        assert_int_equal(place_of(t, 34 + tunnels[i].bytes, 8), PACKET_CSUM_WRONG);
        assert_int_equal(place_of(t, 34 + tunnels[i].bytes - 1, 16), PACKET_CSUM_WRONG);
        test_packet_free(t);
    }
    for (unsigned i = 0; i < sizeof none; i++) {
        f[23] = none[i];
        struct test_packet *t = test_packet_with_head(&r, f, sizeof f, sizeof f);
        assert_int_equal(place_of(t, 100, 16), PACKET_CSUM_WRONG);
        test_packet_free(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_are_found),      cmocka_unit_test(short_heads),
        cmocka_unit_test(lengths_that_cannot_be), cmocka_unit_test(anything_stays_inside),
        cmocka_unit_test(places_of_checksums),    cmocka_unit_test(places_in_tunnels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
