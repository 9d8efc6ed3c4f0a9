/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merging, with its reverse as the oracle: whatever went in, cut up again what comes out and every frame must be there byte
 * for byte, the frames of a stream in their order. What may not be merged is tried rule by rule.
 */
#include "packet/gro.h"
#include "packet/gso.h"
#include "packet/test_util.h"

static uint8_t payload[PACKET_BATCH * 4 * 1448 + TEST_FRAME_BYTES];

#define FRAMES_MAX 256u

/* A batch, and the bytes of each frame that it is of: a large packet is of several. */
struct batch {
    struct packet_pool *pool;
    struct gro gro;
    unsigned count, frames;
    struct test_packet *owned[PACKET_BATCH];
    struct packet *packets[PACKET_BATCH];
    unsigned stream[FRAMES_MAX];
    bool any_id[FRAMES_MAX]; /* the identification may change */
    bool seen[FRAMES_MAX];
    struct test_built in[FRAMES_MAX];
};

static struct batch *batch_new(void)
{
    struct batch *b = calloc(1, sizeof *b);
    b->pool = packet_pool_new();
    gro_init(&b->gro);
    return b;
}

static void batch_clear(struct batch *b)
{
    for (unsigned i = 0; i < b->count; i++)
        test_packet_free(b->owned[i]);
    b->count = b->frames = 0;
    packet_pool_reset(b->pool);
}

static void batch_free(struct batch *b)
{
    batch_clear(b);
    packet_pool_free(b->pool);
    free(b);
}

/* 14 + two tags + IP + TCP with options fit in 128 bytes: what a source copies out at least. */
#define HEAD_MIN 128u

static struct test_built *expect(struct batch *b, const struct test_spec *s, unsigned stream)
{
    assert_true(b->frames < FRAMES_MAX);
    struct test_built *in = &b->in[b->frames];
    test_build(in, s);
    b->stream[b->frames] = stream;
    b->any_id[b->frames] = b->seen[b->frames] = false;
    b->frames++;
    return in;
}

static struct packet *give(struct batch *b, struct test_random *r, const struct test_built *built)
{
    struct test_packet *t = test_packet_new(r, built->bytes, built->n, HEAD_MIN);
    b->owned[b->count] = t;
    b->packets[b->count++] = &t->p;
    return &t->p;
}

static struct packet *add(struct batch *b, struct test_random *r, const struct test_spec *s, unsigned stream)
{
    return give(b, r, expect(b, s, stream));
}

/* The bodies of merged packets are not the test's own. */
static unsigned merge(struct batch *b)
{
    for (unsigned i = 0; i < b->count; i++)
        assert_ptr_equal(b->packets[i]->body, b->owned[i]->iov);
    unsigned left = gro_batch(&b->gro, b->packets, b->count, b->pool);
    return left;
}

static bool same_bytes(const struct packet *p, const struct test_built *in, uint32_t n, bool any_id)
{
    static uint8_t flat[TEST_FRAME_BYTES];
    if (p->length_bytes != n) return false;
    packet_read(p, 0, flat, n);
    if (any_id) {
        memcpy(flat + in->l3_at + 4, in->bytes + in->l3_at + 4, 2);
        memcpy(flat + in->l3_at + 10, in->bytes + in->l3_at + 10, 2);
    }
    return memcmp(flat, in->bytes, n) == 0;
}

/* The first frame that has not been seen and has these bytes; padding is gone when it was merged. */
static void find(struct batch *b, const struct packet *p, bool merged)
{
    for (unsigned i = 0; i < b->frames; i++) {
        if (b->seen[i]) continue;
        if (!same_bytes(p, &b->in[i], merged ? b->in[i].end_at : b->in[i].n, merged && b->any_id[i])) continue;
        for (unsigned k = 0; k < i; k++)
            if (b->stream[k] == b->stream[i] && !b->seen[k]) fail_msg("frame %u overtakes frame %u", i, k);
        b->seen[i] = true;
        return;
    }
    fail_msg("a frame that never was in the batch");
}

