/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A batch for GRO. What comes out is cut up again: every frame that went in must be there byte for byte, and none else.
 *
 * input: length of the template and the template's bytes, a frame of headers; then frames, each: flags, payload length, bytes
 * in the head, shape of the pieces, number of patches, patches (offset, value). The template's sequence number and
 * identification go on by themselves from frame to frame, and (flag RIGHT) lengths and sums are made right, so that the
 * fuzzer need not guess them.
 */
#include "packet/gro.h"
#include "packet/gso.h"
#include "packet/parse.h"
#include "packet_pieces.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum flags { RIGHT = 1, VALID = 2, PADDED = 4, AGAIN = 8 };

#define FRAME_MAX 640u

struct frame {
    uint8_t bytes[FRAME_MAX];
    uint32_t n, end_at;
    bool seen;
    struct packet_layers l;
};

static struct frame frames[PACKET_BATCH];
static struct pieces made[PACKET_BATCH];

static void put(uint8_t *at, uint32_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
}

static uint32_t get(const uint8_t *at, unsigned bytes)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v = v << 8 | at[i];
    return v;
}

static struct packet_layers layers_of(uint8_t *bytes, uint32_t n)
{
    struct packet p = {.head = bytes, .head_bytes = (uint16_t)(n < 256 ? n : 256), .length_bytes = n};
    return packet_parse(&p);
}

static void make_right(struct frame *f)
{
    const struct packet_layers *l = &f->l;
    if (l->version == 0) return;
    uint8_t *ip = f->bytes + l->l3_at;
    if (l->version == 4) {
        put(ip + 2, f->end_at - l->l3_at, 2);
        put(ip + 10, 0, 2);
        put(ip + 10, ~slow_sum(0, ip, (ip[0] & 15u) * 4), 2);
    } else {
        put(ip + 4, f->end_at - l->l3_at - 40, 2);
    }
    f->l = layers_of(f->bytes, f->n);
    if (l->proto != 6 || l->l4_at == PACKET_NO_LAYER || l->l4_at + 20u > f->end_at) return;
    uint8_t *field = f->bytes + l->l4_at + 16;
    put(field, 0, 2);
    uint32_t sum = slow_l4_sum(f->bytes, f->end_at, l->version, 6, l->l3_at, l->l4_at);
    put(field, ~sum, 2);
}

/* Both mean the same; whoever sums up anew writes the first. */
static void canonical(uint8_t *field)
{
    if (field[0] == 0xff && field[1] == 0xff) field[0] = field[1] = 0;
}

static bool is_tcp(const struct packet_layers *l)
{
    return l->proto == 6 && l->payload_at != PACKET_NO_LAYER && !l->encapsulated && !l->options && !l->fragment;
}

static void make_frame(struct frame *f, struct input *in, const struct frame *base, unsigned flags)
{
    uint32_t payload = take(in, 1);
    *f = *base;
    for (uint32_t i = 0; i < payload; i++)
        f->bytes[f->n++] = (uint8_t)(i * 7 + payload);
    f->end_at = f->n;
    if (flags & PADDED) f->n += 3;
    for (unsigned patches = take(in, 1) % 4; patches > 0; patches--) {
        uint32_t at = take(in, 1);
        uint8_t v = (uint8_t)take(in, 1);
        if (at < f->n) f->bytes[at] = v;
    }
    f->l = layers_of(f->bytes, f->n);
    if (flags & RIGHT) make_right(f);
    f->l = layers_of(f->bytes, f->n);
    if (!is_tcp(&f->l)) return;
    canonical(f->bytes + f->l.l4_at + 16);
    if (f->l.version == 4) canonical(f->bytes + f->l.l3_at + 10);
}

static bool is_sum_right(const struct frame *f)
{
    return is_tcp(&f->l) && slow_l4_sum(f->bytes, f->l.end_at, f->l.version, 6, f->l.l3_at, f->l.l4_at) == 0xffff;
}

