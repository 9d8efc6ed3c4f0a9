/* SPDX-License-Identifier: Apache-2.0 */
/* When rings run, what they are told, and messages out of order. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/vhost_user_test/front.h"

static struct front *ready(void **state)
{
    struct front *f = *state;
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    front_share_memory(f);
    return f;
}

static void ring_set_up(struct front *f, uint32_t index)
{
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, index, RING_SIZE), 0);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_BASE, index, 7), 0);
    assert_int_equal(front_ack_addr(f, index, MEM_USER + index * UINT64_C(4096)), 0);
}

static int open_fds[8];
static unsigned open_count;

static int event(void)
{
    return open_fds[open_count++] = eventfd(0, EFD_CLOEXEC);
}

static void close_events(void)
{
    while (open_count)
        close(open_fds[--open_count]);
}

static void starts_and_stops(void **state)
{
    struct front *f = ready(state);
    struct fake_queue *q = &f->fake.queue[1];
    ring_set_up(f, 1);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_CALL, 1, event()), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 1, event()), 0);
    assert_false(q->running); /* started, not enabled */
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 1, 1), 0);
    assert_true(q->running);
    assert_int_equal(q->q.setup.size, RING_SIZE);
    assert_int_equal(q->q.setup.base, 7);
    assert_ptr_equal((char *)q->q.setup.driver, (char *)q->q.setup.desc + 0x400);
    assert_ptr_equal((char *)q->q.setup.device, (char *)q->q.setup.desc + 0x800);
    assert_false(q->q.setup.packed || q->q.setup.event_idx || q->q.setup.indirect || q->q.setup.resume);
    assert_non_null(q->q.setup.inflight);
    assert_true(q->q.kick_fd >= 0 && q->q.call_fd >= 0);

    f->fake.stop_base = 20;
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 1, 0), 0);
    assert_false(q->running);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 1, 1), 0);
    assert_int_equal(q->q.setup.base, 21);
    assert_false(q->q.setup.resume);
    f->fake.stop_base = 30;
    assert_int_equal(front_get_base(f, 1), 31);
    assert_false(q->running);
    assert_int_equal(front_get_base(f, 1), 31); /* as often as asked */
    assert_int_equal(front_held(f, "kick.1"), -1);
    /* Enabling does not start it again, a kick descriptor does. */
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 1, 1), 0);
    assert_false(q->running);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_BASE, 1, 99), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 1, event()), 0);
    assert_true(q->running);
    assert_int_equal(q->q.setup.base, 99);
    close_events();
}

/* Without PROTOCOL_FEATURES in the features rings are enabled from the start. */
static void enabled_without_protocol_features(void **state)
{
    struct front *f = *state;
    front_negotiate(f, BIT64(VIRTIO_F_VERSION_1), BIT64(VU_PROTOCOL_F_REPLY_ACK));
    front_share_memory(f);
    ring_set_up(f, 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), 0);
    assert_true(f->fake.queue[0].running);
    assert_int_equal(f->fake.queue[0].q.call_fd, -1);
    /* Who disables it all the same means it. */
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 0, 0), 0);
    assert_false(f->fake.queue[0].running);
    close_events();
}

static void enabled_before_it_is_started(void **state)
{
    struct front *f = ready(state);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 2, 1), 0);
    ring_set_up(f, 2);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 2, event()), 0);
    assert_true(f->fake.queue[2].running);
    close_events();
}

static void polled_and_silent(void **state)
{
    struct front *f = ready(state);
    ring_set_up(f, 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0 | VU_RING_NO_FD, -1), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_CALL, 0 | VU_RING_NO_FD, -1), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_ERR, 0 | VU_RING_NO_FD, -1), 0);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 0, 1), 0);
    assert_int_equal(f->fake.queue[0].q.kick_fd, -1);
    assert_int_equal(f->fake.queue[0].q.call_fd, -1);
    /* The flag and a descriptor, or neither. */
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_CALL, 0 | VU_RING_NO_FD, f->mem_fd), EINVAL);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_CALL, 0, -1), EINVAL);
}

