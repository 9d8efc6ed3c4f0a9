/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "switch/extract.h"
#include "switch/guard.h"
#include "switch/policy.h"
#include "switch/translate_internal.h"

void walk_trace(struct walk *w, const char *format, ...)
{
    if (!w->r->trace) return;
    va_list args;
    va_start(args, format);
    fprintf(w->r->trace, "%*s", (int)(4 + 2 * w->depth), "");
    vfprintf(w->r->trace, format, args);
    fputc('\n', w->r->trace);
    va_end(args);
}

void walk_output(struct walk *w, struct switch_port *sp)
{
    const struct port_settings *s = port_settings(sp);
    if (s->config & (PORT_CONFIG_DOWN | PORT_CONFIG_NO_FWD)) return;
    if (s->c.policy && !policy_allows(s->c.policy, POLICY_IN, &w->key, seen(w))) {
        walk_trace(w, "the policy of port %u: drop", sp->number);
        return;
    }
    struct dp_action *a = walk_emit(w, DP_OUTPUT);
    if (!a) return;
    a->port = sp->number;
    a->to = sp->port;
}

struct switch_port *bridge_find_port(const struct bridge *b, uint32_t number)
{
    const struct port_map *m = atomic_load_explicit(&b->ports, memory_order_acquire);
    unsigned low = 0, high = m ? m->count : 0;
    if (number - 1 < high && m->ports[number - 1]->number == number)
        return m->ports[number - 1]; /* most are 1, 2, 3 .. */
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (m->ports[middle]->number < number) low = middle + 1;
        else high = middle;
    }
    return m && low < m->count && m->ports[low]->number == number ? m->ports[low] : NULL;
}

/* ---- one flow ---- */

/* A flow that nobody counted packets for would be taken for idle. */
static void remember_instead(struct translation *t, struct flow *f)
{
    for (unsigned i = 0; i < t->flow_count; i++) {
        if (t->flows[i]->idle_timeout_s) continue;
        t->flows[i] = f;
        return;
    }
}

static void remember_flow(struct walk *w, struct flow *f)
{
    struct translation *t = w->out;
    for (unsigned i = 0; i < t->flow_count; i++)
        if (t->flows[i] == f) return;
    if (t->flow_count < TRANSLATION_FLOWS) t->flows[t->flow_count++] = f;
    else if (f->idle_timeout_s) remember_instead(t, f);
}

static void write_set(struct walk *w, const struct action_list *l)
{
    if (!action_set_merge_into(&w->set, l)) w->out->failed = w->stop = true;
}

static void write_metadata(struct walk *w, const struct instructions *i)
{
    uint64_t m = be64_get(w->key.metadata);
    w->key.metadata = be64_make((m & ~i->metadata_mask) | (i->metadata & i->metadata_mask));
}

static void trace_flow(struct walk *w, const struct flow *f)
{
    struct flow_spec spec;
    flow_to_spec(f, &spec);
    fprintf(w->r->trace, "%*s%u. ", (int)(2 + 2 * w->depth), "", f->table);
    flow_format(w->r->trace, &spec, w->r->names);
    fputc('\n', w->r->trace);
}

static bool is_ip(const struct flow_key *k)
{
    uint16_t type = be16_get(k->eth_type);
    return type == 0x0800 || type == 0x86dd;
}

/* The packet at hand meets it now, because what follows depends on what becomes of it. */
static void meet_meter(struct walk *w, struct meter *m)
{
    int raise = meter_pass(w->r->meters, m, w->r->packet->length_bytes);
    if (raise == METER_EXCEEDED) {
        walk_trace(w, "the meter is exceeded: drop");
        w->stop = true;
    } else if (raise && is_ip(&w->key)) {
        uint8_t tos = meter_raise(w->key.nw_tos, (unsigned)raise);
        if (tos == w->key.nw_tos) return; /* of another class, or its header is not whole: then a set would fail */
        w->key.nw_tos = tos;
        struct dp_action *a = walk_emit(w, DP_SET);
        if (!a) return;
        a->field = FIELD_IP_DSCP;
        a->set.value = field_get(&w->key, FIELD_IP_DSCP);
        a->set.mask = field_all_ones(FIELD_IP_DSCP);
    }
}

/* Is the DSCP, which a meter may change from packet to packet, looked at after this? See translate(). */
static void watch_dscp(struct walk *w)
{
    w->depends = walk_depends(w);
    w->out->once |= w->out->inner_count > 0; /* one byte is not enough for the bits of several keys */
    w->remarked = true;
    w->dscp_seen |= seen(w)->nw_tos & WALK_DSCP;
    seen(w)->nw_tos &= (uint8_t)~WALK_DSCP;
}

