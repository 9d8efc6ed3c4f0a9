/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole of a network process: its options, its bridges, and which function answers which request.
 *
 * Before it is settled (everything that a predecessor had was asked for again) bridges fill up with ports and flows, but no
 * source is on a runner and no front end is served: no packet sees half of the flows.
 */
#include "cmd/switch_net.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/network_config.h"
#include "loop/clock.h"

#define MAC_AGEING_S_DEFAULT 300u
#define MAC_ENTRIES_MAX 65536u
#define POLL_US_MAX 1000000u

static const char *const flows_names[] = {"mega", "exact", NULL};
static const char *const transmit_names[] = {"map", "copy", NULL};
static const char *const fail_names[] = {"standalone", "secure", NULL};
static_assert(SWITCH_FLOWS_MEGA == 0 && BRIDGE_STANDALONE == 0, "the lists of names above have them in this order");
static_assert(NETWORK_FLOWS_MAX == SWITCH_FLOWS_MAX_DEFAULT, "what the daemon saves, switch_new() takes");
static_assert(NETWORK_VIF_THREADS_MAX == NET_VIF_THREADS_MAX, "likewise");
static_assert(NETWORK_ALLOWED_MACS_MAX == NET_ALLOWED_MACS_MAX && NETWORK_ALLOWED_IPS_MAX == NET_ALLOWED_IPS_MAX,
              "likewise");

/* ---- options ---- */

void net_options_init(struct net_options *o)
{
    *o = (struct net_options){.gro = true, .poll_ns = RUNNER_POLL_NS_DEFAULT};
    switch_config_default(&o->flows);
}

/* "always", or microseconds. */
static void read_poll(struct net_options *o, struct fields *f)
{
    const json_t *v = json_object_get(f->object, "poll_us");
    if (json_is_string(v) && strcmp(json_string_value(v), "always") == 0) {
        fields_any(f, "poll_us");
        o->poll_ns = UINT64_MAX;
    } else if (fields_has(f, "poll_us")) {
        o->poll_ns = fields_uint(f, "poll_us", 0, 0, POLL_US_MAX) * NS_PER_US;
    }
}

int net_options_read(struct net_options *o, json_t *params, struct errmsg *e)
{
    struct field_error why = {0};
    struct fields f = fields_begin(params, "", &why);
    struct switch_config *c = &o->flows;
    c->flows = (enum switch_flows)fields_choice(&f, "flows", (int)c->flows, flows_names);
    c->exact_max = (unsigned)fields_uint(&f, "exact_max", c->exact_max, 1, NETWORK_FLOWS_MAX);
    c->megaflows_max = (unsigned)fields_uint(&f, "megaflows_max", c->megaflows_max, 1, NETWORK_FLOWS_MAX);
    c->masks_max = (unsigned)fields_uint(&f, "masks_max", c->masks_max, 1, NETWORK_MASKS_MAX);
    c->emc_entries = (unsigned)fields_uint(&f, "emc", c->emc_entries, 0, UINT32_MAX);
    if (!network_emc_valid(c->emc_entries)) fields_refuse(&f, "emc", NETWORK_EMC_RULE);
    o->vif_threads = (unsigned)fields_uint(&f, "vif_threads", o->vif_threads, 0, NET_VIF_THREADS_MAX);
    o->gro = fields_bool(&f, "gro", o->gro);
    o->transmit_copy = fields_choice(&f, "tx", o->transmit_copy, transmit_names) == 1;
    read_poll(o, &f);
    return fields_done(&f, e);
}

json_t *net_options_json(const struct net_options *o)
{
    json_t *j =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:s}", "flows", flows_names[o->flows.flows], "exact_max",
                  (json_int_t)o->flows.exact_max, "megaflows_max", (json_int_t)o->flows.megaflows_max, "masks_max",
                  (json_int_t)o->flows.masks_max, "emc", (json_int_t)o->flows.emc_entries, "vif_threads",
                  (json_int_t)o->vif_threads, "gro", o->gro, "tx", transmit_names[o->transmit_copy]);
    json_object_set_new(j, "poll_us",
                        o->poll_ns == UINT64_MAX ? json_string("always")
                                                 : json_integer((json_int_t)(o->poll_ns / NS_PER_US)));
    return j;
}

/* ---- bridges ---- */

