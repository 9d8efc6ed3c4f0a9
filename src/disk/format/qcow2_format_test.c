/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images that are malformed, marked, or damaged: what is refused says why, what is damaged is found and
 * repaired as qemu-img would, and nothing crashes.
 */
#include "disk/format/qcow2_test_util.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "disk/image.h"

static const struct disk_options writable = {.flags = DISK_FILE_WRITE};
static const struct disk_options read_only = {0};

static void poke(const char *path, uint64_t at, const void *data, size_t bytes)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, bytes, (off_t)at), bytes);
    close(fd);
}

static void poke8(const char *path, uint64_t at, uint8_t v)
{
    poke(path, at, &v, 1);
}

static void poke32(const char *path, uint64_t at, uint32_t v)
{
    struct be32 x = be32_make(v);
    poke(path, at, &x, sizeof x);
}

static void poke64(const char *path, uint64_t at, uint64_t v)
{
    struct be64 x = be64_make(v);
    poke(path, at, &x, sizeof x);
}

static uint64_t peek64(const char *path, uint64_t at)
{
    struct be64 x;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, &x, sizeof x, (off_t)at), sizeof x);
    close(fd);
    return be64_get(x);
}

/* 64 MiB, 64 KiB clusters: header 0, refcount table 1, refcount block 2, L1 3, L2 4?, data */
static void make_used(char path[64])
{
    struct qcow2_create_args args = {.size_bytes = 64 * MiB, .version = 3, .cluster_bits = 16, .refcount_order = 4};
    struct disk d;
    static uint8_t buf[MiB];
    uint64_t seed = 5;
    rnd_fill(&seed, buf, sizeof buf);
    image_make(path, &args);
    disk_open(&d, path, &writable);
    disk_write(&d, 2 * MiB, sizeof buf, buf);
    disk_close(&d, true);
}

static uint64_t l2_of(const char *path)
{
    return peek64(path, 3 * 65536) & QCOW2_OFFSET_MASK;
}

/* ---- refused headers ---- */

struct bad_header {
    unsigned at, bytes;
    uint64_t value;
    const char *says;
    bool only_writable;
};

static void malformed_headers_are_refused(void **state)
{
    (void)state;
    /* The field that is wrong is the one that was changed, except where it is another that does not fit to it now. */
    static const struct bad_header cases[] = {
        {0, 4, 0, "magic"},
        {4, 4, 1, "version"},
        {4, 4, 4, "version"},
        {8, 8, 65537, "backing file name"},
        {8, 8, 16, "backing file name"},
        {20, 4, 8, "cluster bits"},
        {20, 4, 22, "cluster bits"},
        {20, 4, 0xffffffff, "cluster bits"},
        {24, 8, 100, "multiple of 512"},
        {24, 8, UINT64_C(1) << 62, "limit"},
        {24, 8, UINT64_C(1) << 50, "at byte 36: L1 table"},
        {24, 8, 16 * GiB, "at byte 36: L1 table has"},
        {32, 4, 1, "encrypted"},
        {32, 4, 2, "encrypted"},
        {36, 4, 0x7fffffff, "L1 table"},
        {40, 8, 512, "aligned"},
        {40, 8, 0, "over the header"},
        {40, 8, 64 * GiB, "inside the file"},
        {40, 8, UINT64_MAX - 65535, "inside the file"},
        {48, 8, 65536 + 512, "aligned"},
        {48, 8, 0, "over the header"},
        {48, 8, UINT64_C(1) << 63, "inside the file"},
        {56, 4, 0, "clusters"},
        {56, 4, 1000000, "clusters"},
        {60, 4, 70000, "snapshots"},
        {72, 8, UINT64_C(1) << 2, "external data file"},
        {72, 8, UINT64_C(1) << 4, "extended L2"},
        {72, 8, UINT64_C(1) << 3, "at byte 104: compression type"},
        {72, 8, UINT64_C(1) << 63, "bit 63"},
        {96, 4, 7, "refcount order"},
        {100, 4, 100, "header length"},
        {100, 4, 105, "header length"},
        {100, 4, 70000, "header length"},
        {104, 1, 1, "compression type"},
        {72, 8, QCOW2_INCOMPAT_CORRUPT, "corrupt", true},
        {48, 8, 2 * 65536, "at byte 131072: refcount table entry 0", true}, /* a block taken for the table */
        {40, 8, 65536, "at byte 65536 (65536 bytes) overlaps", true},       /* the L1 table over the refcount table */
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char path[64];
        struct disk d;
        const struct bad_header *c = &cases[i];
        make_used(path);
        if (c->bytes == 8) poke64(path, c->at, c->value);
        else if (c->bytes == 4) poke32(path, c->at, (uint32_t)c->value);
        else poke8(path, c->at, (uint8_t)c->value);
        d.e.text[0] = 0;
        int ret = disk_try_open(&d, path, &writable);
        if (ret == 0) fail_msg("header with %llx at %u was accepted", (unsigned long long)c->value, c->at);
        char where[32] = "";
        if (!strstr(c->says, "at byte")) snprintf(where, sizeof where, ": at byte %u: ", c->at);
        if (!strstr(d.e.text, where)) fail_msg("case %zu does not say where: %s", i, d.e.text);
        if (!strstr(d.e.text, c->says) || !strstr(d.e.text, path)) fail_msg("case %zu says: %s", i, d.e.text);
        if (!c->only_writable) assert_int_not_equal(disk_try_open(&d, path, &read_only), 0);
        unlink(path);
    }
}

