/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flow switch: bridges with ports, tables of flows, and the caches that make it fast.
 *
 *     runner thread --switch_input--> key -> exact-match cache -> megaflows -> translation (tables) -> actions -> port_send
 *                                     extract.h    cache.h                     translate.h, table.h    execute.h
 *
 * One switch serves all bridges of a process. Tables have one writer, the control thread, and readers that take no lock:
 * the runner threads, each with caches of its own. What the writer takes away is freed when every thread has
 * passed a quiescent state. A change is *acknowledged* by switch_barrier(): when it returns no thread forwards any
 * packet by the state before.
 *
 * Thread-safety: switch_* on the control thread, except switch_input() and the other sink functions (runner threads) and
 * statistics (any).
 */
#ifndef SWITCH_SWITCH_H
#define SWITCH_SWITCH_H

#include "port/source.h"
#include "switch/flow.h"

#define SWITCH_BRIDGES_MAX 256u
#define SWITCH_PORTS_MAX 8192u /* of all bridges */
#define SWITCH_FLOWS_MAX_DEFAULT 1000000u
#define SWITCH_FLOW_ACTIONS_MAX 8000000u /* of all flows of a bridge */

struct net_switch;
struct bridge;
struct flow_list;
struct guard;
struct policy;
struct switch_port;

enum switch_flows {
    SWITCH_FLOWS_MEGA,  /* exact-match cache, megaflows, translation */
    SWITCH_FLOWS_EXACT, /* the 6.2 design, for comparison: one bounded table with an entry per connection */
};

struct switch_config {
    enum switch_flows flows;
    unsigned exact_max;     /* entries of the bounded table of SWITCH_FLOWS_EXACT */
    unsigned megaflows_max; /* of a thread */
    unsigned masks_max;     /* of a port: further megaflows of it get its full mask */
    unsigned emc_entries;   /* of a thread; a power of two; 0: none */
    /* What a port's new flows may take of a round of a thread that others send to, too (switch/quota.h); 0: no limit. */
    unsigned new_flows_ns;
};
void switch_config_default(struct switch_config *c);

int switch_new(struct net_switch **out, const struct switch_config *c);
/* Runners must be gone. */
void switch_free(struct net_switch *s);

/* For runners: gives each its caches. */
const struct runner_sink *switch_sink(struct net_switch *s);

/* Return when nothing is forwarded by what was before. */
void switch_barrier(struct net_switch *s);

/* ---- bridges and ports ---- */

enum bridge_fail { BRIDGE_STANDALONE, BRIDGE_SECURE }; /* a new bridge's table 0: one NORMAL flow, or none */

/* "creedenc": the cookie of that flow, by which it is told from those that others wrote. */
#define SWITCH_COOKIE_OWN UINT64_C(0x6372656564656e63)

/* -EEXIST, -ENOSPC, -ENOMEM. */
int bridge_new(struct bridge **out, struct net_switch *s, const char *name, enum bridge_fail fail, struct errmsg *e);
void bridge_free(struct bridge *b); /* its ports must have been removed */
struct bridge *bridge_find(struct net_switch *s, const char *name);
uint16_t bridge_number(const struct bridge *b); /* what flow_key.bridge has */
void bridge_set_mac_ageing(struct bridge *b, unsigned seconds, unsigned max_entries);

enum vlan_mode { VLAN_TRUNK, VLAN_ACCESS, VLAN_NATIVE_TAGGED, VLAN_NATIVE_UNTAGGED };
struct switch_port_config {
    enum vlan_mode vlan_mode;
    uint16_t tag;        /* of ACCESS and NATIVE_* */
    uint64_t trunks[64]; /* a bit per VLAN; all zero: every VLAN */
    bool no_flood;
    /* What it may send (switch/guard.h), NULL: anything. It outlives the barrier that follows its replacement. */
    const struct guard *guard;
    const struct policy *policy; /* what it may send and be sent (switch/policy.h), NULL: anything; likewise */
};

