/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation fails once: a change that could not be made has changed nothing, and frames go where they should all the same. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/test_alloc.h"
#include "switch/group.h"
#include "switch/meter.h"
#include "switch/test_rig.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"

static uint32_t sent_to(struct rig *r)
{
    uint8_t f[128];
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    rig_send(r, 1, f, n, 2);
    return rig_got(r);
}

static int add(struct rig *r, const char *text)
{
    struct flow_spec f;
    struct errmsg e;
    unsigned n = alloc_countdown;
    alloc_countdown = 0;
    assert_int_equal(flow_parse(&f, text, FLOW_PARSE_ADD, NULL, &e), 0);
    alloc_countdown = n;
    int ret = bridge_flow_add(r->bridge, &f, NULL, &e);
    alloc_countdown = 0;
    instructions_clear(&f.instructions);
    return ret;
}

static void flows(void **state)
{
    static const char *const texts[] = {
        "priority=5,udp,nw_dst=10.0.0.2,actions=output:3",             /* a group, a leaf */
        "priority=5,udp,nw_dst=10.0.0.2,actions=output:3,output:2",    /* in its place */
        "priority=6,udp,nw_dst=10.0.0.2,tp_dst=2000,actions=output:3", /* in the same leaf */
    };
    static const uint32_t then[] = {1u << 3, 1u << 3 | 1u << 2, 1u << 3};
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        bool done = false;
        for (unsigned n = 1; !done; n++) {
            struct rig r;
            rig_open(&r, NULL, BRIDGE_SECURE, 3);
            rig_flow(&r, "priority=1,actions=output:2");
            for (unsigned j = 0; j < i; j++)
                rig_flow(&r, texts[j]);
            uint32_t before = sent_to(&r);
            alloc_failed = false;
            alloc_countdown = n;
            int ret = add(&r, texts[i]);
            assert_true(ret == 0 || (ret == -ENOMEM && alloc_failed));
            assert_int_equal(sent_to(&r), ret ? before : then[i]);
            done = !alloc_failed;
            rig_close(&r);
        }
    }
}

static void packets(void **state)
{
    bool done = false;
    (void)state;
    for (unsigned n = 1; !done; n++) {
        struct rig r;
        rig_open(&r, NULL, BRIDGE_SECURE, 3);
        rig_flow(&r, "priority=1,in_port=1,actions=set_field:02:00:00:00:00:cc->eth_dst,output:3");
        assert_int_equal(sent_to(&r), 1u << 3); /* the thread has its structures for the port */
        rig_flow(&r, "priority=2,udp,tp_dst=2000,actions=output:2,output:3");
        alloc_failed = false;
        alloc_countdown = n;
        assert_int_equal(sent_to(&r), 1u << 2 | 1u << 3);
        alloc_countdown = 0;
        done = !alloc_failed;
        assert_int_equal(sent_to(&r), 1u << 2 | 1u << 3);
        rig_close(&r);
    }
}

/* Its megaflows have to be made anew. */
static void cache_forgets(struct rig *r)
{
    unsigned n = alloc_countdown;
    alloc_countdown = 0;
    bridge_mac_flush(r->bridge);
    rig_flow(r, "priority=2,udp,tp_dst=1999,actions=drop");
    alloc_countdown = n;
}

static int set_group(struct rig *r, const char *text, bool modify)
{
    struct group_spec g;
    struct errmsg e;
    unsigned n = alloc_countdown;
    alloc_countdown = 0;
    assert_int_equal(group_parse(&g, text, NULL, &e), 0);
    alloc_countdown = n;
    int ret = modify ? bridge_group_modify(r->bridge, &g, NULL, &e) : bridge_group_add(r->bridge, &g, NULL, &e);
    alloc_countdown = 0;
    group_spec_clear(&g);
    return ret;
}

#define GROUP                                                                                                          \
    "group_id=1,type=all,bucket=set_field:02:00:00:00:00:cc->eth_dst,output:2,bucket=push_vlan:0x8100,output:3"

