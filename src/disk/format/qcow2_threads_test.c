/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several threads, each with an engine and channels of its own, on one chain: first on sectors of the same
 * clusters, then on parts of the disk of their own, where they discard, too. Run it under the thread sanitizer.
 */
#include "disk/format/qcow2_model.h"

#include <pthread.h>

#include "base/cleanup.h"
#include "base/log.h"

#define THREADS 3u

struct worker {
    pthread_t thread;
    struct model m;
    struct disk leaf, base;
    unsigned index, waves;
    bool with_base;
};

/* cmocka's asserts jump, which only the main thread may do: here they abort. */
static void *work(void *arg)
{
    struct worker *w = arg;
    struct engine *e;
    struct errmsg msg;
    if (engine_uring_new(&e, 64, &msg) < 0) abort();
    struct layer_chan *below = NULL;
    if (w->with_base && w->base.layer->ops->chan_open(w->base.layer, e, NULL, &below) < 0) abort();
    if (w->leaf.layer->ops->chan_open(w->leaf.layer, e, below, &w->leaf.chan) < 0) abort();
    w->leaf.engine = e;
    for (unsigned i = 0; i < w->waves; i++)
        model_wave(&w->m, &w->leaf, 12);
    model_check_own(&w->m, &w->leaf);
    w->leaf.layer->ops->chan_close(w->leaf.chan);
    if (below) w->base.layer->ops->chan_close(below);
    engine_free(e);
    return NULL;
}

static void run_threads(struct worker *w)
{
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(w[i].thread, NULL);
}

static struct layer *open_layer(struct engine_file *f, const char *path, bool write, struct layer *below,
                                struct disk_stash stash, uint64_t budget)
{
    struct errmsg e;
    struct layer *l;
    if (disk_file_open(f, path, write ? DISK_FILE_WRITE : 0, &e) < 0) fail_msg("%s", e.text);
    struct layer_args args = {.file = f,
                              .below = below,
                              .writable = write,
                              .stash = stash,
                              .maker = &engine_uring_maker,
                              .metadata_budget_bytes = budget};
    if (layer_qcow2_open(&l, &args, &e) < 0) fail_msg("%s", e.text);
    return l;
}

/* All threads' teeth, or parts, put together. */
static void gather(struct worker *w, uint8_t *all, bool comb)
{
    for (uint64_t at = 0; at < w[0].m.size; at += 4096) {
        unsigned owner = (unsigned)(comb ? (at / 4096) % THREADS : min_u64(at / (w[0].m.size / THREADS), THREADS - 1));
        memcpy(all + at, w[owner].m.data + at, 4096);
    }
}

static void threads_on_one_chain(unsigned cluster_bits, bool with_base, bool with_stash, uint64_t budget,
                                 const char *convert)
{
    char path[64], base_path[64];
    struct engine_file file, base_file;
    uint64_t size = 12 * MiB;
    static struct worker w[THREADS];
    autofree uint8_t *all = calloc(1, size);
    autofree void *mem = aligned_alloc(4096, 64 << 10);
    memset(mem, 0, 64 << 10);
    struct disk_stash stash = {with_stash ? mem : NULL, with_stash ? 64 << 10 : 0};
    uint64_t seed = cluster_bits;
    if (with_base || convert) rnd_fill(&seed, all, size / 2);
    char raw[64];
    name_make(raw);
    FILE *f = fopen(raw, "wb");
    assert_int_equal(fwrite(all, 1, size, f), size);
    fclose(f);
    name_make(base_path);
    name_make(path);
    run_ok("qemu-img convert -O qcow2 -c %s %s", raw, base_path);
    if (convert) run_ok("qemu-img convert -O qcow2 %s %s %s", convert, raw, path);
    else {
        struct qcow2_create_args args = {.size_bytes = size,
                                         .version = 3,
                                         .cluster_bits = cluster_bits,
                                         .refcount_order = 4,
                                         .backing_name = with_base ? base_path : NULL,
                                         .backing_format = "qcow2"};
        unlink(path);
        image_make(path, &args);
    }
    for (unsigned round = 0; round < 2; round++) {
        struct disk_stash none = {0};
        struct layer *base = with_base ? open_layer(&base_file, base_path, false, NULL, none, 0) : NULL;
        struct layer *leaf = open_layer(&file, path, true, base, stash, budget);
        for (unsigned i = 0; i < THREADS; i++) {
            model_init(&w[i].m, size, i + 1);
            memcpy(w[i].m.data, all, size);
            w[i].with_base = with_base;
            w[i].base.layer = base;
            w[i].leaf.layer = leaf;
            if (round == 0) {
                w[i].m.comb = THREADS;
                w[i].m.tooth = i;
            } else {
                w[i].m.from = i * (size / THREADS);
                w[i].m.to = i + 1 == THREADS ? size : (i + 1) * (size / THREADS);
            }
#ifdef CREEDENCE_SANITIZED
            w[i].waves = 15;
#else
            w[i].waves = 60;
#endif
        }
        run_threads(w);
        gather(w, all, round == 0);
        struct errmsg e;
        if (leaf->ops->close(leaf, &e) < 0) fail_msg("%s", e.text);
        disk_file_close(&file);
        if (base) {
            assert_int_equal(base->ops->close(base, &e), 0);
            disk_file_close(&base_file);
        }
        for (unsigned i = 0; i < THREADS; i++)
            model_free(&w[i].m);
        image_is_sound(path, false);
        image_equals(path, all, size);
    }
    unlink(path);
    unlink(base_path);
    unlink(raw);
}

static void new_disk(void **state)
{
    (void)state;
    threads_on_one_chain(16, false, true, 0, NULL);
}

static void new_disk_without_stash(void **state)
{
    (void)state;
    threads_on_one_chain(16, false, false, 0, NULL);
}

static void clone_of_a_compressed_base(void **state)
{
    (void)state;
    threads_on_one_chain(16, true, true, 0, NULL);
}

static void small_clusters_evicted(void **state)
{
    (void)state;
    threads_on_one_chain(12, true, true, 1, NULL);
    threads_on_one_chain(9, false, true, 1, NULL);
}

static void compressed_disk(void **state)
{
    (void)state;
    threads_on_one_chain(16, false, true, 0, "-c -o compression_type=zstd");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_disk),
        cmocka_unit_test(new_disk_without_stash),
        cmocka_unit_test(clone_of_a_compressed_base),
        cmocka_unit_test(small_clusters_evicted),
        cmocka_unit_test(compressed_disk),
    };
    if (!getenv("VERBOSE")) log_setup("test", 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
