/* SPDX-License-Identifier: Apache-2.0 */
/* Subtables: which one a new megaflow belongs to, and their hash tables. */
#include <stdlib.h>

#include "switch/cache_internal.h"

#define BUCKETS_MIN 4u
#define BUCKETS_COPIED                                                                                                 \
    1024u /* up to so many a table doubles; then it has a mapping for all that there may be, and grows pair by pair */
#define BUCKETS_READY 1024u /* brought into memory together */
#define LOAD_COPIED 4u      /* megaflows for each bucket, from which it grows */
#define LOAD_MAPPED 2u      /* half as many, because in buckets whose turn has not come there are twice as many */
#define GROW_STEPS 32u      /* for a megaflow that finds no room */

/* ---- one of them ---- */

static bool is_mapped(const struct subtable *t)
{
    return t->bucket_mask >= BUCKETS_COPIED;
}

static void buckets_free(const struct subtable *t)
{
    if (is_mapped(t)) cache_unmap(t->buckets, t->bucket_most * sizeof *t->buckets);
    else free(t->buckets);
}

static void table_free(struct subtable *t)
{
    if (!t) return;
    buckets_free(t);
    free(t);
}

static bool is_simple(const struct flow_key *mask)
{
    struct flow_key rest = *mask;
    rest.words[0] = 0;
    memset(&rest.eth_type, 0, sizeof rest.eth_type);
    rest.nw_proto = rest.nw_frag = 0;
    uint64_t any = 0;
    for (unsigned i = 0; i < FLOW_KEY_PACKET_WORDS; i++)
        any |= rest.words[i];
    return any == 0;
}

/* Of little worth as a hash, but quickly had. */
static uint64_t mask_sum(const struct flow_key *mask)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        sum += mask->words[i] << i | mask->words[i] >> (64 - FLOW_KEY_WORDS + i);
    return sum;
}

static struct subtable *table_new(struct cache *c, struct cache_port *p, const struct flow_key *mask)
{
    struct subtable *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    for (unsigned i = 1; i < FLOW_KEY_PACKET_WORDS; i++) {
        if (!mask->words[i]) continue;
        t->index[t->words] = (uint8_t)i;
        t->mask[t->words++] = mask->words[i];
    }
    t->port = p;
    t->whole = *mask;
    t->mask_sum = mask_sum(mask);
    t->simple = is_simple(mask);
    t->bucket_mask = BUCKETS_MIN - 1;
    t->bucket_count = BUCKETS_MIN;
    t->bucket_most = 2 * BUCKETS_COPIED;
    while (t->bucket_most < c->config.megaflows_max)
        t->bucket_most *= 2;
    t->buckets = aligned_alloc(64, BUCKETS_MIN * sizeof *t->buckets);
    if (!t->buckets) {
        free(t);
        return NULL;
    }
    memset(t->buckets, 0, BUCKETS_MIN * sizeof *t->buckets);
    struct subtable **at = &p->tables; /* last: it has no hits yet */
    while (*at)
        at = &(*at)->next;
    *at = t;
    for (unsigned i = 1; i < CACHE_HINTED && !t->id; i++)
        if (!p->by_id[i]) t->id = (uint8_t)i;
    if (t->id) p->by_id[t->id] = t;
    p->masks++;
    c->stats.masks++;
    return t;
}

void cache_table_drop(struct cache *c, struct subtable *t)
{
    struct subtable **at = &t->port->tables;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    if (t->port->full == t) t->port->full = NULL;
    if (t->port->recent == t) t->port->recent = NULL;
    t->port->by_id[t->id] = NULL;
    t->port->masks--;
    c->stats.masks--;
    table_free(t);
}

/* ---- which one ---- */

/* All bits that a packet can have. */
static void mask_full(struct flow_key *m)
{
    memset(m, 0, sizeof *m);
    for (unsigned i = 0; i < FLOW_KEY_PACKET_WORDS; i++)
        m->words[i] = UINT64_MAX;
}

