/* SPDX-License-Identifier: Apache-2.0 */
/* Adding, changing, removing and counting flows; time-outs. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "switch/group_internal.h"
#include "switch/meter_internal.h"
#include "switch/thread.h"

#define FOLD_AGAIN_NS 1000000u /* counters that are younger are good enough */
#define FOLD_SHARE 10u         /* answers take at most a tenth of a thread's time */
#define FOLD_AHEAD_NS 100000000u
#define FOLD_TAKES_NS 2000000u

static int no_memory(struct errmsg *e)
{
    return errmsg_set(e, ENOMEM, "no memory for a flow");
}

static void note(struct bridge *b, const struct flow *f)
{
    struct flow_match m;
    flow_to_match(f, &m);
    change_flow(&b->sw->log, b->index, f->table, &m);
}

/* The writer's view. */
static const struct instructions *instructions_of(const struct flow *f)
{
    return &atomic_load_explicit(&f->code, memory_order_relaxed)->instructions;
}

static unsigned actions_of(const struct instructions *i)
{
    return i->apply.count + i->write.count;
}

static struct list *referring_to(struct bridge *b, uint32_t id)
{
    return &b->refer_to[id * UINT32_C(0x9e3779b1) >> 22];
}
static_assert(BRIDGE_REFER_LISTS == 1u << (32 - 22), "as the shift has it");

/* *id: the group that the flow has so far, or SWITCH_GROUP_ANY. False: the list has another one. */
static bool only_group(const struct action_list *l, uint32_t *id)
{
    for (unsigned i = 0; i < l->count; i++) {
        if (l->list[i].type != ACTION_GROUP || l->list[i].group == *id) continue;
        if (*id != SWITCH_GROUP_ANY) return false;
        *id = l->list[i].group;
    }
    return true;
}

/* Where those that go with a group or a meter will look for its flows. NULL: it has neither. */
static struct list *list_for(struct bridge *b, const struct instructions *i)
{
    uint32_t group = SWITCH_GROUP_ANY;
    bool one = only_group(&i->apply, &group) && only_group(&i->write, &group);
    if (group == SWITCH_GROUP_ANY) return i->meter ? referring_to(b, i->meter) : NULL;
    return one && !i->meter ? referring_to(b, group) : &b->refer_to_several;
}

/* f's instructions count from now on, or not any more: for its groups and its meter, which take it with them when they go. */
static void refer(struct bridge *b, struct flow *f, bool comes)
{
    const struct instructions *i = instructions_of(f);
    b->flow_actions += comes ? actions_of(i) : -actions_of(i);
    group_refer(b, i, comes);
    meter_refer(b, i, comes);
    list_remove(&f->refers);
    struct list *l = comes ? list_for(b, i) : NULL;
    if (l) list_push_back(l, &f->refers);
}

static void wrong(enum flow_wrong *why, enum flow_wrong reason)
{
    if (why) *why = reason;
}

static int table_full(unsigned most, const char *what, enum flow_wrong *why, struct errmsg *e)
{
    wrong(why, FLOW_TABLE_FULL);
    return errmsg_set(e, ENOSPC, "there are %u %s", most, what);
}

/* What flows do takes memory, too: a few may do much, or many a little. */
static int check_actions(const struct bridge *b, size_t more, size_t less, enum flow_wrong *why, struct errmsg *e)
{
    if (more <= less || b->flow_actions - less + more <= SWITCH_FLOW_ACTIONS_MAX) return 0;
    return table_full(SWITCH_FLOW_ACTIONS_MAX, "actions of flows", why, e);
}

/* May it be added, beside what there is? */
static int check_place(const struct bridge *b, const struct flow_spec *f, const struct flow *old, enum flow_wrong *why,
                       struct errmsg *e)
{
    if ((f->flags & FLOW_CHECK_OVERLAP) && table_find_overlap(&b->tables[f->table], &f->match, f->priority)) {
        wrong(why, FLOW_OVERLAP);
        return errmsg_set(e, EEXIST, "a flow of the same priority overlaps");
    }
    if (!old && b->flows >= SWITCH_FLOWS_MAX_DEFAULT) return table_full(SWITCH_FLOWS_MAX_DEFAULT, "flows", why, e);
    return check_actions(b, actions_of(&f->instructions), old ? actions_of(instructions_of(old)) : 0, why, e);
}

