/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Xen guest's transmit ring as a source of frames.
 *
 * A batch is popped first. Then one call copies, of every frame, what is to be private: small frames whole, of others the bytes that
 * are parsed; and one call maps the rest of the others, which lies in the guest's pages until the batch is given back. What cannot be
 * mapped (the budget, the map-track table) is copied. Frames whose grants fail, or that are not sound, are answered with an error in
 * their place; everything is answered in the order in which it came.
 *
 * Only a violation of the ring's own rules breaks the card.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "base/log.h"
#include "vif/netif_impl.h"

#define HEADS_PER_PAGE (XEN_PAGE_BYTES / PACKET_BUFFER_BYTES)
#define HEAD_PAGES div_round_up(PACKET_BATCH, HEADS_PER_PAGE)
#define PORTS_AT_ONCE 8u

_Static_assert(NETIF_ARENA_BYTES >= XEN_PAGE_BYTES + PACKET_MAX_BYTES + 64 && NETIF_ARENA_BYTES % XEN_PAGE_BYTES == 0,
               "a frame and what is left free before it");

static struct netif_queue *queue_of(struct port_source *s)
{
    return container_of(s, struct netif_queue, source);
}

/* None lies across a page's end: a receiver's copy of it is one operation. */
static uint8_t *head_of(struct netif_tx_side *t, unsigned slot)
{
    size_t page = slot / HEADS_PER_PAGE, at = slot % HEADS_PER_PAGE;
    return t->heads + page * XEN_PAGE_BYTES + at * PACKET_BUFFER_BYTES + PACKET_ROOM_BYTES;
}

/* ---- fetching a batch ---- */

/* At once, where the page stays mapped. */
static void add_copy(struct netif_tx_side *t, const struct netif_slot *s, unsigned skip, unsigned n, uint8_t *to)
{
    const struct netif_static_page *page = unlikely(t->pages) ? netif_static_find(t->pages, s->ref) : NULL;
    if (page) {
        memcpy(to, (uint8_t *)page->map.page + s->offset + skip, n);
        return;
    }
    assert(t->copy_count < sizeof t->copy / sizeof t->copy[0]);
    t->copy[t->copy_count++] =
        (struct xen_copy){.ref = s->ref, .offset = (uint16_t)(s->offset + skip), .length = (uint16_t)n, .local = to};
}

/* Where in the arena a frame is copied to. A copy that lies across the end of a page of ours is two to the hypervisor: so the first of
 * its pieces that is a page becomes one here (what follows mostly are pages, too), or else the second piece begins one; and what fits
 * into a page is in one. */
static size_t arena_place(const struct netif_tx_side *t, const struct netif_tx_job *j)
{
    size_t at = t->arena_used, before = 0;
    unsigned i = 0;
    if (j->frame.length <= XEN_PAGE_BYTES - at % XEN_PAGE_BYTES) return at;
    if (j->frame.length <= XEN_PAGE_BYTES) return align_up(at, XEN_PAGE_BYTES);
    while (i < j->frame.slot_count && j->slot[i].length < XEN_PAGE_BYTES)
        before += j->slot[i++].length;
    if (i == j->frame.slot_count) before = j->slot[0].length;
    return align_up(at + before, XEN_PAGE_BYTES) - before;
}

static void plan_whole(struct netif_tx_side *t, struct netif_tx_job *j)
{
    size_t at = arena_place(t, j);
    uint8_t *to = j->whole = t->arena + at;
    t->arena_used = align_up(at + j->frame.length, 64);
    assert(t->arena_used <= PACKET_BATCH * (size_t)NETIF_ARENA_BYTES);
    j->copy_at = t->copy_count;
    for (unsigned i = 0; i < j->frame.slot_count; i++) {
        if (j->slot[i].length == 0) continue;
        add_copy(t, &j->slot[i], 0, j->slot[i].length, to);
        to += j->slot[i].length;
    }
    j->copy_count = t->copy_count - j->copy_at;
}

