/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The qcow2 header: decoding with every check that needs no table, encoding for new images, and
 * in-place updates of the few fields that change.
 *
 * Source: QEMU docs/interop/qcow2, "Header", "Header extensions", "Feature name table".
 */
#include "disk/format/qcow2_format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/cursor.h"

#define FEATURE_NAME_BYTES 46u
#define FEATURE_ENTRY_BYTES 48u
#define HEADER_FIRST_READ_BYTES 4096u

struct decode {
    const uint8_t *data;
    uint64_t length_bytes; /* of data */
    uint64_t file_bytes;
    const char *name;
    struct qcow2_header *h;
    struct errmsg *e;
    const uint8_t *feature_names; /* inside data; NULL when there are none */
    uint32_t feature_count;
};

/* What is wrong, and in which byte of the file the field begins that says so. */
#define BAD(d, at, code, ...)                                                                                          \
    errmsg_prefix((d)->e, errmsg_set((d)->e, code, __VA_ARGS__), "%s: at byte %" PRIu64, (d)->name, (uint64_t)(at))

static const struct {
    uint8_t type, bit;
    const char *name;
} feature_names[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};

static bool pull_v2(struct cursor *c, struct qcow2_header *h, uint32_t *crypt, uint64_t *backing_offset,
                    uint32_t *backing_bytes)
{
    return cursor_be64(c, backing_offset) && cursor_be32(c, backing_bytes) && cursor_be32(c, &h->cluster_bits) &&
           cursor_be64(c, &h->size_bytes) && cursor_be32(c, crypt) && cursor_be32(c, &h->l1_entries) &&
           cursor_be64(c, &h->l1_offset) && cursor_be64(c, &h->reftable_offset) &&
           cursor_be32(c, &h->reftable_clusters) && cursor_be32(c, &h->snapshot_count) &&
           cursor_be64(c, &h->snapshot_offset);
}

static bool pull_v3(struct cursor *c, struct qcow2_header *h)
{
    return cursor_be64(c, &h->incompatible) && cursor_be64(c, &h->compatible) && cursor_be64(c, &h->autoclear) &&
           cursor_be32(c, &h->refcount_order) && cursor_be32(c, &h->header_bytes);
}

/* A table of `bytes` at `offset`, as the field says: aligned to a cluster and inside the file. */
static int check_table(struct decode *d, uint64_t field, const char *what, uint64_t offset, uint64_t bytes)
{
    uint64_t cluster = qcow2_cluster_bytes(d->h);
    if (offset & (cluster - 1))
        return BAD(d, field, EINVAL, "%s at 0x%" PRIx64 " is not aligned to a cluster (%" PRIu64 " bytes)", what,
                   offset, cluster);
    if (bytes && offset == 0) return BAD(d, field, EINVAL, "%s at offset 0 would lie over the header", what);
    if (!range_fits(offset, bytes, d->file_bytes))
        return BAD(d, field, EINVAL,
                   "%s at 0x%" PRIx64 " of %" PRIu64 " bytes does not end inside the file (%" PRIu64 " bytes)", what,
                   offset, bytes, d->file_bytes);
    return 0;
}