static void compare(struct batch *b, unsigned left)
{
    for (unsigned i = 0; i < left; i++) {
        struct packet *p = b->packets[i];
        if (p->offload.gso == PACKET_GSO_NONE) {
            find(b, p, false);
            continue;
        }
        assert_true(p->length_bytes <= PACKET_MAX_BYTES);
        struct gso g;
        assert_int_equal(gso_begin(&g, b->pool, p, false), 0);
        struct packet_pool_mark mark = packet_pool_mark(b->pool);
        for (struct packet *s; (s = gso_next(&g)); packet_pool_rewind(b->pool, mark))
            find(b, s, true);
    }
    for (unsigned i = 0; i < b->frames; i++)
        if (!b->seen[i]) fail_msg("frame %u is lost", i);
}

static void plain_stream(struct test_random *r, struct test_spec *s)
{
    test_spec_random(r, s, 6);
    s->payload = payload;
    s->payload_bytes = 1448;
}

static void advance(struct test_spec *s)
{
    s->seq += s->payload_bytes;
    s->payload += s->payload_bytes;
    s->id++;
}

static void a_stream_becomes_one_frame(void **state)
{
    struct test_random r = {1};
    test_fill(&r, payload, sizeof payload);
    struct batch *b = batch_new();
    for (unsigned round = 0; round < 300; round++) {
        struct test_spec s;
        plain_stream(&r, &s);
        unsigned count = 2 + test_below(&r, PACKET_BATCH - 1);
        for (unsigned i = 0; i < count; i++) {
            if (i == count - 1) {
                s.flags |= test_chance(&r, 2) ? 0x08 : 0;
                s.flags |= test_chance(&r, 4) ? 0x01 : 0;
                s.payload_bytes = 1 + test_below(&r, 1448);
                s.padding_bytes = test_below(&r, 4);
            }
            add(b, &r, &s, 0);
            advance(&s);
        }
        assert_int_equal(merge(b), 1);
        const struct packet *p = b->packets[0];
        assert_int_equal(p->offload.gso, s.version == 4 ? PACKET_GSO_TCP4 : PACKET_GSO_TCP6);
        assert_int_equal(p->offload.gso_size, count == 1 ? s.payload_bytes : 1448);
        assert_true(p->offload.csum_partial);
        assert_int_equal(p->offload.csum_start, b->in[0].l4_at);
        assert_int_equal(p->l3_at, b->in[0].l3_at);
        assert_int_equal(p->l4_at, b->in[0].l4_at);
        compare(b, 1);

        /* Finished, it is the frame that a sender without a limit would have sent. */
        static struct test_built large;
        s.payload_bytes = (uint32_t)(s.payload - payload);
        s.payload = payload;
        s.seq -= s.payload_bytes;
        s.id = (uint16_t)(s.id - count);
        s.padding_bytes = 0;
        s.unfinished = true;
        test_build(&large, &s);
        test_assert_bytes(p, large.bytes, large.n);
        batch_clear(b);
    }
    batch_free(b);
}

/* ---- one rule each ---- */

/* Three segments of a stream of which the second is changed: how many frames are left? */
struct rule {
    const char *name;
    void (*change)(struct test_spec *s);
    unsigned version; /* 0: both */
    unsigned left;
};

#define CHANGE(name, how)                                                                                              \
    static void name(struct test_spec *s)                                                                              \
    {                                                                                                                  \
        how;                                                                                                           \
    }

