/* SPDX-License-Identifier: Apache-2.0 */
/* Fields: the table is consistent, bits are where they should be, nothing beside them changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "switch/field.h"

static uint64_t next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 16;
}

static void fill(void *to, size_t bytes, uint64_t *seed)
{
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)to)[i] = (uint8_t)next(seed);
}

static bool bit(const void *bytes, unsigned n)
{
    return ((const uint8_t *)bytes)[n / 8] >> (7 - n % 8) & 1;
}

static void every_name_finds_its_field(void **state)
{
    for (unsigned i = 0; i < FIELD_COUNT; i++) {
        const struct field *f = &fields[i];
        assert_non_null(f->name);
        assert_int_equal(field_find(f->name, strlen(f->name)), i);
        assert_in_range(f->bits, 1, 128);
        assert_true(f->bit_at + f->bits <= sizeof(struct flow_key) * 8);
        bool within_word = f->bit_at % 64u + f->bits <= 64; /* field.c counts on it */
        assert_true(within_word || (f->bits == 128 && f->bit_at % 64 == 0));
        for (unsigned a = 0; a < 3 && f->aliases[a]; a++)
            assert_int_equal(field_find(f->aliases[a], strlen(f->aliases[a])), i);
    }
    assert_int_equal(field_find("dl_src,", 6), FIELD_ETH_SRC);
    assert_int_equal(field_find("reg1", 4), FIELD_REG0 + 1);
    assert_int_equal(field_find("reg15", 5), FIELD_REG15);
    static const char *const none[] = {"", "dl_sr", "dl_srcs", "reg", "reg16", "DL_SRC", "tp_src"};
    for (unsigned i = 0; i < sizeof none / sizeof none[0]; i++)
        assert_int_equal(field_find(none[i], strlen(none[i])), FIELD_COUNT);
}

/* Numbers of OpenFlow 1.3.5, table 12: 0 to 39, each once. */
static void oxm_numbers_are_all_there_once(void **state)
{
    uint64_t seen = 0;
    for (unsigned i = 0; i < FIELD_COUNT; i++) {
        if (fields[i].oxm == FIELD_NO_OXM) continue;
        assert_in_range(fields[i].oxm, 0, 39);
        assert_false(seen >> fields[i].oxm & 1);
        seen |= 1ull << fields[i].oxm;
    }
    assert_true(seen == (1ull << 40) - 1);
}

static void values_go_in_and_come_out(void **state)
{
    uint64_t seed = 1;
    for (unsigned round = 0; round < 200; round++)
        for (unsigned id = 0; id < FIELD_COUNT; id++) {
            struct flow_key before, after;
            struct field_value v, mask;
            fill(&before, sizeof before, &seed);
            fill(&v, sizeof v, &seed);
            fill(&mask, sizeof mask, &seed);
            after = before;
            field_set_masked(&after, id, v, mask);
            struct field_value got = field_get(&after, id);
            const struct field *f = &fields[id];
            for (unsigned n = 0; n < sizeof before * 8; n++) {
                bool inside = n >= f->bit_at && n < f->bit_at + f->bits;
                unsigned of_value = 128u - f->bits + n - f->bit_at;
                bool changed = inside && bit(&mask, of_value);
                assert_int_equal(bit(&after, n), changed ? bit(&v, of_value) : bit(&before, n));
                if (inside) assert_int_equal(bit(&got, of_value), bit(&after, n));
            }
            for (unsigned n = 0; n < 128u - f->bits; n++)
                assert_false(bit(&got, n));
            field_set(&after, id, (struct field_value){0});
            assert_true(field_is_zero(&after, id));
            field_set_masked(&after, id, (struct field_value){.raw[15] = 1}, (struct field_value){.raw[15] = 1});
            assert_false(field_is_zero(&after, id));
            memset(&after, 0, sizeof after);
            assert_true(field_is_zero(&after, id));
        }
}

static void bits_are_where_the_headers_have_them(void **state)
{
    struct flow_key k = {0};
    field_set(&k, FIELD_VLAN_VID, field_value_of(0x1005));
    field_set(&k, FIELD_VLAN_PCP, field_value_of(5));
    assert_int_equal(be16_get(k.vlan[0].tci), 0xb005);
    field_set(&k, FIELD_IP_DSCP, field_value_of(0x2e));
    field_set(&k, FIELD_IP_ECN, field_value_of(1));
    assert_int_equal(k.nw_tos, 0xb9);
    field_set(&k, FIELD_MPLS_LABEL, field_value_of(0xabcde));
    field_set(&k, FIELD_MPLS_TC, field_value_of(3));
    field_set(&k, FIELD_MPLS_BOS, field_value_of(1));
    field_set(&k, FIELD_MPLS_TTL, field_value_of(64));
    assert_int_equal(be32_get(k.mpls[0]), 0xabcde740);
    field_set(&k, FIELD_IPV6_FLABEL, field_value_of(~0ull));
    assert_int_equal(be32_get(k.ipv6_label), 0xfffff);
    field_set(&k, FIELD_TCP_FLAGS, field_value_of(~0ull));
    assert_int_equal(be16_get(k.tcp_flags), 0xfff);
    field_set(&k, FIELD_IPV6_EXTHDR, field_value_of(~0ull));
    assert_int_equal(be16_get(k.ipv6_exthdr), 0x1ff);
    field_set(&k, FIELD_PBB_ISID, field_value_of(~0ull));
    assert_int_equal(be32_get(k.pbb_isid), 0xffffff);
    field_set(&k, FIELD_ICMPV4_TYPE, field_value_of(8));
    assert_int_equal(be16_get(k.tp_src), 8);
    field_set(&k, FIELD_IP_FRAG, field_value_of(3));
    assert_int_equal(k.nw_frag, FLOW_FRAG_ANY | FLOW_FRAG_LATER);
    assert_true(field_value_u64(field_value_of(0x123456789abcdef0)) == 0x123456789abcdef0);
}

