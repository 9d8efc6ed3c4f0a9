/* SPDX-License-Identifier: Apache-2.0 */
#include "switch/thread.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "switch/choose.h"
#include "switch/extract.h"
#include "switch/recirculate.h"

#define SWEEP_LINES 64u /* looked at between two batches */

/* ---- the burst ---- */

struct burst {
    struct switch_thread *t;
    struct switch_port *in;
    struct cache_port *port;
    struct execute_context run;
    struct packet_pool_mark mark; /* what the pool had given before this burst */
    unsigned count;
    struct packet *packets[PACKET_BATCH];
    const struct flow_key *keys[PACKET_BATCH];
    uint32_t lines[PACKET_BATCH];
    /* Where several ports have this thread: the time of new flows is limited. */
    bool limited;
    uint64_t since_ns; /* not yet taken from the port's quota */
    unsigned over_quota;
    /* Of each subtable in which megaflows were made, or found to be still true, in this burst: one of them. */
    unsigned fresh_count;
    uint32_t fresh[PACKET_BATCH], fresh_generation[PACKET_BATCH];
};

#define POOL_ENOUGH (PACKET_POOL_PACKETS / 2) /* left at least, for the copies of one packet */

/* Copies are taken back as soon as the next packet might go short of some, rather than at the end of the batch. */
static void take_back_copies(struct burst *b)
{
    if (packet_pool_mark(b->t->pool).packets < POOL_ENOUGH) return;
    outbox_flush(&b->t->outbox);
    packet_pool_rewind(b->t->pool, b->mark);
}

/* Which meter has dropped the packet, or COUNT_ALL. sums: the list's, or NULL. */
static unsigned carry_out(struct burst *b, struct packet *p, const struct dp_action *a, unsigned count,
                          struct dp_sum *sums)
{
    unsigned dropped_by = COUNT_ALL;
    b->run.length_bytes = p->length_bytes;
    b->run.sums = sums;
    if (count == 0 || !execute(&b->run, p, a, count)) {
        b->t->dropped++;
        if (b->run.exceeded) dropped_by = dp_meter_number(a, b->run.exceeded);
        b->run.exceeded = NULL;
    }
    take_back_copies(b);
    return dropped_by;
}

/* The packet may be longer afterwards. */
static void carry_out_list(struct burst *b, uint32_t line, const struct dp_list *l, struct packet *p)
{
    uint32_t bytes = p->length_bytes;
    unsigned dropped_by = carry_out(b, p, l->actions, l->count, l->sums);
    if (__builtin_expect(dropped_by != COUNT_ALL, false)) cache_count_dropped(&b->t->cache, line, dropped_by, bytes);
}

static void spread_one(struct switch_thread *t, const struct dp_list *l, struct packet *p)
{
    unsigned bucket = choose_spread(l->spread, l->actions, choose_hash(l->actions->select.group, p));
    unsigned port = l->spread->port[bucket];
    l->sums[bucket].packets++; /* the list's first sums are its buckets' */
    l->sums[bucket].bytes += p->length_bytes;
    if (port != SPREAD_DROP) outbox_put(&t->outbox, l->spread->to[port], p);
    else t->dropped++;
}

static void obey_last(struct burst *b, struct megaflow *m, uint32_t line, struct packet *p)
{
    const struct dp_list *l = m->list;
    m->packets++;
    m->bytes += p->length_bytes;
    if (l->single) outbox_put(&b->t->outbox, l->single, p);
    else if (l->metered && meter_passes(&b->t->meters, l->actions[0].meter, p->length_bytes))
        outbox_put(&b->t->outbox, l->metered, p);
    else if (l->spread) spread_one(b->t, l, p);
    else carry_out_list(b, line, l, p);
}

/* False: it leads to another look-up, which has found nothing: a miss. */
static bool obey(struct burst *b, struct megaflow *m, uint32_t line, struct packet *p)
{
    if (__builtin_expect(m->list->again, false)) {
        m->packets++;
        m->bytes += p->length_bytes;
        line = recirculate_find(b->t, b->port->word0, line, p);
        if (!line) return false;
        m = cache_megaflow(&b->t->cache, line);
    }
    obey_last(b, m, line, p);
    return true;
}

static bool fresh_is_there(const struct burst *b, unsigned i)
{
    return cache_megaflow(&b->t->cache, b->fresh[i])->generation == b->fresh_generation[i];
}

