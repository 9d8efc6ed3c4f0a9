/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames to the guest: the port's send, on the thread of whoever brings them.
 *
 * A receive queue is taken by its lock for one batch. Under it, for as many frames as there are buffers: chains are popped, many
 * at once, which also asks for the lines that will be written, and each frame is given as many of them as it needs (one, when
 * the driver did not agree to mergeable buffers); what is left over is put back. Then headers and frames are copied, from
 * where they lie to where the guest wants them, the chains are pushed, a frame's all at once, and the batch is
 * published. A frame for which there are too few buffers leaves those that there are to the next one.
 *
 * Nobody waits for a guest: what finds no buffer is dropped and counted.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "vif/virtio.h"

/* ---- popping ---- */

static void broke(struct vif_rx *r, const char *why)
{
    r->broken = true;
    virtq_break(r->vq, why);
    vif_break(r->vif, r->pair * 2, why);
}

/* Chains that were popped, in r->chain, and their entries, in r->iov: up to `next` they belong to frames. */
struct rx_stock {
    unsigned next, have;
    unsigned iov_next, iov_have;
};

enum pop {
    POP_OK,
    POP_NONE,  /* too few buffers */
    POP_SMALL, /* the buffer is smaller than the frame, and only one may be used */
    POP_FULL,  /* no space to note more */
    POP_BROKEN,
};

/* What a driver lets us only read has no place in a receive queue; entries for it are taken out. False: nothing is left. */
static bool check_chains(struct vif_rx *r, struct rx_stock *s, unsigned count)
{
    struct iovec *to = r->iov + s->iov_have, *from = to;
    for (unsigned i = 0; i < count; i++) {
        const struct virtq_chain *c = &r->chain[s->have + i];
        if (unlikely(c->in_count == 0)) return false;
        if (unlikely(c->out_count || to != from)) memmove(to, from + c->out_count, c->in_count * sizeof *to);
        from += c->out_count + c->in_count;
        to += c->in_count;
    }
    s->iov_have = (unsigned)(to - r->iov);
    return true;
}

static enum pop refill(struct vif_rx *r, struct rx_stock *s, unsigned wanted)
{
    unsigned space = VIF_RX_CHAINS - s->have;
    if (space == 0) return POP_FULL;
    int n = virtq_pop_many(r->vq, r->chain + s->have, wanted < space ? wanted : space, r->iov + s->iov_have,
                           r->iov_max - s->iov_have);
    if (n == 0) return POP_NONE;
    if (n == -E2BIG && s->have > 0) return POP_FULL;
    if (n < 0) {
        broke(r, n == -E2BIG ? "a buffer in more pieces than the queue has descriptors" : virtq_broken(r->vq));
        return POP_BROKEN;
    }
    if (!check_chains(r, s, (unsigned)n)) {
        broke(r, "a receive buffer that cannot be written");
        return POP_BROKEN;
    }
    s->have += (unsigned)n;
    return POP_OK;
}

/* How many chains more, when the last one is like those to come. */
static unsigned estimate(const struct vif_rx *r, const struct rx_stock *s, uint64_t missing_bytes)
{
    return (unsigned)min_u64(div_round_up(missing_bytes, r->chain[s->next - 1].in_bytes), VIF_RX_CHAINS);
}

/* Chains for p, which is the first of `left` frames. POP_OK: *f says which; else they stay in the stock. */
static inline enum pop reserve_frame(struct vif_rx *r, struct packet *p, unsigned left, struct rx_stock *s,
                                     struct vif_rx_frame *f)
{
    uint64_t needed = r->header_bytes + (uint64_t)p->length_bytes, room = 0;
    struct rx_stock start = *s;
    enum pop ret = POP_OK;
    do {
        if (s->next == s->have) ret = refill(r, s, room ? estimate(r, s, needed - room) : left);
        if (unlikely(ret != POP_OK)) break;
        room += r->chain[s->next].in_bytes;
        s->iov_next += r->chain[s->next++].in_count;
    } while (room < needed && r->mergeable);
    if (unlikely(room < needed)) {
        s->next = start.next;
        s->iov_next = start.iov_next;
        return ret == POP_OK ? POP_SMALL : ret;
    }
    *f = (struct vif_rx_frame){p, start.next, s->next - start.next, start.iov_next};
    return POP_OK;
}

