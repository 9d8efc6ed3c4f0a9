/* SPDX-License-Identifier: Apache-2.0 */
#include "control/images.h"

#include <errno.h>

#include "base/log.h"
#include "disk/file.h"

/* Direct I/O that was not asked for by name is used where it works. */
static bool falls_back(int ret, const struct disk_layer_config *l)
{
    return (ret == -EINVAL || ret == -EOPNOTSUPP) && l->direct == DISK_DIRECT_AUTO;
}

static int open_layer(const struct disk_config *c, unsigned index, int *out, struct errmsg *e)
{
    const struct disk_layer_config *l = &c->layers[index];
    unsigned flags = index == 0 && !c->read_only ? DISK_FILE_WRITE : 0;
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

int images_open(const struct disk_config *c, int fds[DISK_CHAIN_MAX], bool check, struct errmsg *e)
{
    for (unsigned i = c->layer_count; i-- > 0;) {
        int ret = fds[i] < 0 ? open_layer(c, i, &fds[i], e) : 0;
        if (ret < 0) return ret;
    }
    return 0;
}
