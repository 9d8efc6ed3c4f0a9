/* SPDX-License-Identifier: Apache-2.0 */
/* Huge pages: made of what is cached whole, read while they are made, given back when they are evicted. */
#include "cache/test_util.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define IMAGE_BYTES (48 * MIB)
#define WAIT_MS 60000u

/* Does this kernel make huge pages of a memfd when asked to? */
static bool kernel_collapses(void)
{
    int fd = memfd_create("probe", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, CACHE_HUGE_BYTES), 0);
    char *room = mmap(NULL, 2 * CACHE_HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(room, MAP_FAILED);
    char *at = room + (align_up((uintptr_t)room, CACHE_HUGE_BYTES) - (uintptr_t)room);
    assert_ptr_not_equal(mmap(at, CACHE_HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), MAP_FAILED);
    memset(at, 1, CACHE_HUGE_BYTES);
    bool can = madvise(at, CACHE_HUGE_BYTES, MADV_COLLAPSE) == 0;
    munmap(room, 2 * CACHE_HUGE_BYTES);
    close(fd);
    return can;
}

/* What the layer's memory really takes: the service is in this process, so its memfd is among our descriptors. */
static uint64_t data_resident_bytes(void)
{
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    uint64_t bytes = 0;
    for (const struct dirent *d; (d = readdir(dir));) {
        char name[300], target[64] = "";
        struct stat st;
        snprintf(name, sizeof name, "/proc/self/fd/%s", d->d_name);
        if (readlink(name, target, sizeof target - 1) < 0 || !strstr(target, "creedence-cache-data")) continue;
        if (stat(name, &st) == 0) bytes = (uint64_t)st.st_blocks * 512;
    }
    closedir(dir);
    return bytes;
}

/* Reads all the time, from a thread and through a mapping of its own. */
struct verifier {
    pthread_t thread;
    const struct image *image;
    _Atomic bool stop;
    _Atomic bool ready;
    struct reader
        reader; /* opened by the test, used by the thread: one that asserts in a thread of its own cannot fail well */
    uint64_t reads, wrong;
};

static void *verify(void *arg)
{
    struct verifier *v = arg;
    static uint8_t buf[64 * KIB];
    struct reader *r = &v->reader;
    uint64_t seed = 5;
    while (!atomic_load(&v->stop)) {
        uint64_t bytes = (rnd(&seed) % 16 + 1) * 4 * KIB;
        uint64_t offset = rnd(&seed) % ((v->image->size_bytes - bytes) / 512) * 512;
        if (reader_read(r, buf, offset, bytes) < 0 || !pattern_check(buf, offset, bytes, v->image->seed)) v->wrong++;
        if (++v->reads > 100) atomic_store(&v->ready, true);
    }
    reader_close(r); /* here: its engine is this thread's */
    return NULL;
}

static void read_all(struct reader *r, const struct image *im)
{
    static uint8_t buf[MIB];
    for (uint64_t offset = 0; offset < im->size_bytes; offset += sizeof buf) {
        uint64_t bytes = min_u64(sizeof buf, im->size_bytes - offset);
        assert_int_equal(reader_read(r, buf, offset, bytes), 0);
        assert_true(pattern_check(buf, offset, bytes, im->seed));
    }
}

static void wait_huge(struct cache_service *s, uint64_t bytes)
{
    for (unsigned ms = 0; service_base_stats(s, NULL).huge_bytes != bytes; ms += 10) {
        if (ms >= WAIT_MS)
            fail_msg("%llu bytes in huge pages, not %llu", (unsigned long long)service_base_stats(s, NULL).huge_bytes,
                     (unsigned long long)bytes);
        usleep(10000);
    }
}

