/* SPDX-License-Identifier: Apache-2.0 */
/* Flow mods, group mods, meter mods and packet-outs: what they do, and what they are refused for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "openflow/test_client.h"

#define A "02:00:00:00:00:0a"
#define B "02:00:00:00:00:0b"

static void refused(struct client *c, const struct flow_text *f, unsigned type, unsigned code)
{
    struct msg m;
    msg_flow_mod(&m, 77, f);
    client_refused(c, &m, type, code);
}

static uint32_t sent_to(struct client *c, uint32_t in_port)
{
    uint8_t f[128];
    unsigned n = frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    rig_send(&c->w->rig, in_port, f, n, 1);
    return rig_got(&c->w->rig);
}

static unsigned flows(struct client *c)
{
    return bridge_flow_count(c->w->rig.bridge);
}

/* ---- time ---- */

static uint64_t step_ns; /* what a look at the clock takes */

int __real_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
    static uint64_t late_ns;
    int ret = __real_clock_gettime(clock, ts);
    late_ns += step_ns;
    uint64_t ns = (uint64_t)ts->tv_sec * NS_PER_SECOND + (uint64_t)ts->tv_nsec + late_ns;
    *ts = (struct timespec){.tv_sec = (time_t)(ns / NS_PER_SECOND), .tv_nsec = (long)(ns % NS_PER_SECOND)};
    return ret;
}

static void count_received(void *arg, const struct of_connection_info *info)
{
    *(uint64_t *)arg += info->received;
}

static uint64_t received(struct client *c)
{
    uint64_t n = 0;
    of_agent_each(c->w->agent, count_received, &n);
    return n;
}

/* What looks at all flows, or makes many packets, is not done time and again before others are heard. */
static void long_requests_take_turns(void **state)
{
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    for (unsigned type = 0; type < 3; type++) {
        uint64_t before = received(&c);
        for (unsigned i = 0; i < 8; i++) {
            msg_flow_mod(&m, i, &(struct flow_text){.command = type ? OFPFC_DELETE : OFPFC_MODIFY, .in_port = 9});
            if (type == 2) msg_begin(&m, OFPT_PACKET_OUT, i);
            client_send(&c, &m);
        }
        step_ns = 3 * NS_PER_MS;
        loop_run_once(c.w->loop, 0);
        step_ns = 0;
        assert_in_range(received(&c) - before, 1, 2);
        world_run(c.w);
        assert_int_equal(received(&c) - before, 8);
    }
    client_close(&c);
}

/* ---- flows ---- */

static void flow_commands(void **state)
{
    struct client c;
    client_open_controller(&c, *state);
    client_do_flow(&c, &(struct flow_text){.priority = 5, .in_port = 1, .output = 2});
    client_do_flow(&c, &(struct flow_text){.priority = 6, .in_port = 2, .output = 3});
    assert_int_equal(c.w->noted.last, OF_FLOW_ADD);
    assert_int_equal(flows(&c), 2);
    assert_int_equal(sent_to(&c, 1), 1u << 2);
    client_do_flow(&c, &(struct flow_text){.command = OFPFC_MODIFY_STRICT, .priority = 6, .in_port = 1, .output = 4});
    assert_int_equal(sent_to(&c, 1), 1u << 2); /* of another priority */
    client_do_flow(&c, &(struct flow_text){.command = OFPFC_MODIFY_STRICT, .priority = 5, .in_port = 1, .output = 4});
    assert_int_equal(c.w->noted.last, OF_FLOW_MODIFY_STRICT);
    assert_int_equal(sent_to(&c, 1), 1u << 4);
    client_do_flow(&c,
                   &(struct flow_text){.command = OFPFC_MODIFY, .output = 3, .out_port = 99}); /* which is no matter */
    assert_int_equal(sent_to(&c, 1), 1u << 3);
    client_do_flow(&c, &(struct flow_text){.command = OFPFC_DELETE_STRICT, .priority = 6, .in_port = 1});
    assert_int_equal(flows(&c), 2);
    client_do_flow(&c, &(struct flow_text){.command = OFPFC_DELETE_STRICT, .priority = 6, .in_port = 2});
    assert_int_equal(flows(&c), 1);
    client_do_flow(&c, &(struct flow_text){.command = OFPFC_DELETE, .table = 255, .out_port = 2});
    assert_int_equal(flows(&c), 1);
    client_do_flow(&c, &(struct flow_text){.command = OFPFC_DELETE, .table = 255, .out_port = 3});
    assert_int_equal(flows(&c), 0);
    assert_int_equal(c.w->noted.gone, 2);
    unsigned noted = c.w->noted.flows;
    client_do_flow(&c, &(struct flow_text){.command = OFPFC_DELETE, .table = 255}); /* nothing is there */
    client_do_flow(&c, &(struct flow_text){.command = OFPFC_MODIFY, .output = 3});
    assert_int_equal(c.w->noted.flows, noted);
    assert_int_equal(c.w->noted.why, FLOW_GONE_DELETED);
    client_close(&c);
}

