/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VIFs: a card (vif/vif.h), its place on a bridge, and one front end after another.
 *
 *     attach --> waiting (not settled yet) --> listening <--> connected
 *                                                  broken: connected, and a queue of the guest is in ruins until it is reset
 *
 * A front end that leaves takes nothing along: the card stays on its bridge with its number, link state and counters. With
 * `connect` it is we who connect, once a second until somebody is there.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cmd/switch_net.h"
#include "control/unix_socket.h"
#include "loop/clock.h"
#include "switch/guard.h"

#define CONNECT_AGAIN_NS NS_PER_SECOND
#define MTU_DEFAULT 1500u

static void serve_anew(struct net_vif *v);
static void connect_now(struct net_vif *v);

/* ---- front ends ---- */

void net_vif_tell(struct net_vif *v, const char *front_end, const char *why)
{
    v->told_broken = strcmp(front_end, "broken") == 0;
    if (v->net->keeper.vif) v->net->keeper.vif(v->net->keeper.arg, v->a.name, front_end, why);
}

static void session_ended(void *owner, const char *why)
{
    struct net_vif *v = owner;
    log_limited(LOG_LEVEL_INFO, "VIF %s: front end gone: %s", v->a.name, why);
    vhost_session_free(v->session);
    v->session = NULL;
    if (v->ending) return;
    serve_anew(v);
}

static struct vhost_args session_args(struct net_vif *v)
{
    return (struct vhost_args){
        .loop = v->net->loop,
        .ops = vif_guest_ops(v->vif),
        .device = v->vif,
        .owner = v,
        .state = vif_state_session(v),
        .hold = vif_hold(v),
        .ended = session_ended,
    };
}

/* fd is taken over. */
static int session_start(struct net_vif *v, int fd)
{
    struct errmsg e = {""};
    if (v->used) memset(vif_state_session(v), 0, vhost_state_bytes());
    v->used = true;
    struct vhost_args args = session_args(v);
    int ret = vhost_session_new(&v->session, &args, fd, &e);
    if (ret == 0) net_vif_tell(v, "connected", NULL);
    else log_limited(LOG_LEVEL_ERROR, "VIF %s: %s", v->a.name, e.text);
    return ret;
}

static void listen_ready(struct loop_watch *watch, uint32_t events)
{
    struct net_vif *v = container_of(watch, struct net_vif, listen_watch);
    (void)events;
    int fd = accept4(v->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    loop_remove(&v->listen_watch); /* one at a time; others wait in the backlog */
    if (session_start(v, fd) < 0) serve_anew(v);
}

static void connect_fired(struct loop_timer *t)
{
    connect_now(container_of(t, struct net_vif, connect_timer));
}

static void connect_now(struct net_vif *v)
{
    struct errmsg e = {""};
    int fd, ret = unix_socket_connect(&fd, SOCK_STREAM, v->connect_path, &e);
    if (ret == 0 && session_start(v, fd) == 0) return;
    if (ret < 0) log_debug("VIF %s: %s", v->a.name, e.text);
    loop_timer_arm(v->net->loop, &v->connect_timer, CONNECT_AGAIN_NS, connect_fired);
}

static void serve_anew(struct net_vif *v)
{
    net_vif_tell(v, "listening", NULL);
    if (v->connect_path) {
        loop_timer_arm(v->net->loop, &v->connect_timer, CONNECT_AGAIN_NS, connect_fired);
    } else if (v->listen_fd >= 0) {
        int ret = loop_add(v->net->loop, &v->listen_watch, v->listen_fd, EPOLLIN, listen_ready);
        if (ret < 0) log_error("VIF %s: cannot listen: %s", v->a.name, strerror(-ret));
    }
}

static int session_resume(struct net_vif *v, struct errmsg *e)
{
    unsigned max = v->held_count;
    const char **names = calloc(max + 1, sizeof *names);
    int *fds = calloc(max + 1, sizeof *fds);
    int ret = names && fds ? 0 : -ENOMEM;
    if (ret == 0) {
        unsigned count = vif_held_give(v, names, fds);
        struct vhost_args args = session_args(v);
        ret = vhost_session_resume(&v->session, &args, names, fds, count, e);
    }
    free(names);
    free(fds);
    return ret;
}

void net_vif_serve(struct net_vif *v)
{
    struct errmsg e = {""};
    v->serving = true;
    if (v->xen.used) {
        vif_held_forget(v, true);
        return; /* it is connected by request */
    }
    if (vif_held_find(v, "conn")) {
        v->used = true;
        if (session_resume(v, &e) == 0) {
            vif_held_forget(v, false);
            net_vif_tell(v, "connected", NULL);
            return;
        }
        /* The front end is lost, the card is not. */
        log_error("VIF %s: cannot go on where the last process stopped: %s", v->a.name, e.text);
        vif_state_forget_session(v);
        vif_guest_ops(v->vif)->reset(v->vif, GUEST_RESET_END);
    }
    vif_held_forget(v, true); /* without a connection the rest is of no use */
    if (v->connected_fd >= 0 && session_start(v, steal_fd(&v->connected_fd)) == 0) return;
    if (v->connect_path) connect_now(v);
    else serve_anew(v);
}

static void broken_ready(struct loop_watch *watch, uint32_t events)
{
    struct net_vif *v = container_of(watch, struct net_vif, broken_watch);
    uint64_t queues = vif_broken_take(v->vif);
    const char *why = vif_broken(v->vif);
    (void)events;
    if (queues && why) net_vif_tell(v, "broken", why);
    if (!why && v->told_broken) net_vif_tell(v, net_vif_state(v), NULL); /* it was reset */
    for (unsigned i = 0; v->session && i < v->s.queues * 2; i++)
        if (queues & UINT64_C(1) << i) vhost_session_ring_failed(v->session, i);
}

const char *net_vif_state(struct net_vif *v)
{
    if (!v->serving) return "waiting";
    if (vif_broken(v->vif)) return "broken";
    if (v->xen.used) return netif_connected(v->vif) ? "connected" : "listening";
    return v->session ? "connected" : "listening";
}

/* ---- settings ---- */

/* The same for the same name on every host, locally administered. */
static void mac_of_name(uint8_t *mac, const char *name)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * UINT64_C(1099511628211);
    h ^= h >> 32;
    for (unsigned i = 0; i < 6; i++)
        mac[i] = (uint8_t)(h >> 8 * i);
    mac[0] = (uint8_t)((mac[0] & ~1u) | 2u);
}

