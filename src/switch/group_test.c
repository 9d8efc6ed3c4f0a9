/* SPDX-License-Identifier: Apache-2.0 */
/* Groups: what is refused, where packets go, what is counted, and what a change of one does to flows and megaflows. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "switch/group_internal.h"
#include "switch/meter.h"
#include "switch/test_rig.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"
#define P(n) (1u << (n))

static void send_udp(struct rig *r, uint32_t port, unsigned sport, unsigned copies)
{
    uint8_t f[128];
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", sport, 2000);
    rig_send(r, port, f, n, copies);
}

static uint32_t sent_to(struct rig *r)
{
    send_udp(r, 1, 1000, 1);
    return rig_got(r);
}

static uint8_t last_byte_of_dst(const struct rig *r, unsigned port)
{
    return r->ports[port]->last[(r->ports[port]->got - 1) % 8].bytes[5];
}

/* ---- what is refused ---- */

static int group_do(struct rig *r, const char *text, bool modify, struct group_why *why)
{
    struct group_spec g;
    struct errmsg e;
    if (group_parse(&g, text, NULL, &e)) fail_msg("%s: %s", text, e.text);
    int ret = modify ? bridge_group_modify(r->bridge, &g, why, &e) : bridge_group_add(r->bridge, &g, why, &e);
    group_spec_clear(&g);
    return ret;
}

static void refused(struct rig *r, const char *text, bool modify, enum group_wrong wrong)
{
    struct group_why why;
    assert_true(group_do(r, text, modify, &why) < 0);
    if (why.wrong != wrong) fail_msg("%s: %d, not %d", text, why.wrong, wrong);
}

static void wrong_groups_are_refused(void **state)
{
    struct rig r;
    struct group_why why;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    rig_group(&r, "group_id=1,type=all,bucket=output:1");
    refused(&r, "group_id=1,type=all", false, GROUP_EXISTS);
    refused(&r, "group_id=2,type=all", true, GROUP_UNKNOWN);
    refused(&r, "group_id=2,type=indirect", false, GROUP_INVALID);
    refused(&r, "group_id=2,type=indirect,bucket=output:1,bucket=output:2", false, GROUP_INVALID);
    refused(&r, "group_id=2,type=ff,bucket=output:1", false, GROUP_BAD_WATCH);
    refused(&r, "group_id=2,type=ff,bucket=watch_port:0,output:1", false, GROUP_BAD_WATCH);
    refused(&r, "group_id=2,type=ff,bucket=watch_port:FLOOD,output:1", false, GROUP_BAD_WATCH);
    refused(&r, "group_id=2,type=ff,bucket=watch_group:3,output:1", false, GROUP_BAD_WATCH);
    refused(&r, "group_id=2,type=ff,bucket=watch_group:2,output:1", false, GROUP_LOOP);
    refused(&r, "group_id=2,type=all,bucket=watch_port:1,output:1", false, GROUP_WATCH_UNSUPPORTED);
    refused(&r, "group_id=2,type=all,bucket=group:2", false, GROUP_LOOP);
    refused(&r, "group_id=2,type=all,bucket=group:3", false, GROUP_BAD_ACTION);
    assert_true(group_do(&r, "group_id=2,type=all,bucket=group:3", false, &why) < 0);
    assert_int_equal(why.flow_wrong, FLOW_BAD_OUT_GROUP);
    assert_true(group_do(&r, "group_id=2,type=all,bucket=output:0", false, &why) < 0);
    assert_int_equal(why.flow_wrong, FLOW_BAD_OUT_PORT);
    assert_true(group_do(&r, "group_id=2,type=all,bucket=resubmit(,3)", false, &why) < 0);
    assert_int_equal(why.flow_wrong, FLOW_BAD_ACTION);
    struct group_bucket one = {.weight = 1, .watch_port = SWITCH_PORT_ANY, .watch_group = SWITCH_GROUP_ANY};
    struct group_spec g = {.id = 2, .type = GROUP_ALL, .count = 1, .buckets = &one};
    struct errmsg e;
    assert_int_equal(bridge_group_add(r.bridge, &g, &why, &e), -EINVAL);
    assert_int_equal(why.wrong, GROUP_INVALID);
    g.type = GROUP_TYPES;
    assert_int_equal(bridge_group_add(r.bridge, &g, &why, &e), -EINVAL);
    assert_int_equal(why.wrong, GROUP_BAD_TYPE);
    g = (struct group_spec){.id = SWITCH_GROUP_MAX + 1};
    assert_int_equal(bridge_group_add(r.bridge, &g, &why, &e), -EINVAL);
    assert_int_equal(why.wrong, GROUP_INVALID);
    g = (struct group_spec){.id = 2, .count = GROUP_BUCKETS_MAX + 1};
    assert_int_equal(bridge_group_add(r.bridge, &g, &why, &e), -EINVAL);
    assert_int_equal(why.wrong, GROUP_OUT_OF_BUCKETS);
    assert_int_equal(bridge_group_count(r.bridge), 1);
    assert_int_equal(bridge_group_delete(r.bridge, 2, &why, &e), 0);
    rig_close(&r);
}

