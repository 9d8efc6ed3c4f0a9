/* SPDX-License-Identifier: Apache-2.0 */
/* Matches: every field both ways, and everything that can be wrong with one. */
#include "openflow/codec_test.h"
#include "switch/flow_random.h"
#include "switch/flow_text.h"

static struct bytes written(const struct flow_match *m)
{
    struct of_out o;
    of_out_init(&o);
    of_put_match(&o, m);
    return bytes_taken(&o);
}

static int read_back(const struct bytes *b, struct flow_match *m, struct of_error *e)
{
    size_t used = 0;
    int ret = of_get_match(b->at, b->count, m, &used, e);
    if (!ret) assert_int_equal(used, b->count);
    return ret;
}

/* A match of these fields: "80000004 00000001". */
static struct bytes match_of(const char *hex)
{
    struct bytes list = bytes_of_hex(hex);
    struct of_out o;
    of_out_init(&o);
    struct ofp_match h = {be16_make(OFPMT_OXM), be16_make((uint16_t)(sizeof h + list.count))};
    of_out_put_bytes(&o, &h, sizeof h);
    of_out_put_bytes(&o, list.at, list.count);
    of_out_pad8(&o, 0);
    free(list.at);
    return bytes_taken(&o);
}

/* ---- right ---- */

static void random_matches_come_back(void **state)
{
    uint64_t seed = 3;
    for (unsigned i = 0; i < 20000; i++) {
        struct flow_spec f = {.match = random_match(&seed)};
        struct flow_match back;
        struct of_error e;
        if (flow_check(&f, NULL)) continue;
        struct bytes b = written(&f.match);
        assert_int_equal(b.count % 8, 0);
        assert_int_equal(read_back(&b, &back, &e), 0);
        assert_memory_equal(&back, &f.match, sizeof back);
        free(b.at);
    }
}

/* Some who read them back compare texts: OpenFlow's fields are in the order of their numbers. */
static void fields_are_in_order(void **state)
{
    uint64_t seed = 9;
    for (unsigned i = 0; i < 5000; i++) {
        struct flow_spec f = {.match = random_match(&seed)};
        if (flow_check(&f, NULL)) continue;
        struct bytes b = written(&f.match);
        struct ofp_match h;
        int last = -1;
        memcpy(&h, b.at, sizeof h);
        for (size_t at = sizeof h; at < be16_get(h.length); at += sizeof(struct oxm_header) + b.at[at + 3]) {
            struct oxm_header oxm;
            memcpy(&oxm, b.at + at, sizeof oxm);
            if (be16_get(oxm.class) != OFPXMC_OPENFLOW_BASIC) continue;
            assert_true(oxm.field_mask >> 1 > last);
            last = oxm.field_mask >> 1;
        }
        free(b.at);
    }
}

