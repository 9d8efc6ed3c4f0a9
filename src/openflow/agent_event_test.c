/* SPDX-License-Identifier: Apache-2.0 */
/* What peers are told without asking: packets, flows that are gone, ports; and who is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "openflow/test_client.h"
#include "packet/checksum.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"

static void receive(struct world *w, uint32_t in_port, unsigned copies)
{
    uint8_t f[128];
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    rig_send(&w->rig, in_port, f, n, copies);
}

/* A packet-in's data, and how much there is. */
static const uint8_t *data_of(const uint8_t *m, size_t *bytes)
{
    size_t match = (get16(m + 26) + 7u) / 8 * 8, at = 24 + match + 2;
    *bytes = get16(m + 2) - at;
    return m + at;
}

/* ---- what is told is kept ---- */

static void kept_before_it_is_told(void **state)
{
    struct client c, other;
    struct msg m;
    client_open_controller(&c, *state);
    client_open_controller(&other, *state);
    client_do_flow(&c, &(struct flow_text){.priority = 5, .in_port = 1, .output = 2, .flags = OFPFF_SEND_FLOW_REM});
    unsigned commits = c.w->noted.commits;
    msg_flow_mod(&m, 5, &(struct flow_text){.command = OFPFC_DELETE, .table = 255});
    client_send(&c, &m);
    client_expect(&other, OFPT_FLOW_REMOVED, 0);
    assert_int_equal(c.w->noted.commits, commits + 1);
    client_expect(&c, OFPT_FLOW_REMOVED, 0);
    msg_flow_mod(&m, 6, &(struct flow_text){.priority = 5, .in_port = 1, .output = 2});
    client_send(&c, &m);
    world_run(c.w);
    assert_int_equal(c.w->noted.commits, commits + 1); /* nobody knows */
    msg_flow_mod(&m, 7, &(struct flow_text){.priority = 5, .flags = OFPFF_CHECK_OVERLAP});
    client_send(&c, &m);
    client_expect_error(&c, 7, OFPET_FLOW_MOD_FAILED, OFPFMFC_OVERLAP);
    assert_int_equal(c.w->noted.commits, commits + 2);
    client_close(&c);
    client_close(&other);
}

/* ---- packets ---- */

static void whole_packets(void **state)
{
    struct client c;
    size_t bytes;
    uint8_t f[128];
    client_open_controller(&c, *state);
    client_do_flow(&c, &(struct flow_text){
                           .table = 0, .cookie = 0x1234, .in_port = 3, .output = OFPP_CONTROLLER, .max_len = 0xffff});
    receive(c.w, 3, 1);
    const uint8_t *m = client_expect(&c, OFPT_PACKET_IN, 0);
    assert_int_equal(get32(m + 8), OFP_NO_BUFFER);
    assert_int_equal(get16(m + 12), 60);
    assert_int_equal(m[14], OFPR_ACTION);
    assert_int_equal(m[15], 0);
    assert_true(get64(m + 16) == 0x1234);
    assert_int_equal(get16(m + 24), OFPMT_OXM);
    assert_int_equal(get16(m + 26), 12);
    assert_int_equal(get32(m + 28), 0x80000004);
    assert_int_equal(get32(m + 32), 3);
    const uint8_t *data = data_of(m, &bytes);
    frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    assert_int_equal(bytes, 60);
    assert_memory_equal(data, f, 60);
    client_close(&c);
}

static void misses(void **state)
{
    struct client c;
    client_open_controller(&c, *state);
    receive(c.w, 1, 1);
    client_expect_nothing(&c); /* without a table-miss flow it is dropped */
    client_do_flow(&c, &(struct flow_text){.priority = 0, .output = OFPP_CONTROLLER, .max_len = 0xffff});
    receive(c.w, 1, 1);
    assert_int_equal(client_expect(&c, OFPT_PACKET_IN, 0)[14], OFPR_NO_MATCH);
    client_close(&c);
}

