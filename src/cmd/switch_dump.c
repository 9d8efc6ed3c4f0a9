/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that list flows, groups and meters.
 *
 * A list of flows that does not fit one answer is a snapshot (bridge_flow_list()) that is read on where the last answer ended,
 * so that a long table is walked once, not once per page. Who asks hands back "list" and "next". A snapshot that nobody asked
 * for lately is dropped; who still asks for it then gets the entries from that index on of a new one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/switch_net.h"
#include "loop/clock.h"
#include "switch/guard.h"

#define TEXT_MAX 65536u
#define LISTS_MAX 4u /* half read, of all bridges */
#define LIST_IDLE_NS (30 * NS_PER_SECOND)
#define FLOWS_BYTES (LINK_MESSAGE_MAX / 2) /* then an answer is long enough: one more flow fits */
#define GUARDS_FROM (UINT64_C(1) << 40)

struct dump {
    struct page page;
    struct net_bridge *b;
    const struct flow_match *selected; /* of guards */
    const char *vif;
};

static char *text_of(const struct flow_spec *f, const struct flow_names *names, bool actions)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return NULL;
    struct flow_spec plain = *f;
    plain.cookie_mask = 0;
    if (actions) flow_format_actions(out, &f->instructions, names);
    else flow_format_all(out, &plain, names);
    fclose(out);
    return text;
}

static json_t *flow_json(const struct flow_spec *f, const struct flow_stats *s, const struct flow_names *names)
{
    char *text = text_of(f, names, false), *actions = text_of(f, names, true), cookie[24];
    snprintf(cookie, sizeof cookie, "0x%" PRIx64, f->cookie);
    json_t *j =
        json_pack("{s:s, s:s, s:I, s:I, s:f, s:f, s:i, s:i, s:i, s:i, s:s}", "text", text ? text : "", "actions",
                  actions ? actions : "", "packets", (json_int_t)s->packets, "bytes", (json_int_t)s->bytes,
                  "duration_s", (double)s->duration_ns / (double)NS_PER_SECOND, "idle_s",
                  (double)s->idle_ns / (double)NS_PER_SECOND, "table", (int)f->table, "priority", (int)f->priority,
                  "idle_timeout", (int)f->idle_timeout_s, "hard_timeout", (int)f->hard_timeout_s, "cookie", cookie);
    free(text);
    free(actions);
    return j;
}

static void dump_guard(void *arg, const char *stage, const struct flow_spec *f)
{
    struct dump *d = arg;
    if (!flow_match_overlaps(d->selected, &f->match) || !page_wants(&d->page)) return;
    struct flow_spec rule = *f;
    rule.table = 0; /* it is in none: the stage says where it stands */
    char *text = text_of(&rule, &d->b->names, false);
    json_t *j = json_pack("{s:s, s:s, s:s}", "guard", d->vif, "stage", stage, "text", text ? text : "");
    free(text);
    page_add(&d->page, j);
}

static void dump_guards(struct dump *d, const struct flow_match *selected)
{
    d->selected = selected;
    LIST_FOR_EACH (node, &d->b->net->attachments) {
        struct attachment *a = list_entry(node, struct attachment, node);
        if (a->bridge != d->b || !a->is_vif || !a->sp) continue;
        d->vif = a->name;
        guard_each(net_vif_of(a)->guard, switch_port_number(a->sp), dump_guard, d);
    }
}

/* ---- snapshots ---- */

struct net_list {
    struct list node; /* the longest unused first */
    struct net_bridge *b;
    struct flow_list *flows;
    uint64_t id, next; /* the index of its next flow */
    uint64_t used_ns;
};

static void list_drop(struct net_list *l)
{
    list_remove(&l->node);
    flow_list_free(l->flows);
    free(l);
}

void net_lists_drop(struct net *n, const struct net_bridge *b, uint64_t now_ns)
{
    LIST_FOR_EACH_SAFE (node, &n->lists) {
        struct net_list *l = list_entry(node, struct net_list, node);
        if (l->b == b || (!b && now_ns - l->used_ns > LIST_IDLE_NS)) list_drop(l);
    }
}

static struct net_list *list_find(struct net *n, const struct net_bridge *b, uint64_t id, uint64_t from)
{
    LIST_FOR_EACH (node, &n->lists) {
        struct net_list *l = list_entry(node, struct net_list, node);
        if (l->id == id && l->b == b && l->next == from) return l;
    }
    return NULL;
}

/* What nobody may come back for makes room. */
static struct flow_list *snapshot(struct net_bridge *b, const struct flow_spec *selection)
{
    struct list *lists = &b->net->lists;
    struct flow_list *flows = bridge_flow_list(b->bridge, selection);
    while (!flows && !list_empty(lists)) {
        list_drop(list_entry(lists->next, struct net_list, node));
        flows = bridge_flow_list(b->bridge, selection);
    }
    return flows;
}

static struct net_list *list_new(struct net_bridge *b, const struct flow_spec *selection, uint64_t from)
{
    struct net *n = b->net;
    struct net_list *l = calloc(1, sizeof *l);
    struct flow_spec f;
    struct flow_stats s;
    unsigned count = 0;
    if (!l) return NULL;
    *l = (struct net_list){.b = b, .id = ++n->list_id, .flows = snapshot(b, selection)};
    if (!l->flows) {
        free(l);
        return NULL;
    }
    LIST_FOR_EACH (node, &n->lists)
        count++;
    if (count >= LISTS_MAX) list_drop(list_entry(n->lists.next, struct net_list, node));
    list_push_back(&n->lists, &l->node);
    while (l->next < from && flow_list_next(l->flows, &f, &s))
        l->next++;
    return l;
}

