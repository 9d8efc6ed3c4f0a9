/* SPDX-License-Identifier: Apache-2.0 */
/* Requests: what is taken, what is wrong with the others, and that nobody reads behind their end. */
#include "openflow/codec_test.h"

#include "openflow/codec_any.h"

/* Bodies of messages of a type; type OF_RIGHT: taken. */
static const struct {
    uint8_t message;
    const char *body;
    unsigned type, code;
} cases[] = {
    {OFPT_BARRIER_REQUEST, "", OF_RIGHT, 0},
    {OFPT_BARRIER_REQUEST, "00000000", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    {OFPT_FEATURES_REQUEST, "00", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    {OFPT_ERROR, "00010000", OFPET_BAD_REQUEST, OFPBRC_BAD_TYPE},
    {30, "", OFPET_BAD_REQUEST, OFPBRC_BAD_TYPE},
    {OFPT_EXPERIMENTER, "00002320 00000010", OFPET_BAD_REQUEST, OFPBRC_BAD_EXP_TYPE},
    {OFPT_EXPERIMENTER, "4f4e4600 00000000", OFPET_BAD_REQUEST, OFPBRC_BAD_EXPERIMENTER},
    {OFPT_EXPERIMENTER, "4f4e4600", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    {OFPT_SET_CONFIG, "0000 0080", OF_RIGHT, 0},
    {OFPT_SET_CONFIG, "0001 ffff", OF_RIGHT, 0},
    {OFPT_SET_CONFIG, "0002 0080", OFPET_SWITCH_CONFIG_FAILED, OFPSCFC_BAD_FLAGS},
    {OFPT_SET_CONFIG, "0003 0080", OFPET_SWITCH_CONFIG_FAILED, OFPSCFC_BAD_FLAGS},
    {OFPT_SET_CONFIG, "0004 0080", OFPET_SWITCH_CONFIG_FAILED, OFPSCFC_BAD_FLAGS},
    {OFPT_SET_CONFIG, "0000 00800000", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    /* port_mod, table_mod */
    {OFPT_PORT_MOD, "00000001 00000000 020000000001 0000 00000001 00000001 00000000 00000000", OF_RIGHT, 0},
    {OFPT_PORT_MOD, "00000001 00000000 020000000001 0000 00000001 00000001 00000000", OFPET_BAD_REQUEST,
     OFPBRC_BAD_LEN},
    {OFPT_PORT_MOD, "00000001 00000000 020000000001 0000 00000002 00000002 00000000 00000000", OFPET_PORT_MOD_FAILED,
     OFPPMFC_BAD_CONFIG},
    {OFPT_PORT_MOD, "00000001 00000000 020000000001 0000 00000000 00000080 00000000 00000000", OFPET_PORT_MOD_FAILED,
     OFPPMFC_BAD_CONFIG},
    {OFPT_PORT_MOD, "00000001 00000000 020000000001 0000 00000000 00000000 00010000 00000000", OFPET_PORT_MOD_FAILED,
     OFPPMFC_BAD_ADVERTISE},
    {OFPT_TABLE_MOD, "ff 000000 00000003", OF_RIGHT, 0},
    {OFPT_TABLE_MOD, "fd 000000 00000000", OF_RIGHT, 0},
    {OFPT_TABLE_MOD, "fe 000000 00000000", OFPET_TABLE_MOD_FAILED, OFPTMFC_BAD_TABLE},
    {OFPT_TABLE_MOD, "00 000000 00000004", OFPET_TABLE_MOD_FAILED, OFPTMFC_BAD_CONFIG},
    {OFPT_TABLE_MOD, "00 000000", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    /* role, async, queues */
    {OFPT_ROLE_REQUEST, "00000002 00000000 0000000000000001", OF_RIGHT, 0},
    {OFPT_ROLE_REQUEST, "00000004 00000000 0000000000000001", OFPET_ROLE_REQUEST_FAILED, OFPRRFC_BAD_ROLE},
    {OFPT_ROLE_REQUEST, "00000002 00000000", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    {OFPT_SET_ASYNC, "00000001 00000002 00000003 00000004 00000005 00000006", OF_RIGHT, 0},
    {OFPT_SET_ASYNC, "00000001 00000002", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    {OFPT_QUEUE_GET_CONFIG_REQUEST, "00000001 00000000", OF_RIGHT, 0},
    {OFPT_QUEUE_GET_CONFIG_REQUEST, "00000001", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
#define COOKIES "0000000000000001 0000000000000000 "
#define ANYWHERE "ffffffff ffffffff ffffffff "
#define NO_MATCH "0001 0004 00000000 "
    /* flow_mod: table, command, timeouts, priority, buffer and what was output, flags */
    {OFPT_FLOW_MOD, COOKIES "00 00 0000 0000 8000" ANYWHERE "001f 0000" NO_MATCH "0001 0008 07000000", OF_RIGHT, 0},
    {OFPT_FLOW_MOD, COOKIES "ff 03 0000 0000 8000" ANYWHERE "0000 0000" NO_MATCH, OF_RIGHT, 0},
    {OFPT_FLOW_MOD, COOKIES "ff 04 0000 0000 8000" ANYWHERE "0000 0000" NO_MATCH "dead", OF_RIGHT, 0},
    {OFPT_FLOW_MOD, COOKIES "ff 00 0000 0000 8000" ANYWHERE "0000 0000" NO_MATCH, OFPET_FLOW_MOD_FAILED,
     OFPFMFC_BAD_TABLE_ID},
    {OFPT_FLOW_MOD, COOKIES "ff 02 0000 0000 8000" ANYWHERE "0000 0000" NO_MATCH, OFPET_FLOW_MOD_FAILED,
     OFPFMFC_BAD_TABLE_ID},
    {OFPT_FLOW_MOD, COOKIES "fe 03 0000 0000 8000" ANYWHERE "0000 0000" NO_MATCH, OFPET_FLOW_MOD_FAILED,
     OFPFMFC_BAD_TABLE_ID},
    {OFPT_FLOW_MOD, COOKIES "00 05 0000 0000 8000" ANYWHERE "0000 0000" NO_MATCH, OFPET_FLOW_MOD_FAILED,
     OFPFMFC_BAD_COMMAND},
    {OFPT_FLOW_MOD, COOKIES "00 00 0000 0000 8000" ANYWHERE "0020 0000" NO_MATCH, OFPET_FLOW_MOD_FAILED,
     OFPFMFC_BAD_FLAGS},
    {OFPT_FLOW_MOD, COOKIES "00 00 0000 0000 8000" ANYWHERE "0000 0000" NO_MATCH "0001 0008", OFPET_BAD_INSTRUCTION,
     OFPBIC_BAD_LEN},
    {OFPT_FLOW_MOD,
     COOKIES "00 00 0000 0000 8000" ANYWHERE "0000 0000" NO_MATCH "0001 0008 07000000 0001 0008 07000000",
     OFPET_EXPERIMENTER, ONFERR_DUP_INSTRUCTION},
    {OFPT_FLOW_MOD, COOKIES "00 00 0000 0000 8000" ANYWHERE "0000 0000 0001 0004", OFPET_BAD_MATCH, OFPBMC_BAD_LEN},
    {OFPT_FLOW_MOD, COOKIES "00 00 0000 0000 8000" ANYWHERE, OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    /* packet_out: buffer, port, bytes of actions */
    {OFPT_PACKET_OUT, "ffffffff fffffffd 0010 000000000000 0000 0010 00000002 0000 000000000000 0102", OF_RIGHT, 0},
    {OFPT_PACKET_OUT, "00000001 00000001 0000 000000000000", OF_RIGHT, 0},
    {OFPT_PACKET_OUT, "ffffffff 00000000 0000 000000000000", OFPET_BAD_REQUEST, OFPBRC_BAD_PORT},
    {OFPT_PACKET_OUT, "ffffffff fffffffb 0000 000000000000", OFPET_BAD_REQUEST, OFPBRC_BAD_PORT},
    {OFPT_PACKET_OUT, "ffffffff 00000001 0008 000000000000", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    {OFPT_PACKET_OUT, "ffffffff 00000001 0004 000000000000 00120008 00000000", OFPET_BAD_ACTION, OFPBAC_BAD_LEN},
    {OFPT_PACKET_OUT, "ffffffff 00000001", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    /* group_mod: command, type, group; bucket: length, weight, what is watched */
    {OFPT_GROUP_MOD,
     "0000 01 00 00000005"
     "0020 0001 ffffffff ffffffff 00000000 0000 0010 00000002 ffe5 000000000000"
     "0010 0002 ffffffff ffffffff 00000000",
     OF_RIGHT, 0},
    {OFPT_GROUP_MOD, "0002 09 00 fffffffc 01", OF_RIGHT, 0},
    {OFPT_GROUP_MOD, "0003 00 00 00000005", OFPET_GROUP_MOD_FAILED, OFPGMFC_BAD_COMMAND},
    {OFPT_GROUP_MOD, "0000 04 00 00000005", OFPET_GROUP_MOD_FAILED, OFPGMFC_BAD_TYPE},
    {OFPT_GROUP_MOD, "0000 00 00 ffffff01", OFPET_GROUP_MOD_FAILED, OFPGMFC_INVALID_GROUP},
    {OFPT_GROUP_MOD, "0000 00 00 00000005 0008 0001 ffffffff ffffffff 00000000", OFPET_GROUP_MOD_FAILED,
     OFPGMFC_BAD_BUCKET},
    {OFPT_GROUP_MOD, "0000 00 00 00000005 0018 0001 ffffffff ffffffff 00000000", OFPET_GROUP_MOD_FAILED,
     OFPGMFC_BAD_BUCKET},
    {OFPT_GROUP_MOD, "0000 00 00 00000005 0014 0001 ffffffff ffffffff 00000000 00000000", OFPET_GROUP_MOD_FAILED,
     OFPGMFC_BAD_BUCKET},
    {OFPT_GROUP_MOD, "0000 00 00 00000005 0010", OFPET_GROUP_MOD_FAILED, OFPGMFC_BAD_BUCKET},
    {OFPT_GROUP_MOD, "0000 00 00 00000005 0018 0001 ffffffff ffffffff 00000000 0001 0008 00000000", OFPET_BAD_ACTION,
     OFPBAC_BAD_TYPE},
    {OFPT_GROUP_MOD, "0000 00 00", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    /* meter_mod: command, flags, meter; band: type, length, rate, burst */
    {OFPT_METER_MOD,
     "0000 0001 00000005"
     "0001 0010 00000064 00000000 00000000"
     "0002 0010 00000064 00000000 01 000000",
     OF_RIGHT, 0},
    {OFPT_METER_MOD, "0002 0000 ffffffff 0007", OF_RIGHT, 0},
    {OFPT_METER_MOD, "0003 0000 00000005", OFPET_METER_MOD_FAILED, OFPMMFC_BAD_COMMAND},
    {OFPT_METER_MOD, "0000 0000 00000005 0003 0010 00000064 00000000 00000000", OFPET_METER_MOD_FAILED,
     OFPMMFC_BAD_BAND},
    {OFPT_METER_MOD, "0000 0000 00000005 ffff 0010 00000064 00000000 00002320", OFPET_METER_MOD_FAILED,
     OFPMMFC_BAD_BAND},
    {OFPT_METER_MOD, "0000 0000 00000005 0001 0018 00000064 00000000 00000000 00000000 00000000", OFPET_BAD_REQUEST,
     OFPBRC_BAD_LEN},
    {OFPT_METER_MOD, "0000 0000 00000005 0001 0010", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    {OFPT_METER_MOD, "0000 0000", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    /* multipart: type, flags */
    {OFPT_MULTIPART_REQUEST, "0000 0000 00000000", OF_RIGHT, 0},
    {OFPT_MULTIPART_REQUEST, "0000 0000 00000000 00", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    {OFPT_MULTIPART_REQUEST, "0000 0000", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    {OFPT_MULTIPART_REQUEST, "000e 0000 00000000", OFPET_BAD_REQUEST, OFPBRC_BAD_MULTIPART},
    {OFPT_MULTIPART_REQUEST, "ffff 0000 00000000 00002320 00000000", OFPET_BAD_REQUEST, OFPBRC_BAD_EXPERIMENTER},
    {OFPT_MULTIPART_REQUEST, "0001 0000 00000000 ff 000000 ffffffff ffffffff 00000000" COOKIES NO_MATCH, OF_RIGHT, 0},
    {OFPT_MULTIPART_REQUEST, "0002 0000 00000000 fe 000000 ffffffff ffffffff 00000000" COOKIES NO_MATCH,
     OFPET_BAD_REQUEST, OFPBRC_BAD_TABLE_ID},
    {OFPT_MULTIPART_REQUEST, "0001 0000 00000000 ff 000000 ffffffff ffffffff 00000000" COOKIES NO_MATCH "00",
     OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    {OFPT_MULTIPART_REQUEST, "0001 0000 00000000 ff 000000 ffffffff ffffffff 00000000" COOKIES, OFPET_BAD_REQUEST,
     OFPBRC_BAD_LEN},
    {OFPT_MULTIPART_REQUEST, "0003 0000 00000000", OF_RIGHT, 0},
    {OFPT_MULTIPART_REQUEST, "0004 0000 00000000 ffffffff 00000000", OF_RIGHT, 0},
    {OFPT_MULTIPART_REQUEST, "0004 0000 00000000 ffffffff", OFPET_BAD_REQUEST, OFPBRC_BAD_LEN},
    {OFPT_MULTIPART_REQUEST, "0005 0000 00000000 ffffffff ffffffff", OF_RIGHT, 0},
    {OFPT_MULTIPART_REQUEST, "0006 0000 00000000 fffffffc 00000000", OF_RIGHT, 0},
    {OFPT_MULTIPART_REQUEST, "0009 0000 00000000 ffffffff 00000000", OF_RIGHT, 0},
    {OFPT_MULTIPART_REQUEST, "000a 0000 00000000 ffffffff 00000000", OF_RIGHT, 0},
    {OFPT_MULTIPART_REQUEST, "000c 0001 00000000", OF_RIGHT, 0},
    {OFPT_MULTIPART_REQUEST, "000c 0000 00000000 0040 00 00", OFPET_TABLE_FEATURES_FAILED, OFPTFFC_BAD_LEN},
    {OFPT_MULTIPART_REQUEST, "000d 0000 00000000", OF_RIGHT, 0},
};

static struct bytes message_of(uint8_t type, const char *hex)
{
    struct bytes body = bytes_of_hex(hex);
    struct of_out o;
    of_out_init(&o);
    of_out_begin(&o, type, 9);
    of_out_put_bytes(&o, body.at, body.count);
    assert_true(of_out_end(&o));
    free(body.at);
    return bytes_taken(&o);
}

static void what_is_wrong_has_its_code(void **state)
{
    for (unsigned i = 0; i < COUNT(cases); i++) {
        struct bytes b = message_of(cases[i].message, cases[i].body);
        struct of_msg m = msg_of(&b);
        struct of_error e = {.type = OF_RIGHT};
        int ret = decode_any(&m, &e);
        if (ret != (cases[i].type == OF_RIGHT ? 0 : -EINVAL)) fail_msg("%s: %d, %s", cases[i].body, ret, e.text);
        if (e.type != cases[i].type || (ret && e.code != cases[i].code))
            fail_msg("%u, %s: %u, %u (%s)", cases[i].message, cases[i].body, e.type, e.code, e.text);
        free(b.at);
    }
}

/* Cut off anywhere, and with any byte changed. */
static void nobody_reads_behind_the_end(void **state)
{
    for (unsigned i = 0; i < COUNT(cases); i++) {
        struct bytes b = message_of(cases[i].message, cases[i].body);
        struct of_error e;
        for (size_t n = 8; n < b.count; n++) {
            struct bytes cut = bytes_copy(b.at, n);
            struct of_msg m = msg_of(&cut);
            decode_any(&m, &e);
            free(cut.at);
        }
        for (size_t n = 8; n < b.count; n++)
            for (unsigned value = 0; value < 256; value += value < 32 ? 1 : 31) {
                uint8_t was = b.at[n];
                struct of_msg m = msg_of(&b);
                b.at[n] = (uint8_t)value;
                decode_any(&m, &e);
                b.at[n] = was;
            }
        free(b.at);
    }
}

/* ---- what they say ---- */

static void a_flow_mod_says_what_its_command_needs(void **state)
{
    static const char hex[] = "0000000000000001 00000000000000ff 03 %02x 0005 0006 0007 00000009 0000000a 0000000b"
                              "0001 0000" NO_MATCH "0001 0008 07000000";
    for (unsigned command = 0; command <= OFPFC_DELETE_STRICT; command++) {
        char text[256];
        struct of_flow_mod f;
        struct of_error e;
        snprintf(text, sizeof text, hex, command);
        struct bytes b = message_of(OFPT_FLOW_MOD, text);
        struct of_msg m = msg_of(&b);
        assert_int_equal(of_get_flow_mod(&m, &f, &e), 0);
        bool delete = command >= OFPFC_DELETE;
        assert_int_equal(f.command, command);
        assert_int_equal(f.buffer_id, 9);
        assert_int_equal(f.flow.table, 3);
        assert_int_equal(f.flow.idle_timeout_s, 5);
        assert_int_equal(f.flow.hard_timeout_s, 6);
        assert_int_equal(f.flow.priority, 7);
        assert_int_equal(f.flow.cookie, 1);
        assert_int_equal(f.flow.cookie_mask, command == OFPFC_ADD ? 0 : 0xff);
        assert_int_equal(f.flow.out_port, delete ? 10 : SWITCH_PORT_ANY);
        assert_int_equal(f.flow.out_group, delete ? 11 : SWITCH_GROUP_ANY);
        assert_int_equal(f.flow.instructions.has_goto, !delete);
        instructions_clear(&f.flow.instructions);
        free(b.at);
    }
}

static void groups_and_meters_say_all(void **state)
{
    struct bytes b =
        message_of(OFPT_GROUP_MOD, "0001 03 00 00000005"
                                   "0020 0007 00000002 00000003 00000000 0000 0010 00000002 ffe5 000000000000"
                                   "0010 0000 ffffffff ffffffff 00000000");
    struct of_msg m = msg_of(&b);
    struct of_group_mod g;
    struct of_error e;
    assert_int_equal(of_get_group_mod(&m, &g, &e), 0);
    assert_int_equal(g.command, OFPGC_MODIFY);
    assert_int_equal(g.group.type, GROUP_FAST_FAILOVER);
    assert_int_equal(g.group.id, 5);
    assert_int_equal(g.group.count, 2);
    assert_int_equal(g.group.buckets[0].weight, 7);
    assert_int_equal(g.group.buckets[0].watch_port, 2);
    assert_int_equal(g.group.buckets[0].watch_group, 3);
    assert_int_equal(g.group.buckets[0].actions.count, 1);
    assert_int_equal(g.group.buckets[1].watch_port, SWITCH_PORT_ANY);
    group_mod_clear(&g);
    free(b.at);
    b = message_of(OFPT_METER_MOD, "0000 000d 00000005 0001 0010 00000064 00000007 ff000000"
                                   "0002 0010 00000065 00000008 02 000000");
    m = msg_of(&b);
    struct of_meter_mod meter;
    assert_int_equal(of_get_meter_mod(&m, &meter, &e), 0);
    assert_int_equal(meter.meter.flags, METER_KBPS | METER_BURST | METER_STATS);
    assert_int_equal(meter.meter.count, 2);
    assert_int_equal(meter.meter.bands[0].rate, 100);
    assert_int_equal(meter.meter.bands[0].burst, 7);
    assert_int_equal(meter.meter.bands[0].prec_level, 0);
    assert_int_equal(meter.meter.bands[1].type, METER_DSCP_REMARK);
    assert_int_equal(meter.meter.bands[1].prec_level, 2);
    free(b.at);
}

static void there_are_limits(void **state)
{
    struct of_out o;
    struct of_error e;
    struct of_group_mod g;
    struct of_meter_mod meter;
    of_out_init(&o);
    of_out_begin(&o, OFPT_GROUP_MOD, 0);
    of_out_put(&o, sizeof(struct ofp_group_mod));
    for (unsigned i = 0; i <= GROUP_BUCKETS_MAX; i++) {
        struct ofp_bucket bucket = {.len = be16_make(sizeof bucket)};
        of_out_put_bytes(&o, &bucket, sizeof bucket);
    }
    assert_true(of_out_end(&o));
    struct bytes b = bytes_taken(&o);
    struct of_msg m = msg_of(&b);
    assert_int_equal(of_get_group_mod(&m, &g, &e), -EINVAL);
    assert_int_equal(e.code, OFPGMFC_OUT_OF_BUCKETS);
    m.bytes -= sizeof(struct ofp_bucket);
    assert_int_equal(of_get_group_mod(&m, &g, &e), 0);
    assert_int_equal(g.group.count, GROUP_BUCKETS_MAX);
    group_mod_clear(&g);
    free(b.at);
    of_out_begin(&o, OFPT_METER_MOD, 0);
    of_out_put(&o, sizeof(struct ofp_meter_mod));
    for (unsigned i = 0; i <= METER_BANDS_MAX; i++) {
        struct ofp_meter_band band = {.type = be16_make(OFPMBT_DROP), .len = be16_make(sizeof band)};
        of_out_put_bytes(&o, &band, sizeof band);
    }
    assert_true(of_out_end(&o));
    b = bytes_taken(&o);
    m = msg_of(&b);
    assert_int_equal(of_get_meter_mod(&m, &meter, &e), -EINVAL);
    assert_int_equal(e.code, OFPMMFC_OUT_OF_BANDS);
    free(b.at);
}

static void a_packet_out_has_its_data_or_a_buffer(void **state)
{
    struct bytes b = message_of(OFPT_PACKET_OUT, "ffffffff 00000003 0008 000000000000 0012 0008 00000000 010203");
    struct of_msg m = msg_of(&b);
    struct of_packet_out p;
    struct of_error e;
    assert_int_equal(of_get_packet_out(&m, &p, &e), 0);
    assert_int_equal(p.in_port, 3);
    assert_int_equal(p.actions.count, 1);
    assert_int_equal(p.data_bytes, 3);
    assert_memory_equal(p.data, "\1\2\3", 3);
    of_actions_clear(&p.actions);
    free(b.at);
    b = message_of(OFPT_PACKET_OUT, "00000007 00000003 0000 000000000000 010203");
    m = msg_of(&b);
    assert_int_equal(of_get_packet_out(&m, &p, &e), 0);
    assert_int_equal(p.buffer_id, 7);
    assert_int_equal(p.data_bytes, 0);
    free(b.at);
}

static void hellos_say_versions(void **state)
{
    static const struct {
        const char *hex;
        uint32_t versions;
    } hellos[] = {
        {"04 00 0008 00000000", 0x1e},
        {"01 00 0008 00000000", 0x02},
        {"05 00 0008 00000000", 0x3e},
        {"ff 00 0008 00000000", 0xfffffffe},
        {"06 00 0010 00000000 0001 0008 00000010", 0x10},
        {"06 00 0010 00000000 0001 0008 00000042", 0x42},
        {"06 00 0018 00000000 0007 0006 00000000 0001 0008 00000010", 0x10}, /* an unknown element */
        {"04 00 0018 00000000 0001 000c 00000010 00000001 00000000", 0x10},
        {"04 00 000c 00000000 0001 0004", 0x1e}, /* an empty bitmap */
        {"04 00 0010 00000000 0001 0010 00000002", 0x1e},
        {"04 00 0010 00000000 0001 0003 00000002", 0x1e},
        {"04 00 000a 00000000 0001", 0x1e},
    };
    for (unsigned i = 0; i < COUNT(hellos); i++) {
        struct bytes b = bytes_of_hex(hellos[i].hex);
        struct of_error e;
        uint32_t versions = 0;
        assert_int_equal(of_get_hello(b.at, b.count, &versions, &e), 0);
        assert_int_equal(versions, hellos[i].versions);
        free(b.at);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_wrong_has_its_code),
        cmocka_unit_test(nobody_reads_behind_the_end),
        cmocka_unit_test(a_flow_mod_says_what_its_command_needs),
        cmocka_unit_test(groups_and_meters_say_all),
        cmocka_unit_test(there_are_limits),
        cmocka_unit_test(a_packet_out_has_its_data_or_a_buffer),
        cmocka_unit_test(hellos_say_versions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
