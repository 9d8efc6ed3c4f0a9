/* SPDX-License-Identifier: Apache-2.0 */
#include "control/images.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "disk/file.h"
#include "disk/image.h"

/* ---- Opening ---- */

/* Direct I/O that was not asked for by name is used where it works. */
static bool falls_back(int ret, const struct disk_layer_config *l)
{
    return (ret == -EINVAL || ret == -EOPNOTSUPP) && l->direct == DISK_DIRECT_AUTO;
}

static int open_layer(const struct disk_config *c, unsigned index, int *out, struct errmsg *e)
{
    const struct disk_layer_config *l = &c->layers[index];
    unsigned flags = (index == 0 && !c->read_only ? DISK_FILE_WRITE : 0) | DISK_FILE_NO_WAIT;
    bool direct = l->direct == DISK_DIRECT_ON || (index == 0 && l->direct == DISK_DIRECT_AUTO);
    struct engine_file f = {.fd = -1};
    int ret = disk_file_open(&f, l->path, flags | (direct ? DISK_FILE_DIRECT : 0), e);
    if (ret == 0 && f.direct && f.io_align > c->sector_bytes && index == 0) {
        ret = errmsg_set(e, EINVAL,
                         "%s: direct I/O works in units of %u bytes there, the disk's sectors have %u: attach it with "
                         "--sector-size %u or with --direct off",
                         l->path, f.io_align, c->sector_bytes, f.io_align);
        disk_file_close(&f);
    }
    if (ret < 0 && direct && falls_back(ret, l)) ret = disk_file_open(&f, l->path, flags, e);
    if (ret == 0) *out = f.fd;
    return ret;
}

/* ---- Comparing ---- */

static int check_backing(const struct disk_config *c, unsigned index, const struct image_info *info, struct errmsg *e)
{
    const struct disk_layer_config *l = &c->layers[index], *below = index + 1 < c->layer_count ? l + 1 : NULL;
    if (!below && info->backing_name[0])
        return errmsg_set(e, EINVAL,
                          "%s says that it is based on %s, but nothing is configured below it: add --backing %s "
                          "--backing-format %s if that is right",
                          l->path, info->backing_name, info->backing_name,
                          info->backing_format[0] ? info->backing_format : "FORMAT");
    return image_compare_backing(l->path, info, below ? below->path : NULL, below ? below->format : DISK_FORMAT_RAW,
                                 false, e);
}

static int describe_layer(const struct disk_layer_config *l, int fd, struct image_info *out, struct errmsg *e)
{
    struct engine_file f;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return errmsg_sys(e, errno, "%s", l->path);
    int ret = disk_file_adopt(&f, copy, l->path, e);
    if (ret < 0) return ret;
    ret = image_info_file(&f, l->format, out, e);
    disk_file_close(&f);
    return ret;
}

static int check_chain(const struct disk_config *c, const int fds[DISK_CHAIN_MAX], struct errmsg *e)
{
    uint64_t above_bytes = UINT64_MAX;
    for (unsigned i = 0; i < c->layer_count; i++) {
        struct image_info info;
        int ret = describe_layer(&c->layers[i], fds[i], &info, e);
        if (ret == 0) ret = check_backing(c, i, &info, e);
        if (ret < 0) return ret;
        if (i && info.size_bytes > above_bytes) {
            const char *above = c->layers[i - 1].path;
            if (c->size_check)
                return errmsg_set(
                    e, EINVAL, "%s has %llu bytes, more than the %llu of %s above it, which hides the rest",
                    c->layers[i].path, (unsigned long long)info.size_bytes, (unsigned long long)above_bytes, above);
            log_warn("disk %s: %s is larger than %s above it, which hides the rest", c->name, c->layers[i].path, above);
        }
        above_bytes = info.size_bytes;
    }
    return 0;
}

int images_open(const struct disk_config *c, int fds[DISK_CHAIN_MAX], bool check, struct errmsg *e)
{
    for (unsigned i = c->layer_count; i-- > 0;) {
        int ret = fds[i] < 0 ? open_layer(c, i, &fds[i], e) : 0;
        if (ret < 0) return ret;
    }
    return check ? check_chain(c, fds, e) : 0;
}
