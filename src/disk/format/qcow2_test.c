/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 as a layer, case by case: what a random model does not come across. */
#include "disk/format/qcow2_test_util.h"

#include <pthread.h>

#include "base/cleanup.h"
#include "base/log.h"

static const struct disk_options writable = {.flags = DISK_FILE_WRITE};
static const struct disk_options read_only = {0};

static struct qcow2_create_args plain(uint64_t size)
{
    return (struct qcow2_create_args){.size_bytes = size, .version = 3, .cluster_bits = 16, .refcount_order = 4};
}

static void fill(void *buf, size_t bytes, uint64_t seed)
{
    seed = seed * 77 + 1;
    rnd_fill(&seed, buf, bytes);
}

static void must_hold(struct disk *d, uint64_t at, const void *want, uint64_t bytes)
{
    autofree uint8_t *got = aligned_alloc(4096, align_up(bytes, 4096));
    disk_read(d, at, bytes, got);
    for (uint64_t i = 0; i < bytes; i++)
        if (got[i] != ((const uint8_t *)want)[i]) fail_msg("byte 0x%llx is wrong", (unsigned long long)(at + i));
}

static void must_be_zero(struct disk *d, uint64_t at, uint64_t bytes)
{
    autofree uint8_t *zero = calloc(1, bytes);
    must_hold(d, at, zero, bytes);
}

/* Overwrite bytes of an image. */
static void poke(const char *path, uint64_t at, const void *data, size_t bytes)
{
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, bytes, (off_t)at), bytes);
    close(fd);
}

/* ---- creating ---- */

static void new_images_are_what_qemu_img_expects(void **state)
{
    (void)state;
    for (unsigned bits = 9; bits <= 21; bits += 3) {
        for (unsigned order = 0; order <= 6; order += 2) {
            char path[64];
            struct qcow2_create_args args = {
                .size_bytes = 64 * MiB, .version = 3, .cluster_bits = bits, .refcount_order = order};
            image_make(path, &args);
            image_is_sound(path, false);
            unlink(path);
        }
    }
}

static void preallocated_images(void **state)
{
    (void)state;
    for (unsigned how = QCOW2_PREALLOCATE_METADATA; how <= QCOW2_PREALLOCATE_FULL; how++) {
        for (unsigned bits = 9; bits <= 21; bits += 4) {
            char path[64];
            struct disk d;
            struct qcow2_create_args args = {.size_bytes = 9 * MiB + 512,
                                             .version = 3,
                                             .cluster_bits = bits,
                                             .refcount_order = 4,
                                             .preallocate = how};
            image_make(path, &args);
            image_is_sound(path, false);
            disk_open(&d, path, &writable);
            must_be_zero(&d, 0, 9 * MiB + 512);
            assert_int_equal(disk_map(&d, 0, 9 * MiB).kind, DISK_EXTENT_DATA);
            uint8_t buf[4096];
            fill(buf, sizeof buf, bits);
            disk_write(&d, 5 * MiB + 512, sizeof buf, buf);
            disk_close(&d, true);
            image_is_sound(path, false);
            disk_open(&d, path, &read_only);
            must_hold(&d, 5 * MiB + 512, buf, sizeof buf);
            disk_close(&d, true);
            unlink(path);
        }
    }
}

/* ---- allocating ---- */

/* A cluster that is free may hold anything: what a guest does not write of it must not show. */
static void garbage_in_free_clusters_stays_hidden(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    struct qcow2_create_args args = plain(16 * MiB);
    image_make(path, &args);
    autofree uint8_t *garbage = malloc(4 * MiB);
    fill(garbage, 4 * MiB, 1);
    struct stat st;
    stat(path, &st);
    poke(path, (uint64_t)st.st_size, garbage, 4 * MiB);
    disk_open(&d, path, &writable);
    for (uint64_t at = 0; at < 16 * MiB; at += 256 << 10)
        disk_write(&d, at + 4096, 512, garbage);
    for (uint64_t at = 0; at < 16 * MiB; at += 256 << 10) {
        must_be_zero(&d, at, 4096);
        must_hold(&d, at + 4096, garbage, 512);
        must_be_zero(&d, at + 4608, (256 << 10) - 4608);
    }
    disk_close(&d, true);
    image_is_sound(path, false);
    unlink(path);
}

