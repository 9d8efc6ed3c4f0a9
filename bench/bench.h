/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-blk-bench: what its parts share. vhost_blk_bench.c reads the options and calls one of the
 * modes; each returns the program's exit code (0 good, 1 a failure of what was tested, 2 could not run).
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "frontend.h"
#include "pattern.h"

enum bench_rw { RW_READ, RW_WRITE, RW_RANDREAD, RW_RANDWRITE, RW_RANDRW };

/* What verified writes may expect of blocks that they have not written. */
enum bench_initial { INITIAL_ANY, INITIAL_ZERO, INITIAL_PATTERN };

struct bench_options {
    struct frontend_args frontend; /* socket, queues, ring kind */
    enum bench_rw rw;
    uint32_t block_bytes;
    unsigned depth;
    uint64_t offset_bytes, size_bytes; /* the part of the disk that is used; size 0: to the end */
    double runtime_s, ramp_s;
    enum pattern_depth verify;
    bool sleep;     /* wait on call descriptors instead of polling */
    bool reconnect; /* attach again when the connection ends */
    bool json;
    bool progress; /* a line of JSON each second */
    uint64_t seed;

    /* verified writes */
    enum bench_initial initial;
    const char *model_path; /* load and save the model here */
    bool check_only;
    double flush_interval_s;
    double stall_s;   /* no completion for so long is a failure */
    double pace_iops; /* at most so many requests a second; 0: no limit */

    /* many devices */
    const char *socket_dir;
    unsigned count;
    double idle_s;
    const char *trace_path;
    double spread_s; /* boot storm: guests start evenly spread over so long */
};

int bench_load(const struct bench_options *o);
int bench_verify_writes(const struct bench_options *o);
int bench_attach_many(const struct bench_options *o);
int bench_storm(const struct bench_options *o);
int bench_make_trace(const char *path, uint64_t size_bytes, uint64_t working_set_bytes, uint64_t seed);

static inline uint64_t bench_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* splitmix64. */
static inline uint64_t bench_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Uniform in [0, limit). */
static inline uint64_t bench_random_below(uint64_t *state, uint64_t limit)
{
    return (uint64_t)(((unsigned __int128)bench_random(state) * limit) >> 64);
}

/* bench_util.c */
/* Sleep until a call descriptor fires, the connection ends, or wait_ms passed; the caller has asked for calls and
 * found nothing. */
void bench_wait_calls(struct frontend *f, int wait_ms);
/* Paths of the sockets in dir (names ending in ".sock"), sorted by length and name; count of them is a failure to
 * reach. NULL with the reason. Free with bench_free_paths(). */
char **bench_socket_paths(const char *dir, unsigned count, struct errmsg *e);
void bench_free_paths(char **paths, unsigned count);
/* This process's processor time so far. */
uint64_t bench_cpu_ns(void);

#endif
