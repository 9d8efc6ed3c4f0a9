/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A transmit queue as a source of frames.
 *
 * A batch is popped first, every chain of it, and the lines that are about to be read are asked for; then header and the
 * first bytes of each frame are copied into private heads, wherever the driver's buffers begin and end. The rest of a
 * frame stays where it is, as entries of the arena that the chain was popped into. Frames that are not sound are counted
 * and given back with the others, in their place, so that everything is returned in the order in which it came.
 *
 * A rate limit takes no more than it allows: what is over it stays in the ring, where the guest's own queue
 * discipline sees it.
 *
 * Only a violation of the ring's own rules breaks the card.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "base/log.h"
#include "guest/notify.h"
#include "vif/virtio.h"

#define HEAD_STRIDE (PACKET_ROOM_BYTES + PACKET_HEAD_BYTES)
#define KICK_READS 64u /* of a pipe or socket that the guest kicks through, at one wake-up */

static struct vif_tx *tx_of(struct port_source *s)
{
    return container_of(s, struct vif_tx, source);
}

/* ---- one frame ---- */

/* Take n bytes off the front of the entries, to dst. They are there. */
static void pull(struct iovec **iov, unsigned *count, void *dst, size_t n)
{
    uint8_t *to = dst;
    while (n > 0) {
        struct iovec *v = *iov;
        size_t part = v->iov_len < n ? v->iov_len : n;
        memcpy(to, v->iov_base, part);
        to += part;
        n -= part;
        v->iov_base = (uint8_t *)v->iov_base + part;
        v->iov_len -= part;
        if (v->iov_len == 0) {
            ++*iov;
            --*count;
        }
    }
}

/* Header and head out of the entries; what is left of them is the body. */
static inline void copy_front(const struct vif_tx *t, struct virtio_net_hdr *h, struct packet *p, struct iovec *iov,
                              unsigned count)
{
    size_t front = t->header_bytes + p->head_bytes;
    if (likely(iov->iov_len >= front)) {
        const uint8_t *from = iov->iov_base;
        memcpy(h, from, VIRTIO_NET_HDR_LEGACY_BYTES);
        vif_copy_head(p->head, from + t->header_bytes, p->head_bytes);
        iov->iov_base = (uint8_t *)iov->iov_base + front;
        iov->iov_len -= front;
        if (iov->iov_len == 0) {
            iov++;
            count--;
        }
    } else {
        pull(&iov, &count, h, t->header_bytes);
        pull(&iov, &count, p->head, p->head_bytes);
    }
    p->body = iov;
    p->body_count = count;
}

static void copy_body(struct vif_tx *t, struct packet *p, unsigned slot)
{
    uint8_t *to = t->copies + (size_t)slot * VIF_COPY_BYTES;
    size_t bytes = 0;
    for (unsigned i = 0; i < p->body_count; i++) {
        memcpy(to + bytes, p->body[i].iov_base, p->body[i].iov_len);
        bytes += p->body[i].iov_len;
    }
    /* The entries are ours: the first one's place holds the only one. */
    struct iovec *only = (struct iovec *)(uintptr_t)p->body;
    *only = (struct iovec){to, bytes};
    p->body_count = bytes ? 1 : 0;
    counter_add(&t->count.copied_bytes, bytes);
}

/* False: it is dropped. */
static inline bool take_frame(struct vif_tx *t, const struct virtq_chain *c, struct iovec *iov, struct packet *p,
                              unsigned slot)
{
    struct virtio_net_hdr h;
    if (unlikely(c->out_bytes < t->header_bytes + VIF_ETH_BYTES || c->out_bytes > t->header_bytes + PACKET_MAX_BYTES))
        return false;
    p->length_bytes = (uint32_t)(c->out_bytes - t->header_bytes);
    p->head_bytes = (uint16_t)(p->length_bytes < PACKET_HEAD_BYTES ? p->length_bytes : PACKET_HEAD_BYTES);
    p->room_bytes = PACKET_ROOM_BYTES;
    p->head = t->heads + (size_t)slot * HEAD_STRIDE + PACKET_ROOM_BYTES;
    p->l3_at = p->l4_at = PACKET_NO_LAYER;
    p->hash = 0;
    copy_front(t, &h, p, iov, c->out_count);
    if (unlikely(p->body_count > PACKET_BODY_IOV_MAX)) return false;
    if (!vif_header_parse(&h, t->features, p)) return false;
    if (unlikely(t->copies) && p->body_count) copy_body(t, p, slot);
    return true;
}

/* ---- a batch ---- */

static void give_back(struct vif_tx *t)
{
    if (t->chain_count == 0) return;
    virtq_push_many(t->vq, t->chain, NULL, t->chain_count);
    t->chain_count = 0;
    if (!virtq_publish(t->vq)) return;
    counter_add(&t->count.calls, 1);
    vif_call_driver(&t->call);
}

static int broke(struct vif_tx *t, const char *why)
{
    t->broken = true;
    virtq_break(t->vq, why);
    vif_break(t->vif, t->pair * 2 + 1, why);
    return -EPROTO;
}

