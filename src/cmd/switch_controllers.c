/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bridge's connections with controllers, and the sockets at which controllers and tools connect. Who makes connections hands them
 * over, and they become those of the bridge's agent.
 *
 *   openflow.connected   a connection that was made with a controller ("connection")
 *   openflow.listen      a socket at which controllers connect ("listen")
 *   openflow.drop        end what belongs to a controller
 *   openflow.tls         the switch's key, its certificate, and who may have signed the others' (PEM)
 *
 * The keeper is told of each controller's connection: when it is established, and when it has ended, so that another one can be made.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/switch_openflow.h"
#include "control/pem.h"

#define ACCEPTS_PER_TURN 16u

struct net_tls {
    struct of_tls *tls;
    unsigned users; /* connections, and being the current one */
};

/* A connection with a controller, as long as the agent has it. */
struct net_peer {
    struct list node;
    struct net_bridge *b;
    char target[NET_TARGET_BYTES];
    char listener[NET_TARGET_BYTES]; /* a passive one's: where it came to us */
    bool passive;
    bool established;
    bool unwanted; /* who asked for it has asked for its end, too: not to be told */
    int fd;        /* a duplicate, to end it by */
    struct net_tls *tls;
};

struct net_listener {
    struct list node;
    struct net_bridge *b;
    enum of_peer peer;
    bool tls;
    char target[NET_TARGET_BYTES];
    struct loop_watch watch; /* its fd is ours */
};

/* ---- TLS ---- */

static struct net_tls *tls_use(struct net_tls *t)
{
    if (t) t->users++;
    return t;
}

void net_tls_free(struct net_tls *t)
{
    if (!t || --t->users) return;
    of_tls_free(t->tls);
    free(t);
}

/* ---- connections ---- */

static void tell(struct net_bridge *b, const char *target, const char *state, const char *why)
{
    const struct net_keeper *k = &b->net->keeper;
    if (k->controller) k->controller(k->arg, b->name, target, state, why);
}

static void peer_free(struct net_peer *p)
{
    list_remove(&p->node);
    close(p->fd);
    net_tls_free(p->tls);
    free(p);
}

static void peer_established(void *arg)
{
    struct net_peer *p = arg;
    p->established = true;
    if (p->passive) return;
    tell(p->b, p->target, "established", NULL);
    net_alone_end(p->b);
}

static void peer_ended(void *arg, const char *reason)
{
    struct net_peer *p = arg;
    struct net_bridge *b = p->b;
    char target[NET_TARGET_BYTES];
    bool passive = p->passive, was_there = p->established, unwanted = p->unwanted;
    snprintf(target, sizeof target, "%s", p->target);
    peer_free(p);
    if (passive) return;
    if (was_there) net_alone_begin(b); /* one that only tries to be has been missed before */
    if (!unwanted) tell(b, target, "ended", reason ? reason : "it ended");
}

/* fd is taken over. The listener at which it came to us, or NULL: we went to it. */
static int peer_new(struct net_bridge *b, const char *target, int fd, bool tls, const char *listener, struct errmsg *e)
{
    bool passive = listener;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    struct net_peer *p = copy < 0 ? NULL : calloc(1, sizeof *p);
    if (!p || (tls && !b->net->tls)) {
        close(fd);
        if (copy >= 0) close(copy);
        free(p);
        return tls && !b->net->tls ? errmsg_set(e, ENOKEY, "%s: there is no key for TLS: `creedence tls set`", target)
                                   : errmsg_set(e, ENOMEM, "%s: out of memory or descriptors", target);
    }
    *p = (struct net_peer){.b = b, .passive = passive, .fd = copy, .tls = tls ? tls_use(b->net->tls) : NULL};
    snprintf(p->target, sizeof p->target, "%s", target);
    if (passive) snprintf(p->listener, sizeof p->listener, "%s", listener);
    list_push_back(&b->peers, &p->node);
    struct of_connection_args args = {.fd = fd,
                                      .tls = p->tls ? p->tls->tls : NULL,
                                      .tls_client = !passive,
                                      .peer = OF_PEER_CONTROLLER,
                                      .name = p->target,
                                      .echo_s = b->probe_s,
                                      .established = peer_established,
                                      .ended = peer_ended,
                                      .arg = p};
    int ret = of_agent_connect(b->agent, &args, e);
    if (ret < 0) peer_free(p);
    return ret;
}

