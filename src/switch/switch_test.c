/* SPDX-License-Identifier: Apache-2.0 */
/* The switch as its users see it: frames in, frames out, what can be asked. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "switch/bridge.h"
#include "switch/flow_text.h"
#include "switch/meter.h"
#include "switch/test_rig.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"
#define ALL "ff:ff:ff:ff:ff:ff"

static unsigned bit(unsigned port)
{
    return 1u << port;
}

static void send_udp(struct rig *r, unsigned port, const char *dst, const char *src, unsigned copies)
{
    uint8_t f[128];
    unsigned n = frame_udp(f, dst, src, "10.0.0.1", "10.0.0.2", 1000, 2000);
    rig_send(r, port, f, n, copies);
}

static struct switch_stats stats(struct rig *r)
{
    struct switch_stats s;
    switch_stats_read(r->sw, &s);
    return s;
}

static void learns_and_floods(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 4);
    send_udp(&r, 1, B, A, 5);
    assert_int_equal(rig_got(&r), bit(2) | bit(3) | bit(4));
    send_udp(&r, 2, A, B, 5);
    assert_int_equal(rig_got(&r), bit(1));
    send_udp(&r, 1, B, A, 5); /* the megaflow that flooded knows better now */
    assert_int_equal(rig_got(&r), bit(2));
    send_udp(&r, 3, B, A, 1); /* moved */
    assert_int_equal(rig_got(&r), bit(2));
    send_udp(&r, 2, A, B, 1);
    assert_int_equal(rig_got(&r), bit(3));
    send_udp(&r, 1, ALL, A, 1);
    assert_int_equal(rig_got(&r), bit(2) | bit(3) | bit(4));
    bridge_mac_flush(r.bridge);
    send_udp(&r, 4, B, A, 1);
    assert_int_equal(rig_got(&r), bit(1) | bit(2) | bit(3));
    rig_close(&r);
}

/* Two ports that send from one address do not keep the switch busy. */
static void an_address_in_two_places(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 3);
    send_udp(&r, 3, A, B, 1);
    uint64_t before = stats(&r).translations, start_ns = clock_now_ns();
    for (unsigned i = 0; i < 200; i++)
        send_udp(&r, 1 + i % 2, B, A, 1);
    assert_int_equal(r.ports[3]->got, 200);
    uint64_t seconds = (clock_now_ns() - start_ns) / NS_PER_SECOND + 2;
    assert_true(stats(&r).translations - before <= 6 * seconds);
    switch_tick(r.sw, clock_now_ns() + 2 * NS_PER_SECOND); /* it may be there by now, after all */
    before = stats(&r).translations;
    send_udp(&r, 1, B, A, 1);
    send_udp(&r, 2, B, A, 1);
    assert_true(stats(&r).translations > before);
    rig_close(&r);
}

static void removed_port_is_gone(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 3);
    send_udp(&r, 2, A, B, 1);
    send_udp(&r, 1, B, A, 1);
    rig_got(&r);
    rig_port_remove(&r, 2);
    send_udp(&r, 1, B, A, 1);
    assert_int_equal(rig_got(&r), bit(3));
    rig_close(&r);
}

static void vlans(void **state)
{
    struct rig r;
    uint8_t f[128];
    struct switch_port_config access = {.vlan_mode = VLAN_ACCESS, .tag = 5}, trunk = {.vlan_mode = VLAN_TRUNK};
    struct switch_port_config other = {.vlan_mode = VLAN_ACCESS, .tag = 6};
    struct switch_port_config native = {.vlan_mode = VLAN_NATIVE_UNTAGGED, .tag = 5};
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 0);
    rig_port_add(&r, 1, &access);
    rig_port_add(&r, 2, &access);
    rig_port_add(&r, 3, &trunk);
    rig_port_add(&r, 4, &other);
    rig_port_add(&r, 5, &native);
    unsigned n = frame_udp(f, ALL, A, "10.0.0.1", "10.0.0.2", 1, 2);
    rig_send(&r, 1, f, n, 2);
    assert_int_equal(rig_got(&r), bit(2) | bit(3) | bit(5));
    assert_int_equal(r.ports[2]->last[0].length, n);
    assert_int_equal(r.ports[5]->last[0].length, n);
    assert_int_equal(r.ports[3]->last[0].length, n + 4);
    assert_memory_equal(r.ports[3]->last[0].bytes + 12, "\x81\x00\x00\x05\x08\x00", 6);
    assert_memory_equal(r.ports[2]->last[0].bytes, f, n);
    n = frame_tag(f, n, 0x8100, 0xa000 | 6);
    rig_send(&r, 3, f, n, 2);
    assert_int_equal(rig_got(&r), bit(4) | bit(5)); /* native ports are trunks of all VLANs, too */
    assert_int_equal(r.ports[5]->last[0].length, n);
    assert_int_equal(r.ports[4]->last[0].length, n - 4);
    rig_send(&r, 1, f, n, 1); /* tagged into an access port */
    assert_int_equal(rig_got(&r), 0);
    rig_close(&r);
}

