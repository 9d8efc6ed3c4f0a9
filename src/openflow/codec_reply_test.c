/* SPDX-License-Identifier: Apache-2.0 */
/* Answers and events, byte by byte; long answers in parts; errors by their names. */
#include "openflow/codec_test.h"
#include "port/port.h"

static struct of_out out;

static void check_out(const char *hex)
{
    struct bytes is = bytes_taken(&out), expected = bytes_of_hex(hex);
    if (is.count != expected.count || memcmp(is.at, expected.at, is.count)) {
        for (size_t i = 0; i < is.count; i++)
            print_error("%02x", is.at[i]);
        fail_msg(" is not %s", hex);
    }
    free(is.at);
    free(expected.at);
}

static void answers_are_laid_out_as_specified(void **state)
{
    assert_true(of_put_hello(&out, 1));
    check_out("04 00 0010 00000001 0001 0008 00000010");
    assert_true(of_reply_empty(&out, OFPT_BARRIER_REPLY, 2));
    check_out("04 15 0008 00000002");
    assert_true(of_reply_features(&out, 3, &(struct of_features){.datapath_id = 5, .buffers = 256, .tables = 254}));
    check_out("04 06 0020 00000003 0000000000000005 00000100 fe 00 0000 0000000f 00000000");
    assert_true(of_reply_config(&out, 4, &(struct of_config){1, 128}));
    check_out("04 08 000c 00000004 0001 0080");
    assert_true(of_reply_role(&out, 5, &(struct of_role){OFPCR_ROLE_MASTER, 7}));
    check_out("04 19 0018 00000005 00000002 00000000 0000000000000007");
    assert_true(of_reply_async(&out, 6, &(struct of_async){{1, 2}, {3, 4}, {5, 6}}));
    check_out("04 1b 0020 00000006 00000001 00000002 00000003 00000004 00000005 00000006");
    assert_true(of_reply_queue_config(&out, 7, 3));
    check_out("04 17 0010 00000007 00000003 00000000");
}

#define PORT "00000003 00000000 020000000001 0000 74617030000000000000000000000000 00000020 00000004 "
#define NO_SPEEDS "00000000 00000000 00000000 00000000 00000000 00000000"

static void ports_are_described(void **state)
{
    const struct switch_port_info p = {.number = 3,
                                       .name = "tap0",
                                       .mac = {2, 0, 0, 0, 0, 1},
                                       .config = OFPPC_NO_FWD,
                                       .state = OFPPS_LIVE,
                                       .duration_ns = 5000000006};
    const struct port_stats s = {.in_packets = 1,
                                 .in_bytes = 2,
                                 .in_dropped = 3,
                                 .in_errors = 4,
                                 .out_packets = 5,
                                 .out_bytes = 6,
                                 .out_dropped = 7,
                                 .out_errors = 8};
    assert_true(of_put_port_status(&out, PORT_EVENT_DELETE, &p));
    check_out("04 0c 0050 00000000 01 00000000000000" PORT NO_SPEEDS);
    of_multipart_begin(&out, OFPMP_PORT_DESC, 9);
    of_put_port(&out, &p);
    assert_true(of_multipart_end(&out, false));
    check_out("04 13 0050 00000009 000d 0000 00000000" PORT NO_SPEEDS);
    of_multipart_begin(&out, OFPMP_PORT_STATS, 9);
    of_put_port_stats(&out, &p, &s);
    assert_true(of_multipart_end(&out, true));
    check_out("04 13 0080 00000009 0004 0001 00000000 00000003 00000000"
              "0000000000000001 0000000000000005 0000000000000002 0000000000000006"
              "0000000000000003 0000000000000007 0000000000000004 0000000000000008"
              "ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff 00000005 00000006");
}

