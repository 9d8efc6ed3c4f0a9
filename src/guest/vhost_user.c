/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session from its first message to its end.
 *
 * One message at a time, in steps that the state remembers (vhost_user_state.h says what a kill between two
 * of them means):
 *
 *     peek -> carry out -> write the answer down -> PROCESSED -> take it out of the socket -> CONSUMED
 *          -> send the answer -> IDLE
 *
 * The next message is not looked at before the answer to the last is out, so a front end that does not read
 * stops itself, and nothing here grows.
 */
#include "guest/vhost_user.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/log.h"
#include "guest/vhost_user_session.h"

size_t vhost_state_bytes(void)
{
    return sizeof(struct vhost_state);
}

/* ---- what is held for the next process ---- */

__attribute__((format(printf, 3, 0))) static void hold_name(char *name, size_t bytes, const char *format, va_list args)
{
    int n = vsnprintf(name, bytes, format, args);
    assert(n > 0 && (size_t)n < bytes);
}

void vhost_hold_keep(struct vhost_session *s, int fd, const char *format, ...)
{
    char name[32];
    va_list args;
    if (!s->args.hold.keep) return;
    va_start(args, format);
    hold_name(name, sizeof name, format, args);
    va_end(args);
    s->args.hold.keep(s->args.hold.arg, name, fd);
}

void vhost_hold_drop(struct vhost_session *s, const char *format, ...)
{
    char name[32];
    va_list args;
    if (!s->args.hold.drop) return;
    va_start(args, format);
    hold_name(name, sizeof name, format, args);
    va_end(args);
    s->args.hold.drop(s->args.hold.arg, name);
}

/* ---- the end ---- */

/* The front end is gone or given up: the device is reset, nothing is held any more. */
static void tear_down(struct vhost_session *s)
{
    s->ended = true;
    loop_remove(&s->conn_watch);
    loop_remove(&s->req_watch);
    /* What the rings hold of the front end's in-flight memory stays true: it may come back with it. */
    for (unsigned i = 0; i < s->args.ops->queues_max; i++) {
        if (!s->state->ring[i].running) continue;
        s->state->ring[i].base = s->args.ops->queue_stop(s->args.device, i);
        s->state->ring[i].running = 0;
    }
    s->args.ops->reset(s->args.device, GUEST_RESET_END);
    /* Once this is gone, what is still held is of no use to anybody. */
    s->state->magic = 0;
    vhost_state_order();
    vhost_hold_drop(s, "conn");
    vhost_hold_drop(s, "reply");
    vhost_backend_close(s, true);
    vhost_rings_close(s, true);
    vhost_regions_close(s, true);
    vhost_inflight_close(s, true);
    vhost_session_release(s);
}

void vhost_session_release(struct vhost_session *s)
{
    s->ended = true;
    loop_remove(&s->conn_watch);
    loop_remove(&s->req_watch);
    vhost_message_close_fds(&s->msg);
    if (s->msg.reply_fd >= 0) close(s->msg.reply_fd);
    s->msg.reply_fd = -1;
    vhost_backend_close(s, false);
    vhost_rings_close(s, false);
    vhost_regions_close(s, false);
    vhost_inflight_close(s, false);
    if (s->conn_fd >= 0) close(s->conn_fd);
    if (s->reply_fd >= 0) close(s->reply_fd);
    s->conn_fd = s->reply_fd = -1;
}

/* The session may be freed when this returns. */
static void end(struct vhost_session *s, const char *why)
{
    char text[sizeof(struct errmsg)];
    snprintf(text, sizeof text, "%s", why);
    tear_down(s);
    if (s->args.ended) s->args.ended(s->args.owner, text);
}

/* ---- one message ---- */

static void answer_done(struct vhost_session *s)
{
    if (s->msg.reply_fd >= 0) close(s->msg.reply_fd);
    s->msg.reply_fd = -1;
    s->state->reply_bytes = 0;
    s->state->sequence++;
    vhost_state_mark(&s->state->step, VHOST_STEP_IDLE);
    s->sending = false;
    loop_change(&s->conn_watch, EPOLLIN);
}

/* 0: out, or waiting for room; -errno: the connection is over. */
static int answer_try(struct vhost_session *s, struct errmsg *e)
{
    int ret = vhost_reply_send(s);
    if (ret < 0) return errmsg_sys(e, -ret, "answering the front end");
    if (ret == 0) {
        s->sending = true;
        loop_change(&s->conn_watch, EPOLLOUT);
    } else {
        answer_done(s);
    }
    return 0;
}

void vhost_session_answer(struct vhost_session *s)
{
    /* A connection that is over is found so by whoever reads it next. */
    if (answer_try(s, NULL) < 0) answer_done(s);
}

static int carry_out(struct vhost_session *s, struct errmsg *e)
{
    struct vhost_state *st = s->state;
    struct vhost_message *m = &s->msg;
    log_debug("vhost-user: %s (%u), %u bytes, %u descriptors",
              vu_request_name(m->head.request) ? vu_request_name(m->head.request) : "?", m->head.request, m->head.size,
              m->fd_count);
    int ret = vhost_message_run(s, e);
    vhost_message_close_fds(m);
    if (ret < 0) return ret;
    st->message = m->head;
    memcpy(st->payload, m->payload, m->head.size);
    ret = vhost_reply_store(s, e);
    if (ret < 0) return ret;
    vhost_state_mark(&st->step, VHOST_STEP_PROCESSED);
    ret = vhost_socket_consume(s, sizeof m->head + m->head.size);
    if (ret < 0) return errmsg_sys(e, -ret, "receiving from the front end");
    vhost_state_mark(&st->step, VHOST_STEP_CONSUMED);
    return answer_try(s, e);
}

