/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtual disk shown to a Xen guest: a queue's ring is a blkif ring in pages that the guest granted, its data are in others.
 *
 *     control/ (xenstore)  --vbd_blkif_start()-->  queue thread  <--ring, pages, events through xen.h-->  guest
 *
 * How the data get from or to the guest's pages is chosen for each connection:
 *
 *   COPY        the hypervisor copies between them and buffers of ours, all of a group of requests at once. Nothing is mapped.
 *   MAP         the request's pages are mapped, used in place, and unmapped before its answer.
 *   PERSISTENT  pages stay mapped from one request to the next, a bounded number (both sides agreed on feature-persistent)
 *
 * What cannot be mapped is copied. A reference that is no good costs its request an error and nothing else.
 *
 * Barriers: what was taken before one is complete before it begins, and nothing is taken before it is over.
 *
 * Thread-safety: control thread.
 */
#ifndef VBD_BLKIF_H
#define VBD_BLKIF_H

#include "guest/xen.h"
#include "ring/blkif.h"
#include "vbd/vbd.h"

enum vbd_blkif_way { VBD_BLKIF_COPY, VBD_BLKIF_MAP, VBD_BLKIF_PERSISTENT };

/* What a backend says about a disk before a front end connects, by xenstore's names. It stays what it was for as long as the
 * guest runs, over restarts and migrations, but for `sectors`. */
struct vbd_blkif_properties {
    uint64_t sectors;              /* of 512 bytes, whatever sector_size */
    uint32_t sector_size;          /* requests are multiples of it */
    uint32_t physical_sector_size; /* and better of this */
    unsigned info;                 /* VBD_BLKIF_INFO_... */
    bool feature_flush_cache, feature_barrier, feature_discard, feature_persistent;
    uint32_t discard_granularity, discard_alignment; /* in bytes; discard-secure is always 0 */
    unsigned feature_max_indirect_segments;
    unsigned multi_queue_max_queues;
    unsigned max_ring_page_order;
};
#define VBD_BLKIF_INFO_CDROM 1u
#define VBD_BLKIF_INFO_READ_ONLY 4u

void vbd_blkif_properties(struct vbd *d, enum vbd_blkif_way way, bool cdrom, struct vbd_blkif_properties *out);

struct vbd_blkif_setup {
    struct xen *xen; /* lent: the queue's thread uses it, nobody else does until the queue is stopped */
    xen_domid domid;
    uint32_t ring_ref[BLKIF_RING_PAGES_MAX];
    unsigned ring_pages;
    uint32_t remote_port;
    enum blkif_abi abi;
    unsigned segments_max; /* of an indirect request, as offered; 0: not offered */
    enum vbd_blkif_way way;
    bool no_discard;         /* was not offered: refused as not supported */
    unsigned persistent_max; /* pages that stay mapped, ... */
    /* ... until they were not used for that long (and up to a third more; of very many, 128 in each third); 0: a minute */
    unsigned idle_ms;
    void *inflight; /* blkif_inflight_bytes() long, or NULL */
    bool resume;    /* it holds what an earlier process left */
};

/* The ring is mapped and served from here on, what an earlier process had in flight first. 0 or -errno with the reason. */
int vbd_blkif_start(struct vbd *d, unsigned queue, const struct vbd_blkif_setup *s, struct errmsg *e);
/* Everything in flight completes; then nothing of the guest's is mapped or bound any more, whether it is still there or not. */
void vbd_blkif_stop(struct vbd *d, unsigned queue);

#endif
