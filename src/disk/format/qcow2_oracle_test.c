/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random requests on every kind of qcow2 image against an array of bytes; qemu-img has the last word on
 * structure and content.
 */
#include "disk/format/qcow2_model.h"

#include "base/cleanup.h"

static unsigned scale(unsigned waves)
{
#ifdef CREEDENCE_SANITIZED
    return waves / 4 + 1;
#else
    return waves;
#endif
}

static const struct disk_options writable_options = {.flags = DISK_FILE_WRITE};

struct variety {
    const char *name;
    uint32_t version;
    unsigned cluster_bits, refcount_order;
    unsigned flags;
    bool stash;
    uint64_t budget, size;
};

static void fill_model_file(struct model *m, const char *path)
{
    for (uint64_t at = 0; at < m->size; at += 64 << 10)
        if (rnd_below(&m->seed, 4)) rnd_fill(&m->seed, m->data + at, min_u64(m->size - at, 20000));
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(m->data, 1, m->size, f), m->size);
    fclose(f);
}

static void random_work(struct model *m, struct disk *d, unsigned waves)
{
    for (unsigned i = 0; i < waves; i++) {
        bool crowd = rnd_below(&m->seed, 3) == 0; /* many requests for few clusters */
        m->from = crowd ? rnd_below(&m->seed, (m->size - 262144) / 512) * 512 : 0;
        m->to = crowd ? m->from + 262144 : 0;
        model_wave(m, d, 1 + (unsigned)rnd_below(&m->seed, WAVE_MAX));
    }
    m->from = m->to = 0;
}

static void *stash_new(struct disk_stash *s, uint64_t bytes)
{
    s->mem = aligned_alloc(4096, bytes);
    s->size_bytes = bytes;
    memset(s->mem, 0, bytes);
    return s->mem;
}

/* Work, close, judge; twice, so that the second half starts from what the first one left. */
static void work_and_judge(struct model *m, const char *path, const struct disk_options *o, unsigned waves)
{
    for (unsigned round = 0; round < 2; round++) {
        struct disk d;
        disk_open(&d, path, o);
        random_work(m, &d, scale(waves));
        model_check_all(m, &d);
        disk_close(&d, true);
        image_is_sound(path, false);
        image_equals(path, m->data, m->size);
    }
}

static void one_variety(const struct variety *v)
{
    char path[64];
    struct model m;
    struct disk_stash stash = {0};
    scratch_on_disk = v->flags & DISK_FILE_DIRECT;
    model_init(&m, v->size, v->cluster_bits * 8 + v->refcount_order);
    struct qcow2_create_args args = {.size_bytes = v->size,
                                     .version = v->version,
                                     .cluster_bits = v->cluster_bits,
                                     .refcount_order = v->refcount_order};
    image_make(path, &args);
    autofree void *mem = v->stash ? stash_new(&stash, 64 << 10) : NULL;
    (void)mem; /* freed at the end, and nothing else */
    struct disk_options o = {.flags = DISK_FILE_WRITE | v->flags, .budget = v->budget, .stash = stash};
    work_and_judge(&m, path, &o, 60);
    unlink(path);
    model_free(&m);
}

static void all_geometries(void **state)
{
    (void)state;
    static const struct variety varieties[] = {
        {"default", 3, 16, 4, 0, true, 0, 20 * MiB},
        {"no stash", 3, 16, 4, 0, false, 0, 20 * MiB},
        {"direct", 3, 16, 4, DISK_FILE_DIRECT, true, 0, 20 * MiB},
        {"version 2", 2, 16, 4, 0, true, 0, 20 * MiB},
        {"512 B, 64 bit refcounts", 3, 9, 6, 0, true, 0, 9 * MiB},
        {"512 B, no stash", 3, 9, 4, 0, false, 0, 5 * MiB},
        {"1 KiB, 1 bit refcounts", 3, 10, 0, 0, true, 0, 9 * MiB},
        {"2 KiB, 2 bit refcounts", 3, 11, 1, 0, true, 0, 9 * MiB},
        {"4 KiB, 4 bit refcounts", 3, 12, 2, DISK_FILE_DIRECT, true, 0, 9 * MiB},
        {"4 KiB, tables evicted all the time", 3, 12, 4, 0, true, 1, 40 * MiB},
        {"8 bit refcounts", 3, 15, 3, 0, true, 0, 20 * MiB},
        {"32 bit refcounts", 3, 14, 5, 0, true, 0, 20 * MiB},
        {"2 MiB", 3, 21, 4, 0, true, 0, 40 * MiB},
        {"odd size", 3, 16, 4, 0, true, 0, 20 * MiB + 512 * 7},
        {"version 2, odd size, no stash", 2, 13, 4, 0, false, 0, 5 * MiB + 512},
    };
    for (size_t i = 0; i < ARRAY_LEN(varieties); i++) {
        if (getenv("VERBOSE")) fprintf(stderr, "%s\n", varieties[i].name);
        one_variety(&varieties[i]);
    }
}

/* ---- clones ---- */

/* A base in some form with the model's content. */
static void make_base(struct model *m, char path[64], const char *options)
{
    char raw[64];
    name_make(raw);
    fill_model_file(m, raw);
    name_make(path);
    if (!options) rename(raw, path);
    else run_ok("qemu-img convert -f raw -O qcow2 %s %s %s", options, raw, path);
    unlink(raw);
}