static void chains_end(void **state)
{
    struct rig r;
    char text[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    rig_group(&r, "group_id=1,type=all,bucket=output:2");
    for (unsigned i = 2; i <= GROUP_DEPTH_MAX; i++) {
        snprintf(text, sizeof text, "group_id=%u,type=all,bucket=group:%u", i, i - 1);
        rig_group(&r, text);
    }
    snprintf(text, sizeof text, "group_id=100,type=all,bucket=group:%u", GROUP_DEPTH_MAX);
    refused(&r, text, false, GROUP_CHAINING_UNSUPPORTED);
    refused(&r, "group_id=1,type=all,bucket=group:5", true, GROUP_LOOP);
    rig_group(&r, "group_id=101,type=all,bucket=output:3");
    refused(&r, "group_id=1,type=all,bucket=group:101", true, GROUP_CHAINING_UNSUPPORTED);
    snprintf(text, sizeof text, "actions=group:%u", GROUP_DEPTH_MAX);
    rig_flow(&r, text);
    assert_int_equal(sent_to(&r), P(2));
    rig_group(&r, "group_id=20,type=all,bucket=output:3"); /* shorter now, from both ends */
    assert_int_equal(sent_to(&r), P(3));
    rig_group(&r, "group_id=1,type=all,bucket=group:101");
    rig_group(&r, "group_id=200,type=select,bucket=watch_group:5,output:2");
    refused(&r, "group_id=5,type=select,bucket=watch_group:200,output:2", true, GROUP_LOOP);
    rig_close(&r);
}

/* ---- where packets go ---- */

static void each_bucket_has_a_packet_of_its_own(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 5);
    rig_group(&r, "group_id=1,type=all,bucket=set_field:02:00:00:00:00:cc->eth_dst,output:2,bucket=output:3,"
                  "bucket=set_field:02:00:00:00:00:dd->eth_dst,output:4,bucket=output:1");
    rig_flow(&r, "actions=group:1,output:5");
    for (unsigned i = 0; i < 3; i++) {
        send_udp(&r, 1, 1000 + i, 1);
        assert_int_equal(last_byte_of_dst(&r, 2), 0xcc);
        assert_int_equal(last_byte_of_dst(&r, 3), 0x0b);
        assert_int_equal(last_byte_of_dst(&r, 4), 0xdd);
        assert_int_equal(last_byte_of_dst(&r, 5), 0x0b);
        assert_int_equal(rig_got(&r), P(2) | P(3) | P(4) | P(5)); /* not back to 1 */
    }
    rig_flow(&r, "actions=set_field:02:00:00:00:00:ee->eth_dst,group:1,output:5");
    send_udp(&r, 1, 1000, 1);
    assert_int_equal(last_byte_of_dst(&r, 3), 0xee);
    assert_int_equal(last_byte_of_dst(&r, 4), 0xdd);
    assert_int_equal(last_byte_of_dst(&r, 5), 0xee);
    rig_got(&r);
    rig_group(&r, "group_id=1,type=indirect,bucket=output:IN_PORT");
    assert_int_equal(sent_to(&r), P(1) | P(5));
    /* A bucket whose packet ends there ends nothing else. */
    rig_group(&r, "group_id=1,type=all,bucket=mod_nw_ttl:1,dec_ttl,output:2,bucket=dec_ttl,output:3");
    rig_flow(&r, "priority=40000,ip,actions=mod_nw_ttl:1,group:1,output:5");
    assert_int_equal(sent_to(&r), P(5));
    rig_flow(&r, "priority=40000,ip,actions=mod_nw_ttl:9,group:1,output:5");
    assert_int_equal(sent_to(&r), P(2) | P(3) | P(5));
    rig_close(&r);
}

