/* SPDX-License-Identifier: Apache-2.0 */
#include "control/network_config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "control/disk_config.h"
#include "control/target.h"

#define VLAN_MAX 4094u
#define TRUNK_MAX 4095

static const char *const kind_names[] = {"bridge", "port", "vif", NULL};
static const char *const fail_modes[] = {"standalone", "secure", NULL};
static const char *const port_types[] = {"tap", "af_packet", "af_xdp", NULL};
static const char *const vlan_modes[] = {"trunk", "access", "native-tagged", "native-untagged", NULL};
static const char *const link_states[] = {"up", "down", NULL};
static const char *const flow_kinds[] = {"mega", "exact", NULL};
static const char *const xen_transmit_kinds[] = {"auto", "copy", "map", NULL};
static const char *const transmit_kinds[] = {"map", "copy", NULL};

const char *network_kind_name(enum network_kind kind)
{
    return kind_names[kind];
}

/* What stands where a port may stand in a flow must not be a name. */
bool network_name_valid(const char *name)
{
    static const char *const words[] = {"local", "in_port", "table", "normal", "flood",
                                        "all",   "any",     "none",  "drop",   "controller"};
    if (strlen(name) > NETWORK_NAME_MAX || !disk_name_valid(name)) return false;
    if (strspn(name, "0123456789") == strlen(name)) return false;
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strcasecmp(words[i], name) == 0) return false;
    return true;
}

const char *network_name_field(struct fields *f, const char *key)
{
    const char *name = fields_string(f, key, FIELD_REQUIRED, NETWORK_NAME_MAX);
    if (!network_name_valid(name)) fields_refuse(f, key, NETWORK_NAME_RULE);
    return name;
}

bool network_text_valid(const char *text)
{
    for (const char *p = text; *p; p++)
        if (*p < ' ' || *p > '~') return false;
    return true;
}

const char *network_text_field(struct fields *f, const char *key, const char *fallback, size_t max_bytes)
{
    const char *text = fields_string(f, key, fallback, max_bytes);
    if (!network_text_valid(text)) fields_refuse(f, key, "printable ASCII characters");
    return text;
}

/* ---- Addresses ---- */

static bool mac_valid(const char *text)
{
    unsigned b[6];
    int used = 0;
    if (strspn(text, "0123456789abcdefABCDEF:") != strlen(text) || strlen(text) != 17) return false;
    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &used) != 6) return false;
    bool nothing = !(b[0] | b[1] | b[2] | b[3] | b[4] | b[5]);
    return used == 17 && !(b[0] & 1) && !nothing;
}

static bool number_valid(const char *text, unsigned long max)
{
    char *end;
    return *text >= '0' && *text <= '9' && strlen(text) <= 3 && strtoul(text, &end, 10) <= max && !*end;
}

/* An IPv4 or IPv6 address, or a network of such. */
bool network_range_valid(const char *text)
{
    char address[INET6_ADDRSTRLEN];
    unsigned char raw[16];
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    if (len >= sizeof address) return false;
    memcpy(address, text, len);
    address[len] = 0;
    if (inet_pton(AF_INET, address, raw) == 1) return !slash || number_valid(slash + 1, 32);
    return inet_pton(AF_INET6, address, raw) == 1 && (!slash || number_valid(slash + 1, 128));
}

static void check_list(struct fields *f, const char *key, size_t max, bool (*valid)(const char *), const char *expected)
{
    json_t *list = fields_array(f, key, 0, max), *value;
    size_t i;
    json_array_foreach(list, i, value)
    {
        const char *text = json_string_value(value);
        if (text && strlen(text) == json_string_length(value) && valid(text)) continue;
        char got[80];
        fields_describe(value, got, sizeof got);
        fields_refuse(f, key, "a list of %s, entry %zu is %s", expected, i, got);
    }
}

/* ---- What kinds have in common ---- */

