/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a session has agreed, in memory that may outlive the process: a fixed layout, read by the next
 * process, perhaps of a newer version. Numbers only: descriptors are held outside, by name.
 *
 * Every change is made so that a kill between any two instructions leaves something true:
 * fields are written first, then the one word that makes them count (`magic`, `step`, `table`,
 * a slot's `table`, `running`), in that order (vhost_state_order()).
 *
 * The message at the head of the socket and `step`:
 *
 *     IDLE       nothing was carried out, or only a part: carry it out (again; messages are idempotent)
 *     PROCESSED  carried out; `message` is a copy, the answer lies in the reply file. It may still be in the
 *                socket: when the head of the socket equals the copy it is carried out again (the
 *                same, or one just like it: both are right), else it was consumed
 *     CONSUMED   only the answer is due. How much of it went out is the reply file's position, which the
 *                kernel moves in the same system call that sends
 *     SENDING    an answer with a descriptor is being sent: assumed sent
 */
#ifndef GUEST_VHOST_USER_STATE_H
#define GUEST_VHOST_USER_STATE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/memory.h"
#include "guest/vhost_user.h"
#include "guest/vhost_user_proto.h"

#define VHOST_STATE_MAGIC UINT64_C(0x3154534f48564443) /* "CDVHOST1": layout 1 */

/* Regions that a front end may have; as many slots again are needed while a table replaces another. */
#define VHOST_REGIONS_MAX 256u
#define VHOST_SLOTS_MAX GUEST_REGIONS_MAX
static_assert(VHOST_SLOTS_MAX >= 2 * VHOST_REGIONS_MAX, "an old and a new table fit together");
static_assert(VHOST_REGIONS_MAX >= VU_FDS_MAX, "what one message can bring fits");

enum vhost_step { VHOST_STEP_IDLE, VHOST_STEP_PROCESSED, VHOST_STEP_CONSUMED, VHOST_STEP_SENDING };

enum vhost_ring_flags {
    VHOST_RING_HAS_ADDR = 1 << 0,
    VHOST_RING_STARTED = 1 << 1,  /* SET_VRING_KICK came, GET_VRING_BASE has not */
    VHOST_RING_HAS_KICK = 1 << 2, /* a descriptor "kick.N" is held; else the ring is polled */
    VHOST_RING_HAS_CALL = 1 << 3,
    VHOST_RING_HAS_ERR = 1 << 4,
};

enum vhost_ring_enable { VHOST_ENABLE_UNSET, VHOST_ENABLE_OFF, VHOST_ENABLE_ON };

struct vhost_ring_state {
    uint32_t flags;
    uint32_t enable;
    uint32_t running; /* the device has it, or had it when the process ended */
    uint32_t parked;  /* stopped by vhost_session_leave(): base is true even without in-flight tracking */
    uint32_t size;
    uint32_t base;                        /* struct virtq_setup */
    uint64_t descriptor, available, used; /* front end's addresses */
    uint64_t unused[2];
};

/* One region; it counts while `table` equals vhost_state.table. Held as "region.SLOT". */
struct vhost_slot_state {
    struct vu_region region;
    uint64_t added_by; /* sequence of the message */
    uint32_t table;
    uint32_t unused;
};

/* The front end's own in-flight memory, held as "inflight". */
struct vhost_inflight_state {
    uint32_t present;
    uint32_t queues;
    uint32_t queue_size;
    uint32_t packed;
    uint64_t offset_bytes;
    uint64_t tables_bytes;
    uint64_t stash_offset_bytes;      /* 0: no room for a stash */
    uint64_t made_device, made_inode; /* what GET_INFLIGHT_FD gave out last, to tell new memory from old */
};

struct vhost_state {
    uint64_t magic; /* 0: no session */
    uint32_t bytes; /* of this struct */
    uint32_t queues_max;

    uint64_t features;
    uint64_t protocol_features;
    uint32_t features_set;
    uint32_t status;
    uint32_t has_req;        /* "req" is held */
    uint32_t config_pending; /* the front end is to be told of a change */

    uint64_t sequence; /* of the message at the head, from 1 */
    uint64_t removed_by;
    uint32_t step;
    uint32_t table; /* from 1 */

    uint64_t reply_start; /* in the reply file */
    uint32_t reply_bytes;
    uint32_t unused;
    struct vu_header message;
    uint32_t reply_has_fd;
    uint8_t payload[VU_PAYLOAD_MAX];

    struct vhost_inflight_state inflight;
    struct vhost_ring_state ring[VHOST_QUEUES_MAX];
    struct vhost_slot_state slot[VHOST_SLOTS_MAX];
};

/* Layout 1 for ever: a change of any of these is a new magic, and code to read the old one. */
static_assert(offsetof(struct vhost_state, step) == 64, "vhost_state layout 1");
static_assert(offsetof(struct vhost_state, payload) == 104, "vhost_state layout 1");
static_assert(offsetof(struct vhost_state, inflight) == 8296, "vhost_state layout 1");
static_assert(offsetof(struct vhost_state, ring) == 8352, "vhost_state layout 1");
static_assert(sizeof(struct vhost_ring_state) == 64, "vhost_state layout 1");
static_assert(sizeof(struct vhost_slot_state) == 48, "vhost_state layout 1");

/* What was written before is in memory before what is written after, for whoever looks when this
 * process is gone. Only the compiler could disturb that. */
static inline void vhost_state_order(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline void vhost_state_mark(uint32_t *word, uint32_t value)
{
    vhost_state_order();
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
    vhost_state_order();
}

#endif
