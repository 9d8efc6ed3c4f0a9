/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verified writes: random writes, write-zeroes, reads and flushes for a time or for ever, every read checked against
 * a model (model.h). For tests that kill the back end under load: nothing acknowledged may be lost, nothing may be
 * done again after something newer, no request may fail, every completion must be notified.
 *
 * At most one request per block is in flight, so what a read must return is never in doubt. A quarter of the
 * reads go to blocks written most recently, where a loss would be. At the end every block known is read once.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "bench.h"
#include "model.h"

enum { RECENT = 64, REAP_MAX = 128, WAIT_MS = 200, PICK_TRIES = 16 };

enum verify_phase { PHASE_LOAD, PHASE_SWEEP, PHASE_DRAIN };

struct verify {
    const struct bench_options *o;
    struct frontend *f;
    struct model model;
    enum verify_phase phase;
    uint64_t rng, sweep_next;
    uint8_t *block_busy;
    uint32_t *pending; /* per slot, all queues: the generation that is being written, 0 for reads and flushes */
    uint64_t recent[RECENT], recent_count;
    uint64_t start_ns, next_flush_ns, last_done_ns, issued;
    uint64_t reads, writes, zeroes, flushes, reconnects, missed_calls, longest_ns;
    bool flushing;
};

static volatile sig_atomic_t stop_requested;

static void on_signal(int sig)
{
    stop_requested = 1;
}

static uint32_t *pending_of(struct verify *v, const struct fe_queue *q, unsigned slot)
{
    return &v->pending[q->index * q->slot_count + slot];
}

/* ---- Choosing and submitting ---- */

static bool pick_block(struct verify *v, bool recent, uint64_t *block)
{
    for (unsigned tries = 0; tries < PICK_TRIES; tries++) {
        uint64_t have = v->recent_count < RECENT ? v->recent_count : RECENT;
        *block = recent && have ? v->recent[bench_random_below(&v->rng, have)]
                                : bench_random_below(&v->rng, v->model.block_count);
        if (!v->block_busy[*block]) return true;
    }
    return false;
}

static void add(struct verify *v, struct fe_queue *q, unsigned slot, uint32_t type, uint64_t block)
{
    struct fe_slot *s = &q->slot[slot];
    uint32_t length = type == VIRTIO_BLK_T_FLUSH ? 0 : v->model.block_bytes;
    uint64_t sector = length ? model_offset(&v->model, block) / 512 : 0;
    if (type == VIRTIO_BLK_T_WRITE_ZEROES) {
        struct virtio_blk_discard_write_zeroes z = {.sector = sector, .num_sectors = v->model.block_bytes / 512};
        z.flags = bench_random(&v->rng) & 1 ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
        memcpy(s->data, &z, sizeof z);
        length = sizeof z;
        sector = 0;
    }
    if (type != VIRTIO_BLK_T_FLUSH) v->block_busy[block] = 1;
    s->user = block;
    s->time_ns = bench_now_ns();
    v->issued++;
    fe_queue_add(q, slot, type, sector, length);
}

/* False when there is nothing to do for this slot now. */
static bool add_load(struct verify *v, struct fe_queue *q, unsigned slot)
{
    uint64_t block, now_ns = bench_now_ns();
    if (!v->flushing && v->o->flush_interval_s > 0 && now_ns >= v->next_flush_ns) {
        v->flushing = true;
        *pending_of(v, q, slot) = 0;
        add(v, q, slot, VIRTIO_BLK_T_FLUSH, 0);
        return true;
    }
    if (v->o->pace_iops > 0 && (double)v->issued >= (double)(now_ns - v->start_ns) / 1e9 * v->o->pace_iops)
        return false;
    uint64_t dice = bench_random_below(&v->rng, 100);
    if (!pick_block(v, dice < 12, &block)) return false;
    bool read = dice < 50 && model_known(&v->model, block);
    bool zero = !read && dice >= 95 && (v->f->features & (UINT64_C(1) << VIRTIO_BLK_F_WRITE_ZEROES));
    uint32_t generation = read ? 0 : model_next(&v->model, block, zero);
    *pending_of(v, q, slot) = generation;
    if (!read && !zero) model_fill(&v->model, block, generation, q->slot[slot].data);
    if (read) memset(q->slot[slot].data, 0xa5, v->model.block_bytes); /* a read that returns nothing shows */
    add(v, q, slot, read ? VIRTIO_BLK_T_IN : zero ? VIRTIO_BLK_T_WRITE_ZEROES : VIRTIO_BLK_T_OUT, block);
    return true;
}

static bool add_sweep(struct verify *v, struct fe_queue *q, unsigned slot)
{
    while (v->sweep_next < v->model.block_count && !model_known(&v->model, v->sweep_next)) {
        v->sweep_next++;
    }
    if (v->sweep_next == v->model.block_count) return false;
    *pending_of(v, q, slot) = 0;
    memset(q->slot[slot].data, 0xa5, v->model.block_bytes);
    add(v, q, slot, VIRTIO_BLK_T_IN, v->sweep_next++);
    return true;
}

