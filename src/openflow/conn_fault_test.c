/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation and every epoll_ctl fails once; sockets take one byte at a time. What is handed over and sent stays whole. */
#include <stdlib.h>

#include "openflow/conn_rig.h"

#include <sys/epoll.h>

#include "base/test_alloc.h"

static size_t send_max; /* bytes that a send takes; 0: all. Every other one takes none. */
static unsigned sends;

ssize_t __real_send(int fd, const void *from, size_t n, int flags);
int __real_epoll_ctl(int epoll, int op, int fd, struct epoll_event *ev);
ssize_t __wrap_send(int fd, const void *from, size_t n, int flags);
int __wrap_epoll_ctl(int epoll, int op, int fd, struct epoll_event *ev);

int __wrap_epoll_ctl(int epoll, int op, int fd, struct epoll_event *ev)
{
    if (op == EPOLL_CTL_DEL || !alloc_fails()) return __real_epoll_ctl(epoll, op, fd, ev);
    errno = ENOMEM;
    return -1;
}

ssize_t __wrap_send(int fd, const void *from, size_t n, int flags)
{
    if (send_max == 0) return __real_send(fd, from, n, flags);
    if (sends++ % 2) {
        errno = EAGAIN;
        return -1;
    }
    return __real_send(fd, from, n < send_max ? n : send_max, flags);
}

static void answer_some(struct rig *r, const uint8_t *message, size_t bytes)
{
    struct of_out *o = of_conn_out(r->conn);
    for (uint32_t i = 0; i < 3; i++) {
        of_out_begin(o, OFPT_MULTIPART_REPLY, i);
        of_out_put(o, 3000);
        of_out_end(o);
        of_conn_send(r->conn);
    }
}

/* Whatever fails: the connection is not made, ends, or all goes well; and nothing that is sent is broken. */
static void scene(unsigned nth)
{
    struct rig *r = calloc(1, sizeof *r);
    uint8_t *m = malloc(65536);
    r->loop = loop_new();
    r->on_message = answer_some;
    int s[2];
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), errno);
    r->peer = s[1];
    peer_send(r, 4, OFPT_HELLO, 1, 0);
    peer_send(r, 4, OFPT_ECHO_REQUEST, 1, 100);
    peer_send(r, 4, OFPT_MULTIPART_REQUEST, 1, 8);
    peer_send(r, 4, OFPT_ECHO_REQUEST, 1, 10000);
    struct of_conn_ops ops = rig_ops;
    ops.arg = r;
    alloc_failed = false;
    alloc_countdown = nth;
    struct of_stream *stream;
    int ret = of_stream_new(&stream, s[0], NULL, false);
    if (ret < 0) close(s[0]);
    else ret = of_conn_new(&r->conn, r->loop, stream, 15, &ops);
    if (ret == 0) {
        for (int i = 0; i < 10; i++)
            loop_run_once(r->loop, 0);
        rig_now_ns += 15 * NS_PER_SECOND;
        loop_run_once(r->loop, 0);
    }
    alloc_countdown = 0;
    assert_true(ret == 0 || alloc_failed);
    size_t heard = 0, bytes;
    while ((bytes = peer_hear(r, m)) > 0)
        heard += bytes;
    if (!alloc_failed) assert_int_equal(heard, 16 + 108 + 3 * 3008 + 10008 + 8);
    if (ret == 0 && r->conn) assert_int_equal(r->messages, 1);
    free(m);
    rig_free(r);
}

static void test_everything_fails_once(void **state)
{
    unsigned n = 0;
    do
        scene(++n);
    while (alloc_failed);
    assert_in_range(n, 5, 100);
}

static void test_writes_of_few_bytes(void **state)
{
    static const size_t takes[] = {1, 7, 1000, 65536};
    for (size_t i = 0; i < sizeof takes / sizeof *takes; i++) {
        struct rig *r = rig_open();
        uint8_t m[65536];
        r->on_message = answer_some;
        peer_send(r, 4, OFPT_MULTIPART_REQUEST, 1, 8);
        peer_send(r, 4, OFPT_ECHO_REQUEST, 1, 10000);
        peer_send(r, 4, OFPT_BARRIER_REQUEST, 1, 0);
        sends = 0;
        send_max = takes[i];
        size_t heard = 0, bytes;
        for (int n = 0; n < 200000 && (of_conn_queued(r->conn) > 0 || n < 3); n++) {
            loop_run_once(r->loop, 0);
            while (n % 64 == 0 && (bytes = peer_hear(r, m)) > 0)
                heard += bytes;
        }
        send_max = 0;
        while ((bytes = peer_hear(r, m)) > 0)
            heard += bytes;
        assert_int_equal(heard, 6 * 3008 + 10008);
        assert_int_equal(r->ended, 0);
        rig_free(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_fails_once),
        cmocka_unit_test(test_writes_of_few_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
