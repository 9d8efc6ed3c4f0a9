/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The classifier against a walk through all flows: thousands of them, of few addresses (so that leaves overflow, to finer groups)
 * and of many; while they are added, replaced and removed. A bit that the mask leaves out may be flipped.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "switch/field.h"
#include "switch/table.h"

#define FLOWS 1500u

static uint64_t seed;

static unsigned rnd(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed >> 33) % below;
}

struct world {
    struct epoch epoch;
    struct flow_table table;
    struct flow *flows[FLOWS];
    struct flow_match match[FLOWS];
    unsigned count;
    uint64_t id;
    unsigned spread; /* how many addresses */
};

static void want(struct flow_match *m, enum field_id id, uint64_t value, uint64_t mask)
{
    field_set_masked(&m->key, id, field_value_of(value & mask), field_value_of(mask));
    field_set_masked(&m->mask, id, field_value_of(mask), field_value_of(mask));
}

static uint64_t address(const struct world *w)
{
    return 10u << 24 | (uint64_t)rnd(w->spread) << 14 | rnd(w->spread);
}

static uint64_t prefix(void)
{
    static const uint8_t lengths[] = {0, 0, 8, 16, 20, 24, 24, 28, 32, 32, 32};
    unsigned n = rnd(8) ? lengths[rnd(11)] : rnd(33);
    return n ? UINT32_MAX << (32 - n) & UINT32_MAX : 0;
}

static void random_match(const struct world *w, struct flow_match *m)
{
    memset(m, 0, sizeof *m);
    if (rnd(8) == 0) want(m, FIELD_IN_PORT, rnd(3), UINT32_MAX);
    if (rnd(10) == 0) want(m, FIELD_ETH_DST, rnd(4), rnd(2) ? UINT64_C(0xffffffffffff) : 3);
    if (rnd(12) == 0) want(m, FIELD_REG0 + 3, rnd(4), rnd(2) ? UINT32_MAX : 2);
    if (rnd(8) == 0) {
        want(m, FIELD_ETH_TYPE, 0x86dd, 0xffff);
        m->key.ipv6_dst[15] = (uint8_t)rnd(w->spread < 200 ? w->spread : 200);
        memset(m->mask.ipv6_dst, 0xff, 16 - rnd(3) * 4);
        for (unsigned i = 0; i < 16; i++)
            m->key.ipv6_dst[i] &= m->mask.ipv6_dst[i];
        return;
    }
    want(m, FIELD_ETH_TYPE, 0x0800, 0xffff);
    want(m, FIELD_IPV4_SRC, address(w), prefix());
    want(m, FIELD_IPV4_DST, address(w), prefix());
    if (rnd(2)) want(m, FIELD_IP_PROTO, rnd(2) ? 6 : 17, 0xff);
    if (rnd(3) == 0) want(m, FIELD_TCP_DST, rnd(64), rnd(2) ? 0xffff : 0xfff0);
}

static void random_key(const struct world *w, struct flow_key *k)
{
    struct flow_match m;
    memset(k, 0, sizeof *k);
    random_match(w, &m);
    if (w->count && rnd(4)) m = w->match[rnd(w->count)];
    k->in_port = be32_make(rnd(3));
    k->eth_dst[5] = (uint8_t)rnd(4);
    k->ipv4_src = be32_make((uint32_t)address(w));
    k->ipv4_dst = be32_make((uint32_t)address(w));
    k->nw_proto = rnd(2) ? 6 : 17;
    k->tp_dst = be16_make((uint16_t)rnd(64));
    k->reg[3] = be32_make(rnd(4));
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        k->words[i] = (k->words[i] & ~m.mask.words[i]) | m.key.words[i];
}

static struct flow *naive(const struct world *w, const struct flow_key *k)
{
    struct flow *best = NULL;
    for (unsigned i = 0; i < w->count; i++) {
        struct flow *f = w->flows[i];
        if (!flow_match_hits(&w->match[i], k)) continue;
        if (!best || f->priority > best->priority || (f->priority == best->priority && f->id < best->id)) best = f;
    }
    return best;
}

static void look_for_overlap(const struct world *w)
{
    struct flow_match m;
    uint16_t priority = (uint16_t)rnd(20);
    bool expected = false;
    random_match(w, &m);
    if (rnd(2)) { /* many of them overlap with nothing */
        want(&m, FIELD_IPV4_SRC, address(w), UINT32_MAX);
        want(&m, FIELD_IPV4_DST, address(w), UINT32_MAX);
    }
    if (w->count && rnd(2)) priority = w->flows[rnd(w->count)]->priority;
    for (unsigned i = 0; i < w->count && !expected; i++)
        expected = w->flows[i]->priority == priority && flow_match_overlaps(&w->match[i], &m);
    const struct flow *f = table_find_overlap(&w->table, &m, priority);
    assert_int_equal(f != NULL, expected);
    if (!f) return;
    struct flow_match own;
    flow_to_match(f, &own);
    assert_true(f->priority == priority && flow_match_overlaps(&own, &m));
}

