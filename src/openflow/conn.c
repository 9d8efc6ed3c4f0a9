/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation. All work is done in run(), which the loop calls when the socket is ready (ready()) or, by a timer of no
 * delay, when something was asked for outside of run(): to send, to read again, to close. It reads once, hands over every whole
 * message, writes once. So a request and its answer cost one read and one write, and a thousand requests that came
 * together cost no more.
 *
 *     HELLO    the peer's hello is awaited; ours is queued        -> OPEN, CLOSING
 *     OPEN     messages are handed over                           -> CLOSING, ENDED
 *     CLOSING  nothing is read; what is queued is sent            -> ENDED
 *     ENDED    ended() was called; nothing happens any more
 *
 * A callback may free the connection: its descriptor and timers go at once, its memory when the outermost run() is left.
 *
 * Source: OpenFlow 1.3.5, sections 6.3 (connections) and 7.5.1 to 7.5.3 (hello, echo).
 */
#include "openflow/conn.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "loop/clock.h"
#include "openflow/wire.h"

#define ANSWER_POLL_NS UINT64_C(100000) /* a controller that waits for each answer has the next request ready at once */
#define IN_ROOM (128u << 10)            /* a message of the greatest length, and much that came with it */
#define HEADER sizeof(struct ofp_header)

enum state { HELLO, OPEN, CLOSING, ENDED };

struct of_conn {
    struct of_conn_ops ops;
    struct loop *loop;
    struct of_stream *stream;
    struct loop_watch watch;
    struct loop_timer work; /* run() from this pass of the loop */
    struct loop_timer tick; /* time limits, echo requests */
    enum state state;
    bool reading;  /* of_conn_read() */
    bool blocked;  /* the socket takes no more: written when it says so */
    bool deaf;     /* the peer takes no more, ever: what it sent is still served */
    bool asked;    /* there is an echo request without a sign of life after it */
    bool leftover; /* the stream has more: no event will tell of it */
    bool freed;
    unsigned depth;             /* run()s under way */
    uint64_t echo_ns, alive_ns; /* alive_ns: the last sign of life */
    struct of_out out;
    char reason[160]; /* CLOSING: why */
    size_t in_start, in_count;
    uint8_t in[IN_ROOM] __attribute__((aligned(8)));
};

/* ---- states ---- */

static bool may_read(const struct of_conn *c)
{
    return c->reading && !c->freed && c->state <= OPEN && of_out_queued(&c->out) <= OF_OUTPUT_PAUSE_BYTES;
}

static void detach(struct of_conn *c)
{
    loop_remove(&c->watch);
    loop_timer_cancel(&c->work);
    loop_timer_cancel(&c->tick);
}

/* In run() only. */
static void end(struct of_conn *c, const char *reason)
{
    if (c->freed || c->state == ENDED) return;
    c->state = ENDED;
    detach(c);
    c->ops.ended(c->ops.arg, reason);
}

static void tick_after(struct of_conn *c, uint64_t delay_ns);

