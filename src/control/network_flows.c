/* SPDX-License-Identifier: Apache-2.0 */
/*
 * STATEDIR/flows/BRIDGE.flows, which the switch writes and only the daemon can open and rename: opening them, and
 * putting new ones in their places. What is said between the two, and why nothing is lost whoever ends when, stands in
 * cmd/switch_keep.h.
 *
 * The file that has the name is the one that counts, for the switch that comes next, too. BRIDGE.flows.new never
 * counts: what was left of an earlier attempt is removed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/network.h"
#include "control/text.h"
#include "loop/clock.h"

#define PAUSE_MS 1000u   /* between two new files; a switch cannot keep the daemon busy with it */
#define WRITE_MS 300000u /* it waits for the disk; only other new files wait for it */

/* ---- opening ---- */

static int open_flows(const char *path, int more, struct errmsg *e)
{
    int fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | more, 0600);
    struct stat st;
    if (fd < 0) return errmsg_sys(e, errno, "%s", path);
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) return fd;
    close(fd);
    return errmsg_set(e, EINVAL, "%s: not a regular file", path);
}

/* That the files have their names is on the disk, too. */
static int sync_names(struct network *n, const char *path, struct errmsg *e)
{
    if (n->flow_names_synced) return 0;
    int ret = state_sync_dir_of(path, e);
    n->flow_names_synced = ret == 0;
    return ret;
}

int network_open_flows(struct network_item *bridge, bool begin, struct errmsg *e)
{
    char path[PATH_MAX], left[PATH_MAX];
    struct network *n = bridge->network;
    if (!network_flows_path(path, n, bridge->name, "flows") || !network_flows_path(left, n, bridge->name, "flows.new"))
        return errmsg_set(e, ENAMETOOLONG, "%s", n->host->state_dir);
    if (begin) { /* of a bridge of that name that was given up */
        unlink(path);
        unlink(left);
        n->flow_names_synced = false;
    }
    autoclose int fd = open_flows(path, 0, e);
    if (fd == -ENOENT) {
        n->flow_names_synced = false;
        fd = open_flows(path, O_CREAT, e);
    }
    int ret = fd < 0 ? fd : sync_names(n, path, e);
    return ret < 0 ? ret : steal_fd(&fd);
}

/* ---- asking the switch ---- */

struct asked {
    struct network *network;
    char bridge[NETWORK_NAME_MAX + 1];
};

static void compact_fired(struct loop_timer *t);

static void look_later(struct network *n, unsigned pause_ms)
{
    if (!n->compact.loop) loop_timer_arm(n->host->loop, &n->compact, pause_ms * NS_PER_MS, compact_fired);
}

/* False: not now. */
static bool ask(struct network_item *b, const char *method, int fd, unsigned limit_ms, peer_done done)
{
    static const char *const name = "flows";
    struct network *n = b->network;
    struct peer *peer = switch_keeper_peer(n->keeper);
    struct asked *k = peer && n->asked < NETWORK_ASKED_MAX ? calloc(1, sizeof *k) : NULL;
    if (!k) return false;
    k->network = n;
    snprintf(k->bridge, sizeof k->bridge, "%s", b->name);
    n->asked++;
    peer_ask(peer, method, json_pack("{s:s}", "bridge", b->name), &name, &fd, 1, limit_ms, done, k);
    return true;
}

/* The bridge, if there is still one of that name. */
static struct network_item *answered(struct asked *k)
{
    struct network *n = k->network;
    struct network_item *b = network_find(n, NETWORK_BRIDGE, k->bridge);
    network_answered(n);
    free(k);
    return b;
}

static void report(const struct network_item *b, const char *message)
{
    char why[256];
    snprintf(why, sizeof why, "%s", message);
    text_clean(why);
    log_limited(LOG_LEVEL_ERROR, "bridge %s: writing its flows anew: %s", b->name, why);
}

/* ---- which file has the name ---- */

