/* SPDX-License-Identifier: Apache-2.0 */
/* Looking inside: what happens to a packet, and what threads remember. */
#include <stdlib.h>

#include "loop/clock.h"
#include "switch/choose.h"
#include "switch/recirculate.h"

/* ---- datapath actions ---- */

static void show_port(FILE *out, uint32_t number, const struct flow_names *names)
{
    const char *name = names && names->port_name ? names->port_name(names->arg, number) : NULL;
    if (name) fprintf(out, "output:%s", name);
    else fprintf(out, "output:%u", number);
}

/* As hexadecimal, without leading zeros. */
static void show_value(FILE *out, struct field_value v)
{
    unsigned i = 0;
    while (i < FIELD_VALUE_BYTES - 1 && v.raw[i] == 0)
        i++;
    fprintf(out, "0x%x", v.raw[i++]);
    for (; i < FIELD_VALUE_BYTES; i++)
        fprintf(out, "%02x", v.raw[i]);
}

static void show_set(FILE *out, const struct dp_action *a)
{
    struct field_value all = field_all_ones(a->field);
    fputs("set(", out);
    show_value(out, a->set.value);
    if (memcmp(&all, &a->set.mask, sizeof all) != 0) {
        fputc('/', out);
        show_value(out, a->set.mask);
    }
    fprintf(out, "->%s)", fields[a->field].name);
}

static void show_action(FILE *out, const struct dp_action *a, const struct flow_names *names)
{
    switch ((enum dp_type)a->type) {
    case DP_OUTPUT: show_port(out, a->port, names); break;
    case DP_CONTROLLER: fprintf(out, "controller(reason=%u,table=%u)", a->in.reason, a->in.table); break;
    case DP_SET: show_set(out, a); break;
    case DP_PUSH_VLAN:
        fprintf(out, "push_vlan(0x%04x,vid=%u,pcp=%u)", a->eth_type, a->entry & 0xfffu, a->entry >> 13 & 7u);
        break;
    case DP_POP_VLAN: fputs("pop_vlan", out); break;
    case DP_PUSH_MPLS: fprintf(out, "push_mpls(0x%04x,0x%08x)", a->eth_type, a->entry); break;
    case DP_POP_MPLS: fprintf(out, "pop_mpls(0x%04x)", a->eth_type); break;
    case DP_PUSH_PBB: fprintf(out, "push_pbb(0x%08x)", a->entry); break;
    case DP_POP_PBB: fputs("pop_pbb", out); break;
    case DP_COPY_TTL_OUT: fputs("copy_ttl_out", out); break;
    case DP_COPY_TTL_IN: fputs("copy_ttl_in", out); break;
    case DP_METER: fprintf(out, "meter:%u", a->id); break;
    case DP_RECIRCULATE: fprintf(out, "recirculate(%u)", a->id); break;
    case DP_BRANCH:
    case DP_SELECT:
    case DP_BUCKET:
    case DP_COUNT: break;
    }
}

static void show_actions(FILE *out, const struct dp_action *a, unsigned count, const struct flow_names *names);

/* "select(group=1,0(weight=1,output:2),1(weight=3,output:3),2(weight=1,dead))" */
static void show_select(FILE *out, const struct dp_action *select, const struct flow_names *names)
{
    uint32_t before = 0;
    fprintf(out, "select(group=%u", select->select.group);
    for (const struct dp_action *k = select + 1; k <= select + select->select.buckets; k++) {
        fprintf(out, ",%u(weight=%u,", k->bucket.at, k->bucket.end - before);
        if (k->field & DP_BUCKET_ALIVE) show_actions(out, choose_actions(select, k), k->count, names);
        else fputs("dead", out);
        fputc(')', out);
        before = k->bucket.end;
    }
    fputc(')', out);
}

static void show_actions(FILE *out, const struct dp_action *a, unsigned count, const struct flow_names *names)
{
    bool any = false;
    for (unsigned i = 0; i < count; i++) {
        if (a[i].type == DP_COUNT) continue;
        if (any) fputc(',', out);
        any = true;
        if (a[i].type == DP_BRANCH) {
            fputs("clone(", out);
            show_actions(out, &a[i] + 1, a[i].count, names);
            fputc(')', out);
        } else if (a[i].type == DP_SELECT) {
            show_select(out, &a[i], names);
        } else {
            show_action(out, &a[i], names);
        }
        if (dp_is_block(&a[i])) i += a[i].count;
    }
    if (!any) fputs("drop", out);
}

/* ---- trace ---- */

/* Without the bridge's number, which is no field. */
static struct flow_match shown(const struct flow_key *k, const struct flow_key *mask)
{
    struct flow_match m = {.key = *k, .mask = *mask};
    m.key.bridge = m.mask.bridge = 0;
    m.key.recirculated = m.mask.recirculated = 0;
    m.key.unused0 = m.mask.unused0 = 0;
    memset(m.mask.recirculation_high, 0, sizeof m.mask.recirculation_high);
    memset(m.mask.recirculation_low, 0, sizeof m.mask.recirculation_low);
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        m.key.words[i] &= m.mask.words[i];
    return m;
}

