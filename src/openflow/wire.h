/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers and layouts of OpenFlow 1.3 (wire version 4), by the names of the specification (1.3.5, chapter 7), and of
 * those of Nicira's extensions that are spoken here. All is big-endian; structures are made of bytes, so they may lie
 * anywhere.
 */
#ifndef OPENFLOW_WIRE_H
#define OPENFLOW_WIRE_H

#include <assert.h>

#include "base/endian.h"

#define OFP_VERSION 4u
#define OFP_MESSAGE_MAX 65535u
#define OFP_MAX_PORT_NAME_LEN 16u
#define OFP_MAX_TABLE_NAME_LEN 32u
#define DESC_STR_LEN 256u
#define SERIAL_NUM_LEN 32u
#define OFP_TCP_PORT 6653u
#define OFP_NO_BUFFER 0xffffffffu
#define OFP_DEFAULT_MISS_SEND_LEN 128u

/* ---- messages (7.1) ---- */

enum { OFPT_HELLO = 0, OFPT_ERROR = 1, OFPT_ECHO_REQUEST = 2, OFPT_ECHO_REPLY = 3, OFPT_EXPERIMENTER = 4 };
enum { OFPT_FEATURES_REQUEST = 5, OFPT_FEATURES_REPLY = 6 };
enum { OFPT_GET_CONFIG_REQUEST = 7, OFPT_GET_CONFIG_REPLY = 8, OFPT_SET_CONFIG = 9 };
enum { OFPT_PACKET_IN = 10, OFPT_FLOW_REMOVED = 11, OFPT_PORT_STATUS = 12 };
enum { OFPT_PACKET_OUT = 13, OFPT_FLOW_MOD = 14, OFPT_GROUP_MOD = 15, OFPT_PORT_MOD = 16, OFPT_TABLE_MOD = 17 };
enum { OFPT_MULTIPART_REQUEST = 18, OFPT_MULTIPART_REPLY = 19, OFPT_BARRIER_REQUEST = 20, OFPT_BARRIER_REPLY = 21 };
enum { OFPT_QUEUE_GET_CONFIG_REQUEST = 22, OFPT_QUEUE_GET_CONFIG_REPLY = 23 };
enum { OFPT_ROLE_REQUEST = 24, OFPT_ROLE_REPLY = 25 };
enum { OFPT_GET_ASYNC_REQUEST = 26, OFPT_GET_ASYNC_REPLY = 27, OFPT_SET_ASYNC = 28, OFPT_METER_MOD = 29 };

struct ofp_header {
    uint8_t version, type;
    struct be16 length;
    struct be32 xid;
};
static_assert(sizeof(struct ofp_header) == 8, "wire layout");

enum { OFPHET_VERSIONBITMAP = 1 };
struct ofp_hello_elem { /* then bitmaps: be32 each, version n is bit n % 32 of word n / 32 */
    struct be16 type, length;
};
static_assert(sizeof(struct ofp_hello_elem) == 4, "wire layout");

struct ofp_error_msg { /* then data */
    struct be16 type, code;
};
struct ofp_error_experimenter_msg { /* then data */
    struct be16 type, exp_type;
    struct be32 experimenter;
};
static_assert(sizeof(struct ofp_error_experimenter_msg) == 8, "wire layout");

struct ofp_experimenter { /* behind the header; then data */
    struct be32 experimenter, exp_type;
};
static_assert(sizeof(struct ofp_experimenter) == 8, "wire layout");

/* ---- handshake, configuration (7.3.1, 7.3.2) ---- */

enum { OFPC_FLOW_STATS = 1, OFPC_TABLE_STATS = 2, OFPC_PORT_STATS = 4, OFPC_GROUP_STATS = 8, OFPC_IP_REASM = 32 };
enum { OFPC_QUEUE_STATS = 64, OFPC_PORT_BLOCKED = 256 };
struct ofp_switch_features {
    struct be64 datapath_id;
    struct be32 n_buffers;
    uint8_t n_tables, auxiliary_id, pad[2];
    struct be32 capabilities, reserved;
};
static_assert(sizeof(struct ofp_switch_features) == 24, "wire layout");