static void cookies(void **state)
{
    struct client c;
    client_open_controller(&c, *state);
    for (uint32_t i = 1; i < 5; i++)
        client_do_flow(&c, &(struct flow_text){.priority = 5, .in_port = i, .output = 2, .cookie = i});
    client_do_flow(&c, &(struct flow_text){.command = OFPFC_DELETE, .cookie = 2, .cookie_mask = 2});
    assert_int_equal(flows(&c), 2); /* 2 and 3 went */
    client_do_flow(&c,
                   &(struct flow_text){.command = OFPFC_MODIFY, .output = 3, .cookie = 4, .cookie_mask = UINT64_MAX});
    assert_int_equal(sent_to(&c, 1), 1u << 2);
    assert_int_equal(sent_to(&c, 4), 1u << 3);
    client_close(&c);
}

static void flow_errors(void **state)
{
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    refused(&c, &(struct flow_text){.command = 5}, OFPET_FLOW_MOD_FAILED, OFPFMFC_BAD_COMMAND);
    refused(&c, &(struct flow_text){.table = 255}, OFPET_FLOW_MOD_FAILED, OFPFMFC_BAD_TABLE_ID);
    refused(&c, &(struct flow_text){.table = 254}, OFPET_FLOW_MOD_FAILED, OFPFMFC_BAD_TABLE_ID);
    refused(&c, &(struct flow_text){.command = OFPFC_MODIFY, .table = 255}, OFPET_FLOW_MOD_FAILED,
            OFPFMFC_BAD_TABLE_ID);
    refused(&c, &(struct flow_text){.command = OFPFC_DELETE, .table = 254}, OFPET_FLOW_MOD_FAILED,
            OFPFMFC_BAD_TABLE_ID);
    refused(&c, &(struct flow_text){.flags = 0x20}, OFPET_FLOW_MOD_FAILED, OFPFMFC_BAD_FLAGS);
    refused(&c, &(struct flow_text){.output = OFPP_ANY}, OFPET_BAD_ACTION, OFPBAC_BAD_OUT_PORT);
    refused(&c, &(struct flow_text){.output = OFPP_TABLE}, OFPET_BAD_ACTION, OFPBAC_BAD_OUT_PORT);
    client_do_flow(&c, &(struct flow_text){.priority = 5, .in_port = 1, .output = 2});
    refused(&c, &(struct flow_text){.priority = 5, .flags = OFPFF_CHECK_OVERLAP}, OFPET_FLOW_MOD_FAILED,
            OFPFMFC_OVERLAP);
    refused(&c, &(struct flow_text){.buffer = 17, .in_port = 3}, OFPET_BAD_REQUEST, OFPBRC_BUFFER_UNKNOWN);
    assert_int_equal(flows(&c), 2); /* the flow was added all the same */
    msg_flow_mod(&m, 77, &(struct flow_text){.in_port = 1});
    msg_u16(&m, OFPIT_GOTO_TABLE);
    msg_u16(&m, 8);
    msg_zeros(&m, 4); /* its own table */
    client_refused(&c, &m, OFPET_BAD_INSTRUCTION, OFPBIC_BAD_TABLE_ID);
    msg_flow_mod(&m, 77, &(struct flow_text){.in_port = 1});
    msg_u16(&m, OFPIT_METER);
    msg_u16(&m, 8);
    msg_u32(&m, 9);
    client_refused(&c, &m, OFPET_METER_MOD_FAILED, OFPMMFC_UNKNOWN_METER);
    msg_flow_mod(&m, 77, &(struct flow_text){.in_port = 1});
    msg_u16(&m, 77);
    msg_u16(&m, 8);
    msg_zeros(&m, 4);
    client_refused(&c, &m, OFPET_BAD_INSTRUCTION, OFPBIC_UNKNOWN_INST);
    client_close(&c);
}

