/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that forward while the control thread changes everything: after switch_barrier() nobody obeys what was before, a
 * removed port is not sent to, and the thread sanitizer has nothing to say.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "switch/group.h"
#include "switch/meter.h"
#include "switch/test_rig.h"

#define THREADS 3u
#define PORTS (THREADS + 3u) /* one of each thread, two that flows choose between, one that comes and goes */
#define LEFT (THREADS + 1u)
#define RIGHT (THREADS + 2u)
#define GUEST (THREADS + 3u)
#ifdef CREEDENCE_SANITIZED
#define ROUNDS 150u
#else
#define ROUNDS 600u
#endif

struct world;

struct test_port {
    struct port port; /* first */
    struct world *world;
    struct switch_port *sp;
    unsigned number;
    _Atomic uint64_t got;
};

struct world {
    struct net_switch *sw;
    struct bridge *bridge;
    struct test_port ports[PORTS + 1];
    _Atomic unsigned forbidden; /* a port that nothing may be sent to */
    _Atomic unsigned violations;
    _Atomic bool stop;
};

struct forwarder {
    struct world *world;
    unsigned number;
    pthread_t thread;
    uint64_t seed;
};

static void take(struct port *p, struct packet *const *packets, unsigned count, struct packet_pool *pool)
{
    struct test_port *t = (struct test_port *)p;
    (void)pool;
    for (unsigned i = 0; i < count; i++) {
        uint8_t net[2];
        packet_read(packets[i], 30, net, sizeof net);
        if (net[1] == 2 && atomic_load(&t->world->forbidden) == t->number) atomic_fetch_add(&t->world->violations, 1);
    }
    atomic_fetch_add_explicit(&t->got, count, memory_order_relaxed);
}

static const struct port_ops ops = {.type = "test", .send = take};

static void port_add(struct world *w, unsigned number)
{
    struct errmsg e;
    struct test_port *p = &w->ports[number];
    memset(p, 0, sizeof *p);
    port_init(&p->port, &ops, "p");
    p->world = w;
    p->number = number;
    atomic_store(&p->port.takes, PORT_TAKES_ALL);
    assert_int_equal(bridge_add_port(w->bridge, &p->port, number, NULL, &p->sp, &e), 0);
}

static unsigned rnd(uint64_t *seed, unsigned below)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return (unsigned)(*seed >> 33) % below;
}

/* Half for the flows by protocol, half for NORMAL, to and from few addresses that change ports. */
static void random_packet(struct forwarder *f, struct packet *p)
{
    char dst[32], src[32];
    bool normal = rnd(&f->seed, 2);
    snprintf(dst, sizeof dst, "02:00:00:00:00:%02x", rnd(&f->seed, 8));
    snprintf(src, sizeof src, "02:00:00:00:00:%02x", rnd(&f->seed, 8));
    uint8_t *b = p->head;
    p->length_bytes = frame_udp(b, dst, src, "10.0.0.1", normal ? "10.1.0.2" : "10.2.0.2", rnd(&f->seed, 64), 2000);
    p->head_bytes = (uint16_t)p->length_bytes;
}

static void *forward(void *arg)
{
    struct forwarder *f = arg;
    struct world *w = f->world;
    const struct runner_sink *sink = switch_sink(w->sw);
    struct packet_pool *pool = packet_pool_new();
    void *thread = sink->thread_new(sink->arg, pool);
    struct packet *packets[PACKET_BATCH];
    for (unsigned n = 0; !atomic_load(&w->stop); n++) {
        unsigned count = 1 + rnd(&f->seed, 8);
        for (unsigned i = 0; i < count; i++) {
            packets[i] = packet_pool_packet(pool);
            random_packet(f, packets[i]);
        }
        sink->input(thread, &w->ports[f->number].port, packets, count);
        packet_pool_reset(pool);
        sink->quiescent(thread);
        if (n % 64) continue;
        sink->asleep(thread);
        usleep(rnd(&f->seed, 200));
        sink->awake(thread);
    }
    sink->thread_free(thread);
    packet_pool_free(pool);
    return NULL;
}

