/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In-flight memory: where rings note which requests were taken and not given back (specification, section
 * "Inflight I/O tracking"). It must outlive this process. Either the front end keeps it:
 * GET_INFLIGHT_FD asks us for memory and SET_INFLIGHT_FD brings it back, on this connection or on one after a
 * restart; or the caller does (args->inflight).
 *
 *     | ring 0 | ring 1 | ... | up to a page | the device's stash |      (front end's; ours has no stash)
 *
 * What the front end brings back is hostile: sizes are checked against its file and against what they must hold,
 * and a file cut short later is caught as for guest memory (it is mapped as a map of one region).
 *
 * A ring's region whose `version` is 0 holds nothing and its ring starts at SET_VRING_BASE. That is
 * so when it is new, and made so when a ring was stopped with nothing in flight: the front end
 * may put the ring elsewhere before it starts it again. Any other region is resumed from.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "guest/vhost_user_session.h"

#define PAGE_BYTES 4096u

/* The start of a ring's region, split and packed alike. */
struct region_head {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
};

static uint64_t tables_bytes(unsigned queues, uint16_t queue_size, bool packed)
{
    return queues * (uint64_t)virtq_inflight_bytes(queue_size, packed);
}

static size_t own_stride(const struct vhost_session *s)
{
    return s->args.inflight ? align_down(s->args.inflight_bytes / s->args.ops->queues_max, 64) : 0;
}

/* ---- per ring ---- */

int vhost_inflight_region(const struct vhost_session *s, unsigned index, uint16_t size, void **out, struct errmsg *e)
{
    const struct vhost_inflight_state *in = &s->state->inflight;
    bool packed = vhost_packed(s);
    *out = NULL;
    if (!in->present) {
        if (!s->args.inflight || s->args.ops->in_order) return 0;
        if (virtq_inflight_bytes(size, packed) > own_stride(s))
            return errmsg_set(e, ENOSPC, "ring %u: %u entries are more than the in-flight memory has room for", index,
                              size);
        *out = (char *)s->args.inflight + index * own_stride(s);
        return 0;
    }
    if (in->packed != packed)
        return errmsg_set(e, EINVAL, "ring %u: the in-flight memory was agreed on before the ring's format", index);
    if (index >= in->queues || size > in->queue_size)
        return errmsg_set(e, EINVAL, "ring %u with %u entries: the in-flight memory is for %u rings of %u", index, size,
                          in->queues, in->queue_size);
    *out = s->inflight_map->region[0].host + index * virtq_inflight_bytes((uint16_t)in->queue_size, packed);
    return 0;
}

bool vhost_inflight_used(const void *region)
{
    struct region_head head;
    memcpy(&head, region, sizeof head);
    return head.version != 0;
}

void vhost_inflight_void(struct vhost_session *s, unsigned index)
{
    const struct vhost_inflight_state *in = &s->state->inflight;
    char *region = NULL;
    if (in->present && index < in->queues)
        region = s->inflight_map->region[0].host + index * virtq_inflight_bytes((uint16_t)in->queue_size, in->packed);
    else if (!in->present && s->args.inflight && !s->args.ops->in_order)
        region = (char *)s->args.inflight + index * own_stride(s);
    if (!region) return;
    struct region_head head;
    memcpy(&head, region, sizeof head);
    head.version = 0;
    memcpy(region, &head, sizeof head);
}

/* The largest ring that can be tracked, which is the largest that is taken. */
uint16_t vhost_inflight_size_max(const struct vhost_session *s)
{
    if (s->state->inflight.present || !s->args.inflight || s->args.ops->in_order) return VIRTQ_SIZE_MAX;
    uint16_t size = VIRTQ_SIZE_MAX;
    while (size > 0 && virtq_inflight_bytes(size, false) > own_stride(s))
        size /= 2;
    return size;
}

/* ---- the front end's memory ---- */

static int parse(struct vhost_session *s, const struct vhost_message *m, struct vu_inflight *v, struct errmsg *e)
{
    if (m->head.size != sizeof *v && m->head.size != VU_INFLIGHT_PACKED_BYTES)
        return errmsg_set(e, EINVAL, "payload of %u bytes, expected %u or %zu", m->head.size, VU_INFLIGHT_PACKED_BYTES,
                          sizeof *v);
    *v = (struct vu_inflight){0};
    memcpy(v, m->payload, m->head.size);
    if (!s->state->features_set) return errmsg_set(e, EINVAL, "features were not agreed yet");
    if (v->queues == 0 || v->queues > s->args.ops->queues_max)
        return errmsg_set(e, EINVAL, "%u rings, the device has %u", v->queues, s->args.ops->queues_max);
    if (v->queue_size == 0 || v->queue_size > VIRTQ_SIZE_MAX)
        return errmsg_set(e, EINVAL, "rings of %u entries, expected 1 to %u", v->queue_size, VIRTQ_SIZE_MAX);
    return 0;
}

