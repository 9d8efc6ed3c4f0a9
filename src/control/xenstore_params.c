/* SPDX-License-Identifier: Apache-2.0 */
#include "control/xenstore_params.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/list.h"
#include "control/network_config.h"
#include "control/xenstore.h"
#include "disk/disk.h"

/* ---- Disks ---- */

enum option_type { TEXT, NUMBER, SWITCH };

static const struct option {
    const char *word, *key;
    enum option_type type;
    bool of_leaf, of_xen;
} options[] = {
    {"name", "name", TEXT},
    {"serial", "serial", TEXT},
    {"write-cache", "write_cache", TEXT},
    {"datapath", "datapath", TEXT},
    {"sector-size", "sector_bytes", NUMBER},
    {"queues", "queues", NUMBER},
    {"poll-us", "poll_us", NUMBER},
    {"cache", "cache", SWITCH},
    {"direct", "direct", SWITCH, .of_leaf = true},
    {"mode", "mode", TEXT, .of_xen = true},
    {"discard", "discard", SWITCH, .of_xen = true},
    {"world", "world", TEXT, .of_xen = true},
};

static json_t *option_value(const struct option *o, const char *text)
{
    char *end;
    switch (o->type) {
    case TEXT: return json_string(text);
    case NUMBER: {
        unsigned long value = strtoul(text, &end, 10);
        return *text >= '0' && *text <= '9' && !*end && value <= INT32_MAX ? json_integer((json_int_t)value) : NULL;
    }
    case SWITCH:
        if (strcmp(text, "on") == 0) return json_true();
        return strcmp(text, "off") == 0 ? json_false() : NULL;
    }
    return NULL;
}

struct disk_params {
    json_t *disk, *xen, *layers, *leaf;
};

static int take_option(struct disk_params *p, const char *word, const char *text, struct errmsg *e)
{
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        const struct option *o = &options[i];
        if (strcmp(o->word, word) != 0) continue;
        json_t *into = o->of_leaf ? p->leaf : o->of_xen ? p->xen : p->disk, *value = option_value(o, text);
        if (!value && o->type == TEXT) return errmsg_set(e, EINVAL, "%s= is not UTF-8", word);
        if (!value) return errmsg_set(e, EINVAL, "%s=%s: %s", word, text, o->type == SWITCH ? "on or off" : "a number");
        json_object_set_new(into, o->key, value);
        return 0;
    }
    return errmsg_set(e, EINVAL, "there is no option \"%s\"", word);
}

static int take_layer(struct disk_params *p, const char *format, const char *path, struct errmsg *e)
{
    for (int i = 0; i < DISK_FORMAT_COUNT; i++) {
        if (strcmp(disk_format_name((enum disk_format)i), format) != 0) continue;
        /* What JSON cannot say must not be left out: the layer below it would be written to. */
        json_t *layer = json_pack("{s:s, s:s}", "format", format, "path", path);
        if (layer && json_array_append_new(p->layers, layer) == 0) return 0;
        return errmsg_set(e, EINVAL, "an image's path is not UTF-8");
    }
    return errmsg_set(e, EINVAL, "\"%s\" is no format of an image", format);
}

static int take_item(struct disk_params *p, char *item, struct errmsg *e)
{
    size_t word = strcspn(item, ":=");
    char mark = item[word];
    if (!mark)
        return errmsg_set(e, EINVAL,
                          "\"%s\" is neither FORMAT:PATH nor OPTION=VALUE (an image's format is always named)", item);
    item[word] = 0;
    return mark == ':' ? take_layer(p, item, item + word + 1, e) : take_option(p, item, item + word + 1, e);
}

/* The next item, up to a comma, into out (as long as the text may be). Where to go on. */
static const char *next_item(const char *text, char *out)
{
    for (; *text && *text != ','; text++) {
        if (*text == '\\' && (text[1] == ',' || text[1] == '\\')) text++;
        *out++ = *text;
    }
    *out = 0;
    return *text ? text + 1 : text;
}

