/* SPDX-License-Identifier: Apache-2.0 */
/* Plain streams: over TCP and Unix sockets, without waiting, and without a signal when the peer is gone. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "openflow/stream.h"

static void tcp_pair(int s[2])
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof a;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_return_code(bind(listener, (struct sockaddr *)&a, sizeof a), errno);
    assert_return_code(listen(listener, 1), errno);
    assert_return_code(getsockname(listener, (struct sockaddr *)&a, &bytes), errno);
    s[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_return_code(connect(s[0], (struct sockaddr *)&a, sizeof a), errno);
    s[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_return_code(s[1], errno);
    close(listener);
}

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t bytes = sizeof value;
    getsockopt(fd, level, name, &value, &bytes);
    return value;
}

static void exchange(int s[2])
{
    struct of_stream *a;
    char text[16];
    assert_int_equal(of_stream_new(&a, s[0], NULL, true), 0);
    assert_int_equal(of_stream_fd(a), s[0]);
    assert_int_equal(of_stream_read(a, text, sizeof text), -EAGAIN); /* it does not wait, whatever the socket was */
    assert_int_equal(of_stream_wants(a, false), EPOLLIN);
    assert_int_equal(of_stream_wants(a, true), EPOLLOUT);
    assert_int_equal(of_stream_write(a, "hello", 5), 5);
    assert_int_equal(recv(s[1], text, sizeof text, 0), 5);
    assert_int_equal(send(s[1], "there", 5, 0), 5);
    assert_int_equal(of_stream_read(a, text, sizeof text), 5);
    assert_memory_equal(text, "there", 5);
    assert_false(of_stream_has_more(a));
    close(s[1]);
    assert_int_equal(of_stream_read(a, text, sizeof text), 0);
    ssize_t n = 0;
    for (int i = 0; i < 100 && n >= 0; i++) { /* no signal: it would end the test */
        n = of_stream_write(a, "hello", 5);
        usleep(1000);
    }
    assert_true(n == -EPIPE || n == -ECONNRESET);
    assert_string_equal(of_stream_why(a, EPIPE), "Broken pipe");
    of_stream_free(a);
    assert_int_equal(fcntl(s[0], F_GETFD), -1);
}

static void test_unix(void **state)
{
    int s[2];
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), errno);
    exchange(s);
}

static void test_tcp(void **state)
{
    int s[2];
    tcp_pair(s);
    exchange(s);
}

static void test_tcp_is_tuned(void **state)
{
    int s[2];
    struct of_stream *a;
    tcp_pair(s);
    assert_int_equal(of_stream_new(&a, s[0], NULL, true), 0);
    assert_int_equal(option(s[0], IPPROTO_TCP, TCP_NODELAY), 1);
    assert_int_equal(option(s[0], SOL_SOCKET, SO_KEEPALIVE), 1);
    of_stream_free(a);
    close(s[1]);
}

static void test_writing_does_not_wait(void **state)
{
    int s[2];
    struct of_stream *a;
    static char much[1 << 20];
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), errno);
    assert_int_equal(of_stream_new(&a, s[0], NULL, true), 0);
    ssize_t n, sum = 0;
    while ((n = of_stream_write(a, much, sizeof much)) > 0)
        sum += n;
    assert_int_equal(n, -EAGAIN);
    assert_true(sum > 0);
    of_stream_free(a);
    close(s[1]);
}

static void test_a_bad_descriptor(void **state)
{
    struct of_stream *a;
    assert_int_equal(of_stream_new(&a, -1, NULL, true), -EBADF);
    assert_null(a);
    of_stream_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unix),
        cmocka_unit_test(test_tcp),
        cmocka_unit_test(test_tcp_is_tuned),
        cmocka_unit_test(test_writing_does_not_wait),
        cmocka_unit_test(test_a_bad_descriptor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