static void unknown_features_are_named(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    make_used(path);
    poke64(path, 72, UINT64_C(1) << 40 | UINT64_C(1) << 41);
    /* Our own images carry the table of names; put one of a future program into its first entry. */
    uint8_t entry[48] = {0, 40};
    strcpy((char *)entry + 2, "holographic clusters");
    poke(path, 112 + 8, entry, sizeof entry);
    assert_int_equal(disk_try_open(&d, path, &read_only), -ENOTSUP);
    assert_non_null(strstr(d.e.text, "bit 40 (holographic clusters), bit 41"));
    unlink(path);
}

static void short_files_are_refused(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    make_used(path);
    uint64_t lengths[] = {0, 3, 4, 71, 72, 103, 104, 511, 65536, 65536 * 2 + 1, 65536 * 3};
    for (size_t i = ARRAY_LEN(lengths); i-- > 0;) {
        assert_int_equal(truncate(path, (off_t)lengths[i]), 0);
        assert_int_not_equal(disk_try_open(&d, path, &writable), 0);
        assert_int_not_equal(disk_try_open(&d, path, &read_only), 0);
    }
    unlink(path);
}

/* ---- bad tables ---- */

/* What is logged goes to a file until log_take(), which returns it. */
static int log_to;

static void log_divert(void)
{
    char name[64];
    name_make(name);
    int fd = open(name, O_RDWR | O_APPEND | O_CLOEXEC);
    assert_true(fd >= 0);
    unlink(name);
    log_to = dup(STDERR_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
    log_setup("test", LOG_LEVEL_ERROR);
}

static const char *log_take(void)
{
    static char text[4096];
    ssize_t n = pread(STDERR_FILENO, text, sizeof text - 1, 0);
    dup2(log_to, STDERR_FILENO);
    close(log_to);
    if (!getenv("VERBOSE")) log_setup("test", 0);
    assert_true(n >= 0);
    text[n] = 0;
    return text;
}

static void bad_entries_hurt_only_their_clusters(void **state)
{
    (void)state;
    static const uint64_t entries[] = {
        UINT64_C(1) << 56 | 7 * 65536,                   /* reserved bit */
        QCOW2_COPIED | (7 * 65536 + 512),                /* not aligned */
        QCOW2_COPIED | UINT64_C(0x00ffffffffff0000),     /* past the end */
        QCOW2_COPIED,                                    /* no host cluster */
        QCOW2_COPIED | 65536,                            /* the refcount table */
        QCOW2_COMPRESSED | UINT64_C(0x3ff0000000000000), /* compressed, past the end */
        QCOW2_COMPRESSED | QCOW2_COPIED | 7 * 65536,
        QCOW2_COMPRESSED | 65536, /* compressed, in the refcount table */
    };
    char path[64];
    struct disk d;
    uint8_t buf[65536];
    make_used(path);
    uint64_t l2 = l2_of(path);
    for (size_t i = 0; i < ARRAY_LEN(entries); i++)
        poke64(path, l2 + 8 * i, entries[i]);
    log_divert();
    disk_open(&d, path, &writable);
    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        assert_int_equal(disk_io(&d, DISK_READ, 0, i * 65536, 4096, buf), -EIO);
        assert_int_equal(disk_io(&d, DISK_WRITE, 0, i * 65536, 4096, buf), -EIO);
        assert_int_equal(disk_io(&d, DISK_WRITE_ZEROES, 0, i * 65536, 65536, NULL), -EIO);
        assert_int_equal(disk_io(&d, DISK_DISCARD, 0, i * 65536, 65536, NULL), 0);
    }
    disk_read(&d, 2 * MiB, sizeof buf, buf);
    disk_write(&d, 3 * MiB, sizeof buf, buf); /* in the same table */
    disk_close(&d, true);
    const char *log = log_take();
    char says[256];
    snprintf(
        says, sizeof says,
        "%s: at byte %llu: L2 entry 0x0100000000070000 of guest cluster 0 (guest offset 0x0): reserved bits are set",
        path, (unsigned long long)l2);
    if (!strstr(log, says)) fail_msg("the log does not say \"%s\" but: %s", says, log);
    for (size_t i = 0; i < ARRAY_LEN(entries); i++)
        assert_true(peek64(path, l2 + 8 * i) == entries[i]); /* left for somebody to look at */
    unlink(path);
}

