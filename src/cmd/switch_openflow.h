/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between switch_openflow.c (a bridge's agent) and switch_controllers.c (its connections).
 *
 * Thread-safety: everything here runs on the control thread.
 */
#ifndef CMD_SWITCH_OPENFLOW_H
#define CMD_SWITCH_OPENFLOW_H

#include "cmd/switch_net.h"

/* ---- connections and sockets (switch_controllers.c) ---- */

/* Is one of the controllers there that the bridge goes to itself? */
bool net_is_controlled(const struct net_bridge *b);
/* Of all targets but those of the list: the connections, and the sockets at which they are to come, end. */
void net_controllers_keep(struct net_bridge *b, const json_t *targets);
void net_peers_free(struct net_bridge *b); /* the agent has gone */
/* A socket at which others connect. fd is taken over. */
int net_listener_new(struct net_bridge *b, const char *target, int fd, enum of_peer peer, bool tls, struct errmsg *e);
/* Those that had to pause. */
void net_listeners_resume(struct net_bridge *b);
void net_listeners_free(struct net_bridge *b);

/* ---- what the bridge does without its controllers (switch_openflow.c) ---- */

/* A controller is not there any more; one is there. */
void net_alone_begin(struct net_bridge *b);
void net_alone_end(struct net_bridge *b);

#endif
