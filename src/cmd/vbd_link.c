/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker's side of the link to the daemon (control/link.h). The worker listens; the daemon connects, and
 * after its own restart connects again. Everything works on without it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cmd/vbd_worker.h"
#include "control/link.h"
#include "control/version.h"

struct link_worker {
    struct loop *loop;
    const struct sandbox_args *sandbox;
    int listen_fd, peer_fd;
    struct loop_watch listen_watch, peer_watch;
    struct worker *worker; /* NULL until configured */
    int exit_status;
    unsigned held_count; /* until configured */
    struct worker_held held[WORKER_HELD_MAX];
};

/* ---- to the daemon ---- */

static void peer_close(struct link_worker *lw)
{
    loop_remove(&lw->peer_watch);
    if (lw->peer_fd >= 0) close(lw->peer_fd);
    lw->peer_fd = -1;
}

static void send_body(struct link_worker *lw, json_t *body, const char *name, int fd)
{
    if (body && lw->peer_fd >= 0) {
        int ret = link_send(lw->peer_fd, body, name ? &name : NULL, name ? &fd : NULL, name ? 1 : 0);
        if (ret < 0) log_warn("telling the daemon failed: %s", strerror(-ret));
    }
    json_decref(body);
}

static void tell_keep(void *arg, const char *name, int fd)
{
    send_body(arg, link_notification("keep", json_pack("{s:s}", "name", name)), name, fd);
}

static void tell_drop(void *arg, const char *name)
{
    send_body(arg, link_notification("drop", json_pack("{s:s}", "name", name)), NULL, -1);
}

static void tell_state(void *arg, const char *state, const char *why)
{
    json_t *params = json_pack("{s:s}", "state", state);
    if (params && why) json_object_set_new(params, "why", json_string(why));
    send_body(arg, link_notification("state", params), NULL, -1);
}

/* ---- requests; each answers 0 with a result, or -errno with the message ---- */

static void take_layer_fds(struct worker_config *c, struct link_msg *m)
{
    for (unsigned i = 0; i < c->layer_count; i++) {
        char name[24];
        snprintf(name, sizeof name, "layer%u", i);
        c->layer[i].fd = link_msg_take_fd(m, name);
    }
}

/* Descriptors of the last worker, in `held` messages ahead of `configure` and in that itself. */
static int take_held(struct link_worker *lw, struct link_msg *m, struct errmsg *e)
{
    for (unsigned i = 0; i < m->fd_count; i++) {
        const char *name = m->names[i];
        /* Layers come under their own names; a daemon that adopted us holds them too. */
        if (m->fds[i] < 0 || strncmp(name, "held:", 5) != 0 || strncmp(name + 5, "layer", 5) == 0) continue;
        struct worker_held *h = &lw->held[lw->held_count];
        if (lw->held_count == WORKER_HELD_MAX || strlen(name + 5) >= sizeof h->name)
            return errmsg_set(e, EINVAL, "%s: too long a name, or more than %u descriptors held", name,
                              (unsigned)WORKER_HELD_MAX);
        snprintf(h->name, sizeof h->name, "%s", name + 5);
        h->fd = m->fds[i];
        m->fds[i] = -1;
        lw->held_count++;
    }
    return 0;
}

static bool has_held(const struct link_worker *lw, const char *name)
{
    for (unsigned i = 0; i < lw->held_count; i++)
        if (strcmp(lw->held[i].name, name) == 0) return true;
    return false;
}

/* To start without a part of what the last worker left would lose what it acknowledged. */
static int check_held(const struct link_worker *lw, const json_t *params, struct errmsg *e)
{
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(params, "held"), i, v)
    {
        const char *name = json_string_value(v);
        if (!name) return errmsg_set(e, EINVAL, "held: expected an array of strings");
        if (strncmp(name, "layer", 5) != 0 && !has_held(lw, name))
            return errmsg_set(e, EINVAL, "held: the descriptor of '%s' did not come along", name);
    }
    return 0;
}

static unsigned take_cache_fds(struct link_msg *m, int *fds)
{
    unsigned count = 0;
    for (unsigned i = 0; i < VBD_QUEUES_MAX; i++) {
        char name[24];
        snprintf(name, sizeof name, "cache%u", i);
        fds[i] = link_msg_take_fd(m, name);
        if (fds[i] >= 0) count = i + 1;
    }
    return count;
}

