/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's networks as the daemon knows them: bridges, their ports, and virtual network cards, as they are to be,
 * whatever happens to the switch that makes them work.
 *
 *     methods_network.c, methods_flow.c --> network.c (the lists) --> network_sync.c (what the switch has) --> switch_keeper.c
 *                                            |     |
 *                                            |     network_held.c   what is held for cards
 *                                            |     network_controllers.c   OpenFlow's connections
 *                                            |     network_xen.c    Xen guests' rings
 *                                            network_state.c        STATEDIR/network.json
 *                                            network_flows.c        STATEDIR/flows/
 *
 * An item is ABSENT (the switch has not got it), ASKED, or PRESENT. The switch is told of everything ABSENT, bridges
 * first, whenever it can be asked: that is how a new item gets there, how a new switch gets everything, and how a port
 * whose interface is not there yet is tried again. Then comes `settled`.
 *
 * A switch that dies of a fault says whose thread made it. A card that is named again and again is left out for a
 * while: its guest must not end everybody's network.
 *
 * Held for a card: its listening socket, and every descriptor that the switch asked to have kept (the latter also
 * by the holder, under "vif/NAME"). All cards together may hold half of the descriptors that the daemon may have
 * open: disks never go short.
 *
 * Thread-safety: the daemon has one thread.
 */
#ifndef CONTROL_NETWORK_H
#define CONTROL_NETWORK_H

#include "control/held.h"
#include "control/host.h"
#include "control/network_config.h"
#include "control/peer.h"
#include "control/rpc.h"
#include "control/switch_keeper.h"

#define NETWORK_BRIDGES_MAX 256u /* switch/switch.h */
#define NETWORK_PORTS_MAX 8192u  /* ports and cards */
#define NETWORK_FAULTS_MAX 3u    /* a card whose thread ends the switch as often in a minute is left out */
#define NETWORK_ASKED_MAX 48u    /* requests to the switch at once: fewer than its link queues */
#define NETWORK_ASK_MS 5000u
#define NETWORK_FLOWS_MS 30000u /* what changes or lists flows */

enum network_item_state { NETWORK_ABSENT, NETWORK_ASKED, NETWORK_PRESENT };

struct network;

struct network_item {
    struct list node;
    struct network *network;
    enum network_kind kind;
    enum network_item_state state;
    char name[NETWORK_NAME_MAX + 1];
    char bridge[NETWORK_NAME_MAX + 1]; /* a bridge's: its own name */
    json_t *config;                    /* network_config.h */
    unsigned children;                 /* a bridge's ports and cards */
    bool failed;                       /* not tried again before the timer fires */
    bool busy;                         /* an operation on it goes on */
    bool fresh;                        /* it was never PRESENT */
    bool owed;                         /* PRESENT in a switch that was found running: told once more what to obey */
    unsigned deaths;                   /* of switches, while it was being added */
    struct rpc_call *adding;           /* to be answered when it is PRESENT, or removed when it cannot be */
    struct loop_timer limit;           /* of that */
    char error[256];                   /* why it is not PRESENT */

    /* A bridge's. */
    int mgmt_fd, snoop_fd;
    bool place_wanted, placing, compact_wanted, compacting; /* network_flows.c */
    struct list controllers;                                /* network_controllers.c */
    /* A card's. */
    uint64_t fault_ns[NETWORK_FAULTS_MAX - 1]; /* when its thread ended the switch, the last times */
    bool left_out;                             /* because of that; until its limit fires, or an operator changes it */
    int listen_fd;
    struct held held;
    char front_end[16]; /* "listening", "connected", "broken" */
    char front_end_why[256];
    bool linked; /* a Xen guest's: this switch uses its rings */
};

/* The end of an upgrade: code 0, or an rpc_code with the reason. */
typedef void (*network_done)(void *arg, int code, const char *message);