/* What is parsed is copied, the pages of the rest are mapped. */
static void plan_mapped(struct netif_tx_side *t, struct netif_tx_job *j, uint8_t *head)
{
    unsigned left = PACKET_HEAD_BYTES;
    j->mapped = true;
    j->copy_at = t->copy_count;
    j->map_at = t->map_count;
    for (unsigned i = 0; i < j->frame.slot_count; i++) {
        const struct netif_slot *s = &j->slot[i];
        unsigned n = s->length < left ? s->length : left;
        if (n) add_copy(t, s, 0, n, head);
        head += n;
        left -= n;
        if (s->length == n) continue;
        j->iov[t->map_count - j->map_at] = (struct iovec){(void *)(uintptr_t)(s->offset + n), s->length - n};
        assert(t->map_count < sizeof t->map / sizeof t->map[0]);
        t->map[t->map_count++] = (struct xen_map){.ref = s->ref};
    }
    j->copy_count = t->copy_count - j->copy_at;
    j->map_count = t->map_count - j->map_at;
}

static bool is_mapped(const struct netif_queue *q, uint32_t length)
{
    switch (q->vif->netif->config.transmit) {
    case NETIF_COPY: return false;
    case NETIF_MAP: return length > PACKET_HEAD_BYTES;
    case NETIF_AUTO: break;
    }
    return length > NETIF_COPY_AUTO_BYTES;
}

static bool is_frame(const struct netif_tx_job *j)
{
    return !j->frame.invalid && !j->frame.mcast && j->frame.length >= VIF_ETH_BYTES &&
           j->frame.length <= PACKET_MAX_BYTES;
}

static void plan(struct netif_queue *q)
{
    struct netif_tx_side *t = &q->tx;
    t->copy_count = t->map_count = 0;
    t->arena_used = 0;
    t->pages = atomic_load_explicit(&q->pages, memory_order_acquire);
    for (unsigned i = 0; i < t->job_count; i++) {
        struct netif_tx_job *j = &t->job[i];
        j->mapped = false;
        j->whole = NULL;
        j->copy_count = j->map_count = 0;
        j->status = NETIF_ERROR;
        if (j->frame.mcast && !j->frame.invalid)
            j->status = netif_multicast_order(q->vif->netif, j->frame.mcast, j->frame.mcast_addr);
        if (!is_frame(j)) continue;
        j->status = NETIF_OKAY;
        if (is_mapped(q, j->frame.length) && !t->pages) plan_mapped(t, j, head_of(t, i));
        else plan_whole(t, j);
    }
}

static bool maps_are_there(const struct netif_tx_side *t, const struct netif_tx_job *j)
{
    for (unsigned i = 0; i < j->map_count; i++)
        if (t->map[j->map_at + i].status) return false;
    return true;
}

/* Those that could not be mapped. What was mapped of them is unmapped with the batch. */
static void copy_instead(struct netif_queue *q)
{
    struct netif_tx_side *t = &q->tx;
    unsigned from = t->copy_count;
    for (unsigned i = 0; i < t->job_count; i++) {
        struct netif_tx_job *j = &t->job[i];
        if (!j->mapped || maps_are_there(t, j)) continue;
        j->mapped = false;
        plan_whole(t, j);
    }
    if (t->copy_count > from)
        q->xen->ops->copy(q->xen, q->vif->netif->config.domid, t->copy + from, t->copy_count - from);
}

static void fetch(struct netif_queue *q)
{
    struct netif_tx_side *t = &q->tx;
    xen_domid domid = q->vif->netif->config.domid;
    if (t->copy_count) q->xen->ops->copy(q->xen, domid, t->copy, t->copy_count);
    if (t->map_count == 0) return;
    q->xen->ops->map(q->xen, domid, t->map, t->map_count, false);
    copy_instead(q);
}

/* ---- one frame ---- */

static bool copies_are_there(const struct netif_tx_side *t, const struct netif_tx_job *j)
{
    for (unsigned i = 0; i < j->copy_count; i++)
        if (t->copy[j->copy_at + i].status) return false;
    return true;
}

static void find_body(struct netif_tx_side *t, struct netif_tx_job *j, struct packet *p)
{
    p->body = j->iov;
    if (j->mapped) {
        p->body_count = j->map_count;
        for (unsigned i = 0; i < j->map_count; i++)
            j->iov[i].iov_base = (uint8_t *)t->map[j->map_at + i].page + (uintptr_t)j->iov[i].iov_base;
        return;
    }
    vif_copy_head(p->head, j->whole, p->head_bytes);
    j->iov[0] = (struct iovec){j->whole + p->head_bytes, p->length_bytes - p->head_bytes};
    p->body_count = j->iov[0].iov_len ? 1 : 0;
    counter_add(&t->count.copied_bytes, p->length_bytes);
}

