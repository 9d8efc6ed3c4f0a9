/* SPDX-License-Identifier: Apache-2.0 */
/* The parser of actions: flow_parse_action.c has the lists, outputs, headers and instructions, flow_parse_set.c what
 * writes fields. */
#ifndef SWITCH_FLOW_PARSE_ACTION_H
#define SWITCH_FLOW_PARSE_ACTION_H

#include "switch/flow_text.h"

enum rank { RANK_START, RANK_METER, RANK_APPLY, RANK_CLEAR, RANK_WRITE, RANK_METADATA, RANK_GOTO };

struct actions {
    const struct text_source *s;
    const struct flow_match *m; /* tells what tp_src is, and whether there is a tag */
    struct instructions *out;
    struct action_list *list; /* that actions go to */
    unsigned room;            /* entries allocated in it */
    enum rank rank;           /* of the last instruction */
    bool nested;              /* within write_actions(..) or apply_actions(..) */
    bool drop, tagged;
};

/* Put one more into the list; at: what it comes from. */
int actions_add(struct actions *a, struct text at, struct action action);
/* A piece of a bucket's list, which has settings of the bucket between its actions. */
int actions_piece(struct actions *a, struct text t);
int actions_number(struct actions *a, struct text t, uint64_t max, const char *expected, uint64_t *out);

int parse_mod(struct actions *a, const struct text_item *i, enum field_id id);
int parse_mod_vlan_vid(struct actions *a, const struct text_item *i);
int parse_mod_vlan_pcp(struct actions *a, const struct text_item *i);
int parse_mod_nw_tos(struct actions *a, const struct text_item *i);
int parse_mod_tp(struct actions *a, const struct text_item *i);
int parse_set_field(struct actions *a, const struct text_item *i);
int parse_load(struct actions *a, const struct text_item *i);
int parse_move(struct actions *a, const struct text_item *i);

#endif
