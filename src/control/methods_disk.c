/* SPDX-License-Identifier: Apache-2.0 */
/* Methods on disks. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "control/methods.h"
#include "control/xenstore_backends.h"

#define STATS_LIMIT_MS 2000u
#define RESIZE_LIMIT_MS 60000u

/* An answer that waits for a disk, which may be gone by then. */
struct disk_call {
    struct daemon *daemon;
    struct rpc_call *call;
    char name[DISK_NAME_MAX + 1];
    uint64_t size_bytes;                 /* resize */
    char backend[DISK_XEN_TEXT_MAX + 1]; /* detach: of a Xen guest's disk */
};

static struct disk_call *disk_call_new(struct daemon *d, struct rpc_call *call, const char *name)
{
    struct disk_call *dc = calloc(1, sizeof *dc);
    if (!dc) {
        rpc_fail(call, RPC_INTERNAL, NULL, "out of memory");
        return NULL;
    }
    dc->daemon = d;
    dc->call = call;
    snprintf(dc->name, sizeof dc->name, "%s", name);
    return dc;
}

/* ---- attach, detach ---- */

static void attached(void *arg, int code, const char *message)
{
    struct disk_call *dc = arg;
    struct vdisk *disk = vdisk_find(&dc->daemon->host, dc->name);
    if (code) rpc_fail(dc->call, code, NULL, "disk %s: %s", dc->name, message);
    else rpc_answer(dc->call, disk ? vdisk_json(disk) : json_object());
    free(dc);
}

/* The disk whose front ends connect at this place, if any: a second one would take it away. */
static const struct vdisk *find_socket(struct host *h, const char *path)
{
    LIST_FOR_EACH (node, &h->disks) {
        const struct vdisk *disk = list_entry(node, struct vdisk, node);
        char buffer[PATH_MAX];
        const char *other = vdisk_socket_path(disk, buffer);
        if (path && other && strcmp(path, other) == 0) return disk;
    }
    return NULL;
}

static void attach(struct daemon *d, struct rpc_call *call, struct disk_config *c)
{
    struct disk_call *dc = disk_call_new(d, call, c->name);
    struct vdisk *disk = dc ? vdisk_new(&d->host, c) : NULL;
    if (!dc) {
        disk_config_free(c);
        return;
    }
    if (disk) vdisk_attach(disk, attached, dc);
    else attached(dc, RPC_INTERNAL, "out of memory");
}

void method_disk_attach(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    struct disk_config c;
    const struct vdisk *other;
    struct field_error why = {0};
    int ret = disk_config_parse(&c, params, "params", &why);
    if (ret == -EINVAL) {
        rpc_fail_field(call, &why);
    } else if (ret < 0) {
        rpc_fail(call, RPC_INTERNAL, NULL, "out of memory");
    } else if (d->shutting_down) {
        disk_config_free(&c);
        rpc_fail(call, RPC_BUSY, NULL, "the daemon is shutting down");
    } else if (c.xen.used) {
        disk_config_free(&c);
        rpc_fail(call, RPC_INVALID_PARAMS, json_pack("{s:s}", "field", "params.xen"),
                 "params.xen: disks of Xen guests are attached by the toolstack (xl block-attach)");
    } else if (vdisk_find(&d->host, c.name)) {
        rpc_fail(call, RPC_EXISTS, NULL, "there is a disk \"%s\" already: detach it first, or take another name",
                 c.name);
        disk_config_free(&c);
    } else if ((other = find_socket(&d->host, c.socket_path))) {
        rpc_fail(call, RPC_EXISTS, NULL, "disk %s is served at %s already", other->config.name, c.socket_path);
        disk_config_free(&c);
    } else if (state_has_disk(d->host.state_dir, c.name)) {
        rpc_fail(call, RPC_EXISTS, NULL,
                 "%s/disks/%s.json is there, but was not understood when the daemon started (its log says why): "
                 "move it away, or take another name",
                 d->host.state_dir, c.name);
        disk_config_free(&c);
    } else {
        attach(d, call, &c);
    }
}

static void detached(void *arg, int code, const char *message)
{
    struct disk_call *dc = arg;
    if (!vdisk_find(&dc->daemon->host, dc->name)) xen_backends_put_down(dc->daemon->host.xen, dc->backend);
    if (code) rpc_fail(dc->call, code, NULL, "disk %s: %s", dc->name, message);
    else rpc_answer(dc->call, json_object());
    free(dc);
}

void method_disk_detach(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    bool force = fields_bool(&f, "force", false);
    struct vdisk *disk = method_find_disk(d, call, &f);
    struct disk_call *dc = disk ? disk_call_new(d, call, disk->config.name) : NULL;
    if (dc && disk->config.xen.backend) snprintf(dc->backend, sizeof dc->backend, "%s", disk->config.xen.backend);
    if (dc) vdisk_detach(disk, force ? VDISK_DETACH_CONNECTED | VDISK_DETACH_DISCARD : 0, detached, dc);
}