/* A group action with nothing behind it, of unknown type, of a group that is not there. */
static void action_errors(void **state)
{
    static const struct {
        uint16_t type, len;
        uint32_t value;
        unsigned error, code;
    } wrong[] = {{OFPAT_GROUP, 8, 4711, OFPET_BAD_ACTION, OFPBAC_BAD_OUT_GROUP},
                 {99, 8, 0, OFPET_BAD_ACTION, OFPBAC_BAD_TYPE},
                 {OFPAT_GROUP, 0, 0, OFPET_BAD_ACTION, OFPBAC_BAD_LEN},
                 {OFPAT_GROUP, 16, 0, OFPET_BAD_ACTION, OFPBAC_BAD_LEN}};
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        msg_flow_mod(&m, 77, &(struct flow_text){.in_port = 1});
        msg_u16(&m, OFPIT_APPLY_ACTIONS);
        msg_u16(&m, 16);
        msg_zeros(&m, 4);
        msg_u16(&m, wrong[i].type);
        msg_u16(&m, wrong[i].len);
        msg_u32(&m, wrong[i].value);
        client_refused(&c, &m, wrong[i].error, wrong[i].code);
    }
    assert_int_equal(flows(&c), 0);
    client_close(&c);
}

/* ---- groups ---- */

/* One bucket that outputs to a port (0: no bucket). */
static void msg_group(struct msg *m, unsigned command, unsigned type, uint32_t id, uint32_t output)
{
    msg_begin(m, OFPT_GROUP_MOD, 78);
    msg_u16(m, command);
    msg_u8(m, type);
    msg_u8(m, 0);
    msg_u32(m, id);
    if (!output) return;
    msg_u16(m, 32);
    msg_u16(m, type == OFPGT_SELECT);
    msg_u32(m, OFPP_ANY);
    msg_u32(m, OFPG_ANY);
    msg_zeros(m, 4);
    msg_u16(m, OFPAT_OUTPUT);
    msg_u16(m, 16);
    msg_u32(m, output);
    msg_zeros(m, 8);
}

