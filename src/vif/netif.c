/* SPDX-License-Identifier: Apache-2.0 */
/* Connecting a netfront to its card, and disconnecting it (control thread). */
#include "vif/netif.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "vif/netif_impl.h"

size_t netif_state_bytes(unsigned queues)
{
    return offsetof(struct netif_state, queue) + queues * sizeof(struct netif_state_queue);
}

/* ---- one queue ---- */

static int map_page(struct netif_queue *q, uint32_t ref, const char *what, void **out, struct errmsg *e)
{
    int ret = 0;
    *out = q->xen->ops->map_ring(q->xen, q->vif->netif->config.domid, &ref, 1, &ret);
    if (*out) return 0;
    return errmsg_sys(e, -ret, "network card %s: queue %u: its %s ring (grant %u)", q->vif->config.name, q->pair, what,
                      ref);
}

static int bind_port(struct netif_queue *q, uint32_t remote, int *out, struct errmsg *e)
{
    *out = q->xen->ops->bind(q->xen, q->vif->netif->config.domid, remote);
    if (*out > 0) return 0;
    return errmsg_sys(e, *out ? -*out : EINVAL, "network card %s: queue %u: its event channel %u", q->vif->config.name,
                      q->pair, remote);
}

/* Harmless where nothing is. */
static void queue_close(struct netif_queue *q)
{
    netif_tx_halt(q);
    pthread_mutex_lock(&q->rx.lock);
    netif_rx_free(q->rx.ring);
    q->rx.ring = NULL;
    pthread_mutex_unlock(&q->rx.lock);
    netif_tx_free(q->tx.ring);
    q->tx.ring = NULL;
    if (q->rx.port > 0 && q->rx.port != q->tx.port) q->xen->ops->unbind(q->xen, q->rx.port);
    if (q->tx.port > 0) q->xen->ops->unbind(q->xen, q->tx.port);
    q->tx.port = q->rx.port = 0;
    q->xen->ops->unmap_ring(q->xen, q->tx.page, 1);
    q->xen->ops->unmap_ring(q->xen, q->rx.page, 1);
    q->tx.page = q->rx.page = NULL;
}

/* Is what was kept of these rings? Then it says where they stand. */
static bool is_same(const struct netif_queue *q, const struct netif_queue_setup *s)
{
    const struct netif_state_queue *k = &q->vif->netif->config.state->queue[q->pair];
    return k->domid == q->vif->netif->config.domid && memcmp(&k->setup, s, sizeof *s) == 0;
}

static void keep_setup(struct netif_queue *q, const struct netif_queue_setup *s)
{
    struct netif_state_queue *k = &q->vif->netif->config.state->queue[q->pair];
    memset(k, 0, sizeof *k);
    k->domid = q->vif->netif->config.domid;
    k->setup = *s;
}

static int rings_open(struct netif_queue *q, const struct netif_queue_setup *s, bool resume, struct errmsg *e)
{
    struct netif_state_queue *k = &q->vif->netif->config.state->queue[q->pair];
    if (!resume || !is_same(q, s)) keep_setup(q, s);
    struct netif_setup tx = {.ring = q->tx.page, .kept = &k->tx, .resume = resume};
    struct netif_setup rx = {.ring = q->rx.page, .kept = &k->rx, .resume = resume};
    struct netif_rx *ring;
    int ret = netif_tx_new(&q->tx.ring, &tx, e);
    if (ret == 0) ret = netif_rx_new(&ring, &rx, e);
    if (ret < 0) return ret;
    pthread_mutex_lock(&q->rx.lock);
    q->rx.broken = false;
    q->rx.sg = q->vif->netif->front.sg;
    q->rx.ring = ring;
    /* Was the guest told of the last process's publications? */
    if (netif_rx_publish(ring)) q->xen->ops->notify(q->xen, q->rx.port);
    pthread_mutex_unlock(&q->rx.lock);
    if (netif_tx_publish(q->tx.ring)) q->xen->ops->notify(q->xen, q->tx.port);
    return 0;
}

