/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cache_keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "disk/file.h"
#include "loop/clock.h"

#define CONNECT_TRY_MS 2u
#define CONNECT_LIMIT_MS 5000u  /* from start to being reachable */
#define WAIT_FOR_START_MS 3000u /* how long a new disk waits for a service that starts */
#define CHANNEL_LIMIT_MS 5000u
#define QUEUE_LIMIT_MS 60000u
#define CHANNEL_REQUESTS_MAX 16u /* asked at once; all disks want channels when a service is back */
#define BACKOFF_MOST_MS 5000u

enum keeper_state {
    KEEPER_OFF,        /* not wanted */
    KEEPER_WAITING,    /* for the time of the next start */
    KEEPER_CONNECTING, /* it runs, but does not listen yet */
    KEEPER_UP,
    KEEPER_STOPPING, /* was told to end */
};

struct cache_keeper {
    struct host *host;
    void (*up)(struct host *h);
    enum keeper_state state;
    struct process process;
    struct peer *peer;
    struct loop_timer timer;
    uint64_t connect_since_ns;
    struct list requests; /* outstanding, in their order */
    unsigned asked_count; /* of these, sent */
    struct crash_log crashes;
    unsigned restarts;
    uint64_t last_serial;
    char error[512]; /* why it is not running */
};

static void keeper_start(struct cache_keeper *k);
static void try_connect(struct cache_keeper *k);
static void send_requests(struct cache_keeper *k);
static void requests_fail(struct cache_keeper *k, const char *why);

/* ---- Life of the service ---- */

static void restart_fired(struct loop_timer *t)
{
    keeper_start(container_of(t, struct cache_keeper, timer));
}

static void restart_later(struct cache_keeper *k)
{
    k->state = KEEPER_WAITING;
    unsigned recent = crash_log_add(&k->crashes);
    loop_timer_arm(k->host->loop, &k->timer, host_backoff_ns(recent, BACKOFF_MOST_MS), restart_fired);
    if (recent > 4) requests_fail(k, k->error);
}

static void service_exited(struct process *p, int status)
{
    struct cache_keeper *k = container_of(p, struct cache_keeper, process);
    bool stopping = k->state == KEEPER_STOPPING;
    loop_timer_cancel(&k->timer);
    k->state = KEEPER_STOPPING;
    peer_free(k->peer);
    k->peer = NULL;
    char how[96];
    process_describe_status(status, how, sizeof how);
    if (stopping && !k->host->cache_settings.enabled) {
        k->state = KEEPER_OFF;
        snprintf(k->error, sizeof k->error, "switched off");
        requests_fail(k, k->error);
        return;
    }
    snprintf(k->error, sizeof k->error, "creedence-cache ended: %s", how);
    if (!stopping) {
        log_warn("%s; it is started again, disks read their base layers directly meanwhile", k->error);
        k->restarts++;
    }
    restart_later(k);
}

static void connect_fired(struct loop_timer *t)
{
    try_connect(container_of(t, struct cache_keeper, timer));
}

static void peer_notified(void *arg, const char *method, json_t *params, struct link_msg *msg)
{
    log_limited(LOG_LEVEL_DEBUG, "cache service: unknown notification \"%.32s\"", method);
}

/* Usually it died, and its exit is about to be reported; if not, it is of no use like this. */
static void peer_gone(void *arg, const char *why)
{
    struct cache_keeper *k = arg;
    log_debug("cache service: %s", why);
    peer_free(k->peer);
    k->peer = NULL;
    k->state = KEEPER_CONNECTING;
    k->connect_since_ns = clock_now_ns();
    loop_timer_arm(k->host->loop, &k->timer, CONNECT_TRY_MS * NS_PER_MS, connect_fired);
}

static const struct peer_ops keeper_peer_ops = {.notified = peer_notified, .gone = peer_gone};

