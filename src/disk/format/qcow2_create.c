/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New images. Laid out from the start of the file:
 *
 *   header | refcount table | refcount blocks | L1 table | (preallocated: L2 tables, data)
 *
 * Without preallocation only the clusters that are used are written; the L2 tables come with the first writes.
 * The header is written last, after a sync, so a file that was not finished is no image.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "disk/format/qcow2_image.h"
#include "disk/format/qcow2_refbits.h"

struct layout {
    struct engine *engine;
    const struct engine_file *file;
    const struct qcow2_create_args *args;
    struct qcow2_header h;
    uint64_t cluster;
    /* host clusters, in this order after the header */
    uint64_t table_clusters, blocks, l1_clusters, l2_clusters, data_clusters;
    uint64_t total_clusters;
    uint8_t *buffer; /* one cluster */
};

static uint64_t block_refs(const struct layout *l)
{
    return l->cluster * 8 >> l->h.refcount_order;
}

/* The refcount structures describe themselves too: grow them until they do. */
static int plan(struct layout *l, struct errmsg *e)
{
    const struct qcow2_create_args *a = l->args;
    uint64_t entries = qcow2_l1_entries_for(a->size_bytes, a->cluster_bits);
    if (a->size_bytes > QCOW2_SIZE_LIMIT || entries * 8 > QCOW2_L1_MAX_BYTES)
        return errmsg_set(e, EFBIG, "%s: a disk of %" PRIu64 " bytes needs larger clusters than %" PRIu64 " bytes",
                          l->file->name, a->size_bytes, l->cluster);
    l->h.l1_entries = (uint32_t)max_u64(entries, 1);
    l->l1_clusters = div_round_up((uint64_t)l->h.l1_entries * 8, l->cluster);
    bool allocate = a->preallocate != QCOW2_PREALLOCATE_NONE;
    l->l2_clusters = allocate ? entries : 0;
    l->data_clusters = allocate ? div_round_up(a->size_bytes, l->cluster) : 0;
    uint64_t rest = 1 + l->l1_clusters + l->l2_clusters + l->data_clusters;
    for (l->blocks = l->table_clusters = 1;;) {
        l->total_clusters = rest + l->blocks + l->table_clusters;
        uint64_t blocks = div_round_up(l->total_clusters, block_refs(l));
        uint64_t tables = div_round_up(blocks * 8, l->cluster);
        if (blocks <= l->blocks && tables <= l->table_clusters) break;
        l->blocks = max_u64(blocks, l->blocks);
        l->table_clusters = max_u64(tables, l->table_clusters);
    }
    if (l->table_clusters * l->cluster > QCOW2_REFTABLE_MAX_BYTES)
        return errmsg_set(e, EFBIG, "%s: preallocating %" PRIu64 " bytes needs larger clusters", l->file->name,
                          a->size_bytes);
    l->h.reftable_offset = l->cluster;
    l->h.reftable_clusters = (uint32_t)l->table_clusters;
    l->h.l1_offset = (1 + l->table_clusters + l->blocks) * l->cluster;
    return 0;
}

static uint64_t first_l2(const struct layout *l)
{
    return 1 + l->table_clusters + l->blocks + l->l1_clusters;
}

static int write_cluster(struct layout *l, uint64_t cluster)
{
    return engine_write_now(l->engine, l->file, l->buffer, cluster * l->cluster, l->cluster);
}

/* A table of consecutive numbers: entry i is (first + i) << cluster_bits, with flags, for i < count. */
static int write_table(struct layout *l, uint64_t at, uint64_t clusters, uint64_t first, uint64_t count, uint64_t flags)
{
    uint64_t per_cluster = l->cluster / 8;
    for (uint64_t c = 0; c < clusters; c++) {
        memset(l->buffer, 0, l->cluster);
        for (uint64_t i = 0; i < per_cluster && c * per_cluster + i < count; i++) {
            struct be64 entry = be64_make((first + c * per_cluster + i) * l->cluster | flags);
            memcpy(l->buffer + i * 8, &entry, sizeof entry);
        }
        int ret = write_cluster(l, at + c);
        if (ret < 0) return ret;
    }
    return 0;
}

static int write_refcounts(struct layout *l)
{
    int ret = write_table(l, 1, l->table_clusters, 1 + l->table_clusters, l->blocks, 0);
    for (uint64_t b = 0; b < l->blocks && ret == 0; b++) {
        uint64_t from = b * block_refs(l), to = min_u64(from + block_refs(l), l->total_clusters);
        memset(l->buffer, 0, l->cluster);
        for (uint64_t i = from; i < to; i++)
            qcow2_ref_set(l->buffer, l->h.refcount_order, i - from, 1);
        ret = write_cluster(l, 1 + l->table_clusters + b);
    }
    return ret;
}

/* Zeroes over all data clusters, so that their storage is there: ENGINE_ZERO where it can. */
static int write_data(struct layout *l)
{
    const struct qcow2_create_args *a = l->args;
    uint64_t at = (first_l2(l) + l->l2_clusters) * l->cluster, total = l->data_clusters * l->cluster, done = 0;
    uint64_t step = max_u64(l->cluster, UINT64_C(1) << 20);
    autofree uint8_t *zeroes = aligned_alloc(4096, step);
    if (!zeroes) return -ENOMEM;
    memset(zeroes, 0, step);
    while (done < total) {
        uint64_t n = min_u64(step, total - done);
        int ret = engine_write_now(l->engine, l->file, zeroes, at + done, n);
        if (ret < 0) return ret;
        done += n;
        if (a->progress) a->progress(a->progress_arg, done, total);
    }
    return 0;
}

