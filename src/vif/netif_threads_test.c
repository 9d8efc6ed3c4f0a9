/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cards of Xen guests on real runners: guests of several queues send to one at once, each queue on a thread of its own, while the
 * control thread has the receiver's hash, pages that stay mapped, groups and connection come and go. What arrives is whole.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "ring/netif_wire.h"
#include "vif/test_netif.h"

#define SENDERS 2u
#define QUEUES 3u
#define FRAME_MAX 9000u
#define RUNNERS_MAX 32u

#ifdef CREEDENCE_SANITIZED
#define RUN_MS 600u
#else
#define RUN_MS 1000u
#endif

static struct netif_bed senders[SENDERS], receiver;
static _Atomic bool stop;
static _Atomic uint64_t sent, arrived, wrong;

/* ---- runners: all that comes goes to the receiver ---- */

static void *sink_new(void *arg, struct packet_pool *pool)
{
    return pool;
}

static void sink_free(void *thread) {}

static void sink_input(void *thread, struct port *in, struct packet *const *packets, unsigned count)
{
    port_send(vif_port(receiver.vif), packets, count, thread);
}

static const struct runner_sink sink = {.thread_new = sink_new, .thread_free = sink_free, .input = sink_input};

static struct runner *runners[RUNNERS_MAX]; /* the control thread's */

static int get(void *arg, unsigned pair, struct runner **out)
{
    unsigned i = 0;
    while (runners[i])
        i++;
    int ret = runner_new(out, "test", &sink, 20000);
    if (ret == 0) runners[i] = *out;
    return ret;
}

static void put(void *arg, unsigned pair, struct runner *r)
{
    for (unsigned i = 0; i < RUNNERS_MAX; i++)
        if (runners[i] == r) runners[i] = NULL;
    runner_free(r);
}

const struct vif_runners card_runners = {get, put, NULL};

static void nothing(void *arg) {}

static void barrier(void *arg)
{
    for (unsigned i = 0; i < RUNNERS_MAX; i++)
        if (runners[i]) runner_call(runners[i], nothing, NULL);
}

/* ---- guests ---- */

static uint32_t length_of(uint64_t number)
{
    return 100 + (uint32_t)(number * 2654435761u % (FRAME_MAX - 100));
}

static void *sender_main(void *arg)
{
    struct netif_bed *b = arg;
    static _Thread_local uint8_t frame[FRAME_MAX];
    for (uint64_t number = 0; !atomic_load(&stop); number++) {
        struct netfront_queue *q = &b->front.queue[number % QUEUES];
        struct netfront_send how = {.piece_bytes = number % 5 ? 0 : 600};
        memset(frame, (int)(number & 0xff), sizeof frame);
        memset(frame, 0, 14);
        frame[0] = number % 7 ? 2 : 1; /* some to a group */
        memcpy(frame + 14, &number, sizeof number);
        if (netfront_add(&b->front, q, frame, length_of(number), &how)) atomic_fetch_add(&sent, 1);
        netfront_publish_tx(&b->front, q);
        netfront_reap(q);
        if (number % 16 == 0) sched_yield();
    }
    return NULL;
}

static void check(const struct netfront_frame *f)
{
    uint64_t number;
    memcpy(&number, f->bytes + 14, sizeof number);
    bool good = f->status == 0 && f->length == length_of(number);
    for (uint32_t i = 14 + sizeof number; good && i < f->length; i++)
        good = f->bytes[i] == (number & 0xff);
    atomic_fetch_add(good ? &arrived : &wrong, 1);
}

static void *receiver_main(void *arg)
{
    static uint8_t bytes[65536];
    while (!atomic_load(&stop)) {
        for (unsigned i = 0; i < QUEUES; i++) {
            struct netfront_queue *q = &receiver.front.queue[i];
            struct netfront_frame f = {.bytes = bytes};
            netfront_post(q, NETIF_ENTRIES);
            netfront_publish_rx(&receiver.front, q);
            while (netfront_get(&receiver.front, q, &f))
                check(&f);
        }
        sched_yield();
    }
    return NULL;
}

/* ---- the control thread ---- */

static struct xen_ring *ring;
static struct netif_gref *list;
static uint32_t ring_ref, list_ref;
static int ring_port;

static uint32_t page_new(void *page)
{
    int64_t frame = sim_page_take(receiver.front.guest);
    assert_true(frame >= 0);
    *(void **)page = sim_guest_page(receiver.front.guest, (uint32_t)frame);
    return (uint32_t)sim_grant(receiver.front.guest, SIM_HOST, (uint32_t)frame, false);
}