/* Space comes back: writing and discarding for ever does not make the file grow. */
static void discarded_clusters_are_used_again(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    struct stat st;
    struct qcow2_create_args args = plain(64 * MiB);
    image_make(path, &args);
    disk_open(&d, path, &writable);
    autofree uint8_t *buf = malloc(8 * MiB);
    for (unsigned i = 0; i < 16; i++) {
        fill(buf, 8 * MiB, i);
        disk_write(&d, (i % 7) * 8 * MiB, 8 * MiB, buf);
        must_hold(&d, (i % 7) * 8 * MiB, buf, 8 * MiB);
        assert_int_equal(disk_io(&d, DISK_DISCARD, 0, (i % 7) * 8 * MiB, 8 * MiB, NULL), 0);
        must_be_zero(&d, (i % 7) * 8 * MiB, 8 * MiB);
        disk_flush(&d);
    }
    disk_close(&d, true);
    image_is_sound(path, false);
    stat(path, &st);
    assert_true((uint64_t)st.st_blocks * 512 < 4 * MiB);
    assert_true((uint64_t)st.st_size < 200 * MiB);
    unlink(path);
}

/* An engine that holds reads back until it is told otherwise. */
struct holding {
    struct engine base;
    struct engine *inner;
    struct list held;
    bool hold;
};

static struct holding *holding_engine;

static void holding_submit(struct engine *e, struct engine_io *io)
{
    struct holding *h = container_of(e, struct holding, base);
    if (h->hold && io->op == ENGINE_READ) list_push_back(&h->held, &io->priv.node);
    else engine_submit(h->inner, io);
}

static int holding_poll(struct engine *e, uint64_t wait_ns)
{
    struct holding *h = container_of(e, struct holding, base);
    unsigned ran = engine_run_deferred(e);
    return (int)ran + h->inner->ops->poll(h->inner, ran ? 0 : wait_ns);
}

static int holding_watch(struct engine *e, struct engine_watch *w)
{
    return engine_watch(container_of(e, struct holding, base)->inner, w);
}

static void holding_unwatch(struct engine *e, struct engine_watch *w)
{
    engine_unwatch(container_of(e, struct holding, base)->inner, w);
}

static void holding_free(struct engine *e)
{
    struct holding *h = container_of(e, struct holding, base);
    engine_free(h->inner);
    free(h);
}

static void holding_release(struct holding *h)
{
    struct list *node;
    h->hold = false;
    while ((node = list_pop_front(&h->held)))
        engine_submit(h->inner, container_of(node, struct engine_io, priv.node));
}

static int holding_make(void *arg, struct engine **out, struct errmsg *e)
{
    static const struct engine_ops ops = {.submit = holding_submit,
                                          .poll = holding_poll,
                                          .watch = holding_watch,
                                          .unwatch = holding_unwatch,
                                          .free = holding_free};
    (void)arg;
    struct holding *h = calloc(1, sizeof *h);
    h->base.ops = &ops;
    list_init(&h->base.deferred);
    list_init(&h->held);
    holding_engine = h;
    *out = &h->base;
    return engine_uring_new(&h->inner, 32, e);
}

static const struct engine_maker holding_maker = {.make = holding_make};

