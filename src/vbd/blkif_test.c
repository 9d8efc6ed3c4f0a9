/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device as a blkfront sees it: a simulated machine and front end on one side, a disk in memory on the other, the real queue
 * thread and engine between them. What does not depend on how data are got is tried in each way.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vbd/test_blkfront.h"

static struct bed bed;

static const enum vbd_blkif_way ways[] = {VBD_BLKIF_COPY, VBD_BLKIF_MAP, VBD_BLKIF_PERSISTENT};

static void open_default(enum vbd_blkif_way way)
{
    bed_open(&bed, way, BLKIF_ABI_NATIVE, 1);
    struct vbd_config c = bed_config(&bed);
    bed_serve(&bed, &c);
}

/* Requests of whole pages from page `first` on. */
static struct blkif_segment direct[11];

static struct blkif_request request(enum blkif_op op, uint64_t sector, unsigned first, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        direct[i] = (struct blkif_segment){bed.ref[first + i], 0, 7};
    return (struct blkif_request){.op = (uint8_t)op, .sector = sector, .segment_count = count, .segments = direct};
}

static void add(const struct blkif_request *q, uint64_t token)
{
    assert_true(blkif_sim_add(&bed.front, q, token));
    bed_show(&bed);
}

static int ask(const struct blkif_request *q)
{
    uint64_t token;
    add(q, 99);
    int status = bed_wait(&bed, &token);
    assert_int_equal(token, 99);
    return status;
}

static int ask_pages(enum blkif_op op, uint64_t sector, unsigned first, unsigned count)
{
    struct blkif_request q = request(op, sector, first, count);
    return ask(&q);
}

static void fill(unsigned page, unsigned seed)
{
    for (unsigned i = 0; i < XEN_PAGE_BYTES; i++)
        bed.page[page][i] = (uint8_t)(seed * 31 + i * 7 + i / 256);
}

/* Segments of an indirect request, in a page of the guest's. */
static void indirect_page(unsigned page, unsigned first, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        memset(bed.page[page] + i * 8, 0, 8);
        memcpy(bed.page[page] + i * 8, &bed.ref[first + i], 4);
        bed.page[page][i * 8 + 5] = 7;
    }
}

static struct blkif_request indirect(enum blkif_op op, uint64_t sector, unsigned page, unsigned count)
{
    struct blkif_request q = {.op = (uint8_t)op, .sector = sector, .segment_count = count, .indirect_pages = 1};
    q.indirect_ref[0] = bed.ref[page];
    return q;
}

/* ---- data ---- */

static void read_and_write(enum vbd_blkif_way way, enum blkif_abi abi, unsigned ring_pages, bool direct_maps)
{
    bed_open(&bed, way, abi, ring_pages);
    bed.direct = direct_maps;
    struct vbd_config c = bed_config(&bed);
    bed_serve(&bed, &c);
    for (unsigned i = 0; i < 11; i++)
        fill(i, i + 1);
    assert_int_equal(ask_pages(BLKIF_WRITE, 80, 0, 11), BLKIF_OKAY);
    for (unsigned i = 0; i < 11; i++)
        assert_memory_equal(bed.disk->bytes + 80 * 512 + i * 4096, bed.page[i], 4096);
    assert_int_equal(ask_pages(BLKIF_READ, 88, 20, 10), BLKIF_OKAY);
    for (unsigned i = 0; i < 10; i++)
        assert_memory_equal(bed.page[20 + i], bed.page[1 + i], 4096);
    /* Sectors within pages: 2 to 4 of one, 7 of another. */
    struct blkif_segment some[2] = {{bed.ref[40], 2, 4}, {bed.ref[41], 7, 7}};
    struct blkif_request q = {.op = BLKIF_READ, .sector = 80, .segment_count = 2, .segments = some};
    assert_int_equal(ask(&q), BLKIF_OKAY);
    assert_memory_equal(bed.page[40] + 1024, bed.page[0], 3 * 512);
    assert_memory_equal(bed.page[41] + 7 * 512, bed.page[0] + 3 * 512, 512);
    for (unsigned i = 0; i < 4096; i++) {
        if (i < 1024 || i >= 1024 + 3 * 512) assert_int_equal(bed.page[40][i], 0);
        if (i < 7 * 512) assert_int_equal(bed.page[41][i], 0);
    }
    /* An answer given is a page given back. */
    int busy = way == VBD_BLKIF_PERSISTENT ? -EBUSY : 0;
    assert_int_equal(sim_revoke(bed.guest, bed.ref[0]), busy);
    assert_int_equal(sim_revoke(bed.guest, bed.ref[20]), busy);
    bed_close(&bed);
}

static void test_read_and_write(void **state)
{
    static const enum blkif_abi abis[] = {BLKIF_ABI_NATIVE, BLKIF_ABI_X86_32, BLKIF_ABI_X86_64};
    for (unsigned w = 0; w < 3; w++) {
        for (unsigned a = 0; a < 3; a++)
            read_and_write(ways[w], abis[a], 1u << (2 * a), false);
        read_and_write(ways[w], BLKIF_ABI_NATIVE, 1, true);
    }
}

