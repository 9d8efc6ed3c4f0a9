/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Datapath actions carried out. Frames that leave are gathered per port and sent together at the end of a burst. One that was
 * given to a port is not changed any more: what changes it later works on a clone of its head.
 *
 * Thread-safety: an outbox belongs to a runner thread.
 */
#ifndef SWITCH_EXECUTE_H
#define SWITCH_EXECUTE_H

#include "switch/dp.h"
#include "switch/meter_internal.h"
#include "switch/switch.h"

#define OUTBOX_PORTS 64u /* at once; a port more, and one of them is sent to early */

struct dp_sum;

struct outbox_port {
    struct port *port;
    unsigned count;
    struct packet *packets[PACKET_BATCH];
};

struct outbox {
    struct packet_pool *pool;
    uint64_t busy; /* a bit per entry of ports */
    struct outbox_port ports[OUTBOX_PORTS];
};

/* What an action for the controller needs. */
struct execute_context {
    struct outbox *outbox;
    struct meter_run *meters; /* ended by the caller, with the burst */
    struct bridge *bridge;
    void (*received)(void *arg, const struct packet_in *in); /* NULL: nobody */
    void *arg;
    uint32_t in_port;
    /* Of the packet as it came, for what counts packets that take a bucket; the list's sums, or NULL: counted at once. */
    uint32_t length_bytes;
    struct dp_sum *sums;
    const struct dp_action *exceeded; /* the meter that dropped the packet: for who is told that not all was done */
};

/* False: some of it was not done (a change that the packet does not allow, a meter, the pool's bound); what was before has happened, and
 * other branches have. */
bool execute(struct execute_context *c, struct packet *p, const struct dp_action *a, unsigned count);
/* A packet for what a BUCKET or COUNT is of. */
void execute_count(const struct execute_context *c, const struct dp_action *a);
/* One action that changes the packet. */
bool execute_change(struct packet *p, const struct dp_action *a);

static inline void outbox_flush_one(struct outbox *o, unsigned i)
{
    struct outbox_port *q = &o->ports[i];
    port_send(q->port, q->packets, q->count, o->pool);
    q->count = 0;
    o->busy &= ~(UINT64_C(1) << i);
}

static inline void outbox_put(struct outbox *o, struct port *to, struct packet *p)
{
    unsigned i = (unsigned)((uintptr_t)to / 64 % OUTBOX_PORTS) ^ (unsigned)((uintptr_t)to / 4096 % OUTBOX_PORTS);
    struct outbox_port *q = &o->ports[i];
    if (q->count && (q->port != to || q->count == PACKET_BATCH)) outbox_flush_one(o, i);
    q->port = to;
    q->packets[q->count++] = p;
    o->busy |= UINT64_C(1) << i;
}

static inline void outbox_flush(struct outbox *o)
{
    while (o->busy)
        outbox_flush_one(o, (unsigned)__builtin_ctzll(o->busy));
}

#endif
