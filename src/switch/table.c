/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/table.h"

#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"

/* More in a leaf, and a flow goes to a group of a finer mask: soon at the coarsest level, late where only its own is left. */
#define LEAF_FLOWS 16u
#define LEAF_FLOWS_FINE 32u
#define PREFETCH_FLOWS 256u /* of a group, from which it is worth to fetch ahead */
#define NO_PRIORITY (-1)
#define SLOTS_MIN 16u

/* A child: 0, a node, or a leaf with LEAF_TAG. */
#define LEAF_TAG ((uintptr_t)1)

struct trie_leaf {
    struct epoch_node retired;
    unsigned count;
    struct flow *flows[]; /* best first */
};

struct trie_node {
    uint16_t bit;             /* in the order of the key's bytes, most significant first; grows downwards */
    _Atomic int max_priority; /* of all below; never too low */
    _Atomic uintptr_t child[2];
    struct epoch_node retired;
};

struct group {
    _Atomic uintptr_t root;
    _Atomic int max_priority;
    _Atomic unsigned count;
    struct flow_key mask;
    struct epoch_node retired;
};

struct group_array {
    struct epoch_node retired;
    unsigned count;
    struct group *groups[]; /* about by falling priority */
};

static struct trie_leaf *leaf_of(uintptr_t child)
{
    return (struct trie_leaf *)(child & ~LEAF_TAG);
}

static struct trie_node *node_of(uintptr_t child)
{
    return (struct trie_node *)child;
}

static bool better(const struct flow *a, const struct flow *b)
{
    return a->priority != b->priority ? a->priority > b->priority : a->id < b->id;
}

/* Bits are numbered in the order of a key's bytes, the most significant first. They are read and written by the word, as everything
 * else in a key is: a word of which one byte has just been written cannot be read without a wait. */
static unsigned bit_shift(unsigned bit)
{
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? bit % 64 ^ 7 : 63 - bit % 64;
}

static unsigned bit_of(const struct flow_key *k, unsigned bit)
{
    return k->words[bit / 64] >> bit_shift(bit) & 1;
}

/* ---- look-up ---- */

/* The first of the bits as they lie in memory. */
static uint64_t first_bit(uint64_t bits)
{
    uint64_t be = ENDIAN_BE(64, bits);
    return ENDIAN_BE(64, UINT64_C(1) << (63 - __builtin_clzll(be)));
}

/* Does f match? If not, one bit that shows it is in mask, preferably one that was there. */
static bool matches(const struct flow *f, const struct flow_key *k, struct flow_key *mask)
{
    unsigned differs_at = FLOW_KEY_WORDS;
    uint64_t differs = 0;
    for (unsigned i = 0; i < f->words; i++) {
        unsigned w = f->index[i];
        uint64_t d = (k->words[w] ^ f->word[i].value) & f->word[i].mask;
        if (d == 0) continue;
        if (d & mask->words[w]) return false;
        if (differs) continue;
        differs = d;
        differs_at = w;
    }
    if (differs) {
        mask->words[differs_at] |= first_bit(differs);
        return false;
    }
    for (unsigned i = 0; i < f->words; i++)
        mask->words[f->index[i]] |= f->word[i].mask;
    return true;
}

static struct flow *group_lookup(struct group *g, const struct flow_key *k, struct flow_key *mask, struct flow *best)
{
    uintptr_t at = atomic_load_explicit(&g->root, memory_order_acquire);
    while (at && !(at & LEAF_TAG)) {
        struct trie_node *n = node_of(at);
        if (best && atomic_load_explicit(&n->max_priority, memory_order_relaxed) < best->priority) return best;
        unsigned bit = n->bit;
        mask->words[bit / 64] |= UINT64_C(1) << bit_shift(bit);
        at = atomic_load_explicit(&n->child[bit_of(k, bit)], memory_order_acquire);
    }
    if (!at) return best;
    const struct trie_leaf *leaf = leaf_of(at);
    for (unsigned i = 0; i < leaf->count; i++) {
        struct flow *f = leaf->flows[i];
        if (best && !better(f, best)) break;
        if (matches(f, k, mask)) return f;
    }
    return best;
}

struct flow *table_lookup(const struct flow_table *t, const struct flow_key *k, struct flow_key *mask)
{
    const struct group_array *a = atomic_load_explicit(&t->groups, memory_order_acquire);
    struct flow *best = NULL;
    for (unsigned i = 0; a && i < a->count; i++) {
        struct group *g = a->groups[i];
        if (best && atomic_load_explicit(&g->max_priority, memory_order_relaxed) < best->priority) continue;
        best = group_lookup(g, k, mask, best);
    }
    return best;
}

