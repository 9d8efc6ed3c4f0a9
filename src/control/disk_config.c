/* SPDX-License-Identifier: Apache-2.0 */
#include "control/disk_config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const write_cache_names[] = {"writeback", "writethrough", NULL};
static const char *const xen_mode_names[] = {"auto", "copy", "map", "persistent", NULL};
static const char *const datapath_names[] = {"direct", "staged", NULL};

bool disk_name_valid(const char *name)
{
    static const char alphanumeric[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    size_t len = strlen(name);
    if (len == 0 || len > DISK_NAME_MAX || !strchr(alphanumeric, name[0])) return false;
    for (size_t i = 0; i < len; i++)
        if (!strchr(alphanumeric, name[i]) && !strchr("._-", name[i])) return false;
    return true;
}

static const char *absolute_path(struct fields *f, const char *key, bool required)
{
    const char *path = fields_string(f, key, required ? FIELD_REQUIRED : "", PATH_MAX - 1);
    if (*path && *path != '/') fields_refuse(f, key, "an absolute path");
    return path;
}

static int format_choice(struct fields *f, const char *key)
{
    const char *names[DISK_FORMAT_COUNT + 1] = {NULL};
    for (int i = 0; i < DISK_FORMAT_COUNT; i++)
        names[i] = disk_format_name((enum disk_format)i);
    return fields_choice(f, key, -1, names);
}

static int parse_layers(struct disk_config *c, json_t *list, const char *where, struct field_error *why)
{
    c->layers = calloc(json_array_size(list) + 1, sizeof c->layers[0]);
    if (!c->layers) return -ENOMEM;
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
    {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "%s%slayers[%zu]", where, *where ? "." : "", i);
        struct fields f = fields_begin(entry, prefix, why);
        struct disk_layer_config *l = &c->layers[c->layer_count++];
        l->format = (enum disk_format)format_choice(&f, "format");
        if (fields_any(&f, "direct")) l->direct = fields_bool(&f, "direct", false) ? DISK_DIRECT_ON : DISK_DIRECT_OFF;
        const char *path = absolute_path(&f, "path", true);
        for (unsigned j = 0; j + 1 < c->layer_count; j++)
            if (strcmp(c->layers[j].path, path) == 0) fields_refuse(&f, "path", "a path that is not also layer %u", j);
        l->path = strdup(path);
        if (!l->path) return -ENOMEM;
        if (fields_end(&f) < 0) return -EINVAL;
    }
    return 0;
}

static void parse_device(struct disk_config *c, struct fields *f)
{
    c->queues = (unsigned)fields_uint(f, "queues", 1, 1, DISK_QUEUES_MAX);
    c->queue_size = (unsigned)fields_uint(f, "queue_size", DISK_QUEUE_SIZE_DEFAULT, 2, DISK_QUEUE_SIZE_MAX);
    if (!is_power_of_2(c->queue_size))
        fields_refuse(f, "queue_size", "a power of two from 2 to %u", DISK_QUEUE_SIZE_MAX);
    c->sector_bytes = (unsigned)fields_uint(f, "sector_bytes", 512, 512, 4096);
    if (c->sector_bytes != 512 && c->sector_bytes != 4096) fields_refuse(f, "sector_bytes", "512 or 4096");
    c->seg_max = (unsigned)fields_uint(f, "seg_max", DISK_SEG_MAX_DEFAULT, 1, DISK_SEG_MAX_LIMIT);
    c->size_max_bytes = (uint32_t)fields_uint(f, "size_max", 0, 0, UINT32_MAX);
    if (c->size_max_bytes && c->size_max_bytes < 4096) fields_refuse(f, "size_max", "0 (no limit) or 4096 and more");
    c->poll_us = (unsigned)fields_uint(f, "poll_us", DISK_POLL_US_DEFAULT, 0, DISK_POLL_US_MAX);
    c->read_only = fields_bool(f, "read_only", false);
    c->packed = fields_bool(f, "packed", false);
    c->write_cache = (enum disk_write_cache)fields_choice(f, "write_cache", DISK_WRITEBACK, write_cache_names);
    c->datapath = (enum disk_datapath)fields_choice(f, "datapath", DISK_DATAPATH_DIRECT, datapath_names);
    snprintf(c->serial, sizeof c->serial, "%s", fields_string(f, "serial", c->name, DISK_SERIAL_MAX));
}

static int parse_daemon_part(struct disk_config *c, struct fields *f)
{
    c->cache = fields_bool(f, "cache", true);
    c->size_check = fields_bool(f, "size_check", false);
    const char *socket_path = absolute_path(f, "socket", false);
    const char *connect_path = absolute_path(f, "connect", false);
    if (*socket_path && *connect_path) fields_refuse(f, "connect", "either \"socket\" or \"connect\", not both");
    if (*socket_path) c->socket_path = strdup(socket_path);
    if (*connect_path) c->connect_path = strdup(connect_path);
    return (*socket_path && !c->socket_path) || (*connect_path && !c->connect_path) ? -ENOMEM : 0;
}

/* Keys of xenstore with their values: a few short strings. */
static json_t *keys_field(struct fields *f, const char *key)
{
    json_t *keys = fields_object(f, key), *value;
    const char *name;
    if (json_object_size(keys) > DISK_XEN_KEYS_MAX) fields_refuse(f, key, "at most %d keys", DISK_XEN_KEYS_MAX);
    json_object_foreach(keys, name, value)
    {
        if (!json_is_string(value) || json_string_length(value) > DISK_XEN_TEXT_MAX || strchr(name, '/'))
            fields_refuse(f, key, "keys with texts of at most %d bytes", DISK_XEN_TEXT_MAX);
    }
    return keys;
}

