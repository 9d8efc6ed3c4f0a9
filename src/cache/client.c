/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The channel of one thread.
 *
 *   none --attach--> greeting --HELLO--> open --HUP, bad message--> none
 *
 *   none      maps may be there still, from the last channel: good for hits. Nothing can be asked.
 *   greeting  likewise; HELLO is awaited (the service queues it before it hands the channel out).
 *   open      asks are sent, at most CACHE_CHANNEL_FILLS_MAX unanswered; more wait here.
 *
 * A service that is there but does not answer must not hang guests: an ask that has waited for ANSWER_WAIT_NS ends
 * with -ETIMEDOUT, and until an answer, any answer, comes nothing more is asked. The slot of such an ask stays
 * taken: the service may still answer it. The timer runs only while something is unanswered.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/client_internal.h"
#include "loop/clock.h"

#define ANSWER_WAIT_NS (3 * NS_PER_SECOND)
#define LOOK_EVERY_NS (500 * NS_PER_MS)

struct slot {
    struct cache_ask *ask; /* NULL: free, or given up */
    uint32_t use;          /* counts uses: the upper half of the cookie */
    bool taken;
};

struct cache_client {
    struct engine *engine;
    int fd; /* -1: none */
    bool open;
    bool stalled;
    struct engine_watch watch;
    int timer_fd;
    bool timer_set;
    struct engine_watch timer_watch;

    struct list members;
    unsigned map_count;
    struct cache_map *map[CACHE_CHANNEL_LAYERS_MAX];

    struct list sent, waiting; /* cache_ask, oldest first */
    struct list failed;        /* to be told from fail_task */
    struct engine_task fail_task;
    bool fail_queued;
    unsigned free_count;
    uint32_t free_slot[CACHE_CHANNEL_FILLS_MAX];
    struct slot slot[CACHE_CHANNEL_FILLS_MAX];
};

/* ---- members and maps ---- */

static void member_update(const struct cache_client *c, struct cache_member *m)
{
    m->map = m->index < c->map_count ? c->map[m->index] : NULL;
    if (m->map && m->map->size_bytes != m->size_bytes) {
        log_limited(LOG_LEVEL_WARN, "the cache has layer %u with %llu bytes, here it has %llu: read without the cache",
                    m->index, (unsigned long long)m->map->size_bytes, (unsigned long long)m->size_bytes);
        m->map = NULL;
    }
}

void cache_client_add(struct cache_client *c, struct cache_member *m)
{
    list_push_back(&c->members, &m->node);
    member_update(c, m);
}

void cache_client_remove(struct cache_member *m)
{
    list_remove(&m->node);
    m->map = NULL;
}

static void maps_replace(struct cache_client *c, struct cache_map *const *maps, unsigned count)
{
    struct cache_map *old[CACHE_CHANNEL_LAYERS_MAX];
    unsigned old_count = c->map_count;
    memcpy(old, c->map, sizeof old);
    for (unsigned i = 0; i < count; i++)
        c->map[i] = maps[i];
    c->map_count = count;
    LIST_FOR_EACH (node, &c->members)
        member_update(c, list_entry(node, struct cache_member, node));
    for (unsigned i = 0; i < old_count; i++)
        cache_map_put(old[i]);
}

/* ---- the end of a channel ---- */

static void fail_turn(struct engine_task *task)
{
    struct cache_client *c = container_of(task, struct cache_client, fail_task);
    struct list failed;
    list_init(&failed);
    c->fail_queued = false;
    list_splice_back(&failed, &c->failed);
    for (struct list *node; (node = list_pop_front(&failed));) {
        struct cache_ask *ask = list_entry(node, struct cache_ask, node);
        ask->done(ask, -EPIPE);
    }
}

static void slots_reset(struct cache_client *c)
{
    c->free_count = CACHE_CHANNEL_FILLS_MAX;
    for (uint32_t i = 0; i < CACHE_CHANNEL_FILLS_MAX; i++) {
        c->slot[i].ask = NULL;
        c->slot[i].taken = false;
        c->free_slot[i] = i;
    }
}

/* May run inside cache_client_ask(): those who wait are told later. */
static void channel_lost(struct cache_client *c)
{
    if (c->fd < 0) return;
    engine_unwatch(c->engine, &c->watch);
    shutdown(c->fd, SHUT_RDWR);
    close(c->fd);
    c->fd = -1;
    c->open = c->stalled = false;
    slots_reset(c);
    list_splice_back(&c->failed, &c->sent);
    list_splice_back(&c->failed, &c->waiting);
    if (c->fail_queued || list_empty(&c->failed)) return;
    c->fail_queued = true;
    engine_defer(c->engine, &c->fail_task);
}

/* ---- asking ---- */

