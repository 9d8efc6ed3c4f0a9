/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "control/target.h"

static void check(const char *text, bool passive, bool tls, int family, const char *address, unsigned port)
{
    struct target t;
    struct errmsg e = {""};
    char got[INET6_ADDRSTRLEN] = "";
    assert_int_equal(target_parse(&t, text, &e), 0);
    assert_int_equal(t.passive, passive);
    assert_int_equal(t.tls, tls);
    assert_int_equal(t.family, family);
    if (family == AF_INET) {
        struct sockaddr_in a;
        memcpy(&a, &t.address, sizeof a);
        inet_ntop(family, &a.sin_addr, got, sizeof got);
        assert_int_equal(ntohs(a.sin_port), port);
    } else if (family == AF_INET6) {
        struct sockaddr_in6 a;
        memcpy(&a, &t.address, sizeof a);
        inet_ntop(family, &a.sin6_addr, got, sizeof got);
        assert_int_equal(ntohs(a.sin6_port), port);
    } else {
        snprintf(got, sizeof got, "%.40s", t.path);
    }
    assert_string_equal(got, address);
}

static void test_good(void **state)
{
    (void)state;
    check("tcp:192.0.2.1:6633", false, false, AF_INET, "192.0.2.1", 6633);
    check("tcp:192.0.2.1", false, false, AF_INET, "192.0.2.1", 6653);
    check("ssl:[2001:db8::1]:7000", false, true, AF_INET6, "2001:db8::1", 7000);
    check("ssl:2001:db8::1", false, true, AF_INET6, "2001:db8::1", 6653);
    check("tcp:[2001:db8::1]", false, false, AF_INET6, "2001:db8::1", 6653);
    check("unix:/run/c.sock", false, false, AF_UNIX, "/run/c.sock", 0);
    check("ptcp:", true, false, AF_INET, "0.0.0.0", 6653);
    check("ptcp:7000", true, false, AF_INET, "0.0.0.0", 7000);
    check("ptcp:7000:127.0.0.1", true, false, AF_INET, "127.0.0.1", 7000);
    check("pssl:7000:[::1]", true, true, AF_INET6, "::1", 7000);
    check("pssl::::1", true, true, AF_INET6, "::1", 6653);
    check("punix:/run/p.sock", true, false, AF_UNIX, "/run/p.sock", 0);
}

static void test_bad(void **state)
{
    static const char *const texts[] = {"",
                                        "tcp",
                                        "tcp:",
                                        "tcp:host:6653",
                                        "tcp:1.2.3.4:0",
                                        "tcp:1.2.3.4:65536",
                                        "tcp:1.2.3.4:",
                                        "tcp:1.2.3.4:+1",
                                        "udp:1.2.3.4",
                                        "unix:relative",
                                        "unix:",
                                        "ptcp:x",
                                        "ptcp:1:host",
                                        "tcp:[::1",
                                        "tcp:[::1]x:1",
                                        "ptcp:-1",
                                        "ssl:1.2.3.4:66530",
                                        " tcp:1.2.3.4"};
    char lengthy[400] = "unix:/";
    struct target t;
    struct errmsg e;
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(texts); i++)
        assert_int_equal(target_parse(&t, texts[i], &e), -EINVAL);
    memset(lengthy + 6, 'a', sizeof lengthy - 7);
    assert_int_equal(target_parse(&t, lengthy, &e), -EINVAL);
    memset(lengthy, '1', sizeof lengthy - 1);
    memcpy(lengthy, "tcp:", 4);
    assert_int_equal(target_parse(&t, lengthy, &e), -EINVAL);
}

static void test_same(void **state)
{
    static const struct {
        const char *a, *b;
        bool same;
    } pairs[] = {
        {"tcp:192.0.2.1", "tcp:192.0.2.1:6653", true},
        {"ssl:2001:db8::1", "ssl:[2001:DB8:0::1]:6653", true},
        {"ptcp:", "ptcp:6653:0.0.0.0", true},
        {"unix:/a", "unix:/a", true},
        {"nonsense", "nonsense", true},
        {"tcp:192.0.2.1", "ssl:192.0.2.1", false},
        {"tcp:192.0.2.1", "tcp:192.0.2.1:6633", false},
        {"tcp:192.0.2.1", "tcp:192.0.2.2", false},
        {"unix:/a", "unix:/ab", false},
        {"unix:/a", "punix:/a", false},
        {"tcp:192.0.2.1", "nonsense", false},
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(pairs); i++) {
        assert_int_equal(target_is_same(pairs[i].a, pairs[i].b), pairs[i].same);
        assert_int_equal(target_is_same(pairs[i].b, pairs[i].a), pairs[i].same);
    }
}

/* Some port of this host, and a connection to it. */
static void test_connect(void **state)
{
    struct target p, a;
    struct errmsg e = {""};
    int listener = -1, fd = -1;
    unsigned port = 20000 + (unsigned)getpid() % 20000;
    char text[64];
    (void)state;
    for (int ret = -1; ret < 0; port++) {
        snprintf(text, sizeof text, "ptcp:%u:127.0.0.1", port);
        assert_int_equal(target_parse(&p, text, &e), 0);
        ret = target_listen(&listener, &p, 0600, &e);
    }
    snprintf(text, sizeof text, "tcp:127.0.0.1:%u", port - 1);
    assert_int_equal(target_parse(&a, text, &e), 0);
    int ret = target_connect(&fd, &a, &e);
    assert_true(ret == 0 || ret == -EINPROGRESS);
    struct pollfd w = {.fd = fd, .events = POLLOUT};
    assert_int_equal(poll(&w, 1, 5000), 1);
    assert_int_equal(target_connected(fd), 0);
    close(fd);
    close(listener);
    ret = target_connect(&fd, &a, &e);
    if (ret == -EINPROGRESS) {
        w.fd = fd;
        assert_int_equal(poll(&w, 1, 5000), 1);
        ret = target_connected(fd);
        close(fd);
    }
    assert_int_equal(ret, -ECONNREFUSED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_same),
        cmocka_unit_test(test_connect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