static void connect_receiver(void)
{
    struct errmsg e = {""};
    struct netif_queue_setup setup[NETFRONT_QUEUES_MAX];
    struct netif_control_setup control = {ring_ref, (uint32_t)ring_port};
    struct netif_front front = bed_takes_all;
    front.multicast_control = true;
    memset(ring, 0, XEN_PAGE_BYTES);
    ring->req_event = ring->rsp_event = 1;
    netfront_setup(&receiver.front, setup);
    if (netif_connect(receiver.vif, &front, setup, QUEUES, &control, false, &e)) fail_msg("%s", e.text);
}

static void ask(unsigned type, uint32_t first, uint32_t second, uint32_t third)
{
    struct netif_ctrl_request q = {1, (uint16_t)type, {first, second, third}};
    memcpy((char *)(ring + 1) + ring->req_prod % NETIF_CTRL_ENTRIES * sizeof q, &q, sizeof q);
    ring->req_prod++;
    while (netif_control_serve(receiver.vif)) {
    }
}

static void disturb(unsigned round)
{
    unsigned queue = round % QUEUES;
    for (unsigned i = 0; i < 100; i++)
        list[i] = (struct netif_gref){.ref = receiver.front.queue[queue].rx_grant[i * 2]};
    switch (round % 8) {
    case 0: ask(NETIF_CTRL_SET_HASH_ALGORITHM, NETIF_HASH_TOEPLITZ, 0, 0); break;
    case 1: ask(NETIF_CTRL_SET_HASH_FLAGS, NETIF_HASH_ALL, 0, 0); break;
    case 2: ask(NETIF_CTRL_ADD_GREF_MAPPING, queue, list_ref, 100); break;
    case 3:
        netif_multicast_order(receiver.vif->netif, NETIF_EXTRA_MCAST_ADD, (uint8_t[6]){1});
        netif_multicast_control(receiver.vif, round & 8);
        break;
    case 4: ask(NETIF_CTRL_DEL_GREF_MAPPING, queue, list_ref, 50); break;
    case 5: ask(NETIF_CTRL_SET_HASH_FLAGS, 0, 0, 0); break;
    case 6: netif_multicast_order(receiver.vif->netif, NETIF_EXTRA_MCAST_DEL, (uint8_t[6]){1}); break;
    default:
        if (round % 3 == 0) {
            netif_disconnect(receiver.vif);
            connect_receiver();
        } else {
            struct netif_bed *b = &senders[round % SENDERS];
            netif_disconnect(b->vif);
            bed_connect(b, &bed_takes_all, round % 2);
        }
    }
}

static void open_all(enum netif_transmit transmit)
{
    atomic_store(&stop, false);
    atomic_store(&arrived, 0);
    bed_open(&receiver, QUEUES, true, NETIF_COPY, &bed_takes_all);
    netif_disconnect(receiver.vif);
    vif_free(receiver.vif);
    receiver.barrier = barrier;
    bed_card_new(&receiver, QUEUES, NETIF_COPY);
    ring_ref = page_new(&ring);
    list_ref = page_new(&list);
    ring_port = sim_port_alloc(receiver.front.guest, SIM_HOST);
    connect_receiver();
    for (unsigned i = 0; i < SENDERS; i++)
        bed_open(&senders[i], QUEUES, i, transmit, &bed_takes_all);
}

static void flood(enum netif_transmit transmit)
{
    pthread_t thread[SENDERS + 1];
    open_all(transmit);
    for (unsigned i = 0; i < SENDERS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, sender_main, &senders[i]), 0);
    assert_int_equal(pthread_create(&thread[SENDERS], NULL, receiver_main, NULL), 0);
    uint64_t end_ns = clock_now_ns() + RUN_MS * NS_PER_MS;
    for (unsigned round = 0; clock_now_ns() < end_ns; round++) {
        usleep(1000);
        disturb(round);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i <= SENDERS; i++)
        pthread_join(thread[i], NULL);
    print_message("%llu frames sent, %llu arrived\n", (unsigned long long)atomic_load(&sent),
                  (unsigned long long)atomic_load(&arrived));
    assert_int_equal(atomic_load(&wrong), 0);
    assert_true(atomic_load(&arrived) > 10);
    assert_null(vif_broken(receiver.vif));
    for (unsigned i = 0; i < QUEUES; i++)
        assert_null(receiver.front.queue[i].rx.error);
    for (unsigned i = 0; i < SENDERS; i++) {
        assert_null(vif_broken(senders[i].vif));
        for (unsigned k = 0; k < QUEUES; k++)
            assert_null(senders[i].front.queue[k].tx.error);
        bed_close(&senders[i]);
    }
    bed_close(&receiver);
}

static void test_copied(void **state)
{
    flood(NETIF_COPY);
}

static void test_mapped(void **state)
{
    flood(NETIF_MAP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copied),
        cmocka_unit_test(test_mapped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
