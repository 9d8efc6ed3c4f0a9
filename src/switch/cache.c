/* SPDX-License-Identifier: Apache-2.0 */
/* Megaflows: making, keeping and dropping them. Looking them up is cache_lookup.c's. */
#include "switch/cache_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "base/checked.h"
#include "loop/clock.h"

#define IDLE_NS (10 * NS_PER_SECOND)
#define IDLE_LEAST_NS (NS_PER_SECOND / 10)
#define SWEEP_EVERY_NS NS_PER_SECOND
#define BUCKETS_MIN 4u
#define BUCKETS_COPIED                                                                                                 \
    1024u /* up to so many a table doubles; then it has a mapping for all that there may be, and grows pair by pair */
#define BUCKETS_READY 1024u /* brought into memory together */
#define LOAD_COPIED 4u      /* megaflows for each bucket, from which it grows */
#define LOAD_MAPPED 2u      /* half as many, because in buckets whose turn has not come there are twice as many */
#define GROW_STEPS 32u      /* for a megaflow that finds no room */
#define LISTS_MIN 64u
#define GENERATION_MAX 0x7fffffffu
/* A megaflow of each size: lines given back in one size do not serve for another. */
#define LINES_OF_ALL_SIZES ((unsigned)(MEGAFLOW_LINES_MAX * (MEGAFLOW_LINES_MAX + 1) / 2))

/* Lines that are brought into memory together: one page's, or a part of what is used already. */
#define READY_LEAST 64u
#define READY_MOST 1024u
#define READY_PART 4u

#define PAGE_BYTES 4096u
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Not in huge pages: a quiet port's cache is to take no more than it uses, and a busy one would wait while the kernel moves others' memory
 * to make them. */
static void *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    (void)madvise(p, bytes, MADV_NOHUGEPAGE);
    return p;
}

/* Bring it into memory at once, where a page fault for each page would take much longer; where the system cannot do that there
 * is one. */
static void populate(void *p, size_t bytes)
{
    uintptr_t from = (uintptr_t)p / PAGE_BYTES * PAGE_BYTES;
    (void)madvise((void *)from, (uintptr_t)p - from + bytes, MADV_POPULATE_WRITE);
}

static void unmap(void *p, size_t bytes)
{
    if (p) munmap(p, bytes);
}

static size_t exact_bytes(const struct cache *c)
{
    return c->config.emc_entries * sizeof *c->exact;
}

int cache_init(struct cache *c, const struct switch_config_cache *config)
{
    memset(c, 0, sizeof *c);
    c->config = *config;
    if (getrandom(c->seed, sizeof c->seed, GRND_NONBLOCK) != sizeof c->seed) c->seed[0] = (uintptr_t)c;
    for (unsigned i = 0; i < ARRAY_LEN(c->seed); i++)
        c->seed[i] |= 1; /* never 0 */
    c->lines_max = config->megaflows_max * LINES_OF_ALL_SIZES + 1;
    c->lines_used = 1; /* 0 is none */
    c->lines = map((size_t)c->lines_max * 64);
    c->cold = map(c->lines_max * sizeof *c->cold);
    c->exact = config->emc_entries ? map(exact_bytes(c)) : NULL;
    c->hints = map(CACHE_HINTS);
    c->lists = calloc(LISTS_MIN, sizeof(struct dp_list *));
    c->list_mask = LISTS_MIN - 1;
    if (c->lines && c->cold && c->hints && c->lists && (c->exact || !config->emc_entries)) return 0;
    cache_destroy(c);
    return -ENOMEM;
}

static bool is_mapped(const struct subtable *t)
{
    return t->bucket_mask >= BUCKETS_COPIED;
}

static void buckets_free(const struct subtable *t)
{
    if (is_mapped(t)) unmap(t->buckets, t->bucket_most * sizeof *t->buckets);
    else free(t->buckets);
}

static void table_free(struct subtable *t)
{
    if (!t) return;
    buckets_free(t);
    free(t);
}

void cache_destroy(struct cache *c)
{
    for (uint32_t i = 1; c->cold && i < c->lines_used; i++)
        if (c->cold[i].table) cache_remove(c, i);
    cache_hand_on(c);
    for (unsigned i = 0; i < CACHE_PORT_CHAINS; i++) {
        for (struct cache_port *p = c->ports[i], *next; p; p = next) {
            next = p->next;
            free(p);
        }
    }
    unmap(c->lines, (size_t)c->lines_max * 64);
    unmap(c->cold, c->lines_max * sizeof *c->cold);
    unmap(c->exact, exact_bytes(c));
    unmap(c->hints, CACHE_HINTS);
    free(c->lists);
    memset(c, 0, sizeof *c);
}