static void conn_ready(struct loop_watch *w, uint32_t events)
{
    struct vhost_session *s = container_of(w, struct vhost_session, conn_watch);
    struct errmsg e = {""};
    int ret;
    if (s->sending) {
        ret = answer_try(s, &e);
        if (ret == 0 && s->sending && (events & (EPOLLHUP | EPOLLERR))) {
            ret = -ENOTCONN;
            errmsg_set(&e, ENOTCONN, "the front end closed the connection");
        }
    } else {
        ret = vhost_socket_peek(s, &e);
        if (ret > 0) ret = carry_out(s, &e);
        else if (ret == 0) /* the rest of it: wake up when more comes, not because of what is here */
            ret = loop_change(w, EPOLLIN | EPOLLET);
    }
    if (ret < 0) end(s, e.text);
}

/* ---- life ---- */

int vhost_session_alloc(struct vhost_session **out, const struct vhost_args *args, struct errmsg *e)
{
    assert(args->ops->queues_max >= 1 && args->ops->queues_max <= VHOST_QUEUES_MAX);
    assert(args->ops->config_bytes <= VHOST_CONFIG_MAX_BYTES);
    assert(args->state);
    struct vhost_session *s = calloc(1, sizeof *s);
    if (!s) return errmsg_set(e, ENOMEM, "out of memory");
    s->args = *args;
    s->state = args->state;
    s->conn_fd = s->reply_fd = s->req_fd = s->inflight_fd = s->msg.reply_fd = -1;
    for (unsigned i = 0; i < VHOST_SLOTS_MAX; i++)
        s->slot_fd[i] = -1;
    for (unsigned i = 0; i < VHOST_QUEUES_MAX; i++)
        s->ring[i] = (struct vhost_ring){-1, -1, -1};
    *out = s;
    return 0;
}

int vhost_session_attach(struct vhost_session *s, struct errmsg *e)
{
    int ret = vhost_socket_prepare(s->conn_fd, e);
    if (ret < 0) return ret;
    ret = loop_add(s->args.loop, &s->conn_watch, s->conn_fd, EPOLLIN, conn_ready);
    return ret < 0 ? errmsg_sys(e, -ret, "watching the vhost-user connection") : 0;
}

int vhost_session_new(struct vhost_session **out, const struct vhost_args *args, int fd, struct errmsg *e)
{
    struct vhost_session *s;
    int ret = vhost_session_alloc(&s, args, e);
    if (ret < 0) {
        close(fd);
        return ret;
    }
    s->conn_fd = fd;
    ret = vhost_reply_file_new(&s->reply_fd);
    if (ret < 0) errmsg_sys(e, -ret, "memory for answers");
    if (ret == 0) ret = vhost_session_attach(s, e);
    if (ret < 0) {
        vhost_session_release(s);
        free(s);
        return ret;
    }
    struct vhost_state *st = s->state;
    st->magic = 0;
    vhost_state_order();
    memset(st, 0, sizeof *st);
    st->bytes = sizeof *st;
    st->queues_max = args->ops->queues_max;
    st->sequence = 1;
    for (unsigned i = 0; i < args->ops->queues_max; i++)
        vhost_inflight_void(s, i);
    vhost_hold_keep(s, s->reply_fd, "reply");
    vhost_state_order();
    st->magic = VHOST_STATE_MAGIC;
    vhost_hold_keep(s, fd, "conn");
    *out = s;
    return 0;
}

void vhost_session_free(struct vhost_session *s)
{
    if (!s) return;
    if (!s->ended) tear_down(s);
    free(s);
}

void vhost_session_leave(struct vhost_session *s)
{
    if (!s) return;
    for (unsigned i = 0; !s->ended && i < s->args.ops->queues_max; i++) {
        struct vhost_ring_state *r = &s->state->ring[i];
        if (!r->running) continue;
        r->base = s->args.ops->queue_stop(s->args.device, i);
        vhost_state_mark(&r->parked, 1);
        vhost_inflight_void(s, i);
    }
    if (!s->ended) vhost_session_release(s);
    free(s);
}

void vhost_session_rekeep(struct vhost_session *s)
{
    if (s->ended) return;
    vhost_hold_keep(s, s->reply_fd, "reply");
    for (unsigned i = 0; i < VHOST_SLOTS_MAX; i++)
        if (s->slot_fd[i] >= 0) vhost_hold_keep(s, s->slot_fd[i], "region.%u", i);
    for (unsigned i = 0; i < VHOST_QUEUES_MAX; i++) {
        if (s->ring[i].kick_fd >= 0) vhost_hold_keep(s, s->ring[i].kick_fd, "kick.%u", i);
        if (s->ring[i].call_fd >= 0) vhost_hold_keep(s, s->ring[i].call_fd, "call.%u", i);
        if (s->ring[i].err_fd >= 0) vhost_hold_keep(s, s->ring[i].err_fd, "err.%u", i);
    }
    if (s->req_fd >= 0) vhost_hold_keep(s, s->req_fd, "req");
    if (s->inflight_fd >= 0) vhost_hold_keep(s, s->inflight_fd, "inflight");
    vhost_hold_keep(s, s->conn_fd, "conn");
}

void vhost_session_describe(const struct vhost_session *s, struct vhost_session_info *out)
{
    *out = (struct vhost_session_info){.connected = !s->ended};
    if (s->ended) return;
    out->features = s->state->features;
    out->protocol_features = s->state->protocol_features;
    for (unsigned i = 0; i < s->args.ops->queues_max; i++)
        out->queues_running += s->state->ring[i].running;
    out->regions = s->map ? s->map->count : 0;
    for (unsigned i = 0; i < out->regions; i++)
        out->memory_bytes += s->map->region[i].size_bytes;
}
