/* SPDX-License-Identifier: Apache-2.0 */
/* Flows as text: what is read, what is refused and where, what is written. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "switch/flow.h"
#include "switch/flow_cases.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- ports with names ---- */

static bool port_number(void *arg, const char *name, size_t length, uint32_t *number)
{
    static const char *const ports[] = {"tap0", "vif1.0", "eth0:1", "drop", "9lives", "LOCAL"};
    for (unsigned i = 0; i < COUNT(ports); i++)
        if (strlen(ports[i]) == length && memcmp(ports[i], name, length) == 0) {
            *number = 10 + i;
            return true;
        }
    return false;
}

static const char *port_name(void *arg, uint32_t number)
{
    static const char *const ports[] = {"tap0", "vif1.0", "eth0:1", "drop", "9lives", "LOCAL", "", "a,b", "a b"};
    return number >= 10 && number < 10 + COUNT(ports) ? ports[number - 10] : NULL;
}

static const struct flow_names names = {.port_number = port_number, .port_name = port_name};

/* ---- writing ---- */

static char *written(void (*write)(FILE *, const struct flow_spec *, const struct flow_names *),
                     const struct flow_spec *f, const struct flow_names *n)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    write(out, f, n);
    fclose(out);
    return text;
}

static struct flow_spec parsed(const char *text, enum flow_parse how)
{
    struct flow_spec f;
    struct errmsg e;
    if (flow_parse(&f, text, how, &names, &e)) fail_msg("%s: %s", text, e.text);
    return f;
}

static bool same(const struct flow_spec *a, const struct flow_spec *b)
{
    return a->table == b->table && a->priority == b->priority && a->idle_timeout_s == b->idle_timeout_s &&
           a->hard_timeout_s == b->hard_timeout_s && a->flags == b->flags && a->cookie == b->cookie &&
           a->cookie_mask == b->cookie_mask && memcmp(&a->match, &b->match, sizeof a->match) == 0 &&
           instructions_equal(&a->instructions, &b->instructions);
}

/* What was written is read as the same flow, and written the same way. */
static void check_round_trip(const struct flow_spec *f, const struct flow_names *n)
{
    char *first = written(flow_format_all, f, n);
    struct flow_spec again = parsed(first, FLOW_PARSE_ADD);
    if (!same(f, &again)) fail_msg("not the same flow: %s", first);
    char *second = written(flow_format_all, &again, n);
    assert_string_equal(first, second);
    instructions_clear(&again.instructions);
    free(first);
    free(second);
}

static void check_case(const struct flow_case *c)
{
    struct errmsg e;
    struct flow_spec f = parsed(c->text, FLOW_PARSE_ADD);
    if (flow_check(&f, &e)) fail_msg("%s: %s", c->text, e.text);
    char *text = written(flow_format, &f, NULL);
    assert_string_equal(text, c->normal ? c->normal : c->text);
    check_round_trip(&f, NULL);
    check_round_trip(&f, &names);
    free(text);
    instructions_clear(&f.instructions);
}

static void flows_have_a_normal_form(void **state)
{
    for (unsigned i = 0; i < COUNT(flow_cases); i++)
        check_case(&flow_cases[i]);
    for (unsigned i = 0; i < COUNT(flow_own_cases); i++)
        check_case(&flow_own_cases[i]);
}

static void bad_flows_are_refused_with_a_reason(void **state)
{
    for (unsigned i = 0; i < COUNT(flow_bad_cases); i++) {
        const struct flow_case *c = &flow_bad_cases[i];
        struct flow_spec f;
        struct errmsg e = {""};
        int ret = flow_parse(&f, c->text, FLOW_PARSE_ADD, NULL, &e);
        if (ret == 0) {
            ret = flow_check(&f, &e);
            instructions_clear(&f.instructions);
        }
        assert_int_equal(ret, -EINVAL);
        assert_string_equal(e.text, c->normal);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flows_have_a_normal_form),
        cmocka_unit_test(bad_flows_are_refused_with_a_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
