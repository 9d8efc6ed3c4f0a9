/* SPDX-License-Identifier: Apache-2.0 */
/* The methods of the control socket, by topic; the table is in methods.c. */
#ifndef CONTROL_METHODS_H
#define CONTROL_METHODS_H

#include "control/daemon.h"
#include "control/vdisk.h"

void method_disk_attach(void *arg, struct rpc_call *call, json_t *params);
void method_disk_detach(void *arg, struct rpc_call *call, json_t *params);
void method_disk_list(void *arg, struct rpc_call *call, json_t *params);
void method_disk_show(void *arg, struct rpc_call *call, json_t *params);
void method_disk_resize(void *arg, struct rpc_call *call, json_t *params);
void method_disk_stats(void *arg, struct rpc_call *call, json_t *params);
void method_cache_show(void *arg, struct rpc_call *call, json_t *params);
void method_cache_set(void *arg, struct rpc_call *call, json_t *params);
void method_cache_drop(void *arg, struct rpc_call *call, json_t *params);
void method_bridge_add(void *arg, struct rpc_call *call, json_t *params);
void method_bridge_del(void *arg, struct rpc_call *call, json_t *params);
void method_bridge_list(void *arg, struct rpc_call *call, json_t *params);
void method_bridge_show(void *arg, struct rpc_call *call, json_t *params);
void method_port_add(void *arg, struct rpc_call *call, json_t *params);
void method_port_del(void *arg, struct rpc_call *call, json_t *params);
void method_port_set(void *arg, struct rpc_call *call, json_t *params);
void method_port_list(void *arg, struct rpc_call *call, json_t *params);
void method_port_stats(void *arg, struct rpc_call *call, json_t *params);
void method_vif_attach(void *arg, struct rpc_call *call, json_t *params);
void method_vif_detach(void *arg, struct rpc_call *call, json_t *params);
void method_vif_set(void *arg, struct rpc_call *call, json_t *params);
void method_vif_list(void *arg, struct rpc_call *call, json_t *params);
void method_vif_stats(void *arg, struct rpc_call *call, json_t *params);
void method_net_stats(void *arg, struct rpc_call *call, json_t *params);
void method_flow_add(void *arg, struct rpc_call *call, json_t *params);
void method_flow_mod(void *arg, struct rpc_call *call, json_t *params);
void method_flow_del(void *arg, struct rpc_call *call, json_t *params);
void method_flow_dump(void *arg, struct rpc_call *call, json_t *params);
void method_flow_trace(void *arg, struct rpc_call *call, json_t *params);
void method_megaflow_dump(void *arg, struct rpc_call *call, json_t *params);
void method_megaflow_stats(void *arg, struct rpc_call *call, json_t *params);
void method_runner_stats(void *arg, struct rpc_call *call, json_t *params);
void method_mac_show(void *arg, struct rpc_call *call, json_t *params);
void method_mac_flush(void *arg, struct rpc_call *call, json_t *params);
void method_capture_start(void *arg, struct rpc_call *call, json_t *params);
void method_capture_stop(void *arg, struct rpc_call *call, json_t *params);
void method_switch_set(void *arg, struct rpc_call *call, json_t *params);
void method_controller_add(void *arg, struct rpc_call *call, json_t *params);
void method_controller_del(void *arg, struct rpc_call *call, json_t *params);
void method_controller_list(void *arg, struct rpc_call *call, json_t *params);
void method_bridge_set(void *arg, struct rpc_call *call, json_t *params);
void method_tls_set(void *arg, struct rpc_call *call, json_t *params);
void method_tls_del(void *arg, struct rpc_call *call, json_t *params);
void method_tls_show(void *arg, struct rpc_call *call, json_t *params);
void method_group_add(void *arg, struct rpc_call *call, json_t *params);
void method_group_mod(void *arg, struct rpc_call *call, json_t *params);
void method_group_del(void *arg, struct rpc_call *call, json_t *params);
void method_group_dump(void *arg, struct rpc_call *call, json_t *params);
void method_meter_add(void *arg, struct rpc_call *call, json_t *params);
void method_meter_mod(void *arg, struct rpc_call *call, json_t *params);
void method_meter_del(void *arg, struct rpc_call *call, json_t *params);
void method_meter_dump(void *arg, struct rpc_call *call, json_t *params);
void method_policy_add(void *arg, struct rpc_call *call, json_t *params);
void method_policy_del(void *arg, struct rpc_call *call, json_t *params);
void method_policy_list(void *arg, struct rpc_call *call, json_t *params);
void method_policy_show(void *arg, struct rpc_call *call, json_t *params);
void method_upgrade(void *arg, struct rpc_call *call, json_t *params);
void method_shutdown(void *arg, struct rpc_call *call, json_t *params);

/* No parameters are expected: true, or answered with what is wrong. */
bool method_no_params(struct rpc_call *call, json_t *params);
/* The disk that a "name" field asks for; NULL: answered with what is wrong. Other fields end up in *f, to be read
 * before this is called. */
struct vdisk *method_find_disk(struct daemon *d, struct rpc_call *call, struct fields *f);

#endif
