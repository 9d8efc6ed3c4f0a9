/* SPDX-License-Identifier: Apache-2.0 */
/* Asking over a link: answers in any order, none, too late, wrong ones; a peer freed from inside its callbacks. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/peer.h"

struct fixture {
    struct loop *loop;
    struct peer *peer;
    int other; /* the end of the side that answers */
    unsigned notified, gone;
    char why[256];
    bool free_when_notified, free_when_gone, free_when_done;
    unsigned done;
    int rets[400];
};

static void notified(void *arg, const char *method, json_t *params, struct link_msg *msg)
{
    struct fixture *f = arg;
    f->notified++;
    if (f->free_when_notified) peer_free(f->peer);
    if (f->free_when_notified) f->peer = NULL;
}

static void gone(void *arg, const char *why)
{
    struct fixture *f = arg;
    f->gone++;
    snprintf(f->why, sizeof f->why, "%s", why);
    if (f->free_when_gone) peer_free(f->peer);
    if (f->free_when_gone) f->peer = NULL;
}

static const struct peer_ops ops = {notified, gone};

static void done(void *arg, const struct peer_answer *a)
{
    struct fixture *f = arg;
    assert_true(a->ret == 0 ? a->result && a->msg : a->message != NULL);
    f->rets[f->done++] = a->ret;
    if (f->free_when_done && f->peer) {
        struct peer *p = f->peer;
        f->peer = NULL;
        peer_free(p);
    }
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    int s[2];
    f->loop = loop_new();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s) < 0) return -1;
    f->other = s[1];
    *state = f;
    return peer_new(&f->peer, f->loop, s[0], "the other", &ops, f);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    peer_free(f->peer);
    loop_free(f->loop);
    if (f->other >= 0) close(f->other);
    free(f);
    return 0;
}

static void spin(struct fixture *f)
{
    for (int i = 0; i < 10; i++)
        loop_run_once(f->loop, 0);
}

static void ask(struct fixture *f, unsigned timeout_ms)
{
    peer_ask(f->peer, "m", NULL, NULL, NULL, 0, timeout_ms, done, f);
}

static void tell(struct fixture *f, json_t *body)
{
    assert_int_equal(link_send(f->other, body, NULL, NULL, 0), 0);
    json_decref(body);
}

static json_int_t next_id(struct fixture *f)
{
    struct link_msg m;
    struct link_head h;
    assert_int_equal(link_recv(f->other, &m, NULL), 0);
    assert_int_equal(link_msg_head(&m, &h, NULL), 0);
    link_msg_clear(&m);
    return h.id;
}

/* Asking somebody who has just ended fails, but what he said before that is heard. */
static void last_words(void **state)
{
    struct fixture *f = *state;
    ask(f, 1000); /* never read by the other side */
    for (int i = 0; i < 100; i++)
        tell(f, link_notification("keep", NULL));
    close(f->other);
    f->other = -1;
    ask(f, 1000);
    spin(f);
    assert_int_equal(f->notified, 100);
    assert_int_equal(f->gone, 1);
    assert_int_equal(f->done, 2);
    assert_true(f->rets[0] == -EPIPE && f->rets[1] == -EPIPE);
}

static void any_order(void **state)
{
    struct fixture *f = *state;
    ask(f, 1000);
    ask(f, 1000);
    json_int_t first = next_id(f), second = next_id(f);
    tell(f, link_answer_error(second, -EBUSY, "busy"));
    tell(f, link_answer(first, NULL));
    tell(f, link_notification("note", NULL));
    spin(f);
    assert_int_equal(f->done, 2);
    assert_int_equal(f->rets[0], -EBUSY);
    assert_int_equal(f->rets[1], 0);
    assert_int_equal(f->notified, 1);
    assert_int_equal(f->gone, 0);
}

static void too_late(void **state)
{
    struct fixture *f = *state;
    ask(f, 1);
    usleep(3000);
    spin(f);
    assert_int_equal(f->done, 1);
    assert_int_equal(f->rets[0], -ETIMEDOUT);
    tell(f, link_answer(next_id(f), NULL));
    spin(f);
    assert_int_equal(f->gone, 0); /* late is not wrong */
}