/* Nobody can match in a bucket: what a packet does not have is not written, and it goes on. */
static void buckets_write_what_is_there(void **state)
{
    static const uint8_t to[] = {10, 9, 9, 9};
    struct rig r;
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    rig_group(&r,
              "group_id=1,type=select,bucket=set_field:10.9.9.9->ip_dst,set_field:53->udp_dst,set_field:80->tcp_dst,"
              "set_field:2001:db8::1->ipv6_dst,set_field:7->mpls_label,output:2");
    rig_flow(&r, "actions=group:1,output:3");
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    rig_send(&r, 1, f, n, 1);
    assert_int_equal(r.ports[2]->got, 1);
    const uint8_t *got = r.ports[2]->last[0].bytes, *as_it_was = r.ports[3]->last[0].bytes;
    assert_memory_equal(got + 30, to, sizeof to);
    assert_int_equal(got[36] << 8 | got[37], 53);
    assert_memory_equal(as_it_was, f, n);
    f[12] = 0x88; /* no IP */
    f[13] = 0xcc;
    rig_send(&r, 1, f, n, 1);
    assert_int_equal(r.ports[2]->got, 2);
    assert_memory_equal(r.ports[2]->last[1].bytes, f, n);
    rig_close(&r);
}

static void a_set_with_a_group_has_no_output(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 5);
    rig_group(&r, "group_id=1,type=indirect,bucket=output:2,push_vlan:0x8100");
    rig_group(&r, "group_id=2,type=indirect,bucket=output:4,group:1");
    rig_flow(&r, "actions=write_actions(output:3,group:1,set_field:02:00:00:00:00:cc->eth_dst)");
    send_udp(&r, 1, 1000, 1);
    assert_int_equal(last_byte_of_dst(&r, 2), 0xcc);
    assert_int_equal(r.ports[2]->last[0].length, 64); /* the tag comes before the output */
    assert_int_equal(rig_got(&r), P(2));
    rig_flow(&r, "actions=write_actions(output:3,group:2)");
    assert_int_equal(sent_to(&r), P(2));
    rig_group(&r, "group_id=1,type=all");
    assert_int_equal(sent_to(&r), 0);
    rig_close(&r);
}

static void pushes_and_pops_stay_in_their_bucket(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 5);
    rig_group(&r,
              "group_id=1,type=all,bucket=push_mpls:0x8847,output:2,bucket=push_vlan:0x8100,output:3,bucket=output:4");
    rig_flow(&r, "actions=group:1,push_mpls:0x8847,pop_mpls:0x800,output:5");
    for (unsigned i = 0; i < 2; i++) {
        send_udp(&r, 1, 1000, 1);
        assert_int_equal(r.ports[2]->last[0].length, 64);
        assert_int_equal(r.ports[2]->last[0].bytes[12], 0x88);
        assert_int_equal(r.ports[3]->last[0].length, 64);
        assert_int_equal(r.ports[3]->last[0].bytes[12], 0x81);
        assert_int_equal(r.ports[4]->last[0].length, 60);
        assert_int_equal(r.ports[5]->last[0].length, 60);
        assert_int_equal(r.ports[5]->last[0].bytes[12], 0x08);
        rig_got(&r);
    }
    rig_close(&r);
}

/* More copies than the pool has packets. */
static void a_thousand_buckets(void **state)
{
    struct rig r;
    char *text = malloc(200000);
    size_t n = (size_t)sprintf(text, "group_id=1,type=all");
    (void)state;
    for (unsigned i = 0; i < GROUP_BUCKETS_MAX; i++)
        n += (size_t)sprintf(text + n, ",bucket=set_field:02:00:00:00:%02x:%02x->eth_dst,output:%u", i >> 8, i & 255,
                             2 + i % 2);
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    rig_group(&r, text);
    rig_flow(&r, "actions=group:1");
    send_udp(&r, 1, 1000, 8);
    assert_int_equal(r.ports[2]->got, 8 * GROUP_BUCKETS_MAX / 2);
    assert_int_equal(r.ports[3]->got, 8 * GROUP_BUCKETS_MAX / 2);
    assert_int_equal(last_byte_of_dst(&r, 3), 255);
    /* Squared, it is over the bound: nothing happens. */
    n = (size_t)sprintf(text, "group_id=2,type=all");
    for (unsigned i = 0; i < GROUP_BUCKETS_MAX; i++)
        n += (size_t)sprintf(text + n, ",bucket=group:1");
    rig_group(&r, text);
    rig_flow(&r, "actions=output:3,group:2");
    rig_got(&r);
    assert_int_equal(sent_to(&r), 0);
    free(text);
    rig_close(&r);
}

/* Weights that are added up are looked at, too. */
static void a_thousand_times_a_thousand_weights(void **state)
{
    struct rig r;
    static char text[200000];
    (void)state;
    size_t n = (size_t)sprintf(text, "group_id=1,type=select");
    for (unsigned i = 0; i < GROUP_BUCKETS_MAX; i++)
        n += (size_t)sprintf(text + n, ",bucket=output:2");
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    rig_group(&r, text);
    for (unsigned times = 100; times <= GROUP_BUCKETS_MAX; times += GROUP_BUCKETS_MAX - 100) {
        n = (size_t)sprintf(text, "group_id=2,type=all");
        for (unsigned i = 0; i < times; i++)
            n += (size_t)sprintf(text + n, ",bucket=group:1");
        rig_group(&r, text);
        rig_flow(&r, "actions=group:2");
        assert_int_equal(sent_to(&r), times == 100 ? P(2) : 0);
    }
    rig_close(&r);
}