static void timer_start(struct cache_client *c)
{
    if (c->timer_set) return;
    const struct itimerspec when = {.it_value.tv_nsec = LOOK_EVERY_NS};
    c->timer_set = timerfd_settime(c->timer_fd, 0, &when, NULL) == 0;
}

/* 0, -EAGAIN when it has to wait, -EPIPE when the channel was lost. */
static int ask_send(struct cache_client *c, struct cache_ask *ask)
{
    if (c->free_count == 0) return -EAGAIN;
    uint32_t index = c->free_slot[c->free_count - 1];
    struct slot *slot = &c->slot[index];
    const struct cache_fill msg = {.type = CACHE_MSG_FILL,
                                   .layer = ask->layer,
                                   .first_block = ask->first_block,
                                   .block_count = ask->block_count,
                                   .cookie = (uint64_t)++slot->use << 32 | index};
    ssize_t n;
    do
        n = send(c->fd, &msg, sizeof msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return -EAGAIN;
    if (n != (ssize_t)sizeof msg) {
        channel_lost(c);
        return -EPIPE;
    }
    c->free_count--;
    slot->taken = true;
    slot->ask = ask;
    ask->slot = index;
    list_push_back(&c->sent, &ask->node);
    timer_start(c);
    return 0;
}

bool cache_client_ask(struct cache_client *c, struct cache_ask *ask)
{
    if (!c->open || c->stalled) return false;
    assert(ask->block_count >= 1 && ask->block_count <= CACHE_FILL_MAX_BLOCKS);
    ask->asked_ns = clock_now_ns();
    int ret = list_empty(&c->waiting) ? ask_send(c, ask) : -EAGAIN;
    if (ret == 0) return true;
    /* Those who wait are sent when an answer comes. When none is awaited there is no use in waiting. */
    if (ret != -EAGAIN || list_empty(&c->sent)) return false;
    list_push_back(&c->waiting, &ask->node);
    return true;
}

static void send_waiting(struct cache_client *c)
{
    while (c->open && !list_empty(&c->waiting)) {
        struct list *node = list_pop_front(&c->waiting);
        int ret = ask_send(c, list_entry(node, struct cache_ask, node));
        if (ret == 0) continue;
        if (ret == -EAGAIN) list_push_front(&c->waiting, node);
        else list_push_back(&c->failed, node); /* channel_lost() queued the task if anybody else waited */
        break;
    }
    if (!list_empty(&c->failed) && !c->fail_queued) {
        c->fail_queued = true;
        engine_defer(c->engine, &c->fail_task);
    }
}

static void give_up_old(struct cache_client *c, struct list *asks, uint64_t now_ns)
{
    while (!list_empty(asks)) {
        struct cache_ask *ask = list_entry(asks->next, struct cache_ask, node);
        if (now_ns - ask->asked_ns < ANSWER_WAIT_NS) return;
        list_remove(&ask->node);
        if (asks == &c->sent) c->slot[ask->slot].ask = NULL;
        c->stalled = true;
        ask->done(ask, -ETIMEDOUT);
    }
}

static void timer_ready(struct engine_watch *w)
{
    struct cache_client *c = w->priv;
    uint64_t count;
    if (read(c->timer_fd, &count, sizeof count) < 0) return;
    c->timer_set = false;
    uint64_t now_ns = clock_now_ns();
    bool was_stalled = c->stalled;
    give_up_old(c, &c->sent, now_ns);
    give_up_old(c, &c->waiting, now_ns);
    if (c->stalled && !was_stalled) log_limited(LOG_LEVEL_WARN, "the read cache does not answer; reading without it");
    if (!list_empty(&c->sent) || !list_empty(&c->waiting)) timer_start(c);
}

/* ---- receiving ---- */

static const char *take_hello(struct cache_client *c, const struct cache_hello *hello, size_t bytes, const int *fds,
                              unsigned fd_count)
{
    struct cache_map *maps[CACHE_CHANNEL_LAYERS_MAX] = {NULL};
    if (bytes != sizeof *hello || hello->type != CACHE_MSG_HELLO) return "its greeting is malformed";
    if (hello->version != CACHE_PROTOCOL_VERSION) return "it speaks another version of the protocol";
    if (hello->layer_count > CACHE_CHANNEL_LAYERS_MAX || fd_count != hello->layer_count * CACHE_FDS_PER_LAYER)
        return "its greeting has the wrong number of descriptors";
    for (unsigned i = 0; i < hello->layer_count; i++) {
        if (cache_map_get(&maps[i], hello->layer_size_bytes[i], fds + (size_t)i * CACHE_FDS_PER_LAYER) == 0) continue;
        while (i-- > 0)
            cache_map_put(maps[i]);
        return "its memory cannot be mapped";
    }
    maps_replace(c, maps, hello->layer_count);
    c->open = true;
    return NULL;
}

static unsigned message_fds(struct msghdr *msg, int *fds)
{
    unsigned count = 0;
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS) continue;
        unsigned n = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds + count, CMSG_DATA(cmsg), n * sizeof(int));
        count += n;
    }
    return count;
}

