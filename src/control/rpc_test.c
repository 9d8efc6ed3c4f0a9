/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON-RPC server in one process with its clients: every piece of input at every cut, and calls that outlive both. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "control/rpc.h"
#include "control/unix_socket.h"

#define LATER_MAX 64

struct fixture {
    struct loop *loop;
    struct rpc_server *server;
    char path[64];
    struct rpc_call *later[LATER_MAX]; /* not answered yet */
    unsigned later_count, ran;
};

static void method_echo(void *arg, struct rpc_call *call, json_t *params)
{
    struct fixture *f = arg;
    f->ran++;
    rpc_answer(call, json_incref(params));
}

static void method_later(void *arg, struct rpc_call *call, json_t *params)
{
    struct fixture *f = arg;
    assert_true(f->later_count < LATER_MAX);
    f->later[f->later_count++] = call;
}

static void method_fail(void *arg, struct rpc_call *call, json_t *params)
{
    rpc_fail(call, RPC_BUSY, json_pack("{s:i}", "x", 1), "no: %d", 5);
}

static const struct rpc_method methods[] = {
    {"echo", method_echo}, {"later", method_later}, {"fail", method_fail}, {NULL, NULL}};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct errmsg e;
    int fd;
    f->loop = loop_new();
    snprintf(f->path, sizeof f->path, "/tmp/creedence-rpc-%d.sock", (int)getpid());
    if (unix_socket_listen(&fd, SOCK_STREAM, f->path, 0600, &e) < 0) return -1;
    if (rpc_server_new(&f->server, f->loop, fd, methods, f) < 0) return -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    rpc_server_free(f->server);
    loop_free(f->loop);
    unlink(f->path);
    free(f);
    return 0;
}

static void spin(struct fixture *f)
{
    for (int i = 0; i < 20; i++)
        assert_int_equal(loop_run_once(f->loop, 0), 0);
}

