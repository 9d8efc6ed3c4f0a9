/* SPDX-License-Identifier: Apache-2.0 */
#include "control/link.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/unix_socket.h"
#include "loop/clock.h"

union fd_control {
    char space[CMSG_SPACE(sizeof(int) * LINK_FDS_MAX)];
    struct cmsghdr align;
};

/* ---- Sending ---- */

static char *encode(json_t *body, const char *const *names, unsigned count, size_t *len_out)
{
    json_t *whole = json_incref(body);
    if (count) {
        json_decref(whole);
        whole = json_copy(body);
        json_t *list = json_array();
        for (unsigned i = 0; list && i < count; i++)
            if (json_array_append_new(list, json_string(names[i])) < 0) {
                json_decref(list);
                list = NULL;
            }
        if (!whole || json_object_set_new(whole, "fds", list) < 0) {
            json_decref(whole);
            return NULL;
        }
    }
    char *text = json_dumps(whole, JSON_COMPACT);
    json_decref(whole);
    if (text) *len_out = strlen(text);
    return text;
}

/* A Unix socket takes no datagram larger than its send buffer: make room and try once more. */
static int send_datagram(int sock, struct msghdr *msg, size_t len)
{
    for (int attempt = 0;; attempt++) {
        ssize_t n = sendmsg(sock, msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0) return (size_t)n == len ? 0 : -EIO;
        if (errno == EINTR) continue;
        if (errno == EMSGSIZE && attempt == 0) {
            int room = (int)LINK_MESSAGE_MAX + 4096;
            setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
            continue;
        }
        return errno == ECONNRESET ? -EPIPE : -errno;
    }
}

int link_send_now(int sock, json_t *body, const char *const *names, const int *fds, unsigned count)
{
    if (count > LINK_FDS_MAX) return -EMSGSIZE;
    size_t len = 0;
    autofree char *text = encode(body, names, count, &len);
    if (!text) return -ENOMEM;
    if (len > LINK_MESSAGE_MAX) return -EMSGSIZE;

    struct iovec iov = {.iov_base = text, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    union fd_control control;
    if (count) {
        memset(&control, 0, sizeof control);
        msg.msg_control = control.space;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    }
    int ret = send_datagram(sock, &msg, len);
    explicit_bzero(text, len); /* keys go this way, too */
    return ret;
}

int link_send(int sock, json_t *body, const char *const *names, const int *fds, unsigned count)
{
    uint64_t end_ns = clock_now_ns() + LINK_SEND_WAIT_MS * NS_PER_MS;
    for (;;) {
        int ret = link_send_now(sock, body, names, fds, count);
        if (ret != -EAGAIN) return ret;
        uint64_t now_ns = clock_now_ns();
        if (now_ns >= end_ns) return -ETIMEDOUT;
        struct pollfd p = {.fd = sock, .events = POLLOUT};
        if (poll(&p, 1, (int)div_round_up(end_ns - now_ns, NS_PER_MS)) < 0 && errno != EINTR) return -errno;
    }
}

/* ---- Receiving ---- */

static void collect_fds(struct msghdr *msg, struct link_msg *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        const unsigned char *data = CMSG_DATA(c);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, data + i * sizeof fd, sizeof fd);
            if (m->fd_count < LINK_FDS_MAX) m->fds[m->fd_count++] = fd;
            else close(fd);
        }
    }
}

static int name_fds(struct link_msg *m, struct errmsg *e)
{
    json_t *list = json_object_get(m->body, "fds");
    if (list && !json_is_array(list)) return errmsg_set(e, EPROTO, "\"fds\" is not an array");
    size_t named = json_array_size(list);
    if (named != m->fd_count)
        return errmsg_set(e, EPROTO, "message names %zu descriptors and carries %u", named, m->fd_count);
    for (unsigned i = 0; i < m->fd_count; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        size_t len = name ? strlen(name) : 0;
        if (len == 0 || len > LINK_FD_NAME_MAX)
            return errmsg_set(e, EPROTO, "entry %u of \"fds\" is not a name of 1 to %u bytes", i, LINK_FD_NAME_MAX);
        for (unsigned j = 0; j < i; j++)
            if (strcmp(m->names[j], name) == 0) return errmsg_set(e, EPROTO, "descriptor \"%s\" is named twice", name);
        m->names[i] = name;
    }
    return 0;
}

static int decode(struct link_msg *m, const char *text, size_t len, struct errmsg *e)
{
    json_error_t why;
    m->body = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (!m->body) return errmsg_set(e, EPROTO, "not JSON: %s (byte %d)", why.text, why.position);
    if (!json_is_object(m->body)) return errmsg_set(e, EPROTO, "message is not a JSON object");
    return name_fds(m, e);
}

