/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backend's half of a blkif ring.
 *
 * The table of what is in flight has as many places as the ring has entries. Of each place, and of the ring, one word decides:
 *
 *   taken      the place's `order` becomes other than 0. Its copy of the request is complete by then.
 *   pushed     `answered` says at which index the response is, whose bytes are in the ring.
 *   published  the table's `rsp_prod` goes past that index. After it the ring's is set to the same and the places are freed;
 *              whoever is killed in between has successors that do both again, and neither harms a second time.
 *
 * So a successor never has to believe what the ring says about responses, which the guest may have written. How far requests were
 * taken follows: each has its place or was answered.
 *
 * A ring without a table to survive by has one in its own memory: there is one way to do it.
 */
#include "ring/blkif.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "ring/blkif_wire.h"
#include "ring/inflight.h"
#include "ring/wire.h"

#define TABLE_MAGIC 0x31666b62u /* changes with the layout of the table */
#define ANSWERED (UINT64_C(1) << 32)

struct blkif_place {
    uint64_t order;    /* in which it was taken, from 1; 0: the place is free */
    uint64_t answered; /* ANSWERED and the response's index; or 0 */
    uint8_t request[BLKIF_ENTRY_BYTES_MAX];
};
_Static_assert(sizeof(struct blkif_place) == 128, "two cache lines");

struct blkif_table {
    uint32_t magic;
    uint32_t entries;
    uint32_t entry_bytes;
    uint32_t rsp_prod;
    uint8_t unused[48];
    struct blkif_place place[];
};

struct blkif_ring {
    struct xen_ring *shared;
    char *entry;
    const struct blkif_layout *layout;
    struct blkif_table *table;
    unsigned entries, segments_max;
    uint32_t req_cons; /* taken up to here */
    uint32_t rsp_next; /* pushed up to here ... */
    uint32_t rsp_prod; /* ... and published up to here */
    uint64_t order;    /* of the request taken last */
    unsigned in_flight;
    bool must_notify;
    const char *broken;
    uint16_t *resume; /* places of the last process, oldest first */
    unsigned resume_at, resume_count;
    uint16_t *free; /* places, a stack */
    unsigned free_count;
    uint16_t *batch; /* pushed and not published */
    unsigned batch_count;
    struct blkif_table *own; /* the table, when nobody gave one */
};

static const struct blkif_layout *layout_of(enum blkif_abi abi)
{
    switch (abi) {
    case BLKIF_ABI_X86_32: return &blkif_layout32;
    case BLKIF_ABI_X86_64: return &blkif_layout64;
    case BLKIF_ABI_NATIVE: break;
    }
    /* What decides is how the compiler aligns: 32-bit ARM's layout is the one of 64 bits. */
    return _Alignof(struct { uint64_t v; }) == 8 ? &blkif_layout64 : &blkif_layout32;
}

unsigned blkif_ring_entries(enum blkif_abi abi, unsigned pages)
{
    if (pages == 0 || pages > BLKIF_RING_PAGES_MAX || !is_power_of_2(pages)) return 0;
    size_t fit = (pages * (size_t)BLKIF_PAGE_BYTES - sizeof(struct xen_ring)) / layout_of(abi)->entry_bytes;
    unsigned entries = 1;
    while (entries * 2 <= fit)
        entries *= 2;
    return entries;
}

size_t blkif_inflight_bytes(enum blkif_abi abi, unsigned pages)
{
    return sizeof(struct blkif_table) + blkif_ring_entries(abi, pages) * sizeof(struct blkif_place);
}

void blkif_inflight_forget(void *inflight)
{
    __atomic_store_n(&((struct blkif_table *)inflight)->magic, 0, __ATOMIC_RELEASE);
}

static int check_setup(const struct blkif_setup *s, struct errmsg *e)
{
    if (s->pages == 0 || s->pages > BLKIF_RING_PAGES_MAX || !is_power_of_2(s->pages))
        return errmsg_set(e, EINVAL, "block ring of %u pages, expected a power of two up to %u", s->pages,
                          BLKIF_RING_PAGES_MAX);
    if (s->segments_max > BLKIF_SEGMENTS_MAX)
        return errmsg_set(e, EINVAL, "block ring: %u segments, expected up to %u", s->segments_max, BLKIF_SEGMENTS_MAX);
    if (s->abi > BLKIF_ABI_X86_64) return errmsg_set(e, EINVAL, "block ring: unknown layout %d", (int)s->abi);
    if (!s->ring || (uintptr_t)s->ring % BLKIF_PAGE_BYTES)
        return errmsg_set(e, EINVAL, "block ring at %p, expected a page", s->ring);
    if ((uintptr_t)s->inflight % 64)
        return errmsg_set(e, EINVAL, "block ring: in-flight table at %p, expected a multiple of 64", s->inflight);
    return 0;
}

