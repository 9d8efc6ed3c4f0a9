/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the switch has, and what it is told so that it has all. Its notifications.
 *
 * Requests are answered in their order, so a port may be asked for right behind its bridge.
 *
 * A switch that was found running may have been told otherwise than what was saved, or may never have answered: who may talk
 * with its cards, and who may control its bridges, it is told once more, before `settled`.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/network.h"
#include "control/text.h"
#include "loop/clock.h"

#define ITEM_LIMIT_MS 10000u
#define DEATHS_MAX 1u         /* while something is being added; the switch may have died for another reason */
#define WATCH_MS 5000u        /* is it still there? */
#define WATCH_LIMIT_MS 35000u /* behind whatever else it is doing, which may take NETWORK_FLOWS_MS */
#define LEFT_OUT_MS 300000u
#define RETRY_MS 2000u /* what the switch could not make: its interface may be there by then */

/* ---- Asking ---- */

bool network_ask(struct network *n, const char *method, json_t *params, unsigned limit_ms, peer_done done, void *arg)
{
    struct peer *peer = switch_keeper_peer(n->keeper);
    if (!peer || n->asked >= NETWORK_ASKED_MAX) {
        json_decref(params);
        return false;
    }
    n->asked++;
    peer_ask(peer, method, params, NULL, NULL, 0, limit_ms, done, arg);
    return true;
}

void network_answered(struct network *n)
{
    n->asked--;
}

/* ---- Items ---- */

static void retry_fired(struct loop_timer *t)
{
    struct network *n = container_of(t, struct network, retry);
    for (int kind = 0; kind < NETWORK_KINDS; kind++)
        LIST_FOR_EACH (node, &n->items[kind])
            list_entry(node, struct network_item, node)->failed = false;
    network_sync(n);
}

static void item_failed(struct network_item *i, int ret, const char *message)
{
    struct network *n = i->network;
    char why[sizeof i->error];
    snprintf(why, sizeof why, "%s", message);
    text_clean(why);
    if (i->adding) {
        network_add_failed(i, ret == -EEXIST ? RPC_EXISTS : ret == -EINVAL ? RPC_INVALID_PARAMS : RPC_SWITCH, why);
        return;
    }
    if (strcmp(why, i->error) != 0) log_warn("%s %s: %s; it is tried again", network_kind_name(i->kind), i->name, why);
    snprintf(i->error, sizeof i->error, "%s", why);
    i->failed = true;
    network_xen_changed(i);
    if (!n->retry.loop) loop_timer_arm(n->host->loop, &n->retry, RETRY_MS * NS_PER_MS, retry_fired);
}

static bool note_datapath_id(struct network_item *i, json_t *result)
{
    const char *id = json_string_value(json_object_get(result, "datapath_id"));
    if (!id || json_object_get(i->config, "datapath_id") || !network_datapath_id_valid(id)) return false;
    json_object_set_new(i->config, "datapath_id", json_string(id));
    return true;
}

/* The number and the address that the switch chose: the next one is told to take the same. True: they are new. */
static bool note_choices(struct network_item *i, json_t *result)
{
    json_t *number = json_object_get(result, "number"), *mac = json_object_get(result, "mac");
    json_int_t value = json_integer_value(number);
    bool changed = false;
    if (i->kind == NETWORK_BRIDGE) return note_datapath_id(i, result);
    if (value > 0 && value <= (json_int_t)NETWORK_PORT_NUMBER_MAX &&
        json_integer_value(json_object_get(i->config, "number")) == 0) {
        json_object_set_new(i->config, "number", json_integer(value));
        changed = true;
    }
    if (i->kind != NETWORK_VIF || !json_is_string(mac) || json_object_get(i->config, "mac")) return changed;
    struct field_error why = {0};
    json_t *with = json_copy(i->config), *checked;
    json_object_set(with, "mac", mac);
    if (network_config_parse(&checked, NETWORK_VIF, with, "", &why) == 0) {
        json_decref(i->config);
        i->config = checked;
        changed = true;
    }
    json_decref(with);
    return changed;
}

static void item_answered(void *arg, const struct peer_answer *a)
{
    struct network_item *i = arg;
    struct network *n = i->network;
    network_answered(n);
    i->state = a->ret == 0 ? NETWORK_PRESENT : NETWORK_ABSENT;
    if (a->ret == 0) {
        bool chosen = note_choices(i, a->result);
        struct rpc_call *call = i->adding;
        i->adding = NULL;
        i->fresh = false;
        i->error[0] = 0;
        loop_timer_cancel(&i->limit);
        if (chosen || call) network_save(n, call, call ? network_item_json(i) : NULL);
        if (i->kind == NETWORK_BRIDGE) network_controllers_sync(i);
        network_xen_note_offered(i, a->result);
        network_xen_changed(i);
        network_xen_sync(n);
    } else if (a->ret == -ETIMEDOUT) {
        log_error("switch: %s: it is killed", a->message); /* whether it has the item is not known */
        switch_keeper_kill(n->keeper);
    } else if (a->ret == -EPIPE) {
        return; /* the next one is asked when it is up */
    } else {
        item_failed(i, a->ret, a->message);
    }
    network_sync(n);
}