enum { OFPC_FRAG_NORMAL = 0, OFPC_FRAG_DROP = 1, OFPC_FRAG_REASM = 2, OFPC_FRAG_MASK = 3 };
enum { OFPCML_MAX = 0xffe5, OFPCML_NO_BUFFER = 0xffff };
struct ofp_switch_config {
    struct be16 flags, miss_send_len;
};
static_assert(sizeof(struct ofp_switch_config) == 4, "wire layout");

/* ---- ports (7.2.1, 7.3.4.3, 7.4.3) ---- */

#define OFPP_MAX 0xffffff00u
#define OFPP_IN_PORT 0xfffffff8u
#define OFPP_TABLE 0xfffffff9u
#define OFPP_NORMAL 0xfffffffau
#define OFPP_FLOOD 0xfffffffbu
#define OFPP_ALL 0xfffffffcu
#define OFPP_CONTROLLER 0xfffffffdu
#define OFPP_LOCAL 0xfffffffeu
#define OFPP_ANY 0xffffffffu

enum { OFPPC_PORT_DOWN = 1, OFPPC_NO_RECV = 4, OFPPC_NO_FWD = 32, OFPPC_NO_PACKET_IN = 64 };
enum { OFPPS_LINK_DOWN = 1, OFPPS_BLOCKED = 2, OFPPS_LIVE = 4 };
enum { OFPPF_10MB_HD = 1, OFPPF_10MB_FD = 2, OFPPF_100MB_HD = 4, OFPPF_100MB_FD = 8, OFPPF_1GB_HD = 16 };
enum { OFPPF_1GB_FD = 32, OFPPF_10GB_FD = 64, OFPPF_40GB_FD = 128, OFPPF_100GB_FD = 256, OFPPF_1TB_FD = 512 };
enum { OFPPF_OTHER = 1024, OFPPF_COPPER = 2048, OFPPF_FIBER = 4096, OFPPF_AUTONEG = 8192, OFPPF_PAUSE = 16384 };
enum { OFPPF_PAUSE_ASYM = 32768, OFPPF_ALL = 65535 };
struct ofp_port {
    struct be32 port_no;
    uint8_t pad[4], hw_addr[6], pad2[2];
    char name[OFP_MAX_PORT_NAME_LEN];
    struct be32 config, state;
    struct be32 curr, advertised, supported, peer; /* OFPPF_* */
    struct be32 curr_speed, max_speed;             /* kb/s */
};
static_assert(sizeof(struct ofp_port) == 64, "wire layout");

enum { OFPPR_ADD = 0, OFPPR_DELETE = 1, OFPPR_MODIFY = 2 };
struct ofp_port_status {
    uint8_t reason, pad[7];
    struct ofp_port desc;
};
static_assert(sizeof(struct ofp_port_status) == 72, "wire layout");

struct ofp_port_mod {
    struct be32 port_no;
    uint8_t pad[4], hw_addr[6], pad2[2];
    struct be32 config, mask, advertise;
    uint8_t pad3[4];
};
static_assert(sizeof(struct ofp_port_mod) == 32, "wire layout");

struct ofp_table_mod {
    uint8_t table_id, pad[3];
    struct be32 config; /* OFPTC_* */
};
#define OFPTC_DEPRECATED_MASK 3u
#define OFPTT_MAX 0xfeu
#define OFPTT_ALL 0xffu
static_assert(sizeof(struct ofp_table_mod) == 8, "wire layout");

/* ---- matches (7.2.2, 7.2.3) ---- */

enum { OFPMT_STANDARD = 0, OFPMT_OXM = 1 };
struct ofp_match { /* then fields, then zeros to a multiple of 8 that length does not count */
    struct be16 type, length;
};
static_assert(sizeof(struct ofp_match) == 4, "wire layout");

enum { OFPXMC_NXM_0 = 0x0000, OFPXMC_NXM_1 = 0x0001, OFPXMC_OPENFLOW_BASIC = 0x8000, OFPXMC_EXPERIMENTER = 0xffff };
struct oxm_header {
    struct be16 class;
    uint8_t field_mask; /* number << 1 | has a mask */
    uint8_t length;     /* of value and mask; of an experimenter's also its id */
};
static_assert(sizeof(struct oxm_header) == 4, "wire layout");

#define ONF_EXPERIMENTER_ID 0x4f4e4600u
#define NX_EXPERIMENTER_ID 0x00002320u
enum { ONFOXM_ET_TCP_FLAGS = 42 };
enum { OFPVID_NONE = 0, OFPVID_PRESENT = 0x1000 };