/* False: it is dropped, and its status says so. */
static bool take_frame(struct netif_tx_side *t, unsigned slot)
{
    struct netif_tx_job *j = &t->job[slot];
    struct packet *p = &t->packet[slot];
    if (!copies_are_there(t, j)) {
        j->status = NETIF_ERROR;
        counter_add(&t->bad_grants, 1);
        return false;
    }
    p->length_bytes = j->frame.length;
    p->head_bytes = (uint16_t)(p->length_bytes < PACKET_HEAD_BYTES ? p->length_bytes : PACKET_HEAD_BYTES);
    p->room_bytes = PACKET_ROOM_BYTES;
    p->head = head_of(t, slot);
    p->l3_at = p->l4_at = PACKET_NO_LAYER;
    p->hash = 0;
    find_body(t, j, p);
    if (netif_header_parse(&j->frame, p)) return true;
    j->status = NETIF_ERROR;
    return false;
}

/* ---- a batch ---- */

static void give_back(struct netif_queue *q)
{
    struct netif_tx_side *t = &q->tx;
    if (t->job_count == 0) return;
    if (t->map_count) q->xen->ops->unmap(q->xen, t->map, t->map_count);
    t->map_count = 0;
    for (unsigned i = 0; i < t->job_count; i++)
        netif_tx_push(t->ring, t->job[i].frame.entries, t->job[i].status);
    t->job_count = 0;
    if (!netif_tx_publish(t->ring)) return;
    counter_add(&t->count.calls, 1);
    q->xen->ops->notify(q->xen, t->port);
}

static int broke(struct netif_queue *q, const char *why)
{
    q->tx.broken = true;
    vif_break(q->vif, q->pair * 2 + 1, why);
    return -EPROTO;
}

/* True: the limit says that the next frame must wait. */
static bool limited(struct netif_queue *q, uint64_t now)
{
    struct bucket *b = &q->vif->from_guest;
    uint64_t until = bucket_waits_until(b, now);
    if (until == 0) return false;
    q->source.not_before_ns = bucket_ns(b, until);
    counter_add(&q->tx.count.throttled, 1);
    return true;
}

/* How many, or -EPROTO when there is none before what is wrong. */
static int pop_batch(struct netif_queue *q, unsigned max)
{
    struct netif_tx_side *t = &q->tx;
    struct bucket *b = &q->vif->from_guest;
    bool limits = bucket_limits(b);
    uint64_t now = limits ? bucket_now(b) : 0;
    int ret = 0;
    t->job_count = 0;
    while (t->job_count < max && !(limits && limited(q, now))) {
        struct netif_tx_job *j = &t->job[t->job_count];
        ret = netif_tx_pop(t->ring, &j->frame, j->slot);
        if (ret <= 0) break;
        if (limits) bucket_charge(b, now, 1, j->frame.length); /* the rest in charge_segments() */
        t->job_count++;
    }
    if (t->job_count) return (int)t->job_count;
    return ret < 0 ? broke(q, netif_tx_broken(t->ring)) : 0;
}

/* What pop_batch() could not know yet: that the frame is several, each with headers. */
static void charge_segments(struct netif_queue *q, const struct packet *p)
{
    struct bucket *b = &q->vif->from_guest;
    if (!bucket_limits(b)) return;
    struct vif_cost cost = vif_cost(p);
    bucket_charge(b, bucket_now(b), cost.packets - 1, cost.bytes - p->length_bytes);
}

/* Those of the batch that are sound, in out[]. */
static unsigned take_batch(struct netif_queue *q, struct packet **out)
{
    struct netif_tx_side *t = &q->tx;
    unsigned n = 0, invalid = 0;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < t->job_count; i++) {
        if (t->job[i].frame.mcast && t->job[i].status == NETIF_OKAY) continue;
        if (t->job[i].status != NETIF_OKAY || !take_frame(t, i)) {
            invalid++;
            continue;
        }
        struct packet *p = &t->packet[i];
        if (p->offload.gso) charge_segments(q, p);
        bytes += p->length_bytes;
        out[n++] = p;
    }
    counter_add(&t->count.packets, n);
    counter_add(&t->count.bytes, bytes);
    if (unlikely(invalid)) counter_add(&t->count.invalid, invalid);
    return n;
}

