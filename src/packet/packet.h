/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A frame on its way from one port to others.
 *
 *     head                                    body
 *     [ room | private copy of the headers ]  [ iov: where the rest lies: a guest's memory, a receive ring ]
 *              ^ frame byte 0                   ^ frame byte head_bytes
 *
 * Whoever receives a frame copies its first bytes into the head, once; all that parses or changes headers looks at that
 * copy only, because a guest may change its own memory at any time. The body is never written and never parsed,
 * except for sums over it. A frame is copied when a receiver takes it into buffers of its own, and nowhere else.
 *
 * Ownership. Packets, heads and bodies belong to the source that received them (port/source.h) and are good until the
 * whole batch was given back; nobody who is handed a packet may keep it longer. A copy with another head and the
 * same body (packet_clone) comes from the pool of the thread and is good as long.
 *
 * Offloads are one model from end to end, whatever port they come from (virtio-net header, TUN_F_*, PACKET_VNET_HDR):
 * what a receiver cannot take is completed in software by port_send() (port/port.h).
 *
 * Thread-safety: a packet belongs to one thread.
 */
#ifndef PACKET_PACKET_H
#define PACKET_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define PACKET_BATCH 32u       /* packets handled together */
#define PACKET_ROOM_BYTES 64u  /* before the head of a fresh packet: for tags that are pushed */
#define PACKET_HEAD_BYTES 256u /* of the head at most; a header that does not lie within is not looked at */
/* A head's buffer has at least that many bytes from the beginning of its room on. */
#define PACKET_BUFFER_BYTES (PACKET_ROOM_BYTES + PACKET_HEAD_BYTES)
#define PACKET_MAX_BYTES 65550u /* a frame: 64 KiB of IP and an Ethernet header; tags pushed later come on top */
#define PACKET_BODY_IOV_MAX 1024u

enum packet_gso {
    PACKET_GSO_NONE,
    PACKET_GSO_TCP4,
    PACKET_GSO_TCP6,
    PACKET_GSO_UDP4, /* cut into UDP datagrams of gso_size (virtio UDP_L4), not into IP fragments */
    PACKET_GSO_UDP6,
};

/* What is still to be done to the frame before it is what a wire would carry. */
struct packet_offload {
    bool csum_partial;    /* the field at csum_start + csum_offset has the pseudo header's sum: the rest is missing */
    bool csum_valid;      /* the sender (or its hardware) vouches for the innermost L4 checksum */
    bool gso_ecn;         /* TCP: CWR is in the first segment only */
    uint8_t gso;          /* enum packet_gso; then csum_partial is set too */
    uint16_t gso_size;    /* payload bytes of a segment, at least 1 */
    uint16_t csum_start;  /* from frame byte 0 */
    uint16_t csum_offset; /* from csum_start */
};

#define PACKET_NO_LAYER UINT16_MAX

struct packet {
    uint8_t *head; /* frame byte 0 */
    uint16_t head_bytes;
    uint16_t room_bytes; /* free before head */
    uint32_t length_bytes;
    const struct iovec *body; /* exactly length_bytes - head_bytes bytes */
    unsigned body_count;
    struct packet_offload offload;
    /* Where headers begin, from frame byte 0, or PACKET_NO_LAYER; set by whoever parsed (switch/extract.h, packet/gro.h). */
    uint16_t l3_at, l4_at;
    uint32_t hash; /* of the flow, symmetric or not as its maker likes; 0: not computed */
};

/* Frame bytes [at, at + n) to dst. They must exist. */
void packet_read(const struct packet *p, uint32_t at, void *dst, uint32_t n);

/* Frame bytes [at, at + n) as iov entries; how many, at most max, or -E2BIG. */
int packet_iov(const struct packet *p, uint32_t at, uint32_t n, struct iovec *out, unsigned max);

/* Make the head at least n bytes long, by moving bytes from the body's front into it; false: the frame is shorter than that
 * or n exceeds PACKET_HEAD_BYTES. Needs an iov of its own in the packet's pool: see packet_pool. */
struct packet_pool;
bool packet_pull(struct packet_pool *pool, struct packet *p, uint16_t n);

/* Insert n bytes (content undefined) or remove n bytes at frame byte `at`, within the head. Layers and csum_start behind
 * it move along. False: no room. */
bool packet_insert(struct packet *p, uint16_t at, uint16_t n);
bool packet_remove(struct packet *p, uint16_t at, uint16_t n);

#define PACKET_POOL_PACKETS 512u
#define PACKET_POOL_IOVS 16384u

/* Per thread: heads and iovs for clones, segments and merged packets. Everything taken is given back at once by
 * packet_pool_reset(), at the end of a batch. */
struct packet_pool *packet_pool_new(void); /* NULL: no memory */
void packet_pool_free(struct packet_pool *pool);
void packet_pool_reset(struct packet_pool *pool);
/* NULL: the pool's bound is reached (count a drop). */
struct packet *packet_clone(struct packet_pool *pool, const struct packet *p);
/* A packet with an empty head of PACKET_ROOM_BYTES room and no body, and an iov of max entries (for it). NULL: as above. */
struct packet *packet_pool_packet(struct packet_pool *pool);
struct iovec *packet_pool_iov(struct packet_pool *pool, unsigned max);
unsigned packet_pool_iov_left(const struct packet_pool *pool);

/* Give back only what was taken since the mark: for segments, which are made, sent and done with a few at a time, however many
 * there are of a packet. Nothing taken in between may be in use any more, the body of a packet that was pulled neither. */
struct packet_pool_mark {
    unsigned packets, iovs;
};
struct packet_pool_mark packet_pool_mark(const struct packet_pool *pool);
void packet_pool_rewind(struct packet_pool *pool, struct packet_pool_mark mark);

#endif
