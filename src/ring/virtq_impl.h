/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What virtq.c, virtq_split.c and virtq_packed.c share: the queue's private state. Nothing in it is ever read
 * back from memory that the guest can write. Private to ring/.
 */
#ifndef RING_VIRTQ_IMPL_H
#define RING_VIRTQ_IMPL_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/lookup.h"
#include "ring/inflight.h"
#include "ring/virtq.h"
#include "ring/wire.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Heads are taken from the available ring this many at a time, and their descriptors fetched into the cache together. */
#define SPLIT_HEADS 32u

/* The most that a chain may describe (2.7.4, 2.8.5: "a driver MUST NOT add a chain longer than 2^32 bytes"). */
#define CHAIN_BYTES_MAX (UINT64_C(1) << 32)

struct split_queue {
    char *desc, *avail, *used;
    struct inflight_split *table;
    uint8_t *state; /* per head, enum split_state */
    uint16_t mask;
    uint16_t avail_seen; /* available index as last read ... */
    uint16_t avail_next; /* ... and how far its entries have been copied to heads[] */
    uint16_t used_next;  /* pushed up to here ... */
    uint16_t used_seen;  /* ... and published up to here */
    uint16_t last_batch_head;
    uint16_t skip_id; /* in order: head of the last chain of those that are given back by one entry */
    uint16_t skip_count;
    bool pushed; /* chains that are in no list to be freed */
    uint8_t heads_at, heads_count;
    uint16_t heads[SPLIT_HEADS];
};

enum split_state { SPLIT_FREE, SPLIT_POPPED, SPLIT_PUSHED /* not published */ };

/* A packed queue counts its chains by entries of a table that mirrors the in-flight one: chains are known by
 * their first entry, whatever buffer id the driver chose. */
struct packed_entry {
    uint16_t next;
    uint16_t last;  /* of a chain's first entry, as the next two */
    uint16_t slots; /* ring slots that the chain takes; 0 when it is not popped, or pushed already */
    uint16_t id;    /* the driver's */
};

struct packed_queue {
    char *ring, *driver_event, *device_event;
    struct inflight_packed *table;
    struct packed_entry *entry;
    uint64_t *ids;       /* bitmap of the buffer ids in flight */
    uint16_t avail_next; /* of the next chain to pop */
    uint16_t used_next;  /* pushed up to here ... */
    uint16_t used_seen;  /* ... and published up to here */
    bool avail_wrap, used_wrap, used_seen_wrap;
    uint16_t free_head;
    uint16_t slots_in_flight;
    uint16_t first_at;    /* where the batch begins: the flags there are stored last, ... */
    uint16_t first_flags; /* ... and make all of it visible */
    uint16_t batch_slots;
    uint16_t skip_id; /* in order: the driver's id of the last chain of those that are given back by one descriptor */
    uint16_t skip_slots;
};

struct virtq {
    bool packed, event_idx, indirect, in_order, kicks_off;
    bool slow;        /* broken, or chains to resume: pop takes the long way */
    bool must_notify; /* the next publication, whatever the driver asked for: it may wait since another process's */
    uint16_t size;
    unsigned in_flight;
    uint64_t counter; /* of the next chain, in the in-flight table */
    struct guest_lookup hot;
    struct guest_map *map;
    uint32_t *place; /* or NULL */
    uint16_t *batch; /* pushed and not published: heads (split), entries (packed) */
    unsigned batch_count;
    union {
        struct split_queue split;
        struct packed_queue pack;
    };
    const char *broken;
    struct inflight_chain *resume; /* of the last process, oldest first */
    unsigned resume_at, resume_count;
};

/* The walk along one chain: what it has so far and where to put more. */
struct chain_walk {
    struct iovec *iov;
    unsigned iov_max, count, out_count, split_count;
    uint64_t bytes, out_bytes;
    bool writing;  /* a device-writable buffer came: no readable one may follow */
    bool counting; /* no entries are made: only the bytes are wanted */
};

int virtq_walk_far(struct virtq *q, struct chain_walk *w, struct gpa addr, uint32_t length);
__attribute__((cold)) int virtq_broke(struct virtq *q, const char *why); /* virtq_break, and -EPROTO */

/* Add one buffer. 0; -EPROTO with the queue broken; -E2BIG: no room for it. */
static inline int virtq_walk_add(struct virtq *q, struct chain_walk *w, const struct ring_desc *d)
{
    if (d->flags & DESC_F_WRITE) {
        if (!w->writing) {
            w->writing = true;
            w->out_count = w->count;
            w->out_bytes = w->bytes;
        }
    } else if (unlikely(w->writing)) {
        return virtq_broke(q, "a device-readable buffer follows a device-writable one");
    }
    w->bytes += d->length;
    void *host = guest_lookup_hit(&q->hot, (struct gpa){d->addr}, d->length);
    if (unlikely(!host || d->length == 0 || w->count == w->iov_max))
        return virtq_walk_far(q, w, (struct gpa){d->addr}, d->length);
    w->iov[w->count++] = (struct iovec){host, d->length};
    return 0;
}

