/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenFlow 1.3.5 messages to plain structures and back. Decoders trust nothing: every length, type and nesting is
 * checked, and what is wrong is named as section 7.4.4 of the specification names it. What a decoder allocated is its
 * caller's to clear on success only.
 *
 * They check what can be seen in the message itself; what depends on the switch (groups, ports that exist,
 * flow_check()) is the agent's, with of_error_of_flow() and its like.
 */
#ifndef OPENFLOW_CODEC_H
#define OPENFLOW_CODEC_H

#include "openflow/out.h"
#include "openflow/wire.h"
#include "switch/flow.h"
#include "switch/group.h"
#include "switch/meter.h"
#include "switch/switch.h"

#define OF_RIGHT 0xfffeu /* no OFPET_* */
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
/* A whole error message about `message` (its first 64 bytes at least; what failed a hello is told by e's text instead).
 * NULL: about none, with xid 0. False: no memory. */
bool of_put_error(struct of_out *o, const uint8_t *message, size_t bytes, const struct of_error *e);

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
void of_actions_clear(struct action_list *l);
void of_put_actions(struct of_out *o, const struct action_list *l);
int of_get_instructions(const uint8_t *at, size_t bytes, struct instructions *out, struct of_error *e);
void of_put_instructions(struct of_out *o, const struct instructions *i);

/* ---- requests ---- */

/* Decoders return 0, or a negative number and *e; then nothing has to be cleared. -ENOMEM: no memory; *e says so. */

/* Nothing follows the header. */
int of_get_nothing(const struct of_msg *m, struct of_error *e);
/* What versions it speaks: of the bitmap, or all up to the header's. Version n is bit n; 0: none that is known. */
int of_get_hello(const uint8_t *message, size_t bytes, uint32_t *versions, struct of_error *e);
/* The error for an experimenter's message: none is known. */
int of_refuse_experimenter(const struct of_msg *m, struct of_error *e);

struct of_config {
    uint16_t flags, miss_send_len; /* OFPC_FRAG_* */
};
int of_get_set_config(const struct of_msg *m, struct of_config *out, struct of_error *e);

struct of_flow_mod {
    uint8_t command; /* OFPFC_* */
    uint32_t buffer_id;
    struct flow_spec flow; /* instructions are to be cleared; to delete: none */
};
int of_get_flow_mod(const struct of_msg *m, struct of_flow_mod *out, struct of_error *e);

struct of_group_mod {
    uint16_t command;        /* OFPGC_* */
    struct group_spec group; /* to be cleared; to delete: no buckets */
};
int of_get_group_mod(const struct of_msg *m, struct of_group_mod *out, struct of_error *e);

struct of_meter_mod {
    uint16_t command; /* OFPMC_* */
    struct meter_spec meter;
};
int of_get_meter_mod(const struct of_msg *m, struct of_meter_mod *out, struct of_error *e);

struct of_packet_out {
    uint32_t buffer_id, in_port;
    struct action_list actions; /* to be cleared (of_actions_clear()) */
    const uint8_t *data;        /* in the message */
    size_t data_bytes;
};
int of_get_packet_out(const struct of_msg *m, struct of_packet_out *out, struct of_error *e);

struct of_port_mod {
    uint32_t port;
    uint8_t mac[6];
    uint32_t config, mask, advertise; /* OFPPC_*, no others; OFPPF_*, 0: as it is */
};
int of_get_port_mod(const struct of_msg *m, struct of_port_mod *out, struct of_error *e);

struct of_table_mod {
    uint8_t table; /* SWITCH_TABLE_ALL: all */
    uint32_t config;
};
int of_get_table_mod(const struct of_msg *m, struct of_table_mod *out, struct of_error *e);

struct of_role {
    uint32_t role; /* OFPCR_ROLE_* */
    uint64_t generation;
};
int of_get_role_request(const struct of_msg *m, struct of_role *out, struct of_error *e);

struct of_async { /* a bit per reason; [0] as master or equal, [1] as slave */
    uint32_t packet_in[2], port_status[2], flow_removed[2];
};
int of_get_set_async(const struct of_msg *m, struct of_async *out, struct of_error *e);

int of_get_queue_config_request(const struct of_msg *m, uint32_t *port, struct of_error *e);

/* ---- multipart requests ---- */

struct of_multipart {
    uint16_t type; /* OFPMP_* */
    bool more;     /* the request goes on in further messages (OFPMPF_REQ_MORE) */
    const uint8_t *body;
    size_t bytes;
};
/* The type is known; those that have no body (desc, table, group desc, port desc, features of groups and meters) have
 * none. */
int of_get_multipart(const struct of_msg *m, struct of_multipart *out, struct of_error *e);