int bridge_flow_add(struct bridge *b, const struct flow_spec *f, enum flow_wrong *why, struct errmsg *e)
{
    int ret = flow_check_why(f, why, e);
    if (ret) return ret;
    struct flow_table *t = &b->tables[f->table];
    struct flow *old = table_find(t, &f->match, f->priority);
    ret = group_check_instructions(b, &f->instructions, why, e);
    if (!ret) ret = meter_check_instructions(b, &f->instructions, why, e);
    if (!ret) ret = check_place(b, f, old, why, e);
    if (ret) return ret;
    struct flow *new = flow_new(f, b->next_id++, clock_now_ns());
    if (!new) return no_memory(e);
    if (f->instructions.meter) atomic_load(&new->code)->meter = bridge_meter(b, f->instructions.meter);
    if (old) list_remove(&old->timed);
    if (table_insert(t, &b->sw->epoch, new, old)) {
        if (old && (old->idle_timeout_s || old->hard_timeout_s)) list_push_back(&b->timed, &old->timed);
        flow_unref(new);
        return no_memory(e);
    }
    if (old) refer(b, old, false);
    refer(b, new, true);
    if (old && !(f->flags & FLOW_RESET_COUNTS))
        flow_succeed(old, new); /* it is retired, but not freed before epoch_poll() */
    if (!old) b->flows++;
    if (new->idle_timeout_s || new->hard_timeout_s) list_push_back(&b->timed, &new->timed);
    note(b, new);
    epoch_poll(&b->sw->epoch);
    return 0;
}

/* ---- selecting ---- */

static bool outputs_to(const struct action_list *l, uint32_t port)
{
    for (unsigned i = 0; i < l->count; i++)
        if (l->list[i].type == ACTION_OUTPUT && l->list[i].output.port == port) return true;
    return false;
}

static bool selected(const struct flow *f, const struct flow_spec *s)
{
    if ((f->cookie ^ s->cookie) & s->cookie_mask) return false;
    if (s->out_group != SWITCH_GROUP_ANY && !group_is_in(instructions_of(f), s->out_group)) return false;
    if (s->out_port != SWITCH_PORT_ANY) {
        const struct instructions *i = instructions_of(f);
        if (!outputs_to(&i->apply, s->out_port) && !outputs_to(&i->write, s->out_port)) return false;
    }
    return flow_covered(f, &s->match);
}

long bridge_select_flows(struct bridge *b, const struct flow_spec *f, bool strict, struct flow ***out)
{
    unsigned first = f->table == SWITCH_TABLE_ALL ? 0 : f->table;
    unsigned end = f->table == SWITCH_TABLE_ALL ? SWITCH_TABLES : first + 1u;
    size_t count = 0;
    for (unsigned t = first; t < end && t < SWITCH_TABLES; t++)
        count += strict ? 1 : b->tables[t].count;
    struct flow **list = malloc((count + 1) * sizeof *list);
    if (!list) return -1;
    long n = 0;
    for (unsigned t = first; t < end && t < SWITCH_TABLES; t++) {
        struct flow *one = strict ? table_find(&b->tables[t], &f->match, f->priority) : NULL;
        if (one && selected(one, f)) list[n++] = one;
        if (strict) continue;
        LIST_FOR_EACH (node, &b->tables[t].flows) {
            struct flow *other = list_entry(node, struct flow, node);
            if (selected(other, f)) list[n++] = other;
        }
    }
    *out = list;
    return n;
}

/* ---- changing ---- */

static void code_free(struct epoch_node *n)
{
    free(container_of(n, struct flow_code, retired));
}

/* Of flows that are to do something else. */
static int check_modified(const struct bridge *b, const struct instructions *i, struct flow *const *list, long count,
                          enum flow_wrong *why, struct errmsg *e)
{
    size_t less = 0;
    for (long n = 0; n < count; n++)
        less += actions_of(instructions_of(list[n]));
    return check_actions(b, (size_t)count * actions_of(i), less, why, e);
}

/* All new instructions before the first is put to use: all or nothing. */
static struct flow_code **codes_new(const struct bridge *b, const struct instructions *i, long count)
{
    struct flow_code **codes = calloc((size_t)count + 1, sizeof(struct flow_code *));
    long made = 0;
    for (; codes && made < count; made++) {
        codes[made] = flow_code_new(i);
        if (!codes[made]) break;
        codes[made]->meter = i->meter ? bridge_meter(b, i->meter) : NULL;
    }
    if (codes && made == count) return codes;
    while (made > 0)
        free(codes[--made]);
    free(codes);
    return NULL;
}

/* What was counted for these flows before is not to come back (but for the last moments' when this is asked for all the time). Flows
 * that nobody else refers to have it all. */
static void fold_to_reset(struct bridge *b, struct flow *const *list, long count)
{
    for (long i = 0; i < count; i++)
        if (atomic_load_explicit(&list[i]->refs, memory_order_acquire) > 1) {
            switch_fold_to_tell(b->sw);
            return;
        }
}

