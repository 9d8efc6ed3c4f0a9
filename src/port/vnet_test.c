/* SPDX-License-Identifier: Apache-2.0 */
/* Headers that are right come back as they were; none that is wrong lets anything be written outside of a frame's head. */
#include "port/vnet.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_net.h>
#include <string.h>

#include "packet/parse.h"
#include "port/frame.h"

#define UDP_L4 5
#define FRAME_BYTES 9000u

enum kind { TCP4, TCP6, UDP4, UDP6, TCP4_TAGGED, TCP4_OPTIONS, ARP };

static uint8_t buffer[FRAME_BUFFER_BYTES];
static struct iovec body;

/* Headers of a kind, where L4 begins in *l4. */
static struct packet frame(enum kind kind, unsigned *l4)
{
    struct packet p;
    memset(buffer, 0, FRAME_BYTES + PACKET_ROOM_BYTES);
    uint8_t *f = buffer + PACKET_ROOM_BYTES, *ip = f + 14;
    bool v6 = kind == TCP6 || kind == UDP6, tcp = kind != UDP4 && kind != UDP6;
    assert_true(frame_packet(&p, &body, f, FRAME_BYTES));
    memcpy(f + 12, kind == ARP ? "\x08\x06" : v6 ? "\x86\xdd" : "\x08\0", 2);
    if (kind == TCP4_TAGGED) {
        memcpy(f + 12, "\x88\xa8\0\5\x81\0\0\6\x08\0", 10);
        ip += 8;
    }
    ip[0] = v6 ? 0x60 : kind == TCP4_OPTIONS ? 0x47 : 0x45;
    ip[v6 ? 6 : 9] = tcp ? 6 : 17;
    uint8_t *at = ip + (v6 ? 40 : (ip[0] & 15) * 4);
    if (tcp) at[12] = 8 << 4;
    *l4 = (unsigned)(at - f);
    return p;
}

static struct virtio_net_hdr header(unsigned l4, unsigned flags, unsigned type, unsigned size, unsigned csum_offset)
{
    return (struct virtio_net_hdr){.flags = (uint8_t)flags,
                                   .gso_type = (uint8_t)type,
                                   .gso_size = (uint16_t)size,
                                   .csum_start = (uint16_t)l4,
                                   .csum_offset = (uint16_t)csum_offset};
}

static bool read_header(struct virtio_net_hdr h, struct packet *p)
{
    uint8_t raw[VNET_HEADER_BYTES];
    memcpy(raw, &h, sizeof raw);
    return vnet_read(raw, p);
}

static void what_is_right_comes_back(void **state)
{
    static const struct {
        enum kind kind;
        uint8_t type;
        uint16_t offset;
        enum packet_gso gso;
    } cases[] = {{TCP4, 1, 16, PACKET_GSO_TCP4},        {TCP4, 0x81, 16, PACKET_GSO_TCP4},
                 {TCP6, 4, 16, PACKET_GSO_TCP6},        {TCP6, 0x84, 16, PACKET_GSO_TCP6},
                 {UDP4, UDP_L4, 6, PACKET_GSO_UDP4},    {UDP6, UDP_L4, 6, PACKET_GSO_UDP6},
                 {TCP4_TAGGED, 1, 16, PACKET_GSO_TCP4}, {TCP4_OPTIONS, 1, 16, PACKET_GSO_TCP4}};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        unsigned l4;
        struct packet p = frame(cases[i].kind, &l4);
        struct virtio_net_hdr h = header(l4, VIRTIO_NET_HDR_F_NEEDS_CSUM, cases[i].type, 1000, cases[i].offset);
        assert_true(read_header(h, &p));
        const struct packet_offload *o = &p.offload;
        assert_true(o->csum_partial && !o->csum_valid);
        assert_int_equal(o->gso, cases[i].gso);
        assert_int_equal(o->gso_size, 1000);
        assert_int_equal(o->gso_ecn, cases[i].type >> 7);
        assert_int_equal(o->csum_start, l4);
        uint8_t raw[VNET_HEADER_BYTES];
        vnet_write(raw, &p);
        struct virtio_net_hdr back;
        memcpy(&back, raw, sizeof back);
        assert_int_equal(back.hdr_len, l4 + (cases[i].type == UDP_L4 ? 8 : 32));
        back.hdr_len = 0;
        assert_memory_equal(&back, &h, sizeof h);
    }
    unsigned l4;
    struct packet p = frame(ARP, &l4);
    assert_true(read_header((struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_DATA_VALID}, &p));
    assert_true(p.offload.csum_valid && !p.offload.csum_partial);
    assert_true(read_header((struct virtio_net_hdr){0}, &p));
    assert_false(p.offload.csum_valid);
}

static void one_segment_needs_no_cutting(void **state)
{
    unsigned l4;
    struct packet p = frame(TCP4, &l4);
    assert_true(read_header(header(l4, 1, 0x81, FRAME_BYTES - l4 - 32, 16), &p));
    assert_int_equal(p.offload.gso, PACKET_GSO_NONE);
    assert_int_equal(p.offload.gso_size, 0);
    assert_false(p.offload.gso_ecn);
    assert_true(p.offload.csum_partial);
}

