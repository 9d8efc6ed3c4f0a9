/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layer "cached": reads a base layer out of shared memory, and gets there what is not.
 *
 * Theory of operation
 *
 * cached_try_read() is the hot path: words say that all is known, data is copied, words say that it still was while
 * it was copied (cache/layout.h). No lock, no system call, no allocation; the only store to shared memory is
 * a touched mark that is not set yet. The data is read while the service may be throwing it out, a data race
 * by the letter of C; what such a race copied is never used, because the word has then changed.
 *
 * What it cannot answer comes to cached_submit(). A request is walked from front to back by one or more `walks`:
 *
 *   DATA, ZERO  copied at once
 *   BELOW       from the layer below, at once if that can, else a request to it
 *   ABSENT      ask the service for the run; when the answer is there, look again. Eviction may be faster than
 *               we are, so after some rounds, or when there is nobody to ask, or when the service says that it
 *               cannot, the run is read from the image itself (`own`).
 *
 * Before a walk waits it splits the rest of its range off, so that all that is missing is asked for at
 * once. The first walk of a request, its lead, counts the others; the last one out completes the request.
 * Walks come from a fixed set per channel; a request that finds none waits.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/iov.h"
#include "cache/client_internal.h"

#define WALKS 64u
#define WALKS_PER_REQUEST 16u
#define ASK_ROUNDS_MAX 4u
#define RUN_BLOCKS_MAX 64u /* words kept while their data is copied */
#define TRY_IOV_MAX 16u
#define PREFETCH_LINES 4u

struct cached_layer {
    struct layer base;
    struct layer *own;
    unsigned index;
};

struct walk {
    struct list node; /* while free */
    struct cached_chan *chan;
    struct disk_req *req;
    struct walk *lead;
    unsigned pending; /* lead: walks not done yet, itself included, and whoever starts it */
    int error;        /* lead: the first one */
    uint64_t pos, end;
    uint64_t sub_end;    /* where the sub-request ends */
    uint64_t filled_end; /* up to here we asked: what is copied counts as filled */
    unsigned rounds;
    bool direct; /* do not ask (again) for the run at pos */
    struct cache_ask ask;
    struct disk_req sub;
    struct iovec iov[DISK_IOV_MAX]; /* of sub; last, so that its pages are touched as far as used */
};

struct cached_chan {
    struct layer_chan base;
    struct cache_member member;
    struct cache_client *client;
    struct layer_chan *own;
    struct cache_counters counters;
    struct walk *walks; /* WALKS of them, mapped: only those ever used become memory */
    unsigned walks_used;
    unsigned walks_busy;
    struct list free_walks;
    struct list waiting; /* disk_req: found no walk */
    struct engine_task start_task;
    bool start_queued;
};

static const struct layer_ops cached_ops;

static struct cached_chan *chan_of(struct layer_chan *c)
{
    return container_of(c, struct cached_chan, base);
}

/* One thread writes: no read-modify-write needed. */
static inline void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* ---- copying ---- */

static inline void mark_touched(const struct cache_map *m, uint64_t offset)
{
    _Atomic uint8_t *mark = &m->touched[offset >> CACHE_CHUNK_SHIFT];
    if (atomic_load_explicit(mark, memory_order_relaxed) == 0) atomic_store_explicit(mark, 1, memory_order_relaxed);
}

static inline uint32_t load_word(const struct cache_map *m, uint64_t block)
{
    return atomic_load_explicit(&m->words[block], memory_order_relaxed);
}

static inline void copy_out(const struct iovec *iov, unsigned iov_count, uint64_t skip, const uint8_t *src, uint64_t n)
{
    if (iov_count == 1) memcpy((char *)iov->iov_base + skip, src, n);
    else iov_copy_to(iov, iov_count, skip, src, n);
}

/*
 * Copy blocks of state DATA from pos on, at most to end, to byte `skip` of the buffers. Returns up to where the copy is
 * good: pos when the first block is not, or no longer, DATA.
 */
