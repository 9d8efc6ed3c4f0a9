/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The look-up of a burst. Each stage goes over all packets that are still without an answer: hash and prefetch, then
 * find, then compare; so that the memory latency of one packet is spent on the others.
 */
#include "switch/cache_internal.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define BURST 32u
#define EXACT_SAMPLE 4096u /* packets, after which the exact-match cache is judged */
#define EXACT_PAUSE 65536u /* packets that it is left alone when it hits less than half of the time */

/* A bit per slot. */
static inline unsigned slots_with(const struct bucket *b, uint32_t sig)
{
#ifdef __SSE2__
    __m128i s = _mm_set1_epi32((int)sig);
    __m128i low = _mm_cmpeq_epi32(_mm_load_si128((const __m128i *)(const void *)&b->sig[0]), s);
    __m128i high = _mm_cmpeq_epi32(_mm_load_si128((const __m128i *)(const void *)&b->sig[4]), s);
    return (unsigned)_mm_movemask_epi8(_mm_packs_epi16(_mm_packs_epi32(low, high), _mm_setzero_si128()));
#else
    unsigned bits = 0;
    for (unsigned i = 0; i < BUCKET_SLOTS; i++)
        bits |= (unsigned)(b->sig[i] == sig) << i;
    return bits;
#endif
}

uint32_t cache_table_find(const struct cache *c, const struct subtable *t, uint32_t sig, const struct flow_key *k)
{
    for (unsigned side = 0; side < 2; side++) {
        const struct bucket *b = &t->buckets[cache_bucket(t, sig) ^ side];
        for (unsigned bits = slots_with(b, sig); bits; bits &= bits - 1) {
            uint32_t line = b->line[__builtin_ctz(bits)];
            if (cache_is_key(t, cache_megaflow(c, line), k)) return line;
        }
        if (!b->sig[BUCKET_SLOTS - 1]) break;
    }
    return 0;
}

uint32_t cache_find_beside(const struct cache *c, uint32_t line, const struct flow_key *k)
{
    const struct subtable *t = c->cold[line].table;
    return cache_table_find(c, t, cache_hash(c, t, k), k);
}

bool cache_holds(const struct cache *c, uint32_t line, uint32_t generation, const struct flow_key *k)
{
    const struct megaflow *m = cache_megaflow(c, line);
    return m->generation == generation && cache_is_key(c->cold[line].table, m, k);
}

/* Packets that are still looked for. */
struct burst {
    const struct flow_key *const *keys;
    uint32_t *lines;
    unsigned left;
    uint8_t at[BURST];
    uint64_t whole_hash[BURST]; /* of all of the key */
};

/* One packet's way through a subtable, in three steps. */
struct probe {
    struct subtable *table;
    const struct bucket *bucket;
    uint32_t sig;
    uint32_t line; /* UINT32_MAX: perhaps beside its bucket */
};

static inline void probe_hash(const struct cache *c, struct probe *p, const struct flow_key *k)
{
    p->sig = cache_hash(c, p->table, k);
    p->bucket = &p->table->buckets[cache_bucket(p->table, p->sig)];
    __builtin_prefetch(p->bucket);
}

static inline void probe_find(const struct cache *c, struct probe *p)
{
    const struct bucket *b = p->bucket;
    unsigned bits = slots_with(b, p->sig);
    p->line = bits ? b->line[__builtin_ctz(bits)] : 0;
    __builtin_prefetch(cache_megaflow(c, p->line));
    if (p->table->words > 4) __builtin_prefetch((const uint8_t *)cache_megaflow(c, p->line) + 64);
    if (!bits && b->sig[BUCKET_SLOTS - 1]) p->line = UINT32_MAX;
}

static inline uint32_t probe_compare(const struct cache *c, const struct probe *p, const struct flow_key *k)
{
    uint32_t line = p->line;
    if (line && (line == UINT32_MAX || !cache_is_key(p->table, cache_megaflow(c, line), k)))
        line = cache_table_find(c, p->table, p->sig, k);
    return line;
}

