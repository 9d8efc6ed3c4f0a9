/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net: what is offered, and the session's orders to the queues (control thread). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "guest/notify.h"
#include "vif/virtio.h"

#define OFFLOADS                                                                                                       \
    (BIT64(VIRTIO_NET_F_CSUM) | BIT64(VIRTIO_NET_F_GUEST_CSUM) | BIT64(VIRTIO_NET_F_GUEST_TSO4) |                      \
     BIT64(VIRTIO_NET_F_GUEST_TSO6) | BIT64(VIRTIO_NET_F_GUEST_ECN) | BIT64(VIRTIO_NET_F_HOST_TSO4) |                  \
     BIT64(VIRTIO_NET_F_HOST_TSO6) | BIT64(VIRTIO_NET_F_HOST_ECN) | BIT64(VIRTIO_NET_F_GUEST_USO4) |                   \
     BIT64(VIRTIO_NET_F_GUEST_USO6) | BIT64(VIRTIO_NET_F_HOST_USO))

/*
 * A control queue is not offered: User-mode Linux would spin for its answers, and other front ends serve it themselves. A
 * driver refuses a card that offers what needs a control queue without offering that (Linux, virtnet_validate()),
 * so MQ and GUEST_ANNOUNCE are for cards of several pairs only, whose front end has the queue: it adds CTRL_VQ, and it is also
 * who tells the driver to announce itself.
 */
static uint64_t features_of(const struct vif_config *c)
{
    uint64_t f = BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_F_RING_INDIRECT_DESC) | BIT64(VIRTIO_F_RING_EVENT_IDX) |
                 BIT64(VIRTIO_NET_F_MRG_RXBUF) | BIT64(VIRTIO_NET_F_MAC) | BIT64(VIRTIO_NET_F_STATUS) |
                 BIT64(VIRTIO_NET_F_MTU);
    if (c->offloads) f |= OFFLOADS;
    if (c->packed) f |= BIT64(VIRTIO_F_RING_PACKED);
    if (c->in_order) f |= BIT64(VIRTIO_F_IN_ORDER);
    if (c->queue_pairs > 1) f |= BIT64(VIRTIO_NET_F_MQ) | BIT64(VIRTIO_NET_F_GUEST_ANNOUNCE);
    return f;
}

unsigned vif_header_bytes(uint64_t features)
{
    bool modern = features & (BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_NET_F_MRG_RXBUF));
    return modern ? sizeof(struct virtio_net_hdr) : VIRTIO_NET_HDR_LEGACY_BYTES;
}

/* What a driver of these features takes as it is. Segmentation needs checksums (5.1.3.1). */
static uint32_t takes_of(uint64_t features)
{
    static const struct {
        unsigned feature;
        uint32_t takes;
    } gso[] = {{VIRTIO_NET_F_GUEST_TSO4, PORT_TAKES_TSO4},
               {VIRTIO_NET_F_GUEST_TSO6, PORT_TAKES_TSO6},
               {VIRTIO_NET_F_GUEST_USO4, PORT_TAKES_USO4},
               {VIRTIO_NET_F_GUEST_USO6, PORT_TAKES_USO6}};
    if (!(features & BIT64(VIRTIO_NET_F_GUEST_CSUM))) return 0;
    uint32_t takes = PORT_TAKES_CSUM;
    for (unsigned i = 0; i < ARRAY_LEN(gso); i++)
        if (features & BIT64(gso[i].feature)) takes |= gso[i].takes;
    return takes;
}

void vif_call_set(struct vif_call *c, int fd)
{
    c->fd = fd;
    c->kind = fd >= 0 ? guest_fd_kind(fd) : 0;
}

void vif_call_driver(const struct vif_call *c)
{
    guest_notify(c->fd, c->kind);
}

/* ---- the session's orders ---- */

static int op_set_features(void *device, uint64_t features)
{
    struct vif *v = device;
    v->features = features;
    atomic_store(&v->port.takes, takes_of(features));
    return 0;
}

static void op_get_config(void *device, uint8_t *config)
{
    struct vif *v = device;
    struct virtio_net_config c = {
        .status = le16_make((uint16_t)(atomic_load(&v->link_down) ? 0 : VIRTIO_NET_S_LINK_UP)),
        .max_virtqueue_pairs = le16_make((uint16_t)v->config.queue_pairs),
        .mtu = le16_make((uint16_t)atomic_load(&v->mtu)),
    };
    memcpy(c.mac, v->config.mac, sizeof c.mac);
    memcpy(config, &c, sizeof c);
}

/* Nothing may be written: the address belongs to who configured the card. */
static int op_set_config(void *device, uint32_t offset, uint32_t length, const uint8_t *data)
{
    return -EINVAL;
}

