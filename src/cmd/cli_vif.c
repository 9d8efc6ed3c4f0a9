/* SPDX-License-Identifier: Apache-2.0 */
/* creedence vif: guests' network cards. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cmd/cli_network.h"

/* A decimal number, with K, M, G (powers of 1000: networks count like that) behind. */
static uint64_t decimal(struct cli *c, const char *option, const char *text, size_t len, const char *whole)
{
    static const char suffixes[] = "KMGT";
    char digits[24];
    uint64_t scale = 1, most = INT64_MAX;
    const char *suffix = len ? strchr(suffixes, text[len - 1]) : NULL;
    if (suffix && *suffix) {
        for (const char *s = suffixes; s <= suffix; s++)
            scale *= 1000;
        len--;
    }
    if (len && len < sizeof digits && strspn(text, "0123456789") >= len) {
        memcpy(digits, text, len);
        digits[len] = 0;
        uint64_t v = strtoull(digits, NULL, 10);
        if (v <= most / scale) return v * scale;
    }
    cli_usage_error(c, "%s %s: expected bits and packets per second, such as 1Gbps, 100Kpps or 1Gbps,100Kpps; or none",
                    option, whole);
}

/* "1Gbps", "200Kpps", "1Gbps,200Kpps", "none" */
static void set_rate(struct cli *c, json_t *o, const char *key, const char *option)
{
    json_t *rate = json_pack("{s:i, s:i}", "bits_per_s", 0, "packets_per_s", 0);
    json_object_set_new(o, key, rate);
    if (strcmp(optarg, "none") == 0) return;
    for (const char *p = optarg; *p;) {
        size_t len = strcspn(p, ",");
        bool bits = len > 3 && strncmp(p + len - 3, "bps", 3) == 0,
             packets = len > 3 && strncmp(p + len - 3, "pps", 3) == 0;
        uint64_t v = decimal(c, option, p, bits || packets ? len - 3 : 0, optarg);
        json_object_set_new(rate, bits ? "bits_per_s" : "packets_per_s", json_integer((json_int_t)v));
        p += len + (p[len] == ',');
    }
}

static void vif_option(struct cli *c, int opt, json_t *o)
{
    if (net_port_option(c, opt, o)) return;
    autofree char *path = opt == OPT_SOCKET_PATH ? cli_absolute(optarg) : NULL;
    switch (opt) {
    case OPT_MAC: net_set_string(o, "mac", optarg); break;
    case OPT_SOCKET_PATH: net_set_string(o, "socket", path); break;
    case OPT_PACKED: json_object_set_new(o, "packed", json_boolean(cli_on_off(c, "--packed", optarg))); break;
    case OPT_IN_ORDER: json_object_set_new(o, "in_order", json_boolean(cli_on_off(c, "--in-order", optarg))); break;
    case OPT_OFFLOADS: json_object_set_new(o, "offloads", json_boolean(cli_on_off(c, "--offloads", optarg))); break;
    case OPT_RATE_IN: set_rate(c, o, "rate_in", "--rate-in"); break;
    case OPT_RATE_OUT: set_rate(c, o, "rate_out", "--rate-out"); break;
    case OPT_ALLOWED_MAC: net_add_to_list(o, "allowed_macs"); break;
    case OPT_ALLOWED_IP: net_add_to_list(o, "allowed_ips"); break;
    case OPT_LINK: net_set_string(o, "link", optarg); break;
    case OPT_ANNOUNCE: json_object_set_new(o, "announce", json_true()); break;
    default: cli_usage_error(c, "unknown option");
    }
}

/* ---- vif ---- */

#define CHANGEABLE_OPTIONS                                                                                             \
    {"mtu", required_argument, NULL, OPT_MTU}, {"vlan-mode", required_argument, NULL, OPT_VLAN_MODE},                  \
        {"tag", required_argument, NULL, OPT_TAG}, {"trunks", required_argument, NULL, OPT_TRUNKS},                    \
        {"rate-in", required_argument, NULL, OPT_RATE_IN}, {"rate-out", required_argument, NULL, OPT_RATE_OUT},        \
        {"allowed-mac", required_argument, NULL, OPT_ALLOWED_MAC},                                                     \
        {"allowed-ip", required_argument, NULL, OPT_ALLOWED_IP},                                                       \
    {                                                                                                                  \
        "link", required_argument, NULL, OPT_LINK                                                                      \
    }

static const struct option attach_options[] = {
    {"mac", required_argument, NULL, OPT_MAC},
    {"queues", required_argument, NULL, OPT_QUEUES},
    {"number", required_argument, NULL, OPT_NUMBER},
    {"socket", required_argument, NULL, OPT_SOCKET_PATH},
    {"packed", required_argument, NULL, OPT_PACKED},
    {"in-order", required_argument, NULL, OPT_IN_ORDER},
    {"offloads", required_argument, NULL, OPT_OFFLOADS},
    CHANGEABLE_OPTIONS,
    {0},
};

static int vif_attach(struct cli *c)
{
    json_t *o = c->params = json_object(), *result;
    for (int opt; (opt = cli_option(c)) != -1;)
        vif_option(c, opt, o);
    char **args = cli_arguments(c, 2);
    net_set_string(o, "bridge", args[0]);
    net_set_string(o, "name", args[1]);
    int status = net_ask(c, "vif.attach", o, &result);
    if (result)
        printf("vif %s of bridge %s is served at %s, number %lld, address %s\n", cli_string(result, "name"),
               cli_string(result, "bridge"), cli_string(result, "socket"), (long long)cli_integer(result, "number"),
               net_dash(cli_string(result, "mac")));
    json_decref(result);
    return status;
}

