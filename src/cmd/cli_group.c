/* SPDX-License-Identifier: Apache-2.0 */
/* creedence group and meter: what flows refer to. */
#include <stdio.h>
#include <string.h>

#include "cmd/cli_batch.h"
#include "cmd/cli_verbs.h"

static int change(struct cli *c, const char *method, const char *key, const char *thing, const char *word,
                  const char *file_unless)
{
    while (cli_option(c) != -1)
        ;
    return cli_change(c, &(struct cli_change){
                             .method = method, .key = key, .thing = thing, .word = word, .file_unless = file_unless});
}

static double seconds(json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static void print_entry(json_t *o, void *arg)
{
    const char *users = arg, *parts = strcmp(users, "flows") == 0 ? "bands" : "buckets",
               *part = *parts == 'b' && parts[1] == 'a' ? "band" : "bucket";
    json_t *p;
    size_t i;
    printf("%s: n_packets=%lld, n_bytes=%lld, %s=%lld, duration=%.3fs", cli_string(o, "text"),
           (long long)cli_integer(o, "packets"), (long long)cli_integer(o, "bytes"), users,
           (long long)cli_integer(o, users), seconds(o, "duration_s"));
    json_array_foreach(json_object_get(o, parts), i, p)
        printf(", %s%zu: n_packets=%lld, n_bytes=%lld", part, i, (long long)cli_integer(p, "packets"),
               (long long)cli_integer(p, "bytes"));
    puts("");
}

static void print_text(json_t *o, void *arg)
{
    (void)arg;
    puts(cli_string(o, "text"));
}

enum { OPT_NO_STATS = CLI_OPT };
static const struct option dump_options[] = {{"no-stats", no_argument, NULL, OPT_NO_STATS}, {0}};

static int dump(struct cli *c, const char *method, const char *key, char *users)
{
    bool stats = true;
    while (cli_option(c) != -1)
        stats = false;
    json_t *params = json_pack("{s:s}", "bridge", cli_arguments(c, 1)[0]);
    return cli_pages(c, method, params, key, stats ? print_entry : print_text, users);
}

/* ---- group ---- */

static int group_add(struct cli *c)
{
    return change(c, "group.add", "groups", "group", "added", "group_id=");
}

const struct cli_verb cli_group_add = {
    .name = "group add",
    .args = "BRIDGE GROUP|FILE|-",
    .summary = "Add groups to a bridge, in the syntax of ovs-ofctl",
    .run = group_add,
    .help =
        "GROUP: group_id=N,type=all|select|indirect|ff,bucket=...,bucket=...; FILE has one a line. See\n"
        "creedence-flows(7). A flow sends to it with group:N.\n"
        "\nExamples:\n"
        "  creedence group add br0 'group_id=1,type=select,bucket=weight:2,actions=output:2,bucket=actions=output:3'\n"
        "  creedence group add br0 "
        "'group_id=2,type=ff,bucket=watch_port:2,actions=output:2,bucket=watch_port:3,actions=output:3'\n",
};

static int group_mod(struct cli *c)
{
    return change(c, "group.mod", "groups", "group", "changed", "group_id=");
}

const struct cli_verb cli_group_mod = {
    .name = "group mod",
    .args = "BRIDGE GROUP|FILE|-",
    .summary = "Give groups another type or other buckets",
    .run = group_mod,
    .help = "\nExamples:\n"
            "  creedence group mod br0 'group_id=1,type=indirect,bucket=actions=output:3'\n",
};

static int group_del(struct cli *c)
{
    return change(c, "group.del", "groups", "group", "deleted", NULL);
}

const struct cli_verb cli_group_del = {
    .name = "group del",
    .args = "BRIDGE [group_id=N]",
    .summary = "Delete a group (without group_id: all of the bridge), and the flows that have it",
    .run = group_del,
    .help = "\nExamples:\n"
            "  creedence group del br0 group_id=1\n",
};

static int group_dump(struct cli *c)
{
    return dump(c, "group.dump", "groups", (char *)"references");
}

const struct cli_verb cli_group_dump = {
    .name = "group dump",
    .args = "BRIDGE",
    .summary = "Show a bridge's groups with what they have counted",
    .options = dump_options,
    .run = group_dump,
    .help = "  --no-stats              as `group add` reads them\n"
            "\nExamples:\n"
            "  creedence group dump br0\n",
};

/* ---- meter ---- */

static int meter_add(struct cli *c)
{
    return change(c, "meter.add", "meters", "meter", "added", "meter=");
}

const struct cli_verb cli_meter_add = {
    .name = "meter add",
    .args = "BRIDGE METER|FILE|-",
    .summary = "Add meters (rates that flows share) to a bridge, in the syntax of ovs-ofctl",
    .run = meter_add,
    .help = "METER: "
            "meter=N,kbps|pktps[,burst][,stats],bands=type=drop|dscp_remark,rate=N[,burst_size=N][,prec_level=N]...\n"
            "See creedence-flows(7). A flow is metered with meter:N.\n"
            "\nExamples:\n"
            "  creedence meter add br0 'meter=1,kbps,bands=type=drop,rate=100000'\n",
};

static int meter_mod(struct cli *c)
{
    return change(c, "meter.mod", "meters", "meter", "changed", "meter=");
}

const struct cli_verb cli_meter_mod = {
    .name = "meter mod",
    .args = "BRIDGE METER|FILE|-",
    .summary = "Give meters other bands",
    .run = meter_mod,
    .help = "\nExamples:\n"
            "  creedence meter mod br0 'meter=1,pktps,bands=type=drop,rate=5000'\n",
};

static int meter_del(struct cli *c)
{
    return change(c, "meter.del", "meters", "meter", "deleted", NULL);
}

const struct cli_verb cli_meter_del = {
    .name = "meter del",
    .args = "BRIDGE [meter=N]",
    .summary = "Delete a meter (without meter=: all of the bridge), and the flows that have it",
    .run = meter_del,
    .help = "\nExamples:\n"
            "  creedence meter del br0 meter=1\n",
};

static int meter_dump(struct cli *c)
{
    return dump(c, "meter.dump", "meters", (char *)"flows");
}

const struct cli_verb cli_meter_dump = {
    .name = "meter dump",
    .args = "BRIDGE",
    .summary = "Show a bridge's meters with what they have counted",
    .options = dump_options,
    .run = meter_dump,
    .help = "  --no-stats              as `meter add` reads them\n"
            "\nExamples:\n"
            "  creedence meter dump br0\n",
};
