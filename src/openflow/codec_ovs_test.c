/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What ovs-ofctl sends is what its texts say, and it prints what is written here as they say. The test plays the switch, at
 * a socket in a directory of its own. Skipped where ovs-ofctl is not installed.
 */
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "openflow/codec_any.h"
#include "openflow/codec_test.h"
#include "switch/flow_cases.h"
#include "switch/flow_random.h"

#define TEXT_MAX 16384

static char directory[64];

static int set_up(void **state)
{
    snprintf(directory, sizeof directory, "/tmp/creedence-codec-XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int tear_down(void **state)
{
    char path[128];
    static const char *const files[] = {"socket", "flows", "errors", "messages"};
    for (unsigned i = 0; i < COUNT(files); i++) {
        snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        unlink(path);
    }
    return rmdir(directory);
}

static bool is_installed(void)
{
    return system("ovs-ofctl --version >/dev/null 2>&1") == 0;
}

/* ---- flows as texts ---- */

struct texts {
    unsigned count;
    char **text;
};

static void add_text(struct texts *t, const char *text)
{
    t->text = realloc(t->text, (t->count + 1) * sizeof *t->text);
    assert_non_null(t->text);
    t->text[t->count] = strdup(text);
    assert_non_null(t->text[t->count++]);
}

static void drop_texts(struct texts *t)
{
    for (unsigned i = 0; i < t->count; i++)
        free(t->text[i]);
    free(t->text);
}

static void format(char out[TEXT_MAX], const struct flow_spec *f, bool all)
{
    FILE *to = fmemopen(out, TEXT_MAX, "w");
    assert_non_null(to);
    if (all) flow_format_all(to, f, NULL);
    else flow_format(to, f, NULL);
    assert_int_equal(fclose(to), 0);
}

static bool has(const char *text, const char *const words[], size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strstr(text, words[i])) return true;
    return false;
}

/* A part of a field is set: that goes as several actions to 1.3, which has none for it. */
static bool sets_parts(const char *text)
{
    const char *at = text;
    while ((at = strstr(at, "set_field:"))) {
        const char *arrow = strstr(at, "->"), *slash = strchr(at, '/');
        if (arrow && slash && slash < arrow) return true;
        at++;
    }
    return false;
}

/* What ovs-ofctl does not have, or has in another way. */
static bool is_own(const char *text)
{
    static const char *const own[] = {
        "pbb",        "copy_ttl",    "exthdr",     "->eth_type", "->nw_proto", "->mpls_bos", "vlan_tci=",  "arp_op",
        "4294967040", "OXM_OF_IN_P", "->icmp",     "->nd_",      "->ip_dscp",  "->nw_ecn",   "->vlan_pcp", "->nw_ttl",
        "->mpls_",    "nw_frag=0/1", "nw_frag=2/", "push_vlan",  "->vlan_vid", "->ipv6_",    "->vlan_tci"};
    const char *source = strstr(text, "ipv6_src="), *destination = strstr(text, "ipv6_dst=");
    return has(text, own, COUNT(own)) || (source && strcspn(source, ", ") > 50) ||
           (destination && strcspn(destination, ", ") > 50);
}

/* Cases, and random flows that it knows. */
static void collect(struct texts *t, unsigned random)
{
    static char text[TEXT_MAX];
    uint64_t seed = 23;
    for (unsigned i = 0; i < COUNT(flow_cases); i++)
        if (!sets_parts(flow_cases[i].text)) add_text(t, flow_cases[i].text);
    while (random) {
        struct action apply[ACTIONS_MAX], write[ACTIONS_MAX];
        struct flow_spec f = random_flow(apply, write, &seed);
        if (flow_check(&f, NULL)) continue;
        if (be32_get(f.match.mask.in_port)) f.match.key.in_port = be32_make(7); /* it has ports of 16 bits */
        format(text, &f, true);
        if (is_own(text) || sets_parts(text)) continue;
        add_text(t, text);
        random--;
    }
}

/* ---- the switch ---- */

static int listen_at(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    assert_true(strlen(path) < sizeof a.sun_path);
    memcpy(a.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

static void answer(struct of_out *o, const struct of_msg *m, struct of_error *e)
{
    struct of_multipart p;
    switch (m->type) {
    case OFPT_HELLO: of_put_hello(o, m->xid); break;
    case OFPT_BARRIER_REQUEST: of_reply_empty(o, OFPT_BARRIER_REPLY, m->xid); break;
    case OFPT_MULTIPART_REQUEST:
        assert_int_equal(of_get_multipart(m, &p, e), 0);
        of_multipart_begin(o, p.type, m->xid);
        for (unsigned table = 0; p.type == OFPMP_TABLE_FEATURES && table < SWITCH_TABLES; table++)
            of_put_table_features(o, (uint8_t)table, "a table", 0, 1000);
        assert_true(of_multipart_end(o, false));
        break;
    default: fail_msg("ovs-ofctl sent message %u", m->type);
    }
}

/* Flow mods are handed to `got`. */
static void serve(int fd, void (*got)(void *arg, const struct of_msg *m), void *arg)
{
    static uint8_t in[1 << 17];
    size_t count = 0;
    ssize_t n;
    struct of_out o;
    of_out_init(&o);
    while ((n = read(fd, in + count, sizeof in - count)) > 0) {
        size_t done = 0;
        count += (size_t)n;
        while (count - done >= sizeof(struct ofp_header)) {
            struct ofp_header h;
            struct of_error e = {0};
            memcpy(&h, in + done, sizeof h);
            if (be16_get(h.length) > count - done) break;
            struct bytes b = bytes_copy(in + done, be16_get(h.length));
            struct of_msg m = msg_of(&b);
            done += b.count;
            if (m.type == OFPT_FLOW_MOD) got(arg, &m);
            else answer(&o, &m, &e);
            free(b.at);
        }
        memmove(in, in + done, count - done);
        count -= done;
        for (size_t at = 0; at < o.count; at += (size_t)n) {
            n = write(fd, o.bytes + at, o.count - at);
            assert_true(n > 0);
        }
        of_out_clear(&o);
    }
    of_out_clear(&o);
}

/* It connects more than once: first to ask what tables are called. Its exit status. */
static int accept_until(pid_t pid, int fd, void (*got)(void *arg, const struct of_msg *m), void *arg)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int status = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (poll(&p, 1, 20) != 1) continue;
        int peer = accept(fd, NULL, NULL);
        assert_true(peer >= 0);
        serve(peer, got, arg);
        close(peer);
    }
    return status;
}

/* ovs-ofctl add-flows, of all texts at once. */
static void send_texts(const struct texts *t, void (*got)(void *arg, const struct of_msg *m), void *arg)
{
    char path[128], command[512];
    snprintf(path, sizeof path, "%s/flows", directory);
    FILE *to = fopen(path, "w");
    assert_non_null(to);
    for (unsigned i = 0; i < t->count; i++)
        fprintf(to, "%s\n", t->text[i]);
    fclose(to);
    snprintf(path, sizeof path, "%s/socket", directory);
    unlink(path);
    int fd = listen_at(path);
    snprintf(command, sizeof command, "ovs-ofctl -O OpenFlow13 add-flows unix:%s/socket %s/flows 2>%s/errors",
             directory, directory, directory);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) _exit(system(command) ? 1 : 0);
    int status = accept_until(pid, fd, got, arg);
    close(fd);
    if (status) {
        snprintf(command, sizeof command, "cat %s/errors", directory);
        assert_int_equal(system(command), 0);
    }
    assert_int_equal(status, 0);
}