/* True: there is more. */
static bool list_page(struct dump *d, struct net_list *l)
{
    struct flow_spec f;
    struct flow_stats s;
    size_t before = json_array_size(d->page.list);
    while (json_array_size(d->page.list) < d->page.max && d->page.bytes < FLOWS_BYTES) {
        if (!flow_list_next(l->flows, &f, &s)) return false;
        page_add(&d->page, flow_json(&f, &s, &d->b->names));
    }
    l->next += json_array_size(d->page.list) - before;
    return true;
}

/* Guards come behind the last flow: index GUARDS_FROM and up. */
static int dump_page(struct dump *d, const struct flow_spec *selection, uint64_t id, bool guards, struct errmsg *e,
                     json_t **result)
{
    struct net_list *l = NULL;
    bool more = false;
    if (d->page.from < GUARDS_FROM) {
        l = list_find(d->b->net, d->b, id, d->page.from);
        if (!l) l = list_new(d->b, selection, d->page.from);
        if (!l) return errmsg_set(e, ENOMEM, "out of memory");
        more = list_page(d, l);
        l->used_ns = clock_now_ns();
    }
    uint64_t next = more ? l->next : 0;
    if (guards && !more) {
        d->page.from = l ? 0 : d->page.from - GUARDS_FROM;
        dump_guards(d, &selection->match);
        if (d->page.full) next = GUARDS_FROM + d->page.index;
    }
    *result = json_object();
    json_object_set_new(*result, "flows", json_incref(d->page.list));
    if (next) json_object_set_new(*result, "next", json_integer((json_int_t)next));
    if (more) json_object_set_new(*result, "list", json_integer((json_int_t)l->id));
    if (l && !more) list_drop(l);
    return 0;
}

int request_flow_dump(struct net *n, struct net_request *r)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct dump d = {0};
    struct flow_spec selection;
    int ret;
    d.b = request_bridge(n, &f, r->e, &ret);
    if (ret < 0) return ret;
    const char *match = fields_string(&f, "match", "", TEXT_MAX);
    bool guards = fields_bool(&f, "guards", false);
    uint64_t id = fields_uint(&f, "list", 0, 0, INT64_MAX);
    page_read(&d.page, &f);
    ret = fields_done(&f, r->e);
    if (ret == 0) ret = flow_parse(&selection, match, FLOW_PARSE_SELECT, &d.b->names, r->e);
    if (ret == 0) ret = dump_page(&d, &selection, id, guards, r->e, &r->result);
    page_drop(&d.page);
    return ret;
}

/* ---- groups and meters ---- */

static void dump_group(void *arg, const struct group_spec *g, const struct group_stats *s)
{
    struct dump *d = arg;
    char *text = NULL;
    size_t bytes;
    if (!page_wants(&d->page)) return;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return;
    group_format(out, g, &d->b->names);
    fclose(out);
    json_t *buckets = json_array();
    for (unsigned i = 0; i < g->count; i++)
        json_array_append_new(buckets, json_pack("{s:I, s:I}", "packets", (json_int_t)s->buckets[i].packets, "bytes",
                                                 (json_int_t)s->buckets[i].bytes));
    page_add(&d->page,
             json_pack("{s:I, s:s, s:i, s:I, s:I, s:f, s:o}", "group_id", (json_int_t)g->id, "text", text, "references",
                       (int)s->references, "packets", (json_int_t)s->packets, "bytes", (json_int_t)s->bytes,
                       "duration_s", (double)s->duration_ns / (double)NS_PER_SECOND, "buckets", buckets));
    free(text);
}

static void dump_meter(void *arg, const struct meter_spec *m, const struct meter_stats *s)
{
    struct dump *d = arg;
    char *text = NULL;
    size_t bytes;
    if (!page_wants(&d->page)) return;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return;
    meter_format(out, m);
    fclose(out);
    json_t *bands = json_array();
    for (unsigned i = 0; i < m->count; i++)
        json_array_append_new(bands, json_pack("{s:I, s:I}", "packets", (json_int_t)s->bands[i].packets, "bytes",
                                               (json_int_t)s->bands[i].bytes));
    page_add(&d->page,
             json_pack("{s:I, s:s, s:i, s:I, s:I, s:f, s:o}", "meter", (json_int_t)m->id, "text", text, "flows",
                       (int)s->flows, "packets", (json_int_t)s->packets, "bytes", (json_int_t)s->bytes, "duration_s",
                       (double)s->duration_ns / (double)NS_PER_SECOND, "bands", bands));
    free(text);
}

static int dump_all(struct net *n, struct net_request *r, bool groups)
{
    struct field_error why = {0};
    struct fields f = fields_begin(r->params, "", &why);
    struct dump d = {0};
    int ret;
    d.b = request_bridge(n, &f, r->e, &ret);
    if (ret < 0) return ret;
    page_read(&d.page, &f);
    ret = fields_done(&f, r->e);
    if (ret == 0 && groups) bridge_group_each(d.b->bridge, SWITCH_GROUP_ALL, dump_group, &d);
    else if (ret == 0) bridge_meter_each(d.b->bridge, SWITCH_METER_ALL, dump_meter, &d);
    if (ret == 0) r->result = page_json(&d.page, groups ? "groups" : "meters");
    else page_drop(&d.page);
    return ret;
}

int request_group_dump(struct net *n, struct net_request *r)
{
    return dump_all(n, r, true);
}

int request_meter_dump(struct net *n, struct net_request *r)
{
    return dump_all(n, r, false);
}
