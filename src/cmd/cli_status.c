/* SPDX-License-Identifier: Apache-2.0 */
/* creedence status, version, upgrade, shutdown. */
#include <stdio.h>
#include <string.h>

#include "cmd/cli_verbs.h"
#include "control/version.h"

enum { OPT_LOCAL = CLI_OPT, OPT_DISK, OPT_SWITCH, OPT_STOP_WORKERS, OPT_FORCE };

#define UPGRADE_MS 3600000u

static void no_arguments(struct cli *c)
{
    while (cli_option(c) != -1)
        ;
    cli_arguments(c, 0);
}

/* ---- status ---- */

static void print_duration(json_int_t seconds)
{
    long long s = seconds;
    if (s >= 86400) printf("%lld d ", s / 86400);
    if (s >= 3600) printf("%lld h ", s / 3600 % 24);
    if (s >= 60) printf("%lld min ", s / 60 % 60);
    printf("%lld s", s % 60);
}

static void print_network(json_t *n)
{
    json_t *process = json_object_get(n, "switch");
    printf("\nnetworks      %lld bridges, %lld ports, %lld cards, %lld connected", (long long)cli_integer(n, "bridges"),
           (long long)cli_integer(n, "ports"), (long long)cli_integer(n, "vifs"),
           (long long)cli_integer(n, "connected"));
    if (cli_integer(n, "absent")) printf(", %lld not there", (long long)cli_integer(n, "absent"));
    printf("\nswitch        %s%s%s", cli_string(process, "state"), *cli_string(process, "error") ? ": " : "",
           cli_string(process, "error"));
    if (json_object_get(process, "pid")) printf(", process %lld", (long long)cli_integer(process, "pid"));
    if (json_object_get(process, "version"))
        printf(", version %s, debug=%s", cli_string(process, "version"), cli_string(process, "debug"));
    if (cli_integer(process, "restarts")) printf(", %lld restarts", (long long)cli_integer(process, "restarts"));
}

static void print_status(json_t *o)
{
    json_t *disks = json_object_get(o, "disks"), *cache = json_object_get(o, "cache"), *count;
    const char *state;
    printf("creedenced    %s (%s) debug=%s, process %lld, up ", cli_string(o, "version"), cli_string(o, "commit"),
           cli_string(o, "debug"), (long long)cli_integer(o, "pid"));
    print_duration(cli_integer(o, "uptime_seconds"));
    printf("\nstate         %s\nsockets       %s\nprograms      %s\n", cli_string(o, "state_dir"),
           cli_string(o, "run_dir"), cli_string(o, "bin_dir"));
    printf("disks         %lld", (long long)cli_integer(disks, "total"));
    json_object_foreach(disks, state, count)
    {
        if (strcmp(state, "total") != 0 && json_integer_value(count))
            printf(", %lld %s", (long long)json_integer_value(count), state);
    }
    print_network(json_object_get(o, "network"));
    json_t *xen = json_object_get(o, "xen");
    if (xen)
        printf("\nxen           %lld devices%s", (long long)cli_integer(xen, "devices"),
               json_is_true(json_object_get(xen, "reached")) ? "" : "; xenstore cannot be reached");
    printf("\nread cache    %s%s%s\n", json_is_true(json_object_get(cache, "running")) ? "running" : "not running",
           *cli_string(cache, "error") ? ": " : "", cli_string(cache, "error"));
}

static int status(struct cli *c)
{
    json_t *result;
    no_arguments(c);
    if (cli_call(c, "status", NULL, CLI_QUICK_MS, &result)) return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    print_status(result);
    json_decref(result);
    return CLI_OK;
}

const struct cli_verb cli_status = {
    .name = "status",
    .args = "",
    .summary = "Show the daemon, how many disks are in which state, and the networks",
    .run = status,
    .help = "\nExamples:\n"
            "  creedence status\n",
};

/* ---- version ---- */

static const struct option version_options[] = {{"local", no_argument, NULL, OPT_LOCAL}, {0}};

