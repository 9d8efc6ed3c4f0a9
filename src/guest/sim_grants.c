/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hypervisor's grant table of a simulated machine.
 *
 * The first to use a grant sets the bits of use in the guest's entry with one exchange of flags and domain together, so that a guest
 * that revokes at the same moment has either revoked before, or sees that it cannot. The frame is read once then, and kept for as
 * long as the grant is in use. The last one clears the bits. Each grant has its own lock (Xen 4.4 and later, in effect), or
 * there is one for all grants (6.2's); bytes are copied outside of it.
 */
#include "guest/sim_machine.h"

#include <errno.h>

#define STATUS_TRIES 5u

static atomic_int *active_lock(struct sim_view *g, uint32_t ref)
{
    struct sim_domain *host = g->sim->host->d;
    return host->one_lock ? &host->lock : &g->active[ref].lock;
}

/* Sets the bits of use, if the entry grants this. */
static int use_entry(struct sim_entry *entry, xen_domid local, bool writable)
{
    uint32_t head = atomic_load(&entry->head);
    uint32_t bits = GRANT_READING | (writable ? GRANT_WRITING : 0);
    for (unsigned i = 0; i < STATUS_TRIES; i++) {
        if ((head & GRANT_TYPE) != GRANT_ACCESS || head >> GRANT_DOMID_SHIFT != local) return -EINVAL;
        if (writable && head & GRANT_READONLY) return -EINVAL;
        if (atomic_compare_exchange_strong(&entry->head, &head, head | bits)) return 0;
    }
    return -EINVAL; /* the guest keeps changing it */
}

static void unuse_entry(struct sim_view *g, uint32_t ref, bool writable)
{
    struct sim_active *a = &g->active[ref];
    uint32_t bits = (writable && !a->writers ? GRANT_WRITING : 0) | (!a->writers && !a->readers ? GRANT_READING : 0);
    if (bits) atomic_fetch_and(&g->entry[ref].head, ~bits);
}

static int acquire(struct sim_view *g, xen_domid local, uint32_t ref, bool writable)
{
    struct sim_active *a = &g->active[ref];
    bool used = a->readers || a->writers;
    if (used && a->domid != local) return -EINVAL;
    if (!used || (writable && !a->writers)) {
        int ret = use_entry(&g->entry[ref], local, writable);
        if (ret) return ret;
    }
    if (!used) {
        a->domid = local;
        a->frame = atomic_load(&g->entry[ref].frame);
        if (a->frame >= g->d->pages) {
            unuse_entry(g, ref, writable);
            return -EFAULT;
        }
    }
    *(writable ? &a->writers : &a->readers) += 1;
    return 0;
}

int sim_grant_acquire(struct sim_view *g, xen_domid local, uint32_t ref, bool writable, uint32_t *frame)
{
    if (ref >= g->d->grants) return -EINVAL;
    atomic_int *lock = active_lock(g, ref);
    sim_lock(lock, g->sim->pid);
    int ret = atomic_load_explicit(&g->d->dying, memory_order_relaxed) ? -ESRCH : acquire(g, local, ref, writable);
    *frame = g->active[ref].frame;
    sim_unlock(lock);
    return ret;
}

void sim_grant_release(struct sim_view *g, uint32_t ref, bool writable)
{
    atomic_int *lock = active_lock(g, ref);
    sim_lock(lock, g->sim->pid);
    *(writable ? &g->active[ref].writers : &g->active[ref].readers) -= 1;
    unuse_entry(g, ref, writable);
    sim_unlock(lock);
}

/* A list without a lock; the count in the upper half tells a head that went away and came back from one that stayed. */
int64_t sim_track_take(struct sim_view *host, unsigned vcpu, struct sim_view *g, uint32_t ref, bool writable)
{
    uint64_t head = atomic_load(&host->d->track_free), next;
    do {
        uint32_t first = (uint32_t)head;
        if (!first || first > host->d->maptrack) return -ENOSPC;
        next = ((head >> 32) + 1) << 32 | atomic_load_explicit(&host->track[first - 1].next, memory_order_relaxed);
    } while (!atomic_compare_exchange_weak(&host->d->track_free, &head, next));
    struct sim_track *t = &host->track[(uint32_t)head - 1];
    t->domid = (xen_domid)g->d->domid;
    t->generation = g->d->generation;
    t->ref = ref;
    t->writable = writable;
    atomic_store(&t->owner, vcpu + 1);
    atomic_fetch_add(&host->d->tracks_used, 1);
    return (int64_t)(uint32_t)head - 1;
}

void sim_track_give(struct sim_view *host, uint32_t handle)
{
    struct sim_track *t = &host->track[handle];
    atomic_store(&t->owner, 0);
    atomic_fetch_sub(&host->d->tracks_used, 1);
    uint64_t head = atomic_load(&host->d->track_free), next;
    do {
        atomic_store_explicit(&t->next, (uint32_t)head, memory_order_relaxed);
        next = ((head >> 32) + 1) << 32 | (handle + 1);
    } while (!atomic_compare_exchange_weak(&host->d->track_free, &head, next));
}

void sim_track_reap(struct sim *s, unsigned vcpu)
{
    for (uint32_t i = 0; i < s->host->d->maptrack && atomic_load(&s->host->d->tracks_used); i++) {
        struct sim_track *t = &s->host->track[i];
        if (atomic_load(&t->owner) != vcpu + 1) continue;
        struct sim_view *g = sim_view_get(s, t->domid);
        if (g && g->d->generation == t->generation) sim_grant_release(g, t->ref, t->writable);
        sim_view_put(g);
        sim_track_give(s->host, i);
    }
}
