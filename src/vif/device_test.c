/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device as its guest, its session and its switch see it: features, headers, hostile chains, several queues, limits, link,
 * announcements, changes of memory, taking over.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "packet/parse.h"
#include "vif/test_traffic.h"

#define VIRTIO_NET_F_CTRL_VQ 17

static uint8_t scratch[TRAFFIC_ROOM];

static bool called(const struct card_queue *q)
{
    uint64_t v;
    return read(q->call, &v, sizeof v) == sizeof v;
}

/* ---- features and configuration ---- */

static uint64_t offered(const struct card_options *o)
{
    struct card c;
    card_open(&c, o);
    uint64_t features = vif_guest_ops(c.vif)->features;
    card_close(&c);
    return features;
}

static void test_features(void **state)
{
    uint64_t plain = offered(&(struct card_options){0});
    assert_false(plain & (BIT64(VIRTIO_NET_F_CTRL_VQ) | BIT64(VIRTIO_NET_F_MQ) | BIT64(VIRTIO_NET_F_GUEST_ANNOUNCE)));
    assert_false(plain & (BIT64(VIRTIO_F_RING_PACKED) | BIT64(VIRTIO_F_IN_ORDER)));
    assert_true(plain & BIT64(VIRTIO_NET_F_HOST_USO) && plain & BIT64(VIRTIO_NET_F_GUEST_USO6));
    uint64_t several = offered(&(struct card_options){.pairs = 4, .packed = true, .in_order = true});
    assert_true(several & BIT64(VIRTIO_NET_F_MQ) && several & BIT64(VIRTIO_NET_F_GUEST_ANNOUNCE));
    assert_true(several & BIT64(VIRTIO_F_RING_PACKED) && several & BIT64(VIRTIO_F_IN_ORDER));
    assert_false(several & BIT64(VIRTIO_NET_F_CTRL_VQ));
    uint64_t bare = offered(&(struct card_options){.no_offloads = true});
    assert_false(bare & (BIT64(VIRTIO_NET_F_CSUM) | BIT64(VIRTIO_NET_F_GUEST_CSUM) | BIT64(VIRTIO_NET_F_HOST_TSO4)));
    assert_true(bare & BIT64(VIRTIO_NET_F_MRG_RXBUF));
}

static void test_takes(void **state)
{
    struct card c;
    card_open(&c, &(struct card_options){0});
    struct port *p = vif_port(c.vif);
    const struct guest_device_ops *ops = vif_guest_ops(c.vif);
    assert_int_equal(p->takes, PORT_TAKES_ALL);
    ops->set_features(c.vif, ops->features & ~BIT64(VIRTIO_NET_F_GUEST_TSO6));
    assert_int_equal(p->takes, PORT_TAKES_ALL & ~PORT_TAKES_TSO6);
    ops->set_features(c.vif, ops->features & ~BIT64(VIRTIO_NET_F_GUEST_CSUM));
    assert_int_equal(p->takes, 0); /* no segmentation without checksums */
    ops->set_features(c.vif, ops->features);
    for (unsigned i = 0; i < 2; i++)
        card_queue_stop(&c, i);
    ops->reset(c.vif, GUEST_RESET_DEVICE);
    assert_int_equal(p->takes, 0);
    card_close(&c);
}

static void test_config(void **state)
{
    struct card c;
    card_open(&c, &(struct card_options){.pairs = 4});
    const struct guest_device_ops *ops = vif_guest_ops(c.vif);
    static const uint8_t first[12] = {2, 0, 0, 0, 0, 1, 1, 0, 4, 0, 0xdc, 5};
    uint8_t config[12];
    assert_int_equal(ops->config_bytes, sizeof config);
    assert_int_equal(ops->queues_max, 8);
    ops->get_config(c.vif, config);
    assert_memory_equal(config, first, sizeof config);
    assert_true(vif_set_link(c.vif, false));
    assert_false(vif_set_link(c.vif, false));
    assert_true(vif_set_mtu(c.vif, 9000));
    assert_int_equal(c.kept.link_down, 1);
    ops->get_config(c.vif, config);
    assert_int_equal(config[6], 0);
    assert_int_equal(config[10] | config[11] << 8, 9000);
    assert_int_equal(vif_port(c.vif)->mtu, 9000);
    assert_int_equal(ops->set_config(c.vif, 0, 6, config), -EINVAL);
    card_close(&c);
}

static void test_bad_config(void **state)
{
    struct vif_kept kept = {0};
    struct vif *v;
    struct errmsg e;
    struct vif_runners runners = {0};
    struct vif_config good = {.name = "x", .mac = {2}, .mtu = 1500, .queue_pairs = 1, .kept = &kept}, bad = good;
    bad.queue_pairs = 17;
    assert_int_equal(vif_new(&v, &bad, &runners, &e), -EINVAL);
    bad = good, bad.mtu = 67;
    assert_int_equal(vif_new(&v, &bad, &runners, &e), -EINVAL);
    bad = good, bad.mac[0] = 1;
    assert_int_equal(vif_new(&v, &bad, &runners, &e), -EINVAL);
    vif_free(NULL);
}

/* ---- headers ---- */

enum frame_kind { TCP4, TCP6, UDP4, UDP6, TCP4_TAGGED, TCP4_FRAGMENT, ARP };

/* Headers of a frame of this kind into f; where L4 begins. */
static unsigned make_headers(uint8_t *f, enum frame_kind kind)
{
    static const uint8_t types[][2] = {{8, 0}, {0x86, 0xdd}, {8, 6}};
    unsigned at = 12;
    memset(f, 0, 128);
    f[0] = f[6] = 2;
    if (kind == TCP4_TAGGED) {
        f[at] = 0x81;
        f[at + 3] = 5;
        at += 4;
    }
    bool six = kind == TCP6 || kind == UDP6;
    memcpy(f + at, types[kind == ARP ? 2 : six], 2);
    at += 2;
    if (kind == ARP) return at;
    f[at] = six ? 0x60 : 0x45;
    f[at + (six ? 6 : 9)] = kind == UDP4 || kind == UDP6 ? 17 : 6;
    if (kind == TCP4_FRAGMENT) f[at + 6] = 0x20;
    at += six ? 40 : 20;
    if (kind != UDP4 && kind != UDP6) f[at + 12] = 0x50;
    return at;
}

