/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenFlow 1.3.5 messages to plain structures and back. Decoders trust nothing: every length, type, padding and nesting is
 * checked, and what is wrong is named as section 7.4.4 of the specification names it. What a decoder allocated is
 * its caller's to clear on success only.
 *
 * They check what can be seen in the message itself; what depends on the switch (tables, groups, ports that exist, flow_check()) is
 * the agent's, with of_error_of_flow() and its like.
 */
#ifndef OPENFLOW_CODEC_H
#define OPENFLOW_CODEC_H

#include "openflow/out.h"
#include "switch/flow.h"
#include "switch/group.h"
#include "switch/meter.h"
#include "switch/switch.h"

#define OF_RIGHT 0xffffu
struct of_error {
    uint16_t type, code; /* OFPET_*, OFP??C_*; type OF_RIGHT: none */
    uint32_t experimenter;
    char text[160]; /* for the log */
};
/* Fills in e and returns -EINVAL. */
int of_wrong(struct of_error *e, unsigned type, unsigned code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void of_error_of_flow(enum flow_wrong why, const char *text, struct of_error *e);
void of_error_of_group(const struct group_why *why, const char *text, struct of_error *e);
void of_error_of_meter(enum meter_wrong why, const char *text, struct of_error *e);
/* An error message about `message` (its first 64 bytes at least, as much as fits sensibly). */
void of_put_error(struct of_out *o, const uint8_t *message, size_t bytes, const struct of_error *e);

/* A message: its header has been checked (version, length). */
struct of_msg {
    const uint8_t *at;
    size_t bytes;
    uint8_t type;
    uint32_t xid;
};

/* ---- pieces ---- */

/* ofp_match with its padding; *used: bytes taken. Duplicates, prerequisites, masks and lengths are checked. */
int of_get_match(const uint8_t *at, size_t bytes, struct flow_match *out, size_t *used, struct of_error *e);
void of_put_match(struct of_out *o, const struct flow_match *m);
/* exactly `bytes` of actions */
int of_get_actions(const uint8_t *at, size_t bytes, struct action_list *out, struct of_error *e);
void of_put_actions(struct of_out *o, const struct action_list *l);
int of_get_instructions(const uint8_t *at, size_t bytes, struct instructions *out, struct of_error *e);
void of_put_instructions(struct of_out *o, const struct instructions *i);

/* ---- messages ---- */

#define OF_NO_BUFFER 0xffffffffu

struct of_flow_mod {
    uint8_t command; /* OFPFC_* */
    uint32_t buffer_id;
    struct flow_spec flow; /* instructions.. are to be cleared */
};
int of_get_flow_mod(const struct of_msg *m, struct of_flow_mod *out, struct of_error *e);

struct of_group_mod {
    uint16_t command; /* OFPGC_* */
    struct group_spec group;
};
int of_get_group_mod(const struct of_msg *m, struct of_group_mod *out, struct of_error *e);

struct of_meter_mod {
    uint16_t command; /* OFPMC_* */
    struct meter_spec meter;
};
int of_get_meter_mod(const struct of_msg *m, struct of_meter_mod *out, struct of_error *e);

struct of_packet_out {
    uint32_t buffer_id, in_port;
    struct action_list actions;
    const uint8_t *data; /* in the message */
    size_t data_bytes;
};
int of_get_packet_out(const struct of_msg *m, struct of_packet_out *out, struct of_error *e);

struct of_flow_stats_request { /* of flow and aggregate statistics */
    struct flow_spec selection;
};
int of_get_flow_stats_request(const uint8_t *at, size_t bytes, struct of_flow_stats_request *out, struct of_error *e);

struct of_packet_in {
    uint32_t buffer_id;
    uint16_t total_bytes;
    uint8_t reason, table;
    uint64_t cookie;
    struct flow_match match; /* in_port, metadata, tunnel_id.. */
    const uint8_t *data;
    size_t data_bytes;
};
void of_put_packet_in(struct of_out *o, const struct of_packet_in *p);
void of_put_flow_removed(struct of_out *o, const struct flow_spec *f, const struct flow_stats *s, enum flow_gone why);

#endif
