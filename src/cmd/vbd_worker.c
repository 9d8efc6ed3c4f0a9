/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opens the chain, makes the device, takes front ends one after another, keeps what survives.
 *
 * What survives a worker that the daemon watches is one memfd ("state", vbd_state.h) and the descriptors that the
 * session names. The daemon holds duplicates; after a crash the next worker is given all of them and goes on. Without
 * a daemon the in-flight tables, worker_kept and the stash live in the front end's memory (INFLIGHT_SHMFD), which
 * gives them back when it reconnects.
 */
#include "cmd/vbd_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cmd/vbd_chain.h"
#include "cmd/vbd_engines.h"
#include "cmd/vbd_state.h"
#include "cmd/vbd_stats.h"
#include "control/unix_socket.h"
#include "disk/mark.h"
#include "guest/vhost_user.h"
#include "loop/clock.h"

#define GREETING_NS NS_PER_SECOND
#define FRONT_HEAD_BYTES 4096u /* worker_kept, in a front end's memory */
_Static_assert(sizeof(struct worker_kept) <= FRONT_HEAD_BYTES, "it has that room");

struct worker {
    struct loop *loop;
    struct worker_config config;
    struct worker_keeper keeper;
    bool one_front_end;

    struct engines *engines;
    struct chain *chain;
    struct vbd *vbd;

    struct worker_state state;

    int listen_fd;
    int connected_fd; /* until worker_serve() */
    struct loop_watch listen_watch, broken_watch;
    struct vhost_session *session;
    uint64_t session_ns;    /* since when */
    struct worker_xen *xen; /* NULL: the front end is a session */
    bool ending;            /* quit or leave: take no other front end */
    bool told_broken;

    struct worker_held held[WORKER_HELD_MAX];
    unsigned held_count;
};

/* ---- what is held ---- */

static int held_find(const struct worker *w, const char *name)
{
    for (unsigned i = 0; i < w->held_count; i++)
        if (strcmp(w->held[i].name, name) == 0) return (int)i;
    return -1;
}

static void held_drop(void *arg, const char *name)
{
    struct worker *w = arg;
    int i = held_find(w, name);
    if (i < 0) return;
    close(w->held[i].fd);
    w->held[i] = w->held[--w->held_count];
    if (w->keeper.drop) w->keeper.drop(w->keeper.arg, name);
}

static void held_keep(void *arg, const char *name, int fd)
{
    struct worker *w = arg;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        log_error("disk %s: cannot keep %s for a successor: %s", w->config.name, name, strerror(errno));
        return;
    }
    int i = held_find(w, name);
    if (i >= 0) {
        close(w->held[i].fd);
    } else if (w->held_count < WORKER_HELD_MAX) {
        i = (int)w->held_count++;
        snprintf(w->held[i].name, sizeof w->held[i].name, "%s", name);
    } else {
        close(copy);
        return;
    }
    w->held[i].fd = copy;
    if (w->keeper.keep) w->keeper.keep(w->keeper.arg, name, copy);
}

unsigned worker_held(const struct worker *w, const struct worker_held **out)
{
    *out = w->held;
    return w->held_count;
}

/* ---- sessions ---- */

static void tell_state(struct worker *w, const char *state, const char *why)
{
    w->told_broken = strcmp(state, "broken") == 0;
    if (w->keeper.state) w->keeper.state(w->keeper.arg, state, why);
}

static int listen_start(struct worker *w);

static void session_ended(void *device, const char *why)
{
    struct worker *w = device;
    log_info("disk %s: front end gone: %s", w->config.name, why);
    vhost_session_free(w->session);
    w->session = NULL;
    if (w->state.fd < 0) {
        struct errmsg e;
        if (chain_set_stash(w->chain, (struct disk_stash){0}, &e) < 0) log_error("disk %s: %s", w->config.name, e.text);
    }
    if (w->ending) return;
    if (w->one_front_end || w->listen_fd < 0) {
        loop_stop(w->loop);
        return;
    }
    tell_state(w, "listening", NULL);
    if (listen_start(w) < 0) loop_stop(w->loop);
}

/* mem is NULL when it is taken away. resumed: what a worker before us left there counts. */
static int take_front_memory(struct worker *w, char *mem, size_t bytes, bool resumed, struct errmsg *e)
{
    struct worker_kept *own = worker_state_kept(&w->state), *kept = mem ? (struct worker_kept *)(void *)mem : own;
    struct disk_stash stash = {0};
    if (mem) {
        int ret = resumed ? chain_wait_previous(w->chain, kept->mark, e) : 0;
        if (ret < 0) return ret;
        kept->mark = own->mark;
        stash = (struct disk_stash){mem + FRONT_HEAD_BYTES, bytes - FRONT_HEAD_BYTES};
    }
    vbd_keep_in(w->vbd, &kept->device, mem && resumed);
    chain_keep_sync(w->chain, &kept->sync_failed);
    return w->config.device.read_only ? 0 : chain_set_stash(w->chain, stash, e);
}