/* A priority tag is taken off again: what is behind it must not become the tag that counts. */
static void a_priority_tag_hides_no_vlan(void **state)
{
    static const unsigned inner[] = {0x8100, 0x88a8, 0x9100};
    static const struct switch_port_config in[] = {
        {.vlan_mode = VLAN_ACCESS, .tag = 5}, {.vlan_mode = VLAN_TRUNK}, {.vlan_mode = VLAN_NATIVE_UNTAGGED, .tag = 5}};
    struct switch_port_config native = {.vlan_mode = VLAN_NATIVE_UNTAGGED, .tag = 5};
    uint8_t f[128];
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct rig r;
        rig_open(&r, NULL, BRIDGE_STANDALONE, 0);
        rig_port_add(&r, 1, &in[i]);
        rig_port_add(&r, 2, &native);
        rig_port_add(&r, 3, &in[1]);
        unsigned n = frame_udp(f, ALL, A, "10.0.0.1", "10.0.0.2", 1, 2);
        n = frame_tag(f, n, 0x8100, 0xa000); /* only a priority */
        rig_send(&r, 1, f, n, 2);
        assert_int_equal(rig_got(&r), bit(2) | bit(3));
        for (unsigned j = 0; j < 3; j++) {
            n = frame_udp(f, ALL, A, "10.0.0.1", "10.0.0.2", 1, 2);
            n = frame_tag(f, frame_tag(f, n, inner[j], 20), 0x8100, 0);
            rig_send(&r, 1, f, n, 2);
            assert_int_equal(rig_got(&r), 0);
        }
        rig_close(&r);
    }
}

static void flows_are_obeyed_and_counted(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    send_udp(&r, 1, B, A, 3);
    assert_int_equal(rig_got(&r), 0);
    rig_flow(&r, "priority=1,in_port=1,actions=output:2");
    send_udp(&r, 1, B, A, 3);
    send_udp(&r, 1, B, A, 3);
    assert_int_equal(r.ports[2]->got, 6);
    assert_int_equal(rig_got(&r), bit(2));
    assert_true(stats(&r).translations <= 3);
    rig_flow(&r, "priority=9,in_port=1,udp,tp_dst=2000,actions=output:3,set_field:02:00:00:00:00:cc->eth_dst,output:4");
    send_udp(&r, 1, B, A, 3);
    assert_int_equal(rig_got(&r), bit(3) | bit(4));
    assert_memory_equal(r.ports[4]->last[0].bytes, "\x02\0\0\0\0\xcc", 6);
    assert_memory_equal(r.ports[3]->last[0].bytes, "\x02\0\0\0\0\x0b", 6);
    rig_flow_delete(&r, "udp,tp_dst=2000", 1);
    send_udp(&r, 1, B, A, 1);
    assert_int_equal(rig_got(&r), bit(2));
    rig_close(&r);
}

struct seen {
    unsigned count;
    uint64_t packets, bytes;
};

static void see(void *arg, const struct flow_spec *f, const struct flow_stats *s)
{
    struct seen *x = arg;
    (void)f;
    x->count++;
    x->packets += s->packets;
    x->bytes += s->bytes;
}

static void see_gone(void *arg, const struct flow_spec *f, const struct flow_stats *s, enum flow_gone why)
{
    struct seen *x = arg;
    (void)f;
    assert_int_equal(why, FLOW_GONE_IDLE);
    x->count++;
    x->packets += s->packets;
}

static void counters_and_timeouts(void **state)
{
    struct rig r;
    struct seen all = {0}, gone = {0};
    struct flow_spec select = {.table = SWITCH_TABLE_ALL, .out_port = SWITCH_PORT_ANY, .out_group = SWITCH_PORT_ANY};
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    bridge_on_flow_gone(r.bridge, see_gone, &gone);
    rig_flow(&r, "table=0,priority=5,idle_timeout=10,in_port=1,actions=goto_table:3");
    rig_flow(&r, "table=3,priority=5,actions=output:2");
    for (unsigned i = 0; i < 10; i++)
        send_udp(&r, 1, B, A, 10);
    bridge_flow_each(r.bridge, &select, see, &all);
    assert_int_equal(all.count, 2);
    assert_int_equal(all.packets, 200);
    assert_int_equal(all.bytes, 200 * 60);
    rig_flow(&r, "table=3,priority=5,actions=output:2"); /* in its place: it goes on counting */
    send_udp(&r, 1, B, A, 10);
    rig_flow(&r, "table=3,priority=5,actions=output:1,output:2");
    send_udp(&r, 1, B, A, 10);
    all = (struct seen){0};
    bridge_flow_each(r.bridge, &select, see, &all);
    assert_int_equal(all.packets, 240);
    switch_tick(r.sw, clock_now_ns() + 5 * NS_PER_SECOND);
    assert_int_equal(gone.count, 0);
    switch_tick(r.sw, clock_now_ns() + 15 * NS_PER_SECOND);
    assert_int_equal(gone.count, 1);
    assert_int_equal(gone.packets, 120);
    rig_got(&r);
    send_udp(&r, 1, B, A, 1);
    assert_int_equal(rig_got(&r), 0);
    rig_close(&r);
}

