/* SPDX-License-Identifier: Apache-2.0 */
/* port_send(): what a port cannot take is finished, in order, and what is too long never reaches it. */
#include "port/port.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "packet/checksum.h"

#define ETHERNET 14u
#define HEADERS (ETHERNET + 20 + 20)
#define SENT_MAX 4096u

/* A port that keeps what it was given. */
struct keeper {
    struct port port;
    unsigned sends, frames;
    unsigned largest_batch;
    struct {
        uint32_t bytes;
        uint32_t mark; /* of the payload's begin */
        struct packet_offload offload;
        bool csum_right;
    } sent[SENT_MAX];
};

static bool l4_sum_is_right(const struct packet *p)
{
    uint8_t frame[PACKET_MAX_BYTES];
    packet_read(p, 0, frame, p->length_bytes);
    struct be32 src, dst;
    memcpy(&src, frame + ETHERNET + 12, 4);
    memcpy(&dst, frame + ETHERNET + 16, 4);
    uint32_t l4_bytes = p->length_bytes - ETHERNET - 20;
    uint64_t sum = csum_pseudo_ipv4(src, dst, 6, l4_bytes) + csum_memory(frame + ETHERNET + 20, l4_bytes);
    return csum_fold(sum) == 0xffff;
}

static void keep(struct port *port, struct packet *const *packets, unsigned count, struct packet_pool *pool)
{
    struct keeper *k = container_of(port, struct keeper, port);
    assert_true(count >= 1 && count <= PACKET_BATCH);
    k->sends++;
    if (count > k->largest_batch) k->largest_batch = count;
    for (unsigned i = 0; i < count; i++) {
        const struct packet *p = packets[i];
        assert_true(k->frames < SENT_MAX);
        uint32_t mark = 0;
        if (p->length_bytes >= HEADERS + 4) packet_read(p, HEADERS, &mark, 4);
        k->sent[k->frames].bytes = p->length_bytes;
        k->sent[k->frames].mark = mark;
        k->sent[k->frames].offload = p->offload;
        k->sent[k->frames].csum_right = p->length_bytes >= HEADERS && l4_sum_is_right(p);
        k->frames++;
    }
}

static void keep_stats(struct port *p, struct port_stats *out)
{
    out->in_dropped += 7;
}

static const struct port_ops keep_ops = {.type = "keeper", .send = keep, .stats = keep_stats};

struct frame {
    struct packet packet;
    struct iovec body[2];
    uint8_t head[PACKET_BUFFER_BYTES];
    uint8_t payload[PACKET_MAX_BYTES];
};

/* TCP over IPv4; the payload is 32-bit numbers from `first` on, so that a segment says where it comes from. */
static struct frame *frame_new(uint32_t payload_bytes, uint32_t first)
{
    struct frame *f = calloc(1, sizeof *f);
    assert_non_null(f);
    for (uint32_t i = 0; i < payload_bytes / 4; i++) {
        uint32_t v = first + i;
        memcpy(f->payload + i * 4, &v, 4);
    }
    uint8_t *h = f->head + PACKET_ROOM_BYTES;
    memcpy(h, "\x02\0\0\0\0\1\x02\0\0\0\0\2\x08\0", ETHERNET);
    uint8_t *ip = h + ETHERNET, *tcp = ip + 20;
    ip[0] = 0x45;
    struct be16 total = be16_make((uint16_t)min_u64(20 + 20 + payload_bytes, 65535));
    memcpy(ip + 2, &total, 2);
    ip[8] = 64;
    ip[9] = 6;
    memcpy(ip + 12, "\x0a\0\0\1\x0a\0\0\2", 8);
    struct be16 sum = csum_finished(csum_memory(ip, 20));
    memcpy(ip + 10, &sum, 2);
    tcp[0] = 0x10;
    tcp[12] = 5 << 4;
    tcp[13] = 0x10;
    struct be32 src, dst;
    memcpy(&src, ip + 12, 4);
    memcpy(&dst, ip + 16, 4);
    sum = csum_unfinished(csum_pseudo_ipv4(src, dst, 6, 20 + payload_bytes));
    memcpy(tcp + 16, &sum, 2);
    uint32_t first_part = payload_bytes / 3;
    f->body[0] = (struct iovec){f->payload, first_part};
    f->body[1] = (struct iovec){f->payload + first_part, payload_bytes - first_part};
    f->packet = (struct packet){.head = h,
                                .head_bytes = HEADERS,
                                .room_bytes = PACKET_ROOM_BYTES,
                                .length_bytes = HEADERS + payload_bytes,
                                .body = f->body,
                                .body_count = 2,
                                .l3_at = PACKET_NO_LAYER,
                                .l4_at = PACKET_NO_LAYER};
    return f;
}

