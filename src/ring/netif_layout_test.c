/* SPDX-License-Identifier: Apache-2.0 */
/* Our own words for Xen's layouts, against Xen's headers where they are installed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ring/netif.h"
#include "ring/netif_wire.h"

#if __has_include(<xen/io/netif.h>)
#define xen_mb() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define xen_rmb() xen_mb()
#define xen_wmb() xen_mb()
#include <xen/xen.h>

#include <xen/io/ring.h>

#include <xen/io/netif.h>

#define SAME(ours, field, theirs, their_field)                                                                         \
    do {                                                                                                               \
        assert_int_equal(offsetof(ours, field), offsetof(theirs, their_field));                                        \
        assert_int_equal(sizeof((ours *)0)->field, sizeof((theirs *)0)->their_field);                                  \
    } while (0)

static void test_layout(void **state)
{
    assert_int_equal(sizeof(struct netif_wire_tx), sizeof(netif_tx_request_t));
    SAME(struct netif_wire_tx, ref, netif_tx_request_t, gref);
    SAME(struct netif_wire_tx, offset, netif_tx_request_t, offset);
    SAME(struct netif_wire_tx, flags, netif_tx_request_t, flags);
    SAME(struct netif_wire_tx, id, netif_tx_request_t, id);
    SAME(struct netif_wire_tx, size, netif_tx_request_t, size);
    assert_int_equal(sizeof(struct netif_wire_tx_response), sizeof(netif_tx_response_t));
    SAME(struct netif_wire_tx_response, status, netif_tx_response_t, status);
    SAME(struct netif_wire_rx, ref, netif_rx_request_t, gref);
    SAME(struct netif_wire_rx_response, offset, netif_rx_response_t, offset);
    SAME(struct netif_wire_rx_response, flags, netif_rx_response_t, flags);
    SAME(struct netif_wire_rx_response, status, netif_rx_response_t, status);
    assert_int_equal(sizeof(struct netif_wire_extra), sizeof(netif_extra_info_t));
    SAME(struct netif_wire_extra, gso.size, netif_extra_info_t, u.gso.size);
    SAME(struct netif_wire_extra, gso.type, netif_extra_info_t, u.gso.type);
    SAME(struct netif_wire_extra, mcast, netif_extra_info_t, u.mcast.addr);
    SAME(struct netif_wire_extra, hash.value, netif_extra_info_t, u.hash.value);
    assert_int_equal(__CONST_RING_SIZE(netif_tx, 4096), NETIF_ENTRIES);
    assert_int_equal(__CONST_RING_SIZE(netif_rx, 4096), NETIF_ENTRIES);
    assert_int_equal(offsetof(netif_tx_sring_t, ring), sizeof(struct xen_ring));
}

static void test_numbers(void **state)
{
    assert_int_equal(NETIF_TX_CSUM_BLANK, NETTXF_csum_blank);
    assert_int_equal(NETIF_TX_DATA_VALIDATED, NETTXF_data_validated);
    assert_int_equal(NETIF_TX_MORE_DATA, NETTXF_more_data);
    assert_int_equal(NETIF_TX_EXTRA_INFO, NETTXF_extra_info);
    assert_int_equal(NETIF_RX_CSUM_BLANK, NETRXF_csum_blank);
    assert_int_equal(NETIF_RX_DATA_VALIDATED, NETRXF_data_validated);
    assert_int_equal(NETIF_RX_MORE_DATA, NETRXF_more_data);
    assert_int_equal(NETIF_RX_EXTRA_INFO, NETRXF_extra_info);
    assert_int_equal(NETIF_EXTRA_GSO, XEN_NETIF_EXTRA_TYPE_GSO);
    assert_int_equal(NETIF_EXTRA_MCAST_ADD, XEN_NETIF_EXTRA_TYPE_MCAST_ADD);
    assert_int_equal(NETIF_EXTRA_MCAST_DEL, XEN_NETIF_EXTRA_TYPE_MCAST_DEL);
    assert_int_equal(NETIF_EXTRA_HASH, XEN_NETIF_EXTRA_TYPE_HASH);
    assert_int_equal(NETIF_EXTRA_FLAG_MORE, XEN_NETIF_EXTRA_FLAG_MORE);
    assert_int_equal(NETIF_GSO_TCP4, XEN_NETIF_GSO_TYPE_TCPV4);
    assert_int_equal(NETIF_GSO_TCP6, XEN_NETIF_GSO_TYPE_TCPV6);
    assert_int_equal(NETIF_DROPPED, NETIF_RSP_DROPPED);
    assert_int_equal(NETIF_ERROR, NETIF_RSP_ERROR);
    assert_int_equal(NETIF_OKAY, NETIF_RSP_OKAY);
}
#else
static void test_layout(void **state)
{
    skip();
}

static void test_numbers(void **state)
{
    skip();
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_layout), cmocka_unit_test(test_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