static void buffered(void **state)
{
    struct client c, other;
    struct msg m;
    size_t bytes;
    client_open_controller(&c, *state);
    client_open_controller(&other, *state);
    client_do_flow(&c, &(struct flow_text){.priority = 1, .output = OFPP_CONTROLLER, .max_len = 20});
    receive(c.w, 1, 1);
    const uint8_t *in = client_expect(&c, OFPT_PACKET_IN, 0);
    uint32_t id = get32(in + 8);
    assert_int_not_equal(id, OFP_NO_BUFFER);
    assert_int_equal(get16(in + 12), 60);
    data_of(in, &bytes);
    assert_int_equal(bytes, 20);
    uint32_t other_id = get32(client_expect(&other, OFPT_PACKET_IN, 0) + 8);
    /* Each has its own. */
    msg_flow_mod(&m, 5, &(struct flow_text){.priority = 9, .in_port = 1, .output = 2, .buffer = other_id});
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BUFFER_UNKNOWN);
    msg_flow_mod(&m, 5, &(struct flow_text){.priority = 9, .in_port = 1, .output = 3, .buffer = id});
    if (id == 0) memset(m.at + 32, 0, 4);
    client_do(&c, &m);
    assert_int_equal(rig_got(&c.w->rig), 1u << 3);
    assert_int_equal(c.w->rig.ports[3]->last[0].length, 60);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BUFFER_EMPTY);
    /* A packet-out of the other's. */
    msg_begin(&m, OFPT_PACKET_OUT, 6);
    msg_u32(&m, other_id);
    msg_u32(&m, 1);
    msg_u16(&m, 16);
    msg_zeros(&m, 6);
    msg_u16(&m, OFPAT_OUTPUT);
    msg_u16(&m, 16);
    msg_u32(&m, 4);
    msg_zeros(&m, 8);
    client_do(&other, &m);
    assert_int_equal(rig_got(&c.w->rig), 1u << 4);
    client_refused(&other, &m, OFPET_BAD_REQUEST, OFPBRC_BUFFER_EMPTY);
    client_close(&c);
    client_close(&other);
}

/* A large frame of TCP, with its checksum left to others. */
static struct packet *large_frame(struct world *w, uint8_t *f, unsigned payload)
{
    memset(f, 0, 54 + payload);
    frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    f[16] = (uint8_t)((40 + payload) >> 8);
    f[17] = (uint8_t)(40 + payload);
    f[23] = 6;
    memset(f + 34, 0, 26);
    f[35] = f[37] = 80;
    f[46] = 0x50;
    struct packet *p = packet_pool_packet(w->rig.pool);
    struct iovec *body = packet_pool_iov(w->rig.pool, 1);
    memcpy(p->head, f, 54);
    *body = (struct iovec){f + 54, payload};
    p->head_bytes = 54;
    p->length_bytes = 54 + payload;
    p->body = body;
    p->body_count = 1;
    p->offload = (struct packet_offload){
        .csum_partial = true, .gso = PACKET_GSO_TCP4, .gso_size = 1000, .csum_start = 34, .csum_offset = 16};
    return p;
}

/* Controllers see what a wire would carry. */
static void large_packets(void **state)
{
    static uint8_t f[70000];
    static const unsigned lengths[] = {1000, 1000, 500};
    struct client c;
    size_t bytes;
    client_open_controller(&c, *state);
    client_do_flow(&c, &(struct flow_text){.priority = 1, .output = OFPP_CONTROLLER, .max_len = 0xffff});
    struct packet *p = large_frame(c.w, f, 2500);
    rig_burst(&c.w->rig, 1, &p, 1);
    for (unsigned i = 0; i < 3; i++) {
        const uint8_t *m = client_expect(&c, OFPT_PACKET_IN, 0);
        const uint8_t *data = data_of(m, &bytes);
        struct be32 from, to;
        assert_int_equal(bytes, 54 + lengths[i]);
        assert_int_equal(get16(m + 12), bytes);
        assert_int_equal(get16(data + 16), 40 + lengths[i]);
        memcpy(&from, data + 26, 4);
        memcpy(&to, data + 30, 4);
        uint64_t sum = csum_pseudo_ipv4(from, to, 6, 20 + lengths[i]) + csum_memory(data + 34, 20 + lengths[i]);
        assert_int_equal(csum_fold(sum), 0xffff);
    }
    client_expect_nothing(&c);
    p = large_frame(c.w, f, 65000); /* more than are told of one */
    p->offload.gso_size = 100;
    rig_burst(&c.w->rig, 1, &p, 1);
    for (unsigned i = 0; i < 64; i++)
        client_expect(&c, OFPT_PACKET_IN, 0);
    client_expect_nothing(&c);
    p = large_frame(c.w, f, 2500); /* is not what it says */
    p->offload.gso = PACKET_GSO_UDP4;
    rig_burst(&c.w->rig, 1, &p, 1);
    client_expect_nothing(&c);
    client_close(&c);
}

