/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests over a link (control/link.h). The switch listens; the daemon connects, and after its own restart connects
 * again; everything works on without it. One connection at a time: a new one takes the place of the old.
 *
 *   configure   options; makes the network                      (an empty one: nothing is forwarded before `settled`)
 *   adopt       what there is, and then everything that is to be held, for a daemon that came back
 *   leave       make way for a successor; quit: end
 *   the rest    switch_net.c
 *
 * Notifications: hold, unhold, vif, flows, controller; and fault (switch_fault.h).
 */
#include <errno.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cmd/switch_fault.h"
#include "cmd/switch_net.h"
#include "control/version.h"

#define MESSAGES_PER_TURN 16u

struct link_server {
    struct loop *loop;
    const struct sandbox_args *sandbox;
    int listen_fd, peer_fd;
    struct loop_watch listen_watch, peer_watch;
    uint64_t connections; /* so far: answers that come late are to the one that asked */
    struct net *net;      /* NULL until configured */
    bool own;             /* it was made by `configure` */
};

/* ---- to the other side ---- */

static void peer_close(struct link_server *s)
{
    loop_remove(&s->peer_watch);
    fault_tell(-1);
    if (s->peer_fd >= 0) close(s->peer_fd);
    s->peer_fd = -1;
}

/* ... and what was begun for it is not gone on with. */
static void peer_left(struct link_server *s)
{
    peer_close(s);
    if (!s->net) return;
    LIST_FOR_EACH (node, &s->net->bridges)
        net_new_file_left(list_entry(node, struct net_bridge, node));
}

static void send_body(struct link_server *s, json_t *body, const char *name, int fd)
{
    if (body && s->peer_fd >= 0) {
        int ret = link_send(s->peer_fd, body, name ? &name : NULL, name ? &fd : NULL, name ? 1 : 0);
        if (ret < 0) log_limited(LOG_LEVEL_WARN, "telling the daemon failed: %s", strerror(-ret));
    }
    json_decref(body);
}

static void tell_hold(void *arg, const char *vif, const char *name, int fd)
{
    send_body(arg, link_notification("hold", json_pack("{s:s, s:s}", "vif", vif, "name", name)), name, fd);
}

static void tell_unhold(void *arg, const char *vif, const char *name)
{
    send_body(arg, link_notification("unhold", json_pack("{s:s, s:s}", "vif", vif, "name", name)), NULL, -1);
}

static void tell_vif(void *arg, const char *vif, const char *front_end, const char *why)
{
    json_t *params = json_pack("{s:s, s:s}", "name", vif, "front_end", front_end);
    if (params && why) json_object_set_new(params, "why", json_string(why));
    send_body(arg, link_notification("vif", params), NULL, -1);
}

static void tell_controller(void *arg, const char *bridge, const char *target, const char *state, const char *why)
{
    json_t *params = json_pack("{s:s, s:s, s:s}", "bridge", bridge, "target", target, "state", state);
    if (params && why) json_object_set_new(params, "why", json_string(why));
    send_body(arg, link_notification("controller", params), NULL, -1);
}

#define TICKET_BITS 40u /* of a request's number, below that of its connection */

static void tell_answer(void *arg, uint64_t ticket, int ret, const char *message, json_t *result)
{
    struct link_server *s = arg;
    json_int_t id = (json_int_t)(ticket & ((UINT64_C(1) << TICKET_BITS) - 1));
    if (ticket >> TICKET_BITS != s->connections) json_decref(result);
    else send_body(s, ret < 0 ? link_answer_error(id, ret, message) : link_answer(id, result), NULL, -1);
}

static void tell_flows(void *arg, const char *bridge)
{
    send_body(arg, link_notification("flows", json_pack("{s:s, s:b}", "bridge", bridge, "compact", 1)), NULL, -1);
}

/* ---- its own requests ---- */

/* What became of it on this host (cmd/sandbox.h), as this process itself is treated. */
static const char *sandbox_state(void)
{
    struct stat st;
    bool filtered = prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER;
    bool no_files = stat("/etc", &st) < 0 && errno == ENOENT;
    bool no_rights = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
    if (filtered && no_files && no_rights) return "full";
    return filtered || no_files ? "partial" : "off";
}

static json_t *describe(struct link_server *s)
{
    json_t *j = json_pack("{s:s, s:b, s:s, s:i}", "version", version_number(), "debug", version_is_debug(), "sandbox",
                          sandbox_state(), "pid", (int)getpid());
    if (!s->net) return j;
    json_t *bridges = json_array(), *ports = json_array(), *vifs = json_array();
    LIST_FOR_EACH (node, &s->net->bridges)
        json_array_append_new(bridges, json_string(list_entry(node, struct net_bridge, node)->name));
    LIST_FOR_EACH (node, &s->net->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        json_array_append_new(a->is_vif ? vifs : ports, json_string(a->name));
    }
    json_object_set_new(j, "settled", json_boolean(s->net->settled));
    json_object_set_new(j, "options", net_options_json(&s->net->options));
    json_object_set_new(j, "bridges", bridges);
    json_object_set_new(j, "ports", ports);
    json_object_set_new(j, "vifs", vifs);
    return j;
}

