/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest asks of its disk while it boots, as text, one step a line:
 *
 *     r SECTOR COUNT    read         w SECTOR COUNT    write        (512-byte sectors)
 *     f                 flush        b                 wait for all before going on
 *     t MICROSECONDS    think        # ...             a comment
 */
#ifndef BENCH_TRACE_H
#define BENCH_TRACE_H

#include <stdint.h>

#include "base/errmsg.h"

#define TRACE_REQUEST_MAX_BYTES (128u << 10)

struct trace_step {
    char kind;
    uint32_t bytes;
    uint64_t value; /* sector, or microseconds */
};

struct trace {
    struct trace_step *step;
    uint64_t count, read_bytes, written_bytes;
};

int trace_load(struct trace *t, const char *path, struct errmsg *e);
void trace_clear(struct trace *t);

#endif
