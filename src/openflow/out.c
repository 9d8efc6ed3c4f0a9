/* SPDX-License-Identifier: Apache-2.0 */
#include "openflow/out.h"

#include <stdlib.h>

#include "base/endian.h"

#define ROOM_MIN 4096u
#define ROOM_KEPT (256u << 10) /* of an empty buffer: what one long answer needed is not kept */
#define MESSAGE_MAX 65535u
#define VERSION 4u

struct header { /* OpenFlow 1.3.5, section 7.1 */
    uint8_t version, type;
    struct be16 length;
    struct be32 xid;
};

void of_out_init(struct of_out *o)
{
    memset(o, 0, sizeof *o);
}

void of_out_clear(struct of_out *o)
{
    free(o->bytes);
    of_out_init(o);
}

/* What was sent makes room first. Offsets of a message that is being written count from its begin, which may move only here
 * when none is: of_out_at() stays good. */
static bool grow(struct of_out *o, size_t bytes)
{
    size_t room = o->room ? o->room : ROOM_MIN;
    while (room - o->count < bytes)
        room *= 2;
    if (room == o->room) return true;
    uint8_t *more = realloc(o->bytes, room);
    if (!more) {
        o->failed = true;
        return false;
    }
    o->bytes = more;
    o->room = room;
    return true;
}

void *of_out_put(struct of_out *o, size_t bytes)
{
    if (o->failed || !grow(o, bytes)) return NULL;
    uint8_t *at = o->bytes + o->count;
    memset(at, 0, bytes);
    o->count += bytes;
    return at;
}

void of_out_put_bytes(struct of_out *o, const void *from, size_t bytes)
{
    void *to = of_out_put(o, bytes);
    if (to && bytes) memcpy(to, from, bytes);
}

void of_out_pad8(struct of_out *o, size_t since)
{
    of_out_put(o, (8 - (o->count - since) % 8) % 8);
}

void *of_out_ptr(struct of_out *o, size_t offset)
{
    return o->failed || offset >= o->count ? NULL : o->bytes + offset;
}

static void forget_sent(struct of_out *o)
{
    if (o->start == 0) return;
    memmove(o->bytes, o->bytes + o->start, o->count - o->start);
    o->count -= o->start;
    o->start = 0;
}

void of_out_sent(struct of_out *o, size_t bytes)
{
    o->start += bytes;
    if (o->start < o->count) return;
    o->start = o->count = 0;
    if (o->room > ROOM_KEPT) of_out_clear(o);
}

void of_out_begin(struct of_out *o, uint8_t type, uint32_t xid)
{
    o->failed = false;
    if (o->start >= o->count - o->start) forget_sent(o); /* moves no more than was sent */
    o->message = o->count;
    struct header *h = of_out_put(o, sizeof *h);
    if (h) *h = (struct header){.version = VERSION, .type = type, .xid = be32_make(xid)};
}

bool of_out_end(struct of_out *o)
{
    size_t bytes = o->count - o->message;
    if (o->failed || bytes > MESSAGE_MAX) {
        o->count = o->message;
        o->failed = false;
        return false;
    }
    struct header h;
    memcpy(&h, o->bytes + o->message, sizeof h);
    h.length = be16_make((uint16_t)bytes);
    memcpy(o->bytes + o->message, &h, sizeof h);
    return true;
}
