/* SPDX-License-Identifier: Apache-2.0 */
/* Watches and timers, and above all: removing and freeing them from callbacks. */
#include "loop/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "loop/clock.h"

/* An eventfd and how often its watch was called. */
struct source {
    struct loop_watch watch;
    int fd;
    int called;
    struct source *victim; /* removed, closed and freed by the callback */
    bool remove_self;
};

static void source_free(struct source *s)
{
    loop_remove(&s->watch);
    close(s->fd);
    free(s);
}

static void source_ready(struct loop_watch *w, uint32_t events)
{
    struct source *s = container_of(w, struct source, watch);
    s->called++;
    assert_true(events & EPOLLIN);
    uint64_t count;
    assert_int_equal(read(s->fd, &count, sizeof count), sizeof count);
    if (s->victim) {
        source_free(s->victim);
        s->victim = NULL;
    }
    if (s->remove_self) loop_remove(w);
}

static struct source *source_new(struct loop *l)
{
    struct source *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_int_equal(loop_add(l, &s->watch, s->fd, EPOLLIN, source_ready), 0);
    return s;
}

static void signal_source(struct source *s)
{
    uint64_t one = 1;
    assert_int_equal(write(s->fd, &one, sizeof one), sizeof one);
}

static void watch_is_called_until_removed(void **state)
{
    struct loop *l = loop_new();
    struct source *s = source_new(l);
    assert_int_equal(loop_run_once(l, 0), 0);
    assert_int_equal(s->called, 0);
    signal_source(s);
    loop_run_once(l, 0);
    assert_int_equal(s->called, 1);
    loop_remove(&s->watch);
    loop_remove(&s->watch);
    signal_source(s);
    loop_run_once(l, 0);
    assert_int_equal(s->called, 1);
    source_free(s);
    loop_free(l);
}

/* Both are ready in one pass; whichever comes first frees the other, which must not be called. */
static void callback_frees_another_ready_watch(void **state)
{
    struct loop *l = loop_new();
    struct source *a = source_new(l), *b = source_new(l);
    a->victim = b;
    b->victim = a;
    signal_source(a);
    signal_source(b);
    loop_run_once(l, 0);
    loop_run_once(l, 0);
    /* epoll reports in the order in which they became ready. */
    assert_int_equal(a->called, 1);
    assert_null(a->victim);
    source_free(a);
    loop_free(l);
}

static void callback_removes_itself(void **state)
{
    struct loop *l = loop_new();
    struct source *s = source_new(l);
    s->remove_self = true;
    signal_source(s);
    loop_run_once(l, 0);
    signal_source(s);
    loop_run_once(l, 0);
    assert_int_equal(s->called, 1);
    assert_null(s->watch.loop);
    source_free(s);
    loop_free(l);
}

static void interest_can_change(void **state)
{
    struct loop *l = loop_new();
    struct source *s = source_new(l);
    assert_int_equal(loop_change(&s->watch, 0), 0);
    signal_source(s);
    loop_run_once(l, 0);
    assert_int_equal(s->called, 0);
    assert_int_equal(loop_change(&s->watch, EPOLLIN), 0);
    loop_run_once(l, 0);
    assert_int_equal(s->called, 1);
    source_free(s);
    loop_free(l);
}

static void bad_descriptors_are_refused(void **state)
{
    struct loop *l = loop_new();
    struct loop_watch w = {0};
    assert_int_equal(loop_add(l, &w, -1, EPOLLIN, source_ready), -EBADF);
    assert_null(w.loop);
    loop_remove(&w);
    loop_free(l);
}

struct timer {
    struct loop_timer timer;
    struct loop *loop;
    int id;
    int again; /* re-arm with no delay this many times */
    struct loop_timer *cancels;
};

static int fired_ids;

static void timer_fired(struct loop_timer *t)
{
    struct timer *owner = container_of(t, struct timer, timer);
    fired_ids = fired_ids * 10 + owner->id;
    assert_null(t->loop);
    if (owner->cancels) loop_timer_cancel(owner->cancels);
    if (owner->again-- > 0) loop_timer_arm(owner->loop, t, 0, timer_fired);
}

