/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets that a controller sends: a list of actions takes the place of the tables, on the control thread, with a pool and
 * an outbox of its own. Nothing is remembered of one.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "switch/group_internal.h"
#include "switch/extract.h"
#include "switch/thread.h"

#define LEAST_BYTES 14u /* an Ethernet header */

/* Made when the first packet comes. */
struct packet_out {
    struct packet_pool *pool;
    struct outbox outbox;
    struct meter_run meters;
    struct translation translation;
};

static struct packet_out *packet_out_get(struct net_switch *s)
{
    if (s->packet_out) return s->packet_out;
    struct packet_out *o = calloc(1, sizeof *o);
    if (!o) return NULL;
    o->pool = o->outbox.pool = packet_pool_new();
    if (!o->pool) {
        free(o);
        return NULL;
    }
    return s->packet_out = o;
}

void packet_out_free(struct packet_out *o)
{
    if (!o) return;
    packet_pool_free(o->pool);
    free(o);
}

static bool can_be_in_port(uint32_t port)
{
    if (port >= 1 && port <= SWITCH_PORT_MAX) return true;
    return port == SWITCH_PORT_CONTROLLER || port == SWITCH_PORT_LOCAL || port == SWITCH_PORT_ANY;
}

/* Its first bytes are copied; the rest stays where it is. */
static struct packet *packet_of(struct packet_out *o, const void *data, size_t bytes)
{
    struct packet *p = packet_pool_packet(o->pool);
    size_t head = bytes < PACKET_HEAD_BYTES ? bytes : PACKET_HEAD_BYTES;
    memcpy(p->head, data, head);
    p->head_bytes = (uint16_t)head;
    p->length_bytes = (uint32_t)bytes;
    if (head == bytes) return p;
    struct iovec *body = packet_pool_iov(o->pool, 1);
    *body = (struct iovec){(uint8_t *)(uintptr_t)data + head, bytes - head};
    p->body = body;
    p->body_count = 1;
    return p;
}

/* Everything is known of this packet. */
static int check(const struct flow_key *k, const struct action_list *actions, enum flow_wrong *why, struct errmsg *e)
{
    struct flow_match m = {.key = *k};
    for (unsigned i = 0; i < FLOW_KEY_WORDS; i++)
        m.mask.words[i] = UINT64_MAX;
    return flow_check_packet_out(actions, &m, why, e);
}

static void carry_out(struct bridge *b, struct packet_out *o, uint32_t in_port, struct packet *p)
{
    const struct packet_in_handler *h = atomic_load(&b->sw->packet_in);
    const struct translation *t = &o->translation;
    struct execute_context c = {.outbox = &o->outbox,
                                .meters = &o->meters,
                                .bridge = b,
                                .received = h ? h->received : NULL,
                                .arg = h ? h->arg : NULL,
                                .in_port = in_port,
                                .length_bytes = p->length_bytes};
    translation_count(b, t, p->length_bytes, COUNT_ALL, clock_now_ns()); /* it has met its meters */
    (void)execute(&c, p, t->actions, t->count); /* what cannot be done is dropped, as everywhere */
    meter_run_end(&o->meters);
    outbox_flush(&o->outbox);
}

int bridge_packet_out(struct bridge *b, uint32_t in_port, const struct action_list *actions, const void *data,
                      size_t bytes, enum flow_wrong *why, struct errmsg *e)
{
    struct flow_key k;
    if (why) *why = FLOW_RIGHT;
    if (!can_be_in_port(in_port)) return errmsg_set(e, ENXIO, "no packet comes from port %u", in_port);
    if (bytes < LEAST_BYTES || bytes > PACKET_MAX_BYTES)
        return errmsg_set(e, EBADMSG, "a frame has %u to %u bytes, not %zu", LEAST_BYTES, PACKET_MAX_BYTES, bytes);
    struct packet_out *o = packet_out_get(b->sw);
    if (!o) return errmsg_set(e, ENOMEM, "no memory for a packet");
    struct packet *p = packet_of(o, data, bytes);
    (void)extract_key(p, &k);
    k.words[0] = 0;
    k.in_port = be32_make(in_port);
    k.bridge = b->index;
    int ret = check(&k, actions, why, e);
    if (!ret) ret = group_check_list(b, actions, why, e);
    if (ret == 0) {
        struct translation_request r = {.bridge = b,
                                        .key = &k,
                                        .packet = p,
                                        .pool = o->pool,
                                        .meters = &o->meters,
                                        .learn = true,
                                        .now_s = (uint32_t)(clock_now_ns() / NS_PER_SECOND),
                                        .actions = actions};
        translate(&r, &o->translation);
        carry_out(b, o, in_port, p);
    }
    packet_pool_reset(o->pool);
    return ret;
}
