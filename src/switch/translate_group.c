/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups taken apart. Each bucket has the packet as it came to the group, and after the group the packet is as it was before: what a
 * bucket does is a branch of its own in the list of datapath actions, unless it only sends.
 */
#include "switch/group_internal.h"
#include "switch/translate_internal.h"

/* ---- branches ---- */

static bool only_outputs(const struct dp_action *a, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (!dp_is_output(&a[i])) return false;
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

/* More buckets are looked at. False: too many; then all is over. */
static bool spend(struct walk *w, unsigned count)
{
    w->buckets += count;
    if (w->buckets <= WALK_BUCKETS_MAX) return true;
    w->out->failed = w->stop = true;
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

static bool bucket_is_alive(struct walk *w, const struct group_bucket *k);

/* One bucket that is alive is enough. */
static bool group_is_alive(struct walk *w, uint32_t id)
{
    const struct flow_group *g = ask(w, id);
    bool alive = false;
    if (!g || w->group_depth == GROUP_DEPTH_MAX) return false;
    w->group_depth++;
    for (unsigned i = 0; i < g->spec.count && !alive && !w->stop; i++)
        alive = bucket_is_alive(w, &g->spec.buckets[i]);
    w->group_depth--;
    return alive;
}

static bool bucket_is_alive(struct walk *w, const struct group_bucket *k)
{
    if (!spend(w, 1)) return false;
    bool port = k->watch_port != SWITCH_PORT_ANY, group = k->watch_group != SWITCH_GROUP_ANY;
    if (!port && !group) return true;
    return (port && port_is_alive(w, k->watch_port)) || (group && group_is_alive(w, k->watch_group));
}

/* ---- one bucket ---- */

static void count_for(struct walk *w, struct counts *in, unsigned at)
{
    struct translation *t = w->out;
    if (t->counted_count < TRANSLATION_COUNTED) t->counted[t->counted_count++] = (struct counted){in, at};
}

static void walk_bucket(struct walk *w, const struct flow_group *g, unsigned i)
{
    struct flow_key before = w->key, *mask = w->mask;
    unsigned at = w->out->count;
    walk_trace(w, "group %u: bucket %u", g->spec.id, i);
    count_for(w, g->buckets, i);
    if (!spend(w, 1) || !walk_emit(w, DP_BRANCH)) return;
    w->depth++;
    walk_set(w, &g->sets[i]);
    w->depth--;
    walk_branch_end(w, at);
    walk_look_at(w, mask);
    w->key = before;
    w->stop = w->out->failed; /* what ends a bucket's packet ends no other's */
}

/* ---- which ---- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    unsigned __int128 p = (unsigned __int128)(h ^ v ^ UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xd6e8feb86659fd93);
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

/* Of a fragment the ports are not taken, which only the first one has. */
static void hashed_fields(const struct flow_key *k, struct flow_key *m)
{
    unsigned type = be16_get(k->eth_type);
    memset(m->eth_dst, 0xff, sizeof m->eth_dst);
    memset(m->eth_src, 0xff, sizeof m->eth_src);
    memset(&m->eth_type, 0xff, sizeof m->eth_type);
    m->vlan[0].tci = be16_make(FLOW_VLAN_PRESENT | 0xfff);
    if (type == 0x0800 || type == 0x0806) m->words[6] = UINT64_MAX;
    if (type == 0x86dd) m->words[9] = m->words[10] = m->words[11] = m->words[12] = UINT64_MAX;
    if (type != 0x0800 && type != 0x86dd) return;
    m->nw_proto = m->nw_frag = 0xff;
    if (k->nw_frag || (k->nw_proto != 6 && k->nw_proto != 17 && k->nw_proto != 132)) return;
    memset(&m->tp_src, 0xff, sizeof m->tp_src);
    memset(&m->tp_dst, 0xff, sizeof m->tp_dst);
}

uint64_t group_hash(uint32_t id, const struct flow_key *k, struct flow_key *used)
{
    struct flow_key m = {0};
    hashed_fields(k, &m);
    uint64_t h = mix(id, k->nw_frag ? 0 : m.nw_proto & k->nw_proto); /* IPv6's later fragments have another */
    for (unsigned i = 0; i < FLOW_KEY_PACKET_WORDS; i++) {
        used->words[i] |= m.words[i];
        if (m.words[i] && i != 7) h = mix(h, k->words[i] & m.words[i]); /* 7: which fragment it is must not matter */
    }
    return mix(h, 0);
}

/* The bucket at that point of the sum of weights (alive: NULL, or whose weights count). -1: there is none. */
static int at_point(const struct group_spec *g, uint64_t hash, const bool *alive)
{
    uint64_t all = 0, at = 0;
    for (unsigned i = 0; i < g->count; i++)
        all += !alive || alive[i] ? g->buckets[i].weight : 0;
    uint64_t point = (uint64_t)((unsigned __int128)hash * all >> 64);
    for (unsigned i = 0; i < g->count; i++) {
        at += !alive || alive[i] ? g->buckets[i].weight : 0;
        if (point < at) return (int)i;
    }
    return -1;
}

/* First among all: so the packets of a bucket that is alive stay where they are when another one dies. */
int group_choose(const struct group_spec *g, uint64_t hash, bool (*is_alive)(void *arg, const struct group_bucket *k),
                 void *arg)
{
    bool alive[GROUP_BUCKETS_MAX];
    int i = at_point(g, hash, NULL);
    if (i < 0 || is_alive(arg, &g->buckets[i])) return i;
    for (unsigned j = 0; j < g->count; j++)
        alive[j] = g->buckets[j].weight && is_alive(arg, &g->buckets[j]);
    return at_point(g, mix(hash, 1), alive);
}

static bool is_alive(void *w, const struct group_bucket *k)
{
    return bucket_is_alive(w, k);
}

static int first_alive(struct walk *w, const struct flow_group *g)
{
    for (unsigned i = 0; i < g->spec.count && !w->stop; i++)
        if (bucket_is_alive(w, &g->spec.buckets[i])) return (int)i;
    return -1;
}

static void walk_one(struct walk *w, const struct flow_group *g, int i)
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
        if (!spend(w, g->spec.count / WEIGHTS_OF_A_BUCKET)) break;
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
        w->out->failed = w->stop = true;
        return;
    }
    count_for(w, g->totals, 0);
    w->group_depth++;
    walk_buckets(w, g);
    w->group_depth--;
}