/* {"version", "debug", "count"} for each kind of worker that runs. */
static json_t *count_workers(json_t *disks)
{
    json_t *kinds = json_array(), *d, *kind;
    size_t i, j;
    json_array_foreach(disks, i, d)
    {
        if (!json_object_get(d, "worker_version")) continue;
        json_t *found = NULL;
        json_array_foreach(kinds, j, kind)
        {
            if (strcmp(cli_string(kind, "version"), cli_string(d, "worker_version")) == 0 &&
                strcmp(cli_string(kind, "debug"), cli_string(d, "worker_debug")) == 0)
                found = kind;
        }
        if (!found) {
            found = json_pack("{s:s, s:s}", "version", cli_string(d, "worker_version"), "debug",
                              cli_string(d, "worker_debug"));
            json_array_append_new(kinds, found);
        }
        json_object_set_new(found, "count", json_integer(cli_integer(found, "count") + 1));
    }
    return kinds;
}

/* What runs, into o; silent when no daemon does. */
static void add_running(struct cli *c, json_t *o)
{
    json_t *daemon, *list;
    struct errmsg e = {""};
    if (cli_try_call(c, "version", NULL, CLI_QUICK_MS, &daemon, &e) < 0) {
        json_object_set_new(o, "daemon", json_null());
        json_object_set_new(o, "daemon_error", json_string(e.text));
        return;
    }
    json_object_set_new(o, "daemon", daemon);
    if (cli_try_call(c, "disk.list", NULL, CLI_QUICK_MS, &list, &e) < 0) return;
    json_object_set_new(o, "workers", count_workers(json_object_get(list, "disks")));
    json_decref(list);
    if (cli_try_call(c, "status", NULL, CLI_QUICK_MS, &list, &e) < 0) return;
    json_t *process = json_object_get(json_object_get(list, "network"), "switch");
    if (json_is_true(json_object_get(process, "running")))
        json_object_set_new(
            o, "switch",
            json_pack("{s:s, s:s}", "version", cli_string(process, "version"), "debug", cli_string(process, "debug")));
    json_decref(list);
}

static int version(struct cli *c)
{
    bool local = false;
    for (int opt; (opt = cli_option(c)) != -1;)
        local = opt == OPT_LOCAL;
    cli_arguments(c, 0);
    json_t *o = version_json("creedence");
    if (!local) add_running(c, o);
    if (c->json) return cli_print_json(o);
    version_print("creedence", false);
    json_t *daemon = json_object_get(o, "daemon"), *kind;
    if (json_is_object(daemon))
        printf("creedenced %s (%s) debug=%s, running\n", cli_string(daemon, "version"), cli_string(daemon, "commit"),
               cli_string(daemon, "debug"));
    else if (!local) puts("creedenced is not running");
    size_t i;
    json_array_foreach(json_object_get(o, "workers"), i, kind)
    {
        printf("creedence-vbd %s debug=%s, %lld running\n", cli_string(kind, "version"), cli_string(kind, "debug"),
               (long long)cli_integer(kind, "count"));
    }
    json_t *network = json_object_get(o, "switch");
    if (network)
        printf("creedence-switch %s debug=%s, running\n", cli_string(network, "version"), cli_string(network, "debug"));
    json_decref(o);
    return CLI_OK;
}

const struct cli_verb cli_version = {
    .name = "version",
    .args = "",
    .summary = "Show version and kind of build (debug=y|n) of this program and of what runs",
    .options = version_options,
    .run = version,
    .help = "  --local                 of this program only\n"
            "\nMeasure with debug=n only; `creedence debug` switches builds.\n"
            "\nExamples:\n"
            "  creedence version\n",
};

/* ---- upgrade ---- */

static const struct option upgrade_options[] = {
    {"disk", required_argument, NULL, OPT_DISK},
    {"switch", no_argument, NULL, OPT_SWITCH},
    {0},
};

static void upgrade_row(struct cli_table *t, const char *what, const char *name, json_t *o)
{
    const char *error = cli_string(o, "error");
    cli_table_cell(t, "%s%s", what, name);
    cli_table_cell(t, "%s", cli_string(o, "from"));
    bool skipped = json_is_true(json_object_get(o, "skipped"));
    if (skipped) cli_table_cell(t, "-");
    else cli_table_cell(t, "%lld ms", (long long)cli_integer(o, "milliseconds"));
    if (skipped) cli_table_cell(t, "not touched, because of the failure above");
    else if (*error) cli_table_cell(t, "failed: %s", error);
    else cli_table_cell(t, "process %lld", (long long)cli_integer(o, "pid"));
}