static void fresh_note(struct burst *b, uint32_t line)
{
    const struct cache *c = &b->t->cache;
    unsigned i = 0;
    while (i < b->fresh_count && !(fresh_is_there(b, i) && c->cold[b->fresh[i]].table == c->cold[line].table))
        i++;
    if (i == PACKET_BATCH) return;
    if (i == b->fresh_count) b->fresh_count++;
    b->fresh[i] = line;
    b->fresh_generation[i] = cache_megaflow(c, line)->generation;
}

/* A megaflow of this key that a packet before it in the burst has brought about. */
static uint32_t fresh_find(const struct burst *b, const struct flow_key *k)
{
    const struct cache *c = &b->t->cache;
    for (unsigned i = 0; i < b->fresh_count; i++) {
        uint32_t line = fresh_is_there(b, i) ? cache_find_beside(c, b->fresh[i], k) : 0;
        if (line && thread_is_valid(b->t, cache_megaflow(c, line))) return line;
    }
    return 0;
}

/* The megaflow that stands for this translation: the old one, if it says the same, or a new one. 0: none. *first: the one that
 * packets of the key as it came are found by. */
static uint32_t keep(struct burst *b, uint32_t old, const struct cache_add *a, uint32_t *first)
{
    struct switch_thread *t = b->t;
    bool once = t->translation->once || t->translation->failed;
    if (t->translation->inner_count && !once) return recirculate_keep(t, b->port, a, first);
    if (old && !once && cache_same(&t->cache, old, a)) {
        t->revalidated++;
        return *first = old;
    }
    if (old) cache_remove(&t->cache, old);
    else if (cache_is_full(&t->cache)) return *first = 0;
    return *first = once ? 0 : cache_add(&t->cache, b->port, a);
}

static struct cache_add add_of(const struct switch_thread *t, const struct flow_key *k)
{
    const struct translation *tr = t->translation;
    return (struct cache_add){.key = k,
                              .mask = &tr->mask,
                              .actions = tr->actions,
                              .action_count = tr->count,
                              .flows = tr->flows,
                              .flow_count = tr->flow_count,
                              .counted = tr->counted,
                              .counted_count = tr->counted_count,
                              .marks = tr->marks,
                              .mark_count = tr->mark_count,
                              .tables = tr->tables,
                              .misses = &tr->misses,
                              .deps = &tr->deps,
                              .refresh = tr->refresh,
                              .valid_at = t->seen[1],
                              .now_ns = t->now_ns};
}

/* ---- what new flows may take ---- */

static void quota_begin(struct burst *b)
{
    struct switch_thread *t = b->t;
    b->limited = t->now_ns < t->shared_until_ns && t->sw->config.new_flows_ns;
    b->over_quota = 0;
    if (!b->limited) return;
    quota_give(&b->port->quota, t->round, t->sw->config.new_flows_ns);
    b->since_ns = clock_now_ns();
}

/* The time since the last translation, or since the burst's first, was spent on one. */
static void quota_spend(struct burst *b)
{
    if (!b->limited) return;
    uint64_t now_ns = clock_now_ns();
    quota_take(&b->port->quota, now_ns - b->since_ns);
    b->since_ns = now_ns;
}

static bool within_quota(struct burst *b)
{
    if (!b->limited || quota_is_left(&b->port->quota)) return true;
    b->over_quota++;
    return false;
}

static void quota_end(struct burst *b)
{
    if (b->over_quota == 0) return;
    b->t->over_quota += b->over_quota;
    b->t->dropped += b->over_quota;
    atomic_fetch_add_explicit(&b->in->port->in.dropped, b->over_quota, memory_order_relaxed);
}

/* ---- misses ---- */

static void miss(struct burst *b, unsigned i, uint32_t stale, uint32_t stale_generation)
{
    struct switch_thread *t = b->t;
    struct packet *p = b->packets[i];
    uint32_t line = fresh_find(b, b->keys[i]);
    if (line && obey(b, cache_megaflow(&t->cache, line), line, p)) return;
    if (!within_quota(b)) return;
    struct translation_request r = {.bridge = b->in->bridge,
                                    .in = b->in,
                                    .key = b->keys[i],
                                    .packet = p,
                                    .pool = t->pool,
                                    .meters = &t->meters,
                                    .learn = true,
                                    .now_s = (uint32_t)(t->now_ns / NS_PER_SECOND)};
    translate(&r, t->translation);
    t->translations++;
    if (stale && !cache_holds(&t->cache, stale, stale_generation, b->keys[i])) stale = 0;
    struct cache_add a = add_of(t, b->keys[i]);
    uint32_t first;
    line = keep(b, stale, &a, &first);
    if (first) fresh_note(b, first);
    if (line) {
        obey_last(b, cache_megaflow(&t->cache, line), line, p);
    } else {
        const struct translation *tr = t->translation;
        uint32_t bytes = p->length_bytes;
        unsigned dropped_by = carry_out(b, p, tr->actions, tr->count, NULL);
        if (!cache_count(&t->cache, b->port, &a, bytes, dropped_by))
            translation_count(b->in->bridge, tr, bytes, dropped_by, t->now_ns);
    }
    quota_spend(b);
}

