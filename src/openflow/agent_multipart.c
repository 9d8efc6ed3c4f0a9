/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multipart requests, which may come in parts, and their answers, which may be long.
 *
 *     parts --assembly--> whole request --agent_stats.c--> struct answer --entry by entry--> parts of the reply
 *
 * An answer is made as its connection takes it: some entries now, the next when what is queued has gone. Meanwhile nothing more
 * is read from that connection, so it has one answer at a time, and memory for one; others go on.
 */
#include <errno.h>
#include <stdlib.h>

#include "loop/clock.h"
#include "openflow/agent_internal.h"

#define ASSEMBLY_IDLE_NS (10 * NS_PER_SECOND)

/* ---- answers ---- */

static void answer_end(struct of_session *s)
{
    answer_clear(&s->answer);
    session_release(s, HELD_ANSWER);
}

void session_answer_more(struct of_session *s)
{
    struct of_out *o = of_conn_out(s->conn);
    if (of_conn_queued(s->conn) >= ANSWER_QUEUED_BYTES) return;
    agent_commit(s->agent); /* others may have changed something meanwhile */
    of_multipart_begin(o, s->answer.type, s->answer.xid);
    size_t from = o->message;
    s->answer.entries = 0;
    bool more = s->answer.more(s->agent, &s->answer, o);
    bool whole = of_multipart_end(o, more);
    session_said(s, from, whole);
    if (!more || !whole) answer_end(s);
}

/* ---- requests ---- */

void session_multipart_clear(struct of_session *s)
{
    answer_clear(&s->answer);
    free(s->assembly.bytes);
    s->assembly = (struct assembly){.is_open = false};
}

static int answer(struct of_session *s, const struct of_request *r, struct of_error *e)
{
    struct answer a = {.type = r->type, .xid = r->xid};
    int ret = agent_answer_to(s, r, &a, e);
    if (ret) {
        answer_clear(&a);
        return ret;
    }
    (void)session_reply(s);
    s->answer = a;
    session_hold(s, HELD_ANSWER);
    session_answer_more(s);
    return 0;
}

static int append(struct assembly *a, const struct of_multipart *m, struct of_error *e)
{
    if (m->bytes > MULTIPART_BYTES_MAX - a->count)
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_MULTIPART_BUFFER_OVERFLOW, "a request of more than %u bytes",
                        MULTIPART_BYTES_MAX);
    uint8_t *bytes = realloc(a->bytes, a->count + m->bytes + 1);
    if (!bytes) return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_MULTIPART_BUFFER_OVERFLOW, "no memory for a request");
    memcpy(bytes + a->count, m->body, m->bytes);
    a->bytes = bytes;
    a->count += m->bytes;
    a->since_ns = clock_now_ns();
    return 0;
}

static void assembly_clear(struct assembly *a)
{
    free(a->bytes);
    *a = (struct assembly){.is_open = false};
}

/* One request of a connection may be under way; one that was given up makes room for another. */
static int begin_assembly(struct assembly *a, uint32_t xid, struct of_error *e)
{
    if (a->is_open && clock_now_ns() - a->since_ns < ASSEMBLY_IDLE_NS)
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_MULTIPART_BUFFER_OVERFLOW, "another request is not yet whole");
    assembly_clear(a);
    *a = (struct assembly){.is_open = true, .xid = xid};
    return 0;
}

/* A part of a request that has more than one. */
static int add_part(struct of_session *s, const struct of_multipart *m, uint32_t xid, struct of_error *e)
{
    struct assembly *a = &s->assembly;
    bool belongs = a->is_open && a->xid == xid;
    if (m->type != OFPMP_TABLE_FEATURES)
        return of_wrong(e, OFPET_BAD_REQUEST, OFPBRC_MULTIPART_BUFFER_OVERFLOW,
                        "only table features may come in parts");
    if (!belongs && begin_assembly(a, xid, e)) return -EINVAL;
    int ret = append(a, m, e);
    if (ret == 0 && m->more) return 0;
    if (ret == 0) {
        const struct of_request r = {.type = m->type, .xid = xid, .body = a->bytes, .bytes = a->count};
        ret = answer(s, &r, e);
    }
    assembly_clear(a);
    return ret;
}

int agent_multipart(struct of_session *s, const struct of_msg *m, struct of_error *e)
{
    struct of_multipart part;
    if (of_get_multipart(m, &part, e)) return -EINVAL;
    bool goes_on = part.type == OFPMP_TABLE_FEATURES && s->assembly.is_open && s->assembly.xid == m->xid;
    if (part.more || goes_on) return add_part(s, &part, m->xid, e);
    const struct of_request r = {.type = part.type, .xid = m->xid, .body = part.body, .bytes = part.bytes};
    return answer(s, &r, e);
}
