/* SPDX-License-Identifier: Apache-2.0 */
/* Anti-spoofing: what each configuration lets through, every way to lie, and that what was looked at is enough. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "switch/guard.h"
#include "switch/test_rig.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define MAC "02:00:00:00:00:0a"
#define OTHER "02:00:00:00:00:0b"
#define LINK_LOCAL "fe80::ff:fe00:a" /* of MAC, EUI-64 */

enum guards { MACS, ADDRESSES, BOTH, ONLY_IPV4, ONLY_IPV6, GUARDS };
static const char *const lists[GUARDS][6] = {
    [MACS] = {MAC},
    [ADDRESSES] = {"10.0.0.5", "10.1.0.0/16", "2001:db8::5", "2001:db8:1::/48"},
    [BOTH] = {MAC, "02:00:00:00:01:00", "10.0.0.5", "10.1.0.0/16", "2001:db8::5"},
    [ONLY_IPV4] = {MAC, "10.0.0.5"},
    [ONLY_IPV6] = {MAC, "2001:db8::5"},
};

static struct guard *make(enum guards which)
{
    struct guard_config c = {0};
    struct errmsg e;
    struct guard *g;
    for (unsigned i = 0; i < COUNT(lists[0]) && lists[which][i]; i++) {
        bool mac = strlen(lists[which][i]) == 17;
        int ret = mac ? guard_add_mac(&c, lists[which][i], &e) : guard_add_prefix(&c, lists[which][i], &e);
        if (ret) fail_msg("%s: %s", lists[which][i], e.text);
    }
    assert_int_equal(guard_new(&g, &c, &e), 0);
    return g;
}

#define ETH "in_port=1,dl_src=" MAC ","
#define NS ETH "icmp6,icmp_type=135,icmp_code=0,"
#define NA ETH "icmp6,icmp_type=136,icmp_code=0,"
#define DHCP ETH "udp,nw_dst=255.255.255.255,"