/* One step down for each key that is not at a leaf yet. False: all are. */
static bool step_down(const struct flow_key *const *keys, uintptr_t *at, unsigned count)
{
    bool any = false;
    for (unsigned i = 0; i < count; i++) {
        if (!at[i] || (at[i] & LEAF_TAG)) continue;
        struct trie_node *n = node_of(at[i]);
        at[i] = atomic_load_explicit(&n->child[bit_of(keys[i], n->bit)], memory_order_acquire);
        __builtin_prefetch((const void *)(at[i] & ~LEAF_TAG));
        any = true;
    }
    return any;
}

static void group_prefetch(struct group *g, const struct flow_key *const *keys, unsigned count)
{
    uintptr_t at[TABLE_PREFETCH], root = atomic_load_explicit(&g->root, memory_order_acquire);
    for (unsigned i = 0; i < count; i++)
        at[i] = root;
    while (step_down(keys, at, count))
        ;
    for (unsigned i = 0; i < count; i++)
        if (at[i]) __builtin_prefetch(leaf_of(at[i])->flows[0]);
    for (unsigned i = 0; i < count; i++)
        if (at[i]) __builtin_prefetch(atomic_load_explicit(&leaf_of(at[i])->flows[0]->code, memory_order_acquire));
}

void table_prefetch(const struct flow_table *t, const struct flow_key *const *keys, unsigned count)
{
    const struct group_array *a = atomic_load_explicit(&t->groups, memory_order_acquire);
    for (unsigned i = 0; a && i < a->count; i++)
        if (atomic_load_explicit(&a->groups[i]->count, memory_order_relaxed) >= PREFETCH_FLOWS)
            group_prefetch(a->groups[i], keys, count);
}

/* ---- flows ---- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

static uint64_t hash_match(const struct flow_match *m, uint16_t priority)
{
    uint64_t h = priority + 1;
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        if (m->mask.words[i]) h = mix(mix(mix(h, i), m->key.words[i]), m->mask.words[i]);
    return h ^ h >> 32; /* the lowest bits choose the slot, the highest are the best mixed */
}

/* The lists follow the code: one allocation, and neighbours in the cache. */
static void take_list(struct action_list *l, struct action **room)
{
    if (l->count) memcpy(*room, l->list, l->count * sizeof **room);
    l->list = l->count ? *room : NULL;
    *room += l->count;
}

struct flow_code *flow_code_new(const struct instructions *i)
{
    struct flow_code *c = calloc(1, sizeof *c + ((size_t)i->apply.count + i->write.count) * sizeof c->actions[0]);
    if (!c) return NULL;
    struct action *room = c->actions;
    c->instructions = *i;
    take_list(&c->instructions.apply, &room);
    take_list(&c->instructions.write, &room);
    return c;
}

struct flow *flow_new(const struct flow_spec *s, uint64_t id, uint64_t now_ns)
{
    unsigned words = 0;
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        words += s->match.mask.words[i] != 0;
    struct flow *f = calloc(1, sizeof *f + words * sizeof f->word[0]);
    struct flow_code *code = flow_code_new(&s->instructions);
    if (!f || !code) {
        free(code);
        free(f);
        return NULL;
    }
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++) {
        if (!s->match.mask.words[i]) continue;
        f->index[f->words] = (uint8_t)i;
        f->word[f->words].value = s->match.key.words[i] & s->match.mask.words[i];
        f->word[f->words++].mask = s->match.mask.words[i];
    }
    f->table = s->table;
    f->priority = s->priority;
    f->id = id;
    f->idle_timeout_s = s->idle_timeout_s;
    f->hard_timeout_s = s->hard_timeout_s;
    f->flags = s->flags;
    f->cookie = s->cookie;
    f->created_ns = now_ns;
    f->hash = hash_match(&s->match, s->priority);
    atomic_init(&f->used_ns, now_ns);
    atomic_init(&f->code, code);
    atomic_init(&f->refs, 1);
    list_init(&f->node);
    list_init(&f->timed);
    list_init(&f->refers);
    return f;
}

bool flow_ref(struct flow *f)
{
    unsigned refs = atomic_load_explicit(&f->refs, memory_order_relaxed);
    while (refs && !atomic_compare_exchange_weak_explicit(&f->refs, &refs, refs + 1, memory_order_relaxed,
                                                          memory_order_relaxed))
        ;
    return refs != 0;
}

