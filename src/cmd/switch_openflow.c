/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenFlow in the network process: who makes connections hands them over, and they become those of a bridge's agent.
 *
 *   openflow.connected   a connection that was made with a controller ("connection")
 *   openflow.listen      a socket at which controllers connect ("listen")
 *   openflow.drop        end what belongs to a controller
 *   bridge.set           "targets": all that there are to be
 *   openflow.tls         the switch's key, its certificate, and who may have signed the others' (PEM)
 *
 * Sockets for tools come with the bridge ("mgmt", "snoop"). The keeper is told of each controller's connection: when it is
 * established, and when it has ended, so that another one can be made.
 *
 * Standalone bridges: when none of the controllers that it is to have was there for ALONE_PROBES, the flow of priority 0 of table 0
 * that matches everything becomes NORMAL; when one is there again, that flow goes. All other flows stay. The flow that a bridge
 * makes for itself is known by its cookie, across restarts, too: one like it that somebody else wrote is theirs.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cmd/switch_net.h"
#include "control/pem.h"
#include "control/version.h"
#include "loop/clock.h"

#define ALONE_PROBES 3u /* times as long as a silent controller is asked whether it is there */
#define ACCEPTS_PER_TURN 16u

struct net_tls {
    struct of_tls *tls;
    unsigned users; /* connections, and being the current one */
};

/* A connection with a controller, as long as the agent has it. */
struct net_peer {
    struct list node;
    struct net_bridge *b;
    char target[NET_TARGET_BYTES];
    char listener[NET_TARGET_BYTES]; /* a passive one's: where it came to us */
    bool passive;
    bool established;
    bool unwanted; /* who asked for it has asked for its end, too: not to be told */
    int fd;        /* a duplicate, to end it by */
    struct net_tls *tls;
};

struct net_listener {
    struct list node;
    struct net_bridge *b;
    enum of_peer peer;
    bool tls;
    char target[NET_TARGET_BYTES];
    struct loop_watch watch; /* its fd is ours */
};

/* ---- TLS ---- */

static struct net_tls *tls_use(struct net_tls *t)
{
    if (t) t->users++;
    return t;
}

void net_tls_free(struct net_tls *t)
{
    if (!t || --t->users) return;
    of_tls_free(t->tls);
    free(t);
}

/* ---- what the bridge does without its controllers ---- */

struct looking {
    bool normal, own;
};

static bool is_normal(const struct flow_spec *f)
{
    static const struct flow_match everything;
    const struct instructions *i = &f->instructions;
    return f->priority == 0 && memcmp(&f->match, &everything, sizeof everything) == 0 && i->has_apply &&
           !i->has_write && !i->has_goto && !i->has_metadata && !i->meter && i->apply.count == 1 &&
           i->apply.list[0].type == ACTION_OUTPUT && i->apply.list[0].output.port == SWITCH_PORT_NORMAL;
}

static void look_for_normal(void *arg, const struct flow_spec *f, const struct flow_stats *s)
{
    struct looking *l = arg;
    (void)s;
    if (!is_normal(f)) return;
    l->normal = true;
    l->own = f->cookie == SWITCH_COOKIE_OWN;
}

static struct looking look(struct net_bridge *b)
{
    struct looking l = {false, false};
    struct flow_spec table;
    struct errmsg e;
    if (flow_parse(&table, "table=0", FLOW_PARSE_SELECT, &b->names, &e) == 0)
        bridge_flow_each(b->bridge, &table, look_for_normal, &l);
    return l;
}

static void change_normal(struct net_bridge *b, enum of_change what, const char *rest)
{
    char text[80];
    struct net_change c;
    struct errmsg e = {""};
    unsigned changed = 0;
    snprintf(text, sizeof text, "table=0,priority=0,cookie=0x%" PRIx64 "%s", SWITCH_COOKIE_OWN, rest);
    int ret = net_change_parse(&c, what, text, &b->names, &e);
    if (ret == 0) {
        ret = net_change_apply(b, &c, &changed, &e);
        if (ret == 0) net_change_note(b, &c);
        net_change_clear(&c);
    }
    if (ret == 0) ret = net_keep(b, false, &e);
    if (ret < 0) log_error("bridge %s: %s", b->name, e.text);
    switch_barrier(b->net->sw);
}

