/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile guest behind a network card: the input is what was agreed on and then a script of writes to guest memory and of what runners
 * do in between. Guest memory is 64 KiB at guest address 0: the transmit queue's rings from 0, the receive queue's from 0x4000,
 * the rest for indirect tables and buffers.
 *
 * input: flags, queue size - 1, features that were not agreed on (8 bytes), then commands (enum command, a byte) and their operands.
 * Whatever comes, a frame that leaves the card is one that a switch and another card can work with.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "packet/parse.h"
#include "vif/test_card.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY_BYTES 65536u
#define RX_AT 0x4000u
#define DRIVER_AT 0x2000u /* of a queue's part */
#define DEVICE_AT 0x3000u
#define SIZE_LIMIT 256u

enum command {
    WRITE,   /* offset (2 bytes), length - 1, data: to guest memory */
    RECEIVE, /* max - 1 */
    RELEASE,
    LOOP,    /* what was received goes back to the same guest */
    DELIVER, /* length (2 bytes), offloads (5 bytes): a frame of ours */
    SLEEP,
    RESTART,
    COMMANDS
};

enum flags { PACKED = 1, EVENT_IDX = 2, INDIRECT = 4, IN_ORDER = 8, COPY = 16 };

struct input {
    const uint8_t *at, *end;
};

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes && in->at < in->end; i++)
        v |= (uint64_t)*in->at++ << (8 * i);
    return v;
}

static struct guest_map *map;
static uint8_t *memory;

static void must(bool ok)
{
    if (!ok) abort();
}

static void map_once(void)
{
    if (map) return;
    int fd = memfd_create("fuzz-vif", MFD_CLOEXEC);
    must(fd >= 0 && ftruncate(fd, MEMORY_BYTES) == 0);
    /* Two regions that meet in the buffers. */
    struct guest_region_desc d[2] = {{{0}, 49152, 0x1000000, 0}, {{49152}, 16384, 0x2000000, 49152}};
    int fds[2] = {fd, fd};
    must(guest_map_new(&map, d, fds, 2, NULL, NULL) == 0);
    memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(memory != MAP_FAILED);
    close(fd);
}

struct guest {
    struct vif *vif;
    struct vif_kept kept;
    unsigned flags;
    uint16_t size;
    uint64_t features;
    uint32_t place[2];
    struct packet *packets[PACKET_BATCH];
    unsigned count;
};

static void queue_start(struct guest *g, unsigned index, bool resume)
{
    uint8_t *at = guest_map_at(map, (struct gpa){index ? 0 : RX_AT}, 0x4000);
    struct guest_queue q = {.index = index,
                            .setup = {.size = g->size,
                                      .packed = g->flags & PACKED,
                                      .event_idx = g->flags & EVENT_IDX,
                                      .indirect = g->flags & INDIRECT,
                                      .in_order = g->flags & IN_ORDER,
                                      .desc = at,
                                      .driver = at + DRIVER_AT,
                                      .device = at + DEVICE_AT,
                                      .base = g->place[index],
                                      .place = &g->place[index],
                                      .resume = resume},
                            .kick_fd = -1,
                            .call_fd = -1};
    vif_guest_ops(g->vif)->queue_start(g->vif, &q, map);
}

static void card_new(struct guest *g, bool resume)
{
    struct vif_config c = {.name = "fuzz",
                           .mac = {2},
                           .mtu = 1500,
                           .queue_pairs = 1,
                           .packed = true,
                           .in_order = true,
                           .offloads = true,
                           .transmit_copy = g->flags & COPY,
                           .kept = &g->kept};
    struct errmsg e;
    must(vif_new(&g->vif, &c, &card_runners, &e) == 0);
    must(vif_guest_ops(g->vif)->set_features(g->vif, g->features) == 0);
    queue_start(g, 0, resume);
    queue_start(g, 1, resume);
}

static void write_memory(struct input *in)
{
    size_t at = (size_t)take(in, 2), length = (size_t)take(in, 1) + 1;
    if (length > (size_t)(in->end - in->at)) length = (size_t)(in->end - in->at);
    if (length > MEMORY_BYTES - at) length = MEMORY_BYTES - at;
    memcpy(memory + at, in->at, length);
    in->at += length;
}

/* Finishing the checksum changes no address and no port, nor anything before them. */
static void check_csum_place(const struct packet *p)
{
    const struct packet_offload *o = &p->offload;
    struct packet_layers l = packet_parse(p);
    must(l.l4_at != PACKET_NO_LAYER && o->csum_start >= l.l4_at);
    must(o->csum_offset == 16 || o->csum_offset == 6);
    if (o->csum_start == l.l4_at) must(l.proto == (o->csum_offset == 16 ? 6 : 17));
    else must(o->csum_start >= l.l4_at + 4u && l.proto != 6);
    must(o->csum_start + o->csum_offset + 2 <= p->head_bytes);
}

