/* SPDX-License-Identifier: Apache-2.0 */
/* creedence disk attach, detach, list, show, resize, stats. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cmd/cli_verbs.h"
#include "control/disk_config.h"
#include "control/size.h"

/* ---- attach ---- */

enum {
    OPT_LEAF = CLI_OPT,
    OPT_FORMAT,
    OPT_BACKING,
    OPT_BACKING_FORMAT,
    OPT_QUEUES,
    OPT_QUEUE_SIZE,
    OPT_SIZE_CHECK,
    OPT_DIRECT,
    OPT_READ_ONLY,
    OPT_SECTOR_SIZE,
    OPT_WRITE_CACHE,
    OPT_SERIAL,
    OPT_SEG_MAX,
    OPT_SIZE_MAX,
    OPT_SOCKET_PATH,
    OPT_CONNECT,
    OPT_PACKED,
    OPT_POLL_US,
    OPT_DATAPATH,
    OPT_NO_CACHE,
    OPT_FORCE,
    OPT_NAMES,
};

static const struct option attach_options[] = {
    {"leaf", required_argument, NULL, OPT_LEAF},
    {"format", required_argument, NULL, OPT_FORMAT},
    {"backing", required_argument, NULL, OPT_BACKING},
    {"backing-format", required_argument, NULL, OPT_BACKING_FORMAT},
    {"queues", required_argument, NULL, OPT_QUEUES},
    {"queue-size", required_argument, NULL, OPT_QUEUE_SIZE},
    {"size-check", no_argument, NULL, OPT_SIZE_CHECK},
    {"direct", required_argument, NULL, OPT_DIRECT},
    {"read-only", no_argument, NULL, OPT_READ_ONLY},
    {"sector-size", required_argument, NULL, OPT_SECTOR_SIZE},
    {"write-cache", required_argument, NULL, OPT_WRITE_CACHE},
    {"serial", required_argument, NULL, OPT_SERIAL},
    {"seg-max", required_argument, NULL, OPT_SEG_MAX},
    {"size-max", required_argument, NULL, OPT_SIZE_MAX},
    {"socket", required_argument, NULL, OPT_SOCKET_PATH},
    {"connect", required_argument, NULL, OPT_CONNECT},
    {"packed", required_argument, NULL, OPT_PACKED},
    {"poll-us", required_argument, NULL, OPT_POLL_US},
    {"datapath", required_argument, NULL, OPT_DATAPATH},
    {"no-cache", no_argument, NULL, OPT_NO_CACHE},
    {0},
};

static json_t *new_layer(const char *path)
{
    autofree char *absolute = cli_absolute(path);
    return json_pack("{s:s}", "path", absolute);
}

static void set_string(json_t *o, const char *key, const char *text)
{
    json_object_set_new(o, key, json_string(text));
}

static void set_path(json_t *o, const char *key, const char *path)
{
    autofree char *absolute = cli_absolute(path);
    set_string(o, key, absolute);
}

static void device_option(struct cli *c, int opt, json_t *params)
{
    switch (opt) {
    case OPT_QUEUES:
        json_object_set_new(params, "queues",
                            json_integer((json_int_t)cli_number(c, "--queues", optarg, 1, DISK_QUEUES_MAX)));
        break;
    case OPT_QUEUE_SIZE:
        json_object_set_new(params, "queue_size",
                            json_integer((json_int_t)cli_number(c, "--queue-size", optarg, 2, DISK_QUEUE_SIZE_MAX)));
        break;
    case OPT_SECTOR_SIZE:
        json_object_set_new(params, "sector_bytes",
                            json_integer((json_int_t)cli_number(c, "--sector-size", optarg, 512, 4096)));
        break;
    case OPT_SEG_MAX:
        json_object_set_new(params, "seg_max",
                            json_integer((json_int_t)cli_number(c, "--seg-max", optarg, 1, DISK_SEG_MAX_LIMIT)));
        break;
    case OPT_SIZE_MAX:
        json_object_set_new(params, "size_max", json_integer((json_int_t)cli_size(c, "--size-max", optarg)));
        break;
    case OPT_POLL_US:
        json_object_set_new(params, "poll_us",
                            json_integer((json_int_t)cli_number(c, "--poll-us", optarg, 0, DISK_POLL_US_MAX)));
        break;
    case OPT_PACKED: json_object_set_new(params, "packed", json_boolean(cli_on_off(c, "--packed", optarg))); break;
    case OPT_SIZE_CHECK: json_object_set_new(params, "size_check", json_true()); break;
    case OPT_READ_ONLY: json_object_set_new(params, "read_only", json_true()); break;
    case OPT_NO_CACHE: json_object_set_new(params, "cache", json_false()); break;
    case OPT_WRITE_CACHE: set_string(params, "write_cache", optarg); break;
    case OPT_SERIAL: set_string(params, "serial", optarg); break;
    case OPT_DATAPATH: set_string(params, "datapath", optarg); break;
    case OPT_SOCKET_PATH: set_path(params, "socket", optarg); break;
    case OPT_CONNECT: set_path(params, "connect", optarg); break;
    default: cli_usage_error(c, "unknown option");
    }
}