/* ---- instructions and actions (7.2.4, 7.2.5) ---- */

enum { OFPIT_GOTO_TABLE = 1, OFPIT_WRITE_METADATA = 2, OFPIT_WRITE_ACTIONS = 3, OFPIT_APPLY_ACTIONS = 4 };
enum { OFPIT_CLEAR_ACTIONS = 5, OFPIT_METER = 6, OFPIT_EXPERIMENTER = 0xffff };
struct ofp_instruction {
    struct be16 type, len;
};
struct ofp_instruction_goto_table {
    struct be16 type, len;
    uint8_t table_id, pad[3];
};
struct ofp_instruction_write_metadata {
    struct be16 type, len;
    uint8_t pad[4];
    struct be64 metadata, metadata_mask;
};
struct ofp_instruction_actions { /* write, apply, clear; then actions */
    struct be16 type, len;
    uint8_t pad[4];
};
struct ofp_instruction_meter {
    struct be16 type, len;
    struct be32 meter_id;
};
static_assert(sizeof(struct ofp_instruction_goto_table) == 8 && sizeof(struct ofp_instruction_write_metadata) == 24 &&
                  sizeof(struct ofp_instruction_actions) == 8 && sizeof(struct ofp_instruction_meter) == 8,
              "wire layout");

enum { OFPAT_OUTPUT = 0, OFPAT_COPY_TTL_OUT = 11, OFPAT_COPY_TTL_IN = 12, OFPAT_SET_MPLS_TTL = 15 };
enum { OFPAT_DEC_MPLS_TTL = 16, OFPAT_PUSH_VLAN = 17, OFPAT_POP_VLAN = 18, OFPAT_PUSH_MPLS = 19, OFPAT_POP_MPLS = 20 };
enum { OFPAT_SET_QUEUE = 21, OFPAT_GROUP = 22, OFPAT_SET_NW_TTL = 23, OFPAT_DEC_NW_TTL = 24, OFPAT_SET_FIELD = 25 };
enum { OFPAT_PUSH_PBB = 26, OFPAT_POP_PBB = 27, OFPAT_EXPERIMENTER = 0xffff };
struct ofp_action_header { /* without what follows the length; at least 8 bytes */
    struct be16 type, len;
};
struct ofp_action_output {
    struct be16 type, len;
    struct be32 port;
    struct be16 max_len;
    uint8_t pad[6];
};
struct ofp_action_u32 { /* group, set_queue */
    struct be16 type, len;
    struct be32 value;
};
struct ofp_action_u16 { /* push_*, pop_mpls: an Ethernet type */
    struct be16 type, len;
    struct be16 value;
    uint8_t pad[2];
};
struct ofp_action_u8 { /* set_*_ttl; without one: all padding */
    struct be16 type, len;
    uint8_t value, pad[3];
};
struct ofp_action_set_field { /* then one OXM, then zeros to a multiple of 8 */
    struct be16 type, len;
};
static_assert(sizeof(struct ofp_action_output) == 16 && sizeof(struct ofp_action_u32) == 8 &&
                  sizeof(struct ofp_action_u16) == 8 && sizeof(struct ofp_action_u8) == 8,
              "wire layout");

