/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an operator asked bridges, ports and virtual network cards to be: the parameters of bridge.add, port.add and
 * vif.attach, and what is saved. One reader checks both. What it returns are the fields that were given, and nothing
 * else: that is what is saved, and what the switch is told each time it starts.
 *
 * What is text for the switch alone (flows, matches) is only bounded here, so that it fits a message of the link.
 */
#ifndef CONTROL_NETWORK_CONFIG_H
#define CONTROL_NETWORK_CONFIG_H

#include "control/fields.h"

#define NETWORK_NAME_MAX 31 /* a port's, in the switch (port/port.h) */
#define NETWORK_PORT_NUMBER_MAX 0xfffffeffu
#define NETWORK_QUEUES_MAX 16u
#define NETWORK_MTU_MIN 68u
#define NETWORK_MTU_MAX 65535u
#define NETWORK_ALLOWED_MACS_MAX 16u /* of a card; the switch's own, as below */
#define NETWORK_ALLOWED_IPS_MAX 64u
#define NETWORK_MAC_AGEING_MAX 86400u
#define NETWORK_PROBE_MAX 3600u /* seconds */
#define NETWORK_SNAPLEN_MAX 262144u
#define NETWORK_CONTROLLERS_MAX 16u /* of a bridge */
/* The switch's own bounds (cmd/switch_net.c compares): options that it refuses would be saved, and there were no networks. */
#define NETWORK_FLOWS_MAX 1000000u
#define NETWORK_MASKS_MAX 65536u
#define NETWORK_EMC_MAX (1u << 24)
#define NETWORK_VIF_THREADS_MAX 256u
#define NETWORK_EMC_RULE "a power of two from 2 to 16777216, or 0"

enum network_kind { NETWORK_BRIDGE, NETWORK_PORT, NETWORK_VIF };
#define NETWORK_KINDS 3
const char *network_kind_name(enum network_kind kind); /* "bridge", "port", "vif" */

/* By the rule of disks' names (it becomes a file name), but shorter, and nothing that flows mean something by. */
bool network_name_valid(const char *name);
#define NETWORK_NAME_RULE                                                                                              \
    "1 to 31 letters, digits, '.', '_' or '-', beginning with a letter or digit; not a number, and not a word for a "  \
    "port"
/* The field `key`, required. */
const char *network_name_field(struct fields *f, const char *key);

/* A new reference in *out: what was given, checked. 0, -EINVAL with the reason in why, or -ENOMEM. */
int network_config_parse(json_t **out, enum network_kind kind, json_t *object, const char *where,
                         struct field_error *why);
/* What bridge.set, port.set and vif.set may change: `changes` (with "name", and "bridge" for ports) applied to an item's configuration,
 * which is not touched. */
int network_config_change(json_t **out, enum network_kind kind, json_t *config, json_t *changes, const char *where,
                          struct field_error *why);

/* Where the files are that TLS with controllers takes: "key", "certificate", "ca"; absolute paths, all three. */
int network_tls_parse(json_t **out, json_t *object, const char *where, struct field_error *why);
/* 1 to 16 hexadecimal digits, with or without 0x, that are not all 0. */
bool network_datapath_id_valid(const char *text);

/* The switch's own options (of `configure`). */
bool network_emc_valid(uint64_t entries);
int network_options_parse(json_t **out, json_t *object, const char *where, struct field_error *why);

/* Flow text and the like: 1 to max_bytes printable ASCII characters; fallback as fields_string(). */
const char *network_text_field(struct fields *f, const char *key, const char *fallback, size_t max_bytes);
bool network_text_valid(const char *text);
bool network_range_valid(const char *text); /* "192.0.2.1", "2001:db8::/32" */

#endif