static int check_tables(struct decode *d)
{
    struct qcow2_header *h = d->h;
    uint64_t cluster = qcow2_cluster_bytes(h);
    if (h->size_bytes % 512)
        return BAD(d, QCOW2_AT_SIZE, EINVAL, "disk size %" PRIu64 " is not a multiple of 512", h->size_bytes);
    if (h->size_bytes > QCOW2_SIZE_LIMIT)
        return BAD(d, QCOW2_AT_SIZE, EFBIG, "disk size %" PRIu64 " is past the format's limit of %" PRIu64,
                   h->size_bytes, QCOW2_SIZE_LIMIT);
    uint64_t need = qcow2_l1_entries_for(h->size_bytes, h->cluster_bits);
    if ((uint64_t)h->l1_entries * 8 > QCOW2_L1_MAX_BYTES || need * 8 > QCOW2_L1_MAX_BYTES)
        return BAD(d, QCOW2_AT_L1_ENTRIES, EFBIG,
                   "L1 table of %" PRIu32 " entries (the disk needs %" PRIu64 ") is larger than %" PRIu64 " bytes",
                   h->l1_entries, need, QCOW2_L1_MAX_BYTES);
    if (h->l1_entries < need)
        return BAD(d, QCOW2_AT_L1_ENTRIES, EINVAL,
                   "L1 table has %" PRIu32 " entries, a disk of %" PRIu64 " bytes needs %" PRIu64, h->l1_entries,
                   h->size_bytes, need);
    int ret = check_table(d, QCOW2_AT_L1_OFFSET, "L1 table", h->l1_offset, (uint64_t)h->l1_entries * 8);
    if (ret < 0) return ret;
    if (h->reftable_clusters == 0 || (uint64_t)h->reftable_clusters > QCOW2_REFTABLE_MAX_BYTES / cluster + 1)
        return BAD(d, QCOW2_AT_REFTABLE_CLUSTERS, EINVAL,
                   "refcount table of %" PRIu32 " clusters: expected 1 to %" PRIu64, h->reftable_clusters,
                   QCOW2_REFTABLE_MAX_BYTES / cluster + 1);
    ret = check_table(d, QCOW2_AT_REFTABLE_OFFSET, "refcount table", h->reftable_offset,
                      (uint64_t)h->reftable_clusters * cluster);
    if (ret < 0) return ret;
    if (h->snapshot_count > QCOW2_SNAPSHOTS_MAX)
        return BAD(d, QCOW2_AT_SNAPSHOT_COUNT, EFBIG, "%" PRIu32 " snapshots: at most %u are supported",
                   h->snapshot_count, QCOW2_SNAPSHOTS_MAX);
    return check_table(d, QCOW2_AT_SNAPSHOT_OFFSET, "snapshot table", h->snapshot_count ? h->snapshot_offset : 0,
                       h->snapshot_count ? 40 : 0);
}

/* Names of the incompatible bits that we don't know, from the image's own table where it has them. */
static int refuse_unknown_features(struct decode *d, uint64_t unknown)
{
    char list[256];
    size_t used = 0;
    for (unsigned bit = 0; bit < 64 && used < sizeof list; bit++) {
        if (!(unknown >> bit & 1)) continue;
        char name[FEATURE_NAME_BYTES + 1] = "";
        for (uint32_t i = 0; i < d->feature_count; i++) {
            const uint8_t *entry = d->feature_names + (size_t)i * FEATURE_ENTRY_BYTES;
            if (entry[0] == 0 && entry[1] == bit) memcpy(name, entry + 2, FEATURE_NAME_BYTES);
        }
        for (char *c = name; *c; c++)
            if (*c < 0x20 || *c > 0x7e) *c = '?';
        int n = snprintf(list + used, sizeof list - used, "%sbit %u%s%s%s", used ? ", " : "", bit, name[0] ? " (" : "",
                         name, name[0] ? ")" : "");
        used += n > 0 ? (size_t)n : 0;
    }
    return BAD(d, QCOW2_AT_INCOMPATIBLE, ENOTSUP, "the image uses features that this program does not know: %s", list);
}

static int check_features(struct decode *d)
{
    struct qcow2_header *h = d->h;
    uint64_t unknown = h->incompatible & ~QCOW2_INCOMPAT_KNOWN;
    if (unknown) return refuse_unknown_features(d, unknown);
    if (h->incompatible & QCOW2_INCOMPAT_DATA_FILE)
        return BAD(d, QCOW2_AT_INCOMPATIBLE, ENOTSUP, "images with an external data file are not supported");
    if (h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2)
        return BAD(d, QCOW2_AT_INCOMPATIBLE, ENOTSUP,
                   "images with extended L2 entries (subclusters) are not supported");
    bool typed = h->incompatible & QCOW2_INCOMPAT_COMPRESSION;
    if (typed != (h->compression != QCOW2_COMPRESSION_ZLIB))
        return BAD(d, h->header_bytes > QCOW2_AT_COMPRESSION ? QCOW2_AT_COMPRESSION : QCOW2_AT_INCOMPATIBLE, EINVAL,
                   "compression type is %d but its feature bit is %s", (int)h->compression, typed ? "set" : "clear");
    if (h->compression > QCOW2_COMPRESSION_ZSTD)
        return BAD(d, QCOW2_AT_COMPRESSION, ENOTSUP, "compression type %d is unknown: expected 0 (zlib) or 1 (zstd)",
                   (int)h->compression);
    return 0;
}