struct network {
    struct host *host;
    struct switch_keeper *keeper;
    json_t *options;                  /* of the switch */
    json_t *policies;                 /* network_policy.c */
    json_int_t policy_id;             /* the last that was given */
    json_t *policy_index;             /* the same by whose they are; NULL: to be made */
    struct list policy_changes;       /* that go on */
    json_t *tls;                      /* the files with its key and certificates; NULL: none */
    struct list items[NETWORK_KINDS]; /* by name */
    unsigned count[NETWORK_KINDS];
    unsigned held_count, held_max; /* descriptors of all cards */
    unsigned asked;                /* requests that the switch has not answered */
    bool settle_asked, settled;    /* the switch was told of everything, and forwards */
    bool adopted;                  /* it was found running: what is held and it does not confirm is dropped */
    bool stopping;                 /* the host's shutdown: the switch ends, what is configured stays */
    bool load_failed;              /* the saved state is there and could not be read: it is not overwritten */
    bool flow_names_synced;        /* the directory of the flow files is on the disk as it is */
    struct loop_timer retry, compact, save, watch, restore_limit;
    struct list unsaved; /* struct network_unsaved */
    network_done upgraded, restored;
    void *upgraded_arg, *restored_arg;
};

/* ---- network.c ---- */

int network_new(struct network **out, struct host *h);
/* The switch runs on. Calls are answered. */
void network_free(struct network *n);
/* Load what was saved and go on with (or start) the switch. done: when it is settled, was found not to come up, or takes
 * too long. */
void network_restore(struct network *n, network_done done, void *arg);
/* Replace the switch; one that is just being started is replaced when it is up. done: when its successor is settled, or
 * was found not to come up. Without networks: done at once. */
void network_upgrade(struct network *n, network_done done, void *arg);
/* The host goes down: end the switch. True: it has ended. */
bool network_stop(struct network *n);
/* ... or it does not, after all. */
void network_go_on(struct network *n);

struct network_item *network_find(struct network *n, enum network_kind kind, const char *name);
/* Takes config. NULL: out of memory. */
struct network_item *network_item_new(struct network *n, enum network_kind kind, json_t *config);
/* Forget it, with its files and what is held for it. */
void network_item_remove(struct network_item *i);
/* One that an operator asks for: added, or removed again; the call is answered then. */
void network_add(struct network_item *i, struct rpc_call *call);
/* Give up on one that is being added: answered and removed. */
void network_add_failed(struct network_item *i, enum rpc_code code, const char *message);
/* The switch runs when there are bridges. */
void network_want(struct network *n);
json_t *network_item_json(const struct network_item *i); /* its configuration, and how it is */
json_t *network_status_json(struct network *n);
const char *network_socket_path(const struct network_item *i, char buffer[PATH_MAX]);
bool network_flows_path(char out[PATH_MAX], const struct network *n, const char *bridge, const char *ending);

/* ---- network_sync.c ---- */

extern const struct switch_keeper_ops network_switch_ops;
/* Tell the switch what it has not got. */
void network_sync(struct network *n);
/* An upgrade, when there is one, is over. */
void network_upgraded(struct network *n, int code, const char *message);
/* A card that is left out is tried again. */
void network_let_in(struct network_item *i);
/* Ask the switch; counted. False when it cannot be asked now, and params were released. */
bool network_ask(struct network *n, const char *method, json_t *params, unsigned limit_ms, peer_done done, void *arg);
void network_answered(struct network *n); /* first thing in each done() */

/* ---- network_held.c ---- */

void network_hold(struct network *n, json_t *params, struct link_msg *msg);
void network_unhold(struct network *n, json_t *params);
void network_drop_held(struct network_item *i); /* all of it */
void network_drop_stale(struct network *n);     /* what the switch that was adopted did not confirm */
void network_load_held(struct network_item *i); /* from the holder */
int network_listen(struct network_item *i, struct errmsg *e);
void network_fill_holder(struct network *n, struct holder *to);
/* Everything that is held for a card goes along with vif.attach (or ahead of it, in vif.held, if it is much). */
void network_ask_attach(struct network_item *i, peer_done done);

