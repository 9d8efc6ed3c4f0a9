/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver side of virtqueues against the device side (ring/virtq.h), in one process: every kind of ring, random
 * batches, completions out of order, notifications that must not be missing, and a device that dies and comes
 * back in the middle.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "guest/memory.h"
#include "pattern.h"
#include "ring/virtq.h"

enum { DEPTH = 16, SLOT_BYTES = 8192, SEGMENT = 2048, REQUESTS = 90000, IOV_MAX_HERE = 16 };

struct kind {
    bool packed, indirect, event_idx;
};

struct held_chain {
    struct virtq_chain c;
    struct iovec iov[IOV_MAX_HERE];
};

struct bed {
    struct frontend *f;
    struct fe_queue *q;
    struct guest_map *map;
    struct virtq *v;
    void *inflight;
    uint64_t rng, done, kicked;
    struct held_chain held[DEPTH]; /* popped by the device, not yet pushed */
    unsigned held_count;
};

static void device_new(struct bed *b, bool resume)
{
    struct errmsg e;
    struct virtq_setup s = {.size = b->q->size,
                            .packed = b->q->packed,
                            .event_idx = b->q->event_idx,
                            .indirect = b->q->indirect,
                            .desc = guest_map_at_user(b->map, (uintptr_t)b->q->ring_desc, 16u * b->q->size),
                            .driver = guest_map_at_user(b->map, (uintptr_t)b->q->ring_driver, 4),
                            .device = guest_map_at_user(b->map, (uintptr_t)b->q->ring_device, 4),
                            .base = fe_queue_base(b->q),
                            .inflight = b->inflight,
                            .resume = resume};
    if (virtq_new(&b->v, &s, b->map, &e) < 0) fail_msg("%s", e.text);
}

static void bed_new(struct bed *b, const struct kind *k)
{
    struct errmsg e;
    struct frontend_args a = {.depth = DEPTH,
                              .slot_bytes = SLOT_BYTES,
                              .segment_bytes = SEGMENT,
                              .packed = k->packed,
                              .indirect = k->indirect,
                              .event_idx = k->event_idx};
    *b = (struct bed){.rng = 1};
    if (frontend_new(&b->f, &a, &e) < 0) fail_msg("%s", e.text);
    b->q = &b->f->queue[0];
    struct guest_region_desc d = {
        .guest_addr = {FRONTEND_GPA_BASE}, .size_bytes = b->f->mem_bytes, .user_addr = (uintptr_t)b->f->mem};
    if (guest_map_new(&b->map, &d, &b->f->mem_fd, 1, NULL, &e) < 0) fail_msg("%s", e.text);
    size_t inflight_bytes = virtq_inflight_bytes(b->q->size, k->packed);
    b->inflight = aligned_alloc(64, inflight_bytes);
    assert_non_null(b->inflight);
    memset(b->inflight, 0, inflight_bytes);
    device_new(b, false);
}

static void bed_free(struct bed *b)
{
    virtq_free(b->v);
    guest_map_unref(b->map);
    free(b->inflight);
    frontend_free(b->f);
}

/* ---- The device: content is the pattern at the request's place ---- */

static void device_serve(const struct held_chain *h)
{
    const struct virtio_blk_outhdr *header = h->iov[0].iov_base;
    unsigned last = h->c.out_count + h->c.in_count - 1;
    uint64_t at = header->sector * 512;
    assert_int_equal(h->iov[0].iov_len, sizeof *header);
    assert_int_equal(h->iov[last].iov_len, 1);
    for (unsigned i = 1; i < last; i++) {
        assert_true(h->iov[i].iov_len <= SEGMENT);
        if (header->type == VIRTIO_BLK_T_IN) {
            assert_true(i >= h->c.out_count);
            pattern_fill(h->iov[i].iov_base, at, h->iov[i].iov_len);
        } else {
            assert_true(i < h->c.out_count);
            assert_int_equal(pattern_check(h->iov[i].iov_base, at, h->iov[i].iov_len, PATTERN_FULL), -1);
        }
        at += h->iov[i].iov_len;
    }
    *(uint8_t *)h->iov[last].iov_base = VIRTIO_BLK_S_OK;
}