static void flow_do(struct world *w, const char *text, bool add)
{
    struct flow_spec f;
    struct errmsg e;
    assert_int_equal(flow_parse(&f, text, add ? FLOW_PARSE_ADD : FLOW_PARSE_DEL, NULL, &e), 0);
    int ret = add ? bridge_flow_add(w->bridge, &f, NULL, &e) : bridge_flow_delete(w->bridge, &f, false, NULL, NULL, &e);
    assert_int_equal(ret, 0);
    instructions_clear(&f.instructions);
}

static void flow_to(struct world *w, unsigned port)
{
    char text[128];
    snprintf(text, sizeof text, "table=1,priority=5,ip,nw_dst=10.2.0.0/16,actions=output:%u", port);
    flow_do(w, text, true);
}

static void group_to(struct world *w, unsigned port)
{
    struct action out = {.type = ACTION_OUTPUT, .output = {.port = port}};
    struct group_bucket k = {.weight = 1,
                             .watch_port = SWITCH_PORT_ANY,
                             .watch_group = SWITCH_GROUP_ANY,
                             .actions = {.count = 1, .list = &out}};
    struct group_spec g = {.id = 1, .type = GROUP_SELECT, .count = 1, .buckets = &k};
    struct errmsg e;
    int ret = bridge_group_modify(w->bridge, &g, NULL, &e);
    if (ret == -ENOENT) ret = bridge_group_add(w->bridge, &g, NULL, &e);
    assert_int_equal(ret, 0);
}

/* By a flow, by a flow that goes to a group, by a group that its flow stays with, and by a flow while the group goes. */
static void change_way(struct world *w, unsigned round, unsigned port)
{
    struct errmsg e;
    if (round % 4 >= 2) group_to(w, port);
    if (round % 4 == 2) flow_do(w, "table=1,priority=5,ip,nw_dst=10.2.0.0/16,actions=group:1", true);
    if (round % 4 < 2) flow_to(w, port);
    if (round % 4 == 0) assert_int_equal(bridge_group_delete(w->bridge, 1, NULL, &e), 0);
}

/* What was before must not be obeyed once the barrier is passed. */
static void swap(struct world *w, unsigned round)
{
    unsigned now = round % 2 ? LEFT : RIGHT, before = round % 2 ? RIGHT : LEFT;
    atomic_store(&w->forbidden, 0);
    change_way(w, round, now);
    switch_barrier(w->sw);
    atomic_store(&w->forbidden, before);
    usleep(200);
}

static void see_flow(void *arg, const struct flow_spec *f, const struct flow_stats *s)
{
    (void)f;
    *(uint64_t *)arg += s->packets;
}

static void see_group(void *arg, const struct group_spec *g, const struct group_stats *s)
{
    (void)g;
    *(uint64_t *)arg += s->packets + s->buckets[0].packets;
}

static void see_megaflow(void *arg, const struct megaflow_info *m)
{
    *(uint64_t *)arg += m->packets;
}

static void see_mac(void *arg, const struct mac_info *m)
{
    *(uint64_t *)arg += m->port;
}

static void look(struct world *w)
{
    struct flow_spec all = {.table = SWITCH_TABLE_ALL, .out_port = SWITCH_PORT_ANY, .out_group = SWITCH_PORT_ANY};
    struct switch_stats s;
    uint64_t sum = 0;
    bridge_flow_each(w->bridge, &all, see_flow, &sum);
    bridge_group_each(w->bridge, SWITCH_GROUP_ALL, see_group, &sum);
    switch_megaflow_each(w->sw, NULL, see_megaflow, &sum);
    bridge_mac_each(w->bridge, see_mac, &sum);
    switch_stats_read(w->sw, &s);
}

