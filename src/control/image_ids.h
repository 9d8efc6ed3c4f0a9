/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which files a disk's images are, whatever has their names by now: looked at when they are opened, kept in the saved
 * state, and compared when they have to be opened by their paths again. A leaf above another base than the one
 * that it was written above is silent corruption.
 *
 * A device's number and, on some file systems, a file's are only good until the host starts again: then just the sizes
 * of bases, and when they were last written, are compared.
 */
#ifndef CONTROL_IMAGE_IDS_H
#define CONTROL_IMAGE_IDS_H

#include "base/errmsg.h"
#include "control/disk_config.h"

struct image_ids {
    unsigned count; /* 0: not known */
    char boot[40];  /* of the host, when they were looked at */
    struct image_id {
        uint64_t device, inode; /* of a block device: its own number, and 0 */
        uint64_t size_bytes;    /* of a base; 0 for an image that can be written */
        uint64_t mtime_ns;      /* of a base that is a file; 0: not known */
    } layer[DISK_CHAIN_MAX];
};

/* All of the configuration's images are open in fds. 0 or -errno. */
int image_ids_read(struct image_ids *out, const struct disk_config *c, const int *fds, struct errmsg *e);
bool image_ids_equal(const struct image_ids *a, const struct image_ids *b);
/* Are device and inode known, and good? */
bool image_ids_known(const struct image_ids *ids);
/* Is it the file that layer `index` was? Only if they are known. */
bool image_ids_same_file(const struct image_ids *ids, unsigned index, int fd);
/* Are these the files that they were? 0, or -ESTALE with the first that is not. in_use: a guest is to go on with them;
 * a disk that was ended in order may find its storage mounted anew since, under another device number. */
int image_ids_check(const struct image_ids *ids, const struct disk_config *c, const int *fds, bool in_use,
                    struct errmsg *e);

json_t *image_ids_json(const struct image_ids *ids); /* a new reference; NULL when there is nothing to say */
/* false, and nothing known, when it is not understood. */
bool image_ids_parse(struct image_ids *out, const json_t *o);

#endif
