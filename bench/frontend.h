/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vhost-user front end with no virtual machine: the guest's half of the conversation, for benchmarks and
 * tests. It drives any back end that speaks the protocol: disks from here, network cards through net_frontend.h.
 *
 *     program --> frontend (socket, features, memory) --> fe_queue (driver side of a virtqueue)
 *
 * Theory. A front end owns one memfd, "the guest's memory", laid out once: the rings, then per request
 * slot one cache line (header, status) and a payload buffer. Guest address = FRONTEND_GPA_BASE + offset in
 * the memfd. A slot's descriptors are written once and stay as they are until its shape (length,
 * direction) changes, so a resubmission costs two header words and one ring entry.
 *
 * The memory outlives connections. frontend_attach() after a lost connection goes on with the same
 * rings when the back end tracks requests in flight (INFLIGHT_SHMFD), else it starts the rings
 * anew and submits again whatever was in flight.
 *
 * The steps of attaching are public one by one, and raw messages can be sent, so that tests can
 * do them in a wrong order or with wrong contents.
 *
 * Thread-safety: none; a front end and its queues belong to one thread.
 *
 * Source: QEMU's docs/interop/vhost-user.rst; Virtual I/O Device specification 1.2, 2.7, 2.8, 5.2.
 */
#ifndef BENCH_FRONTEND_H
#define BENCH_FRONTEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/virtio_blk.h>

#include "base/errmsg.h"
#include "frontend_queue.h"

#define FRONTEND_GPA_BASE UINT64_C(0x100000000)
#define FRONTEND_REGIONS_MAX 32
#define FRONTEND_FDS_MAX 32

/* Requests of the vhost-user protocol, front end to back end. */
enum frontend_request {
    FE_GET_FEATURES = 1,
    FE_SET_FEATURES = 2,
    FE_SET_OWNER = 3,
    FE_SET_MEM_TABLE = 5,
    FE_SET_VRING_NUM = 8,
    FE_SET_VRING_ADDR = 9,
    FE_SET_VRING_BASE = 10,
    FE_GET_VRING_BASE = 11,
    FE_SET_VRING_KICK = 12,
    FE_SET_VRING_CALL = 13,
    FE_SET_VRING_ERR = 14,
    FE_GET_PROTOCOL_FEATURES = 15,
    FE_SET_PROTOCOL_FEATURES = 16,
    FE_GET_QUEUE_NUM = 17,
    FE_SET_VRING_ENABLE = 18,
    FE_SET_BACKEND_REQ_FD = 21,
    FE_GET_CONFIG = 24,
    FE_SET_CONFIG = 25,
    FE_GET_INFLIGHT_FD = 31,
    FE_SET_INFLIGHT_FD = 32,
    FE_RESET_DEVICE = 34,
    FE_GET_MAX_MEM_SLOTS = 36,
    FE_ADD_MEM_REG = 37,
    FE_REM_MEM_REG = 38,
    FE_SET_STATUS = 39,
    FE_GET_STATUS = 40,
};

/* Bits of the protocol features. */
enum frontend_protocol {
    FE_PROTO_MQ = 0,
    FE_PROTO_REPLY_ACK = 3,
    FE_PROTO_BACKEND_REQ = 5,
    FE_PROTO_CONFIG = 9,
    FE_PROTO_INFLIGHT = 12,
    FE_PROTO_RESET_DEVICE = 13,
    FE_PROTO_MEM_SLOTS = 15,
    FE_PROTO_STATUS = 16,
};

#define FE_FEATURE_PROTOCOL 30 /* VHOST_USER_F_PROTOCOL_FEATURES */

#define FE_FLAG_VERSION 0x1u
#define FE_FLAG_REPLY 0x4u
#define FE_FLAG_NEED_REPLY 0x8u
#define FE_VRING_NOFD 0x100u
#define FE_PAYLOAD_MAX 4096u

struct fe_msg_header {
    uint32_t request;
    uint32_t flags;
    uint32_t size_bytes;
};

struct fe_msg_region {
    uint64_t guest_addr, size_bytes, user_addr, file_offset;
};

struct fe_msg_inflight {
    uint64_t mmap_size, mmap_offset;
    uint16_t num_queues, queue_size;
} __attribute__((packed));

struct frontend_args {
    const char *socket_path;  /* connected to, or with `listen` bound and waited on */
    bool listen;              /* the back end connects to us */
    unsigned connect_wait_ms; /* how long to go on trying; 0: once (listen: for ever) */
    unsigned reply_wait_ms;   /* how long a back end may take to answer; 0: 10 s */
    unsigned queues;          /* 0: 1 */
    unsigned queue_size;      /* ring entries; 0: the least that holds `depth` requests */
    unsigned depth;           /* request slots per queue; 0: 1 */
    uint32_t slot_bytes;      /* payload buffer per slot; 0: 4096 */
    uint32_t segment_bytes;   /* payload is cut into descriptors of at most this; 0: one */
    unsigned regions;         /* memory is shared as so many adjacent regions; 0: 1 */
    bool huge_pages;          /* back the memory by 2 MiB pages */
    bool packed;              /* packed virtqueues; an error when the back end has none */
    bool event_idx, indirect; /* accept these when offered */
    bool no_inflight;         /* do not accept INFLIGHT_SHMFD */
    bool mem_slots;           /* use ADD_MEM_REG when the back end can */
    bool backend_channel;     /* accept BACKEND_REQ: hear of configuration changes */