void bridge_trace(struct bridge *b, const struct flow_key *k, const struct flow_names *names, FILE *out)
{
    struct translation *t = malloc(sizeof *t);
    if (!t) {
        fputs("no memory\n", out);
        return;
    }
    struct flow_key key = *k;
    key.bridge = b->index;
    struct translation_request r = {
        .bridge = b, .key = &key, .now_s = (uint32_t)(clock_now_ns() / NS_PER_SECOND), .trace = out, .names = names};
    fprintf(out, "bridge %s\n", b->name);
    translate(&r, t);
    struct flow_match m = shown(&key, &t->mask);
    if (t->failed) fputs("a bound was reached: the packet is dropped\n", out);
    fputs("megaflow: ", out);
    flow_format_match(out, &m, names);
    if (t->once) fputs(" (what comes to light is looked up again)", out);
    fputs("\nactions: ", out);
    show_actions(out, t->actions, t->count, names);
    fputc('\n', out);
    free(t);
}

/* ---- megaflows ---- */

struct copied {
    struct flow_match match;
    uint64_t packets, bytes, used_ns;
    unsigned tables;
    uint32_t recirculation;
    uint16_t bridge;
    struct dp_action *actions;
    unsigned count;
};

/* Of one thread: copied while it is held, written out afterwards. */
struct copies {
    char thread[16];
    unsigned count;
    struct copied *list;
};

static void copy_one(const struct switch_thread *t, uint32_t line, struct copied *out)
{
    const struct megaflow *m = cache_megaflow(&t->cache, line);
    const struct megaflow_cold *cold = &t->cache.cold[line];
    struct flow_match match;
    cache_match(&t->cache, line, &match);
    out->match = shown(&match.key, &match.mask);
    out->recirculation = recirculate_number(&match.key);
    out->packets = cold->packets + m->packets;
    out->bytes = cold->bytes + m->bytes;
    out->used_ns = m->packets ? t->now_ns : cold->used_ns;
    out->tables = cold->path->tables;
    out->bridge = cold->path->deps.bridge;
    out->count = m->list->count;
    out->actions = malloc((m->list->count + 1) * sizeof *out->actions);
    if (out->actions) memcpy(out->actions, m->list->actions, m->list->count * sizeof *out->actions);
    else out->count = 0;
}

static void copy_all(struct switch_thread *t, struct copies *c)
{
    memcpy(c->thread, t->name, sizeof c->thread);
    c->list = calloc(t->cache.stats.megaflows + 1, sizeof *c->list);
    for (uint32_t i = 1; c->list && i < t->cache.lines_used; i++)
        if (t->cache.cold[i].table) copy_one(t, i, &c->list[c->count++]);
}

struct copy_visit {
    struct copies *next;
};

static void copy_thread(void *arg, struct switch_thread *t)
{
    struct copy_visit *v = arg;
    copy_all(t, v->next++);
}

static void tell_one(const struct copies *c, struct copied *m, const struct flow_names *names,
                     void (*visit)(void *arg, const struct megaflow_info *m), void *arg)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (out) {
        show_actions(out, m->actions, m->count, names);
        fclose(out);
    }
    uint64_t now = clock_now_ns();
    struct megaflow_info info = {.match = m->match,
                                 .thread = c->thread,
                                 .packets = m->packets,
                                 .bytes = m->bytes,
                                 .idle_ns = now > m->used_ns ? now - m->used_ns : 0,
                                 .tables = m->tables,
                                 .recirculation = m->recirculation,
                                 .actions = text ? text : ""};
    visit(arg, &info);
    free(text);
    free(m->actions);
}

void switch_megaflow_each(struct net_switch *s, const struct flow_names *(*names)(void *arg, uint16_t bridge),
                          void (*visit)(void *arg, const struct megaflow_info *m), void *arg)
{
    unsigned threads = 0;
    pthread_mutex_lock(&s->threads_lock);
    LIST_FOR_EACH (node, &s->threads)
        threads++;
    pthread_mutex_unlock(&s->threads_lock);
    struct copies *all = calloc(threads + 1, sizeof *all);
    if (!all) return;
    struct copy_visit v = {.next = all};
    thread_each(s, copy_thread, &v); /* threads come and go by order of this thread: there are no more */
    for (unsigned i = 0; i < threads; i++) {
        for (unsigned j = 0; j < all[i].count; j++)
            tell_one(&all[i], &all[i].list[j], names ? names(arg, all[i].list[j].bridge) : NULL, visit, arg);
        free(all[i].list);
    }
    free(all);
}
