/* SPDX-License-Identifier: Apache-2.0 */
/* The normal forms of flow_cases.h are those of ovs-ofctl. Skipped where it is not installed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "switch/flow_cases.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static FILE *ask(char path[])
{
    int fd = mkstemp(path);
    FILE *in = fd < 0 ? NULL : fdopen(fd, "w");
    assert_non_null(in);
    for (unsigned i = 0; i < COUNT(flow_cases); i++)
        fprintf(in, "%s\n", flow_cases[i].text);
    fclose(in);
    char command[256];
    snprintf(command, sizeof command, "ovs-ofctl -O OpenFlow15 parse-flows %s 2>/dev/null", path);
    return popen(command, "r");
}

/* Of "OFPT_FLOW_MOD (OF1.5) (xid=0x1): ADD table:3 MATCH cookie:0x5 .. actions=..": the match and the actions. */
static bool pick(char *line, char *out, size_t bytes)
{
    static const char *const others[] = {
        "table:",       "cookie:",          "idle:",         "hard:", "send_flow_rem", "check_overlap",
        "reset_counts", "no_packet_counts", "no_byte_counts"};
    char *at = strstr(line, "ADD "), *word, *save;
    if (!at) return false;
    out[0] = 0;
    for (word = strtok_r(at + 4, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
        bool other = false;
        for (unsigned i = 0; i < COUNT(others); i++)
            other |= strncmp(word, others[i], strlen(others[i])) == 0;
        if (!other) snprintf(out + strlen(out), bytes - strlen(out), "%s%s", *out ? " " : "", word);
    }
    return true;
}

static void ovs_ofctl_has_the_same_normal_form(void **state)
{
    if (system("ovs-ofctl --version >/dev/null 2>&1") != 0) skip();
    char path[] = "/tmp/creedence-flows-XXXXXX", line[4096], normal[4096];
    FILE *answers = ask(path);
    assert_non_null(answers);
    unsigned n = 0;
    while (fgets(line, sizeof line, answers)) {
        if (!pick(line, normal, sizeof normal)) continue;
        assert_true(n < COUNT(flow_cases));
        assert_string_equal(normal, flow_cases[n].normal ? flow_cases[n].normal : flow_cases[n].text);
        n++;
    }
    pclose(answers);
    unlink(path);
    assert_int_equal(n, COUNT(flow_cases));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ovs_ofctl_has_the_same_normal_form)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
