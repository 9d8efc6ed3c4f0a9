/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See staged.h. A request of the guest becomes one `flight` with one or more pieces, each in a slot. A slot is
 * owned by its channel's thread while free, by the stage thread from the hop there until the hop back. Both hops are mails
 * of the slot itself, so nothing is allocated per request.
 *
 * A flight is active while it has a piece out or is the first in line for a slot: there can be one more of them than
 * slots.
 */
#include "disk/staged.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/iov.h"
#include "loop/mailbox.h"
#include "loop/thread.h"

struct staged_layer {
    struct layer base;
    struct layer *layers[DISK_CHAIN_MAX];
    unsigned count;
    pthread_t thread;
    struct engine *engine; /* the stage thread's, as are the next four */
    struct disk_chans chans;
    struct staged_hooks hooks;
    struct mailbox box;
    struct engine_watch watch;
    bool stopping;
    sem_t started;
    int start_ret;
};

struct flight {
    struct disk_req *req;
    uint64_t given_bytes; /* to pieces */
    unsigned pieces;      /* out */
    int res;              /* of the first piece that failed */
    struct list node;     /* while unused */
};

struct slot {
    struct mail mail;
    struct staged_chan *chan;
    struct flight *flight;
    uint64_t at_bytes; /* in the request */
    char *front;       /* the kernel's pages: what queue thread and stage thread share */
    char *own;         /* tapdisk's buffer */
    struct disk_req req;
    struct iovec iov;
    int res;
    struct list node; /* while unused */
};

struct staged_chan {
    struct layer_chan base;
    struct mailbox back;
    struct engine_watch watch;
    char *memory;
    struct list free_slots, free_flights;
    struct list waiting;  /* disk_req */
    struct flight *first; /* has begun, and waits for a slot for its next piece */
    unsigned active;
    struct slot slots[STAGED_SLOTS];
    struct flight flights[STAGED_SLOTS + 1];
};

struct call {
    struct mail mail;
    void (*run)(void *arg);
    void *arg;
    sem_t done;
};

static struct staged_layer *staged_of(struct layer *l)
{
    return container_of(l, struct staged_layer, base);
}

/* ---- Stage thread ---- */

static void returned_to_queue(struct mail *m);

static void chain_done(struct disk_req *req, int ret)
{
    struct slot *s = container_of(req, struct slot, req);
    if (ret == 0 && req->op == DISK_READ) memcpy(s->front, s->own, req->length_bytes);
    s->res = ret;
    s->mail.run = returned_to_queue;
    mailbox_post(&s->chan->back, &s->mail);
}

static void arrived_at_stage(struct mail *m)
{
    struct slot *s = container_of(m, struct slot, mail);
    struct staged_layer *l = staged_of(s->chan->base.layer);
    if (s->req.op == DISK_WRITE) memcpy(s->own, s->front, s->req.length_bytes);
    layer_submit(l->chans.chan[0], &s->req);
}

static void stage_ready(struct engine_watch *w)
{
    mailbox_run(&container_of(w, struct staged_layer, watch)->box);
}

static int stage_start(struct staged_layer *l)
{
    l->watch = (struct engine_watch){.fd = mailbox_fd(&l->box), .ready = stage_ready};
    int ret = engine_watch(l->engine, &l->watch);
    if (ret < 0) return ret;
    ret = disk_chans_open(&l->chans, l->layers, l->count, l->engine);
    if (ret == 0 && l->hooks.opened) {
        ret = l->hooks.opened(l->hooks.arg, l->engine, &l->chans);
        if (ret < 0) disk_chans_close(&l->chans);
    }
    if (ret < 0) engine_unwatch(l->engine, &l->watch);
    return ret;
}

static void *stage_main(void *arg)
{
    struct staged_layer *l = arg;
    l->start_ret = stage_start(l);
    bool started = l->start_ret == 0;
    sem_post(&l->started);
    if (started) {
        while (!l->stopping) {
            int ret = engine_sleep(l->engine, UINT64_MAX);
            assert(ret >= 0);
        }
        disk_chans_close(&l->chans);
        if (l->hooks.closed) l->hooks.closed(l->hooks.arg);
        engine_unwatch(l->engine, &l->watch);
    }
    engine_free(l->engine);
    return NULL;
}

/* ---- Queue threads ---- */

static void finish_flight(struct staged_chan *c, struct flight *f)
{
    struct disk_req *req = f->req;
    int res = f->res;
    list_push_front(&c->free_flights, &f->node);
    c->active--;
    req->done(req, res);
}

