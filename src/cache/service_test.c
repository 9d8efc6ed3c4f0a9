/* SPDX-License-Identifier: Apache-2.0 */
/* The service and one client: content, what is read from storage how often, budget, errors, changes. */
#include "cache/test_util.h"

#include <pthread.h>

#include "disk/engine/fault.h"

static void test_reads_equal_the_image(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 8 * MIB + 1536, 1); /* its last block is a part of one */
    image_write(&im, 0, 3 * MIB);
    image_write(&im, 5 * MIB + 512, 7 * KIB);
    image_write(&im, 8 * MIB - 4 * KIB, 4 * KIB + 1536);
    int fd = open(im.path, O_RDONLY);
    uint8_t *whole = calloc(1, im.size_bytes), *buf = malloc(MIB);
    assert_int_equal(pread(fd, whole, im.size_bytes, 0), im.size_bytes);
    close(fd);

    struct cache_service *s = service_make(64 * MIB, NULL);
    struct reader r;
    reader_open(&r, im.path, service_channel(s, im.path));
    uint64_t seed = 7;
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t offset = rnd(&seed) % (im.size_bytes / 512) * 512;
        uint64_t most = i % 50 == 0 ? MIB : 40 * KIB;
        uint64_t bytes = min_u64((rnd(&seed) % (most / 512) + 1) * 512, im.size_bytes - offset);
        memset(buf, 0xa5, bytes);
        assert_int_equal(reader_read(&r, buf, offset, bytes), 0);
        assert_memory_equal(buf, whole + offset, bytes);
    }
    assert_int_equal(atomic_load(&reader_counters(&r)->direct_bytes), 0);
    struct cache_base_stats b = service_base_stats(s, NULL);
    assert_true(b.cached_bytes <= 3 * MIB + 64 * KIB);
    assert_true(b.storage_read_bytes <= im.size_bytes);
    assert_int_equal(b.clients, 1);
    /* All is known now: nothing needs the service any more. */
    for (uint64_t offset = 0; offset < im.size_bytes; offset += 512 * KIB) {
        uint64_t bytes = min_u64(512 * KIB, im.size_bytes - offset);
        assert_int_equal(reader_read(&r, buf, offset, bytes), 0);
        assert_int_equal(reader_try(&r, buf, offset, bytes), 0);
        assert_memory_equal(buf, whole + offset, bytes);
    }
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
    free(whole);
    free(buf);
}

static void test_scattered_buffers(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 2 * MIB, 2);
    image_write(&im, 0, MIB);
    struct cache_service *s = service_make(64 * MIB, NULL);
    struct reader r;
    reader_open(&r, im.path, service_channel(s, im.path));
    static uint8_t pool[2 * MIB], flat[2 * MIB];
    for (unsigned round = 0; round < 2; round++) {
        struct iovec iov[64];
        uint64_t bytes = 0;
        for (unsigned i = 0; i < 64; i++) {
            iov[i] = (struct iovec){.iov_base = pool + i * 32768 + 7, .iov_len = 512 * (i % 9 + 1)};
            bytes += iov[i].iov_len;
        }
        uint64_t offset = MIB - 61 * KIB; /* across the end of the data */
        struct reader_req q = {.reader = &r};
        q.req = (struct disk_req){.op = DISK_READ,
                                  .offset_bytes = offset,
                                  .length_bytes = bytes,
                                  .iov = iov,
                                  .iov_count = 64,
                                  .done = reader_req_done};
        memset(pool, 0xff, sizeof pool);
        if (round == 0) {
            r.pending++;
            layer_submit(r.chans.chan[0], &q.req);
            assert_int_equal(reader_wait(&r), 0);
        } else {
            assert_int_equal(layer_try_read(r.chans.chan[0], offset, bytes, iov, 64), 0);
        }
        iov_copy_from(flat, iov, 64, 0, bytes);
        assert_true(pattern_check(flat, offset, 61 * KIB, im.seed));
        assert_true(all_zero(flat + 61 * KIB, bytes - 61 * KIB));
    }
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
}