/* All of them will be looked up in table 0: the memory latency of one is spent on the others. */
static void fetch_flows(const struct burst *b, const uint8_t *missed, unsigned misses)
{
    const struct flow_key *keys[TABLE_PREFETCH];
    for (unsigned i = 0; i < misses; i++)
        keys[i] = b->keys[missed[i]];
    table_prefetch(&b->in->bridge->tables[0], keys, misses);
}
static_assert(TABLE_PREFETCH >= PACKET_BATCH, "a burst's keys");

/* Hits first; what is no longer true, and what was not found, afterwards and in order. */
static void obey_all(struct burst *b)
{
    struct switch_thread *t = b->t;
    uint32_t stale_generation[PACKET_BATCH];
    uint8_t missed[PACKET_BATCH];
    unsigned misses = 0;
    for (unsigned i = 0; i < b->count; i++) {
        uint32_t line = b->lines[i];
        struct megaflow *m = cache_megaflow(&t->cache, line);
        if (line && (thread_is_valid(t, m) || cache_revalidate(&t->cache, line, &t->sw->log, t->seen[1]))) {
            if (obey(b, m, line, b->packets[i])) continue;
            b->lines[i] = line = 0; /* it is not stale */
        }
        stale_generation[misses] = line ? m->generation : 0;
        missed[misses++] = (uint8_t)i;
    }
    if (misses == 0) return;
    quota_begin(b);
    if (misses > 1 && (!b->limited || quota_is_left(&b->port->quota))) fetch_flows(b, missed, misses);
    for (unsigned i = 0; i < misses; i++)
        miss(b, missed[i], b->lines[missed[i]], stale_generation[i]);
    quota_end(b);
}

static void add_packet(struct burst *b, struct packet *p, uint32_t *is_short)
{
    struct switch_thread *t = b->t;
    struct flow_key *k = &t->keys[b->count];
    enum extract e = extract_key(p, k);
    if (e == EXTRACT_INVALID) {
        t->dropped++;
        return;
    }
    k->words[0] = b->port->word0;
    b->keys[b->count] = k;
    if (e == EXTRACT_SHORT) *is_short |= UINT32_C(1) << b->count;
    b->packets[b->count++] = p;
}

static void look_up(struct burst *b, uint32_t is_short)
{
    struct cache *c = &b->t->cache;
    if (b->count == 0) return;
    cache_lookup(c, b->port, b->keys, b->count, is_short, b->lines);
    obey_all(b);
}

/* ---- port to port ---- */

#define SPREAD_PACKET (UINT64_C(1) << 48) /* packets and bytes of a burst, in one word */
static_assert(PACKET_BATCH < 1 << 16, "so many packets of up to 2^32 bytes");

static void spread_count(const struct dp_list *l, const uint8_t *bucket, struct packet *const *packets, unsigned count)
{
    struct dp_sum *to = l->sums; /* the first ones are its buckets' */
    unsigned buckets = l->spread->buckets;
    uint64_t sums[DP_BUCKETS_MAX];
    memset(sums, 0, buckets * sizeof sums[0]);
    for (unsigned i = 0; i < count; i++)
        sums[bucket[i]] += SPREAD_PACKET + packets[i]->length_bytes;
    for (unsigned i = 0; i < buckets; i++) {
        to[i].packets += sums[i] / SPREAD_PACKET;
        to[i].bytes += sums[i] % SPREAD_PACKET;
    }
}

/* Each packet is given to its bucket's port, all of a port at once. */
static void spread_send(struct switch_thread *t, const struct dp_spread *s, const uint8_t *bucket,
                        struct packet *const *packets, unsigned count)
{
    struct packet *out[SPREAD_DROP + 1][PACKET_BATCH];
    uint8_t counts[SPREAD_DROP + 1] = {0};
    for (unsigned i = 0; i < count; i++) {
        unsigned port = s->port[bucket[i]];
        out[port][counts[port]++] = packets[i];
    }
    for (unsigned i = 0; i < s->ports; i++)
        if (counts[i]) port_send(s->to[i], out[i], counts[i], t->pool);
    t->dropped += counts[SPREAD_DROP];
}

