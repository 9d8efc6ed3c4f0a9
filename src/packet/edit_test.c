/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes of headers against frames that were written with the new values from the beginning, all sums made anew, and with
 * those whose checksum is left to offload.
 */
#include "packet/edit.h"
#include "packet/checksum.h"
#include "packet/test_util.h"

static uint8_t payload[2000];

static struct be32 be32_of(const uint8_t *bytes)
{
    struct be32 v;
    memcpy(v.raw, bytes, 4);
    return v;
}

/* One change: of the frame's description, and of the frame. False: the frame has no such thing. */
enum change {
    ETH_DST,
    ETH_SRC,
    PUSH_VLAN,
    POP_VLAN,
    SET_VLAN,
    PUSH_MPLS,
    POP_MPLS,
    SET_MPLS,
    SET_MPLS_TTL,
    DEC_MPLS_TTL,
    TTL_OUT,
    TTL_IN,
    IPV4_SRC,
    IPV4_DST,
    IPV4_TOS,
    IPV4_TTL,
    IPV6_SRC,
    IPV6_DST,
    IPV6_CLASS,
    IPV6_LABEL,
    IPV6_HOP_LIMIT,
    DEC_TTL,
    PORT_SRC,
    PORT_DST,
    ICMP_TYPE,
    ICMP_CODE,
    CHANGES
};

static bool has_ports(const struct test_spec *s)
{
    return s->proto == 6 || s->proto == 17 || s->proto == 132;
}

static bool is_icmp(const struct test_spec *s)
{
    return s->proto == 1 || s->proto == 58;
}

static bool change_vlan(struct packet *p, struct test_spec *s, enum change c, uint16_t v)
{
    bool had = s->vlans > 0;
    switch (c) {
    case PUSH_VLAN:
        if (s->vlans == 3) return true;
        memmove(s->tpid + 1, s->tpid, s->vlans * 2);
        memmove(s->tci + 1, s->tci, s->vlans * 2);
        s->vlans++;
        s->tpid[0] = 0x88a8;
        s->tci[0] = v;
        return packet_push_vlan(p, be16_make(0x88a8), be16_make(v));
    case POP_VLAN:
        if (!had) return !packet_pop_vlan(p);
        s->vlans--;
        memmove(s->tpid, s->tpid + 1, s->vlans * 2);
        memmove(s->tci, s->tci + 1, s->vlans * 2);
        return packet_pop_vlan(p);
    default:
        if (had) s->tci[0] = v;
        return packet_set_vlan_tci(p, be16_make(v)) == had;
    }
}

static uint8_t *ttl_below(struct test_spec *s)
{
    return s->labels > 1 ? (uint8_t *)&s->mpls[1] : &s->ttl; /* a label's TTL is its lowest byte */
}

static bool change_mpls(struct packet *p, struct test_spec *s, enum change c, uint32_t v)
{
    bool had = s->labels > 0;
    uint8_t *ttl = (uint8_t *)&s->mpls[0];
    switch (c) {
    case PUSH_MPLS:
        if (s->labels == 3) return true;
        memmove(s->mpls + 1, s->mpls, s->labels * 4);
        v = (v & ~0x100u) | (s->labels++ == 0 ? 0x100u : 0);
        s->mpls[0] = v;
        return packet_push_mpls(p, be16_make(0x8847), be32_make(v));
    case POP_MPLS:
        if (!had) return !packet_pop_mpls(p, be16_make(0x0800));
        s->labels--;
        memmove(s->mpls, s->mpls + 1, s->labels * 4);
        return packet_pop_mpls(p, be16_make(s->labels ? 0x8847 : s->version == 4 ? 0x0800 : 0x86dd));
    case SET_MPLS:
        if (!had) return !packet_set_mpls_entry(p, be32_make(v));
        s->mpls[0] = v;
        return packet_set_mpls_entry(p, be32_make((v & ~0x100u) | (s->labels == 1 ? 0x100u : 0)));
    case SET_MPLS_TTL:
        if (had) *ttl = (uint8_t)v;
        return packet_set_mpls_ttl(p, (uint8_t)v) == had;
    case DEC_MPLS_TTL:
        had = had && *ttl > 1;
        if (had) --*ttl;
        return packet_dec_mpls_ttl(p) == had;
    case TTL_OUT:
        if (had) *ttl = *ttl_below(s);
        return packet_copy_ttl_out(p) == had;
    default:
        if (had) *ttl_below(s) = *ttl;
        return packet_copy_ttl_in(p) == had;
    }
}