int vhost_get_inflight_fd(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vu_inflight v;
    int ret = parse(s, m, &v, e);
    if (ret < 0) return ret;
    uint64_t bytes = align_up(tables_bytes(v.queues, v.queue_size, vhost_packed(s)), PAGE_BYTES);
    bytes += align_up(s->args.stash_bytes, PAGE_BYTES);
    autoclose int fd = memfd_create("vhost-user-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return errmsg_sys(e, errno, "in-flight memory of %" PRIu64 " bytes", bytes);
    struct stat st;
    if (fstat(fd, &st) < 0) return errmsg_sys(e, errno, "in-flight memory");
    s->state->inflight.made_device = st.st_dev;
    s->state->inflight.made_inode = st.st_ino;
    v.size_bytes = bytes;
    v.offset_bytes = 0;
    vhost_message_answer(m, &v, m->head.size);
    m->reply_fd = steal_fd(&fd);
    return 0;
}

/* Check the description against what it must hold; fill in where things are. */
static int layout(struct vhost_session *s, const struct vu_inflight *v, struct vhost_inflight_state *in,
                  struct errmsg *e)
{
    bool packed = vhost_packed(s);
    uint64_t tables = tables_bytes(v->queues, v->queue_size, packed), stash = align_up(tables, PAGE_BYTES);
    if (v->size_bytes < tables)
        return errmsg_set(e, EINVAL, "%" PRIu64 " bytes, expected at least %" PRIu64 " for %u rings of %u",
                          v->size_bytes, tables, v->queues, v->queue_size);
    if (v->offset_bytes % PAGE_BYTES)
        return errmsg_set(e, EINVAL, "offset %" PRIu64 " is not a multiple of %u", v->offset_bytes, PAGE_BYTES);
    bool room = s->args.stash_bytes && range_fits(stash, s->args.stash_bytes, v->size_bytes);
    *in = (struct vhost_inflight_state){
        .present = 1,
        .queues = v->queues,
        .queue_size = v->queue_size,
        .packed = packed,
        .offset_bytes = v->offset_bytes,
        .tables_bytes = tables,
        .stash_offset_bytes = room ? stash : 0,
    }; /* what was made is not new any more once it was given to us */
    return 0;
}

static int map_memory(struct vhost_session *s, const struct vhost_inflight_state *in, int fd, struct guest_map **out,
                      struct errmsg *e)
{
    uint64_t bytes = in->stash_offset_bytes ? in->stash_offset_bytes + s->args.stash_bytes : in->tables_bytes;
    struct guest_region_desc desc = {{0}, bytes, 0, in->offset_bytes};
    int ret = guest_map_new(out, &desc, &fd, 1, NULL, e);
    return ret < 0 ? errmsg_prefix(e, ret, "in-flight memory") : 0;
}

/* Where the stash is from now on. The device stops using the old one before this returns. */
static void tell_stash(struct vhost_session *s, bool resumed)
{
    const struct vhost_inflight_state *in = &s->state->inflight;
    if (!s->args.stash_ready || !s->args.stash_bytes) return;
    bool here = in->present && in->stash_offset_bytes;
    if (!here && !s->stash_told) return;
    s->stash_told = here;
    if (here)
        s->args.stash_ready(s->args.owner, s->inflight_map->region[0].host + in->stash_offset_bytes,
                            s->args.stash_bytes, resumed);
    else s->args.stash_ready(s->args.owner, NULL, 0, true);
}

int vhost_set_inflight_fd(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vu_inflight v;
    struct vhost_inflight_state in;
    struct guest_map *map = NULL;
    struct stat st;
    int ret = parse(s, m, &v, e);
    if (ret < 0) return ret;
    if (vhost_rings_any_running(s)) return errmsg_set(e, EBUSY, "in-flight memory cannot change while rings run");
    if (fstat(m->fd[0], &st) < 0) return errmsg_sys(e, errno, "in-flight memory");
    ret = layout(s, &v, &in, e);
    if (ret == 0) ret = map_memory(s, &in, m->fd[0], &map, e);
    if (ret < 0) return ret;
    bool fresh = st.st_dev == s->state->inflight.made_device && st.st_ino == s->state->inflight.made_inode;

    vhost_state_mark(&s->state->inflight.present, 0);
    struct guest_map *old = s->inflight_map;
    s->inflight_map = map;
    if (s->inflight_fd >= 0) close(s->inflight_fd);
    s->inflight_fd = vhost_message_take_fd(m);
    vhost_hold_keep(s, s->inflight_fd, "inflight");
    in.present = 0;
    s->state->inflight = in;
    vhost_state_mark(&s->state->inflight.present, 1);
    tell_stash(s, !fresh);
    guest_map_unref(old);
    return 0;
}

/* ---- the whole ---- */

int vhost_inflight_restore(struct vhost_session *s, struct errmsg *e)
{
    const struct vhost_inflight_state *in = &s->state->inflight;
    if (!in->present) return 0;
    if (s->inflight_fd < 0) return errmsg_set(e, EBADF, "the session's in-flight memory was not kept");
    int ret = map_memory(s, in, s->inflight_fd, &s->inflight_map, e);
    if (ret == 0) tell_stash(s, true);
    return ret;
}

void vhost_inflight_close(struct vhost_session *s, bool drop)
{
    if (s->stash_told) s->args.stash_ready(s->args.owner, NULL, 0, true);
    s->stash_told = false;
    guest_map_unref(s->inflight_map);
    s->inflight_map = NULL;
    if (s->inflight_fd < 0) return;
    if (drop) vhost_hold_drop(s, "inflight");
    close(s->inflight_fd);
    s->inflight_fd = -1;
}