static int take_string(struct decode *d, const char *what, char *out, uint32_t max, const void *data, uint32_t length)
{
    uint64_t at = (uint64_t)((const uint8_t *)data - d->data);
    if (length > max)
        return BAD(d, at, EINVAL, "%s of %" PRIu32 " bytes: at most %" PRIu32 " are allowed", what, length, max);
    memcpy(out, data, length);
    out[length] = 0;
    if (strlen(out) != length) return BAD(d, at, EINVAL, "%s contains a zero byte", what);
    return 0;
}

static int take_bitmaps(struct decode *d, const uint8_t *data, uint32_t length)
{
    struct cursor c = cursor_over(data, length);
    uint32_t reserved;
    struct qcow2_header *h = d->h;
    if (!cursor_be32(&c, &h->bitmap_count) || !cursor_be32(&c, &reserved) || !cursor_be64(&c, &h->bitmap_dir_bytes) ||
        !cursor_be64(&c, &h->bitmap_dir_offset))
        return BAD(d, data - d->data, EINVAL, "bitmaps extension of %" PRIu32 " bytes: expected 24", length);
    h->has_bitmaps = true;
    return 0;
}

static int take_extension(struct decode *d, uint32_t type, const uint8_t *data, uint32_t length)
{
    switch (type) {
    case (uint32_t)QCOW2_EXT_BACKING_FORMAT:
        return take_string(d, "backing format", d->h->backing_format, QCOW2_BACKING_FORMAT_MAX, data, length);
    case QCOW2_EXT_FEATURE_NAMES:
        d->feature_names = data;
        d->feature_count = length / FEATURE_ENTRY_BYTES;
        return 0;
    case QCOW2_EXT_BITMAPS: return take_bitmaps(d, data, length);
    default: return 0; /* unknown extensions are kept where they are and otherwise ignored */
    }
}

/* Extensions lie between the header and the backing name, or the end of the cluster. */
static int walk_extensions(struct decode *d, uint64_t end)
{
    uint64_t at = d->h->header_bytes;
    while (at + 8 <= end) {
        struct cursor c = cursor_over(d->data + at, 8);
        uint32_t type, length;
        cursor_be32(&c, &type);
        cursor_be32(&c, &length);
        at += 8;
        if (type == QCOW2_EXT_END) return 0;
        if (length > end - at)
            return BAD(d, at - 8, EINVAL,
                       "header extension 0x%08" PRIx32 " of %" PRIu32 " bytes runs past byte %" PRIu64, type, length,
                       end);
        int ret = take_extension(d, type, d->data + at, length);
        if (ret < 0) return ret;
        at = align_up(at + length, 8);
    }
    return 0;
}

static int decode_version(struct decode *d, struct cursor *c)
{
    struct qcow2_header *h = d->h;
    h->refcount_order = 4;
    h->header_bytes = QCOW2_V2_HEADER_BYTES;
    if (h->version == 2) return 0;
    if (!pull_v3(c, h))
        return BAD(d, d->length_bytes, EINVAL, "file ends inside the header (%" PRIu64 " bytes)", d->file_bytes);
    if (h->header_bytes < QCOW2_V3_HEADER_BYTES || h->header_bytes % 8 || h->header_bytes > qcow2_cluster_bytes(h))
        return BAD(d, QCOW2_AT_HEADER_BYTES, EINVAL,
                   "header length %" PRIu32 ": expected a multiple of 8 from %u to the cluster size", h->header_bytes,
                   QCOW2_V3_HEADER_BYTES);
    if (h->refcount_order > QCOW2_REFCOUNT_ORDER_MAX)
        return BAD(d, QCOW2_AT_REFCOUNT_ORDER, EINVAL, "refcount order %" PRIu32 ": expected at most %u",
                   h->refcount_order, QCOW2_REFCOUNT_ORDER_MAX);
    const uint8_t *type = h->header_bytes > QCOW2_V3_HEADER_BYTES ? cursor_pull(c, 1) : NULL;
    if (type) h->compression = (enum qcow2_compression) * type;
    return 0;
}