static struct seen counts(struct rig *r, unsigned table)
{
    struct seen all = {0};
    struct flow_spec select = {.table = (uint8_t)table, .out_port = SWITCH_PORT_ANY, .out_group = SWITCH_PORT_ANY};
    bridge_flow_each(r->bridge, &select, see, &all);
    return all;
}

/* Flows that want no counters have none, whatever they take the place of; they are in use all the same. */
static void flows_without_counts(void **state)
{
    static const struct {
        const char *flag;
        unsigned packets, bytes;
    } kinds[] = {
        {"no_packet_counts,", 0, 10 * 60}, {"no_byte_counts,", 10, 0}, {"no_packet_counts,no_byte_counts,", 0, 0}};
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        char text[128];
        struct rig r;
        struct seen gone = {0};
        rig_open(&r, NULL, BRIDGE_SECURE, 2);
        bridge_on_flow_gone(r.bridge, see_gone, &gone);
        snprintf(text, sizeof text, "idle_timeout=10,%sin_port=1,actions=output:2", kinds[i].flag);
        rig_flow(&r, "in_port=1,actions=output:2");
        send_udp(&r, 1, B, A, 5);
        rig_flow(&r, text);
        send_udp(&r, 1, B, A, 5);
        assert_int_equal(counts(&r, 0).packets, kinds[i].packets);
        assert_int_equal(counts(&r, 0).bytes, kinds[i].bytes);
        switch_tick(r.sw, clock_now_ns() + 5 * NS_PER_SECOND);
        assert_int_equal(gone.count, 0);
        switch_tick(r.sw, clock_now_ns() + 15 * NS_PER_SECOND);
        assert_int_equal(gone.count, 1);
        assert_int_equal(gone.packets, kinds[i].packets);
        rig_close(&r);
    }
}

/* What threads had not told yet when the counters were reset belongs to before. */
static void counts_are_reset(void **state)
{
    struct rig r;
    struct flow_spec f;
    struct errmsg e;
    unsigned changed;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    rig_flow(&r, "in_port=1,actions=output:2");
    send_udp(&r, 1, B, A, 10);
    assert_int_equal(flow_parse(&f, "in_port=1,actions=output:2", FLOW_PARSE_ADD, NULL, &e), 0);
    f.flags |= FLOW_RESET_COUNTS;
    assert_int_equal(bridge_flow_modify(r.bridge, &f, true, &changed, NULL, &e), 0);
    assert_int_equal(changed, 1);
    assert_int_equal(counts(&r, 0).packets, 0);
    send_udp(&r, 1, B, A, 3);
    assert_int_equal(counts(&r, 0).packets, 3);
    send_udp(&r, 1, B, A, 5);
    rig_flow(&r, "in_port=1,actions=output:2"); /* in its place: what was counted for the old one is its own */
    assert_int_equal(bridge_flow_modify(r.bridge, &f, true, &changed, NULL, &e), 0);
    send_udp(&r, 1, B, A, 2);
    assert_int_equal(counts(&r, 0).packets, 2);
    instructions_clear(&f.instructions);
    rig_close(&r);
}

/* Of many flows on the way those with an idle time-out count: they are in use. */
static void long_pipelines_do_not_time_out(void **state)
{
    struct rig r;
    char text[160];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    for (unsigned i = 0; i < 100; i++) {
        const char *timeout = i % 30 == 29 ? "idle_timeout=10," : "";
        snprintf(text, sizeof text, "table=%u,priority=5,%sactions=goto_table:%u", i, timeout, i + 1);
        rig_flow(&r, text);
    }
    rig_flow(&r, "table=100,priority=5,idle_timeout=10,actions=output:2");
    send_udp(&r, 1, B, A, 4);
    send_udp(&r, 1, B, A, 4);
    assert_int_equal(rig_got(&r), bit(2));
    for (unsigned i = 29; i < 100; i += 30)
        assert_int_equal(counts(&r, i).packets, 8);
    assert_int_equal(counts(&r, 100).packets, 8);
    rig_close(&r);
}

static void actions_of_a_pipeline(void **state)
{
    struct rig r;
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_flow(&r,
             "table=0,priority=5,ip,actions=push_vlan:0x8100,set_field:4105->vlan_vid,write_metadata:7,goto_table:1");
    rig_flow(
        &r, "table=1,priority=5,metadata=7,ip,dl_vlan=9,actions=output:2,pop_vlan,dec_ttl,resubmit(,2),output:in_port");
    rig_flow(&r, "table=2,priority=5,ip,nw_ttl=63,actions=output:3");
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1, 2);
    rig_send(&r, 1, f, n, 4);
    rig_send(&r, 1, f, n, 4);
    assert_int_equal(r.ports[2]->got, 8);
    assert_int_equal(rig_got(&r), bit(1) | bit(2) | bit(3));
    assert_memory_equal(r.ports[2]->last[0].bytes + 12, "\x81\x00\x00\x09\x08\x00", 6);
    assert_int_equal(r.ports[3]->last[0].bytes[22], 63);
    assert_int_equal(r.ports[3]->last[0].length, n);
    rig_close(&r);
}

