/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a vhost-user session; private to vhost_user*.c.
 *
 *   vhost_user.c           life of a session: new, end, free, leave; one message after another
 *   vhost_user_socket.c    the connection: peek, consume, answer
 *   vhost_user_message.c   which message may carry what, and the small ones
 *   vhost_user_regions.c   guest memory: tables, slots, moving the device over
 *   vhost_user_rings.c     rings: when they run, their addresses and descriptors
 *   vhost_user_inflight.c  in-flight memory, ours or the front end's
 *   vhost_user_backend.c   our requests to the front end
 *   vhost_user_resume.c    going on where another process stopped
 *
 * Functions return 0 or -errno with the reason in `e`; a refused message changes nothing.
 */
#ifndef GUEST_VHOST_USER_SESSION_H
#define GUEST_VHOST_USER_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/vhost_user.h"
#include "guest/vhost_user_proto.h"
#include "guest/vhost_user_state.h"

#define BIT64(n) (UINT64_C(1) << (n))

/* The one message that is looked at, and the answer to it. */
struct vhost_message {
    struct vu_header head;
    uint8_t payload[VU_PAYLOAD_MAX];
    unsigned fd_count;
    bool fds_lost; /* the kernel could not give us all: too many open */
    int fd[VU_FDS_MAX];

    bool answers; /* reply_bytes of reply are the answer, perhaps none */
    uint32_t reply_bytes;
    uint8_t reply[VU_REPLY_MAX];
    int reply_fd;
};

struct vhost_ring {
    int kick_fd, call_fd, err_fd;
};

struct vhost_session {
    struct vhost_args args;
    struct vhost_state *state;
    bool ended;
    bool sending; /* an answer waits for room in the socket; nothing else happens until it is out */

    int conn_fd;
    struct loop_watch conn_watch;
    int reply_fd; /* "reply": answers on their way (vhost_user_socket.c) */

    int req_fd;
    struct loop_watch req_watch;
    bool req_waiting; /* for the answer to CONFIG_CHANGE_MSG */
    uint8_t req_answer[sizeof(struct vu_header) + sizeof(uint64_t)];
    size_t req_answer_bytes;

    struct guest_map *map; /* NULL: no memory yet */
    int slot_fd[VHOST_SLOTS_MAX];

    int inflight_fd;
    struct guest_map *inflight_map; /* one region: the front end's in-flight memory */
    bool stash_told;                /* the device uses the stash in it */

    struct vhost_ring ring[VHOST_QUEUES_MAX];
    struct vhost_message msg;
};

/* ---- vhost_user.c ---- */
int vhost_session_alloc(struct vhost_session **out, const struct vhost_args *args, struct errmsg *e);
/* Check and prepare the connection, watch it. */
int vhost_session_attach(struct vhost_session *s, struct errmsg *e);
/* Close and release everything of this process's; the front end and what is held notice nothing. */
void vhost_session_release(struct vhost_session *s);
/* After the answer is prepared, consumed and on its way: step to IDLE, or wait for room. */
void vhost_session_answer(struct vhost_session *s);

