/* SPDX-License-Identifier: Apache-2.0 */
/* What the methods on networks share. */
#ifndef CONTROL_METHODS_NETWORK_H
#define CONTROL_METHODS_NETWORK_H

#include "control/methods.h"
#include "control/network.h"

/* Answer with what the switch said was wrong; what: what it is about, "": the message says it. */
void network_fail(struct network *n, struct rpc_call *call, const char *what, const struct peer_answer *a);
/* Answer that it cannot be asked, and what to do. */
void network_not_up(struct network *n, struct rpc_call *call);
/* The item of that name; NULL: answered that there is none. */
struct network_item *network_need(struct network *n, struct rpc_call *call, enum network_kind kind, const char *name);
/* Nothing goes on about it: true, or answered that it does. */
bool network_is_free(struct network_item *i, struct rpc_call *call);
/* Ask the switch to make it what config says (NULL: it is to go), then that is saved, and answered. Both are stolen. */
void network_change(struct network_item *i, struct rpc_call *call, const char *method, json_t *params, json_t *config);
/* A request with a list of texts, "bridge" and "strict", and one with "bridge" and a page: checked and handed on. */
void network_change_texts(struct daemon *d, struct rpc_call *call, json_t *params, const char *method, const char *key);
void network_named_page(struct daemon *d, struct rpc_call *call, json_t *params, const char *method,
                        enum network_kind kind); /* "vif" or "bridge" */
void network_page(struct daemon *d, struct rpc_call *call, json_t *params, const char *method);

#endif
