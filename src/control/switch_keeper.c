/* SPDX-License-Identifier: Apache-2.0 */
#include "control/switch_keeper.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/text.h"
#include "loop/clock.h"

#define CONFIGURE_LIMIT_MS 10000u
#define ADOPT_LIMIT_MS 5000u
#define LEAVE_LIMIT_MS 10000u
#define QUIT_LIMIT_MS 10000u
#define EXIT_LIMIT_MS 5000u    /* from its last answer to its end */
#define RELINK_DELAY_MS 200u   /* a link that closed usually means that an exit is about to be reported */
#define RELINKS_MAX 4u         /* in a minute; then it is killed */
#define BACKOFF_SERVED_MS 500u /* the last one had settled */
#define BACKOFF_MOST_MS 5000u

enum keeper_state {
    KEEPER_OFF,
    KEEPER_WAITING,
    KEEPER_STARTING,
    KEEPER_ADOPTING,
    KEEPER_UP,
    KEEPER_LEAVING,
    KEEPER_STOPPING,
};

static const char *const state_names[] = {
    [KEEPER_OFF] = "off",           [KEEPER_WAITING] = "waiting", [KEEPER_STARTING] = "starting",
    [KEEPER_ADOPTING] = "adopting", [KEEPER_UP] = "running",      [KEEPER_LEAVING] = "upgrading",
    [KEEPER_STOPPING] = "ending",
};
static_assert(ARRAY_LEN(state_names) == KEEPER_STOPPING + 1, "every state has a name");

struct switch_keeper {
    struct host *host;
    const struct switch_keeper_ops *ops;
    void *arg;
    enum keeper_state state;
    bool wanted, settled;
    bool replace_when_up; /* what runs was asked to go before it could be told so */
    struct process process;
    struct peer *peer;
    struct loop_timer timer; /* next start, or the limit of what was asked */
    struct crash_log crashes, relinks;
    unsigned restarts; /* not asked for */
    char version[32], sandbox[16];
    bool debug;
    char error[512]; /* why it is not UP */
};

static void keeper_start(struct switch_keeper *k);
static void keeper_adopt(struct switch_keeper *k);

/* ---- Limits ---- */

static void too_slow(struct loop_timer *t)
{
    struct switch_keeper *k = container_of(t, struct switch_keeper, timer);
    log_error("switch: process %d takes too long (%s): it is killed", (int)k->process.pid, state_names[k->state]);
    process_kill(&k->process, SIGKILL);
}

static void limit_ms(struct switch_keeper *k, unsigned ms)
{
    loop_timer_arm(k->host->loop, &k->timer, ms * NS_PER_MS, too_slow);
}

static void start_fired(struct loop_timer *t)
{
    keeper_start(container_of(t, struct switch_keeper, timer));
}

static void start_later(struct switch_keeper *k)
{
    k->state = KEEPER_WAITING;
    uint64_t delay_ns = host_backoff_ns(crash_log_add(&k->crashes), k->settled ? BACKOFF_SERVED_MS : BACKOFF_MOST_MS);
    k->settled = false;
    loop_timer_arm(k->host->loop, &k->timer, delay_ns, start_fired);
}

static void forget_link(struct switch_keeper *k, bool dead)
{
    loop_timer_cancel(&k->timer);
    struct peer *peer = k->peer;
    k->peer = NULL;
    peer_free(peer);
    k->ops->down(k->arg, dead);
}

/* ---- The end of the process ---- */

static void switch_exited(struct process *p, int status)
{
    struct switch_keeper *k = container_of(p, struct switch_keeper, process);
    enum keeper_state was = k->state;
    char how[96];
    if (k->peer) peer_drain(k->peer); /* its last words: what its successor is to be given */
    process_describe_status(status, how, sizeof how);
    bool told_to = was == KEEPER_LEAVING || was == KEEPER_STOPPING;
    if (told_to) k->error[0] = 0;
    else if (was != KEEPER_STARTING || !k->error[0])
        snprintf(k->error, sizeof k->error, "creedence-switch ended: %s", how);
    k->state = KEEPER_WAITING;
    forget_link(k, true);
    if (!k->wanted) {
        k->state = KEEPER_OFF;
        k->error[0] = 0;
        return;
    }
    if (told_to) {
        keeper_start(k);
        return;
    }
    log_warn("%s; it is started again", k->error);
    k->restarts++;
    start_later(k);
}

/* ---- The link ---- */

static void link_fired(struct loop_timer *t)
{
    keeper_adopt(container_of(t, struct switch_keeper, timer));
}

static void link_notified(void *arg, const char *method, json_t *params, struct link_msg *msg)
{
    struct switch_keeper *k = arg;
    k->ops->notified(k->arg, method, params, msg);
}

