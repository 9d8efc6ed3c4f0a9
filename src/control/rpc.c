/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection is referred to by its being open, by each of its unanswered calls, and by functions that
 * go on with it after something that may have closed it; the last reference frees it. conn_pump() is the one place that turns buffered input into calls; it runs after input arrived,
 * after an answer made room, and after output drained, and never inside itself.
 */
#include "control/rpc.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/list.h"
#include "base/log.h"
#include "loop/clock.h"

#define READ_CHUNK_BYTES 65536u
#define LINES_PER_PASS 32 /* then others get their turn */
#define ACCEPTS_PER_PASS 16

struct rpc_server {
    struct loop *loop;
    struct loop_watch watch;
    int listen_fd;
    const struct rpc_method *methods;
    void *arg;
    struct list conns; /* longest idle first */
    unsigned conn_count;
};

struct bytes {
    char *data;
    size_t start, end, room;
};

struct conn {
    struct rpc_server *server; /* NULL once closed */
    struct list node;
    struct loop_watch watch;
    struct loop_timer again; /* more lines than one pass takes */
    int fd;
    struct bytes in, out;
    size_t searched; /* bytes of `in` known to hold no line's end */
    unsigned refs, unanswered;
    bool pumping, input_ended;
};

struct batch {
    struct conn *conn;
    unsigned waiting;
    json_t *answers;
};

struct rpc_call {
    struct conn *conn;
    struct batch *batch; /* NULL: stands alone */
    json_t *id;          /* NULL: a notification, nobody wants the answer */
};

static void conn_pump(struct conn *c);

/* ---- Buffers ---- */

static bool bytes_reserve(struct bytes *b, size_t more)
{
    if (b->room - b->end >= more) return true;
    if (b->start) {
        memmove(b->data, b->data + b->start, b->end - b->start);
        b->end -= b->start;
        b->start = 0;
        if (b->room - b->end >= more) return true;
    }
    size_t room = b->room ? b->room : 4096;
    while (room - b->end < more)
        room *= 2;
    char *data = realloc(b->data, room);
    if (!data) return false;
    b->data = data;
    b->room = room;
    return true;
}

static void bytes_consume(struct bytes *b, size_t n)
{
    b->start += n;
    if (b->start != b->end) return;
    b->start = b->end = 0;
    if (b->room > READ_CHUNK_BYTES) { /* an idle connection keeps little */
        free(b->data);
        *b = (struct bytes){0};
    }
}

/* ---- Connections ---- */

/* Not inlined: gcc 12 then takes two calls in a row, each with a reference of its own, for a use after free. */
static __attribute__((noinline)) void conn_unref(struct conn *c)
{
    if (--c->refs) return;
    free(c->in.data);
    free(c->out.data);
    free(c);
}

static void conn_close(struct conn *c)
{
    if (!c->server) return;
    loop_remove(&c->watch);
    loop_timer_cancel(&c->again);
    list_remove(&c->node);
    c->server->conn_count--;
    c->server = NULL;
    close(c->fd);
    conn_unref(c);
}

static size_t unsent(const struct conn *c)
{
    return c->out.end - c->out.start;
}

static bool paused(const struct conn *c)
{
    return c->unanswered >= RPC_UNANSWERED_MAX || unsent(c) > RPC_OUTPUT_PAUSE_BYTES;
}

static void conn_flush(struct conn *c)
{
    while (c->server && unsent(c)) {
        ssize_t n = send(c->fd, c->out.data + c->out.start, unsent(c), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) conn_close(c);
        else bytes_consume(&c->out, (size_t)n);
    }
}

/* Decide what to wait for next, or that all is done. */
static void conn_settle(struct conn *c)
{
    if (c->input_ended && !c->unanswered && !unsent(c) && !c->again.loop) {
        conn_close(c);
        return;
    }
    uint32_t events = unsent(c) ? EPOLLOUT : 0;
    if (!c->input_ended && !paused(c)) events |= EPOLLIN;
    if (loop_change(&c->watch, events) < 0) conn_close(c);
}

