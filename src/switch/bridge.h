/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The switch's inside: what switch.h's objects are made of, shared by the files of this folder only.
 *
 * Runner threads read, without locks, what is _Atomic here; the control thread writes. What it replaces is retired through the
 * switch's epoch, and the change gets a number in its log.
 */
#ifndef SWITCH_BRIDGE_H
#define SWITCH_BRIDGE_H

#include "switch/change.h"
#include "switch/mac.h"
#include "switch/switch.h"
#include "switch/table.h"

#define BRIDGE_REFER_LISTS 1024u

struct group_map;

struct port_settings {
    struct epoch_node retired;
    bool all_trunks;
    uint32_t config; /* PORT_CONFIG_* */
    struct switch_port_config c;
};

struct switch_port {
    struct bridge *bridge;
    struct port *port;
    uint32_t number;
    uint64_t word;                       /* in_port and bridge, as in a key */
    const struct change_bridge *changes; /* its bridge's */
    _Atomic(struct port_settings *) settings;
    _Atomic bool link; /* as switch_tick() last saw it */
    bool link_changed; /* the rest is the control thread's */
    uint64_t created_ns;
};

/* By number. */
struct port_map {
    struct epoch_node retired;
    unsigned count;
    struct switch_port *ports[];
};

struct bridge {
    struct net_switch *sw;
    char name[PORT_NAME_BYTES];
    uint16_t index;
    struct flow_table tables[SWITCH_TABLES];
    struct table_counters counters[SWITCH_TABLES];
    _Atomic(struct port_map *) ports;
    _Atomic(struct mac_table *) macs;
    unsigned mac_ageing_s;
    _Atomic(struct group_map *) groups;
    unsigned group_count, group_buckets;
    unsigned group_ports; /* buckets that watch a port */
    uint64_t group_mark;
    struct meter **meters; /* by rising number */
    unsigned meter_count, meter_room;
    _Atomic(struct meter *) slowpath_meter, controller_meter; /* NULL: there is none */
    struct list timed;                                        /* flows with time-outs */
    /* Flows with groups or a meter: of one of them by its number, the rest apart. */
    struct list refer_to[BRIDGE_REFER_LISTS], refer_to_several;
    uint64_t next_id;
    unsigned flows;
    unsigned flow_actions; /* of all of them */
    size_t flows_listed;   /* in lists that are there (bridge_flow_list()) */
    void (*flow_gone)(void *arg, const struct flow_spec *f, const struct flow_stats *s, enum flow_gone why);
    void *flow_gone_arg;
    void (*on_port)(void *arg, enum port_event what, const struct switch_port_info *p);
    void *on_port_arg;
};

struct meter;
struct packet_out;

struct packet_in_handler {
    struct epoch_node retired;
    void (*received)(void *arg, const struct packet_in *in);
    void *arg;
};

static_assert(SWITCH_BRIDGES_MAX <= CHANGE_BRIDGES, "each has its numbers");

struct net_switch {
    struct switch_config config;
    struct runner_sink sink;
    struct epoch epoch;
    struct change_log log;
    _Atomic(struct bridge *) bridges[SWITCH_BRIDGES_MAX];
    unsigned port_count;
    _Atomic(struct packet_in_handler *) packet_in;
    struct packet_out *packet_out; /* NULL until it is needed */
    uint64_t folded_ns;            /* when switch_fold() last ended */
    uint64_t fold_due_ns;          /* when it would be due if who asks had it evenly */
    pthread_mutex_t threads_lock;
    struct list threads;       /* struct switch_thread */
    struct switch_stats ended; /* of threads that are gone */
};

/* NULL: there is none. Any thread, within a batch. */
struct switch_port *bridge_find_port(const struct bridge *b, uint32_t number);

/* Word 0 of the keys of its packets. */
static inline uint64_t switch_port_word(const struct switch_port *sp)
{
    return sp->word;
}

static inline const struct port_settings *port_settings(const struct switch_port *sp)
{
    return atomic_load_explicit(&sp->settings, memory_order_acquire);
}

/* May it be chosen to send to (OFPPS_LIVE)? Any thread, within a batch. */
static inline bool switch_port_is_live(const struct switch_port *sp)
{
    return atomic_load_explicit(&sp->link, memory_order_acquire) && !(port_settings(sp)->config & PORT_CONFIG_DOWN);
}

void bridge_age_macs(struct bridge *b, uint64_t now_ns);
void bridge_forget_macs(struct bridge *b, uint32_t port); /* those behind the port */
void bridge_look_at_links(struct bridge *b);

/* SWITCH_METER_ALL: those of any meter. There are no more than `most`. */
void bridge_remove_flows_of_meter(struct bridge *b, uint32_t id, unsigned most);

void packet_out_free(struct packet_out *o);

/* The flows that f means, the oldest of each table first; the caller frees the array. -1: no memory. */
long bridge_select_flows(struct bridge *b, const struct flow_spec *f, bool strict, struct flow ***out);
void flow_stats_read(const struct flow *f, struct flow_stats *s);

/* Bring the counters of all threads into the flows that they count for. Control thread. */
void switch_fold(struct net_switch *s);
/* For an answer: unless that was done so much of late that threads would not come to forwarding; then it is a little older. */
void switch_fold_to_tell(struct net_switch *s);

#endif
