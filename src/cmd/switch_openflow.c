/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenFlow in the network process: a bridge's agent, and what the bridge does without its controllers. Their connections:
 * switch_controllers.c.
 *
 *   bridge.set        what is to be otherwise; "targets": all controllers that there are to be
 *   controller.list   who is connected
 *
 * Sockets for tools come with the bridge ("mgmt", "snoop").
 *
 * Standalone bridges: when none of the controllers that it is to have was there for ALONE_PROBES, the flow of priority 0 of table 0
 * that matches everything becomes NORMAL; when one is there again, that flow goes. All other flows stay. The flow that a bridge
 * makes for itself is known by its cookie, across restarts, too: one like it that somebody else wrote is theirs.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "cmd/switch_openflow.h"
#include "control/version.h"
#include "loop/clock.h"

#define ALONE_PROBES 3u /* times as long as a silent controller is asked whether it is there */

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

void net_alone_end(struct net_bridge *b)
{
    b->alone_since_ns = 0;
    if (b->fail == BRIDGE_STANDALONE && look(b).own) change_normal(b, OF_FLOW_DELETE_STRICT, "/-1");
}

void net_alone_begin(struct net_bridge *b)
{
    if (b->controllers && !net_is_controlled(b)) b->alone_since_ns = clock_now_ns();
}

static void set_controllers(struct net_bridge *b, unsigned controllers)
{
    unsigned before = b->controllers;
    b->controllers = controllers;
    if (!before && controllers && !net_is_controlled(b)) b->alone_since_ns = clock_now_ns();
    if (before && !controllers && b->fail == BRIDGE_STANDALONE) stand_alone(b);
}

void net_openflow_ticked(struct net_bridge *b, uint64_t now_ns)
{
    uint64_t alone_ns = ALONE_PROBES * b->probe_s * NS_PER_SECOND;
    if (b->controllers && b->fail == BRIDGE_STANDALONE && b->alone_since_ns && now_ns - b->alone_since_ns > alone_ns)
        stand_alone(b);
    net_listeners_resume(b);
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
    net_peers_free(b);
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
    return fd < 0 ? 0 : net_listener_new(b, name, fd, peer, false, r->e);
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
    net_listeners_free(b);
    if (b->agent) agent_free(b);
}

/* ---- requests ---- */

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
    if (targets) net_controllers_keep(b, targets); /* it has these controllers, and no others any more */
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
