/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Going on where another process stopped, with its state and its descriptors.
 *
 * First everything as the state says it was: descriptors by name, memory, in-flight memory, the device's
 * features, the rings that ran. Then the message that was being carried out, if there was one (vhost_user_state.h):
 * either it is still in the socket and is carried out again like any other, or only its answer is due.
 *
 * The state is as trustworthy as who kept it; it is checked all the same, as whatever is read from memory of
 * another process is: a daemon's mistake is a message, not a crash.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "guest/vhost_user_session.h"

static int check_state(const struct vhost_session *s, struct errmsg *e)
{
    const struct vhost_state *st = s->state;
    if (st->magic == 0) return errmsg_set(e, ENOTCONN, "the state left behind is of no session");
    if (st->magic != VHOST_STATE_MAGIC || st->bytes != sizeof *st)
        return errmsg_set(e, EPROTO, "the state left behind has a layout that this version does not know");
    if (st->queues_max != s->args.ops->queues_max)
        return errmsg_set(e, EINVAL, "the state left behind is of a device with %u rings, this one has %u",
                          st->queues_max, s->args.ops->queues_max);
    bool sound = st->step <= VHOST_STEP_SENDING && st->message.size <= VU_PAYLOAD_MAX &&
                 st->reply_bytes <= sizeof(struct vu_header) + VU_REPLY_MAX &&
                 st->inflight.queues <= VHOST_QUEUES_MAX && st->inflight.queue_size <= VIRTQ_SIZE_MAX;
    for (unsigned i = 0; i < VHOST_QUEUES_MAX; i++)
        sound = sound && st->ring[i].size <= VIRTQ_SIZE_MAX && (i < st->queues_max || !st->ring[i].running);
    return sound ? 0 : errmsg_set(e, EPROTO, "the state left behind is damaged");
}

/* ---- descriptors by name ---- */

static int *numbered(struct vhost_session *s, const char *name)
{
    const char *dot = strchr(name, '.');
    char *end;
    if (!dot || dot[1] < '0' || dot[1] > '9') return NULL;
    unsigned long n = strtoul(dot + 1, &end, 10);
    size_t length = (size_t)(dot - name);
    if (*end) return NULL;
    if (length == 6 && memcmp(name, "region", 6) == 0) return n < VHOST_SLOTS_MAX ? &s->slot_fd[n] : NULL;
    if (n >= s->args.ops->queues_max) return NULL;
    if (length == 4 && memcmp(name, "kick", 4) == 0) return &s->ring[n].kick_fd;
    if (length == 4 && memcmp(name, "call", 4) == 0) return &s->ring[n].call_fd;
    if (length == 3 && memcmp(name, "err", 3) == 0) return &s->ring[n].err_fd;
    return NULL;
}

static int *named(struct vhost_session *s, const char *name)
{
    if (strcmp(name, "conn") == 0) return &s->conn_fd;
    if (strcmp(name, "reply") == 0) return &s->reply_fd;
    if (strcmp(name, "req") == 0) return &s->req_fd;
    if (strcmp(name, "inflight") == 0) return &s->inflight_fd;
    return numbered(s, name);
}

/* All are taken over; what has no place here is closed. */
static void take_fds(struct vhost_session *s, const char *const *names, const int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        int *place = named(s, names[i]);
        if (!place) {
            close(fds[i]);
            continue;
        }
        if (*place >= 0) close(*place);
        *place = fds[i];
    }
}

static void forget(struct vhost_session *s, int *fd, const char *name, unsigned index)
{
    if (*fd < 0) return;
    vhost_hold_drop(s, "%s.%u", name, index);
    close(*fd);
    *fd = -1;
}

/* What is held and what the state says must agree. A kill may leave one more held than is said. */
static int match_fds(struct vhost_session *s, struct errmsg *e)
{
    if (s->conn_fd < 0 || s->reply_fd < 0) return errmsg_set(e, EBADF, "the session's connection was not kept");
    if (s->state->has_req && s->req_fd < 0) return errmsg_set(e, EBADF, "the session's back-end channel was not kept");
    for (unsigned i = 0; i < s->args.ops->queues_max; i++) {
        struct vhost_ring *ring = &s->ring[i];
        uint32_t flags = s->state->ring[i].flags;
        if ((flags & VHOST_RING_HAS_KICK && ring->kick_fd < 0) || (flags & VHOST_RING_HAS_CALL && ring->call_fd < 0) ||
            (flags & VHOST_RING_HAS_ERR && ring->err_fd < 0))
            return errmsg_set(e, EBADF, "a descriptor of ring %u was not kept", i);
        if (!(flags & VHOST_RING_HAS_KICK)) forget(s, &ring->kick_fd, "kick", i);
        if (!(flags & VHOST_RING_HAS_CALL)) forget(s, &ring->call_fd, "call", i);
        if (!(flags & VHOST_RING_HAS_ERR)) forget(s, &ring->err_fd, "err", i);
    }
    return 0;
}

