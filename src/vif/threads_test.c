/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cards on real runners: several guests send to one at once, each from a thread of its own, while the control thread stops and starts the
 * receiver's queues and moves its memory. What arrives is whole, and in order for each sender.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "vif/test_card.h"

#define SENDERS 3u
#define QUEUE_SIZE 64u
#define SLOT_BYTES 4096u
#define PAIRS 2u
#define WINDOW 8u /* frames: they take up to half of a receiver's buffers */

#ifdef CREEDENCE_SANITIZED
#define RUN_MS 600u
#else
#define RUN_MS 1500u
#endif

struct frame {
    uint8_t dst[6], src[6], type[2];
    uint8_t sender, bytes[7];
    uint64_t number;
};

static struct card senders[SENDERS], receiver, silent;
static bool neighbours; /* senders[1] sends to the silent card, senders[0] no more than the receiver has room for */
static _Atomic bool stop;
static _Atomic uint64_t sent[SENDERS], arrived, wrong, confirmed;

/* ---- runners: the sink gives everything to the receiver, or what a bad neighbour sends to the silent card ---- */

static void *sink_new(void *arg, struct packet_pool *pool)
{
    return pool;
}

static void sink_free(void *thread)
{
    (void)thread;
}

static void sink_input(void *thread, struct port *in, struct packet *const *packets, unsigned count)
{
    bool bad = neighbours && in == vif_port(senders[1].vif);
    port_send(vif_port(bad ? silent.vif : receiver.vif), packets, count, thread);
}

static const struct runner_sink sink = {.thread_new = sink_new, .thread_free = sink_free, .input = sink_input};

static int get(void *arg, unsigned pair, struct runner **out)
{
    return runner_new(out, "test", &sink, 20000);
}

static void put(void *arg, unsigned pair, struct runner *r)
{
    runner_free(r);
}

const struct vif_runners card_runners = {get, put, NULL};

/* ---- guests ---- */

static void kick(const struct card_queue *q)
{
    uint64_t one = 1;
    ssize_t n = write(q->kick, &one, sizeof one);
    (void)n;
}

static uint32_t frame_length(uint64_t number)
{
    return (uint32_t)(sizeof(struct frame) + number * 2654435761u % 3000);
}

static void fill(uint8_t *at, unsigned sender, uint64_t number)
{
    struct frame f = {.dst = {2}, .src = {2}, .type = {8, 6}, .sender = (uint8_t)sender, .number = number};
    f.src[5] = (uint8_t)sender;
    memset(at, 0, 12);
    memcpy(at + 12, &f, sizeof f);
    memset(at + 12 + sizeof f, (int)(number & 0xff), frame_length(number) - sizeof f);
}

static bool may_send(unsigned me, uint64_t number)
{
    if (driver_sim_in_flight(senders[me].queue[1].driver) >= QUEUE_SIZE / 2) return false;
    return !neighbours || me != 0 || number - atomic_load(&confirmed) < WINDOW;
}

static void *sender_main(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg;
    struct card_queue *q = &senders[me].queue[1];
    uint64_t number = 0, token;
    uint32_t written;
    driver_sim_calls_off(q->driver);
    while (!atomic_load(&stop)) {
        for (unsigned i = 0; i < 16; i++) {
            uint64_t at = CARD_BUFFERS_AT + number % QUEUE_SIZE * SLOT_BYTES;
            struct driver_sim_buf buf[2] = {{{q->gpa + at}, 40, false},
                                            {{q->gpa + at + 40}, frame_length(number) + 12 - 40, false}};
            if (!may_send(me, number)) break;
            fill(q->memory + at, me, number);
            assert_true(driver_sim_add(q->driver, buf, 2, false, number));
            number++;
        }
        atomic_store(&sent[me], number);
        if (driver_sim_publish(q->driver)) kick(q);
        bool any = false;
        while (driver_sim_get(q->driver, &token, &written))
            any = true;
        if (!any) sched_yield();
    }
    return NULL;
}

static void post(struct card_queue *q, uint64_t slot)
{
    struct driver_sim_buf in = {{q->gpa + CARD_BUFFERS_AT + slot * SLOT_BYTES}, SLOT_BYTES / 4, true};
    assert_true(driver_sim_add(q->driver, &in, 1, false, slot));
}