static void set_meter(struct world *w, unsigned round)
{
    struct meter_spec m;
    struct errmsg e;
    const char *text = round % 2
                           ? "meter=1,kbps,stats,bands=type=drop,rate=1000000,type=dscp_remark,rate=1000,prec_level=1"
                           : "meter=1,pktps,bands=type=drop,rate=4000000000";
    assert_int_equal(meter_parse(&m, text, &e), 0);
    if (bridge_meter_modify(w->bridge, &m, NULL, &e)) assert_int_equal(bridge_meter_add(w->bridge, &m, NULL, &e), 0);
}

static void see_meter(void *arg, const struct meter_spec *m, const struct meter_stats *s)
{
    (void)m;
    *(uint64_t *)arg += s->packets;
}

/* What goes to LEFT and RIGHT passes it; then it is taken away, with a flow, while the others use it. */
static void change_meters(struct world *w, unsigned round)
{
    struct errmsg e;
    uint64_t sum = 0;
    set_meter(w, round);
    flow_do(w, "table=0,priority=2,udp,tp_src=9,actions=meter:1,goto_table:1", true);
    bridge_meter_each(w->bridge, SWITCH_METER_ALL, see_meter, &sum);
    if (round % 3 == 0) {
        usleep(300);
        assert_int_equal(bridge_meter_delete(w->bridge, 1, NULL, &e), 0);
    }
}

static void change_something(struct world *w, unsigned round)
{
    char text[128];
    struct switch_port_config c = {.no_flood = round % 2};
    swap(w, round);
    change_meters(w, round);
    switch (round % 7) {
    case 0: /* the flow that sends to the one that is about to go */
        port_add(w, GUEST);
        flow_do(w, "table=1,priority=9,udp,tp_src=7,actions=output:6", true);
        break;
    case 1:
        usleep(300);
        bridge_remove_port(w->ports[GUEST].sp);
        memset(&w->ports[GUEST].port, 0xff, sizeof w->ports[GUEST].port); /* who still uses it crashes */
        break;
    case 2: flow_do(w, "table=1,udp,tp_src=7", false); break;
    case 3: bridge_mac_flush(w->bridge); break;
    case 4: switch_tick(w->sw, clock_now_ns()); break;
    case 5: look(w); break;
    default: switch_port_set(w->ports[LEFT].sp, &c); break;
    }
    bool add = round % 3;
    int n = snprintf(text, sizeof text, "table=1,%sudp,tp_src=%u", add ? "priority=3,idle_timeout=1," : "", round % 64);
    if (add) snprintf(text + n, sizeof text - (size_t)n, ",actions=output:%u", LEFT);
    flow_do(w, text, add);
}

static void changes_are_obeyed(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct forwarder f[THREADS];
    struct switch_config c;
    struct errmsg e;
    (void)state;
    switch_config_default(&c);
    c.emc_entries = 64;
    assert_int_equal(switch_new(&w->sw, &c), 0);
    assert_int_equal(bridge_new(&w->bridge, w->sw, "br0", BRIDGE_SECURE, &e), 0);
    for (unsigned i = 1; i <= RIGHT; i++)
        port_add(w, i);
    flow_do(w, "table=0,priority=1,actions=goto_table:1", true);
    flow_do(w, "table=1,priority=1,ip,nw_dst=10.1.0.0/16,actions=normal", true);
    flow_to(w, LEFT);
    for (unsigned i = 0; i < THREADS; i++) {
        f[i] = (struct forwarder){.world = w, .number = i + 1, .seed = 77 + i};
        assert_int_equal(pthread_create(&f[i].thread, NULL, forward, &f[i]), 0);
    }
    for (unsigned i = 0; i < ROUNDS; i++)
        change_something(w, i);
    atomic_store(&w->stop, true);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(f[i].thread, NULL);
    assert_int_equal(atomic_load(&w->violations), 0);
    assert_true(atomic_load(&w->ports[LEFT].got) > 0 && atomic_load(&w->ports[RIGHT].got) > 0);
    if (ROUNDS % 7 == 1) bridge_remove_port(w->ports[GUEST].sp);
    for (unsigned i = 1; i <= RIGHT; i++)
        bridge_remove_port(w->ports[i].sp);
    bridge_free(w->bridge);
    switch_free(w->sw);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(changes_are_obeyed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