CHANGE(nothing, (void)s)
CHANGE(flag_psh, s->flags |= 0x08)
CHANGE(flag_fin, s->flags |= 0x01)
CHANGE(flag_syn, s->flags |= 0x02)
CHANGE(flag_rst, s->flags |= 0x04)
CHANGE(flag_urg, s->flags |= 0x20)
CHANGE(flag_ece, s->flags |= 0x40)
CHANGE(flag_cwr, s->flags |= 0x80)
CHANGE(flag_no_ack, s->flags = 0)
CHANGE(reserved, s->reserved = 1)
CHANGE(shorter, s->payload_bytes--)
CHANGE(longer, s->payload_bytes++)
CHANGE(no_payload, s->payload_bytes = 0)
CHANGE(gap, s->seq++)
CHANGE(again, s->seq -= s->payload_bytes)
CHANGE(ack, s->ack++)
CHANGE(window, s->window++)
CHANGE(urgent, s->urgent++)
CHANGE(option, s->tcp_options[11]++)
CHANGE(options, s->tcp_option_bytes += 4)
CHANGE(tos, s->tos ^= 0x80)
CHANGE(ecn, s->tos ^= 3)
CHANGE(ttl, s->ttl--)
CHANGE(id, s->id = (uint16_t)(s->id + 7))
CHANGE(label, s->label ^= 1)
CHANGE(no_df, s->fragment = 0)
CHANGE(first_fragment, s->fragment = 0x2000)
CHANGE(ip_options, s->option_words = 1)
CHANGE(extension, s->hop_by_hop = true)
CHANGE(eth_src, s->src[5]++)
CHANGE(tci, s->tci[0]++)
CHANGE(tpid, s->tpid[0] = 0x9100)
CHANGE(no_tag, s->vlans = 0)
CHANGE(mpls, s->labels = 1)
CHANGE(padding, s->padding_bytes = 5)

static const struct rule rules[] = {
    {"the same", nothing, 0, 1},
    {"padding", padding, 0, 1},
    {"PSH", flag_psh, 0, 2},
    {"FIN", flag_fin, 0, 2},
    {"SYN", flag_syn, 0, 3},
    {"RST", flag_rst, 0, 3},
    {"URG", flag_urg, 0, 3},
    {"ECE", flag_ece, 0, 3},
    {"CWR", flag_cwr, 0, 3},
    {"no ACK", flag_no_ack, 0, 3},
    {"reserved", reserved, 0, 3},
    {"shorter", shorter, 0, 2},
    {"longer", longer, 0, 2}, /* the third goes on where the second, now the largest, ends */
    {"no payload", no_payload, 0, 3},
    {"gap", gap, 0, 3},
    {"sent again", again, 0, 3},
    {"acknowledgement", ack, 0, 3},
    {"window", window, 0, 3},
    {"urgent pointer", urgent, 0, 3},
    {"option", option, 0, 3},
    {"more options", options, 0, 3},
    {"TOS", tos, 0, 3},
    {"ECN", ecn, 0, 3},
    {"TTL", ttl, 0, 3},
    {"identification", id, 4, 3},
    {"flow label", label, 6, 3},
    {"may be fragmented", no_df, 4, 3},
    {"first fragment", first_fragment, 4, 3},
    {"IP options", ip_options, 4, 3},
    {"extension header", extension, 6, 3},
    {"address", eth_src, 0, 3},
    {"tag", tci, 0, 3},
    {"tag type", tpid, 0, 3},
    {"no tag", no_tag, 0, 3},
    {"MPLS", mpls, 0, 3},
};

static void rules_hold(void **state)
{
    struct test_random r = {2};
    struct batch *b = batch_new();
    for (unsigned i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        for (unsigned version = 4; version <= 6; version += 2) {
            const struct rule *rule = &rules[i];
            if (rule->version != 0 && rule->version != version) continue;
            struct test_spec s;
            plain_stream(&r, &s);
            s.version = version;
            s.vlans = 1;
            s.tpid[0] = 0x8100;
            s.fragment = 0x4000;
            s.tcp_option_bytes = 12;
            for (unsigned k = 0; k < 3; k++) {
                struct test_spec changed = s;
                if (k == 1) rule->change(&changed);
                add(b, &r, &changed, 0);
                if (k == 1) s.payload_bytes = changed.payload_bytes;
                advance(&s);
                s.payload_bytes = 1448;
            }
            unsigned left = merge(b);
            if (left != rule->left) fail_msg("%s (IPv%u): %u frames are left", rule->name, version, left);
            compare(b, left);
            batch_clear(b);
        }
    }
    batch_free(b);
}

/* ---- checksums ---- */

static unsigned merge_two(struct batch *b, struct test_random *r, int wrong, struct packet_offload o)
{
    struct test_spec s;
    plain_stream(r, &s);
    s.unfinished = o.csum_partial;
    for (int k = 0; k < 2; k++) {
        struct packet *p = add(b, r, &s, 0);
        struct test_built *in = &b->in[k];
        advance(&s);
        p->offload = o;
        if (o.csum_partial) p->offload.csum_start = in->l4_at;
        if (k == wrong) p->head[in->payload_at]++;
    }
    return merge(b);
}

