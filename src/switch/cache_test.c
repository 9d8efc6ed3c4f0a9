/* SPDX-License-Identifier: Apache-2.0 */
/* A thread's caches by themselves: room, counting, ageing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loop/clock.h"
#include "switch/cache.h"

#define MEGAFLOWS 64u
#define LARGE 40000u
#define LONG_AGO (100 * NS_PER_SECOND)

static const struct switch_config_cache config = {MEGAFLOWS, 32, 64, false};

/* A mask that looks at `words` words, and a key that differs by i. */
static const struct table_misses no_misses;

static void make(struct flow_key *k, struct flow_key *mask, unsigned words, unsigned i)
{
    memset(k, 0, sizeof *k);
    memset(mask, 0, sizeof *mask);
    mask->words[0] = UINT64_MAX;
    for (unsigned w = 1; w <= words; w++) {
        mask->words[w] = UINT64_MAX;
        k->words[w] = i + 1;
    }
}

static uint32_t add(struct cache *c, const struct flow_key *k, const struct flow_key *mask, uint64_t now_ns)
{
    static const struct change_deps deps = {.mac = true, .mac_src = 7};
    struct cache_add a = {
        .key = k, .mask = mask, .deps = &deps, .misses = &no_misses, .refresh = true, .now_ns = now_ns};
    struct dp_action nothing = {0};
    a.actions = &nothing;
    struct cache_port *p = cache_port_get(c, 1);
    assert_non_null(p);
    return cache_add(c, p, &a);
}

/* Long lists of actions, each of them another one: there is an end, whatever the number of megaflows. */
static void long_lists_take_no_more_than_their_share(void **state)
{
    static struct dp_action actions[DP_ACTIONS_MAX];
    static const struct change_deps deps = {.bridge = 0};
    struct cache c;
    struct flow_key k, mask;
    (void)state;
    assert_int_equal(cache_init(&c, &config), 0);
    struct cache_port *p = cache_port_get(&c, 1);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < MEGAFLOWS; i++) {
            make(&k, &mask, 3, i);
            actions[0].port = i;
            struct cache_add a = {.key = &k, .mask = &mask, .deps = &deps, .misses = &no_misses, .now_ns = LONG_AGO};
            a.actions = actions;
            a.action_count = DP_ACTIONS_MAX;
            uint32_t line = cache_add(&c, p, &a);
            assert_int_equal(line != 0, i == c.stats.megaflows - 1);
        }
        assert_true(c.stats.megaflows > MEGAFLOWS / 4 && c.stats.megaflows < MEGAFLOWS / 2);
        for (uint32_t line = 1; line < c.lines_used; line++)
            if (c.cold[line].table) cache_remove(&c, line);
        assert_int_equal(c.shared_bytes, 0);
    }
    cache_destroy(&c);
}

static uint32_t find(struct cache *c, const struct flow_key *k)
{
    uint32_t line;
    cache_lookup(c, cache_port_get(c, 1), &k, 1, 0, &line);
    return line;
}

/* Until all that nobody uses is gone. */
static void let_age(struct cache *c, uint64_t *now_ns)
{
    for (unsigned i = 0; i < 3; i++) {
        *now_ns += LONG_AGO;
        cache_sweep(c, *now_ns, UINT32_MAX, NULL, NULL);
    }
}

/* Whatever sizes a scan took all of the room in, those of other sizes have theirs afterwards. */
static void room_is_for_all_sizes(void **state)
{
    static const unsigned words[] = {1, 12, 16, 3, 16, 8};
    struct flow_key k, mask;
    (void)state;
    for (unsigned keep = 0; keep < 2; keep++) {
        struct cache c;
        uint64_t now_ns = LONG_AGO;
        assert_int_equal(cache_init(&c, &config), 0);
        for (unsigned round = 0; round < sizeof words / sizeof words[0]; round++) {
            for (unsigned i = 0; i < MEGAFLOWS; i++) {
                make(&k, &mask, words[round], i);
                uint32_t line = add(&c, &k, &mask, now_ns);
                assert_int_not_equal(line, 0);
                assert_int_equal(find(&c, &k), line);
            }
            assert_int_equal(c.stats.megaflows, MEGAFLOWS);
            for (uint32_t line = 1; keep && line < c.lines_used; line++)
                if (c.cold[line].table) cache_remove(&c, line); /* without a sweep */
            if (!keep) let_age(&c, &now_ns);
            assert_int_equal(c.stats.megaflows, 0);
            if (!keep) assert_int_equal(c.lines_used, 1);
            assert_int_equal(find(&c, &k), 0);
        }
        cache_destroy(&c);
    }
}

