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

#endif