static void test_other_operations(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, MIB, 3);
    struct cache_service *s = service_make(64 * MIB, NULL);
    struct reader r;
    reader_open(&r, im.path, service_channel(s, im.path));
    uint8_t buf[512] = {0};
    const struct {
        enum disk_op op;
        int ret;
    } cases[] = {
        {DISK_WRITE, -EROFS}, {DISK_DISCARD, -EROFS}, {DISK_WRITE_ZEROES, -EROFS}, {DISK_FLUSH, 0}, {DISK_MAP, 0}};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct iovec iov = {buf, sizeof buf};
        struct reader_req q = {.reader = &r};
        q.req = (struct disk_req){
            .op = cases[i].op, .length_bytes = 512, .iov = &iov, .iov_count = 1, .done = reader_req_done};
        r.pending++;
        layer_submit(r.chans.chan[0], &q.req);
        assert_int_equal(reader_wait(&r), cases[i].ret);
        if (cases[i].op == DISK_MAP) assert_int_equal(q.req.map.kind, DISK_EXTENT_ZERO);
    }
    struct errmsg e;
    assert_int_equal(r.cached->ops->resize(r.cached, 2 * MIB, &e), -EROFS);
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
}

/* Many ask for the same at the same time: it is read once. */
static void *storm_body(void *arg)
{
    struct reader *r = arg;
    uint8_t *buf = malloc(256 * KIB);
    uint64_t size = layer_size(r->own);
    for (uint64_t offset = 0; offset < size; offset += 256 * KIB) {
        assert_int_equal(reader_read(r, buf, offset, 256 * KIB), 0);
        assert_true(pattern_check(buf, offset, 256 * KIB, 4));
    }
    free(buf);
    return NULL;
}

static void test_misses_are_coalesced(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 24 * MIB, 4);
    image_write(&im, 0, im.size_bytes);
    struct cache_service *s = service_make(64 * MIB, NULL);
    struct reader r[6];
    pthread_t thread[6];
    for (unsigned i = 0; i < 6; i++)
        reader_open(&r[i], im.path, service_channel(s, im.path));
    for (unsigned i = 0; i < 6; i++)
        pthread_create(&thread[i], NULL, storm_body, &r[i]);
    for (unsigned i = 0; i < 6; i++)
        pthread_join(thread[i], NULL);
    struct cache_base_stats b = service_base_stats(s, NULL);
    assert_int_equal(b.storage_read_bytes, im.size_bytes);
    assert_int_equal(b.filled_bytes, im.size_bytes);
    assert_int_equal(b.cached_bytes, im.size_bytes);
    assert_int_equal(b.clients, 6);
    for (unsigned i = 0; i < 6; i++)
        reader_close(&r[i]);
    cache_service_stop(s);
    image_drop(&im);
}

/* What is in flight at once, from one thread: deterministic. */
static void test_coalescing_is_counted(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, MIB, 5);
    image_write(&im, 0, im.size_bytes);
    struct cache_service *s = service_make(64 * MIB, NULL);
    struct reader r[3];
    struct reader_req q[3];
    static uint8_t buf[3][64 * KIB];
    for (unsigned i = 0; i < 3; i++)
        reader_open(&r[i], im.path, service_channel(s, im.path));
    for (unsigned i = 0; i < 3; i++)
        reader_submit(&r[i], &q[i], buf[i], 128 * KIB, 64 * KIB);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(reader_wait(&r[i]), 0);
        assert_true(pattern_check(buf[i], 128 * KIB, 64 * KIB, 5));
    }
    struct cache_base_stats b = service_base_stats(s, NULL);
    assert_int_equal(b.storage_read_bytes, 64 * KIB);
    assert_int_equal(b.fills, 3);
    for (unsigned i = 0; i < 3; i++)
        reader_close(&r[i]);
    cache_service_stop(s);
    image_drop(&im);
}