struct header_case {
    const char *what;
    enum frame_kind kind;
    uint8_t flags, type;
    int start, offset; /* start -1: where L4 begins; offset -1: the protocol's */
    uint16_t size, hdr_len;
    uint32_t length;
    uint64_t without;
    bool good;
    uint8_t gso;
};

static const struct header_case header_cases[] = {
    {"nothing", TCP4, 0, 0, 0, 0, 0, 0, 60, 0, true, 0},
    {"unknown flags", TCP4, 0xfe, 0, 500, 500, 0, 0, 60, 0, true, 0},
    {"a checksum", TCP4, 1, 0, -1, -1, 0, 0, 60, 0, true, 0},
    {"a checksum that was not agreed on", TCP4, 1, 0, -1, -1, 0, 0, 60, BIT64(VIRTIO_NET_F_CSUM), false, 0},
    {"a checksum past the end", TCP4, 1, 0, -1, -1, 0, 0, 51, 0, false, 0},
    {"a checksum at the end", TCP4, 1, 0, -1, -1, 0, 0, 52, 0, true, 0},
    {"a checksum past the head", UDP4, 1, 0, 250, 6, 0, 0, 1000, 0, false, 0},
    {"a checksum at the head's end", UDP4, 1, 0, 248, 6, 0, 0, 1000, 0, true, 0},
    {"a checksum, tagged", TCP4_TAGGED, 1, 0, -1, -1, 0, 0, 1000, 0, true, 0},
    {"a checksum over the destination", TCP4, 1, 0, 14, 16, 0, 0, 60, 0, false, 0},
    {"a checksum over the source", TCP4, 1, 0, 20, 6, 0, 0, 60, 0, false, 0},
    {"a checksum over the ports", TCP4, 1, 0, -1, 0, 0, 0, 60, 0, false, 0},
    {"a checksum over the flags", TCP4, 1, 0, -1, 12, 0, 0, 60, 0, false, 0},
    {"a checksum over the payload", TCP4, 1, 0, 60, 16, 0, 0, 1000, 0, false, 0},
    {"the checksum of another protocol", UDP4, 1, 0, -1, 16, 0, 0, 60, 0, false, 0},
    {"a checksum in a tunnel", UDP4, 1, 0, 100, 16, 0, 0, 1000, 0, true, 0},
    {"tso in a tunnel", UDP4, 1, 1, 100, 16, 1448, 54, 9000, 0, false, 0},
    {"a checksum of arp", ARP, 1, 0, 22, 6, 0, 0, 60, 0, false, 0},
    {"a start that is out of bounds", TCP4, 1, 0, 65535, 65535, 0, 0, 1000, 0, false, 0},
    {"a checksum within the addresses", TCP4, 1, 0, 2, 4, 0, 0, 60, 0, false, 0},
    {"tso4", TCP4, 1, 1, -1, -1, 1448, 54, 9000, 0, true, PACKET_GSO_TCP4},
    {"tso4 with ecn", TCP4, 1, 0x81, -1, -1, 1448, 54, 9000, 0, true, PACKET_GSO_TCP4},
    {"ecn, not agreed on", TCP4, 1, 0x81, -1, -1, 1448, 54, 9000, BIT64(VIRTIO_NET_F_HOST_ECN), false, 0},
    {"tso4, tagged", TCP4_TAGGED, 1, 1, -1, -1, 1448, 58, 9000, 0, true, PACKET_GSO_TCP4},
    {"tso6", TCP6, 1, 4, -1, -1, 1428, 74, 9000, 0, true, PACKET_GSO_TCP6},
    {"tso without a checksum", TCP4, 0, 1, -1, -1, 1448, 54, 9000, 0, false, 0},
    {"tso, not agreed on", TCP4, 1, 1, -1, -1, 1448, 54, 9000, BIT64(VIRTIO_NET_F_HOST_TSO4), false, 0},
    {"tso6, not agreed on", TCP6, 1, 4, -1, -1, 1448, 54, 9000, BIT64(VIRTIO_NET_F_HOST_TSO6), false, 0},
    {"segments of nothing", TCP4, 1, 1, -1, -1, 0, 54, 9000, 0, false, 0},
    {"segments of one byte", TCP4, 1, 1, -1, -1, 1, 54, 9000, 0, false, 0},
    {"segments larger than the frame", TCP4, 1, 1, -1, -1, 65535, 54, 9000, 0, true, PACKET_GSO_NONE},
    {"tso4 of udp", UDP4, 1, 1, -1, 16, 1448, 54, 9000, 0, false, 0},
    {"tso4 of arp", ARP, 1, 1, 34, 16, 1448, 54, 9000, 0, false, 0},
    {"tso4 of ipv6", TCP6, 1, 1, -1, -1, 1448, 54, 9000, 0, false, 0},
    {"tso6 of ipv4", TCP4, 1, 4, -1, -1, 1448, 54, 9000, 0, false, 0},
    {"tso4 of a fragment", TCP4_FRAGMENT, 1, 1, -1, -1, 1448, 54, 9000, 0, false, 0},
    {"tso4, another field", TCP4, 1, 1, -1, 6, 1448, 54, 9000, 0, false, 0},
    {"tso4, another start", TCP4, 1, 1, 38, 16, 1448, 54, 9000, 0, false, 0},
    {"a header longer than the frame", TCP4, 1, 1, -1, -1, 1448, 9001, 9000, 0, false, 0},
    {"uso4", UDP4, 1, 5, -1, -1, 1000, 42, 9000, 0, true, PACKET_GSO_UDP4},
    {"uso6", UDP6, 1, 5, -1, -1, 1000, 62, 9000, 0, true, PACKET_GSO_UDP6},
    {"uso, not agreed on", UDP6, 1, 5, -1, -1, 1000, 62, 9000, BIT64(VIRTIO_NET_F_HOST_USO), false, 0},
    {"uso of tcp", TCP4, 1, 5, -1, 6, 1000, 42, 9000, 0, false, 0},
    {"uso into too many", UDP4, 1, 5, -1, -1, 10, 42, 9000, 0, false, 0},
    {"uso with ecn", UDP4, 1, 0x85, -1, -1, 1000, 42, 9000, 0, false, 0},
    {"ufo", UDP4, 1, 3, -1, -1, 1000, 42, 9000, 0, false, 0},
    {"an unknown kind", UDP4, 1, 7, -1, -1, 1000, 42, 9000, 0, false, 0},
    {"ecn of nothing", TCP4, 1, 0x80, -1, -1, 1000, 42, 9000, 0, false, 0},
};

