/* SPDX-License-Identifier: Apache-2.0 */
/* What a controller does with a bridge besides its flows: packets that it sends, counters of tables, ports. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "switch/test_rig.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"

static unsigned bit(unsigned port)
{
    return 1u << port;
}

static unsigned udp(uint8_t *f)
{
    return frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
}

struct told {
    unsigned count;
    struct packet_in last;
    uint8_t bytes[128];
};

static void received(void *arg, const struct packet_in *in)
{
    struct told *t = arg;
    t->count++;
    t->last = *in;
    uint32_t n = in->packet->length_bytes < sizeof t->bytes ? in->packet->length_bytes : sizeof t->bytes;
    packet_read(in->packet, 0, t->bytes, n);
}

/* ---- packet-out ---- */

static int packet_out_why(struct rig *r, uint32_t in_port, const char *actions, const void *data, size_t bytes,
                          enum flow_wrong *why)
{
    struct flow_spec f = {0};
    struct errmsg e;
    char text[256];
    snprintf(text, sizeof text, "actions=%s", actions);
    assert_int_equal(flow_parse(&f, text, FLOW_PARSE_ADD, NULL, &e), 0);
    int ret = bridge_packet_out(r->bridge, in_port, &f.instructions.apply, data, bytes, why, &e);
    instructions_clear(&f.instructions);
    return ret;
}

static void packet_out(struct rig *r, uint32_t in_port, const char *actions)
{
    uint8_t f[128];
    unsigned n = udp(f);
    assert_int_equal(packet_out_why(r, in_port, actions, f, n, NULL), 0);
}

static void to_table(struct rig *r, uint32_t in_port, struct action *more, unsigned count)
{
    uint8_t f[128];
    struct errmsg e;
    struct action list[8] = {{.type = ACTION_OUTPUT, .output = {.port = SWITCH_PORT_TABLE}}};
    if (count) memcpy(list + 1, more, count * sizeof *more);
    struct action_list l = {.count = count + 1, .list = list};
    unsigned n = udp(f);
    assert_int_equal(bridge_packet_out(r->bridge, in_port, &l, f, n, NULL, &e), 0);
}

static void goes_to_every_kind_of_port(void **state)
{
    struct rig r;
    struct told t = {0};
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    switch_on_packet_in(r.sw, received, &t);
    packet_out(&r, SWITCH_PORT_CONTROLLER, "output:2,output:3");
    assert_int_equal(rig_got(&r), bit(2) | bit(3));
    packet_out(&r, 1, "all");
    assert_int_equal(rig_got(&r), bit(2) | bit(3) | bit(4));
    packet_out(&r, SWITCH_PORT_ANY, "flood");
    assert_int_equal(rig_got(&r), bit(1) | bit(2) | bit(3) | bit(4));
    packet_out(&r, 3, "in_port,output:3"); /* only by its name */
    assert_int_equal(r.ports[3]->got, 1);
    assert_int_equal(rig_got(&r), bit(3));
    packet_out(&r, SWITCH_PORT_CONTROLLER, "normal");
    assert_int_equal(rig_got(&r), bit(1) | bit(2) | bit(3) | bit(4));
    packet_out(&r, 9, "output:9,output:8"); /* not there */
    assert_int_equal(rig_got(&r), 0);
    packet_out(&r, 2, "controller:60");
    assert_int_equal(t.count, 1);
    assert_int_equal(t.last.reason, 1);
    assert_int_equal(t.last.max_len, 60);
    assert_true(t.last.cookie == UINT64_MAX);
    assert_int_equal(be32_get(t.last.key.in_port), 2);
    packet_out(&r, 2, "set_field:02:00:00:00:00:77->eth_src,controller");
    assert_int_equal(t.bytes[11], 0x77);
    rig_close(&r);
}

/* NORMAL learns where a packet is said to come from, if that is a port. */
static void teaches_normal(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 3);
    packet_out(&r, 1, "normal");
    assert_int_equal(rig_got(&r), bit(2) | bit(3));
    uint8_t f[128];
    unsigned n = frame_udp(f, A, B, "10.0.0.1", "10.0.0.2", 1000, 2000);
    rig_send(&r, 2, f, n, 1);
    assert_int_equal(rig_got(&r), bit(1));
    packet_out(&r, SWITCH_PORT_CONTROLLER, "normal");
    assert_int_equal(rig_got(&r), bit(2));
    rig_close(&r);
}

