/* SPDX-License-Identifier: Apache-2.0 */
/* Flows as text: what is read, what is refused and where, what is written. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "switch/flow.h"
#include "switch/flow_cases.h"
#include "switch/flow_random.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- ports with names ---- */

static bool port_number(void *arg, const char *name, size_t length, uint32_t *number)
{
    static const char *const ports[] = {"tap0", "vif1.0", "eth0:1", "drop", "9lives", "LOCAL"};
    for (unsigned i = 0; i < COUNT(ports); i++)
        if (strlen(ports[i]) == length && memcmp(ports[i], name, length) == 0) {
            *number = 10 + i;
            return true;
        }
    return false;
}

static const char *port_name(void *arg, uint32_t number)
{
    static const char *const ports[] = {"tap0", "vif1.0", "eth0:1", "drop", "9lives", "LOCAL", "", "a,b", "a b"};
    return number >= 10 && number < 10 + COUNT(ports) ? ports[number - 10] : NULL;
}

static const struct flow_names names = {.port_number = port_number, .port_name = port_name};

/* ---- writing ---- */

static char *written(void (*write)(FILE *, const struct flow_spec *, const struct flow_names *),
                     const struct flow_spec *f, const struct flow_names *n)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    write(out, f, n);
    fclose(out);
    return text;
}

static struct flow_spec parsed(const char *text, enum flow_parse how)
{
    struct flow_spec f;
    struct errmsg e;
    if (flow_parse(&f, text, how, &names, &e)) fail_msg("%s: %s", text, e.text);
    return f;
}

static bool same(const struct flow_spec *a, const struct flow_spec *b)
{
    return a->table == b->table && a->priority == b->priority && a->idle_timeout_s == b->idle_timeout_s &&
           a->hard_timeout_s == b->hard_timeout_s && a->flags == b->flags && a->cookie == b->cookie &&
           a->cookie_mask == b->cookie_mask && memcmp(&a->match, &b->match, sizeof a->match) == 0 &&
           instructions_equal(&a->instructions, &b->instructions);
}

/* What was written is read as the same flow, and written the same way. */
static void check_round_trip(const struct flow_spec *f, const struct flow_names *n)
{
    char *first = written(flow_format_all, f, n);
    struct flow_spec again = parsed(first, FLOW_PARSE_ADD);
    if (!same(f, &again)) fail_msg("not the same flow: %s", first);
    char *second = written(flow_format_all, &again, n);
    assert_string_equal(first, second);
    instructions_clear(&again.instructions);
    free(first);
    free(second);
}

static void check_case(const struct flow_case *c)
{
    struct errmsg e;
    struct flow_spec f = parsed(c->text, FLOW_PARSE_ADD);
    if (flow_check(&f, &e)) fail_msg("%s: %s", c->text, e.text);
    char *text = written(flow_format, &f, NULL);
    assert_string_equal(text, c->normal ? c->normal : c->text);
    check_round_trip(&f, NULL);
    check_round_trip(&f, &names);
    free(text);
    instructions_clear(&f.instructions);
}

static void flows_have_a_normal_form(void **state)
{
    for (unsigned i = 0; i < COUNT(flow_cases); i++)
        check_case(&flow_cases[i]);
    for (unsigned i = 0; i < COUNT(flow_own_cases); i++)
        check_case(&flow_own_cases[i]);
}

static void bad_flows_are_refused_with_a_reason(void **state)
{
    for (unsigned i = 0; i < COUNT(flow_bad_cases); i++) {
        const struct flow_case *c = &flow_bad_cases[i];
        struct flow_spec f;
        struct errmsg e = {""};
        int ret = flow_parse(&f, c->text, FLOW_PARSE_ADD, NULL, &e);
        if (ret == 0) {
            ret = flow_check(&f, &e);
            instructions_clear(&f.instructions);
        }
        assert_int_equal(ret, -EINVAL);
        assert_string_equal(e.text, c->normal);
    }
}

/* ---- who asks for what ---- */

