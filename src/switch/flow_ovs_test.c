/* SPDX-License-Identifier: Apache-2.0 */
/* The normal forms of flow_cases.h and of random flows are those of ovs-ofctl. Skipped where it is not installed. */
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
#include "switch/flow_random.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* Flows and the normal forms that are expected. */
struct question {
    unsigned count;
    char **text, **normal;
};

static void put(struct question *q, const char *text, const char *normal)
{
    q->text = realloc(q->text, (q->count + 1) * sizeof *q->text);
    q->normal = realloc(q->normal, (q->count + 1) * sizeof *q->normal);
    assert_true(q->text && q->normal);
    q->text[q->count] = strdup(text);
    q->normal[q->count++] = strdup(normal);
}

static void drop(struct question *q)
{
    for (unsigned i = 0; i < q->count; i++) {
        free(q->text[i]);
        free(q->normal[i]);
    }
    free(q->text);
    free(q->normal);
}

static FILE *ask(const struct question *q, char path[])
{
    int fd = mkstemp(path);
    FILE *in = fd < 0 ? NULL : fdopen(fd, "w");
    assert_non_null(in);
    for (unsigned i = 0; i < q->count; i++)
        fprintf(in, "%s\n", q->text[i]);
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

static void check_answers(const struct question *q)
{
    char path[] = "/tmp/creedence-flows-XXXXXX", line[8192], normal[8192];
    FILE *answers = ask(q, path);
    assert_non_null(answers);
    unsigned n = 0;
    while (fgets(line, sizeof line, answers)) {
        if (!pick(line, normal, sizeof normal)) continue;
        assert_true(n < q->count);
        assert_string_equal(normal, q->normal[n]);
        n++;
    }
    pclose(answers);
    unlink(path);
    if (n != q->count) fail_msg("not taken: %s", q->text[n]);
}

static void ovs_ofctl_has_the_same_normal_form(void **state)
{
    if (system("ovs-ofctl --version >/dev/null 2>&1") != 0) skip();
    struct question q = {0};
    for (unsigned i = 0; i < COUNT(flow_cases); i++)
        put(&q, flow_cases[i].text, flow_cases[i].normal ? flow_cases[i].normal : flow_cases[i].text);
    check_answers(&q);
    drop(&q);
}

/* ---- random flows ---- */

#define TEXT_MAX 16384

static void write_text(char out[TEXT_MAX], void (*write)(FILE *, const struct flow_spec *, const struct flow_names *),
                       const struct flow_spec *f)
{
    FILE *to = fmemopen(out, TEXT_MAX, "w");
    assert_non_null(to);
    write(to, f, NULL);
    assert_int_equal(fclose(to), 0);
}

/* What ovs-ofctl does not have, or has in another way: parts of fields that OpenFlow cannot mask, PBB, TTL copies, bits of
 * tags that are not there, ARP operations beyond 255, long IPv6 addresses with long masks (it cuts the text off). */
static bool is_own(const char *text)
{
    static const char *const own[] = {"pbb",        "copy_ttl",  "exthdr",      "->eth_type", "->nw_proto",
                                      "->mpls_bos", "vlan_tci=", "arp_op",      "4294967040", "OXM_OF_IN_P",
                                      "->icmp",     "->nd_",     "->ip_dscp",   "->nw_ecn",   "->vlan_pcp",
                                      "->nw_ttl",   "->mpls_",   "nw_frag=0/1", "nw_frag=2/", "push_vlan",
                                      "->vlan_vid"};
    for (unsigned i = 0; i < COUNT(own); i++)
        if (strstr(text, own[i])) return true;
    const char *source = strstr(text, "ipv6_src="), *destination = strstr(text, "ipv6_dst=");
    return (source && strcspn(source, ", ") > 50) || (destination && strcspn(destination, ", ") > 50) ||
           strstr(text, "->ipv6_");
}

static void it_says_the_same_of_random_flows(void **state)
{
    if (system("ovs-ofctl --version >/dev/null 2>&1") != 0) skip();
    static char text[TEXT_MAX], normal[TEXT_MAX];
    struct question q = {0};
    uint64_t seed = 11;
    while (q.count < 2000) {
        struct action apply[ACTIONS_MAX], write[ACTIONS_MAX];
        struct flow_spec f = random_flow(apply, write, &seed);
        if (flow_check(&f, NULL)) continue;
        if (be32_get(f.match.mask.in_port)) f.match.key.in_port = be32_make(7); /* it has ports of 16 bits */
        write_text(text, flow_format_all, &f);
        write_text(normal, flow_format, &f);
        if (!is_own(text)) put(&q, text, normal);
    }
    check_answers(&q);
    drop(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ovs_ofctl_has_the_same_normal_form),
        cmocka_unit_test(it_says_the_same_of_random_flows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