static struct virtio_net_hdr header_of(const struct header_case *k, unsigned l4)
{
    return (struct virtio_net_hdr){
        .flags = k->flags,
        .gso_type = k->type,
        .hdr_len = le16_make(k->hdr_len),
        .gso_size = le16_make(k->size),
        .csum_start = le16_make((uint16_t)(k->start < 0 ? (int)l4 : k->start)),
        .csum_offset = le16_make((uint16_t)(k->offset < 0 ? (k->kind == UDP4 || k->kind == UDP6 ? 6 : 16) : k->offset)),
    };
}

/* Through the card, so that the frame is where frames are. */
static void check_header(const struct header_case *k)
{
    struct card c;
    struct packet *p;
    card_open(&c, &(struct card_options){.without = k->without});
    memset(scratch, 0, sizeof scratch);
    struct virtio_net_hdr h = header_of(k, make_headers(scratch, k->kind));
    traffic_send_frame(&c, &h, scratch, k->length, 3);
    int n = card_receive(&c, 0, &p, 1);
    if (n != k->good) fail_msg("%s: %d frames", k->what, n);
    assert_int_equal(traffic_stats(&c).tx_invalid, !k->good);
    if (n) {
        assert_int_equal(p->offload.csum_partial, k->flags & 1);
        if (p->offload.gso != k->gso) fail_msg("%s: gso %u", k->what, p->offload.gso);
        assert_int_equal(p->offload.gso_size, k->gso ? k->size : 0);
        assert_int_equal(p->offload.gso_ecn, k->gso && k->type & 0x80);
        assert_false(p->offload.csum_valid);
        card_release(&c, 0);
    }
    assert_int_equal(traffic_sent_back(&c, 0), 1);
    assert_null(vif_broken(c.vif));
    card_close(&c);
}

static void test_headers(void **state)
{
    for (unsigned i = 0; i < ARRAY_LEN(header_cases); i++)
        check_header(&header_cases[i]);
}

/* What is accepted can be used without another look: whatever the header and the frame. */
static void test_random_headers(void **state)
{
    traffic_state = 5;
    unsigned accepted = 0;
    for (unsigned i = 0; i < 200000; i++) {
        uint8_t head[PACKET_HEAD_BYTES];
        struct virtio_net_hdr h;
        uint64_t words[2] = {traffic_pick(UINT64_MAX), traffic_pick(UINT64_MAX)};
        memcpy(&h, words, sizeof h);
        unsigned l4 = make_headers(head, (enum frame_kind)traffic_pick(7));
        h.gso_type = (uint8_t)(traffic_pick(8) | (traffic_pick(4) ? 0 : 0x80));
        if (traffic_pick(2)) h.csum_start = le16_make((uint16_t)l4);
        if (traffic_pick(2)) h.csum_offset = le16_make(traffic_pick(2) ? 16 : 6);
        if (traffic_pick(4) == 0) head[traffic_pick(80)] = (uint8_t)traffic_pick(256);
        struct packet p = {.head = head, .length_bytes = 14 + (uint32_t)traffic_pick(PACKET_MAX_BYTES - 13)};
        p.head_bytes = (uint16_t)min_u64(p.length_bytes, PACKET_HEAD_BYTES);
        if (!vif_header_parse(&h, UINT64_MAX, &p)) continue;
        const struct packet_offload *o = &p.offload;
        accepted++;
        if (o->csum_partial) assert_int_not_equal(packet_csum_place(&p), PACKET_CSUM_WRONG);
        if (!o->gso) {
            assert_false(o->gso_ecn);
            continue;
        }
        assert_true(o->csum_partial && o->gso_size > 0 && o->gso <= PACKET_GSO_UDP6);
        assert_int_equal(packet_csum_place(&p), PACKET_CSUM_L4);
        unsigned headers = o->csum_start + (o->gso >= PACKET_GSO_UDP4 ? 8 : (head[o->csum_start + 12] >> 4) * 4u);
        assert_true(headers <= p.head_bytes && headers < p.length_bytes);
        assert_true(div_round_up(p.length_bytes - headers, o->gso_size) <= 65536 / VIF_TCP_SEGMENT_MIN);
        struct virtio_net_hdr back;
        vif_header_make(&back, UINT64_MAX, &p, 1);
        assert_int_equal(le16_get(back.hdr_len), headers);
        assert_int_equal(back.gso_type, h.gso_type);
    }
    assert_true(accepted > 1000);
}