static struct flow_key packet(uint16_t type, uint8_t proto, uint16_t icmp_type)
{
    return (struct flow_key){
        .eth_type = be16_make(type), .nw_proto = proto, .tp_src = be16_make(icmp_type), .in_port = be32_make(7)};
}

/* The match of all that is known of a packet ensures what the packet has. */
static void check_needs(enum field_id id, const struct flow_key *k, bool expected)
{
    assert_int_equal(field_exists(id, k, NULL), expected);
    struct flow_match m = {.key = *k};
    field_exists(id, k, &m.mask);
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        m.key.words[i] &= m.mask.words[i];
    if (!(k->nw_frag & FLOW_FRAG_LATER)) assert_int_equal(field_is_ensured(id, &m), expected);
    struct flow_match nothing = {0};
    assert_int_equal(field_is_ensured(id, &nothing), fields[id].needs == NEEDS_NOTHING);
}

static void prerequisites(void **state)
{
    struct flow_key tcp = packet(0x0800, 6, 0), udp6 = packet(0x86dd, 17, 0), ns = packet(0x86dd, 58, 135);
    struct flow_key na = packet(0x86dd, 58, 136), arp = packet(0x0806, 0, 0), mpls = packet(0x8848, 0, 0);
    struct flow_key other = packet(0x88cc, 6, 0), icmp = packet(0x0800, 1, 8), pbb = packet(0x88e7, 0, 0);
    static const enum field_id four[] = {FIELD_IPV4_SRC, FIELD_IP_DSCP, FIELD_IP_PROTO};
    for (unsigned i = 0; i < 3; i++) {
        check_needs(four[i], &tcp, true);
        check_needs(four[i], &other, false);
        check_needs(four[i], &arp, false);
    }
    check_needs(FIELD_TCP_SRC, &tcp, true);
    check_needs(FIELD_TCP_SRC, &udp6, false);
    check_needs(FIELD_TCP_SRC, &other, false);
    check_needs(FIELD_UDP_DST, &udp6, true);
    check_needs(FIELD_SCTP_SRC, &udp6, false);
    check_needs(FIELD_IPV6_FLABEL, &udp6, true);
    check_needs(FIELD_IPV6_FLABEL, &tcp, false);
    check_needs(FIELD_ND_TARGET, &ns, true);
    check_needs(FIELD_ND_TARGET, &na, true);
    check_needs(FIELD_ND_SLL, &na, false);
    check_needs(FIELD_ND_TLL, &na, true);
    check_needs(FIELD_ND_SLL, &ns, true);
    check_needs(FIELD_ICMPV4_TYPE, &icmp, true);
    check_needs(FIELD_ICMPV4_TYPE, &ns, false);
    check_needs(FIELD_ICMPV6_CODE, &ns, true);
    check_needs(FIELD_ARP_OP, &arp, true);
    check_needs(FIELD_MPLS_TC, &mpls, true);
    check_needs(FIELD_MPLS_TC, &arp, false);
    check_needs(FIELD_PBB_ISID, &pbb, true);
    check_needs(FIELD_VLAN_PCP, &tcp, false);
    tcp.vlan[0].tci = be16_make(FLOW_VLAN_PRESENT);
    check_needs(FIELD_VLAN_PCP, &tcp, true);
}

static void a_later_fragment_has_no_ports(void **state)
{
    struct flow_key k = packet(0x0800, 6, 0), used = {0};
    k.nw_frag = FLOW_FRAG_ANY;
    assert_true(field_exists(FIELD_TCP_SRC, &k, &used));
    k.nw_frag |= FLOW_FRAG_LATER;
    assert_false(field_exists(FIELD_TCP_SRC, &k, NULL));
    assert_true(field_exists(FIELD_IPV4_SRC, &k, NULL));
    struct flow_key expected = {.eth_type = be16_make(0xffff), .nw_proto = 0xff, .nw_frag = FLOW_FRAG_LATER};
    assert_memory_equal(&used, &expected, sizeof used);
}

static void what_was_looked_at_is_narrow(void **state)
{
    struct flow_key k = packet(0x0806, 6, 0), used = {0}, expected = {0};
    assert_false(field_exists(FIELD_TCP_SRC, &k, &used));
    expected.eth_type = be16_make(0xffff);
    assert_memory_equal(&used, &expected, sizeof used);
    used = (struct flow_key){0};
    assert_false(field_exists(FIELD_VLAN_PCP, &k, &used));
    expected = (struct flow_key){0};
    expected.vlan[0].tci = be16_make(FLOW_VLAN_PRESENT);
    assert_memory_equal(&used, &expected, sizeof used);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_name_finds_its_field),
        cmocka_unit_test(oxm_numbers_are_all_there_once),
        cmocka_unit_test(values_go_in_and_come_out),
        cmocka_unit_test(bits_are_where_the_headers_have_them),
        cmocka_unit_test(prerequisites),
        cmocka_unit_test(a_later_fragment_has_no_ports),
        cmocka_unit_test(what_was_looked_at_is_narrow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
