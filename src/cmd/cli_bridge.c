/* SPDX-License-Identifier: Apache-2.0 */
/* creedence bridge, port and switch: networks as they are configured. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cmd/cli_network.h"

/* ---- bridge ---- */

static const struct option bridge_options[] = {
    {"fail-mode", required_argument, NULL, OPT_FAIL_MODE},
    {"mac-ageing", required_argument, NULL, OPT_MAC_AGEING},
    {"datapath-id", required_argument, NULL, OPT_DATAPATH_ID},
    {"probe", required_argument, NULL, OPT_PROBE},
    {0},
};

static int bridge_add(struct cli *c)
{
    json_t *o = c->params = json_object(), *result;
    for (int opt; (opt = cli_option(c)) != -1;)
        net_bridge_option(c, opt, o);
    net_set_string(o, "name", cli_arguments(c, 1)[0]);
    int status = net_ask(c, "bridge.add", o, &result);
    if (result) printf("bridge %s is there\n", cli_string(result, "name"));
    json_decref(result);
    return status;
}

const struct cli_verb cli_bridge_add = {
    .name = "bridge add",
    .args = "NAME",
    .summary = "Make a bridge, until it is deleted; with the first one the switch starts",
    .options = bridge_options,
    .run = bridge_add,
    .help = "  --fail-mode standalone|secure\n"
            "                          what it begins with: one flow that switches by addresses (NORMAL), or none;\n"
            "                          with controllers, see `bridge set`\n"
            "  --datapath-id HEX       up to 16 digits: its name in OpenFlow (default: a random one, which is kept)\n"
            "  --mac-ageing SECONDS    after which an address that is not heard of is forgotten (default 300)\n"
            "  --probe SECONDS         of controllers that say nothing (default 15), see `bridge set`\n"
            "\nExamples:\n"
            "  creedence bridge add br0\n"
            "  creedence bridge add dmz --fail-mode=secure\n",
};

static int bridge_del(struct cli *c)
{
    while (cli_option(c) != -1)
        ;
    const char *name = cli_arguments(c, 1)[0];
    autofree char *done = NULL;
    if (asprintf(&done, "bridge %s is deleted", name) < 0) abort();
    return net_ask_and_say(c, "bridge.del", json_pack("{s:s}", "name", name), done);
}

const struct cli_verb cli_bridge_del = {
    .name = "bridge del",
    .args = "NAME",
    .summary = "Delete a bridge that has no ports, with its flows",
    .run = bridge_del,
    .help = "\nExamples:\n"
            "  creedence bridge del br0\n",
};

static const struct option names_options[] = {{"names", no_argument, NULL, OPT_NAMES}, {0}};

static void print_bridges(json_t *list)
{
    struct cli_table t;
    size_t i;
    json_t *b;
    cli_table_begin(&t, "NAME|STATE|FAIL MODE|>PORTS|>FLOWS|>MACS");
    json_array_foreach(list, i, b)
    {
        cli_table_cell(&t, "%s", cli_string(b, "name"));
        cli_table_cell(&t, "%s", cli_string(b, "state"));
        cli_table_cell(&t, "%s", *cli_string(b, "fail_mode") ? cli_string(b, "fail_mode") : "standalone");
        net_number_cell(&t, b, "port_count");
        net_number_cell(&t, b, "flow_count");
        net_number_cell(&t, b, "mac_count");
    }
    cli_table_end(&t);
}

static int bridge_list(struct cli *c)
{
    return net_list(c, "bridge.list", "bridges", print_bridges, "there are no bridges");
}

const struct cli_verb cli_bridge_list = {
    .name = "bridge list",
    .args = "",
    .summary = "Show the bridges",
    .options = names_options,
    .run = bridge_list,
    .help = "  --names                 only the names, one on a line\n"
            "\nExamples:\n"
            "  creedence bridge list\n",
};

