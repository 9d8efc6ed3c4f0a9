/* SPDX-License-Identifier: Apache-2.0 */
/* The device: features, configuration space, and orders to its queues (control thread). */
#include "vif/vif.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"
#include "guest/notify.h"
#include "vif/vif_impl.h"

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

/* ---- for both directions ---- */

void vif_break(struct vif *v, unsigned queue, const char *why)
{
    log_limited(LOG_LEVEL_ERROR, "network card %s: queue %u broken by its guest: %s", v->config.name, queue, why);
    const char *expected = NULL;
    atomic_compare_exchange_strong(&v->broken_why, &expected, why); /* the first reason stays */
    atomic_fetch_or(&v->broken_queues, UINT64_C(1) << queue);
    uint64_t one = 1;
    ssize_t n = write(v->broken_fd, &one, sizeof one);
    (void)n;
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

/* Let senders know which receive queues there are. They may still come to one that has just been stopped, and find that out
 * under its lock. */
static void update_running(struct vif *v)
{
    uint64_t pairs = 0;
    unsigned receiving = 0, whole = 0;
    for (unsigned i = 0; i < v->config.queue_pairs; i++) {
        if (!v->rx[i].vq) continue;
        pairs |= (uint64_t)i << (4 * receiving++);
        whole += v->tx[i].runner != NULL;
    }
    atomic_store(&v->steer_pairs, pairs);
    atomic_store(&v->steer_count, receiving);
    atomic_store(&v->pairs_running, whole);
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

static void announce_now(struct vif *v)
{
    for (unsigned i = 0; i < v->config.queue_pairs; i++)
        if (v->tx[i].runner) {
            vif_tx_wake(&v->tx[i]);
            return;
        }
}

static void announce(struct vif *v)
{
    v->config.kept->announce = 1;
    atomic_store(&v->announce, true);
    announce_now(v);
}

/* The front end names the address; it is the card's, or none of ours. */
static void op_announce(void *device, const uint8_t mac[6])
{
    struct vif *v = device;
    if (memcmp(mac, v->config.mac, sizeof v->config.mac) == 0) announce(v);
}

static void op_reset(void *device, enum guest_reset kind)
{
    struct vif *v = device;
    uint64_t one = 1;
    op_set_features(v, 0);
    bool was_broken = atomic_exchange(&v->broken_why, NULL) != NULL;
    vif_broken_take(v);
    if (was_broken && write(v->broken_fd, &one, sizeof one) < 0)
        log_limited(LOG_LEVEL_WARN, "eventfd: %s", strerror(errno));
}

/* ---- the port ---- */

static bool port_link_up(struct port *p)
{
    struct vif *v = container_of(p, struct vif, port);
    return !atomic_load(&v->link_down) && atomic_load(&v->steer_count) > 0;
}

static bool port_mac(struct port *p, uint8_t mac[6])
{
    memcpy(mac, container_of(p, struct vif, port)->config.mac, 6);
    return true;
}

static void port_stats(struct port *p, struct port_stats *out)
{
    struct vif *v = container_of(p, struct vif, port);
    struct vif_stats s;
    vif_stats_read(v, &s);
    out->out_copied_bytes += s.rx_copied_bytes;
    out->in_errors += s.tx_invalid;
    for (unsigned i = 0; i < v->config.queue_pairs; i++)
        out->in_dropped += counter_read(&v->tx[i].count.dropped);
}

/* The card outlives its port's use; who made it frees it. */
static void port_free(struct port *p)
{
    (void)p;
}

static const struct port_ops vif_port_ops = {
    .type = "vif", .send = vif_send, .link_up = port_link_up, .mac = port_mac, .stats = port_stats, .free = port_free};

/* ---- life ---- */

_Static_assert(VIF_QUEUE_PAIRS_MAX <= 16, "four bits each in steer_pairs");
_Static_assert(VIF_QUEUE_PAIRS_MAX * 2 <= VHOST_QUEUES_MAX, "a bit each in broken_queues");

static int config_check(const struct vif_config *c, struct errmsg *e)
{
    assert(c->kept);
    if (c->queue_pairs < 1 || c->queue_pairs > VIF_QUEUE_PAIRS_MAX)
        return errmsg_set(e, EINVAL, "network card %s: %u queue pairs, expected 1 to %u", c->name, c->queue_pairs,
                          VIF_QUEUE_PAIRS_MAX);
    if (c->mtu < VIF_MTU_MIN)
        return errmsg_set(e, EINVAL, "network card %s: an MTU of %u, expected %u to %u", c->name, c->mtu, VIF_MTU_MIN,
                          VIF_MTU_MAX);
    if (c->mac[0] & 1)
        return errmsg_set(e, EINVAL, "network card %s: %02x:%02x:%02x:%02x:%02x:%02x is a group's address", c->name,
                          c->mac[0], c->mac[1], c->mac[2], c->mac[3], c->mac[4], c->mac[5]);
    return 0;
}

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

int vif_new(struct vif **out, const struct vif_config *c, const struct vif_runners *runners, struct errmsg *e)
{
    int ret = config_check(c, e);
    if (ret < 0) return ret;
    struct vif *v = aligned_alloc(64, align_up(sizeof *v, 64));
    struct vif_tx *tx = aligned_alloc(64, c->queue_pairs * sizeof *tx);
    struct vif_rx *rx = aligned_alloc(64, c->queue_pairs * sizeof *rx);
    int broken_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!v || !tx || !rx || broken_fd < 0) {
        ret = errmsg_sys(e, broken_fd < 0 ? errno : ENOMEM, "network card %s", c->name);
        if (broken_fd >= 0) close(broken_fd);
        free(v);
        free(tx);
        free(rx);
        return ret;
    }
    *v = (struct vif){.config = *c, .runners = *runners, .broken_fd = broken_fd, .tx = tx, .rx = rx};
    port_init(&v->port, &vif_port_ops, c->name);
    atomic_store(&v->port.mtu, c->mtu);
    atomic_store(&v->mtu, c->mtu);
    atomic_store(&v->link_down, c->kept->link_down != 0);
    atomic_store(&v->announce, c->kept->announce != 0);
    v->from_guest.start_ns = v->to_guest.start_ns = clock_now_ns();
    for (unsigned i = 0; i < c->queue_pairs; i++) {
        vif_tx_init(&tx[i], v, i);
        vif_rx_init(&rx[i], v, i);
    }
    vif_set_rate(v, c->from_guest, c->to_guest);
    ops_fill(v);
    *out = v;
    return 0;
}

void vif_free(struct vif *v)
{
    if (!v) return;
    for (unsigned i = 0; i < v->config.queue_pairs; i++) {
        vif_tx_stop(&v->tx[i]);
        vif_rx_stop(&v->rx[i]);
        pthread_mutex_destroy(&v->rx[i].lock);
    }
    close(v->broken_fd);
    free(v->tx);
    free(v->rx);
    free(v);
}

const struct guest_device_ops *vif_guest_ops(struct vif *v)
{
    return &v->ops;
}

struct port *vif_port(struct vif *v)
{
    return &v->port;
}

/* ---- changes ---- */

bool vif_set_link(struct vif *v, bool up)
{
    v->config.kept->link_down = !up;
    bool changed = atomic_exchange(&v->link_down, !up) == up;
    if (changed && up && atomic_load(&v->announce)) announce_now(v); /* it has waited for the link */
    return changed;
}

bool vif_set_mtu(struct vif *v, uint16_t mtu)
{
    assert(mtu >= VIF_MTU_MIN);
    atomic_store(&v->port.mtu, mtu);
    return atomic_exchange(&v->mtu, mtu) != mtu;
}

/* The driver is not asked: its answer would come through the control queue, which is the front end's. */
bool vif_announce(struct vif *v)
{
    announce(v);
    return false;
}

void vif_set_rate(struct vif *v, struct vif_rate from_guest, struct vif_rate to_guest)
{
    bool held_back = bucket_limits(&v->from_guest);
    bucket_set(&v->from_guest, from_guest.bits_per_s, from_guest.packets_per_s);
    bucket_set(&v->to_guest, to_guest.bits_per_s, to_guest.packets_per_s);
    /* They would wait for as long as the old limit said, which may be very long. */
    for (unsigned i = 0; held_back && i < v->config.queue_pairs; i++)
        vif_tx_wake(&v->tx[i]);
}

/* ---- looking at it ---- */

const char *vif_broken(struct vif *v)
{
    return atomic_load(&v->broken_why);
}

uint64_t vif_broken_take(struct vif *v)
{
    uint64_t count;
    ssize_t n = read(v->broken_fd, &count, sizeof count);
    (void)n; /* nothing new */
    return atomic_exchange(&v->broken_queues, 0);
}

int vif_broken_fd(struct vif *v)
{
    return v->broken_fd;
}

void vif_stats_read(struct vif *v, struct vif_stats *out)
{
    *out = (struct vif_stats){.pairs_running = atomic_load(&v->pairs_running)};
    for (unsigned i = 0; i < v->config.queue_pairs; i++) {
        const struct vif_tx *t = &v->tx[i];
        const struct vif_rx *r = &v->rx[i];
        out->tx_packets += counter_read(&t->count.packets);
        out->tx_bytes += counter_read(&t->count.bytes);
        out->tx_invalid += counter_read(&t->count.invalid);
        out->tx_copied_bytes += counter_read(&t->count.copied_bytes);
        out->tx_throttled += counter_read(&t->count.throttled);
        out->kicks += counter_read(&t->count.kicks);
        out->rx_packets += counter_read(&r->count.packets);
        out->rx_bytes += counter_read(&r->count.bytes);
        out->rx_no_buffer += counter_read(&r->count.no_buffer);
        out->rx_too_long += counter_read(&r->count.too_long);
        out->rx_limited += counter_read(&r->count.limited);
        out->rx_copied_bytes += counter_read(&r->count.copied_bytes);
        out->calls += counter_read(&t->count.calls) + counter_read(&r->count.calls);
    }
}
