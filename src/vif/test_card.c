/* SPDX-License-Identifier: Apache-2.0 */
#include "vif/test_card.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- the card ---- */

static void must(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "test card: %s\n", what);
    abort();
}

struct guest_map *card_map(struct card *c, unsigned pieces)
{
    struct guest_region_desc desc[8];
    int fds[8];
    struct guest_map *map;
    struct errmsg e;
    for (unsigned i = 0; i < pieces; i++) {
        uint64_t at = (uint64_t)i * (CARD_MEMORY_BYTES / pieces);
        desc[i] = (struct guest_region_desc){{CARD_BASE + at}, CARD_MEMORY_BYTES / pieces, 0x7000000000 + at, at};
        fds[i] = c->memory_fd;
    }
    if (guest_map_new(&map, desc, fds, pieces, NULL, &e) < 0) must(false, e.text);
    return map;
}

static void device_new(struct card *c)
{
    struct vif_config config = {.name = "test",
                                .mac = {2, 0, 0, 0, 0, 1},
                                .mtu = c->o.mtu,
                                .queue_pairs = c->o.pairs,
                                .packed = c->o.packed,
                                .in_order = c->o.in_order,
                                .offloads = !c->o.no_offloads,
                                .transmit_copy = c->o.transmit_copy,
                                .from_guest = c->o.from_guest,
                                .to_guest = c->o.to_guest,
                                .kept = &c->kept};
    struct errmsg e;
    if (vif_new(&c->vif, &config, &card_runners, &e) < 0) must(false, e.text);
    const struct guest_device_ops *ops = vif_guest_ops(c->vif);
    must(ops->set_features(c->vif, ops->features & ~c->o.without) == 0, "features");
}

static bool event_idx(const struct card *c)
{
    return !c->o.no_event_idx;
}

static void driver_new(struct card *c, unsigned index, uint32_t base)
{
    struct card_queue *q = &c->queue[index];
    struct driver_sim_setup s = {.size = c->o.size,
                                 .packed = c->o.packed,
                                 .event_idx = event_idx(c),
                                 .in_order = c->o.in_order,
                                 .desc = q->memory,
                                 .driver = q->memory + CARD_RING_BYTES,
                                 .device = q->memory + 2 * CARD_RING_BYTES,
                                 .base = base,
                                 .indirect = q->memory + CARD_INDIRECT_AT,
                                 .indirect_addr = {q->gpa + CARD_INDIRECT_AT},
                                 .indirect_max = c->o.indirect_max};
    must(driver_sim_new(&q->driver, &s) == 0, "driver");
}

void card_queue_start(struct card *c, unsigned index, bool resume)
{
    struct card_queue *q = &c->queue[index];
    uint8_t *host = guest_map_at(c->map, (struct gpa){q->gpa}, CARD_RING_BYTES);
    struct guest_queue setup = {.index = index,
                                .setup = {.size = c->o.size,
                                          .packed = c->o.packed,
                                          .event_idx = event_idx(c),
                                          .indirect = true,
                                          .in_order = c->o.in_order,
                                          .desc = host,
                                          .driver = host + CARD_RING_BYTES,
                                          .device = host + 2 * CARD_RING_BYTES,
                                          .base = q->place,
                                          .place = &q->place,
                                          .resume = resume},
                                .kick_fd = q->kick,
                                .call_fd = q->call};
    must(vif_guest_ops(c->vif)->queue_start(c->vif, &setup, c->map) == 0, "queue_start");
    q->running = true;
}

uint32_t card_queue_stop(struct card *c, unsigned index)
{
    struct card_queue *q = &c->queue[index];
    q->running = false;
    q->place = vif_guest_ops(c->vif)->queue_stop(c->vif, index);
    return q->place;
}

void card_open(struct card *c, const struct card_options *o)
{
    guest_memory_init(); /* cmocka catches SIGBUS itself, from the start of each test */
    *c = (struct card){.o = *o};
    if (c->o.size == 0) c->o.size = 64;
    if (c->o.mtu == 0) c->o.mtu = 1500;
    if (c->o.pairs == 0) c->o.pairs = 1;
    if (c->o.indirect_max == 0) c->o.indirect_max = 128; /* who wants more uses few of them */
    must(c->o.pairs * 2 <= CARD_QUEUES, "pairs");
    c->memory_fd = memfd_create("test-guest", MFD_CLOEXEC);
    must(c->memory_fd >= 0 && ftruncate(c->memory_fd, CARD_MEMORY_BYTES) == 0, "memory");
    c->memory = mmap(NULL, CARD_MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, c->memory_fd, 0);
    must(c->memory != MAP_FAILED, "memory");
    c->map = card_map(c, 2);
    device_new(c);
    for (unsigned i = 0; i < c->o.pairs * 2; i++) {
        struct card_queue *q = &c->queue[i];
        q->memory = c->memory + (size_t)i * CARD_QUEUE_BYTES;
        q->gpa = CARD_BASE + (uint64_t)i * CARD_QUEUE_BYTES;
        q->kick = eventfd(0, EFD_NONBLOCK);
        q->call = eventfd(0, EFD_NONBLOCK);
        q->place = c->o.packed ? 0x80008000u : 0;
        driver_new(c, i, q->place);
        card_queue_start(c, i, false);
    }
}

void card_close(struct card *c)
{
    for (unsigned i = 0; i < c->o.pairs * 2; i++) {
        struct card_queue *q = &c->queue[i];
        if (q->running) card_queue_stop(c, i);
        if (driver_sim_error(q->driver)) must(false, driver_sim_error(q->driver));
        driver_sim_free(q->driver);
        close(q->kick);
        close(q->call);
    }
    vif_free(c->vif);
    guest_map_unref(c->map);
    munmap(c->memory, CARD_MEMORY_BYTES);
    close(c->memory_fd);
}

void card_kill(struct card *c)
{
    uint32_t place[CARD_QUEUES];
    for (unsigned i = 0; i < c->o.pairs * 2; i++)
        place[i] = c->queue[i].place;
    for (unsigned i = 0; i < c->o.pairs; i++)
        c->vif->tx[i].chain_count = 0; /* those that are in flight are never given back */
    vif_free(c->vif);
    device_new(c);
    for (unsigned i = 0; i < c->o.pairs * 2; i++) {
        c->queue[i].place = place[i];
        card_queue_start(c, i, true);
    }
}

int card_receive(struct card *c, unsigned pair, struct packet **out, unsigned max)
{
    struct port_source *s = &c->vif->tx[pair].source;
    return s->ops->receive(s, out, max, NULL);
}

void card_release(struct card *c, unsigned pair)
{
    struct port_source *s = &c->vif->tx[pair].source;
    s->ops->release(s);
}