static void resubmit_without_end(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    rig_flow(&r, "table=0,actions=output:2,resubmit(,0)");
    send_udp(&r, 1, B, A, 4);
    assert_int_equal(rig_got(&r), 0);
    assert_int_equal(stats(&r).dropped, 4);
    rig_close(&r);
}

static void trace_explains(void **state)
{
    struct rig r;
    struct flow_key k;
    struct errmsg e;
    char text[4096] = {0};
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    rig_flow(&r, "table=0,priority=7,udp,tp_dst=53,actions=goto_table:1");
    rig_flow(&r, "table=1,priority=1,actions=set_field:02:00:00:00:00:cc->eth_src,output:3");
    assert_int_equal(flow_parse_key(&k, "in_port=1,udp,nw_src=1.2.3.4,nw_dst=5.6.7.8,tp_src=9,tp_dst=53", NULL, &e), 0);
    FILE *out = fmemopen(text, sizeof text, "w");
    bridge_trace(r.bridge, &k, NULL, out);
    fclose(out);
    assert_non_null(strstr(text, "goto_table:1"));
    assert_non_null(strstr(text, "set(0x20000000000cc->dl_src),output:3") ? text : strstr(text, "output:3"));
    assert_non_null(strstr(text, "megaflow: "));
    assert_null(strstr(text, "1.2.3.4,") && strstr(strstr(text, "megaflow"), "nw_src") ? text : NULL);
    rig_close(&r);
}

struct megaflows {
    unsigned count;
    uint64_t packets;
};

static void see_megaflow(void *arg, const struct megaflow_info *m)
{
    struct megaflows *x = arg;
    x->count++;
    x->packets += m->packets;
    assert_non_null(m->actions);
}

static void exact_mode(void **state)
{
    struct rig r;
    struct switch_config c;
    uint8_t f[128];
    struct megaflows m = {0};
    (void)state;
    switch_config_default(&c);
    c.new_flows_ns = 0;
    c.flows = SWITCH_FLOWS_EXACT;
    c.exact_max = 16;
    rig_open(&r, &c, BRIDGE_SECURE, 2);
    rig_flow(&r, "in_port=1,actions=output:2");
    for (unsigned i = 0; i < 100; i++) {
        unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", i, 2);
        rig_send(&r, 1, f, n, 1);
    }
    assert_int_equal(r.ports[2]->got, 100);
    assert_int_equal(stats(&r).megaflows, 16);
    assert_int_equal(stats(&r).translations, 100);
    switch_megaflow_each(r.sw, NULL, see_megaflow, &m);
    assert_int_equal(m.count, 16);
    assert_int_equal(m.packets, 16);
    rig_close(&r);
}

