/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flows as their users see them, and the text in which they are written: ovs-ofctl's flow syntax (ovs-fields(7),
 * ovs-actions(7)), for what this switch has.
 */
#ifndef SWITCH_FLOW_H
#define SWITCH_FLOW_H

#include <stdio.h>

#include "base/errmsg.h"
#include "switch/action.h"

#define FLOW_PRIORITY_DEFAULT 32768u

#define FLOW_SEND_REMOVED 1u /* OFPFF_SEND_FLOW_REM */
#define FLOW_CHECK_OVERLAP 2u
#define FLOW_RESET_COUNTS 4u
#define FLOW_NO_PACKET_COUNTS 8u /* they stay 0 */
#define FLOW_NO_BYTE_COUNTS 16u

struct flow_spec {
    uint8_t table; /* SWITCH_TABLE_ALL only to delete and to list */
    uint16_t priority;
    uint16_t idle_timeout_s, hard_timeout_s; /* 0: never */
    uint16_t flags;
    uint64_t cookie, cookie_mask; /* mask: to select, by modify, delete and list */
    uint32_t out_port, out_group; /* to select; SWITCH_PORT_ANY: no matter */
    bool has_priority;            /* it was written: del --strict wants it */
    struct flow_match match;
    struct instructions instructions;
};

/* How ports are called; both may fail (numbers always work). */
struct flow_names {
    bool (*port_number)(void *arg, const char *name, size_t length, uint32_t *number);
    const char *(*port_name)(void *arg, uint32_t number);
    void *arg;
};

enum flow_parse {
    FLOW_PARSE_ADD,    /* match and actions */
    FLOW_PARSE_MOD,    /* the same, cookie may have a mask */
    FLOW_PARSE_DEL,    /* no actions; out_port, cookie/mask; table may be absent (all) */
    FLOW_PARSE_SELECT, /* as DEL: to list */
};

/* 0, or -EINVAL with the column (from 1) and what was expected in e. On success the instructions are to be cleared by the
 * caller. */
int flow_parse(struct flow_spec *out, const char *text, enum flow_parse how, const struct flow_names *names,
               struct errmsg *e);
/* A packet as `flow trace` has it: "in_port=1,tcp,nw_src=..": prerequisites fill in what they imply. */
int flow_parse_key(struct flow_key *out, const char *text, const struct flow_names *names, struct errmsg *e);

void flow_format_match(FILE *out, const struct flow_match *m, const struct flow_names *names);
/* priority= and what follows, as ovs-ofctl dump-flows has it, without counters. */
void flow_format(FILE *out, const struct flow_spec *f, const struct flow_names *names);
/* With table=, cookie= and whatever else flow_parse() needs to make the same flow again: how flows are kept. */
void flow_format_all(FILE *out, const struct flow_spec *f, const struct flow_names *names);
void flow_format_actions(FILE *out, const struct instructions *i, const struct flow_names *names);

/* What is wrong with a flow, by the error that OpenFlow 1.3 has for it. */
enum flow_wrong {
    FLOW_RIGHT,
    FLOW_BAD_TABLE_ID,           /* OFPFMFC_BAD_TABLE_ID */
    FLOW_BAD_FLAGS,              /* OFPFMFC_BAD_FLAGS */
    FLOW_BAD_FIELD,              /* OFPBMC_BAD_FIELD: bits that are of no field */
    FLOW_BAD_VALUE,              /* OFPBMC_BAD_VALUE */
    FLOW_BAD_MASK,               /* OFPBMC_BAD_MASK */
    FLOW_BAD_WILDCARDS,          /* OFPBMC_BAD_WILDCARDS: 1 bits outside the mask */
    FLOW_BAD_PREREQ,             /* OFPBMC_BAD_PREREQ */
    FLOW_BAD_GOTO,               /* OFPBIC_BAD_TABLE_ID */
    FLOW_BAD_INSTRUCTION,        /* OFPBIC_UNSUP_INST */
    FLOW_BAD_METADATA,           /* OFPBIC_UNSUP_METADATA_MASK */
    FLOW_BAD_METER,              /* OFPMMFC_UNKNOWN_METER */
    FLOW_BAD_OUT_PORT,           /* OFPBAC_BAD_OUT_PORT */
    FLOW_BAD_OUT_GROUP,          /* OFPBAC_BAD_OUT_GROUP */
    FLOW_BAD_ACTION,             /* OFPBAC_BAD_TYPE */
    FLOW_BAD_ARGUMENT,           /* OFPBAC_BAD_ARGUMENT */
    FLOW_BAD_SET_TYPE,           /* OFPBAC_BAD_SET_TYPE */
    FLOW_BAD_SET_ARGUMENT,       /* OFPBAC_BAD_SET_ARGUMENT */
    FLOW_BAD_MATCH_INCONSISTENT, /* OFPBAC_MATCH_INCONSISTENT */
    FLOW_TOO_MANY,               /* OFPBAC_TOO_MANY */
    FLOW_OVERLAP,                /* OFPFMFC_OVERLAP: said by bridge_flow_add(), as is the next */
    FLOW_TABLE_FULL,             /* OFPFMFC_TABLE_FULL */
};

/* Everything that can be wrong with a flow whatever the switch holds: prerequisites, values outside of masks, actions
 * that cannot follow one another, goto backwards. 0, or -EINVAL with the reason. */
int flow_check(const struct flow_spec *f, struct errmsg *e);
/* The same, and *why (may be NULL). */
int flow_check_why(const struct flow_spec *f, enum flow_wrong *why, struct errmsg *e);
/* Of the actions of a packet-out, for a packet of which that is known. They may have an output to SWITCH_PORT_TABLE. */
int flow_check_packet_out(const struct action_list *l, const struct flow_match *known, enum flow_wrong *why,
                          struct errmsg *e);
/* The same for the action set of a group's bucket. What packets must have for it nobody can know. */
int flow_check_bucket(const struct action_list *l, enum flow_wrong *why, struct errmsg *e);

#endif