/* --backing-format belongs to the --backing before it. */
static void backing_format(struct cli *c, json_t *layers)
{
    size_t n = json_array_size(layers);
    json_t *last = json_array_get(layers, n - 1);
    if (n < 2 || json_object_get(last, "format"))
        cli_usage_error(c, "--backing-format %s: there is no --backing before it", optarg);
    set_string(last, "format", optarg);
}

static json_t *attach_params(struct cli *c)
{
    json_t *params = c->params = json_object(), *layers = json_array(), *leaf = json_object();
    json_object_set_new(params, "layers", layers);
    json_array_append_new(layers, leaf);
    for (int opt; (opt = cli_option(c)) != -1;) {
        switch (opt) {
        case OPT_LEAF: set_path(leaf, "path", optarg); break;
        case OPT_FORMAT: set_string(leaf, "format", optarg); break;
        case OPT_DIRECT: json_object_set_new(leaf, "direct", json_boolean(cli_on_off(c, "--direct", optarg))); break;
        case OPT_BACKING: json_array_append_new(layers, new_layer(optarg)); break;
        case OPT_BACKING_FORMAT: backing_format(c, layers); break;
        default: device_option(c, opt, params);
        }
    }
    set_string(params, "name", cli_arguments(c, 1)[0]);
    size_t i;
    json_t *layer;
    if (!json_object_get(leaf, "path")) cli_usage_error(c, "--leaf PATH is missing: the image that the guest writes");
    json_array_foreach(layers, i, layer)
    {
        if (!json_object_get(layer, "format"))
            cli_usage_error(c, "%s: its format is missing: add %s raw or qcow2 (it is never guessed)",
                            cli_string(layer, "path"), i ? "--backing-format" : "--format");
    }
    return params;
}

static int disk_attach(struct cli *c)
{
    json_t *result;
    if (cli_call(c, "disk.attach", attach_params(c), CLI_LONG_MS, &result)) return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    const char *socket_path = cli_string(result, "socket");
    if (*socket_path) printf("disk %s is served at %s\n", cli_string(result, "name"), socket_path);
    else
        printf("disk %s is attached%s%s\n", cli_string(result, "name"), *cli_string(result, "error") ? "; " : "",
               cli_string(result, "error"));
    if (*cli_string(result, "cache_error")) printf("without the read cache: %s\n", cli_string(result, "cache_error"));
    json_decref(result);
    return CLI_OK;
}

const struct cli_verb cli_disk_attach = {
    .name = "disk attach",
    .args = "NAME --leaf PATH --format FORMAT",
    .summary = "Serve a disk over vhost-user-blk, until it is detached, whatever ends meanwhile",
    .options = attach_options,
    .run = disk_attach,
    .help = "  --leaf PATH             the image that the guest writes\n"
            "  --format raw|qcow2      its format; never guessed\n"
            "  --backing PATH --backing-format raw|qcow2\n"
            "                          what it was cloned from; repeat for each layer, nearest first\n"
            "  --read-only             the guest cannot write\n"
            "  --direct on|off         O_DIRECT for the leaf (default: where its storage can)\n"
            "  --no-cache              read the layers below without the shared cache\n"
            "  --size-check            refuse a layer larger than the one above it\n"
            "  --socket PATH           where the front end connects (default RUNDIR/disks/NAME.sock)\n"
            "  --connect PATH          connect to a front end that listens there instead\n"
            "  --queues N              1 to 64, a thread each (default 1)\n"
            "  --queue-size N          largest queue expected (default 1024)\n"
            "  --sector-size 512|4096  logical block size (default 512)\n"
            "  --write-cache writeback|writethrough\n"
            "  --serial TEXT           at most 20 bytes (default: NAME)\n"
            "  --seg-max N             data segments in a request (default 126)\n"
            "  --size-max SIZE         largest segment (default: no limit)\n"
            "  --packed on|off         offer the packed ring (default off; User-mode Linux needs off)\n"
            "  --poll-us N             longest adaptive polling, 0: none (default 50)\n"
            "  --datapath direct|staged\n"
            "                          staged: two more hops and copies, for comparison\n"
            "\nExamples:\n"
            "  creedence disk attach vm1 --leaf vm1.qcow2 --format qcow2 --backing golden.raw --backing-format raw\n"
            "  creedence disk attach data --leaf /dev/vg/data --format raw --queues 4\n",
};

