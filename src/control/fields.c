/* SPDX-License-Identifier: Apache-2.0 */
#include "control/fields.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void fields_describe(json_t *value, char *out, size_t room)
{
    if (!value) {
        snprintf(out, room, "nothing");
        return;
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT: snprintf(out, room, "an object"); return;
    case JSON_ARRAY: snprintf(out, room, "an array of %zu", json_array_size(value)); return;
    case JSON_STRING:
        snprintf(out, room, "string \"%.48s%s\"", json_string_value(value),
                 json_string_length(value) > 48 ? "..." : "");
        return;
    case JSON_INTEGER: snprintf(out, room, "integer %" JSON_INTEGER_FORMAT, json_integer_value(value)); return;
    case JSON_REAL: snprintf(out, room, "number %g", json_real_value(value)); return;
    case JSON_TRUE: snprintf(out, room, "boolean true"); return;
    case JSON_FALSE: snprintf(out, room, "boolean false"); return;
    case JSON_NULL: snprintf(out, room, "null"); return;
    }
}

__attribute__((format(printf, 4, 0))) static void refuse_value(struct fields *f, const char *key, json_t *value,
                                                               const char *format, va_list args)
{
    struct field_error *e = f->error;
    if (e->failed) return;
    e->failed = true;
    snprintf(e->field, sizeof e->field, "%s%s%s", f->where, *f->where && *key ? "." : "", key);
    fields_describe(value, e->got, sizeof e->got);
    vsnprintf(e->expected, sizeof e->expected, format, args);
    snprintf(e->message, sizeof e->message, "%s: got %s, expected %s", e->field, e->got, e->expected);
}

__attribute__((format(printf, 4, 5))) static void refuse(struct fields *f, const char *key, json_t *value,
                                                         const char *format, ...)
{
    va_list args;
    va_start(args, format);
    refuse_value(f, key, value, format, args);
    va_end(args);
}

void fields_refuse(struct fields *f, const char *key, const char *expected, ...)
{
    va_list args;
    va_start(args, expected);
    refuse_value(f, key, json_object_get(f->object, key), expected, args);
    va_end(args);
}

struct fields fields_begin(json_t *object, const char *where, struct field_error *error)
{
    struct fields f = {.object = object, .where = where, .error = error};
    if (!json_is_object(object)) refuse(&f, "", object, "an object");
    return f;
}

static bool was_seen(const struct fields *f, const char *key)
{
    for (unsigned i = 0; i < f->seen_count; i++)
        if (strcmp(f->seen[i], key) == 0) return true;
    return false;
}

int fields_end_lenient(struct fields *f)
{
    return f->error->failed ? -EINVAL : 0;
}

int fields_end(struct fields *f)
{
    const char *key;
    json_t *value;
    if (!f->error->failed) {
        json_object_foreach(f->object, key, value)
        {
            if (was_seen(f, key)) continue;
            char shown[64];
            snprintf(shown, sizeof shown, "%s", key);
            refuse(f, shown, value, "no such field");
            break;
        }
    }
    return fields_end_lenient(f);
}

json_t *fields_any(struct fields *f, const char *key)
{
    if (!was_seen(f, key)) {
        assert(f->seen_count < FIELDS_MAX);
        f->seen[f->seen_count++] = key;
    }
    if (f->error->failed) return NULL;
    json_t *value = json_object_get(f->object, key);
    return json_is_null(value) ? NULL : value;
}

const char *fields_string(struct fields *f, const char *key, const char *fallback, size_t max_bytes)
{
    json_t *value = fields_any(f, key);
    if (!value && fallback) return fallback;
    const char *s = json_string_value(value);
    size_t len = json_string_length(value);
    if (s && len >= 1 && len <= max_bytes && strlen(s) == len) return s;
    refuse(f, key, value, "a string of 1 to %zu bytes", max_bytes);
    return fallback ? fallback : "";
}

bool fields_bool(struct fields *f, const char *key, bool fallback)
{
    json_t *value = fields_any(f, key);
    if (!value) return fallback;
    if (!json_is_boolean(value)) refuse(f, key, value, "true or false");
    return json_is_true(value);
}

static uint64_t uint_value(struct fields *f, const char *key, json_t *value, uint64_t min, uint64_t max)
{
    json_int_t v = json_integer_value(value);
    if (json_is_integer(value) && v >= 0 && (uint64_t)v >= min && (uint64_t)v <= max) return (uint64_t)v;
    if (max == UINT64_MAX || max == INT64_MAX)
        refuse(f, key, value, "an integer of %llu or more", (unsigned long long)min);
    else refuse(f, key, value, "an integer from %llu to %llu", (unsigned long long)min, (unsigned long long)max);
    return min;
}

uint64_t fields_uint(struct fields *f, const char *key, uint64_t fallback, uint64_t min, uint64_t max)
{
    json_t *value = fields_any(f, key);
    return value ? uint_value(f, key, value, min, max) : fallback;
}

uint64_t fields_uint_required(struct fields *f, const char *key, uint64_t min, uint64_t max)
{
    return uint_value(f, key, fields_any(f, key), min, max);
}

int fields_choice(struct fields *f, const char *key, int fallback, const char *const *names)
{
    json_t *value = fields_any(f, key);
    if (!value && fallback >= 0) return fallback;
    const char *s = json_string_value(value);
    for (int i = 0; s && names[i]; i++)
        if (strcmp(names[i], s) == 0) return i;
    char list[120] = "";
    size_t used = 0;
    for (int i = 0; names[i] && used < sizeof list; i++) {
        int n =
            snprintf(list + used, sizeof list - used, "%s\"%s\"", i ? (names[i + 1] ? ", " : " or ") : "", names[i]);
        if (n > 0) used += (size_t)n;
    }
    refuse(f, key, value, "%s", list);
    return fallback >= 0 ? fallback : 0;
}

json_t *fields_array(struct fields *f, const char *key, size_t min_entries, size_t max_entries)
{
    json_t *value = fields_any(f, key);
    if (!value && min_entries == 0) return NULL;
    size_t n = json_array_size(value);
    if (json_is_array(value) && n >= min_entries && n <= max_entries) return value;
    refuse(f, key, value, "an array of %zu to %zu entries", min_entries, max_entries);
    return NULL;
}

json_t *fields_object(struct fields *f, const char *key)
{
    json_t *value = fields_any(f, key);
    if (value && !json_is_object(value)) refuse(f, key, value, "an object");
    return json_is_object(value) ? value : NULL;
}
