/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is wrong with a group (OpenFlow 1.3.5, sections 5.6 and 7.3.4.2; ofp_group_mod_failed_code).
 *
 * Groups may send to others, and watch others; neither may lead back to where it began, nor through more than GROUP_DEPTH_MAX. Each has a
 * height, so that a new one needs to look no further than the groups it names.
 */
#include <errno.h>

#include "switch/flow_text.h"
#include "switch/group_internal.h"

struct check {
    struct bridge *b;
    const struct group_spec *g;
    struct group_why *why;
    struct errmsg *e;
};

#define WRONG(c, reason, ...) ((c)->why->wrong = (reason), errmsg_set((c)->e, EINVAL, __VA_ARGS__))

/* ---- one bucket ---- */

static int check_watch(struct check *c, const struct group_bucket *k)
{
    bool port = k->watch_port != SWITCH_PORT_ANY, group = k->watch_group != SWITCH_GROUP_ANY;
    if ((port || group) && (c->g->type == GROUP_ALL || c->g->type == GROUP_INDIRECT))
        return WRONG(c, GROUP_WATCH_UNSUPPORTED, "buckets of such a group watch nothing: all of them are taken");
    if (!port && !group && c->g->type == GROUP_FAST_FAILOVER)
        return WRONG(c, GROUP_BAD_WATCH, "a bucket of a fast failover group watches a port or a group");
    bool is_port = (k->watch_port >= 1 && k->watch_port <= SWITCH_PORT_MAX) || k->watch_port == SWITCH_PORT_LOCAL;
    if (port && !is_port) return WRONG(c, GROUP_BAD_WATCH, "%u is no port that can be watched", k->watch_port);
    if (!group) return 0;
    if (k->watch_group == c->g->id) return WRONG(c, GROUP_LOOP, "group %u watches itself", c->g->id);
    if (!group_find(c->b, k->watch_group))
        return WRONG(c, GROUP_BAD_WATCH, "there is no group %u to be watched", k->watch_group);
    return 0;
}

static int check_actions(struct check *c, const struct action_list *l)
{
    enum flow_wrong wrong;
    int ret = flow_check_bucket(l, &wrong, c->e);
    for (unsigned i = 0; !ret && i < l->count; i++) {
        if (l->list[i].type != ACTION_GROUP) continue;
        if (l->list[i].group == c->g->id) return WRONG(c, GROUP_LOOP, "group %u sends to itself", c->g->id);
        if (group_find(c->b, l->list[i].group)) continue;
        wrong = FLOW_BAD_OUT_GROUP;
        ret = errmsg_set(c->e, EINVAL, "there is no group %u", l->list[i].group);
    }
    if (ret) *c->why = (struct group_why){GROUP_BAD_ACTION, (int)wrong};
    return ret;
}

static int check_bucket(struct check *c, unsigned i)
{
    const struct group_bucket *k = &c->g->buckets[i];
    int ret = 0;
    if (k->weight && c->g->type != GROUP_SELECT)
        ret = WRONG(c, GROUP_INVALID, "only buckets of a select group have weights");
    if (!ret) ret = check_watch(c, k);
    if (!ret) ret = check_actions(c, &k->actions);
    return errmsg_prefix(c->e, ret, "bucket %u", i);
}

static int check_spec(struct check *c, const struct flow_group *old)
{
    const struct group_spec *g = c->g;
    unsigned had = old ? old->spec.count : 0;
    int ret = 0;
    if (g->id > SWITCH_GROUP_MAX) return WRONG(c, GROUP_INVALID, "%u is no group's number", g->id);
    if (g->type >= GROUP_TYPES) return WRONG(c, GROUP_BAD_TYPE, "there is no type %u of groups", g->type);
    if (g->count > GROUP_BUCKETS_MAX || c->b->group_buckets - had > GROUP_BUCKETS_ALL_MAX - g->count)
        return WRONG(c, GROUP_OUT_OF_BUCKETS, "no more than %u buckets in a group, and %u in all", GROUP_BUCKETS_MAX,
                     GROUP_BUCKETS_ALL_MAX);
    if (g->type == GROUP_INDIRECT && g->count != 1)
        return WRONG(c, GROUP_INVALID, "an indirect group has one bucket, not %u", g->count);
    for (unsigned i = 0; !ret && i < g->count; i++)
        ret = check_bucket(c, i);
    return ret;
}

