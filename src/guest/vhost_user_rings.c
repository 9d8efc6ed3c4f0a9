/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rings: what the front end says of them, and when the device runs them.
 *
 * The specification has three states (section "Ring states"): a ring starts with SET_VRING_KICK (we do not
 * wait for the first kick: what is in the ring already may be served, and after a restart must be) and
 * stops with GET_VRING_BASE; a started ring may be disabled. For a disk "disabled" means that
 * requests stay in the ring, so the device runs a ring when it is started and enabled and not
 * otherwise. Some front ends (User-mode Linux) end with "disable" and never ask for the base.
 *
 * While a ring runs, its size, addresses and base are refused; its descriptors may change.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "guest/notify.h"
#include "guest/vhost_user_session.h"

#define PACKED_DESC_F_USED (1u << 15)
#define PACKED_FRESH_BASE 0x80008000u /* both indices 0, both wrap counters 1 */

struct packed_desc {
    struct le64 addr;
    struct le32 length;
    struct le16 id, flags;
};

/* ---- when a ring runs ---- */

static bool ring_enabled(const struct vhost_session *s, unsigned index)
{
    switch (s->state->ring[index].enable) {
    case VHOST_ENABLE_ON: return true;
    case VHOST_ENABLE_OFF: return false;
    default: return !(s->state->features & BIT64(VHOST_USER_F_PROTOCOL_FEATURES));
    }
}

bool vhost_rings_any_running(const struct vhost_session *s)
{
    for (unsigned i = 0; i < s->args.ops->queues_max; i++)
        if (s->state->ring[i].running) return true;
    return false;
}

static int resolve_part(const struct guest_map *map, uint64_t addr, uint64_t bytes, const char *what, unsigned index,
                        void **out, struct errmsg *e)
{
    *out = map ? guest_map_at_user(map, addr, bytes) : NULL;
    if (*out) return 0;
    return errmsg_set(e, EFAULT,
                      "ring %u: its %s (%" PRIu64 " bytes at user address 0x%" PRIx64 ") is not in one memory region",
                      index, what, bytes, addr);
}

int vhost_ring_resolve(const struct vhost_session *s, unsigned index, const struct guest_map *map,
                       struct vhost_ring_pointers *out, struct errmsg *e)
{
    const struct vhost_ring_state *r = &s->state->ring[index];
    uint64_t size = r->size, event = s->state->features & BIT64(VIRTIO_F_RING_EVENT_IDX) ? 2 : 0;
    bool packed = vhost_packed(s);
    if (size == 0) return errmsg_set(e, EINVAL, "ring %u: its size is not known yet", index);
    if (!(r->flags & VHOST_RING_HAS_ADDR))
        return errmsg_set(e, EINVAL, "ring %u: its addresses are not known yet", index);
    int ret = resolve_part(map, r->descriptor, 16 * size, packed ? "descriptor ring" : "descriptor table", index,
                           &out->descriptor, e);
    if (ret == 0)
        ret = resolve_part(map, r->available, packed ? 4 : 4 + 2 * size + event,
                           packed ? "driver event suppression" : "available ring", index, &out->available, e);
    if (ret == 0)
        ret = resolve_part(map, r->used, packed ? 4 : 4 + 8 * size + event,
                           packed ? "device event suppression" : "used ring", index, &out->used, e);
    return ret;
}

/*
 * A front end that knows nothing of packed rings (User-mode Linux) says base 0 for a new one: both wrap counters 0,
 * where they start at 1. A ring that truly stands there has been round once, so that some
 * descriptor is marked used; a new one has none.
 */
static uint32_t packed_base(uint32_t base, const struct packed_desc *ring, uint32_t size)
{
    if (base != 0) return base;
    for (uint32_t i = 0; i < size; i++)
        if (le16_get(ring[i].flags) & PACKED_DESC_F_USED) return base;
    return PACKED_FRESH_BASE;
}