static void stand_alone(struct net_bridge *b)
{
    b->alone_since_ns = 0;
    if (look(b).normal) return;
    log_warn("bridge %s: %s: it forwards as a learning switch does", b->name,
             b->controllers ? "none of its controllers is there" : "it has no controllers any more");
    change_normal(b, OF_FLOW_ADD, ",actions=NORMAL");
}

static void be_controlled(struct net_bridge *b)
{
    b->alone_since_ns = 0;
    if (b->fail == BRIDGE_STANDALONE && look(b).own) change_normal(b, OF_FLOW_DELETE_STRICT, "/-1");
}

static bool is_controlled(const struct net_bridge *b)
{
    LIST_FOR_EACH (node, &b->peers) {
        const struct net_peer *p = list_entry(node, struct net_peer, node);
        if (p->established && !p->passive) return true;
    }
    return false;
}

static void lost_controller(struct net_bridge *b)
{
    if (b->controllers && !is_controlled(b)) b->alone_since_ns = clock_now_ns();
}

static void set_controllers(struct net_bridge *b, unsigned controllers)
{
    unsigned before = b->controllers;
    b->controllers = controllers;
    if (!before && controllers && !is_controlled(b)) b->alone_since_ns = clock_now_ns();
    if (before && !controllers && b->fail == BRIDGE_STANDALONE) stand_alone(b);
}

void net_openflow_ticked(struct net_bridge *b, uint64_t now_ns)
{
    uint64_t alone_ns = ALONE_PROBES * b->probe_s * NS_PER_SECOND;
    if (b->controllers && b->fail == BRIDGE_STANDALONE && b->alone_since_ns && now_ns - b->alone_since_ns > alone_ns)
        stand_alone(b);
    LIST_FOR_EACH (node, &b->listeners) { /* those that had to pause */
        struct net_listener *l = list_entry(node, struct net_listener, node);
        if (!l->watch.loop) loop_add(b->net->loop, &l->watch, l->watch.fd, EPOLLIN, l->watch.ready);
    }
}

/* ---- connections ---- */

static void tell(struct net_bridge *b, const char *target, const char *state, const char *why)
{
    const struct net_keeper *k = &b->net->keeper;
    if (k->controller) k->controller(k->arg, b->name, target, state, why);
}

static void peer_free(struct net_peer *p)
{
    list_remove(&p->node);
    close(p->fd);
    net_tls_free(p->tls);
    free(p);
}

static void peer_established(void *arg)
{
    struct net_peer *p = arg;
    p->established = true;
    if (p->passive) return;
    tell(p->b, p->target, "established", NULL);
    be_controlled(p->b);
}

static void peer_ended(void *arg, const char *reason)
{
    struct net_peer *p = arg;
    struct net_bridge *b = p->b;
    char target[NET_TARGET_BYTES];
    bool passive = p->passive, was_there = p->established, unwanted = p->unwanted;
    snprintf(target, sizeof target, "%s", p->target);
    peer_free(p);
    if (passive) return;
    if (was_there) lost_controller(b); /* one that only tries to be has been missed before */
    if (!unwanted) tell(b, target, "ended", reason ? reason : "it ended");
}

