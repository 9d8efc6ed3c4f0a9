/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Driver side of virtqueues: see frontend_queue.h.
 *
 * Split: slot i owns the descriptors from i << stride_shift, chained for good; submitting writes one entry
 * of the available ring. Packed: descriptors are written in ring order at each submission, from
 * the slot's addresses; the first descriptor of a batch gets its flags last, so a batch appears as one.
 * In both the id that the device gives back names the slot.
 *
 * Invariants: added chains are the last `added` entries before avail_next; a slot is busy from
 * fe_queue_add() to fe_queue_reap().
 */
#include "frontend_queue.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "frontend.h"

#define HEADER_LINE_BYTES 64u /* a slot's header and status */
#define STATUS_AT 32u

#define PACKED_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define PACKED_USED (1u << VRING_PACKED_DESC_F_USED)

static uint16_t load_acquire(const uint16_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static void store_release(uint16_t *p, uint16_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static unsigned round_up_power_of_2(unsigned v)
{
    unsigned p = 1;
    while (p < v) {
        p <<= 1;
    }
    return p;
}

unsigned fe_queue_entries(unsigned depth, unsigned descs_per_slot, bool packed, bool indirect)
{
    if (depth == 0 || depth > 32768 || descs_per_slot > 32768) return 0;
    uint64_t per_slot = indirect ? 1 : packed ? descs_per_slot : round_up_power_of_2(descs_per_slot);
    uint64_t n = depth * per_slot;
    if (n > 32768) return 0;
    return round_up_power_of_2((unsigned)n);
}

uint64_t fe_queue_bytes(unsigned size, unsigned depth, unsigned descs_per_slot)
{
    /* Each part begins on a page of its own, at most. */
    uint64_t rings = align_up(16u * (uint64_t)size, 4096) + 2 * align_up(6 + 8u * (uint64_t)size, 4096);
    uint64_t tables = align_up(16u * (uint64_t)descs_per_slot, 64) * depth;
    return rings + align_up(tables, 4096) + align_up((uint64_t)depth * HEADER_LINE_BYTES, 4096);
}

/* ---- Layout ---- */

static int queue_rings(struct fe_queue *q)
{
    q->ring_desc = frontend_alloc(q->f, 16u * (uint64_t)q->size, 4096);
    q->ring_driver = frontend_alloc(q->f, 6 + 2u * (uint64_t)q->size, 4096);
    q->ring_device = frontend_alloc(q->f, 6 + 8u * (uint64_t)q->size, 4096);
    return q->ring_desc && q->ring_driver && q->ring_device ? 0 : -ENOMEM;
}

static int queue_slots(struct fe_queue *q)
{
    const struct frontend_args *a = &q->f->args;
    char *lines = frontend_alloc(q->f, (uint64_t)q->slot_count * HEADER_LINE_BYTES, 4096);
    uint64_t table_bytes = align_up(16u * (uint64_t)q->slot_descs_max, 64);
    char *tables = frontend_alloc(q->f, table_bytes * q->slot_count, 4096);
    char *data = frontend_alloc(q->f, (uint64_t)a->slot_bytes * q->slot_count, 4096);
    q->slot = calloc(q->slot_count, sizeof *q->slot);
    if (!lines || !tables || !data || !q->slot) return -ENOMEM;
    for (unsigned i = 0; i < q->slot_count; i++) {
        struct fe_slot *s = &q->slot[i];
        s->header = (struct virtio_blk_outhdr *)(void *)(lines + (size_t)i * HEADER_LINE_BYTES);
        s->status = (uint8_t *)s->header + STATUS_AT;
        s->data = data + (size_t)i * a->slot_bytes;
        s->indirect = (struct vring_desc *)(void *)(tables + i * table_bytes);
    }
    return 0;
}

int fe_queue_init(struct fe_queue *q, struct frontend *f, unsigned index)
{
    const struct frontend_args *a = &f->args;
    unsigned segments = a->segment_bytes ? (a->slot_bytes + a->segment_bytes - 1) / a->segment_bytes : 1;
    *q = (struct fe_queue){.f = f, .index = index, .size = (uint16_t)a->queue_size, .packed = a->packed};
    q->kick_fd = q->call_fd = -1;
    q->slot_count = a->depth;
    q->slot_descs_max = segments + 2;
    q->stride_shift = (unsigned)__builtin_ctz(round_up_power_of_2(q->slot_descs_max));
    int ret = queue_rings(q);
    if (ret == 0) ret = queue_slots(q);
    if (ret < 0) return ret;
    q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->kick_fd < 0 || q->call_fd < 0) return -errno;
    fe_queue_features(q, a->event_idx, a->indirect);
    fe_queue_restart(q);
    return 0;
}

void fe_queue_clear(struct fe_queue *q)
{
    if (q->kick_fd >= 0) close(q->kick_fd);
    if (q->call_fd >= 0) close(q->call_fd);
    free(q->slot);
    *q = (struct fe_queue){.kick_fd = -1, .call_fd = -1};
}

void fe_queue_features(struct fe_queue *q, bool event_idx, bool indirect)
{
    q->event_idx = event_idx;
    q->indirect = indirect;
    for (unsigned i = 0; i < q->slot_count; i++) {
        q->slot[i].descs = 0; /* written anew at the next use */
    }
}

/* ---- Descriptors ---- */

struct chain_writer {
    struct fe_queue *q;
    struct vring_desc *table;
    unsigned at, base, left;
};

static void chain_put(struct chain_writer *w, const void *p, uint32_t length, bool device_writes)
{
    struct vring_desc *d = &w->table[w->at];
    w->left--;
    d->addr = frontend_gpa(w->q->f, p);
    d->len = length;
    d->flags = (uint16_t)((device_writes ? VRING_DESC_F_WRITE : 0) | (w->left ? VRING_DESC_F_NEXT : 0));
    d->next = (uint16_t)(w->left ? w->base + w->at + 1 : 0);
    w->at++;
}

static unsigned chain_length(const struct fe_queue *q, uint32_t length)
{
    uint32_t seg = q->f->args.segment_bytes;
    return 2 + (length == 0 ? 0 : seg ? (length + seg - 1) / seg : 1);
}

/* Write a whole chain (split form) into table, linked from index `base` on. */
static void chain_write(struct fe_queue *q, struct fe_slot *s, struct vring_desc *table, unsigned base)
{
    struct chain_writer w = {.q = q, .table = table, .base = base, .left = s->descs};
    uint32_t seg = q->f->args.segment_bytes ? q->f->args.segment_bytes : s->length;
    chain_put(&w, s->header, sizeof *s->header, false);
    for (uint32_t done = 0; done < s->length; done += seg) {
        uint32_t n = s->length - done < seg ? s->length - done : seg;
        chain_put(&w, s->data + done, n, s->device_writes);
    }
    chain_put(&w, (const void *)s->status, 1, true);
}

/* A table of packed descriptors has the order of its entries for links, and an id in place of next. */
static void indirect_to_packed(struct vring_desc *table, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct vring_packed_desc d = {.addr = table[i].addr, .len = table[i].len};
        d.flags = table[i].flags & VRING_DESC_F_WRITE;
        memcpy(&table[i], &d, sizeof d);
    }
}