static bool change_ip(struct packet *p, struct test_spec *s, enum change c, const uint8_t v[16])
{
    bool v4 = s->version == 4;
    switch (c) {
    case IPV4_SRC:
        if (v4) memcpy(s->ip_src, v, 4);
        return packet_set_ipv4_src(p, be32_of(v)) == v4;
    case IPV4_DST:
        if (v4) memcpy(s->ip_dst, v, 4);
        return packet_set_ipv4_dst(p, be32_of(v)) == v4;
    case IPV6_SRC:
        if (!v4) memcpy(s->ip_src, v, 16);
        return packet_set_ipv6_src(p, v) == !v4;
    case IPV6_DST:
        if (!v4) memcpy(s->ip_dst, v, 16);
        return packet_set_ipv6_dst(p, v) == !v4;
    case IPV4_TOS:
        if (v4) s->tos = v[0];
        return packet_set_ipv4_tos(p, v[0]) == v4;
    case IPV6_CLASS:
        if (!v4) s->tos = v[0];
        return packet_set_ipv6_class(p, v[0]) == !v4;
    case IPV6_LABEL:
        if (!v4) s->label = be32_get(be32_of(v)) & 0xfffff;
        return packet_set_ipv6_label(p, be32_get(be32_of(v))) == !v4;
    case IPV4_TTL:
        if (v4) s->ttl = v[0];
        return packet_set_ipv4_ttl(p, v[0]) == v4;
    case IPV6_HOP_LIMIT:
        if (!v4) s->ttl = v[0];
        return packet_set_ipv6_hop_limit(p, v[0]) == !v4;
    default: {
        bool may = s->ttl > 1;
        if (may) s->ttl--;
        return packet_dec_ttl(p) == may;
    }
    }
}

static bool change_l4(struct packet *p, struct test_spec *s, enum change c, uint16_t v)
{
    switch (c) {
    case PORT_SRC:
        if (has_ports(s)) s->sport = v;
        return packet_set_port_src(p, be16_make(v)) == has_ports(s);
    case PORT_DST:
        if (has_ports(s)) s->dport = v;
        return packet_set_port_dst(p, be16_make(v)) == has_ports(s);
    case ICMP_TYPE:
        if (is_icmp(s)) s->sport = v;
        return packet_set_icmp_type(p, (uint8_t)v) == is_icmp(s);
    default:
        if (is_icmp(s)) s->dport = v;
        return packet_set_icmp_code(p, (uint8_t)v) == is_icmp(s);
    }
}

static bool change(struct packet *p, struct test_spec *s, enum change c, const uint8_t v[16])
{
    if (c == ETH_DST) memcpy(s->dst, v, 6);
    if (c == ETH_DST) return packet_set_eth_dst(p, v);
    if (c == ETH_SRC) memcpy(s->src, v, 6);
    if (c == ETH_SRC) return packet_set_eth_src(p, v);
    if (c <= SET_VLAN) return change_vlan(p, s, c, be16_get((struct be16){{v[0], v[1]}}));
    if (c <= TTL_IN) return change_mpls(p, s, c, be32_get(be32_of(v)));
    if (c <= DEC_TTL) return change_ip(p, s, c, v);
    return change_l4(p, s, c, be16_get((struct be16){{v[0], v[1]}}));
}

