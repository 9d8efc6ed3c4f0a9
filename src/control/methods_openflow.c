/* SPDX-License-Identifier: Apache-2.0 */
/* Methods on controllers, TLS, groups and meters. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/methods_network.h"
#include "control/pem.h"
#include "control/target.h"

#define PAGES_MAX 64u

/* ---- controllers ---- */

/* The bridge that is meant, with nothing else going on about it; NULL: answered. */
static struct network_item *free_bridge(struct network *n, struct rpc_call *call, struct fields *f, const char *bridge)
{
    if (fields_end(f) < 0) {
        rpc_fail_field(call, f->error);
        return NULL;
    }
    struct network_item *b = network_need(n, call, NETWORK_BRIDGE, bridge);
    return b && network_is_free(b, call) ? b : NULL;
}

static json_t *entry_of(json_t *config, const char *what, size_t *index)
{
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(config, "controllers"), i, v)
    {
        const char *name = json_string_value(json_object_get(v, "name"));
        *index = i;
        if (target_is_same(json_string_value(json_object_get(v, "target")), what) || (name && strcmp(name, what) == 0))
            return v;
    }
    return NULL;
}

/* config is stolen; it has other controllers than before. */
static void change_controllers(struct network_item *b, struct rpc_call *call, json_t *config)
{
    struct field_error why = {0};
    json_t *checked;
    int ret = network_config_parse(&checked, NETWORK_BRIDGE, config, "params", &why);
    json_decref(config);
    if (ret < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    json_t *params = json_pack("{s:s}", "name", b->name);
    network_controllers_params(checked, params);
    network_change(b, call, "bridge.set", params, checked);
}

void method_controller_add(void *arg, struct rpc_call *call, json_t *params)
{
    struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *bridge = network_name_field(&f, "bridge");
    const char *target = network_text_field(&f, "target", FIELD_REQUIRED, TARGET_MAX);
    const char *name = fields_string(&f, "name", "", NETWORK_NAME_MAX);
    struct network_item *b = free_bridge(n, call, &f, bridge);
    size_t index;
    if (!b) return;
    if (entry_of(b->config, target, &index) || (*name && entry_of(b->config, name, &index))) {
        rpc_fail(call, RPC_EXISTS, NULL, "bridge %s has the controller %s already", bridge, target);
        return;
    }
    json_t *config = json_deep_copy(b->config), *list = json_object_get(config, "controllers");
    json_t *entry = json_pack("{s:s}", "target", target);
    if (*name) json_object_set_new(entry, "name", json_string(name));
    if (!list) json_object_set_new(config, "controllers", list = json_array());
    json_array_append_new(list, entry);
    change_controllers(b, call, config);
}

void method_controller_del(void *arg, struct rpc_call *call, json_t *params)
{
    struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *bridge = network_name_field(&f, "bridge");
    const char *target = network_text_field(&f, "target", "", TARGET_MAX);
    struct network_item *b = free_bridge(n, call, &f, bridge);
    size_t index = 0;
    if (!b) return;
    if (*target && !entry_of(b->config, target, &index)) {
        rpc_fail(call, RPC_NOT_FOUND, NULL,
                 "bridge %s has no controller %s; `creedence controller list` shows those it has", bridge, target);
        return;
    }
    json_t *config = json_deep_copy(b->config), *list = json_object_get(config, "controllers");
    if (*target) json_array_remove(list, index);
    if (!*target || !json_array_size(list)) json_object_del(config, "controllers");
    change_controllers(b, call, config);
}

/* Ours, with what the switch says of each, and those that it has besides (tools, and controllers that came to us). */
struct listing {
    struct network *network;
    struct rpc_call *call;
    json_t *answer, *params;
    json_int_t from;
    unsigned pages;
};

static json_t *find_connection(json_t *list, json_t *of)
{
    size_t i;
    json_t *v;
    const char *bridge = json_string_value(json_object_get(of, "bridge"));
    const char *target = json_string_value(json_object_get(of, "target"));
    json_array_foreach(list, i, v)
    {
        if (bridge && target && strcmp(json_string_value(json_object_get(v, "bridge")), bridge) == 0 &&
            strcmp(json_string_value(json_object_get(v, "target")), target) == 0)
            return v;
    }
    return NULL;
}

static void listing_next(struct listing *l);

static void listing_end(struct listing *l)
{
    rpc_answer(l->call, l->answer);
    json_decref(l->params);
    free(l);
}

static void listing_came(void *arg, const struct peer_answer *a)
{
    struct listing *l = arg;
    size_t i;
    json_t *o;
    network_answered(l->network);
    if (a->ret < 0) {
        json_object_set_new(l->answer, "error", json_string(a->message));
        listing_end(l);
        return;
    }
    json_array_foreach(json_object_get(a->result, "connections"), i, o)
    {
        json_t *ours = find_connection(json_object_get(l->answer, "controllers"), o);
        if (ours) json_object_update_missing(ours, o);
        else if (json_is_object(o)) json_array_append(json_object_get(l->answer, "others"), o);
    }
    json_int_t next = json_integer_value(json_object_get(a->result, "next"));
    bool more = next > l->from && l->pages < PAGES_MAX;
    l->from = next;
    if (more) listing_next(l);
    else listing_end(l);
}

static void listing_next(struct listing *l)
{
    json_t *params = json_copy(l->params);
    json_object_set_new(params, "from", json_integer(l->from));
    l->pages++;
    if (network_ask(l->network, "controller.list", params, NETWORK_ASK_MS, listing_came, l)) return;
    const char *why = switch_keeper_error(l->network->keeper);
    json_object_set_new(l->answer, "error", json_string(*why ? why : "the switch cannot be asked just now"));
    listing_end(l);
}

void method_controller_list(void *arg, struct rpc_call *call, json_t *params)
{
    struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *bridge = fields_string(&f, "bridge", "", NETWORK_NAME_MAX);
    json_t *list = json_array();
    if (fields_end(&f) < 0 || (*bridge && !network_find(n, NETWORK_BRIDGE, bridge))) {
        json_decref(list);
        if (why.failed) rpc_fail_field(call, &why);
        else network_need(n, call, NETWORK_BRIDGE, bridge);
        return;
    }
    LIST_FOR_EACH (node, &n->items[NETWORK_BRIDGE]) {
        const struct network_item *b = list_entry(node, struct network_item, node);
        json_t *more = *bridge && strcmp(b->name, bridge) != 0 ? NULL : network_controllers_json(b);
        json_array_extend(list, more);
        json_decref(more);
    }
    struct listing *l = calloc(1, sizeof *l);
    assert(l);
    *l = (struct listing){.network = n,
                          .call = call,
                          .answer = json_pack("{s:o, s:[]}", "controllers", list, "others"),
                          .params = json_object()};
    if (*bridge) json_object_set_new(l->params, "bridge", json_string(bridge));
    if (n->count[NETWORK_BRIDGE]) listing_next(l);
    else listing_end(l);
}

/* ---- TLS ---- */

struct tls_change {
    struct network *network;
    struct rpc_call *call;
    json_t *paths; /* NULL: no TLS any more */
    json_t *texts; /* to be wiped */
};

static void tls_is(struct tls_change *c)
{
    struct network *n = c->network;
    pem_release(c->texts);
    json_decref(n->tls);
    n->tls = c->paths;
    network_save(n, c->call, n->tls ? json_deep_copy(n->tls) : json_object());
    free(c);
}

static void tls_drop(struct tls_change *c)
{
    pem_release(c->texts);
    json_decref(c->paths);
    free(c);
}

static void tls_changed(void *arg, const struct peer_answer *a)
{
    struct tls_change *c = arg;
    network_answered(c->network);
    if (a->ret == -ETIMEDOUT) switch_keeper_kill(c->network->keeper); /* its successor is told what is to be */
    if (a->ret == 0 || a->ret == -EPIPE || a->ret == -ETIMEDOUT) {
        tls_is(c);
        return;
    }
    network_fail(c->network, c->call, "TLS", a);
    tls_drop(c);
}

/* The switch looks at what is in the files before the old ones are forgotten. */
static void tls_change(struct network *n, struct rpc_call *call, json_t *paths)
{
    struct errmsg e = {""};
    json_t *texts = network_tls_texts(paths, &e);
    if (!texts) {
        json_decref(paths);
        rpc_fail(call, RPC_INVALID_PARAMS, NULL, "%s", e.text);
        return;
    }
    struct tls_change *c = calloc(1, sizeof *c);
    assert(c);
    *c = (struct tls_change){.network = n, .call = call, .paths = paths, .texts = texts};
    if (!switch_keeper_peer(n->keeper)) {
        tls_is(c);
    } else if (!network_ask(n, "openflow.tls", json_incref(texts), NETWORK_FLOWS_MS, tls_changed, c)) {
        network_not_up(n, call);
        tls_drop(c);
    }
}

void method_tls_set(void *arg, struct rpc_call *call, json_t *params)
{
    struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    json_t *paths;
    if (network_tls_parse(&paths, params, "params", &why) < 0) rpc_fail_field(call, &why);
    else tls_change(n, call, paths);
}

void method_tls_del(void *arg, struct rpc_call *call, json_t *params)
{
    if (method_no_params(call, params)) tls_change(((struct daemon *)arg)->host.network, call, NULL);
}

void method_tls_show(void *arg, struct rpc_call *call, json_t *params)
{
    const struct network *n = ((struct daemon *)arg)->host.network;
    if (method_no_params(call, params)) rpc_answer(call, n->tls ? json_deep_copy(n->tls) : json_object());
}

/* ---- groups and meters: as flows (methods_flow.c) ---- */

void method_group_add(void *arg, struct rpc_call *call, json_t *params)
{
    network_change_texts(arg, call, params, "group.add", "groups");
}

void method_group_mod(void *arg, struct rpc_call *call, json_t *params)
{
    network_change_texts(arg, call, params, "group.mod", "groups");
}

void method_group_del(void *arg, struct rpc_call *call, json_t *params)
{
    network_change_texts(arg, call, params, "group.del", "groups");
}

void method_group_dump(void *arg, struct rpc_call *call, json_t *params)
{
    network_page(arg, call, params, "group.dump");
}

void method_meter_add(void *arg, struct rpc_call *call, json_t *params)
{
    network_change_texts(arg, call, params, "meter.add", "meters");
}

void method_meter_mod(void *arg, struct rpc_call *call, json_t *params)
{
    network_change_texts(arg, call, params, "meter.mod", "meters");
}

void method_meter_del(void *arg, struct rpc_call *call, json_t *params)
{
    network_change_texts(arg, call, params, "meter.del", "meters");
}

void method_meter_dump(void *arg, struct rpc_call *call, json_t *params)
{
    network_page(arg, call, params, "meter.dump");
}
