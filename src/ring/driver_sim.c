/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver for virtqueues (Virtual I/O Device 1.2, sections 2.7 and 2.8, driver side). Free descriptors and buffer ids are a
 * stack, so that chains soon lie scattered over the table as they do in a busy guest.
 */
#include "ring/driver_sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ring/virtq.h"
#include "ring/wire.h"

#define EVENT_WRAP (1u << 15)

struct in_flight {
    uint64_t token;
    uint64_t room_bytes; /* what the device may write */
    uint16_t slots;      /* 0: not in flight */
    uint16_t after;      /* in order: the id of the chain that was added after this */
    uint16_t last;       /* split: last descriptor of the chain */
};

struct driver_sim {
    struct driver_sim_setup s;
    char *desc, *driver, *device;
    uint16_t avail_next; /* added up to here ... */
    uint16_t avail_seen; /* ... and published up to here */
    uint16_t used_next;
    bool avail_wrap, used_wrap;
    unsigned added_slots; /* packed: since the last publication */
    unsigned free_slots, in_flight;
    uint16_t free_id;         /* split: free descriptors, packed: free buffer ids */
    uint16_t *next;           /* their list; split: also the chains' */
    struct in_flight *flight; /* by head, or by buffer id */
    uint16_t oldest, newest;  /* in order: ids of what is in flight */
    bool skipping;            /* in order: chains up to `skip_to` are back, the oldest not yet handed out */
    uint16_t skip_to;
    uint32_t skip_written_bytes;
    const char *error;
};

static void clear_split(struct driver_sim *d)
{
    memset(d->desc, 0, virtq_desc_bytes(d->s.size));
    memset(d->driver, 0, virtq_driver_bytes(d->s.size, false));
    memset(d->device, 0, virtq_device_bytes(d->s.size, false));
    d->avail_next = d->avail_seen = d->used_next = (uint16_t)d->s.base;
    ring_store16(d->driver + SPLIT_IDX, d->avail_next);
    ring_store16(d->device + SPLIT_IDX, d->used_next);
}

/* Slots before our position were used in this round, those after it in the last: none is available, none newly used. */
static void clear_packed(struct driver_sim *d)
{
    d->avail_next = d->used_next = d->s.base & 0x7fff;
    d->avail_wrap = d->used_wrap = (d->s.base >> 15) & 1;
    memset(d->desc, 0, virtq_desc_bytes(d->s.size));
    memset(d->driver, 0, virtq_driver_bytes(d->s.size, true));
    memset(d->device, 0, virtq_device_bytes(d->s.size, true));
    for (unsigned i = 0; i < d->s.size; i++) {
        bool wrap = i < d->used_next ? d->used_wrap : !d->used_wrap;
        ring_store16(d->desc + i * DESC_BYTES + PACKED_FLAGS, wrap ? DESC_F_AVAIL | DESC_F_USED : 0);
    }
}

int driver_sim_new(struct driver_sim **out, const struct driver_sim_setup *s)
{
    *out = NULL;
    struct driver_sim *d = calloc(1, sizeof *d);
    if (!d) return -ENOMEM;
    *d = (struct driver_sim){.s = *s, .desc = s->desc, .driver = s->driver, .device = s->device};
    d->free_slots = s->size;
    d->next = calloc(s->size, sizeof d->next[0]);
    d->flight = calloc(s->size, sizeof d->flight[0]);
    if (!d->next || !d->flight) {
        driver_sim_free(d);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < s->size; i++)
        d->next[i] = (uint16_t)(i + 1);
    if (s->packed) clear_packed(d);
    else clear_split(d);
    *out = d;
    return 0;
}

int driver_sim_clone(struct driver_sim **out, const struct driver_sim *d)
{
    *out = NULL;
    struct driver_sim *c = calloc(1, sizeof *c);
    if (!c) return -ENOMEM;
    *c = *d;
    c->next = malloc(d->s.size * sizeof c->next[0]);
    c->flight = malloc(d->s.size * sizeof c->flight[0]);
    if (!c->next || !c->flight) {
        driver_sim_free(c);
        return -ENOMEM;
    }
    memcpy(c->next, d->next, d->s.size * sizeof c->next[0]);
    memcpy(c->flight, d->flight, d->s.size * sizeof c->flight[0]);
    *out = c;
    return 0;
}

