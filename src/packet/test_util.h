/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames for the tests: written byte by byte from a description, with sums made the slow way, and cut into pieces at random
 * places. Nothing here uses what is tested, but for the packet structure itself.
 */
#ifndef PACKET_TEST_UTIL_H
#define PACKET_TEST_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "packet/packet.h"

#define TEST_FRAME_BYTES 66000u
#define TEST_PIECES 48u

/* ---- random numbers, the same in every run ---- */

struct test_random {
    uint64_t state;
};

static inline uint64_t test_random(struct test_random *r)
{
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return r->state * UINT64_C(0x2545f4914f6cdd1d);
}

static inline uint32_t test_below(struct test_random *r, uint32_t limit)
{
    return (uint32_t)(test_random(r) >> 33) % limit;
}

static inline bool test_chance(struct test_random *r, uint32_t one_in)
{
    return test_below(r, one_in) == 0;
}

static inline void test_fill(struct test_random *r, void *at, size_t n)
{
    uint8_t *bytes = at;
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(test_random(r) >> 40);
}

/* ---- a frame in pieces ---- */

struct test_packet {
    struct packet p;
    uint8_t buffer[PACKET_BUFFER_BYTES];
    struct iovec iov[TEST_PIECES];
    uint8_t *pieces[TEST_PIECES]; /* each allocated for itself, so that a sanitizer sees its ends */
};

static inline void test_packet_free(struct test_packet *t)
{
    for (unsigned i = 0; i < TEST_PIECES; i++)
        free(t->pieces[i]);
    free(t);
}

static inline struct test_packet *test_packet_with_head(struct test_random *r, const uint8_t *bytes, uint32_t n,
                                                        uint32_t head_bytes)
{
    struct test_packet *t = calloc(1, sizeof *t);
    t->p.head = t->buffer + PACKET_ROOM_BYTES;
    t->p.room_bytes = PACKET_ROOM_BYTES;
    t->p.head_bytes = (uint16_t)head_bytes;
    t->p.length_bytes = n;
    t->p.l3_at = t->p.l4_at = PACKET_NO_LAYER;
    memcpy(t->p.head, bytes, head_bytes);
    unsigned count = 0;
    for (uint32_t at = head_bytes; at < n;) {
        uint32_t take = n - at;
        if (count < TEST_PIECES - 1) {
            uint32_t most = test_chance(r, 3) ? 3 : take;
            take = test_chance(r, 8) ? 0 : 1 + test_below(r, most < take ? most : take);
        }
        t->pieces[count] = malloc(take ? take : 1);
        memcpy(t->pieces[count], bytes + at, take);
        t->iov[count] = (struct iovec){t->pieces[count], take};
        count++;
        at += take;
    }
    t->p.body = t->iov;
    t->p.body_count = count;
    return t;
}

/* The head is at least min_head bytes long, where the frame is. */
static inline struct test_packet *test_packet_new(struct test_random *r, const uint8_t *bytes, uint32_t n,
                                                  uint32_t min_head)
{
    uint32_t most = n < PACKET_HEAD_BYTES ? n : PACKET_HEAD_BYTES;
    uint32_t least = min_head < most ? min_head : most;
    return test_packet_with_head(r, bytes, n, test_chance(r, 3) ? least : least + test_below(r, most - least + 1));
}

static inline void test_assert_bytes(const struct packet *p, const uint8_t *bytes, uint32_t n)
{
    static uint8_t flat[TEST_FRAME_BYTES];
    uint32_t at = p->head_bytes;
    assert_int_equal(p->length_bytes, n);
    memcpy(flat, p->head, at);
    for (unsigned i = 0; i < p->body_count; i++) {
        assert_true(p->body[i].iov_len <= n - at);
        memcpy(flat + at, p->body[i].iov_base, p->body[i].iov_len);
        at += (uint32_t)p->body[i].iov_len;
    }
    assert_int_equal(at, n);
    for (uint32_t i = 0; i < n; i++) {
        if (flat[i] != bytes[i]) fail_msg("byte %u of %u is %02x, not %02x", i, n, flat[i], bytes[i]);
    }
}

/* ---- sums, the slow way ---- */

static inline uint32_t naive_sum(uint32_t sum, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        sum += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

static inline uint32_t naive_crc32c(const uint8_t *bytes, size_t n)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    }
    return ~crc;
}

/* ---- a frame from its description ---- */