static void print_upgrades(json_t *disks, json_t *network)
{
    struct cli_table t;
    size_t i;
    json_t *d;
    if (!json_array_size(disks) && !network) {
        puts("no disks are attached, and there are no networks");
        return;
    }
    cli_table_begin(&t, "WHAT|FROM|>TOOK|RESULT");
    json_array_foreach(disks, i, d) upgrade_row(&t, "disk ", cli_string(d, "name"), d);
    if (network) upgrade_row(&t, "the switch", "", network);
    cli_table_end(&t);
}

static bool is_upgraded(json_t *o)
{
    return !json_object_get(o, "error") && !json_is_true(json_object_get(o, "skipped"));
}

static bool all_upgraded(json_t *disks, json_t *network)
{
    size_t i;
    json_t *d;
    json_array_foreach(disks, i, d)
    {
        if (!is_upgraded(d)) return false;
    }
    return is_upgraded(network);
}

static int upgrade(struct cli *c)
{
    json_t *params = NULL, *result;
    for (int opt; (opt = cli_option(c)) != -1;) {
        json_decref(params);
        params = opt == OPT_SWITCH ? json_pack("{s:b}", "switch", 1) : json_pack("{s:s}", "name", optarg);
    }
    cli_arguments(c, 0);
    if (cli_call(c, "upgrade", params, UPGRADE_MS, &result)) return CLI_FAILED;
    json_t *disks = json_object_get(result, "disks"), *network = json_object_get(result, "switch");
    int status = all_upgraded(disks, network) ? CLI_OK : CLI_FAILED;
    if (c->json) {
        cli_print_json(result);
        return status;
    }
    print_upgrades(disks, network);
    json_decref(result);
    return status;
}

const struct cli_verb cli_upgrade = {
    .name = "upgrade",
    .args = "",
    .summary = "Replace running disk workers and the switch by the programs installed now, under their guests",
    .options = upgrade_options,
    .run = upgrade,
    .help = "  --disk NAME             only this disk's\n"
            "  --switch                only the switch\n"
            "\nAt the first disk that the new program cannot serve it stops: the others keep their workers. The status "
            "is 1\n"
            "when not all were replaced. The switch comes last: packets are lost for a moment, connections are not.\n"
            "\nThe daemon itself is upgraded by restarting it: `systemctl restart creedenced`. Guests notice neither.\n"
            "\nExamples:\n"
            "  creedence upgrade\n",
};

/* ---- shutdown ---- */

static const struct option shutdown_options[] = {
    {"stop-workers", no_argument, NULL, OPT_STOP_WORKERS},
    {"force", no_argument, NULL, OPT_FORCE},
    {0},
};

static int shutdown_daemon(struct cli *c)
{
    bool stop = false, force = false;
    for (int opt; (opt = cli_option(c)) != -1;) {
        if (opt == OPT_STOP_WORKERS) stop = true;
        else force = true;
    }
    cli_arguments(c, 0);
    json_t *result;
    if (cli_call(c, "shutdown", json_pack("{s:b, s:b}", "stop_workers", stop, "force", force), CLI_LONG_MS, &result))
        return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    json_decref(result);
    puts(stop ? "creedenced has ended; no disk or network is served any more"
              : "creedenced has ended; disks and networks stay served");
    return CLI_OK;
}

const struct cli_verb cli_shutdown = {
    .name = "shutdown",
    .args = "",
    .summary = "End the daemon; disks and networks stay served unless told otherwise",
    .options = shutdown_options,
    .run = shutdown_daemon,
    .help = "  --stop-workers          make every disk's image durable and end its worker, and the switch, too; all is "
            "back\n"
            "                          when the daemon starts again\n"
            "  --force                 even if a disk cannot be ended in order\n"
            "\nExamples:\n"
            "  creedence shutdown --stop-workers    # before the host goes down\n",
};
