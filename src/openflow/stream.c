/* SPDX-License-Identifier: Apache-2.0 */
#include "openflow/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct of_stream {
    int fd;
    struct of_tls_session *tls; /* NULL: plain */
};

/* An answer leaves at once: what belongs together is written together (conn.c). A peer that is gone without a word is found by
 * echo requests; the kernel's own probes are for the times when none are sent. None of this is needed to work. */
static void tune(int fd)
{
    int domain = AF_UNIX, on = 1;
    socklen_t bytes = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) < 0) return;
    if (domain != AF_INET && domain != AF_INET6) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

static int make_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) return -errno;
    return flags & O_NONBLOCK || fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 ? 0 : -errno;
}

int of_stream_new(struct of_stream **out, int fd, struct of_tls *tls, bool client)
{
    *out = NULL;
    int ret = make_nonblocking(fd);
    if (ret < 0) return ret;
    struct of_stream *s = calloc(1, sizeof *s);
    if (!s) return -ENOMEM;
    ret = tls ? of_tls_session_new(&s->tls, tls, fd, client) : 0;
    if (ret < 0) {
        free(s);
        return ret;
    }
    tune(fd);
    s->fd = fd;
    *out = s;
    return 0;
}

void of_stream_free(struct of_stream *s)
{
    if (!s) return;
    of_tls_session_free(s->tls);
    close(s->fd);
    free(s);
}

int of_stream_fd(const struct of_stream *s)
{
    return s->fd;
}

ssize_t of_stream_read(struct of_stream *s, void *to, size_t max)
{
    if (s->tls) return of_tls_session_read(s->tls, to, max);
    ssize_t n;
    do
        n = recv(s->fd, to, max, 0);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t of_stream_write(struct of_stream *s, const void *from, size_t bytes)
{
    if (s->tls) return of_tls_session_write(s->tls, from, bytes);
    ssize_t n;
    do
        n = send(s->fd, from, bytes, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

uint32_t of_stream_wants(const struct of_stream *s, bool writing)
{
    if (s->tls) return of_tls_session_wants(s->tls, writing);
    return writing ? EPOLLOUT : EPOLLIN;
}

bool of_stream_has_more(const struct of_stream *s)
{
    return s->tls && of_tls_session_has_more(s->tls);
}

const char *of_stream_why(const struct of_stream *s, int error)
{
    const char *why = s->tls ? of_tls_session_why(s->tls) : NULL;
    return why ? why : strerror(error);
}
