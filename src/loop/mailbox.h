/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How one thread asks another to do something: intrusive messages, many senders, one receiver.
 *
 * The receiver watches mailbox_fd() on its loop or engine and calls mailbox_run() when it is
 * readable (a polling receiver, whenever mailbox_has_mail() says so). A message belongs to the
 * mailbox from mailbox_post() until its `run` is called, and to `run` from then on. Messages of
 * one sender run in the order in which they were posted.
 *
 * Thread-safety: mailbox_post() from any thread; everything else from the receiver.
 */
#ifndef LOOP_MAILBOX_H
#define LOOP_MAILBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct mail {
    void (*run)(struct mail *m);
    struct mail *next;
};

struct mailbox {
    _Atomic(struct mail *) head; /* newest first */
    int event_fd;
};

/* 0 or -errno. */
int mailbox_init(struct mailbox *box);
/* Messages still inside are not run. No sender may be inside mailbox_post(): that a message has run does
 * not say that its sender has left, for it signals last (and would write to whatever has the descriptor's number
 * then). Joining the senders' threads says it, or a lock that they hold around it. */
void mailbox_destroy(struct mailbox *box);

static inline int mailbox_fd(const struct mailbox *box)
{
    return box->event_fd;
}

/* Cannot fail and does not block. The descriptor is signalled only when the box was empty. */
void mailbox_post(struct mailbox *box, struct mail *m);

/* Clear the signal and run everything posted so far; returns how many ran. To be called whenever
 * the descriptor is readable; a polling receiver asks mailbox_has_mail() first. */
unsigned mailbox_run(struct mailbox *box);

static inline bool mailbox_has_mail(struct mailbox *box)
{
    return atomic_load_explicit(&box->head, memory_order_relaxed) != NULL;
}

#endif
