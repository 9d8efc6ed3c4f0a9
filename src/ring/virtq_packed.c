/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packed virtqueues, device side (Virtual I/O Device 1.2, section 2.8).
 *
 * One ring of 16-byte descriptors (address, length, buffer id, flags) goes both ways. Each side has a position in it and a wrap
 * counter, a bit that flips each time round. A descriptor is available when its AVAIL flag equals the counter of that round
 * and its USED flag does not; it is used when both equal it. The driver writes a chain into consecutive
 * slots; the device answers with one descriptor at its own position and skips as many slots as that chain had.
 *
 * What the other side must see first: a chain's other words are read after its head's flags (acquire). A batch
 * of used descriptors is written except for the first one's flags; those are stored last (release), and the
 * driver, which looks only at its own position, then sees all of it. Before either side sleeps or skips a notification a full fence
 * stands between its store and its look at the other's, as in the split ring.
 *
 * Bounds: slots in flight never exceed the ring, so our position for used descriptors never passes the one for available
 * ones, and a chain ends there at the latest. A buffer id is the driver's choice of 16 bits;
 * our name for a chain is its entry in a private table. The ids in flight are a bitmap: none is taken twice.
 *
 * Killed while a batch was being written: slots past the first may say "used", and the driver would believe them as soon as it
 * came to them, in whatever order the next process finishes the chains. So that process first makes all slots in
 * flight say "available" again (scrub()).
 *
 * Completing in order (a `place`): a chain is shown to the driver as it is pushed, by one store of length, id and flags, or, when a frame lies in several
 * chains, by stores from the last to the first, which hides the others until it is there itself. The place word says in its upper half where
 * the first of these descriptors goes and in its lower half where the next one will; both are the same between pushes.
 * A successor finds them different when it was in between. Then the descriptor at the upper half decides: used, and the queue goes
 * on at the lower half; still available, and for a single chain nothing has happened, while of a frame the chains
 * that do not say "used" are given back as the others were, filled to their end (finish_frame()).
 */
#include "ring/virtq_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"

#define IDS 65536u
#define EVENT_WRAP (1u << 15)

/* A chain on its way from the ring into the table. */
struct taking {
    uint16_t entry, last, id;
    unsigned slots;
};

static inline char *slot(const struct packed_queue *p, uint16_t at)
{
    return p->ring + (size_t)at * DESC_BYTES;
}

static inline bool is_available(uint16_t flags, bool wrap)
{
    return !!(flags & DESC_F_AVAIL) == wrap && !!(flags & DESC_F_USED) != wrap;
}

static inline uint16_t available_flags(uint16_t flags, bool wrap)
{
    return (uint16_t)((flags & ~(DESC_F_AVAIL | DESC_F_USED)) | (wrap ? DESC_F_AVAIL : DESC_F_USED));
}

/* Move a position on by count slots, at most once around. */
static inline void advance(const struct virtq *q, uint16_t *at, bool *wrap, unsigned count)
{
    unsigned next = *at + count;
    if (next >= q->size) {
        next -= q->size;
        *wrap = !*wrap;
    }
    *at = (uint16_t)next;
}

static void scrub(struct virtq *q)
{
    struct packed_queue *p = &q->pack;
    uint16_t at = p->used_next;
    bool wrap = p->used_wrap;
    for (unsigned i = 0; i < p->slots_in_flight; i++) {
        char *flags = slot(p, at) + PACKED_FLAGS;
        ring_store16(flags, available_flags(ring_load16(flags), wrap));
        advance(q, &at, &wrap, 1);
    }
    KILL_POINT();
}

/* Take over the chains that the last process left. 0, or -EPROTO when they contradict each other. */
static int adopt_chains(struct virtq *q, unsigned count)
{
    struct packed_queue *p = &q->pack;
    for (unsigned i = 0; i < count; i++) {
        const struct inflight_chain *c = &q->resume[i];
        if (bitmap_test(p->ids, c->id)) return -EPROTO;
        bitmap_set(p->ids, c->id);
        p->entry[c->head].last = c->last;
        p->entry[c->head].slots = c->slots;
        p->entry[c->head].id = c->id;
        p->slots_in_flight = (uint16_t)(p->slots_in_flight + c->slots);
    }
    return 0;
}

