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
#include "vif/test_card.h"

#ifdef CREEDENCE_SANITIZED
#define FRAMES 300u
#else
#define FRAMES 3000u
#endif
#define PIECES_MAX 64u
#define FRAME_ROOM 70000u

static uint64_t random_state;

static uint64_t pick(uint64_t below)
{
    uint64_t x = random_state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (x ^ (x >> 31)) % below;
}

/* ---- a guest that sends ---- */

/* Put header and frame (bytes) into a buffer of the queue's and make a chain of at most `pieces` pieces of it. */
static bool send_bytes(struct card *c, unsigned pair, unsigned slot, const void *bytes, size_t length, unsigned pieces,
                       bool indirect)
{
    struct card_queue *q = &c->queue[pair * 2 + 1];
    struct driver_sim_buf buf[PIECES_MAX];
    size_t at = CARD_BUFFERS_AT + (size_t)slot * FRAME_ROOM, left = length;
    memcpy(q->memory + at, bytes, length);
    unsigned n = 0;
    while (left > 0) {
        size_t part = n + 1 == pieces ? left : 1 + pick(left);
        if (n == 0 && pick(2) && left > 20 && pieces > 1) part = 1 + pick(20); /* often within the header */
        buf[n++] = (struct driver_sim_buf){{q->gpa + at}, (uint32_t)part, false};
        at += part;
        left -= part;
    }
    return driver_sim_add(q->driver, buf, n, indirect, slot);
}

static void send_frame(struct card *c, const struct virtio_net_hdr *h, const void *frame, size_t length,
                       unsigned pieces)
{
    static uint8_t bytes[FRAME_ROOM];
    size_t header = vif_header_bytes(c->vif->features);
    memcpy(bytes, h, header);
    memcpy(bytes + header, frame, length);
    assert_true(send_bytes(c, 0, 0, bytes, header + length, pieces, false));
    driver_sim_publish(c->queue[1].driver);
}

static unsigned sent_back(struct card *c, unsigned pair)
{
    uint64_t token;
    uint32_t written;
    unsigned n = 0;
    while (driver_sim_get(c->queue[pair * 2 + 1].driver, &token, &written)) {
        assert_int_equal(written, 0);
        n++;
    }
    if (driver_sim_error(c->queue[pair * 2 + 1].driver))
        fail_msg("driver: %s", driver_sim_error(c->queue[pair * 2 + 1].driver));
    return n;
}

/* The frame's bytes as the packet has them. */
static size_t packet_bytes(const struct packet *p, uint8_t *out)
{
    size_t at = p->head_bytes;
    assert_true(p->head_bytes <= PACKET_HEAD_BYTES && p->head_bytes <= p->length_bytes);
    memcpy(out, p->head, p->head_bytes);
    for (unsigned i = 0; i < p->body_count; i++) {
        assert_true(p->body[i].iov_len > 0);
        memcpy(out + at, p->body[i].iov_base, p->body[i].iov_len);
        at += p->body[i].iov_len;
    }
    assert_int_equal(at, p->length_bytes);
    return at;
}

/* ---- a guest that receives ---- */

/* A buffer of `bytes` in at most `pieces` pieces, named by where it is. */
static bool post_buffer(struct card *c, unsigned pair, size_t at, size_t bytes, unsigned pieces, bool indirect)
{
    struct card_queue *q = &c->queue[pair * 2];
    struct driver_sim_buf buf[PIECES_MAX];
    size_t from = CARD_BUFFERS_AT + at, left = bytes;
    unsigned n = 0;
    while (left > 0) {
        size_t part = n + 1 == pieces ? left : 1 + pick(left);
        buf[n++] = (struct driver_sim_buf){{q->gpa + from}, (uint32_t)part, true};
        from += part;
        left -= part;
    }
    return driver_sim_add(q->driver, buf, n, indirect, at);
}

/* The next frame that came: its header, and its bytes in out. 0: none. */
static size_t get_frame(struct card *c, unsigned pair, struct virtio_net_hdr *h, uint8_t *out, unsigned *buffers)
{
    static uint8_t bytes[FRAME_ROOM];
    struct card_queue *q = &c->queue[pair * 2];
    size_t header = vif_header_bytes(c->vif->features), at = 0;
    unsigned wanted = 1;
    for (*buffers = 0; *buffers < wanted; ++*buffers) {
        uint64_t token;
        uint32_t written;
        if (!driver_sim_get(q->driver, &token, &written)) {
            if (driver_sim_error(q->driver)) fail_msg("driver: %s", driver_sim_error(q->driver));
            assert_int_equal(*buffers, 0); /* a frame comes whole */
            return 0;
        }
        assert_true(at + written <= sizeof bytes && written > 0);
        memcpy(bytes + at, q->memory + CARD_BUFFERS_AT + token, written);
        at += written;
        if (*buffers > 0) continue;
        assert_true(at >= header);
        memset(h, 0, sizeof *h);
        memcpy(h, bytes, header);
        if (header == sizeof *h) wanted = le16_get(h->num_buffers);
        assert_true(wanted >= 1);
    }
    memcpy(out, bytes + header, at - header);
    return at - header;
}