static void try_connect(struct cache_keeper *k)
{
    char path[PATH_MAX];
    struct errmsg e = {""};
    int fd = -1, ret = host_path(path, k->host, "cache.sock") ? link_connect(&fd, path, &e) : -ENAMETOOLONG;
    if (ret == 0) ret = peer_new(&k->peer, k->host->loop, fd, "the cache service", &keeper_peer_ops, k);
    if (ret == 0) {
        k->state = KEEPER_UP;
        k->error[0] = 0;
        send_requests(k);
        k->up(k->host);
        return;
    }
    if (clock_now_ns() - k->connect_since_ns > CONNECT_LIMIT_MS * NS_PER_MS) {
        log_error("cache service: does not listen after %u s (%s): it is killed", CONNECT_LIMIT_MS / 1000, e.text);
        process_kill(&k->process, SIGKILL);
        return;
    }
    loop_timer_arm(k->host->loop, &k->timer, CONNECT_TRY_MS * NS_PER_MS, connect_fired);
}

static int spawn_service(struct cache_keeper *k, struct errmsg *e)
{
    struct host *h = k->host;
    char socket_path[PATH_MAX], record[PATH_MAX], budget[32] = "auto";
    if (!host_path(socket_path, h, "cache.sock") || !host_path(record, h, "cache.run"))
        return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", h->run_dir);
    if (h->cache_settings.budget_bytes)
        snprintf(budget, sizeof budget, "%llu", (unsigned long long)h->cache_settings.budget_bytes);
    const char *argv[10] = {"creedence-cache",
                            "--socket",
                            socket_path,
                            "--budget",
                            budget,
                            "--huge-pages",
                            h->cache_settings.huge_pages ? "on" : "off"};
    if (h->user.drop) {
        argv[7] = "--user";
        argv[8] = h->user.name;
    }
    /* What an earlier one left must not be taken for the new one's. */
    unlink(socket_path);
    struct process_args a = {.argv = argv, .record_path = record};
    return host_spawn(h, &k->process, &a, "cache", service_exited, e);
}

static void keeper_start(struct cache_keeper *k)
{
    struct errmsg e = {""};
    int ret = spawn_service(k, &e);
    if (ret < 0) {
        snprintf(k->error, sizeof k->error, "%s", e.text);
        log_limited(LOG_LEVEL_ERROR, "cache service: %s", e.text);
        restart_later(k);
        return;
    }
    k->state = KEEPER_CONNECTING;
    k->connect_since_ns = clock_now_ns();
    try_connect(k);
}

int cache_keeper_new(struct cache_keeper **out, struct host *h, void (*up)(struct host *h))
{
    struct cache_keeper *k = calloc(1, sizeof *k);
    if (!k) return -ENOMEM;
    k->host = h;
    k->up = up;
    k->process.pidfd = -1;
    list_init(&k->requests);
    *out = k;
    char record[PATH_MAX];
    if (host_path(record, h, "cache.run") && process_adopt(&k->process, h->loop, record, service_exited) == 0) {
        log_info("cache service: process %d goes on", (int)k->process.pid);
        k->state = KEEPER_CONNECTING;
        k->connect_since_ns = clock_now_ns();
    }
    cache_keeper_apply(k);
    return 0;
}

void cache_keeper_apply(struct cache_keeper *k)
{
    if (!k->host->cache_settings.enabled) {
        cache_keeper_stop(k);
    } else if (k->state == KEEPER_CONNECTING && !k->timer.loop) {
        try_connect(k);
    } else if (k->state == KEEPER_OFF) {
        keeper_start(k);
    }
}

void cache_keeper_restart(struct cache_keeper *k)
{
    if (!process_running(&k->process)) return;
    loop_timer_cancel(&k->timer);
    k->state = KEEPER_STOPPING; /* first: who hears that the channel is gone asks for another */
    peer_free(k->peer);
    k->peer = NULL;
    process_kill(&k->process, SIGKILL);
}

void cache_keeper_stop(struct cache_keeper *k)
{
    k->host->cache_settings.enabled = false;
    loop_timer_cancel(&k->timer);
    k->state = KEEPER_STOPPING;
    peer_free(k->peer);
    k->peer = NULL;
    if (process_running(&k->process)) {
        process_kill(&k->process, SIGKILL); /* it holds nothing that would be missed */
    } else {
        k->state = KEEPER_OFF;
        snprintf(k->error, sizeof k->error, "switched off");
    }
    requests_fail(k, "switched off");
}