/* When all buffers are taken packets are sent whole. */
static void no_buffer_left(void **state)
{
    struct client c;
    unsigned whole = 0, cut = 0;
    size_t bytes;
    client_open_controller(&c, *state);
    client_do_flow(&c, &(struct flow_text){.priority = 1, .output = OFPP_CONTROLLER, .max_len = 20});
    for (uint32_t port = 1; port <= 4; port++) {
        for (unsigned i = 0; i < 3; i++)
            receive(c.w, port, 25);
        for (unsigned i = 0; i < 75; i++) {
            const uint8_t *m = client_expect(&c, OFPT_PACKET_IN, 0);
            data_of(m, &bytes);
            assert_int_equal(bytes, get32(m + 8) == OFP_NO_BUFFER ? 60 : 20);
            if (get32(m + 8) == OFP_NO_BUFFER) whole++;
            else cut++;
        }
    }
    assert_int_equal(cut, OF_BUFFERS_MAX);
    assert_int_equal(whole, 300 - OF_BUFFERS_MAX);
    client_close(&c);
}

static void rates(void **state)
{
    static struct world own;
    struct client c;
    unsigned got = 0;
    (void)state;
    world_open(&own, 2, 10);
    client_open_controller(&c, &own);
    client_do_flow(&c, &(struct flow_text){.priority = 1, .output = OFPP_CONTROLLER, .max_len = 0xffff});
    for (unsigned i = 0; i < 100; i++) {
        receive(&own, 1, 10);
        world_run(&own);
        size_t bytes;
        for (const uint8_t *m; (m = client_get(&c, &bytes)) && m[1] == OFPT_PACKET_IN;)
            got++;
    }
    assert_in_range(got, OF_PACKET_INS_QUEUED_MAX, OF_PACKET_INS_QUEUED_MAX + 50);
    assert_int_equal(of_agent_dropped(own.agent), 1000 - got);
    receive(&own, 2, 10); /* another port has a rate of its own */
    for (unsigned i = 0; i < 10; i++)
        client_expect(&c, OFPT_PACKET_IN, 0);
    client_close(&c);
    world_close(&own);
}

/* The control thread is late: what is queued is bounded. */
static void bounded_queue(void **state)
{
    struct client c;
    unsigned got = 0;
    size_t bytes;
    client_open_controller(&c, *state);
    client_do_flow(&c, &(struct flow_text){.priority = 1, .output = OFPP_CONTROLLER, .max_len = 0xffff});
    for (unsigned i = 0; i < 100; i++)
        receive(c.w, 1, 10);
    for (const uint8_t *m; (m = client_get(&c, &bytes)) && m[1] == OFPT_PACKET_IN;)
        got++;
    assert_int_equal(got, OF_PACKET_INS_QUEUED_MAX);
    assert_int_equal(of_agent_dropped(c.w->agent), 1000 - got);
    for (unsigned i = 0; i < 100; i++)
        receive(c.w, 2, 10); /* not taken out any more */
    client_close(&c);
}

static void see_dropped(void *arg, const struct of_connection_info *c)
{
    *(uint64_t *)arg += c->packet_ins_dropped;
}

/* A controller that does not read is not told of more and more. */
static void slow_controller(void **state)
{
    struct client c;
    uint64_t dropped = 0;
    uint8_t f[1500] = {0};
    client_open_controller(&c, *state);
    client_do_flow(&c, &(struct flow_text){.priority = 1, .output = OFPP_CONTROLLER, .max_len = 0xffff});
    frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    for (unsigned i = 0; i < 2000 && dropped == 0; i++) {
        rig_send(&c.w->rig, i % 4 + 1, f, sizeof f, 1);
        world_run(c.w);
        of_agent_each(c.w->agent, see_dropped, &dropped);
    }
    assert_true(dropped > 0);
    client_close(&c);
}

/* ---- who is told ---- */

static void set_miss_send_len(struct client *c, unsigned bytes)
{
    struct msg m;
    msg_begin(&m, OFPT_SET_CONFIG, 9);
    msg_u16(&m, 0);
    msg_u16(&m, bytes);
    client_do(c, &m);
}

static void set_role(struct client *c, uint32_t role, uint64_t generation)
{
    struct msg m;
    msg_begin(&m, OFPT_ROLE_REQUEST, 20);
    msg_u32(&m, role);
    msg_zeros(&m, 4);
    msg_u64(&m, generation);
    client_send(c, &m);
    client_expect(c, OFPT_ROLE_REPLY, 20);
}