/* ---- starting afresh ---- */

/*
 * A guest's ring starts at 0; a front end that is attached to anew may go on where it was, with nothing open. Where something was
 * answered and something is open, answers may lie over requests that are open, and nobody knows which were carried out.
 */
static int start(struct blkif_ring *r, struct errmsg *e)
{
    struct blkif_table *t = r->table;
    uint32_t rsp_prod = __atomic_load_n(&r->shared->rsp_prod, __ATOMIC_RELAXED);
    if (rsp_prod && __atomic_load_n(&r->shared->req_prod, __ATOMIC_RELAXED) != rsp_prod)
        return errmsg_set(e, EBUSY, "block ring: requests are open from before, and it is not known which");
    __atomic_store_n(&t->magic, 0, __ATOMIC_RELAXED); /* whoever is killed before the end has started nothing */
    KILL_POINT();
    t->entries = r->entries;
    t->entry_bytes = r->layout->entry_bytes;
    t->rsp_prod = r->rsp_prod = r->rsp_next = r->req_cons = rsp_prod;
    for (unsigned i = 0; i < r->entries; i++)
        t->place[i].order = t->place[i].answered = 0;
    KILL_POINT();
    __atomic_store_n(&t->magic, TABLE_MAGIC, __ATOMIC_RELAXED);
    KILL_POINT();
    return 0;
}

/* ---- going on where another process was killed ---- */

struct taken {
    uint64_t order;
    uint16_t place;
};

static int by_order(const void *a, const void *b)
{
    const struct taken *l = a, *r = b;
    return l->order < r->order ? -1 : l->order > r->order;
}

/* Free what was published, and what was pushed only is not answered yet. -EINVAL: no process of ours left that. */
static int settle(struct blkif_ring *r, struct taken *taken, unsigned *count)
{
    for (unsigned i = 0; i < r->entries; i++) {
        struct blkif_place *p = &r->table->place[i];
        if (p->order == 0) continue;
        if (p->order >> 63) return -EINVAL; /* the next would have 0, which is a free place's */
        if (p->answered) {
            uint32_t ahead = (uint32_t)p->answered - r->rsp_prod;
            if (p->answered >> 32 != 1 || (ahead >= r->entries && -ahead > r->entries)) return -EINVAL;
            if (ahead >= r->entries) {
                inflight_store64(&p->order, 0);
                continue;
            }
            inflight_store64(&p->answered, 0);
        }
        taken[(*count)++] = (struct taken){p->order, (uint16_t)i};
    }
    return 0;
}

static int list_taken(struct blkif_ring *r, struct taken *taken)
{
    unsigned count = 0;
    if (settle(r, taken, &count)) return -EINVAL;
    qsort(taken, count, sizeof taken[0], by_order);
    for (unsigned i = 0; i < count; i++) {
        if (i && taken[i].order == taken[i - 1].order) return -EINVAL;
        r->resume[i] = taken[i].place;
    }
    r->resume_count = count;
    r->order = count ? taken[count - 1].order : 0;
    return 0;
}

static int resume(struct blkif_ring *r, struct errmsg *e)
{
    const struct blkif_table *t = r->table;
    if (t->magic == 0) return start(r, e);
    if (t->magic != TABLE_MAGIC || t->entries != r->entries || t->entry_bytes != r->layout->entry_bytes)
        return errmsg_set(e, EINVAL, "block ring: the in-flight table is of another kind of ring");
    struct taken *taken = malloc(r->entries * sizeof taken[0]);
    if (!taken) return errmsg_sys(e, ENOMEM, "block ring");
    r->rsp_prod = r->rsp_next = t->rsp_prod;
    int ret = list_taken(r, taken);
    free(taken);
    if (ret < 0) return errmsg_set(e, EINVAL, "block ring: the in-flight table contradicts itself");
    r->req_cons = r->rsp_prod + r->resume_count;
    __atomic_store_n(&r->shared->rsp_prod, r->rsp_prod, __ATOMIC_RELEASE);
    r->must_notify = true;
    return 0;
}

static void list_free(struct blkif_ring *r)
{
    for (unsigned i = r->entries; i-- > 0;)
        if (r->table->place[i].order == 0) r->free[r->free_count++] = (uint16_t)i;
}