/* What the receiver is told. */
static void test_header_made(void **state)
{
    struct card c;
    uint8_t head[PACKET_HEAD_BYTES];
    struct packet p = {.head = head, .head_bytes = 128, .length_bytes = 128}, *one = &p;
    struct virtio_net_hdr h;
    unsigned buffers;
    card_open(&c, &(struct card_options){.without = BIT64(VIRTIO_NET_F_GUEST_ECN)});
    unsigned l4 = make_headers(head, TCP4);
    for (unsigned i = 0; i < 3; i++)
        traffic_post(&c, 0, i * 4096, 4096, 1, false);
    driver_sim_publish(c.queue[0].driver);
    p.offload = (struct packet_offload){.csum_valid = true};
    traffic_deliver(&c, &one, 1);
    assert_int_equal(traffic_get(&c, 0, &h, scratch, &buffers), 128);
    assert_int_equal(h.flags, VIRTIO_NET_HDR_F_DATA_VALID);
    assert_int_equal(le16_get(h.num_buffers), 1);
    p.offload = (struct packet_offload){.csum_partial = true, .csum_start = (uint16_t)l4, .csum_offset = 16};
    traffic_deliver(&c, &one, 1);
    traffic_get(&c, 0, &h, scratch, &buffers);
    assert_int_equal(h.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    assert_int_equal(le16_get(h.csum_start), l4);
    assert_int_equal(le16_get(h.csum_offset), 16);
    p.offload.gso = PACKET_GSO_TCP4;
    p.offload.gso_size = 40;
    p.offload.gso_ecn = true;
    traffic_deliver(&c, &one, 1);
    traffic_get(&c, 0, &h, scratch, &buffers);
    assert_int_equal(h.gso_type, VIRTIO_NET_HDR_GSO_TCPV4); /* ECN was not agreed on */
    assert_int_equal(le16_get(h.gso_size), 40);
    assert_int_equal(le16_get(h.hdr_len), l4 + 20);
    card_close(&c);
}

/* ---- chains ---- */

/* Bad frames between good ones: the good ones come out, all come back, in order. */
static void test_bad_frames(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct card c;
        struct packet *out[PACKET_BATCH];
        card_open(&c, &(struct card_options){.packed = packed, .size = 256});
        static uint8_t bytes[TRAFFIC_ROOM];
        static const size_t lengths[] = {
            100, 1, 5, 12, 100, 13, 25, 26, 12 + PACKET_MAX_BYTES + 1, 12 + PACKET_MAX_BYTES, 100};
        for (unsigned i = 0; i < ARRAY_LEN(lengths); i++)
            assert_true(traffic_send_bytes(&c, 0, i, bytes, lengths[i], 4, i % 2));
        /* One that the device could only write. */
        struct driver_sim_buf odd = {{c.queue[1].gpa + CARD_BUFFERS_AT}, 200, true};
        assert_true(driver_sim_add(c.queue[1].driver, &odd, 1, false, 77));
        driver_sim_publish(c.queue[1].driver);
        int n = card_receive(&c, 0, out, PACKET_BATCH);
        assert_int_equal(n, 5);
        assert_int_equal(out[2]->length_bytes, 14);
        assert_int_equal(out[3]->length_bytes, PACKET_MAX_BYTES);
        assert_int_equal(traffic_stats(&c).tx_invalid, 7);
        card_release(&c, 0);
        assert_int_equal(traffic_sent_back(&c, 0), ARRAY_LEN(lengths) + 1);
        /* Only bad ones: given back at once, without a release. */
        traffic_send_bytes(&c, 0, 0, bytes, 5, 1, false);
        driver_sim_publish(c.queue[1].driver);
        assert_int_equal(card_receive(&c, 0, out, PACKET_BATCH), 0);
        assert_int_equal(traffic_sent_back(&c, 0), 1);
        assert_null(vif_broken(c.vif));
        card_close(&c);
    }
}

/* As many pieces as there may be, of a byte each, and one more. */
static void test_tiny_pieces(void **state)
{
    struct card c;
    struct packet *out[2];
    card_open(&c, &(struct card_options){.size = 32, .indirect_max = 1400});
    struct card_queue *q = &c.queue[1];
    static struct driver_sim_buf buf[1400];
    unsigned most = PACKET_BODY_IOV_MAX + PACKET_HEAD_BYTES + 12;
    for (unsigned i = 0; i <= most; i++) {
        q->memory[CARD_BUFFERS_AT + 2 * i] = (uint8_t)(i >= 12 ? i * 7 : 0);
        buf[i] = (struct driver_sim_buf){{q->gpa + CARD_BUFFERS_AT + 2 * i}, 1, false};
    }
    assert_true(driver_sim_add(q->driver, buf, 1000, true, 0));
    driver_sim_publish(q->driver);
    assert_int_equal(card_receive(&c, 0, out, 2), 1);
    assert_int_equal(traffic_packet_bytes(out[0], scratch), 988);
    for (unsigned i = 0; i < 988; i++)
        assert_int_equal(scratch[i], (uint8_t)((i + 12) * 7));
    card_release(&c, 0);
    assert_int_equal(traffic_sent_back(&c, 0), 1);
    /* More entries than the arena: its guest's doing, and its queue's end. */
    assert_true(driver_sim_add(q->driver, buf, most + 1, true, 0));
    driver_sim_publish(q->driver);
    assert_int_equal(card_receive(&c, 0, out, 2), -EPROTO);
    assert_non_null(vif_broken(c.vif));
    card_close(&c);
}

/* A frame of more pieces than a packet's body may have, from a queue that allows as many: dropped. */
static void test_too_many_pieces(void **state)
{
    struct card c;
    struct packet *out[2];
    card_open(&c, &(struct card_options){.size = 1024, .indirect_max = 1400});
    struct card_queue *q = &c.queue[1];
    static struct driver_sim_buf buf[1400];
    unsigned count = PACKET_BODY_IOV_MAX + PACKET_HEAD_BYTES + 12 + 1;
    for (unsigned i = 0; i < count; i++)
        buf[i] = (struct driver_sim_buf){{q->gpa + CARD_BUFFERS_AT + i}, 1, false};
    memset(q->memory + CARD_BUFFERS_AT, 0, 2000);
    assert_true(driver_sim_add(q->driver, buf, count, true, 0));
    assert_true(driver_sim_add(q->driver, buf, count - 1, true, 1));
    driver_sim_publish(q->driver);
    assert_int_equal(card_receive(&c, 0, out, 2), 0); /* the arena has no room for both */
    assert_int_equal(card_receive(&c, 0, out, 2), 1);
    assert_int_equal(out[0]->body_count, PACKET_BODY_IOV_MAX);
    card_release(&c, 0);
    assert_int_equal(traffic_sent_back(&c, 0), 2);
    assert_int_equal(traffic_stats(&c).tx_invalid, 1);
    card_close(&c);
}

