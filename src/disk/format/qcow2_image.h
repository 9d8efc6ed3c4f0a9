/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole qcow2 images, as tools see them: snapshots, creating, checking and repairing. Blocking; over
 * an engine and a file that nobody else uses.
 */
#ifndef DISK_FORMAT_QCOW2_IMAGE_H
#define DISK_FORMAT_QCOW2_IMAGE_H

#include "disk/disk.h"
#include "disk/format/qcow2_format.h"

/* An internal snapshot, as far as its tables go. */
struct qcow2_snapshot {
    uint64_t l1_offset;
    uint32_t l1_entries;
    char name[64]; /* printable, cut */
};

/*
 * Read the snapshot table and call `each` for every snapshot, whose tables have been checked to lie inside the
 * file (file_bytes). *table_bytes is the table's length. 0 or -errno; what `each` returns below 0 ends the walk.
 */
int qcow2_snapshots_read(struct engine *engine, const struct engine_file *file, const struct qcow2_header *h,
                         uint64_t file_bytes, int (*each)(void *arg, const struct qcow2_snapshot *s, struct errmsg *e),
                         void *arg, uint64_t *table_bytes, struct errmsg *e);

struct qcow2_create_args {
    uint64_t size_bytes;
    uint32_t version; /* 2 or 3 */
    unsigned cluster_bits;
    unsigned refcount_order;
    enum qcow2_compression compression;
    const char *backing_name, *backing_format; /* recorded only; NULL: none */
    enum { QCOW2_PREALLOCATE_NONE, QCOW2_PREALLOCATE_METADATA, QCOW2_PREALLOCATE_FULL } preallocate;
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* may be NULL */
    void *progress_arg;
};

/* Write a new image into an empty file (or a block device). Synced on success. */
int qcow2_create(struct engine *engine, const struct engine_file *file, const struct qcow2_create_args *args,
                 struct errmsg *e);

#define QCOW2_CHECK_FINDINGS_MAX 100u /* reported one by one; more are only counted */

struct qcow2_check_args {
    bool repair_leaks; /* lower refcounts that are too high */
    bool repair_all;   /* ... and rebuild everything that can be derived from the L1 and L2 tables */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* may be NULL */
    void *progress_arg;
    void (*finding)(void *arg, const char *text); /* one line per inconsistency; may be NULL */
    void *finding_arg;
};

struct qcow2_check_result {
    uint64_t errors; /* inconsistencies that can lose data */
    uint64_t leaks;  /* clusters whose refcount is too high */
    uint64_t errors_fixed, leaks_fixed;
    uint64_t allocated_clusters, total_clusters, compressed_clusters, fragmented_clusters;
    uint64_t end_bytes; /* where the used part of the file ends */
};

/* 0 when the check could be made (whatever it found), else -errno. */
int qcow2_check(struct engine *engine, const struct engine_file *file, const struct qcow2_check_args *args,
                struct qcow2_check_result *out, struct errmsg *e);

/* After an unclean shutdown with lazy refcounts: make all refcounts what the tables say, and clear the dirty bit. */
int qcow2_rebuild_refcounts(struct engine *engine, const struct engine_file *file, struct errmsg *e);

#endif