static int write_preallocated(struct layout *l)
{
    uint64_t per_table = l->cluster / 8, first_data = first_l2(l) + l->l2_clusters;
    for (uint64_t t = 0; t < l->l2_clusters; t++) {
        uint64_t from = t * per_table, count = min_u64(per_table, l->data_clusters - from);
        int ret = write_table(l, first_l2(l) + t, 1, first_data + from, count, QCOW2_COPIED);
        if (ret < 0) return ret;
    }
    if (!l->data_clusters) return 0;
    if (l->args->preallocate == QCOW2_PREALLOCATE_FULL) return write_data(l);
    memset(l->buffer, 0, l->cluster); /* the file has its full length, and holes */
    return write_cluster(l, l->total_clusters - 1);
}

static int write_header(struct layout *l, struct errmsg *e)
{
    memset(l->buffer, 0, l->cluster);
    int ret = qcow2_header_encode(&l->h, l->buffer, e);
    if (ret < 0) return errmsg_prefix(e, ret, "%s", l->file->name);
    ret = write_cluster(l, 0);
    if (ret == 0) ret = engine_op_now(l->engine, l->file, ENGINE_SYNC, 0, 0);
    return ret < 0 ? errmsg_sys(e, -ret, "%s: writing the header", l->file->name) : 0;
}

static int check_args(const struct engine_file *file, const struct qcow2_create_args *a, struct errmsg *e)
{
    uint64_t name = a->backing_name ? strlen(a->backing_name) : 0;
    if (a->cluster_bits < QCOW2_CLUSTER_BITS_MIN || a->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
        return errmsg_set(e, EINVAL, "%s: a cluster has 2^%u to 2^%u bytes, not 2^%u", file->name,
                          QCOW2_CLUSTER_BITS_MIN, QCOW2_CLUSTER_BITS_MAX, a->cluster_bits);
    if (a->version < 2 || a->version > 3)
        return errmsg_set(e, EINVAL, "%s: version 2 or 3, not %u", file->name, a->version);
    if (a->refcount_order > QCOW2_REFCOUNT_ORDER_MAX || (a->version == 2 && a->refcount_order != 4))
        return errmsg_set(e, EINVAL, "%s: refcounts of 2^%u bits: version 2 has 16 bits, version 3 up to 64",
                          file->name, a->refcount_order);
    if (a->compression && a->version < 3) return errmsg_set(e, EINVAL, "%s: zstd needs version 3", file->name);
    if (a->size_bytes % 512)
        return errmsg_set(e, EINVAL, "%s: %" PRIu64 " bytes is no multiple of 512", file->name, a->size_bytes);
    if (name > QCOW2_BACKING_NAME_MAX)
        return errmsg_set(e, EINVAL, "%s: the backing file's name has %" PRIu64 " bytes, at most %u are possible",
                          file->name, name, QCOW2_BACKING_NAME_MAX);
    if (name && a->preallocate != QCOW2_PREALLOCATE_NONE)
        return errmsg_set(e, EINVAL, "%s: preallocating a clone would hide what it is cloned from", file->name);
    if (file->io_align > UINT64_C(1) << a->cluster_bits)
        return errmsg_set(e, EINVAL, "%s: the storage works in units of %u bytes, larger than a cluster", file->name,
                          file->io_align);
    return 0;
}

int qcow2_create(struct engine *engine, const struct engine_file *file, const struct qcow2_create_args *args,
                 struct errmsg *e)
{
    int ret = check_args(file, args, e);
    if (ret < 0) return ret;
    struct layout l = {.engine = engine, .file = file, .args = args, .cluster = UINT64_C(1) << args->cluster_bits};
    l.h = (struct qcow2_header){.version = args->version,
                                .cluster_bits = args->cluster_bits,
                                .size_bytes = args->size_bytes,
                                .refcount_order = args->refcount_order,
                                .compression = args->compression,
                                .incompatible = args->compression ? QCOW2_INCOMPAT_COMPRESSION : 0};
    if (args->backing_name) strncpy(l.h.backing_name, args->backing_name, QCOW2_BACKING_NAME_MAX);
    if (args->backing_name && args->backing_format)
        strncpy(l.h.backing_format, args->backing_format, QCOW2_BACKING_FORMAT_MAX);
    ret = plan(&l, e);
    if (ret < 0) return ret;
    autofree uint8_t *buffer = aligned_alloc(4096, align_up(l.cluster, 4096));
    if (!buffer) return errmsg_sys(e, ENOMEM, "%s", file->name);
    l.buffer = buffer;
    ret = write_refcounts(&l);
    if (ret == 0)
        ret = write_table(&l, first_l2(&l) - l.l1_clusters, l.l1_clusters, first_l2(&l), l.l2_clusters, QCOW2_COPIED);
    if (ret == 0) ret = write_preallocated(&l);
    if (ret == 0) ret = engine_op_now(engine, file, ENGINE_SYNC, 0, 0);
    if (ret < 0) return errmsg_sys(e, -ret, "%s: writing the new image", file->name);
    return write_header(&l, e);
}
