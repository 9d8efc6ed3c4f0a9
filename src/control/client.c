/* SPDX-License-Identifier: Apache-2.0 */
#include "control/client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "control/unix_socket.h"
#include "loop/clock.h"

#define ANSWER_MAX_BYTES (64u << 20)
#define READ_STEP_BYTES 65536u
#define CONNECT_TRIES 200
#define CONNECT_PAUSE_US 10000

struct client {
    int fd;
    json_int_t next_id;
    char *data; /* received, not yet used */
    size_t used, room;
    char path[4096];
};

int client_open(struct client **out, const char *socket_path, struct errmsg *e)
{
    struct client *c = calloc(1, sizeof *c);
    if (!c) return errmsg_sys(e, ENOMEM, "%s", socket_path);
    snprintf(c->path, sizeof c->path, "%s", socket_path);
    int ret = -EAGAIN;
    /* A daemon with very many clients at once accepts them one after another. */
    for (unsigned i = 0; ret == -EAGAIN && i < CONNECT_TRIES; i++) {
        if (i) usleep(CONNECT_PAUSE_US);
        ret = unix_socket_connect(&c->fd, SOCK_STREAM, socket_path, e);
    }
    if (ret == 0) {
        *out = c;
        return 0;
    }
    free(c);
    if (ret == -ENOENT || ret == -ECONNREFUSED)
        return errmsg_set(
            e, -ret,
            "creedenced is not running (nobody listens at %s): start it with `systemctl start creedenced`, "
            "or name its socket with --control",
            socket_path);
    if (ret == -EACCES || ret == -EPERM)
        return errmsg_set(e, -ret,
                          "%s: no permission: run as root, or as a member of the group given to creedenced --group",
                          socket_path);
    return ret;
}

void client_close(struct client *c)
{
    if (!c) return;
    close(c->fd);
    free(c->data);
    free(c);
}

/* 0 when ready, -ETIMEDOUT. */
static int wait_ready(struct client *c, short events, uint64_t end_ns)
{
    for (;;) {
        uint64_t now_ns = clock_now_ns();
        if (now_ns >= end_ns) return -ETIMEDOUT;
        uint64_t ms = div_round_up(end_ns - now_ns, NS_PER_MS);
        struct pollfd p = {.fd = c->fd, .events = events};
        int n = poll(&p, 1, ms > 3600000 ? 3600000 : (int)ms);
        if (n > 0) return 0;
        if (n < 0 && errno != EINTR) return -errno;
    }
}

static int send_all(struct client *c, const char *text, size_t len, uint64_t end_ns)
{
    while (len) {
        ssize_t n = send(c->fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            text += n;
            len -= (size_t)n;
            continue;
        }
        if (errno != EAGAIN && errno != EINTR) return -errno;
        int ret = wait_ready(c, POLLOUT, end_ns);
        if (ret < 0) return ret;
    }
    return 0;
}

/* The next line, without its end; *next is where the one after it begins. */
static int receive_line(struct client *c, size_t *len, uint64_t end_ns)
{
    size_t searched = 0;
    for (;;) {
        char *end = c->used > searched ? memchr(c->data + searched, '\n', c->used - searched) : NULL;
        if (end) {
            *len = (size_t)(end - c->data);
            return 0;
        }
        searched = c->used;
        if (c->used > ANSWER_MAX_BYTES) return -EMSGSIZE;
        if (c->room - c->used < READ_STEP_BYTES) {
            size_t room = c->room ? c->room * 2 : 2 * READ_STEP_BYTES;
            char *data = realloc(c->data, room);
            if (!data) return -ENOMEM;
            c->data = data;
            c->room = room;
        }
        int ret = wait_ready(c, POLLIN, end_ns);
        if (ret < 0) return ret;
        ssize_t n = recv(c->fd, c->data + c->used, c->room - c->used, MSG_DONTWAIT);
        if (n == 0) return -ECONNRESET;
        if (n > 0) c->used += (size_t)n;
        else if (errno != EAGAIN && errno != EINTR) return -errno;
    }
}

static int take_answer(json_t *answer, json_int_t id, json_t **result, int *code, struct errmsg *e)
{
    json_t *error = json_object_get(answer, "error");
    *result = json_object_get(answer, "result");
    if (json_integer_value(json_object_get(answer, "id")) != id || (!error && !*result))
        return errmsg_set(e, EPROTO, "the daemon's answer is not one to this request");
    if (!error) {
        json_incref(*result);
        return 0;
    }
    const char *message = json_string_value(json_object_get(error, "message"));
    if (code) *code = (int)json_integer_value(json_object_get(error, "code"));
    *result = NULL;
    return errmsg_set(e, EREMOTEIO, "%s", message ? message : "the daemon gave no reason");
}

int client_call(struct client *c, const char *method, json_t *params, unsigned timeout_ms, json_t **result, int *code,
                struct errmsg *e)
{
    uint64_t end_ns = clock_now_ns() + timeout_ms * NS_PER_MS;
    json_int_t id = ++c->next_id;
    *result = NULL;
    if (!params) params = json_object();
    json_t *request = json_pack("{s:s, s:I, s:s, s:o}", "jsonrpc", "2.0", "id", id, "method", method, "params", params);
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    if (!text) return errmsg_set(e, EINVAL, "%s: an argument is not valid UTF-8", method);
    size_t len = strlen(text);
    text[len] = '\n'; /* in the place of its end */
    int ret = send_all(c, text, len + 1, end_ns);
    free(text);
    if (ret == 0) ret = receive_line(c, &len, end_ns);
    if (ret == -ETIMEDOUT)
        return errmsg_set(e, ETIMEDOUT, "the daemon at %s did not answer within %u s", c->path, timeout_ms / 1000);
    if (ret < 0) return errmsg_sys(e, -ret, "the daemon at %s", c->path);

    json_error_t why;
    json_t *answer = json_loadb(c->data, len, 0, &why);
    c->used -= len + 1;
    memmove(c->data, c->data + len + 1, c->used);
    if (!answer) return errmsg_set(e, EPROTO, "the daemon's answer is not JSON: %s", why.text);
    ret = take_answer(answer, id, result, code, e);
    json_decref(answer);
    return ret;
}
