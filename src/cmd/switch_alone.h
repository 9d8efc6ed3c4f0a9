/* SPDX-License-Identifier: Apache-2.0 */
/* OpenFlow's sockets and connections of a switch without a daemon. */
#ifndef CMD_SWITCH_ALONE_H
#define CMD_SWITCH_ALONE_H

#include "cmd/switch_net.h"
#include "cmd/switch_options.h"

struct alone;

struct alone *alone_new(void); /* NULL: out of memory */
/* Before net_quit(). Harmless on NULL. */
void alone_free(struct alone *a);
/* For the net's keeper; arg is the struct alone. */
void alone_controller(void *arg, const char *bridge, const char *target, const char *state, const char *why);
/* Sockets for tools, to go along with bridge.add: names and descriptors into m. */
int alone_tools(struct link_msg *m, const struct switch_options *o, const char *bridge, struct errmsg *e);
/* TLS and controllers of the options; bridges are there. 0 or -errno. */
int alone_begin(struct alone *a, struct net *n, const struct switch_options *o, struct errmsg *e);
/* The network is settled: connect. */
void alone_dial(struct alone *a);

#endif
