/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What survives what. A killed process: every acknowledged write, through the stash, and not one leaked cluster. A
 * power cut: everything flushed, and an image with nothing worse than leaks. A failed request: nothing but that
 * request.
 */
#include "disk/format/qcow2_model.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "disk/format/qcow2_impl.h"

static unsigned scale(unsigned n)
{
#ifdef CREEDENCE_SANITIZED
    return n / 4 + 1;
#else
    return n;
#endif
}

static bool thorough(void)
{
    return getenv("THOROUGH") != NULL;
}

/* ---- power cuts: per sector, every content that may be found ---- */

#define NEVER_STABLE UINT32_MAX /* what a failed request may have left: no flush says so */

struct past {
    uint32_t sector;
    uint32_t wave;
    uint64_t hash;
};

struct history {
    uint64_t *stable; /* per sector: hash of what was flushed */
    uint64_t sectors;
    struct past *past; /* written since */
    size_t count, max;
};

static uint64_t hash_sector(const uint8_t *p)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (unsigned i = 0; i < 512; i += 8) {
        uint64_t w;
        memcpy(&w, p + i, 8);
        h = (h ^ w) * UINT64_C(0x100000001b3);
        h ^= h >> 29;
    }
    return h;
}

static void history_init(struct history *h, const struct model *m)
{
    h->sectors = m->size / 512;
    h->stable = calloc(h->sectors, 8);
    for (uint64_t i = 0; i < h->sectors; i++)
        h->stable[i] = hash_sector(m->data + i * 512);
    h->past = NULL;
    h->count = h->max = 0;
}

static void history_free(struct history *h)
{
    free(h->stable);
    free(h->past);
}

static void history_add(struct history *h, uint64_t sector, uint64_t hash, unsigned wave)
{
    if (h->count == h->max) {
        h->max = h->max ? h->max * 2 : 1024;
        h->past = realloc(h->past, h->max * sizeof *h->past);
        assert_non_null(h->past);
    }
    h->past[h->count++] = (struct past){(uint32_t)sector, wave, hash};
}

/* Everything of earlier waves is durable now. */
static void history_flushed(struct history *h, unsigned wave)
{
    size_t kept = 0;
    for (size_t i = 0; i < h->count; i++) {
        if (h->past[i].wave < wave) h->stable[h->past[i].sector] = h->past[i].hash;
        else h->past[kept++] = h->past[i];
    }
    h->count = kept;
}

/* What a wave may have written, whether it was acknowledged or not. */
static void history_record(struct history *h, const struct model *m, unsigned wave)
{
    static const uint8_t zero[512];
    for (unsigned i = 0; i < m->count; i++) {
        const struct shot *s = &m->shots[i];
        if (s->req.op == DISK_FLUSH && s->res == 0) history_flushed(h, wave);
    }
    for (unsigned i = 0; i < m->count; i++) {
        const struct shot *s = &m->shots[i];
        if (s->req.op == DISK_FLUSH || s->req.op == DISK_READ) continue;
        const uint8_t *data = s->req.op == DISK_WRITE ? s->iov[0].iov_base : NULL;
        unsigned when = s->res < 0 ? NEVER_STABLE : wave;
        for (uint64_t at = 0; at < s->req.length_bytes; at += 512) {
            uint64_t sector = (s->req.offset_bytes + at) / 512;
            /* A discard may have left what was there. Then, after a flush, that is stable. */
            if (s->req.op == DISK_DISCARD && s->res == 0) {
                history_add(h, sector, hash_sector(zero), wave);
                history_add(h, sector, hash_sector(m->data + sector * 512), wave);
            } else {
                history_add(h, sector, hash_sector(data ? data + at : zero), when);
            }
        }
    }
}

static bool is_allowed(const struct history *h, uint64_t sector, const uint8_t *got)
{
    uint64_t hash = hash_sector(got);
    if (h->stable[sector] == hash) return true;
    for (size_t i = 0; i < h->count; i++)
        if (h->past[i].sector == sector && h->past[i].hash == hash) return true;
    return false;
}