static void descriptors_change_while_it_runs(void **state)
{
    struct front *f = ready(state);
    struct fake_queue *q = &f->fake.queue[0];
    front_start_ring(f, 0);
    int old = q->call_fd;
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_CALL, 0, event()), 0);
    assert_int_equal(q->calls_set, 1);
    assert_int_not_equal(q->call_fd, old);
    assert_true(fcntl(q->call_fd, F_GETFD) >= 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_CALL, VU_RING_NO_FD, -1), 0);
    assert_int_equal(q->call_fd, -1);
    assert_int_equal(front_held(f, "call.0"), -1);
    f->fake.stop_base = 12;
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), 0);
    assert_int_equal(q->starts, 2);
    assert_int_equal(q->q.setup.base, 12);
    close_events();
}

static void failure_is_signalled(void **state)
{
    struct front *f = ready(state);
    uint64_t v = 0;
    int err = event();
    vhost_session_ring_failed(f->session, 0); /* nobody wants to know */
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_ERR, 0, err), 0);
    vhost_session_ring_failed(f->session, 0);
    assert_int_equal(read(err, &v, sizeof v), sizeof v);
    assert_int_equal(v, 1);
    /* Full, and made blocking after it was handed over: nobody waits for that. */
    v = UINT64_MAX - 1;
    assert_int_equal(write(err, &v, sizeof v), sizeof v);
    assert_int_equal(fcntl(err, F_SETFL, 0), 0);
    alarm(10);
    vhost_session_ring_failed(f->session, 0);
    alarm(0);
    close_events();
}

static void not_files(void **state)
{
    struct front *f = ready(state);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), dir = open("/", O_RDONLY | O_CLOEXEC), pair[2];
    ring_set_up(f, 0);
    unsigned before = count_open_fds();
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, f->mem_fd), EINVAL);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, null), EINVAL);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_CALL, 0, dir), EINVAL);
    assert_int_equal(count_open_fds(), before);
    /* Sockets (User-mode Linux) and pipes are fine, and become non-blocking. */
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_CALL, 0, pair[1]), 0);
    assert_true(fcntl(pair[1], F_GETFL) & O_NONBLOCK);
    close(pair[0]);
    close(pair[1]);
    assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, pair[0]), 0);
    close(pair[0]);
    close(pair[1]);
    close(null);
    close(dir);
}

static void no_such_ring(void **state)
{
    struct front *f = ready(state);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, QUEUES, 16), EINVAL);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_BASE, UINT32_MAX, 0), EINVAL);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 255, 1), EINVAL);
    assert_int_equal(front_ack_addr(f, QUEUES, MEM_USER), EINVAL);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, QUEUES, event()), EINVAL);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_CALL, 0x200, event()), EINVAL);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_ERR, UINT64_C(1) << 32, event()), EINVAL);
    close_events();
    front_send(f, VU_GET_VRING_BASE, VU_VERSION | VU_FLAG_NEED_REPLY, &(struct vu_vring_state){QUEUES, 0}, 8, NULL, 0);
    front_assert_ended(f, "GET_VRING_BASE: ring 4, the device has 4");
}

static void bad_values(void **state)
{
    struct front *f = ready(state);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, 0, 0), EINVAL);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, 0, 65536), EINVAL);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, 0, 32768), EINVAL); /* in-flight memory is for 256 */
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, 0, 256), 0);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 0, 2), EINVAL);
    struct vu_vring_addr a = {.index = 0, .flags = 1};
    assert_int_equal(front_ack(f, VU_SET_VRING_ADDR, &a, sizeof a, NULL, 0), EINVAL);
}

