/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backend's half of a netif's rings.
 *
 * A publication, and what makes it whole wherever the process is killed:
 *
 *     1. the responses are noted in kept->response[], by their index
 *     2. kept->done moves past them: they are decided
 *     3. they are written to the ring (over their requests, which nobody needs any more)
 *     4. the ring's rsp_prod moves past them: the guest sees them
 *     5. kept->published moves past them
 *
 * A successor begins at `done`. Between 2. and 4. the ring's rsp_prod is still `published`, and it repeats 3. to 5. from what was
 * noted; after 4. the guest may have put new requests there already, and it only does 5.
 */
#include "ring/netif.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ring/inflight.h"
#include "ring/netif_wire.h"

#define KEPT_MAGIC 0x3166696eu /* changes with the layout */
#define MASK (NETIF_ENTRIES - 1)

_Static_assert((NETIF_PAGE_BYTES - sizeof(struct xen_ring)) / sizeof(struct netif_wire_tx) >= NETIF_ENTRIES &&
                   (NETIF_PAGE_BYTES - sizeof(struct xen_ring)) / sizeof(struct netif_wire_tx) < 2 * NETIF_ENTRIES,
               "io/ring.h rounds down");
_Static_assert((NETIF_PAGE_BYTES - sizeof(struct xen_ring)) / sizeof(struct netif_wire_rx) < 2 * NETIF_ENTRIES,
               "and on the other ring");

/* What the two have in common. */
struct ring {
    struct xen_ring *shared;
    char *entry;
    unsigned entry_bytes, response_bytes;
    struct netif_kept *kept;
    struct netif_kept *own; /* when nobody gave one */
    uint32_t req_cons;      /* taken up to here */
    uint32_t rsp_next;      /* pushed up to here ... */
    uint32_t rsp_prod;      /* ... and published up to here */
    bool must_notify;
    const char *broken;
    uint16_t id[NETIF_ENTRIES]; /* of requests that were taken */
};

static char *entry_at(const struct ring *r, uint32_t index)
{
    return r->entry + (size_t)(index & MASK) * r->entry_bytes;
}

/* ---- life ---- */

static void write_responses(const struct ring *r, uint32_t from, uint32_t to)
{
    for (; from != to; from++)
        memcpy(entry_at(r, from), &r->kept->response[from & MASK], r->response_bytes);
}

/* Where the ring itself says that answers end: a front end that is attached to anew goes on where it was, and so can one whose
 * backend was lost together with what was kept: everything is answered in order. */
static void start(struct ring *r)
{
    __atomic_store_n(&r->kept->magic, 0, __ATOMIC_RELAXED);
    KILL_POINT();
    r->kept->published = r->kept->done = __atomic_load_n(&r->shared->rsp_prod, __ATOMIC_RELAXED);
    KILL_POINT();
    __atomic_store_n(&r->kept->magic, KEPT_MAGIC, __ATOMIC_RELEASE);
    KILL_POINT();
}

static bool is_kept(const struct netif_kept *k)
{
    return k->magic == KEPT_MAGIC && k->done - k->published <= NETIF_ENTRIES;
}

static void settle(struct ring *r)
{
    struct netif_kept *k = r->kept;
    if (__atomic_load_n(&r->shared->rsp_prod, __ATOMIC_RELAXED) != k->done) {
        write_responses(r, k->published, k->done);
        KILL_POINT();
        __atomic_store_n(&r->shared->rsp_prod, k->done, __ATOMIC_RELEASE);
        KILL_POINT();
    }
    __atomic_store_n(&k->published, k->done, __ATOMIC_RELEASE);
    KILL_POINT();
}

static int ring_init(struct ring *r, const struct netif_setup *s, unsigned entry_bytes, unsigned response_bytes,
                     struct errmsg *e)
{
    if (!s->ring || (uintptr_t)s->ring % NETIF_PAGE_BYTES)
        return errmsg_set(e, EINVAL, "network ring at %p, expected a page", s->ring);
    r->shared = s->ring;
    r->entry = (char *)s->ring + sizeof(struct xen_ring);
    r->entry_bytes = entry_bytes;
    r->response_bytes = response_bytes;
    r->kept = s->kept ? s->kept : (r->own = calloc(1, sizeof *r->own));
    if (!r->kept) return errmsg_set(e, ENOMEM, "out of memory");
    if (s->resume && is_kept(r->kept)) settle(r);
    else start(r);
    r->must_notify = s->resume;
    r->req_cons = r->rsp_next = r->rsp_prod = r->kept->done;
    return 0;
}

/* ---- both ways ---- */

