/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a disk's worker: started, configured with all that is held, watched, replaced.
 *
 * A worker may be in the hands of its guest. What it can do to the daemon is bounded: descriptors it wants kept are
 * counted, names are checked by the link, layers are never taken from it except after a restart of the
 * daemon, and then only when they are the configured files.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/holder.h"
#include "control/images.h"
#include "control/unix_socket.h"
#include "control/vdisk_internal.h"
#include "loop/clock.h"

#define CONFIGURE_LIMIT_MS 30000u
#define HELD_NAME_MAX 31u /* what a worker takes back, and what its session uses (guest/vhost_user.h) */
#define ADOPT_LIMIT_MS 5000u
#define LEAVE_LIMIT_MS 15000u
#define QUIT_LIMIT_MS 60000u
#define EXIT_LIMIT_MS 5000u  /* from its last answer to its end */
#define RELINK_DELAY_MS 200u /* a link that closed usually means that an exit is about to be reported */
#define FRONT_END_RETRY_MS 200u
#define BACKOFF_SERVED_MS 50u /* the last worker had served */
#define BACKOFF_CONNECTED_MS 1000u
#define BACKOFF_IDLE_MS 10000u

static void configure(struct vdisk *d, const int *cache_fds, unsigned cache_count);

static bool wants_cache(const struct vdisk *d)
{
    return d->config.cache && d->config.layer_count > 1 && d->host->cache_settings.enabled;
}

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
    if (!vdisk_holds(d, "conn") && strcmp(d->front_end, "connected") == 0) snprintf(d->front_end, sizeof d->front_end, "listening");
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