static void long_names_are_cut(void **state)
{
    const struct switch_port_info p = {.number = 1, .name = "a name of more than 15 bytes"};
    const struct ofp_port *port;
    of_multipart_begin(&out, OFPMP_PORT_DESC, 9);
    of_put_port(&out, &p);
    assert_true(of_multipart_end(&out, false));
    port = (const void *)(out.bytes + 16);
    assert_memory_equal(port->name, "a name of more \0", OFP_MAX_PORT_NAME_LEN);
    of_out_clear(&out);
    char long_name[400];
    memset(long_name, 'x', sizeof long_name);
    long_name[sizeof long_name - 1] = 0;
    of_multipart_begin(&out, OFPMP_DESC, 9);
    of_put_desc(&out, &(struct of_desc){.manufacturer = long_name, .serial = long_name, .datapath = "dp"});
    assert_true(of_multipart_end(&out, false));
    const struct ofp_desc *d = (const void *)(out.bytes + 16);
    assert_int_equal(out.count, 16 + 1056);
    assert_int_equal(strnlen(d->mfr_desc, DESC_STR_LEN), DESC_STR_LEN - 1);
    assert_int_equal(strnlen(d->serial_num, SERIAL_NUM_LEN), SERIAL_NUM_LEN - 1);
    assert_string_equal(d->dp_desc, "dp");
    assert_string_equal(d->hw_desc, "");
    of_out_clear(&out);
}

static void tables_groups_and_meters_are_counted(void **state)
{
    struct action a = {.type = ACTION_OUTPUT, .output = {.port = 2, .max_len = 0xffe5}};
    struct group_bucket buckets[] = {{3, SWITCH_PORT_ANY, SWITCH_GROUP_ANY, {1, &a}}, {4, 5, 6, {0, NULL}}};
    const struct group_spec g = {.id = 9, .type = GROUP_SELECT, .count = 2, .buckets = buckets};
    const struct group_bucket_stats counts[] = {{1, 2}, {3, 4}};
    const struct meter_spec m = {.id = 4,
                                 .flags = METER_KBPS | METER_STATS,
                                 .count = 2,
                                 .bands = {{METER_DROP, 5, 0, 0}, {METER_DSCP_REMARK, 7, 8, 1}}};
    of_multipart_begin(&out, OFPMP_TABLE, 9);
    of_put_table_stats(&out, 3, &(struct table_stats){1, 2, 3});
    assert_true(of_multipart_end(&out, false));
    check_out("04 13 0028 00000009 0003 0000 00000000 03 000000 00000001 0000000000000002 0000000000000003");
    of_multipart_begin(&out, OFPMP_AGGREGATE, 9);
    of_put_aggregate(&out, 1, 2, 3);
    assert_true(of_multipart_end(&out, false));
    check_out("04 13 0028 00000009 0002 0000 00000000 0000000000000001 0000000000000002 00000003 00000000");
    of_multipart_begin(&out, OFPMP_GROUP, 9);
    of_put_group_stats(&out, &g, &(struct group_stats){1, 4, 6, 1500000000, counts});
    assert_true(of_multipart_end(&out, false));
    check_out("04 13 0058 00000009 0006 0000 00000000 0048 0000 00000009 00000001 00000000"
              "0000000000000004 0000000000000006 00000001 1dcd6500"
              "0000000000000001 0000000000000002 0000000000000003 0000000000000004");
    of_multipart_begin(&out, OFPMP_GROUP_DESC, 9);
    of_put_group_desc(&out, &g);
    assert_true(of_multipart_end(&out, false));
    check_out("04 13 0048 00000009 0007 0000 00000000 0038 01 00 00000009"
              "0020 0003 ffffffff ffffffff 00000000 0000 0010 00000002 ffe5 000000000000"
              "0010 0004 00000005 00000006 00000000");
    of_multipart_begin(&out, OFPMP_METER, 9);
    of_put_meter_stats(&out, &m,
                       &(struct meter_stats){
                           .flows = 1, .packets = 2, .bytes = 3, .duration_ns = 4000000005, .bands = {{5, 6}, {7, 8}}});
    assert_true(of_multipart_end(&out, false));
    check_out("04 13 0058 00000009 0009 0000 00000000 00000004 0048 000000000000 00000001"
              "0000000000000002 0000000000000003 00000004 00000005"
              "0000000000000005 0000000000000006 0000000000000007 0000000000000008");
    of_multipart_begin(&out, OFPMP_METER_CONFIG, 9);
    of_put_meter_config(&out, &m);
    assert_true(of_multipart_end(&out, false));
    check_out("04 13 0038 00000009 000a 0000 00000000 0028 0009 00000004"
              "0001 0010 00000005 00000000 00000000 0002 0010 00000007 00000008 01000000");
}

