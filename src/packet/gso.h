/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segmentation in software: a frame with offload.gso becomes the frames that a network card would have made of it.
 *
 *     struct gso g;
 *     if (gso_begin(&g, pool, p, takes_csum) < 0) drop(p);
 *     else while ((s = gso_next(&g))) send(s);
 *
 * A segment has a head of its own from the pool, with headers only; its body is a slice of the whole one's head and body, so
 * nothing is copied but headers, and the whole one must stay as it is while its segments are in use. A frame may have a great
 * many segments (gso_size is the sender's choice): make and send a few at a time, between packet_pool_mark() and
 * packet_pool_rewind(). gso_begin() may pull, so it stands before the mark.
 *
 * As Linux does it: sequence numbers and IPv4 identifications go up; FIN and PSH stay in the last segment only, CWR in the
 * first only; lengths and checksums are each segment's own. IP's own length field of the whole frame is not looked at: some
 * senders leave it zero.
 */
#ifndef PACKET_GSO_H
#define PACKET_GSO_H

#include "packet/packet.h"

struct gso {
    struct packet_pool *pool;
    const struct packet *whole;
    bool leave_csum;
    uint8_t kind; /* enum packet_gso */
    uint16_t l3_at, l4_at, header_bytes;
    uint32_t at, end;    /* payload not yet in a segment */
    unsigned entry;      /* of the body, where `at` lies once it is behind the head */
    size_t skip;         /* in that entry */
    unsigned index;      /* of the next segment */
    uint64_t pseudo_sum; /* addresses and protocol */
};

/* leave_csum: the receiver takes csum_partial. 0, or -EINVAL: the frame is not what its offload says, or its headers end
 * behind PACKET_HEAD_BYTES: drop it. p may be pulled. */
int gso_begin(struct gso *g, struct packet_pool *pool, struct packet *p, bool leave_csum);

/* The next segment, or NULL: that was all, or (gso_left() > 0) the pool is empty. */
struct packet *gso_next(struct gso *g);

/* Payload bytes that are in no segment yet. */
static inline uint32_t gso_left(const struct gso *g)
{
    return g->end - g->at;
}

#endif
