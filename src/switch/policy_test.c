/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "switch/policy.h"
#include "switch/test_rig.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static struct guard_prefix prefix(const char *text)
{
    struct guard_config c = {0};
    struct errmsg e = {""};
    if (guard_add_prefix(&c, text, &e) < 0) fail_msg("%s", e.text);
    return c.prefix[0];
}

static struct policy_rule rule(bool allow, const char *direction, enum policy_protocol protocol, const char *range,
                               int port)
{
    struct policy_rule r = {.allow = allow,
                            .in = strcmp(direction, "out") != 0,
                            .out = strcmp(direction, "in") != 0,
                            .priority = 100,
                            .protocol = (uint8_t)protocol,
                            .has_range = range != NULL,
                            .has_port = port >= 0,
                            .port = (uint16_t)port};
    if (range) r.range = prefix(range);
    return r;
}

static struct policy *make(const struct policy_rule *rules, unsigned count)
{
    struct policy *p;
    struct errmsg e = {""};
    if (policy_new(&p, rules, count, &e) < 0) fail_msg("%s", e.text);
    return p;
}

static bool allows(const struct policy *p, enum policy_direction d, const char *packet)
{
    static const struct flow_names none;
    struct flow_key k, used = {0};
    struct errmsg e = {""};
    if (flow_parse_key(&k, packet, &none, &e) < 0) fail_msg("%s: %s", packet, e.text);
    return policy_allows(p, d, &k, &used);
}

/* A web server: it may be asked at port 80 by some, and pinged by all; it may send what it likes but mail. */
static struct policy *web(void)
{
    const struct policy_rule rules[] = {
        rule(true, "in", POLICY_TCP, "10.0.0.0/8", 80),
        rule(true, "in", POLICY_TCP, "2001:db8::/32", 80),
        rule(true, "in", POLICY_ICMP, NULL, -1),
        rule(false, "out", POLICY_TCP, NULL, 25),
    };
    return make(rules, COUNT(rules));
}

static void an_allow_list_lets_nothing_else_pass(void **state)
{
    struct policy *p = web();
    (void)state;
    assert_true(allows(p, POLICY_IN, "tcp,nw_src=10.1.2.3,tp_dst=80"));
    assert_false(allows(p, POLICY_IN, "tcp,nw_src=11.1.2.3,tp_dst=80"));
    assert_false(allows(p, POLICY_IN, "tcp,nw_src=10.1.2.3,tp_dst=81"));
    assert_false(allows(p, POLICY_IN, "udp,nw_src=10.1.2.3,tp_dst=80"));
    assert_true(allows(p, POLICY_IN, "tcp6,ipv6_src=2001:db8::1,tp_dst=80"));
    assert_false(allows(p, POLICY_IN, "tcp6,ipv6_src=2001:db9::1,tp_dst=80"));
    assert_true(allows(p, POLICY_IN, "icmp,nw_src=1.2.3.4"));
    assert_true(allows(p, POLICY_IN, "icmp6,icmp_type=128"));
    assert_true(allows(p, POLICY_IN, "arp,arp_op=1"));
    assert_true(allows(p, POLICY_IN, "icmp6,icmp_type=135"));
    assert_false(allows(p, POLICY_IN, "dl_type=0x88cc"));
    /* fragments have no ports */
    assert_true(allows(p, POLICY_IN, "tcp,nw_src=10.1.2.3,ip_frag=later"));
    assert_false(allows(p, POLICY_IN, "tcp,nw_src=11.1.2.3,ip_frag=later"));
    policy_free(p);
}