static bool count_refreshed(void *arg, const struct change_deps *d, uint32_t in_port)
{
    (void)in_port;
    assert_int_equal(d->mac_src, 7);
    return ++*(unsigned *)arg != 4;
}

/* An address is in use, though the counters were asked for just before the sweep. */
static void folding_does_not_hide_use(void **state)
{
    struct cache c;
    struct flow_key k, mask;
    uint64_t now_ns = LONG_AGO;
    unsigned refreshed = 0;
    (void)state;
    assert_int_equal(cache_init(&c, &config), 0);
    make(&k, &mask, 3, 1);
    uint32_t line = add(&c, &k, &mask, now_ns);
    cache_sweep(&c, now_ns += NS_PER_SECOND, UINT32_MAX, count_refreshed, &refreshed);
    assert_int_equal(refreshed, 0);
    for (unsigned i = 0; i < 3; i++) {
        cache_megaflow(&c, line)->packets++;
        if (i != 1) cache_fold(&c, line, now_ns);
        cache_sweep(&c, now_ns += NS_PER_SECOND, UINT32_MAX, count_refreshed, &refreshed);
        assert_int_equal(refreshed, i + 1);
    }
    cache_sweep(&c, now_ns += NS_PER_SECOND, UINT32_MAX, count_refreshed, &refreshed);
    assert_int_equal(refreshed, 3);
    assert_int_equal(c.stats.megaflows, 1);
    cache_megaflow(&c, line)->packets++;
    cache_sweep(&c, now_ns += NS_PER_SECOND, UINT32_MAX, count_refreshed, &refreshed); /* which says: translate again */
    assert_int_equal(c.stats.megaflows, 0);
    line = add(&c, &k, &mask, now_ns);
    let_age(&c, &now_ns);
    assert_int_equal(c.stats.megaflows, 0);
    cache_destroy(&c);
}

/* What a megaflow counted before it had to go was counted now, not when it was last looked at. */
static void use_is_known_when_it_goes(void **state)
{
    struct cache c;
    struct flow_key k, mask;
    uint64_t now_ns = LONG_AGO;
    struct flow_spec spec = {.idle_timeout_s = 1};
    struct flow *f = flow_new(&spec, 1, now_ns);
    static const struct change_deps deps;
    struct dp_action nothing = {0};
    (void)state;
    assert_int_equal(cache_init(&c, &config), 0);
    make(&k, &mask, 3, 1);
    struct cache_add a = {
        .key = &k, .mask = &mask, .deps = &deps, .misses = &no_misses, .actions = &nothing, .now_ns = now_ns};
    a.flows = &f;
    a.flow_count = 1;
    uint32_t line = cache_add(&c, cache_port_get(&c, 1), &a);
    for (unsigned i = 0; i < 3; i++)
        cache_sweep(&c, now_ns += NS_PER_SECOND, UINT32_MAX, NULL, NULL);
    cache_megaflow(&c, line)->packets++;
    cache_remove(&c, line);
    cache_hand_on(&c);
    assert_int_equal(atomic_load(&f->packets), 1);
    assert_int_equal(atomic_load(&f->used_ns), now_ns);
    flow_unref(f);
    cache_destroy(&c);
}

/* The table of a widened mask goes with its last megaflow, and what comes in its place has the mask as it was. */
static void found_after_its_table_went(void **state)
{
    struct cache c;
    struct flow_key k, mask;
    uint32_t lines[8];
    (void)state;
    assert_int_equal(cache_init(&c, &config), 0);
    for (unsigned i = 0; i < 8; i++) { /* from a quarter of the masks on they are widened */
        make(&k, &mask, 2, i);
        mask.reg[0] = be32_make(i + 1);
        lines[i] = add(&c, &k, &mask, LONG_AGO);
        assert_int_not_equal(lines[i], 0);
    }
    assert_int_equal(c.stats.masks, 8);
    make(&k, &mask, 2, 99);
    mask.ipv4_src = be32_make(0xe0000000);
    k.ipv4_src = be32_make(0xf0000000);
    assert_int_not_equal(add(&c, &k, &mask, LONG_AGO), 0);
    assert_int_equal(c.stats.masks, 9);
    cache_remove(&c, lines[0]);
    assert_int_equal(c.stats.masks, 8);
    uint32_t line = add(&c, &k, &mask, LONG_AGO);
    assert_int_not_equal(line, 0);
    assert_int_equal(c.stats.masks, 8);
    assert_int_equal(find(&c, &k), line);
    cache_destroy(&c);
}

