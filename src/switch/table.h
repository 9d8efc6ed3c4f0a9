/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of flows and its classifier: which flow of the highest priority matches a key, and which bits tell so?
 *
 *     table -> groups, one per coarse mask      coarse: prefix lengths rounded down to a few steps, what is no exact match left out
 *              group -> trie over the bits of the coarse mask: a node tests the first bit in which its flows differ
 *                       leaf -> the few flows that are equal in all these bits, by falling priority
 *
 * The cost of a look-up is the number of groups (a handful for access lists with hundreds of masks) times the depth of their tries,
 * and a trie is left as soon as what it holds has a lower priority than what was found.
 *
 * What was looked at is recorded bit by bit: the bits that nodes tested; of each flow of a leaf that did not match
 * one bit in which it differs; of the flow that matched all of its mask. So megaflows are wide, also under thousands
 * of rules.
 *
 * Of flows with equal priority that both match, the older wins: the answer does not depend on the classifier's shape.
 *
 * Thread-safety: one writer; table_lookup() from any reader of the epoch. What is unpublished is retired.
 */
#ifndef SWITCH_TABLE_H
#define SWITCH_TABLE_H

#include <stdatomic.h>

#include "switch/epoch.h"
#include "switch/flow.h"

struct meter;

/* Replaced as a whole when a flow is modified. */
struct flow_code {
    struct epoch_node retired;
    struct instructions instructions;
    struct meter *meter;     /* of these; NULL: none */
    struct action actions[]; /* theirs */
};

/* A copy of the instructions, all in one piece: to be freed by free(). NULL: no memory. */
struct flow_code *flow_code_new(const struct instructions *i);

struct flow_word {
    uint64_t value, mask;
};

struct flow {
    uint16_t priority;
    uint8_t table;
    uint8_t words; /* of the key, that its mask looks at */
    uint8_t index[FLOW_KEY_WORDS];
    uint64_t id; /* the older one has the lower */
    _Atomic(struct flow_code *) code;
    _Atomic unsigned refs; /* the table's, and one of each megaflow that counts for it */
    uint16_t idle_timeout_s, hard_timeout_s, flags;
    uint64_t cookie;
    uint64_t created_ns;
    _Atomic uint64_t packets, bytes, used_ns;
    _Atomic(struct flow *) successor; /* with a reference: what counts for this flow counts for it */
    struct epoch_node retired;
    struct list node;   /* of its table */
    struct list timed;  /* flows with a time-out, of its bridge */
    struct list refers; /* flows with groups or a meter, of its bridge */
    uint64_t hash;
    struct flow_word word[];
};

/* NULL: no memory. One reference, the table's. */
struct flow *flow_new(const struct flow_spec *spec, uint64_t id, uint64_t now_ns);
/* False: it is on its way out, and may not be kept past this batch. */
bool flow_ref(struct flow *f);
void flow_unref(struct flow *f);
/* Packets for f, or for the flow that has taken its place. */
void flow_count(struct flow *f, uint64_t packets, uint64_t bytes, uint64_t now_ns);
/* f's counts so far, and those to come, are new's. */
void flow_succeed(struct flow *f, struct flow *new);
/* Everything but the actions is copied; the actions are f's own and good until it changes. */
void flow_to_spec(const struct flow *f, struct flow_spec *out);
void flow_to_match(const struct flow *f, struct flow_match *out);
/* Does m (non-strict) cover the flow: is everything that the flow matches matched by m? */
bool flow_covered(const struct flow *f, const struct flow_match *m);

struct group_array;

/* Of a table: packets that were looked up in it, and that found a flow. */
struct table_counters {
    _Atomic uint64_t lookups, matched;
};

/* Tables in which a packet found no flow. There is one at most but for resubmits; where it is passed through tables by these and misses
 * more than that, the rest counts as matched. */
struct table_misses {
    uint8_t count, tables[7];
};

/* Packets that consulted these tables (a bit each). */
void table_count(struct table_counters *all, const uint64_t tables[4], const struct table_misses *misses,
                 uint64_t packets);

/* The hash is here, too: a look-up that finds nothing reads no flow, and a larger array is filled without them. */
struct table_slot {
    uint64_t hash;
    struct flow *flow; /* NULL: empty */
};

struct flow_table {
    _Atomic(struct group_array *) groups; /* NULL: empty */
    struct list flows;                    /* the rest is the writer's */
    unsigned count;
    struct table_slot *slots; /* by hash, open-addressed; at least one is empty */
    size_t slot_mask;
};

void table_init(struct flow_table *t);
/* Retires nothing: no reader may be left. */
void table_destroy(struct flow_table *t);

/* NULL: no flow matches. mask gains the bits that were looked at. */
struct flow *table_lookup(const struct flow_table *t, const struct flow_key *k, struct flow_key *mask);

/* Several keys will be looked up soon: what that reads is fetched for all of them at the same time. At most TABLE_PREFETCH. */
#define TABLE_PREFETCH 32u
void table_prefetch(const struct flow_table *t, const struct flow_key *const *keys, unsigned count);

struct flow *table_find(const struct flow_table *t, const struct flow_match *m, uint16_t priority);
/* A flow of that priority of which there are packets that m matches, too; NULL: there is none. */
struct flow *table_find_overlap(const struct flow_table *t, const struct flow_match *m, uint16_t priority);
/* Adds f, or puts it in the place of one with the same match and priority (which loses the table's reference when nobody can
 * hold it). 0 or -ENOMEM: nothing has changed. */
int table_insert(struct flow_table *t, struct epoch *e, struct flow *f, struct flow *replaced);
/* Cannot fail: short of memory it waits until what was retired can be freed. */
void table_remove(struct flow_table *t, struct epoch *e, struct flow *f);

#endif
