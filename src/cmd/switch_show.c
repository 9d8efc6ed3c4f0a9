/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists and statistics, with names that programs rely on. Long ones come in pages: who asks goes on at "next".
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cmd/switch_net.h"
#include "loop/clock.h"

#define PAGE_BYTES_MAX (LINK_MESSAGE_MAX - 16384u)

/* ---- pages ---- */

void page_read(struct page *p, struct fields *f)
{
    p->from = fields_uint(f, "from", 0, 0, INT64_MAX);
    p->max = fields_uint(f, "max", INT64_MAX, 1, INT64_MAX);
    p->list = json_array();
}

bool page_wants(struct page *p)
{
    uint64_t i = p->index;
    if (p->full) return false;
    if (i >= p->from && json_array_size(p->list) >= p->max) {
        p->full = true;
        return false;
    }
    p->index++;
    return i >= p->from;
}

void page_add(struct page *p, json_t *entry)
{
    size_t bytes = entry ? json_dumpb(entry, NULL, 0, JSON_COMPACT) + 1 : 0;
    if (p->bytes + bytes > PAGE_BYTES_MAX && json_array_size(p->list)) {
        p->full = true;
        p->index--; /* this one comes next */
        json_decref(entry);
        return;
    }
    p->bytes += bytes;
    if (entry) json_array_append_new(p->list, entry);
}

json_t *page_json(struct page *p, const char *key)
{
    json_t *j = json_object();
    json_object_set_new(j, key, p->list);
    if (p->full) json_object_set_new(j, "next", json_integer((json_int_t)p->index));
    return j;
}

void page_drop(struct page *p)
{
    json_decref(p->list);
}

/* ---- ports and VIFs ---- */

static json_t *port_numbers_json(struct attachment *a)
{
    struct port_stats s = {0};
    port_stats_read(a->port, &s);
    json_t *in =
        json_pack("{s:I, s:I, s:I, s:I}", "in_packets", (json_int_t)s.in_packets, "in_bytes", (json_int_t)s.in_bytes,
                  "in_dropped", (json_int_t)s.in_dropped, "in_errors", (json_int_t)s.in_errors);
    json_t *j = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "name", a->name, "bridge",
                          a->bridge->name, "type", a->port->ops->type, "number", (json_int_t)switch_port_number(a->sp),
                          "out_packets", (json_int_t)s.out_packets, "out_bytes", (json_int_t)s.out_bytes, "out_dropped",
                          (json_int_t)s.out_dropped, "out_errors", (json_int_t)s.out_errors, "out_copied_bytes",
                          (json_int_t)s.out_copied_bytes, "segmented", (json_int_t)s.segmented, "checksummed",
                          (json_int_t)s.checksummed, "merged", (json_int_t)s.merged);
    json_object_update(j, in);
    json_decref(in);
    return j;
}

static json_t *vif_numbers_json(struct net_vif *v)
{
    struct vif_stats s = {0};
    vif_stats_read(v->vif, &s);
    json_t *j = port_numbers_json(&v->a);
    json_t *more = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i}", "state",
        net_vif_state(v), "tx_packets", (json_int_t)s.tx_packets, "tx_bytes", (json_int_t)s.tx_bytes, "tx_invalid",
        (json_int_t)s.tx_invalid, "tx_copied_bytes", (json_int_t)s.tx_copied_bytes, "tx_throttled",
        (json_int_t)s.tx_throttled, "rx_packets", (json_int_t)s.rx_packets, "rx_bytes", (json_int_t)s.rx_bytes,
        "rx_no_buffer", (json_int_t)s.rx_no_buffer, "rx_too_long", (json_int_t)s.rx_too_long, "rx_limited",
        (json_int_t)s.rx_limited, "rx_copied_bytes", (json_int_t)s.rx_copied_bytes, "calls", (json_int_t)s.calls,
        "kicks", (json_int_t)s.kicks, "tx_bad_grants", (json_int_t)s.tx_bad_grants, "rx_bad_grants",
        (json_int_t)s.rx_bad_grants, "pairs_running", (int)s.pairs_running);
    json_object_update(j, more);
    json_decref(more);
    const char *why = vif_broken(v->vif);
    if (why) json_object_set_new(j, "why", json_string(why));
    return j;
}

enum kinds { PORTS, VIFS, BOTH };