/* number: OpenFlow port number, 0: the lowest that is free. Only then may its sources be added to a runner. */
int bridge_add_port(struct bridge *b, struct port *p, uint32_t number, const struct switch_port_config *c,
                    struct switch_port **out, struct errmsg *e);
/* When it returns no thread sends to the port or holds it; its sources must have been removed from their runners. */
void bridge_remove_port(struct switch_port *sp);
void switch_port_set(struct switch_port *sp, const struct switch_port_config *c);
uint32_t switch_port_number(const struct switch_port *sp);
struct switch_port *bridge_port(struct bridge *b, uint32_t number);

/* ---- flows ---- */

/* All: 0 or -errno with the reason; nothing has changed then. *why (may be NULL): which of OpenFlow's errors it is, FLOW_RIGHT if none
 * (there was no memory). What changed counts for packets from switch_barrier() on at the latest. The specification is copied. */
int bridge_flow_add(struct bridge *b, const struct flow_spec *f, enum flow_wrong *why,
                    struct errmsg *e); /* replaces one of the same match and priority */
/* Non-strict: every flow that f's match covers. *changed (may be NULL): how many. */
int bridge_flow_modify(struct bridge *b, const struct flow_spec *f, bool strict, unsigned *changed,
                       enum flow_wrong *why, struct errmsg *e);
int bridge_flow_delete(struct bridge *b, const struct flow_spec *f, bool strict, unsigned *changed,
                       enum flow_wrong *why, struct errmsg *e);

enum flow_gone { FLOW_GONE_IDLE, FLOW_GONE_HARD, FLOW_GONE_DELETED, FLOW_GONE_GROUP, FLOW_GONE_METER };
struct flow_stats {
    uint64_t packets, bytes;
    uint64_t duration_ns, idle_ns;
};
/* Every flow that is covered by the selection, by table, then falling priority, then age. */
void bridge_flow_each(struct bridge *b, const struct flow_spec *selection,
                      void (*visit)(void *arg, const struct flow_spec *f, const struct flow_stats *s), void *arg);
unsigned bridge_flow_count(const struct bridge *b); /* of all tables */
/* The same flows, to be taken piece by piece however long that takes: a list of those that are there now; one that is removed
 * meanwhile is passed over, and in the place of one that is replaced stands its successor. Counters are as of the call, or later. To be freed
 * before its bridge. NULL: no memory, or lists take too much. */
struct flow_list *bridge_flow_list(struct bridge *b, const struct flow_spec *selection);
/* False: that was the last. The specification's actions are good until the next call. */
bool flow_list_next(struct flow_list *l, struct flow_spec *f, struct flow_stats *s);
void flow_list_free(struct flow_list *l);
/* Told of flows that go (for OpenFlow, and for who saves them). May be NULL. Of flows that were deleted without FLOW_SEND_REMOVED
 * the counts may be a second old. */
void bridge_on_flow_gone(struct bridge *b,
                         void (*gone)(void *arg, const struct flow_spec *f, const struct flow_stats *s,
                                      enum flow_gone why),
                         void *arg);
/* Time-outs, MAC ageing: to be called about once a second. */
void switch_tick(struct net_switch *s, uint64_t now_ns);
/* The links of bridges whose groups watch ports, which cannot wait that long: to be called many times a second as long as it returns
 * true. */
bool switch_watch_links(struct net_switch *s);

/* A packet for the controller, on a runner thread; data is good during the call. May be NULL: such packets are dropped. */
struct packet_in {
    struct bridge *bridge;
    uint8_t reason; /* OFPR_NO_MATCH 0, OFPR_ACTION 1, OFPR_INVALID_TTL 2 */
    uint8_t table;
    uint64_t cookie;
    struct flow_key key;
    struct packet *packet;
    uint16_t max_len;
};
void switch_on_packet_in(struct net_switch *s, void (*received)(void *arg, const struct packet_in *in), void *arg);

