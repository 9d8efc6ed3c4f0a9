/* SPDX-License-Identifier: Apache-2.0 */
/* What checking (qcow2_check.c) and repairing (qcow2_repair.c) share. */
#ifndef DISK_FORMAT_QCOW2_CHECK_IMPL_H
#define DISK_FORMAT_QCOW2_CHECK_IMPL_H

#include "disk/format/qcow2_image.h"
#include "disk/format/qcow2_impl.h"

struct qcow2_check_state {
    struct engine *engine;
    const struct engine_file *file;
    const struct qcow2_check_args *args;
    struct qcow2_check_result *out;
    struct errmsg *e;
    struct qcow2_header h;
    unsigned cluster_bits;
    uint64_t cluster_bytes;
    uint64_t file_bytes, file_clusters;
    uint64_t *table; /* the refcount table as stored, host order */
    uint64_t table_entries;
    struct qcow2_meta meta; /* the image's own tables */
    /* How often each host cluster is referred to, in fact. Sparse. */
    _Atomic uint32_t *counts;
    uint64_t counted_max;           /* clusters that counts has room for */
    uint64_t counted_end;           /* the last one that is referred to, plus one */
    uint64_t bad_entries;           /* that no repair can help */
    bool must_rebuild;              /* the refcount structures themselves are broken, or too small */
    uint64_t wrong_low, wrong_high; /* refcounts */
    uint64_t wrong_flags;           /* COPIED */
    uint64_t progress, progress_total;
    unsigned findings;
};

void qcow2_check_say(struct qcow2_check_state *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
int qcow2_check_read(struct qcow2_check_state *s, void *buf, uint64_t offset, uint64_t bytes, const char *what);
int qcow2_check_write(struct qcow2_check_state *s, const void *buf, uint64_t offset, uint64_t bytes, const char *what);
/* Go over COPIED flags of the active tables; `fix` writes them right. Counts what is wrong in wrong_flags. */
int qcow2_check_flags(struct qcow2_check_state *s, bool fix);
/* Go over all refcounts: compare, and where `fix_low`, `fix_high` say so, correct them in place. */
int qcow2_check_refcounts(struct qcow2_check_state *s, bool fix_low, bool fix_high);
static inline uint64_t qcow2_check_count(const struct qcow2_check_state *s, uint64_t cluster)
{
    return cluster < s->counted_max ? s->counts[cluster] : 0;
}

/* qcow2_repair.c: put the right refcounts into new structures and switch the header to them. */
int qcow2_repair_rebuild(struct qcow2_check_state *s);

#endif
