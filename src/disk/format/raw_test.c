/* SPDX-License-Identifier: Apache-2.0 */
/* Raw images against an array of bytes: the same random requests, many at once, must give the same content. */
#include "disk/test_util.h"

#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/iov.h"
#include "disk/disk.h"
#include "disk/engine/fault.h"
#include "disk/sync.h"

struct fixture {
    struct scratch s;
    struct engine *e;
    struct layer *l;
    struct layer_chan *c;
    struct errmsg msg;
};

static void fixture_on(struct fixture *x, struct engine *e, bool writable)
{
    x->e = e;
    struct layer_args args = {.file = &x->s.file, .writable = writable};
    if (layer_raw_open(&x->l, &args, &x->msg) < 0) fail_msg("%s", x->msg.text);
    assert_int_equal(x->l->ops->chan_open(x->l, x->e, NULL, &x->c), 0);
}

static void fixture_open(struct fixture *x, uint64_t size, unsigned flags)
{
    struct engine *e;
    scratch_open(&x->s, size, flags);
    assert_int_equal(engine_uring_new(&e, 32, NULL), 0);
    fixture_on(x, e, flags & DISK_FILE_WRITE);
}

static int fixture_close(struct fixture *x)
{
    x->l->ops->chan_close(x->c);
    int ret = x->l->ops->close(x->l, &x->msg);
    engine_free(x->e);
    scratch_drop(&x->s);
    return ret;
}

struct request {
    struct disk_req req;
    struct iovec iov[8];
    char *buf;
    bool busy, done;
    int res;
};

static void request_done(struct disk_req *req, int ret)
{
    struct request *r = container_of(req, struct request, req);
    assert_true(r->busy && !r->done);
    r->done = true;
    r->res = ret;
}

static void request_submit(struct fixture *x, struct request *r, enum disk_op op, uint64_t offset, uint64_t length)
{
    r->busy = true;
    r->done = false;
    r->req.op = op;
    r->req.offset_bytes = offset;
    r->req.length_bytes = length;
    r->req.done = request_done;
    layer_submit(x->c, &r->req);
    assert_false(r->done);
}

static int request_wait(struct fixture *x, struct request *r)
{
    while (!r->done)
        assert_true(engine_sleep(x->e, UINT64_MAX) >= 0);
    r->busy = false;
    return r->res;
}

static int run(struct fixture *x, enum disk_op op, uint64_t offset, void *buf, uint64_t length)
{
    struct request r = {.iov = {{buf, length}}};
    r.req.iov = r.iov;
    r.req.iov_count = 1;
    request_submit(x, &r, op, offset, length);
    return request_wait(x, &r);
}

static struct disk_extent map(struct fixture *x, uint64_t offset, uint64_t length)
{
    struct request r = {.busy = false};
    request_submit(x, &r, DISK_MAP, offset, length);
    assert_int_equal(request_wait(x, &r), 0);
    return r.req.map;
}

/* ---- The oracle ---- */

#define SLOTS 16u
#define SLOT_BYTES (256u << 10)
#define DISK_BYTES (SLOTS * SLOT_BYTES)

/* Cut the buffer at random places into an iov; direct I/O then has to bounce some. */
static void scatter(struct request *r, char *buf, uint64_t length, uint64_t *seed)
{
    unsigned n = 0;
    bool odd = rnd_below(seed, 2);
    while (length > 0) {
        uint64_t take = n == 7 ? length : 1 + rnd_below(seed, length);
        if (!odd && n < 7) take = align_up(take, 512);
        r->iov[n++] = (struct iovec){buf, take};
        buf += take;
        length -= take;
    }
    r->req.iov = r->iov;
    r->req.iov_count = n;
}

struct oracle {
    struct fixture *x;
    char *model;
    struct request slot[SLOTS];
};