static void closed(void **state)
{
    struct fixture *f = *state;
    ask(f, 1000);
    ask(f, 1000);
    close(f->other);
    f->other = -1;
    f->free_when_gone = true;
    spin(f);
    assert_int_equal(f->done, 2);
    assert_int_equal(f->rets[0], -EPIPE);
    assert_int_equal(f->gone, 1);
}

static void asked_when_gone(void **state)
{
    struct fixture *f = *state;
    close(f->other);
    f->other = -1;
    ask(f, 1000); /* sending fails; it is told from the loop */
    assert_int_equal(f->done, 0);
    spin(f);
    assert_int_equal(f->done, 1);
    ask(f, 1000);
    assert_int_equal(f->done, 1);
    spin(f);
    assert_int_equal(f->done, 2);
    assert_int_equal(f->rets[1], -EPIPE);
    assert_int_equal(f->gone, 1);
}

static void wrong_answers(void **state)
{
    struct fixture *f = *state;
    tell(f, link_answer(12345, NULL)); /* never asked */
    spin(f);
    assert_int_equal(f->gone, 1);
    assert_non_null(strstr(f->why, "never made"));
}

static void requests_from_the_wrong_side(void **state)
{
    struct fixture *f = *state;
    ask(f, 1000);
    tell(f, link_request(1, "m", NULL));
    spin(f);
    assert_int_equal(f->gone, 1);
    assert_int_equal(f->rets[0], -EPIPE);
}

static void freed_inside(void **state)
{
    struct fixture *f = *state;
    f->free_when_notified = true;
    ask(f, 1000);
    tell(f, link_notification("a", NULL));
    tell(f, link_notification("b", NULL));
    spin(f);
    assert_int_equal(f->notified, 1);
    assert_int_equal(f->done, 1);
    assert_int_equal(f->gone, 0);
}

static void freed_by_an_answer(void **state)
{
    struct fixture *f = *state;
    f->free_when_done = true;
    ask(f, 1000);
    ask(f, 1000);
    tell(f, link_answer(next_id(f), NULL));
    spin(f);
    assert_int_equal(f->done, 2);
    assert_int_equal(f->rets[1], -EPIPE);
}

static void freed_by_a_limit(void **state)
{
    struct fixture *f = *state;
    f->free_when_done = true;
    ask(f, 0);
    ask(f, 0);
    spin(f);
    assert_int_equal(f->done, 2);
}

/* What does not fit waits with its descriptors, and goes out in order. */
static void queued(void **state)
{
    struct fixture *f = *state;
    int event = eventfd(0, EFD_CLOEXEC);
    unsigned sent = 0;
    for (; sent < 40; sent++)
        peer_ask(f->peer, "m", NULL, (const char *[]){"fd"}, &event, 1, 1000, done, f);
    close(event);
    for (unsigned got = 0; got < sent;) {
        struct link_msg m;
        struct link_head h;
        spin(f);
        if (link_recv(f->other, &m, NULL) < 0) continue;
        assert_int_equal(link_msg_head(&m, &h, NULL), 0);
        assert_int_equal(h.id, got++);
        assert_int_equal(m.fd_count, 1);
        link_msg_clear(&m);
    }
    assert_int_equal(f->gone, 0);
}

static void never_read(void **state)
{
    struct fixture *f = *state;
    static char large[20000];
    memset(large, 'x', sizeof large - 1);
    for (unsigned i = 0; i < PEER_REQUESTS_MAX && !f->gone; i++) {
        peer_ask(f->peer, "m", json_pack("{s:s}", "pad", large), NULL, NULL, 0, 1000, done, f);
        spin(f);
    }
    assert_int_equal(f->gone, 1);
    assert_true(f->done > PEER_QUEUE_MAX);
}

static void drained(void **state)
{
    struct fixture *f = *state;
    tell(f, link_notification("a", NULL));
    tell(f, link_notification("b", NULL));
    close(f->other);
    f->other = -1;
    peer_drain(f->peer);
    assert_int_equal(f->notified, 2);
    assert_int_equal(f->gone, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(last_words),
        TEST(any_order),
        TEST(too_late),
        TEST(closed),
        TEST(asked_when_gone),
        TEST(wrong_answers),
        TEST(requests_from_the_wrong_side),
        TEST(freed_inside),
        TEST(freed_by_an_answer),
        TEST(freed_by_a_limit),
        TEST(queued),
        TEST(never_read),
        TEST(drained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
