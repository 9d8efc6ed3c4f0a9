/* SPDX-License-Identifier: Apache-2.0 */
/* Between runner.c (the thread, and the orders that it is given) and runner_pass.c (what it does with its sources). */
#ifndef PORT_RUNNER_INTERNAL_H
#define PORT_RUNNER_INTERNAL_H

#include "packet/gro.h"
#include "port/source.h"
#include "port/stay.h"

struct runner {
    const struct runner_sink *sink;
    void *thread_arg; /* what the sink made */
    struct packet_pool *pool;
    struct mailbox mailbox;
    int epoll_fd;
    bool quit, no_pwait2; /* no_pwait2: the kernel, or a filter, does not have the call */
    pthread_t thread;
    struct list active, idle, unkicked, throttled, broken;
    uint64_t unkicked_due_ns; /* when unkicked sources are looked at again */
    uint64_t idle_due_ns;     /* when the next idle source wants to be asked; UINT64_MAX: none does */
    unsigned watch_countdown;
    long preemptions;
    uint64_t shy_ns, shy_until_ns; /* nothing is polled until then; how long that was */
    uint64_t polling_since_ns;     /* 0: the last round had something to do */
    _Atomic uint64_t poll_ns;
    _Atomic uint64_t rounds, sleeps, packets, polled_ns; /* written by the thread only */
    struct stay stay;
    struct gro gro;
};

/* All on the runner's thread. */
void runner_pass_init(struct runner *r);
/* One round, or what is in the mailbox, or a sleep. */
void runner_pass(struct runner *r);
int runner_pass_add(struct runner *r, struct port_source *s);
void runner_pass_remove(struct port_source *s);
/* The polling bound has changed. */
void runner_pass_wake_all(struct runner *r);

#endif