static void submit_random(struct oracle *o, unsigned slot, uint64_t *seed)
{
    struct request *r = &o->slot[slot];
    uint64_t base = (uint64_t)slot * SLOT_BYTES; /* each in a range of its own: order does not matter */
    uint64_t offset = rnd_below(seed, SLOT_BYTES / 512) * 512;
    uint64_t length = (1 + rnd_below(seed, rnd_below(seed, 4) ? 16 : 512)) * 512;
    length = min_u64(length, SLOT_BYTES - offset);
    offset += base;
    scatter(r, r->buf + rnd_below(seed, 3) * 256, length, seed);
    r->req.flags = rnd_below(seed, 2) ? DISK_REQ_UNMAP : 0;
    switch (rnd_below(seed, 8)) {
    case 0: request_submit(o->x, r, DISK_FLUSH, 0, 0); return;
    case 1:
        memset(o->model + offset, 0, length);
        request_submit(o->x, r, DISK_WRITE_ZEROES, offset, length);
        return;
    case 2:
        request_submit(o->x, r, DISK_DISCARD, offset, length); /* what it reads as is seen below */
        return;
    case 3:
    case 4:
    case 5:
        for (uint64_t i = 0; i < length; i++)
            o->model[offset + i] = (char)(rnd(seed) >> 40);
        iov_copy_to(r->req.iov, r->req.iov_count, 0, o->model + offset, length);
        request_submit(o->x, r, DISK_WRITE, offset, length);
        return;
    default: request_submit(o->x, r, DISK_READ, offset, length);
    }
}

static void check_finished(struct oracle *o, struct request *r)
{
    assert_int_equal(r->res, 0);
    r->busy = false;
    if (r->req.op == DISK_READ) {
        autofree char *flat = malloc(r->req.length_bytes);
        iov_copy_from(flat, r->req.iov, r->req.iov_count, 0, r->req.length_bytes);
        assert_memory_equal(flat, o->model + r->req.offset_bytes, r->req.length_bytes);
    } else if (r->req.op == DISK_DISCARD) {
        /* On a file it is a hole; the file system had no reason to refuse. */
        memset(o->model + r->req.offset_bytes, 0, r->req.length_bytes);
    }
}

static void check_oracle_on(struct fixture *x, uint64_t seed)
{
    struct oracle o = {.x = x, .model = calloc(1, DISK_BYTES)};
    for (unsigned i = 0; i < SLOTS; i++)
        o.slot[i].buf = aligned_alloc(4096, SLOT_BYTES + 4096);
    for (unsigned step = 0; step < 3000; step++) {
        struct request *r = &o.slot[rnd_below(&seed, SLOTS)];
        if (r->busy) {
            request_wait(x, r);
            check_finished(&o, r);
        }
        submit_random(&o, (unsigned)(r - o.slot), &seed);
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        if (!o.slot[i].busy) continue;
        request_wait(x, &o.slot[i]);
        check_finished(&o, &o.slot[i]);
    }
    autofree char *all = aligned_alloc(4096, DISK_BYTES);
    assert_int_equal(run(x, DISK_READ, 0, all, DISK_BYTES), 0);
    assert_memory_equal(all, o.model, DISK_BYTES);
    for (unsigned i = 0; i < SLOTS; i++)
        free(o.slot[i].buf);
    free(o.model);
    assert_int_equal(fixture_close(x), 0);
}

static void check_oracle(unsigned flags, uint64_t seed)
{
    struct fixture x;
    fixture_open(&x, DISK_BYTES, DISK_FILE_WRITE | flags);
    check_oracle_on(&x, seed);
}

static void test_oracle(void **state)
{
    check_oracle(0, 11);
}

static void test_oracle_direct(void **state)
{
    check_oracle(DISK_FILE_DIRECT, 12);
    check_oracle(DISK_FILE_DIRECT, 13);
}

