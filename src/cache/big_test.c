/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cache past 4 GiB: filled, used, evicted. The base is a qcow2 image of 6 GiB made here by hand that takes a few MiB:
 * its clusters are 61 different ones, used over and over. Needs 6 GiB of memory for some seconds, else it is skipped.
 */
#include "cache/test_util.h"

#include "base/endian.h"
#include "cache/budget.h"

#define SIZE_BYTES (6 * GIB)
#define CLUSTER_BYTES (64 * KIB)
#define VARIETY 61u
#define L2_ENTRIES (CLUSTER_BYTES / 8)
#define BUDGET_BYTES (4 * GIB + 512 * MIB)

/* header | L1 | VARIETY clusters of data | L2 tables */
#define L1_OFFSET CLUSTER_BYTES
#define DATA_OFFSET (2 * CLUSTER_BYTES)
#define L2_OFFSET (DATA_OFFSET + VARIETY * CLUSTER_BYTES)

static uint64_t variety_at(uint64_t cluster)
{
    return mix(cluster) % VARIETY;
}

static void put(int fd, const void *data, size_t bytes, uint64_t offset)
{
    assert_int_equal(pwrite(fd, data, bytes, (off_t)offset), bytes);
}

static void make_image(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    uint64_t tables = SIZE_BYTES / CLUSTER_BYTES / L2_ENTRIES;
    uint64_t end =
        L2_OFFSET + tables * CLUSTER_BYTES; /* the refcount table; its only block says that nothing is free */
    struct {
        struct be32 magic, version;
        struct be64 backing_offset;
        struct be32 backing_size, cluster_bits;
        struct be64 size;
        struct be32 crypt, l1_size;
        struct be64 l1_offset, refcount_offset;
        struct be32 refcount_clusters, snapshots;
        struct be64 snapshots_offset;
    } __attribute__((packed)) header = {0};
    header.magic = be32_make(0x514649fb);
    header.version = be32_make(2);
    header.cluster_bits = be32_make(16);
    header.size = be64_make(SIZE_BYTES);
    header.l1_size = be32_make((uint32_t)tables);
    header.l1_offset = be64_make(L1_OFFSET);
    header.refcount_offset = be64_make(end);
    header.refcount_clusters = be32_make(1);
    put(fd, &header, sizeof header, 0);
    static struct be64 table[L2_ENTRIES];
    for (uint64_t i = 0; i < tables; i++)
        table[i] = be64_make(L2_OFFSET + i * CLUSTER_BYTES);
    put(fd, table, tables * 8, L1_OFFSET);
    static uint8_t data[CLUSTER_BYTES];
    for (uint64_t v = 0; v < VARIETY; v++) {
        pattern_fill(data, 0, sizeof data, v);
        put(fd, data, sizeof data, DATA_OFFSET + v * CLUSTER_BYTES);
    }
    for (uint64_t i = 0; i < tables; i++) {
        for (uint64_t n = 0; n < L2_ENTRIES; n++)
            table[n] = be64_make(DATA_OFFSET + variety_at(i * L2_ENTRIES + n) * CLUSTER_BYTES);
        put(fd, table, sizeof table, L2_OFFSET + i * CLUSTER_BYTES);
    }
    memset(table, 0, sizeof table);
    table[0] = be64_make(end + CLUSTER_BYTES);
    put(fd, table, sizeof table, end);
    memset(data, 1, sizeof data);
    put(fd, data, sizeof data, end + CLUSTER_BYTES);
    close(fd);
}

static bool content_right(const uint8_t *buf, uint64_t offset, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += 4096) {
        uint64_t where = offset + at;
        if (!pattern_check(buf + at, where % CLUSTER_BYTES, 4096, variety_at(where / CLUSTER_BYTES))) return false;
    }
    return true;
}

static void read_range(struct reader *r, uint8_t *buf, uint64_t from, uint64_t to)
{
    for (uint64_t offset = from; offset < to; offset += MIB) {
        assert_int_equal(reader_read(r, buf, offset, MIB), 0);
        if (offset / MIB % 16 == 0) assert_true(content_right(buf, offset, MIB));
    }
}

static void read_at_random(struct reader *r, uint8_t *buf, uint64_t below, unsigned count, uint64_t seed)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t offset = rnd(&seed) % (below / 4096) * 4096;
        assert_int_equal(reader_read(r, buf, offset, 4096), 0);
        assert_true(content_right(buf, offset, 4096));
    }
}

static void test_past_4_gib(void **state)
{
    (void)state;
    struct cache_memory_source source;
    struct cache_memory memory;
    assert_int_equal(cache_memory_open(&source), 0);
    assert_int_equal(cache_memory_read(&source, &memory), 0);
    cache_memory_close(&source);
    if (min_u64(memory.available_bytes, memory.group_left_bytes) < 6 * GIB) skip();
    const char *path = "cache-big.qcow2";
    make_image(path);
    struct cache_service *s = service_make(BUDGET_BYTES, NULL);
    struct cache_layer_want want = {.fd = open(path, O_RDONLY | O_CLOEXEC), .path = path, .format = DISK_FORMAT_QCOW2};
    struct errmsg e = {""};
    int channel;
    if (cache_service_connect(s, &want, 1, &channel, 1, &e) < 0) fail_msg("%s", e.text);
    struct reader r;
    reader_open_format(&r, path, DISK_FORMAT_QCOW2, channel);
    uint8_t *buf = malloc(MIB);
    struct cache_service_stats whole;

    /* Filled past 4 GiB ... */
    read_range(&r, buf, 0, 4 * GIB + 256 * MIB);
    assert_true(service_base_stats(s, NULL).cached_bytes >= 4 * GIB + 256 * MIB);
    assert_int_equal(service_base_stats(s, NULL).evicted_bytes, 0);
    /* ... used: all of it without asking anybody ... */
    uint64_t fills = service_base_stats(s, NULL).fills;
    read_at_random(&r, buf, 4 * GIB + 256 * MIB, 20000, 1);
    assert_int_equal(service_base_stats(s, NULL).fills, fills);
    /* ... and evicted, within the budget. */
    read_range(&r, buf, 4 * GIB + 256 * MIB, SIZE_BYTES);
    service_base_stats(s, &whole);
    assert_true(service_base_stats(s, NULL).evicted_bytes >= GIB);
    assert_in_range(whole.used_bytes, 4 * GIB, BUDGET_BYTES);
    read_at_random(&r, buf, SIZE_BYTES, 2000, 2);
    assert_int_equal(atomic_load(&reader_counters(&r)->direct_bytes), 0);
    assert_int_equal(cache_service_drop(s, NULL), 1);
    assert_int_equal(service_base_stats(s, NULL).cached_bytes, 0);
    reader_close(&r);
    cache_service_stop(s);
    unlink(path);
    free(buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_past_4_gib)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
