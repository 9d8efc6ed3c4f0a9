/* SPDX-License-Identifier: Apache-2.0 */
/* Framing over a socket pair: what is sent arrives, and nothing malformed gets through. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/test_fds.h"
#include "control/link.h"

struct pair {
    int a, b;
};

static struct pair pair_new(void)
{
    int s[2];
    assert_return_code(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), errno);
    return (struct pair){s[0], s[1]};
}

static void pair_close(struct pair p)
{
    close(p.a);
    close(p.b);
}

/* Send raw bytes and descriptors, past link_send()'s own checks. */
static void send_raw(int sock, const char *text, size_t len, const int *fds, unsigned count)
{
    struct iovec iov = {(void *)(uintptr_t)text, len};
    char control[CMSG_SPACE(sizeof(int) * 253)] __attribute__((aligned(8)));
    memset(control, 0, sizeof control);
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count) {
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    }
    assert_int_equal(sendmsg(sock, &msg, 0), (ssize_t)len);
}

static void refuse(const char *text, unsigned fds, const char *expected)
{
    struct pair p = pair_new();
    unsigned before = open_fds();
    int event = eventfd(0, EFD_CLOEXEC), list[253];
    for (unsigned i = 0; i < fds; i++)
        list[i] = event;
    send_raw(p.a, text, strlen(text), list, fds);
    close(event);
    struct link_msg m;
    struct errmsg e = {""};
    assert_int_equal(link_recv(p.b, &m, &e), -EPROTO);
    assert_non_null(strstr(e.text, expected));
    assert_null(m.body);
    assert_int_equal(open_fds(), before); /* nothing that came along stays open */
    pair_close(p);
}