static void test_random_misses_read_no_more_than_asked(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 64 * MIB, 6);
    image_write(&im, 0, im.size_bytes);
    struct cache_service *s = service_make(128 * MIB, NULL);
    struct reader r;
    reader_open(&r, im.path, service_channel(s, im.path));
    uint8_t buf[4096];
    for (uint64_t i = 0; i < 200; i++) { /* far from each other */
        uint64_t offset = i * 37 % 256 * 256 * KIB + 12 * KIB;
        assert_int_equal(reader_read(&r, buf, offset, sizeof buf), 0);
        assert_true(pattern_check(buf, offset, sizeof buf, 6));
    }
    assert_int_equal(service_base_stats(s, NULL).storage_read_bytes, 200 * 4096);
    /* A second miss in a chunk brings the rest of it, when it comes soon. */
    assert_int_equal(reader_read(&r, buf, 16 * KIB, sizeof buf), 0);
    assert_int_equal(service_base_stats(s, NULL).storage_read_bytes, 201 * 4096);
    assert_int_equal(reader_read(&r, buf, 24 * KIB, sizeof buf), 0);
    assert_int_equal(service_base_stats(s, NULL).storage_read_bytes, 199 * 4096 + 64 * KIB);
    assert_int_equal(reader_try(&r, buf, 60 * KIB, sizeof buf), 0);
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
}

static void test_sequential_is_read_ahead(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 32 * MIB, 7);
    image_write(&im, 0, im.size_bytes);
    struct cache_service *s = service_make(128 * MIB, NULL);
    struct reader r;
    reader_open(&r, im.path, service_channel(s, im.path));
    static uint8_t buf[64 * KIB];
    for (uint64_t offset = 0; offset < 16 * MIB; offset += sizeof buf) {
        assert_int_equal(reader_read(&r, buf, offset, sizeof buf), 0);
        assert_true(pattern_check(buf, offset, sizeof buf, 7));
    }
    struct cache_base_stats b = service_base_stats(s, NULL);
    assert_true(b.readahead_bytes > 8 * MIB);
    assert_true(b.fills < 16 * MIB / sizeof buf);
    assert_in_range(b.storage_read_bytes, 16 * MIB, 16 * MIB + 2 * MIB + 64 * KIB);
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
}

static void test_budget_is_honoured(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 96 * MIB, 8);
    image_write(&im, 0, im.size_bytes);
    struct cache_service *s = service_make(16 * MIB, NULL);
    struct reader r;
    reader_open(&r, im.path, service_channel(s, im.path));
    uint8_t *buf = malloc(MIB);
    struct cache_service_stats whole;
    for (unsigned round = 0; round < 2; round++) {
        for (uint64_t offset = 0; offset < im.size_bytes; offset += MIB) {
            assert_int_equal(reader_read(&r, buf, offset, MIB), 0);
            assert_true(pattern_check(buf, offset, MIB, 8));
            service_base_stats(s, &whole);
            assert_in_range(whole.used_bytes, 0, 16 * MIB);
        }
    }
    struct cache_base_stats b = service_base_stats(s, NULL);
    assert_true(b.evicted_bytes > 100 * MIB);
    /* A larger one is used, and a smaller one gives the memory back. */
    cache_service_set_budget(s, 64 * MIB);
    for (uint64_t offset = 0; offset < 40 * MIB; offset += MIB)
        assert_int_equal(reader_read(&r, buf, offset, MIB), 0);
    assert_true(service_base_stats(s, NULL).cached_bytes > 35 * MIB);
    cache_service_set_budget(s, 0);
    for (unsigned i = 0; i < 2000; i++) {
        service_base_stats(s, &whole);
        if (whole.used_bytes <= CACHE_BUDGET_MIN_BYTES) break;
        usleep(1000);
    }
    assert_in_range(whole.used_bytes, 0, CACHE_BUDGET_MIN_BYTES);
    assert_int_equal(cache_service_drop(s, "elsewhere"), 0);
    assert_int_equal(cache_service_drop(s, im.path), 1);
    service_base_stats(s, &whole);
    assert_int_equal(service_base_stats(s, NULL).cached_bytes, 0);
    assert_in_range(whole.used_bytes, 0, 64 * KIB);
    assert_int_equal(reader_try(&r, buf, 0, 4096), -EAGAIN);
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
    free(buf);
}