/* Of IPv6 nobody knows their protocol. */
static void fragments_of_what_is_allowed_pass(void **state)
{
    const struct policy_rule rules[] = {rule(true, "in", POLICY_UDP, "2001:db8::/32", 53),
                                        rule(true, "in", POLICY_UDP, "2001:db9::/32", -1)};
    struct policy *p = make(rules, COUNT(rules));
    (void)state;
    assert_true(allows(p, POLICY_IN, "udp6,ipv6_src=2001:db8::1,tp_dst=53,ip_frag=first"));
    assert_true(allows(p, POLICY_IN, "ipv6,nw_proto=44,ipv6_src=2001:db8::1,ip_frag=later"));
    assert_true(allows(p, POLICY_IN, "ipv6,nw_proto=44,ipv6_src=2001:db9::1,ip_frag=later"));
    assert_false(allows(p, POLICY_IN, "ipv6,nw_proto=44,ipv6_src=2001:dba::1,ip_frag=later"));
    assert_false(allows(p, POLICY_IN, "ipv6,nw_proto=44,ipv6_src=2001:db8::1"));
    policy_free(p);
}

static void what_is_dropped_is_all_that_is(void **state)
{
    struct policy *p = web();
    (void)state;
    assert_false(allows(p, POLICY_OUT, "tcp,tp_dst=25"));
    assert_false(allows(p, POLICY_OUT, "tcp6,tp_dst=25"));
    assert_true(allows(p, POLICY_OUT, "tcp,tp_dst=26"));
    assert_true(allows(p, POLICY_OUT, "udp,tp_dst=25"));
    assert_true(allows(p, POLICY_OUT, "dl_type=0x88cc"));
    /* nor can it be hidden */
    assert_false(allows(p, POLICY_OUT, "dl_type=0x8847"));
    assert_false(allows(p, POLICY_OUT, "ipv6,nw_proto=60"));
    policy_free(p);
}

static void the_first_rule_decides(void **state)
{
    struct policy_rule rules[] = {
        rule(true, "both", POLICY_IP, "10.0.0.0/8", -1),  rule(false, "both", POLICY_IP, "10.9.0.0/16", -1),
        rule(true, "both", POLICY_IP, "10.9.9.0/24", -1), rule(true, "out", POLICY_ARP, "10.0.0.1", -1),
        rule(false, "out", POLICY_ARP, NULL, -1),
    };
    (void)state;
    rules[2].priority = 200;
    rules[4].priority = 50;
    struct policy *p = make(rules, COUNT(rules));
    assert_true(allows(p, POLICY_OUT, "ip,nw_dst=10.1.1.1"));
    assert_false(allows(p, POLICY_OUT, "ip,nw_dst=10.9.1.1")); /* of the same priority: those that drop */
    assert_true(allows(p, POLICY_OUT, "ip,nw_dst=10.9.9.1"));
    assert_true(allows(p, POLICY_IN, "ip,nw_src=10.9.9.1,nw_dst=1.1.1.1"));
    assert_false(allows(p, POLICY_IN, "ip,nw_src=1.1.1.1,nw_dst=10.9.9.1"));
    assert_true(allows(p, POLICY_OUT, "arp,arp_op=1,arp_tpa=10.0.0.1"));
    assert_false(allows(p, POLICY_OUT, "arp,arp_op=1,arp_tpa=10.0.0.2"));
    assert_true(allows(p, POLICY_IN, "arp,arp_op=1,arp_spa=10.0.0.2"));
    policy_free(p);
    p = make(rules, 0);
    assert_true(allows(p, POLICY_IN, "dl_type=0x8847"));
    policy_free(p);
    assert_true(allows(NULL, POLICY_IN, "ip"));
}

static void what_is_wrong_is_refused(void **state)
{
    struct policy_rule bad[] = {
        rule(true, "in", POLICY_ICMP, NULL, 80),           rule(true, "in", POLICY_ANY, NULL, 80),
        rule(true, "in", POLICY_ARP, "2001:db8::/32", -1), rule(true, "in", POLICY_PROTOCOLS, NULL, -1),
        rule(true, "in", POLICY_IP, "10.0.0.0/8", -1),
    };
    static struct policy_rule many[POLICY_RULES_MAX + 1];
    struct policy *p;
    struct errmsg e;
    (void)state;
    bad[4].range.length = 33;
    for (unsigned i = 0; i < COUNT(bad); i++)
        assert_int_equal(policy_new(&p, &bad[i], 1, &e), -EINVAL);
    for (unsigned i = 0; i < COUNT(many); i++)
        many[i] = rule(true, "both", POLICY_TCP, "10.0.0.0/8", (int)i);
    assert_int_equal(policy_new(&p, many, COUNT(many), &e), -ENOSPC);
    policy_free(make(many, POLICY_RULES_MAX));
}

