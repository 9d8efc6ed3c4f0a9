/* SPDX-License-Identifier: Apache-2.0 */
/* The holder's own side: a list of disks (and network cards), each with what is held for it. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/holder.h"
#include "loop/clock.h"

#define LOOK_NS NS_PER_SECOND /* is there still a need? while no daemon is connected */
#define FDS_PER_ANSWER 200u

struct disk {
    struct list node;
    char name[HOLDER_NAME_MAX + 1];
    struct held held;
};

struct store {
    struct loop *loop;
    struct list disks;
    struct loop_watch listen_watch, peer_watch;
    struct loop_timer look;
    int listen_fd, sock;
    const char *path;
    struct stat socket; /* what `path` was at the start */
};

static bool name_valid(const char *name)
{
    size_t prefix = sizeof HOLDER_VIF_PREFIX - 1;
    return disk_name_valid(strncmp(name, HOLDER_VIF_PREFIX, prefix) == 0 ? name + prefix : name);
}

static struct disk *find_disk(struct store *s, const char *name, bool make)
{
    LIST_FOR_EACH (node, &s->disks) {
        struct disk *d = list_entry(node, struct disk, node);
        if (strcmp(d->name, name) == 0) return d;
    }
    struct disk *d = make && name_valid(name) ? calloc(1, sizeof *d) : NULL;
    if (!d) return NULL;
    snprintf(d->name, sizeof d->name, "%s", name);
    list_push_back(&s->disks, &d->node);
    return d;
}

static void clear_disk(struct disk *d)
{
    held_clear(&d->held);
    list_remove(&d->node);
    free(d);
}

/* ---- Messages ---- */

static void put(struct store *s, const char *disk, struct link_msg *m)
{
    struct disk *d = m->fd_count == 1 ? find_disk(s, disk, true) : NULL;
    if (d && held_keep(&d->held, m->names[0], m->fds[0])) m->fds[0] = -1;
}

static void drop(struct disk *d, const char *name)
{
    held_drop(&d->held, name);
    if (d->held.count == 0) clear_disk(d);
}

static int get(struct store *s, json_int_t id, const struct disk *d, json_int_t from)
{
    const char *names[FDS_PER_ANSWER];
    int fds[FDS_PER_ANSWER];
    unsigned count = 0, i = from >= 0 && from < HELD_MAX ? (unsigned)from : 0;
    for (; d && i < d->held.count && count < FDS_PER_ANSWER; i++, count++) {
        names[count] = d->held.list[i].name;
        fds[count] = d->held.list[i].fd;
    }
    json_t *body = link_answer(id, json_pack("{s:b}", "more", d && i < d->held.count));
    int ret = body ? link_send(s->sock, body, names, fds, count) : -ENOMEM;
    json_decref(body);
    return ret;
}

static int dispatch(struct store *s, struct link_msg *m)
{
    struct link_head h;
    int ret = link_msg_head(m, &h, NULL);
    if (ret < 0) return ret;
    const char *disk = json_string_value(json_object_get(h.params, "disk"));
    const char *name = json_string_value(json_object_get(h.params, "name"));
    if (!h.method || !disk) return -EPROTO;
    struct disk *d = find_disk(s, disk, false);
    if (strcmp(h.method, "get") == 0) return get(s, h.id, d, json_integer_value(json_object_get(h.params, "from")));
    if (strcmp(h.method, "put") == 0) put(s, disk, m);
    else if (strcmp(h.method, "drop") == 0 && d && name) drop(d, name);
    else if (strcmp(h.method, "clear") == 0 && d) clear_disk(d);
    return 0;
}

/* ---- Life ---- */

static void look(struct loop_timer *t)
{
    struct store *s = container_of(t, struct store, look);
    struct stat st;
    bool found =
        stat(s->path, &st) == 0 ? st.st_ino == s->socket.st_ino && st.st_dev == s->socket.st_dev : errno != ENOENT;
    if (!found || list_empty(&s->disks)) loop_stop(s->loop);
    else loop_timer_arm(s->loop, t, LOOK_NS, look);
}

static void disconnect(struct store *s)
{
    if (s->sock < 0) return;
    loop_remove(&s->peer_watch);
    close(steal_fd(&s->sock));
    loop_timer_arm(s->loop, &s->look, LOOK_NS, look);
}

static void peer_ready(struct loop_watch *w, uint32_t events)
{
    struct store *s = container_of(w, struct store, peer_watch);
    struct link_msg m;
    int ret = link_recv(s->sock, &m, NULL);
    if (ret == -EAGAIN) return;
    if (ret == 0) {
        ret = dispatch(s, &m);
        link_msg_clear(&m);
    }
    if (ret < 0) disconnect(s);
}

/* A new daemon takes the place of the one before. */
static void listen_ready(struct loop_watch *w, uint32_t events)
{
    struct store *s = container_of(w, struct store, listen_watch);
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    disconnect(s);
    s->sock = fd;
    if (loop_add(s->loop, &s->peer_watch, fd, EPOLLIN, peer_ready) < 0) close(steal_fd(&s->sock));
    else loop_timer_cancel(&s->look);
}

int holder_run(int listen_fd, const char *path)
{
    struct store s = {.loop = loop_new(), .listen_fd = listen_fd, .sock = -1, .path = path};
    list_init(&s.disks);
    prctl(PR_SET_NAME, "creedenced-hold");
    prctl(PR_SET_DUMPABLE, 0); /* what it holds is for nobody else */
    signal(SIGTERM, SIG_IGN);  /* meant for the daemon; this one ends when it is of no more use */
    signal(SIGINT, SIG_IGN);
    if (!s.loop || stat(path, &s.socket) < 0 ||
        loop_add(s.loop, &s.listen_watch, listen_fd, EPOLLIN, listen_ready) < 0) {
        log_error("%s: %s", path, strerror(errno));
        loop_free(s.loop);
        return 1;
    }
    loop_timer_arm(s.loop, &s.look, LOOK_NS, look);
    int ret = loop_run(s.loop);
    disconnect(&s);
    while (!list_empty(&s.disks))
        clear_disk(list_entry(s.disks.next, struct disk, node));
    loop_free(s.loop);
    close(listen_fd);
    return ret < 0;
}
