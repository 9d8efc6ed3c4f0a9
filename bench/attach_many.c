/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many disks at once: attach to N back ends one after the other, read one block of each, stay idle, read again,
 * detach. What the back ends cost meanwhile is for the caller to look at: a line of JSON says when they are
 * all attached and when the idle time is over.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/cleanup.h"
#include "bench.h"
#include "histogram.h"

struct many {
    const struct bench_options *o;
    char **paths;
    struct frontend **f;
    struct histogram attach, read;
};

static int read_first(struct many *m, struct frontend *f, struct errmsg *e)
{
    uint64_t start_ns = bench_now_ns();
    int status = fe_queue_do(&f->queue[0], VIRTIO_BLK_T_IN, 0, 4096, 30000);
    if (status < 0) return errmsg_sys(e, -status, "%s: reading the first block", f->args.socket_path);
    if (status != VIRTIO_BLK_S_OK) return errmsg_set(e, EIO, "%s: read status %d", f->args.socket_path, status);
    if (m->o->verify && pattern_check(f->queue[0].slot[0].data, 0, 4096, m->o->verify) >= 0)
        return errmsg_set(e, EILSEQ, "%s: wrong content in the first block", f->args.socket_path);
    histogram_add(&m->read, bench_now_ns() - start_ns);
    return 0;
}

static int attach_one(struct many *m, unsigned i, struct errmsg *e)
{
    struct frontend_args a = m->o->frontend;
    a.socket_path = m->paths[i];
    int ret = frontend_new(&m->f[i], &a, e);
    uint64_t start_ns = bench_now_ns();
    if (ret == 0) ret = frontend_attach(m->f[i], e);
    if (ret == 0) ret = read_first(m, m->f[i], e);
    if (ret == 0) histogram_add(&m->attach, bench_now_ns() - start_ns);
    return errmsg_prefix(e, ret, "device %u", i);
}

static void print_durations(const char *name, const struct histogram *h)
{
    printf("\"%s\":{\"mean\":%.3f,\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f}", name,
           h->count ? (double)h->sum / (double)h->count / 1e6 : 0, (double)histogram_percentile(h, 50) / 1e6,
           (double)histogram_percentile(h, 99) / 1e6, (double)h->max / 1e6);
}

static void print_state(const struct many *m, const char *state, double seconds)
{
    printf("{\"state\":\"%s\",\"count\":%llu,\"seconds\":%.3f,", state, (unsigned long long)m->attach.count, seconds);
    print_durations("attach_ms", &m->attach);
    putchar(',');
    print_durations("read_ms", &m->read);
    puts("}");
    fflush(stdout);
}

static int many_go(struct many *m, struct errmsg *e)
{
    uint64_t start_ns = bench_now_ns();
    for (unsigned i = 0; i < m->o->count; i++) {
        int ret = attach_one(m, i, e);
        if (ret == 0) continue;
        print_state(m, "failed", (double)(bench_now_ns() - start_ns) / 1e9);
        return ret;
    }
    print_state(m, "attached", (double)(bench_now_ns() - start_ns) / 1e9);
    struct timespec idle = {.tv_sec = (time_t)m->o->idle_s};
    idle.tv_nsec = (long)((m->o->idle_s - (double)idle.tv_sec) * 1e9);
    nanosleep(&idle, NULL);
    m->read = (struct histogram){0};
    print_state(m, "idle", m->o->idle_s);
    for (unsigned i = 0; i < m->o->count; i++) {
        int ret = read_first(m, m->f[i], e);
        if (ret < 0) return ret;
    }
    start_ns = bench_now_ns();
    for (unsigned i = 0; i < m->o->count; i++) {
        int ret = frontend_detach(m->f[i], e);
        if (ret < 0) return errmsg_prefix(e, ret, "device %u", i);
    }
    print_state(m, "done", (double)(bench_now_ns() - start_ns) / 1e9);
    return 0;
}

int bench_attach_many(const struct bench_options *o)
{
    struct errmsg e = {""};
    struct rlimit files;
    autofree struct many *m = calloc(1, sizeof *m);
    if (!m) return 2;
    m->o = o;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max; /* five descriptors for each device */
        setrlimit(RLIMIT_NOFILE, &files);
    }
    m->paths = bench_socket_paths(o->socket_dir, o->count, &e);
    m->f = calloc(o->count, sizeof(struct frontend *));
    int ret = m->paths && m->f ? many_go(m, &e) : -ENOENT;
    if (ret < 0) fprintf(stderr, "vhost-blk-bench: %s\n", e.text);
    for (unsigned i = 0; m->f && i < o->count; i++) {
        frontend_free(m->f[i]);
    }
    free(m->f);
    bench_free_paths(m->paths, o->count);
    return ret < 0 ? 1 : 0;
}
