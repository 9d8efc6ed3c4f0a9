/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a frame costs in a network card, apart from the switch: taken from one guest's transmit queue, copied into another's
 * receive queue, given back. Drivers (simulated) and devices take turns on one core, with everything in the cache; only the
 * devices' parts are timed, and the median batch of 32 is shown.
 *
 *   take      pop a batch of transmit chains, headers copied and checked
 *   give back push them, publish
 *   send      pop receive buffers, copy frames in, push, publish
 *
 * usage: ring-net-bench [frames per figure, default 1000000]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "vif/test_card.h"

#define BATCH 32u
#define QUEUE_SIZE 256u
#define SLOTS 64u /* buffers in turn */

#if defined(__x86_64__)
#define TICKS() __builtin_ia32_rdtsc()
#define TICKS_NAME "TSC cycles"
#else
#define TICKS() clock_now_ns()
#define TICKS_NAME "ns"
#endif

enum part { TAKE, SEND, GIVE_BACK, PARTS };

struct shape {
    const char *name;
    bool packed, in_order;
    unsigned frame_bytes, buffer_bytes;
};

static void fail(const char *what)
{
    fprintf(stderr, "ring-net-bench: %s\n", what);
    exit(1);
}

static void drive(struct card *from, struct card *to, const struct shape *s, uint64_t n)
{
    struct card_queue *tx = &from->queue[1], *rx = &to->queue[0];
    size_t stride = align_up(s->frame_bytes + 12, 64), room = align_up(s->buffer_bytes, 64);
    unsigned buffers = (unsigned)div_round_up(s->frame_bytes + 12, s->buffer_bytes);
    for (unsigned i = 0; i < BATCH; i++) {
        uint64_t slot = (n + i) % SLOTS;
        struct driver_sim_buf out = {{tx->gpa + CARD_BUFFERS_AT + slot * stride}, s->frame_bytes + 12, false};
        if (!driver_sim_add(tx->driver, &out, 1, false, slot)) fail("no room to send");
        for (unsigned k = 0; k < buffers; k++) {
            struct driver_sim_buf in = {
                {rx->gpa + CARD_BUFFERS_AT + (slot * buffers + k) * room}, s->buffer_bytes, true};
            if (!driver_sim_add(rx->driver, &in, 1, false, slot)) fail("no room to receive");
        }
    }
    driver_sim_publish(tx->driver);
    driver_sim_publish(rx->driver);
}

static void collect(struct driver_sim *d, unsigned count)
{
    uint64_t token;
    uint32_t written;
    while (driver_sim_get(d, &token, &written))
        count--;
    if (count || driver_sim_error(d)) fail(driver_sim_error(d) ? driver_sim_error(d) : "not all came back");
}

static void round_trip(struct card *from, struct card *to, const struct shape *s, uint64_t ticks[PARTS])
{
    struct packet *packets[PACKET_BATCH];
    struct port *p = vif_port(to->vif);
    uint64_t t0 = TICKS();
    int n = card_receive(from, 0, packets, BATCH);
    uint64_t t1 = TICKS();
    if (n != (int)BATCH) fail("a batch is not whole");
    p->ops->send(p, packets, BATCH, NULL);
    uint64_t t2 = TICKS();
    card_release(from, 0);
    uint64_t t3 = TICKS();
    ticks[TAKE] = t1 - t0, ticks[SEND] = t2 - t1, ticks[GIVE_BACK] = t3 - t2;
    collect(from->queue[1].driver, BATCH);
    collect(to->queue[0].driver, BATCH * (unsigned)div_round_up(s->frame_bytes + 12, s->buffer_bytes));
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void figure(const struct shape *s, uint64_t frames)
{
    struct card from, to;
    struct card_options o = {.packed = s->packed, .in_order = s->in_order, .size = QUEUE_SIZE};
    card_open(&from, &o);
    o.size = s->buffer_bytes < s->frame_bytes ? 2048 : QUEUE_SIZE;
    card_open(&to, &o);
    driver_sim_calls_off(from.queue[1].driver);
    driver_sim_calls_off(to.queue[0].driver);
    uint64_t batches = frames / BATCH + 1;
    uint64_t *ticks[PARTS];
    for (unsigned i = 0; i < PARTS; i++)
        if (!(ticks[i] = malloc(batches * sizeof **ticks))) fail("no memory");
    for (uint64_t b = 0; b < batches; b++) {
        uint64_t t[PARTS];
        drive(&from, &to, s, b * BATCH);
        round_trip(&from, &to, s, t);
        for (unsigned i = 0; i < PARTS; i++)
            ticks[i][b] = t[i];
    }
    printf("%-18s %6u %6u", s->name, s->frame_bytes, s->buffer_bytes);
    for (unsigned i = 0; i < PARTS; i++) {
        qsort(ticks[i], batches, sizeof **ticks, by_size);
        printf(" %9.1f", (double)ticks[i][batches / 2] / BATCH);
        free(ticks[i]);
    }
    printf("\n");
    fflush(stdout);
    card_close(&from);
    card_close(&to);
}

int main(int argc, char **argv)
{
    uint64_t frames = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    static const struct shape shapes[] = {
        {"split", false, false, 64, 2048},           {"packed", true, false, 64, 2048},
        {"split in order", false, true, 64, 2048},   {"packed in order", true, true, 64, 2048},
        {"split", false, false, 1514, 2048},         {"packed", true, false, 1514, 2048},
        {"split merged", false, false, 65000, 2048}, {"packed merged", true, false, 65000, 2048},
        {"split large", false, false, 65000, 65536},
    };
    if (frames < BATCH || argc > 2) {
        fprintf(stderr, "usage: ring-net-bench [frames per figure]\n");
        return 2;
    }
#ifdef CREEDENCE_SANITIZED
    puts("ring-net-bench: a sanitized build: these are not figures");
#endif
    printf(TICKS_NAME " per frame, queue %u, batch %u\n", QUEUE_SIZE, BATCH);
    printf("%-18s %6s %6s %9s %9s %9s\n", "rings", "frame", "buffer", "take", "send", "give back");
    for (unsigned i = 0; i < ARRAY_LEN(shapes); i++)
        figure(&shapes[i], shapes[i].frame_bytes > 10000 ? frames / 50 + BATCH : frames);
    return 0;
}