/* ---- detach ---- */

static const struct option force_options[] = {{"force", no_argument, NULL, OPT_FORCE}, {0}};

static int disk_detach(struct cli *c)
{
    bool force = false;
    for (int opt; (opt = cli_option(c)) != -1;)
        force = opt == OPT_FORCE;
    const char *name = cli_arguments(c, 1)[0];
    json_t *result;
    if (cli_call(c, "disk.detach", json_pack("{s:s, s:b}", "name", name, "force", force), CLI_LONG_MS, &result))
        return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    json_decref(result);
    printf("disk %s is detached; its image is whole on storage\n", name);
    return CLI_OK;
}

const struct cli_verb cli_disk_detach = {
    .name = "disk detach",
    .args = "NAME",
    .summary = "Make a disk's image durable and stop serving it",
    .options = force_options,
    .run = disk_detach,
    .help = "  --force                 even while a guest is connected, or when no worker can be asked to\n"
            "                          write what the guest wrote last\n"
            "\nExamples:\n"
            "  creedence disk detach vm1\n",
};

/* ---- list ---- */

static const struct option list_options[] = {{"names", no_argument, NULL, OPT_NAMES}, {0}};

static void print_list(json_t *disks)
{
    struct cli_table t;
    size_t i;
    json_t *d;
    cli_table_begin(&t, "NAME|STATE|FRONT END|>QUEUES|>LAYERS|>PID|>RESTARTS|FORMAT|LEAF");
    json_array_foreach(disks, i, d)
    {
        cli_table_cell(&t, "%s", cli_string(d, "name"));
        cli_table_cell(&t, "%s", cli_string(d, "state"));
        cli_table_cell(&t, "%s", cli_string(d, "front_end"));
        cli_table_cell(&t, "%lld", (long long)cli_integer(d, "queues"));
        cli_table_cell(&t, "%lld", (long long)cli_integer(d, "layers"));
        if (json_object_get(d, "pid")) cli_table_cell(&t, "%lld", (long long)cli_integer(d, "pid"));
        else cli_table_cell(&t, "-");
        cli_table_cell(&t, "%lld", (long long)cli_integer(d, "restarts"));
        cli_table_cell(&t, "%s", cli_string(d, "format"));
        cli_table_cell(&t, "%s", cli_string(d, "leaf"));
    }
    cli_table_end(&t);
    json_array_foreach(disks, i, d)
    {
        if (*cli_string(d, "error")) printf("%s: %s\n", cli_string(d, "name"), cli_string(d, "error"));
    }
}

static int disk_list(struct cli *c)
{
    bool names = false;
    for (int opt; (opt = cli_option(c)) != -1;)
        names = opt == OPT_NAMES;
    cli_arguments(c, 0);
    json_t *result;
    if (cli_call(c, "disk.list", NULL, CLI_QUICK_MS, &result)) return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    json_t *disks = json_object_get(result, "disks"), *d;
    size_t i;
    if (names) {
        json_array_foreach(disks, i, d) puts(cli_string(d, "name"));
    } else if (json_array_size(disks)) {
        print_list(disks);
    } else {
        puts("no disks are attached");
    }
    json_decref(result);
    return CLI_OK;
}

