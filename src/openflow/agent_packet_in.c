/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets for controllers, from the threads that met them to the connections that want them.
 *
 *     runner thread: wanted? rate? room? -- copy --> mailbox --> control thread: pending --> a message per session
 *
 * A runner thread does no more than that copy, and that only for packets within their port's rate: a flood costs two loads and a
 * comparison a packet. How many wait is bounded per port, so that one port's flood does not keep out another's packets, and in
 * bytes for the bridge. The control thread takes a few at a time, so that connections are heard as well.
 *
 * A large frame of TCP or UDP, which a guest leaves to others to be cut up, is told as the frames that a wire would carry: what a
 * controller sends back must fit into some port's MTU.
 *
 * The rate is a token bucket without tokens: a packet is due one interval after the one before, and may come a burst too early.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "loop/clock.h"
#include "openflow/agent_internal.h"
#include "packet/checksum.h"
#include "packet/gso.h"

#define DELIVERED_TOGETHER 128u
#define SEGMENTS_MAX 64u /* of a large frame; the size of them is its sender's choice */

struct queued_packet {
    struct mail mail;
    struct list node;
    struct of_agents *all;
    struct of_agent *agent;
    struct packet_in_gate *gate;
    struct flow_key key;
    uint64_t cookie;
    uint32_t bytes;       /* in data */
    uint16_t total_bytes; /* the packet's */
    uint16_t max_len;
    uint8_t reason, table;
    uint16_t l3_at, l4_at;
    struct packet_offload offload; /* with gso, or nothing is left to be done */
    uint8_t data[];
};

/* ---- runner threads ---- */

