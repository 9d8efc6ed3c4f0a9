/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cards of Xen guests: what the switch offers them, and the front ends' rings. Those are kept (and saved) as they were read: the next
 * switch is told the same, once it has everything else.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "control/network.h"
#include "control/text.h"
#include "control/xenstore_backends.h"
#include "control/xenstore_card.h"

#define XEN_LIMIT_MS 10000u

static json_t *xen_of(const struct network_item *i)
{
    return json_object_get(i->config, "xen");
}

bool network_is_xen(const struct network_item *i)
{
    return i->kind == NETWORK_VIF && xen_of(i);
}

const char *network_xen_backend(const struct network_item *i)
{
    return json_string_value(json_object_get(xen_of(i), "backend"));
}

json_t *network_xen_connection(const struct network_item *i)
{
    return json_object_get(xen_of(i), "connection");
}

json_t *network_xen_offered(const struct network_item *i)
{
    return json_object_get(xen_of(i), "offered");
}

void network_xen_changed(const struct network_item *i)
{
    if (network_is_xen(i)) xen_backends_changed(i->network->host->xen, network_xen_backend(i));
}

/* Without what is the daemon's own; changes are made in a copy, as configurations are shared. */
json_t *network_xen_for_switch(json_t *config)
{
    static const char *const own[] = {"backend", "identity", "connection", "offered"};
    json_t *xen = json_copy(json_object_get(config, "xen"));
    for (size_t k = 0; k < ARRAY_LEN(own); k++)
        json_object_del(xen, own[k]);
    return xen;
}

void network_xen_show(const struct network_item *i, json_t *into)
{
    char alias[32];
    json_t *xen = network_xen_for_switch(i->config);
    const char *backend = network_xen_backend(i);
    if (backend) json_object_set_new(xen, "backend", json_string(backend));
    snprintf(alias, sizeof alias, "vif%lld.%lld", (long long)json_integer_value(json_object_get(xen, "domid")),
             (long long)json_integer_value(json_object_get(xen, "handle")));
    json_object_set_new(into, "xen", xen);
    json_object_set_new(into, "alias", json_string(alias));
}

static void change(struct network_item *i, const char *key, json_t *value)
{
    json_t *config = json_deep_copy(i->config), *xen = json_object_get(config, "xen");
    if (value) json_object_set_new(xen, key, value);
    else json_object_del(xen, key);
    json_decref(i->config);
    i->config = config;
    network_save(i->network, NULL, NULL);
}

void network_xen_note_offered(struct network_item *i, json_t *result)
{
    if (!network_is_xen(i) || network_xen_offered(i)) return;
    change(i, "offered", xen_card_keys(json_object_get(result, "backend")));
}

static void set_connection(struct network_item *i, json_t *connection, const char *front_end)
{
    change(i, "connection", connection);
    i->linked = connection != NULL;
    snprintf(i->front_end, sizeof i->front_end, "%s", front_end);
    i->front_end_why[0] = 0;
}

/* ---- Asking the switch ---- */

/* One for each card at a time: the card is busy. It cannot go meanwhile. */
struct xen_call {
    struct network_item *item;
    json_t *connection; /* NULL: disconnect, or detach */
    network_done done;
    void *arg;
};

static void call_end(struct xen_call *c, int code, const char *why)
{
    struct xen_call copy = *c;
    free(c);
    json_decref(copy.connection);
    copy.done(copy.arg, code, why);
}

static int code_of(const struct peer_answer *a)
{
    return a->ret == 0 ? 0 : a->ret == -EPIPE || a->ret == -ETIMEDOUT ? RPC_BUSY : RPC_SWITCH;
}

/* First thing in every answer. */
static void note_answer(struct network_item *i, const struct peer_answer *a)
{
    network_answered(i->network);
    i->busy = false;
    /* Whether it did what was asked is not known: its successor is told what is to be. */
    if (a->ret == -ETIMEDOUT) switch_keeper_kill(i->network->keeper);
}

static bool ask(struct network_item *i, const char *method, json_t *params, json_t *connection, peer_done answered,
                network_done done, void *arg)
{
    struct xen_call *c = calloc(1, sizeof *c);
    assert(c);
    *c = (struct xen_call){.item = i, .connection = connection, .done = done, .arg = arg};
    json_object_set_new(params, "name", json_string(i->name));
    i->busy = network_ask(i->network, method, params, XEN_LIMIT_MS, answered, c);
    if (i->busy) return true;
    call_end(c, RPC_BUSY, "the switch cannot be asked now");
    return false;
}

static void disconnected(void *arg, const struct peer_answer *a)
{
    struct xen_call *c = arg;
    note_answer(c->item, a);
    if (a->ret == 0) set_connection(c->item, NULL, "listening");
    call_end(c, code_of(a), a->message);
}

static void connected(void *arg, const struct peer_answer *a)
{
    struct xen_call *c = arg;
    struct network_item *i = c->item;
    note_answer(i, a);
    if (a->ret == 0) set_connection(i, json_incref(c->connection), "connected");
    if (a->ret != -EISCONN) {
        call_end(c, code_of(a), a->message);
        return;
    }
    /* A daemon that is not there any more had it connected, and did not get to save that. */
    network_done done = c->done;
    void *done_arg = c->arg;
    json_decref(c->connection);
    free(c);
    network_xen_disconnect(i, done, done_arg);
}

static json_t *connect_params(json_t *connection, bool resume)
{
    json_t *params = json_deep_copy(connection);
    json_object_set_new(params, "resume", json_boolean(resume));
    return params;
}