/* Requests that may be taken; -EPROTO: the index is none that it can be. */
static int available(struct ring *r)
{
    if (r->broken) return -EPROTO;
    uint32_t there = __atomic_load_n(&r->shared->req_prod, __ATOMIC_ACQUIRE) - r->req_cons;
    if (there <= NETIF_ENTRIES - (r->req_cons - r->rsp_prod)) return (int)there;
    r->broken = "its request index jumps";
    return -EPROTO;
}

static void respond(struct ring *r, const void *response)
{
    assert(r->rsp_next != r->req_cons);
    memcpy(&r->kept->response[r->rsp_next & MASK], response, r->response_bytes);
    r->rsp_next++;
}

static bool publish(struct ring *r)
{
    uint32_t old = r->rsp_prod, now = r->rsp_next;
    bool notify = r->must_notify;
    r->must_notify = false;
    if (now == old) return notify;
    KILL_POINT();
    __atomic_store_n(&r->kept->done, now, __ATOMIC_RELEASE);
    KILL_POINT();
    write_responses(r, old, now);
    KILL_POINT();
    __atomic_store_n(&r->shared->rsp_prod, now, __ATOMIC_RELEASE);
    KILL_POINT();
    __atomic_store_n(&r->kept->published, now, __ATOMIC_RELEASE);
    KILL_POINT();
    r->rsp_prod = now;
    return xen_ring_notify(&r->shared->rsp_event, old, now) || notify;
}

/* ---- transmit ---- */

struct netif_tx {
    struct ring ring;
    uint8_t is_extra[NETIF_ENTRIES]; /* an extra info has no id */
};

int netif_tx_new(struct netif_tx **out, const struct netif_setup *s, struct errmsg *e)
{
    struct netif_tx *t = calloc(1, sizeof *t);
    if (!t) return errmsg_set(e, ENOMEM, "out of memory");
    int ret = ring_init(&t->ring, s, sizeof(struct netif_wire_tx), sizeof(struct netif_wire_tx_response), e);
    if (ret == 0) *out = t;
    else netif_tx_free(t);
    return ret;
}

void netif_tx_free(struct netif_tx *t)
{
    if (!t) return;
    free(t->ring.own);
    free(t);
}

/* An entry as it was at one moment: nothing of it is read again. */
static void take(struct netif_tx *t, void *to, bool extra)
{
    struct ring *r = &t->ring;
    struct netif_wire_tx w;
    const volatile uint32_t *from = (const volatile uint32_t *)(const void *)entry_at(r, r->req_cons);
    uint32_t words[3] = {from[0], from[1], from[2]};
    memcpy(&w, words, sizeof w);
    memcpy(to, words, extra ? sizeof(struct netif_wire_extra) : sizeof w);
    r->id[r->req_cons & MASK] = w.id;
    t->is_extra[r->req_cons & MASK] = extra;
    r->req_cons++;
}

static void note_extra(struct netif_tx_frame *f, const struct netif_wire_extra *x)
{
    switch (x->type) {
    case NETIF_EXTRA_GSO:
        f->gso_type = x->gso.type;
        f->gso_size = x->gso.size;
        if (x->gso.type == NETIF_GSO_NONE || x->gso.type > NETIF_GSO_TCP6 || x->gso.size == 0) f->invalid = true;
        break;
    case NETIF_EXTRA_MCAST_ADD:
    case NETIF_EXTRA_MCAST_DEL:
        f->mcast = x->type;
        memcpy(f->mcast_addr, x->mcast, sizeof f->mcast_addr);
        break;
    case NETIF_EXTRA_HASH:
    case NETIF_EXTRA_XDP: break; /* what the guest's hash is, and its headroom: of no use here */
    default: f->invalid = true;
    }
}

static int incomplete(struct netif_tx *t, const char *why)
{
    t->ring.broken = why;
    return -EPROTO;
}

/* 0, or -EPROTO: the ring ends within them. `left` entries are there. */
static int take_extras(struct netif_tx *t, struct netif_tx_frame *f, unsigned left)
{
    struct netif_wire_extra x;
    do {
        if (f->entries == left) return incomplete(t, "a frame's extra infos without an end");
        take(t, &x, true);
        f->entries++;
        note_extra(f, &x);
    } while (x.flags & NETIF_EXTRA_FLAG_MORE);
    return 0;
}

static void add_slot(struct netif_tx_frame *f, struct netif_slot *slots, const struct netif_wire_tx *w)
{
    if (w->size > NETIF_PAGE_BYTES || w->offset > NETIF_PAGE_BYTES - w->size) f->invalid = true;
    if (f->slot_count == NETIF_SLOTS_MAX) f->invalid = true;
    else slots[f->slot_count++] = (struct netif_slot){w->ref, w->offset, w->size};
}