static void ask_bridge(struct network_item *i)
{
    struct network *n = i->network;
    struct errmsg e = {""};
    const char *names[3] = {"flows"};
    int fds[3];
    autoclose int fd = network_open_flows(i, i->adding != NULL, &e);
    if (fd < 0) {
        item_failed(i, -EIO, e.text);
        return;
    }
    i->state = NETWORK_ASKED;
    n->asked++;
    fds[0] = fd;
    unsigned count = 1 + network_tools_fds(i, names + 1, fds + 1), controllers = network_controllers_count(i->config);
    json_t *params = json_copy(i->config);
    json_object_del(params, "controllers");
    if (controllers) json_object_set_new(params, "controllers", json_integer(controllers));
    json_t *policy = network_policy_of(n, "bridge", i->name);
    if (policy) json_object_set_new(params, "policy", policy);
    peer_ask(switch_keeper_peer(n->keeper), "bridge.add", params, names, fds, count, NETWORK_FLOWS_MS, item_answered,
             i);
}

static void ask_vif(struct network_item *i)
{
    struct errmsg e = {""};
    if (!network_is_xen(i) && network_listen(i, &e) < 0) {
        item_failed(i, -EIO, e.text);
        return;
    }
    i->state = NETWORK_ASKED;
    network_ask_attach(i, item_answered);
}

static void ask_item(struct network_item *i)
{
    const struct network_item *b = network_find(i->network, NETWORK_BRIDGE, i->bridge);
    if (!b || (b->state == NETWORK_ABSENT && i->kind != NETWORK_BRIDGE)) {
        item_failed(i, -ENOENT, "its bridge is not there");
    } else if (i->kind == NETWORK_BRIDGE) {
        ask_bridge(i);
    } else if (i->kind == NETWORK_VIF) {
        ask_vif(i);
    } else {
        i->state = NETWORK_ASKED;
        network_ask(i->network, "port.add", json_incref(i->config), ITEM_LIMIT_MS, item_answered, i);
    }
}

static void told_again(void *arg, const struct peer_answer *a)
{
    struct network *n = arg;
    network_answered(n);
    if (a->ret == -EPIPE) return;
    if (a->ret < 0 && a->ret != -ENOENT) { /* what is gone has nothing to obey */
        log_limited(LOG_LEVEL_ERROR, "switch: it does not take what is to be: %s; it is killed", a->message);
        switch_keeper_kill(n->keeper);
        return;
    }
    network_sync(n);
}

static void tell_again(struct network_item *i)
{
    i->owed = false;
    network_policy_tell(i, told_again);
    if (i->kind != NETWORK_BRIDGE) return;
    json_t *params = json_pack("{s:s}", "name", i->name);
    network_controllers_params(i->config, params);
    network_ask(i->network, "bridge.set", params, NETWORK_FLOWS_MS, told_again, i->network);
}

/* ---- Settling, and going on to answer ---- */

static void network_watch(struct network *n);

void network_upgraded(struct network *n, int code, const char *message)
{
    network_done done = n->upgraded;
    n->upgraded = NULL;
    if (done) done(n->upgraded_arg, code, message);
}

static void tell_restored(struct network *n, int code, const char *message)
{
    network_done done = n->restored;
    n->restored = NULL;
    loop_timer_cancel(&n->restore_limit);
    if (done) done(n->restored_arg, code, message);
}

static void watch_answered(void *arg, const struct peer_answer *a)
{
    struct network *n = arg;
    network_answered(n);
    if (a->ret == -ETIMEDOUT) {
        log_error("switch: it does not answer any more: it is killed");
        switch_keeper_kill(n->keeper);
    } else if (a->ret != -EPIPE) {
        network_watch(n);
    }
}

static void watch_fired(struct loop_timer *t)
{
    struct network *n = container_of(t, struct network, watch);
    /* Again: it says nothing new, and costs nothing. */
    if (!network_ask(n, "settled", NULL, WATCH_LIMIT_MS, watch_answered, n) && n->settled) network_watch(n);
}

static void network_watch(struct network *n)
{
    loop_timer_arm(n->host->loop, &n->watch, WATCH_MS * NS_PER_MS, watch_fired);
}