static uint64_t copy_data(const struct cache_map *m, uint64_t pos, uint64_t end, const struct iovec *iov,
                          unsigned iov_count, uint64_t skip)
{
    uint32_t seen[RUN_BLOCKS_MAX];
    uint64_t first = pos >> CACHE_BLOCK_SHIFT;
    uint64_t limit = min_u64(div_round_up(end, CACHE_BLOCK_BYTES) - first, RUN_BLOCKS_MAX);
    unsigned n = 0;
    for (; n < limit; n++) {
        seen[n] = load_word(m, first + n);
        if (cache_word_state(seen[n]) != CACHE_DATA) break;
    }
    if (n == 0) return pos;
    uint64_t stop = min_u64((first + n) << CACHE_BLOCK_SHIFT, end);
    atomic_thread_fence(memory_order_acquire);
    copy_out(iov, iov_count, skip, m->data + pos, stop - pos);
    atomic_thread_fence(memory_order_acquire);
    for (unsigned i = 0; i < n; i++)
        if (load_word(m, first + i) != seen[i]) return max_u64((first + i) << CACHE_BLOCK_SHIFT, pos);
    for (uint64_t at = pos; at < stop; at = (at & ~(CACHE_CHUNK_BYTES - 1)) + CACHE_CHUNK_BYTES)
        mark_touched(m, at);
    return stop;
}

/* Where the run of blocks with the state of the one at pos ends. */
static uint64_t run_end(const struct cache_map *m, uint64_t pos, uint64_t end, enum cache_state state)
{
    uint64_t block = (pos >> CACHE_BLOCK_SHIFT) + 1, stop = div_round_up(end, CACHE_BLOCK_BYTES);
    while (block < stop && cache_word_state(load_word(m, block)) == state)
        block++;
    return min_u64(block << CACHE_BLOCK_SHIFT, end);
}

static enum cache_state state_at(const struct cache_map *m, uint64_t pos)
{
    return cache_word_state(atomic_load_explicit(&m->words[pos >> CACHE_BLOCK_SHIFT], memory_order_acquire));
}

/* Zero what of [pos, end) is past the end of the layer below; returns where the rest ends. */
static uint64_t zero_past_below(struct cached_chan *c, uint64_t pos, uint64_t end, const struct iovec *iov,
                                unsigned iov_count, uint64_t skip)
{
    uint64_t limit = c->base.below ? layer_size(c->base.below->layer) : 0;
    if (end <= limit) return end;
    uint64_t from = max_u64(pos, limit);
    iov_zero(iov, iov_count, skip + (from - pos), end - from);
    count(&c->counters.zero_bytes, end - from);
    return from;
}

/* ---- the hot path ---- */

/* [pos, end) is in state BELOW. 0, -EAGAIN, other -errno. */
static int try_below(struct cached_chan *c, uint64_t pos, uint64_t end, const struct iovec *iov, unsigned iov_count,
                     uint64_t skip, uint64_t whole)
{
    struct iovec part[TRY_IOV_MAX];
    end = zero_past_below(c, pos, end, iov, iov_count, skip);
    if (pos == end) return 0;
    if (end - pos == whole) return layer_try_read(c->base.below, pos, end - pos, iov, iov_count);
    int n = iov_slice(part, TRY_IOV_MAX, iov, iov_count, skip, end - pos);
    return n < 0 ? -EAGAIN : layer_try_read(c->base.below, pos, end - pos, part, (unsigned)n);
}

