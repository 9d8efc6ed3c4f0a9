/* SPDX-License-Identifier: Apache-2.0 */
/* Our layouts of a blkif ring against Xen's own headers; built as a test that skips where those are not installed (libxen-dev). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ring/blkif.h"
#include "ring/blkif_wire.h"

#if __has_include(<xen/io/blkif.h>) && defined(__x86_64__)
#define __XEN_INTERFACE_VERSION__ __XEN_LATEST_INTERFACE_VERSION__
#define xen_mb() __sync_synchronize()
#define xen_rmb() xen_mb()
#define xen_wmb() xen_mb()
#include <xen/xen.h>

#include <xen/io/ring.h>

#define blkif_request xen_blkif_request /* a name that we have, too */
#include <xen/io/blkif.h>
#undef blkif_request

#define SAME(xen_struct, xen_field, our_struct, our_field)                                                             \
    _Static_assert(offsetof(xen_struct, xen_field) == offsetof(struct our_struct, our_field), "layout")

SAME(blkif_request_t, nr_segments, blkif_wire_rw64, segment_count);
SAME(blkif_request_t, handle, blkif_wire_rw64, handle);
SAME(blkif_request_t, id, blkif_wire_rw64, id);
SAME(blkif_request_t, sector_number, blkif_wire_rw64, sector);
SAME(blkif_request_t, seg, blkif_wire_rw64, segment);
SAME(blkif_request_discard_t, flag, blkif_wire_discard64, flags);
SAME(blkif_request_discard_t, id, blkif_wire_discard64, id);
SAME(blkif_request_discard_t, sector_number, blkif_wire_discard64, sector);
SAME(blkif_request_discard_t, nr_sectors, blkif_wire_discard64, sectors);
SAME(blkif_request_indirect_t, indirect_op, blkif_wire_indirect64, indirect_op);
SAME(blkif_request_indirect_t, nr_segments, blkif_wire_indirect64, segment_count);
SAME(blkif_request_indirect_t, id, blkif_wire_indirect64, id);
SAME(blkif_request_indirect_t, sector_number, blkif_wire_indirect64, sector);
SAME(blkif_request_indirect_t, handle, blkif_wire_indirect64, handle);
SAME(blkif_request_indirect_t, indirect_grefs, blkif_wire_indirect64, ref);
SAME(struct blkif_request_segment, gref, blkif_wire_segment, ref);
SAME(struct blkif_request_segment, first_sect, blkif_wire_segment, first_sect);
SAME(struct blkif_request_segment, last_sect, blkif_wire_segment, last_sect);
SAME(blkif_response_t, id, blkif_wire_response64, id);
SAME(blkif_response_t, operation, blkif_wire_response64, op);
SAME(blkif_response_t, status, blkif_wire_response64, status);
SAME(blkif_sring_t, req_prod, xen_ring, req_prod);
SAME(blkif_sring_t, req_event, xen_ring, req_event);
SAME(blkif_sring_t, rsp_prod, xen_ring, rsp_prod);
SAME(blkif_sring_t, rsp_event, xen_ring, rsp_event);
_Static_assert(offsetof(blkif_sring_t, ring) == sizeof(struct xen_ring), "layout");
_Static_assert(sizeof(union blkif_sring_entry) == sizeof(struct blkif_wire_rw64), "layout");
_Static_assert(sizeof(blkif_response_t) == sizeof(struct blkif_wire_response64), "layout");
_Static_assert(sizeof(struct blkif_request_segment) == sizeof(struct blkif_wire_segment), "layout");
_Static_assert(BLKIF_MAX_SEGMENTS_PER_REQUEST == BLKIF_DIRECT_MAX, "layout");
_Static_assert(BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST == BLKIF_INDIRECT_PAGES_MAX, "layout");
_Static_assert(BLKIF_OP_READ == BLKIF_READ && BLKIF_OP_WRITE == BLKIF_WRITE, "operation");
_Static_assert(BLKIF_OP_WRITE_BARRIER == BLKIF_WRITE_BARRIER && BLKIF_OP_DISCARD == BLKIF_DISCARD, "operation");
_Static_assert(BLKIF_OP_FLUSH_DISKCACHE == BLKIF_FLUSH_DISKCACHE && BLKIF_OP_INDIRECT == BLKIF_INDIRECT, "operation");
_Static_assert(BLKIF_DISCARD_SECURE == BLKIF_DISCARD_F_SECURE, "flag");
_Static_assert(BLKIF_RSP_OKAY == BLKIF_OKAY && BLKIF_RSP_ERROR == BLKIF_ERROR, "status");
_Static_assert(BLKIF_RSP_EOPNOTSUPP == BLKIF_EOPNOTSUPP, "status");

static void test_entries(void **state)
{
    for (unsigned pages = 1; pages <= BLKIF_RING_PAGES_MAX; pages *= 2) {
        unsigned xens = (unsigned)__CONST_RING_SIZE(blkif, pages * BLKIF_PAGE_BYTES);
        assert_int_equal(blkif_ring_entries(BLKIF_ABI_X86_64, pages), xens);
        assert_int_equal(blkif_ring_entries(BLKIF_ABI_NATIVE, pages), xens);
    }
}
#else
static void test_entries(void **state)
{
    skip();
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_entries)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
