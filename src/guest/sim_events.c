/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Event channels of a simulated machine: what does not depend on the ABI, and the hypervisor's calls.
 *
 *     free -- alloc --> unbound (for one domain) -- bind by that domain --> bound, both ends
 *     bound -- close of one end --> that one free, the other unbound again for the same domain
 *
 * An event is a state and no message: many sends before it is taken are one. One that comes while the port is masked stays pending,
 * and is delivered at the unmask. A port is bound to one virtual CPU.
 */
#include "guest/sim_machine.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IDLE_READS 256u

/* One byte for each time that the word was 0. */
void sim_upcall(struct sim_view *v, unsigned vcpu)
{
    if (atomic_exchange_explicit(&v->d->info[vcpu].upcall, 1, memory_order_seq_cst)) return;
    int fd = sim_pipe(v, vcpu);
    ssize_t n = fd < 0 ? 0 : write(fd, "", 1);
    (void)n; /* a full pipe is readable, which is all it is for */
}

static void set_pending(struct sim_view *v, unsigned port)
{
    if (sim_is_fifo(v)) sim_fifo_set_pending(v, port);
    else sim_2l_set_pending(v, port);
}

static void port_reset(struct sim_view *v, unsigned port)
{
    if (sim_is_fifo(v)) sim_fifo_reset(v, port);
    else sim_2l_reset(v, port);
}

/* An event word that is still in a queue: its port cannot be used again before the queue has passed it. */
static bool port_busy(const struct sim_view *v, unsigned port)
{
    return sim_is_fifo(v) && atomic_load(&v->fifo[port]) & FIFO_LINKED;
}

/* A free port, locked; 0: there is none. */
static unsigned port_take(struct sim_view *v)
{
    unsigned ports = v->d->ports, first = atomic_load(&v->d->port_hint);
    if (first < 1 || first >= ports) first = 1;
    if (atomic_load(&v->d->ports_used) >= ports - 1) return 0;
    for (unsigned n = 0, port = first; n < ports - 1; n++, port = port + 1 < ports ? port + 1 : 1) {
        struct sim_channel *c = &v->channel[port];
        if (atomic_load_explicit(&c->state, memory_order_relaxed) != SIM_PORT_FREE || port_busy(v, port)) continue;
        sim_lock(&c->lock, v->sim->pid);
        if (atomic_load(&c->state) == SIM_PORT_FREE) {
            atomic_store(&v->d->port_hint, port + 1);
            unsigned top = atomic_load(&v->d->ports_top);
            while (top <= port && !atomic_compare_exchange_weak(&v->d->ports_top, &top, port + 1))
                ;
            atomic_fetch_add(&v->d->ports_used, 1);
            return port;
        }
        sim_unlock(&c->lock);
    }
    return 0;
}

int sim_channel_alloc(struct sim_view *v, xen_domid remote, unsigned vcpu)
{
    unsigned port = port_take(v);
    if (!port) return -ENOSPC;
    struct sim_channel *c = &v->channel[port];
    c->remote = remote;
    c->remote_port = 0;
    c->vcpu = (uint16_t)vcpu;
    c->priority = SIM_PRIORITY_DEFAULT;
    port_reset(v, port);
    atomic_store(&c->state, SIM_PORT_UNBOUND);
    sim_unlock(&c->lock);
    return (int)port;
}

static void lock_both(struct sim_channel *a, struct sim_channel *b, int pid)
{
    sim_lock((uintptr_t)a < (uintptr_t)b ? &a->lock : &b->lock, pid);
    sim_lock((uintptr_t)a < (uintptr_t)b ? &b->lock : &a->lock, pid);
}

/* The order of addresses differs between processes: by domain and port instead. */
static void lock_ends(struct sim_view *v, unsigned port, struct sim_view *r, unsigned remote)
{
    struct sim_channel *a = &v->channel[port], *b = &r->channel[remote];
    bool first = v->d->domid < r->d->domid || (v == r && port < remote);
    if (v == r) {
        lock_both(a, b, v->sim->pid);
        return;
    }
    sim_lock(first ? &a->lock : &b->lock, v->sim->pid);
    sim_lock(first ? &b->lock : &a->lock, v->sim->pid);
}

