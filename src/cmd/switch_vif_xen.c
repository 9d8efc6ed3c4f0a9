/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VIFs of Xen guests. There is no socket: whoever watches xenstore (the daemon) says where a front end's rings and event channels are
 * (`vif.connect`), what it has changed of that since (`vif.follow`), and that it is gone (`vif.disconnect`); it writes what the card offers (`backend` of the answer to
 * `vif.attach`) where the front end looks for it.
 *
 *     attach --> listening <--> connected
 *
 * A card that is connected again with `resume` goes on where the last process stopped: what survives says where each ring stands.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/checked.h"
#include "base/log.h"
#include "cmd/switch_net.h"
#include "loop/clock.h"

#define DOMID_FIRST_RESERVED 0x7ff0u

/* ---- settings ---- */

static const char *const transmit_names[] = {[NETIF_AUTO] = "auto", [NETIF_COPY] = "copy", [NETIF_MAP] = "map", NULL};

void fields_vif_xen(struct fields *f, struct vif_xen *out)
{
    json_t *o = fields_any(f, "xen");
    if (!o || json_is_null(o)) return;
    struct fields x = fields_begin(o, "xen", f->error);
    out->used = true;
    out->domid = (xen_domid)fields_uint_required(&x, "domid", 0, DOMID_FIRST_RESERVED - 1);
    out->handle = (unsigned)fields_uint(&x, "handle", 0, 0, INT_MAX);
    out->transmit = (enum netif_transmit)fields_choice(&x, "tx", NETIF_AUTO, transmit_names);
    const char *world = fields_string(&x, "world", "", PATH_MAX);
    out->world = *world ? strdup(world) : NULL;
    fields_end(&x);
    if (fields_has(f, "connect") || fields_has(f, "socket")) fields_refuse(f, "xen", "nothing: it has a socket");
}

/* ---- the world ---- */

static int world_open(struct net *n, const char *name, struct errmsg *e)
{
    const char *now = n->world_name ? n->world_name : "";
    if (!name) name = "";
    if (n->world)
        return strcmp(now, name) == 0
                   ? 0
                   : errmsg_set(e, EINVAL, "world: is '%s', expected '%s' as others have", name, now);
    n->world_name = strdup(name);
    if (!n->world_name) return errmsg_set(e, ENOMEM, "out of memory");
    int ret = xen_world_open(&n->world, name, e);
    if (ret < 0) free(n->world_name);
    if (ret < 0) n->world_name = NULL;
    return ret;
}

void net_world_close(struct net *n)
{
    xen_world_close(n->world);
    free(n->world_name);
}

/* Each serves one guest: a mistake of ours shall reach no other's event channels. */
static int open_door(void *arg, xen_domid domid, struct xen **out, struct errmsg *e)
{
    struct net *n = arg;
    int ret = xen_world_door(n->world, out, &n->xen_budget, e);
    if (ret < 0) return ret;
    ret = (*out)->ops->confine(*out, domid);
    if (ret == 0 || ret == -ENOTTY) return 0; /* a kernel before 4.7 */
    xen_close(*out);
    *out = NULL;
    return errmsg_sys(e, -ret, "event channels of domain %u only", domid);
}

static void net_barrier(void *arg)
{
    struct net *n = arg;
    switch_barrier(n->sw);
}

int vif_xen_config(struct net_vif *v, struct netif_config *out, struct errmsg *e)
{
    *out = (struct netif_config){.domid = v->xen.domid,
                                 .transmit = v->xen.transmit,
                                 .open = open_door,
                                 .arg = v->net,
                                 .barrier = net_barrier,
                                 .state = vif_state_netif(v),
                                 .mappers = &v->net->xen_mappers};
    return world_open(v->net, v->xen.world, e);
}

/* ---- what is offered ---- */

static json_t *offers(const struct net_vif *v)
{
    const char *offloads = v->s.offloads ? "1" : "0";
    char queues[12];
    snprintf(queues, sizeof queues, "%u", v->s.queues);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "feature-sg", "1",
                     "feature-gso-tcpv4", offloads, "feature-gso-tcpv6", offloads, "feature-ipv6-csum-offload",
                     offloads, "feature-no-csum-offload", v->s.offloads ? "0" : "1", "feature-rx-copy", "1",
                     "feature-rx-flip", "0", "feature-multicast-control", "1", "feature-dynamic-multicast-control", "1",
                     "feature-split-event-channels", "1", "feature-ctrl-ring", "1", "multi-queue-max-queues", queues);
}

void vif_xen_json(struct net_vif *v, json_t *into)
{
    json_object_set_new(into, "xen",
                        json_pack("{s:i, s:i, s:s}", "domid", (int)v->xen.domid, "handle", (int)v->xen.handle, "tx",
                                  transmit_names[v->xen.transmit]));
    json_object_set_new(into, "backend", offers(v));
}

/* ---- the control ring ---- */

#define CONTROL_AGAIN_NS (10 * NS_PER_MS)

static void control_serve(struct net_vif *v);

static void control_fired(struct loop_timer *t)
{
    control_serve(container_of(t, struct net_vif, xen.control_timer));
}

static void control_ready(struct loop_watch *watch, uint32_t events)
{
    (void)events;
    control_serve(container_of(watch, struct net_vif, xen.control_watch));
}

/* A guest that asks for much waits in between: each change has its price for others. */
static void control_serve(struct net_vif *v)
{
    if (netif_control_serve(v->vif))
        loop_timer_arm(v->net->loop, &v->xen.control_timer, CONTROL_AGAIN_NS, control_fired);
}

