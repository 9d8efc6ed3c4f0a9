/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What flows do with packets: actions, in lists, and instructions that carry them (OpenFlow 1.3.5, sections 5.9 to 5.12).
 * Plain structures with no pointers to tables: made by the text syntax (and OpenFlow's decoder), checked by flow_check(),
 * carried out by switch/translate.c.
 */
#ifndef SWITCH_ACTION_H
#define SWITCH_ACTION_H

#include "switch/field.h"

/* Ports with a meaning (OFPP_*). */
#define SWITCH_PORT_MAX 0xffffff00u
#define SWITCH_PORT_IN_PORT 0xfffffff8u
#define SWITCH_PORT_TABLE 0xfffffff9u
#define SWITCH_PORT_NORMAL 0xfffffffau
#define SWITCH_PORT_FLOOD 0xfffffffbu
#define SWITCH_PORT_ALL 0xfffffffcu
#define SWITCH_PORT_CONTROLLER 0xfffffffdu
#define SWITCH_PORT_LOCAL 0xfffffffeu
#define SWITCH_PORT_ANY 0xffffffffu

#define SWITCH_TABLES 254u /* 0..253 */
#define SWITCH_TABLE_ALL 0xffu
#define ACTIONS_MAX 128u /* in one list */

enum action_type {
    ACTION_OUTPUT,
    ACTION_GROUP,
    ACTION_SET_QUEUE, /* kept, without effect */
    ACTION_SET_FIELD, /* the bits of mask only */
    ACTION_MOVE,
    ACTION_PUSH_VLAN,
    ACTION_POP_VLAN,
    ACTION_PUSH_MPLS,
    ACTION_POP_MPLS,
    ACTION_PUSH_PBB,
    ACTION_POP_PBB,
    ACTION_DEC_NW_TTL,
    ACTION_SET_NW_TTL,
    ACTION_DEC_MPLS_TTL,
    ACTION_SET_MPLS_TTL,
    ACTION_COPY_TTL_OUT,
    ACTION_COPY_TTL_IN,
    ACTION_RESUBMIT,
    ACTION_TYPES,
};

struct action {
    uint8_t type; /* enum action_type */
    union {
        struct {
            uint32_t port;
            uint16_t max_len; /* CONTROLLER: bytes to send, 0xffff: all, no buffer */
        } output;
        uint32_t group;
        uint32_t queue;
        struct {
            uint8_t field; /* enum field_id */
            struct field_value value, mask;
        } set;
        struct {
            uint8_t from, to;
            uint8_t from_bit, to_bit, bits; /* bit 0 is the least significant */
        } move;
        uint16_t eth_type; /* PUSH_*, POP_MPLS */
        uint8_t ttl;
        struct {
            uint32_t port; /* SWITCH_PORT_IN_PORT: the packet's own */
            uint8_t table; /* SWITCH_TABLE_ALL: the present one */
        } resubmit;
    };
};

struct action_list {
    unsigned count;
    struct action *list;
};

struct instructions {
    uint32_t meter; /* 0: none */
    bool has_apply, clear, has_write, has_metadata, has_goto;
    uint8_t goto_table;
    struct action_list apply, write;
    uint64_t metadata, metadata_mask;
};

/* Copies. False: no memory, and nothing is there. */
bool instructions_copy(struct instructions *out, const struct instructions *in);
void instructions_clear(struct instructions *i);
bool instructions_equal(const struct instructions *a, const struct instructions *b);

/*
 * Action sets (OpenFlow 1.3.5, 5.10) are lists in the order in which they are carried out: copy TTL inwards, pop, push
 * MPLS, push PBB, push VLAN, copy TTL outwards, decrement TTL, set, queue, group, output. One of a kind; of set-field
 * one per field and bits, of move one per destination. What is written later takes the place of what was there.
 *
 * action_set_merge_into(): the set's list has room for ACTIONS_MAX. False: more would be in it; then nothing has changed.
 * action_set_merge(): the set's list is allocated as it grows. False: no memory, or more than ACTIONS_MAX; nothing has
 * changed.
 */
bool action_set_merge_into(struct action_list *set, const struct action_list *more);
bool action_set_merge(struct action_list *set, const struct action_list *more);

#endif