static void what_is_impossible_is_refused(void **state)
{
    unsigned l4;
    struct packet p = frame(TCP4, &l4);
    assert_false(read_header(header(l4, 0, 1, 1000, 16), &p));     /* no checksum to be finished */
    assert_false(read_header(header(l4, 1, 1, 0, 16), &p));        /* no size */
    assert_false(read_header(header(l4, 1, 1, 15, 16), &p));       /* thousands of segments */
    assert_false(read_header(header(l4, 1, 4, 1000, 16), &p));     /* not IPv6 */
    assert_false(read_header(header(l4, 1, UDP_L4, 1000, 6), &p)); /* not UDP */
    assert_false(read_header(header(l4, 1, 3, 1000, 16), &p));     /* UFO: never agreed on */
    assert_false(read_header(header(l4, 1, 7, 1000, 16), &p));     /* unknown */
    assert_false(read_header(header(l4, 1, 1, 1000, 6), &p));      /* not TCP's checksum */
    assert_false(read_header(header(l4 + 4, 1, 1, 1000, 16), &p)); /* not where L4 begins */
    assert_false(read_header(header(13, 1, 0, 0, 16), &p));        /* in the Ethernet header */
    assert_false(read_header(header(14, 1, 0, 0, 16), &p));        /* the destination address */
    assert_false(read_header(header(20, 1, 0, 0, 6), &p));         /* the source address */
    assert_false(read_header(header(l4, 1, 0, 0, 2), &p));         /* a port */
    assert_false(read_header(header(l4 + 40, 1, 0, 0, 16), &p));   /* TCP is no tunnel */
    assert_false(read_header(header(255, 1, 0, 0, 0), &p));        /* behind the head */
    assert_false(read_header(header(65535, 1, 0, 0, 65535), &p));
    p.head[l4 + 12] = 4 << 4; /* a TCP header of 16 bytes */
    assert_false(read_header(header(l4, 1, 1, 1000, 16), &p));
    p = frame(TCP4, &l4);
    p.head[14 + 6] = 0x20; /* a fragment */
    assert_false(read_header(header(l4, 1, 1, 1000, 16), &p));
    p = frame(UDP4, &l4);
    assert_false(read_header(header(l4, 1, 0x80 | UDP_L4, 1000, 6), &p)); /* ECN is TCP's */
    assert_false(read_header(header(l4, 1, UDP_L4, 40, 6), &p));
    assert_false(read_header(header(l4 + 40, 1, 1, 1000, 16), &p)); /* segments in a tunnel */
    assert_true(read_header(header(l4 + 40, 1, 0, 0, 16), &p));
    p = frame(ARP, &l4);
    assert_false(read_header(header(l4, 1, 1, 1000, 16), &p));
    assert_false(read_header(header(l4, 1, 0, 0, 16), &p));
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}

/* What every receiver relies on. */
static void check_sound(const struct packet *p)
{
    const struct packet_offload *o = &p->offload;
    if (o->csum_partial) assert_int_not_equal(packet_csum_place(p), PACKET_CSUM_WRONG);
    if (o->gso == PACKET_GSO_NONE) {
        assert_int_equal(o->gso_size, 0);
        return;
    }
    bool tcp = o->gso <= PACKET_GSO_TCP6;
    assert_true(o->csum_partial && o->gso_size > 0 && o->gso <= PACKET_GSO_UDP6);
    assert_true(o->csum_start + (tcp ? (p->head[o->csum_start + 12] >> 4) * 4u : 8) <= p->head_bytes);
    assert_int_equal(o->csum_offset, tcp ? 16 : 6);
}

static void whatever_is_accepted_is_sound(void **state)
{
    uint32_t random = 1;
    unsigned accepted = 0;
    for (unsigned i = 0; i < 300000; i++) {
        static const uint8_t types[] = {0, 1, 3, 4, 5, 0x81, 0x84, 0x85};
        unsigned l4;
        struct packet p = frame(next_random(&random) % (ARP + 1), &l4);
        uint32_t bytes = 14 + next_random(&random) % (next_random(&random) % 2 ? 300 : FRAME_BYTES - 14);
        frame_packet(&p, &body, p.head, bytes);
        struct virtio_net_hdr h = header(l4 + (next_random(&random) % 4 ? 0 : next_random(&random) % 400 - 200),
                                         next_random(&random) % 4, types[next_random(&random) % sizeof types],
                                         next_random(&random) % 2000, next_random(&random) % 2 ? 16 : 6);
        for (unsigned spoiled = next_random(&random) % 3; spoiled; spoiled--)
            p.head[next_random(&random) % p.head_bytes] = (uint8_t)next_random(&random);
        if (!read_header(h, &p)) continue;
        accepted++;
        check_sound(&p);
    }
    assert_true(accepted > 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_right_comes_back),
        cmocka_unit_test(one_segment_needs_no_cutting),
        cmocka_unit_test(what_is_impossible_is_refused),
        cmocka_unit_test(whatever_is_accepted_is_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
