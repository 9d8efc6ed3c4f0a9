/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: a switch with ports that keep what is sent to them, and its thread's part played by the test itself. Between
 * two bursts it sleeps, so that the test may be the control thread as well.
 */
#ifndef SWITCH_TEST_RIG_H
#define SWITCH_TEST_RIG_H

#include "switch/switch.h"

#define RIG_PORTS 16u
#define RIG_KEPT 4096u
#define RIG_BYTES 256u /* of a frame, that are kept */

struct rig_port {
    struct port port; /* first */
    struct switch_port *sp;
    bool link_down; /* as the port says */
    unsigned got;
    struct {
        uint32_t length;
        uint8_t bytes[RIG_BYTES];
    } last[8]; /* the latest, by got % 8 */
};

struct rig {
    struct net_switch *sw;
    struct bridge *bridge;
    const struct runner_sink *sink;
    void *thread;
    struct packet_pool *pool;
    struct rig_port *ports[RIG_PORTS + 1]; /* by number, from 1 */
    unsigned count;
    bool busy;
};

/* c: NULL for the defaults. Ports 1 to count. */
void rig_open(struct rig *r, const struct switch_config *c, enum bridge_fail fail, unsigned count);
void rig_close(struct rig *r);
struct rig_port *rig_port_add(struct rig *r, uint32_t number, const struct switch_port_config *c);
void rig_port_remove(struct rig *r, uint32_t number);
/* A flow in ovs-ofctl's syntax. */
void rig_flow(struct rig *r, const char *text);
/* A group in ovs-ofctl's syntax, added, or modified if it is there. */
void rig_group(struct rig *r, const char *text);
/* What `flow trace` says of a packet; the caller frees it. */
char *rig_trace(struct rig *r, const char *packet);
void rig_flow_delete(struct rig *r, const char *text, unsigned expected);
/* Frames of at most 1514 bytes into a port, as one burst. */
void rig_send(struct rig *r, uint32_t port, const void *frame, unsigned bytes, unsigned copies);
void rig_burst(struct rig *r, uint32_t port, struct packet *const *packets, unsigned count);
/* Between bursts the thread sleeps, or, if it is busy, goes on at once; then nothing else may be asked of the switch. */
void rig_busy(struct rig *r, bool busy);
/* Which ports got something since the last time: a bit per number. */
uint32_t rig_got(struct rig *r);

/* Frames; return their length. */
unsigned frame_udp(uint8_t *f, const char *dst, const char *src, const char *ip_src, const char *ip_dst, unsigned sport,
                   unsigned dport);
unsigned frame_tag(uint8_t *f, unsigned bytes, unsigned tpid, unsigned tci); /* puts a tag before what there is */

#endif