static bool within_rate(struct of_agent *a, struct packet_in_gate *g)
{
    uint64_t now_ns = clock_now_ns(), burst_ns = a->packet_in_interval_ns * OF_PACKET_INS_QUEUED_MAX, next_ns;
    uint64_t due_ns = atomic_load_explicit(&g->due_ns, memory_order_relaxed);
    do {
        if (due_ns > now_ns + burst_ns) return false;
        next_ns = (due_ns > now_ns ? due_ns : now_ns) + a->packet_in_interval_ns;
    } while (!atomic_compare_exchange_weak_explicit(&g->due_ns, &due_ns, next_ns, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

static void leave(struct of_agent *a, struct packet_in_gate *g, size_t bytes)
{
    atomic_fetch_sub_explicit(&g->queued, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&a->queued_bytes, bytes, memory_order_relaxed);
}

static bool enter(struct of_agent *a, struct packet_in_gate *g, size_t bytes)
{
    unsigned queued = atomic_fetch_add_explicit(&g->queued, 1, memory_order_relaxed);
    size_t total = atomic_fetch_add_explicit(&a->queued_bytes, bytes, memory_order_relaxed);
    if (queued < OF_PACKET_INS_QUEUED_MAX && total + bytes <= PACKET_INS_BYTES_MAX) return true;
    leave(a, g, bytes);
    return false;
}

/* As packet_finish_csum(), on a copy that is all in one piece. */
static void finish_checksum(uint8_t *frame, uint32_t bytes, const struct packet_offload *o)
{
    uint32_t field_at = (uint32_t)o->csum_start + o->csum_offset;
    const unsigned udp_offset = 6;
    if (!o->csum_partial || field_at + 2 > bytes) return;
    struct be16 field = csum_finished(csum_memory(frame + o->csum_start, bytes - o->csum_start));
    if (o->csum_offset == udp_offset && be16_get(field) == 0) field = be16_make(0xffff);
    memcpy(frame + field_at, field.raw, sizeof field.raw);
}

static void posted(struct mail *m);

static struct queued_packet *copy(const struct packet_in *in, uint32_t bytes)
{
    struct queued_packet *q = malloc(sizeof *q + bytes);
    if (!q) return NULL;
    uint32_t length = in->packet->length_bytes;
    *q = (struct queued_packet){.mail = {.run = posted},
                                .key = in->key,
                                .cookie = in->cookie,
                                .bytes = bytes,
                                .total_bytes = (uint16_t)(length < UINT16_MAX ? length : UINT16_MAX),
                                .max_len = in->max_len,
                                .reason = in->reason,
                                .table = in->table};
    packet_read(in->packet, 0, q->data, bytes);
    if (in->packet->offload.gso) {
        q->offload = in->packet->offload;
        q->l3_at = in->packet->l3_at;
        q->l4_at = in->packet->l4_at;
    } else {
        finish_checksum(q->data, bytes, &in->packet->offload);
    }
    return q;
}

static void received(void *arg, const struct packet_in *in)
{
    struct of_agents *all = arg;
    struct of_agent *a = atomic_load_explicit(&all->by_bridge[bridge_number(in->bridge)], memory_order_acquire);
    if (!a || !(atomic_load_explicit(&a->wanted, memory_order_relaxed) >> in->reason & 1)) return;
    struct packet_in_gate *g = &a->gates[be32_get(in->key.in_port) % PACKET_IN_GATES];
    uint32_t bytes = in->packet->length_bytes;
    if (bytes > PACKET_IN_BYTES_MAX && !in->packet->offload.gso) bytes = PACKET_IN_BYTES_MAX;
    struct queued_packet *q = NULL;
    if (within_rate(a, g) && enter(a, g, bytes)) {
        q = copy(in, bytes);
        if (!q) leave(a, g, bytes);
    }
    if (!q) {
        atomic_fetch_add_explicit(&a->dropped, 1, memory_order_relaxed);
        return;
    }
    q->all = all;
    q->agent = a;
    q->gate = g;
    mailbox_post(&all->box, &q->mail);
}

/* ---- the control thread ---- */

static void posted(struct mail *m)
{
    struct queued_packet *q = container_of(m, struct queued_packet, mail);
    list_push_back(&q->all->pending, &q->node);
}

static void match_field(struct flow_match *m, const struct flow_key *k, enum field_id id)
{
    struct field_value v = field_get(k, id), all = field_all_ones(id);
    field_set(&m->key, id, v);
    field_set(&m->mask, id, all);
}

static bool is_set(const struct flow_key *k, enum field_id id)
{
    return field_value_u64(field_get(k, id)) != 0;
}

/* What the switch knows about it beside its bytes. */
static void make_match(struct flow_match *m, const struct flow_key *k)
{
    memset(m, 0, sizeof *m);
    match_field(m, k, FIELD_IN_PORT);
    if (is_set(k, FIELD_METADATA)) match_field(m, k, FIELD_METADATA);
    if (is_set(k, FIELD_TUNNEL_ID)) match_field(m, k, FIELD_TUNNEL_ID);
    for (unsigned id = FIELD_REG0; id <= FIELD_REG15; id++)
        if (is_set(k, id)) match_field(m, k, id);
}

/* p has all of it. */
static void tell(struct of_session *s, const struct queued_packet *q, const struct of_packet_in *p)
{
    struct of_packet_in in = *p;
    uint32_t bytes = (uint32_t)p->data_bytes;
    if (of_conn_queued(s->conn) > PACKET_IN_OUTPUT_MAX_BYTES) {
        s->packet_ins_dropped++;
        return;
    }
    /* No action says how much of a packet whose TTL was over is wanted. */
    unsigned max_len = q->reason == OFPR_INVALID_TTL ? s->miss_send_len : q->max_len;
    if (max_len != OFPCML_NO_BUFFER && max_len < bytes)
        in.buffer_id = buffer_put(s->agent, s, be32_get(q->key.in_port), p->data, bytes);
    if (in.buffer_id != OFP_NO_BUFFER) in.data_bytes = max_len;
    session_said_one(s, of_put_packet_in(of_conn_out(s->conn), &in));
    s->packet_ins++;
}

static void tell_all(const struct queued_packet *q, const uint8_t *data, uint32_t bytes, uint32_t total_bytes)
{
    struct of_packet_in p = {.buffer_id = OFP_NO_BUFFER,
                             .total_bytes = (uint16_t)total_bytes,
                             .reason = q->reason,
                             .table = q->table,
                             .cookie = q->cookie,
                             .data = data,
                             .data_bytes = bytes};
    make_match(&p.match, &q->key);
    LIST_FOR_EACH (node, &q->agent->sessions) {
        struct of_session *s = list_entry(node, struct of_session, node);
        if (session_wants(s, ASYNC_PACKET_IN, q->reason)) tell(s, q, &p);
    }
}

/* What is not what its offload says is dropped, as ports do. */
static void tell_segments(struct queued_packet *q)
{
    struct of_agents *all = q->all;
    if (!all->pool) all->pool = packet_pool_new();
    if (!all->pool) return;
    struct packet *p = packet_pool_packet(all->pool), *segment;
    struct iovec *body = packet_pool_iov(all->pool, 1);
    uint32_t head = q->bytes < PACKET_HEAD_BYTES ? q->bytes : PACKET_HEAD_BYTES;
    struct gso g;
    memcpy(p->head, q->data, head);
    *body = (struct iovec){q->data + head, q->bytes - head};
    p->head_bytes = (uint16_t)head;
    p->length_bytes = q->bytes;
    p->body = body;
    p->body_count = q->bytes > head;
    p->offload = q->offload;
    p->l3_at = q->l3_at;
    p->l4_at = q->l4_at;
    if (gso_begin(&g, all->pool, p, false) == 0)
        for (unsigned i = 0; i < SEGMENTS_MAX && (segment = gso_next(&g)); i++) {
            uint32_t bytes = segment->length_bytes < sizeof all->segment ? segment->length_bytes : sizeof all->segment;
            packet_read(segment, 0, all->segment, bytes);
            tell_all(q, all->segment, bytes, bytes);
        }
    packet_pool_reset(all->pool);
}

static void deliver(struct queued_packet *q)
{
    if (q->offload.gso) tell_segments(q);
    else tell_all(q, q->data, q->bytes, q->total_bytes);
}

static void done(struct queued_packet *q)
{
    list_remove(&q->node);
    leave(q->agent, q->gate, q->bytes);
    free(q);
}

static void deliver_some(struct loop_timer *t)
{
    struct of_agents *all = container_of(t, struct of_agents, more);
    for (unsigned i = 0; i < DELIVERED_TOGETHER && !list_empty(&all->pending); i++) {
        struct queued_packet *q = list_entry(all->pending.next, struct queued_packet, node);
        deliver(q);
        done(q);
    }
    if (!list_empty(&all->pending)) loop_timer_arm(all->loop, &all->more, 0, deliver_some);
}

static void mail_ready(struct loop_watch *w, uint32_t events)
{
    struct of_agents *all = container_of(w, struct of_agents, watch);
    (void)events;
    mailbox_run(&all->box);
    if (!all->more.loop) deliver_some(&all->more);
}

void packet_ins_forget(struct of_agent *a)
{
    struct of_agents *all = a->all;
    mailbox_run(&all->box);
    LIST_FOR_EACH_SAFE (node, &all->pending) {
        struct queued_packet *q = list_entry(node, struct queued_packet, node);
        if (q->agent == a) done(q);
    }
    if (!list_empty(&all->pending)) loop_timer_arm(all->loop, &all->more, 0, deliver_some);
}

/* ---- the process's ---- */

int of_agents_new(struct of_agents **out, struct net_switch *sw, struct loop *loop)
{
    struct of_agents *all = calloc(1, sizeof *all);
    if (!all) return -ENOMEM;
    all->sw = sw;
    all->loop = loop;
    list_init(&all->pending);
    int ret = mailbox_init(&all->box);
    if (ret == 0) {
        ret = loop_add(loop, &all->watch, mailbox_fd(&all->box), EPOLLIN, mail_ready);
        if (ret) mailbox_destroy(&all->box);
    }
    if (ret) {
        free(all);
        return ret;
    }
    switch_on_packet_in(sw, received, all);
    *out = all;
    return 0;
}

/* Agents forget their packets, and no thread is inside of received(). */
void of_agents_free(struct of_agents *all)
{
    if (!all) return;
    switch_on_packet_in(all->sw, NULL, NULL);
    switch_barrier(all->sw);
    mailbox_run(&all->box);
    assert(list_empty(&all->pending));
    loop_timer_cancel(&all->more);
    loop_remove(&all->watch);
    mailbox_destroy(&all->box);
    packet_pool_free(all->pool);
    free(all);
}