static int bridge_show(struct cli *c)
{
    json_t *b;
    while (cli_option(c) != -1)
        ;
    int status = net_ask(c, "bridge.show", json_pack("{s:s}", "name", cli_arguments(c, 1)[0]), &b);
    if (!b) return status;
    json_t *ports = json_object_get(b, "ports"), *vifs = json_object_get(b, "vifs");
    printf("name          %s\n", cli_string(b, "name"));
    printf("state         %s\n", cli_string(b, "state"));
    printf("fail mode     %s\n", *cli_string(b, "fail_mode") ? cli_string(b, "fail_mode") : "standalone");
    printf("datapath id   %s\n", cli_string(b, "datapath_id"));
    printf("flows         %lld\n", (long long)cli_integer(b, "flow_count"));
    printf("groups        %lld\n", (long long)cli_integer(b, "group_count"));
    printf("meters        %lld\n", (long long)cli_integer(b, "meter_count"));
    printf("controllers   %zu, %lld there\n", json_array_size(json_object_get(b, "controllers")),
           (long long)cli_integer(b, "controller_count"));
    printf("addresses     %lld\n", (long long)cli_integer(b, "mac_count"));
    if (json_array_size(ports)) puts("");
    if (json_array_size(ports)) net_print_ports(ports);
    if (json_array_size(vifs)) puts("");
    if (json_array_size(vifs)) net_print_vifs(vifs);
    net_print_errors(b, ports);
    net_print_errors(NULL, vifs);
    json_decref(b);
    return status;
}

const struct cli_verb cli_bridge_show = {
    .name = "bridge show",
    .args = "NAME",
    .summary = "Show a bridge with its ports and its guests' cards",
    .run = bridge_show,
    .help = "\nExamples:\n"
            "  creedence bridge show br0\n",
};

/* ---- port ---- */

static const struct option port_add_options[] = {
    {"type", required_argument, NULL, OPT_TYPE},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"number", required_argument, NULL, OPT_NUMBER},
    {"queues", required_argument, NULL, OPT_QUEUES},
    {"vlan-mode", required_argument, NULL, OPT_VLAN_MODE},
    {"tag", required_argument, NULL, OPT_TAG},
    {"trunks", required_argument, NULL, OPT_TRUNKS},
    {"mtu", required_argument, NULL, OPT_MTU},
    {"gro", required_argument, NULL, OPT_GRO},
    {0},
};

static int port_add(struct cli *c)
{
    json_t *o = c->params = json_object(), *result;
    for (int opt; (opt = cli_option(c)) != -1;)
        net_port_option(c, opt, o);
    char **args = cli_arguments(c, 2);
    net_set_string(o, "bridge", args[0]);
    net_set_string(o, "name", args[1]);
    if (!json_object_get(o, "type"))
        cli_usage_error(c, "--type is missing: tap (an interface of this host), af_packet or af_xdp (a network card)");
    int status = net_ask(c, "port.add", o, &result);
    if (result)
        printf("port %s of bridge %s is there, number %lld\n", cli_string(result, "name"), cli_string(result, "bridge"),
               (long long)cli_integer(result, "number"));
    json_decref(result);
    return status;
}

const struct cli_verb cli_port_add = {
    .name = "port add",
    .args = "BRIDGE NAME --type TYPE",
    .summary = "Connect a bridge to an interface of this host or to a network card",
    .options = port_add_options,
    .run = port_add,
    .help = "  --type tap              an interface of this host, made when it is not there\n"
            "  --type af_packet        any network card that the kernel drives\n"
            "  --type af_xdp           the same, past most of the kernel\n"
            "  --device NAME           the interface (default: NAME)\n"
            "  --number N              its number in flows (default: the lowest that is free)\n"
            "  --queues N              1 to 16 (default 1)\n"
            "  --vlan-mode trunk|access|native-tagged|native-untagged\n"
            "  --tag VLAN              the VLAN of an access port, or the native one\n"
            "  --trunks LIST           which VLANs a trunk carries, such as 1,5,100-199 (default: all)\n"
            "  --mtu N                 68 to 65535 (default: as the interface has it)\n"
            "  --gro on|off            merge small segments of a TCP stream when they come in (default on)\n"
            "\nExamples:\n"
            "  creedence port add br0 eth1 --type=af_packet\n"
            "  creedence port add br0 host0 --type=tap --tag=10\n",
};

