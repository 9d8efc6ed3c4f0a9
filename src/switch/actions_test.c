/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every field of OpenFlow 1.3 matched and set, and every action, on real packets: flows, a packet in, the packet out, byte by byte.
 *
 * Packets are written as layers, outermost first; sums and lengths are right unless a case says otherwise:
 *
 *     eth vlan(p=3,v=100) ip4(ttl=64) tcp(s=11111,d=2222)
 */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "switch/test_rig.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define FRAME_MAX 512u

/* ---- packets from text ---- */

struct built {
    uint8_t bytes[FRAME_MAX];
    size_t n;
};

struct layer {
    char name[16], args[160];
};

static void put(uint8_t *at, uint64_t v, unsigned bytes)
{
    while (bytes-- > 0) {
        at[bytes] = (uint8_t)v;
        v >>= 8;
    }
}

/* What is said of a layer, or else. */
static const char *said(const struct layer *l, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = l->args; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, name, n) == 0 && at[n] == '=') return at + n + 1;
    return NULL;
}

static uint64_t number(const struct layer *l, const char *name, uint64_t otherwise)
{
    const char *v = said(l, name);
    return v ? strtoull(v, NULL, 0) : otherwise;
}

static void text(const struct layer *l, const char *name, const char *otherwise, char out[64])
{
    const char *v = said(l, name);
    snprintf(out, 64, "%.*s", v ? (int)strcspn(v, ",") : 63, v ? v : otherwise);
}