static void device_pop(struct bed *b)
{
    while (b->held_count < DEPTH) {
        struct held_chain *h = &b->held[b->held_count];
        int ret = virtq_pop(b->v, &h->c, h->iov, IOV_MAX_HERE);
        if (ret < 0) fail_msg("the device says: %s", virtq_broken(b->v));
        if (ret == 0) break;
        b->held_count++;
    }
}

static bool device_complete(struct bed *b, unsigned count)
{
    for (; count && b->held_count; count--) {
        struct held_chain *h = &b->held[bench_random_below(&b->rng, b->held_count)];
        device_serve(h);
        virtq_push(b->v, h->c.id, (uint32_t)h->c.in_bytes);
        *h = b->held[--b->held_count];
    }
    return virtq_publish(b->v);
}

/* ---- The driver ---- */

static unsigned driver_add(struct bed *b, unsigned count)
{
    unsigned added = 0;
    for (unsigned slot = 0; slot < DEPTH && added < count; slot++) {
        struct fe_slot *s = &b->q->slot[slot];
        if (s->busy) continue;
        uint32_t length = 512 * (uint32_t)bench_random_below(&b->rng, SLOT_BYTES / 512 + 1);
        bool write = bench_random(&b->rng) & 1;
        s->user = bench_random_below(&b->rng, 1 << 20) * 512;
        if (write) pattern_fill(s->data, s->user, length);
        else memset(s->data, 0, length);
        fe_queue_add(b->q, slot, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, s->user / 512, length);
        added++;
    }
    fe_queue_submit(b->q);
    return added;
}

static unsigned driver_reap(struct bed *b)
{
    uint16_t done[DEPTH];
    int n = fe_queue_reap(b->q, done, DEPTH);
    if (n < 0) fail_msg("the driver says: %s", b->q->broken);
    for (int i = 0; i < n; i++) {
        const struct fe_slot *s = &b->q->slot[done[i]];
        assert_int_equal(*s->status, VIRTIO_BLK_S_OK);
        if (!s->device_writes) continue;
        assert_int_equal(s->written, s->length + 1);
        assert_int_equal(pattern_check(s->data, s->user, s->length, PATTERN_FULL), -1);
    }
    b->done += (unsigned)n;
    return (unsigned)n;
}

static bool was_kicked(struct bed *b)
{
    uint64_t n;
    return read(b->q->kick_fd, &n, sizeof n) > 0;
}

/* One turn of each; both sides sometimes sleep, and must then be woken. */
static void turn(struct bed *b)
{
    bool device_sleeps = bench_random_below(&b->rng, 4) == 0 && !virtq_has_work(b->v);
    if (device_sleeps) {
        assert_false(virtq_kick_enable(b->v));
    } else {
        virtq_kick_disable(b->v);
    }
    was_kicked(b);
    unsigned added = driver_add(b, (unsigned)bench_random_below(&b->rng, DEPTH + 1));
    if (device_sleeps && added) assert_true(was_kicked(b));
    device_pop(b);

    bool driver_sleeps = bench_random_below(&b->rng, 4) == 0 && b->held_count;
    fe_queue_want_calls(b->q, driver_sleeps);
    if (driver_sleeps) driver_reap(b);
    bool expect_call = driver_sleeps && b->held_count;
    bool call = device_complete(b, expect_call ? 1 + (unsigned)bench_random_below(&b->rng, DEPTH)
                                               : (unsigned)bench_random_below(&b->rng, DEPTH + 1));
    if (expect_call) assert_true(call);
    driver_reap(b);
}

