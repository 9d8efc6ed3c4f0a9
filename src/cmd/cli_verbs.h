/* SPDX-License-Identifier: Apache-2.0 */
/* Every verb, defined in the cli_*.c of its topic; creedence.c lists them. */
#ifndef CMD_CLI_VERBS_H
#define CMD_CLI_VERBS_H

#include "cmd/cli.h"

extern const struct cli_verb cli_image_create, cli_image_clone, cli_image_info, cli_image_check;
extern const struct cli_verb cli_disk_attach, cli_disk_detach, cli_disk_list, cli_disk_show, cli_disk_resize,
    cli_disk_stats;
extern const struct cli_verb cli_cache_show, cli_cache_set, cli_cache_drop;
extern const struct cli_verb cli_bridge_add, cli_bridge_del, cli_bridge_list, cli_bridge_show;
extern const struct cli_verb cli_port_add, cli_port_del, cli_port_set, cli_port_list, cli_port_stats;
extern const struct cli_verb cli_vif_attach, cli_vif_detach, cli_vif_set, cli_vif_list, cli_vif_stats;
extern const struct cli_verb cli_flow_add, cli_flow_mod, cli_flow_del, cli_flow_dump, cli_flow_trace;
extern const struct cli_verb cli_megaflow_dump, cli_megaflow_stats, cli_mac_show, cli_mac_flush, cli_capture_verb;
extern const struct cli_verb cli_bridge_set, cli_controller_add, cli_controller_del, cli_controller_list, cli_tls_set,
    cli_tls_show, cli_tls_del;
extern const struct cli_verb cli_group_add, cli_group_mod, cli_group_del, cli_group_dump, cli_meter_add, cli_meter_mod,
    cli_meter_del, cli_meter_dump;
extern const struct cli_verb cli_policy_add, cli_policy_del, cli_policy_list, cli_policy_show;
extern const struct cli_verb cli_switch_set;
extern const struct cli_verb cli_status, cli_top, cli_version, cli_upgrade, cli_shutdown;
extern const struct cli_verb cli_debug_status, cli_debug_on, cli_debug_off;
extern const struct cli_verb cli_completion;

#endif