static void mac(uint8_t *at, const struct layer *l, const char *name, const char *otherwise)
{
    char v[64];
    text(l, name, otherwise, v);
    assert_int_equal(sscanf(v, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", at, at + 1, at + 2, at + 3, at + 4, at + 5), 6);
}

static void address(uint8_t *at, int family, const struct layer *l, const char *name, const char *otherwise)
{
    char v[64];
    text(l, name, otherwise, v);
    assert_int_equal(inet_pton(family, v, at), 1);
}

static bool is(const struct layer *l, const char *name)
{
    return strcmp(l->name, name) == 0;
}

static unsigned type_of(const struct layer *l)
{
    static const struct {
        const char *name;
        unsigned type;
    } types[] = {{"vlan", 0x8100},  {"svlan", 0x88a8}, {"qtag", 0x9100}, {"itag", 0x88e7}, {"mpls", 0x8847},
                 {"mplsm", 0x8848}, {"ip4", 0x0800},   {"ip6", 0x86dd},  {"arp", 0x0806}};
    for (unsigned i = 0; i < COUNT(types); i++)
        if (is(l, types[i].name)) return types[i].type;
    return 0x88b5; /* for experiments */
}

static unsigned proto_of(const struct layer *l)
{
    static const struct {
        const char *name;
        unsigned proto;
    } protos[] = {{"tcp", 6}, {"udp", 17},     {"sctp", 132}, {"icmp", 1},  {"icmp6", 58}, {"ns", 58},   {"na", 58},
                  {"hop", 0}, {"routing", 43}, {"frag", 44},  {"auth", 51}, {"dest", 60},  {"none", 59}, {"esp", 50}};
    for (unsigned i = 0; i < COUNT(protos); i++)
        if (is(l, protos[i].name)) return protos[i].proto;
    return 253;
}

static uint32_t sum_of(const uint8_t *at, size_t n, uint32_t sum)
{
    for (size_t i = 0; i < n; i++)
        sum += (uint32_t)at[i] << (i % 2 ? 0 : 8);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static uint32_t crc32c(const uint8_t *at, size_t n)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        crc ^= at[i];
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
    }
    return ~crc;
}

/* The IP header (p: its protocol as the pseudo header has it) that the sum is for. */
static void l4_sum(uint8_t *l4, size_t n, unsigned at, const uint8_t *ip, unsigned proto)
{
    uint32_t pseudo = (uint32_t)n + proto;
    pseudo = ip[0] >> 4 == 4 ? sum_of(ip + 12, 8, pseudo) : sum_of(ip + 8, 32, pseudo);
    put(l4 + at, ~sum_of(l4, n, pseudo) & 0xffff, 2);
    if (proto == 17 && l4[at] == 0 && l4[at + 1] == 0) put(l4 + at, 0xffff, 2);
}

/* Layer i and what follows, at `at`; how long that is. ip: the last IP header. */
static size_t build(const struct layer *l, unsigned i, unsigned count, uint8_t *at, uint8_t *ip, unsigned proto);

static size_t payload(uint8_t *at, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (uint8_t)(i + 1);
    return bytes;
}

static size_t build_ip(const struct layer *l, unsigned i, unsigned count, uint8_t *at)
{
    bool four = is(&l[i], "ip4");
    size_t header = four ? 20 : 40;
    unsigned proto = (unsigned)number(&l[i], "p", i + 1 < count ? proto_of(&l[i + 1]) : 253);
    unsigned tos = (unsigned)number(&l[i], "tos", 32), ttl = (unsigned)number(&l[i], "ttl", 64);
    if (four) {
        at[0] = 0x45, at[1] = (uint8_t)tos, at[8] = (uint8_t)ttl, at[9] = (uint8_t)proto;
        address(at + 12, AF_INET, &l[i], "s", "192.168.10.10");
        address(at + 16, AF_INET, &l[i], "d", "192.168.20.20");
    } else {
        put(at, 6u << 28 | tos << 20 | (unsigned)number(&l[i], "fl", 100), 4);
        at[6] = (uint8_t)proto, at[7] = (uint8_t)ttl;
        address(at + 8, AF_INET6, &l[i], "s", "10::10");
        address(at + 24, AF_INET6, &l[i], "d", "20::20");
    }
    size_t rest = build(l, i + 1, count, at + header, at, proto);
    if (four) {
        put(at + 2, header + rest, 2);
        put(at + 10, ~sum_of(at, 20, 0) & 0xffff, 2);
    } else {
        put(at + 4, rest, 2);
    }
    return header + rest;
}

static size_t build_extension(const struct layer *l, unsigned i, unsigned count, uint8_t *at, uint8_t *ip)
{
    unsigned next = i + 1 < count ? proto_of(&l[i + 1]) : 59;
    size_t bytes = is(&l[i], "auth") ? 16 : 8;
    at[0] = (uint8_t)next;
    if (is(&l[i], "auth")) at[1] = 2;
    if (is(&l[i], "hop") || is(&l[i], "dest")) at[2] = 1, at[3] = 4;
    if (is(&l[i], "frag")) put(at + 4, 77, 4);
    return bytes + build(l, i + 1, count, at + bytes, ip, next);
}

static size_t build_tcp_udp_sctp(const struct layer *l, uint8_t *at, const uint8_t *ip, unsigned proto)
{
    size_t n = is(l, "tcp") ? 20 : is(l, "udp") ? 8 : 12;
    put(at, number(l, "s", 11111), 2);
    put(at + 2, number(l, "d", 2222), 2);
    n += payload(at + n, 31);
    if (is(l, "tcp")) {
        put(at + 12, 0x5000 | number(l, "f", 0x10), 2);
        l4_sum(at, n, 16, ip, proto);
    } else if (is(l, "udp")) {
        put(at + 4, n, 2);
        l4_sum(at, n, 6, ip, proto);
    } else {
        uint32_t crc = htonl(crc32c(at, n));
        put(at + 8, __builtin_bswap32(ntohl(crc)), 4);
    }
    return n;
}

static size_t build_icmp(const struct layer *l, uint8_t *at, const uint8_t *ip)
{
    bool ns = is(l, "ns"), na = is(l, "na");
    size_t n = 8;
    at[0] = (uint8_t)number(l, "t", ns ? 135 : na ? 136 : is(l, "icmp") ? 8 : 128);
    at[1] = (uint8_t)number(l, "c", 0);
    if (ns || na) {
        address(at + 8, AF_INET6, l, "target", "20::20");
        at[24] = ns ? 1 : 2, at[25] = 1;
        mac(at + 26, l, "ll", "22:22:22:22:22:22");
        n = 32;
    } else {
        n += payload(at + 8, 30);
    }
    if (is(l, "icmp")) put(at + 2, ~sum_of(at, n, 0) & 0xffff, 2);
    else l4_sum(at, n, 2, ip, 58);
    return n;
}

static size_t build_arp(const struct layer *l, uint8_t *at)
{
    put(at, UINT64_C(0x0001080006040000) | number(l, "o", 1), 8);
    mac(at + 8, l, "sha", "12:11:11:11:11:11");
    address(at + 14, AF_INET, l, "spa", "192.168.10.10");
    mac(at + 18, l, "tha", "22:22:22:22:22:22");
    address(at + 24, AF_INET, l, "tpa", "192.168.20.20");
    return 28 + payload(at + 28, 18);
}

/* What stands before a type: addresses, a tag, an I-TAG. */
static size_t build_tag(const struct layer *l, unsigned i, unsigned count, uint8_t *at, uint8_t *ip)
{
    size_t n = 4;
    if (is(&l[i], "eth")) {
        n = 14;
        mac(at, &l[i], "d", "22:22:22:22:22:22");
        mac(at + 6, &l[i], "s", "12:11:11:11:11:11");
    } else if (is(&l[i], "itag")) {
        put(at, number(&l[i], "p", 0) << 29 | number(&l[i], "i", 100), 4);
        return 4 + build(l, i + 1, count, at + 4, ip, 0);
    } else {
        put(at, number(&l[i], "p", 3) << 13 | number(&l[i], "v", 100), 2);
    }
    put(at + n - 2, number(&l[i], "type", i + 1 < count ? type_of(&l[i + 1]) : 0x88b5), 2);
    return n + build(l, i + 1, count, at + n, ip, 0);
}

static size_t build_mpls(const struct layer *l, unsigned i, unsigned count, uint8_t *at, uint8_t *ip)
{
    bool last = i + 1 == count || (!is(&l[i + 1], "mpls") && !is(&l[i + 1], "mplsm"));
    put(at,
        number(&l[i], "l", 100) << 12 | number(&l[i], "c", 3) << 9 | number(&l[i], "b", last) << 8 |
            number(&l[i], "ttl", 64),
        4);
    return 4 + build(l, i + 1, count, at + 4, ip, 0);
}

static size_t build(const struct layer *l, unsigned i, unsigned count, uint8_t *at, uint8_t *ip, unsigned proto)
{
    static const char *const extensions[] = {"hop", "dest", "routing", "frag", "auth"};
    if (i == count) return payload(at, 20);
    for (unsigned e = 0; e < COUNT(extensions); e++)
        if (is(&l[i], extensions[e])) return build_extension(l, i, count, at, ip);
    if (is(&l[i], "ip4") || is(&l[i], "ip6")) return build_ip(l, i, count, at);
    if (is(&l[i], "mpls") || is(&l[i], "mplsm")) return build_mpls(l, i, count, at, ip);
    if (is(&l[i], "arp")) return build_arp(&l[i], at);
    if (is(&l[i], "tcp") || is(&l[i], "udp") || is(&l[i], "sctp"))
        return build_tcp_udp_sctp(&l[i], at, ip, proto_of(&l[i]) == 132 ? 132 : proto);
    if (is(&l[i], "icmp") || is(&l[i], "icmp6") || is(&l[i], "ns") || is(&l[i], "na")) return build_icmp(&l[i], at, ip);
    if (is(&l[i], "none") || is(&l[i], "esp")) return payload(at, 20);
    return build_tag(l, i, count, at, ip);
}

static void packet(struct built *b, const char *t)
{
    struct layer layers[16] = {0};
    unsigned count = 0;
    memset(b, 0, sizeof *b);
    while (*t) {
        struct layer *l = &layers[count++];
        size_t n = strcspn(t, " ("), whole = strcspn(t, " ");
        snprintf(l->name, sizeof l->name, "%.*s", (int)n, t);
        if (t[n] == '(') snprintf(l->args, sizeof l->args, "%.*s", (int)(whole - n - 2), t + n + 1);
        t += whole + strspn(t + whole, " ");
    }
    b->n = build(layers, 0, count, b->bytes, NULL, 0);
    assert_true(b->n <= 192);
}

/* ---- cases ---- */

struct test_case {
    const char *flows;    /* separated by ';' */
    const char *in, *out; /* out: at port 2; NULL: nothing */
};

static void add_flows(struct rig *r, const char *flows)
{
    char one[256];
    for (const char *at = flows; *at;) {
        size_t n = strcspn(at, ";");
        snprintf(one, sizeof one, "%.*s", (int)n, at);
        rig_flow(r, one);
        at += n + (at[n] == ';');
    }
}

static void show(const char *what, const uint8_t *bytes, size_t n)
{
    print_message("%s %3zu:", what, n);
    for (size_t i = 0; i < n; i++)
        print_message("%s%02x", i % 2 ? "" : " ", bytes[i]);
    print_message("\n");
}

static void send_out(struct rig *r, const struct built *b)
{
    struct errmsg e;
    struct action table = {.type = ACTION_OUTPUT, .output = {.port = SWITCH_PORT_TABLE}};
    struct action_list l = {.count = 1, .list = &table};
    assert_int_equal(bridge_packet_out(r->bridge, 1, &l, b->bytes, b->n, NULL, &e), 0);
}

static bool check_one(const struct test_case *c)
{
    struct rig r;
    struct built in, out;
    bool right = true;
    rig_open(&r, NULL, BRIDGE_SECURE, 2);
    add_flows(&r, c->flows);
    packet(&in, c->in);
    if (c->out) packet(&out, c->out);
    for (unsigned round = 0; round < 3;
         round++) { /* translated, then by what is remembered of that, then from a controller */
        r.ports[2]->got = 0;
        if (round < 2) rig_send(&r, 1, in.bytes, (unsigned)in.n, 1);
        else send_out(&r, &in);
        const uint8_t *got = r.ports[2]->last[0].bytes;
        if (r.ports[2]->got != (c->out ? 1 : 0)) {
            print_message("%s\n%s: %u came out\n", c->flows, c->in, r.ports[2]->got);
            right = false;
        } else if (c->out && (r.ports[2]->last[0].length != out.n || memcmp(got, out.bytes, out.n) != 0)) {
            print_message("%s\n%s\n%s\n", c->flows, c->in, c->out);
            show("expected", out.bytes, out.n);
            show("got     ", got, r.ports[2]->last[0].length);
            right = false;
        }
    }
    rig_close(&r);
    return right;
}

static void check_all(const struct test_case *cases, unsigned count)
{
    unsigned wrong = 0;
    for (unsigned i = 0; i < count; i++)
        wrong += !check_one(&cases[i]);
    assert_int_equal(wrong, 0);
}

#define TCP4 "ip4 tcp"
#define TCP6 "ip6 tcp"

static const struct test_case tags[] = {
    /* Pushed tags have what the one below has; without one 0. */
    {"ip,actions=push_vlan:0x8100,output:2", "eth " TCP4, "eth vlan(p=0,v=0) " TCP4},
    {"arp,actions=push_vlan:0x88a8,output:2", "eth arp", "eth svlan(p=0,v=0) arp"},
    {"ip,actions=push_vlan:0x88a8,output:2", "eth vlan " TCP4, "eth svlan vlan " TCP4},
    {"ipv6,actions=push_vlan:0x8100,output:2", "eth vlan " TCP6, "eth vlan vlan " TCP6},
    {"ip,actions=push_vlan:0x88a8,set_field:0x1005->vlan_vid,set_field:1->vlan_pcp,output:2", "eth vlan " TCP4,
     "eth svlan(p=1,v=5) vlan " TCP4},
    {"ip,actions=write_actions(push_vlan:0x8100,set_field:0x1005->vlan_vid,output:2)", "eth " TCP4,
     "eth vlan(p=0,v=5) " TCP4},
    {"vlan_vid=0x1000/0x1000,actions=pop_vlan,output:2", "eth vlan " TCP4, "eth " TCP4},
    {"vlan_vid=0x100a,actions=pop_vlan,output:2", "eth svlan(v=10,p=0) vlan arp", "eth vlan arp"},
    {"vlan_vid=0x1064,ip,actions=pop_vlan,output:2", "eth vlan vlan(v=3) svlan(v=4) " TCP4, NULL},
    {"vlan_vid=0x1064,actions=pop_vlan,goto_table:1;table=1,ip,actions=dec_ttl,output:2",
     "eth vlan vlan(v=3) svlan(v=4) " TCP4, "eth vlan(v=3) svlan(v=4) ip4(ttl=63) tcp"},
    {"vlan_vid=0x1064,actions=pop_vlan,goto_table:1;table=1,ip,tcp,tp_dst=2222,actions=output:2", "eth vlan " TCP4,
     "eth " TCP4},
    {"vlan_vid=0x1064,actions=set_field:0x10cb->vlan_vid,output:2", "eth vlan " TCP4, "eth vlan(v=203) " TCP4},
    {"vlan_vid=0x1064,vlan_pcp=3,actions=set_field:5->vlan_pcp,output:2", "eth vlan " TCP6, "eth vlan(p=5) " TCP6},
    /* Labels */
    {"ip,actions=push_mpls:0x8847,output:2", "eth " TCP4, "eth mpls(l=0,c=0,ttl=64) " TCP4},
    {"ipv6,actions=push_mpls:0x8848,output:2", "eth ip6(ttl=9) tcp", "eth mplsm(l=0,c=0,ttl=9) ip6(ttl=9) tcp"},
    {"arp,actions=push_mpls:0x8847,output:2", "eth arp", "eth mpls(l=0,c=0,ttl=0) arp"},
    {"ip,actions=push_mpls:0x8847,output:2", "eth vlan " TCP4, "eth vlan mpls(l=0,c=0,ttl=64) " TCP4},
    {"ip,actions=push_mpls:0x8847,push_mpls:0x8847,output:2", "eth " TCP4,
     "eth mpls(l=0,c=0,ttl=64,b=0) mpls(l=0,c=0,ttl=64) " TCP4},
    /* Of more than two tags the third is what the frame carries; not so when it was pushed. */
    {"dl_type=0x88a8,actions=push_mpls:0x8847,set_field:5->mpls_label,output:2", "eth vlan vlan svlan(v=4) arp",
     "eth vlan vlan mpls(l=5,c=0,ttl=0) svlan(v=4) arp"},
    {"mpls,actions=pop_mpls:0x88a8,output:2", "eth vlan vlan mpls svlan(v=4) arp", "eth vlan vlan svlan(v=4) arp"},
    {"ip,actions=push_vlan:0x8100,push_mpls:0x8847,push_mpls:0x8847,set_field:5->mpls_label,output:2",
     "eth vlan vlan " TCP4, "eth vlan vlan vlan mpls(l=5,c=0,ttl=64,b=0) mpls(l=0,c=0,ttl=64) " TCP4},
    /* 0x9100 is no tag to a flow (it may match 0x8100 and 0x88a8), so it is a type like any other. */
    {"dl_type=0x9100,actions=push_mpls:0x8847,output:2", "eth qtag arp", "eth mpls(l=0,c=0,ttl=0) qtag arp"},
    {"dl_type=0x9100,actions=push_mpls:0x8847,set_field:5->mpls_label,output:2", "eth vlan qtag arp",
     "eth vlan mpls(l=5,c=0,ttl=0) qtag arp"},
    {"mpls,actions=pop_mpls:0x9100,output:2", "eth mpls qtag arp", "eth qtag arp"},
    {"mpls,actions=push_mpls:0x8847,output:2", "eth mpls(l=7,c=5,ttl=3) arp",
     "eth mpls(l=7,c=5,ttl=3,b=0) mpls(l=7,c=5,ttl=3) arp"},
    {"mpls,actions=pop_mpls:0x0800,output:2", "eth mpls " TCP4, "eth " TCP4},
    {"mpls,actions=pop_mpls:0x86dd,output:2", "eth vlan mpls " TCP6, "eth vlan " TCP6},
    {"mpls,actions=pop_mpls:0x8847,output:2", "eth mpls mpls(l=5) arp", "eth mpls(l=5) arp"},
    {"mpls,actions=pop_mpls:0x0806,goto_table:1;table=1,arp,arp_op=1,actions=output:2", "eth mpls arp", "eth arp"},
    {"mpls,mpls_label=100,actions=set_field:203->mpls_label,output:2", "eth mpls " TCP4, "eth mpls(l=203) " TCP4},
    {"mpls,mpls_tc=3,actions=set_field:5->mpls_tc,output:2", "eth vlan mpls " TCP6, "eth vlan mpls(c=5) " TCP6},
    {"mpls,mpls_bos=1,actions=set_field:0->mpls_bos,output:2", "eth mpls " TCP4, "eth mpls(b=0) " TCP4},
    {"mpls,mpls_bos=1,actions=set_field:0->mpls_bos,output:2", "eth mpls arp", "eth mpls(b=0) arp"},
    {"mpls,mpls_bos=0,actions=set_field:1->mpls_bos,output:2", "eth mpls mpls arp", "eth mpls(b=1) mpls arp"},
    {"mpls,actions=set_mpls_ttl(32),output:2", "eth mpls " TCP4, "eth mpls(ttl=32) " TCP4},
    {"mpls,actions=dec_mpls_ttl,output:2", "eth mpls arp", "eth mpls(ttl=63) arp"},
    {"mpls,actions=dec_mpls_ttl,output:2", "eth mpls(ttl=1) arp", NULL},
    {"mpls,actions=copy_ttl_out,output:2", "eth mpls ip4(ttl=32) tcp", "eth mpls(ttl=32) ip4(ttl=32) tcp"},
    {"mpls,actions=copy_ttl_out,output:2", "eth mpls ip6(ttl=32) udp", "eth mpls(ttl=32) ip6(ttl=32) udp"},
    {"mpls,actions=copy_ttl_out,output:2", "eth mpls mpls(ttl=9) arp", "eth mpls(ttl=9) mpls(ttl=9) arp"},
    {"mpls,actions=copy_ttl_in,output:2", "eth mpls ip4(ttl=32) tcp", "eth mpls ip4(ttl=64) tcp"},
    {"mpls,actions=copy_ttl_in,output:2", "eth vlan mpls ip6(ttl=32) tcp", "eth vlan mpls ip6(ttl=64) tcp"},
    {"mpls,actions=copy_ttl_in,output:2", "eth mpls mpls(ttl=9) arp", "eth mpls mpls(ttl=64) arp"},
    /* Provider backbone bridging */
    {"ip,actions=push_pbb:0x88e7,output:2", "eth " TCP4, "eth itag(i=0) eth " TCP4},
    {"ipv6,actions=push_pbb:0x88e7,output:2", "eth " TCP6, "eth itag(i=0) eth " TCP6},
    {"arp,actions=push_pbb:0x88e7,push_pbb:0x88e7,output:2", "eth arp", "eth itag(i=0) eth itag(i=0) eth arp"},
    {"ip,actions=push_pbb:0x88e7,output:2", "eth vlan " TCP4, "eth itag(i=0,p=3) eth vlan " TCP4},
    {"dl_type=0x88e7,actions=push_pbb:0x88e7,output:2", "eth itag(i=77) eth arp",
     "eth itag(i=77) eth itag(i=77) eth arp"},
    {"ip,actions=push_pbb:0x88e7,set_field:203->pbb_isid,set_field:02:00:00:00:00:01->eth_dst,output:2", "eth " TCP4,
     "eth(d=02:00:00:00:00:01) itag(i=203) eth " TCP4},
    {"ip,actions=push_pbb:0x88e7,push_vlan:0x88a8,set_field:0x100a->vlan_vid,output:2", "eth " TCP4,
     "eth svlan(p=0,v=10) itag(i=0) eth " TCP4},
    {"dl_type=0x88e7,actions=pop_pbb,output:2", "eth itag eth svlan(v=10,p=0) vlan " TCP4,
     "eth svlan(v=10,p=0) vlan " TCP4},
    {"dl_type=0x88e7,actions=pop_pbb,output:2", "eth itag eth(d=02:00:00:00:00:01) svlan vlan arp",
     "eth(d=02:00:00:00:00:01) svlan vlan arp"},
    {"dl_type=0x88e7,actions=pop_pbb,goto_table:1;table=1,ipv6,tcp6,tp_src=11111,actions=output:2",
     "eth itag eth " TCP6, "eth " TCP6},
    {"dl_type=0x88e7,pbb_isid=100,actions=set_field:203->pbb_isid,output:2",
     "eth svlan(v=10) itag eth svlan vlan " TCP4, "eth svlan(v=10) itag(i=203) eth svlan vlan " TCP4},
    {"dl_type=0x88e7,pbb_isid=0x64/0xff,actions=set_field:203->pbb_isid,output:2", "eth itag(i=0x164,p=5) eth arp",
     "eth itag(i=203,p=5) eth arp"},
    {"dl_type=0x88e7,pbb_isid=101,actions=output:2", "eth itag eth arp", NULL},
};

static const struct test_case fields_of_l2_l3[] = {
    {"dl_dst=22:22:22:22:22:22,actions=set_field:02:00:00:00:00:09->eth_dst,output:2", "eth vlan " TCP4,
     "eth(d=02:00:00:00:00:09) vlan " TCP4},
    {"dl_src=12:11:11:00:00:00/ff:ff:ff:00:00:00,actions=set_field:02:00:00:00:00:09->eth_src,output:2", "eth arp",
     "eth(s=02:00:00:00:00:09) arp"},
    {"ip,actions=set_field:0x8848->eth_type,output:2", "eth " TCP4, "eth(type=0x8848) " TCP4},
    {"dl_type=0x88a8,actions=set_field:0x8848->eth_type,output:2", "eth vlan vlan svlan arp",
     "eth vlan vlan(type=0x8848) svlan arp"},
    {"dl_type=0x9100,actions=set_field:0x8848->eth_type,output:2", "eth qtag arp", "eth(type=0x8848) qtag arp"},
    {"arp,actions=set_field:0x8848->eth_type,output:2", "eth vlan arp", "eth vlan(type=0x8848) arp"},
    {"ip,ip_dscp=8,actions=set_field:40->ip_dscp,output:2", "eth " TCP4, "eth ip4(tos=160) tcp"},
    {"ipv6,ip_dscp=8,actions=set_field:40->ip_dscp,output:2", "eth vlan " TCP6, "eth vlan ip6(tos=160) tcp"},
    {"ip,nw_ecn=2,actions=set_field:1->nw_ecn,output:2", "eth ip4(tos=34) udp", "eth ip4(tos=33) udp"},
    {"ipv6,nw_ecn=2,actions=set_field:1->nw_ecn,output:2", "eth ip6(tos=34) udp", "eth ip6(tos=33) udp"},
    {"ip,nw_proto=6,actions=set_field:17->nw_proto,output:2", "eth " TCP4, "eth ip4(p=17) tcp"},
    {"ipv6,nw_proto=6,actions=set_field:17->nw_proto,output:2", "eth " TCP6, "eth ip6(p=17) tcp"},
    {"mpls,actions=pop_mpls:0x0800,goto_table:1;table=1,tcp,actions=set_field:17->nw_proto,output:2", "eth mpls " TCP4,
     "eth ip4(p=17) tcp"},
    {"dl_type=0x88e7,actions=pop_pbb,goto_table:1;table=1,tcp6,actions=set_field:17->nw_proto,output:2",
     "eth itag eth " TCP6, "eth ip6(p=17) tcp"},
    {"ip,nw_src=192.168.10.0/24,actions=set_field:10.10.10.10->ip_src,output:2", "eth " TCP4,
     "eth ip4(s=10.10.10.10) tcp"},
    {"ip,nw_dst=192.168.20.20,actions=set_field:10.10.10.10->ip_dst,output:2", "eth vlan ip4 udp",
     "eth vlan ip4(d=10.10.10.10) udp"},
    {"ip,nw_dst=192.168.20.20,actions=set_field:10.10.10.10->ip_dst,output:2", "eth ip4 sctp",
     "eth ip4(d=10.10.10.10) sctp"},
    {"ip,actions=set_field:10.10.10.10->ip_src,output:2", "eth ip4 icmp", "eth ip4(s=10.10.10.10) icmp"},
    {"ip,actions=dec_ttl,output:2", "eth " TCP4, "eth ip4(ttl=63) tcp"},
    {"ipv6,actions=dec_ttl,output:2", "eth vlan " TCP6, "eth vlan ip6(ttl=63) tcp"},
    {"ip,actions=dec_ttl,output:2", "eth ip4(ttl=1) tcp", NULL},
    {"ip,actions=mod_nw_ttl:32,output:2", "eth " TCP4, "eth ip4(ttl=32) tcp"},
    {"ipv6,actions=mod_nw_ttl:32,output:2", "eth " TCP6, "eth ip6(ttl=32) tcp"},
    {"ipv6,ipv6_src=10::/16,actions=set_field:aa::aa->ipv6_src,output:2", "eth " TCP6, "eth ip6(s=aa::aa) tcp"},
    {"ipv6,ipv6_dst=20::20,actions=set_field:aa::aa->ipv6_dst,output:2", "eth vlan ip6 icmp6",
     "eth vlan ip6(d=aa::aa) icmp6"},
    {"ipv6,ipv6_dst=20::20,actions=set_field:aa::aa->ipv6_dst,output:2", "eth ip6 hop auth tcp",
     "eth ip6(d=aa::aa) hop auth tcp"},
    {"ipv6,ipv6_label=100,actions=set_field:203->ipv6_label,output:2", "eth " TCP6, "eth ip6(fl=203) tcp"},
    {"ipv6,ipv6_label=0x60/0xf0,actions=set_field:203->ipv6_label,output:2", "eth mpls " TCP6, NULL},
    {"arp,arp_op=1,actions=set_field:2->arp_op,output:2", "eth arp", "eth arp(o=2)"},
    {"arp,arp_spa=192.168.10.10,actions=set_field:10.10.10.10->arp_spa,output:2", "eth vlan arp",
     "eth vlan arp(spa=10.10.10.10)"},
    {"arp,arp_tpa=192.168.20.20,actions=set_field:10.10.10.10->arp_tpa,output:2", "eth arp",
     "eth arp(tpa=10.10.10.10)"},
    {"arp,arp_sha=12:11:11:11:11:11,actions=set_field:aa:aa:aa:aa:aa:aa->arp_sha,output:2", "eth arp",
     "eth arp(sha=aa:aa:aa:aa:aa:aa)"},
    {"arp,arp_tha=22:22:22:22:22:22,actions=set_field:aa:aa:aa:aa:aa:aa->arp_tha,output:2", "eth arp",
     "eth arp(tha=aa:aa:aa:aa:aa:aa)"},
    {"mpls,actions=pop_mpls:0x0806,goto_table:1;table=1,arp,arp_tha=22:22:22:22:22:22,actions=set_field:aa:aa:aa:aa:aa:"
     "aa->arp_tha,output:2",
     "eth mpls arp", "eth arp(tha=aa:aa:aa:aa:aa:aa)"},
};

static const struct test_case fields_of_l4[] = {
    {"tcp,tp_src=11111,actions=set_field:6789->tcp_src,output:2", "eth " TCP4, "eth ip4 tcp(s=6789)"},
    {"tcp6,tp_dst=2222,actions=set_field:6789->tcp_dst,output:2", "eth " TCP6, "eth ip6 tcp(d=6789)"},
    {"udp,tp_src=11111,actions=set_field:6789->udp_src,output:2", "eth vlan ip4 udp", "eth vlan ip4 udp(s=6789)"},
    {"udp6,tp_dst=2222,actions=set_field:6789->udp_dst,output:2", "eth ip6 udp", "eth ip6 udp(d=6789)"},
    {"sctp,tp_src=11111,actions=set_field:6789->sctp_src,output:2", "eth ip4 sctp", "eth ip4 sctp(s=6789)"},
    {"sctp,tp_dst=2222,actions=set_field:6789->sctp_dst,output:2", "eth vlan ip4 sctp", "eth vlan ip4 sctp(d=6789)"},
    {"sctp6,tp_src=11111,actions=set_field:6789->sctp_src,set_field:1->sctp_dst,output:2", "eth ip6 sctp",
     "eth ip6 sctp(s=6789,d=1)"},
    {"icmp,icmp_type=8,actions=set_field:0->icmp_type,output:2", "eth ip4 icmp", "eth ip4 icmp(t=0)"},
    {"icmp,icmp_code=0,actions=set_field:7->icmp_code,output:2", "eth ip4 icmp", "eth ip4 icmp(c=7)"},
    {"icmp6,icmp_type=128,actions=set_field:135->icmpv6_type,output:2", "eth ip6 icmp6", "eth ip6 icmp6(t=135)"},
    {"icmp6,icmp_code=0,actions=set_field:7->icmpv6_code,output:2", "eth vlan ip6 icmp6", "eth vlan ip6 icmp6(c=7)"},
    {"icmp6,icmp_type=135,nd_target=20::20,actions=set_field:aa::aa->nd_target,output:2", "eth ip6 ns",
     "eth ip6 ns(target=aa::aa)"},
    {"icmp6,icmp_type=136,nd_target=20::20,actions=set_field:aa::aa->nd_target,output:2", "eth ip6 na",
     "eth ip6 na(target=aa::aa)"},
    {"icmp6,icmp_type=135,nd_sll=22:22:22:22:22:22,actions=set_field:aa:aa:aa:aa:aa:aa->nd_sll,output:2", "eth ip6 ns",
     "eth ip6 ns(ll=aa:aa:aa:aa:aa:aa)"},
    {"icmp6,icmp_type=136,nd_tll=22:22:22:22:22:22,actions=set_field:aa:aa:aa:aa:aa:aa->nd_tll,output:2",
     "eth vlan ip6 na", "eth vlan ip6 na(ll=aa:aa:aa:aa:aa:aa)"},
    {"dl_type=0x88e7,actions=pop_pbb,goto_table:1;table=1,icmp6,icmp_type=135,nd_sll=22:22:22:22:22:22,actions=set_"
     "field:aa:"
     "aa:aa:aa:aa:aa->nd_sll,output:2",
     "eth itag eth ip6 ns", "eth ip6 ns(ll=aa:aa:aa:aa:aa:aa)"},
    {"mpls,actions=pop_mpls:0x86dd,goto_table:1;table=1,sctp6,actions=set_field:5->sctp_dst,output:2",
     "eth mpls ip6 sctp", "eth ip6 sctp(d=5)"},
    /* What is not in a packet */
    {"metadata=0,actions=write_metadata:5,goto_table:1;table=1,metadata=5,actions=output:2", "eth arp", "eth arp"},
    {"metadata=0,actions=write_metadata:0x15/0xf,goto_table:1;table=1,metadata=5,actions=output:2", "eth arp",
     "eth arp"},
    {"in_port=1,actions=set_field:203->tun_id,goto_table:1;table=1,tun_id=203,actions=output:2", "eth " TCP4,
     "eth " TCP4},
    {"in_port=1,actions=set_field:203->tun_id,goto_table:1;table=1,tun_id=204,actions=output:2", "eth " TCP4, NULL},
    {"in_phy_port=1,in_port=1,actions=output:2", "eth arp", "eth arp"},
    {"in_port=1,actions=set_queue:3,output:2", "eth arp", "eth arp"},
};

/* NONEXT 1, ESP 2, AUTH 4, DEST 8, FRAG 16, ROUTER 32, HOP 64, UNREP 128, UNSEQ 256 */
static const struct test_case extension_headers[] = {
    {"ipv6,ipv6_exthdr=68,actions=output:2", "eth ip6 hop auth tcp", "eth ip6 hop auth tcp"},
    {"ipv6,ipv6_exthdr=68,actions=output:2", "eth vlan ip6 hop auth tcp", "eth vlan ip6 hop auth tcp"},
    {"ipv6,ipv6_exthdr=68,actions=output:2", "eth " TCP6, NULL},
    {"ipv6,ipv6_exthdr=0,actions=output:2", "eth " TCP6, "eth " TCP6},
    {"ipv6,ipv6_exthdr=4/4,actions=output:2", "eth ip6 hop auth tcp", "eth ip6 hop auth tcp"},
    {"ipv6,ipv6_exthdr=0/4,actions=output:2", "eth ip6 hop auth tcp", NULL},
    {"mpls,actions=pop_mpls:0x86dd,goto_table:1;table=1,ipv6,ipv6_exthdr=68,actions=output:2",
     "eth mpls ip6 hop auth tcp", "eth ip6 hop auth tcp"},
    {"dl_type=0x88e7,actions=pop_pbb,goto_table:1;table=1,ipv6,ipv6_exthdr=68,actions=output:2",
     "eth itag eth ip6 hop auth tcp", "eth ip6 hop auth tcp"},
    {"ipv6,ipv6_exthdr=1,actions=output:2", "eth ip6 none", "eth ip6 none"},
    {"ipv6,ipv6_exthdr=2,actions=output:2", "eth ip6 esp", "eth ip6 esp"},
    {"ipv6,ipv6_exthdr=8,actions=output:2", "eth ip6 dest tcp", "eth ip6 dest tcp"},
    {"ipv6,ipv6_exthdr=16,actions=output:2", "eth ip6 frag tcp", "eth ip6 frag tcp"},
    {"ipv6,ipv6_exthdr=32,actions=output:2", "eth ip6 routing tcp", "eth ip6 routing tcp"},
    {"ipv6,ipv6_exthdr=64,actions=output:2", "eth ip6 hop tcp", "eth ip6 hop tcp"},
    {"ipv6,ipv6_exthdr=192,actions=output:2", "eth ip6 hop hop tcp", "eth ip6 hop hop tcp"},
    {"ipv6,ipv6_exthdr=128/128,actions=output:2", "eth ip6 hop hop tcp", "eth ip6 hop hop tcp"},
    {"ipv6,ipv6_exthdr=256/256,actions=output:2", "eth ip6 auth hop tcp", "eth ip6 auth hop tcp"},
    {"ipv6,ipv6_exthdr=104,actions=output:2", "eth ip6 hop dest routing dest tcp", "eth ip6 hop dest routing dest tcp"},
};

static void tags_and_labels(void **state)
{
    (void)state;
    check_all(tags, COUNT(tags));
}

static void l2_and_l3(void **state)
{
    (void)state;
    check_all(fields_of_l2_l3, COUNT(fields_of_l2_l3));
}

static void l4_and_what_is_no_header(void **state)
{
    (void)state;
    check_all(fields_of_l4, COUNT(fields_of_l4));
}

static void ipv6_extension_headers(void **state)
{
    (void)state;
    check_all(extension_headers, COUNT(extension_headers));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tags_and_labels),
        cmocka_unit_test(l2_and_l3),
        cmocka_unit_test(l4_and_what_is_no_header),
        cmocka_unit_test(ipv6_extension_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