/* ---- select ---- */

static unsigned spread(struct rig *r, unsigned flows, unsigned got[RIG_PORTS + 1])
{
    memset(got, 0, (RIG_PORTS + 1) * sizeof *got);
    for (unsigned i = 0; i < flows; i++) {
        send_udp(r, 1, 1 + i, 1);
        uint32_t to = rig_got(r);
        if (to & (to - 1)) fail_msg("to several");
        if (to) got[__builtin_ctz(to)]++;
    }
    return got[2] + got[3] + got[4];
}

static void select_goes_by_weight(void **state)
{
    struct rig r;
    unsigned got[RIG_PORTS + 1];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_group(&r, "group_id=1,type=select,bucket=weight:0,output:1,bucket=weight:1,output:2,bucket=weight:2,output:3,"
                  "bucket=weight:5,output:4");
    rig_flow(&r, "actions=group:1");
    assert_int_equal(spread(&r, 8000, got), 8000);
    for (unsigned i = 2; i <= 4; i++) {
        unsigned expected = i == 2 ? 1000 : i == 3 ? 2000 : 5000;
        if (got[i] < expected * 9 / 10 || got[i] > expected * 11 / 10) fail_msg("port %u: %u packets", i, got[i]);
    }
    for (unsigned i = 0; i < 50; i++) { /* one connection stays together */
        send_udp(&r, 1, 77 + i, 8);
        uint32_t to = rig_got(&r);
        assert_int_equal(to & (to - 1), 0);
        send_udp(&r, 1, 77 + i, 1);
        assert_int_equal(rig_got(&r), to);
    }
    rig_group(&r, "group_id=1,type=select,bucket=weight:0,output:2,bucket=weight:0,output:3");
    assert_int_equal(spread(&r, 20, got), 0);
    rig_close(&r);
}

static void fragments_stay_together(void **state)
{
    struct rig r;
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_group(&r, "group_id=1,type=select,bucket=output:2,bucket=output:3,bucket=output:4");
    rig_flow(&r, "actions=group:1");
    for (unsigned i = 0; i < 30; i++) {
        char to[16];
        snprintf(to, sizeof to, "10.0.0.%u", i + 2);
        unsigned n = frame_udp(f, B, A, "10.0.0.1", to, 1000 + i, 2000);
        f[20] = 0x20; /* more fragments */
        rig_send(&r, 1, f, n, 1);
        uint32_t first = rig_got(&r);
        f[20] = 0;
        f[21] = 100;
        f[34] = (uint8_t)i;
        rig_send(&r, 1, f, n, 1);
        assert_int_equal(rig_got(&r), first);
    }
    rig_close(&r);
}

/* The first one is of UDP, the later ones are known by their fragment header only. */
static void fragments_of_ipv6_stay_together(void **state)
{
    struct rig r;
    uint8_t f[128] = {0x02, [11] = 0x0a, [12] = 0x86, 0xdd, 0x60, [19] = 32, 44, 64};
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_group(&r, "group_id=1,type=select,bucket=output:2,bucket=output:3,bucket=output:4");
    rig_flow(&r, "actions=group:1");
    f[54] = 17;
    for (unsigned i = 0; i < 30; i++) {
        f[37] = (uint8_t)i; /* the source */
        f[57] = 1;          /* more fragments */
        f[56] = 0;
        rig_send(&r, 1, f, 54 + 32, 1);
        uint32_t first = rig_got(&r);
        f[56] = 1;
        rig_send(&r, 1, f, 54 + 32, 1);
        assert_int_equal(rig_got(&r), first);
    }
    rig_close(&r);
}

static void set_link(struct rig *r, unsigned port, bool up)
{
    r->ports[port]->link_down = !up;
    switch_tick(r->sw, clock_now_ns());
}

