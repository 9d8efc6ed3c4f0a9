/* SPDX-License-Identifier: Apache-2.0 */
/* A port whose new flows take long harms itself, not the ports beside it on the same thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "switch/quota.h"
#include "switch/test_rig.h"
#include "switch/thread.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"

/* What comes in at port 1 is resubmitted as often as it may be, and dropped then: nothing is kept, so that every packet of it costs
 * all of that again. Ports 2 and 3 have a flow that is kept. */
static void open_rig(struct rig *r, const struct switch_config *c)
{
    char text[2048];
    rig_open(r, c, BRIDGE_SECURE, 4);
    for (unsigned table = 0; table < 2; table++) {
        int n = snprintf(text, sizeof text, "table=%u,in_port=1,actions=resubmit(,%u)", table, table + 1);
        for (unsigned i = 1; i < 64; i++)
            n += snprintf(text + n, sizeof text - (size_t)n, ",resubmit(,%u)", table + 1);
        rig_flow(r, text);
    }
    rig_flow(r, "table=2,in_port=1,actions=output:4");
    rig_flow(r, "in_port=2,actions=output:4");
    rig_flow(r, "in_port=3,udp,tp_src=7,actions=output:4");
}

static struct switch_stats stats_of(struct rig *r)
{
    struct switch_stats s;
    switch_stats_read(r->sw, &s);
    return s;
}

static void send(struct rig *r, uint32_t port, unsigned sport, unsigned copies)
{
    uint8_t f[128];
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", sport, 2000);
    rig_send(r, port, f, n, copies);
}

static void limited_beside_others(void **state)
{
    struct switch_config c;
    struct rig r;
    struct port_stats p;
    (void)state;
    switch_config_default(&c);
    open_rig(&r, &c);
    rig_busy(&r, true);
    send(&r, 2, 1, 1);
    rig_got(&r);
    for (unsigned i = 0; i < 20; i++) {
        send(&r, 1, i, PACKET_BATCH);
        send(&r, 2, i, PACKET_BATCH);
    }
    rig_busy(&r, false);
    struct switch_stats s = stats_of(&r);
    assert_true(s.over_quota > 0 && s.dropped >= s.over_quota);
    assert_true(s.translations > 1); /* some were: what it had saved */
    assert_int_equal(s.translations + s.over_quota, 1 + 20 * PACKET_BATCH);
    assert_int_equal(r.ports[4]->got, 20 * PACKET_BATCH);
    port_stats_read(&r.ports[1]->port, &p);
    assert_int_equal(p.in_dropped, s.over_quota);
    port_stats_read(&r.ports[2]->port, &p);
    assert_int_equal(p.in_dropped, 0);
    rig_close(&r);
}

/* What a port owes is paid by the time in which nobody wants anything, too. */
static void paid_asleep(void **state)
{
    struct switch_config c;
    struct rig r;
    (void)state;
    switch_config_default(&c);
    c.new_flows_ns = 100; /* a round pays nothing worth speaking of */
    open_rig(&r, &c);
    rig_busy(&r, true);
    send(&r, 2, 1, 1);
    send(&r, 1, 1, 1);
    struct switch_thread *t = r.thread;
    quota_take(&cache_port_get(&t->cache, switch_port_word(r.ports[1]->sp))->quota, 20 * NS_PER_MS);
    send(&r, 1, 2, 1);
    assert_int_equal(t->over_quota, 1);
    rig_busy(&r, false);
    usleep(60000);
    rig_busy(&r, true);
    send(&r, 1, 3, 1);
    assert_int_equal(t->over_quota, 1);
    assert_int_equal(t->translations, 3);
    rig_busy(&r, false);
    rig_close(&r);
}

/* Whoever shares the thread with nobody may take all of it; so may anybody without a limit. */
static void alone_or_without_a_limit(void **state)
{
    struct switch_config c;
    struct rig r;
    (void)state;
    switch_config_default(&c);
    for (unsigned kind = 0; kind < 2; kind++) {
        if (kind) c.new_flows_ns = 0;
        open_rig(&r, &c);
        for (unsigned i = 0; i < 4; i++) {
            send(&r, 1, i, PACKET_BATCH);
            if (kind) send(&r, 2, i, PACKET_BATCH);
        }
        assert_int_equal(stats_of(&r).over_quota, 0);
        assert_true(stats_of(&r).translations >= 4 * PACKET_BATCH);
        rig_close(&r);
    }
}

/* The shortest of several bursts of port 1 that is over its quota. */
static uint64_t burst_ns(struct rig *r)
{
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i < 50; i++) {
        uint64_t begin_ns = clock_now_ns(), ns;
        send(r, 1, i, PACKET_BATCH);
        ns = clock_now_ns() - begin_ns;
        if (ns < least) least = ns;
    }
    return least;
}

/* Flows of 31 kinds, of none of which the packets are. */
static void add_kinds(struct rig *r)
{
    static const char *const of_kind[] = {"nw_src=11.0.0.0/8", "nw_dst=11.0.0.0/8", "tp_src=1", "dl_src=" A,
                                          "dl_dst=" B};
    for (unsigned kind = 1; kind < 32; kind++)
        for (unsigned i = 0; i < 256; i++) {
            char text[256];
            int n = snprintf(text, sizeof text, "udp,tp_dst=%u", i);
            for (unsigned f = 0; f < 5; f++)
                if (kind >> f & 1) n += snprintf(text + n, sizeof text - (size_t)n, ",%s", of_kind[f]);
            snprintf(text + n, sizeof text - (size_t)n, ",actions=output:4");
            rig_flow(r, text);
        }
}

/* Where there are many kinds of flows it takes long even to look where a packet's flow might be. */
static void over_its_quota_nothing_is_looked_for(void **state)
{
    struct switch_config c;
    struct rig r;
    uint64_t ns[2];
    (void)state;
    switch_config_default(&c);
    c.new_flows_ns = 1;
    open_rig(&r, &c);
    const struct switch_thread *t = r.thread;
    for (unsigned many = 0; many < 2; many++) {
        if (many) add_kinds(&r);
        rig_busy(&r, true);
        send(&r, 2, 1, 1);
        send(&r, 1, 1, PACKET_BATCH); /* that takes all that it had saved */
        uint64_t before = t->over_quota;
        ns[many] = burst_ns(&r);
        assert_int_equal(t->over_quota - before, 50 * PACKET_BATCH);
        rig_busy(&r, false);
    }
    assert_true(ns[1] < 2 * ns[0]);
    rig_close(&r);
}

static void saved_and_owed(void **state)
{
    struct quota q = {.left_ns = QUOTA_SAVED_NS};
    (void)state;
    quota_give(&q, 10, QUOTA_ROUND_NS);
    assert_int_equal(q.left_ns, QUOTA_SAVED_NS);
    quota_take(&q, QUOTA_SAVED_NS + 3 * QUOTA_ROUND_NS);
    assert_false(quota_is_left(&q));
    quota_give(&q, 13, QUOTA_ROUND_NS);
    assert_false(quota_is_left(&q));
    quota_give(&q, 14, QUOTA_ROUND_NS);
    assert_true(quota_is_left(&q));
    quota_give(&q, UINT64_MAX, UINT32_MAX);
    assert_int_equal(q.left_ns, QUOTA_SAVED_NS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limited_beside_others),    cmocka_unit_test(paid_asleep),
        cmocka_unit_test(alone_or_without_a_limit), cmocka_unit_test(over_its_quota_nothing_is_looked_for),
        cmocka_unit_test(saved_and_owed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