static void conn_send(struct conn *c, json_t *message)
{
    char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
    json_decref(message);
    if (c->server) {
        size_t len = text ? strlen(text) : 0;
        if (!text || !bytes_reserve(&c->out, len + 1)) {
            log_error("out of memory: a connection of the control socket is closed");
            conn_close(c);
        } else {
            memcpy(c->out.data + c->out.end, text, len);
            c->out.data[c->out.end + len] = '\n';
            c->out.end += len + 1;
        }
    }
    free(text);
}

/* ---- Answers ---- */

static json_t *error_message(json_t *id, int code, const char *text, json_t *data)
{
    json_t *error = json_pack("{s:i, s:s}", "code", code, "message", text);
    if (!error) { /* text that is no UTF-8: from a file name, say */
        error = json_pack("{s:i, s:s}", "code", code, "message", "(a message that is not UTF-8)");
    }
    if (data) json_object_set_new(error, "data", data);
    return json_pack("{s:s, s:O?, s:o}", "jsonrpc", "2.0", "id", id, "error", error);
}

static void batch_finish(struct batch *b)
{
    struct conn *c = b->conn;
    if (--b->waiting) return;
    if (json_array_size(b->answers)) conn_send(c, b->answers);
    else json_decref(b->answers);
    free(b);
    c->unanswered--;
    conn_unref(c);
}

static void call_finish(struct rpc_call *call, json_t *message)
{
    struct conn *c = call->conn;
    struct batch *b = call->batch;
    bool wanted = call->id != NULL;
    json_decref(call->id);
    free(call);
    if (!wanted) {
        json_decref(message);
        message = NULL;
    }
    if (b) {
        if (message) json_array_append_new(b->answers, message);
        c->refs++;
        batch_finish(b);
    } else {
        c->unanswered--;
        if (message) conn_send(c, message);
    }
    if (c->server && !c->pumping) conn_pump(c);
    conn_unref(c);
}

void rpc_answer(struct rpc_call *call, json_t *result)
{
    if (!result) {
        rpc_fail(call, RPC_INTERNAL, NULL, "out of memory");
        return;
    }
    call_finish(call, json_pack("{s:s, s:O?, s:o}", "jsonrpc", "2.0", "id", call->id, "result", result));
}

void rpc_fail(struct rpc_call *call, enum rpc_code code, json_t *data, const char *format, ...)
{
    char text[768];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    call_finish(call, error_message(call->id, (int)code, text, data));
}

void rpc_fail_field(struct rpc_call *call, const struct field_error *why)
{
    rpc_fail(call, RPC_INVALID_PARAMS,
             json_pack("{s:s, s:s, s:s}", "field", why->field, "got", why->got, "expected", why->expected), "%s",
             why->message);
}

/* ---- Requests ---- */

static const struct rpc_method *find_method(const struct rpc_server *s, const char *name)
{
    for (const struct rpc_method *m = s->methods; m->name; m++)
        if (strcmp(m->name, name) == 0) return m;
    return NULL;
}

/* Check one request and run it. `call` is answered in any case. */
static void run_request(struct rpc_server *s, struct rpc_call *call, json_t *request)
{
    json_t *id = json_object_get(request, "id");
    const char *version = json_string_value(json_object_get(request, "jsonrpc"));
    const char *name = json_string_value(json_object_get(request, "method"));
    bool id_ok = !id || json_is_string(id) || json_is_number(id) || json_is_null(id);
    if (!json_is_object(request) || !version || strcmp(version, "2.0") != 0 || !name || !id_ok) {
        call->id = id && id_ok ? json_incref(id) : json_null();
        rpc_fail(call, RPC_INVALID_REQUEST, NULL,
                 "not a JSON-RPC 2.0 request: an object with \"jsonrpc\": \"2.0\", a string \"method\", and an \"id\" "
                 "that is "
                 "a string or a number");
        return;
    }
    call->id = id ? json_incref(id) : NULL;
    const struct rpc_method *m = find_method(s, name);
    if (!m) {
        rpc_fail(call, RPC_METHOD_NOT_FOUND, NULL, "no method \"%.64s\"", name);
        return;
    }
    json_t *params = json_object_get(request, "params");
    json_t *none = params ? NULL : json_object();
    if (params && !json_is_object(params)) {
        struct field_error why = {0};
        fields_begin(params, "params", &why);
        rpc_fail_field(call, &why);
    } else {
        m->run(s->arg, call, params ? params : none);
    }
    json_decref(none);
}

