/* SPDX-License-Identifier: Apache-2.0 */
/* The token buckets of meters: what packets meet. */
#include <stdlib.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "switch/meter_internal.h"

#define SIXTEENTHS 4  /* of a nanosecond: as a shift */
#define COST_SHIFT 20 /* of per_unit: a kilobit a second is 2^47, 2^32 kilobits are 2^15 */
#define DEPTH_MAX (UINT64_C(1) << 60)
#define COARSE_NS 20000000u /* five times what a coarse clock may be behind */
#define AHEAD 32u           /* packets that are taken for at once.. */
#define BUDGET_MAX 1e15
#define PART 16u /* ..if that is no more than such a part of what is there */
#define BYTES_OF_KILOBIT 125u

static uint64_t cost(const struct meter_rate *r, uint64_t units)
{
    unsigned __int128 c = (unsigned __int128)r->per_unit * units >> COST_SHIFT;
    return c > DEPTH_MAX ? DEPTH_MAX : (uint64_t)c;
}

static void rate_init(struct meter_rate *r, const struct meter_spec *spec, unsigned band)
{
    const struct meter_band *b = &spec->bands[band];
    bool by_packet = spec->flags & METER_PKTPS;
    uint64_t burst = (spec->flags & METER_BURST) && b->burst ? b->burst : b->rate;
    r->type = (uint8_t)b->type;
    r->prec_level = b->prec_level;
    r->band = (uint8_t)band;
    r->never = b->rate == 0;
    if (r->never) return;
    uint64_t second = NS_PER_SECOND << (SIXTEENTHS + COST_SHIFT), unit = by_packet ? 1 : BYTES_OF_KILOBIT;
    r->per_unit = second / unit / b->rate;
    r->units = (double)(UINT64_C(1) << COST_SHIFT) / (double)(r->per_unit ? r->per_unit : 1);
    r->depth = cost(r, burst * unit);
}

static void sort(struct meter_config *c, const struct meter_spec *spec)
{
    for (unsigned i = 1; i < c->count; i++)
        for (unsigned j = i; j > 0; j--) {
            unsigned a = c->rates[j - 1].band, b = c->rates[j].band;
            if (spec->bands[a].rate >= spec->bands[b].rate) break;
            c->rates[j - 1].band = (uint8_t)b;
            c->rates[j].band = (uint8_t)a;
        }
}

struct meter_config *meter_config_new(const struct meter_spec *spec)
{
    size_t bytes = sizeof(struct meter_config) + spec->count * sizeof(struct meter_rate);
    struct meter_config *c = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!c) return NULL;
    memset(c, 0, bytes);
    c->by_packet = spec->flags & METER_PKTPS;
    c->count = spec->count;
    c->coarse = true;
    for (unsigned i = 0; i < c->count; i++)
        c->rates[i].band = (uint8_t)i;
    sort(c, spec);
    for (unsigned i = 0; i < c->count; i++) {
        rate_init(&c->rates[i], spec, c->rates[i].band);
        c->remarks |= c->rates[i].type == METER_DSCP_REMARK;
        c->coarse &= c->rates[i].depth >= (uint64_t)COARSE_NS << SIXTEENTHS;
    }
    return c;
}

/* What is in a bucket of that depth that will be full at `at`. */
static uint64_t content(uint64_t depth, uint64_t at, uint64_t now)
{
    uint64_t missing = at > now ? at - now : 0;
    return missing < depth ? depth - missing : 0;
}

/* At least need, or nothing: 0. Some more, up to wish, if there is plenty. For one packet: a bucket that is too small for it is taken
 * for one of two such packets. */
static uint64_t take(struct meter_rate *r, uint64_t need, uint64_t wish, bool one, uint64_t now)
{
    uint64_t at = atomic_load_explicit(&r->full_at, memory_order_relaxed), got;
    uint64_t depth = one && need > r->depth ? 2 * need : r->depth;
    if (r->never) return 0;
    do {
        uint64_t there = content(depth, at, now);
        if (need > there) return 0;
        got = wish < there / PART ? wish : there / PART;
        if (got < need) got = need;
    } while (!atomic_compare_exchange_weak_explicit(&r->full_at, &at, (at > now ? at : now) + got, memory_order_relaxed,
                                                    memory_order_relaxed));
    return got;
}