enum { NXAST_RESUBMIT = 1, NXAST_SET_TUNNEL = 2, NXAST_REG_MOVE = 6 };
enum { NXAST_REG_LOAD = 7, NXAST_SET_TUNNEL64 = 9, NXAST_RESUBMIT_TABLE = 14, NXAST_DEC_TTL = 18 };
enum { NXAST_CONTROLLER = 20, NXAST_REG_LOAD2 = 33 };
struct nx_action_header {
    struct be16 type, len;
    struct be32 vendor;
    struct be16 subtype;
};
struct nx_action_resubmit {
    struct be16 type, len;
    struct be32 vendor;
    struct be16 subtype, in_port;
    uint8_t table, pad[3]; /* resubmit: all padding */
};
struct nx_action_set_tunnel {
    struct be16 type, len;
    struct be32 vendor;
    struct be16 subtype;
    uint8_t pad[2];
    struct be32 tun_id;
};
struct nx_action_set_tunnel64 {
    struct be16 type, len;
    struct be32 vendor;
    struct be16 subtype;
    uint8_t pad[6];
    struct be64 tun_id;
};
struct nx_action_reg_move { /* fields: OXM headers (an experimenter's has its id, so it is longer) */
    struct be16 type, len;
    struct be32 vendor;
    struct be16 subtype, n_bits, src_ofs, dst_ofs;
    struct oxm_header src, dst;
};
struct nx_action_reg_load {
    struct be16 type, len;
    struct be32 vendor;
    struct be16 subtype, ofs_nbits; /* offset << 6 | (bits - 1) */
    struct oxm_header dst;
    struct be64 value;
};
struct nx_action_reg_load2 { /* then one OXM, with or without a mask, and zeros to a multiple of 8 */
    struct be16 type, len;
    struct be32 vendor;
    struct be16 subtype;
    uint8_t pad[6];
};
struct nx_action_controller {
    struct be16 type, len;
    struct be32 vendor;
    struct be16 subtype, max_len, controller_id;
    uint8_t reason, pad;
};
static_assert(sizeof(struct nx_action_resubmit) == 16 && sizeof(struct nx_action_set_tunnel) == 16 &&
                  sizeof(struct nx_action_set_tunnel64) == 24 && sizeof(struct nx_action_reg_move) == 24 &&
                  sizeof(struct nx_action_reg_load) == 24 && sizeof(struct nx_action_reg_load2) == 16 &&
                  sizeof(struct nx_action_controller) == 16 && sizeof(struct nx_action_header) == 10,
              "wire layout");

/* ---- flows (7.3.4.1, 7.4.1, 7.4.2) ---- */

enum { OFPFC_ADD = 0, OFPFC_MODIFY = 1, OFPFC_MODIFY_STRICT = 2, OFPFC_DELETE = 3, OFPFC_DELETE_STRICT = 4 };
enum { OFPFF_SEND_FLOW_REM = 1, OFPFF_CHECK_OVERLAP = 2, OFPFF_RESET_COUNTS = 4, OFPFF_NO_PKT_COUNTS = 8 };
enum { OFPFF_NO_BYT_COUNTS = 16 };
struct ofp_flow_mod { /* then a match, then instructions */
    struct be64 cookie, cookie_mask;
    uint8_t table_id, command;
    struct be16 idle_timeout, hard_timeout, priority;
    struct be32 buffer_id, out_port, out_group;
    struct be16 flags;
    uint8_t pad[2];
};
static_assert(sizeof(struct ofp_flow_mod) == 40, "wire layout");

enum {
    OFPRR_IDLE_TIMEOUT = 0,
    OFPRR_HARD_TIMEOUT = 1,
    OFPRR_DELETE = 2,
    OFPRR_GROUP_DELETE = 3,
    OFPRR_METER_DELETE = 4
};
struct ofp_flow_removed { /* then a match */
    struct be64 cookie;
    struct be16 priority;
    uint8_t reason, table_id;
    struct be32 duration_sec, duration_nsec;
    struct be16 idle_timeout, hard_timeout;
    struct be64 packet_count, byte_count;
};
static_assert(sizeof(struct ofp_flow_removed) == 40, "wire layout");

enum { OFPR_NO_MATCH = 0, OFPR_ACTION = 1, OFPR_INVALID_TTL = 2 };
struct ofp_packet_in { /* then a match, two bytes of padding, data */
    struct be32 buffer_id;
    struct be16 total_len;
    uint8_t reason, table_id;
    struct be64 cookie;
};
static_assert(sizeof(struct ofp_packet_in) == 16, "wire layout");

struct ofp_packet_out { /* then actions, then data */
    struct be32 buffer_id, in_port;
    struct be16 actions_len;
    uint8_t pad[6];
};
static_assert(sizeof(struct ofp_packet_out) == 16, "wire layout");

/* ---- groups and meters (7.3.4.2, 7.3.4.4) ---- */

#define OFPG_MAX 0xffffff00u
#define OFPG_ALL 0xfffffffcu
#define OFPG_ANY 0xffffffffu
enum { OFPGC_ADD = 0, OFPGC_MODIFY = 1, OFPGC_DELETE = 2 };
enum { OFPGT_ALL = 0, OFPGT_SELECT = 1, OFPGT_INDIRECT = 2, OFPGT_FF = 3 };
struct ofp_group_mod { /* then buckets */
    struct be16 command;
    uint8_t type, pad;
    struct be32 group_id;
};
struct ofp_bucket { /* then actions */
    struct be16 len, weight;
    struct be32 watch_port, watch_group;
    uint8_t pad[4];
};
static_assert(sizeof(struct ofp_group_mod) == 8 && sizeof(struct ofp_bucket) == 16, "wire layout");