/* Clusters past the end of the file are errors for whoever opens it; a tail that was never written (sparse) is not; and what
 * is cut off while it is open reads as zeroes: the file may end anywhere in its last cluster, and to look at its length at every
 * read would buy nothing, since the next write makes it long again. */
static void files_that_end_early(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    struct stat st;
    uint8_t buf[65536], zero[65536] = {0};
    name_make(path);
    run_ok("qemu-img create -q -f qcow2 %s 64M", path);
    run_ok("qemu-io -f qcow2 -c 'write -P 100 4M 1M' %s", path); /* data behind the table that says where it is */
    assert_int_equal(stat(path, &st), 0);
    uint64_t first = peek64(path, l2_of(path) + 64 * 8) & QCOW2_OFFSET_MASK; /* of the cluster at 4 MiB */
    assert_true(first > l2_of(path) && first + MiB <= (uint64_t)st.st_size);
    disk_open(&d, path, &read_only);
    disk_read(&d, 5 * MiB - sizeof buf, sizeof buf, buf);
    assert_memory_not_equal(buf, zero, sizeof buf);
    assert_int_equal(truncate(path, (off_t)(first + 65536 + 4096)), 0); /* into the second of sixteen */
    disk_read(&d, 5 * MiB - sizeof buf, sizeof buf, buf);
    assert_memory_equal(buf, zero, sizeof buf);
    disk_close(&d, true);
    for (unsigned writing = 0; writing < 2; writing++) {
        disk_open(&d, path, writing ? &writable : &read_only);
        disk_read(&d, 4 * MiB, sizeof buf, buf);
        assert_memory_not_equal(buf, zero, sizeof buf);
        disk_read(&d, 4 * MiB + 65536, sizeof buf, buf);
        assert_memory_not_equal(buf, zero, 4096);
        assert_memory_equal(buf + 4096, zero, sizeof buf - 4096);
        for (uint64_t at = 4 * MiB + 2 * 65536; at < 5 * MiB; at += 65536)
            assert_int_equal(disk_io(&d, DISK_READ, 0, at, 4096, buf), -EIO);
        disk_read(&d, 2 * MiB, sizeof buf, buf);
        disk_close(&d, true);
    }
    unlink(path);
}