/* Every block is known, or was a moment ago. */
static int try_runs(struct cached_chan *c, uint64_t offset, uint64_t end, const struct iovec *iov, unsigned iov_count)
{
    const struct cache_map *m = c->member.map;
    uint64_t hit = 0, zero = 0;
    for (uint64_t pos = offset, stop; pos < end; pos = stop) {
        enum cache_state state = state_at(m, pos);
        if (state == CACHE_ABSENT) return -EAGAIN;
        if (state == CACHE_DATA) {
            stop = copy_data(m, pos, end, iov, iov_count, pos - offset);
            hit += stop - pos;
            continue; /* when it was evicted under us, to find it ABSENT */
        }
        stop = run_end(m, pos, end, state);
        if (state == CACHE_ZERO) {
            iov_zero(iov, iov_count, pos - offset, stop - pos);
            zero += stop - pos;
            continue;
        }
        int ret = try_below(c, pos, stop, iov, iov_count, pos - offset, end - offset);
        if (ret < 0) return ret;
    }
    count(&c->counters.hit_bytes, hit);
    if (zero) count(&c->counters.zero_bytes, zero);
    return 0;
}

static bool all_known(const struct cache_map *m, uint64_t first, uint64_t stop)
{
    for (uint64_t block = first; block < stop; block++)
        if (cache_word_state(load_word(m, block)) == CACHE_ABSENT) return false;
    return true;
}

static int cached_try_read(struct layer_chan *chan, uint64_t offset_bytes, uint64_t length_bytes,
                           const struct iovec *iov, unsigned iov_count)
{
    struct cached_chan *c = chan_of(chan);
    const struct cache_map *m = c->member.map;
    if (!m) return -EAGAIN;
    assert(range_fits(offset_bytes, length_bytes, m->size_bytes));
    uint64_t first = offset_bytes >> CACHE_BLOCK_SHIFT;
    uint64_t end = offset_bytes + length_bytes;
    if (iov_count == 1 && length_bytes && (end - 1) >> CACHE_BLOCK_SHIFT == first) {
        /* One block, one buffer: most of what there is. */
        uint32_t word = atomic_load_explicit(&m->words[first], memory_order_acquire);
        if (cache_word_state(word) == CACHE_ABSENT) return -EAGAIN;
        if (cache_word_state(word) == CACHE_DATA) {
            memcpy(iov->iov_base, m->data + offset_bytes, length_bytes);
            atomic_thread_fence(memory_order_acquire);
            if (load_word(m, first) != word) return -EAGAIN;
            mark_touched(m, offset_bytes);
            count(&c->counters.hit_bytes, length_bytes);
            return 0;
        }
    } else if (!all_known(m, first, div_round_up(end, CACHE_BLOCK_BYTES))) {
        return -EAGAIN;
    }
    return try_runs(c, offset_bytes, end, iov, iov_count);
}

/* Most of a cold copy's time is finding the page: its first lines bring the translation, the hardware's own prefetcher
 * does the rest. */
static void cached_prefetch(struct layer_chan *chan, uint64_t offset_bytes)
{
    const struct cache_map *m = chan_of(chan)->member.map;
    if (!m || offset_bytes >= m->size_bytes) return;
    enum cache_state state = cache_word_state(load_word(m, offset_bytes >> CACHE_BLOCK_SHIFT));
    if (state == CACHE_BELOW && chan->below) layer_prefetch(chan->below, offset_bytes);
    if (state != CACHE_DATA) return;
    const char *data = (const char *)m->data + offset_bytes;
    for (unsigned line = 0; line < PREFETCH_LINES; line++)
        __builtin_prefetch(data + (size_t)line * 64);
}

/* ---- walks ---- */

static void walk_go(struct walk *w);

static struct walk *walk_get(struct cached_chan *c)
{
    struct walk *w;
    if (!list_empty(&c->free_walks)) w = list_entry(list_pop_front(&c->free_walks), struct walk, node);
    else if (c->walks_used < WALKS) w = &c->walks[c->walks_used++];
    else return NULL;
    c->walks_busy++;
    w->chan = c;
    return w;
}

static void walk_put(struct walk *w)
{
    struct cached_chan *c = w->chan;
    list_push_front(&c->free_walks, &w->node);
    c->walks_busy--;
    if (list_empty(&c->waiting) || c->start_queued) return;
    c->start_queued = true;
    engine_defer(c->base.engine, &c->start_task);
}

