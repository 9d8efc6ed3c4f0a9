/* SPDX-License-Identifier: Apache-2.0 */
/* Megaflows: making, keeping and dropping them; their counters and their age. */
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
#define GENERATION_MAX 0x7fffffffu
/* A megaflow of each size: lines given back in one size do not serve for another. */
#define LINES_OF_ALL_SIZES ((unsigned)(MEGAFLOW_LINES_MAX * (MEGAFLOW_LINES_MAX + 1) / 2))

/* Lines that are brought into memory together: one page's, or a part of what is used already. */
#define READY_LEAST 64u
#define READY_MOST 1024u
#define READY_PART 4u

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
    c->lines = cache_map((size_t)c->lines_max * 64);
    c->cold = cache_map(c->lines_max * sizeof *c->cold);
    c->exact = config->emc_entries ? cache_map(exact_bytes(c)) : NULL;
    c->hints = cache_map(CACHE_HINTS);
    c->lists = calloc(CACHE_LISTS_MIN, sizeof(struct dp_list *));
    c->list_mask = CACHE_LISTS_MIN - 1;
    if (c->lines && c->cold && c->hints && c->lists && (c->exact || !config->emc_entries)) return 0;
    cache_destroy(c);
    return -ENOMEM;
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
    cache_unmap(c->lines, (size_t)c->lines_max * 64);
    cache_unmap(c->cold, c->lines_max * sizeof *c->cold);
    cache_unmap(c->exact, exact_bytes(c));
    cache_unmap(c->hints, CACHE_HINTS);
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

/* There are enough of them for an hour of a million each second; then all begins anew. */
uint32_t cache_number(struct cache *c)
{
    if (++c->number) return c->number;
    for (uint32_t i = 1; i < c->lines_used; i++)
        if (c->cold[i].table) cache_remove(c, i);
    return ++c->number;
}

static void forget(struct cache *c, uint64_t word0)
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

void cache_forget_port(struct cache *c, uint64_t word0)
{
    struct flow_key later = {.words = {word0}};
    later.recirculated = 1;
    forget(c, word0);
    forget(c, later.words[0]);
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
    cache_populate(c->lines + (size_t)c->lines_ready * 64, (size_t)more * 64);
    cache_populate(c->cold + c->lines_ready, more * sizeof *c->cold);
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
    if (!c->config.evict) return;
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
    m->list = cache_list_get(c, a->actions, a->action_count);
    cold->path = cache_path_get(c, a);
    if (!m->list || !cold->path || !cache_table_insert(t, sig, line)) {
        if (m->list) cache_list_put(c, m->list);
        if (cold->path) cache_path_put(c, cold->path);
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
    if (c->stats.megaflows >= c->config.megaflows_max) make_room(c);
    if (c->stats.megaflows >= c->config.megaflows_max) return 0;
    struct subtable *t = cache_table_for(c, p, a->mask);
    if (!t) return 0;
    uint32_t sig = cache_hash(c, t, a->key);
    uint32_t old = cache_table_find(c, t, sig, a->key);
    if (old) { /* of an earlier state; the table may go with it */
        cache_remove(c, old);
        t = cache_table_for(c, p, a->mask);
        if (!t) return 0;
        sig = cache_hash(c, t, a->key); /* it may have another mask */
    }
    uint32_t line = fill(c, t, a, sig);
    if (!line) {
        if (t->count == 0) cache_table_drop(c, t);
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
    cache_table_take(t, cold->sig, line);
    cache_list_put(c, m->list);
    cache_path_put(c, cold->path);
    cold->table = NULL;
    line_put(c, line, lines_of(t));
    c->stats.megaflows--;
    if (t->count == 0) cache_table_drop(c, t);
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
        !cache_same_actions(m->list, a->actions, a->action_count))
        return false;
    struct megaflow_path *path = cache_path_get(c, a);
    if (!path) return false;
    cache_fold(c, line, a->now_ns);
    cache_path_put(c, cold->path);
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
    cache_path_count(c, cold->path, cold->table->port->counters, m->packets, m->bytes, now_ns);
    if (m->list->sum_count) cache_list_hand_on(m->list);
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