static int open_table(struct blkif_ring *r, const struct blkif_setup *s, struct errmsg *e)
{
    r->resume = calloc(r->entries, sizeof r->resume[0]);
    r->free = calloc(r->entries, sizeof r->free[0]);
    r->batch = calloc(r->entries, sizeof r->batch[0]);
    if (!s->inflight) r->own = aligned_alloc(64, blkif_inflight_bytes(s->abi, s->pages));
    r->table = s->inflight ? s->inflight : r->own;
    if (!r->resume || !r->free || !r->batch || !r->table) return errmsg_sys(e, ENOMEM, "block ring");
    int ret = s->inflight && s->resume ? resume(r, e) : start(r, e);
    if (ret == 0) list_free(r);
    return ret;
}

int blkif_new(struct blkif_ring **out, const struct blkif_setup *s, struct errmsg *e)
{
    *out = NULL;
    int ret = check_setup(s, e);
    if (ret < 0) return ret;
    struct blkif_ring *r =
        aligned_alloc(64, align_up(sizeof *r, 64)); /* rings of different threads may be neighbours */
    if (!r) return errmsg_sys(e, ENOMEM, "block ring");
    *r = (struct blkif_ring){.shared = s->ring, .layout = layout_of(s->abi), .segments_max = s->segments_max};
    r->entry = (char *)s->ring + sizeof(struct xen_ring);
    r->entries = blkif_ring_entries(s->abi, s->pages);
    ret = open_table(r, s, e);
    if (ret < 0) {
        blkif_free(r);
        return ret;
    }
    *out = r;
    return 0;
}

void blkif_free(struct blkif_ring *r)
{
    if (!r) return;
    free(r->resume);
    free(r->free);
    free(r->batch);
    free(r->own);
    free(r);
}

/* ---- requests ---- */

static char *entry_at(const struct blkif_ring *r, uint32_t index)
{
    return r->entry + (size_t)(index & (r->entries - 1)) * r->layout->entry_bytes;
}

static uint64_t get64(const uint8_t *from)
{
    uint64_t v;
    memcpy(&v, from, sizeof v);
    return v;
}

static bool decode_segments(struct blkif_request *q, const uint8_t *from)
{
    for (unsigned i = 0; i < q->segment_count; i++) {
        struct blkif_wire_segment w;
        memcpy(&w, from + i * sizeof w, sizeof w);
        if (w.first_sect > w.last_sect || w.last_sect >= BLKIF_PAGE_BYTES / 512) return false;
        q->segments[i] = (struct blkif_segment){w.ref, w.first_sect, w.last_sect};
    }
    return true;
}

static bool decode_direct(const struct blkif_ring *r, struct blkif_request *q, const uint8_t *request)
{
    bool data = q->op == BLKIF_READ || q->op == BLKIF_WRITE;
    if (request[1] > BLKIF_DIRECT_MAX || (data && request[1] == 0)) return false;
    q->segment_count = request[1];
    if (q->op == BLKIF_FLUSH_DISKCACHE && q->segment_count) q->op = BLKIF_WRITE_BARRIER;
    return decode_segments(q, request + r->layout->segment);
}

static bool decode_indirect(const struct blkif_ring *r, struct blkif_request *q, const uint8_t *request)
{
    uint16_t count;
    memcpy(&count, request + 2, sizeof count);
    q->op = request[1];
    if (q->op != BLKIF_READ && q->op != BLKIF_WRITE) {
        q->op = BLKIF_READ;
        return false;
    }
    if (count == 0 || count > r->segments_max) return false;
    q->segment_count = count;
    q->indirect_pages = (count + BLKIF_SEGMENTS_PER_PAGE - 1) / BLKIF_SEGMENTS_PER_PAGE;
    memcpy(q->indirect_ref, request + r->layout->indirect_ref, q->indirect_pages * sizeof q->indirect_ref[0]);
    return true;
}
_Static_assert(BLKIF_SEGMENTS_MAX <= BLKIF_INDIRECT_PAGES_MAX * BLKIF_SEGMENTS_PER_PAGE, "their references fit");

/* From our copy. */
static void decode(const struct blkif_ring *r, uint16_t slot, struct blkif_request *q)
{
    const uint8_t *request = r->table->place[slot].request;
    bool ok = true;
    q->slot = slot;
    q->op = request[0];
    q->discard_flags = 0;
    q->id = get64(request + r->layout->id);
    q->sector = get64(request + r->layout->sector);
    q->discard_sectors = 0;
    q->segment_count = q->indirect_pages = 0;
    switch (q->op) {
    case BLKIF_READ:
    case BLKIF_WRITE:
    case BLKIF_WRITE_BARRIER:
    case BLKIF_FLUSH_DISKCACHE: ok = decode_direct(r, q, request); break;
    case BLKIF_DISCARD:
        q->discard_flags = request[1];
        q->discard_sectors = get64(request + r->layout->discard_sectors);
        break;
    case BLKIF_INDIRECT: ok = decode_indirect(r, q, request); break;
    }
    q->invalid = !ok;
    if (!ok) q->segment_count = q->indirect_pages = 0;
}