static void set_async(struct client *c, const uint32_t masks[6])
{
    struct msg m;
    msg_begin(&m, OFPT_SET_ASYNC, 4);
    for (unsigned i = 0; i < 6; i++)
        msg_u32(&m, masks[i]);
    client_do(c, &m);
}

static void tools_ask_first(void **state)
{
    struct client tool, slave;
    client_open(&tool, *state, OF_PEER_SERVICE);
    client_open_controller(&slave, *state);
    set_role(&slave, OFPCR_ROLE_SLAVE, 1);
    client_do_flow(&tool, &(struct flow_text){.priority = 1, .output = OFPP_CONTROLLER, .max_len = 0xffff});
    receive(tool.w, 1, 1);
    client_expect_nothing(&tool);
    client_expect_nothing(&slave);
    set_miss_send_len(&tool, 65535);
    receive(tool.w, 1, 1);
    client_expect(&tool, OFPT_PACKET_IN, 0);
    set_miss_send_len(&tool, 0);
    receive(tool.w, 1, 1);
    client_expect_nothing(&tool);
    set_async(&tool, (const uint32_t[6]){1u << OFPR_ACTION});
    set_async(&slave, (const uint32_t[6]){0, 1u << OFPR_ACTION});
    receive(tool.w, 1, 1);
    client_expect(&tool, OFPT_PACKET_IN, 0);
    client_expect(&slave, OFPT_PACKET_IN, 0);
    set_async(&tool, (const uint32_t[6]){1u << OFPR_NO_MATCH});
    receive(tool.w, 1, 1);
    client_expect_nothing(&tool);
    client_expect(&slave, OFPT_PACKET_IN, 0);
    client_close(&tool);
    client_close(&slave);
}

/* Only who asks for them is told of packets whose TTL was over, and of as much as it gets of those that match nothing. */
static void ttl_is_over(void **state)
{
    struct client c;
    uint8_t f[128];
    size_t bytes;
    client_open_controller(&c, *state);
    rig_flow(&c.w->rig, "ip,actions=dec_ttl,output:2");
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    f[22] = 1;
    rig_send(&c.w->rig, 1, f, n, 1);
    client_expect_nothing(&c);
    set_async(&c, (const uint32_t[6]){1u << OFPR_INVALID_TTL});
    set_miss_send_len(&c, 30);
    rig_send(&c.w->rig, 1, f, n, 1);
    const uint8_t *m = client_expect(&c, OFPT_PACKET_IN, 0);
    assert_int_equal(m[14], OFPR_INVALID_TTL);
    assert_int_equal(get16(m + 12), 60);
    data_of(m, &bytes);
    assert_int_equal(bytes, 30);
    assert_int_equal(rig_got(&c.w->rig), 0);
    client_close(&c);
}

/* ---- flows that are gone ---- */

static void flow_removed(void **state)
{
    struct client c, tool;
    client_open_controller(&c, *state);
    client_open(&tool, *state, OF_PEER_SERVICE);
    client_do_flow(
        &c, &(struct flow_text){.priority = 9, .in_port = 1, .output = 2, .cookie = 5, .flags = OFPFF_SEND_FLOW_REM});
    client_do_flow(&c, &(struct flow_text){.priority = 9, .in_port = 2, .output = 2});
    receive(c.w, 1, 3);
    struct msg m;
    msg_flow_mod(&m, 1, &(struct flow_text){.command = OFPFC_DELETE});
    client_send(&c, &m);
    const uint8_t *r = client_expect(&c, OFPT_FLOW_REMOVED, 0);
    assert_true(get64(r + 8) == 5);
    assert_int_equal(get16(r + 16), 9);
    assert_int_equal(r[18], OFPRR_DELETE);
    assert_true(get64(r + 32) == 3);   /* packets */
    assert_true(get64(r + 40) == 180); /* bytes */
    assert_int_equal(get16(r + 48), OFPMT_OXM);
    client_expect_nothing(&c); /* of the other nobody wanted to hear */
    client_expect_nothing(&tool);
    static const unsigned reasons[] = {OFPRR_IDLE_TIMEOUT, OFPRR_HARD_TIMEOUT};
    for (unsigned i = 0; i < 2; i++) {
        client_do_flow(&c,
                       &(struct flow_text){
                           .in_port = 1, .output = 2, .idle = i == 0, .hard = i == 1, .flags = OFPFF_SEND_FLOW_REM});
        switch_tick(c.w->rig.sw, clock_now_ns() + 2 * NS_PER_SECOND);
        r = client_expect(&c, OFPT_FLOW_REMOVED, 0);
        assert_int_equal(r[18], reasons[i]);
        assert_int_equal(get16(r + 28), i == 0);
        assert_int_equal(get16(r + 30), i == 1);
    }
    set_async(&c, (const uint32_t[6]){0, 0, 0, 0, 1u << OFPRR_HARD_TIMEOUT, 0});
    client_do_flow(&c, &(struct flow_text){.in_port = 1, .output = 2, .flags = OFPFF_SEND_FLOW_REM});
    client_do_flow(&c, &(struct flow_text){.command = OFPFC_DELETE});
    client_close(&c);
    client_close(&tool);
}

