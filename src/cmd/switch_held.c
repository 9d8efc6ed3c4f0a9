/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of a VIF survives this process, when a daemon holds it: one memfd ("state"), laid out as
 *
 *     head, with the card's vif_kept | vhost_state, or a Xen guest's netif_state
 *
 * and the descriptors that the session names (connection, memory, kick, call, err). There are no in-flight tables: every
 * queue completes in order, so its place in vif_kept says all. Without a daemon the state is private memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/switch_net.h"

#define STATE_MAGIC UINT64_C(0x3146495654454e43) /* "CNETVIF1" */
#define STATE_HEAD_BYTES 4096u
#define STATE "state"
#define HELD_MAX (GUEST_REGIONS_MAX + 3 * VHOST_QUEUES_MAX + 16)

struct state_head {
    uint64_t magic;
    uint32_t queues, packed;
    uint64_t vhost_bytes;
    struct vif_kept kept;
};
static_assert(sizeof(struct state_head) <= STATE_HEAD_BYTES, "the head has a page");

/* ---- descriptors ---- */

static struct held *find(const struct net_vif *v, const char *name)
{
    for (unsigned i = 0; i < v->held_count; i++)
        if (strcmp(v->held[i].name, name) == 0) return &v->held[i];
    return NULL;
}

const struct held *vif_held_find(const struct net_vif *v, const char *name)
{
    return find(v, name);
}

/* fd is taken over. A descriptor of that name is replaced. */
static int held_add(struct held **list, unsigned *count, const char *name, int fd)
{
    for (unsigned i = 0; i < *count; i++) {
        if (strcmp((*list)[i].name, name) != 0) continue;
        close((*list)[i].fd);
        (*list)[i].fd = fd;
        return 0;
    }
    struct held *grown = *count < HELD_MAX ? realloc(*list, (*count + 1) * sizeof **list) : NULL;
    if (!grown) {
        close(fd);
        return -ENOSPC;
    }
    *list = grown;
    snprintf(grown[*count].name, sizeof grown[*count].name, "%s", name);
    grown[(*count)++].fd = fd;
    return 0;
}

/* Whoever keeps it has the duplicate; the session has the one that it uses. */
static void keep(void *arg, const char *name, int fd)
{
    struct net_vif *v = arg;
    if (v->net->keeper.hold) v->net->keeper.hold(v->net->keeper.arg, v->a.name, name, fd);
}

static void drop(void *arg, const char *name)
{
    struct net_vif *v = arg;
    if (v->net->keeper.unhold) v->net->keeper.unhold(v->net->keeper.arg, v->a.name, name);
}

struct guest_hold vif_hold(struct net_vif *v)
{
    return v->state_fd < 0 ? (struct guest_hold){0} : (struct guest_hold){.keep = keep, .drop = drop, .arg = v};
}

unsigned vif_held_give(struct net_vif *v, const char **names, int *fds)
{
    unsigned count = 0;
    for (unsigned i = 0; i < v->held_count; i++) {
        if (strcmp(v->held[i].name, STATE) == 0 || v->held[i].fd < 0) continue;
        names[count] = v->held[i].name;
        fds[count++] = v->held[i].fd;
        v->held[i].fd = -1;
    }
    return count;
}

void vif_held_forget(struct net_vif *v, bool dropped)
{
    for (unsigned i = 0; i < v->held_count; i++) {
        if (v->held[i].fd >= 0) close(v->held[i].fd);
        if (dropped && strcmp(v->held[i].name, STATE) != 0) drop(v, v->held[i].name);
    }
    free(v->held);
    v->held = NULL;
    v->held_count = 0;
}

void vif_held_again(struct net_vif *v)
{
    if (v->state_fd >= 0) keep(v, STATE, v->state_fd);
    for (unsigned i = 0; i < v->held_count; i++)
        if (strcmp(v->held[i].name, STATE) != 0 && v->held[i].fd >= 0) keep(v, v->held[i].name, v->held[i].fd);
    if (v->session) vhost_session_rekeep(v->session);
}

/* ---- what a predecessor left ---- */

static int take_message(struct held **list, unsigned *count, struct net_request *r)
{
    for (unsigned i = 0; r->msg && i < r->msg->fd_count; i++) {
        const char *name = r->msg->names[i];
        if (strncmp(name, "held:", 5) == 0) name += 5;
        if (r->msg->fds[i] < 0) continue;
        if (strlen(name) >= sizeof(*list)->name)
            return errmsg_set(r->e, EINVAL, "%s: too long a name for a held descriptor", name);
        int ret = held_add(list, count, name, r->msg->fds[i]);
        r->msg->fds[i] = -1;
        if (ret < 0) return errmsg_set(r->e, -ret, "%s: more than %u descriptors held", name, HELD_MAX);
    }
    return 0;
}

static struct vif_waiting *waiting_find(struct net *n, const char *vif)
{
    LIST_FOR_EACH (node, &n->waiting) {
        struct vif_waiting *w = list_entry(node, struct vif_waiting, node);
        if (strcmp(w->vif, vif) == 0) return w;
    }
    return NULL;
}