struct net_bridge *net_bridge_find(struct net *n, const char *name)
{
    LIST_FOR_EACH (node, &n->bridges) {
        struct net_bridge *b = list_entry(node, struct net_bridge, node);
        if (strcmp(b->name, name) == 0) return b;
    }
    return NULL;
}

struct net_bridge *request_bridge(struct net *n, struct fields *f, struct errmsg *e, int *ret)
{
    const char *name = fields_string(f, "bridge", FIELD_REQUIRED, PORT_NAME_BYTES - 1);
    if (f->error->failed) {
        *ret = errmsg_set(e, EINVAL, "%s", f->error->message);
        return NULL;
    }
    struct net_bridge *b = net_bridge_find(n, name);
    *ret = b ? 0 : errmsg_set(e, ENOENT, "bridge %s: there is no such bridge", name);
    return b;
}

static bool port_number_of(void *arg, const char *name, size_t length, uint32_t *number)
{
    struct net_bridge *b = arg;
    LIST_FOR_EACH (node, &b->net->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (a->bridge != b || !a->sp || strlen(a->name) != length || memcmp(a->name, name, length) != 0) continue;
        *number = switch_port_number(a->sp);
        return true;
    }
    return false;
}

static const char *port_name_of(void *arg, uint32_t number)
{
    struct net_bridge *b = arg;
    LIST_FOR_EACH (node, &b->net->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (a->bridge == b && a->sp && switch_port_number(a->sp) == number) return a->name;
    }
    return NULL;
}

static void bridge_drop(struct net_bridge *b)
{
    list_remove(&b->node);
    net_lists_drop(b->net, b, 0);
    net_openflow_end(b);
    net_keep_close(b);
    free(b->port_configs);
    if (b->bridge) bridge_free(b->bridge);
    net_rules_clear(&b->rules);
    free(b);
}

/* 16 digits, as OpenFlow's tools have it; 0x before them may be. */
static void read_datapath_id(struct fields *f, uint64_t *out)
{
    const char *text = fields_string(f, "datapath_id", "", 18), *digits = text;
    if (!*text) return;
    if (strncmp(digits, "0x", 2) == 0) digits += 2;
    size_t len = strspn(digits, "0123456789abcdefABCDEF");
    uint64_t id = len >= 1 && len <= 16 && !digits[len] ? strtoull(digits, NULL, 16) : 0;
    if (id) *out = id;
    else fields_refuse(f, "datapath_id", "1 to 16 hexadecimal digits that are not all 0");
}

void net_bridge_fields(struct fields *f, struct net_bridge *b)
{
    b->fail = (enum bridge_fail)fields_choice(f, "fail_mode", (int)b->fail, fail_names);
    b->mac_ageing_s = (unsigned)fields_uint(f, "mac_ageing_s", b->mac_ageing_s, 1, NETWORK_MAC_AGEING_MAX);
    b->probe_s = (unsigned)fields_uint(f, "probe_s", b->probe_s, 1, NETWORK_PROBE_MAX);
    b->controllers = (unsigned)fields_uint(f, "controllers", b->controllers, 0, OF_CONNECTIONS_MAX);
    read_datapath_id(f, &b->datapath_id);
}

void net_bridge_aged(struct net_bridge *b, unsigned mac_ageing_s)
{
    b->mac_ageing_s = mac_ageing_s;
    bridge_set_mac_ageing(b->bridge, mac_ageing_s, MAC_ENTRIES_MAX);
}

static struct net_bridge *net_bridge_new(struct net *n, const char *name, const struct net_bridge *wanted)
{
    struct net_bridge *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    *b = *wanted;
    b->net = n;
    b->keep.file.fd = b->keep.next.fd = -1;
    b->names = (struct flow_names){.port_number = port_number_of, .port_name = port_name_of, .arg = b};
    list_init(&b->peers);
    list_init(&b->listeners);
    snprintf(b->name, sizeof b->name, "%s", name);
    list_push_back(&n->bridges, &b->node);
    return b;
}

