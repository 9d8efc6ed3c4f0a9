/* SPDX-License-Identifier: Apache-2.0 */
#include "control/vdisk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "control/holder.h"
#include "control/images.h"
#include "control/vdisk_internal.h"
#include "control/xenstore_backends.h"
#include "loop/clock.h"

static const char *const state_names[] = {
    [VDISK_WAITING] = "waiting", [VDISK_STARTING] = "starting", [VDISK_ADOPTING] = "adopting",
    [VDISK_SERVING] = "serving", [VDISK_LEAVING] = "upgrading", [VDISK_QUITTING] = "ending",
    [VDISK_GONE] = "gone",
};
static_assert(ARRAY_LEN(state_names) == VDISK_GONE + 1, "every state has a name");

const char *vdisk_state_name(enum vdisk_state s)
{
    return state_names[s];
}

/* ---- The list ---- */

struct vdisk *vdisk_find(struct host *h, const char *name)
{
    LIST_FOR_EACH (node, &h->disks) {
        struct vdisk *d = list_entry(node, struct vdisk, node);
        if (strcmp(d->config.name, name) == 0) return d;
    }
    return NULL;
}

struct vdisk *vdisk_new(struct host *h, struct disk_config *c)
{
    struct vdisk *d = calloc(1, sizeof *d);
    if (!d) {
        disk_config_free(c);
        return NULL;
    }
    d->host = h;
    d->config = *c;
    memset(c, 0, sizeof *c);
    d->process.pidfd = d->listen_fd = d->connect_fd = -1;
    for (unsigned i = 0; i < DISK_CHAIN_MAX; i++)
        d->layer_fd[i] = -1;
    snprintf(d->front_end, sizeof d->front_end, "listening");
    struct list *at = &h->disks;
    LIST_FOR_EACH (node, &h->disks) {
        if (strcmp(list_entry(node, struct vdisk, node)->config.name, d->config.name) < 0) continue;
        at = node;
        break;
    }
    list_insert_before(at, &d->node);
    h->disk_count++;
    return d;
}

void vdisk_finish_operation(struct vdisk *d, int code, const char *message)
{
    vdisk_done done = d->done;
    d->done = NULL;
    if (done) done(d->done_arg, code, message);
}

void vdisk_free(struct vdisk *d)
{
    d->state = VDISK_GONE;
    vdisk_worker_release(d);
    vdisk_finish_operation(d, RPC_WORKER, "the daemon ends");
    list_remove(&d->node);
    d->host->disk_count--;
    disk_config_free(&d->config);
    free(d);
}

static void remove_files(struct vdisk *d)
{
    holder_clear(d->host->holder, d->config.name);
    static const char *const kinds[] = {"sock", "link", "run"};
    char path[PATH_MAX];
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (host_disk_path(path, d->host, d->config.name, kinds[i])) unlink(path);
    /* A place that an operator chose may hold something else: the socket was not made, or was replaced. */
    struct stat st;
    const char *chosen = d->config.socket_path;
    if (chosen && (d->listen_fd >= 0 || d->serving_before) && lstat(chosen, &st) == 0 && S_ISSOCK(st.st_mode))
        unlink(chosen);
    if (d->host->cgroup_dir &&
        (size_t)snprintf(path, sizeof path, "%s/disk-%s", d->host->cgroup_dir, d->config.name) < sizeof path)
        rmdir(path);
    if (d->keep_saved) return;
    struct errmsg e = {""};
    if (state_remove_disk(d->host->state_dir, d->config.name, &e) < 0)
        log_error("disk %s is detached, but comes back when the daemon starts again: %s", d->config.name, e.text);
}

void vdisk_gone(struct vdisk *d, int code, const char *message)
{
    d->state = VDISK_GONE;
    remove_files(d);
    if (!d->keep_saved) xen_backends_changed(d->host->xen, d->config.xen.backend);
    /* The descriptors go before the answer: who waited for it finds the images unlocked. */
    char text[sizeof d->error];
    snprintf(text, sizeof text, "%s", message ? message : "");
    vdisk_done done = d->done;
    void *arg = d->done_arg;
    d->done = NULL;
    vdisk_free(d);
    if (done) done(arg, code, text);
}

