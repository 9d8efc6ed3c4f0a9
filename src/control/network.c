/* SPDX-License-Identifier: Apache-2.0 */
#include "control/network.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "loop/clock.h"

#define ADD_LIMIT_MS 10000u
#define RESTORE_LIMIT_MS 5000u /* operators are served then, settled or not */

/* ---- Items ---- */

struct network_item *network_find(struct network *n, enum network_kind kind, const char *name)
{
    LIST_FOR_EACH (node, &n->items[kind]) {
        struct network_item *i = list_entry(node, struct network_item, node);
        if (strcmp(i->name, name) == 0) return i;
    }
    return NULL;
}

struct network_item *network_item_new(struct network *n, enum network_kind kind, json_t *config)
{
    struct network_item *i = calloc(1, sizeof *i);
    if (!i) {
        json_decref(config);
        return NULL;
    }
    const char *name = json_string_value(json_object_get(config, "name"));
    const char *bridge = kind == NETWORK_BRIDGE ? name : json_string_value(json_object_get(config, "bridge"));
    i->network = n;
    i->kind = kind;
    i->config = config;
    i->mgmt_fd = i->snoop_fd = i->listen_fd = -1;
    list_init(&i->controllers);
    snprintf(i->name, sizeof i->name, "%s", name);
    snprintf(i->bridge, sizeof i->bridge, "%s", bridge);
    bool in_use = kind == NETWORK_VIF && network_xen_connection(i);
    snprintf(i->front_end, sizeof i->front_end, "%s", in_use ? "connected" : "listening");
    struct list *at = &n->items[kind];
    LIST_FOR_EACH (node, &n->items[kind]) {
        if (strcmp(list_entry(node, struct network_item, node)->name, i->name) < 0) continue;
        at = node;
        break;
    }
    list_insert_before(at, &i->node);
    n->count[kind]++;
    struct network_item *b = kind == NETWORK_BRIDGE ? NULL : network_find(n, NETWORK_BRIDGE, i->bridge);
    if (b) b->children++;
    return i;
}

static void item_free(struct network_item *i)
{
    struct network *n = i->network;
    loop_timer_cancel(&i->limit);
    network_openflow_end(i);
    list_remove(&i->node);
    n->count[i->kind]--;
    struct network_item *b = i->kind == NETWORK_BRIDGE ? NULL : network_find(n, NETWORK_BRIDGE, i->bridge);
    if (b) b->children--;
    n->held_count -= i->held.count;
    held_clear(&i->held);
    if (i->listen_fd >= 0) close(i->listen_fd);
    json_decref(i->config);
    free(i);
}

/* At a place that an operator chose there may be something else, if the socket was never made. */
static void remove_socket(struct network_item *i, char buffer[PATH_MAX])
{
    struct stat st;
    const char *path = i->listen_fd >= 0 || !i->fresh ? network_socket_path(i, buffer) : NULL;
    if (path && lstat(path, &st) == 0 && S_ISSOCK(st.st_mode)) unlink(path);
}

void network_item_remove(struct network_item *i)
{
    char path[PATH_MAX];
    if (i->kind == NETWORK_VIF) {
        network_drop_held(i);
        remove_socket(i, path);
        network_xen_changed(i);
    } else if (i->kind == NETWORK_BRIDGE) {
        network_sockets_remove(i);
        network_policy_forget(i->network, "bridge", i->name);
        if (network_flows_path(path, i->network, i->name, "flows.new")) unlink(path);
        if (network_flows_path(path, i->network, i->name, "flows")) unlink(path);
    }
    item_free(i);
}

static void add_too_slow(struct loop_timer *t)
{
    struct network_item *i = container_of(t, struct network_item, limit);
    struct network *n = i->network;
    const char *why = switch_keeper_error(n->keeper);
    if (i->state == NETWORK_ASKED) /* that has a limit of its own */
        loop_timer_arm(n->host->loop, t, NS_PER_SECOND, add_too_slow);
    else network_add_failed(i, *why ? RPC_SWITCH : RPC_TIMEOUT, *why ? why : "the switch does not start in time");
}