bool cache_keeper_running(const struct cache_keeper *k)
{
    return process_running(&k->process);
}

void cache_keeper_free(struct cache_keeper *k)
{
    if (!k) return;
    loop_timer_cancel(&k->timer);
    requests_fail(k, "the daemon ends");
    peer_free(k->peer);
    process_release(&k->process);
    free(k);
}

struct peer *cache_keeper_peer(struct cache_keeper *k)
{
    return k->state == KEEPER_UP ? k->peer : NULL;
}

json_t *cache_keeper_json(const struct cache_keeper *k)
{
    bool up = k->state == KEEPER_UP;
    json_t *o = json_pack("{s:b, s:b, s:i}", "enabled", k->host->cache_settings.enabled, "running", up, "restarts",
                          (int)k->restarts);
    if (process_running(&k->process)) json_object_set_new(o, "pid", json_integer(k->process.pid));
    if (!up && k->error[0]) json_object_set_new(o, "error", json_string(k->error));
    return o;
}

/* ---- Channels ---- */

static void request_remove(struct cache_request *r)
{
    list_remove(&r->node);
    loop_timer_cancel(&r->limit);
    r->keeper->asked_count -= r->asked;
    r->keeper = NULL;
}

static void request_finish(struct cache_request *r, int ret, const int *fds, unsigned count, const char *why)
{
    struct cache_keeper *k = r->keeper;
    request_remove(r);
    r->done(r, ret, fds, count, why);
    send_requests(k);
}

static void requests_fail(struct cache_keeper *k, const char *why)
{
    struct list failing;
    list_init(&failing);
    list_splice_back(&failing, &k->requests);
    while (!list_empty(&failing))
        request_finish(list_entry(failing.next, struct cache_request, node), -EAGAIN, NULL, 0, why);
}

static void request_timed_out(struct loop_timer *t)
{
    struct cache_request *r = container_of(t, struct cache_request, limit);
    request_finish(r, -EAGAIN, NULL, 0, r->keeper->error[0] ? r->keeper->error : "the cache service does not answer");
}

void cache_request_cancel(struct cache_request *r)
{
    if (r->keeper) request_remove(r);
}

/* The answer may come when the request is cancelled, or even made anew: it is found by its serial. */
struct asked {
    struct cache_keeper *keeper;
    struct cache_request *request; /* only compared, until found in the list */
    uint64_t serial;
};

static void channels_came(void *arg, const struct peer_answer *a)
{
    struct asked asked = *(struct asked *)arg;
    free(arg);
    struct cache_request *r = NULL;
    LIST_FOR_EACH (node, &asked.keeper->requests)
        if (list_entry(node, struct cache_request, node) == asked.request) r = asked.request;
    if (!r || r->serial != asked.serial) return;
    if (a->ret < 0) {
        request_finish(r, a->ret == -EPIPE ? -EAGAIN : a->ret, NULL, 0, a->message);
        return;
    }
    int fds[DISK_QUEUES_MAX];
    unsigned count = 0, wanted = r->config->queues;
    for (; count < wanted; count++) {
        char name[32];
        snprintf(name, sizeof name, "channel%u", count);
        fds[count] = link_msg_take_fd(a->msg, name);
        if (fds[count] < 0) break;
    }
    if (count == wanted) {
        request_finish(r, 0, fds, count, NULL);
        return;
    }
    while (count)
        close(fds[--count]);
    request_finish(r, -EPROTO, NULL, 0, "the cache service answered with too few channels");
}

/* The service reads past the page cache where it can; workers use descriptors of their own. It must be the very file
 * that the worker has: at the path there may be another one by now, under leaves that were written above the old one. */
