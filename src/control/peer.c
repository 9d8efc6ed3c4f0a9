/* SPDX-License-Identifier: Apache-2.0 */
#include "control/peer.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/list.h"
#include "base/log.h"
#include "loop/clock.h"

#define MESSAGES_PER_PASS 32      /* then others get their turn */
#define MESSAGES_DRAINED_MAX 4096 /* more than a socket's queue holds */

struct peer {
    struct loop *loop;
    struct loop_watch watch;
    struct loop_timer broken; /* reports, from the loop, what was found while sending */
    int fd;
    char name[96], why[256];
    const struct peer_ops *ops;
    void *arg;
    struct list requests, unsent;
    unsigned request_count, unsent_count;
    json_int_t next_id;
    unsigned busy; /* functions below that go on with it */
    bool freed, gone;
};

struct request {
    struct list node;
    struct peer *peer;
    struct loop_timer limit;
    json_int_t id;
    char method[32];
    peer_done done;
    void *arg;
};

struct unsent {
    struct list node;
    json_t *body;
    unsigned count;
    int fds[LINK_FDS_MAX];
    char *names[LINK_FDS_MAX];
};

static void peer_release(struct peer *p)
{
    if (p->busy == 0 && p->freed) free(p);
}

/* ---- Requests ---- */

static void request_finish(struct request *r, const struct peer_answer *a)
{
    struct peer *p = r->peer;
    list_remove(&r->node);
    loop_timer_cancel(&r->limit);
    p->request_count--;
    peer_done done = r->done;
    void *arg = r->arg;
    free(r);
    p->busy++;
    done(arg, a);
    p->busy--;
}

static void request_fail(struct request *r, int ret, const char *message)
{
    request_finish(r, &(struct peer_answer){.ret = ret, .message = message});
}

static void fail_all(struct peer *p, const char *message)
{
    while (!list_empty(&p->requests))
        request_fail(list_entry(p->requests.next, struct request, node), -EPIPE, message);
}

static void request_timed_out(struct loop_timer *t)
{
    struct request *r = container_of(t, struct request, limit);
    struct peer *p = r->peer;
    bool lost = p->gone || p->broken.loop;
    char message[256];
    if (lost) snprintf(message, sizeof message, "%s", p->why);
    else snprintf(message, sizeof message, "%s did not answer \"%s\" in time", p->name, r->method);
    p->busy++;
    request_fail(r, lost ? -EPIPE : -ETIMEDOUT, message);
    p->busy--;
    peer_release(p);
}

/* ---- Sending ---- */

static void unsent_free(struct unsent *u)
{
    for (unsigned i = 0; i < u->count; i++) {
        if (u->fds[i] >= 0) close(u->fds[i]);
        free(u->names[i]);
    }
    json_decref(u->body);
    free(u);
}

static void report_gone(struct peer *p)
{
    if (p->gone || p->freed) return;
    p->gone = true;
    p->busy++;
    loop_remove(&p->watch);
    fail_all(p, p->why);
    if (!p->freed) p->ops->gone(p->arg, p->why);
    p->busy--;
    peer_release(p);
}

static int take_messages(struct peer *p, unsigned most);

/* What it sent before it ended comes first: a worker's last words are what its successor needs. */
static void broken_fired(struct loop_timer *t)
{
    struct peer *p = container_of(t, struct peer, broken);
    p->busy++;
    take_messages(p, MESSAGES_DRAINED_MAX);
    report_gone(p);
    p->busy--;
    peer_release(p);
}

/* Something failed where no callback may be called: say so from the loop. */
static void fail_later(struct peer *p, const char *doing, int ret)
{
    if (p->broken.loop || p->gone) return;
    snprintf(p->why, sizeof p->why, "%s: %s: %s", p->name, doing, strerror(-ret));
    loop_timer_arm(p->loop, &p->broken, 0, broken_fired);
}

static int queue_unsent(struct peer *p, json_t *body, const char *const *names, const int *fds, unsigned count)
{
    if (p->unsent_count >= PEER_QUEUE_MAX) return -ETIMEDOUT;
    struct unsent *u = calloc(1, sizeof *u);
    if (!u) return -ENOMEM;
    u->body = json_incref(body);
    for (; u->count < count; u->count++) {
        u->fds[u->count] = fcntl(fds[u->count], F_DUPFD_CLOEXEC, 0);
        u->names[u->count] = strdup(names[u->count]);
        if (u->fds[u->count] < 0 || !u->names[u->count]) {
            int ret = u->fds[u->count] < 0 ? -errno : -ENOMEM;
            u->count++;
            unsent_free(u);
            return ret;
        }
    }
    list_push_back(&p->unsent, &u->node);
    p->unsent_count++;
    return loop_change(&p->watch, EPOLLIN | EPOLLOUT);
}

static void send_message(struct peer *p, json_t *body, const char *const *names, const int *fds, unsigned count)
{
    int ret = !body ? -ENOMEM : -EAGAIN;
    if (body && list_empty(&p->unsent)) ret = link_send_now(p->fd, body, names, fds, count);
    if (ret == -EAGAIN) ret = queue_unsent(p, body, names, fds, count);
    if (ret < 0) fail_later(p, "sending", ret);
    json_decref(body);
}