static int queue_open(struct netif_queue *q, const struct netif_queue_setup *s, bool resume, struct errmsg *e)
{
    int ret = map_page(q, s->tx_ref, "transmit", &q->tx.page, e);
    if (ret == 0) ret = map_page(q, s->rx_ref, "receive", &q->rx.page, e);
    if (ret == 0) ret = bind_port(q, s->tx_port, &q->tx.port, e);
    if (ret == 0 && s->rx_port != s->tx_port) ret = bind_port(q, s->rx_port, &q->rx.port, e);
    else q->rx.port = q->tx.port;
    if (ret == 0) ret = rings_open(q, s, resume, e);
    if (ret < 0) return ret;
    ret = netif_tx_run(q);
    return ret < 0 ? errmsg_sys(e, -ret, "network card %s: queue %u: its thread", q->vif->config.name, q->pair) : 0;
}

/* ---- the card ---- */

/* Frames of IPv6 cannot be told from others here: who cannot take those without a checksum gets none without. */
static uint32_t takes_of(const struct netif_front *f)
{
    if (!f->csum_offload || !f->csum_offload6) return 0;
    return PORT_PLAIN_OFFLOADS | PORT_TAKES_CSUM | (f->sg && f->gso_tcp4 ? PORT_TAKES_TSO4 : 0) |
           (f->sg && f->gso_tcp6 ? PORT_TAKES_TSO6 : 0);
}

/* What was kept stays: of a process that ends, for its successor. */
static void close_all(struct vif *v)
{
    struct netif_card *c = v->netif;
    if (!c->queues) return;
    vif_steer(v, 0, 0);
    netif_control_close(v);
    for (unsigned i = 0; i < c->queues; i++)
        queue_close(&c->queue[i]);
    c->queues = 0;
    atomic_store(&c->filter, false);
    atomic_store(&v->port.takes, PORT_TAKES_ALL); /* for nobody a frame need not be cut up before it is dropped */
    vif_mend(v);
}

int netif_connect(struct vif *v, const struct netif_front *front, const struct netif_queue_setup *queues,
                  unsigned count, const struct netif_control_setup *control, bool resume, struct errmsg *e)
{
    struct netif_card *c = v->netif;
    int ret = 0;
    if (c->queues) return errmsg_set(e, EISCONN, "network card %s is connected already", v->config.name);
    if (count < 1 || count > v->config.queue_pairs)
        return errmsg_set(e, EINVAL, "network card %s: %u queues, expected 1 to %u", v->config.name, count,
                          v->config.queue_pairs);
    c->front = *front;
    c->queues = count;
    if (!resume) netif_multicast_clear(c);
    atomic_store(&c->filter, front->multicast_control);
    atomic_store(&v->port.takes, v->config.offloads ? takes_of(front) : 0);
    for (unsigned i = 0; ret == 0 && i < count; i++)
        ret = queue_open(&c->queue[i], &queues[i], resume, e);
    if (ret == 0) ret = netif_control_open(v, control, resume, e);
    if (ret < 0) {
        close_all(v);
        return ret;
    }
    vif_steer(v, (UINT32_C(1) << count) - 1, count);
    return 0;
}

/* Who comes next may have new rings in the same pages: where the old ones stood is no longer true of them. */
static void forget(struct vif *v)
{
    struct netif_state *s = v->netif->config.state;
    netif_multicast_clear(v->netif);
    memset(&s->hash, 0, sizeof s->hash);
    for (unsigned i = 0; i < v->config.queue_pairs; i++)
        memset(&s->queue[i], 0, offsetof(struct netif_state_queue, static_grant));
}

void netif_disconnect(struct vif *v)
{
    if (!v->netif->queues) return;
    close_all(v);
    forget(v);
}

bool netif_connected(const struct vif *v)
{
    return v->netif->queues > 0;
}

