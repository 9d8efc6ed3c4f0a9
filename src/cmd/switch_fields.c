/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/switch_net.h"

static const char *const vlan_modes[] = {"trunk", "access", "native-tagged", "native-untagged", NULL};
static_assert(VLAN_TRUNK == 0 && VLAN_ACCESS == 1 && VLAN_NATIVE_TAGGED == 2 && VLAN_NATIVE_UNTAGGED == 3,
              "vlan_modes has them in this order");

/* What stands where a port may stand in a flow. */
static const char *const reserved[] = {"local", "in_port", "table", "normal",     "flood", "all",
                                       "any",   "none",    "drop",  "controller", NULL};

int fields_done(struct fields *f, struct errmsg *e)
{
    if (fields_end(f) == 0) return 0;
    return errmsg_set(e, EINVAL, "%s", f->error->message);
}

bool fields_has(const struct fields *f, const char *key)
{
    const json_t *v = json_object_get(f->object, key);
    return v && !json_is_null(v);
}

static bool name_is_usable(const char *name)
{
    bool digits_only = true;
    if (!isalnum((unsigned char)*name)) return false;
    for (const char *p = name; *p; p++) {
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p)) return false;
        digits_only = digits_only && isdigit((unsigned char)*p);
    }
    for (unsigned i = 0; reserved[i]; i++)
        if (strcasecmp(reserved[i], name) == 0) return false;
    return !digits_only;
}

const char *fields_name(struct fields *f, const char *key)
{
    const char *name = fields_string(f, key, FIELD_REQUIRED, PORT_NAME_BYTES - 1);
    if (name && !f->error->failed && !name_is_usable(name))
        fields_refuse(f, key, "a name of letters, digits, '.', '_' and '-' that is no number and no word for a port");
    return name;
}

static int hex_of(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, tolower((unsigned char)c)) : NULL;
    return at ? (int)(at - digits) : -1;
}