/* True: the limit says that the next frame must wait. */
static bool limited(struct vif_tx *t, uint64_t now)
{
    struct bucket *b = &t->vif->from_guest;
    uint64_t until = bucket_waits_until(b, now);
    if (until == 0) return false;
    t->source.not_before_ns = bucket_ns(b, until);
    counter_add(&t->count.throttled, 1);
    return true;
}

/* As virtq_pop_many(), no more than the limit allows. */
static int pop_limited(struct vif_tx *t, unsigned max)
{
    struct bucket *b = &t->vif->from_guest;
    uint64_t now = bucket_now(b);
    unsigned n = 0, used = 0;
    int ret = 0;
    while (n < max && !limited(t, now)) {
        struct virtq_chain *c = &t->chain[n];
        ret = virtq_pop(t->vq, c, t->iov + used, t->iov_max - used);
        if (ret <= 0) break;
        used += c->out_count + c->in_count;
        bucket_charge(b, now, 1, (uint32_t)min_u64(c->out_bytes, UINT32_MAX)); /* the rest in charge_segments() */
        n++;
    }
    return n ? (int)n : ret;
}

/* How many chains, up to max, or -EPROTO when there is none before what is wrong. */
static int pop_batch(struct vif_tx *t, unsigned max)
{
    int n = unlikely(bucket_limits(&t->vif->from_guest)) ? pop_limited(t, max)
                                                         : virtq_pop_many(t->vq, t->chain, max, t->iov, t->iov_max);
    if (unlikely(n == -E2BIG)) return broke(t, "a frame in more pieces than the queue has descriptors");
    if (unlikely(n < 0)) return broke(t, virtq_broken(t->vq));
    t->chain_count = (unsigned)n;
    return n;
}

static unsigned make_announcement(struct vif_tx *t, struct packet **out)
{
    out[0] = &t->packet[0];
    vif_announcement_make(t->vif, out[0], t->heads + PACKET_ROOM_BYTES);
    return 1;
}

/* What pop_limited() could not know yet: that the frame is several, each with headers. */
static void charge_segments(struct vif_tx *t, const struct packet *p)
{
    struct bucket *b = &t->vif->from_guest;
    if (!bucket_limits(b)) return;
    struct vif_cost cost = vif_cost(p);
    bucket_charge(b, bucket_now(b), cost.packets - 1, cost.bytes - p->length_bytes);
}

/* Those of the batch that are sound, in out[]. */
static unsigned take_batch(struct vif_tx *t, unsigned count, struct packet **out)
{
    struct iovec *iov = t->iov;
    unsigned n = 0;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        struct packet *p = &t->packet[i];
        const struct virtq_chain *c = &t->chain[i];
        bool sound = take_frame(t, c, iov, p, i);
        iov += c->out_count + c->in_count;
        if (unlikely(!sound)) continue;
        if (p->offload.gso) charge_segments(t, p);
        bytes += p->length_bytes;
        out[n++] = p;
    }
    counter_add(&t->count.packets, n);
    counter_add(&t->count.bytes, bytes);
    if (unlikely(n < count)) counter_add(&t->count.invalid, count - n);
    return n;
}

static int receive(struct port_source *s, struct packet **out, unsigned max, struct packet_pool *pool)
{
    struct vif_tx *t = tx_of(s);
    struct vif *v = t->vif;
    s->not_before_ns = 0;
    if (unlikely(t->broken)) return -EPROTO;
    if (unlikely(vif_announcement_is_due(v)) && atomic_exchange(&v->announce, false))
        return (int)make_announcement(t, out);
    int count = pop_batch(t, max < PACKET_BATCH ? max : PACKET_BATCH);
    if (count <= 0) return count;
    unsigned n = take_batch(t, (unsigned)count, out);
    if (unlikely(guest_map_truncated(t->map))) return broke(t, "the guest's memory was cut short");
    if (unlikely(atomic_load_explicit(&v->link_down, memory_order_relaxed))) {
        counter_add(&t->count.dropped, n);
        n = 0;
    }
    if (n == 0) give_back(t);
    return (int)n;
}

static void release(struct port_source *s)
{
    give_back(tx_of(s));
}

/* ---- sleeping ---- */

static bool arm(struct port_source *s)
{
    struct vif_tx *t = tx_of(s);
    if (t->broken) return false;
    if (vif_announcement_is_due(t->vif)) return true;
    if (vif_announcement_waits(t->vif))
        s->look_at_ns = atomic_load_explicit(&t->vif->announce_after_ns, memory_order_relaxed);
    /* Held back by its limit: the time matters, not the guest's kicks. */
    if (s->not_before_ns) return false;
    return virtq_kick_enable(t->vq);
}

static void disarm(struct port_source *s)
{
    struct vif_tx *t = tx_of(s);
    if (!t->broken) virtq_kick_disable(t->vq);
}

