/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two passes over the batch. The first decides, segment by segment, which merge it belongs to, and only links it there: until
 * the end it is not known how many pieces the merged body has. The second makes the bodies. That there are enough
 * iovs for it is made sure of with each segment that is accepted.
 */
#include "packet/gro.h"

#include <assert.h>

#include "packet/checksum.h"
#include "packet/parse.h"
#include "packet/wire.h"

/* A large segment of smaller ones would be refused by whoever reads headers strictly, as we do (port/vnet.h, vif/). */
#define SEGMENT_MIN 16u

/* One segment, as far as it has been looked at. */
struct segment {
    struct packet *packet;
    struct packet_layers l;
    const struct wire_tcp *tcp;
    uint32_t hash;
    uint32_t bytes; /* of payload */
    uint16_t size;  /* of its segments, when it is a large one already; else of its payload */
    uint16_t id, count;
};

void gro_init(struct gro *g)
{
    memset(g, 0, sizeof *g);
}

/* ---- what may be merged at all ---- */

static const struct wire_ipv4 *ipv4_of(const struct packet *p, uint16_t l3_at)
{
    return (const void *)(p->head + l3_at);
}

static const struct wire_ipv6 *ipv6_of(const struct packet *p, uint16_t l3_at)
{
    return (const void *)(p->head + l3_at);
}

/* It belongs to a stream: it is merged, or ends what is being merged of its stream. */
static bool is_tcp(const struct packet_layers *l)
{
    return l->proto == IP_PROTO_TCP && l->payload_at != PACKET_NO_LAYER;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    __extension__ unsigned __int128 product =
        (unsigned __int128)(a ^ UINT64_C(0x9e3779b97f4a7c15)) * (b ^ UINT64_C(0xd1b54a32d192ed03));
    return (uint64_t)(product >> 64) ^ (uint64_t)product;
}

/* Of addresses and ports. Somebody who finds streams that collide makes the search among a batch's 32 linear, no more. */
static uint32_t hash_of(const struct packet *p, const struct packet_layers *l)
{
    uint32_t ports;
    uint64_t words[4];
    memcpy(&ports, p->head + l->l4_at, sizeof ports);
    if (l->version == 4) {
        memcpy(words, &ipv4_of(p, l->l3_at)->src, 8);
        return (uint32_t)mix(words[0], ports);
    }
    memcpy(words, ipv6_of(p, l->l3_at)->src, sizeof words);
    return (uint32_t)mix(mix(words[0], words[1]) ^ ports, mix(words[2], words[3]));
}

/* The parts of the offload that GRO understands: none, or what a trusted sender leaves to be done on exactly this header. */
static bool offload_fits(const struct packet *p, const struct packet_layers *l)
{
    const struct packet_offload *o = &p->offload;
    if (o->csum_partial && (o->csum_start != l->l4_at || o->csum_offset != TCP_CSUM_OFFSET)) return false;
    if (o->gso == PACKET_GSO_NONE) return true;
    return o->csum_partial && !o->gso_ecn && o->gso_size > 0 &&
           o->gso == (l->version == 4 ? PACKET_GSO_TCP4 : PACKET_GSO_TCP6);
}

/* May it be part of any merge? Its TCP checksum has not been looked at yet. */
static bool is_candidate(struct segment *s)
{
    const struct packet *p = s->packet;
    if (s->l.encapsulated || s->l.options || s->l.fragment) return false;
    s->bytes = s->l.end_at - s->l.payload_at;
    if (s->bytes == 0 || s->bytes > UINT16_MAX || s->l.bad_length) return false;
    if ((s->tcp->flags & (TCP_ACK | TCP_SYN | TCP_RST | TCP_URG | TCP_CWR)) != TCP_ACK) return false;
    if (s->tcp->words_reserved & 0x0f) return false;
    if (!offload_fits(p, &s->l)) return false;
    s->size = (uint16_t)s->bytes;
    s->count = 1;
    if (p->offload.gso) {
        if (s->l.end_at != p->length_bytes) return false;
        s->size = p->offload.gso_size;
        s->count = (uint16_t)((s->bytes + s->size - 1) / s->size);
    }
    if (s->l.version == 6) return true;
    const struct wire_ipv4 *ip = ipv4_of(p, s->l.l3_at);
    s->id = be16_get(ip->id);
    return csum_fold(csum_memory(ip, IPV4_HEADER_BYTES)) == 0xffff;
}

static bool csum_right(const struct packet *p, const struct packet_layers *l)
{
    if (p->offload.csum_valid || p->offload.csum_partial) return true;
    uint32_t bytes = l->end_at - l->l4_at;
    uint64_t sum = packet_csum_pseudo(p, l->l3_at, l->version, IP_PROTO_TCP, bytes);
    return csum_fold(sum + packet_csum(p, l->l4_at, bytes)) == 0xffff;
}

