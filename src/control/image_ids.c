/* SPDX-License-Identifier: Apache-2.0 */
#include "control/image_ids.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"

/* The kernel's name of this run of the host; "" when it does not tell. */
static void read_boot(char out[40])
{
    autoclose int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, out, 36);
    out[n < 0 ? 0 : n] = 0;
}

static int identify(struct image_id *out, int fd)
{
    struct stat st;
    *out = (struct image_id){0};
    if (fstat(fd, &st) < 0) return -errno;
    bool block = S_ISBLK(st.st_mode);
    off_t end = block ? lseek(fd, 0, SEEK_END) : st.st_size;
    if (end < 0) return -errno;
    *out = (struct image_id){.device = block ? st.st_rdev : st.st_dev,
                             .inode = block ? 0 : st.st_ino,
                             .size_bytes = (uint64_t)end,
                             .mtime_ns =
                                 block ? 0 : (uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec};
    return 0;
}

int image_ids_read(struct image_ids *out, const struct disk_config *c, const int *fds, struct errmsg *e)
{
    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < c->layer_count; i++) {
        int ret = identify(&out->layer[i], fds[i]);
        if (ret < 0) return errmsg_sys(e, -ret, "%s: looking at the open file", c->layers[i].path);
        if (i == 0 && !c->read_only) out->layer[i].size_bytes = out->layer[i].mtime_ns = 0;
    }
    read_boot(out->boot);
    out->count = c->layer_count;
    return 0;
}

bool image_ids_equal(const struct image_ids *a, const struct image_ids *b)
{
    bool same = a->count == b->count && strcmp(a->boot, b->boot) == 0;
    for (unsigned i = 0; same && i < a->count; i++) {
        const struct image_id *x = &a->layer[i], *y = &b->layer[i];
        same = x->device == y->device && x->inode == y->inode && x->size_bytes == y->size_bytes &&
               x->mtime_ns == y->mtime_ns;
    }
    return same;
}

bool image_ids_known(const struct image_ids *ids)
{
    char boot[40];
    read_boot(boot);
    return ids->count && boot[0] && strcmp(ids->boot, boot) == 0;
}

bool image_ids_same_file(const struct image_ids *ids, unsigned index, int fd)
{
    struct image_id now;
    return index < ids->count && identify(&now, fd) == 0 && now.device == ids->layer[index].device &&
           now.inode == ids->layer[index].inode;
}

#define WHAT_TO_DO                                                                                                     \
    "put the old one back, or detach the disk (by force what its guest wrote last is given up) and attach it anew"

int image_ids_check(const struct image_ids *ids, const struct disk_config *c, const int *fds, bool in_use,
                    struct errmsg *e)
{
    bool known = image_ids_known(ids);
    for (unsigned i = 0; i < c->layer_count && i < ids->count; i++) {
        const struct image_id *was = &ids->layer[i];
        struct image_id now;
        int ret = identify(&now, fds[i]);
        if (ret < 0) return errmsg_sys(e, -ret, "%s: looking at the open file", c->layers[i].path);
        /* NFS, btrfs and others have numbers without a device behind them, new ones with each mount. */
        bool anonymous = major(now.device) == 0 && major(was->device) == 0;
        bool moved = in_use && !anonymous && now.device != was->device;
        if (known && (now.inode != was->inode || moved))
            return errmsg_set(e, ESTALE,
                              "%s is another file than the one that this disk was attached with: " WHAT_TO_DO,
                              c->layers[i].path);
        if (was->size_bytes && now.size_bytes != was->size_bytes)
            return errmsg_set(e, ESTALE, "%s has %llu bytes, it had %llu when this disk was attached: " WHAT_TO_DO,
                              c->layers[i].path, (unsigned long long)now.size_bytes,
                              (unsigned long long)was->size_bytes);
        if (was->mtime_ns && now.mtime_ns != was->mtime_ns)
            return errmsg_set(e, ESTALE, "%s was written to since this disk was attached: " WHAT_TO_DO,
                              c->layers[i].path);
    }
    return 0;
}

/* ---- Saved ---- */

json_t *image_ids_json(const struct image_ids *ids)
{
    if (!ids->count) return NULL;
    json_t *layers = json_array();
    for (unsigned i = 0; i < ids->count; i++)
        json_array_append_new(layers, json_pack("{s:I, s:I, s:I, s:I}", "device", (json_int_t)ids->layer[i].device,
                                                "inode", (json_int_t)ids->layer[i].inode, "size_bytes",
                                                (json_int_t)ids->layer[i].size_bytes, "mtime_ns",
                                                (json_int_t)ids->layer[i].mtime_ns));
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
                     *inode = json_object_get(l, "inode"), *size_bytes = json_object_get(l, "size_bytes"),
                     *mtime_ns = json_object_get(l, "mtime_ns");
        if (!json_is_integer(device) || !json_is_integer(inode) || !json_is_integer(size_bytes) ||
            !json_is_integer(mtime_ns))
            return false;
        out->layer[i].device = (uint64_t)json_integer_value(device);
        out->layer[i].inode = (uint64_t)json_integer_value(inode);
        out->layer[i].size_bytes = (uint64_t)json_integer_value(size_bytes);
        out->layer[i].mtime_ns = (uint64_t)json_integer_value(mtime_ns);
    }
    snprintf(out->boot, sizeof out->boot, "%s", boot);
    out->count = (unsigned)count;
    return true;
}