/* `u` has been checked; the table's own copy may have become anything since. */
static int resume_table(struct virtq *q, struct inflight_packed_used u, uint16_t *links)
{
    struct packed_queue *p = &q->pack;
    bool first_is_used = !is_available(ring_load16(slot(p, u.old_used_idx) + PACKED_FLAGS), u.old_used_wrap_counter);
    int count = inflight_packed_resume(p->table, q->size, &u, first_is_used, q->resume, links, &p->free_head);
    if (count < 0) return count;
    for (unsigned i = 0; i < q->size; i++)
        p->entry[i].next = links[i];
    int ret = adopt_chains(q, (unsigned)count);
    if (ret) return ret;
    q->resume_count = (unsigned)count;
    p->avail_next = p->used_next = u.used_idx;
    p->avail_wrap = p->used_wrap = u.used_wrap_counter;
    advance(q, &p->avail_next, &p->avail_wrap, p->slots_in_flight);
    scrub(q);
    return 0;
}

static int resume(struct virtq *q, struct errmsg *e)
{
    struct inflight_packed_used used;
    int ret = inflight_packed_check(q->pack.table, q->size, &used, e);
    if (ret) return ret;
    uint16_t *links = malloc(q->size * sizeof links[0]);
    q->resume = malloc(q->size * sizeof q->resume[0]);
    if (links && q->resume) {
        if (resume_table(q, used, links)) virtq_break(q, "the in-flight table contradicts itself");
    } else {
        ret = errmsg_sys(e, ENOMEM, "virtqueue");
    }
    free(links);
    return ret;
}

/* A position as a place has it. */
static inline uint32_t position(uint16_t at, bool wrap)
{
    return at | (wrap ? EVENT_WRAP : 0);
}

static inline void store_place(const struct virtq *q, uint32_t from, uint32_t to)
{
    __atomic_store_n(q->place, to | from << 16, __ATOMIC_RELAXED);
    KILL_POINT();
}

/* Length, id and flags at once, after everything that was written before. */
static inline void store_used(struct packed_queue *p, uint16_t at, bool wrap, uint16_t id, uint32_t written_bytes)
{
    uint64_t flags = (wrap ? DESC_F_AVAIL | DESC_F_USED : 0) | (written_bytes ? DESC_F_WRITE : 0);
    __atomic_store_n((uint64_t *)(void *)(slot(p, at) + PACKED_LENGTH),
                     ENDIAN_LE(64, written_bytes | (uint64_t)id << 32 | flags << 48), __ATOMIC_RELEASE);
}

/* Go on where the place says. 0 or -errno. */
static int resume_place(struct virtq *q);

int packed_new(struct virtq *q, const struct virtq_setup *setup, struct errmsg *e)
{
    struct packed_queue *p = &q->pack;
    *p = (struct packed_queue){.ring = setup->desc, .driver_event = setup->driver, .device_event = setup->device};
    p->table = setup->inflight;
    p->avail_next = setup->base & 0x7fff;
    p->avail_wrap = (setup->base >> 15) & 1;
    p->used_next = (setup->base >> 16) & 0x7fff;
    p->used_wrap = setup->base >> 31;
    if (p->avail_next >= q->size || p->used_next >= q->size)
        return errmsg_set(e, EINVAL, "virtqueue base 0x%x: index %u or %u in a packed queue of %u entries", setup->base,
                          p->avail_next, p->used_next, q->size);
    p->entry = calloc(q->size, sizeof p->entry[0]);
    p->ids = calloc(bitmap_words(IDS), sizeof p->ids[0]);
    if (!p->entry || !p->ids) return errmsg_sys(e, ENOMEM, "virtqueue");
    for (unsigned i = 0; i < q->size; i++)
        p->entry[i].next = (uint16_t)(i + 1);
    int ret = p->table && setup->resume ? resume(q, e) : -ENODATA;
    if (q->place && setup->resume && resume_place(q)) return errmsg_sys(e, ENOMEM, "virtqueue");
    if (ret == -ENODATA) {
        ret = 0;
        if (q->place) store_place(q, position(p->used_next, p->used_wrap), position(p->avail_next, p->avail_wrap));
        if (p->table) inflight_packed_init(p->table, q->size, p->used_next, p->used_wrap);
    }
    p->used_seen = p->used_next;
    p->used_seen_wrap = p->used_wrap;
    return ret;
}

