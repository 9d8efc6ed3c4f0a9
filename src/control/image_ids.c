/* SPDX-License-Identifier: Apache-2.0 */
#include "control/image_ids.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

/* The kernel's name of this run of the host; "" when it does not tell. */
static void read_boot(char out[40])
{
    autoclose int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, out, 36);
    out[n < 0 ? 0 : n] = 0;
}

static int identify(int fd, uint64_t *device, uint64_t *inode, uint64_t *size_bytes)
{
    struct stat st;
    if (fstat(fd, &st) < 0) return -errno;
    bool block = S_ISBLK(st.st_mode);
    off_t end = block ? lseek(fd, 0, SEEK_END) : st.st_size;
    if (end < 0) return -errno;
    *device = block ? st.st_rdev : st.st_dev;
    *inode = block ? 0 : st.st_ino;
    *size_bytes = (uint64_t)end;
    return 0;
}

int image_ids_read(struct image_ids *out, const struct disk_config *c, const int *fds, struct errmsg *e)
{
    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < c->layer_count; i++) {
        int ret = identify(fds[i], &out->layer[i].device, &out->layer[i].inode, &out->layer[i].size_bytes);
        if (ret < 0) return errmsg_sys(e, -ret, "%s: looking at the open file", c->layers[i].path);
        if (i == 0 && !c->read_only) out->layer[i].size_bytes = 0;
    }
    read_boot(out->boot);
    out->count = c->layer_count;
    return 0;
}

bool image_ids_equal(const struct image_ids *a, const struct image_ids *b)
{
    bool same = a->count == b->count && strcmp(a->boot, b->boot) == 0;
    for (unsigned i = 0; same && i < a->count; i++)
        same = a->layer[i].device == b->layer[i].device && a->layer[i].inode == b->layer[i].inode &&
               a->layer[i].size_bytes == b->layer[i].size_bytes;
    return same;
}

bool image_ids_known(const struct image_ids *ids)
{
    char boot[40];
    read_boot(boot);
    return ids->count && strcmp(ids->boot, boot) == 0;
}

bool image_ids_same_file(const struct image_ids *ids, unsigned index, int fd)
{
    uint64_t device, inode, size_bytes;
    return index < ids->count && identify(fd, &device, &inode, &size_bytes) == 0 &&
           device == ids->layer[index].device && inode == ids->layer[index].inode;
}

#define WHAT_TO_DO                                                                                                     \
    "put the old one back, or detach the disk (by force what its guest wrote last is given up) and attach it anew"

int image_ids_check(const struct image_ids *ids, const struct disk_config *c, const int *fds, bool in_use,
                    struct errmsg *e)
{
    bool known = image_ids_known(ids);
    for (unsigned i = 0; i < c->layer_count && i < ids->count; i++) {
        uint64_t device, inode, size_bytes, was = ids->layer[i].size_bytes;
        int ret = identify(fds[i], &device, &inode, &size_bytes);
        if (ret < 0) return errmsg_sys(e, -ret, "%s: looking at the open file", c->layers[i].path);
        if (known && (inode != ids->layer[i].inode || (in_use && device != ids->layer[i].device)))
            return errmsg_set(e, ESTALE,
                              "%s is another file than the one that this disk was attached with: " WHAT_TO_DO,
                              c->layers[i].path);
        if (was && size_bytes != was)
            return errmsg_set(e, ESTALE, "%s has %llu bytes, it had %llu when this disk was attached: " WHAT_TO_DO,
                              c->layers[i].path, (unsigned long long)size_bytes, (unsigned long long)was);
    }
    return 0;
}

/* ---- Saved ---- */

json_t *image_ids_json(const struct image_ids *ids)
{
    if (!ids->count) return NULL;
    json_t *layers = json_array();
    for (unsigned i = 0; i < ids->count; i++)
        json_array_append_new(layers, json_pack("{s:I, s:I, s:I}", "device", (json_int_t)ids->layer[i].device, "inode",
                                                (json_int_t)ids->layer[i].inode, "size_bytes",
                                                (json_int_t)ids->layer[i].size_bytes));
    return json_pack("{s:s, s:o}", "boot", ids->boot, "layers", layers);
}

bool image_ids_parse(struct image_ids *out, const json_t *o)
{
    memset(out, 0, sizeof *out);
    const char *boot = json_string_value(json_object_get(o, "boot"));
    const json_t *layers = json_object_get(o, "layers");
    size_t count = json_array_size(layers);
    if (!boot || strlen(boot) >= sizeof out->boot || count < 1 || count > DISK_CHAIN_MAX) return false;
    for (unsigned i = 0; i < count; i++) {
        const json_t *l = json_array_get(layers, i), *device = json_object_get(l, "device"),
                     *inode = json_object_get(l, "inode"), *size_bytes = json_object_get(l, "size_bytes");
        if (!json_is_integer(device) || !json_is_integer(inode) || !json_is_integer(size_bytes)) return false;
        out->layer[i].device = (uint64_t)json_integer_value(device);
        out->layer[i].inode = (uint64_t)json_integer_value(inode);
        out->layer[i].size_bytes = (uint64_t)json_integer_value(size_bytes);
    }
    snprintf(out->boot, sizeof out->boot, "%s", boot);
    out->count = (unsigned)count;
    return true;
}
