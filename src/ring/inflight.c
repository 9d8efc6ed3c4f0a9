/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In-flight tables: starting one, and settling what a killed process left (inflight.h has the layouts and
 * the stores of the data path). All of it may itself be killed and run again: each step is either idempotent or the
 * last that makes the state before it recognisable.
 */
#include "ring/inflight.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define UNSEEN UINT16_MAX

void inflight_split_init(struct inflight_split *t, uint16_t size, uint16_t used_idx)
{
    inflight_store16(&t->version, 0); /* not a table until the last line */
    KILL_POINT();
    memset(t->desc, 0, size * sizeof t->desc[0]);
    t->features = 0;
    t->desc_num = size;
    t->last_batch_head = 0;
    t->used_idx = used_idx;
    KILL_POINT();
    inflight_store16(&t->version, INFLIGHT_VERSION);
    KILL_POINT();
}

void inflight_packed_init(struct inflight_packed *t, uint16_t size, uint16_t used_idx, bool used_wrap)
{
    inflight_store16(&t->version, 0);
    KILL_POINT();
    memset(t->desc, 0, size * sizeof t->desc[0]);
    for (unsigned i = 0; i < size; i++)
        t->desc[i].next = (uint16_t)(i + 1); /* the last one's is size: the end of the list */
    t->features = 0;
    t->desc_num = size;
    t->free_head = t->old_free_head = 0;
    t->used = (struct inflight_packed_used){used_idx, used_idx, used_wrap, used_wrap, {0}};
    KILL_POINT();
    inflight_store16(&t->version, INFLIGHT_VERSION);
    KILL_POINT();
}

static int check(uint64_t features, uint16_t version, uint16_t desc_num, uint16_t size, struct errmsg *e)
{
    if (version == 0) return -ENODATA;
    if (version != INFLIGHT_VERSION || features != 0)
        return errmsg_set(e, EINVAL, "in-flight table of version %u, features 0x%llx: expected version %u, no features",
                          version, (unsigned long long)features, INFLIGHT_VERSION);
    if (desc_num != size)
        return errmsg_set(e, EINVAL, "in-flight table for a queue of %u entries, this one has %u", desc_num, size);
    return 0;
}

int inflight_split_check(const struct inflight_split *t, uint16_t size, struct errmsg *e)
{
    return check(inflight_load64(&t->features), inflight_load16(&t->version), inflight_load16(&t->desc_num), size, e);
}

int inflight_packed_check(const struct inflight_packed *t, uint16_t size, struct inflight_packed_used *used,
                          struct errmsg *e)
{
    int ret =
        check(inflight_load64(&t->features), inflight_load16(&t->version), inflight_load16(&t->desc_num), size, e);
    if (ret) return ret;
    *used = inflight_packed_load_used(t);
    if (used->used_idx >= size || used->old_used_idx >= size)
        return errmsg_set(e, EINVAL, "in-flight table: used index %u or %u in a queue of %u entries", used->used_idx,
                          used->old_used_idx, size);
    return 0;
}

static int oldest_first(const void *a, const void *b)
{
    const struct inflight_chain *x = a, *y = b;
    if (x->counter != y->counter) return x->counter < y->counter ? -1 : 1;
    return (int)x->head - (int)y->head;
}

int inflight_split_resume(struct inflight_split *t, uint16_t size, uint16_t used_idx, struct inflight_chain *chains)
{
    /* Published, and perhaps not all unmarked: the batch is as long as the used index is ahead of our note of it. */
    unsigned batch = (uint16_t)(used_idx - inflight_load16(&t->used_idx));
    if (batch > size) return -EPROTO;
    uint16_t head = inflight_load16(&t->last_batch_head);
    for (unsigned i = 0; i < batch; i++) {
        if (head >= size) return -EPROTO;
        inflight_store8(&t->desc[head].inflight, 0);
        head = inflight_load16(&t->desc[head].next);
    }
    KILL_POINT();
    inflight_store16(&t->used_idx, used_idx);

    int count = 0;
    for (unsigned i = 0; i < size; i++)
        if (inflight_load8(&t->desc[i].inflight))
            chains[count++] =
                (struct inflight_chain){.counter = inflight_load64(&t->desc[i].counter), .head = (uint16_t)i};
    qsort(chains, (size_t)count, sizeof chains[0], oldest_first);
    return count;
}

/* Forwards when the last publication was seen by the driver, back when it was not. Returns the head of the free list
 * that holds then, unchecked. */
static uint16_t settle_packed(struct inflight_packed *t, struct inflight_packed_used *u, bool first_is_used)
{
    uint16_t free_head;
    if (inflight_packed_undecided(*u) && first_is_used) {
        free_head = inflight_load16(&t->free_head);
        inflight_store16(&t->old_free_head, free_head);
        KILL_POINT();
        u->old_used_idx = u->used_idx;
        u->old_used_wrap_counter = u->used_wrap_counter;
    } else {
        free_head = inflight_load16(&t->old_free_head);
        inflight_store16(&t->free_head, free_head);
        KILL_POINT();
        u->used_idx = u->old_used_idx;
        u->used_wrap_counter = u->old_used_wrap_counter;
    }
    inflight_packed_store_used(t, *u);
    KILL_POINT();
    return free_head;
}

/* Note the links from head on, all of entries not noted before. Returns how many, at most max, or -EPROTO. */
static int follow(struct inflight_packed *t, uint16_t size, uint16_t head, unsigned max, bool to_end, uint16_t *links,
                  uint16_t *last)
{
    unsigned n = 0;
    for (; n < max && head < size; n++) {
        if (links[head] != UNSEEN) return -EPROTO;
        uint16_t next = inflight_load16(&t->desc[head].next);
        links[head] = next < size ? next : size;
        *last = head;
        head = links[head];
    }
    return to_end && head < size ? -EPROTO : (int)n;
}

int inflight_packed_resume(struct inflight_packed *t, uint16_t size, struct inflight_packed_used *used,
                           bool first_is_used, struct inflight_chain *chains, uint16_t *free_list, uint16_t *free_head)
{
    uint16_t head = settle_packed(t, used, first_is_used);
    for (unsigned i = 0; i < size; i++)
        free_list[i] = UNSEEN;
    uint16_t last;
    *free_head = head < size ? head : size;
    int seen = follow(t, size, *free_head, size, true, free_list, &last);
    if (seen < 0) return seen;
    /* A chain that was being popped is marked but still in the free list. */
    for (unsigned i = 0; i < size; i++)
        if (free_list[i] != UNSEEN) inflight_store8(&t->desc[i].inflight, 0);

    int count = 0;
    for (unsigned i = 0; i < size; i++) {
        const struct inflight_packed_desc *shared = &t->desc[i];
        if (!inflight_load8(&shared->inflight)) continue;
        struct inflight_packed_desc d = {.num = inflight_load16(&shared->num),
                                         .last = inflight_load16(&shared->last),
                                         .counter = inflight_load64(&shared->counter)};
        int n = d.num ? follow(t, size, (uint16_t)i, d.num, false, free_list, &last) : -EPROTO;
        if (n != d.num || last != d.last) return -EPROTO;
        chains[count++] =
            (struct inflight_chain){d.counter, (uint16_t)i, last, d.num, inflight_load16(&t->desc[last].id)};
        seen += n;
    }
    if (seen != size) return -EPROTO;
    qsort(chains, (size_t)count, sizeof chains[0], oldest_first);
    return count;
}