void packed_free(struct virtq *q)
{
    free(q->pack.entry);
    free(q->pack.ids);
}

/* The buffers of an indirect table: all of its entries, in order; only WRITE means something in their flags. */
static int walk_indirect(struct virtq *q, struct chain_walk *w, const struct ring_desc *d, bool alone)
{
    if (!q->indirect) return virtq_broke(q, "an indirect descriptor, which was not negotiated");
    if (!alone) return virtq_broke(q, "an indirect descriptor in a chain of several");
    if (d->length == 0 || d->length % DESC_BYTES || d->length / DESC_BYTES > VIRTQ_SIZE_MAX)
        return virtq_broke(q, "an indirect table of an impossible length");
    const char *table = guest_lookup_at(&q->hot, q->map, (struct gpa){d->addr}, d->length);
    if (!table) return virtq_broke(q, "an indirect table outside the guest's memory");
    for (unsigned i = 0; i < d->length / DESC_BYTES; i++) {
        struct ring_desc inner = packed_desc_copy(table + (size_t)i * DESC_BYTES);
        if (inner.flags & DESC_F_INDIRECT) return virtq_broke(q, "an indirect descriptor inside an indirect table");
        int ret = virtq_walk_add(q, w, &inner);
        if (ret) return ret;
    }
    return 0;
}

static inline int walk_one(struct virtq *q, struct chain_walk *w, const struct ring_desc *d, bool alone)
{
    return unlikely(d->flags & DESC_F_INDIRECT) ? walk_indirect(q, w, d, alone) : virtq_walk_add(q, w, d);
}

/* The entry stays free until commit(). Without a table a chain takes one entry however long it is. */
static inline void take_entry(struct packed_queue *p, struct taking *t, const struct ring_desc *d)
{
    t->id = d->next_or_id;
    if (t->slots++ > 0 && !p->table) return;
    if (p->table) {
        struct inflight_packed_desc *to = &p->table->desc[t->entry];
        inflight_store64(&to->addr, d->addr);
        __atomic_store_n(&to->len, d->length, __ATOMIC_RELAXED);
        inflight_store16(&to->flags, d->flags);
        inflight_store16(&to->id, d->next_or_id);
    }
    t->last = t->entry;
    t->entry = p->entry[t->entry].next;
}

/* Inlined into packed_pop() for speed; its other use is rare. */
static inline __attribute__((always_inline)) int walk_ring(struct virtq *q, struct chain_walk *w, struct taking *t)
{
    struct packed_queue *p = &q->pack;
    unsigned room = q->size - p->slots_in_flight;
    uint16_t at = p->avail_next;
    bool wrap = p->avail_wrap;
    while (t->slots < room) {
        struct ring_desc d = packed_desc_copy(slot(p, at));
        bool more = d.flags & DESC_F_NEXT;
        take_entry(p, t, &d);
        int ret = walk_one(q, w, &d, t->slots == 1 && !more);
        if (unlikely(ret)) return ret;
        if (!more) return 0;
        advance(q, &at, &wrap, 1);
    }
    return virtq_broke(q, "a descriptor chain longer than the room in the ring");
}