static bool trunk_valid(json_t *value)
{
    unsigned first, last;
    int used = 0;
    if (json_is_integer(value)) return json_integer_value(value) >= 0 && json_integer_value(value) <= TRUNK_MAX;
    const char *text = json_string_value(value);
    return text && strspn(text, "0123456789-") == strlen(text) && *text != '-' &&
           sscanf(text, "%4u-%4u%n", &first, &last, &used) == 2 && used && !text[used] && first <= last &&
           last <= TRUNK_MAX;
}

static void check_vlans(struct fields *f)
{
    int mode = fields_choice(f, "vlan_mode", 0, vlan_modes);
    bool has_tag = fields_any(f, "tag") != NULL;
    if (has_tag) fields_uint(f, "tag", 1, 1, VLAN_MAX);
    else if (mode) fields_refuse(f, "tag", "a VLAN, 1 to %u: vlan_mode \"%s\" needs one", VLAN_MAX, vlan_modes[mode]);
    json_t *list = fields_array(f, "trunks", 0, TRUNK_MAX + 1), *value;
    size_t i;
    json_array_foreach(list, i, value)
    {
        if (!trunk_valid(value))
            fields_refuse(f, "trunks", "a list of VLANs (0 to 4095) and ranges such as \"100-199\"");
    }
}

static void check_mtu(struct fields *f)
{
    fields_uint(f, "mtu", NETWORK_MTU_MIN, NETWORK_MTU_MIN, NETWORK_MTU_MAX);
}

static void check_rate(struct fields *f, const char *key)
{
    json_t *o = fields_object(f, key);
    if (!o) return;
    struct fields r = fields_begin(o, key, f->error);
    fields_uint(&r, "bits_per_s", 0, 0, INT64_MAX);
    fields_uint(&r, "packets_per_s", 0, 0, INT64_MAX);
    fields_end(&r);
}

bool network_datapath_id_valid(const char *text)
{
    if (strncmp(text, "0x", 2) == 0) text += 2;
    size_t len = strlen(text);
    return len >= 1 && len <= 16 && strspn(text, "0123456789abcdefABCDEF") == len && strspn(text, "0") < len;
}

static void check_controller(struct fields *f, json_t *list, size_t at)
{
    char where[64];
    struct target t;
    struct errmsg e = {""};
    json_t *entry = json_array_get(list, at);
    snprintf(where, sizeof where, "%scontrollers[%zu]", *f->where ? "params." : "", at);
    struct fields c = fields_begin(entry, where, f->error);
    const char *target = network_text_field(&c, "target", FIELD_REQUIRED, TARGET_MAX);
    const char *name = network_text_field(&c, "name", "-", NETWORK_NAME_MAX);
    if (strpbrk(name, " :")) fields_refuse(&c, "name", "a name without blanks and colons");
    if (!f->error->failed && target_parse(&t, target, &e) < 0)
        fields_refuse(&c, "target", "%s", strchr(e.text, ' ') + 1);
    for (size_t i = 0; i < at && !f->error->failed; i++)
        if (target_is_same(json_string_value(json_object_get(json_array_get(list, i), "target")), target))
            fields_refuse(&c, "target", "each controller once");
    fields_end(&c);
}

static void check_bridge(struct fields *f)
{
    fields_choice(f, "fail_mode", 0, fail_modes);
    fields_uint(f, "mac_ageing_s", 300, 1, NETWORK_MAC_AGEING_MAX);
    fields_uint(f, "probe_s", 15, 1, NETWORK_PROBE_MAX);
    if (fields_any(f, "datapath_id") && !network_datapath_id_valid(fields_string(f, "datapath_id", FIELD_REQUIRED, 18)))
        fields_refuse(f, "datapath_id", "1 to 16 hexadecimal digits that are not all 0");
    json_t *list = fields_array(f, "controllers", 0, NETWORK_CONTROLLERS_MAX);
    for (size_t i = 0; i < json_array_size(list); i++)
        check_controller(f, list, i);
}