static void settings_init(struct vif_settings *s, const char *name)
{
    *s = (struct vif_settings){.mtu = MTU_DEFAULT, .queues = 1, .packed = true, .in_order = true, .offloads = true};
    mac_of_name(s->mac, name);
}

/* Those that may change while the card is attached. */
static void read_changeable(struct vif_settings *s, struct fields *f)
{
    static const char *const links[] = {"up", "down", NULL};
    s->mtu = (uint16_t)fields_uint(f, "mtu", s->mtu, VIF_MTU_MIN, VIF_MTU_MAX);
    s->link_down = fields_choice(f, "link", s->link_down, links) == 1;
    fields_rate(f, "rate_in", &s->from_guest);
    fields_rate(f, "rate_out", &s->to_guest);
    if (fields_has(f, "allowed_macs")) fields_macs(f, "allowed_macs", s->allowed_mac, &s->mac_count);
    else fields_any(f, "allowed_macs");
    if (fields_has(f, "allowed_ips")) fields_ips(f, "allowed_ips", s->allowed_ip, &s->ip_count);
    else fields_any(f, "allowed_ips");
}

static void read_fixed(struct vif_settings *s, struct fields *f)
{
    fields_mac(f, "mac", s->mac);
    s->queues = (unsigned)fields_uint(f, "queues", s->queues, 1, VIF_QUEUE_PAIRS_MAX);
    s->packed = fields_bool(f, "packed", s->packed);
    s->in_order = fields_bool(f, "in_order", s->in_order);
    s->offloads = fields_bool(f, "offloads", s->offloads);
}

/* ---- attaching ---- */

static int card_new(struct net_vif *v, bool link_given, struct errmsg *e)
{
    struct vif_config c = {
        .name = v->a.name,
        .mtu = v->s.mtu,
        .queue_pairs = v->s.queues,
        .packed = v->s.packed,
        .in_order = v->s.in_order,
        .offloads = v->s.offloads,
        .transmit_copy = v->net->options.transmit_copy,
        .from_guest = v->s.from_guest,
        .to_guest = v->s.to_guest,
        .kept = vif_state_kept(v),
    };
    memcpy(c.mac, v->s.mac, sizeof c.mac);
    if (link_given) c.kept->link_down = v->s.link_down;
    v->s.link_down = c.kept->link_down; /* as the last process left it */
    struct vif_runners runners = net_runners_of_vif(v);
    struct netif_config xen;
    int ret = 0;
    if (v->xen.used) {
        ret = vif_xen_config(v, &xen, e);
        c.xen = &xen;
    }
    if (ret == 0) ret = vif_new(&v->vif, &c, &runners, e);
    if (ret < 0) return ret;
    v->a.port = vif_port(v->vif);
    ret = loop_add(v->net->loop, &v->broken_watch, vif_broken_fd(v->vif), EPOLLIN, broken_ready);
    return ret < 0 ? errmsg_sys(e, -ret, "VIF %s: event loop", v->a.name) : 0;
}

