/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-user, back-end side (QEMU's docs/interop/vhost-user.rst): one session is one connection of
 * one front end to one device.
 *
 *     front end --socket--> session (control thread) --guest_device_ops--> device (vbd, vif)
 *
 * The session speaks the protocol, owns the regions and the rings' descriptors, and tells the device
 * when a queue is to run and when to stop. The device never sees a message.
 *
 * Surviving a worker. All that a session has agreed lives in `struct vhost_state`, which the caller
 * may place in shared memory; its descriptors (connection, regions, kick, call, err, in-flight)
 * are handed to `hold` under stable names as they come and are given back to vhost_user_resume() in the
 * next process, which goes on in the middle of the conversation: a message is peeked at, carried
 * out (all are idempotent), marked, and only then consumed and answered, so a kill at any instruction
 * repeats or skips nothing that the front end can see.
 *
 * Thread-safety: all calls on the control thread. Device operations are called on it too and
 * return when the queue threads have obeyed.
 */
#ifndef GUEST_VHOST_USER_H
#define GUEST_VHOST_USER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "guest/memory.h"
#include "loop/loop.h"
#include "ring/virtq.h"

#define VHOST_QUEUES_MAX 64
#define VHOST_CONFIG_MAX_BYTES 256

/* Feature bits that the session or the rings implement whatever the device (virtio 1.2, section 6). */
#define VIRTIO_F_RING_INDIRECT_DESC 28
#define VIRTIO_F_RING_EVENT_IDX 29
#define VHOST_USER_F_PROTOCOL_FEATURES 30
#define VIRTIO_F_VERSION_1 32
#define VIRTIO_F_RING_PACKED 34
#define VIRTIO_F_IN_ORDER 35

/* A queue about to run. Descriptors stay the session's and are valid until queue_stop(). */
struct guest_queue {
    unsigned index;
    struct virtq_setup setup;
    int kick_fd; /* -1: the front end has none, the queue must be polled */
    int call_fd; /* -1: the driver polls */
};

enum guest_reset {
    GUEST_RESET_STATUS, /* a status of 0: the driver starts anew, or the machine is merely paused (QEMU) */
    GUEST_RESET_DEVICE, /* RESET_DEVICE: the driver starts anew */
    GUEST_RESET_END,    /* the connection ended: the same driver may come back, or another one */
};

struct guest_device_ops {
    unsigned queues_max; /* at most VHOST_QUEUES_MAX */
    unsigned config_bytes;
    uint64_t features; /* device's own and ring features offered; the session adds its own */
    /* Every queue completes in order: there are no in-flight tables; the session keeps each queue's place
     * (virtq_setup.place), and a queue that ran when a process ended is started with `resume` at it. Such devices share
     * their process with others': guest memory must be memory (guest_memory_check_file()). */
    bool in_order;

    /* The driver accepted these. 0 or -errno (then the message fails). */
    int (*set_features)(void *device, uint64_t features);
    void (*get_config)(void *device, uint8_t *config /* config_bytes */);
    /* The driver (or a migration) writes device configuration. 0 or -EINVAL for read-only fields. */
    int (*set_config)(void *device, uint32_t offset, uint32_t length, const uint8_t *data);

    /* Run a queue on memory `map`. 0 or -errno. */
    int (*queue_start)(void *device, const struct guest_queue *q, struct guest_map *map);
    /* Finish what is in flight, stop; returns where the queue stands (virtq_base). */
    uint32_t (*queue_stop)(void *device, unsigned index);
    /* The call descriptor changed while the queue runs (-1: none). */
    void (*queue_set_call)(void *device, unsigned index, int call_fd);
    /* Use another map from now on. When it returns nothing uses the old one, unless every
     * region of it is also in the new one (`grows`). Running queues go on afterwards. */
    void (*set_map)(void *device, struct guest_map *map, bool grows);
    /* The guest has moved here: tell the network where this address is now. NULL: not a network card. */
    void (*announce)(void *device, const uint8_t mac[6]);
    /* All queues are stopped already. */
    void (*reset)(void *device, enum guest_reset kind);
};

/* Where descriptors and state are kept for the next process. Both may be NULL: nothing is kept. */
struct guest_hold {
    /* Keep a duplicate of fd under name (at most 31 bytes), replacing what was there. */
    void (*keep)(void *arg, const char *name, int fd);
    void (*drop)(void *arg, const char *name);
    void *arg;
};

/* What a session has agreed; a fixed layout for the next process, perhaps of a newer version. */
struct vhost_state;
size_t vhost_state_bytes(void);

struct vhost_session;

struct vhost_args {
    struct loop *loop;
    const struct guest_device_ops *ops;
    void *device;              /* first argument of ops */
    void *owner;               /* first argument of stash_ready and ended */
    struct vhost_state *state; /* vhost_state_bytes() long, zeroed when new; outlives the session */
    struct guest_hold hold;
    /* Memory for the in-flight tables of all queues when the front end does not share its own
     * (INFLIGHT_SHMFD), part of what survives; NULL: no tracking then. */
    void *inflight;
    size_t inflight_bytes;
    /* Extra bytes that the device wants at the end of a front end's in-flight memory, to survive
     * with it (what it keeps, disk.h: struct disk_stash), and the call that says where they are. */
    size_t stash_bytes;
    void (*stash_ready)(void *owner, void *mem, size_t bytes, bool resumed);
    /* The session is over (connection closed, or the front end broke the protocol; why says).
     * Queues are stopped, the device was reset. The session may be freed from inside. */
    void (*ended)(void *owner, const char *why);
};

/* A new connection; fd becomes the session's. 0 or -errno. */
int vhost_session_new(struct vhost_session **out, const struct vhost_args *args, int fd, struct errmsg *e);

/* Go on where a process before us stopped: the same state and inflight memory, and the descriptors held
 * (names and fds, taken over). Queues that ran are started with `resume` set. */
int vhost_session_resume(struct vhost_session **out, const struct vhost_args *args, const char *const *names,
                         const int *fds, unsigned count, struct errmsg *e);

/* Stop queues, reset the device, close everything, drop what is held. */
void vhost_session_free(struct vhost_session *s);

/* Stop queues and leave without a trace that the front end could see: state, in-flight memory and held
 * descriptors stay for the next process (an upgrade). */
void vhost_session_leave(struct vhost_session *s);

/* Keep everything once more: whoever held it lost it. */
void vhost_session_rekeep(struct vhost_session *s);

/* Tell the driver that the configuration changed (BACKEND_REQ CONFIG_CHANGE_MSG). False when the
 * front end cannot be told. */
bool vhost_session_config_changed(struct vhost_session *s);

/* A ring is broken: signal its error descriptor, when the front end gave one. */
void vhost_session_ring_failed(struct vhost_session *s, unsigned index);

/* For status reports. */
struct vhost_session_info {
    bool connected;
    uint64_t features, protocol_features;
    unsigned queues_running, regions;
    uint64_t memory_bytes;
};
void vhost_session_describe(const struct vhost_session *s, struct vhost_session_info *out);

#endif
