/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups for those inside the switch: group.c keeps them, group_check.c says what is wrong with one, translate_group.c follows them.
 *
 * A group is replaced as a whole when it is modified; datapath threads find it by its number without locks.
 */
#ifndef SWITCH_GROUP_INTERNAL_H
#define SWITCH_GROUP_INTERNAL_H

#include "switch/bridge.h"
#include "switch/counts.h"
#include "switch/group.h"

#define GROUP_BUCKETS_ALL_MAX 1048576u /* of all groups of a bridge */

struct flow_group {
    struct epoch_node retired;
    struct group_spec spec;
    struct action_list *sets; /* of each bucket: its actions in the order in which they are carried out */
    struct counts *totals;    /* a single one; stays when the group is modified */
    struct counts *buckets;
    /* The rest is the writer's. */
    uint64_t created_ns;
    unsigned flows, groups; /* that send to it, or have a bucket that does */
    unsigned watchers;      /* buckets that watch it */
    unsigned height;        /* the longest chain of groups that begins with it, watched ones included */
    unsigned new_height;    /* while a change is checked */
    uint64_t mark;          /* the last round in which it was seen */
};

/* NULL: there is none. Any thread, within a batch. */
struct flow_group *group_find(const struct bridge *b, uint32_t id);
void groups_destroy(struct bridge *b); /* no reader may be left */
/* All groups, in no order; visit returns false to end it. */
void group_visit(const struct bridge *b, bool (*visit)(void *arg, struct flow_group *g), void *arg);

/* Is each group that is sent to there? 0, or -EINVAL with FLOW_BAD_OUT_GROUP. */
int group_check_list(const struct bridge *b, const struct action_list *l, enum flow_wrong *why, struct errmsg *e);
int group_check_instructions(const struct bridge *b, const struct instructions *i, enum flow_wrong *why,
                             struct errmsg *e);
/* A flow with these instructions comes or goes. */
void group_refer(struct bridge *b, const struct instructions *i, bool comes);
/* Does one of them send to the group? SWITCH_GROUP_ALL: to any. */
bool group_is_in(const struct instructions *i, uint32_t id);

/* old: what it takes the place of, or NULL. *height: as in flow_group. On success the new heights of those before it are in
 * new_height if *others. */
int group_check(struct bridge *b, const struct group_spec *g, const struct flow_group *old, unsigned *height,
                bool *others, struct group_why *why, struct errmsg *e);

/* Flows that send to the group go (SWITCH_GROUP_ALL: that send to any), no more than `most`. Cannot fail. */
void bridge_remove_flows_of_group(struct bridge *b, uint32_t id, unsigned most);

/* What a select group chooses by (choose.h). The bits that were looked at are added to *used. */
uint64_t group_hash(uint32_t id, const struct flow_key *k, struct flow_key *used);
/* The bucket that a hash falls to, by weight, of those that are alive. -1: none. */
int group_choose(const struct group_spec *g, uint64_t hash, bool (*is_alive)(void *arg, const struct group_bucket *k),
                 void *arg);

#endif
