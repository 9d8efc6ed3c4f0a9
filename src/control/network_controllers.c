/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenFlow's connections, which the switch cannot make for itself in its sandbox: sockets for tools (RUNDIR/BRIDGE.mgmt and
 * .snoop), sockets at which controllers connect, and connections that are made with controllers. Each is handed to the switch,
 * which says when a connection has ended; then another one is made, later and later while that does not help.
 *
 *              got one             handed over              established
 *     DIALING ---------> OFFERED --------------> CONNECTED --------------> ESTABLISHED
 *        ^                  |                        |                         |
 *        +------------------+------------------------+-------------------------+   it failed, it ended
 *
 *     IDLE: the switch has not got the bridge, or is not settled. A passive one: DIALING -> OFFERED -> LISTENING.
 *
 * A switch that was found running says what it has, before it is asked for anything.
 *
 * Which controllers a bridge has goes to the switch as a whole (bridge.set): it ends the others, before a deletion is
 * acknowledged. While that goes on nothing else is handed over for the bridge.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "control/network.h"
#include "control/pem.h"
#include "control/redial.h"
#include "control/text.h"
#include "control/unix_socket.h"
#include "loop/clock.h"

#define STEADY_NS (30 * NS_PER_SECOND) /* established for as long: what was before does not count any more */

enum controller_state { IDLE, DIALING, OFFERED, CONNECTED, ESTABLISHED, LISTENING };
static const char *const state_names[] = {
    [IDLE] = "idle",
    [DIALING] = "dialling",
    [OFFERED] = "connecting",
    [CONNECTED] = "connecting",
    [ESTABLISHED] = "established",
    [LISTENING] = "listening",
};
static_assert(ARRAY_LEN(state_names) == LISTENING + 1, "every state has a name");

struct controller {
    struct list node;
    struct network_item *bridge; /* NULL: it is not wanted any more, an answer is still to come */
    char text[TARGET_MAX + 1];
    enum controller_state state;
    struct redial redial;
    uint64_t established_ns;
    bool asked; /* the switch has not answered yet */
    bool made;  /* a passive one: its socket is ours, or an earlier daemon's */
    char error[160];
};

/* ---- one controller ---- */

static void note_error(struct controller *c, const char *why)
{
    char text[sizeof c->error];
    snprintf(text, sizeof text, "%s", why);
    text_clean(text);
    if (strcmp(text, c->error) != 0)
        log_limited(LOG_LEVEL_WARN, "bridge %s: controller %s: %s", c->bridge->name, c->text, text);
    memcpy(c->error, text, sizeof text);
}

static void dial_failed(struct redial *r, const char *why)
{
    note_error(container_of(r, struct controller, redial), why);
}

static void try_later(struct controller *c, const char *why)
{
    note_error(c, why);
    c->state = DIALING;
    redial_later(&c->redial);
}

static void dropped(void *arg, const struct peer_answer *a)
{
    network_answered(arg);
    if (a->ret < 0 && a->ret != -EPIPE) log_limited(LOG_LEVEL_WARN, "switch: openflow.drop: %s", a->message);
}

static void drop(struct network_item *b, const char *target)
{
    json_t *o = json_pack("{s:s, s:s}", "bridge", b->name, "target", target);
    if (b->state == NETWORK_PRESENT) network_ask(b->network, "openflow.drop", o, NETWORK_FLOWS_MS, dropped, b->network);
    else json_decref(o);
}

static void offer_answered(void *arg, const struct peer_answer *a)
{
    struct controller *c = arg;
    c->asked = false;
    if (!c->bridge) {
        free(c);
        return;
    }
    network_answered(c->bridge->network);
    if (c->state != OFFERED || a->ret == -EPIPE) return; /* the switch is gone, or has said more already */
    if (a->ret == -ETIMEDOUT) drop(c->bridge, c->text);  /* it may take it yet */
    if (a->ret < 0) try_later(c, a->message);
    else c->state = c->redial.target.passive ? LISTENING : CONNECTED;
    if (c->state == LISTENING) c->error[0] = 0;
}

/* The descriptor goes to the switch, and ours is closed. */
static void offer(struct redial *r, int fd)
{
    struct controller *c = container_of(r, struct controller, redial);
    const char *name = r->target.passive ? "listen" : "connection";
    struct network *n = c->bridge->network;
    struct peer *peer = switch_keeper_peer(n->keeper);
    c->made = r->target.passive;
    if (c->bridge->busy) {
        close(fd);
        redial_later(r);
        return;
    }
    if (!peer || n->asked >= NETWORK_ASKED_MAX || c->asked) {
        close(fd);
        try_later(c, "the switch cannot be asked just now");
        return;
    }
    c->state = OFFERED;
    c->asked = true;
    n->asked++;
    peer_ask(peer, r->target.passive ? "openflow.listen" : "openflow.connected",
             json_pack("{s:s, s:s, s:b}", "bridge", c->bridge->name, "target", c->text, "tls", r->target.tls), &name,
             &fd, 1, NETWORK_FLOWS_MS, offer_answered, c);
    close(fd);
}