static void test_oracle_on_a_device(void **state)
{
    struct fixture x;
    struct engine *e;
    if (!scratch_open_loop(&x.s, DISK_BYTES, 512, DISK_FILE_WRITE | DISK_FILE_DIRECT)) skip();
    assert_int_equal(engine_uring_new(&e, 32, NULL), 0);
    fixture_on(&x, e, true);
    check_oracle_on(&x, 14);
}

/* Sectors of 4 KiB below a disk of 512-byte sectors: reads are widened; writes cannot be. */
static void test_device_of_large_sectors(void **state)
{
    struct fixture x;
    struct engine *e;
    if (!scratch_open_loop(&x.s, DISK_BYTES, 4096, DISK_FILE_WRITE | DISK_FILE_DIRECT)) skip();
    assert_int_equal(engine_uring_new(&e, 32, NULL), 0);
    fixture_on(&x, e, true);
    autofree char *out = aligned_alloc(4096, 1 << 20), *in = malloc(1 << 20);
    uint64_t seed = 15;
    rnd_fill(&seed, out, 1 << 20);
    assert_int_equal(run(&x, DISK_WRITE, 0, out, 1 << 20), 0);
    assert_int_equal(run(&x, DISK_WRITE, 512, out, 4096), -EINVAL);
    for (int i = 0; i < 100; i++) {
        uint64_t offset = rnd_below(&seed, 1000) * 512, length = (1 + rnd_below(&seed, 1000)) * 512;
        assert_int_equal(run(&x, DISK_READ, offset, in, length), 0);
        assert_memory_equal(in, out + offset, length);
    }
    assert_int_equal(map(&x, 0, DISK_BYTES).kind, DISK_EXTENT_DATA);
    assert_int_equal(x.l->ops->resize(x.l, DISK_BYTES / 2, &x.msg), -ENOTSUP);
    assert_int_equal(layer_size(x.l), DISK_BYTES);
    assert_int_equal(x.l->ops->resize(x.l, DISK_BYTES * 2, &x.msg), -ENOSPC);
    assert_int_equal(fixture_close(&x), 0);
}

/* ---- Sizes ---- */

static void check_tail(unsigned flags)
{
    struct fixture x;
    scratch_make(&x.s, 0);
    int fd = open(x.s.path, O_WRONLY);
    char content[1300];
    memset(content, 'x', sizeof content);
    assert_int_equal(write(fd, content, sizeof content), sizeof content);
    close(fd);
    assert_int_equal(disk_file_open(&x.s.file, x.s.path, DISK_FILE_WRITE | flags, &x.msg), 0);
    struct engine *e;
    assert_int_equal(engine_uring_new(&e, 4, NULL), 0);
    fixture_on(&x, e, true);
    assert_int_equal(layer_size(x.l), 1536);
    char in[1536];
    assert_int_equal(run(&x, DISK_READ, 0, in, 1536), 0);
    assert_memory_equal(in, content, 1300);
    for (int i = 1300; i < 1536; i++)
        assert_int_equal(in[i], 0);
    memset(in, 'y', 512);
    assert_int_equal(run(&x, DISK_WRITE, 1024, in, 512), 0); /* the last sector becomes whole */
    struct stat st;
    assert_int_equal(stat(x.s.path, &st), 0);
    assert_int_equal(st.st_size, 1536);
    assert_int_equal(run(&x, DISK_READ, 1024, in + 512, 512), 0);
    assert_memory_equal(in, in + 512, 512);
    assert_int_equal(fixture_close(&x), 0);
}

static void test_tail(void **state)
{
    check_tail(0);
    check_tail(DISK_FILE_DIRECT);
}

