/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is done with a packet in the end: the actions that translation leaves, without tables or conditions. A list has
 * no more than the outputs and, between them, the changes that the next output needs. The list is carried out from its beginning to its
 * end, each change on what the ones before it left; only what is within a branch (the buckets of a group) is a matter of its own.
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
    DP_RECIRCULATE, /* what the packet is after the changes before it is looked up again (recirculate.h); always the last */
};

struct meter;

/* No padding: lists are compared as bytes. */
struct dp_action {
    uint8_t type;
    uint8_t field;     /* SET */
    uint16_t eth_type; /* PUSH_VLAN, PUSH_MPLS, POP_MPLS; CONTROLLER: bytes to send */
    union {
        uint32_t port;  /* OUTPUT */
        uint32_t count; /* BRANCH: how many belong to it */
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
        uint8_t fill[2 * FIELD_VALUE_BYTES];
    };
};
static_assert(sizeof(struct dp_action) == 40, "no padding");

static inline bool dp_is_output(const struct dp_action *a)
{
    return a->type == DP_OUTPUT || a->type == DP_CONTROLLER;
}

/* Which of a list's meters this is, from 0; there are none within branches. */
static inline unsigned dp_meter_number(const struct dp_action *list, const struct dp_action *meter)
{
    unsigned n = 0;
    for (const struct dp_action *a = list; a < meter; a++) {
        if (a->type == DP_BRANCH) a += a->count;
        else n += a->type == DP_METER;
    }
    return n;
}

/* Is there anything left of it afterwards? */
static inline bool dp_is_seen(const struct dp_action *a)
{
    return dp_is_output(a) || a->type == DP_METER;
}

#endif
