/* SPDX-License-Identifier: Apache-2.0 */
/* creedence controller, tls and bridge set: who else may say what a bridge does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cmd/cli_network.h"

/* ---- bridge set ---- */

static const struct option bridge_options[] = {
    {"fail-mode", required_argument, NULL, OPT_FAIL_MODE},
    {"mac-ageing", required_argument, NULL, OPT_MAC_AGEING},
    {"datapath-id", required_argument, NULL, OPT_DATAPATH_ID},
    {"probe", required_argument, NULL, OPT_PROBE},
    {0},
};

static int bridge_set(struct cli *c)
{
    json_t *o = c->params = json_object();
    for (int opt; (opt = cli_option(c)) != -1;)
        net_bridge_option(c, opt, o);
    if (!json_object_size(o)) cli_usage_error(c, "nothing to set: see the options");
    const char *name = cli_arguments(c, 1)[0];
    net_set_string(o, "name", name);
    autofree char *done = NULL;
    if (asprintf(&done, "bridge %s is changed", name) < 0) abort();
    return net_ask_and_say(c, "bridge.set", o, done);
}

const struct cli_verb cli_bridge_set = {
    .name = "bridge set",
    .args = "NAME",
    .summary = "Change what a bridge does without its controllers, or how it is called by them",
    .options = bridge_options,
    .run = bridge_set,
    .help =
        "  --fail-mode standalone|secure\n"
        "                          when none of its controllers is there for three times --probe: forward by\n"
        "                          addresses (NORMAL), or go on by the flows that there are\n"
        "  --datapath-id HEX       up to 16 digits: its name in OpenFlow; controllers connect anew\n"
        "  --mac-ageing SECONDS    after which an address that is not heard of is forgotten\n"
        "  --probe SECONDS         after which a controller that says nothing is asked whether it is there; as long\n"
        "                          again, and its connection ends (default 15); of connections that begin then\n"
        "\nExamples:\n"
        "  creedence bridge set br0 --fail-mode=secure\n"
        "  creedence bridge set br0 --datapath-id=0000000000000001\n",
};

/* ---- controller ---- */

static const struct option add_options[] = {{"name", required_argument, NULL, OPT_NAME}, {0}};

static int controller_add(struct cli *c)
{
    json_t *o = c->params = json_object();
    while (cli_option(c) != -1)
        net_set_string(o, "name", optarg);
    char **args = cli_arguments(c, 2);
    net_set_string(o, "bridge", args[0]);
    net_set_string(o, "target", args[1]);
    autofree char *done = NULL;
    if (asprintf(&done, "bridge %s has the controller %s", args[0], args[1]) < 0) abort();
    return net_ask_and_say(c, "controller.add", o, done);
}

const struct cli_verb cli_controller_add = {
    .name = "controller add",
    .args = "BRIDGE TARGET",
    .summary = "Let a bridge be controlled by OpenFlow 1.3, until that is undone",
    .options = add_options,
    .run = controller_add,
    .help =
        "TARGET: tcp:ADDRESS[:PORT], ssl:ADDRESS[:PORT], unix:/PATH: the bridge connects, and tries again and again;\n"
        "ptcp:[PORT][:ADDRESS], pssl:[PORT][:ADDRESS], punix:/PATH: controllers connect to it. Addresses are numbers; "
        "the\n"
        "default port is 6653. For ssl: `creedence tls set` comes first.\n"
        "  --name NAME             how `controller del` may call it, too\n"
        "\nExamples:\n"
        "  creedence controller add br0 tcp:192.0.2.10:6653\n"
        "  creedence controller add br0 ssl:[2001:db8::10] --name=main\n"
        "  creedence controller add br0 ptcp:6654:127.0.0.1\n",
};

static int controller_del(struct cli *c)
{
    json_t *o = c->params = json_object();
    while (cli_option(c) != -1)
        ;
    bool one = c->positional_count + (c->argc - optind) > 1;
    char **args = cli_arguments(c, one ? 2 : 1);
    net_set_string(o, "bridge", args[0]);
    if (one) net_set_string(o, "target", args[1]);
    autofree char *done = NULL;
    if (asprintf(&done, "bridge %s is without %s", args[0], one ? args[1] : "controllers") < 0) abort();
    return net_ask_and_say(c, "controller.del", o, done);
}

const struct cli_verb cli_controller_del = {
    .name = "controller del",
    .args = "BRIDGE [TARGET|NAME]",
    .summary = "Take a controller (or all of them) from a bridge; its flows stay",
    .run = controller_del,
    .help = "\nExamples:\n"
            "  creedence controller del br0 tcp:192.0.2.10:6653\n",
};

