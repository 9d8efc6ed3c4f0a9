/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What grows in an image, refcount blocks, the refcount table and the L1 table, with each request to storage failing
 * in turn: once, and for a while. Nothing stays claimed that is free, the same works as soon as storage does, whoever
 * finds the image at any time finds it sound, and nothing acknowledged is lost.
 *
 * The allocator is called on the keeper's thread, so that exactly the cluster is next that makes it grow.
 */
#include "disk/format/qcow2_test_util.h"

#include <inttypes.h>

#include "base/cleanup.h"
#include "base/test_alloc.h"
#include "disk/format/qcow2_impl.h"
#include "disk/image.h"

/* Clusters of 512 bytes and refcounts of 64 bits: a block is for 64 clusters, the first table for 64 blocks. */
#define BLOCK_CLUSTERS 64u
#define TABLE_BLOCKS 64u

struct rig {
    char path[64];
    struct fault_plan *plan;
    struct disk d;
    struct qcow2 *q;
    uint64_t cuts;
};

static void rig_open(struct rig *r, const struct qcow2_create_args *args, const struct engine_maker *maker)
{
    scratch_on_disk = false;
    image_make(r->path, args);
    disk_open(&r->d, r->path, &(struct disk_options){.flags = DISK_FILE_WRITE, .maker = maker});
    /* A sync of the page cache that failed is final (disk/sync.h), one of direct writes is not. */
    r->d.file.direct = true;
    r->q = qcow2_of(r->d.layer);
}

static void rig_init(struct rig *r, const struct qcow2_create_args *args, uint64_t number)
{
    r->cuts = number;
    r->plan = fault_plan_new(1);
    assert_non_null(r->plan);
    rig_open(r, args, fault_plan_maker(r->plan));
}

static void rig_free(struct rig *r)
{
    fault_plan_free(r->plan);
    unlink(r->path);
}

static void is_sound(const char *path, const char *when)
{
    struct errmsg e = {""};
    struct image_check_result found;
    if (image_check(path, DISK_FORMAT_QCOW2, &(struct image_check_args){0}, &found, &e) < 0) fail_msg("%s", e.text);
    if (found.errors) image_is_sound(path, true); /* shows what they are */
    if (found.errors) fail_msg("%s: %" PRIu64 " errors %s, which qemu-img does not see", path, found.errors, when);
}

/* What a power cut now would leave; which of the writes that were not synced survive is another matter each time. */
static void is_sound_after_cut(struct rig *r, const char *when)
{
    static const uint64_t seeds[] = {FAULT_SEED_LOSE_ALL, FAULT_SEED_KEEP_ALL, 5, 6};
    char copy[80];
    snprintf(copy, sizeof copy, "%s.cut", r->path);
    uint64_t seed = seeds[r->cuts++ % ARRAY_LEN(seeds)];
    assert_int_equal(fault_plan_copy_after_cut(r->plan, &r->d.file, copy, seed), 0);
    is_sound(copy, when);
    unlink(copy);
}

/* ---- on the keeper's thread ---- */

struct take {
    uint64_t want;
    unsigned alloc_fails; /* which allocation: 1 is the first; 0: none */
    uint64_t first, count;
};

static int take_call(struct qcow2 *q, void *arg)
{
    struct take *t = arg;
    bool zero;
    alloc_countdown = t->alloc_fails;
    int ret = qcow2_refs_take(q, t->want, 1, &t->first, &t->count, &zero);
    alloc_countdown = 0;
    return ret;
}

static int take(struct rig *r, struct take *t)
{
    return qcow2_keeper_call(r->q, take_call, t);
}

/* Whoever is known to hold a table has a refcount: the allocator takes what has none. */
static int look_call(struct qcow2 *q, void *arg)
{
    uint64_t *bad = arg;
    for (*bad = 0; *bad < q->file_clusters; ++*bad) {
        uint64_t refs;
        int ret = qcow2_refs_get(q, *bad, &refs);
        if (ret < 0) return ret;
        if (!refs && qcow2_meta_at(&q->meta, *bad)) return 0;
    }
    *bad = UINT64_MAX;
    return 0;
}

