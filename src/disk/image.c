/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "disk/file.h"
#include "disk/format/qcow2_image.h"

#define TOOL_ENGINE_DEPTH 32u
#define RAW_ZERO_STEP_BYTES (UINT64_C(16) << 20)

static_assert(IMAGE_NAME_MAX == QCOW2_BACKING_NAME_MAX + 1, "a backing file's name fits");

/* ---- describing ---- */

static void describe_qcow2(const struct qcow2_header *h, struct image_info *out)
{
    out->size_bytes = h->size_bytes;
    out->version = h->version;
    out->cluster_bytes = 1u << h->cluster_bits;
    out->refcount_bits = 1u << h->refcount_order;
    out->snapshot_count = h->snapshot_count;
    out->dirty = h->incompatible & QCOW2_INCOMPAT_DIRTY;
    out->corrupt = h->incompatible & QCOW2_INCOMPAT_CORRUPT;
    out->lazy_refcounts = h->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
    out->zstd = h->compression == QCOW2_COMPRESSION_ZSTD;
    out->has_bitmaps = h->has_bitmaps;
    out->bitmaps_consistent = h->autoclear & QCOW2_AUTOCLEAR_BITMAPS;
    memcpy(out->backing_name, h->backing_name, sizeof h->backing_name);
    memcpy(out->backing_format, h->backing_format, sizeof h->backing_format);
}

int image_info_file(const struct engine_file *file, enum disk_format format, struct image_info *out, struct errmsg *e)
{
    struct stat st;
    memset(out, 0, sizeof *out);
    out->format = format;
    if (fstat(file->fd, &st) < 0) return errmsg_sys(e, errno, "%s", file->name);
    out->file_bytes = file->block_device ? file->size_bytes : (uint64_t)st.st_size;
    out->allocated_bytes = file->block_device ? file->size_bytes : (uint64_t)st.st_blocks * 512;
    out->size_bytes = align_up(out->file_bytes, DISK_SECTOR_BYTES);
    if (format == DISK_FORMAT_RAW) return 0;
    struct engine *engine;
    struct qcow2_header h;
    struct engine_file now = *file;
    now.size_bytes = out->file_bytes;
    int ret = engine_uring_new(&engine, 1, e);
    if (ret < 0) return ret;
    ret = qcow2_header_read(engine, &now, &h, e);
    engine_free(engine);
    if (ret == 0) describe_qcow2(&h, out);
    return ret;
}

int image_info(const char *path, enum disk_format format, struct image_info *out, struct errmsg *e)
{
    struct engine_file file;
    int ret = disk_file_open(&file, path, 0, e);
    if (ret < 0) return ret;
    ret = image_info_file(&file, format, out, e);
    disk_file_close(&file);
    return ret;
}

/* ---- comparing with a chain ---- */