static void addresses_outside_memory(void **state)
{
    struct front *f = ready(state);
    static const uint64_t base[] = {
        0, MEM_USER - 16, MEM_USER + MEM_BYTES - 0x800, MEM_USER + MEM_BYTES, UINT64_MAX - 0x7ff, MEM_GUEST};
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, 0, RING_SIZE), 0);
    for (unsigned i = 0; i < sizeof base / sizeof base[0]; i++) {
        assert_int_equal(front_ack_addr(f, 0, base[i]), 0);
        assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), EFAULT);
        close_events();
    }
    assert_int_equal(f->fake.queue[0].starts, 0);
    assert_int_equal(front_held(f, "kick.0"), -1);
}

static void out_of_order(void **state)
{
    struct front *f = *state;
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), EINVAL); /* before everything */
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), EINVAL); /* before its size */
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, 0, RING_SIZE), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), EINVAL); /* before its addresses */
    assert_int_equal(front_ack_addr(f, 0, MEM_USER), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), EFAULT); /* before memory */
    front_share_memory(f);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), 0);
    close_events();
}

static void kick_before_memory_without_ack_ends(void **state)
{
    struct front *f = *state;
    front_negotiate(f, USUAL_FEATURES, ALL_PROTOCOL_FEATURES);
    front_send(f, VU_SET_VRING_KICK, VU_VERSION, &(uint64_t){0}, 8, (int[]){event()}, 1);
    front_assert_ended(f, "SET_VRING_KICK: ring 0: its size is not known yet");
    close_events();
}

static void nothing_changes_while_it_runs(void **state)
{
    struct front *f = ready(state);
    front_start_ring(f, 0);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, 0, RING_SIZE), 0); /* the same is fine */
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, 0, 32), EBUSY);
    assert_int_equal(front_ack_addr(f, 0, MEM_USER), 0);
    assert_int_equal(front_ack_addr(f, 0, MEM_USER + 4096), EBUSY);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_BASE, 0, 3), EBUSY);
    assert_int_equal(front_ack_u64(f, VU_SET_FEATURES, USUAL_FEATURES), 0);
    assert_int_equal(front_ack_u64(f, VU_SET_FEATURES, USUAL_FEATURES | BIT64(9)), EBUSY);
    assert_int_equal(front_ack_u64(f, VU_SET_PROTOCOL_FEATURES, 0), EBUSY);
    assert_int_equal(f->fake.queue[0].starts, 1);
    assert_int_equal(f->fake.queue[0].stops, 0);
}

static void device_refuses_to_run_it(void **state)
{
    struct front *f = ready(state);
    ring_set_up(f, 0);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 0, 1), 0);
    f->fake.refuse_start = EINVAL;
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), EINVAL);
    f->fake.refuse_start = 0;
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), 0);
    assert_true(f->fake.queue[0].running);
    close_events();
}

static void packed(void **state)
{
    struct front *f = *state;
    struct fake_queue *q = &f->fake.queue[0];
    front_negotiate(f,
                    USUAL_FEATURES | BIT64(VIRTIO_F_RING_PACKED) | BIT64(VIRTIO_F_RING_EVENT_IDX) |
                        BIT64(VIRTIO_F_RING_INDIRECT_DESC),
                    ALL_PROTOCOL_FEATURES);
    front_share_memory(f);
    ring_set_up(f, 0);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, 0, 13), 0); /* no power of two is needed */
    assert_int_equal(front_ack_state(f, VU_SET_VRING_BASE, 0, 0x80018003), 0);
    assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 0, 1), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), 0);
    assert_true(q->q.setup.packed && q->q.setup.event_idx && q->q.setup.indirect);
    assert_int_equal(q->q.setup.base, 0x80018003);
    f->fake.stop_base = 0x00050005;
    assert_int_equal(front_get_base(f, 0), 0x00050005);
    /* User-mode Linux: 0 for a ring that was never used... */
    assert_int_equal(front_ack_state(f, VU_SET_VRING_BASE, 0, 0), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), 0);
    assert_int_equal(q->q.setup.base, 0x80008000);
    front_get_base(f, 0);
    /* ... which is not the same as 0 for one that was. */
    f->mem[5 * 16 + 15] = (char)0x80;
    assert_int_equal(front_ack_state(f, VU_SET_VRING_BASE, 0, 0), 0);
    assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, event()), 0);
    assert_int_equal(q->q.setup.base, 0);
    close_events();
}