static int receive(struct port_source *s, struct packet **out, unsigned max, struct packet_pool *pool)
{
    struct netif_queue *q = queue_of(s);
    struct vif *v = q->vif;
    s->not_before_ns = 0;
    if (unlikely(q->tx.broken)) return -EPROTO;
    if (unlikely(vif_announcement_is_due(v)) && atomic_exchange(&v->announce, false)) {
        out[0] = &q->tx.packet[0];
        vif_announcement_make(v, out[0], head_of(&q->tx, 0));
        return 1;
    }
    int count = pop_batch(q, max < PACKET_BATCH ? max : PACKET_BATCH);
    if (count <= 0) return count;
    plan(q);
    fetch(q);
    unsigned n = take_batch(q, out);
    if (unlikely(atomic_load_explicit(&v->link_down, memory_order_relaxed))) {
        counter_add(&q->tx.count.dropped, n);
        n = 0;
    }
    if (n == 0) give_back(q);
    return (int)n;
}

static void release(struct port_source *s)
{
    give_back(queue_of(s));
}

/* ---- sleeping ---- */

static bool arm(struct port_source *s)
{
    struct netif_queue *q = queue_of(s);
    if (q->tx.broken) return false;
    if (vif_announcement_is_due(q->vif)) return true;
    if (vif_announcement_waits(q->vif))
        s->look_at_ns = atomic_load_explicit(&q->vif->announce_after_ns, memory_order_relaxed);
    /* Held back by its limit: the time matters, not the guest's events. */
    if (s->not_before_ns) return false;
    if (q->tx.masked) q->xen->ops->unmask(q->xen, q->tx.port);
    q->tx.masked = false;
    return netif_tx_final_check(q->tx.ring);
}

/* Awake, it asks for no events; one that was under way already costs a look. */
static void disarm(struct port_source *s)
{
    (void)s;
}

/* The receive side's port is never unmasked: pages are found when they are needed. */
static void woken(struct port_source *s)
{
    struct netif_queue *q = queue_of(s);
    int ports[PORTS_AT_ONCE];
    unsigned n = q->xen->ops->pending(q->xen, ports, PORTS_AT_ONCE);
    counter_add(&q->tx.count.kicks, 1);
    for (unsigned i = 0; i < n; i++)
        if (ports[i] == q->tx.port) q->tx.masked = true;
}

static const struct port_source_ops source_ops = {
    .receive = receive, .release = release, .arm = arm, .disarm = disarm, .woken = woken};

/* ---- life ---- */

int netif_tx_side_make(struct netif_queue *q)
{
    q->source = (struct port_source){.ops = &source_ops, .port = &q->vif->port, .fd = -1};
    q->tx.heads = aligned_alloc(XEN_PAGE_BYTES, HEAD_PAGES * XEN_PAGE_BYTES);
    if (!q->tx.heads) return -ENOMEM;
    /* Not there before it is used. */
    void *mem = mmap(NULL, PACKET_BATCH * (size_t)NETIF_ARENA_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mem == MAP_FAILED) return -errno;
    q->tx.arena = mem;
    return 0;
}

void netif_tx_side_unmake(struct netif_queue *q)
{
    if (q->tx.arena) munmap(q->tx.arena, PACKET_BATCH * (size_t)NETIF_ARENA_BYTES);
    free(q->tx.heads);
}

int netif_tx_run(struct netif_queue *q)
{
    struct vif_runners *r = &q->vif->runners;
    q->tx.broken = q->tx.masked = false;
    q->tx.job_count = q->tx.map_count = 0;
    q->source.not_before_ns = 0;
    q->source.fd = q->xen->ops->event_fd(q->xen);
    int ret = r->get(r->arg, q->pair, &q->runner);
    if (ret < 0) return ret;
    ret = runner_add(q->runner, &q->source);
    if (ret == 0) return 0;
    r->put(r->arg, q->pair, q->runner);
    q->runner = NULL;
    return ret;
}

void netif_tx_halt(struct netif_queue *q)
{
    struct vif_runners *r = &q->vif->runners;
    if (!q->runner) return;
    runner_remove(&q->source);
    r->put(r->arg, q->pair, q->runner);
    q->runner = NULL;
    give_back(q);
}
