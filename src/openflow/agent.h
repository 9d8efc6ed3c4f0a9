/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bridge's OpenFlow agent: all connections of one bridge, and what they ask.
 *
 * Thread-safety: the control thread; packets for controllers come from datapath threads through a bounded queue per port.
 */
#ifndef OPENFLOW_AGENT_H
#define OPENFLOW_AGENT_H

#include "loop/loop.h"
#include "openflow/conn.h" /* OF_OUTPUT_*_BYTES: what may be queued for a peer */
#include "openflow/tls.h"
#include "switch/group.h"
#include "switch/meter.h"
#include "switch/switch.h"

#define OF_CONNECTIONS_MAX 64u          /* of a bridge */
#define OF_CONNECTIONS_KEPT 8u          /* of them only for those that the switch begins */
#define OF_PACKET_INS_QUEUED_MAX 256u   /* of a port, on their way to the control thread */
#define OF_PACKET_IN_RATE_DEFAULT 1000u /* a second, of a port */
#define OF_BUFFERS_MAX 256u             /* packets kept for a controller that was sent their head */

struct of_agents; /* of a process: what its bridges' agents share */
struct of_agent;

enum of_change {
    OF_FLOW_ADD,
    OF_FLOW_MODIFY,
    OF_FLOW_MODIFY_STRICT,
    OF_FLOW_DELETE,
    OF_FLOW_DELETE_STRICT,
    OF_GROUP_ADD,
    OF_GROUP_MODIFY,
    OF_GROUP_DELETE,
    OF_METER_ADD,
    OF_METER_MODIFY,
    OF_METER_DELETE,
    OF_PORT_CONFIG,
    OF_TABLE_CONFIG
};

/* Who makes changes outlive the process. Each was carried out when it is noted; commit() is called before an answer (a barrier's
 * reply, or any other) could tell that it was. Members may be NULL. */
struct of_keeper {
    void (*flow)(void *arg, enum of_change change, const struct flow_spec *f);
    void (*group)(void *arg, enum of_change change, const struct group_spec *g);
    void (*meter)(void *arg, enum of_change change, const struct meter_spec *m);
    void (*port)(void *arg, uint32_t port, uint32_t config, uint32_t mask); /* OFPPC_* */
    void (*table)(void *arg, unsigned table, uint32_t config);              /* OFPTC_*; SWITCH_TABLE_ALL: all */
    /* Any flow that goes, whatever for, as bridge_on_flow_gone() has it, which the agent takes. */
    void (*flow_gone)(void *arg, const struct flow_spec *f, enum flow_gone why);
    void (*commit)(void *arg);
    void *arg;
};

struct of_agent_args {
    struct loop *loop;
    struct bridge *bridge;
    const struct flow_names *names; /* of ports; outlives the agent */
    uint64_t datapath_id;
    struct of_keeper keeper;
    const uint32_t *table_config;      /* OFPTC_*, of each table, to begin with; NULL: all 0 */
    unsigned packet_in_rate;           /* a second, of a port; 0: OF_PACKET_IN_RATE_DEFAULT */
    const char *description, *version; /* of the bridge, of the software; may be NULL; outlive the agent */
};

/* One for a switch: takes its packet-ins (switch_on_packet_in). */
int of_agents_new(struct of_agents **out, struct net_switch *s, struct loop *loop);
void of_agents_free(struct of_agents *all); /* all agents must be gone */

int of_agent_new(struct of_agent **out, struct of_agents *all, const struct of_agent_args *args, struct errmsg *e);
void of_agent_free(struct of_agent *a); /* ends its connections */
/* Its connections end, and may be made anew. */
void of_agent_set_datapath_id(struct of_agent *a, uint64_t datapath_id);

enum of_peer {
    OF_PEER_CONTROLLER, /* told of packets, ports and flows as it asks */
    OF_PEER_SERVICE,    /* a tool at BRIDGE.mgmt: told of nothing until it asks to be */
    OF_PEER_SNOOP,      /* hears what is said to and by controllers */
};
struct of_connection_args {
    int fd;             /* connected, non-blocking; taken over, whatever happens */
    struct of_tls *tls; /* NULL: none; outlives the connection */
    bool tls_client;    /* the switch began the connection */
    enum of_peer peer;
    const char *name; /* for people */
    unsigned echo_s;  /* idle seconds before an echo request, as many again without a reply end it; 0: 15 */
    void (*established)(void *arg); /* hello and, for a controller, features were exchanged; may be NULL */
    void (*ended)(void *arg, const char *reason); /* it is gone; may be NULL; not called by of_agent_free() */
    void *arg;
};
/* 0 or -errno. Its functions are called from the loop; they may begin connections, and may not free the agent. */
int of_agent_connect(struct of_agent *a, const struct of_connection_args *c, struct errmsg *e);

/* End the connection that has this arg: nothing that it says is heard any more. ended() comes from the loop. */
void of_agent_disconnect(struct of_agent *a, const void *arg, const char *reason);

/* Packets for controllers that never reached the control thread: over a port's rate or bounds. */
uint64_t of_agent_dropped(const struct of_agent *a);

/* Standalone bridges: whether a controller that is no tool is established. The owner adds or removes the NORMAL flow by it. */
unsigned of_agent_controllers(const struct of_agent *a);

struct of_connection_info {
    const char *name, *role, *state; /* "master", "slave", "equal"; "connecting", "established" */
    enum of_peer peer;
    bool tls;
    uint64_t received, sent, packet_ins, packet_ins_dropped, since_ns;
};
void of_agent_each(struct of_agent *a, void (*visit)(void *arg, const struct of_connection_info *c), void *arg);

#endif