/* The chain becomes one in flight, in the table by the last of these stores. */
static inline void commit(struct virtq *q, const struct taking *t)
{
    struct packed_queue *p = &q->pack;
    uint16_t head = p->free_head;
    p->entry[head].last = t->last;
    p->entry[head].slots = (uint16_t)t->slots;
    p->entry[head].id = t->id;
    p->free_head = t->entry;
    p->slots_in_flight = (uint16_t)(p->slots_in_flight + t->slots);
    bitmap_set(p->ids, t->id);
    if (!p->table) return;
    struct inflight_packed_desc *to = &p->table->desc[head];
    inflight_store16(&to->num, (uint16_t)t->slots);
    inflight_store16(&to->last, t->last);
    inflight_store64(&to->counter, q->counter++);
    KILL_POINT();
    inflight_store8(&to->inflight, 1);
    KILL_POINT(); /* marked, but in the free list: not in flight yet */
    inflight_store16(&p->table->free_head, t->entry);
    KILL_POINT();
    inflight_store16(&p->table->old_free_head, t->entry);
    KILL_POINT();
}

int packed_pop(struct virtq *q, struct virtq_chain *c, struct iovec *iov, unsigned iov_max)
{
    struct packed_queue *p = &q->pack;
    if (!packed_has_work(q)) return 0;
    struct chain_walk w = {.iov = iov, .iov_max = iov_max};
    struct taking t = {.entry = p->free_head};
    int ret = walk_ring(q, &w, &t);
    if (likely(ret == 0)) ret = virtq_walk_end(q, &w, c);
    if (unlikely(ret)) return ret;
    if (unlikely(bitmap_test(p->ids, t.id))) return virtq_broke(q, "a buffer id was made available while in flight");
    c->id = p->free_head;
    c->slots = (uint16_t)t.slots;
    commit(q, &t);
    advance(q, &p->avail_next, &p->avail_wrap, t.slots);
    q->in_flight++;
    if (packed_has_work(q)) virtq_prefetch_target(q, slot(p, p->avail_next));
    return 1;
}

unsigned packed_pop_plain(struct virtq *q, struct virtq_chain *c, struct iovec *iov, unsigned max)
{
    struct packed_queue *p = &q->pack;
    unsigned n = 0;
    while (n < max && p->slots_in_flight < q->size) {
        const char *at = slot(p, p->avail_next);
        struct ring_desc d = {.flags = ring_load16_acquire(at + PACKED_FLAGS)};
        if (!is_available(d.flags, p->avail_wrap)) break;
        d = packed_desc_copy(at);
        /* Whatever is not as usual, or wrong, is for virtq_pop(). */
        if (d.flags & (DESC_F_NEXT | DESC_F_INDIRECT) || bitmap_test(p->ids, d.next_or_id)) break;
        if (!virtq_take_plain(q, &d, &c[n], &iov[n])) break;
        struct packed_entry *e = &p->entry[p->free_head];
        c[n++].id = e->last = p->free_head;
        p->free_head = e->next;
        e->slots = 1;
        e->id = d.next_or_id;
        bitmap_set(p->ids, d.next_or_id);
        p->slots_in_flight++;
        advance(q, &p->avail_next, &p->avail_wrap, 1);
    }
    q->in_flight += n;
    return n;
}

int packed_resume(struct virtq *q, uint16_t entry, struct virtq_chain *c, struct iovec *iov, unsigned iov_max)
{
    struct packed_queue *p = &q->pack;
    struct chain_walk w = {.iov = iov, .iov_max = iov_max};
    c->id = entry;
    c->slots = p->entry[entry].slots;
    for (unsigned i = 0; i < c->slots; i++, entry = p->entry[entry].next) {
        /* The ring's own slots may be overwritten: the table has the copies. */
        const volatile struct inflight_packed_desc *from = &p->table->desc[entry];
        struct ring_desc d = {.addr = from->addr, .length = from->len, .flags = from->flags};
        int ret = walk_one(q, &w, &d, c->slots == 1);
        if (ret) return ret;
    }
    int ret = virtq_walk_end(q, &w, c);
    if (ret) return ret;
    q->in_flight++;
    return 1;
}

/* One chain of a frame that a killed process was giving back. */
struct left_chain {
    uint16_t at, id;
    bool wrap;
    uint32_t room_bytes;
};

