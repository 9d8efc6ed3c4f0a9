/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network card's guest half: see net_frontend.h. Attaching is frontend.h's, with the rings of the card in place of a disk's.
 */
#include "net_frontend.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <linux/virtio_config.h>

#include "base/checked.h"

#define BIT(n) (UINT64_C(1) << (n))

static const uint64_t plain_features = BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_MTU) |
                                       BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_MQ);
static const uint64_t offload_features = BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM) |
                                         BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) |
                                         BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) |
                                         BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_GUEST_ECN);

static void args_default(struct netfe_args *a)
{
    if (!a->pairs) a->pairs = 1;
    if (!a->queue_size) a->queue_size = 1024;
    if (!a->rx_buffer_bytes) a->rx_buffer_bytes = 2048;
    if (!a->tx_buffer_bytes) a->tx_buffer_bytes = 2048;
}

static int args_check(const struct netfe_args *a, struct errmsg *e)
{
    if (a->pairs > NETFE_PAIRS_MAX)
        return errmsg_set(e, EINVAL, "%u queue pairs: at most %u", a->pairs, NETFE_PAIRS_MAX);
    if (!is_power_of_2(a->queue_size) || a->queue_size > 32768)
        return errmsg_set(e, EINVAL, "queues of %u entries: a power of two up to 32768 is wanted", a->queue_size);
    if (a->tx_segment_bytes && div_round_up(a->tx_buffer_bytes, a->tx_segment_bytes) > a->queue_size)
        return errmsg_set(e, EINVAL, "a transmit buffer has more segments than a queue of %u", a->queue_size);
    return 0;
}

static unsigned segments(const struct netfe_args *a)
{
    return a->tx_segment_bytes ? (unsigned)div_round_up(a->tx_buffer_bytes, a->tx_segment_bytes) : 1;
}

static int queues_init(struct netfe *n, struct errmsg *e)
{
    for (unsigned i = 0; i < 2 * n->args.pairs; i++) {
        struct netfe_queue *q = i % 2 ? &n->tx[i / 2] : &n->rx[i / 2];
        int ret = netfe_queue_init(q, n->link, i, &n->args);
        if (ret < 0) return errmsg_sys(e, -ret, "queue %u", i);
    }
    return 0;
}

int netfe_new(struct netfe **out, const struct netfe_args *args, struct errmsg *e)
{
    struct netfe *n = calloc(1, sizeof *n);
    if (!n) return errmsg_sys(e, ENOMEM, "front end");
    n->args = *args;
    args_default(&n->args);
    const struct netfe_args *a = &n->args;
    struct frontend_args link = a->link;
    link.other_device = true;
    link.no_inflight = true;
    link.other_features = plain_features | (a->offloads ? offload_features : 0);
    link.queues = 2 * a->pairs;
    link.other_units = a->pairs;
    link.other_bytes = a->pairs * (netfe_queue_bytes(a->queue_size, 1, a->rx_buffer_bytes) +
                                   netfe_queue_bytes(a->queue_size, segments(a), a->tx_buffer_bytes));
    int ret = args_check(a, e);
    if (ret == 0) ret = frontend_new(&n->link, &link, e);
    if (ret == 0) ret = queues_init(n, e);
    if (ret < 0) {
        netfe_free(n);
        return ret;
    }
    *out = n;
    return 0;
}

void netfe_free(struct netfe *n)
{
    if (!n) return;
    for (unsigned i = 0; n->link && i < n->args.pairs; i++) {
        netfe_queue_clear(&n->rx[i]);
        netfe_queue_clear(&n->tx[i]);
    }
    frontend_free(n->link);
    free(n);
}

static int read_config(struct netfe *n, struct errmsg *e)
{
    struct {
        uint32_t offset, size, flags;
        uint8_t c[offsetof(struct virtio_net_config, speed)];
    } __attribute__((packed)) msg = {.size = sizeof msg.c};
    if (!(n->link->protocol & BIT(FE_PROTO_CONFIG))) return 0; /* the virtual machine monitor's business */
    int ret = frontend_ask(n->link, FE_GET_CONFIG, &msg, sizeof msg, &msg, sizeof msg, NULL, e);
    if (ret < 0) return ret;
    if (ret == sizeof msg) memcpy(&n->config, msg.c, sizeof msg.c);
    return 0;
}

static int start(struct netfe *n, struct netfe_queue *q, struct errmsg *e)
{
    struct frontend_ring r = {.index = q->index,
                              .size = q->size,
                              .desc = q->ring_desc,
                              .driver = q->ring_driver,
                              .device = q->ring_device,
                              .base = netfe_queue_base(q),
                              .kick_fd = q->kick_fd,
                              .call_fd = q->call_fd};
    int ret = frontend_start_ring(n->link, &r, e);
    if (ret == 0) netfe_kick(q);
    return ret;
}

static void fill_rx(struct netfe_queue *q)
{
    for (unsigned i = 0; i < q->slot_count; i++) {
        netfe_rx_give(q, i);
    }
    netfe_submit(q);
}

static int attach_once(struct netfe *n, struct errmsg *e)
{
    bool first = !n->link->attached_before;
    int ret = frontend_connect(n->link, e);
    if (ret == 0) ret = frontend_negotiate(n->link, e);
    if (ret == 0) ret = read_config(n, e);
    if (ret == 0 && first && !(n->link->features & BIT(VIRTIO_NET_F_MRG_RXBUF)) && n->args.offloads)
        ret = errmsg_set(e, ENOTSUP, "the back end has no MRG_RXBUF");
    if (ret == 0) ret = frontend_share_memory(n->link, e);
    n->features = n->link->features;
    for (unsigned i = 0; ret == 0 && first && i < n->args.pairs; i++) {
        netfe_queue_restart(&n->rx[i], n->features & BIT(VIRTIO_RING_F_EVENT_IDX));
        netfe_queue_restart(&n->tx[i], n->features & BIT(VIRTIO_RING_F_EVENT_IDX));
        fill_rx(&n->rx[i]);
    }
    for (unsigned i = 0; ret == 0 && i < n->args.pairs; i++) {
        ret = start(n, &n->rx[i], e);
        if (ret == 0) ret = start(n, &n->tx[i], e);
    }
    if (ret == 0) ret = frontend_driver_ok(n->link, e);
    if (ret < 0) frontend_hangup(n->link);
    return ret;
}

int netfe_attach(struct netfe *n, struct errmsg *e)
{
    int ret, tries = 0;
    do {
        ret = attach_once(n, e); /* a back end that ends in the middle may come back */
    } while (ret == -EPIPE && n->args.link.connect_wait_ms && ++tries < 20);
    return ret;
}

int netfe_detach(struct netfe *n, struct errmsg *e)
{
    return frontend_detach(n->link, e);
}