static void test_broken(void **state)
{
    struct card c;
    struct packet *out[2];
    card_open(&c, &(struct card_options){0});
    struct driver_sim_buf nothing[2] = {{{c.queue[1].gpa + CARD_BUFFERS_AT}, 200, false},
                                        {{c.queue[1].gpa + CARD_BUFFERS_AT}, 0, false}};
    memset(scratch, 0, 100);
    traffic_send_bytes(&c, 0, 0, scratch, 100, 1, false);
    assert_true(driver_sim_add(c.queue[1].driver, nothing, 2, false, 1));
    driver_sim_publish(c.queue[1].driver);
    assert_int_equal(card_receive(&c, 0, out, 2), 1); /* what came before counts */
    card_release(&c, 0);
    assert_int_equal(card_receive(&c, 0, out, 2), -EPROTO);
    assert_int_equal(card_receive(&c, 0, out, 2), -EPROTO);
    struct pollfd ready = {.fd = vif_broken_fd(c.vif), .events = POLLIN};
    assert_int_equal(poll(&ready, 1, 0), 1);
    assert_non_null(strstr(vif_broken(c.vif), "no length"));
    assert_int_equal(vif_broken_take(c.vif), 2);
    assert_int_equal(poll(&ready, 1, 0), 0);
    /* The other direction goes on. */
    traffic_post(&c, 0, 0, 2048, 1, false);
    driver_sim_publish(c.queue[0].driver);
    struct packet p = {.head = scratch, .head_bytes = 60, .length_bytes = 60}, *one = &p;
    traffic_deliver(&c, &one, 1);
    assert_int_equal(traffic_stats(&c).rx_packets, 1);
    for (unsigned i = 0; i < 2; i++)
        card_queue_stop(&c, i);
    vif_guest_ops(c.vif)->reset(c.vif, GUEST_RESET_STATUS);
    assert_null(vif_broken(c.vif));
    assert_int_equal(poll(&ready, 1, 0), 1);
    card_close(&c);
}

/* ---- receive buffers ---- */

static struct packet *frame_of(struct packet *p, uint32_t bytes, struct iovec *body)
{
    *p = (struct packet){.head = scratch, .length_bytes = bytes};
    p->head_bytes = (uint16_t)min_u64(bytes, PACKET_HEAD_BYTES);
    *body = (struct iovec){scratch + PACKET_HEAD_BYTES, bytes - p->head_bytes};
    p->body = body;
    p->body_count = body->iov_len ? 1 : 0;
    return p;
}

static void test_no_buffers(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct card c;
        struct packet p[3], *out[3];
        struct iovec body[3];
        struct virtio_net_hdr h;
        unsigned buffers;
        card_open(&c, &(struct card_options){.packed = packed});
        /* Two buffers: a frame that needs three leaves them to the one after it. */
        traffic_post(&c, 0, 0, 100, 1, false);
        traffic_post(&c, 0, 4096, 100, 2, false);
        driver_sim_publish(c.queue[0].driver);
        out[0] = frame_of(&p[0], 250, &body[0]);
        out[1] = frame_of(&p[1], 150, &body[1]);
        out[2] = frame_of(&p[2], 60, &body[2]);
        traffic_deliver(&c, out, 3);
        assert_int_equal(traffic_get(&c, 0, &h, scratch, &buffers), 150);
        assert_int_equal(buffers, 2);
        assert_int_equal(traffic_get(&c, 0, &h, scratch, &buffers), 0);
        struct vif_stats s = traffic_stats(&c);
        assert_int_equal(s.rx_no_buffer, 2);
        assert_int_equal(vif_port(c.vif)->out.dropped, 2);
        assert_int_equal(s.rx_packets, 1);
        card_close(&c);
    }
}

static void test_small_buffers(void **state)
{
    struct card c;
    struct packet p[2], *out[2];
    struct iovec body[2];
    struct virtio_net_hdr h;
    unsigned buffers;
    card_open(&c, &(struct card_options){.without = BIT64(VIRTIO_NET_F_MRG_RXBUF)});
    traffic_post(&c, 0, 0, 1500, 3, false);
    traffic_post(&c, 0, 4096, 1500, 3, false);
    driver_sim_publish(c.queue[0].driver);
    out[0] = frame_of(&p[0], 1489, &body[0]);
    out[1] = frame_of(&p[1], 1488, &body[1]);
    traffic_deliver(&c, out, 2);
    assert_int_equal(traffic_get(&c, 0, &h, scratch, &buffers), 1488);
    assert_int_equal(traffic_get(&c, 0, &h, scratch, &buffers), 0);
    assert_int_equal(traffic_stats(&c).rx_too_long, 1);
    assert_int_equal(traffic_stats(&c).rx_no_buffer, 0);
    card_close(&c);
}

static void test_unwritable_buffer(void **state)
{
    struct card c;
    struct packet p, *one = &p;
    struct iovec body;
    card_open(&c, &(struct card_options){0});
    struct driver_sim_buf odd = {{c.queue[0].gpa + CARD_BUFFERS_AT}, 2000, false};
    assert_true(driver_sim_add(c.queue[0].driver, &odd, 1, false, 0));
    driver_sim_publish(c.queue[0].driver);
    frame_of(&p, 60, &body);
    traffic_deliver(&c, &one, 1);
    assert_non_null(vif_broken(c.vif));
    traffic_deliver(&c, &one, 1);
    assert_int_equal(vif_port(c.vif)->out.dropped, 2);
    card_close(&c);
}

/* ---- several queues ---- */

static void test_steering(void **state)
{
    struct card c;
    struct packet p, *one = &p;
    struct iovec body;
    struct virtio_net_hdr h;
    unsigned buffers, seen[4] = {0};
    card_open(&c, &(struct card_options){.pairs = 4, .size = 256});
    for (unsigned pair = 0; pair < 4; pair++) {
        for (unsigned i = 0; i < 200; i++)
            traffic_post(&c, pair, i * 256, 256, 1, false);
        driver_sim_publish(c.queue[pair * 2].driver);
    }
    for (unsigned i = 0; i < 200; i++) {
        frame_of(&p, 80, &body);
        unsigned l4 = make_headers(scratch, TCP4);
        scratch[l4] = (uint8_t)i;
        unsigned to = 4;
        for (unsigned twice = 0; twice < 2; twice++) { /* a flow stays where it is */
            traffic_deliver(&c, &one, 1);
            for (unsigned pair = 0; pair < 4; pair++) {
                static uint8_t got[TRAFFIC_ROOM];
                if (!traffic_get(&c, pair, &h, got, &buffers)) continue;
                assert_int_equal(got[l4], (uint8_t)i);
                if (twice) assert_int_equal(pair, to);
                to = pair;
                seen[pair]++;
            }
        }
        assert_int_not_equal(to, 4);
    }
    for (unsigned pair = 0; pair < 4; pair++)
        assert_in_range(seen[pair], 60, 140);
    /* A queue that stops leaves its flows to the others. */
    card_queue_stop(&c, 2);
    for (unsigned i = 0; i < 30; i++) {
        p.hash = 1 + i * 0x10000001u;
        traffic_deliver(&c, &one, 1);
    }
    assert_int_equal(traffic_stats(&c).rx_packets, 430);
    assert_int_equal(traffic_stats(&c).pairs_running, 3);
    card_close(&c);
}