static bool names_file(const char *image_path, const char *name, const char *path)
{
    autofree char *whole = NULL;
    const char *slash = strrchr(image_path, '/');
    size_t directory_bytes = slash ? (size_t)(slash + 1 - image_path) : 0;
    if (strncmp(name, "file:", 5) == 0) name += 5;
    int n = *name == '/' ? asprintf(&whole, "%s", name)
                         : asprintf(&whole, "%.*s%s", (int)directory_bytes, image_path, name);
    if (n < 0) {
        whole = NULL; /* not said to be anything */
        return false;
    }
    struct stat a, b;
    return strcmp(whole, path) == 0 ||
           (stat(whole, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino);
}

int image_compare_backing(const char *path, const struct image_info *info, const char *base_path,
                          enum disk_format base_format, bool any_name, struct errmsg *e)
{
    if (!info->backing_name[0]) {
        if (!base_path) return 0;
        return errmsg_set(e, EINVAL, "%s (%s) is not based on any image, but %s is configured below it", path,
                          disk_format_name(info->format), base_path);
    }
    if (!base_path)
        return errmsg_set(e, EINVAL, "%s says that it is based on %s, but nothing is configured below it", path,
                          info->backing_name);
    if (any_name) return 0;
    if (!names_file(path, info->backing_name, base_path))
        return errmsg_set(e, EINVAL, "%s says that it is based on %s, but %s is configured below it", path,
                          info->backing_name, base_path);
    if (info->backing_format[0] && strcmp(info->backing_format, disk_format_name(base_format)) != 0)
        return errmsg_set(e, EINVAL, "%s says that %s has the format %s, but it is configured as %s", path, base_path,
                          info->backing_format, disk_format_name(base_format));
    return 0;
}

/* ---- creating ---- */

struct creation {
    const struct image_create_args *args;
    const char *path;
    uint64_t size_bytes;
    char *base_path; /* absolute */
    struct engine_file file;
    struct engine *engine;
    struct errmsg *e;
};

static int create_raw(struct creation *c)
{
    const struct engine_file *f = &c->file;
    if (f->block_device) {
        if (f->size_bytes >= c->size_bytes) return 0;
        return errmsg_set(c->e, ENOSPC, "%s: the device has %" PRIu64 " bytes, the disk would have %" PRIu64, c->path,
                          f->size_bytes, c->size_bytes);
    }
    if (ftruncate(f->fd, (off_t)c->size_bytes) < 0)
        return errmsg_sys(c->e, errno, "%s: making it %" PRIu64 " bytes long", c->path, c->size_bytes);
    if (c->args->preallocate != IMAGE_PREALLOCATE_FULL) return 0;
    const struct image_progress *p = &c->args->progress;
    for (uint64_t at = 0, n; at < c->size_bytes; at += n) {
        n = min_u64(RAW_ZERO_STEP_BYTES, c->size_bytes - at);
        int ret = posix_fallocate(f->fd, (off_t)at, (off_t)n);
        if (ret) return errmsg_sys(c->e, ret, "%s: allocating %" PRIu64 " bytes at %" PRIu64, c->path, n, at);
        if (p->step) p->step(p->arg, at + n, c->size_bytes);
    }
    return 0;
}

static int create_qcow2(struct creation *c)
{
    const struct image_create_args *a = c->args;
    uint32_t cluster_bytes = a->cluster_bytes ? a->cluster_bytes : 1u << QCOW2_CLUSTER_BITS_DEFAULT;
    uint32_t refcount_bits = a->refcount_bits ? a->refcount_bits : 16;
    if (!is_power_of_2(cluster_bytes))
        return errmsg_set(c->e, EINVAL, "%s: clusters of %" PRIu32 " bytes: expected a power of two", c->path,
                          cluster_bytes);
    if (!is_power_of_2(refcount_bits))
        return errmsg_set(c->e, EINVAL, "%s: refcounts of %" PRIu32 " bits: expected a power of two", c->path,
                          refcount_bits);
    struct qcow2_create_args q = {
        .size_bytes = c->size_bytes,
        .version = a->version ? a->version : 3,
        .cluster_bits = (unsigned)__builtin_ctz(cluster_bytes),
        .refcount_order = (unsigned)__builtin_ctz(refcount_bits),
        .compression = a->zstd ? QCOW2_COMPRESSION_ZSTD : QCOW2_COMPRESSION_ZLIB,
        .backing_name = c->base_path,
        .backing_format = c->base_path ? disk_format_name(a->base_format) : NULL,
        .preallocate = a->preallocate == IMAGE_PREALLOCATE_FULL       ? QCOW2_PREALLOCATE_FULL
                       : a->preallocate == IMAGE_PREALLOCATE_METADATA ? QCOW2_PREALLOCATE_METADATA
                                                                      : QCOW2_PREALLOCATE_NONE,
        .progress = a->progress.step,
        .progress_arg = a->progress.arg,
    };
    return qcow2_create(c->engine, &c->file, &q, c->e);
}

/* What the new image will say and how large it will be. */
static int resolve(struct creation *c)
{
    const struct image_create_args *a = c->args;
    c->size_bytes = a->size_bytes;
    if (a->base_path) {
        struct image_info info;
        if (a->format != DISK_FORMAT_QCOW2)
            return errmsg_set(c->e, EINVAL, "%s: a %s image cannot have a base", c->path, disk_format_name(a->format));
        int ret = image_info(a->base_path, a->base_format, &info, c->e);
        if (ret < 0) return errmsg_prefix(c->e, ret, "the base");
        if (!c->size_bytes) c->size_bytes = info.size_bytes;
        c->base_path = realpath(a->base_path, NULL);
        if (!c->base_path) return errmsg_sys(c->e, errno, "the base %s", a->base_path);
    }
    if (!c->size_bytes) return errmsg_set(c->e, EINVAL, "%s: no size given", c->path);
    if (c->size_bytes > (uint64_t)INT64_MAX - 511) return errmsg_set(c->e, EFBIG, "%s: the size is too large", c->path);
    c->size_bytes = align_up(c->size_bytes, DISK_SECTOR_BYTES);
    return 0;
}

/* A name is durable when its directory is. */
static int sync_directory(const char *path, struct errmsg *e)
{
    autofree char *copy = strdup(path);
    if (!copy) return errmsg_sys(e, ENOMEM, "%s", path);
    char *slash = strrchr(copy, '/');
    if (slash) slash[slash == copy ? 1 : 0] = 0;
    autoclose int fd = open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) return errmsg_sys(e, errno, "%s: making its name durable", path);
    return 0;
}

