/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Channels: the clients' side of the data thread, and a boundary of trust. A client may be a worker
 * that a guest took over. It may ask for blocks of its layers and be slow; for anything else it loses the
 * channel, which concerns nobody but itself: it then reads the images by itself.
 *
 * A client has at most CACHE_CHANNEL_FILLS_MAX fills unanswered, and its socket holds that many answers and
 * more, so an answer that does not fit means that the client does not read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cache/service_internal.h"

#define MESSAGES_PER_TURN 32

static void channel_free_turn(struct engine_task *task)
{
    free(container_of(task, struct service_channel, again));
}

void service_session_leave(struct cache_service *s, struct service_session *session)
{
    if (--session->channels) return;
    for (unsigned i = 0; i < session->layer_count; i++) {
        struct base_layer *b = session->layer[i];
        if (--b->sessions == 0) b->idle_order = ++s->idle_clock;
    }
    free(session);
}

void service_channel_close(struct service_channel *c)
{
    if (c->closing) return;
    struct cache_service *s = c->service;
    c->closing = true;
    engine_unwatch(s->engine, &c->watch);
    shutdown(c->fd, SHUT_RDWR); /* the client sees it at once, whoever else still has the socket */
    close(c->fd);
    while (!list_empty(&c->fills))
        service_fill_drop(list_entry(c->fills.next, struct service_fill, channel_node));
    list_remove(&c->node);
    s->channel_count--;
    service_session_leave(s, c->session);
    /* The caller may be in the midst of using it. */
    c->again.run = channel_free_turn;
    if (!c->again_queued) engine_defer(s->engine, &c->again);
}

static void channel_refuse(struct service_channel *c, const char *why)
{
    c->service->channels_refused++;
    log_limited(LOG_LEVEL_WARN, "a cache client's channel is closed: %s", why);
    service_channel_close(c);
}

void service_channel_answer(struct service_channel *c, uint64_t cookie, int result)
{
    if (c->closing) return;
    const struct cache_filled msg = {.type = CACHE_MSG_FILLED, .result = result, .cookie = cookie};
    ssize_t n;
    do
        n = send(c->fd, &msg, sizeof msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof msg) return;
    if (errno == EAGAIN || errno == EWOULDBLOCK) channel_refuse(c, "it does not read its answers");
    else service_channel_close(c);
}

/* What is wrong with the message, or NULL. */
static const char *fill_fault(const struct service_channel *c, const struct cache_fill *msg, size_t bytes)
{
    if (bytes != sizeof *msg) return "a message of the wrong size";
    if (msg->type != CACHE_MSG_FILL) return "a message of unknown type";
    if (msg->layer >= c->session->layer_count) return "a layer that it does not have";
    if (msg->block_count == 0 || msg->block_count > CACHE_FILL_MAX_BLOCKS) return "a bad count of blocks";
    if (!range_fits(msg->first_block, msg->block_count, c->session->layer[msg->layer]->block_count))
        return "a range outside the layer";
    if (c->fill_count >= CACHE_CHANNEL_FILLS_MAX) return "too many requests at once";
    return NULL;
}

/* False when there is nothing more to receive. */
static bool channel_receive(struct service_channel *c)
{
    struct cache_fill msg;
    /* Without room for control data, descriptors that come along are closed by the kernel. */
    ssize_t n = recv(c->fd, &msg, sizeof msg, MSG_DONTWAIT | MSG_TRUNC);
    if (n < 0 && errno == EINTR) return true;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    if (n <= 0) { /* an empty message is the end of the connection, or as good as */
        service_channel_close(c);
        return false;
    }
    const char *fault = fill_fault(c, &msg, (size_t)n);
    if (fault) {
        channel_refuse(c, fault);
        return false;
    }
    service_fill_start(c, &msg);
    return true;
}

static void channel_turn(struct service_channel *c)
{
    for (unsigned i = 0; i < MESSAGES_PER_TURN; i++) {
        if (c->closing || !channel_receive(c)) return;
    }
    if (c->closing || c->again_queued) return;
    c->again_queued = true; /* others first */
    engine_defer(c->service->engine, &c->again);
}

static void channel_again(struct engine_task *task)
{
    struct service_channel *c = container_of(task, struct service_channel, again);
    c->again_queued = false;
    channel_turn(c);
}

static void channel_ready(struct engine_watch *w)
{
    struct service_channel *c = w->priv;
    if (!c->closing && !c->again_queued) channel_turn(c);
}

static int send_hello(int fd, const struct service_session *session)
{
    struct cache_hello hello = {
        .type = CACHE_MSG_HELLO, .version = CACHE_PROTOCOL_VERSION, .layer_count = session->layer_count};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(CACHE_CHANNEL_LAYERS_MAX * CACHE_FDS_PER_LAYER * sizeof(int))];
    } control = {0};
    int fds[CACHE_CHANNEL_LAYERS_MAX * CACHE_FDS_PER_LAYER];
    size_t count = 0;
    for (unsigned i = 0; i < session->layer_count; i++) {
        const struct base_layer *b = session->layer[i];
        hello.layer_size_bytes[i] = b->size_bytes;
        fds[count++] = b->data_ro_fd;
        fds[count++] = b->words_ro_fd;
        fds[count++] = b->touched_fd;
    }
    struct iovec iov = {.iov_base = &hello, .iov_len = sizeof hello};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
    return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof hello ? 0 : -errno;
}

int service_channel_open(struct cache_service *s, struct service_session *session, int *client_fd)
{
    int pair[2];
    if (s->channel_count >= CACHE_CHANNELS_MAX) return -EMFILE;
    struct service_channel *c = calloc(1, sizeof *c);
    if (!c) return -ENOMEM;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        int code = errno;
        free(c);
        return -code;
    }
    c->service = s;
    c->session = session;
    c->fd = pair[0];
    c->again.run = channel_again;
    list_init(&c->fills);
    c->watch = (struct engine_watch){.fd = c->fd, .ready = channel_ready, .priv = c};
    int ret = send_hello(c->fd, session);
    if (ret == 0) ret = engine_watch(s->engine, &c->watch);
    if (ret < 0) {
        close(pair[0]);
        close(pair[1]);
        free(c);
        return ret;
    }
    list_push_back(&s->channels, &c->node);
    s->channel_count++;
    session->channels++;
    *client_fd = pair[1];
    return 0;
}
