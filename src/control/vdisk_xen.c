/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Xen guest's disk: what its worker offers, and the front end's rings. The rings are kept (and saved) as they were read: the next
 * worker is told the same.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "control/text.h"
#include "control/vdisk_internal.h"
#include "control/xenstore_backends.h"
#include "control/xenstore_disk.h"

#define CONNECT_LIMIT_MS 30000u
#define DISCONNECT_LIMIT_MS 60000u
#define MAP_ENTRIES_MOST 8192u
#define MAP_ENTRIES_PART 32u /* of what is left: there is some for each further disk */

struct connect_call {
    struct vdisk *disk;
    json_t *connection; /* NULL: disconnect */
    vdisk_done done;
    void *arg;
};

static void save(struct vdisk *d)
{
    struct errmsg e = {""};
    if (state_save_disk(d->host->state_dir, &d->config, image_ids_json(&d->images), &e) < 0)
        log_error("disk %s: how its guest uses it cannot be saved: %s", d->config.name, e.text);
}

static void set_connection(struct vdisk *d, json_t *connection, const char *front_end)
{
    json_decref(d->config.xen.connection);
    d->config.xen.connection = connection;
    snprintf(d->front_end, sizeof d->front_end, "%s", front_end);
    d->front_end_why[0] = 0;
    save(d);
}

static json_t *connect_params(json_t *connection, bool resume)
{
    json_t *params = json_deep_copy(connection);
    json_object_set_new(params, "resume", json_boolean(resume));
    return params;
}

static void call_end(struct connect_call *c, int code, const char *why)
{
    vdisk_done done = c->done;
    void *arg = c->arg;
    json_decref(c->connection);
    free(c);
    done(arg, code, why);
}

static void answered(void *arg, const struct peer_answer *a)
{
    struct connect_call *c = arg;
    struct vdisk *d = c->disk;
    int code = a->ret == 0                              ? 0
               : a->ret == -EPIPE                       ? RPC_BUSY
               : a->ret == -ETIMEDOUT && !c->connection ? RPC_TIMEOUT
                                                        : RPC_WORKER;
    if (a->ret == -EISCONN && c->connection) {
        /* A daemon that is not there any more had it connected, and did not get to save that. */
        vdisk_done done = c->done;
        void *done_arg = c->arg;
        json_decref(c->connection);
        free(c);
        vdisk_disconnect(d, done, done_arg);
        return;
    }
    if (a->ret == 0) set_connection(d, json_incref(c->connection), c->connection ? "connected" : "listening");
    if (a->ret == -ETIMEDOUT) vdisk_worker_kill(d); /* whether it uses the rings is not known */
    call_end(c, code, a->message);
}

static void ask(struct vdisk *d, const char *method, json_t *params, json_t *connection, unsigned limit_ms,
                vdisk_done done, void *arg)
{
    struct connect_call *c = calloc(1, sizeof *c);
    assert(c);
    *c = (struct connect_call){.disk = d, .connection = connection, .done = done, .arg = arg};
    peer_ask(d->peer, method, params, NULL, NULL, 0, limit_ms, answered, c);
}

void vdisk_connect(struct vdisk *d, json_t *connection, bool resume, vdisk_done done, void *arg)
{
    if (d->state == VDISK_SERVING && d->peer) {
        ask(d, "connect", connect_params(connection, resume), connection, CONNECT_LIMIT_MS, done, arg);
        return;
    }
    json_decref(connection);
    done(arg, RPC_BUSY, "its worker is being started");
}

void vdisk_disconnect(struct vdisk *d, vdisk_done done, void *arg)
{
    if (d->state == VDISK_SERVING && d->peer) {
        ask(d, "disconnect", NULL, NULL, DISCONNECT_LIMIT_MS, done, arg);
    } else if (d->state == VDISK_WAITING && !process_running(&d->process)) {
        set_connection(d, NULL, "listening"); /* the next worker is not told of any */
        done(arg, 0, NULL);
    } else {
        done(arg, RPC_BUSY, "its worker is being started");
    }
}

/* ---- A new worker ---- */

