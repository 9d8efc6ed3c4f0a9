/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In-flight tables: which chains a device has popped and not given back, in shared memory that
 * outlives it. The layouts and the algorithms are those of the vhost-user specification, "Inflight I/O tracking"; front
 * ends keep the region and hand it to the next back end, whoever wrote that. Numbers are in
 * the machine's own byte order. Private to ring/.
 *
 * The process may be killed between any two instructions. What it stored before is in the table then and nothing after,
 * so what counts is the order of stores in the program: KILL_POINT() is where that order
 * matters. (No other thread reads the table while a process writes it, so the processor's own order is of no concern.)
 *
 * The table is written by us but shared with the front end, which may change it at any moment: it is read only when a
 * queue resumes, every word once, into private memory, and what was read is checked there.
 */
#ifndef RING_INFLIGHT_H
#define RING_INFLIGHT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"

#define INFLIGHT_VERSION 1

#define KILL_POINT() atomic_signal_fence(memory_order_seq_cst)

struct inflight_split_desc {
    uint8_t inflight;
    uint8_t padding[5];
    uint16_t next; /* last batch of used chains: the one pushed before this */
    uint64_t counter;
};

struct inflight_split {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct inflight_split_desc desc[];
};

struct inflight_packed_desc {
    uint8_t inflight;
    uint8_t padding;
    uint16_t next; /* free list, and from entry to entry of a chain */
    uint16_t last; /* this and the next two: in a chain's first entry */
    uint16_t num;
    uint64_t counter;
    uint16_t id;
    uint16_t flags;
    uint32_t len;
    uint64_t addr;
};

/* Where the device writes its next used descriptor, now and as of the last finished publication. One 64-bit word (with
 * padding), so that an index never changes without its wrap counter. */
struct inflight_packed_used {
    uint16_t used_idx;
    uint16_t old_used_idx;
    uint8_t used_wrap_counter;
    uint8_t old_used_wrap_counter;
    uint8_t padding[2];
};

struct inflight_packed {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
    uint16_t free_head;
    uint16_t old_free_head;
    struct inflight_packed_used used;
    uint8_t padding[8];
    struct inflight_packed_desc desc[];
};

_Static_assert(sizeof(struct inflight_split_desc) == 16 && sizeof(struct inflight_split) == 16, "specified layout");
_Static_assert(sizeof(struct inflight_packed_desc) == 32 && sizeof(struct inflight_packed) == 32, "specified layout");
_Static_assert(offsetof(struct inflight_packed, used) == 16 && sizeof(struct inflight_packed_used) == 8,
               "specified layout, and one aligned word");

/* A chain that an earlier process left. */
struct inflight_chain {
    uint64_t counter;
    uint16_t head;            /* split: descriptor; packed: first entry in the table */
    uint16_t last, slots, id; /* packed only: last entry, number of entries, the driver's buffer id */
};

/* Start a table with nothing in flight. */
void inflight_split_init(struct inflight_split *t, uint16_t size, uint16_t used_idx);
void inflight_packed_init(struct inflight_packed *t, uint16_t size, uint16_t used_idx, bool used_wrap);

/* 0: a usable table; -ENODATA: one that was never started (version 0); -EINVAL with the reason. *used is the
 * table's word of that name, both indices below size: whoever goes on does so with it, not with the table's. */
int inflight_split_check(const struct inflight_split *t, uint16_t size, struct errmsg *e);
int inflight_packed_check(const struct inflight_packed *t, uint16_t size, struct inflight_packed_used *used,
                          struct errmsg *e);

/*
 * Settle what the last process left half done, and list its unfinished chains, oldest first, in
 * `chains` (room for size). used_idx is the used ring's. Returns the count, or -EPROTO
 * when the used ring or the table contradict each other.
 */
int inflight_split_resume(struct inflight_split *t, uint16_t size, uint16_t used_idx, struct inflight_chain *chains);

/*
 * The same for a packed ring. *used is what inflight_packed_check() gave, and is settled, too: old and new are the same
 * then. first_is_used tells whether the ring's descriptor at its old_used_idx has been given back since. Then
 * `free_list` holds the links of all entries, `*free_head` the list's start. -EPROTO when lists are broken.
 */
int inflight_packed_resume(struct inflight_packed *t, uint16_t size, struct inflight_packed_used *used,
                           bool first_is_used, struct inflight_chain *chains, uint16_t *free_list, uint16_t *free_head);

/* The last process was killed after it had moved used_idx: whether it had published is for the ring to say. */
static inline bool inflight_packed_undecided(struct inflight_packed_used u)
{
    return u.used_idx != u.old_used_idx || u.used_wrap_counter != u.old_used_wrap_counter;
}

static inline uint8_t inflight_load8(const uint8_t *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline uint16_t inflight_load16(const uint16_t *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline uint64_t inflight_load64(const uint64_t *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void inflight_store8(uint8_t *p, uint8_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static inline void inflight_store16(uint16_t *p, uint16_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static inline void inflight_store64(uint64_t *p, uint64_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static inline struct inflight_packed_used inflight_packed_load_used(const struct inflight_packed *t)
{
    struct inflight_packed_used used;
    uint64_t word = inflight_load64((const uint64_t *)(const void *)&t->used);
    __builtin_memcpy(&used, &word, sizeof used);
    return used;
}

static inline void inflight_packed_store_used(struct inflight_packed *t, struct inflight_packed_used used)
{
    uint64_t word;
    __builtin_memcpy(&word, &used, sizeof word);
    __atomic_store_n((uint64_t *)(void *)&t->used, word, __ATOMIC_RELAXED);
}

/* Split: popped. */
static inline void inflight_split_mark(struct inflight_split *t, uint16_t head, uint64_t counter)
{
    inflight_store64(&t->desc[head].counter, counter);
    KILL_POINT();
    inflight_store8(&t->desc[head].inflight, 1);
    KILL_POINT();
}

/* Split: pushed, not yet published. */
static inline void inflight_split_batch(struct inflight_split *t, uint16_t head, uint16_t previous)
{
    inflight_store16(&t->desc[head].next, previous);
    KILL_POINT();
    inflight_store16(&t->last_batch_head, head);
    KILL_POINT();
}

#endif