static void bad_l1_entries_are_refused(void **state)
{
    (void)state;
    static const uint64_t entries[] = {UINT64_C(1) << 60 | 4 * 65536, 4 * 65536 + 512, UINT64_C(1) << 40, QCOW2_COPIED,
                                       QCOW2_COPIED | 65536};
    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        char path[64];
        struct disk d;
        make_used(path);
        poke64(path, 3 * 65536, entries[i]);
        assert_int_equal(disk_try_open(&d, path, &writable), -EINVAL);
        assert_non_null(strstr(d.e.text, i < 4 ? "at byte 196608: L1 entry 0" : "overlaps"));
        unlink(path);
    }
}

/* Refcounts that are too low lead a writer to clusters in use: it must notice before it harms tables. */
static void tables_are_never_written_over(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    uint8_t buf[65536] = {1};
    make_used(path);
    uint8_t none[2 * 200] = {0};
    poke(path, 2 * 65536, none, sizeof none); /* everything counts as free */
    disk_open(&d, path, &writable);
    assert_int_equal(disk_io(&d, DISK_WRITE, 0, 30 * MiB, sizeof buf, buf), -EIO);
    assert_int_equal(disk_io(&d, DISK_WRITE, 0, 2 * MiB, sizeof buf, buf), -EIO); /* no writes at all any more */
    disk_read(&d, 2 * MiB, sizeof buf, buf);
    assert_int_not_equal(disk_try_close(&d, true), 0);
    assert_true(peek64(path, 72) & QCOW2_INCOMPAT_CORRUPT);
    assert_int_equal(disk_try_open(&d, path, &writable), -EIO);
    run_ok("qemu-img check -r all %s > /dev/null || qemu-img check %s", path, path);
    disk_open(&d, path, &writable);
    disk_close(&d, true);
    unlink(path);
}

/* ---- marks ---- */

static void dirty_images_are_made_whole(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    uint8_t buf[65536], want[65536];
    name_make(path);
    run_ok("qemu-img create -f qcow2 -o lazy_refcounts=on %s 64M > /dev/null", path);
    run_shell("qemu-io -f qcow2 -c 'write -P 7 1M 3M' -c flush -c abort %s", path);
    assert_true(peek64(path, 72) & QCOW2_INCOMPAT_DIRTY);
    disk_open(&d, path, &read_only); /* reading needs no refcounts */
    disk_close(&d, true);
    assert_true(peek64(path, 72) & QCOW2_INCOMPAT_DIRTY);
    disk_open(&d, path, &writable);
    memset(want, 7, sizeof want);
    memset(buf, 9, sizeof buf);
    disk_write(&d, 40 * MiB, sizeof buf, buf);
    disk_read(&d, 3 * MiB, sizeof buf, buf);
    assert_memory_equal(buf, want, sizeof buf);
    disk_close(&d, true);
    assert_false(peek64(path, 72) & QCOW2_INCOMPAT_DIRTY);
    image_is_sound(path, false);
    unlink(path);
}

static void autoclear_bits_are_dropped_by_writers_only(void **state)
{
    (void)state;
    char path[64];
    struct disk d;
    struct image_info info;
    name_make(path);
    run_ok("qemu-img create -f qcow2 %s 64M > /dev/null && qemu-img bitmap --add %s dirt", path, path);
    assert_int_equal(image_info(path, DISK_FORMAT_QCOW2, &info, &d.e), 0);
    assert_true(info.has_bitmaps && info.bitmaps_consistent);
    disk_open(&d, path, &read_only);
    disk_close(&d, true);
    assert_int_equal(peek64(path, 88), QCOW2_AUTOCLEAR_BITMAPS);
    image_is_sound(path, false);
    disk_open(&d, path, &writable);
    uint8_t buf[4096] = {3};
    disk_write(&d, MiB, sizeof buf, buf);
    disk_close(&d, true);
    assert_int_equal(peek64(path, 88), 0);
    image_is_sound(path, true); /* the bitmap's clusters are leaked, as the format has it */
    unlink(path);
}

/* ---- checking and repairing ---- */

static void collect(void *arg, const char *text)
{
    (void)text;
    ++*(unsigned *)arg;
}

