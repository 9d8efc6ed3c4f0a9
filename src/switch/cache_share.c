/* SPDX-License-Identifier: Apache-2.0 */
/* What megaflows share: lists of actions, and paths through the tables with what was counted on them. */
#include <stdlib.h>

#include "switch/cache_internal.h"
#include "switch/choose.h"

/* For each megaflow, on an average, and in any case. They are small and shared, usually; but groups make lists of thousands of
 * actions, and whoever sends can make each of them another one, where a flow writes a part of the packet into it. */
#define SHARED_EACH_BYTES 1024u
#define SHARED_LEAST_BYTES (16u << 20)

/* NULL: no memory, or more than all of them may have. */
static void *shared_new(struct cache *c, size_t bytes)
{
    uint64_t most = (uint64_t)c->config.megaflows_max * SHARED_EACH_BYTES + SHARED_LEAST_BYTES;
    void *p = bytes <= most && c->shared_bytes <= most - bytes ? malloc(bytes) : NULL;
    if (p) c->shared_bytes += bytes;
    return p;
}

static void shared_free(struct cache *c, void *p, size_t bytes)
{
    c->shared_bytes -= bytes;
    free(p);
}

/* ---- lists of actions ---- */

static size_t list_bytes(unsigned count, unsigned sums, bool spread)
{
    return sizeof(struct dp_list) + count * sizeof(struct dp_action) + sums * sizeof(struct dp_sum) +
           spread * sizeof(struct dp_spread);
}

static bool has_sum(const struct dp_action *a)
{
    return a->type == DP_BUCKET || a->type == DP_COUNT;
}

static unsigned sums_of(const struct dp_action *a, unsigned count)
{
    unsigned sums = 0;
    for (unsigned i = 0; i < count; i++)
        if (has_sum(&a[i]) && a[i].bucket.sum >= sums) sums = a[i].bucket.sum + 1;
    return sums;
}

static bool is_spread(const struct dp_action *a, unsigned count)
{
    if (count == 0 || a->type != DP_SELECT || a->count + 1 != count) return false;
    for (unsigned i = 1; i <= a->select.buckets; i++)
        if (a[i].bucket.sum != i - 1 || a[i].count > 1 || (a[i].count && choose_actions(a, &a[i])->type != DP_OUTPUT))
            return false;
    return true;
}

static uint8_t spread_port(struct dp_spread *s, struct port *to)
{
    unsigned i = 0;
    while (i < s->ports && s->to[i] != to)
        i++;
    if (i == s->ports) s->to[s->ports++] = to;
    return (uint8_t)i;
}

static void spread_make(struct dp_spread *s, const struct dp_action *select)
{
    bool drops = false;
    *s = (struct dp_spread){.even = true, .alive = true, .buckets = select->select.buckets};
    for (unsigned i = 0; i < s->buckets; i++) {
        const struct dp_action *k = &select[1 + i];
        if (!(k->field & DP_BUCKET_ALIVE)) s->port[i] = SPREAD_DEAD;
        else if (k->count == 0) s->port[i] = SPREAD_DROP;
        else s->port[i] = spread_port(s, choose_actions(select, k)->to);
        s->even &= k->bucket.end == (i + 1) * select[1].bucket.end;
        s->alive &= s->port[i] != SPREAD_DEAD;
        drops |= s->port[i] == SPREAD_DROP;
    }
    if (s->ports == 1 && !drops) s->only = s->to[0];
}

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

bool cache_same_actions(const struct dp_list *l, const struct dp_action *a, unsigned count)
{
    return l->count == count && memcmp(l->actions, a, count * sizeof *a) == 0;
}

/* With no reference yet. */
static struct dp_list *list_new(struct cache *c, const struct dp_action *a, unsigned count, uint64_t hash)
{
    unsigned sums = sums_of(a, count);
    bool spread = is_spread(a, count);
    struct dp_list *l = shared_new(c, list_bytes(count, sums, spread));
    if (!l) return NULL;
    if (c->list_count++ > c->list_mask) lists_grow(c);
    *l = (struct dp_list){.next = c->lists[hash & c->list_mask], .hash = hash, .count = count};
    memcpy(l->actions, a, count * sizeof *a);
    l->sum_count = sums;
    l->sums = (struct dp_sum *)(void *)(l->actions + count);
    memset(l->sums, 0, sums * sizeof *l->sums);
    for (unsigned i = 0; i < count && sums; i++)
        if (has_sum(&a[i])) counts_ref(a[i].bucket.in);
    if (spread) spread_make(l->spread = (struct dp_spread *)(void *)(l->sums + sums), a);
    l->single = count == 1 && a->type == DP_OUTPUT ? a->to : NULL;
    l->again = count && a[count - 1].type == DP_RECIRCULATE;
    l->metered = count == 2 && a[0].type == DP_METER && a[1].type == DP_OUTPUT ? a[1].to : NULL;
    c->lists[hash & c->list_mask] = l;
    return l;
}