/* A network interface's name, as the kernel has it. */
static void check_device(struct fields *f, const char *fallback)
{
    const char *device = network_text_field(f, "device", fallback, 15);
    if (strlen(device) > 15)
        fields_refuse(f, "device", "the interface's name, at most 15 bytes (the port's own is longer)");
    if (strpbrk(device, "/ ") || strcmp(device, ".") == 0 || strcmp(device, "..") == 0)
        fields_refuse(f, "device", "the name of a network interface");
}

static void check_port(struct fields *f, const char *name)
{
    fields_choice(f, "type", -1, port_types);
    check_device(f, name);
    fields_uint(f, "number", 0, 0, NETWORK_PORT_NUMBER_MAX);
    fields_uint(f, "queues", 1, 1, NETWORK_QUEUES_MAX);
    fields_bool(f, "gro", true);
    check_mtu(f);
    check_vlans(f);
}

/* As the switch takes it; and the daemon's own part (as disk_config.h has it for disks). */
static void check_xen(struct fields *f, json_t *xen)
{
    struct fields x = fields_begin(xen, "xen", f->error);
    fields_uint_required(&x, "domid", 0, DISK_XEN_DOMID_MAX);
    fields_uint(&x, "handle", 0, 0, INT32_MAX);
    fields_choice(&x, "tx", 0, xen_transmit_kinds);
    fields_string(&x, "world", "", DISK_XEN_TEXT_MAX);
    fields_string(&x, "backend", "", DISK_XEN_TEXT_MAX);
    fields_string(&x, "identity", "", DISK_XEN_TEXT_MAX);
    fields_object(&x, "offered");
    fields_object(&x, "connection");
    fields_end(&x);
}

static void check_vif(struct fields *f)
{
    if (fields_any(f, "mac")) {
        const char *mac = fields_string(f, "mac", FIELD_REQUIRED, 17);
        if (!mac_valid(mac)) fields_refuse(f, "mac", "an address such as 02:00:00:00:00:01, not of a group");
    }
    fields_uint(f, "number", 0, 0, NETWORK_PORT_NUMBER_MAX);
    fields_uint(f, "queues", 1, 1, NETWORK_QUEUES_MAX);
    fields_bool(f, "packed", false);
    fields_bool(f, "in_order", true);
    fields_bool(f, "offloads", true);
    fields_choice(f, "link", 0, link_states);
    const char *path = fields_string(f, "socket", "/", PATH_MAX - 1);
    if (*path != '/') fields_refuse(f, "socket", "an absolute path");
    json_t *xen = fields_object(f, "xen");
    if (xen) check_xen(f, xen);
    if (xen && fields_any(f, "socket")) fields_refuse(f, "xen", "nothing: it has a socket");
    check_mtu(f);
    check_vlans(f);
    check_rate(f, "rate_in");
    check_rate(f, "rate_out");
    check_list(f, "allowed_macs", NETWORK_ALLOWED_MACS_MAX, mac_valid, "MAC addresses");
    check_list(f, "allowed_ips", NETWORK_ALLOWED_IPS_MAX, network_range_valid, "IP addresses or networks");
}

/* ---- The whole ---- */

/* Without what is null, which counts as absent. */
static json_t *copy_given(json_t *object)
{
    json_t *copy = json_object(), *value;
    const char *key;
    json_object_foreach(object, key, value)
    {
        if (!json_is_null(value)) json_object_set_new(copy, key, json_deep_copy(value));
    }
    return copy;
}

int network_config_parse(json_t **out, enum network_kind kind, json_t *object, const char *where,
                         struct field_error *why)
{
    struct fields f = fields_begin(object, where, why);
    const char *name = network_name_field(&f, "name");
    if (kind != NETWORK_BRIDGE) network_name_field(&f, "bridge");
    if (kind == NETWORK_BRIDGE) check_bridge(&f);
    else if (kind == NETWORK_PORT) check_port(&f, name);
    else check_vif(&f);
    if (fields_end(&f) < 0) return -EINVAL;
    *out = copy_given(object);
    return *out ? 0 : -ENOMEM;
}