static struct image_check_result check(const char *path, enum image_repair repair)
{
    struct image_check_result r;
    struct errmsg e;
    unsigned findings = 0;
    struct image_check_args args = {.repair = repair, .finding = collect, .finding_arg = &findings};
    if (image_check(path, DISK_FORMAT_QCOW2, &args, &r, &e) < 0) fail_msg("%s", e.text);
    assert_true((r.errors + r.leaks > 0) == (findings > 0));
    return r;
}

struct damage {
    const char *name;
    void (*harm)(const char *path);
    bool error, leak;
    bool repairable;
    bool harsher; /* qemu-img calls the COPIED flag of a leaked cluster an error */
};

static void harm_leak(const char *path)
{
    uint8_t one[2] = {0, 1};
    poke(path, 2 * 65536 + 2 * 60, one, 2);
}

static void harm_leak_shared(const char *path)
{
    uint8_t two[2] = {0, 2};
    poke(path, 2 * 65536 + 2 * 6, two, 2);
}

static void harm_low(const char *path)
{
    uint8_t none[2] = {0};
    poke(path, 2 * 65536 + 2 * 6, none, 2);
}

static void harm_flag(const char *path)
{
    uint64_t at = l2_of(path) + 8 * 33;
    poke64(path, at, peek64(path, at) & ~QCOW2_COPIED);
}

static void harm_l1_flag(const char *path)
{
    poke64(path, 3 * 65536, peek64(path, 3 * 65536) & ~QCOW2_COPIED);
}

static void harm_shared_cluster(const char *path)
{
    uint64_t l2 = l2_of(path);
    poke64(path, l2 + 8 * 900, peek64(path, l2 + 8 * 33));
}

static void harm_no_block(const char *path)
{
    poke64(path, 65536, 0);
}

static void harm_bad_block(const char *path)
{
    poke64(path, 65536, UINT64_C(1) << 50);
}

static void harm_bad_entry(const char *path)
{
    poke64(path, l2_of(path) + 8 * 901, QCOW2_COPIED | UINT64_C(1) << 50);
}

