/* SPDX-License-Identifier: Apache-2.0 */
#include "vif/test_traffic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

uint64_t traffic_state;

uint64_t traffic_pick(uint64_t below)
{
    uint64_t x = traffic_state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (x ^ (x >> 31)) % below;
}

/* ---- a guest that sends ---- */

/* Put header and frame (bytes) into a buffer of the queue's and make a chain of at most `pieces` pieces of it. */
bool traffic_send_bytes(struct card *c, unsigned pair, unsigned slot, const void *bytes, size_t length, unsigned pieces,
                        bool indirect)
{
    struct card_queue *q = &c->queue[pair * 2 + 1];
    struct driver_sim_buf buf[TRAFFIC_PIECES_MAX];
    size_t at = CARD_BUFFERS_AT + (size_t)slot * TRAFFIC_ROOM, left = length;
    memcpy(q->memory + at, bytes, length);
    unsigned n = 0;
    while (left > 0) {
        size_t part = n + 1 == pieces ? left : 1 + traffic_pick(left);
        if (n == 0 && traffic_pick(2) && left > 20 && pieces > 1)
            part = 1 + traffic_pick(20); /* often within the header */
        buf[n++] = (struct driver_sim_buf){{q->gpa + at}, (uint32_t)part, false};
        at += part;
        left -= part;
    }
    return driver_sim_add(q->driver, buf, n, indirect, slot);
}

void traffic_send_frame(struct card *c, const struct virtio_net_hdr *h, const void *frame, size_t length,
                        unsigned pieces)
{
    static uint8_t bytes[TRAFFIC_ROOM];
    size_t header = vif_header_bytes(c->vif->features);
    memcpy(bytes, h, header);
    memcpy(bytes + header, frame, length);
    assert_true(traffic_send_bytes(c, 0, 0, bytes, header + length, pieces, false));
    driver_sim_publish(c->queue[1].driver);
}

unsigned traffic_sent_back(struct card *c, unsigned pair)
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
size_t traffic_packet_bytes(const struct packet *p, uint8_t *out)
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
bool traffic_post(struct card *c, unsigned pair, size_t at, size_t bytes, unsigned pieces, bool indirect)
{
    struct card_queue *q = &c->queue[pair * 2];
    struct driver_sim_buf buf[TRAFFIC_PIECES_MAX];
    size_t from = CARD_BUFFERS_AT + at, left = bytes;
    unsigned n = 0;
    while (left > 0) {
        size_t part = n + 1 == pieces ? left : 1 + traffic_pick(left);
        buf[n++] = (struct driver_sim_buf){{q->gpa + from}, (uint32_t)part, true};
        from += part;
        left -= part;
    }
    return driver_sim_add(q->driver, buf, n, indirect, at);
}

/* The next frame that came: its header, and its bytes in out. 0: none. */
size_t traffic_get(struct card *c, unsigned pair, struct virtio_net_hdr *h, uint8_t *out, unsigned *buffers)
{
    static uint8_t bytes[TRAFFIC_ROOM];
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

void traffic_deliver(struct card *c, struct packet *const *packets, unsigned count)
{
    struct port *p = vif_port(c->vif);
    p->ops->send(p, packets, count, NULL);
}

struct vif_stats traffic_stats(struct card *c)
{
    struct vif_stats s;
    vif_stats_read(c->vif, &s);
    return s;
}
