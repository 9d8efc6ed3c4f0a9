/* SPDX-License-Identifier: Apache-2.0 */
#include "ring/blkif_sim.h"

#include <string.h>

#include "ring/blkif_wire.h"

static struct xen_ring *shared_of(const struct blkif_sim *s)
{
    return s->ring;
}

static bool is_64(const struct blkif_sim *s)
{
    return s->abi == BLKIF_ABI_X86_64 || (s->abi == BLKIF_ABI_NATIVE && sizeof(void *) == 8);
}

static char *entry_at(const struct blkif_sim *s, uint32_t index)
{
    size_t bytes = is_64(s) ? sizeof(struct blkif_wire_rw64) : sizeof(struct blkif_wire_rw32);
    return (char *)s->ring + sizeof(struct xen_ring) + (index & (s->entries - 1)) * bytes;
}

void blkif_sim_init(struct blkif_sim *s, void *ring, unsigned pages, enum blkif_abi abi)
{
    memset(s, 0, sizeof *s);
    s->ring = ring;
    s->abi = abi;
    s->entries = blkif_ring_entries(abi, pages);
    struct xen_ring *w = ring;
    memset(w, 0, sizeof *w);
    w->req_event = w->rsp_event = 1;
}

static void fill_segments(struct blkif_wire_segment *to, const struct blkif_request *q)
{
    for (unsigned i = 0; i < q->segment_count && i < BLKIF_DIRECT_MAX; i++)
        to[i] = (struct blkif_wire_segment){q->segments[i].ref, q->segments[i].first_sect, q->segments[i].last_sect, 0};
}

/* The two layouts differ in their types only. */
#define FILL(bits)                                                                                                     \
    static void fill##bits(char *to, const struct blkif_request *q, uint64_t id)                                       \
    {                                                                                                                  \
        union {                                                                                                        \
            struct blkif_wire_rw##bits rw;                                                                             \
            struct blkif_wire_discard##bits discard;                                                                   \
            struct blkif_wire_indirect##bits indirect;                                                                 \
        } w;                                                                                                           \
        memset(&w, 0, sizeof w);                                                                                       \
        w.rw.op = q->op, w.rw.id = id, w.rw.sector = q->sector;                                                        \
        if (q->indirect_pages) {                                                                                       \
            w.indirect.op = BLKIF_INDIRECT, w.indirect.indirect_op = q->op;                                            \
            w.indirect.segment_count = (uint16_t)q->segment_count;                                                     \
            memcpy(w.indirect.ref, q->indirect_ref, sizeof w.indirect.ref);                                            \
        } else if (q->op == BLKIF_DISCARD) {                                                                           \
            w.discard.flags = q->discard_flags, w.discard.sectors = q->discard_sectors;                                \
        } else {                                                                                                       \
            struct blkif_wire_segment segment[BLKIF_DIRECT_MAX] = {0};                                                 \
            w.rw.segment_count = (uint8_t)q->segment_count;                                                            \
            fill_segments(segment, q);                                                                                 \
            memcpy(w.rw.segment, segment, sizeof segment);                                                             \
        }                                                                                                              \
        memcpy(to, &w, sizeof w.rw);                                                                                   \
    }

FILL(64)
FILL(32)

/* A free slot; the caller knows that there is one. */
static unsigned find_slot(const struct blkif_sim *s)
{
    unsigned at = s->req_prod & (s->entries - 1);
    while (s->slot[at].open)
        at = (at + 1) & (s->entries - 1);
    return at;
}

bool blkif_sim_add(struct blkif_sim *s, const struct blkif_request *q, uint64_t token)
{
    if (s->req_prod - s->rsp_cons == s->entries) return false;
    unsigned at = find_slot(s);
    s->slot[at].generation++;
    s->slot[at].op = q->op;
    s->slot[at].open = true;
    s->slot[at].token = token;
    uint64_t id = (uint64_t)s->slot[at].generation << 32 | at;
    if (is_64(s)) fill64(entry_at(s, s->req_prod), q, id);
    else fill32(entry_at(s, s->req_prod), q, id);
    s->req_prod++;
    s->in_flight++;
    return true;
}

bool blkif_sim_publish(struct blkif_sim *s)
{
    uint32_t old = s->published, now = s->req_prod;
    if (now == old) return false;
    __atomic_store_n(&shared_of(s)->req_prod, now, __ATOMIC_RELEASE);
    s->published = now;
    return xen_ring_notify(&shared_of(s)->req_event, old, now);
}

static bool fault(struct blkif_sim *s, const char *why)
{
    s->error = why;
    return false;
}

bool blkif_sim_get(struct blkif_sim *s, uint64_t *token, int *status)
{
    if (s->error) return false;
    uint32_t there = __atomic_load_n(&shared_of(s)->rsp_prod, __ATOMIC_ACQUIRE) - s->rsp_cons;
    if (there == 0) return false;
    if (there > s->published - s->rsp_cons) return fault(s, "the response index jumps");
    struct blkif_wire_response64 w = {0};
    memcpy(&w, entry_at(s, s->rsp_cons), is_64(s) ? sizeof w : sizeof(struct blkif_wire_response32));
    uint32_t at = (uint32_t)w.id;
    if (at >= s->entries || !s->slot[at].open || s->slot[at].generation != (uint32_t)(w.id >> 32))
        return fault(s, "an answer to nothing that is open");
    if (w.op != s->slot[at].op) return fault(s, "an answer of another operation");
    if (w.unused || w.unused2) return fault(s, "padding that is not zero");
    s->slot[at].open = false;
    s->rsp_cons++;
    s->in_flight--;
    *token = s->slot[at].token;
    *status = w.status;
    return true;
}

bool blkif_sim_final_check(struct blkif_sim *s)
{
    return xen_ring_final_check(&shared_of(s)->rsp_event, &shared_of(s)->rsp_prod, s->rsp_cons);
}
