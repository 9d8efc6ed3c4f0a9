/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image files as tools see them: creating, cloning, describing, checking. For the command line and
 * the daemon; a disk that a guest uses is opened as layers (disk.h).
 *
 * Formats are always named by the caller. A name inside an image (its backing file) is reported, so that callers can
 * compare it with what they were told, and never opened.
 *
 * All functions block and take the locks of disk/file.h: an image in use is refused.
 * Thread-safety: any thread; no two on the same image.
 */
#ifndef DISK_IMAGE_H
#define DISK_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "disk/disk.h"

#define IMAGE_NAME_MAX 1024 /* a backing file's name, with the end */

/* Called now and then during what takes long. May be NULL. */
struct image_progress {
    void (*step)(void *arg, uint64_t done, uint64_t total);
    void *arg;
};

enum image_preallocate {
    IMAGE_PREALLOCATE_NONE,
    IMAGE_PREALLOCATE_METADATA, /* qcow2: every cluster has its place, the file is sparse */
    IMAGE_PREALLOCATE_FULL,     /* and its storage is there */
};

struct image_create_args {
    enum disk_format format;
    uint64_t size_bytes; /* rounded up to 512; 0 with a base: the base's size */
    /* qcow2 only: */
    uint32_t cluster_bytes; /* 512 to 2 MiB, a power of two; 0: 64 KiB */
    uint32_t refcount_bits; /* 1, 2, 4, ... 64; 0: 16 */
    uint32_t version;       /* 2 or 3; 0: 3 */
    bool zstd;              /* compressed clusters, should somebody write some, are zstd */
    const char *base_path;  /* NULL: none. Recorded as an absolute path */
    enum disk_format base_format;
    enum image_preallocate preallocate;
    struct image_progress progress;
};

/*
 * Make a new image at path, which must not exist (a block device is overwritten). The base is opened, by its named
 * format, to see that it is one and how large it is. Durable on success, nothing is left on failure.
 */
int image_create(const char *path, const struct image_create_args *args, struct errmsg *e);

/* A qcow2 image of the same size on top of base. */
int image_clone(const char *path, const char *base_path, enum disk_format base_format, struct errmsg *e);

struct image_info {
    enum disk_format format;
    uint64_t size_bytes;      /* of the disk */
    uint64_t file_bytes;      /* of the file */
    uint64_t allocated_bytes; /* of the storage that the file takes */
    /* qcow2 only: */
    uint32_t version, cluster_bytes, refcount_bits, snapshot_count;
    bool dirty, corrupt, lazy_refcounts, zstd;
    bool has_bitmaps, bitmaps_consistent;
    char backing_name[IMAGE_NAME_MAX]; /* empty: none */
    char backing_format[64];           /* empty: not said */
};

int image_info(const char *path, enum disk_format format, struct image_info *out, struct errmsg *e);
/* Of a file that is open already. */
int image_info_file(const struct engine_file *file, enum disk_format format, struct image_info *out, struct errmsg *e);

/*
 * Does what an image says of its backing file agree with the chain that was configured? base_path NULL: nothing is below
 * it. The name in it is relative to the image's directory; it is looked at (stat), never opened. any_name: the files
 * were moved or converted, only whether there is a base at all must agree. 0 or -EINVAL.
 */
int image_compare_backing(const char *path, const struct image_info *info, const char *base_path,
                          enum disk_format base_format, bool any_name, struct errmsg *e);

enum image_repair { IMAGE_REPAIR_NONE, IMAGE_REPAIR_LEAKS, IMAGE_REPAIR_ALL };

struct image_check_args {
    enum image_repair repair;
    struct image_progress progress;
    void (*finding)(void *arg, const char *text); /* each inconsistency, up to a bound; may be NULL */
    void *finding_arg;
};

struct image_check_result {
    uint64_t errors, leaks;             /* found */
    uint64_t errors_fixed, leaks_fixed; /* of those */
    uint64_t total_clusters, allocated_clusters, compressed_clusters, fragmented_clusters;
    uint64_t end_bytes; /* where the used part of the file ends */
};

/* 0 when the check was made, whatever it found. Raw images have nothing to check: -ENOTSUP. */
int image_check(const char *path, enum disk_format format, const struct image_check_args *args,
                struct image_check_result *out, struct errmsg *e);

#endif
