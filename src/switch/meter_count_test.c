/* SPDX-License-Identifier: Apache-2.0 */
/* What counts packets that a meter has dropped: what they came to before it, and nothing that comes after it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "switch/bridge.h"
#include "switch/group.h"
#include "switch/meter.h"
#include "switch/test_rig.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"
#define LENGTHS 8u /* that a rig's port keeps */
#define PASSES "meter=1,pktps"
#define SOME "meter=2,pktps,burst,bands=type=drop,rate=1,burst_size=20"
#define NONE "meter=3,pktps,bands=type=drop,rate=0"
#define FEW "meter=4,pktps,burst,bands=type=drop,rate=1,burst_size=8"

struct sum {
    uint64_t packets, bytes;
};

static void meter(struct rig *r, const char *text)
{
    struct meter_spec m;
    struct errmsg e;
    assert_int_equal(meter_parse(&m, text, &e), 0);
    assert_int_equal(bridge_meter_add(r->bridge, &m, NULL, &e), 0);
}

static void open_with_meters(struct rig *r, const struct switch_config *c)
{
    rig_open(r, c, BRIDGE_SECURE, 4);
    meter(r, PASSES);
    meter(r, SOME);
    meter(r, NONE);
    meter(r, FEW);
}

static void add_flow(void *arg, const struct flow_spec *f, const struct flow_stats *s)
{
    struct sum *sum = arg;
    (void)f;
    sum->packets += s->packets;
    sum->bytes += s->bytes;
}

static struct sum of_flows(struct rig *r, const char *selection)
{
    struct flow_spec f;
    struct errmsg e;
    struct sum sum = {0};
    assert_int_equal(flow_parse(&f, selection, FLOW_PARSE_SELECT, NULL, &e), 0);
    switch_fold(r->sw);
    bridge_flow_each(r->bridge, &f, add_flow, &sum);
    return sum;
}

static void see_group(void *arg, const struct group_spec *g, const struct group_stats *s)
{
    struct sum *sum = arg;
    (void)g;
    *sum = (struct sum){s->packets, s->bytes};
    assert_int_equal(s->buckets[0].packets, s->packets);
    assert_int_equal(s->buckets[0].bytes, s->bytes);
}

static struct sum of_group(struct rig *r, uint32_t id)
{
    struct sum sum = {0};
    switch_fold(r->sw);
    bridge_group_each(r->bridge, id, see_group, &sum);
    return sum;
}

static struct table_stats of_table(struct rig *r, uint8_t table)
{
    struct table_stats s;
    switch_fold(r->sw);
    bridge_table_stats(r->bridge, table, &s);
    return s;
}

static void same(struct sum a, struct sum b)
{
    assert_int_equal(a.packets, b.packets);
    assert_int_equal(a.bytes, b.bytes);
}

/* One burst after another, with frames of other lengths and from other addresses; what came out of a port is added to *out. */
static struct sum send(struct rig *r, unsigned out_port, unsigned bursts, struct sum *out)
{
    struct sum sent = {0};
    struct rig_port *p = r->ports[out_port];
    uint8_t f[256];
    for (unsigned i = 0; i < bursts; i++) {
        unsigned copies = 1 + i % LENGTHS, before = p->got;
        unsigned n = frame_udp(f, B, A, "10.0.0.1", i % 3 ? "10.0.0.2" : "10.0.0.3", 1000, 2000) + 7 * i % 100;
        rig_send(r, 1, f, n, copies);
        sent.packets += copies;
        sent.bytes += (uint64_t)n * copies;
        for (; before < p->got; before++) {
            out->packets++;
            out->bytes += p->last[before % LENGTHS].length;
        }
        if (i == bursts / 2) switch_fold(r->sw);
    }
    return sent;
}

static void two_tables(struct rig *r, const char *number)
{
    char text[128];
    rig_group(r, "group_id=1,type=all,bucket=output:3");
    snprintf(text, sizeof text, "in_port=1,actions=meter:%s,write_actions(group:1),goto_table:1", number);
    rig_flow(r, text);
    rig_flow(r, "table=1,ip,nw_dst=10.0.0.2,actions=output:2,goto_table:2");
    rig_flow(r, "table=1,ip,nw_dst=10.0.0.3,actions=output:2,goto_table:2");
    rig_flow(r, "table=2,arp,actions=output:2"); /* the others miss */
}

