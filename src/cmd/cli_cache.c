/* SPDX-License-Identifier: Apache-2.0 */
/* creedence cache show, set, drop. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cmd/cli_verbs.h"
#include "control/size.h"

enum { OPT_ON = CLI_OPT, OPT_OFF, OPT_BUDGET, OPT_HUGE_PAGES, OPT_PATH };

static const char *bytes_of(json_t *o, const char *key, char text[SIZE_TEXT_MAX])
{
    json_int_t v = cli_integer(o, key);
    return size_format(v < 0 ? 0 : (uint64_t)v, text);
}

static void print_layers(json_t *layers)
{
    struct cli_table t;
    size_t i;
    json_t *l;
    char text[SIZE_TEXT_MAX];
    if (!json_array_size(layers)) {
        puts("\nno layers yet");
        return;
    }
    puts("");
    cli_table_begin(
        &t, ">SIZE|>CACHED|>HUGE|>READ|>METADATA|>FILLED|>AHEAD|>EVICTED|>FILLS|>SHARED|>ERRORS|>DISKS|FORMAT|LAYER");
    json_array_foreach(layers, i, l)
    {
        cli_table_cell(&t, "%s", bytes_of(l, "size_bytes", text));
        cli_table_cell(&t, "%s", bytes_of(l, "cached_bytes", text));
        cli_table_cell(&t, "%s", bytes_of(l, "huge_bytes", text));
        cli_table_cell(&t, "%s", bytes_of(l, "storage_read_bytes", text));
        cli_table_cell(&t, "%s", bytes_of(l, "metadata_read_bytes", text));
        cli_table_cell(&t, "%s", bytes_of(l, "filled_bytes", text));
        cli_table_cell(&t, "%s", bytes_of(l, "readahead_bytes", text));
        cli_table_cell(&t, "%s", bytes_of(l, "evicted_bytes", text));
        cli_table_cell(&t, "%lld", (long long)cli_integer(l, "fills"));
        cli_table_cell(&t, "%lld", (long long)cli_integer(l, "coalesced"));
        cli_table_cell(&t, "%lld", (long long)cli_integer(l, "errors"));
        cli_table_cell(&t, "%lld", (long long)cli_integer(l, "clients"));
        cli_table_cell(&t, "%s", cli_string(l, "format"));
        cli_table_cell(&t, "%s", cli_string(l, "path"));
    }
    cli_table_end(&t);
}

static void print_cache(json_t *o)
{
    json_t *stats = json_object_get(o, "stats"), *budget = json_object_get(o, "budget");
    char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX];
    printf("switched      %s\n", json_is_true(json_object_get(o, "enabled")) ? "on" : "off");
    if (json_is_true(json_object_get(o, "running")))
        printf("service       process %lld, %lld restarts\n", (long long)cli_integer(o, "pid"),
               (long long)cli_integer(o, "restarts"));
    else printf("service       not running%s%s\n", *cli_string(o, "error") ? ": " : "", cli_string(o, "error"));
    if (json_is_integer(budget)) printf("budget        %s\n", size_format((uint64_t)json_integer_value(budget), a));
    else
        printf("budget        automatic%s%s\n", stats ? ", now " : "", stats ? bytes_of(stats, "budget_bytes", a) : "");
    printf("huge pages    %s\n", json_is_true(json_object_get(o, "huge_pages")) ? "on" : "off");
    if (!stats) return;
    printf("used          %s of %s\n", bytes_of(stats, "used_bytes", a), bytes_of(stats, "budget_bytes", b));
    printf("shrunk        %lld times, because memory was short\n", (long long)cli_integer(stats, "pressure_shrinks"));
    print_layers(json_object_get(stats, "layers"));
}

static int cache_show(struct cli *c)
{
    json_t *result;
    while (cli_option(c) != -1)
        ;
    cli_arguments(c, 0);
    if (cli_call(c, "cache.show", NULL, CLI_QUICK_MS, &result)) return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    print_cache(result);
    json_decref(result);
    return CLI_OK;
}

const struct cli_verb cli_cache_show = {
    .name = "cache show",
    .args = "",
    .summary = "Show the shared read cache: settings, memory, and each layer in it",
    .run = cache_show,
    .help =
        "READ is what came from storage, METADATA what of it were tables; SHARED counts the fills that waited for a\n"
        "read which another disk had begun.\n"
        "\nExamples:\n"
        "  creedence cache show\n",
};

static const struct option set_options[] = {
    {"on", no_argument, NULL, OPT_ON},
    {"off", no_argument, NULL, OPT_OFF},
    {"budget", required_argument, NULL, OPT_BUDGET},
    {"huge-pages", required_argument, NULL, OPT_HUGE_PAGES},
    {0},
};

static int cache_set(struct cli *c)
{
    json_t *params = json_object(), *result;
    for (int opt; (opt = cli_option(c)) != -1;) {
        if (opt == OPT_BUDGET && strcmp(optarg, "auto") == 0)
            json_object_set_new(params, "budget", json_string("auto"));
        else if (opt == OPT_BUDGET)
            json_object_set_new(params, "budget", json_integer((json_int_t)cli_size(c, "--budget", optarg)));
        else if (opt == OPT_HUGE_PAGES)
            json_object_set_new(params, "huge_pages", json_boolean(cli_on_off(c, "--huge-pages", optarg)));
        else json_object_set_new(params, "enabled", json_boolean(opt == OPT_ON));
    }
    cli_arguments(c, 0);
    if (!json_object_size(params)) cli_usage_error(c, "nothing to set: give --on, --off, --budget or --huge-pages");
    if (cli_call(c, "cache.set", params, CLI_QUICK_MS, &result)) return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    json_decref(result);
    return CLI_OK;
}

const struct cli_verb cli_cache_set = {
    .name = "cache set",
    .args = "",
    .summary = "Change the shared read cache's settings, now and for later starts",
    .options = set_options,
    .run = cache_set,
    .help = "  --budget SIZE|auto      the most memory it may use; auto: what the host does not need\n"
            "  --huge-pages on|off     make huge pages of what is cached whole: faster, and the service starts anew "
            "when this\n"
            "                          changes, empty\n"
            "  --on, --off             without it disks read their base layers themselves\n"
            "\nExamples:\n"
            "  creedence cache set --budget 16G\n"
            "  creedence cache set --off\n",
};

static const struct option drop_options[] = {{"path", required_argument, NULL, OPT_PATH}, {0}};

static int cache_drop(struct cli *c)
{
    json_t *params = json_object(), *result;
    while (cli_option(c) != -1) {
        autofree char *path = cli_absolute(optarg);
        json_object_set_new(params, "path", json_string(path));
    }
    cli_arguments(c, 0);
    if (cli_call(c, "cache.drop", params, CLI_QUICK_MS, &result)) return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    json_decref(result);
    return CLI_OK;
}

const struct cli_verb cli_cache_drop = {
    .name = "cache drop",
    .args = "",
    .summary = "Empty the shared read cache; disks fill it again as they read",
    .options = drop_options,
    .run = cache_drop,
    .help = "  --path LAYER            only of this image\n"
            "\nExamples:\n"
            "  creedence cache drop --path /images/golden.raw\n",
};