static void fill_queue(struct verify *v, struct fe_queue *q)
{
    for (unsigned slot = 0; slot < q->slot_count && v->phase != PHASE_DRAIN; slot++) {
        if (q->slot[slot].busy) continue;
        if (!(v->phase == PHASE_LOAD ? add_load(v, q, slot) : add_sweep(v, q, slot))) break;
    }
    fe_queue_submit(q);
}

/* ---- Completions ---- */

static int finish(struct verify *v, struct fe_queue *q, unsigned slot, uint64_t now_ns, struct errmsg *e)
{
    struct fe_slot *s = &q->slot[slot];
    uint32_t generation = *pending_of(v, q, slot), type = s->header->type;
    uint64_t block = s->user;
    if (now_ns - s->time_ns > v->longest_ns) v->longest_ns = now_ns - s->time_ns;
    if (*s->status != VIRTIO_BLK_S_OK)
        return errmsg_set(e, EIO, "request type %u at offset %llu failed with status %u", type,
                          (unsigned long long)model_offset(&v->model, block), *s->status);
    if (type == VIRTIO_BLK_T_FLUSH) {
        v->flushes++;
        v->flushing = false;
        v->next_flush_ns = now_ns + (uint64_t)(v->o->flush_interval_s * 1e9);
        return 0;
    }
    v->block_busy[block] = 0;
    if (type == VIRTIO_BLK_T_IN) {
        v->reads++;
        return model_check(&v->model, block, s->data, e);
    }
    v->model.generation[block] = generation;
    v->recent[v->recent_count++ % RECENT] = block;
    if (type == VIRTIO_BLK_T_OUT) {
        v->writes++;
    } else {
        v->zeroes++;
    }
    return 0;
}

/* How many completed, or -errno. */
static int reap_all(struct verify *v, struct errmsg *e)
{
    int total = 0;
    for (unsigned i = 0; i < v->f->args.queues; i++) {
        struct fe_queue *q = &v->f->queue[i];
        uint16_t done[REAP_MAX];
        int n = fe_queue_reap(q, done, REAP_MAX);
        if (n < 0) return errmsg_set(e, EPROTO, "queue %u: %s", i, q->broken);
        uint64_t now_ns = bench_now_ns();
        for (int k = 0; k < n; k++) {
            int ret = finish(v, q, done[k], now_ns, e);
            if (ret < 0) return ret;
        }
        if (n) v->last_done_ns = now_ns;
        total += n;
    }
    return total;
}

static unsigned in_flight(const struct verify *v)
{
    unsigned n = 0;
    for (unsigned i = 0; i < v->f->args.queues; i++) {
        n += v->f->queue[i].in_flight;
    }
    return n;
}

/* ---- Waiting ---- */

static void want_calls(struct verify *v, bool want)
{
    for (unsigned i = 0; i < v->f->args.queues; i++) {
        fe_queue_want_calls(&v->f->queue[i], want);
    }
}

static uint64_t calls_total(const struct verify *v)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < v->f->args.queues; i++) {
        n += v->f->queue[i].calls;
    }
    return n;
}

static int check_connection(struct verify *v, struct errmsg *e)
{
    if (frontend_alive(v->f)) return 0;
    if (!v->o->reconnect) return errmsg_set(e, EPIPE, "the back end closed the connection");
    v->reconnects++;
    return frontend_attach(v->f, e);
}

static int stalled(struct verify *v, struct errmsg *e)
{
    uint64_t now_ns = bench_now_ns();
    if (in_flight(v) == 0) v->last_done_ns = now_ns;
    if ((double)(now_ns - v->last_done_ns) / 1e9 < v->o->stall_s) return 0;
    return errmsg_set(e, ETIMEDOUT, "%u requests in flight, and none completed for %.0f s", in_flight(v),
                      v->o->stall_s);
}

/* Sleep until called. A completion that shows itself without a call was not notified: a guest would hang. */
static int wait_some(struct verify *v, struct errmsg *e)
{
    uint64_t calls = calls_total(v);
    want_calls(v, true);
    int n = reap_all(v, e);
    if (n == 0 && in_flight(v)) {
        bench_wait_calls(v->f, WAIT_MS);
        bool called = calls_total(v) != calls;
        n = called || !frontend_alive(v->f) ? 0 : reap_all(v, e);
        if (n > 0) {
            bench_wait_calls(v->f, WAIT_MS); /* it may have come this instant */
            if (calls_total(v) == calls && frontend_alive(v->f)) v->missed_calls++;
        }
    } else if (n == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); /* paced: nothing to do yet */
    }
    want_calls(v, false);
    if (n < 0) return n;
    int ret = check_connection(v, e);
    return ret < 0 ? ret : stalled(v, e);
}

/* ---- Running ---- */