static void round_trip(void **state)
{
    struct pair p = pair_new();
    unsigned before = open_fds();
    json_t *body = link_request(7, "configure", json_pack("{s:s}", "name", "d1"));
    int fd = eventfd(41, EFD_CLOEXEC | EFD_NONBLOCK);
    const char *names[] = {"layer0", "held:state"};
    int fds[] = {fd, fd};
    assert_int_equal(link_send(p.a, body, names, fds, 2), 0);
    assert_null(json_object_get(body, "fds")); /* borrowed: not changed */
    json_decref(body);
    close(fd);

    struct link_msg m;
    struct errmsg e;
    assert_int_equal(link_recv(p.b, &m, &e), 0);
    assert_int_equal(m.fd_count, 2);
    assert_string_equal(m.names[0], "layer0");
    assert_int_equal(fcntl(m.fds[0], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    struct link_head h;
    assert_int_equal(link_msg_head(&m, &h, &e), 0);
    assert_int_equal(h.id, 7);
    assert_string_equal(h.method, "configure");
    assert_string_equal(json_string_value(json_object_get(h.params, "name")), "d1");

    int got = link_msg_take_fd(&m, "held:state");
    assert_true(got >= 0);
    assert_int_equal(link_msg_take_fd(&m, "held:state"), -1);
    assert_int_equal(link_msg_take_fd(&m, "nothing"), -1);
    uint64_t value = 0;
    assert_int_equal(read(got, &value, sizeof value), sizeof value);
    assert_int_equal(value, 41);
    close(got);
    link_msg_clear(&m);
    assert_int_equal(open_fds(), before);
    assert_int_equal(link_recv(p.b, &m, &e), -EAGAIN);
    pair_close(p);
}

static void answers_and_notifications(void **state)
{
    struct pair p = pair_new();
    struct link_msg m;
    struct link_head h;
    struct errmsg e;
    json_t *sent[] = {link_answer(3, NULL), link_answer_error(4, -EBUSY, "in use"), link_notification("drop", NULL)};
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(link_send(p.a, sent[i], NULL, NULL, 0), 0);
        json_decref(sent[i]);
    }
    assert_int_equal(link_recv(p.b, &m, &e), 0);
    assert_int_equal(link_msg_head(&m, &h, &e), 0);
    assert_null(h.method);
    assert_true(json_is_object(h.result));
    link_msg_clear(&m);
    assert_int_equal(link_recv(p.b, &m, &e), 0);
    assert_int_equal(link_msg_head(&m, &h, &e), 0);
    assert_int_equal(h.error_code, -EBUSY);
    assert_string_equal(h.error_message, "in use");
    link_msg_clear(&m);
    assert_int_equal(link_recv(p.b, &m, &e), 0);
    assert_int_equal(link_msg_head(&m, &h, &e), 0);
    assert_string_equal(h.method, "drop");
    assert_int_equal(h.id, -1);
    assert_true(json_is_object(h.params));
    link_msg_clear(&m);
    pair_close(p);
}

static void wrong_heads(void **state)
{
    static const char *const bodies[] = {
        "{}",
        "{\"id\":1}",
        "{\"result\":1}",
        "{\"id\":1,\"result\":1,\"error\":{\"code\":-1,\"message\":\"x\"}}",
        "{\"id\":1,\"error\":5}",
        "{\"id\":1,\"error\":{\"code\":\"x\",\"message\":\"x\"}}",
        "{\"id\":1,\"error\":{\"code\":-5}}",
        "{\"id\":\"1\",\"method\":\"m\"}",
        "{\"id\":-2,\"method\":\"m\"}",
        "{\"id\":1.5,\"method\":\"m\"}",
        "{\"id\":1,\"method\":5}",
        "{\"id\":1,\"method\":\"m\",\"params\":[]}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct pair p = pair_new();
        send_raw(p.a, bodies[i], strlen(bodies[i]), NULL, 0);
        struct link_msg m;
        struct link_head h;
        struct errmsg e;
        assert_int_equal(link_recv(p.b, &m, &e), 0);
        assert_int_equal(link_msg_head(&m, &h, &e), -EPROTO);
        link_msg_clear(&m);
        pair_close(p);
    }
}

static void malformed(void **state)
{
    refuse("{", 0, "not JSON");
    refuse("\xff\xfe", 0, "not JSON");
    refuse("{\"a\":1,\"a\":2}", 0, "not JSON");
    refuse("[1]", 0, "not a JSON object");
    refuse("[1]", 3, "not a JSON object");
    refuse("{\"fds\":\"layer0\"}", 1, "not an array");
    refuse("{\"fds\":[\"a\"]}", 0, "names 1 descriptors and carries 0");
    refuse("{\"fds\":[\"a\"]}", 2, "names 1 descriptors and carries 2");
    refuse("{}", 1, "names 0 descriptors and carries 1");
    refuse("{\"fds\":[1]}", 1, "not a name");
    refuse("{\"fds\":[\"\"]}", 1, "not a name");
    refuse("{\"fds\":[\"0123456789012345678901234567890123456789012345678901234567890123456789\"]}", 1, "not a name");
    refuse("{\"fds\":[\"a\",\"a\"]}", 2, "named twice");
    refuse("{}", 253, "descriptors were lost");
}

static void deep_nesting(void **state)
{
    char *deep = malloc(100001);
    memset(deep, '[', 100000);
    deep[100000] = 0;
    refuse(deep, 0, "not JSON");
    free(deep);
}

static void oversized(void **state)
{
    struct pair p = pair_new();
    int room = 1 << 20;
    setsockopt(p.a, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    char *big = malloc(LINK_MESSAGE_MAX + 1);
    memset(big, ' ', LINK_MESSAGE_MAX + 1);
    big[0] = '{';
    big[LINK_MESSAGE_MAX] = '}';
    int event = eventfd(0, EFD_CLOEXEC);
    unsigned before = open_fds();
    send_raw(p.a, big, LINK_MESSAGE_MAX + 1, &event, 1);
    send_raw(p.a, "{\"method\":\"m\"}", 14, NULL, 0);
    struct link_msg m;
    struct errmsg e;
    assert_int_equal(link_recv(p.b, &m, &e), -EPROTO);
    assert_non_null(strstr(e.text, "262145 bytes"));
    assert_int_equal(open_fds(), before);
    assert_int_equal(link_recv(p.b, &m, &e), 0); /* the next one is not affected */
    link_msg_clear(&m);

    big[LINK_MESSAGE_MAX] = 0;
    memset(big, 'x', LINK_MESSAGE_MAX);
    json_t *body = link_notification("m", json_pack("{s:s}", "v", big));
    assert_int_equal(link_send(p.a, body, NULL, NULL, 0), -EMSGSIZE);
    json_decref(body);
    free(big);
    close(event);
    pair_close(p);
}

static void largest(void **state)
{
    struct pair p = pair_new(); /* with the system's default send buffer */
    char *big = malloc(LINK_MESSAGE_MAX);
    memset(big, 'x', LINK_MESSAGE_MAX - 100);
    big[LINK_MESSAGE_MAX - 100] = 0;
    json_t *body = link_notification("m", json_pack("{s:s}", "v", big));
    assert_int_equal(link_send(p.a, body, NULL, NULL, 0), 0);
    struct link_msg m;
    struct errmsg e;
    assert_int_equal(link_recv(p.b, &m, &e), 0);
    assert_true(json_equal(m.body, body));
    link_msg_clear(&m);
    json_decref(body);
    free(big);

    int event = eventfd(0, EFD_CLOEXEC), fds[LINK_FDS_MAX + 1];
    char text[LINK_FDS_MAX + 1][16];
    const char *names[LINK_FDS_MAX + 1];
    for (unsigned i = 0; i <= LINK_FDS_MAX; i++) {
        fds[i] = event;
        snprintf(text[i], sizeof text[i], "held:%u", i);
        names[i] = text[i];
    }
    body = link_notification("m", NULL);
    assert_int_equal(link_send(p.a, body, names, fds, LINK_FDS_MAX + 1), -EMSGSIZE);
    assert_int_equal(link_send(p.a, body, names, fds, LINK_FDS_MAX), 0);
    json_decref(body);
    assert_int_equal(link_recv(p.b, &m, &e), 0);
    assert_int_equal(m.fd_count, LINK_FDS_MAX);
    link_msg_clear(&m);
    close(event);
    pair_close(p);
}

static void closed(void **state)
{
    struct pair p = pair_new();
    json_t *body = link_notification("m", NULL);
    assert_int_equal(link_send(p.a, body, NULL, NULL, 0), 0);
    close(p.a);
    struct link_msg m;
    struct errmsg e;
    assert_int_equal(link_recv(p.b, &m, &e), 0); /* what was sent before the end still arrives */
    link_msg_clear(&m);
    assert_int_equal(link_recv(p.b, &m, &e), -EPIPE);
    assert_int_equal(link_send(p.b, body, NULL, NULL, 0), -EPIPE);
    json_decref(body);
    close(p.b);
}

/* A worker that is killed with a request unread: the descriptors that it wanted kept just before must not be lost. */
static void closed_with_something_unread(void **state)
{
    struct pair p = pair_new();
    json_t *body = link_notification("m", NULL);
    assert_int_equal(link_send(p.b, body, NULL, NULL, 0), 0);
    assert_int_equal(link_send(p.a, body, NULL, NULL, 0), 0);
    assert_int_equal(link_send(p.a, body, NULL, NULL, 0), 0);
    close(p.a);
    struct link_msg m;
    struct errmsg e;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(link_recv(p.b, &m, &e), 0);
        link_msg_clear(&m);
    }
    assert_int_equal(link_recv(p.b, &m, &e), -EPIPE);
    json_decref(body);
    close(p.b);
}

static void full(void **state)
{
    struct pair p = pair_new();
    json_t *body = link_notification("m", NULL);
    int ret = 0;
    for (int i = 0; i < 100000 && ret == 0; i++)
        ret = link_send_now(p.a, body, NULL, NULL, 0);
    assert_int_equal(ret, -EAGAIN);
    json_decref(body);
    pair_close(p);
}

static void no_descriptors_left(void **state)
{
    struct pair p = pair_new();
    int event = eventfd(0, EFD_CLOEXEC);
    send_raw(p.a, "{\"fds\":[\"a\",\"b\"]}", 17, (int[]){event, event}, 2);
    struct rlimit old, low;
    getrlimit(RLIMIT_NOFILE, &old);
    low = old;
    low.rlim_cur = (rlim_t)event + 2;
    setrlimit(RLIMIT_NOFILE, &low);
    struct link_msg m;
    struct errmsg e;
    int ret = link_recv(p.b, &m, &e);
    setrlimit(RLIMIT_NOFILE, &old);
    assert_int_equal(ret, -EPROTO);
    assert_non_null(strstr(e.text, "descriptors were lost"));
    close(event);
    pair_close(p);
}

static void listen_and_connect(void **state)
{
    char dir[] = "/tmp/creedence-link-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char deep[512], path[600];
    snprintf(deep, sizeof deep, "%s/%0120d", dir, 0); /* past sun_path */
    assert_return_code(mkdir(deep, 0700), errno);
    for (int pass = 0; pass < 2; pass++) {
        snprintf(path, sizeof path, "%s/x.link", pass ? deep : dir);
        struct errmsg e;
        int l, c;
        assert_int_equal(link_connect(&c, path, &e), -ENOENT);
        assert_int_equal(link_listen(&l, path, &e), 0);
        struct stat st;
        assert_return_code(stat(path, &st), errno);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(link_connect(&c, path, &e), 0);
        int second;
        assert_int_equal(link_listen(&second, path, &e), -EADDRINUSE); /* not under somebody who serves */
        int s = accept(l, NULL, NULL);
        assert_true(s >= 0);
        close(s);
        close(c);
        close(l);
        assert_int_equal(link_connect(&c, path, &e), -ECONNREFUSED);
        assert_non_null(strstr(e.text, path));
        assert_int_equal(link_listen(&l, path, &e), 0); /* over the stale one */
        close(l);
        unlink(path);
        int file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        close(file);
        assert_int_equal(link_listen(&l, path, &e), -EEXIST); /* never over something else */
        unlink(path);
    }
    rmdir(deep);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(answers_and_notifications),
        cmocka_unit_test(wrong_heads),
        cmocka_unit_test(malformed),
        cmocka_unit_test(deep_nesting),
        cmocka_unit_test(oversized),
        cmocka_unit_test(largest),
        cmocka_unit_test(closed),
        cmocka_unit_test(closed_with_something_unread),
        cmocka_unit_test(full),
        cmocka_unit_test(no_descriptors_left),
        cmocka_unit_test(listen_and_connect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