static void set_csum(struct frame *f)
{
    f->packet.offload.csum_partial = true;
    f->packet.offload.csum_start = ETHERNET + 20;
    f->packet.offload.csum_offset = 16;
}

static void set_gso(struct frame *f, uint16_t size)
{
    set_csum(f);
    f->packet.offload.gso = PACKET_GSO_TCP4;
    f->packet.offload.gso_size = size;
}

struct rig {
    struct keeper keeper;
    struct packet_pool *pool;
    struct frame *frames[256];
    struct packet *packets[256];
    unsigned count;
};

static int rig_new(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    assert_non_null(r);
    port_init(&r->keeper.port, &keep_ops, "keeper");
    r->pool = packet_pool_new();
    assert_non_null(r->pool);
    *state = r;
    return 0;
}

static int rig_free(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < r->count; i++)
        free(r->frames[i]);
    packet_pool_free(r->pool);
    free(r);
    return 0;
}

static struct frame *add(struct rig *r, uint32_t payload_bytes, uint32_t first)
{
    struct frame *f = frame_new(payload_bytes, first);
    r->frames[r->count] = f;
    r->packets[r->count++] = &f->packet;
    return f;
}

static void send_all(struct rig *r, uint32_t takes)
{
    atomic_store(&r->keeper.port.takes, takes);
    port_send(&r->keeper.port, r->packets, r->count, r->pool);
}

static void plain_frames_pass_as_they_are(void **state)
{
    struct rig *r = *state;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < 100; i++)
        bytes += add(r, 4 + i, i)->packet.length_bytes;
    send_all(r, 0);
    struct keeper *k = &r->keeper;
    assert_int_equal(k->sends, 4);
    assert_int_equal(k->largest_batch, PACKET_BATCH);
    assert_int_equal(k->frames, 100);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(k->sent[i].mark, i);
    struct port_stats stats;
    port_stats_read(&k->port, &stats);
    assert_int_equal(stats.out_packets, 100);
    assert_int_equal(stats.out_bytes, bytes);
    assert_int_equal(stats.out_dropped + stats.out_errors + stats.segmented + stats.checksummed, 0);
    assert_int_equal(stats.in_dropped, 7);
}

static void large_frames_stay_large_for_who_takes_them(void **state)
{
    struct rig *r = *state;
    set_gso(add(r, 60000, 0), 1400);
    set_gso(add(r, 2801, 5), 1400);
    set_csum(add(r, 100, 9));
    send_all(r, PORT_TAKES_ALL);
    struct keeper *k = &r->keeper;
    assert_int_equal(k->frames, 3);
    assert_int_equal(k->sent[0].bytes, HEADERS + 60000);
    assert_int_equal(k->sent[0].offload.gso, PACKET_GSO_TCP4);
    assert_true(k->sent[2].offload.csum_partial);
}

static void others_get_segments_in_order(uint32_t takes, struct rig *r)
{
    add(r, 40, 1000000);
    set_gso(add(r, 60000, 0), 1400);
    set_csum(add(r, 100, 2000000));
    set_gso(add(r, 65000, 100000), 400); /* more segments than a batch has */
    add(r, 40, 3000000);
    send_all(r, takes);
    struct keeper *k = &r->keeper;
    unsigned at = 0;
    assert_int_equal(k->sent[at++].mark, 1000000);
    for (unsigned i = 0; i < 43; i++)
        assert_int_equal(k->sent[at++].mark, i * 350);
    assert_int_equal(k->sent[at++].mark, 2000000);
    for (unsigned i = 0; i < 163; i++)
        assert_int_equal(k->sent[at++].mark, 100000 + i * 100);
    assert_int_equal(k->sent[at++].mark, 3000000);
    assert_int_equal(k->frames, at);
    for (unsigned i = 1; i + 1 < at; i++) {
        assert_int_equal(k->sent[i].offload.gso, PACKET_GSO_NONE);
        assert_int_equal(k->sent[i].offload.csum_partial, (takes & PORT_TAKES_CSUM) != 0);
        assert_int_equal(k->sent[i].csum_right, !(takes & PORT_TAKES_CSUM));
    }
    struct port_stats stats;
    port_stats_read(&k->port, &stats);
    assert_int_equal(stats.segmented, 43 + 163);
    assert_int_equal(stats.checksummed, takes & PORT_TAKES_CSUM ? 0 : 1);
    assert_int_equal(stats.out_packets, at);
    assert_int_equal(stats.out_dropped, 0);
    assert_true(k->largest_batch <= PACKET_BATCH);
}