/* ---- limits ---- */

/* Over time exactly the rate, whatever the sizes; at once no more than the burst and a frame. */
static void test_bucket(void **state)
{
    static const struct vif_rate rates[] = {
        {1000000, 0}, {UINT64_C(100000000000), 0}, {0, 1000}, {0, 14880952}, {8000000, 1000}};
    traffic_state = 3;
    for (unsigned i = 0; i < ARRAY_LEN(rates); i++) {
        struct bucket b = {.burst_ns = BUCKET_BURST_NS};
        bucket_set(&b, rates[i].bits_per_s, rates[i].packets_per_s);
        uint64_t now = 0, packets = 0, bits = 0, end = 2 * NS_PER_SECOND * BUCKET_UNITS;
        while (now < end && packets < 100000) {
            uint64_t until = bucket_waits_until(&b, now);
            if (until) {
                assert_true(until > now);
                now = until;
                continue;
            }
            uint32_t bytes = 60 + (uint32_t)traffic_pick(60000);
            bucket_charge(&b, now, 1, bytes);
            bits += bytes * UINT64_C(8);
            packets++;
        }
        double seconds = (double)now / BUCKET_UNITS / NS_PER_SECOND, burst = BUCKET_BURST_NS / 1e9;
        double by_bits = rates[i].bits_per_s ? (double)(bits - 60060 * 8) / (double)rates[i].bits_per_s : 0;
        double by_packets = rates[i].packets_per_s ? (double)(packets - 1) / (double)rates[i].packets_per_s : 0;
        double used = by_bits > by_packets ? by_bits : by_packets;
        assert_true(used <= (seconds + burst) * 1.02);
        assert_true(used >= seconds * 0.98 - 0.6); /* a large frame is half a second at the lowest rate */
    }
}

static void test_limit_from_guest(void **state)
{
    struct card c;
    struct packet *out[PACKET_BATCH];
    card_open(&c, &(struct card_options){.from_guest = {.bits_per_s = 80000000}, .size = 256});
    unsigned frames = 0, throttled = 0;
    uint64_t start_ns = clock_now_ns(), end_ns;
    struct port_source *s = &c.vif->tx[0].source;
    do { /* 10 MB/s: 1,000 bytes every 100 us */
        while (traffic_send_bytes(&c, 0, 0, scratch, 1012, 1, false))
            ;
        driver_sim_publish(c.queue[1].driver);
        int n = card_receive(&c, 0, out, PACKET_BATCH);
        end_ns = clock_now_ns();
        if (s->not_before_ns) {
            throttled++;
            assert_true(s->not_before_ns < end_ns + NS_PER_MS);
            assert_false(s->ops->arm(s)); /* kicks do not matter */
        }
        frames += (unsigned)n;
        if (n) card_release(&c, 0);
        traffic_sent_back(&c, 0);
    } while (end_ns < start_ns + 60 * NS_PER_MS);
    uint64_t allowed = (end_ns - start_ns + BUCKET_BURST_NS) / 100000;
    assert_in_range(frames, 50, allowed + 2); /* on a busy machine the burst may be all */
    assert_true(throttled > 0);
    assert_int_equal(traffic_stats(&c).tx_throttled, throttled);
    /* No limit any more: all at once. */
    vif_set_rate(c.vif, (struct vif_rate){0}, (struct vif_rate){0});
    assert_int_equal(card_receive(&c, 0, out, PACKET_BATCH), PACKET_BATCH);
    card_close(&c);
}

static void test_limit_to_guest(void **state)
{
    struct card c;
    struct packet p, *one = &p;
    struct iovec body;
    card_open(&c, &(struct card_options){.to_guest = {.packets_per_s = 500}, .size = 256});
    for (unsigned i = 0; i < 256; i++)
        traffic_post(&c, 0, i * 256, 256, 1, false);
    driver_sim_publish(c.queue[0].driver);
    frame_of(&p, 60, &body);
    uint64_t start_ns = clock_now_ns();
    for (unsigned i = 0; i < 200; i++)
        traffic_deliver(&c, &one, 1);
    uint64_t allowed = (clock_now_ns() - start_ns + BUCKET_LOSSY_BURST_NS) / (2 * NS_PER_MS);
    struct vif_stats s = traffic_stats(&c);
    assert_in_range(s.rx_packets, 50, allowed + 2);
    assert_int_equal(s.rx_packets + s.rx_limited, 200);
    card_close(&c);
}

/* A large frame is as many packets as it will be cut into, with as many headers: 7 of 1448 bytes and 54 each. */
static void test_limit_of_large_frames(void **state)
{
    struct card c;
    struct packet *out[2];
    struct vif_rate rate = {.bits_per_s = 8000000, .packets_per_s = 1000};
    card_open(&c, &(struct card_options){.from_guest = rate, .to_guest = rate});
    memset(scratch, 0, sizeof scratch);
    struct header_case k = {"", TCP4, 1, 1, -1, -1, 1448, 54, 0, 0, true, PACKET_GSO_TCP4};
    uint32_t length = 54 + 6 * 1448 + 1;
    struct virtio_net_hdr h = header_of(&k, make_headers(scratch, TCP4));
    traffic_send_frame(&c, &h, scratch, length, 1);
    uint64_t before = bucket_now(&c.vif->from_guest);
    assert_int_equal(card_receive(&c, 0, out, 1), 1);
    uint64_t after = bucket_now(&c.vif->from_guest), ms = NS_PER_MS * BUCKET_UNITS;
    struct vif_cost cost = vif_cost(out[0]);
    assert_int_equal(cost.packets, 7);
    assert_int_equal(cost.bytes, length + 6 * 54);
    assert_in_range(atomic_load(&c.vif->from_guest.packets_until), before + 7 * ms, after + 7 * ms);
    uint64_t bits = (cost.bytes + 12) * (ms / 1000); /* 1 byte a microsecond */
    assert_in_range(atomic_load(&c.vif->from_guest.bits_until), before + bits, after + bits + ms);
    for (unsigned i = 0; i < 8; i++)
        traffic_post(&c, 0, i * 2048, 2048, 1, false);
    driver_sim_publish(c.queue[0].driver);
    before = bucket_now(&c.vif->to_guest);
    traffic_deliver(&c, out, 1);
    after = bucket_now(&c.vif->to_guest);
    assert_int_equal(traffic_stats(&c).rx_packets, 1);
    assert_in_range(atomic_load(&c.vif->to_guest.packets_until), before + 7 * ms, after + 7 * ms);
    card_release(&c, 0);
    traffic_sent_back(&c, 0);
    /* Debts do not wrap around, at any rate. */
    vif_set_rate(c.vif, (struct vif_rate){1, 1}, (struct vif_rate){1, 1});
    for (unsigned i = 0; i < 100; i++)
        bucket_charge(&c.vif->from_guest, after, UINT32_MAX, UINT32_MAX);
    assert_true(bucket_waits_until(&c.vif->from_guest, after) > after + NS_PER_SECOND * BUCKET_UNITS);
    card_close(&c);
}

