/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A large frame with whatever headers, changed by a few of a switch's actions, then cut up; and the checksum of a frame that is
 * left to be finished.
 *
 * input: flags, bytes in the head, shape of the pieces, gso_size (2 bytes), csum_start and offset (1 each), number of changes, each a
 * byte and a value of four, then the frame. With flag FIT the offload is made to be of what the headers say, so that
 * the fuzzer need not guess it.
 *
 * Checked: segments hold exactly the payload, in order, each no longer than gso_size; their checksums are right.
 */
#include <stddef.h>

#include "packet/checksum.h"
#include "packet/edit.h"
#include "packet/gso.h"
#include "packet/parse.h"
#include "packet_pieces.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum flags { LEAVE = 1, FIT = 2, LAYERS = 4, FINISH = 8, CLONE = 16 };

#define FRAME_MAX 4096u

static void fit(struct packet *p)
{
    struct packet_layers l = packet_parse(p);
    if (l.l4_at == PACKET_NO_LAYER) return;
    bool tcp = l.proto == 6;
    p->offload.csum_partial = true;
    p->offload.csum_start = l.l4_at;
    p->offload.csum_offset = tcp ? 16 : 6;
    p->offload.gso =
        l.version == 4 ? (tcp ? PACKET_GSO_TCP4 : PACKET_GSO_UDP4) : (tcp ? PACKET_GSO_TCP6 : PACKET_GSO_UDP6);
}

static void change(struct packet *p, unsigned what, uint32_t v)
{
    uint8_t bytes[16];
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(v >> (i % 4 * 8));
    struct be32 word = be32_make(v);
    struct be16 half = be16_make((uint16_t)v);
    switch (what % 42) {
    case 0: packet_set_eth_dst(p, bytes); break;
    case 1: packet_set_eth_src(p, bytes); break;
    case 2: packet_push_vlan(p, be16_make(0x8100), half); break;
    case 3: packet_pop_vlan(p); break;
    case 4: packet_set_vlan_tci(p, half); break;
    case 5: packet_push_pbb(p, word); break;
    case 6: packet_pop_pbb(p); break;
    case 7: packet_set_pbb_tci(p, word); break;
    case 8: packet_push_mpls(p, be16_make(0x8847), word); break;
    case 9: packet_pop_mpls(p, half); break;
    case 10: packet_set_mpls_entry(p, word); break;
    case 11: packet_set_mpls_ttl(p, bytes[0]); break;
    case 12: packet_dec_mpls_ttl(p); break;
    case 13: packet_copy_ttl_out(p); break;
    case 14: packet_copy_ttl_in(p); break;
    case 15: packet_set_ipv4_src(p, word); break;
    case 16: packet_set_ipv4_dst(p, word); break;
    case 17: packet_set_ipv4_tos(p, bytes[0]); break;
    case 18: packet_set_ipv4_ttl(p, bytes[0]); break;
    case 19: packet_set_ipv6_src(p, bytes); break;
    case 20: packet_set_ipv6_dst(p, bytes); break;
    case 21: packet_set_ipv6_class(p, bytes[0]); break;
    case 22: packet_set_ipv6_label(p, v); break;
    case 23: packet_set_ipv6_hop_limit(p, bytes[0]); break;
    case 24: packet_dec_ttl(p); break;
    case 25: packet_set_port_src(p, half); break;
    case 26: packet_set_port_dst(p, half); break;
    case 27: packet_set_icmp_type(p, bytes[0]); break;
    case 28: packet_set_icmp_code(p, bytes[0]); break;
    case 29: packet_set_nd_target(p, bytes); break;
    case 30: packet_set_nd_sll(p, bytes); break;
    case 31: packet_set_nd_tll(p, bytes); break;
    case 32: packet_set_arp_op(p, half); break;
    case 33: packet_set_arp_sha(p, bytes); break;
    case 34: packet_set_arp_tha(p, bytes); break;
    case 35: packet_set_arp_spa(p, word); break;
    case 36: packet_set_arp_tpa(p, word); break;
    case 37: packet_insert(p, (uint16_t)v, (uint16_t)(v >> 16 & 63)); break;
    case 38: packet_remove(p, (uint16_t)v, (uint16_t)(v >> 16 & 63)); break;
    case 40: packet_set_eth_type(p, half); break;
    case 41: packet_set_ip_proto(p, bytes[0]); break;
    case 39: p->l3_at = (uint16_t)v; break;
    }
}

static void check_sums(const struct packet *s, const struct gso *g, const uint8_t *flat)
{
    bool v4 = g->kind == PACKET_GSO_TCP4 || g->kind == PACKET_GSO_UDP4;
    bool tcp = g->kind == PACKET_GSO_TCP4 || g->kind == PACKET_GSO_TCP6;
    if (v4) check(slow_sum(0, flat + g->l3_at, (flat[g->l3_at] & 15) * 4u) == 0xffff);
    if (!s->offload.csum_partial)
        check(slow_l4_sum(flat, s->length_bytes, v4 ? 4 : 6, tcp ? 6 : 17, g->l3_at, g->l4_at) == 0xffff);
}

static void cut(struct packet_pool *pool, struct packet *p, bool leave)
{
    static uint8_t whole[FRAME_MAX + 256], flat[FRAME_MAX + 256];
    struct gso g;
    if (gso_begin(&g, pool, p, leave) < 0) return;
    packet_read(p, 0, whole, p->length_bytes);
    struct packet_pool_mark mark = packet_pool_mark(pool);
    uint32_t at = g.header_bytes;
    for (struct packet *s; (s = gso_next(&g)); packet_pool_rewind(pool, mark)) {
        uint32_t n = s->length_bytes - g.header_bytes;
        check(n <= p->offload.gso_size && n <= p->length_bytes - at && s->offload.csum_partial == leave);
        packet_read(s, 0, flat, s->length_bytes);
        check(memcmp(flat + g.header_bytes, whole + at, n) == 0);
        check_sums(s, &g, flat);
        at += n;
    }
    check(at == p->length_bytes && gso_left(&g) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct packet_pool *pool;
    if (!pool) pool = packet_pool_new();
    struct input in = {data, data + size};
    unsigned flags = take(&in, 1), head = take(&in, 1), shape = take(&in, 1);
    uint16_t gso_size = (uint16_t)take(&in, 2);
    uint16_t csum_start = (uint16_t)take(&in, 1), csum_offset = (uint16_t)take(&in, 1);
    struct input changes = in;
    unsigned count = take(&changes, 1) % 8;
    take(&in, 1);
    for (unsigned i = 0; i < count * 5; i++)
        take(&in, 1);
    uint32_t n = (uint32_t)(in.end - in.at);
    struct pieces f;
    pieces_make(&f, in.at, n < FRAME_MAX ? n : FRAME_MAX, head, shape);
    struct packet *p = &f.p;
    struct packet_layers l = packet_parse(p);
    if (flags & LAYERS) p->l3_at = l.l3_at;
    p->offload = (struct packet_offload){.csum_partial = true,
                                         .gso = (uint8_t)(flags >> 5),
                                         .gso_size = gso_size,
                                         .csum_start = csum_start,
                                         .csum_offset = csum_offset};
    if (flags & FIT) fit(p);
    if (flags & CLONE) p = packet_clone(pool, p);
    for (unsigned i = 0; i < count; i++) {
        unsigned what = take(&changes, 1);
        change(p, what, take(&changes, 4));
    }
    cut(pool, p, flags & LEAVE);
    if (flags & FINISH && packet_finish_csum(pool, p)) check(!p->offload.csum_partial);
    packet_pool_reset(pool);
    pieces_free(&f);
    return 0;
}
