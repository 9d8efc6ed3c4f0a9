/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames to a Xen guest: the port's send, on the thread of whoever brings them.
 *
 * Under the queue's lock, for as many frames as the guest has posted pages for: each frame gets as many pages as it needs, filled
 * from their start, and an entry more where it has something to be said. What lies in one piece is copied from where it
 * lies; what a page gets from several pieces is put together first, because each copy has its price in the hypervisor. One call
 * copies a batch; then all entries are answered, in the order of the ring. A reference that the guest made up costs it that frame.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "base/log.h"
#include "packet/checksum.h"
#include "vif/netif_impl.h"

#define FRAME_PAGES_MAX 17u /* of a frame; Linux' netfront drops what has more */
#define ALIGN_PAGES 3u      /* of frames that need as many it matters where they are cut */

/* ---- where a frame's bytes lie ---- */

struct reader {
    const struct packet *p;
    unsigned entry; /* of head (0) and body (1...) */
    size_t offset;
};

static inline struct iovec entry_of(const struct packet *p, unsigned i)
{
    return i == 0 ? (struct iovec){p->head, p->head_bytes} : p->body[i - 1];
}

static void skip_empty(struct reader *r)
{
    while (r->entry <= r->p->body_count && r->offset == entry_of(r->p, r->entry).iov_len) {
        r->entry++;
        r->offset = 0;
    }
}

/* n bytes, where they lie or in `bounce`. */
static void *next_bytes(struct reader *r, size_t n, uint8_t *bounce)
{
    skip_empty(r);
    struct iovec v = entry_of(r->p, r->entry);
    if (v.iov_len - r->offset >= n) {
        r->offset += n;
        return (uint8_t *)v.iov_base + r->offset - n;
    }
    for (size_t done = 0; done < n;) {
        skip_empty(r);
        v = entry_of(r->p, r->entry);
        size_t part = min_u64(v.iov_len - r->offset, n - done);
        memcpy(bounce + done, (uint8_t *)v.iov_base + r->offset, part);
        r->offset += part;
        done += part;
    }
    return bounce;
}

/* ---- a frame ---- */

static enum netif_gso gso_of(const struct packet *p)
{
    return p->offload.gso == PACKET_GSO_TCP4   ? NETIF_GSO_TCP4
           : p->offload.gso == PACKET_GSO_TCP6 ? NETIF_GSO_TCP6
                                               : NETIF_GSO_NONE;
}

/* Entries of a frame that only say something. */
struct extras {
    enum netif_gso gso;
    struct netif_hashed hash;
};

static void place_extras(struct netif_rx_side *r, const struct packet *p, const struct extras *x)
{
    if (x->gso) {
        netif_rx_pop(r->ring);
        r->answer[r->answer_count++] = (struct netif_rx_answer){
            .extra = NETIF_EXTRA_GSO, .more = x->hash.there, .type = (uint8_t)x->gso, .gso_size = p->offload.gso_size};
    }
    if (x->hash.there) {
        netif_rx_pop(r->ring);
        r->answer[r->answer_count++] =
            (struct netif_rx_answer){.extra = NETIF_EXTRA_HASH, .type = x->hash.type, .hash = x->hash.value};
    }
}

/* n bytes of the frame into the next page; where they are to be copied from by a call, or NETIF_NO_COPY. */
static uint16_t place_bytes(struct netif_queue *q, struct reader *from, uint16_t n)
{
    struct netif_rx_side *r = &q->rx;
    const struct netif_static *pages = atomic_load_explicit(&q->pages, memory_order_acquire);
    uint8_t *bounce = r->bounce + (size_t)r->copy_count * XEN_PAGE_BYTES;
    uint32_t ref = netif_rx_pop(r->ring);
    const struct netif_static_page *page = unlikely(pages) ? netif_static_find(pages, ref) : NULL;
    void *local = next_bytes(from, n, bounce);
    if (page && page->writable) {
        memcpy(page->map.page, local, n);
        return NETIF_NO_COPY;
    }
    r->of_body[r->copy_count] = from->entry > 0 && local != bounce;
    r->copy[r->copy_count] = (struct xen_copy){.ref = ref, .length = n, .local = local, .to_guest = true};
    return (uint16_t)r->copy_count++;
}