static struct cache_port **chain_of(struct cache *c, uint64_t word0)
{
    return &c->ports[(word0 * UINT64_C(0x9e3779b97f4a7c15)) >> 58];
}
static_assert(CACHE_PORT_CHAINS == 64, "as the shift has it");

struct cache_port *cache_port_get(struct cache *c, uint64_t word0)
{
    struct cache_port **chain = chain_of(c, word0);
    for (struct cache_port *p = *chain; p; p = p->next)
        if (p->word0 == word0) return p;
    struct cache_port *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->word0 = word0;
    p->quota.left_ns = QUOTA_SAVED_NS;
    p->next = *chain;
    return *chain = p;
}

void cache_forget_port(struct cache *c, uint64_t word0)
{
    for (uint32_t i = 1; i < c->lines_used; i++)
        if (c->cold[i].table && c->cold[i].table->port->word0 == word0) cache_remove(c, i);
    cache_hand_on(c);
    for (struct cache_port **at = chain_of(c, word0); *at; at = &(*at)->next) {
        struct cache_port *p = *at;
        if (p->word0 != word0) continue;
        *at = p->next;
        free(p);
        return;
    }
}

/* ---- lists of actions ---- */

static uint64_t hash_actions(const struct dp_action *a, unsigned count)
{
    const uint8_t *bytes = (const uint8_t *)a;
    uint64_t h = count;
    for (size_t i = 0; i < count * sizeof *a; i += 8) {
        uint64_t w;
        memcpy(&w, bytes + i, 8);
        h = (h ^ w) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 32;
    }
    return h;
}

static void lists_grow(struct cache *c)
{
    unsigned size = (c->list_mask + 1) * 2;
    struct dp_list **lists = calloc(size, sizeof *lists);
    if (!lists) return; /* longer chains */
    for (unsigned i = 0; i <= c->list_mask; i++) {
        for (struct dp_list *l = c->lists[i], *next; l; l = next) {
            next = l->next;
            l->next = lists[l->hash & (size - 1)];
            lists[l->hash & (size - 1)] = l;
        }
    }
    free(c->lists);
    c->lists = lists;
    c->list_mask = size - 1;
}

static bool same_actions(const struct dp_list *l, const struct dp_action *a, unsigned count)
{
    return l->count == count && memcmp(l->actions, a, count * sizeof *a) == 0;
}

/* With no reference yet. */
static struct dp_list *list_new(struct cache *c, const struct dp_action *a, unsigned count, uint64_t hash)
{
    struct dp_list *l = malloc(sizeof *l + count * sizeof *a);
    if (!l) return NULL;
    if (c->list_count++ > c->list_mask) lists_grow(c);
    *l = (struct dp_list){.next = c->lists[hash & c->list_mask], .hash = hash, .count = count};
    memcpy(l->actions, a, count * sizeof *a);
    l->single = count == 1 && a->type == DP_OUTPUT ? a->to : NULL;
    l->metered = count == 2 && a[0].type == DP_METER && a[1].type == DP_OUTPUT ? a[1].to : NULL;
    c->lists[hash & c->list_mask] = l;
    return l;
}

static struct dp_list *list_find(struct cache *c, const struct dp_action *a, unsigned count)
{
    if (c->recent && same_actions(c->recent, a, count)) return c->recent;
    uint64_t hash = hash_actions(a, count);
    for (struct dp_list *l = c->lists[hash & c->list_mask]; l; l = l->next)
        if (l->hash == hash && same_actions(l, a, count)) return l;
    return list_new(c, a, count, hash);
}

static struct dp_list *list_get(struct cache *c, const struct dp_action *a, unsigned count)
{
    struct dp_list *l = list_find(c, a, count);
    if (!l) return NULL;
    l->refs++;
    return c->recent = l;
}

static void list_put(struct cache *c, struct dp_list *l)
{
    if (--l->refs) return;
    struct dp_list **at = &c->lists[l->hash & c->list_mask];
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    c->list_count--;
    if (c->recent == l) c->recent = NULL;
    free(l);
}