static int do_configure(struct link_worker *lw, json_t *params, struct link_msg *m, json_t **result, struct errmsg *e)
{
    if (lw->worker) return errmsg_set(e, EALREADY, "this worker is configured already");
    struct worker_config config;
    worker_config_init(&config);
    int ret = worker_config_from_json(&config, params, e);
    if (ret < 0) {
        worker_config_free(&config);
        return ret;
    }
    take_layer_fds(&config, m);
    ret = take_held(lw, m, e);
    if (ret == 0) ret = check_held(lw, params, e);
    if (ret < 0) {
        worker_config_free(&config);
        return ret;
    }
    struct worker_args args = {
        .loop = lw->loop,
        .config = &config,
        .keeper = {.keep = tell_keep, .drop = tell_drop, .state = tell_state, .arg = lw},
        .survives = true,
        .listen_fd = link_msg_take_fd(m, "listen"),
        .connected_fd = link_msg_take_fd(m, "connect"),
        .held = lw->held,
        .sandbox = lw->sandbox,
        .held_count = lw->held_count,
    };
    take_cache_fds(m, args.cache_fd);
    lw->held_count = 0; /* the worker's now */
    ret = worker_open(&lw->worker, &args, e);
    if (ret == 0) ret = worker_serve(lw->worker, e);
    if (ret == 0 && worker_xen(lw->worker))
        *result = json_pack("{s:o}", "backend", worker_xen_backend(worker_xen(lw->worker)));
    return ret;
}

/* What became of it on this host (cmd/sandbox.h), as this process itself is treated. */
static const char *sandbox_state(void)
{
    struct stat st;
    bool filtered = prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER;
    bool no_files = stat("/proc", &st) < 0 && errno == ENOENT; /* it exists everywhere but in an empty root */
    bool no_rights = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
    if (filtered && no_files && no_rights) return "full";
    return filtered || no_files ? "partial" : "off";
}

static json_t *describe(struct link_worker *lw)
{
    if (!lw->worker) return json_object();
    const struct worker_xen *x = worker_xen(lw->worker);
    const char *broken = vbd_broken(worker_device(lw->worker)); /* whoever was told may not be there any more */
    json_t *o = json_pack("{s:s, s:i, s:s, s:b, s:s, s:o}", "name", worker_config(lw->worker)->name, "pid",
                          (int)getpid(), "version", version_number(), "debug", version_is_debug(), "sandbox",
                          sandbox_state(), "config", worker_config_to_json(worker_config(lw->worker)));
    if (o && x) json_object_set_new(o, "backend", worker_xen_backend(x));
    if (o && broken) json_object_set_new(o, "broken", json_string(broken));
    if (o && x) json_object_set_new(o, "connected", json_boolean(worker_xen_connected(x)));
    return o;
}

static int do_connect(struct link_worker *lw, json_t *params, struct errmsg *e)
{
    struct worker_xen_front f;
    int ret = worker_xen_front_from_json(&f, params, e);
    return ret < 0 ? ret : worker_connect(lw->worker, &f, e);
}

static int do_resize(struct link_worker *lw, json_t *params, struct errmsg *e)
{
    const json_t *size = json_object_get(params, "size_bytes");
    if (!json_is_integer(size) || json_integer_value(size) < 0)
        return errmsg_set(e, EINVAL, "size_bytes: expected a non-negative integer");
    return worker_resize(lw->worker, (uint64_t)json_integer_value(size), e);
}

static int do_set(struct link_worker *lw, json_t *params, struct errmsg *e)
{
    const json_t *poll_us = json_object_get(params, "poll_us");
    if (!json_is_integer(poll_us) || json_integer_value(poll_us) < 0 || json_integer_value(poll_us) > 1000000)
        return errmsg_set(e, EINVAL, "poll_us: expected an integer, 0 to 1000000");
    vbd_set_poll(worker_device(lw->worker), (uint64_t)json_integer_value(poll_us) * 1000);
    return 0;
}

static int do_cache_channels(struct link_worker *lw, struct link_msg *m, struct errmsg *e)
{
    int fds[VBD_QUEUES_MAX];
    unsigned count = take_cache_fds(m, fds);
    int ret = worker_cache_channels(lw->worker, fds, count);
    return ret < 0 ? errmsg_sys(e, -ret, "attaching to the read cache") : 0;
}

static int do_go(struct link_worker *lw, bool leave, struct errmsg *e)
{
    struct worker *w = lw->worker;
    lw->worker = NULL;
    loop_stop(lw->loop);
    int ret = leave ? worker_leave(w, e) : worker_quit(w, e);
    if (ret < 0) lw->exit_status = 1;
    return ret;
}

