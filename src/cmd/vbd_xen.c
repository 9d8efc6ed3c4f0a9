/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/vbd_xen.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "guest/xen_world.h"

#define PERSISTENT_PAGES_MAX 1056u /* of a ring: what Linux' own backend keeps */
#define NOTE_MAGIC 0x316e6578u     /* changes with the layout of the note */

/* At the start of what survives: which rings the tables behind it are of. */
struct note {
    uint32_t magic; /* 0: of none */
    uint32_t domid, abi, rings, pages;
    uint32_t unused[11];
    struct {
        uint32_t port;
        uint32_t ref[BLKIF_RING_PAGES_MAX];
    } ring[VBD_QUEUES_MAX];
};

struct worker_xen {
    const struct worker_xen_config *config;
    struct xen_world *world;
    struct xen_budget budget;
    struct vbd *vbd;
    struct note *note;
    json_t *backend;
    unsigned queues;
    unsigned segments_max, pages_max; /* as offered */
    bool persistent, no_discard;
    unsigned rings; /* served now */
    enum vbd_blkif_way way;
    struct xen *door[VBD_QUEUES_MAX];
};

/* ---- what survives ---- */

static size_t table_bytes(void)
{
    return align_up(blkif_inflight_bytes(BLKIF_ABI_X86_64, BLKIF_RING_PAGES_MAX), 64);
}

static size_t note_bytes(void)
{
    return align_up(sizeof(struct note), 4096);
}

size_t worker_xen_state_bytes(unsigned queues)
{
    return align_up(note_bytes() + queues * table_bytes(), 4096);
}

static void *table_of(const struct worker_xen *x, unsigned ring)
{
    return (char *)x->note + note_bytes() + ring * table_bytes();
}

/* No table is of anything any more before the next note is made; and the note counts once its magic is there. */
static void forget(struct worker_xen *x)
{
    __atomic_store_n(&x->note->magic, 0, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < x->queues; i++)
        blkif_inflight_forget(table_of(x, i));
}

static void remember(struct worker_xen *x, const struct worker_xen_front *f)
{
    struct note *n = x->note;
    n->domid = x->config->domid, n->abi = f->abi, n->rings = f->rings, n->pages = f->pages;
    for (unsigned i = 0; i < f->rings; i++) {
        n->ring[i].port = f->ring[i].port;
        memcpy(n->ring[i].ref, f->ring[i].ref, sizeof n->ring[i].ref);
    }
    __atomic_store_n(&n->magic, NOTE_MAGIC, __ATOMIC_RELEASE);
}

static bool same_rings(const struct worker_xen *x, const struct worker_xen_front *f)
{
    const struct note *n = x->note;
    if (n->domid != x->config->domid || n->abi != f->abi || n->rings != f->rings || n->pages != f->pages) return false;
    for (unsigned i = 0; i < f->rings; i++)
        if (n->ring[i].port != f->ring[i].port ||
            memcmp(n->ring[i].ref, f->ring[i].ref, f->pages * sizeof f->ring[i].ref[0]) != 0)
            return false;
    return true;
}

/* ---- what is offered ---- */

static json_t *text_of(uint64_t n)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, n);
    return json_string(text);
}

static json_t *keys_of(const struct vbd_blkif_properties *p)
{
    const struct {
        const char *key;
        uint64_t value;
    } keys[] = {
        {"sectors", p->sectors},
        {"sector-size", p->sector_size},
        {"physical-sector-size", p->physical_sector_size},
        {"info", p->info},
        {"feature-flush-cache", p->feature_flush_cache},
        {"feature-barrier", p->feature_barrier},
        {"feature-discard", p->feature_discard},
        {"discard-granularity", p->discard_granularity},
        {"discard-alignment", p->discard_alignment},
        {"discard-secure", 0},
        {"feature-persistent", p->feature_persistent},
        {"feature-max-indirect-segments", p->feature_max_indirect_segments},
        {"multi-queue-max-queues", p->multi_queue_max_queues},
        {"max-ring-page-order", p->max_ring_page_order},
    };
    json_t *o = json_object();
    for (unsigned i = 0; i < ARRAY_LEN(keys); i++)
        json_object_set_new(o, keys[i].key, text_of(keys[i].value));
    return o;
}