struct test_spec {
    uint8_t dst[6], src[6];
    unsigned vlans;
    uint16_t tpid[3], tci[3];
    unsigned labels;
    uint32_t mpls[3]; /* the bottom bit is put in */
    unsigned version;
    uint8_t tos, ttl;
    uint32_t label;
    uint16_t id, fragment; /* the whole field of IPv4 */
    uint8_t ip_src[16], ip_dst[16];
    unsigned option_words; /* of IPv4 */
    bool hop_by_hop, routing, destination, fragment_header;
    uint8_t segments_left;
    uint8_t final_dst[16]; /* in the pseudo header when there are segments left */
    uint8_t proto;
    uint16_t sport, dport; /* ICMP: type and code */
    uint32_t seq, ack;
    uint8_t flags, reserved;
    uint16_t window, urgent;
    unsigned tcp_option_bytes; /* a multiple of 4 */
    uint8_t tcp_options[40];
    bool no_csum; /* UDP */
    const uint8_t *payload;
    uint32_t payload_bytes;
    unsigned padding_bytes;
    bool unfinished; /* leave the checksum of TCP, UDP and ICMPv6 to offload */
};

struct test_built {
    uint8_t bytes[TEST_FRAME_BYTES];
    uint32_t n;
    uint16_t type_at, l3_at, l4_at, payload_at;
    uint32_t end_at;
    uint16_t csum_offset; /* 0: none */
};

static inline void put8(struct test_built *b, uint32_t v)
{
    b->bytes[b->n++] = (uint8_t)v;
}

static inline void put16(struct test_built *b, uint32_t v)
{
    put8(b, v >> 8);
    put8(b, v);
}

static inline void put32(struct test_built *b, uint32_t v)
{
    put16(b, v >> 16);
    put16(b, v);
}

static inline void put_bytes(struct test_built *b, const void *bytes, uint32_t n)
{
    if (n) memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
}

static inline void poke16(struct test_built *b, uint32_t at, uint32_t v)
{
    b->bytes[at] = (uint8_t)(v >> 8);
    b->bytes[at + 1] = (uint8_t)v;
}

static inline void build_ipv6(struct test_built *b, const struct test_spec *s)
{
    put32(b, 6u << 28 | (uint32_t)s->tos << 20 | s->label);
    put16(b, 0);
    uint32_t next_at = b->n;
    put8(b, s->proto);
    put8(b, s->ttl);
    put_bytes(b, s->ip_src, 16);
    put_bytes(b, s->ip_dst, 16);
    static const uint8_t options[14] = {1, 12};
    if (s->hop_by_hop) {
        b->bytes[next_at] = 0;
        next_at = b->n;
        put16(b, (uint32_t)s->proto << 8 | 1);
        put_bytes(b, options, 14);
    }
    if (s->routing) {
        b->bytes[next_at] = 43;
        next_at = b->n;
        put32(b, (uint32_t)s->proto << 24 | 2 << 16 | s->segments_left);
        put32(b, 0);
        put_bytes(b, s->final_dst, 16);
    }
    if (s->fragment_header) {
        b->bytes[next_at] = 44;
        next_at = b->n;
        put16(b, (uint32_t)s->proto << 8);
        put16(b, s->fragment);
        put32(b, 0x1234567);
    }
    if (s->destination) {
        b->bytes[next_at] = 60;
        put16(b, (uint32_t)s->proto << 8);
        put_bytes(b, options, 6);
    }
}

static inline void build_ipv4(struct test_built *b, const struct test_spec *s)
{
    put16(b, (0x45 + s->option_words) << 8 | s->tos);
    put16(b, 0);
    put16(b, s->id);
    put16(b, s->fragment);
    put16(b, (uint32_t)s->ttl << 8 | s->proto);
    put16(b, 0);
    put_bytes(b, s->ip_src, 4);
    put_bytes(b, s->ip_dst, 4);
    for (unsigned i = 0; i < s->option_words; i++)
        put32(b, 0x01010101);
}

static inline void build_l4(struct test_built *b, const struct test_spec *s)
{
    switch (s->proto) {
    case 6:
        put16(b, s->sport);
        put16(b, s->dport);
        put32(b, s->seq);
        put32(b, s->ack);
        put16(b, (uint32_t)(5 + s->tcp_option_bytes / 4) << 12 | (uint32_t)s->reserved << 8 | s->flags);
        put16(b, s->window);
        put16(b, 0);
        put16(b, s->urgent);
        put_bytes(b, s->tcp_options, s->tcp_option_bytes);
        b->csum_offset = 16;
        break;
    case 17:
        put16(b, s->sport);
        put16(b, s->dport);
        put16(b, 8 + s->payload_bytes);
        put16(b, 0);
        b->csum_offset = 6;
        break;
    case 132:
        put16(b, s->sport);
        put16(b, s->dport);
        put32(b, s->seq);
        put32(b, 0);
        break;
    case 1:
    case 58:
        put16(b, (uint32_t)(s->sport & 0xff) << 8 | (s->dport & 0xff));
        put16(b, 0);
        put32(b, s->seq);
        b->csum_offset = 2;
        break;
    }
}

