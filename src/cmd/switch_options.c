/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/switch_options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "control/version.h"

#define CONVENTIONAL_BRIDGE "br0"
#define CONVENTIONAL_VIF "vif0"

enum {
    OPT_SOCKET_PATH = 256,
    OPT_FD,
    OPT_LINK_FD,
    OPT_PRINT_CAPABILITIES,
    OPT_BRIDGE,
    OPT_PORT,
    OPT_VIF,
    OPT_FLOW,
    OPT_FLOW_FILE,
    OPT_CONTROL,
    OPT_FLOWS,
    OPT_EXACT_MAX,
    OPT_EMC,
    OPT_MEGAFLOWS_MAX,
    OPT_MASKS_MAX,
    OPT_VIF_THREADS,
    OPT_GRO,
    OPT_TX,
    OPT_POLL_US,
    OPT_OPENFLOW_DIR,
    OPT_CONTROLLER,
    OPT_TLS_KEY,
    OPT_TLS_CERT,
    OPT_TLS_CA,
    OPT_USER,
    OPT_SANDBOX,
};

static const struct option options[] = {
    {"bridge", required_argument, NULL, OPT_BRIDGE},
    {"port", required_argument, NULL, OPT_PORT},
    {"vif", required_argument, NULL, OPT_VIF},
    {"flow", required_argument, NULL, OPT_FLOW},
    {"flow-file", required_argument, NULL, OPT_FLOW_FILE},
    {"socket-path", required_argument, NULL, OPT_SOCKET_PATH},
    {"fd", required_argument, NULL, OPT_FD},
    {"link-fd", required_argument, NULL, OPT_LINK_FD},
    {"control", required_argument, NULL, OPT_CONTROL},
    {"print-capabilities", no_argument, NULL, OPT_PRINT_CAPABILITIES},
    {"flows", required_argument, NULL, OPT_FLOWS},
    {"exact-max", required_argument, NULL, OPT_EXACT_MAX},
    {"emc", required_argument, NULL, OPT_EMC},
    {"megaflows-max", required_argument, NULL, OPT_MEGAFLOWS_MAX},
    {"masks-max", required_argument, NULL, OPT_MASKS_MAX},
    {"vif-threads", required_argument, NULL, OPT_VIF_THREADS},
    {"gro", required_argument, NULL, OPT_GRO},
    {"tx", required_argument, NULL, OPT_TX},
    {"poll-us", required_argument, NULL, OPT_POLL_US},
    {"openflow-dir", required_argument, NULL, OPT_OPENFLOW_DIR},
    {"controller", required_argument, NULL, OPT_CONTROLLER},
    {"tls-key", required_argument, NULL, OPT_TLS_KEY},
    {"tls-cert", required_argument, NULL, OPT_TLS_CERT},
    {"tls-ca", required_argument, NULL, OPT_TLS_CA},
    {"user", required_argument, NULL, OPT_USER},
    {"sandbox", required_argument, NULL, OPT_SANDBOX},
    {"verbose", no_argument, NULL, 'v'},
    {"version", no_argument, NULL, 'V'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static const char usage_text[] =
    "Usage: creedence-switch --bridge=NAME --vif=NAME,bridge=NAME,socket=PATH... [OPTION]...\n"
    "Guests' network cards (vhost-user-net), ports of the host, and the flow switch between them.\n"
    "\n"
    "What there is (each may be repeated):\n"
    "  --bridge=NAME[,fail-mode=standalone|secure][,mac-ageing=SECONDS][,datapath-id=HEX]\n"
    "           [,probe=SECONDS]    (of controllers that say nothing: 15)\n"
    "  --vif=NAME,bridge=NAME,socket=PATH|connect=PATH[,KEY=VALUE]...\n"
    "                          a network card: mac, mtu, queues, number, packed, in-order, offloads (on|off), link\n"
    "                          (up|down), rate-in, rate-out (bits a second), packets-in, packets-out (a second),\n"
    "                          allowed-mac, allowed-ip (several: A+B), vlan-mode, tag, trunks (10+20+100-199)\n"
    "  --port=NAME,bridge=NAME,type=tap|af_packet|af_xdp[,KEY=VALUE]...\n"
    "                          a port of the host: device, number, queues, mtu, gro (on|off), vlan-mode, tag, trunks\n"
    "  --flow=BRIDGE,FLOW      a flow, as ovs-ofctl has it\n"
    "  --flow-file=BRIDGE,PATH flows, a line each\n"
    "Or one card on bridge br0, as programs for vhost-user do (one of):\n"
    "  --socket-path=PATH      listen on this Unix socket\n"
    "  --fd=N                  use the socket inherited as descriptor N, listening or connected\n"
    "\n"
    "OpenFlow 1.3:\n"
    "  --openflow-dir=DIR      sockets DIR/BRIDGE.mgmt and DIR/BRIDGE.snoop, for ovs-ofctl and its like\n"
    "  --controller=BRIDGE=TARGET\n"
    "                          tcp:ADDRESS[:PORT], ssl:.., unix:PATH, or ptcp:[PORT][:ADDRESS], pssl:.., punix:PATH\n"
    "  --tls-key=FILE, --tls-cert=FILE, --tls-ca=FILE\n"
    "                          for ssl: and pssl:\n"
    "\n"
    "How it works:\n"
    "  --flows=mega|exact      exact: one bounded table with an entry per connection, for comparison\n"
    "  --exact-max=N           its entries\n"
    "  --megaflows-max=N       megaflows of a thread (default 200000)\n"
    "  --masks-max=N           masks of a port's megaflows (default 64)\n"
    "  --emc=N                 entries of a thread's exact-match cache, a power of two from 2 on; 0: none\n"
    "  --vif-threads=N         hash cards onto N threads (default 0: a thread per queue pair)\n"
    "  --gro=on|off            merge received TCP segments on ports (default on)\n"
    "  --tx=map|copy           copy: frames leave the guest's memory first, for comparison\n"
    "  --poll-us=N|always      longest adaptive polling, 0: none (default 50)\n"
    "\n"
    "The process:\n"
    "  --control=PATH          take requests on this link socket (SOCK_SEQPACKET)\n"
    "  --link-fd=N             take orders from creedenced on this listening socket\n"
    "  --user=NAME             become this user\n"
    "  --sandbox=on|try|off    on: refuse to run without (default try)\n"
    "  --print-capabilities    print what vhost-user tools ask for, and exit\n"
    "  --verbose, --version, --help\n"
    "\n"
    "Examples:\n"
    "  creedence-switch --bridge=br0 --port=tap0,type=tap,bridge=br0 \\\n"
    "      --vif=vm1,bridge=br0,socket=/run/vm1-net.sock --vif=vm2,bridge=br0,socket=/run/vm2-net.sock\n"
    "  qemu-system-x86_64 ... -chardev socket,id=n0,path=/run/vm1-net.sock,reconnect=1 \\\n"
    "      -netdev vhost-user,id=net0,chardev=n0 -device virtio-net-pci,netdev=net0\n";

/* ---- KEY=VALUE lists ---- */

enum value_kind { TEXT, NUMBER, SWITCH, TEXTS, TRUNKS, RATE_BITS, RATE_PACKETS };

struct key {
    const char *name;  /* in options */
    const char *field; /* in requests */
    enum value_kind kind;
};

static const struct key bridge_keys[] = {{"fail-mode", "fail_mode", TEXT},
                                         {"mac-ageing", "mac_ageing_s", NUMBER},
                                         {"datapath-id", "datapath_id", TEXT},
                                         {"probe", "probe_s", NUMBER},
                                         {0}};
static const struct key port_keys[] = {{"bridge", "bridge", TEXT},
                                       {"type", "type", TEXT},
                                       {"device", "device", TEXT},
                                       {"number", "number", NUMBER},
                                       {"queues", "queues", NUMBER},
                                       {"mtu", "mtu", NUMBER},
                                       {"gro", "gro", SWITCH},
                                       {"vlan-mode", "vlan_mode", TEXT},
                                       {"tag", "tag", NUMBER},
                                       {"trunks", "trunks", TRUNKS},
                                       {0}};
static const struct key vif_keys[] = {{"bridge", "bridge", TEXT},
                                      {"socket", "socket", TEXT},
                                      {"connect", "connect", TEXT},
                                      {"mac", "mac", TEXT},
                                      {"mtu", "mtu", NUMBER},
                                      {"queues", "queues", NUMBER},
                                      {"number", "number", NUMBER},
                                      {"packed", "packed", SWITCH},
                                      {"in-order", "in_order", SWITCH},
                                      {"offloads", "offloads", SWITCH},
                                      {"link", "link", TEXT},
                                      {"rate-in", "rate_in", RATE_BITS},
                                      {"rate-out", "rate_out", RATE_BITS},
                                      {"packets-in", "rate_in", RATE_PACKETS},
                                      {"packets-out", "rate_out", RATE_PACKETS},
                                      {"allowed-mac", "allowed_macs", TEXTS},
                                      {"allowed-ip", "allowed_ips", TEXTS},
                                      {"vlan-mode", "vlan_mode", TEXT},
                                      {"tag", "tag", NUMBER},
                                      {"trunks", "trunks", TRUNKS},
                                      {0}};

static bool number_of(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || *end || *text < '0' || *text > '9' || v > INT64_MAX) return false;
    *out = v;
    return true;
}

static json_t *list_of(char *text, bool numbers)
{
    json_t *list = json_array();
    char *save, *piece = strtok_r(text, "+", &save);
    for (uint64_t n; piece; piece = strtok_r(NULL, "+", &save))
        json_array_append_new(list, numbers && number_of(piece, &n) ? json_integer((json_int_t)n) : json_string(piece));
    return list;
}

static void set_rate(json_t *params, const char *field, const char *part, uint64_t n)
{
    json_t *rate = json_object_get(params, field);
    if (!rate) json_object_set_new(params, field, rate = json_object());
    json_object_set_new(rate, part, json_integer((json_int_t)n));
}

static int set_field(json_t *params, const char *option, const struct key *k, char *value, struct errmsg *e)
{
    uint64_t n = 0;
    bool number = k->kind == NUMBER || k->kind == RATE_BITS || k->kind == RATE_PACKETS;
    if (number && !number_of(value, &n))
        return errmsg_set(e, EINVAL, "--%s: %s=%s: expected a number", option, k->name, value);
    bool on = strcmp(value, "on") == 0;
    if (k->kind == SWITCH && !on && strcmp(value, "off") != 0)
        return errmsg_set(e, EINVAL, "--%s: %s=%s: expected on or off", option, k->name, value);
    switch (k->kind) {
    case TEXT: json_object_set_new(params, k->field, json_string(value)); break;
    case NUMBER: json_object_set_new(params, k->field, json_integer((json_int_t)n)); break;
    case SWITCH: json_object_set_new(params, k->field, json_boolean(on)); break;
    case TEXTS:
    case TRUNKS: json_object_set_new(params, k->field, list_of(value, k->kind == TRUNKS)); break;
    case RATE_BITS: set_rate(params, k->field, "bits_per_s", n); break;
    case RATE_PACKETS: set_rate(params, k->field, "packets_per_s", n); break;
    }
    return 0;
}

/* The next piece up to a single comma; a doubled one stands for itself. */
static char *next_piece(char **rest)
{
    char *from = *rest, *to = from, *piece = from;
    if (!from) return NULL;
    while (*from && (*from != ',' || from[1] == ',')) {
        if (*from == ',') from++;
        *to++ = *from++;
    }
    *rest = *from ? from + 1 : NULL;
    *to = 0;
    return piece;
}

static int read_keys(json_t *params, const char *option, const char *text, const struct key *keys, struct errmsg *e)
{
    char *copy = strdup(text), *rest = copy;
    if (!copy) return errmsg_set(e, ENOMEM, "out of memory");
    json_object_set_new(params, "name", json_string(next_piece(&rest)));
    int ret = 0;
    for (char *piece; ret == 0 && (piece = next_piece(&rest));) {
        char *value = strchr(piece, '=');
        if (value) *value++ = 0;
        const struct key *k = keys;
        while (k->name && strcmp(k->name, piece) != 0)
            k++;
        if (!k->name || !value)
            ret = errmsg_set(e, EINVAL, "--%s: %s: %s; try --help", option, piece,
                             k->name ? "it needs a value" : "there is no such key");
        else ret = set_field(params, option, k, value, e);
    }
    free(copy);
    return ret;
}

/* ---- requests ---- */

static void add_request(struct switch_options *o, const char *method, json_t *params, const char *option,
                        const char *text)
{
    char what[256];
    snprintf(what, sizeof what, "--%s=%s", option, text);
    json_array_append_new(o->requests,
                          json_pack("{s:s, s:o, s:s}", "method", method, "params", params, "option", what));
}

static int keyed_option(struct switch_options *o, const char *method, const char *option, const char *text,
                        const struct key *keys, struct errmsg *e)
{
    json_t *params = json_object();
    int ret = read_keys(params, option, text, keys, e);
    add_request(o, method, params, option, text);
    return ret;
}

/* BRIDGE,TEXT */
static int bridge_and(const char *option, const char *text, char **bridge, const char **rest, struct errmsg *e)
{
    const char *comma = strchr(text, ',');
    if (!comma || comma == text || !comma[1])
        return errmsg_set(e, EINVAL, "--%s=%s: expected a bridge, a comma and more", option, text);
    *bridge = strndup(text, (size_t)(comma - text));
    *rest = comma + 1;
    return *bridge ? 0 : errmsg_set(e, ENOMEM, "out of memory");
}

static int flow_option(struct switch_options *o, const char *option, const char *text, bool file, struct errmsg *e)
{
    char *bridge;
    const char *rest = NULL;
    int ret = bridge_and(option, text, &bridge, &rest, e);
    if (ret < 0) return ret;
    if (file) json_array_append_new(o->flow_files, json_pack("{s:s, s:s}", "bridge", bridge, "path", rest));
    else add_request(o, "flow.add", json_pack("{s:s, s:[s]}", "bridge", bridge, "flows", rest), option, text);
    free(bridge);
    return 0;
}

/* BRIDGE=TARGET */
static int controller_option(struct switch_options *o, const char *text, struct errmsg *e)
{
    const char *equals = strchr(text, '=');
    if (!equals || equals == text)
        return errmsg_set(e, EINVAL, "--controller=%s: expected BRIDGE=TARGET, as br0=tcp:192.0.2.1:6653", text);
    json_array_append_new(o->controllers,
                          json_pack("{s:s%, s:s}", "bridge", text, (size_t)(equals - text), "target", equals + 1));
    return 0;
}

static int rank(const json_t *request)
{
    static const char *const order[] = {"bridge.add", "port.add", "vif.attach", "flow.add"};
    const char *method = json_string_value(json_object_get(request, "method"));
    for (int i = 0; i < (int)ARRAY_LEN(order); i++)
        if (strcmp(order[i], method) == 0) return i;
    return -1;
}

/* Whatever the order of the options: bridges, ports and cards, then flows, which may name them. */
static void order_requests(struct switch_options *o)
{
    json_t *ordered = json_array(), *v;
    size_t i;
    for (int r = 0; r < 4; r++)
        json_array_foreach(o->requests, i, v)
        {
            if (rank(v) == r) json_array_append(ordered, v);
        }
    json_decref(o->requests);
    o->requests = ordered;
}

static void conventional(struct switch_options *o)
{
    bool bridge = false;
    size_t i;
    json_t *v;
    json_array_foreach(o->requests, i, v)
    {
        const char *name = json_string_value(json_object_get(json_object_get(v, "params"), "name"));
        bridge = bridge || (rank(v) == 0 && name && strcmp(name, CONVENTIONAL_BRIDGE) == 0);
    }
    if (!bridge)
        add_request(o, "bridge.add", json_pack("{s:s}", "name", CONVENTIONAL_BRIDGE), "bridge", CONVENTIONAL_BRIDGE);
    json_t *vif = json_pack("{s:s, s:s}", "name", CONVENTIONAL_VIF, "bridge", CONVENTIONAL_BRIDGE);
    if (o->socket_path) json_object_set_new(vif, "socket", json_string(o->socket_path));
    add_request(o, "vif.attach", vif, o->socket_path ? "socket-path" : "fd", o->socket_path ? o->socket_path : "N");
}

/* ---- the rest ---- */

static int configure_number(struct switch_options *o, const char *field, const char *name, const char *text,
                            struct errmsg *e)
{
    uint64_t n;
    if (strcmp(field, "poll_us") == 0 && strcmp(text, "always") == 0) {
        json_object_set_new(o->configure, field, json_string(text));
        return 0;
    }
    if (!number_of(text, &n)) return errmsg_set(e, EINVAL, "--%s=%s: expected a number", name, text);
    json_object_set_new(o->configure, field, json_integer((json_int_t)n));
    return 0;
}

static int descriptor(const char *name, const char *text, int *out, struct errmsg *e)
{
    uint64_t n;
    if (!number_of(text, &n) || n > 1u << 20)
        return errmsg_set(e, EINVAL, "--%s=%s: expected the number of a descriptor", name, text);
    *out = (int)n;
    return 0;
}

static int on_off(const char *name, const char *text, bool *out, struct errmsg *e)
{
    *out = strcmp(text, "on") == 0;
    if (*out || strcmp(text, "off") == 0) return 0;
    return errmsg_set(e, EINVAL, "--%s=%s: expected on or off", name, text);
}

static int sandbox_option(struct switch_options *o, const char *text, struct errmsg *e)
{
    o->sandbox.required = strcmp(text, "on") == 0;
    o->sandbox_off = strcmp(text, "off") == 0;
    if (o->sandbox.required || o->sandbox_off || strcmp(text, "try") == 0) return 0;
    return errmsg_set(e, EINVAL, "--sandbox=%s: expected try, on or off", text);
}

static void print_capabilities(void)
{
    puts("{\n  \"type\": \"net\",\n  \"features\": []\n}");
}

static int take(struct switch_options *o, int opt, const char *name, const char *text, struct errmsg *e)
{
    bool on;
    int ret;
    switch (opt) {
    case OPT_BRIDGE: return keyed_option(o, "bridge.add", name, text, bridge_keys, e);
    case OPT_PORT: return keyed_option(o, "port.add", name, text, port_keys, e);
    case OPT_VIF: return keyed_option(o, "vif.attach", name, text, vif_keys, e);
    case OPT_FLOW: return flow_option(o, name, text, false, e);
    case OPT_FLOW_FILE: return flow_option(o, name, text, true, e);
    case OPT_SOCKET_PATH: o->socket_path = text; return 0;
    case OPT_CONTROL: o->control = text; return 0;
    case OPT_FD: return descriptor(name, text, &o->fd, e);
    case OPT_LINK_FD: return descriptor(name, text, &o->link_fd, e);
    case OPT_FLOWS: json_object_set_new(o->configure, "flows", json_string(text)); return 0;
    case OPT_TX: json_object_set_new(o->configure, "tx", json_string(text)); return 0;
    case OPT_EXACT_MAX: return configure_number(o, "exact_max", name, text, e);
    case OPT_EMC: return configure_number(o, "emc", name, text, e);
    case OPT_MEGAFLOWS_MAX: return configure_number(o, "megaflows_max", name, text, e);
    case OPT_MASKS_MAX: return configure_number(o, "masks_max", name, text, e);
    case OPT_VIF_THREADS: return configure_number(o, "vif_threads", name, text, e);
    case OPT_POLL_US: return configure_number(o, "poll_us", name, text, e);
    case OPT_GRO:
        ret = on_off(name, text, &on, e);
        json_object_set_new(o->configure, "gro", json_boolean(on));
        return ret;
    case OPT_OPENFLOW_DIR: o->openflow_dir = text; return 0;
    case OPT_CONTROLLER: return controller_option(o, text, e);
    case OPT_TLS_KEY: o->tls_key = text; return 0;
    case OPT_TLS_CERT: o->tls_certificate = text; return 0;
    case OPT_TLS_CA: o->tls_ca = text; return 0;
    case OPT_USER: o->sandbox.user = text; return 0;
    case OPT_SANDBOX: return sandbox_option(o, text, e);
    case 'v': o->verbose = true; return 0;
    case 'V': version_print("creedence-switch", false); return 1;
    case 'h': fputs(usage_text, stdout); return 1;
    case OPT_PRINT_CAPABILITIES: print_capabilities(); return 1;
    default: return errmsg_set(e, EINVAL, "try --help");
    }
}

int switch_options_parse(struct switch_options *o, int argc, char **argv, struct errmsg *e)
{
    int opt, index = 0, ret = 0;
    *o = (struct switch_options){.configure = json_object(),
                                 .requests = json_array(),
                                 .flow_files = json_array(),
                                 .controllers = json_array(),
                                 .fd = -1,
                                 .link_fd = -1};
    while (ret == 0 && (opt = getopt_long(argc, argv, "vVh", options, &index)) != -1)
        ret = take(o, opt, opt >= 256 ? options[index].name : "", optarg, e);
    if (ret != 0 || o->link_fd >= 0) return ret;
    if (optind < argc) return errmsg_set(e, EINVAL, "%s: unexpected argument; try --help", argv[optind]);
    if (o->socket_path && o->fd >= 0) return errmsg_set(e, EINVAL, "expected one of --socket-path and --fd");
    if (!o->tls_key != !o->tls_certificate || !o->tls_key != !o->tls_ca)
        return errmsg_set(e, EINVAL, "expected --tls-key, --tls-cert and --tls-ca, or none of them");
    if (o->socket_path || o->fd >= 0) conventional(o);
    if (!json_array_size(o->requests) && !o->control)
        return errmsg_set(e, EINVAL, "nothing to do: expected a bridge (--bridge=NAME), or --socket-path; try --help");
    order_requests(o);
    return 0;
}

void switch_options_free(struct switch_options *o)
{
    json_decref(o->configure);
    json_decref(o->requests);
    json_decref(o->flow_files);
    json_decref(o->controllers);
}