static void close_soon(struct of_conn *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void close_soon(struct of_conn *c, const char *format, ...)
{
    if (c->freed || c->state >= CLOSING) return;
    va_list args;
    va_start(args, format);
    vsnprintf(c->reason, sizeof c->reason, format, args);
    va_end(args);
    c->state = CLOSING;
    tick_after(c, OF_CLOSE_S * NS_PER_SECOND);
}

static void is_alive(struct of_conn *c)
{
    c->alive_ns = clock_now_ns();
    c->asked = false;
}

/* ---- what is said here ---- */

static void put_end(struct of_conn *c)
{
    if (!of_out_end(&c->out)) close_soon(c, "out of memory");
}

static void put_hello(struct of_conn *c)
{
    of_out_begin(&c->out, OFPT_HELLO, 0);
    struct ofp_hello_elem e = {be16_make(OFPHET_VERSIONBITMAP), be16_make(sizeof e + sizeof(struct be32))};
    struct be32 versions = be32_make(1u << OFP_VERSION);
    of_out_put_bytes(&c->out, &e, sizeof e);
    of_out_put_bytes(&c->out, &versions, sizeof versions);
    put_end(c);
}

static uint32_t xid_of(const uint8_t *message)
{
    struct ofp_header h;
    memcpy(&h, message, sizeof h);
    return be32_get(h.xid);
}

static void put_error(struct of_conn *c, uint32_t xid, unsigned type, unsigned code, const void *data, size_t bytes)
{
    of_out_begin(&c->out, OFPT_ERROR, xid);
    struct ofp_error_msg e = {be16_make((uint16_t)type), be16_make((uint16_t)code)};
    of_out_put_bytes(&c->out, &e, sizeof e);
    of_out_put_bytes(&c->out, data, bytes);
    put_end(c);
}

/* An error is not answered by another. */
static void refuse(struct of_conn *c, const uint8_t *message, size_t bytes, unsigned code)
{
    if (message[1] == OFPT_ERROR) return;
    put_error(c, xid_of(message), OFPET_BAD_REQUEST, code, message, bytes < 64 ? bytes : 64);
}

static void put_echo(struct of_conn *c, uint8_t type, uint32_t xid, const uint8_t *payload, size_t bytes)
{
    of_out_begin(&c->out, type, xid);
    of_out_put_bytes(&c->out, payload, bytes);
    put_end(c);
}

/* ---- hello ---- */

/* The bitmap's first word, or 0 if there is none. Elements that are not known or make no sense are passed over. */
static uint32_t offered_versions(const uint8_t *message, size_t bytes)
{
    size_t at = HEADER;
    struct ofp_hello_elem e;
    while (bytes - at >= sizeof e) {
        memcpy(&e, message + at, sizeof e);
        size_t length = be16_get(e.length), padded = (length + 7) / 8 * 8;
        if (length < sizeof e || length > bytes - at) break;
        struct be32 versions;
        if (be16_get(e.type) == OFPHET_VERSIONBITMAP && length >= sizeof e + sizeof versions) {
            memcpy(&versions, message + at + sizeof e, sizeof versions);
            return be32_get(versions);
        }
        if (padded > bytes - at) break;
        at += padded;
    }
    return 0;
}

static void refuse_hello(struct of_conn *c, const uint8_t *message, const char *text, const char *reason)
{
    put_error(c, xid_of(message), OFPET_HELLO_FAILED, OFPHFC_INCOMPATIBLE, text, strlen(text));
    close_soon(c, "%s", reason);
}

static void take_hello(struct of_conn *c, const uint8_t *message, size_t bytes)
{
    uint32_t versions = offered_versions(message, bytes);
    /* Without a bitmap the lower of both headers' versions is spoken. */
    bool fits = versions ? versions >> OFP_VERSION & 1 : message[0] >= OFP_VERSION;
    if (!fits) {
        refuse_hello(c, message, "OpenFlow 1.3 (version 4) only is spoken here",
                     "the peer does not speak OpenFlow 1.3 (version 4)");
        return;
    }
    c->state = OPEN;
    tick_after(c, c->echo_ns);
    if (c->ops.established) c->ops.established(c->ops.arg);
}

/* What came first is no hello. */
static void refuse_stranger(struct of_conn *c, const uint8_t *message)
{
    if (message[0] == 0x16 && message[1] == 0x03) {
        close_soon(c, "the peer speaks TLS and this end does not: both must use ssl:, or both tcp:");
        return;
    }
    if (message[1] == OFPT_ERROR) {
        close_soon(c, "the peer refused the connection: it does not speak OpenFlow 1.3 (version 4)");
        return;
    }
    refuse_hello(c, message, "a hello must come first", "what the peer said first is no hello of OpenFlow");
}

/* ---- messages ---- */

static void take(struct of_conn *c, const uint8_t *message, size_t bytes)
{
    if (c->state == HELLO) {
        take_hello(c, message, bytes);
        return;
    }
    switch (message[1]) {
    case OFPT_HELLO: return;      /* more of them mean nothing */
    case OFPT_ECHO_REPLY: return; /* a sign of life as any other */
    default: break;
    }
    if (message[0] != OFP_VERSION) refuse(c, message, bytes, OFPBRC_BAD_VERSION);
    else if (message[1] == OFPT_ECHO_REQUEST)
        put_echo(c, OFPT_ECHO_REPLY, xid_of(message), message + HEADER, bytes - HEADER);
    else c->ops.message(c->ops.arg, message, bytes);
}

/* The next whole message, moved to where its address is a multiple of 8: only bytes that were taken lie before it. */
static const uint8_t *next_message(struct of_conn *c, size_t *bytes)
{
    size_t have = c->in_count - c->in_start;
    if (have < HEADER) return NULL;
    uint8_t *at = c->in + c->in_start;
    struct ofp_header h;
    memcpy(&h, at, sizeof h);
    if (c->state == HELLO && h.type != OFPT_HELLO) {
        refuse_stranger(c, at);
        return NULL;
    }
    *bytes = be16_get(h.length);
    if (*bytes < HEADER) {
        refuse(c, at, HEADER, OFPBRC_BAD_LEN);
        close_soon(c, "the peer sent a message of %zu bytes, which is less than a header", *bytes);
        return NULL;
    }
    if (have < *bytes) return NULL;
    c->in_start += *bytes;
    size_t odd = (size_t)(at - c->in) % 8;
    return odd ? memmove(at - odd, at, *bytes) : at;
}

static void hand_over(struct of_conn *c)
{
    const uint8_t *message;
    size_t bytes;
    bool any = false;
    while (may_read(c) && (message = next_message(c, &bytes))) {
        take(c, message, bytes);
        any = true;
    }
    if (any && !c->freed && c->state <= CLOSING && c->ops.batch_end) c->ops.batch_end(c->ops.arg);
}

static bool has_message(const struct of_conn *c)
{
    size_t have = c->in_count - c->in_start;
    struct ofp_header h;
    if (have < sizeof h) return false;
    memcpy(&h, c->in + c->in_start, sizeof h);
    return have >= be16_get(h.length);
}

/* ---- bytes ---- */

/* Once, as much as there is room for; with TLS as much of that as the system call brought. False: there will be no more. */
static bool fill(struct of_conn *c, const char **why)
{
    memmove(c->in, c->in + c->in_start, c->in_count - c->in_start);
    c->in_count -= c->in_start;
    c->in_start = 0;
    ssize_t n = 1;
    size_t before = c->in_count;
    while (c->in_count < IN_ROOM && n > 0 && (c->in_count == before || of_stream_has_more(c->stream))) {
        n = of_stream_read(c->stream, c->in + c->in_count, IN_ROOM - c->in_count);
        if (n > 0) c->in_count += (size_t)n;
    }
    c->leftover = n > 0 && of_stream_has_more(c->stream);
    if (c->in_count > before) is_alive(c);
    if (n == 0) *why = "the peer closed the connection";
    if (n < 0 && n != -EAGAIN) *why = of_stream_why(c->stream, (int)-n);
    return n > 0 || n == -EAGAIN;
}

/* Nothing can be sent any more. What the peer sent before it went is served: a tool may say something and leave. */
static void lost(struct of_conn *c, int error)
{
    if (c->state == OPEN && c->reading && (error == EPIPE || error == ECONNRESET)) {
        c->deaf = true;
        of_out_sent(&c->out, of_out_queued(&c->out));
        return;
    }
    end(c, c->state == CLOSING ? c->reason : of_stream_why(c->stream, error));
}

/* As if it were sent: a long answer goes on to its end, or what comes behind its request would never be read. */
static void discard(struct of_conn *c)
{
    size_t queued = of_out_queued(&c->out);
    of_out_sent(&c->out, queued);
    if (queued > 0 && c->state == OPEN && c->ops.drained) c->ops.drained(c->ops.arg);
}

static void flush(struct of_conn *c)
{
    if (c->deaf) discard(c);
    if (c->freed) return;
    size_t queued = of_out_queued(&c->out);
    if (queued > 0 && !c->blocked && !c->deaf) {
        ssize_t n = of_stream_write(c->stream, c->out.bytes + c->out.start, queued);
        if (n < 0 && n != -EAGAIN) {
            lost(c, (int)-n);
            return;
        }
        if (n > 0) of_out_sent(&c->out, (size_t)n);
        c->blocked = n < 0 || (size_t)n < queued;
        if (!c->blocked && c->state == OPEN) loop_poll_for(c->loop, ANSWER_POLL_NS);
        if (n > 0 && c->state == OPEN && of_out_queued(&c->out) <= OF_OUTPUT_PAUSE_BYTES && c->ops.drained)
            c->ops.drained(c->ops.arg);
        if (c->freed) return;
        queued = of_out_queued(&c->out);
    }
    if (queued > OF_OUTPUT_MAX_BYTES) end(c, "the peer does not read what it is sent");
    if (queued == 0 && c->state == CLOSING) end(c, c->reason);
}

/* ---- the loop's side ---- */

static void work_fired(struct loop_timer *t);
static void ready(struct loop_watch *w, uint32_t events);

static void work_soon(struct of_conn *c)
{
    if (c->depth == 0 && c->state != ENDED && !c->work.loop) loop_timer_arm(c->loop, &c->work, 0, work_fired);
}

/* A descriptor from which nothing is wanted is not watched: that its peer hung up would be told again and again. */
static void watch(struct of_conn *c)
{
    uint32_t events =
        (may_read(c) ? of_stream_wants(c->stream, false) : 0) | (c->blocked ? of_stream_wants(c->stream, true) : 0);
    int ret = 0;
    if (events == 0) loop_remove(&c->watch);
    else if (c->watch.loop) ret = loop_change(&c->watch, events);
    else ret = loop_add(c->loop, &c->watch, of_stream_fd(c->stream), events, ready);
    if (ret < 0) end(c, "out of memory");
}

static void release(struct of_conn *c)
{
    of_out_clear(&c->out);
    free(c);
}

static void enter(struct of_conn *c)
{
    c->depth++;
}

static void leave(struct of_conn *c)
{
    if (!c->freed && c->state != ENDED) watch(c);
    c->depth--;
    if (c->depth > 0) return;
    if (c->freed) release(c);
    else if ((of_out_queued(&c->out) > 0 && !c->blocked) || (may_read(c) && (c->leftover || has_message(c))))
        work_soon(c); /* a callback had more to say */
}

static void run(struct of_conn *c, bool readable)
{
    const char *why = NULL;
    enter(c);
    bool more = !readable || !may_read(c) || fill(c, &why);
    do {
        hand_over(c);
        if (!c->freed && c->state != ENDED) flush(c);
    } while (may_read(c) && has_message(c));
    if (!more) close_soon(c, "%s", why);
    if (!c->freed && c->state == CLOSING && of_out_queued(&c->out) == 0) end(c, c->reason);
    leave(c);
}

static void ready(struct loop_watch *w, uint32_t events)
{
    struct of_conn *c = container_of(w, struct of_conn, watch);
    if (c->blocked && events & (of_stream_wants(c->stream, true) | EPOLLHUP | EPOLLERR)) {
        c->blocked = false;
        is_alive(c); /* it took something */
    }
    run(c, events & (of_stream_wants(c->stream, false) | EPOLLHUP | EPOLLERR));
}

static void work_fired(struct loop_timer *t)
{
    struct of_conn *c = container_of(t, struct of_conn, work);
    run(c, c->leftover);
}

/* ---- time ---- */

/* Nothing was heard for echo_ns, or twice that. */
static void ask_or_end(struct of_conn *c)
{
    if (c->deaf) {
        end(c, "the peer closed the connection");
    } else if (!c->asked) {
        c->asked = true;
        if (of_out_queued(&c->out) == 0) put_echo(c, OFPT_ECHO_REQUEST, 0, NULL, 0);
    } else if (c->blocked) {
        end(c, "the peer does not read what it is sent");
    } else {
        end(c, "the peer did not answer an echo request");
    }
}

static void tick_fired(struct loop_timer *t)
{
    struct of_conn *c = container_of(t, struct of_conn, tick);
    enter(c);
    uint64_t idle_ns = clock_now_ns() - c->alive_ns;
    if (c->state == HELLO) {
        end(c, "the peer did not say hello in time");
    } else if (c->state == CLOSING) {
        end(c, c->reason);
    } else if (idle_ns < c->echo_ns) {
        tick_after(c, c->echo_ns - idle_ns);
    } else {
        tick_after(c, c->echo_ns);
        /* Not read from: its answer might lie there, unread, but what is there for it should be taken. */
        if (c->reading || c->blocked) ask_or_end(c);
    }
    leave(c);
}

static void tick_after(struct of_conn *c, uint64_t delay_ns)
{
    loop_timer_arm(c->loop, &c->tick, delay_ns, tick_fired);
}

/* ---- public ---- */

int of_conn_new(struct of_conn **out, struct loop *loop, struct of_stream *stream, unsigned echo_s,
                const struct of_conn_ops *ops)
{
    *out = NULL;
    struct of_conn *c = malloc(sizeof *c);
    if (!c) {
        of_stream_free(stream);
        return -ENOMEM;
    }
    memset(c, 0, offsetof(struct of_conn, in)); /* pages of `in` that are never needed are never there */
    c->ops = *ops;
    c->loop = loop;
    c->stream = stream;
    c->reading = true;
    c->echo_ns = (echo_s ? echo_s : OF_ECHO_S_DEFAULT) * NS_PER_SECOND;
    of_out_init(&c->out);
    put_hello(c);
    int ret = c->state == HELLO ? loop_add(loop, &c->watch, of_stream_fd(stream), EPOLLIN, ready) : -ENOMEM;
    if (ret < 0) {
        of_conn_free(c);
        return ret;
    }
    is_alive(c);
    tick_after(c, OF_HELLO_S * NS_PER_SECOND);
    work_soon(c);
    *out = c;
    return 0;
}

void of_conn_free(struct of_conn *c)
{
    if (!c) return;
    detach(c);
    of_stream_free(c->stream);
    c->stream = NULL;
    c->freed = true;
    if (c->depth == 0) release(c);
}

struct of_out *of_conn_out(struct of_conn *c)
{
    return &c->out;
}

void of_conn_send(struct of_conn *c)
{
    work_soon(c);
}

size_t of_conn_queued(const struct of_conn *c)
{
    return of_out_queued(&c->out);
}

void of_conn_read(struct of_conn *c, bool read)
{
    if (c->reading == read) return;
    c->reading = read;
    work_soon(c);
}

void of_conn_close(struct of_conn *c, const char *reason)
{
    close_soon(c, "%s", reason);
    work_soon(c);
}
