/* SPDX-License-Identifier: Apache-2.0 */
/* Methods on the read cache: its settings are the daemon's, its figures the service's. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "control/methods.h"

#define CACHE_LIMIT_MS 5000u

static void fail(struct rpc_call *call, const struct peer_answer *a)
{
    rpc_fail(call, a->ret == -ETIMEDOUT ? RPC_TIMEOUT : RPC_CACHE, json_pack("{s:i}", "errno", -a->ret), "%s",
             a->message);
}

static struct peer *ask_whom(struct daemon *d, struct rpc_call *call)
{
    struct peer *peer = cache_keeper_peer(d->host.cache);
    if (!peer)
        rpc_fail(call, RPC_CACHE, NULL, "the cache service is not running%s",
                 d->host.cache_settings.enabled ? ": `creedence cache show` says why"
                                                : ": switch it on with `creedence cache set --on`");
    return peer;
}

/* ---- show ---- */

struct show {
    struct daemon *daemon;
    struct rpc_call *call;
};

static json_t *settings_json(struct daemon *d)
{
    json_t *o = cache_keeper_json(d->host.cache);
    json_object_set_new(o, "budget", cache_budget_json(d->host.cache_settings.budget_bytes));
    json_object_set_new(o, "huge_pages", json_boolean(d->host.cache_settings.huge_pages));
    return o;
}

static void stats_came(void *arg, const struct peer_answer *a)
{
    struct show *s = arg;
    json_t *o = settings_json(s->daemon);
    if (a->ret == 0 && json_is_object(a->result)) json_object_set(o, "stats", a->result);
    else json_object_set_new(o, "error", json_string(a->ret ? a->message : "the service's answer is not an object"));
    rpc_answer(s->call, o);
    free(s);
}

void method_cache_show(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    if (!method_no_params(call, params)) return;
    struct peer *peer = cache_keeper_peer(d->host.cache);
    struct show *s = peer ? calloc(1, sizeof *s) : NULL;
    if (!s) {
        rpc_answer(call, settings_json(d));
        return;
    }
    *s = (struct show){.daemon = d, .call = call};
    peer_ask(peer, "stats", NULL, NULL, NULL, 0, CACHE_LIMIT_MS, stats_came, s);
}

/* ---- set, drop ---- */

static void plain_answer(void *arg, const struct peer_answer *a)
{
    if (a->ret < 0) fail(arg, a);
    else rpc_answer(arg, json_object());
}

void method_cache_set(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    struct host *h = &d->host;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    struct cache_settings wanted = {.enabled = fields_bool(&f, "enabled", h->cache_settings.enabled),
                                    .huge_pages = fields_bool(&f, "huge_pages", h->cache_settings.huge_pages),
                                    .budget_bytes = cache_budget_parse(&f, h->cache_settings.budget_bytes)};
    if (fields_end(&f) < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    struct errmsg e = {""};
    if (state_save_cache(h->state_dir, &wanted, &e) < 0) {
        rpc_fail(call, RPC_STATE, NULL, "%s", e.text);
        return;
    }
    bool restart = wanted.huge_pages != h->cache_settings.huge_pages;
    h->cache_settings = wanted;
    cache_keeper_apply(h->cache);
    if (restart) cache_keeper_restart(h->cache);
    struct peer *peer = cache_keeper_peer(h->cache);
    if (!peer) { /* it gets the budget when it starts */
        rpc_answer(call, json_object());
        return;
    }
    peer_ask(peer, "set", json_pack("{s:o}", "budget", cache_budget_json(wanted.budget_bytes)), NULL, NULL, 0,
             CACHE_LIMIT_MS, plain_answer, call);
}

void method_cache_drop(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    const char *path = fields_string(&f, "path", "", PATH_MAX - 1);
    if (*path && *path != '/') fields_refuse(&f, "path", "an absolute path");
    if (fields_end(&f) < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    struct peer *peer = ask_whom(d, call);
    if (!peer) return;
    peer_ask(peer, "drop", *path ? json_pack("{s:s}", "path", path) : NULL, NULL, NULL, 0, CACHE_LIMIT_MS, plain_answer,
             call);
}
