/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a disk's worker: watched, replaced, asked to go; and what it wants kept. Starting it is vdisk_start.c's.
 *
 * A worker may be in the hands of its guest. What it can do to the daemon is bounded: descriptors it wants kept are
 * counted, names are checked by the link, layers are never taken from it except after a restart of the
 * daemon, and then only when they are the files that the disk was attached with.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/holder.h"
#include "control/text.h"
#include "control/vdisk_internal.h"
#include "control/xenstore_backends.h"
#include "loop/clock.h"

#define HELD_NAME_MAX 31u /* what a worker takes back, and what its session uses (guest/vhost_user.h) */
#define LEAVE_LIMIT_MS 15000u
#define QUIT_LIMIT_MS 60000u
#define KILLED_LIMIT_MS 10000u /* until that is said */
#define RELINK_DELAY_MS 200u   /* a link that closed usually means that an exit is about to be reported */
#define BACKOFF_SERVED_MS 50u  /* the last worker had served */
#define BACKOFF_CONNECTED_MS 1000u
#define BACKOFF_IDLE_MS 10000u

/* ---- What is held ---- */

bool vdisk_holds(const struct vdisk *d, const char *name)
{
    return held_find(&d->held, name) != NULL;
}

static void drop_held(struct vdisk *d, const char *name)
{
    if (held_drop(&d->held, name)) holder_drop(d->host->holder, d->config.name, name);
}

static void drop_all_held(struct vdisk *d)
{
    held_clear(&d->held);
    holder_clear(d->host->holder, d->config.name);
}

/* What an earlier daemon held and the worker, by now, would have sent again if it had it. */
static void drop_stale(struct vdisk *d)
{
    for (unsigned i = d->held.count; i-- > 0;) {
        if (!d->held.list[i].stale) continue;
        char name[LINK_FD_NAME_MAX + 1];
        memcpy(name, d->held.list[i].name, sizeof name);
        drop_held(d, name);
    }
    if (!vdisk_connected(d) && strcmp(d->front_end, "connected") == 0)
        snprintf(d->front_end, sizeof d->front_end, "listening");
}

/* "layerN" of this disk: N, else -1. */
static int layer_index(const struct vdisk *d, const char *name)
{
    if (strncmp(name, "layer", 5) != 0) return -1;
    for (unsigned i = 0; i < d->config.layer_count; i++) {
        char own[16];
        snprintf(own, sizeof own, "layer%u", i);
        if (strcmp(own, name) == 0) return (int)i;
    }
    return -1;
}

/* Does the descriptor stand for the file that was attached, open the way it must be? What has its name by now does not
 * matter: the guest's disk is on the file. */