static void walk_init(struct walk *w, struct walk *lead, struct disk_req *req, uint64_t pos, uint64_t end)
{
    w->lead = lead;
    w->req = req;
    w->pos = pos;
    w->end = end;
    w->filled_end = 0;
    w->rounds = 0;
    w->direct = false;
}

/* One less of the request's walks. Completes it when that was the last, through the engine when we may be
 * inside of submit. */
static void answer_turn(struct engine_task *task)
{
    struct disk_req *req = container_of(task, struct disk_req, task);
    req->done(req, (int)(intptr_t)req->priv);
}

static void answer_later(struct cached_chan *c, struct disk_req *req, int ret)
{
    req->priv = (void *)(intptr_t)ret;
    req->task.run = answer_turn;
    engine_defer(c->base.engine, &req->task);
}

static void lead_leave(struct walk *lead, bool in_submit)
{
    if (--lead->pending) return;
    struct cached_chan *c = lead->chan;
    struct disk_req *req = lead->req;
    int error = lead->error;
    walk_put(lead);
    if (in_submit) answer_later(c, req, error);
    else req->done(req, error);
}

static void walk_end(struct walk *w, int error)
{
    struct walk *lead = w->lead;
    if (error < 0 && lead->error == 0) lead->error = error;
    if (w != lead) walk_put(w);
    lead_leave(lead, false); /* never the last one inside of submit: that holds one itself */
}

/* The walk is about to wait for [pos, stop): let another one go on behind it. */
static void walk_split(struct walk *w, uint64_t stop)
{
    if (stop >= w->end || w->lead->pending >= WALKS_PER_REQUEST) return;
    struct walk *rest = walk_get(w->chan);
    if (!rest) return;
    walk_init(rest, w->lead, w->req, stop, w->end);
    w->lead->pending++;
    w->end = stop;
    walk_go(rest);
}

static void sub_done(struct disk_req *req, int ret)
{
    struct walk *w = container_of(req, struct walk, sub);
    if (ret < 0) {
        walk_end(w, ret);
        return;
    }
    w->pos = w->sub_end;
    w->rounds = 0;
    w->direct = false;
    walk_go(w);
}

/* Read [pos, stop) through another channel. */
static void walk_read(struct walk *w, struct layer_chan *from, uint64_t stop)
{
    struct disk_req *req = w->req;
    walk_split(w, stop);
    int n = iov_slice(w->iov, DISK_IOV_MAX, req->iov, req->iov_count, w->pos - req->offset_bytes, stop - w->pos);
    assert(n > 0); /* a slice has no more entries than the whole */
    w->sub_end = stop;
    w->sub = (struct disk_req){.op = DISK_READ,
                               .offset_bytes = w->pos,
                               .length_bytes = stop - w->pos,
                               .iov = w->iov,
                               .iov_count = (unsigned)n,
                               .done = sub_done};
    layer_submit(from, &w->sub);
}

static void ask_done(struct cache_ask *ask, int result)
{
    struct walk *w = container_of(ask, struct walk, ask);
    if (result < 0) {
        w->direct = true;
        count(&w->chan->counters.fallbacks, 1);
    } else {
        w->filled_end = min_u64((ask->first_block + ask->block_count) << CACHE_BLOCK_SHIFT, w->end);
    }
    walk_go(w);
}

/* True when the service has been asked for [pos, stop), or as much of it as one may ask for at once. */
static bool walk_ask(struct walk *w, uint64_t stop)
{
    struct cached_chan *c = w->chan;
    if (w->direct || w->rounds++ >= ASK_ROUNDS_MAX) return false;
    uint64_t first = w->pos >> CACHE_BLOCK_SHIFT;
    uint64_t blocks = min_u64(div_round_up(stop, CACHE_BLOCK_BYTES) - first, CACHE_FILL_MAX_BLOCKS);
    w->ask = (struct cache_ask){
        .layer = c->member.index, .first_block = first, .block_count = (uint32_t)blocks, .done = ask_done};
    if (!cache_client_ask(c->client, &w->ask)) return false;
    count(&c->counters.fills, 1);
    walk_split(w, min_u64((first + blocks) << CACHE_BLOCK_SHIFT, stop));
    return true;
}