static void only_what_is_alive_is_selected(void **state)
{
    struct rig r;
    unsigned got[RIG_PORTS + 1];
    uint8_t before[500];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_group(&r, "group_id=1,type=select,bucket=watch_port:2,output:2,bucket=watch_port:3,output:3,"
                  "bucket=watch_port:4,output:4");
    rig_flow(&r, "actions=group:1");
    for (unsigned i = 0; i < 500; i++) {
        send_udp(&r, 1, 1 + i, 1);
        before[i] = (uint8_t)rig_got(&r);
    }
    set_link(&r, 3, false);
    for (unsigned i = 0; i < 500; i++) { /* who was elsewhere stays there */
        send_udp(&r, 1, 1 + i, 1);
        uint32_t to = rig_got(&r);
        assert_true(to == P(2) || to == P(4));
        if (before[i] != P(3)) assert_int_equal(to, before[i]);
    }
    assert_int_equal(spread(&r, 1000, got), 1000);
    assert_true(got[2] > 400 && got[4] > 400);
    switch_port_set_config(r.ports[2]->sp, PORT_CONFIG_DOWN, PORT_CONFIG_DOWN);
    spread(&r, 100, got);
    assert_int_equal(got[4], 100);
    set_link(&r, 4, false);
    assert_int_equal(spread(&r, 100, got), 0);
    set_link(&r, 3, true);
    spread(&r, 100, got);
    assert_int_equal(got[3], 100);
    rig_close(&r);
}

/* ---- fast failover ---- */

static void the_first_that_is_alive(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 5);
    rig_group(&r, "group_id=1,type=ff,bucket=watch_port:2,output:2,bucket=watch_port:3,output:3");
    rig_group(&r, "group_id=2,type=ff,bucket=watch_group:1,group:1,bucket=watch_port:5,output:4");
    rig_flow(&r, "actions=group:2");
    assert_int_equal(sent_to(&r), P(2));
    r.ports[2]->link_down = true;
    assert_true(switch_watch_links(r.sw));
    assert_int_equal(sent_to(&r), P(3));
    set_link(&r, 3, false);
    assert_int_equal(sent_to(&r), P(4));
    rig_port_remove(&r, 5);
    assert_int_equal(sent_to(&r), 0);
    set_link(&r, 3, true);
    assert_int_equal(sent_to(&r), P(3));
    rig_port_remove(&r, 3);
    rig_port_add(&r, 5, NULL);
    assert_int_equal(sent_to(&r), P(4));
    rig_flow(&r, "actions=output:4");
    struct errmsg e;
    assert_int_equal(bridge_group_delete(r.bridge, 1, NULL, &e), -EBUSY);
    rig_group(&r, "group_id=3,type=ff,bucket=watch_group:2,output:2");
    assert_int_equal(bridge_group_delete(r.bridge, 2, NULL, &e), -EBUSY);
    rig_group(&r, "group_id=3,type=ff,bucket=watch_port:2,output:2");
    assert_int_equal(bridge_group_delete(r.bridge, 2, NULL, &e), 0);
    assert_int_equal(bridge_group_delete(r.bridge, 1, NULL, &e), 0);
    assert_true(switch_watch_links(r.sw));
    assert_int_equal(bridge_group_delete(r.bridge, 3, NULL, &e), 0);
    assert_false(switch_watch_links(r.sw));
    rig_close(&r);
}

/* ---- counting ---- */

struct seen {
    unsigned groups, references;
    uint64_t packets, bytes, bucket[8];
};

static void see(void *arg, const struct group_spec *g, const struct group_stats *s)
{
    struct seen *n = arg;
    n->groups++;
    n->references = s->references;
    n->packets = s->packets;
    n->bytes = s->bytes;
    for (unsigned i = 0; i < g->count && i < 8; i++)
        n->bucket[i] = s->buckets[i].packets;
}

static struct seen stats(struct rig *r, uint32_t id)
{
    struct seen n = {0};
    bridge_group_each(r->bridge, id, see, &n);
    return n;
}

static void packets_are_counted(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_group(&r, "group_id=2,type=ff,bucket=watch_port:9,output:3,bucket=watch_port:4,output:4");
    rig_group(&r, "group_id=1,type=all,bucket=output:2,bucket=group:2");
    rig_flow(&r, "udp,actions=group:1");
    rig_flow(&r, "tcp,actions=group:1,group:1,write_actions(group:1)");
    send_udp(&r, 1, 1000, 5);
    send_udp(&r, 1, 1000, 5);
    struct seen one = stats(&r, 1), two = stats(&r, 2);
    assert_int_equal(one.groups, 1);
    assert_int_equal(one.packets, 10);
    assert_int_equal(one.bytes, 600);
    assert_int_equal(one.references, 2);
    assert_int_equal(one.bucket[0], 10);
    assert_int_equal(one.bucket[1], 10);
    assert_int_equal(two.packets, 10);
    assert_int_equal(two.references, 1);
    assert_int_equal(two.bucket[0], 0);
    assert_int_equal(two.bucket[1], 10);
    assert_int_equal(stats(&r, SWITCH_GROUP_ALL).groups, 2);
    /* The group's go on when it is modified, its buckets' begin anew. */
    send_udp(&r, 1, 1000, 3);
    rig_group(&r, "group_id=1,type=all,bucket=output:2");
    send_udp(&r, 1, 1000, 4);
    one = stats(&r, 1);
    assert_int_equal(one.packets, 17);
    assert_int_equal(one.bucket[0], 4);
    assert_int_equal(one.references, 2);
    assert_int_equal(stats(&r, 2).references, 0);
    rig_flow_delete(&r, "tcp", 1);
    assert_int_equal(stats(&r, 1).references, 1);
    rig_flow(&r, "udp,actions=output:2");
    assert_int_equal(stats(&r, 1).references, 0);
    rig_close(&r);
}