void network_xen_connect(struct network_item *i, json_t *connection, bool resume, network_done done, void *arg)
{
    if (i->state == NETWORK_PRESENT && !i->busy && i->network->settled) {
        ask(i, "vif.connect", connect_params(connection, resume), connection, connected, done, arg);
        return;
    }
    json_decref(connection);
    done(arg, RPC_BUSY, "the switch is being started");
}

void network_xen_disconnect(struct network_item *i, network_done done, void *arg)
{
    if (i->busy || i->state == NETWORK_ASKED) {
        done(arg, RPC_BUSY, "it is being changed");
    } else if (i->state == NETWORK_ABSENT) { /* the next switch is not told of any */
        set_connection(i, NULL, "listening");
        done(arg, 0, NULL);
    } else {
        ask(i, "vif.disconnect", json_object(), NULL, disconnected, done, arg);
    }
}

static void followed(void *arg, const struct peer_answer *a)
{
    struct xen_call *c = arg;
    note_answer(c->item, a);
    if (a->ret == 0) change(c->item, "connection", json_incref(c->connection));
    call_end(c, code_of(a), a->message);
}

void network_xen_follow(struct network_item *i, const char *key, json_t *value, network_done done, void *arg)
{
    if (i->state != NETWORK_PRESENT || i->busy || !i->network->settled || !i->linked) {
        json_decref(value);
        done(arg, RPC_BUSY, "the switch is being started");
        return;
    }
    json_t *connection = json_deep_copy(network_xen_connection(i)), *front = json_object_get(connection, "frontend");
    if (value) json_object_set_new(front, key, value);
    else json_object_del(front, key);
    ask(i, "vif.follow", json_pack("{s:O}", "frontend", front), connection, followed, done, arg);
}

static void removed(struct xen_call *c)
{
    struct network_item *i = c->item;
    struct network *n = i->network;
    network_item_remove(i);
    network_save(n, NULL, NULL);
    network_want(n);
    call_end(c, 0, NULL);
}

static void detached(void *arg, const struct peer_answer *a)
{
    struct xen_call *c = arg;
    note_answer(c->item, a);
    if (a->ret == 0 || a->ret == -EPIPE || a->ret == -ETIMEDOUT || a->ret == -ENOENT) removed(c);
    else call_end(c, RPC_SWITCH, a->message);
}

void network_xen_detach(struct network_item *i, network_done done, void *arg)
{
    if (i->busy || i->state == NETWORK_ASKED) {
        done(arg, RPC_BUSY, "it is being changed");
    } else if (i->state == NETWORK_PRESENT) {
        ask(i, "vif.detach", json_object(), NULL, detached, done, arg);
    } else {
        struct xen_call *c = calloc(1, sizeof *c);
        assert(c);
        *c = (struct xen_call){.item = i, .done = done, .arg = arg};
        removed(c);
    }
}

/* ---- A new switch ---- */

static void resumed(void *arg, const struct peer_answer *a)
{
    struct network_item *i = arg;
    note_answer(i, a);
    if (a->ret == -EPIPE || a->ret == -ETIMEDOUT) return;
    i->linked = true;
    /* One that has them in use has said so itself, when it was adopted, if the guest broke them. */
    if (a->ret != -EISCONN || strcmp(i->front_end, "broken") != 0) {
        snprintf(i->front_end, sizeof i->front_end, "connected");
        i->front_end_why[0] = 0;
    }
    if (a->ret < 0 && a->ret != -EISCONN) {
        log_warn("vif %s: its guest's rings cannot be gone on with: %s", i->name, a->message);
        set_connection(i, NULL, "broken");
        snprintf(i->front_end_why, sizeof i->front_end_why, "%s", a->message);
        text_clean(i->front_end_why);
    }
    network_xen_changed(i);
    network_xen_sync(i->network);
}

/* What an earlier daemon did not hear, or not get to save. */
static void described(void *arg, const struct peer_answer *a)
{
    struct network_item *i = arg;
    note_answer(i, a);
    if (a->ret == -EPIPE || a->ret == -ETIMEDOUT) return;
    if (a->ret < 0) log_error("vif %s: what it offers its guest is not known: %s", i->name, a->message);
    network_xen_note_offered(i, json_array_get(json_object_get(a->result, "vifs"), 0));
    network_xen_changed(i);
    network_xen_sync(i->network);
}

/* A guest's rings are another's, or nobody's, once its number is. */
static bool has_guest(struct network_item *i)
{
    const char *identity = json_string_value(json_object_get(xen_of(i), "identity"));
    if (!network_xen_connection(i)) return false;
    if (xen_backends_vouch(i->network->host->xen, network_xen_backend(i), identity) != XEN_VOUCH_NO) return true;
    log_info("vif %s: its guest is not there any more, or is another", i->name);
    set_connection(i, NULL, "listening");
    return false;
}

/* False: no more can be asked now. */
static bool sync_item(struct network_item *i)
{
    struct network *n = i->network;
    if (!network_is_xen(i) || i->state != NETWORK_PRESENT || i->busy) return true;
    if (!network_xen_offered(i)) {
        i->busy = network_ask(n, "vif.list", json_pack("{s:s}", "name", i->name), XEN_LIMIT_MS, described, i);
        return i->busy;
    }
    if (i->linked || !has_guest(i)) return true;
    json_t *params = connect_params(network_xen_connection(i), true);
    json_object_set_new(params, "name", json_string(i->name));
    i->busy = network_ask(n, "vif.connect", params, XEN_LIMIT_MS, resumed, i);
    return i->busy;
}

void network_xen_sync(struct network *n)
{
    if (!n->settled) return;
    LIST_FOR_EACH (node, &n->items[NETWORK_VIF])
        if (!sync_item(list_entry(node, struct network_item, node))) return; /* answers come back here */
}
