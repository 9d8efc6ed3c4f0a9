/* SPDX-License-Identifier: Apache-2.0 */
/* Memory: tables and single regions, good and bad, and while rings run. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/vhost_user_test/front.h"

#define OTHER_GUEST UINT64_C(0x80000000)
#define OTHER_USER UINT64_C(0x7f3400000000)

struct table {
    struct vu_mem_table_head head;
    struct vu_region region[VU_FDS_MAX];
};

static uint64_t set_table(struct front *f, const struct table *t, const int *fds, unsigned fd_count)
{
    return front_ack(f, VU_SET_MEM_TABLE, t, sizeof t->head + t->head.count * sizeof t->region[0], fds, fd_count);
}

static uint64_t one_region(struct front *f, uint32_t request, struct vu_region r, int fd)
{
    struct vu_single_region m = {.region = r};
    return front_ack(f, request, &m, sizeof m, &fd, fd >= 0 ? 1 : 0);
}

static void ready(struct front *f)
{
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
}

static unsigned regions(struct front *f)
{
    struct vhost_session_info info;
    vhost_session_describe(f->session, &info);
    return info.regions;
}

static void most_regions(void **state)
{
    struct front *f = *state;
    struct table t = {.head = {VU_FDS_MAX, 0}};
    int fds[VU_FDS_MAX];
    ready(f);
    for (unsigned i = 0; i < VU_FDS_MAX; i++) {
        t.region[i] = (struct vu_region){MEM_GUEST + i * 0x10000, 4096, MEM_USER + i * 0x10000, i % 256 * 4096};
        fds[i] = f->mem_fd;
    }
    assert_int_equal(set_table(f, &t, fds, VU_FDS_MAX), 0);
    assert_int_equal(regions(f), VU_FDS_MAX);
    assert_int_equal(set_table(f, &t, fds, VU_FDS_MAX), 0); /* again: the old one goes */
    assert_int_equal(regions(f), VU_FDS_MAX);
    assert_int_equal(f->held_count, VU_FDS_MAX + 2);
    /* And the rest of what may be, one by one. */
    for (unsigned i = VU_FDS_MAX; i < VHOST_REGIONS_MAX; i++)
        assert_int_equal(one_region(f, VU_ADD_MEM_REG,
                                    (struct vu_region){MEM_GUEST + i * 0x10000, 4096, MEM_USER + i * 0x10000, 0},
                                    f->mem_fd),
                         0);
    struct vu_region more = {MEM_GUEST + UINT64_C(0x10000000), 4096, MEM_USER + UINT64_C(0x10000000), 0};
    assert_int_equal(one_region(f, VU_ADD_MEM_REG, more, f->mem_fd), ENOSPC);
    /* With as many as there can be, a whole new table still fits. */
    assert_int_equal(set_table(f, &t, fds, VU_FDS_MAX), 0);
    assert_int_equal(regions(f), VU_FDS_MAX);
}

/* User-mode Linux sends room for two regions, whatever their number. */
static void longer_than_needed(void **state)
{
    struct front *f = *state;
    struct table t = {.head = {1, 0}, .region = {{MEM_GUEST, MEM_BYTES, MEM_USER, 0}}};
    ready(f);
    assert_int_equal(front_ack(f, VU_SET_MEM_TABLE, &t, sizeof t.head + 2 * sizeof t.region[0], &f->mem_fd, 1), 0);
    assert_int_equal(regions(f), 1);
}