void flow_unref(struct flow *f)
{
    while (f && atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) == 1) {
        struct flow *successor = atomic_load_explicit(&f->successor, memory_order_relaxed);
        free(atomic_load_explicit(&f->code, memory_order_relaxed));
        free(f);
        f = successor;
    }
}

static void note_use(struct flow *f, uint64_t now_ns)
{
    if (atomic_load_explicit(&f->used_ns, memory_order_relaxed) < now_ns)
        atomic_store_explicit(&f->used_ns, now_ns, memory_order_relaxed);
}

/* Who wants no counters has none; that it is used is known all the same. */
static void add_counts(struct flow *f, uint64_t packets, uint64_t bytes)
{
    if (!(f->flags & FLOW_NO_PACKET_COUNTS)) atomic_fetch_add(&f->packets, packets);
    if (!(f->flags & FLOW_NO_BYTE_COUNTS)) atomic_fetch_add(&f->bytes, bytes);
}

/* What was counted for f goes to its successor. Every amount is taken once, by who sees the successor; sequentially consistent,
 * so that of one who adds and one who names a successor the latter sees the amount, or the former the successor. */
static void pass_on(struct flow *f, struct flow *to)
{
    add_counts(to, atomic_exchange(&f->packets, 0), atomic_exchange(&f->bytes, 0));
    note_use(to, atomic_load_explicit(&f->used_ns, memory_order_relaxed));
}

void flow_count(struct flow *f, uint64_t packets, uint64_t bytes, uint64_t now_ns)
{
    for (struct flow *s; (s = atomic_load_explicit(&f->successor, memory_order_acquire));)
        f = s;
    add_counts(f, packets, bytes);
    note_use(f, now_ns);
    for (struct flow *s; (s = atomic_load(&f->successor)); f = s)
        pass_on(f, s);
}

void flow_succeed(struct flow *f, struct flow *new)
{
    bool referenced = flow_ref(new);
    assert(referenced);
    atomic_store(&f->successor, new);
    pass_on(f, new);
}

void flow_to_match(const struct flow *f, struct flow_match *out)
{
    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < f->words; i++) {
        out->key.words[f->index[i]] = f->word[i].value;
        out->mask.words[f->index[i]] = f->word[i].mask;
    }
}

void flow_to_spec(const struct flow *f, struct flow_spec *out)
{
    *out = (struct flow_spec){.table = f->table,
                              .priority = f->priority,
                              .has_priority = true,
                              .idle_timeout_s = f->idle_timeout_s,
                              .hard_timeout_s = f->hard_timeout_s,
                              .flags = f->flags,
                              .cookie = f->cookie,
                              .out_port = SWITCH_PORT_ANY,
                              .out_group = SWITCH_PORT_ANY};
    flow_to_match(f, &out->match);
    out->instructions = atomic_load_explicit(&f->code, memory_order_acquire)->instructions;
}

bool flow_covered(const struct flow *f, const struct flow_match *m)
{
    uint64_t missing = 0;
    for (unsigned i = 0, n = 0; i < FLOW_KEY_WORDS; i++) {
        struct flow_word own = {0, 0};
        if (n < f->words && f->index[n] == i) own = f->word[n++];
        missing |= (m->mask.words[i] & ~own.mask) | ((m->key.words[i] ^ own.value) & m->mask.words[i]);
    }
    return missing == 0;
}

/* ---- the writer: index of all flows ---- */

void table_count(struct table_counters *all, const uint64_t tables[4], const struct table_misses *misses,
                 uint64_t packets)
{
    for (unsigned i = 0; i < 4; i++)
        for (uint64_t left = tables[i]; left; left &= left - 1) {
            struct table_counters *c = &all[64 * i + (unsigned)__builtin_ctzll(left)];
            atomic_fetch_add_explicit(&c->lookups, packets, memory_order_relaxed);
            atomic_fetch_add_explicit(&c->matched, packets, memory_order_relaxed);
        }
    for (unsigned i = 0; i < misses->count; i++)
        atomic_fetch_sub_explicit(&all[misses->tables[i]].matched, packets, memory_order_relaxed);
}

void table_init(struct flow_table *t)
{
    memset(t, 0, sizeof *t);
    list_init(&t->flows);
}

static bool same_match(const struct flow *f, const struct flow_match *m)
{
    uint64_t differ = 0;
    for (unsigned i = 0, n = 0; i < FLOW_KEY_WORDS; i++) {
        struct flow_word own = {0, 0};
        if (n < f->words && f->index[n] == i) own = f->word[n++];
        differ |= (own.mask ^ m->mask.words[i]) | (own.value ^ (m->key.words[i] & m->mask.words[i]));
    }
    return differ == 0;
}