static void test_made_read_and_given_back(void **state)
{
    (void)state;
    if (!kernel_collapses()) skip();
    struct image im;
    image_make(&im, IMAGE_BYTES + 700 * KIB, 3); /* the end fills no huge page */
    image_write(&im, 0, im.size_bytes);
    struct cache_service *s = service_make(256 * MIB, NULL);
    struct reader r;
    reader_open(&r, im.path, service_channel(s, im.path));
    struct verifier v = {.image = &im};
    reader_open(&v.reader, im.path, service_channel(s, im.path));
    assert_int_equal(pthread_create(&v.thread, NULL, verify, &v), 0);
    read_all(&r, &im);
    wait_huge(s, IMAGE_BYTES);
    read_all(&r, &im);
    assert_true(data_resident_bytes() <= service_base_stats(s, NULL).cached_bytes);

    /* Evicted, also in part, while it is read: what goes is given back to the host. */
    cache_service_set_budget(s, 24 * MIB);
    struct cache_service_stats whole;
    struct cache_base_stats b;
    for (unsigned ms = 0; b = service_base_stats(s, &whole), whole.used_bytes > 24 * MIB; ms += 10) {
        assert_true(ms < WAIT_MS);
        usleep(10000);
    }
    assert_true(b.huge_bytes <= b.cached_bytes);
    while (!atomic_load(&v.ready))
        usleep(1000);
    atomic_store(&v.stop, true);
    pthread_join(v.thread, NULL);
    assert_int_equal(v.wrong, 0);
    for (unsigned ms = 0; data_resident_bytes() > 26 * MIB; ms += 10) { /* the audit takes what a split left */
        assert_true(ms < WAIT_MS);
        usleep(10000);
    }

    /* And made again when there is room. */
    cache_service_set_budget(s, 256 * MIB);
    read_all(&r, &im);
    wait_huge(s, IMAGE_BYTES);
    cache_service_drop(s, NULL);
    b = service_base_stats(s, NULL);
    assert_int_equal(b.huge_bytes, 0);
    assert_int_equal(b.cached_bytes, 0);
    assert_int_equal(data_resident_bytes(), 0);
    read_all(&r, &im);
    reader_close(&r);
    cache_service_stop(s);
    image_drop(&im);
}

/* Of what is whole only; not when it is switched off; not in a cache that is nearly full. */
static void test_where_it_is_made(void **state)
{
    (void)state;
    static const struct {
        uint64_t budget_bytes, huge_bytes;
        bool small_pages;
    } rounds[] = {{256 * MIB, 12 * MIB, false}, {256 * MIB, 0, true}, {16 * MIB, 0, false}};
    if (!kernel_collapses()) skip();
    struct image im;
    image_make(&im, 17 * MIB, 4);
    image_write(&im, 0, 4 * KIB * 511); /* a block short of whole; then a hole; then six whole ones */
    image_write(&im, 4 * MIB, 13 * MIB);
    for (unsigned i = 0; i < ARRAY_LEN(rounds); i++) {
        const struct cache_service_config config = {.budget_bytes = rounds[i].budget_bytes,
                                                    .small_pages = rounds[i].small_pages};
        struct cache_service *s;
        struct errmsg e;
        assert_int_equal(cache_service_start(&s, &config, &e), 0);
        struct reader r;
        reader_open(&r, im.path, service_channel(s, im.path));
        static uint8_t buf[64 * KIB];
        for (uint64_t offset = 0; offset < im.size_bytes; offset += sizeof buf)
            assert_int_equal(reader_read(&r, buf, offset, sizeof buf), 0);
        if (rounds[i].huge_bytes) wait_huge(s, rounds[i].huge_bytes);
        usleep(2500000); /* two ticks */
        assert_int_equal(service_base_stats(s, NULL).huge_bytes, rounds[i].huge_bytes);
        reader_close(&r);
        cache_service_stop(s);
    }
    image_drop(&im);
}

/* Wait until some is made and more is to come; false when it was over before we looked. */
static bool in_the_middle(struct cache_service *s)
{
    for (unsigned us = 0; us < WAIT_MS * 1000; us += 50) {
        uint64_t bytes = service_base_stats(s, NULL).huge_bytes;
        if (bytes) return bytes < IMAGE_BYTES;
        usleep(50);
    }
    fail_msg("no huge page was made");
    return false;
}

/* The service is stopped, the layer dropped, the budget cut while the thread is at it. */
static void test_interrupted(void **state)
{
    (void)state;
    if (!kernel_collapses()) skip();
    struct image im;
    image_make(&im, IMAGE_BYTES, 6);
    image_write(&im, 0, im.size_bytes);
    unsigned met[3] = {0};
    for (unsigned round = 0; round < 6; round++) {
        struct cache_service *s = service_make(256 * MIB, NULL);
        struct reader r;
        reader_open(&r, im.path, service_channel(s, im.path));
        read_all(&r, &im);
        met[round % 3] += in_the_middle(s);
        if (round % 3 == 1) cache_service_drop(s, NULL);
        if (round % 3 == 2) cache_service_set_budget(s, 24 * MIB);
        if (round % 3) {
            read_all(&r, &im);
            cache_service_set_budget(s, 256 * MIB);
            read_all(&r, &im);
            wait_huge(s, IMAGE_BYTES); /* it goes on after all that */
            read_all(&r, &im);
        }
        reader_close(&r);
        cache_service_stop(s);
    }
    image_drop(&im);
    if (!met[0] || !met[1] || !met[2]) skip(); /* too slow a machine to look in time */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_made_read_and_given_back),
        cmocka_unit_test(test_where_it_is_made),
        cmocka_unit_test(test_interrupted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