/* ---- what was looked at ---- */

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static struct flow_key near(uint64_t *seed)
{
    static const char *const shapes[] = {"tcp,nw_src=10.1.2.3,nw_dst=10.9.1.1,tp_dst=80",
                                         "tcp,nw_src=11.1.2.3,tp_dst=25",
                                         "udp,nw_src=10.0.0.1,tp_dst=80",
                                         "tcp6,ipv6_src=2001:db8::1,tp_dst=80",
                                         "icmp6,icmp_type=135",
                                         "arp,arp_op=1,arp_tpa=10.0.0.1",
                                         "dl_type=0x8847",
                                         "tcp,nw_src=10.1.2.3,ip_frag=later",
                                         "ipv6,nw_proto=44"};
    static const struct flow_names none;
    struct flow_key k;
    struct errmsg e;
    assert_int_equal(flow_parse_key(&k, shapes[next(seed) % COUNT(shapes)], &none, &e), 0);
    for (unsigned i = 0; i < next(seed) % 3; i++)
        k.words[next(seed) % FLOW_KEY_WORDS] ^= UINT64_C(1) << next(seed) % 64;
    return k;
}

static void what_was_not_looked_at_does_not_matter(void **state)
{
    struct policy *p = web();
    uint64_t seed = 7;
    (void)state;
    for (unsigned round = 0; round < 20000; round++) {
        struct flow_key k = near(&seed), used = {0}, other, unused = {0};
        enum policy_direction d = round % 2 ? POLICY_IN : POLICY_OUT;
        bool allowed = policy_allows(p, d, &k, &used);
        other = k;
        for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
            other.words[i] ^= next(&seed) & ~used.words[i];
        assert_int_equal(policy_allows(p, d, &other, &unused), allowed);
    }
    policy_free(p);
}

struct shown {
    const struct flow_key *k;
    int first; /* -1: no rule was met yet */
};

static void meet(void *arg, enum policy_direction d, const struct flow_spec *f)
{
    struct shown *s = arg;
    (void)d;
    if (s->first < 0 && flow_match_hits(&f->match, s->k)) s->first = f->instructions.has_goto;
}

static void its_flows_say_the_same(void **state)
{
    struct policy *p = web();
    uint64_t seed = 9;
    (void)state;
    for (unsigned round = 0; round < 20000; round++) {
        struct flow_key k = near(&seed), used = {0};
        struct shown s = {&k, -1};
        enum policy_direction d = round % 2 ? POLICY_IN : POLICY_OUT;
        policy_each(p, d, meet, &s);
        assert_int_equal(policy_allows(p, d, &k, &used), s.first != 0);
    }
    policy_free(p);
}

/* ---- frames ---- */

static uint32_t sent(struct rig *r, const char *src, const char *dst, unsigned port)
{
    uint8_t f[128];
    unsigned n = frame_udp(f, "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01", src, dst, 1000, port);
    rig_send(r, 1, f, n, 3);
    return rig_got(r);
}