/* The parameters "name", "bridge" and those of a page select; `show` makes an entry. */
static int list_attachments(struct net *n, struct net_request *r, enum kinds kinds, const char *key,
                            json_t *(*show)(struct attachment *a))
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct page p = {0};
    const char *name = fields_string(&f, "name", "", PORT_NAME_BYTES - 1);
    const char *bridge = fields_string(&f, "bridge", "", PORT_NAME_BYTES - 1);
    page_read(&p, &f);
    bool found = false;
    int ret = fields_done(&f, r->e);
    if (ret == 0 && *bridge && !net_bridge_find(n, bridge))
        ret = errmsg_set(r->e, ENOENT, "bridge %s: there is no such bridge", bridge);
    LIST_FOR_EACH (node, &n->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (ret < 0) break;
        if ((kinds == PORTS && a->is_vif) || (kinds == VIFS && !a->is_vif)) continue;
        if ((*name && strcmp(a->name, name) != 0) || (*bridge && strcmp(a->bridge->name, bridge) != 0)) continue;
        found = true;
        if (page_wants(&p)) page_add(&p, show(a));
    }
    if (ret == 0 && *name && !found)
        ret = errmsg_set(r->e, ENOENT, "%s: there is no such %s", name, kinds == VIFS ? "VIF" : "port");
    if (ret == 0) r->result = page_json(&p, key);
    else page_drop(&p);
    return ret;
}

static json_t *show_vif(struct attachment *a)
{
    return net_vif_json(net_vif_of(a));
}

static json_t *show_numbers(struct attachment *a)
{
    return a->is_vif ? vif_numbers_json(net_vif_of(a)) : port_numbers_json(a);
}

static json_t *show_any(struct attachment *a)
{
    return a->is_vif ? net_vif_json(net_vif_of(a)) : net_port_json(a);
}

int request_port_list(struct net *n, struct net_request *r)
{
    return list_attachments(n, r, PORTS, "ports", net_port_json);
}

int request_port_stats(struct net *n, struct net_request *r)
{
    return list_attachments(n, r, PORTS, "ports", port_numbers_json);
}

int request_vif_list(struct net *n, struct net_request *r)
{
    return list_attachments(n, r, VIFS, "vifs", show_vif);
}

int request_vif_stats(struct net *n, struct net_request *r)
{
    return list_attachments(n, r, VIFS, "vifs", show_numbers);
}

/* ---- bridges ---- */

static void count_mac(void *arg, const struct mac_info *m)
{
    (void)m;
    ++*(unsigned *)arg;
}

static json_t *bridge_json(struct net *n, struct net_bridge *b)
{
    unsigned ports = 0, vifs = 0, macs = 0;
    char id[20];
    LIST_FOR_EACH (node, &n->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (a->bridge != b) continue;
        ports += !a->is_vif;
        vifs += a->is_vif;
    }
    bridge_mac_each(b->bridge, count_mac, &macs);
    snprintf(id, sizeof id, "%016" PRIx64, b->datapath_id);
    return json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b}", "name", b->name, "fail_mode",
                     b->fail == BRIDGE_SECURE ? "secure" : "standalone", "datapath_id", id, "mac_ageing_s",
                     (int)b->mac_ageing_s, "probe_s", (int)b->probe_s, "port_count", (int)ports, "vif_count", (int)vifs,
                     "flow_count", (int)bridge_flow_count(b->bridge), "group_count", (int)bridge_group_count(b->bridge),
                     "meter_count", (int)bridge_meter_count(b->bridge), "controller_count",
                     (int)of_agent_controllers(b->agent), "mac_count", (int)macs, "flows_saved", b->keep.file.fd >= 0);
}

int request_bridge_list(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct page p = {0};
    page_read(&p, &f);
    int ret = fields_done(&f, r->e);
    LIST_FOR_EACH (node, &n->bridges)
        if (ret == 0 && page_wants(&p)) page_add(&p, bridge_json(n, list_entry(node, struct net_bridge, node)));
    if (ret == 0) r->result = page_json(&p, "bridges");
    else page_drop(&p);
    return ret;
}

/* Its ports come in pages. */
int request_bridge_show(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct page p = {0};
    const char *name = fields_string(&f, "name", FIELD_REQUIRED, PORT_NAME_BYTES - 1);
    page_read(&p, &f);
    int ret = fields_done(&f, r->e);
    struct net_bridge *b = ret < 0 ? NULL : net_bridge_find(n, name);
    if (ret == 0 && !b) ret = errmsg_set(r->e, ENOENT, "bridge %s: there is no such bridge", name);
    if (ret < 0) {
        page_drop(&p);
        return ret;
    }
    LIST_FOR_EACH (node, &n->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (a->bridge == b && page_wants(&p)) page_add(&p, show_any(a));
    }
    r->result = page_json(&p, "ports");
    json_t *numbers = bridge_json(n, b);
    json_object_update(r->result, numbers);
    json_decref(numbers);
    return 0;
}

/* ---- megaflows ---- */

struct megaflow_dump {
    struct net *net;
    struct net_bridge *bridge; /* of the megaflow that comes next; names_of() is asked before each */
    const char *wanted;        /* "": all bridges */
    struct page page;
};