/* A read on its way to a cluster that is discarded meanwhile finds the old content or zeroes, never somebody else's. */
static void reads_in_flight_keep_their_clusters(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    struct qcow2_create_args args = plain(64 * MiB);
    image_make(path, &args);
    struct disk_options o = {.flags = DISK_FILE_WRITE, .chan_maker = &holding_maker};
    disk_open(&d, path, &o);
    autofree uint8_t *secret = malloc(4 * MiB);
    uint8_t old[65536], got[65536];
    fill(old, sizeof old, 1);
    memset(secret, 0xee, 4 * MiB);
    disk_write(&d, 0, sizeof old, old);
    disk_flush(&d);
    struct sync_req read;
    holding_engine->hold = true;
    disk_begin(&d, &read, DISK_READ, 0, 0, sizeof got, got);
    assert_int_equal(disk_io(&d, DISK_DISCARD, 0, 0, sizeof old, NULL), 0);
    for (unsigned i = 0; i < 8; i++) {
        disk_flush(&d);
        disk_write(&d, (1 + i) * 4 * MiB, 4 * MiB, secret);
    }
    assert_false(read.finished);
    holding_release(holding_engine);
    assert_int_equal(disk_wait(&d, &read), 0);
    assert_memory_equal(got, old, sizeof old);
    disk_close(&d, true);
    image_is_sound(path, false);
    unlink(path);
}

/* ---- block devices ---- */

/* An image on a device has the device's end: what is discarded there is used again, even by a write that has to
 * wait for it, and what does not fit fails alone. */
static void on_a_block_device(unsigned sector_bytes)
{
    struct scratch s;
    struct errmsg e = {""};
    struct layer *l;
    struct disk d;
    if (!scratch_open_loop(&s, 24 * MiB, sector_bytes, DISK_FILE_WRITE | DISK_FILE_DIRECT)) {
        skip();
        return;
    }
    struct qcow2_create_args args = plain(64 * MiB);
    d.engine = new_engine(32);
    uint8_t *buf = aligned_alloc(4096, 4 * MiB);
    memset(buf, 0x55, 4 * MiB); /* what was on the device before */
    for (uint64_t at = 0; at < 24 * MiB; at += 4 * MiB)
        assert_int_equal(engine_write_now(d.engine, &s.file, buf, at, 4 * MiB), 0);
    if (qcow2_create(d.engine, &s.file, &args, &e) < 0) fail_msg("%s", e.text);
    struct layer_args open = {.file = &s.file, .writable = true, .maker = &engine_uring_maker};
    if (layer_qcow2_open(&l, &open, &e) < 0) fail_msg("%s", e.text);
    d.layer = l;
    assert_int_equal(l->ops->chan_open(l, d.engine, NULL, &d.chan), 0);
    fill(buf, 4 * MiB, 3);
    disk_write(&d, 40 * MiB + 8192, 4096, buf);
    must_be_zero(&d, 40 * MiB, 8192);
    must_hold(&d, 40 * MiB + 8192, buf, 4096);
    for (unsigned round = 0; round < 6; round++) {
        uint64_t at = 0;
        while (disk_io(&d, DISK_WRITE, 0, at, 4 * MiB, buf) == 0)
            at += 4 * MiB;
        assert_true(at >= 16 * MiB && at <= 24 * MiB);
        must_hold(&d, at - 4 * MiB, buf, 4 * MiB);
        assert_int_equal(disk_io(&d, DISK_DISCARD, 0, 0, 32 * MiB, NULL), 0);
    }
    must_hold(&d, 40 * MiB + 8192, buf, 4096);
    l->ops->chan_close(d.chan);
    if (l->ops->close(l, &e) < 0) fail_msg("%s", e.text);
    engine_free(d.engine);
    image_is_sound(s.device, false);
    scratch_drop(&s);
    free(buf);
}

static void block_device_with_small_sectors(void **state)
{
    (void)state;
    on_a_block_device(512);
}

static void block_device_with_large_sectors(void **state)
{
    (void)state;
    on_a_block_device(4096);
}

/* ---- sizes ---- */