static int refused(const char *text, enum flow_parse how, const char *reason)
{
    struct flow_spec f;
    struct errmsg e = {""};
    int ret = flow_parse(&f, text, how, &names, &e);
    if (ret == 0) instructions_clear(&f.instructions);
    if (ret != -EINVAL || strcmp(e.text, reason) != 0) fail_msg("%s: %s", text, e.text);
    return ret;
}

static void flows_are_selected(void **state)
{
    struct flow_spec f = parsed("", FLOW_PARSE_DEL);
    assert_int_equal(f.table, SWITCH_TABLE_ALL);
    assert_int_equal(f.out_port, SWITCH_PORT_ANY);
    assert_int_equal(f.out_group, SWITCH_PORT_ANY);
    assert_false(f.has_priority);
    f = parsed("table=3,cookie=0x50/0xf0,out_port=tap0,out_group=7,tcp,priority=9", FLOW_PARSE_SELECT);
    assert_int_equal(f.table, 3);
    assert_true(f.cookie == 0x50 && f.cookie_mask == 0xf0);
    assert_int_equal(f.out_port, 10);
    assert_int_equal(f.out_group, 7);
    assert_true(f.has_priority && f.priority == 9);
    assert_int_equal(f.match.key.nw_proto, 6);
    f = parsed("cookie=5/-1,table=255", FLOW_PARSE_DEL);
    assert_true(f.cookie == 5 && f.cookie_mask == UINT64_MAX && f.table == SWITCH_TABLE_ALL);
    f = parsed("cookie=5", FLOW_PARSE_DEL);
    assert_true(f.cookie_mask == UINT64_MAX);
    refused("actions=drop", FLOW_PARSE_DEL, "column 9: \"drop\": actions do not select flows");
    refused("idle_timeout=3", FLOW_PARSE_SELECT, "column 1: \"idle_timeout\": it does not select flows");
    refused("tcp,send_flow_rem", FLOW_PARSE_DEL, "column 5: \"send_flow_rem\": it does not select flows");
    refused("table=254", FLOW_PARSE_DEL, "column 7: found \"254\", expected a table's number (0 to 253)");
    refused("out_port=nobody", FLOW_PARSE_DEL, "column 10: found \"nobody\", expected a port's number or name");
}

static void flows_are_modified(void **state)
{
    struct flow_spec f = parsed("cookie=0x5/0xff,table=2,tcp,actions=drop", FLOW_PARSE_MOD);
    assert_true(f.cookie == 5 && f.cookie_mask == 0xff && f.table == 2);
    f = parsed("cookie=0x5,tcp,actions=drop", FLOW_PARSE_MOD);
    assert_true(f.cookie == 5 && f.cookie_mask == 0 && f.table == 0);
    refused("tcp", FLOW_PARSE_MOD, "column 4: nothing there, expected actions=LIST");
    refused("table=255,actions=drop", FLOW_PARSE_MOD, "column 7: found \"255\", expected a table's number (0 to 253)");
}

static void check_text(const char *text, const struct flow_names *n, const char *expected)
{
    struct flow_spec f = parsed(text, FLOW_PARSE_ADD);
    char *got = written(flow_format_all, &f, n);
    assert_string_equal(got, expected);
    check_round_trip(&f, n);
    free(got);
    instructions_clear(&f.instructions);
}

static void ports_have_names(void **state)
{
    check_text("in_port=tap0,actions=vif1.0,output:tap0,resubmit(vif1.0,4),resubmit:tap0", &names,
               "in_port=tap0 actions=output:vif1.0,output:tap0,resubmit(vif1.0,4),resubmit:tap0");
    check_text("in_port=tap0,actions=vif1.0", NULL, "in_port=10 actions=output:11");
    /* A name that would be read as something else is not written. */
    check_text("in_port=eth0:1,actions=eth0:1,output:drop,output:9lives,output:LOCAL,15,16,17,18", &names,
               "in_port=12 actions=output:12,output:13,output:14,LOCAL,output:15,output:16,output:17,output:18");
    check_text("in_port=LOCAL,actions=IN_PORT", &names, "in_port=LOCAL actions=IN_PORT");
}

