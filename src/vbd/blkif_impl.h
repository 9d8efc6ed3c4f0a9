/* SPDX-License-Identifier: Apache-2.0 */
/* A blkif ring's private state; blkif.c (the ring) and blkif_data.c (requests' data). Inside vbd/ only. */
#ifndef VBD_BLKIF_IMPL_H
#define VBD_BLKIF_IMPL_H

#include "guest/persistent.h"
#include "vbd/blkif.h"
#include "vbd/queue.h"

#define BLKIF_DIRECT_SEGMENTS 11u /* that fit into a request itself */
#define BLKIF_POOL_PAGES 2048u /* buffers of a ring, for copied data: 8 MiB, of which only what is used is ever there */
#define BLKIF_COPIES 1024u     /* handed to the hypervisor at once */
#define BLKIF_COPIERS 64u      /* requests that these are of */
_Static_assert(BLKIF_SEGMENTS_MAX <= BLKIF_POOL_PAGES && BLKIF_SEGMENTS_MAX <= BLKIF_COPIES, "any request fits in");
_Static_assert(BLKIF_SEGMENTS_MAX <= DISK_IOV_MAX, "and into an iovec");

/* Beside each request (vbd_request_extra()). */
struct blkif_extra {
    uint16_t slot;  /* on the ring */
    bool has_pages; /* to be given back; how they were got: */
    enum vbd_blkif_way way;
    unsigned segment_count;
    struct blkif_segment *segment; /* vbd_blkif.segments */
    /* As many. COPY: page is one of our buffers. PERSISTENT: cookie is the slot. */
    struct xen_map page[];
};

struct vbd_blkif {
    struct vbd_queue *queue;
    struct xen *xen;
    struct blkif_ring *ring;
    void *ring_pages;
    unsigned ring_page_count;
    struct engine_watch watch;
    int port;
    bool watching, masked; /* masked: an event came, and none does until the port is unmasked */
    xen_domid domid;
    enum vbd_blkif_way way;
    bool no_discard;
    unsigned segments; /* that a request may have */
    struct persistent *persistent;
    struct engine_watch age_watch; /* a timer: a period is over */
    bool age_watching, ageing;     /* the timer is there; it runs, which it does while pages are mapped */
    unsigned period_ms;

    struct vbd_request *waiting; /* taken from the ring; there are no buffers for it now, and nothing else is taken */
    struct vbd_request *barrier; /* taken from the ring; nothing else is taken until it is over */
    bool barrier_runs;           /* and what came before it is complete */

    char *pool;
    unsigned free_count;
    uint16_t free[BLKIF_POOL_PAGES];
    unsigned copy_count, copier_count;
    struct xen_copy copy[BLKIF_COPIES];
    struct {
        struct vbd_request *request;
        unsigned end; /* of its copies */
    } copier[BLKIF_COPIERS];
    uint8_t indirect[BLKIF_INDIRECT_PAGES_MAX * XEN_PAGE_BYTES];
};

#define BLKIF_IDLE_MS 60000u
#define BLKIF_IDLE_PERIODS 3u

/* blkif_data.c */
/* Pages that stay mapped, up to so many, while they are used. 0 or -errno; stop is harmless in any case. */
int vbd_blkif_persistent_start(struct vbd_blkif *b, unsigned max, unsigned idle_ms);
void vbd_blkif_persistent_stop(struct vbd_blkif *b);
void vbd_blkif_persistent_watch(struct vbd_blkif *b); /* some may be mapped: the timer runs */
size_t vbd_blkif_extra_bytes(const struct vbd_blkif *b);
/* The segments of an indirect request, from the guest's pages. False: it is refused. */
bool vbd_blkif_fetch_segments(struct vbd_blkif *b, struct blkif_request *q);
/* Get the pages of a request with segments; what is to be copied from the guest is noted. 0; -EAGAIN: no buffers now. */
int vbd_blkif_get_pages(struct vbd_blkif *b, struct vbd_request *r);
/* What a read brought is noted to be copied to the guest, if it is to be copied. */
void vbd_blkif_note_read(struct vbd_blkif *b, struct vbd_request *r);
/* Copy what was noted. A request of which something could not be copied gets an error. */
void vbd_blkif_copy(struct vbd_blkif *b);
void vbd_blkif_put_pages(struct vbd_blkif *b, struct vbd_request *r);

#endif