static int bind_to(struct sim_view *v, unsigned vcpu, struct sim_view *r, xen_domid domid, uint32_t remote_port)
{
    if (!remote_port || remote_port >= r->d->ports) return -EINVAL;
    int port = sim_channel_alloc(v, domid, vcpu);
    if (port < 0) return port;
    struct sim_channel *c = &v->channel[port], *remote = &r->channel[remote_port];
    lock_ends(v, (unsigned)port, r, remote_port);
    bool may =
        atomic_load(&remote->state) == SIM_PORT_UNBOUND && remote->remote == v->d->domid && !atomic_load(&r->d->dying);
    if (may) {
        /* Ours first: whoever is killed in between has a port that is closed, and the guest's stays to be bound. */
        c->remote_port = remote_port;
        atomic_store(&c->state, SIM_PORT_BOUND);
        remote->remote_port = (uint32_t)port;
        atomic_store(&remote->state, SIM_PORT_BOUND);
    }
    sim_unlock(&remote->lock);
    if (may) set_pending(v, (unsigned)port); /* what came before it was bound */
    sim_unlock(&c->lock);
    if (may) return port;
    sim_channel_close(v, (unsigned)port);
    return -EINVAL;
}

int sim_channel_bind(struct sim_view *v, unsigned vcpu, xen_domid domid, uint32_t remote_port)
{
    struct sim_view *r = sim_view_get(v->sim, domid);
    int ret = r && r != v ? bind_to(v, vcpu, r, domid, remote_port) : -ESRCH;
    sim_view_put(r);
    return ret;
}

static void port_release(struct sim_view *v, unsigned port)
{
    struct sim_channel *c = &v->channel[port];
    port_reset(v, port);
    atomic_store(&c->state, SIM_PORT_FREE);
    atomic_fetch_sub(&v->d->ports_used, 1);
    if (port < atomic_load(&v->d->port_hint)) atomic_store(&v->d->port_hint, port);
}

void sim_channel_close(struct sim_view *v, unsigned port)
{
    struct sim_channel *c = &v->channel[port];
    for (;;) {
        sim_lock(&c->lock, v->sim->pid);
        unsigned state = atomic_load(&c->state), remote_port = c->remote_port;
        xen_domid domid = c->remote;
        if (state != SIM_PORT_BOUND) {
            if (state == SIM_PORT_UNBOUND) port_release(v, port);
            sim_unlock(&c->lock);
            return;
        }
        sim_unlock(&c->lock);
        struct sim_view *r = sim_view_get(v->sim, domid);
        if (!r) { /* a destroyed domain unbinds its peers itself: it is about to */
            sim_lock(&c->lock, v->sim->pid);
            if (atomic_load(&c->state) != SIM_PORT_FREE) port_release(v, port);
            sim_unlock(&c->lock);
            return;
        }
        lock_ends(v, port, r, remote_port);
        struct sim_channel *remote = &r->channel[remote_port];
        bool same = atomic_load(&c->state) == SIM_PORT_BOUND && c->remote == domid && c->remote_port == remote_port;
        if (same) {
            if (atomic_load(&remote->state) == SIM_PORT_BOUND && remote->remote_port == port &&
                remote->remote == v->d->domid)
                atomic_store(&remote->state, SIM_PORT_UNBOUND);
            port_release(v, port);
        }
        sim_unlock(&remote->lock);
        sim_unlock(&c->lock);
        sim_view_put(r);
        if (same) return;
    }
}

/* The lock of one end keeps both as they are. */
void sim_channel_send(struct sim_view *v, unsigned port)
{
    struct sim_channel *c = &v->channel[port];
    sim_lock(&c->lock, v->sim->pid);
    if (atomic_load_explicit(&c->state, memory_order_relaxed) == SIM_PORT_BOUND) {
        struct sim_view *r = sim_view_get(v->sim, c->remote);
        if (r && c->remote_port < r->d->ports) set_pending(r, c->remote_port);
        sim_view_put(r);
    }
    sim_unlock(&c->lock);
}