/* ---- changes ---- */

static void gone(void *arg, const struct flow_spec *f, const struct flow_stats *s, enum flow_gone why)
{
    (void)s;
    assert_int_equal(why, FLOW_GONE_GROUP);
    *(unsigned *)arg += f->priority;
}

static void flows_go_with_their_group(void **state)
{
    struct rig r;
    struct errmsg e;
    struct group_why why;
    unsigned sum = 0;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_group(&r, "group_id=1,type=all,bucket=output:2");
    rig_group(&r, "group_id=2,type=all,bucket=group:1");
    rig_flow(&r, "priority=1,actions=output:4");
    rig_flow(&r, "priority=2,actions=write_actions(group:2)");
    rig_flow(&r, "priority=4,tcp,actions=group:1");
    rig_flow(&r, "table=7,priority=8,tcp,actions=output:1,group:1");
    bridge_on_flow_gone(r.bridge, gone, &sum);
    assert_int_equal(sent_to(&r), P(2));
    assert_int_equal(bridge_group_delete(r.bridge, 1, &why, &e), -EBUSY);
    assert_int_equal(why.wrong, GROUP_CHAINED);
    assert_int_equal(bridge_group_delete(r.bridge, 2, &why, &e), 0);
    assert_int_equal(sum, 2);
    assert_int_equal(sent_to(&r), P(4));
    assert_int_equal(bridge_flow_count(r.bridge), 3);
    rig_group(&r, "group_id=1,type=all,bucket=output:3"); /* modify: they stay */
    assert_int_equal(sum, 2);
    assert_int_equal(bridge_group_delete(r.bridge, SWITCH_GROUP_ALL, &why, &e), 0);
    assert_int_equal(sum, 14);
    assert_int_equal(bridge_group_count(r.bridge), 0);
    assert_int_equal(bridge_flow_count(r.bridge), 1);
    rig_close(&r);
}

#define MANY 300u

/* Of one group, of two, of a meter, too; whatever goes first. */
static void flows_go_with_one_of_many(void **state)
{
    struct rig r;
    struct errmsg e;
    struct meter_spec m = {.id = 1, .flags = METER_PKTPS};
    bool there[MANY] = {false};
    unsigned of[MANY][3], left = MANY;
    char text[128], meter[24];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    for (m.id = 1; m.id < 4; m.id++)
        assert_int_equal(bridge_meter_add(r.bridge, &m, NULL, &e), 0);
    for (unsigned g = 0; g < MANY / 3; g++) { /* 0 is a number like others */
        snprintf(text, sizeof text, "group_id=%u,type=all,bucket=output:2", g);
        rig_group(&r, text);
    }
    for (unsigned i = 0; i < MANY; i++) {
        of[i][0] = i * 7 % (MANY / 3);
        of[i][1] = i % 3 ? of[i][0] : i * 5 % (MANY / 3);
        of[i][2] = i % 5 == 0 ? 1 + i % 3 : 0;
        if (of[i][2]) snprintf(meter, sizeof meter, "meter:%u,", of[i][2]);
        snprintf(text, sizeof text, "priority=%u,actions=%sgroup:%u,write_actions(group:%u)", i, of[i][2] ? meter : "",
                 of[i][0], of[i][1]);
        rig_flow(&r, text);
        there[i] = true;
    }
    for (unsigned n = 0; n < MANY / 3; n++) {
        unsigned g = n * 37 % (MANY / 3), metered = n % 40 == 39 ? 1 + n / 40 : UINT_MAX;
        if (metered != UINT_MAX) assert_int_equal(bridge_meter_delete(r.bridge, metered, NULL, &e), 0);
        assert_int_equal(bridge_group_delete(r.bridge, g, NULL, &e), 0);
        for (unsigned i = 0; i < MANY; i++) {
            bool goes = there[i] && (of[i][0] == g || of[i][1] == g || of[i][2] == metered);
            there[i] = there[i] && !goes;
            left -= goes;
        }
        assert_int_equal(bridge_flow_count(r.bridge), left);
    }
    assert_int_equal(left, 0);
    rig_close(&r);
}