static void judge_after_cut(struct history *h, const char *path, const char *base_path, const char *what)
{
    struct disk d, base;
    image_is_sound(path, true);
    if (base_path) disk_open(&base, base_path, &(struct disk_options){0});
    disk_open(&d, path, &(struct disk_options){.flags = DISK_FILE_WRITE, .below = base_path ? &base : NULL});
    uint8_t *buf = aligned_alloc(4096, MiB);
    for (uint64_t at = 0, n; at < h->sectors * 512; at += n) {
        n = min_u64(MiB, h->sectors * 512 - at);
        disk_read(&d, at, n, buf);
        for (uint64_t i = 0; i < n; i += 512)
            if (!is_allowed(h, (at + i) / 512, buf + i))
                fail_msg("%s: %s: sector at 0x%llx holds what was never there", path, what,
                         (unsigned long long)(at + i));
    }
    /* It must be fit for use, too. */
    memset(buf, 7, 4096);
    disk_write(&d, 0, 4096, buf);
    disk_close(&d, !base_path);
    if (base_path) disk_close(&base, true);
    image_is_sound(path, true);
    free(buf);
}

struct cut_case {
    const char *name;
    struct qcow2_create_args image;
    const char *qemu_options; /* made by qemu-img with these, instead */
    bool snapshot, with_base;
    bool stash;
    uint64_t seed;
    unsigned flags;                 /* of the file */
    const struct fault_rule *other; /* that is in force as well */
};

static void make_image(const struct cut_case *k, struct model *m, char path[64], char base_path[64])
{
    char raw[64];
    name_make(raw);
    if (k->qemu_options || k->with_base) {
        for (uint64_t at = 0; at < m->size; at += 48 << 10)
            rnd_fill(&m->seed, m->data + at, min_u64(m->size - at, 30000));
    }
    FILE *f = fopen(raw, "wb");
    assert_int_equal(fwrite(m->data, 1, m->size, f), m->size);
    fclose(f);
    if (k->qemu_options) {
        name_make(path);
        run_ok("qemu-img convert -f raw -O qcow2 %s %s %s", k->qemu_options, raw, path);
        if (k->snapshot) run_ok("qemu-img snapshot -c s %s", path);
    } else {
        struct qcow2_create_args args = k->image;
        if (k->with_base) {
            name_make(base_path);
            run_ok("qemu-img convert -f raw -O qcow2 %s %s", raw, base_path);
            args.backing_name = base_path;
            args.backing_format = "qcow2";
        }
        image_make(path, &args);
    }
    unlink(raw);
}

/* What a discard turned out to do is what a flush makes stable. */
static void after_discard(struct model *m, struct history *h, struct disk *d, struct fault_plan *plan, unsigned i,
                          unsigned wave)
{
    struct disk_req *req = &m->shots[i].req;
    if (fault_plan_is_cut(plan)) return;
    model_after_discard(m, &m->shots[i], d);
    for (uint64_t at = req->offset_bytes; at < req->offset_bytes + req->length_bytes; at += 512)
        history_add(h, at / 512, hash_sector(m->data + at), wave);
}

static void work_until_cut(struct model *m, struct history *h, struct disk *d, struct fault_plan *plan, unsigned waves)
{
    m->errors_allowed = true;
    m->unknown = calloc(1, m->size / 512);
    for (unsigned w = 0; w < waves && !fault_plan_is_cut(plan); w++) {
        m->count = 0;
        for (unsigned i = 0; i < 6; i++)
            model_fire(m, d->chan);
        while (m->in_flight)
            assert_true(engine_sleep(d->engine, UINT64_MAX) >= 0);
        history_record(h, m, w);
        for (unsigned i = 0; i < m->count; i++)
            model_apply(m, &m->shots[i], d->chan, d->engine);
        for (unsigned i = 0; i < m->count; i++)
            if (m->shots[i].req.op == DISK_DISCARD && m->shots[i].res == 0) after_discard(m, h, d, plan, i, w);
    }
}