/* 2 MiB in one request. */
static void test_indirect(void **state)
{
    for (unsigned w = 0; w < 3; w++) {
        open_default(ways[w]);
        for (unsigned i = 0; i < 512; i++)
            fill(i, i);
        indirect_page(599, 0, 512);
        struct blkif_request q = indirect(BLKIF_WRITE, 8, 599, 512);
        assert_int_equal(ask(&q), BLKIF_OKAY);
        for (unsigned i = 0; i < 512; i++) {
            assert_memory_equal(bed.disk->bytes + 4096 + i * 4096, bed.page[i], 4096);
            memset(bed.page[i], 0, 4096);
        }
        q.op = BLKIF_READ;
        assert_int_equal(ask(&q), BLKIF_OKAY);
        for (unsigned i = 0; i < 512; i++)
            assert_memory_equal(bed.disk->bytes + 4096 + i * 4096, bed.page[i], 4096);
        bed_close(&bed);
    }
}

/* More at a time than there are buffers, and more than fit into one batch of copies. */
static void test_few_buffers(void **state)
{
    open_default(VBD_BLKIF_COPY);
    for (unsigned i = 0; i < 512; i++)
        fill(i, i);
    indirect_page(599, 0, 512);
    for (unsigned round = 0; round < 4; round++) {
        unsigned count = 0;
        for (;; count++) {
            struct blkif_request q = indirect(round % 2 ? BLKIF_READ : BLKIF_WRITE, 8, 599, 512);
            if (!blkif_sim_add(&bed.front, &q, count)) break;
        }
        assert_int_equal(count, 32);
        bed_show(&bed);
        while (count--)
            assert_int_equal(bed_wait(&bed, NULL), BLKIF_OKAY);
        for (unsigned i = 0; i < 512; i++)
            assert_memory_equal(bed.disk->bytes + 4096 + i * 4096, bed.page[i], 4096);
    }
    bed_close(&bed);
}

/* What cannot be mapped any more is copied. */
static void test_few_maps(void **state)
{
    for (unsigned w = 1; w < 3; w++) {
        bed_open(&bed, ways[w], BLKIF_ABI_NATIVE, 1);
        bed.budget.max = 5; /* the ring, and less than a request */
        struct vbd_config c = bed_config(&bed);
        bed_serve(&bed, &c);
        for (unsigned i = 0; i < 11; i++)
            fill(i, i + 3);
        for (unsigned round = 0; round < 4; round++) {
            assert_int_equal(ask_pages(BLKIF_WRITE, 16, 0, 11), BLKIF_OKAY);
            assert_int_equal(ask_pages(BLKIF_READ, 16, 20, 11), BLKIF_OKAY);
            for (unsigned i = 0; i < 11; i++)
                assert_memory_equal(bed.page[20 + i], bed.page[i], 4096);
            assert_int_equal(ask_pages(BLKIF_READ, 16, 40 + round, 1), BLKIF_OKAY);
        }
        bed_close(&bed);
    }
}

/* ---- order ---- */

static void test_barrier(void **state)
{
    for (unsigned w = 0; w < 3; w++) {
        open_default(ways[w]);
        atomic_store(&bed.disk->hold, true);
        struct blkif_request plain = request(BLKIF_WRITE, 0, 0, 2), barrier = plain,
                             empty = {.op = BLKIF_WRITE_BARRIER};
        barrier.op = BLKIF_WRITE_BARRIER;
        add(&plain, 0), add(&plain, 1), add(&barrier, 2), add(&empty, 3), add(&plain, 4);
        usleep(20000);
        assert_int_equal(atomic_load(&bed.disk->logged), 0);
        atomic_store(&bed.disk->hold, false);
        for (unsigned i = 0; i < 5; i++)
            assert_int_equal(bed_wait(&bed, NULL), BLKIF_OKAY);
        assert_string_equal(bed.disk->log, "wwfwffw");
        bed_close(&bed);
    }
}

/* A barrier is not given out twice, nor forgotten, when the ring stops while it is held back. */
static void test_stopped_before_a_barrier(void **state)
{
    open_default(VBD_BLKIF_COPY);
    atomic_store(&bed.disk->hold, true);
    struct blkif_request plain = request(BLKIF_WRITE, 0, 0, 1), barrier = plain;
    barrier.op = BLKIF_WRITE_BARRIER;
    add(&plain, 0), add(&barrier, 1);
    usleep(20000);
    atomic_store(&bed.disk->hold, false);
    bed_unserve(&bed);
    assert_int_equal(bed_wait(&bed, NULL), BLKIF_OKAY);
    assert_int_equal(bed_wait(&bed, NULL), BLKIF_OKAY);
    assert_string_equal(bed.disk->log, "wfwf");
    bed_close(&bed);
}