static void one_clone(const char *base_options, uint64_t leaf_size, unsigned cluster_bits, bool keep_name)
{
    char base_path[64], leaf_path[64];
    struct model m;
    struct disk_stash stash;
    scratch_on_disk = false;
    model_init(&m, 6 * MiB + 3 * 512, cluster_bits);
    make_base(&m, base_path, base_options);
    uint64_t base_size = m.size;
    m.data = realloc(m.data, leaf_size);
    if (leaf_size > m.size) memset(m.data + m.size, 0, leaf_size - m.size);
    m.size = leaf_size;
    struct qcow2_create_args args = {.size_bytes = leaf_size,
                                     .version = 3,
                                     .cluster_bits = cluster_bits,
                                     .refcount_order = 4,
                                     .backing_name = keep_name ? base_path : NULL,
                                     .backing_format = base_options ? "qcow2" : "raw"};
    image_make(leaf_path, &args);
    run_ok("sha256sum %s > %s.sum", base_path, base_path);
    autofree void *mem = stash_new(&stash, 64 << 10);
    (void)mem; /* freed at the end, and nothing else */
    for (unsigned round = 0; round < 2; round++) {
        struct disk base, leaf;
        if (base_options) {
            disk_open(&base, base_path, &(struct disk_options){0});
        } else {
            assert_int_equal(disk_file_open(&base.file, base_path, 0, &base.e), 0);
            struct layer_args raw = {.file = &base.file};
            assert_int_equal(layer_raw_open(&base.layer, &raw, &base.e), 0);
            assert_int_equal(engine_uring_new(&base.engine, 32, &base.e), 0);
            assert_int_equal(base.layer->ops->chan_open(base.layer, base.engine, NULL, &base.chan), 0);
        }
        disk_open(&leaf, leaf_path, &(struct disk_options){.flags = DISK_FILE_WRITE, .below = &base, .stash = stash});
        random_work(&m, &leaf, scale(40));
        model_check_all(&m, &leaf);
        disk_close(&leaf, false);
        disk_close(&base, true);
        image_is_sound(leaf_path, false);
        if (keep_name) image_equals(leaf_path, m.data, m.size);
    }
    run_ok("sha256sum --quiet -c %s.sum && rm %s.sum", base_path, base_path);
    (void)base_size;
    unlink(base_path);
    unlink(leaf_path);
    model_free(&m);
}

static void clones_of_every_kind_of_base(void **state)
{
    (void)state;
    one_clone(NULL, 6 * MiB + 3 * 512, 16, true);                /* raw, same odd size */
    one_clone("-o cluster_size=4k", 4 * MiB, 16, true);          /* the leaf is shorter */
    one_clone("-o cluster_size=64k", 11 * MiB, 12, true);        /* the base is shorter */
    one_clone("-c", 6 * MiB + 3 * 512, 16, true);                /* zlib */
    one_clone("-c -o compression_type=zstd", 8 * MiB, 21, true); /* zstd */
    one_clone("-c -o cluster_size=2M", 8 * MiB, 9, true);
    one_clone("-o compat=0.10", 8 * MiB, 15, true);
    one_clone(NULL, 8 * MiB, 16, false); /* the image does not name its base */
}

/* ---- images that somebody else made, written by us ---- */

static void one_foreign(const char *options, bool snapshot)
{
    char path[64], raw[64];
    struct model m;
    scratch_on_disk = false;
    model_init(&m, 8 * MiB, (uint64_t)strlen(options) + 77);
    make_base(&m, path, options);
    strcpy(raw, path);
    strcat(raw, ".old");
    if (snapshot) {
        FILE *f = fopen(raw, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(m.data, 1, m.size, f), m.size);
        fclose(f);
        run_ok("qemu-img snapshot -c before %s", path);
    }
    work_and_judge(&m, path, &writable_options, 40);
    if (snapshot) {
        run_ok("qemu-img convert -f qcow2 -l snapshot.name=before -O raw %s %s.snap && cmp %s %s.snap", path, path, raw,
               path);
        run_ok("qemu-img snapshot -d before %s", path);
        image_is_sound(path, false);
        image_equals(path, m.data, m.size);
        run_ok("rm %s %s.snap", raw, path);
    }
    unlink(path);
    model_free(&m);
}

static void images_made_by_qemu_img(void **state)
{
    (void)state;
    one_foreign("-o cluster_size=512,refcount_bits=64", false);
    one_foreign("-o cluster_size=1k,refcount_bits=1", false);
    one_foreign("-o cluster_size=4k,refcount_bits=2", false);
    one_foreign("-o cluster_size=64k,refcount_bits=8", false);
    one_foreign("-o cluster_size=2M,refcount_bits=32", false);
    one_foreign("-o compat=0.10", false);
    one_foreign("-o preallocation=metadata", false);
    one_foreign("-o preallocation=full", false);
    one_foreign("-o lazy_refcounts=on", false);
    one_foreign("-c", false);
    one_foreign("-c -o compression_type=zstd", false);
    one_foreign("-c -o cluster_size=512", false);
    one_foreign("-c -o cluster_size=2M,compression_type=zstd", false);
    one_foreign("-c -o compat=0.10", false);
}

static void internal_snapshots_are_kept(void **state)
{
    (void)state;
    one_foreign("-o cluster_size=64k", true);
    one_foreign("-o cluster_size=4k", true);
    one_foreign("-o cluster_size=512,refcount_bits=2", true);
    one_foreign("-c", true);
    one_foreign("-o compat=0.10", true);
    one_foreign("-o cluster_size=2M", true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_geometries),
        cmocka_unit_test(clones_of_every_kind_of_base),
        cmocka_unit_test(images_made_by_qemu_img),
        cmocka_unit_test(internal_snapshots_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
