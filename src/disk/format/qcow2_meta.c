/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which host clusters hold the image's own tables, so that nothing is ever written over them by
 * mistake: an image whose entries point into its own metadata is found out before it is harmed further.
 *
 * Tables of several clusters are ranges in a sorted array (a few, plus one per internal snapshot);
 * single clusters (L2 tables, refcount blocks) are in a hash, one word each.
 */
#include "disk/format/qcow2_impl.h"

#include <stdlib.h>
#include <string.h>

#define HASH_MIN 64u

static const char *const names[] = {
    [QCOW2_META_NONE] = "data",
    [QCOW2_META_HEADER] = "the header",
    [QCOW2_META_L1] = "the L1 table",
    [QCOW2_META_REFTABLE] = "the refcount table",
    [QCOW2_META_REFBLOCK] = "a refcount block",
    [QCOW2_META_L2] = "an L2 table",
    [QCOW2_META_SNAPSHOTS] = "the snapshot table",
    [QCOW2_META_SNAPSHOT_L1] = "a snapshot's L1 table",
    [QCOW2_META_BITMAPS] = "the bitmap directory",
};
static_assert(ARRAY_LEN(names) == QCOW2_META_COUNT, "a name for every type");

const char *qcow2_meta_name(enum qcow2_meta_type type)
{
    return names[type];
}

void qcow2_meta_free(struct qcow2_meta *m)
{
    free(m->ranges);
    free(m->slots);
    memset(m, 0, sizeof *m);
}

/* ---- hash of single clusters; never holds more than half of its slots ---- */

static uint64_t hash_slot(const struct qcow2_meta *m, uint64_t cluster)
{
    uint64_t h = cluster * UINT64_C(0x9e3779b97f4a7c15);
    uint64_t i = (h >> 32) & m->slot_mask;
    while (m->slots[i] && m->slots[i] >> 8 != cluster)
        i = (i + 1) & m->slot_mask;
    return i;
}

static int hash_grow(struct qcow2_meta *m)
{
    if (m->slots && (m->slot_used + 1) * 2 <= m->slot_mask + 1) return 0;
    struct qcow2_meta bigger = {.slot_mask = m->slots ? m->slot_mask * 2 + 1 : HASH_MIN - 1};
    bigger.slots = calloc(bigger.slot_mask + 1, sizeof *bigger.slots);
    if (!bigger.slots) return -ENOMEM;
    for (uint64_t i = 0; m->slots && i <= m->slot_mask; i++)
        if (m->slots[i]) bigger.slots[hash_slot(&bigger, m->slots[i] >> 8)] = m->slots[i];
    free(m->slots);
    m->slots = bigger.slots;
    m->slot_mask = bigger.slot_mask;
    return 0;
}

static void hash_remove(struct qcow2_meta *m, uint64_t cluster)
{
    if (!m->slots) return;
    uint64_t i = hash_slot(m, cluster);
    if (!m->slots[i]) return;
    m->slots[i] = 0;
    m->slot_used--;
    /* Those behind it in the same cluster of slots may have to move up. */
    for (uint64_t j = (i + 1) & m->slot_mask; m->slots[j]; j = (j + 1) & m->slot_mask) {
        uint64_t word = m->slots[j];
        m->slots[j] = 0;
        m->slots[hash_slot(m, word >> 8)] = word;
    }
}

/* ---- ranges ---- */

/* The first range that ends past `cluster`. */
static unsigned range_after(const struct qcow2_meta *m, uint64_t cluster)
{
    unsigned low = 0, high = m->range_count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (m->ranges[middle].first + m->ranges[middle].count > cluster) high = middle;
        else low = middle + 1;
    }
    return low;
}

static int range_insert(struct qcow2_meta *m, uint64_t first, uint64_t count, enum qcow2_meta_type type)
{
    if (m->range_count == m->range_max) {
        unsigned max = m->range_max ? m->range_max * 2 : 8;
        void *bigger = realloc(m->ranges, max * sizeof *m->ranges);
        if (!bigger) return -ENOMEM;
        m->ranges = bigger;
        m->range_max = max;
    }
    unsigned at = range_after(m, first);
    memmove(m->ranges + at + 1, m->ranges + at, (m->range_count - at) * sizeof *m->ranges);
    m->ranges[at] = (struct qcow2_meta_range){first, count, type};
    m->range_count++;
    return 0;
}

/* ---- both ---- */

enum qcow2_meta_type qcow2_meta_at(const struct qcow2_meta *m, uint64_t cluster)
{
    unsigned at = range_after(m, cluster);
    if (at < m->range_count && m->ranges[at].first <= cluster) return m->ranges[at].type;
    return m->slots ? (enum qcow2_meta_type)(m->slots[hash_slot(m, cluster)] & 0xff) : QCOW2_META_NONE;
}

uint64_t qcow2_meta_find(const struct qcow2_meta *m, uint64_t first, uint64_t count)
{
    for (uint64_t cluster = first; cluster < first + count; cluster++)
        if (qcow2_meta_at(m, cluster)) return cluster;
    return first + count;
}

static bool is_single(enum qcow2_meta_type type)
{
    return type == QCOW2_META_L2 || type == QCOW2_META_REFBLOCK;
}

/* Does a single cluster that is known lie in the range? Walks whichever is shorter. */
static enum qcow2_meta_type single_inside(const struct qcow2_meta *m, uint64_t first, uint64_t count)
{
    if (!m->slots) return QCOW2_META_NONE;
    if (count <= m->slot_mask) {
        for (uint64_t cluster = first; cluster < first + count; cluster++)
            if (m->slots[hash_slot(m, cluster)]) return (enum qcow2_meta_type)(m->slots[hash_slot(m, cluster)] & 0xff);
        return QCOW2_META_NONE;
    }
    for (uint64_t i = 0; i <= m->slot_mask; i++)
        if (m->slots[i] && (m->slots[i] >> 8) - first < count) return (enum qcow2_meta_type)(m->slots[i] & 0xff);
    return QCOW2_META_NONE;
}

int qcow2_meta_add(struct qcow2_meta *m, uint64_t first, uint64_t count, enum qcow2_meta_type type,
                   enum qcow2_meta_type *other)
{
    if (count == 0) return 0;
    unsigned at = range_after(m, first);
    *other = at < m->range_count && m->ranges[at].first < first + count ? m->ranges[at].type
                                                                        : single_inside(m, first, count);
    if (*other) return -EEXIST;
    if (!is_single(type)) return range_insert(m, first, count, type);
    assert(count == 1);
    int ret = hash_grow(m);
    if (ret < 0) return ret;
    m->slots[hash_slot(m, first)] = first << 8 | (uint64_t)type;
    m->slot_used++;
    return 0;
}

void qcow2_meta_remove(struct qcow2_meta *m, uint64_t first, uint64_t count)
{
    unsigned at = range_after(m, first);
    if (at < m->range_count && m->ranges[at].first == first && m->ranges[at].count == count) {
        m->range_count--;
        memmove(m->ranges + at, m->ranges + at + 1, (m->range_count - at) * sizeof *m->ranges);
        return;
    }
    for (uint64_t i = 0; i < count; i++)
        hash_remove(m, first + i);
}
