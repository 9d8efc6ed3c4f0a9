/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timers are a sorted list: a control thread has a handful. Events of one epoll_wait() are kept
 * in `batch` while they are dispatched, so that a watch removed by an earlier callback of the
 * same batch is struck out instead of being called after it was freed.
 */
#include "loop/loop.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "loop/clock.h"

#define LOOP_BATCH 64

struct loop {
    int epoll_fd;
    bool stopping;
    struct list timers; /* soonest first */
    struct epoll_event batch[LOOP_BATCH];
    int batch_count;
    uint64_t answered_ns, poll_ns; /* loop_poll_for(); 0: nobody expects anything */
    bool polls;                    /* the last time, what was expected came soon */
};

struct loop *loop_new(void)
{
    struct loop *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (l->epoll_fd < 0) {
        free(l);
        return NULL;
    }
    list_init(&l->timers);
    return l;
}

void loop_free(struct loop *l)
{
    if (!l) return;
    LIST_FOR_EACH_SAFE (node, &l->timers)
        loop_timer_cancel(list_entry(node, struct loop_timer, node));
    close(l->epoll_fd);
    free(l);
}

int loop_add(struct loop *l, struct loop_watch *w, int fd, uint32_t events,
             void (*ready)(struct loop_watch *, uint32_t))
{
    struct epoll_event ev = {.events = events, .data.ptr = w};
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) return -errno;
    *w = (struct loop_watch){.fd = fd, .events = events, .ready = ready, .loop = l};
    return 0;
}

int loop_change(struct loop_watch *w, uint32_t events)
{
    assert(w->loop);
    if (w->events == events) return 0;
    struct epoll_event ev = {.events = events, .data.ptr = w};
    if (epoll_ctl(w->loop->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev) < 0) return -errno;
    w->events = events;
    return 0;
}

void loop_remove(struct loop_watch *w)
{
    struct loop *l = w->loop;
    if (!l) return;
    epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
    for (int i = 0; i < l->batch_count; i++)
        if (l->batch[i].data.ptr == w) l->batch[i].data.ptr = NULL;
    w->loop = NULL;
}

void loop_timer_arm(struct loop *l, struct loop_timer *t, uint64_t delay_ns, void (*fired)(struct loop_timer *))
{
    loop_timer_cancel(t);
    t->fired = fired;
    t->due_ns = clock_now_ns() + delay_ns;
    t->loop = l;
    struct list *at = &l->timers;
    LIST_FOR_EACH (node, &l->timers) {
        if (list_entry(node, struct loop_timer, node)->due_ns > t->due_ns) {
            at = node;
            break;
        }
    }
    list_insert_before(at, &t->node);
}

void loop_timer_cancel(struct loop_timer *t)
{
    if (!t->loop) return;
    list_remove(&t->node);
    t->loop = NULL;
}

static int wait_ms_until_timer(const struct loop *l, int max_wait_ms)
{
    if (list_empty(&l->timers)) return max_wait_ms;
    uint64_t due_ns = list_entry(l->timers.next, struct loop_timer, node)->due_ns;
    uint64_t now_ns = clock_now_ns();
    if (due_ns <= now_ns) return 0;
    uint64_t ms = div_round_up(due_ns - now_ns, NS_PER_MS);
    if (max_wait_ms >= 0 && ms > (uint64_t)max_wait_ms) return max_wait_ms;
    return ms > 3600000 ? 3600000 : (int)ms;
}

/* Only timers due at the start of the pass: one that re-arms itself with no delay cannot hold
 * the loop. */
static void run_timers(struct loop *l)
{
    uint64_t now_ns = clock_now_ns();
    while (!list_empty(&l->timers)) {
        struct loop_timer *t = list_entry(l->timers.next, struct loop_timer, node);
        if (t->due_ns > now_ns) break;
        loop_timer_cancel(t);
        t->fired(t);
    }
}

void loop_poll_for(struct loop *l, uint64_t poll_ns)
{
    l->answered_ns = clock_now_ns();
    l->poll_ns = poll_ns;
}

/* Gives the CPU to whoever else wants it. */
static int poll_a_little(struct loop *l)
{
    int n;
    while ((n = epoll_wait(l->epoll_fd, l->batch, LOOP_BATCH, 0)) == 0 && clock_now_ns() - l->answered_ns < l->poll_ns)
        sched_yield();
    return n;
}

/* A sleep would have taken about as long as the poll: what comes within twice that time was worth it, or would have been. */
static void learn(struct loop *l)
{
    l->polls = clock_now_ns() - l->answered_ns < 2 * l->poll_ns;
    l->answered_ns = 0;
}

static int wait_for_events(struct loop *l, int max_wait_ms)
{
    int wait_ms = wait_ms_until_timer(l, max_wait_ms);
    int n = l->answered_ns && l->polls && wait_ms != 0 ? poll_a_little(l) : 0;
    if (n == 0) n = epoll_wait(l->epoll_fd, l->batch, LOOP_BATCH, wait_ms);
    if (n > 0 && l->answered_ns) learn(l);
    return n;
}

int loop_run_once(struct loop *l, int max_wait_ms)
{
    int n = wait_for_events(l, max_wait_ms);
    if (n < 0) {
        if (errno != EINTR) return -errno;
        n = 0;
    }
    l->batch_count = n;
    for (int i = 0; i < n; i++) {
        struct loop_watch *w = l->batch[i].data.ptr;
        if (w) w->ready(w, l->batch[i].events);
    }
    l->batch_count = 0;
    run_timers(l);
    return 0;
}

int loop_run(struct loop *l)
{
    l->stopping = false;
    while (!l->stopping) {
        int ret = loop_run_once(l, -1);
        if (ret < 0) return ret;
    }
    return 0;
}

void loop_stop(struct loop *l)
{
    l->stopping = true;
}