static void print_progress(const struct verify *v, const char *state, uint64_t now_ns)
{
    printf("{\"state\":\"%s\",\"seconds\":%.2f,\"reads\":%llu,\"writes\":%llu,\"zeroes\":%llu,\"flushes\":%llu,"
           "\"reconnects\":%llu,\"missed_calls\":%llu,\"longest_ms\":%.1f}\n",
           state, (double)(now_ns - v->start_ns) / 1e9, (unsigned long long)v->reads, (unsigned long long)v->writes,
           (unsigned long long)v->zeroes, (unsigned long long)v->flushes, (unsigned long long)v->reconnects,
           (unsigned long long)v->missed_calls, (double)v->longest_ns / 1e6);
    fflush(stdout);
}

/* Until end_ns (0: until nothing is left to do). */
static int run_phase(struct verify *v, enum verify_phase phase, uint64_t end_ns, struct errmsg *e)
{
    uint64_t next_progress_ns = bench_now_ns() + UINT64_C(1000000000);
    v->phase = phase;
    for (;;) {
        int n = reap_all(v, e);
        if (n < 0) return n;
        for (unsigned i = 0; i < v->f->args.queues; i++) {
            fill_queue(v, &v->f->queue[i]);
        }
        uint64_t now_ns = bench_now_ns();
        if (phase == PHASE_LOAD && (stop_requested || (end_ns && now_ns >= end_ns))) return 0;
        if (phase != PHASE_LOAD && in_flight(v) == 0) return 0;
        if (v->o->progress && now_ns >= next_progress_ns) {
            print_progress(v, "running", now_ns);
            next_progress_ns = now_ns + UINT64_C(1000000000);
        }
        int ret = n ? 0 : wait_some(v, e);
        if (ret < 0) return ret;
    }
}

static int run(struct verify *v, struct errmsg *e)
{
    const struct bench_options *o = v->o;
    uint64_t now_ns = bench_now_ns();
    v->start_ns = v->last_done_ns = now_ns;
    v->next_flush_ns = now_ns + (uint64_t)(o->flush_interval_s * 1e9);
    int ret = 0;
    if (!o->check_only) {
        uint64_t end_ns = o->runtime_s > 0 ? now_ns + (uint64_t)(o->runtime_s * 1e9) : 0;
        ret = run_phase(v, PHASE_LOAD, end_ns, e);
        if (ret == 0) ret = run_phase(v, PHASE_DRAIN, 0, e);
    }
    if (ret == 0) ret = run_phase(v, PHASE_SWEEP, 0, e);
    if (ret == 0 && v->missed_calls)
        ret = errmsg_set(e, EPROTO, "%llu completions were not notified", (unsigned long long)v->missed_calls);
    if (o->json || o->progress) print_progress(v, ret == 0 ? "passed" : "failed", bench_now_ns());
    return ret;
}

static int prepare(struct verify *v, struct errmsg *e)
{
    const struct bench_options *o = v->o;
    uint64_t disk = v->f->capacity_bytes, bytes = o->size_bytes;
    if (!bytes && disk > o->offset_bytes) bytes = disk - o->offset_bytes;
    if (bytes / o->block_bytes == 0 || (disk && o->offset_bytes + bytes > disk))
        return errmsg_set(e, EINVAL, "--offset and --size do not fit the disk of %llu bytes", (unsigned long long)disk);
    int ret = model_new(&v->model, o, bytes / o->block_bytes, e);
    if (ret < 0) return ret;
    if (o->model_path) {
        ret = model_load(&v->model, o->model_path, e);
        if (ret < 0 && !(ret == -ENOENT && !o->check_only)) return ret;
    }
    v->block_busy = calloc(v->model.block_count, 1);
    v->pending = calloc((size_t)v->f->args.queues * v->f->args.depth, sizeof *v->pending);
    return v->block_busy && v->pending ? 0 : errmsg_sys(e, ENOMEM, "verified writes");
}

static int verify_go(struct verify *v, struct errmsg *e)
{
    struct frontend_args a = v->o->frontend;
    a.depth = v->o->depth;
    a.slot_bytes = v->o->block_bytes;
    int ret = frontend_new(&v->f, &a, e);
    if (ret == 0) ret = frontend_attach(v->f, e);
    if (ret == 0) ret = prepare(v, e);
    if (ret == 0) ret = run(v, e);
    if (ret == 0 && v->o->model_path) ret = model_save(&v->model, v->o->model_path, e);
    if (ret == 0) ret = frontend_detach(v->f, e);
    return ret;
}

int bench_verify_writes(const struct bench_options *o)
{
    struct errmsg e = {""};
    autofree struct verify *v = calloc(1, sizeof *v);
    if (!v) return 2;
    v->o = o;
    v->rng = o->seed;
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    int ret = verify_go(v, &e);
    if (ret < 0) fprintf(stderr, "vhost-blk-bench: %s\n", e.text);
    model_clear(&v->model);
    free(v->block_busy);
    free(v->pending);
    frontend_free(v->f);
    return ret < 0 ? 1 : 0;
}
