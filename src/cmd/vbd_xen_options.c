/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon says about a Xen guest's disk and its rings, checked. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "cmd/vbd_xen.h"

#define DOMID_MAX 0x7fefu /* from here on numbers mean something else to the hypervisor */

static const char *const mode_name[] = {
    [XEN_MODE_AUTO] = "auto", [XEN_MODE_COPY] = "copy", [XEN_MODE_MAP] = "map", [XEN_MODE_PERSISTENT] = "persistent"};

static int number(const json_t *o, const char *key, uint64_t max, uint64_t *out, struct errmsg *e)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max)
        return errmsg_set(e, EINVAL, "%s: %s, expected an integer, 0 to %llu", key, v ? "is another" : "missing",
                          (unsigned long long)max);
    *out = (uint64_t)json_integer_value(v);
    return 0;
}

/* Absent fields leave *out alone. */
static int flag(const json_t *o, const char *key, bool *out, struct errmsg *e)
{
    const json_t *v = json_object_get(o, key);
    if (v && !json_is_boolean(v)) return errmsg_set(e, EINVAL, "%s: expected true or false", key);
    if (v) *out = json_is_true(v);
    return 0;
}

static int text(const json_t *o, const char *key, const char **out, struct errmsg *e)
{
    const json_t *v = json_object_get(o, key);
    if (v && !json_is_string(v)) return errmsg_set(e, EINVAL, "%s: expected a string", key);
    if (v) *out = json_string_value(v);
    return 0;
}

static int mode_parse(const char *name, enum worker_xen_mode *out, struct errmsg *e)
{
    for (unsigned i = 0; i < ARRAY_LEN(mode_name); i++) {
        if (strcmp(name, mode_name[i]) != 0) continue;
        *out = (enum worker_xen_mode)i;
        return 0;
    }
    return errmsg_set(e, EINVAL, "xen.mode: is '%s', expected auto, copy, map or persistent", name);
}

int worker_xen_config_from_json(struct worker_xen_config *c, const json_t *o, struct errmsg *e)
{
    uint64_t domid = 0, entries = XEN_MAP_ENTRIES_DEFAULT;
    const char *mode = "auto", *world = NULL;
    bool discard = true;
    json_t *offered = json_object_get(o, "offered");
    if (!json_is_object(o)) return errmsg_set(e, EINVAL, "xen: expected an object");
    if (number(o, "domid", DOMID_MAX, &domid, e) || flag(o, "cdrom", &c->cdrom, e) || flag(o, "discard", &discard, e) ||
        text(o, "mode", &mode, e) || text(o, "world", &world, e) || mode_parse(mode, &c->mode, e))
        return errmsg_prefix(e, -EINVAL, "xen");
    if (json_object_get(o, "map_entries") && number(o, "map_entries", UINT32_MAX / 2, &entries, e))
        return errmsg_prefix(e, -EINVAL, "xen");
    if (offered && !json_is_object(offered)) return errmsg_set(e, EINVAL, "xen.offered: expected an object");
    c->there = true;
    c->no_discard = !discard;
    c->domid = (xen_domid)domid;
    c->map_entries = (unsigned)entries;
    c->offered = json_incref(offered);
    c->world = world ? strdup(world) : NULL;
    return world && !c->world ? errmsg_set(e, ENOMEM, "out of memory") : 0;
}

json_t *worker_xen_config_to_json(const struct worker_xen_config *c)
{
    return json_pack("{s:i, s:s, s:b, s:b, s:I}", "domid", (int)c->domid, "mode", mode_name[c->mode], "cdrom", c->cdrom,
                     "discard", !c->no_discard, "map_entries", (json_int_t)c->map_entries);
}

void worker_xen_config_free(struct worker_xen_config *c)
{
    json_decref(c->offered);
    free(c->world);
    *c = (struct worker_xen_config){0};
}

static int abi_parse(const char *name, enum blkif_abi *out, struct errmsg *e)
{
    if (!*name) *out = BLKIF_ABI_NATIVE;
    else if (strcmp(name, "x86_64-abi") == 0 || strcmp(name, "arm-abi") == 0) *out = BLKIF_ABI_X86_64; /* one layout */
    else if (strcmp(name, "x86_32-abi") == 0) *out = BLKIF_ABI_X86_32;
    else return errmsg_set(e, EINVAL, "protocol: is '%s', expected x86_64-abi, x86_32-abi, arm-abi or nothing", name);
    return 0;
}