static void link_gone(void *arg, const char *why)
{
    struct switch_keeper *k = arg;
    enum keeper_state was = k->state;
    log_debug("switch: %s", why); /* what comes of it is reported below, or when it has ended */
    forget_link(k, false);
    if (was == KEEPER_LEAVING || was == KEEPER_STOPPING) {
        limit_ms(k, EXIT_LIMIT_MS);
    } else if (was == KEEPER_STARTING || crash_log_add(&k->relinks) > RELINKS_MAX) {
        limit_ms(k, RELINK_DELAY_MS); /* usually it died, and its exit is about to be reported */
    } else {
        k->state = KEEPER_ADOPTING;
        snprintf(k->error, sizeof k->error, "%s", why);
        loop_timer_arm(k->host->loop, &k->timer, RELINK_DELAY_MS * NS_PER_MS, link_fired);
    }
}

static const struct peer_ops link_ops = {.notified = link_notified, .gone = link_gone};

static int link_up(struct switch_keeper *k, struct errmsg *e)
{
    char path[PATH_MAX];
    int fd;
    if (!host_path(path, k->host, "switch.link")) return errmsg_set(e, ENAMETOOLONG, "%s", k->host->run_dir);
    int ret = link_connect(&fd, path, e);
    if (ret < 0) return ret;
    ret = peer_new(&k->peer, k->host->loop, fd, "the switch", &link_ops, k);
    return ret < 0 ? errmsg_sys(e, -ret, "the link to the switch") : 0;
}

/* ---- Coming up ---- */

static void note_version(struct switch_keeper *k, json_t *o)
{
    const char *version = json_string_value(json_object_get(o, "version"));
    const char *sandbox = json_string_value(json_object_get(o, "sandbox"));
    snprintf(k->version, sizeof k->version, "%s", version ? version : "");
    snprintf(k->sandbox, sizeof k->sandbox, "%s", sandbox ? sandbox : "");
    json_t *debug = json_object_get(o, "debug");
    k->debug = json_is_true(debug) || (json_is_string(debug) && strcmp(json_string_value(debug), "y") == 0);
}

static void gone_answered(void *arg, const struct peer_answer *a)
{
    struct switch_keeper *k = arg;
    if (k->state != KEEPER_LEAVING && k->state != KEEPER_STOPPING) return;
    if (a->ret < 0 && a->ret != -EPIPE) log_warn("switch: %s: %s", state_names[k->state], a->message);
    if (a->ret == -ETIMEDOUT) process_kill(&k->process, SIGKILL);
    else if (a->ret != -EPIPE) limit_ms(k, EXIT_LIMIT_MS);
}

static void leave(struct switch_keeper *k)
{
    k->state = KEEPER_LEAVING;
    peer_ask(k->peer, "leave", NULL, NULL, NULL, 0, LEAVE_LIMIT_MS, gone_answered, k);
}

static void is_up(struct switch_keeper *k, json_t *answer, bool adopted)
{
    note_version(k, answer);
    loop_timer_cancel(&k->timer);
    k->state = KEEPER_UP;
    k->error[0] = 0;
    /* One that has nothing yet is given nothing; one that has must first be known for what it holds. */
    if (adopted || !k->replace_when_up) k->ops->up(k->arg, adopted ? answer : NULL);
    if (k->replace_when_up && k->state == KEEPER_UP) leave(k);
}

static void refused(struct switch_keeper *k, const char *doing, const char *message)
{
    snprintf(k->error, sizeof k->error, "%s: %s", doing, message);
    text_clean(k->error);
    log_warn("switch: process %d: %s; it is replaced", (int)k->process.pid, k->error);
    process_kill(&k->process, SIGKILL);
}

static void configured(void *arg, const struct peer_answer *a)
{
    struct switch_keeper *k = arg;
    if (k->state != KEEPER_STARTING) return;
    if (a->ret == 0) is_up(k, a->result, false);
    else if (a->ret != -EPIPE) refused(k, "configure", a->message);
}

static int spawn_switch(struct switch_keeper *k, struct errmsg *e)
{
    struct host *h = k->host;
    char link_path[PATH_MAX], record[PATH_MAX];
    if (!host_path(link_path, h, "switch.link") || !host_path(record, h, "switch.run"))
        return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", h->run_dir);
    autoclose int link_fd = -1;
    int ret = link_listen(&link_fd, link_path, e);
    if (ret < 0) return ret;
    const char *argv[6] = {"creedence-switch", "--link-fd=3"};
    if (h->user.drop) {
        argv[2] = "--user";
        argv[3] = h->user.name;
    }
    struct process_args a = {.argv = argv, .fds = &link_fd, .fd_count = 1, .record_path = record};
    ret = host_spawn(h, &k->process, &a, "switch", switch_exited, e);
    return ret < 0 ? ret : link_up(k, e);
}

static void keeper_start(struct switch_keeper *k)
{
    struct errmsg e = {""};
    loop_timer_cancel(&k->timer);
    k->error[0] = 0;
    k->replace_when_up = false;
    k->state = KEEPER_STARTING;
    int ret = spawn_switch(k, &e);
    if (ret == 0) {
        limit_ms(k, CONFIGURE_LIMIT_MS + EXIT_LIMIT_MS);
        peer_ask(k->peer, "configure", k->ops->options(k->arg), NULL, NULL, 0, CONFIGURE_LIMIT_MS, configured, k);
        return;
    }
    snprintf(k->error, sizeof k->error, "%s", e.text);
    if (process_running(&k->process)) { /* its end is reported soon */
        process_kill(&k->process, SIGKILL);
        return;
    }
    log_limited(LOG_LEVEL_ERROR, "switch: %s", e.text);
    start_later(k);
    k->ops->down(k->arg, true);
}

