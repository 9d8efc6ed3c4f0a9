/* SPDX-License-Identifier: Apache-2.0 */
/* The token buckets of meters: what packets meet. */
#include <stdlib.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "switch/meter_internal.h"

#define SIXTEENTHS 4  /* of a nanosecond: as a shift */
#define COST_SHIFT 20 /* of per_unit: a kilobit a second is 2^47, 2^32 kilobits are 2^15 */
#define DEPTH_MAX (UINT64_C(1) << 60)
#define AHEAD 8u /* packets that are taken for at once.. */
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

struct meter_config *meter_config_new(const struct meter_spec *spec, uint64_t now_ns)
{
    size_t bytes = sizeof(struct meter_config) + spec->count * sizeof(struct meter_rate);
    struct meter_config *c = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!c) return NULL;
    memset(c, 0, bytes);
    c->by_packet = spec->flags & METER_PKTPS;
    c->count = spec->count;
    for (unsigned i = 0; i < c->count; i++)
        c->rates[i].band = (uint8_t)i;
    sort(c, spec);
    for (unsigned i = 0; i < c->count; i++) {
        rate_init(&c->rates[i], spec, c->rates[i].band);
        atomic_init(&c->rates[i].full_at, now_ns << SIXTEENTHS);
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

static void settle(struct meter_hold *h)
{
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
    r->count = 0;
    r->now_ns = 0;
}

static struct meter_hold *hold_of(struct meter_run *r, struct meter *m)
{
    for (unsigned i = 0; i < r->count; i++)
        if (r->holds[i].meter == m) return &r->holds[i];
    if (r->now_ns == 0) r->now_ns = clock_now_ns();
    if (r->count == METER_HOLDS) {
        settle(&r->holds[0]);
        r->holds[0] = r->holds[--r->count];
    }
    struct meter_hold *h = &r->holds[r->count++];
    h->meter = m;
    h->config = atomic_load_explicit(&m->config, memory_order_acquire);
    h->packets = h->bytes = 0;
    memset(h->rates, 0, h->config->count * sizeof h->rates[0]);
    return h;
}

int meter_pass(struct meter_run *r, struct meter *m, uint32_t bytes)
{
    struct meter_hold *h = hold_of(r, m);
    struct meter_config *c = h->config;
    h->packets++;
    h->bytes += bytes;
    for (unsigned i = 0; i < c->count; i++) {
        struct meter_rate *rate = &c->rates[i];
        uint64_t need = cost(rate, c->by_packet ? 1 : bytes), *left = &h->rates[i].left;
        if (*left < need) *left += take(rate, need - *left, AHEAD * need, true, r->now_ns << SIXTEENTHS);
        if (*left >= need && !rate->never) {
            *left -= need;
            continue;
        }
        h->rates[i].packets++;
        h->rates[i].bytes += bytes;
        return rate->type == METER_DROP ? METER_EXCEEDED : rate->prec_level;
    }
    return 0;
}

bool meter_pass_all(struct meter *m, unsigned packets, uint64_t bytes, uint64_t now_ns)
{
    struct meter_config *c = atomic_load_explicit(&m->config, memory_order_acquire);
    uint64_t taken[METER_BANDS_MAX];
    for (unsigned i = 0; i < c->count; i++) {
        uint64_t need = cost(&c->rates[i], c->by_packet ? packets : bytes);
        taken[i] = take(&c->rates[i], need, 0, packets == 1, now_ns << SIXTEENTHS);
        if (taken[i] >= need && !c->rates[i].never) continue;
        while (i-- > 0)
            give_back(&c->rates[i], taken[i]);
        return false;
    }
    count(&m->packets, packets);
    count(&m->bytes, bytes);
    return true;
}
