/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets of which a controller was sent the head only, kept until it says what to do with them or they are too old.
 *
 * A number names a slot (its low bits) and is not used again soon, so that late answers find out. What is kept is bounded in
 * packets and bytes; when there is no room a packet is sent whole, and none that a controller was promised is lost.
 */
#include <errno.h>
#include <stdlib.h>

#include "loop/clock.h"
#include "openflow/agent_internal.h"

static void drop(struct of_agent *a, struct buffered *b)
{
    if (b->data) a->buffered_bytes -= b->bytes;
    free(b->data);
    b->data = NULL;
}

static void age(struct loop_timer *t)
{
    struct of_agent *a = container_of(t, struct of_agent, age);
    uint64_t now_ns = clock_now_ns();
    bool any = false;
    for (unsigned i = 0; i < OF_BUFFERS_MAX; i++) {
        if (now_ns - a->buffers[i].since_ns >= BUFFERED_AGE_NS) drop(a, &a->buffers[i]);
        if (a->buffers[i].data) any = true;
    }
    if (any) loop_timer_arm(a->all->loop, t, BUFFERED_AGE_NS, age);
}

static struct buffered *free_slot(struct of_agent *a, uint32_t *id)
{
    for (unsigned i = 0; i < OF_BUFFERS_MAX; i++) {
        *id = a->next_buffer++ & 0x7fffffff;
        struct buffered *b = &a->buffers[*id % OF_BUFFERS_MAX];
        if (!b->data) return b;
    }
    return NULL;
}

uint32_t buffer_put(struct of_agent *a, const struct of_session *owner, uint32_t in_port, const uint8_t *data,
                    uint32_t bytes)
{
    uint32_t id;
    if (bytes > BUFFERED_BYTES_MAX - a->buffered_bytes) return OFP_NO_BUFFER;
    struct buffered *b = free_slot(a, &id);
    uint8_t *copy = b ? malloc(bytes) : NULL;
    if (!copy) return OFP_NO_BUFFER;
    memcpy(copy, data, bytes);
    *b = (struct buffered){
        .id = id, .owner = owner, .data = copy, .bytes = bytes, .in_port = in_port, .since_ns = clock_now_ns()};
    a->buffered_bytes += bytes;
    if (!a->age.loop) loop_timer_arm(a->all->loop, &a->age, BUFFERED_AGE_NS, age);
    return id;
}

int buffer_take(struct of_session *s, uint32_t id, struct buffered *out, struct of_error *e)
{
    struct of_agent *a = s->agent;
    struct buffered *b = &a->buffers[id % OF_BUFFERS_MAX];
    if (b->id != id || b->owner != s)
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BUFFER_UNKNOWN, "there is no buffer %u", id);
    if (!b->data) return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_BUFFER_EMPTY, "buffer %u was used, or is too old", id);
    *out = *b;
    a->buffered_bytes -= b->bytes;
    b->data = NULL;
    return 0;
}

void buffers_forget(struct of_agent *a, const struct of_session *owner)
{
    for (unsigned i = 0; i < OF_BUFFERS_MAX; i++) {
        struct buffered *b = &a->buffers[i];
        if (owner && b->owner != owner) continue;
        drop(a, b);
        *b = (struct buffered){.id = OFP_NO_BUFFER};
    }
}
