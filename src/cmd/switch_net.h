/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network process: where guest/, vif/, port/ and switch/ meet. All bridges, ports and VIFs of a host (or of a tenant).
 *
 *   creedence-switch.c   arguments; a switch without a daemon is set up by the same requests, made from its options
 *   switch_options.c     options -> requests
 *   switch_alone.c       OpenFlow's sockets and connections without a daemon
 *   switch_net.c         the whole, bridges, and the table of requests
 *   switch_fields.c      reading the parameters that several requests share
 *   switch_port.c        what ports and VIFs have in common; tap, af_packet and af_xdp ports
 *   switch_vif.c         VIFs and their front ends
 *   switch_vif_xen.c     VIFs of Xen guests
 *   switch_held.c        what survives: a VIF's state memory and the descriptors held for the next process
 *   switch_runners.c     threads
 *   switch_change.c      changes of flows, groups, meters and ports' settings, as text
 *   switch_keep.h        the bridges' flow files: switch_keep.c, switch_flow_log.c, switch_new_file.c, switch_sync.c
 *   switch_flows.c       requests for changes
 *   switch_dump.c        lists of flows, groups and meters
 *   switch_openflow.c    a bridge's agent; what a bridge does without its controllers
 *   switch_controllers.c connections with controllers and tools, and their sockets
 *   switch_guard.c       which addresses a VIF may use
 *   switch_policy.c      with whom a VIF may talk
 *   switch_show.c        answers with numbers
 *   switch_capture.c     captures
 *   switch_link.c        requests over a link: the daemon's, or a test's
 *
 * Thread-safety: everything here runs on the control thread.
 */
#ifndef CMD_SWITCH_NET_H
#define CMD_SWITCH_NET_H

#include <jansson.h>
#include <netinet/in.h>

#include "cmd/sandbox.h"
#include "cmd/switch_keep.h"
#include "control/fields.h"
#include "control/link.h"
#include "guest/xen_world.h"
#include "loop/loop.h"
#include "openflow/agent.h"
#include "switch/policy.h"
#include "switch/switch.h"
#include "vif/netif.h"

#define NET_PORT_QUEUES_MAX 16u
#define NET_VIF_THREADS_MAX 256u
#define NET_ALLOWED_MACS_MAX 16u
#define NET_ALLOWED_IPS_MAX 64u
#define NET_XEN_MAPS_MAX 32768u                   /* pages of Xen guests mapped at a time: others are copied */
#define NET_XEN_RINGS_MAPS (NET_XEN_MAPS_MAX / 4) /* of them, for rings */
#define NET_TARGET_BYTES 160u                     /* of a controller: "tcp:192.0.2.1:6653" */

struct net_options {
    struct switch_config flows;
    unsigned vif_threads; /* 0: a thread per queue pair */
    bool gro;             /* of ports that do not say */
    bool transmit_copy;
    uint64_t poll_ns;
};
void net_options_init(struct net_options *o);
/* From the parameters of `configure`. 0 or -EINVAL. */
int net_options_read(struct net_options *o, json_t *params, struct errmsg *e);
json_t *net_options_json(const struct net_options *o);

/* Who is told, and who keeps what must survive; NULL members: nobody. */
struct net_keeper {
    void (*hold)(void *arg, const char *vif, const char *name, int fd);
    void (*unhold)(void *arg, const char *vif, const char *name);
    void (*vif)(void *arg, const char *vif, const char *front_end, const char *why);
    void (*flows_grown)(void *arg, const char *bridge);
    /* state: "connecting", "established", "listening" or, with the reason, "ended". */
    /* The answer to a request that was deferred; result is stolen. */
    void (*answer)(void *arg, uint64_t ticket, int ret, const char *message, json_t *result);
    void (*controller)(void *arg, const char *bridge, const char *target, const char *state, const char *why);
    void *arg;
};

struct net_args {
    struct loop *loop;
    struct net_options options;
    struct net_keeper keeper;
    bool survives; /* keep the VIFs' state in memfds and hold descriptors */
};

struct net_runners;
struct net_sync;