/* A place that a queue has written is what it says. */
static uint32_t start_base(const struct vhost_session *s, const struct vhost_ring_state *r,
                           const struct vhost_ring_pointers *p, bool is_place)
{
    if (!vhost_packed(s)) return r->base & 0xffff;
    return is_place ? r->base : packed_base(r->base, p->descriptor, r->size);
}

int vhost_ring_start(struct vhost_session *s, unsigned index, struct errmsg *e)
{
    struct vhost_ring_state *r = &s->state->ring[index];
    struct vhost_ring_pointers p;
    void *inflight;
    if (!s->state->features_set) return errmsg_set(e, EINVAL, "ring %u: features were not agreed yet", index);
    bool in_order = s->args.ops->in_order, ran = r->running && !r->parked;
    int ret = vhost_ring_resolve(s, index, s->map, &p, e);
    if (ret == 0) ret = vhost_inflight_region(s, index, (uint16_t)r->size, &inflight, e);
    if (ret < 0) return ret;
    struct guest_queue q = {
        .index = index,
        .setup = {.size = (uint16_t)r->size,
                  .packed = vhost_packed(s),
                  .event_idx = s->state->features & BIT64(VIRTIO_F_RING_EVENT_IDX),
                  .indirect = s->state->features & BIT64(VIRTIO_F_RING_INDIRECT_DESC),
                  .desc = p.descriptor,
                  .driver = p.available,
                  .device = p.used,
                  .base = start_base(s, r, &p, in_order && ran),
                  .inflight = inflight,
                  .resume = in_order ? ran : inflight && vhost_inflight_used(inflight),
                  .in_order = s->state->features & BIT64(VIRTIO_F_IN_ORDER),
                  .place = in_order ? &r->base : NULL},
        .kick_fd = s->ring[index].kick_fd,
        .call_fd = s->ring[index].call_fd,
    };
    if (in_order) r->base = q.setup.base; /* with what packed_base() made of it, before it counts as a place */
    vhost_state_mark(&r->parked, 0);
    vhost_state_mark(&r->running, 1);
    ret = s->args.ops->queue_start(s->args.device, &q, s->map);
    if (ret == 0) return 0;
    vhost_state_mark(&r->running, 0);
    return errmsg_set(e, -ret, "ring %u: the device cannot run it (%u entries, %s)", index, r->size, strerror(-ret));
}

void vhost_ring_stop(struct vhost_session *s, unsigned index)
{
    struct vhost_ring_state *r = &s->state->ring[index];
    if (!r->running) return;
    r->base = s->args.ops->queue_stop(s->args.device, index);
    vhost_state_order();
    vhost_inflight_void(s, index);
    vhost_state_mark(&r->running, 0);
}

/* ---- descriptors ---- */

/* Something that can be waited for or written to without end: an eventfd, a pipe, a socket. */
static int check_ring_fd(int fd, const char *what, unsigned index, struct errmsg *e)
{
    int kind = guest_fd_kind(fd);
    if (kind < 0) return errmsg_sys(e, -kind, "%s descriptor of ring %u", what, index);
    if (kind != 0 && kind != S_IFIFO && kind != S_IFSOCK)
        return errmsg_set(e, EINVAL, "%s descriptor of ring %u is a file, expected an eventfd, pipe or socket", what,
                          index);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
        return errmsg_sys(e, errno, "%s descriptor of ring %u", what, index);
    return 0;
}

static void fd_replace(struct vhost_session *s, int *slot, int fd, const char *name, unsigned index, uint32_t flag)
{
    int old = *slot;
    *slot = fd;
    if (fd >= 0) {
        vhost_hold_keep(s, fd, "%s.%u", name, index);
        s->state->ring[index].flags |= flag;
    } else {
        s->state->ring[index].flags &= ~flag;
        if (old >= 0) vhost_hold_drop(s, "%s.%u", name, index);
    }
    if (old >= 0) close(old);
}

static void ring_stop_for_good(struct vhost_session *s, unsigned index)
{
    vhost_ring_stop(s, index);
    s->state->ring[index].flags &= ~(uint32_t)VHOST_RING_STARTED;
    fd_replace(s, &s->ring[index].kick_fd, -1, "kick", index, VHOST_RING_HAS_KICK);
}

