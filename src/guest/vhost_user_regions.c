/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory as the front end shares it: SET_MEM_TABLE replaces all, ADD_MEM_REG and REM_MEM_REG change one.
 *
 * A region lives in a slot of the state, its descriptor is held as "region.SLOT". A new table is
 * written into free slots beside the old one and counts when the state's `table` number moves on, so
 * a kill leaves the old one or the new one whole.
 *
 * When rings run, the order of "the state changes" and "the device changes over" matters to whoever comes
 * after a kill, because requests in flight must lie in the memory that the state describes:
 *
 *     the new map has all of the old     state first: what is in flight is in both
 *     the old map has all of the new     device first: it lets go of what disappears
 *     neither                            rings stop, state, rings start
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/vhost_user_session.h"

/* The regions of a map to be made, and where they are in the state. */
struct table {
    unsigned count;
    struct guest_region_desc desc[VHOST_REGIONS_MAX];
    int fd[VHOST_REGIONS_MAX];
};

static bool slot_counts(const struct vhost_state *st, unsigned i)
{
    return st->slot[i].table != 0 && st->slot[i].table == st->table;
}

static struct guest_region_desc desc_of(const struct vu_region *r)
{
    return (struct guest_region_desc){{r->guest_addr}, r->size_bytes, r->user_addr, r->file_offset_bytes};
}

static int table_add(struct table *t, const struct vu_region *r, int fd, struct errmsg *e)
{
    if (t->count == VHOST_REGIONS_MAX) return errmsg_set(e, ENOSPC, "more than %u memory regions", VHOST_REGIONS_MAX);
    t->desc[t->count] = desc_of(r);
    t->fd[t->count++] = fd;
    return 0;
}

/* All regions that count, but for `without` (-1: none). */
static int table_now(const struct vhost_session *s, struct table *t, int without, struct errmsg *e)
{
    t->count = 0;
    for (unsigned i = 0; i < VHOST_SLOTS_MAX; i++) {
        if (!slot_counts(s->state, i) || (int)i == without) continue;
        int ret = table_add(t, &s->state->slot[i].region, s->slot_fd[i], e);
        if (ret < 0) return ret;
    }
    return 0;
}

/*
 * A device that shares its process with others' must not wait for whoever serves a file's page faults: with FUSE that is a
 * program, perhaps the front end itself. Memory that is in memory needs nobody.
 */
static int table_check(const struct vhost_session *s, const struct table *t, struct errmsg *e)
{
    for (unsigned i = 0; s->args.ops->in_order && i < t->count; i++) {
        int ret = guest_memory_check_file(t->fd[i], e);
        if (ret < 0) return errmsg_prefix(e, ret, "memory region %u", i);
    }
    return 0;
}

static int table_map(const struct vhost_session *s, const struct table *t, struct guest_map **out, struct errmsg *e)
{
    *out = NULL;
    int ret = table_check(s, t, e);
    if (ret < 0) return ret;
    return t->count ? guest_map_new(out, t->desc, t->fd, t->count, s->map, e) : 0;
}

/* ---- changing over ---- */

static bool map_has(const struct guest_map *m, const struct guest_region *r)
{
    for (unsigned i = 0; i < m->count; i++) {
        const struct guest_region *x = &m->region[i];
        if (x->guest_addr.v == r->guest_addr.v && x->size_bytes == r->size_bytes && x->user_addr == r->user_addr &&
            x->host == r->host)
            return true;
    }
    return false;
}

static bool map_covers(const struct guest_map *m, const struct guest_map *of)
{
    if (!of) return true;
    if (!m) return of->count == 0;
    for (unsigned i = 0; i < of->count; i++)
        if (!map_has(m, &of->region[i])) return false;
    return true;
}

struct change {
    bool stops[VHOST_QUEUES_MAX]; /* rings to be stopped and started again */
    bool any_running, grows, shrinks;
};

static int change_plan(struct vhost_session *s, struct guest_map *to, struct change *c, struct errmsg *e)
{
    *c = (struct change){.any_running = vhost_rings_any_running(s)};
    if (!c->any_running) return 0;
    c->grows = map_covers(to, s->map);
    c->shrinks = !c->grows && map_covers(s->map, to);
    for (unsigned i = 0; i < s->args.ops->queues_max; i++) {
        struct vhost_ring_pointers p;
        if (!s->state->ring[i].running) continue;
        int ret = vhost_ring_resolve(s, i, to, &p, e);
        if (ret < 0) return errmsg_prefix(e, ret, "the memory of a running ring would go away");
        c->stops[i] = !c->grows && !c->shrinks;
    }
    return 0;
}