static void timers_fire_in_the_order_of_their_time(void **state)
{
    struct loop *l = loop_new();
    struct timer t[3] = {{.id = 1}, {.id = 2}, {.id = 3}};
    fired_ids = 0;
    uint64_t start_ns = clock_now_ns();
    loop_timer_arm(l, &t[2].timer, 3 * NS_PER_MS, timer_fired);
    loop_timer_arm(l, &t[0].timer, 1 * NS_PER_MS, timer_fired);
    loop_timer_arm(l, &t[1].timer, 9 * NS_PER_MS, timer_fired);
    loop_timer_arm(l, &t[1].timer, 2 * NS_PER_MS, timer_fired); /* moved */
    while (t[2].timer.loop)
        assert_int_equal(loop_run_once(l, -1), 0);
    assert_int_equal(fired_ids, 123);
    assert_true(clock_now_ns() - start_ns >= 3 * NS_PER_MS);
    loop_free(l);
}

static void timer_that_rearms_itself_does_not_hold_the_loop(void **state)
{
    struct loop *l = loop_new();
    struct timer t = {.loop = l, .id = 1, .again = 1000000000};
    fired_ids = 0;
    loop_timer_arm(l, &t.timer, 0, timer_fired);
    loop_run_once(l, -1);
    loop_run_once(l, -1);
    assert_in_range(fired_ids, 1, 11);
    loop_timer_cancel(&t.timer);
    loop_free(l);
}

static void timer_cancels_one_that_is_due_too(void **state)
{
    struct loop *l = loop_new();
    struct timer b = {.id = 2}, a = {.id = 1, .cancels = &b.timer};
    fired_ids = 0;
    loop_timer_arm(l, &a.timer, 0, timer_fired);
    loop_timer_arm(l, &b.timer, 0, timer_fired);
    usleep(1000);
    loop_run_once(l, 0);
    loop_run_once(l, 0);
    assert_int_equal(fired_ids, 1);
    loop_timer_cancel(&b.timer);
    loop_free(l);
}

static void freeing_a_loop_disarms_its_timers(void **state)
{
    struct loop *l = loop_new();
    struct timer t = {.id = 1};
    loop_timer_arm(l, &t.timer, 0, timer_fired);
    loop_free(l);
    assert_null(t.timer.loop);
    loop_timer_cancel(&t.timer);
    loop_free(NULL);
}

static void stop_when_fired(struct loop_timer *t)
{
    struct timer *owner = container_of(t, struct timer, timer);
    loop_stop(owner->loop);
}

static void run_ends_when_stopped(void **state)
{
    struct loop *l = loop_new();
    struct timer t = {.loop = l};
    for (int i = 0; i < 2; i++) {
        loop_timer_arm(l, &t.timer, NS_PER_MS, stop_when_fired);
        assert_int_equal(loop_run(l), 0);
    }
    loop_free(l);
}

/* Whatever is expected, a pass waits as long as it was told to, and takes what comes. */
static void polling_changes_nothing_but_time(void **state)
{
    struct loop *l = loop_new();
    struct source *s = source_new(l);
    for (int round = 0; round < 3; round++) {
        loop_poll_for(l, 20 * NS_PER_MS);
        uint64_t start_ns = clock_now_ns();
        assert_int_equal(loop_run_once(l, 40), 0);
        assert_true(clock_now_ns() - start_ns >= 39 * NS_PER_MS); /* nothing came */
        assert_int_equal(s->called, round);
        loop_poll_for(l, 20 * NS_PER_MS);
        signal_source(s);
        assert_int_equal(loop_run_once(l, 1000), 0); /* came at once: the next time it is polled for */
        assert_int_equal(s->called, round + 1);
    }
    source_free(s);
    loop_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(watch_is_called_until_removed),
        cmocka_unit_test(callback_frees_another_ready_watch),
        cmocka_unit_test(callback_removes_itself),
        cmocka_unit_test(interest_can_change),
        cmocka_unit_test(bad_descriptors_are_refused),
        cmocka_unit_test(timers_fire_in_the_order_of_their_time),
        cmocka_unit_test(timer_that_rearms_itself_does_not_hold_the_loop),
        cmocka_unit_test(timer_cancels_one_that_is_due_too),
        cmocka_unit_test(freeing_a_loop_disarms_its_timers),
        cmocka_unit_test(run_ends_when_stopped),
        cmocka_unit_test(polling_changes_nothing_but_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