/* How a frame is cut into pages: bytes of the first and the second; others are filled. */
struct cuts {
    uint16_t first, second;
    unsigned pages;
};

static struct cuts cuts_plain(const struct packet *p)
{
    return (struct cuts){XEN_PAGE_BYTES, XEN_PAGE_BYTES, (unsigned)div_round_up(p->length_bytes, XEN_PAGE_BYTES)};
}

/* A large body in one piece is cut where pages of ours end: a copy across such an end is two to the hypervisor. Its head has a page of
 * its own, so that nothing has to be put together. That takes a page more than there need be. */
static struct cuts cuts_of(const struct packet *p, int room)
{
    struct cuts plain = cuts_plain(p);
    if (plain.pages < ALIGN_PAGES || p->body_count != 1) return plain;
    if (p->head_bytes == 0 || p->head_bytes > PACKET_BUFFER_BYTES) return plain;
    struct cuts c = {.first = p->head_bytes};
    c.second = (uint16_t)(XEN_PAGE_BYTES - (uintptr_t)p->body[0].iov_base % XEN_PAGE_BYTES);
    c.pages = 2 + (unsigned)div_round_up(p->length_bytes - c.first - c.second, XEN_PAGE_BYTES);
    return c.pages <= FRAME_PAGES_MAX && (int)c.pages <= room ? c : plain;
}

/* The entries are there. */
static void place_frame(struct netif_queue *q, const struct packet *p, const struct cuts *c, const struct extras *x)
{
    struct netif_rx_side *r = &q->rx;
    struct reader from = {p, 0, 0};
    bool extra = x->gso || x->hash.there;
    uint16_t flags = netif_header_flags(p) | (extra ? NETIF_RX_EXTRA_INFO : 0);
    unsigned page = 0;
    for (uint32_t left = p->length_bytes; left; page++) {
        uint16_t most = page == 0 ? c->first : page == 1 ? c->second : XEN_PAGE_BYTES;
        uint16_t n = (uint16_t)min_u64(left, most);
        left -= n;
        if (left) flags |= NETIF_RX_MORE_DATA;
        uint16_t at = place_bytes(q, &from, n);
        r->answer[r->answer_count++] = (struct netif_rx_answer){.flags = flags, .bytes = n, .copy_at = at};
        if (flags & NETIF_RX_EXTRA_INFO) place_extras(r, p, x);
        flags = 0;
    }
}

/* ---- a batch ---- */

static void broke(struct netif_queue *q, const char *why)
{
    q->rx.broken = true;
    vif_break(q->vif, q->pair * 2, why);
}

/* Returns how many frames there is room for, of those that can be had. */
static unsigned place(struct netif_queue *q, struct packet *const *packets, const struct netif_hashed *hashed,
                      unsigned count)
{
    struct netif_rx_side *r = &q->rx;
    int left = netif_rx_available(r->ring);
    unsigned n = 0;
    uint64_t bytes = 0;
    if (left < 0) {
        broke(q, netif_rx_broken(r->ring));
        return 0;
    }
    r->answer_count = r->copy_count = 0;
    for (unsigned i = 0; i < count; i++) {
        const struct packet *p = packets[i];
        struct extras x = {.gso = gso_of(p)};
        if (unlikely(hashed)) x.hash = hashed[i];
        int extras = (x.gso != NETIF_GSO_NONE) + x.hash.there;
        struct cuts c = cuts_of(p, left - extras);
        if (unlikely(c.pages > 1 && !r->sg)) {
            counter_add(&r->count.too_long, 1);
        } else if ((int)c.pages + extras > left) {
            counter_add(&r->count.no_buffer, 1);
        } else {
            place_frame(q, p, &c, &x);
            left -= (int)c.pages + extras;
            bytes += p->length_bytes;
            n++;
        }
    }
    counter_add(&r->count.packets, n);
    counter_add(&r->count.bytes, bytes);
    counter_add(&r->count.copied_bytes, bytes);
    return n;
}