static int do_configure(struct link_server *s, struct net_request *r)
{
    if (s->net) return errmsg_set(r->e, EALREADY, "this switch is configured already");
    struct net_args args = {
        .loop = s->loop,
        .keeper = {.hold = tell_hold,
                   .unhold = tell_unhold,
                   .vif = tell_vif,
                   .flows_grown = tell_flows,
                   .controller = tell_controller,
                   .answer = tell_answer,
                   .arg = s},
        .survives = true,
    };
    net_options_init(&args.options);
    int ret = net_options_read(&args.options, r->params, r->e);
    if (ret == 0 && s->sandbox) ret = sandbox_leave_host_but_network(s->sandbox, true, r->e);
    if (ret == 0 && s->sandbox) ret = sandbox_filter(s->sandbox, SANDBOX_NETWORK | SANDBOX_XEN, r->e);
    if (ret == 0) ret = net_new(&s->net, &args, r->e);
    if (ret < 0) return ret;
    s->own = true;
    r->result = describe(s);
    return 0;
}

static int do_go(struct link_server *s, bool leave, struct errmsg *e)
{
    if (!s->own) return errmsg_set(e, EPERM, "this switch was not configured by a daemon; end it with SIGTERM");
    struct net *n = s->net;
    s->net = NULL;
    if (leave) net_leave(n);
    else net_quit(n);
    loop_stop(s->loop);
    return 0;
}

static int dispatch(struct link_server *s, const char *method, struct net_request *r)
{
    if (strcmp(method, "configure") == 0) return do_configure(s, r);
    if (!s->net) return errmsg_set(r->e, ENODEV, "%.64s: this switch is not configured yet", method);
    if (strcmp(method, "adopt") == 0) {
        r->result = describe(s);
        return 0;
    }
    if (strcmp(method, "leave") == 0) return do_go(s, true, r->e);
    if (strcmp(method, "quit") == 0) return do_go(s, false, r->e);
    return net_request(s->net, method, r);
}

/* ---- from the other side ---- */

/* After `adopt`: everything that the new daemon must hold, where front ends are, and what nobody was there to be asked for. */
static void tell_all(struct link_server *s)
{
    if (!s->own) return;
    LIST_FOR_EACH (node, &s->net->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (!a->is_vif) continue;
        struct net_vif *v = net_vif_of(a);
        vif_held_again(v);
        tell_vif(s, a->name, v->serving ? net_vif_state(v) : "listening", vif_broken(v->vif));
    }
    LIST_FOR_EACH (node, &s->net->bridges) {
        struct net_bridge *b = list_entry(node, struct net_bridge, node);
        net_openflow_again(b);
        net_new_file_ask_again(b);
    }
}

static void handle(struct link_server *s, struct link_msg *m)
{
    struct errmsg e = {""};
    struct link_head head;
    if (link_msg_head(m, &head, &e) < 0 || !head.method || head.id < 0) {
        log_limited(LOG_LEVEL_WARN, "the daemon sent nonsense: %s", e.text[0] ? e.text : "not a request");
        return;
    }
    struct net_request r = {.params = head.params, .msg = m, .e = &e};
    if (head.id < (json_int_t)1 << TICKET_BITS) r.ticket = s->connections << TICKET_BITS | (uint64_t)head.id;
    bool adopt = strcmp(head.method, "adopt") == 0;
    int ret = dispatch(s, head.method, &r);
    if (ret < 0) {
        log_limited(LOG_LEVEL_DEBUG, "%s: %s", head.method, e.text);
        json_decref(r.result);
    }
    if (ret == 0 && r.deferred) return;
    send_body(s, ret < 0 ? link_answer_error(head.id, ret, e.text) : link_answer(head.id, r.result), NULL, -1);
    if (ret == 0 && adopt) tell_all(s);
}

static void peer_ready(struct loop_watch *watch, uint32_t events)
{
    struct link_server *s = container_of(watch, struct link_server, peer_watch);
    (void)events;
    for (unsigned i = 0; i < MESSAGES_PER_TURN && s->peer_fd >= 0; i++) {
        struct link_msg m = {0};
        struct errmsg e = {""};
        int ret = link_recv(s->peer_fd, &m, &e);
        if (ret == -EAGAIN) return;
        if (ret == 0) {
            handle(s, &m);
            link_msg_clear(&m);
        } else if (ret == -EPROTO) {
            log_limited(LOG_LEVEL_WARN, "the daemon sent nonsense: %s", e.text);
        } else {
            peer_left(s); /* it will be back; guests do not care */
        }
    }
}

static void listen_ready(struct loop_watch *watch, uint32_t events)
{
    struct link_server *s = container_of(watch, struct link_server, listen_watch);
    (void)events;
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    peer_left(s);
    s->peer_fd = fd;
    s->connections++;
    fault_tell(fd);
    if (loop_add(s->loop, &s->peer_watch, fd, EPOLLIN, peer_ready) < 0) peer_close(s);
}

int link_server_new(struct link_server **out, struct loop *loop, int listen_fd, struct net *net,
                    const struct sandbox_args *sandbox, struct errmsg *e)
{
    struct link_server *s = calloc(1, sizeof *s);
    if (!s) return errmsg_set(e, ENOMEM, "out of memory");
    *s = (struct link_server){.loop = loop, .sandbox = sandbox, .listen_fd = listen_fd, .peer_fd = -1, .net = net};
    int ret = loop_add(loop, &s->listen_watch, listen_fd, EPOLLIN, listen_ready);
    if (ret < 0) {
        free(s);
        return errmsg_sys(e, -ret, "serving descriptor %d", listen_fd);
    }
    *out = s;
    return 0;
}

void link_server_free(struct link_server *s)
{
    if (!s) return;
    if (s->own && s->net) net_quit(s->net);
    peer_close(s);
    loop_remove(&s->listen_watch);
    close(s->listen_fd);
    free(s);
}
