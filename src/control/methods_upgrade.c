/* SPDX-License-Identifier: Apache-2.0 */
/*
 * upgrade: workers are replaced by the program that is installed now, one after another, under their guests.
 * First the program is run once with --version: one that does not even load must not get a guest's disk. One that loads
 * but cannot serve gets one disk: what is left is then not touched. A disk that has no worker just now does not count:
 * it gets the new program when it gets its next one. The switch comes last, with a trial of its own.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "control/methods.h"
#include "control/network.h"
#include "loop/clock.h"

#define TRIAL_LIMIT_MS 5000u

struct upgrade {
    struct daemon *daemon;
    struct rpc_call *call;
    struct process trial;
    struct loop_timer limit;
    unsigned count, next;
    bool failed;
    bool with_switch, trying_switch;
    json_t *results, *switch_result; /* the latter NULL: there is no switch, or it is not asked for */
    uint64_t began_ns;
    char from[32];
    char names[][DISK_NAME_MAX + 1];
};

static void upgrade_next(struct upgrade *u);

static void upgrade_end(struct upgrade *u)
{
    json_t *o = json_pack("{s:o}", "disks", u->results);
    if (u->switch_result) json_object_set_new(o, "switch", u->switch_result);
    rpc_answer(u->call, o);
    free(u);
}

/* ---- The switch ---- */

static void switch_done(void *arg, int code, const char *message)
{
    struct upgrade *u = arg;
    json_t *o =
        json_pack("{s:s, s:i}", "from", u->from, "milliseconds", (int)((clock_now_ns() - u->began_ns) / NS_PER_MS));
    json_t *now = switch_keeper_json(u->daemon->host.network->keeper);
    if (code) json_object_set_new(o, "error", json_string(message));
    else json_object_set(o, "pid", json_object_get(now, "pid"));
    json_decref(now);
    u->switch_result = o;
    upgrade_end(u);
}

static int start_trial(struct upgrade *u, const char *program, struct errmsg *e);

static void upgrade_switch(struct upgrade *u)
{
    struct network *n = u->daemon->host.network;
    struct errmsg e = {""};
    if (!u->with_switch || !n->count[NETWORK_BRIDGE]) {
        upgrade_end(u);
        return;
    }
    snprintf(u->from, sizeof u->from, "%s", switch_keeper_version(n->keeper));
    u->began_ns = clock_now_ns();
    if (u->failed) {
        u->switch_result = json_pack("{s:s, s:b}", "from", u->from, "skipped", true);
        upgrade_end(u);
        return;
    }
    u->trying_switch = true;
    if (start_trial(u, "creedence-switch", &e) < 0) switch_done(u, RPC_SWITCH, e.text);
}

static void switch_tried(struct upgrade *u, int status)
{
    char how[96], message[256];
    if (status == 0) {
        u->began_ns = clock_now_ns();
        network_upgrade(u->daemon->host.network, switch_done, u);
        return;
    }
    process_describe_status(status, how, sizeof how);
    snprintf(message, sizeof message, "creedence-switch --version: %s; the switch is not touched", how);
    switch_done(u, RPC_SWITCH, message);
}

/* ---- Disks ---- */

static void one_done(void *arg, int code, const char *message)
{
    struct upgrade *u = arg;
    const char *name = u->names[u->next++];
    struct vdisk *d = vdisk_find(&u->daemon->host, name);
    json_t *o = json_pack("{s:s, s:s, s:i}", "name", name, "from", u->from, "milliseconds",
                          (int)((clock_now_ns() - u->began_ns) / NS_PER_MS));
    if (code) json_object_set_new(o, "error", json_string(message));
    if (code && code != RPC_BUSY) u->failed = true;
    if (!code && d && process_running(&d->process)) json_object_set_new(o, "pid", json_integer(d->process.pid));
    json_array_append_new(u->results, o);
    upgrade_next(u);
}

static void upgrade_next(struct upgrade *u)
{
    for (; u->next < u->count; u->next++) {
        struct vdisk *d = vdisk_find(&u->daemon->host, u->names[u->next]);
        if (!d) continue; /* detached meanwhile */
        if (u->failed) {
            json_array_append_new(u->results, json_pack("{s:s, s:s, s:b}", "name", d->config.name, "from",
                                                        d->worker_version, "skipped", true));
            continue;
        }
        snprintf(u->from, sizeof u->from, "%s", d->worker_version);
        u->began_ns = clock_now_ns();
        vdisk_upgrade(d, one_done, u);
        return;
    }
    upgrade_switch(u);
}

/* ---- Trials ---- */

static void trial_too_slow(struct loop_timer *t)
{
    process_kill(&container_of(t, struct upgrade, limit)->trial, SIGKILL);
}

static void trial_exited(struct process *p, int status)
{
    struct upgrade *u = container_of(p, struct upgrade, trial);
    loop_timer_cancel(&u->limit);
    if (u->trying_switch) {
        switch_tried(u, status);
        return;
    }
    if (status == 0) {
        upgrade_next(u);
        return;
    }
    char how[96];
    process_describe_status(status, how, sizeof how);
    rpc_fail(u->call, RPC_WORKER, NULL, "%s/creedence-vbd --version: %s; all disks keep the workers they have",
             u->daemon->host.bin_dir, how);
    json_decref(u->results);
    free(u);
}

static int start_trial(struct upgrade *u, const char *program, struct errmsg *e)
{
    struct host *h = &u->daemon->host;
    const char *argv[] = {program, "--version", NULL};
    struct process_args a = {.argv = argv, .quiet = true};
    int ret = host_spawn(h, &u->trial, &a, "trial", trial_exited, e);
    if (ret == 0) loop_timer_arm(h->loop, &u->limit, TRIAL_LIMIT_MS * NS_PER_MS, trial_too_slow);
    return ret;
}

static struct upgrade *upgrade_new(struct daemon *d, struct rpc_call *call, struct vdisk *only)
{
    struct upgrade *u = calloc(1, sizeof *u + d->host.disk_count * sizeof u->names[0]);
    if (!u) return NULL;
    u->daemon = d;
    u->call = call;
    u->results = json_array();
    LIST_FOR_EACH (node, &d->host.disks) {
        struct vdisk *disk = list_entry(node, struct vdisk, node);
        if (!only || disk == only) memcpy(u->names[u->count++], disk->config.name, sizeof disk->config.name);
    }
    return u;
}

void method_upgrade(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    struct vdisk *only = NULL;
    bool named = json_object_get(params, "name") != NULL, only_switch = !named && fields_bool(&f, "switch", false);
    if (named) {
        only = method_find_disk(d, call, &f);
        if (!only) return;
    } else if (fields_end(&f) < 0) {
        rpc_fail_field(call, &why);
        return;
    }
    struct upgrade *u = upgrade_new(d, call, only);
    if (!u) {
        rpc_fail(call, RPC_INTERNAL, NULL, "out of memory");
        return;
    }
    u->with_switch = !only;
    if (only_switch) {
        u->count = 0;
        upgrade_switch(u);
        return;
    }
    struct errmsg e = {""};
    if (start_trial(u, "creedence-vbd", &e) < 0) {
        rpc_fail(call, RPC_WORKER, NULL, "%s; all disks keep the workers they have", e.text);
        json_decref(u->results);
        free(u);
    }
}