static void wrong_checksums_are_left_alone(void **state)
{
    struct test_random r = {3};
    struct batch *b = batch_new();
    for (unsigned round = 0; round < 100; round++) {
        for (int wrong = -1; wrong < 2; wrong++) {
            assert_int_equal(merge_two(b, &r, wrong, (struct packet_offload){0}), wrong < 0 ? 1 : 2);
            batch_clear(b);
            /* Who vouches for them is believed. */
            assert_int_equal(merge_two(b, &r, wrong, (struct packet_offload){.csum_valid = true}), 1);
            batch_clear(b);
            struct packet_offload partial = {.csum_partial = true, .csum_offset = 16};
            assert_int_equal(merge_two(b, &r, wrong, partial), 1);
            batch_clear(b);
            partial.csum_offset = 6;
            assert_int_equal(merge_two(b, &r, wrong, partial), 2);
            batch_clear(b);
        }
    }
    assert_int_equal(b->gro.bad_csums, 200);
    batch_free(b);
}

static void a_wrong_header_sum_is_left_alone(void **state)
{
    struct test_random r = {4};
    struct batch *b = batch_new();
    for (unsigned wrong = 0; wrong < 3; wrong++) {
        struct test_spec s;
        plain_stream(&r, &s);
        s.version = 4;
        for (unsigned k = 0; k < 3; k++) {
            struct packet *p = add(b, &r, &s, 0);
            p->offload.csum_valid = true;
            if (k == wrong) p->head[b->in[k].l3_at + 10]++;
            advance(&s);
        }
        assert_int_equal(merge(b), wrong == 1 ? 3 : 2);
        batch_clear(b);
    }
    batch_free(b);
}

/* ---- bounds ---- */

static void a_merge_stays_below_64_kib(void **state)
{
    struct test_random r = {5};
    struct batch *b = batch_new();
    for (unsigned round = 0; round < 20; round++) {
        struct test_spec s;
        plain_stream(&r, &s);
        s.payload_bytes = 4001 + test_below(&r, 500);
        unsigned fit = 0;
        for (unsigned k = 0; k < 16; k++) {
            add(b, &r, &s, 0);
            advance(&s);
            uint32_t bytes = b->in[0].payload_at + (uint32_t)(s.payload - payload);
            if (bytes - b->in[0].l3_at <= 65535 && bytes <= PACKET_MAX_BYTES) fit++;
        }
        unsigned left = merge(b);
        assert_int_equal(left, fit == 16 ? 1 : 2);
        assert_true(b->packets[0]->length_bytes <= PACKET_MAX_BYTES);
        compare(b, left);
        batch_clear(b);
    }
    batch_free(b);
}

static void without_iovs_nothing_is_merged_and_nothing_lost(void **state)
{
    struct test_random r = {6};
    struct batch *b = batch_new();
    for (unsigned spare = 0; spare < 400; spare += 7) {
        struct test_spec s;
        plain_stream(&r, &s);
        for (unsigned k = 0; k < PACKET_BATCH; k++) {
            add(b, &r, &s, 0);
            advance(&s);
        }
        packet_pool_iov(b->pool, PACKET_POOL_IOVS - spare);
        unsigned left = merge(b);
        if (spare < 2) assert_int_equal(left, PACKET_BATCH);
        uint32_t sum = 0;
        for (unsigned i = 0; i < left; i++)
            sum += b->packets[i]->length_bytes - b->in[0].payload_at;
        assert_int_equal(sum, (uint32_t)(s.payload - payload));
        batch_clear(b);
    }
    batch_free(b);
}