/* One run up to the cut, then several outcomes of it. Returns false when the work ended before the cut. */
static bool one_cut(const struct cut_case *k, const struct fault_rule *rule, unsigned waves)
{
    char path[64], base_path[64] = "", copy[80], what[128];
    struct model m;
    struct history h;
    model_init(&m, k->image.size_bytes, k->seed);
    make_image(k, &m, path, base_path);
    history_init(&h, &m);
    struct fault_plan *plan = fault_plan_new(1);
    if (rule) fault_plan_add(plan, rule);
    if (k->other) fault_plan_add(plan, k->other);
    struct disk_stash stash = {0};
    autofree void *mem = aligned_alloc(4096, 64 << 10);
    memset(mem, 0, 64 << 10);
    if (k->stash) stash = (struct disk_stash){mem, 64 << 10};
    struct disk d, base;
    if (k->with_base) disk_open(&base, base_path, &(struct disk_options){.maker = fault_plan_maker(plan)});
    struct disk_options o = {.flags = DISK_FILE_WRITE | k->flags,
                             .maker = fault_plan_maker(plan),
                             .stash = stash,
                             .below = k->with_base ? &base : NULL};
    int ret = disk_try_open(&d, path, &o);
    if (ret == 0) {
        work_until_cut(&m, &h, &d, plan, waves);
        ret = disk_try_close(&d, !k->with_base);
        if (ret == 0 && !fault_plan_is_cut(plan)) history_flushed(&h, NEVER_STABLE);
    }
    if (k->with_base) disk_close(&base, true);
    bool was_cut = fault_plan_is_cut(plan);
    for (unsigned i = 0; i < (thorough() ? 6u : 3u); i++) {
        struct engine_file f;
        struct errmsg e;
        uint64_t seed = i == 0 ? FAULT_SEED_LOSE_ALL : i == 1 ? FAULT_SEED_KEEP_ALL : rnd(&m.seed);
        assert_int_equal(file_open_patiently(&f, path, 0, &e), 0);
        snprintf(copy, sizeof copy, "%s.cut", path);
        assert_int_equal(fault_plan_copy_after_cut(plan, &f, copy, seed), 0);
        disk_file_close(&f);
        snprintf(what, sizeof what, "%s, cut at %s %llu, outcome %llx", k->name,
                 rule && rule->point ? rule->point : "request", rule ? (unsigned long long)rule->nth : 0ULL,
                 (unsigned long long)seed);
        judge_after_cut(&h, copy, k->with_base ? base_path : NULL, what);
        unlink(copy);
    }
    fault_plan_free(plan);
    history_free(&h);
    model_free(&m);
    unlink(path);
    if (k->with_base) unlink(base_path);
    return was_cut;
}

static void power_cuts(void **state)
{
    (void)state;
    static const struct cut_case cases[] = {
        {"new image",
         {.size_bytes = 6 * MiB, .version = 3, .cluster_bits = 16, .refcount_order = 4},
         .stash = true,
         .seed = 1},
        {"direct",
         {.size_bytes = 6 * MiB, .version = 3, .cluster_bits = 16, .refcount_order = 4},
         .stash = true,
         .seed = 8,
         .flags = DISK_FILE_DIRECT},
        {"no stash", {.size_bytes = 3 * MiB, .version = 3, .cluster_bits = 14, .refcount_order = 4}, .seed = 2},
        {"small clusters",
         {.size_bytes = 3 * MiB, .version = 3, .cluster_bits = 9, .refcount_order = 6},
         .stash = true,
         .seed = 3},
        {"clone",
         {.size_bytes = 4 * MiB, .version = 3, .cluster_bits = 16, .refcount_order = 4},
         .with_base = true,
         .stash = true,
         .seed = 4},
        {"snapshot", {.size_bytes = 3 * MiB}, "-o cluster_size=4k", .snapshot = true, .stash = true, .seed = 5},
        {"compressed", {.size_bytes = 3 * MiB}, "-c", .stash = true, .seed = 6},
        {"version 2",
         {.size_bytes = 3 * MiB, .version = 2, .cluster_bits = 12, .refcount_order = 4},
         .stash = true,
         .seed = 7},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        scratch_on_disk = cases[i].flags & DISK_FILE_DIRECT;
        if (getenv("VERBOSE")) fprintf(stderr, "%s\n", cases[i].name);
        for (uint64_t nth = 1;; nth += nth / (thorough() ? 12 : 4) + 1) {
            struct fault_rule rule = {.action = FAULT_CUT, .ops = FAULT_WRITES | FAULT_SYNCS, .nth = nth};
            if (!one_cut(&cases[i], &rule, 16)) break;
        }
    }
}

