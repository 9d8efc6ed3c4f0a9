/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's side of the holder. */
#include "control/holder.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/network.h"
#include "control/vdisk.h"
#include "loop/clock.h"

#define RESTART_MOST_MS 10000u

struct holder {
    struct host *host;
    struct process process;
    int sock; /* -1: not reached */
    json_int_t next_id;
    struct loop_timer timer;
    struct crash_log crashes;
};

static void holder_start(struct holder *k);

/* ---- Talking ---- */

static void lost(struct holder *k, const char *doing, int ret)
{
    log_warn("the holder of descriptors: %s: %s; it is replaced", doing, strerror(-ret));
    close(steal_fd(&k->sock));
    process_kill(&k->process, SIGKILL);
}

static void tell(struct holder *k, const char *method, json_t *params, const char *name, int fd)
{
    json_t *body = k && k->sock >= 0 ? link_notification(method, params) : NULL;
    if (!body) {
        if (!k || k->sock < 0) json_decref(params);
        return;
    }
    int ret = link_send(k->sock, body, name ? &name : NULL, &fd, name ? 1 : 0);
    json_decref(body);
    if (ret < 0) lost(k, method, ret);
}

void holder_put(struct holder *k, const char *disk, const char *name, int fd)
{
    tell(k, "put", json_pack("{s:s}", "disk", disk), name, fd);
}

void holder_drop(struct holder *k, const char *disk, const char *name)
{
    tell(k, "drop", json_pack("{s:s, s:s}", "disk", disk, "name", name), NULL, -1);
}

void holder_clear(struct holder *k, const char *disk)
{
    tell(k, "clear", json_pack("{s:s}", "disk", disk), NULL, -1);
}

static int receive(struct holder *k, struct link_msg *m)
{
    struct pollfd p = {.fd = k->sock, .events = POLLIN};
    if (poll(&p, 1, LINK_SEND_WAIT_MS) <= 0) return -ETIMEDOUT;
    return link_recv(k->sock, m, NULL);
}

/* One answer's worth; *more says whether there is another. */
static int get_some(struct holder *k, const char *disk, struct held *out, bool *more)
{
    struct link_msg m;
    json_t *body = link_request(++k->next_id, "get", json_pack("{s:s, s:i}", "disk", disk, "from", (int)out->count));
    int ret = body ? link_send(k->sock, body, NULL, NULL, 0) : -ENOMEM;
    json_decref(body);
    if (ret == 0) ret = receive(k, &m);
    if (ret < 0) return ret;
    *more = json_is_true(json_object_get(json_object_get(m.body, "result"), "more"));
    for (unsigned i = 0; i < m.fd_count; i++) {
        if (!held_keep(out, m.names[i], m.fds[i])) continue;
        m.fds[i] = -1;
        held_find(out, m.names[i])->stale = true;
    }
    *more = *more && m.fd_count;
    link_msg_clear(&m);
    return 0;
}

void holder_get(struct holder *k, const char *disk, struct held *out)
{
    bool more = k && k->sock >= 0;
    while (more) {
        int ret = get_some(k, disk, out, &more);
        if (ret == 0) continue;
        lost(k, "get", ret);
        return;
    }
}

/* ---- Its life ---- */

static void start_fired(struct loop_timer *t)
{
    holder_start(container_of(t, struct holder, timer));
}

static void holder_exited(struct process *p, int status)
{
    struct holder *k = container_of(p, struct holder, process);
    char how[96];
    process_describe_status(status, how, sizeof how);
    log_warn("the holder of descriptors ended: %s; it is started again", how);
    if (k->sock >= 0) close(steal_fd(&k->sock));
    loop_timer_arm(k->host->loop, &k->timer, host_backoff_ns(crash_log_add(&k->crashes), RESTART_MOST_MS), start_fired);
}

static int spawn(struct holder *k, const char *path, struct errmsg *e)
{
    char record[PATH_MAX];
    autoclose int listen_fd = -1;
    if (!host_path(record, k->host, "holder.pid")) return errmsg_set(e, ENAMETOOLONG, "%s", path);
    int ret = link_listen(&listen_fd, path, e);
    if (ret < 0) return ret;
    /* The same program as the daemon's, even if another one is installed by now. */
    const char *argv[] = {"creedenced-holder", "--hold", path, NULL};
    struct process_args a = {
        .path = "/proc/self/exe", .argv = argv, .fds = &listen_fd, .fd_count = 1, .record_path = record};
    return process_spawn(&k->process, k->host->loop, &a, holder_exited, e);
}

/* A new one gets everything that there is. */
static void fill(struct holder *k)
{
    LIST_FOR_EACH (node, &k->host->disks) {
        const struct vdisk *d = list_entry(node, struct vdisk, node);
        for (unsigned i = 0; i < d->held.count; i++)
            holder_put(k, d->config.name, d->held.list[i].name, d->held.list[i].fd);
    }
    network_fill_holder(k->host->network, k);
}

static void holder_start(struct holder *k)
{
    struct errmsg e = {""};
    char path[PATH_MAX];
    int ret = host_path(path, k->host, "holder.sock") ? spawn(k, path, &e) : -ENAMETOOLONG;
    if (ret == 0) ret = link_connect(&k->sock, path, &e);
    if (ret == 0) {
        fill(k);
        return;
    }
    log_error(
        "no holder of descriptors (%s): a worker that dies while there is no daemon takes its guest's connection along",
        e.text);
    if (process_running(&k->process)) process_kill(&k->process, SIGKILL);
    else loop_timer_arm(k->host->loop, &k->timer, RESTART_MOST_MS * NS_PER_MS, start_fired);
}

struct holder *holder_new(struct host *h)
{
    struct holder *k = calloc(1, sizeof *k);
    if (!k) return NULL;
    k->host = h;
    k->sock = k->process.pidfd = -1;
    char path[PATH_MAX], record[PATH_MAX];
    if (host_path(path, h, "holder.sock") && host_path(record, h, "holder.pid") &&
        process_adopt(&k->process, h->loop, record, holder_exited) == 0) {
        if (link_connect(&k->sock, path, NULL) < 0) process_kill(&k->process, SIGKILL); /* replaced when it has gone */
        return k;
    }
    holder_start(k);
    return k;
}

void holder_free(struct holder *k)
{
    if (!k) return;
    loop_timer_cancel(&k->timer);
    process_release(&k->process);
    if (k->sock >= 0) close(k->sock);
    free(k);
}