/* ---- which merge a segment belongs to ---- */

/* Of the same stream, by addresses and ports. */
static bool same_stream(const struct gro_flow *f, const struct packet *first, const struct segment *s)
{
    const struct packet *p = s->packet;
    if (f->l.version != s->l.version || memcmp(first->head + f->l.l4_at, s->tcp, 4) != 0) return false;
    if (f->l.version == 4) return memcmp(&ipv4_of(first, f->l.l3_at)->src, &ipv4_of(p, s->l.l3_at)->src, 8) == 0;
    return memcmp(ipv6_of(first, f->l.l3_at)->src, ipv6_of(p, s->l.l3_at)->src, 32) == 0;
}

/* Everything before IP, and of IP what may not differ. */
static bool same_network(const struct gro_flow *f, const struct packet *first, const struct segment *s)
{
    const struct packet *p = s->packet;
    if (f->l.l3_at != s->l.l3_at || memcmp(first->head, p->head, f->l.l3_at) != 0) return false;
    if (f->l.version == 6) {
        const struct wire_ipv6 *a = ipv6_of(first, f->l.l3_at), *b = ipv6_of(p, f->l.l3_at);
        return memcmp(&a->version_class_label, &b->version_class_label, 4) == 0 && a->hop_limit == b->hop_limit;
    }
    const struct wire_ipv4 *a = ipv4_of(first, f->l.l3_at), *b = ipv4_of(p, f->l.l3_at);
    return a->tos == b->tos && a->ttl == b->ttl && memcmp(&a->fragment, &b->fragment, 2) == 0;
}

static bool same_transport(const struct wire_tcp *a, const struct wire_tcp *b)
{
    unsigned header_bytes = (a->words_reserved >> 4) * 4u;
    return a->words_reserved == b->words_reserved && ((a->flags ^ b->flags) & ~(TCP_PSH | TCP_FIN)) == 0 &&
           memcmp(&a->ack, &b->ack, 4) == 0 && memcmp(&a->window, &b->window, 2) == 0 &&
           memcmp(&a->urgent, &b->urgent, 2) == 0 && memcmp(a + 1, b + 1, header_bytes - sizeof *a) == 0;
}

/* Identifications count up, or (only where nobody needs them) stay the same; the second segment tells which. */
static bool id_follows(struct gro_flow *f, const struct packet *first, const struct segment *s)
{
    if (f->l.version == 6) return true;
    bool counts = s->id == (uint16_t)(f->first_id + f->segments);
    bool fixed = s->id == f->first_id && be16_get(ipv4_of(first, f->l.l3_at)->fragment) & IPV4_DONT_FRAGMENT;
    if (f->segments > 1) return f->fixed_id ? fixed : counts;
    f->fixed_id = !counts;
    return counts || (fixed && s->count == 1);
}

static unsigned pieces(const struct packet *p)
{
    return p->body_count + 1;
}

/* Can the merged body have that many pieces, and are there that many iovs? */
static bool reserve(struct gro *g, const struct gro_flow *f, const struct segment *s, struct packet_pool *pool)
{
    unsigned more = pieces(s->packet), first = 0;
    if (f->first == f->last) first = pieces(g->members[f->first].packet);
    if (f->iovs + more > PACKET_BODY_IOV_MAX) return false;
    if (first + more > packet_pool_iov_left(pool) - g->iovs_reserved) return false;
    g->iovs_reserved += first + more;
    return true;
}

static bool first_verified(struct gro *g, struct gro_flow *f)
{
    if (f->verified) return true;
    struct packet *first = g->members[f->first].packet;
    f->verified = csum_right(first, &f->l);
    if (!f->verified) g->bad_csums++;
    return f->verified;
}

/* Does the segment go on where the merge ends, and differ in nothing? */
static bool follows(struct gro *g, struct gro_flow *f, const struct segment *s)
{
    const struct packet *first = g->members[f->first].packet;
    const struct wire_tcp *tcp = (const void *)(first->head + f->l.l4_at);
    if (be32_get(s->tcp->seq) != f->next_seq || s->size > f->size) return false;
    if (s->packet->offload.gso && s->size != f->size) return false;
    uint32_t ip_bytes = f->ip_bytes + s->bytes;
    if (ip_bytes > UINT16_MAX || f->l.l3_at + ip_bytes > PACKET_MAX_BYTES) return false;
    return same_network(f, first, s) && same_transport(tcp, s->tcp) && id_follows(f, first, s);
}

