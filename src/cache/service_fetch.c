/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fills and fetches: from what a client asks to what storage is read.
 *
 * A fetch owns its chunks from start to end and goes through its blocks in order:
 *
 *   skip what is known -> MAP -> ZERO, BELOW: publish, as far as the extent goes within the region
 *                     |       -> DATA: READ into the fetch's buffer -> write to the memfd -> publish
 *                     +-- until the end, or an error
 *
 * Why not read straight into the memfd? Its holes would have to be cleared, mapped and pinned page by page first, and unmapped
 * again by eviction: that takes more time than the copy (measured: 1.5 against 1.1 seconds of CPU a GB), and page
 * tables for all that was ever cached. A buffer also lets blocks of zeroes be seen before they take memory, and a read
 * that fails leave nothing behind.
 *
 * A block is one word, so a block that is part this layer's and part the layer below's (clusters smaller than
 * 4 KiB) cannot be published: fills of it fail with -EOPNOTSUPP and its readers go to the image themselves.
 *
 * When a fetch ends its waiters first all skip what is known now, before any of them may start a fetch
 * whose eviction takes away what another one waited for: every waiter gets on with each fetch that ends.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cache/service_internal.h"

static void fetch_step(struct service_fetch *f);
static void fill_advance(struct service_fill *f);

/* ---- fetches ---- */

static uint64_t block_offset(uint64_t block)
{
    return block << CACHE_BLOCK_SHIFT;
}

static void fetch_release(struct service_fetch *f)
{
    struct base_layer *b = f->base;
    struct cache_service *s = b->service;
    for (uint64_t i = f->first / CACHE_CHUNK_BLOCKS; i <= (f->end - 1) / CACHE_CHUNK_BLOCKS; i++) {
        struct chunk *c = service_chunk_find(b, i);
        assert(c && c->fetch == f);
        c->fetch = NULL;
        service_chunk_put(c);
    }
    uint64_t bytes = block_offset(f->end - f->first);
    b->fetching_bytes -= bytes;
    s->fetching_bytes -= FETCH_COST * bytes;
    b->fetches--;
    s->fetch_count--;
    s->ahead_count -= f->ahead;
    f->base = NULL;
    list_push_front(&s->free_fetches, &f->node);
}

static void fill_finish(struct service_fill *f, int result)
{
    struct service_channel *c = f->channel;
    uint64_t cookie = f->cookie;
    service_fill_drop(f);
    service_channel_answer(c, cookie, result);
}

static void fill_skip_known(struct service_fill *f)
{
    while (f->pos < f->end && service_known(f->base, f->pos))
        f->pos++;
}

static void fetch_finish(struct service_fetch *f)
{
    struct base_layer *b = f->base;
    struct cache_service *s = b->service;
    uint64_t first = f->first, end = f->end;
    int error = f->error;
    struct list waiters;
    list_init(&waiters);
    list_splice_back(&waiters, &f->waiters);
    LIST_FOR_EACH (node, &waiters)
        fill_skip_known(list_entry(node, struct service_fill, wait_node));
    if (error) b->stats.errors++;
    fetch_release(f);
    /* An answer may close the channel and so take other fills off this list. */
    for (struct list *node; (node = list_pop_front(&waiters));) {
        struct service_fill *fill = list_entry(node, struct service_fill, wait_node);
        if (error && fill->pos < fill->end && fill->pos >= first && fill->pos < end) fill_finish(fill, error);
        else fill_advance(fill);
    }
    service_starved_wake(s);
}

static bool block_is_zero(const uint8_t *block)
{
    return block[0] == 0 && memcmp(block, block + 1, CACHE_BLOCK_BYTES - 1) == 0;
}

