/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs on bridges, ports and cards share. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cmd/cli_network.h"
#include "control/size.h"

const struct option net_list_options[] = {
    {"names", no_argument, NULL, OPT_NAMES},
    {"bridge", required_argument, NULL, OPT_BRIDGE},
    {0},
};

/* ---- Values of options ---- */

void net_set_string(json_t *o, const char *key, const char *text)
{
    json_object_set_new(o, key, json_string(text));
}

void net_set_number(struct cli *c, json_t *o, const char *key, const char *option, uint64_t min, uint64_t max)
{
    json_object_set_new(o, key, json_integer((json_int_t)cli_number(c, option, optarg, min, max)));
}

/* One after another, or several with commas between them. "none": an empty list. */
void net_add_to_list(json_t *o, const char *key)
{
    json_t *list = json_object_get(o, key);
    if (!list) json_object_set_new(o, key, list = json_array());
    if (strcmp(optarg, "none") == 0) return;
    for (const char *p = optarg; *p;) {
        size_t len = strcspn(p, ",");
        if (len) json_array_append_new(list, json_stringn(p, len));
        p += len + (p[len] == ',');
    }
}

/* "1,5,100-199" */
static void set_trunks(struct cli *c, json_t *o)
{
    json_object_del(o, "trunks");
    net_add_to_list(o, "trunks");
    json_t *texts = json_object_get(o, "trunks"), *list = json_array(), *text;
    size_t i;
    json_array_foreach(texts, i, text)
    {
        const char *t = json_string_value(text);
        if (strchr(t, '-')) json_array_append(list, text);
        else json_array_append_new(list, json_integer((json_int_t)cli_number(c, "--trunks", t, 0, 4095)));
    }
    json_object_set_new(o, "trunks", list);
}

void net_bridge_option(struct cli *c, int opt, json_t *o)
{
    if (opt == OPT_FAIL_MODE) net_set_string(o, "fail_mode", optarg);
    else if (opt == OPT_DATAPATH_ID) net_set_string(o, "datapath_id", optarg);
    else if (opt == OPT_PROBE) net_set_number(c, o, "probe_s", "--probe", 1, NETWORK_PROBE_MAX);
    else net_set_number(c, o, "mac_ageing_s", "--mac-ageing", 1, NETWORK_MAC_AGEING_MAX);
}

/* What ports and cards have in common. True: it was one of these. */
bool net_port_option(struct cli *c, int opt, json_t *o)
{
    switch (opt) {
    case OPT_NUMBER: net_set_number(c, o, "number", "--number", 1, NETWORK_PORT_NUMBER_MAX); return true;
    case OPT_QUEUES: net_set_number(c, o, "queues", "--queues", 1, NETWORK_QUEUES_MAX); return true;
    case OPT_MTU: net_set_number(c, o, "mtu", "--mtu", NETWORK_MTU_MIN, NETWORK_MTU_MAX); return true;
    case OPT_TAG: net_set_number(c, o, "tag", "--tag", 1, 4094); return true;
    case OPT_VLAN_MODE: net_set_string(o, "vlan_mode", optarg); return true;
    case OPT_TRUNKS: set_trunks(c, o); return true;
    case OPT_GRO: json_object_set_new(o, "gro", json_boolean(cli_on_off(c, "--gro", optarg))); return true;
    case OPT_TYPE: net_set_string(o, "type", optarg); return true;
    case OPT_DEVICE: net_set_string(o, "device", optarg); return true;
    default: return false;
    }
}

/* ---- Asking ---- */

/* Calls, and prints the answer as JSON if that is wanted: then, and on failure, *result is NULL. */
int net_ask(struct cli *c, const char *method, json_t *params, json_t **result)
{
    if (cli_call(c, method, params, CLI_LONG_MS, result)) return CLI_FAILED;
    if (!c->json) return CLI_OK;
    cli_print_json(*result);
    *result = NULL;
    return CLI_OK;
}

/* One that is there is said, not what it answered. */
int net_ask_and_say(struct cli *c, const char *method, json_t *params, const char *done)
{
    json_t *result;
    int status = net_ask(c, method, params, &result);
    if (result) puts(done);
    json_decref(result);
    return status;
}

const char *net_dash(const char *text)
{
    return *text ? text : "-";
}

void net_number_cell(struct cli_table *t, json_t *o, const char *key)
{
    if (json_object_get(o, key)) cli_table_cell(t, "%lld", (long long)cli_integer(o, key));
    else cli_table_cell(t, "-");
}

void net_print_errors(json_t *result, json_t *list)
{
    size_t i;
    json_t *o;
    json_array_foreach(list, i, o)
    {
        if (*cli_string(o, "error")) printf("%s: %s\n", cli_string(o, "name"), cli_string(o, "error"));
        if (*cli_string(o, "front_end_why")) printf("%s: %s\n", cli_string(o, "name"), cli_string(o, "front_end_why"));
    }
    if (*cli_string(result, "error")) printf("what the switch knows is missing: %s\n", cli_string(result, "error"));
}