static void no_flow_opens_it(void **state)
{
    const struct policy_rule in[] = {rule(true, "in", POLICY_UDP, "10.0.0.0/8", 53)};
    const struct policy_rule out[] = {rule(false, "out", POLICY_UDP, "10.0.0.9", -1)};
    struct policy *to = make(in, 1), *from = make(out, 1);
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 3);
    assert_int_equal(sent(&r, "10.0.0.1", "10.0.0.2", 54), 1 << 2 | 1 << 3);
    switch_port_set(r.ports[2]->sp, &(struct switch_port_config){.policy = to});
    switch_barrier(r.sw);
    assert_int_equal(sent(&r, "10.0.0.1", "10.0.0.2", 54), 1 << 3);
    assert_int_equal(sent(&r, "10.0.0.1", "10.0.0.2", 53), 1 << 2 | 1 << 3);
    assert_int_equal(sent(&r, "11.0.0.1", "10.0.0.2", 53), 1 << 3);
    rig_flow(&r, "priority=60000,actions=output:2,output:3");
    rig_group(&r, "group_id=1,type=all,bucket=actions=output:2,bucket=actions=output:3");
    assert_int_equal(sent(&r, "10.0.0.1", "10.0.0.2", 54), 1 << 3);
    rig_flow(&r, "priority=60000,actions=group:1");
    assert_int_equal(sent(&r, "10.0.0.1", "10.0.0.2", 54), 1 << 3);
    assert_int_equal(sent(&r, "10.0.0.1", "10.0.0.2", 53), 1 << 2 | 1 << 3);
    /* As it is when it gets there. */
    rig_flow(&r, "priority=65535,udp,actions=set_field:53->udp_dst,output:2");
    assert_int_equal(sent(&r, "10.0.0.1", "10.0.0.2", 54), 1 << 2);
    assert_int_equal(sent(&r, "11.0.0.1", "10.0.0.2", 54), 0);
    switch_port_set(r.ports[1]->sp, &(struct switch_port_config){.policy = from});
    switch_barrier(r.sw);
    assert_int_equal(sent(&r, "10.0.0.1", "10.0.0.9", 54), 0);
    assert_int_equal(sent(&r, "10.0.0.1", "10.0.0.8", 54), 1 << 2);
    switch_port_set(r.ports[1]->sp, &(struct switch_port_config){0});
    switch_port_set(r.ports[2]->sp, &(struct switch_port_config){0});
    switch_barrier(r.sw);
    assert_int_equal(sent(&r, "11.0.0.1", "10.0.0.9", 54), 1 << 2);
    rig_close(&r);
    policy_free(to);
    policy_free(from);
}

/* The first 8 bytes of TCP, with the port that is not allowed; the rest of its header comes in the next fragment. */
static void a_tiny_fragment_hides_no_port(void **state)
{
    const struct policy_rule out[] = {rule(false, "out", POLICY_TCP, NULL, 25)};
    struct policy *p = make(out, 1);
    struct rig r;
    uint8_t f[128];
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 2);
    switch_port_set(r.ports[1]->sp, &(struct switch_port_config){.policy = p});
    switch_barrier(r.sw);
    (void)frame_udp(f, "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01", "10.0.0.1", "10.0.0.2", 1000, 25);
    f[17] = 28;   /* of the datagram */
    f[20] = 0x20; /* more fragments */
    f[23] = 6;
    rig_send(&r, 1, f, 14 + 28, 1);
    assert_int_equal(rig_got(&r), 0);
    f[20] = 0;
    f[21] = 1; /* the rest of the header, and what follows it, for which nobody waits */
    rig_send(&r, 1, f, 14 + 28, 1);
    assert_int_equal(rig_got(&r), 1 << 2);
    assert_false(allows(p, POLICY_OUT, "sctp,ip_frag=first"));
    assert_false(allows(p, POLICY_OUT, "tcp6,ip_frag=first"));
    assert_true(allows(p, POLICY_OUT, "tcp,ip_frag=first,tp_src=1000,tp_dst=26"));
    assert_true(allows(p, POLICY_OUT, "tcp"));
    rig_close(&r);
    policy_free(p);
}

/* All of the first fragment is an extension header, so that UDP's comes in the next one. */
static void an_extension_header_hides_no_port(void **state)
{
    const struct policy_rule out[] = {rule(false, "out", POLICY_UDP, NULL, 53)};
    struct policy *p = make(out, 1);
    uint8_t f[70] = {0x02, [11] = 0x0a, [12] = 0x86, 0xdd, 0x60, [19] = 16, 44, 64};
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 2);
    switch_port_set(r.ports[1]->sp, &(struct switch_port_config){.policy = p});
    switch_barrier(r.sw);
    f[54] = 60; /* behind the fragment header: destination options */
    f[57] = 1;  /* more fragments */
    f[62] = 17;
    rig_send(&r, 1, f, sizeof f, 1);
    assert_int_equal(rig_got(&r), 0);
    f[62] = 59;
    rig_send(&r, 1, f, sizeof f, 1);
    assert_int_equal(rig_got(&r), 1 << 2);
    rig_close(&r);
    policy_free(p);
}