static void damage_is_found_and_repaired(void **state)
{
    (void)state;
    static const struct damage cases[] = {
        {"a leak", harm_leak, false, true, true},
        {"a refcount too high", harm_leak_shared, false, true, true, .harsher = true},
        {"a refcount too low", harm_low, true, false, true},
        {"a flag missing", harm_flag, true, false, true},
        {"a flag missing in L1", harm_l1_flag, true, false, true},
        {"two entries for one cluster", harm_shared_cluster, true, false, true},
        {"no refcount block", harm_no_block, true, false, true},
        {"a refcount block nowhere", harm_bad_block, true, false, true},
        {"an entry that leads nowhere", harm_bad_entry, true, false, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char path[64], before[80];
        const struct damage *c = &cases[i];
        make_used(path);
        c->harm(path);
        snprintf(before, sizeof before, "%s.before", path);
        if (c->repairable) run_ok("qemu-img convert -f qcow2 -O raw %s %s", path, before);
        struct image_check_result r = check(path, IMAGE_REPAIR_NONE);
        int judged = run_shell("qemu-img check %s", path);
        if ((r.errors > 0) != c->error || (judged == 2) != (c->error || c->harsher))
            fail_msg("%s: %llu errors, qemu-img says %d: %s", c->name, (unsigned long long)r.errors, judged,
                     run_output);
        if (c->leak && r.leaks == 0) fail_msg("%s: no leak found", c->name);
        r = check(path, IMAGE_REPAIR_LEAKS);
        if (!c->error) assert_int_equal(r.leaks_fixed, r.leaks);
        r = check(path, IMAGE_REPAIR_ALL);
        if (c->repairable) {
            assert_int_equal(r.errors_fixed, r.errors);
            r = check(path, IMAGE_REPAIR_NONE);
            assert_int_equal(r.errors + r.leaks, 0);
            image_is_sound(path, false);
            run_ok("qemu-img compare -f qcow2 -F raw %s %s && rm %s", path, before, before);
        } else {
            assert_true(r.errors_fixed < r.errors);
        }
        unlink(path);
    }
}

/* Two references to a cluster, and refcounts of one bit: nobody can mend that, nor say so. */
static void more_references_than_a_refcount_holds(void **state)
{
    (void)state;
    char path[64];
    image_make(path, &(struct qcow2_create_args){.size_bytes = MiB, .version = 3, .cluster_bits = 16});
    run_ok("qemu-img create -q -f qcow2 -o refcount_bits=1 %s 1M && qemu-io -f qcow2 -c 'write 0 128k' %s", path, path);
    uint64_t l2 = peek64(path, peek64(path, 40)) & QCOW2_OFFSET_MASK;
    poke64(path, l2 + 8 * 9, peek64(path, l2));
    struct image_check_result r = check(path, IMAGE_REPAIR_ALL);
    assert_true(r.errors_fixed < r.errors);
    r = check(path, IMAGE_REPAIR_NONE);
    assert_true(r.errors > 0);
    unlink(path);
}

/* A sound image of any kind is found sound, and by the same numbers as qemu-img's. */
static void sound_images_are_found_sound(void **state)
{
    (void)state;
    static const char *const options[] = {
        "-o cluster_size=512,refcount_bits=1",
        "-o cluster_size=4k,refcount_bits=64",
        "-o cluster_size=2M",
        "-c",
        "-c -o compression_type=zstd",
        "-o compat=0.10",
        "-o preallocation=metadata",
    };
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        char path[64], raw[64];
        static uint8_t buf[6 * MiB];
        uint64_t seed = i + 1;
        for (size_t at = 0; at < sizeof buf; at += 100000)
            rnd_fill(&seed, buf + at, 30000);
        name_make(path);
        name_make(raw);
        poke(raw, 0, buf, sizeof buf);
        run_ok("qemu-img convert -f raw -O qcow2 %s %s %s", options[i], raw, path);
        if (i != 0)
            run_ok("qemu-img snapshot -c one %s && qemu-io -c 'write 1M 100k' %s && qemu-img snapshot -c two %s", path,
                   path, path);
        struct image_check_result r = check(path, IMAGE_REPAIR_NONE);
        assert_int_equal(r.errors + r.leaks, 0);
        run_ok("qemu-img check --output=json %s", path);
        char want[64];
        snprintf(want, sizeof want, "\"allocated-clusters\": %llu,", (unsigned long long)r.allocated_clusters);
        if (!strstr(run_output, want)) fail_msg("%s: expected %s in %s", options[i], want, run_output);
        unlink(path);
        unlink(raw);
    }
}

/* ---- noise: bytes of the tables changed at random ---- */

static void use_whatever_it_is(const char *path, unsigned flags, uint64_t *seed)
{
    struct disk d;
    static uint8_t buf[65536];
    if (disk_try_open(&d, path, &(struct disk_options){.flags = flags}) < 0) return;
    uint64_t size = layer_size(d.layer);
    for (unsigned i = 0; i < 24 && size >= sizeof buf; i++) {
        uint64_t at = rnd_below(seed, min_u64(size, 64 * MiB) / 512 - 127) * 512;
        static const enum disk_op ops[] = {DISK_READ,    DISK_WRITE,        DISK_READ,
                                           DISK_DISCARD, DISK_WRITE_ZEROES, DISK_FLUSH};
        enum disk_op op = ops[rnd_below(seed, 6)];
        disk_io(&d, op, 0, op == DISK_FLUSH ? 0 : at, op == DISK_FLUSH ? 0 : sizeof buf, buf);
    }
    disk_try_close(&d, true);
}