static struct subtable *subtable_find(const struct cache_port *p, const struct flow_key *mask)
{
    if (p->recent && memcmp(&p->recent->whole, mask, sizeof *mask) == 0) return p->recent;
    uint64_t sum = mask_sum(mask);
    for (struct subtable *t = p->tables; t; t = t->next)
        if (t->mask_sum == sum && memcmp(&t->whole, mask, sizeof *mask) == 0) return t;
    return NULL;
}

/* Where its last bit is, up to a step, all from the first bit on. */
static uint32_t prefix_over(uint32_t mask, unsigned step)
{
    if (mask == 0) return 0;
    unsigned length = 32 - (unsigned)__builtin_ctz(mask);
    length = (length + step - 1) / step * step;
    return length >= 32 ? UINT32_MAX : UINT32_MAX << (32 - length);
}

static void widen_ipv4(struct be32 *mask, unsigned step)
{
    *mask = be32_make(prefix_over(be32_get(*mask), step));
}

static void widen_port(struct be16 *mask, unsigned step)
{
    *mask = be16_make((uint16_t)(prefix_over((uint32_t)be16_get(*mask) << 16, step) >> 16));
}

static void widen_bytes(uint8_t *mask, size_t bytes)
{
    size_t used = bytes;
    while (used && mask[used - 1] == 0)
        used--;
    memset(mask, 0xff, used > 3 ? bytes : used);
}

/* More bits than were looked at, but fewer kinds of masks: a 1 bit too many is never wrong. */
static void widen(struct flow_key *m, bool coarse)
{
    widen_ipv4(&m->ipv4_src, coarse ? 8 : 4);
    widen_ipv4(&m->ipv4_dst, coarse ? 8 : 4);
    widen_port(&m->tp_src, coarse ? 16 : 8);
    widen_port(&m->tp_dst, coarse ? 16 : 8);
    widen_bytes(m->eth_src, 6);
    widen_bytes(m->eth_dst, 6);
    for (unsigned i = 9; i <= 12; i++)
        if (m->words[i]) m->words[i] = UINT64_MAX;
    if (m->nw_tos) m->nw_tos = 0xff;
    if (m->nw_ttl) m->nw_ttl = 0xff;
    if (be16_get(m->tcp_flags)) m->tcp_flags = be16_make(UINT16_MAX);
}

/* Up to a quarter of the masks that a port may have are as they come; then they are widened a little, from half on more, and in the
 * end its full mask serves for all. */
struct subtable *cache_table_for(struct cache *c, struct cache_port *p, const struct flow_key *mask)
{
    unsigned max = c->config.masks_max;
    struct subtable *t = subtable_find(p, mask);
    if (t) return t;
    struct flow_key m = *mask;
    if (p->masks >= max / 4) {
        widen(&m, false);
        t = subtable_find(p, &m);
    }
    if (!t && p->masks >= max / 2) {
        widen(&m, true);
        t = subtable_find(p, &m);
    }
    if (t) return t;
    if (p->masks < max) return table_new(c, p, &m);
    if (p->full) return p->full;
    mask_full(&m);
    return p->full = table_new(c, p, &m);
}

/* ---- its hash table ---- */

static void bucket_put(struct bucket *b, unsigned i, uint32_t sig, uint32_t line)
{
    b->sig[i] = sig;
    b->line[i] = line;
}

static unsigned bucket_room(const struct bucket *b)
{
    unsigned i = 0;
    while (i < BUCKET_SLOTS && b->sig[i])
        i++;
    return i;
}

/* In its bucket, or the one beside it. */
static bool table_put(struct subtable *t, uint32_t sig, uint32_t line)
{
    for (unsigned side = 0; side < 2; side++) {
        struct bucket *b = &t->buckets[cache_bucket(t, sig) ^ side];
        unsigned i = bucket_room(b);
        if (i == BUCKET_SLOTS) continue;
        bucket_put(b, i, sig, line);
        return true;
    }
    return false;
}