static bool has_data(const struct disk_req *req)
{
    return req->op == DISK_READ || req->op == DISK_WRITE;
}

/* All of it is on its way. */
static bool fully_given(const struct flight *f)
{
    return f->given_bytes == f->req->length_bytes && (f->given_bytes > 0 || f->pieces > 0);
}

static void send_piece(struct staged_chan *c, struct flight *f)
{
    struct slot *s = list_entry(list_pop_front(&c->free_slots), struct slot, node);
    const struct disk_req *req = f->req;
    uint64_t length = req->length_bytes - f->given_bytes;
    if (has_data(req)) length = min_u64(length, STAGED_SLOT_BYTES);
    s->flight = f;
    s->at_bytes = f->given_bytes;
    s->iov = (struct iovec){s->own, length};
    s->req = (struct disk_req){.op = req->op,
                               .flags = req->flags,
                               .offset_bytes = req->offset_bytes + f->given_bytes,
                               .length_bytes = length,
                               .iov = &s->iov,
                               .iov_count = 1,
                               .done = chain_done};
    if (req->op == DISK_WRITE) iov_copy_from(s->front, req->iov, req->iov_count, f->given_bytes, length);
    f->given_bytes += length;
    f->pieces++;
    s->mail.run = arrived_at_stage;
    mailbox_post(&staged_of(c->base.layer)->box, &s->mail);
}

/* Give slots to requests, in order, as long as there are any. */
static void give_slots(struct staged_chan *c)
{
    while (!list_empty(&c->free_slots)) {
        if (!c->first) {
            struct list *node = list_pop_front(&c->waiting);
            if (!node) return;
            c->first = list_entry(list_pop_front(&c->free_flights), struct flight, node);
            *c->first = (struct flight){.req = list_entry(node, struct disk_req, node)};
            c->active++;
        }
        send_piece(c, c->first);
        if (fully_given(c->first)) c->first = NULL;
    }
}

static void returned_to_queue(struct mail *m)
{
    struct slot *s = container_of(m, struct slot, mail);
    struct staged_chan *c = s->chan;
    struct flight *f = s->flight;
    struct disk_req *req = f->req;
    if (s->res == 0 && req->op == DISK_READ)
        iov_copy_to(req->iov, req->iov_count, s->at_bytes, s->front, s->req.length_bytes);
    if (req->op == DISK_MAP) req->map = s->req.map;
    if (f->res == 0) f->res = s->res;
    list_push_front(&c->free_slots, &s->node);
    bool last = --f->pieces == 0 && f->given_bytes == req->length_bytes;
    give_slots(c);
    if (last) finish_flight(c, f); /* the last thing: the channel may be closed by it */
}

static void queue_ready(struct engine_watch *w)
{
    mailbox_run(&container_of(w, struct staged_chan, watch)->back);
}

static void staged_submit(struct layer_chan *chan, struct disk_req *req)
{
    struct staged_chan *c = container_of(chan, struct staged_chan, base);
    list_push_back(&c->waiting, &req->node);
    give_slots(c);
}

/* ---- The layer ---- */

static void chan_slots_init(struct staged_chan *c)
{
    list_init(&c->free_slots);
    list_init(&c->free_flights);
    list_init(&c->waiting);
    for (unsigned i = 0; i < STAGED_SLOTS; i++) {
        struct slot *s = &c->slots[i];
        s->chan = c;
        s->front = c->memory + (size_t)i * 2 * STAGED_SLOT_BYTES;
        s->own = s->front + STAGED_SLOT_BYTES;
        list_push_back(&c->free_slots, &s->node);
    }
    for (unsigned i = 0; i < ARRAY_LEN(c->flights); i++)
        list_push_back(&c->free_flights, &c->flights[i].node);
}

static int staged_chan_open(struct layer *l, struct engine *e, struct layer_chan *below, struct layer_chan **out)
{
    struct staged_chan *c = calloc(1, sizeof *c);
    if (!c) return -ENOMEM;
    c->memory = aligned_alloc(4096, (size_t)STAGED_SLOTS * 2 * STAGED_SLOT_BYTES);
    int ret = c->memory ? mailbox_init(&c->back) : -ENOMEM;
    if (ret == 0) {
        c->base = (struct layer_chan){.layer = l, .engine = e, .below = below};
        c->watch = (struct engine_watch){.fd = mailbox_fd(&c->back), .ready = queue_ready};
        chan_slots_init(c);
        ret = engine_watch(e, &c->watch);
        if (ret < 0) mailbox_destroy(&c->back);
    }
    if (ret < 0) {
        free(c->memory);
        free(c);
        return ret;
    }
    *out = &c->base;
    return 0;
}

