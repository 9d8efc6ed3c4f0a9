/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile block front end: the input is a ring's parameters and then a script of writes to the ring (and, at a restart, to the
 * in-flight table) and of calls that a backend makes in between.
 *
 * input: layout, pages (as an order), segments_max (2 bytes), then commands (enum command, a byte) and their operands. Whatever comes,
 * what is popped keeps within the bounds that blkif.h gives, slots are not in use, and the segments are sectors of a page.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ring/blkif.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PAGES_MAX 4u
#define ENTRIES_MAX 128u

enum command {
    WRITE,   /* offset (2 bytes), length - 1, data: to the ring */
    SPOIL,   /* the same: to the in-flight table, which is taken over then */
    PRODUCE, /* by how much: the request index */
    POP,
    PUSH, /* which of those held */
    PUBLISH,
    FINAL_CHECK,
    RESTART,
    COMMANDS
};

struct input {
    const uint8_t *at, *end;
};

static _Alignas(4096) char memory[PAGES_MAX * 4096];
static _Alignas(64) char table[32768];

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes && in->at < in->end; i++)
        v |= (uint64_t)*in->at++ << (8 * i);
    return v;
}

static void check(bool ok)
{
    if (!ok) abort();
}

struct backend {
    struct blkif_setup setup;
    struct blkif_ring *ring;
    unsigned held_count;
    uint16_t held[ENTRIES_MAX];
    bool is_held[ENTRIES_MAX];
};

static void write_to(struct input *in, char *target, size_t target_bytes)
{
    size_t at = (size_t)take(in, 2), length = (size_t)take(in, 1) + 1;
    if (length > (size_t)(in->end - in->at)) length = (size_t)(in->end - in->at);
    if (at >= target_bytes) return;
    size_t fits = length < target_bytes - at ? length : target_bytes - at;
    memcpy(target + at, in->at, fits);
    in->at += length;
}

static void check_request(const struct backend *v, const struct blkif_request *q)
{
    bool direct = q->indirect_pages == 0;
    check(q->op != BLKIF_INDIRECT);
    check(q->indirect_pages <= BLKIF_INDIRECT_PAGES_MAX);
    check(q->segment_count <= (direct ? 11 : v->setup.segments_max));
    if (q->invalid) check(q->segment_count == 0 && direct);
    if (!direct) check(q->segment_count > 0 && (q->op == BLKIF_READ || q->op == BLKIF_WRITE));
    for (unsigned i = 0; direct && i < q->segment_count; i++)
        check(q->segments[i].first_sect <= q->segments[i].last_sect && q->segments[i].last_sect < 8);
}

/* The pages of an indirect request: some of the ring's own bytes. */
static void add_segments(struct blkif_request *q)
{
    if (!q->indirect_pages) return;
    bool ok = blkif_add_segments(q, memory, 4096);
    check(ok == !q->invalid && q->indirect_pages == 0);
    for (unsigned i = 0; i < q->segment_count; i++)
        check(q->segments[i].first_sect <= q->segments[i].last_sect && q->segments[i].last_sect < 8);
}

static bool pop(struct backend *v)
{
    static struct blkif_segment segments[BLKIF_SEGMENTS_MAX];
    struct blkif_request q = {.segments = segments};
    int ret = blkif_pop(v->ring, &q);
    check((ret == -EPROTO) == (blkif_broken(v->ring) != NULL));
    check(ret >= 0 || ret == -EPROTO);
    if (ret != 1) return false;
    check(q.slot < blkif_ring_entries(v->setup.abi, v->setup.pages) && !v->is_held[q.slot]);
    check_request(v, &q);
    add_segments(&q);
    v->is_held[q.slot] = true;
    v->held[v->held_count++] = q.slot;
    check(v->held_count == blkif_in_flight(v->ring));
    return true;
}

static void push(struct backend *v, unsigned which)
{
    if (v->held_count == 0) return;
    which %= v->held_count;
    uint16_t slot = v->held[which];
    v->held[which] = v->held[--v->held_count];
    v->is_held[slot] = false;
    blkif_push(v->ring, slot, BLKIF_OKAY);
}

static bool restart(struct backend *v)
{
    blkif_free(v->ring);
    v->held_count = 0;
    memset(v->is_held, 0, sizeof v->is_held);
    struct errmsg e;
    return blkif_new(&v->ring, &v->setup, &e) == 0;
}

static bool command(struct backend *v, struct input *in)
{
    uint32_t *req_prod = (uint32_t *)(void *)memory;
    switch (take(in, 1) % COMMANDS) {
    case WRITE: write_to(in, memory, v->setup.pages * 4096); break;
    case PRODUCE: *req_prod += (uint32_t)take(in, 1); break;
    case POP: pop(v); break;
    case PUSH: push(v, (unsigned)take(in, 1)); break;
    case PUBLISH: blkif_publish(v->ring); break;
    case FINAL_CHECK: blkif_final_check(v->ring); break;
    case SPOIL: write_to(in, table, sizeof table); /* fall through */
    case RESTART: return restart(v);
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    memset(memory, 0, sizeof memory);
    memset(table, 0, sizeof table);
    struct input in = {data, data + size};
    struct backend v = {0};
    v.setup.ring = memory;
    v.setup.abi = (enum blkif_abi)(take(&in, 1) % 3);
    v.setup.pages = 1u << take(&in, 1) % 3;
    v.setup.segments_max = (unsigned)(take(&in, 2) % (BLKIF_SEGMENTS_MAX + 1));
    v.setup.inflight = table;
    v.setup.resume = true;
    check(blkif_inflight_bytes(v.setup.abi, v.setup.pages) <= sizeof table);
    if (!restart(&v)) abort();
    while (in.at < in.end && command(&v, &in))
        ;
    if (v.ring) {
        for (unsigned i = 0; i < 2 * ENTRIES_MAX && pop(&v); i++)
            ;
        while (v.held_count > 0)
            push(&v, 0);
        blkif_publish(v.ring);
    }
    blkif_free(v.ring);
    return 0;
}