static struct table_slot *slot_at(const struct flow_table *t, size_t i)
{
    return &t->slots[i & t->slot_mask];
}

struct flow *table_find(const struct flow_table *t, const struct flow_match *m, uint16_t priority)
{
    if (!t->slots) return NULL;
    struct flow_match clean = *m;
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        clean.key.words[i] &= clean.mask.words[i];
    uint64_t hash = hash_match(&clean, priority);
    const struct table_slot *s;
    for (size_t i = hash; (s = slot_at(t, i))->flow; i++)
        if (s->hash == hash && s->flow->priority == priority && same_match(s->flow, &clean)) return s->flow;
    return NULL;
}

static bool overlaps(const struct flow *f, const struct flow_match *m)
{
    uint64_t differ = 0;
    for (unsigned i = 0; i < f->words; i++)
        differ |= (f->word[i].value ^ m->key.words[f->index[i]]) & f->word[i].mask & m->mask.words[f->index[i]];
    return differ == 0;
}

static struct flow *leaf_overlap(const struct trie_leaf *leaf, const struct flow_match *m, uint16_t priority)
{
    for (unsigned i = 0; i < leaf->count; i++) {
        if (leaf->flows[i]->priority == priority && overlaps(leaf->flows[i], m)) return leaf->flows[i];
    }
    return NULL;
}

/* Both ways where m does not look at the bit that a node tests. */
static struct flow *trie_overlap(uintptr_t at, const struct flow_match *m, uint16_t priority)
{
    struct flow *f = NULL;
    while (at && !(at & LEAF_TAG)) {
        const struct trie_node *n = node_of(at);
        unsigned side = bit_of(&m->key, n->bit);
        if (atomic_load_explicit(&n->max_priority, memory_order_relaxed) < priority) return NULL;
        if (!bit_of(&m->mask, n->bit))
            f = trie_overlap(atomic_load_explicit(&n->child[!side], memory_order_relaxed), m, priority);
        if (f) return f;
        at = atomic_load_explicit(&n->child[side], memory_order_relaxed);
    }
    return at ? leaf_overlap(leaf_of(at), m, priority) : NULL;
}

struct flow *table_find_overlap(const struct flow_table *t, const struct flow_match *m, uint16_t priority)
{
    const struct group_array *a = atomic_load_explicit(&t->groups, memory_order_relaxed);
    struct flow *f = NULL;
    for (unsigned i = 0; a && i < a->count && !f; i++)
        if (atomic_load_explicit(&a->groups[i]->max_priority, memory_order_relaxed) >= priority)
            f = trie_overlap(atomic_load_explicit(&a->groups[i]->root, memory_order_relaxed), m, priority);
    return f;
}

static void slot_fill(struct flow_table *t, uint64_t hash, struct flow *f)
{
    size_t i = hash;
    while (slot_at(t, i)->flow)
        i++;
    *slot_at(t, i) = (struct table_slot){.hash = hash, .flow = f};
}

/* What follows moves up, so that no look-up ends at the gap. */
static void slot_clear(struct flow_table *t, size_t gap)
{
    struct table_slot *s;
    for (size_t i = gap + 1; (s = slot_at(t, i))->flow; i++) {
        size_t away = (i - s->hash) & t->slot_mask; /* from where it belongs */
        if (away < i - gap) continue;
        *slot_at(t, gap) = *s;
        gap = i;
    }
    slot_at(t, gap)->flow = NULL;
}

/* Room for one more. */
static int index_grow(struct flow_table *t)
{
    size_t size = t->slots ? t->slot_mask + 1 : 0;
    if (t->count < size - size / 4) return 0;
    struct flow_table grown = {.slot_mask = size ? size * 2 - 1 : SLOTS_MIN - 1};
    grown.slots = calloc(grown.slot_mask + 1, sizeof *grown.slots);
    if (!grown.slots) return t->count + 1 < size ? 0 : -ENOMEM; /* fuller will do, but look-ups end at an empty one */
    for (size_t i = 0; i < size; i++)
        if (t->slots[i].flow) slot_fill(&grown, t->slots[i].hash, t->slots[i].flow);
    free(t->slots);
    t->slots = grown.slots;
    t->slot_mask = grown.slot_mask;
    return 0;
}

static void index_add(struct flow_table *t, struct flow *f)
{
    slot_fill(t, f->hash, f);
    list_push_back(&t->flows, &f->node);
    t->count++;
}

