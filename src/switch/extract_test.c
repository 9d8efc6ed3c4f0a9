/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of frames: of each kind, cut off anywhere, with every byte changed, and with lengths that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "switch/extract_check.h"
#include "switch/field.h"

#define FRAME_MAX 256u

struct frame {
    const char *name, *hex;
};

#define ETH "020000000002020000000001"
#define IP4(proto, frag, total)                                                                                        \
    "0800"                                                                                                             \
    "4500" total "0000" frag "40" proto "0000"                                                                         \
    "0a000001"                                                                                                         \
    "0a000002"
#define TCP                                                                                                            \
    "03e80050"                                                                                                         \
    "0000000000000000"                                                                                                 \
    "5012"                                                                                                             \
    "000000000000"
#define UDP                                                                                                            \
    "03e80050"                                                                                                         \
    "00080000"
#define IP6(next, payload)                                                                                             \
    "86dd"                                                                                                             \
    "60a12345" payload next "40"                                                                                       \
    "fd000000000000000000000000000001"                                                                                 \
    "fd000000000000000000000000000002"

static const struct frame frames[] = {
    {"tcp", ETH IP4("06", "0000", "0028") TCP},
    {"udp", ETH IP4("11", "4000", "001c") UDP},
    {"first fragment", ETH IP4("11", "2000", "001c") UDP},
    {"later fragment", ETH IP4("11", "0001", "001c") UDP},
    {"vlan", ETH "8100a005" IP4("06", "0000", "0028") TCP},
    {"qinq", ETH "88a82007"
                 "81000005" IP4("11", "0000", "001c") UDP},
    {"three tags", ETH "88a82007"
                       "81000005"
                       "81000006" IP4("11", "0000", "001c") UDP},
    {"arp", ETH "0806"
                "0001080006040001"
                "020000000001"
                "0a000001"
                "000000000000"
                "0a000002"},
    {"mpls", ETH "8847"
                 "00064040"
                 "00065140"
                 "4500"},
    {"pbb", ETH "88e7"
                "20123456"
                "020000000004"
                "020000000003"
                "0800"},
    {"snap", ETH "0026"
                 "aaaa03000000" IP4("11", "0000", "001c") UDP},
    {"llc", ETH "0026"
                "424203"
                "0000000000"},
    {"tcp6", ETH IP6("06", "0014") TCP},
    {"hop by hop", ETH IP6("00", "0010") "1100000000000000" UDP},
    {"fragment6", ETH IP6("2c", "0010") "1100000100000001" UDP},
    {"later fragment6", ETH IP6("2c", "0010") "1100000900000001" UDP},
    {"nd", ETH IP6("3a", "0020") "8700000000000000"
                                 "fd000000000000000000000000000009"
                                 "0101020000000001"},
};

static unsigned unhex(const char *hex, uint8_t *out)
{
    unsigned n = 0;
    for (; hex[0]; hex += 2) {
        unsigned v;
        assert_int_equal(sscanf(hex, "%2x", &v), 1);
        out[n++] = (uint8_t)v;
    }
    return n;
}

static struct flow_key key_of(const char *name, struct packet *p)
{
    static uint8_t bytes[FRAME_MAX];
    struct flow_key k = {{{0}}};
    for (unsigned i = 0; i < sizeof frames / sizeof frames[0]; i++) {
        if (strcmp(frames[i].name, name) != 0) continue;
        unsigned n = unhex(frames[i].hex, bytes);
        *p = (struct packet){.head = bytes, .head_bytes = (uint16_t)n, .length_bytes = n};
        assert_int_not_equal(extract_key(p, &k), EXTRACT_INVALID);
        return k;
    }
    fail_msg("no frame %s", name);
    return k;
}

static uint64_t get(const struct flow_key *k, enum field_id id)
{
    return field_value_u64(field_get(k, id));
}