int vhost_ring_update(struct vhost_session *s, unsigned index, struct errmsg *e)
{
    struct vhost_ring_state *r = &s->state->ring[index];
    bool wanted = (r->flags & VHOST_RING_STARTED) && ring_enabled(s, index);
    if (wanted == (bool)r->running) return 0;
    if (!wanted) {
        vhost_ring_stop(s, index);
        return 0;
    }
    int ret = vhost_ring_start(s, index, e);
    if (ret < 0) ring_stop_for_good(s, index);
    return ret;
}

void vhost_rings_stop_all(struct vhost_session *s)
{
    for (unsigned i = 0; i < s->args.ops->queues_max; i++)
        ring_stop_for_good(s, i);
}

void vhost_rings_reset(struct vhost_session *s, bool keep_bases)
{
    for (unsigned i = 0; i < s->args.ops->queues_max; i++) {
        struct vhost_ring_state *r = &s->state->ring[i];
        ring_stop_for_good(s, i);
        vhost_inflight_void(s, i);
        *r = (struct vhost_ring_state){.flags = r->flags & (VHOST_RING_HAS_CALL | VHOST_RING_HAS_ERR),
                                       .base = keep_bases ? r->base : 0};
    }
}

void vhost_rings_close(struct vhost_session *s, bool drop)
{
    for (unsigned i = 0; i < VHOST_QUEUES_MAX; i++) {
        int *fd[] = {&s->ring[i].kick_fd, &s->ring[i].call_fd, &s->ring[i].err_fd};
        const char *name[] = {"kick", "call", "err"};
        for (unsigned k = 0; k < ARRAY_LEN(fd); k++) {
            if (*fd[k] < 0) continue;
            if (drop) vhost_hold_drop(s, "%s.%u", name[k], i);
            close(*fd[k]);
            *fd[k] = -1;
        }
    }
}

void vhost_session_ring_failed(struct vhost_session *s, unsigned index)
{
    assert(index < VHOST_QUEUES_MAX);
    int fd = s->ring[index].err_fd;
    if (fd >= 0) guest_notify(fd, guest_fd_kind(fd));
}

/* ---- messages ---- */

static int ring_of(struct vhost_session *s, uint32_t index, bool may_run, struct vhost_ring_state **out,
                   struct errmsg *e)
{
    if (index >= s->args.ops->queues_max)
        return errmsg_set(e, EINVAL, "ring %u, the device has %u", index, s->args.ops->queues_max);
    *out = &s->state->ring[index];
    if (!may_run && (*out)->running) return errmsg_set(e, EBUSY, "ring %u runs", index);
    return 0;
}

static int parse_state(struct vhost_session *s, const struct vhost_message *m, bool may_run, struct vu_vring_state *v,
                       struct vhost_ring_state **out, struct errmsg *e)
{
    memcpy(v, m->payload, sizeof *v);
    return ring_of(s, v->index, may_run, out, e);
}

int vhost_set_vring_num(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vu_vring_state v;
    struct vhost_ring_state *r = NULL;
    int ret = parse_state(s, m, true, &v, &r, e);
    if (ret < 0) return ret;
    uint16_t most = vhost_inflight_size_max(s);
    if (v.num == 0 || v.num > most)
        return errmsg_set(e, EINVAL, "ring %u: %u entries, expected 1 to %u", v.index, v.num, most);
    if (r->running && r->size != v.num) return errmsg_set(e, EBUSY, "ring %u runs", v.index);
    r->size = v.num;
    return 0;
}

int vhost_set_vring_addr(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vu_vring_addr a;
    struct vhost_ring_state *r = NULL;
    memcpy(&a, m->payload, sizeof a);
    int ret = ring_of(s, a.index, true, &r, e);
    if (ret < 0) return ret;
    if (a.flags) return errmsg_set(e, EINVAL, "ring %u: flags 0x%x: logging was not offered", a.index, a.flags);
    bool same = r->descriptor == a.descriptor && r->available == a.available && r->used == a.used;
    if (r->running && !same) return errmsg_set(e, EBUSY, "ring %u runs: its addresses cannot change", a.index);
    r->descriptor = a.descriptor;
    r->available = a.available;
    r->used = a.used;
    r->flags |= VHOST_RING_HAS_ADDR;
    return 0;
}