static void flows_need_their_group(void **state)
{
    struct rig r;
    struct errmsg e;
    struct flow_spec f;
    enum flow_wrong why;
    unsigned changed;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    assert_int_equal(flow_parse(&f, "actions=write_actions(group:1)", FLOW_PARSE_ADD, NULL, &e), 0);
    assert_int_equal(bridge_flow_add(r.bridge, &f, &why, &e), -EINVAL);
    assert_int_equal(why, FLOW_BAD_OUT_GROUP);
    assert_int_equal(bridge_flow_modify(r.bridge, &f, true, &changed, &why, &e), -EINVAL);
    assert_int_equal(why, FLOW_BAD_OUT_GROUP);
    rig_group(&r, "group_id=1,type=all,bucket=output:2");
    assert_int_equal(bridge_flow_add(r.bridge, &f, &why, &e), 0);
    assert_int_equal(why, FLOW_RIGHT);
    f.flags = FLOW_CHECK_OVERLAP;
    assert_int_equal(bridge_flow_add(r.bridge, &f, &why, &e), -EEXIST);
    assert_int_equal(why, FLOW_OVERLAP);
    instructions_clear(&f.instructions);
    rig_flow(&r, "tcp,actions=output:2");
    rig_flow_delete(&r, "out_group=2", 0);
    rig_flow_delete(&r, "out_group=1", 1);
    assert_int_equal(bridge_flow_count(r.bridge), 1);
    rig_close(&r);
}

static uint64_t translations(struct rig *r)
{
    struct switch_stats s;
    switch_stats_read(r->sw, &s);
    return s.translations;
}

/* A change concerns who asked that group, and nobody else. */
static void megaflows_follow_their_group(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_group(&r, "group_id=1,type=indirect,bucket=output:3");
    rig_group(&r, "group_id=2,type=indirect,bucket=output:4");
    rig_flow(&r, "in_port=1,actions=group:1");
    rig_flow(&r, "in_port=2,actions=group:2");
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(sent_to(&r), i % 2 ? P(4) : P(3));
        send_udp(&r, 2, 1, 1);
        assert_int_equal(rig_got(&r), P(4));
        uint64_t before = translations(&r);
        rig_group(&r, i % 2 ? "group_id=1,type=indirect,bucket=output:3" : "group_id=1,type=indirect,bucket=output:4");
        send_udp(&r, 2, 1, 1);
        assert_int_equal(rig_got(&r), P(4));
        assert_int_equal(translations(&r), before);
        assert_int_equal(sent_to(&r), i % 2 ? P(3) : P(4));
        assert_int_equal(translations(&r), before + 1);
    }
    rig_close(&r);
}

/* ---- elsewhere ---- */

static void controllers_send_to_groups(void **state)
{
    struct rig r;
    struct errmsg e;
    enum flow_wrong why;
    uint8_t f[128];
    struct action a = {.type = ACTION_GROUP, .group = 1};
    struct action_list l = {.count = 1, .list = &a};
    (void)state;
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    assert_int_equal(bridge_packet_out(r.bridge, 1, &l, f, n, &why, &e), -EINVAL);
    assert_int_equal(why, FLOW_BAD_OUT_GROUP);
    rig_group(&r, "group_id=1,type=all,bucket=set_field:02:00:00:00:00:cc->eth_dst,output:2,bucket=output:3");
    assert_int_equal(bridge_packet_out(r.bridge, 1, &l, f, n, &why, &e), 0);
    assert_int_equal(last_byte_of_dst(&r, 2), 0xcc);
    assert_int_equal(last_byte_of_dst(&r, 3), 0x0b);
    assert_int_equal(rig_got(&r), P(2) | P(3));
    assert_int_equal(stats(&r, 1).packets, 1);
    rig_close(&r);
}

static void groups_are_explained(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_group(&r, "group_id=2,type=ff,bucket=watch_port:9,output:4");
    rig_group(
        &r, "group_id=1,type=all,bucket=set_field:02:00:00:00:00:cc->eth_dst,output:2,bucket=group:2,bucket=output:3");
    rig_flow(&r, "actions=group:1,output:4");
    char *text = rig_trace(&r, "in_port=1,udp");
    assert_non_null(strstr(text, "group 1: bucket 0\n"));
    assert_non_null(strstr(text, "group 1: bucket 1\n"));
    assert_non_null(strstr(text, "group 2: no bucket that is alive: drop\n"));
    assert_non_null(strstr(text, "actions: clone(set(0x200000000cc->dl_dst),output:2),output:3,output:4\n"));
    free(text);
    rig_close(&r);
}

