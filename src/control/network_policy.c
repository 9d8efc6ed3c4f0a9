/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Policies: who may talk with cards. Each rule is of a card, by its name, wherever it is attached, or of a bridge, for all
 * cards that are on it. The switch gets all rules of a card (or bridge) along with it, and once more when they change.
 *
 *     {"id": 7, "vif": "web1", "allow": true, "direction": "in", "range": "10.0.0.0/8", "protocol": "tcp", "port": 80}
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "control/methods_network.h"

#define RULES_MAX 256u /* of a card or a bridge */
#define ALL_MAX 16384u /* of all */

static const char *const directions[] = {"in", "out", "both", NULL};
static const char *const protocols[] = {"any", "ip", "tcp", "udp", "sctp", "icmp", "arp", NULL};

/* ---- one rule ---- */

static void check_ports(struct fields *f, int protocol)
{
    static const char *const keys[] = {"port", "source_port"};
    bool has_ports = protocol >= 2 && protocol <= 4;
    for (unsigned i = 0; i < 2; i++) {
        if (!fields_any(f, keys[i])) continue;
        fields_uint(f, keys[i], 0, 0, UINT16_MAX);
        if (!has_ports) fields_refuse(f, keys[i], "no port, unless the protocol is tcp, udp or sctp");
    }
}

/* A new reference in *out, with what was given. */
static int parse_rule(json_t **out, json_t *object, const char *where, struct field_error *why)
{
    struct fields f = fields_begin(object, where, why);
    json_t *vif = fields_any(&f, "vif"), *bridge = fields_any(&f, "bridge");
    if (vif) network_name_field(&f, "vif");
    else network_name_field(&f, "bridge");
    if (vif && bridge) fields_refuse(&f, "bridge", "a card or a bridge, not both");
    if (!fields_any(&f, "allow")) fields_refuse(&f, "allow", "true or false");
    fields_bool(&f, "allow", true);
    fields_choice(&f, "direction", -1, directions);
    int protocol = fields_choice(&f, "protocol", 0, protocols);
    const char *range = fields_string(&f, "range", "0.0.0.0/0", 64);
    if (!network_range_valid(range)) fields_refuse(&f, "range", "an IP address or a range, as 192.0.2.0/24");
    if (protocol == 6 && strchr(range, ':')) fields_refuse(&f, "range", "IPv4 addresses: it is about arp");
    check_ports(&f, protocol);
    fields_uint(&f, "priority", 0, 0, UINT16_MAX);
    fields_uint(&f, "id", 0, 1, INT64_MAX);
    if (fields_end(&f) < 0) return -EINVAL;
    *out = json_object();
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        if (!json_is_null(value)) json_object_set(*out, key, value);
    }
    return 0;
}

static bool is_of(const json_t *rule, const char *key, const char *name)
{
    const char *whose = json_string_value(json_object_get(rule, key));
    return whose && strcmp(whose, name) == 0;
}

/* ---- whose they are ---- */

static const char *subject_of(char out[NETWORK_NAME_MAX + 2], const char *key, const char *name)
{
    snprintf(out, NETWORK_NAME_MAX + 2, "%c%s", *key, name);
    return out;
}

static json_t *index_new(json_t *policies)
{
    json_t *index = json_object(), *rule;
    char subject[NETWORK_NAME_MAX + 2];
    size_t i;
    json_array_foreach(policies, i, rule)
    {
        const char *vif = json_string_value(json_object_get(rule, "vif"));
        const char *bridge = json_string_value(json_object_get(rule, "bridge"));
        subject_of(subject, vif ? "vif" : "bridge", vif ? vif : bridge);
        json_t *list = json_object_get(index, subject);
        if (!list) json_object_set_new(index, subject, list = json_array());
        json_array_append(list, rule);
    }
    return index;
}

/* Borrowed until the rules change; NULL: it has none. */
static json_t *rules_of(struct network *n, const char *key, const char *name)
{
    char subject[NETWORK_NAME_MAX + 2];
    if (!n->policy_index) n->policy_index = index_new(n->policies);
    return json_object_get(n->policy_index, subject_of(subject, key, name));
}

static void policies_changed(struct network *n)
{
    json_decref(n->policy_index);
    n->policy_index = NULL;
}

/* policies are stolen. */
static void set_policies(struct network *n, json_t *policies)
{
    json_decref(n->policies);
    n->policies = policies;
    policies_changed(n);
}

json_t *network_policy_of(struct network *n, const char *key, const char *name)
{
    json_t *own = rules_of(n, key, name), *list = NULL, *rule;
    size_t i;
    json_array_foreach(own, i, rule)
    {
        json_t *bare = json_copy(rule);
        json_object_del(bare, "id");
        json_object_del(bare, "vif");
        json_object_del(bare, "bridge");
        if (!list) list = json_array();
        json_array_append_new(list, bare);
    }
    return list;
}