static void index_remove(struct flow_table *t, struct flow *f)
{
    size_t i = f->hash;
    while (slot_at(t, i)->flow != f)
        i++;
    slot_clear(t, i);
    list_remove(&f->node);
    t->count--;
}

/* ---- the writer: groups ---- */

static uint32_t prefix_floor(uint32_t mask, const uint8_t *steps, unsigned count)
{
    unsigned length = mask == UINT32_MAX ? 32 : (unsigned)__builtin_clz(~mask);
    if (length < 32 && mask << length) return 0; /* no prefix */
    for (unsigned i = 0; i < count; i++)
        if (length >= steps[i]) return (uint32_t)(UINT64_MAX << (32 - steps[i]));
    return 0;
}

static void coarsen_ipv4(struct be32 *mask, unsigned level)
{
    static const uint8_t steps[] = {24, 16, 8};
    const uint8_t *from = level == 0 ? steps + 1 : steps;
    *mask = be32_make(prefix_floor(be32_get(*mask), from, level == 0 ? 1 : ARRAY_LEN(steps)));
}

/* To a multiple of 32 bits, 64 at most. */
static void coarsen_ipv6(uint8_t *mask)
{
    unsigned whole = 0;
    while (whole < 8 && mask[whole] == 0xff)
        whole++;
    whole &= ~3u;
    memset(mask + whole, 0, 16 - whole);
}

static void all_or_nothing(void *mask, size_t bytes)
{
    uint8_t *m = mask;
    for (size_t i = 0; i < bytes; i++)
        if (m[i] != 0xff) {
            memset(m, 0, bytes);
            return;
        }
}

static void coarsen_l4(struct flow_key *m)
{
    all_or_nothing(&m->nw_proto, 1);
    all_or_nothing(&m->tp_src, 2);
    all_or_nothing(&m->tp_dst, 2);
    memset(&m->tcp_flags, 0, sizeof m->tcp_flags);
}

/* The mask of the group for flows of mask m, the coarsest first. At level 0 addresses are enough to tell flows apart, if there are
 * any: few groups, with large tries. Where that leaves too many in one leaf, level 1 is finer, and the last exact. */
#define LEVELS 3u
static void coarsen(struct flow_key *m, unsigned level)
{
    if (level == LEVELS - 1) return;
    all_or_nothing(&m->in_port, sizeof m->in_port);
    all_or_nothing(m->eth_dst, 6);
    all_or_nothing(m->eth_src, 6);
    all_or_nothing(&m->eth_type, 2);
    memset(&m->mpls[1], 0, sizeof m->mpls - sizeof m->mpls[0]);
    coarsen_ipv4(&m->ipv4_src, level);
    coarsen_ipv4(&m->ipv4_dst, level);
    m->nw_tos = m->nw_ttl = m->nw_frag = 0;
    memset(&m->ipv6_label, 0, sizeof m->ipv6_label);
    coarsen_ipv6(m->ipv6_src);
    coarsen_ipv6(m->ipv6_dst);
    uint64_t addresses = m->words[6];
    for (unsigned i = 9; i <= 12; i++)
        addresses |= m->words[i];
    coarsen_l4(m);
    if (level == 0 && addresses) m->words[8] = m->nw_proto = 0;
    m->words[13] = m->words[14] = m->words[15] = m->words[16] = 0;
}

static struct group *find_group(const struct flow_table *t, const struct flow_key *mask)
{
    const struct group_array *a = atomic_load_explicit(&t->groups, memory_order_relaxed);
    for (unsigned i = 0; a && i < a->count; i++)
        if (memcmp(&a->groups[i]->mask, mask, sizeof *mask) == 0) return a->groups[i];
    return NULL;
}

static int by_priority(const void *a, const void *b)
{
    const struct group *const *x = a, *const *y = b;
    return atomic_load_explicit(&(*y)->max_priority, memory_order_relaxed) -
           atomic_load_explicit(&(*x)->max_priority, memory_order_relaxed);
}

static void array_free(struct epoch_node *n)
{
    free(container_of(n, struct group_array, retired));
}

static void group_free(struct epoch_node *n)
{
    free(container_of(n, struct group, retired));
}

/* Publish the array with one group more or less (either may be NULL), in order. False: no memory. */
static bool regroup(struct flow_table *t, struct epoch *e, struct group *more, const struct group *less)
{
    struct group_array *old = atomic_load_explicit(&t->groups, memory_order_relaxed);
    unsigned count = old ? old->count : 0;
    struct group_array *a = malloc(sizeof *a + (count + 1) * sizeof a->groups[0]);
    if (!a) return false;
    a->count = 0;
    for (unsigned i = 0; i < count; i++)
        if (old->groups[i] != less) a->groups[a->count++] = old->groups[i];
    if (more) a->groups[a->count++] = more;
    qsort(a->groups, a->count, sizeof a->groups[0], by_priority);
    atomic_store_explicit(&t->groups, a, memory_order_release);
    if (old) epoch_retire(e, &old->retired, array_free);
    return true;
}