/* PSH, FIN, and a piece shorter than the others end a merge. */
static bool ends(const struct segment *s, uint16_t size)
{
    return s->tcp->flags & (TCP_PSH | TCP_FIN) || s->bytes % size != 0;
}

static uint8_t add_member(struct gro *g, const struct segment *s)
{
    uint8_t index = (uint8_t)g->member_count++;
    g->members[index] = (struct gro_member){s->packet, s->bytes, s->l.payload_at, GRO_NONE};
    return index;
}

static void append(struct gro *g, struct gro_flow *f, const struct segment *s)
{
    uint8_t index = add_member(g, s);
    g->members[f->last].next = index;
    f->last = index;
    f->last_flags = s->tcp->flags;
    f->next_seq += s->bytes;
    f->ip_bytes += s->bytes;
    f->segments += s->count;
    f->iovs += pieces(s->packet);
    f->open = !ends(s, f->size);
    g->merged++;
}

/* Links the segment to a merge; false: it stays a frame of its own. */
static bool joins(struct gro *g, struct gro_flow *f, const struct segment *s, struct packet_pool *pool)
{
    if (!f->open || !follows(g, f, s) || !first_verified(g, f)) return false;
    if (!csum_right(s->packet, &s->l)) {
        g->bad_csums++;
        return false;
    }
    if (!reserve(g, f, s, pool)) return false;
    append(g, f, s);
    return true;
}

static uint8_t begin_flow(struct gro *g, const struct segment *s)
{
    uint8_t index = (uint8_t)g->flow_count++;
    uint8_t member = add_member(g, s);
    g->flows[index] = (struct gro_flow){.hash = s->hash,
                                        .next_seq = be32_get(s->tcp->seq) + s->bytes,
                                        .ip_bytes = s->l.end_at - s->l.l3_at,
                                        .segments = s->count,
                                        .iovs = pieces(s->packet),
                                        .size = s->size,
                                        .first_id = s->id,
                                        .l = s->l,
                                        .first = member,
                                        .last = member,
                                        .last_flags = s->tcp->flags,
                                        .open = s->size >= SEGMENT_MIN && !ends(s, s->size)};
    return index;
}

/* The slot of the segment's stream, or an empty one: there are more slots than flows, so there is one. */
static uint8_t *find_slot(struct gro *g, const struct segment *s)
{
    for (unsigned i = s->hash;; i++) {
        uint8_t *slot = &g->slots[i % GRO_SLOTS];
        if (*slot == GRO_NONE) return slot;
        const struct gro_flow *f = &g->flows[*slot];
        if (f->hash == s->hash && same_stream(f, g->members[f->first].packet, s)) return slot;
    }
}

/* The slot of the segment's stream after all of its headers were looked at; NULL: it is of none. */
static uint8_t *look_up(struct gro *g, struct segment *s)
{
    s->l = packet_parse(s->packet);
    if (!is_tcp(&s->l)) return NULL;
    s->tcp = (const void *)(s->packet->head + s->l.l4_at);
    s->hash = hash_of(s->packet, &s->l);
    return find_slot(g, s);
}

/* Do the bytes that decide where headers lie say the same in both? Sets end_at. */
static bool same_shape(const struct gro_flow *f, const struct packet *first, struct segment *s)
{
    const uint8_t *a = first->head + f->l.l3_at, *b = s->packet->head + f->l.l3_at;
    const struct wire_tcp *tcp = (const void *)(first->head + f->l.l4_at);
    if (tcp->words_reserved != s->tcp->words_reserved || a[0] != b[0]) return false;
    if (f->l.version == 4) {
        const struct wire_ipv4 *ip = (const void *)a, *other = (const void *)b;
        s->l.end_at = f->l.l3_at + be16_get(other->total_bytes);
        return ip->proto == other->proto && memcmp(&ip->fragment, &other->fragment, 2) == 0;
    }
    const struct wire_ipv6 *ip = (const void *)a, *other = (const void *)b;
    s->l.end_at = f->l.l4_at + be16_get(other->payload_bytes);
    return ip->next == other->next;
}

/* The same for a segment of the stream where a merge began last, as most are, without parsing. */
static uint8_t *look_up_recent(struct gro *g, struct segment *s)
{
    if (g->recent == GRO_NONE) return NULL;
    const struct gro_flow *f = &g->flows[g->slots[g->recent]];
    const struct packet *p = s->packet, *first = g->members[f->first].packet;
    if (p->head_bytes < f->l.payload_at) return NULL;
    if (memcmp(first->head + f->l.l4_at, p->head + f->l.l4_at, 4) != 0)
        return NULL; /* ports: most often the difference */
    s->tcp = (const void *)(p->head + f->l.l4_at);
    s->l = f->l;
    if (!same_stream(f, first, s) || !same_shape(f, first, s)) return NULL;
    if (memcmp(p->head, first->head, f->l.l3_at) != 0) return NULL;
    if (s->l.end_at < f->l.payload_at || s->l.end_at > p->length_bytes) return NULL;
    s->hash = f->hash;
    return &g->slots[g->recent];
}