static void noise_does_no_harm(void **state)
{
    (void)state;
    char path[64], copy[80];
    struct errmsg e;
    make_used(path);
    run_ok("qemu-img snapshot -c s %s", path);
    snprintf(copy, sizeof copy, "%s.noise", path);
    uint64_t seed = 99;
    for (unsigned i = 0; i < 150; i++) {
        run_ok("cp %s %s", path, copy);
        unsigned changes = 1 + (unsigned)rnd_below(&seed, 6);
        for (unsigned j = 0; j < changes; j++) {
            static const uint64_t places[] = {0, 65536, 131072, 196608};
            uint64_t base = rnd_below(&seed, 3) ? places[rnd_below(&seed, 4)] : l2_of(path);
            poke8(copy, base + rnd_below(&seed, base ? 300 : 112), (uint8_t)rnd(&seed));
        }
        struct image_check_result r;
        struct image_check_args args = {.repair = IMAGE_REPAIR_NONE};
        use_whatever_it_is(copy, 0, &seed);
        image_check(copy, DISK_FORMAT_QCOW2, &args, &r, &e);
        use_whatever_it_is(copy, DISK_FILE_WRITE, &seed);
        args.repair = IMAGE_REPAIR_ALL;
        image_check(copy, DISK_FORMAT_QCOW2, &args, &r, &e);
    }
    unlink(path);
    unlink(copy);
}

/* ---- the tools ---- */

static void tools_create_clone_and_describe(void **state)
{
    (void)state;
    char base[64], clone[80], raw[80];
    struct errmsg e;
    struct image_info info;
    name_make(base);
    unlink(base);
    snprintf(clone, sizeof clone, "%s.clone", base);
    snprintf(raw, sizeof raw, "%s.raw", base);
    struct image_create_args args = {.format = DISK_FORMAT_QCOW2, .size_bytes = 10 * MiB + 1};
    if (image_create(base, &args, &e) < 0) fail_msg("%s", e.text);
    assert_int_equal(image_create(base, &args, &e), -EEXIST);
    if (image_clone(clone, base, DISK_FORMAT_QCOW2, &e) < 0) fail_msg("%s", e.text);
    if (image_info(clone, DISK_FORMAT_QCOW2, &info, &e) < 0) fail_msg("%s", e.text);
    assert_int_equal(info.size_bytes, 10 * MiB + 512);
    assert_string_equal(info.backing_format, "qcow2");
    assert_true(info.backing_name[0] == '/' && info.cluster_bytes == 65536 && info.refcount_bits == 16 &&
                info.version == 3);
    image_is_sound(clone, false);
    run_ok("qemu-img info %s | grep -q 'backing file: %s'", clone, info.backing_name);
    args =
        (struct image_create_args){.format = DISK_FORMAT_RAW, .size_bytes = MiB, .preallocate = IMAGE_PREALLOCATE_FULL};
    if (image_create(raw, &args, &e) < 0) fail_msg("%s", e.text);
    assert_int_equal(image_info(raw, DISK_FORMAT_RAW, &info, &e), 0);
    assert_int_equal(info.size_bytes, MiB);
    assert_true(info.allocated_bytes >= MiB);
    assert_int_equal(image_info(raw, DISK_FORMAT_QCOW2, &info, &e), -EINVAL);
    unlink(clone);
    assert_int_equal(image_clone(clone, raw, DISK_FORMAT_QCOW2, &e), -EINVAL); /* never what it is not said to be */
    assert_int_equal(access(clone, F_OK), -1);
    args = (struct image_create_args){.format = DISK_FORMAT_QCOW2, .size_bytes = MiB, .cluster_bytes = 1000};
    assert_int_equal(image_create(clone, &args, &e), -EINVAL);
    assert_int_equal(access(clone, F_OK), -1);
    unlink(base);
    unlink(raw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_headers_are_refused),
        cmocka_unit_test(unknown_features_are_named),
        cmocka_unit_test(short_files_are_refused),
        cmocka_unit_test(bad_entries_hurt_only_their_clusters),
        cmocka_unit_test(files_that_end_early),
        cmocka_unit_test(bad_l1_entries_are_refused),
        cmocka_unit_test(tables_are_never_written_over),
        cmocka_unit_test(dirty_images_are_made_whole),
        cmocka_unit_test(autoclear_bits_are_dropped_by_writers_only),
        cmocka_unit_test(damage_is_found_and_repaired),
        cmocka_unit_test(more_references_than_a_refcount_holds),
        cmocka_unit_test(sound_images_are_found_sound),
        cmocka_unit_test(noise_does_no_harm),
        cmocka_unit_test(tools_create_clone_and_describe),
    };
    if (!getenv("VERBOSE")) log_setup("test", 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