static uint8_t *hint_of(const struct cache *c, uint64_t hash)
{
    return &c->hints[hash >> 20 & (CACHE_HINTS - 1)];
}

/* hint: note where each packet was found. */
static void probe_table(const struct cache *c, struct subtable *t, struct burst *b, bool hint)
{
    struct probe probes[BURST];
    for (unsigned i = 0; i < b->left; i++) {
        probes[i].table = t;
        probe_hash(c, &probes[i], b->keys[b->at[i]]);
    }
    for (unsigned i = 0; i < b->left; i++)
        probe_find(c, &probes[i]);
    unsigned left = 0;
    for (unsigned i = 0; i < b->left; i++) {
        unsigned at = b->at[i];
        b->lines[at] = probe_compare(c, &probes[i], b->keys[at]);
        if (!b->lines[at]) b->at[left++] = (uint8_t)at;
        else if (hint) *hint_of(c, b->whole_hash[at]) = t->id;
    }
    t->hits += b->left - left;
    b->left = left;
}

/* ---- hints ---- */

/* Each packet in the subtable where its like was found last. */
static void probe_hinted(const struct cache *c, const struct cache_port *p, struct burst *b)
{
    struct probe probes[BURST];
    unsigned left = 0;
    for (unsigned i = 0; i < b->left; i++) {
        unsigned at = b->at[i];
        probes[i].table = p->by_id[*hint_of(c, b->whole_hash[at])];
        if (probes[i].table) probe_hash(c, &probes[i], b->keys[at]);
    }
    for (unsigned i = 0; i < b->left; i++)
        if (probes[i].table) probe_find(c, &probes[i]);
    for (unsigned i = 0; i < b->left; i++) {
        unsigned at = b->at[i];
        b->lines[at] = probes[i].table ? probe_compare(c, &probes[i], b->keys[at]) : 0;
        if (b->lines[at]) probes[i].table->hits++;
        else b->at[left++] = (uint8_t)at;
    }
    b->left = left;
}

/* ---- the exact-match cache ---- */

static const uint8_t exact_words[7] = {0, 1, 2, 3, 6, 7, 8};

static uint64_t whole_hash(const struct cache *c, const struct flow_key *k)
{
    uint64_t h = cache_mix(k->words[6] ^ c->seed[0], k->words[8] ^ c->seed[1]);
    h ^= cache_mix(k->words[1] ^ c->seed[2], k->words[2] ^ c->seed[3]);
    h += cache_mix(k->words[7] ^ c->seed[4], k->words[3] ^ k->words[0] ^ c->seed[5]);
    return h ^ h >> 32;
}

/* Of keys that are not short: IPv6, ARP, labels. */
static uint64_t long_hash(const struct cache *c, const struct flow_key *k)
{
    uint64_t h = c->seed[7];
    for (unsigned i = 1; i + 1 < FLOW_KEY_PACKET_WORDS; i += 2)
        h = (h << 9 | h >> 55) ^ cache_mix(k->words[i] ^ c->seed[0], k->words[i + 1] ^ c->seed[1]);
    return h ^ h >> 32;
}
static_assert(FLOW_KEY_PACKET_WORDS % 2 == 1, "all but the first word, in pairs");

static struct exact_entry *exact_set(const struct cache *c, uint64_t hash)
{
    return &c->exact[hash & (c->config.emc_entries - 1) & ~UINT64_C(1)];
}

static bool exact_is(const struct cache *c, const struct exact_entry *e, const struct flow_key *k)
{
    uint64_t differ = e->line == 0;
    for (unsigned i = 0; i < 7; i++)
        differ |= e->key[i] ^ k->words[exact_words[i]];
    return differ == 0 && cache_megaflow(c, e->line)->generation == e->generation;
}