static void fields_are_found(void **state)
{
    struct packet p;
    (void)state;
    struct flow_key k = key_of("tcp", &p);
    assert_int_equal(get(&k, FIELD_ETH_TYPE), 0x800);
    assert_int_equal(get(&k, FIELD_TCP_SRC), 1000);
    assert_int_equal(get(&k, FIELD_TCP_DST), 80);
    assert_int_equal(get(&k, FIELD_TCP_FLAGS), 0x12);
    assert_int_equal(get(&k, FIELD_IPV4_DST), 0x0a000002);
    assert_int_equal(p.l3_at, 14);
    assert_int_equal(p.l4_at, 34);
    k = key_of("vlan", &p);
    assert_int_equal(get(&k, FIELD_VLAN_VID), 0x1005);
    assert_int_equal(get(&k, FIELD_VLAN_PCP), 5);
    assert_int_equal(p.l4_at, 38);
    k = key_of("qinq", &p);
    assert_int_equal(be16_get(k.vlan[0].tpid), 0x88a8);
    assert_int_equal(be16_get(k.vlan[1].tci), 0x1005);
    assert_int_equal(get(&k, FIELD_UDP_DST), 80);
    k = key_of("three tags", &p);
    assert_int_equal(get(&k, FIELD_ETH_TYPE), 0x8100);
    assert_int_equal(get(&k, FIELD_IP_PROTO), 0);
    k = key_of("snap", &p);
    assert_int_equal(get(&k, FIELD_ETH_TYPE), 0x800);
    assert_int_equal(get(&k, FIELD_UDP_DST), 80);
    k = key_of("llc", &p);
    assert_int_equal(get(&k, FIELD_ETH_TYPE), 0x5ff);
    k = key_of("arp", &p);
    assert_int_equal(get(&k, FIELD_ARP_OP), 1);
    assert_int_equal(get(&k, FIELD_ARP_TPA), 0x0a000002);
    assert_int_equal(get(&k, FIELD_ARP_SHA), 0x020000000001);
    k = key_of("mpls", &p);
    assert_int_equal(get(&k, FIELD_MPLS_LABEL), 100);
    assert_int_equal(be32_get(k.mpls[1]), 0x65140);
    assert_int_equal(be32_get(k.mpls[2]), 0);
    k = key_of("pbb", &p);
    assert_int_equal(get(&k, FIELD_PBB_ISID), 0x123456);
}

static void fragments_have_no_ports(void **state)
{
    struct packet p;
    (void)state;
    struct flow_key k = key_of("first fragment", &p);
    assert_int_equal(k.nw_frag, FLOW_FRAG_ANY);
    assert_int_equal(get(&k, FIELD_UDP_DST), 80);
    k = key_of("later fragment", &p);
    assert_int_equal(k.nw_frag, FLOW_FRAG_ANY | FLOW_FRAG_LATER);
    assert_int_equal(k.words[8], 0);
    assert_int_equal(p.l4_at, PACKET_NO_LAYER);
    k = key_of("fragment6", &p);
    assert_int_equal(k.nw_frag, FLOW_FRAG_ANY);
    assert_int_equal(k.nw_proto, 17);
    assert_int_equal(get(&k, FIELD_UDP_DST), 80);
    k = key_of("later fragment6", &p);
    assert_int_equal(k.nw_frag, FLOW_FRAG_ANY | FLOW_FRAG_LATER);
    assert_int_equal(k.words[8], 0);
}

static void ipv6(void **state)
{
    struct packet p;
    (void)state;
    struct flow_key k = key_of("tcp6", &p);
    assert_int_equal(get(&k, FIELD_TCP_DST), 80);
    assert_int_equal(get(&k, FIELD_IPV6_FLABEL), 0x12345);
    assert_int_equal(k.nw_tos, 0x0a);
    k = key_of("hop by hop", &p);
    assert_int_equal(get(&k, FIELD_IPV6_EXTHDR), 64);
    assert_int_equal(k.nw_proto, 17);
    assert_int_equal(get(&k, FIELD_UDP_DST), 80);
    k = key_of("nd", &p);
    assert_int_equal(get(&k, FIELD_ICMPV6_TYPE), 135);
    assert_int_equal(k.nd_target[15], 9);
    assert_int_equal(get(&k, FIELD_ND_SLL), 0x020000000001);
}