static void woken(struct port_source *s)
{
    struct vif_tx *t = tx_of(s);
    char buf[1024];
    counter_add(&t->count.kicks, 1);
    unsigned reads = t->kick_kind == 0 ? 1 : KICK_READS; /* an eventfd is empty after one */
    while (reads > 0 && guest_notify_take(s->fd, t->kick_kind, buf, sizeof buf) > 0)
        reads--;
}

static const struct port_source_ops tx_ops = {
    .receive = receive, .release = release, .arm = arm, .disarm = disarm, .woken = woken};

/* ---- orders from the control thread ---- */

void vif_tx_init(struct vif_tx *t, struct vif *v, unsigned pair)
{
    *t = (struct vif_tx){.vif = v, .pair = pair, .call = {.fd = -1}};
    t->source = (struct port_source){.ops = &tx_ops, .port = &v->port, .fd = -1};
}

static int memory_make(struct vif_tx *t, unsigned size)
{
    t->iov_max = size + VIF_IOV_SLACK;
    t->iov = malloc(t->iov_max * sizeof *t->iov);
    t->heads = aligned_alloc(64, PACKET_BATCH * HEAD_STRIDE);
    if (!t->iov || !t->heads) return -ENOMEM;
    if (!t->vif->config.transmit_copy) return 0;
    /* Not there before it is used. */
    void *mem = mmap(NULL, PACKET_BATCH * VIF_COPY_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mem == MAP_FAILED) return -errno;
    t->copies = mem;
    return 0;
}

static void release_all(struct vif_tx *t)
{
    virtq_free(t->vq);
    guest_map_unref(t->map);
    free(t->iov);
    free(t->heads);
    if (t->copies) munmap(t->copies, PACKET_BATCH * VIF_COPY_BYTES);
    t->vq = NULL;
    t->map = NULL;
    t->iov = NULL;
    t->heads = t->copies = NULL;
    t->source.fd = -1;
    vif_call_set(&t->call, -1);
}

static void set_kick(struct vif_tx *t, int fd)
{
    t->source.fd = fd;
    t->kick_kind = fd >= 0 ? guest_fd_kind(fd) : 0;
}

static int run(struct vif_tx *t)
{
    struct vif_runners *r = &t->vif->runners;
    int ret = r->get(r->arg, t->pair, &t->runner);
    if (ret < 0) return ret;
    ret = runner_add(t->runner, &t->source);
    if (ret == 0) return 0;
    r->put(r->arg, t->pair, t->runner);
    t->runner = NULL;
    return ret;
}

int vif_tx_start(struct vif_tx *t, const struct guest_queue *q, struct guest_map *map)
{
    struct errmsg e;
    int ret = virtq_new(&t->vq, &q->setup, map, &e);
    if (ret < 0) {
        log_limited(LOG_LEVEL_ERROR, "network card %s: queue %u refused: %s", t->vif->config.name, q->index, e.text);
        return ret;
    }
    t->map = guest_map_ref(map);
    t->features = t->vif->features;
    t->header_bytes = vif_header_bytes(t->features);
    t->broken = false;
    t->chain_count = 0;
    t->source.not_before_ns = 0;
    set_kick(t, q->kick_fd);
    vif_call_set(&t->call, q->call_fd);
    virtq_kick_disable(t->vq);
    ret = memory_make(t, q->setup.size);
    if (ret == 0 && q->setup.resume) vif_call_driver(&t->call); /* was it told of the last publication? tell it again */
    if (ret == 0) ret = run(t);
    if (ret < 0) release_all(t);
    return ret;
}

uint32_t vif_tx_stop(struct vif_tx *t)
{
    struct vif_runners *r = &t->vif->runners;
    if (!t->runner) return 0;
    runner_remove(&t->source);
    r->put(r->arg, t->pair, t->runner);
    t->runner = NULL;
    give_back(t);
    uint32_t base = virtq_base(t->vq);
    release_all(t);
    return base;
}

struct order {
    struct vif_tx *tx;
    struct guest_map *map;
    int fd;
};

static void obey_call(void *arg)
{
    struct order *o = arg;
    vif_call_set(&o->tx->call, o->fd);
    vif_call_driver(&o->tx->call); /* what was given back while there was no descriptor would never be told */
}

void vif_tx_set_call(struct vif_tx *t, int call_fd)
{
    struct order o = {.tx = t, .fd = call_fd};
    if (t->runner) runner_call(t->runner, obey_call, &o);
}

static void obey_map(void *arg)
{
    struct order *o = arg;
    struct vif_tx *t = o->tx;
    virtq_set_map(t->vq, o->map);
    guest_map_ref(o->map);
    guest_map_unref(t->map);
    t->map = o->map;
}

void vif_tx_set_map(struct vif_tx *t, struct guest_map *map)
{
    struct order o = {.tx = t, .map = map};
    if (t->runner) runner_call(t->runner, obey_map, &o);
}

/* A source that joins is looked at. */
void vif_tx_wake(struct vif_tx *t)
{
    if (!t->runner) return;
    runner_remove(&t->source);
    int ret = runner_add(t->runner, &t->source);
    if (ret < 0)
        log_error("network card %s: transmit queue %u is lost: %s", t->vif->config.name, t->pair, strerror(-ret));
}