static void check_two_tables(struct rig *r, struct sum sent, struct sum passed)
{
    same(of_flows(r, "table=0"), sent);
    same(of_flows(r, "table=1"), passed);
    same(of_group(r, 1), passed);
    assert_int_equal(of_table(r, 0).lookups, sent.packets);
    assert_int_equal(of_table(r, 0).matched, sent.packets);
    assert_int_equal(of_table(r, 1).lookups, passed.packets);
    assert_int_equal(of_table(r, 1).matched, passed.packets);
    assert_int_equal(of_table(r, 2).lookups, passed.packets);
    assert_int_equal(of_table(r, 2).matched, 0);
}

static void later_tables_and_groups(void **state)
{
    static const struct {
        const char *number;
        uint64_t least, most;
    } meters[] = {{"1", 81, 81}, {"2", 20, 30}, {"3", 0, 0}};
    (void)state;
    for (unsigned i = 0; i < sizeof meters / sizeof meters[0]; i++) {
        struct rig r;
        struct sum passed = {0};
        open_with_meters(&r, NULL);
        two_tables(&r, meters[i].number);
        struct sum sent = send(&r, 2, 18, &passed);
        assert_int_equal(sent.packets, 81 - 6);
        if (passed.packets != sent.packets) assert_in_range(passed.packets, meters[i].least, meters[i].most);
        check_two_tables(&r, sent, passed);
        rig_close(&r);
    }
}

/* With a megaflow less than there are flows, and with one for each packet. */
static void whoever_counts(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct switch_config c;
        struct rig r;
        struct sum passed = {0};
        switch_config_default(&c);
        c.new_flows_ns = 0;
        if (i < 2) c.megaflows_max = 1 + i;
        if (i == 2) c.flows = SWITCH_FLOWS_EXACT;
        if (i == 3) c.emc_entries = 0;
        open_with_meters(&r, &c);
        two_tables(&r, "2");
        check_two_tables(&r, send(&r, 2, 30, &passed), passed);
        rig_close(&r);
    }
}

/* What is on the way when it changes is counted for the way on which it came. */
static void while_flows_change(void **state)
{
    struct rig r;
    struct sum passed = {0}, sent = {0};
    (void)state;
    open_with_meters(&r, NULL);
    two_tables(&r, "2");
    for (unsigned i = 0; i < 20; i++) {
        struct sum more = send(&r, 2, 1 + i % 5, &passed);
        sent.packets += more.packets;
        sent.bytes += more.bytes;
        if (i % 3 == 0) rig_flow(&r, "table=1,ip,nw_dst=10.0.0.2,actions=output:2,goto_table:2"); /* in its place */
        if (i % 4 == 1) rig_flow(&r, "table=1,priority=9,tcp,actions=drop");
        if (i % 4 == 3) rig_flow_delete(&r, "table=1,tcp", 1);
    }
    check_two_tables(&r, sent, passed);
    rig_close(&r);
}

/* Each counts what those before it have let through; between them lies nothing, or something. */
static void several_meters(void **state)
{
    struct rig r;
    struct sum at_2 = {0}, at_3;
    (void)state;
    open_with_meters(&r, NULL);
    rig_flow(&r, "in_port=1,actions=meter:1,push_vlan:0x8100,goto_table:1");
    rig_flow(&r, "table=1,dl_vlan=0,actions=meter:2,pop_vlan,goto_table:2");
    rig_flow(&r, "table=2,actions=meter:1,output:2,goto_table:3");
    rig_flow(&r, "table=3,actions=meter:4,goto_table:4");
    rig_flow(&r, "table=4,actions=output:3");
    struct sum sent = send(&r, 2, 18, &at_2);
    same(of_flows(&r, "table=0"), sent);
    same(of_flows(&r, "table=1"), sent);
    same(of_flows(&r, "table=2"), at_2);
    same(of_flows(&r, "table=3"), at_2);
    at_3 = of_flows(&r, "table=4");
    assert_int_equal(at_3.packets, r.ports[3]->got);
    assert_in_range(at_2.packets, 20, 30);
    assert_in_range(at_3.packets, 8, 18);
    assert_int_equal(of_table(&r, 4).lookups, at_3.packets);
    assert_int_equal(of_table(&r, 2).matched, at_2.packets);
    rig_close(&r);
}