static bool is_layer(const struct vdisk *d, unsigned index, int fd)
{
    struct stat a, b;
    int flags = fcntl(fd, F_GETFL), mode = index == 0 && !d->config.read_only ? O_RDWR : O_RDONLY;
    if (flags < 0 || (flags & O_PATH) || (flags & O_ACCMODE) != mode || fstat(fd, &a) < 0) return false;
    if (image_ids_known(&d->images)) return image_ids_same_file(&d->images, index, fd);
    return stat(d->config.layers[index].path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static void take_kept(struct vdisk *d, json_t *params, struct link_msg *msg)
{
    const char *name = json_string_value(json_object_get(params, "name"));
    int fd = msg->fd_count == 1 ? msg->fds[0] : -1;
    if (!name || !*name || strlen(name) > HELD_NAME_MAX || fd < 0) {
        log_limited(LOG_LEVEL_WARN, "disk %s: its worker wants something kept without a name or a descriptor",
                    d->config.name);
        return;
    }
    if (strncmp(name, "layer", 5) == 0) {
        int index = layer_index(d, name);
        if (index < 0 || d->layer_fd[index] >= 0 || !is_layer(d, (unsigned)index, fd)) return;
        d->layer_fd[index] = fd;
    } else if (held_keep(&d->held, name, fd)) {
        holder_put(d->host->holder, d->config.name, name, fd);
    } else {
        log_limited(LOG_LEVEL_ERROR, "disk %s: its worker wants more than %u descriptors kept, or memory is short",
                    d->config.name, HELD_MAX);
        return;
    }
    msg->fds[0] = -1;
    /* An adopted worker sends it again, and has said what became of the front end on it before. */
    if (strcmp(name, "conn") == 0 && strcmp(d->front_end, "broken") != 0)
        snprintf(d->front_end, sizeof d->front_end, "connected");
}

/* ---- Starting and ending ---- */

static void start_fired(struct loop_timer *t)
{
    vdisk_worker_start(container_of(t, struct vdisk, timer));
}

void vdisk_wait_then_start(struct vdisk *d, uint64_t delay_ns)
{
    d->state = VDISK_WAITING;
    loop_timer_arm(d->host->loop, &d->timer, delay_ns, start_fired);
}

/* Killed, but in the kernel still: that waits for storage, or for whoever looks at the process. No other worker may be started
 * before it has ended. */
static void not_ended(struct loop_timer *t)
{
    struct vdisk *d = container_of(t, struct vdisk, timer);
    char why[160];
    snprintf(why, sizeof why,
             "its worker (process %d) was killed and has not ended: its storage may hang; it is waited for",
             (int)d->process.pid);
    log_warn("disk %s: %s", d->config.name, why);
    if (!d->error_code) snprintf(d->error, sizeof d->error, "%s", why);
    vdisk_finish_operation(d, RPC_WORKER, why); /* others need not wait for it */
}

void vdisk_worker_kill(struct vdisk *d)
{
    process_kill(&d->process, SIGKILL);
    loop_timer_arm(d->host->loop, &d->timer, KILLED_LIMIT_MS * NS_PER_MS, not_ended);
}

static void too_slow(struct loop_timer *t)
{
    struct vdisk *d = container_of(t, struct vdisk, timer);
    log_error("disk %s: its worker (process %d) takes too long (%s): it is killed", d->config.name, (int)d->process.pid,
              vdisk_state_name(d->state));
    vdisk_worker_kill(d);
}

void vdisk_limit_ms(struct vdisk *d, unsigned ms)
{
    loop_timer_arm(d->host->loop, &d->timer, ms * NS_PER_MS, too_slow);
}

/* No worker runs and the last one was not asked to end. d may be gone afterwards. */
void vdisk_start_again(struct vdisk *d, bool served, const char *why)
{
    snprintf(d->error, sizeof d->error, "%s", why);
    if (!d->serving_before && d->attaching) {
        vdisk_gone(d, d->error_code, d->error);
        return;
    }
    d->keep_saved = d->flushing = false;
    vdisk_finish_operation(d, RPC_WORKER, d->error);
    unsigned recent = crash_log_add(&d->crashes);
    unsigned most_ms = served ? BACKOFF_SERVED_MS : vdisk_connected(d) ? BACKOFF_CONNECTED_MS : BACKOFF_IDLE_MS;
    if (served && recent >= HOST_CRASHES_KEPT) most_ms = BACKOFF_CONNECTED_MS;
    uint64_t delay_ns = host_backoff_ns(recent, most_ms);
    log_warn("disk %s: %s; started again %s", d->config.name, why, delay_ns ? "shortly" : "at once");
    d->restarts++;
    if (delay_ns) vdisk_wait_then_start(d, delay_ns);
    else vdisk_worker_start(d);
}

static void forget_worker(struct vdisk *d)
{
    loop_timer_cancel(&d->timer);
    cache_request_cancel(&d->cache_request);
    peer_free(d->peer);
    d->peer = NULL;
    d->map_entries = 0;
    d->cached = false;
}

/* It was asked to end, and has. What it could not write is still held, if not in the image. */
static void quit_ended(struct vdisk *d, bool done, const char *how)
{
    if (!done && !d->error_code) {
        d->error_code = RPC_WORKER;
        const char *why = d->front_end_why;
        snprintf(d->error, sizeof d->error, "its worker ended (%.95s%s%s) before all was written", how,
                 *why ? ": " : "", why);
    }
    if (done || d->discard) {
        vdisk_gone(d, d->error_code, d->error);
        return;
    }
    char why[sizeof d->error], answer[sizeof why + 256];
    snprintf(why, sizeof why, "%s", d->error);
    snprintf(answer, sizeof answer,
             "%s; what its guest wrote last is kept, and a worker is started again: remove the cause and try again, or "
             "use force and lose that",
             why);
    vdisk_finish_operation(d, RPC_WORKER, answer);
    vdisk_start_again(d, true, why);
}

void vdisk_worker_exited(struct process *p, int status)
{
    struct vdisk *d = container_of(p, struct vdisk, process);
    if (d->peer) peer_drain(d->peer);
    enum vdisk_state was = d->state;
    forget_worker(d);
    char how[96], why[640];
    process_describe_status(status, how, sizeof how);
    if (was == VDISK_QUITTING || d->flushing) {
        quit_ended(d, d->quit_done || status == 0, how);
    } else if (was == VDISK_LEAVING) {
        vdisk_worker_start(d);
    } else if (was == VDISK_SERVING && d->config.connect_path && status == 0) {
        drop_all_held(d);
        snprintf(d->front_end, sizeof d->front_end, "gone");
        vdisk_wait_then_start(d, VDISK_FRONT_END_RETRY_MS * NS_PER_MS);
    } else {
        if (was == VDISK_STARTING && d->error_code) snprintf(why, sizeof why, "%s", d->error);
        else snprintf(why, sizeof why, "its worker ended: %s", how);
        d->error_code = RPC_WORKER;
        vdisk_start_again(d, was == VDISK_SERVING, why);
    }
}

/* ---- The link ---- */

/* why: NULL: nothing is wrong. */
static void note_front_end(struct vdisk *d, const char *state, const char *why)
{
    bool broken = strcmp(state, "broken") == 0;
    /* Where a Xen guest's disk stands is in xenstore. */
    if (!d->config.xen.used || broken) snprintf(d->front_end, sizeof d->front_end, "%s", state);
    snprintf(d->front_end_why, sizeof d->front_end_why, "%s", why ? why : "");
    text_clean(d->front_end_why);
    if (why) log_limited(LOG_LEVEL_WARN, "disk %s: %s: %s", d->config.name, d->front_end, d->front_end_why);
    if (broken) xen_backends_changed(d->host->xen, d->config.xen.backend);
}

static void worker_notified(void *arg, const char *method, json_t *params, struct link_msg *msg)
{
    struct vdisk *d = arg;
    if (strcmp(method, "keep") == 0) {
        take_kept(d, params, msg);
    } else if (strcmp(method, "drop") == 0) {
        const char *name = json_string_value(json_object_get(params, "name"));
        if (name) drop_held(d, name);
        if (name && strcmp(name, "conn") == 0) snprintf(d->front_end, sizeof d->front_end, "listening");
    } else if (strcmp(method, "state") == 0) {
        const char *state = json_string_value(json_object_get(params, "state"));
        note_front_end(d, state ? state : "?", json_string_value(json_object_get(params, "why")));
    } else {
        log_limited(LOG_LEVEL_WARN, "disk %s: its worker sent an unknown notification \"%.32s\"", d->config.name,
                    method);
    }
}

static void link_fired(struct loop_timer *t)
{
    struct vdisk *d = container_of(t, struct vdisk, timer);
    vdisk_worker_adopt(d);
}

static void link_gone(void *arg, const char *why)
{
    struct vdisk *d = arg;
    peer_free(d->peer);
    d->peer = NULL;
    cache_request_cancel(&d->cache_request);
    if (d->state == VDISK_SERVING || d->state == VDISK_ADOPTING)
        loop_timer_arm(d->host->loop, &d->timer, RELINK_DELAY_MS * NS_PER_MS, link_fired);
    else vdisk_limit_ms(d, d->state == VDISK_STARTING ? RELINK_DELAY_MS : VDISK_EXIT_LIMIT_MS);
}

static const struct peer_ops worker_peer_ops = {.notified = worker_notified, .gone = link_gone};

int vdisk_link_up(struct vdisk *d, struct errmsg *e)
{
    char path[PATH_MAX], name[DISK_NAME_MAX + 24];
    int fd;
    if (!host_disk_path(path, d->host, d->config.name, "link")) return errmsg_set(e, ENAMETOOLONG, "run directory");
    int ret = link_connect(&fd, path, e);
    if (ret < 0) return ret;
    snprintf(name, sizeof name, "the worker of disk %s", d->config.name);
    ret = peer_new(&d->peer, d->host->loop, fd, name, &worker_peer_ops, d);
    return ret < 0 ? errmsg_sys(e, -ret, "%s", name) : 0;
}

/* ---- Serving ---- */

static void note_version(struct vdisk *d, json_t *result)
{
    const char *version = json_string_value(json_object_get(result, "version"));
    snprintf(d->worker_version, sizeof d->worker_version, "%s", version ? version : "");
    d->worker_debug = json_is_true(json_object_get(result, "debug"));
    const char *sandbox = json_string_value(json_object_get(result, "sandbox"));
    snprintf(d->sandbox, sizeof d->sandbox, "%s", sandbox ? sandbox : "");
    if (!sandbox || strcmp(sandbox, "full") == 0 || d->host->sandbox_warned) return;
    d->host->sandbox_warned = true;
    log_warn(
        "disk %s: the sandbox of its worker is %s: this host does not let workers give up all that they do not need "
        "(is the daemon not root, or in a container?); `creedence disk show` says so of each",
        d->config.name, d->sandbox);
}

void vdisk_version_came(void *arg, const struct peer_answer *a)
{
    if (a->ret == 0) note_version(arg, a->result);
}

void vdisk_is_serving(struct vdisk *d)
{
    loop_timer_cancel(&d->timer);
    d->state = VDISK_SERVING;
    d->serving_before = true;
    d->attaching = false;
    d->error_code = 0;
    d->error[0] = 0;
    d->serving_since_ns = clock_now_ns();
    if (d->flushing) {
        vdisk_worker_quit(d);
        return;
    }
    vdisk_finish_operation(d, 0, NULL);
    if (d->state == VDISK_SERVING && !d->cached) vdisk_refresh_cache(d);
    xen_backends_changed(d->host->xen, d->config.xen.backend);
}

/* ---- Going on with a worker that runs ---- */

/* Asked after `adopt`: what the worker holds was sent before this answer. */
static void resent(void *arg, const struct peer_answer *a)
{
    struct vdisk *d = arg;
    if (a->ret < 0) return;
    drop_stale(d);
    if (vdisk_has_images(d)) vdisk_note_images(d);
    if (!d->cached) vdisk_refresh_cache(d);
}

static void adopted(void *arg, const struct peer_answer *a)
{
    struct vdisk *d = arg;
    if (d->state != VDISK_ADOPTING) return;
    if (a->ret == -ETIMEDOUT) {
        /* It may be waiting for storage. Killing it would lose what only it holds. */
        log_warn("disk %s: process %d does not answer yet", d->config.name, (int)d->process.pid);
        vdisk_finish_operation(d, RPC_TIMEOUT, a->message); /* others need not wait for it */
        peer_ask(d->peer, "adopt", NULL, NULL, NULL, 0, VDISK_ADOPT_LIMIT_MS, adopted, d);
        return;
    }
    const char *name = a->ret == 0 ? json_string_value(json_object_get(a->result, "name")) : NULL;
    if (!name || strcmp(name, d->config.name) != 0) {
        log_warn("disk %s: process %d cannot be gone on with: %s", d->config.name, (int)d->process.pid,
                 a->ret < 0 ? a->message : "it says that it serves another disk");
        vdisk_worker_kill(d);
        return;
    }
    note_version(d, a->result);
    const char *broken = json_string_value(json_object_get(a->result, "broken"));
    if (broken) note_front_end(d, "broken", broken);
    log_info("disk %s: process %d goes on", d->config.name, (int)d->process.pid);
    peer_ask(d->peer, "stats", NULL, NULL, NULL, 0, VDISK_ADOPT_LIMIT_MS, resent, d);
    if (!vdisk_adopted_xen(d, a->result)) vdisk_is_serving(d);
}

bool vdisk_worker_adopt(struct vdisk *d)
{
    struct errmsg e = {""};
    char record[PATH_MAX];
    loop_timer_cancel(&d->timer);
    if (!process_running(&d->process) && (!host_disk_path(record, d->host, d->config.name, "run") ||
                                          process_adopt(&d->process, d->host->loop, record, vdisk_worker_exited) < 0))
        return false;
    d->state = VDISK_ADOPTING;
    if (vdisk_link_up(d, &e) < 0) {
        log_warn("disk %s: process %d cannot be reached (%s): it is replaced", d->config.name, (int)d->process.pid,
                 e.text);
        vdisk_worker_kill(d);
        return true;
    }
    peer_ask(d->peer, "adopt", NULL, NULL, NULL, 0, VDISK_ADOPT_LIMIT_MS, adopted, d);
    return true;
}

/* ---- Ending ---- */

static void leave_answered(void *arg, const struct peer_answer *a)
{
    struct vdisk *d = arg;
    if (d->state != VDISK_LEAVING) return;
    if (a->ret == -ETIMEDOUT) {
        /* It still leaves when its storage lets it, and its successor is started then. */
        loop_timer_cancel(&d->timer);
        vdisk_finish_operation(d, RPC_TIMEOUT, a->message);
        return;
    }
    if (a->ret < 0 && a->ret != -EPIPE) log_warn("disk %s: leaving: %s", d->config.name, a->message);
    vdisk_limit_ms(d, VDISK_EXIT_LIMIT_MS);
}

void vdisk_worker_leave(struct vdisk *d)
{
    d->state = VDISK_LEAVING;
    peer_ask(d->peer, "leave", NULL, NULL, NULL, 0, LEAVE_LIMIT_MS, leave_answered, d);
}

static void quit_answered(void *arg, const struct peer_answer *a)
{
    struct vdisk *d = arg;
    if (d->state != VDISK_QUITTING) return;
    d->quit_done = a->ret == 0;
    if (a->ret < 0 && a->ret != -EPIPE && a->ret != -ETIMEDOUT) {
        d->error_code = RPC_WORKER;
        snprintf(d->error, sizeof d->error, "%s", a->message);
    }
    if (a->ret == -ETIMEDOUT) {
        /* Storage may hang; killing it would make it begin again. It goes when it is done. */
        vdisk_finish_operation(d, RPC_TIMEOUT, a->message);
        return;
    }
    vdisk_limit_ms(d, VDISK_EXIT_LIMIT_MS);
}

void vdisk_worker_quit(struct vdisk *d)
{
    d->state = VDISK_QUITTING;
    d->quit_done = false;
    d->error_code = 0;
    d->error[0] = 0;
    peer_ask(d->peer, "quit", NULL, NULL, NULL, 0, QUIT_LIMIT_MS, quit_answered, d);
}

void vdisk_worker_release(struct vdisk *d)
{
    forget_worker(d);
    process_release(&d->process);
    held_clear(&d->held);
    for (unsigned i = 0; i < DISK_CHAIN_MAX; i++)
        if (d->layer_fd[i] >= 0) close(d->layer_fd[i]);
    if (d->listen_fd >= 0) close(d->listen_fd);
    if (d->connect_fd >= 0) close(d->connect_fd);
}