/* ---- what it sends ---- */

struct expected {
    const struct texts *texts;
    unsigned count, different;
};

static void compare(void *arg, const struct of_msg *m)
{
    static char sent[TEXT_MAX], said[TEXT_MAX];
    struct expected *x = arg;
    struct of_flow_mod f;
    struct flow_spec parsed;
    struct of_error e;
    struct errmsg why;
    assert_true(x->count < x->texts->count);
    const char *text = x->texts->text[x->count++];
    if (of_get_flow_mod(m, &f, &e)) fail_msg("%s: %s", text, e.text);
    if (flow_parse(&parsed, text, FLOW_PARSE_ADD, NULL, &why)) fail_msg("%s: %s", text, why.text);
    format(sent, &f.flow, true);
    format(said, &parsed, true);
    if (strcmp(sent, said)) {
        x->different++;
        print_error("%s\n  sent %s\n", said, sent);
    }
    instructions_clear(&f.flow.instructions);
    instructions_clear(&parsed.instructions);
}

static void what_ovs_ofctl_sends_is_what_it_was_told(void **state)
{
    if (!is_installed()) skip();
    struct texts t = {0};
    struct expected x = {.texts = &t};
    collect(&t, 1000);
    send_texts(&t, compare, &x);
    assert_int_equal(x.count, t.count);
    assert_int_equal(x.different, 0);
    drop_texts(&t);
}

