/* SPDX-License-Identifier: Apache-2.0 */
/* Chains through the cache: a qcow2 layer over a shorter raw base, read cached and uncached. */
#include "cache/test_util.h"

#include "disk/engine/fault.h"
#include "disk/format/qcow2_image.h"

#define TOP_BYTES (4 * MIB)
#define BASE_BYTES (3 * MIB - 64 * KIB)

struct side { /* the chain, opened once */
    struct engine_file file[2];
    struct layer *own[2], *stack[2];
    struct disk_chans chans;
};

static int blocking(struct engine *e, struct layer_chan *c, enum disk_op op, void *buf, uint64_t offset, uint64_t bytes)
{
    struct reader r = {.engine = e};
    struct iovec iov = {buf, bytes};
    struct reader_req q = {.reader = &r};
    q.req = (struct disk_req){
        .op = op, .offset_bytes = offset, .length_bytes = bytes, .iov = &iov, .iov_count = 1, .done = reader_req_done};
    r.pending = 1;
    layer_submit(c, &q.req);
    return reader_wait(&r);
}

static void make_top(const char *path, const char *base, unsigned cluster_bits, uint64_t seed)
{
    struct errmsg e = {""};
    struct engine *engine;
    struct engine_file files[2];
    struct layer *layers[2];
    struct disk_chans chans;
    static uint8_t buf[256 * KIB];
    unlink(path);
    const struct qcow2_create_args create = {.size_bytes = TOP_BYTES,
                                             .version = 3,
                                             .cluster_bits = cluster_bits,
                                             .refcount_order = 4,
                                             .backing_name = base,
                                             .backing_format = "raw"};
    assert_int_equal(engine_uring_new(&engine, 64, &e), 0);
    if (disk_file_open(&files[0], path, DISK_FILE_WRITE | DISK_FILE_CREATE, &e) < 0 ||
        qcow2_create(engine, &files[0], &create, &e) < 0)
        fail_msg("%s", e.text);
    disk_file_close(&files[0]);
    if (disk_file_open(&files[0], path, DISK_FILE_WRITE, &e) < 0 ||
        disk_file_open(&files[1], base, DISK_FILE_NO_LOCK, &e) < 0)
        fail_msg("%s", e.text);
    const struct layer_args raw = {.file = &files[1], .maker = &engine_uring_maker};
    if (layer_open(&layers[1], DISK_FORMAT_RAW, &raw, &e) < 0) fail_msg("%s", e.text);
    const struct layer_args qcow2 = {
        .file = &files[0], .below = layers[1], .writable = true, .maker = &engine_uring_maker};
    if (layer_open(&layers[0], DISK_FORMAT_QCOW2, &qcow2, &e) < 0) fail_msg("%s", e.text);
    assert_int_equal(disk_chans_open(&chans, layers, 2, engine), 0);
    for (unsigned i = 0; i < 60; i++) {
        uint64_t offset = rnd(&seed) % (TOP_BYTES / 512) * 512;
        uint64_t bytes = min_u64((rnd(&seed) % (i % 8 ? 40 : 400) + 1) * 512, TOP_BYTES - offset);
        pattern_fill(buf, offset, bytes, 1000);
        bool zeroes = i % 5 == 4;
        assert_int_equal(blocking(engine, chans.chan[0], zeroes ? DISK_WRITE_ZEROES : DISK_WRITE, buf, offset, bytes),
                         0);
    }
    disk_chans_close(&chans);
    while (engine_poll(engine) > 0)
        ;
    engine_free(engine);
    assert_int_equal(layers[0]->ops->close(layers[0], &e), 0);
    assert_int_equal(layers[1]->ops->close(layers[1], &e), 0);
    disk_file_close(&files[0]);
    disk_file_close(&files[1]);
}

static void side_open(struct side *s, const char *const *paths, bool cached, struct engine *engine)
{
    static const enum disk_format formats[] = {DISK_FORMAT_QCOW2, DISK_FORMAT_RAW};
    struct errmsg e = {""};
    for (unsigned i = 2; i-- > 0;) {
        struct layer *below = i == 0 ? s->stack[1] : NULL;
        if (disk_file_open(&s->file[i], paths[i], DISK_FILE_NO_LOCK, &e) < 0) fail_msg("%s", e.text);
        const struct layer_args args = {.file = &s->file[i], .below = below, .maker = &engine_uring_maker};
        if (layer_open(&s->own[i], formats[i], &args, &e) < 0) fail_msg("%s", e.text);
        s->stack[i] = s->own[i];
        if (cached && cache_layer_open(&s->stack[i], s->own[i], below, i, &e) < 0) fail_msg("%s", e.text);
    }
    assert_int_equal(disk_chans_open(&s->chans, s->stack, 2, engine), 0);
}