static void events_are_told(void **state)
{
    struct flow_spec f = {.table = 3, .priority = 5, .idle_timeout_s = 6, .hard_timeout_s = 7, .cookie = 8};
    const struct flow_stats s = {.packets = 1, .bytes = 2, .duration_ns = 3000000004};
    struct of_packet_in p = {.buffer_id = OFP_NO_BUFFER,
                             .total_bytes = 64,
                             .reason = OFPR_ACTION,
                             .table = 2,
                             .cookie = 5,
                             .data = (const uint8_t *)"\1\2\3",
                             .data_bytes = 3};
    f.match.key.in_port = p.match.key.in_port = be32_make(3);
    f.match.mask.in_port = p.match.mask.in_port = be32_make(UINT32_MAX);
    assert_true(of_put_flow_removed(&out, &f, &s, FLOW_GONE_HARD));
    check_out("04 0b 0040 00000000 0000000000000008 0005 01 03 00000003 00000004 0006 0007"
              "0000000000000001 0000000000000002 0001 000c 80000004 00000003 00000000");
    assert_true(of_put_packet_in(&out, &p));
    check_out("04 0a 002d 00000000 ffffffff 0040 01 02 0000000000000005"
              "0001 000c 80000004 00000003 00000000 0000 010203");
    assert_int_equal(of_reason_of_gone(FLOW_GONE_IDLE), OFPRR_IDLE_TIMEOUT);
    assert_int_equal(of_reason_of_gone(FLOW_GONE_DELETED), OFPRR_DELETE);
    assert_int_equal(of_reason_of_gone(FLOW_GONE_GROUP), OFPRR_GROUP_DELETE);
    assert_int_equal(of_reason_of_gone(FLOW_GONE_METER), OFPRR_DELETE);
    p.data = calloc(1, UINT16_MAX);
    p.data_bytes = UINT16_MAX;
    assert_false(of_put_packet_in(&out, &p));
    assert_int_equal(out.count, 0);
    free((void *)(uintptr_t)p.data);
    of_out_clear(&out);
}

/* ---- parts ---- */

static void long_answers_come_in_parts(void **state)
{
    const struct flow_stats s = {0};
    struct flow_spec f = {0};
    unsigned entries = 0, parts = 0, more = 0;
    assert_true(of_reply_empty(&out, OFPT_BARRIER_REPLY, 1));
    of_multipart_begin(&out, OFPMP_FLOW, 77);
    for (unsigned i = 0; i < 5000; i++) {
        f.cookie = i;
        of_put_flow_stats(&out, &f, &s);
    }
    assert_true(of_multipart_end(&out, false));
    struct bytes b = bytes_taken(&out);
    for (size_t at = 8, length; at < b.count; at += length) {
        struct {
            struct ofp_header h;
            struct ofp_multipart m;
        } head;
        memcpy(&head, b.at + at, sizeof head);
        length = be16_get(head.h.length);
        assert_true(length > sizeof head && length <= b.count - at);
        assert_int_equal(head.h.type, OFPT_MULTIPART_REPLY);
        assert_int_equal(be32_get(head.h.xid), 77);
        assert_int_equal(be16_get(head.m.type), OFPMP_FLOW);
        assert_int_equal(be16_get(head.m.flags), at + length < b.count);
        parts++;
        more += be16_get(head.m.flags);
        for (size_t e = at + sizeof head; e < at + length; e += 56) {
            struct ofp_flow_stats w;
            memcpy(&w, b.at + e, sizeof w);
            assert_int_equal(be16_get(w.length), 56);
            assert_int_equal(be64_get(w.cookie), entries);
            entries++;
        }
    }
    assert_int_equal(entries, 5000);
    assert_int_equal(parts, 5);
    assert_int_equal(more, 4);
    free(b.at);
}