static void others_get_finished_segments(void **state)
{
    others_get_segments_in_order(0, *state);
}

static void or_segments_without_sums(void **state)
{
    others_get_segments_in_order(PORT_TAKES_CSUM | PORT_TAKES_TSO6 | PORT_TAKES_USO4, *state);
}

static void what_is_too_long_is_dropped(void **state)
{
    struct rig *r = *state;
    atomic_store(&r->keeper.port.mtu, 1000);
    add(r, 960, 0); /* 1000 of IP */
    add(r, 964, 1); /* there is place for a tag, or for as much */
    add(r, 965, 2); /* too long */
    struct frame *tagged = add(r, 960, 3);
    memcpy(tagged->packet.head + 12, "\x88\xa8\0\1\x81\0\0\2\x08\0", 10); /* two tags, whatever then follows */
    tagged->packet.length_bytes += 8;
    tagged->body[1].iov_len += 8;
    struct frame *one_tag = add(r, 960, 4);
    memcpy(one_tag->packet.head + 12, "\x81\0\0\1\x08\0", 6);
    one_tag->packet.length_bytes += 8;
    one_tag->body[1].iov_len += 8;
    set_gso(add(r, 5000, 5), 960);
    set_gso(add(r, 5000, 6), 990); /* its segments would be */
    send_all(r, PORT_TAKES_ALL);
    struct keeper *k = &r->keeper;
    assert_int_equal(k->frames, 4);
    static const uint32_t marks[] = {0, 1, 3, 5};
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(k->sent[i].mark, marks[i]);
    struct port_stats stats;
    port_stats_read(&k->port, &stats);
    assert_int_equal(stats.out_dropped, 3);
    assert_int_equal(stats.out_packets, 4);
}

static void impossible_offloads_are_dropped(void **state)
{
    struct rig *r = *state;
    struct frame *f = add(r, 100, 1);
    set_csum(f);
    f->packet.offload.csum_start = 150;
    f->packet.offload.csum_offset = 10;
    f = add(r, 5000, 2);
    set_gso(f, 1000);
    f->packet.head[ETHERNET + 9] = 17; /* not TCP */
    add(r, 100, 3);
    send_all(r, 0);
    struct keeper *k = &r->keeper;
    assert_int_equal(k->frames, 1);
    assert_int_equal(k->sent[0].mark, 3);
    struct port_stats stats;
    port_stats_read(&k->port, &stats);
    assert_int_equal(stats.out_errors, 2);
    assert_int_equal(stats.out_dropped, 2);
}

/* Insert n bytes before the frame's Ethernet type: tags, or another type and labels. */
static struct frame *push(struct frame *f, const char *bytes, uint16_t n)
{
    assert_true(packet_insert(&f->packet, 12, n));
    memcpy(f->packet.head + 12, bytes, n);
    return f;
}