struct net {
    struct loop *loop;
    struct net_options options;
    struct net_keeper keeper;
    bool survives, settled, leaving;
    struct net_switch *sw;
    struct net_runners *runners;
    struct list bridges;     /* struct net_bridge */
    struct list attachments; /* struct attachment, in the order in which they came */
    struct list waiting;     /* struct vif_waiting: held descriptors that came ahead of their VIF */
    struct list lists;       /* struct net_list: half read */
    uint64_t list_id;
    struct net_sync *sync;
    struct of_agents *agents;
    struct net_tls *tls;     /* NULL: none was given */
    struct xen_world *world; /* Xen guests' cards live in; NULL: there was none yet */
    char *world_name;
    struct xen_budget xen_budget;
    atomic_uint xen_mappers; /* cards whose guests' frames are mapped */
    struct loop_timer tick;
    struct loop_timer links; /* armed while groups watch ports */
};

int net_new(struct net **out, const struct net_args *args, struct errmsg *e);
/* Ends every session; guests see their front end's connection close. */
void net_quit(struct net *n);
/* Makes way for a successor: what is held stays as it is. */
void net_leave(struct net *n);
/* From now on packets are forwarded. */
void net_settle(struct net *n);

/* A request and what becomes of it. */
struct net_request {
    json_t *params;       /* an object */
    struct link_msg *msg; /* to take descriptors from; NULL: there are none */
    json_t *result;       /* to be set; NULL: an empty object */
    uint64_t ticket;      /* to answer later by (the keeper's answer()), if `deferred` is set */
    bool deferred;
    struct errmsg *e;
};
/* 0 or -errno with the reason; -EOPNOTSUPP: there is no such request. */
int net_request(struct net *n, const char *method, struct net_request *r);
int request_take_fd(struct net_request *r, const char *name); /* -1: none */

/* ---- reading parameters (switch_fields.c) ---- */

/* fields_end(), with the text of what is wrong. */
int fields_done(struct fields *f, struct errmsg *e);
/* A name for a bridge, port or VIF: letters, digits, '.', '_', '-'; not a number or a word of the flow syntax. */
const char *fields_name(struct fields *f, const char *key);
struct ip_range {
    bool v6;
    uint8_t prefix;   /* bits */
    uint8_t addr[16]; /* IPv4: the first 4; zero behind the prefix */
};
bool ip_range_parse(const char *text, struct ip_range *out); /* text may be NULL */
void fields_macs(struct fields *f, const char *key, uint8_t (*out)[6], unsigned *count);
void fields_ips(struct fields *f, const char *key, struct ip_range *out, unsigned *count);
void fields_mac(struct fields *f, const char *key, uint8_t *out); /* absent: untouched */
void fields_rate(struct fields *f, const char *key, struct vif_rate *out);
void fields_vlan(struct fields *f, struct switch_port_config *out); /* vlan_mode, tag, trunks */
bool fields_has(const struct fields *f, const char *key);
void mac_format(char out[18], const uint8_t *mac);
void ip_range_format(char out[64], const struct ip_range *ip);
const char *vlan_mode_name(enum vlan_mode mode);

/* ---- policies (switch_policy.c) ---- */

struct net_rules {
    struct policy_rule *list;
    unsigned count;
};
void fields_policy(struct fields *f, struct net_rules *out); /* "policy"; to be cleared, whatever comes */
void net_rules_clear(struct net_rules *r);
/* *out NULL: there are no rules. 0 or -errno. */
int net_policy_new(struct policy **out, const struct net_rules *of_bridge, const struct net_rules *own,
                   struct errmsg *e);
int request_policy_set(struct net *n, struct net_request *r);
int request_policy_show(struct net *n, struct net_request *r);

/* ---- bridges (switch_net.c) ---- */

struct net_bridge {
    struct list node;
    struct net *net;
    char name[PORT_NAME_BYTES];
    struct bridge *bridge;
    enum bridge_fail fail;
    unsigned mac_ageing_s;
    struct flow_names names;
    struct net_rules rules; /* of all of its VIFs */
    /* OpenFlow (switch_openflow.c, switch_controllers.c). */
    uint64_t datapath_id;
    struct of_agent *agent;
    struct list peers, listeners; /* struct net_peer, struct net_listener */
    unsigned controllers;         /* that it is to have */
    unsigned probe_s;             /* after which one that says nothing is asked whether it is there */
    uint64_t alone_since_ns;      /* since when none of them is there; 0: one is, or the bridge does without already */
    struct net_port_config *port_configs;
    unsigned port_config_count;
    uint32_t table_config[SWITCH_TABLES];
    struct net_keep keep; /* its flow file */
};
struct net_bridge *net_bridge_find(struct net *n, const char *name);
/* What may be set of a bridge; what is absent is left alone. */
void net_bridge_fields(struct fields *f, struct net_bridge *b);
void net_bridge_aged(struct net_bridge *b, unsigned mac_ageing_s);
/* The bridge that `bridge` names; NULL with *ret set. */
struct net_bridge *request_bridge(struct net *n, struct fields *f, struct errmsg *e, int *ret);