static void deliver(struct card *c, struct packet *const *packets, unsigned count)
{
    struct port *p = vif_port(c->vif);
    p->ops->send(p, packets, count, NULL);
}

static struct vif_stats stats(struct card *c)
{
    struct vif_stats s;
    vif_stats_read(c->vif, &s);
    return s;
}


/* ---- oracle ---- */

static size_t random_length(void)
{
    switch (pick(5)) {
    case 0: return VIF_ETH_BYTES + pick(20);
    case 1: return 60 + pick(10);
    case 2: return 250 + pick(20); /* about the head's end */
    case 3: return 1000 + pick(600);
    default: return VIF_ETH_BYTES + pick(PACKET_MAX_BYTES - VIF_ETH_BYTES + 1);
    }
}

static void fill_random(uint8_t *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t v = pick(UINT64_MAX);
        memcpy(to + i, &v, bytes - i < 8 ? bytes - i : 8);
    }
}

/* One batch of random frames from the first card to the second. Returns how many. */
static unsigned oracle_batch(struct card *from, struct card *to)
{
    static uint8_t sent[8][FRAME_ROOM], got[FRAME_ROOM], seen[FRAME_ROOM];
    struct packet *packets[PACKET_BATCH];
    size_t length[8], header = vif_header_bytes(from->vif->features);
    bool merges = to->vif->features & BIT64(VIRTIO_NET_F_MRG_RXBUF);
    unsigned count = 1 + (unsigned)pick(8), posted = 0;
    for (unsigned i = 0; i < count; i++) {
        length[i] = random_length();
        memset(sent[i], 0, header);
        fill_random(sent[i] + header, length[i]);
        bool indirect = pick(3) == 0;
        unsigned pieces = 1 + (unsigned)pick(indirect ? PIECES_MAX : 6);
        assert_true(send_bytes(from, 0, i, sent[i], header + length[i], pieces, indirect));
    }
    driver_sim_publish(from->queue[1].driver);
    /* Room for all of them: one large buffer each, or as many small ones as it takes. */
    for (unsigned i = 0; i < count; i++) {
        size_t needed = header + length[i], at = (size_t)i * FRAME_ROOM;
        unsigned pieces = 1 + (unsigned)pick(4);
        if (merges && length[i] < 8192) {
            for (size_t have = 0; have < needed; posted++) {
                size_t part = 16 + pick(needed);
                if (part > FRAME_ROOM - have) part = FRAME_ROOM - have;
                if (!post_buffer(to, 0, at + have, part, 1, pick(2))) break;
                have += part;
            }
        } else {
            assert_true(post_buffer(to, 0, at, needed + pick(100), pieces, true));
            posted++;
        }
    }
    driver_sim_publish(to->queue[0].driver);
    int n = card_receive(from, 0, packets, PACKET_BATCH);
    assert_int_equal(n, count);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(packet_bytes(packets[i], seen), length[i]);
        assert_memory_equal(seen, sent[i] + header, length[i]);
    }
    deliver(to, packets, count);
    assert_int_equal(sent_back(from, 0), 0);
    card_release(from, 0);
    assert_int_equal(sent_back(from, 0), count);
    unsigned used = 0, arrived = 0;
    for (unsigned i = 0; i < count; i++) {
        struct virtio_net_hdr h;
        unsigned buffers;
        size_t bytes = get_frame(to, 0, &h, got, &buffers);
        if (bytes == 0) break;
        while (arrived < count && (length[arrived] != bytes || memcmp(got, sent[arrived] + header, bytes)))
            arrived++; /* dropped for want of room */
        assert_true(arrived++ < count);
        assert_int_equal(h.flags | h.gso_type, 0);
        used += buffers;
    }
    struct vif_stats s = stats(to);
    assert_int_equal(s.rx_too_long, 0);
    if (!merges) assert_int_equal(s.rx_no_buffer, 0);
    /* The rest of the buffers is taken by frames that are as small as can be, so that each batch starts anew. */
    struct packet small = {.head = sent[0], .head_bytes = 14, .length_bytes = 14};
    struct packet *one = &small;
    for (; used < posted; used++) {
        deliver(to, &one, 1);
        struct virtio_net_hdr h;
        unsigned buffers = 0;
        get_frame(to, 0, &h, got, &buffers);
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
    struct vif_stats s = stats(&from), r = stats(&to);
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
        random_state = i;
        struct card_options out = {.packed = i & 1, .no_event_idx = i & 2, .in_order = i & 4, .transmit_copy = i & 8};
        struct card_options in = {.packed = i & 1, .in_order = i & 4, .without = i & 2 ? no_merge : 0, .size = 256};
        out.size = 128;
        oracle(&out, &in);
    }
}

/* A driver of before the standard: a header of ten bytes. */
static void test_legacy(void **state)
{
    random_state = 99;
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