/* The chain at the position to be popped next, its room only: a walk without buffers counts them. */
static int look_at(struct virtq *q, struct left_chain *out, unsigned *slots)
{
    struct packed_queue *p = &q->pack;
    struct taking t = {.entry = p->free_head};
    struct chain_walk w = {.counting = true};
    struct virtq_chain c = {0};
    int ret = walk_ring(q, &w, &t);
    if (ret == 0) ret = virtq_walk_end(q, &w, &c);
    if (ret) return ret;
    *out = (struct left_chain){p->avail_next, t.id, p->avail_wrap, (uint32_t)min_u64(c.in_bytes, UINT32_MAX)};
    *slots = t.slots;
    return 0;
}

/* A process was killed between moving its place and showing what it had moved it for. Its frame's last chains may be given
 * back already, in front of chains that are not: those are given back now. A frame of one chain has no such chains. 0 or -errno. */
static int finish_frame(struct virtq *q, uint16_t to, bool to_wrap)
{
    struct packed_queue *p = &q->pack;
    struct left_chain *left = malloc(q->size * sizeof *left);
    unsigned count = 0, slots, passed = 0;
    if (!left) return -ENOMEM;
    while (passed < q->size && !(p->avail_next == to && p->avail_wrap == to_wrap) && packed_has_work(q) &&
           look_at(q, &left[count], &slots) == 0) {
        advance(q, &p->avail_next, &p->avail_wrap, slots);
        passed += slots;
        count++;
    }
    bool all_intact = p->avail_next == to && p->avail_wrap == to_wrap;
    if (all_intact) { /* nothing was shown, or could be: as if it had not been popped */
        p->avail_next = p->used_next;
        p->avail_wrap = p->used_wrap;
    } else {
        while (count-- > 0)
            store_used(p, left[count].at, left[count].wrap, left[count].id, left[count].room_bytes);
        p->avail_next = p->used_next = to;
        p->avail_wrap = p->used_wrap = to_wrap;
    }
    free(left);
    return 0;
}

static int resume_place(struct virtq *q)
{
    struct packed_queue *p = &q->pack;
    uint16_t to = p->avail_next;
    bool to_wrap = p->avail_wrap;
    if (to == p->used_next && to_wrap == p->used_wrap) return 0;
    p->avail_next = p->used_next;
    p->avail_wrap = p->used_wrap;
    if (packed_has_work(q)) return finish_frame(q, to, to_wrap);
    p->avail_next = p->used_next = to;
    p->avail_wrap = p->used_wrap = to_wrap;
    return 0;
}

static inline void forget_chain(struct packed_queue *p, uint16_t entry)
{
    struct packed_entry *e = &p->entry[entry];
    bitmap_clear(p->ids, e->id);
    e->slots = 0;
    p->entry[e->last].next = p->free_head;
    p->free_head = entry;
}

void packed_unpop(struct virtq *q, const struct virtq_chain *c)
{
    struct packed_queue *p = &q->pack;
    struct packed_entry *e = &p->entry[c->id];
    assert(e->slots == c->slots);
    unsigned at = p->avail_next + (p->avail_next < e->slots ? q->size : 0u) - e->slots;
    if (p->avail_next < e->slots) p->avail_wrap = !p->avail_wrap;
    p->avail_next = (uint16_t)at;
    p->slots_in_flight = (uint16_t)(p->slots_in_flight - e->slots);
    forget_chain(p, c->id);
    q->in_flight--;
}

/* The chain of this entry goes back; the driver may use its id and its slots again as soon as it sees that. */
static unsigned give_back(struct virtq *q, uint16_t id)
{
    struct packed_queue *p = &q->pack;
    assert(id < q->size && p->entry[id].slots > 0);
    unsigned slots = p->entry[id].slots;
    p->batch_slots = (uint16_t)(p->batch_slots + slots);
    p->slots_in_flight = (uint16_t)(p->slots_in_flight - slots);
    forget_chain(p, id);
    q->batch_count++;
    q->in_flight--;
    return slots;
}