static void goes_through_the_tables(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 4);
    rig_flow(&r, "in_port=1,actions=set_field:02:00:00:00:00:77->eth_dst,write_actions(output:2),goto_table:3");
    rig_flow(&r, "table=3,dl_dst=02:00:00:00:00:77,actions=output:3");
    struct action more[] = {{.type = ACTION_OUTPUT, .output = {.port = 4}}};
    to_table(&r, 1, more, 1);
    assert_int_equal(r.ports[2]->last[0].bytes[5], 0x77);
    assert_int_equal(r.ports[3]->last[0].bytes[5], 0x77);
    assert_int_equal(r.ports[4]->last[0].bytes[5], 0x0b); /* what the tables did is theirs */
    assert_int_equal(rig_got(&r), bit(2) | bit(3) | bit(4));
    to_table(&r, 2, more, 1); /* no flow */
    assert_int_equal(rig_got(&r), bit(4));
    rig_close(&r);
}

struct flow_found {
    uint64_t packets, bytes;
};

static void add_up(void *arg, const struct flow_spec *f, const struct flow_stats *s)
{
    struct flow_found *out = arg;
    (void)f;
    out->packets += s->packets;
    out->bytes += s->bytes;
}

static struct flow_found counted(struct rig *r, const char *text)
{
    struct flow_spec f;
    struct errmsg e;
    struct flow_found found = {0};
    assert_int_equal(flow_parse(&f, text, FLOW_PARSE_SELECT, NULL, &e), 0);
    bridge_flow_each(r->bridge, &f, add_up, &found);
    return found;
}

static void is_counted(void **state)
{
    struct rig r;
    struct table_stats s;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    rig_flow(&r, "in_port=1,actions=goto_table:1");
    to_table(&r, 1, NULL, 0);
    assert_int_equal(counted(&r, "table=0").packets, 1);
    assert_int_equal(counted(&r, "table=0").bytes, 60);
    bridge_table_stats(r.bridge, 1, &s);
    assert_int_equal(s.lookups, 1);
    assert_int_equal(s.matched, 0);
    rig_close(&r);
}

static int check_out(struct rig *r, const char *actions, const void *data, size_t bytes)
{
    enum flow_wrong why = FLOW_TOO_MANY;
    int ret = packet_out_why(r, 1, actions, data, bytes, &why);
    return ret == -EINVAL ? (int)why : ret;
}

/* Its actions are measured against the packet that it is. */
static void actions_are_checked(void **state)
{
    struct rig r;
    uint8_t f[128];
    struct errmsg e;
    enum flow_wrong why;
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    unsigned n = udp(f);
    struct action set = {.type = ACTION_SET_FIELD,
                         .set = {FIELD_TCP_SRC, field_value_of(80), field_all_ones(FIELD_TCP_SRC)}};
    struct action list[] = {set, {.type = ACTION_OUTPUT, .output = {.port = 2}}};
    struct action_list l = {.count = 2, .list = list};
    assert_int_equal(bridge_packet_out(r.bridge, 1, &l, f, n, &why, &e), -EINVAL);
    assert_int_equal(why, FLOW_BAD_MATCH_INCONSISTENT);
    list[0].set.field = FIELD_UDP_SRC;
    assert_int_equal(bridge_packet_out(r.bridge, 1, &l, f, n, &why, &e), 0);
    assert_int_equal(why, FLOW_RIGHT);
    assert_int_equal(r.ports[2]->last[0].bytes[35], 80);
    list[0] = (struct action){.type = ACTION_POP_VLAN};
    assert_int_equal(bridge_packet_out(r.bridge, 1, &l, f, n, &why, &e), -EINVAL);
    assert_int_equal(why, FLOW_BAD_MATCH_INCONSISTENT);
    n = frame_tag(f, n, 0x8100, 5);
    assert_int_equal(bridge_packet_out(r.bridge, 1, &l, f, n, &why, &e), 0);
    list[0] = (struct action){.type = ACTION_OUTPUT, .output = {.port = 0}};
    assert_int_equal(bridge_packet_out(r.bridge, 1, &l, f, n, &why, &e), -EINVAL);
    assert_int_equal(why, FLOW_BAD_OUT_PORT);
    rig_close(&r);
}