static void hash_whole(const struct cache *c, uint32_t is_short, bool exact, struct burst *b)
{
    for (unsigned i = 0; i < b->left; i++) {
        unsigned at = b->at[i];
        bool fits = is_short >> at & 1;
        b->whole_hash[at] = fits ? whole_hash(c, b->keys[at]) : long_hash(c, b->keys[at]);
        __builtin_prefetch(hint_of(c, b->whole_hash[at]));
        if (!exact || !fits) continue;
        __builtin_prefetch(exact_set(c, b->whole_hash[at]));
        __builtin_prefetch(exact_set(c, b->whole_hash[at]) + 1);
    }
}

static void probe_exact(struct cache *c, struct cache_port *p, uint32_t is_short, struct burst *b)
{
    unsigned left = 0, tried = 0, all = b->left;
    for (unsigned i = 0; i < all; i++) {
        unsigned at = b->at[i];
        if (is_short >> at & 1) {
            const struct exact_entry *e = exact_set(c, b->whole_hash[at]);
            tried++;
            if (!exact_is(c, e, b->keys[at]) && !exact_is(c, ++e, b->keys[at])) e = NULL;
            b->lines[at] = e ? e->line : 0;
            if (e) continue;
        }
        b->at[left++] = (uint8_t)at;
    }
    b->left = left;
    p->exact_tried += tried;
    p->exact_hit += all - left;
    c->stats.emc_hits += all - left;
}

static void exact_add(struct cache *c, const struct flow_key *k, uint64_t hash, uint32_t line)
{
    struct exact_entry *e = exact_set(c, hash);
    if (e->line && cache_megaflow(c, e->line)->generation == e->generation) e += hash >> 40 & 1;
    for (unsigned i = 0; i < 7; i++)
        e->key[i] = k->words[exact_words[i]];
    e->line = line;
    e->generation = cache_megaflow(c, line)->generation;
}

/* With a single mask it would cost as much as it saves; with more connections than it holds, more. */
static bool exact_worth(struct cache *c, struct cache_port *p, unsigned count)
{
    if (!c->exact) return false;
    if (p->exact_pause) {
        p->exact_pause -= p->exact_pause < count ? p->exact_pause : count;
        return false;
    }
    if (p->exact_tried < EXACT_SAMPLE) return true;
    if (p->exact_hit < p->exact_tried / 2) p->exact_pause = EXACT_PAUSE;
    p->exact_tried = p->exact_hit = 0;
    return true;
}

static uint32_t still_left(const struct burst *b)
{
    uint32_t bits = 0;
    for (unsigned i = 0; i < b->left; i++)
        bits |= UINT32_C(1) << b->at[i];
    return bits;
}

void cache_lookup(struct cache *c, struct cache_port *p, const struct flow_key *const *keys, unsigned count,
                  uint32_t is_short, uint32_t *lines)
{
    struct burst b = {.keys = keys, .lines = lines, .left = count};
    for (unsigned i = 0; i < count; i++) {
        b.at[i] = (uint8_t)i;
        lines[i] = 0;
    }
    if (!p->tables) return;
    if (!p->tables->next) { /* with a single mask nothing else is cheaper */
        probe_table(c, p->tables, &b, false);
        c->stats.megaflow_hits += count - b.left;
        return;
    }
    bool exact = exact_worth(c, p, count);
    hash_whole(c, is_short, exact, &b);
    if (exact) probe_exact(c, p, is_short, &b);
    uint32_t elsewhere = still_left(&b);
    unsigned misses = b.left;
    probe_hinted(c, p, &b);
    for (struct subtable *t = p->tables; t && b.left; t = t->next)
        probe_table(c, t, &b, true);
    c->stats.megaflow_hits += misses - b.left;
    for (elsewhere &= is_short; exact && elsewhere; elsewhere &= elsewhere - 1) {
        unsigned at = (unsigned)__builtin_ctz(elsewhere);
        if (lines[at]) exact_add(c, keys[at], b.whole_hash[at], lines[at]);
    }
}