/* ---- ports and VIFs (switch_port.c) ---- */

struct attachment {
    struct list node;
    struct net_bridge *bridge;
    char name[PORT_NAME_BYTES];
    struct port *port;
    struct switch_port *sp; /* NULL until it is on its bridge */
    struct switch_port_config vlan;
    struct port_capture *capture; /* or NULL */
    bool is_vif;
};

struct attachment *net_attachment_find(struct net *n, const char *name);
/* Is the name free? 0 or -EEXIST. */
int attachment_check_name(struct net *n, const char *name, struct errmsg *e);
int attachment_join(struct attachment *a, struct net_bridge *b, uint32_t number, struct errmsg *e);
/* Off its bridge, its capture ended. Its sources must be off their runners. Harmless when it is not on one. */
void attachment_leave(struct attachment *a);
json_t *vlan_json(const struct switch_port_config *c, json_t *into);

struct net_port;
int request_port_add(struct net *n, struct net_request *r);
int request_port_del(struct net *n, struct net_request *r);
int request_port_set(struct net *n, struct net_request *r);
json_t *net_port_json(struct attachment *a);
void net_port_settle(struct attachment *a);
/* Every second: is it still alive, or again? */
void net_port_look(struct attachment *a, uint64_t now_ns);
void net_port_free(struct attachment *a);

/* ---- VIFs (switch_vif.c) ---- */

struct held {
    char name[32];
    int fd;
};

/* Held descriptors that do not fit into one message come ahead of `vif.attach`. */
struct vif_waiting {
    struct list node;
    char vif[PORT_NAME_BYTES];
    struct held *held;
    unsigned held_count;
};

struct vif_settings {
    uint8_t mac[6];
    uint16_t mtu;
    unsigned queues;
    bool packed, in_order, offloads, link_down;
    struct vif_rate from_guest, to_guest;
    unsigned mac_count, ip_count; /* 0 and 0: nothing is checked */
    uint8_t allowed_mac[NET_ALLOWED_MACS_MAX][6];
    struct ip_range allowed_ip[NET_ALLOWED_IPS_MAX];
};

/* Of a Xen guest. */
struct vif_xen {
    bool used; /* else the VIF's front ends come by socket */
    xen_domid domid;
    unsigned handle;
    enum netif_transmit transmit;
    char *world;                     /* NULL: the host's */
    struct loop_watch control_watch; /* its control ring */
    struct loop_timer control_timer;
};

struct net_vif {
    struct attachment a;
    struct net *net;
    struct vif_settings s;
    struct vif_xen xen;
    struct vif *vif;
    struct guard *guard; /* or NULL: its addresses are not checked */
    struct net_rules rules;
    struct policy *policy; /* or NULL: it may talk with all */

    int listen_fd, connected_fd; /* -1: none */
    char *connect_path, *socket_path;
    struct loop_watch listen_watch, broken_watch;
    struct loop_timer connect_timer;
    struct vhost_session *session;
    bool serving, ending, told_broken;
    bool used; /* there was a session: its state is not zero any more */

    /* What survives (switch_held.c). */
    int state_fd;
    char *state;
    size_t state_bytes;
    struct held *held; /* of a predecessor, until the session goes on with it */
    unsigned held_count;
};

int request_vif_attach(struct net *n, struct net_request *r);
struct net_vif *request_vif(struct net *n, struct fields *f, struct errmsg *e, int *ret); /* that "name" names */
/* Tell the keeper where its front end is. */
void net_vif_tell(struct net_vif *v, const char *front_end, const char *why);
int request_vif_detach(struct net *n, struct net_request *r);
int request_vif_set(struct net *n, struct net_request *r);
int request_vif_held(struct net *n, struct net_request *r);
json_t *net_vif_json(struct net_vif *v);
/* "waiting" (for the rest to be settled), "listening", "connected" or "broken". */
const char *net_vif_state(struct net_vif *v);
/* Go on with the front end that is held, or wait for one. */
void net_vif_serve(struct net_vif *v);
void net_vif_free(struct net_vif *v, bool leave);
static inline struct net_vif *net_vif_of(struct attachment *a)
{
    return container_of(a, struct net_vif, a);
}

