/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports: what they have in common with VIFs (a name, a place on a bridge), and those that are the host's: tap, af_packet,
 * af_xdp. Every receive queue of such a port is a source with a runner of its own.
 *
 * A port whose interface is gone (deleted, or its driver loaded anew) stays, with its number, settings, capture and statistics:
 * one that drops everything takes its place on the bridge, and the interface is tried again until it can be opened.
 */
#include "cmd/switch_net.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "loop/clock.h"
#include "port/af_packet.h"
#include "port/af_xdp.h"
#include "port/capture.h"
#include "port/tap.h"

#define MTU_MIN 68u
#define MTU_MAX 65535u
#define RETRY_NS (2 * NS_PER_SECOND)

/* ---- what all have in common ---- */

struct attachment *net_attachment_find(struct net *n, const char *name)
{
    LIST_FOR_EACH (node, &n->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (strcmp(a->name, name) == 0) return a;
    }
    return NULL;
}

int attachment_check_name(struct net *n, const char *name, struct errmsg *e)
{
    const struct attachment *a = net_attachment_find(n, name);
    if (!a) return 0;
    return errmsg_set(e, EEXIST, "%s: there is a %s of that name on bridge %s", name, a->is_vif ? "VIF" : "port",
                      a->bridge->name);
}

int attachment_join(struct attachment *a, struct net_bridge *b, uint32_t number, struct errmsg *e)
{
    a->bridge = b;
    int ret = bridge_add_port(b->bridge, a->port, number, &a->vlan, &a->sp, e);
    if (ret == 0) net_port_config_apply(a);
    return ret;
}

void attachment_leave(struct attachment *a)
{
    if (a->sp) bridge_remove_port(a->sp);
    a->sp = NULL;
    net_capture_end(a);
}

/* ---- opening one ---- */

enum port_type { TYPE_TAP, TYPE_AF_PACKET, TYPE_AF_XDP };
static const char *const type_names[] = {"tap", "af_packet", "af_xdp", NULL};

struct net_port {
    struct attachment a;
    struct net *net;
    enum port_type type;
    char device[16];
    unsigned queues;
    bool gro, running;
    bool ours;    /* a tap that we made, and that stays when we end */
    uint32_t mtu; /* 0: as the device has it */
    struct port_source *source[NET_PORT_QUEUES_MAX];
    struct runner *runner[NET_PORT_QUEUES_MAX];
    struct port lost; /* a.port, when it is broken: why, and when it is tried again */
    char why[256];
    uint64_t retry_ns;
};

static struct net_port *port_of(struct attachment *a)
{
    return container_of(a, struct net_port, a);
}

/*
 * Under a daemon an interface stays when we end: its addresses and routes are the host's, and the next process takes it
 * up again. One that was there before is not ours to delete. Which ones we made must be known to the next process as well:
 * they belong to user 0, others usually to nobody.
 */
static bool tap_was_made_by_us(const char *device)
{
    char path[64], owner[16] = "";
    snprintf(path, sizeof path, "/sys/class/net/%s/owner", device);
    FILE *in = fopen(path, "re");
    if (!in) return false;
    bool ours = fgets(owner, sizeof owner, in) && strcmp(owner, "0\n") == 0;
    fclose(in);
    return ours;
}

static int open_tap(struct net_port *p, struct errmsg *e)
{
    struct tap *t;
    bool there = if_nametoindex(p->device) != 0;
    p->ours = p->net->survives && (!there || tap_was_made_by_us(p->device));
    struct tap_config c = {.name = p->a.name,
                           .device = p->device,
                           .queues = p->queues,
                           .mtu = p->mtu,
                           .persist = p->net->survives || there};
    int ret = tap_open(&t, &c, e);
    if (ret < 0) return ret;
    p->a.port = tap_port(t);
    for (unsigned i = 0; i < p->queues; i++)
        p->source[i] = tap_source(t, i);
    snprintf(p->device, sizeof p->device, "%s", tap_device(t));
    if (p->ours) ioctl(p->source[0]->fd, TUNSETOWNER, 0);
    return 0;
}

