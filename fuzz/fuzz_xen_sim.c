/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that writes anything into its grant entries, its event words and its memory, while the host maps, copies, binds and
 * takes events. The input is a list of operations of four bytes. Beside it a guest that behaves: its grants and events
 * must work whatever the other does, and at the end nothing may be left mapped or bound.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/persistent.h"
#include "guest/sim_machine.h"

#define HOSTILE 1
#define HONEST 2
#define MAPS 16u
#define PORTS 8u
#define PAGES 16u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct sim *sim;
static char dir[] = "/dev/shm/fuzz-xen-sim-XXXXXX";

struct world {
    struct xen *xen;
    struct sim_guest *hostile, *honest;
    struct sim_view *view; /* the hostile one's own memory */
    struct persistent *persistent;
    struct xen_map map[MAPS];
    int guest_port[PORTS], port[PORTS];
    uint32_t honest_ref;
    int honest_guest_port, honest_port;
};

static void remove_machine(void)
{
    sim_detach(sim);
    sim_remove(dir);
}

static void machine(const struct sim_options *o)
{
    assert(mkdtemp(dir) != NULL);
    assert(sim_create(&sim, dir, o, NULL) == 0);
    atexit(remove_machine);
}

static void open_world(struct world *w, enum sim_abi abi)
{
    memset(w, 0, sizeof *w);
    struct sim_guest_options g = {.domid = HOSTILE, .pages = PAGES, .grants = 32, .abi = abi};
    assert(sim_guest_create(&w->hostile, sim, &g, NULL) == 0);
    g.domid = HONEST;
    assert(sim_guest_create(&w->honest, sim, &g, NULL) == 0);
    assert(sim_xen_open(&w->xen, sim, NULL, false, NULL) == 0);
    w->view = sim_view_get(sim, HOSTILE);
    sim_view_put(w->view); /* the guest has it */
    for (unsigned i = 0; i < 8; i++)
        assert(sim_grant(w->hostile, SIM_HOST, i, i % 2) >= 0);
    w->honest_ref = (uint32_t)sim_grant(w->honest, SIM_HOST, 3, false);
    w->honest_guest_port = sim_port_alloc(w->honest, SIM_HOST);
    w->honest_port = w->xen->ops->bind(w->xen, HONEST, (uint32_t)w->honest_guest_port);
    w->persistent = persistent_new(w->xen, HOSTILE, 4);
    assert(w->honest_port > 0 && w->persistent);
}

static void copy(struct world *w, const uint8_t *op)
{
    uint8_t local[256] = {0};
    struct xen_copy c = {
        .ref = op[1] % 40, .offset = (uint16_t)(op[2] * 17), .length = op[3], .local = local, .to_guest = op[0] & 64};
    w->xen->ops->copy(w->xen, HOSTILE, &c, 1);
    assert(c.status <= 0);
    assert(c.status || c.offset + c.length <= XEN_PAGE_BYTES);
}

static void map(struct world *w, const uint8_t *op)
{
    struct xen_map *m = &w->map[op[1] % MAPS];
    if (m->page) {
        w->xen->ops->unmap(w->xen, m, 1);
        assert(!m->page);
        return;
    }
    *m = (struct xen_map){.ref = op[2] % 40};
    w->xen->ops->map(w->xen, HOSTILE, m, 1, op[3] & 1);
    assert((m->status == 0) == (m->page != NULL));
    if (m->page && op[3] & 1) *(volatile uint8_t *)m->page = op[3];
}

static void ring(struct world *w, const uint8_t *op)
{
    uint32_t refs[3] = {op[1] % 40, op[2] % 40, op[3] % 40};
    int ret;
    volatile uint8_t *pages = w->xen->ops->map_ring(w->xen, HOSTILE, refs, 3, &ret);
    assert((pages != NULL) == (ret == 0));
    if (pages) pages[2 * XEN_PAGE_BYTES] = pages[0];
    w->xen->ops->unmap_ring(w->xen, (void *)pages, 3);
}

static void keep(struct world *w, const uint8_t *op)
{
    void *page;
    unsigned slot;
    if (persistent_get(w->persistent, op[1] % 40, op[2] & 1, &page, &slot)) return;
    if (op[2] & 1) *(volatile uint8_t *)page = op[3];
    persistent_put(w->persistent, slot);
    assert(persistent_stats(w->persistent).mapped <= 4);
}