/* Their bodies. */
struct of_flow_stats_request { /* of flow and aggregate statistics */
    struct flow_spec selection;
};
int of_get_flow_stats_request(const uint8_t *at, size_t bytes, struct of_flow_stats_request *out, struct of_error *e);
int of_get_port_stats_request(const uint8_t *at, size_t bytes, uint32_t *port, struct of_error *e);
int of_get_queue_stats_request(const uint8_t *at, size_t bytes, uint32_t *port, uint32_t *queue, struct of_error *e);
int of_get_group_stats_request(const uint8_t *at, size_t bytes, uint32_t *group, struct of_error *e);
int of_get_meter_request(const uint8_t *at, size_t bytes, uint32_t *meter, struct of_error *e);

struct of_table_features {
    uint8_t table;
    char name[OFP_MAX_TABLE_NAME_LEN + 1];
    uint64_t metadata_match, metadata_write;
    uint32_t config, max_entries;
    bool same; /* no properties, or those that every table has: nothing but name and size can be different */
};
/* A request that is not empty wants to change tables. The next one of it: 1; 0: there is no more. Every property is
 * checked. *at and *bytes move on. */
int of_get_table_features(const uint8_t **at, size_t *bytes, struct of_table_features *out, struct of_error *e);

/* ---- answers ---- */

/* What returns a bool puts a whole message (false: no memory), the others a piece into the message that was begun. */
bool of_put_hello(struct of_out *o, uint32_t xid);
bool of_reply_empty(struct of_out *o, uint8_t type, uint32_t xid); /* nothing but a header: barrier's, requests */

struct of_features {
    uint64_t datapath_id;
    uint32_t buffers;
    uint8_t tables, auxiliary;
};
bool of_reply_features(struct of_out *o, uint32_t xid, const struct of_features *f);
bool of_reply_config(struct of_out *o, uint32_t xid, const struct of_config *c);
bool of_reply_role(struct of_out *o, uint32_t xid, const struct of_role *r);
bool of_reply_async(struct of_out *o, uint32_t xid, const struct of_async *a);
bool of_reply_queue_config(struct of_out *o, uint32_t xid, uint32_t port); /* no queues */

/*
 * Multipart answers, split as they grow:
 *
 *     of_multipart_begin(o, type, xid);
 *     of_put_flow_stats(o, ..);   as many entries as there are
 *     of_multipart_end(o, more);  more: another part, begun with of_multipart_begin(), follows later
 *
 * What has become too long for a message goes on in a new one. False: no memory, or an entry is longer than a message;
 * parts that were finished before are in the buffer, and the peer would wait for the rest: end the connection.
 */
void of_multipart_begin(struct of_out *o, uint16_t type, uint32_t xid);
bool of_multipart_end(struct of_out *o, bool more);

struct of_desc { /* cut at their fields' ends */
    const char *manufacturer, *hardware, *software, *serial, *datapath;
};
void of_put_desc(struct of_out *o, const struct of_desc *d);
void of_put_flow_stats(struct of_out *o, const struct flow_spec *f, const struct flow_stats *s);
void of_put_aggregate(struct of_out *o, uint64_t packets, uint64_t bytes, uint32_t flows);
void of_put_table_stats(struct of_out *o, uint8_t table, const struct table_stats *s);
void of_put_table_features(struct of_out *o, uint8_t table, const char *name, uint32_t config, uint32_t max_entries);
void of_put_port(struct of_out *o, const struct switch_port_info *p);
void of_put_port_stats(struct of_out *o, const struct switch_port_info *p, const struct port_stats *s);
void of_put_group_stats(struct of_out *o, const struct group_spec *g, const struct group_stats *s);
void of_put_group_desc(struct of_out *o, const struct group_spec *g);
void of_put_group_features(struct of_out *o);
void of_put_meter_stats(struct of_out *o, const struct meter_spec *m, const struct meter_stats *s);
void of_put_meter_config(struct of_out *o, const struct meter_spec *m);
void of_put_meter_features(struct of_out *o);

/* ---- events ---- */

struct of_packet_in {
    uint32_t buffer_id;
    uint16_t total_bytes;
    uint8_t reason, table;
    uint64_t cookie;
    struct flow_match match; /* in_port, metadata, tunnel_id.. */
    const uint8_t *data;
    size_t data_bytes;
};
/* Whole messages with xid 0; false: no memory, or it is too long. */
bool of_put_packet_in(struct of_out *o, const struct of_packet_in *p);
/* OFPRR_* */
unsigned of_reason_of_gone(enum flow_gone why);
bool of_put_flow_removed(struct of_out *o, const struct flow_spec *f, const struct flow_stats *s, enum flow_gone why);
bool of_put_port_status(struct of_out *o, enum port_event what, const struct switch_port_info *p);

#endif