static int open_af_packet(struct net_port *p, struct errmsg *e)
{
    struct af_packet *a;
    struct af_packet_config c = {.name = p->a.name, .device = p->device, .queues = p->queues};
    int ret = af_packet_open(&a, &c, e);
    if (ret < 0) return ret;
    p->a.port = af_packet_port(a);
    for (unsigned i = 0; i < p->queues; i++)
        p->source[i] = af_packet_source(a, i);
    if (p->mtu) atomic_store(&p->a.port->mtu, p->mtu);
    return 0;
}

/* It serves as many queues as the card has. */
static int open_af_xdp(struct net_port *p, struct errmsg *e)
{
    struct af_xdp *x;
    struct af_xdp_config c = {.name = p->a.name, .device = p->device};
    int ret = af_xdp_open(&x, &c, e);
    if (ret < 0) return ret;
    p->a.port = af_xdp_port(x);
    p->queues = 0;
    while (p->queues < NET_PORT_QUEUES_MAX && (p->source[p->queues] = af_xdp_source(x, p->queues)))
        p->queues++;
    if (p->mtu) atomic_store(&p->a.port->mtu, p->mtu);
    return 0;
}

static int open_port(struct net_port *p, struct errmsg *e)
{
    switch (p->type) {
    case TYPE_TAP: return open_tap(p, e);
    case TYPE_AF_PACKET: return open_af_packet(p, e);
    case TYPE_AF_XDP: return open_af_xdp(p, e);
    }
    return errmsg_set(e, EOPNOTSUPP, "port %s: of no known type", p->a.name);
}

/* ---- its threads ---- */

static void stop(struct net_port *p)
{
    for (unsigned i = 0; i < p->queues; i++) {
        if (p->source[i]) runner_remove(p->source[i]);
        if (p->runner[i]) net_runner_free(p->net, p->runner[i]);
        p->runner[i] = NULL;
    }
    p->running = false;
}

static int start(struct net_port *p)
{
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < p->queues; i++) {
        if (!p->source[i]) continue;
        p->source[i]->gro = p->gro;
        ret = net_runner_new(p->net, &p->runner[i]);
        if (ret == 0) ret = runner_add(p->runner[i], p->source[i]);
    }
    p->running = ret == 0;
    if (ret < 0) stop(p);
    return ret;
}

void net_port_settle(struct attachment *a)
{
    struct net_port *p = port_of(a);
    int ret = p->running ? 0 : start(p);
    if (ret < 0) log_error("port %s: its threads cannot be started: %s", a->name, strerror(-ret));
}

/* ---- without its interface ---- */

static void lost_send(struct port *port, struct packet *const *packets, unsigned n, struct packet_pool *pool)
{
    (void)packets;
    (void)pool;
    atomic_fetch_add_explicit(&port->out.dropped, n, memory_order_relaxed);
}

static bool lost_link_up(struct port *port)
{
    (void)port;
    return false;
}

static void lost_free(struct port *port)
{
    (void)port; /* it is part of the net_port */
}

static const struct port_ops lost_ops[] = {
    [TYPE_TAP] = {.type = "tap", .send = lost_send, .link_up = lost_link_up, .free = lost_free},
    [TYPE_AF_PACKET] = {.type = "af_packet", .send = lost_send, .link_up = lost_link_up, .free = lost_free},
    [TYPE_AF_XDP] = {.type = "af_xdp", .send = lost_send, .link_up = lost_link_up, .free = lost_free},
};

static bool is_lost(const struct net_port *p)
{
    return p->a.port == &p->lost;
}

