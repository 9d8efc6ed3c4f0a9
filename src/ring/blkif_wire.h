/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What both sides of a blkif ring agree on: Xen's public io/ring.h and io/blkif.h, in our own words. Private to ring/.
 *
 * The shared page (or pages, adjacent) starts with 64 bytes of indices; entries follow, as many as fit, rounded down to a power of
 * two. An entry is a request or, once it was taken, maybe a response: one array serves both ways. Numbers are in the machine's
 * own byte order. Two layouts exist, because a 32-bit x86 guest aligns 64-bit numbers to 4 bytes; a 64-bit guest's (and every
 * other's) is called x86_64 here.
 */
#ifndef RING_BLKIF_WIRE_H
#define RING_BLKIF_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "ring/xen_ring.h"

#define BLKIF_PAGE_BYTES 4096u
#define BLKIF_DIRECT_MAX 11u         /* segments within a request */
#define BLKIF_SEGMENTS_PER_PAGE 512u /* of an indirect page */
#define BLKIF_ENTRY_BYTES_MAX 112u

struct blkif_wire_segment {
    uint32_t ref;
    uint8_t first_sect, last_sect;
    uint16_t unused;
};
_Static_assert(sizeof(struct blkif_wire_segment) == 8 && BLKIF_SEGMENTS_PER_PAGE * 8 == BLKIF_PAGE_BYTES, "io/blkif.h");

/* Read, write, barrier, flush. */
struct blkif_wire_rw64 {
    uint8_t op, segment_count;
    uint16_t handle;
    uint32_t unused;
    uint64_t id, sector;
    struct blkif_wire_segment segment[BLKIF_DIRECT_MAX];
} __attribute__((packed));

struct blkif_wire_rw32 {
    uint8_t op, segment_count;
    uint16_t handle;
    uint64_t id, sector;
    struct blkif_wire_segment segment[BLKIF_DIRECT_MAX];
} __attribute__((packed));
_Static_assert(sizeof(struct blkif_wire_rw64) == 112 && sizeof(struct blkif_wire_rw32) == 108, "io/blkif.h");

struct blkif_wire_discard64 {
    uint8_t op, flags;
    uint16_t handle;
    uint32_t unused;
    uint64_t id, sector, sectors;
} __attribute__((packed));

struct blkif_wire_discard32 {
    uint8_t op, flags;
    uint16_t handle;
    uint64_t id, sector, sectors;
} __attribute__((packed));

struct blkif_wire_indirect64 {
    uint8_t op, indirect_op;
    uint16_t segment_count;
    uint32_t unused;
    uint64_t id, sector;
    uint16_t handle, unused2;
    uint32_t ref[8];
} __attribute__((packed));

struct blkif_wire_indirect32 {
    uint8_t op, indirect_op;
    uint16_t segment_count;
    uint64_t id, sector;
    uint16_t handle, unused2;
    uint32_t ref[8];
} __attribute__((packed));

struct blkif_wire_response64 {
    uint64_t id;
    uint8_t op, unused;
    int16_t status;
    uint32_t unused2;
} __attribute__((packed));

struct blkif_wire_response32 {
    uint64_t id;
    uint8_t op, unused;
    int16_t status;
} __attribute__((packed));
_Static_assert(sizeof(struct blkif_wire_response64) == 16 && sizeof(struct blkif_wire_response32) == 12, "io/blkif.h");

/* Where things are in a request, in bytes; the operation, its flags or count and (indirect) the 16-bit count are at 0, 1, 2. */
struct blkif_layout {
    uint8_t entry_bytes, response_bytes;
    uint8_t id, sector, segment, discard_sectors, indirect_ref;
};

#define BLKIF_LAYOUT(bits)                                                                                             \
    {                                                                                                                  \
        sizeof(struct blkif_wire_rw##bits), sizeof(struct blkif_wire_response##bits),                                  \
            offsetof(struct blkif_wire_rw##bits, id), offsetof(struct blkif_wire_rw##bits, sector),                    \
            offsetof(struct blkif_wire_rw##bits, segment), offsetof(struct blkif_wire_discard##bits, sectors),         \
            offsetof(struct blkif_wire_indirect##bits, ref)                                                            \
    }

static const struct blkif_layout blkif_layout64 = BLKIF_LAYOUT(64), blkif_layout32 = BLKIF_LAYOUT(32);

_Static_assert(offsetof(struct blkif_wire_rw64, id) == 8 && offsetof(struct blkif_wire_rw64, sector) == 16 &&
                   offsetof(struct blkif_wire_rw64, segment) == 24 &&
                   offsetof(struct blkif_wire_discard64, sectors) == 24 &&
                   offsetof(struct blkif_wire_indirect64, ref) == 28 &&
                   offsetof(struct blkif_wire_response64, status) == 10,
               "io/blkif.h, 64 bits");
_Static_assert(offsetof(struct blkif_wire_rw32, id) == 4 && offsetof(struct blkif_wire_rw32, sector) == 12 &&
                   offsetof(struct blkif_wire_rw32, segment) == 20 &&
                   offsetof(struct blkif_wire_discard32, sectors) == 20 &&
                   offsetof(struct blkif_wire_indirect32, ref) == 24 &&
                   offsetof(struct blkif_wire_response32, status) == 10,
               "io/blkif.h, 32 bits");

#endif
