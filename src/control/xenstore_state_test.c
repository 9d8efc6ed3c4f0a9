/* SPDX-License-Identifier: Apache-2.0 */
/* The state machine of a device, walked through every state of both sides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/xenstore_state.h"

/* What an action does, when it succeeds. */
static void carry_out(struct xen_device_view *v, enum xen_device_action a)
{
    switch (a) {
    case XEN_DEVICE_ATTACH: v->stage = XEN_DEVICE_READY; break;
    case XEN_DEVICE_PUBLISH: v->back = XENBUS_INIT_WAIT; break;
    case XEN_DEVICE_CONNECT:
        v->stage = XEN_DEVICE_CONNECTED;
        v->seen_used = false;
        break;
    case XEN_DEVICE_DISCONNECT: v->stage = XEN_DEVICE_READY; break;
    case XEN_DEVICE_DETACH: v->stage = XEN_DEVICE_NONE; break;
    case XEN_DEVICE_SERVE: v->back = XENBUS_CONNECTED; break;
    case XEN_DEVICE_FOLLOW: v->changed = false; break;
    case XEN_DEVICE_CLOSING: v->back = XENBUS_CLOSING; break;
    case XEN_DEVICE_CLOSED: v->back = XENBUS_CLOSED; break;
    case XEN_DEVICE_WAIT:
    case XEN_DEVICE_FORGET: break;
    }
}

/* Is the action one that may be taken there at all? */
static void check(const struct xen_device_view *v, enum xen_device_action a)
{
    bool uses_rings = v->front == XENBUS_INITIALISED || v->front == XENBUS_CONNECTED ||
                      v->front == XENBUS_RECONFIGURING || v->front == XENBUS_RECONFIGURED;
    switch (a) {
    case XEN_DEVICE_ATTACH:
        assert_true(v->stage == XEN_DEVICE_NONE && v->announced && v->online && !v->put_down);
        break;
    case XEN_DEVICE_PUBLISH:
        assert_true(v->stage == XEN_DEVICE_READY && v->back != XENBUS_INIT_WAIT && v->online);
        break;
    case XEN_DEVICE_CONNECT: assert_true(v->stage == XEN_DEVICE_READY && uses_rings && v->online && !v->failed); break;
    case XEN_DEVICE_DISCONNECT: assert_int_equal(v->stage, XEN_DEVICE_CONNECTED); break;
    case XEN_DEVICE_DETACH:
        assert_true(v->stage == XEN_DEVICE_READY || v->stage == XEN_DEVICE_NOT_READY);
        assert_true(!v->announced || !v->online);
        break;
    case XEN_DEVICE_SERVE:
        assert_true(v->stage == XEN_DEVICE_CONNECTED && v->back != XENBUS_CONNECTED && uses_rings);
        break;
    case XEN_DEVICE_FOLLOW:
        assert_true(v->stage == XEN_DEVICE_CONNECTED && v->back == XENBUS_CONNECTED && uses_rings && v->changed);
        break;
    case XEN_DEVICE_CLOSING: assert_int_not_equal(v->back, XENBUS_CLOSING); break;
    case XEN_DEVICE_CLOSED: assert_true(v->back != XENBUS_CLOSED && v->stage != XEN_DEVICE_CONNECTED); break;
    case XEN_DEVICE_FORGET: assert_true(!v->announced && v->stage == XEN_DEVICE_NONE); break;
    case XEN_DEVICE_WAIT: break;
    }
    if (!v->announced) /* what is not there is not written to */
        assert_true(a == XEN_DEVICE_DISCONNECT || a == XEN_DEVICE_DETACH || a == XEN_DEVICE_FORGET);
}

static enum xen_device_action settle(struct xen_device_view *v)
{
    for (int steps = 0; steps < 8; steps++) {
        enum xen_device_action a = xen_device_next(v);
        check(v, a);
        if (a == XEN_DEVICE_WAIT || a == XEN_DEVICE_FORGET) return a;
        carry_out(v, a);
    }
    fail_msg("front %s, back %s: never at rest", xenbus_state_name(v->front), xenbus_state_name(v->back));
    return XEN_DEVICE_WAIT;
}

static struct xen_device_view view_of(unsigned n)
{
    struct xen_device_view v = {.back = n % XENBUS_STATES, .front = n / XENBUS_STATES % XENBUS_STATES};
    n /= XENBUS_STATES * XENBUS_STATES;
    v.stage = n % 4;
    v.announced = n >> 2 & 1;
    v.online = n >> 3 & 1;
    v.failed = n >> 4 & 1;
    v.put_down = n >> 5 & 1;
    v.seen_used = n >> 6 & 1;
    v.changed = n >> 7 & 1;
    return v;
}

#define VIEWS (XENBUS_STATES * XENBUS_STATES * 4 * 64u)

static void every_view_comes_to_rest(void **state)
{
    for (unsigned n = 0; n < VIEWS; n++) {
        struct xen_device_view v = view_of(n);
        enum xen_device_action last = settle(&v);
        if (last == XEN_DEVICE_FORGET) continue;
        /* At rest: rings are used by those that say so, and by nobody else. */
        if (v.front <= XENBUS_INIT_WAIT || v.front == XENBUS_CLOSED)
            assert_int_not_equal(v.stage, XEN_DEVICE_CONNECTED);
        if (v.front == XENBUS_CONNECTED && v.online && v.stage != XEN_DEVICE_NOT_READY && !v.failed && !v.put_down)
            assert_true(v.stage == XEN_DEVICE_CONNECTED && v.back == XENBUS_CONNECTED && !v.changed);
    }
}