/* `by` in the place of the port, which is freed. No source of either is on a runner. */
static void replace(struct net_port *p, struct port *by)
{
    struct attachment *a = &p->a;
    struct port *old = a->port;
    struct port_stats counted = {0};
    struct errmsg e;
    uint32_t number = switch_port_number(a->sp);
    bridge_remove_port(a->sp); /* nobody uses it any more */
    port_stats_read(old, &counted);
    port_stats_go_on(by, &counted);
    if (a->capture) port_capture_move(a->capture, by);
    old->ops->free(old);
    a->port = by;
    while (bridge_add_port(a->bridge->bridge, by, number, &a->vlan, &a->sp, &e) <
           0) /* no memory; it has a right to its place */
        switch_barrier(p->net->sw);
    net_port_config_apply(a);
    switch_barrier(p->net->sw);
}

static void lose(struct net_port *p, int error)
{
    stop(p);
    snprintf(p->why, sizeof p->why, "%s: %s", p->device, strerror(-error));
    log_limited(LOG_LEVEL_WARN, "port %s is broken: %s; it is tried again every two seconds", p->a.name, p->why);
    port_init(&p->lost, &lost_ops[p->type], p->a.name);
    atomic_store(&p->lost.mtu, atomic_load(&p->a.port->mtu));
    replace(p, &p->lost);
    memset(p->source, 0, sizeof p->source);
    p->retry_ns = clock_now_ns() + RETRY_NS;
}

static void try_again(struct net_port *p)
{
    struct errmsg e = {""};
    int ret = open_port(p, &e);
    if (ret < 0) {
        snprintf(p->why, sizeof p->why, "%s", e.text);
        p->retry_ns = clock_now_ns() + RETRY_NS;
        return;
    }
    struct port *opened = p->a.port;
    p->a.port = &p->lost;
    replace(p, opened);
    ret = start(p);
    if (ret < 0) lose(p, ret);
    else log_limited(LOG_LEVEL_INFO, "port %s works again: %s could be opened", p->a.name, p->device);
}

static int error_of(struct net_port *p)
{
    int error = p->a.port->ops->broken ? p->a.port->ops->broken(p->a.port) : 0;
    for (unsigned i = 0; error == 0 && i < p->queues; i++)
        if (p->source[i]) error = atomic_load(&p->source[i]->broken);
    return error;
}

void net_port_look(struct attachment *a, uint64_t now_ns)
{
    struct net_port *p = port_of(a);
    if (is_lost(p)) {
        if (now_ns >= p->retry_ns) try_again(p);
        return;
    }
    int error = p->running ? error_of(p) : 0;
    if (error) lose(p, error);
}

void net_port_free(struct attachment *a)
{
    struct net_port *p = port_of(a);
    stop(p);
    attachment_leave(a);
    list_remove(&a->node);
    if (a->port) a->port->ops->free(a->port);
    free(p);
}

/* ---- requests ---- */

static int read_port(struct net_port *p, struct fields *f, uint32_t *number)
{
    p->type = (enum port_type)fields_choice(f, "type", TYPE_TAP, type_names);
    const char *device = fields_string(f, "device", p->a.name, sizeof p->device - 1);
    if (!f->error->failed && strlen(device) >= sizeof p->device)
        fields_refuse(f, "device", "the name of a network interface, at most %zu bytes", sizeof p->device - 1);
    snprintf(p->device, sizeof p->device, "%s", device);
    p->queues = (unsigned)fields_uint(f, "queues", 1, 1, NET_PORT_QUEUES_MAX);
    p->gro = fields_bool(f, "gro", p->net->options.gro);
    p->mtu = fields_has(f, "mtu") ? (uint32_t)fields_uint(f, "mtu", 0, MTU_MIN, MTU_MAX) : 0;
    *number = (uint32_t)fields_uint(f, "number", 0, 0, SWITCH_PORT_MAX - 1);
    fields_vlan(f, &p->a.vlan);
    return f->error->failed ? -EINVAL : 0;
}