/* ---- paths ---- */

static struct change_deps without_addresses(const struct change_deps *d)
{
    struct change_deps bare = *d;
    bare.mac_src = bare.mac_dst = 0;
    return bare;
}

static bool path_is(const struct megaflow_path *p, const struct cache_add *a)
{
    if (p->flow_count != a->flow_count || p->counted_count != a->counted_count || p->tables != (uint16_t)a->tables ||
        p->refresh != a->refresh)
        return false;
    struct change_deps bare = without_addresses(a->deps);
    return memcmp(&p->deps, &bare, sizeof bare) == 0 && memcmp(&p->misses, a->misses, sizeof p->misses) == 0 &&
           memcmp(p->flows, a->flows, a->flow_count * sizeof(struct flow *)) == 0 &&
           (a->counted_count == 0 || memcmp(p->counted, a->counted, a->counted_count * sizeof *a->counted) == 0);
}

static uint8_t path_slot(const struct cache_add *a)
{
    uint64_t h = a->tables;
    for (unsigned i = 0; i < a->flow_count; i++)
        h = (h ^ (uintptr_t)a->flows[i]) * UINT64_C(0x9e3779b97f4a7c15);
    for (unsigned i = 0; i < a->counted_count; i++)
        h = (h ^ (uintptr_t)a->counted[i].in ^ a->counted[i].at) * UINT64_C(0x9e3779b97f4a7c15);
    return (h ^ h >> 32) >> 16 & (CACHE_PATHS - 1);
}

static struct megaflow_path *path_get(struct cache *c, const struct cache_add *a)
{
    uint8_t slot = path_slot(a);
    struct megaflow_path *p = c->paths[slot];
    if (p && path_is(p, a)) {
        p->refs++;
        return p;
    }
    p = malloc(sizeof *p + a->flow_count * sizeof p->flows[0] + a->counted_count * sizeof *p->counted);
    if (!p) return NULL;
    *p = (struct megaflow_path){.refs = 1, .slot = slot, .refresh = a->refresh, .tables = (uint16_t)a->tables};
    p->misses = *a->misses;
    p->deps = without_addresses(a->deps);
    for (unsigned i = 0; i < a->flow_count; i++)
        if (flow_ref(a->flows[i])) p->flows[p->flow_count++] = a->flows[i];
    p->counted = (struct counted *)(void *)(p->flows + a->flow_count);
    for (; p->counted_count < a->counted_count; p->counted_count++) {
        p->counted[p->counted_count] = a->counted[p->counted_count];
        counts_ref(a->counted[p->counted_count].in);
    }
    return c->paths[slot] = p;
}

static void path_free(struct cache *c, struct megaflow_path *p)
{
    for (unsigned i = 0; i < p->flow_count; i++)
        flow_unref(p->flows[i]);
    for (unsigned i = 0; i < p->counted_count; i++)
        counts_unref(p->counted[i].in);
    if (c->paths[p->slot] == p) c->paths[p->slot] = NULL;
    free(p);
}

/* One that has something to hand on stays until then. */
static void path_put(struct cache *c, struct megaflow_path *p)
{
    if (--p->refs == 0 && p->packets == 0) path_free(c, p);
}

static void path_count(struct cache *c, struct megaflow_path *p, struct table_counters *counters, uint64_t packets,
                       uint64_t bytes, uint64_t now_ns)
{
    if (p->packets == 0) {
        p->next = c->counting;
        c->counting = p;
    }
    p->counters = counters;
    p->packets += packets;
    p->bytes += bytes;
    if (p->used_ns < now_ns) p->used_ns = now_ns;
}

static void path_hand_on(struct megaflow_path *p)
{
    for (unsigned i = 0; i < p->flow_count; i++)
        flow_count(p->flows[i], p->packets, p->bytes, p->used_ns);
    for (unsigned i = 0; i < p->counted_count; i++)
        counts_add(p->counted[i], p->packets, p->bytes);
    if (p->counters) table_count(p->counters, p->deps.tables, &p->misses, p->packets);
    p->packets = p->bytes = 0;
}

void cache_hand_on(struct cache *c)
{
    for (struct megaflow_path *p = c->counting, *next; p; p = next) {
        next = p->next;
        path_hand_on(p);
        if (p->refs == 0) path_free(c, p);
    }
    c->counting = NULL;
}