void driver_sim_free(struct driver_sim *d)
{
    if (!d) return;
    free(d->next);
    free(d->flight);
    free(d);
}

static uint64_t room(const struct driver_sim_buf *buf, unsigned count)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++)
        if (buf[i].device_writes) bytes += buf[i].length;
    return bytes;
}

static uint16_t buf_flags(const struct driver_sim_buf *buf, unsigned at, unsigned count)
{
    return (uint16_t)((buf[at].device_writes ? DESC_F_WRITE : 0) | (at + 1 < count ? DESC_F_NEXT : 0));
}

/* Everything of a descriptor; in a packed ring the flags of a head come later. */
static void put(char *to, struct gpa addr, uint32_t length, uint16_t third, uint16_t fourth)
{
    ring_store64(to, addr.v);
    ring_store64(to + 8, length | (uint64_t)third << 32 | (uint64_t)fourth << 48);
}

/* Fill the indirect table that belongs to descriptor or id `owner`, and say where it is. */
static struct driver_sim_buf put_table(struct driver_sim *d, const struct driver_sim_buf *buf, unsigned count,
                                       uint16_t owner)
{
    size_t offset = (size_t)owner * d->s.indirect_max * DESC_BYTES;
    char *table = (char *)d->s.indirect + offset;
    for (unsigned i = 0; i < count; i++) {
        char *to = table + (size_t)i * DESC_BYTES;
        if (d->s.packed) put(to, buf[i].addr, buf[i].length, 0, buf[i].device_writes ? DESC_F_WRITE : 0);
        else put(to, buf[i].addr, buf[i].length, buf_flags(buf, i, count), (uint16_t)(i + 1));
    }
    return (struct driver_sim_buf){{d->s.indirect_addr.v + offset}, count * DESC_BYTES, false};
}

static void add_split(struct driver_sim *d, const struct driver_sim_buf *buf, unsigned count, uint16_t extra)
{
    uint16_t head = d->free_id, at = head;
    for (unsigned i = 0; i < count; i++) {
        uint16_t next = d->next[at];
        put(d->desc + (size_t)at * DESC_BYTES, buf[i].addr, buf[i].length, buf_flags(buf, i, count) | extra, next);
        d->flight[head].last = at;
        at = next;
    }
    d->free_id = at;
    unsigned slot = d->avail_next & (d->s.size - 1u);
    ring_store16(d->driver + SPLIT_RING + slot * SPLIT_AVAIL_ENTRY, head);
    d->avail_next++;
}

static void add_packed(struct driver_sim *d, const struct driver_sim_buf *buf, unsigned count, uint16_t extra)
{
    uint16_t id = d->free_id, head_flags = 0;
    char *head = d->desc + (size_t)d->avail_next * DESC_BYTES;
    d->free_id = d->next[id];
    for (unsigned i = 0; i < count; i++) {
        char *to = d->desc + (size_t)d->avail_next * DESC_BYTES;
        uint16_t flags = (uint16_t)(buf_flags(buf, i, count) | extra | (d->avail_wrap ? DESC_F_AVAIL : DESC_F_USED));
        if (i == 0) {
            head_flags = flags;
            ring_store64(to, buf[i].addr.v);
            ring_store32(to + PACKED_LENGTH, buf[i].length);
            ring_store16(to + PACKED_ID, id);
        } else {
            put(to, buf[i].addr, buf[i].length, id, flags);
        }
        if (++d->avail_next == d->s.size) {
            d->avail_next = 0;
            d->avail_wrap = !d->avail_wrap;
        }
    }
    ring_store16_release(head + PACKED_FLAGS, head_flags);
    d->added_slots += count;
}

