/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The FIFO ABI: an event word for each port, and for each virtual CPU 16 queues of different priority, linked through the words.
 *
 *     control block: ready (a bit for each queue that was empty before), head of each queue
 *     word:          PENDING | MASKED | LINKED (in a queue) | BUSY (its link is being written) | link: the next port
 *
 * The hypervisor appends at the tail, which only it knows; the domain takes from the head. The word at the tail may be taken out
 * at any moment: then linking to it fails, and the new one becomes the head. BUSY keeps the domain from clearing MASKED meanwhile,
 * so that the hypervisor's exchanges of a word come to an end; a domain that writes nonsense costs itself events and nobody else
 * anything (four tries).
 *
 * What an event costs does not depend on how many ports there are.
 */
#include "guest/sim_machine.h"

#define LINK_TRIES 4u

/* 1: linked, 0: the word is in no queue any more, -1: it changed meanwhile; *w is what is there. */
static int try_link(_Atomic uint32_t *word, uint32_t *w, uint32_t link)
{
    if (!(*w & FIFO_LINKED)) return 0;
    uint32_t changed = (*w & ~(FIFO_BUSY | FIFO_LINK)) | link;
    return atomic_compare_exchange_strong(word, w, changed) ? 1 : -1;
}

static bool link_to(_Atomic uint32_t *word, uint32_t link)
{
    uint32_t w = atomic_load(word);
    int ret = try_link(word, &w, link);
    if (ret >= 0) return ret;
    w = atomic_fetch_or(word, FIFO_BUSY) | FIFO_BUSY;
    for (unsigned i = 0; i < LINK_TRIES; i++) {
        ret = try_link(word, &w, link);
        if (ret == 0) atomic_fetch_and(word, ~FIFO_BUSY);
        if (ret >= 0) return ret;
    }
    atomic_fetch_and(word, ~FIFO_BUSY);
    return true; /* its domain's own doing */
}

/*
 * It goes to another queue than the last time. As the tail that was taken out it may still be known there: what is appended there next
 * would be linked to it, and so come into the new queue.
 */
static void leave_queue(struct sim_view *v, unsigned port, uint32_t last)
{
    struct sim_queue *q = &v->d->vcpu[(last >> 8) % SIM_VCPUS_MAX].queue[last % SIM_PRIORITIES];
    sim_lock(&q->lock, v->sim->pid);
    if (q->tail == port && !(atomic_load(&v->fifo[port]) & FIFO_LINKED)) q->tail = 0;
    sim_unlock(&q->lock);
}

void sim_fifo_set_pending(struct sim_view *v, unsigned port)
{
    _Atomic uint32_t *word = &v->fifo[port];
    struct sim_channel *c = &v->channel[port];
    uint32_t w = atomic_fetch_or(word, FIFO_PENDING);
    if (w & (FIFO_MASKED | FIFO_LINKED)) return;
    unsigned vcpu = c->vcpu, priority = c->priority % SIM_PRIORITIES;
    struct sim_vcpu_info *info = &v->d->info[vcpu];
    struct sim_queue *q = &v->d->vcpu[vcpu].queue[priority];
    bool linked = false;
    uint32_t last = atomic_load_explicit(&c->last, memory_order_relaxed), now = vcpu << 8 | priority;
    if (last != now) leave_queue(v, port, last);
    sim_lock(&q->lock, v->sim->pid);
    if (atomic_fetch_or(word, FIFO_LINKED) & FIFO_LINKED) {
        sim_unlock(&q->lock);
        return;
    }
    /* It was the tail, and was taken out: the queue is empty. */
    if (q->tail == port) q->tail = 0;
    if (q->tail) linked = link_to(&v->fifo[q->tail], port);
    if (!linked) atomic_store(&info->head[priority], port);
    q->tail = port;
    atomic_store_explicit(&c->last, now, memory_order_relaxed);
    sim_unlock(&q->lock);
    if (!linked && !(atomic_fetch_or(&info->ready, 1u << priority) & 1u << priority)) sim_upcall(v, vcpu);
}

void sim_fifo_mask(struct sim_view *v, unsigned port)
{
    atomic_fetch_or(&v->fifo[port], FIFO_MASKED);
}

/* The domain's half: not while the hypervisor is at the word. Then the hypervisor's: what was pending is queued. */
void sim_fifo_unmask(struct sim_view *v, unsigned port)
{
    _Atomic uint32_t *word = &v->fifo[port];
    uint32_t w = atomic_load(word);
    for (unsigned spins = 0; w & FIFO_MASKED; spins++) {
        if (spins < 10000) w &= ~FIFO_BUSY; /* killed while it linked: BUSY is nobody's */
        if (atomic_compare_exchange_weak(word, &w, w & ~FIFO_MASKED)) break;
    }
    if (w & FIFO_PENDING) sim_fifo_set_pending(v, port);
}

/* What is linked stays so, until its queue has passed it. */
void sim_fifo_reset(struct sim_view *v, unsigned port)
{
    atomic_fetch_and(&v->fifo[port], ~(FIFO_PENDING | FIFO_MASKED));
}

/* Out of its queue; the next one, or 0. */
static uint32_t unlink_word(_Atomic uint32_t *word)
{
    uint32_t w = atomic_load(word);
    while (!atomic_compare_exchange_weak(word, &w, w & ~(FIFO_LINKED | FIFO_LINK)))
        ;
    return w & FIFO_LINK;
}

/* Pending, and nobody masked it: masked now, and taken. */
static bool take_word(_Atomic uint32_t *word)
{
    uint32_t w = atomic_load(word);
    do {
        if (!(w & FIFO_PENDING) || w & FIFO_MASKED) return false;
    } while (!atomic_compare_exchange_weak(word, &w, (w & ~FIFO_PENDING) | FIFO_MASKED));
    return true;
}

unsigned sim_fifo_take(struct sim_cpu *c, int *ports, unsigned max, bool *more)
{
    struct sim_view *v = c->view;
    struct sim_vcpu_info *info = &v->d->info[c->vcpu];
    unsigned n = 0;
    c->ready |= atomic_exchange(&info->ready, 0);
    /* The count of steps is bounded: words that the domain spoilt may be linked in a circle. */
    for (unsigned steps = 0; c->ready && n < max && steps < v->d->ports; steps++) {
        unsigned priority = (unsigned)__builtin_ctz(c->ready);
        if (priority >= SIM_PRIORITIES) {
            c->ready = 0;
            break;
        }
        uint32_t port = c->head[priority];
        if (!port) port = atomic_load(&info->head[priority]);
        if (port >= v->d->ports) port = 0;
        uint32_t next = port ? unlink_word(&v->fifo[port]) : 0;
        if (!next) c->ready &= ~(1u << priority);
        c->head[priority] = next;
        if (port && sim_cpu_owns(c, (int)port) && take_word(&v->fifo[port])) ports[n++] = (int)port;
        c->ready |= atomic_exchange(&info->ready, 0);
    }
    *more = c->ready != 0;
    return n;
}