static void settled(void *arg, const struct peer_answer *a)
{
    struct network *n = arg;
    network_answered(n);
    if (a->ret == -EPIPE) return;
    if (a->ret < 0) {
        log_error("switch: settled: %s; it is killed", a->message);
        switch_keeper_kill(n->keeper);
        return;
    }
    n->settled = true;
    network_watch(n);
    switch_keeper_settled(n->keeper);
    if (n->adopted) network_drop_stale(n);
    n->adopted = false;
    LIST_FOR_EACH (node, &n->items[NETWORK_BRIDGE])
        network_controllers_sync(list_entry(node, struct network_item, node));
    LIST_FOR_EACH (node, &n->items[NETWORK_VIF])
        network_xen_changed(list_entry(node, struct network_item, node));
    network_xen_sync(n);
    if (switch_keeper_peer(n->keeper)) network_upgraded(n, 0, NULL); /* it is not the one that is to leave */
    tell_restored(n, 0, NULL);
}

void network_sync(struct network *n)
{
    bool waiting = false;
    if (!switch_keeper_peer(n->keeper)) return;
    for (int kind = 0; kind < NETWORK_KINDS; kind++) {
        LIST_FOR_EACH_SAFE (node, &n->items[kind]) {
            struct network_item *i = list_entry(node, struct network_item, node);
            if (n->asked + 2 >= NETWORK_ASKED_MAX || !switch_keeper_peer(n->keeper))
                return; /* answers come back here */
            if (i->state == NETWORK_ABSENT && !i->failed && !i->busy && !i->left_out) ask_item(i);
            else if (i->owed) tell_again(i);
            else waiting |= i->state == NETWORK_ASKED;
        }
    }
    /* The last request is settled's: what was asked above is answered before it. */
    if (n->settle_asked || waiting) return;
    n->settle_asked = network_ask(n, "settled", NULL, ITEM_LIMIT_MS, settled, n);
}

/* ---- The switch comes and goes ---- */

static json_t *switch_options(void *arg)
{
    struct network *n = arg;
    return json_deep_copy(n->options);
}

/* False: it has one that is not configured. */
static bool note_present(struct network *n, enum network_kind kind, json_t *names)
{
    size_t index;
    json_t *name;
    bool known = true;
    json_array_foreach(names, index, name)
    {
        const char *text = json_string_value(name);
        struct network_item *i = text ? network_find(n, kind, text) : NULL;
        if (!i) known = false;
        else i->state = NETWORK_PRESENT;
        if (i) i->owed = kind != NETWORK_PORT;
        if (i) i->linked = false; /* an earlier daemon may not have got to say so: it is said again */
        if (i && kind == NETWORK_BRIDGE) network_flows_adopted(i);
    }
    return known;
}

static void switch_up(void *arg, json_t *adopted)
{
    struct network *n = arg;
    n->adopted = adopted != NULL;
    bool known = true;
    network_tls_tell(n, adopted);
    if (adopted) {
        known = note_present(n, NETWORK_BRIDGE, json_object_get(adopted, "bridges"));
        known &= note_present(n, NETWORK_PORT, json_object_get(adopted, "ports"));
        known &= note_present(n, NETWORK_VIF, json_object_get(adopted, "vifs"));
    }
    if (!known) {
        log_warn("switch: it has more than is configured (an earlier daemon did not get to save it): it is replaced");
        switch_keeper_replace(n->keeper);
        return;
    }
    network_sync(n);
}

/* What is being added may be the reason; it is not tried with one switch after another. */
static void note_death(struct network_item *i, const char *why)
{
    if (i->adding && ++i->deaths > DEATHS_MAX) network_add_failed(i, RPC_SWITCH, why);
}

static void switch_down(void *arg, bool dead)
{
    struct network *n = arg;
    char why[512];
    snprintf(why, sizeof why, "%s", switch_keeper_error(n->keeper));
    n->settled = n->settle_asked = false;
    loop_timer_cancel(&n->watch);
    for (int kind = NETWORK_KINDS; kind-- > 0;) { /* ports before their bridges */
        LIST_FOR_EACH_SAFE (node, &n->items[kind]) {
            struct network_item *i = list_entry(node, struct network_item, node);
            i->state = NETWORK_ABSENT; /* one that is found running says what it has */
            i->failed = i->owed = i->linked = false;
            if (kind == NETWORK_BRIDGE) network_flows_idle(i);
            network_controllers_idle(i);
            if (dead && *why) note_death(i, why);
        }
    }
    if (!dead || !*why) return;
    network_upgraded(n, RPC_SWITCH, why);
    tell_restored(n, RPC_SWITCH, why);
}

/* ---- Notifications ---- */