/* A packet that a controller sends: carried out before it returns, like what a datapath thread does (what it has for a controller is
 * given to switch_on_packet_in()'s function on this thread). in_port: SWITCH_PORT_MAX at most, or SWITCH_PORT_CONTROLLER, SWITCH_PORT_LOCAL,
 * SWITCH_PORT_ANY; an output to SWITCH_PORT_TABLE takes it through the tables. 0; -ENXIO: such an in_port there is not; -EBADMSG: the data
 * is no frame; -EINVAL: the actions, *why (may be NULL); -ENOMEM. */
int bridge_packet_out(struct bridge *b, uint32_t in_port, const struct action_list *actions, const void *data,
                      size_t bytes, enum flow_wrong *why, struct errmsg *e);

/* ---- for OpenFlow ---- */

struct table_stats {
    unsigned active;
    uint64_t lookups, matched; /* a thousandth of a second late at most */
};
void bridge_table_stats(struct bridge *b, uint8_t table, struct table_stats *out);

/* OFPPC_* */
#define PORT_CONFIG_DOWN 1u /* neither received from nor sent to */
#define PORT_CONFIG_NO_RECV 4u
#define PORT_CONFIG_NO_FWD 0x20u
#define PORT_CONFIG_NO_PACKET_IN 0x40u /* what matches no flow, or a table-miss flow, is not told to controllers */
/* OFPPS_* */
#define PORT_STATE_LINK_DOWN 1u
#define PORT_STATE_LIVE 4u /* there is a link, and it is not set down */

struct switch_port_info {
    struct switch_port *sp;
    uint32_t number;
    const char *name;
    uint8_t mac[6];
    uint32_t config, state; /* PORT_CONFIG_*, PORT_STATE_* */
    struct port *port;      /* for port_stats_read() */
    uint64_t duration_ns;
};
/* By rising number. */
void bridge_port_each(struct bridge *b, void (*visit)(void *arg, const struct switch_port_info *p), void *arg);
/* The bits of mask of PORT_CONFIG_*; others are ignored. switch_port_set() leaves them as they are. */
void switch_port_set_config(struct switch_port *sp, uint32_t config, uint32_t mask);
enum port_event { PORT_EVENT_ADD, PORT_EVENT_DELETE, PORT_EVENT_MODIFY }; /* OFPPR_* */
/* Told of ports that come, go, or change their PORT_CONFIG_* or link (which switch_tick() looks at). May be NULL. It may neither
 * add ports nor remove any. */
void bridge_on_port(struct bridge *b, void (*event)(void *arg, enum port_event what, const struct switch_port_info *p),
                    void *arg);

/* ---- looking inside ---- */

/* Table by table: which flow matched and what it did, then the megaflow and the datapath actions. */
void bridge_trace(struct bridge *b, const struct flow_key *k, const struct flow_names *names, FILE *out);

struct megaflow_info {
    struct flow_match match;
    const char *thread;
    uint64_t packets, bytes, idle_ns;
    unsigned tables; /* consulted */
    uint32_t
        recirculation; /* of packets that another megaflow ("recirculate(N)") sends on as this number; 0: as they come */
    const char *actions; /* text */
};
/* Asks each runner thread between two batches. */
void switch_megaflow_each(struct net_switch *s, const struct flow_names *(*names)(void *arg, uint16_t bridge),
                          void (*visit)(void *arg, const struct megaflow_info *m), void *arg);

struct switch_stats {
    uint64_t packets;
    uint64_t emc_hits, megaflow_hits, translations, revalidated;
    uint64_t dropped,
        over_quota; /* over_quota: of the dropped ones, for new flows that would have taken too long (quota.h) */
    unsigned threads, megaflows, masks;
    uint64_t expired, evicted;
};
void switch_stats_read(struct net_switch *s, struct switch_stats *out);

struct mac_info {
    uint8_t mac[6];
    uint16_t vlan;
    uint32_t port;
    unsigned age_s;
};
void bridge_mac_each(struct bridge *b, void (*visit)(void *arg, const struct mac_info *m), void *arg);
void bridge_mac_flush(struct bridge *b);

#endif
