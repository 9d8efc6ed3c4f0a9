/* SPDX-License-Identifier: Apache-2.0 */
/* The fault-injecting engine: does each fault do what it says, and is what a power cut leaves one of the contents that
 * a disk with a volatile cache may hold (checked against a list of writes kept here)? */
#include "disk/test_util.h"

#include <pthread.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "disk/engine/fault.h"
#include "loop/clock.h"

#define SECTORS 256u
#define SIZE (SECTORS * 512u)

struct fixture {
    struct scratch s;
    char copy[80];
    struct fault_plan *plan;
    struct engine *e;
};

static void fixture_open(struct fixture *x, uint64_t size, unsigned flags)
{
    struct errmsg msg = {""};
    scratch_open(&x->s, size, DISK_FILE_WRITE | flags);
    snprintf(x->copy, sizeof x->copy, "%s.copy", x->s.path);
    x->plan = fault_plan_new(1);
    const struct engine_maker *maker = fault_plan_maker(x->plan);
    if (maker->make(maker->arg, &x->e, &msg) < 0) fail_msg("%s", msg.text);
}

static void fixture_close(struct fixture *x)
{
    engine_free(x->e);
    fault_plan_free(x->plan);
    unlink(x->copy);
    scratch_drop(&x->s);
}

static int put(struct fixture *x, uint64_t sector, uint64_t count, int value)
{
    autofree char *buf = aligned_alloc(4096, align_up(count * 512, 4096));
    memset(buf, value, count * 512);
    return engine_write_now(x->e, &x->s.file, buf, sector * 512, count * 512);
}

/* The value that a sector holds, -1 when it is mixed. */
static int get(int fd, uint64_t sector)
{
    _Alignas(4096) unsigned char buf[512] = {0}; /* the descriptor may be one of direct I/O */
    assert_true(pread(fd, buf, 512, (off_t)(sector * 512)) >= 0);
    for (int i = 1; i < 512; i++)
        if (buf[i] != buf[0]) return -1;
    return buf[0];
}

static void test_passes_through(void **state)
{
    struct fixture x;
    fixture_open(&x, SIZE, 0);
    assert_int_equal(put(&x, 3, 2, 'a'), 0);
    assert_int_equal(engine_op_now(x.e, &x.s.file, ENGINE_SYNC, 0, 0), 0);
    char in[512];
    assert_int_equal(engine_read_now(x.e, &x.s.file, in, 4 * 512, 512), 0);
    assert_int_equal(in[0], 'a');
    assert_int_equal(fault_plan_count(x.plan, FAULT_ALL), 3);
    assert_int_equal(fault_plan_count(x.plan, FAULT_WRITES), 1);
    fixture_close(&x);
}

static void test_fail_the_nth(void **state)
{
    struct fixture x;
    fixture_open(&x, SIZE, 0);
    struct fault_rule rule = {.action = FAULT_FAIL, .ops = FAULT_WRITES, .nth = 2, .count = 2, .error = ENOSPC};
    unsigned id = fault_plan_add(x.plan, &rule);
    assert_int_equal(put(&x, 0, 1, 'a'), 0);
    assert_int_equal(put(&x, 1, 1, 'b'), -ENOSPC);
    char in[512];
    assert_int_equal(engine_read_now(x.e, &x.s.file, in, 512, 512), 0);
    assert_int_equal(in[0], 0); /* it had no effect */
    assert_int_equal(put(&x, 1, 1, 'b'), -ENOSPC);
    assert_int_equal(put(&x, 1, 1, 'b'), 0);
    assert_int_equal(fault_plan_hits(x.plan, id), 2);
    fixture_close(&x);
}