static void groups(void **state)
{
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    msg_group(&m, OFPGC_ADD, OFPGT_INDIRECT, 1, 2);
    client_do(&c, &m);
    assert_int_equal(c.w->noted.last, OF_GROUP_ADD);
    client_refused(&c, &m, OFPET_GROUP_MOD_FAILED, OFPGMFC_GROUP_EXISTS);
    msg_flow_mod(&m, 77, &(struct flow_text){.in_port = 1, .flags = OFPFF_SEND_FLOW_REM});
    msg_u16(&m, OFPIT_APPLY_ACTIONS);
    msg_u16(&m, 16);
    msg_zeros(&m, 4);
    msg_u16(&m, OFPAT_GROUP);
    msg_u16(&m, 8);
    msg_u32(&m, 1);
    client_do(&c, &m);
    assert_int_equal(sent_to(&c, 1), 1u << 2);
    msg_group(&m, OFPGC_MODIFY, OFPGT_INDIRECT, 1, 3);
    client_do(&c, &m);
    assert_int_equal(c.w->noted.last, OF_GROUP_MODIFY);
    assert_int_equal(sent_to(&c, 1), 1u << 3);
    msg_group(&m, OFPGC_MODIFY, OFPGT_INDIRECT, 2, 3);
    client_refused(&c, &m, OFPET_GROUP_MOD_FAILED, OFPGMFC_UNKNOWN_GROUP);
    msg_group(&m, OFPGC_ADD, OFPGT_ALL, OFPG_ALL, 3);
    client_refused(&c, &m, OFPET_GROUP_MOD_FAILED, OFPGMFC_INVALID_GROUP);
    msg_group(&m, OFPGC_ADD, 4, 5, 3);
    client_refused(&c, &m, OFPET_GROUP_MOD_FAILED, OFPGMFC_BAD_TYPE);
    msg_group(&m, 3, OFPGT_ALL, 5, 3);
    client_refused(&c, &m, OFPET_GROUP_MOD_FAILED, OFPGMFC_BAD_COMMAND);
    msg_group(&m, OFPGC_DELETE, OFPGT_ALL, 99, 0);
    client_do(&c, &m); /* is no error */
    msg_group(&m, OFPGC_DELETE, OFPGT_ALL, OFPG_ALL, 0);
    client_send(&c, &m);
    const uint8_t *r = client_expect(&c, OFPT_FLOW_REMOVED, 0);
    assert_int_equal(r[18], OFPRR_GROUP_DELETE);
    assert_int_equal(c.w->noted.why, FLOW_GONE_GROUP);
    assert_int_equal(flows(&c), 0);
    assert_int_equal(bridge_group_count(c.w->rig.bridge), 0);
    client_close(&c);
}

/* ---- meters ---- */

static void msg_meter(struct msg *m, unsigned command, unsigned flags, uint32_t id, unsigned band, uint32_t rate)
{
    msg_begin(m, OFPT_METER_MOD, 79);
    msg_u16(m, command);
    msg_u16(m, flags);
    msg_u32(m, id);
    if (!band) return;
    msg_u16(m, band);
    msg_u16(m, 16);
    msg_u32(m, rate);
    msg_zeros(m, 8);
}

static void meters(void **state)
{
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    msg_meter(&m, OFPMC_ADD, OFPMF_PKTPS, 1, OFPMBT_DROP, 1000);
    client_do(&c, &m);
    assert_int_equal(c.w->noted.last, OF_METER_ADD);
    client_refused(&c, &m, OFPET_METER_MOD_FAILED, OFPMMFC_METER_EXISTS);
    msg_meter(&m, OFPMC_MODIFY, OFPMF_PKTPS, 2, OFPMBT_DROP, 1000);
    client_refused(&c, &m, OFPET_METER_MOD_FAILED, OFPMMFC_UNKNOWN_METER);
    msg_meter(&m, OFPMC_ADD, OFPMF_PKTPS, 2, 77, 1000);
    client_refused(&c, &m, OFPET_METER_MOD_FAILED, OFPMMFC_BAD_BAND);
    msg_meter(&m, OFPMC_ADD, 0x100, 2, OFPMBT_DROP, 1000);
    client_refused(&c, &m, OFPET_METER_MOD_FAILED, OFPMMFC_BAD_FLAGS);
    msg_meter(&m, 3, OFPMF_PKTPS, 2, OFPMBT_DROP, 1000);
    client_refused(&c, &m, OFPET_METER_MOD_FAILED, OFPMMFC_BAD_COMMAND);
    msg_meter(&m, OFPMC_ADD, OFPMF_PKTPS, 0, OFPMBT_DROP, 1000);
    client_refused(&c, &m, OFPET_METER_MOD_FAILED, OFPMMFC_INVALID_METER);
    msg_meter(&m, OFPMC_MODIFY, OFPMF_KBPS, 1, OFPMBT_DROP, 500);
    client_do(&c, &m);
    msg_flow_mod(&m, 77, &(struct flow_text){.in_port = 1, .flags = OFPFF_SEND_FLOW_REM});
    msg_u16(&m, OFPIT_METER);
    msg_u16(&m, 8);
    msg_u32(&m, 1);
    client_do(&c, &m);
    msg_meter(&m, OFPMC_DELETE, 0, OFPM_ALL, 0, 0);
    client_send(&c, &m);
    assert_int_equal(client_expect(&c, OFPT_FLOW_REMOVED, 0)[18], OFPRR_DELETE);
    assert_int_equal(c.w->noted.why, FLOW_GONE_METER);
    assert_int_equal(c.w->noted.last, OF_METER_DELETE);
    assert_int_equal(bridge_meter_count(c.w->rig.bridge), 0);
    client_close(&c);
}