static void test_hot_set_survives_a_scan(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 160 * MIB, 9);
    image_write(&im, 0, im.size_bytes);
    struct cache_service *s = service_make(32 * MIB, NULL);
    struct reader r;
    reader_open(&r, im.path, service_channel(s, im.path));
    uint8_t *buf = malloc(64 * KIB);
    /* 16 MiB are read again and again while other things come by, then 112 MiB go by once. */
    for (unsigned round = 0; round < 4; round++) {
        for (uint64_t offset = 0; offset < 16 * MIB; offset += 64 * KIB)
            assert_int_equal(reader_read(&r, buf, offset, 64 * KIB), 0);
        for (uint64_t i = 0; i < 8 * MIB; i += 64 * KIB)
            assert_int_equal(reader_read(&r, buf, 16 * MIB + round * 8 * MIB + i, 64 * KIB), 0);
    }
    for (uint64_t offset = 48 * MIB; offset < im.size_bytes; offset += 64 * KIB)
        assert_int_equal(reader_read(&r, buf, offset, 64 * KIB), 0);
    unsigned hits = 0;
    for (uint64_t offset = 0; offset < 16 * MIB; offset += 64 * KIB)
        hits += reader_try(&r, buf, offset, 64 * KIB) == 0;
    assert_in_range(hits, 256 * 9 / 10, 256);
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
    free(buf);
}

static void test_storage_errors(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 4 * MIB, 10);
    image_write(&im, 0, im.size_bytes);
    struct fault_plan *plan = fault_plan_new(1);
    fault_plan_add(
        plan, &(struct fault_rule){
                  .action = FAULT_FAIL, .ops = FAULT_READS, .offset_bytes = MIB, .length_bytes = 4096, .count = 3});
    struct cache_service *s = service_make(64 * MIB, fault_plan_maker(plan));
    struct reader r;
    reader_open(&r, im.path, service_channel(s, im.path));
    static uint8_t buf[128 * KIB];
    /* The service cannot; the reader reads it by itself. */
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(reader_read(&r, buf, MIB, sizeof buf), 0);
        assert_true(pattern_check(buf, MIB, sizeof buf, 10));
        assert_int_equal(atomic_load(&reader_counters(&r)->direct_bytes), (i + 1) * sizeof buf);
    }
    assert_int_equal(service_base_stats(s, NULL).errors, 3);
    /* Later ones are tried again, and others were never concerned. */
    assert_int_equal(reader_read(&r, buf, MIB, sizeof buf), 0);
    assert_true(pattern_check(buf, MIB, sizeof buf, 10));
    assert_int_equal(reader_read(&r, buf, 2 * MIB, sizeof buf), 0);
    assert_int_equal(atomic_load(&reader_counters(&r)->direct_bytes), 3 * sizeof buf);
    assert_int_equal(atomic_load(&reader_counters(&r)->fill_bytes), 2 * sizeof buf);
    reader_close(&r);
    cache_service_stop(s);
    fault_plan_free(plan);
    image_drop(&im);
}

static int try_connect(struct cache_service *s, const char *path, struct errmsg *e)
{
    struct cache_layer_want want = {.fd = open(path, O_RDONLY | O_CLOEXEC), .path = path, .format = DISK_FORMAT_RAW};
    int fd = -1;
    int ret = cache_service_connect(s, &want, 1, &fd, 1, e);
    assert_int_equal(want.fd, -1);
    if (fd >= 0) close(fd);
    return ret;
}