/* A number of what was offered earlier; not there: not offered, 0. */
static int offered_number(const json_t *offered, const char *key, uint64_t *out, struct errmsg *e)
{
    const json_t *v = json_object_get(offered, key);
    const char *text = json_string_value(v);
    char *end = NULL;
    *out = 0;
    if (!v) return 0;
    if (text && *text) *out = strtoull(text, &end, 10);
    if (!end || *end) return errmsg_set(e, EINVAL, "xen.offered.%s: expected a number in a string", key);
    return 0;
}

/* Can what the guest counts on be done by this disk as it is now? */
static int check_offered(const struct worker_xen *x, const json_t *now, struct errmsg *e)
{
    static const char *const same[] = {"sector-size", "info"}; /* others: at most as much as now */
    const char *key;
    json_t *v;
    json_object_foreach(x->config->offered, key, v)
    {
        uint64_t before, most;
        bool exact = false;
        if (strcmp(key, "sectors") == 0 || !json_object_get(now, key)) continue;
        if (strncmp(key, "discard-", 8) == 0 || strcmp(key, "physical-sector-size") == 0) continue;
        if (offered_number(x->config->offered, key, &before, e) || offered_number(now, key, &most, e)) return -EINVAL;
        for (unsigned i = 0; i < ARRAY_LEN(same); i++)
            exact = exact || strcmp(key, same[i]) == 0;
        if (strcmp(key, "feature-persistent") == 0 || strcmp(key, "feature-discard") == 0)
            continue; /* a matter of choice */
        if (exact ? before != most : before > most)
            return errmsg_set(e, EINVAL, "xen.offered.%s: the guest was offered %" PRIu64 ", this disk offers %" PRIu64,
                              key, before, most);
    }
    return 0;
}

static enum vbd_blkif_way way_of(enum worker_xen_mode mode, bool persistent)
{
    if (mode == XEN_MODE_MAP) return VBD_BLKIF_MAP;
    return persistent && mode != XEN_MODE_COPY ? VBD_BLKIF_PERSISTENT : VBD_BLKIF_COPY;
}

static int offer(struct worker_xen *x, struct errmsg *e)
{
    struct vbd_blkif_properties p;
    const json_t *offered = x->config->offered;
    vbd_blkif_properties(x->vbd, way_of(x->config->mode, true), x->config->cdrom, &p);
    if (x->config->no_discard) p.feature_discard = false;
    json_t *now = keys_of(&p);
    if (!now) return errmsg_set(e, ENOMEM, "out of memory");
    int ret = offered ? check_offered(x, now, e) : 0;
    x->backend = offered ? json_deep_copy(offered) : json_incref(now);
    json_decref(now);
    uint64_t segments, queues, order, persistent, discard;
    if (ret < 0 || offered_number(x->backend, "feature-max-indirect-segments", &segments, e) ||
        offered_number(x->backend, "multi-queue-max-queues", &queues, e) ||
        offered_number(x->backend, "max-ring-page-order", &order, e) ||
        offered_number(x->backend, "feature-discard", &discard, e) ||
        offered_number(x->backend, "feature-persistent", &persistent, e))
        return -EINVAL;
    x->segments_max = (unsigned)segments;
    x->pages_max = 1u << order;
    x->persistent = persistent;
    x->no_discard = !discard;
    return 0;
}

json_t *worker_xen_backend(const struct worker_xen *x)
{
    struct vbd_blkif_properties p;
    json_t *o = json_deep_copy(x->backend);
    vbd_blkif_properties(x->vbd, VBD_BLKIF_COPY, x->config->cdrom, &p);
    if (o) json_object_set_new(o, "sectors", text_of(p.sectors)); /* alone may change */
    return o;
}

/* ---- life ---- */

/* Whoever takes the worker over shall reach no other guest's event channels. */
static int open_door(struct worker_xen *x, unsigned i, struct errmsg *e)
{
    int ret = xen_world_door(x->world, &x->door[i], &x->budget, e);
    if (ret < 0) return ret;
    ret = x->door[i]->ops->confine(x->door[i], x->config->domid);
    if (ret == -ENOTTY) return 0; /* a kernel before 4.7 */
    return ret < 0 ? errmsg_sys(e, -ret, "event channels of domain %u only", x->config->domid) : 0;
}