/* Out of order the look-up is right, but slower; so no memory does no harm. */
static void reorder(struct flow_table *t, struct epoch *e)
{
    const struct group_array *a = atomic_load_explicit(&t->groups, memory_order_relaxed);
    for (unsigned i = 0; i + 1 < a->count; i++)
        if (by_priority(&a->groups[i], &a->groups[i + 1]) > 0) {
            (void)regroup(t, e, NULL, NULL);
            return;
        }
}

/* ---- the writer: a group's trie ---- */

static void key_of(const struct flow *f, const struct flow_key *mask, struct flow_key *out)
{
    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < f->words; i++)
        out->words[f->index[i]] = f->word[i].value & mask->words[f->index[i]];
}

/* Where the leaf of a key hangs, if it has one: the last slot on its way. *node (may be NULL): whose slot. */
static _Atomic uintptr_t *walk(struct group *g, const struct flow_key *k, unsigned until_bit)
{
    _Atomic uintptr_t *slot = &g->root;
    for (uintptr_t at; (at = atomic_load_explicit(slot, memory_order_relaxed)) && !(at & LEAF_TAG);) {
        struct trie_node *n = node_of(at);
        if (n->bit >= until_bit) break;
        slot = &n->child[bit_of(k, n->bit)];
    }
    return slot;
}

static void raise(_Atomic int *max, int priority)
{
    if (atomic_load_explicit(max, memory_order_relaxed) < priority)
        atomic_store_explicit(max, priority, memory_order_relaxed);
}

/* Before it is published: what is above it must not hide it. */
static void raise_above(struct group *g, const struct flow_key *k, unsigned until_bit, int priority)
{
    raise(&g->max_priority, priority);
    uintptr_t at = atomic_load_explicit(&g->root, memory_order_relaxed);
    while (at && !(at & LEAF_TAG) && node_of(at)->bit < until_bit) {
        raise(&node_of(at)->max_priority, priority);
        at = atomic_load_explicit(&node_of(at)->child[bit_of(k, node_of(at)->bit)], memory_order_relaxed);
    }
}

static int max_of(uintptr_t child)
{
    if (!child) return NO_PRIORITY;
    if (!(child & LEAF_TAG)) return atomic_load_explicit(&node_of(child)->max_priority, memory_order_relaxed);
    return leaf_of(child)->count ? leaf_of(child)->flows[0]->priority : NO_PRIORITY;
}

/* After a removal: from the leaf up. */
static int lower(uintptr_t at, const struct flow_key *k)
{
    if (!at || (at & LEAF_TAG)) return max_of(at);
    struct trie_node *n = node_of(at);
    unsigned side = bit_of(k, n->bit);
    int here = lower(atomic_load_explicit(&n->child[side], memory_order_relaxed), k);
    int other = max_of(atomic_load_explicit(&n->child[!side], memory_order_relaxed));
    if (other > here) here = other;
    atomic_store_explicit(&n->max_priority, here, memory_order_relaxed);
    return here;
}

static void leaf_free(struct epoch_node *n)
{
    free(container_of(n, struct trie_leaf, retired));
}

static void node_free(struct epoch_node *n)
{
    free(container_of(n, struct trie_node, retired));
}

/* The leaf with f in its place and without `gone`; either may be NULL. */
static struct trie_leaf *leaf_with(const struct trie_leaf *old, struct flow *f, const struct flow *gone)
{
    unsigned count = old ? old->count : 0;
    struct trie_leaf *l = malloc(sizeof *l + (count + 1) * sizeof l->flows[0]);
    if (!l) return NULL;
    l->count = 0;
    for (unsigned i = 0; i < count; i++) {
        if (old->flows[i] == gone) continue;
        if (f && better(f, old->flows[i])) {
            l->flows[l->count++] = f;
            f = NULL;
        }
        l->flows[l->count++] = old->flows[i];
    }
    if (f) l->flows[l->count++] = f;
    return l;
}

static void leaf_publish(struct epoch *e, _Atomic uintptr_t *slot, struct trie_leaf *old, struct trie_leaf *l)
{
    atomic_store_explicit(slot, (uintptr_t)l | LEAF_TAG, memory_order_release);
    if (old) epoch_retire(e, &old->retired, leaf_free);
}

