/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Channels: what one thread has of a qcow2 layer. All memory that requests need is reserved here, in
 * sparse mappings, so that an idle channel costs some pages and a busy one never allocates.
 */
#include "disk/format/qcow2_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- slabs ---- */

static void *map_sparse(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int qcow2_slab_init(struct qcow2_slab *s, size_t item_bytes, unsigned max)
{
    *s = (struct qcow2_slab){.item_bytes = align_up(item_bytes, 64), .max = max};
    s->base = map_sparse(s->item_bytes * max);
    return s->base ? 0 : -ENOMEM;
}

void qcow2_slab_destroy(struct qcow2_slab *s)
{
    if (s->base) munmap(s->base, s->item_bytes * s->max);
    s->base = NULL;
}

/* Zeroed by nobody: the taker initialises it. The most recently used one first, so that few pages are touched. */
void *qcow2_slab_take(struct qcow2_slab *s)
{
    void *item = s->free_list;
    if (item) {
        memcpy(&s->free_list, item, sizeof s->free_list);
        return item;
    }
    if (s->used == s->max) return NULL;
    return s->base + s->item_bytes * s->used++;
}

void qcow2_slab_give(struct qcow2_slab *s, void *item)
{
    memcpy(item, &s->free_list, sizeof s->free_list);
    s->free_list = item;
}

/* ---- copy-on-write buffers ---- */

#define BUFFERS_KEPT 2u

static int buffers_init(struct qcow2_chan *c, uint64_t cluster_bytes)
{
    c->buffer_count = (unsigned)max_u64(min_u64(QCOW2_BUFFERS_BYTES / cluster_bytes, QCOW2_BUFFERS_MAX), 2);
    c->buffers = map_sparse(c->buffer_count * cluster_bytes);
    if (!c->buffers) return -ENOMEM;
    for (unsigned i = c->buffer_count; i-- > 0;)
        c->free_buffers[c->free_buffer_count++] = i;
    return 0;
}

uint8_t *qcow2_buffer_take(struct qcow2_chan *c)
{
    if (c->free_buffer_count == 0) return NULL;
    unsigned i = c->free_buffers[--c->free_buffer_count];
    if (i >= c->buffer_touched) c->buffer_touched = i + 1;
    return c->buffers + (uint64_t)i * qcow2_of_chan(c)->cluster_bytes;
}

/* When the last one comes back after a burst, the memory does too. */
void qcow2_buffer_give(struct qcow2_chan *c, uint8_t *buffer)
{
    uint64_t cluster_bytes = qcow2_of_chan(c)->cluster_bytes;
    c->free_buffers[c->free_buffer_count++] = (unsigned)((uint64_t)(buffer - c->buffers) / cluster_bytes);
    if (c->free_buffer_count < c->buffer_count || c->buffer_touched <= BUFFERS_KEPT) return;
    uint64_t from = align_up(BUFFERS_KEPT * cluster_bytes, 4096), to = c->buffer_touched * cluster_bytes;
    if (to > from) madvise(c->buffers + from, to - from, MADV_DONTNEED);
    for (unsigned i = 0; i < c->buffer_count; i++)
        c->free_buffers[i] = c->buffer_count - 1 - i;
    c->buffer_touched = 0;
}

/* ---- channels ---- */

static void box_ready(struct engine_watch *w)
{
    mailbox_run(&container_of(w, struct qcow2_chan, watch)->box);
}

static void free_memory(struct qcow2_chan *c)
{
    qcow2_slab_destroy(&c->ops);
    qcow2_slab_destroy(&c->parts);
    qcow2_slab_destroy(&c->cows);
    qcow2_slab_destroy(&c->compressed);
    qcow2_inflate_destroy(c);
    if (c->buffers) munmap(c->buffers, c->buffer_count * qcow2_of_chan(c)->cluster_bytes);
    mailbox_destroy(&c->box);
    pthread_mutex_destroy(&c->posting);
    free(c);
}

static int reserve_memory(struct qcow2_chan *c)
{
    struct qcow2 *q = qcow2_of_chan(c);
    int ret = qcow2_slab_init(&c->ops, sizeof(struct qcow2_op), QCOW2_OPS_MAX);
    if (ret == 0) ret = qcow2_slab_init(&c->parts, sizeof(struct qcow2_part), QCOW2_PARTS_MAX);
    if (ret == 0) ret = qcow2_slab_init(&c->compressed, sizeof(struct qcow2_compressed_part), QCOW2_PARTS_MAX);
    if (ret == 0) ret = qcow2_inflate_init(c);
    if (ret < 0 || !q->layer.writable) return ret;
    ret = qcow2_slab_init(&c->cows, sizeof(struct qcow2_cow), QCOW2_COWS_MAX);
    return ret < 0 ? ret : buffers_init(c, q->cluster_bytes);
}

int qcow2_chan_open(struct layer *l, struct engine *e, struct layer_chan *below, struct layer_chan **out)
{
    struct qcow2 *q = qcow2_of(l);
    struct qcow2_chan *c = calloc(1, sizeof *c);
    if (!c) return -ENOMEM;
    c->chan = (struct layer_chan){.layer = l, .engine = e, .below = below};
    atomic_init(&c->oldest_era, UINT64_MAX);
    pthread_mutex_init(&c->posting, NULL);
    list_init(&c->running);
    list_init(&c->waiting_reqs);
    list_init(&c->part_waiters);
    list_init(&c->inflate_waiters);
    int ret = mailbox_init(&c->box);
    if (ret == 0) ret = reserve_memory(c);
    c->watch = (struct engine_watch){.fd = mailbox_fd(&c->box), .ready = box_ready};
    if (ret == 0) ret = engine_watch(e, &c->watch);
    if (ret < 0) {
        free_memory(c);
        return ret;
    }
    pthread_mutex_lock(&q->lock);
    list_push_back(&q->chans, &c->node);
    pthread_mutex_unlock(&q->lock);
    *out = &c->chan;
    return 0;
}

void qcow2_chan_close(struct layer_chan *chan)
{
    struct qcow2_chan *c = qcow2_chan_of(chan);
    struct qcow2 *q = qcow2_of_chan(c);
    assert(list_empty(&c->running) && list_empty(&c->waiting_reqs));
    engine_unwatch(chan->engine, &c->watch);
    pthread_mutex_lock(&q->lock);
    list_remove(&c->node);
    pthread_mutex_unlock(&q->lock); /* qcow2_resize() posts under this one */
    /* All requests have been answered, but the last who answered may still be inside mailbox_post(). */
    pthread_mutex_lock(&c->posting);
    pthread_mutex_unlock(&c->posting);
    free_memory(c);
}
