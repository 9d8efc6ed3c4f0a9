/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split virtqueues, device side (Virtual I/O Device 1.2, section 2.7).
 *
 *   descriptor table   16 bytes each: address, length, flags, next. A chain follows next from its head, perhaps
 *                      into one indirect table.
 *   available ring     driver to device: heads of chains, and an index that counts them for ever (mod 2^16)
 *   used ring          device to driver: heads and bytes written, and the same kind of index
 *
 * What the other side must see first: the driver's entries are read after its index (acquire), our used entries are
 * written before our index (release). Each side, before it sleeps, stores what it waits for and then looks at
 * the other's index once more; each side that moves its index then looks at what the other waits for. Between the store and
 * the look stands a full fence, on both sides, or a wake-up would be lost.
 *
 * Completing in order (a `place`): every chain adds one to both indices, so the used index, moved by one store, says which
 * chain is the next, and a successor starts there.
 *
 * Bounds: the index may be ahead by at most the queue's size; a head is below the size and not in
 * flight; a walk visits at most `size` descriptors of the table, or of an indirect table as many as it has.
 */
#include "ring/virtq_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static inline char *used_event(const struct split_queue *s, uint16_t size)
{
    return s->avail + SPLIT_RING + (size_t)size * SPLIT_AVAIL_ENTRY;
}

static inline char *avail_event(const struct split_queue *s, uint16_t size)
{
    return s->used + SPLIT_RING + (size_t)size * SPLIT_USED_ENTRY;
}

static int resume(struct virtq *q, struct errmsg *e)
{
    struct split_queue *s = &q->split;
    int ret = inflight_split_check(s->table, q->size, e);
    if (ret) return ret;
    q->resume = malloc(q->size * sizeof q->resume[0]);
    if (!q->resume) return errmsg_sys(e, ENOMEM, "virtqueue");
    int count = inflight_split_resume(s->table, q->size, s->used_next, q->resume);
    if (count < 0) {
        virtq_break(q, "the used index is not where the in-flight table says that it can be");
        count = 0;
    }
    q->resume_count = (unsigned)count;
    for (int i = 0; i < count; i++)
        s->state[q->resume[i].head] = SPLIT_POPPED;
    s->avail_next = s->avail_seen = (uint16_t)(s->used_next + count);
    s->last_batch_head = inflight_load16(&s->table->last_batch_head); /* any value: it only goes back into the table */
    return 0;
}

int split_new(struct virtq *q, const struct virtq_setup *setup, struct errmsg *e)
{
    struct split_queue *s = &q->split;
    if (setup->base > UINT16_MAX)
        return errmsg_set(e, EINVAL, "virtqueue base 0x%x, a split queue's is below 0x10000", setup->base);
    *s = (struct split_queue){.desc = setup->desc, .avail = setup->driver, .used = setup->device};
    s->table = setup->inflight;
    s->mask = (uint16_t)(q->size - 1);
    s->state = calloc(q->size, sizeof s->state[0]);
    if (!s->state) return errmsg_sys(e, ENOMEM, "virtqueue");
    s->avail_next = s->avail_seen = (uint16_t)setup->base;
    s->used_next = s->used_seen = ring_load16(s->used + SPLIT_IDX);
    if (q->place) {
        if (setup->resume) s->avail_next = s->avail_seen = s->used_next;
        __atomic_store_n(q->place, s->avail_next, __ATOMIC_RELAXED);
    }
    int ret = s->table && setup->resume ? resume(q, e) : -ENODATA;
    if (ret != -ENODATA) return ret;
    if (s->table) inflight_split_init(s->table, q->size, s->used_next);
    return 0;
}

void split_free(struct virtq *q)
{
    free(q->split.state);
}

/* Follow next through a table of `limit` descriptors. 0: the chain ends; 1: at an indirect descriptor, in *d; or -errno. */
static inline int follow(struct virtq *q, const char *table, unsigned limit, unsigned at, struct chain_walk *w,
                         struct ring_desc *d)
{
    for (unsigned left = limit; left > 0; left--) {
        *d = split_desc_copy(table + (size_t)at * DESC_BYTES);
        if (unlikely(d->flags & DESC_F_INDIRECT)) return 1;
        int ret = virtq_walk_add(q, w, d);
        if (unlikely(ret)) return ret;
        if (!(d->flags & DESC_F_NEXT)) return 0;
        at = d->next_or_id;
        if (unlikely(at >= limit)) return virtq_broke(q, "a descriptor whose next is past the table's end");
    }
    return virtq_broke(q, "a descriptor chain that loops");
}