/* ---- subtables ---- */

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

static void table_drop(struct cache *c, struct subtable *t)
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
static struct subtable *table_for(struct cache *c, struct cache_port *p, const struct flow_key *mask)
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
    struct bucket *b = copied ? aligned_alloc(64, 2 * bytes) : map(t->bucket_most * sizeof *b);
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
        populate(t->buckets + t->bucket_ready, BUCKETS_READY * sizeof *t->buckets);
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

static bool table_insert_line(struct subtable *t, uint32_t sig, uint32_t line)
{
    for (unsigned i = 0; i < 2 && t->count >= t->bucket_count * (is_mapped(t) ? LOAD_MAPPED : LOAD_COPIED); i++)
        if (!table_grow(t)) break;
    for (unsigned i = 0; !table_put(t, sig, line); i++)
        if (i == GROW_STEPS || !table_grow(t)) return false;
    t->count++;
    return true;
}

/* The hole is filled from behind, because a bucket that is not full says that nothing went beside it. */
static void table_take(struct subtable *t, uint32_t sig, uint32_t line)
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

/* ---- lines ---- */

static unsigned lines_of(const struct subtable *t)
{
    return (unsigned)((sizeof(struct megaflow) + t->words * 8u + 63) / 64);
}

static void lines_make_ready(struct cache *c)
{
    uint32_t more = c->lines_used / READY_PART / READY_LEAST * READY_LEAST;
    if (more < READY_LEAST) more = READY_LEAST;
    if (more > READY_MOST) more = READY_MOST;
    if (more > c->lines_max - c->lines_ready) more = c->lines_max - c->lines_ready;
    populate(c->lines + (size_t)c->lines_ready * 64, (size_t)more * 64);
    populate(c->cold + c->lines_ready, more * sizeof *c->cold);
    c->lines_ready += more;
}

static uint32_t line_get(struct cache *c, unsigned lines)
{
    uint32_t line = c->free[lines];
    if (line) {
        c->free[lines] = (uint32_t)cache_megaflow(c, line)->valid_at;
        return line;
    }
    if (c->lines_used + lines > c->lines_max) return 0;
    line = c->lines_used;
    c->lines_used += lines;
    if (c->lines_used > c->lines_ready) lines_make_ready(c);
    return line;
}

/* Whoever still has its number sees another generation. */
static void line_put(struct cache *c, uint32_t line, unsigned lines)
{
    struct megaflow *m = cache_megaflow(c, line);
    if (m->generation == GENERATION_MAX) {
        if (c->exact) memset(c->exact, 0, exact_bytes(c));
        m->generation = 0;
    } else {
        m->generation++;
    }
    m->valid_at = c->free[lines];
    c->free[lines] = line;
}

/* With no megaflow left: what lines took goes back to the system. Generations begin anew, so nobody may remember one. */
static void lines_give_back(struct cache *c)
{
    if (c->stats.megaflows || c->lines_used <= 1) return;
    (void)madvise(c->cold, c->lines_max * sizeof *c->cold, MADV_DONTNEED);
    if (madvise(c->lines, (size_t)c->lines_max * 64, MADV_DONTNEED)) return;
    if (c->exact && madvise(c->exact, exact_bytes(c), MADV_DONTNEED)) memset(c->exact, 0, exact_bytes(c));
    memset(c->free, 0, sizeof c->free);
    c->lines_used = 1;
    c->lines_ready = 0;
    c->victim = 0;
}

/* ---- megaflows ---- */

static void simple_forget(struct cache_port *p, uint32_t line)
{
    for (unsigned i = 0; i < p->simple_count; i++)
        if (p->simple[i].line == line) {
            p->simple[i] = p->simple[--p->simple_count];
            return;
        }
}

static void make_room(struct cache *c)
{
    if (c->stats.megaflows < c->config.megaflows_max || !c->config.evict) return;
    for (uint32_t i = 0; i < c->lines_used; i++) {
        if (++c->victim >= c->lines_used) c->victim = 1;
        if (!c->cold[c->victim].table) continue;
        cache_remove(c, c->victim);
        c->stats.evicted++;
        return;
    }
}

