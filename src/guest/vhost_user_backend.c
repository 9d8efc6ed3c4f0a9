/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The back-end channel: our requests to the front end (specification, "Back-end communication"). There is one,
 * CONFIG_CHANGE_MSG.
 *
 * Nobody waits here. A front end may itself wait for an answer of ours before it reads this channel, so
 * when REPLY_ACK was agreed on its answer is read whenever it comes; until then a further change is
 * only noted, and told after it. The note is in the state: a change that a killed process may
 * not have told is told again, which costs the front end one look at the configuration.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "guest/notify.h"
#include "guest/vhost_user_session.h"

/* Tell of the change that is noted, if that is possible now. */
static void tell(struct vhost_session *s)
{
    if (!s->state->config_pending || s->req_waiting || s->req_fd < 0) return;
    bool ack = vhost_negotiated(s, VU_PROTOCOL_F_REPLY_ACK);
    struct vu_header head = {VU_BACKEND_CONFIG_CHANGE_MSG, VU_VERSION | (ack ? VU_FLAG_NEED_REPLY : 0), 0};
    ssize_t n = send(s->req_fd, &head, sizeof head, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        loop_change(&s->req_watch, EPOLLIN | EPOLLOUT);
        return;
    }
    if (n != (ssize_t)sizeof head) {
        log_warn("vhost-user: the front end cannot be told of a configuration change: %s",
                 n < 0 ? strerror(errno) : "the channel took a part of it");
        loop_remove(&s->req_watch);
        vhost_backend_close(s, true);
        return;
    }
    loop_change(&s->req_watch, EPOLLIN);
    s->req_waiting = ack;
    s->req_answer_bytes = 0;
    /* With an answer to come, the note stays until it is here. */
    if (!ack) vhost_state_mark(&s->state->config_pending, 0);
}

static void answered(struct vhost_session *s)
{
    struct vu_header head;
    uint64_t value;
    memcpy(&head, s->req_answer, sizeof head);
    memcpy(&value, s->req_answer + sizeof head, sizeof value);
    s->req_answer_bytes = 0;
    if (head.request != VU_BACKEND_CONFIG_CHANGE_MSG || !(head.flags & VU_FLAG_REPLY) || head.size != sizeof value) {
        log_limited(LOG_LEVEL_WARN, "vhost-user: unexpected message %u on the back-end channel", head.request);
        loop_remove(&s->req_watch);
        vhost_backend_close(s, true);
        return;
    }
    if (value != 0) log_limited(LOG_LEVEL_WARN, "vhost-user: the front end could not take a configuration change");
    if (!s->req_waiting) return; /* the answer to a process before us */
    s->req_waiting = false;
    if (s->state->config_pending == 1) vhost_state_mark(&s->state->config_pending, 0);
    if (s->state->config_pending > 1) {
        vhost_state_mark(&s->state->config_pending, 1);
        tell(s);
    }
}

static void req_ready(struct loop_watch *w, uint32_t events)
{
    struct vhost_session *s = container_of(w, struct vhost_session, req_watch);
    if (events & EPOLLOUT) tell(s);
    if (s->req_fd < 0 || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    ssize_t n =
        recv(s->req_fd, s->req_answer + s->req_answer_bytes, sizeof s->req_answer - s->req_answer_bytes, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        loop_remove(&s->req_watch);
        vhost_backend_close(s, true);
        return;
    }
    s->req_answer_bytes += (size_t)n;
    if (s->req_answer_bytes == sizeof s->req_answer) answered(s);
}

int vhost_backend_watch(struct vhost_session *s)
{
    if (s->req_fd < 0) return 0;
    int ret = loop_add(s->args.loop, &s->req_watch, s->req_fd, EPOLLIN, req_ready);
    if (ret == 0) tell(s);
    return ret;
}

void vhost_backend_close(struct vhost_session *s, bool drop)
{
    loop_remove(&s->req_watch);
    if (s->req_fd < 0) return;
    if (drop) {
        s->state->has_req = 0;
        s->state->config_pending = 0;
        vhost_hold_drop(s, "req");
    }
    close(s->req_fd);
    s->req_fd = -1;
    s->req_waiting = false;
    s->req_answer_bytes = 0;
}

int vhost_set_backend_req_fd(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    if (guest_fd_kind(m->fd[0]) != S_IFSOCK) return errmsg_set(e, EINVAL, "its descriptor is not a socket");
    loop_remove(&s->req_watch);
    if (s->req_fd >= 0) close(s->req_fd);
    s->req_waiting = false;
    s->req_answer_bytes = 0;
    s->req_fd = vhost_message_take_fd(m);
    vhost_hold_keep(s, s->req_fd, "req");
    vhost_state_mark(&s->state->has_req, 1);
    int ret = vhost_backend_watch(s);
    return ret < 0 ? errmsg_sys(e, -ret, "watching the back-end channel") : 0;
}

bool vhost_session_config_changed(struct vhost_session *s)
{
    if (s->ended || s->req_fd < 0 || !vhost_negotiated(s, VU_PROTOCOL_F_CONFIG)) return false;
    vhost_state_mark(&s->state->config_pending, s->req_waiting ? 2 : 1);
    tell(s);
    return s->req_fd >= 0;
}