unsigned network_policy_load(struct network *n, json_t *list)
{
    unsigned bad = 0;
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
    {
        struct field_error why = {0};
        char where[48];
        json_t *rule;
        snprintf(where, sizeof where, "policies[%zu]", i);
        if (parse_rule(&rule, entry, where, &why) == 0) {
            json_int_t id = json_integer_value(json_object_get(rule, "id"));
            if (id > n->policy_id) n->policy_id = id;
            json_array_append_new(n->policies, rule);
        } else {
            log_error("network.json: %s; it is left out", why.message);
            bad++;
        }
    }
    policies_changed(n);
    return bad;
}

void network_policy_forget(struct network *n, const char *key, const char *name)
{
    for (size_t i = json_array_size(n->policies); i-- > 0;)
        if (is_of(json_array_get(n->policies, i), key, name)) json_array_remove(n->policies, i);
    policies_changed(n);
}

/* ---- to the switch ---- */

static bool ask(struct network *n, const char *key, const char *name, peer_done done, void *arg)
{
    json_t *rules = network_policy_of(n, key, name), *params = json_pack("{s:s}", key, name);
    json_object_set_new(params, "policy", rules ? rules : json_array());
    return network_ask(n, "policy.set", params, NETWORK_FLOWS_MS, done, arg);
}

void network_policy_tell(struct network_item *i, peer_done done)
{
    ask(i->network, network_kind_name(i->kind), i->name, done, i->network);
}

/* ---- changes ---- */

/* Of the rules of one card or bridge; taken back when the switch does not take it. */
struct change {
    struct list node;
    struct network *network;
    struct rpc_call *call;
    char key[8], name[NETWORK_NAME_MAX + 1];
    json_t *before; /* its rules, or NULL */
    json_t *answer;
};

static void change_free(struct change *c)
{
    list_remove(&c->node);
    json_decref(c->before);
    json_decref(c->answer);
    free(c);
}

static void is_done(struct change *c)
{
    network_save(c->network, c->call, json_incref(c->answer));
    change_free(c);
}

static json_int_t id_of(const json_t *rule)
{
    return json_integer_value(json_object_get(rule, "id"));
}

/* Those of others may have changed meanwhile. All are in the order of their numbers. */
static void take_back(struct change *c)
{
    struct network *n = c->network;
    json_t *list = json_array(), *rule;
    size_t i, at = 0, count = json_array_size(c->before);
    json_array_foreach(n->policies, i, rule)
    {
        if (is_of(rule, c->key, c->name)) continue;
        while (at < count && id_of(json_array_get(c->before, at)) < id_of(rule))
            json_array_append(list, json_array_get(c->before, at++));
        json_array_append(list, rule);
    }
    while (at < count)
        json_array_append(list, json_array_get(c->before, at++));
    set_policies(n, list);
}

static void changed(void *arg, const struct peer_answer *a)
{
    struct change *c = arg;
    struct network *n = c->network;
    network_answered(n);
    if (a->ret == -ETIMEDOUT) switch_keeper_kill(n->keeper);
    if (a->ret == 0 || a->ret == -EPIPE || a->ret == -ETIMEDOUT || a->ret == -ENOENT) {
        is_done(c); /* the next switch gets them all */
        return;
    }
    take_back(c);
    network_save(n, NULL, NULL); /* it may have been saved along with another change */
    network_fail(n, c->call, "policy", a);
    change_free(c);
}

/* policies and answer are stolen. */
static void change(struct network *n, struct rpc_call *call, json_t *policies, const char *key, const char *name,
                   json_t *answer)
{
    struct change *c = calloc(1, sizeof *c);
    assert(c);
    *c = (struct change){.network = n, .call = call, .before = json_incref(rules_of(n, key, name)), .answer = answer};
    snprintf(c->key, sizeof c->key, "%s", key);
    snprintf(c->name, sizeof c->name, "%s", name);
    list_push_back(&n->policy_changes, &c->node);
    const struct network_item *i = network_find(n, *key == 'v' ? NETWORK_VIF : NETWORK_BRIDGE, c->name);
    set_policies(n, policies);
    bool there = i && i->state != NETWORK_ABSENT;
    json_object_set_new(answer, "applied", json_boolean(there));
    if (!there) {
        is_done(c);
    } else if (!ask(n, c->key, c->name, changed, c)) {
        take_back(c);
        network_not_up(n, call);
        change_free(c);
    }
}