int netif_tx_pop(struct netif_tx *t, struct netif_tx_frame *f, struct netif_slot *slots)
{
    struct netif_wire_tx first, more;
    int left = available(&t->ring);
    if (left <= 0) return left;
    take(t, &first, false);
    *f = (struct netif_tx_frame){.entries = 1, .length = first.size};
    f->csum_blank = first.flags & NETIF_TX_CSUM_BLANK;
    f->data_validated = first.flags & NETIF_TX_DATA_VALIDATED;
    if (first.flags & NETIF_TX_EXTRA_INFO) {
        int ret = take_extras(t, f, (unsigned)left);
        if (ret < 0) return ret;
    }
    slots[f->slot_count++] = (struct netif_slot){first.ref, first.offset, 0};
    uint32_t rest = 0;
    for (bool goes_on = first.flags & NETIF_TX_MORE_DATA; goes_on; goes_on = more.flags & NETIF_TX_MORE_DATA) {
        if (f->entries == (unsigned)left) return incomplete(t, "a frame's pieces without an end");
        take(t, &more, false);
        f->entries++;
        rest += more.size;
        add_slot(f, slots, &more);
    }
    if (rest > first.size) {
        f->invalid = true;
    } else {
        slots[0].length = (uint16_t)(first.size - rest);
        if (slots[0].length > NETIF_PAGE_BYTES || first.offset > NETIF_PAGE_BYTES - slots[0].length) f->invalid = true;
    }
    return 1;
}

void netif_tx_push(struct netif_tx *t, unsigned entries, enum netif_status status)
{
    struct ring *r = &t->ring;
    for (unsigned i = 0; i < entries; i++) {
        uint32_t at = r->rsp_next & MASK;
        /* NETIF_RSP_NULL: to be skipped. */
        struct netif_wire_tx_response w = {t->is_extra[at] ? 0 : r->id[at], t->is_extra[at] ? 1 : (int16_t)status};
        respond(r, &w);
    }
}

bool netif_tx_publish(struct netif_tx *t)
{
    return publish(&t->ring);
}

bool netif_tx_final_check(struct netif_tx *t)
{
    struct ring *r = &t->ring;
    return xen_ring_final_check(&r->shared->req_event, &r->shared->req_prod, r->req_cons) && !r->broken;
}

const char *netif_tx_broken(const struct netif_tx *t)
{
    return t->ring.broken;
}

/* ---- receive ---- */

struct netif_rx {
    struct ring ring;
};

int netif_rx_new(struct netif_rx **out, const struct netif_setup *s, struct errmsg *e)
{
    struct netif_rx *r = calloc(1, sizeof *r);
    if (!r) return errmsg_set(e, ENOMEM, "out of memory");
    int ret = ring_init(&r->ring, s, sizeof(struct netif_wire_rx), sizeof(struct netif_wire_rx_response), e);
    if (ret == 0) *out = r;
    else netif_rx_free(r);
    return ret;
}

void netif_rx_free(struct netif_rx *r)
{
    if (!r) return;
    free(r->ring.own);
    free(r);
}

int netif_rx_available(struct netif_rx *r)
{
    return available(&r->ring);
}

uint32_t netif_rx_pop(struct netif_rx *r)
{
    struct netif_wire_rx w;
    const volatile uint32_t *from = (const volatile uint32_t *)(const void *)entry_at(&r->ring, r->ring.req_cons);
    uint32_t words[2] = {from[0], from[1]};
    memcpy(&w, words, sizeof w);
    r->ring.id[r->ring.req_cons++ & MASK] = w.id;
    return w.ref;
}

void netif_rx_push(struct netif_rx *r, uint16_t flags, int16_t status)
{
    struct netif_wire_rx_response w = {.id = r->ring.id[r->ring.rsp_next & MASK], .flags = flags, .status = status};
    respond(&r->ring, &w);
}

void netif_rx_push_gso(struct netif_rx *r, enum netif_gso type, uint16_t size, bool more)
{
    struct netif_wire_extra x = {.type = NETIF_EXTRA_GSO, .flags = more ? NETIF_EXTRA_FLAG_MORE : 0};
    x.gso.type = (uint8_t)type;
    x.gso.size = size;
    respond(&r->ring, &x);
}

void netif_rx_push_hash(struct netif_rx *r, uint8_t type, uint8_t algorithm, uint32_t value, bool more)
{
    struct netif_wire_extra x = {.type = NETIF_EXTRA_HASH, .flags = more ? NETIF_EXTRA_FLAG_MORE : 0};
    x.hash.type = type;
    x.hash.algorithm = algorithm;
    memcpy(x.hash.value, &value, sizeof x.hash.value);
    respond(&r->ring, &x);
}

bool netif_rx_publish(struct netif_rx *r)
{
    return publish(&r->ring);
}

const char *netif_rx_broken(const struct netif_rx *r)
{
    return r->ring.broken;
}