/* Everything that is read, in the form in which it is written (NULL: the same) and as text. */
static const struct {
    const char *hex, *text, *written;
} right[] = {
    {"", ""},
    {"80000004 00000001", "in_port=1"},
    {"80000004 00000001 80000204 00000001", "in_port=1", "80000004 00000001"},
    {"80000408 0000000000000005", "metadata=0x5"},
    {"80000510 0000000000000005 000000000000000f", "metadata=0x5/0xf"},
    {"80000606 0a0b0c0d0e0f", "dl_dst=0a:0b:0c:0d:0e:0f"},
    {"8000070c 010000000000 010000000000", "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"},
    {"80000806 0a0b0c0d0e0f", "dl_src=0a:0b:0c:0d:0e:0f"},
    {"80000a02 0800", "ip"},
    {"80000c02 0000", "vlan_tci=0x0000/0x1fff"},
    {"80000c02 1005", "dl_vlan=5"},
    {"80000d04 1000 1000", "vlan_tci=0x1000/0x1000"},
    {"80000c02 1005 80000e01 03", "dl_vlan=5,dl_vlan_pcp=3"},
    {"80000d04 1000 1000 80000e01 03", "dl_vlan_pcp=3"},
    {"80000a02 0800 80001001 0b", "ip,nw_tos=44"},
    {"80000a02 86dd 80001201 02", "ipv6,nw_ecn=2"},
    {"80000a02 0800 80001401 2f", "ip,nw_proto=47"},
    {"80000a02 0800 80001708 0a000000 ff000000", "ip,nw_src=10.0.0.0/8"},
    {"80000a02 0800 80001708 0a000001 ffffffff", "ip,nw_src=10.0.0.1", "80000a02 0800 80001604 0a000001"},
    {"80000a02 0800 80001708 00000000 00000000", "ip", "80000a02 0800"},
    {"80000a02 0800 80001804 0a000001", "ip,nw_dst=10.0.0.1"},
    {"80000a02 0800 80001401 06 80001a02 0050", "tcp,tp_src=80"},
    {"80000a02 0800 80001401 06 80001d04 0050 fff0", "tcp,tp_dst=0x50/0xfff0"},
    {"80000a02 0800 80001401 06 ffff5406 4f4e4600 0012", "tcp,tcp_flags=syn|ack"},
    {"80000a02 0800 80001401 06 00014402 0012", "tcp,tcp_flags=syn|ack",
     "80000a02 0800 80001401 06 ffff5406 4f4e4600 0012"},
    {"80000a02 0800 80001401 06 ffff5508 4f4e4600 0002 0012", "tcp,tcp_flags=+syn-ack"},
    {"80000a02 86dd 80001401 11 80001e02 0050", "udp6,tp_src=80"},
    {"80000a02 86dd 80001401 11 80002002 0050", "udp6,tp_dst=80"},
    {"80000a02 0800 80001401 84 80002202 0050", "sctp,tp_src=80"},
    {"80000a02 0800 80001401 84 80002402 0050", "sctp,tp_dst=80"},
    {"80000a02 0800 80001401 01 80002601 08 80002801 00", "icmp,icmp_type=8,icmp_code=0"},
    {"80000a02 0806 80002a02 0001", "arp,arp_op=1"},
    {"80000a02 0806 80002c04 0a000001", "arp,arp_spa=10.0.0.1"},
    {"80000a02 0806 80002f08 0a000000 ffffff00", "arp,arp_tpa=10.0.0.0/24"},
    {"80000a02 0806 80003006 020000000001", "arp,arp_sha=02:00:00:00:00:01"},
    {"80000a02 0806 8000330c 020000000001 ff00000000ff", "arp,arp_tha=02:00:00:00:00:01/ff:00:00:00:00:ff"},
    {"80000a02 86dd 80003410 20010db8000000000000000000000001", "ipv6,ipv6_src=2001:db8::1"},
    {"80000a02 86dd 80003720 20010db8000000000000000000000000 ffffffff000000000000000000000000",
     "ipv6,ipv6_dst=2001:db8::/32"},
    {"80000a02 86dd 80003804 000abcde", "ipv6,ipv6_label=0xabcde"},
    {"80000a02 86dd 80003908 000a0000 000f0000", "ipv6,ipv6_label=0xa0000/0xf0000"},
    {"80000a02 86dd 80003908 000a0000 ffffffff", "ipv6,ipv6_label=0xa0000", "80000a02 86dd 80003804 000a0000"},
    {"80000a02 86dd 80001401 3a 80003a01 80 80003c01 01", "icmp6,icmp_type=128,icmp_code=1"},
    {"80000a02 86dd 80001401 3a 80003a01 87 80003e10 fe800000000000000000000000000001 80004006 020000000001",
     "icmp6,icmp_type=135,nd_target=fe80::1,nd_sll=02:00:00:00:00:01"},
    {"80000a02 86dd 80001401 3a 80003a01 88 80004206 020000000001", "icmp6,icmp_type=136,nd_tll=02:00:00:00:00:01"},
    {"80000a02 8847 80004404 000fffff 80004601 07 80004801 01", "mpls,mpls_label=1048575,mpls_tc=7,mpls_bos=1"},
    {"80000a02 88e7 80004a03 abcdef", "dl_type=0x88e7,pbb_isid=0xabcdef"},
    {"80000a02 88e7 80004b06 000001 00000f", "dl_type=0x88e7,pbb_isid=0x1/0xf"},
    {"80004c08 0000000000000007", "tun_id=0x7"},
    {"80000a02 86dd 80004e02 01ff", "ipv6,ipv6_exthdr=0x1ff"},
    {"80000a02 86dd 80004f04 0001 0003", "ipv6,ipv6_exthdr=0x1/0x3"},
    /* Nicira's */
    {"00000002 0001", "in_port=1", "80000004 00000001"},
    {"00000002 fffe", "in_port=LOCAL", "80000004 fffffffe"},
    {"00000802 1005", "dl_vlan=5,dl_vlan_pcp=0", "80000c02 1005 80000e01 00"},
    {"00000802 0005", "vlan_tci=0x0005"},
    {"00000904 2000 6000", "vlan_tci=0x2000/0x6000"},
    {"00000602 0800 00000a01 2c", "ip,nw_tos=44", "80000a02 0800 80001001 0b"},
    {"00000602 0800 00000c01 06 00000e04 0a000001 00001202 0050", "tcp,nw_src=10.0.0.1,tp_src=80",
     "80000a02 0800 80001401 06 80001604 0a000001 80001a02 0050"},
    {"00010004 00000001 00011e04 000000ff", "reg0=0x1,reg15=0xff"},
    {"00010108 00000001 0000000f", "reg0=0x1/0xf"},
    {"00012008 0000000000000007", "tun_id=0x7", "80004c08 0000000000000007"},
    {"80000a02 0800 00013401 01", "ip,nw_frag=first"},
    {"80000a02 0800 00013502 01 01", "ip,nw_frag=yes"},
    {"80000a02 0800 00013a01 40", "ip,nw_ttl=64"},
    {"80000a02 8847 00013c01 40", "mpls,mpls_ttl=64"},
};