static void all_of_a_flow_is_written(void **state)
{
    check_text(
        "table=7,cookie=0x1f,idle_timeout=5,hard_timeout=6,check_overlap,send_flow_rem,no_byte_counts,priority=0,"
        "actions=drop",
        NULL,
        "table=7,cookie=0x1f,idle_timeout=5,hard_timeout=6,send_flow_rem,check_overlap,no_byte_counts,"
        "priority=0 actions=drop");
}

static void megaflows_show_all_that_was_looked_at(void **state)
{
    struct flow_match m = parsed("tcp,actions=drop", FLOW_PARSE_ADD).match;
    m.mask.nw_tos = 0x80;
    m.key.vlan[0].tpid = be16_make(0x88a8);
    m.mask.vlan[0].tpid = m.mask.vlan[1].tci = be16_make(0xffff);
    m.mask.mpls[2] = be32_make(0x100);
    m.mask.eth_src[0] = 0xff;
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    flow_format_match(out, &m, NULL);
    fclose(out);
    assert_string_equal(text, "tcp,dl_src=00:00:00:00:00:00/ff:00:00:00:00:00,ip_dscp=0x0/0x20,"
                              "vlan_tpid0=0x88a8/0xffff,vlan_tci1=0x0000/0xffff,mpls2=0x00000000/0x00000100");
    free(text);
}

/* ---- packets ---- */

static void check_key(const char *text, const char *same_as)
{
    struct flow_key a, b;
    struct errmsg e;
    if (flow_parse_key(&a, text, &names, &e)) fail_msg("%s: %s", text, e.text);
    if (flow_parse_key(&b, same_as, &names, &e)) fail_msg("%s: %s", same_as, e.text);
    assert_memory_equal(&a, &b, sizeof a);
}

static void packets_have_what_their_fields_imply(void **state)
{
    check_key("nw_src=10.0.0.1", "ip,nw_src=10.0.0.1,nw_ttl=64");
    check_key("tcp_dst=80", "tcp,tp_dst=80");
    check_key("tcp_dst=80,ipv6_src=::1", "tcp6,tp_dst=80,ipv6_src=::1");
    check_key("udp_src=5,ipv6", "udp6,udp_src=5");
    check_key("nd_target=fe80::1", "icmp6,icmp_type=135,nd_target=fe80::1");
    check_key("nd_tll=02:00:00:00:00:01,nd_target=fe80::1", "icmp6,icmp_type=136,nd_target=fe80::1,nd_tll=2:0:0:0:0:1");
    check_key("arp_spa=10.0.0.1", "arp,nw_src=10.0.0.1");
    check_key("mpls_label=5", "mpls,mpls_label=5,mpls_bos=1,mpls_ttl=64");
    check_key("icmp_type=8", "icmp,icmp_type=8");
    check_key("icmpv6_type=128", "icmp6,icmp_type=128");
    check_key("pbb_isid=5", "dl_type=0x88e7,pbb_isid=5");
    check_key("nw_ecn=2", "ip,nw_ecn=2");
    check_key("in_port=tap0", "in_port=10,dl_type=0x05ff");
    check_key("", "dl_type=0x05ff");
    struct flow_key k;
    assert_int_equal(flow_parse_key(&k, "tcp,dl_vlan=5,dl_vlan_pcp=2,tcp_flags=+syn,nw_ttl=1", NULL, NULL), 0);
    assert_int_equal(be16_get(k.vlan[0].tpid), 0x8100);
    assert_int_equal(be16_get(k.vlan[0].tci), 0x5005);
    assert_int_equal(be16_get(k.tcp_flags), 2);
    assert_int_equal(k.nw_ttl, 1);
    assert_int_equal(flow_parse_key(&k, "pbb_isid=5", NULL, NULL), 0);
    assert_int_equal(be32_get(k.pbb_isid), 0x1000005);
}

