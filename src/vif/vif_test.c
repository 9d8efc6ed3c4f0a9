/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames through cards: out of one guest's buffers, into another's, byte for byte, whatever the shape of the buffers, on every kind
 * of ring; and the device around them.
 */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "vif/test_traffic.h"

#ifdef CREEDENCE_SANITIZED
#define FRAMES 300u
#else
#define FRAMES 3000u
#endif
/* ---- oracle ---- */

static size_t random_length(void)
{
    switch (traffic_pick(5)) {
    case 0: return VIF_ETH_BYTES + traffic_pick(20);
    case 1: return 30 + traffic_pick(40);  /* about the least that a wire carries */
    case 2: return 250 + traffic_pick(20); /* about the head's end */
    case 3: return 1000 + traffic_pick(600);
    default: return VIF_ETH_BYTES + traffic_pick(PACKET_MAX_BYTES - VIF_ETH_BYTES + 1);
    }
}

static void fill_random(uint8_t *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t v = traffic_pick(UINT64_MAX);
        memcpy(to + i, &v, bytes - i < 8 ? bytes - i : 8);
    }
}

/* One batch of random frames from the first card to the second. Returns how many. */
static unsigned oracle_batch(struct card *from, struct card *to)
{
    static uint8_t sent[8][TRAFFIC_ROOM], got[TRAFFIC_ROOM], seen[TRAFFIC_ROOM];
    struct packet *packets[PACKET_BATCH];
    size_t length[8], header = vif_header_bytes(from->vif->features);
    bool merges = to->vif->features & BIT64(VIRTIO_NET_F_MRG_RXBUF);
    unsigned count = 1 + (unsigned)traffic_pick(8), posted = 0;
    for (unsigned i = 0; i < count; i++) {
        length[i] = random_length();
        memset(sent[i], 0, header);
        fill_random(sent[i] + header, length[i]);
        bool indirect = traffic_pick(3) == 0;
        unsigned pieces = 1 + (unsigned)traffic_pick(indirect ? TRAFFIC_PIECES_MAX : 6);
        assert_true(traffic_send_bytes(from, 0, i, sent[i], header + length[i], pieces, indirect));
    }
    driver_sim_publish(from->queue[1].driver);
    /* Room for all of them: one large buffer each, or as many small ones as it takes. */
    for (unsigned i = 0; i < count; i++) {
        size_t needed = header + length[i], at = (size_t)i * TRAFFIC_ROOM;
        unsigned pieces = 1 + (unsigned)traffic_pick(4);
        if (merges && length[i] < 8192) {
            for (size_t have = 0; have < needed; posted++) {
                size_t part = 16 + traffic_pick(needed);
                if (part > TRAFFIC_ROOM - have) part = TRAFFIC_ROOM - have;
                if (!traffic_post(to, 0, at + have, part, 1, traffic_pick(2))) break;
                have += part;
            }
        } else {
            assert_true(traffic_post(to, 0, at, needed + traffic_pick(100), pieces, true));
            posted++;
        }
    }
    driver_sim_publish(to->queue[0].driver);
    int n = card_receive(from, 0, packets, PACKET_BATCH);
    assert_int_equal(n, count);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(traffic_packet_bytes(packets[i], seen), length[i]);
        assert_memory_equal(seen, sent[i] + header, length[i]);
    }
    traffic_deliver(to, packets, count);
    assert_int_equal(traffic_sent_back(from, 0), 0);
    card_release(from, 0);
    assert_int_equal(traffic_sent_back(from, 0), count);
    unsigned used = 0, arrived = 0;
    for (unsigned i = 0; i < count; i++) {
        struct virtio_net_hdr h;
        unsigned buffers;
        size_t bytes = traffic_get(to, 0, &h, got, &buffers);
        if (bytes == 0) break;
        while (arrived < count && (length[arrived] != bytes || memcmp(got, sent[arrived] + header, bytes)))
            arrived++; /* dropped for want of room */
        assert_true(arrived++ < count);
        assert_int_equal(h.flags | h.gso_type, 0);
        used += buffers;
    }
    struct vif_stats s = traffic_stats(to);
    assert_int_equal(s.rx_too_long, 0);
    if (!merges) assert_int_equal(s.rx_no_buffer, 0);
    /* The rest of the buffers is taken by frames that are as small as can be, so that each batch starts anew. */
    struct packet small = {.head = sent[0], .head_bytes = 14, .length_bytes = 14};
    struct packet *one = &small;
    for (; used < posted; used++) {
        traffic_deliver(to, &one, 1);
        struct virtio_net_hdr h;
        unsigned buffers = 0;
        traffic_get(to, 0, &h, got, &buffers);
        if (buffers == 0) break;
        used += buffers - 1;
    }
    return count;
}

static void oracle(const struct card_options *out, const struct card_options *in)
{
    struct card from, to;
    card_open(&from, out);
    card_open(&to, in);
    for (unsigned done = 0; done < FRAMES;)
        done += oracle_batch(&from, &to);
    struct vif_stats s = traffic_stats(&from), r = traffic_stats(&to);
    assert_int_equal(s.tx_invalid, 0);
    assert_true(r.rx_packets >= s.tx_packets / 2);
    assert_null(vif_broken(from.vif));
    assert_null(vif_broken(to.vif));
    card_close(&from);
    card_close(&to);
}

static void test_oracle(void **state)
{
    const uint64_t no_merge = BIT64(VIRTIO_NET_F_MRG_RXBUF);
    for (unsigned i = 0; i < 16; i++) {
        traffic_state = i;
        struct card_options out = {.packed = i & 1, .no_event_idx = i & 2, .in_order = i & 4, .transmit_copy = i & 8};
        struct card_options in = {.packed = i & 1, .in_order = i & 4, .without = i & 2 ? no_merge : 0, .size = 256};
        out.size = 128;
        oracle(&out, &in);
    }
}

/* A driver of before the standard: a header of ten bytes. */
static void test_legacy(void **state)
{
    traffic_state = 99;
    struct card_options o = {.without = BIT64(VIRTIO_NET_F_MRG_RXBUF) | BIT64(VIRTIO_F_VERSION_1), .size = 128};
    oracle(&o, &o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_legacy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
