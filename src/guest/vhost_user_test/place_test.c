/* SPDX-License-Identifier: Apache-2.0 */
/* Devices that complete in order: the session keeps where their queues stand. And who is told that a guest has moved. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "guest/vhost_user_test/front.h"

#define NOT_OF_CARDS (BIT64(VU_PROTOCOL_F_INFLIGHT_SHMFD) | BIT64(VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS))
#define PROTOCOL_FEATURES ((ALL_PROTOCOL_FEATURES & ~NOT_OF_CARDS) | BIT64(VU_PROTOCOL_F_RARP))

static uint8_t announced[6];
static unsigned announcements;

static void fake_announce(void *device, const uint8_t mac[6])
{
    memcpy(announced, mac, sizeof announced);
    announcements++;
}

static void negotiate(struct front *f, uint64_t features)
{
    f->fake.ops.in_order = true;
    f->fake.ops.announce = fake_announce;
    front_negotiate(f, USUAL_FEATURES | features, PROTOCOL_FEATURES);
    front_share_memory(f);
}

static const struct virtq_setup *setup(const struct front *f, unsigned index)
{
    return &f->fake.queue[index].q.setup;
}

static void goes_on_where_it_was(void **state)
{
    struct front *f = *state;
    struct errmsg e;
    negotiate(f, 0);
    assert_false(front_get_u64(f, VU_GET_PROTOCOL_FEATURES) & NOT_OF_CARDS);
    front_start_ring(f, 1);
    assert_null(setup(f, 1)->inflight);
    assert_non_null(setup(f, 1)->place);
    assert_false(setup(f, 1)->resume);
    assert_int_equal(*setup(f, 1)->place, setup(f, 1)->base);
    *setup(f, 1)->place = 77;
    front_kill(f);
    assert_int_equal(front_resume(f, &e), 0);
    assert_true(f->fake.queue[1].running);
    assert_true(setup(f, 1)->resume);
    assert_int_equal(setup(f, 1)->base, 77);
    /* Stopped, started again: nothing is left to go on with. */
    f->fake.stop_base = 80;
    assert_int_equal(front_get_base(f, 1), 81);
    front_start_ring(f, 1);
    assert_false(setup(f, 1)->resume);
    front_kill(f);
    assert_int_equal(front_resume(f, &e), 0);
    assert_true(setup(f, 1)->resume);
}

static void left_in_order(void **state)
{
    struct front *f = *state;
    struct errmsg e;
    negotiate(f, 0);
    front_start_ring(f, 2);
    f->fake.stop_base = 10;
    vhost_session_leave(f->session);
    f->session = NULL;
    assert_int_equal(front_resume(f, &e), 0);
    assert_false(setup(f, 2)->resume);
    assert_int_equal(setup(f, 2)->base, 12);
    /* From then on it is as if it had been started anew. */
    *setup(f, 2)->place = 20;
    front_kill(f);
    assert_int_equal(front_resume(f, &e), 0);
    assert_true(setup(f, 2)->resume);
    assert_int_equal(setup(f, 2)->base, 20);
}

/* A place counts as it is, whatever a new ring's would be made of. */
static void packed(void **state)
{
    struct front *f = *state;
    struct errmsg e;
    negotiate(f, BIT64(VIRTIO_F_RING_PACKED));
    front_start_ring(f, 0);
    assert_int_equal(setup(f, 0)->base, 0x80008000u);
    assert_int_equal(*setup(f, 0)->place, 0x80008000u);
    *setup(f, 0)->place = 0x00030001u;
    front_kill(f);
    assert_int_equal(front_resume(f, &e), 0);
    assert_int_equal(setup(f, 0)->base, 0x00030001u);
    assert_true(setup(f, 0)->resume);
    *setup(f, 0)->place = 0;
    front_kill(f);
    assert_int_equal(front_resume(f, &e), 0);
    assert_int_equal(setup(f, 0)->base, 0);
}

static uint64_t set_region(struct front *f, int fd)
{
    struct {
        struct vu_mem_table_head head;
        struct vu_region region;
    } m = {{1, 0}, {MEM_GUEST, 4096, MEM_USER, 0}};
    return front_ack(f, VU_SET_MEM_TABLE, &m, sizeof m, &fd, 1);
}

/* Whoever serves a file's page faults could stop the thread that touches it, and with it the other cards. */
static void memory_that_is_a_file(void **state)
{
    struct front *f = *state;
    struct statfs fs;
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), memory = memfd_create("more", MFD_CLOEXEC);
    assert_true(file >= 0 && memory >= 0 && ftruncate(memory, 4096) == 0);
    assert_int_equal(fstatfs(file, &fs), 0);
    if (fs.f_type == TMPFS_MAGIC) skip();
    negotiate(f, 0);
    f->fake.ops.in_order = false; /* a disk has its process for itself: the file is tried, and cannot be written */
    assert_int_equal(set_region(f, file), EACCES);
    f->fake.ops.in_order = true;
    assert_int_equal(set_region(f, file), EINVAL);
    assert_int_equal(set_region(f, memory), 0);
    close(file);
    close(memory);
}

static void rarp(void **state)
{
    struct front *f = *state;
    static const uint8_t payload[8] = {2, 1, 2, 3, 4, 5, 0xff, 0xff};
    announcements = 0;
    negotiate(f, 0);
    assert_int_equal(front_ack(f, VU_SEND_RARP, payload, sizeof payload, NULL, 0), 0);
    assert_int_equal(announcements, 1);
    assert_memory_equal(announced, payload, sizeof announced);
}

static void no_rarp_for_disks(void **state)
{
    struct front *f = *state;
    static const uint8_t payload[8] = {2};
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    assert_false(front_get_u64(f, VU_GET_PROTOCOL_FEATURES) & BIT64(VU_PROTOCOL_F_RARP));
    assert_int_not_equal(front_ack(f, VU_SEND_RARP, payload, sizeof payload, NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRONT_TEST(goes_on_where_it_was),  FRONT_TEST(left_in_order), FRONT_TEST(packed),
        FRONT_TEST(memory_that_is_a_file), FRONT_TEST(rarp),          FRONT_TEST(no_rarp_for_disks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