static void packets_are_one_packet(void **state)
{
    static const struct flow_case bad[] = {
        {"nw_src=10.0.0.0/8", "column 8: \"10.0.0.0/8\": no mask, as this is one packet"},
        {"dl_src=*", "column 8: found \"*\", expected an Ethernet address (02:00:00:00:00:01)"},
        {"tp_src=80", "column 1: \"tp_src=80\": it needs tcp, udp or sctp"},
        {"tcp,udp", "column 5: \"udp\": it contradicts what stands before it"},
        {"arp,tcp_dst=80", "column 5: \"tcp_dst=80\": it needs tcp or tcp6"},
        {"nd_sll=2:0:0:0:0:1,nd_tll=2:0:0:0:0:1", "column 20: \"nd_tll=2:0:0:0:0:1\": it needs icmp6,icmp_type=136"},
        {"priority=5", "column 1: found \"priority\", expected a field or a setting"},
        {"tcp,actions=drop", "column 5: found \"actions=drop\", expected fields only"},
        {"nobody", "column 1: found \"nobody\", expected FIELD=VALUE, a protocol (ip, tcp, arp, ..) or a setting "
                   "(priority=.., table=..)"},
    };
    for (unsigned i = 0; i < COUNT(bad); i++) {
        struct flow_key k;
        struct errmsg e = {""};
        assert_int_equal(flow_parse_key(&k, bad[i].text, NULL, &e), -EINVAL);
        assert_string_equal(e.text, bad[i].normal);
    }
}

/* ---- bounds ---- */

static char *repeated(const char *begin, const char *again, unsigned times, const char *end)
{
    size_t n = strlen(again);
    char *text = malloc(strlen(begin) + n * times + strlen(end) + 1), *at = text;
    assert_non_null(text);
    at = stpcpy(at, begin);
    for (unsigned i = 0; i < times; i++)
        at = stpcpy(at, again);
    strcpy(at, end);
    return text;
}

static void check_repeated(const char *begin, const char *again, unsigned times, const char *end, int expected)
{
    struct flow_spec f;
    struct errmsg e;
    char *text = repeated(begin, again, times, end);
    int ret = flow_parse(&f, text, FLOW_PARSE_ADD, NULL, &e);
    assert_int_equal(ret, expected);
    if (ret == 0) instructions_clear(&f.instructions);
    free(text);
}

static void everything_is_bounded(void **state)
{
    check_repeated("actions=1", ",1", ACTIONS_MAX - 1, "", 0);
    check_repeated("actions=1", ",1", ACTIONS_MAX, "", -EINVAL);
    check_repeated("actions=write_actions(1", ",1", ACTIONS_MAX - 1, ")", 0);
    check_repeated("actions=write_actions(1", ",1", ACTIONS_MAX, ")", -EINVAL);
    check_repeated("actions=drop", " ", 65536 - 12, "", 0);
    check_repeated("actions=drop", " ", 65536 - 11, "", -EINVAL);
    check_repeated("actions=", "write_actions(", 4000, "", -EINVAL);
    check_repeated("actions=write_actions", "(", 2000, "", -EINVAL);
    check_repeated("actions=write_actions(write_actions(1)", ")", 1, "", -EINVAL);
    check_repeated("actions=", ")", 10, "", -EINVAL);
    check_repeated("", "tcp,", 10000, "actions=drop", 0);
    check_repeated("", "(", 65000, "actions=drop", -EINVAL);
    check_repeated("ipv6,ipv6_src=", ":1", 1000, ",actions=drop", -EINVAL);
    check_repeated("dl_src=", "1:", 5, "1,actions=drop", 0);
    check_repeated("dl_src=", "1:", 6, "1,actions=drop", -EINVAL);
    check_repeated("reg0=", "1", 1000, ",actions=drop", -EINVAL);
}

