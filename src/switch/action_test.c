/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of actions: copies, comparison, action sets; and that a lack of memory leaves everything as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "switch/flow.h"
#include "switch/guard.h"

/* ---- allocation that fails at the Nth time (the linker sends the library's calls here) ---- */

static unsigned allocations, fail_at; /* 0: never */

static bool fails(void)
{
    return ++allocations == fail_at;
}

void *__real_calloc(size_t n, size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__real_reallocarray(void *at, size_t n, size_t bytes);
void *__wrap_reallocarray(void *at, size_t n, size_t bytes);

void *__wrap_calloc(size_t n, size_t bytes)
{
    return fails() ? NULL : __real_calloc(n, bytes);
}

void *__wrap_reallocarray(void *at, size_t n, size_t bytes)
{
    return fails() ? NULL : __real_reallocarray(at, n, bytes);
}

/* ---- lists ---- */

static struct flow_spec flow_of(const char *text)
{
    struct flow_spec f;
    struct errmsg e;
    if (flow_parse(&f, text, FLOW_PARSE_ADD, NULL, &e)) fail_msg("%s: %s", text, e.text);
    return f;
}

#define MANY                                                                                                           \
    "tcp,actions=output:1,set_field:5->tcp_src,move:reg0[]->reg1[],push_vlan:0x8100,dec_ttl,mod_nw_ttl:5,"             \
    "write_actions(output:3,set_field:1->reg0),write_metadata:5/7,goto_table:4"

static void copies_are_equal_and_their_own(void **state)
{
    struct flow_spec f = flow_of(MANY);
    struct instructions copy;
    assert_true(instructions_copy(&copy, &f.instructions));
    assert_true(instructions_equal(&copy, &f.instructions));
    assert_ptr_not_equal(copy.apply.list, f.instructions.apply.list);
    copy.apply.list[0].output.port++;
    assert_false(instructions_equal(&copy, &f.instructions));
    instructions_clear(&copy);
    assert_null(copy.apply.list);
    instructions_clear(&f.instructions);
    instructions_clear(&f.instructions);
}

static void every_difference_counts(void **state)
{
    static const char *const lists[] = {
        "output:1",
        "output:2",
        "CONTROLLER:5",
        "CONTROLLER:6",
        "group:1",
        "group:2",
        "set_queue:1",
        "set_queue:2",
        "set_field:1->reg0",
        "set_field:2->reg0",
        "set_field:1->reg1",
        "set_field:1/3->reg0",
        "move:reg0[]->reg1[]",
        "move:reg0[]->reg2[]",
        "move:reg0[0..3]->reg1[0..3]",
        "move:reg0[0..3]->reg1[1..4]",
        "push_vlan:0x8100",
        "push_vlan:0x88a8",
        "push_mpls:0x8847",
        "pop_mpls:0x8847",
        "pop_vlan",
        "dec_ttl",
        "mod_nw_ttl:1",
        "mod_nw_ttl:2",
        "resubmit:1",
        "resubmit:2",
        "resubmit(1,2)",
        "write_actions(output:1)",
        "goto_table:1",
        "goto_table:2",
        "write_metadata:1",
        "write_metadata:2",
        "write_metadata:1/3",
        "clear_actions",
        "meter:1",
        "output:1,output:1",
        "drop",
        "output:1,goto_table:1",
    };
    for (unsigned i = 0; i < sizeof lists / sizeof lists[0]; i++)
        for (unsigned j = 0; j < sizeof lists / sizeof lists[0]; j++) {
            char text[2][128];
            snprintf(text[0], sizeof text[0], "actions=%s", lists[i]);
            snprintf(text[1], sizeof text[1], "actions=%s", lists[j]);
            struct flow_spec a = flow_of(text[0]), b = flow_of(text[1]);
            assert_int_equal(instructions_equal(&a.instructions, &b.instructions), i == j);
            instructions_clear(&a.instructions);
            instructions_clear(&b.instructions);
        }
}

/* ---- sets ---- */

static void check_set(const char *lists[], const char *expected)
{
    struct action_list set = {0};
    for (unsigned i = 0; lists[i]; i++) {
        char text[512];
        snprintf(text, sizeof text, "actions=write_actions(%s)", lists[i]);
        struct flow_spec f = flow_of(text);
        assert_true(action_set_merge(&set, &f.instructions.write));
        instructions_clear(&f.instructions);
    }
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    flow_format_actions(out, &(struct instructions){.apply = set}, NULL);
    fclose(out);
    assert_string_equal(text, expected);
    free(text);
    free(set.list);
}

#define LISTS(...) ((const char *[]){__VA_ARGS__, NULL})

static void sets_are_in_the_order_of_the_standard(void **state)
{
    check_set(LISTS("output:1,group:7,set_queue:3,set_field:5->reg0,dec_ttl,copy_ttl_out,push_vlan:0x8100,"
                    "push_pbb:0x88e7,push_mpls:0x8847,pop_pbb,pop_mpls:0x0800,pop_vlan,copy_ttl_in"),
              "copy_ttl_in,pop_vlan,pop_mpls:0x0800,pop_pbb,push_mpls:0x8847,push_pbb:0x88e7,push_vlan:0x8100,"
              "copy_ttl_out,dec_ttl,set_field:0x5->reg0,set_queue:3,group:7,output:1");
    check_set(LISTS("output:1", "set_field:1->reg0", "pop_vlan"), "pop_vlan,set_field:0x1->reg0,output:1");
}

static void later_takes_the_place_of_earlier(void **state)
{
    check_set(LISTS("output:1", "output:2"), "output:2");
    check_set(LISTS("output:1,output:2,output:3"), "output:3");
    check_set(LISTS("push_vlan:0x8100", "push_vlan:0x88a8"), "push_vlan:0x88a8");
    check_set(LISTS("set_field:1->reg0,set_field:2->reg1", "set_field:3->reg0"),
              "set_field:0x2->reg1,set_field:0x3->reg0");
    check_set(LISTS("set_field:1/3->reg0", "set_field:4/4->reg0"), "set_field:0x1/0x3->reg0,set_field:0x4/0x4->reg0");
    check_set(LISTS("set_field:1/3->reg0", "set_field:0/7->reg0"), "set_field:0/0x7->reg0");
    check_set(LISTS("move:reg0[]->reg1[]", "move:reg2[]->reg1[]"), "move:NXM_NX_REG2[]->NXM_NX_REG1[]");
    check_set(LISTS("move:reg0[0..3]->reg1[0..3]", "move:reg0[0..3]->reg1[4..7]"),
              "move:NXM_NX_REG0[0..3]->NXM_NX_REG1[0..3],move:NXM_NX_REG0[0..3]->NXM_NX_REG1[4..7]");
    check_set(LISTS("mod_nw_ttl:1,dec_ttl", "mod_nw_ttl:2"), "dec_ttl,mod_nw_ttl:2");
}

static void a_full_set_stays_as_it_was(void **state)
{
    struct action list[ACTIONS_MAX], one = {.type = ACTION_OUTPUT, .output = {.port = 1}};
    struct action_list set = {.list = list};
    for (unsigned i = 0; i < ACTIONS_MAX; i++) {
        struct action a = {.type = ACTION_MOVE,
                           .move = {.to = FIELD_REG0, .to_bit = (uint8_t)(i % 32), .bits = (uint8_t)(i / 32 + 1)}};
        assert_true(action_set_merge_into(&set, &(struct action_list){.count = 1, .list = &a}));
    }
    assert_int_equal(set.count, ACTIONS_MAX);
    assert_false(action_set_merge_into(&set, &(struct action_list){.count = 1, .list = &one}));
    assert_int_equal(set.count, ACTIONS_MAX);
    assert_int_equal(list[ACTIONS_MAX - 1].type, ACTION_MOVE);
    assert_true(action_set_merge_into(&set, &(struct action_list){.count = 1, .list = &list[5]}));
    assert_int_equal(set.count, ACTIONS_MAX);
}

/* ---- no memory ---- */

static bool parses(void)
{
    struct flow_spec f;
    if (flow_parse(&f, MANY, FLOW_PARSE_ADD, NULL, NULL)) {
        assert_null(f.instructions.apply.list);
        assert_null(f.instructions.write.list);
        return false;
    }
    instructions_clear(&f.instructions);
    return true;
}

static struct flow_spec source;

static bool is_copied(void)
{
    struct instructions copy;
    if (!instructions_copy(&copy, &source.instructions)) return false;
    assert_true(instructions_equal(&copy, &source.instructions));
    instructions_clear(&copy);
    return true;
}

static bool is_merged(void)
{
    struct action_list set = {0};
    bool done = action_set_merge(&set, &source.instructions.write);
    assert_int_equal(set.count, done ? source.instructions.write.count : 0);
    unsigned before = set.count;
    if (done) done = action_set_merge(&set, &source.instructions.apply);
    if (!done) assert_int_equal(set.count, before);
    free(set.list);
    return done;
}

static bool guards(void)
{
    struct guard *g;
    struct guard_config c = {.macs = 1, .mac = {{2, 0, 0, 0, 0, 1}}};
    if (guard_new(&g, &c, NULL)) return false;
    guard_free(g);
    return true;
}

static void a_lack_of_memory_changes_nothing(void **state)
{
    bool (*const works[])(void) = {parses, is_copied, is_merged, guards};
    source = flow_of(MANY);
    for (unsigned i = 0; i < sizeof works / sizeof works[0]; i++) {
        bool done = false;
        for (fail_at = 1; !done && fail_at < 100; fail_at++) {
            allocations = 0;
            done = works[i]();
            assert_int_equal(done, allocations < fail_at);
        }
        assert_true(done && fail_at > 2);
    }
    fail_at = 0;
    instructions_clear(&source.instructions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_are_equal_and_their_own),
        cmocka_unit_test(every_difference_counts),
        cmocka_unit_test(sets_are_in_the_order_of_the_standard),
        cmocka_unit_test(later_takes_the_place_of_earlier),
        cmocka_unit_test(a_full_set_stays_as_it_was),
        cmocka_unit_test(a_lack_of_memory_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