static struct dp_list *list_find(struct cache *c, const struct dp_action *a, unsigned count)
{
    if (c->recent && cache_same_actions(c->recent, a, count)) return c->recent;
    uint64_t hash = hash_actions(a, count);
    for (struct dp_list *l = c->lists[hash & c->list_mask]; l; l = l->next)
        if (l->hash == hash && cache_same_actions(l, a, count)) return l;
    return list_new(c, a, count, hash);
}

struct dp_list *cache_list_get(struct cache *c, const struct dp_action *a, unsigned count)
{
    struct dp_list *l = list_find(c, a, count);
    if (!l) return NULL;
    l->refs++;
    return c->recent = l;
}

void cache_list_put(struct cache *c, struct dp_list *l)
{
    if (--l->refs) return;
    struct dp_list **at = &c->lists[l->hash & c->list_mask];
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    c->list_count--;
    if (c->recent == l) c->recent = NULL;
    cache_list_hand_on(l);
    for (unsigned i = 0; i < l->count && l->sum_count; i++)
        if (has_sum(&l->actions[i])) counts_unref(l->actions[i].bucket.in);
    shared_free(c, l, list_bytes(l->count, l->sum_count, l->spread));
}

void cache_list_hand_on(struct dp_list *l)
{
    for (unsigned i = 0; i < l->count && l->sum_count; i++) {
        const struct dp_action *a = &l->actions[i];
        struct dp_sum *s = has_sum(a) ? &l->sums[a->bucket.sum] : NULL;
        if (!s || s->packets == 0) continue;
        counts_add((struct counted){a->bucket.in, a->bucket.at}, s->packets, s->bytes);
        *s = (struct dp_sum){0};
    }
}

/* ---- paths ---- */

/* As change_deps_same(): one by one. */
static bool same_flows(const struct megaflow_path *p, const struct cache_add *a)
{
    unsigned i = 0;
    while (i < a->flow_count && p->flows[i] == a->flows[i])
        i++;
    return i == a->flow_count;
}

static bool same_misses(const struct table_misses *a, const struct table_misses *b)
{
    return a->count == b->count && (a->count == 0 || memcmp(a->tables, b->tables, a->count) == 0);
}

static bool same_marks(const struct megaflow_path *p, const struct cache_add *a)
{
    unsigned i = 0;
    while (i < a->mark_count && memcmp(&p->meters[i].before, &a->marks[i], sizeof a->marks[i]) == 0)
        i++;
    return i == a->mark_count;
}