static void test_fail_a_range(void **state)
{
    struct fixture x;
    fixture_open(&x, SIZE, 0);
    fault_plan_add(x.plan, &(struct fault_rule){
                               .action = FAULT_FAIL, .offset_bytes = 5120, .length_bytes = 512, .count = UINT64_MAX});
    assert_int_equal(put(&x, 0, 10, 'a'), 0);
    assert_int_equal(put(&x, 0, 11, 'a'), -EIO);
    assert_int_equal(put(&x, 11, 3, 'a'), 0);
    assert_int_equal(engine_op_now(x.e, &x.s.file, ENGINE_PUNCH, 0, SIZE), -EIO);
    fixture_close(&x);
}

static void test_delay(void **state)
{
    struct fixture x;
    fixture_open(&x, SIZE, 0);
    fault_plan_add(x.plan, &(struct fault_rule){.action = FAULT_DELAY, .delay_ns = 20 * NS_PER_MS});
    fault_plan_add(x.plan, &(struct fault_rule){.action = FAULT_DELAY, .ops = FAULT_SYNCS, .delay_ns = 20 * NS_PER_MS});
    uint64_t start = clock_now_ns();
    assert_int_equal(put(&x, 0, 1, 'a'), 0);
    assert_true(clock_now_ns() - start >= 20 * NS_PER_MS);
    start = clock_now_ns();
    assert_int_equal(engine_op_now(x.e, &x.s.file, ENGINE_SYNC, 0, 0), 0);
    assert_true(clock_now_ns() - start >= 20 * NS_PER_MS);
    fixture_close(&x);
}

static void test_tear(void **state)
{
    struct fixture x;
    fixture_open(&x, SIZE, DISK_FILE_DIRECT);
    fault_plan_add(x.plan, &(struct fault_rule){.action = FAULT_TEAR, .ops = FAULT_WRITES, .nth = 2});
    fault_plan_add(x.plan, &(struct fault_rule){.action = FAULT_TEAR, .ops = FAULT_WRITES, .nth = 3, .error = -1});
    assert_int_equal(put(&x, 0, 64, 'a'), 0);
    assert_int_equal(put(&x, 0, 64, 'b'), -EIO);
    unsigned landed = 0;
    for (unsigned i = 0; i < 64; i++)
        landed += get(x.s.file.fd, i) == 'b';
    assert_true(landed > 8 && landed < 56);
    assert_int_equal(put(&x, 0, 64, 'c'), 0); /* the lie */
    assert_int_equal(get(x.s.file.fd, 63), 'a');
    fixture_close(&x);
}

static void test_everything_fails_after_the_cut(void **state)
{
    struct fixture x;
    fixture_open(&x, SIZE, 0);
    fault_plan_add(x.plan, &(struct fault_rule){.action = FAULT_CUT, .ops = FAULT_SYNCS});
    char buf[512];
    assert_int_equal(put(&x, 0, 1, 'a'), 0);
    assert_false(fault_plan_is_cut(x.plan));
    assert_int_equal(engine_op_now(x.e, &x.s.file, ENGINE_SYNC, 0, 0), -EIO);
    assert_true(fault_plan_is_cut(x.plan));
    assert_int_equal(engine_read_now(x.e, &x.s.file, buf, 0, 512), -EIO);
    assert_int_equal(put(&x, 0, 1, 'b'), -EIO);
    assert_int_equal(fault_plan_after_cut(x.plan, FAULT_SEED_LOSE_ALL), 0);
    assert_int_equal(get(x.s.file.fd, 0), 0);
    assert_int_equal(put(&x, 0, 1, 'c'), 0); /* the power is back */
    fixture_close(&x);
}

static void test_points(void **state)
{
    struct fixture x;
    fixture_open(&x, SIZE, 0);
    fault_plan_add(x.plan, &(struct fault_rule){.action = FAULT_CUT, .point = "here", .nth = 2});
    engine_point(x.e, "there");
    engine_point(x.e, "here");
    assert_int_equal(put(&x, 0, 1, 'a'), 0);
    engine_point(x.e, "here");
    assert_int_equal(put(&x, 0, 1, 'a'), -EIO);
    assert_int_equal(fault_plan_passed(x.plan, "here"), 2);
    assert_int_equal(fault_plan_passed(x.plan, "there"), 1);
    assert_int_equal(fault_plan_passed(x.plan, "nowhere"), 0);
    fixture_close(&x);
}

