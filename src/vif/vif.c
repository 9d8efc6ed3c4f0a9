/* SPDX-License-Identifier: Apache-2.0 */
/* What all cards have, whatever stands behind their port (control thread). */
#include "vif/vif.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"
#include "vif/vif_impl.h"

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

void vif_mend(struct vif *v)
{
    uint64_t one = 1;
    bool was_broken = atomic_exchange(&v->broken_why, NULL) != NULL;
    vif_broken_take(v);
    if (was_broken && write(v->broken_fd, &one, sizeof one) < 0)
        log_limited(LOG_LEVEL_WARN, "eventfd: %s", strerror(errno));
}

void vif_steer(struct vif *v, uint32_t receiving, unsigned whole)
{
    uint64_t pairs = 0;
    unsigned count = 0;
    for (uint64_t i = 0; i < v->config.queue_pairs; i++)
        if (receiving >> i & 1) pairs |= i << (4 * count++);
    atomic_store(&v->steer_pairs, pairs);
    atomic_store(&v->steer_count, count);
    atomic_store(&v->pairs_running, whole);
}

unsigned vif_police(struct vif *v, struct packet *const *packets, unsigned count, struct packet **within)
{
    struct bucket *b = &v->to_guest;
    uint64_t now = bucket_now(b);
    unsigned n = 0;
    for (unsigned i = 0; i < count; i++) {
        if (bucket_waits_until(b, now)) continue;
        struct vif_cost cost = vif_cost(packets[i]);
        bucket_charge(b, now, cost.packets, cost.bytes);
        within[n++] = packets[i];
    }
    return n;
}

/* ---- announcements ---- */

#define RARP_BYTES 60u
#define ANNOUNCE_GAP_NS NS_PER_SECOND /* it reaches all of a network, and a front end may ask for as many as it likes */

/* Ask the network to send to where the guest is now: a reverse ARP request of its address to itself, as who moves machines
 * does for them (vhost-user, SEND_RARP). */
void vif_announcement_make(struct vif *v, struct packet *p, uint8_t *f)
{
    static const uint8_t fixed[] = {0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};
    const uint8_t *mac = v->config.mac;
    *p = (struct packet){.head = f, .head_bytes = RARP_BYTES, .room_bytes = PACKET_ROOM_BYTES};
    p->length_bytes = RARP_BYTES;
    p->l3_at = p->l4_at = PACKET_NO_LAYER;
    memset(f, 0, RARP_BYTES);
    memset(f, 0xff, 6);
    memcpy(f + 6, mac, 6);
    memcpy(f + 12, fixed, sizeof fixed);
    memcpy(f + 22, mac, 6);
    memcpy(f + 32, mac, 6);
    v->config.kept->announce = 0;
    atomic_store_explicit(&v->announce_after_ns, clock_now_ns() + ANNOUNCE_GAP_NS, memory_order_relaxed);
}

static void announce_now(struct vif *v)
{
    for (unsigned i = 0; i < v->config.queue_pairs; i++)
        if (v->kind->wake(v, i)) return;
}

void vif_announce_due(struct vif *v)
{
    v->config.kept->announce = 1;
    atomic_store(&v->announce, true);
    announce_now(v);
}

/* ---- the port ---- */

bool vif_port_link_up(struct port *p)
{
    struct vif *v = container_of(p, struct vif, port);
    return !atomic_load(&v->link_down) && atomic_load(&v->steer_count) > 0;
}

bool vif_port_mac(struct port *p, uint8_t mac[6])
{
    memcpy(mac, container_of(p, struct vif, port)->config.mac, 6);
    return true;
}

void vif_port_stats(struct port *p, struct port_stats *out)
{
    struct vif *v = container_of(p, struct vif, port);
    struct vif_stats s;
    vif_stats_read(v, &s);
    out->out_copied_bytes += s.rx_copied_bytes;
    out->in_errors += s.tx_invalid;
    out->in_dropped += s.tx_dropped;
}

/* The card outlives its port's use; who made it frees it. */
void vif_port_free(struct port *p)
{
    (void)p;
}

/* ---- life ---- */

_Static_assert(VIF_QUEUE_PAIRS_MAX <= 16, "four bits each in steer_pairs");
_Static_assert(VIF_QUEUE_PAIRS_MAX * 2 <= 64, "a bit each in broken_queues");

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

int vif_new(struct vif **out, const struct vif_config *c, const struct vif_runners *runners, struct errmsg *e)
{
    int ret = config_check(c, e);
    if (ret < 0) return ret;
    struct vif *v = aligned_alloc(64, align_up(sizeof *v, 64));
    if (!v) return errmsg_set(e, ENOMEM, "network card %s: out of memory", c->name);
    *v = (struct vif){.config = *c, .runners = *runners, .broken_fd = -1};
    v->kind = c->xen ? &vif_netif_kind : &vif_virtio_kind;
    port_init(&v->port, v->kind->port_ops, c->name);
    atomic_store(&v->port.mtu, c->mtu);
    atomic_store(&v->mtu, c->mtu);
    atomic_store(&v->link_down, c->kept->link_down != 0);
    atomic_store(&v->announce, c->kept->announce != 0);
    v->from_guest.start_ns = v->to_guest.start_ns = clock_now_ns();
    v->from_guest.burst_ns = BUCKET_BURST_NS;
    v->to_guest.burst_ns = BUCKET_LOSSY_BURST_NS;
    v->broken_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ret = v->broken_fd < 0 ? errmsg_sys(e, errno, "network card %s", c->name) : v->kind->make(v, e);
    if (ret < 0) {
        vif_free(v);
        return ret;
    }
    vif_set_rate(v, c->from_guest, c->to_guest);
    *out = v;
    return 0;
}

void vif_free(struct vif *v)
{
    if (!v) return;
    v->kind->unmake(v);
    if (v->broken_fd >= 0) close(v->broken_fd);
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
    vif_announce_due(v);
    return false;
}

void vif_set_rate(struct vif *v, struct vif_rate from_guest, struct vif_rate to_guest)
{
    bool held_back = bucket_limits(&v->from_guest);
    bucket_set(&v->from_guest, from_guest.bits_per_s, from_guest.packets_per_s);
    bucket_set(&v->to_guest, to_guest.bits_per_s, to_guest.packets_per_s);
    /* They would wait for as long as the old limit said, which may be very long. */
    for (unsigned i = 0; held_back && i < v->config.queue_pairs; i++)
        v->kind->wake(v, i);
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

void vif_stats_add(struct vif_stats *out, const struct vif_tx_counts *t, const struct vif_rx_counts *r)
{
    out->tx_packets += counter_read(&t->packets);
    out->tx_bytes += counter_read(&t->bytes);
    out->tx_invalid += counter_read(&t->invalid);
    out->tx_dropped += counter_read(&t->dropped);
    out->tx_copied_bytes += counter_read(&t->copied_bytes);
    out->tx_throttled += counter_read(&t->throttled);
    out->kicks += counter_read(&t->kicks);
    out->rx_packets += counter_read(&r->packets);
    out->rx_bytes += counter_read(&r->bytes);
    out->rx_no_buffer += counter_read(&r->no_buffer);
    out->rx_too_long += counter_read(&r->too_long);
    out->rx_limited += counter_read(&r->limited);
    out->rx_copied_bytes += counter_read(&r->copied_bytes);
    out->calls += counter_read(&t->calls) + counter_read(&r->calls);
}

void vif_stats_read(struct vif *v, struct vif_stats *out)
{
    *out = (struct vif_stats){.pairs_running = atomic_load(&v->pairs_running)};
    v->kind->stats(v, out);
}
