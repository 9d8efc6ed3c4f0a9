/* SPDX-License-Identifier: Apache-2.0 */
/* In-flight memory: made, brought back, lied about; and a front end that reconnects with it. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/vhost_user_test/front.h"

static void negotiate(struct front *f)
{
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    front_share_memory(f);
}

static struct vu_inflight get(struct front *f, uint16_t queues, uint16_t queue_size, size_t bytes, int *fd)
{
    struct vu_inflight v = {.queues = queues, .queue_size = queue_size};
    front_send(f, VU_GET_INFLIGHT_FD, VU_VERSION, &v, bytes, NULL, 0);
    front_pump(f);
    memset(&v, 0xee, sizeof v);
    assert_int_equal(front_answer(f, VU_GET_INFLIGHT_FD, &v, sizeof v, fd), bytes);
    return v;
}

static uint64_t set(struct front *f, const struct vu_inflight *v, size_t bytes, int fd)
{
    return front_ack(f, VU_SET_INFLIGHT_FD, v, bytes, &fd, 1);
}

static uint16_t version_of(int fd, uint64_t ring)
{
    uint16_t v = 0xffff;
    assert_int_equal(pread(fd, &v, sizeof v, (off_t)(ring * virtq_inflight_bytes(RING_SIZE, false) + 8)), sizeof v);
    return v;
}

static void made_and_brought_back(void **state)
{
    struct front *f = *state;
    struct stat st;
    int fd = -1;
    negotiate(f);
    struct vu_inflight v = get(f, QUEUES, RING_SIZE, sizeof v, &fd);
    assert_int_equal(v.queues, QUEUES);
    assert_int_equal(v.queue_size, RING_SIZE);
    assert_int_equal(v.offset_bytes, 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, v.size_bytes);
    assert_int_equal(v.size_bytes, 4096 + STASH_BYTES); /* tables fill less than a page */
    assert_int_equal(ftruncate(fd, 4096), -1);          /* nobody can cut it short */
    assert_int_equal(set(f, &v, sizeof v, fd), 0);
    assert_non_null(f->fake.stash);
    assert_false(f->fake.stash_resumed);
    strcpy(f->fake.stash, "stashed");
    front_start_ring(f, 2);
    assert_false(f->fake.queue[2].q.setup.resume);
    assert_int_equal(version_of(fd, 2), 1); /* it is the front end's memory that is used */
    /* Not while it is used. */
    assert_int_equal(set(f, &v, sizeof v, fd), EBUSY);
    /* Stopped and started: by the base, for nothing was in flight. */
    f->fake.stop_base = 55;
    assert_int_equal(front_get_base(f, 2), 57);
    assert_int_equal(version_of(fd, 2), 0);
    assert_int_equal(set(f, &v, sizeof v, fd), 0);
    assert_true(f->fake.stash_resumed); /* the second time it is not new */
    assert_string_equal(f->fake.stash, "stashed");
    front_start_ring(f, 2);
    assert_false(f->fake.queue[2].q.setup.resume);
    close(fd);
}

static void without_the_padding(void **state)
{
    struct front *f = *state;
    int fd = -1;
    negotiate(f);
    struct vu_inflight v = get(f, 1, 64, VU_INFLIGHT_PACKED_BYTES, &fd);
    assert_int_equal(set(f, &v, VU_INFLIGHT_PACKED_BYTES, fd), 0);
    assert_int_equal(set(f, &v, VU_INFLIGHT_PACKED_BYTES + 1, fd), EINVAL);
    close(fd);
}

static void reconnected(void **state)
{
    struct front *f = *state;
    int fd = -1;
    negotiate(f);
    struct vu_inflight v = get(f, QUEUES, RING_SIZE, sizeof v, &fd);
    assert_int_equal(set(f, &v, sizeof v, fd), 0);
    strcpy(f->fake.stash, "stashed");
    front_start_ring(f, 0);
    front_start_ring(f, 1);
    assert_int_equal(front_get_base(f, 1), 1);
    close(f->sock);
    f->sock = -1;
    front_assert_ended(f, "closed");
    assert_null(f->fake.stash);
    front_connect(f);
    negotiate(f);
    assert_int_equal(set(f, &v, sizeof v, fd), 0);
    assert_true(f->fake.stash_resumed);
    assert_string_equal(f->fake.stash, "stashed");
    front_start_ring(f, 0);
    front_start_ring(f, 1);
    assert_true(f->fake.queue[0].q.setup.resume);
    assert_false(f->fake.queue[1].q.setup.resume); /* it had stopped with nothing in flight */
    close(fd);
}

/* What another back end made has no room for a stash: tables only. */
static void smaller_than_ours(void **state)
{
    struct front *f = *state;
    int fd = memfd_create("inflight", MFD_CLOEXEC);
    struct vu_inflight v = {.size_bytes = 4096, .offset_bytes = 4096, .queues = QUEUES, .queue_size = RING_SIZE};
    assert_int_equal(ftruncate(fd, 8192), 0);
    negotiate(f);
    assert_int_equal(set(f, &v, sizeof v, fd), 0);
    assert_null(f->fake.stash);
    front_start_ring(f, 0);
    close(fd);
}

