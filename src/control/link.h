/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between the daemon and its workers, and between the daemon and the cache service: one JSON object
 * per SOCK_SEQPACKET datagram, with descriptors beside it (SCM_RIGHTS), named in order by the object's
 * top-level "fds" array.
 *
 *   request       {"id": N, "method": "m", "params": {...}, "fds": [...]}
 *   answer        {"id": N, "result": ...}  or  {"id": N, "error": {"code": -5, "message": "..."}}
 *   notification  {"method": "m", "params": {...}}
 *
 * Both ends are programs of ours but they do not trust each other: a worker that a guest took over may
 * send anything. Whatever arrives is bounded (LINK_MESSAGE_MAX bytes, LINK_FDS_MAX descriptors) and checked
 * before it is handed on; descriptors of a message that is refused are closed.
 *
 * Thread-safety: none. A socket is used by one thread.
 */
#ifndef CONTROL_LINK_H
#define CONTROL_LINK_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/errmsg.h"

#define LINK_MESSAGE_MAX (256u * 1024)
#define LINK_FDS_MAX 250u      /* the kernel's SCM_MAX_FD is 253 */
#define LINK_FD_NAME_MAX 64u   /* bytes of a descriptor's name, without the end */
#define LINK_SEND_WAIT_MS 5000 /* how long link_send() waits for a peer that does not read */

struct link_msg {
    json_t *body; /* an object */
    unsigned fd_count;
    int fds[LINK_FDS_MAX];           /* -1 once taken */
    const char *names[LINK_FDS_MAX]; /* inside body; distinct, 1..LINK_FD_NAME_MAX bytes */
};

/*
 * Send one message. body is borrowed and must not hold "fds" when count > 0 or names is given: that
 * key is written here. Descriptors stay the caller's.
 * 0, or -EMSGSIZE (too long, or too many descriptors), -EPIPE (closed), -ETIMEDOUT (the peer did not
 * read for LINK_SEND_WAIT_MS), another -errno.
 */
int link_send(int sock, json_t *body, const char *const *names, const int *fds, unsigned count);

/* As link_send, but -EAGAIN at once when the peer's queue is full. For event loops. */
int link_send_now(int sock, json_t *body, const char *const *names, const int *fds, unsigned count);

/*
 * Receive one message without waiting. 0: *m is filled, clear it with link_msg_clear(). -EAGAIN:
 * nothing there. -EPIPE: the peer closed. -EPROTO: malformed, with the reason in e; the
 * connection is still in step (datagrams) but the peer is not to be trusted. Other -errno: broken.
 */
int link_recv(int sock, struct link_msg *m, struct errmsg *e);

/* Release the body and close the descriptors that were not taken. Harmless on a zeroed message. */
void link_msg_clear(struct link_msg *m);

/* Take the descriptor of that name out of the message; -1 when there is none (left). */
int link_msg_take_fd(struct link_msg *m, const char *name);

/*
 * What kind of message is it? method: NULL in an answer. A method's params, when absent, are an empty object
 * owned by the message. id is -1 in a notification. result and error as in the message, borrowed.
 * 0, or -EPROTO with the reason.
 */
struct link_head {
    const char *method;
    json_t *params;
    json_int_t id;
    json_t *result;
    int error_code; /* negative when the answer is an error */
    const char *error_message;
};
int link_msg_head(const struct link_msg *m, struct link_head *out, struct errmsg *e);

/* Bodies, new references. params and result are stolen (NULL: an empty object). NULL when out of memory. */
json_t *link_request(json_int_t id, const char *method, json_t *params);
json_t *link_notification(const char *method, json_t *params);
json_t *link_answer(json_int_t id, json_t *result);
json_t *link_answer_error(json_int_t id, int code, const char *message);

/*
 * A listening socket at path (mode 0600 at birth; an old socket there that nobody serves is removed first) and a connection
 * to one. *out is close-on-exec and non-blocking; connecting answers -EAGAIN when the backlog is full.
 * 0 or -errno with the reason. A path longer than sun_path is reached through its directory's descriptor.
 */
int link_listen(int *out, const char *path, struct errmsg *e);
int link_connect(int *out, const char *path, struct errmsg *e);

#endif
