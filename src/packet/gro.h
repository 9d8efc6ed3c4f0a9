/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receive offload in software: TCP segments of one batch that follow each other in their stream become one large frame, so
 * that everything behind (the switch, the guest's stack) is done once for many. The reverse of packet/gso.h: cut up again, a merged
 * frame gives the segments that it was made of, byte for byte (but for identifications of senders that do not count them).
 *
 * Merged are segments with payload that are equal in everything but sequence number, identification and PSH or FIN, as Linux
 * has it: addresses, tags, TOS, TTL, flow label, acknowledgement, window, options. A segment that ends a record (PSH, FIN, or
 * shorter than those before it) is the last of a merge. Nothing with SYN, RST, URG or CWR, no fragment, nothing with IP
 * options or extension headers, nothing whose checksum is wrong is ever merged; it passes as it came, and ends its stream's
 * merge, so that the order within a stream stays.
 *
 * Sums are checked only of segments that would be merged (a lone one is left to its receiver), and not where
 * offload says that they are right (csum_valid, csum_partial).
 *
 * Source: RFC 9293; RFC 6864 (identification); the behaviour of Linux's tcp_gro_receive().
 */
#ifndef PACKET_GRO_H
#define PACKET_GRO_H

#include "packet/parse.h"

#define GRO_SLOTS 64u
#define GRO_NONE 0xffu

struct gro_member {
    struct packet *packet;
    uint32_t bytes; /* of payload */
    uint16_t payload_at;
    uint8_t next; /* member of the same flow, or GRO_NONE */
};

/* A merge that is under way; its first member keeps its head. */
struct gro_flow {
    uint32_t hash;
    uint32_t next_seq;
    uint32_t ip_bytes; /* of the merged frame so far */
    unsigned segments, iovs;
    uint16_t size; /* of its segments' payload */
    uint16_t first_id;
    struct packet_layers l; /* of the first member */
    uint8_t first, last;    /* members */
    uint8_t last_flags;
    bool open;     /* may grow */
    bool verified; /* the first member's checksum was checked */
    bool fixed_id;
};

/* All of it lives for one batch; what is kept here is only its place, so that it is not on the stack. */
struct gro {
    uint8_t slots[GRO_SLOTS]; /* flow by hash */
    uint8_t recent;           /* the slot where a flow began last */
    struct gro_flow flows[PACKET_BATCH];
    struct gro_member members[PACKET_BATCH];
    unsigned flow_count, member_count;
    unsigned iovs_reserved;
    uint64_t merged;    /* segments that disappeared in others, ever */
    uint64_t bad_csums; /* segments not merged for their checksum, ever */
};

void gro_init(struct gro *g);

/* Merges within packets[0..count) in place, count <= PACKET_BATCH; returns how many are left. Sets l3_at and l4_at of what
 * is TCP over plain IP. Merged frames are good until the pool is reset. */
unsigned gro_batch(struct gro *g, struct packet **packets, unsigned count, struct packet_pool *pool);

#endif