static const struct test_case {
    enum guards guard;
    const char *packet, *stage; /* NULL: allowed */
} cases[] = {
    /* the source MAC, whatever is in the frame */
    {MACS, ETH "tcp,nw_src=9.9.9.9", NULL},
    {MACS, "in_port=1,dl_src=" OTHER ",tcp,nw_src=9.9.9.9", "source"},
    {MACS, "in_port=1,dl_src=03:00:00:00:00:0a,tcp", "source"},
    {MACS, "in_port=1,dl_src=00:00:00:00:00:00", "source"},
    {MACS, ETH "dl_type=0x88cc", NULL},
    {MACS, ETH "dl_type=0x05ff", NULL},
    {MACS, ETH "tcp,dl_vlan=5", NULL},
    {MACS, "in_port=1,dl_src=" OTHER ",tcp,dl_vlan=5", "source"},
    {BOTH, "in_port=1,dl_src=02:00:00:00:01:00,ip,nw_src=10.0.0.5", NULL},
    {ADDRESSES, "in_port=1,dl_src=" OTHER ",ip,nw_src=10.0.0.5", NULL},
    /* frames that hide others */
    {MACS, ETH "dl_type=0x8100", "type"},
    {MACS, ETH "dl_type=0x88a8", "type"},
    {MACS, ETH "dl_type=0x9100", "type"},
    {MACS, ETH "dl_type=0x88e7,pbb_isid=5", "type"},
    {MACS, ETH "mpls,mpls_label=16", "type"},
    {MACS, ETH "mplsm,mpls_label=16", "type"},
    {BOTH, ETH "mpls,mpls_label=16", "type"},
    {BOTH, ETH "dl_type=0x8100", "type"},
    {BOTH, ETH "dl_type=0x88cc", "type"},
    {BOTH, ETH "dl_type=0x05ff", "type"},
    {ADDRESSES, ETH "dl_type=0x8863", "type"},
    /* ARP */
    {MACS, ETH "arp,arp_op=1,arp_sha=" MAC ",arp_spa=9.9.9.9", NULL},
    {MACS, ETH "arp,arp_op=2,arp_sha=" OTHER ",arp_spa=10.0.0.5", "arp_sha"},
    {MACS, ETH "arp,arp_op=1,arp_spa=10.0.0.5", "arp_sha"},
    {MACS, ETH "arp", "arp"},
    {BOTH, ETH "arp,arp_op=2,arp_sha=" MAC ",arp_spa=10.0.0.5,arp_tpa=10.0.0.1", NULL},
    {BOTH, ETH "arp,arp_op=1,arp_sha=" MAC ",arp_spa=10.1.255.255,arp_tpa=10.0.0.1", NULL},
    {BOTH, ETH "arp,arp_op=1,arp_sha=" MAC ",arp_tpa=10.0.0.5", NULL}, /* a probe */
    {BOTH, ETH "arp,arp_op=2,arp_sha=" MAC ",arp_spa=10.0.0.1", "arp_spa"},
    {BOTH, ETH "arp,arp_op=1,arp_sha=" MAC ",arp_spa=10.0.0.1,arp_tpa=10.0.0.1", "arp_spa"},
    {BOTH, ETH "arp,arp_op=2,arp_sha=" OTHER ",arp_spa=10.0.0.5", "arp_sha"},
    {BOTH, "in_port=1,dl_src=" OTHER ",arp,arp_op=2,arp_sha=" MAC ",arp_spa=10.0.0.5", "source"},
    {BOTH, ETH "arp,arp_op=2,arp_sha=" MAC ",arp_spa=10.0.0.1,dl_vlan=7", "arp_spa"},
    {ADDRESSES, ETH "arp,arp_op=2,arp_sha=" OTHER ",arp_spa=10.0.0.5", NULL},
    {ADDRESSES, ETH "arp,arp_op=2,arp_sha=" OTHER ",arp_spa=10.2.0.1", "arp_spa"},
    {ONLY_IPV6, ETH "arp,arp_op=1,arp_sha=" MAC ",arp_spa=10.0.0.5", "type"},
    {ONLY_IPV6, ETH "rarp,arp_op=3,arp_sha=" MAC, NULL}, /* what hypervisors announce a guest with */
    {BOTH, ETH "rarp,arp_op=3,arp_sha=" MAC, NULL},
    {BOTH, ETH "rarp,arp_op=3,arp_sha=" OTHER, "arp_sha"},
    {BOTH, ETH "rarp,arp_op=4,arp_sha=" MAC ",arp_spa=10.0.0.1", "arp_spa"},
    /* IPv4 */
    {BOTH, ETH "tcp,nw_src=10.0.0.5,tp_dst=80", NULL},
    {BOTH, ETH "ip,nw_src=10.1.2.3,nw_proto=47", NULL},
    {BOTH, ETH "tcp,nw_src=10.0.0.4", "ip"},
    {BOTH, ETH "tcp,nw_src=10.2.0.0", "ip"},
    {BOTH, ETH "tcp,nw_src=255.255.255.255", "ip"},
    {BOTH, ETH "tcp,nw_src=224.0.0.1", "ip"},
    {BOTH, ETH "tcp,nw_src=10.0.0.4,dl_vlan=3", "ip"},
    {BOTH, ETH "udp,nw_src=10.0.0.4,ip_frag=later", "ip"},
    {BOTH, ETH "udp,nw_src=10.0.0.5,ip_frag=later", NULL},
    {ONLY_IPV6, ETH "tcp,nw_src=10.0.0.5", "type"},
    /* DHCP's client, and what looks like it */
    {BOTH, DHCP "tp_src=68,tp_dst=67", NULL},
    {ONLY_IPV4, DHCP "tp_src=68,tp_dst=67", NULL},
    {BOTH, DHCP "tp_src=68,tp_dst=67,nw_src=10.0.0.4", "ip"},
    {BOTH, DHCP "tp_src=67,tp_dst=68", "ip"},
    {BOTH, DHCP "tp_src=68,tp_dst=53", "ip"},
    {BOTH, DHCP "tp_src=68,tp_dst=67,ip_frag=first", "ip"},
    {BOTH, ETH "udp,nw_dst=10.0.0.1,tp_src=68,tp_dst=67", "ip"},
    {BOTH, ETH "tcp,nw_dst=255.255.255.255,tp_src=68,tp_dst=67", "ip"},
    {BOTH, ETH "ip", "ip"}, /* a header that could not be read */
    {ONLY_IPV6, DHCP "tp_src=68,tp_dst=67", "type"},
    /* IPv6 */
    {BOTH, ETH "tcp6,ipv6_src=2001:db8::5", NULL},
    {BOTH, ETH "tcp6,ipv6_src=2001:db8::6", "ip"},
    {ADDRESSES, ETH "tcp6,ipv6_src=2001:db8:1:ffff::1", NULL},
    {ADDRESSES, ETH "tcp6,ipv6_src=2001:db8:2::1", "ip"},
    {BOTH, ETH "tcp6,ipv6_src=" LINK_LOCAL, NULL},
    {BOTH, ETH "tcp6,ipv6_src=fe80::1", "ip"},
    {BOTH, ETH "tcp6,ipv6_src=fe80::ff:fe00:b", "ip"},
    {ADDRESSES, ETH "tcp6,ipv6_src=fe80::1", NULL},
    {BOTH, ETH "tcp6,ipv6_src=ff02::1", "ip"},
    {BOTH, ETH "tcp6,ipv6_src=::1", "ip"},
    {BOTH, ETH "udp6,ipv6_src=" LINK_LOCAL ",tp_src=546,tp_dst=547", NULL}, /* DHCPv6 */
    {ONLY_IPV4, ETH "tcp6,ipv6_src=2001:db8::5", "type"},
    {ONLY_IPV4, ETH "tcp6,ipv6_src=" LINK_LOCAL, "type"},
    {MACS, ETH "tcp6,ipv6_src=fe80::1", NULL},
    /* from :: */
    {BOTH, NS "nd_target=2001:db8::5", NULL},
    {BOTH, NS "nd_target=" LINK_LOCAL, NULL},
    {BOTH, NS "nd_target=2001:db8::6", "nd_target"},
    {BOTH, NS "nd_target=fe80::1", "nd_target"},
    {BOTH, ETH "icmp6,icmp_type=143", NULL},
    {BOTH, ETH "icmp6,icmp_type=131", NULL},
    {BOTH, ETH "icmp6,icmp_type=133", NULL},
    {BOTH, ETH "icmp6,icmp_type=128", "ip"},
    {BOTH, ETH "icmp6,icmp_type=130", "ip"},
    {BOTH, ETH "icmp6,icmp_type=143,ip_frag=first", "ip"},
    {BOTH, ETH "tcp6", "ip"},
    {BOTH, ETH "udp6,tp_src=546,tp_dst=547", "ip"},
    /* neighbour discovery */
    {BOTH, NS "ipv6_src=2001:db8::5,nd_target=2001:db8::1,nd_sll=" MAC, NULL},
    {BOTH, NS "ipv6_src=2001:db8::5,nd_target=2001:db8::1", NULL},
    {BOTH, NS "ipv6_src=2001:db8::5,nd_target=2001:db8::1,nd_sll=" OTHER, "nd_link"},
    {BOTH, NS "ipv6_src=2001:db8::1,nd_target=2001:db8::5,nd_sll=" MAC, "ip"},
    {MACS, NS "ipv6_src=2001:db8::1,nd_target=2001:db8::5,nd_sll=" OTHER, "nd_link"},
    {MACS, NS "ipv6_src=2001:db8::1,nd_target=2001:db8::5,nd_sll=" MAC, NULL},
    {BOTH, NA "ipv6_src=2001:db8::5,nd_target=2001:db8::5,nd_tll=" MAC, NULL},
    {BOTH, NA "ipv6_src=" LINK_LOCAL ",nd_target=2001:db8::5,nd_tll=" MAC, NULL},
    {BOTH, NA "ipv6_src=2001:db8::5,nd_target=" LINK_LOCAL ",nd_tll=" MAC, NULL},
    {BOTH, NA "ipv6_src=2001:db8::5,nd_target=2001:db8::5", NULL},
    {BOTH, NA "ipv6_src=2001:db8::5,nd_target=2001:db8::5,nd_tll=" OTHER, "nd_link"},
    {BOTH, NA "ipv6_src=2001:db8::5,nd_target=2001:db8::1,nd_tll=" MAC, "nd_target"},
    {BOTH, NA "ipv6_src=2001:db8::5,nd_target=fe80::1,nd_tll=" MAC, "nd_target"},
    {BOTH, NA "ipv6_src=2001:db8::1,nd_target=2001:db8::5,nd_tll=" MAC, "ip"},
    {BOTH, NA "nd_target=2001:db8::5,nd_tll=" MAC, "ip"},
    {ADDRESSES, NA "ipv6_src=2001:db8::5,nd_target=2001:db8::1,nd_tll=" OTHER, "nd_target"},
    {ADDRESSES, NA "ipv6_src=2001:db8::5,nd_target=2001:db8::5,nd_tll=" OTHER, NULL},
    {MACS, NA "ipv6_src=2001:db8::5,nd_target=2001:db8::5,nd_tll=" OTHER, "nd_link"},
    {MACS, NA "ipv6_src=2001:db8::5,nd_target=2001:db8::5,nd_tll=" OTHER ",dl_vlan=4", "nd_link"},
    {MACS, NA "ipv6_src=2001:db8::5,nd_tll=" MAC, "nd"}, /* two options of a kind: the key has no target then */
    {BOTH, NS "ipv6_src=2001:db8::5", "nd"},
    {BOTH, ETH "icmp6,ipv6_src=" LINK_LOCAL ",icmp_type=134", "nd_router"},
    {BOTH, ETH "icmp6,ipv6_src=" LINK_LOCAL ",icmp_type=137", "nd_router"},
    {MACS, ETH "icmp6,ipv6_src=" LINK_LOCAL ",icmp_type=134", NULL},
    {BOTH, ETH "icmp6,ipv6_src=" LINK_LOCAL ",icmp_type=128", NULL},
    /* hidden behind extension headers or in fragments */
    {BOTH, ETH "ipv6,nw_proto=0,ipv6_src=2001:db8::5", "hidden"},
    {BOTH, ETH "ipv6,nw_proto=43,ipv6_src=2001:db8::5", "hidden"},
    {MACS, ETH "ipv6,nw_proto=60,ipv6_src=2001:db8::5", "hidden"},
    {MACS, ETH "ipv6,nw_proto=60,ipv6_src=2001:db8::5,ip_frag=first", "hidden"},
    {BOTH, ETH "ipv6,nw_proto=44,ipv6_src=2001:db8::5", "hidden"},
    {BOTH, ETH "ipv6,nw_proto=44,ipv6_src=2001:db8::5,ip_frag=later", NULL},
    {BOTH, ETH "ipv6,nw_proto=44,ipv6_src=2001:db8::6,ip_frag=later", "ip"},
    {BOTH, ETH "udp6,ipv6_src=2001:db8::5,ip_frag=first", NULL},
    {BOTH, NA "ipv6_src=2001:db8::5,nd_target=2001:db8::5,nd_tll=" MAC ",ip_frag=first", "hidden"},
    {MACS, NS "ipv6_src=2001:db8::5,nd_target=2001:db8::5,ip_frag=first", "hidden"},
    {MACS, ETH "icmp6,ipv6_src=2001:db8::5,icmp_type=0,ip_frag=first", "hidden"},
    {MACS, ETH "icmp6,ipv6_src=2001:db8::5,icmp_type=0", "hidden"},
    {MACS, ETH "ipv6,nw_proto=51,ipv6_src=2001:db8::5", "hidden"},
    {MACS, ETH "icmp6,ipv6_src=2001:db8::5,icmp_type=137,ip_frag=first", "hidden"},
    {BOTH, ETH "icmp6,ipv6_src=2001:db8::5,icmp_type=128,ip_frag=first", NULL},
    {BOTH, ETH "ipv6,nw_proto=50,ipv6_src=2001:db8::5", NULL},
};

