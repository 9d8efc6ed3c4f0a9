/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Select groups whose choice is left to each packet (DP_SELECT): all buckets are written down, and what the group hashes is not looked at,
 * so that one megaflow is for all connections. Each bucket looks at what it looks at: all of that is in the megaflow's mask.
 *
 * It is done where the packet's own bytes have what the group would hash: nothing of that was written, pushed or popped before. (Where it was
 * for this packet, it was for all of the megaflow, because what is written is looked at.) It is not done where the mask says already which
 * connection it is, where a bucket does what can be done for packets that take it only (to learn an address, to look at what is inside, to
 * choose again), nor with more buckets and actions than the bounds below: then the translation chooses, by its packet.
 */
#include "switch/choose.h"
#include "switch/group_internal.h"
#include "switch/translate_internal.h"

#define SELECT_BUCKETS_ALL 128u /* of all groups on a packet's way */
#define SELECT_ACTIONS_MAX 512u /* of a group, its buckets included */
#define SELECT_LOOKED_AT 512u   /* buckets of others, in one group: of those that it sends to, or watches */

struct weighed {
    unsigned count, alive_count, weight, weight_alive;
    struct {
        unsigned bucket, end, end_alive;
        bool alive;
    } of[DP_BUCKETS_MAX];
};

/* What is taken back if it cannot be done. Nothing else is touched: counts come later, and what would look inside is refused. */
struct before {
    unsigned count, sums, buckets;
    bool buried;
    struct change_deps deps;
    struct flow_key mask;
};

static struct before note(const struct walk *w)
{
    return (struct before){.count = w->out->count,
                           .sums = w->out->sum_count,
                           .buckets = w->buckets,
                           .buried = w->buried,
                           .deps = w->out->deps,
                           .mask = w->out->mask};
}

static void take_back(struct walk *w, const struct before *b)
{
    w->out->count = b->count;
    w->out->sum_count = b->sums;
    w->out->deps = b->deps;
    w->out->mask = b->mask;
    w->buckets = b->buckets;
    w->buried = b->buried;
    w->stop = false;
}

/* ---- may it be? ---- */

/* Does the packet, as it came, have what is hashed now; and is some of it still open? */
static bool is_open(const struct walk *w)
{
    const struct flow_key *was = w->r->key, *is = &w->key;
    struct flow_key m = {0};
    uint64_t written = was->words[3] ^ is->words[3], open = 0; /* all tags: one more hides what is behind the second */
    choose_fields(is, &m);
    for (unsigned i = 1; i < FLOW_KEY_PACKET_WORDS; i++) {
        written |= (was->words[i] ^ is->words[i]) & m.words[i];
        if (i != 7) open |= m.words[i] & ~w->mask->words[i];
    }
    return written == 0 && open != 0 && !w->buried;
}

static bool may_be_left_open(const struct walk *w, const struct flow_group *g)
{
    if (w->closed || w->meet || w->r->actions || w->mask != &w->out->mask) return false;
    if (g->spec.count > DP_BUCKETS_MAX || w->left_open + g->spec.count > SELECT_BUCKETS_ALL) return false;
    return is_open(w);
}

/* ---- buckets ---- */

/* Those that have weight. False: too much is to be looked at. */
static bool weigh(struct walk *w, const struct flow_group *g, struct weighed *out)
{
    out->count = out->alive_count = out->weight = out->weight_alive = 0;
    for (unsigned i = 0; i < g->spec.count && !w->stop; i++) {
        const struct group_bucket *k = &g->spec.buckets[i];
        if (k->weight == 0) continue;
        bool alive = walk_is_alive(w, k);
        out->weight += k->weight;
        out->weight_alive += alive ? k->weight : 0;
        out->alive_count += alive;
        out->of[out->count].bucket = i;
        out->of[out->count].alive = alive;
        out->of[out->count].end = out->weight;
        out->of[out->count++].end_alive = out->weight_alive;
    }
    return !w->stop;
}

static bool changes(const struct dp_action *a, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (!dp_is_output(&a[i]) && !dp_is_choice(&a[i])) return true;
    return false;
}