/* ---- Operations ---- */

bool vdisk_connected(const struct vdisk *d)
{
    return vdisk_holds(d, "conn") || d->config.xen.connection;
}

/* False, and answered, when another operation goes on. */
static bool begin_operation(struct vdisk *d, vdisk_done done, void *arg)
{
    if (d->done) {
        done(arg, RPC_BUSY, "another operation on this disk is going on: try again when it is over");
        return false;
    }
    d->done = done;
    d->done_arg = arg;
    return true;
}

int vdisk_open_and_save(struct vdisk *d, struct errmsg *e)
{
    d->error_code = RPC_IMAGE;
    int ret = images_open(&d->config, d->layer_fd, true, e);
    if (ret == 0) ret = image_ids_read(&d->images, &d->config, d->layer_fd, e);
    if (ret < 0) return ret;
    d->error_code = RPC_STATE;
    ret = state_save_disk(d->host->state_dir, &d->config, image_ids_json(&d->images), e);
    if (ret == 0) d->saved = true;
    return ret;
}

void vdisk_attach(struct vdisk *d, vdisk_done done, void *arg)
{
    if (!begin_operation(d, done, arg)) return;
    d->attaching = true;
    holder_clear(d->host->holder, d->config.name); /* a disk of this name that ended with an earlier daemon */
    vdisk_worker_start(d);
}

void vdisk_restore(struct vdisk *d, vdisk_done done, void *arg)
{
    if (!begin_operation(d, done, arg)) return;
    d->serving_before = true;
    holder_get(d->host->holder, d->config.name, &d->held);
    if (vdisk_connected(d)) snprintf(d->front_end, sizeof d->front_end, "connected");
    if (!vdisk_worker_adopt(d)) vdisk_worker_start(d);
}

bool vdisk_can_flush(const struct vdisk *d)
{
    return d->state == VDISK_WAITING && !d->done && d->config.connect_path && !vdisk_holds(d, "conn");
}

/* Its front end has gone, and there will be none to be connected to: the worker gets one that is gone as well. */
static void start_to_flush(struct vdisk *d, vdisk_done done, void *arg)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        done(arg, RPC_INTERNAL, strerror(errno));
        return;
    }
    close(pair[1]);
    if (d->connect_fd >= 0) close(d->connect_fd);
    d->connect_fd = pair[0];
    d->done = done;
    d->done_arg = arg;
    d->flushing = true;
    vdisk_worker_start(d);
}

void vdisk_detach(struct vdisk *d, unsigned flags, vdisk_done done, void *arg)
{
    if (d->state == VDISK_SERVING && d->peer) {
        if (vdisk_connected(d) && !(flags & VDISK_DETACH_CONNECTED)) {
            done(arg, RPC_BUSY,
                 "a guest is connected to it: shut the guest down first, or detach it with force (the guest "
                 "then gets I/O errors or hangs)");
            return;
        }
        if (!begin_operation(d, done, arg)) return;
        d->discard = flags & VDISK_DETACH_DISCARD;
        vdisk_worker_quit(d);
        return;
    }
    bool idle = d->state == VDISK_WAITING;
    if (idle && !d->done && (flags & VDISK_DETACH_DISCARD || d->held.count == 0)) {
        d->done = done;
        d->done_arg = arg;
        loop_timer_cancel(&d->timer);
        vdisk_gone(d, 0, NULL);
        return;
    }
    if (vdisk_can_flush(d)) {
        start_to_flush(d, done, arg);
        return;
    }
    if (flags & VDISK_DETACH_DISCARD && !d->done) { /* in the middle of something that may never end */
        vdisk_destroy(d, done, arg);
        return;
    }
    char text[768];
    if (idle)
        snprintf(text, sizeof text,
                 "it has no worker (%s), and what the guest wrote last may still be in memory only: remove "
                 "the cause, or detach it with force and lose that",
                 d->error);
    else snprintf(text, sizeof text, "it is %s: try again in a moment", vdisk_state_name(d->state));
    done(arg, RPC_BUSY, text);
}

