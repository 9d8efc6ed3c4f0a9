/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's half of a simulated machine: a kernel's few calls, for tests, fuzzing and benchmarks. */
#include "guest/sim_machine.h"

#include <errno.h>
#include <stdlib.h>

/* Numbers that are free, the last one given back on top. */
struct numbers {
    uint32_t *list;
    uint32_t count;
};

struct sim_guest {
    struct sim_view *view;
    struct sim_cpu cpu;
    struct numbers pages, refs;
};

static bool numbers_init(struct numbers *n, uint32_t first, uint32_t end)
{
    uint32_t count = end > first ? end - first : 0;
    n->list = malloc((count + 1) * sizeof *n->list);
    if (!n->list) return false;
    for (n->count = 0; n->count < count; n->count++)
        n->list[n->count] = end - 1 - n->count;
    return true;
}

int sim_guest_create(struct sim_guest **out, struct sim *s, const struct sim_guest_options *o, struct errmsg *e)
{
    struct sim_guest *g = calloc(1, sizeof *g);
    if (!g) return errmsg_set(e, ENOMEM, "out of memory");
    int ret = sim_guest_domain(s, &g->view, o, e);
    if (!ret) {
        ret = sim_cpu_init(&g->cpu, g->view, 0);
        if (!numbers_init(&g->pages, 0, o->pages) || !numbers_init(&g->refs, SIM_GRANTS_RESERVED, o->grants))
            ret = -ENOMEM;
        if (ret) errmsg_sys(e, -ret, "domain %u", o->domid);
    }
    if (ret) sim_guest_free(g);
    else *out = g;
    return ret;
}

void sim_guest_free(struct sim_guest *g)
{
    if (!g) return;
    if (g->view) sim_guest_domain_end(g->view);
    sim_cpu_free(&g->cpu);
    sim_view_put(g->view);
    free(g->pages.list);
    free(g->refs.list);
    free(g);
}

void *sim_guest_page(struct sim_guest *g, uint32_t frame)
{
    return frame < g->view->d->pages ? g->view->memory + (size_t)frame * XEN_PAGE_BYTES : NULL;
}

uint32_t sim_guest_frame(struct sim_guest *g, const void *page)
{
    return (uint32_t)((size_t)((const char *)page - (const char *)g->view->memory) / XEN_PAGE_BYTES);
}

int64_t sim_page_take(struct sim_guest *g)
{
    return g->pages.count ? (int64_t)g->pages.list[--g->pages.count] : -ENOSPC;
}

/* The frame first: the flags make it valid. */
int64_t sim_grant(struct sim_guest *g, xen_domid to, uint32_t frame, bool readonly)
{
    if (!g->refs.count) return -ENOSPC;
    uint32_t ref = g->refs.list[--g->refs.count];
    struct sim_entry *entry = &g->view->entry[ref];
    atomic_store_explicit(&entry->frame, frame, memory_order_relaxed);
    uint32_t flags = GRANT_ACCESS | (readonly ? GRANT_READONLY : 0);
    atomic_store_explicit(&entry->head, flags | (uint32_t)to << GRANT_DOMID_SHIFT, memory_order_release);
    return ref;
}

int sim_revoke(struct sim_guest *g, uint32_t ref)
{
    struct sim_entry *entry = &g->view->entry[ref];
    uint32_t head = atomic_load(&entry->head);
    do {
        if (head & (GRANT_READING | GRANT_WRITING)) return -EBUSY;
    } while (!atomic_compare_exchange_weak(&entry->head, &head, head & ~UINT32_C(0xffff)));
    g->refs.list[g->refs.count++] = ref;
    return 0;
}

int sim_grant_anew(struct sim_guest *g, uint32_t *ref, xen_domid to, uint32_t frame, bool readonly)
{
    int ret = sim_revoke(g, *ref);
    if (ret == 0) *ref = (uint32_t)sim_grant(g, to, frame, readonly); /* the one that was just given back */
    return ret;
}

_Atomic uint32_t *sim_grant_entry(struct sim_guest *g, uint32_t ref)
{
    return ref < g->view->d->grants ? &g->view->entry[ref].head : NULL;
}

int sim_port_alloc(struct sim_guest *g, xen_domid to)
{
    int port = sim_channel_alloc(g->view, to, 0);
    if (port > 0) sim_cpu_own(&g->cpu, port, true);
    return port;
}

void sim_port_free(struct sim_guest *g, int port)
{
    if (!sim_cpu_owns(&g->cpu, port)) return;
    sim_cpu_own(&g->cpu, port, false);
    sim_channel_close(g->view, (unsigned)port);
}

void sim_port_notify(struct sim_guest *g, int port)
{
    if (sim_cpu_owns(&g->cpu, port)) sim_channel_send(g->view, (unsigned)port);
}

int sim_event_fd(struct sim_guest *g)
{
    return sim_pipe(g->view, 0);
}

unsigned sim_pending(struct sim_guest *g, int *ports, unsigned max)
{
    return sim_cpu_pending(&g->cpu, ports, max);
}

void sim_mask(struct sim_guest *g, int port)
{
    if (sim_cpu_owns(&g->cpu, port)) sim_channel_mask(g->view, (unsigned)port);
}

void sim_unmask(struct sim_guest *g, int port)
{
    if (sim_cpu_owns(&g->cpu, port)) sim_channel_unmask(g->view, (unsigned)port);
}

int sim_port_priority(struct sim_guest *g, int port, unsigned priority)
{
    if (!sim_is_fifo(g->view) || priority >= SIM_PRIORITIES || !sim_cpu_owns(&g->cpu, port)) return -EINVAL;
    struct sim_channel *c = &g->view->channel[port];
    sim_lock(&c->lock, g->view->sim->pid);
    c->priority = (uint8_t)priority;
    sim_unlock(&c->lock);
    return 0;
}