static void sixteen_tebibytes(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    uint64_t size = UINT64_C(16) << 40;
    struct qcow2_create_args args = plain(size);
    uint8_t buf[8192];
    fill(buf, sizeof buf, 3);
    image_make(path, &args);
    disk_open(&d, path, &writable);
    assert_int_equal(layer_size(d.layer), size);
    disk_write(&d, size - sizeof buf, sizeof buf, buf);
    disk_write(&d, (UINT64_C(2) << 40) - 4096, sizeof buf, buf);
    must_hold(&d, size - sizeof buf, buf, sizeof buf);
    struct disk_extent x = disk_map(&d, 0, size);
    assert_int_equal(x.kind, DISK_EXTENT_BELOW);
    assert_true(x.length_bytes >= GiB);
    assert_int_equal(disk_io(&d, DISK_DISCARD, 0, 0, size - 65536, NULL), 0);
    disk_close(&d, true);
    image_is_sound(path, false);
    disk_open(&d, path, &writable);
    must_hold(&d, size - sizeof buf, buf, sizeof buf);
    must_be_zero(&d, (UINT64_C(2) << 40) - 4096, sizeof buf);
    disk_close(&d, true);
    struct stat st;
    stat(path, &st);
    assert_true(st.st_size < 8 * (off_t)MiB);
    unlink(path);
}

struct resizing {
    struct layer *layer;
    uint64_t size;
    struct errmsg e;
    _Atomic bool finished;
    int ret;
};

static void *resize_thread(void *arg)
{
    struct resizing *r = arg;
    r->ret = r->layer->ops->resize(r->layer, r->size, &r->e);
    r->finished = true;
    return NULL;
}

/* As the control thread does it, while this one goes on serving. */
static int resize(struct disk *d, uint64_t size)
{
    struct resizing r = {.layer = d->layer, .size = size};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, resize_thread, &r), 0);
    while (!r.finished)
        engine_sleep(d->engine, 1000000);
    pthread_join(t, NULL);
    if (r.ret < 0) strcpy(d->e.text, r.e.text);
    return r.ret;
}

static void growing(void **state)
{
    (void)state;
    for (unsigned bits = 9; bits <= 21; bits += 4) {
        char path[64], base_path[64];
        struct disk d, base;
        struct errmsg e;
        uint8_t buf[4096];
        struct qcow2_create_args args = {
            .size_bytes = 3 * MiB + 512, .version = 3, .cluster_bits = bits, .refcount_order = 4};
        fill(buf, sizeof buf, bits);
        struct qcow2_create_args base_args = plain(8 * MiB);
        image_make(base_path, &base_args);
        disk_open(&base, base_path, &writable);
        for (uint64_t at = 0; at < 8 * MiB; at += MiB)
            disk_write(&base, at, sizeof buf, buf);
        disk_close(&base, true);
        disk_open(&base, base_path, &read_only);
        args.backing_name = base_path;
        args.backing_format = "qcow2";
        image_make(path, &args);
        disk_open(&d, path, &(struct disk_options){.flags = DISK_FILE_WRITE, .below = &base});
        disk_write(&d, 2 * MiB, sizeof buf, buf);
        for (uint64_t size = 4 * MiB; size <= 64 * MiB; size *= 2) {
            if (resize(&d, size) < 0) fail_msg("%s", d.e.text);
            assert_int_equal(layer_size(d.layer), size);
            must_hold(&d, 2 * MiB, buf, sizeof buf);
            must_be_zero(&d, 3 * MiB + 512, size - 3 * MiB - 512 - 4096); /* though the base has something there */
            disk_write(&d, size - 4096, sizeof buf, buf);
            must_hold(&d, size - 4096, buf, sizeof buf);
            assert_int_equal(disk_io(&d, DISK_WRITE_ZEROES, DISK_REQ_UNMAP, size - MiB, MiB, NULL), 0);
        }
        assert_int_equal(d.layer->ops->resize(d.layer, MiB, &e), -ENOTSUP);
        assert_int_equal(d.layer->ops->resize(d.layer, UINT64_C(1) << 62, &e), -EFBIG);
        assert_int_equal(d.layer->ops->resize(d.layer, 64 * MiB + 1, &e), -EINVAL);
        disk_close(&d, false);
        disk_close(&base, true);
        image_is_sound(path, false);
        unlink(path);
        unlink(base_path);
    }
}

#define DEPTH 32