static void dial(struct controller *c)
{
    c->state = DIALING;
    redial_now(&c->redial);
}

/* The switch has got nothing of it. */
static void make_idle(struct controller *c)
{
    redial_stop(&c->redial);
    c->state = IDLE;
}

/* The socket that a switch listens at outlives us. This is for one that nobody listens at any more. */
static void remove_socket(const struct controller *c)
{
    if (c->made && c->redial.target.family == AF_UNIX) unix_socket_remove(c->redial.target.path);
}

static void controller_free(struct controller *c)
{
    make_idle(c);
    list_remove(&c->node);
    if (c->asked) {
        network_answered(c->bridge->network);
        c->bridge = NULL;
    } else {
        free(c);
    }
}

static struct controller *controller_new(struct network_item *b, const char *text)
{
    struct errmsg e;
    struct target t;
    struct controller *c = target_parse(&t, text, &e) < 0 ? NULL : calloc(1, sizeof *c);
    if (!c) return NULL;
    c->bridge = b;
    redial_init(&c->redial, b->network->host->loop, &t, offer, dial_failed);
    snprintf(c->text, sizeof c->text, "%s", text);
    list_push_back(&b->controllers, &c->node);
    return c;
}

/* ---- a bridge's ---- */

static struct controller *find(const struct network_item *b, const char *text)
{
    LIST_FOR_EACH (node, &b->controllers) {
        struct controller *c = list_entry(node, struct controller, node);
        if (strcmp(c->text, text) == 0) return c;
    }
    return NULL;
}

static bool is_configured(const struct network_item *b, const char *text)
{
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(b->config, "controllers"), i, v)
    {
        if (strcmp(json_string_value(json_object_get(v, "target")), text) == 0) return true;
    }
    return false;
}

void network_controllers_sync(struct network_item *b)
{
    size_t i;
    json_t *v;
    LIST_FOR_EACH_SAFE (node, &b->controllers) {
        struct controller *c = list_entry(node, struct controller, node);
        if (is_configured(b, c->text)) continue;
        remove_socket(c);
        controller_free(c);
    }
    json_array_foreach(json_object_get(b->config, "controllers"), i, v)
    {
        const char *text = json_string_value(json_object_get(v, "target"));
        struct controller *c = find(b, text);
        if (!c) c = controller_new(b, text);
        if (c && c->state == IDLE && b->state == NETWORK_PRESENT && b->network->settled) dial(c);
    }
}

void network_controllers_idle(struct network_item *b)
{
    LIST_FOR_EACH (node, &b->controllers)
        make_idle(list_entry(node, struct controller, node));
}

/* Those that the bridge connects to: without any of them it is alone. */
unsigned network_controllers_count(const json_t *config)
{
    struct target t;
    struct errmsg e;
    unsigned count = 0;
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(config, "controllers"), i, v)
    {
        count += target_parse(&t, json_string_value(json_object_get(v, "target")), &e) == 0 && !t.passive;
    }
    return count;
}

void network_controllers_params(json_t *config, json_t *into)
{
    json_t *targets = json_array(), *v;
    size_t i;
    json_array_foreach(json_object_get(config, "controllers"), i, v)
        json_array_append(targets, json_object_get(v, "target"));
    json_object_set_new(into, "controllers", json_integer(network_controllers_count(config)));
    json_object_set_new(into, "targets", targets);
}

static void has_ended(struct controller *c, const char *why)
{
    if (c->redial.target.passive || c->state == IDLE || c->state == DIALING) return;
    if (c->state == ESTABLISHED && clock_now_ns() - c->established_ns > STEADY_NS) redial_steady(&c->redial);
    try_later(c, why ? why : "it ended");
}

void network_controller_notified(struct network *n, json_t *params)
{
    const char *bridge = json_string_value(json_object_get(params, "bridge"));
    const char *target = json_string_value(json_object_get(params, "target"));
    const char *state = json_string_value(json_object_get(params, "state"));
    struct network_item *b = bridge ? network_find(n, NETWORK_BRIDGE, bridge) : NULL;
    if (!b || !target || !state) return;
    struct controller *c = find(b, target);
    if (!c && is_configured(b, target)) c = controller_new(b, target); /* after a restart of ours */
    if (!c) {
        if (strcmp(state, "ended") != 0) drop(b, target);
    } else if (strcmp(state, "ended") == 0) {
        has_ended(c, json_string_value(json_object_get(params, "why")));
    } else {
        make_idle(c); /* whatever was tried meanwhile */
        c->state = strcmp(state, "listening") == 0     ? LISTENING
                   : strcmp(state, "established") == 0 ? ESTABLISHED
                                                       : CONNECTED;
        if (c->state == LISTENING) c->made = c->redial.target.passive;
        if (c->state != ESTABLISHED) return;
        c->established_ns = clock_now_ns();
        if (c->error[0]) log_limited(LOG_LEVEL_INFO, "bridge %s: controller %s: established", b->name, c->text);
        c->error[0] = 0;
    }
}