void sim_channel_unmask(struct sim_view *v, unsigned port)
{
    if (sim_is_fifo(v)) sim_fifo_unmask(v, port);
    else sim_2l_unmask(v, port);
}

void sim_channel_mask(struct sim_view *v, unsigned port)
{
    if (sim_is_fifo(v)) sim_fifo_mask(v, port);
    else sim_2l_mask(v, port);
}

/* ---- a virtual CPU's kernel ---- */

/* Nothing of whoever had this CPU before is left: its ports are closed, so nobody adds to its queues. */
static void cpu_reset(struct sim_view *v, unsigned vcpu)
{
    struct sim_vcpu_info *info = &v->d->info[vcpu];
    for (unsigned port = 1; port < atomic_load(&v->d->ports_top); port++) {
        struct sim_channel *c = &v->channel[port];
        if (c->vcpu != vcpu) continue;
        if (atomic_load_explicit(&c->state, memory_order_relaxed) != SIM_PORT_FREE) sim_channel_close(v, port);
        if (sim_is_fifo(v) && atomic_load_explicit(&c->state, memory_order_relaxed) == SIM_PORT_FREE)
            atomic_store(&v->fifo[port], 0);
    }
    for (unsigned p = 0; p < SIM_PRIORITIES; p++) {
        v->d->vcpu[vcpu].queue[p].tail = 0;
        atomic_store(&info->head[p], 0);
    }
    atomic_store(&info->ready, 0);
    atomic_store(&info->selector, 0);
    atomic_store(&info->upcall, 0);
}

int sim_cpu_init(struct sim_cpu *c, struct sim_view *v, unsigned vcpu)
{
    *c = (struct sim_cpu){.view = v, .vcpu = vcpu};
    c->mine = calloc((v->d->ports + 63) / 64, sizeof *c->mine);
    if (!c->mine) return -ENOMEM;
    cpu_reset(v, vcpu);
    int fd = sim_pipe(v, vcpu);
    if (fd < 0) {
        free(c->mine);
        c->mine = NULL;
        return fd;
    }
    for (char old[64]; read(fd, old, sizeof old) > 0;)
        ;
    return 0;
}

void sim_cpu_free(struct sim_cpu *c)
{
    if (!c->mine) return;
    for (unsigned port = 1; port < atomic_load(&c->view->d->ports_top); port++)
        if (sim_cpu_owns(c, (int)port)) sim_channel_close(c->view, port);
    cpu_reset(c->view, c->vcpu);
    free(c->mine);
    c->mine = NULL;
}

/* The pipe holds a byte for each time that the word went from 0 to 1, or soon will. */
static void pipe_drain(struct sim_cpu *c)
{
    char bytes[64];
    ssize_t n = read(sim_pipe(c->view, c->vcpu), bytes, sizeof bytes);
    if (n > 0) c->owed -= c->owed < (unsigned)n ? c->owed : (unsigned)n;
}

unsigned sim_cpu_pending(struct sim_cpu *c, int *ports, unsigned max)
{
    _Atomic uint32_t *upcall = &c->view->d->info[c->vcpu].upcall;
    if (!atomic_load_explicit(upcall, memory_order_relaxed)) {
        /* Now and then it is read whatever is owed: who was to write may have been killed, or have written more. */
        if (c->owed || ++c->idle % IDLE_READS == 0) pipe_drain(c);
        return 0;
    }
    if (atomic_exchange_explicit(upcall, 0, memory_order_seq_cst)) c->owed++;
    pipe_drain(c);
    bool more = false;
    unsigned n = sim_is_fifo(c->view) ? sim_fifo_take(c, ports, max, &more) : sim_2l_take(c, ports, max, &more);
    if (more) sim_upcall(c->view, c->vcpu);
    return n;
}