static int request_bridge_add(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct net_bridge wanted = {
        .fail = BRIDGE_STANDALONE, .mac_ageing_s = MAC_AGEING_S_DEFAULT, .probe_s = OF_ECHO_S_DEFAULT};
    const char *name = fields_name(&f, "name");
    char id[20];
    net_bridge_fields(&f, &wanted);
    fields_policy(&f, &wanted.rules);
    int ret = fields_done(&f, r->e);
    if (ret == 0 && net_bridge_find(n, name)) ret = errmsg_set(r->e, EEXIST, "bridge %s: it exists already", name);
    struct net_bridge *b = ret < 0 ? NULL : net_bridge_new(n, name, &wanted);
    if (ret == 0 && !b) ret = errmsg_set(r->e, ENOMEM, "out of memory");
    if (ret < 0) {
        net_rules_clear(&wanted.rules);
        return ret;
    }
    ret = bridge_new(&b->bridge, n->sw, b->name, b->fail, r->e);
    if (ret == 0) {
        net_bridge_aged(b, b->mac_ageing_s);
        ret = net_keep_open(b, request_take_fd(r, "flows"), r->e);
    }
    if (ret == 0) ret = net_openflow_begin(b, r);
    if (ret < 0) {
        bridge_drop(b);
        return ret;
    }
    switch_barrier(n->sw);
    snprintf(id, sizeof id, "%016" PRIx64, b->datapath_id);
    r->result = json_pack("{s:s}", "datapath_id", id);
    return 0;
}

static int request_bridge_del(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    const char *name = fields_string(&f, "name", FIELD_REQUIRED, PORT_NAME_BYTES - 1);
    int ret = fields_done(&f, r->e);
    if (ret < 0) return ret;
    struct net_bridge *b = net_bridge_find(n, name);
    if (!b) return errmsg_set(r->e, ENOENT, "bridge %s: there is no such bridge", name);
    LIST_FOR_EACH (node, &n->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (a->bridge == b)
            return errmsg_set(r->e, EBUSY, "bridge %s: %s %s is attached to it", name, a->is_vif ? "VIF" : "port",
                              a->name);
    }
    bridge_drop(b);
    return 0;
}

static int request_mac_flush(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    int ret;
    struct net_bridge *b = request_bridge(n, &f, r->e, &ret);
    if (ret == 0) ret = fields_done(&f, r->e);
    if (ret < 0) return ret;
    bridge_mac_flush(b->bridge);
    switch_barrier(n->sw);
    return 0;
}

/* ---- requests ---- */

static int request_settled(struct net *n, struct net_request *r)
{
    (void)r;
    net_settle(n);
    return 0;
}

static const struct {
    const char *method;
    int (*answer)(struct net *n, struct net_request *r);
} requests[] = {
    {"bridge.add", request_bridge_add},
    {"bridge.del", request_bridge_del},
    {"bridge.list", request_bridge_list},
    {"bridge.set", request_bridge_set},
    {"bridge.show", request_bridge_show},
    {"capture.start", request_capture_start},
    {"capture.stop", request_capture_stop},
    {"controller.list", request_controller_list},
    {"flow.add", request_flow_add},
    {"flow.del", request_flow_del},
    {"flow.dump", request_flow_dump},
    {"flow.mod", request_flow_mod},
    {"flow.trace", request_flow_trace},
    {"flows.file", request_flows_file},
    {"flows.placed", request_flows_placed},
    {"group.add", request_group_add},
    {"group.del", request_group_del},
    {"group.dump", request_group_dump},
    {"group.mod", request_group_mod},
    {"mac.flush", request_mac_flush},
    {"mac.show", request_mac_show},
    {"megaflow.dump", request_megaflow_dump},
    {"megaflow.stats", request_megaflow_stats},
    {"meter.add", request_meter_add},
    {"meter.del", request_meter_del},
    {"meter.dump", request_meter_dump},
    {"meter.mod", request_meter_mod},
    {"net.stats", request_net_stats},
    {"openflow.connected", request_openflow_connected},
    {"openflow.drop", request_openflow_drop},
    {"openflow.listen", request_openflow_listen},
    {"openflow.tls", request_openflow_tls},
    {"policy.set", request_policy_set},
    {"policy.show", request_policy_show},
    {"port.add", request_port_add},
    {"port.del", request_port_del},
    {"port.list", request_port_list},
    {"port.set", request_port_set},
    {"port.stats", request_port_stats},
    {"runner.stats", request_runner_stats},
    {"settled", request_settled},
    {"vif.attach", request_vif_attach},
    {"vif.connect", request_vif_connect},
    {"vif.detach", request_vif_detach},
    {"vif.disconnect", request_vif_disconnect},
    {"vif.follow", request_vif_follow},
    {"vif.held", request_vif_held},
    {"vif.list", request_vif_list},
    {"vif.set", request_vif_set},
    {"vif.stats", request_vif_stats},
};