/* ---- network_xen.c ---- */

bool network_is_xen(const struct network_item *i);
/* Borrowed; NULL: it has none. */
const char *network_xen_backend(const struct network_item *i);
json_t *network_xen_connection(const struct network_item *i);
json_t *network_xen_offered(const struct network_item *i);
/* Something that xenstore's part waits for may have happened. */
void network_xen_changed(const struct network_item *i);
json_t *network_xen_for_switch(json_t *config); /* a new reference */
void network_xen_show(const struct network_item *i, json_t *into);
void network_xen_note_offered(struct network_item *i, json_t *result);
/* Use the front end's rings (connection is taken over); let go of them; remove the card. RPC_BUSY: try again later. */
void network_xen_connect(struct network_item *i, json_t *connection, bool resume, network_done done, void *arg);
/* A key of its front end's is another (value is taken over; NULL: it is gone). */
void network_xen_follow(struct network_item *i, const char *key, json_t *value, network_done done, void *arg);
void network_xen_disconnect(struct network_item *i, network_done done, void *arg);
void network_xen_detach(struct network_item *i, network_done done, void *arg);
/* A switch that has everything is told of the rings that its predecessor used. */
void network_xen_sync(struct network *n);

/* ---- network_controllers.c ---- */

/* Make what is configured and is not there; end what is not configured any more. Harmless at any time. */
void network_controllers_sync(struct network_item *bridge);
void network_controllers_idle(struct network_item *bridge); /* the switch is gone */
unsigned network_controllers_count(const json_t *config);   /* that the bridge connects to */
/* Which there are to be, for bridge.set: the switch ends all others. */
void network_controllers_params(json_t *config, json_t *into);
json_t *network_controllers_json(const struct network_item *bridge);
void network_controller_notified(struct network *n, json_t *params);
/* The sockets at which tools find the bridge, made when they are not there. How many; at most 2. */
unsigned network_tools_fds(struct network_item *bridge, const char **names, int *fds);
/* The names of these, and of those where controllers connect. */
void network_sockets_remove(struct network_item *bridge);
void network_openflow_end(struct network_item *bridge);
/* What is in the files, for the switch: a new reference, or NULL with the reason. paths may be NULL. */
json_t *network_tls_texts(const json_t *paths, struct errmsg *e);
/* adopted: the switch may have another key, so it is told of none as well. */
void network_tls_tell(struct network *n, bool adopted);

/* ---- network_policy.c ---- */

/* What the switch is told of a card ("vif") or bridge: a new reference; NULL: there are no rules. */
json_t *network_policy_of(struct network *n, const char *key, const char *name);
/* To a switch that has the card or bridge already; arg of done(): the network. */
void network_policy_tell(struct network_item *i, peer_done done);
unsigned network_policy_load(struct network *n, json_t *list); /* how many were left out */
void network_policy_forget(struct network *n, const char *key, const char *name);

/* ---- network_state.c ---- */

/* 0, -ENOENT: nothing was saved. Others: reported, and the file was set aside or (load_failed) left alone. */
int network_load(struct network *n);
/* Save soon, then answer the call (may be NULL) with result (stolen), or say that it could not be saved. */
void network_save(struct network *n, struct rpc_call *call, json_t *result);
/* Now; answers what waits. */
void network_save_now(struct network *n);
/* ---- network_flows.c ---- */

/* The bridge's flow file, to be closed by the caller; begin: an empty one. -errno with the reason. */
int network_open_flows(struct network_item *bridge, bool begin, struct errmsg *e);
/* The switch wants to write the flows of a bridge anew. */
void network_compact(struct network *n, json_t *params);
/* The switch was found running: it is told which file has the bridge's name. */
void network_flows_adopted(struct network_item *bridge);
void network_flows_idle(struct network_item *bridge); /* the switch cannot be asked any more */

#endif
