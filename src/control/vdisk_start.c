/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a disk's worker: its images and sockets, the program, channels of the read cache, and `configure` with all
 * that is held. What becomes of it afterwards is vdisk_worker.c's.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/images.h"
#include "control/unix_socket.h"
#include "control/vdisk_internal.h"
#include "loop/clock.h"

#define CONFIGURE_LIMIT_MS 30000u

static bool wants_cache(const struct vdisk *d)
{
    return d->config.cache && d->config.layer_count > 1 && d->host->cache_settings.enabled;
}

/* ---- Configuring ---- */

static void configured(void *arg, const struct peer_answer *a)
{
    struct vdisk *d = arg;
    if (d->state != VDISK_STARTING) return;
    if (a->ret < 0) {
        /* It ends by itself, or is killed; what follows is decided when it has. */
        d->error_code = a->ret == -EPIPE ? 0 : RPC_WORKER;
        snprintf(d->error, sizeof d->error, "%s", a->message);
        vdisk_worker_kill(d);
        return;
    }
    peer_ask(d->peer, "adopt", NULL, NULL, NULL, 0, VDISK_ADOPT_LIMIT_MS, vdisk_version_came, d);
    if (d->config.xen.used) vdisk_note_offered(d, a->result);
    if (!vdisk_resume(d)) vdisk_is_serving(d);
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

static json_t *configure_params(struct vdisk *d)
{
    json_t *params = disk_config_json(&d->config, true);
    json_t *names = json_array();
    for (unsigned i = 0; i < d->held.count; i++)
        json_array_append_new(names, json_string(d->held.list[i].name));
    json_object_set_new(params, "held", names);
    if (d->config.xen.used) vdisk_share_map_entries(d, json_object_get(params, "xen"));
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
    /* After a restart of the daemon the worker sends its images a little after it was adopted. */
    if (!vdisk_has_images(d)) return;
    if (!wants_cache(d) || d->state != VDISK_SERVING || !d->peer || d->cache_request.keeper) return;
    cache_request_start(d->host->cache, &d->cache_request, &d->config, d->layer_fd, false, channels_for_running);
}

/* ---- Images ---- */

bool vdisk_has_images(const struct vdisk *d)
{
    for (unsigned i = 0; i < d->config.layer_count; i++)
        if (d->layer_fd[i] < 0) return false;
    return true;
}

void vdisk_note_images(struct vdisk *d)
{
    struct image_ids now;
    struct errmsg e = {""};
    int ret = image_ids_read(&now, &d->config, d->layer_fd, &e);
    if (ret == 0 && image_ids_equal(&now, &d->images)) return;
    if (ret == 0) ret = state_save_disk(d->host->state_dir, &d->config, image_ids_json(&now), &e);
    if (ret == 0) d->images = now;
    else log_error("disk %s: which files its images are cannot be saved: %s", d->config.name, e.text);
}

/* Those that no worker left are opened by their paths: what is there now must be what was there. */
static int open_images(struct vdisk *d, struct errmsg *e)
{
    bool had[DISK_CHAIN_MAX];
    if (vdisk_has_images(d)) return 0;
    for (unsigned i = 0; i < d->config.layer_count; i++)
        had[i] = d->layer_fd[i] >= 0;
    /* The names in the images were compared when the disk was attached: a link that they went through may have moved since. */
    int ret = images_open(&d->config, d->layer_fd, false, e);
    if (ret == 0) ret = image_ids_check(&d->images, &d->config, d->layer_fd, d->held.count > 0, e);
    if (ret == 0) {
        vdisk_note_images(d);
        return 0;
    }
    for (unsigned i = 0; i < d->config.layer_count; i++)
        if (!had[i] && d->layer_fd[i] >= 0) close(steal_fd(&d->layer_fd[i]));
    return ret;
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
    ret = host_spawn(d->host, &d->process, &a, cgroup, vdisk_worker_exited, e);
    if (ret < 0) return ret;
    return vdisk_link_up(d, e);
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
    vdisk_wait_then_start(d, VDISK_FRONT_END_RETRY_MS * NS_PER_MS);
}

/* The event loop has others to serve while somebody ends. */
static bool try_lock_again(struct vdisk *d, int ret, const char *why)
{
    if (ret != -EAGAIN || d->lock_tries == VDISK_LOCK_TRIES) {
        d->lock_tries = 0;
        return false;
    }
    d->lock_tries++;
    snprintf(d->error, sizeof d->error, "%s", why);
    vdisk_wait_then_start(d, VDISK_LOCK_RETRY_MS * NS_PER_MS);
    return true;
}

void vdisk_worker_start(struct vdisk *d)
{
    struct errmsg e = {""};
    assert(!process_running(&d->process));
    loop_timer_cancel(&d->timer);
    int ret = d->attaching && !d->saved ? vdisk_open_and_save(d, &e) : 0;
    if (ret == 0 && reach_front_end(d, &e) < 0) {
        wait_for_front_end(d, e.text);
        return;
    }
    if (ret == 0) {
        d->error_code = RPC_IMAGE;
        ret = open_images(d, &e);
    }
    if (try_lock_again(d, ret, e.text)) return;
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
        vdisk_worker_kill(d);
        return;
    }
    if (ret < 0) {
        vdisk_start_again(d, false, e.text[0] ? e.text : strerror(-ret));
        return;
    }
    d->error_code = 0;
    vdisk_limit_ms(d, CONFIGURE_LIMIT_MS + VDISK_EXIT_LIMIT_MS);
    if (wants_cache(d))
        cache_request_start(d->host->cache, &d->cache_request, &d->config, d->layer_fd, !d->serving_before,
                            channels_for_start);
    else configure(d, NULL, 0);
}