/* 1,024 buckets of 128 actions do not go into one message, and there is no other way. */
static void an_entry_that_is_too_long_fails(void **state)
{
    struct action actions[ACTIONS_MAX] = {{.type = ACTION_POP_VLAN}};
    static struct group_bucket buckets[GROUP_BUCKETS_MAX];
    struct group_spec g = {.id = 1, .count = GROUP_BUCKETS_MAX, .buckets = buckets};
    for (unsigned i = 0; i < GROUP_BUCKETS_MAX; i++)
        buckets[i].actions = (struct action_list){ACTIONS_MAX, actions};
    of_multipart_begin(&out, OFPMP_GROUP_DESC, 1);
    of_put_group_desc(&out, &g);
    assert_false(of_multipart_end(&out, false));
    of_out_clear(&out);
}

/* ---- table features ---- */

static struct bytes features_of(unsigned tables)
{
    of_multipart_begin(&out, OFPMP_TABLE_FEATURES, 1);
    for (unsigned i = 0; i < tables; i++)
        of_put_table_features(&out, (uint8_t)(SWITCH_TABLES - tables + i), "a table", 3, 1000);
    assert_true(of_multipart_end(&out, false));
    struct bytes whole = bytes_taken(&out);
    assert_true(whole.count > 16);
    struct bytes b = bytes_copy(whole.at + 16, whole.count > 16 ? whole.count - 16 : 0);
    free(whole.at);
    return b;
}

static int read_features(const struct bytes *b, struct of_table_features *t, struct of_error *e)
{
    const uint8_t *at = b->at;
    size_t left = b->count;
    int ret;
    unsigned n = 0;
    while ((ret = of_get_table_features(&at, &left, t, e)) > 0)
        n++;
    return ret ? ret : (int)n;
}

static void our_own_table_features_are_the_same(void **state)
{
    struct bytes b = features_of(20);
    struct of_table_features t;
    struct of_error e;
    assert_int_equal(read_features(&b, &t, &e), 20);
    assert_true(t.same);
    assert_int_equal(t.table, SWITCH_TABLES - 1);
    assert_string_equal(t.name, "a table");
    assert_int_equal(t.max_entries, 1000);
    assert_int_equal(t.config, 3);
    free(b.at);
}

static void other_table_features_are_seen(void **state)
{
    static const struct {
        size_t at;
        uint8_t value;
        int ret; /* 1: it is taken */
        unsigned code;
    } changes[] = {
        {0, 0xff, -EINVAL, OFPTFFC_BAD_LEN},     /* length */
        {1, 8, -EINVAL, OFPTFFC_BAD_LEN},        /* too short for what is in it */
        {2, 254, -EINVAL, OFPTFFC_BAD_TABLE},    /* table */
        {40, 0, 1, 0},                           /* metadata_match */
        {59, 4, -EINVAL, OFPTFFC_BAD_ARGUMENT},  /* config */
        {64, 1, -EINVAL, OFPTFFC_BAD_TYPE},      /* the first property's type: instructions */
        {65, 9, -EINVAL, OFPTFFC_BAD_TYPE},      /* no such property */
        {65, 16, -EINVAL, OFPTFFC_BAD_TYPE},     /* none either */
        {65, 8, -EINVAL, OFPTFFC_BAD_ARGUMENT},  /* fields: these are none */
        {66, 0xff, -EINVAL, OFPTFFC_BAD_LEN},    /* its length */
        {67, 3, -EINVAL, OFPTFFC_BAD_LEN},       /* its length */
        {69, 1, -EINVAL, OFPTFFC_BAD_ARGUMENT},  /* goto_table in the last table */
        {69, 3, 1, 0},                           /* write_metadata is missing, write_actions is there twice */
        {69, 32, -EINVAL, OFPTFFC_BAD_ARGUMENT}, /* no such instruction */
        {71, 8, -EINVAL, OFPTFFC_BAD_ARGUMENT},  /* its length */
    };
    for (unsigned i = 0; i < COUNT(changes); i++) {
        struct bytes b = features_of(1);
        struct of_table_features t = {0};
        struct of_error e = {0};
        b.at[changes[i].at] = changes[i].value;
        int ret = read_features(&b, &t, &e);
        if (ret != changes[i].ret || (ret < 0 && (e.type != OFPET_TABLE_FEATURES_FAILED || e.code != changes[i].code)))
            fail_msg("byte %zu: %d, %u, %u (%s)", changes[i].at, ret, e.type, e.code, e.text);
        if (ret > 0) assert_false(t.same);
        free(b.at);
    }
}