static int decode_backing(struct decode *d, uint64_t offset, uint32_t bytes, uint64_t room)
{
    if (!offset) return 0;
    if (bytes > QCOW2_BACKING_NAME_MAX || !range_fits(offset, bytes, room) || offset < d->h->header_bytes)
        return BAD(d, QCOW2_AT_BACKING, EINVAL,
                   "backing file name at 0x%" PRIx64 " of %" PRIu32
                   " bytes: expected at most %u bytes inside the first cluster",
                   offset, bytes, QCOW2_BACKING_NAME_MAX);
    return take_string(d, "backing file name", d->h->backing_name, QCOW2_BACKING_NAME_MAX, d->data + offset, bytes);
}

int qcow2_header_decode(const void *data, uint64_t length_bytes, uint64_t file_bytes, const char *name,
                        struct qcow2_header *out, struct errmsg *e)
{
    struct decode d = {data, length_bytes, file_bytes, name, out, e, NULL, 0};
    memset(out, 0, sizeof *out);
    struct cursor c = cursor_over(data, length_bytes);
    uint32_t magic, crypt, backing_bytes;
    uint64_t backing_offset;
    if (!cursor_be32(&c, &magic) || magic != QCOW2_MAGIC)
        return BAD(&d, 0, EINVAL, "not a qcow2 image: it does not begin with the magic number 0x%08x", QCOW2_MAGIC);
    if (!cursor_be32(&c, &out->version) || out->version < 2 || out->version > 3)
        return BAD(&d, QCOW2_AT_VERSION, ENOTSUP, "qcow2 version %" PRIu32 ": expected 2 or 3", out->version);
    if (!pull_v2(&c, out, &crypt, &backing_offset, &backing_bytes))
        return BAD(&d, length_bytes, EINVAL, "file ends inside the header (%" PRIu64 " bytes)", file_bytes);
    if (out->cluster_bits < QCOW2_CLUSTER_BITS_MIN || out->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
        return BAD(&d, QCOW2_AT_CLUSTER_BITS, EINVAL, "cluster bits %" PRIu32 ": expected %u to %u", out->cluster_bits,
                   QCOW2_CLUSTER_BITS_MIN, QCOW2_CLUSTER_BITS_MAX);
    int ret = decode_version(&d, &c);
    if (ret < 0) return ret;
    uint64_t room = min_u64(length_bytes, qcow2_cluster_bytes(out));
    bool name_first = backing_offset && backing_offset < room;
    ret = walk_extensions(&d, name_first ? backing_offset : room);
    if (ret < 0) return ret;
    ret = check_features(&d);
    if (ret < 0) return ret;
    if (crypt)
        return BAD(&d, QCOW2_AT_CRYPT, ENOTSUP, "encrypted images are not supported (method %" PRIu32 ")", crypt);
    ret = decode_backing(&d, backing_offset, backing_bytes, room);
    if (ret < 0) return ret;
    return check_tables(&d);
}

int qcow2_header_read(struct engine *engine, const struct engine_file *file, struct qcow2_header *out, struct errmsg *e)
{
    uint64_t bytes = HEADER_FIRST_READ_BYTES;
    for (;;) {
        autofree void *data = aligned_alloc(4096, bytes);
        if (!data) return errmsg_sys(e, ENOMEM, "%s: reading the header", file->name);
        int ret = engine_read_now(engine, file, data, 0, bytes);
        if (ret < 0) return errmsg_sys(e, -ret, "%s: reading the header at offset 0", file->name);
        uint32_t bits = be32_get(*(struct be32 *)((char *)data + 20));
        bool more = bits <= QCOW2_CLUSTER_BITS_MAX && UINT64_C(1) << bits > bytes;
        if (more && be32_get(*(struct be32 *)data) == QCOW2_MAGIC) {
            bytes = UINT64_C(1) << bits; /* extensions may be anywhere in the first cluster */
            continue;
        }
        return qcow2_header_decode(data, min_u64(bytes, file->size_bytes), file->size_bytes, file->name, out, e);
    }
}

static void put32(uint8_t **at, uint32_t v)
{
    struct be32 x = be32_make(v);
    memcpy(*at, &x, sizeof x);
    *at += sizeof x;
}

static void put64(uint8_t **at, uint64_t v)
{
    struct be64 x = be64_make(v);
    memcpy(*at, &x, sizeof x);
    *at += sizeof x;
}

static void put_extension(uint8_t **at, uint32_t type, const void *data, uint32_t bytes)
{
    put32(at, type);
    put32(at, bytes);
    memcpy(*at, data, bytes);
    *at += align_up(bytes, 8);
}

static void put_feature_names(uint8_t **at)
{
    uint8_t table[ARRAY_LEN(feature_names)][FEATURE_ENTRY_BYTES] = {{0}};
    for (size_t i = 0; i < ARRAY_LEN(feature_names); i++) {
        table[i][0] = feature_names[i].type;
        table[i][1] = feature_names[i].bit;
        memcpy(table[i] + 2, feature_names[i].name, strlen(feature_names[i].name));
    }
    put_extension(at, QCOW2_EXT_FEATURE_NAMES, table, sizeof table);
}

static void put_fixed_fields(const struct qcow2_header *h, uint8_t **at, uint64_t backing_offset,
                             uint32_t backing_bytes)
{
    put32(at, QCOW2_MAGIC);
    put32(at, h->version);
    put64(at, backing_offset);
    put32(at, backing_bytes);
    put32(at, h->cluster_bits);
    put64(at, h->size_bytes);
    put32(at, 0); /* no encryption */
    put32(at, h->l1_entries);
    put64(at, h->l1_offset);
    put64(at, h->reftable_offset);
    put32(at, h->reftable_clusters);
    put32(at, h->snapshot_count);
    put64(at, h->snapshot_offset);
    if (h->version < 3) return;
    put64(at, h->incompatible);
    put64(at, h->compatible);
    put64(at, h->autoclear);
    put32(at, h->refcount_order);
    put32(at, QCOW2_NEW_HEADER_BYTES);
    put64(at, (uint64_t)h->compression << 56);
}

int qcow2_header_encode(const struct qcow2_header *h, void *cluster, struct errmsg *e)
{
    uint32_t fixed_bytes = h->version < 3 ? QCOW2_V2_HEADER_BYTES : QCOW2_NEW_HEADER_BYTES;
    uint32_t name_bytes = (uint32_t)strlen(h->backing_name), format_bytes = (uint32_t)strlen(h->backing_format);
    uint64_t names_bytes = 8 + ARRAY_LEN(feature_names) * FEATURE_ENTRY_BYTES;
    uint64_t need = fixed_bytes + (format_bytes ? 8 + align_up(format_bytes, 8) : 0) + 8 + name_bytes;
    uint64_t room = qcow2_cluster_bytes(h);
    if (need > room)
        return errmsg_set(e, EINVAL,
                          "the header with the backing file's name takes %" PRIu64 " bytes, a cluster has %" PRIu64,
                          need, room);
    bool with_names = h->version >= 3 && need + names_bytes <= room; /* they are a courtesy */
    uint8_t *at = cluster;
    put_fixed_fields(h, &at, name_bytes ? need - name_bytes + (with_names ? names_bytes : 0) : 0, name_bytes);
    if (format_bytes) put_extension(&at, (uint32_t)QCOW2_EXT_BACKING_FORMAT, h->backing_format, format_bytes);
    if (with_names) put_feature_names(&at);
    put_extension(&at, QCOW2_EXT_END, "", 0);
    memcpy(at, h->backing_name, name_bytes);
    return 0;
}

static void patch_fields(uint8_t *block, const struct qcow2_header *h)
{
    uint8_t *at = block + QCOW2_AT_SIZE;
    put64(&at, h->size_bytes);
    at = block + QCOW2_AT_L1_ENTRIES;
    put32(&at, h->l1_entries);
    put64(&at, h->l1_offset);
    put64(&at, h->reftable_offset);
    put32(&at, h->reftable_clusters);
    if (h->version < 3) return;
    at = block + QCOW2_AT_INCOMPATIBLE;
    put64(&at, h->incompatible);
    at = block + QCOW2_AT_AUTOCLEAR;
    put64(&at, h->autoclear);
}

int qcow2_header_update(struct engine *engine, const struct engine_file *file, const struct qcow2_header *h)
{
    uint64_t bytes = max_u64(512, file->io_align);
    autofree uint8_t *block = aligned_alloc(4096, align_up(bytes, 4096));
    if (!block) return -ENOMEM;
    int ret = engine_read_now(engine, file, block, 0, bytes);
    if (ret < 0) return ret;
    patch_fields(block, h);
    return engine_write_now(engine, file, block, 0, bytes);
}