/* ---- packet-outs ---- */

static void msg_packet_out(struct msg *m, uint32_t buffer, uint32_t in_port, uint32_t output, unsigned data)
{
    uint8_t f[128];
    msg_begin(m, OFPT_PACKET_OUT, 80);
    msg_u32(m, buffer);
    msg_u32(m, in_port);
    msg_u16(m, 16);
    msg_zeros(m, 6);
    msg_u16(m, OFPAT_OUTPUT);
    msg_u16(m, 16);
    msg_u32(m, output);
    msg_zeros(m, 8);
    frame_udp(f, B, A, "10.0.0.1", "10.0.0.2", 1000, 2000);
    msg_bytes(m, f, data);
}

static void packet_outs(void **state)
{
    struct client c;
    struct msg m;
    client_open_controller(&c, *state);
    msg_packet_out(&m, OFP_NO_BUFFER, OFPP_CONTROLLER, 3, 60);
    client_do(&c, &m);
    assert_int_equal(rig_got(&c.w->rig), 1u << 3);
    msg_packet_out(&m, OFP_NO_BUFFER, 1, OFPP_ALL, 60);
    client_do(&c, &m);
    assert_int_equal(rig_got(&c.w->rig), 1u << 2 | 1u << 3 | 1u << 4);
    client_do_flow(&c, &(struct flow_text){.in_port = 1, .output = 4});
    msg_packet_out(&m, OFP_NO_BUFFER, 1, OFPP_TABLE, 60);
    client_do(&c, &m);
    assert_int_equal(rig_got(&c.w->rig), 1u << 4);
    msg_packet_out(&m, OFP_NO_BUFFER, 1, OFPP_ANY, 60);
    client_refused(&c, &m, OFPET_BAD_ACTION, OFPBAC_BAD_OUT_PORT);
    msg_packet_out(&m, OFP_NO_BUFFER, 0, 1, 60);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_PORT);
    msg_packet_out(&m, OFP_NO_BUFFER, OFPP_FLOOD, 1, 60);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_PORT);
    msg_packet_out(&m, OFP_NO_BUFFER, 1, 2, 13);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_PACKET);
    msg_packet_out(&m, 12, 1, 2, 0);
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BUFFER_UNKNOWN);
    msg_packet_out(&m, OFP_NO_BUFFER, 1, 2, 0);
    m.at[17] = 24; /* longer actions than there are */
    client_refused(&c, &m, OFPET_BAD_REQUEST, OFPBRC_BAD_LEN);
    assert_int_equal(rig_got(&c.w->rig), 0);
    client_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(long_requests_take_turns, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(flow_commands, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(cookies, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(flow_errors, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(action_errors, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(groups, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(meters, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(packet_outs, world_setup, world_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