static struct rpc_call *call_new(struct conn *c, struct batch *b)
{
    struct rpc_call *call = calloc(1, sizeof *call);
    if (!call) return NULL;
    call->conn = c;
    call->batch = b;
    return call;
}

static void run_batch(struct conn *c, json_t *list)
{
    struct batch *b = calloc(1, sizeof *b);
    if (b) b->answers = json_array();
    if (!b || !b->answers) {
        free(b);
        conn_close(c);
        return;
    }
    b->conn = c;
    b->waiting = 1; /* ours, until all are started */
    c->unanswered++;
    c->refs++;
    size_t i;
    json_t *request;
    json_array_foreach(list, i, request)
    {
        struct rpc_call *call = c->server ? call_new(c, b) : NULL;
        if (!call) break;
        b->waiting++;
        run_request(c->server, call, request);
    }
    batch_finish(b);
}

static void run_line(struct conn *c, const char *line, size_t len)
{
    json_error_t why;
    json_t *message = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
    if (!message) {
        char text[256];
        snprintf(text, sizeof text, "not JSON: %s (byte %d of the line)", why.text, why.position);
        conn_send(c, error_message(NULL, RPC_PARSE_ERROR, text, NULL));
        return;
    }
    if (json_is_array(message)) {
        size_t n = json_array_size(message);
        if (n >= 1 && n <= RPC_BATCH_MAX) run_batch(c, message);
        else conn_send(c, error_message(NULL, RPC_INVALID_REQUEST, "a batch holds 1 to 64 requests", NULL));
    } else {
        struct rpc_call *call = call_new(c, NULL);
        if (call) {
            c->unanswered++;
            c->refs++;
            run_request(c->server, call, message);
        } else {
            conn_close(c);
        }
    }
    json_decref(message);
}

static void pump_again(struct loop_timer *t)
{
    conn_pump(container_of(t, struct conn, again));
}

/* The length of the next line, or -1 when none is whole yet. What follows the last line's end counts as a
 * line when no more can come. */
static ssize_t next_line(struct conn *c)
{
    size_t have = c->in.end - c->in.start;
    const char *from = c->in.data + c->in.start;
    const char *end = have > c->searched ? memchr(from + c->searched, '\n', have - c->searched) : NULL;
    if (end) return end - from;
    c->searched = have;
    return c->input_ended && have ? (ssize_t)have : -1;
}

static bool is_blank(const char *line, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!memchr(" \t\r", line[i], 3)) return false;
    return true;
}

static void run_lines(struct conn *c)
{
    for (unsigned lines = 0; c->server && !paused(c); lines++) {
        ssize_t len = next_line(c);
        if (len < 0) break;
        if (lines == LINES_PER_PASS) {
            loop_timer_arm(c->server->loop, &c->again, 0, pump_again);
            return;
        }
        const char *line = c->in.data + c->in.start;
        if (!is_blank(line, (size_t)len)) run_line(c, line, (size_t)len);
        c->searched = 0;
        bytes_consume(&c->in, min_u64((uint64_t)len + 1, c->in.end - c->in.start));
    }
    if (c->in.end - c->in.start > RPC_LINE_MAX_BYTES && c->searched) {
        conn_send(c, error_message(NULL, RPC_INVALID_REQUEST, "a line of more than 1 MiB", NULL));
        bytes_consume(&c->in, c->in.end - c->in.start);
        c->searched = 0;
        c->input_ended = true; /* out of step: no more is read */
    }
}

static void conn_pump(struct conn *c)
{
    assert(!c->pumping && c->server);
    c->refs++;
    c->pumping = true;
    run_lines(c);
    c->pumping = false;
    conn_flush(c);
    if (c->server) conn_settle(c);
    conn_unref(c);
}