/* fd is taken over. The listener at which it came to us, or NULL: we went to it. */
static int peer_new(struct net_bridge *b, const char *target, int fd, bool tls, const char *listener, struct errmsg *e)
{
    bool passive = listener;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    struct net_peer *p = copy < 0 ? NULL : calloc(1, sizeof *p);
    if (!p || (tls && !b->net->tls)) {
        close(fd);
        if (copy >= 0) close(copy);
        free(p);
        return tls && !b->net->tls ? errmsg_set(e, ENOKEY, "%s: there is no key for TLS: `creedence tls set`", target)
                                   : errmsg_set(e, ENOMEM, "%s: out of memory or descriptors", target);
    }
    *p = (struct net_peer){.b = b, .passive = passive, .fd = copy, .tls = tls ? tls_use(b->net->tls) : NULL};
    snprintf(p->target, sizeof p->target, "%s", target);
    if (passive) snprintf(p->listener, sizeof p->listener, "%s", listener);
    list_push_back(&b->peers, &p->node);
    struct of_connection_args args = {.fd = fd,
                                      .tls = p->tls ? p->tls->tls : NULL,
                                      .tls_client = !passive,
                                      .peer = OF_PEER_CONTROLLER,
                                      .name = p->target,
                                      .echo_s = b->probe_s,
                                      .established = peer_established,
                                      .ended = peer_ended,
                                      .arg = p};
    int ret = of_agent_connect(b->agent, &args, e);
    if (ret < 0) peer_free(p);
    return ret;
}

/* At once, whatever it has sent and is to be sent; peer_ended() comes from the loop. */
static void peer_end(struct net_peer *p, bool unwanted, const char *reason)
{
    p->unwanted = p->unwanted || unwanted;
    of_agent_disconnect(p->b->agent, p, reason);
    shutdown(p->fd, SHUT_RDWR);
}

static void peers_end_tls(struct net_bridge *b, const struct net_tls *tls)
{
    LIST_FOR_EACH (node, &b->peers) {
        struct net_peer *p = list_entry(node, struct net_peer, node);
        if (p->tls == tls) peer_end(p, false, "the key for TLS is another one now");
    }
}

/* ---- sockets at which others connect ---- */

static void peer_name(char out[NET_TARGET_BYTES], const struct net_listener *l, const struct sockaddr_storage *from)
{
    char address[INET6_ADDRSTRLEN] = "?";
    const struct sockaddr_in *in4 = (const struct sockaddr_in *)(const void *)from;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)from;
    const char *kind = l->tls ? "ssl" : "tcp";
    if (from->ss_family == AF_INET) {
        inet_ntop(AF_INET, &in4->sin_addr, address, sizeof address);
        snprintf(out, NET_TARGET_BYTES, "%s:%s:%u", kind, address, ntohs(in4->sin_port));
    } else if (from->ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &in6->sin6_addr, address, sizeof address);
        snprintf(out, NET_TARGET_BYTES, "%s:[%s]:%u", kind, address, ntohs(in6->sin6_port));
    } else {
        snprintf(out, NET_TARGET_BYTES, "%s", l->target);
    }
}

static void accepted(struct net_listener *l, int fd, const struct sockaddr_storage *from)
{
    struct errmsg e = {""};
    char name[NET_TARGET_BYTES];
    int ret;
    peer_name(name, l, from);
    if (l->peer == OF_PEER_CONTROLLER) {
        ret = peer_new(l->b, name, fd, l->tls, l->target, &e);
    } else {
        struct of_connection_args args = {.fd = fd, .peer = l->peer, .name = l->target};
        ret = of_agent_connect(l->b->agent, &args, &e);
    }
    if (ret < 0) log_limited(LOG_LEVEL_WARN, "bridge %s: %s: refused: %s", l->b->name, name, e.text);
}

/* Without descriptors: no more until the next second, rather than all the time. */
static void listener_ready(struct loop_watch *w, uint32_t events)
{
    struct net_listener *l = container_of(w, struct net_listener, watch);
    (void)events;
    for (unsigned i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage from = {0};
        socklen_t len = sizeof from;
        int fd = accept4(w->fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            accepted(l, fd, &from);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            loop_remove(w);
            return;
        } else if (errno != ECONNABORTED && errno != EINTR) {
            return;
        }
    }
}