#define OFPM_MAX 0xffff0000u
#define OFPM_SLOWPATH 0xfffffffdu
#define OFPM_CONTROLLER 0xfffffffeu
#define OFPM_ALL 0xffffffffu
enum { OFPMC_ADD = 0, OFPMC_MODIFY = 1, OFPMC_DELETE = 2 };
enum { OFPMF_KBPS = 1, OFPMF_PKTPS = 2, OFPMF_BURST = 4, OFPMF_STATS = 8 };
enum { OFPMBT_DROP = 1, OFPMBT_DSCP_REMARK = 2, OFPMBT_EXPERIMENTER = 0xffff };
struct ofp_meter_mod { /* then bands */
    struct be16 command, flags;
    struct be32 meter_id;
};
struct ofp_meter_band {
    struct be16 type, len;
    struct be32 rate, burst_size;
    uint8_t prec_level, pad[3]; /* drop: all padding */
};
static_assert(sizeof(struct ofp_meter_mod) == 8 && sizeof(struct ofp_meter_band) == 16, "wire layout");

/* ---- roles, async configuration, queues (7.3.9, 7.3.10, 7.3.6) ---- */

enum { OFPCR_ROLE_NOCHANGE = 0, OFPCR_ROLE_EQUAL = 1, OFPCR_ROLE_MASTER = 2, OFPCR_ROLE_SLAVE = 3 };
struct ofp_role_request {
    struct be32 role;
    uint8_t pad[4];
    struct be64 generation_id;
};
struct ofp_async_config { /* a bit per reason; [0] as master or equal, [1] as slave */
    struct be32 packet_in_mask[2], port_status_mask[2], flow_removed_mask[2];
};
static_assert(sizeof(struct ofp_role_request) == 16 && sizeof(struct ofp_async_config) == 24, "wire layout");

#define OFPQ_ALL 0xffffffffu
struct ofp_queue_get_config { /* request; the reply has queues behind it */
    struct be32 port;
    uint8_t pad[4];
};
static_assert(sizeof(struct ofp_queue_get_config) == 8, "wire layout");

/* ---- multipart (7.3.5) ---- */

enum { OFPMP_DESC = 0, OFPMP_FLOW = 1, OFPMP_AGGREGATE = 2, OFPMP_TABLE = 3, OFPMP_PORT_STATS = 4, OFPMP_QUEUE = 5 };
enum { OFPMP_GROUP = 6, OFPMP_GROUP_DESC = 7, OFPMP_GROUP_FEATURES = 8, OFPMP_METER = 9, OFPMP_METER_CONFIG = 10 };
enum { OFPMP_METER_FEATURES = 11, OFPMP_TABLE_FEATURES = 12, OFPMP_PORT_DESC = 13, OFPMP_EXPERIMENTER = 0xffff };
enum { OFPMPF_REQ_MORE = 1, OFPMPF_REPLY_MORE = 1 };
struct ofp_multipart { /* request and reply; then the body */
    struct be16 type, flags;
    uint8_t pad[4];
};
static_assert(sizeof(struct ofp_multipart) == 8, "wire layout");

struct ofp_desc {
    char mfr_desc[DESC_STR_LEN], hw_desc[DESC_STR_LEN], sw_desc[DESC_STR_LEN];
    char serial_num[SERIAL_NUM_LEN];
    char dp_desc[DESC_STR_LEN];
};
static_assert(sizeof(struct ofp_desc) == 1056, "wire layout");