/* ---- ports ---- */

static void ports(void **state)
{
    struct client c, slave, deaf;
    client_open_controller(&c, *state);
    client_open_controller(&slave, *state);
    client_open_controller(&deaf, *state);
    set_role(&slave, OFPCR_ROLE_SLAVE, 1);
    set_async(&deaf, (const uint32_t[6]){7, 7, 0, 0, 7, 7});
    rig_port_add(&c.w->rig, 5, NULL);
    struct client *told[] = {&c, &slave};
    for (unsigned i = 0; i < 2; i++) {
        const uint8_t *m = client_expect(told[i], OFPT_PORT_STATUS, 0);
        assert_int_equal(m[8], OFPPR_ADD);
        assert_int_equal(get32(m + 16), 5);
        assert_string_equal((const char *)m + 32, "p5");
    }
    rig_port_remove(&c.w->rig, 5);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(client_expect(told[i], OFPT_PORT_STATUS, 0)[8], OFPPR_DELETE);
    c.w->rig.ports[2]->link_down = true;
    switch_tick(c.w->rig.sw, clock_now_ns());
    for (unsigned i = 0; i < 2; i++) {
        const uint8_t *m = client_expect(told[i], OFPT_PORT_STATUS, 0);
        assert_int_equal(m[8], OFPPR_MODIFY);
        assert_int_equal(get32(m + 52), OFPPS_LINK_DOWN);
    }
    client_expect_nothing(&deaf);
    client_close(&c);
    client_close(&slave);
    client_close(&deaf);
}

/* ---- listening in ---- */

static void snoops(void **state)
{
    struct client snoop, c, tool;
    client_open(&snoop, *state, OF_PEER_SNOOP);
    client_open(&c, *state, OF_PEER_CONTROLLER);
    client_open(&tool, *state, OF_PEER_SERVICE);
    client_ask(&tool, OFPT_FEATURES_REQUEST, 6); /* tools are not heard */
    client_expect(&tool, OFPT_FEATURES_REPLY, 6);
    client_ask(&c, OFPT_FEATURES_REQUEST, 7);
    client_expect(&c, OFPT_FEATURES_REPLY, 7);
    client_ask(&c, OFPT_BARRIER_REQUEST, 8);
    client_ask(&c, OFPT_BARRIER_REPLY, 9); /* makes an error */
    client_expect(&snoop, OFPT_FEATURES_REQUEST, 7);
    assert_int_equal(get16(client_expect(&snoop, OFPT_FEATURES_REPLY, 7) + 2), 32);
    client_expect(&snoop, OFPT_BARRIER_REQUEST, 8);
    client_expect(&snoop, OFPT_BARRIER_REPLY, 9);
    client_expect(&snoop, OFPT_BARRIER_REPLY, 8);
    client_expect(&snoop, OFPT_ERROR, 9);
    client_expect_nothing(&snoop);
    client_ask(&snoop, OFPT_FEATURES_REQUEST, 7);
    client_expect_error(&snoop, 7, OFPET_BAD_REQUEST, OFPBRC_EPERM);
    client_close(&snoop);
    client_close(&c);
    client_close(&tool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(kept_before_it_is_told, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(whole_packets, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(misses, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(buffered, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(large_packets, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(no_buffer_left, world_setup, world_teardown),
        cmocka_unit_test(rates),
        cmocka_unit_test_setup_teardown(bounded_queue, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(slow_controller, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(tools_ask_first, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(ttl_is_over, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(flow_removed, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(ports, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(snoops, world_setup, world_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