/* ---- chains ---- */

static bool visit_child(const struct bridge *b, uint32_t id, bool (*visit)(void *arg, struct flow_group *child),
                        void *arg)
{
    struct flow_group *child = group_find(b, id);
    assert(child); /* what is named is there before, and stays */
    return visit(arg, child);
}

/* The groups that a group names. visit returns false to end it. */
static bool each_child(const struct bridge *b, const struct group_spec *g,
                       bool (*visit)(void *arg, struct flow_group *child), void *arg)
{
    for (unsigned i = 0; i < g->count; i++) {
        const struct group_bucket *k = &g->buckets[i];
        if (k->watch_group != SWITCH_GROUP_ANY && !visit_child(b, k->watch_group, visit, arg)) return false;
        for (unsigned j = 0; j < k->actions.count; j++) {
            const struct action *a = &k->actions.list[j];
            if (a->type == ACTION_GROUP && !visit_child(b, a->group, visit, arg)) return false;
        }
    }
    return true;
}

struct search {
    struct check *c;
    unsigned depth;
};

/* False: a way to where it began, or one that is too long. */
static bool leads_elsewhere(void *arg, struct flow_group *child)
{
    struct search *s = arg;
    if (child->spec.id == s->c->g->id || s->depth == GROUP_DEPTH_MAX) return false;
    if (child->mark == s->c->b->group_mark) return true;
    child->mark = s->c->b->group_mark;
    s->depth++;
    bool elsewhere = each_child(s->c->b, &child->spec, leads_elsewhere, s);
    s->depth--;
    return elsewhere;
}

static bool max_height(void *arg, struct flow_group *child)
{
    unsigned *height = arg;
    if (child->new_height > *height) *height = child->new_height;
    return true;
}

static bool height_begin(void *arg, struct flow_group *g)
{
    (void)arg;
    g->new_height = g->height;
    return true;
}

struct round {
    struct check *c;
    unsigned height; /* of the group in question */
    bool changed, too_high;
};

/* One step: from heights of children to one's own. */
static bool height_step(void *arg, struct flow_group *g)
{
    struct round *r = arg;
    unsigned height = 0;
    if (g->spec.id == r->c->g->id) height = r->height - 1;
    else each_child(r->c->b, &g->spec, max_height, &height);
    if (height + 1 != g->new_height) r->changed = true;
    g->new_height = height + 1;
    r->too_high |= g->new_height > GROUP_DEPTH_MAX;
    return !r->too_high;
}

static bool child_height(void *arg, struct flow_group *child)
{
    unsigned *height = arg;
    if (child->height > *height) *height = child->height;
    return true;
}

static bool is_named(const struct flow_group *g)
{
    return g && (g->groups || g->watchers);
}

static int check_heights(struct check *c, const struct flow_group *old, unsigned *height, bool *others)
{
    *height = 0;
    *others = false;
    each_child(c->b, c->g, child_height, height);
    ++*height;
    struct round r = {.c = c, .height = *height, .too_high = *height > GROUP_DEPTH_MAX};
    if (!r.too_high && is_named(old) && *height != old->height) {
        *others = true;
        group_visit(c->b, height_begin, NULL);
        do {
            r.changed = false;
            group_visit(c->b, height_step, &r);
        } while (r.changed && !r.too_high);
    }
    if (!r.too_high) return 0;
    return WRONG(c, GROUP_CHAINING_UNSUPPORTED, "a chain of more than %u groups", GROUP_DEPTH_MAX);
}

int group_check(struct bridge *b, const struct group_spec *g, const struct flow_group *old, unsigned *height,
                bool *others, struct group_why *why, struct errmsg *e)
{
    struct check c = {.b = b, .g = g, .why = why, .e = e};
    struct search s = {.c = &c};
    int ret = check_spec(&c, old);
    if (ret) return ret;
    b->group_mark++;
    /* What nobody names cannot be come back to. */
    if (is_named(old) && !each_child(b, g, leads_elsewhere, &s))
        return WRONG(&c, GROUP_LOOP, "the chain leads back to group %u", g->id);
    return check_heights(&c, old, height, others);
}