/* The slot's descriptors for a new length or direction. */
static void slot_reshape(struct fe_queue *q, unsigned slot, uint32_t length, bool device_writes)
{
    struct fe_slot *s = &q->slot[slot];
    s->length = length;
    s->device_writes = device_writes;
    s->descs = (uint16_t)chain_length(q, length);
    assert(s->descs <= q->slot_descs_max);
    struct vring_desc *ring = q->ring_desc;
    if (q->indirect) {
        chain_write(q, s, s->indirect, 0);
        if (q->packed) {
            indirect_to_packed(s->indirect, s->descs);
        } else {
            ring[slot] = (struct vring_desc){
                .addr = frontend_gpa(q->f, s->indirect), .len = 16u * s->descs, .flags = VRING_DESC_F_INDIRECT};
        }
    } else if (q->packed) {
        chain_write(q, s, s->indirect, 0); /* a template, copied into the ring by packed_add() */
    } else {
        unsigned head = slot << q->stride_shift;
        chain_write(q, s, ring + head, head);
    }
}

/* ---- Adding ---- */

static void split_add(struct fe_queue *q, unsigned slot)
{
    struct vring_avail *avail = q->ring_driver;
    avail->ring[q->avail_next & (q->size - 1)] = (uint16_t)(q->indirect ? slot : slot << q->stride_shift);
    q->avail_next++;
}

