/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is held for cards: their sockets, and what the switch wants its successor to have (the connection to the front end,
 * guest memory, the notifications of rings, the state of the device).
 *
 * How much a switch in the hands of a guest can have kept is bounded: HELD_MAX for a card, held_max for all.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "control/holder.h"
#include "control/network.h"
#include "control/unix_socket.h"

#define HELD_NAME_MAX 31u
#define ATTACH_LIMIT_MS 10000u

/* Under which name the holder has a card's; no disk's can be the same. */
static const char *holder_name(const struct network_item *i, char out[HOLDER_NAME_MAX + 1])
{
    snprintf(out, HOLDER_NAME_MAX + 1, HOLDER_VIF_PREFIX "%s", i->name);
    return out;
}

static struct network_item *find_card(struct network *n, json_t *params)
{
    const char *name = json_string_value(json_object_get(params, "vif"));
    return name ? network_find(n, NETWORK_VIF, name) : NULL;
}

void network_hold(struct network *n, json_t *params, struct link_msg *msg)
{
    struct network_item *i = find_card(n, params);
    const char *name = json_string_value(json_object_get(params, "name"));
    int fd = msg->fd_count == 1 ? msg->fds[0] : -1;
    if (!i || !name || !*name || strlen(name) > HELD_NAME_MAX || strcmp(name, "listen") == 0 || fd < 0) {
        log_limited(LOG_LEVEL_WARN, "switch: it wants something kept without a card, a name or a descriptor");
        return;
    }
    char owner[HOLDER_NAME_MAX + 1];
    unsigned before = i->held.count;
    bool room = n->held_count < n->held_max || held_find(&i->held, name);
    if (!room || !held_keep(&i->held, name, fd)) {
        log_limited(LOG_LEVEL_ERROR, "vif %s: the switch wants more than %u descriptors kept for it, or %u for all",
                    i->name, HELD_MAX, n->held_max);
        return;
    }
    n->held_count += i->held.count - before;
    holder_put(n->host->holder, holder_name(i, owner), name, fd);
    msg->fds[0] = -1;
    if (strcmp(name, "conn") == 0) snprintf(i->front_end, sizeof i->front_end, "connected");
}

static void drop_one(struct network_item *i, const char *name)
{
    char owner[HOLDER_NAME_MAX + 1];
    if (!held_drop(&i->held, name)) return;
    i->network->held_count--;
    holder_drop(i->network->host->holder, holder_name(i, owner), name);
    if (strcmp(name, "conn") == 0 && strcmp(i->front_end, "connected") == 0)
        snprintf(i->front_end, sizeof i->front_end, "listening");
}

void network_unhold(struct network *n, json_t *params)
{
    struct network_item *i = find_card(n, params);
    const char *name = json_string_value(json_object_get(params, "name"));
    if (i && name) drop_one(i, name);
}

void network_drop_held(struct network_item *i)
{
    char owner[HOLDER_NAME_MAX + 1];
    i->network->held_count -= i->held.count;
    held_clear(&i->held);
    holder_clear(i->network->host->holder, holder_name(i, owner));
}

void network_drop_stale(struct network *n)
{
    LIST_FOR_EACH (node, &n->items[NETWORK_VIF]) {
        struct network_item *i = list_entry(node, struct network_item, node);
        for (unsigned k = i->held.count; k-- > 0;) {
            if (!i->held.list[k].stale) continue;
            char name[LINK_FD_NAME_MAX + 1];
            memcpy(name, i->held.list[k].name, sizeof name);
            drop_one(i, name);
        }
    }
}

void network_load_held(struct network_item *i)
{
    char owner[HOLDER_NAME_MAX + 1];
    holder_get(i->network->host->holder, holder_name(i, owner), &i->held);
    i->network->held_count += i->held.count;
    if (held_find(&i->held, "conn")) snprintf(i->front_end, sizeof i->front_end, "connected");
}

void network_fill_holder(struct network *n, struct holder *to)
{
    char owner[HOLDER_NAME_MAX + 1];
    if (!n) return;
    LIST_FOR_EACH (node, &n->items[NETWORK_VIF]) {
        const struct network_item *i = list_entry(node, struct network_item, node);
        for (unsigned k = 0; k < i->held.count; k++)
            holder_put(to, holder_name(i, owner), i->held.list[k].name, i->held.list[k].fd);
    }
}

/* ---- The socket ---- */

int network_listen(struct network_item *i, struct errmsg *e)
{
    char buffer[PATH_MAX];
    const struct host *h = i->network->host;
    const char *path = network_socket_path(i, buffer);
    if (i->listen_fd >= 0) return 0;
    if (!path) return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", h->run_dir);
    int ret = unix_socket_listen(&i->listen_fd, SOCK_STREAM, path, h->socket_mode, e);
    if (ret == 0 && h->socket_gid != (gid_t)-1 && lchown(path, (uid_t)-1, h->socket_gid) < 0)
        ret = errmsg_sys(e, errno, "%s: giving it to the group of virtual machines", path);
    return ret;
}

/* ---- To a new switch ---- */

static void held_answered(void *arg, const struct peer_answer *a)
{
    network_answered(arg);
    if (a->ret < 0 && a->ret != -EPIPE) log_warn("switch: vif.held: %s", a->message);
}

static unsigned names_of(const struct network_item *i, unsigned from, unsigned most, const char **names, int *fds)
{
    unsigned count = 0;
    for (; from < i->held.count && count < most; from++, count++) {
        names[count] = i->held.list[from].name;
        fds[count] = i->held.list[from].fd;
    }
    return count;
}

void network_ask_attach(struct network_item *i, peer_done done)
{
    struct network *n = i->network;
    struct peer *peer = switch_keeper_peer(n->keeper);
    const char *names[LINK_FDS_MAX];
    int fds[LINK_FDS_MAX];
    unsigned sent = 0;
    for (unsigned k = 0; k < i->held.count; k++)
        i->held.list[k].stale = false; /* this switch gets it from us */
    while (i->held.count - sent > LINK_FDS_MAX - 1) {
        unsigned count = names_of(i, sent, LINK_FDS_MAX, names, fds);
        n->asked++;
        peer_ask(peer, "vif.held", json_pack("{s:s}", "name", i->name), names, fds, count, ATTACH_LIMIT_MS,
                 held_answered, n);
        sent += count;
    }
    unsigned count = names_of(i, sent, LINK_FDS_MAX - 1, names, fds);
    json_t *params = json_copy(i->config);
    json_object_del(params, "socket");
    if (network_is_xen(i)) {
        json_object_set_new(params, "xen", network_xen_for_switch(i->config));
    } else {
        names[count] = "listen";
        fds[count++] = i->listen_fd;
    }
    json_t *policy = network_policy_of(n, "vif", i->name);
    if (policy) json_object_set_new(params, "policy", policy);
    n->asked++;
    peer_ask(peer, "vif.attach", params, names, fds, count, ATTACH_LIMIT_MS, done, i);
}