struct ofp_flow_stats_request { /* and aggregate; then a match */
    uint8_t table_id, pad[3];
    struct be32 out_port, out_group;
    uint8_t pad2[4];
    struct be64 cookie, cookie_mask;
};
struct ofp_flow_stats { /* then a match, then instructions */
    struct be16 length;
    uint8_t table_id, pad;
    struct be32 duration_sec, duration_nsec;
    struct be16 priority, idle_timeout, hard_timeout, flags;
    uint8_t pad2[4];
    struct be64 cookie, packet_count, byte_count;
};
struct ofp_aggregate_stats {
    struct be64 packet_count, byte_count;
    struct be32 flow_count;
    uint8_t pad[4];
};
static_assert(sizeof(struct ofp_flow_stats_request) == 32 && sizeof(struct ofp_flow_stats) == 48 &&
                  sizeof(struct ofp_aggregate_stats) == 24,
              "wire layout");

struct ofp_table_stats {
    uint8_t table_id, pad[3];
    struct be32 active_count;
    struct be64 lookup_count, matched_count;
};
static_assert(sizeof(struct ofp_table_stats) == 24, "wire layout");

struct ofp_port_stats_request {
    struct be32 port_no; /* OFPP_ANY: all */
    uint8_t pad[4];
};
struct ofp_port_stats {
    struct be32 port_no;
    uint8_t pad[4];
    struct be64 rx_packets, tx_packets, rx_bytes, tx_bytes, rx_dropped, tx_dropped, rx_errors, tx_errors;
    struct be64 rx_frame_err, rx_over_err, rx_crc_err, collisions;
    struct be32 duration_sec, duration_nsec;
};
static_assert(sizeof(struct ofp_port_stats_request) == 8 && sizeof(struct ofp_port_stats) == 112, "wire layout");

struct ofp_queue_stats_request {
    struct be32 port_no, queue_id;
};
struct ofp_queue_stats {
    struct be32 port_no, queue_id;
    struct be64 tx_bytes, tx_packets, tx_errors;
    struct be32 duration_sec, duration_nsec;
};
static_assert(sizeof(struct ofp_queue_stats_request) == 8 && sizeof(struct ofp_queue_stats) == 40, "wire layout");

struct ofp_group_stats_request {
    struct be32 group_id; /* OFPG_ALL: all */
    uint8_t pad[4];
};
struct ofp_bucket_counter {
    struct be64 packet_count, byte_count;
};
struct ofp_group_stats { /* then a bucket_counter per bucket */
    struct be16 length;
    uint8_t pad[2];
    struct be32 group_id, ref_count;
    uint8_t pad2[4];
    struct be64 packet_count, byte_count;
    struct be32 duration_sec, duration_nsec;
};
struct ofp_group_desc { /* then buckets */
    struct be16 length;
    uint8_t type, pad;
    struct be32 group_id;
};
enum { OFPGFC_SELECT_WEIGHT = 1, OFPGFC_SELECT_LIVENESS = 2, OFPGFC_CHAINING = 4, OFPGFC_CHAINING_CHECKS = 8 };
struct ofp_group_features {
    struct be32 types, capabilities; /* 1 << OFPGT_*; OFPGFC_* */
    struct be32 max_groups[4], actions[4];
};
static_assert(sizeof(struct ofp_group_stats) == 40 && sizeof(struct ofp_group_desc) == 8 &&
                  sizeof(struct ofp_group_features) == 40 && sizeof(struct ofp_bucket_counter) == 16,
              "wire layout");

struct ofp_meter_request { /* meter statistics and configuration */
    struct be32 meter_id;  /* OFPM_ALL: all */
    uint8_t pad[4];
};
struct ofp_meter_band_stats {
    struct be64 packet_band_count, byte_band_count;
};
struct ofp_meter_stats { /* then a band_stats per band */
    struct be32 meter_id;
    struct be16 len;
    uint8_t pad[6];
    struct be32 flow_count;
    struct be64 packet_in_count, byte_in_count;
    struct be32 duration_sec, duration_nsec;
};
struct ofp_meter_config { /* then bands */
    struct be16 length, flags;
    struct be32 meter_id;
};
struct ofp_meter_features {
    struct be32 max_meter, band_types, capabilities; /* 1 << OFPMBT_*; OFPMF_* */
    uint8_t max_bands, max_color, pad[2];
};
static_assert(sizeof(struct ofp_meter_stats) == 40 && sizeof(struct ofp_meter_config) == 8 &&
                  sizeof(struct ofp_meter_features) == 16 && sizeof(struct ofp_meter_band_stats) == 16,
              "wire layout");

