/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Growing a disk while it is in use. The mappings have room already (qcow2_map.c); on storage the L1
 * table may have to move to a larger place:
 *
 *   new table written in full -> sync -> header (offset, entries) -> sync -> old clusters free
 *   what lies past the old end, which nobody could see, is made to read as zeroes -> sync -> header (size) -> sync
 *
 * A header that could not be written may be on storage all the same: the next commit writes it again first (qcow2_settle.c).
 * Shrinking would throw away data under a running guest and is refused.
 */
#include "disk/format/qcow2_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct resize {
    uint64_t size_bytes;
    struct errmsg *e;
};

static uint64_t table_clusters(const struct qcow2 *q, uint64_t entries)
{
    return div_round_up(entries * 8, q->cluster_bytes);
}

static int write_table(struct qcow2 *q, uint64_t offset, uint64_t entries)
{
    uint64_t bytes = table_clusters(q, entries) << q->cluster_bits;
    autofree struct be64 *raw = aligned_alloc(4096, align_up(bytes, 4096));
    if (!raw) return -ENOMEM;
    memset(raw, 0, bytes);
    for (uint64_t i = 0; i < q->l1_entries; i++)
        raw[i] = be64_make(atomic_load_explicit(&q->l1[i], memory_order_relaxed));
    return qcow2_meta_write(q, QCOW2_META_L1, raw, offset, bytes);
}

static int move_table(struct qcow2 *q, uint64_t entries)
{
    uint64_t count = table_clusters(q, entries), first, got;
    bool zero;
    int ret = qcow2_refs_take(q, count, count, &first, &got, &zero);
    if (ret < 0) return ret;
    enum qcow2_meta_type other;
    ret = qcow2_meta_add(&q->meta, first, count, QCOW2_META_L1, &other);
    if (ret == 0) ret = write_table(q, first << q->cluster_bits, entries);
    if (ret == 0) ret = qcow2_sync(q);
    if (ret < 0) {
        qcow2_meta_remove(&q->meta, first, count);
        qcow2_refs_give_back(q, first, count);
        return ret;
    }
    engine_point(q->keeper.engine, "qcow2-l1-synced");
    struct qcow2_freed old = {q->header.l1_offset >> q->cluster_bits, table_clusters(q, q->header.l1_entries)};
    q->header.l1_offset = first << q->cluster_bits;
    q->header.l1_entries = (uint32_t)entries;
    q->l1_entries = (uint32_t)entries;
    ret = qcow2_switch_header(q, old);
    engine_point(q->keeper.engine, "qcow2-l1-switched");
    return ret;
}

/* Entries between the old end and the new one that say anything: stale data, or a base that is longer than we were. */
static int clear_grown(struct qcow2 *q, uint64_t from, uint64_t to)
{
    uint64_t below = q->layer.below ? layer_size(q->layer.below) : 0;
    bool hide = q->layer.below ? below > from << q->cluster_bits : q->has_backing;
    uint64_t hide_to = q->layer.below ? min_u64(qcow2_cluster_count(q, below), to) : to;
    if (hide && q->header.version < 3) return -ENOTSUP;
    uint64_t last_table = q->l1_entries ? ((uint64_t)q->l1_entries << q->l2_bits) - 1 : 0;
    for (uint64_t i = from; i < to && (i <= last_table || (hide && i < hide_to)); i++) {
        int ret = qcow2_load_now(q, qcow2_slice_of(q, i));
        if (ret < 0) return ret;
        pthread_mutex_lock(&q->lock);
        bool promised = qcow2_log_promise(q, 1);
        if (promised) {
            uint64_t entry = hide && i < hide_to ? QCOW2_ZERO : 0;
            if (atomic_load_explicit(&q->shadow[i], memory_order_relaxed) == entry) q->log.promised--;
            else qcow2_log_publish(q, i, entry);
        }
        pthread_mutex_unlock(&q->lock);
        if (promised) continue;
        ret = qcow2_commit(q, false);
        if (ret < 0) return ret;
        i--;
    }
    return 0;
}

static int grow_tables_call(struct qcow2 *q, void *arg)
{
    struct resize *r = arg;
    uint64_t size = layer_size(&q->layer);
    uint64_t entries = qcow2_l1_entries_for(r->size_bytes, q->cluster_bits);
    int ret = qcow2_commit(q, true); /* L1 entries of new tables are on storage */
    if (ret < 0) return errmsg_sys(r->e, -ret, "%s: growing it: writing its tables", q->layer.name);
    if (entries > q->l1_entries) ret = move_table(q, entries);
    if (ret < 0) return errmsg_sys(r->e, -ret, "%s: growing it: a larger L1 table", q->layer.name);
    ret = clear_grown(q, qcow2_cluster_count(q, size), qcow2_cluster_count(q, r->size_bytes));
    return ret < 0 ? errmsg_sys(r->e, -ret, "%s: growing it: clearing what it grows by", q->layer.name) : 0;
}

