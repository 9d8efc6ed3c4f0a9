/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames in pieces, and the pool they are made from.
 *
 * The pool is two arrays that are filled from the front: giving everything back is setting two numbers to zero, and what is
 * taken first is in the processor's cache already. Memory that no batch ever needed is never touched, so that a thread whose
 * packets are never cloned costs next to nothing.
 */
#include "packet/packet.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/iov.h"

struct pool_packet {
    _Alignas(64) struct packet packet;
    uint8_t buffer[PACKET_BUFFER_BYTES];
};

struct packet_pool {
    struct packet_pool_mark used;
    _Alignas(64) struct iovec iov[PACKET_POOL_IOVS];
    struct pool_packet packets[PACKET_POOL_PACKETS];
};

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

void packet_read(const struct packet *p, uint32_t at, void *dst, uint32_t n)
{
    assert(at <= p->length_bytes && n <= p->length_bytes - at);
    uint32_t from_head = at < p->head_bytes ? min_u32(n, p->head_bytes - at) : 0;
    if (from_head) memcpy(dst, p->head + at, from_head);
    if (n == from_head) return;
    size_t moved = iov_copy_from((uint8_t *)dst + from_head, p->body, p->body_count, at + from_head - p->head_bytes,
                                 n - from_head);
    assert(moved == n - from_head);
}

int packet_iov(const struct packet *p, uint32_t at, uint32_t n, struct iovec *out, unsigned max)
{
    assert(at <= p->length_bytes && n <= p->length_bytes - at);
    unsigned count = 0;
    if (at < p->head_bytes && n > 0) {
        if (max == 0) return -E2BIG;
        uint32_t take = min_u32(n, p->head_bytes - at);
        out[count++] = (struct iovec){p->head + at, take};
        at += take;
        n -= take;
    }
    if (n == 0) return (int)count;
    int more = iov_slice(out + count, max - count, p->body, p->body_count, at - p->head_bytes, n);
    return more < 0 ? -E2BIG : (int)count + more;
}

/* The body without its first n bytes. The first entry that stays may have to be cut, and may not be written: others
 * share it. */
static bool drop_front(struct packet_pool *pool, struct packet *p, size_t n)
{
    const struct iovec *body = p->body;
    unsigned count = p->body_count;
    while (count > 0 && n >= body->iov_len) {
        n -= body->iov_len;
        body++;
        count--;
    }
    if (n > 0) {
        struct iovec *own = packet_pool_iov(pool, count);
        if (!own) return false;
        memcpy(own, body, count * sizeof *own);
        own[0] = (struct iovec){(char *)own[0].iov_base + n, own[0].iov_len - n};
        body = own;
    }
    p->body = body;
    p->body_count = count;
    return true;
}

bool packet_pull(struct packet_pool *pool, struct packet *p, uint16_t n)
{
    if (n <= p->head_bytes) return true;
    if (n > p->length_bytes || n > PACKET_HEAD_BYTES || n > PACKET_BUFFER_BYTES - p->room_bytes) return false;
    uint16_t more = (uint16_t)(n - p->head_bytes);
    struct packet whole = *p;
    if (!drop_front(pool, p, more)) return false;
    packet_read(&whole, whole.head_bytes, p->head + p->head_bytes, more);
    p->head_bytes = n;
    return true;
}

static void layer_insert(uint16_t *layer, uint16_t at, uint16_t n)
{
    if (*layer != PACKET_NO_LAYER && *layer >= at) *layer = (uint16_t)(*layer + n);
}

bool packet_insert(struct packet *p, uint16_t at, uint16_t n)
{
    if (n > p->room_bytes || at > p->head_bytes || p->offload.csum_start > UINT16_MAX - n) return false;
    memmove(p->head - n, p->head, at);
    p->head -= n;
    p->room_bytes = (uint16_t)(p->room_bytes - n);
    p->head_bytes = (uint16_t)(p->head_bytes + n);
    p->length_bytes += n;
    layer_insert(&p->l3_at, at, n);
    layer_insert(&p->l4_at, at, n);
    if (p->offload.csum_partial && p->offload.csum_start >= at)
        p->offload.csum_start = (uint16_t)(p->offload.csum_start + n);
    return true;
}