/* True when the walk waits. */
static bool walk_below(struct walk *w, uint64_t stop)
{
    struct cached_chan *c = w->chan;
    struct disk_req *req = w->req;
    uint64_t skip = w->pos - req->offset_bytes;
    uint64_t end = zero_past_below(c, w->pos, stop, req->iov, req->iov_count, skip);
    if (w->pos < end) {
        int ret = try_below(c, w->pos, end, req->iov, req->iov_count, skip, req->length_bytes);
        if (ret < 0) {
            walk_read(w, c->base.below, end);
            return true;
        }
    }
    w->pos = stop;
    return false;
}

static void walk_copied(struct walk *w, uint64_t stop)
{
    struct cache_counters *counters = &w->chan->counters;
    uint64_t filled = min_u64(stop, max_u64(w->filled_end, w->pos)) - w->pos;
    if (filled) count(&counters->fill_bytes, filled);
    if (stop - w->pos > filled) count(&counters->hit_bytes, stop - w->pos - filled);
    if (stop > w->pos) w->rounds = 0;
    w->pos = stop;
}

/* Go on until the end, or until there is something to wait for. */
static void walk_go(struct walk *w)
{
    struct cached_chan *c = w->chan;
    struct disk_req *req = w->req;
    while (w->pos < w->end) {
        const struct cache_map *m = c->member.map; /* may be another one each time */
        enum cache_state state = m ? state_at(m, w->pos) : CACHE_ABSENT;
        uint64_t stop = m ? run_end(m, w->pos, w->end, state) : w->end;
        uint64_t skip = w->pos - req->offset_bytes;
        switch (state) {
        case CACHE_DATA: walk_copied(w, copy_data(m, w->pos, stop, req->iov, req->iov_count, skip)); break;
        case CACHE_ZERO:
            iov_zero(req->iov, req->iov_count, skip, stop - w->pos);
            count(&c->counters.zero_bytes, stop - w->pos);
            w->pos = stop;
            break;
        case CACHE_BELOW:
            if (walk_below(w, stop)) return;
            break;
        case CACHE_ABSENT:
            if (m && walk_ask(w, stop)) return;
            count(&c->counters.direct_bytes, stop - w->pos);
            walk_read(w, c->own, stop);
            return;
        }
    }
    walk_end(w, 0);
}

/* ---- the layer ---- */

static bool start_read(struct cached_chan *c, struct disk_req *req)
{
    struct walk *lead = walk_get(c);
    if (!lead) return false;
    walk_init(lead, lead, req, req->offset_bytes, req->offset_bytes + req->length_bytes);
    lead->error = 0;
    lead->pending = 2;
    walk_go(lead);
    lead_leave(lead, true);
    return true;
}

static void start_turn(struct engine_task *task)
{
    struct cached_chan *c = container_of(task, struct cached_chan, start_task);
    c->start_queued = false;
    while (!list_empty(&c->waiting)) {
        struct list *node = list_pop_front(&c->waiting);
        if (start_read(c, list_entry(node, struct disk_req, node))) continue;
        list_push_front(&c->waiting, node);
        return;
    }
}

static void submit_read(struct cached_chan *c, struct disk_req *req)
{
    if (!range_fits(req->offset_bytes, req->length_bytes, layer_size(c->base.layer)) || req->iov_count > DISK_IOV_MAX) {
        answer_later(c, req, -EINVAL);
    } else if (!c->member.map) {
        count(&c->counters.direct_bytes, req->length_bytes);
        layer_submit(c->own, req);
    } else if (!list_empty(&c->waiting) || !start_read(c, req)) {
        list_push_back(&c->waiting, &req->node);
    }
}

