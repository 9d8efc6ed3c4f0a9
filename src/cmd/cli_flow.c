/* SPDX-License-Identifier: Apache-2.0 */
/* creedence flow, megaflow, mac and capture: what the switch does with packets, and what it saw. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cmd/cli_batch.h"
#include "cmd/cli_verbs.h"
#include "control/network_config.h"
#include "control/size.h"
#include "control/text.h"

enum { OPT_STRICT = CLI_OPT, OPT_NO_STATS, OPT_GUARDS, OPT_SNAPLEN };

/* ---- flow ---- */

static const struct option strict_options[] = {{"strict", no_argument, NULL, OPT_STRICT}, {0}};

static int change(struct cli *c, const char *method, const char *word, bool needs_flow)
{
    bool strict = false;
    while (cli_option(c) != -1)
        strict = true;
    return cli_change(c, &(struct cli_change){.method = method,
                                              .key = "flows",
                                              .thing = "flow",
                                              .word = word,
                                              .file_unless = needs_flow ? "actions=" : NULL,
                                              .strict = strict,
                                              .flows = true});
}

static int flow_add(struct cli *c)
{
    return change(c, "flow.add", "added", true);
}

const struct cli_verb cli_flow_add = {
    .name = "flow add",
    .args = "BRIDGE FLOW|FILE|-",
    .summary = "Add flows to a bridge, in the syntax of ovs-ofctl",
    .run = flow_add,
    .help = "FLOW has a match and actions=...; FILE has one a line, - is standard input. A flow of the same table,\n"
            "priority and match is replaced. When this ends, every packet obeys.\n"
            "\nExamples:\n"
            "  creedence flow add br0 'priority=100,tcp,tp_dst=80,actions=output:2'\n"
            "  creedence flow add br0 rules.txt\n"
            "  creedence flow dump br0 --no-stats | creedence flow add br1 -\n",
};

static int flow_mod(struct cli *c)
{
    return change(c, "flow.mod", "changed", true);
}

const struct cli_verb cli_flow_mod = {
    .name = "flow mod",
    .args = "BRIDGE FLOW|FILE|-",
    .summary = "Give flows other actions",
    .options = strict_options,
    .run = flow_mod,
    .help = "All flows that the match covers are changed; counters stay.\n"
            "  --strict                only the one of this very match and priority\n"
            "\nExamples:\n"
            "  creedence flow mod br0 'tcp,tp_dst=80,actions=drop'\n",
};

static int flow_del(struct cli *c)
{
    return change(c, "flow.del", "deleted", false);
}

const struct cli_verb cli_flow_del = {
    .name = "flow del",
    .args = "BRIDGE [MATCH|-]",
    .summary = "Delete flows (without MATCH: all of the bridge)",
    .options = strict_options,
    .run = flow_del,
    .help = "All flows that the match covers are deleted; it may also have table=, cookie=VALUE/MASK and out_port=.\n"
            "  --strict                only the one of this very match and priority\n"
            "\nExamples:\n"
            "  creedence flow del br0 'tcp,tp_dst=80'\n"
            "  creedence flow del br0 --strict 'priority=100,tcp,tp_dst=80'\n",
};

static const struct option dump_options[] = {
    {"no-stats", no_argument, NULL, OPT_NO_STATS},
    {"guards", no_argument, NULL, OPT_GUARDS},
    {0},
};