/* The first bit in which the key differs from that of the leaf, or FLOW_KEY_WORDS * 64. */
static unsigned first_difference(const struct flow_key *a, const struct flow_key *b)
{
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++) {
        uint64_t d = a->words[i] ^ b->words[i];
        if (d) return i * 64 + (unsigned)__builtin_clzll(ENDIAN_BE(64, d));
    }
    return FLOW_KEY_WORDS * 64;
}

#define NO_BIT (FLOW_KEY_WORDS * 64)

/* The leaf at which a walk by k ends, and the first bit in which its flows differ from k (NO_BIT: in none). */
static struct trie_leaf *nearest(struct group *g, const struct flow_key *k, unsigned *bit)
{
    uintptr_t at = atomic_load_explicit(walk(g, k, NO_BIT), memory_order_relaxed);
    struct flow_key other;
    *bit = NO_BIT;
    if (!at) return NULL;
    key_of(leaf_of(at)->flows[0], &g->mask, &other);
    *bit = first_difference(k, &other);
    return leaf_of(at);
}

static int trie_add(struct group *g, struct epoch *e, struct flow *f)
{
    struct flow_key k;
    unsigned bit;
    key_of(f, &g->mask, &k);
    struct trie_leaf *old = nearest(g, &k, &bit);
    bool joins = old && bit == NO_BIT;
    struct trie_leaf *l = leaf_with(joins ? old : NULL, f, NULL);
    struct trie_node *n = old && !joins ? malloc(sizeof *n) : NULL;
    if (!l || (old && !joins && !n)) {
        free(l);
        free(n);
        return -ENOMEM;
    }
    raise_above(g, &k, bit, f->priority);
    _Atomic uintptr_t *slot = walk(g, &k, bit);
    g->count++;
    if (!n) {
        leaf_publish(e, slot, joins ? old : NULL, l);
        return 0;
    }
    uintptr_t below = atomic_load_explicit(slot, memory_order_relaxed);
    unsigned side = bit_of(&k, bit);
    n->bit = (uint16_t)bit;
    atomic_init(&n->max_priority, max_of(below) > f->priority ? max_of(below) : f->priority);
    atomic_init(&n->child[side], (uintptr_t)l | LEAF_TAG);
    atomic_init(&n->child[!side], below);
    atomic_store_explicit(slot, (uintptr_t)n, memory_order_release);
    return 0;
}

/* The leaf is empty now: its sibling takes its parent's place. */
static void cut(struct group *g, struct epoch *e, const struct flow_key *k)
{
    _Atomic uintptr_t *above = NULL, *slot = &g->root;
    for (uintptr_t at; !((at = atomic_load_explicit(slot, memory_order_relaxed)) & LEAF_TAG);) {
        above = slot;
        slot = &node_of(at)->child[bit_of(k, node_of(at)->bit)];
    }
    struct trie_leaf *leaf = leaf_of(atomic_load_explicit(slot, memory_order_relaxed));
    if (!above) {
        atomic_store_explicit(&g->root, 0, memory_order_release);
    } else {
        struct trie_node *n = node_of(atomic_load_explicit(above, memory_order_relaxed));
        unsigned side = bit_of(k, n->bit);
        atomic_store_explicit(above, atomic_load_explicit(&n->child[!side], memory_order_relaxed),
                              memory_order_release);
        epoch_retire(e, &n->retired, node_free);
    }
    epoch_retire(e, &leaf->retired, leaf_free);
}

/* ---- the writer: whole flows ---- */

/* The group that has f, and the leaf; NULL: none has. */
static struct group *home_in(struct group *g, const struct flow *f, struct trie_leaf **leaf)
{
    struct flow_key k;
    unsigned bit;
    if (!g) return NULL;
    key_of(f, &g->mask, &k);
    *leaf = nearest(g, &k, &bit);
    if (!*leaf || bit != NO_BIT) return NULL;
    for (unsigned i = 0; i < (*leaf)->count; i++)
        if ((*leaf)->flows[i] == f) return g;
    return NULL;
}

static void own_mask(const struct flow *f, struct flow_key *mask)
{
    memset(mask, 0, sizeof *mask);
    for (unsigned i = 0; i < f->words; i++)
        mask->words[f->index[i]] = f->word[i].mask;
}

static struct group *home_of(const struct flow_table *t, const struct flow *f, struct trie_leaf **leaf)
{
    struct group *g = NULL;
    for (unsigned level = 0; level < LEVELS && !g; level++) {
        struct flow_key mask;
        own_mask(f, &mask);
        coarsen(&mask, level);
        g = home_in(find_group(t, &mask), f, leaf);
    }
    assert(g);
    return g;
}

