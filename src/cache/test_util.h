/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the tests of this folder: base images whose content is a function of the offset, and readers: an engine, the
 * image opened directly and through the cache, and a blocking read. The uncached read is the oracle.
 */
#ifndef CACHE_TEST_UTIL_H
#define CACHE_TEST_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/iov.h"
#include "cache/client.h"
#include "cache/service.h"
#include "disk/file.h"
#include "loop/clock.h"

#if defined(__has_feature)
#define THREAD_SANITIZER __has_feature(thread_sanitizer)
#elif defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER 1
#else
#define THREAD_SANITIZER 0
#endif

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)
#define TIB (GIB * 1024)

static inline uint64_t mix(uint64_t v)
{
    v = (v ^ v >> 31) * UINT64_C(0x7fb5d329728ea185);
    v = (v ^ v >> 27) * UINT64_C(0x81dadef4bc2dd44d);
    return v ^ v >> 33;
}

static inline uint64_t rnd(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    return mix(*state);
}

/* Content of an image at offset (a multiple of 8). */
static inline void pattern_fill(void *buf, uint64_t offset, uint64_t bytes, uint64_t seed)
{
    uint64_t *p = buf;
    for (uint64_t i = 0; i < bytes / 8; i++)
        p[i] = mix(offset + i * 8 + seed);
}

static inline bool pattern_check(const void *buf, uint64_t offset, uint64_t bytes, uint64_t seed)
{
    const uint64_t *p = buf;
    for (uint64_t i = 0; i < bytes / 8; i++)
        if (p[i] != mix(offset + i * 8 + seed)) return false;
    return true;
}

static inline bool all_zero(const void *buf, uint64_t bytes)
{
    const uint8_t *p = buf;
    return bytes == 0 || (p[0] == 0 && memcmp(p, p + 1, bytes - 1) == 0);
}

struct image {
    char path[64];
    uint64_t size_bytes, seed;
};

/* In the current directory: a real file system, as for the disk's own tests. */
static inline void image_make(struct image *im, uint64_t size_bytes, uint64_t seed)
{
    strcpy(im->path, "cache-image-XXXXXX");
    int fd = mkstemp(im->path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size_bytes), 0);
    close(fd);
    im->size_bytes = size_bytes;
    im->seed = seed;
}

static inline void image_write(const struct image *im, uint64_t offset, uint64_t bytes)
{
    static uint64_t buf[8192];
    int fd = open(im->path, O_WRONLY);
    assert_true(fd >= 0);
    while (bytes) {
        uint64_t n = min_u64(bytes, sizeof buf);
        pattern_fill(buf, offset, n, im->seed);
        assert_int_equal(pwrite(fd, buf, n, (off_t)offset), n);
        offset += n;
        bytes -= n;
    }
    close(fd);
}

static inline void image_drop(struct image *im)
{
    unlink(im->path);
}

static inline struct cache_service *service_make(uint64_t budget_bytes, const struct engine_maker *maker)
{
    struct cache_service *s;
    struct errmsg e = {""};
    const struct cache_service_config config = {.budget_bytes = budget_bytes, .maker = maker};
    int ret = cache_service_start(&s, &config, &e);
    if (ret < 0) fail_msg("%s", e.text);
    return s;
}

/* One channel for one raw image, the only layer. */
static inline int service_channel(struct cache_service *s, const char *path)
{
    struct errmsg e = {""};
    struct cache_layer_want want = {.fd = open(path, O_RDONLY | O_CLOEXEC), .path = path, .format = DISK_FORMAT_RAW};
    assert_true(want.fd >= 0);
    int fd = -1;
    int ret = cache_service_connect(s, &want, 1, &fd, 1, &e);
    if (ret < 0) fail_msg("%s", e.text);
    return fd;
}

struct reader {
    struct engine *engine;
    struct engine_file file;
    struct layer *own, *cached;
    struct cache_client *client;
    struct disk_chans chans;
    unsigned pending;
    int error;
};

