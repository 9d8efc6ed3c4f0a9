/* SPDX-License-Identifier: Apache-2.0 */
/* What a switch that dies says last: real faults, each in a process of its own. */
#include "cmd/switch_fault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/checked.h"
#include "port/source.h"

#define CARD "a-card-with-a-name-that-is-long"

/* A card in whose ring there is something that ends us. */
static int receive_and_die(struct port_source *s, struct packet **out, unsigned max, struct packet_pool *pool)
{
    (void)s;
    (void)out;
    (void)max;
    (void)pool;
    raise(SIGSEGV);
    return 0;
}

static void nothing(struct port_source *s)
{
    (void)s;
}

static void *thread_new(void *arg, struct packet_pool *pool)
{
    (void)arg;
    return pool;
}

static void thread_free(void *thread)
{
    (void)thread;
}

static void serve_and_die(void)
{
    static const struct port_source_ops ops = {.receive = receive_and_die, .release = nothing};
    static const struct port_ops port_ops = {.type = "fake"};
    static const struct runner_sink sink = {.thread_new = thread_new, .thread_free = thread_free};
    struct port port;
    struct port_source source = {.ops = &ops, .port = &port, .fd = -1};
    struct runner *r;
    port_init(&port, &port_ops, CARD);
    if (runner_new(&r, "ports.0", &sink, 0) || runner_add(r, &source)) _exit(3);
    pause();
}

static void begin(int sock)
{
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    alarm(20);
    signal(SIGSEGV, SIG_DFL); /* cmocka and sanitizers have handlers */
    signal(SIGABRT, SIG_DFL);
    fault_init();
    fault_tell(sock);
}

/* What a process says that does this, and dies of `number`. */
static void assert_says(void (*and_dies)(void), int number, const char *expected)
{
    char said[256];
    int pair[2], status;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    pid_t child = fork();
    if (child == 0) {
        close(pair[0]);
        begin(pair[1]);
        and_dies();
        _exit(4);
    }
    close(pair[1]);
    ssize_t n = recv(pair[0], said, sizeof said - 1, 0);
    said[n < 0 ? 0 : n] = 0;
    assert_string_equal(said, expected);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == number);
    close(pair[0]);
}

static void while_it_serves_a_card(void **state)
{
    (void)state;
    assert_says(serve_and_die, SIGSEGV,
                "{\"method\":\"fault\",\"params\":{\"thread\":\"ports.0\",\"port\":\"" CARD "\"}}");
}

static void abort_with_an_odd_name(void)
{
    prctl(PR_SET_NAME, "odd \"name\"");
    abort();
}

static void of_its_own(void **state)
{
    (void)state;
    assert_says(abort_with_an_odd_name, SIGABRT,
                "{\"method\":\"fault\",\"params\":{\"thread\":\"odd\",\"port\":\"\"}}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(while_it_serves_a_card),
        cmocka_unit_test(of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