enum { OFPTFPT_INSTRUCTIONS = 0, OFPTFPT_INSTRUCTIONS_MISS = 1, OFPTFPT_NEXT_TABLES = 2, OFPTFPT_NEXT_TABLES_MISS = 3 };
enum { OFPTFPT_WRITE_ACTIONS = 4, OFPTFPT_WRITE_ACTIONS_MISS = 5, OFPTFPT_APPLY_ACTIONS = 6 };
enum { OFPTFPT_APPLY_ACTIONS_MISS = 7, OFPTFPT_MATCH = 8, OFPTFPT_WILDCARDS = 10, OFPTFPT_WRITE_SETFIELD = 12 };
enum { OFPTFPT_WRITE_SETFIELD_MISS = 13, OFPTFPT_APPLY_SETFIELD = 14, OFPTFPT_APPLY_SETFIELD_MISS = 15 };
enum { OFPTFPT_EXPERIMENTER = 0xfffe, OFPTFPT_EXPERIMENTER_MISS = 0xffff };
struct ofp_table_features { /* then properties, each with zeros to a multiple of 8 */
    struct be16 length;
    uint8_t table_id, pad[5];
    char name[OFP_MAX_TABLE_NAME_LEN];
    struct be64 metadata_match, metadata_write;
    struct be32 config, max_entries;
};
struct ofp_table_feature_prop {
    struct be16 type, length;
};
static_assert(sizeof(struct ofp_table_features) == 64 && sizeof(struct ofp_table_feature_prop) == 4, "wire layout");

/* ---- errors (7.4.4) ---- */

enum { OFPET_HELLO_FAILED = 0, OFPET_BAD_REQUEST = 1, OFPET_BAD_ACTION = 2, OFPET_BAD_INSTRUCTION = 3 };
enum { OFPET_BAD_MATCH = 4, OFPET_FLOW_MOD_FAILED = 5, OFPET_GROUP_MOD_FAILED = 6, OFPET_PORT_MOD_FAILED = 7 };
enum { OFPET_TABLE_MOD_FAILED = 8, OFPET_QUEUE_OP_FAILED = 9, OFPET_SWITCH_CONFIG_FAILED = 10 };
enum { OFPET_ROLE_REQUEST_FAILED = 11, OFPET_METER_MOD_FAILED = 12, OFPET_TABLE_FEATURES_FAILED = 13 };
enum { OFPET_EXPERIMENTER = 0xffff };
enum { ONFERR_DUP_INSTRUCTION = 2600 }; /* of the ONF: 1.3 has no code of its own for it */

enum { OFPHFC_INCOMPATIBLE = 0, OFPHFC_EPERM = 1 };

enum { OFPBRC_BAD_VERSION = 0, OFPBRC_BAD_TYPE = 1, OFPBRC_BAD_MULTIPART = 2, OFPBRC_BAD_EXPERIMENTER = 3 };
enum { OFPBRC_BAD_EXP_TYPE = 4, OFPBRC_EPERM = 5, OFPBRC_BAD_LEN = 6, OFPBRC_BUFFER_EMPTY = 7 };
enum { OFPBRC_BUFFER_UNKNOWN = 8, OFPBRC_BAD_TABLE_ID = 9, OFPBRC_IS_SLAVE = 10, OFPBRC_BAD_PORT = 11 };
enum { OFPBRC_BAD_PACKET = 12, OFPBRC_MULTIPART_BUFFER_OVERFLOW = 13 };

enum { OFPBAC_BAD_TYPE = 0, OFPBAC_BAD_LEN = 1, OFPBAC_BAD_EXPERIMENTER = 2, OFPBAC_BAD_EXP_TYPE = 3 };
enum { OFPBAC_BAD_OUT_PORT = 4, OFPBAC_BAD_ARGUMENT = 5, OFPBAC_EPERM = 6, OFPBAC_TOO_MANY = 7, OFPBAC_BAD_QUEUE = 8 };
enum { OFPBAC_BAD_OUT_GROUP = 9, OFPBAC_MATCH_INCONSISTENT = 10, OFPBAC_UNSUPPORTED_ORDER = 11, OFPBAC_BAD_TAG = 12 };
enum { OFPBAC_BAD_SET_TYPE = 13, OFPBAC_BAD_SET_LEN = 14, OFPBAC_BAD_SET_ARGUMENT = 15 };

