/* SPDX-License-Identifier: Apache-2.0 */
/* creedence policy: who may talk with guests' cards. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cmd/cli_batch.h"
#include "cmd/cli_network.h"

enum {
    OPT_VIF = CLI_OPT + 256,
    OPT_ALLOW,
    OPT_DROP,
    OPT_DIRECTION,
    OPT_RANGE,
    OPT_PROTOCOL,
    OPT_PORT,
    OPT_SOURCE_PORT,
    OPT_PRIORITY
};

#define WHOSE                                                                                                          \
    {"vif", required_argument, NULL, OPT_VIF},                                                                         \
    {                                                                                                                  \
        "bridge", required_argument, NULL, OPT_BRIDGE                                                                  \
    }

static const struct option add_options[] = {
    WHOSE,
    {"allow", no_argument, NULL, OPT_ALLOW},
    {"drop", no_argument, NULL, OPT_DROP},
    {"direction", required_argument, NULL, OPT_DIRECTION},
    {"range", required_argument, NULL, OPT_RANGE},
    {"protocol", required_argument, NULL, OPT_PROTOCOL},
    {"port", required_argument, NULL, OPT_PORT},
    {"source-port", required_argument, NULL, OPT_SOURCE_PORT},
    {"priority", required_argument, NULL, OPT_PRIORITY},
    {0},
};

static void add_option(struct cli *c, int opt, json_t *o)
{
    switch (opt) {
    case OPT_VIF: net_set_string(o, "vif", optarg); break;
    case OPT_BRIDGE: net_set_string(o, "bridge", optarg); break;
    case OPT_ALLOW:
    case OPT_DROP: json_object_set_new(o, "allow", json_boolean(opt == OPT_ALLOW)); break;
    case OPT_DIRECTION: net_set_string(o, "direction", optarg); break;
    case OPT_RANGE: net_set_string(o, "range", optarg); break;
    case OPT_PROTOCOL: net_set_string(o, "protocol", optarg); break;
    case OPT_PORT: net_set_number(c, o, "port", "--port", 0, 65535); break;
    case OPT_SOURCE_PORT: net_set_number(c, o, "source_port", "--source-port", 0, 65535); break;
    default: net_set_number(c, o, "priority", "--priority", 0, 65535);
    }
}

static int policy_add(struct cli *c)
{
    json_t *o = c->params = json_object(), *result;
    for (int opt; (opt = cli_option(c)) != -1;)
        add_option(c, opt, o);
    cli_arguments(c, 0);
    if (!json_object_get(o, "vif") == !json_object_get(o, "bridge"))
        cli_usage_error(c, "give one of --vif and --bridge");
    if (!json_object_get(o, "allow")) cli_usage_error(c, "give --allow or --drop");
    if (!json_object_get(o, "direction")) cli_usage_error(c, "--direction is missing: in (to the guest), out or both");
    int status = net_ask(c, "policy.add", o, &result);
    if (!result) return status;
    const char *whose = *cli_string(result, "vif") ? "vif" : "bridge";
    printf("rule %lld of %s %s %s\n", (long long)cli_integer(result, "id"), whose, cli_string(result, whose),
           json_is_true(json_object_get(result, "applied")) ? "is obeyed" : "is kept until it is there");
    json_decref(result);
    return status;
}

const struct cli_verb cli_policy_add = {
    .name = "policy add",
    .args = "--vif NAME|--bridge NAME --allow|--drop --direction in|out|both",
    .summary =
        "Say who may talk with a guest's card, or with all cards of a bridge, whatever flows and controllers say",
    .options = add_options,
    .run = policy_add,
    .help =
        "The first rule that a packet meets decides: by falling priority, of the same priority --drop first. A "
        "direction\n"
        "with an --allow rule lets nothing else pass (but ARP and neighbour discovery); one without drops only what\n"
        "--drop rules say. There is no memory of connections: answers must be allowed where there is an allow-list.\n"
        "  --range ADDRESS[/LENGTH]  the other side's (default: any)\n"
        "  --protocol any|ip|tcp|udp|sctp|icmp|arp\n"
        "  --port N                where the packet goes to; --source-port N: where it comes from\n"
        "  --priority N            0 to 65535 (default 32768)\n"
        "\nExamples:\n"
        "  creedence policy add --vif=web1 --allow --direction=in --range=10.0.0.0/8 --protocol=tcp --port=80\n"
        "  creedence policy add --bridge=br0 --drop --direction=out --protocol=tcp --port=25\n",
};

static const struct option whose_options[] = {WHOSE, {0}};

static int policy_del(struct cli *c)
{
    json_t *o = c->params = json_object(), *result;
    for (int opt; (opt = cli_option(c)) != -1;)
        add_option(c, opt, o);
    if (!json_object_size(o))
        json_object_set_new(o, "id",
                            json_integer((json_int_t)cli_number(c, "ID", cli_arguments(c, 1)[0], 1, INT64_MAX)));
    else cli_arguments(c, 0);
    int status = net_ask(c, "policy.del", o, &result);
    if (result)
        printf("%lld rule%s deleted\n", (long long)cli_integer(result, "removed"),
               cli_integer(result, "removed") == 1 ? "" : "s");
    json_decref(result);
    return status;
}

const struct cli_verb cli_policy_del = {
    .name = "policy del",
    .args = "ID|--vif NAME|--bridge NAME",
    .summary = "Delete a rule, or all of a card or bridge",
    .options = whose_options,
    .run = policy_del,
    .help = "\nExamples:\n"
            "  creedence policy del 7\n"
            "  creedence policy del --vif=web1\n",
};

static void number_or_any(struct cli_table *t, json_t *o, const char *key)
{
    if (json_object_get(o, key)) cli_table_cell(t, "%lld", (long long)cli_integer(o, key));
    else cli_table_cell(t, "any");
}

static int policy_list(struct cli *c)
{
    json_t *params = c->params = json_object(), *result, *o;
    struct cli_table t;
    size_t i;
    for (int opt; (opt = cli_option(c)) != -1;)
        add_option(c, opt, params);
    cli_arguments(c, 0);
    int status = net_ask(c, "policy.list", params, &result);
    if (!result) return status;
    json_t *list = json_object_get(result, "policies");
    if (!json_array_size(list)) {
        puts("there are no rules: cards may talk with all");
        json_decref(result);
        return status;
    }
    cli_table_begin(&t, ">ID|VIF|BRIDGE|WHAT|DIRECTION|RANGE|PROTOCOL|>PORT|>SOURCE PORT|>PRIORITY");
    json_array_foreach(list, i, o)
    {
        net_number_cell(&t, o, "id");
        cli_table_cell(&t, "%s", net_dash(cli_string(o, "vif")));
        cli_table_cell(&t, "%s", net_dash(cli_string(o, "bridge")));
        cli_table_cell(&t, "%s", json_is_true(json_object_get(o, "allow")) ? "allow" : "drop");
        cli_table_cell(&t, "%s", cli_string(o, "direction"));
        cli_table_cell(&t, "%s", *cli_string(o, "range") ? cli_string(o, "range") : "any");
        cli_table_cell(&t, "%s", *cli_string(o, "protocol") ? cli_string(o, "protocol") : "any");
        number_or_any(&t, o, "port");
        number_or_any(&t, o, "source_port");
        cli_table_cell(&t, "%lld", json_object_get(o, "priority") ? (long long)cli_integer(o, "priority") : 32768LL);
    }
    cli_table_end(&t);
    json_decref(result);
    return status;
}

const struct cli_verb cli_policy_list = {
    .name = "policy list",
    .args = "",
    .summary = "Show the rules, of all or of a card or bridge",
    .options = whose_options,
    .run = policy_list,
    .help = "  --vif NAME, --bridge NAME\n"
            "\nExamples:\n"
            "  creedence policy list --vif=web1\n",
};

static void print_flow(json_t *o, void *arg)
{
    (void)arg;
    puts(cli_string(o, "text"));
}

static int policy_show(struct cli *c)
{
    while (cli_option(c) != -1)
        ;
    return cli_pages(c, "policy.show", json_pack("{s:s}", "vif", cli_arguments(c, 1)[0]), "flows", print_flow, NULL);
}

const struct cli_verb cli_policy_show = {
    .name = "policy show",
    .args = "VIF",
    .summary = "Show what a card's rules, and those of its bridge, come to: as flows, in their order",
    .run = policy_show,
    .help = "in_port: what the guest sends, before table 0; out_port: what it is sent, as it is by then.\n"
            "\nExamples:\n"
            "  creedence policy show web1\n",
};