static void change_before(struct vhost_session *s, struct guest_map *to, const struct change *c)
{
    for (unsigned i = 0; i < s->args.ops->queues_max; i++)
        if (c->stops[i]) vhost_ring_stop(s, i);
    if (c->any_running && c->shrinks) s->args.ops->set_map(s->args.device, to, false);
}

static int change_after(struct vhost_session *s, struct guest_map *to, const struct change *c, struct errmsg *e)
{
    int ret = 0;
    if (c->any_running && c->grows) s->args.ops->set_map(s->args.device, to, true);
    guest_map_unref(s->map);
    s->map = to;
    /* Not only those that `stops` names: a process before us may have been killed after it stopped them. */
    for (unsigned i = 0; i < s->args.ops->queues_max; i++) {
        int one = vhost_ring_update(s, i, e);
        if (one < 0) ret = one;
    }
    return ret;
}

/* ---- slots ---- */

static int slot_find_free(const struct vhost_session *s)
{
    for (unsigned i = 0; i < VHOST_SLOTS_MAX; i++)
        if (!slot_counts(s->state, i) && s->slot_fd[i] < 0) return (int)i;
    return -1;
}

/* Everything but what makes it count. */
static void slot_fill(struct vhost_session *s, unsigned i, const struct vu_region *r, int fd)
{
    struct vhost_slot_state *slot = &s->state->slot[i];
    s->slot_fd[i] = fd;
    slot->region = *r;
    slot->added_by = s->state->sequence;
    vhost_hold_keep(s, fd, "region.%u", i);
}

static void slot_forget(struct vhost_session *s, unsigned i)
{
    if (s->slot_fd[i] < 0) return;
    vhost_hold_drop(s, "region.%u", i);
    close(s->slot_fd[i]);
    s->slot_fd[i] = -1;
}

static void slots_forget_old(struct vhost_session *s)
{
    for (unsigned i = 0; i < VHOST_SLOTS_MAX; i++)
        if (!slot_counts(s->state, i)) slot_forget(s, i);
}

/* ---- messages ---- */

static int parse_table(struct vhost_message *m, struct vu_region *region, unsigned *count, struct errmsg *e)
{
    struct vu_mem_table_head head;
    memcpy(&head, m->payload, sizeof head);
    if (head.count == 0 || head.count > VU_FDS_MAX)
        return errmsg_set(e, EINVAL, "%u regions, expected 1 to %u", head.count, VU_FDS_MAX);
    /* Some front ends send their whole array, however little of it they use. */
    if (m->head.size < sizeof head + head.count * sizeof *region)
        return errmsg_set(e, EINVAL, "payload of %u bytes, expected at least %zu for %u regions", m->head.size,
                          sizeof head + head.count * sizeof *region, head.count);
    if (m->fd_count != head.count)
        return errmsg_set(e, EINVAL, "%u descriptors for %u regions", m->fd_count, head.count);
    memcpy(region, m->payload + sizeof head, head.count * sizeof *region);
    *count = head.count;
    return 0;
}

static int replace_table(struct vhost_session *s, struct vhost_message *m, const struct vu_region *region,
                         unsigned count, struct guest_map *map, struct errmsg *e)
{
    struct vhost_state *st = s->state;
    uint32_t next = st->table + 1 ? st->table + 1 : 1;
    struct change c;
    int ret = change_plan(s, map, &c, e);
    if (ret < 0) {
        guest_map_unref(map);
        return ret;
    }
    change_before(s, map, &c);
    for (unsigned i = 0; i < count; i++) {
        int slot = slot_find_free(s);
        assert(slot >= 0); /* never more than VHOST_REGIONS_MAX count, and as many again fit */
        slot_fill(s, (unsigned)slot, &region[i], m->fd[i]);
        m->fd[i] = -1;
        st->slot[slot].table = next;
    }
    vhost_state_mark(&st->table, next);
    ret = change_after(s, map, &c, e);
    slots_forget_old(s);
    return ret;
}