void vhost_hold_keep(struct vhost_session *s, int fd, const char *format, ...) __attribute__((format(printf, 3, 4)));
void vhost_hold_drop(struct vhost_session *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- vhost_user_socket.c ---- */
/* A connected Unix stream socket? Makes it non-blocking. */
int vhost_socket_prepare(int fd, struct errmsg *e);
/* Look at the next message without taking it: 1: s->msg is filled, 0: not all there yet, -ENOTCONN: closed. */
int vhost_socket_peek(struct vhost_session *s, struct errmsg *e);
/* Is the message of the state still at the head of the socket? */
bool vhost_socket_head_is(struct vhost_session *s, const struct vu_header *head, const uint8_t *payload);
/* Take the message that was peeked at. */
int vhost_socket_consume(struct vhost_session *s, size_t bytes);
int vhost_reply_file_new(int *out);
/* Write the answer of s->msg down where it survives; sets reply_start and reply_bytes. */
int vhost_reply_store(struct vhost_session *s, struct errmsg *e);
/* Send what is left of it: 1: all is out, 0: no room now, -errno. */
int vhost_reply_send(struct vhost_session *s);

/* ---- vhost_user_message.c ---- */
uint64_t vhost_features_offered(const struct vhost_session *s);
uint64_t vhost_protocol_features_offered(const struct vhost_session *s);
/* Carry out s->msg and put its answer, if one is due, into it. -errno: the session is over. */
int vhost_message_run(struct vhost_session *s, struct errmsg *e);
/* How many descriptors a message of this type and payload may bring. */
unsigned vhost_message_fds_most(const struct vhost_message *m);
void vhost_message_close_fds(struct vhost_message *m);
void vhost_message_answer(struct vhost_message *m, const void *payload, size_t bytes);
/* Take the only descriptor out of the message. */
int vhost_message_take_fd(struct vhost_message *m);

/* ---- vhost_user_regions.c ---- */
int vhost_set_mem_table(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
int vhost_add_mem_reg(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
int vhost_rem_mem_reg(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
/* Map what the state says with the descriptors in slot_fd; forget the slots that do not count. */
int vhost_regions_restore(struct vhost_session *s, struct errmsg *e);
void vhost_regions_close(struct vhost_session *s, bool drop);

/* ---- vhost_user_rings.c ---- */
struct vhost_ring_pointers {
    void *descriptor, *available, *used;
};
/* Where a ring lies under `map`; sizes must be known. */
int vhost_ring_resolve(const struct vhost_session *s, unsigned index, const struct guest_map *map,
                       struct vhost_ring_pointers *out, struct errmsg *e);
int vhost_ring_start(struct vhost_session *s, unsigned index, struct errmsg *e);
/* Nothing is in flight afterwards, and the state knows where the ring stands. */
void vhost_ring_stop(struct vhost_session *s, unsigned index);
/* Let the device run the ring, or stop it, as its state now says; one that cannot run is stopped for good. */
int vhost_ring_update(struct vhost_session *s, unsigned index, struct errmsg *e);
void vhost_rings_stop_all(struct vhost_session *s);
bool vhost_rings_any_running(const struct vhost_session *s);
/* Stop all rings as GET_VRING_BASE does, and forget what they were, but perhaps not where they stand. */
void vhost_rings_reset(struct vhost_session *s, bool keep_bases);
void vhost_rings_close(struct vhost_session *s, bool drop);

int vhost_set_vring_num(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
int vhost_set_vring_addr(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
int vhost_set_vring_base(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
int vhost_get_vring_base(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
int vhost_set_vring_kick(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
int vhost_set_vring_call(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
int vhost_set_vring_err(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
int vhost_set_vring_enable(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);

/* ---- vhost_user_inflight.c ---- */
int vhost_get_inflight_fd(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
int vhost_set_inflight_fd(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
/* This ring's in-flight region for a ring of `size`: NULL when nothing tracks. -errno: it does not fit. */
int vhost_inflight_region(const struct vhost_session *s, unsigned index, uint16_t size, void **out, struct errmsg *e);
/* Does the region hold what a device left there? */
bool vhost_inflight_used(const void *region);
/* Nothing is in flight: the next start goes by SET_VRING_BASE. */
void vhost_inflight_void(struct vhost_session *s, unsigned index);
uint16_t vhost_inflight_size_max(const struct vhost_session *s);
int vhost_inflight_restore(struct vhost_session *s, struct errmsg *e);
void vhost_inflight_close(struct vhost_session *s, bool drop);

/* ---- vhost_user_backend.c ---- */
int vhost_set_backend_req_fd(struct vhost_session *s, struct vhost_message *m, struct errmsg *e);
int vhost_backend_watch(struct vhost_session *s);
void vhost_backend_close(struct vhost_session *s, bool drop);

static inline bool vhost_packed(const struct vhost_session *s)
{
    return s->state->features & BIT64(VIRTIO_F_RING_PACKED);
}

static inline bool vhost_negotiated(const struct vhost_session *s, enum vu_protocol_feature f)
{
    return s->state->protocol_features & BIT64(f);
}

#endif
