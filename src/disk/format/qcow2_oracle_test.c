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
    for (unsigned i = 0; i < waves; i++)
        model_wave(m, d, 1 + (unsigned)rnd_below(&m->seed, WAVE_MAX));
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
    struct qcow2_create_args args = {.size_bytes = v->size, .version = v->version, .cluster_bits = v->cluster_bits,
                                     .refcount_order = v->refcount_order};
    image_make(path, &args);
    autofree void *mem = v->stash ? stash_new(&stash, 64 << 10) : NULL;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_geometries),
    };
    (void)fill_model_file;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