static void check_packet(const struct packet *p)
{
    uint64_t bytes = p->head_bytes;
    must(p->length_bytes >= 14 && p->length_bytes <= PACKET_MAX_BYTES && p->room_bytes >= PACKET_ROOM_BYTES);
    must(p->head_bytes == (p->length_bytes < PACKET_HEAD_BYTES ? p->length_bytes : PACKET_HEAD_BYTES));
    must(p->body_count <= PACKET_BODY_IOV_MAX);
    for (unsigned i = 0; i < p->body_count; i++) {
        must(p->body[i].iov_len > 0);
        bytes += p->body[i].iov_len;
    }
    must(bytes == p->length_bytes);
    const struct packet_offload *o = &p->offload;
    if (o->csum_partial) check_csum_place(p);
    if (o->gso)
        must(packet_csum_place(p) == PACKET_CSUM_L4 && o->csum_partial && o->gso_size > 0 && o->gso <= PACKET_GSO_UDP6);
}

static void release(struct guest *g)
{
    struct port_source *s = &g->vif->tx[0].source;
    if (g->count) s->ops->release(s);
    g->count = 0;
}

static void receive(struct guest *g, unsigned max)
{
    struct port_source *s = &g->vif->tx[0].source;
    release(g);
    if (!g->vif->tx[0].vq) return;
    int n = s->ops->receive(s, g->packets, max, NULL);
    must(n <= (int)max && (n >= 0 || vif_broken(g->vif)));
    g->count = n > 0 ? (unsigned)n : 0;
    for (unsigned i = 0; i < g->count; i++)
        check_packet(g->packets[i]);
}

static void deliver(struct guest *g, struct packet *const *packets, unsigned count)
{
    struct port *p = vif_port(g->vif);
    if (count) p->ops->send(p, packets, count, NULL);
}

static void deliver_ours(struct guest *g, struct input *in)
{
    static uint8_t frame[PACKET_MAX_BYTES];
    struct packet p = {.head = frame, .length_bytes = 14 + (uint32_t)take(in, 2) % (PACKET_MAX_BYTES - 14)};
    uint64_t offload = take(in, 5);
    p.head_bytes = (uint16_t)(p.length_bytes < PACKET_HEAD_BYTES ? p.length_bytes : PACKET_HEAD_BYTES);
    struct iovec body = {frame + p.head_bytes, p.length_bytes - p.head_bytes};
    p.body = &body;
    p.body_count = body.iov_len ? 1 : 0;
    p.offload = (struct packet_offload){.csum_partial = offload & 1, .csum_valid = offload & 2, .gso_ecn = offload & 4};
    p.offload.gso = (uint8_t)((offload >> 3) % 5);
    p.offload.gso_size = (uint16_t)(offload >> 8);
    p.offload.csum_start = (uint16_t)(offload >> 24);
    struct packet *one = &p;
    deliver(g, &one, 1);
}

static void sleep_and_wake(struct guest *g)
{
    struct port_source *s = &g->vif->tx[0].source;
    if (!g->vif->tx[0].vq) return;
    s->ops->arm(s);
    s->ops->disarm(s);
}

/* Killed and taken over; or stopped. */
static void restart(struct guest *g)
{
    uint32_t place[2] = {g->place[0], g->place[1]};
    g->vif->tx[0].chain_count = 0;
    g->count = 0;
    vif_free(g->vif);
    memcpy(g->place, place, sizeof place);
    card_new(g, true);
}

static void run(struct guest *g, struct input *in)
{
    while (in->at < in->end) {
        switch (take(in, 1) % COMMANDS) {
        case WRITE: write_memory(in); break;
        case RECEIVE: receive(g, 1 + (unsigned)take(in, 1) % PACKET_BATCH); break;
        case RELEASE: release(g); break;
        case LOOP: deliver(g, g->packets, g->count); break;
        case DELIVER: deliver_ours(g, in); break;
        case SLEEP: sleep_and_wake(g); break;
        case RESTART: restart(g); break;
        }
    }
    release(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    map_once();
    log_setup("fuzz", (enum log_level)0);
    memset(memory, 0, MEMORY_BYTES);
    struct input in = {data, data + size};
    struct guest g = {.flags = (unsigned)take(&in, 1)};
    g.size = (uint16_t)(take(&in, 1) % SIZE_LIMIT + 1);
    if (!(g.flags & PACKED)) /* a power of two */
        while (g.size & (g.size - 1))
            g.size &= (uint16_t)(g.size - 1);
    g.features = ~take(&in, 8);
    g.place[0] = g.place[1] = g.flags & PACKED ? 0x80008000u : 0;
    card_new(&g, false);
    run(&g, &in);
    vif_free(g.vif);
    return 0;
}