static void nothing_stays_claimed(struct rig *r)
{
    uint64_t bad;
    int ret = -EIO;
    for (unsigned tries = 0; ret == -EIO && tries < 10; tries++) /* reads fail, too */
        ret = qcow2_keeper_call(r->q, look_call, &bad);
    assert_int_equal(ret, 0);
    if (bad != UINT64_MAX) fail_msg("host cluster %" PRIu64 " is claimed and its refcount is 0", bad);
    if (atomic_load(&r->q->broken)) fail_msg("the image was taken for corrupt");
}

/* Take all that there is up to this cluster. */
static void take_up_to(struct rig *r, uint64_t cluster)
{
    struct take t;
    do {
        t = (struct take){.want = 1};
        assert_int_equal(take(r, &t), 0);
        if (t.first + 1 >= cluster) break;
        t.want = min_u64(cluster - t.first - 1, BLOCK_CLUSTERS);
        assert_int_equal(take(r, &t), 0);
    } while (t.first + t.count < cluster);
    assert_int_equal(t.first + t.count, cluster);
}

/* ---- refcounts ---- */

struct refs_case {
    unsigned ops;
    bool table;        /* the table itself has to move */
    unsigned left;     /* clusters up to the end of what has blocks */
    uint64_t want;     /* taken at once */
    uint64_t failures; /* in a row */
};

/* One guest's cluster, through all layers: there is an L2 table to be made, too. */
static void write_and_flush(struct rig *r, uint64_t at, uint8_t fill)
{
    uint8_t buf[4096];
    memset(buf, fill, sizeof buf);
    disk_write(&r->d, at, sizeof buf, buf);
    disk_flush(&r->d);
}

/* False: the growth was over before the nth request. */
static bool one_refs_growth(const struct refs_case *k, uint64_t nth)
{
    struct rig r;
    rig_init(&r, &(struct qcow2_create_args){.size_bytes = MiB, .version = 3, .cluster_bits = 9, .refcount_order = 6},
             nth);
    write_and_flush(&r, 0, 'a');
    uint64_t end = k->table ? BLOCK_CLUSTERS * TABLE_BLOCKS : 4 * BLOCK_CLUSTERS;
    take_up_to(&r, end - k->left);
    uint64_t blocks_end = (r.q->refs.table_entries) << r.q->refs.block_bits;
    assert_true(k->table ? blocks_end == end : r.q->refs.table[4] == 0);

    unsigned rule = fault_plan_add(
        r.plan, &(struct fault_rule){.action = FAULT_FAIL, .ops = k->ops, .nth = nth, .count = k->failures});
    for (uint64_t tries = 0, taken = 0; taken < k->left + 4; tries++) {
        struct take t = {.want = k->want};
        uint64_t before = fault_plan_hits(r.plan, rule);
        int ret = take(&r, &t);
        bool failed = fault_plan_hits(r.plan, rule) > before;
        /* What fails after the switch costs a leak: the old table could not be given back. */
        if (ret != 0 && (ret != -EIO || !failed)) fail_msg("taking clusters: %d, a request failed: %d", ret, failed);
        if (ret == 0) taken += t.count;
        nothing_stays_claimed(&r);
        if (failed) is_sound_after_cut(&r, "after a failure");
        assert_true(tries < 1000);
    }
    bool hit = fault_plan_hits(r.plan, rule) > 0;
    fault_plan_end_rules(r.plan);
    for (uint64_t taken = 0; taken < 2 * BLOCK_CLUSTERS; taken += 8) /* two more blocks */
        assert_int_equal(take(&r, &(struct take){.want = 8}), 0);
    nothing_stays_claimed(&r);
    assert_true(r.q->refs.table[4]);
    if (k->table) assert_true(r.q->refs.table_entries > TABLE_BLOCKS);

    write_and_flush(&r, MiB / 2, 'b');
    is_sound_after_cut(&r, "at the end");
    disk_close(&r.d, true);
    disk_open(&r.d, r.path, &(struct disk_options){0});
    uint8_t got[4096];
    disk_read(&r.d, 0, sizeof got, got);
    assert_int_equal(got[0], 'a');
    disk_read(&r.d, MiB / 2, sizeof got, got);
    assert_int_equal(got[4095], 'b');
    disk_close(&r.d, true);
    is_sound(r.path, "at the end");
    if (nth == 1) image_is_sound(r.path, true);
    rig_free(&r);
    return hit;
}

