/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asking end of a link (control/link.h): requests with answers that come later, and notifications.
 *
 * Nothing here waits: what the other side does not read is queued, up to PEER_QUEUE_MAX messages, and
 * every request has a time limit. The other side may be hostile.
 *
 * Thread-safety: none; everything on the loop's thread.
 */
#ifndef CONTROL_PEER_H
#define CONTROL_PEER_H

#include "control/link.h"
#include "loop/loop.h"

#define PEER_QUEUE_MAX 64u     /* messages not yet sent */
#define PEER_REQUESTS_MAX 256u /* waiting for answers */

struct peer;

struct peer_answer {
    int ret;              /* 0, or -errno: the other side's, -ETIMEDOUT, -EPIPE when the link is gone, -EPROTO */
    const char *message;  /* what went wrong; NULL when ret is 0 */
    json_t *result;       /* NULL unless ret is 0 */
    struct link_msg *msg; /* to take descriptors from; NULL unless ret is 0 */
};

struct peer_ops {
    /* A notification. Descriptors not taken out of msg are closed afterwards. */
    void (*notified)(void *arg, const char *method, json_t *params, struct link_msg *msg);
    /* The link is gone: closed, broken, or the other side broke the protocol (why). All requests were
     * answered with -EPIPE before. The peer is to be freed, now or later. */
    void (*gone)(void *arg, const char *why);
};

/* fd is taken over, on failure too. `name` is for messages and copied. 0 or -errno. */
int peer_new(struct peer **out, struct loop *l, int fd, const char *name, const struct peer_ops *ops, void *arg);

/* Legal from inside any callback. Requests still waiting are answered with -EPIPE, from inside. */
void peer_free(struct peer *p);

/*
 * Ask. params is stolen (NULL: none), descriptors are borrowed. done() is called exactly once and
 * never from inside peer_ask(), only later from the loop or from peer_free().
 */
typedef void (*peer_done)(void *arg, const struct peer_answer *a);
void peer_ask(struct peer *p, const char *method, json_t *params, const char *const *names, const int *fds,
              unsigned count, unsigned timeout_ms, peer_done done, void *arg);

/* The other side's process ended: take what it had still sent. Reports no end of the link itself. */
void peer_drain(struct peer *p);

#endif