static int ring_from_json(struct worker_xen_front *f, unsigned i, const json_t *o, struct errmsg *e)
{
    const json_t *refs = json_object_get(o, "refs");
    size_t count = json_array_size(refs);
    uint64_t port = 0;
    if (number(o, "port", UINT32_MAX, &port, e)) return errmsg_prefix(e, -EINVAL, "rings");
    if (count < 1 || count > BLKIF_RING_PAGES_MAX || !is_power_of_2(count) || (i && count != f->pages))
        return errmsg_set(e, EINVAL, "rings: %zu refs, expected a power of two, 1 to %u, the same for all", count,
                          BLKIF_RING_PAGES_MAX);
    f->pages = (unsigned)count;
    f->ring[i].port = (uint32_t)port;
    for (unsigned k = 0; k < count; k++) {
        const json_t *v = json_array_get(refs, k);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX)
            return errmsg_set(e, EINVAL, "rings: a reference that is none, expected an integer");
        f->ring[i].ref[k] = (uint32_t)json_integer_value(v);
    }
    return 0;
}

int worker_xen_front_from_json(struct worker_xen_front *f, const json_t *params, struct errmsg *e)
{
    const json_t *rings = json_object_get(params, "rings");
    const char *protocol = "";
    *f = (struct worker_xen_front){0};
    if (text(params, "protocol", &protocol, e) || abi_parse(protocol, &f->abi, e) ||
        flag(params, "persistent", &f->persistent, e) || flag(params, "resume", &f->resume, e))
        return -EINVAL;
    size_t count = json_array_size(rings);
    if (count < 1 || count > VBD_QUEUES_MAX)
        return errmsg_set(e, EINVAL, "rings: %zu, expected an array of 1 to %u", count, VBD_QUEUES_MAX);
    f->rings = (unsigned)count;
    for (unsigned i = 0; i < f->rings; i++)
        if (ring_from_json(f, i, json_array_get(rings, i), e) < 0) return -EINVAL;
    return 0;
}

/* ---- the command line's way to say the same ---- */

static json_t *value_of(const char *value)
{
    char *end;
    long long n = strtoll(value, &end, 10);
    if (*value && !*end) return json_integer(n);
    if (strcmp(value, "on") == 0 || strcmp(value, "off") == 0) return json_boolean(strcmp(value, "on") == 0);
    return json_string(value);
}

/* "8+9+10" */
static json_t *refs_of(const char *value)
{
    json_t *refs = json_array();
    const char *at = value;
    char *end;
    do {
        unsigned long n = strtoul(at, &end, 10);
        if (end == at || (*end && *end != '+')) {
            json_decref(refs);
            return NULL;
        }
        json_array_append_new(refs, json_integer((json_int_t)n));
        at = end + 1;
    } while (*end);
    return refs;
}

/* "KEY=VALUE,..." as an object, or NULL. */
static json_t *object_of(const char *list, struct errmsg *e)
{
    char *copy = strdup(list), *rest = copy, *piece;
    json_t *o = json_object();
    int ret = copy && o ? 0 : errmsg_set(e, ENOMEM, "out of memory");
    while (ret == 0 && (piece = strsep(&rest, ","))) {
        char *value = strchr(piece, '=');
        if (value) *value++ = 0;
        json_t *v = !value ? NULL : strcmp(piece, "refs") == 0 ? refs_of(value) : value_of(value);
        if (!v || json_object_set_new(o, piece, v)) ret = errmsg_set(e, EINVAL, "%s: expected KEY=VALUE", piece);
    }
    free(copy);
    if (ret == 0) return o;
    json_decref(o);
    return NULL;
}

int worker_xen_config_from_text(struct worker_xen_config *c, struct worker_xen_front *f, const char *list,
                                struct errmsg *e)
{
    json_t *o = object_of(list, e);
    const char *protocol = "";
    int ret = o ? worker_xen_config_from_json(c, o, e) : -EINVAL;
    if (ret == 0 && (text(o, "protocol", &protocol, e) || abi_parse(protocol, &f->abi, e) ||
                     flag(o, "persistent", &f->persistent, e)))
        ret = -EINVAL;
    json_decref(o);
    return ret;
}

int worker_xen_ring_from_text(struct worker_xen_front *f, const char *list, struct errmsg *e)
{
    if (f->rings == VBD_QUEUES_MAX) return errmsg_set(e, EINVAL, "more than %u rings", VBD_QUEUES_MAX);
    json_t *o = object_of(list, e);
    int ret = o ? ring_from_json(f, f->rings, o, e) : -EINVAL;
    if (ret == 0) f->rings++;
    json_decref(o);
    return ret;
}