/* ---- what it reads ---- */

/* ovs-ofctl ofp-parse, of all that is in o. */
static FILE *print_messages(const struct of_out *o)
{
    char path[128], command[256];
    snprintf(path, sizeof path, "%s/messages", directory);
    FILE *to = fopen(path, "w");
    assert_non_null(to);
    assert_int_equal(fwrite(o->bytes, 1, o->count, to), o->count);
    fclose(to);
    snprintf(command, sizeof command, "ovs-ofctl ofp-parse %s 2>&1", path);
    return popen(command, "r");
}

/* Of " cookie=0x0, duration=0s, table=0, n_packets=0, .., send_flow_rem priority=1,ip actions=..": the match and the
 * actions. */
static bool pick(char *line, char *out, size_t bytes)
{
    static const char *const flags[] = {"send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts",
                                        "no_byte_counts"};
    char *actions = strstr(line, "actions="), *at = strstr(line, "n_bytes="), *next;
    if (!actions || !at) return false;
    line[strcspn(line, "\n")] = 0;
    while ((next = strstr(at, ", ")) && next < actions)
        at = next + 2;
    for (unsigned i = 0; i < COUNT(flags); i++)
        if (strncmp(at, flags[i], strlen(flags[i])) == 0) at += strlen(flags[i]) + 1;
    snprintf(out, bytes, "%s", at);
    return true;
}

static void put_flows(struct of_out *o, const struct texts *t)
{
    struct flow_spec f;
    struct errmsg why;
    const struct flow_stats s = {.packets = 1, .bytes = 2, .duration_ns = 3000000004u};
    of_multipart_begin(o, OFPMP_FLOW, 5);
    for (unsigned i = 0; i < t->count; i++) {
        if (flow_parse(&f, t->text[i], FLOW_PARSE_ADD, NULL, &why)) fail_msg("%s: %s", t->text[i], why.text);
        of_put_flow_stats(o, &f, &s);
        instructions_clear(&f.instructions);
    }
    assert_true(of_multipart_end(o, false));
}

static void check_printed(const char *text, const char *printed)
{
    static char normal[TEXT_MAX];
    struct flow_spec f;
    struct errmsg why;
    if (flow_parse(&f, text, FLOW_PARSE_ADD, NULL, &why)) fail_msg("%s: %s", text, why.text);
    format(normal, &f, false);
    instructions_clear(&f.instructions);
    if (!sets_parts(normal)) assert_string_equal(printed, normal); /* else they are load:.. */
}

static void ovs_ofctl_prints_flows_as_they_are(void **state)
{
    static char line[4 * TEXT_MAX], printed[4 * TEXT_MAX];
    if (!is_installed()) skip();
    struct texts t = {0};
    struct of_out o;
    unsigned n = 0;
    of_out_init(&o);
    collect(&t, 1000);
    put_flows(&o, &t);
    FILE *in = print_messages(&o);
    assert_non_null(in);
    while (fgets(line, sizeof line, in)) {
        if (strstr(line, "***")) fail_msg("%s", line);
        if (!pick(line, printed, sizeof printed)) continue;
        assert_true(n < t.count);
        check_printed(t.text[n++], printed);
    }
    pclose(in);
    assert_int_equal(n, t.count);
    of_out_clear(&o);
    drop_texts(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_ovs_ofctl_sends_is_what_it_was_told),
        cmocka_unit_test(ovs_ofctl_prints_flows_as_they_are),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
