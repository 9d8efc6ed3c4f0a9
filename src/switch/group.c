/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bridge's groups, by number: an open hash table of pointers that readers probe without locks. What goes leaves a mark in its
 * slot, which stands until the table is made anew.
 */
#include "switch/group_internal.h"

#include <errno.h>
#include <limits.h>

#include "base/checked.h"
#include "loop/clock.h"

#define SLOTS_MIN 16u
#define GONE ((struct flow_group *)1)

struct group_map {
    struct epoch_node retired;
    uint32_t mask;
    uint32_t used; /* slots that are or were taken; a quarter stays empty */
    _Atomic(struct flow_group *) slots[];
};

static int no_memory(struct errmsg *e)
{
    return errmsg_set(e, ENOMEM, "no memory for a group");
}

/* ---- specifications ---- */

static bool list_copy(struct action_list *out, const struct action_list *in)
{
    *out = (struct action_list){0};
    if (in->count == 0) return true;
    out->list = calloc(in->count, sizeof *out->list);
    if (!out->list) return false;
    memcpy(out->list, in->list, in->count * sizeof *out->list);
    out->count = in->count;
    return true;
}

bool group_spec_copy(struct group_spec *out, const struct group_spec *in)
{
    *out = (struct group_spec){.id = in->id, .type = in->type};
    out->buckets = calloc(in->count + 1, sizeof *out->buckets);
    if (!out->buckets) return false;
    for (; out->count < in->count; out->count++) {
        struct group_bucket *b = &out->buckets[out->count];
        *b = in->buckets[out->count];
        if (list_copy(&b->actions, &in->buckets[out->count].actions)) continue;
        group_spec_clear(out);
        return false;
    }
    return true;
}

void group_spec_clear(struct group_spec *g)
{
    for (unsigned i = 0; i < g->count; i++)
        free(g->buckets[i].actions.list);
    free(g->buckets);
    *g = (struct group_spec){0};
}

/* ---- one group ---- */

static void group_free(struct flow_group *g)
{
    if (!g) return;
    for (unsigned i = 0; g->sets && i < g->spec.count; i++)
        free(g->sets[i].list);
    free(g->sets);
    group_spec_clear(&g->spec);
    counts_unref(g->totals);
    counts_unref(g->buckets);
    free(g);
}

static void free_late(struct epoch_node *n)
{
    group_free(container_of(n, struct flow_group, retired));
}

/* In the order of an action set, whatever they were written in. */
static bool order_buckets(struct flow_group *g)
{
    g->sets = calloc(g->spec.count + 1, sizeof *g->sets);
    if (!g->sets) return false;
    for (unsigned i = 0; i < g->spec.count; i++) {
        struct action room[ACTIONS_MAX];
        struct action_list set = {.list = room};
        bool merged = action_set_merge_into(&set, &g->spec.buckets[i].actions);
        assert(merged); /* it was checked */
        if (!list_copy(&g->sets[i], &set)) return false;
    }
    return true;
}

/* In the place of old, which may be NULL. */
static struct flow_group *group_new(const struct group_spec *spec, const struct flow_group *old)
{
    struct flow_group *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    g->totals = old ? counts_ref(old->totals) : counts_new(1);
    g->buckets = counts_new(spec->count);
    if (!g->totals || !g->buckets || !group_spec_copy(&g->spec, spec) || !order_buckets(g)) {
        group_free(g);
        return NULL;
    }
    g->created_ns = old ? old->created_ns : clock_now_ns();
    g->flows = old ? old->flows : 0;
    g->groups = old ? old->groups : 0;
    g->watchers = old ? old->watchers : 0;
    return g;
}

/* ---- the map ---- */

