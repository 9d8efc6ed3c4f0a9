/* SPDX-License-Identifier: Apache-2.0 */
/* What the targets about frames share: reading the input, and frames in pieces that a sanitizer sees the ends of. */
#ifndef FUZZ_PACKET_PIECES_H
#define FUZZ_PACKET_PIECES_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "packet/packet.h"

#define PIECES_MAX 12u

struct input {
    const uint8_t *at, *end;
};

static inline uint32_t take(struct input *in, unsigned bytes)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < bytes && in->at < in->end; i++)
        v |= (uint32_t)*in->at++ << (8 * i);
    return v;
}

static inline void check(bool ok)
{
    if (!ok) abort();
}

struct pieces {
    struct packet p;
    uint8_t *buffer;
    struct iovec iov[PIECES_MAX];
};

/* The size of each piece is some function of the shape; a shape of zero makes one piece. */
static inline void pieces_make(struct pieces *f, const uint8_t *bytes, uint32_t n, uint32_t head_bytes, uint32_t shape)
{
    uint32_t head = head_bytes < n ? head_bytes : n;
    if (head > PACKET_HEAD_BYTES) head = PACKET_HEAD_BYTES;
    memset(f, 0, sizeof *f);
    f->buffer = malloc(PACKET_BUFFER_BYTES);
    memset(f->buffer, 0xee, PACKET_BUFFER_BYTES);
    memcpy(f->buffer + PACKET_ROOM_BYTES, bytes, head);
    f->p = (struct packet){.head = f->buffer + PACKET_ROOM_BYTES,
                           .head_bytes = (uint16_t)head,
                           .room_bytes = PACKET_ROOM_BYTES,
                           .length_bytes = n,
                           .body = f->iov,
                           .l3_at = PACKET_NO_LAYER,
                           .l4_at = PACKET_NO_LAYER};
    for (uint32_t at = head; at < n;) {
        uint32_t bytes_here = shape ? (shape >> (f->p.body_count % 8)) % 37 : n - at;
        if (f->p.body_count == PIECES_MAX - 1 || bytes_here > n - at) bytes_here = n - at;
        void *piece = malloc(bytes_here ? bytes_here : 1);
        memcpy(piece, bytes + at, bytes_here);
        f->iov[f->p.body_count++] = (struct iovec){piece, bytes_here};
        at += bytes_here;
    }
}

static inline void pieces_free(struct pieces *f)
{
    for (unsigned i = 0; i < PIECES_MAX; i++)
        free(f->iov[i].iov_base);
    free(f->buffer);
}

/* 16-bit words, the slow way. */
static inline uint32_t slow_sum(uint32_t sum, const uint8_t *bytes, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        sum += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

/* Of the L4 header and payload with the pseudo header, for IP at l3_at; addresses as they are in the header. */
static inline uint32_t slow_l4_sum(const uint8_t *frame, uint32_t n, unsigned version, uint8_t proto, uint32_t l3_at,
                                   uint32_t l4_at)
{
    uint32_t bytes = n - l4_at,
             sum = version == 4 ? slow_sum(0, frame + l3_at + 12, 8) : slow_sum(0, frame + l3_at + 8, 32);
    uint8_t rest[8] = {
        (uint8_t)(bytes >> 24), (uint8_t)(bytes >> 16), (uint8_t)(bytes >> 8), (uint8_t)bytes, 0, 0, 0, proto};
    return slow_sum(slow_sum(sum, rest, 8), frame + l4_at, bytes);
}

#endif