enum { OFPBIC_UNKNOWN_INST = 0, OFPBIC_UNSUP_INST = 1, OFPBIC_BAD_TABLE_ID = 2, OFPBIC_UNSUP_METADATA = 3 };
enum { OFPBIC_UNSUP_METADATA_MASK = 4, OFPBIC_BAD_EXPERIMENTER = 5, OFPBIC_BAD_EXP_TYPE = 6, OFPBIC_BAD_LEN = 7 };
enum { OFPBIC_EPERM = 8 };

enum { OFPBMC_BAD_TYPE = 0, OFPBMC_BAD_LEN = 1, OFPBMC_BAD_TAG = 2, OFPBMC_BAD_DL_ADDR_MASK = 3 };
enum { OFPBMC_BAD_NW_ADDR_MASK = 4, OFPBMC_BAD_WILDCARDS = 5, OFPBMC_BAD_FIELD = 6, OFPBMC_BAD_VALUE = 7 };
enum { OFPBMC_BAD_MASK = 8, OFPBMC_BAD_PREREQ = 9, OFPBMC_DUP_FIELD = 10, OFPBMC_EPERM = 11 };

enum { OFPFMFC_UNKNOWN = 0, OFPFMFC_TABLE_FULL = 1, OFPFMFC_BAD_TABLE_ID = 2, OFPFMFC_OVERLAP = 3, OFPFMFC_EPERM = 4 };
enum { OFPFMFC_BAD_TIMEOUT = 5, OFPFMFC_BAD_COMMAND = 6, OFPFMFC_BAD_FLAGS = 7 };

enum { OFPGMFC_GROUP_EXISTS = 0, OFPGMFC_INVALID_GROUP = 1, OFPGMFC_WEIGHT_UNSUPPORTED = 2 };
enum { OFPGMFC_OUT_OF_GROUPS = 3, OFPGMFC_OUT_OF_BUCKETS = 4, OFPGMFC_CHAINING_UNSUPPORTED = 5 };
enum { OFPGMFC_WATCH_UNSUPPORTED = 6, OFPGMFC_LOOP = 7, OFPGMFC_UNKNOWN_GROUP = 8, OFPGMFC_CHAINED_GROUP = 9 };
enum { OFPGMFC_BAD_TYPE = 10, OFPGMFC_BAD_COMMAND = 11, OFPGMFC_BAD_BUCKET = 12, OFPGMFC_BAD_WATCH = 13 };
enum { OFPGMFC_EPERM = 14 };

enum { OFPPMFC_BAD_PORT = 0, OFPPMFC_BAD_HW_ADDR = 1, OFPPMFC_BAD_CONFIG = 2, OFPPMFC_BAD_ADVERTISE = 3 };
enum { OFPPMFC_EPERM = 4 };

enum { OFPTMFC_BAD_TABLE = 0, OFPTMFC_BAD_CONFIG = 1, OFPTMFC_EPERM = 2 };
enum { OFPQOFC_BAD_PORT = 0, OFPQOFC_BAD_QUEUE = 1, OFPQOFC_EPERM = 2 };
enum { OFPSCFC_BAD_FLAGS = 0, OFPSCFC_BAD_LEN = 1, OFPSCFC_EPERM = 2 };
enum { OFPRRFC_STALE = 0, OFPRRFC_UNSUP = 1, OFPRRFC_BAD_ROLE = 2 };

enum { OFPMMFC_UNKNOWN = 0, OFPMMFC_METER_EXISTS = 1, OFPMMFC_INVALID_METER = 2, OFPMMFC_UNKNOWN_METER = 3 };
enum { OFPMMFC_BAD_COMMAND = 4, OFPMMFC_BAD_FLAGS = 5, OFPMMFC_BAD_RATE = 6, OFPMMFC_BAD_BURST = 7 };
enum { OFPMMFC_BAD_BAND = 8, OFPMMFC_BAD_BAND_VALUE = 9, OFPMMFC_OUT_OF_METERS = 10, OFPMMFC_OUT_OF_BANDS = 11 };

enum { OFPTFFC_BAD_TABLE = 0, OFPTFFC_BAD_METADATA = 1, OFPTFFC_BAD_TYPE = 2, OFPTFFC_BAD_LEN = 3 };
enum { OFPTFFC_BAD_ARGUMENT = 4, OFPTFFC_EPERM = 5 };

#endif