int request_port_add(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    const char *name = fields_name(&f, "name");
    uint32_t number;
    int ret;
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    if (ret == 0) ret = attachment_check_name(n, name, r->e);
    if (ret < 0) return ret;
    struct net_port *p = calloc(1, sizeof *p);
    if (!p) return errmsg_set(r->e, ENOMEM, "out of memory");
    p->net = n;
    snprintf(p->a.name, sizeof p->a.name, "%s", name);
    list_push_back(&n->attachments, &p->a.node);
    read_port(p, &f, &number);
    ret = fields_done(&f, r->e);
    if (ret == 0) ret = open_port(p, r->e);
    if (ret == 0) ret = attachment_join(&p->a, b, number, r->e);
    if (ret == 0) switch_barrier(n->sw);
    if (ret == 0 && n->settled && (ret = start(p)) < 0) errmsg_sys(r->e, -ret, "port %s: starting its threads", name);
    if (ret < 0) {
        net_port_free(&p->a);
        return ret;
    }
    r->result = net_port_json(&p->a);
    return 0;
}

static struct net_port *request_port(struct net *n, struct fields *f, struct errmsg *e, int *ret)
{
    const char *name = fields_string(f, "name", FIELD_REQUIRED, PORT_NAME_BYTES - 1);
    const char *bridge = fields_string(f, "bridge", "", PORT_NAME_BYTES - 1);
    struct attachment *a = f->error->failed ? NULL : net_attachment_find(n, name);
    if (a && !a->is_vif && (!*bridge || strcmp(a->bridge->name, bridge) == 0)) {
        *ret = 0;
        return port_of(a);
    }
    *ret = f->error->failed ? errmsg_set(e, EINVAL, "%s", f->error->message)
           : a ? errmsg_set(e, ENOENT, "port %s: it is %s %s", name, a->is_vif ? "a VIF of bridge" : "on bridge",
                            a->bridge->name)
               : errmsg_set(e, ENOENT, "port %s: there is no such port", name);
    return NULL;
}

int request_port_del(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret;
    struct net_port *p = request_port(n, &f, r->e, &ret);
    if (ret == 0) ret = fields_done(&f, r->e);
    if (ret < 0) return ret;
    if (p->ours && p->source[0]) ioctl(p->source[0]->fd, TUNSETPERSIST, 0);
    net_port_config_forget(&p->a);
    net_port_free(&p->a);
    return 0;
}

int request_port_set(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret;
    struct net_port *p = request_port(n, &f, r->e, &ret);
    if (ret < 0) return ret;
    struct switch_port_config vlan = p->a.vlan;
    uint32_t mtu = fields_has(&f, "mtu") ? (uint32_t)fields_uint(&f, "mtu", 0, MTU_MIN, MTU_MAX) : p->mtu;
    bool gro = fields_bool(&f, "gro", p->gro);
    fields_any(&f, "mtu");
    fields_vlan(&f, &vlan);
    ret = fields_done(&f, r->e);
    if (ret < 0) return ret;
    p->a.vlan = vlan;
    switch_port_set(p->a.sp, &p->a.vlan);
    if (mtu != p->mtu) atomic_store(&p->a.port->mtu, mtu);
    p->mtu = mtu;
    if (gro != p->gro) {
        p->gro = gro;
        if (p->running) {
            stop(p);
            ret = start(p);
        }
    }
    switch_barrier(n->sw);
    if (ret < 0) return errmsg_sys(r->e, -ret, "port %s: starting its threads", p->a.name);
    r->result = net_port_json(&p->a);
    return 0;
}

json_t *net_port_json(struct attachment *a)
{
    struct net_port *p = port_of(a);
    bool link = !a->port->ops->link_up || a->port->ops->link_up(a->port);
    json_t *j = json_pack("{s:s, s:s, s:s, s:I, s:s, s:i, s:I, s:b, s:s}", "name", a->name, "bridge", a->bridge->name,
                          "type", type_names[p->type], "number", (json_int_t)switch_port_number(a->sp), "device",
                          p->device, "queues", (int)p->queues, "mtu", (json_int_t)atomic_load(&a->port->mtu), "gro",
                          p->gro, "link", link ? "up" : "down");
    if (is_lost(p)) json_object_set_new(j, "broken", json_string(p->why));
    return vlan_json(&a->vlan, j);
}