/* ---- list, show ---- */

void method_disk_list(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    if (!method_no_params(call, params)) return;
    json_t *list = json_array();
    LIST_FOR_EACH (node, &d->host.disks)
        json_array_append_new(list, vdisk_summary_json(list_entry(node, struct vdisk, node)));
    rpc_answer(call, json_pack("{s:o}", "disks", list));
}

void method_disk_show(void *arg, struct rpc_call *call, json_t *params)
{
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    struct vdisk *disk = method_find_disk(arg, call, &f);
    if (disk) rpc_answer(call, vdisk_json(disk));
}

/* ---- resize ---- */

static void resized(void *arg, const struct peer_answer *a)
{
    struct disk_call *dc = arg;
    struct vdisk *disk = a->ret == 0 ? vdisk_find(&dc->daemon->host, dc->name) : NULL;
    if (disk) vdisk_note_size(disk, dc->size_bytes);
    if (a->ret < 0)
        rpc_fail(dc->call, a->ret == -ETIMEDOUT ? RPC_TIMEOUT : RPC_WORKER, json_pack("{s:i}", "errno", -a->ret),
                 "disk %s: %s", dc->name, a->message);
    else rpc_answer(dc->call, json_object());
    free(dc);
}

void method_disk_resize(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    uint64_t size_bytes = fields_uint_required(&f, "size_bytes", 512, INT64_MAX);
    struct vdisk *disk = method_find_disk(d, call, &f);
    if (!disk) return;
    struct peer *peer = vdisk_peer(disk);
    if (!peer) {
        rpc_fail(call, RPC_BUSY, NULL, "disk %s is %s, not serving: try again when it is", disk->config.name,
                 vdisk_state_name(disk->state));
    } else if (size_bytes % disk->config.sector_bytes) {
        fields_refuse(&f, "size_bytes", "a multiple of the disk's sector size, %u", disk->config.sector_bytes);
        rpc_fail_field(call, &why);
    } else {
        struct disk_call *dc = disk_call_new(d, call, disk->config.name);
        if (dc) dc->size_bytes = size_bytes;
        if (dc)
            peer_ask(peer, "resize", json_pack("{s:I}", "size_bytes", (json_int_t)size_bytes), NULL, NULL, 0,
                     RESIZE_LIMIT_MS, resized, dc);
    }
}

/* ---- stats ---- */

struct gather {
    struct rpc_call *call;
    unsigned waiting;
    json_t *list;
};

struct gather_one {
    struct gather *gather;
    json_t *entry; /* in the list */
};

static void gather_one_less(struct gather *g)
{
    if (--g->waiting) return;
    rpc_answer(g->call, json_pack("{s:o}", "disks", g->list));
    free(g);
}

static void stats_came(void *arg, const struct peer_answer *a)
{
    struct gather_one *one = arg;
    if (a->ret == 0 && json_is_object(a->result)) json_object_set(one->entry, "stats", a->result);
    else
        json_object_set_new(one->entry, "error",
                            json_string(a->ret ? a->message : "the worker's answer is not an object"));
    gather_one_less(one->gather);
    free(one);
}

static void gather_stats(struct gather *g, struct vdisk *disk)
{
    json_t *entry = json_pack("{s:s, s:s, s:s, s:i}", "name", disk->config.name, "state", vdisk_state_name(disk->state),
                              "front_end", disk->front_end, "restarts", (int)disk->restarts);
    json_array_append_new(g->list, entry);
    struct peer *peer = vdisk_peer(disk);
    struct gather_one *one = peer ? calloc(1, sizeof *one) : NULL;
    if (!one) {
        json_object_set_new(entry, "error", json_string(disk->error[0] ? disk->error : "no worker to ask"));
        return;
    }
    *one = (struct gather_one){.gather = g, .entry = entry};
    g->waiting++;
    peer_ask(peer, "stats", NULL, NULL, NULL, 0, STATS_LIMIT_MS, stats_came, one);
}

void method_disk_stats(void *arg, struct rpc_call *call, json_t *params)
{
    struct daemon *d = arg;
    struct field_error why = {0};
    struct fields f = fields_begin(params, "params", &why);
    struct vdisk *only = NULL;
    if (json_object_get(params, "name")) {
        only = method_find_disk(d, call, &f);
        if (!only) return;
    } else if (!method_no_params(call, params)) {
        return;
    }
    struct gather *g = calloc(1, sizeof *g);
    if (!g) {
        rpc_fail(call, RPC_INTERNAL, NULL, "out of memory");
        return;
    }
    *g = (struct gather){.call = call, .waiting = 1, .list = json_array()};
    LIST_FOR_EACH (node, &d->host.disks) {
        struct vdisk *disk = list_entry(node, struct vdisk, node);
        if (!only || only == disk) gather_stats(g, disk);
    }
    gather_one_less(g);
}