int xenstore_params_disk(json_t **out, json_t *xen, const char *params, struct errmsg *e)
{
    char item[XENSTORE_VALUE_MAX];
    if (strlen(params) >= sizeof item) return errmsg_set(e, E2BIG, "params are too long");
    struct disk_params p = {.disk = json_object(), .xen = xen, .layers = json_array(), .leaf = json_object()};
    int ret = *params ? 0 : errmsg_set(e, EINVAL, "there is no target=FORMAT:PATH");
    while (ret == 0 && *params) {
        params = next_item(params, item);
        ret = take_item(&p, item, e);
    }
    if (ret == 0 && json_array_size(p.layers) == 0) ret = errmsg_set(e, EINVAL, "target= has no FORMAT:PATH");
    if (ret == 0) {
        json_object_update(json_array_get(p.layers, 0), p.leaf);
        json_object_set(p.disk, "layers", p.layers);
        *out = json_incref(p.disk);
    }
    json_decref(p.leaf);
    json_decref(p.layers);
    json_decref(p.disk);
    return ret;
}

/* ---- Cards ---- */

static bool vlan_parse(const char *text, size_t len, json_int_t *out)
{
    char *end, digits[8];
    if (len == 0 || len >= sizeof digits || strspn(text, "0123456789") < len) return false;
    memcpy(digits, text, len);
    digits[len] = 0;
    *out = strtol(digits, &end, 10);
    return *out <= 4095;
}

/* A bridge's name may have dots: what stands behind the last one is a VLAN if it is a number. */
int xenstore_params_bridge(json_t *card, const char *text, struct errmsg *e)
{
    char name[NETWORK_NAME_MAX + 1];
    size_t len = strcspn(text, ":");
    const char *trunks = text + len;
    json_int_t vlan;
    for (size_t i = len; i-- > 1;) {
        if (text[i] != '.') continue;
        if (!vlan_parse(text + i + 1, len - i - 1, &vlan)) break;
        json_object_set_new(card, "vlan_mode", json_string("access"));
        json_object_set_new(card, "tag", json_integer(vlan));
        len = i;
        break;
    }
    if (len >= sizeof name) return errmsg_set(e, EINVAL, "bridge=%s: the name is too long", text);
    memcpy(name, text, len);
    name[len] = 0;
    if (json_object_set_new(card, "bridge", json_string(name)) < 0)
        return errmsg_set(e, EINVAL, "bridge= is not UTF-8");
    json_t *list = *trunks ? json_array() : NULL;
    while (*trunks) {
        size_t part = strcspn(++trunks, ":");
        if (!vlan_parse(trunks, part, &vlan)) {
            json_decref(list);
            return errmsg_set(e, EINVAL, "bridge=%s: BRIDGE[.VLAN][:TRUNK...]", text);
        }
        json_array_append_new(list, json_integer(vlan));
        trunks += part;
    }
    if (!list) return 0;
    if (json_object_get(card, "tag")) json_object_set_new(card, "vlan_mode", json_string("native-untagged"));
    json_object_set_new(card, "trunks", list);
    return 0;
}

/* The guest may send so many bytes in so many microseconds. */
int xenstore_params_rate(json_t *card, const char *text, struct errmsg *e)
{
    unsigned long long bytes, interval_us, bits;
    int used = 0;
    if (strspn(text, "0123456789,") != strlen(text) ||
        sscanf(text, "%18llu,%10llu%n", &bytes, &interval_us, &used) != 2 || text[used] || !interval_us)
        return errmsg_set(e, EINVAL, "rate %s: expected BYTES,MICROSECONDS", text);
    if (!bytes) return 0;
    if (__builtin_mul_overflow(bytes, 8000000ull, &bits)) return 0; /* more than anything has */
    bits /= interval_us;
    json_object_set_new(card, "rate_in", json_pack("{s:I}", "bits_per_s", (json_int_t)(bits ? bits : 1)));
    return 0;
}

int xenstore_params_addresses(json_t *card, const char *text, struct errmsg *e)
{
    json_t *list = json_array();
    while (*text) {
        char address[64];
        size_t len = strcspn(text, " ");
        if (len >= sizeof address) {
            json_decref(list);
            return errmsg_set(e, EINVAL, "ip=%s: addresses", text);
        }
        memcpy(address, text, len);
        address[len] = 0;
        if (len && json_array_append_new(list, json_string(address)) < 0) {
            json_decref(list);
            return errmsg_set(e, EINVAL, "ip= is not UTF-8"); /* without it, less would be refused */
        }
        text += len + (text[len] == ' ');
    }
    if (json_array_size(list)) json_object_set(card, "allowed_ips", list);
    json_decref(list);
    return 0;
}
