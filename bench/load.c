/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load mode: a fixed number of requests in flight on each queue for a fixed time.
 *
 * Each queue has twice as many slots as its depth. When requests complete, as many free slots are submitted
 * first, and only then is what came back checked: the back end never waits for the check, as it
 * would not wait for a guest's application.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "bench.h"
#include "histogram.h"

enum { REAP_MAX = 256, IDLE_PASSES = 4096 };

struct load_queue {
    struct fe_queue *q;
    uint16_t *free_slots;
    unsigned free_count;
    uint64_t cursor, first_block, block_count; /* sequential: this queue's share of the disk */
};

struct load {
    const struct bench_options *o;
    struct frontend *f;
    struct load_queue *lq;
    uint64_t rng;
    uint64_t blocks;
    bool measuring, stopping;
    uint64_t ios, errors, mismatches, passes, idle_passes, reconnects;
    struct histogram latency;
    char first_failure[256];
};

static bool is_random(enum bench_rw rw)
{
    return rw == RW_RANDREAD || rw == RW_RANDWRITE || rw == RW_RANDRW;
}

static bool next_is_write(struct load *l)
{
    if (l->o->rw == RW_RANDRW) return bench_random(&l->rng) & 1;
    return l->o->rw == RW_WRITE || l->o->rw == RW_RANDWRITE;
}

static uint64_t next_offset(struct load *l, struct load_queue *lq)
{
    uint64_t block;
    if (is_random(l->o->rw)) {
        block = bench_random_below(&l->rng, l->blocks);
    } else {
        block = lq->first_block + lq->cursor;
        if (++lq->cursor == lq->block_count) lq->cursor = 0;
    }
    return l->o->offset_bytes + block * l->o->block_bytes;
}

static void issue(struct load *l, struct load_queue *lq, uint64_t now_ns)
{
    unsigned slot = lq->free_slots[--lq->free_count];
    struct fe_slot *s = &lq->q->slot[slot];
    uint64_t offset = next_offset(l, lq);
    bool write = next_is_write(l);
    if (write && l->o->verify) pattern_fill(s->data, offset, l->o->block_bytes);
    s->user = offset;
    s->time_ns = now_ns;
    fe_queue_add(lq->q, slot, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, offset / 512, l->o->block_bytes);
}

static void note_failure(struct load *l, const char *what, const struct fe_slot *s, int64_t at)
{
    if (l->first_failure[0]) return;
    snprintf(l->first_failure, sizeof l->first_failure, "%s of %u bytes at %llu: %s (status %u, at +%lld)",
             s->device_writes ? "read" : "write", s->length, (unsigned long long)s->user, what, *s->status,
             (long long)at);
}

static void finish(struct load *l, struct load_queue *lq, unsigned slot)
{
    struct fe_slot *s = &lq->q->slot[slot];
    if (*s->status != VIRTIO_BLK_S_OK) {
        l->errors++;
        note_failure(l, "failed", s, 0);
    } else if (s->device_writes && l->o->verify) {
        int64_t at = pattern_check(s->data, s->user, s->length, l->o->verify);
        if (at >= 0) {
            l->mismatches++;
            note_failure(l, "wrong content", s, at);
        }
    }
    lq->free_slots[lq->free_count++] = (uint16_t)slot;
}

/* One look at one queue. How many requests had completed, or -EPROTO. */
static int pump(struct load *l, struct load_queue *lq)
{
    uint16_t done[REAP_MAX];
    int n = fe_queue_reap(lq->q, done, REAP_MAX);
    if (n <= 0) return n;
    uint64_t now_ns = bench_now_ns();
    unsigned again = l->stopping ? 0 : (unsigned)n;
    for (unsigned i = 0; i < again && lq->free_count; i++) {
        issue(l, lq, now_ns);
    }
    fe_queue_submit(lq->q);
    for (int i = 0; i < n; i++) {
        if (l->measuring) histogram_add(&l->latency, now_ns - lq->q->slot[done[i]].time_ns);
        finish(l, lq, done[i]);
    }
    if (l->measuring) l->ios += (unsigned)n;
    return n;
}

static int pump_all(struct load *l)
{
    int total = 0;
    for (unsigned i = 0; i < l->f->args.queues; i++) {
        int n = pump(l, &l->lq[i]);
        if (n < 0) return n;
        total += n;
    }
    return total;
}

static unsigned in_flight(const struct load *l)
{
    unsigned n = 0;
    for (unsigned i = 0; i < l->f->args.queues; i++) {
        n += l->lq[i].q->in_flight;
    }
    return n;
}

static int lost(struct load *l, struct errmsg *e)
{
    if (frontend_alive(l->f)) return 0;
    if (!l->o->reconnect) return errmsg_set(e, EPIPE, "the back end closed the connection");
    l->reconnects++;
    return frontend_attach(l->f, e);
}