static int fill(struct creation *c)
{
    int ret = engine_uring_new(&c->engine, TOOL_ENGINE_DEPTH, c->e);
    if (ret < 0) return ret;
    ret = c->args->format == DISK_FORMAT_RAW ? create_raw(c) : create_qcow2(c);
    if (ret == 0 && engine_op_now(c->engine, &c->file, ENGINE_SYNC, 0, 0) < 0)
        ret = errmsg_set(c->e, EIO, "%s: it could not be flushed to storage", c->path);
    engine_free(c->engine);
    if (ret == 0 && !c->file.block_device) ret = sync_directory(c->path, c->e);
    return ret;
}

int image_create(const char *path, const struct image_create_args *args, struct errmsg *e)
{
    struct creation c = {.args = args, .path = path, .e = e};
    struct stat st;
    if (!disk_format_name(args->format))
        return errmsg_set(e, EINVAL, "%s: unknown image format %d", path, (int)args->format);
    int ret = resolve(&c);
    if (ret == 0) {
        bool device = stat(path, &st) == 0 && S_ISBLK(st.st_mode);
        ret = disk_file_open(&c.file, path, device ? DISK_FILE_WRITE : DISK_FILE_WRITE | DISK_FILE_CREATE, e);
        if (ret == 0) {
            ret = fill(&c);
            if (ret < 0 && !device) unlink(path);
            disk_file_close(&c.file);
        }
    }
    free(c.base_path);
    return ret;
}

int image_clone(const char *path, const char *base_path, enum disk_format base_format, struct errmsg *e)
{
    struct image_create_args args = {.format = DISK_FORMAT_QCOW2, .base_path = base_path, .base_format = base_format};
    return image_create(path, &args, e);
}

/* ---- checking ---- */

static int check_file(const struct engine_file *file, const struct image_check_args *a, struct image_check_result *out,
                      struct errmsg *e)
{
    struct engine *engine;
    struct qcow2_check_result r;
    struct qcow2_check_args q = {.repair_leaks = a->repair != IMAGE_REPAIR_NONE,
                                 .repair_all = a->repair == IMAGE_REPAIR_ALL,
                                 .progress = a->progress.step,
                                 .progress_arg = a->progress.arg,
                                 .finding = a->finding,
                                 .finding_arg = a->finding_arg};
    int ret = engine_uring_new(&engine, TOOL_ENGINE_DEPTH, e);
    if (ret < 0) return ret;
    ret = qcow2_check(engine, file, &q, &r, e);
    engine_free(engine);
    if (ret < 0) return ret;
    *out = (struct image_check_result){.errors = r.errors,
                                       .leaks = r.leaks,
                                       .errors_fixed = r.errors_fixed,
                                       .leaks_fixed = r.leaks_fixed,
                                       .total_clusters = r.total_clusters,
                                       .allocated_clusters = r.allocated_clusters,
                                       .compressed_clusters = r.compressed_clusters,
                                       .fragmented_clusters = r.fragmented_clusters,
                                       .end_bytes = r.end_bytes};
    return 0;
}

int image_check(const char *path, enum disk_format format, const struct image_check_args *args,
                struct image_check_result *out, struct errmsg *e)
{
    struct engine_file file;
    if (format != DISK_FORMAT_QCOW2)
        return errmsg_set(e, ENOTSUP, "%s: a %s image has nothing that could be checked", path,
                          disk_format_name(format));
    int ret = disk_file_open(&file, path, args->repair == IMAGE_REPAIR_NONE ? 0 : DISK_FILE_WRITE, e);
    if (ret < 0) return ret;
    ret = check_file(&file, args, out, e);
    disk_file_close(&file);
    return ret;
}