static void random_spec(struct test_random *r, struct test_spec *s)
{
    static const uint8_t protos[] = {6, 17, 132, 1, 58, 47};
    test_spec_random(r, s, protos[test_below(r, sizeof protos)]);
    if (s->proto == 1) s->version = 4;
    if (s->proto == 58) s->version = 6;
    s->vlans = test_below(r, 3);
    s->labels = test_chance(r, 3) ? test_below(r, 3) : 0;
    s->option_words = test_chance(r, 4) ? test_below(r, 6) : 0;
    s->hop_by_hop = test_chance(r, 4);
    s->routing = test_chance(r, 4);
    s->segments_left = s->routing ? (uint8_t)test_below(r, 2) : 0;
    s->destination = test_chance(r, 4);
    s->no_csum = s->proto == 17 && test_chance(r, 4);
    s->payload = payload;
    s->payload_bytes = test_below(r, test_chance(r, 2) ? 20 : sizeof payload);
    s->padding_bytes = test_chance(r, 4) ? test_below(r, 10) : 0;
    s->unfinished = (s->proto == 6 || s->proto == 17 || s->proto == 58) && !s->no_csum && test_chance(r, 3);
    if (s->unfinished) s->padding_bytes = 0;
}

static void changed_frames_are_as_if_written_so(void **state)
{
    struct test_random r = {1};
    static struct test_built b;
    test_fill(&r, payload, sizeof payload);
    for (unsigned round = 0; round < 20000; round++) {
        struct test_spec s;
        random_spec(&r, &s);
        test_build(&b, &s);
        struct test_packet *t = test_packet_new(&r, b.bytes, b.n, 180);
        t->p.l3_at = b.l3_at;
        t->p.l4_at = b.l4_at;
        t->p.offload.csum_partial = s.unfinished;
        t->p.offload.csum_start = b.l4_at;
        t->p.offload.csum_offset = b.csum_offset;
        for (unsigned i = 0; i < 6; i++) {
            enum change c = (enum change)test_below(&r, CHANGES);
            uint8_t v[16];
            test_fill(&r, v, sizeof v);
            if (test_chance(&r, 4)) memset(v, test_chance(&r, 2) ? 0 : 0xff, sizeof v);
            if (!change(&t->p, &s, c, v)) fail_msg("change %u of round %u", c, round);
            test_build(&b, &s);
            test_assert_bytes(&t->p, b.bytes, b.n);
            assert_int_equal(t->p.l3_at, b.l3_at);
            assert_int_equal(t->p.l4_at, b.l4_at);
        }
        if (s.unfinished) {
            assert_int_equal(t->p.offload.csum_start, b.l4_at);
            s.unfinished = false;
            test_build(&b, &s);
            struct packet_pool *pool = packet_pool_new();
            assert_true(packet_finish_csum(pool, &t->p));
            test_assert_bytes(&t->p, b.bytes, b.n);
            packet_pool_free(pool);
        }
        test_packet_free(t);
    }
}

static void wrong_checksums_stay_wrong(void **state)
{
    struct test_random r = {2};
    static struct test_built b;
    static const uint8_t protos[] = {6, 17, 132};
    for (unsigned round = 0; round < 600; round++) {
        struct test_spec s;
        test_spec_random(&r, &s, protos[round % 3]);
        s.payload = payload;
        s.payload_bytes = 100;
        test_build(&b, &s);
        b.bytes[b.payload_at + 7] ^= 0x10;
        struct test_packet *t = test_packet_new(&r, b.bytes, b.n, 120);
        t->p.l3_at = b.l3_at;
        struct be16 port = be16_make(s.sport);
        uint8_t address[16];
        test_fill(&r, address, 16);
        if (s.version == 4) assert_true(packet_set_ipv4_src(&t->p, be32_of(address)));
        else assert_true(packet_set_ipv6_src(&t->p, address));
        assert_true(packet_set_port_src(&t->p, be16_make(99)));
        if (s.version == 4) assert_true(packet_set_ipv4_src(&t->p, be32_of(s.ip_src)));
        else assert_true(packet_set_ipv6_src(&t->p, s.ip_src));
        assert_true(packet_set_port_src(&t->p, port));
        test_assert_bytes(&t->p, b.bytes, b.n); /* and there and back is where it was */
        test_packet_free(t);
    }
}

/* ---- fragments ---- */