static void layer_remove(uint16_t *layer, uint16_t at, uint16_t n)
{
    if (*layer == PACKET_NO_LAYER || *layer < at) return;
    *layer = *layer - at < n ? PACKET_NO_LAYER : (uint16_t)(*layer - n);
}

bool packet_remove(struct packet *p, uint16_t at, uint16_t n)
{
    if (at > p->head_bytes || n > p->head_bytes - at) return false;
    memmove(p->head + n, p->head, at);
    p->head += n;
    p->room_bytes = (uint16_t)(p->room_bytes + n);
    p->head_bytes = (uint16_t)(p->head_bytes - n);
    p->length_bytes -= n;
    layer_remove(&p->l3_at, at, n);
    layer_remove(&p->l4_at, at, n);
    uint16_t start = p->offload.csum_start;
    if (p->offload.csum_partial && start >= at) p->offload.csum_start = start - at < n ? at : (uint16_t)(start - n);
    return true;
}

struct packet_pool *packet_pool_new(void)
{
    /* Pages come when they are first used. */
    void *pool = mmap(NULL, sizeof(struct packet_pool), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pool == MAP_FAILED ? NULL : pool;
}

void packet_pool_free(struct packet_pool *pool)
{
    if (pool) munmap(pool, sizeof *pool);
}

void packet_pool_reset(struct packet_pool *pool)
{
    pool->used = (struct packet_pool_mark){0, 0};
}

struct packet_pool_mark packet_pool_mark(const struct packet_pool *pool)
{
    return pool->used;
}

void packet_pool_rewind(struct packet_pool *pool, struct packet_pool_mark mark)
{
    assert(mark.packets <= pool->used.packets && mark.iovs <= pool->used.iovs);
    pool->used = mark;
}

static struct packet *take_packet(struct packet_pool *pool, uint16_t room_bytes)
{
    if (pool->used.packets == PACKET_POOL_PACKETS) return NULL;
    struct pool_packet *taken = &pool->packets[pool->used.packets++];
    taken->packet.head = taken->buffer + room_bytes;
    return &taken->packet;
}

struct packet *packet_clone(struct packet_pool *pool, const struct packet *p)
{
    assert(p->head_bytes <= PACKET_BUFFER_BYTES);
    uint16_t room =
        p->head_bytes <= PACKET_HEAD_BYTES ? PACKET_ROOM_BYTES : (uint16_t)(PACKET_BUFFER_BYTES - p->head_bytes);
    struct packet *c = take_packet(pool, room);
    if (!c) return NULL;
    uint8_t *head = c->head;
    *c = *p;
    c->head = head;
    c->room_bytes = room;
    memcpy(head, p->head, p->head_bytes);
    return c;
}

struct packet *packet_pool_packet(struct packet_pool *pool)
{
    struct packet *p = take_packet(pool, PACKET_ROOM_BYTES);
    if (!p) return NULL;
    *p = (struct packet){
        .head = p->head, .room_bytes = PACKET_ROOM_BYTES, .l3_at = PACKET_NO_LAYER, .l4_at = PACKET_NO_LAYER};
    return p;
}

struct iovec *packet_pool_iov(struct packet_pool *pool, unsigned max)
{
    if (max > PACKET_POOL_IOVS - pool->used.iovs) return NULL;
    struct iovec *iov = &pool->iov[pool->used.iovs];
    pool->used.iovs += max;
    return iov;
}

unsigned packet_pool_iov_left(const struct packet_pool *pool)
{
    return PACKET_POOL_IOVS - pool->used.iovs;
}