static void test_end_of_a_huge_disk(void **state)
{
    struct fixture x;
    uint64_t size = (UINT64_C(16) << 40) - 4096; /* the most that ext4 can have */
    scratch_make(&x.s, 0);
    if (truncate(x.s.path, (off_t)size) < 0) size = UINT64_C(4) << 40;
    if (truncate(x.s.path, (off_t)size) < 0) {
        unlink(x.s.path);
        skip();
    }
    assert_int_equal(disk_file_open(&x.s.file, x.s.path, DISK_FILE_WRITE | DISK_FILE_DIRECT, &x.msg), 0);
    struct engine *e;
    assert_int_equal(engine_uring_new(&e, 4, NULL), 0);
    fixture_on(&x, e, true);
    autofree char *out = aligned_alloc(4096, 4096), *in = aligned_alloc(4096, 4096);
    memset(out, 'z', 4096);
    assert_int_equal(run(&x, DISK_WRITE, size - 4096, out, 4096), 0);
    assert_int_equal(run(&x, DISK_READ, size - 4096, in, 4096), 0);
    assert_memory_equal(in, out, 4096);
    struct disk_extent m = map(&x, 0, size);
    assert_int_equal(m.kind, DISK_EXTENT_ZERO);
    assert_int_equal(m.length_bytes, size - 4096);
    assert_int_equal(run(&x, DISK_DISCARD, 0, NULL, size), 0);
    m = map(&x, 0, size);
    assert_true(m.kind == DISK_EXTENT_ZERO && m.length_bytes == size);
    assert_int_equal(fixture_close(&x), 0);
}

static void test_resize(void **state)
{
    struct fixture x;
    fixture_open(&x, 1 << 20, DISK_FILE_WRITE);
    char buf[512];
    memset(buf, 'a', sizeof buf);
    assert_int_equal(run(&x, DISK_READ, 1 << 20, buf, 512), -EINVAL);
    assert_int_equal(x.l->ops->resize(x.l, 2 << 20, &x.msg), 0);
    assert_int_equal(layer_size(x.l), 2 << 20);
    assert_int_equal(run(&x, DISK_WRITE, (2 << 20) - 512, buf, 512), 0);
    assert_int_equal(x.l->ops->resize(x.l, 1000, &x.msg), -EINVAL);
    /* Shrinking would throw away what a running guest has. */
    assert_int_equal(x.l->ops->resize(x.l, 1 << 20, &x.msg), -ENOTSUP);
    assert_non_null(strstr(x.msg.text, "it has 2097152 bytes and cannot shrink to 1048576 while it is in use"));
    assert_int_equal(layer_size(x.l), 2 << 20);
    assert_int_equal(x.l->ops->resize(x.l, 2 << 20, &x.msg), 0);
    char in[512];
    assert_int_equal(run(&x, DISK_READ, (2 << 20) - 512, in, 512), 0);
    assert_memory_equal(in, buf, 512);
    assert_int_equal(fixture_close(&x), 0);
    fixture_open(&x, 1 << 20, 0);
    assert_int_equal(x.l->ops->resize(x.l, 2 << 20, &x.msg), -EROFS);
    assert_int_equal(fixture_close(&x), 0);
}

/* ---- Refusals ---- */

static void test_refusals(void **state)
{
    struct fixture x;
    char buf[1024] = {0};
    fixture_open(&x, 1 << 20, 0);
    assert_int_equal(run(&x, DISK_WRITE, 0, buf, 512), -EROFS);
    assert_int_equal(run(&x, DISK_DISCARD, 0, NULL, 512), -EROFS);
    assert_int_equal(run(&x, DISK_WRITE_ZEROES, 0, NULL, 512), -EROFS);
    assert_int_equal(run(&x, DISK_READ, 100, buf, 512), -EINVAL);
    assert_int_equal(run(&x, DISK_READ, 0, buf, 100), -EINVAL);
    assert_int_equal(run(&x, DISK_READ, (1 << 20) - 512, buf, 1024), -EINVAL);
    assert_int_equal(run(&x, DISK_READ, UINT64_MAX - 511, buf, 512), -EINVAL);
    assert_int_equal(run(&x, DISK_READ, 1 << 20, buf, 0), 0);
    assert_int_equal(run(&x, DISK_FLUSH, 0, NULL, 0), 0);
    struct layer *other;
    struct layer_args args = {.file = &x.s.file, .writable = true};
    assert_int_equal(layer_raw_open(&other, &args, &x.msg), -EROFS);
    args = (struct layer_args){.file = &x.s.file, .below = x.l};
    assert_int_equal(layer_raw_open(&other, &args, &x.msg), -EINVAL);
    assert_int_equal(fixture_close(&x), 0);
}