static void placed(void *arg, const struct peer_answer *a)
{
    struct network_item *b = answered(arg);
    if (!b) return;
    b->placing = false;
    if (a->ret == -EPIPE) return; /* the next one is told, or given it */
    if (a->ret < 0) report(b, a->message);
    if (a->ret == -ETIMEDOUT) b->place_wanted = true;
    if (a->ret == -ESTALE) b->compact_wanted = true;
    if (b->place_wanted || b->compact_wanted) look_later(b->network, PAUSE_MS);
}

/* What cannot be done is tried again. */
static void place(struct network_item *b)
{
    char path[PATH_MAX];
    struct network *n = b->network;
    struct errmsg e = {""};
    if (!network_flows_path(path, n, b->name, "flows")) return;
    autoclose int fd = open_flows(path, 0, &e);
    if (fd == -ENOENT || fd == -ELOOP || fd == -EINVAL) { /* somebody removed it, or put something else there */
        b->place_wanted = false;
        b->compact_wanted = true;
    } else if (fd < 0 || sync_names(n, path, &e) < 0) {
        report(b, e.text);
    } else if (ask(b, "flows.placed", fd, NETWORK_FLOWS_MS, placed)) {
        b->place_wanted = false;
        b->placing = true;
    }
}

/* ---- a new file ---- */

/* The switch has synced the file before it answered: a sync of ours might wait for whatever a hostile one wrote. */
static int put_in_place(struct network_item *b, struct errmsg *e)
{
    char path[PATH_MAX], left[PATH_MAX];
    network_flows_path(path, b->network, b->name, "flows");
    network_flows_path(left, b->network, b->name, "flows.new");
    b->network->flow_names_synced = false;
    return rename(left, path) < 0 ? errmsg_sys(e, errno, "%s", path) : 0;
}

static void compacted(void *arg, const struct peer_answer *a)
{
    struct network_item *b = answered(arg);
    struct errmsg e = {""};
    if (!b) return;
    b->compacting = false;
    if (a->ret == -EPIPE) return;
    if (a->ret < 0 && a->ret != -ECANCELED) report(b, a->message);
    if (a->ret == 0 && put_in_place(b, &e) < 0) report(b, e.text);
    b->place_wanted = true;
    place(b);
    if (b->place_wanted) look_later(b->network, PAUSE_MS);
}

static void compact(struct network_item *b)
{
    char path[PATH_MAX];
    struct errmsg e = {""};
    if (!network_flows_path(path, b->network, b->name, "flows.new")) return;
    unlink(path);
    autoclose int fd = open_flows(path, O_CREAT | O_EXCL, &e);
    if (fd < 0) {
        report(b, e.text);
    } else if (ask(b, "flows.file", fd, WRITE_MS, compacted)) {
        b->compact_wanted = false;
        b->compacting = true;
    }
}

/* ---- in turn ---- */

/* All names at once, but one new file at a time, of a bridge that knows which file has its name. */
static void compact_fired(struct loop_timer *t)
{
    struct network *n = container_of(t, struct network, compact);
    struct network_item *wants = NULL;
    bool busy = false, more = false;
    LIST_FOR_EACH (node, &n->items[NETWORK_BRIDGE]) {
        struct network_item *b = list_entry(node, struct network_item, node);
        if (b->state != NETWORK_PRESENT) continue;
        if (b->place_wanted && !b->placing && !b->compacting) place(b);
        busy |= b->compacting;
        more |= b->place_wanted || b->compact_wanted;
        if (b->compact_wanted && !b->place_wanted && !b->placing && !wants) wants = b;
    }
    if (wants && !busy) compact(wants);
    if (more) look_later(n, PAUSE_MS);
}

void network_compact(struct network *n, json_t *params)
{
    const char *name = json_string_value(json_object_get(params, "bridge"));
    struct network_item *b = name ? network_find(n, NETWORK_BRIDGE, name) : NULL;
    if (!b) return;
    b->compact_wanted = true;
    look_later(n, 0);
}

void network_flows_adopted(struct network_item *bridge)
{
    bridge->place_wanted = true;
    look_later(bridge->network, 0);
}

void network_flows_idle(struct network_item *bridge)
{
    bridge->place_wanted = bridge->placing = bridge->compacting = false;
}