static void cached_submit(struct layer_chan *chan, struct disk_req *req)
{
    struct cached_chan *c = chan_of(chan);
    switch (req->op) {
    case DISK_READ: submit_read(c, req); break;
    case DISK_MAP: layer_submit(c->own, req); break;
    case DISK_FLUSH: answer_later(c, req, 0); break; /* nothing is ever written */
    case DISK_WRITE:
    case DISK_DISCARD:
    case DISK_WRITE_ZEROES: answer_later(c, req, -EROFS); break;
    }
}

static int cached_chan_open(struct layer *l, struct engine *e, struct layer_chan *below, struct layer_chan **out)
{
    struct cached_layer *cached = container_of(l, struct cached_layer, base);
    struct cached_chan *c = calloc(1, sizeof *c);
    if (!c) return -ENOMEM;
    c->walks = mmap(NULL, WALKS * sizeof *c->walks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int ret = c->walks == MAP_FAILED ? -errno : 0;
    if (ret == 0) {
        ret = cached->own->ops->chan_open(cached->own, e, below, &c->own);
        if (ret < 0) munmap(c->walks, WALKS * sizeof *c->walks);
    }
    if (ret < 0) {
        free(c);
        return ret;
    }
    c->base = (struct layer_chan){.layer = l, .engine = e, .below = below};
    c->member = (struct cache_member){.index = cached->index, .size_bytes = layer_size(l)};
    list_init(&c->member.node);
    list_init(&c->free_walks);
    list_init(&c->waiting);
    c->start_task.run = start_turn;
    *out = &c->base;
    return 0;
}

static void cached_chan_close(struct layer_chan *chan)
{
    struct cached_chan *c = chan_of(chan);
    assert(c->walks_busy == 0 && list_empty(&c->waiting));
    if (c->start_queued) list_remove(&c->start_task.node);
    cache_client_remove(&c->member);
    c->own->layer->ops->chan_close(c->own);
    munmap(c->walks, WALKS * sizeof *c->walks);
    free(c);
}

static int cached_resize(struct layer *l, uint64_t new_size_bytes, struct errmsg *e)
{
    return errmsg_set(e, EROFS, "%s: a base layer cannot be resized", l->name);
}

static int cached_close(struct layer *l, struct errmsg *e)
{
    free(container_of(l, struct cached_layer, base));
    return 0;
}

static const struct layer_ops cached_ops = {
    .type = "cached",
    .chan_open = cached_chan_open,
    .chan_close = cached_chan_close,
    .try_read = cached_try_read,
    .submit = cached_submit,
    .resize = cached_resize,
    .close = cached_close,
    .prefetch = cached_prefetch,
};

int cache_layer_open(struct layer **out, struct layer *own, struct layer *below, unsigned index, struct errmsg *e)
{
    if (index >= CACHE_CHANNEL_LAYERS_MAX)
        return errmsg_set(e, EINVAL, "%s: it is base layer %u; the cache takes %u", own->name, index,
                          CACHE_CHANNEL_LAYERS_MAX);
    struct cached_layer *cached = calloc(1, sizeof *cached);
    if (!cached) return errmsg_sys(e, ENOMEM, "%s", own->name);
    cached->base = (struct layer){.ops = &cached_ops, .below = below, .name = own->name};
    atomic_init(&cached->base.size_bytes, layer_size(own));
    cached->own = own;
    cached->index = index;
    *out = &cached->base;
    return 0;
}

void cache_client_join(struct cache_client *c, struct layer_chan *chan)
{
    if (chan->layer->ops != &cached_ops) return;
    struct cached_chan *cc = chan_of(chan);
    assert(!cc->client);
    cc->client = c;
    cache_client_add(c, &cc->member);
}

const struct cache_counters *cache_client_counters(const struct layer_chan *chan)
{
    if (chan->layer->ops != &cached_ops) return NULL;
    return &((const struct cached_chan *)chan)->counters;
}
