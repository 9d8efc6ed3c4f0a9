/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop of control threads: file descriptors and timers over one epoll instance.
 * (A queue thread of a disk does not use it: it sleeps in its I/O engine, disk/engine/engine.h.)
 *
 * Thread-safety: a loop and everything registered on it belong to the thread that runs it. Other
 * threads reach it through a mailbox (loop/mailbox.h) whose descriptor is watched on it.
 *
 * Level-triggered. A callback may remove or free any watch or timer, its own included.
 */
#ifndef LOOP_LOOP_H
#define LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

struct loop;

/* Embedded in its owner. Zero it before first use. */
struct loop_watch {
    int fd;
    uint32_t events;                                      /* EPOLLIN, EPOLLOUT, ... */
    void (*ready)(struct loop_watch *w, uint32_t events); /* EPOLLHUP and EPOLLERR may come too */
    struct loop *loop;                                    /* NULL while not registered */
};

struct loop_timer {
    void (*fired)(struct loop_timer *t);
    uint64_t due_ns;
    struct loop *loop; /* NULL while not armed */
    struct list node;
};

/* NULL and errno on failure. Freeing a loop with things registered on it detaches them. */
struct loop *loop_new(void);
void loop_free(struct loop *l);

/* 0 or -errno. The descriptor stays the caller's; remove the watch before closing it. */
int loop_add(struct loop *l, struct loop_watch *w, int fd, uint32_t events,
             void (*ready)(struct loop_watch *, uint32_t));
int loop_change(struct loop_watch *w, uint32_t events);
void loop_remove(struct loop_watch *w); /* harmless when not registered */

/* Fire once, delay_ns from now; re-arming an armed timer moves it. Cannot fail. */
void loop_timer_arm(struct loop *l, struct loop_timer *t, uint64_t delay_ns, void (*fired)(struct loop_timer *));
void loop_timer_cancel(struct loop_timer *t); /* harmless when not armed */

/* Something was answered, and the next question may follow at once: if that was so the last time, look for it for poll_ns before going to
 * sleep. Two threads that wake each other up all the time take several times as long as the work between. */
void loop_poll_for(struct loop *l, uint64_t poll_ns);

/* Run until loop_stop(), called from a callback. Returns 0, or -errno when epoll itself fails. */
int loop_run(struct loop *l);
/* One pass: wait at most max_wait_ms (-1: for ever, 0: not at all), run what is ready. */
int loop_run_once(struct loop *l, int max_wait_ms);
void loop_stop(struct loop *l);

#endif