static inline void reader_open_format(struct reader *r, const char *path, enum disk_format format, int channel_fd)
{
    struct errmsg e = {""};
    *r = (struct reader){0};
    if (engine_uring_new(&r->engine, 64, &e) < 0 || disk_file_open(&r->file, path, DISK_FILE_NO_LOCK, &e) < 0)
        fail_msg("%s", e.text);
    const struct layer_args args = {.file = &r->file, .maker = &engine_uring_maker};
    if (layer_open(&r->own, format, &args, &e) < 0 || cache_layer_open(&r->cached, r->own, NULL, 0, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(disk_chans_open(&r->chans, &r->cached, 1, r->engine), 0);
    assert_int_equal(cache_client_new(&r->client, r->engine), 0);
    cache_client_join(r->client, r->chans.chan[0]);
    assert_int_equal(cache_client_attach(r->client, channel_fd), 0);
}

static inline void reader_open(struct reader *r, const char *path, int channel_fd)
{
    reader_open_format(r, path, DISK_FORMAT_RAW, channel_fd);
}

static inline void reader_close(struct reader *r)
{
    struct errmsg e = {""};
    disk_chans_close(&r->chans);
    cache_client_free(r->client);
    while (engine_poll(r->engine) > 0)
        ;
    engine_free(r->engine);
    assert_int_equal(r->cached->ops->close(r->cached, &e), 0);
    assert_int_equal(r->own->ops->close(r->own, &e), 0);
    disk_file_close(&r->file);
}

static inline const struct cache_counters *reader_counters(const struct reader *r)
{
    return cache_client_counters(r->chans.chan[0]);
}

struct reader_req {
    struct disk_req req;
    struct reader *reader;
    struct iovec iov;
};

static inline void reader_req_done(struct disk_req *req, int ret)
{
    struct reader *r = container_of(req, struct reader_req, req)->reader;
    if (ret < 0 && r->error == 0) r->error = ret;
    r->pending--;
}

/* Does not complete inside. */
static inline void reader_submit(struct reader *r, struct reader_req *q, void *buf, uint64_t offset, uint64_t bytes)
{
    q->reader = r;
    q->iov = (struct iovec){.iov_base = buf, .iov_len = bytes};
    q->req = (struct disk_req){.op = DISK_READ,
                               .offset_bytes = offset,
                               .length_bytes = bytes,
                               .iov = &q->iov,
                               .iov_count = 1,
                               .done = reader_req_done};
    unsigned before = ++r->pending;
    layer_submit(r->chans.chan[0], &q->req);
    assert_int_equal(r->pending, before);
}

static inline int reader_wait(struct reader *r)
{
    while (r->pending)
        if (engine_sleep(r->engine, 10 * NS_PER_SECOND) < 0) return -EIO;
    int error = r->error;
    r->error = 0;
    return error;
}

static inline int reader_try(struct reader *r, void *buf, uint64_t offset, uint64_t bytes)
{
    const struct iovec iov = {.iov_base = buf, .iov_len = bytes};
    return layer_try_read(r->chans.chan[0], offset, bytes, &iov, 1);
}

/* As a queue thread does: at once if possible. */
static inline int reader_read(struct reader *r, void *buf, uint64_t offset, uint64_t bytes)
{
    int ret = reader_try(r, buf, offset, bytes);
    if (ret != -EAGAIN) return ret;
    struct reader_req q;
    reader_submit(r, &q, buf, offset, bytes);
    return reader_wait(r);
}

static inline struct cache_base_stats service_base_stats(struct cache_service *s, struct cache_service_stats *whole)
{
    struct cache_service_stats st;
    assert_int_equal(cache_service_stats(s, &st), 0);
    struct cache_base_stats b = st.base_count ? st.bases[0] : (struct cache_base_stats){0};
    b.path = NULL;
    if (whole) *whole = st;
    cache_service_stats_clear(&st);
    if (whole) whole->bases = NULL;
    return b;
}

#endif