static void check_right(const char *hex, const char *text, const char *form)
{
    struct bytes b = match_of(hex), expected = match_of(form);
    struct flow_match m, as_text;
    struct flow_spec f;
    struct of_error e;
    struct errmsg why;
    char line[256];
    if (read_back(&b, &m, &e)) fail_msg("%s: %s", hex, e.text);
    snprintf(line, sizeof line, "%s%sactions=drop", text, *text ? "," : "");
    if (flow_parse(&f, line, FLOW_PARSE_ADD, NULL, &why)) fail_msg("%s: %s", line, why.text);
    as_text = f.match;
    if (memcmp(&m, &as_text, sizeof m)) fail_msg("%s is not %s", hex, text);
    struct bytes out = written(&m);
    if (out.count != expected.count || memcmp(out.at, expected.at, out.count)) fail_msg("%s is written otherwise", hex);
    free(out.at);
    free(expected.at);
    free(b.at);
}

static void every_field_is_read_and_written(void **state)
{
    for (unsigned i = 0; i < COUNT(right); i++)
        check_right(right[i].hex, right[i].text, right[i].written ? right[i].written : right[i].hex);
}

/* ---- wrong ---- */

static const struct {
    const char *hex;
    unsigned code;
} wrong[] = {
    {"80000003 000001", OFPBMC_BAD_LEN},
    {"80000005 0000000001", OFPBMC_BAD_LEN},
    {"80000008 0000000000000001", OFPBMC_BAD_LEN},
    {"80000004 0000", OFPBMC_BAD_LEN},
    {"800000", OFPBMC_BAD_LEN},
    {"80000706 0a0b0c0d0e0f", OFPBMC_BAD_LEN},
    {"80005001 00", OFPBMC_BAD_FIELD},
    {"8000fe01 00", OFPBMC_BAD_FIELD},
    {"00002401 00", OFPBMC_BAD_FIELD},
    {"00013e04 00000000", OFPBMC_BAD_FIELD},
    {"00014c02 0000", OFPBMC_BAD_FIELD},
    {"80010008 0000000000000000", OFPBMC_BAD_FIELD},
    {"12340004 00000000", OFPBMC_BAD_FIELD},
    {"ffff5406 00002320 0012", OFPBMC_BAD_FIELD},
    {"ffff5606 4f4e4600 0012", OFPBMC_BAD_FIELD},
    {"ffff5402 0012", OFPBMC_BAD_FIELD},
    {"80000c02 2005", OFPBMC_BAD_VALUE},
    {"80000c02 1005 80000e01 08", OFPBMC_BAD_VALUE},
    {"80000a02 0800 80001001 40", OFPBMC_BAD_VALUE},
    {"80000a02 0800 80001201 04", OFPBMC_BAD_VALUE},
    {"80000a02 86dd 80003804 00100000", OFPBMC_BAD_VALUE},
    {"80000a02 8847 80004404 00100000", OFPBMC_BAD_VALUE},
    {"80000a02 8847 80004601 08", OFPBMC_BAD_VALUE},
    {"80000a02 8847 80004801 02", OFPBMC_BAD_VALUE},
    {"80000a02 86dd 80004e02 0200", OFPBMC_BAD_VALUE},
    {"80000a02 0800 80001401 06 ffff5406 4f4e4600 1000", OFPBMC_BAD_VALUE},
    {"80000a02 0800 00013401 04", OFPBMC_BAD_VALUE},
    {"80000a02 0800 00000a01 01", OFPBMC_BAD_VALUE},
    {"80000004 00000001 80000204 00000002", OFPBMC_BAD_VALUE},
    {"80000108 00000001 ffffffff", OFPBMC_BAD_MASK},
    {"80000b04 0800 ffff", OFPBMC_BAD_MASK},
    {"80000c02 1005 80000f02 03 07", OFPBMC_BAD_MASK},
    {"80000a02 0800 80001102 01 01", OFPBMC_BAD_MASK},
    {"80000a02 0800 80001502 06 ff", OFPBMC_BAD_MASK},
    {"80000a02 0806 80002b04 0001 ffff", OFPBMC_BAD_MASK},
    {"80000a02 8847 80004508 00000001 000fffff", OFPBMC_BAD_MASK},
    {"00000602 0800 00000b02 2c fc", OFPBMC_BAD_MASK},
    {"8000070c 020000000000 010000000000", OFPBMC_BAD_WILDCARDS},
    {"80000a02 0800 80001708 0a000001 ff000000", OFPBMC_BAD_WILDCARDS},
    {"80000510 0000000000000005 0000000000000001", OFPBMC_BAD_WILDCARDS},
    {"80000e01 03", OFPBMC_BAD_PREREQ},
    {"80000c02 0000 80000e01 03", OFPBMC_BAD_PREREQ},
    {"80000e01 03 80000c02 1005", OFPBMC_BAD_PREREQ},
    {"80001604 0a000001", OFPBMC_BAD_PREREQ},
    {"80001708 00000000 00000000", OFPBMC_BAD_PREREQ},
    {"80001604 0a000001 80000a02 0800", OFPBMC_BAD_PREREQ},
    {"80000a02 86dd 80001604 0a000001", OFPBMC_BAD_PREREQ},
    {"80000a02 0800 80001401 11 80001a02 0050", OFPBMC_BAD_PREREQ},
    {"80000a02 0800 80001a02 0050", OFPBMC_BAD_PREREQ},
    {"80000a02 0800 80002a02 0001", OFPBMC_BAD_PREREQ},
    {"80000a02 0800 80001401 3a 80003a01 80", OFPBMC_BAD_PREREQ},
    {"80000a02 86dd 80001401 3a 80003a01 88 80004006 020000000001", OFPBMC_BAD_PREREQ},
    {"80000a02 0800 80004404 00000001", OFPBMC_BAD_PREREQ},
    {"80004a03 000001", OFPBMC_BAD_PREREQ},
    {"80000a02 0800 80004e02 0001", OFPBMC_BAD_PREREQ},
    {"80000204 00000001", OFPBMC_BAD_PREREQ},
    {"80000004 00000001 80000004 00000001", OFPBMC_DUP_FIELD},
    {"80000004 00000001 00000002 0001", OFPBMC_DUP_FIELD},
    {"80000c02 1005 00000802 1005", OFPBMC_DUP_FIELD},
    {"00000802 1005 80000e01 00", OFPBMC_DUP_FIELD},
    {"8000070c 000000000000 000000000000 80000606 020000000001", OFPBMC_DUP_FIELD},
};