/* As User-mode Linux sets a disk up, takes it down and sets it up again: never asks for the base. */
static void like_user_mode_linux(void **state)
{
    struct front *f = *state;
    struct {
        struct vu_mem_table_head head;
        struct vu_region region[2];
    } table = {{1, 0}, {{MEM_GUEST, MEM_BYTES, MEM_USER, 0}}};
    front_tell(f, VU_SET_OWNER, NULL, 0, NULL, 0);
    uint64_t features = front_get_u64(f, VU_GET_FEATURES);
    uint64_t known = BIT64(VU_PROTOCOL_F_MQ) | BIT64(VU_PROTOCOL_F_REPLY_ACK) | BIT64(VU_PROTOCOL_F_BACKEND_REQ) |
                     BIT64(VU_PROTOCOL_F_CONFIG) | BIT64(14);
    known &= front_get_u64(f, VU_GET_PROTOCOL_FEATURES);
    assert_int_equal(front_ack_u64(f, VU_SET_PROTOCOL_FEATURES, known), 0);
    for (int round = 0; round < 3; round++) {
        int kick = event();
        assert_int_equal(front_ack_u64(f, VU_SET_FEATURES, features & ~BIT64(VIRTIO_F_RING_PACKED)), 0);
        assert_int_equal(front_ack(f, VU_SET_MEM_TABLE, &table, sizeof table, &f->mem_fd, 1), 0);
        assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_CALL, 0, event()), 0);
        assert_int_equal(front_ack_state(f, VU_SET_VRING_NUM, 0, 256), 0);
        assert_int_equal(front_ack_state(f, VU_SET_VRING_BASE, 0, 0), 0);
        struct vu_vring_addr a = {
            .descriptor = MEM_USER, .available = MEM_USER + 0x1000, .used = MEM_USER + 0x2000, .log = ~UINT64_C(0)};
        assert_int_equal(front_ack(f, VU_SET_VRING_ADDR, &a, sizeof a, NULL, 0), 0);
        assert_int_equal(front_ack_ring_fd(f, VU_SET_VRING_KICK, 0, kick), 0);
        assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 0, 1), 0);
        assert_true(f->fake.queue[0].running);
        assert_int_equal(f->fake.queue[0].q.setup.base, 0);
        assert_false(f->fake.queue[0].q.setup.resume);
        f->fake.stop_base = 1000;
        assert_int_equal(front_ack_state(f, VU_SET_VRING_ENABLE, 0, 0), 0);
        assert_true(front_get_u64(f, VU_GET_FEATURES) == features);
        assert_false(f->fake.queue[0].running);
        close_events();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRONT_TEST(starts_and_stops),
        FRONT_TEST(enabled_without_protocol_features),
        FRONT_TEST(enabled_before_it_is_started),
        FRONT_TEST(polled_and_silent),
        FRONT_TEST(descriptors_change_while_it_runs),
        FRONT_TEST(failure_is_signalled),
        FRONT_TEST(not_files),
        FRONT_TEST(no_such_ring),
        FRONT_TEST(bad_values),
        FRONT_TEST(addresses_outside_memory),
        FRONT_TEST(out_of_order),
        FRONT_TEST(kick_before_memory_without_ack_ends),
        FRONT_TEST(nothing_changes_while_it_runs),
        FRONT_TEST(device_refuses_to_run_it),
        FRONT_TEST(packed),
        FRONT_TEST(like_user_mode_linux),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