int vhost_set_vring_base(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vu_vring_state v;
    struct vhost_ring_state *r = NULL;
    int ret = parse_state(s, m, false, &v, &r, e);
    if (ret < 0) return ret;
    r->base = v.num;
    return 0;
}

int vhost_get_vring_base(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vu_vring_state v;
    struct vhost_ring_state *r = NULL;
    int ret = parse_state(s, m, true, &v, &r, e);
    if (ret < 0) return ret;
    ring_stop_for_good(s, v.index);
    v.num = r->base;
    vhost_message_answer(m, &v, sizeof v);
    return 0;
}

/* The index of a message about one of a ring's descriptors, and the descriptor or -1. */
static int parse_fd(struct vhost_session *s, struct vhost_message *m, const char *what, unsigned *index, int *fd,
                    struct errmsg *e)
{
    uint64_t v;
    struct vhost_ring_state *r = NULL;
    memcpy(&v, m->payload, sizeof v);
    if (v & ~(uint64_t)(VU_RING_INDEX_MASK | VU_RING_NO_FD))
        return errmsg_set(e, EINVAL, "0x%" PRIx64 " is not a ring's index and the no-descriptor flag", v);
    *index = (unsigned)(v & VU_RING_INDEX_MASK);
    int ret = ring_of(s, *index, true, &r, e);
    if (ret == 0 && m->fd_count) ret = check_ring_fd(m->fd[0], what, *index, e);
    if (ret == 0) *fd = vhost_message_take_fd(m);
    return ret;
}

int vhost_set_vring_kick(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    unsigned index = 0;
    int fd = -1;
    struct vhost_ring_pointers p;
    int ret = parse_fd(s, m, "kick", &index, &fd, e);
    if (ret < 0) return ret;
    if (!s->state->features_set) ret = errmsg_set(e, EINVAL, "ring %u: features were not agreed yet", index);
    else ret = vhost_ring_resolve(s, index, s->map, &p, e);
    if (ret < 0) {
        if (fd >= 0) close(fd);
        return ret;
    }
    vhost_ring_stop(s, index); /* one that runs goes on with the new descriptor */
    fd_replace(s, &s->ring[index].kick_fd, fd, "kick", index, VHOST_RING_HAS_KICK);
    s->state->ring[index].flags |= VHOST_RING_STARTED;
    return vhost_ring_update(s, index, e);
}

int vhost_set_vring_call(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    unsigned index = 0;
    int fd = -1;
    int ret = parse_fd(s, m, "call", &index, &fd, e);
    if (ret < 0) return ret;
    if (s->state->ring[index].running) s->args.ops->queue_set_call(s->args.device, index, fd);
    fd_replace(s, &s->ring[index].call_fd, fd, "call", index, VHOST_RING_HAS_CALL);
    return 0;
}

int vhost_set_vring_err(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    unsigned index = 0;
    int fd = -1;
    int ret = parse_fd(s, m, "error", &index, &fd, e);
    if (ret < 0) return ret;
    fd_replace(s, &s->ring[index].err_fd, fd, "err", index, VHOST_RING_HAS_ERR);
    return 0;
}

int vhost_set_vring_enable(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vu_vring_state v;
    struct vhost_ring_state *r = NULL;
    int ret = parse_state(s, m, true, &v, &r, e);
    if (ret < 0) return ret;
    if (v.num > 1) return errmsg_set(e, EINVAL, "ring %u: enable %u, expected 0 or 1", v.index, v.num);
    r->enable = v.num ? VHOST_ENABLE_ON : VHOST_ENABLE_OFF;
    return vhost_ring_update(s, v.index, e);
}