/* False: the packet was taken into another. */
static bool stays(struct gro *g, struct packet *p, struct packet_pool *pool)
{
    struct segment s = {.packet = p};
    uint8_t *slot = look_up_recent(g, &s);
    if (!slot) slot = look_up(g, &s);
    if (!slot) return true;
    if (!s.l.encapsulated) {
        p->l3_at = s.l.l3_at;
        p->l4_at = s.l.l4_at;
    }
    struct gro_flow *f = *slot == GRO_NONE ? NULL : &g->flows[*slot];
    if (!is_candidate(&s)) {
        if (f) f->open = false;
        return true;
    }
    if (f && joins(g, f, &s, pool)) return false;
    *slot = begin_flow(g, &s);
    g->recent = (uint8_t)(slot - g->slots);
    return true;
}

/* ---- the merged frame ---- */

static void set_headers(const struct gro_flow *f, struct packet *p)
{
    struct wire_tcp *tcp = (void *)(p->head + f->l.l4_at);
    tcp->flags |= f->last_flags & (TCP_PSH | TCP_FIN);
    if (f->l.version == 4) {
        struct wire_ipv4 *ip = (void *)(p->head + f->l.l3_at);
        ip->total_bytes = be16_make((uint16_t)f->ip_bytes);
        ip->csum = be16_make(0);
        ip->csum = csum_finished(csum_memory(ip, IPV4_HEADER_BYTES));
    } else {
        struct wire_ipv6 *ip = (void *)(p->head + f->l.l3_at);
        ip->payload_bytes = be16_make((uint16_t)(f->ip_bytes - IPV6_HEADER_BYTES));
    }
    uint32_t l4_bytes = p->length_bytes - f->l.l4_at;
    tcp->csum = csum_unfinished(packet_csum_pseudo(p, f->l.l3_at, f->l.version, IP_PROTO_TCP, l4_bytes));
    p->offload = (struct packet_offload){.csum_partial = true,
                                         .gso = f->l.version == 4 ? PACKET_GSO_TCP4 : PACKET_GSO_TCP6,
                                         .gso_size = f->size,
                                         .csum_start = f->l.l4_at,
                                         .csum_offset = TCP_CSUM_OFFSET};
}

/* One entry of the last two, where they touch: the copied head and the rest of a frame often are one buffer, and what is
 * handed on is copied piece by piece. */
static unsigned join_last(struct iovec *body, unsigned count)
{
    struct iovec *a = &body[count - 2], *b = &body[count - 1];
    if ((uint8_t *)a->iov_base + a->iov_len != b->iov_base) return count;
    a->iov_len += b->iov_len;
    return count - 1;
}

static void finish_flow(struct gro *g, const struct gro_flow *f, struct packet_pool *pool)
{
    const struct gro_member *m = &g->members[f->first];
    struct packet *p = m->packet;
    struct iovec *body = packet_pool_iov(pool, f->iovs);
    assert(body); /* reserved */
    uint32_t end_at = m->payload_at + m->bytes;
    if (p->head_bytes > end_at) p->head_bytes = (uint16_t)end_at;
    int count = packet_iov(p, p->head_bytes, end_at - p->head_bytes, body, f->iovs);
    assert(count >= 0);
    unsigned used = (unsigned)count;
    while (m->next != GRO_NONE) {
        m = &g->members[m->next];
        count = packet_iov(m->packet, m->payload_at, m->bytes, body + used, f->iovs - used);
        assert(count >= 0);
        used += (unsigned)count;
        if (count == 2) used = join_last(body, used);
    }
    p->body = body;
    p->body_count = used;
    p->length_bytes = f->l.l3_at + f->ip_bytes;
    set_headers(f, p);
}

unsigned gro_batch(struct gro *g, struct packet **packets, unsigned count, struct packet_pool *pool)
{
    assert(count <= PACKET_BATCH);
    if (count < 2) return count;
    memset(g->slots, GRO_NONE, sizeof g->slots);
    g->recent = GRO_NONE;
    g->flow_count = g->member_count = g->iovs_reserved = 0;
    unsigned kept = 0;
    for (unsigned i = 0; i < count; i++)
        if (stays(g, packets[i], pool)) packets[kept++] = packets[i];
    for (unsigned i = 0; kept < count && i < g->flow_count; i++)
        if (g->flows[i].first != g->flows[i].last) finish_flow(g, &g->flows[i], pool);
    return kept;
}