static void test_traffic(void **state)
{
    struct bed b;
    bed_new(&b, *state);
    while (b.done < REQUESTS) {
        turn(&b);
    }
    device_pop(&b);
    device_complete(&b, DEPTH);
    driver_reap(&b);
    assert_int_equal(b.q->in_flight, 0);
    bed_free(&b);
}

/* The device dies with requests popped and not pushed; its successor serves them, each once. */
static void test_resume(void **state)
{
    struct bed b;
    bed_new(&b, *state);
    for (unsigned life = 0; life < 2000; life++) {
        driver_add(&b, (unsigned)bench_random_below(&b.rng, DEPTH + 1));
        device_pop(&b);
        device_complete(&b, (unsigned)bench_random_below(&b.rng, DEPTH / 2));
        if (life & 1) driver_reap(&b);
        virtq_free(b.v);
        b.held_count = 0;
        device_new(&b, true);
    }
    device_pop(&b);
    device_complete(&b, DEPTH);
    driver_reap(&b);
    device_pop(&b);
    device_complete(&b, DEPTH);
    driver_reap(&b);
    assert_int_equal(b.q->in_flight, 0);
    assert_int_equal(virtq_in_flight(b.v), 0);
    bed_free(&b);
}

/* A device that starts with empty rings after the front end gave up on what it had: all is submitted again. */
static void test_restart(void **state)
{
    struct bed b;
    bed_new(&b, *state);
    unsigned added = driver_add(&b, DEPTH);
    device_pop(&b);
    virtq_free(b.v);
    b.held_count = 0;
    fe_queue_restart(b.q);
    memset(b.inflight, 0, virtq_inflight_bytes(b.q->size, b.q->packed));
    device_new(&b, false);
    device_pop(&b);
    assert_int_equal(b.held_count, added);
    device_complete(&b, DEPTH);
    assert_int_equal(driver_reap(&b), added);
    bed_free(&b);
}

static void test_hostile_device(void **state)
{
    struct bed b;
    bed_new(&b, *state);
    uint16_t done[DEPTH];
    if (b.q->packed) {
        driver_add(&b, 1);
        struct vring_packed_desc *d = b.q->ring_desc;
        d->id = DEPTH;
        d->flags = 1u << VRING_PACKED_DESC_F_AVAIL | 1u << VRING_PACKED_DESC_F_USED;
    } else {
        struct vring_used *used = b.q->ring_device;
        used->idx = 1; /* nothing is in flight */
    }
    assert_true(fe_queue_reap(b.q, done, DEPTH) < 0);
    assert_non_null(b.q->broken);
    bed_free(&b);
}

#define KIND_TESTS(name, k)                                                                                            \
    {"traffic, " name, test_traffic, NULL, NULL, (void *)(uintptr_t) & (k)},                                           \
        {"resume, " name, test_resume, NULL, NULL, (void *)(uintptr_t) & (k)},                                         \
        {"restart, " name, test_restart, NULL, NULL, (void *)(uintptr_t) & (k)},                                       \
    {                                                                                                                  \
        "hostile, " name, test_hostile_device, NULL, NULL, (void *)(uintptr_t) & (k)                                   \
    }

int main(void)
{
    static const struct kind kinds[8] = {
        {false, false, false}, {false, false, true}, {false, true, false}, {false, true, true},
        {true, false, false},  {true, false, true},  {true, true, false},  {true, true, true},
    };
    const struct CMUnitTest tests[] = {
        KIND_TESTS("split", kinds[0]),
        KIND_TESTS("split, event", kinds[1]),
        KIND_TESTS("split, indirect", kinds[2]),
        KIND_TESTS("split, indirect, event", kinds[3]),
        KIND_TESTS("packed", kinds[4]),
        KIND_TESTS("packed, event", kinds[5]),
        KIND_TESTS("packed, indirect", kinds[6]),
        KIND_TESTS("packed, indirect, event", kinds[7]),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