static const char *const bridge_changes[] = {"name", "fail_mode", "mac_ageing_s", "datapath_id", "probe_s", NULL};
static const char *const port_changes[] = {"name", "bridge", "vlan_mode", "tag", "trunks", "mtu", "gro", NULL};
static const char *const vif_changes[] = {"name", "link",   "mtu",          "rate_in",     "rate_out", "vlan_mode",
                                          "tag",  "trunks", "allowed_macs", "allowed_ips", NULL};

static bool is_one_of(const char *key, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(*list, key) == 0) return true;
    return false;
}

int network_config_change(json_t **out, enum network_kind kind, json_t *config, json_t *changes, const char *where,
                          struct field_error *why)
{
    const char *const *allowed = kind == NETWORK_BRIDGE ? bridge_changes
                                 : kind == NETWORK_PORT ? port_changes
                                                        : vif_changes;
    struct fields f = fields_begin(changes, where, why);
    json_t *whole = json_deep_copy(config), *value;
    const char *key;
    json_object_foreach(changes, key, value)
    {
        if (json_is_null(value)) continue;
        if (kind == NETWORK_VIF && strcmp(key, "announce") == 0) { /* an order: nothing that is kept */
            fields_bool(&f, key, false);
            continue;
        }
        if (!is_one_of(key, allowed))
            fields_refuse(&f, key, "nothing: it cannot be changed (remove it and add it anew)");
        json_object_set(whole, key, value);
    }
    int ret = fields_end_lenient(&f);
    if (ret == 0) ret = network_config_parse(out, kind, whole, where, why);
    json_decref(whole);
    return ret;
}

bool network_emc_valid(uint64_t entries)
{
    return entries == 0 || (entries >= 2 && entries <= NETWORK_EMC_MAX && is_power_of_2(entries));
}

int network_options_parse(json_t **out, json_t *object, const char *where, struct field_error *why)
{
    struct fields f = fields_begin(object, where, why);
    fields_choice(&f, "flows", 0, flow_kinds);
    fields_choice(&f, "tx", 0, transmit_kinds);
    fields_uint(&f, "exact_max", 1, 1, NETWORK_FLOWS_MAX);
    fields_uint(&f, "vif_threads", 0, 0, NETWORK_VIF_THREADS_MAX);
    json_t *poll = fields_any(&f, "poll_us");
    if (!json_is_string(poll) || strcmp(json_string_value(poll), "always") != 0)
        fields_uint(&f, "poll_us", 0, 0, 1000000);
    fields_uint(&f, "megaflows_max", 1, 1, NETWORK_FLOWS_MAX);
    fields_uint(&f, "masks_max", 1, 1, NETWORK_MASKS_MAX);
    if (!network_emc_valid(fields_uint(&f, "emc", 0, 0, UINT64_MAX))) fields_refuse(&f, "emc", NETWORK_EMC_RULE);
    fields_bool(&f, "gro", true);
    if (fields_end(&f) < 0) return -EINVAL;
    *out = copy_given(object);
    return *out ? 0 : -ENOMEM;
}

int network_tls_parse(json_t **out, json_t *object, const char *where, struct field_error *why)
{
    static const char *const keys[] = {"key", "certificate", "ca"};
    struct fields f = fields_begin(object, where, why);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const char *path = fields_string(&f, keys[i], FIELD_REQUIRED, PATH_MAX - 1);
        if (*path != '/') fields_refuse(&f, keys[i], "an absolute path");
    }
    if (fields_end(&f) < 0) return -EINVAL;
    *out = copy_given(object);
    return *out ? 0 : -ENOMEM;
}