static uint32_t place_of(uint32_t id)
{
    return (uint32_t)(id * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}

struct flow_group *group_find(const struct bridge *b, uint32_t id)
{
    const struct group_map *m = atomic_load_explicit(&b->groups, memory_order_acquire);
    for (uint32_t i = place_of(id); m; i++) {
        struct flow_group *g = atomic_load_explicit(&m->slots[i & m->mask], memory_order_acquire);
        if (!g) return NULL;
        if (g != GONE && g->spec.id == id) return g;
    }
    return NULL;
}

void group_visit(const struct bridge *b, bool (*visit)(void *arg, struct flow_group *g), void *arg)
{
    const struct group_map *m = atomic_load_explicit(&b->groups, memory_order_relaxed);
    for (uint32_t i = 0; m && i <= m->mask; i++) {
        struct flow_group *g = atomic_load_explicit(&m->slots[i], memory_order_relaxed);
        if (g && g != GONE && !visit(arg, g)) return;
    }
}

static void map_free(struct epoch_node *n)
{
    free(container_of(n, struct group_map, retired));
}

/* An empty slot where readers will look for it. */
static void map_put(struct group_map *m, struct flow_group *g)
{
    uint32_t i = place_of(g->spec.id);
    while (atomic_load_explicit(&m->slots[i & m->mask], memory_order_relaxed))
        i++;
    m->used++;
    atomic_store_explicit(&m->slots[i & m->mask], g, memory_order_release);
}

static void map_replace(struct bridge *b, const struct flow_group *old, struct flow_group *new)
{
    struct group_map *m = atomic_load_explicit(&b->groups, memory_order_relaxed);
    uint32_t i = place_of(old->spec.id);
    while (atomic_load_explicit(&m->slots[i & m->mask], memory_order_relaxed) != old)
        i++;
    atomic_store_explicit(&m->slots[i & m->mask], new, memory_order_release);
}

static bool copy_slot(void *arg, struct flow_group *g)
{
    map_put(arg, g);
    return true;
}

/* Room for one more. False: no memory. */
static bool make_room(struct bridge *b)
{
    struct group_map *old = atomic_load_explicit(&b->groups, memory_order_relaxed);
    if (old && old->used + 1 <= (old->mask + 1) / 4 * 3) return true;
    uint32_t size = SLOTS_MIN;
    while (size / 2 < b->group_count + 1)
        size *= 2;
    struct group_map *m = calloc(1, sizeof *m + size * sizeof m->slots[0]);
    if (!m) return false;
    m->mask = size - 1;
    group_visit(b, copy_slot, m);
    atomic_store_explicit(&b->groups, m, memory_order_release);
    if (old) epoch_retire(&b->sw->epoch, &old->retired, map_free);
    return true;
}

static bool destroy_one(void *arg, struct flow_group *g)
{
    (void)arg;
    group_free(g);
    return true;
}

void groups_destroy(struct bridge *b)
{
    group_visit(b, destroy_one, NULL);
    free(atomic_load_explicit(&b->groups, memory_order_relaxed));
    atomic_store_explicit(&b->groups, NULL, memory_order_relaxed);
}

/* ---- who refers to whom ---- */

static void refer(struct bridge *b, const struct action_list *l, bool comes, bool is_flow)
{
    for (unsigned i = 0; i < l->count; i++) {
        struct flow_group *g = l->list[i].type == ACTION_GROUP ? group_find(b, l->list[i].group) : NULL;
        if (!g || g->mark == b->group_mark) continue; /* each flow or group counts once */
        g->mark = b->group_mark;
        unsigned *count = is_flow ? &g->flows : &g->groups;
        *count += comes ? 1u : -1u;
    }
}

void group_refer(struct bridge *b, const struct instructions *i, bool comes)
{
    if (b->group_count == 0) return;
    b->group_mark++;
    refer(b, &i->apply, comes, true);
    refer(b, &i->write, comes, true);
}

static void refer_buckets(struct bridge *b, const struct group_spec *g, bool comes)
{
    b->group_mark++;
    for (unsigned i = 0; i < g->count; i++) {
        refer(b, &g->buckets[i].actions, comes, false);
        if (g->buckets[i].watch_port != SWITCH_PORT_ANY) b->group_ports += comes ? 1u : -1u;
        struct flow_group *watched = group_find(b, g->buckets[i].watch_group);
        if (watched) watched->watchers += comes ? 1u : -1u;
    }
    b->group_buckets += comes ? g->count : -g->count;
}

static bool list_has(const struct action_list *l, uint32_t id)
{
    for (unsigned i = 0; i < l->count; i++)
        if (l->list[i].type == ACTION_GROUP && (id == SWITCH_GROUP_ALL || l->list[i].group == id)) return true;
    return false;
}

bool group_is_in(const struct instructions *i, uint32_t id)
{
    return list_has(&i->apply, id) || list_has(&i->write, id);
}

int group_check_list(const struct bridge *b, const struct action_list *l, enum flow_wrong *why, struct errmsg *e)
{
    for (unsigned i = 0; i < l->count; i++) {
        if (l->list[i].type != ACTION_GROUP || group_find(b, l->list[i].group)) continue;
        if (why) *why = FLOW_BAD_OUT_GROUP;
        return errmsg_set(e, EINVAL, "there is no group %u", l->list[i].group);
    }
    return 0;
}

int group_check_instructions(const struct bridge *b, const struct instructions *i, enum flow_wrong *why,
                             struct errmsg *e)
{
    int ret = group_check_list(b, &i->apply, why, e);
    return ret ? ret : group_check_list(b, &i->write, why, e);
}

/* ---- changes ---- */

static bool take_height(void *arg, struct flow_group *g)
{
    (void)arg;
    g->height = g->new_height;
    return true;
}

/* It is there: for those it sends to, for who comes after it, and for megaflows. */
static void settle(struct bridge *b, struct flow_group *g, unsigned height, bool others)
{
    if (others) group_visit(b, take_height, NULL);
    g->height = height;
    change_group(&b->sw->log, b->index, g->spec.id);
    epoch_poll(&b->sw->epoch);
}

int bridge_group_add(struct bridge *b, const struct group_spec *spec, struct group_why *why, struct errmsg *e)
{
    struct group_why unused;
    unsigned height;
    bool others;
    if (!why) why = &unused;
    *why = (struct group_why){0};
    if (group_find(b, spec->id)) {
        why->wrong = GROUP_EXISTS;
        return errmsg_set(e, EEXIST, "there is a group %u", spec->id);
    }
    if (b->group_count >= SWITCH_GROUPS_MAX) {
        why->wrong = GROUP_OUT_OF_GROUPS;
        return errmsg_set(e, ENOSPC, "there are %u groups", SWITCH_GROUPS_MAX);
    }
    int ret = group_check(b, spec, NULL, &height, &others, why, e);
    if (ret) return ret;
    struct flow_group *g = group_new(spec, NULL);
    if (!g || !make_room(b)) {
        group_free(g);
        return no_memory(e);
    }
    map_put(atomic_load_explicit(&b->groups, memory_order_relaxed), g);
    b->group_count++;
    refer_buckets(b, spec, true);
    settle(b, g, height, others);
    return 0;
}

int bridge_group_modify(struct bridge *b, const struct group_spec *spec, struct group_why *why, struct errmsg *e)
{
    struct group_why unused;
    unsigned height;
    bool others;
    if (!why) why = &unused;
    *why = (struct group_why){0};
    struct flow_group *old = group_find(b, spec->id);
    if (!old) {
        why->wrong = GROUP_UNKNOWN;
        return errmsg_set(e, ENOENT, "there is no group %u", spec->id);
    }
    int ret = group_check(b, spec, old, &height, &others, why, e);
    if (ret) return ret;
    struct flow_group *g = group_new(spec, old);
    if (!g) return no_memory(e);
    map_replace(b, old, g);
    refer_buckets(b, &old->spec, false);
    refer_buckets(b, spec, true);
    epoch_retire(&b->sw->epoch, &old->retired, free_late);
    settle(b, g, height, others);
    return 0;
}

static void remove_group(struct bridge *b, struct flow_group *g)
{
    uint32_t id = g->spec.id;
    map_replace(b, g, GONE);
    b->group_count--;
    refer_buckets(b, &g->spec, false);
    epoch_retire(&b->sw->epoch, &g->retired, free_late);
    change_group(&b->sw->log, b->index, id);
}

static bool remove_one(void *arg, struct flow_group *g)
{
    remove_group(arg, g);
    return true;
}

int bridge_group_delete(struct bridge *b, uint32_t id, struct group_why *why, struct errmsg *e)
{
    if (why) *why = (struct group_why){0};
    struct flow_group *g = id == SWITCH_GROUP_ALL ? NULL : group_find(b, id);
    if (!g && id != SWITCH_GROUP_ALL) return 0;
    if (g && (g->groups || g->watchers)) {
        if (why) why->wrong = GROUP_CHAINED;
        return errmsg_set(e, EBUSY, "group %u is %s by another group", id, g->groups ? "sent to" : "watched");
    }
    bridge_remove_flows_of_group(b, id, g ? g->flows : UINT_MAX);
    if (g) remove_group(b, g);
    else group_visit(b, remove_one, b);
    epoch_poll(&b->sw->epoch);
    return 0;
}

unsigned bridge_group_count(const struct bridge *b)
{
    return b->group_count;
}

/* ---- showing ---- */

struct collected {
    struct flow_group **list;
    unsigned count, buckets; /* the most of one */
};

static bool collect(void *arg, struct flow_group *g)
{
    struct collected *c = arg;
    c->list[c->count++] = g;
    if (g->spec.count > c->buckets) c->buckets = g->spec.count;
    return true;
}

static int by_id(const void *a, const void *b)
{
    const struct flow_group *x = *(struct flow_group *const *)a, *y = *(struct flow_group *const *)b;
    return x->spec.id < y->spec.id ? -1 : 1;
}

static void show(const struct flow_group *g, struct group_bucket_stats *buckets,
                 void (*visit)(void *arg, const struct group_spec *g, const struct group_stats *s), void *arg)
{
    struct group_stats s = {.references = g->flows + g->groups,
                            .packets = atomic_load_explicit(&g->totals->of[0].packets, memory_order_relaxed),
                            .bytes = atomic_load_explicit(&g->totals->of[0].bytes, memory_order_relaxed),
                            .duration_ns = clock_now_ns() - g->created_ns,
                            .buckets = buckets};
    for (unsigned i = 0; i < g->spec.count; i++) {
        buckets[i].packets = atomic_load_explicit(&g->buckets->of[i].packets, memory_order_relaxed);
        buckets[i].bytes = atomic_load_explicit(&g->buckets->of[i].bytes, memory_order_relaxed);
    }
    visit(arg, &g->spec, &s);
}

void bridge_group_each(struct bridge *b, uint32_t id,
                       void (*visit)(void *arg, const struct group_spec *g, const struct group_stats *s), void *arg)
{
    struct flow_group *one = group_find(b, id);
    struct collected c = {.list = malloc((b->group_count + 1) * sizeof *c.list)};
    if (!c.list) return;
    if (id == SWITCH_GROUP_ALL) group_visit(b, collect, &c);
    else if (one) collect(&c, one);
    struct group_bucket_stats *buckets = calloc(c.buckets + 1, sizeof *buckets);
    if (buckets && c.count) switch_fold_to_tell(b->sw);
    qsort(c.list, c.count, sizeof *c.list, by_id);
    for (unsigned i = 0; buckets && i < c.count; i++)
        show(c.list[i], buckets, visit, arg);
    free(buckets);
    free(c.list);
}