static void identifications_that_stay_need_dont_fragment(void **state)
{
    struct test_random r = {7};
    struct batch *b = batch_new();
    for (unsigned df = 0; df < 2; df++) {
        struct test_spec s;
        plain_stream(&r, &s);
        s.version = 4;
        s.fragment = df ? 0x4000 : 0;
        for (unsigned k = 0; k < 5; k++) {
            add(b, &r, &s, 0);
            advance(&s);
            s.id--;
        }
        assert_int_equal(merge(b), df ? 1 : 5);
        batch_clear(b);
    }
    batch_free(b);
}

/* A copied head with the rest right behind it, as a tap's frames are. */
static void frames_in_one_buffer_are_one_piece_each(void **state)
{
    struct test_random r = {10};
    struct batch *b = batch_new();
    static uint8_t buffers[8][2048];
    static struct iovec rest[8];
    static struct packet frames[8];
    struct test_spec s;
    plain_stream(&r, &s);
    for (unsigned k = 0; k < 8; k++) {
        const struct test_built *in = expect(b, &s, 0);
        memcpy(buffers[k] + PACKET_ROOM_BYTES, in->bytes, in->n);
        rest[k] = (struct iovec){buffers[k] + PACKET_ROOM_BYTES + 200, in->n - 200};
        frames[k] = (struct packet){.head = buffers[k] + PACKET_ROOM_BYTES,
                                    .head_bytes = 200,
                                    .room_bytes = PACKET_ROOM_BYTES,
                                    .length_bytes = in->n,
                                    .body = &rest[k],
                                    .body_count = 1};
        b->packets[k] = &frames[k];
        advance(&s);
    }
    unsigned left = gro_batch(&b->gro, b->packets, 8, b->pool);
    assert_int_equal(left, 1);
    assert_int_equal(frames[0].body_count, 8);
    compare(b, left);
    batch_free(b);
}

/* ---- anything ---- */

#define STREAMS 4u

static struct packet_offload large_offload(const struct test_spec *s, const struct test_built *b, uint16_t size)
{
    return (struct packet_offload){.csum_partial = true,
                                   .gso = s->version == 4 ? PACKET_GSO_TCP4 : PACKET_GSO_TCP6,
                                   .gso_size = size,
                                   .csum_start = b->l4_at,
                                   .csum_offset = 16};
}

/* A packet that is large already, as a guest or a card with offloads sends it. */
static void add_large(struct batch *b, struct test_random *r, struct test_spec *s, unsigned stream)
{
    static struct test_built whole;
    unsigned count = 1 + test_below(r, 4);
    uint16_t size = (uint16_t)s->payload_bytes;
    uint8_t flags = s->flags, first = flags & 0x80;
    struct test_spec large = *s;
    large.payload_bytes = size * (count - 1) + (test_chance(r, 3) ? 1 + test_below(r, size) : size);
    large.unfinished = true;
    test_build(&whole, &large);
    give(b, r, &whole)->offload = large_offload(s, &whole, size);
    for (unsigned i = 0; i < count; i++) {
        s->flags = i + 1 < count ? flags & 0x76 : flags & 0x7f;
        s->flags |= i == 0 ? first : 0;
        if (i + 1 == count) s->payload_bytes = large.payload_bytes - size * (count - 1);
        expect(b, s, stream);
        advance(s);
    }
    s->payload_bytes = size;
    s->flags = flags;
}

static void change_at_random(struct test_random *r, struct test_spec *s)
{
    const struct rule *rule = &rules[test_below(r, sizeof rules / sizeof rules[0])];
    rule->change(s);
}

static void add_segment(struct batch *b, struct test_random *r, struct test_spec *s, unsigned stream, bool fixed_id)
{
    struct test_spec sent = *s;
    if (test_chance(r, 6)) change_at_random(r, &sent);
    struct test_built *in = expect(b, &sent, stream);
    b->any_id[b->frames - 1] = fixed_id && sent.version == 4;
    if (test_chance(r, 20)) {
        uint32_t at = test_below(r, in->n);
        in->bytes[at] ^= (uint8_t)(1u << test_below(r, 8));                  /* on the wire */
        if (at < in->payload_at) b->stream[b->frames - 1] = 100 + b->frames; /* who knows of which stream it is now */
    }
    give(b, r, in);
    s->payload_bytes = sent.payload_bytes;
    advance(s);
    if (fixed_id) s->id--;
}