static struct flow_key packet_of(const char *text)
{
    struct flow_key k;
    struct errmsg e;
    if (flow_parse_key(&k, text, NULL, &e)) fail_msg("%s: %s", text, e.text);
    return k;
}

static void lies_are_dropped_and_the_truth_is_not(void **state)
{
    struct guard *g[GUARDS];
    for (unsigned i = 0; i < GUARDS; i++)
        g[i] = make(i);
    for (unsigned i = 0; i < COUNT(cases); i++) {
        struct flow_key k = packet_of(cases[i].packet), used = {0};
        const char *stage = guard_drops_in(g[cases[i].guard], &k);
        if (!!stage != !!cases[i].stage || (stage && strcmp(stage, cases[i].stage) != 0))
            fail_msg("guard %u, %s: %s", cases[i].guard, cases[i].packet, stage ? stage : "allowed");
        assert_int_equal(guard_allows(g[cases[i].guard], &k, &used), !stage);
    }
    for (unsigned i = 0; i < GUARDS; i++)
        guard_free(g[i]);
}

static void without_a_guard_everything_is_allowed(void **state)
{
    struct flow_key k = packet_of("in_port=1,dl_src=" OTHER ",dl_type=0x8100"), used = {0}, zero = {0};
    struct guard_config none = {0};
    struct guard *g;
    assert_true(guard_allows(NULL, &k, &used));
    assert_null(guard_drops_in(NULL, &k));
    assert_int_equal(guard_new(&g, &none, NULL), 0);
    assert_true(guard_allows(g, &k, &used));
    assert_memory_equal(&used, &zero, sizeof used);
    guard_free(g);
    guard_free(NULL);
}