static int connect_client(struct fixture *f)
{
    int fd;
    struct errmsg e;
    assert_int_equal(unix_socket_connect(&fd, SOCK_STREAM, f->path, &e), 0);
    spin(f);
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* All that came, without its last newline. */
static const char *hear(struct fixture *f, int fd)
{
    static char text[65536];
    spin(f);
    ssize_t n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    if (n <= 0) return n == 0 ? "(end)" : "(nothing)";
    text[text[n - 1] == '\n' ? n - 1 : n] = 0;
    return text;
}

#define ECHO "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":{\"a\":[1,2]}}\n"
#define ECHOED "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"a\":[1,2]}}"

static void cut_anywhere(void **state)
{
    struct fixture *f = *state;
    const char *whole = ECHO;
    size_t len = strlen(whole);
    int fd = connect_client(f);
    for (size_t cut = 0; cut <= len; cut++) {
        char first[128] = "", second[128] = "";
        memcpy(first, whole, cut);
        memcpy(second, whole + cut, len - cut);
        say(fd, first);
        spin(f);
        say(fd, second);
        assert_string_equal(hear(f, fd), ECHOED);
    }
    say(fd, ECHO ECHO "\n \r\n" ECHO);
    assert_string_equal(hear(f, fd), ECHOED "\n" ECHOED "\n" ECHOED);
    close(fd);
    spin(f);
}

static void failures(void **state)
{
    struct fixture *f = *state;
    int fd = connect_client(f);
    say(fd, "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"fail\"}\n");
    assert_string_equal(
        hear(f, fd),
        "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"error\":{\"code\":-32003,\"message\":\"no: 5\",\"data\":{\"x\":1}}}");
    say(fd, "{\"jsonrpc\":\"2.0\",\"method\":\"fail\"}\n{\"jsonrpc\":\"2.0\",\"method\":\"nothing\"}\n");
    assert_string_equal(hear(f, fd), "(nothing)");
    close(fd);
    spin(f);
}

/* Unanswered requests stop a connection, and only that one. */
static void outstanding(void **state)
{
    struct fixture *f = *state;
    int a = connect_client(f), b = connect_client(f);
    for (int i = 0; i < 40; i++)
        say(a, "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"later\"}\n");
    spin(f);
    assert_int_equal(f->later_count, RPC_UNANSWERED_MAX);
    say(b, ECHO);
    assert_string_equal(hear(f, b), ECHOED);
    for (unsigned done = 0; done < 40; done++) {
        spin(f);
        assert_true(done < f->later_count);
        rpc_answer(f->later[done], json_integer(done));
    }
    spin(f);
    assert_int_equal(f->later_count, 40);
    close(a);
    close(b);
    spin(f);
}

static void answered_after_the_client_left(void **state)
{
    struct fixture *f = *state;
    int fd = connect_client(f);
    say(fd,
        "[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"later\"},{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"later\"}]\n"
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"later\"}\n");
    spin(f);
    close(fd);
    spin(f);
    assert_int_equal(f->later_count, 3);
    for (unsigned i = 0; i < 3; i++)
        rpc_answer(f->later[2 - i], json_true());
    spin(f);
}

static void answered_after_the_server_ended(void **state)
{
    struct fixture *f = *state;
    int fd = connect_client(f);
    say(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"later\"}\n");
    spin(f);
    rpc_server_free(f->server);
    f->server = NULL;
    rpc_answer(f->later[0], json_true());
    close(fd);
}

static void evicts_the_longest_idle(void **state)
{
    struct fixture *f = *state;
    int busy = connect_client(f), fds[RPC_CONNECTIONS_MAX + 10];
    say(busy, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"later\"}\n");
    spin(f);
    for (unsigned i = 0; i < RPC_CONNECTIONS_MAX + 10; i++)
        fds[i] = connect_client(f);
    assert_string_equal(hear(f, fds[0]), "(end)");
    assert_string_equal(hear(f, fds[RPC_CONNECTIONS_MAX + 9]), "(nothing)");
    rpc_answer(f->later[0], json_true());
    assert_string_equal(hear(f, busy), "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":true}");
    for (unsigned i = 0; i < RPC_CONNECTIONS_MAX + 10; i++)
        close(fds[i]);
    close(busy);
    spin(f);
}

static void unread_answers_stop_reading(void **state)
{
    struct fixture *f = *state;
    int fd = connect_client(f);
    char *request = malloc(20000);
    int n = snprintf(request, 20000,
                     "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":{\"a\":\"%015000d\"}}\n", 0);
    unsigned sent = 0;
    for (; sent < 10000; sent++) {
        ssize_t put = send(fd, request, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put != n) break;
        spin(f);
    }
    assert_true(sent < 200);
    assert_true(f->ran < 100);
    /* All of it is answered once it is read. */
    size_t answers = 0;
    char *text = malloc(1 << 20);
    for (int i = 0; i < 10000 && answers < sent; i++) {
        spin(f);
        ssize_t got = recv(fd, text, 1 << 20, MSG_DONTWAIT);
        for (ssize_t j = 0; j < got; j++)
            answers += text[j] == '\n';
    }
    assert_int_equal(answers, sent);
    free(text);
    free(request);
    close(fd);
    spin(f);
}

static void garbage(void **state)
{
    struct fixture *f = *state;
    srandom(1);
    for (int round = 0; round < 300; round++) {
        int fd = connect_client(f);
        char text[400];
        size_t len = (size_t)(random() % (long)sizeof text);
        static const char letters[] = "{}[]\",:\n0123456789 truefalsnjopcmdhi\\\xff";
        for (size_t i = 0; i < len; i++)
            text[i] = letters[(size_t)random() % (sizeof letters)];
        send(fd, text, len, MSG_NOSIGNAL);
        spin(f);
        if (round % 2) shutdown(fd, SHUT_WR);
        spin(f);
        close(fd);
        spin(f);
    }
    int fd = connect_client(f);
    say(fd, ECHO);
    assert_string_equal(hear(f, fd), ECHOED);
    close(fd);
    spin(f);
}

int main(void)
{
    log_setup("rpc_test", (enum log_level)0);
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(cut_anywhere),
        TEST(failures),
        TEST(outstanding),
        TEST(answered_after_the_client_left),
        TEST(answered_after_the_server_ended),
        TEST(evicts_the_longest_idle),
        TEST(unread_answers_stop_reading),
        TEST(garbage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
