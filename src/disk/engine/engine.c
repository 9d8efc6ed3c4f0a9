/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every engine has in common: running deferred tasks, and the blocking forms.
 *
 * Both may be entered again from a callback (a watch whose `ready` does a blocking read, say), so
 * no position in the list of tasks is kept across a call: the end of a pass is a marker in the list itself.
 */
#include "disk/engine/engine.h"

#include <assert.h>
#include <errno.h>

unsigned engine_run_deferred(struct engine *e)
{
    if (list_empty(&e->deferred)) return 0;
    struct engine_task end = {.run = NULL};
    list_push_back(&e->deferred, &end.node);
    unsigned ran = 0;
    /* An inner pass may run on past our marker; it then has taken it out (see below). */
    while (!list_empty(&end.node)) {
        struct engine_task *t = list_entry(list_pop_front(&e->deferred), struct engine_task, node);
        if (!t->run) continue; /* ours, or that of the pass that we are inside of */
        t->run(t);
        ran++;
    }
    return ran;
}

struct waiter {
    struct engine_io io;
    bool finished;
    int res;
};

static void waiter_done(struct engine_io *io, int res)
{
    struct waiter *w = container_of(io, struct waiter, io);
    w->res = res;
    w->finished = true;
}

/* The kernel may hold our buffer until the request completes, so there is no way out of here before: an
 * engine that breaks now (the kernel refuses its own ring) leaves nothing sane to do. */
static int submit_and_wait(struct engine *e, struct waiter *w)
{
    w->io.done = waiter_done;
    engine_submit(e, &w->io);
    while (!w->finished) {
        int ret = engine_sleep(e, UINT64_MAX);
        assert(ret >= 0);
    }
    return w->res;
}

int engine_read_now(struct engine *e, const struct engine_file *f, void *buf, uint64_t offset_bytes,
                    uint64_t length_bytes)
{
    struct iovec iov = {buf, length_bytes};
    struct waiter w = {.io = {.op = ENGINE_READ,
                              .file = f,
                              .offset_bytes = offset_bytes,
                              .length_bytes = length_bytes,
                              .iov = &iov,
                              .iov_count = 1}};
    return submit_and_wait(e, &w);
}

int engine_write_now(struct engine *e, const struct engine_file *f, const void *buf, uint64_t offset_bytes,
                     uint64_t length_bytes)
{
    struct iovec iov = {(void *)(uintptr_t)buf, length_bytes};
    struct waiter w = {.io = {.op = ENGINE_WRITE,
                              .file = f,
                              .offset_bytes = offset_bytes,
                              .length_bytes = length_bytes,
                              .iov = &iov,
                              .iov_count = 1}};
    return submit_and_wait(e, &w);
}

int engine_op_now(struct engine *e, const struct engine_file *f, enum engine_op op, uint64_t offset_bytes,
                  uint64_t length_bytes)
{
    assert(op != ENGINE_READ && op != ENGINE_WRITE);
    struct waiter w = {.io = {.op = op, .file = f, .offset_bytes = offset_bytes, .length_bytes = length_bytes}};
    return submit_and_wait(e, &w);
}
