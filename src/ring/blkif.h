/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TRUST BOUNDARY 2, on Xen: the ring of a blkfront (Xen's public io/blkif.h, io/ring.h), backend side.
 *
 * Requests are copied out once, in whichever of the three layouts the guest's kind has, checked, and given out as plain structures;
 * responses are put back in any order and published in batches. What was taken and not answered is also noted in memory that
 * outlives the process (blkif_setup.inflight), in an order that leaves it right wherever the process is killed: the next
 * process gives those out first, oldest first, and answers nothing twice. (What was pushed and not published is given out again,
 * too.) The table holds the requests themselves: responses are written over them in the ring, in whatever order they come.
 *
 * Nothing here maps or copies a guest's data pages: segments name grants, and the device decides (vbd/).
 *
 * Thread-safety: a ring belongs to one thread.
 */
#ifndef RING_BLKIF_H
#define RING_BLKIF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"

#define BLKIF_RING_PAGES_MAX 16u
#define BLKIF_INDIRECT_PAGES_MAX 8u
#define BLKIF_DISCARD_F_SECURE 1u /* of a discard's flags */
#define BLKIF_SEGMENTS_MAX 512u   /* that we offer and take: 2 MiB in one request */

enum blkif_abi { BLKIF_ABI_NATIVE /* this machine's */, BLKIF_ABI_X86_32, BLKIF_ABI_X86_64 };

/* As on the ring. */
enum blkif_op {
    BLKIF_READ = 0,
    BLKIF_WRITE = 1,
    BLKIF_WRITE_BARRIER = 2,
    BLKIF_FLUSH_DISKCACHE = 3,
    BLKIF_DISCARD = 5,
    BLKIF_INDIRECT = 6, /* only on the ring: given out as what it carries */
};
enum blkif_status { BLKIF_OKAY = 0, BLKIF_ERROR = -1, BLKIF_EOPNOTSUPP = -2 };

struct blkif_segment {
    uint32_t ref;
    uint8_t first_sect, last_sect; /* of 512 bytes; first <= last < 8 */
};

struct blkif_request {
    uint16_t slot; /* give back with the response; unique among requests in flight */
    uint8_t op;    /* enum blkif_op, never INDIRECT; or what nobody knows, which BLKIF_EOPNOTSUPP is due for */
    bool invalid;  /* well enough formed to be answered, but nothing else: BLKIF_ERROR is due */
    uint8_t discard_flags;
    uint64_t id; /* the guest's */
    uint64_t sector;
    uint64_t discard_sectors;
    unsigned
        segment_count; /* of a read or write: 1 or more; of a barrier: maybe 0. A flush with segments is given out as a barrier */
    /* An indirect request's segments are in pages of the guest's that the caller copies (blkif_add_segments()); else 0. */
    unsigned indirect_pages;
    uint32_t indirect_ref[BLKIF_INDIRECT_PAGES_MAX];
    struct blkif_segment *segments; /* the caller's: blkif_setup.segments_max of them, and 11 at least */
};

struct blkif_setup {
    void *ring;     /* mapped, pages adjacent */
    unsigned pages; /* a power of two */
    enum blkif_abi abi;
    unsigned segments_max; /* of an indirect request, as offered; 0: none are taken */
    void *inflight;        /* blkif_inflight_bytes() long, of 64 bytes' alignment, out of the guest's reach; or NULL */
    bool resume;           /* it holds what an earlier process left */
};
size_t blkif_inflight_bytes(enum blkif_abi abi, unsigned pages);
/* What it holds is of no ring any more: a resume begins with nothing in flight. */
void blkif_inflight_forget(void *inflight);
unsigned blkif_ring_entries(enum blkif_abi abi, unsigned pages);

struct blkif_ring;

/* 0, -EINVAL with the reason (a set-up or a table that cannot be), -EBUSY (some requests were answered and others are open, and no
 * table says which), -ENOMEM. After a resume the guest may still be waiting for what the
 * last process published: the first blkif_publish() returns true, even with nothing pushed. */
int blkif_new(struct blkif_ring **out, const struct blkif_setup *s, struct errmsg *e);
void blkif_free(struct blkif_ring *r);

/* 1: taken; 0: none; -EPROTO: broken (an index that jumps): blkif_broken() says why. */
int blkif_pop(struct blkif_ring *r, struct blkif_request *out);
/* The bytes of the indirect pages (8 per segment), copied once by the caller. False: too few, or a segment is nonsense (the request
 * is invalid then). */
bool blkif_add_segments(struct blkif_request *q, const void *pages, size_t bytes);
void blkif_push(struct blkif_ring *r, uint16_t slot, enum blkif_status status);
/* True: the guest is to be notified. */
bool blkif_publish(struct blkif_ring *r);
/* Ask for an event with the next request; true: one is there already. */
bool blkif_final_check(struct blkif_ring *r);
bool blkif_has_work(const struct blkif_ring *r); /* a hint; blkif_pop() decides */
/* Requests of an earlier process are still to be given out. */
bool blkif_resuming(const struct blkif_ring *r);
/* Popped and not pushed. */
unsigned blkif_in_flight(const struct blkif_ring *r);
void blkif_break(struct blkif_ring *r, const char *why); /* why is a literal */
const char *blkif_broken(const struct blkif_ring *r);

#endif