/* What is in a pair of buckets goes to this pair and the one that is `far` behind it, which is empty: there is always room. */
static void split(struct bucket *pair, uint32_t far)
{
    const struct bucket old[2] = {pair[0], pair[1]};
    struct bucket *const homes[4] = {pair, pair + 1, pair + far, pair + far + 1};
    unsigned counts[4] = {0};
    memset(pair, 0, sizeof old);
    for (unsigned side = 0; side < 2; side++)
        for (unsigned i = 0; i < BUCKET_SLOTS && old[side].sig[i]; i++) {
            uint32_t sig = old[side].sig[i];
            unsigned home = (sig >> 1 & 1) | (sig >> 1 & far ? 2 : 0);
            home ^= counts[home] == BUCKET_SLOTS;
            bucket_put(homes[home], counts[home]++, sig, old[side].line[i]);
        }
}

/* Other memory for twice as many buckets, or for all that there may be. */
static bool buckets_move(struct subtable *t)
{
    bool copied = t->bucket_count < BUCKETS_COPIED;
    size_t bytes = t->bucket_count * sizeof *t->buckets;
    struct bucket *b = copied ? aligned_alloc(64, 2 * bytes) : cache_map(t->bucket_most * sizeof *b);
    if (!b) return false;
    memcpy(b, t->buckets, bytes);
    if (copied) memset(b + t->bucket_count, 0, bytes);
    buckets_free(t);
    t->buckets = b;
    t->bucket_ready = copied ? 2 * t->bucket_count : t->bucket_count;
    return true;
}

static void add_pair(struct subtable *t)
{
    if (t->bucket_count == t->bucket_ready) {
        cache_populate(t->buckets + t->bucket_ready, BUCKETS_READY * sizeof *t->buckets);
        t->bucket_ready += BUCKETS_READY;
    }
    uint32_t far = t->bucket_mask / 2 + 1;
    split(&t->buckets[t->bucket_count - far], far);
    t->bucket_count += 2;
}

/* Twice as large while it is small, then by a pair. False: no memory, or too many collisions. */
static bool table_grow(struct subtable *t)
{
    if (t->bucket_count > t->bucket_mask) {
        if (t->bucket_count == t->bucket_most || t->bucket_count > (t->count + 16) * 2) return false;
        if (!is_mapped(t) && !buckets_move(t)) return false;
        t->bucket_mask = t->bucket_mask * 2 + 1;
    }
    do
        add_pair(t);
    while (!is_mapped(t) && t->bucket_count <= t->bucket_mask);
    return true;
}

bool cache_table_insert(struct subtable *t, uint32_t sig, uint32_t line)
{
    for (unsigned i = 0; i < 2 && t->count >= t->bucket_count * (is_mapped(t) ? LOAD_MAPPED : LOAD_COPIED); i++)
        if (!table_grow(t)) break;
    for (unsigned i = 0; !table_put(t, sig, line); i++)
        if (i == GROW_STEPS || !table_grow(t)) return false;
    t->count++;
    return true;
}

/* The hole is filled from behind, because a bucket that is not full says that nothing went beside it. */
void cache_table_take(struct subtable *t, uint32_t sig, uint32_t line)
{
    uint32_t home = cache_bucket(t, sig);
    struct bucket *b = &t->buckets[home], *beside = &t->buckets[home ^ 1];
    unsigned i = 0;
    while (i < BUCKET_SLOTS && !(b->sig[i] && b->line[i] == line))
        i++;
    if (i == BUCKET_SLOTS) {
        struct bucket *other = b;
        b = beside;
        beside = other;
        home ^= 1;
        for (i = 0; !(b->sig[i] && b->line[i] == line);)
            i++;
    }
    unsigned last = bucket_room(b) - 1;
    b->sig[i] = b->sig[last];
    b->line[i] = b->line[last];
    b->sig[last] = 0;
    for (unsigned j = bucket_room(beside); last == BUCKET_SLOTS - 1 && j > 0; j--) {
        uint32_t guest = beside->sig[j - 1];
        if (cache_bucket(t, guest) != home) continue;
        bucket_put(b, last, guest, beside->line[j - 1]);
        unsigned end = bucket_room(beside) - 1;
        beside->sig[j - 1] = beside->sig[end];
        beside->line[j - 1] = beside->line[end];
        beside->sig[end] = 0;
        break;
    }
    t->count--;
}