/* ---- copying ---- */

/* A place in scattered buffers. */
struct target {
    const struct iovec *iov;
    size_t offset;
};

static inline void put(struct target *t, const void *src, size_t n)
{
    const char *from = src;
    while (n > 0) {
        size_t part = t->iov->iov_len - t->offset;
        if (part > n) part = n;
        memcpy((char *)t->iov->iov_base + t->offset, from, part);
        from += part;
        n -= part;
        t->offset += part;
        if (t->offset == t->iov->iov_len) {
            t->iov++;
            t->offset = 0;
        }
    }
}

static void copy_scattered(const struct vif_rx *r, const struct vif_rx_frame *f, const struct virtio_net_hdr *h)
{
    struct target t = {r->iov + f->iov_at, 0};
    const struct packet *p = f->packet;
    put(&t, h, r->header_bytes);
    put(&t, p->head, p->head_bytes);
    for (unsigned i = 0; i < p->body_count; i++)
        put(&t, p->body[i].iov_base, p->body[i].iov_len);
}

/* Of a frame that is whole, straight to where it goes: there is nothing to say but how many buffers it has. */
static inline void put_plain_header(const struct vif_rx *r, char *to, unsigned buffers)
{
    struct le16 count = le16_make((uint16_t)buffers);
    memset(to, 0, VIRTIO_NET_HDR_LEGACY_BYTES);
    if (likely(r->header_bytes == sizeof(struct virtio_net_hdr)))
        memcpy(to + VIRTIO_NET_HDR_LEGACY_BYTES, &count, sizeof count);
}

static inline bool is_plain(const struct packet_offload *o)
{
    return !(o->csum_partial | o->csum_valid | o->gso);
}

static inline void copy_frame(const struct vif_rx *r, const struct vif_rx_frame *f)
{
    const struct packet *p = f->packet;
    const struct iovec *first = r->iov + f->iov_at;
    char *to = first->iov_base;
    bool fits = first->iov_len >= r->header_bytes + (size_t)p->length_bytes;
    if (likely(fits && is_plain(&p->offload))) {
        put_plain_header(r, to, f->chain_count);
    } else {
        struct virtio_net_hdr h;
        vif_header_make(&h, r->features, p, f->chain_count);
        if (unlikely(!fits)) {
            copy_scattered(r, f, &h);
            return;
        }
        memcpy(to, &h, r->header_bytes);
    }
    to += r->header_bytes;
    vif_copy_head(to, p->head, p->head_bytes);
    to += p->head_bytes;
    for (unsigned i = 0; i < p->body_count; i++) {
        memcpy(to, p->body[i].iov_base, p->body[i].iov_len);
        to += p->body[i].iov_len;
    }
}

static void push_merged(struct vif_rx *r, const struct vif_rx_frame *f)
{
    uint32_t written[VIF_RX_CHAINS];
    uint64_t left = r->header_bytes + (uint64_t)f->packet->length_bytes;
    for (unsigned i = 0; i < f->chain_count; i++) {
        const struct virtq_chain *c = &r->chain[f->chain_at + i];
        written[i] = (uint32_t)min_u64(c->in_bytes, left);
        left -= written[i];
    }
    virtq_push_frame(r->vq, r->chain + f->chain_at, written, f->chain_count);
}

/* All frames' chains, in order: those of one chain together. */
static void push_frames(struct vif_rx *r, unsigned count)
{
    uint32_t written[PACKET_BATCH];
    unsigned first = 0; /* frame whose chain is the first that is not pushed */
    for (unsigned i = 0; i < count; i++) {
        const struct vif_rx_frame *f = &r->frame[i];
        written[i - first] = r->header_bytes + f->packet->length_bytes;
        if (likely(f->chain_count == 1)) continue;
        if (i > first) virtq_push_many(r->vq, r->chain + r->frame[first].chain_at, written, i - first);
        push_merged(r, f);
        first = i + 1;
    }
    if (count > first) virtq_push_many(r->vq, r->chain + r->frame[first].chain_at, written, count - first);
}

/* ---- a batch ---- */

/* Reserve room for frames, as many as there is space to note it; *done: how many were looked at. Returns how many were not
 * dropped; they are in r->frame. */