static void run_call(struct mail *m)
{
    struct call *c = container_of(m, struct call, mail);
    if (c->run) c->run(c->arg);
    sem_post(&c->done);
}

void layer_staged_call(struct layer *l, void (*run)(void *arg), void *arg)
{
    struct call c = {.mail.run = run_call, .run = run, .arg = arg};
    sem_init(&c.done, 0, 0);
    mailbox_post(&staged_of(l)->box, &c.mail);
    while (sem_wait(&c.done) < 0) {
    }
    sem_destroy(&c.done);
}

/* The stage thread may still be about to signal the mailbox for mail that has been run already: it must have been seen
 * past that before the mailbox goes. */
static void staged_chan_close(struct layer_chan *chan)
{
    struct staged_chan *c = container_of(chan, struct staged_chan, base);
    assert(c->active == 0 && list_empty(&c->waiting));
    layer_staged_call(chan->layer, NULL, NULL);
    engine_unwatch(c->base.engine, &c->watch);
    mailbox_destroy(&c->back);
    free(c->memory);
    free(c);
}

static int staged_resize(struct layer *layer, uint64_t new_size_bytes, struct errmsg *e)
{
    struct layer *leaf = staged_of(layer)->layers[0];
    int ret = leaf->ops->resize(leaf, new_size_bytes, e);
    if (ret == 0) atomic_store_explicit(&layer->size_bytes, new_size_bytes, memory_order_release);
    return ret;
}

struct stop {
    struct mail mail;
    struct staged_layer *layer;
};

static void stop_stage(struct mail *m)
{
    container_of(m, struct stop, mail)->layer->stopping = true;
}

static void layer_free(struct staged_layer *l)
{
    sem_destroy(&l->started);
    mailbox_destroy(&l->box);
    free(l);
}

static int staged_close(struct layer *layer, struct errmsg *e)
{
    struct staged_layer *l = staged_of(layer);
    struct stop stop = {.mail.run = stop_stage, .layer = l};
    mailbox_post(&l->box, &stop.mail);
    pthread_join(l->thread, NULL);
    layer_free(l);
    return 0;
}

static const struct layer_ops staged_ops = {
    .type = "staged",
    .chan_open = staged_chan_open,
    .chan_close = staged_chan_close,
    .submit = staged_submit,
    .resize = staged_resize,
    .close = staged_close,
};

static int start_thread(struct staged_layer *l, const struct engine_maker *maker, struct errmsg *e)
{
    int ret = maker->make(maker->arg, &l->engine, e);
    if (ret < 0) return ret;
    ret = thread_start(&l->thread, "staged", stage_main, l);
    if (ret < 0) {
        engine_free(l->engine);
        return errmsg_sys(e, -ret, "%s: cannot start the stage thread", l->base.name);
    }
    while (sem_wait(&l->started) < 0) {
    }
    if (l->start_ret == 0) return 0;
    pthread_join(l->thread, NULL);
    return errmsg_sys(e, -l->start_ret, "%s: the stage thread cannot open the chain", l->base.name);
}

int layer_staged_open(struct layer **out, struct layer *const *layers, unsigned count, const struct engine_maker *maker,
                      const struct staged_hooks *hooks, struct errmsg *e)
{
    assert(count > 0 && count <= DISK_CHAIN_MAX);
    struct staged_layer *l = calloc(1, sizeof *l);
    if (!l) return errmsg_sys(e, ENOMEM, "%s", layers[0]->name);
    l->base = (struct layer){
        .ops = &staged_ops, .below = layers[0], .name = layers[0]->name, .writable = layers[0]->writable};
    atomic_init(&l->base.size_bytes, layer_size(layers[0]));
    memcpy(l->layers, layers, count * sizeof *layers);
    l->count = count;
    if (hooks) l->hooks = *hooks;
    sem_init(&l->started, 0, 0);
    int ret = mailbox_init(&l->box);
    if (ret < 0) errmsg_sys(e, -ret, "%s: cannot make a mailbox", l->base.name);
    else ret = start_thread(l, maker, e);
    if (ret < 0) {
        layer_free(l);
        return ret;
    }
    *out = &l->base;
    return 0;
}