/* 1: taken, 0: not there yet, -errno: the channel is useless and was closed. */
static int receive_hello(struct cache_client *c)
{
    struct cache_hello hello;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(CACHE_CHANNEL_LAYERS_MAX * CACHE_FDS_PER_LAYER * sizeof(int))];
    } control;
    int fds[CACHE_CHANNEL_LAYERS_MAX * CACHE_FDS_PER_LAYER + 4]; /* and what alignment may let in */
    struct iovec iov = {.iov_base = &hello, .iov_len = sizeof hello};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(c->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    unsigned fd_count = n >= 0 ? message_fds(&msg, fds) : 0;
    const char *fault = n <= 0                                     ? "it closed the channel"
                        : msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? "its greeting is too long"
                                                                   : take_hello(c, &hello, (size_t)n, fds, fd_count);
    for (unsigned i = 0; i < fd_count; i++)
        close(fds[i]);
    if (!fault) return 1;
    log_limited(LOG_LEVEL_WARN, "the read cache cannot be used: %s", fault);
    channel_lost(c);
    return -EPROTO;
}

/* False when there is nothing more to receive. */
static bool receive_answer(struct cache_client *c)
{
    struct cache_filled msg;
    ssize_t n = recv(c->fd, &msg, sizeof msg, MSG_DONTWAIT | MSG_TRUNC);
    if (n < 0 && errno == EINTR) return true;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    uint32_t index = n == (ssize_t)sizeof msg ? (uint32_t)msg.cookie : UINT32_MAX;
    if (index >= CACHE_CHANNEL_FILLS_MAX || msg.type != CACHE_MSG_FILLED || !c->slot[index].taken ||
        c->slot[index].use != (uint32_t)(msg.cookie >> 32)) {
        if (n > 0) log_limited(LOG_LEVEL_WARN, "the read cache sent nonsense; reading without it");
        channel_lost(c);
        return false;
    }
    struct slot *slot = &c->slot[index];
    struct cache_ask *ask = slot->ask;
    slot->taken = false;
    slot->ask = NULL;
    c->free_slot[c->free_count++] = index;
    c->stalled = false;
    if (!ask) return true; /* given up before */
    list_remove(&ask->node);
    ask->done(ask, msg.result > 0 ? -EPROTO : msg.result);
    return true;
}

static void channel_ready(struct engine_watch *w)
{
    struct cache_client *c = w->priv;
    if (!c->open && (c->fd < 0 || receive_hello(c) <= 0)) return;
    /* What comes out of `done` may lose the channel. */
    while (c->fd >= 0 && receive_answer(c))
        ;
    send_waiting(c);
}

/* ---- life ---- */

int cache_client_attach(struct cache_client *c, int fd)
{
    channel_lost(c);
    if (fd < 0) return 0;
    c->fd = fd;
    c->watch = (struct engine_watch){.fd = fd, .ready = channel_ready, .priv = c};
    int ret = engine_watch(c->engine, &c->watch);
    if (ret < 0) {
        close(fd);
        c->fd = -1;
        return ret;
    }
    ret = receive_hello(c);
    return ret < 0 ? ret : 0;
}

bool cache_client_connected(const struct cache_client *c)
{
    return c->open && !c->stalled;
}

int cache_client_new(struct cache_client **out, struct engine *e)
{
    struct cache_client *c = calloc(1, sizeof *c);
    if (!c) return -ENOMEM;
    c->engine = e;
    c->fd = -1;
    list_init(&c->members);
    list_init(&c->sent);
    list_init(&c->waiting);
    list_init(&c->failed);
    c->fail_task.run = fail_turn;
    slots_reset(c);
    c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    int ret = c->timer_fd < 0 ? -errno : 0;
    c->timer_watch = (struct engine_watch){.fd = c->timer_fd, .ready = timer_ready, .priv = c};
    if (ret == 0) ret = engine_watch(e, &c->timer_watch);
    if (ret < 0) {
        if (c->timer_fd >= 0) close(c->timer_fd);
        free(c);
        return ret;
    }
    *out = c;
    return 0;
}

void cache_client_free(struct cache_client *c)
{
    if (!c) return;
    assert(list_empty(&c->members) && list_empty(&c->sent) && list_empty(&c->waiting));
    channel_lost(c);
    if (c->fail_queued) list_remove(&c->fail_task.node);
    engine_unwatch(c->engine, &c->timer_watch);
    close(c->timer_fd);
    maps_replace(c, NULL, 0);
    free(c);
}