static int attach_inner(struct net_vif *v, struct net_bridge *b, uint32_t number, struct net_request *r)
{
    v->listen_fd = request_take_fd(r, "listen");
    v->connected_fd = request_take_fd(r, "connect");
    int ret = vif_held_take(v, r);
    if (ret == 0 && v->socket_path && v->listen_fd < 0)
        ret = unix_socket_listen(&v->listen_fd, SOCK_STREAM, v->socket_path, 0600, r->e);
    if (ret < 0) {
        free(steal_ptr(&v->socket_path)); /* not ours to remove */
        return ret;
    }
    ret = vif_state_open(v, r->e);
    if (ret == 0) ret = card_new(v, json_object_get(r->params, "link"), r->e);
    if (ret == 0) ret = net_guard_new(&v->guard, &v->s, r->e);
    v->a.vlan.guard = v->guard;
    if (ret == 0) ret = net_policy_new(&v->policy, &b->rules, &v->rules, r->e);
    v->a.vlan.policy = v->policy;
    if (ret == 0) ret = attachment_join(&v->a, b, number, r->e);
    return ret;
}

static char *copy_path(struct fields *f, const char *key)
{
    const char *path = fields_string(f, key, "", 4095);
    return path && *path ? strdup(path) : NULL;
}

int request_vif_attach(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    const char *name = fields_name(&f, "name");
    int ret;
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    if (ret == 0) ret = attachment_check_name(n, name, r->e);
    if (ret < 0) return ret;
    struct net_vif *v = calloc(1, sizeof *v);
    if (!v) return errmsg_set(r->e, ENOMEM, "out of memory");
    v->net = n;
    v->listen_fd = v->connected_fd = v->state_fd = -1;
    v->a.is_vif = true;
    snprintf(v->a.name, sizeof v->a.name, "%s", name);
    settings_init(&v->s, name);
    read_fixed(&v->s, &f);
    read_changeable(&v->s, &f);
    fields_vif_xen(&f, &v->xen);
    fields_vlan(&f, &v->a.vlan);
    fields_policy(&f, &v->rules);
    uint32_t number = (uint32_t)fields_uint(&f, "number", 0, 0, SWITCH_PORT_MAX - 1);
    if (!n->survives) v->socket_path = copy_path(&f, "socket"); /* the daemon makes its own */
    else fields_any(&f, "socket");
    v->connect_path = copy_path(&f, "connect");
    list_push_back(&n->attachments, &v->a.node);
    ret = fields_done(&f, r->e);
    if (ret == 0) ret = attach_inner(v, b, number, r);
    if (ret < 0) {
        net_vif_free(v, false);
        return ret;
    }
    switch_barrier(n->sw);
    if (n->settled) net_vif_serve(v);
    r->result = net_vif_json(v);
    return 0;
}

/* In this order: no queue runs, nothing reaches the port, the card is gone, nobody holds anything. */
void net_vif_free(struct net_vif *v, bool leave)
{
    v->ending = true;
    loop_remove(&v->listen_watch);
    loop_remove(&v->broken_watch);
    loop_timer_cancel(&v->connect_timer);
    vif_xen_leave(v);
    if (v->session && leave) vhost_session_leave(v->session);
    else vhost_session_free(v->session);
    attachment_leave(&v->a);
    guard_free(v->guard);
    policy_free(v->policy);
    net_rules_clear(&v->rules);
    list_remove(&v->a.node);
    vif_free(v->vif);
    vif_held_end(v, !leave);
    if (v->listen_fd >= 0) close(v->listen_fd);
    if (v->connected_fd >= 0) close(v->connected_fd);
    if (v->socket_path && !leave) unlink(v->socket_path);
    free(v->socket_path);
    free(v->connect_path);
    free(v->xen.world);
    free(v);
}

struct net_vif *request_vif(struct net *n, struct fields *f, struct errmsg *e, int *ret)
{
    const char *name = fields_string(f, "name", FIELD_REQUIRED, PORT_NAME_BYTES - 1);
    struct attachment *a = f->error->failed ? NULL : net_attachment_find(n, name);
    if (a && a->is_vif) {
        *ret = 0;
        return net_vif_of(a);
    }
    *ret = f->error->failed ? errmsg_set(e, EINVAL, "%s", f->error->message)
                            : errmsg_set(e, ENOENT, "VIF %s: there is no such VIF", name);
    return NULL;
}

int request_vif_detach(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret;
    struct net_vif *v = request_vif(n, &f, r->e, &ret);
    if (ret == 0) ret = fields_done(&f, r->e);
    if (ret < 0) return ret;
    net_port_config_forget(&v->a);
    net_vif_free(v, false);
    return 0;
}