static void fragments_have_a_checksum_in_the_first_only(void **state)
{
    struct test_random r = {3};
    static struct test_built b, want;
    for (unsigned round = 0; round < 400; round++) {
        bool later = round % 2;
        struct test_spec s;
        test_spec_random(&r, &s, round % 4 < 2 ? 6 : 17);
        s.payload = payload;
        s.payload_bytes = 96;
        s.fragment_header = true;
        s.fragment = s.version == 4 ? (later ? 0x2005 : 0x2000) : (later ? 0x29 : 1);
        test_build(&b, &s);
        struct test_packet *t = test_packet_new(&r, b.bytes, b.n, 150);
        t->p.l3_at = b.l3_at;
        uint8_t address[16];
        test_fill(&r, address, 16);
        if (s.version == 4) assert_true(packet_set_ipv4_dst(&t->p, be32_of(address)));
        else assert_true(packet_set_ipv6_dst(&t->p, address));
        struct test_spec changed = s;
        memcpy(changed.ip_dst, address, 16);
        assert_int_equal(packet_set_port_dst(&t->p, be16_make(7)), !later);
        if (!later) changed.dport = 7;
        test_build(&want, &changed);
        if (later) memcpy(want.bytes + want.l4_at, b.bytes + b.l4_at, want.n - want.l4_at);
        test_assert_bytes(&t->p, want.bytes, want.n);
        test_packet_free(t);
    }
}

static void sctp_in_fragments_cannot_be_kept_right(void **state)
{
    struct test_random r = {4};
    static struct test_built b;
    struct test_spec s;
    test_spec_random(&r, &s, 132);
    s.version = 4;
    s.fragment = 0x2000;
    s.payload = payload;
    s.payload_bytes = 96;
    test_build(&b, &s);
    struct test_packet *t = test_packet_new(&r, b.bytes, b.n, 150);
    t->p.l3_at = b.l3_at;
    assert_false(packet_set_port_dst(&t->p, be16_make(7)));
    test_assert_bytes(&t->p, b.bytes, b.n);
    test_packet_free(t);
}

static void protocols_and_types(void **state)
{
    struct test_random r = {9};
    static struct test_built b, want;
    for (unsigned round = 0; round < 400; round++) {
        struct test_spec s;
        random_spec(&r, &s);
        s.labels = 0;
        s.no_csum = false;
        test_build(&b, &s);
        struct test_packet *t = test_packet_new(&r, b.bytes, b.n, 180);
        t->p.l3_at = b.l3_at;
        /* What changes is the number, the header's sum, and the sum of what is carried, if the number is in it. */
        uint8_t from = s.proto;
        s.proto = 253;
        test_build(&want, &s);
        memcpy(want.bytes + b.l4_at, b.bytes + b.l4_at, b.n - b.l4_at);
        if (from == 6 || from == 17 || from == 58) {
            uint8_t *field = want.bytes + b.l4_at + b.csum_offset;
            uint32_t sum = (uint16_t) ~(field[0] << 8 | field[1]) + 0xffffu - from + 253;
            sum = ~(sum + (sum >> 16)) & 0xffff;
            if (from == 17 && sum == 0) sum = 0xffff;
            poke16(&want, b.l4_at + b.csum_offset, sum);
        }
        assert_true(packet_set_ip_proto(&t->p, 253));
        if (s.version == 4) {
            poke16(&want, b.l3_at + 2u, b.end_at - b.l3_at);
            poke16(&want, b.l3_at + 10u, 0);
            poke16(&want, b.l3_at + 10u, ~naive_sum(0, want.bytes + b.l3_at, 20 + 4 * s.option_words));
        } else {
            poke16(&want, b.l3_at + 4u, b.end_at - b.l3_at - 40);
        }
        test_assert_bytes(&t->p, want.bytes, b.n);
        assert_true(packet_set_eth_type(&t->p, be16_make(0x1234)));
        poke16(&want, b.type_at, 0x1234);
        test_assert_bytes(&t->p, want.bytes, b.n);
        t->p.l3_at = PACKET_NO_LAYER;
        assert_false(packet_set_ip_proto(&t->p, 1));
        test_packet_free(t);
    }
}

/* ---- neighbour discovery and ARP ---- */

