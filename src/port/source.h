/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where frames come from (a VIF's transmit queue, a NIC's or tap's receive queue), and the threads that take them from there.
 *
 * A runner is one thread with one or more sources. By default each source has a runner of its own, free to run on any
 * CPU. It works in rounds: receive a batch from each source, hand it to the sink, release it. With nothing to do
 * it polls for a bounded, adapting time, then arms its sources and sleeps. (Sources hashed onto a fixed set of
 * runners are the 6.2 design, for comparison.)
 *
 *     receive -> [GRO] -> sink->input(thread, port, packets) -> release      ... -> quiescent -> asleep/awake
 *
 * The runner counts what comes in (port->in.packets and bytes, before GRO) and mirrors it to the port's capture; a source counts
 * in.dropped and in.errors only.
 *
 * Thread-safety: runner_* on the control thread; source operations on the runner's thread only.
 */
#ifndef PORT_SOURCE_H
#define PORT_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "loop/mailbox.h"
#include "port/port.h"

struct port_source;

struct port_source_ops {
    /* At most max (PACKET_BATCH) frames, in out[]; how many, or -errno: this source is broken and is not asked again
     * until it was removed and added. pool is the thread's, for what must outlive nothing but this batch. */
    int (*receive)(struct port_source *s, struct packet **out, unsigned max, struct packet_pool *pool);
    /* Everything received is finished with: give the buffers back. Called once after each receive that gave any. */
    void (*release)(struct port_source *s);
    /* About to sleep: ask for the descriptor to be signalled. True: frames are there already. */
    bool (*arm)(struct port_source *s);
    /* Awake again. */
    void (*disarm)(struct port_source *s);
    /* The descriptor was readable: empty it, where it must be. */
    void (*woken)(struct port_source *s);
};

struct port_source {
    const struct port_source_ops *ops;
    struct port *port;
    int fd;                 /* readable when there may be frames; -1: must be polled every millisecond */
    bool gro;               /* merge TCP segments before the sink sees them */
    uint64_t not_before_ns; /* set by receive: a rate limit says that nothing may be taken before (0: none) */
    uint64_t look_at_ns;    /* set by arm: to be asked again then, though nothing wakes it (0: no) */
    /* The runner's own. */
    struct list node;
    struct runner *runner;
    uint8_t state;
    _Atomic int broken; /* the -errno that receive failed with, or 0; any thread may look */
    uint32_t events;    /* watched for; 0: not at all */
    uint64_t idle_since_ns, window_ns;
};

/* Who gets the frames. All called on the runner's thread. */
struct runner_sink {
    /* NULL: no memory. */
    void *(*thread_new)(void *arg, struct packet_pool *pool);
    void (*thread_free)(void *thread);
    void (*input)(void *thread, struct port *in, struct packet *const *packets, unsigned count);
    /* Between two batches nothing of the shared tables is held. */
    void (*quiescent)(void *thread);
    /* Around a sleep: a thread that is asleep holds nothing for as long as that takes. */
    void (*asleep)(void *thread);
    void (*awake)(void *thread);
    void *arg;
};

struct runner;

struct runner_stats {
    uint64_t rounds, sleeps, packets, polled_ns;
};

#define RUNNER_POLL_NS_DEFAULT UINT64_C(50000)

/* A thread named `name`. poll_ns: upper bound of adaptive polling; 0: never; UINT64_MAX: always (a benchmark). 0 or -errno. */
int runner_new(struct runner **out, const char *name, const struct runner_sink *sink, uint64_t poll_ns);
/* Its sources must have been removed. Joins the thread. */
void runner_free(struct runner *r);
/* Return when the thread has obeyed: from then on (or no longer) it calls the source. */
int runner_add(struct runner *r, struct port_source *s);
void runner_remove(struct port_source *s); /* harmless when it has no runner */
/* Run fn on the thread, between two batches, and wait for it. */
void runner_call(struct runner *r, void (*fn)(void *arg), void *arg);
void runner_set_poll(struct runner *r, uint64_t poll_ns);
/* Whether the thread, while it is busy, stays where it is (port/stay.h). It does not, unless told so. */
void runner_set_stay(struct runner *r, bool stays);
void runner_stats_read(struct runner *r, struct runner_stats *out); /* any thread */
/* The port whose source the calling thread is at; NULL: none. May be asked in a signal handler: whose frames, or whose memory, ended us? */
const struct port *runner_serves(void);

#endif