static bool path_is(const struct megaflow_path *p, const struct cache_add *a)
{
    unsigned differ = (p->flow_count ^ a->flow_count) | (p->counted_count ^ a->counted_count) |
                      (p->tables ^ (uint16_t)a->tables) | (unsigned)(p->refresh ^ a->refresh) |
                      (unsigned)(p->again ^ a->again) | (p->meter_count ^ a->mark_count);
    return differ == 0 && change_deps_same(&p->deps, a->deps) && same_misses(&p->misses, a->misses) &&
           same_flows(p, a) && same_marks(p, a) &&
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

/* NULL: it is not among those that are kept. */
static struct megaflow_path *path_find(struct cache *c, const struct cache_add *a)
{
    struct megaflow_path *p = c->paths[c->recent_path];
    if (p && path_is(p, a)) return p;
    c->recent_path = path_slot(a);
    p = c->paths[c->recent_path];
    return p && path_is(p, a) ? p : NULL;
}

/* The flow of this place is not among the path's. */
static void one_less_before(struct megaflow_path *p, const struct cache_add *a, unsigned flow)
{
    for (unsigned i = 0; i < p->meter_count; i++)
        if (flow < a->marks[i].flows) p->meters[i].before.flows--;
}

static struct megaflow_path *path_new(struct cache *c, const struct cache_add *a, uint8_t slot)
{
    size_t size = sizeof(struct megaflow_path) + a->flow_count * sizeof(struct flow *) +
                  a->counted_count * sizeof(struct counted) + a->mark_count * sizeof(struct path_meter);
    struct megaflow_path *p = shared_new(c, size);
    if (!p) return NULL;
    *p = (struct megaflow_path){.slot = slot, .refresh = a->refresh, .again = a->again, .tables = (uint16_t)a->tables};
    p->size = size;
    p->misses = *a->misses;
    p->deps = *a->deps;
    p->counted = (struct counted *)(void *)(p->flows + a->flow_count);
    p->meters = (struct path_meter *)(void *)(p->counted + a->counted_count);
    for (; p->meter_count < a->mark_count; p->meter_count++)
        p->meters[p->meter_count] = (struct path_meter){.before = a->marks[p->meter_count]};
    for (unsigned i = 0; i < a->flow_count; i++) {
        if (flow_ref(a->flows[i])) p->flows[p->flow_count++] = a->flows[i];
        else one_less_before(p, a, i);
    }
    for (; p->counted_count < a->counted_count; p->counted_count++) {
        p->counted[p->counted_count] = a->counted[p->counted_count];
        counts_ref(a->counted[p->counted_count].in);
    }
    return c->paths[slot] = p;
}

struct megaflow_path *cache_path_get(struct cache *c, const struct cache_add *a)
{
    struct megaflow_path *p = path_find(c, a);
    if (!p) p = path_new(c, a, c->recent_path);
    if (p) p->refs++;
    return p;
}

static void path_free(struct cache *c, struct megaflow_path *p)
{
    for (unsigned i = 0; i < p->flow_count; i++)
        flow_unref(p->flows[i]);
    for (unsigned i = 0; i < p->counted_count; i++)
        counts_unref(p->counted[i].in);
    if (c->paths[p->slot] == p) c->paths[p->slot] = NULL;
    shared_free(c, p, p->size);
}

/* One that has something to hand on stays until then. */
void cache_path_put(struct cache *c, struct megaflow_path *p)
{
    if (--p->refs == 0 && p->packets == 0) path_free(c, p);
}

static void path_dropped(struct megaflow_path *p, unsigned meter, uint32_t bytes)
{
    if (meter >= p->meter_count) return;
    p->meters[meter].packets++;
    p->meters[meter].bytes += bytes;
}

bool cache_count(struct cache *c, const struct cache_port *p, const struct cache_add *a, uint32_t bytes,
                 unsigned dropped_by)
{
    struct megaflow_path *path = path_find(c, a);
    if (!path) path = path_new(c, a, c->recent_path); /* without a reference: it stays until it has handed on */
    if (!path) return false;
    cache_path_count(c, path, p->counters, 1, bytes, a->now_ns);
    path_dropped(path, dropped_by, bytes);
    return true;
}

void cache_count_dropped(struct cache *c, uint32_t line, unsigned meter, uint32_t bytes)
{
    path_dropped(c->cold[line].path, meter, bytes);
}

void cache_path_count(struct cache *c, struct megaflow_path *p, struct table_counters *counters, uint64_t packets,
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

/* For what lies between two marks. */
static void hand_on_between(struct megaflow_path *p, const struct count_mark *from, const struct count_mark *to,
                            uint64_t packets, uint64_t bytes)
{
    uint64_t tables[4];
    struct table_misses misses = {.count = (uint8_t)(to->misses - from->misses)};
    if (packets == 0 && bytes == 0) return;
    for (unsigned i = from->flows; i < to->flows; i++)
        flow_count(p->flows[i], packets, bytes, p->used_ns);
    for (unsigned i = from->counted; i < to->counted; i++)
        counts_add(p->counted[i], packets, bytes);
    if (!p->counters || p->again) return;
    for (unsigned i = 0; i < 4; i++)
        tables[i] = to->tables[i] & ~from->tables[i];
    memcpy(misses.tables, p->misses.tables + from->misses, misses.count);
    table_count(p->counters, tables, &misses, packets);
}

/* What was dropped is taken away no sooner than it is there: some of it may be its megaflow's still. */
static uint64_t less(uint64_t all, uint64_t *dropped)
{
    uint64_t taken = *dropped < all ? *dropped : all;
    *dropped -= taken;
    return all - taken;
}

static void path_hand_on(struct megaflow_path *p)
{
    struct count_mark from = {0}, all = {.flows = (uint16_t)p->flow_count,
                                         .counted = (uint16_t)p->counted_count,
                                         .misses = p->misses.count};
    memcpy(all.tables, p->deps.tables, sizeof all.tables);
    for (unsigned i = 0; i < p->meter_count; i++) {
        struct path_meter *m = &p->meters[i];
        hand_on_between(p, &from, &m->before, p->packets, p->bytes);
        from = m->before;
        p->packets = less(p->packets, &m->packets);
        p->bytes = less(p->bytes, &m->bytes);
    }
    hand_on_between(p, &from, &all, p->packets, p->bytes);
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