/* ---- link, announcements, calls ---- */

static void test_link_down(void **state)
{
    struct card c;
    struct packet p, *one = &p;
    struct iovec body;
    card_open(&c, &(struct card_options){0});
    struct port *port = vif_port(c.vif);
    assert_true(port->ops->link_up(port));
    vif_set_link(c.vif, false);
    assert_false(port->ops->link_up(port));
    traffic_post(&c, 0, 0, 2048, 1, false);
    driver_sim_publish(c.queue[0].driver);
    frame_of(&p, 60, &body);
    traffic_deliver(&c, &one, 1);
    assert_int_equal(port->out.dropped, 1);
    memset(scratch, 0, 100);
    traffic_send_bytes(&c, 0, 0, scratch, 100, 1, false);
    driver_sim_publish(c.queue[1].driver);
    struct packet *out[2];
    assert_int_equal(card_receive(&c, 0, out, 2), 0);
    assert_int_equal(traffic_sent_back(&c, 0), 1);
    struct port_stats s = {0};
    port->ops->stats(port, &s);
    assert_int_equal(s.in_dropped, 1);
    assert_int_equal(s.in_errors, 0);
    vif_set_link(c.vif, true);
    traffic_deliver(&c, &one, 1);
    assert_int_equal(traffic_stats(&c).rx_packets, 1);
    card_close(&c);
}

static void test_announce(void **state)
{
    struct card c;
    struct packet *out[2];
    card_open(&c, &(struct card_options){0});
    static const uint8_t other[6] = {2, 9, 9, 9, 9, 9}, mac[6] = {2, 0, 0, 0, 0, 1};
    const struct guest_device_ops *ops = vif_guest_ops(c.vif);
    ops->announce(c.vif, other);
    assert_int_equal(card_receive(&c, 0, out, 2), 0);
    assert_false(vif_announce(c.vif));
    assert_int_equal(c.kept.announce, 1);
    struct port_source *s = &c.vif->tx[0].source;
    assert_true(s->ops->arm(s));
    card_kill(&c); /* the next process does it */
    assert_int_equal(card_receive(&c, 0, out, 2), 1);
    assert_int_equal(traffic_packet_bytes(out[0], scratch), 60);
    static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, arp[10] = {0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};
    assert_memory_equal(scratch, all, 6);
    assert_memory_equal(scratch + 6, mac, 6);
    assert_memory_equal(scratch + 12, arp, 10);
    assert_memory_equal(scratch + 22, mac, 6);
    assert_memory_equal(scratch + 32, mac, 6);
    card_release(&c, 0);
    assert_int_equal(c.kept.announce, 0);
    assert_int_equal(card_receive(&c, 0, out, 2), 0);
    /* However often it is asked for: one a second. */
    s = &c.vif->tx[0].source;
    uint64_t now_ns = clock_now_ns();
    vif_guest_ops(c.vif)->announce(c.vif, mac);
    vif_guest_ops(c.vif)->announce(c.vif, mac);
    assert_int_equal(card_receive(&c, 0, out, 2), 0);
    s->look_at_ns = 0;
    assert_false(s->ops->arm(s));
    assert_in_range(s->look_at_ns, now_ns + NS_PER_SECOND / 2, now_ns + NS_PER_SECOND);
    s->ops->disarm(s);
    atomic_store(&c.vif->announce_after_ns, now_ns);
    assert_int_equal(card_receive(&c, 0, out, 2), 1);
    card_release(&c, 0);
    assert_int_equal(card_receive(&c, 0, out, 2), 0);
    card_close(&c);
}

static void test_calls(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        struct card c;
        struct packet p, *batch[8], *out[PACKET_BATCH];
        struct iovec body;
        card_open(&c, &(struct card_options){.packed = i & 1, .no_event_idx = i & 2});
        for (unsigned k = 0; k < 32; k++)
            traffic_post(&c, 0, k * 256, 256, 1, false);
        driver_sim_publish(c.queue[0].driver);
        frame_of(&p, 60, &body);
        for (unsigned k = 0; k < 8; k++)
            batch[k] = &p;
        driver_sim_calls_on(c.queue[0].driver);
        traffic_deliver(&c, batch, 8);
        assert_true(called(&c.queue[0]));
        assert_int_equal(traffic_stats(&c).calls, 1);
        driver_sim_calls_off(c.queue[0].driver);
        traffic_deliver(&c, batch, 8);
        assert_false(called(&c.queue[0]));
        /* The driver kicks only while the source is armed. */
        struct port_source *s = &c.vif->tx[0].source;
        assert_false(s->ops->arm(s));
        memset(scratch, 0, 100);
        traffic_send_bytes(&c, 0, 0, scratch, 100, 1, false);
        assert_true(driver_sim_publish(c.queue[1].driver));
        s->ops->disarm(s);
        assert_int_equal(card_receive(&c, 0, out, PACKET_BATCH), 1);
        driver_sim_calls_on(c.queue[1].driver);
        card_release(&c, 0);
        assert_true(called(&c.queue[1]));
        traffic_sent_back(&c, 0);
        traffic_send_bytes(&c, 0, 0, scratch, 100, 1, false);
        driver_sim_publish(c.queue[1].driver);
        assert_true(s->ops->arm(s)); /* there is something already */
        s->ops->disarm(s);
        card_close(&c);
    }
}

