/* SPDX-License-Identifier: Apache-2.0 */
/* The intrusive list: order, removal in the middle of a walk, splicing. */
#include "base/list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

struct item {
    int value;
    struct list node;
};

/* The values as one decimal number: 1, 2, 3 -> 123. */
static int digits(const struct list *head)
{
    int n = 0;
    for (const struct list *node = head->next; node != head; node = node->next)
        n = n * 10 + list_entry(node, struct item, node)->value;
    return n;
}

static void order_of_pushes_and_pops(void **state)
{
    struct list head;
    struct item a = {.value = 1}, b = {.value = 2}, c = {.value = 3};
    list_init(&head);
    assert_true(list_empty(&head));
    assert_null(list_pop_front(&head));
    list_push_back(&head, &b.node);
    list_push_back(&head, &c.node);
    list_push_front(&head, &a.node);
    assert_int_equal(digits(&head), 123);
    assert_ptr_equal(list_pop_front(&head), &a.node);
    list_insert_before(&c.node, &a.node);
    assert_int_equal(digits(&head), 213);
}

static void removing_twice_does_no_harm(void **state)
{
    struct list head;
    struct item a = {.value = 1}, b = {.value = 2};
    list_init(&head);
    list_push_back(&head, &a.node);
    list_push_back(&head, &b.node);
    list_remove(&a.node);
    list_remove(&a.node);
    assert_int_equal(digits(&head), 2);
}

static void safe_walk_may_remove_its_node(void **state)
{
    struct list head;
    struct item items[6];
    list_init(&head);
    for (int i = 0; i < 6; i++) {
        items[i].value = i + 1;
        list_push_back(&head, &items[i].node);
    }
    LIST_FOR_EACH_SAFE (node, &head)
        if (list_entry(node, struct item, node)->value % 2) list_remove(node);
    assert_int_equal(digits(&head), 246);
    int sum = 0;
    LIST_FOR_EACH (node, &head)
        sum += list_entry(node, struct item, node)->value;
    assert_int_equal(sum, 12);
}

static void splice_moves_everything_to_the_end(void **state)
{
    struct list to, from;
    struct item items[4];
    list_init(&to);
    list_init(&from);
    list_splice_back(&to, &from);
    assert_true(list_empty(&to));
    for (int i = 0; i < 4; i++) {
        items[i].value = i + 1;
        list_push_back(i < 2 ? &to : &from, &items[i].node);
    }
    list_splice_back(&to, &from);
    assert_int_equal(digits(&to), 1234);
    assert_true(list_empty(&from));
    list_splice_back(&from, &to);
    assert_int_equal(digits(&from), 1234);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_of_pushes_and_pops),
        cmocka_unit_test(removing_twice_does_no_harm),
        cmocka_unit_test(safe_walk_may_remove_its_node),
        cmocka_unit_test(splice_moves_everything_to_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