const struct cli_verb cli_disk_list = {
    .name = "disk list",
    .args = "",
    .summary = "Show the attached disks",
    .options = list_options,
    .run = disk_list,
    .help = "  --names                 only the names, one on a line\n"
            "\nExamples:\n"
            "  creedence disk list\n"
            "  creedence disk list --json | jq '.disks[] | select(.state != \"serving\")'\n",
};

/* ---- show ---- */

static const char *yes_no(json_t *o, const char *key)
{
    return json_is_true(json_object_get(o, key)) ? "yes" : "no";
}

static void print_layers(json_t *layers)
{
    struct cli_table t;
    size_t i;
    json_t *l;
    cli_table_begin(&t, "LAYER|FORMAT|DIRECT|PATH");
    json_array_foreach(layers, i, l)
    {
        if (i) cli_table_cell(&t, "base %zu", i);
        else cli_table_cell(&t, "leaf");
        cli_table_cell(&t, "%s", cli_string(l, "format"));
        json_t *direct = json_object_get(l, "direct");
        cli_table_cell(&t, "%s", direct ? (json_is_true(direct) ? "on" : "off") : "auto");
        cli_table_cell(&t, "%s", cli_string(l, "path"));
    }
    cli_table_end(&t);
}

/* Xen's virtual device numbers: Linux' old ones of xvda to xvdp, and an own form for all that come after. */
static void print_xen(json_t *d)
{
    json_t *xen = json_object_get(d, "xen");
    unsigned long number = strtoul(cli_string(xen, "vdev"), NULL, 10);
    unsigned long disk = ULONG_MAX, part = 0;
    if (number >> 8 == 202) {
        disk = number >> 4 & 15;
        part = number & 15;
    } else if (number >> 28 == 1) {
        disk = number >> 8 & 0xfffff;
        part = number & 255;
    }
    printf("xen guest     domain %lld, device %lu", (long long)cli_integer(xen, "domid"), number);
    if (disk < 26) printf(" (xvd%c", (char)('a' + disk));
    else if (disk < 26 * 27) printf(" (xvd%c%c", (char)('a' + disk / 26 - 1), (char)('a' + disk % 26));
    if (disk < 26 * 27 && part) printf("%lu", part);
    puts(disk < 26 * 27 ? ")" : "");
}

static void print_disk(json_t *d)
{
    json_t *config = json_object_get(d, "config");
    printf("name          %s\n", cli_string(d, "name"));
    printf("state         %s%s%s\n", cli_string(d, "state"), *cli_string(d, "error") ? ": " : "",
           cli_string(d, "error"));
    printf("front end     %s%s%s\n", cli_string(d, "front_end"), *cli_string(d, "front_end_why") ? ": " : "",
           cli_string(d, "front_end_why"));
    if (json_object_get(d, "socket")) printf("socket        %s\n", cli_string(d, "socket"));
    else if (json_object_get(d, "xen")) print_xen(d);
    else printf("connects to   %s\n", cli_string(config, "connect"));
    if (json_object_get(d, "pid"))
        printf("worker        process %lld, version %s, debug=%s\n", (long long)cli_integer(d, "pid"),
               cli_string(d, "worker_version"), cli_string(d, "worker_debug"));
    if (json_object_get(d, "sandbox")) printf("sandbox       %s\n", cli_string(d, "sandbox"));
    printf("restarts      %lld\n", (long long)cli_integer(d, "restarts"));
    printf("read cache    %s%s%s\n", yes_no(d, "cached"), *cli_string(d, "cache_error") ? ": " : "",
           cli_string(d, "cache_error"));
    printf("device        %lld queues, sectors of %lld bytes, %s%s, serial %s\n",
           (long long)cli_integer(config, "queues"), (long long)cli_integer(config, "sector_bytes"),
           cli_string(config, "write_cache"), json_is_true(json_object_get(config, "read_only")) ? ", read-only" : "",
           cli_string(config, "serial"));
    printf("data path     %s, polls up to %lld us\n\n", cli_string(config, "datapath"),
           (long long)cli_integer(config, "poll_us"));
    print_layers(json_object_get(config, "layers"));
}

static int named_call(struct cli *c, const char *method, json_t **result)
{
    while (cli_option(c) != -1)
        ;
    return cli_call(c, method, json_pack("{s:s}", "name", cli_arguments(c, 1)[0]), CLI_QUICK_MS, result);
}