/* Between the steps that the order of updates rests on (docs/adr/0001-stash.md). */
static void power_cuts_at_points(void **state)
{
    (void)state;
    /* Late answers: what was asked for before others ends after them. */
    static const struct fault_rule late_writes = {
        .action = FAULT_DELAY, .ops = FAULT_WRITES, .nth = 2, .count = UINT64_MAX, .delay_ns = 300000};
    static const struct fault_rule late_syncs = {
        .action = FAULT_DELAY, .ops = FAULT_SYNCS, .count = UINT64_MAX, .delay_ns = 1000000};
    /* A write of which some sectors land while the guest is told that it failed. */
    static const struct fault_rule torn = {.action = FAULT_TEAR, .ops = FAULT_WRITES, .nth = 9, .count = 3};
    static const struct cut_case
        plain = {"a plain image",
                 {.size_bytes = 6 * MiB, .version = 3, .cluster_bits = 12, .refcount_order = 4},
                 .stash = true,
                 .seed = 21},
        small = {"small clusters",
                 {.size_bytes = 3 * MiB, .version = 3, .cluster_bits = 9, .refcount_order = 6},
                 .stash = true,
                 .seed = 22},
        writes = {"late writes",
                  {.size_bytes = 3 * MiB, .version = 3, .cluster_bits = 12, .refcount_order = 4},
                  .stash = true,
                  .seed = 23,
                  .other = &late_writes},
        syncs = {"late syncs",
                 {.size_bytes = 3 * MiB, .version = 3, .cluster_bits = 12, .refcount_order = 4},
                 .with_base = true,
                 .seed = 24,
                 .other = &late_syncs},
        tears = {"torn writes",
                 {.size_bytes = 3 * MiB, .version = 3, .cluster_bits = 12, .refcount_order = 4},
                 .seed = 25,
                 .other = &torn};
    static const struct {
        const struct cut_case *at;
        const char *point;
    } cases[] = {
        {&plain, "qcow2-commit-copied"},   {&plain, "qcow2-commit-synced"},   {&plain, "qcow2-commit-written"},
        {&plain, "qcow2-reclaim-punched"}, {&plain, "qcow2-reclaim-written"}, {&small, "qcow2-commit-copied"},
        {&small, "qcow2-commit-synced"},   {&small, "qcow2-commit-written"},  {&small, "qcow2-refblock-synced"},
        {&small, "qcow2-refblock-linked"}, {&small, "qcow2-reftable-synced"}, {&small, "qcow2-reftable-switched"},
        {&small, "qcow2-reclaim-punched"}, {&small, "qcow2-reclaim-written"}, {&writes, "qcow2-commit-synced"},
        {&writes, "qcow2-commit-written"}, {&syncs, "qcow2-commit-synced"},   {&syncs, "qcow2-commit-written"},
        {&tears, "qcow2-commit-synced"},   {&tears, "qcow2-commit-written"},
    };
    scratch_on_disk = false;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fault_rule rule = {.action = FAULT_CUT, .point = cases[i].point, .nth = 1};
        if (getenv("VERBOSE")) fprintf(stderr, "%s, %s\n", cases[i].at->name, rule.point);
        /* Some are passed by the keeper on its own time: on a busy machine perhaps not before the end. */
        for (unsigned tries = 0; rule.nth == 1 && tries < 8; tries++)
            for (; one_cut(cases[i].at, &rule, 16); rule.nth += rule.nth * (thorough() ? 1 : 3))
                continue;
        if (rule.nth == 1 && !other_seed()) fail_msg("%s never came to %s", cases[i].at->name, rule.point);
    }
}

/* ---- power cuts while a disk grows ---- */