/* At once, whatever it has sent and is to be sent; peer_ended() comes from the loop. */
static void peer_end(struct net_peer *p, bool unwanted, const char *reason)
{
    p->unwanted = p->unwanted || unwanted;
    of_agent_disconnect(p->b->agent, p, reason);
    shutdown(p->fd, SHUT_RDWR);
}

static void peers_end_tls(struct net_bridge *b, const struct net_tls *tls)
{
    LIST_FOR_EACH (node, &b->peers) {
        struct net_peer *p = list_entry(node, struct net_peer, node);
        if (p->tls == tls) peer_end(p, false, "the key for TLS is another one now");
    }
}

bool net_is_controlled(const struct net_bridge *b)
{
    LIST_FOR_EACH (node, &b->peers) {
        const struct net_peer *p = list_entry(node, struct net_peer, node);
        if (p->established && !p->passive) return true;
    }
    return false;
}

void net_peers_free(struct net_bridge *b)
{
    while (!list_empty(&b->peers))
        peer_free(list_entry(b->peers.next, struct net_peer, node));
}

/* ---- sockets at which others connect ---- */

static void peer_name(char out[NET_TARGET_BYTES], const struct net_listener *l, const struct sockaddr_storage *from)
{
    char address[INET6_ADDRSTRLEN] = "?";
    const struct sockaddr_in *in4 = (const struct sockaddr_in *)(const void *)from;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)from;
    const char *kind = l->tls ? "ssl" : "tcp";
    if (from->ss_family == AF_INET) {
        inet_ntop(AF_INET, &in4->sin_addr, address, sizeof address);
        snprintf(out, NET_TARGET_BYTES, "%s:%s:%u", kind, address, ntohs(in4->sin_port));
    } else if (from->ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &in6->sin6_addr, address, sizeof address);
        snprintf(out, NET_TARGET_BYTES, "%s:[%s]:%u", kind, address, ntohs(in6->sin6_port));
    } else {
        snprintf(out, NET_TARGET_BYTES, "%s", l->target);
    }
}

static void accepted(struct net_listener *l, int fd, const struct sockaddr_storage *from)
{
    struct errmsg e = {""};
    char name[NET_TARGET_BYTES];
    int ret;
    peer_name(name, l, from);
    if (l->peer == OF_PEER_CONTROLLER) {
        ret = peer_new(l->b, name, fd, l->tls, l->target, &e);
    } else {
        struct of_connection_args args = {.fd = fd, .peer = l->peer, .name = l->target};
        ret = of_agent_connect(l->b->agent, &args, &e);
    }
    if (ret < 0) log_limited(LOG_LEVEL_WARN, "bridge %s: %s: refused: %s", l->b->name, name, e.text);
}

/* Without descriptors: no more until the next second, rather than all the time. */
static void listener_ready(struct loop_watch *w, uint32_t events)
{
    struct net_listener *l = container_of(w, struct net_listener, watch);
    (void)events;
    for (unsigned i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage from = {0};
        socklen_t len = sizeof from;
        int fd = accept4(w->fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            accepted(l, fd, &from);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            loop_remove(w);
            return;
        } else if (errno != ECONNABORTED && errno != EINTR) {
            return;
        }
    }
}

int net_listener_new(struct net_bridge *b, const char *target, int fd, enum of_peer peer, bool tls, struct errmsg *e)
{
    struct net_listener *l = calloc(1, sizeof *l);
    int ret = l ? 0 : -ENOMEM;
    if (l) {
        *l = (struct net_listener){.b = b, .peer = peer, .tls = tls, .watch.fd = fd, .watch.ready = listener_ready};
        snprintf(l->target, sizeof l->target, "%s", target);
        ret = loop_add(b->net->loop, &l->watch, fd, EPOLLIN, listener_ready);
    }
    if (ret < 0) {
        close(fd);
        free(l);
        return errmsg_sys(e, -ret, "bridge %s: listening at %s", b->name, target);
    }
    list_push_back(&b->listeners, &l->node);
    return 0;
}

static void listener_free(struct net_listener *l)
{
    loop_remove(&l->watch);
    close(l->watch.fd);
    list_remove(&l->node);
    free(l);
}

void net_listeners_resume(struct net_bridge *b)
{
    LIST_FOR_EACH (node, &b->listeners) {
        struct net_listener *l = list_entry(node, struct net_listener, node);
        if (!l->watch.loop) loop_add(b->net->loop, &l->watch, l->watch.fd, EPOLLIN, l->watch.ready);
    }
}

void net_listeners_free(struct net_bridge *b)
{
    while (!list_empty(&b->listeners))
        listener_free(list_entry(b->listeners.next, struct net_listener, node));
}