static double seconds(json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static void print_flow(json_t *f, void *arg)
{
    const bool *stats = arg;
    const char *guard = json_string_value(json_object_get(f, "guard"));
    if (guard) printf("guard of %s, %s: ", guard, cli_string(f, "stage"));
    else if (*stats)
        printf("n_packets=%lld, n_bytes=%lld, duration=%.3fs, idle=%.1fs, ", (long long)cli_integer(f, "packets"),
               (long long)cli_integer(f, "bytes"), seconds(f, "duration_s"), seconds(f, "idle_s"));
    puts(cli_string(f, "text"));
}

static int flow_dump(struct cli *c)
{
    bool stats = true;
    json_t *params = c->params = json_object();
    for (int opt; (opt = cli_option(c)) != -1;) {
        if (opt == OPT_NO_STATS) stats = false;
        else json_object_set_new(params, "guards", json_true());
    }
    bool match = c->positional_count + (c->argc - optind) > 1;
    char **args = cli_arguments(c, match ? 2 : 1);
    json_object_set_new(params, "bridge", json_string(args[0]));
    if (match && *args[1]) json_object_set_new(params, "match", json_string(args[1]));
    return cli_pages(c, "flow.dump", params, "flows", print_flow, &stats);
}

const struct cli_verb cli_flow_dump = {
    .name = "flow dump",
    .args = "BRIDGE [MATCH]",
    .summary = "Show a bridge's flows with what they have counted",
    .options = dump_options,
    .run = flow_dump,
    .help = "With MATCH: those that it covers. By table, then falling priority.\n"
            "  --no-stats              as `flow add` reads them\n"
            "  --guards                also the rules that check what guests send as (--allowed-mac, --allowed-ip)\n"
            "\nExamples:\n"
            "  creedence flow dump br0 tcp\n"
            "  creedence flow dump br0 --no-stats > rules.txt\n",
};

static void print_lines(const char *text)
{
    while (*text) {
        size_t len = strcspn(text, "\n");
        autofree char *line = strndup(text, len);
        if (!line) abort();
        text_clean(line);
        puts(line);
        text += len + (text[len] == '\n');
    }
}

static int flow_trace(struct cli *c)
{
    json_t *result;
    while (cli_option(c) != -1)
        ;
    char **args = cli_arguments(c, 2);
    bool json = c->json;
    c->json = true; /* as it came, with its line ends; it is cleaned below */
    int status =
        cli_call(c, "flow.trace", json_pack("{s:s, s:s}", "bridge", args[0], "packet", args[1]), CLI_QUICK_MS, &result);
    c->json = json;
    if (status != CLI_OK) return status;
    if (json) return cli_print_json(result);
    print_lines(cli_string(result, "text"));
    json_decref(result);
    return CLI_OK;
}

const struct cli_verb cli_flow_trace = {
    .name = "flow trace",
    .args = "BRIDGE PACKET",
    .summary = "Say table by table what happens to a packet, and which megaflow that makes",
    .run = flow_trace,
    .help = "PACKET is written as a match is; what it does not say is zero. Nothing is sent, nothing is counted.\n"
            "\nExamples:\n"
            "  creedence flow trace br0 'in_port=1,tcp,nw_src=10.0.0.5,tp_dst=80'\n",
};

/* ---- megaflow ---- */

static void print_megaflow(json_t *m, void *arg)
{
    const char *bridge = arg;
    if (bridge && strcmp(bridge, cli_string(m, "bridge")) != 0) return;
    printf("packets=%lld, bytes=%lld, idle=%.1fs, thread=%s, bridge=%s, %s actions=%s\n",
           (long long)cli_integer(m, "packets"), (long long)cli_integer(m, "bytes"), seconds(m, "idle_s"),
           cli_string(m, "thread"), cli_string(m, "bridge"), cli_string(m, "match"), cli_string(m, "actions"));
}

static int megaflow_dump(struct cli *c)
{
    while (cli_option(c) != -1)
        ;
    bool one = c->positional_count + (c->argc - optind) > 0;
    char **args = cli_arguments(c, one);
    json_t *params = json_object();
    if (one) json_object_set_new(params, "bridge", json_string(args[0]));
    return cli_pages(c, "megaflow.dump", params, "megaflows", print_megaflow, one ? args[0] : NULL);
}

const struct cli_verb cli_megaflow_dump = {
    .name = "megaflow dump",
    .args = "[BRIDGE]",
    .summary = "Show the megaflows that packets made: what the fast path goes by",
    .run = megaflow_dump,
    .help = "Each thread has its own. A megaflow matches on the bits that the tables looked at, and no others.\n"
            "\nExamples:\n"
            "  creedence megaflow dump br0\n",
};

static double percent(json_int_t part, json_int_t whole)
{
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0;
}

static int megaflow_stats(struct cli *c)
{
    json_t *o, *value;
    const char *key;
    while (cli_option(c) != -1)
        ;
    cli_arguments(c, 0);
    if (cli_call(c, "megaflow.stats", NULL, CLI_QUICK_MS, &o)) return CLI_FAILED;
    if (c->json) return cli_print_json(o);
    json_int_t exact = cli_integer(o, "emc_hits"), mega = cli_integer(o, "megaflow_hits"),
               slow = cli_integer(o, "translations"), all = exact + mega + slow;
    json_object_foreach(o, key, value)
    {
        if (json_is_integer(value)) printf("%-18s %lld\n", key, (long long)json_integer_value(value));
    }
    if (all)
        printf("\n%.2f %% of the packets were decided by the exact-match cache, %.2f %% by megaflows, %.2f %% by the "
               "tables\n",
               percent(exact, all), percent(mega, all), percent(slow, all));
    json_decref(o);
    return CLI_OK;
}

const struct cli_verb cli_megaflow_stats = {
    .name = "megaflow stats",
    .args = "",
    .summary = "Show how well the switch's caches do",
    .run = megaflow_stats,
    .help = "\nExamples:\n"
            "  creedence megaflow stats\n",
};

/* ---- mac ---- */

static void mac_row(json_t *m, void *arg)
{
    struct cli_table *t = arg;
    cli_table_cell(t, "%s", cli_string(m, "mac"));
    cli_table_cell(t, "%lld", (long long)cli_integer(m, "vlan"));
    cli_table_cell(t, "%lld", (long long)cli_integer(m, "number"));
    cli_table_cell(t, "%s", cli_string(m, "port"));
    cli_table_cell(t, "%lld s", (long long)cli_integer(m, "age_s"));
}

static int mac_show(struct cli *c)
{
    struct cli_table t;
    while (cli_option(c) != -1)
        ;
    const char *bridge = cli_arguments(c, 1)[0];
    cli_table_begin(&t, "MAC|>VLAN|>NUMBER|PORT|>AGE");
    int status = cli_pages(c, "mac.show", json_pack("{s:s}", "bridge", bridge), "macs", mac_row, &t);
    if (status == CLI_OK && !c->json) cli_table_end(&t);
    return status;
}

const struct cli_verb cli_mac_show = {
    .name = "mac show",
    .args = "BRIDGE",
    .summary = "Show which addresses a bridge has learnt, and where",
    .run = mac_show,
    .help = "\nExamples:\n"
            "  creedence mac show br0\n",
};

static int mac_flush(struct cli *c)
{
    json_t *result;
    while (cli_option(c) != -1)
        ;
    const char *bridge = cli_arguments(c, 1)[0];
    if (cli_call(c, "mac.flush", json_pack("{s:s}", "bridge", bridge), CLI_QUICK_MS, &result)) return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    json_decref(result);
    printf("bridge %s has forgotten the addresses\n", bridge);
    return CLI_OK;
}

const struct cli_verb cli_mac_flush = {
    .name = "mac flush",
    .args = "BRIDGE",
    .summary = "Forget the addresses that a bridge has learnt",
    .run = mac_flush,
    .help = "\nExamples:\n"
            "  creedence mac flush br0\n",
};

/* ---- capture ---- */

static const struct option capture_options[] = {
    {"write", required_argument, NULL, 'w'},
    {"snaplen", required_argument, NULL, OPT_SNAPLEN},
    {0},
};

static int capture_stop(struct cli *c, const char *port)
{
    json_t *o;
    char text[SIZE_TEXT_MAX];
    if (cli_call(c, "capture.stop", json_pack("{s:s}", "port", port), CLI_QUICK_MS, &o)) return CLI_FAILED;
    if (c->json) return cli_print_json(o);
    printf("%lld packets captured, %s; %lld more went by too fast\n", (long long)cli_integer(o, "packets"),
           size_format((uint64_t)cli_integer(o, "bytes"), text), (long long)cli_integer(o, "dropped"));
    json_decref(o);
    return CLI_OK;
}

static int capture(struct cli *c)
{
    json_t *params = c->params = json_object(), *result;
    for (int opt; (opt = cli_option(c)) != -1;) {
        if (opt == OPT_SNAPLEN) {
            json_object_set_new(params, "snaplen",
                                json_integer((json_int_t)cli_number(c, "--snaplen", optarg, 1, NETWORK_SNAPLEN_MAX)));
        } else {
            autofree char *path = cli_absolute(optarg);
            json_object_set_new(params, "file", json_string(path));
        }
    }
    bool stop = c->positional_count + (c->argc - optind) > 1;
    char **args = cli_arguments(c, stop ? 2 : 1);
    json_t *file = json_object_get(params, "file");
    if (stop && (strcmp(args[1], "stop") != 0 || json_object_size(params)))
        cli_usage_error(c, "%s: expected -w FILE, or only the word stop", args[1]);
    if (stop) {
        json_decref(params);
        return capture_stop(c, args[0]);
    }
    if (!file) cli_usage_error(c, "where to? give -w FILE; the word stop ends a capture");
    autofree char *path = strdup(json_string_value(file));
    json_object_set_new(params, "port", json_string(args[0]));
    if (cli_call(c, "capture.start", params, CLI_QUICK_MS, &result)) return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    json_decref(result);
    printf("%s is captured to %s, until `creedence capture %s stop`\n", args[0], path, args[0]);
    return CLI_OK;
}

const struct cli_verb cli_capture_verb = {
    .name = "capture",
    .args = "PORT [stop]",
    .summary = "Write what goes in and out at a port or card to a file (pcapng), or end that",
    .options = capture_options,
    .shorts = "w:",
    .run = capture,
    .help = "  -w, --write FILE        for Wireshark or tcpdump; written over if it is there\n"
            "  --snaplen N             only the first N bytes of each packet\n"
            "\nExamples:\n"
            "  creedence capture web1 -w web1.pcapng\n"
            "  creedence capture web1 stop\n",
};