static void side_close(struct side *s)
{
    struct errmsg e = {""};
    for (unsigned i = 0; i < 2; i++) {
        if (s->stack[i] != s->own[i]) s->stack[i]->ops->close(s->stack[i], &e);
        assert_int_equal(s->own[i]->ops->close(s->own[i], &e), 0);
        disk_file_close(&s->file[i]);
    }
}

static void check_chain(unsigned cluster_bits)
{
    struct image base;
    char top[80];
    image_make(&base, BASE_BYTES, 41);
    for (uint64_t offset = 0; offset < BASE_BYTES; offset += 320 * KIB)
        image_write(&base, offset, min_u64(200 * KIB, BASE_BYTES - offset));
    snprintf(top, sizeof top, "%s.qcow2", base.path);
    make_top(top, base.path, cluster_bits, cluster_bits);

    const char *paths[] = {top, base.path};
    struct errmsg e = {""};
    struct cache_service *service = service_make(64 * MIB, NULL);
    struct cache_layer_want wants[] = {{open(top, O_RDONLY), top, DISK_FORMAT_QCOW2},
                                       {open(base.path, O_RDONLY), base.path, DISK_FORMAT_RAW}};
    int channel;
    if (cache_service_connect(service, wants, 2, &channel, 1, &e) < 0) fail_msg("%s", e.text);
    struct engine *engine;
    struct side plain, cached;
    struct cache_client *client;
    assert_int_equal(engine_uring_new(&engine, 64, &e), 0);
    side_open(&plain, paths, false, engine);
    side_open(&cached, paths, true, engine);
    assert_int_equal(cache_client_new(&client, engine), 0);
    for (unsigned i = 0; i < 2; i++)
        cache_client_join(client, cached.chans.chan[i]);
    assert_int_equal(cache_client_attach(client, channel), 0);

    static uint8_t want[512 * KIB], got[512 * KIB];
    uint64_t seed = 99;
    unsigned at_once = 0;
    for (unsigned i = 0; i < 1500; i++) {
        uint64_t offset = rnd(&seed) % (TOP_BYTES / 512) * 512;
        uint64_t bytes = min_u64((rnd(&seed) % (i % 40 ? 24 : 1024) + 1) * 512, TOP_BYTES - offset);
        assert_int_equal(blocking(engine, plain.chans.chan[0], DISK_READ, want, offset, bytes), 0);
        memset(got, 0x5a, bytes);
        struct iovec iov = {got, bytes};
        int ret = layer_try_read(cached.chans.chan[0], offset, bytes, &iov, 1);
        at_once += ret == 0;
        if (ret == -EAGAIN) ret = blocking(engine, cached.chans.chan[0], DISK_READ, got, offset, bytes);
        assert_int_equal(ret, 0);
        assert_memory_equal(got, want, bytes);
        layer_prefetch(cached.chans.chan[0], offset);
    }
    assert_true(at_once > 100);
    const struct cache_counters *n = cache_client_counters(cached.chans.chan[0]);
    if (cluster_bits >= CACHE_BLOCK_SHIFT) assert_int_equal(atomic_load(&n->direct_bytes), 0);
    else assert_true(atomic_load(&n->direct_bytes) > 0); /* blocks that are part this, part that */
    disk_chans_close(&cached.chans);
    disk_chans_close(&plain.chans);
    cache_client_free(client);
    while (engine_poll(engine) > 0)
        ;
    engine_free(engine);
    side_close(&cached);
    side_close(&plain);
    cache_service_stop(service);
    unlink(top);
    image_drop(&base);
}

/* An empty clone over its base through the cache, as a worker has it. */
static void clone_make(const char *path, const char *base)
{
    struct errmsg e = {""};
    struct engine *engine;
    struct engine_file file;
    const struct qcow2_create_args create = {.size_bytes = TOP_BYTES,
                                             .version = 3,
                                             .cluster_bits = 16,
                                             .refcount_order = 4,
                                             .backing_name = base,
                                             .backing_format = "raw"};
    assert_int_equal(engine_uring_new(&engine, 8, &e), 0);
    if (disk_file_open(&file, path, DISK_FILE_WRITE | DISK_FILE_CREATE, &e) < 0 ||
        qcow2_create(engine, &file, &create, &e) < 0)
        fail_msg("%s", e.text);
    engine_free(engine);
    disk_file_close(&file);
}