static void hostile_packets(void **state)
{
    struct rig r;
    static uint8_t big[PACKET_MAX_BYTES + 1];
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    rig_flow(&r, "actions=output:2");
    unsigned n = udp(f);
    assert_int_equal(check_out(&r, "output:2", f, 0), -EBADMSG);
    assert_int_equal(check_out(&r, "output:2", f, 13), -EBADMSG);
    assert_int_equal(check_out(&r, "output:2", big, PACKET_MAX_BYTES + 1), -EBADMSG);
    assert_int_equal(packet_out_why(&r, 0, "output:2", f, n, NULL), -ENXIO);
    assert_int_equal(packet_out_why(&r, SWITCH_PORT_TABLE, "output:2", f, n, NULL), -ENXIO);
    assert_int_equal(rig_got(&r), 0);
    assert_int_equal(check_out(&r, "output:2", big, PACKET_MAX_BYTES), 0); /* longer than the port's MTU */
    assert_int_equal(rig_got(&r), 0);
    for (unsigned i = 14; i <= n; i++) /* cut off anywhere */
        assert_int_equal(check_out(&r, "output:2,push_vlan:0x8100,output:2", f, i), 0);
    uint64_t seed = 99;
    for (unsigned i = 0; i < 20000; i++) {
        for (unsigned j = 12; j < sizeof f; j++)
            f[j] = (uint8_t)((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 57);
        if (i % 3) f[12] = i % 3 == 1 ? 0x86 : 0x88, f[13] = i % 3 == 1 ? 0xdd : 0x47;
        (void)check_out(&r, "push_mpls:0x8847,output:2,pop_mpls:0x0800,dec_ttl,output:2", f, 14 + i % 115);
        to_table(&r, 1, NULL, 0);
    }
    rig_close(&r);
}

/* ---- tables ---- */

static struct table_stats table(struct rig *r, uint8_t number)
{
    struct table_stats s;
    struct timespec wait = {.tv_nsec = 1100000};
    nanosleep(&wait, NULL);
    bridge_table_stats(r->bridge, number, &s);
    return s;
}

static void tables_count(void **state)
{
    struct rig r;
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    rig_flow(&r, "in_port=1,actions=goto_table:5");
    rig_flow(&r, "table=5,udp,actions=output:2,goto_table:7");
    unsigned n = udp(f);
    for (unsigned i = 0; i < 10; i++)
        rig_send(&r, 1, f, n, 7);
    rig_send(&r, 3, f, n, 4);
    struct table_stats s = table(&r, 0);
    assert_int_equal(s.active, 1);
    assert_int_equal(s.lookups, 74);
    assert_int_equal(s.matched, 70);
    s = table(&r, 5);
    assert_int_equal(s.lookups, 70);
    assert_int_equal(s.matched, 70);
    s = table(&r, 7);
    assert_int_equal(s.active, 0);
    assert_int_equal(s.lookups, 70);
    assert_int_equal(s.matched, 0);
    rig_flow(&r, "table=7,actions=output:3"); /* the megaflows are as before, but for this */
    rig_send(&r, 1, f, n, 3);
    s = table(&r, 7);
    assert_int_equal(s.lookups, 73);
    assert_int_equal(s.matched, 3);
    bridge_table_stats(r.bridge, 254, &s);
    assert_int_equal(s.active + s.lookups + s.matched, 0);
    rig_close(&r);
}

/* ---- ports ---- */

struct events {
    unsigned count;
    enum port_event what;
    struct switch_port_info last;
    char name[PORT_NAME_BYTES];
};

static void event(void *arg, enum port_event what, const struct switch_port_info *p)
{
    struct events *e = arg;
    e->count++;
    e->what = what;
    e->last = *p;
    snprintf(e->name, sizeof e->name, "%s", p->name);
}

static void ports_are_told_of(void **state)
{
    struct rig r;
    struct events e = {0};
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 2);
    bridge_on_port(r.bridge, event, &e);
    rig_port_add(&r, 7, NULL);
    assert_int_equal(e.count, 1);
    assert_int_equal(e.what, PORT_EVENT_ADD);
    assert_int_equal(e.last.number, 7);
    assert_int_equal(e.last.config, 0);
    assert_int_equal(e.last.state, PORT_STATE_LIVE);
    uint8_t mac[6];
    memcpy(mac, e.last.mac, 6);
    assert_int_equal(mac[0], 2);
    switch_port_set_config(r.ports[7]->sp, PORT_CONFIG_DOWN | 0x80000000, UINT32_MAX);
    assert_int_equal(e.count, 2);
    assert_int_equal(e.what, PORT_EVENT_MODIFY);
    assert_int_equal(e.last.config, PORT_CONFIG_DOWN);
    assert_int_equal(e.last.state, 0);
    assert_memory_equal(mac, e.last.mac, 6);
    switch_port_set_config(r.ports[7]->sp, 0, PORT_CONFIG_NO_FWD); /* no change */
    assert_int_equal(e.count, 2);
    switch_port_set_config(r.ports[7]->sp, PORT_CONFIG_NO_FWD, PORT_CONFIG_NO_FWD);
    assert_int_equal(e.last.config, PORT_CONFIG_DOWN | PORT_CONFIG_NO_FWD);
    switch_port_set(r.ports[7]->sp, &(struct switch_port_config){.vlan_mode = VLAN_ACCESS, .tag = 3});
    assert_int_equal(e.count, 3);
    r.ports[7]->link_down = true;
    switch_tick(r.sw, clock_now_ns());
    assert_int_equal(e.count, 4);
    assert_int_equal(e.last.state, PORT_STATE_LINK_DOWN);
    assert_int_equal(e.last.config, PORT_CONFIG_DOWN | PORT_CONFIG_NO_FWD);
    switch_tick(r.sw, clock_now_ns());
    assert_int_equal(e.count, 4);
    rig_port_remove(&r, 7);
    assert_int_equal(e.count, 5);
    assert_int_equal(e.what, PORT_EVENT_DELETE);
    assert_string_equal(e.name, "p7");
    rig_close(&r);
}