/* Nothing had completed: spin, or sleep until something may have. */
static int idle(struct load *l, unsigned *spins, struct errmsg *e)
{
    if (l->o->sleep) {
        for (unsigned i = 0; i < l->f->args.queues; i++) {
            fe_queue_want_calls(l->lq[i].q, true);
        }
        int n = pump_all(l);
        if (n == 0) bench_wait_calls(l->f, 100);
        for (unsigned i = 0; i < l->f->args.queues; i++) {
            fe_queue_want_calls(l->lq[i].q, false);
        }
        return lost(l, e);
    }
    __builtin_ia32_pause();
    if (++*spins < IDLE_PASSES) return 0;
    *spins = 0;
    return lost(l, e);
}

/* Pump until the time is reached, or with 0 until nothing is in flight. */
static int run_until(struct load *l, uint64_t end_ns, struct errmsg *e)
{
    uint64_t deadline_ns = bench_now_ns() + UINT64_C(30000000000);
    for (unsigned pass = 0, spins = 0;; pass++) {
        int n = pump_all(l);
        if (n < 0) return errmsg_set(e, EPROTO, "%s", l->lq[0].q->broken ? l->lq[0].q->broken : "a queue broke");
        l->passes++;
        if (n == 0) {
            l->idle_passes++;
            int ret = idle(l, &spins, e);
            if (ret < 0) return ret;
        }
        if (end_ns == 0 && in_flight(l) == 0) return 0;
        if (pass % 16 && !l->o->sleep) continue;
        uint64_t now_ns = bench_now_ns();
        if (end_ns && now_ns >= end_ns) return 0;
        if (!end_ns && now_ns >= deadline_ns)
            return errmsg_set(e, ETIMEDOUT, "%u requests did not complete within 30 s", in_flight(l));
    }
}

static void measure_start(struct load *l)
{
    memset(&l->latency, 0, sizeof l->latency);
    l->ios = l->passes = l->idle_passes = 0;
    l->measuring = true;
}

/* ---- Result ---- */

static double us(uint64_t ns)
{
    return (double)ns / 1e3;
}

static void print_json(const struct load *l, double seconds, double cpu_s)
{
    const struct bench_options *o = l->o;
    const struct histogram *h = &l->latency;
    static const char *const names[] = {"read", "write", "randread", "randwrite", "randrw"};
    uint64_t kicks = 0, calls = 0;
    for (unsigned i = 0; i < l->f->args.queues; i++) {
        kicks += l->lq[i].q->kicks;
        calls += l->lq[i].q->calls;
    }
    printf("{\"rw\":\"%s\",\"bs\":%u,\"iodepth\":%u,\"queues\":%u,\"packed\":%s,\"event_idx\":%s,\"indirect\":%s,",
           names[o->rw], o->block_bytes, o->depth, l->f->args.queues, l->lq[0].q->packed ? "true" : "false",
           l->lq[0].q->event_idx ? "true" : "false", l->lq[0].q->indirect ? "true" : "false");
    printf("\"seconds\":%.4f,\"ios\":%llu,\"iops\":%.1f,\"bytes_per_s\":%.0f,", seconds, (unsigned long long)l->ios,
           (double)l->ios / seconds, (double)l->ios * o->block_bytes / seconds);
    printf("\"latency_us\":{\"mean\":%.2f,\"p50\":%.2f,\"p90\":%.2f,\"p99\":%.2f,\"p999\":%.2f,\"max\":%.2f},",
           h->count ? us(h->sum) / (double)h->count : 0, us(histogram_percentile(h, 50)),
           us(histogram_percentile(h, 90)), us(histogram_percentile(h, 99)), us(histogram_percentile(h, 99.9)),
           us(h->max));
    printf("\"errors\":%llu,\"mismatches\":%llu,\"verify\":%d,\"kicks\":%llu,\"calls\":%llu,\"reconnects\":%llu,",
           (unsigned long long)l->errors, (unsigned long long)l->mismatches, (int)o->verify, (unsigned long long)kicks,
           (unsigned long long)calls, (unsigned long long)l->reconnects);
    printf("\"idle_passes\":%.3f,\"generator_cpu_s\":%.3f}\n",
           l->passes ? (double)l->idle_passes / (double)l->passes : 0, cpu_s);
}

static void print_text(const struct load *l, double seconds)
{
    const struct histogram *h = &l->latency;
    printf("%.0f IOPS, %.1f MB/s over %.2f s; latency us: mean %.1f, p50 %.1f, p99 %.1f, p99.9 %.1f, max %.1f\n",
           (double)l->ios / seconds, (double)l->ios * l->o->block_bytes / seconds / 1e6, seconds,
           h->count ? us(h->sum) / (double)h->count : 0, us(histogram_percentile(h, 50)),
           us(histogram_percentile(h, 99)), us(histogram_percentile(h, 99.9)), us(h->max));
    printf("errors %llu, wrong content %llu%s\n", (unsigned long long)l->errors, (unsigned long long)l->mismatches,
           l->o->verify ? "" : " (not looked for)");
}

