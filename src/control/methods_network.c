/* SPDX-License-Identifier: Apache-2.0 */
/* Methods on bridges, ports and virtual network cards. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/disk_config.h"
#include "control/methods_network.h"
#include "control/xenstore_backends.h"

#define CHANGE_LIMIT_MS 10000u
#define GATHER_PAGES_MAX 1024u

static const char *const plurals[NETWORK_KINDS] = {"bridges", "ports", "vifs"};

/* ---- Errors ---- */

void network_fail(struct network *n, struct rpc_call *call, const char *what, const struct peer_answer *a)
{
    enum rpc_code code = RPC_SWITCH;
    const char *advice = "";
    switch (a->ret) {
    case -ETIMEDOUT: code = RPC_TIMEOUT; break;
    case -EPIPE: advice = "; it is started again: try again in a moment"; break;
    case -ENOENT: code = RPC_NOT_FOUND; break;
    case -EEXIST: code = RPC_EXISTS; break;
    case -EBUSY: code = RPC_BUSY; break;
    case -EINVAL: code = RPC_INVALID_PARAMS; break;
    }
    rpc_fail(call, code, json_pack("{s:i}", "errno", -a->ret), "%s%s%s%s", what, *what ? ": " : "", a->message, advice);
}

void network_not_up(struct network *n, struct rpc_call *call)
{
    const char *why = switch_keeper_error(n->keeper);
    if (!n->count[NETWORK_BRIDGE])
        rpc_fail(call, RPC_SWITCH, NULL,
                 "there are no bridges, so no switch runs: make one with `creedence bridge add`");
    else if (switch_keeper_peer(n->keeper))
        rpc_fail(call, RPC_BUSY, NULL, "too much is asked of the switch at once: try again in a moment");
    else
        rpc_fail(call, RPC_SWITCH, NULL, "the switch is being started%s%s: try again in a moment", *why ? ": " : "",
                 why);
}

struct network_item *network_need(struct network *n, struct rpc_call *call, enum network_kind kind, const char *name)
{
    struct network_item *i = network_find(n, kind, name);
    if (!i)
        rpc_fail(call, RPC_NOT_FOUND, NULL, "there is no %s \"%s\"; `creedence %s list` shows those there are",
                 network_kind_name(kind), name, network_kind_name(kind));
    return i;
}

/* ---- add, attach ---- */

static const struct network_item *find_socket(struct network *n, json_t *config)
{
    const char *path = json_string_value(json_object_get(config, "socket"));
    LIST_FOR_EACH (node, &n->items[NETWORK_VIF]) {
        const struct network_item *i = list_entry(node, struct network_item, node);
        char buffer[PATH_MAX];
        const char *other = network_socket_path(i, buffer);
        if (path && other && strcmp(path, other) == 0) return i;
    }
    return NULL;
}

/* True: it can be; else answered. */
static bool can_be_added(struct daemon *d, struct rpc_call *call, enum network_kind kind, json_t *config)
{
    struct network *n = d->host.network;
    const char *name = json_string_value(json_object_get(config, "name"));
    const char *bridge = json_string_value(json_object_get(config, "bridge"));
    const struct network_item *other = network_find(n, kind, name), *b = NULL;
    if (!other && kind != NETWORK_BRIDGE)
        other = network_find(n, kind == NETWORK_PORT ? NETWORK_VIF : NETWORK_PORT, name);
    if (d->shutting_down) {
        rpc_fail(call, RPC_BUSY, NULL, "the daemon is shutting down");
    } else if (n->load_failed) {
        rpc_fail(call, RPC_STATE, NULL,
                 "%s/network.json was not understood when the daemon started (its log says why): move it away, and "
                 "start the daemon again",
                 d->host.state_dir);
    } else if (other) {
        rpc_fail(call, RPC_EXISTS, NULL, "there is a %s \"%s\" already: remove it first, or take another name",
                 network_kind_name(other->kind), name);
    } else if (kind == NETWORK_BRIDGE && n->count[kind] >= NETWORK_BRIDGES_MAX) {
        rpc_fail(call, RPC_BUSY, NULL, "there are %u bridges, the most that there can be", NETWORK_BRIDGES_MAX);
    } else if (n->count[NETWORK_PORT] + n->count[NETWORK_VIF] >= NETWORK_PORTS_MAX) {
        rpc_fail(call, RPC_BUSY, NULL, "there are %u ports and cards, the most that there can be", NETWORK_PORTS_MAX);
    } else if (bridge && !(b = network_need(n, call, NETWORK_BRIDGE, bridge))) {
        return false;
    } else if (b && (b->adding || b->busy)) {
        rpc_fail(call, RPC_BUSY, NULL, "bridge %s is just being added or removed: try again in a moment", bridge);
    } else if (kind == NETWORK_VIF && (other = find_socket(n, config))) {
        rpc_fail(call, RPC_EXISTS, NULL, "vif %s is served at that socket already", other->name);
    } else {
        return true;
    }
    return false;
}