/* A chain that goes on past what is looked at of a frame: what it carries has no ports, rather than ports 0. */
static void what_is_out_of_sight(void **state)
{
    uint8_t f[512] = {2,    [6] = 2,    [12] = 0x86, 0xdd,
                      0x60, [19] = 208, 60,          64}; /* Ethernet, IPv6, Destination Options */
    static const struct {
        uint8_t proto, header, seen_as;
        uint16_t head;
    } cases[] = {{58, 8, 60, 256}, {17, 8, 60, 256}, {6, 20, 60, 256}, {132, 12, 60, 256}, {58, 8, 58, 262},
                 {17, 8, 17, 262}, {6, 20, 60, 262}, {6, 20, 6, 274},  {47, 8, 47, 256},   {17, 4, 17, 256}};
    (void)state;
    f[55] = 24; /* of 200 bytes */
    memset(f + 254, 0x11, 20);
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct flow_key k;
        struct packet p = {.head = f, .head_bytes = cases[i].head, .length_bytes = 400};
        f[19] = (uint8_t)(200 + cases[i].header);
        f[54] = cases[i].proto;
        assert_int_equal(extract_key(&p, &k), EXTRACT_FULL);
        assert_int_equal(k.nw_proto, cases[i].seen_as);
        bool sees = cases[i].head > 256 && cases[i].seen_as != 60;
        assert_int_equal(get(&k, FIELD_TCP_DST), !sees ? 0 : cases[i].proto == 58 ? 0x11 : 0x1111);
    }
}

/* Padding is never a header: an IP packet too short for its ports, in a frame that goes on. */
static void padding_is_no_header(void **state)
{
    struct packet p;
    struct flow_key k = key_of("udp", &p);
    (void)state;
    p.head[17] = 24; /* IP's length: four bytes of UDP */
    assert_int_equal(extract_key(&p, &k), EXTRACT_SHORT);
    assert_int_equal(k.nw_proto, 17);
    assert_int_equal(k.words[8], 0);
    p.head[17] = 29; /* more than there is: nothing of IP is believed */
    assert_int_equal(extract_key(&p, &k), EXTRACT_SHORT);
    assert_int_equal(k.words[6] | k.words[7] | k.words[8], 0);
    p.head[17] = 19;
    extract_key(&p, &k);
    assert_int_equal(k.words[6] | k.words[7] | k.words[8], 0);
}

static void cut_and_changed(void **state)
{
    uint8_t f[FRAME_MAX] = {0};
    (void)state;
    for (unsigned i = 0; i < sizeof frames / sizeof frames[0]; i++) {
        unsigned n = unhex(frames[i].hex, f);
        for (unsigned cut = 0; cut <= n; cut++) {
            extract_check(f, (uint16_t)cut, cut);
            extract_check(f, (uint16_t)cut, n);
            extract_check(f, (uint16_t)cut, n + 60000);
        }
        for (unsigned at = 12; at < n; at++) {
            uint8_t was = f[at];
            for (unsigned v = 0; v < 256; v++) {
                f[at] = (uint8_t)v;
                extract_check(f, (uint16_t)n, n);
                extract_check(f, (uint16_t)n, n + 300);
            }
            f[at] = was;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_found),
        cmocka_unit_test(fragments_have_no_ports),
        cmocka_unit_test(ipv6),
        cmocka_unit_test(padding_is_no_header),
        cmocka_unit_test(cut_and_changed),
        cmocka_unit_test(what_is_out_of_sight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
