/* SPDX-License-Identifier: Apache-2.0 */
/* For the oracle's test: what frames were counted for, compared with what the interpreter says that they came to. */
#ifndef SWITCH_ORACLE_COUNTS_H
#define SWITCH_ORACLE_COUNTS_H

#include "switch/bridge.h"
#include "switch/group_internal.h"
#include "switch/naive.h"

#define ORACLE_GROUPS_MOST 1000u /* that one frame comes to: with more, and their buckets, some may not count */

struct oracle_sum {
    uint64_t packets, bytes;
};
struct oracle_counts {
    struct oracle_sum flows[NAIVE_FLOWS], groups[NAIVE_GROUPS], buckets[NAIVE_GROUPS][NAIVE_BUCKETS];
    uint64_t lookups[NAIVE_TABLES];
};

static inline void oracle_counts_read(struct bridge *b, const struct naive *n, struct oracle_counts *out)
{
    switch_fold(b->sw);
    for (unsigned i = 0; i < n->count; i++) {
        const struct flow_spec *f = &n->flows[i];
        struct flow *have = table_find(&b->tables[f->table], &f->match, f->priority);
        assert_non_null(have);
        out->flows[i] = (struct oracle_sum){atomic_load(&have->packets), atomic_load(&have->bytes)};
    }
    for (uint32_t id = 0; id < NAIVE_GROUPS; id++) {
        const struct flow_group *g = n->has_group[id] ? group_find(b, id) : NULL;
        if (!g) continue;
        out->groups[id] =
            (struct oracle_sum){atomic_load(&g->totals->of[0].packets), atomic_load(&g->totals->of[0].bytes)};
        for (unsigned i = 0; i < g->spec.count; i++)
            out->buckets[id][i] =
                (struct oracle_sum){atomic_load(&g->buckets->of[i].packets), atomic_load(&g->buckets->of[i].bytes)};
    }
    for (unsigned t = 0; t < NAIVE_TABLES; t++)
        out->lookups[t] = atomic_load(&b->counters[t].lookups);
}

static inline void oracle_more_by(struct oracle_sum was, struct oracle_sum is, uint64_t frames, unsigned length,
                                  const char *what, unsigned number)
{
    if (is.packets - was.packets != frames || is.bytes - was.bytes != frames * length)
        fail_msg("%s %u counted %lu frames and %lu bytes, not %lu frames of %u", what, number,
                 (unsigned long)(is.packets - was.packets), (unsigned long)(is.bytes - was.bytes),
                 (unsigned long)frames, length);
}

/* Between the two there were so many frames of which the interpreter says the same. */
static inline void oracle_counts_check(const struct naive *n, const struct naive_result *said,
                                       const struct oracle_counts *was, const struct oracle_counts *is, unsigned frames,
                                       unsigned length)
{
    unsigned groups = 0;
    for (unsigned i = 0; i < n->count; i++)
        oracle_more_by(was->flows[i], is->flows[i], said->hit[i] ? frames : 0, length, "flow", i);
    for (uint32_t id = 0; id < NAIVE_GROUPS; id++)
        groups += said->groups[id];
    for (uint32_t id = 0; id < NAIVE_GROUPS && groups <= ORACLE_GROUPS_MOST; id++)
        if (n->has_group[id])
            oracle_more_by(was->groups[id], is->groups[id], (uint64_t)said->groups[id] * frames, length, "group", id);
    for (uint32_t id = 0; id < NAIVE_GROUPS && groups <= ORACLE_GROUPS_MOST; id++)
        for (unsigned i = 0; n->has_group[id] && i < n->groups[id].count; i++)
            oracle_more_by(was->buckets[id][i], is->buckets[id][i], (uint64_t)said->buckets[id][i] * frames, length,
                           "bucket", i);
    for (unsigned t = 0; t < NAIVE_TABLES; t++)
        assert_int_equal(is->lookups[t] - was->lookups[t], said->tables >> t & 1 ? frames : 0);
}

#endif
