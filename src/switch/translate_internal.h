/* SPDX-License-Identifier: Apache-2.0 */
/* Translation's parts: translate.c (tables), translate_action.c (actions), translate_normal.c (NORMAL),
 * translate_group.c (groups), translate_select.c (select groups whose choice is left to each packet). */
#ifndef SWITCH_TRANSLATE_INTERNAL_H
#define SWITCH_TRANSLATE_INTERNAL_H

#include "switch/meter_internal.h"
#include "switch/translate.h"

#define WALK_DSCP 0xfcu /* in nw_tos */

struct walk {
    const struct translation_request *r;
    struct translation *out;
    struct flow_key key;    /* as the packet is by now; r->key: as it came */
    struct flow_key *mask;  /* of the key that it has by now: out's, or that of one of its inner ones */
    struct action_list set; /* the action set, in its order */
    struct action set_actions[ACTIONS_MAX];
    const struct flow *flow; /* whose actions these are; NULL: the action set */
    uint8_t table;
    bool stop;         /* the packet is dropped from here on */
    bool meet;         /* it meets its meters now, not when the actions are carried out */
    bool remarked;     /* by a meter, perhaps */
    bool depends;      /* on what that was */
    bool buried;       /* there have been more tags than the key has room for */
    uint8_t dscp_seen; /* the bits that were looked at before that */
    unsigned depth, resubmits;
    unsigned group_depth, buckets; /* groups within groups; buckets looked at */
    unsigned actions_most, buckets_most;
    /* All buckets of a select group are written down, for each packet to choose. What cannot be done for a packet that may not take
     * the bucket (to learn an address, to look at what is inside it) ends that: the choice is made here. */
    bool selecting, refused;
    bool closed;        /* no choice is left to packets */
    unsigned left_open; /* buckets of choices that were left to packets so far */
};

/* What was looked at. */
static inline struct flow_key *seen(struct walk *w)
{
    return w->mask;
}

/* Is the DSCP, which a meter may change from packet to packet, looked at after it did? */
static inline bool walk_depends(const struct walk *w)
{
    return w->depends || (w->remarked && w->mask->nw_tos & WALK_DSCP);
}

/* From here on the packet has another key, or one that it had before. */
static inline void walk_look_at(struct walk *w, struct flow_key *mask)
{
    w->depends = walk_depends(w);
    w->mask = mask;
}

/* True, and it is over, where this cannot be done because nobody knows which bucket the packet takes. */
static inline bool walk_refuses(struct walk *w)
{
    if (w->selecting) w->refused = w->stop = true;
    return w->selecting;
}

/* A bound is reached. */
static inline void walk_fail(struct walk *w)
{
    if (!walk_refuses(w)) w->out->failed = w->stop = true;
}

/* NULL: no room; translation has failed. The action is zeroed. */
static inline struct dp_action *walk_emit(struct walk *w, enum dp_type type)
{
    if (w->out->count == w->actions_most) {
        walk_fail(w);
        return NULL;
    }
    struct dp_action *a = &w->out->actions[w->out->count++];
    memset(a, 0, sizeof *a);
    a->type = (uint8_t)type;
    return a;
}

/* What was emitted after the DP_BRANCH at that place is the branch. What is not sent any more is cut off, and what changes nothing needs
 * no branch. */
void walk_branch_end(struct walk *w, unsigned at);
/* A packet that a controller sends goes to the tables, by itself. */
void walk_pipeline(struct walk *w);
void walk_output(struct walk *w, struct switch_port *sp);
void walk_normal(struct walk *w);
/* Look up and carry out from this table on, along gotos. False: no flow in the first one. */
bool walk_table(struct walk *w, uint8_t table);
void walk_actions(struct walk *w, const struct action_list *l);
void walk_action(struct walk *w, const struct action *a);
/* An action set, in its order: with a group there is no output. */
void walk_set(struct walk *w, const struct action_list *set);
void walk_group(struct walk *w, uint32_t id);

/* ---- translate_group.c, translate_select.c ---- */

struct flow_group;
struct group_bucket;
/* More buckets are looked at. False: too many; then all is over. */
bool walk_spend(struct walk *w, unsigned count);
bool walk_is_alive(struct walk *w, const struct group_bucket *k);
/* This bucket, by its number; -1: there is none. */
void walk_one(struct walk *w, const struct flow_group *g, int bucket);
/* False: it is for the translation to choose, and nothing has been done. */
bool walk_select(struct walk *w, const struct flow_group *g);
void walk_trace(struct walk *w, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

#endif