static void give_back(struct meter_rate *r, uint64_t tokens)
{
    if (tokens) atomic_fetch_sub_explicit(&r->full_at, tokens, memory_order_relaxed);
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
    if (n) atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* The budget is taken back: what was used of it is charged to the bands. */
static void end_budget(struct meter_hold *h)
{
    uint64_t used = h->budget_was - h->budget;
    for (unsigned i = 0; used && i < h->config->count; i++) {
        uint64_t charge = cost(&h->config->rates[i], used), *left = &h->rates[i].left;
        *left -= charge < *left ? charge : *left;
    }
    h->budget = h->budget_was = 0;
}

static void begin_budget(struct meter_hold *h)
{
    double least = BUDGET_MAX;
    for (unsigned i = 0; i < h->config->count; i++) {
        double units = (double)h->rates[i].left * h->config->rates[i].units;
        if (units < least) least = units;
    }
    h->budget = h->budget_was = (uint64_t)least;
}

static void settle(struct meter_hold *h)
{
    end_budget(h);
    count(&h->meter->packets, h->packets);
    count(&h->meter->bytes, h->bytes);
    for (unsigned i = 0; i < h->config->count; i++) {
        struct meter_rate *r = &h->config->rates[i];
        give_back(r, h->rates[i].left);
        count(&r->packets, h->rates[i].packets);
        count(&r->bytes, h->rates[i].bytes);
    }
}

void meter_run_end(struct meter_run *r)
{
    for (unsigned i = 0; i < r->count; i++)
        settle(&r->holds[i]);
    r->last = NULL;
    r->count = 0;
    r->now_ns = 0;
}

static uint64_t now_for(struct meter_run *r, const struct meter_config *c)
{
    if (c->coarse && r->coarse_ns) return r->coarse_ns << SIXTEENTHS;
    if (r->now_ns == 0) r->now_ns = clock_now_ns();
    return r->now_ns << SIXTEENTHS;
}

static struct meter_hold *hold_new(struct meter_run *r, struct meter *m)
{
    if (r->count == METER_HOLDS) {
        settle(&r->holds[0]);
        memmove(r->holds, r->holds + 1, --r->count * sizeof r->holds[0]);
    }
    struct meter_hold *h = &r->holds[r->count++];
    h->meter = m;
    h->config = atomic_load_explicit(&m->config, memory_order_acquire);
    h->by_packet = h->config->by_packet;
    h->budget = h->budget_was = h->packets = h->bytes = 0;
    memset(h->rates, 0, h->config->count * sizeof h->rates[0]);
    return h;
}

static struct meter_hold *hold_of(struct meter_run *r, struct meter *m)
{
    r->last = NULL;
    for (unsigned i = 0; i < r->count && !r->last; i++)
        if (r->holds[i].meter == m) r->last = &r->holds[i];
    if (!r->last) r->last = hold_new(r, m);
    return r->last;
}

/* The first band that is exceeded, or NULL. */
static struct meter_rate *charge(struct meter_hold *h, uint64_t units, uint64_t now)
{
    for (unsigned i = 0; i < h->config->count; i++) {
        struct meter_rate *rate = &h->config->rates[i];
        uint64_t need = cost(rate, units), *left = &h->rates[i].left;
        if (*left < need) *left += take(rate, need - *left, AHEAD * need, true, now);
        if (*left < need || rate->never) return rate;
        *left -= need;
    }
    return NULL;
}

int meter_pass(struct meter_run *r, struct meter *m, uint32_t bytes)
{
    if (meter_passes(r, m, bytes)) return 0;
    struct meter_hold *h = hold_of(r, m);
    end_budget(h);
    h->packets++;
    h->bytes += bytes;
    const struct meter_rate *exceeded = charge(h, h->by_packet ? 1 : bytes, now_for(r, h->config));
    if (!exceeded) {
        begin_budget(h);
        return 0;
    }
    long i = exceeded - h->config->rates;
    h->rates[i].packets++;
    h->rates[i].bytes += bytes;
    return exceeded->type == METER_DROP ? METER_EXCEEDED : exceeded->prec_level;
}

bool meter_pass_all(struct meter_run *r, struct meter *m, unsigned packets, uint64_t bytes)
{
    struct meter_config *c = atomic_load_explicit(&m->config, memory_order_acquire);
    uint64_t taken[METER_BANDS_MAX], now = now_for(r, c);
    for (unsigned i = 0; i < c->count; i++) {
        uint64_t need = cost(&c->rates[i], c->by_packet ? packets : bytes);
        taken[i] = take(&c->rates[i], need, 0, packets == 1, now);
        if (taken[i] >= need && !c->rates[i].never) continue;
        while (i-- > 0)
            give_back(&c->rates[i], taken[i]);
        return false;
    }
    count(&m->packets, packets);
    count(&m->bytes, bytes);
    return true;
}

/* A higher drop precedence: of the Assured Forwarding classes (RFC 2597: AF11 to AF43 are 001 01 0 to 100 11 0) that is what it
 * says; a class selector (RFC 2474: xxx 000) is more likely to be dropped the lower it is. Others stay as they are. */
uint8_t meter_raise(uint8_t tos, unsigned levels)
{
    unsigned class = tos >> 5, precedence = tos >> 3 & 3u, odd = tos >> 2 & 1u;
    if (odd) return tos;
    if (precedence == 0) class -= levels < class ? levels : class;
    else if (class >= 1 && class <= 4) precedence = levels > 3 - precedence ? 3 : precedence + levels;
    return (uint8_t)(class << 5 | precedence << 3 | (tos & 3u));
}