/* ---- Setting up ---- */

static int check_size(struct load *l, struct errmsg *e)
{
    const struct bench_options *o = l->o;
    uint64_t disk = l->f->capacity_bytes;
    if (disk == 0 && o->size_bytes == 0)
        return errmsg_set(e, EINVAL, "the back end does not tell its size: give --size");
    uint64_t end = o->size_bytes ? o->offset_bytes + o->size_bytes : disk;
    if (disk && end > disk)
        return errmsg_set(e, EINVAL, "--offset and --size reach to %llu, the disk has %llu bytes",
                          (unsigned long long)end, (unsigned long long)disk);
    l->blocks = end > o->offset_bytes ? (end - o->offset_bytes) / o->block_bytes : 0;
    if (l->blocks < l->f->args.queues) return errmsg_set(e, EINVAL, "the disk is smaller than a block per queue");
    return 0;
}

static int queues_prepare(struct load *l, struct errmsg *e)
{
    unsigned queues = l->f->args.queues;
    l->lq = calloc(queues, sizeof *l->lq);
    if (!l->lq) return errmsg_sys(e, ENOMEM, "queues");
    for (unsigned i = 0; i < queues; i++) {
        struct load_queue *lq = &l->lq[i];
        struct fe_queue *q = &l->f->queue[i];
        lq->q = q;
        lq->block_count = l->blocks / queues;
        lq->first_block = i * lq->block_count;
        lq->free_slots = calloc(q->slot_count, sizeof *lq->free_slots);
        if (!lq->free_slots) return errmsg_sys(e, ENOMEM, "queues");
        for (unsigned s = q->slot_count; s-- > 0;) {
            lq->free_slots[lq->free_count++] = (uint16_t)s;
            for (uint32_t at = 0; at < l->o->block_bytes; at += 8) {
                uint64_t w = bench_random(&l->rng);
                memcpy(q->slot[s].data + at, &w, sizeof w);
            }
        }
    }
    return 0;
}

static void prime(struct load *l)
{
    uint64_t now_ns = bench_now_ns();
    for (unsigned i = 0; i < l->f->args.queues; i++) {
        for (unsigned n = 0; n < l->o->depth; n++) {
            issue(l, &l->lq[i], now_ns);
        }
        fe_queue_submit(l->lq[i].q);
    }
}

static int run(struct load *l, struct errmsg *e)
{
    const struct bench_options *o = l->o;
    prime(l);
    int ret = run_until(l, bench_now_ns() + (uint64_t)(o->ramp_s * 1e9) + 1, e);
    if (ret < 0) return ret;
    measure_start(l);
    uint64_t start_ns = bench_now_ns(), cpu_ns = bench_cpu_ns();
    ret = run_until(l, start_ns + (uint64_t)(o->runtime_s * 1e9), e);
    double seconds = (double)(bench_now_ns() - start_ns) / 1e9, cpu_s = (double)(bench_cpu_ns() - cpu_ns) / 1e9;
    l->measuring = false;
    l->stopping = true;
    if (ret == 0) ret = run_until(l, 0, e);
    if (ret < 0) return ret;
    if (o->json) {
        print_json(l, seconds, cpu_s);
    } else {
        print_text(l, seconds);
    }
    return 0;
}

static int load_go(struct load *l, struct errmsg *e)
{
    struct frontend_args a = l->o->frontend;
    a.depth = l->o->depth * 2;
    a.slot_bytes = l->o->block_bytes;
    int ret = frontend_new(&l->f, &a, e);
    if (ret == 0) ret = frontend_attach(l->f, e);
    if (ret == 0) ret = check_size(l, e);
    if (ret == 0) ret = queues_prepare(l, e);
    if (ret == 0) ret = run(l, e);
    if (ret == 0) ret = frontend_detach(l->f, e);
    return ret;
}

int bench_load(const struct bench_options *o)
{
    struct errmsg e = {""};
    autofree struct load *l = calloc(1, sizeof *l);
    if (!l) return 2;
    l->o = o;
    l->rng = o->seed;
    int ret = load_go(l, &e);
    for (unsigned i = 0; l->lq && i < l->f->args.queues; i++) {
        free(l->lq[i].free_slots);
    }
    free(l->lq);
    frontend_free(l->f);
    if (ret < 0) fprintf(stderr, "vhost-blk-bench: %s\n", e.text);
    if (l->first_failure[0]) fprintf(stderr, "vhost-blk-bench: %s\n", l->first_failure);
    return ret < 0 ? 2 : l->errors || l->mismatches ? 1 : 0;
}