/* The chain goes on in the table that d describes, and ends there. */
static int walk_indirect(struct virtq *q, struct chain_walk *w, struct ring_desc *d)
{
    if (!q->indirect) return virtq_broke(q, "an indirect descriptor, which was not negotiated");
    if (d->flags & DESC_F_NEXT) return virtq_broke(q, "an indirect descriptor that is not the last of its chain");
    if (d->length == 0 || d->length % DESC_BYTES || d->length / DESC_BYTES > VIRTQ_SIZE_MAX)
        return virtq_broke(q, "an indirect table of an impossible length");
    const char *table = guest_lookup_at(&q->hot, q->map, (struct gpa){d->addr}, d->length);
    if (!table) return virtq_broke(q, "an indirect table outside the guest's memory");
    int ret = follow(q, table, d->length / DESC_BYTES, 0, w, d);
    return ret == 1 ? virtq_broke(q, "an indirect descriptor inside an indirect table") : ret;
}

static inline int walk(struct virtq *q, uint16_t head, struct chain_walk *w)
{
    struct ring_desc d;
    int ret = follow(q, q->split.desc, q->size, head, w, &d);
    return unlikely(ret == 1) ? walk_indirect(q, w, &d) : ret;
}

static int take(struct virtq *q, uint16_t head, struct virtq_chain *c, struct iovec *iov, unsigned iov_max)
{
    struct chain_walk w = {.iov = iov, .iov_max = iov_max};
    int ret = walk(q, head, &w);
    if (likely(ret == 0)) ret = virtq_walk_end(q, &w, c);
    if (unlikely(ret)) return ret;
    c->id = head;
    c->slots = 1;
    q->in_flight++;
    return 1;
}

int split_resume(struct virtq *q, uint16_t head, struct virtq_chain *c, struct iovec *iov, unsigned iov_max)
{
    return take(q, head, c, iov, iov_max);
}

/* Copy out the next heads. 1; 0 when there is none; -EPROTO. */
static int fetch_heads(struct virtq *q)
{
    struct split_queue *s = &q->split;
    unsigned count = (uint16_t)(s->avail_seen - s->avail_next);
    if (count == 0) {
        s->avail_seen = ring_load16_acquire(s->avail + SPLIT_IDX);
        count = (uint16_t)(s->avail_seen - s->avail_next);
        if (count == 0) return 0;
        if (unlikely(count > q->size))
            return virtq_broke(q, "the available index jumped by more than the queue's size");
    }
    if (count > SPLIT_HEADS) count = SPLIT_HEADS;
    for (unsigned i = 0; i < count; i++) {
        unsigned at = (s->avail_next + i) & s->mask;
        s->heads[i] = ring_load16(s->avail + SPLIT_RING + (size_t)at * SPLIT_AVAIL_ENTRY);
        if (likely(s->heads[i] < q->size)) __builtin_prefetch(s->desc + (size_t)s->heads[i] * DESC_BYTES);
    }
    s->avail_next = (uint16_t)(s->avail_next + count);
    s->heads_at = 0;
    s->heads_count = (uint8_t)count;
    return 1;
}

int split_pop(struct virtq *q, struct virtq_chain *c, struct iovec *iov, unsigned iov_max)
{
    struct split_queue *s = &q->split;
    if (s->heads_at == s->heads_count) {
        int ret = fetch_heads(q);
        if (ret <= 0) return ret;
    }
    uint16_t head = s->heads[s->heads_at];
    if (unlikely(head >= q->size)) return virtq_broke(q, "an available head past the descriptor table's end");
    if (unlikely(s->state[head] != SPLIT_FREE)) return virtq_broke(q, "a head was made available while in flight");
    int ret = take(q, head, c, iov, iov_max);
    if (unlikely(ret < 0)) return ret;
    s->state[head] = SPLIT_POPPED;
    if (s->table) inflight_split_mark(s->table, head, q->counter++);
    if (++s->heads_at < s->heads_count && likely(s->heads[s->heads_at] < q->size))
        virtq_prefetch_target(q, s->desc + (size_t)s->heads[s->heads_at] * DESC_BYTES);
    return 1;
}

unsigned split_pop_plain(struct virtq *q, struct virtq_chain *c, struct iovec *iov, unsigned max)
{
    struct split_queue *s = &q->split;
    unsigned n = 0;
    while (n < max) {
        if (s->heads_at == s->heads_count && fetch_heads(q) <= 0) break;
        unsigned count = s->heads_count - s->heads_at, from = n;
        if (count > max - n) count = max - n;
        for (; n < from + count; n++) {
            uint16_t head = s->heads[s->heads_at + (n - from)];
            if (unlikely(head >= q->size || s->state[head] != SPLIT_FREE)) break; /* virtq_pop() says what is wrong */
            struct ring_desc d = split_desc_copy(s->desc + (size_t)head * DESC_BYTES);
            if (d.flags & (DESC_F_NEXT | DESC_F_INDIRECT) || !virtq_take_plain(q, &d, &c[n], &iov[n])) break;
            c[n].id = head;
            s->state[head] = SPLIT_POPPED;
        }
        s->heads_at = (uint8_t)(s->heads_at + (n - from));
        if (n < from + count) break;
    }
    q->in_flight += n;
    return n;
}