static void add(struct daemon *d, struct rpc_call *call, json_t *params, enum network_kind kind)
{
    struct field_error why = {0};
    json_t *config;
    int ret = network_config_parse(&config, kind, params, "params", &why);
    if (ret == -EINVAL) {
        rpc_fail_field(call, &why);
        return;
    }
    if (ret < 0) {
        rpc_fail(call, RPC_INTERNAL, NULL, "out of memory");
        return;
    }
    if (!can_be_added(d, call, kind, config)) {
        json_decref(config);
        return;
    }
    struct network_item *i = network_item_new(d->host.network, kind, config);
    if (i) network_add(i, call);
    else rpc_fail(call, RPC_INTERNAL, NULL, "out of memory");
}

void method_bridge_add(void *arg, struct rpc_call *call, json_t *params)
{
    add(arg, call, params, NETWORK_BRIDGE);
}

void method_port_add(void *arg, struct rpc_call *call, json_t *params)
{
    add(arg, call, params, NETWORK_PORT);
}

void method_vif_attach(void *arg, struct rpc_call *call, json_t *params)
{
    if (json_object_get(params, "xen")) {
        rpc_fail(call, RPC_INVALID_PARAMS, json_pack("{s:s}", "field", "params.xen"),
                 "params.xen: cards of Xen guests are attached by the toolstack (xl network-attach)");
        return;
    }
    add(arg, call, params, NETWORK_VIF);
}

/* ---- del, detach, set ---- */

/* A change of an item that the switch has: the item is busy until the answer. */
struct change {
    struct network_item *item;
    struct rpc_call *call;
    json_t *config; /* what it is to be; NULL: it is to go */
};

static void change_done(struct change *c)
{
    struct network_item *i = c->item;
    struct network *n = i->network;
    if (c->config) {
        json_decref(i->config);
        i->config = c->config;
        i->failed = false;
        network_let_in(i);
        if (i->kind == NETWORK_BRIDGE) network_controllers_sync(i);
        network_save(n, c->call, network_item_json(i));
    } else {
        char backend[DISK_XEN_TEXT_MAX + 1];
        bool of_xen = network_is_xen(i) && network_xen_backend(i);
        if (of_xen) snprintf(backend, sizeof backend, "%s", network_xen_backend(i));
        network_item_remove(i);
        if (of_xen) xen_backends_put_down(n->host->xen, backend);
        network_save(n, c->call, json_object());
        network_want(n);
    }
    free(c);
}

static void change_answered(void *arg, const struct peer_answer *a)
{
    struct change *c = arg;
    struct network_item *i = c->item;
    struct network *n = i->network;
    network_answered(n);
    i->busy = false;
    if (a->ret == -ETIMEDOUT) switch_keeper_kill(n->keeper); /* its successor is told what is to be */
    if (a->ret == 0 || a->ret == -EPIPE || a->ret == -ETIMEDOUT || (a->ret == -ENOENT && !c->config)) {
        change_done(c);
        return;
    }
    char what[64];
    snprintf(what, sizeof what, "%s %s", network_kind_name(i->kind), i->name);
    network_fail(n, c->call, what, a);
    json_decref(c->config);
    free(c);
}

void network_change(struct network_item *i, struct rpc_call *call, const char *method, json_t *params, json_t *config)
{
    struct change *c = calloc(1, sizeof *c);
    assert(c);
    *c = (struct change){.item = i, .call = call, .config = config};
    if (i->state == NETWORK_ABSENT) {
        json_decref(params);
        change_done(c);
        return;
    }
    i->busy = true;
    if (network_ask(i->network, method, params, CHANGE_LIMIT_MS, change_answered, c)) return;
    i->busy = false;
    network_not_up(i->network, call);
    json_decref(config);
    free(c);
}

bool network_is_free(struct network_item *i, struct rpc_call *call)
{
    if (!i->busy && !i->adding && i->state != NETWORK_ASKED) return true;
    rpc_fail(call, RPC_BUSY, NULL, "another operation on %s %s is going on: try again when it is over",
             network_kind_name(i->kind), i->name);
    return false;
}