/* ---- what was looked at ---- */

static uint64_t next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 24;
}

static void flip(struct flow_key *k, unsigned bit)
{
    ((uint8_t *)k)[bit / 8] ^= (uint8_t)(0x80 >> bit % 8);
}

/* Packets near the edge of what is allowed: a case's, with a few bits changed, or a field of another's. */
static struct flow_key near(uint64_t *seed)
{
    struct flow_key k = packet_of(cases[next(seed) % COUNT(cases)].packet);
    struct flow_key other = packet_of(cases[next(seed) % COUNT(cases)].packet);
    for (unsigned n = (unsigned)next(seed) % 3; n > 0; n--) {
        enum field_id id = (enum field_id)(next(seed) % FIELD_COUNT);
        field_set(&k, id, field_get(&other, id));
    }
    for (unsigned n = (unsigned)next(seed) % 3; n > 0; n--)
        flip(&k, (unsigned)next(seed) % (unsigned)(sizeof k * 8));
    return k;
}

/* Any packet with the same bits where the guard looked gets the same answer. */
static void what_it_did_not_look_at_does_not_matter(void **state)
{
    uint64_t seed = 4;
    for (unsigned which = 0; which < GUARDS; which++) {
        struct guard *g = make(which);
        for (unsigned round = 0; round < 3000; round++) {
            struct flow_key k = near(&seed), used = {0}, random, again = {0};
            bool allowed = guard_allows(g, &k, &used);
            for (unsigned bit = 0; bit < sizeof k * 8; bit++) {
                if (((const uint8_t *)&used)[bit / 8] >> (7 - bit % 8) & 1) continue;
                flip(&k, bit);
                assert_int_equal(guard_allows(g, &k, &again), allowed);
                flip(&k, bit);
            }
            for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
                random.words[i] = (k.words[i] & used.words[i]) | ((next(&seed) ^ next(&seed) << 32) & ~used.words[i]);
            assert_int_equal(guard_allows(g, &random, &again), allowed);
        }
        guard_free(g);
    }
}