/* ---- rings ---- */

static int start_ring(struct vhost_session *s, unsigned index, struct errmsg *e)
{
    const struct vhost_ring_state *r = &s->state->ring[index];
    void *region;
    int ret = vhost_inflight_region(s, index, (uint16_t)r->size, &region, e);
    if (ret < 0) return ret;
    if (!region && !r->parked && !s->args.ops->in_order)
        return errmsg_set(e, ENODATA, "ring %u ran without in-flight memory: nobody knows where it stands", index);
    return vhost_ring_start(s, index, e);
}

static int start_device(struct vhost_session *s, struct errmsg *e)
{
    if (s->state->features_set) {
        int ret =
            s->args.ops->set_features(s->args.device, s->state->features & ~BIT64(VHOST_USER_F_PROTOCOL_FEATURES));
        if (ret < 0) return errmsg_set(e, -ret, "the device refused the features that it had agreed to");
    }
    for (unsigned i = 0; i < s->args.ops->queues_max; i++) {
        if (!s->state->ring[i].running) continue;
        int ret = start_ring(s, i, e);
        if (ret == 0) continue;
        /* The others must not run on behind our back; what they left stays as it is. */
        while (i-- > 0)
            if (s->state->ring[i].running) s->args.ops->queue_stop(s->args.device, i);
        return ret;
    }
    return 0;
}

/* ---- the message in between ---- */

/* The answer's descriptor died with the process: make another. The front end has seen neither. */
static int remake_answer(struct vhost_session *s, struct errmsg *e)
{
    struct vhost_message *m = &s->msg;
    m->head = s->state->message;
    memcpy(m->payload, s->state->payload, m->head.size);
    m->fd_count = 0;
    m->answers = m->fds_lost = false;
    int ret = vhost_message_run(s, e);
    return ret < 0 ? ret : vhost_reply_store(s, e);
}

static int finish_message(struct vhost_session *s, struct errmsg *e)
{
    struct vhost_state *st = s->state;
    if (st->step == VHOST_STEP_IDLE) return 0;
    if (st->step == VHOST_STEP_PROCESSED && vhost_socket_head_is(s, &st->message, st->payload)) {
        vhost_state_mark(&st->step, VHOST_STEP_IDLE); /* it comes again, through the loop */
        return 0;
    }
    /* Said before the answer goes out: the message after it may look the same, and is another. */
    if (st->step == VHOST_STEP_PROCESSED) vhost_state_mark(&st->step, VHOST_STEP_CONSUMED);
    if (st->step == VHOST_STEP_SENDING) st->reply_bytes = 0;
    if (st->step != VHOST_STEP_SENDING && st->reply_has_fd) {
        int ret = remake_answer(s, e);
        if (ret < 0) return ret;
    }
    vhost_session_answer(s);
    return 0;
}

int vhost_session_resume(struct vhost_session **out, const struct vhost_args *args, const char *const *names,
                         const int *fds, unsigned count, struct errmsg *e)
{
    struct vhost_session *s;
    int ret = vhost_session_alloc(&s, args, e);
    if (ret < 0) {
        for (unsigned i = 0; i < count; i++)
            close(fds[i]);
        return ret;
    }
    take_fds(s, names, fds, count);
    ret = check_state(s, e);
    if (ret == 0) ret = match_fds(s, e);
    if (ret == 0) ret = vhost_regions_restore(s, e);
    if (ret == 0) ret = vhost_inflight_restore(s, e);
    if (ret == 0) ret = vhost_session_attach(s, e);
    if (ret == 0) ret = start_device(s, e);
    if (ret < 0) goto fail;
    ret = finish_message(s, e);
    if (ret == 0) {
        ret = vhost_backend_watch(s);
        if (ret < 0) errmsg_sys(e, -ret, "watching the back-end channel");
    }
    if (ret == 0) {
        *out = s;
        return 0;
    }
    for (unsigned i = 0; i < args->ops->queues_max; i++)
        if (s->state->ring[i].running) args->ops->queue_stop(args->device, i);
fail:
    vhost_session_release(s);
    free(s);
    return ret;
}