static int disk_show(struct cli *c)
{
    json_t *result;
    if (named_call(c, "disk.show", &result)) return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    print_disk(result);
    json_decref(result);
    return CLI_OK;
}

const struct cli_verb cli_disk_show = {
    .name = "disk show",
    .args = "NAME",
    .summary = "Show all there is to know about a disk but its figures",
    .run = disk_show,
    .help = "\nExamples:\n"
            "  creedence disk show vm1\n",
};

/* ---- resize ---- */

static int disk_resize(struct cli *c)
{
    while (cli_option(c) != -1)
        ;
    char **args = cli_arguments(c, 2);
    uint64_t bytes = cli_size(c, "SIZE", args[1]);
    json_t *result;
    if (cli_call(c, "disk.resize", json_pack("{s:s, s:I}", "name", args[0], "size_bytes", (json_int_t)bytes),
                 CLI_LONG_MS, &result))
        return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    json_decref(result);
    char text[SIZE_TEXT_MAX];
    printf("disk %s has %s (%llu bytes) now; its guest was told, if it can be\n", args[0], size_format(bytes, text),
           (unsigned long long)bytes);
    return CLI_OK;
}

const struct cli_verb cli_disk_resize = {
    .name = "disk resize",
    .args = "NAME SIZE",
    .summary = "Give a disk another size under its running guest",
    .run = disk_resize,
    .help = "SIZE is in bytes, or with K, M, G, T (powers of 1024) behind. A disk in use does not shrink.\n"
            "\nExamples:\n"
            "  creedence disk resize vm1 40G\n",
};

/* ---- stats ---- */

static void print_stats(json_t *entry)
{
    json_t *stats = json_object_get(entry, "stats"), *value;
    const char *key;
    printf("%s: %s, front end %s, %lld restarts\n", cli_string(entry, "name"), cli_string(entry, "state"),
           cli_string(entry, "front_end"), (long long)cli_integer(entry, "restarts"));
    if (*cli_string(entry, "error")) printf("  %s\n", cli_string(entry, "error"));
    json_object_foreach(stats, key, value)
    {
        char text[SIZE_TEXT_MAX];
        size_t len = strlen(key);
        if (json_is_integer(value) && len > 6 && strcmp(key + len - 6, "_bytes") == 0)
            printf("  %-20s %lld (%s)\n", key, (long long)json_integer_value(value),
                   size_format((uint64_t)json_integer_value(value), text));
        else if (json_is_integer(value)) printf("  %-20s %lld\n", key, (long long)json_integer_value(value));
        else if (json_is_string(value)) printf("  %-20s %s\n", key, json_string_value(value));
    }
}

static void print_queues(json_t *queues)
{
    struct cli_table t;
    size_t i;
    json_t *q;
    if (!json_array_size(queues)) return;
    cli_table_begin(&t, ">  QUEUE|RUNS|>REQUESTS|>CALLS|>SLEEPS");
    json_array_foreach(queues, i, q)
    {
        cli_table_cell(&t, "%lld", (long long)cli_integer(q, "index"));
        cli_table_cell(&t, "%s", yes_no(q, "running"));
        cli_table_cell(&t, "%lld", (long long)cli_integer(q, "requests"));
        cli_table_cell(&t, "%lld", (long long)cli_integer(q, "calls"));
        cli_table_cell(&t, "%lld", (long long)cli_integer(q, "sleeps"));
    }
    cli_table_end(&t);
}

static int disk_stats(struct cli *c)
{
    while (cli_option(c) != -1)
        ;
    json_t *params = NULL, *result;
    if (c->positional_count || optind < c->argc) params = json_pack("{s:s}", "name", cli_arguments(c, 1)[0]);
    if (cli_call(c, "disk.stats", params, CLI_QUICK_MS, &result)) return CLI_FAILED;
    if (c->json) return cli_print_json(result);
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(result, "disks"), i, entry)
    {
        print_stats(entry);
        print_queues(json_object_get(json_object_get(entry, "stats"), "queues"));
    }
    json_decref(result);
    return CLI_OK;
}

const struct cli_verb cli_disk_stats = {
    .name = "disk stats",
    .args = "[NAME]",
    .summary = "Show what a disk's worker has counted since it started (without NAME: of all)",
    .run = disk_stats,
    .help = "\nExamples:\n"
            "  creedence disk stats vm1\n"
            "  creedence disk stats --json\n",
};