/* A guest that has filled its ring with barriers, and would go on: those that were taken are carried out, no others. */
static void test_stopped_with_a_ring_of_barriers(void **state)
{
    open_default(VBD_BLKIF_MAP);
    atomic_store(&bed.disk->hold, true);
    struct blkif_request plain = request(BLKIF_WRITE, 0, 0, 1), barrier = plain;
    barrier.op = BLKIF_WRITE_BARRIER;
    assert_true(blkif_sim_add(&bed.front, &plain, 0));
    for (unsigned i = 1; blkif_sim_add(&bed.front, &barrier, i); i++)
        ;
    bed_show(&bed);
    usleep(20000);
    atomic_store(&bed.disk->hold, false);
    bed_unserve(&bed);
    uint64_t token;
    int status;
    assert_int_equal(bed_wait(&bed, NULL), BLKIF_OKAY);
    assert_int_equal(bed_wait(&bed, NULL), BLKIF_OKAY);
    assert_false(blkif_sim_get(&bed.front, &token, &status));
    assert_string_equal(bed.disk->log, "wfwf");
    bed_close(&bed);
}

static void test_flush_and_discard(void **state)
{
    open_default(VBD_BLKIF_MAP);
    memset(bed.disk->bytes, 0xaa, BED_DISK_BYTES);
    struct blkif_request flush = {.op = BLKIF_FLUSH_DISKCACHE};
    assert_int_equal(ask(&flush), BLKIF_OKAY);
    struct blkif_request discard = {.op = BLKIF_DISCARD, .sector = 8, .discard_sectors = 16};
    assert_int_equal(ask(&discard), BLKIF_OKAY);
    assert_int_equal(bed.disk->bytes[8 * 512 - 1], 0xaa);
    assert_int_equal(bed.disk->bytes[8 * 512], 0);
    assert_int_equal(bed.disk->bytes[24 * 512 - 1], 0);
    assert_int_equal(bed.disk->bytes[24 * 512], 0xaa);
    discard.discard_flags = BLKIF_DISCARD_F_SECURE;
    assert_int_equal(ask(&discard), BLKIF_EOPNOTSUPP);
    discard.discard_flags = 0;
    discard.discard_sectors = 0;
    assert_int_equal(ask(&discard), BLKIF_OKAY);
    static const uint64_t bad[][2] = {{0, UINT64_MAX},           {0, UINT64_MAX / 512 + 2}, {UINT64_MAX, 1},
                                      {UINT64_MAX / 512 + 1, 8}, {BED_DISK_BYTES / 512, 1}, {1, BED_DISK_BYTES / 512}};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        discard.sector = bad[i][0];
        discard.discard_sectors = bad[i][1];
        assert_int_equal(ask(&discard), BLKIF_ERROR);
    }
    assert_string_equal(bed.disk->log, "fd");
    /* Not offered: not done. */
    struct errmsg e;
    vbd_blkif_stop(bed.vbd, 0);
    bed.setup.no_discard = true;
    assert_int_equal(vbd_blkif_start(bed.vbd, 0, &bed.setup, &e), 0);
    discard.sector = 0, discard.discard_sectors = 8;
    assert_int_equal(ask(&discard), BLKIF_EOPNOTSUPP);
    assert_string_equal(bed.disk->log, "fd");
    bed_close(&bed);
}

/* ---- what is refused, and costs that request only ---- */

/* References are not compared: one that is used twice, in a request and in others under way, is as good as another. What a page has in
 * the end that several requests write is the guest's own affair. */
static void test_same_reference(void **state)
{
    for (unsigned w = 0; w < 3; w++) {
        open_default(ways[w]);
        fill(0, 1);
        fill(1, 2);
        struct blkif_request q = request(BLKIF_WRITE, 0, 0, 11);
        for (unsigned i = 0; i < 11; i++)
            direct[i].ref = bed.ref[0];
        assert_int_equal(ask(&q), BLKIF_OKAY);
        for (unsigned i = 0; i < 11; i++)
            assert_memory_equal(bed.disk->bytes + i * 4096, bed.page[0], 4096);
        /* Two parts of a page, by one request. */
        assert_int_equal(ask_pages(BLKIF_WRITE, 800, 1, 1), BLKIF_OKAY);
        struct blkif_segment halves[2] = {{bed.ref[2], 4, 7}, {bed.ref[2], 0, 3}};
        q = (struct blkif_request){.op = BLKIF_READ, .sector = 800, .segment_count = 2, .segments = halves};
        assert_int_equal(ask(&q), BLKIF_OKAY);
        assert_memory_equal(bed.page[2], bed.page[1] + 2048, 2048);
        assert_memory_equal(bed.page[2] + 2048, bed.page[1], 2048);
        /* Reads and writes of the same page, all under way together: each is answered, and nothing else is touched. */
        fill(3, 3);
        for (unsigned i = 0; i < 8; i++) {
            q = request(i % 2 ? BLKIF_READ : BLKIF_WRITE, 1600, 0, 11);
            for (unsigned k = 0; k < 11; k++)
                direct[k].ref = bed.ref[0];
            assert_true(blkif_sim_add(&bed.front, &q, i));
        }
        bed_show(&bed);
        for (unsigned i = 0; i < 8; i++)
            assert_int_equal(bed_wait(&bed, NULL), BLKIF_OKAY);
        assert_int_equal(ask_pages(BLKIF_WRITE, 2400, 3, 1), BLKIF_OKAY);
        assert_memory_equal(bed.disk->bytes + 2400 * 512, bed.page[3], 4096);
        bed_close(&bed);
    }
}

/* ---- a hypervisor that is looked at ---- */