/* What is below labels and I-tags decides, once they are off. */
static void what_comes_to_light(void **state)
{
    struct rig r;
    uint8_t f[128], inner[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_flow(&r, "table=0,in_port=1,ip,actions=push_mpls:0x8847,set_field:77->mpls_label,output:2");
    rig_flow(&r, "table=0,in_port=3,mpls,mpls_label=77,actions=pop_mpls:0x0800,goto_table:1");
    rig_flow(&r, "table=0,in_port=4,dl_type=0x88e7,actions=pop_pbb,goto_table:1");
    rig_flow(&r, "table=1,ip,nw_dst=10.0.0.2,actions=output:2");
    rig_flow(&r, "table=1,ip,nw_dst=10.0.0.3,actions=output:1");
    unsigned n = frame_udp(inner, B, A, "10.0.0.1", "10.0.0.2", 1, 2);
    rig_send(&r, 1, inner, n, 2);
    assert_int_equal(rig_got(&r), bit(2));
    assert_int_equal(r.ports[2]->last[1].length, n + 4);
    assert_memory_equal(r.ports[2]->last[1].bytes + 12, "\x88\x47\x00\x04\xd1\x40\x45", 7);
    memcpy(f, r.ports[2]->last[1].bytes, n + 4);
    rig_send(&r, 3, f, n + 4, 3);
    assert_int_equal(rig_got(&r), bit(2));
    assert_memory_equal(r.ports[2]->last[0].bytes, inner, n);
    f[37] = 3; /* the same label, for another */
    rig_send(&r, 3, f, n + 4, 3);
    assert_int_equal(rig_got(&r), bit(1));
    memcpy(f, "\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xe7\0\0\0\x07", 18);
    memcpy(f + 18, inner, n);
    rig_send(&r, 4, f, n + 18, 2);
    assert_int_equal(rig_got(&r), bit(2));
    assert_memory_equal(r.ports[2]->last[1].bytes, inner, n);
    rig_close(&r);
}

/* Two megaflows do for all of them, whatever is inside that no flow looks at; they count for the flows once. */
static void what_is_popped_is_looked_up_again(void **state)
{
    struct rig r;
    uint8_t f[128];
    struct megaflows m = {0};
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    rig_flow(&r, "table=0,in_port=1,mpls,actions=pop_mpls:0x0800,goto_table:1");
    rig_flow(&r, "table=1,ip,nw_dst=10.0.0.2,actions=output:2");
    for (unsigned i = 0; i < 100; i++) {
        unsigned n = frame_udp(f + 4, B, A, "10.0.0.1", "10.0.0.2", i, 2);
        memmove(f, f + 4, 12);
        memcpy(f + 12, "\x88\x47\x00\x04\xd1\x40", 6);
        rig_send(&r, 1, f, n + 4, 2);
    }
    assert_int_equal(r.ports[2]->got, 200);
    assert_int_equal(stats(&r).translations, 1);
    assert_int_equal(stats(&r).megaflows, 2);
    switch_megaflow_each(r.sw, NULL, see_megaflow, &m);
    assert_int_equal(m.count, 2);
    assert_int_equal(counts(&r, 0).packets, 200);
    assert_int_equal(counts(&r, 1).packets, 200);
    rig_flow(&r, "table=1,priority=40000,udp,tp_src=50,actions=output:3");
    unsigned n = frame_udp(f + 4, B, A, "10.0.0.1", "10.0.0.2", 50, 2);
    memmove(f, f + 4, 12);
    memcpy(f + 12, "\x88\x47\x00\x04\xd1\x40", 6);
    rig_got(&r);
    rig_send(&r, 1, f, n + 4, 2);
    assert_int_equal(rig_got(&r), bit(3));
    rig_port_remove(&r, 1);
    m.count = 0;
    switch_megaflow_each(r.sw, NULL, see_megaflow, &m);
    assert_int_equal(m.count, 0);
    rig_close(&r);
}

/* A full burst of packets that are each copied more often than the pool would have copies for. */
static void many_copies(void **state)
{
    struct rig r;
    char text[4096] = "in_port=1,actions=";
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    for (unsigned i = 0; i < 40; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "set_field:02:00:00:00:01:%02x->eth_dst,output:2,",
                 i);
    rig_flow(&r, text);
    for (unsigned i = 0; i < 3; i++) {
        send_udp(&r, 1, B, A, PACKET_BATCH);
        assert_int_equal(r.ports[2]->got, 40 * PACKET_BATCH * (i + 1));
        assert_memory_equal(r.ports[2]->last[7].bytes, "\2\0\0\0\1\x27", 6);
    }
    assert_int_equal(stats(&r).dropped, 0);
    rig_close(&r);
}

/* A move into a tag makes none and takes none away. */
/* A key has room for two; the one below them is there again when they are off. */
static void third_tag(void **state)
{
    struct rig r;
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_flow(&r, "table=0,in_port=1,actions=push_vlan:0x8100,pop_vlan,goto_table:1");
    rig_flow(&r, "table=1,vlan_tci=0x1000/0x1000,actions=pop_vlan,goto_table:2");
    rig_flow(&r, "table=2,priority=2,dl_vlan=7,actions=output:2");
    rig_flow(&r, "table=2,priority=1,actions=output:3");
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1, 2);
    n = frame_tag(f, frame_tag(f, n, 0x8100, 7), 0x88a8, 8);
    rig_send(&r, 1, f, n, 2);
    assert_int_equal(rig_got(&r), bit(2));
    assert_memory_equal(r.ports[2]->last[1].bytes + 12, "\x81\0\0\x07\x08\0", 6);
    rig_close(&r);
}

/* There is no class of service in a header that is not whole: nothing to be set, nothing that fails. */
static void remarks_half_a_header(void **state)
{
    static const struct meter_spec remark = {
        .id = 1, .flags = METER_PKTPS, .count = 1, .bands = {{.type = METER_DSCP_REMARK, .prec_level = 1}}};
    struct rig r;
    struct errmsg e;
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    assert_int_equal(bridge_meter_add(r.bridge, &remark, NULL, &e), 0);
    rig_flow(&r, "table=0,in_port=1,actions=meter:1,output:2,goto_table:1");
    rig_flow(&r, "table=1,priority=2,ip,ip_dscp=10,actions=output:4");
    rig_flow(&r, "table=1,priority=1,actions=output:3");
    frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1, 2);
    rig_send(&r, 1, f, 14 + 10, 2);
    assert_int_equal(rig_got(&r), bit(2) | bit(3));
    rig_close(&r);
}

static void moves_into_tags(void **state)
{
    struct rig r;
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_flow(
        &r, "table=0,in_port=1,vlan_tci=0x1000/0x1000,actions=move:NXM_NX_REG0[0..15]->NXM_OF_VLAN_TCI[],goto_table:1");
    rig_flow(&r, "table=1,priority=2,vlan_tci=0x1000/0x1000,actions=output:2");
    rig_flow(&r, "table=1,priority=1,actions=output:3");
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1, 2);
    n = frame_tag(f, n, 0x8100, 0xa007);
    rig_send(&r, 1, f, n, 2);
    assert_int_equal(rig_got(&r), bit(2));
    assert_memory_equal(r.ports[2]->last[1].bytes + 12, "\x81\0\0\0\x08\0", 6);
    rig_close(&r);
}

/* Of a neighbour solicitation with its link-layer address or without, and hop limit 255. */
static unsigned frame_ns(uint8_t *f, bool option)
{
    static const uint8_t head[] = {0x33, 0x33, 0,    0,    0, 1, 2, 0, 0,  0,  0,
                                   0xa,  0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255};
    static const uint8_t link[] = {1, 1, 2, 0, 0, 0, 0, 0xa};
    memset(f, 0, 128);
    memcpy(f, head, sizeof head);
    f[22] = f[38] = 0xfd;
    f[54] = 135;
    f[62] = 0xfd;
    if (option) memcpy(f + 78, link, sizeof link);
    f[19] = option ? 32 : 24;
    return option ? 86 : 78;
}

