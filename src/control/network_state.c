/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What survives of networks:
 *
 *     STATEDIR/network.json         {"version": 1, "switch": {options}, "bridges": [...], "ports": [...], "vifs": [...]}
 *     STATEDIR/flows/BRIDGE.flows   the switch's: its flows, and every change of them, appended before it is acknowledged
 *                                   (network_flows.c)
 *
 * The first is replaced whole after each change that the switch acknowledged; the calls that asked for changes are
 * answered then, several at once when they come close together. An entry that cannot be understood is left out, and the
 * file as it was is set aside.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/network.h"

#define NETWORK_FILE_MAX_BYTES (16u << 20)

static const char *const list_names[NETWORK_KINDS] = {"bridges", "ports", "vifs"};

struct network_unsaved {
    struct list node;
    struct rpc_call *call;
    json_t *result;
};

static bool file_path(char out[PATH_MAX], const struct network *n)
{
    return (size_t)snprintf(out, PATH_MAX, "%s/network.json", n->host->state_dir) < PATH_MAX;
}

/* ---- Loading ---- */

static bool load_item(struct network *n, enum network_kind kind, json_t *entry, const char *where, struct errmsg *e)
{
    json_t *config;
    struct field_error why = {0};
    if (network_config_parse(&config, kind, entry, where, &why) < 0) {
        errmsg_set(e, EINVAL, "%s", why.message);
        return false;
    }
    const char *name = json_string_value(json_object_get(config, "name"));
    const char *bridge = json_string_value(json_object_get(config, "bridge"));
    bool twice = network_find(n, kind, name) || (kind == NETWORK_VIF && network_find(n, NETWORK_PORT, name));
    bool astray = bridge && !network_find(n, NETWORK_BRIDGE, bridge);
    if (!twice && !astray) return network_item_new(n, kind, config) != NULL;
    errmsg_set(e, EINVAL, "%s: %s \"%s\"%s", where, network_kind_name(kind), name,
               twice ? " is there twice" : " is of a bridge that is not there");
    json_decref(config);
    return false;
}

/* How many entries were left out. */
static unsigned load_lists(struct network *n, struct fields *f, struct errmsg *e)
{
    unsigned bad = 0;
    for (enum network_kind kind = 0; kind < NETWORK_KINDS; kind++) {
        json_t *list = fields_array(f, list_names[kind], 0, NETWORK_PORTS_MAX), *entry;
        size_t index;
        json_array_foreach(list, index, entry)
        {
            char where[64];
            snprintf(where, sizeof where, "%s[%zu]", list_names[kind], index);
            if (load_item(n, kind, entry, where, e)) continue;
            log_error("network.json: %s; it is left out", e->text);
            bad++;
        }
    }
    return bad;
}

static int load_whole(struct network *n, json_t *whole, unsigned *bad, struct errmsg *e)
{
    struct field_error why = {0};
    struct fields f = fields_begin(whole, "", &why);
    uint64_t version = fields_uint_required(&f, "version", 1, INT64_MAX);
    if (!why.failed && version > STATE_VERSION)
        return errmsg_set(e, ENOTSUP, "version %llu, this program knows %d", (unsigned long long)version,
                          STATE_VERSION);
    json_t *options = fields_object(&f, "switch"), *checked;
    struct field_error option_why = {0};
    if (options && network_options_parse(&checked, options, "switch", &option_why) == 0) {
        json_decref(n->options);
        n->options = checked;
    } else if (options) {
        log_error("network.json: %s; the switch's options are left out", option_why.message);
        (*bad)++;
    }
    json_t *tls = fields_object(&f, "tls");
    struct field_error tls_why = {0};
    if (tls && network_tls_parse(&checked, tls, "tls", &tls_why) == 0) {
        json_decref(n->tls);
        n->tls = checked;
    } else if (tls) {
        log_error("network.json: %s; there is no TLS", tls_why.message);
        (*bad)++;
    }
    *bad += load_lists(n, &f, e);
    *bad += network_policy_load(n, fields_array(&f, "policies", 0, INT32_MAX));
    return fields_end_lenient(&f) < 0 ? errmsg_set(e, EINVAL, "%s", why.message) : 0;
}

int network_load(struct network *n)
{
    char path[PATH_MAX];
    struct errmsg e = {""};
    json_t *whole = NULL;
    unsigned bad = 0;
    if (!file_path(path, n)) return -ENAMETOOLONG;
    int ret = state_read_file(&whole, path, NETWORK_FILE_MAX_BYTES, &e);
    if (ret == -ENOENT) return ret;
    if (ret == 0) {
        ret = load_whole(n, whole, &bad, &e);
        json_decref(whole);
        if (ret < 0 || bad) {
            struct errmsg why = e;
            errmsg_set(&e, EINVAL, "%s: %s", path, why.text);
        }
    }
    if (ret == -EINVAL || (ret == 0 && bad)) {
        state_set_aside(path, e.text);
        if (ret == 0) network_save(n, NULL, NULL);
    } else if (ret < 0) {
        n->load_failed = true;
        log_error("%s; left where it is: there are no networks until it is moved away", e.text);
    }
    return ret;
}

/* ---- Saving ---- */

static int save(struct network *n, struct errmsg *e)
{
    char path[PATH_MAX];
    if (n->load_failed) return errmsg_set(e, EEXIST, "network.json was not understood: move it away");
    if (!file_path(path, n)) return errmsg_set(e, ENAMETOOLONG, "%s", n->host->state_dir);
    json_t *o = json_pack("{s:i, s:O}", "version", STATE_VERSION, "switch", n->options);
    if (n->tls) json_object_set(o, "tls", n->tls);
    if (json_array_size(n->policies)) json_object_set(o, "policies", n->policies);
    for (int kind = 0; o && kind < NETWORK_KINDS; kind++) {
        json_t *list = json_array();
        LIST_FOR_EACH (node, &n->items[kind]) {
            const struct network_item *i = list_entry(node, struct network_item, node);
            if (!i->adding) json_array_append(list, i->config);
        }
        json_object_set_new(o, list_names[kind], list);
    }
    autofree char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    if (!text) return errmsg_sys(e, ENOMEM, "%s", path);
    return state_write_file(path, text, strlen(text), true, e);
}

void network_save_now(struct network *n)
{
    struct errmsg e = {""};
    loop_timer_cancel(&n->save);
    if (list_empty(&n->unsaved)) return;
    int ret = save(n, &e);
    if (ret < 0) log_error("networks cannot be saved: %s", e.text);
    while (!list_empty(&n->unsaved)) {
        struct network_unsaved *u = list_entry(list_pop_front(&n->unsaved), struct network_unsaved, node);
        if (u->call && ret == 0) {
            rpc_answer(u->call, u->result);
        } else {
            if (u->call)
                rpc_fail(u->call, RPC_STATE, NULL,
                         "it is done, but is not so any more when the daemon starts again: %s", e.text);
            json_decref(u->result);
        }
        free(u);
    }
}

static void save_fired(struct loop_timer *t)
{
    network_save_now(container_of(t, struct network, save));
}

void network_save(struct network *n, struct rpc_call *call, json_t *result)
{
    struct network_unsaved *u = calloc(1, sizeof *u);
    assert(u);
    *u = (struct network_unsaved){.call = call, .result = result};
    list_push_back(&n->unsaved, &u->node);
    if (!n->save.loop) loop_timer_arm(n->host->loop, &n->save, 0, save_fired);
}