static const struct flow_names *names_of(void *arg, uint16_t bridge)
{
    static const struct flow_names none;
    struct megaflow_dump *d = arg;
    d->bridge = NULL;
    LIST_FOR_EACH (node, &d->net->bridges) {
        struct net_bridge *b = list_entry(node, struct net_bridge, node);
        if (bridge_number(b->bridge) == bridge) d->bridge = b;
    }
    return d->bridge ? &d->bridge->names : &none;
}

static void megaflow_one(void *arg, const struct megaflow_info *m)
{
    struct megaflow_dump *d = arg;
    char *text = NULL;
    size_t bytes;
    const char *bridge = d->bridge ? d->bridge->name : "";
    if (*d->wanted && strcmp(d->wanted, bridge) != 0) return;
    if (!page_wants(&d->page)) return;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return;
    if (m->recirculation) fprintf(out, "recirculation=%u,", m->recirculation);
    flow_format_match(out, &m->match, d->bridge ? &d->bridge->names : NULL);
    fclose(out);
    page_add(&d->page, json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:f, s:i}", "bridge", bridge, "match", text, "actions",
                                 m->actions ? m->actions : "", "thread", m->thread ? m->thread : "", "packets",
                                 (json_int_t)m->packets, "bytes", (json_int_t)m->bytes, "idle_s",
                                 (double)m->idle_ns / (double)NS_PER_SECOND, "tables", (int)m->tables));
    free(text);
}

int request_megaflow_dump(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct megaflow_dump d = {.net = n};
    d.wanted = fields_string(&f, "bridge", "", PORT_NAME_BYTES - 1);
    page_read(&d.page, &f);
    int ret = fields_done(&f, r->e);
    if (ret == 0) switch_megaflow_each(n->sw, names_of, megaflow_one, &d);
    if (ret == 0) r->result = page_json(&d.page, "megaflows");
    else page_drop(&d.page);
    return ret;
}

static json_t *switch_json(struct net *n)
{
    struct switch_stats s = {0};
    switch_stats_read(n->sw, &s);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:I, s:I}", "packets", (json_int_t)s.packets,
                     "emc_hits", (json_int_t)s.emc_hits, "megaflow_hits", (json_int_t)s.megaflow_hits, "translations",
                     (json_int_t)s.translations, "revalidated", (json_int_t)s.revalidated, "dropped",
                     (json_int_t)s.dropped, "over_quota", (json_int_t)s.over_quota, "threads", (int)s.threads,
                     "megaflows", (int)s.megaflows, "masks", (int)s.masks, "expired", (json_int_t)s.expired, "evicted",
                     (json_int_t)s.evicted);
}

int request_megaflow_stats(struct net *n, struct net_request *r)
{
    r->result = switch_json(n);
    return 0;
}

int request_runner_stats(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct page p = {0};
    page_read(&p, &f);
    int ret = fields_done(&f, r->e);
    if (ret == 0) net_runners_json(n, &p);
    if (ret == 0) r->result = page_json(&p, "runners");
    else page_drop(&p);
    return ret;
}

/* ---- addresses ---- */

struct mac_dump {
    struct net_bridge *b;
    struct page page;
};

static void mac_one(void *arg, const struct mac_info *m)
{
    struct mac_dump *d = arg;
    char text[18];
    if (!page_wants(&d->page)) return;
    mac_format(text, m->mac);
    const char *port = d->b->names.port_name(d->b->names.arg, m->port);
    page_add(&d->page, json_pack("{s:s, s:i, s:I, s:s, s:i}", "mac", text, "vlan", (int)m->vlan, "number",
                                 (json_int_t)m->port, "port", port ? port : "", "age_s", (int)m->age_s));
}

int request_mac_show(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct mac_dump d = {0};
    int ret;
    d.b = request_bridge(n, &f, r->e, &ret);
    if (ret < 0) return ret;
    page_read(&d.page, &f);
    ret = fields_done(&f, r->e);
    if (ret == 0) bridge_mac_each(d.b->bridge, mac_one, &d);
    if (ret == 0) r->result = page_json(&d.page, "macs");
    else page_drop(&d.page);
    return ret;
}

/* ---- all in one ---- */

int request_net_stats(struct net *n, struct net_request *r)
{
    int ret = list_attachments(n, r, BOTH, "ports", show_numbers);
    if (ret < 0) return ret;
    json_t *bridges = json_array();
    LIST_FOR_EACH (node, &n->bridges) {
        struct net_bridge *b = list_entry(node, struct net_bridge, node);
        if (json_array_size(bridges) < 64) json_array_append_new(bridges, bridge_json(n, b));
    }
    json_object_set_new(r->result, "bridges", bridges);
    json_object_set_new(r->result, "switch", switch_json(n));
    json_object_set_new(r->result, "options", net_options_json(&n->options));
    json_object_set_new(r->result, "pid", json_integer(getpid()));
    json_object_set_new(r->result, "settled", json_boolean(n->settled));
    return 0;
}