void vdisk_destroy(struct vdisk *d, vdisk_done done, void *arg)
{
    vdisk_finish_operation(d, RPC_BUSY, "the disk is discarded by force");
    loop_timer_cancel(&d->timer);
    d->done = done;
    d->done_arg = arg;
    d->discard = true;
    d->quit_done = false;
    d->error_code = RPC_WORKER;
    snprintf(d->error, sizeof d->error, "it was %s for too long and was killed: what was written last may be lost",
             vdisk_state_name(d->state));
    d->state = VDISK_QUITTING;
    if (process_running(&d->process)) vdisk_worker_kill(d);
    else vdisk_gone(d, d->error_code, d->error);
}

void vdisk_upgrade(struct vdisk *d, vdisk_done done, void *arg)
{
    if (d->state != VDISK_SERVING || !d->peer) {
        char text[640];
        snprintf(text, sizeof text, "it is %s%s%s, not serving", vdisk_state_name(d->state), d->error[0] ? ": " : "",
                 d->error);
        done(arg, RPC_BUSY, text);
        return;
    }
    if (begin_operation(d, done, arg)) vdisk_worker_leave(d);
}

void vdisk_cache_up(struct vdisk *d)
{
    vdisk_refresh_cache(d);
}

struct peer *vdisk_peer(struct vdisk *d)
{
    return d->state == VDISK_SERVING ? d->peer : NULL;
}

/* ---- Reports ---- */

const char *vdisk_socket_path(const struct vdisk *d, char buffer[PATH_MAX])
{
    if (d->config.connect_path || d->config.xen.used) return NULL;
    if (d->config.socket_path) return d->config.socket_path;
    return host_disk_path(buffer, d->host, d->config.name, "sock") ? buffer : NULL;
}

static json_t *xen_summary(const struct vdisk *d)
{
    const char *backend = d->config.xen.backend, *vdev = backend ? strrchr(backend, '/') : NULL;
    return json_pack("{s:i, s:s, s:s}", "domid", (int)d->config.xen.domid, "vdev", vdev ? vdev + 1 : "", "backend",
                     backend ? backend : "");
}

json_t *vdisk_summary_json(const struct vdisk *d)
{
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i}", "name", d->config.name, "state",
                          vdisk_state_name(d->state), "front_end", d->front_end, "leaf", d->config.layers[0].path,
                          "format", disk_format_name(d->config.layers[0].format), "layers", (int)d->config.layer_count,
                          "queues", (int)d->config.queues, "restarts", (int)d->restarts);
    if (!o) return NULL;
    char buffer[PATH_MAX];
    const char *path = vdisk_socket_path(d, buffer);
    if (path) json_object_set_new(o, "socket", json_string(path));
    if (d->config.xen.used) json_object_set_new(o, "xen", xen_summary(d));
    if (process_running(&d->process)) json_object_set_new(o, "pid", json_integer(d->process.pid));
    if (d->worker_version[0]) {
        json_object_set_new(o, "worker_version", json_string(d->worker_version));
        json_object_set_new(o, "worker_debug", json_string(d->worker_debug ? "y" : "n"));
    }
    if (d->error[0]) json_object_set_new(o, "error", json_string(d->error));
    return o;
}

json_t *vdisk_json(const struct vdisk *d)
{
    json_t *o = vdisk_summary_json(d);
    if (!o) return NULL;
    json_object_set_new(o, "config", disk_config_json(&d->config, false));
    bool cached = d->cached && cache_keeper_peer(d->host->cache);
    json_object_set_new(o, "cached", json_boolean(cached));
    if (!cached && d->cache_error[0]) json_object_set_new(o, "cache_error", json_string(d->cache_error));
    if (d->sandbox[0]) json_object_set_new(o, "sandbox", json_string(d->sandbox));
    if (d->front_end_why[0]) json_object_set_new(o, "front_end_why", json_string(d->front_end_why));
    json_t *held = json_array();
    for (unsigned i = 0; i < d->held.count; i++)
        json_array_append_new(held, json_string(d->held.list[i].name));
    json_object_set_new(o, "held", held);
    if (d->state == VDISK_SERVING)
        json_object_set_new(o, "serving_seconds",
                            json_integer((json_int_t)((clock_now_ns() - d->serving_since_ns) / NS_PER_SECOND)));
    return o;
}
