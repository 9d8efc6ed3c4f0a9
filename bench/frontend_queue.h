/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver side of a virtqueue, split or packed, made for request slots that are used again and
 * again: see frontend.h. Fast enough to keep any back end busy from one core: descriptors are written
 * once, the ring is published and the kick decided once per batch.
 *
 *     fe_queue_add ... fe_queue_add -> fe_queue_submit        fe_queue_reap -> slots that are done
 *
 * Ring layouts are the specification's (virtio 1.2, 2.7 split, 2.8 packed); everything the device
 * writes is checked: an answer for a slot that is not in flight is the device's error (-EPROTO).
 */
#ifndef BENCH_FRONTEND_QUEUE_H
#define BENCH_FRONTEND_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>

struct frontend;

#define FE_STATUS_NONE 0xffu /* no device has written a status here */

struct fe_slot {
    struct virtio_blk_outhdr *header; /* in guest memory, with status in the same cache line */
    volatile uint8_t *status;
    char *data;
    struct vring_desc *indirect; /* this slot's indirect table, or NULL */
    uint32_t length;             /* payload as the descriptors now say */
    bool device_writes;          /* direction as the descriptors now say */
    bool busy;
    uint16_t descs;   /* descriptors in its chain */
    uint32_t written; /* bytes that the device says it wrote */
    uint64_t user;    /* the caller's */
    uint64_t time_ns; /* the caller's */
};

struct fe_queue {
    struct frontend *f;
    unsigned index;
    uint16_t size;
    bool packed, event_idx, indirect;
    unsigned stride_shift; /* split: slot i owns descriptors from i << stride_shift */
    unsigned slot_count, slot_descs_max;
    struct fe_slot *slot;
    int kick_fd, call_fd;

    /* split: desc, avail, used. packed: ring, our event suppression, the device's. */
    void *ring_desc, *ring_driver, *ring_device;
    uint16_t avail_next;      /* split: free-running; packed: position */
    uint16_t avail_published; /* split: index that the device has been shown */
    uint16_t used_next;       /* split: free-running; packed: position */
    bool avail_wrap, used_wrap;
    uint16_t held_at; /* packed: first descriptor of the batch, whose flags are held back */
    uint16_t held_flags;
    uint16_t added; /* descriptors added since the last submit */
    unsigned in_flight;
    uint64_t kicks, calls;
    const char *broken; /* what the device did wrong */
};

/* Ring entries that a queue of `depth` slots needs. 0 when more than a ring can have. */
unsigned fe_queue_entries(unsigned depth, unsigned descs_per_slot, bool packed, bool indirect);
/* Bytes of guest memory for one queue with its slots, without payload. */
uint64_t fe_queue_bytes(unsigned size, unsigned depth, unsigned descs_per_slot);
/* Lay the queue out in f's memory. -ENOMEM when it does not fit. Features are those of frontend_args until
 * fe_queue_features(). */
int fe_queue_init(struct fe_queue *q, struct frontend *f, unsigned index);
void fe_queue_clear(struct fe_queue *q);
/* What was agreed at last. Only while nothing is in flight, then fe_queue_restart(). */
void fe_queue_features(struct fe_queue *q, bool event_idx, bool indirect);
/* Empty rings, and everything in flight added again. */
void fe_queue_restart(struct fe_queue *q);
/* For SET_VRING_BASE: where the device is to go on (QEMU's convention: at what it has used). */
uint32_t fe_queue_base(const struct fe_queue *q);

/* Add one request of a free slot: type is a VIRTIO_BLK_T_*; the payload is the slot's buffer, length 0 for
 * none. Not seen by the device before fe_queue_submit(). */
void fe_queue_add(struct fe_queue *q, unsigned slot, uint32_t type, uint64_t sector, uint32_t length);
/* Show the device what was added; kick it if it wants that. */
void fe_queue_submit(struct fe_queue *q);
void fe_queue_kick(struct fe_queue *q);
/* Take up to max finished slots. The count, or -EPROTO (q->broken says why). */
int fe_queue_reap(struct fe_queue *q, uint16_t *slots, unsigned max);

/* Ask for calls (then reap once more before sleeping on call_fd), or for none. */
void fe_queue_want_calls(struct fe_queue *q, bool want);

/* One request on slot 0, waiting (on the call descriptor) at most wait_ms. Returns the device's status, or -errno.
 * Nothing else may be in flight on the queue. */
int fe_queue_do(struct fe_queue *q, uint32_t type, uint64_t sector, uint32_t length, int wait_ms);

#endif
