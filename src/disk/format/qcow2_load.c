/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading slices of L2 tables: what the keeper does when a queue thread met an absent one. Several
 * loads run at once; requests that want the same slice wait for the same load.
 *
 * A slice is a piece of one L2 table, or, where tables are smaller than 4 KiB, several tables.
 */
#include "disk/format/qcow2_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TABLES_MAX 8u /* of 512 bytes in the smallest slice */

struct load;

struct load_read {
    struct load *load;
    struct engine_io io;
    struct iovec iov;
};

struct load {
    struct list node; /* keeper.loads */
    struct list waiters;
    struct qcow2 *q;
    uint64_t slice;
    struct be64 *entries;
    unsigned reads; /* in flight */
    int error;
    unsigned tables;
    uint64_t l1[TABLES_MAX]; /* entries of these tables as they were when the reads began */
    struct load_read read[TABLES_MAX];
};

static void load_free(struct load *l)
{
    if (!l) return;
    free(l->entries);
    free(l);
}

static struct load *load_new(struct qcow2 *q, uint64_t slice)
{
    struct load *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    size_t bytes = (size_t)8 << q->slice_bits;
    l->entries = aligned_alloc(4096, bytes);
    if (!l->entries) {
        free(l);
        return NULL;
    }
    memset(l->entries, 0, bytes);
    l->q = q;
    l->slice = slice;
    list_init(&l->waiters);
    return l;
}

static void table_read(struct engine_io *io, int res);

/* Describe the reads of a slice; returns how many there are. */
static unsigned load_plan(struct load *l)
{
    struct qcow2 *q = l->q;
    uint64_t index = l->slice << q->slice_bits, end = index + (UINT64_C(1) << q->slice_bits);
    char *to = (char *)l->entries;
    unsigned n = 0;
    l->tables = 0;
    while (index < end) {
        uint64_t in_table = index & ((UINT64_C(1) << q->l2_bits) - 1);
        uint64_t count = min_u64(end - index, (UINT64_C(1) << q->l2_bits) - in_table);
        uint64_t l1 = atomic_load_explicit(&q->l1[index >> q->l2_bits], memory_order_acquire);
        uint64_t table = l1 & QCOW2_OFFSET_MASK;
        l->l1[l->tables++] = l1;
        if (table) {
            struct load_read *r = &l->read[n++];
            *r = (struct load_read){.load = l, .iov = {to, count * 8}};
            r->io = (struct engine_io){.op = ENGINE_READ,
                                       .file = q->file,
                                       .offset_bytes = table + in_table * 8,
                                       .length_bytes = count * 8,
                                       .iov = &r->iov,
                                       .iov_count = 1,
                                       .done = table_read};
        }
        to += count * 8;
        index += count;
    }
    return n;
}

static void load_begin(struct load *l);

/* A commit may have put a table of our own in the place of a shared one meanwhile. What was read there had flags that mean
 * nothing in ours, and the cluster may have been freed before it was read. */
static bool tables_replaced(const struct load *l)
{
    struct qcow2 *q = l->q;
    uint64_t first = (l->slice << q->slice_bits) >> q->l2_bits;
    for (unsigned i = 0; i < l->tables; i++)
        if (atomic_load_explicit(&q->l1[first + i], memory_order_relaxed) != l->l1[i]) return true;
    return false;
}

static void load_end(struct load *l)
{
    struct qcow2 *q = l->q;
    if (tables_replaced(l)) {
        load_begin(l);
        return;
    }
    if (l->error)
        log_limited(LOG_LEVEL_ERROR, "%s: reading the L2 entries of guest cluster %" PRIu64 " on: %s", q->layer.name,
                    l->slice << q->slice_bits, strerror(-l->error));
    else qcow2_map_install(q, l->slice, l->entries);
    list_remove(&l->node);
    struct list *node;
    while ((node = list_pop_front(&l->waiters))) {
        struct qcow2_op *op = list_entry(node, struct qcow2_op, wait_node);
        if (!l->error) qcow2_map_pin_for(q, op);
        qcow2_keeper_answer(op, l->error);
    }
    load_free(l);
}

static void table_read(struct engine_io *io, int res)
{
    struct load *l = container_of(io, struct load_read, io)->load;
    if (res < 0) l->error = res;
    if (--l->reads == 0) load_end(l);
}

static void load_begin(struct load *l)
{
    l->error = 0;
    l->reads = load_plan(l);
    if (l->reads == 0) {
        load_end(l); /* every table of it is absent */
        return;
    }
    for (unsigned i = 0, n = l->reads; i < n; i++)
        engine_submit(l->q->keeper.engine, &l->read[i].io);
}

void qcow2_load_start(struct qcow2 *q, struct qcow2_op *op)
{
    uint64_t slice = qcow2_slice_of(q, op->want_index);
    if (qcow2_slice_present(q, slice)) {
        qcow2_map_pin_for(q, op);
        qcow2_keeper_answer(op, 0);
        return;
    }
    LIST_FOR_EACH (node, &q->keeper.loads) {
        struct load *l = list_entry(node, struct load, node);
        if (l->slice != slice) continue;
        list_push_back(&l->waiters, &op->wait_node);
        return;
    }
    struct load *l = load_new(q, slice);
    if (!l) {
        qcow2_keeper_answer(op, -ENOMEM);
        return;
    }
    list_push_back(&q->keeper.loads, &l->node);
    list_push_back(&l->waiters, &op->wait_node);
    load_begin(l);
}

int qcow2_load_now(struct qcow2 *q, uint64_t slice)
{
    if (qcow2_slice_present(q, slice)) return 0;
    struct load *l = load_new(q, slice);
    if (!l) return -ENOMEM;
    list_init(&l->node);
    unsigned n = load_plan(l);
    int ret = 0;
    for (unsigned i = 0; i < n && ret == 0; i++) {
        struct load_read *r = &l->read[i];
        ret = engine_read_now(q->keeper.engine, q->file, r->iov.iov_base, r->io.offset_bytes, r->io.length_bytes);
    }
    if (ret == 0) qcow2_map_install(q, slice, l->entries);
    load_free(l);
    return ret;
}
