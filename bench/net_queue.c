/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queues of a network card's guest half: see net_frontend.h.
 *
 * Split: buffer i owns the descriptors from i * segments on. Packed: they are written in ring order at each
 * use, the first one's flags last. In both the id that the device gives back names the buffer.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <linux/virtio_ring.h>

#include "base/checked.h"
#include "net_frontend.h"

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

/* ---- Layout ---- */

uint64_t netfe_queue_bytes(unsigned size, unsigned segments, uint32_t buffer_bytes)
{
    uint64_t rings = align_up(16u * (uint64_t)size, 4096) + 2 * align_up(6 + 8u * (uint64_t)size, 4096);
    return rings + align_up((uint64_t)(size / segments) * buffer_bytes, 4096);
}

static int allocate(struct netfe_queue *q)
{
    q->ring_desc = frontend_alloc(q->link, 16u * (uint64_t)q->size, 4096);
    q->ring_driver = frontend_alloc(q->link, 6 + 2u * (uint64_t)q->size, 4096);
    q->ring_device = frontend_alloc(q->link, 6 + 8u * (uint64_t)q->size, 4096);
    q->buffers = frontend_alloc(q->link, (uint64_t)q->slot_count * q->buffer_bytes, 4096);
    q->length = calloc(q->slot_count, sizeof *q->length);
    q->descs = calloc(q->slot_count, sizeof *q->descs);
    q->busy = calloc(q->slot_count, sizeof *q->busy);
    q->free_slots = calloc(q->slot_count, sizeof *q->free_slots);
    bool ok = q->ring_desc && q->ring_driver && q->ring_device && q->buffers && q->length && q->descs && q->busy;
    return ok && q->free_slots ? 0 : -ENOMEM;
}

int netfe_queue_init(struct netfe_queue *q, struct frontend *link, unsigned index, const struct netfe_args *a)
{
    bool rx = index % 2 == 0;
    *q = (struct netfe_queue){.link = link,
                              .index = index,
                              .size = (uint16_t)a->queue_size,
                              .packed = a->link.packed,
                              .device_writes = rx,
                              .segments = 1,
                              .buffer_bytes = rx ? a->rx_buffer_bytes : a->tx_buffer_bytes};
    q->segment_bytes = rx || !a->tx_segment_bytes ? q->buffer_bytes : a->tx_segment_bytes;
    q->segments = (uint16_t)div_round_up(q->buffer_bytes, q->segment_bytes);
    q->slot_count = (uint16_t)(q->size / q->segments);
    q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->kick_fd < 0 || q->call_fd < 0) return -errno;
    return allocate(q);
}

void netfe_queue_clear(struct netfe_queue *q)
{
    if (!q->link) return;
    if (q->kick_fd >= 0) close(q->kick_fd);
    if (q->call_fd >= 0) close(q->call_fd);
    free(q->length);
    free(q->descs);
    free(q->busy);
    free(q->free_slots);
    q->link = NULL;
}

void netfe_queue_restart(struct netfe_queue *q, bool event_idx)
{
    memset(q->ring_device, 0, q->packed ? 4 : 6 + 8u * (size_t)q->size);
    memset(q->ring_driver, 0, q->packed ? 4 : 6 + 2u * (size_t)q->size);
    memset(q->ring_desc, 0, 16u * (size_t)q->size);
    q->event_idx = event_idx;
    q->avail_next = q->avail_published = q->used_next = q->added = 0;
    q->avail_wrap = q->used_wrap = true;
    q->in_flight = q->free_count = 0;
    for (unsigned i = q->slot_count; i-- > 0;) {
        q->length[i] = 0;
        q->busy[i] = false;
        q->free_slots[q->free_count++] = (uint16_t)i;
    }
    netfe_want_calls(q, false);
}

static bool packed_is_used(const struct netfe_queue *q, uint16_t at, bool wrap)
{
    uint16_t flags = load_acquire(&((const struct vring_packed_desc *)q->ring_desc)[at].flags);
    bool avail = flags & PACKED_AVAIL, used = flags & PACKED_USED;
    return avail == used && used == wrap;
}

static void packed_advance(const struct netfe_queue *q, uint16_t by, uint16_t *at, bool *wrap)
{
    unsigned next = *at + (unsigned)by;
    if (next >= q->size) {
        next -= q->size;
        *wrap = !*wrap;
    }
    *at = (uint16_t)next;
}

uint32_t netfe_queue_base(const struct netfe_queue *q)
{
    if (!q->packed) return load_acquire(&((const struct vring_used *)q->ring_device)->idx);
    uint16_t at = q->used_next;
    bool wrap = q->used_wrap;
    for (unsigned left = q->in_flight; left && packed_is_used(q, at, wrap); left--) {
        uint16_t id = ((const struct vring_packed_desc *)q->ring_desc)[at].id;
        if (id >= q->slot_count) break;
        packed_advance(q, q->descs[id], &at, &wrap);
    }
    uint32_t half = at | (uint32_t)wrap << 15;
    return half | half << 16;
}

/* ---- Adding ---- */

