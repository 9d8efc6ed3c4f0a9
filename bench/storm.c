/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A boot storm with no virtual machines: N front ends replay one trace (trace.h) at once, each on its own disk.
 * Reads are checked: the disks' base has the pattern for content, and writes write the pattern too.
 *
 * One thread goes round all guests; a guest submits until its slots are full, the trace says wait, or it
 * thinks. With nothing to do anywhere the thread sleeps a little rather than compete with the back ends.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "bench.h"
#include "histogram.h"
#include "trace.h"

enum { GUEST_DEPTH = 16, IDLE_ROUNDS = 64, STALL_S = 60 };

struct guest {
    struct frontend *f;
    uint64_t next_step, wake_ns, start_ns, end_ns;
    bool waiting;
};

struct storm {
    const struct bench_options *o;
    struct trace trace;
    char **paths;
    struct guest *guest;
    unsigned running;
    uint64_t start_ns, last_done_ns, errors, mismatches;
    struct histogram latency;
};

static int free_slot(const struct fe_queue *q)
{
    for (unsigned i = 0; i < q->slot_count; i++) {
        if (!q->slot[i].busy) return (int)i;
    }
    return -1;
}

static void submit_step(struct fe_queue *q, unsigned slot, const struct trace_step *step, uint64_t now_ns)
{
    struct fe_slot *s = &q->slot[slot];
    uint32_t type = step->kind == 'r' ? VIRTIO_BLK_T_IN : step->kind == 'w' ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_FLUSH;
    uint64_t sector = step->kind == 'f' ? 0 : step->value;
    s->user = sector * 512;
    s->time_ns = now_ns;
    if (step->kind == 'w') pattern_fill(s->data, s->user, step->bytes);
    fe_queue_add(q, slot, type, sector, step->bytes);
}

/* Submit what the trace allows. */
static void guest_issue(struct storm *st, struct guest *g, uint64_t now_ns)
{
    struct fe_queue *q = &g->f->queue[0];
    while (g->next_step < st->trace.count && now_ns >= g->wake_ns) {
        const struct trace_step *step = &st->trace.step[g->next_step];
        if (step->kind == 'b') {
            if (q->in_flight) break;
        } else if (step->kind == 't') {
            g->wake_ns = now_ns + step->value * 1000;
        } else {
            int slot = q->in_flight < q->slot_count ? free_slot(q) : -1;
            if (slot < 0) break;
            submit_step(q, (unsigned)slot, step, now_ns);
        }
        g->next_step++;
    }
    fe_queue_submit(q);
}

static void guest_finish(struct storm *st, struct fe_slot *s, uint64_t now_ns)
{
    histogram_add(&st->latency, now_ns - s->time_ns);
    if (*s->status != VIRTIO_BLK_S_OK) {
        st->errors++;
    } else if (s->device_writes && st->o->verify && pattern_check(s->data, s->user, s->length, st->o->verify) >= 0) {
        st->mismatches++;
    }
}

/* How much happened, or -EPROTO. */
static int guest_round(struct storm *st, struct guest *g, struct errmsg *e)
{
    struct fe_queue *q = &g->f->queue[0];
    uint16_t done[GUEST_DEPTH];
    int n = fe_queue_reap(q, done, GUEST_DEPTH);
    if (n < 0) return errmsg_set(e, EPROTO, "%s: %s", g->f->args.socket_path, q->broken);
    if (n == 0 && q->in_flight) return 0;
    uint64_t now_ns = bench_now_ns();
    for (int i = 0; i < n; i++) {
        guest_finish(st, &q->slot[done[i]], now_ns);
    }
    if (n) st->last_done_ns = now_ns;
    uint64_t before = g->next_step;
    guest_issue(st, g, now_ns);
    if (g->next_step == st->trace.count && q->in_flight == 0 && now_ns >= g->wake_ns) {
        g->end_ns = now_ns;
        st->running--;
    }
    return n + (int)(g->next_step - before);
}

static int storm_check(struct storm *st, struct errmsg *e)
{
    if (bench_now_ns() - st->last_done_ns > STALL_S * UINT64_C(1000000000))
        return errmsg_set(e, ETIMEDOUT, "nothing completed for %d s", STALL_S);
    for (unsigned i = 0; i < st->o->count; i++) {
        if (!frontend_alive(st->guest[i].f))
            return errmsg_set(e, EPIPE, "%s: the back end closed the connection", st->paths[i]);
    }
    return 0;
}