static void look(const struct world *w)
{
    look_for_overlap(w);

    struct flow_key k, mask = {{{0}}};
    random_key(w, &k);
    struct flow *f = table_lookup(&w->table, &k, &mask);
    assert_ptr_equal(f, naive(w, &k));
    for (unsigned i = 0; i < 8; i++) {
        unsigned bit = rnd(FLOW_KEY_WORDS * 64), at = bit / 8;
        uint8_t is = (uint8_t)(0x80 >> bit % 8);
        if (((uint8_t *)&mask)[at] & is) continue;
        ((uint8_t *)&k)[at] ^= is;
        assert_ptr_equal(f, naive(w, &k));
    }
}

static void add(struct world *w)
{
    struct flow_spec s = {.priority = (uint16_t)rnd(400)};
    random_match(w, &s.match);
    if (w->count && rnd(10) == 0) {
        unsigned i = rnd(w->count);
        s.match = w->match[i];
        s.priority = w->flows[i]->priority;
    }
    struct flow *old = table_find(&w->table, &s.match, s.priority), *f = flow_new(&s, w->id++, 1);
    assert_non_null(f);
    unsigned at = w->count;
    for (unsigned i = 0; old && i < w->count; i++)
        if (w->flows[i] == old) at = i;
    assert_int_equal(table_insert(&w->table, &w->epoch, f, old), 0);
    w->flows[at] = f;
    w->match[at] = s.match;
    if (!old) w->count++;
    assert_ptr_equal(table_find(&w->table, &s.match, s.priority), f);
}

static void take(struct world *w)
{
    unsigned i = rnd(w->count);
    table_remove(&w->table, &w->epoch, w->flows[i]);
    w->flows[i] = w->flows[--w->count];
    w->match[i] = w->match[w->count];
}

static void run(unsigned spread)
{
    struct world *w = calloc(1, sizeof *w);
    w->spread = spread;
    epoch_init(&w->epoch);
    table_init(&w->table);
    for (unsigned round = 0; round < 3; round++) {
        while (w->count < FLOWS - 200 * round) {
            add(w);
            if (w->count > 10 && rnd(5) == 0) take(w);
            if (rnd(3) == 0) look(w);
            epoch_poll(&w->epoch);
        }
        for (unsigned i = 0; i < 500; i++)
            look(w);
        while (w->count > (round == 2 ? 0u : 300u)) {
            take(w);
            if (rnd(3) == 0) look(w);
        }
    }
    for (unsigned i = 0; i < 50; i++)
        add(w);
    epoch_destroy(&w->epoch);
    table_destroy(&w->table);
    free(w);
}

static void many_addresses(void **state)
{
    (void)state;
    seed = 1;
    run(5000);
}

static void few_addresses(void **state)
{
    (void)state;
    seed = 2;
    run(4);
}

static void some_addresses(void **state)
{
    (void)state;
    seed = 3;
    run(60);
}

#define COUNTED 20000u
#ifdef CREEDENCE_SANITIZED
#define SUCCESSIONS 10u
#else
#define SUCCESSIONS 200u
#endif

static void *count_many(void *arg)
{
    struct flow *f = arg;
    for (unsigned i = 0; i < COUNTED; i++)
        flow_count(f, 1, 60, i);
    return NULL;
}

/* Whatever is counted while a flow takes another's place is counted once. */
static void no_count_is_lost(void **state)
{
    struct flow_spec spec = {0};
    (void)state;
    for (unsigned round = 0; round < SUCCESSIONS; round++) {
        struct flow *f[4];
        pthread_t thread;
        for (unsigned i = 0; i < 4; i++)
            f[i] = flow_new(&spec, i, 0);
        assert_int_equal(pthread_create(&thread, NULL, count_many, f[0]), 0);
        for (unsigned i = 0; i < 3; i++) {
            while (atomic_load(&f[i]->packets) < 10 && atomic_load(&f[i]->packets) < COUNTED)
                ;
            flow_succeed(f[i], f[i + 1]);
        }
        pthread_join(thread, NULL);
        assert_int_equal(atomic_load(&f[3]->packets), COUNTED);
        assert_int_equal(atomic_load(&f[3]->bytes), COUNTED * 60);
        assert_int_equal(atomic_load(&f[3]->used_ns), COUNTED - 1);
        for (unsigned i = 0; i < 4; i++)
            flow_unref(f[i]);
    }
}

static void use_is_known_without_counts(void **state)
{
    struct flow_spec spec = {.flags = FLOW_NO_PACKET_COUNTS | FLOW_NO_BYTE_COUNTS}, counting = {0};
    struct flow *old = flow_new(&counting, 1, 5), *f = flow_new(&spec, 2, 6);
    (void)state;
    flow_count(old, 3, 180, 7);
    flow_succeed(old, f);
    assert_int_equal(atomic_load(&f->used_ns), 7);
    flow_count(old, 3, 180, 8);
    assert_int_equal(atomic_load(&f->used_ns), 8);
    flow_count(f, 3, 180, 9);
    assert_int_equal(atomic_load(&f->used_ns), 9);
    assert_int_equal(atomic_load(&f->packets) + atomic_load(&f->bytes), 0);
    flow_unref(old);
    flow_unref(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_addresses),
        cmocka_unit_test(few_addresses),
        cmocka_unit_test(some_addresses),
        cmocka_unit_test(no_count_is_lost),
        cmocka_unit_test(use_is_known_without_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
