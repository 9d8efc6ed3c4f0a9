/* SPDX-License-Identifier: Apache-2.0 */
/* A worker's configuration: from the command line's layer syntax or the daemon's JSON. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/vbd_worker.h"

#define QUEUE_SIZE_DEFAULT 1024u

void worker_config_init(struct worker_config *c)
{
    *c = (struct worker_config){
        .device = {.queues = 1,
                   .sector_bytes = 512,
                   .packed = true,
                   .seg_max = VBD_SEG_MAX_DEFAULT,
                   .poll_ns = VBD_POLL_NS_DEFAULT},
        .queue_size_max = QUEUE_SIZE_DEFAULT,
    };
}

void worker_config_free(struct worker_config *c)
{
    for (unsigned i = 0; i < c->layer_count; i++) {
        free(c->layer[i].path);
        if (c->layer[i].fd >= 0) close(c->layer[i].fd);
    }
    worker_xen_config_free(&c->xen);
    free(c->name);
    *c = (struct worker_config){0};
}

static int add_layer(struct worker_config *c, char *path, enum disk_format format, bool direct, struct errmsg *e)
{
    if (c->layer_count == DISK_CHAIN_MAX) {
        free(path);
        return errmsg_set(e, EINVAL, "more than %u layers in a chain", DISK_CHAIN_MAX);
    }
    c->layer[c->layer_count++] = (struct worker_layer){.path = path, .format = format, .direct = direct, .fd = -1};
    return 0;
}

/* The piece of an option list up to the next single comma, unescaped; *at moves behind it. */
static char *next_piece(const char **at)
{
    const char *p = *at;
    char *piece = malloc(strlen(p) + 1);
    if (!piece) return NULL;
    size_t n = 0;
    while (*p && (*p != ',' || p[1] == ',')) {
        if (*p == ',') p++;
        piece[n++] = *p++;
    }
    piece[n] = 0;
    *at = *p ? p + 1 : p;
    return piece;
}

static int parse_on_off(const char *key, const char *value, bool *out, struct errmsg *e)
{
    *out = strcmp(value, "on") == 0;
    if (*out || strcmp(value, "off") == 0) return 0;
    return errmsg_set(e, EINVAL, "%s=%s: expected on or off", key, value);
}

int worker_config_add_layer(struct worker_config *c, const char *text, struct errmsg *e)
{
    const char *at = text;
    char *path = next_piece(&at);
    bool direct = false, format_given = false;
    enum disk_format format = DISK_FORMAT_RAW;
    int ret = path ? 0 : -ENOMEM;
    while (ret == 0 && *at) {
        char *piece = next_piece(&at);
        if (!piece) ret = -ENOMEM;
        else if (strncmp(piece, "format=", 7) == 0) {
            format_given = true;
            if (disk_format_parse(piece + 7, &format) < 0)
                ret = errmsg_set(e, EINVAL, "%s: unknown format '%s', expected raw or qcow2", path, piece + 7);
        } else if (strncmp(piece, "direct=", 7) == 0) {
            ret = parse_on_off("direct", piece + 7, &direct, e);
        } else {
            ret = errmsg_set(e, EINVAL, "%s: unknown option '%s', expected format=raw|qcow2 or direct=on|off", path,
                             piece);
        }
        free(piece);
    }
    if (ret == 0 && !format_given)
        ret =
            errmsg_set(e, EINVAL, "%s: no format given: add ,format=raw or ,format=qcow2 (it is never guessed)", path);
    if (ret < 0) {
        free(path);
        return ret;
    }
    return add_layer(c, path, format, direct, e);
}