static int storm_run(struct storm *st, struct errmsg *e)
{
    unsigned idle = 0;
    while (st->running) {
        int happened = 0;
        for (unsigned i = 0; i < st->o->count; i++) {
            struct guest *g = &st->guest[i];
            if (g->end_ns || bench_now_ns() < g->start_ns) continue;
            int n = guest_round(st, g, e);
            if (n < 0) return n;
            happened += n;
        }
        idle = happened ? 0 : idle + 1;
        if (idle % IDLE_ROUNDS != IDLE_ROUNDS - 1) continue;
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
        int ret = idle % (IDLE_ROUNDS * 256) == IDLE_ROUNDS * 256 - 1 ? storm_check(st, e) : 0;
        if (ret < 0) return ret;
    }
    return 0;
}

static int storm_attach(struct storm *st, struct errmsg *e)
{
    for (unsigned i = 0; i < st->o->count; i++) {
        struct frontend_args a = st->o->frontend;
        a.socket_path = st->paths[i];
        a.depth = GUEST_DEPTH;
        a.slot_bytes = TRACE_REQUEST_MAX_BYTES;
        int ret = frontend_new(&st->guest[i].f, &a, e);
        if (ret == 0) ret = frontend_attach(st->guest[i].f, e);
        if (ret < 0) return ret;
    }
    st->start_ns = st->last_done_ns = bench_now_ns();
    for (unsigned i = 0; i < st->o->count; i++) {
        st->guest[i].start_ns = st->start_ns + (uint64_t)(st->o->spread_s * 1e9 * i / st->o->count);
    }
    st->running = st->o->count;
    return 0;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void storm_print(const struct storm *st, double cpu_s)
{
    unsigned n = st->o->count;
    autofree uint64_t *boot_ns = calloc(n, sizeof *boot_ns);
    uint64_t end_ns = st->start_ns;
    for (unsigned i = 0; i < n && boot_ns; i++) {
        boot_ns[i] = st->guest[i].end_ns - st->guest[i].start_ns;
        if (st->guest[i].end_ns > end_ns) end_ns = st->guest[i].end_ns;
    }
    if (!boot_ns) return;
    qsort(boot_ns, n, sizeof *boot_ns, compare_u64);
    unsigned middle = n / 2;
    printf("{\"guests\":%u,\"seconds\":%.4f,\"boot_s\":{\"min\":%.4f,\"median\":%.4f,\"max\":%.4f},", n,
           (double)(end_ns - st->start_ns) / 1e9, (double)boot_ns[0] / 1e9, (double)boot_ns[middle] / 1e9,
           (double)boot_ns[n - 1] / 1e9);
    printf("\"read_bytes\":%llu,\"written_bytes\":%llu,\"latency_us\":{\"mean\":%.1f,\"p99\":%.1f,\"max\":%.1f},",
           (unsigned long long)st->trace.read_bytes * n, (unsigned long long)st->trace.written_bytes * n,
           st->latency.count ? (double)st->latency.sum / (double)st->latency.count / 1e3 : 0,
           (double)histogram_percentile(&st->latency, 99) / 1e3, (double)st->latency.max / 1e3);
    printf("\"errors\":%llu,\"mismatches\":%llu,\"generator_cpu_s\":%.3f}\n", (unsigned long long)st->errors,
           (unsigned long long)st->mismatches, cpu_s);
}

static int storm_go(struct storm *st, struct errmsg *e)
{
    int ret = trace_load(&st->trace, st->o->trace_path, e);
    if (ret < 0) return ret;
    st->paths = bench_socket_paths(st->o->socket_dir, st->o->count, e);
    if (!st->paths) return -ENOENT;
    st->guest = calloc(st->o->count, sizeof *st->guest);
    if (!st->guest) return errmsg_sys(e, ENOMEM, "guests");
    ret = storm_attach(st, e);
    uint64_t cpu_ns = bench_cpu_ns();
    if (ret == 0) ret = storm_run(st, e);
    if (ret < 0) return ret;
    storm_print(st, (double)(bench_cpu_ns() - cpu_ns) / 1e9);
    for (unsigned i = 0; i < st->o->count && ret == 0; i++) {
        ret = frontend_detach(st->guest[i].f, e);
    }
    return ret;
}

int bench_storm(const struct bench_options *o)
{
    struct errmsg e = {""};
    autofree struct storm *st = calloc(1, sizeof *st);
    if (!st) return 2;
    st->o = o;
    int ret = o->trace_path ? storm_go(st, &e) : errmsg_set(&e, EINVAL, "--trace is missing");
    if (ret < 0) fprintf(stderr, "vhost-blk-bench: %s\n", e.text);
    for (unsigned i = 0; st->guest && i < o->count; i++) {
        frontend_free(st->guest[i].f);
    }
    free(st->guest);
    bench_free_paths(st->paths, o->count);
    trace_clear(&st->trace);
    return ret < 0 ? 2 : st->errors || st->mismatches ? 1 : 0;
}