static void in_order(void *arg, const struct switch_port_info *p)
{
    unsigned *last = arg;
    assert_true(p->number > *last);
    assert_non_null(p->port);
    assert_true(p->duration_ns < 3600 * NS_PER_SECOND);
    *last = p->number;
}

static void ports_are_listed(void **state)
{
    struct rig r;
    unsigned last = 0;
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 0);
    rig_port_add(&r, 5, NULL);
    rig_port_add(&r, 2, NULL);
    rig_port_add(&r, 9, NULL);
    bridge_port_each(r.bridge, in_order, &last);
    assert_int_equal(last, 9);
    rig_close(&r);
}

static void ports_obey(void **state)
{
    struct rig r;
    struct told t = {0};
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_SECURE, 3);
    switch_on_packet_in(r.sw, received, &t);
    rig_flow(&r, "priority=0,actions=all,controller");
    rig_flow(&r, "priority=5,udp,tp_src=7,actions=controller");
    unsigned n = udp(f);
    rig_send(&r, 1, f, n, 1);
    assert_int_equal(rig_got(&r), bit(2) | bit(3));
    assert_int_equal(t.count, 1);
    switch_port_set_config(r.ports[2]->sp, PORT_CONFIG_NO_FWD, UINT32_MAX);
    switch_port_set_config(r.ports[1]->sp, PORT_CONFIG_NO_PACKET_IN, UINT32_MAX);
    rig_send(&r, 1, f, n, 1);
    assert_int_equal(rig_got(&r), bit(3));
    assert_int_equal(t.count, 1);
    f[35] = 7;
    f[34] = 0; /* a flow says so: not because none matched */
    rig_send(&r, 1, f, n, 1);
    assert_int_equal(t.count, 2);
    f[34] = 1;
    rig_send(&r, 2, f, n, 1);
    assert_int_equal(rig_got(&r), bit(1) | bit(3));
    assert_int_equal(t.count, 3);
    switch_port_set_config(r.ports[2]->sp, PORT_CONFIG_DOWN, UINT32_MAX);
    rig_send(&r, 2, f, n, 1);
    rig_send(&r, 1, f, n, 1);
    assert_int_equal(rig_got(&r), bit(3));
    assert_int_equal(t.count, 3);
    switch_port_set_config(r.ports[1]->sp, PORT_CONFIG_NO_RECV, UINT32_MAX);
    rig_send(&r, 1, f, n, 1);
    assert_int_equal(rig_got(&r), 0);
    rig_send(&r, 3, f, n, 1);
    assert_int_equal(rig_got(&r), bit(1));
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goes_to_every_kind_of_port),
        cmocka_unit_test(teaches_normal),
        cmocka_unit_test(goes_through_the_tables),
        cmocka_unit_test(is_counted),
        cmocka_unit_test(actions_are_checked),
        cmocka_unit_test(hostile_packets),
        cmocka_unit_test(tables_count),
        cmocka_unit_test(ports_are_told_of),
        cmocka_unit_test(ports_are_listed),
        cmocka_unit_test(ports_obey),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