static uint32_t fill(struct cache *c, struct subtable *t, const struct cache_add *a, uint32_t sig)
{
    uint32_t line = line_get(c, lines_of(t));
    if (!line) return 0;
    struct megaflow *m = cache_megaflow(c, line);
    struct megaflow_cold *cold = &c->cold[line];
    m->list = list_get(c, a->actions, a->action_count);
    cold->path = path_get(c, a);
    if (!m->list || !cold->path || !table_insert_line(t, sig, line)) {
        if (m->list) list_put(c, m->list);
        if (cold->path) path_put(c, cold->path);
        line_put(c, line, lines_of(t));
        return 0;
    }
    m->valid_at = a->valid_at;
    m->bytes = m->packets = 0;
    m->watches_mac = a->deps->mac;
    for (unsigned i = 0; i < t->words; i++)
        m->key[i] = a->key->words[t->index[i]] & t->mask[i];
    *cold = (struct megaflow_cold){.table = t,
                                   .path = cold->path,
                                   .mac_src = a->deps->mac_src,
                                   .mac_dst = a->deps->mac_dst,
                                   .used_ns = a->now_ns,
                                   .sig = sig};
    return line;
}

uint32_t cache_add(struct cache *c, struct cache_port *p, const struct cache_add *a)
{
    c->now_ns = a->now_ns;
    make_room(c);
    if (c->stats.megaflows >= c->config.megaflows_max) return 0;
    struct subtable *t = table_for(c, p, a->mask);
    if (!t) return 0;
    uint32_t sig = cache_hash(c, t, a->key);
    uint32_t old = cache_table_find(c, t, sig, a->key);
    if (old) { /* of an earlier state; the table may go with it */
        cache_remove(c, old);
        t = table_for(c, p, a->mask);
        if (!t) return 0;
        sig = cache_hash(c, t, a->key); /* it may have another mask */
    }
    uint32_t line = fill(c, t, a, sig);
    if (!line) {
        if (t->count == 0) table_drop(c, t);
        return 0;
    }
    c->stats.megaflows++;
    p->recent = t;
    if (t->simple && p->simple_count < CACHE_SIMPLE) {
        p->simple[p->simple_count].word = cache_simple_word(a->key);
        p->simple[p->simple_count++].line = line;
    }
    return line;
}

void cache_remove(struct cache *c, uint32_t line)
{
    struct megaflow *m = cache_megaflow(c, line);
    struct megaflow_cold *cold = &c->cold[line];
    struct subtable *t = cold->table;
    cache_fold(c, line, c->now_ns > cold->used_ns ? c->now_ns : cold->used_ns);
    simple_forget(t->port, line);
    table_take(t, cold->sig, line);
    list_put(c, m->list);
    path_put(c, cold->path);
    cold->table = NULL;
    line_put(c, line, lines_of(t));
    c->stats.megaflows--;
    if (t->count == 0) table_drop(c, t);
}

void cache_match(const struct cache *c, uint32_t line, struct flow_match *out)
{
    const struct megaflow *m = cache_megaflow(c, line);
    const struct subtable *t = c->cold[line].table;
    memset(&out->key, 0, sizeof out->key);
    out->mask = t->whole;
    out->key.words[0] = t->port->word0;
    for (unsigned i = 0; i < t->words; i++)
        out->key.words[t->index[i]] = m->key[i];
}

static struct change_deps deps_of(const struct megaflow_cold *cold)
{
    struct change_deps d = cold->path->deps;
    d.mac_src = cold->mac_src;
    d.mac_dst = cold->mac_dst;
    return d;
}

bool cache_revalidate(struct cache *c, uint32_t line, struct change_log *log, uint64_t to)
{
    struct megaflow *m = cache_megaflow(c, line);
    struct change_deps deps = deps_of(&c->cold[line]);
    struct flow_match match;
    cache_match(c, line, &match);
    if (change_concerns(log, m->valid_at, to, &deps, &match)) return false;
    m->valid_at = to;
    return true;
}

static bool covers(const struct flow_key *wide, const struct flow_key *mask)
{
    uint64_t missing = 0;
    for (unsigned i = 0; i < FLOW_KEY_PACKET_WORDS; i++)
        missing |= mask->words[i] & ~wide->words[i];
    return missing == 0;
}

