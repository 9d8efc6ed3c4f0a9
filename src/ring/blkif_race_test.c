/* SPDX-License-Identifier: Apache-2.0 */
/*
 * XSA-155: a front end that changes its requests while they are read. A thread writes over the ring without end; whatever a request
 * was when it was copied, what comes out keeps within its bounds, and the answer is that of what was copied.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ring/blkif.h"
#include "ring/blkif_wire.h"
#include "ring/test_rig.h"

#ifdef CREEDENCE_SANITIZED
#define REQUESTS 20000u
#else
#define REQUESTS 300000u
#endif
#define SEGMENTS_MAX 64u

static _Alignas(4096) char memory[4096];
static atomic_bool stop;
static const struct blkif_layout *layout;

static char *entry(unsigned at)
{
    return memory + sizeof(struct xen_ring) + at * layout->entry_bytes;
}

/* Byte by byte, so that no copy of it is ever of one mind: the heads mostly, where counts and operations are. */
static void *spoil(void *arg)
{
    (void)arg;
    uint64_t random = 3;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        uint64_t x = rig_random(&random);
        unsigned at = (unsigned)(x % 32), byte = (unsigned)(x >> 8) % (x >> 60 ? 4 : layout->entry_bytes);
        static const uint8_t ops[] = {BLKIF_READ, BLKIF_WRITE, BLKIF_WRITE_BARRIER, BLKIF_INDIRECT, BLKIF_DISCARD, 11,
                                      12,         255};
        __atomic_store_n(entry(at) + byte, (char)ops[(x >> 16) % 8], __ATOMIC_RELAXED);
    }
    return NULL;
}

static void check(const struct blkif_request *q)
{
    assert_int_not_equal(q->op, BLKIF_INDIRECT);
    assert_true(q->segment_count <= (q->indirect_pages ? SEGMENTS_MAX : 11));
    assert_true(q->indirect_pages <= 1);
    if (q->invalid) assert_true(q->segment_count == 0 && q->indirect_pages == 0);
    else if (q->op == BLKIF_READ || q->op == BLKIF_WRITE) assert_true(q->segment_count > 0);
    for (unsigned i = 0; !q->indirect_pages && i < q->segment_count; i++)
        assert_true(q->segments[i].first_sect <= q->segments[i].last_sect && q->segments[i].last_sect < 8);
}

static void spoilt(enum blkif_abi abi)
{
    struct xen_ring *shared = (struct xen_ring *)(void *)memory;
    struct blkif_segment segments[SEGMENTS_MAX];
    struct blkif_request q = {.segments = segments};
    struct blkif_ring *ring;
    pthread_t thread;
    memset(memory, 0, sizeof memory);
    layout = abi == BLKIF_ABI_X86_32 ? &blkif_layout32 : &blkif_layout64;
    struct blkif_setup s = {.ring = memory, .pages = 1, .abi = abi, .segments_max = SEGMENTS_MAX};
    assert_int_equal(blkif_new(&ring, &s, NULL), 0);
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&thread, NULL, spoil, NULL), 0);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        __atomic_store_n(&shared->req_prod, i + 1, __ATOMIC_RELEASE);
        assert_int_equal(blkif_pop(ring, &q), 1);
        check(&q);
        blkif_push(ring, q.slot, BLKIF_ERROR);
        blkif_publish(ring);
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    blkif_free(ring);
}

static void test_spoilt(void **state)
{
#ifdef __SANITIZE_THREAD__ /* the copy races with the writer: that is what is tried */
    skip();
#endif
    spoilt(BLKIF_ABI_X86_32);
    spoilt(BLKIF_ABI_X86_64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_spoilt)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