/* "[BRIDGE] NAME": a port's name says it all. */
static void bridge_and_name(struct cli *c, json_t *o)
{
    bool both = c->positional_count + (c->argc - optind) > 1;
    char **args = cli_arguments(c, both ? 2 : 1);
    if (both) net_set_string(o, "bridge", args[0]);
    net_set_string(o, "name", args[both]);
}

static int port_del(struct cli *c)
{
    json_t *o = c->params = json_object();
    while (cli_option(c) != -1)
        ;
    bridge_and_name(c, o);
    autofree char *done = NULL;
    if (asprintf(&done, "port %s is deleted", cli_string(o, "name")) < 0) abort();
    return net_ask_and_say(c, "port.del", o, done);
}

const struct cli_verb cli_port_del = {
    .name = "port del",
    .args = "[BRIDGE] NAME",
    .summary = "Take a port out of its bridge",
    .run = port_del,
    .help = "\nExamples:\n"
            "  creedence port del br0 eth1\n",
};

static const struct option port_set_options[] = {
    {"vlan-mode", required_argument, NULL, OPT_VLAN_MODE},
    {"tag", required_argument, NULL, OPT_TAG},
    {"trunks", required_argument, NULL, OPT_TRUNKS},
    {"mtu", required_argument, NULL, OPT_MTU},
    {"gro", required_argument, NULL, OPT_GRO},
    {0},
};

static int port_set(struct cli *c)
{
    json_t *o = c->params = json_object();
    for (int opt; (opt = cli_option(c)) != -1;)
        net_port_option(c, opt, o);
    if (!json_object_size(o)) cli_usage_error(c, "nothing to set: see the options");
    bridge_and_name(c, o);
    autofree char *done = NULL;
    if (asprintf(&done, "port %s is changed", cli_string(o, "name")) < 0) abort();
    return net_ask_and_say(c, "port.set", o, done);
}

const struct cli_verb cli_port_set = {
    .name = "port set",
    .args = "[BRIDGE] NAME",
    .summary = "Change a port's VLANs, MTU or merging, while it works",
    .options = port_set_options,
    .run = port_set,
    .help = "  --vlan-mode trunk|access|native-tagged|native-untagged\n"
            "  --tag VLAN\n"
            "  --trunks LIST           such as 1,5,100-199; none: all of them\n"
            "  --mtu N\n"
            "  --gro on|off\n"
            "\nExamples:\n"
            "  creedence port set br0 eth1 --trunks=10,20\n",
};

static int port_list(struct cli *c)
{
    return net_list(c, "port.list", "ports", net_print_ports, "there are no ports");
}

const struct cli_verb cli_port_list = {
    .name = "port list",
    .args = "",
    .summary = "Show the ports of bridges; guests' cards are shown by `vif list`",
    .options = net_list_options,
    .run = port_list,
    .help = "  --bridge NAME           only its ports\n"
            "  --names                 only the names, one on a line\n"
            "\nExamples:\n"
            "  creedence port list\n",
};

static int port_stats(struct cli *c)
{
    return net_stats(c, "port.stats", "ports");
}

const struct cli_verb cli_port_stats = {
    .name = "port stats",
    .args = "[NAME]",
    .summary = "Show what a port has counted since the switch started (without NAME: all of them)",
    .run = port_stats,
    .help = "in: from the port into the switch; out: from the switch to it.\n"
            "\nExamples:\n"
            "  creedence port stats eth1\n",
};

/* ---- switch ---- */

