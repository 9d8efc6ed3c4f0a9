/* SPDX-License-Identifier: Apache-2.0 */
/* Groups as text: read, written and read again; and written as ovs-ofctl writes them (skipped where it is not installed). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "switch/flow.h"
#include "switch/group.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const struct {
    const char *text, *normal;
} cases[] = {
    {"group_id=1,type=all", "group_id=1,type=all"},
    {"type=all,group_id=9", "group_id=9,type=all"},
    {"group_id=4294967040,type=all,bucket=drop", "group_id=4294967040,type=all,bucket=actions=drop"},
    {"group_id=1,type=all,bucket=output:1,bucket=output:2",
     "group_id=1,type=all,bucket=actions=output:1,bucket=actions=output:2"},
    {"group_id=1,type=select,bucket=weight:2,watch_port:3,actions=output:1,mod_nw_ttl:3,bucket=actions=drop",
     "group_id=1,type=select,bucket=weight:2,watch_port:3,actions=output:1,mod_nw_ttl:3,bucket=actions=drop"},
    {"group_id=1 type=select bucket=weight:1 output:3", "group_id=1,type=select,bucket=actions=output:3"},
    {"group_id=1,type=select,bucket=weight:0,actions=output:3",
     "group_id=1,type=select,bucket=weight:0,actions=output:3"},
    {"group_id=1,type=select,bucket=output:3,weight:65535",
     "group_id=1,type=select,bucket=weight:65535,actions=output:3"},
    {"group_id=5,type=ff,bucket=watch_group:7,actions=group:3",
     "group_id=5,type=ff,bucket=watch_group:7,actions=group:3"},
    {"group_id=5,type=fast_failover,bucket=watch_port:1,watch_group:7,output:1,output:2",
     "group_id=5,type=ff,bucket=watch_port:1,watch_group:7,actions=output:1,output:2"},
    {"group_id=1,type=indirect,bucket=mod_dl_src:00:00:00:00:00:01,mod_vlan_vid:5,output:LOCAL",
     "group_id=1,type=indirect,bucket=actions=set_field:00:00:00:00:00:01->eth_src,push_vlan:0x8100,"
     "set_field:4101->vlan_vid,LOCAL"},
    {"group_id=1,type=indirect,bucket=actions=dec_ttl,set_queue:3,push_mpls:0x8847,group:7",
     "group_id=1,type=indirect,bucket=actions=dec_ttl,set_queue:3,push_mpls:0x8847,group:7"},
    {"group_id=1,type=all,bucket=controller,bucket=in_port,bucket=flood,bucket=normal",
     "group_id=1,type=all,bucket=actions=CONTROLLER:65535,bucket=actions=IN_PORT,bucket=actions=FLOOD,bucket=actions="
     "NORMAL"},
};

static char *written(const struct group_spec *g)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    group_format(out, g, NULL);
    fclose(out);
    return text;
}

static void check(const char *text, const char *normal)
{
    struct group_spec g;
    struct errmsg e;
    if (group_parse(&g, text, NULL, &e)) fail_msg("%s: %s", text, e.text);
    char *said = written(&g);
    assert_string_equal(said, normal);
    free(said);
    group_spec_clear(&g);
}

static void texts_have_a_normal_form(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(cases); i++) {
        check(cases[i].text, cases[i].normal);
        check(cases[i].normal, cases[i].normal);
    }
}

static void ovs_ofctl_has_the_same(void **state)
{
    (void)state;
    if (system("ovs-ofctl --version >/dev/null 2>&1") != 0) skip();
    for (unsigned i = 0; i < COUNT(cases); i++) {
        char command[1024], line[4096] = "";
        snprintf(command, sizeof command, "ovs-ofctl -O OpenFlow13 parse-group '%s' 2>&1", cases[i].text);
        FILE *answer = popen(command, "r");
        assert_non_null(answer);
        while (strncmp(line, " ADD ", 5) != 0)
            if (!fgets(line, sizeof line, answer)) fail_msg("%s: %s", cases[i].text, line);
        pclose(answer);
        line[strcspn(line, "\n")] = 0;
        assert_string_equal(line + 5, cases[i].normal);
    }
}

static const struct {
    const char *text, *error;
} wrong[] = {
    {"", "column 1: nothing there, expected group_id=NUMBER"},
    {"group_id=1", "column 11: nothing there, expected type=all, select, indirect or ff"},
    {"type=all", "column 9: nothing there, expected group_id=NUMBER"},
    {"group_id=0xffffff01,type=all", "column 10: found \"0xffffff01\", expected a group's number"},
    {"group_id=1,group_id=2,type=all", "column 12: \"group_id\": it was said before"},
    {"group_id=1,type=all,type=all", "column 21: \"type\": it was said before"},
    {"group_id=1,bucket=output:3,type=select", "column 12: \"bucket\": the group's type comes first"},
    {"group_id=1,type=any", "column 17: found \"any\", expected all, select, indirect or ff"},
    {"group_id=1,type=all,bucket=", "column 21: \"bucket=\": a bucket has actions (or drop)"},
    {"group_id=1,type=all,bucket", "column 27: nothing there, expected bucket=.."},
    {"group_id=1,type=all,bucket=,bucket=output:1", "column 21: \"bucket=\": a bucket has actions (or drop)"},
    {"group_id=1,type=select,bucket=weight:3", "column 24: \"bucket=weight:3\": a bucket has actions (or drop)"},
    {"group_id=1,type=all,bucket=weight:3,output:1", "column 28: \"weight\": only a select group's buckets have one"},
    {"group_id=1,type=all,bucket=weight:0,output:1", "column 28: \"weight\": only a select group's buckets have one"},
    {"group_id=1,type=select,bucket=weight:65536,output:1",
     "column 38: found \"65536\", expected a weight (0 to 65535)"},
    {"group_id=1,type=select,bucket=weight:6,weight:7,output:1", "column 40: \"weight\": it was said before"},
    {"group_id=1,type=ff,bucket=watch_port:foo,output:1", "column 38: found \"foo\", expected a port's number or name"},
    {"group_id=1,type=ff,bucket=watch_group:foo,output:1", "column 39: found \"foo\", expected a group's number"},
    {"group_id=1,type=all,bucket=bucket_id:3,output:1",
     "column 28: \"bucket_id\": OpenFlow 1.3 has no numbers of buckets: their order counts"},
    {"group_id=1,type=select,selection_method=hash,bucket=output:1",
     "column 24: \"selection_method\": a select group chooses by addresses and ports, always"},
    {"group_id=1,type=all,output:1", "column 21: found \"output\", expected group_id=, type= or bucket="},
    {"group_id=1,type=all,bucket=goto_table:3", "column 28: \"goto_table:3\": it is an instruction, not an action"},
    {"group_id=1,type=all,bucket=drop,output:1", "column 33: \"output:1\": drop stands alone"},
    {"group_id=1,type=all,bucket=output:1,drop", "column 37: \"drop\": drop stands alone"},
    {"group_id=1,type=all,bucket=output(1", "column 34: \"(1\": there is no ')' for it"},
};

static void what_is_wrong_is_said(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(wrong); i++) {
        struct group_spec g;
        struct errmsg e;
        assert_true(group_parse(&g, wrong[i].text, NULL, &e) < 0);
        assert_string_equal(e.text, wrong[i].error);
        assert_null(g.buckets);
    }
}

static void there_are_bounds(void **state)
{
    struct group_spec g;
    struct errmsg e;
    char *text = malloc(3u << 20);
    (void)state;
    assert_non_null(text);
    size_t n = (size_t)sprintf(text, "group_id=1,type=all");
    for (unsigned i = 0; i < GROUP_BUCKETS_MAX; i++)
        n += (size_t)sprintf(text + n, ",bucket=output:%u", i + 1);
    assert_int_equal(group_parse(&g, text, NULL, &e), 0);
    assert_int_equal(g.count, GROUP_BUCKETS_MAX);
    struct group_spec copy;
    assert_true(group_spec_copy(&copy, &g));
    char *one = written(&g), *two = written(&copy);
    assert_string_equal(one, two);
    free(one);
    free(two);
    group_spec_clear(&copy);
    group_spec_clear(&g);
    strcpy(text + n, ",bucket=output:1");
    assert_true(group_parse(&g, text, NULL, &e) < 0);
    memset(text, ',', 2u << 20);
    text[2u << 20] = 0;
    assert_true(group_parse(&g, text, NULL, &e) < 0);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_have_a_normal_form),
        cmocka_unit_test(ovs_ofctl_has_the_same),
        cmocka_unit_test(what_is_wrong_is_said),
        cmocka_unit_test(there_are_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