int net_request(struct net *n, const char *method, struct net_request *r)
{
    for (unsigned i = 0; i < ARRAY_LEN(requests); i++)
        if (strcmp(requests[i].method, method) == 0) return requests[i].answer(n, r);
    return errmsg_set(r->e, EOPNOTSUPP, "%.64s: no such method", method);
}

int request_take_fd(struct net_request *r, const char *name)
{
    return r->msg ? link_msg_take_fd(r->msg, name) : -1;
}

/* ---- life ---- */

/* How long a fast failover group goes on sending to a port without a link, at most. */
#define LINKS_NS (NS_PER_SECOND / 20)

static void look_at_links(struct loop_timer *t)
{
    struct net *n = container_of(t, struct net, links);
    if (switch_watch_links(n->sw)) loop_timer_arm(n->loop, t, LINKS_NS, look_at_links);
}

static void tick(struct loop_timer *t)
{
    struct net *n = container_of(t, struct net, tick);
    uint64_t now_ns = clock_now_ns();
    switch_tick(n->sw, now_ns);
    LIST_FOR_EACH (node, &n->bridges) {
        struct net_bridge *b = list_entry(node, struct net_bridge, node);
        net_openflow_ticked(b, now_ns);
        net_keep_ticked(b, now_ns);
    }
    net_lists_drop(n, NULL, now_ns);
    LIST_FOR_EACH (node, &n->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (!a->is_vif) net_port_look(a, now_ns);
    }
    look_at_links(&n->links);
    loop_timer_arm(n->loop, t, NS_PER_SECOND, tick);
}

int net_new(struct net **out, const struct net_args *args, struct errmsg *e)
{
    struct net *n = calloc(1, sizeof *n);
    if (!n) return errmsg_set(e, ENOMEM, "out of memory");
    *n = (struct net){.loop = args->loop, .options = args->options, .keeper = args->keeper, .survives = args->survives};
    n->xen_budget.max = NET_XEN_MAPS_MAX;
    n->xen_budget.reserve = NET_XEN_RINGS_MAPS;
    list_init(&n->bridges);
    list_init(&n->attachments);
    list_init(&n->waiting);
    list_init(&n->lists);
    int ret = switch_new(&n->sw, &args->options.flows);
    if (ret == 0) ret = of_agents_new(&n->agents, n->sw, n->loop);
    if (ret == 0) ret = net_sync_new(&n->sync);
    if (ret == 0) ret = net_runners_new(&n->runners, n);
    if (ret < 0) {
        net_sync_free(n->sync);
        if (n->agents) of_agents_free(n->agents);
        if (n->sw) switch_free(n->sw);
        free(n);
        return errmsg_sys(e, -ret, "making the switch");
    }
    loop_timer_arm(n->loop, &n->tick, NS_PER_SECOND, tick);
    *out = n;
    return 0;
}

void net_settle(struct net *n)
{
    if (n->settled) return;
    n->settled = true;
    switch_barrier(n->sw);
    LIST_FOR_EACH (node, &n->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (!a->is_vif) net_port_settle(a);
    }
    LIST_FOR_EACH (node, &n->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (a->is_vif) net_vif_serve(net_vif_of(a));
    }
}

static void waiting_free(struct net *n)
{
    while (!list_empty(&n->waiting)) {
        struct vif_waiting *w = list_entry(list_pop_front(&n->waiting), struct vif_waiting, node);
        for (unsigned i = 0; i < w->held_count; i++)
            close(w->held[i].fd);
        free(w->held);
        free(w);
    }
}

static void net_end(struct net *n, bool leave)
{
    loop_timer_cancel(&n->tick);
    loop_timer_cancel(&n->links);
    n->leaving = true;
    while (!list_empty(&n->attachments)) {
        struct attachment *a = list_entry(n->attachments.next, struct attachment, node);
        if (a->is_vif) net_vif_free(net_vif_of(a), leave);
        else net_port_free(a);
    }
    waiting_free(n);
    while (!list_empty(&n->bridges))
        bridge_drop(list_entry(n->bridges.next, struct net_bridge, node));
    net_tls_free(n->tls);
    of_agents_free(n->agents);
    net_runners_free(n->runners);
    switch_free(n->sw);
    net_world_close(n);
    net_sync_free(n->sync); /* last: it may wait for the disk */
    free(n);
}

void net_quit(struct net *n)
{
    net_end(n, false);
}

void net_leave(struct net *n)
{
    net_end(n, true);
}