static void adopted(void *arg, const struct peer_answer *a)
{
    struct switch_keeper *k = arg;
    if (k->state != KEEPER_ADOPTING) return;
    if (a->ret == -EPIPE) return;
    if (a->ret < 0) {
        refused(k, "adopt", a->message);
        return;
    }
    log_info("switch: process %d goes on", (int)k->process.pid);
    is_up(k, a->result, true);
}

static void keeper_adopt(struct switch_keeper *k)
{
    struct errmsg e = {""};
    if (k->error[0]) log_warn("switch: %s; it is asked what it has", k->error);
    k->state = KEEPER_ADOPTING;
    int ret = link_up(k, &e);
    if (ret < 0) {
        log_warn("switch: process %d cannot be reached (%s): it is replaced", (int)k->process.pid, e.text);
        process_kill(&k->process, SIGKILL);
        return;
    }
    limit_ms(k, ADOPT_LIMIT_MS + EXIT_LIMIT_MS);
    peer_ask(k->peer, "adopt", NULL, NULL, NULL, 0, ADOPT_LIMIT_MS, adopted, k);
}

/* ---- What is asked of it ---- */

int switch_keeper_new(struct switch_keeper **out, struct host *h, const struct switch_keeper_ops *ops, void *arg)
{
    struct switch_keeper *k = calloc(1, sizeof *k);
    if (!k) return -ENOMEM;
    k->host = h;
    k->ops = ops;
    k->arg = arg;
    k->process.pidfd = -1;
    *out = k;
    char record[PATH_MAX];
    if (host_path(record, h, "switch.run")) process_adopt(&k->process, h->loop, record, switch_exited);
    return 0;
}

void switch_keeper_free(struct switch_keeper *k)
{
    if (!k) return;
    struct peer *peer = k->peer;
    k->peer = NULL; /* who hears that the link is gone asks nothing more */
    loop_timer_cancel(&k->timer);
    peer_free(peer);
    process_release(&k->process);
    free(k);
}

static void keeper_stop(struct switch_keeper *k)
{
    loop_timer_cancel(&k->timer);
    if (!process_running(&k->process)) {
        k->state = KEEPER_OFF;
        k->error[0] = 0;
        return;
    }
    k->state = KEEPER_STOPPING;
    if (k->peer) peer_ask(k->peer, "quit", NULL, NULL, NULL, 0, QUIT_LIMIT_MS, gone_answered, k);
    else process_kill(&k->process, SIGKILL);
}

void switch_keeper_want(struct switch_keeper *k, bool wanted)
{
    if (k->wanted == wanted && (wanted || !process_running(&k->process))) return;
    bool was = k->wanted;
    k->wanted = wanted;
    if (!wanted) {
        if (k->state != KEEPER_STOPPING) keeper_stop(k);
    } else if (!was && k->state == KEEPER_OFF) {
        if (process_running(&k->process)) keeper_adopt(k);
        else keeper_start(k);
    }
}

bool switch_keeper_running(const struct switch_keeper *k)
{
    return process_running(&k->process);
}

bool switch_keeper_replace(struct switch_keeper *k)
{
    if (!k->wanted) return false;
    if (k->state == KEEPER_UP && k->peer) leave(k);
    else if (k->state == KEEPER_STARTING || k->state == KEEPER_ADOPTING) k->replace_when_up = true;
    return true; /* otherwise it goes, or is gone, already */
}

void switch_keeper_kill(struct switch_keeper *k)
{
    process_kill(&k->process, SIGKILL);
}

void switch_keeper_settled(struct switch_keeper *k)
{
    k->settled = true;
}

struct peer *switch_keeper_peer(struct switch_keeper *k)
{
    return k->state == KEEPER_UP ? k->peer : NULL;
}

const char *switch_keeper_version(const struct switch_keeper *k)
{
    return k->version;
}

const char *switch_keeper_error(const struct switch_keeper *k)
{
    return k->error;
}

json_t *switch_keeper_json(const struct switch_keeper *k)
{
    json_t *o = json_pack("{s:b, s:s, s:i}", "running", k->state == KEEPER_UP, "state", state_names[k->state],
                          "restarts", (int)k->restarts);
    if (!o) return NULL;
    if (process_running(&k->process)) json_object_set_new(o, "pid", json_integer(k->process.pid));
    if (k->version[0]) {
        json_object_set_new(o, "version", json_string(k->version));
        json_object_set_new(o, "debug", json_string(k->debug ? "y" : "n"));
        json_object_set_new(o, "sandbox", json_string(k->sandbox));
    }
    if (k->state != KEEPER_UP && k->error[0]) json_object_set_new(o, "error", json_string(k->error));
    return o;
}