static void bad_memory(void **state)
{
    struct front *f = *state;
    int fd = memfd_create("inflight", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, 8192), 0);
    const struct vu_inflight bad[] = {
        {8192, 0, 0, RING_SIZE},          /* for no ring */
        {8192, 0, QUEUES + 1, RING_SIZE}, /* for more than there are */
        {8192, 0, QUEUES, 0},             /* of no size */
        {8192, 0, QUEUES, 32769},         /* of too much */
        {8192, 0, QUEUES, 32768},         /* of more than it has room for */
        {100, 0, QUEUES, RING_SIZE},      /* the same */
        {0, 0, QUEUES, RING_SIZE},
        {4096, 100, QUEUES, RING_SIZE},  /* cannot be mapped */
        {4096, 8192, QUEUES, RING_SIZE}, /* behind its file */
        {4096, UINT64_MAX - 4095, QUEUES, RING_SIZE},
        {1 << 20, 0, QUEUES, RING_SIZE}, /* says more than its file has: the stash would be there */
        {UINT64_MAX, 0, QUEUES, RING_SIZE},
    };
    negotiate(f);
    unsigned before = count_open_fds();
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_not_equal(set(f, &bad[i], sizeof bad[i], fd), 0);
    int pipes[2];
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    assert_int_not_equal(set(f, &(struct vu_inflight){4096, 0, QUEUES, RING_SIZE, 0}, sizeof bad[0], pipes[0]), 0);
    close(pipes[0]);
    close(pipes[1]);
    assert_int_equal(count_open_fds(), before);
    assert_null(f->fake.stash);
    front_start_ring(f, 0); /* in our own memory */
    close(fd);
}

static void ring_does_not_fit_it(void **state)
{
    struct front *f = *state;
    int fd = -1, kick = eventfd(0, EFD_CLOEXEC);
    negotiate(f);
    struct vu_inflight v = get(f, 2, RING_SIZE, sizeof v, &fd);
    assert_int_equal(set(f, &v, sizeof v, fd), 0);
    for (uint32_t i = 1; i <= 2; i++) {
        assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, i, i == 1 ? 2 * RING_SIZE : RING_SIZE), 0);
        assert_int_equal(front_ack_addr(f, i, MEM_USER), 0);
        assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, i, 1), 0);
        assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, i, kick), EINVAL);
    }
    /* Another format than the one that it was made for. */
    assert_int_equal(front_ack_u64(f, VU_SET_FEATURES, USUAL_FEATURES | BIT64(VIRTIO_F_RING_PACKED)), 0);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, 0, RING_SIZE), 0);
    assert_int_equal(front_ack_addr(f, 0, MEM_USER), 0);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 0, 1), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, kick), EINVAL);
    close(fd);
    close(kick);
}

/* Cut short after it was taken: zeroes, not the end of the process. */
static void cut_short_later(void **state)
{
    struct front *f = *state;
    int fd = memfd_create("inflight", MFD_CLOEXEC);
    struct vu_inflight v = {.size_bytes = 4096, .queues = QUEUES, .queue_size = RING_SIZE};
    assert_int_equal(ftruncate(fd, 4096), 0);
    negotiate(f);
    assert_int_equal(set(f, &v, sizeof v, fd), 0);
    guest_memory_init(); /* cmocka has a handler of its own for SIGBUS */
    assert_int_equal(ftruncate(fd, 0), 0);
    front_start_ring(f, 0);
    front_get_base(f, 0);
    close(fd);
}

static void our_own_memory(void **state)
{
    struct front *f = *state;
    negotiate(f);
    front_start_ring(f, 0);
    front_start_ring(f, 3);
    size_t stride = (size_t)((char *)f->fake.queue[3].q.setup.inflight - (char *)f->fake.queue[0].q.setup.inflight) / 3;
    assert_true(stride >= virtq_inflight_bytes(256, true));
    assert_ptr_equal(f->fake.queue[0].q.setup.inflight, f->args.inflight);
    close(f->sock);
    f->sock = -1;
    front_assert_ended(f, "closed");
    /* What is left of an old session says nothing to a new one. */
    front_connect(f);
    negotiate(f);
    front_start_ring(f, 0);
    assert_false(f->fake.queue[0].q.setup.resume);
}

static void features_first(void **state)
{
    struct front *f = *state;
    struct vu_inflight v = {.queues = 1, .queue_size = 16};
    assert_int_equal(front_ack_u64(f, VU_SET_PROTOCOL_FEATURES, ALL_PROTOCOL_FEATURES), 0);
    front_send(f, VU_GET_INFLIGHT_FD, VU_VERSION, &v, sizeof v, NULL, 0);
    front_pump(f);
    assert_int_equal(front_answer(f, VU_GET_INFLIGHT_FD, &v, sizeof v, NULL), sizeof v);
    assert_int_equal(v.size_bytes, 0); /* refused */
    assert_int_equal(v.queues, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRONT_TEST(made_and_brought_back), FRONT_TEST(without_the_padding), FRONT_TEST(reconnected),
        FRONT_TEST(smaller_than_ours),     FRONT_TEST(bad_memory),          FRONT_TEST(ring_does_not_fit_it),
        FRONT_TEST(cut_short_later),       FRONT_TEST(our_own_memory),      FRONT_TEST(features_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
