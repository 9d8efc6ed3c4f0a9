/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is done with a packet in the end: the actions that translation leaves, without tables or conditions. A list has
 * no more than the outputs and, between them, the changes that the next output needs. The list is carried out from its beginning to its
 * end, each change on what the ones before it left; only what is within a branch (the buckets of a group) is a matter of its own.
 *
 * Which bucket of a select group a packet takes can be left to each packet:
 *
 *     SELECT | BUCKET 0 | BUCKET 1 | .. | actions of bucket 0 | actions of bucket 1 | ..
 *
 * The SELECT's count covers all that follows it there. A bucket without weight is not among them; one that is dead is (choose.h).
 *
 * A list may outlive the ports and meters in it: those that read it make sure that its megaflow is still true before they
 * follow a pointer (change.h); for showing it there are the numbers.
 */
#ifndef SWITCH_DP_H
#define SWITCH_DP_H

#include "port/port.h"
#include "switch/field.h"

#define DP_ACTIONS_MAX 16384u

enum dp_type {
    DP_OUTPUT,
    DP_CONTROLLER,
    DP_SET, /* the bits of mask of a field */
    DP_PUSH_VLAN,
    DP_POP_VLAN,
    DP_PUSH_MPLS,
    DP_POP_MPLS,
    DP_PUSH_PBB,
    DP_POP_PBB,
    DP_COPY_TTL_OUT,
    DP_COPY_TTL_IN,
    DP_METER,       /* what exceeds it goes no further */
    DP_BRANCH,      /* the actions that follow are for a copy; the packet itself stays as it is */
    DP_SELECT,      /* one of the buckets that follow, by the packet's hash; the packet itself stays as it is */
    DP_BUCKET,      /* within SELECT only: where its actions are, and what counts the packets that take it */
    DP_COUNT,       /* within SELECT only: counts for a group, or a bucket, that a bucket sends to */
    DP_RECIRCULATE, /* what the packet is after the changes before it is looked up again (recirculate.h); always the last */
};

struct counts;
struct meter;

#define DP_BUCKETS_MAX 64u /* of a SELECT */
#define DP_BUCKET_ALIVE 1u
#define DP_BUCKET_CHANGES 2u /* its actions change the packet: they are for a copy, unless they are the last ones */

/* No padding: lists are compared as bytes. */
struct dp_action {
    uint8_t type;
    uint8_t field;     /* SET; BUCKET: DP_BUCKET_* */
    uint16_t eth_type; /* PUSH_VLAN, PUSH_MPLS, POP_MPLS; CONTROLLER: bytes to send */
    union {
        uint32_t port;  /* OUTPUT */
        uint32_t count; /* BRANCH, SELECT, BUCKET: how many belong to it */
        /* PUSH_VLAN: tci; PUSH_MPLS: the label's entry; PUSH_PBB: tci; POP_VLAN: 1 where a third tag may come to light */
        uint32_t entry;
        uint32_t id; /* METER, RECIRCULATE */
        struct {     /* CONTROLLER */
            uint8_t reason, table;
            uint16_t unused;
        } in;
    };
    union {
        struct port *to;     /* OUTPUT */
        struct meter *meter; /* METER */
        struct {
            struct field_value value, mask; /* SET */
        } set;
        struct {
            uint64_t cookie, metadata; /* CONTROLLER */
        } from;
        struct { /* SELECT: of a group, how many BUCKETs, the weights of all and of those that are alive */
            uint32_t group, buckets, weights, weights_alive;
        } select;
        struct {                     /* BUCKET, COUNT */
            struct counts *in;       /* with a reference, in a list that is kept */
            uint32_t at;             /* which of in's: of a BUCKET its number in the group */
            uint32_t sum;            /* which of the list's sums */
            uint32_t end, end_alive; /* BUCKET: weights up to its own, of all and of those that are alive */
            uint32_t first;          /* BUCKET: its actions, so many after the SELECT */
            uint32_t unused;
        } bucket;
        uint8_t fill[2 * FIELD_VALUE_BYTES];
    };
};
static_assert(sizeof(struct dp_action) == 40, "no padding");

static inline bool dp_is_output(const struct dp_action *a)
{
    return a->type == DP_OUTPUT || a->type == DP_CONTROLLER;
}

/* What belongs to it follows it, and is passed over by who looks for what is done with the packet itself. */
static inline bool dp_is_block(const struct dp_action *a)
{
    return a->type == DP_BRANCH || a->type == DP_SELECT;
}

/* Part of a choice, which counts even if nothing is sent. */
static inline bool dp_is_choice(const struct dp_action *a)
{
    return a->type == DP_SELECT || a->type == DP_BUCKET || a->type == DP_COUNT;
}

/* Which of a list's meters this is, from 0; there are none within branches and buckets. */
static inline unsigned dp_meter_number(const struct dp_action *list, const struct dp_action *meter)
{
    unsigned n = 0;
    for (const struct dp_action *a = list; a < meter; a++) {
        if (dp_is_block(a)) a += a->count;
        else n += a->type == DP_METER;
    }
    return n;
}

/* Is there anything left of it afterwards? */
static inline bool dp_is_seen(const struct dp_action *a)
{
    return dp_is_output(a) || a->type == DP_METER || dp_is_choice(a);
}

#endif