static void every_error_has_its_code(void **state)
{
    for (unsigned i = 0; i < COUNT(wrong); i++) {
        struct bytes b = match_of(wrong[i].hex);
        struct flow_match m;
        struct of_error e = {0};
        if (read_back(&b, &m, &e) != -EINVAL) fail_msg("%s was taken", wrong[i].hex);
        if (e.type != OFPET_BAD_MATCH || e.code != wrong[i].code)
            fail_msg("%s: %u, %u (%s)", wrong[i].hex, e.type, e.code, e.text);
        assert_true(e.text[0]);
        free(b.at);
    }
}

static void the_head_must_be_right(void **state)
{
    static const struct {
        const char *hex;
        unsigned code;
    } heads[] = {
        {"", OFPBMC_BAD_LEN},
        {"0001 00", OFPBMC_BAD_LEN},
        {"0001 0004", OFPBMC_BAD_LEN}, /* its padding is missing */
        {"0001 0003 00000000", OFPBMC_BAD_LEN},
        {"0001 0009 00000000", OFPBMC_BAD_LEN},
        {"0000 0004 00000000", OFPBMC_BAD_TYPE},
        {"0000 0058 00000000", OFPBMC_BAD_TYPE},
        {"8000 0004 00000000", OFPBMC_BAD_TYPE},
    };
    for (unsigned i = 0; i < COUNT(heads); i++) {
        struct bytes b = bytes_of_hex(heads[i].hex);
        struct flow_match m;
        struct of_error e;
        assert_int_equal(read_back(&b, &m, &e), -EINVAL);
        assert_int_equal(e.type, OFPET_BAD_MATCH);
        assert_int_equal(e.code, heads[i].code);
        free(b.at);
    }
}

/* A mask where the field may have none, and all others with every mask that there is. */
static void masks_are_taken_where_they_may_be(void **state)
{
    uint64_t seed = 5;
    for (unsigned i = 0; i < 20000; i++) {
        enum field_id id = (enum field_id)(random_next(&seed) % FIELD_COUNT);
        struct flow_spec f = {.match = random_match(&seed)};
        if (!field_is_ensured(id, &f.match) || !text_field_maskable(id) || id == FIELD_VLAN_TCI) continue;
        random_put(&f.match, id, random_value(id, &seed), random_value(id, &seed));
        if (flow_check(&f, NULL)) continue;
        struct bytes b = written(&f.match);
        struct flow_match back;
        struct of_error e;
        assert_int_equal(read_back(&b, &back, &e), 0);
        assert_memory_equal(&back, &f.match, sizeof back);
        free(b.at);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_matches_come_back),        cmocka_unit_test(fields_are_in_order),
        cmocka_unit_test(every_field_is_read_and_written), cmocka_unit_test(every_error_has_its_code),
        cmocka_unit_test(the_head_must_be_right),          cmocka_unit_test(masks_are_taken_where_they_may_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