/* ---- VIFs of Xen guests (switch_vif_xen.c) ---- */

void fields_vif_xen(struct fields *f, struct vif_xen *out); /* "xen" */
/* What the card is to know of it. 0 or -errno. */
int vif_xen_config(struct net_vif *v, struct netif_config *out, struct errmsg *e);
void vif_xen_json(struct net_vif *v, json_t *into);
int request_vif_connect(struct net *n, struct net_request *r);
int request_vif_disconnect(struct net *n, struct net_request *r);
int request_vif_follow(struct net *n, struct net_request *r);
void vif_xen_leave(struct net_vif *v); /* its control ring is not looked at any more; harmless on others */
void net_world_close(struct net *n);

/* ---- what survives (switch_held.c) ---- */

/* Takes what a request and those ahead of it brought; fds become the VIF's. */
int vif_held_take(struct net_vif *v, struct net_request *r);
/* Map the state of a predecessor, or make a new one. 0 or -errno. */
int vif_state_open(struct net_vif *v, struct errmsg *e);
struct vif_kept *vif_state_kept(struct net_vif *v);
struct vhost_state *vif_state_session(struct net_vif *v);
struct netif_state *vif_state_netif(struct net_vif *v);
void vif_state_forget_session(struct net_vif *v);
struct guest_hold vif_hold(struct net_vif *v);
const struct held *vif_held_find(const struct net_vif *v, const char *name);
/* All that belongs to the session, which takes it over; the names are good until vif_held_forget(). How many. */
unsigned vif_held_give(struct net_vif *v, const char **names, int *fds);
/* What a predecessor left; drop: the keeper is to forget it too. */
void vif_held_forget(struct net_vif *v, bool drop);
/* Tell the keeper everything once more. */
void vif_held_again(struct net_vif *v);
/* drop: nobody shall find anything any more; else a successor goes on with it. */
void vif_held_end(struct net_vif *v, bool drop);

/* ---- pages of answers (switch_show.c) ---- */

/* An answer has a limit: entries from index `from` on as long as they fit; who asks goes on at "next". */
struct page {
    json_t *list;
    uint64_t from, max, index;
    size_t bytes;
    bool full;
};
void page_read(struct page *p, struct fields *f);
bool page_wants(struct page *p); /* the next entry? Counts it. */
void page_add(struct page *p, json_t *entry);
json_t *page_json(struct page *p, const char *key); /* {key: [...], "next"?: N} */
void page_drop(struct page *p);

/* ---- threads (switch_runners.c) ---- */

int net_runners_new(struct net_runners **out, struct net *n);
void net_runners_free(struct net_runners *r);
/* For vif_new(): a runner of its own per queue pair, or a shared one. */
struct vif_runners net_runners_of_vif(struct net_vif *v);
/* A runner for a queue of a port: its own, or one that others use, too. */
int net_runner_new(struct net *n, struct runner **out);
void net_runner_free(struct net *n, struct runner *runner);
void net_runners_json(struct net *n, struct page *p);

/* ---- changes (switch_change.c) ---- */

/* What OpenFlow set of a port (OFPPC_*), kept for as long as it is not nothing, whether the port is there or not. */
struct net_port_config {
    uint32_t number, config;
};

/* What it set of a table (OFPTC_*), or of all of them. */
struct net_table_config {
    unsigned table;
    uint32_t config;
};

struct net_change {
    enum of_change what;
    uint32_t port_mask;
    union {
        struct flow_spec flow;
        struct group_spec group; /* to delete: its id only */
        struct meter_spec meter;
        struct net_port_config port;
        struct net_table_config table;
    };
};
/* 0, or -EINVAL with the reason; to be cleared on success. */
int net_change_parse(struct net_change *c, enum of_change what, const char *text, const struct flow_names *names,
                     struct errmsg *e);