static int copy_text(char **out, const char *text)
{
    if (!*text) return 0;
    *out = strdup(text);
    return *out ? 0 : -ENOMEM;
}

static int parse_xen(struct disk_config *c, json_t *object, const char *where, struct field_error *why)
{
    char prefix[64];
    struct disk_xen_config *x = &c->xen;
    snprintf(prefix, sizeof prefix, "%s%sxen", where, *where ? "." : "");
    struct fields f = fields_begin(object, prefix, why);
    x->used = true;
    x->domid = (unsigned)fields_uint_required(&f, "domid", 0, DISK_XEN_DOMID_MAX);
    x->mode = (enum disk_xen_mode)fields_choice(&f, "mode", DISK_XEN_AUTO, xen_mode_names);
    x->cdrom = fields_bool(&f, "cdrom", false);
    x->discard = fields_bool(&f, "discard", true);
    int ret = copy_text(&x->world, fields_string(&f, "world", "", DISK_XEN_TEXT_MAX));
    if (ret == 0) ret = copy_text(&x->backend, fields_string(&f, "backend", "", DISK_XEN_TEXT_MAX));
    if (ret == 0) ret = copy_text(&x->identity, fields_string(&f, "identity", "", DISK_XEN_TEXT_MAX));
    x->offered = json_incref(keys_field(&f, "offered"));
    x->connection = json_incref(fields_object(&f, "connection"));
    if (fields_end(&f) < 0) return -EINVAL;
    return ret;
}

int disk_config_parse(struct disk_config *out, json_t *object, const char *where, struct field_error *why)
{
    struct disk_config c = {0};
    struct fields f = fields_begin(object, where, why);
    const char *name = fields_string(&f, "name", FIELD_REQUIRED, DISK_NAME_MAX);
    if (!disk_name_valid(name)) fields_refuse(&f, "name", DISK_NAME_RULE);
    snprintf(c.name, sizeof c.name, "%s", name);
    parse_device(&c, &f);
    int ret = parse_daemon_part(&c, &f);
    json_t *layers = fields_array(&f, "layers", 1, DISK_CHAIN_MAX), *xen = fields_object(&f, "xen");
    if (xen && (c.socket_path || c.connect_path)) fields_refuse(&f, "xen", "nothing: it has a socket");
    if (ret == 0 && fields_end(&f) < 0) ret = -EINVAL;
    if (ret == 0) ret = parse_layers(&c, layers, where, why);
    if (ret == 0 && xen) ret = parse_xen(&c, xen, where, why);
    if (ret < 0) {
        disk_config_free(&c);
        return ret;
    }
    *out = c;
    return 0;
}

static json_t *layers_json(const struct disk_config *c)
{
    json_t *list = json_array();
    for (unsigned i = 0; list && i < c->layer_count; i++) {
        const struct disk_layer_config *l = &c->layers[i];
        json_t *o = json_pack("{s:s, s:s}", "format", disk_format_name(l->format), "path", l->path);
        if (o && l->direct != DISK_DIRECT_AUTO)
            json_object_set_new(o, "direct", json_boolean(l->direct == DISK_DIRECT_ON));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *xen_json(const struct disk_xen_config *x, bool for_worker)
{
    json_t *o = json_pack("{s:i, s:s, s:b, s:b}", "domid", (int)x->domid, "mode", xen_mode_names[x->mode], "cdrom",
                          x->cdrom, "discard", x->discard);
    if (!o) return NULL;
    if (x->world) json_object_set_new(o, "world", json_string(x->world));
    if (x->offered) json_object_set(o, "offered", x->offered);
    if (for_worker) return o;
    if (x->backend) json_object_set_new(o, "backend", json_string(x->backend));
    if (x->identity) json_object_set_new(o, "identity", json_string(x->identity));
    if (x->connection) json_object_set(o, "connection", x->connection);
    return o;
}

json_t *disk_config_json(const struct disk_config *c, bool for_worker)
{
    json_t *o =
        json_pack("{s:s, s:i, s:i, s:i, s:b, s:s, s:s, s:i, s:I, s:b, s:i, s:s, s:o}", "name", c->name, "queues",
                  (int)c->queues, "queue_size", (int)c->queue_size, "sector_bytes", (int)c->sector_bytes, "read_only",
                  c->read_only, "write_cache", write_cache_names[c->write_cache], "serial", c->serial, "seg_max",
                  (int)c->seg_max, "size_max", (json_int_t)c->size_max_bytes, "packed", c->packed, "poll_us",
                  (int)c->poll_us, "datapath", datapath_names[c->datapath], "layers", layers_json(c));
    if (o && c->xen.used) json_object_set_new(o, "xen", xen_json(&c->xen, for_worker));
    if (!o || for_worker) return o;
    json_object_set_new(o, "cache", json_boolean(c->cache));
    json_object_set_new(o, "size_check", json_boolean(c->size_check));
    if (c->socket_path) json_object_set_new(o, "socket", json_string(c->socket_path));
    if (c->connect_path) json_object_set_new(o, "connect", json_string(c->connect_path));
    return o;
}

void disk_config_free(struct disk_config *c)
{
    for (unsigned i = 0; i < c->layer_count; i++)
        free(c->layers[i].path);
    free(c->layers);
    free(c->xen.world);
    free(c->xen.backend);
    free(c->xen.identity);
    json_decref(c->xen.offered);
    json_decref(c->xen.connection);
    free(c->socket_path);
    free(c->connect_path);
    memset(c, 0, sizeof *c);
}
