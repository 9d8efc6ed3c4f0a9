/* SPDX-License-Identifier: Apache-2.0 */
/* Our requests to the front end. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/vhost_user_test/front.h"

struct answer {
    struct vu_header head;
    uint64_t value;
} __attribute__((packed));

/* The front end's end of the channel. */
static int channel(struct front *f, uint64_t protocol_features)
{
    int pair[2];
    front_negotiate(f, USUAL_FEATURES, protocol_features);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    assert_int_equal(front_ack(f, VU_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1), 0);
    close(pair[1]);
    return pair[0];
}

static bool told(int fd, uint32_t flags)
{
    struct vu_header head;
    ssize_t n = recv(fd, &head, sizeof head, 0);
    if (n < 0) return false;
    assert_int_equal(n, sizeof head);
    assert_int_equal(head.request, VU_BACKEND_CONFIG_CHANGE_MSG);
    assert_int_equal(head.flags, flags);
    assert_int_equal(head.size, 0);
    return true;
}

static void answer(struct front *f, int fd, uint32_t request, uint32_t flags, uint64_t value)
{
    struct answer a = {{request, flags, 8}, value};
    assert_int_equal(send(fd, &a, sizeof a, 0), sizeof a);
    front_pump(f);
}

static void nobody_to_tell(void **state)
{
    struct front *f = *state;
    assert_false(vhost_session_config_changed(f->session));
    int fd = channel(f, ALL_PROTOCOL_FEATURES & ~BIT64(VU_PROTOCOL_F_CONFIG));
    assert_false(vhost_session_config_changed(f->session));
    assert_false(told(fd, 0));
    close(fd);
}

static void told_without_an_answer(void **state)
{
    struct front *f = *state;
    int fd = channel(f, ALL_PROTOCOL_FEATURES & ~BIT64(VU_PROTOCOL_F_REPLY_ACK));
    assert_true(vhost_session_config_changed(f->session));
    assert_true(vhost_session_config_changed(f->session));
    assert_true(told(fd, VU_VERSION));
    assert_true(told(fd, VU_VERSION));
    assert_false(told(fd, VU_VERSION));
    close(fd);
}

static void told_and_answered(void **state)
{
    struct front *f = *state;
    int fd = channel(f, ALL_PROTOCOL_FEATURES);
    for (int i = 0; i < 3; i++)
        assert_true(vhost_session_config_changed(f->session));
    assert_true(told(fd, VU_VERSION | VU_FLAG_NEED_REPLY));
    assert_false(told(fd, 0)); /* one at a time */
    answer(f, fd, VU_BACKEND_CONFIG_CHANGE_MSG, VU_VERSION | VU_FLAG_REPLY, 0);
    assert_true(told(fd, VU_VERSION | VU_FLAG_NEED_REPLY)); /* for the two later ones */
    answer(f, fd, VU_BACKEND_CONFIG_CHANGE_MSG, VU_VERSION | VU_FLAG_REPLY, 1);
    assert_false(told(fd, 0));
    assert_int_equal(f->session->state->config_pending, 0);
    assert_false(f->ended);
    close(fd);
}

static void garbage_closes_the_channel(void **state)
{
    struct front *f = *state;
    int fd = channel(f, ALL_PROTOCOL_FEATURES);
    assert_true(vhost_session_config_changed(f->session));
    answer(f, fd, 77, VU_VERSION | VU_FLAG_REPLY, 0);
    assert_false(f->ended);
    assert_int_equal(front_held(f, "req"), -1);
    assert_false(vhost_session_config_changed(f->session));
    close(fd);
}

static void closed_and_replaced(void **state)
{
    struct front *f = *state;
    int fd = channel(f, ALL_PROTOCOL_FEATURES);
    close(fd);
    front_pump(f);
    assert_int_equal(front_held(f, "req"), -1);
    assert_false(vhost_session_config_changed(f->session));
    fd = channel(f, ALL_PROTOCOL_FEATURES);
    int other = channel(f, ALL_PROTOCOL_FEATURES);
    assert_true(vhost_session_config_changed(f->session));
    assert_true(told(other, VU_VERSION | VU_FLAG_NEED_REPLY));
    close(fd);
    close(other);
}

static void full(void **state)
{
    struct front *f = *state;
    int fd = channel(f, ALL_PROTOCOL_FEATURES & ~BIT64(VU_PROTOCOL_F_REPLY_ACK)), n = 0;
    while (!f->session->state->config_pending && n++ < 100000)
        assert_true(vhost_session_config_changed(f->session));
    assert_true(f->session->state->config_pending);
    front_pump(f);
    while (told(fd, VU_VERSION))
        ;
    front_pump(f);
    assert_true(told(fd, VU_VERSION));
    assert_int_equal(f->session->state->config_pending, 0);
    close(fd);
}

static void must_be_a_socket(void **state)
{
    struct front *f = *state;
    int fd = channel(f, ALL_PROTOCOL_FEATURES);
    assert_int_equal(front_ack(f, VU_SET_BACKEND_REQ_FD, NULL, 0, &f->mem_fd, 1), EINVAL);
    assert_true(vhost_session_config_changed(f->session)); /* the old one is still good */
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRONT_TEST(nobody_to_tell),      FRONT_TEST(told_without_an_answer),
        FRONT_TEST(told_and_answered),   FRONT_TEST(garbage_closes_the_channel),
        FRONT_TEST(closed_and_replaced), FRONT_TEST(full),
        FRONT_TEST(must_be_a_socket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