/* The frame must be what its sender made. */
static void check(const uint8_t *bytes, size_t length, uint64_t last[SENDERS])
{
    struct frame f;
    memcpy(&f, bytes, sizeof f);
    bool good = f.sender < SENDERS && length == frame_length(f.number) && f.number >= last[f.sender];
    for (size_t i = sizeof f; good && i < length; i++)
        good = bytes[i] == (f.number & 0xff);
    if (good) last[f.sender] = f.number + 1;
    else atomic_fetch_add(&wrong, 1);
    atomic_fetch_add(&arrived, 1);
}

static pthread_mutex_t drivers_lock = PTHREAD_MUTEX_INITIALIZER; /* while a queue starts anew its driver does, too */

static void collect(struct card_queue *q, uint64_t last[SENDERS])
{
    static _Thread_local uint8_t bytes[16384];
    uint64_t token;
    uint32_t written;
    while (driver_sim_get(q->driver, &token, &written)) {
        struct virtio_net_hdr h;
        size_t at = 0;
        unsigned left = 0;
        do {
            const uint8_t *from = q->memory + CARD_BUFFERS_AT + token * SLOT_BYTES;
            memcpy(bytes + at, from, written);
            if (at == 0) {
                memcpy(&h, bytes, sizeof h);
                left = le16_get(h.num_buffers);
            }
            at += written;
            post(q, token);
        } while (--left > 0 && driver_sim_get(q->driver, &token, &written));
        if (left) atomic_fetch_add(&wrong, 1000000); /* a frame that is not whole */
        check(bytes + 12, at - 12, last);
    }
    driver_sim_publish(q->driver);
}

static void *receiver_main(void *arg)
{
    uint64_t last[PAIRS][SENDERS] = {{0}};
    while (!atomic_load(&stop)) {
        for (unsigned pair = 0; pair < PAIRS; pair++) {
            pthread_mutex_lock(&drivers_lock);
            collect(&receiver.queue[pair * 2], last[pair]);
            pthread_mutex_unlock(&drivers_lock);
        }
        sched_yield();
    }
    return NULL;
}

/* ---- the control thread ---- */

static void disturb(unsigned round)
{
    unsigned pair = round % PAIRS;
    switch (round % 4) {
    case 0: {
        struct guest_map *map = card_map(&receiver, 1 + round % 3);
        vif_guest_ops(receiver.vif)->set_map(receiver.vif, map, false);
        guest_map_unref(receiver.map);
        receiver.map = map;
        break;
    }
    case 1:
        pthread_mutex_lock(&drivers_lock);
        card_queue_stop(&receiver, pair * 2);
        card_queue_start(&receiver, pair * 2, false);
        pthread_mutex_unlock(&drivers_lock);
        break;
    case 2: vif_guest_ops(receiver.vif)->queue_set_call(receiver.vif, pair * 2, receiver.queue[pair * 2].call); break;
    default: {
        struct card *c = &senders[round / 4 % SENDERS];
        card_queue_stop(c, 1);
        card_queue_start(c, 1, false);
        kick(&c->queue[1]);
    }
    }
    vif_set_rate(receiver.vif, (struct vif_rate){0}, (struct vif_rate){.packets_per_s = round % 8 ? 0 : 100000});
}

static void flood(bool packed)
{
    pthread_t thread[SENDERS + 1];
    atomic_store(&stop, false);
    atomic_store(&arrived, 0);
    card_open(&receiver, &(struct card_options){.packed = packed, .pairs = PAIRS, .size = QUEUE_SIZE, .mtu = 4000});
    for (unsigned pair = 0; pair < PAIRS; pair++) {
        for (unsigned i = 0; i < QUEUE_SIZE; i++)
            post(&receiver.queue[pair * 2], i);
        driver_sim_publish(receiver.queue[pair * 2].driver);
    }
    for (unsigned i = 0; i < SENDERS; i++)
        card_open(&senders[i], &(struct card_options){.packed = packed, .size = QUEUE_SIZE});
    for (unsigned i = 0; i < SENDERS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, sender_main, (void *)(uintptr_t)i), 0);
    assert_int_equal(pthread_create(&thread[SENDERS], NULL, receiver_main, NULL), 0);
    uint64_t end_ns = clock_now_ns() + RUN_MS * NS_PER_MS;
    for (unsigned round = 0; clock_now_ns() < end_ns; round++) {
        usleep(2000);
        disturb(round);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i <= SENDERS; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(atomic_load(&wrong), 0);
    assert_true(atomic_load(&arrived) > 100);
    struct vif_stats s;
    vif_stats_read(receiver.vif, &s);
    print_message("%llu frames arrived, %llu found no buffer\n", (unsigned long long)s.rx_packets,
                  (unsigned long long)s.rx_no_buffer);
    for (unsigned i = 0; i < SENDERS; i++) {
        assert_null(vif_broken(senders[i].vif));
        assert_true(atomic_load(&sent[i]) > 0);
        card_close(&senders[i]);
    }
    assert_null(vif_broken(receiver.vif));
    card_close(&receiver);
}