static const struct xen_ops *real_ops;
static struct xen_ops ops; /* those, or the test's own */
static atomic_uint copies, unmasks;

static void count_copy(struct xen *x, xen_domid domid, struct xen_copy *list, unsigned count)
{
    atomic_fetch_add(&copies, 1);
    real_ops->copy(x, domid, list, count);
}

static void count_unmask(struct xen *x, int port)
{
    atomic_fetch_add(&unmasks, 1);
    real_ops->unmask(x, port);
}

/* As open_default(), with `ops`. */
static void open_looked_at(enum vbd_blkif_way way, unsigned persistent_max)
{
    struct errmsg e = {""};
    open_default(way);
    vbd_blkif_stop(bed.vbd, 0);
    bed.setup.persistent_max = persistent_max;
    real_ops = bed.setup.xen->ops;
    ops = *real_ops;
    ops.copy = count_copy;
    ops.unmask = count_unmask;
    bed.setup.xen->ops = &ops;
    if (vbd_blkif_start(bed.vbd, 0, &bed.setup, &e)) fail_msg("%s", e.text);
}

/* XSA-361, XSA-362, XSA-365: each reference has a status of its own, and what was got for the others is given back. */
static void test_bad_references(void **state)
{
    for (unsigned w = 0; w < 3; w++) {
        open_default(ways[w]);
        for (unsigned at = 0; at < 11; at++) {
            struct blkif_request q = request(at % 2 ? BLKIF_READ : BLKIF_WRITE, 0, 0, 11);
            static const uint32_t bad[] = {0, 5, BED_PAGES + 63, 0x7fffffff, 0xffffffff};
            direct[at].ref = bad[at % 5];
            assert_int_equal(ask(&q), BLKIF_ERROR);
            assert_int_equal(ask_pages(BLKIF_WRITE, 0, 0, 11), BLKIF_OKAY);
        }
        /* Of one of those that are taken together, too. */
        for (unsigned i = 0; i < 8; i++) {
            struct blkif_request q = request(BLKIF_WRITE, 8 * i, i, 1);
            if (i == 3) direct[0].ref = 5;
            assert_true(blkif_sim_add(&bed.front, &q, i));
        }
        bed_show(&bed);
        for (unsigned i = 0; i < 8; i++) {
            uint64_t token;
            int status = bed_wait(&bed, &token);
            assert_int_equal(status, token == 3 ? BLKIF_ERROR : BLKIF_OKAY);
        }
        /* More of them than there are buffers. */
        for (unsigned i = 0; i < 200; i++) {
            struct blkif_request q = request(i % 2 ? BLKIF_READ : BLKIF_WRITE, 0, 0, 11);
            direct[10].ref = 5;
            assert_int_equal(ask(&q), BLKIF_ERROR);
        }
        assert_int_equal(ask_pages(BLKIF_WRITE, 0, 0, 11), BLKIF_OKAY);
        assert_null(vbd_broken(bed.vbd));
        bed_close(&bed);
    }
}

/* And nobody holds them: where few pages may stay mapped, others take their places, and nothing has to be copied. */
static void test_bad_references_hold_nothing(void **state)
{
    open_looked_at(VBD_BLKIF_PERSISTENT, 11);
    struct blkif_request q = request(BLKIF_WRITE, 0, 0, 11);
    direct[10].ref = 5;
    assert_int_equal(ask(&q), BLKIF_ERROR);
    unsigned before = atomic_load(&copies);
    assert_int_equal(ask_pages(BLKIF_WRITE, 0, 20, 11), BLKIF_OKAY);
    assert_int_equal(atomic_load(&copies), before);
    bed_close(&bed);
}

static void test_bad_indirect_pages(void **state)
{
    for (unsigned w = 0; w < 3; w++) {
        open_default(ways[w]);
        indirect_page(599, 0, 20);
        struct blkif_request q = indirect(BLKIF_WRITE, 0, 599, 20);
        assert_int_equal(ask(&q), BLKIF_OKAY);
        q.indirect_ref[0] = 5;
        assert_int_equal(ask(&q), BLKIF_ERROR);
        q.indirect_ref[0] = bed.ref[599];
        bed.page[599][19 * 8 + 5] = 8;
        assert_int_equal(ask(&q), BLKIF_ERROR);
        q.segment_count = 19;
        assert_int_equal(ask(&q), BLKIF_OKAY);
        memset(bed.page[599], 0xff, 4096);
        assert_int_equal(ask(&q), BLKIF_ERROR);
        bed_close(&bed);
    }
}