/* May bytes of a body lie in pages that another guest granted us? */
static bool may_be_foreign(const struct netif_queue *q)
{
    const atomic_uint *mappers = q->vif->netif->config.mappers;
    return !mappers || atomic_load_explicit(mappers, memory_order_relaxed);
}

/* The hypervisor does not copy from pages that another guest granted us: what failed of bodies, by way of pages of our own. One call,
 * since the reason may as well be this guest's references, and the time is the sender's. */
static void copy_again(struct netif_queue *q)
{
    struct netif_rx_side *r = &q->rx;
    struct xen_copy again[NETIF_ENTRIES];
    uint16_t at[NETIF_ENTRIES];
    unsigned n = 0;
    for (unsigned i = 0; i < r->copy_count; i++) {
        if (r->copy[i].status == 0 || !r->of_body[i]) continue;
        uint8_t *bounce = r->bounce + (size_t)i * XEN_PAGE_BYTES;
        memcpy(bounce, r->copy[i].local, r->copy[i].length);
        again[n] = r->copy[i];
        again[n].local = bounce;
        at[n++] = (uint16_t)i;
    }
    if (n == 0) return;
    q->xen->ops->copy(q->xen, q->vif->netif->config.domid, again, n);
    for (unsigned i = 0; i < n; i++)
        r->copy[at[i]].status = again[i].status;
}

static void copy(struct netif_queue *q)
{
    struct netif_rx_side *r = &q->rx;
    unsigned failed = 0;
    if (r->copy_count == 0) return;
    q->xen->ops->copy(q->xen, q->vif->netif->config.domid, r->copy, r->copy_count);
    for (unsigned i = 0; i < r->copy_count; i++)
        failed += r->copy[i].status != 0;
    if (likely(failed == 0)) return;
    if (may_be_foreign(q)) copy_again(q);
    for (unsigned i = 0; i < r->copy_count; i++)
        if (r->copy[i].status) counter_add(&r->bad_grants, 1);
}

static void answer(struct netif_rx_side *r)
{
    for (unsigned i = 0; i < r->answer_count; i++) {
        const struct netif_rx_answer *a = &r->answer[i];
        bool failed = !a->extra && a->copy_at != NETIF_NO_COPY && r->copy[a->copy_at].status;
        if (a->extra == NETIF_EXTRA_GSO) netif_rx_push_gso(r->ring, a->type, a->gso_size, a->more);
        else if (a->extra) netif_rx_push_hash(r->ring, a->type, NETIF_HASH_TOEPLITZ, a->hash, a->more);
        else netif_rx_push(r->ring, a->flags, failed ? NETIF_ERROR : (int16_t)a->bytes);
    }
}

/* Of packets, those of `some`, which are in the same order. */
static void pick_hashes(struct packet *const *packets, const struct netif_hashed *hashed, struct packet *const *some,
                        unsigned count, struct netif_hashed *out)
{
    for (unsigned i = 0, n = 0; n < count; i++)
        if (packets[i] == some[n]) out[n++] = hashed[i];
}

/* hashed: NULL: the guest has not asked for it. */
static unsigned deliver_locked(struct netif_queue *q, struct packet *const *packets, const struct netif_hashed *hashed,
                               unsigned count)
{
    struct netif_rx_side *r = &q->rx;
    struct packet *within[PACKET_BATCH];
    struct netif_hashed within_hashed[PACKET_BATCH];
    if (unlikely(!r->ring || r->broken)) return 0;
    if (unlikely(bucket_limits(&q->vif->to_guest))) {
        unsigned n = vif_police(q->vif, packets, count, within);
        counter_add(&r->count.limited, count - n);
        if (hashed) pick_hashes(packets, hashed, within, n, within_hashed);
        hashed = hashed ? within_hashed : NULL;
        packets = within;
        count = n;
    }
    unsigned given = place(q, packets, hashed, count);
    if (given == 0) return 0;
    copy(q);
    answer(r);
    if (netif_rx_publish(r->ring)) {
        counter_add(&r->count.calls, 1);
        q->xen->ops->notify(q->xen, r->port);
    }
    return given;
}