void split_unpop(struct virtq *q, const struct virtq_chain *c)
{
    struct split_queue *s = &q->split;
    assert(s->state[c->id] == SPLIT_POPPED);
    s->state[c->id] = SPLIT_FREE;
    /* Heads that were copied out are read anew with it. */
    s->avail_next = (uint16_t)(s->avail_next - (s->heads_count - s->heads_at) - 1);
    s->heads_at = s->heads_count = 0;
    q->in_flight--;
}

static inline void put_used(struct split_queue *s, uint16_t at, uint16_t id, uint32_t written_bytes)
{
    char *entry = s->used + SPLIT_RING + (size_t)(at & s->mask) * SPLIT_USED_ENTRY;
    ring_store32(entry, id);
    ring_store32(entry + 4, written_bytes);
}

/* One entry for all chains that were pushed with nothing written: the last one's, in the first one's place (2.7.9). */
static inline void put_skipped(struct split_queue *s)
{
    if (s->skip_count) put_used(s, (uint16_t)(s->used_next - s->skip_count), s->skip_id, 0);
    s->skip_count = 0;
}

/* Nothing of it is to be seen before the index is moved, so a head may be called free already. */
void split_push_many(struct virtq *q, const struct virtq_chain *c, const uint32_t *written_bytes, unsigned count)
{
    struct split_queue *s = &q->split;
    if (count == 0) return;
    if (!q->in_order || written_bytes) put_skipped(s);
    for (unsigned i = 0; i < count; i++) {
        assert(c[i].id < q->size && s->state[c[i].id] == SPLIT_POPPED);
        s->state[c[i].id] = SPLIT_FREE;
        if (!q->in_order || written_bytes)
            put_used(s, (uint16_t)(s->used_next + i), c[i].id, written_bytes ? written_bytes[i] : 0);
    }
    if (q->in_order && !written_bytes) {
        s->skip_count = (uint16_t)(s->skip_count + count);
        s->skip_id = c[count - 1].id;
    }
    s->used_next = (uint16_t)(s->used_next + count);
    s->pushed = true;
    q->in_flight -= count;
}

void split_push(struct virtq *q, uint16_t id, uint32_t written_bytes)
{
    struct split_queue *s = &q->split;
    assert(id < q->size && s->state[id] == SPLIT_POPPED);
    s->state[id] = SPLIT_PUSHED;
    if (q->in_order && written_bytes == 0) {
        s->skip_id = id;
        s->skip_count++;
    } else {
        put_skipped(s);
        put_used(s, s->used_next, id, written_bytes);
    }
    s->used_next++;
    if (s->table) {
        inflight_split_batch(s->table, id, s->last_batch_head);
        s->last_batch_head = id;
    }
    q->batch[q->batch_count++] = id;
    q->in_flight--;
}

/* Has the driver asked to be told of an entry in [from, to)? */
static bool driver_waits(const struct virtq *q, uint16_t from, uint16_t to)
{
    const struct split_queue *s = &q->split;
    ring_full_fence();
    if (!q->event_idx) return !(ring_load16(s->avail + SPLIT_FLAGS) & SPLIT_AVAIL_F_NO_INTERRUPT);
    uint16_t event = ring_load16(used_event(s, q->size));
    return (uint16_t)(to - event - 1) < (uint16_t)(to - from);
}

bool split_publish(struct virtq *q)
{
    struct split_queue *s = &q->split;
    uint16_t from = s->used_seen;
    put_skipped(s);
    ring_store16_release(s->used + SPLIT_IDX, s->used_next);
    s->used_seen = s->used_next;
    s->pushed = false;
    KILL_POINT(); /* before this the batch is still in flight, after it is the driver's */
    for (unsigned i = 0; i < q->batch_count; i++) {
        s->state[q->batch[i]] = SPLIT_FREE;
        if (s->table) inflight_store8(&s->table->desc[q->batch[i]].inflight, 0);
    }
    if (q->place) __atomic_store_n(q->place, (uint16_t)(virtq_base(q) - q->in_flight), __ATOMIC_RELAXED);
    KILL_POINT(); /* the list of the batch is good until here, and not needed from here */
    if (s->table) inflight_store16(&s->table->used_idx, s->used_next);
    KILL_POINT();
    return driver_waits(q, from, s->used_next);
}

void split_kick_disable(struct virtq *q)
{
    /* With EVENT_IDX the driver kicks once when it passes the event index, and that lies behind it. */
    if (!q->event_idx) ring_store16(q->split.used + SPLIT_FLAGS, SPLIT_USED_F_NO_NOTIFY);
}

void split_kick_enable(struct virtq *q)
{
    struct split_queue *s = &q->split;
    if (q->event_idx) ring_store16(avail_event(s, q->size), s->avail_next);
    else ring_store16(s->used + SPLIT_FLAGS, 0);
}

bool split_has_work(const struct virtq *q)
{
    const struct split_queue *s = &q->split;
    return s->heads_at != s->heads_count || s->avail_seen != s->avail_next ||
           ring_load16(s->avail + SPLIT_IDX) != s->avail_next;
}