static unsigned bits_of(const struct flow_key *mask)
{
    unsigned n = 0;
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        n += (unsigned)__builtin_popcountll(mask->words[i]);
    return n;
}

static void what_it_looked_at_is_narrow(void **state)
{
    struct guard *g = make(BOTH);
    struct flow_key used = {0}, k = packet_of("in_port=1,dl_src=06:00:00:00:00:0a,tcp,nw_src=10.0.0.5,tp_dst=80");
    assert_false(guard_allows(g, &k, &used));
    assert_int_equal(bits_of(&used), 16 + 8); /* the type, and the byte of the MAC that is wrong */
    used = (struct flow_key){0};
    k = packet_of(ETH "tcp,nw_src=10.0.0.5,tp_dst=80");
    assert_true(guard_allows(g, &k, &used));
    struct flow_key expected = {.eth_type = be16_make(0xffff), .ipv4_src = be32_make(~0u)};
    memset(expected.eth_src, 0xff, 6);
    assert_memory_equal(&used, &expected, sizeof used);
    guard_free(g);
}

/* However a guest varies what it sends, its masks are few. */
static void lies_do_not_make_many_masks(void **state)
{
    static struct flow_key masks[256];
    struct guard *g = make(BOTH);
    unsigned n = 0;
    uint64_t seed = 9;
    for (unsigned round = 0; round < 20000; round++) {
        struct flow_key k = packet_of(ETH "tcp,nw_src=10.0.0.5"), used = {0};
        for (unsigned i = 0; i < 6; i++)
            if (next(&seed) % 2) k.eth_src[i] = (uint8_t)next(&seed);
        k.ipv4_src = be32_make((uint32_t)next(&seed));
        guard_allows(g, &k, &used);
        unsigned i = 0;
        while (i < n && memcmp(&masks[i], &used, sizeof used) != 0)
            i++;
        assert_true(i < COUNT(masks));
        if (i == n) masks[n++] = used;
    }
    assert_true(n <= 40);
    guard_free(g);
}