static bool cut_while_growing(const struct fault_rule *rule, unsigned cluster_bits)
{
    char path[64], copy[80];
    uint8_t buf[4096];
    struct errmsg e;
    struct disk d;
    uint64_t seed = rule->nth + 1, old_size = 2 * MiB + 512, new_size = 70 * MiB;
    struct qcow2_create_args args = {
        .size_bytes = old_size, .version = 3, .cluster_bits = cluster_bits, .refcount_order = 4};
    rnd_fill(&seed, buf, sizeof buf);
    image_make(path, &args);
    struct fault_plan *plan = fault_plan_new(1);
    disk_open(&d, path, &(struct disk_options){.flags = DISK_FILE_WRITE, .maker = fault_plan_maker(plan)});
    disk_write(&d, MiB, sizeof buf, buf);
    disk_flush(&d);
    d.layer->ops->chan_close(d.chan); /* the rest of the last cluster is then zeroed by resize() itself */
    fault_plan_add(plan, rule);
    int ret = d.layer->ops->resize(d.layer, new_size, &e);
    assert_int_equal(d.layer->ops->chan_open(d.layer, d.engine, NULL, &d.chan), 0);
    if (ret == 0) ret = disk_io(&d, DISK_WRITE, 0, new_size - sizeof buf, sizeof buf, buf);
    if (ret == 0) ret = disk_io(&d, DISK_FLUSH, 0, 0, 0, NULL);
    bool flushed = ret == 0;
    disk_try_close(&d, true);
    bool was_cut = fault_plan_is_cut(plan);
    for (unsigned i = 0; i < 3; i++) {
        struct engine_file f;
        assert_int_equal(file_open_patiently(&f, path, 0, &e), 0);
        snprintf(copy, sizeof copy, "%s.cut", path);
        assert_int_equal(fault_plan_copy_after_cut(plan, &f, copy,
                                                   i == 0   ? FAULT_SEED_LOSE_ALL
                                                   : i == 1 ? FAULT_SEED_KEEP_ALL
                                                            : rnd(&seed)),
                         0);
        disk_file_close(&f);
        image_is_sound(copy, true);
        disk_open(&d, copy, &(struct disk_options){.flags = DISK_FILE_WRITE});
        uint8_t got[4096];
        disk_read(&d, MiB, sizeof got, got);
        assert_memory_equal(got, buf, sizeof got);
        assert_true(layer_size(d.layer) == old_size || layer_size(d.layer) == new_size);
        if (flushed) {
            disk_read(&d, new_size - sizeof got, sizeof got, got);
            assert_memory_equal(got, buf, sizeof got);
        }
        disk_write(&d, 0, sizeof buf, buf);
        disk_close(&d, true);
        image_is_sound(copy, true);
        unlink(copy);
    }
    fault_plan_free(plan);
    unlink(path);
    return was_cut;
}

static void power_cuts_while_growing(void **state)
{
    (void)state;
    scratch_on_disk = false;
    for (unsigned bits = 9; bits <= 16; bits += 7) {
        struct fault_rule rule = {.action = FAULT_CUT, .ops = FAULT_WRITES | FAULT_SYNCS, .nth = 1};
        for (; cut_while_growing(&rule, bits); rule.nth += rule.nth / (thorough() ? 20 : 6) + 1)
            continue;
    }
    static const char *const points[] = {"qcow2-l1-synced", "qcow2-l1-switched", "qcow2-grow-cleared",
                                         "qcow2-grow-switched"};
    for (size_t i = 0; i < ARRAY_LEN(points); i++)
        assert_true(cut_while_growing(&(struct fault_rule){.action = FAULT_CUT, .point = points[i]}, 9));
}

/* ---- kill -9 ---- */

/* What the processes share: the model, the stash, and how far the present wave has come. */
struct shared {
    struct model m;
    unsigned wave;
    _Atomic bool opened;
    struct disk_stash stash;
};