json_t *network_controllers_json(const struct network_item *b)
{
    json_t *list = json_array(), *v;
    size_t i;
    json_array_foreach(json_object_get(b->config, "controllers"), i, v)
    {
        const struct controller *c = find(b, json_string_value(json_object_get(v, "target")));
        json_t *o = json_copy(v);
        json_object_set_new(o, "bridge", json_string(b->name));
        json_object_set_new(o, "state", json_string(state_names[c ? c->state : IDLE]));
        if (c && c->error[0] && c->state != ESTABLISHED) json_object_set_new(o, "error", json_string(c->error));
        json_array_append_new(list, o);
    }
    return list;
}

/* ---- sockets for tools ---- */

static bool tool_path(char out[PATH_MAX], const struct network_item *b, const char *ending)
{
    return (size_t)snprintf(out, PATH_MAX, "%s/%s.%s", b->network->host->run_dir, b->name, ending) < PATH_MAX;
}

static void listen_for_tools(struct network_item *b, int *fd, const char *ending)
{
    char path[PATH_MAX];
    struct errmsg e = {""};
    if (*fd >= 0 || !tool_path(path, b, ending)) return;
    if (unix_socket_listen(fd, SOCK_STREAM, path, 0600, &e) < 0) log_warn("bridge %s: %s", b->name, e.text);
}

unsigned network_tools_fds(struct network_item *b, const char **names, int *fds)
{
    unsigned count = 0;
    listen_for_tools(b, &b->mgmt_fd, "mgmt");
    listen_for_tools(b, &b->snoop_fd, "snoop");
    if (b->mgmt_fd >= 0) {
        names[count] = "mgmt";
        fds[count++] = b->mgmt_fd;
    }
    if (b->snoop_fd >= 0) {
        names[count] = "snoop";
        fds[count++] = b->snoop_fd;
    }
    return count;
}

void network_sockets_remove(struct network_item *b)
{
    static const char *const endings[] = {"mgmt", "snoop"};
    char path[PATH_MAX];
    for (unsigned i = 0; i < ARRAY_LEN(endings); i++)
        if (tool_path(path, b, endings[i])) unix_socket_remove(path);
    LIST_FOR_EACH (node, &b->controllers)
        remove_socket(list_entry(node, struct controller, node));
}

void network_openflow_end(struct network_item *b)
{
    while (!list_empty(&b->controllers))
        controller_free(list_entry(b->controllers.next, struct controller, node));
    if (b->mgmt_fd >= 0) close(b->mgmt_fd);
    if (b->snoop_fd >= 0) close(b->snoop_fd);
    b->mgmt_fd = b->snoop_fd = -1;
}

/* ---- TLS ---- */

json_t *network_tls_texts(const json_t *paths, struct errmsg *e)
{
    static const char *const keys[] = {"key", "certificate", "ca"};
    json_t *o = json_object();
    for (unsigned i = 0; i < ARRAY_LEN(keys); i++) {
        const char *path = json_string_value(json_object_get(paths, keys[i]));
        if (!path || pem_read(o, keys[i], path, e) == 0) continue;
        pem_release(o);
        return NULL;
    }
    return o;
}

struct tls_told {
    struct network *network;
    json_t *texts; /* to be wiped */
};

static void tls_answered(void *arg, const struct peer_answer *a)
{
    struct tls_told *t = arg;
    struct network *n = t->network;
    pem_release(t->texts);
    free(t);
    network_answered(n);
    if (a->ret == 0 || a->ret == -EPIPE) return;
    log_error("TLS with controllers: %s", a->message);
    if (a->ret == -ETIMEDOUT) switch_keeper_kill(n->keeper); /* which key it has is not known */
}

void network_tls_tell(struct network *n, bool adopted)
{
    struct errmsg e = {""};
    if (!n->tls && !adopted) return;
    json_t *texts = network_tls_texts(n->tls, &e);
    struct tls_told *t = texts ? calloc(1, sizeof *t) : NULL;
    if (!t) {
        log_error("TLS with controllers: %s", texts ? "out of memory" : e.text);
        if (texts) pem_release(texts);
        return;
    }
    *t = (struct tls_told){.network = n, .texts = texts};
    if (network_ask(n, "openflow.tls", json_incref(texts), NETWORK_FLOWS_MS, tls_answered, t)) return;
    pem_release(texts);
    free(t);
}