static void print_controllers(json_t *list, json_t *others)
{
    json_t *lists[] = {list, others}, *o;
    struct cli_table t;
    size_t i;
    cli_table_begin(&t, "BRIDGE|TARGET|NAME|STATE|ROLE|TLS|>RECEIVED|>SENT|>PACKET-INS|>DROPPED");
    for (int k = 0; k < 2; k++)
        json_array_foreach(lists[k], i, o)
        {
            cli_table_cell(&t, "%s", cli_string(o, "bridge"));
            cli_table_cell(&t, "%s", cli_string(o, "target"));
            cli_table_cell(&t, "%s", net_dash(cli_string(o, "name")));
            cli_table_cell(&t, "%s", cli_string(o, "state"));
            cli_table_cell(&t, "%s", net_dash(cli_string(o, "role")));
            cli_table_cell(&t, "%s", json_is_true(json_object_get(o, "tls")) ? "yes" : "no");
            net_number_cell(&t, o, "received");
            net_number_cell(&t, o, "sent");
            net_number_cell(&t, o, "packet_ins");
            net_number_cell(&t, o, "packet_ins_dropped");
        }
    cli_table_end(&t);
    json_array_foreach(list, i, o)
    {
        if (*cli_string(o, "error")) printf("%s: %s\n", cli_string(o, "target"), cli_string(o, "error"));
    }
}

static int controller_list(struct cli *c)
{
    json_t *params = c->params = json_object(), *result;
    while (cli_option(c) != -1)
        ;
    bool one = c->positional_count + (c->argc - optind) > 0;
    char **args = cli_arguments(c, one);
    if (one) net_set_string(params, "bridge", args[0]);
    int status = net_ask(c, "controller.list", params, &result);
    if (!result) return status;
    json_t *list = json_object_get(result, "controllers"), *others = json_object_get(result, "others");
    if (json_array_size(list) || json_array_size(others)) print_controllers(list, others);
    else puts("there are no controllers");
    if (*cli_string(result, "error")) printf("what the switch knows is missing: %s\n", cli_string(result, "error"));
    json_decref(result);
    return status;
}

const struct cli_verb cli_controller_list = {
    .name = "controller list",
    .args = "[BRIDGE]",
    .summary = "Show the controllers of bridges, how they are connected, and who else is (tools)",
    .run = controller_list,
    .help = "\nExamples:\n"
            "  creedence controller list\n"
            "  creedence controller list br0 --json\n",
};

/* ---- tls ---- */

static const struct option tls_options[] = {
    {"key", required_argument, NULL, OPT_KEY},
    {"cert", required_argument, NULL, OPT_CERT},
    {"ca", required_argument, NULL, OPT_CA},
    {0},
};

static int tls_set(struct cli *c)
{
    json_t *o = c->params = json_object();
    for (int opt; (opt = cli_option(c)) != -1;) {
        autofree char *path = cli_absolute(optarg);
        net_set_string(o, opt == OPT_KEY ? "key" : opt == OPT_CERT ? "certificate" : "ca", path);
    }
    cli_arguments(c, 0);
    if (json_object_size(o) != 3) cli_usage_error(c, "--key, --cert and --ca are needed, all three");
    return net_ask_and_say(c, "tls.set", o, "connections with controllers may be encrypted (ssl:, pssl:)");
}

const struct cli_verb cli_tls_set = {
    .name = "tls set",
    .args = "",
    .summary = "Say with which key the switch speaks TLS with controllers, and who signs theirs",
    .options = tls_options,
    .run = tls_set,
    .help =
        "PEM files that the daemon reads whenever the switch starts. To take up changed ones: set them again.\n"
        "  --key FILE              the switch's private key\n"
        "  --cert FILE             its certificate\n"
        "  --ca FILE               certificates of those who signed controllers' certificates\n"
        "\nExamples:\n"
        "  creedence tls set --key=/etc/creedence/key.pem --cert=/etc/creedence/cert.pem --ca=/etc/creedence/ca.pem\n",
};

static int tls_show(struct cli *c)
{
    json_t *o;
    while (cli_option(c) != -1)
        ;
    cli_arguments(c, 0);
    int status = net_ask(c, "tls.show", NULL, &o);
    if (!o) return status;
    if (!json_object_size(o)) {
        puts("there is no key: ssl: and pssl: do not work");
    } else {
        printf("key          %s\ncertificate  %s\nca           %s\n", cli_string(o, "key"),
               cli_string(o, "certificate"), cli_string(o, "ca"));
    }
    json_decref(o);
    return status;
}

const struct cli_verb cli_tls_show = {
    .name = "tls show",
    .args = "",
    .summary = "Show where the switch's key and certificates are",
    .run = tls_show,
    .help = "\nExamples:\n"
            "  creedence tls show\n",
};

static int tls_del(struct cli *c)
{
    while (cli_option(c) != -1)
        ;
    cli_arguments(c, 0);
    return net_ask_and_say(c, "tls.del", NULL, "the switch has no key any more; encrypted connections have ended");
}

const struct cli_verb cli_tls_del = {
    .name = "tls del",
    .args = "",
    .summary = "Forget the switch's key; connections that are encrypted end",
    .run = tls_del,
    .help = "\nExamples:\n"
            "  creedence tls del\n",
};