bool blkif_add_segments(struct blkif_request *q, const void *pages, size_t bytes)
{
    bool ok = bytes >= q->segment_count * sizeof(struct blkif_wire_segment) && decode_segments(q, pages);
    q->indirect_pages = 0;
    if (ok) return true;
    q->invalid = true;
    q->segment_count = 0;
    return false;
}

/* Copied once: what is checked is what is used. */
static uint16_t take(struct blkif_ring *r)
{
    uint16_t slot = r->free[--r->free_count];
    struct blkif_place *p = &r->table->place[slot];
    memcpy(p->request, entry_at(r, r->req_cons), r->layout->entry_bytes);
    inflight_store64(&p->answered, 0);
    KILL_POINT();
    inflight_store64(&p->order, ++r->order);
    KILL_POINT();
    r->req_cons++;
    return slot;
}

int blkif_pop(struct blkif_ring *r, struct blkif_request *out)
{
    if (r->broken) return -EPROTO;
    if (r->resume_at < r->resume_count) {
        r->in_flight++;
        decode(r, r->resume[r->resume_at++], out);
        return 1;
    }
    uint32_t available = __atomic_load_n(&r->shared->req_prod, __ATOMIC_ACQUIRE) - r->req_cons;
    if (available == 0) return 0;
    if (available > r->entries - (r->req_cons - r->rsp_prod)) {
        blkif_break(r, "its request index jumps");
        return -EPROTO;
    }
    r->in_flight++;
    decode(r, take(r), out);
    return 1;
}

bool blkif_has_work(const struct blkif_ring *r)
{
    if (r->broken) return false;
    return r->resume_at < r->resume_count || __atomic_load_n(&r->shared->req_prod, __ATOMIC_RELAXED) != r->req_cons;
}

bool blkif_final_check(struct blkif_ring *r)
{
    bool there = xen_ring_final_check(&r->shared->req_event, &r->shared->req_prod, r->req_cons);
    return !r->broken && (there || blkif_resuming(r));
}

/* ---- responses ---- */

/* Every byte of it is ours: nothing that was in memory before goes to the guest. */
static void write_response(const struct blkif_ring *r, const uint8_t *request, enum blkif_status status)
{
    struct blkif_wire_response64 w = {.id = get64(request + r->layout->id), .status = (int16_t)status};
    w.op = request[0] == BLKIF_INDIRECT ? request[1] : request[0];
    memcpy(entry_at(r, r->rsp_next), &w, r->layout->response_bytes);
}
_Static_assert(offsetof(struct blkif_wire_response32, id) == offsetof(struct blkif_wire_response64, id) &&
                   offsetof(struct blkif_wire_response32, op) == offsetof(struct blkif_wire_response64, op) &&
                   offsetof(struct blkif_wire_response32, status) == offsetof(struct blkif_wire_response64, status),
               "one is the other's start");

void blkif_push(struct blkif_ring *r, uint16_t slot, enum blkif_status status)
{
    assert(slot < r->entries);
    struct blkif_place *p = &r->table->place[slot];
    assert(r->in_flight > 0 && p->order != 0 && p->answered == 0);
    write_response(r, p->request, status);
    KILL_POINT();
    inflight_store64(&p->answered, ANSWERED | r->rsp_next);
    KILL_POINT();
    r->rsp_next++;
    r->batch[r->batch_count++] = slot;
    r->in_flight--;
}

bool blkif_publish(struct blkif_ring *r)
{
    uint32_t old = r->rsp_prod, now = r->rsp_next;
    bool notify = r->must_notify;
    r->must_notify = false;
    if (now == old) return notify;
    KILL_POINT();
    __atomic_store_n(&r->table->rsp_prod, now, __ATOMIC_RELAXED);
    KILL_POINT();
    __atomic_store_n(&r->shared->rsp_prod, now, __ATOMIC_RELEASE);
    KILL_POINT();
    r->rsp_prod = now;
    for (unsigned i = 0; i < r->batch_count; i++) {
        inflight_store64(&r->table->place[r->batch[i]].order, 0);
        r->free[r->free_count++] = r->batch[i];
    }
    r->batch_count = 0;
    return xen_ring_notify(&r->shared->rsp_event, old, now) || notify;
}

bool blkif_resuming(const struct blkif_ring *r)
{
    return r->resume_at < r->resume_count;
}

unsigned blkif_in_flight(const struct blkif_ring *r)
{
    return r->in_flight;
}

void blkif_break(struct blkif_ring *r, const char *why)
{
    if (!r->broken) r->broken = why;
}

const char *blkif_broken(const struct blkif_ring *r)
{
    return r->broken;
}
