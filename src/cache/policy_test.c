/* SPDX-License-Identifier: Apache-2.0 */
/* The eviction policy against reference streams: what must stay, what must go, what must end. */
#include "cache/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct page {
    struct policy_item item;
    bool touched, busy, sticky;
};

static bool page_touched(struct policy_item *item)
{
    struct page *page = container_of(item, struct page, item);
    bool was = page->touched;
    page->touched = page->sticky;
    return was;
}

static bool page_busy(struct policy_item *item)
{
    return container_of(item, struct page, item)->busy;
}

struct sim {
    struct policy policy;
    struct page *pages;
    uint64_t page_count, capacity, misses;
};

static struct sim *sim_new(uint64_t page_count, uint64_t capacity)
{
    struct sim *s = calloc(1, sizeof *s);
    s->pages = calloc(page_count, sizeof *s->pages);
    s->page_count = page_count;
    s->capacity = capacity;
    for (uint64_t i = 0; i < page_count; i++) {
        list_init(&s->pages[i].item.node);
        s->pages[i].item.key = i * 77;
    }
    assert_int_equal(policy_init(&s->policy, capacity, page_touched, page_busy), 0);
    return s;
}

static void sim_free(struct sim *s)
{
    policy_destroy(&s->policy);
    free(s->pages);
    free(s);
}

static bool cached(const struct sim *s, uint64_t n)
{
    return s->pages[n].item.queue != POLICY_NONE;
}

static void use(struct sim *s, uint64_t n)
{
    struct page *page = &s->pages[n];
    if (!cached(s, n)) {
        s->misses++;
        if (policy_total(&s->policy) == s->capacity) assert_non_null(policy_evict(&s->policy));
        policy_insert(&s->policy, &page->item);
    }
    page->touched = true;
}

static void test_scan_leaves_hot_set(void **state)
{
    (void)state;
    struct sim *s = sim_new(101000, 1000);
    for (unsigned round = 0; round < 5; round++)
        for (uint64_t n = 0; n < 700; n++)
            use(s, n);
    /* A hundred times the cache goes by, every chunk touched several times; the hot set is used meanwhile. */
    unsigned hot = 0;
    for (uint64_t n = 1000; n < 101000; n++) {
        for (unsigned i = 0; i < 16; i++)
            use(s, n);
        use(s, hot++ % 700);
    }
    s->misses = 0;
    for (uint64_t n = 0; n < 700; n++)
        use(s, n);
    assert_in_range(s->misses, 0, 7);
    sim_free(s);
}

/* Without any use of the hot set during the scan, it survives one that is several times the cache's size. */
static void test_scan_past_idle_hot_set(void **state)
{
    (void)state;
    struct sim *s = sim_new(20000, 1000);
    for (unsigned round = 0; round < 8; round++) {
        for (uint64_t n = 0; n < 600; n++)
            use(s, n);
        for (uint64_t n = 0; n < 500; n++) /* something else in between, so that there is pressure */
            use(s, 1000 + round * 500 + n);
    }
    s->misses = 0;
    for (uint64_t n = 10000; n < 14000; n++)
        use(s, n);
    s->misses = 0;
    for (uint64_t n = 0; n < 600; n++)
        use(s, n);
    assert_in_range(s->misses, 0, 60);
    sim_free(s);
}

static void test_ghost_brings_back_into_main(void **state)
{
    (void)state;
    struct sim *s = sim_new(2000, 100);
    for (uint64_t n = 0; n < 150; n++)
        use(s, n);
    assert_false(cached(s, 0));
    use(s, 0);
    assert_int_equal(s->pages[0].item.queue, POLICY_MAIN);
    sim_free(s);
}

static void test_all_hot_still_ends(void **state)
{
    (void)state;
    struct sim *s = sim_new(5000, 1000);
    for (uint64_t n = 0; n < 5000; n++)
        s->pages[n].sticky = true; /* as a client would that marks everything, always */
    for (uint64_t n = 0; n < 5000; n++)
        use(s, n);
    assert_int_equal(policy_total(&s->policy), 1000);
    sim_free(s);
}

static void test_busy_is_never_chosen(void **state)
{
    (void)state;
    struct sim *s = sim_new(200, 100);
    for (uint64_t n = 0; n < 100; n++)
        use(s, n);
    for (uint64_t n = 0; n < 99; n++)
        s->pages[n].busy = true;
    struct policy_item *item = policy_evict(&s->policy);
    assert_ptr_equal(item, &s->pages[99].item);
    assert_null(policy_evict(&s->policy)); /* all are busy: it ends all the same */
    policy_remove(&s->policy, &s->pages[3].item);
    policy_remove(&s->policy, &s->pages[3].item);
    assert_int_equal(policy_total(&s->policy), 98);
    sim_free(s);
}

static void test_empty(void **state)
{
    (void)state;
    struct sim *s = sim_new(1, 1);
    assert_null(policy_evict(&s->policy));
    sim_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scan_leaves_hot_set),         cmocka_unit_test(test_scan_past_idle_hot_set),
        cmocka_unit_test(test_ghost_brings_back_into_main), cmocka_unit_test(test_all_hot_still_ends),
        cmocka_unit_test(test_busy_is_never_chosen),        cmocka_unit_test(test_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