static void table_features_without_properties_change_a_name(void **state)
{
    struct bytes b = features_of(1);
    struct of_table_features t;
    struct of_error e;
    b.count = 64;
    b.at[0] = 0;
    b.at[1] = 64;
    b.at[8] = 'A';
    assert_int_equal(read_features(&b, &t, &e), 1);
    assert_true(t.same);
    assert_string_equal(t.name, "A table");
    memset(b.at + 8, 'x', 32);
    assert_int_equal(read_features(&b, &t, &e), 1);
    assert_int_equal(strlen(t.name), 32);
    free(b.at);
    b = features_of(1);
    for (size_t n = 1; n < b.count; n++) { /* cut off anywhere */
        struct bytes cut = bytes_copy(b.at, n);
        assert_int_equal(read_features(&cut, &t, &e), -EINVAL);
        if (n > 64) {
            cut.at[0] = (uint8_t)(n >> 8);
            cut.at[1] = (uint8_t)n;
            read_features(&cut, &t, &e);
        }
        free(cut.at);
    }
    free(b.at);
}

/* ---- errors ---- */

static void errors_quote_what_failed(void **state)
{
    struct of_error e;
    struct bytes m = bytes_of_hex("04 12 0010 00000007 0063 0000 00000000"), big = bytes_copy(NULL, 0);
    assert_int_equal(of_wrong(&e, OFPET_BAD_REQUEST, OFPBRC_BAD_MULTIPART, "multipart request %u", 99), -EINVAL);
    assert_true(of_put_error(&out, m.at, m.count, &e));
    check_out("04 01 001c 00000007 0001 0002 04 12 0010 00000007 0063 0000 00000000");
    of_wrong(&e, OFPET_EXPERIMENTER, ONFERR_DUP_INSTRUCTION, "twice");
    assert_true(of_put_error(&out, m.at, 8, &e));
    check_out("04 01 0018 00000007 ffff 0a28 4f4e4600 04 12 0010 00000007");
    of_wrong(&e, OFPET_HELLO_FAILED, OFPHFC_INCOMPATIBLE, "1.3");
    assert_true(of_put_error(&out, m.at, m.count, &e));
    check_out("04 01 000f 00000007 0000 0000 312e33");
    of_wrong(&e, OFPET_BAD_REQUEST, OFPBRC_BAD_VERSION, "x");
    assert_true(of_put_error(&out, NULL, 0, &e));
    check_out("04 01 000c 00000000 0001 0000");
    free(big.at);
    big = (struct bytes){calloc(1, 1000), 1000};
    assert_true(of_put_error(&out, big.at, big.count, &e));
    assert_int_equal(out.count, 12 + 128);
    of_out_clear(&out);
    free(big.at);
    free(m.at);
}

