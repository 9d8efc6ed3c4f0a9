/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Translation: a packet's way through the tables, written down as datapath actions and the bits that were looked at.
 *
 * Every bit of the packet's key that had an influence on the outcome is in the mask: what the tables' classifiers tested,
 * prerequisites of actions, what a set-field writes or a move reads, what NORMAL decides by. Reading a field that an
 * action has changed before marks the same bits of the packet: it is one bit too many at worst, because whatever
 * is written into a key is constant or made of marked bits. Tags that are pushed or popped move fields; then all tags are marked.
 *
 * What a pop brings to light is not in the packet's key: from there on the packet has another key, and what is looked at is of that one
 * (inner). All packets that agree in the bits that were looked at of each of the keys fare alike; see recirculate.h.
 *
 * Where a table looks at a DSCP that a meter may have changed before, the outcome is good for this packet only (once): it meets its
 * meters in translation, and its way ends at the one that drops it. Otherwise it is written down what came before each meter (marks).
 *
 * Bounds: RESUBMITS_MAX in all, RESUBMIT_DEPTH nested, WALK_BUCKETS_MAX buckets of groups looked at, DP_ACTIONS_MAX; over these
 * the packet is dropped.
 *
 * Thread-safety: a runner thread within a batch, or the control thread.
 */
#ifndef SWITCH_TRANSLATE_H
#define SWITCH_TRANSLATE_H

#include "switch/bridge.h"
#include "switch/counts.h"
#include "switch/dp.h"

#define RESUBMITS_MAX 4096u
#define RESUBMIT_DEPTH 64u
#define WALK_BUCKETS_MAX 16384u
#define TRANSLATION_COUNTED 4096u /* further ones do not count */
#define TRANSLATION_INNER 4u      /* keys that a packet may have after its first; with more its outcome is not kept */
#define TRANSLATION_CHANGES 64u   /* that lead to them, in all */
#define TRANSLATION_METERS 16u    /* on a way; with more each packet meets them in translation */
#define TRANSLATION_FLOWS                                                                                              \
    64u /* matched on the way, that count packets; further ones do not, those without an idle time-out first */

/* A key that the packet had on its way, after these changes of what it was when it came. */
struct translation_inner {
    struct flow_key key, mask; /* but for word 0 */
    uint16_t change_at, change_count;
};

struct translation {
    struct flow_key mask; /* trimmed: no metadata, nothing that such a packet lacks; all of in_port and bridge */
    struct table_misses misses;
    struct change_deps deps;
    bool once;    /* not to be kept */
    bool refresh; /* the packet's source address is in use (deps.mac_src) */
    bool failed;  /* a bound was reached */
    unsigned tables, flow_count, counted_count, count, inner_count, change_count, mark_count, sum_count;
    /* What is above is cleared for each translation, what follows is not. */
    struct flow *flows[TRANSLATION_FLOWS];
    struct count_mark
        marks[TRANSLATION_METERS]; /* of the meters in actions, but for those after which nothing counts */
    struct dp_action actions[DP_ACTIONS_MAX];
    struct counted counted[TRANSLATION_COUNTED]; /* groups and buckets that were taken */
    struct translation_inner inner[TRANSLATION_INNER];
    struct dp_action changes[TRANSLATION_CHANGES]; /* of all of inner */
};

struct translation_request {
    struct bridge *bridge;
    const struct switch_port *in; /* the port that the key names; NULL: to be looked for */
    const struct flow_key *key;
    struct packet *packet;    /* NULL: there is none, only its key */
    struct packet_pool *pool; /* with a packet */
    struct meter_run *meters; /* that the packet may meet; NULL: it does not */
    bool learn;               /* source addresses */
    uint32_t now_s;
    const struct action_list *actions; /* a controller's, instead of the tables; NULL: the tables */
    FILE *trace;                       /* NULL: no explanation */
    const struct flow_names *names;
};

void translate(const struct translation_request *r, struct translation *out);
/* A packet for the flows and tables that it passed, where no megaflow counts for them. dropped_by: the number of the meter that
 * dropped it, or COUNT_ALL. */
void translation_count(struct bridge *b, const struct translation *t, uint32_t bytes, unsigned dropped_by,
                       uint64_t now_ns);

#endif
