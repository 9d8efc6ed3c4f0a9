/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: flows carried out in the most obvious way. A list of flows, looked through from its beginning for each
 * table; no masks, no caches. What a select group chooses by it asks the switch for (group_internal.h). Tags and labels are pushed to and popped
 * from the frame's bytes, and then the whole frame is parsed anew. NORMAL is not among what it can do.
 */
#ifndef SWITCH_NAIVE_H
#define SWITCH_NAIVE_H

#include "switch/flow.h"
#include "switch/group.h"
#include "switch/naive_frame.h"

#define NAIVE_FLOWS 512u
#define NAIVE_OUTPUTS 8192u
#define NAIVE_GROUPS 8u  /* numbers below */
#define NAIVE_BUCKETS 8u /* in one, that are told of */
#define NAIVE_CHOICES 1024u
#define NAIVE_TABLES 8u /* that are told of */
/* Meters that do the same with every packet: all other numbers let it pass. */
#define NAIVE_METER_DROPS 2u
#define NAIVE_METER_RAISES 3u /* the drop precedence, by 1 */
#define NAIVE_METERS 4u

struct naive {
    struct flow_spec flows[NAIVE_FLOWS]; /* the oldest first */
    unsigned count;
    uint32_t ports; /* a bit per number */
    uint32_t down;  /* which have no link */
    bool has_group[NAIVE_GROUPS];
    struct group_spec groups[NAIVE_GROUPS]; /* by number */
    const struct naive_result *chosen;      /* select groups choose as they did then; NULL: by the packet */
};

struct naive_result {
    unsigned count;
    struct {
        uint32_t port;
        struct flow_key key; /* of the frame that leaves */
        uint64_t sum;        /* of its bytes; 0: not known */
    } out[NAIVE_OUTPUTS];
    /* What it came to. */
    bool hit[NAIVE_FLOWS];
    unsigned groups[NAIVE_GROUPS]; /* how often */
    unsigned buckets[NAIVE_GROUPS][NAIVE_BUCKETS];
    unsigned choices; /* of select groups, and the hashes that they chose by */
    uint64_t hashes[NAIVE_CHOICES];
    uint32_t tables; /* a bit each */
    bool raised;     /* by a meter */
    bool edited;     /* a field behind the tags was written */
    bool deep;       /* more tags than a key shows */
    bool shimmed;    /* a label or an I-TAG was pushed, popped or changed */
    bool odd;        /* what came to light is not what it was said to be: setting fails on it */
    /* A header was to be read anew below tags that the key has no room for, or behind fields that were written into the key only: none
     * of it may be relied on. */
    bool unsure;
};

/* The same as bridge_flow_*(). False: full. */
bool naive_add(struct naive *n, const struct flow_spec *f);
unsigned naive_delete(struct naive *n, const struct flow_spec *f, bool strict);
unsigned naive_modify(struct naive *n, const struct flow_spec *f, bool strict);
/* Is each group there that is sent to? */
bool naive_knows_groups(const struct naive *n, const struct action_list *l);
void naive_group_set(struct naive *n, const struct group_spec *g);
/* And its flows. False: another group sends to it, or watches it. */
bool naive_group_delete(struct naive *n, uint32_t id);
void naive_meter_delete(struct naive *n, uint32_t id); /* and its flows */
void naive_clear(struct naive *n);
/* frame: what k is the key of; NULL: nobody will want to know. */
void naive_run(const struct naive *n, const struct flow_key *k, const struct naive_frame *frame,
               struct naive_result *out);
uint64_t naive_sum(const uint8_t *bytes, unsigned length);

#endif