int bridge_flow_modify(struct bridge *b, const struct flow_spec *f, bool strict, unsigned *changed,
                       enum flow_wrong *why, struct errmsg *e)
{
    struct flow **list;
    int ret = flow_check_why(f, why, e);
    if (!ret) ret = group_check_instructions(b, &f->instructions, why, e);
    if (!ret) ret = meter_check_instructions(b, &f->instructions, why, e);
    if (ret) return ret;
    long count = bridge_select_flows(b, f, strict, &list);
    if (count < 0) return no_memory(e);
    ret = check_modified(b, &f->instructions, list, count, why, e);
    struct flow_code **codes = ret ? NULL : codes_new(b, &f->instructions, count);
    if (!codes) {
        free(list);
        return ret ? ret : no_memory(e);
    }
    if (f->flags & FLOW_RESET_COUNTS) fold_to_reset(b, list, count);
    for (long i = 0; i < count; i++) {
        refer(b, list[i], false);
        struct flow_code *old = atomic_exchange_explicit(&list[i]->code, codes[i], memory_order_acq_rel);
        refer(b, list[i], true);
        epoch_retire(&b->sw->epoch, &old->retired, code_free);
        if (f->flags & FLOW_RESET_COUNTS) {
            atomic_store_explicit(&list[i]->packets, 0, memory_order_relaxed);
            atomic_store_explicit(&list[i]->bytes, 0, memory_order_relaxed);
        }
        note(b, list[i]);
    }
    free(codes);
    free(list);
    epoch_poll(&b->sw->epoch);
    if (changed) *changed = (unsigned)count;
    return 0;
}

void flow_stats_read(const struct flow *f, struct flow_stats *s)
{
    uint64_t now = clock_now_ns(), used = atomic_load_explicit(&f->used_ns, memory_order_relaxed);
    s->packets = atomic_load_explicit(&f->packets, memory_order_relaxed);
    s->bytes = atomic_load_explicit(&f->bytes, memory_order_relaxed);
    s->duration_ns = now - f->created_ns;
    s->idle_ns = now > used ? now - used : 0;
}

static void tell(struct bridge *b, const struct flow *f, enum flow_gone why)
{
    struct flow_spec spec;
    struct flow_stats stats;
    if (!b->flow_gone) return;
    flow_to_spec(f, &spec);
    flow_stats_read(f, &stats);
    b->flow_gone(b->flow_gone_arg, &spec, &stats, why);
}

static void remove_flow(struct bridge *b, struct flow *f, enum flow_gone why)
{
    tell(b, f, why);
    list_remove(&f->timed);
    refer(b, f, false);
    struct flow_match m;
    uint8_t table = f->table;
    flow_to_match(f, &m);
    table_remove(&b->tables[table], &b->sw->epoch, f);
    b->flows--;
    change_flow(&b->sw->log, b->index, table, &m);
}

int bridge_flow_delete(struct bridge *b, const struct flow_spec *f, bool strict, unsigned *changed,
                       enum flow_wrong *why, struct errmsg *e)
{
    struct flow **list;
    wrong(why, FLOW_RIGHT);
    long count = bridge_select_flows(b, f, strict, &list);
    if (count < 0) return no_memory(e);
    for (long i = 0; b->flow_gone && i < count; i++)
        if (list[i]->flags & FLOW_SEND_REMOVED) {
            switch_fold_to_tell(b->sw); /* their counts are asked for */
            break;
        }
    for (long i = 0; i < count; i++)
        remove_flow(b, list[i], FLOW_GONE_DELETED);
    free(list);
    epoch_poll(&b->sw->epoch);
    if (changed) *changed = (unsigned)count;
    return 0;
}

/* Flows that go with what they refer to. */
struct leaving {
    struct bridge *b;
    bool (*refers)(const struct instructions *i, uint32_t id);
    uint32_t id;
    unsigned most; /* there are no more */
    enum flow_gone why;
    bool folded;
};

static void leave(struct leaving *l, struct list *list)
{
    LIST_FOR_EACH_SAFE (node, list) {
        struct flow *f = list_entry(node, struct flow, refers);
        if (l->most == 0) return;
        if (!l->refers(instructions_of(f), l->id)) continue;
        if (!l->folded && f->flags & FLOW_SEND_REMOVED) {
            switch_fold_to_tell(l->b->sw);
            l->folded = true;
        }
        remove_flow(l->b, f, l->why);
        l->most--;
    }
}

static void remove_flows_that(struct bridge *b, bool (*refers)(const struct instructions *i, uint32_t id), uint32_t id,
                              bool all, unsigned most, enum flow_gone why)
{
    struct leaving l = {.b = b, .refers = refers, .id = id, .most = most, .why = why, .folded = !b->flow_gone};
    if (!all) leave(&l, referring_to(b, id));
    for (unsigned i = 0; all && i < BRIDGE_REFER_LISTS; i++)
        leave(&l, &b->refer_to[i]);
    leave(&l, &b->refer_to_several);
}