static void whatever_goes_in_comes_out(void **state)
{
    struct test_random r = {8};
    struct batch *b = batch_new();
    uint64_t frames = 0;
    for (unsigned round = 0; round < 3000; round++) {
        struct test_spec s[STREAMS];
        bool fixed[STREAMS];
        uint32_t size[STREAMS];
        for (unsigned i = 0; i < STREAMS; i++) {
            plain_stream(&r, &s[i]);
            if (i == 1 && test_chance(&r, 2)) { /* all but a port the same */
                s[1] = s[0];
                s[1].sport++;
            }
            fixed[i] = test_chance(&r, 4) && s[i].fragment;
            size[i] = 1 + test_below(&r, test_chance(&r, 3) ? 30 : 1448);
        }
        unsigned count = 1 + test_below(&r, PACKET_BATCH);
        for (unsigned i = 0; i < count; i++) {
            unsigned which = test_below(&r, STREAMS);
            s[which].payload_bytes = size[which];
            if (!fixed[which] && test_chance(&r, 6)) add_large(b, &r, &s[which], which);
            else add_segment(b, &r, &s[which], which, fixed[which]);
        }
        frames += b->frames;
        compare(b, merge(b));
        batch_clear(b);
    }
    assert_true(b->gro.merged * 4 > frames); /* it was worth the test */
    batch_free(b);
}

/* Large segments of pieces that small are refused by those who read headers strictly. */
static void tiny_segments_stay(void **state)
{
    struct test_random r = {11};
    struct batch *b = batch_new();
    for (unsigned bytes = 14; bytes < 18; bytes++) {
        struct test_spec s;
        plain_stream(&r, &s);
        s.payload_bytes = bytes;
        for (unsigned i = 0; i < 8; i++) {
            if (i == 7) s.payload_bytes = 3; /* the last one may be shorter */
            add(b, &r, &s, 0);
            advance(&s);
        }
        assert_int_equal(merge(b), bytes < 16 ? 8 : 1);
        compare(b, bytes < 16 ? 8 : 1);
        batch_clear(b);
    }
    batch_free(b);
}

static void random_bytes_pass(void **state)
{
    struct test_random r = {9};
    struct batch *b = batch_new();
    static struct test_built built;
    for (unsigned round = 0; round < 1000; round++) {
        struct test_spec s;
        plain_stream(&r, &s);
        for (unsigned i = 0; i < PACKET_BATCH; i++) {
            s.payload_bytes = test_below(&r, 300);
            test_build(&built, &s);
            built.n = test_chance(&r, 2) ? test_below(&r, built.n + 1) : built.n;
            for (unsigned k = test_below(&r, 3); k > 0 && built.n > 0; k--)
                built.bytes[test_below(&r, built.n)] = (uint8_t)test_random(&r);
            struct packet *p = give(b, &r, &built);
            p->offload.csum_valid = test_chance(&r, 2);
            if (test_chance(&r, 3)) p->offload = large_offload(&s, &built, (uint16_t)test_below(&r, 200));
            advance(&s);
        }
        unsigned left = merge(b);
        for (unsigned i = 0; i < left; i++) {
            size_t sum = b->packets[i]->head_bytes;
            for (unsigned k = 0; k < b->packets[i]->body_count; k++)
                sum += b->packets[i]->body[k].iov_len;
            assert_int_equal(sum, b->packets[i]->length_bytes);
        }
        batch_clear(b);
    }
    batch_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_becomes_one_frame),
        cmocka_unit_test(rules_hold),
        cmocka_unit_test(wrong_checksums_are_left_alone),
        cmocka_unit_test(a_wrong_header_sum_is_left_alone),
        cmocka_unit_test(a_merge_stays_below_64_kib),
        cmocka_unit_test(without_iovs_nothing_is_merged_and_nothing_lost),
        cmocka_unit_test(identifications_that_stay_need_dont_fragment),
        cmocka_unit_test(frames_in_one_buffer_are_one_piece_each),
        cmocka_unit_test(whatever_goes_in_comes_out),
        cmocka_unit_test(tiny_segments_stay),
        cmocka_unit_test(random_bytes_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