static void each_request_fails(bool table)
{
    static const struct {
        unsigned ops, failures;
    } faults[] = {{FAULT_WRITES, 1}, {FAULT_SYNCS, 1}, {FAULT_READS, 1}, {FAULT_WRITES | FAULT_SYNCS, 5}};
    static const struct {
        unsigned left;
        uint64_t want;
    } places[] = {
        {0, 1}, /* the new block is its own region's first cluster */
        {1, 1}, /* one more goes in before */
        {1, 2}, /* the new block goes where another one counts it */
        {5, 8},
    };
    for (size_t f = 0; f < ARRAY_LEN(faults); f++)
        for (size_t p = 0; p < ARRAY_LEN(places); p++) {
            struct refs_case k = {.ops = faults[f].ops,
                                  .failures = faults[f].failures,
                                  .table = table,
                                  .left = places[p].left,
                                  .want = places[p].want};
            uint64_t nth = 1;
            while (one_refs_growth(&k, nth))
                nth++;
            assert_true(nth > 1);
        }
}

static void refcount_block(void **state)
{
    (void)state;
    each_request_fails(false);
}

static void refcount_table(void **state)
{
    (void)state;
    each_request_fails(true);
}

/* However often it fails, the larger table is tried in the same place: the file does not grow meanwhile, nor the table. */
static void table_that_fails_for_long(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r, &(struct qcow2_create_args){.size_bytes = MiB, .version = 3, .cluster_bits = 9, .refcount_order = 6},
             1);
    write_and_flush(&r, 0, 'a');
    take_up_to(&r, BLOCK_CLUSTERS * TABLE_BLOCKS);
    fault_plan_add(r.plan, &(struct fault_rule){.action = FAULT_FAIL, .ops = FAULT_SYNCS, .count = 20});
    uint64_t end = 0;
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(take(&r, &(struct take){.want = 1}), -EIO);
        if (i == 0) end = r.q->file_clusters;
        assert_int_equal(r.q->file_clusters, end);
        nothing_stays_claimed(&r);
    }
    for (uint64_t taken = 0; taken < 3 * BLOCK_CLUSTERS; taken += 8)
        assert_int_equal(take(&r, &(struct take){.want = 8}), 0);
    assert_true(r.q->refs.table_entries > TABLE_BLOCKS);
    nothing_stays_claimed(&r);
    disk_close(&r.d, true);
    is_sound(r.path, "at the end");
    image_is_sound(r.path, true);
    rig_free(&r);
}

/* False: the growth needed fewer allocations. */
static bool one_without_memory(bool table, unsigned nth)
{
    struct rig r = {0};
    rig_open(&r, &(struct qcow2_create_args){.size_bytes = MiB, .version = 3, .cluster_bits = 9, .refcount_order = 6},
             NULL);
    write_and_flush(&r, 0, 'a');
    take_up_to(&r, BLOCK_CLUSTERS * (table ? TABLE_BLOCKS : 4));
    struct take t = {.want = 1, .alloc_fails = nth};
    alloc_failed = false;
    int ret = take(&r, &t);
    bool failed = alloc_failed;
    if (ret != 0 && (ret != -ENOMEM || !failed))
        fail_msg("taking a cluster: %d, an allocation failed: %d", ret, failed);
    nothing_stays_claimed(&r);
    for (uint64_t taken = 0; taken < 2 * BLOCK_CLUSTERS; taken += 8)
        assert_int_equal(take(&r, &(struct take){.want = 8}), 0);
    nothing_stays_claimed(&r);
    disk_close(&r.d, true);
    is_sound(r.path, "without memory");
    rig_free(&r);
    return failed;
}