/* Whatever happened before: what the toolstack takes away goes, with the front end's help or without. */
static void what_is_taken_away_goes(void **state)
{
    for (unsigned n = 0; n < VIEWS; n++) {
        struct xen_device_view v = view_of(n), removed = v;
        removed.announced = false;
        assert_int_equal(settle(&removed), XEN_DEVICE_FORGET);
        assert_int_equal(removed.stage, XEN_DEVICE_NONE);
        if (!v.announced) continue;
        v.online = false;
        v.front = XENBUS_CLOSED;
        settle(&v);
        assert_true(v.stage == XEN_DEVICE_NONE && v.back == XENBUS_CLOSED);
    }
}

/* A thousand states in any order; then one that begins as it should is served. */
static void random_walks(void **state)
{
    srandom(7);
    for (int walk = 0; walk < 200; walk++) {
        struct xen_device_view v = {.announced = true, .online = true, .back = XENBUS_INITIALISING};
        for (int i = 0; i < 1000; i++) {
            v.front = (unsigned)random() % XENBUS_STATES;
            if (random() % 8 == 0) v.back = (unsigned)random() % XENBUS_STATES;
            if (random() % 8 == 0 && v.stage == XEN_DEVICE_READY) v.stage = XEN_DEVICE_NOT_READY;
            else if (v.stage == XEN_DEVICE_NOT_READY) v.stage = XEN_DEVICE_READY;
            settle(&v);
            if (v.stage == XEN_DEVICE_CONNECTED && v.front == XENBUS_CONNECTED) v.seen_used = true;
        }
        if (v.stage == XEN_DEVICE_NOT_READY) v.stage = XEN_DEVICE_READY;
        v.front = XENBUS_CLOSED;
        settle(&v);
        v.front = XENBUS_INITIALISING;
        settle(&v);
        assert_int_equal(v.back, XENBUS_INIT_WAIT);
        v.front = XENBUS_INITIALISED;
        settle(&v);
        assert_true(v.back == XENBUS_CONNECTED && v.stage == XEN_DEVICE_CONNECTED);
    }
}

/* front's states, and what is done at each until the device rests. */
static void expect(struct xen_device_view *v, enum xenbus_state front, const char *actions)
{
    char got[256] = "";
    v->front = front;
    for (int i = 0; i < 8; i++) {
        enum xen_device_action a = xen_device_next(v);
        if (a == XEN_DEVICE_WAIT) break;
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%s", *got ? " " : "", xen_device_action_name(a));
        if (a == XEN_DEVICE_FORGET) break;
        carry_out(v, a);
    }
    assert_string_equal(got, actions);
    if (v->stage == XEN_DEVICE_CONNECTED && front == XENBUS_CONNECTED) v->seen_used = true;
}

static struct xen_device_view announced(void)
{
    return (struct xen_device_view){.announced = true, .online = true, .back = XENBUS_INITIALISING};
}

static void lives(void **state)
{
    struct xen_device_view v = announced();
    expect(&v, XENBUS_INITIALISING, "attach publish");
    expect(&v, XENBUS_INITIALISED, "connect serve");
    expect(&v, XENBUS_CONNECTED, "");
    expect(&v, XENBUS_CLOSING, "closing");
    expect(&v, XENBUS_CLOSED, "disconnect closed");
    expect(&v, XENBUS_CLOSED, "");
    expect(&v, XENBUS_INITIALISING, "publish");            /* the next kernel */
    expect(&v, XENBUS_CONNECTED, "connect serve");         /* as netfront does */
    expect(&v, XENBUS_INITIALISING, "disconnect publish"); /* one that crashed */
    expect(&v, XENBUS_INITIALISED, "connect serve");
    expect(&v, XENBUS_CONNECTED, "");
    expect(&v, XENBUS_INITIALISED, "disconnect connect"); /* ... so fast that nobody saw it begin */
    v.online = false;
    v.back = XENBUS_CLOSING;
    expect(&v, XENBUS_CONNECTED, "");
    expect(&v, XENBUS_CLOSING, "");
    expect(&v, XENBUS_CLOSED, "disconnect detach closed");
    v.announced = false;
    expect(&v, XENBUS_UNKNOWN, "forget");

    v = announced(); /* destroyed: the front end's directory goes first */
    expect(&v, XENBUS_CONNECTED, "attach publish connect serve");
    v.online = false;
    v.back = XENBUS_CLOSING;
    expect(&v, XENBUS_UNKNOWN, "disconnect detach closed");

    v = announced(); /* destroyed by force: all of it goes */
    expect(&v, XENBUS_INITIALISED, "attach publish connect serve");
    v.announced = false;
    expect(&v, XENBUS_UNKNOWN, "disconnect detach forget");
}

static void words(void **state)
{
    static const char *const bad[] = {"", "9", "-1", "10", "04", " 4", "4 ", "x", "\xff"};
    enum xenbus_state s;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(xenbus_state_parse(&s, bad[i]));
        assert_int_equal(s, XENBUS_UNKNOWN);
    }
    assert_true(xenbus_state_parse(&s, "8") && s == XENBUS_RECONFIGURED);
    assert_string_equal(xenbus_state_name(s), "Reconfigured");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_view_comes_to_rest),
        cmocka_unit_test(what_is_taken_away_goes),
        cmocka_unit_test(random_walks),
        cmocka_unit_test(lives),
        cmocka_unit_test(words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