/* While a large table grows pair by pair, each megaflow is found where it is at the moment. */
static void large_tables_grow(void **state)
{
    static const struct switch_config_cache large = {LARGE, 32, 0, false};
    static uint32_t lines[LARGE];
    struct cache c;
    struct flow_key k, mask;
    unsigned without = 0;
    (void)state;
    assert_int_equal(cache_init(&c, &large), 0);
    for (unsigned i = 0; i < LARGE; i++) {
        make(&k, &mask, 2, i);
        lines[i] = add(&c, &k, &mask, LONG_AGO);
        without += lines[i] == 0;
        if (i % 3 == 0) { /* one that has been there for long goes */
            make(&k, &mask, 2, i / 2);
            if (lines[i / 2]) cache_remove(&c, lines[i / 2]);
            lines[i / 2] = 0;
        }
        make(&k, &mask, 2, i / 5 * 4);
        assert_int_equal(find(&c, &k), lines[i / 5 * 4]);
    }
    assert_in_range(without, 0, LARGE / 100);
    for (unsigned i = 0; i < LARGE; i++) {
        make(&k, &mask, 2, i);
        assert_int_equal(find(&c, &k), lines[i]);
    }
    cache_destroy(&c);
}

static uint64_t last_of(struct change_log *l, uint16_t bridge)
{
    return atomic_load(&l->bridges[bridge].last);
}

/* However often addresses of one bridge move: megaflows of another are as true as they were. */
static void changes_of_other_bridges_do_not_count(void **state)
{
    struct change_log *l = aligned_alloc(64, (sizeof *l + 63) / 64 * 64);
    struct change_deps d = {.bridge = 3, .mac = true, .mac_src = 7, .mac_dst = 8};
    static const struct flow_match any;
    (void)state;
    change_init(l);
    change_mac(l, 3, 7);
    uint64_t from = last_of(l, 3);
    for (unsigned i = 0; i < 1000; i++)
        change_mac(l, 2, 7);
    assert_int_equal(last_of(l, 3), from);
    assert_false(change_concerns(l, from, last_of(l, 3), &d, &any));
    change_mac(l, 3, 9); /* one of its own, of nobody that it knows */
    assert_false(change_concerns(l, from, last_of(l, 3), &d, &any));
    for (unsigned i = 0; i < 2 * CHANGE_LOG; i++)
        change_bridge(l, 2);
    change_mac(l, 3, 9);
    assert_true(change_concerns(l, from, last_of(l, 3), &d, &any)); /* forgotten what was before */
    from = last_of(l, 3);
    change_mac(l, 3, 8);
    for (unsigned i = 0; i < CHANGE_WALK_MAX - 1; i++) {
        change_mac(l, 3, 9);
        change_bridge(l, 2);
    }
    assert_true(change_concerns(l, from, last_of(l, 3), &d, &any));
    assert_false(change_concerns(l, from + 1, last_of(l, 3), &d, &any));
    change_mac(l, 3, 9);
    change_mac(l, 3, 9);
    assert_true(change_concerns(l, from + 1, last_of(l, 3), &d, &any)); /* too many to look at */
    from = last_of(l, 3);
    change_bridge(l, 3);
    assert_true(change_concerns(l, from, last_of(l, 3), &d, &any));
    assert_int_equal(atomic_load(&l->bridges[3].last_but_mac), last_of(l, 3));
    change_destroy(l);
    free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(room_is_for_all_sizes),
        cmocka_unit_test(folding_does_not_hide_use),
        cmocka_unit_test(use_is_known_when_it_goes),
        cmocka_unit_test(found_after_its_table_went),
        cmocka_unit_test(large_tables_grow),
        cmocka_unit_test(changes_of_other_bridges_do_not_count),
        cmocka_unit_test(long_lists_take_no_more_than_their_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