/* Fill in what the chain is, apart from its names. 0 or -EPROTO. */
static inline int virtq_walk_end(struct virtq *q, struct chain_walk *w, struct virtq_chain *c)
{
    if (unlikely(w->bytes > CHAIN_BYTES_MAX)) return virtq_broke(q, "a chain of more than 4 GiB");
    if (!w->writing) {
        w->out_count = w->count;
        w->out_bytes = w->bytes;
    }
    c->out_count = w->out_count;
    c->in_count = w->count - w->out_count;
    c->split_count = w->split_count;
    c->out_bytes = w->out_bytes;
    c->in_bytes = w->bytes - w->out_bytes;
    return 0;
}

/* A chain that is one buffer within the region used last: false when it is not, and nothing is stored. The start of the buffer is
 * brought into the cache. */
static inline bool virtq_take_plain(const struct virtq *q, const struct ring_desc *d, struct virtq_chain *c,
                                    struct iovec *iov)
{
    void *host = guest_lookup_hit(&q->hot, (struct gpa){d->addr}, d->length);
    if (unlikely(!host || d->length == 0)) return false;
    *iov = (struct iovec){host, d->length};
    bool writable = d->flags & DESC_F_WRITE;
    c->slots = 1;
    c->split_count = 0;
    c->out_count = !writable;
    c->in_count = writable;
    c->out_bytes = writable ? 0 : d->length;
    c->in_bytes = writable ? d->length : 0;
    if (writable) {
        __builtin_prefetch(host, 1);
        __builtin_prefetch((char *)host + 64, 1);
    } else {
        __builtin_prefetch(host);
        __builtin_prefetch((char *)host + 64);
    }
    return true;
}

/* Bring into the cache what the driver wrote at the start of the chain that comes next: a request's header or an indirect
 * table. The address is only a hint here (it is read again, and checked, when the chain is popped). */
static inline void virtq_prefetch_target(const struct virtq *q, const void *desc)
{
    uint64_t addr = ENDIAN_LE(64, ((const volatile struct ring_desc_words *)desc)->addr);
    void *host = guest_lookup_hit(&q->hot, (struct gpa){addr}, 1);
    if (host) __builtin_prefetch(host);
}

/* virtq_split.c */
int split_new(struct virtq *q, const struct virtq_setup *s, struct errmsg *e);
void split_free(struct virtq *q);
int split_pop(struct virtq *q, struct virtq_chain *c, struct iovec *iov, unsigned iov_max);
unsigned split_pop_plain(struct virtq *q, struct virtq_chain *c, struct iovec *iov, unsigned max);
int split_resume(struct virtq *q, uint16_t head, struct virtq_chain *c, struct iovec *iov, unsigned iov_max);
void split_push(struct virtq *q, uint16_t id, uint32_t written_bytes);
void split_push_many(struct virtq *q, const struct virtq_chain *c, const uint32_t *written_bytes, unsigned count);
void split_unpop(struct virtq *q, const struct virtq_chain *c);
bool split_publish(struct virtq *q);
void split_kick_disable(struct virtq *q);
void split_kick_enable(struct virtq *q);
bool split_has_work(const struct virtq *q);

/* virtq_packed.c */
int packed_new(struct virtq *q, const struct virtq_setup *s, struct errmsg *e);
void packed_free(struct virtq *q);
int packed_pop(struct virtq *q, struct virtq_chain *c, struct iovec *iov, unsigned iov_max);
unsigned packed_pop_plain(struct virtq *q, struct virtq_chain *c, struct iovec *iov, unsigned max);
int packed_resume(struct virtq *q, uint16_t entry, struct virtq_chain *c, struct iovec *iov, unsigned iov_max);
void packed_push(struct virtq *q, uint16_t id, uint32_t written_bytes);
void packed_push_frame(struct virtq *q, const struct virtq_chain *c, const uint32_t *written_bytes, unsigned count);
void packed_push_many(struct virtq *q, const struct virtq_chain *c, const uint32_t *written_bytes, unsigned count);
void packed_unpop(struct virtq *q, const struct virtq_chain *c);
bool packed_publish(struct virtq *q);
void packed_kick_disable(struct virtq *q);
void packed_kick_enable(struct virtq *q);
bool packed_has_work(const struct virtq *q);
uint32_t packed_base(const struct virtq *q);

#endif