void bridge_remove_flows_of_group(struct bridge *b, uint32_t id, unsigned most)
{
    remove_flows_that(b, group_is_in, id, id == SWITCH_GROUP_ALL, most, FLOW_GONE_GROUP);
}

static bool is_metered(const struct instructions *i, uint32_t id)
{
    return i->meter && (i->meter == id || id == SWITCH_METER_ALL);
}

void bridge_remove_flows_of_meter(struct bridge *b, uint32_t id, unsigned most)
{
    remove_flows_that(b, is_metered, id, id == SWITCH_METER_ALL, most, FLOW_GONE_METER);
}

unsigned bridge_flow_count(const struct bridge *b)
{
    return b->flows;
}

void bridge_on_flow_gone(struct bridge *b,
                         void (*gone)(void *arg, const struct flow_spec *f, const struct flow_stats *s,
                                      enum flow_gone why),
                         void *arg)
{
    b->flow_gone = gone;
    b->flow_gone_arg = arg;
}

/* ---- counters ---- */

static void fold(void *arg, struct switch_thread *t)
{
    (void)arg;
    cache_fold_all(&t->cache, t->now_ns);
}

void switch_fold(struct net_switch *s)
{
    thread_each(s, fold, NULL);
    s->folded_ns = clock_now_ns();
}

/* A thread stands still while its counters are read. Many answers may be given at once, and then time must pass. A fold that took
 * long waited for a processor: that is not held against who asks. */
void switch_fold_to_tell(struct net_switch *s)
{
    uint64_t now_ns = clock_now_ns(), took_ns;
    if (s->fold_due_ns > now_ns + FOLD_AHEAD_NS) return;
    switch_fold(s);
    took_ns = s->folded_ns - now_ns < FOLD_TAKES_NS ? s->folded_ns - now_ns : FOLD_TAKES_NS;
    s->fold_due_ns = (s->fold_due_ns > now_ns ? s->fold_due_ns : now_ns) + took_ns * FOLD_SHARE;
}

void bridge_table_stats(struct bridge *b, uint8_t table, struct table_stats *out)
{
    *out = (struct table_stats){0};
    if (table >= SWITCH_TABLES) return;
    /* Who asks for all tables has one answer of it. */
    if (clock_now_ns() - b->sw->folded_ns > FOLD_AGAIN_NS) switch_fold_to_tell(b->sw);
    const struct table_counters *c = &b->counters[table];
    out->active = b->tables[table].count;
    out->lookups = atomic_load_explicit(&c->lookups, memory_order_relaxed);
    out->matched = atomic_load_explicit(&c->matched, memory_order_relaxed);
}

/* ---- time ---- */

static bool is_over(const struct flow *f, uint64_t now_ns, enum flow_gone *why)
{
    uint64_t used = atomic_load_explicit(&f->used_ns, memory_order_relaxed);
    if (f->hard_timeout_s && now_ns >= f->created_ns + f->hard_timeout_s * NS_PER_SECOND) {
        *why = FLOW_GONE_HARD;
        return true;
    }
    *why = FLOW_GONE_IDLE;
    return f->idle_timeout_s && now_ns >= used + f->idle_timeout_s * NS_PER_SECOND;
}

static void time_out(struct bridge *b, uint64_t now_ns)
{
    if (list_empty(&b->timed)) return;
    switch_fold(b->sw);
    LIST_FOR_EACH_SAFE (node, &b->timed) {
        enum flow_gone why;
        struct flow *f = list_entry(node, struct flow, timed);
        if (is_over(f, now_ns, &why)) remove_flow(b, f, why);
    }
}

void switch_tick(struct net_switch *s, uint64_t now_ns)
{
    for (unsigned i = 0; i < SWITCH_BRIDGES_MAX; i++) {
        struct bridge *b = atomic_load(&s->bridges[i]);
        if (!b) continue;
        time_out(b, now_ns);
        bridge_age_macs(b, now_ns);
        bridge_look_at_links(b);
    }
    thread_sweep_asleep(s, now_ns);
    epoch_poll(&s->epoch);
}

bool switch_watch_links(struct net_switch *s)
{
    bool watched = false;
    for (unsigned i = 0; i < SWITCH_BRIDGES_MAX; i++) {
        struct bridge *b = atomic_load(&s->bridges[i]);
        if (!b || b->group_ports == 0) continue;
        bridge_look_at_links(b);
        watched = true;
    }
    return watched;
}

void switch_stats_read(struct net_switch *s, struct switch_stats *out)
{
    pthread_mutex_lock(&s->threads_lock);
    *out = s->ended;
    LIST_FOR_EACH (node, &s->threads)
        thread_counters_add(list_entry(node, struct switch_thread, node), out);
    pthread_mutex_unlock(&s->threads_lock);
}