const struct cli_verb cli_vif_attach = {
    .name = "vif attach",
    .args = "BRIDGE NAME",
    .summary = "Serve a network card over vhost-user-net, until it is detached, whatever ends meanwhile",
    .options = attach_options,
    .run = vif_attach,
    .help = "  --mac ADDRESS           default: made from NAME\n"
            "  --mtu N                 68 to 65535 (default 1500)\n"
            "  --queues N              queue pairs, 1 to 16, a thread each (default 1)\n"
            "  --socket PATH           where the front end connects (default RUNDIR/vifs/NAME.sock)\n"
            "  --allowed-mac ADDRESS, --allowed-ip ADDRESS[/BITS]\n"
            "                          what the guest may send as (ARP and neighbour discovery included); repeat, or\n"
            "                          separate by commas\n"
            "  --rate-in RATE, --rate-out RATE\n"
            "                          limits from and to the guest: 1Gbps, 200Kpps, 1Gbps,200Kpps (K, M, G: 1000)\n"
            "  --vlan-mode MODE, --tag VLAN, --trunks LIST, --number N\n"
            "                          as `port add` has them\n"
            "  --link up|down          (default up)\n"
            "  --offloads on|off       offer checksum and segmentation offloads (default on)\n"
            "  --packed on|off         offer the packed ring (User-mode Linux needs off)\n"
            "  --in-order on|off       offer in-order use of buffers\n"
            "\nExamples:\n"
            "  creedence vif attach br0 web1 --mac=02:00:00:00:00:01 --allowed-ip=10.0.0.5\n"
            "  creedence vif attach br0 db1 --queues=4 --mtu=9000 --rate-in=10Gbps\n",
};

static const struct option force_options[] = {{"force", no_argument, NULL, OPT_FORCE}, {0}};

static int vif_detach(struct cli *c)
{
    bool force = false;
    for (int opt; (opt = cli_option(c)) != -1;)
        force = opt == OPT_FORCE;
    const char *name = cli_arguments(c, 1)[0];
    autofree char *done = NULL;
    if (asprintf(&done, "vif %s is detached", name) < 0) abort();
    return net_ask_and_say(c, "vif.detach", json_pack("{s:s, s:b}", "name", name, "force", force), done);
}

const struct cli_verb cli_vif_detach = {
    .name = "vif detach",
    .args = "NAME",
    .summary = "Stop serving a network card",
    .options = force_options,
    .run = vif_detach,
    .help = "  --force                 even while a guest is connected\n"
            "\nExamples:\n"
            "  creedence vif detach web1\n",
};

static const struct option vif_set_options[] = {
    CHANGEABLE_OPTIONS,
    {"announce", no_argument, NULL, OPT_ANNOUNCE},
    {0},
};

static int vif_set(struct cli *c)
{
    json_t *o = c->params = json_object();
    for (int opt; (opt = cli_option(c)) != -1;)
        vif_option(c, opt, o);
    if (!json_object_size(o)) cli_usage_error(c, "nothing to set: see the options");
    const char *name = cli_arguments(c, 1)[0];
    net_set_string(o, "name", name);
    autofree char *done = NULL;
    if (asprintf(&done, "vif %s is changed", name) < 0) abort();
    return net_ask_and_say(c, "vif.set", o, done);
}

const struct cli_verb cli_vif_set = {
    .name = "vif set",
    .args = "NAME",
    .summary = "Change a card under its running guest: link, MTU, rates, VLANs, what it may send as",
    .options = vif_set_options,
    .run = vif_set,
    .help = "  --link up|down          the guest sees it\n"
            "  --mtu N                 the guest is told\n"
            "  --rate-in RATE, --rate-out RATE\n"
            "                          such as 1Gbps,200Kpps; none: no limit\n"
            "  --vlan-mode MODE, --tag VLAN, --trunks LIST\n"
            "  --allowed-mac ADDRESS, --allowed-ip ADDRESS[/BITS]\n"
            "                          the whole new list; none: anything\n"
            "  --announce              ask the guest to announce its addresses\n"
            "\nExamples:\n"
            "  creedence vif set web1 --link=down\n"
            "  creedence vif set web1 --allowed-ip=10.0.0.5,10.0.0.6\n",
};

static int vif_list(struct cli *c)
{
    return net_list(c, "vif.list", "vifs", net_print_vifs, "no network cards are attached");
}

const struct cli_verb cli_vif_list = {
    .name = "vif list",
    .args = "",
    .summary = "Show the attached network cards",
    .options = net_list_options,
    .run = vif_list,
    .help = "  --bridge NAME           only its cards\n"
            "  --names                 only the names, one on a line\n"
            "\nExamples:\n"
            "  creedence vif list\n"
            "  creedence vif list --json | jq '.vifs[] | select(.front_end == \"connected\") | .name'\n",
};

static int vif_stats(struct cli *c)
{
    return net_stats(c, "vif.stats", "vifs");
}

const struct cli_verb cli_vif_stats = {
    .name = "vif stats",
    .args = "[NAME]",
    .summary = "Show what a card has counted since the switch started (without NAME: all of them)",
    .run = vif_stats,
    .help = "in: from the guest into the switch; out: from the switch to the guest.\n"
            "\nExamples:\n"
            "  creedence vif stats web1\n",
};
