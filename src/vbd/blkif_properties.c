/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "vbd/blkif.h"
#include "vbd/queue.h"

#define RING_PAGE_ORDER_MAX 4u
_Static_assert(1u << RING_PAGE_ORDER_MAX == BLKIF_RING_PAGES_MAX, "what we offer is what we take");

void vbd_blkif_properties(struct vbd *d, enum vbd_blkif_way way, bool cdrom, struct vbd_blkif_properties *out)
{
    const struct vbd_config *c = &d->config;
    bool read_only = c->read_only || cdrom;
    *out = (struct vbd_blkif_properties){
        .sectors = atomic_load(&d->capacity_bytes) / DISK_SECTOR_BYTES,
        .sector_size = c->sector_bytes,
        .physical_sector_size = (uint32_t)max_u64(c->sector_bytes, 4096),
        .info = (cdrom ? VBD_BLKIF_INFO_CDROM : 0) | (read_only ? VBD_BLKIF_INFO_READ_ONLY : 0),
        .feature_flush_cache = true,
        .feature_barrier = !read_only,
        .feature_discard = !read_only,
        .feature_persistent = way == VBD_BLKIF_PERSISTENT,
        .discard_granularity = c->io_opt_bytes ? c->io_opt_bytes : 4096,
        .feature_max_indirect_segments = BLKIF_SEGMENTS_MAX,
        .multi_queue_max_queues = c->queues,
        .max_ring_page_order = RING_PAGE_ORDER_MAX,
    };
}