/* ---- to the keeper once more ---- */

void net_openflow_again(struct net_bridge *b)
{
    LIST_FOR_EACH (node, &b->listeners) {
        struct net_listener *l = list_entry(node, struct net_listener, node);
        if (l->peer == OF_PEER_CONTROLLER) tell(b, l->target, "listening", NULL);
    }
    LIST_FOR_EACH (node, &b->peers) {
        struct net_peer *p = list_entry(node, struct net_peer, node);
        if (!p->passive && !p->unwanted) tell(b, p->target, p->established ? "established" : "connecting", NULL);
    }
}

/* ---- requests ---- */

static const char *fields_target(struct fields *f)
{
    return fields_string(f, "target", FIELD_REQUIRED, NET_TARGET_BYTES - 1);
}

/* Of each target that is meant: its connections, and the socket at which it is to come. */
static void controllers_end(struct net_bridge *b, bool (*is_meant)(const void *arg, const char *target),
                            const void *arg)
{
    LIST_FOR_EACH (node, &b->peers) {
        struct net_peer *p = list_entry(node, struct net_peer, node);
        if (is_meant(arg, p->passive ? p->listener : p->target)) peer_end(p, true, "it is not wanted any more");
    }
    LIST_FOR_EACH_SAFE (node, &b->listeners) {
        struct net_listener *l = list_entry(node, struct net_listener, node);
        if (l->peer == OF_PEER_CONTROLLER && is_meant(arg, l->target)) listener_free(l);
    }
}

static bool is_target(const void *arg, const char *target)
{
    return strcmp(arg, target) == 0;
}

static bool is_in_no_list(const void *arg, const char *target)
{
    const json_t *list = arg;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text && strcmp(text, target) == 0) return false;
    }
    return true;
}

void net_controllers_keep(struct net_bridge *b, const json_t *targets)
{
    controllers_end(b, is_in_no_list, targets);
}

static int with_fd(struct net *n, struct net_request *r, const char *name, bool listening)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret, fd = request_take_fd(r, name);
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    const char *target = fields_target(&f);
    bool tls = fields_bool(&f, "tls", false);
    if (ret == 0) ret = fields_done(&f, r->e);
    if (ret == 0 && fd < 0) ret = errmsg_set(r->e, EINVAL, "%s: the descriptor is missing", name);
    if (ret < 0) {
        if (fd >= 0) close(fd);
        return ret;
    }
    controllers_end(b, is_target, target); /* one offer of a target takes the place of another */
    return listening ? net_listener_new(b, target, fd, OF_PEER_CONTROLLER, tls, r->e)
                     : peer_new(b, target, fd, tls, NULL, r->e);
}

int request_openflow_listen(struct net *n, struct net_request *r)
{
    return with_fd(n, r, "listen", true);
}

int request_openflow_connected(struct net *n, struct net_request *r)
{
    return with_fd(n, r, "connection", false);
}

int request_openflow_drop(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret;
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    const char *target = fields_target(&f);
    if (ret == 0) ret = fields_done(&f, r->e);
    if (ret < 0) return ret;
    controllers_end(b, is_target, target);
    return 0;
}

static int set_tls(struct net *n, const char *key, const char *certificate, const char *ca, struct errmsg *e)
{
    struct net_tls *t = NULL, *before = n->tls;
    if (before && of_tls_is_of(before->tls, key, certificate, ca)) return 0;
    if (*key || *certificate || *ca) {
        t = calloc(1, sizeof *t);
        int ret = t ? of_tls_new(&t->tls, key, certificate, ca, e) : errmsg_set(e, ENOMEM, "out of memory");
        if (ret < 0) {
            free(t);
            return ret;
        }
        t->users = 1;
    }
    n->tls = t;
    LIST_FOR_EACH (node, &n->bridges)
        if (before) peers_end_tls(list_entry(node, struct net_bridge, node), before);
    net_tls_free(before);
    return 0;
}

int request_openflow_tls(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    const char *key = fields_string(&f, "key", "", PEM_MAX_BYTES),
               *certificate = fields_string(&f, "certificate", "", PEM_MAX_BYTES),
               *ca = fields_string(&f, "ca", "", PEM_MAX_BYTES);
    int ret = fields_done(&f, r->e);
    if (ret == 0) ret = set_tls(n, key, certificate, ca, r->e);
    explicit_bzero((char *)(uintptr_t)key, strlen(key)); /* nobody reads the request once more */
    return ret;
}