static void packed_put(struct fe_queue *q, uint64_t addr, uint32_t length, uint16_t id, unsigned flags)
{
    struct vring_packed_desc *d = (struct vring_packed_desc *)q->ring_desc + q->avail_next;
    flags |= q->avail_wrap ? PACKED_AVAIL : PACKED_USED;
    d->addr = addr;
    d->len = length;
    d->id = id;
    if (q->added == 0) {
        q->held_at = q->avail_next;
        q->held_flags = (uint16_t)flags;
    } else {
        d->flags = (uint16_t)flags;
    }
    q->added++;
    if (++q->avail_next == q->size) {
        q->avail_next = 0;
        q->avail_wrap = !q->avail_wrap;
    }
}

static void packed_add(struct fe_queue *q, unsigned slot)
{
    struct fe_slot *s = &q->slot[slot];
    if (q->indirect) {
        packed_put(q, frontend_gpa(q->f, s->indirect), 16u * s->descs, (uint16_t)slot, VRING_DESC_F_INDIRECT);
        return;
    }
    for (unsigned i = 0; i < s->descs; i++) {
        const struct vring_desc *d = &s->indirect[i];
        packed_put(q, d->addr, d->len, (uint16_t)slot, d->flags);
    }
}

static bool type_device_writes(uint32_t type)
{
    return type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
}

static void slot_add(struct fe_queue *q, unsigned slot)
{
    if (q->packed) {
        packed_add(q, slot);
    } else {
        split_add(q, slot);
        q->added++;
    }
}

void fe_queue_add(struct fe_queue *q, unsigned slot, uint32_t type, uint64_t sector, uint32_t length)
{
    struct fe_slot *s = &q->slot[slot];
    bool device_writes = type_device_writes(type);
    assert(!s->busy && length <= q->f->args.slot_bytes);
    if (s->descs == 0 || s->length != length || s->device_writes != device_writes)
        slot_reshape(q, slot, length, device_writes);
    s->header->type = type;
    s->header->ioprio = 0;
    s->header->sector = sector;
    *s->status = FE_STATUS_NONE;
    s->busy = true;
    q->in_flight++;
    slot_add(q, slot);
}

/* ---- Publishing ---- */

static bool split_publish(struct fe_queue *q)
{
    struct vring_avail *avail = q->ring_driver;
    struct vring_used *used = q->ring_device;
    uint16_t old = q->avail_published;
    store_release(&avail->idx, q->avail_next);
    q->avail_published = q->avail_next;
    atomic_thread_fence(memory_order_seq_cst); /* the index is out before the device's wish is read */
    if (!q->event_idx) return !(load_acquire(&used->flags) & VRING_USED_F_NO_NOTIFY);
    uint16_t event = load_acquire((const uint16_t *)(const void *)&used->ring[q->size]);
    return vring_need_event(event, q->avail_next, old);
}

/* True when the device's event position lies in the batch just published. */
static bool packed_event_passed(const struct fe_queue *q, uint16_t off_wrap, uint16_t batch)
{
    uint16_t event = off_wrap & 0x7fff;
    bool wrap = off_wrap >> VRING_PACKED_EVENT_F_WRAP_CTR;
    if (wrap != q->avail_wrap) event = (uint16_t)(event - q->size);
    return vring_need_event(event, q->avail_next, (uint16_t)(q->avail_next - batch));
}

static bool packed_publish(struct fe_queue *q)
{
    struct vring_packed_desc *ring = q->ring_desc;
    const struct vring_packed_desc_event *ev = q->ring_device;
    store_release(&ring[q->held_at].flags, q->held_flags);
    atomic_thread_fence(memory_order_seq_cst);
    uint16_t flags = load_acquire(&ev->flags) & 3;
    if (flags == VRING_PACKED_EVENT_FLAG_DISABLE) return false;
    if (flags != VRING_PACKED_EVENT_FLAG_DESC || !q->event_idx) return true;
    return packed_event_passed(q, load_acquire(&ev->off_wrap), q->added);
}