static void no_memory(void **state)
{
    (void)state;
    for (unsigned table = 0; table < 2; table++) {
        unsigned nth = 1;
        while (one_without_memory(table, nth))
            nth++;
        assert_true(nth > 2);
    }
}

/* ---- the L1 table ---- */

/* What was flushed is there, whoever opens the image after a power cut now. */
static void is_there_after_cut(struct rig *r, uint64_t at, uint8_t fill, const char *when)
{
    char copy[80];
    uint8_t got[4096];
    struct disk d;
    snprintf(copy, sizeof copy, "%s.cut", r->path);
    uint64_t seed = r->cuts++ % 2 ? FAULT_SEED_LOSE_ALL : FAULT_SEED_KEEP_ALL;
    assert_int_equal(fault_plan_copy_after_cut(r->plan, &r->d.file, copy, seed), 0);
    is_sound(copy, when);
    disk_open(&d, copy, &(struct disk_options){0});
    disk_read(&d, at, sizeof got, got);
    if (got[0] != fill || memcmp(got, got + 1, sizeof got - 1) != 0)
        fail_msg("%s: what was flushed at %" PRIu64 " is not there %s", copy, at, when);
    disk_close(&d, true);
    unlink(copy);
}

/* False: the resize was over before the nth request. */
static bool one_resize(unsigned ops, uint64_t failures, uint64_t nth)
{
    struct rig r;
    struct errmsg e = {""};
    uint64_t small = MiB, large = 8 * MiB;
    rig_init(&r, &(struct qcow2_create_args){.size_bytes = small, .version = 3, .cluster_bits = 9, .refcount_order = 4},
             nth);
    write_and_flush(&r, 0, 'a');
    unsigned rule =
        fault_plan_add(r.plan, &(struct fault_rule){.action = FAULT_FAIL, .ops = ops, .nth = nth, .count = failures});
    int ret = r.d.layer->ops->resize(r.d.layer, large, &e);
    bool hit = fault_plan_hits(r.plan, rule) > 0;
    if (ret < 0 && !hit) fail_msg("%s", e.text);
    assert_int_equal(layer_size(r.d.layer), ret < 0 ? small : large);
    fault_plan_end_rules(r.plan);

    /* Goes into an L2 table of its own, which the L1 table must refer to that the header does. */
    write_and_flush(&r, small / 2, 'b');
    is_there_after_cut(&r, small / 2, 'b', "after a resize that failed");
    assert_false(atomic_load(&r.q->broken));
    if (r.d.layer->ops->resize(r.d.layer, large, &e) < 0) fail_msg("%s", e.text);
    write_and_flush(&r, large - 4096, 'c');
    is_there_after_cut(&r, large - 4096, 'c', "after a resize");
    nothing_stays_claimed(&r);
    disk_close(&r.d, true);
    image_is_sound(r.path, true);
    rig_free(&r);
    return hit;
}

static void l1_table(void **state)
{
    (void)state;
    for (unsigned failures = 1; failures <= 9; failures += 4) {
        uint64_t nth = 1;
        while (one_resize(FAULT_WRITES | FAULT_SYNCS, failures, nth))
            nth++;
        assert_true(nth > 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refcount_block), cmocka_unit_test(refcount_table), cmocka_unit_test(table_that_fails_for_long),
        cmocka_unit_test(no_memory),      cmocka_unit_test(l1_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