/* ---- Extents ---- */

static void test_map(void **state)
{
    struct fixture x;
    fixture_open(&x, 4 << 20, DISK_FILE_WRITE);
    autofree char *buf = malloc(65536);
    memset(buf, 'm', 65536);
    assert_int_equal(run(&x, DISK_WRITE, 1 << 20, buf, 65536), 0);
    assert_int_equal(run(&x, DISK_FLUSH, 0, NULL, 0), 0);
    struct disk_extent m = map(&x, 0, 4 << 20);
    assert_true(m.kind == DISK_EXTENT_ZERO && m.length_bytes == 1 << 20);
    m = map(&x, 512, 1024);
    assert_true(m.kind == DISK_EXTENT_ZERO && m.length_bytes == 1024);
    m = map(&x, (1 << 20) + 4096, 2 << 20);
    assert_true(m.kind == DISK_EXTENT_DATA && m.length_bytes == 65536 - 4096);
    m = map(&x, 2 << 20, 0);
    assert_true(m.kind == DISK_EXTENT_ZERO && m.length_bytes == 2 << 20);
    assert_int_equal(fixture_close(&x), 0);
}

/* ---- Faults ---- */

/* Steps of the ladder that the storage does not know are skipped, and the zeroes are there all the same. */
static void check_zeroes_without(unsigned ops)
{
    struct fixture x;
    struct fault_plan *plan = fault_plan_new(1);
    struct engine *e;
    const struct engine_maker *maker = fault_plan_maker(plan);
    assert_int_equal(maker->make(maker->arg, &e, NULL), 0);
    scratch_open(&x.s, 8 << 20, DISK_FILE_WRITE | DISK_FILE_DIRECT);
    fixture_on(&x, e, true);
    unsigned rule = fault_plan_add(
        plan, &(struct fault_rule){.action = FAULT_FAIL, .ops = ops, .count = UINT64_MAX, .error = EOPNOTSUPP});
    autofree char *buf = aligned_alloc(4096, 8 << 20);
    memset(buf, 'f', 8 << 20);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(run(&x, DISK_WRITE, 0, buf, 8 << 20), 0);
        struct request r = {.req.flags = DISK_REQ_UNMAP};
        request_submit(&x, &r, DISK_WRITE_ZEROES, 512, (7 << 20) + 1536);
        assert_int_equal(request_wait(&x, &r), 0);
        autofree char *in = aligned_alloc(4096, 8 << 20);
        assert_int_equal(run(&x, DISK_READ, 0, in, 8 << 20), 0);
        for (unsigned i = 0; i < 8 << 20; i++)
            assert_int_equal(in[i], i >= 512 && i < (7 << 20) + 2048 ? 0 : 'f');
        assert_int_equal(run(&x, DISK_DISCARD, 0, NULL, 1 << 20), 0);
    }
    /* Each kind was refused once and not tried again. */
    assert_int_equal(fault_plan_hits(plan, rule), __builtin_popcount(ops));
    assert_int_equal(fixture_close(&x), 0);
    fault_plan_free(plan);
}

static void test_ladder_of_zeroes(void **state)
{
    check_zeroes_without(FAULT_OP(ENGINE_PUNCH));
    check_zeroes_without(FAULT_OP(ENGINE_PUNCH) | FAULT_OP(ENGINE_ZERO));
    check_zeroes_without(FAULT_OP(ENGINE_DISCARD));
    check_zeroes_without(FAULT_OP(ENGINE_DISCARD) | FAULT_OP(ENGINE_PUNCH) | FAULT_OP(ENGINE_ZERO));
}