int link_recv(int sock, struct link_msg *m, struct errmsg *e)
{
    memset(m, 0, sizeof *m);
    ssize_t size;
    /* A peer that ended before it read all of ours: the kernel says so once, ahead of what that peer still had sent. */
    do
        size = recv(sock, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
    while (size < 0 && (errno == EINTR || errno == ECONNRESET));
    if (size < 0) return -errno;
    /* An empty datagram cannot be told from the end; nothing of ours sends one. */
    if (size == 0) return -EPIPE;

    size_t room = min_u64((uint64_t)size, LINK_MESSAGE_MAX);
    autofree char *text = malloc(room);
    if (!text) return -ENOMEM;
    struct iovec iov = {.iov_base = text, .iov_len = room};
    union fd_control control;
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    ssize_t n;
    do
        n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && (errno == EINTR || errno == ECONNRESET));
    if (n < 0) return -errno;

    collect_fds(&msg, m);
    int ret;
    if (msg.msg_flags & MSG_TRUNC)
        ret = errmsg_set(e, EPROTO, "message of %zd bytes, at most %u are allowed", size, LINK_MESSAGE_MAX);
    else if (msg.msg_flags & MSG_CTRUNC)
        ret = errmsg_set(e, EPROTO,
                         "descriptors were lost: more than %u in the message, or this process has too many open",
                         LINK_FDS_MAX);
    else ret = decode(m, text, (size_t)n, e);
    explicit_bzero(text, (size_t)n);
    if (ret < 0) link_msg_clear(m);
    return ret;
}

void link_msg_clear(struct link_msg *m)
{
    for (unsigned i = 0; i < m->fd_count; i++)
        if (m->fds[i] >= 0) close(m->fds[i]);
    m->fd_count = 0;
    json_decref(m->body);
    m->body = NULL;
}

int link_msg_take_fd(struct link_msg *m, const char *name)
{
    for (unsigned i = 0; i < m->fd_count; i++)
        if (m->fds[i] >= 0 && strcmp(m->names[i], name) == 0) return steal_fd(&m->fds[i]);
    return -1;
}

/* ---- Heads and bodies ---- */

static int answer_head(json_t *body, struct link_head *out, struct errmsg *e)
{
    json_t *error = json_object_get(body, "error");
    out->result = json_object_get(body, "result");
    if (!error == !out->result) return errmsg_set(e, EPROTO, "an answer holds either \"result\" or \"error\"");
    if (out->id < 0) return errmsg_set(e, EPROTO, "an answer without \"id\"");
    if (!error) return 0;
    json_t *code = json_object_get(error, "code");
    out->error_message = json_string_value(json_object_get(error, "message"));
    if (!json_is_integer(code) || !out->error_message)
        return errmsg_set(e, EPROTO, "\"error\" is not an object with an integer \"code\" and a string \"message\"");
    json_int_t value = json_integer_value(code);
    out->error_code = value < 0 && value > -4096 ? (int)value : -EIO;
    return 0;
}

int link_msg_head(const struct link_msg *m, struct link_head *out, struct errmsg *e)
{
    *out = (struct link_head){.id = -1};
    json_t *id = json_object_get(m->body, "id");
    if (id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return errmsg_set(e, EPROTO, "\"id\" is not a non-negative integer");
        out->id = json_integer_value(id);
    }
    json_t *method = json_object_get(m->body, "method");
    if (!method) return answer_head(m->body, out, e);
    out->method = json_string_value(method);
    if (!out->method) return errmsg_set(e, EPROTO, "\"method\" is not a string");
    out->params = json_object_get(m->body, "params");
    if (!out->params) {
        out->params = json_object();
        if (json_object_set_new(m->body, "params", out->params) < 0) return -ENOMEM;
    }
    if (!json_is_object(out->params)) return errmsg_set(e, EPROTO, "\"params\" of %s is not an object", out->method);
    return 0;
}

json_t *link_request(json_int_t id, const char *method, json_t *params)
{
    if (!params) params = json_object();
    return json_pack("{s:I, s:s, s:o}", "id", id, "method", method, "params", params);
}

json_t *link_notification(const char *method, json_t *params)
{
    if (!params) params = json_object();
    return json_pack("{s:s, s:o}", "method", method, "params", params);
}

json_t *link_answer(json_int_t id, json_t *result)
{
    if (!result) result = json_object();
    return json_pack("{s:I, s:o}", "id", id, "result", result);
}

json_t *link_answer_error(json_int_t id, int code, const char *message)
{
    return json_pack("{s:I, s:{s:i, s:s}}", "id", id, "error", "code", code, "message", message);
}

/* ---- Sockets ---- */

int link_listen(int *out, const char *path, struct errmsg *e)
{
    return unix_socket_listen(out, SOCK_SEQPACKET, path, 0600, e);
}

int link_connect(int *out, const char *path, struct errmsg *e)
{
    return unix_socket_connect(out, SOCK_SEQPACKET, path, e);
}