/* fd is taken over. */
static int listener_new(struct net_bridge *b, const char *target, int fd, enum of_peer peer, bool tls, struct errmsg *e)
{
    struct net_listener *l = calloc(1, sizeof *l);
    int ret = l ? 0 : -ENOMEM;
    if (l) {
        *l = (struct net_listener){.b = b, .peer = peer, .tls = tls, .watch.fd = fd, .watch.ready = listener_ready};
        snprintf(l->target, sizeof l->target, "%s", target);
        ret = loop_add(b->net->loop, &l->watch, fd, EPOLLIN, listener_ready);
    }
    if (ret < 0) {
        close(fd);
        free(l);
        return errmsg_sys(e, -ret, "bridge %s: listening at %s", b->name, target);
    }
    list_push_back(&b->listeners, &l->node);
    return 0;
}

static void listener_free(struct net_listener *l)
{
    loop_remove(&l->watch);
    close(l->watch.fd);
    list_remove(&l->node);
    free(l);
}

/* ---- the agent ---- */

static void keep_flow(void *arg, enum of_change what, const struct flow_spec *f)
{
    net_note_flow(arg, what, f);
}

static void keep_group(void *arg, enum of_change what, const struct group_spec *g)
{
    net_note_group(arg, what, g);
}

static void keep_meter(void *arg, enum of_change what, const struct meter_spec *m)
{
    net_note_meter(arg, what, m);
}

static void keep_port(void *arg, uint32_t port, uint32_t config, uint32_t mask)
{
    net_port_config_note(arg, port, config, mask);
    net_note_port(arg, port, config, mask);
}

static void keep_table(void *arg, unsigned table, uint32_t config)
{
    net_table_config_set(arg, table, config);
    net_note_table(arg, table, config);
}

static void keep_gone(void *arg, const struct flow_spec *f, enum flow_gone why)
{
    net_keep_gone(arg, f, why);
}

/* A change that could not be written is written with the next one; controllers have no word for it. */
static void keep_commit(void *arg)
{
    struct errmsg e = {""};
    if (net_keep(arg, false, &e) < 0) log_limited(LOG_LEVEL_ERROR, "%s", e.text);
}

static int agent_new(struct net_bridge *b, struct errmsg *e)
{
    struct of_agent_args args = {
        .loop = b->net->loop,
        .bridge = b->bridge,
        .names = &b->names,
        .datapath_id = b->datapath_id,
        .keeper = {.flow = keep_flow,
                   .group = keep_group,
                   .meter = keep_meter,
                   .port = keep_port,
                   .table = keep_table,
                   .flow_gone = keep_gone,
                   .commit = keep_commit,
                   .arg = b},
        .table_config = b->table_config,
        .description = b->name,
        .version = version_number(),
    };
    return of_agent_new(&b->agent, b->net->agents, &args, e);
}

/* Its connections end without a word from it. */
static void agent_free(struct net_bridge *b)
{
    of_agent_free(b->agent);
    b->agent = NULL;
    while (!list_empty(&b->peers))
        peer_free(list_entry(b->peers.next, struct net_peer, node));
}

/* Locally administered, as of a card. */
static uint64_t new_datapath_id(void)
{
    uint64_t id = 0;
    if (getrandom(&id, sizeof id, 0) != (ssize_t)sizeof id) id = clock_now_ns();
    return (id & UINT64_C(0x00000000fcffffffffff)) | UINT64_C(0x020000000000);
}

static int take_listener(struct net_bridge *b, struct net_request *r, const char *name, enum of_peer peer)
{
    int fd = request_take_fd(r, name);
    return fd < 0 ? 0 : listener_new(b, name, fd, peer, false, r->e);
}

int net_openflow_begin(struct net_bridge *b, struct net_request *r)
{
    if (!b->datapath_id) b->datapath_id = new_datapath_id();
    if (b->controllers) b->alone_since_ns = clock_now_ns();
    int ret = agent_new(b, r->e);
    if (ret == 0) ret = take_listener(b, r, "mgmt", OF_PEER_SERVICE);
    if (ret == 0) ret = take_listener(b, r, "snoop", OF_PEER_SNOOP);
    return ret;
}