static void test_bad_ranges(void **state)
{
    open_default(VBD_BLKIF_COPY);
    static const uint64_t bad[] = {BED_DISK_BYTES / 512, BED_DISK_BYTES / 512 - 7, UINT64_MAX,
                                   UINT64_MAX / 512,     UINT64_MAX / 512 + 1,     UINT64_C(1) << 63};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(ask_pages(BLKIF_READ, bad[i], 0, 1), BLKIF_ERROR);
        assert_int_equal(ask_pages(BLKIF_WRITE, bad[i], 0, 1), BLKIF_ERROR);
        assert_int_equal(ask_pages(BLKIF_WRITE_BARRIER, bad[i], 0, 1), BLKIF_ERROR);
    }
    assert_int_equal(ask_pages(BLKIF_READ, BED_DISK_BYTES / 512 - 8, 0, 1), BLKIF_OKAY);
    struct blkif_request unknown = {.op = 4};
    assert_int_equal(ask(&unknown), BLKIF_EOPNOTSUPP);
    unknown.op = 200;
    assert_int_equal(ask(&unknown), BLKIF_EOPNOTSUPP);
    struct blkif_request empty = {.op = BLKIF_READ};
    assert_int_equal(ask(&empty), BLKIF_ERROR);
    assert_string_equal(bed.disk->log, "r");
    bed_close(&bed);
}

static void test_large_sectors_and_read_only(void **state)
{
    bed_open(&bed, VBD_BLKIF_MAP, BLKIF_ABI_NATIVE, 1);
    struct vbd_config c = bed_config(&bed);
    c.sector_bytes = 4096;
    c.read_only = true;
    bed_serve(&bed, &c);
    assert_int_equal(ask_pages(BLKIF_READ, 8, 0, 2), BLKIF_OKAY);
    assert_int_equal(ask_pages(BLKIF_READ, 4, 0, 2), BLKIF_ERROR);
    struct blkif_request part = request(BLKIF_READ, 8, 0, 2);
    direct[1].last_sect = 3;
    assert_int_equal(ask(&part), BLKIF_ERROR);
    assert_int_equal(ask_pages(BLKIF_WRITE, 8, 0, 1), BLKIF_ERROR);
    assert_int_equal(ask_pages(BLKIF_WRITE_BARRIER, 8, 0, 1), BLKIF_ERROR);
    struct blkif_request discard = {.op = BLKIF_DISCARD, .discard_sectors = 8}, flush = {.op = BLKIF_FLUSH_DISKCACHE};
    assert_int_equal(ask(&discard), BLKIF_ERROR);
    assert_int_equal(ask(&flush), BLKIF_OKAY);
    assert_string_equal(bed.disk->log, "r");
    bed_close(&bed);
}

static void test_disk_errors(void **state)
{
    for (unsigned w = 0; w < 3; w++) {
        open_default(ways[w]);
        fill(0, 9);
        uint8_t before[4096];
        memcpy(before, bed.page[0], sizeof before);
        atomic_store(&bed.disk->fail_with, -EIO);
        assert_int_equal(ask_pages(BLKIF_READ, 0, 0, 1), BLKIF_ERROR);
        assert_memory_equal(bed.page[0], before, sizeof before); /* no bytes of ours */
        assert_int_equal(ask_pages(BLKIF_WRITE_BARRIER, 0, 0, 1), BLKIF_ERROR);
        atomic_store(&bed.disk->fail_with, -EOPNOTSUPP);
        struct blkif_request discard = {.op = BLKIF_DISCARD, .discard_sectors = 8};
        assert_int_equal(ask(&discard), BLKIF_EOPNOTSUPP);
        atomic_store(&bed.disk->fail_with, 0);
        assert_int_equal(ask_pages(BLKIF_WRITE, 0, 0, 1), BLKIF_OKAY);
        assert_string_equal(bed.disk->log, "rfdw");
        bed_close(&bed);
    }
}

/* ---- the ring ---- */

static void test_index_jumps(void **state)
{
    open_default(VBD_BLKIF_COPY);
    assert_int_equal(ask_pages(BLKIF_WRITE, 0, 0, 1), BLKIF_OKAY);
    __atomic_fetch_add((uint32_t *)bed.front.ring, 1000, __ATOMIC_RELEASE);
    sim_port_notify(bed.guest, bed.port);
    for (int waited = 0; !vbd_broken(bed.vbd) && waited < BED_ANSWER_MS; waited++)
        usleep(1000);
    assert_non_null(vbd_broken(bed.vbd));
    assert_true(vbd_broken_take(bed.vbd) == 1);
    bed_close(&bed);
}

/* The ring is full, and the guest says that there is one more. */
static void test_one_more_than_entries(void **state)
{
    open_default(VBD_BLKIF_COPY);
    atomic_store(&bed.disk->hold, true);
    struct blkif_request q = request(BLKIF_WRITE, 0, 0, 1);
    for (unsigned i = 0; blkif_sim_add(&bed.front, &q, i); i++)
        ;
    bed_show(&bed);
    usleep(20000);
    assert_null(vbd_broken(bed.vbd));
    __atomic_fetch_add((uint32_t *)bed.front.ring, 1, __ATOMIC_RELEASE);
    sim_port_notify(bed.guest, bed.port);
    for (int waited = 0; !vbd_broken(bed.vbd) && waited < BED_ANSWER_MS; waited++)
        usleep(1000);
    assert_non_null(vbd_broken(bed.vbd));
    atomic_store(&bed.disk->hold, false);
    bed_close(&bed);
}