/* A front end's in-flight memory has room at its end for what a successor needs. */
static void stash_ready(void *device, void *mem, size_t bytes, bool resumed)
{
    struct worker *w = device;
    struct errmsg e;
    if (w->state.fd >= 0) return; /* it has a better place already */
    if (!resumed) memset(mem, 0, bytes);
    if (take_front_memory(w, mem, bytes, resumed, &e) < 0) {
        /* Going on would show the guest old data where it was promised new, or let old reads land in its memory. */
        log_error("disk %s: what the last worker left cannot be taken over: %s", w->config.name, e.text);
        exit(1);
    }
}

/* The device operations that the session calls go straight to vbd; only our own arrive with a worker. */
static struct vhost_args session_args(struct worker *w)
{
    return (struct vhost_args){
        .loop = w->loop,
        .ops = vbd_guest_ops(w->vbd),
        .device = w->vbd,
        .owner = w,
        .state = worker_state_vhost(&w->state),
        .hold = {.keep = w->state.fd >= 0 ? held_keep : NULL, .drop = w->state.fd >= 0 ? held_drop : NULL, .arg = w},
        .inflight = w->state.fd >= 0 ? worker_state_inflight(&w->state) : NULL,
        .inflight_bytes = w->state.fd >= 0 ? w->state.inflight_bytes : 0,
        .stash_bytes = w->state.fd >= 0 ? 0 : FRONT_HEAD_BYTES + (w->config.device.read_only ? 0 : WORKER_STASH_BYTES),
        .stash_ready = stash_ready,
        .ended = session_ended,
    };
}

static int session_start(struct worker *w, int fd, struct errmsg *e)
{
    if (w->state.fd < 0) memset(worker_state_vhost(&w->state), 0, w->state.vhost_bytes);
    struct vhost_args args = session_args(w);
    int ret = vhost_session_new(&w->session, &args, fd, e);
    w->session_ns = clock_now_ns();
    if (ret == 0) tell_state(w, "connected", NULL);
    return ret;
}

