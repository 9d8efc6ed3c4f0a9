/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups taken apart. Each bucket has the packet as it came to the group, and after the group the packet is as it was before: what a
 * bucket does is a branch of its own in the list of datapath actions, unless it only sends.
 */
#include "switch/group_internal.h"
#include "switch/translate_internal.h"

/* ---- branches ---- */

/* Those of buckets to be chosen from are among them. */
static bool only_outputs(const struct dp_action *a, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (!dp_is_output(&a[i]) && !dp_is_choice(&a[i])) return false;
    return true;
}

void walk_branch_end(struct walk *w, unsigned at)
{
    struct translation *t = w->out;
    while (t->count > at + 1 && !dp_is_seen(&t->actions[t->count - 1]))
        t->count--;
    struct dp_action *branch = &t->actions[at];
    unsigned count = t->count - at - 1;
    branch->count = count;
    if (count && !only_outputs(branch + 1, count)) return;
    memmove(branch, branch + 1, count * sizeof *branch);
    t->count--;
}

/* ---- who is alive ---- */

#define WEIGHTS_OF_A_BUCKET 16u /* that take as long to add up as it takes to look at one bucket, or less */

bool walk_spend(struct walk *w, unsigned count)
{
    w->buckets += count;
    if (w->buckets <= w->buckets_most) return true;
    walk_fail(w);
    return false;
}

static struct flow_group *ask(struct walk *w, uint32_t id)
{
    w->out->deps.groups |= change_group_bit(id);
    return group_find(w->r->bridge, id);
}

static bool port_is_alive(const struct walk *w, uint32_t number)
{
    const struct switch_port *sp = bridge_find_port(w->r->bridge, number);
    return sp && switch_port_is_live(sp);
}

/* One bucket that is alive is enough. */
static bool group_is_alive(struct walk *w, uint32_t id)
{
    const struct flow_group *g = ask(w, id);
    bool alive = false;
    if (!g || w->group_depth == GROUP_DEPTH_MAX) return false;
    w->group_depth++;
    for (unsigned i = 0; i < g->spec.count && !alive && !w->stop; i++)
        alive = walk_is_alive(w, &g->spec.buckets[i]);
    w->group_depth--;
    return alive;
}

bool walk_is_alive(struct walk *w, const struct group_bucket *k)
{
    if (!walk_spend(w, 1)) return false;
    bool port = k->watch_port != SWITCH_PORT_ANY, group = k->watch_group != SWITCH_GROUP_ANY;
    if (!port && !group) return true;
    return (port && port_is_alive(w, k->watch_port)) || (group && group_is_alive(w, k->watch_group));
}

/* ---- one bucket ---- */

/* Which bucket a packet takes, and what is in it, counts when it does. */
static void count_later(struct walk *w, struct counts *in, unsigned at)
{
    struct dp_action *a = walk_emit(w, DP_COUNT);
    if (!a) return;
    a->bucket.in = in;
    a->bucket.at = at;
    a->bucket.sum = w->out->sum_count++;
}

static void count_for(struct walk *w, struct counts *in, unsigned at)
{
    struct translation *t = w->out;
    if (w->selecting) count_later(w, in, at);
    else if (t->counted_count < TRANSLATION_COUNTED) t->counted[t->counted_count++] = (struct counted){in, at};
}

static void walk_bucket(struct walk *w, const struct flow_group *g, unsigned i)
{
    struct flow_key before = w->key, *mask = w->mask;
    walk_trace(w, "group %u: bucket %u", g->spec.id, i);
    count_for(w, g->buckets, i);
    unsigned at = w->out->count;
    if (!walk_spend(w, 1) || !walk_emit(w, DP_BRANCH)) return;
    w->depth++;
    walk_set(w, &g->sets[i]);
    w->depth--;
    walk_branch_end(w, at);
    walk_look_at(w, mask);
    w->key = before;
    w->stop = w->out->failed || w->refused; /* what ends a bucket's packet ends no other's */
}

/* ---- which ---- */

static bool is_alive(void *w, const struct group_bucket *k)
{
    return walk_is_alive(w, k);
}

static int first_alive(struct walk *w, const struct flow_group *g)
{
    for (unsigned i = 0; i < g->spec.count && !w->stop; i++)
        if (walk_is_alive(w, &g->spec.buckets[i])) return (int)i;
    return -1;
}

void walk_one(struct walk *w, const struct flow_group *g, int i)
{
    if (w->stop) return;
    if (i < 0) walk_trace(w, "group %u: no bucket that is alive: drop", g->spec.id);
    else walk_bucket(w, g, (unsigned)i);
}

static void walk_buckets(struct walk *w, const struct flow_group *g)
{
    switch ((enum group_type)g->spec.type) {
    case GROUP_ALL:
        for (unsigned i = 0; i < g->spec.count && !w->stop; i++)
            walk_bucket(w, g, i);
        break;
    case GROUP_INDIRECT: walk_one(w, g, 0); break;
    case GROUP_SELECT:
        if (walk_select(w, g) || !walk_spend(w, g->spec.count / WEIGHTS_OF_A_BUCKET)) break;
        walk_one(w, g, group_choose(&g->spec, group_hash(g->spec.id, &w->key, seen(w)), is_alive, w));
        break;
    case GROUP_FAST_FAILOVER: walk_one(w, g, first_alive(w, g)); break;
    case GROUP_TYPES: break;
    }
}

void walk_group(struct walk *w, uint32_t id)
{
    const struct flow_group *g = ask(w, id);
    if (!g) {
        walk_trace(w, "there is no group %u", id);
        return;
    }
    if (w->group_depth == GROUP_DEPTH_MAX) {
        walk_fail(w);
        return;
    }
    count_for(w, g->totals, 0);
    w->group_depth++;
    walk_buckets(w, g);
    w->group_depth--;
}