static void messages_are_fit_to_print(void **state)
{
    struct flow_spec f;
    struct errmsg e;
    assert_int_equal(flow_parse(&f, "nw_src=\x1b[2J\xff,ip,actions=drop", FLOW_PARSE_ADD, NULL, &e), -EINVAL);
    assert_string_equal(e.text, "column 8: found \"?[2J?\", expected an IPv4 address (192.0.2.1)");
    char *text = repeated("actions=", "x", 1000, "");
    assert_int_equal(flow_parse(&f, text, FLOW_PARSE_ADD, NULL, &e), -EINVAL);
    assert_true(strlen(e.text) < 140);
    assert_int_equal(flow_parse(&f, text, FLOW_PARSE_ADD, NULL, NULL), -EINVAL);
    free(text);
}

/* ---- random flows ---- */

static void what_is_written_is_read_as_the_same_flow(void **state)
{
    uint64_t seed = 6;
    unsigned good = 0;
    for (unsigned round = 0; round < 30000; round++) {
        struct action apply[ACTIONS_MAX], write[ACTIONS_MAX];
        struct errmsg e;
        struct flow_spec f = random_flow(apply, write, &seed);
        if (flow_check(&f, &e)) continue;
        good++;
        check_round_trip(&f, random_one_in(&seed, 2) ? &names : NULL);
    }
    assert_true(good > 20000);
}

/* Texts with mistakes: whatever happens, what is taken is written and read again. */
static void spoiled_texts_do_no_harm(void **state)
{
    static const char spoilers[] = ",=:()/[].->+|* \t0123456789abcdefx_";
    uint64_t seed = 8;
    unsigned taken = 0;
    for (unsigned round = 0; round < 40000; round++) {
        char text[1024];
        const char *from = flow_cases[random_next(&seed) % COUNT(flow_cases)].text;
        snprintf(text, sizeof text, "%s", from);
        for (unsigned n = 1 + (unsigned)random_next(&seed) % 3; n > 0 && *text; n--)
            text[random_next(&seed) % strlen(text)] = spoilers[random_next(&seed) % (sizeof spoilers - 1)];
        struct flow_spec f;
        struct errmsg e;
        struct flow_key k;
        flow_parse_key(&k, text, &names, &e);
        if (flow_parse(&f, text, FLOW_PARSE_ADD, &names, &e)) continue;
        if (flow_check(&f, &e) == 0) {
            taken++;
            check_round_trip(&f, &names);
        }
        instructions_clear(&f.instructions);
    }
    assert_true(taken > 500);
}

/* ---- checks of what no text says ---- */

static void check_wrong(struct flow_spec f, enum flow_wrong expected)
{
    enum flow_wrong why = FLOW_RIGHT;
    struct errmsg e;
    assert_int_equal(flow_check_why(&f, &why, &e), -EINVAL);
    if (why != expected) fail_msg("%u, not %u: %s", why, expected, e.text);
}

static struct flow_spec doing(struct action *a)
{
    return (struct flow_spec){.instructions.apply = {.count = 1, .list = a}};
}

static void wrong_specifications_are_found(void **state)
{
    struct flow_spec f = {.table = 254};
    check_wrong(f, FLOW_BAD_TABLE_ID);
    check_wrong((struct flow_spec){.flags = 32}, FLOW_BAD_FLAGS);
    f = (struct flow_spec){.match.key.nw_proto = 6};
    check_wrong(f, FLOW_BAD_WILDCARDS);
    f = (struct flow_spec){.match.mask.nw_proto = 0xff};
    check_wrong(f, FLOW_BAD_PREREQ);
    f = (struct flow_spec){.match.mask.bridge = 1};
    check_wrong(f, FLOW_BAD_FIELD);
    f = (struct flow_spec){.match.mask.vlan[1].tci = be16_make(1)};
    check_wrong(f, FLOW_BAD_FIELD);
    f = (struct flow_spec){.match.mask.eth_type = be16_make(0xff)};
    check_wrong(f, FLOW_BAD_MASK);
    f = (struct flow_spec){.match.mask.in_port = be32_make(0xff)};
    check_wrong(f, FLOW_BAD_MASK);
    f = parsed("icmp,actions=drop", FLOW_PARSE_ADD);
    f.match.mask.tp_src = be16_make(0xffff);
    check_wrong(f, FLOW_BAD_PREREQ);
    f = parsed("ip,actions=drop", FLOW_PARSE_ADD);
    f.match.mask.nw_tos = 0xf0;
    check_wrong(f, FLOW_BAD_MASK);
    f.match.mask.nw_tos = 0;
    f.match.mask.recirculation_high[0] = 1;
    check_wrong(f, FLOW_BAD_FIELD);
    f = (struct flow_spec){.instructions = {.has_goto = true, .goto_table = 254}};
    check_wrong(f, FLOW_BAD_GOTO);
    f = (struct flow_spec){.instructions = {.has_metadata = true, .metadata = 1}};
    check_wrong(f, FLOW_BAD_METADATA);
    f = (struct flow_spec){.instructions = {.meter = 0xffff0001}};
    check_wrong(f, FLOW_BAD_METER);
}