static bool has_room(struct group *g, const struct flow *f, unsigned most)
{
    struct flow_key k;
    unsigned bit;
    key_of(f, &g->mask, &k);
    const struct trie_leaf *leaf = nearest(g, &k, &bit);
    return !leaf || bit != NO_BIT || leaf->count < most;
}

/* The group for a new flow; a fresh one is not published yet. */
static struct group *group_for(struct flow_table *t, const struct flow *f, bool *fresh)
{
    struct flow_key mask;
    *fresh = false;
    for (unsigned level = 0; level < LEVELS; level++) {
        own_mask(f, &mask);
        coarsen(&mask, level);
        struct group *g = find_group(t, &mask);
        if (!g) break;
        if (level == LEVELS - 1 || has_room(g, f, level == 0 ? LEAF_FLOWS : LEAF_FLOWS_FINE)) return g;
    }
    struct group *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    g->mask = mask;
    atomic_init(&g->max_priority, NO_PRIORITY);
    *fresh = true;
    return g;
}

static int add(struct flow_table *t, struct epoch *e, struct flow *f)
{
    bool fresh;
    struct group *g = group_for(t, f, &fresh);
    if (!g) return -ENOMEM;
    if (index_grow(t) || trie_add(g, e, f)) {
        if (fresh) free(g);
        return -ENOMEM;
    }
    if (!fresh) {
        reorder(t, e);
    } else if (!regroup(t, e, g, NULL)) {
        free(leaf_of(atomic_load_explicit(&g->root, memory_order_relaxed)));
        free(g);
        return -ENOMEM;
    }
    index_add(t, f);
    return 0;
}

static void drop_ref(struct epoch_node *n)
{
    flow_unref(container_of(n, struct flow, retired));
}

int table_insert(struct flow_table *t, struct epoch *e, struct flow *f, struct flow *replaced)
{
    if (!replaced) return add(t, e, f);
    struct trie_leaf *old;
    struct group *g = home_of(t, replaced, &old);
    struct trie_leaf *l = leaf_with(old, f, replaced);
    if (!l) return -ENOMEM;
    struct flow_key k;
    key_of(f, &g->mask, &k);
    leaf_publish(e, walk(g, &k, NO_BIT), old, l);
    index_remove(t, replaced);
    index_add(t, f);
    epoch_retire(e, &replaced->retired, drop_ref);
    return 0;
}

static void group_forget(struct flow_table *t, struct epoch *e, struct group *g)
{
    if (regroup(t, e, NULL, g)) epoch_retire(e, &g->retired, group_free);
}

void table_remove(struct flow_table *t, struct epoch *e, struct flow *f)
{
    struct trie_leaf *old;
    struct group *g = home_of(t, f, &old);
    struct flow_key k;
    key_of(f, &g->mask, &k);
    g->count--;
    if (old->count == 1) {
        cut(g, e, &k);
    } else {
        struct trie_leaf *l = leaf_with(old, NULL, f);
        while (!l) { /* a flow that must go cannot stay: make room by giving back what waits */
            epoch_wait(e);
            l = leaf_with(old, NULL, f);
        }
        leaf_publish(e, walk(g, &k, NO_BIT), old, l);
    }
    int max = lower(atomic_load_explicit(&g->root, memory_order_relaxed), &k);
    atomic_store_explicit(&g->max_priority, max, memory_order_relaxed);
    if (g->count == 0) group_forget(t, e, g);
    index_remove(t, f);
    epoch_retire(e, &f->retired, drop_ref);
}

static void trie_destroy(uintptr_t at)
{
    if (!at) return;
    if (at & LEAF_TAG) {
        free(leaf_of(at));
        return;
    }
    for (unsigned i = 0; i < 2; i++)
        trie_destroy(atomic_load_explicit(&node_of(at)->child[i], memory_order_relaxed));
    free(node_of(at));
}

void table_destroy(struct flow_table *t)
{
    struct group_array *a = atomic_load_explicit(&t->groups, memory_order_relaxed);
    for (unsigned i = 0; a && i < a->count; i++) {
        trie_destroy(atomic_load_explicit(&a->groups[i]->root, memory_order_relaxed));
        free(a->groups[i]);
    }
    free(a);
    LIST_FOR_EACH_SAFE (node, &t->flows)
        flow_unref(list_entry(node, struct flow, node));
    free(t->slots);
    table_init(t);
}
