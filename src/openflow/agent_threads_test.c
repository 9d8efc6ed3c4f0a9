/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A controller changes flows while threads forward by them: after a barrier's reply no packet follows what was before. And packets for
 * controllers come from several threads, also while their agent goes. For the thread sanitizer as well.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "openflow/test_client.h"

#define THREADS 2u
#define PATIENCE_NS 30000000000ull /* what needs a thread's turn on a busy machine comes late; it comes */
#define LEFT 3u
#define RIGHT 4u
#ifdef CREEDENCE_SANITIZED
#define ROUNDS 200u
#else
#define ROUNDS 2000u
#endif

struct forwarder {
    struct world *w;
    uint32_t port;
    pthread_t thread;
};

static _Atomic bool stop;
static _Atomic uint64_t got[RIGHT + 1];

static void count(struct port *p, struct packet *const *packets, unsigned n, struct packet_pool *pool)
{
    const struct rig_port *r = (const struct rig_port *)p;
    (void)packets;
    (void)pool;
    atomic_fetch_add(&got[switch_port_number(r->sp)], n);
}

static const struct port_ops counting = {.type = "test", .send = count};

static void *forward(void *arg)
{
    struct forwarder *f = arg;
    const struct runner_sink *sink = switch_sink(f->w->rig.sw);
    struct packet_pool *pool = packet_pool_new();
    void *thread = sink->thread_new(sink->arg, pool);
    struct packet *packets[4];
    for (unsigned n = 0; !atomic_load(&stop); n++) {
        for (unsigned i = 0; i < 4; i++) {
            struct packet *p = packets[i] = packet_pool_packet(pool);
            p->length_bytes =
                frame_udp(p->head, "02:00:00:00:00:0b", "02:00:00:00:00:0a", "10.0.0.1", "10.0.0.2", n % 64, 7);
            p->head_bytes = (uint16_t)p->length_bytes;
        }
        sink->input(thread, &f->w->rig.ports[f->port]->port, packets, 4);
        packet_pool_reset(pool);
        sink->quiescent(thread);
        if (n % 64) continue;
        sink->asleep(thread);
        usleep(n % 3 * 50);
        sink->awake(thread);
    }
    sink->thread_free(thread);
    packet_pool_free(pool);
    return NULL;
}

static void start(struct forwarder *f, struct world *w)
{
    atomic_store(&stop, false);
    w->rig.ports[LEFT]->port.ops = w->rig.ports[RIGHT]->port.ops = &counting;
    for (unsigned i = 0; i < THREADS; i++) {
        f[i] = (struct forwarder){.w = w, .port = i + 1};
        assert_int_equal(pthread_create(&f[i].thread, NULL, forward, &f[i]), 0);
    }
}

static void finish(struct forwarder *f)
{
    atomic_store(&stop, true);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(f[i].thread, NULL);
}

/* Frames go there: at least one more. */
static void await_frames(uint32_t port)
{
    uint64_t before = atomic_load(&got[port]), end_ns = clock_now_ns() + PATIENCE_NS;
    while (atomic_load(&got[port]) == before) {
        assert_true(clock_now_ns() < end_ns);
        usleep(50);
    }
}

static void barriers_hold(void **state)
{
    static struct world w;
    static struct client c;
    struct forwarder f[THREADS];
    struct msg m;
    (void)state;
    world_open(&w, 4, 0);
    client_open_controller(&c, &w);
    start(f, &w);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t to = i % 2 ? LEFT : RIGHT, from = i % 2 ? RIGHT : LEFT;
        unsigned command = i % 3 ? OFPFC_MODIFY : OFPFC_ADD;
        msg_flow_mod(&m, i, &(struct flow_text){.command = command, .priority = 5, .output = to});
        client_do(&c, &m);
        uint64_t before = atomic_load(&got[from]);
        if (i % 16 < 2) await_frames(to);
        else world_run(&w);
        assert_true(atomic_load(&got[from]) == before);
    }
    finish(f);
    client_close(&c);
    world_close(&w);
}

/* What is there, and at least one. */
static void take_packet_ins(struct client *c)
{
    uint64_t end_ns = clock_now_ns() + PATIENCE_NS;
    size_t bytes;
    for (unsigned told = 0, polls = 0; !told || polls < 20; polls++) {
        assert_true(clock_now_ns() < end_ns);
        if (!told) usleep(50);
        for (const uint8_t *m; (m = client_get(c, &bytes)); told++)
            assert_int_equal(m[1], OFPT_PACKET_IN);
    }
}

static void agents_go(void **state)
{
    static struct world w;
    static struct client c;
    struct forwarder f[THREADS];
    struct errmsg e;
    (void)state;
    world_open(&w, 4, 0);
    rig_flow(&w.rig, "priority=1,actions=controller");
    start(f, &w);
    for (unsigned i = 0; i < 20; i++) {
        client_open(&c, &w, OF_PEER_CONTROLLER);
        take_packet_ins(&c);
        const struct of_agent_args args = {.loop = w.loop, .bridge = w.rig.bridge};
        of_agent_free(w.agent);
        assert_int_equal(of_agent_new(&w.agent, w.all, &args, &e), 0);
        close(c.fd);
    }
    finish(f);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(barriers_hold),
        cmocka_unit_test(agents_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