static bool mac_parse(const char *text, uint8_t *out)
{
    if (!text || strlen(text) != 17) return false;
    for (unsigned i = 0; i < 6; i++, text += 3) {
        int high = hex_of(text[0]), low = hex_of(text[1]);
        if (high < 0 || low < 0 || (i < 5 && text[2] != ':')) return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool mac_is_station(const uint8_t *mac)
{
    static const uint8_t zero[6];
    return !(mac[0] & 1) && memcmp(mac, zero, 6) != 0;
}

void mac_format(char out[18], const uint8_t *mac)
{
    snprintf(out, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

void fields_mac(struct fields *f, const char *key, uint8_t *out)
{
    const char *text = json_string_value(fields_any(f, key));
    uint8_t mac[6];
    if (!fields_has(f, key) || (text && !*text)) return; /* to be made */
    if (mac_parse(text, mac) && mac_is_station(mac)) memcpy(out, mac, 6);
    else fields_refuse(f, key, "a unicast MAC address as 52:54:00:12:34:56");
}

void fields_macs(struct fields *f, const char *key, uint8_t (*out)[6], unsigned *count)
{
    size_t i;
    json_t *v, *list = fields_array(f, key, 0, NET_ALLOWED_MACS_MAX);
    *count = 0;
    json_array_foreach(list, i, v)
    {
        if (!mac_parse(json_string_value(v), out[i]) || !mac_is_station(out[i])) {
            fields_refuse(f, key, "an array of unicast MAC addresses as 52:54:00:12:34:56");
            return;
        }
        *count = (unsigned)i + 1;
    }
}

bool ip_range_parse(const char *text, struct ip_range *out)
{
    char addr[64];
    if (!text || strlen(text) >= sizeof addr) return false;
    strcpy(addr, text);
    char *slash = strchr(addr, '/'), *end = NULL;
    if (slash) *slash++ = 0;
    *out = (struct ip_range){0};
    out->v6 = strchr(addr, ':');
    if (inet_pton(out->v6 ? AF_INET6 : AF_INET, addr, out->addr) != 1) return false;
    unsigned bits = out->v6 ? 128 : 32;
    unsigned long prefix = slash ? strtoul(slash, &end, 10) : bits;
    if (slash && (!isdigit((unsigned char)*slash) || *end || prefix > bits)) return false;
    out->prefix = (uint8_t)prefix;
    for (unsigned i = out->prefix; i < bits; i++)
        out->addr[i / 8] &= (uint8_t) ~(0x80 >> i % 8);
    return true;
}

void ip_range_format(char out[64], const struct ip_range *ip)
{
    char addr[INET6_ADDRSTRLEN];
    inet_ntop(ip->v6 ? AF_INET6 : AF_INET, ip->addr, addr, sizeof addr);
    if (ip->prefix == (ip->v6 ? 128 : 32)) snprintf(out, 64, "%s", addr);
    else snprintf(out, 64, "%s/%u", addr, ip->prefix);
}

void fields_ips(struct fields *f, const char *key, struct ip_range *out, unsigned *count)
{
    size_t i;
    json_t *v, *list = fields_array(f, key, 0, NET_ALLOWED_IPS_MAX);
    *count = 0;
    json_array_foreach(list, i, v)
    {
        if (!ip_range_parse(json_string_value(v), &out[i])) {
            fields_refuse(f, key, "an array of IPv4 and IPv6 addresses, with or without a prefix length");
            return;
        }
        *count = (unsigned)i + 1;
    }
}

void fields_rate(struct fields *f, const char *key, struct vif_rate *out)
{
    if (!fields_has(f, key)) {
        fields_any(f, key);
        return;
    }
    struct fields in = fields_begin(fields_object(f, key), key, f->error);
    out->bits_per_s = fields_uint(&in, "bits_per_s", 0, 0, INT64_MAX);
    out->packets_per_s = fields_uint(&in, "packets_per_s", 0, 0, INT64_MAX);
    fields_end(&in);
}

/* Decimal, up to 4095, and what comes behind it. */
static bool vlan_number(const char *text, char **end, unsigned *out)
{
    if (!isdigit((unsigned char)*text)) return false;
    unsigned long n = strtoul(text, end, 10);
    *out = (unsigned)n;
    return n <= 4095;
}

/* "trunks": [10, 20, "100-199"] */
static bool trunk_add(struct switch_port_config *c, const json_t *v)
{
    unsigned first, last;
    char *end;
    if (json_is_integer(v)) {
        json_int_t n = json_integer_value(v);
        if (n < 0 || n > 4095) return false;
        first = last = (unsigned)n;
    } else if (!json_is_string(v) || !vlan_number(json_string_value(v), &end, &first) || *end != '-' ||
               !vlan_number(end + 1, &end, &last) || *end) {
        return false;
    }
    if (first > last) return false;
    for (unsigned i = first; i <= last; i++)
        c->trunks[i / 64] |= UINT64_C(1) << i % 64;
    return true;
}

void fields_vlan(struct fields *f, struct switch_port_config *out)
{
    bool tagged = fields_has(f, "tag");
    uint16_t tag = (uint16_t)fields_uint(f, "tag", out->tag, 0, 4095);
    /* A tag alone says: an access port of it. */
    int mode = fields_choice(f, "vlan_mode", tagged && out->vlan_mode == VLAN_TRUNK ? VLAN_ACCESS : (int)out->vlan_mode,
                             vlan_modes);
    bool has_trunks = fields_has(f, "trunks");
    json_t *v, *trunks = fields_array(f, "trunks", 0, 4096);
    size_t i;
    if (f->error->failed) return;
    out->tag = tag;
    out->vlan_mode = (enum vlan_mode)mode;
    if (!has_trunks) return;
    memset(out->trunks, 0, sizeof out->trunks);
    json_array_foreach(trunks, i, v)
    {
        if (trunk_add(out, v)) continue;
        fields_refuse(f, "trunks", "an array of VLAN numbers (0 to 4095) and ranges as \"100-199\"");
        return;
    }
}

const char *vlan_mode_name(enum vlan_mode mode)
{
    return vlan_modes[mode];
}

json_t *vlan_json(const struct switch_port_config *c, json_t *into)
{
    json_t *trunks = json_array();
    char range[16];
    for (unsigned i = 0, end; i < 4096; i = end + 1) {
        end = i;
        if (!(c->trunks[i / 64] >> i % 64 & 1)) continue;
        while (end < 4095 && c->trunks[(end + 1) / 64] >> (end + 1) % 64 & 1)
            end++;
        snprintf(range, sizeof range, "%u-%u", i, end);
        json_array_append_new(trunks, end == i ? json_integer(i) : json_string(range));
    }
    json_object_set_new(into, "vlan_mode", json_string(vlan_mode_name(c->vlan_mode)));
    json_object_set_new(into, "tag", json_integer(c->tag));
    json_object_set_new(into, "trunks", trunks);
    return into;
}