/* Apart from those who need none of its room on the stack. */
__attribute__((noinline)) static void spread_all(struct switch_thread *t, const struct dp_list *l, uint32_t word,
                                                 struct packet *const *packets, unsigned count)
{
    const struct dp_spread *s = l->spread;
    uint8_t bucket[PACKET_BATCH];
    choose_spread_all(s, l->actions, word, packets, count, bucket);
    spread_count(l, bucket, packets, count);
    if (s->only) port_send(s->only, packets, count, t->pool);
    else spread_send(t, s, bucket, packets, count);
}

/* All of a burst by one megaflow with one output, or one output of several: no key is made, and with one nothing is touched packet by packet. */
static bool straight(struct switch_thread *t, uint32_t line, uint32_t word, struct packet *const *packets,
                     unsigned count)
{
    struct megaflow *m = cache_megaflow(&t->cache, line);
    const struct dp_list *l = m->list;
    if (!thread_is_valid(t, m) || !(l->single || l->metered || l->spread)) return false;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++)
        bytes += packets[i]->length_bytes;
    if (l->metered && !meter_pass_all(&t->meters, l->actions[0].meter, count, bytes)) return false;
    m->packets += count;
    m->bytes += bytes;
    t->simple_hits += count;
    if (l->spread) {
        spread_all(t, l, word, packets, count);
        return true;
    }
    port_send(l->single ? l->single : l->metered, packets, count, t->pool);
    return true;
}

/* The packets at the front that have the word of the first. */
static unsigned alike(struct packet *const *packets, unsigned count, uint32_t *word)
{
    *word = extract_simple_word(packets[0]);
    unsigned n = 1;
    while (*word && n < count && extract_simple_word(packets[n]) == *word)
        n++;
    return *word ? n : 0;
}

static bool all_straight(struct switch_thread *t, const struct cache_port *p, struct packet *const *packets,
                         unsigned count)
{
    uint32_t word;
    if (p->simple_count == 0 || alike(packets, count, &word) != count) return false;
    uint32_t line = cache_simple_find(p, word);
    return line && straight(t, line, word, packets, count);
}

/* Megaflows that need no key: for single packets of a mixed burst. */
static bool simple(struct burst *b, struct packet *p)
{
    if (b->port->simple_count == 0) return false;
    uint32_t word = extract_simple_word(p);
    uint32_t line = word ? cache_simple_find(b->port, word) : 0;
    struct megaflow *m = cache_megaflow(&b->t->cache, line);
    if (!line || !thread_is_valid(b->t, m) || !obey(b, m, line, p)) return false;
    b->t->simple_hits++;
    return true;
}

/* ---- the sink ---- */

static void see_changes(struct switch_thread *t, const struct change_bridge *c)
{
    t->seen[0] = atomic_load_explicit(&c->last_but_mac, memory_order_acquire);
    t->seen[1] = atomic_load_explicit(&c->last, memory_order_acquire);
}

static void burst_begin(struct burst *b, struct switch_thread *t, struct switch_port *in, struct cache_port *p)
{
    const struct packet_in_handler *h = atomic_load_explicit(&t->sw->packet_in, memory_order_acquire);
    b->t = t;
    b->in = in;
    b->port = p;
    p->counters = in->bridge->counters;
    b->mark = packet_pool_mark(t->pool);
    b->count = b->fresh_count = 0;
    b->run = (struct execute_context){.outbox = &t->outbox,
                                      .meters = &t->meters,
                                      .bridge = in->bridge,
                                      .received = h ? h->received : NULL,
                                      .arg = h ? h->arg : NULL,
                                      .in_port = in->number};
}

static void note_sender(struct switch_thread *t, const struct switch_port *sp)
{
    if (t->last_word == switch_port_word(sp)) return;
    if (t->last_word) t->shared_until_ns = t->now_ns + QUOTA_SHARED_NS;
    t->last_word = switch_port_word(sp);
}