static void test_flood_split(void **state)
{
    flood(false);
}

static void test_flood_packed(void **state)
{
    flood(true);
}

/* Asleep until it is kicked; a guest whose frames are late was not forgotten. */
static void test_wakes(void **state)
{
    atomic_store(&arrived, 0);
    card_open(&receiver, &(struct card_options){.size = QUEUE_SIZE});
    card_open(&senders[0], &(struct card_options){.size = QUEUE_SIZE});
    struct card_queue *in = &receiver.queue[0], *out = &senders[0].queue[1];
    uint64_t last[SENDERS] = {0};
    for (unsigned i = 0; i < QUEUE_SIZE; i++)
        post(in, i);
    driver_sim_publish(in->driver);
    for (uint64_t number = 0; number < 100; number++) {
        uint64_t token;
        uint32_t written;
        struct driver_sim_buf buf = {{out->gpa + CARD_BUFFERS_AT}, frame_length(number) + 12, false};
        if (frame_length(number) > 1500) continue;
        if (number % 3 == 0) usleep(1000);
        driver_sim_calls_on(in->driver);
        fill(out->memory + CARD_BUFFERS_AT, 0, number);
        assert_true(driver_sim_add(out->driver, &buf, 1, false, number));
        if (driver_sim_publish(out->driver)) kick(out);
        struct pollfd call = {.fd = in->call, .events = POLLIN};
        assert_int_equal(poll(&call, 1, 5000), 1);
        uint64_t v;
        assert_int_equal(read(in->call, &v, sizeof v), sizeof v);
        collect(in, last);
        while (!driver_sim_get(out->driver, &token, &written))
            sched_yield();
    }
    assert_int_equal(atomic_load(&wrong), 0);
    /* Announced by whoever is asleep. */
    driver_sim_calls_on(in->driver);
    vif_announce(senders[0].vif);
    struct pollfd call = {.fd = in->call, .events = POLLIN};
    assert_int_equal(poll(&call, 1, 5000), 1);
    card_close(&senders[0]);
    card_close(&receiver);
}

static void ready_to_receive(uint16_t mtu)
{
    atomic_store(&arrived, 0);
    card_open(&receiver, &(struct card_options){.size = QUEUE_SIZE, .mtu = mtu});
    for (unsigned i = 0; i < QUEUE_SIZE; i++)
        post(&receiver.queue[0], i);
    driver_sim_calls_on(receiver.queue[0].driver);
    driver_sim_publish(receiver.queue[0].driver);
}

static int called(const struct card_queue *q, int timeout_ms)
{
    uint64_t v;
    struct pollfd call = {.fd = q->call, .events = POLLIN};
    int n = poll(&call, 1, timeout_ms);
    if (n > 0) assert_int_equal(read(q->call, &v, sizeof v), sizeof v);
    return n;
}

/* At the old limit the second frame would wait for minutes. */
static void test_limit_taken_away(void **state)
{
    uint64_t last[SENDERS] = {0};
    ready_to_receive(1500);
    card_open(&senders[0], &(struct card_options){.size = QUEUE_SIZE, .from_guest = {.bits_per_s = 10}});
    struct card_queue *out = &senders[0].queue[1];
    for (uint64_t number = 0; number < 8; number += 7) { /* neither is long */
        struct driver_sim_buf buf = {
            {out->gpa + CARD_BUFFERS_AT + number * SLOT_BYTES}, frame_length(number) + 12, false};
        fill(out->memory + CARD_BUFFERS_AT + number * SLOT_BYTES, 0, number);
        assert_true(driver_sim_add(out->driver, &buf, 1, false, number));
    }
    driver_sim_publish(out->driver);
    kick(out);
    assert_int_equal(called(&receiver.queue[0], 5000), 1);
    collect(&receiver.queue[0], last);
    assert_int_equal(atomic_load(&arrived), 1);
    driver_sim_calls_on(receiver.queue[0].driver);
    usleep(20000);
    vif_set_rate(senders[0].vif, (struct vif_rate){0}, (struct vif_rate){0});
    assert_int_equal(called(&receiver.queue[0], 5000), 1);
    collect(&receiver.queue[0], last);
    assert_int_equal(atomic_load(&arrived), 2);
    card_close(&senders[0]);
    card_close(&receiver);
}

