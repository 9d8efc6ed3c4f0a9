/* SPDX-License-Identifier: Apache-2.0 */
/* Values of a device in xenstore, from its backend's directory and from its front end's: bounded and checked. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "control/text.h"
#include "control/xenstore_internal.h"

bool xen_is_answer(int ret)
{
    return ret == 0 || ret == -ENOENT || ret == -E2BIG || ret == -EINVAL || ret == -EACCES;
}

int xen_device_note(struct xen_device *d, int ret)
{
    if (!xen_is_answer(ret)) d->store_failed = true;
    return ret;
}

int xen_device_read(struct xen_device *d, const char *key, char out[XENSTORE_VALUE_MAX])
{
    return xen_device_note(d, xenstore_read(d->backends->store, d->dir, key, out, XENSTORE_VALUE_MAX));
}

int xen_device_front_text(struct xen_device *d, const char *key, char *out, size_t room)
{
    return xen_device_note(d, xenstore_read(d->backends->store, d->front, key, out, room));
}

int xen_device_front_number(struct xen_device *d, const char *key, unsigned max, unsigned *out)
{
    char text[16], *end;
    int ret = xen_device_front_text(d, key, text, sizeof text);
    if (ret < 0) return ret == -ENOENT ? ret : -EINVAL;
    size_t digits = strspn(text, "0123456789");
    unsigned long long value = strtoull(text, &end, 10);
    if (digits == 0 || text[digits] || value > max) return -EINVAL;
    *out = (unsigned)value;
    return 0;
}

int xen_device_front_number_or(struct xen_device *d, const char *key, unsigned max, unsigned fallback, unsigned *out)
{
    int ret = xen_device_front_number(d, key, max, out);
    if (ret == -ENOENT) *out = fallback;
    return ret == -ENOENT ? 0 : ret;
}

static uint64_t mix(uint64_t hash, const char *text)
{
    do
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3ull; /* FNV-1a, with the final 0 */
    while (*text++);
    return hash;
}

/* The guest's lasting name, and a hash of what was announced: domain numbers begin anew when the host does. */
int xen_identity(struct xenstore *store, const char *dir, char out[XEN_TEXT_MAX])
{
    static const char *const keys[] = {"frontend", "params", "mode", "device-type", "mac", "bridge", "type"};
    char value[XENSTORE_VALUE_MAX], home[64], vm[128];
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        int ret = xenstore_read(store, dir, keys[i], value, sizeof value);
        if (ret < 0 && (i == 0 || !xen_is_answer(ret))) return ret;
        hash = mix(hash, value);
    }
    unsigned domid = 0;
    const char *slash = strrchr(dir, '/');
    while (slash > dir && slash[-1] != '/')
        slash--;
    if (!slash || sscanf(slash, "%9u", &domid) != 1) return -EINVAL;
    snprintf(home, sizeof home, "/local/domain/%u/vm", domid);
    int ret = xenstore_read(store, home, NULL, vm, sizeof vm);
    if (ret < 0 && !xen_is_answer(ret)) return ret;
    for (char *c = vm; *c; c++)
        if (*c & 0x80) *c = '?'; /* it is saved as JSON */
    snprintf(out, XEN_TEXT_MAX, "%s#%016llx", vm, (unsigned long long)hash);
    return 0;
}

unsigned xen_offered_number(json_t *offered, const char *key, unsigned fallback)
{
    char *end;
    const char *text = json_string_value(json_object_get(offered, key));
    unsigned long value = text ? strtoul(text, &end, 10) : 0;
    return text && *text && !*end && value <= UINT32_MAX ? (unsigned)value : fallback;
}

static bool is_among(const char *key, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(*list, key) == 0) return true;
    return false;
}

json_t *xen_keys_filter(json_t *keys, const char *const *allowed)
{
    json_t *out = json_object(), *value;
    const char *key;
    json_object_foreach(keys, key, value)
    {
        const char *text = json_string_value(value);
        if (!text || strlen(text) != json_string_length(value) || strlen(text) >= DISK_XEN_TEXT_MAX ||
            !is_among(key, allowed))
            continue;
        char copy[DISK_XEN_TEXT_MAX];
        snprintf(copy, sizeof copy, "%s", text);
        text_clean(copy);
        json_object_set_new(out, key, json_string(copy));
    }
    return out;
}

json_t *xen_keys_read(struct xen_device *d, const char *const *allowed)
{
    char value[DISK_XEN_TEXT_MAX];
    json_t *out = json_object();
    for (; *allowed; allowed++)
        if (xen_device_note(d, xenstore_read(d->backends->store, d->dir, *allowed, value, sizeof value)) == 0)
            json_object_set_new(out, *allowed, json_string(value));
    if (json_object_size(out)) return out;
    json_decref(out);
    return NULL;
}
