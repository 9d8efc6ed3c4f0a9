/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What split and packed virtqueues have in common: setting up, breaking, resuming, changing the memory map. The
 * calls of the data path branch once, on the kind of ring, and go on in virtq_split.c or virtq_packed.c.
 */
#include "ring/virtq_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

size_t virtq_desc_bytes(uint16_t size)
{
    return (size_t)size * DESC_BYTES;
}

size_t virtq_driver_bytes(uint16_t size, bool packed)
{
    return packed ? PACKED_EVENT_BYTES : SPLIT_RING + (size_t)size * SPLIT_AVAIL_ENTRY + 2;
}

size_t virtq_device_bytes(uint16_t size, bool packed)
{
    return packed ? PACKED_EVENT_BYTES : SPLIT_RING + (size_t)size * SPLIT_USED_ENTRY + 2;
}

size_t virtq_inflight_bytes(uint16_t size, bool packed)
{
    size_t bytes = packed ? sizeof(struct inflight_packed) + size * sizeof(struct inflight_packed_desc)
                          : sizeof(struct inflight_split) + size * sizeof(struct inflight_split_desc);
    return align_up(bytes, 64);
}

static int check_pointer(const void *p, size_t align, const char *what, struct errmsg *e)
{
    if (p && (uintptr_t)p % align == 0) return 0;
    return errmsg_set(e, EINVAL, "virtqueue: %s at %p, expected a multiple of %zu", what, p, align);
}

static int check_setup(const struct virtq_setup *s, const struct guest_map *map, struct errmsg *e)
{
    if (!map) return errmsg_set(e, EINVAL, "virtqueue without guest memory");
    if (s->size == 0 || s->size > VIRTQ_SIZE_MAX)
        return errmsg_set(e, EINVAL, "virtqueue of %u entries, expected 1 to %u", s->size, VIRTQ_SIZE_MAX);
    if (!s->packed && !is_power_of_2(s->size))
        return errmsg_set(e, EINVAL, "split virtqueue of %u entries, expected a power of two", s->size);
    int ret = check_pointer(s->desc, 16, "descriptors", e);
    if (!ret) ret = check_pointer(s->driver, s->packed ? 4 : 2, "driver area", e);
    if (!ret) ret = check_pointer(s->device, 4, "device area", e);
    if (!ret && s->inflight) ret = check_pointer(s->inflight, 8, "in-flight region", e);
    if (!ret && s->inflight && s->place) ret = errmsg_set(e, EINVAL, "virtqueue with an in-flight region and a place");
    return ret;
}

/* Give out what the last process left, before anything new. */
static void start_resuming(struct virtq *q)
{
    q->must_notify = true;
    if (q->resume_count) {
        q->counter = q->resume[q->resume_count - 1].counter + 1;
        q->slow = true;
        return;
    }
    free(q->resume);
    q->resume = NULL;
}

int virtq_new(struct virtq **out, const struct virtq_setup *s, struct guest_map *map, struct errmsg *e)
{
    *out = NULL;
    int ret = check_setup(s, map, e);
    if (ret) return ret;
    /* Whole cache lines: queues of different threads may be neighbours in the heap. */
    struct virtq *q = aligned_alloc(64, align_up(sizeof *q, 64));
    if (!q) return errmsg_sys(e, ENOMEM, "virtqueue");
    *q = (struct virtq){.packed = s->packed, .event_idx = s->event_idx, .indirect = s->indirect, .size = s->size};
    q->in_order = s->in_order && s->place;
    q->place = s->place;
    q->map = guest_map_ref(map);
    q->batch = malloc(q->size * sizeof q->batch[0]);
    ret = q->batch ? 0 : errmsg_sys(e, ENOMEM, "virtqueue");
    if (!ret) ret = s->packed ? packed_new(q, s, e) : split_new(q, s, e);
    if (ret) {
        virtq_free(q);
        return ret;
    }
    if (s->resume) start_resuming(q);
    *out = q;
    return 0;
}

void virtq_free(struct virtq *q)
{
    if (!q) return;
    if (q->packed) packed_free(q);
    else split_free(q);
    guest_map_unref(q->map);
    free(q->batch);
    free(q->resume);
    free(q);
}

/* Rings outside the old map were never in guest memory and stay. */
static void move_ring(struct virtq *q, char **ring, size_t bytes, const struct guest_map *map)
{
    for (unsigned i = 0; i < q->map->count; i++) {
        const struct guest_region *r = &q->map->region[i];
        if (*ring < r->host || (size_t)(*ring - r->host) >= r->size_bytes) continue;
        char *to = guest_map_at_user(map, r->user_addr + (uint64_t)(*ring - r->host), bytes);
        if (to) *ring = to;
        else virtq_break(q, "its rings are not in the new memory table");
        return;
    }
}

void virtq_set_map(struct virtq *q, struct guest_map *map)
{
    char **desc = q->packed ? &q->pack.ring : &q->split.desc;
    char **driver = q->packed ? &q->pack.driver_event : &q->split.avail;
    char **device = q->packed ? &q->pack.device_event : &q->split.used;
    move_ring(q, desc, virtq_desc_bytes(q->size), map);
    move_ring(q, driver, virtq_driver_bytes(q->size, q->packed), map);
    move_ring(q, device, virtq_device_bytes(q->size, q->packed), map);
    guest_map_ref(map);
    guest_map_unref(q->map);
    q->map = map;
    q->hot = (struct guest_lookup){0};
}