static void split_describe(struct netfe_queue *q, unsigned slot, uint32_t bytes)
{
    unsigned head = slot * q->segments, i = 0;
    struct vring_desc *d = (struct vring_desc *)q->ring_desc + head;
    uint64_t gpa = frontend_gpa(q->link, netfe_buffer(q, slot));
    for (uint32_t at = 0; at < bytes; at += q->segment_bytes, i++) {
        uint32_t n = bytes - at < q->segment_bytes ? bytes - at : q->segment_bytes;
        bool last = at + n == bytes;
        d[i] = (struct vring_desc){.addr = gpa + at, .len = n, .next = (uint16_t)(last ? 0 : head + i + 1)};
        d[i].flags = (uint16_t)((q->device_writes ? VRING_DESC_F_WRITE : 0) | (last ? 0 : VRING_DESC_F_NEXT));
    }
    q->length[slot] = bytes;
    q->descs[slot] = (uint16_t)i;
}

static void packed_put(struct netfe_queue *q, uint64_t addr, uint32_t length, uint16_t id, unsigned flags)
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
    packed_advance(q, 1, &q->avail_next, &q->avail_wrap);
}

static void packed_add(struct netfe_queue *q, unsigned slot, uint32_t bytes)
{
    uint64_t gpa = frontend_gpa(q->link, netfe_buffer(q, slot));
    uint16_t count = 0;
    for (uint32_t at = 0; at < bytes; at += q->segment_bytes, count++) {
        uint32_t n = bytes - at < q->segment_bytes ? bytes - at : q->segment_bytes;
        unsigned flags = (q->device_writes ? VRING_DESC_F_WRITE : 0u) | (at + n == bytes ? 0u : VRING_DESC_F_NEXT);
        packed_put(q, gpa + at, n, (uint16_t)slot, flags);
    }
    q->descs[slot] = count;
}

static void add(struct netfe_queue *q, unsigned slot, uint32_t bytes)
{
    q->busy[slot] = true;
    q->in_flight++;
    if (q->packed) {
        packed_add(q, slot, bytes);
        return;
    }
    if (q->length[slot] != bytes) split_describe(q, slot, bytes);
    struct vring_avail *avail = q->ring_driver;
    avail->ring[q->avail_next & (q->size - 1)] = (uint16_t)(slot * q->segments);
    q->avail_next++;
    q->added++;
}

unsigned netfe_tx_take(struct netfe_queue *q, uint16_t *slots, unsigned max)
{
    unsigned n = max < q->free_count ? max : q->free_count;
    q->free_count -= n;
    memcpy(slots, q->free_slots + q->free_count, n * sizeof *slots);
    return n;
}

void netfe_tx_add(struct netfe_queue *q, unsigned slot, uint32_t bytes)
{
    add(q, slot, bytes);
}

void netfe_rx_give(struct netfe_queue *q, unsigned slot)
{
    add(q, slot, q->buffer_bytes);
}

/* ---- Publishing ---- */

static bool split_publish(struct netfe_queue *q)
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

static bool packed_publish(struct netfe_queue *q)
{
    struct vring_packed_desc *ring = q->ring_desc;
    const struct vring_packed_desc_event *ev = q->ring_device;
    store_release(&ring[q->held_at].flags, q->held_flags);
    atomic_thread_fence(memory_order_seq_cst);
    uint16_t flags = load_acquire(&ev->flags) & 3;
    if (flags == VRING_PACKED_EVENT_FLAG_DISABLE) return false;
    if (flags != VRING_PACKED_EVENT_FLAG_DESC || !q->event_idx) return true;
    uint16_t off_wrap = load_acquire(&ev->off_wrap), event = off_wrap & 0x7fff;
    bool wrap = off_wrap >> VRING_PACKED_EVENT_F_WRAP_CTR;
    if (wrap != q->avail_wrap) event = (uint16_t)(event - q->size);
    return vring_need_event(event, q->avail_next, (uint16_t)(q->avail_next - q->added));
}

void netfe_kick(struct netfe_queue *q)
{
    uint64_t one = 1;
    ssize_t n = write(q->kick_fd, &one, sizeof one);
    (void)n; /* EAGAIN: the counter is full, so it is readable already */
    q->kicks++;
}

void netfe_submit(struct netfe_queue *q)
{
    if (q->added == 0) return;
    bool kick = q->packed ? packed_publish(q) : split_publish(q);
    q->added = 0;
    if (kick) netfe_kick(q);
}

/* ---- Reaping ---- */

static int queue_break(struct netfe_queue *q, const char *why)
{
    if (!q->broken) q->broken = why;
    return -EPROTO;
}

static int slot_back(struct netfe_queue *q, uint32_t slot, uint32_t bytes)
{
    if (slot >= q->slot_count || !q->busy[slot])
        return queue_break(q, "the device gave back a buffer that it does not have");
    if (q->device_writes && bytes > q->buffer_bytes) return queue_break(q, "the device wrote more than a buffer holds");
    q->busy[slot] = false;
    q->in_flight--;
    return 0;
}