static void write_bucket(struct walk *w, const struct flow_group *g, unsigned select, unsigned entry)
{
    struct translation *t = w->out;
    struct flow_key before = w->key;
    unsigned first = t->count;
    w->depth++;
    walk_set(w, &g->sets[t->actions[entry].bucket.at]);
    w->depth--;
    while (t->count > first && !dp_is_seen(&t->actions[t->count - 1]))
        t->count--;
    struct dp_action *k = &t->actions[entry];
    k->count = t->count - first;
    k->bucket.first = first - select;
    if (changes(&t->actions[first], k->count)) k->field |= DP_BUCKET_CHANGES;
    w->key = before;
    w->stop = w->refused;
}

static void write_entries(struct walk *w, const struct flow_group *g, const struct weighed *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        struct dp_action *k = walk_emit(w, DP_BUCKET);
        if (!k) return;
        k->field = s->of[i].alive ? DP_BUCKET_ALIVE : 0;
        k->bucket.in = g->buckets;
        k->bucket.at = s->of[i].bucket;
        k->bucket.sum = w->out->sum_count++;
        k->bucket.end = s->of[i].end;
        k->bucket.end_alive = s->of[i].end_alive;
    }
}

static void write_all(struct walk *w, const struct flow_group *g, const struct weighed *s)
{
    unsigned at = w->out->count;
    struct dp_action *a = walk_emit(w, DP_SELECT);
    if (!a) return;
    a->select.group = g->spec.id;
    a->select.buckets = s->count;
    a->select.weights = s->weight;
    a->select.weights_alive = s->weight_alive;
    write_entries(w, g, s);
    for (unsigned i = 0; i < s->count && !w->stop; i++) {
        walk_trace(w, "group %u: bucket %u%s", g->spec.id, s->of[i].bucket, s->of[i].alive ? "" : " (dead)");
        if (s->of[i].alive) write_bucket(w, g, at, at + 1 + i);
    }
    w->out->actions[at].count = w->out->count - at - 1;
}

static void trace_choice(struct walk *w, const struct flow_group *g, unsigned at)
{
    struct flow_key unused = {0};
    if (!w->r->trace) return;
    const struct dp_action *select = &w->out->actions[at];
    const struct dp_action *k = choose_bucket(select, group_hash(g->spec.id, &w->key, &unused));
    walk_trace(w, "group %u: this packet takes bucket %u", g->spec.id, k->bucket.at);
}

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* Within its bounds: what is alive, and if there is something to choose from, all of that. False: it cannot be done. */
static bool leave_open(struct walk *w, const struct flow_group *g, struct weighed *s)
{
    unsigned at = w->out->count, actions_most = w->actions_most, buckets_most = w->buckets_most;
    w->actions_most = least(actions_most, at + SELECT_ACTIONS_MAX);
    w->buckets_most = least(buckets_most, w->buckets + SELECT_LOOKED_AT);
    w->selecting = true;
    if (weigh(w, g, s) && s->alive_count > 1) write_all(w, g, s);
    bool done = !w->refused;
    w->actions_most = actions_most;
    w->buckets_most = buckets_most;
    w->selecting = w->refused = false;
    if (!done || s->alive_count < 2) return done;
    w->left_open += s->count;
    trace_choice(w, g, at);
    return true;
}

/* All packets fare alike. */
static void no_choice(struct walk *w, const struct flow_group *g, const struct weighed *s)
{
    unsigned i = 0;
    while (i < s->count && !s->of[i].alive)
        i++;
    walk_one(w, g, i < s->count ? (int)s->of[i].bucket : -1);
}

bool walk_select(struct walk *w, const struct flow_group *g)
{
    if (walk_refuses(w)) return true; /* one choice within another */
    if (!may_be_left_open(w, g)) return false;
    struct before before = note(w);
    struct weighed s;
    if (!leave_open(w, g, &s)) {
        take_back(w, &before);
        return false;
    }
    if (s.alive_count < 2) no_choice(w, g, &s);
    return true;
}