static void note_front_end(struct network *n, json_t *params)
{
    static const char *const states[] = {"listening", "connected", "broken"};
    const char *name = json_string_value(json_object_get(params, "name"));
    const char *state = json_string_value(json_object_get(params, "front_end"));
    const char *why = json_string_value(json_object_get(params, "why"));
    struct network_item *i = name ? network_find(n, NETWORK_VIF, name) : NULL;
    if (!i || !state) return;
    for (size_t k = 0; k < ARRAY_LEN(states); k++)
        if (strcmp(states[k], state) == 0) snprintf(i->front_end, sizeof i->front_end, "%s", state);
    snprintf(i->front_end_why, sizeof i->front_end_why, "%s", why ? why : "");
    text_clean(i->front_end_why);
    if (why) log_limited(LOG_LEVEL_WARN, "vif %s: %s: %s", i->name, i->front_end, i->front_end_why);
    network_xen_changed(i);
}

/* One that serves several cards or ports, whatever a card may be called. */
static bool is_shared(const char *thread)
{
    return strncmp(thread, "ports.", 6) == 0 || strncmp(thread, "vifs.", 5) == 0;
}

/* How its switch calls the threads of a card: after it, cut to the 15 bytes that a thread's name may have. */
static bool is_thread_of(const struct network_item *i, const char *thread)
{
    char name[16];
    if (json_integer_value(json_object_get(i->config, "queues")) <= 1) {
        snprintf(name, sizeof name, "%.15s", i->name);
        return strcmp(name, thread) == 0;
    }
    int len = snprintf(name, sizeof name, "%.12s.", i->name);
    return strncmp(name, thread, (size_t)len) == 0 && thread[len] >= '0' && thread[len] <= '9';
}

static void left_out_fired(struct loop_timer *t)
{
    network_let_in(container_of(t, struct network_item, limit));
}

void network_let_in(struct network_item *i)
{
    if (!i->left_out) return;
    loop_timer_cancel(&i->limit);
    i->left_out = false;
    i->error[0] = 0;
    memset(i->fault_ns, 0, sizeof i->fault_ns);
    network_sync(i->network);
}

static void leave_out(struct network_item *i)
{
    i->left_out = true;
    snprintf(i->error, sizeof i->error,
             "left out for %u s, or until it is changed: its guest has ended the switch %u times in a minute",
             LEFT_OUT_MS / 1000, NETWORK_FAULTS_MAX);
    log_error("vif %s: %s", i->name, i->error);
    loop_timer_arm(i->network->host->loop, &i->limit, LEFT_OUT_MS * NS_PER_MS, left_out_fired);
}

/* At which port the switch was, it says itself. At none: then a thread that only one card has is told by its name. */
static bool is_at_fault(const struct network_item *i, const char *port, const char *thread)
{
    if (port && *port) return strcmp(i->name, port) == 0;
    return thread && !is_shared(thread) && is_thread_of(i, thread);
}

/* Who lies here ends cards that it has in its hands anyway. */
static void note_fault(struct network *n, json_t *params)
{
    const char *thread = json_string_value(json_object_get(params, "thread"));
    const char *port = json_string_value(json_object_get(params, "port"));
    struct network_item *whose = NULL;
    unsigned matches = 0;
    LIST_FOR_EACH (node, &n->items[NETWORK_VIF]) {
        struct network_item *i = list_entry(node, struct network_item, node);
        if (i->state != NETWORK_PRESENT || !is_at_fault(i, port, thread)) continue;
        whose = i;
        matches++;
    }
    log_limited(LOG_LEVEL_ERROR, "switch: a fault %s%s", whose ? "while it served vif " : "of its own",
                whose ? whose->name : "");
    if (matches != 1 || whose->left_out) return; /* several of a name that was cut: nobody can be blamed */
    uint64_t now_ns = clock_now_ns(), first_ns = whose->fault_ns[0];
    memmove(whose->fault_ns, whose->fault_ns + 1, sizeof whose->fault_ns - sizeof whose->fault_ns[0]);
    whose->fault_ns[NETWORK_FAULTS_MAX - 2] = now_ns;
    if (first_ns && now_ns - first_ns < 60 * NS_PER_SECOND) leave_out(whose);
}

static void switch_notified(void *arg, const char *method, json_t *params, struct link_msg *msg)
{
    struct network *n = arg;
    if (strcmp(method, "hold") == 0) network_hold(n, params, msg);
    else if (strcmp(method, "unhold") == 0) network_unhold(n, params);
    else if (strcmp(method, "vif") == 0) note_front_end(n, params);
    else if (strcmp(method, "flows") == 0) network_compact(n, params);
    else if (strcmp(method, "controller") == 0) network_controller_notified(n, params);
    else if (strcmp(method, "fault") == 0) note_fault(n, params);
    else log_limited(LOG_LEVEL_WARN, "switch: unknown notification \"%.32s\"", method);
}

const struct switch_keeper_ops network_switch_ops = {
    .options = switch_options, .up = switch_up, .down = switch_down, .notified = switch_notified};