void net_openflow_end(struct net_bridge *b)
{
    while (!list_empty(&b->listeners))
        listener_free(list_entry(b->listeners.next, struct net_listener, node));
    if (b->agent) agent_free(b);
}

void net_openflow_again(struct net_bridge *b)
{
    LIST_FOR_EACH (node, &b->listeners) {
        struct net_listener *l = list_entry(node, struct net_listener, node);
        if (l->peer == OF_PEER_CONTROLLER) tell(b, l->target, "listening", NULL);
    }
    LIST_FOR_EACH (node, &b->peers) {
        struct net_peer *p = list_entry(node, struct net_peer, node);
        if (!p->passive && !p->unwanted) tell(b, p->target, p->established ? "established" : "connecting", NULL);
    }
}

/* ---- requests ---- */

static const char *fields_target(struct fields *f)
{
    return fields_string(f, "target", FIELD_REQUIRED, NET_TARGET_BYTES - 1);
}

/* Of each target that is meant: its connections, and the socket at which it is to come. */
static void controllers_end(struct net_bridge *b, bool (*is_meant)(const void *arg, const char *target),
                            const void *arg)
{
    LIST_FOR_EACH (node, &b->peers) {
        struct net_peer *p = list_entry(node, struct net_peer, node);
        if (is_meant(arg, p->passive ? p->listener : p->target)) peer_end(p, true, "it is not wanted any more");
    }
    LIST_FOR_EACH_SAFE (node, &b->listeners) {
        struct net_listener *l = list_entry(node, struct net_listener, node);
        if (l->peer == OF_PEER_CONTROLLER && is_meant(arg, l->target)) listener_free(l);
    }
}

static bool is_target(const void *arg, const char *target)
{
    return strcmp(arg, target) == 0;
}

static bool is_in_no_list(const void *arg, const char *target)
{
    const json_t *list = arg;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text && strcmp(text, target) == 0) return false;
    }
    return true;
}

static int with_fd(struct net *n, struct net_request *r, const char *name, bool listening)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret, fd = request_take_fd(r, name);
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    const char *target = fields_target(&f);
    bool tls = fields_bool(&f, "tls", false);
    if (ret == 0) ret = fields_done(&f, r->e);
    if (ret == 0 && fd < 0) ret = errmsg_set(r->e, EINVAL, "%s: the descriptor is missing", name);
    if (ret < 0) {
        if (fd >= 0) close(fd);
        return ret;
    }
    controllers_end(b, is_target, target); /* one offer of a target takes the place of another */
    return listening ? listener_new(b, target, fd, OF_PEER_CONTROLLER, tls, r->e)
                     : peer_new(b, target, fd, tls, NULL, r->e);
}

int request_openflow_listen(struct net *n, struct net_request *r)
{
    return with_fd(n, r, "listen", true);
}

int request_openflow_connected(struct net *n, struct net_request *r)
{
    return with_fd(n, r, "connection", false);
}

int request_openflow_drop(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret;
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    const char *target = fields_target(&f);
    if (ret == 0) ret = fields_done(&f, r->e);
    if (ret < 0) return ret;
    controllers_end(b, is_target, target);
    return 0;
}

static int set_tls(struct net *n, const char *key, const char *certificate, const char *ca, struct errmsg *e)
{
    struct net_tls *t = NULL, *before = n->tls;
    if (before && of_tls_is_of(before->tls, key, certificate, ca)) return 0;
    if (*key || *certificate || *ca) {
        t = calloc(1, sizeof *t);
        int ret = t ? of_tls_new(&t->tls, key, certificate, ca, e) : errmsg_set(e, ENOMEM, "out of memory");
        if (ret < 0) {
            free(t);
            return ret;
        }
        t->users = 1;
    }
    n->tls = t;
    LIST_FOR_EACH (node, &n->bridges)
        if (before) peers_end_tls(list_entry(node, struct net_bridge, node), before);
    net_tls_free(before);
    return 0;
}