static unsigned deliver(struct netif_queue *q, struct packet *const *packets, const struct netif_hashed *hashed,
                        unsigned count)
{
    pthread_mutex_lock(&q->rx.lock);
    unsigned given = deliver_locked(q, packets, hashed, count);
    pthread_mutex_unlock(&q->rx.lock);
    return given;
}

/* As the guest says. */
static uint32_t pick_queues(const struct netif_hash *h, const struct netif_hashed *hashed, unsigned count,
                            unsigned queues, uint8_t *to)
{
    uint32_t wanted = 0;
    for (unsigned i = 0; i < count; i++) {
        to[i] = (uint8_t)netif_hash_queue(h, hashed[i], queues);
        wanted |= 1u << to[i];
    }
    return wanted;
}

static unsigned spread(struct vif *v, struct packet *const *packets, unsigned count, unsigned queues,
                       const struct netif_hash *h, const struct netif_hashed *hashed)
{
    uint8_t to[PACKET_BATCH];
    unsigned given = 0;
    uint32_t wanted = h ? pick_queues(h, hashed, count, queues, to) : vif_pick_queues(v, packets, count, queues, to);
    for (; wanted; wanted &= wanted - 1) {
        unsigned pair = (unsigned)__builtin_ctz(wanted);
        struct packet *mine[PACKET_BATCH];
        struct netif_hashed my_hashes[PACKET_BATCH];
        unsigned n = vif_gather(packets, count, to, pair, mine);
        if (pair >= v->config.queue_pairs) continue;
        if (h) pick_hashes(packets, hashed, mine, n, my_hashes);
        given += deliver(&v->netif->queue[pair], mine, h ? my_hashes : NULL, n);
    }
    return given;
}

static unsigned give(struct vif *v, struct packet *const *packets, unsigned count, unsigned queues)
{
    struct netif_hashed hashed[PACKET_BATCH];
    const struct netif_hash *h = atomic_load_explicit(&v->netif->hash, memory_order_acquire);
    for (unsigned i = 0; unlikely(h) && i < count; i++)
        hashed[i] = netif_hash_of(h, packets[i]);
    if (queues > 1) return spread(v, packets, count, queues, h, hashed);
    return deliver(&v->netif->queue[0], packets, h ? hashed : NULL, count);
}

void netif_send(struct port *p, struct packet *const *packets, unsigned count, struct packet_pool *pool)
{
    struct vif *v = container_of(p, struct vif, port);
    unsigned queues = atomic_load_explicit(&v->steer_count, memory_order_acquire), given = 0;
    struct packet *wanted[PACKET_BATCH];
    if (unlikely(atomic_load_explicit(&v->netif->filter, memory_order_relaxed))) {
        count = netif_multicast_filter(v->netif, packets, count, wanted);
        packets = wanted;
    }
    if (count == 0) return;
    if (likely(queues && !atomic_load_explicit(&v->link_down, memory_order_relaxed)))
        given = give(v, packets, count, queues);
    if (unlikely(given < count)) atomic_fetch_add_explicit(&p->out.dropped, count - given, memory_order_relaxed);
}

/* ---- life ---- */

int netif_rx_side_make(struct netif_queue *q)
{
    struct netif_rx_side *r = &q->rx;
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(&r->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    /* Not there before it is used. */
    void *mem = mmap(NULL, (size_t)NETIF_ENTRIES * XEN_PAGE_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mem == MAP_FAILED) return -errno;
    r->bounce = mem;
    return 0;
}

void netif_rx_side_unmake(struct netif_queue *q)
{
    if (q->rx.bounce) munmap(q->rx.bounce, (size_t)NETIF_ENTRIES * XEN_PAGE_BYTES);
    pthread_mutex_destroy(&q->rx.lock);
}