static void test_a_base_that_changes(void **state)
{
    (void)state;
    struct image im;
    struct errmsg e = {""};
    image_make(&im, 2 * MIB, 11);
    image_write(&im, 0, im.size_bytes);
    struct cache_service *s = service_make(64 * MIB, NULL);
    struct reader r;
    static uint8_t buf[64 * KIB];
    reader_open(&r, im.path, service_channel(s, im.path));
    assert_int_equal(reader_read(&r, buf, 0, sizeof buf), 0);
    usleep(20000); /* file times have the resolution of a tick */
    im.seed = 12;
    image_write(&im, 0, im.size_bytes);
    assert_int_equal(try_connect(s, im.path, &e), -ESTALE);
    assert_non_null(strstr(e.text, im.path));
    /* Within a second the service sees it by itself and stops handing out the old content. */
    for (unsigned i = 0; i < 300 && reader_try(&r, buf, 0, sizeof buf) == 0; i++)
        usleep(10000);
    assert_int_equal(reader_read(&r, buf, 0, sizeof buf), 0);
    assert_true(pattern_check(buf, 0, sizeof buf, 12));
    assert_true(atomic_load(&reader_counters(&r)->direct_bytes) > 0);
    reader_close(&r);
    /* Nobody uses it any more: it is opened anew. */
    for (unsigned i = 0; i < 300 && service_base_stats(s, NULL).clients; i++)
        usleep(10000);
    reader_open(&r, im.path, service_channel(s, im.path));
    assert_int_equal(reader_read(&r, buf, 0, sizeof buf), 0);
    assert_true(pattern_check(buf, 0, sizeof buf, 12));
    assert_int_equal(atomic_load(&reader_counters(&r)->direct_bytes), 0);
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
}

static unsigned base_count(struct cache_service *s)
{
    struct cache_service_stats whole;
    service_base_stats(s, &whole);
    return (unsigned)whole.base_count;
}

static void test_idle_layers(void **state)
{
    (void)state;
    struct image im[CACHE_BASES_IDLE_MAX + 3];
    struct cache_service *s = service_make(64 * MIB, NULL);
    static uint8_t buf[64 * KIB];
    for (unsigned i = 0; i < ARRAY_LEN(im); i++) {
        struct reader r;
        image_make(&im[i], MIB, i);
        image_write(&im[i], 0, 64 * KIB);
        reader_open(&r, im[i].path, service_channel(s, im[i].path));
        assert_int_equal(reader_read(&r, buf, 0, sizeof buf), 0);
        reader_close(&r);
    }
    /* The last client's end is noticed by the data thread in its own time. */
    for (unsigned i = 0; i < 300; i++) {
        struct cache_service_stats whole;
        service_base_stats(s, &whole);
        if (whole.channels == 0) break;
        usleep(10000);
    }
    assert_int_equal(base_count(s), ARRAY_LEN(im));
    cache_service_tidy(s);
    assert_int_equal(base_count(s), CACHE_BASES_IDLE_MAX);
    /* Those that stay are still warm. */
    struct reader r;
    reader_open(&r, im[ARRAY_LEN(im) - 1].path, service_channel(s, im[ARRAY_LEN(im) - 1].path));
    assert_int_equal(reader_try(&r, buf, 0, sizeof buf), 0);
    reader_close(&r);
    image_drop(&im[5]);
    cache_service_tidy(s);
    assert_int_equal(base_count(s), CACHE_BASES_IDLE_MAX - 1); /* nobody can want a removed file again */
    cache_service_stop(s);
    for (unsigned i = 0; i < ARRAY_LEN(im); i++)
        image_drop(&im[i]);
}