/* ---- Sockets ---- */

static void conn_read(struct conn *c)
{
    if (!bytes_reserve(&c->in, READ_CHUNK_BYTES)) {
        conn_close(c);
        return;
    }
    ssize_t n = recv(c->fd, c->in.data + c->in.end, READ_CHUNK_BYTES, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n < 0) {
        conn_close(c);
        return;
    }
    if (n == 0) c->input_ended = true; /* perhaps half closed: answers are still sent */
    else c->in.end += (size_t)n;
    list_remove(&c->node);
    list_push_back(&c->server->conns, &c->node);
    conn_pump(c);
}

static void conn_ready(struct loop_watch *w, uint32_t events)
{
    struct conn *c = container_of(w, struct conn, watch);
    if (events & EPOLLIN) conn_read(c); /* also what was sent before the end */
    else if (events & (EPOLLERR | EPOLLHUP)) conn_close(c);
    else if (events & EPOLLOUT) conn_pump(c);
}

static void make_room(struct rpc_server *s)
{
    if (s->conn_count < RPC_CONNECTIONS_MAX) return;
    LIST_FOR_EACH_SAFE (node, &s->conns) {
        struct conn *c = list_entry(node, struct conn, node);
        if (c->unanswered) continue;
        conn_close(c);
        return;
    }
}

static void conn_new(struct rpc_server *s, int fd)
{
    make_room(s);
    struct conn *c = s->conn_count < RPC_CONNECTIONS_MAX ? calloc(1, sizeof *c) : NULL;
    if (!c || loop_add(s->loop, &c->watch, fd, EPOLLIN, conn_ready) < 0) {
        log_limited(LOG_LEVEL_WARN, "control socket: a connection is refused: %s",
                    c ? "out of resources" : "too many are open, or out of memory");
        free(c);
        close(fd);
        return;
    }
    c->server = s;
    c->refs = 1;
    c->fd = fd;
    s->conn_count++;
    list_push_back(&s->conns, &c->node);
}

static void server_ready(struct loop_watch *w, uint32_t events)
{
    struct rpc_server *s = container_of(w, struct rpc_server, watch);
    for (unsigned i = 0; i < ACCEPTS_PER_PASS; i++) {
        int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            conn_new(s, fd);
            continue;
        }
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            log_limited(LOG_LEVEL_ERROR, "control socket: accept: %s", strerror(errno));
        return;
    }
}

int rpc_server_new(struct rpc_server **out, struct loop *l, int listen_fd, const struct rpc_method *methods, void *arg)
{
    struct rpc_server *s = calloc(1, sizeof *s);
    if (!s) {
        close(listen_fd);
        return -ENOMEM;
    }
    *s = (struct rpc_server){.loop = l, .listen_fd = listen_fd, .methods = methods, .arg = arg};
    list_init(&s->conns);
    int ret = loop_add(l, &s->watch, listen_fd, EPOLLIN, server_ready);
    if (ret < 0) {
        rpc_server_free(s);
        return ret;
    }
    *out = s;
    return 0;
}

void rpc_server_flush(struct rpc_server *s, unsigned wait_ms)
{
    uint64_t end_ns = clock_now_ns() + wait_ms * NS_PER_MS;
    LIST_FOR_EACH_SAFE (node, &s->conns) {
        struct conn *c = list_entry(node, struct conn, node);
        c->refs++;
        for (conn_flush(c); c->server && unsent(c); conn_flush(c)) {
            uint64_t now_ns = clock_now_ns();
            struct pollfd p = {.fd = c->fd, .events = POLLOUT};
            if (now_ns >= end_ns || poll(&p, 1, (int)((end_ns - now_ns) / NS_PER_MS)) <= 0) break;
        }
        conn_unref(c);
    }
}

void rpc_server_free(struct rpc_server *s)
{
    if (!s) return;
    LIST_FOR_EACH_SAFE (node, &s->conns)
        conn_close(list_entry(node, struct conn, node));
    loop_remove(&s->watch);
    close(s->listen_fd);
    free(s);
}