/* One descriptor for all chains that were pushed with nothing written: the last one's, in the first one's slot (2.8.14). */
static void put_skipped(struct virtq *q)
{
    struct packed_queue *p = &q->pack;
    if (p->skip_slots == 0) return;
    uint16_t at = p->used_next;
    bool wrap = p->used_wrap;
    advance(q, &p->used_next, &p->used_wrap, p->skip_slots);
    p->skip_slots = 0;
    store_place(q, position(at, wrap), position(p->used_next, p->used_wrap));
    store_used(p, at, wrap, p->skip_id, 0);
    KILL_POINT();
}

static inline void push_in_order(struct virtq *q, uint16_t id, uint32_t written_bytes)
{
    struct packed_queue *p = &q->pack;
    uint16_t at = p->used_next, name = p->entry[id].id;
    bool wrap = p->used_wrap;
    advance(q, &p->used_next, &p->used_wrap, give_back(q, id));
    store_place(q, position(at, wrap), position(p->used_next, p->used_wrap));
    store_used(p, at, wrap, name, written_bytes);
    KILL_POINT();
}

/* Show them from the last to the first, which hides the others until it is there. */
void packed_push_frame(struct virtq *q, const struct virtq_chain *c, const uint32_t *written_bytes, unsigned count)
{
    struct packed_queue *p = &q->pack;
    unsigned slots = 0;
    put_skipped(q);
    uint32_t from = position(p->used_next, p->used_wrap);
    for (unsigned i = 0; i < count; i++)
        slots += c[i].slots;
    advance(q, &p->used_next, &p->used_wrap, slots);
    store_place(q, from, position(p->used_next, p->used_wrap));
    unsigned at = p->used_next;
    bool wrap = p->used_wrap;
    while (count-- > 0) {
        if (at < c[count].slots) {
            at += q->size;
            wrap = !wrap;
        }
        at -= c[count].slots;
        uint16_t name = p->entry[c[count].id].id;
        give_back(q, c[count].id);
        store_used(p, (uint16_t)at, wrap, name, written_bytes ? written_bytes[count] : 0);
        KILL_POINT();
    }
}