/* What comes after this meter counts only packets that it lets through. */
static void mark_counts(struct walk *w)
{
    struct translation *t = w->out;
    if (t->mark_count == TRANSLATION_METERS) {
        w->depends = true;
        return;
    }
    struct count_mark *m = &t->marks[t->mark_count++];
    *m = (struct count_mark){
        .flows = (uint16_t)t->flow_count, .counted = (uint16_t)t->counted_count, .misses = t->misses.count};
    memcpy(m->tables, t->deps.tables, sizeof m->tables);
}

/* A packet that goes no further meets the meter all the same: it counts. */
static void walk_meter(struct walk *w, uint32_t id, struct meter *m)
{
    if (w->meet) {
        meet_meter(w, m);
        return;
    }
    if (meter_remarks(m) && is_ip(&w->key)) watch_dscp(w);
    struct dp_action *a = walk_emit(w, DP_METER);
    if (!a) return;
    a->id = id;
    a->meter = m;
    mark_counts(w);
}

/* True: goes on in *table. */
static bool carry_out(struct walk *w, struct flow *f, uint8_t *table)
{
    const struct flow_code *code = atomic_load_explicit(&f->code, memory_order_acquire);
    const struct instructions *i = &code->instructions;
    const struct flow *outer_flow = w->flow;
    uint8_t outer_table = w->table;
    if (w->r->trace) trace_flow(w, f);
    remember_flow(w, f);
    w->flow = f;
    w->table = f->table;
    if (code->meter) walk_meter(w, i->meter, code->meter);
    if (i->has_apply) walk_actions(w, &i->apply);
    if (i->clear) w->set.count = 0;
    if (i->has_write) write_set(w, &i->write);
    if (i->has_metadata) write_metadata(w, i);
    w->flow = outer_flow;
    w->table = outer_table;
    if (w->stop || !i->has_goto || i->goto_table <= f->table || i->goto_table >= SWITCH_TABLES) return false;
    *table = i->goto_table;
    return true;
}

static void remember_miss(struct table_misses *m, uint8_t table)
{
    for (unsigned i = 0; i < m->count; i++)
        if (m->tables[i] == table) return;
    if (m->count < sizeof m->tables) m->tables[m->count++] = table;
}

bool walk_table(struct walk *w, uint8_t table)
{
    for (bool first = true;; first = false) {
        bitmap_set(w->out->deps.tables, table);
        w->out->tables++;
        struct flow *f = table_lookup(&w->r->bridge->tables[table], &w->key, seen(w));
        if (!f) {
            walk_trace(w, "%u. no match: drop", table);
            remember_miss(&w->out->misses, table);
            return !first;
        }
        if (!carry_out(w, f, &table)) return true;
    }
}

/* ---- all of it ---- */

/* in_port, bridge, type, protocol and fragment bits decide which fields there are at all. */
static void finish_mask(const struct flow_key *k, struct flow_key *m)
{
    m->words[0] = UINT64_MAX;
    memset(&m->eth_type, 0xff, sizeof m->eth_type);
    uint16_t type = be16_get(k->eth_type);
    if (type == 0x0800 || type == 0x86dd) m->nw_proto = m->nw_frag = 0xff;
    extract_trim_mask(k, m);
}

/* A branch with which the list ends needs no copy: nobody looks at the packet afterwards. */
static void unwrap_last(struct translation *t)
{
    for (unsigned i = 0; i < t->count;) {
        const struct dp_action *a = &t->actions[i];
        if (!dp_is_block(a)) i++;
        else if (i + 1 + a->count < t->count) i += 1 + a->count;
        else if (a->type == DP_SELECT) break; /* it knows that it is the last (execute.c) */
        else memmove(&t->actions[i], &t->actions[i + 1], (--t->count - i) * sizeof *a);
    }
}

/* A meter after which nothing counts needs no mark. */
static void unmark_last(struct translation *t)
{
    while (t->mark_count) {
        const struct count_mark *m = &t->marks[t->mark_count - 1];
        if (m->flows != t->flow_count || m->counted != t->counted_count || m->misses != t->misses.count ||
            memcmp(m->tables, t->deps.tables, sizeof m->tables) != 0)
            return;
        t->mark_count--;
    }
}