static void input(void *thread, struct port *in, struct packet *const *packets, unsigned count)
{
    struct switch_thread *t = thread;
    struct switch_port *sp = atomic_load_explicit(&in->switch_port, memory_order_acquire);
    t->packets += count;
    struct cache_port *p = sp ? cache_port_get(&t->cache, switch_port_word(sp)) : NULL;
    if (!p) {
        t->dropped += count;
        return;
    }
    note_sender(t, sp);
    see_changes(t, sp->changes);
    t->meters.now_ns = 0;
    t->meters.coarse_ns = t->now_ns;
    if (all_straight(t, p, packets, count)) return;
    struct burst b;
    uint32_t is_short = 0;
    burst_begin(&b, t, sp, p);
    for (unsigned i = 0; i < count; i++)
        if (!simple(&b, packets[i])) add_packet(&b, packets[i], &is_short);
    look_up(&b, is_short);
    if (t->meters.count) meter_run_end(&t->meters);
    outbox_flush(&t->outbox);
}

static uint64_t coarse_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SECOND + (uint64_t)ts.tv_nsec;
}

static void publish_one(_Atomic uint64_t *to, uint64_t v)
{
    atomic_store_explicit(to, v, memory_order_relaxed);
}

static void publish(struct switch_thread *t)
{
    const struct cache_stats *c = &t->cache.stats;
    publish_one(&t->counters.packets, t->packets);
    publish_one(&t->counters.emc_hits, c->emc_hits);
    publish_one(&t->counters.megaflow_hits, c->megaflow_hits + t->simple_hits);
    publish_one(&t->counters.translations, t->translations);
    publish_one(&t->counters.revalidated, t->revalidated);
    publish_one(&t->counters.dropped, t->dropped);
    publish_one(&t->counters.over_quota, t->over_quota);
    publish_one(&t->counters.expired, c->expired);
    publish_one(&t->counters.evicted, c->evicted);
    atomic_store_explicit(&t->counters.megaflows, c->megaflows, memory_order_relaxed);
    atomic_store_explicit(&t->counters.masks, c->masks, memory_order_relaxed);
}

/* False: the address is said to be elsewhere, which nobody doubted while it could not move (mac.h). */
static bool refreshed(void *arg, const struct change_deps *d, uint32_t in_port)
{
    struct switch_thread *t = arg;
    struct bridge *b = atomic_load_explicit(&t->sw->bridges[d->bridge], memory_order_acquire);
    if (!b) return true;
    struct mac_table *macs = atomic_load_explicit(&b->macs, memory_order_acquire);
    mac_refresh(macs, d->mac_src, in_port, (uint32_t)(t->now_ns / NS_PER_SECOND));
    uint32_t port = mac_lookup(macs, d->mac_src);
    return port == 0 || port == in_port;
}

/* Somebody wants what is ours: let him, holding nothing. */
static void step_aside(struct switch_thread *t)
{
    epoch_asleep(&t->reader);
    pthread_mutex_unlock(&t->own);
    while (atomic_load(&t->wanted))
        sched_yield();
    pthread_mutex_lock(&t->own);
    epoch_awake(&t->sw->epoch, &t->reader);
}

static void quiescent(void *thread)
{
    struct switch_thread *t = thread;
    t->now_ns = coarse_now_ns();
    t->round++;
    cache_sweep(&t->cache, t->now_ns, SWEEP_LINES, refreshed, t);
    if (t->cache.counting) cache_hand_on(&t->cache);
    publish(t);
    epoch_quiescent(&t->sw->epoch, &t->reader);
    if (atomic_load_explicit(&t->wanted, memory_order_relaxed)) step_aside(t);
}

static void asleep(void *thread)
{
    struct switch_thread *t = thread;
    if (!t->is_awake) return;
    publish(t);
    t->is_awake = false;
    epoch_asleep(&t->reader);
    pthread_mutex_unlock(&t->own);
}

static void awake(void *thread)
{
    struct switch_thread *t = thread;
    if (t->is_awake) return;
    pthread_mutex_lock(&t->own);
    epoch_awake(&t->sw->epoch, &t->reader);
    t->is_awake = true;
    uint64_t before_ns = t->now_ns; /* it went to sleep */
    t->now_ns = coarse_now_ns();
    t->round += quota_rounds(t->now_ns - before_ns, t->sw->config.new_flows_ns);
}

static int init(struct switch_thread *t, struct net_switch *s)
{
    const struct switch_config *c = &s->config;
    struct switch_config_cache cc = {c->megaflows_max, c->masks_max, c->emc_entries, false};
    if (c->flows == SWITCH_FLOWS_EXACT) cc = (struct switch_config_cache){c->exact_max, 0, 0, true};
    t->translation = calloc(1, sizeof *t->translation);
    if (!t->translation) return -ENOMEM;
    return cache_init(&t->cache, &cc);
}