/* Fail each I/O in turn: exactly one request fails, with that error, and the others do not notice. But the kernel drops
 * what a buffered sync could not write: no later flush may succeed then. */
static void check_fail_each(unsigned flags)
{
    for (uint64_t nth = 1; nth <= 12; nth++) {
        struct fixture x;
        struct fault_plan *plan = fault_plan_new(1);
        struct engine *e;
        const struct engine_maker *maker = fault_plan_maker(plan);
        assert_int_equal(maker->make(maker->arg, &e, NULL), 0);
        scratch_open(&x.s, 1 << 20, DISK_FILE_WRITE | flags);
        fixture_on(&x, e, true);
        fault_plan_add(plan, &(struct fault_rule){.action = FAULT_FAIL, .nth = nth, .error = ENOSPC});
        static const enum disk_op ops[] = {DISK_WRITE,   DISK_READ,         DISK_FLUSH,
                                           DISK_DISCARD, DISK_WRITE_ZEROES, DISK_WRITE};
        _Alignas(4096) char buf[4096] = "data";
        unsigned failed = 0;
        bool lost = false;
        for (unsigned i = 0; i < 12; i++) {
            bool flush = ops[i % 6] == DISK_FLUSH;
            int ret = run(&x, ops[i % 6], 4096 * i, buf, flush ? 0 : 4096);
            if (ret == -ENOSPC) {
                failed++;
                lost = flush && !flags;
            } else {
                assert_int_equal(ret, flush && lost ? -EIO : 0);
            }
        }
        assert_int_equal(failed, 1);
        assert_int_equal(run(&x, DISK_FLUSH, 0, NULL, 0), lost ? -EIO : 0);
        assert_int_equal(fixture_close(&x), lost ? -EIO : 0);
        fault_plan_free(plan);
    }
}

/* ... nor in a process that comes after: the kernel has told of it, once. */
static void test_a_failed_flush_is_remembered(void **state)
{
    (void)state;
    _Atomic bool kept = false;
    struct disk_sync sync;
    struct fixture x;
    scratch_open(&x.s, 1 << 20, DISK_FILE_WRITE);
    for (unsigned process = 0; process < 2; process++) {
        struct fault_plan *plan = fault_plan_new(1);
        const struct engine_maker *maker = fault_plan_maker(plan);
        struct layer_args args = {.file = &x.s.file, .writable = true, .sync = &sync};
        disk_sync_init(&sync, -1);
        disk_sync_keep(&sync, &kept);
        assert_int_equal(maker->make(maker->arg, &x.e, NULL), 0);
        assert_int_equal(layer_raw_open(&x.l, &args, &x.msg), 0);
        assert_int_equal(x.l->ops->chan_open(x.l, x.e, NULL, &x.c), 0);
        if (process == 0)
            fault_plan_add(plan,
                           &(struct fault_rule){.action = FAULT_FAIL, .ops = FAULT_OP(ENGINE_SYNC), .error = ENOSPC});
        assert_int_equal(run(&x, DISK_FLUSH, 0, NULL, 0), process == 0 ? -ENOSPC : -EIO);
        x.l->ops->chan_close(x.c);
        assert_int_equal(x.l->ops->close(x.l, &x.msg), -EIO);
        engine_free(x.e);
        fault_plan_free(plan);
    }
    scratch_drop(&x.s);
}

static void test_fail_each(void **state)
{
    check_fail_each(0);
    check_fail_each(DISK_FILE_DIRECT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_oracle_direct),
        cmocka_unit_test(test_oracle_on_a_device),
        cmocka_unit_test(test_device_of_large_sectors),
        cmocka_unit_test(test_tail),
        cmocka_unit_test(test_end_of_a_huge_disk),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_ladder_of_zeroes),
        cmocka_unit_test(test_fail_each),
        cmocka_unit_test(test_a_failed_flush_is_remembered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