void fe_queue_kick(struct fe_queue *q)
{
    uint64_t one = 1;
    ssize_t n = write(q->kick_fd, &one, sizeof one);
    (void)n; /* EAGAIN: the counter is full, so it is readable already */
    q->kicks++;
}

void fe_queue_submit(struct fe_queue *q)
{
    if (q->added == 0) return;
    bool kick = q->packed ? packed_publish(q) : split_publish(q);
    q->added = 0;
    if (kick) fe_queue_kick(q);
}

/* ---- Reaping ---- */

static int queue_break(struct fe_queue *q, const char *why)
{
    if (!q->broken) q->broken = why;
    return -EPROTO;
}

static int slot_done(struct fe_queue *q, unsigned slot, uint32_t written)
{
    if (slot >= q->slot_count || !q->slot[slot].busy)
        return queue_break(q, "the device completed a request that is not in flight");
    q->slot[slot].busy = false;
    q->slot[slot].written = written;
    q->in_flight--;
    return 0;
}

static int split_reap(struct fe_queue *q, uint16_t *slots, unsigned max)
{
    struct vring_used *used = q->ring_device;
    uint16_t ready = (uint16_t)(load_acquire(&used->idx) - q->used_next);
    if (ready > q->size) return queue_break(q, "the device's used index jumped");
    unsigned n = 0;
    for (; n < max && n < ready; n++) {
        struct vring_used_elem u = used->ring[q->used_next & (q->size - 1)];
        uint32_t slot = q->indirect ? u.id : u.id >> q->stride_shift;
        if (!q->indirect && u.id != slot << q->stride_shift)
            return queue_break(q, "the device completed a descriptor that is no chain's head");
        if (slot_done(q, slot, u.len) < 0) return -EPROTO;
        q->used_next++;
        slots[n] = (uint16_t)slot;
    }
    return (int)n;
}

static bool packed_is_used(const struct fe_queue *q, uint16_t at, bool wrap)
{
    uint16_t flags = load_acquire(&((const struct vring_packed_desc *)q->ring_desc)[at].flags);
    bool avail = flags & PACKED_AVAIL, used = flags & PACKED_USED;
    return avail == used && used == wrap;
}

static void packed_advance(const struct fe_queue *q, uint16_t by, uint16_t *at, bool *wrap)
{
    unsigned next = *at + (unsigned)by;
    if (next >= q->size) {
        next -= q->size;
        *wrap = !*wrap;
    }
    *at = (uint16_t)next;
}

static int packed_reap(struct fe_queue *q, uint16_t *slots, unsigned max)
{
    const struct vring_packed_desc *ring = q->ring_desc;
    unsigned n = 0;
    while (n < max && q->in_flight && packed_is_used(q, q->used_next, q->used_wrap)) {
        uint16_t id = ring[q->used_next].id;
        if (slot_done(q, id, ring[q->used_next].len) < 0) return -EPROTO;
        packed_advance(q, q->indirect ? 1 : q->slot[id].descs, &q->used_next, &q->used_wrap);
        slots[n++] = id;
    }
    return (int)n;
}

int fe_queue_reap(struct fe_queue *q, uint16_t *slots, unsigned max)
{
    if (q->broken) return -EPROTO;
    return q->packed ? packed_reap(q, slots, max) : split_reap(q, slots, max);
}

/* ---- Notifications ---- */

static void split_want_calls(struct fe_queue *q, bool want)
{
    struct vring_avail *avail = q->ring_driver;
    __atomic_store_n(&avail->flags, (uint16_t)(want ? 0 : VRING_AVAIL_F_NO_INTERRUPT), __ATOMIC_RELAXED);
    /* With EVENT_IDX the flag is ignored: an index half the number space away is not reached soon. */
    uint16_t event = want ? q->used_next : (uint16_t)(q->used_next + 0x8000u);
    if (q->event_idx) __atomic_store_n(&avail->ring[q->size], event, __ATOMIC_RELAXED);
}

