/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps creedence-switch running as long as there are networks: started, found again after a restart of the daemon,
 * started anew when it dies, replaced under the guests when a new program is installed.
 *
 *                  start                  configured
 *     WAITING ----------------> STARTING ------------> UP ----------> LEAVING ---> STARTING
 *        ^                         |                   | |   leave          exit
 *        |       it died           |                   | |
 *        +-------------------------+-------------------+ +----------> STOPPING ---> OFF
 *        ^                                                   quit           exit
 *        +----- ADOPTING ------> UP
 *          died   (one that an earlier daemon started)
 *
 * What it is told once it is UP (bridges, ports, cards, flows) is its user's part: control/network.c.
 *
 * It may be in the hands of a guest. Whatever it sends is checked and bounded; one that breaks the link's rules or does
 * not answer in time is killed and replaced.
 */
#ifndef CONTROL_SWITCH_KEEPER_H
#define CONTROL_SWITCH_KEEPER_H

#include "control/host.h"
#include "control/peer.h"

struct switch_keeper;

struct switch_keeper_ops {
    json_t *(*options)(void *arg); /* for `configure`, a new reference */
    /* It can be asked. adopted: what it said that it has ({"bridges", "ports", "vifs"}: names), NULL: it is new. */
    void (*up)(void *arg, json_t *adopted);
    /* It cannot be asked any more; what was asked has been answered. dead: a new one is to come. */
    void (*down)(void *arg, bool dead);
    void (*notified)(void *arg, const char *method, json_t *params, struct link_msg *msg);
};

/* OFF; or, when an earlier daemon's runs, about to be adopted once it is wanted. 0 or -errno. */
int switch_keeper_new(struct switch_keeper **out, struct host *h, const struct switch_keeper_ops *ops, void *arg);
/* Lets it run on. */
void switch_keeper_free(struct switch_keeper *k);

/* It is to run from now on (or not: then it is asked to end). Harmless when it is so already. */
void switch_keeper_want(struct switch_keeper *k, bool wanted);
bool switch_keeper_running(const struct switch_keeper *k);
/*
 * Ask it to leave, as soon as it is UP, and start the program that is installed now, with the options as they are now.
 * When there is a next one to be started in any case nothing more is done. False: it is not wanted.
 */
bool switch_keeper_replace(struct switch_keeper *k);
void switch_keeper_kill(struct switch_keeper *k);
/* It did all that was asked of it: failures before do not count any more for how long to wait after the next. */
void switch_keeper_settled(struct switch_keeper *k);

/* NULL while it cannot be asked. */
struct peer *switch_keeper_peer(struct switch_keeper *k);
const char *switch_keeper_version(const struct switch_keeper *k);
/* Why it is not UP; "" while it is. */
const char *switch_keeper_error(const struct switch_keeper *k);
/* {"running", "state", "restarts", "pid"?, "version"?, "debug"?, "sandbox"?, "error"?}, a new reference. */
json_t *switch_keeper_json(const struct switch_keeper *k);

#endif
