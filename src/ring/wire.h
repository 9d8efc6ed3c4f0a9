/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What both sides of a virtqueue agree on: constants and layouts of Virtual I/O Device 1.2, sections 2.7 (split) and
 * 2.8 (packed), and the single loads and stores by which shared memory is touched. Private to ring/.
 *
 * Everything in a ring is little-endian. A field is read once, by one load; a descriptor by two.
 */
#ifndef RING_WIRE_H
#define RING_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "base/endian.h"

#define DESC_F_NEXT 1u
#define DESC_F_WRITE 2u
#define DESC_F_INDIRECT 4u
#define DESC_F_AVAIL (1u << 7) /* packed */
#define DESC_F_USED (1u << 15) /* packed */

#define DESC_BYTES 16u

/* A descriptor as copied out of shared memory. */
struct ring_desc {
    uint64_t addr;
    uint32_t length;
    uint16_t flags;
    uint16_t next_or_id; /* split: next; packed: buffer id */
};

#define SPLIT_AVAIL_F_NO_INTERRUPT 1u
#define SPLIT_USED_F_NO_NOTIFY 1u

/* Offsets within the available and the used ring. */
#define SPLIT_FLAGS 0u
#define SPLIT_IDX 2u
#define SPLIT_RING 4u
#define SPLIT_AVAIL_ENTRY 2u /* bytes of an entry */
#define SPLIT_USED_ENTRY 8u

/* Packed: the two event suppression structures. */
#define PACKED_EVENT_ENABLE 0u
#define PACKED_EVENT_DISABLE 1u
#define PACKED_EVENT_DESC 2u
#define PACKED_EVENT_BYTES 4u

/* Offsets within a packed descriptor. */
#define PACKED_LENGTH 8u
#define PACKED_ID 12u
#define PACKED_FLAGS 14u

static inline uint16_t ring_load16(const void *p)
{
    return ENDIAN_LE(16, __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED));
}

static inline uint16_t ring_load16_acquire(const void *p)
{
    return ENDIAN_LE(16, __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE));
}

static inline uint32_t ring_load32(const void *p)
{
    return ENDIAN_LE(32, __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED));
}

static inline void ring_store16(void *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)p, ENDIAN_LE(16, v), __ATOMIC_RELAXED);
}

static inline void ring_store16_release(void *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)p, ENDIAN_LE(16, v), __ATOMIC_RELEASE);
}

static inline void ring_store32(void *p, uint32_t v)
{
    __atomic_store_n((uint32_t *)p, ENDIAN_LE(32, v), __ATOMIC_RELAXED);
}

static inline void ring_store64(void *p, uint64_t v)
{
    __atomic_store_n((uint64_t *)p, ENDIAN_LE(64, v), __ATOMIC_RELAXED);
}

/* Between a store that the other side looks for and our look at what the other side stores. */
static inline void ring_full_fence(void)
{
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan" /* that gcc's sanitizer does not model fences: no data is ordered by this one */
#endif
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
}

/* Two words that may lie anywhere: an indirect table has no alignment of its own. */
struct ring_desc_words {
    uint64_t addr, rest;
} __attribute__((packed));

/* Volatile: the compiler may neither repeat nor split the loads, so what is checked is what is used. */
static inline uint64_t desc_words(const void *p, uint64_t *addr)
{
    const volatile struct ring_desc_words *w = p;
    *addr = ENDIAN_LE(64, w->addr);
    return ENDIAN_LE(64, w->rest);
}

static inline struct ring_desc split_desc_copy(const void *p)
{
    struct ring_desc d;
    uint64_t rest = desc_words(p, &d.addr);
    d.length = (uint32_t)rest;
    d.flags = (uint16_t)(rest >> 32);
    d.next_or_id = (uint16_t)(rest >> 48);
    return d;
}

static inline struct ring_desc packed_desc_copy(const void *p)
{
    struct ring_desc d;
    uint64_t rest = desc_words(p, &d.addr);
    d.length = (uint32_t)rest;
    d.next_or_id = (uint16_t)(rest >> 32);
    d.flags = (uint16_t)(rest >> 48);
    return d;
}

#endif