static unsigned reserve(struct vif_rx *r, struct packet *const *packets, unsigned count, unsigned *done)
{
    struct rx_stock s = {0};
    unsigned n = 0, i = 0;
    uint32_t failed_bytes = UINT32_MAX; /* for a frame of this length there were too few buffers */
    for (; i < count && !r->broken; i++) {
        enum pop ret = POP_NONE;
        if (packets[i]->length_bytes < failed_bytes) ret = reserve_frame(r, packets[i], count - i, &s, &r->frame[n]);
        if (likely(ret == POP_OK)) {
            n++;
        } else if (ret == POP_NONE) {
            failed_bytes = (uint32_t)min_u64(failed_bytes, packets[i]->length_bytes);
            counter_add(&r->count.no_buffer, 1);
        } else if (ret == POP_FULL && n > 0) {
            break; /* the others after these */
        } else {
            counter_add(&r->count.too_long, 1);
        }
    }
    while (s.have > s.next && !r->broken)
        virtq_unpop(r->vq, &r->chain[--s.have]);
    *done = i;
    return n;
}

/* Leaves in `within` those that are within the limit. */
static unsigned police(struct vif_rx *r, struct packet *const *packets, unsigned count, struct packet **within)
{
    unsigned n = vif_police(r->vif, packets, count, within);
    counter_add(&r->count.limited, count - n);
    return n;
}

/* Copy and push what was reserved. */
static void fill(struct vif_rx *r, unsigned count)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        copy_frame(r, &r->frame[i]);
        bytes += r->frame[i].packet->length_bytes;
    }
    push_frames(r, count);
    counter_add(&r->count.packets, count);
    counter_add(&r->count.bytes, bytes);
    counter_add(&r->count.copied_bytes, bytes);
}

/* Returns how many were given to the guest; *call: it must be told. */
static unsigned deliver_locked(struct vif_rx *r, struct packet *const *packets, unsigned count, bool *call)
{
    struct packet *within[PACKET_BATCH];
    unsigned given = 0;
    if (unlikely(!r->vq || r->broken)) return 0;
    if (unlikely(bucket_limits(&r->vif->to_guest))) {
        count = police(r, packets, count, within);
        packets = within;
    }
    while (count > 0 && !r->broken) {
        unsigned done, n = reserve(r, packets, count, &done);
        fill(r, n);
        given += n;
        packets += done;
        count -= done;
    }
    *call = given && virtq_publish(r->vq);
    if (*call) counter_add(&r->count.calls, 1);
    if (unlikely(guest_map_truncated(r->map)) && !r->broken) broke(r, "the guest's memory was cut short");
    return given;
}

/* The driver is called when the lock is free again: that is a system call, and others want to copy. */
static unsigned deliver(struct vif_rx *r, struct packet *const *packets, unsigned count)
{
    bool must_call = false;
    pthread_mutex_lock(&r->lock);
    unsigned given = deliver_locked(r, packets, count, &must_call), turn = r->turn;
    struct vif_call call = r->call;
    if (must_call) atomic_fetch_add_explicit(&r->calling[turn], 1, memory_order_relaxed);
    pthread_mutex_unlock(&r->lock);
    if (must_call) {
        vif_call_driver(&call);
        atomic_fetch_sub_explicit(&r->calling[turn], 1, memory_order_release);
    }
    return given;
}

/* Under the lock. Then call_wait(), without it, before the old descriptor may be closed. */
static unsigned call_change(struct vif_rx *r, int fd)
{
    unsigned old = r->turn;
    vif_call_set(&r->call, fd);
    r->turn = !old;
    return old;
}

/* Who calls waits for nobody, so this is short. Those who come now count in the other turn. */
static void call_wait(struct vif_rx *r, unsigned old)
{
    while (atomic_load_explicit(&r->calling[old], memory_order_acquire) > 0)
        sched_yield();
}

/* Several queues run: each frame to the one that its flow's hash says, in order within each. */
static unsigned spread(struct vif *v, struct packet *const *packets, unsigned count, unsigned queues)
{
    uint8_t to[PACKET_BATCH];
    unsigned given = 0;
    for (uint32_t wanted = vif_pick_queues(v, packets, count, queues, to); wanted; wanted &= wanted - 1) {
        unsigned pair = (unsigned)__builtin_ctz(wanted);
        struct packet *mine[PACKET_BATCH];
        unsigned n = vif_gather(packets, count, to, pair, mine);
        if (pair < v->config.queue_pairs) given += deliver(&v->rx[pair], mine, n);
    }
    return given;
}