static int grow_size_call(struct qcow2 *q, void *arg)
{
    struct resize *r = arg;
    int ret = qcow2_commit(q, true);
    if (ret < 0) return errmsg_sys(r->e, -ret, "%s: growing it: clearing what it grows by", q->layer.name);
    engine_point(q->keeper.engine, "qcow2-grow-cleared");
    uint64_t old_bytes = q->header.size_bytes;
    q->header.size_bytes = r->size_bytes;
    ret = qcow2_switch_header(q, (struct qcow2_freed){0});
    engine_point(q->keeper.engine, "qcow2-grow-switched");
    if (ret < 0) q->header.size_bytes = old_bytes; /* which is what is written again */
    if (ret < 0) return errmsg_sys(r->e, -ret, "%s: growing it: writing the header", q->layer.name);
    atomic_store_explicit(&q->layer.size_bytes, r->size_bytes, memory_order_release);
    return 0;
}

/* ---- the rest of the last cluster: a write like the guest's, on a thread that has a channel ---- */

struct last_part {
    struct mail mail;
    struct qcow2_chan *chan;
    struct disk_req req;
    int ret;
    bool finished;
    pthread_mutex_t lock;
    pthread_cond_t done;
};

static void last_part_done(struct disk_req *req, int ret)
{
    struct last_part *p = container_of(req, struct last_part, req);
    pthread_mutex_lock(&p->lock);
    p->ret = ret;
    p->finished = true;
    pthread_cond_signal(&p->done);
    pthread_mutex_unlock(&p->lock);
}

static void last_part_arrived(struct mail *m)
{
    struct last_part *p = container_of(m, struct last_part, mail);
    qcow2_submit_inside(p->chan, &p->req);
}

/* Somebody serves requests: let him do it. */
static int zero_by_channel(struct qcow2 *q, struct last_part *p, bool *found)
{
    pthread_mutex_lock(&q->lock);
    *found = !list_empty(&q->chans);
    if (*found) {
        p->chan = list_entry(q->chans.next, struct qcow2_chan, node);
        mailbox_post(&p->chan->box, &p->mail);
    }
    pthread_mutex_unlock(&q->lock);
    if (!*found) return 0;
    pthread_mutex_lock(&p->lock);
    while (!p->finished)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return p->ret;
}

/* Nobody does: with a channel of our own. */
static int zero_alone(struct qcow2 *q, struct last_part *p)
{
    struct engine *engine;
    struct layer_chan *chan;
    if (q->layer.below) return -ENOTSUP; /* its channels are not ours to make */
    int ret = q->maker->make(q->maker->arg, &engine, NULL);
    if (ret < 0) return ret;
    ret = qcow2_chan_open(&q->layer, engine, NULL, &chan);
    if (ret == 0) {
        p->chan = qcow2_chan_of(chan);
        qcow2_submit_inside(p->chan, &p->req);
        while (!p->finished)
            engine_sleep(engine, UINT64_MAX);
        ret = p->ret;
        qcow2_chan_close(chan);
    }
    engine_free(engine);
    return ret;
}

static int zero_last_part(struct qcow2 *q, uint64_t from, uint64_t to)
{
    if (from >= to) return 0;
    struct last_part p = {
        .mail.run = last_part_arrived,
        .req = {.op = DISK_WRITE_ZEROES, .offset_bytes = from, .length_bytes = to - from, .done = last_part_done}};
    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.done, NULL);
    bool found;
    int ret = zero_by_channel(q, &p, &found);
    if (!found) ret = zero_alone(q, &p);
    pthread_cond_destroy(&p.done);
    pthread_mutex_destroy(&p.lock);
    return ret;
}

static int grow(struct qcow2 *q, struct resize *r)
{
    uint64_t size = layer_size(&q->layer);
    int ret = qcow2_keeper_call(q, grow_tables_call, r);
    if (ret < 0) return ret;
    ret = zero_last_part(q, size, min_u64(align_up(size, q->cluster_bytes), r->size_bytes));
    if (ret < 0) return errmsg_sys(r->e, -ret, "%s: growing it: zeroing the rest of its last cluster", q->layer.name);
    return qcow2_keeper_call(q, grow_size_call, r);
}

int qcow2_resize(struct layer *l, uint64_t new_size_bytes, struct errmsg *e)
{
    struct qcow2 *q = qcow2_of(l);
    uint64_t size = layer_size(l), most = q->clusters_max << q->cluster_bits;
    if (!l->writable) return errmsg_set(e, EROFS, "%s: it is open read-only", l->name);
    if (new_size_bytes % DISK_SECTOR_BYTES)
        return errmsg_set(e, EINVAL, "%s: %" PRIu64 " bytes is no multiple of %u", l->name, new_size_bytes,
                          DISK_SECTOR_BYTES);
    if (new_size_bytes < size)
        return errmsg_set(e, ENOTSUP,
                          "%s: it has %" PRIu64 " bytes and cannot shrink to %" PRIu64 " while it is in use", l->name,
                          size, new_size_bytes);
    if (new_size_bytes > most || qcow2_l1_entries_for(new_size_bytes, q->cluster_bits) * 8 > QCOW2_L1_MAX_BYTES)
        return errmsg_set(e, EFBIG,
                          "%s: %" PRIu64 " bytes is more than the %" PRIu64 " that it can grow to while it is open",
                          l->name, new_size_bytes, most);
    return new_size_bytes == size ? 0 : grow(q, &(struct resize){new_size_bytes, e});
}
