/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Switching from one table to another, where that can fail: the header, when a table has moved, and an entry of the
 * refcount table, when there is a new block.
 *
 * A write or sync that failed may have reached storage all the same, now or later, so storage has the old form or
 * the new one, and which is not known. Both are sound: what is new is complete and durable before the switch, and says the
 * same as what is old. That ends with the next change, which goes into one of the two only. So the switch stays in memory, the
 * old table stays taken, and every change that builds on it, a commit or an allocation, first writes it again, and
 * fails if that fails. Undoing it instead would be one more write that can fail.
 */
#include "disk/format/qcow2_impl.h"

static int settle_header(struct qcow2 *q)
{
    struct qcow2_unsettled *u = &q->unsettled;
    if (!u->header) return 0;
    int ret = qcow2_header_update(q->keeper.engine, q->file, &q->header);
    if (ret == 0) ret = qcow2_sync(q);
    if (ret < 0) return ret;
    struct qcow2_freed old = u->old;
    u->header = false;
    u->old = (struct qcow2_freed){0};
    if (!old.count) return 0;
    qcow2_meta_remove(&q->meta, old.first, old.count);
    qcow2_refs_give_back(q, old.first, old.count);
    return 0;
}

int qcow2_switch_header(struct qcow2 *q, struct qcow2_freed old)
{
    assert(!q->unsettled.header); /* whoever switches has settled first */
    q->unsettled.header = true;
    q->unsettled.old = old;
    return settle_header(q);
}

static int settle_entry(struct qcow2 *q)
{
    struct qcow2_unsettled *u = &q->unsettled;
    if (!u->entry) return 0;
    int ret = qcow2_refs_write_entry(q, u->region);
    if (ret == 0) u->entry = false;
    return ret;
}

int qcow2_switch_entry(struct qcow2 *q, uint64_t region, uint64_t offset_bytes)
{
    assert(!q->unsettled.entry);
    q->refs.table[region] = offset_bytes;
    q->unsettled.entry = true;
    q->unsettled.region = region;
    return settle_entry(q);
}

/* The header first: it says where the refcount table is. */
int qcow2_settle(struct qcow2 *q)
{
    int ret = settle_header(q);
    return ret < 0 ? ret : settle_entry(q);
}