void vif_send(struct port *p, struct packet *const *packets, unsigned count, struct packet_pool *pool)
{
    struct vif *v = container_of(p, struct vif, port);
    unsigned queues = atomic_load_explicit(&v->steer_count, memory_order_acquire), given = 0;
    if (likely(queues && !atomic_load_explicit(&v->link_down, memory_order_relaxed))) {
        if (queues == 1)
            given = deliver(&v->rx[atomic_load_explicit(&v->steer_pairs, memory_order_relaxed) & 15], packets, count);
        else given = spread(v, packets, count, queues);
    }
    if (unlikely(given < count)) atomic_fetch_add_explicit(&p->out.dropped, count - given, memory_order_relaxed);
}

/* ---- orders from the control thread ---- */

void vif_rx_init(struct vif_rx *r, struct vif *v, unsigned pair)
{
    pthread_mutexattr_t attr;
    *r = (struct vif_rx){.vif = v, .pair = pair, .call = {.fd = -1}};
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(&r->lock, &attr);
    pthread_mutexattr_destroy(&attr);
}

int vif_rx_start(struct vif_rx *r, const struct guest_queue *q, struct guest_map *map)
{
    struct errmsg e;
    struct virtq *vq;
    unsigned iov_max = q->setup.size + VIF_IOV_SLACK;
    int ret = virtq_new(&vq, &q->setup, map, &e);
    if (ret < 0) {
        log_limited(LOG_LEVEL_ERROR, "network card %s: queue %u refused: %s", r->vif->config.name, q->index, e.text);
        return ret;
    }
    struct virtq_chain *chain = malloc(VIF_RX_CHAINS * sizeof *chain);
    struct iovec *iov = malloc(iov_max * sizeof *iov);
    if (!chain || !iov) {
        free(chain);
        free(iov);
        virtq_free(vq);
        return -ENOMEM;
    }
    virtq_kick_disable(vq); /* new buffers are found when they are needed */
    pthread_mutex_lock(&r->lock);
    r->features = r->vif->features;
    r->header_bytes = vif_header_bytes(r->features);
    r->mergeable = r->features & BIT64(VIRTIO_NET_F_MRG_RXBUF);
    r->broken = false;
    r->chain = chain;
    r->iov = iov;
    r->iov_max = iov_max;
    r->map = guest_map_ref(map);
    vif_call_set(&r->call, q->call_fd);
    r->vq = vq;
    struct vif_call call = r->call;
    pthread_mutex_unlock(&r->lock);
    if (q->setup.resume) vif_call_driver(&call); /* was it told of the last publication? tell it again */
    return 0;
}

uint32_t vif_rx_stop(struct vif_rx *r)
{
    pthread_mutex_lock(&r->lock);
    uint32_t base = r->vq ? virtq_base(r->vq) : 0;
    virtq_free(r->vq);
    guest_map_unref(r->map);
    free(r->chain);
    free(r->iov);
    r->vq = NULL;
    r->map = NULL;
    r->chain = NULL;
    r->iov = NULL;
    unsigned old = call_change(r, -1);
    pthread_mutex_unlock(&r->lock);
    call_wait(r, old);
    return base;
}

void vif_rx_set_call(struct vif_rx *r, int call_fd)
{
    pthread_mutex_lock(&r->lock);
    unsigned old = call_change(r, call_fd);
    struct vif_call call = {.fd = -1};
    if (r->vq) call = r->call; /* what was delivered while there was no descriptor would never be told */
    pthread_mutex_unlock(&r->lock);
    vif_call_driver(&call);
    call_wait(r, old);
}

void vif_rx_set_map(struct vif_rx *r, struct guest_map *map)
{
    pthread_mutex_lock(&r->lock);
    if (r->vq) {
        virtq_set_map(r->vq, map);
        guest_map_ref(map);
        guest_map_unref(r->map);
        r->map = map;
    }
    pthread_mutex_unlock(&r->lock);
}