/* ---- as flows ---- */

struct rule {
    unsigned stage, priority;
    bool allow;
    struct flow_match match;
};
struct shown {
    unsigned count;
    struct rule rule[1024];
};

static void show(void *arg, const char *stage, const struct flow_spec *f)
{
    struct shown *s = arg;
    struct errmsg e;
    struct flow_spec checked = *f;
    checked.instructions.goto_table = (uint8_t)(f->table + 1);
    if (flow_check(&checked, &e)) fail_msg("%s: %s", stage, e.text);
    assert_true(s->count < COUNT(s->rule));
    s->rule[s->count++] = (struct rule){f->table, f->priority, f->instructions.has_goto, f->match};
}

/* The flows say the same as the guard: looked up as tables are, by priority. */
static bool flows_allow(const struct shown *s, const struct flow_key *k)
{
    for (unsigned stage = 0; stage < 32; stage++) {
        const struct rule *best = NULL;
        for (unsigned i = 0; i < s->count; i++) {
            const struct rule *r = &s->rule[i];
            if (r->stage == stage && flow_match_hits(&r->match, k) && (!best || r->priority > best->priority)) best = r;
        }
        if (best && !best->allow) return false;
    }
    return true;
}

static void its_flows_say_the_same(void **state)
{
    static struct shown shown;
    uint64_t seed = 5;
    for (unsigned which = 0; which < GUARDS; which++) {
        struct guard *g = make(which);
        shown.count = 0;
        guard_each(g, 1, show, &shown);
        for (unsigned round = 0; round < 3000; round++) {
            struct flow_key k = near(&seed), used = {0};
            k.in_port = be32_make(1);
            assert_int_equal(guard_allows(g, &k, &used), flows_allow(&shown, &k));
        }
        guard_free(g);
    }
}

/* ---- frames, in front of the tables ---- */

#define ALL "ff:ff:ff:ff:ff:ff"
#define TWO 4u /* rig_got(): port 2 got something */

static void set_guard(struct rig *r, const struct guard *g)
{
    switch_port_set(r->ports[1]->sp, &(struct switch_port_config){.guard = g});
    switch_barrier(r->sw);
}

static unsigned sent(struct rig *r, const char *mac, const char *ip)
{
    uint8_t f[128];
    unsigned n = frame_udp(f, ALL, mac, ip, "10.0.0.9", 1000, 2000);
    rig_send(r, 1, f, n, 3);
    return rig_got(r);
}

static void no_flow_opens_it(void **state)
{
    struct rig r;
    struct guard *both = make(BOTH), *macs = make(MACS);
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    rig_flow(&r, "priority=65535,in_port=1,actions=output:2");
    assert_int_equal(sent(&r, OTHER, "10.0.0.9"), TWO);
    set_guard(&r, both); /* what the caches know counts no more */
    assert_int_equal(sent(&r, OTHER, "10.0.0.9"), 0);
    assert_int_equal(sent(&r, OTHER, "10.0.0.5"), 0);
    assert_int_equal(sent(&r, MAC, "10.0.0.9"), 0);
    assert_int_equal(sent(&r, MAC, "10.0.0.5"), TWO);
    assert_int_equal(sent(&r, MAC, "10.0.0.4"), 0); /* the megaflow is narrow enough */
    rig_flow(&r, "priority=65535,actions=set_field:" MAC "->eth_src,output:2");
    assert_int_equal(sent(&r, OTHER, "10.0.0.5"), 0);
    assert_int_equal(sent(&r, MAC, "10.1.200.1"), TWO);
    set_guard(&r, macs);
    assert_int_equal(sent(&r, MAC, "10.0.0.9"), TWO);
    assert_int_equal(sent(&r, OTHER, "10.0.0.5"), 0);
    set_guard(&r, NULL);
    assert_int_equal(sent(&r, OTHER, "10.0.0.9"), TWO);
    rig_close(&r);
    guard_free(both);
    guard_free(macs);
}

/* An advertisement of 2001:db8::5 at `mac`, as Ethernet, IPv6, then `between` (of type `first`), ICMPv6, options. */
struct advertisement {
    uint8_t first;
    const uint8_t *between, *options;
    unsigned between_bytes, options_bytes;
};