/* The next segment of the stream begins where this one ends. */
static void go_on(struct frame *base, const struct frame *f)
{
    if (!is_tcp(&f->l) || !is_tcp(&base->l)) return;
    uint8_t *seq = base->bytes + base->l.l4_at + 4;
    put(seq, get(f->bytes + f->l.l4_at + 4, 4) + f->l.end_at - f->l.payload_at, 4);
    if (base->l.version == 4) put(base->bytes + base->l.l3_at + 4, get(f->bytes + f->l.l3_at + 4, 2) + 1, 2);
}

static bool same(const struct frame *f, const uint8_t *bytes, uint32_t n, bool merged)
{
    if (n != (merged ? f->l.end_at : f->n)) return false;
    static uint8_t copy[FRAME_MAX];
    memcpy(copy, bytes, n);
    bool fixed = merged && f->l.version == 4 && f->bytes[f->l.l3_at + 6] & 0x40;
    if (fixed) memcpy(copy + f->l.l3_at + 4, f->bytes + f->l.l3_at + 4, 2);
    if (fixed) memcpy(copy + f->l.l3_at + 10, f->bytes + f->l.l3_at + 10, 2);
    return memcmp(copy, f->bytes, n) == 0;
}

static void find(const struct packet *p, unsigned count, bool merged)
{
    static uint8_t flat[FRAME_MAX];
    check(p->length_bytes <= FRAME_MAX);
    packet_read(p, 0, flat, p->length_bytes);
    for (unsigned i = 0; i < count; i++) {
        if (frames[i].seen || !same(&frames[i], flat, p->length_bytes, merged)) continue;
        frames[i].seen = true;
        return;
    }
    abort();
}

static void compare(struct packet_pool *pool, struct packet **packets, unsigned left, unsigned count)
{
    /* First those that are as they came: of two frames that differ in padding only, one may have been merged. */
    for (unsigned i = 0; i < left; i++)
        if (packets[i]->offload.gso == PACKET_GSO_NONE) find(packets[i], count, false);
    for (unsigned i = 0; i < left; i++) {
        if (packets[i]->offload.gso == PACKET_GSO_NONE) continue;
        struct gso g;
        check(gso_begin(&g, pool, packets[i], false) == 0);
        struct packet_pool_mark mark = packet_pool_mark(pool);
        for (struct packet *s; (s = gso_next(&g)); packet_pool_rewind(pool, mark))
            find(s, count, true);
    }
    for (unsigned i = 0; i < count; i++)
        check(frames[i].seen);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct packet_pool *pool;
    static struct gro gro;
    static struct frame base;
    if (!pool) pool = packet_pool_new();
    gro_init(&gro);
    struct input in = {data, data + size};
    memset(&base, 0, sizeof base);
    base.n = take(&in, 1) % 160;
    for (uint32_t i = 0; i < base.n; i++)
        base.bytes[i] = (uint8_t)take(&in, 1);
    base.l = layers_of(base.bytes, base.n);
    base.end_at = base.n;
    make_right(&base);
    struct packet *packets[PACKET_BATCH];
    unsigned count = 0;
    while (in.at < in.end && count < PACKET_BATCH) {
        struct frame *f = &frames[count];
        unsigned flags = take(&in, 1), head = take(&in, 1) | 64, shape = take(&in, 1);
        make_frame(f, &in, &base, flags);
        if (!(flags & AGAIN)) go_on(&base, f);
        pieces_make(&made[count], f->bytes, f->n, head, shape);
        packets[count] = &made[count].p;
        if (flags & VALID && is_sum_right(f)) packets[count]->offload.csum_valid = true;
        count++;
    }
    unsigned left = gro_batch(&gro, packets, count, pool);
    check(left <= count && left + gro.merged == count);
    for (unsigned i = 0; count > 1 && i < count; i++)
        check(!is_tcp(&frames[i].l) || made[i].p.head_bytes < frames[i].l.payload_at ||
              (made[i].p.l3_at == frames[i].l.l3_at && made[i].p.l4_at == frames[i].l.l4_at));
    compare(pool, packets, left, count);
    packet_pool_reset(pool);
    for (unsigned i = 0; i < count; i++)
        pieces_free(&made[i]);
    return 0;
}