bool driver_sim_add(struct driver_sim *d, const struct driver_sim_buf *buf, unsigned count, bool indirect,
                    uint64_t token)
{
    unsigned slots = indirect ? 1 : count;
    if (count == 0 || slots > d->free_slots || (indirect && count > d->s.indirect_max)) return false;
    uint16_t id = d->free_id;
    d->flight[id] = (struct in_flight){.token = token, .room_bytes = room(buf, count), .slots = (uint16_t)slots};
    d->free_slots -= slots;
    if (d->in_flight++ == 0) d->oldest = id;
    else d->flight[d->newest].after = id;
    d->newest = id;
    struct driver_sim_buf table;
    if (indirect) {
        table = put_table(d, buf, count, id);
        buf = &table;
    }
    uint16_t extra = indirect ? DESC_F_INDIRECT : 0;
    if (d->s.packed) add_packed(d, buf, slots, extra);
    else add_split(d, buf, slots, extra);
    return true;
}

static bool device_waits_packed(const struct driver_sim *d, unsigned slots)
{
    uint32_t event = ring_load32(d->device);
    uint16_t flags = (event >> 16) & 3;
    if (flags != PACKED_EVENT_DESC) return flags != PACKED_EVENT_DISABLE;
    int behind = (int)d->avail_next - (int)(event & (EVENT_WRAP - 1));
    if (!!(event & EVENT_WRAP) != d->avail_wrap) behind += d->s.size;
    return behind > 0 && behind <= (int)slots;
}

bool driver_sim_publish(struct driver_sim *d)
{
    uint16_t from = d->avail_seen;
    unsigned slots = d->added_slots;
    d->added_slots = 0;
    d->avail_seen = d->avail_next;
    if (!d->s.packed) ring_store16_release(d->driver + SPLIT_IDX, d->avail_next);
    ring_full_fence();
    if (d->s.packed) return slots && device_waits_packed(d, slots);
    if (from == d->avail_next) return false;
    if (!d->s.event_idx) return !(ring_load16(d->device + SPLIT_FLAGS) & SPLIT_USED_F_NO_NOTIFY);
    uint16_t event = ring_load16(d->device + SPLIT_RING + (size_t)d->s.size * SPLIT_USED_ENTRY);
    return (uint16_t)(d->avail_next - event - 1) < (uint16_t)(d->avail_next - from);
}

static bool fail(struct driver_sim *d, const char *why)
{
    d->error = why;
    return false;
}

static void advance_used(struct driver_sim *d, unsigned slots)
{
    if (!d->s.packed) {
        d->used_next++;
        return;
    }
    unsigned next = d->used_next + slots;
    if (next >= d->s.size) {
        next -= d->s.size;
        d->used_wrap = !d->used_wrap;
    }
    d->used_next = (uint16_t)next;
}

/* The chain of this id is back. */
static bool finish(struct driver_sim *d, uint32_t id, uint32_t written_bytes, uint64_t *token)
{
    if (id >= d->s.size || d->flight[id].slots == 0) return fail(d, "the device returned an id that is not in flight");
    struct in_flight *f = &d->flight[id];
    if (written_bytes > f->room_bytes) return fail(d, "the device wrote more than there was room for");
    if (d->s.in_order && id != d->oldest) return fail(d, "the device returned a chain out of order");
    d->oldest = f->after;
    *token = f->token;
    d->next[d->s.packed ? id : f->last] = d->free_id;
    d->free_id = (uint16_t)id;
    d->free_slots += f->slots;
    d->in_flight--;
    f->slots = 0;
    return true;
}

/* One of the chains that the device gave back at once; all but the last are as if nothing was written. */
static bool take_skipped(struct driver_sim *d, uint64_t *token, uint32_t *written_bytes)
{
    uint16_t id = d->oldest;
    unsigned slots = d->flight[id].slots;
    d->skipping = id != d->skip_to;
    *written_bytes = d->skipping ? 0 : d->skip_written_bytes;
    if (!finish(d, id, *written_bytes, token)) return false;
    advance_used(d, slots);
    return true;
}