static void build_nd(struct test_built *b, struct test_spec *s, uint8_t bytes[64], uint8_t type)
{
    s->payload = bytes;
    s->payload_bytes = 16 + 8 + 8 + 8;
    s->sport = type;
    s->dport = 0;
    bytes[16] = 14; /* a nonce first */
    bytes[17] = 1;
    bytes[24] = 1;
    bytes[25] = 1;
    bytes[32] = 2;
    bytes[33] = 1;
    test_build(b, s);
}

static void neighbour_discovery(void **state)
{
    struct test_random r = {5};
    static struct test_built b;
    for (unsigned round = 0; round < 400; round++) {
        uint8_t type = (uint8_t)(134 + round % 4), bytes[64], v[16];
        bool is_nd = type == 135 || type == 136;
        struct test_spec s;
        test_spec_random(&r, &s, 58);
        s.version = 6;
        s.hop_by_hop = test_chance(&r, 2);
        test_fill(&r, bytes, sizeof bytes);
        test_fill(&r, v, sizeof v);
        build_nd(&b, &s, bytes, type);
        struct test_packet *t = test_packet_new(&r, b.bytes, b.n, 180);
        t->p.l3_at = b.l3_at;
        assert_int_equal(packet_set_nd_target(&t->p, v), is_nd);
        if (is_nd) memcpy(bytes, v, 16);
        build_nd(&b, &s, bytes, type);
        test_assert_bytes(&t->p, b.bytes, b.n);
        assert_int_equal(packet_set_nd_sll(&t->p, v + 1), is_nd);
        assert_int_equal(packet_set_nd_tll(&t->p, v + 2), is_nd);
        if (is_nd) memcpy(bytes + 26, v + 1, 6);
        if (is_nd) memcpy(bytes + 34, v + 2, 6);
        build_nd(&b, &s, bytes, type);
        test_assert_bytes(&t->p, b.bytes, b.n);

        /* Options that end in nothing, or behind the end. */
        t->p.head[b.payload_at + 17] = 0;
        assert_false(packet_set_nd_sll(&t->p, v));
        t->p.head[b.payload_at + 17] = 200;
        assert_false(packet_set_nd_tll(&t->p, v));
        test_packet_free(t);
    }
}

static void arp(void **state)
{
    static const uint8_t frame[60] = {1,    1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0x00,
                                      0x01, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5,    5,    5, 5, 5,    6,    6, 6, 6};
    static const uint8_t v[6] = {9, 8, 7, 6, 5, 4};
    struct test_random r = {6};
    uint8_t want[60];
    memcpy(want, frame, 60);
    struct test_packet *t = test_packet_with_head(&r, frame, 60, 42);
    t->p.l3_at = 14;
    assert_true(packet_set_arp_op(&t->p, be16_make(2)));
    want[21] = 2;
    assert_true(packet_set_arp_sha(&t->p, v));
    memcpy(want + 22, v, 6);
    assert_true(packet_set_arp_spa(&t->p, be32_of(v)));
    memcpy(want + 28, v, 4);
    assert_true(packet_set_arp_tha(&t->p, v));
    memcpy(want + 32, v, 6);
    assert_true(packet_set_arp_tpa(&t->p, be32_of(v)));
    memcpy(want + 38, v, 4);
    test_assert_bytes(&t->p, want, 60);
    t->p.head[18] = 8;
    assert_false(packet_set_arp_op(&t->p, be16_make(2)));
    t->p.head[18] = 6;
    t->p.l3_at = 15;
    assert_false(packet_set_arp_op(&t->p, be16_make(2)));
    test_packet_free(t);
}

/* ---- provider backbone bridging ---- */