int vhost_set_mem_table(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vu_region region[VU_FDS_MAX];
    unsigned count = 0;
    int ret = parse_table(m, region, &count, e);
    if (ret < 0) return ret;
    struct table *t = calloc(1, sizeof *t);
    if (!t) return errmsg_set(e, ENOMEM, "out of memory");
    for (unsigned i = 0; i < count && ret == 0; i++)
        ret = table_add(t, &region[i], m->fd[i], e);
    struct guest_map *map = NULL;
    if (ret == 0) ret = table_map(s, t, &map, e);
    free(t);
    return ret < 0 ? ret : replace_table(s, m, region, count, map, e);
}

/* The regions as they are, with one more or one less. */
static int map_changed(struct vhost_session *s, const struct vu_region *more, int more_fd, int without,
                       struct guest_map **out, struct errmsg *e)
{
    struct table *t = calloc(1, sizeof *t);
    if (!t) return errmsg_set(e, ENOMEM, "out of memory");
    int ret = table_now(s, t, without, e);
    if (ret == 0 && more) ret = table_add(t, more, more_fd, e);
    if (ret == 0) ret = table_map(s, t, out, e);
    free(t);
    return ret;
}

static bool same_place(const struct vu_region *a, const struct vu_region *b)
{
    return a->guest_addr == b->guest_addr && a->user_addr == b->user_addr && a->size_bytes == b->size_bytes;
}

static int slot_find(const struct vhost_session *s, const struct vu_region *r)
{
    for (unsigned i = 0; i < VHOST_SLOTS_MAX; i++)
        if (slot_counts(s->state, i) && same_place(&s->state->slot[i].region, r)) return (int)i;
    return -1;
}

int vhost_add_mem_reg(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vhost_state *st = s->state;
    struct vu_single_region want;
    memcpy(&want, m->payload, sizeof want);
    int there = slot_find(s, &want.region);
    if (there >= 0 && st->slot[there].added_by == st->sequence) return 0; /* by this very message, before a kill */
    int slot = slot_find_free(s);
    if (slot < 0) return errmsg_set(e, ENOSPC, "more than %u memory regions", VHOST_REGIONS_MAX);

    struct guest_map *map = NULL;
    struct change c;
    int ret = map_changed(s, &want.region, m->fd[0], -1, &map, e);
    if (ret < 0) return ret;
    ret = change_plan(s, map, &c, e);
    if (ret < 0) {
        guest_map_unref(map);
        return ret;
    }
    change_before(s, map, &c);
    if (st->table == 0) vhost_state_mark(&st->table, 1);
    slot_fill(s, (unsigned)slot, &want.region, vhost_message_take_fd(m));
    vhost_state_mark(&st->slot[slot].table, st->table);
    return change_after(s, map, &c, e);
}

int vhost_rem_mem_reg(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vhost_state *st = s->state;
    struct vu_single_region want;
    memcpy(&want, m->payload, sizeof want);
    int slot = slot_find(s, &want.region);
    if (slot < 0 && st->removed_by == st->sequence) return 0; /* by this very message, before a kill */
    if (slot < 0)
        return errmsg_set(e, ENOENT,
                          "no region of %" PRIu64 " bytes at guest address 0x%" PRIx64 ", user address 0x%" PRIx64,
                          want.region.size_bytes, want.region.guest_addr, want.region.user_addr);

    struct guest_map *map = NULL;
    struct change c;
    int ret = map_changed(s, NULL, -1, slot, &map, e);
    if (ret < 0) return ret;
    ret = change_plan(s, map, &c, e);
    if (ret < 0) {
        guest_map_unref(map);
        return ret;
    }
    change_before(s, map, &c);
    st->removed_by = st->sequence;
    vhost_state_mark(&st->slot[slot].table, 0);
    ret = change_after(s, map, &c, e);
    slot_forget(s, (unsigned)slot);
    return ret;
}

/* ---- the whole ---- */

int vhost_regions_restore(struct vhost_session *s, struct errmsg *e)
{
    for (unsigned i = 0; i < VHOST_SLOTS_MAX; i++)
        if (slot_counts(s->state, i) && s->slot_fd[i] < 0)
            return errmsg_set(e, EBADF, "memory region %u of the session was not kept", i);
    slots_forget_old(s);
    return map_changed(s, NULL, -1, -1, &s->map, e);
}

void vhost_regions_close(struct vhost_session *s, bool drop)
{
    for (unsigned i = 0; i < VHOST_SLOTS_MAX; i++) {
        if (s->slot_fd[i] < 0) continue;
        if (drop) vhost_hold_drop(s, "region.%u", i);
        close(s->slot_fd[i]);
        s->slot_fd[i] = -1;
    }
    guest_map_unref(s->map);
    s->map = NULL;
}