static void remove_item(struct daemon *d, struct rpc_call *call, json_t *params, enum network_kind kind)
{
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *name = network_name_field(&f, "name");
    const char *bridge = kind == NETWORK_PORT ? fields_string(&f, "bridge", "", NETWORK_NAME_MAX) : "";
    bool force = kind == NETWORK_VIF && fields_bool(&f, "force", false);
    if (fields_end(&f) < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    struct network_item *i = network_need(d->host.network, call, kind, name);
    if (!i || !network_is_free(i, call)) return;
    if (*bridge && strcmp(bridge, i->bridge) != 0) {
        rpc_fail(call, RPC_NOT_FOUND, NULL, "port %s is of bridge %s, not of %s", name, i->bridge, bridge);
    } else if (i->children) {
        rpc_fail(call, RPC_BUSY, NULL, "bridge %s has %u ports and cards: remove these first", name, i->children);
    } else if (kind == NETWORK_VIF && held_find(&i->held, "conn") && !force) {
        rpc_fail(
            call, RPC_BUSY, NULL,
            "vif %s: a guest is connected to it: shut the guest down first, or detach it with force (the guest then "
            "has a card that is dead)",
            name);
    } else {
        const char *method = kind == NETWORK_VIF ? "vif.detach" : kind == NETWORK_PORT ? "port.del" : "bridge.del";
        json_t *o = json_pack("{s:s}", "name", name);
        if (kind == NETWORK_PORT) json_object_set_new(o, "bridge", json_string(i->bridge));
        network_change(i, call, method, o, NULL);
    }
}

void method_bridge_del(void *arg, struct rpc_call *call, json_t *params)
{
    remove_item(arg, call, params, NETWORK_BRIDGE);
}

void method_port_del(void *arg, struct rpc_call *call, json_t *params)
{
    remove_item(arg, call, params, NETWORK_PORT);
}

void method_vif_detach(void *arg, struct rpc_call *call, json_t *params)
{
    remove_item(arg, call, params, NETWORK_VIF);
}

static void set_item(struct daemon *d, struct rpc_call *call, json_t *params, enum network_kind kind)
{
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *name = network_name_field(&f, "name");
    const char *bridge = kind == NETWORK_PORT ? fields_string(&f, "bridge", "", NETWORK_NAME_MAX) : "";
    if (fields_end_lenient(&f) < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    struct network_item *i = network_need(d->host.network, call, kind, name);
    json_t *config;
    if (!i || !network_is_free(i, call)) return;
    if (*bridge && strcmp(bridge, i->bridge) != 0) {
        rpc_fail(call, RPC_NOT_FOUND, NULL, "port %s is of bridge %s, not of %s", name, i->bridge, bridge);
    } else if (network_config_change(&config, kind, i->config, params, "params", &why) < 0) {
        rpc_fail_field(call, &why);
    } else {
        static const char *const methods[] = {"bridge.set", "port.set", "vif.set"};
        json_t *changes = json_copy(params);
        if (kind != NETWORK_BRIDGE) json_object_set_new(changes, "bridge", json_string(i->bridge));
        network_change(i, call, methods[kind], changes, config);
    }
}

void method_bridge_set(void *arg, struct rpc_call *call, json_t *params)
{
    set_item(arg, call, params, NETWORK_BRIDGE);
}

void method_port_set(void *arg, struct rpc_call *call, json_t *params)
{
    set_item(arg, call, params, NETWORK_PORT);
}

void method_vif_set(void *arg, struct rpc_call *call, json_t *params)
{
    set_item(arg, call, params, NETWORK_VIF);
}

/* ---- Lists and statistics: ours, with what the switch says of each, page by page ---- */

struct gather {
    struct network *network;
    struct rpc_call *call;
    const char *method;
    json_t *params;
    json_t *answer;
    json_t *by_name[NETWORK_KINDS]; /* NULL: not asked for */
    bool nested;                    /* what the switch says goes under "stats" */
    unsigned pages;
    json_int_t from;
};

static void gather_end(struct gather *g)
{
    rpc_answer(g->call, g->answer);
    for (int kind = 0; kind < NETWORK_KINDS; kind++)
        json_decref(g->by_name[kind]);
    json_decref(g->params);
    free(g);
}

static json_t *find_entry(struct gather *g, enum network_kind kind, const char *name)
{
    json_t *entry = json_object_get(g->by_name[kind], name);
    /* To the switch a card is a port, too. */
    return entry || kind != NETWORK_PORT ? entry : json_object_get(g->by_name[NETWORK_VIF], name);
}

/* Nothing that it says takes the place of what we know. */
static void merge(struct gather *g, enum network_kind kind, json_t *list)
{
    size_t index;
    json_t *o;
    json_array_foreach(list, index, o)
    {
        const char *name = json_string_value(json_object_get(o, "name"));
        json_t *entry = name ? find_entry(g, kind, name) : NULL;
        if (entry && g->nested) json_object_set(entry, "stats", o);
        else if (entry) json_object_update_missing(entry, o);
    }
}

static void gather_next(struct gather *g);

static void page_came(void *arg, const struct peer_answer *a)
{
    struct gather *g = arg;
    network_answered(g->network);
    if (a->ret < 0) {
        json_object_set_new(g->answer, "error", json_string(a->message));
        gather_end(g);
        return;
    }
    for (int kind = 0; kind < NETWORK_KINDS; kind++)
        if (g->by_name[kind]) merge(g, kind, json_object_get(a->result, plurals[kind]));
    if (g->pages == 1 && json_is_object(a->result)) json_object_update_missing(g->answer, a->result);
    json_object_del(g->answer, "next");
    json_t *next = json_object_get(a->result, "next");
    bool more = json_is_integer(next) && json_integer_value(next) > g->from && g->pages < GATHER_PAGES_MAX;
    g->from = json_integer_value(next);
    if (more) gather_next(g);
    else gather_end(g);
}

static void gather_next(struct gather *g)
{
    json_t *params = json_copy(g->params);
    if (g->from) json_object_set_new(params, "from", json_integer(g->from));
    g->pages++;
    if (network_ask(g->network, g->method, params, NETWORK_ASK_MS, page_came, g)) return;
    const char *why = switch_keeper_error(g->network->keeper);
    if (g->network->count[NETWORK_BRIDGE])
        json_object_set_new(g->answer, "error", json_string(*why ? why : "the switch cannot be asked just now"));
    gather_end(g);
}

static void add_entries(struct gather *g, enum network_kind kind, const char *name, const char *bridge)
{
    json_t *list = json_array();
    g->by_name[kind] = json_object();
    LIST_FOR_EACH (node, &g->network->items[kind]) {
        const struct network_item *i = list_entry(node, struct network_item, node);
        if ((*name && strcmp(i->name, name) != 0) || (*bridge && strcmp(i->bridge, bridge) != 0)) continue;
        json_t *o = network_item_json(i);
        json_object_set(g->by_name[kind], i->name, o);
        json_array_append_new(list, o);
    }
    json_object_set_new(g->answer, plurals[kind], list);
}

static struct gather *gather_new(struct daemon *d, struct rpc_call *call, const char *method, bool nested)
{
    struct gather *g = calloc(1, sizeof *g);
    assert(g);
    *g = (struct gather){.network = d->host.network,
                         .call = call,
                         .method = method,
                         .params = json_object(),
                         .answer = json_object(),
                         .nested = nested};
    return g;
}

/* Of one kind; of a bridge's (lists) or of one by name (statistics), or all. */
static void gather(struct daemon *d, struct rpc_call *call, json_t *params, enum network_kind kind, const char *method,
                   bool statistics)
{
    struct network *n = d->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *bridge = kind == NETWORK_BRIDGE ? "" : fields_string(&f, "bridge", "", NETWORK_NAME_MAX);
    const char *name = statistics ? fields_string(&f, "name", "", NETWORK_NAME_MAX) : "";
    if (fields_end(&f) < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    if (*bridge && !network_need(n, call, NETWORK_BRIDGE, bridge)) return;
    if (*name && !network_need(n, call, kind, name)) return;
    struct gather *g = gather_new(d, call, method, statistics);
    if (*bridge) json_object_set_new(g->params, "bridge", json_string(bridge));
    if (*name) json_object_set_new(g->params, "name", json_string(name));
    add_entries(g, kind, name, bridge);
    gather_next(g);
}

void method_bridge_list(void *arg, struct rpc_call *call, json_t *params)
{
    gather(arg, call, params, NETWORK_BRIDGE, "bridge.list", false);
}

void method_port_list(void *arg, struct rpc_call *call, json_t *params)
{
    gather(arg, call, params, NETWORK_PORT, "port.list", false);
}

void method_vif_list(void *arg, struct rpc_call *call, json_t *params)
{
    gather(arg, call, params, NETWORK_VIF, "vif.list", false);
}

void method_port_stats(void *arg, struct rpc_call *call, json_t *params)
{
    gather(arg, call, params, NETWORK_PORT, "port.stats", true);
}

void method_vif_stats(void *arg, struct rpc_call *call, json_t *params)
{
    gather(arg, call, params, NETWORK_VIF, "vif.stats", true);
}

void method_net_stats(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    if (!method_no_params(call, params)) return;
    struct gather *g = gather_new(d, call, "net.stats", true);
    json_object_set_new(g->answer, "process", switch_keeper_json(d->host.network->keeper));
    for (int kind = 0; kind < NETWORK_KINDS; kind++)
        add_entries(g, kind, "", "");
    gather_next(g);
}

void method_bridge_show(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *name = network_name_field(&f, "name");
    if (fields_end(&f) < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    struct network_item *b = network_need(d->host.network, call, NETWORK_BRIDGE, name);
    if (!b) return;
    struct gather *g = gather_new(d, call, "bridge.show", false);
    json_object_update(g->params, params);
    add_entries(g, NETWORK_PORT, "", name);
    add_entries(g, NETWORK_VIF, "", name);
    json_t *own = network_item_json(b);
    json_object_update(g->answer, own);
    json_decref(own);
    gather_next(g);
}