static unsigned frame_na(uint8_t *f, const struct advertisement *a)
{
    static const uint8_t ethernet[14] = {0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0xa, 0x86, 0xdd};
    static const uint8_t own[16] = {0x20, 1, 0xd, 0xb8, [15] = 5}, all_nodes[16] = {0xff, 2, [15] = 1};
    unsigned payload = a->between_bytes + 24 + a->options_bytes;
    uint8_t *ip = f + 14, *icmp = ip + 40 + a->between_bytes;
    memset(f, 0, 14 + 40 + payload);
    memcpy(f, ethernet, sizeof ethernet);
    ip[0] = 0x60;
    ip[4] = (uint8_t)(payload >> 8);
    ip[5] = (uint8_t)payload;
    ip[6] = a->between_bytes ? a->first : 58;
    ip[7] = 255;
    memcpy(ip + 8, own, 16);
    memcpy(ip + 24, all_nodes, 16);
    if (a->between_bytes) memcpy(ip + 40, a->between, a->between_bytes);
    icmp[0] = 136;
    memcpy(icmp + 8, own, 16);
    if (a->options_bytes) memcpy(icmp + 24, a->options, a->options_bytes);
    return 54 + payload;
}

#define MINE 2, 1, 2, 0, 0, 0, 0, 0xa /* target link-layer address */
#define LIE 2, 1, 2, 0, 0, 0, 0, 0xb

static void advertisements_that_hide_their_lie(void **state)
{
    static const uint8_t mine[] = {MINE}, lie[] = {LIE}, two[] = {MINE, LIE}, reversed[] = {LIE, MINE};
    static const uint8_t behind_another[] = {14, 2, [16] = LIE};
    static const uint8_t behind_all[256] = {14, 31, [248] = LIE}; /* behind what is looked at of a frame */
    static const uint8_t hop[] = {58, 0, 1, 4, 0, 0, 0, 0}, first_fragment[] = {58, 0, 0, 1, 0, 0, 0, 1};
    static const uint8_t later_fragment[] = {58, 0, 0, 8, 0, 0, 0, 1}, long_chain[256] = {58, 31, 1, 252};
    static const uint8_t to_the_edge[200] = {58, 24, 1, 196}; /* just so long that what is behind it is not looked at */
#define OF(array) array, .options_bytes = sizeof array
#define BEHIND(array) array, .between_bytes = sizeof array
    static const struct {
        struct advertisement a;
        bool passes;
    } frames[] = {
        {{.options = OF(mine)}, true},
        {{.options = NULL}, true},
        {{.options = OF(lie)}, false},
        {{.options = OF(two)}, false},
        {{.options = OF(reversed)}, false},
        {{.options = OF(behind_another)}, false},
        {{.options = OF(behind_all)}, false},
        {{.first = 0, .between = BEHIND(hop), .options = OF(mine)}, true},
        {{.first = 0, .between = BEHIND(hop), .options = OF(lie)}, false},
        {{.first = 0, .between = BEHIND(long_chain), .options = OF(lie)}, false},
        {{.first = 60, .between = BEHIND(long_chain), .options = OF(mine)}, false},
        {{.first = 60, .between = BEHIND(to_the_edge), .options = OF(lie)}, false},
        {{.first = 60, .between = BEHIND(to_the_edge), .options = OF(mine)}, false},
        {{.first = 0, .between = BEHIND(to_the_edge), .options = OF(lie)}, false},
        {{.first = 51, .between = BEHIND(to_the_edge), .options = OF(lie)}, false},
        {{.first = 44, .between = BEHIND(first_fragment), .options = OF(mine)}, false},
        {{.first = 44, .between = BEHIND(first_fragment), .options = OF(lie)}, false},
        {{.first = 44, .between = BEHIND(later_fragment), .options = OF(lie)}, true}, /* of no use without the first */
    };
    struct rig r;
    struct guard *guards[] = {make(BOTH), make(MACS)};
    uint8_t f[1024];
    rig_open(&r, NULL, BRIDGE_STANDALONE, 2);
    for (unsigned g = 0; g < 2; g++) {
        set_guard(&r, guards[g]);
        for (unsigned i = 0; i < COUNT(frames); i++) {
            unsigned n = frame_na(f, &frames[i].a);
            rig_send(&r, 1, f, n, 2);
            if (rig_got(&r) != (frames[i].passes ? TWO : 0)) fail_msg("guard %u, frame %u", g, i);
            for (unsigned tags = 1; tags <= 3; tags++) {
                n = frame_tag(f, n, tags == 1 ? 0x8100 : 0x88a8, tags);
                rig_send(&r, 1, f, n, 2);
                if (rig_got(&r) != (frames[i].passes && tags < 3 ? TWO : 0))
                    fail_msg("guard %u, frame %u, %u tags", g, i, tags);
            }
        }
    }
    rig_close(&r);
    guard_free(guards[0]);
    guard_free(guards[1]);
}

