/* SPDX-License-Identifier: Apache-2.0 */
/* Flows listed: all at once, or piece by piece. */
#include <stdlib.h>

#include "switch/bridge.h"

/* ---- in order ---- */

struct placed {
    uint64_t place; /* table, falling priority, where it was */
    struct flow *flow;
};

static int by_place(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    return x->place < y->place ? -1 : x->place > y->place;
}

/* By table, then falling priority, then age. They come table by table and the oldest first; each is looked at once. Without memory
 * they stay as they are. */
static void sort(struct flow **list, size_t count)
{
    struct placed *placed = malloc((count + 1) * sizeof *placed);
    bool sorted = true;
    for (size_t i = 0; placed && i < count; i++) {
        uint64_t priority = UINT16_MAX - list[i]->priority;
        placed[i] = (struct placed){(uint64_t)list[i]->table << 48 | priority << 32 | i, list[i]};
        if (i && placed[i].place < placed[i - 1].place) sorted = false;
    }
    if (placed && !sorted) {
        qsort(placed, count, sizeof *placed, by_place);
        for (size_t i = 0; i < count; i++)
            list[i] = placed[i].flow;
    }
    free(placed);
}

void bridge_flow_each(struct bridge *b, const struct flow_spec *selection,
                      void (*visit)(void *arg, const struct flow_spec *f, const struct flow_stats *s), void *arg)
{
    struct flow **list;
    long count = bridge_select_flows(b, selection, false, &list);
    if (count <= 0) {
        if (count == 0) free(list);
        return;
    }
    switch_fold_to_tell(b->sw);
    sort(list, (size_t)count);
    for (long i = 0; i < count; i++) {
        struct flow_spec spec;
        struct flow_stats stats;
        flow_to_spec(list[i], &spec);
        flow_stats_read(list[i], &stats);
        visit(arg, &spec, &stats);
    }
    free(list);
}

/* ---- piece by piece ---- */

/* A list keeps flows that are removed meanwhile: so many of a bridge in all lists, four times as many as there may be. */
#define LISTED_MAX (4u * SWITCH_FLOWS_MAX_DEFAULT)

struct flow_list {
    struct bridge *bridge;
    size_t count, at;
    struct flow *flows[]; /* with a reference each; those before at - 1 are let go */
};

struct flow_list *bridge_flow_list(struct bridge *b, const struct flow_spec *selection)
{
    struct flow **flows;
    long count = bridge_select_flows(b, selection, false, &flows);
    if (count < 0) return NULL;
    bool fits = b->flows_listed + (size_t)count <= LISTED_MAX;
    struct flow_list *l = fits ? malloc(sizeof *l + (size_t)count * sizeof l->flows[0]) : NULL;
    if (l) {
        b->flows_listed += (size_t)count;
        l->bridge = b;
        l->count = (size_t)count;
        l->at = 0;
        if (count) memcpy(l->flows, flows, (size_t)count * sizeof l->flows[0]);
        for (size_t i = 0; i < l->count; i++) {
            bool referenced = flow_ref(l->flows[i]);
            assert(referenced); /* the table has one */
        }
        if (count) switch_fold_to_tell(b->sw);
        sort(l->flows, l->count);
    }
    free(flows);
    return l;
}

/* The flow, or the one in its place by now; NULL: it has been removed. */
static struct flow *still_there(const struct flow_list *l, struct flow *f)
{
    if (!list_empty(&f->node)) return f;
    struct flow_match m;
    flow_to_match(f, &m);
    return table_find(&l->bridge->tables[f->table], &m, f->priority);
}

/* Those that come soon, so that nobody waits for memory. */
static void fetch(const struct flow_list *l)
{
    if (l->at + 8 < l->count)
        for (unsigned i = 0; i < sizeof(struct flow); i += 64)
            __builtin_prefetch((const char *)l->flows[l->at + 8] + i);
    if (l->at + 4 < l->count)
        __builtin_prefetch(atomic_load_explicit(&l->flows[l->at + 4]->code, memory_order_relaxed));
    if (l->at + 2 < l->count)
        __builtin_prefetch(
            atomic_load_explicit(&l->flows[l->at + 2]->code, memory_order_relaxed)->instructions.apply.list);
}

bool flow_list_next(struct flow_list *l, struct flow_spec *f, struct flow_stats *s)
{
    fetch(l);
    for (;;) {
        if (l->at) {
            flow_unref(l->flows[l->at - 1]);
            l->flows[l->at - 1] = NULL;
        }
        if (l->at == l->count) return false;
        const struct flow *there = still_there(l, l->flows[l->at++]);
        if (!there) continue;
        flow_to_spec(there, f);
        flow_stats_read(there, s);
        return true;
    }
}

void flow_list_free(struct flow_list *l)
{
    if (!l) return;
    for (size_t i = 0; i < l->count; i++)
        flow_unref(l->flows[i]);
    l->bridge->flows_listed -= l->count;
    free(l);
}