static void *thread_new(void *arg, struct packet_pool *pool)
{
    struct net_switch *s = arg;
    struct switch_thread *t = aligned_alloc(64, (sizeof *t + 63) / 64 * 64);
    if (!t) return NULL;
    memset(t, 0, sizeof *t);
    if (init(t, s)) {
        free(t->translation);
        free(t);
        return NULL;
    }
    t->sw = s;
    t->pool = t->outbox.pool = pool;
    prctl(PR_GET_NAME, t->name);
    pthread_mutex_init(&t->own, NULL);
    epoch_join(&s->epoch, &t->reader);
    pthread_mutex_lock(&s->threads_lock);
    list_push_back(&s->threads, &t->node);
    pthread_mutex_unlock(&s->threads_lock);
    t->now_ns = coarse_now_ns();
    awake(t);
    return t;
}

static void thread_free(void *thread)
{
    struct switch_thread *t = thread;
    if (!t) return;
    asleep(t);
    pthread_mutex_lock(&t->sw->threads_lock);
    list_remove(&t->node);
    thread_counters_add(t, &t->sw->ended);
    t->sw->ended.threads = t->sw->ended.megaflows = t->sw->ended.masks = 0;
    pthread_mutex_unlock(&t->sw->threads_lock);
    epoch_leave(&t->sw->epoch, &t->reader);
    cache_destroy(&t->cache);
    pthread_mutex_destroy(&t->own);
    free(t->translation);
    free(t);
}

void thread_sink_init(struct net_switch *s)
{
    s->sink = (struct runner_sink){.thread_new = thread_new,
                                   .thread_free = thread_free,
                                   .input = input,
                                   .quiescent = quiescent,
                                   .asleep = asleep,
                                   .awake = awake,
                                   .arg = s};
}

/* ---- for the control thread ---- */

void thread_hold(struct switch_thread *t)
{
    atomic_fetch_add(&t->wanted, 1);
    pthread_mutex_lock(&t->own);
}

void thread_release(struct switch_thread *t)
{
    atomic_fetch_sub(&t->wanted, 1);
    pthread_mutex_unlock(&t->own);
}

void thread_each(struct net_switch *s, void (*visit)(void *arg, struct switch_thread *t), void *arg)
{
    pthread_mutex_lock(&s->threads_lock);
    LIST_FOR_EACH (node, &s->threads) {
        struct switch_thread *t = list_entry(node, struct switch_thread, node);
        thread_hold(t);
        visit(arg, t);
        thread_release(t);
    }
    pthread_mutex_unlock(&s->threads_lock);
}

void thread_sweep_asleep(struct net_switch *s, uint64_t now_ns)
{
    pthread_mutex_lock(&s->threads_lock);
    LIST_FOR_EACH (node, &s->threads) {
        struct switch_thread *t = list_entry(node, struct switch_thread, node);
        if (pthread_mutex_trylock(&t->own)) continue;
        t->now_ns = now_ns;
        cache_sweep(&t->cache, now_ns, UINT32_MAX, refreshed, t);
        cache_hand_on(&t->cache);
        publish(t);
        pthread_mutex_unlock(&t->own);
    }
    pthread_mutex_unlock(&s->threads_lock);
}

void thread_counters_add(struct switch_thread *t, struct switch_stats *out)
{
    const struct thread_counters *c = &t->counters;
    out->packets += atomic_load_explicit(&c->packets, memory_order_relaxed);
    out->emc_hits += atomic_load_explicit(&c->emc_hits, memory_order_relaxed);
    out->megaflow_hits += atomic_load_explicit(&c->megaflow_hits, memory_order_relaxed);
    out->translations += atomic_load_explicit(&c->translations, memory_order_relaxed);
    out->revalidated += atomic_load_explicit(&c->revalidated, memory_order_relaxed);
    out->dropped += atomic_load_explicit(&c->dropped, memory_order_relaxed);
    out->over_quota += atomic_load_explicit(&c->over_quota, memory_order_relaxed);
    out->expired += atomic_load_explicit(&c->expired, memory_order_relaxed);
    out->evicted += atomic_load_explicit(&c->evicted, memory_order_relaxed);
    out->megaflows += atomic_load_explicit(&c->megaflows, memory_order_relaxed);
    out->masks += atomic_load_explicit(&c->masks, memory_order_relaxed);
    out->threads++;
}