/* What a mask leaves out stays as it was. */
static void written_in_parts(void **state)
{
    struct rig r;
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_flow(&r, "in_port=1,udp,actions=move:NXM_NX_REG0[0..3]->NXM_NX_IP_TTL[2..5],output:2");
    rig_flow(&r, "in_port=1,icmp,actions=move:NXM_NX_REG0[0..1]->NXM_OF_ICMP_TYPE[1..2],"
                 "set_field:0x80/0x80->icmp_code,output:2");
    rig_flow(&r,
             "in_port=1,icmp6,icmp_type=135,actions=set_field:00:00:00:00:00:77/00:00:00:00:00:ff->nd_sll,output:2");
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1, 2);
    f[22] = 0xff;
    rig_send(&r, 1, f, n, 2);
    assert_int_equal(rig_got(&r), bit(2));
    assert_int_equal(r.ports[2]->last[1].bytes[22], 0xc3);
    f[23] = 1;
    f[34] = 0xff;
    f[35] = 0x05;
    rig_send(&r, 1, f, n, 2);
    assert_int_equal(rig_got(&r), bit(2));
    assert_int_equal(r.ports[2]->last[1].bytes[34], 0xf9);
    assert_int_equal(r.ports[2]->last[1].bytes[35], 0x85);
    n = frame_ns(f, true);
    rig_send(&r, 1, f, n, 2);
    assert_int_equal(rig_got(&r), bit(2));
    assert_memory_equal(r.ports[2]->last[1].bytes + 78, "\1\1\2\0\0\0\0\x77", 8);
    n = frame_ns(f, false); /* not dropped for what it does not have */
    rig_send(&r, 1, f, n, 2);
    assert_int_equal(rig_got(&r), bit(2));
    assert_memory_equal(r.ports[2]->last[1].bytes, f, n);
    rig_close(&r);
}

/* Another type or protocol is in the frame, not only in what is known of it, and decides what the rest is taken for. */
static void another_shape(void **state)
{
    struct rig r;
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_flow(&r, "table=0,in_port=1,udp,actions=set_field:6->ip_proto,output:2,goto_table:1");
    rig_flow(&r, "table=0,in_port=2,actions=set_field:0x88cc->eth_type,output:3,goto_table:1");
    rig_flow(&r, "table=0,in_port=3,dl_type=0x88cc,actions=set_field:0x0800->eth_type,goto_table:1");
    rig_flow(&r, "table=1,priority=9,udp,tp_dst=2,actions=output:1");
    rig_flow(&r, "table=1,priority=1,actions=output:4");
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1, 2);
    for (unsigned i = 0; i < 3; i++) {
        rig_send(&r, 1, f, n, 2);
        assert_int_equal(rig_got(&r), bit(2) | bit(4));
        assert_int_equal(r.ports[2]->last[1].bytes[23], 6);
        assert_int_equal(f[23], 17);
        rig_send(&r, 2, f, n, 2);
        assert_int_equal(rig_got(&r), bit(3) | bit(4));
        assert_memory_equal(r.ports[3]->last[1].bytes + 12, "\x88\xcc\x45", 3);
        rig_send(&r, 3, r.ports[3]->last[1].bytes, n, 2);
        assert_int_equal(rig_got(&r), bit(1));
        assert_memory_equal(r.ports[1]->last[1].bytes, f, n);
    }
    n = frame_tag(f, n, 0x8100, 7);
    rig_send(&r, 2, f, n, 2);
    assert_memory_equal(r.ports[3]->last[1].bytes + 12, "\x81\x00\x00\x07\x88\xcc\x45", 7);
    rig_close(&r);
}

/* Flows whose masks differ in every bit of two fields: however a guest sends, the masks of its port are bounded, those of others
 * are not touched, and everything is still forwarded as it should be. */
static void masks_are_bounded(void **state)
{
    struct rig r;
    struct switch_config c;
    uint8_t f[128];
    char text[160], src[32], dst[32];
    (void)state;
    switch_config_default(&c);
    c.new_flows_ns = 0;
    c.masks_max = 20;
    rig_open(&r, &c, BRIDGE_SECURE, 3);
    for (unsigned i = 0; i < 32; i++)
        for (unsigned j = 0; j < 16; j++) {
            snprintf(text, sizeof text, "priority=%u,udp,nw_src=%u.%u.0.0/%u,tp_dst=0x%04x/0x%04x,actions=drop",
                     100 + i + j, 128 >> i % 8, i, i + 1 < 17 ? i + 1 : 16, 0x8000 >> j, 0xffff << (15 - j) & 0xffff);
            struct flow_spec spec;
            struct errmsg e;
            if (flow_parse(&spec, text, FLOW_PARSE_ADD, NULL, &e)) continue; /* bits outside its mask */
            assert_int_equal(bridge_flow_add(r.bridge, &spec, NULL, &e), 0);
            instructions_clear(&spec.instructions);
        }
    rig_flow(&r, "priority=1,in_port=2,actions=output:3");
    rig_flow(&r, "priority=1,in_port=1,actions=output:3");
    for (unsigned i = 0; i < 4000; i++) {
        snprintf(src, sizeof src, "%u.%u.%u.3", i * 7 % 256, i * 13 % 256, i % 256);
        snprintf(dst, sizeof dst, "10.0.%u.1", i % 256);
        unsigned n = frame_udp(f, B, A, src, dst, i, i * 31 % 65536);
        rig_send(&r, 1, f, n, 1);
    }
    assert_true(stats(&r).masks <= c.masks_max + 1);
    unsigned before = stats(&r).masks;
    frame_udp(f, B, A, "5.5.5.5", "6.6.6.6", 1, 1);
    rig_send(&r, 2, f, 60, 1);
    assert_int_equal(stats(&r).masks, before + 1);
    rig_close(&r);
}

