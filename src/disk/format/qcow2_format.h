/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The qcow2 image format on storage: numbers, limits, and the header in host form.
 * Source: QEMU's docs/interop/qcow2 (header, host cluster management, cluster mapping).
 *
 * An image is a file of clusters (512 bytes to 2 MiB). Cluster 0 holds the header. A guest
 * cluster is found through two levels of tables (L1 -> L2 -> host cluster), a host cluster's
 * reference count through two others (refcount table -> refcount block). All numbers are
 * big endian.
 *
 * Nothing in an image is believed: what is decoded here has passed every check that needs the
 * header and the file's size only; tables are checked where they are loaded.
 */
#ifndef DISK_FORMAT_QCOW2_FORMAT_H
#define DISK_FORMAT_QCOW2_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/endian.h"
#include "base/errmsg.h"
#include "disk/engine/engine.h"

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_V2_HEADER_BYTES 72u
#define QCOW2_V3_HEADER_BYTES 104u
#define QCOW2_NEW_HEADER_BYTES 112u /* what we write: with the compression type */

#define QCOW2_CLUSTER_BITS_MIN 9u
#define QCOW2_CLUSTER_BITS_MAX 21u
#define QCOW2_CLUSTER_BITS_DEFAULT 16u
#define QCOW2_REFCOUNT_ORDER_MAX 6u

/* Limits on what an image may ask us to keep in memory; the same as other implementations have. */
#define QCOW2_L1_MAX_BYTES (UINT64_C(32) << 20)
#define QCOW2_REFTABLE_MAX_BYTES (UINT64_C(8) << 20)
#define QCOW2_SNAPSHOTS_MAX 65536u
#define QCOW2_SNAPSHOT_TABLE_MAX_BYTES (UINT64_C(64) << 20)
#define QCOW2_SNAPSHOT_EXTRA_MAX_BYTES 1024u
#define QCOW2_BACKING_NAME_MAX 1023u
#define QCOW2_BACKING_FORMAT_MAX 63u
#define QCOW2_DATA_OFFSET_LIMIT (UINT64_C(1) << 56) /* L1 and L2 entries point below it */
#define QCOW2_SIZE_LIMIT (UINT64_C(1) << 61)        /* 2 MiB clusters with the largest L1 table */

enum qcow2_incompatible {
    QCOW2_INCOMPAT_DIRTY = 1 << 0,
    QCOW2_INCOMPAT_CORRUPT = 1 << 1,
    QCOW2_INCOMPAT_DATA_FILE = 1 << 2,
    QCOW2_INCOMPAT_COMPRESSION = 1 << 3,
    QCOW2_INCOMPAT_EXTENDED_L2 = 1 << 4,
};
#define QCOW2_INCOMPAT_KNOWN UINT64_C(0x1f)

enum qcow2_compatible { QCOW2_COMPAT_LAZY_REFCOUNTS = 1 << 0 };
enum qcow2_autoclear { QCOW2_AUTOCLEAR_BITMAPS = 1 << 0, QCOW2_AUTOCLEAR_RAW_DATA = 1 << 1 };

enum qcow2_compression { QCOW2_COMPRESSION_ZLIB = 0, QCOW2_COMPRESSION_ZSTD = 1 };

enum qcow2_extension_type {
    QCOW2_EXT_END = 0,
    QCOW2_EXT_BACKING_FORMAT = (int)0xe2792acau,
    QCOW2_EXT_FEATURE_NAMES = 0x6803f857,
    QCOW2_EXT_BITMAPS = 0x23852875,
    QCOW2_EXT_ENCRYPTION = 0x0537be77,
    QCOW2_EXT_DATA_FILE = 0x44415441,
};

