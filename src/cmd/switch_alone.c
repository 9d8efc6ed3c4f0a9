/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenFlow of a switch without a daemon: it makes its sockets and connections itself, and hands them to its network by the same
 * requests that a daemon would use.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/switch_alone.h"
#include "control/pem.h"
#include "control/redial.h"
#include "control/unix_socket.h"

struct dialled {
    struct list node;
    struct alone *alone;
    char *bridge, *target;
    struct redial redial;
    bool made; /* a passive one's socket */
};

struct alone {
    struct net *net;
    const char *dir;
    struct list dialled;
};

/* ---- controllers ---- */

static int hand_over(struct dialled *d, int fd, struct errmsg *e)
{
    bool passive = d->redial.target.passive;
    struct link_msg m = {.fd_count = 1, .fds = {fd}, .names = {passive ? "listen" : "connection"}};
    struct net_request r = {
        .params = json_pack("{s:s, s:s, s:b}", "bridge", d->bridge, "target", d->target, "tls", d->redial.target.tls),
        .msg = &m,
        .e = e};
    int ret = net_request(d->alone->net, passive ? "openflow.listen" : "openflow.connected", &r);
    if (m.fds[0] >= 0) close(m.fds[0]);
    json_decref(r.params);
    json_decref(r.result);
    return ret;
}

static void dial_failed(struct redial *r, const char *why)
{
    const struct dialled *d = container_of(r, struct dialled, redial);
    log_limited(LOG_LEVEL_WARN, "bridge %s: controller %s: %s", d->bridge, d->target, why);
}

static void dial_got(struct redial *r, int fd)
{
    struct dialled *d = container_of(r, struct dialled, redial);
    struct errmsg e = {""};
    d->made = r->target.passive;
    if (hand_over(d, fd, &e) == 0) return;
    redial_later(r);
    dial_failed(r, e.text);
}

void alone_controller(void *arg, const char *bridge, const char *target, const char *state, const char *why)
{
    struct alone *a = arg;
    LIST_FOR_EACH (node, &a->dialled) {
        struct dialled *d = list_entry(node, struct dialled, node);
        if (strcmp(d->bridge, bridge) != 0 || strcmp(d->target, target) != 0) continue;
        if (strcmp(state, "established") == 0) redial_steady(&d->redial);
        if (strcmp(state, "ended") != 0) continue;
        redial_later(&d->redial);
        dial_failed(&d->redial, why ? why : "it ended");
    }
}

static int controller_add(struct alone *a, const char *bridge, const char *target, struct errmsg *e)
{
    struct target t;
    int ret = target_parse(&t, target, e);
    if (ret < 0) return ret;
    struct net_bridge *b = net_bridge_find(a->net, bridge);
    if (!b) return errmsg_set(e, ENOENT, "bridge %s: there is no such bridge", bridge);
    struct dialled *d = calloc(1, sizeof *d);
    if (!d) return errmsg_set(e, ENOMEM, "out of memory");
    *d = (struct dialled){.alone = a, .bridge = strdup(bridge), .target = strdup(target)};
    list_push_back(&a->dialled, &d->node);
    redial_init(&d->redial, a->net->loop, &t, dial_got, dial_failed);
    if (!d->bridge || !d->target) return errmsg_set(e, ENOMEM, "out of memory");
    struct net_request r = {
        .params = json_pack("{s:s, s:i}", "name", bridge, "controllers", (int)b->controllers + !t.passive), .e = e};
    ret = net_request(a->net, "bridge.set", &r);
    json_decref(r.params);
    json_decref(r.result);
    return ret;
}

/* ---- sockets for tools ---- */

static int listen_one(struct link_msg *m, const char *dir, const char *bridge, const char *name, struct errmsg *e)
{
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/%s.%s", dir, bridge, name) >= sizeof path)
        return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", dir);
    int ret = unix_socket_listen(&m->fds[m->fd_count], SOCK_STREAM, path, 0600, e);
    if (ret == 0) m->names[m->fd_count++] = name;
    return ret;
}

int alone_tools(struct link_msg *m, const struct switch_options *o, const char *bridge, struct errmsg *e)
{
    m->fd_count = 0;
    if (!o->openflow_dir) return 0;
    int ret = listen_one(m, o->openflow_dir, bridge, "mgmt", e);
    return ret < 0 ? ret : listen_one(m, o->openflow_dir, bridge, "snoop", e);
}

static void tools_remove(struct alone *a)
{
    static const char *const endings[] = {"mgmt", "snoop"};
    char path[PATH_MAX];
    LIST_FOR_EACH (node, &a->net->bridges) {
        const struct net_bridge *b = list_entry(node, struct net_bridge, node);
        for (unsigned i = 0; a->dir && i < ARRAY_LEN(endings); i++)
            if ((size_t)snprintf(path, sizeof path, "%s/%s.%s", a->dir, b->name, endings[i]) < sizeof path)
                unix_socket_remove(path);
    }
}

/* ---- TLS ---- */

static int set_tls(struct alone *a, const struct switch_options *o, struct errmsg *e)
{
    struct net_request r = {.params = json_object(), .e = e};
    int ret = pem_read(r.params, "key", o->tls_key, e);
    if (ret == 0) ret = pem_read(r.params, "certificate", o->tls_certificate, e);
    if (ret == 0) ret = pem_read(r.params, "ca", o->tls_ca, e);
    if (ret == 0) ret = net_request(a->net, "openflow.tls", &r);
    pem_release(r.params);
    json_decref(r.result);
    return ret;
}

/* ---- its life ---- */

struct alone *alone_new(void)
{
    struct alone *a = calloc(1, sizeof *a);
    if (a) list_init(&a->dialled);
    return a;
}

int alone_begin(struct alone *a, struct net *n, const struct switch_options *o, struct errmsg *e)
{
    size_t i;
    json_t *v;
    a->net = n;
    a->dir = o->openflow_dir;
    int ret = o->tls_key ? set_tls(a, o, e) : 0;
    json_array_foreach(o->controllers, i, v)
    {
        if (ret == 0)
            ret = controller_add(a, json_string_value(json_object_get(v, "bridge")),
                                 json_string_value(json_object_get(v, "target")), e);
    }
    return ret;
}

void alone_dial(struct alone *a)
{
    LIST_FOR_EACH (node, &a->dialled)
        redial_now(&list_entry(node, struct dialled, node)->redial);
}

void alone_free(struct alone *a)
{
    if (!a) return;
    if (a->net) tools_remove(a);
    while (!list_empty(&a->dialled)) {
        struct dialled *d = list_entry(list_pop_front(&a->dialled), struct dialled, node);
        redial_stop(&d->redial);
        if (d->made && d->redial.target.family == AF_UNIX) unix_socket_remove(d->redial.target.path);
        free(d->bridge);
        free(d->target);
        free(d);
    }
    free(a);
}
