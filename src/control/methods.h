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
void method_upgrade(void *arg, struct rpc_call *call, json_t *params);
void method_shutdown(void *arg, struct rpc_call *call, json_t *params);

/* No parameters are expected: true, or answered with what is wrong. */
bool method_no_params(struct rpc_call *call, json_t *params);
/* The disk that a "name" field asks for; NULL: answered with what is wrong. Other fields end up in *f, to be read
 * before this is called. */
struct vdisk *method_find_disk(struct daemon *d, struct rpc_call *call, struct fields *f);

#endif
