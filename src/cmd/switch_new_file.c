/* SPDX-License-Identifier: Apache-2.0 */
/* A new flow file in the place of the one in use: the switch's part of what switch_keep.h says. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/switch_net.h"

#define ROUNDS_MAX 5u /* a file that is changed all the time is waited for in the end */

/* ---- asking for one ---- */

void net_new_file_want(struct net_bridge *b)
{
    if (b->keep.new_wanted || !b->net->keeper.flows_grown) return;
    b->keep.new_wanted = true;
    net_new_file_ask(b);
}

void net_new_file_ask(struct net_bridge *b)
{
    struct net_keep *k = &b->keep;
    if (!k->new_wanted || k->new_asked || k->next.fd >= 0) return;
    k->new_asked = true;
    b->net->keeper.flows_grown(b->net->keeper.arg, b->name);
}

void net_new_file_ask_again(struct net_bridge *b)
{
    b->keep.new_asked = false;
    net_new_file_ask(b);
}

/* ---- its end ---- */

static void forget(struct net_keep *k)
{
    k->next = (struct net_flow_file){.fd = -1};
    k->next_ready = false;
    k->next_ticket = 0;
}

static void give_up(struct net_bridge *b, int ret, const char *why)
{
    struct net_keep *k = &b->keep;
    const struct net_keeper *keeper = &b->net->keeper;
    uint64_t ticket = k->next_ticket;
    if (k->next.fd < 0) return;
    net_sync_forget(b->net->sync, bridge_number(b->bridge), k->next.slot);
    close(k->next.fd);
    forget(k);
    if (ticket) keeper->answer(keeper->arg, ticket, ret, why, NULL);
}

void net_new_file_left(struct net_bridge *b)
{
    if (!b->keep.next_ready) give_up(b, -ECANCELED, "the link ended");
}

void net_new_file_close(struct net_bridge *b)
{
    struct net_keep *k = &b->keep;
    if (!k->next_ready) {
        give_up(b, -ECANCELED, "the bridge ended");
        return;
    }
    if (k->next.unsynced) net_sync_begin(b->net->sync, bridge_number(b->bridge), k->next.slot, k->next.fd);
    close(k->next.fd);
    forget(k);
}

/* ---- its beginning ---- */

static json_t *file_json(const struct net_bridge *b)
{
    return json_pack("{s:I}", "flows", (json_int_t)bridge_flow_count(b->bridge));
}

/* 0: the disk has it, with all that came to it meanwhile. */
static int wait_for_disk(struct net_bridge *b)
{
    struct net_keep *k = &b->keep;
    unsigned number = bridge_number(b->bridge);
    int ret = net_sync_result(b->net->sync, number, k->next.slot);
    if (ret == 0) ret = k->next.error;
    if (ret < 0 || !k->next.unsynced) return ret;
    k->next.unsynced = false;
    if (k->next_rounds++ >= ROUNDS_MAX) return fdatasync(k->next.fd) < 0 ? -errno : 0;
    ret = net_sync_begin(b->net->sync, number, k->next.slot, k->next.fd);
    return ret < 0 ? ret : -EINPROGRESS;
}

void net_new_file_ticked(struct net_bridge *b)
{
    struct net_keep *k = &b->keep;
    const struct net_keeper *keeper = &b->net->keeper;
    uint64_t ticket = k->next_ticket;
    if (k->next.fd < 0 || k->next_ready) return;
    int ret = wait_for_disk(b);
    if (ret == -EINPROGRESS) return;
    if (ret < 0) {
        give_up(b, ret, strerror(-ret));
        return;
    }
    k->next_ready = true;
    k->next_ticket = 0;
    keeper->answer(keeper->arg, ticket, 0, NULL, file_json(b));
}

/* Written at once; the disk is waited for by another thread, if the answer can come later. */
static int new_file(struct net_bridge *b, int fd, struct net_request *r)
{
    struct net_keep *k = &b->keep;
    bool later = b->net->keeper.answer && r->ticket;
    struct errmsg e = {""};
    uint64_t lines = 0;
    unsigned slot = 1 - k->file.slot;
    if (k->file.fd < 0) return errmsg_set(r->e, EINVAL, "bridge %s: its flows are not kept", b->name);
    k->new_asked = false;
    net_keep(b, false, &e); /* one that cannot be written needs a new one all the more */
    give_up(b, -ECANCELED, "another new file came");
    int ret = flow_log_write_all(b, fd, &lines);
    if (ret == 0 && later) ret = net_sync_begin(b->net->sync, bridge_number(b->bridge), slot, fd);
    else if (ret == 0 && fdatasync(fd) < 0) ret = -errno;
    if (ret < 0) return errmsg_sys(r->e, -ret, "bridge %s: writing its flows", b->name);
    k->next = (struct net_flow_file){.fd = fd, .slot = slot, .lines = lines};
    k->next_rounds = 0;
    k->next_ready = !later;
    k->next_ticket = later ? r->ticket : 0;
    r->deferred = later;
    if (!later) r->result = file_json(b);
    return 0;
}

/* A bridge and a descriptor for its flows, which is the caller's (or -1) whatever *ret is: 0 or -errno with the reason. */
static struct net_bridge *take_file(struct net *n, struct net_request *r, int *fd, int *ret)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    *fd = request_take_fd(r, "flows");
    struct net_bridge *b = request_bridge(n, &f, r->e, ret);
    if (*ret == 0) *ret = fields_done(&f, r->e);
    if (*ret == 0 && *fd < 0) *ret = errmsg_set(r->e, EINVAL, "flows: the descriptor is missing");
    return b;
}

int request_flows_file(struct net *n, struct net_request *r)
{
    int ret, fd;
    struct net_bridge *b = take_file(n, r, &fd, &ret);
    if (ret == 0) ret = new_file(b, fd, r);
    if (ret < 0 && fd >= 0) close(fd);
    return ret;
}

/* ---- its name ---- */

static bool is_same(int fd, int other)
{
    struct stat a, b;
    return other >= 0 && fstat(fd, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static void use_next(struct net_bridge *b)
{
    struct net_keep *k = &b->keep;
    net_sync_forget(b->net->sync, bridge_number(b->bridge), k->file.slot);
    close(k->file.fd);
    k->file = k->next;
    forget(k);
    k->new_wanted = k->new_asked = false;
}

static int placed(struct net_bridge *b, int fd, struct errmsg *e)
{
    struct net_keep *k = &b->keep;
    if (k->file.fd < 0) return errmsg_set(e, EINVAL, "bridge %s: its flows are not kept", b->name);
    if (is_same(fd, k->file.fd)) give_up(b, -ECANCELED, "the file in use keeps its place");
    else if (k->next_ready && is_same(fd, k->next.fd)) use_next(b);
    else return errmsg_set(e, ESTALE, "bridge %s: its flows are in another file", b->name);
    return 0;
}

int request_flows_placed(struct net *n, struct net_request *r)
{
    int ret, fd;
    struct net_bridge *b = take_file(n, r, &fd, &ret);
    if (ret == 0) ret = placed(b, fd, r->e);
    if (fd >= 0) close(fd);
    return ret;
}