static int open_for_cache(const struct disk_layer_config *l, int worker_fd, struct errmsg *e)
{
    struct engine_file f;
    struct errmsg why = {""};
    char path[40];
    if (worker_fd < 0) return errmsg_set(e, EBADF, "%s: it is not open", l->path);
    snprintf(path, sizeof path, "/proc/self/fd/%d", worker_fd);
    int ret = disk_file_open(&f, path, DISK_FILE_DIRECT, &why);
    if (ret == -EINVAL || ret == -EOPNOTSUPP) ret = disk_file_open(&f, path, 0, &why);
    if (ret < 0) return errmsg_set(e, -ret, "%s: opening it anew: %s", l->path, why.text);
    return f.fd;
}

static int send_request(struct cache_keeper *k, struct cache_request *r, struct errmsg *e)
{
    const struct disk_config *c = r->config;
    unsigned count = c->layer_count - 1;
    int fds[DISK_CHAIN_MAX];
    char text[DISK_CHAIN_MAX][16];
    const char *names[DISK_CHAIN_MAX];
    json_t *layers = json_array();
    struct asked *asked = calloc(1, sizeof *asked);
    int ret = asked && layers ? 0 : -ENOMEM;
    unsigned opened = 0;
    for (; ret == 0 && opened < count; opened++) {
        const struct disk_layer_config *l = &c->layers[opened + 1];
        fds[opened] = open_for_cache(l, r->layer_fd[opened + 1], e);
        if (fds[opened] < 0) {
            ret = fds[opened];
            break;
        }
        snprintf(text[opened], sizeof text[opened], "layer%u", opened);
        names[opened] = text[opened];
        json_array_append_new(layers, json_pack("{s:s, s:s}", "format", disk_format_name(l->format), "path", l->path));
    }
    if (ret == 0) {
        *asked = (struct asked){.keeper = k, .request = r, .serial = r->serial};
        peer_ask(k->peer, "channel", json_pack("{s:O, s:i}", "layers", layers, "count", (int)c->queues), names, fds,
                 count, CHANNEL_LIMIT_MS, channels_came, asked);
    } else {
        free(asked);
    }
    json_decref(layers);
    while (opened)
        close(fds[--opened]);
    return ret;
}

static void request_failed(struct loop_timer *t)
{
    struct cache_request *r = container_of(t, struct cache_request, limit);
    request_finish(r, -EIO, NULL, 0, "a base layer could not be opened for the cache");
}

static void request_send(struct cache_keeper *k, struct cache_request *r)
{
    struct errmsg e = {""};
    r->asked = true;
    k->asked_count++;
    loop_timer_arm(k->host->loop, &r->limit, CHANNEL_LIMIT_MS * NS_PER_MS, request_timed_out);
    if (send_request(k, r, &e) < 0) {
        log_warn("cache: %s", e.text);
        loop_timer_arm(k->host->loop, &r->limit, 0, request_failed);
    }
}

static void send_requests(struct cache_keeper *k)
{
    LIST_FOR_EACH (node, &k->requests) {
        struct cache_request *r = list_entry(node, struct cache_request, node);
        if (k->state != KEEPER_UP || k->asked_count >= CHANNEL_REQUESTS_MAX) return;
        if (!r->asked) request_send(k, r);
    }
}

void cache_request_start(struct cache_keeper *k, struct cache_request *r, const struct disk_config *c,
                         const int *layer_fd, bool wait,
                         void (*done)(struct cache_request *, int, const int *, unsigned, const char *))
{
    assert(!r->keeper);
    *r = (struct cache_request){
        .keeper = k, .config = c, .layer_fd = layer_fd, .serial = ++k->last_serial, .done = done};
    list_push_back(&k->requests, &r->node);
    bool starting = k->state == KEEPER_WAITING || k->state == KEEPER_CONNECTING;
    if (k->state == KEEPER_UP) /* its own limit begins when it is its turn */
        loop_timer_arm(k->host->loop, &r->limit, QUEUE_LIMIT_MS * NS_PER_MS, request_timed_out);
    else
        loop_timer_arm(k->host->loop, &r->limit, starting && wait ? WAIT_FOR_START_MS * NS_PER_MS : 0,
                       request_timed_out);
    send_requests(k);
}
