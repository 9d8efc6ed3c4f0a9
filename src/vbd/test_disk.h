/* SPDX-License-Identifier: Apache-2.0 */
/* A disk in memory, for tests of devices: it can fail, hold requests back, and says in which order they came. */
#ifndef VBD_TEST_DISK_H
#define VBD_TEST_DISK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/iov.h"
#include "disk/disk.h"

struct memory_disk {
    struct layer layer;
    _Atomic int fail_with; /* every request, while not 0 */
    _Atomic bool hold;     /* keep requests until it is cleared */
    char log[64];          /* ops in order: r w f d z Z(unmap) */
    _Atomic unsigned logged;
    _Atomic unsigned asked, ran; /* what a thread sanitizer cannot see: both sides meet in the ring, mapped twice */
    uint8_t bytes[];
};

struct memory_chan {
    struct layer_chan chan;
};

static int memory_open(struct layer *l, struct engine *e, struct layer_chan *below, struct layer_chan **out)
{
    struct memory_chan *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->chan = (struct layer_chan){.layer = l, .engine = e, .below = below};
    *out = &c->chan;
    return 0;
}

static void memory_close(struct layer_chan *c)
{
    free(c);
}

static void memory_run(struct engine_task *t)
{
    struct disk_req *r = container_of(t, struct disk_req, task);
    struct memory_chan *c = r->priv;
    struct memory_disk *d = container_of(c->chan.layer, struct memory_disk, layer);
    (void)atomic_load(&d->asked);
    if (atomic_load(&d->hold)) {
        engine_defer(c->chan.engine, t);
        return;
    }
    int fail = atomic_load(&d->fail_with);
    static const char letter[] = {
        [DISK_READ] = 'r', [DISK_WRITE] = 'w', [DISK_FLUSH] = 'f', [DISK_DISCARD] = 'd', [DISK_WRITE_ZEROES] = 'z'};
    unsigned at = atomic_load(&d->logged);
    if (at < sizeof d->log - 1) {
        d->log[at] = r->op == DISK_WRITE_ZEROES && (r->flags & DISK_REQ_UNMAP) ? 'Z' : letter[r->op];
        atomic_store(&d->logged, at + 1);
    }
    if (r->op == DISK_READ || r->op == DISK_WRITE) {
        assert_true(r->length_bytes <= DISK_REQUEST_MAX_BYTES);
        assert_int_equal(iov_bytes(r->iov, r->iov_count), r->length_bytes);
    }
    if (!fail) {
        uint8_t *p = d->bytes + r->offset_bytes;
        if (r->op == DISK_READ) iov_copy_to(r->iov, r->iov_count, 0, p, r->length_bytes);
        if (r->op == DISK_WRITE) iov_copy_from(p, r->iov, r->iov_count, 0, r->length_bytes);
        if (r->op == DISK_WRITE_ZEROES || r->op == DISK_DISCARD) memset(p, 0, r->length_bytes);
    }
    atomic_fetch_add(&d->ran, 1);
    r->done(r, fail);
}

static void memory_submit(struct layer_chan *c, struct disk_req *r)
{
    r->priv = c;
    r->task.run = memory_run;
    engine_defer(c->engine, &r->task);
}

static const struct layer_ops memory_ops = {
    .type = "memory", .chan_open = memory_open, .chan_close = memory_close, .submit = memory_submit};

#endif
