/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Double fetches: a driver that changes its descriptors, its indirect tables and its rings while the device reads them. What
 * was checked must be what is used: whatever comes out of virtq_pop() lies in guest memory, adds up, and can be
 * given back; or the queue breaks and says why.
 *
 * The words that the thread writes are each half right: an address is good or just outside, a length good or too
 * large, so that a value fetched once more after its check is likely to be the other one.
 */
#include "ring/virtq.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "ring/test_rig.h"
#include "ring/wire.h"

#define SIZE 4u /* few words, so that each changes often */
#define IOV_MAX_TEST 64u
#define INDIRECT_COUNT 4u
#define ENOUGH 50000u   /* chains popped, and queues broken ... */
#define TRIES 20000000u /* ... unless the other thread gets no CPU to speak of */

/* The thread writes through a mapping of its own (rig.mem), as a guest does. */
static struct rig rig;
static _Atomic bool stop;

static bool one_in(uint64_t *seed, unsigned n)
{
    return rig_random(seed) % n == 0;
}

static uint64_t some_address(uint64_t *seed)
{
    if (!one_in(seed, 4)) return rig.buffers_gpa + rig_random(seed) % (RIG_BUFFERS_BYTES - 4096);
    switch (rig_random(seed) % 4) {
    case 0: return rig.buffers_gpa + RIG_BUFFERS_BYTES - 1;
    case 1: return RIG_BASE - 4096;
    case 2: return UINT64_MAX - 100;
    default: return rig.buffers_gpa + RIG_BUFFERS_BYTES / 2 - 256; /* across the seam of the regions */
    }
}

static uint32_t some_length(uint64_t *seed)
{
    if (!one_in(seed, 4)) return 512;
    return one_in(seed, 2) ? UINT32_MAX : RIG_BUFFERS_BYTES;
}

static void write_desc(char *to, uint64_t addr, uint32_t length, unsigned flags, unsigned extra)
{
    bool packed = rig.setup.packed;
    uint64_t third = packed ? extra : flags, fourth = packed ? flags : extra;
    ring_store64(to, addr);
    ring_store64(to + 8, length | third << 32 | fourth << 48);
}

/* A buffer, or an indirect table that is there and, mostly, as long as it says. */
static void flip_desc(char *to, uint64_t *seed, unsigned at)
{
    bool packed = rig.setup.packed;
    unsigned flags = one_in(seed, 2) ? DESC_F_WRITE : 0;
    unsigned extra = packed ? at : (at + 1) % SIZE;
    if (packed) flags = flags | (one_in(seed, 4) ? DESC_F_USED : DESC_F_AVAIL);
    if (one_in(seed, 8)) flags |= DESC_F_NEXT;
    if (!packed && one_in(seed, 16)) extra = SIZE;
    if (one_in(seed, 3)) {
        uint32_t count = one_in(seed, 4) ? VIRTQ_SIZE_MAX : INDIRECT_COUNT;
        write_desc(to, rig.indirect_gpa, count * (uint32_t)DESC_BYTES, flags | DESC_F_INDIRECT, extra);
    } else {
        write_desc(to, some_address(seed), some_length(seed), flags, extra);
    }
}

static void flip_inner(uint64_t *seed, unsigned at)
{
    bool packed = rig.setup.packed;
    unsigned flags = DESC_F_WRITE | (one_in(seed, 3) ? DESC_F_NEXT : 0), extra = packed ? 0 : at + 1;
    if (one_in(seed, 16)) flags |= DESC_F_INDIRECT;
    write_desc(rig.indirect + at * DESC_BYTES, some_address(seed), some_length(seed), flags, extra);
}

static void *flip(void *arg)
{
    uint64_t *seed = arg;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        unsigned at = (unsigned)(rig_random(seed) % SIZE);
        flip_desc(rig.mem + at * DESC_BYTES, seed, at);
        flip_inner(seed, at % INDIRECT_COUNT);
        if (rig.setup.packed) continue;
        char *avail = rig.mem + ((char *)rig.setup.driver - (char *)rig.setup.desc);
        ring_store16(avail + SPLIT_RING + at * SPLIT_AVAIL_ENTRY, (uint16_t)(one_in(seed, 8) ? SIZE : at));
    }
    return NULL;
}

/* Inside one region, and as many bytes as the chain says. */
static void check_chain(const struct virtq_chain *c, const struct iovec *iov)
{
    uint64_t bytes = 0;
    assert_true(c->id < SIZE);
    assert_true(c->out_count + c->in_count <= IOV_MAX_TEST);
    for (unsigned i = 0; i < c->out_count + c->in_count; i++) {
        bool inside = false;
        for (unsigned r = 0; r < rig.map->count; r++) {
            const struct guest_region *region = &rig.map->region[r];
            size_t at = (size_t)((char *)iov[i].iov_base - region->host);
            inside |= (char *)iov[i].iov_base >= region->host && at < region->size_bytes &&
                      iov[i].iov_len <= region->size_bytes - at;
        }
        assert_true(inside && iov[i].iov_len > 0);
        bytes += iov[i].iov_len;
    }
    assert_true(bytes == c->out_bytes + c->in_bytes);
}

/* A device in the place of one that broke. */
static void next_device(void)
{
    struct errmsg e = {""};
    virtq_free(rig.q);
    if (virtq_new(&rig.q, &rig.setup, rig.map, &e) < 0) fail_msg("%s", e.text);
}

static void race(bool packed, bool tracked)
{
    struct rig_options o = {
        .size = SIZE, .packed = packed, .event_idx = true, .tracked = tracked, .base = packed ? 0x80008000 : 0};
    struct virtq_chain c;
    struct iovec iov[IOV_MAX_TEST];
    pthread_t thread;
    uint64_t seed = 1;
    unsigned popped = 0, broken = 0;
    rig_open(&rig, &o);
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&thread, NULL, flip, &seed), 0);
    for (unsigned i = 0; i < TRIES && (popped < ENOUGH || broken < ENOUGH); i++) {
        if (!packed) ring_store16_release((char *)rig.setup.driver + SPLIT_IDX, (uint16_t)(virtq_base(rig.q) + 1));
        int ret = virtq_pop(rig.q, &c, iov, IOV_MAX_TEST);
        if (ret == 1) {
            popped++;
            check_chain(&c, iov);
            virtq_push(rig.q, c.id, 0);
            virtq_publish(rig.q);
            assert_int_equal(virtq_in_flight(rig.q), 0);
        } else if (ret < 0) {
            assert_true(ret == -E2BIG || (ret == -EPROTO && virtq_broken(rig.q)));
            broken++;
            next_device();
        }
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    rig_close(&rig);
}

static void test_split(void **state)
{
    race(false, false);
    race(false, true);
}

static void test_packed(void **state)
{
    race(true, false);
    race(true, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_split), cmocka_unit_test(test_packed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
