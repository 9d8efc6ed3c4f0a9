/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile network front end: the input is a script of writes to the two rings (and, at a restart, to what was kept) and of calls
 * that a backend makes in between. Whatever comes, what is popped keeps within the bounds that netif.h gives, and what was popped can
 * be answered.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ring/netif.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum command {
    WRITE_TX, /* offset (2 bytes), length - 1, data: to the ring */
    WRITE_RX,
    SPOIL,      /* offset (2 bytes), length - 1, data: to what was kept, which is taken over then */
    PRODUCE_TX, /* by how much: the request index */
    PRODUCE_RX,
    POP,
    PUSH,
    PUBLISH,
    FILL, /* how many buffers */
    RESTART,
    COMMANDS
};

struct input {
    const uint8_t *at, *end;
};

static _Alignas(4096) char rings[2][4096];
static struct netif_kept kept[2];

struct backend {
    struct netif_tx *tx;
    struct netif_rx *rx;
    unsigned held[NETIF_ENTRIES], held_count;
};

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes && in->at < in->end; i++)
        v |= (uint64_t)*in->at++ << (8 * i);
    return v;
}

static void check(bool ok)
{
    if (!ok) abort();
}

static void write_some(struct input *in, void *to, size_t room)
{
    size_t offset = take(in, 2) % room, n = take(in, 1) + 1;
    if (n > room - offset) n = room - offset;
    if (n > (size_t)(in->end - in->at)) n = (size_t)(in->end - in->at);
    memcpy((char *)to + offset, in->at, n);
    in->at += n;
}

static void produce(unsigned ring, uint64_t by)
{
    uint32_t *word = (uint32_t *)(void *)rings[ring];
    *word += (uint32_t)by;
}

static void attach(struct backend *b, bool resume)
{
    struct netif_setup tx = {rings[0], &kept[0], resume}, rx = {rings[1], &kept[1], resume};
    memset(b, 0, sizeof *b);
    check(netif_tx_new(&b->tx, &tx, NULL) == 0);
    check(netif_rx_new(&b->rx, &rx, NULL) == 0);
}

static void detach(struct backend *b)
{
    netif_tx_free(b->tx);
    netif_rx_free(b->rx);
}

static void pop(struct backend *b)
{
    struct netif_slot slots[NETIF_SLOTS_MAX];
    struct netif_tx_frame f;
    int ret = netif_tx_pop(b->tx, &f, slots);
    if (ret < 0) check(ret == -EPROTO && netif_tx_broken(b->tx));
    if (ret <= 0) return;
    check(f.entries >= 1 && f.entries <= NETIF_ENTRIES && f.slot_count >= 1 && f.slot_count <= NETIF_SLOTS_MAX);
    b->held[b->held_count++] = f.entries;
    check(b->held_count <= NETIF_ENTRIES);
    uint32_t sum = 0;
    for (unsigned i = 0; i < f.slot_count && !f.invalid; i++) {
        check(slots[i].offset <= 4096 && slots[i].length <= 4096 - slots[i].offset);
        sum += slots[i].length;
    }
    if (!f.invalid) check(sum == f.length && f.gso_type <= NETIF_GSO_TCP6);
}

static void push(struct backend *b)
{
    if (b->held_count == 0) return;
    netif_tx_push(b->tx, b->held[0], NETIF_OKAY);
    memmove(b->held, b->held + 1, --b->held_count * sizeof b->held[0]);
}

static void fill(struct backend *b, unsigned n)
{
    int there = netif_rx_available(b->rx);
    check(there >= -EPROTO && there <= (int)NETIF_ENTRIES);
    for (unsigned i = 0; there > 0 && i < n && i < (unsigned)there; i++) {
        netif_rx_pop(b->rx);
        if (i % 3 == 2) netif_rx_push_gso(b->rx, NETIF_GSO_TCP4, 100, false);
        else netif_rx_push(b->rx, 0, 100);
    }
    netif_rx_publish(b->rx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    struct backend b;
    memset(rings, 0, sizeof rings);
    memset(kept, 0, sizeof kept);
    attach(&b, false);
    while (in.at < in.end) {
        switch ((enum command)(take(&in, 1) % COMMANDS)) {
        case WRITE_TX: write_some(&in, rings[0], sizeof rings[0]); break;
        case WRITE_RX: write_some(&in, rings[1], sizeof rings[1]); break;
        case SPOIL:
            detach(&b);
            write_some(&in, kept, sizeof kept);
            attach(&b, true);
            break;
        case PRODUCE_TX: produce(0, take(&in, 1)); break;
        case PRODUCE_RX: produce(1, take(&in, 1)); break;
        case POP: pop(&b); break;
        case PUSH: push(&b); break;
        case PUBLISH:
            netif_tx_publish(b.tx);
            netif_tx_final_check(b.tx);
            break;
        case FILL: fill(&b, (unsigned)take(&in, 1)); break;
        case RESTART:
            detach(&b);
            attach(&b, true);
            break;
        case COMMANDS: break;
        }
    }
    detach(&b);
    return 0;
}