static void *share(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

static struct shared *shared_new(uint64_t disk_bytes, uint64_t stash_bytes)
{
    struct shared *s = share(sizeof *s);
    model_init(&s->m, disk_bytes, 11);
    free(s->m.data);
    s->m.data = share(disk_bytes);
    s->m.unknown = share(disk_bytes / 512);
    for (unsigned i = 0; i < WAVE_MAX; i++) {
        free(s->m.shots[i].buf);
        s->m.shots[i].buf = share(SHOT_MAX_BYTES + 4096);
    }
    s->stash = (struct disk_stash){share(stash_bytes), stash_bytes};
    return s;
}

/* Every other process ends itself at a point of metadata updates, that is where it hurts. */
static void choose_death(struct fault_plan *plan, uint64_t seed)
{
    static const char *const points[] = {"qcow2-commit-copied", "qcow2-commit-synced", "qcow2-commit-written",
                                         "qcow2-reclaim-punched", "qcow2-reclaim-written"};
    fault_plan_add(plan, &(struct fault_rule){.action = FAULT_KILL,
                                              .point = points[rnd_below(&seed, ARRAY_LEN(points))],
                                              .nth = 1 + rnd_below(&seed, 6)});
}

static void child_works(struct shared *s, const char *path, struct disk_options o, unsigned number)
{
    struct disk d;
    struct fault_plan *plan = fault_plan_new(1);
    if (number % 2) {
        o.maker = fault_plan_maker(plan);
        choose_death(plan, s->m.seed ^ number);
    }
    if (disk_try_open(&d, path, &o) < 0) {
        fprintf(stderr, "reopening: %s\n", d.e.text);
        _exit(3);
    }
    s->opened = true;
    for (;;)
        model_wave(&s->m, &d, WAVE_MAX);
}

/* The wave that was cut short: what was acknowledged is there, the rest may be. */
static void settle_killed_wave(struct model *m)
{
    for (unsigned i = 0; i < m->count; i++) {
        struct shot *s = &m->shots[i];
        if (s->req.op == DISK_READ || s->req.op == DISK_FLUSH) continue;
        if (s->finished && s->req.op != DISK_DISCARD) {
            s->req.iov = s->iov;
            model_apply(m, s, NULL, NULL);
        } else {
            settle_unknown(m, s->req.offset_bytes, s->req.length_bytes, 1);
        }
    }
    m->count = m->in_flight = 0;
}

static void learn_all(struct model *m, struct disk *d)
{
    uint8_t *buf = m->shots[0].buf;
    model_check_all(m, d);
    for (uint64_t at = 0; at < m->size; at += SHOT_MAX_BYTES) {
        disk_read(d, at, min_u64(SHOT_MAX_BYTES, m->size - at), buf);
        memcpy(m->data + at, buf, min_u64(SHOT_MAX_BYTES, m->size - at));
    }
    memset(m->unknown, 0, m->size / 512);
}

static void kill_many_times(unsigned times, unsigned cluster_bits, const char *convert, uint64_t stash_bytes)
{
    char path[64];
    struct shared *s = shared_new(12 * MiB, stash_bytes);
    scratch_on_disk = false;
    struct qcow2_create_args args = {
        .size_bytes = 12 * MiB, .version = 3, .cluster_bits = cluster_bits, .refcount_order = 4};
    /* The lock outlives the process for a moment, with what the kernel still does for it. */
    struct disk_options o = {.flags = DISK_FILE_WRITE | DISK_FILE_NO_LOCK, .stash = s->stash};
    image_make(path, &args);
    if (convert) run_ok("%s %s", convert, path);
    for (unsigned i = 0; i < times; i++) {
        s->opened = false;
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) child_works(s, path, o, i);
        int status = 0;
        pid_t ended = 0;
        for (unsigned ms = 0; !s->opened && ms < 5000 && ended == 0; ms++) {
            usleep(1000);
            ended = waitpid(pid, &status, WNOHANG);
        }
        assert_true(s->opened || ended == pid);
        if (!ended) {
            usleep((useconds_t)rnd_below(&(uint64_t){s->m.seed ^ i}, 40000));
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
        }
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        settle_killed_wave(&s->m);
        if (i % 3 == 0) continue; /* killed again with no clean close in between */
        struct disk d;
        disk_open(&d, path, &o);
        learn_all(&s->m, &d);
        if (i % 3 == 1) {
            disk_close(&d, true);
            /* Clusters replaced just before the kill may be leaked, nothing else. */
            image_is_sound(path, true);
            image_equals(path, s->m.data, s->m.size);
        } else {
            disk_close(&d, true);
        }
    }
    struct disk d;
    disk_open(&d, path, &o);
    learn_all(&s->m, &d);
    disk_close(&d, true);
    image_is_sound(path, true);
    image_equals(path, s->m.data, s->m.size);
    unlink(path);
}

static void killed_processes_lose_nothing(void **state)
{
    (void)state;
    kill_many_times(scale(24), 16, NULL, 64 << 10);
    kill_many_times(scale(12), 12, NULL, 32 << 10);
    kill_many_times(scale(12), 9, NULL, 1 << 20);
    kill_many_times(scale(12), 16, "qemu-img snapshot -c s", 64 << 10);
}

/* ---- failed requests ---- */

struct fault_case {
    const char *name;
    unsigned ops, flags;
    int error;
    bool stash;
    unsigned cluster_bits;
    const char *convert;
    bool in_base; /* a clone, and only requests to its base's file fail */
    enum fault_action action;
};

