/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames that lie in memory of the process's own, where nothing writes to them any more: head and body are one
 * piece, and nothing is copied.
 *
 *     buffer:  [ room of PACKET_ROOM_BYTES, in its end the vnet header | frame ... ]
 *
 * The header is over before anything is pushed into the room. Buffers begin an odd number of cache lines apart, so that the headers of
 * a batch do not meet in a few sets of the cache.
 */
#ifndef PORT_FRAME_H
#define PORT_FRAME_H

#include <assert.h>

#include "base/checked.h"
#include "packet/packet.h"
#include "port/vnet.h"

#define FRAME_ETHERNET_BYTES 14u
#define FRAME_SPACE_BYTES (PACKET_MAX_BYTES + 1) /* one that is longer is seen to be */
#define FRAME_BUFFER_BYTES (1029u * 64)
static_assert(FRAME_BUFFER_BYTES >= PACKET_ROOM_BYTES + FRAME_SPACE_BYTES && FRAME_BUFFER_BYTES / 64 % 2 == 1, "above");
static_assert(PACKET_ROOM_BYTES >= VNET_HEADER_BYTES, "the header lies in the room");

/* False: too short or too long for a frame. */
static inline bool frame_packet(struct packet *p, struct iovec *body, uint8_t *frame, size_t bytes)
{
    if (bytes < FRAME_ETHERNET_BYTES || bytes > PACKET_MAX_BYTES) return false;
    uint16_t head_bytes = (uint16_t)min_u64(bytes, PACKET_HEAD_BYTES);
    *p = (struct packet){
        .head = frame,
        .head_bytes = head_bytes,
        .room_bytes = PACKET_ROOM_BYTES,
        .length_bytes = (uint32_t)bytes,
        .body = body,
        .body_count = bytes > head_bytes,
        .l3_at = PACKET_NO_LAYER,
        .l4_at = PACKET_NO_LAYER,
    };
    *body = (struct iovec){.iov_base = frame + head_bytes, .iov_len = bytes - head_bytes};
    return true;
}

#endif