/* The bytes that a read brings are copied when it is over, and that is part of its time. */
static void test_latency_has_the_copy_in_it(void **state)
{
    open_default(VBD_BLKIF_COPY);
    struct vbd_queue_stats s;
    for (unsigned i = 0; i < 32; i++)
        assert_int_equal(ask_pages(BLKIF_READ, 0, 0, 11), BLKIF_OKAY);
    for (int waited = 0; vbd_stats_read(bed.vbd, 0, &s), !s.latency_samples && waited < BED_ANSWER_MS; waited++)
        usleep(1000);
    assert_int_equal(s.latency_samples, 1);
    assert_true(s.latency_ns > 0);
    bed_close(&bed);
}

static void wait_for_maps(unsigned maps)
{
    for (int waited = 0; sim_maps_used(bed.sim) != maps && waited < BED_ANSWER_MS; waited++)
        usleep(1000);
    assert_int_equal(sim_maps_used(bed.sim), maps);
}

/* Pages that a guest used once do not stay mapped for good; those that it uses do, and any comes back. */
static void test_idle_pages(void **state)
{
    bed_open(&bed, VBD_BLKIF_PERSISTENT, BLKIF_ABI_NATIVE, 1);
    bed.setup.idle_ms = 100;
    struct vbd_config c = bed_config(&bed);
    bed_serve(&bed, &c);
    for (unsigned turn = 0; turn < 2; turn++) {
        for (unsigned i = 0; i < 330; i += 11)
            assert_int_equal(ask_pages(BLKIF_WRITE, 0, i, 11), BLKIF_OKAY);
        assert_true(sim_maps_used(bed.sim) > 11);
        for (int waited = 0; sim_maps_used(bed.sim) > 2 && waited < BED_ANSWER_MS / 5; waited++) {
            assert_int_equal(ask_pages(BLKIF_READ, 0, 7, 1), BLKIF_OKAY);
            usleep(5000);
        }
        assert_true(sim_maps_used(bed.sim) <= 2); /* the ring, and this page if the machine is not slow */
        wait_for_maps(1);
    }
    assert_int_equal(sim_revoke(bed.guest, bed.ref[7]), 0);
    bed_close(&bed);
}

/* A guest that uses one page of each earlier request again and again has no more mapped than its part, and is served. */
static void test_one_page_of_each(void **state)
{
    bed_open(&bed, VBD_BLKIF_PERSISTENT, BLKIF_ABI_NATIVE, 1);
    bed.setup.persistent_max = 64;
    struct vbd_config c = bed_config(&bed);
    bed_serve(&bed, &c);
    for (unsigned i = 0; i < 540; i += 10) {
        fill(i, i);
        assert_int_equal(ask_pages(BLKIF_WRITE, i * 8, i, 10), BLKIF_OKAY);
        for (unsigned k = 0; k < 11; k++)
            direct[k] = (struct blkif_segment){bed.ref[i >= k * 10 ? i - k * 10 : 0], 0, 7};
        struct blkif_request kept = {.op = BLKIF_WRITE, .sector = 8000, .segment_count = 11, .segments = direct};
        assert_int_equal(ask(&kept), BLKIF_OKAY);
        assert_memory_equal(bed.disk->bytes + 8000 * 512, bed.page[i], XEN_PAGE_BYTES);
        assert_true(sim_maps_used(bed.sim) <= 65); /* and the ring */
        assert_true(atomic_load(&bed.budget.used) <= 64);
    }
    bed_close(&bed);
}

static void test_refused_rings(void **state)
{
    struct errmsg e = {""};
    bed_open(&bed, VBD_BLKIF_PERSISTENT, BLKIF_ABI_NATIVE, 2);
    struct vbd_config c = bed_config(&bed);
    bed_serve(&bed, &c);
    vbd_blkif_stop(bed.vbd, 0);
    struct vbd_blkif_setup bad[5];
    for (unsigned i = 0; i < 5; i++)
        bad[i] = bed.setup;
    bad[0].ring_ref[1] = 5;
    bad[1].ring_pages = 0;
    bad[2].ring_pages = 3;
    bad[2].ring_ref[2] = bed.ref[0];
    bad[3].remote_port = 77;
    bad[4].domid = 9;
    for (unsigned i = 0; i < 5; i++) {
        e.text[0] = 0;
        assert_true(vbd_blkif_start(bed.vbd, 0, &bad[i], &e) < 0);
        assert_non_null(strstr(e.text, "disk test"));
        assert_int_equal(sim_maps_used(bed.sim), 0);
        assert_int_equal(sim_ports_used(bed.sim, SIM_HOST), 0);
    }
    assert_true(vbd_blkif_start(bed.vbd, 1, &bed.setup, &e) < 0);
    assert_int_equal(vbd_blkif_start(bed.vbd, 0, &bed.setup, &e), 0);
    assert_int_equal(ask_pages(BLKIF_WRITE, 0, 0, 1), BLKIF_OKAY);
    bed_close(&bed);
}

