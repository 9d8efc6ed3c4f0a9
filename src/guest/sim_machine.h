/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated machine's files, and a process's view of them (private to sim*.c).
 *
 * File of a domain:  struct sim_domain | event words | channels | grant entries | active entries | map-track | memory
 * each part on a page of its own. Event words, `struct sim_vcpu_info`, grant entries and memory are the domain's own, to be
 * written with anything; the rest is the hypervisor's.
 *
 * Locks order: channels by address; then a FIFO queue. Nobody waits for a lock of the dead: whoever waits long looks whether the
 * holder's process is there, and takes it over.
 */
#ifndef GUEST_SIM_MACHINE_H
#define GUEST_SIM_MACHINE_H

#include <pthread.h>

#include "guest/sim.h"

#define SIM_MAGIC 0x31306d6973637263ull
#define SIM_PRIORITIES 16u
#define SIM_PRIORITY_DEFAULT 7u
#define SIM_GRANTS_RESERVED 8u

/* Event words of the FIFO ABI. */
#define FIFO_PENDING (1u << 31)
#define FIFO_MASKED (1u << 30)
#define FIFO_LINKED (1u << 29)
#define FIFO_BUSY (1u << 28)
#define FIFO_LINK ((1u << 17) - 1)
#define FIFO_PORTS (1u << 17)

/* Flags of a grant entry (version 1), in the lower half of its first word. */
#define GRANT_TYPE 3u
#define GRANT_ACCESS 1u
#define GRANT_READONLY 4u
#define GRANT_READING 8u
#define GRANT_WRITING 16u
#define GRANT_DOMID_SHIFT 16

/* What the hypervisor and a virtual CPU share. */
struct sim_vcpu_info {
    _Alignas(64) _Atomic uint32_t upcall; /* set by who makes the first event pending, with one byte for the pipe */
    _Atomic uint64_t selector;            /* two levels: words with something pending */
    _Atomic uint32_t ready;               /* FIFO: the control block: priorities whose queue was empty before */
    _Atomic uint32_t head[SIM_PRIORITIES];
};

struct sim_queue {
    atomic_int lock;
    uint32_t tail; /* under lock */
};

/* The hypervisor's about a virtual CPU. */
struct sim_vcpu {
    atomic_int owner; /* process, 0: free */
    atomic_uint busy; /* threads of that process inside of the hypervisor on its behalf: sim_kill() waits */
    struct sim_queue queue[SIM_PRIORITIES];
};

enum sim_port_state { SIM_PORT_FREE, SIM_PORT_UNBOUND, SIM_PORT_BOUND };

struct sim_channel {
    atomic_int lock;
    _Atomic uint8_t state; /* enum sim_port_state; under lock, and the other end's lock where there is one */
    uint8_t priority;
    uint16_t vcpu;
    _Atomic uint32_t last; /* FIFO: the queue it was in last: CPU << 8 | priority */
    xen_domid remote;      /* who may bind, or the other end */
    uint32_t remote_port;
};

struct sim_entry {
    _Atomic uint32_t head, frame;
};

/* A grant in use. */
struct sim_active {
    atomic_int lock;
    xen_domid domid;
    uint32_t frame, readers, writers;
};

struct sim_track {
    _Atomic uint32_t owner; /* virtual CPU + 1, 0: free */
    _Atomic uint32_t next;  /* free list */
    xen_domid domid;
    bool writable;
    uint32_t ref;
    uint64_t generation; /* of the domain: a number may be used again */
};

struct sim_domain {
    uint64_t magic, generation;
    uint32_t domid, abi, ports, grants, pages, maptrack, one_lock;
    atomic_uint dying, ports_used, port_hint, ports_top, tracks_used; /* ports_top: those below were ever used */
    _Alignas(64) atomic_int lock;             /* of everything in a machine with one lock (domain 0's) */
    _Alignas(64) _Atomic uint64_t track_free; /* count of changes << 32 | index + 1 */
    _Atomic uint64_t generations;             /* domain 0's: of guests */
    _Alignas(64) struct sim_vcpu vcpu[SIM_VCPUS_MAX];
    struct sim_vcpu_info info[SIM_VCPUS_MAX];
};

/* A process's view of a domain. */
struct sim_view {
    struct sim *sim;
    struct sim_domain *d;
    size_t bytes;
    int fd;
    size_t memory_offset;
    _Atomic uint32_t *fifo;    /* event words */
    _Atomic uint64_t *pending; /* two levels: bits in words of abi_word_bits() */
    _Atomic uint64_t *mask;
    struct sim_channel *channel;
    struct sim_entry *entry;
    struct sim_active *active;
    struct sim_track *track;
    uint8_t *memory;
    atomic_int pipe[SIM_VCPUS_MAX]; /* -1: not open yet */
    atomic_uint users;              /* the table has one; 0: unmapped, to be used again */
    struct sim_view *spare;         /* list; a view's own memory stays, so that a late look at `users` does no harm */
};

struct sim {
    int pid;
    char dir[200];
    pthread_mutex_t mutex; /* of opening views */
    struct sim_view *host;
    struct sim_view *_Atomic *view; /* by domid */
    struct sim_view *spare;         /* under mutex */
};