static void many_groups(void **state)
{
    struct rig r;
    struct errmsg e;
    char text[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 3000; i++) {
            snprintf(text, sizeof text, "group_id=%u,type=indirect,bucket=output:%u", i * 7919, 2 + i % 3);
            rig_group(&r, text);
        }
        for (unsigned i = 0; i < 3000; i += 3)
            assert_int_equal(bridge_group_delete(r.bridge, i * 7919, NULL, &e), 0);
        assert_int_equal(bridge_group_count(r.bridge), 2000);
    }
    for (unsigned i = 1; i < 3000; i += 3) {
        snprintf(text, sizeof text, "actions=group:%u", i * 7919);
        rig_flow(&r, text);
        assert_int_equal(sent_to(&r), P(2 + i % 3));
    }
    rig_close(&r);
}

static void take_packets(void *arg, const struct group_spec *g, const struct group_stats *s)
{
    (void)g;
    *(uint64_t *)arg = s->packets;
}

static uint64_t packets_told(struct rig *r)
{
    uint64_t packets = 0;
    bridge_group_each(r->bridge, 1, take_packets, &packets);
    return packets;
}

/* There is much to be counted. */
static unsigned open_with_megaflows(struct rig *r, uint8_t *f, unsigned *bytes)
{
    char text[64];
    unsigned sent = 0;
    rig_open(r, NULL, BRIDGE_SECURE, 2);
    rig_group(r, "group_id=1,type=all,bucket=actions=output:2");
    for (unsigned i = 1; i <= 3000; i++, sent++) {
        snprintf(text, sizeof text, "udp,tp_src=%u,actions=group:1", i);
        rig_flow(r, text);
        *bytes = frame_udp(f, "02:00:00:00:00:02", "02:00:00:00:00:01", "10.0.0.1", "10.0.0.2", i, 2);
        rig_send(r, 1, f, *bytes, 1);
    }
    return sent;
}

/* Who asks without end is told of counts that are a little older: threads forward meanwhile. */
static void who_asks_without_end_does_not_stop_threads(void **state)
{
    struct rig r;
    uint8_t f[128];
    unsigned bytes, sent = open_with_megaflows(&r, f, &bytes);
    (void)state;
    do {
        rig_send(&r, 1, f, bytes, 1);
        assert_true(++sent < 100000);
    } while (packets_told(&r) == sent);
    assert_true(sent > 3004); /* some may be as they please */
    usleep(150000);
    assert_true(packets_told(&r) == sent);
    rig_close(&r);
}

static void take_flow_packets(void *arg, const struct flow_spec *f, const struct flow_stats *s, enum flow_gone why)
{
    (void)f;
    (void)why;
    *(uint64_t *)arg = s->packets;
}

/* Nor does who adds and deletes flows without end, and wants to hear of it. */
static void flows_that_go_do_not_stop_threads(void **state)
{
    struct rig r;
    uint8_t f[128];
    unsigned bytes, rounds = 0;
    uint64_t told = 1;
    (void)state;
    open_with_megaflows(&r, f, &bytes);
    bridge_on_flow_gone(r.bridge, take_flow_packets, &told);
    while (told == 1) {
        rig_flow(&r, "priority=40000,send_flow_rem,udp,tp_src=3000,actions=output:2");
        rig_send(&r, 1, f, bytes, 1);
        rig_flow_delete(&r, "priority=40000,udp,tp_src=3000", 1);
        assert_true(++rounds < 100000);
    }
    assert_true(rounds > 4);
    bridge_on_flow_gone(r.bridge, NULL, NULL);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_groups_are_refused),
        cmocka_unit_test(chains_end),
        cmocka_unit_test(each_bucket_has_a_packet_of_its_own),
        cmocka_unit_test(buckets_write_what_is_there),
        cmocka_unit_test(a_set_with_a_group_has_no_output),
        cmocka_unit_test(pushes_and_pops_stay_in_their_bucket),
        cmocka_unit_test(a_thousand_buckets),
        cmocka_unit_test(a_thousand_times_a_thousand_weights),
        cmocka_unit_test(select_goes_by_weight),
        cmocka_unit_test(fragments_stay_together),
        cmocka_unit_test(fragments_of_ipv6_stay_together),
        cmocka_unit_test(only_what_is_alive_is_selected),
        cmocka_unit_test(the_first_that_is_alive),
        cmocka_unit_test(packets_are_counted),
        cmocka_unit_test(flows_go_with_their_group),
        cmocka_unit_test(flows_go_with_one_of_many),
        cmocka_unit_test(flows_need_their_group),
        cmocka_unit_test(megaflows_follow_their_group),
        cmocka_unit_test(controllers_send_to_groups),
        cmocka_unit_test(groups_are_explained),
        cmocka_unit_test(many_groups),
        cmocka_unit_test(who_asks_without_end_does_not_stop_threads),
        cmocka_unit_test(flows_that_go_do_not_stop_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