static void test_file_length_after_the_cut(void **state)
{
    struct fixture x;
    fixture_open(&x, 512, 0);
    struct stat st;
    assert_int_equal(put(&x, 1, 1, 'a'), 0);
    assert_int_equal(engine_op_now(x.e, &x.s.file, ENGINE_SYNC, 0, 0), 0);
    assert_int_equal(put(&x, 9, 1, 'b'), 0);
    fault_plan_cut_now(x.plan);
    assert_int_equal(fault_plan_copy_after_cut(x.plan, &x.s.file, x.copy, FAULT_SEED_KEEP_ALL), 0);
    assert_int_equal(stat(x.copy, &st), 0);
    assert_int_equal(st.st_size, 5120);
    assert_int_equal(fault_plan_copy_after_cut(x.plan, &x.s.file, x.copy, FAULT_SEED_LOSE_ALL), 0);
    assert_int_equal(stat(x.copy, &st), 0);
    assert_int_equal(st.st_size, 1024);
    fixture_close(&x);
}

/* ---- Power cuts against an oracle ---- */

struct oracle_write {
    uint64_t sector, count;
    int value;
};

struct oracle {
    unsigned char stable[SECTORS];
    struct oracle_write writes[64];
    unsigned count;
};

static void oracle_sync(struct oracle *o)
{
    for (unsigned i = 0; i < o->count; i++)
        memset(o->stable + o->writes[i].sector, o->writes[i].value, o->writes[i].count);
    o->count = 0;
}

static bool oracle_allows(const struct oracle *o, uint64_t sector, int value, bool *is_last)
{
    bool allowed = value == o->stable[sector];
    *is_last = allowed;
    for (unsigned i = 0; i < o->count; i++) {
        const struct oracle_write *w = &o->writes[i];
        if (sector < w->sector || sector >= w->sector + w->count) continue;
        *is_last = w->value == value;
        allowed = allowed || *is_last;
    }
    return allowed;
}

static void random_work(struct fixture *x, struct oracle *o, uint64_t *seed)
{
    while (!fault_plan_is_cut(x->plan)) {
        uint64_t what = rnd_below(seed, 10), sector = rnd_below(seed, SECTORS - 32), count = 1 + rnd_below(seed, 32);
        int value = (int)rnd_below(seed, 255) + 1, ret;
        if (what == 0 || o->count == ARRAY_LEN(o->writes)) {
            ret = engine_op_now(x->e, &x->s.file, ENGINE_SYNC, 0, 0);
            if (ret == 0) oracle_sync(o);
            continue;
        }
        if (what == 1) value = 0;
        /* Also when it fails, at the cut: it may have landed. */
        o->writes[o->count++] = (struct oracle_write){sector, count, value};
        if (what == 1) ret = engine_op_now(x->e, &x->s.file, ENGINE_PUNCH, sector * 512, count * 512);
        else ret = put(x, sector, count, value);
        assert_true(ret == 0 || fault_plan_is_cut(x->plan));
    }
}

static void check_copy(const struct fixture *x, const struct oracle *o, uint64_t seed)
{
    assert_int_equal(fault_plan_copy_after_cut(x->plan, &x->s.file, x->copy, seed), 0);
    autoclose int fd = open(x->copy, O_RDONLY);
    for (uint64_t i = 0; i < SECTORS; i++) {
        bool last;
        int value = get(fd, i);
        assert_true(oracle_allows(o, i, value, &last));
        if (seed == FAULT_SEED_LOSE_ALL) assert_int_equal(value, o->stable[i]);
        if (seed == FAULT_SEED_KEEP_ALL) assert_true(last);
    }
}