/* ARP that calls Ethernet "IEEE 802 networks": there are hosts that take it for the same. */
static void no_hardware_type_hides_arp(void **state)
{
    const struct policy_rule out[] = {rule(false, "out", POLICY_ARP, "10.0.0.9", -1)};
    struct policy *p = make(out, 1);
    uint8_t f[60] = {0x02, [11] = 0x0a, [12] = 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1, [38] = 10, 0, 0, 9};
    struct rig r;
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 2);
    switch_port_set(r.ports[1]->sp, &(struct switch_port_config){.policy = p});
    switch_barrier(r.sw);
    rig_send(&r, 1, f, sizeof f, 1);
    assert_int_equal(rig_got(&r), 0);
    f[15] = 6;
    rig_send(&r, 1, f, sizeof f, 1);
    assert_int_equal(rig_got(&r), 0);
    f[15] = 1;
    f[41] = 8;
    rig_send(&r, 1, f, sizeof f, 1);
    assert_int_equal(rig_got(&r), 1 << 2);
    rig_close(&r);
    policy_free(p);
}

/* Frames at random over warm caches: what arrives is what the policy alone says. */
static void caches_obey(void **state)
{
    const struct policy_rule rules[] = {
        rule(true, "in", POLICY_UDP, "10.0.0.0/30", 53), rule(false, "in", POLICY_UDP, "10.0.0.2", -1),
        rule(true, "in", POLICY_IP, "10.0.1.0/24", -1),  rule(false, "out", POLICY_UDP, "10.0.2.0/25", 99),
        rule(false, "out", POLICY_IP, "10.0.3.3", -1),
    };
    struct policy *p = make(rules, COUNT(rules));
    struct rig r;
    uint64_t seed = 11;
    (void)state;
    rig_open(&r, NULL, BRIDGE_STANDALONE, 2);
    switch_port_set(r.ports[1]->sp, &(struct switch_port_config){.policy = p});
    switch_port_set(r.ports[2]->sp, &(struct switch_port_config){.policy = p});
    switch_barrier(r.sw);
    for (unsigned round = 0; round < 5000; round++) {
        static const unsigned ports[] = {53, 99, 100};
        char src[32], dst[32], packet[160];
        unsigned port = ports[next(&seed) % 3];
        snprintf(src, sizeof src, "10.0.%u.%u", (unsigned)(next(&seed) % 3), (unsigned)(next(&seed) % 5));
        snprintf(dst, sizeof dst, "10.0.%u.%u", 2 + (unsigned)(next(&seed) % 2), (unsigned)(next(&seed) % 5 * 40));
        snprintf(packet, sizeof packet, "udp,nw_src=%s,nw_dst=%s,tp_dst=%u", src, dst, port);
        bool expected = allows(p, POLICY_OUT, packet) && allows(p, POLICY_IN, packet);
        if ((sent(&r, src, dst, port) != 0) != expected) fail_msg("%s: expected %d", packet, expected);
    }
    rig_close(&r);
    policy_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_allow_list_lets_nothing_else_pass),
        cmocka_unit_test(fragments_of_what_is_allowed_pass),
        cmocka_unit_test(what_is_dropped_is_all_that_is),
        cmocka_unit_test(the_first_rule_decides),
        cmocka_unit_test(what_is_wrong_is_refused),
        cmocka_unit_test(what_was_not_looked_at_does_not_matter),
        cmocka_unit_test(its_flows_say_the_same),
        cmocka_unit_test(no_flow_opens_it),
        cmocka_unit_test(a_tiny_fragment_hides_no_port),
        cmocka_unit_test(an_extension_header_hides_no_port),
        cmocka_unit_test(no_hardware_type_hides_arp),
        cmocka_unit_test(caches_obey),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
