/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service's engines: each wraps one of the configured kind and counts what is read from storage, for the base
 * whose descriptor it is (formats may work with copies of the engine_file that they were given). Layers make more
 * engines for threads of their own, so table and counters are atomic.
 */
#include <errno.h>
#include <stdlib.h>

#include "cache/service_internal.h"

struct counting_engine {
    struct engine base;
    struct engine *inner;
    struct cache_service *service;
};

static struct counting_engine *counting_of(struct engine *e)
{
    return container_of(e, struct counting_engine, base);
}

static void count_read(const struct cache_service *s, const struct engine_io *io)
{
    if (io->file->fd < 0 || io->file->fd >= (int)SERVICE_FDS_MAX) return;
    struct base_layer *b = atomic_load_explicit(&s->base_of_fd[io->file->fd], memory_order_acquire);
    if (!b) return;
    const uint8_t *to = io->iov[0].iov_base;
    bool into_cache = to >= s->buffers && to < s->buffers + FETCHES_MAX * FETCH_BYTES_MAX;
    atomic_fetch_add_explicit(&b->storage_read_bytes, io->length_bytes, memory_order_relaxed);
    if (!into_cache) atomic_fetch_add_explicit(&b->metadata_read_bytes, io->length_bytes, memory_order_relaxed);
}

void service_engine_count(struct base_layer *b, bool on)
{
    if (b->file.fd < 0 || b->file.fd >= (int)SERVICE_FDS_MAX) return;
    atomic_store_explicit(&b->service->base_of_fd[b->file.fd], on ? b : NULL, memory_order_release);
}

static void counting_submit(struct engine *e, struct engine_io *io)
{
    struct counting_engine *c = counting_of(e);
    if (io->op == ENGINE_READ && io->iov_count) count_read(c->service, io);
    engine_submit(c->inner, io);
    e->inflight = c->inner->inflight;
}

static int counting_poll(struct engine *e, uint64_t wait_ns)
{
    struct counting_engine *c = counting_of(e);
    if (!list_empty(&e->deferred)) wait_ns = 0;
    int ret = c->inner->ops->poll(c->inner, wait_ns);
    if (ret < 0) return ret;
    unsigned ran = engine_run_deferred(e);
    e->inflight = c->inner->inflight;
    return ret + (int)ran;
}

static int counting_watch(struct engine *e, struct engine_watch *w)
{
    return engine_watch(counting_of(e)->inner, w);
}

static void counting_unwatch(struct engine *e, struct engine_watch *w)
{
    engine_unwatch(counting_of(e)->inner, w);
}

static void counting_free(struct engine *e)
{
    engine_free(counting_of(e)->inner);
    free(counting_of(e));
}

static void counting_point(struct engine *e, const char *name)
{
    engine_point(counting_of(e)->inner, name);
}

static const struct engine_ops counting_ops = {
    .submit = counting_submit,
    .poll = counting_poll,
    .watch = counting_watch,
    .unwatch = counting_unwatch,
    .free = counting_free,
    .point = counting_point,
};

static int counting_make(void *arg, struct engine **out, struct errmsg *e)
{
    struct cache_service *s = arg;
    struct counting_engine *c = calloc(1, sizeof *c);
    if (!c) return errmsg_sys(e, ENOMEM, "cannot make the cache's I/O engine");
    int ret = s->inner_maker.make(s->inner_maker.arg, &c->inner, e);
    if (ret < 0) {
        free(c);
        return ret;
    }
    c->service = s;
    c->base.ops = &counting_ops;
    list_init(&c->base.deferred);
    *out = &c->base;
    return 0;
}

int service_engine_init(struct cache_service *s, const struct engine_maker *inner)
{
    s->inner_maker = inner ? *inner : engine_uring_maker;
    s->maker = (struct engine_maker){.make = counting_make, .arg = s};
    s->base_of_fd = calloc(SERVICE_FDS_MAX, sizeof *s->base_of_fd); /* touched as far as descriptors go */
    return s->base_of_fd ? 0 : -ENOMEM;
}