int request_vif_held(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    const char *name = fields_name(&f, "name");
    int ret = fields_done(&f, r->e);
    if (ret < 0) return ret;
    ret = attachment_check_name(n, name, r->e);
    if (ret < 0) return ret;
    struct vif_waiting *w = waiting_find(n, name);
    if (!w) {
        w = calloc(1, sizeof *w);
        if (!w) return errmsg_set(r->e, ENOMEM, "out of memory");
        snprintf(w->vif, sizeof w->vif, "%s", name);
        list_push_back(&n->waiting, &w->node);
    }
    return take_message(&w->held, &w->held_count, r);
}

int vif_held_take(struct net_vif *v, struct net_request *r)
{
    struct vif_waiting *w = waiting_find(v->net, v->a.name);
    if (w) {
        v->held = w->held;
        v->held_count = w->held_count;
        list_remove(&w->node);
        free(w);
    }
    return take_message(&v->held, &v->held_count, r);
}

/* ---- state ---- */

/* Behind the head: of a session, or of a Xen guest's rings. */
static uint64_t inner_bytes(const struct net_vif *v)
{
    return v->xen.used ? netif_state_bytes(v->s.queues) : vhost_state_bytes();
}

static struct state_head *head(struct net_vif *v)
{
    return (struct state_head *)(void *)v->state;
}

static int state_memfd(struct net_vif *v, struct errmsg *e)
{
    v->state_fd = memfd_create("creedence-vif-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (v->state_fd < 0 || ftruncate(v->state_fd, (off_t)v->state_bytes) < 0)
        return errmsg_sys(e, errno, "VIF %s: memory for its state", v->a.name);
    fcntl(v->state_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    return 0;
}

/* What is of no use is not used: the guest's connection is lost then, not its card. */
static bool state_fits(struct net_vif *v)
{
    const struct state_head *h = head(v);
    bool fits = h->magic == STATE_MAGIC && h->queues == v->s.queues && h->packed == v->s.packed &&
                h->vhost_bytes == inner_bytes(v);
    if (!fits)
        log_error("VIF %s: the state left by the last process is of another layout (%u queues, expected %u)", v->a.name,
                  h->queues, v->s.queues);
    return fits;
}

/* New memory is zero, and most of it is never touched. */
static void state_begin(struct net_vif *v, bool fresh)
{
    if (!fresh) memset(v->state, 0, v->state_bytes);
    *head(v) = (struct state_head){
        .magic = STATE_MAGIC, .queues = v->s.queues, .packed = v->s.packed, .vhost_bytes = inner_bytes(v)};
}

static int state_map(struct net_vif *v, struct errmsg *e)
{
    int flags = v->state_fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void *mem = mmap(NULL, v->state_bytes, PROT_READ | PROT_WRITE, flags, v->state_fd, 0);
    if (mem == MAP_FAILED) return errmsg_sys(e, errno, "VIF %s: mapping its state", v->a.name);
    v->state = mem;
    return 0;
}

int vif_state_open(struct net_vif *v, struct errmsg *e)
{
    const struct held *h = find(v, STATE);
    v->state_bytes = STATE_HEAD_BYTES + align_up(inner_bytes(v), 4096);
    if (h && (uint64_t)lseek(h->fd, 0, SEEK_END) != v->state_bytes) {
        log_error("VIF %s: the state left by the last process is of another size", v->a.name);
        vif_held_forget(v, true);
        h = NULL;
    }
    if (h) v->state_fd = fcntl(h->fd, F_DUPFD_CLOEXEC, 0);
    bool fresh = v->state_fd < 0;
    int ret = fresh && v->net->survives ? state_memfd(v, e) : 0;
    if (ret == 0) ret = state_map(v, e);
    if (ret < 0) return ret;
    if (!fresh && state_fits(v)) return 0;
    if (!fresh) vif_state_forget_session(v);
    state_begin(v, fresh);
    if (v->state_fd >= 0) keep(v, STATE, v->state_fd);
    return 0;
}

struct vif_kept *vif_state_kept(struct net_vif *v)
{
    return &head(v)->kept;
}

struct vhost_state *vif_state_session(struct net_vif *v)
{
    return (struct vhost_state *)(void *)(v->state + STATE_HEAD_BYTES);
}

struct netif_state *vif_state_netif(struct net_vif *v)
{
    return (struct netif_state *)(void *)(v->state + STATE_HEAD_BYTES);
}

void vif_state_forget_session(struct net_vif *v)
{
    vif_held_forget(v, true);
    memset(v->state + STATE_HEAD_BYTES, 0, v->state_bytes - STATE_HEAD_BYTES);
}

void vif_held_end(struct net_vif *v, bool dropped)
{
    vif_held_forget(v, dropped);
    if (dropped && v->state_fd >= 0) drop(v, STATE);
    if (v->state) munmap(v->state, v->state_bytes);
    v->state = NULL;
    if (v->state_fd >= 0) close(v->state_fd);
    v->state_fd = -1;
}