/* Does the descriptor stand for the file that was configured, open the way it must be? */
static bool is_layer(const struct vdisk *d, unsigned index, int fd)
{
    struct stat a, b;
    int flags = fcntl(fd, F_GETFL), mode = index == 0 && !d->config.read_only ? O_RDWR : O_RDONLY;
    if (flags < 0 || (flags & O_PATH) || (flags & O_ACCMODE) != mode || fstat(fd, &a) < 0) return false;
    return stat(d->config.layers[index].path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static void take_kept(struct vdisk *d, json_t *params, struct link_msg *msg)
{
    const char *name = json_string_value(json_object_get(params, "name"));
    int fd = msg->fd_count == 1 ? msg->fds[0] : -1;
    if (!name || !*name || strlen(name) > HELD_NAME_MAX || fd < 0) {
        log_limited(LOG_LEVEL_WARN, "disk %s: its worker wants something kept without a name or a descriptor", d->config.name);
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
    if (strcmp(name, "conn") == 0) snprintf(d->front_end, sizeof d->front_end, "connected");
}

/* ---- Starting and ending ---- */

static void start_fired(struct loop_timer *t)
{
    vdisk_worker_start(container_of(t, struct vdisk, timer));
}

static void wait_then_start(struct vdisk *d, uint64_t delay_ns)
{
    d->state = VDISK_WAITING;
    loop_timer_arm(d->host->loop, &d->timer, delay_ns, start_fired);
}

static void too_slow(struct loop_timer *t)
{
    struct vdisk *d = container_of(t, struct vdisk, timer);
    log_error("disk %s: its worker (process %d) takes too long (%s): it is killed", d->config.name, (int)d->process.pid,
              vdisk_state_name(d->state));
    process_kill(&d->process, SIGKILL);
}

static void limit_ms(struct vdisk *d, unsigned ms)
{
    loop_timer_arm(d->host->loop, &d->timer, ms * NS_PER_MS, too_slow);
}

/* No worker runs and the last one was not asked to end. d may be gone afterwards. */
static void start_again(struct vdisk *d, bool served, const char *why)
{
    snprintf(d->error, sizeof d->error, "%s", why);
    if (!d->serving_before && d->attaching) {
        vdisk_gone(d, d->error_code, d->error);
        return;
    }
    vdisk_finish_operation(d, RPC_WORKER, d->error);
    unsigned recent = crash_log_add(&d->crashes);
    unsigned most_ms = served ? BACKOFF_SERVED_MS : vdisk_holds(d, "conn") ? BACKOFF_CONNECTED_MS : BACKOFF_IDLE_MS;
    if (served && recent >= HOST_CRASHES_KEPT) most_ms = BACKOFF_CONNECTED_MS;
    uint64_t delay_ns = host_backoff_ns(recent, most_ms);
    log_warn("disk %s: %s; started again %s", d->config.name, why, delay_ns ? "shortly" : "at once");
    d->restarts++;
    if (delay_ns)
        wait_then_start(d, delay_ns);
    else
        vdisk_worker_start(d);
}

static void forget_worker(struct vdisk *d)
{
    loop_timer_cancel(&d->timer);
    cache_request_cancel(&d->cache_request);
    peer_free(d->peer);
    d->peer = NULL;
    d->cached = false;
}

static void worker_exited(struct process *p, int status)
{
    struct vdisk *d = container_of(p, struct vdisk, process);
    enum vdisk_state was = d->state;
    if (d->peer) peer_drain(d->peer);
    forget_worker(d);
    char how[96], why[640];
    process_describe_status(status, how, sizeof how);
    if (was == VDISK_QUITTING) {
        vdisk_gone(d, d->error_code, d->error);
    } else if (was == VDISK_LEAVING) {
        vdisk_worker_start(d);
    } else if (was == VDISK_SERVING && d->config.connect_path && status == 0) {
        drop_all_held(d);
        snprintf(d->front_end, sizeof d->front_end, "gone");
        wait_then_start(d, FRONT_END_RETRY_MS * NS_PER_MS);
    } else {
        if (was == VDISK_STARTING && d->error_code)
            snprintf(why, sizeof why, "%s", d->error);
        else
            snprintf(why, sizeof why, "its worker ended: %s", how);
        d->error_code = RPC_WORKER;
        start_again(d, was == VDISK_SERVING, why);
    }
}

/* ---- The link ---- */

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
        const char *why = json_string_value(json_object_get(params, "why"));
        snprintf(d->front_end, sizeof d->front_end, "%s", state ? state : "?");
        snprintf(d->front_end_why, sizeof d->front_end_why, "%s", why ? why : "");
        if (why) log_warn("disk %s: %s: %s", d->config.name, d->front_end, why);
    } else {
        log_limited(LOG_LEVEL_WARN, "disk %s: its worker sent an unknown notification \"%.32s\"", d->config.name, method);
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
    else
        limit_ms(d, d->state == VDISK_STARTING ? RELINK_DELAY_MS : EXIT_LIMIT_MS);
}

static const struct peer_ops worker_peer_ops = {.notified = worker_notified, .gone = link_gone};

static int link_up(struct vdisk *d, struct errmsg *e)
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
}

static void version_came(void *arg, const struct peer_answer *a)
{
    if (a->ret == 0) note_version(arg, a->result);
}

static void is_serving(struct vdisk *d)
{
    loop_timer_cancel(&d->timer);
    d->state = VDISK_SERVING;
    d->serving_before = true;
    d->attaching = false;
    d->error_code = 0;
    d->error[0] = 0;
    d->serving_since_ns = clock_now_ns();
    vdisk_finish_operation(d, 0, NULL);
    if (d->state == VDISK_SERVING && !d->cached) vdisk_refresh_cache(d);
}

static void configured(void *arg, const struct peer_answer *a)
{
    struct vdisk *d = arg;
    if (d->state != VDISK_STARTING) return;
    if (a->ret < 0) {
        /* It ends by itself, or is killed; what follows is decided when it has. */
        d->error_code = a->ret == -EPIPE ? 0 : RPC_WORKER;
        snprintf(d->error, sizeof d->error, "%s", a->message);
        process_kill(&d->process, SIGKILL);
        return;
    }
    peer_ask(d->peer, "adopt", NULL, NULL, NULL, 0, ADOPT_LIMIT_MS, version_came, d);
    is_serving(d);
}

struct fd_list {
    const char *names[LINK_FDS_MAX];
    int fds[LINK_FDS_MAX];
    unsigned count;
    char text[LINK_FDS_MAX][LINK_FD_NAME_MAX + 8];
};

__attribute__((format(printf, 3, 4))) static void fd_list_add(struct fd_list *l, int fd, const char *format, ...)
{
    assert(l->count < LINK_FDS_MAX);
    va_list args;
    va_start(args, format);
    vsnprintf(l->text[l->count], sizeof l->text[0], format, args);
    va_end(args);
    l->names[l->count] = l->text[l->count];
    l->fds[l->count++] = fd;
}

static void ignore_answer(void *arg, const struct peer_answer *a)
{
    if (a->ret < 0 && a->ret != -EPIPE) log_warn("%s", a->message);
}

/* Everything held goes along with `configure`; what does not fit into one message goes ahead of it. */
static void send_held_ahead(struct vdisk *d, struct fd_list *l, unsigned room)
{
    unsigned i = 0;
    while (d->held.count - i > room) {
        l->count = 0;
        for (; l->count < LINK_FDS_MAX && d->held.count - i > room; i++)
            fd_list_add(l, d->held.list[i].fd, "held:%s", d->held.list[i].name);
        peer_ask(d->peer, "held", NULL, l->names, l->fds, l->count, CONFIGURE_LIMIT_MS, ignore_answer, d);
    }
    l->count = 0;
    for (; i < d->held.count; i++)
        fd_list_add(l, d->held.list[i].fd, "held:%s", d->held.list[i].name);
}

static json_t *configure_params(const struct vdisk *d)
{
    json_t *params = disk_config_json(&d->config, true);
    json_t *names = json_array();
    for (unsigned i = 0; i < d->held.count; i++)
        json_array_append_new(names, json_string(d->held.list[i].name));
    json_object_set_new(params, "held", names);
    return params;
}

static void configure(struct vdisk *d, const int *cache_fds, unsigned cache_count)
{
    struct fd_list *l = calloc(1, sizeof *l);
    assert(l);
    send_held_ahead(d, l, LINK_FDS_MAX - d->config.layer_count - cache_count - 2);
    for (unsigned i = 0; i < d->config.layer_count; i++)
        fd_list_add(l, d->layer_fd[i], "layer%u", i);
    if (d->listen_fd >= 0) fd_list_add(l, d->listen_fd, "listen");
    if (d->connect_fd >= 0) fd_list_add(l, d->connect_fd, "connect");
    for (unsigned i = 0; i < cache_count; i++)
        fd_list_add(l, cache_fds[i], "cache%u", i);
    d->cached = cache_count > 0;
    peer_ask(d->peer, "configure", configure_params(d), l->names, l->fds, l->count, CONFIGURE_LIMIT_MS, configured, d);
    free(l);
    if (d->connect_fd >= 0) close(steal_fd(&d->connect_fd));
}

/* ---- The read cache ---- */

static void close_all(const int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        close(fds[i]);
}

static void note_cache(struct vdisk *d, int ret, const char *why)
{
    snprintf(d->cache_error, sizeof d->cache_error, "%s", ret < 0 && why ? why : "");
    if (ret < 0 && ret != -EAGAIN) log_warn("disk %s: without the read cache: %s", d->config.name, why);
}

static void channels_for_start(struct cache_request *r, int ret, const int *fds, unsigned count, const char *why)
{
    struct vdisk *d = container_of(r, struct vdisk, cache_request);
    note_cache(d, ret, why);
    if (d->state == VDISK_STARTING && d->peer) configure(d, fds, count);
    close_all(fds, count);
}

static void channels_for_running(struct cache_request *r, int ret, const int *fds, unsigned count, const char *why)
{
    struct vdisk *d = container_of(r, struct vdisk, cache_request);
    note_cache(d, ret, why);
    if (ret == 0 && d->state == VDISK_SERVING && d->peer) {
        struct fd_list *l = calloc(1, sizeof *l);
        assert(l);
        for (unsigned i = 0; i < count; i++)
            fd_list_add(l, fds[i], "cache%u", i);
        peer_ask(d->peer, "cache_channels", NULL, l->names, l->fds, l->count, CONFIGURE_LIMIT_MS, ignore_answer, d);
        d->cached = true;
        free(l);
    }
    close_all(fds, count);
}

void vdisk_refresh_cache(struct vdisk *d)
{
    if (!wants_cache(d) || d->state != VDISK_SERVING || !d->peer || d->cache_request.keeper) return;
    cache_request_start(d->host->cache, &d->cache_request, &d->config, false, channels_for_running);
}

/* ---- Starting ---- */

static int open_sockets(struct vdisk *d, struct errmsg *e)
{
    char buffer[PATH_MAX];
    const char *path = vdisk_socket_path(d, buffer);
    if (!path || d->listen_fd >= 0) return 0;
    int ret = unix_socket_listen(&d->listen_fd, SOCK_STREAM, path, d->host->socket_mode, e);
    if (ret == 0 && d->host->socket_gid != (gid_t)-1 && lchown(path, (uid_t)-1, d->host->socket_gid) < 0)
        ret = errmsg_sys(e, errno, "%s: giving it to the group of virtual machines", path);
    return ret;
}

static int spawn_worker(struct vdisk *d, struct errmsg *e)
{
    char link_path[PATH_MAX], record[PATH_MAX], cgroup[DISK_NAME_MAX + 8];
    if (!host_disk_path(link_path, d->host, d->config.name, "link") ||
        !host_disk_path(record, d->host, d->config.name, "run"))
        return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", d->host->run_dir);
    autoclose int link_fd = -1;
    int ret = link_listen(&link_fd, link_path, e);
    if (ret < 0) return ret;
    const char *argv[6] = {"creedence-vbd", "--link-fd=3"};
    if (d->host->user.drop) {
        argv[2] = "--user";
        argv[3] = d->host->user.name;
    }
    struct process_args a = {.argv = argv, .fds = &link_fd, .fd_count = 1, .record_path = record};
    snprintf(cgroup, sizeof cgroup, "disk-%s", d->config.name);
    ret = host_spawn(d->host, &d->process, &a, cgroup, worker_exited, e);
    if (ret < 0) return ret;
    return link_up(d, e);
}

/* A front end that is to be connected to may not be there yet: that is no failure. */
static int reach_front_end(struct vdisk *d, struct errmsg *e)
{
    if (!d->config.connect_path || vdisk_holds(d, "conn") || d->connect_fd >= 0) return 0;
    return unix_socket_connect(&d->connect_fd, SOCK_STREAM, d->config.connect_path, e);
}

static void wait_for_front_end(struct vdisk *d, const char *why)
{
    snprintf(d->error, sizeof d->error, "waiting for the front end: %s", why);
    snprintf(d->front_end, sizeof d->front_end, "gone");
    d->attaching = false;
    vdisk_finish_operation(d, 0, NULL); /* the disk is attached: the rest is the front end's */
    wait_then_start(d, FRONT_END_RETRY_MS * NS_PER_MS);
}

void vdisk_worker_start(struct vdisk *d)
{
    struct errmsg e = {""};
    assert(!process_running(&d->process));
    loop_timer_cancel(&d->timer);
    int ret = reach_front_end(d, &e);
    if (ret < 0) {
        wait_for_front_end(d, e.text);
        return;
    }
    d->error_code = RPC_IMAGE;
    ret = images_open(&d->config, d->layer_fd, false, &e);
    if (ret == 0) {
        d->error_code = RPC_WORKER;
        ret = open_sockets(d, &e);
    }
    if (ret == 0) {
        d->state = VDISK_STARTING;
        ret = spawn_worker(d, &e);
    }
    if (ret < 0 && process_running(&d->process)) { /* its end is reported soon */
        snprintf(d->error, sizeof d->error, "%s", e.text);
        process_kill(&d->process, SIGKILL);
        return;
    }
    if (ret < 0) {
        start_again(d, false, e.text);
        return;
    }
    d->error_code = 0;
    limit_ms(d, CONFIGURE_LIMIT_MS + EXIT_LIMIT_MS);
    if (wants_cache(d))
        cache_request_start(d->host->cache, &d->cache_request, &d->config, !d->serving_before, channels_for_start);
    else
        configure(d, NULL, 0);
}

/* ---- Going on with a worker that runs ---- */

/* Asked after `adopt`: what the worker holds was sent before this answer. */
static void resent(void *arg, const struct peer_answer *a)
{
    if (a->ret == 0) drop_stale(arg);
}

static void adopted(void *arg, const struct peer_answer *a)
{
    struct vdisk *d = arg;
    if (d->state != VDISK_ADOPTING) return;
    if (a->ret == -ETIMEDOUT) {
        /* It may be waiting for storage. Killing it would lose what only it holds. */
        log_warn("disk %s: process %d does not answer yet", d->config.name, (int)d->process.pid);
        peer_ask(d->peer, "adopt", NULL, NULL, NULL, 0, ADOPT_LIMIT_MS, adopted, d);
        return;
    }
    const char *name = a->ret == 0 ? json_string_value(json_object_get(a->result, "name")) : NULL;
    if (!name || strcmp(name, d->config.name) != 0) {
        log_warn("disk %s: process %d cannot be gone on with: %s", d->config.name, (int)d->process.pid,
                 a->ret < 0 ? a->message : "it says that it serves another disk");
        process_kill(&d->process, SIGKILL);
        return;
    }
    note_version(d, a->result);
    log_info("disk %s: process %d goes on", d->config.name, (int)d->process.pid);
    peer_ask(d->peer, "stats", NULL, NULL, NULL, 0, ADOPT_LIMIT_MS, resent, d);
    is_serving(d);
}

bool vdisk_worker_adopt(struct vdisk *d)
{
    struct errmsg e = {""};
    char record[PATH_MAX];
    loop_timer_cancel(&d->timer);
    if (!process_running(&d->process) &&
        (!host_disk_path(record, d->host, d->config.name, "run") ||
         process_adopt(&d->process, d->host->loop, record, worker_exited) < 0))
        return false;
    d->state = VDISK_ADOPTING;
    if (link_up(d, &e) < 0) {
        log_warn("disk %s: process %d cannot be reached (%s): it is replaced", d->config.name, (int)d->process.pid, e.text);
        process_kill(&d->process, SIGKILL);
        return true;
    }
    peer_ask(d->peer, "adopt", NULL, NULL, NULL, 0, ADOPT_LIMIT_MS, adopted, d);
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
    limit_ms(d, EXIT_LIMIT_MS);
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
    if (a->ret < 0) {
        d->error_code = a->ret == -ETIMEDOUT ? RPC_TIMEOUT : RPC_WORKER;
        snprintf(d->error, sizeof d->error, "%s", a->message);
    }
    if (a->ret == -ETIMEDOUT) {
        /* Storage may hang; killing it would lose what it still writes. It goes when it is done. */
        vdisk_finish_operation(d, RPC_TIMEOUT, a->message);
        return;
    }
    limit_ms(d, EXIT_LIMIT_MS);
}

void vdisk_worker_quit(struct vdisk *d)
{
    d->state = VDISK_QUITTING;
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