static bool can_change(struct network *n, struct rpc_call *call, const char *key, const char *name)
{
    bool busy = false;
    LIST_FOR_EACH (node, &n->policy_changes) {
        const struct change *c = list_entry(node, struct change, node);
        busy = busy || (strcmp(c->key, key) == 0 && strcmp(c->name, name) == 0);
    }
    if (n->load_failed)
        rpc_fail(call, RPC_STATE, NULL, "network.json was not understood: move it away, and start the daemon again");
    else if (busy)
        rpc_fail(call, RPC_BUSY, NULL, "another change of the policy of %s %s is going on: try again when it is over",
                 key, name);
    return !busy && !n->load_failed;
}

/* Is there room for one more? Else answered. */
static bool has_room(struct network *n, struct rpc_call *call, const char *key, const char *name)
{
    if (json_array_size(rules_of(n, key, name)) >= RULES_MAX)
        rpc_fail(call, RPC_BUSY, NULL, "%s %s has %u rules, the most that there can be", key, name, RULES_MAX);
    else if (json_array_size(n->policies) >= ALL_MAX)
        rpc_fail(call, RPC_BUSY, NULL, "there are %u rules of all cards and bridges, the most that there can be",
                 ALL_MAX);
    else return true;
    return false;
}

void method_policy_add(void *arg, struct rpc_call *call, json_t *params)
{
    struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    json_t *rule;
    if (json_object_get(params, "id")) {
        struct fields f = fields_begin(params, "params", &why);
        fields_refuse(&f, "id", "none: it is chosen here");
        rpc_fail_field(call, &why);
        return;
    }
    if (parse_rule(&rule, params, "params", &why) < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    const char *key = json_object_get(rule, "vif") ? "vif" : "bridge";
    const char *name = json_string_value(json_object_get(rule, key));
    bool good = can_change(n, call, key, name) && (*key == 'v' || network_need(n, call, NETWORK_BRIDGE, name)) &&
                has_room(n, call, key, name);
    if (!good) {
        json_decref(rule);
        return;
    }
    json_object_set_new(rule, "id", json_integer(++n->policy_id));
    json_t *policies = json_copy(n->policies);
    json_array_append_new(policies, rule);
    change(n, call, policies, key, name, json_copy(rule));
}

static const json_t *find_rule(const struct network *n, json_int_t id)
{
    size_t i;
    json_t *rule;
    json_array_foreach(n->policies, i, rule)
    {
        if (id_of(rule) == id) return rule;
    }
    return NULL;
}

void method_policy_del(void *arg, struct rpc_call *call, json_t *params)
{
    struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    json_int_t id = (json_int_t)fields_uint(&f, "id", 0, 1, INT64_MAX);
    const char *vif = fields_string(&f, "vif", "", NETWORK_NAME_MAX),
               *bridge = fields_string(&f, "bridge", "", NETWORK_NAME_MAX);
    if ((id != 0) + (*vif != 0) + (*bridge != 0) != 1)
        fields_refuse(&f, "id", "a rule's number, or all of a vif or bridge");
    if (fields_end(&f) < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    const json_t *one = id ? find_rule(n, id) : NULL;
    const char *key = *vif || json_object_get(one, "vif") ? "vif" : "bridge";
    const char *name = id ? json_string_value(json_object_get(one, key)) : *vif ? vif : bridge;
    if (!name || !rules_of(n, key, name)) {
        rpc_fail(call, RPC_NOT_FOUND, NULL, "there is no such rule; `creedence policy list` shows those there are");
        return;
    }
    if (!can_change(n, call, key, name)) return;
    json_t *left = json_array(), *rule;
    size_t i;
    json_array_foreach(n->policies, i, rule)
    {
        if (id ? rule != one : !is_of(rule, key, name)) json_array_append(left, rule);
    }
    json_t *answer = json_pack("{s:i}", "removed", (int)(json_array_size(n->policies) - json_array_size(left)));
    change(n, call, left, key, name, answer);
}

void method_policy_list(void *arg, struct rpc_call *call, json_t *params)
{
    const struct network *n = ((struct daemon *)arg)->host.network;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *vif = fields_string(&f, "vif", "", NETWORK_NAME_MAX),
               *bridge = fields_string(&f, "bridge", "", NETWORK_NAME_MAX);
    if (fields_end(&f) < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    json_t *list = json_array(), *rule;
    size_t i;
    json_array_foreach(n->policies, i, rule)
    {
        if ((*vif && !is_of(rule, "vif", vif)) || (*bridge && !is_of(rule, "bridge", bridge))) continue;
        json_array_append(list, rule);
    }
    rpc_answer(call, json_pack("{s:o}", "policies", list));
}

void method_policy_show(void *arg, struct rpc_call *call, json_t *params)
{
    network_named_page(arg, call, params, "policy.show", NETWORK_VIF);
}