/* Said while the link is down, heard when it is up. */
static void test_announced_later(void **state)
{
    ready_to_receive(1500);
    card_open(&senders[0], &(struct card_options){.size = QUEUE_SIZE});
    vif_set_link(senders[0].vif, false);
    vif_announce(senders[0].vif);
    assert_int_equal(called(&receiver.queue[0], 50), 0);
    vif_set_link(senders[0].vif, true);
    assert_int_equal(called(&receiver.queue[0], 5000), 1);
    card_close(&senders[0]);
    card_close(&receiver);
}

/* ---- bad neighbours ---- */

static void *kicker_main(void *arg)
{
    while (!atomic_load(&stop))
        kick(&senders[1].queue[1]);
    return NULL;
}

static void wait_for_all(uint64_t last[SENDERS])
{
    uint64_t end_ns = clock_now_ns() + 10 * NS_PER_SECOND;
    while (atomic_load(&arrived) < atomic_load(&sent[0]) && clock_now_ns() < end_ns)
        collect(&receiver.queue[0], last);
}

/* One guest sends to another beside a third that does what `bad` does. What is sent arrives, all of it. */
static void beside(void *(*bad)(void *))
{
    pthread_t thread[2];
    uint64_t last[SENDERS] = {0};
    struct vif_stats s;
    neighbours = true;
    atomic_store(&stop, false);
    atomic_store(&confirmed, 0);
    atomic_store(&sent[1], 0);
    card_open(&silent, &(struct card_options){.size = QUEUE_SIZE, .mtu = 4000});
    ready_to_receive(4000);
    for (unsigned i = 2; i > 0; i--) /* the first's runner looks which one the second is */
        card_open(&senders[i - 1], &(struct card_options){.size = QUEUE_SIZE});
    assert_int_equal(pthread_create(&thread[0], NULL, sender_main, NULL), 0);
    assert_int_equal(pthread_create(&thread[1], NULL, bad, (void *)(uintptr_t)1), 0);
    for (uint64_t end_ns = clock_now_ns() + 500 * NS_PER_MS; clock_now_ns() < end_ns; sched_yield()) {
        collect(&receiver.queue[0], last);
        atomic_store(&confirmed, atomic_load(&arrived));
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    wait_for_all(last);
    vif_stats_read(receiver.vif, &s);
    print_message("%llu frames beside it\n", (unsigned long long)s.rx_packets);
    assert_int_equal(atomic_load(&wrong), 0);
    assert_true(atomic_load(&sent[0]) > 50);
    assert_int_equal(atomic_load(&arrived), atomic_load(&sent[0]));
    assert_int_equal(s.rx_packets, atomic_load(&sent[0]));
    assert_int_equal(s.rx_no_buffer, 0);
    for (unsigned i = 0; i < 2; i++)
        assert_null(vif_broken(senders[i].vif));
    assert_null(vif_broken(silent.vif));
}

static void neighbours_end(void)
{
    for (unsigned i = 0; i < 2; i++)
        card_close(&senders[i]);
    card_close(&receiver);
    card_close(&silent);
    neighbours = false;
}

static void test_beside_one_that_never_gives_buffers(void **state)
{
    struct vif_stats s;
    beside(sender_main);
    vif_stats_read(silent.vif, &s);
    assert_int_equal(s.rx_packets, 0);
    assert_true(s.rx_no_buffer > 50);
    neighbours_end();
}

static void test_beside_one_that_kicks(void **state)
{
    struct vif_stats s;
    beside(kicker_main);
    vif_stats_read(senders[1].vif, &s);
    assert_int_equal(s.tx_packets, 0);
    neighbours_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wakes),
        cmocka_unit_test(test_limit_taken_away),
        cmocka_unit_test(test_announced_later),
        cmocka_unit_test(test_flood_split),
        cmocka_unit_test(test_flood_packed),
        cmocka_unit_test(test_beside_one_that_never_gives_buffers),
        cmocka_unit_test(test_beside_one_that_kicks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