void network_add(struct network_item *i, struct rpc_call *call)
{
    struct network *n = i->network;
    i->adding = call;
    i->fresh = true;
    loop_timer_arm(n->host->loop, &i->limit, ADD_LIMIT_MS * NS_PER_MS, add_too_slow);
    network_want(n);
    network_sync(n);
}

void network_add_failed(struct network_item *i, enum rpc_code code, const char *message)
{
    struct network *n = i->network;
    struct rpc_call *call = i->adding;
    i->adding = NULL;
    rpc_fail(call, code, NULL, "%s %s: %s", network_kind_name(i->kind), i->name, message);
    network_item_remove(i);
    network_want(n);
}

void network_want(struct network *n)
{
    bool wanted = n->count[NETWORK_BRIDGE] && !n->stopping;
    if (!wanted) network_upgraded(n, RPC_BUSY, "it is not needed any more");
    switch_keeper_want(n->keeper, wanted);
}

/* ---- Files ---- */

const char *network_socket_path(const struct network_item *i, char buffer[PATH_MAX])
{
    const char *chosen = json_string_value(json_object_get(i->config, "socket"));
    if (network_is_xen(i)) return NULL;
    if (chosen) return chosen;
    int len = snprintf(buffer, PATH_MAX, "%s/vifs/%s.sock", i->network->host->run_dir, i->name);
    return len < PATH_MAX ? buffer : NULL;
}

bool network_flows_path(char out[PATH_MAX], const struct network *n, const char *bridge, const char *ending)
{
    return (size_t)snprintf(out, PATH_MAX, "%s/flows/%s.%s", n->host->state_dir, bridge, ending) < PATH_MAX;
}

/* ---- Life ---- */

static unsigned held_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0) return 512;
    return r.rlim_cur > 1u << 30 ? 1u << 29 : (unsigned)(r.rlim_cur / 2);
}

int network_new(struct network **out, struct host *h)
{
    struct network *n = calloc(1, sizeof *n);
    if (!n) return -ENOMEM;
    n->host = h;
    n->options = json_object();
    n->policies = json_array();
    n->held_max = held_limit();
    list_init(&n->unsaved);
    list_init(&n->policy_changes);
    for (int kind = 0; kind < NETWORK_KINDS; kind++)
        list_init(&n->items[kind]);
    int ret = n->options && n->policies ? switch_keeper_new(&n->keeper, h, &network_switch_ops, n) : -ENOMEM;
    if (ret == 0) {
        *out = n;
        return 0;
    }
    json_decref(n->options);
    json_decref(n->policies);
    free(n);
    return ret;
}

void network_free(struct network *n)
{
    if (!n) return;
    network_upgraded(n, RPC_BUSY, "the daemon ends");
    switch_keeper_free(n->keeper); /* answers what was asked of it */
    network_save_now(n);
    for (int kind = NETWORK_KINDS; kind-- > 0;) {
        LIST_FOR_EACH_SAFE (node, &n->items[kind]) {
            struct network_item *i = list_entry(node, struct network_item, node);
            if (i->adding) rpc_fail(i->adding, RPC_BUSY, NULL, "the daemon ends");
            item_free(i);
        }
    }
    loop_timer_cancel(&n->retry);
    loop_timer_cancel(&n->compact);
    loop_timer_cancel(&n->watch);
    loop_timer_cancel(&n->restore_limit);
    json_decref(n->options);
    json_decref(n->tls);
    json_decref(n->policies);
    json_decref(n->policy_index);
    free(n);
}

static void restore_fired(struct loop_timer *t)
{
    struct network *n = container_of(t, struct network, restore_limit);
    network_done done = n->restored;
    n->restored = NULL;
    if (done) done(n->restored_arg, RPC_TIMEOUT, "the switch takes long to start");
}