static void large_frames_that_no_kernel_cuts_are_cut_here(void **state)
{
    static const struct {
        const char *before;
        uint16_t bytes;
        bool cut;
    } cases[] = {
        {"\x81\0\0\1", 4, false},             /* one tag */
        {"\x88\xa8\0\1\x81\0\0\2", 8, false}, /* two */
        {"\x91\0\0\1", 4, true},              /* of a type that kernels do not know */
    };
    struct rig *r = *state;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct keeper *k = &r->keeper;
        k->frames = 0;
        struct frame *f = add(r, 60000, 0);
        set_gso(f, 1400);
        push(f, cases[i].before, cases[i].bytes);
        send_all(r, PORT_TAKES_ALL);
        assert_int_equal(k->frames, cases[i].cut ? 43 : 1);
        for (unsigned n = 0; n < k->frames; n++)
            assert_int_equal(k->sent[n].offload.csum_partial, !cases[i].cut);
        free(f);
        r->count = 0;
    }
    /* MPLS takes the place of the type; a plain frame's checksum is still the port's. */
    struct frame *f = add(r, 60000, 0);
    set_gso(f, 1400);
    assert_true(packet_insert(&f->packet, ETHERNET, 4));
    memcpy(f->packet.head + 12, "\x88\x47\0\1\1\x40", 6);
    f = add(r, 100, 1);
    set_csum(f);
    assert_true(packet_insert(&f->packet, ETHERNET, 4));
    memcpy(f->packet.head + 12, "\x88\x47\0\1\1\x40", 6);
    r->keeper.frames = 0;
    send_all(r, PORT_TAKES_ALL);
    assert_int_equal(r->keeper.frames, 44);
    for (unsigned n = 0; n < 43; n++) {
        assert_int_equal(r->keeper.sent[n].offload.gso, PACKET_GSO_NONE);
        assert_false(r->keeper.sent[n].offload.csum_partial);
    }
    assert_true(r->keeper.sent[43].offload.csum_partial);
}

/* Others took most of the pool: segments leave in small batches then, all of them. */
static void a_pool_that_is_nearly_empty_is_enough(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < PACKET_POOL_PACKETS - 10; i++)
        assert_non_null(packet_pool_packet(r->pool));
    set_gso(add(r, 60000, 0), 1400);
    send_all(r, 0);
    struct keeper *k = &r->keeper;
    assert_int_equal(k->frames, 43);
    assert_int_equal(k->largest_batch, 10);
    for (unsigned i = 0; i < 43; i++)
        assert_int_equal(k->sent[i].mark, i * 350);
    struct port_stats stats;
    port_stats_read(&k->port, &stats);
    assert_int_equal(stats.segmented, 43);
    assert_int_equal(stats.out_dropped, 0);
}

static void a_pool_that_is_empty_is_counted(void **state)
{
    struct rig *r = *state;
    while (packet_pool_packet(r->pool))
        ;
    set_gso(add(r, 60000, 0), 1400);
    send_all(r, 0);
    assert_int_equal(r->keeper.frames, 0);
    struct port_stats stats;
    port_stats_read(&r->keeper.port, &stats);
    assert_int_equal(stats.out_dropped, 1);
}

/* A flood: the first port needs what the second does not. */
static void a_packet_may_go_to_several_ports(void **state)
{
    struct rig *r = *state;
    struct keeper *second = calloc(1, sizeof *second);
    assert_non_null(second);
    port_init(&second->port, &keep_ops, "second");
    atomic_store(&second->port.takes, PORT_TAKES_ALL);
    set_gso(add(r, 60000, 0), 1400);
    set_csum(add(r, 100, 9));
    send_all(r, 0);
    port_send(&second->port, r->packets, r->count, r->pool);
    assert_int_equal(r->keeper.frames, 44);
    assert_int_equal(second->frames, 2);
    assert_int_equal(second->sent[0].bytes, HEADERS + 60000);
    assert_int_equal(second->sent[0].offload.gso, PACKET_GSO_TCP4);
    assert_true(second->sent[1].offload.csum_partial || second->sent[1].csum_right);
    free(second);
}

int main(void)
{
#define RIG(test) cmocka_unit_test_setup_teardown(test, rig_new, rig_free)
    const struct CMUnitTest tests[] = {
        RIG(plain_frames_pass_as_they_are),    RIG(large_frames_stay_large_for_who_takes_them),
        RIG(others_get_finished_segments),     RIG(or_segments_without_sums),
        RIG(what_is_too_long_is_dropped),      RIG(impossible_offloads_are_dropped),
        RIG(a_packet_may_go_to_several_ports), RIG(a_pool_that_is_nearly_empty_is_enough),
        RIG(a_pool_that_is_empty_is_counted),  RIG(large_frames_that_no_kernel_cuts_are_cut_here),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
