/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many network cards at once: attach to N sockets one after the other, send one frame through each, stay idle, send again,
 * detach. What the back end costs meanwhile is for the caller to look at: a line of JSON says when all are attached and
 * when the idle time is over.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/resource.h>

#include "base/cleanup.h"
#include "bench.h"
#include "histogram.h"
#include "net_bench.h"

struct many {
    const struct net_options *o;
    char **paths;
    struct netfe **card;
    struct histogram attach, send;
};

/* Send one frame and wait until its buffer comes back. */
static int send_one(struct many *m, struct netfe *card, struct errmsg *e)
{
    struct netfe_queue *q = &card->tx[0];
    uint64_t start_ns = bench_now_ns(), end_ns = start_ns + UINT64_C(30000000000);
    uint16_t slot;
    if (netfe_tx_take(q, &slot, 1) != 1) return errmsg_set(e, EBUSY, "no buffer is free");
    uint8_t *frame = (uint8_t *)netfe_buffer(q, slot) + NETFE_HEADER_BYTES;
    memset(frame, 0, 60);
    frame[0] = frame[6] = 2;
    frame[12] = 0x88, frame[13] = 0xb5; /* an experiment: nobody's protocol */
    netfe_tx_add(q, slot, NETFE_HEADER_BYTES + 60);
    netfe_submit(q);
    for (;;) {
        int n = netfe_tx_reap(q, 1);
        if (n < 0) return errmsg_set(e, EPROTO, "%s", q->broken);
        if (n == 1) break;
        if (bench_now_ns() > end_ns) return errmsg_set(e, ETIMEDOUT, "a frame was not taken within 30 s");
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    histogram_add(&m->send, bench_now_ns() - start_ns);
    return 0;
}

static int attach_one(struct many *m, unsigned i, struct errmsg *e)
{
    struct netfe_args a = m->o->card;
    a.link.socket_path = m->paths[i];
    int ret = netfe_new(&m->card[i], &a, e);
    uint64_t start_ns = bench_now_ns();
    if (ret == 0) ret = netfe_attach(m->card[i], e);
    if (ret == 0) ret = send_one(m, m->card[i], e);
    if (ret == 0) histogram_add(&m->attach, bench_now_ns() - start_ns);
    return errmsg_prefix(e, ret, "card %u", i);
}

static void print_durations(const char *name, const struct histogram *h)
{
    printf("\"%s\":{\"mean\":%.3f,\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f}", name,
           h->count ? (double)h->sum / (double)h->count / 1e6 : 0, (double)histogram_percentile(h, 50) / 1e6,
           (double)histogram_percentile(h, 99) / 1e6, (double)h->max / 1e6);
}

static void print_state(const struct many *m, const char *state, uint64_t start_ns)
{
    printf("{\"state\":\"%s\",\"count\":%llu,\"seconds\":%.3f,", state, (unsigned long long)m->attach.count,
           (double)(bench_now_ns() - start_ns) / 1e9);
    print_durations("attach_ms", &m->attach);
    putchar(',');
    print_durations("send_ms", &m->send);
    puts("}");
    fflush(stdout);
}

static int many_go(struct many *m, struct errmsg *e)
{
    uint64_t start_ns = bench_now_ns();
    for (unsigned i = 0; i < m->o->count; i++) {
        int ret = attach_one(m, i, e);
        if (ret == 0) continue;
        print_state(m, "failed", start_ns);
        return ret;
    }
    print_state(m, "attached", start_ns);
    start_ns = bench_now_ns();
    struct timespec idle = {.tv_sec = (time_t)m->o->idle_s};
    idle.tv_nsec = (long)((m->o->idle_s - (double)idle.tv_sec) * 1e9);
    nanosleep(&idle, NULL);
    m->send = (struct histogram){0};
    print_state(m, "idle", start_ns);
    start_ns = bench_now_ns();
    for (unsigned i = 0; i < m->o->count; i++) {
        int ret = send_one(m, m->card[i], e);
        if (ret == 0) ret = netfe_detach(m->card[i], e);
        if (ret < 0) return errmsg_prefix(e, ret, "card %u", i);
    }
    print_state(m, "done", start_ns);
    return 0;
}

int net_attach_many(const struct net_options *o)
{
    struct errmsg e = {""};
    struct rlimit files;
    autofree struct many *m = calloc(1, sizeof *m);
    if (!m) return 2;
    m->o = o;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max; /* six descriptors for each card */
        setrlimit(RLIMIT_NOFILE, &files);
    }
    m->paths = bench_socket_paths(o->socket_dir, o->count, &e);
    m->card = calloc(o->count, sizeof(struct netfe *));
    int ret = m->paths && m->card ? many_go(m, &e) : -ENOENT;
    if (ret < 0) fprintf(stderr, "vhost-net-bench: %s\n", e.text);
    for (unsigned i = 0; m->card && i < o->count; i++) {
        netfe_free(m->card[i]);
    }
    free(m->card);
    bench_free_paths(m->paths, o->count);
    return ret < 0 ? 1 : 0;
}