static void wrong_actions_are_found(void **state)
{
    static const struct {
        struct action action;
        enum flow_wrong why;
    } wrong[] = {
        {{.type = ACTION_TYPES}, FLOW_BAD_ACTION},
        {{.type = 255}, FLOW_BAD_ACTION},
        {{.type = ACTION_GROUP, .group = 0xffffff01}, FLOW_BAD_OUT_GROUP},
        {{.type = ACTION_OUTPUT, .output.port = 0}, FLOW_BAD_OUT_PORT},
        {{.type = ACTION_OUTPUT, .output.port = SWITCH_PORT_TABLE}, FLOW_BAD_OUT_PORT},
        {{.type = ACTION_OUTPUT, .output.port = SWITCH_PORT_ANY}, FLOW_BAD_OUT_PORT},
        {{.type = ACTION_OUTPUT, .output.port = SWITCH_PORT_MAX + 1}, FLOW_BAD_OUT_PORT},
        {{.type = ACTION_SET_FIELD, .set.field = FIELD_COUNT}, FLOW_BAD_SET_TYPE},
        {{.type = ACTION_SET_FIELD, .set.field = 255}, FLOW_BAD_SET_TYPE},
        {{.type = ACTION_SET_FIELD, .set.field = FIELD_IN_PORT}, FLOW_BAD_SET_TYPE},
        {{.type = ACTION_SET_FIELD, .set.field = FIELD_REG0}, FLOW_BAD_SET_ARGUMENT},
        {{.type = ACTION_SET_FIELD, .set = {.field = FIELD_REG0, .value.raw[15] = 2, .mask.raw[15] = 1}},
         FLOW_BAD_SET_ARGUMENT},
        {{.type = ACTION_SET_FIELD, .set = {.field = FIELD_REG0, .mask.raw[0] = 1}}, FLOW_BAD_SET_ARGUMENT},
        {{.type = ACTION_SET_FIELD, .set = {.field = FIELD_TCP_SRC, .mask.raw[15] = 1}}, FLOW_BAD_MATCH_INCONSISTENT},
        {{.type = ACTION_MOVE, .move = {.from = FIELD_COUNT, .to = FIELD_REG0, .bits = 1}}, FLOW_BAD_SET_TYPE},
        {{.type = ACTION_MOVE, .move = {.from = FIELD_REG0, .to = 255, .bits = 1}}, FLOW_BAD_SET_TYPE},
        {{.type = ACTION_MOVE, .move = {.from = FIELD_REG0, .to = FIELD_IN_PORT, .bits = 1}}, FLOW_BAD_SET_TYPE},
        {{.type = ACTION_MOVE, .move = {.from = FIELD_REG0, .to = FIELD_REG0, .bits = 0}}, FLOW_BAD_SET_ARGUMENT},
        {{.type = ACTION_MOVE, .move = {.from = FIELD_REG0, .to = FIELD_REG0, .bits = 33}}, FLOW_BAD_SET_ARGUMENT},
        {{.type = ACTION_MOVE, .move = {.from = FIELD_REG0, .to = FIELD_REG0, .from_bit = 255, .bits = 255}},
         FLOW_BAD_SET_ARGUMENT},
        {{.type = ACTION_MOVE, .move = {.from = FIELD_REG0, .to = FIELD_VLAN_TCI, .bits = 16}},
         FLOW_BAD_MATCH_INCONSISTENT},
        {{.type = ACTION_MOVE, .move = {.from = FIELD_TCP_SRC, .to = FIELD_REG0, .bits = 16}},
         FLOW_BAD_MATCH_INCONSISTENT},
        {{.type = ACTION_PUSH_VLAN, .eth_type = 0x800}, FLOW_BAD_ARGUMENT},
        {{.type = ACTION_PUSH_MPLS, .eth_type = 0x8100}, FLOW_BAD_ARGUMENT},
        {{.type = ACTION_PUSH_PBB, .eth_type = 0}, FLOW_BAD_ARGUMENT},
        {{.type = ACTION_POP_VLAN}, FLOW_BAD_MATCH_INCONSISTENT},
        {{.type = ACTION_POP_MPLS, .eth_type = 0x800}, FLOW_BAD_MATCH_INCONSISTENT},
        {{.type = ACTION_POP_PBB}, FLOW_BAD_MATCH_INCONSISTENT},
        {{.type = ACTION_DEC_NW_TTL}, FLOW_BAD_MATCH_INCONSISTENT},
        {{.type = ACTION_SET_NW_TTL}, FLOW_BAD_MATCH_INCONSISTENT},
        {{.type = ACTION_DEC_MPLS_TTL}, FLOW_BAD_MATCH_INCONSISTENT},
        {{.type = ACTION_SET_MPLS_TTL}, FLOW_BAD_MATCH_INCONSISTENT},
        {{.type = ACTION_COPY_TTL_IN}, FLOW_BAD_MATCH_INCONSISTENT},
        {{.type = ACTION_COPY_TTL_OUT}, FLOW_BAD_MATCH_INCONSISTENT},
        {{.type = ACTION_RESUBMIT, .resubmit = {.port = 1, .table = 254}}, FLOW_BAD_ARGUMENT},
        {{.type = ACTION_RESUBMIT, .resubmit = {.port = 0, .table = 1}}, FLOW_BAD_OUT_PORT},
        {{.type = ACTION_RESUBMIT, .resubmit = {.port = SWITCH_PORT_NORMAL, .table = 1}}, FLOW_BAD_OUT_PORT},
    };
    for (unsigned i = 0; i < COUNT(wrong); i++) {
        struct action a = wrong[i].action;
        check_wrong(doing(&a), wrong[i].why);
        check_wrong((struct flow_spec){.instructions.write = {.count = 1, .list = &a}},
                    a.type == ACTION_RESUBMIT ? FLOW_BAD_ACTION : wrong[i].why);
    }
    static struct action many[ACTIONS_MAX + 1];
    for (unsigned i = 0; i < COUNT(many); i++)
        many[i] = (struct action){.type = ACTION_OUTPUT, .output.port = 1};
    check_wrong((struct flow_spec){.instructions.apply = {.count = COUNT(many), .list = many}}, FLOW_TOO_MANY);
    check_wrong((struct flow_spec){.instructions.write = {.count = COUNT(many), .list = many}}, FLOW_TOO_MANY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flows_have_a_normal_form),
        cmocka_unit_test(bad_flows_are_refused_with_a_reason),
        cmocka_unit_test(flows_are_selected),
        cmocka_unit_test(flows_are_modified),
        cmocka_unit_test(ports_have_names),
        cmocka_unit_test(all_of_a_flow_is_written),
        cmocka_unit_test(megaflows_show_all_that_was_looked_at),
        cmocka_unit_test(packets_have_what_their_fields_imply),
        cmocka_unit_test(packets_are_one_packet),
        cmocka_unit_test(everything_is_bounded),
        cmocka_unit_test(messages_are_fit_to_print),
        cmocka_unit_test(what_is_written_is_read_as_the_same_flow),
        cmocka_unit_test(spoiled_texts_do_no_harm),
        cmocka_unit_test(wrong_specifications_are_found),
        cmocka_unit_test(wrong_actions_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
