/* SPDX-License-Identifier: Apache-2.0 */
/* Formats by name: the only place that knows all of them. */
#include "disk/disk.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static const struct {
    const char *name;
    int (*open)(struct layer **out, const struct layer_args *args, struct errmsg *e);
} formats[] = {
    [DISK_FORMAT_RAW] = {"raw", layer_raw_open},
    [DISK_FORMAT_QCOW2] = {"qcow2", layer_qcow2_open},
};
static_assert(ARRAY_LEN(formats) == DISK_FORMAT_COUNT, "every format has a name and a way to open it");

const char *disk_format_name(enum disk_format f)
{
    return (unsigned)f < DISK_FORMAT_COUNT ? formats[f].name : NULL;
}

int disk_format_parse(const char *name, enum disk_format *out)
{
    for (enum disk_format f = 0; f < DISK_FORMAT_COUNT; f++) {
        if (strcmp(name, formats[f].name) != 0) continue;
        *out = f;
        return 0;
    }
    return -1;
}

int layer_open(struct layer **out, enum disk_format f, const struct layer_args *args, struct errmsg *e)
{
    if (!disk_format_name(f)) return errmsg_set(e, EINVAL, "%s: unknown image format %d", args->file->name, (int)f);
    return formats[f].open(out, args, e);
}
