/* SPDX-License-Identifier: Apache-2.0 */
/* What the qcow2 layer keeps in the stash (qcow2_log.c says how it stays readable at every moment). */
#ifndef DISK_FORMAT_QCOW2_STASH_H
#define DISK_FORMAT_QCOW2_STASH_H

#include "disk/format/qcow2_impl.h"

#define QCOW2_STASH_MAGIC UINT64_C(0x3268736174533271) /* "q2Stash2" */
#define QCOW2_STASH_VERSION 1u
#define QCOW2_STASH_HEAD_BYTES 8192u
#define QCOW2_STASH_MIN_BYTES 32768u

struct qcow2_stash_head {
    _Atomic uint64_t magic;
    uint32_t version;
    uint32_t cluster_bits;
    uint64_t device, inode; /* of the image file */
    uint64_t capacity;      /* records per half */
    uint64_t reserved[3];
    _Atomic uint64_t active; /* 0 or 1; records of the other half are older */
    uint64_t pad[7];
    struct {
        _Atomic uint64_t count;
        uint64_t pad[7];
    } half[2];
    _Atomic uint64_t pool[QCOW2_POOL_RUNS];
    _Atomic uint64_t slots[QCOW2_STASH_SLOTS];
};
static_assert(sizeof(struct qcow2_stash_head) <= QCOW2_STASH_HEAD_BYTES, "the records begin after the head");

/* Host clusters [first, first + count) in one word: stored and loaded at once. */
static inline uint64_t qcow2_stash_run(uint64_t first, uint64_t count)
{
    assert(first < UINT64_C(1) << 48 && count < 65536);
    return count ? first << 16 | count : 0;
}

int qcow2_stash_identity(struct qcow2 *q, struct qcow2_stash_head *out);
int qcow2_stash_format(struct qcow2 *q);
void qcow2_log_mark(struct qcow2 *q, unsigned half, uint64_t index);
void qcow2_log_note_replaced(struct qcow2 *q, unsigned half, uint64_t old, uint64_t entry);

#endif