static bool take_used(struct driver_sim *d, uint32_t id, uint64_t *token, uint32_t *written_bytes)
{
    if (d->s.in_order) {
        if (id >= d->s.size || d->flight[id].slots == 0)
            return fail(d, "the device returned an id that is not in flight");
        d->skip_to = (uint16_t)id;
        d->skip_written_bytes = *written_bytes;
        return take_skipped(d, token, written_bytes);
    }
    unsigned slots = id < d->s.size ? d->flight[id].slots : 0;
    if (!finish(d, id, *written_bytes, token)) return false;
    advance_used(d, slots);
    return true;
}

static bool get_split(struct driver_sim *d, uint64_t *token, uint32_t *written_bytes)
{
    uint16_t used = ring_load16_acquire(d->device + SPLIT_IDX);
    if (used == d->used_next) return false;
    if ((uint16_t)(used - d->used_next) > d->in_flight) return fail(d, "the used index jumped");
    const char *entry = d->device + SPLIT_RING + (d->used_next & (d->s.size - 1u)) * SPLIT_USED_ENTRY;
    *written_bytes = ring_load32(entry + 4);
    return take_used(d, ring_load32(entry), token, written_bytes);
}

static bool packed_is_used(const struct driver_sim *d)
{
    uint16_t flags = ring_load16_acquire(d->desc + (size_t)d->used_next * DESC_BYTES + PACKED_FLAGS);
    return !!(flags & DESC_F_AVAIL) == d->used_wrap && !!(flags & DESC_F_USED) == d->used_wrap;
}

static bool get_packed(struct driver_sim *d, uint64_t *token, uint32_t *written_bytes)
{
    if (!packed_is_used(d)) return false;
    const char *at = d->desc + (size_t)d->used_next * DESC_BYTES;
    uint16_t id = ring_load16(at + PACKED_ID);
    *written_bytes = ring_load16(at + PACKED_FLAGS) & DESC_F_WRITE ? ring_load32(at + PACKED_LENGTH) : 0;
    return take_used(d, id, token, written_bytes);
}

bool driver_sim_get(struct driver_sim *d, uint64_t *token, uint32_t *written_bytes)
{
    if (d->error) return false;
    if (d->skipping) return take_skipped(d, token, written_bytes);
    return d->s.packed ? get_packed(d, token, written_bytes) : get_split(d, token, written_bytes);
}

static void set_used_event(struct driver_sim *d, uint16_t v)
{
    ring_store16(d->driver + SPLIT_RING + (size_t)d->s.size * SPLIT_AVAIL_ENTRY, v);
}

void driver_sim_calls_off(struct driver_sim *d)
{
    if (d->s.packed) ring_store16(d->driver + 2, PACKED_EVENT_DISABLE);
    else if (d->s.event_idx) set_used_event(d, (uint16_t)(d->used_next - 1)); /* already behind */
    else ring_store16(d->driver + SPLIT_FLAGS, SPLIT_AVAIL_F_NO_INTERRUPT);
}

bool driver_sim_calls_on(struct driver_sim *d)
{
    if (d->s.packed) {
        if (d->s.event_idx) ring_store16(d->driver, (uint16_t)(d->used_next | (d->used_wrap ? EVENT_WRAP : 0)));
        ring_store16_release(d->driver + 2, d->s.event_idx ? PACKED_EVENT_DESC : PACKED_EVENT_ENABLE);
    } else if (d->s.event_idx) {
        set_used_event(d, d->used_next);
    } else {
        ring_store16(d->driver + SPLIT_FLAGS, 0);
    }
    ring_full_fence();
    if (d->s.packed) return packed_is_used(d);
    return ring_load16(d->device + SPLIT_IDX) != d->used_next;
}

unsigned driver_sim_in_flight(const struct driver_sim *d)
{
    return d->in_flight;
}

const char *driver_sim_error(const struct driver_sim *d)
{
    return d->error;
}