static void control_watch(struct net_vif *v)
{
    int fd = netif_control_fd(v->vif);
    int ret = fd < 0 ? 0 : loop_add(v->net->loop, &v->xen.control_watch, fd, EPOLLIN, control_ready);
    if (ret < 0) log_error("VIF %s: its control ring cannot be watched: %s", v->a.name, strerror(-ret));
}

void vif_xen_leave(struct net_vif *v)
{
    loop_remove(&v->xen.control_watch);
    loop_timer_cancel(&v->xen.control_timer);
}

/* ---- a front end ---- */

#define MULTICAST_KEY "request-multicast-control" /* the one that may change while it is connected */

/* A switch that the front end wrote as text: what is no number is not there, as for Linux' own backend. */
static bool front_flag(json_t *front, const char *key, bool fallback)
{
    const char *text = json_string_value(json_object_get(front, key));
    char *end = NULL;
    unsigned long v = text ? strtoul(text, &end, 10) : 0;
    return text && *text && !*end ? v != 0 : fallback;
}

static int read_front(json_t *o, struct netif_front *out, struct errmsg *e)
{
    if (!front_flag(o, "request-rx-copy", false))
        return errmsg_set(e, EOPNOTSUPP, "frontend.request-rx-copy: is not 1: pages are not flipped to guests");
    *out = (struct netif_front){.sg = front_flag(o, "feature-sg", false),
                                .csum_offload = !front_flag(o, "feature-no-csum-offload", false),
                                .csum_offload6 = front_flag(o, "feature-ipv6-csum-offload", false),
                                .gso_tcp4 = front_flag(o, "feature-gso-tcpv4", false),
                                .gso_tcp6 = front_flag(o, "feature-gso-tcpv6", false),
                                .multicast_control = front_flag(o, MULTICAST_KEY, false)};
    return 0;
}

static void read_queue(json_t *o, struct field_error *why, struct netif_queue_setup *out)
{
    struct fields f = fields_begin(o, "queues", why);
    out->tx_ref = (uint32_t)fields_uint_required(&f, "tx-ring-ref", 0, UINT32_MAX);
    out->rx_ref = (uint32_t)fields_uint_required(&f, "rx-ring-ref", 0, UINT32_MAX);
    if (fields_has(&f, "event-channel")) {
        out->tx_port = out->rx_port = (uint32_t)fields_uint_required(&f, "event-channel", 1, UINT32_MAX);
    } else {
        out->tx_port = (uint32_t)fields_uint_required(&f, "event-channel-tx", 1, UINT32_MAX);
        out->rx_port = (uint32_t)fields_uint_required(&f, "event-channel-rx", 1, UINT32_MAX);
    }
    fields_end(&f);
}

/* False: it has none. */
static bool read_control(json_t *o, struct field_error *why, struct netif_control_setup *out)
{
    if (!o || json_is_null(o)) return false;
    struct fields f = fields_begin(o, "ctrl", why);
    out->ref = (uint32_t)fields_uint_required(&f, "ring-ref", 0, UINT32_MAX);
    out->port = (uint32_t)fields_uint_required(&f, "event-channel", 1, UINT32_MAX);
    fields_end(&f);
    return true;
}

static struct net_vif *request_vif_of_xen(struct net *n, struct fields *f, struct errmsg *e, int *ret)
{
    struct net_vif *v = request_vif(n, f, e, ret);
    if (!v || v->xen.used) return v;
    *ret = errmsg_set(e, EINVAL, "VIF %s: is not a Xen guest's", v->a.name);
    return NULL;
}

int request_vif_connect(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct netif_queue_setup setup[VIF_QUEUE_PAIRS_MAX];
    struct netif_front front;
    struct netif_control_setup control;
    int ret;
    struct net_vif *v = request_vif_of_xen(n, &f, r->e, &ret);
    if (!v) return ret;
    json_t *queues = fields_array(&f, "queues", 1, VIF_QUEUE_PAIRS_MAX);
    json_t *front_end = fields_object(&f, "frontend");
    bool resume = fields_bool(&f, "resume", false);
    bool has_control = read_control(fields_any(&f, "ctrl"), &why, &control);
    for (size_t i = 0; !why.failed && i < json_array_size(queues); i++)
        read_queue(json_array_get(queues, i), &why, &setup[i]);
    ret = fields_done(&f, r->e);
    if (ret == 0) ret = read_front(front_end, &front, r->e);
    if (ret == 0)
        ret = netif_connect(v->vif, &front, setup, (unsigned)json_array_size(queues), has_control ? &control : NULL,
                            resume, r->e);
    if (ret < 0) return ret;
    control_watch(v);
    net_vif_tell(v, "connected", NULL);
    r->result = net_vif_json(v);
    return 0;
}

int request_vif_disconnect(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret;
    struct net_vif *v = request_vif_of_xen(n, &f, r->e, &ret);
    if (!v) return ret;
    ret = fields_done(&f, r->e);
    if (ret < 0) return ret;
    bool was = netif_connected(v->vif);
    vif_xen_leave(v);
    netif_disconnect(v->vif);
    if (was) net_vif_tell(v, "listening", NULL);
    return 0;
}

int request_vif_follow(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret;
    struct net_vif *v = request_vif_of_xen(n, &f, r->e, &ret);
    if (!v) return ret;
    json_t *front_end = fields_object(&f, "frontend");
    ret = fields_done(&f, r->e);
    if (ret == 0 && !front_end) ret = errmsg_set(r->e, EINVAL, "frontend: missing");
    if (ret < 0) return ret;
    if (!netif_connected(v->vif)) return errmsg_set(r->e, ENOTCONN, "VIF %s: has no front end", v->a.name);
    netif_multicast_control(v->vif, front_flag(front_end, MULTICAST_KEY, false));
    return 0;
}