static int write_all(int fd, const uint8_t *buf, uint64_t bytes, uint64_t offset)
{
    while (bytes) {
        ssize_t n = pwrite(fd, buf, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 ? -errno : -EIO;
        buf += n;
        bytes -= (uint64_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

/* What was read as zeroes needs no memory: images are full of such blocks. */
static int publish_read(struct service_fetch *f)
{
    struct base_layer *b = f->base;
    int ret = 0;
    for (uint64_t run = 0, next; run < f->step_blocks && ret == 0; run = next) {
        const uint8_t *buf = f->buffer + block_offset(run);
        bool zero = block_is_zero(buf);
        for (next = run + 1; next < f->step_blocks; next++)
            if (block_is_zero(f->buffer + block_offset(next)) != zero) break;
        if (!zero) {
            uint64_t bytes = block_offset(next - run);
            ret = write_all(b->data_fd, buf, bytes, block_offset(f->pos + run));
            if (ret < 0) break;
            b->stats.filled_bytes += bytes;
        }
        ret = service_publish(b, f->pos + run, f->pos + next, zero ? CACHE_ZERO : CACHE_DATA);
    }
    return ret;
}

static void read_done(struct disk_req *req, int ret)
{
    struct service_fetch *f = container_of(req, struct service_fetch, req);
    struct base_layer *b = f->base;
    /* The last block of a layer may be a part of one. */
    memset(f->buffer + req->length_bytes, 0, block_offset(f->step_blocks) - req->length_bytes);
    if (ret == 0) ret = b->broken;
    if (ret == 0) ret = publish_read(f);
    if (f->ahead) b->stats.readahead_bytes += req->length_bytes;
    if (ret < 0) {
        f->error = ret;
        fetch_finish(f);
        return;
    }
    f->pos += f->step_blocks;
    fetch_step(f);
}

static void fetch_read(struct service_fetch *f, uint64_t count)
{
    struct base_layer *b = f->base;
    uint64_t n = 1;
    count = min_u64(count, f->end - f->pos);
    while (n < count && !service_known(b, f->pos + n))
        n++;
    uint64_t offset = block_offset(f->pos);
    uint64_t bytes = min_u64(block_offset(n), b->size_bytes - offset);
    f->step_blocks = n;
    f->iov = (struct iovec){.iov_base = f->buffer, .iov_len = bytes};
    f->req = (struct disk_req){.op = DISK_READ,
                               .offset_bytes = offset,
                               .length_bytes = bytes,
                               .iov = &f->iov,
                               .iov_count = 1,
                               .done = read_done};
    layer_submit(b->chan, &f->req);
}

/* count blocks from pos on are of one kind. */
static void fetch_apply(struct service_fetch *f, enum disk_extent_kind kind, uint64_t count)
{
    struct base_layer *b = f->base;
    f->map_bytes = 0;
    f->map_kinds = 0;
    if (kind == DISK_EXTENT_DATA) {
        fetch_read(f, count);
        return;
    }
    uint64_t region_end = (f->pos / REGION_BLOCKS + 1) * REGION_BLOCKS;
    uint64_t end = min_u64(f->pos + count, max_u64(f->end, region_end));
    int ret = service_publish(b, f->pos, end, kind == DISK_EXTENT_ZERO ? CACHE_ZERO : CACHE_BELOW);
    if (ret < 0) {
        f->error = ret;
        fetch_finish(f);
        return;
    }
    f->pos = min_u64(end, f->end);
    fetch_step(f);
}

/* The block at pos consists of several extents. */
static void fetch_apply_mixed(struct service_fetch *f)
{
    unsigned kinds = f->map_kinds;
    if (kinds == 1u << DISK_EXTENT_BELOW) {
        fetch_apply(f, DISK_EXTENT_BELOW, 1);
    } else if (!(kinds & 1u << DISK_EXTENT_BELOW)) {
        fetch_apply(f, kinds == 1u << DISK_EXTENT_ZERO ? DISK_EXTENT_ZERO : DISK_EXTENT_DATA, 1);
    } else {
        f->error = -EOPNOTSUPP;
        f->map_bytes = 0;
        f->map_kinds = 0;
        f->pos++;
        fetch_step(f);
    }
}

static void map_done(struct disk_req *req, int ret)
{
    struct service_fetch *f = container_of(req, struct service_fetch, req);
    struct base_layer *b = f->base;
    if (ret == 0) ret = b->broken;
    if (ret == 0 && req->map.length_bytes == 0) ret = -EIO;
    if (ret < 0) {
        f->error = ret;
        fetch_finish(f);
        return;
    }
    uint64_t length = min_u64(req->map.length_bytes, req->length_bytes);
    bool to_the_end = req->offset_bytes + length >= b->size_bytes;
    if (f->map_bytes == 0 && (length >= CACHE_BLOCK_BYTES || to_the_end)) {
        uint64_t count = to_the_end ? div_round_up(length, CACHE_BLOCK_BYTES) : length >> CACHE_BLOCK_SHIFT;
        fetch_apply(f, req->map.kind, count);
        return;
    }
    f->map_kinds |= 1u << req->map.kind;
    f->map_bytes += length;
    if (f->map_bytes >= CACHE_BLOCK_BYTES || to_the_end) fetch_apply_mixed(f);
    else fetch_step(f);
}

static void fetch_step(struct service_fetch *f)
{
    struct base_layer *b = f->base;
    while (f->pos < f->end && service_known(b, f->pos))
        f->pos++;
    if (f->pos == f->end) {
        fetch_finish(f);
        return;
    }
    uint64_t region_end = (f->pos / REGION_BLOCKS + 1) * REGION_BLOCKS;
    uint64_t offset = block_offset(f->pos) + f->map_bytes;
    uint64_t limit = min_u64(block_offset(max_u64(f->end, region_end)), b->size_bytes);
    f->req =
        (struct disk_req){.op = DISK_MAP, .offset_bytes = offset, .length_bytes = limit - offset, .done = map_done};
    layer_submit(b->chan, &f->req);
}

static bool fetch_hold_chunks(struct service_fetch *f, struct base_layer *b, uint64_t first, uint64_t end)
{
    uint64_t first_chunk = first / CACHE_CHUNK_BLOCKS, last_chunk = (end - 1) / CACHE_CHUNK_BLOCKS;
    for (uint64_t i = first_chunk; i <= last_chunk; i++) {
        struct chunk *c = service_chunk_get(b, i);
        if (!c) {
            while (i-- > first_chunk) {
                c = service_chunk_find(b, i);
                c->fetch = NULL;
                service_chunk_put(c);
            }
            return false;
        }
        assert(!c->fetch);
        c->fetch = f;
    }
    return true;
}

/* None of the chunks has a fetch. False when there is no room, or no fetch free. */
static bool fetch_start(struct base_layer *b, uint64_t first, uint64_t end, bool ahead)
{
    struct cache_service *s = b->service;
    uint64_t bytes = block_offset(end - first);
    if (list_empty(&s->free_fetches) || (ahead && s->ahead_count >= FETCHES_AHEAD_MAX)) return false;
    if (!service_make_room(s, FETCH_COST * bytes)) return false;
    struct service_fetch *f = list_entry(s->free_fetches.next, struct service_fetch, node);
    if (!fetch_hold_chunks(f, b, first, end)) return false;
    list_remove(&f->node);
    s->buffers_used = true;
    f->base = b;
    f->first = f->pos = first;
    f->end = end;
    f->map_bytes = 0;
    f->map_kinds = 0;
    f->error = 0;
    f->ahead = ahead;
    b->fetching_bytes += bytes;
    s->fetching_bytes += FETCH_COST * bytes;
    b->fetches++;
    s->fetch_count++;
    s->ahead_count += ahead;
    fetch_step(f);
    return true;
}

/* Start what is needed for the blocks of [pos, end) that are neither known nor on their way. */
static void fetch_range(struct base_layer *b, uint64_t pos, uint64_t end, bool ahead)
{
    uint64_t most = ahead ? FETCH_AHEAD_BLOCKS_MAX : FETCH_BLOCKS_MAX;
    while (pos < end) {
        uint64_t chunk_end = (pos / CACHE_CHUNK_BLOCKS + 1) * CACHE_CHUNK_BLOCKS;
        struct chunk *c = service_chunk_find(b, pos / CACHE_CHUNK_BLOCKS);
        if (c && c->fetch) {
            pos = chunk_end;
            continue;
        }
        if (service_known(b, pos)) {
            pos++;
            continue;
        }
        /* Further chunks that are free, then without the known blocks at the end. */
        uint64_t stop = min_u64(chunk_end, end);
        while (stop < end && !service_known(b, stop)) {
            c = service_chunk_find(b, stop / CACHE_CHUNK_BLOCKS);
            uint64_t longer = min_u64(stop + CACHE_CHUNK_BLOCKS, end);
            if ((c && c->fetch) || longer - pos > most) break;
            stop = longer;
        }
        uint64_t next = stop;
        while (service_known(b, stop - 1))
            stop--;
        if (!fetch_start(b, pos, stop, ahead)) return;
        pos = next;
    }
}

int service_fetch_init(struct cache_service *s)
{
    list_init(&s->free_fetches);
    void *p = mmap(NULL, FETCHES_MAX * FETCH_BYTES_MAX, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return -errno;
    s->buffers = p;
    for (unsigned i = 0; i < FETCHES_MAX; i++) {
        s->fetch[i].buffer = s->buffers + i * FETCH_BYTES_MAX;
        list_init(&s->fetch[i].waiters);
        list_push_back(&s->free_fetches, &s->fetch[i].node);
    }
    return 0;
}

void service_fetch_destroy(struct cache_service *s)
{
    if (s->buffers) munmap(s->buffers, FETCHES_MAX * FETCH_BYTES_MAX);
}

void service_fetch_relax(struct cache_service *s)
{
    if (s->fetch_count || !s->buffers_used) return;
    madvise(s->buffers, FETCHES_MAX * FETCH_BYTES_MAX, MADV_DONTNEED);
    s->buffers_used = false;
}

/* ---- fills ---- */

void service_fill_drop(struct service_fill *f)
{
    list_remove(&f->wait_node);
    list_remove(&f->channel_node);
    f->channel->fill_count--;
    free(f);
}

static struct service_fetch *fetch_at(const struct base_layer *b, uint64_t block)
{
    const struct chunk *c = service_chunk_find(b, block / CACHE_CHUNK_BLOCKS);
    return c ? c->fetch : NULL;
}

static void fill_advance(struct service_fill *f)
{
    struct base_layer *b = f->base;
    fill_skip_known(f);
    if (f->pos == f->end || b->broken) {
        fill_finish(f, f->pos == f->end ? 0 : b->broken);
        return;
    }
    fetch_range(b, f->pos, f->end, false);
    struct service_fetch *fetch = fetch_at(b, f->pos);
    struct cache_service *s = b->service;
    if (fetch) list_push_back(&fetch->waiters, &f->wait_node);
    else if (s->fetch_count) list_push_back(&s->starved, &f->wait_node); /* until one of them ends */
    else fill_finish(f, -ENOMEM);
}

static bool range_being_fetched(const struct base_layer *b, uint64_t first, uint64_t end)
{
    for (uint64_t block = first; block < end; block = (block / CACHE_CHUNK_BLOCKS + 1) * CACHE_CHUNK_BLOCKS)
        if (fetch_at(b, block)) return true;
    return false;
}

/* When many clients do the same at once, each of them misses what the first one has asked for already. Counting
 * that as a longer run, or as a second miss nearby, would read more for many boots than for one. What was only being read
 * ahead is different: it says that the guess was right. */
static bool miss_is_news(const struct base_layer *b, uint64_t block)
{
    const struct service_fetch *going = fetch_at(b, block);
    bool coming = going && block >= going->first && block < going->end; /* the chunk may be held for other blocks */
    return !coming || (going->ahead && list_empty(&going->waiters));
}

void service_fill_start(struct service_channel *c, const struct cache_fill *msg)
{
    struct base_layer *b = c->session->layer[msg->layer];
    struct service_fill *f = calloc(1, sizeof *f);
    b->stats.fills++;
    if (!f) {
        service_channel_answer(c, msg->cookie, -ENOMEM);
        return;
    }
    f->channel = c;
    f->base = b;
    f->cookie = msg->cookie;
    f->pos = msg->first_block;
    f->end = msg->first_block + msg->block_count;
    list_init(&f->wait_node);
    list_push_back(&c->fills, &f->channel_node);
    c->fill_count++;
    fill_skip_known(f);
    if (f->pos == f->end || b->broken) {
        fill_advance(f);
        return;
    }
    if (range_being_fetched(b, f->pos, f->end)) b->stats.coalesced++;
    struct ahead_plan plan = {0};
    if (miss_is_news(b, f->pos)) {
        service_ahead_plan(b, f->pos, f->end, &plan);
        fetch_range(b, plan.first, plan.end, false);
        service_ahead_note(b, &plan);
    }
    fill_advance(f); /* may end f, and the channel */
    if (plan.ahead_first < plan.ahead_end && !b->broken) fetch_range(b, plan.ahead_first, plan.ahead_end, true);
}

static void starved_turn(struct engine_task *task)
{
    struct cache_service *s = container_of(task, struct cache_service, starved_task);
    s->starved_queued = false;
    struct list fills;
    list_init(&fills);
    list_splice_back(&fills, &s->starved);
    for (struct list *node; (node = list_pop_front(&fills));)
        fill_advance(list_entry(node, struct service_fill, wait_node));
}

void service_starved_wake(struct cache_service *s)
{
    if (s->starved_queued || list_empty(&s->starved)) return;
    s->starved_task.run = starved_turn;
    s->starved_queued = true;
    engine_defer(s->engine, &s->starved_task);
}