static const char *const json_type_name[] = {
    [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "an array", [JSON_STRING] = "a string", [JSON_INTEGER] = "an integer",
    [JSON_REAL] = "a real number", [JSON_TRUE] = "true",      [JSON_FALSE] = "false",     [JSON_NULL] = "null"};

static int wrong_type(const char *key, const json_t *v, const char *expected, struct errmsg *e)
{
    return errmsg_set(e, EINVAL, "%s: is %s, expected %s", key, json_type_name[json_typeof(v)], expected);
}

/* Absent fields leave *out alone. */
static int get_uint(const json_t *o, const char *key, uint64_t min, uint64_t max, uint64_t *out, struct errmsg *e)
{
    const json_t *v = json_object_get(o, key);
    if (!v) return 0;
    if (!json_is_integer(v)) return wrong_type(key, v, "an integer", e);
    json_int_t n = json_integer_value(v);
    if (n < 0 || (uint64_t)n < min || (uint64_t)n > max)
        return errmsg_set(e, EINVAL, "%s: is %lld, expected %llu to %llu", key, (long long)n, (unsigned long long)min,
                          (unsigned long long)max);
    *out = (uint64_t)n;
    return 0;
}

static int get_bool(const json_t *o, const char *key, bool *out, struct errmsg *e)
{
    const json_t *v = json_object_get(o, key);
    if (!v) return 0;
    if (!json_is_boolean(v)) return wrong_type(key, v, "true or false", e);
    *out = json_is_true(v);
    return 0;
}

static int get_string(const json_t *o, const char *key, const char **out, struct errmsg *e)
{
    const json_t *v = json_object_get(o, key);
    if (!v) return 0;
    if (!json_is_string(v)) return wrong_type(key, v, "a string", e);
    *out = json_string_value(v);
    return 0;
}

static int layer_from_json(struct worker_config *c, const json_t *v, struct errmsg *e)
{
    const char *format_name = NULL, *path = NULL;
    bool direct = false;
    enum disk_format format;
    if (!json_is_object(v)) return wrong_type("layers", v, "objects", e);
    int ret = get_string(v, "format", &format_name, e);
    if (ret == 0) ret = get_string(v, "path", &path, e);
    if (ret == 0) ret = get_bool(v, "direct", &direct, e);
    if (ret < 0) return ret;
    if (!format_name || !path) return errmsg_set(e, EINVAL, "layers: a layer without format or path");
    if (disk_format_parse(format_name, &format) < 0)
        return errmsg_set(e, EINVAL, "%s: unknown format '%s', expected raw or qcow2", path, format_name);
    char *copy = strdup(path);
    if (!copy) return errmsg_set(e, ENOMEM, "out of memory");
    return add_layer(c, copy, format, direct, e);
}

static int layers_from_json(struct worker_config *c, const json_t *params, struct errmsg *e)
{
    const json_t *layers = json_object_get(params, "layers");
    if (!json_is_array(layers)) return errmsg_set(e, EINVAL, "layers: missing, or not an array");
    for (size_t i = 0; i < json_array_size(layers); i++) {
        int ret = layer_from_json(c, json_array_get(layers, i), e);
        if (ret < 0) return ret;
    }
    return 0;
}

static int choice(const char *key, const char *value, const char *zero, const char *one, unsigned *out,
                  struct errmsg *e)
{
    if (!value) return 0;
    *out = strcmp(value, one) == 0;
    if (*out || strcmp(value, zero) == 0) return 0;
    return errmsg_set(e, EINVAL, "%s: is '%s', expected %s or %s", key, value, zero, one);
}

int worker_config_from_json(struct worker_config *c, const json_t *params, struct errmsg *e)
{
    uint64_t queues = c->device.queues, queue_size = c->queue_size_max, sector = c->device.sector_bytes;
    uint64_t seg_max = c->device.seg_max, size_max = 0, poll_us = c->device.poll_ns / 1000;
    const char *name = NULL, *write_cache = NULL, *serial = NULL, *datapath = NULL;
    unsigned through = 0, staged = 0;
    if (get_string(params, "name", &name, e) < 0 || get_uint(params, "queues", 1, VBD_QUEUES_MAX, &queues, e) < 0 ||
        get_uint(params, "queue_size", 2, VIRTQ_SIZE_MAX, &queue_size, e) < 0 ||
        get_uint(params, "sector_bytes", 512, 4096, &sector, e) < 0 ||
        get_uint(params, "seg_max", 1, VBD_SEG_MAX_LIMIT, &seg_max, e) < 0 ||
        get_uint(params, "size_max", 0, UINT32_MAX, &size_max, e) < 0 ||
        get_uint(params, "poll_us", 0, 1000000, &poll_us, e) < 0 ||
        get_bool(params, "read_only", &c->device.read_only, e) < 0 ||
        get_bool(params, "packed", &c->device.packed, e) < 0 ||
        get_string(params, "write_cache", &write_cache, e) < 0 || get_string(params, "serial", &serial, e) < 0 ||
        get_string(params, "datapath", &datapath, e) < 0 ||
        choice("write_cache", write_cache, "writeback", "writethrough", &through, e) < 0 ||
        choice("datapath", datapath, "direct", "staged", &staged, e) < 0)
        return -EINVAL;
    if (serial && strlen(serial) > VBD_SERIAL_BYTES - 1)
        return errmsg_set(e, EINVAL, "serial: '%s' has more than %d bytes", serial, VBD_SERIAL_BYTES - 1);
    if (serial) snprintf(c->device.serial, sizeof c->device.serial, "%s", serial);
    if (name && !(c->name = strdup(name))) return errmsg_set(e, ENOMEM, "out of memory");
    c->device.queues = (unsigned)queues;
    c->queue_size_max = (uint16_t)queue_size;
    c->device.sector_bytes = (uint32_t)sector;
    c->device.seg_max = (uint32_t)seg_max;
    c->device.size_max_bytes = (uint32_t)size_max;
    c->device.poll_ns = poll_us * 1000;
    c->device.write_through = through;
    c->datapath = staged ? DATAPATH_STAGED : DATAPATH_DIRECT;
    const json_t *xen = json_object_get(params, "xen");
    int ret = xen ? worker_xen_config_from_json(&c->xen, xen, e) : 0;
    if (ret == 0) ret = layers_from_json(c, params, e);
    return ret < 0 ? ret : worker_config_finish(c, e);
}

int worker_config_finish(struct worker_config *c, struct errmsg *e)
{
    if (c->layer_count == 0) return errmsg_set(e, EINVAL, "no disk given");
    if (!c->name) c->name = strdup(c->layer[0].path);
    if (!c->name) return errmsg_set(e, ENOMEM, "out of memory");
    c->device.name = c->name;
    if (c->xen.cdrom) c->device.read_only = true;
    if (!c->device.serial[0]) {
        const char *base = strrchr(c->name, '/');
        size_t n = strlen(base ? base + 1 : c->name);
        if (n >= sizeof c->device.serial) n = sizeof c->device.serial - 1;
        memcpy(c->device.serial, base ? base + 1 : c->name, n);
    }
    return 0;
}

json_t *worker_config_to_json(const struct worker_config *c)
{
    json_t *layers = json_array();
    for (unsigned i = 0; i < c->layer_count; i++)
        json_array_append_new(layers, json_pack("{s:s, s:s, s:b}", "format", disk_format_name(c->layer[i].format),
                                                "path", c->layer[i].path, "direct", c->layer[i].direct));
    const struct vbd_config *d = &c->device;
    json_t *o = json_pack("{s:s, s:i, s:i, s:i, s:b, s:s, s:s, s:i, s:I, s:b, s:I, s:s, s:o}", "name", c->name,
                          "queues", d->queues, "queue_size", c->queue_size_max, "sector_bytes", d->sector_bytes,
                          "read_only", d->read_only, "write_cache", d->write_through ? "writethrough" : "writeback",
                          "serial", d->serial, "seg_max", d->seg_max, "size_max", (json_int_t)d->size_max_bytes,
                          "packed", d->packed, "poll_us", (json_int_t)(d->poll_ns / 1000), "datapath",
                          c->datapath == DATAPATH_STAGED ? "staged" : "direct", "layers", layers);
    if (o && c->xen.there) json_object_set_new(o, "xen", worker_xen_config_to_json(&c->xen));
    return o;
}