/* Neither the service nor the worker can read a piece of the base: who asks for it gets the error, once more only as long as it
 * lasts, and nobody else does. */
static void test_unreadable_base(void **state)
{
    (void)state;
    struct image base;
    char top[80];
    struct errmsg e = {""};
    image_make(&base, BASE_BYTES, 43);
    image_write(&base, 0, BASE_BYTES);
    snprintf(top, sizeof top, "%s.qcow2", base.path);
    clone_make(top, base.path);
    struct fault_plan *plan = fault_plan_new(1), *service_plan = fault_plan_new(1);
    const struct engine_maker *maker = fault_plan_maker(plan);
    const uint64_t bad = MIB + 8 * KIB;
    const struct fault_rule rule = {.ops = FAULT_READS, .offset_bytes = bad, .length_bytes = 4096};
    struct fault_rule forever = rule, twice = rule;
    forever.count = UINT64_MAX;
    unsigned in_service = fault_plan_add(service_plan, &forever);

    struct cache_service *service = service_make(64 * MIB, fault_plan_maker(service_plan));
    struct engine *engine;
    struct side s;
    struct cache_client *client;
    const char *paths[] = {top, base.path};
    assert_int_equal(maker->make(maker->arg, &engine, &e), 0);
    side_open(&s, paths, true, engine);
    disk_chans_close(&s.chans);
    s.stack[0]->ops->close(s.stack[0], &e); /* the leaf is not read through the cache */
    s.stack[0] = s.own[0];
    assert_int_equal(disk_chans_open(&s.chans, s.stack, 2, engine), 0);
    assert_int_equal(cache_client_new(&client, engine), 0);
    cache_client_join(client, s.chans.chan[1]);
    struct cache_layer_want wants[] = {{open(top, O_RDONLY), top, DISK_FORMAT_QCOW2},
                                       {open(base.path, O_RDONLY), base.path, DISK_FORMAT_RAW}};
    int channel;
    if (cache_service_connect(service, wants, 2, &channel, 1, &e) < 0) fail_msg("%s", e.text);
    assert_int_equal(cache_client_attach(client, channel), 0);
    twice.count = 2;
    twice.file = &s.file[1];
    unsigned direct = fault_plan_add(plan, &twice);

    static uint8_t got[64 * KIB];
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(blocking(engine, s.chans.chan[0], DISK_READ, got, bad, 4096), i < 2 ? -EIO : 0);
        for (uint64_t at = 0; at < BASE_BYTES; at += sizeof got) {
            bool has_bad = at <= bad && bad - at < sizeof got;
            uint64_t bytes = has_bad ? bad - at : sizeof got; /* up to it, and the page behind it */
            assert_int_equal(blocking(engine, s.chans.chan[0], DISK_READ, got, at, bytes), 0);
            assert_true(pattern_check(got, at, bytes, base.seed));
        }
        assert_int_equal(blocking(engine, s.chans.chan[0], DISK_READ, got, bad + 4096, 4096), 0);
        assert_true(pattern_check(got, bad + 4096, 4096, base.seed));
    }
    assert_int_equal(blocking(engine, s.chans.chan[0], DISK_READ, got, bad, 4096), 0);
    assert_true(pattern_check(got, bad, 4096, base.seed)); /* the worker can, though the service still cannot */
    assert_int_equal(fault_plan_hits(plan, direct), 2);
    assert_true(fault_plan_hits(service_plan, in_service) > 0);
    const struct cache_counters *n = cache_client_counters(s.chans.chan[1]);
    assert_true(atomic_load(&n->hit_bytes) > 0 && atomic_load(&n->direct_bytes) > 0);

    disk_chans_close(&s.chans);
    cache_client_free(client);
    while (engine_poll(engine) > 0)
        ;
    engine_free(engine);
    side_close(&s);
    cache_service_stop(service);
    fault_plan_free(plan);
    fault_plan_free(service_plan);
    unlink(top);
    image_drop(&base);
}

static void test_large_clusters(void **state)
{
    (void)state;
    check_chain(16);
}

static void test_clusters_of_a_block(void **state)
{
    (void)state;
    check_chain(12);
}

static void test_clusters_below_a_block(void **state)
{
    (void)state;
    check_chain(9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_large_clusters),
        cmocka_unit_test(test_clusters_of_a_block),
        cmocka_unit_test(test_clusters_below_a_block),
        cmocka_unit_test(test_unreadable_base),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