static void finish(struct walk *w)
{
    struct translation *t = w->out;
    if (t->failed) t->count = 0;
    while (t->count && !dp_is_seen(&t->actions[t->count - 1]))
        t->count--;
    unwrap_last(t);
    unmark_last(t);
    finish_mask(w->r->key, &t->mask);
    for (unsigned i = 0; i < t->inner_count; i++)
        finish_mask(&t->inner[i].key, &t->inner[i].mask);
    for (unsigned i = 1; i < FLOW_KEY_PACKET_WORDS && !t->deps.modified; i++)
        t->deps.modified = w->key.words[i] != w->r->key->words[i];
}

static void start(struct walk *w, const struct translation_request *r, struct translation *out)
{
    memset(out, 0, offsetof(struct translation, flows));
    out->deps.bridge = r->bridge->index;
    w->r = r;
    w->out = out;
    w->key = *r->key;
    w->mask = &out->mask;
    w->flow = NULL;
    w->table = 0;
    w->meet = r->actions && r->packet && r->meters; /* a controller's packet is the only one of its kind */
    w->stop = w->remarked = w->depends = w->buried = false;
    w->dscp_seen = 0;
    w->depth = w->resubmits = w->group_depth = w->buckets = w->left_open = 0;
    w->actions_most = DP_ACTIONS_MAX;
    w->buckets_most = WALK_BUCKETS_MAX;
    w->selecting = w->refused = w->closed = false;
    w->set = (struct action_list){.list = w->set_actions};
}

/* May the packet come in at its port at all? */
static bool may_enter(struct walk *w)
{
    const struct switch_port *in = w->r->in ? w->r->in : bridge_find_port(w->r->bridge, be32_get(w->key.in_port));
    const struct port_settings *s = in ? port_settings(in) : NULL;
    if (s && s->config & (PORT_CONFIG_DOWN | PORT_CONFIG_NO_RECV)) {
        walk_trace(w, "the port does not receive: drop");
        return false;
    }
    if (s && s->c.guard && !guard_allows(s->c.guard, &w->key, seen(w))) {
        if (w->r->trace) walk_trace(w, "the port's guard (%s): drop", guard_drops_in(s->c.guard, &w->key));
        return false;
    }
    if (s && s->c.policy && !policy_allows(s->c.policy, POLICY_OUT, &w->key, seen(w))) {
        walk_trace(w, "the port's policy: drop");
        return false;
    }
    return true;
}

/* From table 0 on, and what is in the action set in the end. */
static void walk_tables(struct walk *w)
{
    walk_table(w, 0);
    w->flow = NULL;
    if (!w->stop) walk_set(w, &w->set);
}

void walk_pipeline(struct walk *w)
{
    struct flow_key before = w->key, *mask = w->mask;
    unsigned at = w->out->count;
    if (!walk_emit(w, DP_BRANCH)) return;
    walk_tables(w);
    walk_branch_end(w, at);
    walk_look_at(w, mask);
    w->set.count = 0;
    w->table = 0;
    w->key = before;
    w->stop = w->out->failed;
}

static void walk(struct walk *w)
{
    if (w->r->actions) walk_actions(w, w->r->actions);
    else if (may_enter(w)) walk_tables(w);
}

void translate(const struct translation_request *r, struct translation *out)
{
    struct walk w;
    start(&w, r, out);
    walk(&w);
    if (out->failed && out->sum_count) { /* nothing will be carried out: what counts is to be known now */
        start(&w, r, out);
        w.closed = true;
        walk(&w);
    }
    bool depends = walk_depends(&w);
    seen(&w)->nw_tos |= w.dscp_seen;
    if (depends && r->packet && r->meters) { /* on what a meter does with this very packet */
        start(&w, r, out);
        w.meet = out->once = true;
        walk(&w);
    }
    finish(&w);
}

void translation_count(struct bridge *b, const struct translation *t, uint32_t bytes, unsigned dropped_by,
                       uint64_t now_ns)
{
    const struct count_mark *m = dropped_by < t->mark_count ? &t->marks[dropped_by] : NULL;
    struct table_misses misses = t->misses;
    if (m) misses.count = (uint8_t)m->misses;
    for (unsigned i = 0; i < (m ? m->flows : t->flow_count); i++)
        flow_count(t->flows[i], 1, bytes, now_ns);
    for (unsigned i = 0; i < (m ? m->counted : t->counted_count); i++)
        counts_add(t->counted[i], 1, bytes);
    table_count(b->counters, m ? m->tables : t->deps.tables, &misses, 1);
}