static void check_cuts(unsigned flags)
{
    for (uint64_t round = 1; round <= 40; round++) {
        struct fixture x;
        fixture_open(&x, SIZE, flags);
        struct oracle o = {.count = 0};
        uint64_t seed = round;
        fault_plan_add(x.plan, &(struct fault_rule){.action = FAULT_CUT, .nth = 1 + rnd_below(&seed, 60)});
        random_work(&x, &o, &seed);
        check_copy(&x, &o, FAULT_SEED_LOSE_ALL);
        check_copy(&x, &o, FAULT_SEED_KEEP_ALL);
        for (uint64_t s = 1; s < 6; s++)
            check_copy(&x, &o, s);
        fixture_close(&x);
    }
}

static void test_cuts_against_oracle(void **state)
{
    check_cuts(0);
}

static void test_cuts_against_oracle_direct(void **state)
{
    check_cuts(DISK_FILE_DIRECT);
}

static uint64_t content_after(uint64_t seed, uint64_t *other)
{
    struct fixture x;
    uint64_t work = 5, sum = 0;
    struct oracle o = {.count = 0};
    fixture_open(&x, SIZE, 0);
    fault_plan_add(x.plan, &(struct fault_rule){.action = FAULT_CUT, .nth = 30});
    random_work(&x, &o, &work);
    assert_int_equal(fault_plan_copy_after_cut(x.plan, &x.s.file, x.copy, seed + 1), 0);
    assert_int_equal(fault_plan_after_cut(x.plan, seed), 0);
    autoclose int copy = open(x.copy, O_RDONLY);
    *other = 0;
    for (uint64_t i = 0; i < SECTORS; i++) {
        sum = sum * 31 + (uint64_t)get(x.s.file.fd, i);
        *other = *other * 31 + (uint64_t)get(copy, i);
    }
    fixture_close(&x);
    return sum;
}

static void test_repeatable(void **state)
{
    uint64_t other[2];
    assert_int_equal(content_after(7, &other[0]), content_after(7, &other[1]));
    assert_int_equal(other[0], other[1]);
    assert_int_not_equal(content_after(7, &other[0]), other[0]);
}

/* ---- Two threads, one plan ---- */

struct worker {
    struct fixture *x;
    struct engine *e;
    uint64_t base;
};

static void *work_until_cut(void *arg)
{
    struct worker *w = arg;
    char buf[512];
    for (int i = 1;; i++) {
        memset(buf, i, sizeof buf);
        if (engine_write_now(w->e, &w->x->s.file, buf, w->base + (uint64_t)i % 64 * 512, 512) < 0) return NULL;
        if (i % 10 == 0 && engine_op_now(w->e, &w->x->s.file, ENGINE_SYNC, 0, 0) < 0) return NULL;
    }
}

static void test_two_threads(void **state)
{
    struct fixture x;
    fixture_open(&x, SIZE, 0);
    fault_plan_add(x.plan, &(struct fault_rule){.action = FAULT_CUT, .nth = 500});
    struct worker w[2] = {{&x, x.e, 0}, {&x, NULL, SIZE / 2}};
    const struct engine_maker *maker = fault_plan_maker(x.plan);
    assert_int_equal(maker->make(maker->arg, &w[1].e, NULL), 0);
    pthread_t thread[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, work_until_cut, &w[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    assert_true(fault_plan_is_cut(x.plan));
    assert_int_equal(fault_plan_after_cut(x.plan, 3), 0);
    engine_free(w[1].e);
    fixture_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes_through),
        cmocka_unit_test(test_fail_the_nth),
        cmocka_unit_test(test_fail_a_range),
        cmocka_unit_test(test_delay),
        cmocka_unit_test(test_tear),
        cmocka_unit_test(test_everything_fails_after_the_cut),
        cmocka_unit_test(test_points),
        cmocka_unit_test(test_file_length_after_the_cut),
        cmocka_unit_test(test_cuts_against_oracle),
        cmocka_unit_test(test_cuts_against_oracle_direct),
        cmocka_unit_test(test_repeatable),
        cmocka_unit_test(test_two_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