void net_change_clear(struct net_change *c);
/* *changed grows by how many there were. 0 or -errno with the reason. */
int net_change_apply(struct net_bridge *b, const struct net_change *c, unsigned *changed, struct errmsg *e);
void net_change_note(struct net_bridge *b, const struct net_change *c);
int net_port_config_note(struct net_bridge *b, uint32_t number, uint32_t config, uint32_t mask);
int net_port_config_set(struct net_bridge *b, uint32_t number, uint32_t config, uint32_t mask, struct errmsg *e);
void net_port_config_apply(struct attachment *a); /* to a port that came to its bridge */
void net_table_config_set(struct net_bridge *b, unsigned table, uint32_t config);
void net_port_config_forget(struct attachment *a); /* it is deleted: the next one of its number begins anew */

/* ---- requests (switch_flows.c, switch_dump.c) ---- */

int request_flow_add(struct net *n, struct net_request *r);
int request_flow_mod(struct net *n, struct net_request *r);
int request_flow_del(struct net *n, struct net_request *r);
int request_flow_dump(struct net *n, struct net_request *r);
int request_flow_trace(struct net *n, struct net_request *r);
int request_group_add(struct net *n, struct net_request *r);
int request_group_mod(struct net *n, struct net_request *r);
int request_group_del(struct net *n, struct net_request *r);
int request_group_dump(struct net *n, struct net_request *r);
int request_meter_add(struct net *n, struct net_request *r);
int request_meter_mod(struct net *n, struct net_request *r);
int request_meter_del(struct net *n, struct net_request *r);
int request_meter_dump(struct net *n, struct net_request *r);
/* Of a bridge that goes; b NULL: those that nobody asked for lately. */
void net_lists_drop(struct net *n, const struct net_bridge *b, uint64_t now_ns);

/* ---- OpenFlow (switch_openflow.c, switch_controllers.c) ---- */

/* The bridge's agent, and its sockets for tools ("mgmt", "snoop") out of the request. */
int net_openflow_begin(struct net_bridge *b, struct net_request *r);
void net_openflow_end(struct net_bridge *b);
/* Every second. */
void net_openflow_ticked(struct net_bridge *b, uint64_t now_ns);
/* Everything to the keeper once more: who is connected, where is listened. */
void net_openflow_again(struct net_bridge *b);
void net_tls_free(struct net_tls *t); /* harmless on NULL; its connections go first */
int request_openflow_tls(struct net *n, struct net_request *r);
int request_openflow_listen(struct net *n, struct net_request *r);
int request_openflow_connected(struct net *n, struct net_request *r);
int request_openflow_drop(struct net *n, struct net_request *r);
int request_controller_list(struct net *n, struct net_request *r);
int request_bridge_set(struct net *n, struct net_request *r);

/* ---- guards (switch_guard.c) ---- */

/* *out NULL: nothing is to be checked. 0 or -errno. */
int net_guard_new(struct guard **out, const struct vif_settings *s, struct errmsg *e);

/* ---- answers with numbers (switch_show.c) ---- */

int request_bridge_show(struct net *n, struct net_request *r);
int request_bridge_list(struct net *n, struct net_request *r);
int request_port_list(struct net *n, struct net_request *r);
int request_port_stats(struct net *n, struct net_request *r);
int request_vif_list(struct net *n, struct net_request *r);
int request_vif_stats(struct net *n, struct net_request *r);
int request_megaflow_dump(struct net *n, struct net_request *r);
int request_megaflow_stats(struct net *n, struct net_request *r);
int request_mac_show(struct net *n, struct net_request *r);
int request_runner_stats(struct net *n, struct net_request *r);
int request_net_stats(struct net *n, struct net_request *r);

/* ---- captures (switch_capture.c) ---- */

int request_capture_start(struct net *n, struct net_request *r);
int request_capture_stop(struct net *n, struct net_request *r);
void net_capture_end(struct attachment *a);

/* ---- link (switch_link.c) ---- */

struct link_server;
/* Serve this listening socket (taken over). net: what is there already, or NULL: `configure` makes it. */
int link_server_new(struct link_server **out, struct loop *loop, int listen_fd, struct net *net,
                    const struct sandbox_args *sandbox, struct errmsg *e);
/* Ends the network that `configure` made. */
void link_server_free(struct link_server *s);

#endif