static void listen_ready(struct loop_watch *watch, uint32_t events)
{
    struct worker *w = container_of(watch, struct worker, listen_watch);
    struct errmsg e;
    (void)events;
    int fd = accept4(w->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    /* One front end at a time; others wait in the backlog. */
    loop_remove(&w->listen_watch);
    if (session_start(w, fd, &e) < 0) {
        log_error("disk %s: %s", w->config.name, e.text);
        listen_start(w);
    }
}

static int listen_start(struct worker *w)
{
    if (w->listen_fd < 0) return 0;
    return loop_add(w->loop, &w->listen_watch, w->listen_fd, EPOLLIN, listen_ready);
}

static const char *state_now(const struct worker *w)
{
    return w->session || worker_xen_connected(w->xen) ? "connected" : "listening";
}

static void broken_ready(struct loop_watch *watch, uint32_t events)
{
    struct worker *w = container_of(watch, struct worker, broken_watch);
    uint64_t queues = vbd_broken_take(w->vbd);
    const char *why = vbd_broken(w->vbd);
    (void)events;
    if (queues && why) tell_state(w, "broken", why);
    if (!why && w->told_broken) tell_state(w, state_now(w), NULL); /* it was reset */
    for (unsigned i = 0; w->session && i < w->config.device.queues; i++)
        if (queues & UINT64_C(1) << i) vhost_session_ring_failed(w->session, i);
}

static int session_resume(struct worker *w, struct errmsg *e)
{
    const char *names[WORKER_HELD_MAX];
    int fds[WORKER_HELD_MAX];
    unsigned count = 0;
    for (unsigned i = 0; i < w->held_count; i++) {
        if (strcmp(w->held[i].name, "state") == 0) continue;
        int copy = fcntl(w->held[i].fd, F_DUPFD_CLOEXEC, 0);
        if (copy < 0) continue;
        names[count] = w->held[i].name;
        fds[count++] = copy;
    }
    struct vhost_args args = session_args(w);
    int ret = vhost_session_resume(&w->session, &args, names, fds, count, e);
    if (ret == 0) tell_state(w, "connected", NULL);
    return ret;
}

int worker_serve(struct worker *w, struct errmsg *e)
{
    if (w->xen) {
        tell_state(w, "listening", NULL);
        return 0;
    }
    if (held_find(w, "conn") >= 0) {
        int ret = session_resume(w, e);
        if (ret == 0) return 0;
        /* The front end is lost, the disk is not. */
        log_error("disk %s: cannot go on where the last worker stopped: %s", w->config.name, e->text);
        while (w->held_count > 1) {
            unsigned i = strcmp(w->held[0].name, "state") == 0 ? 1 : 0;
            char name[sizeof w->held[i].name];
            memcpy(name, w->held[i].name, sizeof name);
            held_drop(w, name);
        }
        memset(worker_state_vhost(&w->state), 0, w->state.vhost_bytes + w->state.inflight_bytes);
        vbd_guest_ops(w->vbd)->reset(w->vbd, GUEST_RESET_END);
    }
    if (w->connected_fd < 0 && w->listen_fd < 0)
        return errmsg_set(e, ENOTCONN, "disk %s: its front end is lost, and it does not listen for another",
                          w->config.name);
    if (w->connected_fd >= 0) return session_start(w, steal_fd(&w->connected_fd), e);
    tell_state(w, "listening", NULL);
    int ret = listen_start(w);
    return ret < 0 ? errmsg_sys(e, -ret, "disk %s: listening", w->config.name) : 0;
}

/* ---- life ---- */

static void stop_listening(struct worker *w)
{
    loop_remove(&w->listen_watch);
    if (w->listen_fd >= 0) close(w->listen_fd);
    w->listen_fd = -1;
}

static void release(struct worker *w)
{
    stop_listening(w);
    loop_remove(&w->broken_watch);
    vbd_free(w->vbd);
    worker_xen_close(w->xen);
    for (unsigned i = 0; i < w->held_count; i++)
        close(w->held[i].fd);
    engines_free(w->engines);
    worker_state_unmap(&w->state);
    if (w->connected_fd >= 0) close(w->connected_fd);
    worker_config_free(&w->config);
    free(w);
}

static int open_inner(struct worker *w, const struct worker_args *args, struct errmsg *e)
{
    int state = held_find(w, "state");
    int state_fd = state < 0 ? -1 : fcntl(w->held[state].fd, F_DUPFD_CLOEXEC, 0);
    /* Without it the disk must not be served: what was acknowledged is in there. */
    if (state >= 0 && state_fd < 0) return errmsg_sys(e, errno, "disk %s: the last worker's state", w->config.name);
    int ret = worker_state_map(&w->state, &w->config, state_fd, args->survives, e);
    if (ret < 0) return ret;
    if (state < 0 && args->survives) held_keep(w, "state", w->state.fd);
    uint64_t mark = disk_mark_new();
    ret = chain_open_files(&w->chain, &w->config, args->cache_fd, mark, e);
    if (ret == 0) ret = chain_wait_previous(w->chain, worker_state_kept(&w->state)->mark, e);
    if (ret < 0) return ret;
    if (args->socket_path) ret = unix_socket_bind(&w->listen_fd, SOCK_STREAM, args->socket_path, 0600, e);
    if (ret < 0) return ret;
    worker_state_kept(&w->state)->mark = mark;
    chain_keep_sync(w->chain, &worker_state_kept(&w->state)->sync_failed);
    ret = engines_new(&w->engines, chain_engines(w->chain), e);
    const struct worker_xen_config *xen = w->config.xen.there ? &w->config.xen : NULL;
    if (ret == 0 && xen) ret = worker_xen_open(&w->xen, xen, w->config.device.queues, e);
    if (ret == 0 && args->sandbox) ret = sandbox_leave_host(args->sandbox, e);
    if (ret == 0 && args->sandbox) ret = sandbox_filter(args->sandbox, xen ? SANDBOX_XEN : SANDBOX_NONE, e);
    if (ret == 0) ret = chain_open_layers(w->chain, worker_state_stash(&w->state), engines_maker(w->engines), e);
    if (ret < 0) return ret;
    struct vbd_chains chains = chain_callbacks(w->chain);
    w->config.device.kept = &worker_state_kept(&w->state)->device;
    w->config.device.io_opt_bytes = chain_cluster_bytes(w->chain);
    ret = vbd_new(&w->vbd, &w->config.device, chain_leaf(w->chain), &chains, engines_maker(w->engines), e);
    if (ret == 0 && xen) ret = worker_xen_set_device(w->xen, w->vbd, worker_state_inflight(&w->state), e);
    if (ret < 0) return ret;
    ret = loop_add(w->loop, &w->broken_watch, vbd_broken_fd(w->vbd), EPOLLIN, broken_ready);
    if (ret < 0) return errmsg_sys(e, -ret, "disk %s: event loop", w->config.name);
    /* A front end that connects to a process that then cannot serve it may not come again: QEMU before 8.2 does not. */
    return args->socket_path ? unix_socket_begin(w->listen_fd, args->socket_path, e) : 0;
}

int worker_open(struct worker **out, const struct worker_args *args, struct errmsg *e)
{
    struct worker *w = calloc(1, sizeof *w);
    if (!w) return errmsg_set(e, ENOMEM, "out of memory");
    w->loop = args->loop;
    w->config = *args->config;
    *args->config = (struct worker_config){0};
    w->keeper = args->keeper;
    w->one_front_end = args->one_front_end;
    w->listen_fd = args->listen_fd;
    w->connected_fd = args->connected_fd;
    w->state.fd = -1;
    memcpy(w->held, args->held, args->held_count * sizeof args->held[0]);
    w->held_count = args->held_count;
    int ret = open_inner(w, args, e);
    if (ret < 0) {
        if (w->chain) chain_close(w->chain, NULL);
        release(w);
        return ret;
    }
    *out = w;
    return 0;
}

bool worker_greets(const struct worker *w)
{
    struct vhost_session_info info;
    if (!w->session || clock_now_ns() - w->session_ns >= GREETING_NS) return false;
    vhost_session_describe(w->session, &info);
    return info.regions == 0;
}

/* The device's threads end before the layers that they use; the leaf is closed last. */
static int finish(struct worker *w, struct errmsg *e)
{
    loop_remove(&w->broken_watch);
    vbd_free(w->vbd);
    w->vbd = NULL;
    int ret = chain_close(w->chain, e);
    w->chain = NULL;
    release(w);
    return ret;
}

int worker_quit(struct worker *w, struct errmsg *e)
{
    w->ending = true;
    stop_listening(w); /* making the leaf durable may take longer than a front end waits before it connects again */
    vhost_session_free(w->session);
    if (w->xen) worker_xen_disconnect(w->xen);
    return finish(w, e);
}

int worker_leave(struct worker *w, struct errmsg *e)
{
    w->ending = true;
    if (w->session) vhost_session_leave(w->session);
    if (w->xen) worker_xen_leave(w->xen);
    return finish(w, e);
}

static int no_xen(const struct worker *w, struct errmsg *e)
{
    return errmsg_set(e, EOPNOTSUPP, "disk %s: its front end is not Xen's", w->config.name);
}

int worker_connect(struct worker *w, const struct worker_xen_front *f, struct errmsg *e)
{
    if (!w->xen) return no_xen(w, e);
    int ret = worker_xen_connect(w->xen, f, e);
    if (ret == 0) tell_state(w, "connected", NULL);
    return ret;
}

int worker_disconnect(struct worker *w, struct errmsg *e)
{
    if (!w->xen) return no_xen(w, e);
    worker_xen_disconnect(w->xen);
    tell_state(w, "listening", NULL);
    return 0;
}

const struct worker_xen *worker_xen(const struct worker *w)
{
    return w->xen;
}

int worker_resize(struct worker *w, uint64_t size_bytes, struct errmsg *e)
{
    if (size_bytes % w->config.device.sector_bytes)
        return errmsg_set(e, EINVAL, "disk %s: size %" PRIu64 " is no multiple of the sector size %u", w->config.name,
                          size_bytes, w->config.device.sector_bytes);
    int ret = chain_resize(w->chain, size_bytes, e);
    if (ret < 0) return ret;
    vbd_size_changed(w->vbd);
    if (w->session && !vhost_session_config_changed(w->session))
        log_warn("disk %s: this front end cannot be told of the new size; the guest sees it when it looks again",
                 w->config.name);
    return 0;
}

int worker_cache_channels(struct worker *w, const int *fds, unsigned count)
{
    return chain_cache_attach(w->chain, w->vbd, fds, count);
}

const struct worker_config *worker_config(const struct worker *w)
{
    return &w->config;
}

int worker_layer_fd(const struct worker *w, unsigned i)
{
    return chain_shared_fd(w->chain, i);
}

struct vbd *worker_device(struct worker *w)
{
    return w->vbd;
}

json_t *worker_stats(struct worker *w)
{
    struct vhost_session_info info = {0};
    if (w->session) vhost_session_describe(w->session, &info);
    json_t *o = stats_json(w->vbd, w->chain, &info, info.connected ? "connected" : state_now(w));
    if (o && w->xen) json_object_set_new(o, "xen", worker_xen_stats(w->xen));
    return o;
}