static void test_past_2_tib(void **state)
{
    (void)state;
    if (THREAD_SANITIZER) skip(); /* it leaves a program too little address space */
    struct image im;
    image_make(&im, 5 * TIB / 2, 13);
    image_write(&im, 0, 64 * KIB);
    image_write(&im, 2 * TIB + 3 * GIB + 512 * KIB, 128 * KIB);
    image_write(&im, im.size_bytes - 4096, 4096);
    struct cache_service *s = service_make(16 * MIB, NULL);
    struct reader r;
    static uint8_t buf[256 * KIB];
    reader_open(&r, im.path, service_channel(s, im.path));
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(reader_read(&r, buf, 2 * TIB + 3 * GIB + 512 * KIB, 128 * KIB), 0);
        assert_true(pattern_check(buf, 2 * TIB + 3 * GIB + 512 * KIB, 128 * KIB, 13));
        assert_int_equal(reader_read(&r, buf, 2 * TIB + 3 * GIB, sizeof buf), 0);
        assert_true(all_zero(buf, sizeof buf));
        assert_int_equal(reader_read(&r, buf, im.size_bytes - 8192, 8192), 0);
        assert_true(all_zero(buf, 4096));
        assert_true(pattern_check(buf + 4096, im.size_bytes - 4096, 4096, 13));
    }
    /* All over it: what is known of nothing stays bounded too. */
    struct cache_service_stats whole;
    for (uint64_t offset = 0; offset + 4096 <= im.size_bytes; offset += 512 * MIB)
        assert_int_equal(reader_read(&r, buf, offset, 4096), 0);
    service_base_stats(s, &whole);
    assert_in_range(whole.used_bytes, 0, 16 * MIB);
    assert_int_equal(atomic_load(&reader_counters(&r)->direct_bytes), 0);
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
}

static void test_connect_refuses(void **state)
{
    (void)state;
    struct errmsg e = {""};
    struct image im;
    image_make(&im, MIB, 1);
    struct cache_service *s = service_make(64 * MIB, NULL);
    int fd[CACHE_SESSION_CHANNELS_MAX + 1];
    struct cache_layer_want wants[64];
    for (unsigned i = 0; i < 64; i++)
        wants[i] = (struct cache_layer_want){.fd = open("/dev/null", O_RDONLY), .path = "x", .format = DISK_FORMAT_RAW};
    assert_int_equal(cache_service_connect(s, wants, 64, fd, 1, &e), -EINVAL);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(wants[i].fd, -1);
    assert_int_equal(cache_service_connect(s, wants, 0, fd, 1, &e), -EINVAL);
    struct cache_layer_want two[2] = {{open(im.path, O_RDONLY), im.path, DISK_FORMAT_RAW},
                                      {open("/dev/null", O_RDONLY), "nothing here", DISK_FORMAT_RAW}};
    assert_true(cache_service_connect(s, two, 2, fd, 2, &e) < 0);
    assert_non_null(strstr(e.text, "nothing here"));
    assert_int_equal(fd[0], -1);
    assert_int_equal(two[0].fd, -1);
    int again = open(im.path, O_RDONLY);
    assert_true(again >= 0);
    two[0].fd = again;
    assert_int_equal(cache_service_connect(s, two, 1, fd, CACHE_SESSION_CHANNELS_MAX + 1, &e), -EINVAL);
    cache_service_stop(s);
    image_drop(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_equal_the_image),
        cmocka_unit_test(test_scattered_buffers),
        cmocka_unit_test(test_other_operations),
        cmocka_unit_test(test_misses_are_coalesced),
        cmocka_unit_test(test_coalescing_is_counted),
        cmocka_unit_test(test_random_misses_read_no_more_than_asked),
        cmocka_unit_test(test_sequential_is_read_ahead),
        cmocka_unit_test(test_budget_is_honoured),
        cmocka_unit_test(test_hot_set_survives_a_scan),
        cmocka_unit_test(test_storage_errors),
        cmocka_unit_test(test_a_base_that_changes),
        cmocka_unit_test(test_idle_layers),
        cmocka_unit_test(test_past_2_tib),
        cmocka_unit_test(test_connect_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