/* More of them than a way has marks for. */
static void very_many_meters(void **state)
{
    struct rig r;
    struct sum passed = {0};
    char text[128];
    (void)state;
    open_with_meters(&r, NULL);
    for (unsigned t = 0; t < 40; t++) {
        snprintf(text, sizeof text, "table=%u,actions=meter:%u,goto_table:%u", t, t == 20 ? 2u : 1u, t + 1);
        rig_flow(&r, text);
    }
    rig_flow(&r, "table=40,actions=output:2");
    struct sum sent = send(&r, 2, 18, &passed);
    assert_in_range(passed.packets, 20, 30);
    for (unsigned t = 0; t <= 40; t++) {
        snprintf(text, sizeof text, "table=%u", t);
        same(of_flows(&r, text), t > 20 ? passed : sent);
        assert_int_equal(of_table(&r, (uint8_t)t).lookups, (t > 20 ? passed : sent).packets);
    }
    rig_close(&r);
}

/* The meter of a table that a flow asks on its way ends that way, too. */
static void by_resubmit(void **state)
{
    struct rig r;
    struct sum passed = {0};
    (void)state;
    open_with_meters(&r, NULL);
    rig_group(&r, "group_id=1,type=all,bucket=output:3");
    rig_flow(&r, "in_port=1,actions=group:1,resubmit(,5),output:2,goto_table:1");
    rig_flow(&r, "table=5,actions=meter:2,resubmit(,6)"); /* no flow there */
    rig_flow(&r, "table=1,actions=drop");
    struct sum sent = send(&r, 2, 18, &passed);
    assert_in_range(passed.packets, 20, 30);
    same(of_flows(&r, "table=0"), sent);
    same(of_flows(&r, "table=5"), sent);
    same(of_group(&r, 1), sent);
    same(of_flows(&r, "table=1"), passed);
    assert_int_equal(of_table(&r, 6).lookups, passed.packets);
    assert_int_equal(of_table(&r, 6).matched, 0);
    rig_close(&r);
}

/* By way of a second look-up. */
static void below_a_label(void **state)
{
    struct rig r;
    uint8_t f[128], inner[128];
    (void)state;
    open_with_meters(&r, NULL);
    rig_flow(&r, "mpls,actions=meter:2,pop_mpls:0x0800,goto_table:1");
    rig_flow(&r, "table=1,udp,tp_dst=2000,actions=output:2");
    unsigned n = frame_udp(inner, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    memcpy(f, inner, 12);
    memcpy(f + 12, "\x88\x47\0\1\1\x40", 6);
    memcpy(f + 18, inner + 14, n - 14);
    for (unsigned i = 0; i < 10; i++)
        rig_send(&r, 1, f, n + 4, 5);
    struct sum passed = {r.ports[2]->got, (uint64_t)r.ports[2]->got * (n + 4)};
    assert_in_range(passed.packets, 20, 30);
    same(of_flows(&r, "table=0"), (struct sum){50, 50 * (n + 4)});
    same(of_flows(&r, "table=1"), passed);
    assert_int_equal(of_table(&r, 1).lookups, passed.packets);
    rig_close(&r);
}

/* What a controller sends, which no megaflow counts. */
static void of_a_controller(void **state)
{
    struct rig r;
    struct action table = {.type = ACTION_OUTPUT, .output = {.port = SWITCH_PORT_TABLE}};
    struct action_list actions = {.list = &table, .count = 1};
    struct errmsg e;
    uint8_t f[128];
    (void)state;
    open_with_meters(&r, NULL);
    two_tables(&r, "2");
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(bridge_packet_out(r.bridge, 1, &actions, f, n, NULL, &e), 0);
    struct sum passed = {r.ports[2]->got, (uint64_t)r.ports[2]->got * n};
    assert_in_range(passed.packets, 20, 30);
    assert_int_equal(r.ports[3]->got, passed.packets);
    same(of_flows(&r, "table=0"), (struct sum){50, 50 * n});
    same(of_flows(&r, "table=1"), passed);
    same(of_group(&r, 1), passed);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(later_tables_and_groups), cmocka_unit_test(whoever_counts),
        cmocka_unit_test(while_flows_change),      cmocka_unit_test(several_meters),
        cmocka_unit_test(very_many_meters),        cmocka_unit_test(by_resubmit),
        cmocka_unit_test(below_a_label),           cmocka_unit_test(of_a_controller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