static void connect_port(struct world *w, const uint8_t *op)
{
    unsigned i = op[1] % PORTS;
    if (!w->guest_port[i]) w->guest_port[i] = sim_port_alloc(w->hostile, op[2] % 2 ? SIM_HOST : HONEST);
    else if (op[3] & 1 && w->port[i] <= 0) w->port[i] = w->xen->ops->bind(w->xen, HOSTILE, (uint32_t)w->guest_port[i]);
    else if (op[3] & 2) {
        sim_port_free(w->hostile, w->guest_port[i]);
        w->guest_port[i] = 0;
    } else if (w->port[i] > 0) {
        w->xen->ops->unbind(w->xen, w->port[i]);
        w->port[i] = 0;
    }
}

static void scribble(struct world *w, const uint8_t *op)
{
    uint32_t word = (uint32_t)op[2] << 24 | op[3];
    struct sim_vcpu_info *info = &w->view->d->info[0];
    switch (op[0] >> 4) {
    case 0: atomic_store(sim_grant_entry(w->hostile, op[1] % 32), (op[2] & 1) << 16 | op[3]); break;
    case 1: atomic_store(sim_grant_entry(w->hostile, op[1] % 32) + 1, op[3] % 20); break;
    case 2: atomic_store(sim_grant_entry(w->hostile, op[1] % 32) + 1, word); break;
    case 3: atomic_store(&w->view->fifo[op[1]], word); break;
    case 4: atomic_store(&info->head[op[1] % SIM_PRIORITIES], word); break;
    case 5: atomic_store(&info->ready, word); break;
    case 6: atomic_store(&info->selector, UINT64_C(0x0101010101010101) * op[3]); break;
    default: atomic_store(&info->upcall, op[3]); break;
    }
}

static void events(struct world *w, const uint8_t *op)
{
    int ports[4];
    unsigned i = op[1] % PORTS, n;
    if (op[2] & 1) sim_port_notify(w->hostile, w->guest_port[i]);
    if (op[2] & 2) w->xen->ops->notify(w->xen, w->port[i]);
    if (op[2] & 4) sim_unmask(w->hostile, w->guest_port[i]);
    if (op[2] & 8) sim_mask(w->hostile, w->guest_port[i]);
    if (op[2] & 16) sim_port_priority(w->hostile, w->guest_port[i], op[3]);
    if (op[2] & 32) sim_pending(w->hostile, ports, 4);
    while (op[2] & 64 && (n = w->xen->ops->pending(w->xen, ports, 4)))
        for (unsigned k = 0; k < n; k++)
            w->xen->ops->unmask(w->xen, ports[k]);
}

/* Its page is its own, its event comes, and comes once. */
static void honest(struct world *w)
{
    int ports[PORTS + 1];
    bool came = false;
    struct xen_map m = {.ref = w->honest_ref};
    w->xen->ops->map(w->xen, HONEST, &m, 1, true);
    assert(m.status == 0);
    memset(m.page, 5, XEN_PAGE_BYTES);
    assert(((uint8_t *)sim_guest_page(w->honest, 3))[4095] == 5);
    w->xen->ops->unmap(w->xen, &m, 1);
    for (unsigned n; (n = w->xen->ops->pending(w->xen, ports, PORTS + 1));)
        for (unsigned i = 0; i < n; i++)
            w->xen->ops->unmask(w->xen, ports[i]);
    sim_port_notify(w->honest, w->honest_guest_port);
    unsigned n = w->xen->ops->pending(w->xen, ports, PORTS + 1);
    for (unsigned i = 0; i < n; i++) {
        assert(!came || ports[i] != w->honest_port);
        came |= ports[i] == w->honest_port;
        w->xen->ops->unmask(w->xen, ports[i]);
    }
    assert(came);
    assert(sim_revoke(w->honest, w->honest_ref) == 0);
    w->honest_ref = (uint32_t)sim_grant(w->honest, SIM_HOST, 3, false);
}

static void close_world(struct world *w)
{
    persistent_free(w->persistent);
    xen_close(w->xen);
    sim_guest_free(w->hostile);
    sim_guest_free(w->honest);
    assert(sim_maps_used(sim) == 0);
    assert(sim_ports_used(sim, SIM_HOST) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const ops[])(struct world *, const uint8_t *) = {map,          copy,   ring,     keep,
                                                                   connect_port, events, scribble, scribble};
    struct world w;
    if (!sim) machine(&(struct sim_options){.abi = SIM_FIFO, .maptrack = 24});
    if (!size || size > 1024) return 0;
    open_world(&w, data[0] % 3);
    for (size_t at = 1; at + 4 <= size; at += 4)
        ops[data[at] % 8](&w, data + at);
    honest(&w);
    honest(&w);
    close_world(&w);
    return 0;
}