bool cache_same(struct cache *c, uint32_t line, const struct cache_add *a)
{
    struct megaflow *m = cache_megaflow(c, line);
    struct megaflow_cold *cold = &c->cold[line];
    if (!covers(&cold->table->whole, a->mask) || cold->path->refresh != a->refresh ||
        !same_actions(m->list, a->actions, a->action_count))
        return false;
    struct megaflow_path *path = path_get(c, a);
    if (!path) return false;
    cache_fold(c, line, a->now_ns);
    path_put(c, cold->path);
    cold->path = path;
    cold->mac_src = a->deps->mac_src;
    cold->mac_dst = a->deps->mac_dst;
    m->watches_mac = a->deps->mac;
    m->valid_at = a->valid_at;
    return true;
}

/* ---- counters and ageing ---- */

void cache_fold(struct cache *c, uint32_t line, uint64_t now_ns)
{
    struct megaflow *m = cache_megaflow(c, line);
    struct megaflow_cold *cold = &c->cold[line];
    if (m->packets == 0) return;
    path_count(c, cold->path, cold->table->port->counters, m->packets, m->bytes, now_ns);
    cold->packets += m->packets;
    cold->bytes += m->bytes;
    cold->used_ns = now_ns;
    cold->used = true;
    m->packets = 0;
    m->bytes = 0;
}

void cache_fold_all(struct cache *c, uint64_t now_ns)
{
    for (uint32_t i = 1; i < c->lines_used; i++)
        if (c->cold[i].table) cache_fold(c, i, now_ns);
    cache_hand_on(c);
}

bool cache_count(struct cache *c, const struct cache_port *p, const struct cache_add *a, uint32_t bytes)
{
    struct megaflow_path *path = path_get(c, a);
    if (!path) return false;
    path_count(c, path, p->counters, 1, bytes, a->now_ns);
    path_put(c, path);
    return true;
}

/* The fuller, the sooner what is not used goes. */
static uint64_t idle_limit(const struct cache *c)
{
    uint64_t max = c->config.megaflows_max, half = max / 2, count = c->stats.megaflows;
    if (count <= half || half == 0) return IDLE_NS;
    uint64_t limit = count >= max ? 0 : IDLE_NS / half * (max - count);
    return limit > IDLE_LEAST_NS ? limit : IDLE_LEAST_NS;
}

static void sweep_one(struct cache *c, uint32_t line, uint64_t now_ns,
                      bool (*refreshed)(void *arg, const struct change_deps *d, uint32_t in_port), void *arg)
{
    struct megaflow_cold *cold = &c->cold[line];
    cache_fold(c, line, now_ns);
    if (cold->used) {
        cold->used = false;
        struct change_deps deps = deps_of(cold);
        if (cold->path->refresh && refreshed && !refreshed(arg, &deps, be32_get(cold->table->port->in_port)))
            cache_remove(c, line);
    } else if (now_ns > cold->used_ns && now_ns - cold->used_ns >= idle_limit(c)) {
        cache_remove(c, line);
        c->stats.expired++;
    }
}

static struct subtable *most_hit(struct subtable *list)
{
    struct subtable *best = list;
    for (; list; list = list->next)
        if (list->hits > best->hits) best = list;
    return best;
}

/* By hits since the last time, which are halved. */
static void rank(struct cache_port *p)
{
    struct subtable *rest = p->tables, **end = &p->tables;
    while (rest) {
        struct subtable *best = most_hit(rest), **at = &rest;
        while (*at != best)
            at = &(*at)->next;
        *at = best->next;
        *end = best;
        end = &best->next;
        best->hits /= 2;
    }
    *end = NULL;
}

void cache_sweep(struct cache *c, uint64_t now_ns, uint32_t max,
                 bool (*refreshed)(void *arg, const struct change_deps *d, uint32_t in_port), void *arg)
{
    c->now_ns = now_ns;
    if (!c->sweep_at) {
        if (now_ns - c->sweep_ns < SWEEP_EVERY_NS) return;
        c->sweep_ns = now_ns;
        c->sweep_at = 1;
        for (unsigned i = 0; i < CACHE_PORT_CHAINS; i++)
            for (struct cache_port *p = c->ports[i]; p; p = p->next)
                if (p->masks > 1) rank(p);
    }
    for (; max > 0 && c->sweep_at < c->lines_used; max--, c->sweep_at++)
        if (c->cold[c->sweep_at].table) sweep_one(c, c->sweep_at, now_ns, refreshed, arg);
    if (c->sweep_at < c->lines_used) return;
    c->sweep_at = 0;
    lines_give_back(c);
}