static void packed_want_calls(struct fe_queue *q, bool want)
{
    struct vring_packed_desc_event *ev = q->ring_driver;
    if (want && q->event_idx) {
        uint16_t off_wrap = (uint16_t)(q->used_next | (unsigned)q->used_wrap << VRING_PACKED_EVENT_F_WRAP_CTR);
        __atomic_store_n(&ev->off_wrap, off_wrap, __ATOMIC_RELAXED);
        store_release(&ev->flags, VRING_PACKED_EVENT_FLAG_DESC);
    } else {
        uint16_t flags = want ? VRING_PACKED_EVENT_FLAG_ENABLE : VRING_PACKED_EVENT_FLAG_DISABLE;
        store_release(&ev->flags, flags);
    }
}

void fe_queue_want_calls(struct fe_queue *q, bool want)
{
    if (q->packed) {
        packed_want_calls(q, want);
    } else {
        split_want_calls(q, want);
    }
    atomic_thread_fence(memory_order_seq_cst); /* the wish is out before the ring is looked at again */
}

/* ---- Starting over ---- */

void fe_queue_restart(struct fe_queue *q)
{
    size_t device_bytes = q->packed ? 4 : 6 + 8u * (size_t)q->size;
    size_t driver_bytes = q->packed ? 4 : 6 + 2u * (size_t)q->size;
    memset(q->ring_device, 0, device_bytes);
    memset(q->ring_driver, 0, driver_bytes);
    memset(q->ring_desc, 0, 16u * (size_t)q->size);
    q->avail_next = q->avail_published = q->used_next = 0;
    q->avail_wrap = q->used_wrap = true;
    q->added = 0;
    q->broken = NULL;
    fe_queue_want_calls(q, false);
    for (unsigned i = 0; i < q->slot_count; i++) {
        struct fe_slot *s = &q->slot[i];
        s->descs = 0;
        if (!s->busy) continue;
        slot_reshape(q, i, s->length, s->device_writes);
        *s->status = FE_STATUS_NONE;
        slot_add(q, i);
    }
    fe_queue_submit(q);
}

static uint32_t packed_base(const struct fe_queue *q)
{
    uint16_t at = q->used_next;
    bool wrap = q->used_wrap;
    for (unsigned left = q->in_flight; left && packed_is_used(q, at, wrap); left--) {
        uint16_t id = ((const struct vring_packed_desc *)q->ring_desc)[at].id;
        if (id >= q->slot_count) break;
        packed_advance(q, q->indirect ? 1 : q->slot[id].descs, &at, &wrap);
    }
    uint32_t half = at | (uint32_t)wrap << 15;
    return half | half << 16;
}

uint32_t fe_queue_base(const struct fe_queue *q)
{
    if (q->packed) return packed_base(q);
    return load_acquire(&((const struct vring_used *)q->ring_device)->idx);
}

/* ---- One at a time ---- */

static int wait_one(struct fe_queue *q, int wait_ms)
{
    uint16_t slot;
    for (;;) {
        fe_queue_want_calls(q, true);
        int n = fe_queue_reap(q, &slot, 1);
        if (n != 0) return n < 0 ? n : slot;
        struct pollfd p[2] = {{.fd = q->call_fd, .events = POLLIN}, {.fd = q->f->sock, .events = POLLRDHUP}};
        int ready = poll(p, 2, wait_ms);
        if (ready == 0) return -ETIMEDOUT;
        if (ready < 0 && errno != EINTR) return -errno;
        if (p[1].revents && !p[0].revents) return -EPIPE;
        uint64_t count;
        if (read(q->call_fd, &count, sizeof count) > 0) q->calls++;
    }
}

int fe_queue_do(struct fe_queue *q, uint32_t type, uint64_t sector, uint32_t length, int wait_ms)
{
    assert(q->in_flight == 0);
    fe_queue_add(q, 0, type, sector, length);
    fe_queue_submit(q);
    int ret = wait_one(q, wait_ms);
    fe_queue_want_calls(q, false);
    return ret < 0 ? ret : *q->slot[0].status;
}