static inline uint32_t naive_pseudo(const struct test_spec *s, uint32_t l4_bytes)
{
    unsigned n = s->version == 4 ? 4 : 16;
    uint32_t sum = naive_sum(0, s->ip_src, n);
    sum = naive_sum(sum, n == 16 && s->routing && s->segments_left ? s->final_dst : s->ip_dst, n);
    uint8_t rest[8] = {(uint8_t)(l4_bytes >> 24),
                       (uint8_t)(l4_bytes >> 16),
                       (uint8_t)(l4_bytes >> 8),
                       (uint8_t)l4_bytes,
                       0,
                       0,
                       0,
                       s->proto};
    return naive_sum(sum, rest, 8);
}

static inline void build_sums(struct test_built *b, const struct test_spec *s)
{
    uint32_t l4_bytes = b->n - b->l4_at;
    if (s->version == 4) {
        poke16(b, b->l3_at + 2u, b->n - b->l3_at);
        poke16(b, b->l3_at + 10u, ~naive_sum(0, b->bytes + b->l3_at, 20 + 4 * s->option_words));
    } else {
        poke16(b, b->l3_at + 4u, b->n - b->l3_at - 40);
    }
    if (s->proto == 132) {
        uint32_t crc = naive_crc32c(b->bytes + b->l4_at, l4_bytes);
        for (unsigned i = 0; i < 4; i++)
            b->bytes[b->l4_at + 8 + i] = (uint8_t)(crc >> (8 * i));
    }
    if (b->csum_offset == 0 || s->no_csum) return;
    uint32_t sum = s->proto == 1 ? 0 : naive_pseudo(s, l4_bytes);
    if (!s->unfinished) sum = ~naive_sum(sum, b->bytes + b->l4_at, l4_bytes) & 0xffff;
    if (s->proto == 17 && sum == 0 && !s->unfinished) sum = 0xffff;
    poke16(b, b->l4_at + b->csum_offset, sum);
}

static inline void test_build(struct test_built *b, const struct test_spec *s)
{
    b->n = 0;
    b->csum_offset = 0;
    put_bytes(b, s->dst, 6);
    put_bytes(b, s->src, 6);
    for (unsigned i = 0; i < s->vlans; i++) {
        put16(b, s->tpid[i]);
        put16(b, s->tci[i]);
    }
    b->type_at = (uint16_t)b->n;
    put16(b, s->labels ? 0x8847 : s->version == 4 ? 0x0800 : 0x86dd);
    for (unsigned i = 0; i < s->labels; i++)
        put32(b, (s->mpls[i] & ~0x100u) | (i + 1 == s->labels ? 0x100u : 0));
    b->l3_at = (uint16_t)b->n;
    if (s->version == 4) build_ipv4(b, s);
    else build_ipv6(b, s);
    b->l4_at = (uint16_t)b->n;
    build_l4(b, s);
    b->payload_at = (uint16_t)b->n;
    put_bytes(b, s->payload, s->payload_bytes);
    build_sums(b, s);
    b->end_at = b->n;
    for (unsigned i = 0; i < s->padding_bytes; i++)
        put8(b, 0xa5);
}

/* Something ordinary, at random; no fragment, no tunnel. */
static inline void test_spec_random(struct test_random *r, struct test_spec *s, uint8_t proto)
{
    memset(s, 0, sizeof *s);
    test_fill(r, s->dst, 6);
    test_fill(r, s->src, 6);
    s->vlans = test_below(r, 3);
    for (unsigned i = 0; i < 3; i++) {
        s->tpid[i] = test_chance(r, 2) ? 0x8100 : 0x88a8;
        s->tci[i] = (uint16_t)test_random(r);
        s->mpls[i] = (uint32_t)test_random(r);
    }
    s->version = test_chance(r, 2) ? 4 : 6;
    s->tos = (uint8_t)test_random(r);
    s->ttl = (uint8_t)(2 + test_below(r, 254));
    s->label = test_below(r, 1 << 20);
    s->id = (uint16_t)test_random(r);
    s->fragment = test_chance(r, 2) ? 0x4000 : 0;
    test_fill(r, s->ip_src, 16);
    test_fill(r, s->ip_dst, 16);
    test_fill(r, s->final_dst, 16);
    s->proto = proto;
    s->sport = (uint16_t)test_random(r);
    s->dport = (uint16_t)test_random(r);
    s->seq = (uint32_t)test_random(r);
    s->ack = (uint32_t)test_random(r);
    s->window = (uint16_t)test_random(r);
    s->flags = 0x10;
    s->tcp_option_bytes = test_chance(r, 2) ? 12 : 0;
    test_fill(r, s->tcp_options, 12);
}

#endif
