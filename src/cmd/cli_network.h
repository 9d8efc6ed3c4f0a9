/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs on networks (cli_bridge.c, cli_vif.c) share. */
#ifndef CMD_CLI_NETWORK_H
#define CMD_CLI_NETWORK_H

#include "cmd/cli_verbs.h"
#include "control/network_config.h"

enum {
    OPT_FAIL_MODE = CLI_OPT,
    OPT_MAC_AGEING,
    OPT_TYPE,
    OPT_DEVICE,
    OPT_NUMBER,
    OPT_QUEUES,
    OPT_VLAN_MODE,
    OPT_TAG,
    OPT_TRUNKS,
    OPT_MTU,
    OPT_GRO,
    OPT_MAC,
    OPT_SOCKET_PATH,
    OPT_PACKED,
    OPT_IN_ORDER,
    OPT_OFFLOADS,
    OPT_RATE_IN,
    OPT_RATE_OUT,
    OPT_ALLOWED_MAC,
    OPT_ALLOWED_IP,
    OPT_LINK,
    OPT_ANNOUNCE,
    OPT_FORCE,
    OPT_NAMES,
    OPT_BRIDGE,
    OPT_FLOWS,
    OPT_EXACT_MAX,
    OPT_EMC,
    OPT_MEGAFLOWS_MAX,
    OPT_MASKS_MAX,
    OPT_VIF_THREADS,
    OPT_TX,
    OPT_POLL_US,
    OPT_DATAPATH_ID,
    OPT_PROBE,
    OPT_NAME,
    OPT_KEY,
    OPT_CERT,
    OPT_CA,
};

extern const struct option net_list_options[]; /* of lists: --names, --bridge */

/* Into parameters that are being made; numbers from optarg. */
void net_set_string(json_t *o, const char *key, const char *text);
void net_set_number(struct cli *c, json_t *o, const char *key, const char *option, uint64_t min, uint64_t max);
void net_add_to_list(json_t *o, const char *key);
void net_bridge_option(struct cli *c, int opt, json_t *o);
/* What ports and cards have in common. True: it was one of these. */
bool net_port_option(struct cli *c, int opt, json_t *o);

/* Calls (params are stolen), and prints the answer as JSON if that is wanted: then, and on failure, *result is NULL. */
int net_ask(struct cli *c, const char *method, json_t *params, json_t **result);
/* As that, and prints `done` instead of the answer. */
int net_ask_and_say(struct cli *c, const char *method, json_t *params, const char *done);

/* A whole verb: a list (names only, or a table by print(), or `nothing`), and counters of one or of all. */
int net_list(struct cli *c, const char *method, const char *key, void (*print)(json_t *list), const char *nothing);
int net_stats(struct cli *c, const char *method, const char *key);

const char *net_dash(const char *text); /* "-" for "" */
void net_number_cell(struct cli_table *t, json_t *o, const char *key);
void net_print_ports(json_t *list);
void net_print_vifs(json_t *list);
/* Under a list: what is wrong with its entries, and with the answer (may be NULL). */
void net_print_errors(json_t *result, json_t *list);

#endif