/* ---- changing ---- */

static void tell_guest(struct net_vif *v)
{
    if (v->session && !vhost_session_config_changed(v->session))
        log_limited(LOG_LEVEL_WARN,
                    "VIF %s: this front end cannot be told of a change; the guest sees it when it looks again",
                    v->a.name);
}

static void apply(struct net_vif *v, const struct vif_settings *old)
{
    bool changed = false;
    if (v->s.mtu != old->mtu) changed = vif_set_mtu(v->vif, v->s.mtu);
    if (v->s.link_down != old->link_down) changed = vif_set_link(v->vif, !v->s.link_down) || changed;
    vif_set_rate(v->vif, v->s.from_guest, v->s.to_guest);
    if (changed) tell_guest(v);
}

int request_vif_set(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret;
    struct net_vif *v = request_vif(n, &f, r->e, &ret);
    if (ret < 0) return ret;
    struct vif_settings old = v->s, s = v->s;
    struct switch_port_config vlan = v->a.vlan;
    fields_any(&f, "bridge");
    read_changeable(&s, &f);
    fields_vlan(&f, &vlan);
    bool announce = fields_bool(&f, "announce", false);
    ret = fields_done(&f, r->e);
    if (ret < 0) return ret;
    struct guard *guard, *old_guard = v->guard;
    ret = net_guard_new(&guard, &s, r->e);
    if (ret < 0) return ret;
    vlan.guard = v->guard = guard;
    v->s = s;
    v->a.vlan = vlan;
    switch_port_set(v->a.sp, &v->a.vlan);
    apply(v, &old);
    if (announce && vif_announce(v->vif)) tell_guest(v);
    switch_barrier(n->sw);
    guard_free(old_guard);
    r->result = net_vif_json(v);
    return 0;
}

/* ---- showing ---- */

static json_t *rate_json(const struct vif_rate *rate)
{
    return json_pack("{s:I, s:I}", "bits_per_s", (json_int_t)rate->bits_per_s, "packets_per_s",
                     (json_int_t)rate->packets_per_s);
}

static json_t *allowed_macs_json(const struct vif_settings *s)
{
    json_t *list = json_array();
    char text[18];
    for (unsigned i = 0; i < s->mac_count; i++) {
        mac_format(text, s->allowed_mac[i]);
        json_array_append_new(list, json_string(text));
    }
    return list;
}

static json_t *allowed_ips_json(const struct vif_settings *s)
{
    json_t *list = json_array();
    char text[64];
    for (unsigned i = 0; i < s->ip_count; i++) {
        ip_range_format(text, &s->allowed_ip[i]);
        json_array_append_new(list, json_string(text));
    }
    return list;
}

json_t *net_vif_json(struct net_vif *v)
{
    char mac[18], features[24];
    struct vhost_session_info info = {0};
    if (v->session) vhost_session_describe(v->session, &info);
    mac_format(mac, v->s.mac);
    snprintf(features, sizeof features, "0x%" PRIx64, info.features);
    json_t *j = json_pack("{s:s, s:s, s:s, s:I, s:s, s:i, s:i, s:s, s:s, s:b, s:b, s:b}", "name", v->a.name, "bridge",
                          v->a.bridge->name, "type", "vif", "number",
                          (json_int_t)(v->a.sp ? switch_port_number(v->a.sp) : 0), "mac", mac, "mtu", (int)v->s.mtu,
                          "queues", (int)v->s.queues, "link", v->s.link_down ? "down" : "up", "state", net_vif_state(v),
                          "packed", v->s.packed, "in_order", v->s.in_order, "offloads", v->s.offloads);
    json_t *more =
        json_pack("{s:s, s:i, s:i, s:I, s:o, s:o, s:o, s:o}", "features", features, "queues_running",
                  (int)info.queues_running, "regions", (int)info.regions, "memory_bytes", (json_int_t)info.memory_bytes,
                  "rate_in", rate_json(&v->s.from_guest), "rate_out", rate_json(&v->s.to_guest), "allowed_macs",
                  allowed_macs_json(&v->s), "allowed_ips", allowed_ips_json(&v->s));
    json_object_update(j, more);
    json_decref(more);
    const char *why = vif_broken(v->vif);
    if (why) json_object_set_new(j, "why", json_string(why));
    if (v->xen.used) vif_xen_json(v, j);
    if (v->socket_path) json_object_set_new(j, "socket", json_string(v->socket_path));
    if (v->connect_path) json_object_set_new(j, "connect", json_string(v->connect_path));
    return vlan_json(&v->a.vlan, j);
}