/* ---- configuration ---- */

static void addresses_that_no_port_has_are_refused(void **state)
{
    static const char *const macs[] = {"",
                                       "01:00:00:00:00:01",
                                       "00:00:00:00:00:00",
                                       "02:00:00:00:00",
                                       "02:00:00:00:00:0g",
                                       "ff:ff:ff:ff:ff:ff",
                                       "02:00:00:00:00:00/ff:ff:ff:00:00:00"};
    static const char *const ips[] = {"",
                                      "10.0.0",
                                      "10.0.0.0/33",
                                      "224.0.0.1",
                                      "0.0.0.0",
                                      "::",
                                      "ff02::1",
                                      "fe80::/129",
                                      "host",
                                      "10.0.0.1/255.0.255.0",
                                      "10.0.0.1/",
                                      "/8",
                                      "2001:db8::/ffff:0:ffff::"};
    struct guard_config c = {0};
    struct errmsg e;
    for (unsigned i = 0; i < COUNT(macs); i++)
        assert_int_equal(guard_add_mac(&c, macs[i], &e), -EINVAL);
    for (unsigned i = 0; i < COUNT(ips); i++)
        assert_int_equal(guard_add_prefix(&c, ips[i], &e), -EINVAL);
    assert_int_equal(c.macs + c.prefixes, 0);
    struct guard *g;
    c = (struct guard_config){.prefixes = 1, .prefix = {{.length = 33, .address = {10}}}};
    assert_int_equal(guard_new(&g, &c, &e), -EINVAL);
    c = (struct guard_config){.macs = GUARD_MACS_MAX + 1};
    assert_int_equal(guard_new(&g, &c, &e), -EINVAL);
}

static void lists_are_bounded(void **state)
{
    struct guard_config c = {0}, other;
    struct errmsg e;
    struct guard *g;
    char text[64];
    for (unsigned i = 0; i < GUARD_MACS_MAX; i++) {
        snprintf(text, sizeof text, "02:00:00:00:00:%02x", i);
        assert_int_equal(guard_add_mac(&c, text, &e), 0);
    }
    for (unsigned i = 0; i < GUARD_PREFIXES_MAX; i++) {
        snprintf(text, sizeof text, i % 2 ? "10.0.%u.0/24" : "2001:db8:%x::/48", i);
        assert_int_equal(guard_add_prefix(&c, text, &e), 0);
    }
    assert_int_equal(guard_add_mac(&c, MAC, &e), -ENOSPC);
    assert_int_equal(guard_add_prefix(&c, "10.0.0.1", &e), -ENOSPC);
    other = c;
    assert_true(guard_config_equal(&c, &other));
    other.prefix[63].length--;
    assert_false(guard_config_equal(&c, &other));
    assert_int_equal(guard_new(&g, &c, &e), 0);
    assert_true(guard_config_equal(guard_config_of(g), &c));
    struct flow_key used = {0}, k = packet_of("in_port=1,dl_src=02:00:00:00:00:0f,ip,nw_src=10.0.63.255");
    assert_true(guard_allows(g, &k, &used));
    k.ipv4_src = be32_make(0x0a004000);
    assert_false(guard_allows(g, &k, &used));
    guard_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lies_are_dropped_and_the_truth_is_not),
        cmocka_unit_test(without_a_guard_everything_is_allowed),
        cmocka_unit_test(what_it_did_not_look_at_does_not_matter),
        cmocka_unit_test(what_it_looked_at_is_narrow),
        cmocka_unit_test(lies_do_not_make_many_masks),
        cmocka_unit_test(its_flows_say_the_same),
        cmocka_unit_test(no_flow_opens_it),
        cmocka_unit_test(advertisements_that_hide_their_lie),
        cmocka_unit_test(addresses_that_no_port_has_are_refused),
        cmocka_unit_test(lists_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