/* The other holder of its eventfds has made them blocking, filled one and emptied the other. Nobody waits. */
static void test_hostile_descriptors(void **state)
{
    struct card c;
    struct packet p, *one = &p;
    struct iovec body;
    uint64_t v = UINT64_MAX - 1;
    int call = eventfd(0, 0);
    alarm(10);
    card_open(&c, &(struct card_options){.no_event_idx = true});
    assert_int_equal(write(call, &v, sizeof v), sizeof v);
    vif_guest_ops(c.vif)->queue_set_call(c.vif, 0, call);
    vif_guest_ops(c.vif)->queue_set_call(c.vif, 1, call);
    frame_of(&p, 60, &body);
    traffic_post(&c, 0, 0, 256, 1, false);
    driver_sim_publish(c.queue[0].driver);
    driver_sim_calls_on(c.queue[0].driver);
    traffic_deliver(&c, &one, 1);
    assert_int_equal(traffic_stats(&c).calls, 1);
    assert_int_equal(read(call, &v, sizeof v), sizeof v);
    assert_int_equal(fcntl(c.queue[1].kick, F_SETFL, 0), 0);
    struct port_source *s = &c.vif->tx[0].source;
    s->ops->woken(s);
    v = 5;
    assert_int_equal(write(c.queue[1].kick, &v, sizeof v), sizeof v);
    s->ops->woken(s);
    struct pollfd left = {.fd = c.queue[1].kick, .events = POLLIN};
    assert_int_equal(poll(&left, 1, 0), 0);
    card_close(&c);
    close(call);
    alarm(0);
}

/* ---- memory ---- */

static void test_set_map(void **state)
{
    struct card c;
    struct packet *out[PACKET_BATCH];
    struct virtio_net_hdr h = {0};
    card_open(&c, &(struct card_options){.size = 16});
    for (unsigned i = 0; i < 20; i++) {
        struct guest_map *map = card_map(&c, i % 2 ? 1 : 4);
        vif_guest_ops(c.vif)->set_map(c.vif, map, false);
        guest_map_unref(c.map);
        c.map = map;
        memset(scratch, (int)i, 3000);
        traffic_send_frame(&c, &h, scratch, 3000, 5);
        traffic_post(&c, 0, 0, 4096, 3, false);
        driver_sim_publish(c.queue[0].driver);
        assert_int_equal(card_receive(&c, 0, out, PACKET_BATCH), 1);
        traffic_deliver(&c, out, 1);
        card_release(&c, 0);
        assert_int_equal(traffic_sent_back(&c, 0), 1);
        unsigned buffers;
        static uint8_t got[TRAFFIC_ROOM];
        assert_int_equal(traffic_get(&c, 0, &h, got, &buffers), 3000);
        assert_memory_equal(got, scratch, 3000);
    }
    card_close(&c);
}

static void test_truncated_memory(void **state)
{
    struct card c;
    struct packet *out[2];
    struct virtio_net_hdr h = {0};
    card_open(&c, &(struct card_options){0});
    memset(scratch, 1, 3000);
    traffic_send_frame(&c, &h, scratch, 3000, 1);
    /* Without the frame's pages. The rings are below. */
    assert_int_equal(ftruncate(c.memory_fd, (off_t)(CARD_QUEUE_BYTES + CARD_BUFFERS_AT)), 0);
    assert_int_equal(card_receive(&c, 0, out, 2), -EPROTO);
    assert_non_null(strstr(vif_broken(c.vif), "cut short"));
    card_close(&c);
}

/* ---- taking over ---- */

/* Killed with frames taken and with others delivered: what was not given back comes again, receive buffers are neither lost
 * nor used twice. */
static void test_take_over(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        struct card c;
        struct packet *out[PACKET_BATCH];
        card_open(&c, &(struct card_options){.packed = i & 1, .in_order = i & 2, .size = 16});
        traffic_state = i;
        uint64_t posted = 0, came = 0, sent = 0, back = 0;
        for (unsigned round = 0; round < 200; round++) {
            struct virtio_net_hdr h;
            unsigned buffers;
            while (posted - came < 12) {
                assert_true(traffic_post(&c, 0, posted % 12 * 512, 512, 1, false));
                posted++;
            }
            driver_sim_publish(c.queue[0].driver);
            while (sent - back < 12) {
                memset(scratch, 0, 12);
                memset(scratch + 12, (int)sent, 100);
                assert_true(traffic_send_bytes(&c, 0, (unsigned)(sent % 12), scratch, 112, 1, false));
                sent++;
            }
            driver_sim_publish(c.queue[1].driver);
            int n = card_receive(&c, 0, out, 1 + (unsigned)traffic_pick(6));
            assert_true(n > 0);
            assert_int_equal(out[0]->head[50], (uint8_t)back); /* the oldest that was not given back */
            traffic_deliver(&c, out, (unsigned)n);
            if (traffic_pick(2)) card_release(&c, 0);
            if (traffic_pick(2)) card_kill(&c);
            else if (c.vif->tx[0].chain_count) card_release(&c, 0);
            back += traffic_sent_back(&c, 0);
            while (traffic_get(&c, 0, &h, scratch, &buffers))
                came++;
        }
        assert_true(came > 200 && back > 200);
        card_close(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_features),
        cmocka_unit_test(test_takes),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_bad_config),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_random_headers),
        cmocka_unit_test(test_header_made),
        cmocka_unit_test(test_bad_frames),
        cmocka_unit_test(test_tiny_pieces),
        cmocka_unit_test(test_too_many_pieces),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_no_buffers),
        cmocka_unit_test(test_small_buffers),
        cmocka_unit_test(test_unwritable_buffer),
        cmocka_unit_test(test_steering),
        cmocka_unit_test(test_bucket),
        cmocka_unit_test(test_limit_from_guest),
        cmocka_unit_test(test_limit_to_guest),
        cmocka_unit_test(test_limit_of_large_frames),
        cmocka_unit_test(test_link_down),
        cmocka_unit_test(test_announce),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_hostile_descriptors),
        cmocka_unit_test(test_set_map),
        cmocka_unit_test(test_truncated_memory),
        cmocka_unit_test(test_take_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