static void idle_megaflows_go(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 2);
    send_udp(&r, 1, B, A, 1);
    assert_int_equal(stats(&r).megaflows, 1);
    switch_tick(r.sw, clock_now_ns() + 2 * NS_PER_SECOND);
    assert_int_equal(stats(&r).megaflows, 1);
    switch_tick(r.sw, clock_now_ns() + 30 * NS_PER_SECOND);
    switch_tick(r.sw, clock_now_ns() + 60 * NS_PER_SECOND);
    assert_int_equal(stats(&r).megaflows, 0);
    assert_int_equal(stats(&r).masks, 0);
    rig_close(&r);
}

/* A source that gives some frames and then has none. */
struct test_source {
    struct port_source source; /* first */
    _Atomic unsigned left;
};

static int receive(struct port_source *s, struct packet **out, unsigned max, struct packet_pool *pool)
{
    struct test_source *t = (struct test_source *)s;
    unsigned n = 0;
    for (; n < max && n < 5 && atomic_load(&t->left) > 0; n++) {
        out[n] = packet_pool_packet(pool);
        out[n]->length_bytes = frame_udp(out[n]->head, B, A, "10.0.0.1", "10.0.0.2", 1, 2);
        out[n]->head_bytes = (uint16_t)out[n]->length_bytes;
        atomic_fetch_sub(&t->left, 1);
    }
    return (int)n;
}

static void nothing(struct port_source *s)
{
    (void)s;
}

static bool arm(struct port_source *s)
{
    return atomic_load(&((struct test_source *)s)->left) > 0;
}

static const struct port_source_ops source_ops = {
    .receive = receive, .release = nothing, .arm = arm, .disarm = nothing, .woken = nothing};

static void wait_for_packets(struct rig *r, uint64_t count)
{
    uint64_t end = clock_now_ns() + 10 * NS_PER_SECOND;
    while (stats(r).packets < count && clock_now_ns() < end)
        sched_yield();
    assert_int_equal(stats(r).packets, count);
}

static void on_runners(void **state)
{
    struct rig r;
    struct runner *runner;
    struct test_source s = {.source = {.ops = &source_ops, .fd = -1}};
    struct megaflows m = {0};
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    rig_flow(&r, "in_port=1,actions=output:2");
    s.source.port = &r.ports[1]->port;
    atomic_store(&s.left, 1000);
    assert_int_equal(runner_new(&runner, "test", r.sink, RUNNER_POLL_NS_DEFAULT), 0);
    assert_int_equal(runner_add(runner, &s.source), 0);
    wait_for_packets(&r, 1000);
    rig_flow(&r, "in_port=1,actions=output:3");
    switch_barrier(r.sw);
    atomic_store(&s.left, 1000);
    wait_for_packets(&r, 2000);
    switch_megaflow_each(r.sw, NULL, see_megaflow, &m);
    assert_int_equal(m.count, 1);
    runner_remove(&s.source);
    assert_int_equal(r.ports[2]->got, 1000);
    assert_int_equal(r.ports[3]->got, 1000);
    rig_port_remove(&r, 2);
    runner_free(runner);
    rig_close(&r);
}

static unsigned taken(struct flow_list *l, unsigned most)
{
    struct flow_spec f;
    struct flow_stats s;
    unsigned n = 0, last = UINT16_MAX;
    while (n < most && flow_list_next(l, &f, &s)) {
        assert_true(f.priority < last);
        assert_int_equal(f.instructions.apply.count, 1);
        last = f.priority;
        n++;
    }
    return n;
}