static int pop_slow(struct virtq *q, struct virtq_chain *c, struct iovec *iov, unsigned iov_max)
{
    if (q->broken) return -EPROTO;
    uint16_t head = q->resume[q->resume_at].head;
    int ret = q->packed ? packed_resume(q, head, c, iov, iov_max) : split_resume(q, head, c, iov, iov_max);
    if (ret == 1 && ++q->resume_at == q->resume_count) q->slow = false;
    return ret;
}

int virtq_pop(struct virtq *q, struct virtq_chain *c, struct iovec *iov, unsigned iov_max)
{
    if (unlikely(q->slow)) return pop_slow(q, c, iov, iov_max);
    return q->packed ? packed_pop(q, c, iov, iov_max) : split_pop(q, c, iov, iov_max);
}

int virtq_pop_many(struct virtq *q, struct virtq_chain *c, unsigned max, struct iovec *iov, unsigned iov_max)
{
    unsigned n = 0, used = 0;
    while (n < max) {
        if (likely(!q->slow && q->place)) {
            unsigned most = max - n < iov_max - used ? max - n : iov_max - used;
            unsigned plain =
                q->packed ? packed_pop_plain(q, c + n, iov + used, most) : split_pop_plain(q, c + n, iov + used, most);
            n += plain;
            used += plain;
            if (n == max) break;
        }
        int ret = virtq_pop(q, c + n, iov + used, iov_max - used);
        if (ret <= 0) return n ? (int)n : ret;
        used += c[n].out_count + c[n].in_count;
        n++;
    }
    return (int)n;
}

void virtq_push_many(struct virtq *q, const struct virtq_chain *c, const uint32_t *written_bytes, unsigned count)
{
    assert(q->place);
    if (q->packed) packed_push_many(q, c, written_bytes, count);
    else split_push_many(q, c, written_bytes, count);
}

void virtq_push(struct virtq *q, uint16_t id, uint32_t written_bytes)
{
    if (q->packed) packed_push(q, id, written_bytes);
    else split_push(q, id, written_bytes);
}

void virtq_push_frame(struct virtq *q, const struct virtq_chain *c, const uint32_t *written_bytes, unsigned count)
{
    assert(q->place);
    if (q->packed) packed_push_frame(q, c, written_bytes, count);
    else split_push_many(q, c, written_bytes, count);
}

void virtq_unpop(struct virtq *q, const struct virtq_chain *c)
{
    assert(q->place);
    if (q->packed) packed_unpop(q, c);
    else split_unpop(q, c);
}

bool virtq_publish(struct virtq *q)
{
    bool notify = q->must_notify;
    q->must_notify = false;
    if (q->batch_count == 0 && !(q->place && !q->packed && q->split.pushed)) return notify;
    notify |= q->packed ? packed_publish(q) : split_publish(q);
    q->batch_count = 0;
    return notify;
}

void virtq_kick_disable(struct virtq *q)
{
    if (q->kicks_off) return;
    q->kicks_off = true;
    if (q->packed) packed_kick_disable(q);
    else split_kick_disable(q);
}

bool virtq_kick_enable(struct virtq *q)
{
    q->kicks_off = false;
    if (q->packed) packed_kick_enable(q);
    else split_kick_enable(q);
    /* The driver must see the wish before we look; it stores its index and then looks for the wish. */
    ring_full_fence();
    return virtq_has_work(q);
}

bool virtq_has_work(const struct virtq *q)
{
    if (unlikely(q->slow)) return !q->broken;
    return q->packed ? packed_has_work(q) : split_has_work(q);
}

uint32_t virtq_base(const struct virtq *q)
{
    if (q->packed) return packed_base(q);
    /* Heads that were copied out ahead are still the driver's. */
    const struct split_queue *s = &q->split;
    return (uint16_t)(s->avail_next - (s->heads_count - s->heads_at));
}

unsigned virtq_in_flight(const struct virtq *q)
{
    return q->in_flight;
}

bool virtq_resuming(const struct virtq *q)
{
    return q->resume_at < q->resume_count;
}

void virtq_break(struct virtq *q, const char *why)
{
    if (!q->broken) q->broken = why;
    q->slow = true;
}

int virtq_broke(struct virtq *q, const char *why)
{
    virtq_break(q, why);
    return -EPROTO;
}

const char *virtq_broken(const struct virtq *q)
{
    return q->broken;
}

/* A buffer that is not simply inside the region used last: elsewhere, across regions, or wrong. */
int virtq_walk_far(struct virtq *q, struct chain_walk *w, struct gpa addr, uint32_t length)
{
    if (length == 0) return virtq_broke(q, "a descriptor of no length");
    if (w->counting) return 0;
    if (w->count == w->iov_max) return -E2BIG;
    void *host = guest_lookup_at(&q->hot, q->map, addr, length);
    if (host) {
        w->iov[w->count++] = (struct iovec){host, length};
        return 0;
    }
    int n = guest_map_iov(q->map, addr, length, w->iov + w->count, w->iov_max - w->count);
    if (n == -E2BIG) return n;
    if (n < 0) return virtq_broke(q, "a buffer outside the guest's memory");
    w->count += (unsigned)n;
    w->split_count += (unsigned)n - 1;
    return 0;
}