static void bad_tables(void **state)
{
    struct front *f = *state;
    int fds[8], short_fd = memfd_create("short", MFD_CLOEXEC);
    for (unsigned i = 0; i < 8; i++)
        fds[i] = f->mem_fd;
    assert_int_equal(ftruncate(short_fd, 8192), 0);
    static const struct vu_region bad[][2] = {
        {{MEM_GUEST, 0, MEM_USER, 0}},                    /* of no size */
        {{UINT64_MAX - 4095, 8192, MEM_USER, 0}},         /* wraps */
        {{MEM_GUEST, 8192, UINT64_MAX - 4095, 0}},        /* the same, user addresses */
        {{MEM_GUEST, MEM_BYTES + 4096, MEM_USER, 0}},     /* more than its file has */
        {{MEM_GUEST, 4096, MEM_USER, MEM_BYTES}},         /* behind its file */
        {{MEM_GUEST, 4096, MEM_USER, UINT64_MAX - 4095}}, /* offset wraps */
        {{MEM_GUEST, UINT64_MAX, MEM_USER, 0}},
        {{MEM_GUEST, 8192, MEM_USER, 0}, {MEM_GUEST + 4096, 4096, OTHER_USER, 0}}, /* overlap */
        {{MEM_GUEST, 8192, MEM_USER, 0}, {OTHER_GUEST, 4096, MEM_USER + 4096, 0}}, /* overlap, user addresses */
        {{MEM_GUEST, 8192, MEM_USER, 0}, {MEM_GUEST, 8192, OTHER_USER, 0}},
    };
    ready(f);
    front_share_memory(f);
    front_start_ring(f, 0);
    unsigned before = count_open_fds();
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct table t = {.head = {bad[i][1].size_bytes ? 2 : 1, 0}, .region = {bad[i][0], bad[i][1]}};
        assert_int_not_equal(set_table(f, &t, fds, t.head.count), 0);
        if (!bad[i][1].size_bytes && i > 0)
            assert_int_not_equal(one_region(f, VU_ADD_MEM_REG, bad[i][0], f->mem_fd), 0);
    }
    struct table t = {.head = {1, 0}, .region = {{MEM_GUEST, 16384, MEM_USER, 0}}};
    assert_int_not_equal(set_table(f, &t, &short_fd, 1), 0);
    t.head.count = 0;
    assert_int_equal(set_table(f, &t, NULL, 0), EINVAL);
    t.head.count = VU_FDS_MAX + 1;
    assert_int_equal(front_ack(f, VU_SET_MEM_TABLE, &t, sizeof t, fds, 8), EINVAL);
    t.head.count = 3;
    assert_int_equal(set_table(f, &t, fds, 2), EINVAL);
    assert_int_equal(front_ack(f, VU_SET_MEM_TABLE, &t, sizeof t.head + 2 * sizeof t.region[0], fds, 3), EINVAL);
    /* All that changed nothing. */
    assert_int_equal(regions(f), 1);
    assert_true(f->fake.queue[0].running);
    assert_int_equal(f->fake.queue[0].starts, 1);
    assert_int_equal(f->fake.maps_set, 0);
    assert_int_equal(count_open_fds(), before);
    close(short_fd);
}

static void added_and_removed(void **state)
{
    struct front *f = *state;
    struct vu_region first = {MEM_GUEST, MEM_BYTES / 2, MEM_USER, 0};
    struct vu_region second = {OTHER_GUEST, MEM_BYTES / 2, OTHER_USER, MEM_BYTES / 2};
    ready(f);
    assert_int_equal(one_region(f, VU_ADD_MEM_REG, first, f->mem_fd), 0);
    front_start_ring(f, 0);
    assert_int_equal(one_region(f, VU_ADD_MEM_REG, second, f->mem_fd), 0);
    assert_int_equal(f->fake.maps_set, 1);
    assert_int_equal(f->fake.maps_grown, 1);
    f->mem[MEM_BYTES / 2 + 5] = 'x';
    assert_int_equal(*(char *)guest_map_at(f->fake.queue[0].map, (struct gpa){OTHER_GUEST + 5}, 1), 'x');
    /* Twice is once too often, and so is any overlap. */
    assert_int_not_equal(one_region(f, VU_ADD_MEM_REG, second, f->mem_fd), 0);
    assert_int_equal(regions(f), 2);
    /* The rings' own memory stays. */
    assert_int_equal(one_region(f, VU_REM_MEM_REG, first, -1), EFAULT);
    assert_int_equal(regions(f), 2);
    struct vu_region wrong = second;
    wrong.size_bytes -= 4096;
    assert_int_equal(one_region(f, VU_REM_MEM_REG, wrong, -1), ENOENT);
    second.file_offset_bytes = 0; /* is not looked at */
    assert_int_equal(one_region(f, VU_REM_MEM_REG, second, f->mem_fd), 0);
    assert_int_equal(f->fake.maps_set, 2);
    assert_int_equal(f->fake.maps_grown, 1);
    assert_null(guest_map_at(f->fake.queue[0].map, (struct gpa){OTHER_GUEST + 5}, 1));
    assert_int_equal(one_region(f, VU_REM_MEM_REG, second, -1), ENOENT);
    /* Once nothing runs, everything may go. */
    front_get_base(f, 0);
    assert_int_equal(one_region(f, VU_REM_MEM_REG, first, -1), 0);
    assert_int_equal(regions(f), 0);
    assert_int_equal(f->fake.queue[0].starts, 1);
}