void netif_multicast_control(struct vif *v, bool on)
{
    struct netif_card *c = v->netif;
    if (!c->queues) return;
    c->front.multicast_control = on;
    atomic_store(&c->filter, on);
}

/* ---- the kind ---- */

static bool maps(const struct netif_card *c)
{
    return c->config.transmit == NETIF_MAP && c->config.mappers;
}

static void unmake(struct vif *v)
{
    struct netif_card *c = v->netif;
    if (!c) return;
    close_all(v);
    if (maps(c)) atomic_fetch_sub(c->config.mappers, 1);
    for (unsigned i = 0; c->queue && i < v->config.queue_pairs; i++) {
        netif_tx_side_unmake(&c->queue[i]);
        netif_rx_side_unmake(&c->queue[i]);
        xen_close(c->queue[i].xen);
    }
    xen_close(c->control.xen);
    pthread_mutex_destroy(&c->groups_lock);
    free(c->queue);
    free(c);
    v->netif = NULL;
}

static int queue_make(struct netif_queue *q, struct vif *v, unsigned pair, struct errmsg *e)
{
    memset(q, 0, sizeof *q);
    q->vif = v;
    q->pair = pair;
    int ret = netif_rx_side_make(q); /* its lock first */
    if (ret == 0) ret = netif_tx_side_make(q);
    if (ret < 0) return errmsg_sys(e, -ret, "network card %s", v->config.name);
    return v->netif->config.open(v->netif->config.arg, v->netif->config.domid, &q->xen, e);
}

static int make(struct vif *v, struct errmsg *e)
{
    unsigned pairs = v->config.queue_pairs, made = 0;
    int ret = 0;
    struct netif_card *c = v->netif = calloc(1, sizeof *c);
    if (c) c->queue = aligned_alloc(64, pairs * sizeof *c->queue);
    if (c) pthread_mutex_init(&c->groups_lock, NULL);
    if (!c || !c->queue) return errmsg_set(e, ENOMEM, "network card %s: out of memory", v->config.name);
    c->config = *v->config.xen;
    if (maps(c)) atomic_fetch_add(c->config.mappers, 1);
    while (ret == 0 && made < pairs)
        ret = queue_make(&c->queue[made], v, made, e), made++;
    if (ret == 0) ret = c->config.open(c->config.arg, c->config.domid, &c->control.xen, e);
    atomic_store(&v->port.takes, PORT_TAKES_ALL);
    if (ret == 0) return 0;
    while (made > 0) {
        struct netif_queue *q = &c->queue[--made];
        netif_tx_side_unmake(q);
        netif_rx_side_unmake(q);
        xen_close(q->xen);
    }
    free(c->queue);
    c->queue = NULL;
    return ret;
}

static bool wake(struct vif *v, unsigned pair)
{
    struct netif_queue *q = &v->netif->queue[pair];
    if (!q->runner) return false;
    runner_remove(&q->source); /* a source that joins is looked at */
    int ret = runner_add(q->runner, &q->source);
    if (ret < 0) log_error("network card %s: transmit queue %u is lost: %s", v->config.name, pair, strerror(-ret));
    return true;
}

static void stats(struct vif *v, struct vif_stats *out)
{
    for (unsigned i = 0; i < v->config.queue_pairs; i++) {
        const struct netif_queue *q = &v->netif->queue[i];
        vif_stats_add(out, &q->tx.count, &q->rx.count);
        out->tx_bad_grants += counter_read(&q->tx.bad_grants);
        out->rx_bad_grants += counter_read(&q->rx.bad_grants);
    }
}

static const struct port_ops port_ops = {.type = "vif",
                                         .send = netif_send,
                                         .link_up = vif_port_link_up,
                                         .mac = vif_port_mac,
                                         .stats = vif_port_stats,
                                         .free = vif_port_free};

const struct vif_kind vif_netif_kind = {
    .port_ops = &port_ops, .make = make, .unmake = unmake, .wake = wake, .stats = stats};