/* Offsets of header fields that change while an image is in use. */
enum qcow2_header_at {
    QCOW2_AT_VERSION = 4,
    QCOW2_AT_BACKING = 8,
    QCOW2_AT_CLUSTER_BITS = 20,
    QCOW2_AT_SIZE = 24,
    QCOW2_AT_CRYPT = 32,
    QCOW2_AT_L1_ENTRIES = 36,
    QCOW2_AT_L1_OFFSET = 40,
    QCOW2_AT_REFTABLE_OFFSET = 48,
    QCOW2_AT_REFTABLE_CLUSTERS = 56,
    QCOW2_AT_SNAPSHOT_COUNT = 60,
    QCOW2_AT_SNAPSHOT_OFFSET = 64,
    QCOW2_AT_INCOMPATIBLE = 72,
    QCOW2_AT_AUTOCLEAR = 88,
    QCOW2_AT_REFCOUNT_ORDER = 96,
    QCOW2_AT_HEADER_BYTES = 100,
    QCOW2_AT_COMPRESSION = 104,
};

/* Table entries (L1 and L2), in host byte order. */
#define QCOW2_COPIED (UINT64_C(1) << 63)     /* the refcount is exactly one */
#define QCOW2_COMPRESSED (UINT64_C(1) << 62) /* L2 only */
#define QCOW2_ZERO UINT64_C(1)               /* L2 only, version 3 */
#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define QCOW2_L1_RESERVED UINT64_C(0x7f000000000001ff)
#define QCOW2_L2_RESERVED UINT64_C(0x3f000000000001fe)
#define QCOW2_REFTABLE_RESERVED UINT64_C(0x1ff)

struct qcow2_header {
    uint32_t version;
    uint32_t cluster_bits;
    uint64_t size_bytes;
    uint64_t l1_offset;
    uint32_t l1_entries;
    uint64_t reftable_offset;
    uint32_t reftable_clusters;
    uint32_t snapshot_count;
    uint64_t snapshot_offset;
    uint64_t incompatible, compatible, autoclear;
    uint32_t refcount_order;
    uint32_t header_bytes;
    enum qcow2_compression compression;
    bool has_bitmaps; /* the extension is there, consistent or not */
    uint32_t bitmap_count;
    uint64_t bitmap_dir_offset, bitmap_dir_bytes;
    /* What the image says about its backing file: for comparing and showing, never for opening. */
    char backing_name[QCOW2_BACKING_NAME_MAX + 1];
    char backing_format[QCOW2_BACKING_FORMAT_MAX + 1];
};

static inline uint64_t qcow2_cluster_bytes(const struct qcow2_header *h)
{
    return UINT64_C(1) << h->cluster_bits;
}

/* How many L1 entries a disk of this size needs. */
static inline uint64_t qcow2_l1_entries_for(uint64_t size_bytes, unsigned cluster_bits)
{
    unsigned table_bits = 2 * cluster_bits - 3; /* log2 of the bytes that one L2 table describes */
    return (size_bytes >> table_bits) + ((size_bytes & ((UINT64_C(1) << table_bits) - 1)) != 0);
}

/*
 * Read and check the header of an image. 0, or -errno with file, offset, what is wrong and what
 * was expected in e: -EINVAL malformed, -ENOTSUP something that we don't implement, -EIO.
 */
int qcow2_header_read(struct engine *engine, const struct engine_file *file, struct qcow2_header *out,
                      struct errmsg *e);

/* The same over bytes in memory (the first cluster, or the first length_bytes of it). */
int qcow2_header_decode(const void *data, uint64_t length_bytes, uint64_t file_bytes, const char *name,
                        struct qcow2_header *out, struct errmsg *e);

/*
 * Write header, extensions (backing format, feature names) and the backing name into `cluster`,
 * which has qcow2_cluster_bytes() zero bytes. -EINVAL when they do not fit.
 */
int qcow2_header_encode(const struct qcow2_header *h, void *cluster, struct errmsg *e);

/* Change header fields on storage: the first block is read, patched, and written in one write.
 * Not synced. The fields are those of enum qcow2_header_at, taken from h. */
int qcow2_header_update(struct engine *engine, const struct engine_file *file, const struct qcow2_header *h);

#endif