static void test_properties(void **state)
{
    struct vbd_blkif_properties p;
    bed_open(&bed, VBD_BLKIF_COPY, BLKIF_ABI_NATIVE, 1);
    struct vbd_config c = bed_config(&bed);
    c.sector_bytes = 4096;
    bed_serve(&bed, &c);
    vbd_blkif_properties(bed.vbd, VBD_BLKIF_PERSISTENT, false, &p);
    assert_int_equal(p.sectors, BED_DISK_BYTES / 512);
    assert_int_equal(p.sector_size, 4096);
    assert_int_equal(p.info, 0);
    assert_true(p.feature_flush_cache && p.feature_barrier && p.feature_discard && p.feature_persistent);
    assert_int_equal(1u << p.max_ring_page_order, BLKIF_RING_PAGES_MAX);
    vbd_blkif_properties(bed.vbd, VBD_BLKIF_COPY, true, &p);
    assert_int_equal(p.info, VBD_BLKIF_INFO_CDROM | VBD_BLKIF_INFO_READ_ONLY);
    assert_false(p.feature_barrier || p.feature_discard || p.feature_persistent);
    bed_close(&bed);
}

/* Front ends that come and go leave nothing behind. */
static void test_connect_and_disconnect(void **state)
{
    bed_open(&bed, VBD_BLKIF_PERSISTENT, BLKIF_ABI_NATIVE, 1);
    struct vbd_config c = bed_config(&bed);
    bed_serve(&bed, &c);
    int fd = dup(0);
    close(fd);
    for (unsigned i = 0; i < 300; i++) {
        struct errmsg e;
        if (i) assert_int_equal(vbd_blkif_start(bed.vbd, 0, &bed.setup, &e), 0);
        if (i % 3) assert_int_equal(ask_pages(BLKIF_WRITE, 0, 0, 3), BLKIF_OKAY);
        vbd_blkif_stop(bed.vbd, 0);
        assert_int_equal(sim_maps_used(bed.sim), 0);
        assert_int_equal(sim_ports_used(bed.sim, SIM_HOST), 0);
    }
    int later = dup(0);
    close(later);
    assert_true(later <= fd);
    bed_close(&bed);
}

/* The guest is gone while requests are in flight: they end, and everything is let go. */
static void test_guest_gone(void **state)
{
    for (unsigned w = 0; w < 3; w++) {
        open_default(ways[w]);
        atomic_store(&bed.disk->hold, true);
        struct blkif_request q = request(BLKIF_READ, 0, 0, 8);
        add(&q, 0);
        usleep(10000);
        struct sim_guest *guest = bed.guest;
        sim_guest_free(guest);
        atomic_store(&bed.disk->hold, false);
        vbd_blkif_stop(bed.vbd, 0);
        assert_int_equal(sim_maps_used(bed.sim), 0);
        vbd_free(bed.vbd);
        bed_close_xen(&bed);
        sim_detach(bed.sim);
        sim_remove(bed.dir);
        munmap(bed.table, BED_TABLE_BYTES);
        munmap(bed.disk, sizeof *bed.disk + BED_DISK_BYTES);
    }
}

/* ---- what other back ends fell over ---- */

static void *storm(void *arg)
{
    atomic_bool *over = arg;
    while (!atomic_load(over))
        sim_port_notify(bed.guest, bed.port);
    return NULL;
}

/* XSA-332: a guest that sends events without end keeps its back end from nothing else: not from its requests, not from stopping. */
static void test_event_storm(void **state)
{
    pthread_t thread;
    atomic_bool over = false;
    open_default(VBD_BLKIF_COPY);
    assert_int_equal(pthread_create(&thread, NULL, storm, &over), 0);
    struct blkif_request q = request(BLKIF_WRITE, 0, 0, 1);
    for (unsigned i = 0; i < 50; i++) {
        assert_true(blkif_sim_add(&bed.front, &q, i));
        blkif_sim_publish(&bed.front); /* who notifies is the other thread: a guest belongs to one */
        assert_int_equal(bed_wait(&bed, NULL), BLKIF_OKAY);
    }
    vbd_blkif_stop(bed.vbd, 0);
    atomic_store(&over, true);
    pthread_join(thread, NULL);
    bed_close(&bed);
}

static sem_t reached, go;
static atomic_bool waits, holds; /* for the next event; at the next copy */
static atomic_uint unmasks_at_event;

/* A request comes with the event, and not before: the thread is woken by it. */
static unsigned publish_when_pending(struct xen *x, int *ports, unsigned max)
{
    unsigned n = real_ops->pending(x, ports, max);
    if (n == 0 || !atomic_exchange(&waits, false)) return n;
    blkif_sim_publish(&bed.front);
    atomic_store(&unmasks_at_event, atomic_load(&unmasks));
    return n;
}

static void hold_copy(struct xen *x, xen_domid domid, struct xen_copy *list, unsigned count)
{
    if (atomic_exchange(&holds, false)) {
        sem_post(&reached);
        sem_wait(&go);
    }
    real_ops->copy(x, domid, list, count);
}

