/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine-bench: what the I/O engine gets from a file by itself, with no ring and no guest around it: 4 KiB and 128 KiB,
 * random read and write, depth 1 and 32. To be held against fio on the same file in the same minute:
 *
 *   fio --name=x --filename=FILE --ioengine=io_uring --direct=1 --rw=randread --bs=4k --iodepth=32 --time_based --runtime=3
 *
 * Overwrites FILE, which must exist and be written once (a hole measures nothing).
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/errmsg.h"
#include "bench.h"
#include "disk/disk.h"
#include "disk/file.h"
#include "disk/staged.h"
#include "histogram.h"

#define DEPTH_MAX 128u

struct options {
    const char *path;
    double seconds;
    uint64_t block_bytes; /* 0: all of the matrix */
    unsigned depth;       /* 0: all */
    bool buffered, poll, staged, read_only;
};

struct run {
    struct engine *engine;
    struct layer_chan *chan;
    uint64_t blocks, block_bytes, end_ns, random;
    enum disk_op op;
    unsigned busy;
    struct histogram latency;
};

struct slot {
    struct disk_req req;
    struct iovec iov;
    struct run *run;
    uint64_t start_ns;
};

static uint64_t cpu_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

static int fail(const char *what)
{
    fprintf(stderr, "engine-bench: %s\n", what);
    return 2;
}

static void slot_start(struct slot *s, uint64_t now_ns)
{
    struct run *r = s->run;
    s->req.offset_bytes = bench_random_below(&r->random, r->blocks) * r->block_bytes;
    s->start_ns = now_ns;
    s->run->busy++;
    layer_submit(r->chan, &s->req);
}

static void slot_done(struct disk_req *req, int ret)
{
    struct slot *s = container_of(req, struct slot, req);
    if (ret < 0) {
        fprintf(stderr, "engine-bench: a request failed: %s\n", strerror(-ret));
        exit(1);
    }
    uint64_t now_ns = bench_now_ns();
    s->run->busy--;
    histogram_add(&s->run->latency, now_ns - s->start_ns);
    if (now_ns < s->run->end_ns) slot_start(s, now_ns);
}

static void measure(struct run *r, const struct options *o, unsigned depth, char *memory)
{
    static struct slot slots[DEPTH_MAX];
    uint64_t cpu_ns = cpu_now_ns(), start_ns = bench_now_ns();
    r->end_ns = start_ns + (uint64_t)(o->seconds * 1e9);
    memset(&r->latency, 0, sizeof r->latency);
    for (unsigned i = 0; i < depth; i++) {
        struct slot *s = &slots[i];
        *s = (struct slot){.run = r, .iov = {memory + i * r->block_bytes, r->block_bytes}};
        s->req = (struct disk_req){
            .op = r->op, .length_bytes = r->block_bytes, .iov = &s->iov, .iov_count = 1, .done = slot_done};
        slot_start(s, start_ns);
    }
    while (r->busy)
        if (engine_sleep(r->engine, o->poll ? 0 : UINT64_MAX) < 0) exit(fail("the engine broke"));
    double took_s = (double)(bench_now_ns() - start_ns) / 1e9;
    double rate = (double)r->latency.count / took_s;
    printf("%-5s %4u KiB  QD %-3u %9.0f IOPS %8.1f MB/s   p50 %7.1f us  p99 %8.1f us   CPU %3.0f %%\n",
           r->op == DISK_READ ? "read" : "write", (unsigned)(r->block_bytes >> 10), depth, rate,
           rate * (double)r->block_bytes / 1e6, (double)histogram_percentile(&r->latency, 50) / 1e3,
           (double)histogram_percentile(&r->latency, 99) / 1e3, (double)(cpu_now_ns() - cpu_ns) / took_s / 1e7);
}

static void matrix(struct layer *l, struct engine *e, struct layer_chan *c, const struct options *o)
{
    static const uint64_t blocks[] = {4096, 131072};
    static const unsigned depths[] = {1, 32};
    char *memory = aligned_alloc(4096, DEPTH_MAX * blocks[1]);
    if (!memory) exit(fail("no memory"));
    memset(memory, 'x', DEPTH_MAX * blocks[1]);
    for (int write = 0; write <= !o->read_only; write++)
        for (unsigned b = 0; b < ARRAY_LEN(blocks); b++)
            for (unsigned d = 0; d < ARRAY_LEN(depths); d++) {
                if ((o->block_bytes && o->block_bytes != blocks[b]) || (o->depth && o->depth != depths[d])) continue;
                struct run r = {.engine = e, .chan = c, .block_bytes = blocks[b], .random = 1};
                r.op = write ? DISK_WRITE : DISK_READ;
                r.blocks = layer_size(l) / r.block_bytes;
                measure(&r, o, depths[d], memory);
            }
    free(memory);
}

static int usage(void)
{
    fprintf(stderr, "usage: engine-bench [--seconds=N] [--block=4096|131072] [--depth=1|32] [--buffered] [--poll] "
                    "[--staged] [--read-only] FILE\n");
    return 2;
}

static int parse(struct options *o, int argc, char **argv)
{
    static const struct option longs[] = {
        {"seconds", required_argument, NULL, 's'}, {"block", required_argument, NULL, 'k'},
        {"depth", required_argument, NULL, 'd'},   {"buffered", no_argument, NULL, 'b'},
        {"poll", no_argument, NULL, 'p'},          {"staged", no_argument, NULL, 't'},
        {"read-only", no_argument, NULL, 'r'},     {NULL, 0, NULL, 0}};
    int c;
    *o = (struct options){.seconds = 3};
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 's') o->seconds = strtod(optarg, NULL);
        else if (c == 'k') o->block_bytes = strtoull(optarg, NULL, 10);
        else if (c == 'd') o->depth = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == 'b') o->buffered = true;
        else if (c == 'p') o->poll = true;
        else if (c == 't') o->staged = true;
        else if (c == 'r') o->read_only = true;
        else return usage();
    }
    if (optind != argc - 1 || o->seconds <= 0) return usage();
    o->path = argv[optind];
    return 0;
}

int main(int argc, char **argv)
{
    struct options o;
    struct errmsg e = {""};
    struct engine_file f;
    struct layer *raw, *top;
    struct engine *engine;
    struct layer_chan *chan;
    if (parse(&o, argc, argv) != 0) return 2;
    unsigned flags = (o.read_only ? 0 : DISK_FILE_WRITE) | (o.buffered ? 0 : DISK_FILE_DIRECT);
    if (disk_file_open(&f, o.path, flags, &e) < 0) return fail(e.text);
    if (layer_raw_open(&raw, &(struct layer_args){.file = &f, .writable = !o.read_only}, &e) < 0) return fail(e.text);
    top = raw;
    if (o.staged && layer_staged_open(&top, &raw, 1, &engine_uring_maker, NULL, &e) < 0) return fail(e.text);
    if (layer_size(raw) < 131072) return fail("FILE must hold 128 KiB at least");
    if (engine_uring_new(&engine, ENGINE_URING_DEPTH, &e) < 0) return fail(e.text);
    if (top->ops->chan_open(top, engine, NULL, &chan) < 0) return fail("cannot open a channel");
    matrix(top, engine, chan, &o);
    top->ops->chan_close(chan);
    if (top != raw) top->ops->close(top, &e);
    engine_free(engine);
    if (raw->ops->close(raw, &e) < 0) return fail(e.text);
    disk_file_close(&f);
    return 0;
}