static const char *vlan_of(json_t *o, char out[32])
{
    const char *mode = cli_string(o, "vlan_mode");
    json_int_t tag = cli_integer(o, "tag");
    if (tag && (!*mode || strcmp(mode, "access") == 0)) snprintf(out, 32, "%lld", (long long)tag);
    else if (tag) snprintf(out, 32, "%.14s %lld", mode, (long long)tag);
    else snprintf(out, 32, "%s", json_array_size(json_object_get(o, "trunks")) ? "some" : "all");
    return out;
}

void net_print_ports(json_t *list)
{
    struct cli_table t;
    size_t i;
    json_t *p;
    char vlan[32];
    cli_table_begin(&t, "NAME|BRIDGE|>NUMBER|TYPE|DEVICE|STATE|VLAN|>MTU");
    json_array_foreach(list, i, p)
    {
        cli_table_cell(&t, "%s", cli_string(p, "name"));
        cli_table_cell(&t, "%s", cli_string(p, "bridge"));
        net_number_cell(&t, p, "number");
        cli_table_cell(&t, "%s", cli_string(p, "type"));
        cli_table_cell(&t, "%s", cli_string(p, *cli_string(p, "device") ? "device" : "name"));
        cli_table_cell(&t, "%s", cli_string(p, "state"));
        cli_table_cell(&t, "%s", vlan_of(p, vlan));
        net_number_cell(&t, p, "mtu");
    }
    cli_table_end(&t);
}

void net_print_vifs(json_t *list)
{
    struct cli_table t;
    size_t i;
    json_t *v;
    char vlan[32];
    cli_table_begin(&t, "NAME|BRIDGE|>NUMBER|MAC|STATE|FRONT END|LINK|>QUEUES|VLAN|SOCKET");
    json_array_foreach(list, i, v)
    {
        cli_table_cell(&t, "%s", cli_string(v, "name"));
        cli_table_cell(&t, "%s", cli_string(v, "bridge"));
        net_number_cell(&t, v, "number");
        cli_table_cell(&t, "%s", net_dash(cli_string(v, "mac")));
        cli_table_cell(&t, "%s", cli_string(v, "state"));
        cli_table_cell(&t, "%s", cli_string(v, "front_end"));
        cli_table_cell(&t, "%s", *cli_string(v, "link") ? cli_string(v, "link") : "up");
        cli_table_cell(&t, "%lld", json_object_get(v, "queues") ? (long long)cli_integer(v, "queues") : 1LL);
        cli_table_cell(&t, "%s", vlan_of(v, vlan));
        cli_table_cell(&t, "%s", net_dash(cli_string(v, json_object_get(v, "xen") ? "alias" : "socket")));
    }
    cli_table_end(&t);
}

/* Any of the lists: names, or a table, or that there is nothing. */
int net_list(struct cli *c, const char *method, const char *key, void (*print)(json_t *list), const char *nothing)
{
    bool names = false;
    json_t *params = c->params = json_object(), *result, *o;
    for (int opt; (opt = cli_option(c)) != -1;) {
        if (opt == OPT_NAMES) names = true;
        else net_set_string(params, "bridge", optarg);
    }
    cli_arguments(c, 0);
    int status = net_ask(c, method, params, &result);
    if (!result) return status;
    json_t *entries = json_object_get(result, key);
    size_t i;
    if (names) {
        json_array_foreach(entries, i, o) puts(cli_string(o, "name"));
    } else if (json_array_size(entries)) {
        print(entries);
        net_print_errors(result, entries);
    } else {
        puts(nothing);
    }
    json_decref(result);
    return status;
}

/* ---- Counters ---- */

static void print_stats(json_t *entry)
{
    json_t *stats = json_object_get(entry, "stats"), *value;
    const char *key;
    printf("%s: %s", cli_string(entry, "name"), cli_string(entry, "state"));
    if (*cli_string(entry, "front_end")) printf(", front end %s", cli_string(entry, "front_end"));
    puts("");
    if (*cli_string(entry, "error")) printf("  %s\n", cli_string(entry, "error"));
    json_object_foreach(stats, key, value)
    {
        char text[SIZE_TEXT_MAX];
        size_t len = strlen(key);
        if (json_is_integer(value) && len > 6 && strcmp(key + len - 6, "_bytes") == 0)
            printf("  %-20s %lld (%s)\n", key, (long long)json_integer_value(value),
                   size_format((uint64_t)json_integer_value(value), text));
        else if (json_is_integer(value)) printf("  %-20s %lld\n", key, (long long)json_integer_value(value));
    }
}

int net_stats(struct cli *c, const char *method, const char *key)
{
    while (cli_option(c) != -1)
        ;
    json_t *params = NULL, *result, *entry;
    if (c->positional_count || optind < c->argc) params = json_pack("{s:s}", "name", cli_arguments(c, 1)[0]);
    int status = net_ask(c, method, params, &result);
    size_t i;
    json_array_foreach(json_object_get(result, key), i, entry) print_stats(entry);
    if (*cli_string(result, "error")) printf("there are no counters: %s\n", cli_string(result, "error"));
    json_decref(result);
    return status;
}