/* Why it can: from an event until its thread sleeps again, the port is masked. */
static void test_events_while_awake(void **state)
{
    open_looked_at(VBD_BLKIF_COPY, 0);
    vbd_blkif_stop(bed.vbd, 0);
    sem_init(&reached, 0, 0);
    sem_init(&go, 0, 0);
    ops.pending = publish_when_pending;
    ops.copy = hold_copy;
    struct errmsg e = {""};
    if (vbd_blkif_start(bed.vbd, 0, &bed.setup, &e)) fail_msg("%s", e.text);
    for (unsigned i = 0; i < 20; i++) {
        struct blkif_request q = request(BLKIF_WRITE, 0, 0, 1);
        assert_true(blkif_sim_add(&bed.front, &q, i));
        atomic_store(&holds, true);
        atomic_store(&waits, true);
        sim_port_notify(bed.guest, bed.port);
        while (sem_wait(&reached))
            ;
        for (unsigned k = 0; k < 100; k++)
            sim_port_notify(bed.guest, bed.port);
        unsigned since = atomic_load(&unmasks) - atomic_load(&unmasks_at_event);
        sem_post(&go);
        assert_int_equal(since, 0);
        assert_int_equal(bed_wait(&bed, NULL), BLKIF_OKAY);
    }
    bed_close(&bed);
    sem_destroy(&reached);
    sem_destroy(&go);
}

/* XSA-350: connected and disconnected in quick succession, with requests on the ring each time. None is lost, none answered twice. */
static void test_reconnected_under_load(void **state)
{
    for (unsigned w = 0; w < 3; w++) {
        bed_open(&bed, ways[w], BLKIF_ABI_NATIVE, 1);
        bed.setup.inflight = bed.table;
        bed.setup.resume = true;
        struct vbd_config c = bed_config(&bed);
        bed_serve(&bed, &c);
        unsigned added = 0, done = 0;
        struct errmsg e = {""};
        for (unsigned i = 0; i < 100; i++) {
            struct blkif_request q = request(i % 7 == 0 ? BLKIF_WRITE_BARRIER : BLKIF_WRITE, 8 * i, i, 1 + i % 11);
            while (blkif_sim_add(&bed.front, &q, added))
                added++;
            bed_show(&bed);
            if (i % 3 == 0) usleep(50);
            vbd_blkif_stop(bed.vbd, 0);
            assert_int_equal(sim_maps_used(bed.sim), 0);
            if (vbd_blkif_start(bed.vbd, 0, &bed.setup, &e)) fail_msg("%s", e.text);
            uint64_t token;
            int status;
            for (; blkif_sim_get(&bed.front, &token, &status); done++)
                assert_int_equal(status, BLKIF_OKAY);
        }
        for (; done < added; done++)
            assert_int_equal(bed_wait(&bed, NULL), BLKIF_OKAY);
        bed_close(&bed);
    }
}

/* Random traffic of all sizes, by events and by polling. */
static void busy(enum vbd_blkif_way way, uint64_t poll_ns)
{
    bed_open(&bed, way, BLKIF_ABI_NATIVE, 4);
    struct vbd_config c = bed_config(&bed);
    c.poll_ns = poll_ns;
    bed_serve(&bed, &c);
    unsigned done = 0, added = 0;
    uint64_t token, x = way + 1;
    while (done < 4000) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        unsigned count = (unsigned)(x >> 33) % 11 + 1, first = (unsigned)(x >> 40) % 500;
        struct blkif_request q = request(x >> 63 ? BLKIF_READ : BLKIF_WRITE, (x >> 20) % 8192, first, count);
        if (added < 4000 && blkif_sim_add(&bed.front, &q, added)) added++;
        if (x >> 60 & 1) bed_show(&bed);
        int status;
        while (blkif_sim_get(&bed.front, &token, &status)) {
            assert_int_equal(status, BLKIF_OKAY);
            done++;
        }
        if (bed.front.error) fail_msg("%s", bed.front.error);
        if (added == 4000 || bed.front.in_flight == bed.front.entries) {
            bed_show(&bed);
            if (!blkif_sim_final_check(&bed.front)) usleep(50);
        }
    }
    bed_close(&bed);
}

static void test_busy(void **state)
{
    for (unsigned w = 0; w < 3; w++) {
        busy(ways[w], 0);
        busy(ways[w], 50000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_and_write),
        cmocka_unit_test(test_indirect),
        cmocka_unit_test(test_few_buffers),
        cmocka_unit_test(test_few_maps),
        cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_stopped_before_a_barrier),
        cmocka_unit_test(test_stopped_with_a_ring_of_barriers),
        cmocka_unit_test(test_flush_and_discard),
        cmocka_unit_test(test_same_reference),
        cmocka_unit_test(test_bad_references),
        cmocka_unit_test(test_bad_references_hold_nothing),
        cmocka_unit_test(test_bad_indirect_pages),
        cmocka_unit_test(test_bad_ranges),
        cmocka_unit_test(test_large_sectors_and_read_only),
        cmocka_unit_test(test_disk_errors),
        cmocka_unit_test(test_index_jumps),
        cmocka_unit_test(test_one_more_than_entries),
        cmocka_unit_test(test_latency_has_the_copy_in_it),
        cmocka_unit_test(test_idle_pages),
        cmocka_unit_test(test_one_page_of_each),
        cmocka_unit_test(test_refused_rings),
        cmocka_unit_test(test_properties),
        cmocka_unit_test(test_connect_and_disconnect),
        cmocka_unit_test(test_guest_gone),
        cmocka_unit_test(test_event_storm),
        cmocka_unit_test(test_events_while_awake),
        cmocka_unit_test(test_reconnected_under_load),
        cmocka_unit_test(test_busy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