static void groups(void **state)
{
    (void)state;
    for (unsigned what = 0; what < 4; what++) {
        bool done = false;
        for (unsigned n = 1; !done; n++) {
            struct rig r;
            int ret = 0;
            rig_open(&r, NULL, BRIDGE_SECURE, 4);
            rig_group(&r, "group_id=2,type=indirect,bucket=output:4");
            if (what > 0) rig_group(&r, GROUP);
            if (what > 1) rig_flow(&r, "priority=1,actions=group:1");
            uint32_t before = sent_to(&r), then = before;
            alloc_failed = false;
            alloc_countdown = n;
            if (what == 0) ret = set_group(&r, GROUP, false);
            if (what == 1) ret = add(&r, "priority=1,actions=group:1");
            if (what == 1 && !ret) then = 1u << 2 | 1u << 3;
            if (what == 2) ret = set_group(&r, "group_id=1,type=all,bucket=dec_ttl,output:3,bucket=group:2", true);
            if (what == 2 && !ret) then = 1u << 3 | 1u << 4;
            if (what == 3) cache_forgets(&r);
            assert_true(ret == 0 || (ret == -ENOMEM && alloc_failed));
            assert_int_equal(sent_to(&r), then);
            alloc_countdown = 0;
            assert_int_equal(bridge_group_count(r.bridge), what || !ret ? 2 : 1);
            assert_int_equal(sent_to(&r), then);
            done = !alloc_failed;
            rig_close(&r);
        }
    }
}

static void ports_and_bridges(void **state)
{
    bool done = false;
    (void)state;
    for (unsigned n = 1; !done; n++) {
        struct rig r;
        struct bridge *b = NULL;
        struct errmsg e;
        rig_open(&r, NULL, BRIDGE_STANDALONE, 2);
        sent_to(&r);
        alloc_failed = false;
        alloc_countdown = n;
        rig_port_remove(&r, 2); /* cannot fail */
        int ret = bridge_new(&b, r.sw, "br1", BRIDGE_STANDALONE, &e);
        alloc_countdown = 0;
        assert_true(ret == 0 || (ret == -ENOMEM && !bridge_find(r.sw, "br1")));
        done = !alloc_failed;
        rig_close(&r);
    }
}

/* A meter that could not be made is not there, and one that could not be changed is as it was. */
static void meters(void **state)
{
    static const struct meter_spec all = {.id = 1, .flags = METER_PKTPS},
                                   none = {.id = 1, .flags = METER_PKTPS, .count = 1, .bands = {{.type = METER_DROP}}};
    bool done = false;
    (void)state;
    for (unsigned n = 1; !done; n++) {
        struct rig r;
        struct errmsg e;
        rig_open(&r, NULL, BRIDGE_SECURE, 3);
        alloc_failed = false;
        alloc_countdown = n;
        int ret = bridge_meter_add(r.bridge, &all, NULL, &e);
        alloc_countdown = 0;
        assert_true(ret == 0 || (ret == -ENOMEM && alloc_failed));
        assert_int_equal(bridge_meter_count(r.bridge), ret == 0);
        done = !alloc_failed;
        if (ret) assert_int_equal(bridge_meter_add(r.bridge, &all, NULL, &e), 0);
        rig_flow(&r, "in_port=1,actions=meter:1,output:3");
        assert_int_equal(sent_to(&r), 1u << 3);
        alloc_failed = false;
        alloc_countdown = n;
        ret = bridge_meter_modify(r.bridge, &none, NULL, &e);
        alloc_countdown = 0;
        assert_true(ret == 0 || (ret == -ENOMEM && alloc_failed));
        assert_int_equal(sent_to(&r), ret ? 1u << 3 : 0);
        rig_close(&r);
    }
}

/* A controller's packet goes out, or nothing of it does. */
static void packet_outs(void **state)
{
    struct action flood = {.type = ACTION_OUTPUT, .output = {.port = SWITCH_PORT_FLOOD}};
    const struct action_list l = {.count = 1, .list = &flood};
    bool done = false;
    (void)state;
    for (unsigned n = 1; !done; n++) {
        struct rig r;
        struct errmsg e;
        uint8_t f[128];
        unsigned bytes = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
        rig_open(&r, NULL, BRIDGE_SECURE, 3);
        alloc_failed = false;
        alloc_countdown = n;
        int ret = bridge_packet_out(r.bridge, 1, &l, f, bytes, NULL, &e);
        alloc_countdown = 0;
        assert_true(ret == 0 || (ret == -ENOMEM && alloc_failed));
        assert_int_equal(rig_got(&r), ret ? 0 : 1u << 2 | 1u << 3);
        done = !alloc_failed;
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flows),  cmocka_unit_test(packets),
        cmocka_unit_test(groups), cmocka_unit_test(ports_and_bridges),
        cmocka_unit_test(meters), cmocka_unit_test(packet_outs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