static const struct option switch_options[] = {
    {"flows", required_argument, NULL, OPT_FLOWS},
    {"exact-max", required_argument, NULL, OPT_EXACT_MAX},
    {"emc", required_argument, NULL, OPT_EMC},
    {"vif-threads", required_argument, NULL, OPT_VIF_THREADS},
    {"gro", required_argument, NULL, OPT_GRO},
    {"tx", required_argument, NULL, OPT_TX},
    {"poll-us", required_argument, NULL, OPT_POLL_US},
    {"megaflows-max", required_argument, NULL, OPT_MEGAFLOWS_MAX},
    {"masks-max", required_argument, NULL, OPT_MASKS_MAX},
    {0},
};

static void set_emc(struct cli *c, json_t *o)
{
    net_set_number(c, o, "emc", "--emc", 0, NETWORK_EMC_MAX);
    if (!network_emc_valid((uint64_t)json_integer_value(json_object_get(o, "emc"))))
        cli_usage_error(c, "--emc: not %s, but " NETWORK_EMC_RULE, optarg);
}

static void switch_option(struct cli *c, int opt, json_t *o)
{
    switch (opt) {
    case OPT_FLOWS: net_set_string(o, "flows", optarg); break;
    case OPT_TX: net_set_string(o, "tx", optarg); break;
    case OPT_EXACT_MAX: net_set_number(c, o, "exact_max", "--exact-max", 1, NETWORK_FLOWS_MAX); break;
    case OPT_MEGAFLOWS_MAX: net_set_number(c, o, "megaflows_max", "--megaflows-max", 1, NETWORK_FLOWS_MAX); break;
    case OPT_MASKS_MAX: net_set_number(c, o, "masks_max", "--masks-max", 1, NETWORK_MASKS_MAX); break;
    case OPT_EMC: set_emc(c, o); break;
    case OPT_VIF_THREADS: net_set_number(c, o, "vif_threads", "--vif-threads", 0, NETWORK_VIF_THREADS_MAX); break;
    case OPT_GRO: json_object_set_new(o, "gro", json_boolean(cli_on_off(c, "--gro", optarg))); break;
    default:
        if (strcmp(optarg, "always") == 0) net_set_string(o, "poll_us", optarg);
        else net_set_number(c, o, "poll_us", "--poll-us", 0, 1000000);
    }
}

static int switch_set(struct cli *c)
{
    json_t *o = c->params = json_object(), *value;
    const char *key;
    for (int opt; (opt = cli_option(c)) != -1;)
        switch_option(c, opt, o);
    cli_arguments(c, 0);
    json_t *result;
    int status = net_ask(c, "switch.set", o, &result);
    if (!result) return status;
    if (!json_object_size(result)) puts("the switch has its own choice of everything");
    json_object_foreach(result, key, value)
    {
        autofree char *text = json_dumps(value, JSON_ENCODE_ANY);
        printf("%-13s %s\n", key, text ? text : "");
    }
    json_decref(result);
    return status;
}

const struct cli_verb cli_switch_set = {
    .name = "switch set",
    .args = "",
    .summary = "Change how the switch works, now (it is replaced, guests keep their cards) and for later starts",
    .options = switch_options,
    .run = switch_set,
    .help = "Without options: what was set.\n"
            "  --flows mega|exact      exact: an entry for each connection, in a bounded table, for comparison\n"
            "  --exact-max N           entries of that table, up to 1000000\n"
            "  --megaflows-max N       megaflows of each thread, up to 1000000 (default 200000)\n"
            "  --masks-max N           masks of each port's megaflows (default 64)\n"
            "  --emc N                 entries of each thread's exact-match cache: a power of two from 2 on, or 0\n"
            "  --vif-threads N         so many threads share all cards (0: a thread for each queue pair)\n"
            "  --gro on|off            for ports that do not say it themselves\n"
            "  --tx map|copy           copy: out of the guest's memory first, for comparison\n"
            "  --poll-us N|always      longest adaptive polling for the next packet\n"
            "\nExamples:\n"
            "  creedence switch set --poll-us=100\n",
};