/* A domain that lives, to be put, or NULL. The host's is there for as long as the machine, and not counted. */
struct sim_view *sim_view_get(struct sim *s, xen_domid domid);
void sim_view_put(struct sim_view *v); /* NULL: nothing */
static inline void sim_view_hold(struct sim_view *v)
{
    if (v->d->domid != SIM_HOST) atomic_fetch_add(&v->users, 1);
}
int sim_domain_create(struct sim *s, struct sim_view **out, const struct sim_domain *like, struct errmsg *e);
int sim_guest_domain(struct sim *s, struct sim_view **out, const struct sim_guest_options *o, struct errmsg *e);
void sim_guest_domain_end(struct sim_view *v);
int sim_pipe(struct sim_view *v, unsigned vcpu); /* descriptor, or -errno */

static inline bool sim_is_fifo(const struct sim_view *v)
{
    return v->d->abi == SIM_FIFO;
}

void sim_lock_slow(atomic_int *lock, int pid);

static inline void sim_lock(atomic_int *lock, int pid)
{
    int zero = 0;
    if (!atomic_compare_exchange_strong_explicit(lock, &zero, pid, memory_order_acquire, memory_order_relaxed))
        sim_lock_slow(lock, pid);
}

static inline void sim_unlock(atomic_int *lock)
{
    atomic_store_explicit(lock, 0, memory_order_release);
}

/* sim_events.c: what the hypervisor does. Ports or -errno. */
int sim_channel_alloc(struct sim_view *v, xen_domid remote, unsigned vcpu);
int sim_channel_bind(struct sim_view *v, unsigned vcpu, xen_domid domid, uint32_t remote_port);
void sim_channel_close(struct sim_view *v, unsigned port);
void sim_channel_send(struct sim_view *v, unsigned port);
void sim_channel_unmask(struct sim_view *v, unsigned port);
void sim_channel_mask(struct sim_view *v, unsigned port);
void sim_upcall(struct sim_view *v, unsigned vcpu);

/* Around each call of a `struct xen`: what the hypervisor does is done whole, or not begun. */
static inline void sim_enter(struct sim_vcpu *vcpu)
{
    atomic_fetch_add_explicit(&vcpu->busy, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
}

static inline void sim_exit(struct sim_vcpu *vcpu)
{
    atomic_signal_fence(memory_order_seq_cst);
    atomic_fetch_sub_explicit(&vcpu->busy, 1, memory_order_relaxed);
}

/* A virtual CPU's own half: what its kernel does. */
struct sim_cpu {
    struct sim_view *view;
    unsigned vcpu;
    unsigned owed, idle; /* bytes in the pipe that were announced; polls in a row that found nothing */
    uint32_t ready;      /* FIFO: priorities that may have more */
    uint32_t head[SIM_PRIORITIES];
    uint64_t *mine; /* ports of this CPU, a bit each */
};

int sim_cpu_init(struct sim_cpu *c, struct sim_view *v, unsigned vcpu);
void sim_cpu_free(struct sim_cpu *c); /* closes its ports */
unsigned sim_cpu_pending(struct sim_cpu *c, int *ports, unsigned max);

static inline bool sim_cpu_owns(const struct sim_cpu *c, int port)
{
    return port > 0 && (unsigned)port < c->view->d->ports && c->mine[port / 64] >> (port % 64) & 1;
}

static inline void sim_cpu_own(struct sim_cpu *c, int port, bool own)
{
    uint64_t bit = UINT64_C(1) << (port % 64);
    c->mine[port / 64] = own ? c->mine[port / 64] | bit : c->mine[port / 64] & ~bit;
}

/* The two ABIs: what the hypervisor does to make a port pending, and what a kernel does to take events. */
void sim_2l_set_pending(struct sim_view *v, unsigned port);
void sim_2l_unmask(struct sim_view *v, unsigned port);
void sim_2l_mask(struct sim_view *v, unsigned port);
void sim_2l_reset(struct sim_view *v, unsigned port);
unsigned sim_2l_take(struct sim_cpu *c, int *ports, unsigned max, bool *more);
void sim_fifo_set_pending(struct sim_view *v, unsigned port);
void sim_fifo_unmask(struct sim_view *v, unsigned port);
void sim_fifo_mask(struct sim_view *v, unsigned port);
void sim_fifo_reset(struct sim_view *v, unsigned port);
unsigned sim_fifo_take(struct sim_cpu *c, int *ports, unsigned max, bool *more);

/* sim_grants.c. 0 or -errno. */
int sim_grant_acquire(struct sim_view *g, xen_domid local, uint32_t ref, bool writable, uint32_t *frame);
void sim_grant_release(struct sim_view *g, uint32_t ref, bool writable);
int64_t sim_track_take(struct sim_view *host, unsigned vcpu, struct sim_view *g, uint32_t ref, bool writable);
void sim_track_give(struct sim_view *host, uint32_t handle);
/* Of a virtual CPU whose process is dead: everything is released. */
void sim_track_reap(struct sim *s, unsigned vcpu);

#endif
