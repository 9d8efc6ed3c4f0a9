/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TRUST BOUNDARY 2: virtqueues, split and packed (Virtual I/O Device specification 1.2, sections
 * 2.7 and 2.8), device side.
 *
 * The driver (guest) writes descriptors and makes them available; the device pops a chain, works
 * on it, pushes it back with the number of bytes it wrote, and publishes pushes in batches:
 *
 *     virtq_pop ... virtq_pop  ->  work  ->  virtq_push ... virtq_push  ->  virtq_publish
 *
 * Everything in the shared rings is hostile: each descriptor is copied out once, checked, and only
 * the copy is used; no pointer into a ring leaves this module; every walk is bounded in its
 * loop condition. A violation breaks the queue for good (-EPROTO, `broken` says why); the other
 * queues' fate is the device's decision.
 *
 * A queue belongs to one thread. The memory map is replaced only by that thread (virtq_set_map).
 *
 * The in-flight table (vhost-user specification, "Inflight I/O tracking") is in shared memory that
 * outlives this process: pop marks, push clears, in an order that leaves it right when
 * the process is killed between any two instructions. After a restart virtq_pop() first gives
 * back the chains that the last process had popped and not pushed, oldest first.
 *
 * A device that pushes its chains in the order in which it popped them needs no such table: one word,
 * `place`, is all that must outlive it, whatever the instruction at which it is killed. Chains that it had popped and not
 * pushed are then the next to be popped.
 */
#ifndef RING_VIRTQ_H
#define RING_VIRTQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/errmsg.h"
#include "guest/memory.h"

#define VIRTQ_SIZE_MAX 32768u

/* Where and what the queue is, from the transport. Ring pointers are host addresses of memory that is
 * mapped for as long as the queue runs. */
struct virtq_setup {
    uint16_t size; /* entries; a power of two when split, 1..VIRTQ_SIZE_MAX */
    bool packed;
    bool event_idx; /* VIRTIO_F_EVENT_IDX accepted */
    bool indirect;  /* VIRTIO_F_INDIRECT_DESC accepted */
    void *desc;     /* split: descriptor table; packed: descriptor ring */
    void *driver;   /* split: available ring; packed: driver event suppression */
    void *device;   /* split: used ring; packed: device event suppression */
    /* split: next available index. packed: bits 0-14 next available, 15 its wrap counter, 16-30
     * next used, 31 its wrap counter (as VRING_BASE carries them). */
    uint32_t base;
    void *inflight; /* this queue's in-flight region, virtq_inflight_bytes() long, or NULL */
    /* The region holds what an earlier process left: base is taken from it (from here when that process never
     * started the region). With a place: base is what an earlier process left in that word. */
    bool resume;
    bool in_order; /* VIRTIO_F_IN_ORDER accepted: chains without written bytes are given back many at once */
    /* Chains are pushed in the order in which they were popped, and where the queue stands is written here with every
     * publication, as base; or NULL. Then there is no in-flight region. */
    uint32_t *place;
};

/* How much memory the three pointers must have behind them. */
size_t virtq_desc_bytes(uint16_t size);
size_t virtq_driver_bytes(uint16_t size, bool packed);
size_t virtq_device_bytes(uint16_t size, bool packed);

/* One request as popped. The iov entries are the caller's; first the out (driver to device), then the
 * in entries. */
struct virtq_chain {
    uint16_t id;        /* give back with the push; below the queue's size, unique among chains in flight */
    uint16_t slots;     /* ring slots it takes (packed) */
    unsigned out_count; /* entries that the device reads */
    unsigned in_count;  /* entries that the device writes */
    /* Entries more than the driver made buffers: those that lie in several regions. */
    unsigned split_count;
    uint64_t out_bytes;
    uint64_t in_bytes;
};

struct virtq;

/*
 * 0, -EINVAL with the reason (size, alignment, base, a region that is not ours), -ENOMEM. The map is referenced. Rings
 * whose content is impossible make a queue that is broken from the start. After a resume the driver
 * may still be waiting for what the last process published: the first virtq_publish() returns true, even
 * with nothing pushed.
 */
int virtq_new(struct virtq **out, const struct virtq_setup *s, struct guest_map *map, struct errmsg *e);
void virtq_free(struct virtq *q);

/* Replace the memory map. No chain popped under the old one may be in flight, unless every region
 * of the old map is also in the new one. Ring pointers into the old map are moved to the same user addresses
 * in the new one; a queue whose rings are not in it breaks. */
void virtq_set_map(struct virtq *q, struct guest_map *map);

/*
 * Take the next chain. iov has room for iov_max entries.
 * 1: popped; 0: none; -EPROTO: broken now, or already (virtq_broken() says why); -E2BIG: the chain needs more
 * entries than there is room for, and is still the next: pop it with more room, or break the queue.
 */
int virtq_pop(struct virtq *q, struct virtq_chain *c, struct iovec *iov, unsigned iov_max);

/*
 * Take up to max chains, as virtq_pop() one after the other would: the entries of each follow those of the one before. The first
 * 128 bytes of chains that are one buffer are on their way into the cache then. How many; 0: none; or why not even
 * the first could be taken.
 */
int virtq_pop_many(struct virtq *q, struct virtq_chain *c, unsigned max, struct iovec *iov, unsigned iov_max);

/* Return a chain; written_bytes is what the device wrote into its in entries. Invisible to the
 * driver until virtq_publish(). */
void virtq_push(struct virtq *q, uint16_t id, uint32_t written_bytes);

/* Return count chains, each for itself. written_bytes: NULL for chains into which nothing was written. For queues with a place. */
void virtq_push_many(struct virtq *q, const struct virtq_chain *c, const uint32_t *written_bytes, unsigned count);

/* Return the chains that one frame was written into: the driver sees all of them or none. For queues with a place, where every
 * chain but the last is filled to its end (a successor takes that as given). */
void virtq_push_frame(struct virtq *q, const struct virtq_chain *c, const uint32_t *written_bytes, unsigned count);

/* Put back the chain that was popped last; it is the next to be popped. Only for queues with a place. */
void virtq_unpop(struct virtq *q, const struct virtq_chain *c);

/* Make pushes visible (with a place, in a packed ring, they may be so already). True when the driver must be notified (the call descriptor). */
bool virtq_publish(struct virtq *q);

/* Ask the driver not to notify (while polling), or to do so again. virtq_kick_enable() returns true when
 * something became available meanwhile: then poll once more instead of sleeping. */
void virtq_kick_disable(struct virtq *q);
bool virtq_kick_enable(struct virtq *q);

/* Cheap: is there something to pop? A hint; virtq_pop() decides. */
bool virtq_has_work(const struct virtq *q);

/* Where the queue stands, in the form of virtq_setup.base. Only meaningful with nothing in flight and nothing left
 * to resume. */
uint32_t virtq_base(const struct virtq *q);

/* Chains popped and not pushed. */
unsigned virtq_in_flight(const struct virtq *q);

/* True while chains that an earlier process popped are still to be given out: a queue that stops for good pops
 * and finishes them first. */
bool virtq_resuming(const struct virtq *q);

/* Break the queue: pop returns -EPROTO from now on. why is a literal. */
void virtq_break(struct virtq *q, const char *why);
const char *virtq_broken(const struct virtq *q); /* NULL while it is sound */

/* Size of one queue's in-flight region, a multiple of 64; its layout is the specification's. */
size_t virtq_inflight_bytes(uint16_t size, bool packed);

#endif
