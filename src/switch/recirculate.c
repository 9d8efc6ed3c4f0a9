/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/recirculate.h"

#include "switch/extract.h"

static struct cache_port *port_of_later(struct cache *c, uint64_t word)
{
    struct flow_key k = {.words = {word}};
    k.recirculated = 1;
    return cache_port_get(c, k.words[0]);
}

static void set_number(struct flow_key *k, uint32_t number)
{
    memcpy(k->recirculation_high, &number, 2);
    memcpy(k->recirculation_low, (const uint8_t *)&number + 2, 2);
}

uint32_t recirculate_number(const struct flow_key *k)
{
    uint32_t number;
    memcpy(&number, k->recirculation_high, 2);
    memcpy((uint8_t *)&number + 2, k->recirculation_low, 2);
    return number;
}

static uint32_t number_of(const struct dp_list *l)
{
    return l->actions[l->count - 1].id;
}

/* ---- on the way ---- */

static bool key_after(struct packet_pool *pool, const struct dp_list *l, const struct packet *p, struct flow_key *k)
{
    struct packet_pool_mark mark = packet_pool_mark(pool);
    struct packet *copy = packet_clone(pool, p);
    bool ok = copy;
    for (unsigned i = 0; ok && i + 1 < l->count; i++)
        ok = execute_change(copy, &l->actions[i]);
    ok = ok && extract_key(copy, k) != EXTRACT_INVALID;
    packet_pool_rewind(pool, mark);
    if (ok) set_number(k, number_of(l));
    return ok;
}

uint32_t recirculate_find(struct switch_thread *t, uint64_t port_word, uint32_t line, const struct packet *p)
{
    struct cache_port *later = port_of_later(&t->cache, port_word);
    for (unsigned i = 0; later && i <= TRANSLATION_INNER; i++) {
        struct flow_key k;
        const struct flow_key *key = &k;
        const struct dp_list *l = cache_megaflow(&t->cache, line)->list;
        if (!l->again) return line;
        if (!key_after(t->pool, l, p, &k)) return 0;
        k.words[0] = later->word0;
        cache_lookup(&t->cache, later, &key, 1, 0, &line);
        if (!line || !thread_holds_true(t, line)) return 0;
    }
    return 0;
}

/* ---- kept ---- */

/* The one that there is already, if it says the same, or a new one. */
static uint32_t keep_last(struct switch_thread *t, struct cache_port *p, const struct cache_add *a)
{
    uint32_t old;
    cache_lookup(&t->cache, p, &a->key, 1, 0, &old);
    if (old && cache_same(&t->cache, old, a)) return old;
    if (old) cache_remove(&t->cache, old);
    return cache_add(&t->cache, p, a);
}

static void set_last(struct switch_thread *t, unsigned at, uint32_t number)
{
    t->steps[at] = (struct dp_action){.type = DP_RECIRCULATE, .id = number};
}

/* One that leads on: nothing is counted on it, and whether the addresses are true is asked of the last one. */
static uint32_t keep_step(struct switch_thread *t, struct cache_port *p, const struct cache_add *whole,
                          const struct translation_inner *to, uint32_t *number)
{
    struct change_deps deps = *whole->deps;
    struct cache_add a = *whole;
    uint32_t old;
    deps.mac = false;
    deps.mac_src = deps.mac_dst = 0;
    memcpy(t->steps, t->translation->changes + to->change_at, to->change_count * sizeof t->steps[0]);
    a.deps = &deps;
    a.actions = t->steps;
    a.action_count = to->change_count + 1u;
    a.flow_count = a.counted_count = a.mark_count = 0;
    a.refresh = false;
    a.again = true;
    cache_lookup(&t->cache, p, &a.key, 1, 0, &old);
    const struct dp_list *l = old ? cache_megaflow(&t->cache, old)->list : NULL;
    if (l && l->again) {
        set_last(t, to->change_count, *number = number_of(l));
        if (cache_same(&t->cache, old, &a)) return old;
    }
    if (old) cache_remove(&t->cache, old);
    set_last(t, to->change_count, *number = cache_number(&t->cache));
    return cache_add(&t->cache, p, &a);
}

uint32_t recirculate_keep(struct switch_thread *t, struct cache_port *p, const struct cache_add *a, uint32_t *first)
{
    struct translation *tr = t->translation;
    struct cache_port *later = port_of_later(&t->cache, p->word0);
    struct cache_add step = *a;
    *first = 0;
    if (!later) return 0;
    later->counters = p->counters;
    for (unsigned i = 0; i < tr->inner_count; i++) {
        struct translation_inner *in = &tr->inner[i];
        uint32_t number, line = keep_step(t, i ? later : p, &step, in, &number);
        if (!line) return 0;
        if (i == 0) *first = line;
        in->key.words[0] = later->word0;
        set_number(&in->key, number);
        memset(in->mask.recirculation_high, 0xff, sizeof in->mask.recirculation_high);
        memset(in->mask.recirculation_low, 0xff, sizeof in->mask.recirculation_low);
        step.key = &in->key;
        step.mask = &in->mask;
    }
    uint32_t last = keep_last(t, later, &step);
    if (*first && !t->cache.cold[*first].table) *first = 0; /* it had to make room for another */
    return last;
}