static void deep_chain(void **state)
{
    (void)state;
    static struct disk d[DEPTH];
    char path[DEPTH][64];
    uint8_t buf[DEPTH][4096];
    for (unsigned i = 0; i < DEPTH; i++) { /* 0 is the bottom */
        struct qcow2_create_args args = plain(8 * MiB);
        args.backing_name = i ? path[i - 1] : NULL;
        args.backing_format = "qcow2";
        image_make(path[i], &args);
        fill(buf[i], 4096, i + 1);
        struct disk_options o = {.flags = DISK_FILE_WRITE, .below = i ? &d[i - 1] : NULL};
        disk_open(&d[i], path[i], &o);
        disk_write(&d[i], i * 131072, 4096, buf[i]);
        disk_write(&d[i], 6 * MiB, 4096, buf[i]);
        /* Closed for writing, and opened again for those above. */
        disk_close(&d[i], i == 0);
        o.flags = i == DEPTH - 1 ? DISK_FILE_WRITE : 0;
        if (i == 0) d[0].engine = NULL;
        disk_open(&d[i], path[i], &o);
    }
    for (unsigned i = 0; i < DEPTH; i++)
        must_hold(&d[DEPTH - 1], i * 131072, buf[i], 4096);
    must_hold(&d[DEPTH - 1], 6 * MiB, buf[DEPTH - 1], 4096);
    must_be_zero(&d[DEPTH - 1], 7 * MiB, 65536);
    disk_write(&d[DEPTH - 1], 512, 512, buf[3]); /* in the cluster of the bottom */
    must_hold(&d[DEPTH - 1], 0, buf[0], 512);
    must_hold(&d[DEPTH - 1], 1024, buf[0] + 1024, 3072);
    for (unsigned i = DEPTH; i-- > 0;)
        disk_close(&d[i], i == 0);
    image_is_sound(path[DEPTH - 1], false);
    for (unsigned i = 0; i < DEPTH; i++)
        unlink(path[i]);
}

/* ---- looking things up ---- */

static void map_agrees_with_qemu_img(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    uint8_t buf[65536];
    struct qcow2_create_args args = plain(64 * MiB);
    fill(buf, sizeof buf, 4);
    image_make(path, &args);
    disk_open(&d, path, &writable);
    disk_write(&d, 3 * MiB, sizeof buf, buf);
    disk_write(&d, 3 * MiB + 65536, sizeof buf, buf);
    disk_write(&d, 20 * MiB, 4096, buf);
    assert_int_equal(disk_io(&d, DISK_WRITE_ZEROES, 0, 3 * MiB, 65536, NULL), 0);
    struct disk_extent x = disk_map(&d, 0, 64 * MiB);
    assert_int_equal(x.kind, DISK_EXTENT_BELOW);
    assert_int_equal(x.length_bytes, 3 * MiB);
    x = disk_map(&d, 3 * MiB, 61 * MiB);
    assert_int_equal(x.kind, DISK_EXTENT_ZERO);
    assert_int_equal(x.length_bytes, 65536);
    x = disk_map(&d, 3 * MiB + 65536 + 512, 4096);
    assert_int_equal(x.kind, DISK_EXTENT_DATA);
    assert_int_equal(x.length_bytes, 4096);
    disk_close(&d, true);
    run_ok("qemu-img map --output=json %s | python3 -c 'import json,sys; "
           "d=[(e[\"start\"],e[\"length\"]) for e in json.load(sys.stdin) if e[\"data\"]]; "
           "assert d==[(3*2**20+65536,65536),(20*2**20,65536)], d'",
           path);
    disk_open(&d, path, &read_only);
    assert_int_equal(disk_map(&d, 19 * MiB, 2 * MiB).length_bytes, MiB);
    disk_close(&d, true);
    unlink(path);
}