int worker_xen_open(struct worker_xen **out, const struct worker_xen_config *c, unsigned queues, struct errmsg *e)
{
    struct worker_xen *x = calloc(1, sizeof *x);
    if (!x) return errmsg_set(e, ENOMEM, "out of memory");
    *x = (struct worker_xen){.config = c, .queues = queues, .budget = {.max = c->map_entries}};
    x->budget.reserve = queues * BLKIF_RING_PAGES_MAX * 2; /* two entries a page, where domain 0 is paravirtual */
    int ret = xen_world_open(&x->world, c->world, e);
    for (unsigned i = 0; ret == 0 && i < queues; i++)
        ret = open_door(x, i, e);
    if (ret < 0) {
        worker_xen_close(x);
        return ret;
    }
    *out = x;
    return 0;
}

int worker_xen_set_device(struct worker_xen *x, struct vbd *vbd, void *state, struct errmsg *e)
{
    x->vbd = vbd;
    x->note = state;
    return offer(x, e);
}

void worker_xen_close(struct worker_xen *x)
{
    if (!x) return;
    for (unsigned i = 0; i < x->queues; i++)
        xen_close(x->door[i]);
    xen_world_close(x->world);
    json_decref(x->backend);
    free(x);
}

/* ---- a front end ---- */

/* A daemon that lost what it knew asks for what is so already. */
static bool goes_on(const struct worker_xen *x, const struct worker_xen_front *f)
{
    return x->rings && f->resume && same_rings(x, f);
}

static int check_front(const struct worker_xen *x, const struct worker_xen_front *f, struct errmsg *e)
{
    if (x->rings) return errmsg_set(e, EISCONN, "connected already");
    if (f->rings > x->queues) return errmsg_set(e, EINVAL, "rings: %u, expected 1 to %u", f->rings, x->queues);
    if (f->pages > x->pages_max)
        return errmsg_set(e, EINVAL, "rings: of %u pages, expected at most %u", f->pages, x->pages_max);
    if (f->resume && x->note->magic && !(x->note->magic == NOTE_MAGIC && same_rings(x, f)))
        return errmsg_set(e, EINVAL, "resume: the last worker served other rings");
    return 0;
}

static int start_ring(struct worker_xen *x, const struct worker_xen_front *f, unsigned i, struct errmsg *e)
{
    struct vbd_blkif_setup s = {.xen = x->door[i],
                                .domid = x->config->domid,
                                .ring_pages = f->pages,
                                .remote_port = f->ring[i].port,
                                .abi = f->abi,
                                .segments_max = x->segments_max,
                                .way = x->way,
                                .no_discard = x->no_discard,
                                .persistent_max = PERSISTENT_PAGES_MAX,
                                .inflight = table_of(x, i),
                                .resume = f->resume};
    memcpy(s.ring_ref, f->ring[i].ref, sizeof s.ring_ref);
    return vbd_blkif_start(x->vbd, i, &s, e);
}

static void stop_rings(struct worker_xen *x, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        vbd_blkif_stop(x->vbd, i);
    x->rings = 0;
}

int worker_xen_connect(struct worker_xen *x, const struct worker_xen_front *f, struct errmsg *e)
{
    if (goes_on(x, f)) return 0;
    int ret = check_front(x, f, e);
    if (ret < 0) return ret;
    x->way = way_of(x->config->mode, x->persistent && f->persistent);
    if (!f->resume || !x->note->magic) {
        forget(x);
        remember(x, f);
    }
    for (unsigned i = 0; i < f->rings; i++) {
        ret = start_ring(x, f, i, e);
        if (ret < 0) {
            stop_rings(x, i);
            return ret;
        }
    }
    x->rings = f->rings;
    return 0;
}

void worker_xen_leave(struct worker_xen *x)
{
    stop_rings(x, x->rings);
}

void worker_xen_disconnect(struct worker_xen *x)
{
    if (x->rings == 0) return;
    worker_xen_leave(x);
    forget(x);
    vbd_guest_ops(x->vbd)->reset(x->vbd, GUEST_RESET_DEVICE);
}

bool worker_xen_connected(const struct worker_xen *x)
{
    return x && x->rings;
}

static const char *const way_name[] = {
    [VBD_BLKIF_COPY] = "copy", [VBD_BLKIF_MAP] = "map", [VBD_BLKIF_PERSISTENT] = "persistent"};

json_t *worker_xen_stats(const struct worker_xen *x)
{
    return json_pack("{s:i, s:i, s:s, s:I}", "domid", (int)x->config->domid, "rings", (int)x->rings, "way",
                     x->rings ? way_name[x->way] : "none", "map_entries", (json_int_t)atomic_load(&x->budget.used));
}