/* Work with one request failing, close, and see that everything else is there. False: it failed too late. */
static bool one_fault(const struct fault_case *k, uint64_t nth, uint64_t count)
{
    char path[64], base_path[64] = "";
    struct model m;
    scratch_on_disk = false;
    model_init(&m, 4 * MiB, nth);
    struct cut_case image = {
        .image = {.size_bytes = m.size, .version = 3, .cluster_bits = k->cluster_bits, .refcount_order = 4},
        .with_base = k->in_base};
    make_image(&image, &m, path, base_path);
    if (k->convert) run_ok("%s %s", k->convert, path);
    m.unknown = calloc(1, m.size / 512);
    m.errors_allowed = true;
    struct fault_plan *plan = fault_plan_new(1);
    struct disk_stash stash = {0};
    autofree void *mem = aligned_alloc(4096, 64 << 10);
    memset(mem, 0, 64 << 10);
    if (k->stash) stash = (struct disk_stash){mem, 64 << 10};
    struct disk d, base;
    struct disk_options o = {.flags = DISK_FILE_WRITE | k->flags, .maker = fault_plan_maker(plan), .stash = stash};
    if (k->in_base) disk_open(&base, base_path, &(struct disk_options){.maker = o.maker});
    if (k->in_base) o.below = &base;
    disk_open(&d, path, &o);
    unsigned rule = fault_plan_add(plan, &(struct fault_rule){.action = k->action,
                                                              .delay_ns = 3000000,
                                                              .ops = k->ops,
                                                              .file = k->in_base ? &base.file : NULL,
                                                              .nth = nth,
                                                              .count = count,
                                                              .error = k->error});
    for (unsigned i = 0; i < 12; i++)
        model_wave(&m, &d, 8);
    bool hit = fault_plan_hits(plan, rule) > 0;
    if (k->action == FAULT_DELAY) assert_int_equal(m.failures, 0);
    if (atomic_load(&qcow2_of(d.layer)->broken))
        fail_msg("%s: the image was taken for corrupt after request %" PRIu64 " failed", k->name, nth);
    int closed = disk_try_close(&d, !k->in_base);
    if (k->in_base) assert_int_equal(closed, 0);
    if (k->in_base) disk_close(&base, true);
    fault_plan_free(plan);
    o.maker = NULL;
    if (k->in_base) disk_open(&base, base_path, &(struct disk_options){0});
    disk_open(&d, path, &o);
    if (closed == 0 || k->stash) model_check_all(&m, &d); /* without a stash, a failed close has said so */
    disk_close(&d, !k->in_base);
    if (k->in_base) disk_close(&base, true);
    image_is_sound(path, true);
    unlink(path);
    if (k->in_base) unlink(base_path);
    model_free(&m);
    return hit;
}

static void failed_requests_hurt_only_themselves(void **state)
{
    (void)state;
    static const struct fault_case cases[] = {
        {"writes", FAULT_WRITES, 0, EIO, true, 16, NULL},
        {"writes, no stash", FAULT_WRITES, 0, EIO, false, 16, NULL},
        {"writes, small clusters", FAULT_WRITES, 0, EIO, true, 9, NULL},
        {"writes, snapshot", FAULT_WRITES, 0, EIO, true, 12, "qemu-img snapshot -c s"},
        {"syncs", FAULT_SYNCS, 0, EIO, true, 16, NULL},
        {"syncs, direct", FAULT_SYNCS, DISK_FILE_DIRECT, EIO, true, 16, NULL},
        {"syncs, no stash", FAULT_SYNCS, 0, EIO, false, 16, NULL},
        {"reads", FAULT_READS, 0, EIO, true, 12, "qemu-img snapshot -c s"},
        {"reads of the base", FAULT_READS, 0, EIO, true, 16, NULL, true},
        {"reads of the base, no stash", FAULT_READS, 0, EIO, false, 12, NULL, true},
        {"torn writes", FAULT_WRITES, 0, EIO, true, 12, .action = FAULT_TEAR},
        {"late writes", FAULT_WRITES, 0, 0, true, 12, .action = FAULT_DELAY},
        {"late syncs", FAULT_SYNCS, 0, 0, false, 12, .action = FAULT_DELAY},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (getenv("VERBOSE")) fprintf(stderr, "%s\n", cases[i].name);
        for (uint64_t nth = 1; one_fault(&cases[i], nth, 1); nth += nth / (thorough() ? 20 : 3) + 1)
            continue;
    }
}

struct base_fault {
    const char *name;
    enum disk_op op;
    unsigned flags;
    uint64_t offset, length;
};