static void flush_unsent(struct peer *p)
{
    while (!list_empty(&p->unsent)) {
        struct unsent *u = list_entry(p->unsent.next, struct unsent, node);
        int ret = link_send_now(p->fd, u->body, (const char *const *)u->names, u->fds, u->count);
        if (ret == -EAGAIN) return;
        list_remove(&u->node);
        p->unsent_count--;
        unsent_free(u);
        if (ret < 0) {
            fail_later(p, "sending", ret);
            return;
        }
    }
    int ret = loop_change(&p->watch, EPOLLIN);
    if (ret < 0) fail_later(p, "epoll", ret);
}

void peer_ask(struct peer *p, const char *method, json_t *params, const char *const *names, const int *fds,
              unsigned count, unsigned timeout_ms, peer_done done, void *arg)
{
    struct request *r = calloc(1, sizeof *r);
    /* An allocation this small does not fail on this system; without it nobody could be called back. */
    assert(r);
    *r = (struct request){.peer = p, .id = p->next_id++, .done = done, .arg = arg};
    snprintf(r->method, sizeof r->method, "%s", method);
    list_push_back(&p->requests, &r->node);
    p->request_count++;
    if (p->gone || p->broken.loop || p->request_count > PEER_REQUESTS_MAX) {
        json_decref(params);
        timeout_ms = 0;
    } else {
        send_message(p, link_request(r->id, method, params), names, fds, count);
    }
    loop_timer_arm(p->loop, &r->limit, timeout_ms * NS_PER_MS, request_timed_out);
}

/* ---- Receiving ---- */

static int take_answer(struct peer *p, const struct link_head *h, struct link_msg *m, struct errmsg *e)
{
    LIST_FOR_EACH (node, &p->requests) {
        struct request *r = list_entry(node, struct request, node);
        if (r->id != h->id) continue;
        struct peer_answer a = {.ret = h->error_code, .message = h->error_message};
        if (!a.ret) {
            a.result = h->result;
            a.msg = m;
        }
        request_finish(r, &a);
        return 0;
    }
    /* One that timed out here may still be answered there. */
    if (h->id < p->next_id) return 0;
    return errmsg_set(e, EPROTO, "answer to request %lld, which was never made", (long long)h->id);
}

static int take_message(struct peer *p, struct link_msg *m, struct errmsg *e)
{
    struct link_head h;
    int ret = link_msg_head(m, &h, e);
    if (ret < 0) return ret;
    if (!h.method) return take_answer(p, &h, m, e);
    if (h.id >= 0) return errmsg_set(e, EPROTO, "a request (\"%.32s\") from the side that is to answer", h.method);
    p->ops->notified(p->arg, h.method, h.params, m);
    return 0;
}

/* 0 when the limit was reached, else what link_recv() or the message's check said. */
static int take_messages(struct peer *p, unsigned most)
{
    int ret = 0;
    while (ret == 0 && most-- && !p->freed && !p->gone) {
        struct link_msg m;
        struct errmsg e = {""};
        ret = link_recv(p->fd, &m, &e);
        if (ret == 0) {
            ret = take_message(p, &m, &e);
            link_msg_clear(&m);
        }
        if (ret < 0 && ret != -EAGAIN)
            snprintf(p->why, sizeof p->why, "%s: %s", p->name,
                     ret == -EPIPE ? "closed the link"
                     : e.text[0]   ? e.text
                                   : strerror(-ret));
    }
    return ret;
}

static void peer_ready(struct loop_watch *w, uint32_t events)
{
    struct peer *p = container_of(w, struct peer, watch);
    p->busy++;
    if (events & EPOLLOUT) flush_unsent(p);
    int ret = take_messages(p, MESSAGES_PER_PASS);
    if (ret < 0 && ret != -EAGAIN) report_gone(p);
    p->busy--;
    peer_release(p);
}

void peer_drain(struct peer *p)
{
    p->busy++;
    take_messages(p, MESSAGES_DRAINED_MAX);
    p->busy--;
    peer_release(p);
}

int peer_new(struct peer **out, struct loop *l, int fd, const char *name, const struct peer_ops *ops, void *arg)
{
    struct peer *p = calloc(1, sizeof *p);
    int ret = p ? loop_add(l, &p->watch, fd, EPOLLIN, peer_ready) : -ENOMEM;
    if (ret < 0) {
        free(p);
        close(fd);
        return ret;
    }
    p->loop = l;
    p->fd = fd;
    p->ops = ops;
    p->arg = arg;
    snprintf(p->name, sizeof p->name, "%s", name);
    list_init(&p->requests);
    list_init(&p->unsent);
    *out = p;
    return 0;
}

void peer_free(struct peer *p)
{
    if (!p || p->freed) return;
    p->freed = true;
    p->busy++;
    loop_remove(&p->watch);
    loop_timer_cancel(&p->broken);
    fail_all(p, "the link was closed");
    while (!list_empty(&p->unsent)) {
        struct unsent *u = list_entry(p->unsent.next, struct unsent, node);
        list_remove(&u->node);
        unsent_free(u);
    }
    close(p->fd);
    p->busy--;
    peer_release(p);
}