void packed_push_many(struct virtq *q, const struct virtq_chain *c, const uint32_t *written_bytes, unsigned count)
{
    /* With nothing written there is no difference between frames and one. */
    if (!written_bytes && !q->in_order && count > 1) {
        packed_push_frame(q, c, NULL, count);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        packed_push(q, c[i].id, written_bytes ? written_bytes[i] : 0);
}

static void push_with_place(struct virtq *q, uint16_t id, uint32_t written_bytes)
{
    struct packed_queue *p = &q->pack;
    if (q->in_order && written_bytes == 0) {
        p->skip_id = p->entry[id].id;
        p->skip_slots = (uint16_t)(p->skip_slots + give_back(q, id));
        return;
    }
    put_skipped(q);
    push_in_order(q, id, written_bytes);
}

void packed_push(struct virtq *q, uint16_t id, uint32_t written_bytes)
{
    struct packed_queue *p = &q->pack;
    assert(id < q->size && p->entry[id].slots > 0);
    if (q->place) {
        push_with_place(q, id, written_bytes);
        return;
    }
    struct packed_entry *e = &p->entry[id];
    uint16_t flags = (uint16_t)((p->used_wrap ? DESC_F_AVAIL | DESC_F_USED : 0) | (written_bytes ? DESC_F_WRITE : 0));
    char *at = slot(p, p->used_next);
    if (q->batch_count == 0) {
        ring_store32(at + PACKED_LENGTH, written_bytes);
        ring_store16(at + PACKED_ID, e->id);
        p->first_at = p->used_next;
        p->first_flags = flags;
    } else {
        ring_store64(at + PACKED_LENGTH, written_bytes | (uint64_t)e->id << 32 | (uint64_t)flags << 48);
    }
    advance(q, &p->used_next, &p->used_wrap, e->slots);
    p->batch_slots = (uint16_t)(p->batch_slots + e->slots);
    e->slots = 0;
    q->batch[q->batch_count++] = id;
    q->in_flight--;
}

/* Has the driver asked to be told of a descriptor among the `slots` before our position? */
static bool driver_waits(const struct virtq *q, unsigned slots)
{
    const struct packed_queue *p = &q->pack;
    ring_full_fence();
    uint32_t event = ring_load32(p->driver_event); /* both fields at once */
    uint16_t flags = (event >> 16) & 3;
    if (flags != PACKED_EVENT_DESC || !q->event_idx) return flags != PACKED_EVENT_DISABLE;
    int behind = (int)p->used_next - (int)(event & (EVENT_WRAP - 1));
    if (!!(event & EVENT_WRAP) != p->used_wrap) behind += q->size;
    return behind > 0 && behind <= (int)slots;
}

/* Return the batch's entries to the free list. The table's list counts only once old_free_head says so. */
static void free_entries(struct virtq *q)
{
    struct packed_queue *p = &q->pack;
    for (unsigned i = 0; i < q->batch_count; i++) {
        struct packed_entry *e = &p->entry[q->batch[i]];
        bitmap_clear(p->ids, e->id);
        p->entry[e->last].next = p->free_head;
        if (p->table) inflight_store16(&p->table->desc[e->last].next, p->free_head);
        p->free_head = q->batch[i];
    }
}

/* All is shown already. */
static bool publish_place(struct virtq *q)
{
    struct packed_queue *p = &q->pack;
    unsigned slots = p->batch_slots;
    put_skipped(q);
    uint32_t now = position(p->used_next, p->used_wrap);
    store_place(q, now, now);
    p->batch_slots = 0;
    p->used_seen = p->used_next;
    p->used_seen_wrap = p->used_wrap;
    return driver_waits(q, slots);
}

bool packed_publish(struct virtq *q)
{
    if (q->place) return publish_place(q);
    struct packed_queue *p = &q->pack;
    struct inflight_packed *t = p->table;
    struct inflight_packed_used u = {p->used_next, p->used_seen, p->used_wrap, p->used_seen_wrap, {0}};
    free_entries(q);
    if (t) {
        KILL_POINT();
        inflight_store16(&t->free_head, p->free_head);
        KILL_POINT();
        inflight_packed_store_used(t, u);
        KILL_POINT(); /* from here on the ring's first descriptor decides which of the two states holds */
    }
    ring_store16_release(slot(p, p->first_at) + PACKED_FLAGS, p->first_flags);
    if (t) {
        KILL_POINT();
        for (unsigned i = 0; i < q->batch_count; i++)
            inflight_store8(&t->desc[q->batch[i]].inflight, 0);
        KILL_POINT();
        inflight_store16(&t->old_free_head, p->free_head);
        KILL_POINT();
        u.old_used_idx = u.used_idx;
        u.old_used_wrap_counter = u.used_wrap_counter;
        inflight_packed_store_used(t, u);
        KILL_POINT();
    }
    p->used_seen = p->used_next;
    p->used_seen_wrap = p->used_wrap;
    unsigned slots = p->batch_slots;
    p->slots_in_flight = (uint16_t)(p->slots_in_flight - slots);
    p->batch_slots = 0;
    return driver_waits(q, slots);
}

void packed_kick_disable(struct virtq *q)
{
    ring_store16(q->pack.device_event + 2, PACKED_EVENT_DISABLE);
}

void packed_kick_enable(struct virtq *q)
{
    struct packed_queue *p = &q->pack;
    if (q->event_idx) {
        ring_store16(p->device_event, (uint16_t)(p->avail_next | (p->avail_wrap ? EVENT_WRAP : 0)));
        ring_store16_release(p->device_event + 2, PACKED_EVENT_DESC);
    } else {
        ring_store16(p->device_event + 2, PACKED_EVENT_ENABLE);
    }
}

bool packed_has_work(const struct virtq *q)
{
    const struct packed_queue *p = &q->pack;
    return is_available(ring_load16_acquire(slot(p, p->avail_next) + PACKED_FLAGS), p->avail_wrap);
}

uint32_t packed_base(const struct virtq *q)
{
    const struct packed_queue *p = &q->pack;
    uint32_t avail = p->avail_next | (p->avail_wrap ? EVENT_WRAP : 0);
    uint32_t used = p->used_next | (p->used_wrap ? EVENT_WRAP : 0);
    return avail | used << 16;
}