/* A table that has all of the old: nothing stops. */
static void grows_under_a_running_ring(void **state)
{
    struct front *f = *state;
    int fds[2] = {f->mem_fd, f->mem_fd};
    struct table t = {.head = {2, 0},
                      .region = {{OTHER_GUEST, 8192, OTHER_USER, 4096}, {MEM_GUEST, MEM_BYTES, MEM_USER, 0}}};
    ready(f);
    front_share_memory(f);
    front_start_ring(f, 0);
    void *desc = f->fake.queue[0].q.setup.desc;
    assert_int_equal(set_table(f, &t, fds, 2), 0);
    assert_int_equal(f->fake.queue[0].starts, 1);
    assert_int_equal(f->fake.maps_grown, 1);
    assert_ptr_equal(guest_map_at_user(f->fake.queue[0].map, MEM_USER, 16), desc);
    /* Again the same, and back to what it was. */
    assert_int_equal(set_table(f, &t, fds, 2), 0);
    front_share_memory(f);
    assert_int_equal(f->fake.queue[0].starts, 1);
    assert_int_equal(f->fake.maps_set, 3);
    assert_int_equal(f->fake.maps_grown, 2);
}

/* A table under which the ring lies elsewhere: it stops and goes on there. */
static void moves_under_a_running_ring(void **state)
{
    struct front *f = *state;
    int other = memfd_create("other", MFD_CLOEXEC);
    assert_int_equal(ftruncate(other, (off_t)MEM_BYTES), 0);
    struct table t = {.head = {1, 0}, .region = {{MEM_GUEST, MEM_BYTES, MEM_USER, 0}}};
    ready(f);
    front_share_memory(f);
    front_start_ring(f, 0);
    front_start_ring(f, 2);
    f->fake.stop_base = 40;
    assert_int_equal(set_table(f, &t, &other, 1), 0);
    assert_int_equal(f->fake.queue[0].starts, 2);
    assert_int_equal(f->fake.queue[2].starts, 2);
    assert_int_equal(f->fake.queue[2].q.setup.base, 42);
    assert_false(f->fake.queue[2].q.setup.resume);
    *(char *)f->fake.queue[2].q.setup.desc = 'd';
    char c = 0;
    assert_int_equal(pread(other, &c, 1, 2 * 4096), 1);
    assert_int_equal(c, 'd');
    /* And one where it lies nowhere: refused, it runs on. */
    t.region[0].user_addr = OTHER_USER;
    assert_int_equal(set_table(f, &t, &other, 1), EFAULT);
    assert_int_equal(f->fake.queue[2].starts, 2);
    assert_true(f->fake.queue[0].running);
    close(other);
}

static void table_without_ack_ends(void **state)
{
    struct front *f = *state;
    struct table t = {.head = {1, 0}, .region = {{MEM_GUEST, MEM_BYTES * 2, MEM_USER, 0}}};
    ready(f);
    front_send(f, VU_SET_MEM_TABLE, VU_VERSION, &t, 40, &f->mem_fd, 1);
    front_assert_ended(f, "SET_MEM_TABLE");
}

static void rekept(void **state)
{
    struct front *f = *state;
    ready(f);
    front_share_memory(f);
    front_start_ring(f, 1);
    unsigned n = f->held_count;
    while (f->held_count)
        f->args.hold.drop(f, f->held[0].name);
    vhost_session_rekeep(f->session);
    assert_int_equal(f->held_count, n);
    assert_true(front_held(f, "call.1") >= 0 && front_held(f, "region.0") >= 0 && front_held(f, "reply") >= 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRONT_TEST(most_regions),
        FRONT_TEST(longer_than_needed),
        FRONT_TEST(bad_tables),
        FRONT_TEST(added_and_removed),
        FRONT_TEST(grows_under_a_running_ring),
        FRONT_TEST(moves_under_a_running_ring),
        FRONT_TEST(table_without_ack_ends),
        FRONT_TEST(rekept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
