/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way out of the switch, the same for every kind of port.
 *
 * Most batches need nothing: the first loop sees that and hands the array on as it is. Otherwise frames are finished one
 * by one, in order, and leave in batches again. A checksum is finished in the packet's head, which is right for every other port that
 * gets the same packet. Segments are packets of the thread's pool.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/endian.h"
#include "packet/checksum.h"
#include "packet/gso.h"
#include "port/capture.h"
#include "port/port.h"

#define L2_BYTES 18u /* Ethernet and a tag: what may come on top of the MTU anyway */
#define TAG_BYTES 4u
#define TAGS_MAX 4u /* looked at */

void port_init(struct port *p, const struct port_ops *ops, const char *name)
{
    memset(p, 0, sizeof *p);
    p->ops = ops;
    snprintf(p->name, sizeof p->name, "%s", name);
    atomic_init(&p->mtu, 1500);
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static const uint8_t gso_takes[] = {
    [PACKET_GSO_NONE] = 0,
    [PACKET_GSO_TCP4] = PORT_TAKES_TSO4,
    [PACKET_GSO_TCP6] = PORT_TAKES_TSO6,
    [PACKET_GSO_UDP4] = PORT_TAKES_USO4,
    [PACKET_GSO_UDP6] = PORT_TAKES_USO6,
};

/* Can a kernel behind the port find IP in a large segment? Behind tags that it knows it looks, behind anything else (MPLS,
 * another Ethernet header) it loses the frame, whatever the port takes. */
static bool is_plain_ip(const struct packet *p)
{
    for (uint32_t at = 12, i = 0; i <= TAGS_MAX && at + 2 <= p->head_bytes; at += TAG_BYTES, i++) {
        struct be16 raw;
        memcpy(&raw, p->head + at, sizeof raw);
        uint16_t type = be16_get(raw);
        if (type == 0x0800 || type == 0x86dd) return true;
        if (type != 0x8100 && type != 0x88a8) break;
    }
    return false;
}

/* PORT_PLAIN_OFFLOADS */
static bool is_plain_l4(const struct packet *p)
{
    const uint8_t *h = p->head;
    if (p->head_bytes < 34) return false;
    if (h[12] == 0x08 && h[13] == 0x00) return p->offload.csum_start == 14 + (h[14] & 15u) * 4;
    return h[12] == 0x86 && h[13] == 0xdd && p->offload.csum_start == 14 + 40;
}

/* What the port takes of this frame: of one that must be cut up here, not its checksum either. */
static uint32_t takes_of(const struct packet *p, uint32_t takes)
{
    if (takes & PORT_PLAIN_OFFLOADS) return !p->offload.csum_partial || is_plain_l4(p) ? takes : 0;
    return p->offload.gso == PACKET_GSO_NONE || is_plain_ip(p) ? takes : 0;
}

/* What a receiver must take to get the frame as it is. */
static uint32_t needs(const struct packet *p)
{
    return gso_takes[p->offload.gso] | (p->offload.csum_partial ? PORT_TAKES_CSUM : 0);
}

/* Bytes of the tags between the addresses and the type, as far as they lie in the head. */
static uint32_t tags_bytes(const struct packet *p)
{
    uint32_t at = 12;
    for (unsigned i = 0; i < TAGS_MAX && at + 2 <= p->head_bytes; i++) {
        struct be16 raw;
        memcpy(&raw, p->head + at, sizeof raw);
        uint16_t type = be16_get(raw);
        if (type != 0x8100 && type != 0x88a8 && type != 0x9100) break;
        at += TAG_BYTES;
    }
    return at - 12;
}

/* Longer than the receiver's wire carries? For a large segment its pieces count. */
static bool too_long(const struct packet *p, uint32_t mtu)
{
    uint32_t bytes = p->length_bytes;
    if (p->offload.gso != PACKET_GSO_NONE) {
        uint32_t l4 = p->offload.csum_start;
        bool tcp = p->offload.gso == PACKET_GSO_TCP4 || p->offload.gso == PACKET_GSO_TCP6;
        bytes = l4 + (tcp && l4 + 20u <= p->head_bytes ? (p->head[l4 + 12] >> 4) * 4u : 8) + p->offload.gso_size;
    }
    if (bytes <= mtu + L2_BYTES) return false;
    uint32_t tags = tags_bytes(p);
    return bytes - mtu > L2_BYTES + (tags > TAG_BYTES ? tags - TAG_BYTES : 0);
}

static void give(struct port *p, struct packet *const *packets, unsigned n, uint64_t bytes, struct packet_pool *pool)
{
    count(&p->out.packets, n);
    count(&p->out.bytes, bytes);
    struct port_capture *capture = atomic_load_explicit(&p->capture, memory_order_acquire);
    if (capture) port_capture_frames(capture, packets, n, PORT_CAPTURE_OUT);
    p->ops->send(p, packets, n, pool);
}

/* Frames on their way to ops->send. */
struct outlet {
    struct port *port;
    struct packet_pool *pool;
    unsigned count;
    uint64_t bytes;
    struct packet *packets[PACKET_BATCH];
};

static void flush(struct outlet *o)
{
    if (o->count == 0) return;
    give(o->port, o->packets, o->count, o->bytes, o->pool);
    o->count = 0;
    o->bytes = 0;
}

static void put(struct outlet *o, struct packet *p)
{
    o->packets[o->count++] = p;
    o->bytes += p->length_bytes;
    if (o->count == PACKET_BATCH) flush(o);
}

/* Segments leave before the next ones are made: there may be more than the pool has, or than others left in it. */
static void cut(struct outlet *o, struct packet *p, uint32_t takes)
{
    struct gso g;
    if (gso_begin(&g, o->pool, p, takes & PORT_TAKES_CSUM) < 0) {
        count(&o->port->out.errors, 1);
        count(&o->port->out.dropped, 1);
        return;
    }
    flush(o);
    struct packet_pool_mark mark = packet_pool_mark(o->pool);
    uint64_t segments = 0;
    for (;;) {
        struct packet *s = gso_next(&g);
        if (s) {
            segments++;
            put(o, s);
        } else if (gso_left(&g) == 0 || o->count == 0) {
            break;
        } else {
            flush(o);
        }
        if (o->count == 0) packet_pool_rewind(o->pool, mark);
    }
    flush(o);
    packet_pool_rewind(o->pool, mark);
    count(&o->port->segmented, segments);
    if (gso_left(&g) || segments == 0) count(&o->port->out.dropped, 1);
}

static void finish(struct outlet *o, struct packet *p, uint32_t takes)
{
    takes = takes_of(p, takes);
    uint32_t missing = needs(p) & ~takes;
    if (too_long(p, atomic_load_explicit(&o->port->mtu, memory_order_relaxed))) {
        count(&o->port->out.dropped, 1);
        return;
    }
    if (p->offload.gso != PACKET_GSO_NONE && missing) {
        cut(o, p, takes);
        return;
    }
    if (missing) {
        if (!packet_finish_csum(o->pool, p)) {
            count(&o->port->out.errors, 1);
            count(&o->port->out.dropped, 1);
            return;
        }
        count(&o->port->checksummed, 1);
    }
    put(o, p);
}

void port_send(struct port *port, struct packet *const *packets, unsigned n, struct packet_pool *pool)
{
    uint32_t takes = atomic_load_explicit(&port->takes, memory_order_relaxed);
    uint32_t short_bytes = atomic_load_explicit(&port->mtu, memory_order_relaxed) + L2_BYTES;
    struct outlet o = {.port = port, .pool = pool};
    while (n) {
        unsigned batch = n < PACKET_BATCH ? n : PACKET_BATCH;
        uint32_t special = 0;
        uint64_t bytes = 0;
        for (unsigned i = 0; i < batch; i++) {
            special |= (needs(packets[i]) & ~takes_of(packets[i], takes)) | (packets[i]->length_bytes > short_bytes);
            bytes += packets[i]->length_bytes;
        }
        if (!special) {
            give(port, packets, batch, bytes, pool);
        } else {
            for (unsigned i = 0; i < batch; i++)
                finish(&o, packets[i], takes);
            flush(&o);
        }
        packets += batch;
        n -= batch;
    }
}

static uint64_t load(_Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void port_stats_read(struct port *p, struct port_stats *out)
{
    *out = (struct port_stats){
        .in_packets = load(&p->in.packets),
        .in_bytes = load(&p->in.bytes),
        .in_dropped = load(&p->in.dropped),
        .in_errors = load(&p->in.errors),
        .out_packets = load(&p->out.packets),
        .out_bytes = load(&p->out.bytes),
        .out_dropped = load(&p->out.dropped),
        .out_errors = load(&p->out.errors),
        .out_copied_bytes = load(&p->copied_bytes),
        .segmented = load(&p->segmented),
        .checksummed = load(&p->checksummed),
        .merged = load(&p->merged),
    };
    if (p->ops->stats) p->ops->stats(p, out);
}

void port_stats_go_on(struct port *p, const struct port_stats *from)
{
    count(&p->in.packets, from->in_packets);
    count(&p->in.bytes, from->in_bytes);
    count(&p->in.dropped, from->in_dropped);
    count(&p->in.errors, from->in_errors);
    count(&p->out.packets, from->out_packets);
    count(&p->out.bytes, from->out_bytes);
    count(&p->out.dropped, from->out_dropped);
    count(&p->out.errors, from->out_errors);
    count(&p->copied_bytes, from->out_copied_bytes);
    count(&p->segmented, from->segmented);
    count(&p->checksummed, from->checksummed);
    count(&p->merged, from->merged);
}