static void update_running(struct vif *v)
{
    uint32_t receiving = 0;
    unsigned whole = 0;
    for (unsigned i = 0; i < v->config.queue_pairs; i++) {
        if (!v->rx[i].vq) continue;
        receiving |= 1u << i;
        whole += v->tx[i].runner != NULL;
    }
    vif_steer(v, receiving, whole);
}

static int op_queue_start(void *device, const struct guest_queue *q, struct guest_map *map)
{
    struct vif *v = device;
    unsigned pair = q->index / 2;
    if (pair >= v->config.queue_pairs) return -EINVAL;
    int ret = q->index % 2 ? vif_tx_start(&v->tx[pair], q, map) : vif_rx_start(&v->rx[pair], q, map);
    update_running(v);
    return ret;
}

static uint32_t op_queue_stop(void *device, unsigned index)
{
    struct vif *v = device;
    unsigned pair = index / 2;
    if (pair >= v->config.queue_pairs) return 0;
    uint32_t base = index % 2 ? vif_tx_stop(&v->tx[pair]) : vif_rx_stop(&v->rx[pair]);
    update_running(v);
    return base;
}

static void op_queue_set_call(void *device, unsigned index, int call_fd)
{
    struct vif *v = device;
    unsigned pair = index / 2;
    if (pair >= v->config.queue_pairs) return;
    if (index % 2) vif_tx_set_call(&v->tx[pair], call_fd);
    else vif_rx_set_call(&v->rx[pair], call_fd);
}

static void op_set_map(void *device, struct guest_map *map, bool grows)
{
    struct vif *v = device;
    for (unsigned i = 0; i < v->config.queue_pairs; i++) {
        vif_tx_set_map(&v->tx[i], map);
        vif_rx_set_map(&v->rx[i], map);
    }
}

/* The front end names the address; it is the card's, or none of ours. */
static void op_announce(void *device, const uint8_t mac[6])
{
    struct vif *v = device;
    if (memcmp(mac, v->config.mac, sizeof v->config.mac) == 0) vif_announce_due(v);
}

static void op_reset(void *device, enum guest_reset kind)
{
    struct vif *v = device;
    op_set_features(v, 0);
    vif_mend(v);
}

/* ---- the kind ---- */

_Static_assert(VIF_QUEUE_PAIRS_MAX * 2 <= VHOST_QUEUES_MAX, "a session has that many");

static void ops_fill(struct vif *v)
{
    v->ops = (struct guest_device_ops){
        .queues_max = v->config.queue_pairs * 2,
        .config_bytes = sizeof(struct virtio_net_config),
        .features = features_of(&v->config),
        .in_order = true,
        .set_features = op_set_features,
        .get_config = op_get_config,
        .set_config = op_set_config,
        .queue_start = op_queue_start,
        .queue_stop = op_queue_stop,
        .queue_set_call = op_queue_set_call,
        .set_map = op_set_map,
        .announce = op_announce,
        .reset = op_reset,
    };
}

static int make(struct vif *v, struct errmsg *e)
{
    v->tx = aligned_alloc(64, v->config.queue_pairs * sizeof *v->tx);
    v->rx = aligned_alloc(64, v->config.queue_pairs * sizeof *v->rx);
    if (!v->tx || !v->rx) {
        free(v->tx);
        free(v->rx);
        v->tx = NULL;
        return errmsg_set(e, ENOMEM, "network card %s: out of memory", v->config.name);
    }
    for (unsigned i = 0; i < v->config.queue_pairs; i++) {
        vif_tx_init(&v->tx[i], v, i);
        vif_rx_init(&v->rx[i], v, i);
    }
    ops_fill(v);
    return 0;
}

static void unmake(struct vif *v)
{
    if (!v->tx) return;
    for (unsigned i = 0; i < v->config.queue_pairs; i++) {
        vif_tx_stop(&v->tx[i]);
        vif_rx_stop(&v->rx[i]);
        pthread_mutex_destroy(&v->rx[i].lock);
    }
    free(v->tx);
    free(v->rx);
}

static bool wake(struct vif *v, unsigned pair)
{
    vif_tx_wake(&v->tx[pair]);
    return v->tx[pair].runner != NULL;
}

static void stats(struct vif *v, struct vif_stats *out)
{
    for (unsigned i = 0; i < v->config.queue_pairs; i++)
        vif_stats_add(out, &v->tx[i].count, &v->rx[i].count);
}

static const struct port_ops port_ops = {.type = "vif",
                                         .send = vif_send,
                                         .link_up = vif_port_link_up,
                                         .mac = vif_port_mac,
                                         .stats = vif_port_stats,
                                         .free = vif_port_free};

const struct vif_kind vif_virtio_kind = {
    .port_ops = &port_ops, .make = make, .unmake = unmake, .wake = wake, .stats = stats};
