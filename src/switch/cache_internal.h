/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of the cache. */
#ifndef SWITCH_CACHE_INTERNAL_H
#define SWITCH_CACHE_INTERNAL_H

#include "switch/cache.h"

#define BUCKET_SLOTS 8u

/* Filled from the front; when it is full, the one beside it (number ^ 1) may have more. Signatures are all of the hash, so that
 * a table grows without a look at its megaflows.
 *
 * A table grows by linear hashing, pair by pair: of twice as many buckets, bucket_count are there; what would be in a later one is
 * still in the one half as far. So no new megaflow waits until a hundred thousand others have moved. */
struct bucket {
    _Alignas(64) uint32_t sig[BUCKET_SLOTS]; /* odd; 0: empty */
    uint32_t line[BUCKET_SLOTS];
};

static inline uint32_t cache_bucket(const struct subtable *t, uint32_t sig)
{
    uint32_t i = sig >> 1 & t->bucket_mask;
    if (__builtin_expect(t->bucket_count > t->bucket_mask, true)) return i;
    uint32_t later = -(uint32_t)(i >= t->bucket_count); /* no branch: nobody could foretell it */
    return i & ~(later & (t->bucket_mask ^ t->bucket_mask >> 1));
}

/* Multiply to 128 bits and fold: every bit of both has a part in every bit of the result. */
static inline uint64_t cache_mix(uint64_t a, uint64_t b)
{
    unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

/* The signature of a key in a subtable. */
static inline uint32_t cache_hash(const struct cache *c, const struct subtable *t, const struct flow_key *k)
{
    uint64_t h = c->seed[6];
    unsigned i = 0;
    for (; i + 1 < t->words; i += 2) {
        uint64_t a = k->words[t->index[i]] & t->mask[i], b = k->words[t->index[i + 1]] & t->mask[i + 1];
        h = (h << 9 | h >> 55) ^ cache_mix(a ^ c->seed[0], b ^ c->seed[1]);
    }
    if (i < t->words) h = (h << 9 | h >> 55) ^ cache_mix((k->words[t->index[i]] & t->mask[i]) ^ c->seed[2], c->seed[3]);
    return (uint32_t)(h ^ h >> 32) | 1;
}

static inline bool cache_is_key(const struct subtable *t, const struct megaflow *m, const struct flow_key *k)
{
    uint64_t differ = 0;
    for (unsigned i = 0; i < t->words; i++)
        differ |= (k->words[t->index[i]] & t->mask[i]) ^ m->key[i];
    return differ == 0;
}

/* ---- cache_lookup.c ---- */

/* The line of a key in a subtable, or 0. */
uint32_t cache_table_find(const struct cache *c, const struct subtable *t, uint32_t sig, const struct flow_key *k);

/* ---- cache_table.c ---- */

/* The subtable for a new megaflow of this mask, which may be given another mask, with more bits. NULL: no memory. */
struct subtable *cache_table_for(struct cache *c, struct cache_port *p, const struct flow_key *mask);
/* An empty one. */
void cache_table_drop(struct cache *c, struct subtable *t);
/* False: no memory, or too many collisions. */
bool cache_table_insert(struct subtable *t, uint32_t sig, uint32_t line);
void cache_table_take(struct subtable *t, uint32_t sig, uint32_t line);

/* ---- cache_share.c ---- */

#define CACHE_LISTS_MIN 64u

/* With a reference; NULL: no memory. */
struct dp_list *cache_list_get(struct cache *c, const struct dp_action *a, unsigned count);
void cache_list_put(struct cache *c, struct dp_list *l);
/* What its buckets have counted. */
void cache_list_hand_on(struct dp_list *l);
bool cache_same_actions(const struct dp_list *l, const struct dp_action *a, unsigned count);
struct megaflow_path *cache_path_get(struct cache *c, const struct cache_add *a);
void cache_path_put(struct cache *c, struct megaflow_path *p);
void cache_path_count(struct cache *c, struct megaflow_path *p, struct table_counters *counters, uint64_t packets,
                      uint64_t bytes, uint64_t now_ns);

/* ---- cache_memory.c ---- */

/* Zeroed, and taken from the system as it is used. NULL: no memory. */
void *cache_map(size_t bytes);
void cache_unmap(void *p, size_t bytes);
/* Bring it in at once, where a page fault for each page would take much longer; where the system cannot do that there is one. */
void cache_populate(void *p, size_t bytes);

#endif