static void try_read_answers_what_needs_no_io(void **state)
{
    (void)state;
    char path[64], base_path[64];
    struct disk d, base;
    struct qcow2_create_args args = plain(8 * MiB), base_args = plain(4 * MiB + 512);
    uint8_t buf[8192], got[8192];
    struct iovec iov = {got, sizeof got};
    fill(buf, sizeof buf, 4);
    image_make(base_path, &base_args);
    args.backing_name = base_path;
    image_make(path, &args);
    disk_open(&base, base_path, &read_only);
    disk_open(&d, path, &(struct disk_options){.flags = DISK_FILE_WRITE, .below = &base});
    int (*try_read)(struct layer_chan *, uint64_t, uint64_t, const struct iovec *, unsigned) = d.layer->ops->try_read;
    memset(got, 1, sizeof got);
    assert_int_equal(try_read(d.chan, 0, sizeof got, &iov, 1), 0); /* nothing here, nothing below */
    assert_int_equal(got[0] | got[8191], 0);
    assert_int_equal(try_read(d.chan, 6 * MiB, sizeof got, &iov, 1), 0);       /* past the base */
    assert_int_equal(try_read(d.chan, 4 * MiB, sizeof got, &iov, 1), -EAGAIN); /* across its end */
    disk_write(&d, 0, sizeof buf, buf);
    assert_int_equal(try_read(d.chan, 0, sizeof got, &iov, 1), -EAGAIN); /* data */
    assert_int_equal(disk_io(&d, DISK_WRITE_ZEROES, DISK_REQ_UNMAP, 65536, 65536, NULL), 0);
    memset(got, 1, sizeof got);
    assert_int_equal(try_read(d.chan, 65536, sizeof got, &iov, 1), 0);
    assert_int_equal(got[0] | got[8191], 0);
    disk_close(&d, false);
    disk_close(&base, true);
    unlink(path);
    unlink(base_path);
}

/* ---- the stash ---- */

static void stash_changes_hands(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    struct qcow2_create_args args = plain(16 * MiB);
    uint8_t buf[4096];
    uint64_t bytes = 64 << 10;
    autofree void *a = aligned_alloc(4096, bytes);
    autofree void *b = aligned_alloc(4096, bytes);
    fill(buf, sizeof buf, 4);
    memset(a, 0, bytes);
    memset(b, 0, bytes);
    image_make(path, &args);
    disk_open(&d, path, &writable);
    disk_write(&d, 0, sizeof buf, buf);
    struct disk_stash with_a = {a, bytes}, with_b = {b, bytes}, none = {0};
    assert_int_equal(d.layer->ops->set_stash(d.layer, with_a, &d.e), 0);
    disk_write(&d, MiB, sizeof buf, buf);
    assert_int_equal(d.layer->ops->set_stash(d.layer, with_b, &d.e), 0);
    disk_write(&d, 2 * MiB, sizeof buf, buf);
    for (unsigned i = 0; i < 4096; i++)
        assert_int_equal(((uint8_t *)a)[i], 0); /* clean: another image may use it */
    assert_int_equal(d.layer->ops->set_stash(d.layer, none, &d.e), 0);
    disk_write(&d, 3 * MiB, sizeof buf, buf);
    for (unsigned i = 0; i < 4; i++)
        must_hold(&d, i * MiB, buf, sizeof buf);
    disk_close(&d, true);
    image_is_sound(path, false);
    unlink(path);
}

/* ---- main ---- */

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_images_are_what_qemu_img_expects),
        cmocka_unit_test(preallocated_images),
        cmocka_unit_test(garbage_in_free_clusters_stays_hidden),
        cmocka_unit_test(discarded_clusters_are_used_again),
        cmocka_unit_test(reads_in_flight_keep_their_clusters),
        cmocka_unit_test(block_device_with_small_sectors),
        cmocka_unit_test(block_device_with_large_sectors),
        cmocka_unit_test(sixteen_tebibytes),
        cmocka_unit_test(growing),
        cmocka_unit_test(deep_chain),
        cmocka_unit_test(map_agrees_with_qemu_img),
        cmocka_unit_test(try_read_answers_what_needs_no_io),
        cmocka_unit_test(stash_changes_hands),
    };
    if (!getenv("VERBOSE")) log_setup("test", 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
