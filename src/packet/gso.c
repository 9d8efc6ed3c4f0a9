/* SPDX-License-Identifier: Apache-2.0 */
#include "packet/gso.h"

#include <errno.h>

#include "packet/checksum.h"
#include "packet/parse.h"
#include "packet/wire.h"

static bool is_tcp(uint8_t kind)
{
    return kind == PACKET_GSO_TCP4 || kind == PACKET_GSO_TCP6;
}

static bool is_ipv4(uint8_t kind)
{
    return kind == PACKET_GSO_TCP4 || kind == PACKET_GSO_UDP4;
}

/* Headers beyond the first few bytes of the head may still have to be pulled into it: as far as they can reach. */
static struct packet_layers parse_pulled(struct packet_pool *pool, struct packet *p)
{
    struct packet_layers l = packet_parse(p);
    if (l.payload_at != PACKET_NO_LAYER || p->head_bytes >= PACKET_HEAD_BYTES) return l;
    uint32_t most = p->length_bytes < PACKET_HEAD_BYTES ? p->length_bytes : PACKET_HEAD_BYTES;
    if (!packet_pull(pool, p, (uint16_t)most)) return l;
    return packet_parse(p);
}

/* Is the frame what its offload says? */
static bool fits(const struct packet *p, const struct packet_layers *l)
{
    const struct packet_offload *o = &p->offload;
    if (o->gso == PACKET_GSO_NONE || o->gso > PACKET_GSO_UDP6 || o->gso_size == 0) return false;
    if (l->payload_at == PACKET_NO_LAYER || l->payload_at > PACKET_HEAD_BYTES || l->fragment || l->routed) return false;
    if (l->version != (is_ipv4(o->gso) ? 4 : 6)) return false;
    if (l->proto != (is_tcp(o->gso) ? IP_PROTO_TCP : IP_PROTO_UDP)) return false;
    if (!o->csum_partial || o->csum_start != l->l4_at) return false;
    if (o->csum_offset != (is_tcp(o->gso) ? TCP_CSUM_OFFSET : UDP_CSUM_OFFSET)) return false;
    /* A segment's own length must fit in its headers, and a whole one's may not be longer than any frame is. */
    return p->length_bytes - l->l3_at <= UINT16_MAX;
}

int gso_begin(struct gso *g, struct packet_pool *pool, struct packet *p, bool leave_csum)
{
    struct packet_layers l = parse_pulled(pool, p);
    if (!fits(p, &l)) return -EINVAL;
    *g = (struct gso){.pool = pool,
                      .whole = p,
                      .leave_csum = leave_csum,
                      .kind = p->offload.gso,
                      .l3_at = l.l3_at,
                      .l4_at = l.l4_at,
                      .header_bytes = l.payload_at,
                      .at = l.payload_at,
                      .end = p->length_bytes,
                      .pseudo_sum = packet_csum_pseudo(p, l.l3_at, l.version, l.proto, 0)};
    return 0;
}

/* Describe the next n payload bytes; with no out only count the entries. The walk goes on from where the last one ended, so a
 * frame of many pieces is walked once. */
static unsigned slice(struct gso *g, uint32_t n, struct iovec *out)
{
    const struct packet *p = g->whole;
    uint32_t at = g->at;
    unsigned entry = g->entry, count = 0;
    size_t skip = g->skip;
    while (n > 0) {
        struct iovec piece;
        if (at < p->head_bytes) {
            piece = (struct iovec){p->head + at, p->head_bytes - at};
        } else {
            const struct iovec *e = &p->body[entry];
            piece = (struct iovec){(char *)e->iov_base + skip, e->iov_len - skip};
        }
        if (piece.iov_len > n) piece.iov_len = n;
        if (at >= p->head_bytes) {
            skip += piece.iov_len;
            if (skip == p->body[entry].iov_len) {
                entry++;
                skip = 0;
            }
        }
        at += (uint32_t)piece.iov_len;
        n -= (uint32_t)piece.iov_len;
        if (piece.iov_len == 0) continue;
        if (out) out[count] = piece;
        count++;
    }
    if (out) {
        g->at = at;
        g->entry = entry;
        g->skip = skip;
    }
    return count;
}

static void set_ip(const struct gso *g, struct packet *s)
{
    uint16_t bytes = (uint16_t)(s->length_bytes - g->l3_at);
    if (!is_ipv4(g->kind)) {
        struct wire_ipv6 *ip = (void *)(s->head + g->l3_at);
        ip->payload_bytes = be16_make((uint16_t)(bytes - IPV6_HEADER_BYTES));
        return;
    }
    struct wire_ipv4 *ip = (void *)(s->head + g->l3_at);
    ip->total_bytes = be16_make(bytes);
    ip->id = be16_make((uint16_t)(be16_get(ip->id) + g->index));
    ip->csum = be16_make(0);
    ip->csum = csum_finished(csum_memory(ip, (ip->version_words & 0x0fu) * 4u));
}

static void set_tcp(const struct gso *g, struct packet *s, uint32_t payload_at, bool last)
{
    struct wire_tcp *tcp = (void *)(s->head + g->l4_at);
    tcp->seq = be32_make(be32_get(tcp->seq) + payload_at - g->header_bytes);
    if (!last) tcp->flags &= (uint8_t) ~(TCP_FIN | TCP_PSH);
    if (g->index > 0) tcp->flags &= (uint8_t)~TCP_CWR;
}

static void set_csum(const struct gso *g, struct packet *s)
{
    uint32_t bytes = s->length_bytes - g->l4_at;
    struct be16 *field = (void *)(s->head + g->l4_at + s->offload.csum_offset);
    *field = csum_unfinished(g->pseudo_sum + csum_of_u32(bytes));
    if (!g->leave_csum) packet_finish_csum(g->pool, s);
}

static struct packet *segment(struct gso *g, uint32_t n)
{
    unsigned count = slice(g, n, NULL);
    struct iovec *body = packet_pool_iov(g->pool, count);
    struct packet *s = body ? packet_pool_packet(g->pool) : NULL;
    if (!s) return NULL;
    memcpy(s->head, g->whole->head, g->header_bytes);
    s->head_bytes = g->header_bytes;
    s->length_bytes = g->header_bytes + n;
    s->body = body;
    s->body_count = count;
    s->l3_at = g->whole->l3_at;
    s->l4_at = g->whole->l4_at;
    s->hash = g->whole->hash;
    s->offload = (struct packet_offload){
        .csum_partial = true, .csum_start = g->l4_at, .csum_offset = g->whole->offload.csum_offset};
    uint32_t payload_at = g->at;
    slice(g, n, body);
    set_ip(g, s);
    if (is_tcp(g->kind)) {
        set_tcp(g, s, payload_at, g->at == g->end);
    } else {
        struct wire_udp *udp = (void *)(s->head + g->l4_at);
        udp->bytes = be16_make((uint16_t)(sizeof *udp + n));
    }
    set_csum(g, s);
    g->index++;
    return s;
}

struct packet *gso_next(struct gso *g)
{
    uint32_t left = gso_left(g);
    if (left == 0 && g->index > 0) return NULL; /* a frame of headers only is one segment */
    return segment(g, left < g->whole->offload.gso_size ? left : g->whole->offload.gso_size);
}