/* How many used buffers there are to look at, at most max; split only. */
static int split_ready(struct netfe_queue *q, unsigned max)
{
    const struct vring_used *used = q->ring_device;
    uint16_t ready = (uint16_t)(load_acquire(&used->idx) - q->used_next);
    if (ready > q->size) return queue_break(q, "the device's used index jumped");
    return (int)(ready < max ? ready : max);
}

/* The next used buffer. 1, 0: none, -EPROTO. */
static int next_used(struct netfe_queue *q, uint32_t *slot, uint32_t *bytes)
{
    if (!q->packed) {
        const struct vring_used *used = q->ring_device;
        struct vring_used_elem u = used->ring[q->used_next & (q->size - 1)];
        q->used_next++;
        *slot = q->segments == 1 ? u.id : u.id / q->segments;
        *bytes = u.len;
    } else {
        if (!q->in_flight || !packed_is_used(q, q->used_next, q->used_wrap)) return 0;
        const struct vring_packed_desc *d = (const struct vring_packed_desc *)q->ring_desc + q->used_next;
        *slot = d->id;
        *bytes = d->len;
        if (*slot < q->slot_count) packed_advance(q, q->descs[*slot], &q->used_next, &q->used_wrap);
    }
    int ret = slot_back(q, *slot, *bytes);
    return ret < 0 ? ret : 1;
}

int netfe_tx_reap(struct netfe_queue *q, unsigned max)
{
    if (q->broken) return -EPROTO;
    int ready = q->packed ? (int)max : split_ready(q, max);
    int n = 0;
    for (; n < ready; n++) {
        uint32_t slot, bytes;
        int ret = next_used(q, &slot, &bytes);
        if (ret < 0) return ret;
        if (ret == 0) break;
        q->free_slots[q->free_count++] = (uint16_t)slot;
    }
    return ready < 0 ? ready : n;
}

/* How many buffers the frame has that begins in this one; read once. */
static uint16_t frame_buffers(const struct netfe_queue *q, uint32_t slot)
{
    const struct virtio_net_hdr_v1 *h = (const void *)netfe_buffer(q, slot);
    return __atomic_load_n(&h->num_buffers, __ATOMIC_RELAXED);
}

static void prefetch_buffers(const struct netfe_queue *q, int ready)
{
    const struct vring_used *used = q->ring_device;
    for (int i = 0; i < ready; i++) {
        uint32_t slot = used->ring[(q->used_next + (unsigned)i) & (q->size - 1)].id;
        if (slot < q->slot_count) __builtin_prefetch(netfe_buffer(q, slot));
    }
}

/* The other buffers of a frame, which a device shows together with the first. */
static int rest_of_frame(struct netfe_queue *q, struct netfe_used *out, uint16_t buffers)
{
    for (uint16_t i = 1; i < buffers; i++) {
        uint32_t slot, bytes;
        bool there = q->packed || split_ready(q, 1) > 0;
        int ret = there ? next_used(q, &slot, &bytes) : 0;
        if (ret < 0) return ret;
        if (ret == 0) return queue_break(q, "a frame that is not there as a whole");
        *out++ = (struct netfe_used){.slot = (uint16_t)slot, .bytes = bytes};
    }
    return 0;
}

int netfe_rx_reap(struct netfe_queue *q, struct netfe_used *out, unsigned max)
{
    if (q->broken) return -EPROTO;
    int ready = q->packed ? (int)max : split_ready(q, max), n = 0;
    if (!q->packed) prefetch_buffers(q, ready);
    while (n < ready) {
        uint32_t slot, bytes;
        int ret = next_used(q, &slot, &bytes);
        if (ret <= 0) return ret < 0 ? ret : n;
        uint16_t buffers = frame_buffers(q, slot);
        if (buffers == 0 || buffers > NETFE_FRAME_BUFFERS_MAX)
            return queue_break(q, "a frame of no buffers, or of too many");
        out[n] = (struct netfe_used){.slot = (uint16_t)slot, .buffers = buffers, .bytes = bytes};
        ret = rest_of_frame(q, out + n + 1, buffers);
        if (ret < 0) return ret;
        n += buffers;
    }
    return ready < 0 ? ready : n;
}

/* ---- Notifications ---- */

void netfe_want_calls(struct netfe_queue *q, bool want)
{
    if (q->packed) {
        struct vring_packed_desc_event *ev = q->ring_driver;
        store_release(&ev->flags, want ? VRING_PACKED_EVENT_FLAG_ENABLE : VRING_PACKED_EVENT_FLAG_DISABLE);
    } else {
        struct vring_avail *avail = q->ring_driver;
        __atomic_store_n(&avail->flags, (uint16_t)(want ? 0 : VRING_AVAIL_F_NO_INTERRUPT), __ATOMIC_RELAXED);
        uint16_t event = want ? q->used_next : (uint16_t)(q->used_next + 0x8000u);
        if (q->event_idx) __atomic_store_n(&avail->ring[q->size], event, __ATOMIC_RELAXED);
    }
    atomic_thread_fence(memory_order_seq_cst);
}
