/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connects to a target (or listens at it) again and again, later and later while that does not help.
 *
 * Thread-safety: none; everything on the loop's thread.
 */
#ifndef CONTROL_REDIAL_H
#define CONTROL_REDIAL_H

#include "control/target.h"
#include "loop/loop.h"

struct redial {
    struct loop *loop;
    struct target target;
    /* A connection, or a listening socket: the callee's now. It may call redial_later() or redial_stop(). */
    void (*got)(struct redial *r, int fd);
    /* It is tried again by itself. why: for people. May be NULL. */
    void (*failed)(struct redial *r, const char *why);
    struct loop_watch watch; /* fd: of a connection that is being made, or -1 */
    struct loop_timer timer; /* the next try, or the limit of this one */
    unsigned failures;
};

void redial_init(struct redial *r, struct loop *loop, const struct target *t, void (*got)(struct redial *r, int fd),
                 void (*failed)(struct redial *r, const char *why));
void redial_now(struct redial *r);
/* What was got did not last: 0.5 s, 1 s, .. 8 s from now. */
void redial_later(struct redial *r);
/* What was got works: the next waiting is a short one. */
void redial_steady(struct redial *r);
void redial_stop(struct redial *r);

#endif