/* A quarter of the table is the switch's, and of backends that are not ours. Without entries pages are copied. */
void vdisk_share_map_entries(struct vdisk *d, json_t *xen)
{
    unsigned all = xen_backends_map_entries(d->host->xen), left = all - all / 4;
    if (!all) return;
    LIST_FOR_EACH (node, &d->host->disks) {
        const struct vdisk *other = list_entry(node, struct vdisk, node);
        if (other != d) left -= other->map_entries < left ? other->map_entries : left;
    }
    d->map_entries = left / MAP_ENTRIES_PART < MAP_ENTRIES_MOST ? left / MAP_ENTRIES_PART : MAP_ENTRIES_MOST;
    json_object_set_new(xen, "map_entries", json_integer(d->map_entries));
}

void vdisk_note_offered(struct vdisk *d, json_t *result)
{
    struct disk_xen_config *x = &d->config.xen;
    json_t *keys = xen_disk_keys(json_object_get(result, "backend"));
    const char *sectors = json_string_value(json_object_get(keys, "sectors"));
    if (!x->offered) {
        x->offered = json_incref(keys);
        save(d);
    } else if (sectors) { /* it may have been resized; all else the guest has seen, and it stays */
        json_object_set_new(x->offered, "sectors", json_string(sectors));
    }
    json_decref(keys);
}

static void resumed(void *arg, const struct peer_answer *a)
{
    struct vdisk *d = arg;
    if (a->ret == -EPIPE) return; /* its end is reported soon, or there is another link */
    if (d->state != VDISK_STARTING && d->state != VDISK_ADOPTING) return;
    if (a->ret == -ETIMEDOUT) {
        vdisk_worker_kill(d);
        return;
    }
    if (a->ret < 0) {
        log_warn("disk %s: its guest's rings cannot be gone on with: %s", d->config.name, a->message);
        set_connection(d, NULL, "broken");
        snprintf(d->front_end_why, sizeof d->front_end_why, "%s", a->message);
        text_clean(d->front_end_why);
    } else { /* the last worker may have found them broken: this one says so itself */
        snprintf(d->front_end, sizeof d->front_end, "connected");
        d->front_end_why[0] = 0;
    }
    vdisk_is_serving(d);
}

/* A guest's rings are another's, or nobody's, once its number is. */
static void vouch(struct vdisk *d)
{
    const struct disk_xen_config *x = &d->config.xen;
    if (!x->connection || xen_backends_vouch(d->host->xen, x->backend, x->identity) != XEN_VOUCH_NO) return;
    log_info("disk %s: its guest is not there any more, or is another", d->config.name);
    set_connection(d, NULL, "listening");
}

bool vdisk_resume(struct vdisk *d)
{
    vouch(d);
    if (!d->config.xen.connection) return false;
    vdisk_limit_ms(d, CONNECT_LIMIT_MS + VDISK_EXIT_LIMIT_MS);
    peer_ask(d->peer, "connect", connect_params(d->config.xen.connection, true), NULL, NULL, 0, CONNECT_LIMIT_MS,
             resumed, d);
    return true;
}

bool vdisk_adopted_xen(struct vdisk *d, json_t *answer)
{
    if (!d->config.xen.used) return false;
    json_t *given = json_object_get(json_object_get(json_object_get(answer, "config"), "xen"), "map_entries");
    json_int_t entries = json_integer_value(given);
    bool said = json_is_integer(given) && entries >= 0 && entries < (json_int_t)MAP_ENTRIES_MOST;
    d->map_entries = said ? (unsigned)entries : MAP_ENTRIES_MOST;
    if (json_is_object(json_object_get(answer, "backend"))) vdisk_note_offered(d, answer);
    return json_is_false(json_object_get(answer, "connected")) && vdisk_resume(d);
}

void vdisk_note_size(struct vdisk *d, uint64_t size_bytes)
{
    char text[32];
    if (!d->config.xen.offered) return;
    snprintf(text, sizeof text, "%llu", (unsigned long long)(size_bytes / 512));
    json_object_set_new(d->config.xen.offered, "sectors", json_string(text));
    save(d);
    xen_backends_resized(d->host->xen, d);
}