void network_restore(struct network *n, network_done done, void *arg)
{
    network_load(n);
    LIST_FOR_EACH (node, &n->items[NETWORK_VIF])
        network_load_held(list_entry(node, struct network_item, node));
    if (!n->count[NETWORK_BRIDGE]) {
        switch_keeper_want(n->keeper, false); /* one may run that nobody needs */
        done(arg, 0, NULL);
        return;
    }
    n->restored = done;
    n->restored_arg = arg;
    loop_timer_arm(n->host->loop, &n->restore_limit, RESTORE_LIMIT_MS * NS_PER_MS, restore_fired);
    network_want(n);
}

void network_upgrade(struct network *n, network_done done, void *arg)
{
    if (n->upgraded) {
        done(arg, RPC_BUSY, "it is being replaced already");
        return;
    }
    n->upgraded = done;
    n->upgraded_arg = arg;
    if (!switch_keeper_replace(n->keeper)) network_upgraded(n, RPC_BUSY, "it is not running just now");
}

bool network_stop(struct network *n)
{
    char path[PATH_MAX];
    n->stopping = true;
    network_want(n);
    if (switch_keeper_running(n->keeper)) return false;
    LIST_FOR_EACH (node, &n->items[NETWORK_VIF]) {
        struct network_item *i = list_entry(node, struct network_item, node);
        network_drop_held(i); /* its guest begins anew when the host is back */
        remove_socket(i, path);
    }
    LIST_FOR_EACH (node, &n->items[NETWORK_BRIDGE])
        network_sockets_remove(list_entry(node, struct network_item, node));
    return true;
}

void network_go_on(struct network *n)
{
    n->stopping = false;
    network_want(n);
}

/* ---- Reports ---- */

static const char *state_name(const struct network_item *i)
{
    if (i->left_out) return "left out";
    if (i->state == NETWORK_PRESENT) return "serving";
    return i->error[0] ? "failed" : "waiting";
}

json_t *network_item_json(const struct network_item *i)
{
    json_t *o = json_deep_copy(i->config);
    if (!o) return NULL;
    json_object_set_new(o, "state", json_string(state_name(i)));
    if (i->state != NETWORK_PRESENT) {
        const char *why = i->error[0] ? i->error : switch_keeper_error(i->network->keeper);
        if (*why) json_object_set_new(o, "error", json_string(why));
    }
    if (i->kind == NETWORK_BRIDGE) json_object_set_new(o, "port_count", json_integer(i->children));
    if (i->kind != NETWORK_VIF) return o;
    char buffer[PATH_MAX];
    const char *path = network_socket_path(i, buffer);
    if (path) json_object_set_new(o, "socket", json_string(path));
    if (network_is_xen(i)) network_xen_show(i, o);
    json_object_set_new(o, "front_end", json_string(i->front_end));
    if (i->front_end_why[0]) json_object_set_new(o, "front_end_why", json_string(i->front_end_why));
    json_object_set_new(o, "held", json_integer(i->held.count));
    return o;
}

json_t *network_status_json(struct network *n)
{
    unsigned connected = 0, absent = 0;
    for (int kind = 0; kind < NETWORK_KINDS; kind++) {
        LIST_FOR_EACH (node, &n->items[kind]) {
            const struct network_item *i = list_entry(node, struct network_item, node);
            absent += i->state != NETWORK_PRESENT;
            connected += i->kind == NETWORK_VIF && strcmp(i->front_end, "connected") == 0;
        }
    }
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:b, s:o}", "bridges", (int)n->count[NETWORK_BRIDGE], "ports",
                     (int)n->count[NETWORK_PORT], "vifs", (int)n->count[NETWORK_VIF], "connected", (int)connected,
                     "absent", (int)absent, "settled", n->settled, "switch", switch_keeper_json(n->keeper));
}