static void an_i_tag_keeps_the_customers_addresses(void **state)
{
    struct test_random r = {7};
    static struct test_built b;
    static const uint8_t mac[6] = {2, 4, 6, 8, 10, 12};
    for (unsigned round = 0; round < 100; round++) {
        struct test_spec s;
        test_spec_random(&r, &s, 6);
        s.payload = payload;
        s.payload_bytes = 100;
        test_build(&b, &s);
        struct test_packet *t = test_packet_new(&r, b.bytes, b.n, 140);
        struct packet *p = &t->p;
        p->l3_at = b.l3_at;
        assert_false(packet_pop_pbb(p));
        assert_false(packet_set_pbb_tci(p, be32_make(1)));
        assert_true(packet_push_pbb(p, be32_make(0xe0123456)));
        assert_int_equal(p->length_bytes, b.n + 18);
        assert_int_equal(p->l3_at, b.l3_at + 18);
        assert_memory_equal(p->head, b.bytes, 12);
        static const uint8_t tag[] = {0x88, 0xe7, 0xe0, 0x12, 0x34, 0x56};
        assert_memory_equal(p->head + 12, tag, 6);
        assert_memory_equal(p->head + 18, b.bytes, b.l3_at);
        assert_true(packet_set_eth_dst(p, mac) && packet_set_eth_src(p, mac));
        assert_true(packet_push_vlan(p, be16_make(0x88a8), be16_make(5)));
        assert_true(packet_set_pbb_tci(p, be32_make(0x00abcdef)));
        assert_memory_equal(p->head + 18, "\x00\xab\xcd\xef", 4);
        assert_true(packet_pop_vlan(p));
        assert_true(packet_pop_pbb(p));
        test_assert_bytes(p, b.bytes, b.n);
        test_packet_free(t);
    }
}

/* ---- what is broken ---- */

static void any_change(struct packet *p, struct test_random *r)
{
    struct test_spec s;
    test_spec_random(r, &s, 6);
    uint8_t v[16];
    test_fill(r, v, sizeof v);
    switch (test_below(r, 14)) {
    case 0: packet_set_nd_target(p, v); break;
    case 1: packet_set_nd_sll(p, v); break;
    case 2: packet_set_nd_tll(p, v); break;
    case 3: packet_set_arp_tpa(p, be32_of(v)); break;
    case 4: packet_push_pbb(p, be32_of(v)); break;
    case 5: packet_pop_pbb(p); break;
    case 6: packet_set_pbb_tci(p, be32_of(v)); break;
    default: change(p, &s, (enum change)test_below(r, CHANGES), v);
    }
}

static void broken_frames(void **state)
{
    struct test_random r = {8};
    static struct test_built b;
    for (unsigned round = 0; round < 30000; round++) {
        struct test_spec s;
        random_spec(&r, &s);
        s.payload_bytes = test_below(&r, 60);
        test_build(&b, &s);
        for (unsigned i = test_below(&r, 5); i > 0; i--)
            b.bytes[test_below(&r, b.n)] = (uint8_t)test_random(&r);
        uint32_t n = test_chance(&r, 2) ? test_below(&r, b.n + 1) : b.n;
        if (test_chance(&r, 8)) test_fill(&r, b.bytes, n);
        struct test_packet *t = test_packet_new(&r, b.bytes, n, 0);
        t->p.l3_at = test_chance(&r, 2)   ? b.l3_at
                     : test_chance(&r, 2) ? PACKET_NO_LAYER
                                          : (uint16_t)test_below(&r, 300);
        t->p.l4_at = b.l4_at;
        t->p.offload.csum_partial = test_chance(&r, 2);
        t->p.offload.csum_start = (uint16_t)test_random(&r);
        uint32_t left = t->p.length_bytes - t->p.head_bytes;
        for (unsigned i = 0; i < 8; i++) {
            any_change(&t->p, &r);
            assert_int_equal(t->p.length_bytes - t->p.head_bytes, left);
            assert_true(t->p.room_bytes + t->p.head_bytes <= PACKET_BUFFER_BYTES);
            assert_ptr_equal(t->p.head, t->buffer + t->p.room_bytes);
        }
        test_packet_free(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changed_frames_are_as_if_written_so),
        cmocka_unit_test(wrong_checksums_stay_wrong),
        cmocka_unit_test(fragments_have_a_checksum_in_the_first_only),
        cmocka_unit_test(sctp_in_fragments_cannot_be_kept_right),
        cmocka_unit_test(protocols_and_types),
        cmocka_unit_test(neighbour_discovery),
        cmocka_unit_test(arp),
        cmocka_unit_test(an_i_tag_keeps_the_customers_addresses),
        cmocka_unit_test(broken_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
