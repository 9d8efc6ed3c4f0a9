/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of each bridge in which flows, groups, meters and ports' settings outlive the process.
 *
 *   switch_flow_log.c   what stands in it: lines, all of them anew, reading them
 *   switch_keep.c       when lines are appended, and what is done when they cannot be
 *   switch_new_file.c   a new file in the place of one that is too long or cannot be relied on
 *   switch_sync.c       who waits for the disk
 *
 * Only the daemon can make and rename files (control/network_flows.c). A new one, B, takes the place of A, which is in
 * use and has the name BRIDGE.flows, like this:
 *
 *     switch                                       daemon
 *     notification flows {bridge}         ---->    makes B, as BRIDGE.flows.new
 *                                         <----    flows.file {bridge}, with B
 *     writes all into B; from now on every
 *     change goes to A and to B; answers
 *     when the disk has B                 ---->    renames B to BRIDGE.flows, syncs the directory
 *                                         <----    flows.placed {bridge}, with the file that has the name now: B
 *     closes A
 *
 * flows.placed says which file has the name, and nothing else. The switch compares it with those that it has open: B
 * takes A's place; if it is A, B is given up; if it is neither, the answer is -ESTALE, and the daemon makes a new one.
 * So it may be said at any time, and the daemon says it whenever it cannot know: after `adopt`, and after each
 * flows.file, whatever came of it. Between the answer to flows.file and flows.placed either of the two may have the
 * name: a change is saved when both have it. Before that answer nobody renames B: it goes with its connection, and when
 * it cannot be written. Another flows.file takes B's place; the daemon asks for none before flows.placed was answered,
 * so that B has not got the name then.
 *
 * Thread-safety: everything on the control thread; switch_sync.c has one of its own.
 */
#ifndef CMD_SWITCH_KEEP_H
#define CMD_SWITCH_KEEP_H

#include <stdio.h>

#include "openflow/agent.h"
#include "switch/switch.h"

struct net;
struct net_bridge;
struct net_request;

struct net_flow_file {
    int fd;        /* -1: there is none */
    unsigned slot; /* for switch_sync.c: 0 or 1 */
    uint64_t lines;
    int error;     /* -errno: why it cannot be relied on; 0: it has every change */
    bool behind;   /* changes are missing: all is to be written anew behind what there is */
    bool torn;     /* its end is half a line: nothing can be written behind it */
    bool unsure;   /* the disk refused: what it had may be lost */
    bool unsynced; /* the disk may not have all of it yet */
};

/* A bridge's. */
struct net_keep {
    struct net_flow_file file; /* none: flows are kept nowhere */
    struct net_flow_file next; /* that is to take its place */
    bool next_ready;           /* the answer to flows.file was given: it may have the name already */
    uint64_t next_ticket;      /* of that answer, until then */
    unsigned next_rounds;
    bool new_wanted, new_asked; /* a new file; the daemon has not answered yet */
    unsigned retry_s;           /* the pause that was made last */
    uint64_t retry_ns;          /* nothing that failed is tried again before */
    FILE *noted;                /* lines that are in no file yet; or NULL */
    char *noted_text;
    size_t noted_bytes;
    unsigned noted_lines;
    bool note_missed; /* for want of memory */
};

/* ---- switch_keep.c ---- */

/* What was carried out, to be appended to the file by net_keep(). */
void net_note_flow(struct net_bridge *b, enum of_change what, const struct flow_spec *f);
void net_note_group(struct net_bridge *b, enum of_change what, const struct group_spec *g);
void net_note_meter(struct net_bridge *b, enum of_change what, const struct meter_spec *m);
void net_note_port(struct net_bridge *b, uint32_t number, uint32_t config, uint32_t mask);
void net_note_table(struct net_bridge *b, unsigned table, uint32_t config);
/* sync: wait until the disk has it. 0 or -errno with the reason; then it is tried again by and by. */
int net_keep(struct net_bridge *b, bool sync, struct errmsg *e);
/* A flow went by itself. */
void net_keep_gone(struct net_bridge *b, const struct flow_spec *f, enum flow_gone why);
/* Load the file (taken over; -1: there is none) into a new bridge, or begin it. */
int net_keep_open(struct net_bridge *b, int fd, struct errmsg *e);
void net_keep_close(struct net_bridge *b);
/* After each switch_tick(). */
void net_keep_ticked(struct net_bridge *b, uint64_t now_ns);

/* ---- switch_new_file.c ---- */

void net_new_file_want(struct net_bridge *b);
/* Ask the daemon, if one is wanted and it was not asked yet. */
void net_new_file_ask(struct net_bridge *b);
/* There is another daemon: what was asked of the one before, or of none, is asked of it. */
void net_new_file_ask_again(struct net_bridge *b);
/* The daemon, or the link to it, is gone. */
void net_new_file_left(struct net_bridge *b);
void net_new_file_ticked(struct net_bridge *b);
void net_new_file_close(struct net_bridge *b);
int request_flows_file(struct net *n, struct net_request *r);
int request_flows_placed(struct net *n, struct net_request *r);

/* ---- switch_flow_log.c ---- */

void flow_log_flow(FILE *out, enum of_change what, const struct flow_spec *f);
void flow_log_group(FILE *out, enum of_change what, const struct group_spec *g);
void flow_log_meter(FILE *out, enum of_change what, const struct meter_spec *m);
void flow_log_port(FILE *out, uint32_t number, uint32_t config, uint32_t mask);
void flow_log_table(FILE *out, unsigned table, uint32_t config);
/* Append everything that the bridge has; a reader forgets what stands before it. On failure a part may be written. */
int flow_log_write_all(struct net_bridge *b, int fd, uint64_t *lines);
uint64_t flow_log_lines_needed(const struct net_bridge *b); /* for that */
/* Carry out what is in the file; an end that was never finished is cut off. 0 or -errno with the reason. */
int flow_log_replay(struct net_bridge *b, int fd, uint64_t *lines, struct errmsg *e);

/* ---- switch_sync.c ---- */

struct net_sync;
#define NET_SYNC_SLOTS 2u /* of each bridge: for the file in use and the next */

int net_sync_new(struct net_sync **out);
void net_sync_free(struct net_sync *s); /* when the disk has all; harmless on NULL */
/* Sync a file of the bridge of that number; fd stays the caller's. 0, or -errno: it is not done. */
int net_sync_begin(struct net_sync *s, unsigned bridge, unsigned slot, int fd);
/* What became of the last: -EINPROGRESS, 0 or -errno. */
int net_sync_result(struct net_sync *s, unsigned bridge, unsigned slot);
/* What became of it matters to nobody any more, and what was not begun is not done. */
void net_sync_forget(struct net_sync *s, unsigned bridge, unsigned slot);

#endif