/* While a list is taken piece by piece, flows may go, and others come. */
static void flows_are_listed_piece_by_piece(void **state)
{
    struct flow_spec all = {.table = SWITCH_TABLE_ALL, .out_port = SWITCH_PORT_ANY, .out_group = SWITCH_PORT_ANY}, f;
    struct flow_stats s;
    struct rig r;
    char text[64];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    struct flow_list *none = bridge_flow_list(r.bridge, &all);
    assert_non_null(none);
    assert_false(flow_list_next(none, &f, &s));
    assert_false(flow_list_next(none, &f, &s));
    flow_list_free(none);
    for (unsigned i = 0; i < 100; i++) {
        snprintf(text, sizeof text, "priority=%u,actions=output:2", 1 + i * 37 % 100);
        rig_flow(&r, text);
    }
    struct flow_list *l = bridge_flow_list(r.bridge, &all), *other = bridge_flow_list(r.bridge, &all);
    assert_int_equal(taken(l, 50), 50); /* down to 51 */
    rig_flow_delete(&r, "priority=50", 1);
    rig_flow_delete(&r, "priority=51", 1);
    rig_flow_delete(&r, "priority=70", 1);
    rig_flow(&r, "priority=49,actions=output:1"); /* in its place */
    rig_flow(&r, "priority=20,tcp,actions=output:1");
    assert_true(flow_list_next(l, &f, &s));
    assert_int_equal(f.priority, 49);
    assert_int_equal(f.instructions.apply.list[0].output.port, 1);
    assert_int_equal(taken(l, 100), 48);
    flow_list_free(l);
    assert_int_equal(taken(other, 10), 10);
    flow_list_free(other);
    rig_close(&r);
}

/* Those who ask and do not take the answer keep flows that are gone: not more than a few times as many as there may be. */
static void lists_are_bounded(void **state)
{
    struct flow_spec all = {.table = SWITCH_TABLE_ALL, .out_port = SWITCH_PORT_ANY, .out_group = SWITCH_PORT_ANY};
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    rig_flow(&r, "priority=1,actions=output:2");
    rig_flow(&r, "priority=2,actions=output:2");
    r.bridge->flows_listed = 4 * SWITCH_FLOWS_MAX_DEFAULT - 3;
    struct flow_list *l = bridge_flow_list(r.bridge, &all);
    assert_int_equal(taken(l, 2), 2);
    assert_null(bridge_flow_list(r.bridge, &all));
    flow_list_free(l);
    assert_int_equal(r.bridge->flows_listed, 4 * SWITCH_FLOWS_MAX_DEFAULT - 3);
    l = bridge_flow_list(r.bridge, &all);
    assert_non_null(l);
    flow_list_free(l);
    rig_close(&r);
}

/* What flows do is bounded, however many they are. */
static void actions_are_bounded(void **state)
{
    struct flow_spec f;
    struct errmsg e;
    struct rig r;
    enum flow_wrong why;
    unsigned changed;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    rig_flow(&r, "priority=1,actions=output:2");
    rig_flow(&r, "priority=2,actions=output:2");
    assert_int_equal(r.bridge->flow_actions, 2);
    r.bridge->flow_actions += SWITCH_FLOW_ACTIONS_MAX - 4;
    assert_int_equal(flow_parse(&f, "actions=output:1,output:2", FLOW_PARSE_MOD, NULL, &e), 0);
    assert_int_equal(bridge_flow_modify(r.bridge, &f, false, &changed, &why, &e), 0);
    f.priority = 3;
    assert_int_equal(bridge_flow_add(r.bridge, &f, &why, &e), -ENOSPC);
    assert_int_equal(why, FLOW_TABLE_FULL);
    f.priority = 2; /* in its place */
    assert_int_equal(bridge_flow_add(r.bridge, &f, &why, &e), 0);
    instructions_clear(&f.instructions);
    assert_int_equal(flow_parse(&f, "actions=output:1,output:2,output:1", FLOW_PARSE_MOD, NULL, &e), 0);
    assert_int_equal(bridge_flow_modify(r.bridge, &f, false, &changed, &why, &e), -ENOSPC);
    assert_int_equal(why, FLOW_TABLE_FULL);
    instructions_clear(&f.instructions);
    rig_flow_delete(&r, "", 2);
    assert_int_equal(r.bridge->flow_actions, SWITCH_FLOW_ACTIONS_MAX - 4);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flows_are_listed_piece_by_piece),
        cmocka_unit_test(actions_are_bounded),
        cmocka_unit_test(lists_are_bounded),
        cmocka_unit_test(learns_and_floods),
        cmocka_unit_test(an_address_in_two_places),
        cmocka_unit_test(removed_port_is_gone),
        cmocka_unit_test(vlans),
        cmocka_unit_test(a_priority_tag_hides_no_vlan),
        cmocka_unit_test(flows_are_obeyed_and_counted),
        cmocka_unit_test(counters_and_timeouts),
        cmocka_unit_test(counts_are_reset),
        cmocka_unit_test(flows_without_counts),
        cmocka_unit_test(long_pipelines_do_not_time_out),
        cmocka_unit_test(actions_of_a_pipeline),
        cmocka_unit_test(resubmit_without_end),
        cmocka_unit_test(trace_explains),
        cmocka_unit_test(exact_mode),
        cmocka_unit_test(masks_are_bounded),
        cmocka_unit_test(idle_megaflows_go),
        cmocka_unit_test(on_runners),
        cmocka_unit_test(what_comes_to_light),
        cmocka_unit_test(what_is_popped_is_looked_up_again),
        cmocka_unit_test(another_shape),
        cmocka_unit_test(written_in_parts),
        cmocka_unit_test(moves_into_tags),
        cmocka_unit_test(third_tag),
        cmocka_unit_test(remarks_half_a_header),
        cmocka_unit_test(many_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