static int dispatch(struct link_worker *lw, const struct link_head *head, struct link_msg *m, json_t **result,
                    struct errmsg *e)
{
    const char *method = head->method;
    if (strcmp(method, "configure") == 0) return do_configure(lw, head->params, m, result, e);
    if (strcmp(method, "held") == 0 && !lw->worker) return take_held(lw, m, e);
    if (!lw->worker) return errmsg_set(e, ENODEV, "%s: this worker is not configured yet", method);
    if (strcmp(method, "adopt") == 0) {
        *result = describe(lw);
        return 0;
    }
    if (strcmp(method, "stats") == 0) {
        *result = worker_stats(lw->worker);
        return 0;
    }
    if (strcmp(method, "connect") == 0) return do_connect(lw, head->params, e);
    if (strcmp(method, "disconnect") == 0) return worker_disconnect(lw->worker, e);
    if (strcmp(method, "resize") == 0) return do_resize(lw, head->params, e);
    if (strcmp(method, "cache_channels") == 0) return do_cache_channels(lw, m, e);
    if (strcmp(method, "set") == 0) return do_set(lw, head->params, e);
    if (strcmp(method, "leave") == 0) return do_go(lw, true, e);
    if (strcmp(method, "quit") == 0) return do_go(lw, false, e);
    return errmsg_set(e, EOPNOTSUPP, "%s: no such method", method);
}

/* After `adopt`: everything that the new daemon must hold. */
static void resend_held(struct link_worker *lw)
{
    const struct worker_held *held;
    unsigned count = worker_held(lw->worker, &held);
    for (unsigned i = 0; i < count; i++)
        tell_keep(lw, held[i].name, held[i].fd);
    for (unsigned i = 0; i < worker_config(lw->worker)->layer_count; i++) {
        char name[24];
        snprintf(name, sizeof name, "layer%u", i);
        tell_keep(lw, name, worker_layer_fd(lw->worker, i));
    }
}

static void handle(struct link_worker *lw, struct link_msg *m)
{
    struct errmsg e = {{0}};
    struct link_head head;
    if (link_msg_head(m, &head, &e) < 0 || !head.method || head.id < 0) {
        log_warn("the daemon sent nonsense: %s", e.text[0] ? e.text : "not a request");
        return;
    }
    json_t *result = NULL;
    int ret = dispatch(lw, &head, m, &result, &e);
    send_body(lw, ret < 0 ? link_answer_error(head.id, ret, e.text) : link_answer(head.id, result), NULL, -1);
    if (ret < 0) log_error("%s: %s", head.method, e.text);
    if (ret == 0 && strcmp(head.method, "adopt") == 0) resend_held(lw);
    if (ret < 0 && strcmp(head.method, "configure") == 0 && ret != -EALREADY) {
        if (lw->worker) {
            worker_quit(lw->worker, NULL);
            lw->worker = NULL;
        }
        lw->exit_status = 1;
        loop_stop(lw->loop);
    }
}

static void peer_ready(struct loop_watch *watch, uint32_t events)
{
    struct link_worker *lw = container_of(watch, struct link_worker, peer_watch);
    struct link_msg m = {0};
    struct errmsg e;
    (void)events;
    int ret = link_recv(lw->peer_fd, &m, &e);
    if (ret == 0) {
        handle(lw, &m);
        link_msg_clear(&m);
    } else if (ret == -EPROTO) {
        log_warn("the daemon sent nonsense: %s", e.text);
    } else if (ret != -EAGAIN) {
        peer_close(lw); /* it will be back; the guest does not care */
    }
}

static void listen_ready(struct loop_watch *watch, uint32_t events)
{
    struct link_worker *lw = container_of(watch, struct link_worker, listen_watch);
    (void)events;
    int fd = accept4(lw->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    peer_close(lw);
    lw->peer_fd = fd;
    if (loop_add(lw->loop, &lw->peer_watch, fd, EPOLLIN, peer_ready) < 0) peer_close(lw);
}

int link_worker_run(int listen_fd, const struct sandbox_args *sandbox)
{
    struct link_worker *lw = calloc(1, sizeof *lw);
    if (!lw) return 1;
    *lw = (struct link_worker){.sandbox = sandbox, .listen_fd = listen_fd, .peer_fd = -1, .loop = loop_new()};
    if (!lw->loop || loop_add(lw->loop, &lw->listen_watch, listen_fd, EPOLLIN, listen_ready) < 0) {
        log_error("cannot serve the daemon on descriptor %d: %s", listen_fd, strerror(errno));
        loop_free(lw->loop);
        free(lw);
        return 1;
    }
    int ret = loop_run(lw->loop);
    int status = ret < 0 ? 1 : lw->exit_status;
    if (lw->worker) { /* its front end has gone, and it does not listen for another */
        struct errmsg e = {""};
        ret = worker_quit(lw->worker, &e);
        if (ret < 0) {
            /* By this the daemon knows that what it holds for us is still needed. */
            tell_state(lw, "gone", e.text);
            log_error("what was written last cannot be made durable: %s", e.text[0] ? e.text : strerror(-ret));
            status = 1;
        }
    }
    peer_close(lw);
    loop_remove(&lw->listen_watch);
    loop_free(lw->loop);
    free(lw);
    return status;
}