    /* Another kind of device: its rings and its configuration are the caller's (net_frontend.h). Then queues counts
     * virtqueues, and what concerns request slots is not used. */
    bool other_device;
    uint64_t other_features; /* of the device, to accept when offered */
    uint64_t other_bytes;    /* memory for the caller's rings and buffers */
    unsigned other_units;    /* what GET_QUEUE_NUM counts: virtqueues or, for network cards, pairs of them */
};

/* A virtqueue as the back end is told of it. */
struct frontend_ring {
    unsigned index, size;
    const void *desc, *driver, *device; /* in the guest's memory */
    uint32_t base;                      /* SET_VRING_BASE */
    int kick_fd, call_fd;
};

struct frontend {
    struct frontend_args args; /* defaults filled in; socket_path is a copy */
    int sock;                  /* -1 while not connected */
    int listen_fd;
    int mem_fd;
    char *mem;
    uint64_t mem_bytes;
    uint64_t mem_used; /* frontend_alloc() */

    uint64_t features; /* offered and accepted */
    uint64_t features_offered;
    uint64_t protocol;
    unsigned queues_max; /* what the back end can do */
    struct virtio_blk_config config;
    uint64_t capacity_bytes;

    int inflight_fd; /* -1: the back end does not track */
    struct fe_msg_inflight inflight;
    int backend_fd; /* our end of the back end's own channel, or -1 */
    bool attached_before;
    struct fe_queue *queue; /* args.queues of them */
};

/* Memory, rings and slots; nothing is connected yet. 0, -EINVAL, -ENOMEM. */
int frontend_new(struct frontend **out, const struct frontend_args *args, struct errmsg *e);
void frontend_free(struct frontend *f);

/*
 * Connect, negotiate, share memory, start all queues. Again after a lost connection, see above.
 * 0, or -errno: -ETIMEDOUT when nobody is there or answers, -EPROTO for an answer that makes no
 * sense, -ENOTSUP when something asked for is not offered.
 */
int frontend_attach(struct frontend *f, struct errmsg *e);
/* Stop all queues (GET_VRING_BASE) and close: the back end finishes what it has. 0 or -errno. */
int frontend_detach(struct frontend *f, struct errmsg *e);
/* Close the connection without a word. */
void frontend_hangup(struct frontend *f);
/* False once the back end has closed the connection. Costs a system call. */
bool frontend_alive(const struct frontend *f);

/* The steps of frontend_attach(), in order. */
int frontend_connect(struct frontend *f, struct errmsg *e);
int frontend_negotiate(struct frontend *f, struct errmsg *e);
int frontend_share_memory(struct frontend *f, struct errmsg *e);
int frontend_start_queues(struct frontend *f, struct errmsg *e);
/* Parts of the last step, for other devices: one ring, and that the driver is ready. */
int frontend_start_ring(struct frontend *f, const struct frontend_ring *r, struct errmsg *e);
int frontend_driver_ok(struct frontend *f, struct errmsg *e);

/* Read the device's configuration space into f->config and f->capacity_bytes. */
int frontend_read_config(struct frontend *f, struct errmsg *e);
/* A message on the back end's channel: 1 when the configuration changed (and was read again), 0 when
 * there was none, or -errno. Never waits. */
int frontend_poll_backend(struct frontend *f, struct errmsg *e);

/* Zeroed memory of the guest; align is a power of two. NULL when there is no room. */
void *frontend_alloc(struct frontend *f, uint64_t bytes, uint64_t align);
static inline uint64_t frontend_gpa(const struct frontend *f, const void *p)
{
    return FRONTEND_GPA_BASE + (uint64_t)((const char *)p - f->mem);
}

/* ---- Messages (frontend_msg.c) ---- */

/* Send any bytes with any descriptors. 0 or -errno (-EPIPE when the back end has gone). */
int frontend_send_raw(struct frontend *f, const void *bytes, size_t length, const int *fds, unsigned fd_count);
/* Receive one message. Payload beyond capacity is an error. fds beyond *fd_count are closed; *fd_count is
 * set. Returns payload bytes, or -EPIPE (closed), -ETIMEDOUT, -EPROTO, -errno. */
int frontend_recv_raw(struct frontend *f, struct fe_msg_header *h, void *payload, size_t capacity, int *fds,
                      unsigned *fd_count);
/* Send one message that has no answer of its own; with REPLY_ACK agreed, ask for and check the acknowledgement. */
int frontend_tell(struct frontend *f, enum frontend_request request, const void *payload, size_t length, const int *fds,
                  unsigned fd_count, struct errmsg *e);
/* Send one message and receive its answer. Returns the payload bytes or -errno; *fd (may be NULL) receives a
 * descriptor that came with it, or -1. */
int frontend_ask(struct frontend *f, enum frontend_request request, const void *payload, size_t length, void *reply,
                 size_t capacity, int *fd, struct errmsg *e);
const char *frontend_request_name(uint32_t request);

#endif