int request_openflow_tls(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    const char *key = fields_string(&f, "key", "", PEM_MAX_BYTES),
               *certificate = fields_string(&f, "certificate", "", PEM_MAX_BYTES),
               *ca = fields_string(&f, "ca", "", PEM_MAX_BYTES);
    int ret = fields_done(&f, r->e);
    if (ret == 0) ret = set_tls(n, key, certificate, ca, r->e);
    explicit_bzero((char *)(uintptr_t)key, strlen(key)); /* nobody reads the request once more */
    return ret;
}

int request_bridge_set(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    const char *name = fields_string(&f, "name", FIELD_REQUIRED, PORT_NAME_BYTES - 1);
    struct net_bridge *b = why.failed ? NULL : net_bridge_find(n, name);
    if (!why.failed && !b) return errmsg_set(r->e, ENOENT, "bridge %s: there is no such bridge", name);
    struct net_bridge wanted = {0};
    if (b)
        wanted = (struct net_bridge){.fail = b->fail,
                                     .mac_ageing_s = b->mac_ageing_s,
                                     .datapath_id = b->datapath_id,
                                     .probe_s = b->probe_s,
                                     .controllers = b->controllers};
    net_bridge_fields(&f, &wanted);
    const json_t *targets = fields_array(&f, "targets", 0, OF_CONNECTIONS_MAX);
    int ret = fields_done(&f, r->e);
    if (ret < 0) return ret;
    if (targets) controllers_end(b, is_in_no_list, targets); /* it has these controllers, and no others any more */
    net_bridge_aged(b, wanted.mac_ageing_s);
    b->fail = wanted.fail;
    b->probe_s = wanted.probe_s; /* of connections that begin after this */
    if (wanted.datapath_id && wanted.datapath_id != b->datapath_id) {
        b->datapath_id = wanted.datapath_id;
        of_agent_set_datapath_id(b->agent, b->datapath_id);
    }
    set_controllers(b, wanted.controllers);
    return 0;
}

/* ---- who is there ---- */

struct listing {
    struct page page;
    const struct net_bridge *b;
};

static void list_one(void *arg, const struct of_connection_info *c)
{
    static const char *const kinds[] = {"controller", "tool", "snoop"};
    struct listing *l = arg;
    uint64_t now_ns = clock_now_ns();
    if (!page_wants(&l->page)) return;
    json_t *j =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:b}", "bridge", l->b->name, "target", c->name ? c->name : "", "kind",
                  kinds[c->peer], "state", c->state ? c->state : "", "role", c->role ? c->role : "", "tls", c->tls);
    json_t *numbers =
        json_pack("{s:I, s:I, s:I, s:I, s:f}", "received", (json_int_t)c->received, "sent", (json_int_t)c->sent,
                  "packet_ins", (json_int_t)c->packet_ins, "packet_ins_dropped", (json_int_t)c->packet_ins_dropped,
                  "age_s", (double)(now_ns - c->since_ns) / (double)NS_PER_SECOND);
    json_object_update(j, numbers);
    json_decref(numbers);
    page_add(&l->page, j);
}

int request_controller_list(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct listing l = {0};
    const char *bridge = fields_string(&f, "bridge", "", PORT_NAME_BYTES - 1);
    page_read(&l.page, &f);
    int ret = fields_done(&f, r->e);
    if (ret == 0 && *bridge && !net_bridge_find(n, bridge))
        ret = errmsg_set(r->e, ENOENT, "bridge %s: there is no such bridge", bridge);
    LIST_FOR_EACH (node, &n->bridges) {
        l.b = list_entry(node, struct net_bridge, node);
        if (ret == 0 && (!*bridge || strcmp(l.b->name, bridge) == 0)) of_agent_each(l.b->agent, list_one, &l);
    }
    if (ret == 0) r->result = page_json(&l.page, "connections");
    else page_drop(&l.page);
    return ret;
}