/* The nth read of the base during one request fails. False: there were fewer. */
static bool one_base_fault(const struct base_fault *k, uint64_t nth)
{
    char path[64], base_path[64];
    struct model m;
    struct disk d, base;
    struct cut_case image = {.image = {.size_bytes = 2 * MiB, .version = 3, .cluster_bits = 16, .refcount_order = 4},
                             .with_base = true};
    scratch_on_disk = false;
    model_init(&m, image.image.size_bytes, 3);
    make_image(&image, &m, path, base_path);
    struct fault_plan *plan = fault_plan_new(1);
    disk_open(&base, base_path, &(struct disk_options){.maker = fault_plan_maker(plan)});
    disk_open(&d, path,
              &(struct disk_options){.flags = DISK_FILE_WRITE, .maker = fault_plan_maker(plan), .below = &base});
    unsigned rule = fault_plan_add(
        plan, &(struct fault_rule){.action = FAULT_FAIL, .ops = FAULT_READS, .file = &base.file, .nth = nth});
    autofree uint8_t *data = aligned_alloc(4096, 2 * MiB), *got = aligned_alloc(4096, 2 * MiB);
    bool reads = k->op == DISK_READ, zeroes = k->op == DISK_WRITE_ZEROES;
    uint64_t end = k->offset + k->length;
    memset(data, 'w', k->length);
    int ret = disk_io(&d, k->op, k->flags, k->offset, k->length, zeroes ? NULL : data);
    bool hit = fault_plan_hits(plan, rule) > 0;
    assert_int_equal(ret, hit ? -EIO : 0);
    /* What is not the request's is as before, and the same request works now. */
    if (hit) {
        disk_read(&d, 0, k->offset, got);
        assert_memory_equal(got, m.data, k->offset);
        disk_read(&d, end, m.size - end, got);
        assert_memory_equal(got, m.data + end, m.size - end);
        memset(data, 'w', k->length);
        assert_int_equal(disk_io(&d, k->op, k->flags, k->offset, k->length, zeroes ? NULL : data), 0);
    }
    if (reads) assert_memory_equal(data, m.data + k->offset, k->length);
    else if (zeroes) memset(m.data + k->offset, 0, k->length);
    else memcpy(m.data + k->offset, data, k->length);
    disk_flush(&d);
    if (hit) disk_read(&d, 0, m.size, got);
    if (hit) assert_memory_equal(got, m.data, m.size);
    disk_close(&d, false);
    disk_close(&base, true);
    image_is_sound(path, true);
    image_equals(path, m.data, m.size);
    fault_plan_free(plan);
    unlink(path);
    unlink(base_path);
    model_free(&m);
    return hit;
}

static void unreadable_base_fails_one_request(void **state)
{
    (void)state;
    static const struct base_fault cases[] = {
        {"read", DISK_READ, 0, 192 << 10, 4096},
        {"read of several clusters", DISK_READ, 0, (192 << 10) + 512, 300 << 10},
        {"write, both sides copied", DISK_WRITE, 0, (192 << 10) + 4096, 4096},
        {"write, head copied", DISK_WRITE, 0, (256 << 10) - 4096, 4096},
        {"write, tail copied", DISK_WRITE, 0, 192 << 10, 512},
        {"write of several clusters", DISK_WRITE, 0, (192 << 10) + 1024, 200 << 10},
        {"zeroes in a cluster", DISK_WRITE_ZEROES, DISK_REQ_UNMAP, (192 << 10) + 512, 8192},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (getenv("VERBOSE")) fprintf(stderr, "%s\n", cases[i].name);
        uint64_t nth = 1;
        while (one_base_fault(&cases[i], nth))
            nth++;
        assert_true(nth > 1); /* the base was read */
    }
}

static void full_storage(void **state)
{
    (void)state;
    static const struct fault_case full = {"full", FAULT_OP(ENGINE_WRITE), 0, ENOSPC, true, 16, NULL};
    static const struct fault_case full_small = {"full, no stash", FAULT_OP(ENGINE_WRITE), 0, ENOSPC, false, 12, NULL};
    for (uint64_t nth = 1; nth < 100; nth += 20) {
        one_fault(&full, nth, UINT64_MAX);
        one_fault(&full, nth, 30);
        one_fault(&full_small, nth, 30);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_cuts),
        cmocka_unit_test(power_cuts_at_points),
        cmocka_unit_test(power_cuts_while_growing),
        cmocka_unit_test(killed_processes_lose_nothing),
        cmocka_unit_test(failed_requests_hurt_only_themselves),
        cmocka_unit_test(unreadable_base_fails_one_request),
        cmocka_unit_test(full_storage),
    };
    if (!getenv("VERBOSE")) log_setup("test", 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