static void what_the_switch_says_has_openflows_names(void **state)
{
    static const struct {
        enum flow_wrong why;
        unsigned type, code;
    } flows[] = {
        {FLOW_BAD_TABLE_ID, 5, 2},  {FLOW_BAD_FLAGS, 5, 7},         {FLOW_BAD_FIELD, 4, 6},
        {FLOW_BAD_VALUE, 4, 7},     {FLOW_BAD_MASK, 4, 8},          {FLOW_BAD_WILDCARDS, 4, 5},
        {FLOW_BAD_PREREQ, 4, 9},    {FLOW_BAD_GOTO, 3, 2},          {FLOW_BAD_INSTRUCTION, 3, 1},
        {FLOW_BAD_METADATA, 3, 4},  {FLOW_BAD_METER, 12, 3},        {FLOW_BAD_OUT_PORT, 2, 4},
        {FLOW_BAD_OUT_GROUP, 2, 9}, {FLOW_BAD_ACTION, 2, 0},        {FLOW_BAD_ARGUMENT, 2, 5},
        {FLOW_BAD_SET_TYPE, 2, 13}, {FLOW_BAD_SET_ARGUMENT, 2, 15}, {FLOW_BAD_MATCH_INCONSISTENT, 2, 10},
        {FLOW_TOO_MANY, 2, 7},      {FLOW_OVERLAP, 5, 3},           {FLOW_TABLE_FULL, 5, 1},
        {FLOW_RIGHT, 5, 0},
    };
    struct of_error e;
    for (unsigned i = 0; i < COUNT(flows); i++) {
        of_error_of_flow(flows[i].why, "why", &e);
        assert_int_equal(e.type, flows[i].type);
        assert_int_equal(e.code, flows[i].code);
        assert_string_equal(e.text, "why");
    }
    static const uint8_t groups[] = {[GROUP_EXISTS] = 0,
                                     [GROUP_INVALID] = 1,
                                     [GROUP_OUT_OF_GROUPS] = 3,
                                     [GROUP_OUT_OF_BUCKETS] = 4,
                                     [GROUP_CHAINING_UNSUPPORTED] = 5,
                                     [GROUP_WATCH_UNSUPPORTED] = 6,
                                     [GROUP_LOOP] = 7,
                                     [GROUP_UNKNOWN] = 8,
                                     [GROUP_CHAINED] = 9,
                                     [GROUP_BAD_TYPE] = 10,
                                     [GROUP_BAD_BUCKET] = 12,
                                     [GROUP_BAD_WATCH] = 13};
    for (unsigned i = GROUP_EXISTS; i < COUNT(groups); i++) {
        of_error_of_group(&(struct group_why){.wrong = i}, "why", &e);
        assert_int_equal(e.type, OFPET_GROUP_MOD_FAILED);
        assert_int_equal(e.code, groups[i]);
    }
    of_error_of_group(&(struct group_why){.wrong = GROUP_BAD_ACTION, .flow_wrong = FLOW_BAD_OUT_PORT}, "why", &e);
    assert_int_equal(e.type, OFPET_BAD_ACTION);
    assert_int_equal(e.code, OFPBAC_BAD_OUT_PORT);
    static const uint8_t meters[] = {
        [METER_RIGHT] = 0,          [METER_EXISTS] = 1,         [METER_INVALID] = 2,      [METER_UNKNOWN] = 3,
        [METER_BAD_FLAGS] = 5,      [METER_BAD_RATE] = 6,       [METER_BAD_BURST] = 7,    [METER_BAD_BAND] = 8,
        [METER_BAD_BAND_VALUE] = 9, [METER_OUT_OF_METERS] = 10, [METER_OUT_OF_BANDS] = 11};
    for (unsigned i = 0; i < COUNT(meters); i++) {
        of_error_of_meter((enum meter_wrong)i, "why", &e);
        assert_int_equal(e.type, OFPET_METER_MOD_FAILED);
        assert_int_equal(e.code, meters[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_laid_out_as_specified),
        cmocka_unit_test(ports_are_described),
        cmocka_unit_test(long_names_are_cut),
        cmocka_unit_test(tables_groups_and_meters_are_counted),
        cmocka_unit_test(events_are_told),
        cmocka_unit_test(long_answers_come_in_parts),
        cmocka_unit_test(an_entry_that_is_too_long_fails),
        cmocka_unit_test(our_own_table_features_are_the_same),
        cmocka_unit_test(other_table_features_are_seen),
        cmocka_unit_test(table_features_without_properties_change_a_name),
        cmocka_unit_test(errors_quote_what_failed),
        cmocka_unit_test(what_the_switch_says_has_openflows_names),
    };
    of_out_init(&out);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
