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
    int channel_fd;
    _Atomic bool stop;
    _Atomic bool ready;
    uint64_t reads, wrong;
};

static void *verify(void *arg)
{
    struct verifier *v = arg;
    static uint8_t buf[64 * KIB];
    struct reader r;
    uint64_t seed = 5;
    reader_open(&r, v->image->path, v->channel_fd);
    while (!atomic_load(&v->stop)) {
        uint64_t bytes = (rnd(&seed) % 16 + 1) * 4 * KIB;
        uint64_t offset = rnd(&seed) % ((v->image->size_bytes - bytes) / 512) * 512;
        if (reader_read(&r, buf, offset, bytes) < 0 || !pattern_check(buf, offset, bytes, v->image->seed)) v->wrong++;
        if (++v->reads > 100) atomic_store(&v->ready, true);
    }
    reader_close(&r);
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
    struct verifier v = {.image = &im, .channel_fd = service_channel(s, im.path)};
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

/* Not of what has holes, not when it is switched off, not in a cache that is nearly full. */
static void test_not_made(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, 16 * MIB, 4);
    image_write(&im, 0, 4 * KIB * 511);
    image_write(&im, 4 * MIB, 12 * MIB);
    for (unsigned round = 0; round < 2; round++) {
        const struct cache_service_config config = {.budget_bytes = round ? 16 * MIB : 256 * MIB,
                                                    .small_pages = !round};
        struct cache_service *s;
        struct errmsg e;
        assert_int_equal(cache_service_start(&s, &config, &e), 0);
        struct reader r;
        reader_open(&r, im.path, service_channel(s, im.path));
        static uint8_t buf[64 * KIB];
        for (uint64_t offset = 0; offset < im.size_bytes; offset += sizeof buf)
            assert_int_equal(reader_read(&r, buf, offset, sizeof buf), 0);
        usleep(2500000); /* two ticks */
        assert_int_equal(service_base_stats(s, NULL).huge_bytes, 0);
        reader_close(&r);
        cache_service_stop(s);
    }
    image_drop(&im);
}

/* Stopping the service while it is at it. */
static void test_stop_meanwhile(void **state)
{
    (void)state;
    struct image im;
    image_make(&im, IMAGE_BYTES, 6);
    image_write(&im, 0, im.size_bytes);
    for (unsigned wait_ms = 900; wait_ms <= 1100; wait_ms += 40) { /* the tick comes after a second */
        struct cache_service *s = service_make(256 * MIB, NULL);
        struct reader r;
        reader_open(&r, im.path, service_channel(s, im.path));
        read_all(&r, &im);
        usleep(wait_ms * 1000);
        reader_close(&r);
        cache_service_stop(s);
    }
    image_drop(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_made_read_and_given_back),
        cmocka_unit_test(test_not_made),
        cmocka_unit_test(test_stop_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
