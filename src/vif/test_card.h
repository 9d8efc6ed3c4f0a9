/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A card with a guest in front of it, for tests: guest memory and simulated drivers on its queues.
 */
#ifndef VIF_TEST_CARD_H
#define VIF_TEST_CARD_H

#include "ring/driver_sim.h"
#include "vif/virtio.h"

#define CARD_BASE UINT64_C(0x100000000)
#define CARD_MEMORY_BYTES (64u << 20)
#define CARD_QUEUES 8u                /* four pairs */
#define CARD_QUEUE_BYTES (7u << 20)   /* of each queue: rings, tables, buffers */
#define CARD_RING_BYTES (64u << 10)   /* descriptors, driver area, device area: from the start, 64 KiB apart */
#define CARD_INDIRECT_AT (192u << 10) /* within a queue's part */
#define CARD_BUFFERS_AT (2u << 20)

struct card_options {
    uint16_t size;         /* 0: 64 */
    unsigned pairs;        /* 0: 1 */
    uint16_t mtu;          /* 0: 1500 */
    unsigned indirect_max; /* 0: 128; descriptors of a table */
    uint64_t without;      /* features that the driver does not accept */
    bool packed, no_event_idx, in_order, transmit_copy, no_offloads;
    struct vif_rate from_guest, to_guest;
};

struct card_queue {
    struct driver_sim *driver;
    uint8_t *memory; /* this queue's part, as the guest has it */
    uint64_t gpa;
    uint32_t place; /* as a session keeps it */
    int kick, call;
    bool running;
};

struct card {
    struct card_options o;
    struct vif_kept kept;
    struct vif *vif;
    uint8_t *memory;
    int memory_fd;
    struct guest_map *map;
    struct card_queue queue[CARD_QUEUES];
};

/* Of test_runner.c, where nothing runs by itself; or the test's own. */
extern const struct vif_runners card_runners;

void card_open(struct card *c, const struct card_options *o);
void card_close(struct card *c);
/* `pieces` regions of equal size. */
struct guest_map *card_map(struct card *c, unsigned pieces);
void card_queue_start(struct card *c, unsigned index, bool resume);
uint32_t card_queue_stop(struct card *c, unsigned index);
/* The process ends and another one takes over: no queue is stopped. */
void card_kill(struct card *c);
/* What is in the transmit queue of this pair, as the runner would take it. Then card_release(), when there were any. */
int card_receive(struct card *c, unsigned pair, struct packet **out, unsigned max);
void card_release(struct card *c, unsigned pair);

#endif
