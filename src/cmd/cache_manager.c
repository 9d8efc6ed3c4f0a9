/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/cache_manager.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "control/link.h"

#define MESSAGES_PER_TURN 16

struct connection {
    struct list node;
    struct cache_manager *manager;
    struct loop_watch watch;
};

struct cache_manager {
    struct cache_manager_args a;
    struct loop_watch watch;
    struct list connections;
    unsigned connection_count;
};

/* An answer in the making. */
struct answer {
    json_t *result; /* NULL: an empty object */
    char name[CACHE_SESSION_CHANNELS_MAX][24];
    int fds[CACHE_SESSION_CHANNELS_MAX]; /* sent, then closed */
    unsigned fd_count;
};

/* ---- methods: 0 or -errno with the reason ---- */

static int parse_layer(struct link_msg *m, json_t *layer, unsigned index, struct cache_layer_want *out,
                       struct errmsg *e)
{
    const char *format, *path;
    char name[24];
    snprintf(name, sizeof name, "layer%u", index);
    if (json_unpack(layer, "{s:s, s:s}", "format", &format, "path", &path) < 0)
        return errmsg_set(e, EINVAL, "layers[%u]: an object with the strings \"format\" and \"path\" is expected",
                          index);
    if (disk_format_parse(format, &out->format) < 0)
        return errmsg_set(e, EINVAL, "layers[%u]: unknown format \"%s\"", index, format);
    out->path = path;
    out->fd = link_msg_take_fd(m, name);
    if (out->fd < 0) return errmsg_set(e, EINVAL, "layers[%u]: the descriptor \"%s\" is missing", index, name);
    return 0;
}

static int do_channel(struct cache_manager *m, struct link_msg *msg, json_t *params, struct answer *out,
                      struct errmsg *e)
{
    struct cache_layer_want wants[CACHE_CHANNEL_LAYERS_MAX];
    json_t *layers = json_object_get(params, "layers");
    json_int_t count = json_integer_value(json_object_get(params, "count"));
    size_t n = json_array_size(layers);
    if (n < 1 || n > CACHE_CHANNEL_LAYERS_MAX)
        return errmsg_set(e, EINVAL, "\"layers\": an array of 1 to %u is expected", CACHE_CHANNEL_LAYERS_MAX);
    if (count < 1 || count > CACHE_SESSION_CHANNELS_MAX)
        return errmsg_set(e, EINVAL, "\"count\": 1 to %u is expected", CACHE_SESSION_CHANNELS_MAX);
    for (unsigned i = 0; i < n; i++) {
        int ret = parse_layer(msg, json_array_get(layers, i), i, &wants[i], e);
        if (ret == 0) continue;
        while (i-- > 0)
            close(wants[i].fd);
        return ret;
    }
    int ret = cache_service_connect(m->a.service, wants, (unsigned)n, out->fds, (unsigned)count, e);
    if (ret < 0) return ret;
    out->fd_count = (unsigned)count;
    for (unsigned i = 0; i < out->fd_count; i++)
        snprintf(out->name[i], sizeof out->name[i], "channel%u", i);
    return 0;
}

static json_t *layer_json(const struct cache_base_stats *b)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i}", "path", b->path,
                     "format", disk_format_name(b->format), "size_bytes", (json_int_t)b->size_bytes, "cached_bytes",
                     (json_int_t)b->cached_bytes, "huge_bytes", (json_int_t)b->huge_bytes, "storage_read_bytes",
                     (json_int_t)b->storage_read_bytes, "metadata_read_bytes", (json_int_t)b->metadata_read_bytes,
                     "filled_bytes", (json_int_t)b->filled_bytes, "fills", (json_int_t)b->fills, "coalesced",
                     (json_int_t)b->coalesced, "readahead_bytes", (json_int_t)b->readahead_bytes, "evicted_bytes",
                     (json_int_t)b->evicted_bytes, "errors", (json_int_t)b->errors, "stray_bytes",
                     (json_int_t)b->stray_bytes, "clients", (int)b->clients);
}

/* A message has a limit: with very many layers the last ones are only counted. */
#define LAYERS_BYTES_MAX (LINK_MESSAGE_MAX - 4096u)

static json_t *layers_json(const struct cache_service_stats *stats, unsigned *omitted)
{
    json_t *layers = json_array();
    size_t bytes = 0;
    *omitted = 0;
    for (unsigned i = 0; i < stats->base_count; i++) {
        json_t *layer = layer_json(&stats->bases[i]); /* NULL: its path is not UTF-8, or no memory */
        char *text = layer ? json_dumps(layer, JSON_COMPACT) : NULL;
        size_t n = text ? strlen(text) + 1 : 0;
        free(text);
        if (n && bytes + n <= LAYERS_BYTES_MAX && json_array_append_new(layers, layer) == 0) {
            bytes += n;
            continue;
        }
        if (!n || bytes + n > LAYERS_BYTES_MAX) json_decref(layer);
        (*omitted)++;
    }
    return layers;
}

static json_t *budget_json(const struct cache_budget *b)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, b->bytes);
    return json_string(b->automatic ? "auto" : text);
}

static int do_stats(struct cache_manager *m, struct answer *out, struct errmsg *e)
{
    struct cache_service_stats stats;
    unsigned omitted;
    int ret = cache_service_stats(m->a.service, &stats);
    if (ret < 0) return errmsg_sys(e, -ret, "statistics");
    json_t *layers = layers_json(&stats, &omitted);
    out->result = json_pack("{s:i, s:I, s:o, s:I, s:I, s:i, s:I, s:i, s:o}", "pid", (int)getpid(), "budget_bytes",
                            (json_int_t)stats.budget_bytes, "budget", budget_json(m->a.budget), "used_bytes",
                            (json_int_t)stats.used_bytes, "pressure_shrinks", (json_int_t)m->a.budget->pressure_shrinks,
                            "channels", (int)stats.channels, "channels_refused", (json_int_t)stats.channels_refused,
                            "layers_omitted", (int)omitted, "layers", layers);
    cache_service_stats_clear(&stats);
    return out->result ? 0 : errmsg_sys(e, ENOMEM, "statistics");
}

static int do_set(struct cache_manager *m, json_t *params, struct errmsg *e)
{
    json_t *budget = json_object_get(params, "budget");
    if (json_is_integer(budget) && json_integer_value(budget) >= 0) {
        cache_budget_fix(m->a.budget, (uint64_t)json_integer_value(budget));
    } else if (json_is_string(budget) && strcmp(json_string_value(budget), "auto") == 0) {
        struct cache_memory memory;
        struct cache_service_stats stats;
        int ret = cache_memory_read(m->a.memory, &memory);
        if (ret == 0) ret = cache_service_stats(m->a.service, &stats);
        if (ret < 0) return errmsg_sys(e, -ret, "the host's memory cannot be read");
        cache_budget_auto(m->a.budget, &memory, stats.used_bytes);
        cache_service_stats_clear(&stats);
    } else {
        return errmsg_set(e, EINVAL, "\"budget\": a number of bytes or \"auto\" is expected");
    }
    cache_service_set_budget(m->a.service, m->a.budget->bytes);
    return 0;
}

static int do_drop(struct cache_manager *m, json_t *params, struct errmsg *e)
{
    json_t *path = json_object_get(params, "path");
    if (path && !json_is_string(path)) return errmsg_set(e, EINVAL, "\"path\": a string is expected");
    if (cache_service_drop(m->a.service, json_string_value(path)) == 0 && path)
        return errmsg_set(e, ENOENT, "%s: not in the cache", json_string_value(path));
    return 0;
}

static int dispatch(struct cache_manager *m, struct link_msg *msg, const struct link_head *head, struct answer *out,
                    struct errmsg *e)
{
    if (strcmp(head->method, "channel") == 0) return do_channel(m, msg, head->params, out, e);
    if (strcmp(head->method, "stats") == 0) return do_stats(m, out, e);
    if (strcmp(head->method, "set") == 0) return do_set(m, head->params, e);
    if (strcmp(head->method, "drop") == 0) return do_drop(m, head->params, e);
    return errmsg_set(e, ENOSYS, "unknown method \"%.64s\"", head->method);
}

/* ---- connections ---- */

static void connection_close(struct connection *c)
{
    int fd = c->watch.fd;
    loop_remove(&c->watch);
    close(fd);
    list_remove(&c->node);
    c->manager->connection_count--;
    free(c);
}

static int send_answer(struct connection *c, json_int_t id, int ret, const struct answer *a, const struct errmsg *e)
{
    const char *names[CACHE_SESSION_CHANNELS_MAX];
    for (unsigned i = 0; i < a->fd_count; i++)
        names[i] = a->name[i];
    json_t *body = ret < 0 ? link_answer_error(id, ret, e->text) : link_answer(id, a->result);
    ret = body ? link_send_now(c->watch.fd, body, names, a->fds, a->fd_count) : -ENOMEM;
    json_decref(body);
    return ret;
}

/* 0, or why the connection has to go. */
static int connection_serve(struct connection *c, struct link_msg *msg)
{
    struct errmsg e = {""};
    struct link_head head;
    struct answer answer = {0};
    int ret = link_msg_head(msg, &head, &e);
    if (ret < 0) return ret;
    if (!head.method || head.id < 0) return -EPROTO; /* nobody here sends requests, or wants notifications */
    ret = dispatch(c->manager, msg, &head, &answer, &e);
    ret = send_answer(c, head.id, ret, &answer, &e);
    for (unsigned i = 0; i < answer.fd_count; i++)
        close(answer.fds[i]);
    return ret;
}

static void connection_ready(struct loop_watch *w, uint32_t events)
{
    struct connection *c = container_of(w, struct connection, watch);
    (void)events;
    for (unsigned i = 0; i < MESSAGES_PER_TURN; i++) {
        struct link_msg msg;
        struct errmsg e = {""};
        int ret = link_recv(w->fd, &msg, &e);
        if (ret == -EAGAIN) return;
        if (ret == 0) {
            ret = connection_serve(c, &msg);
            link_msg_clear(&msg);
        }
        if (ret == 0) continue;
        if (ret != -EPIPE) log_warn("a management connection is closed: %s", *e.text ? e.text : strerror(-ret));
        connection_close(c);
        return;
    }
}

static void listen_ready(struct loop_watch *w, uint32_t events)
{
    struct cache_manager *m = container_of(w, struct cache_manager, watch);
    (void)events;
    int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno != EAGAIN && errno != ECONNABORTED) log_limited(LOG_LEVEL_WARN, "accept: %s", strerror(errno));
        return;
    }
    struct connection *c = m->connection_count < CACHE_MANAGER_CONNECTIONS_MAX ? calloc(1, sizeof *c) : NULL;
    if (!c || loop_add(m->a.loop, &c->watch, fd, EPOLLIN, connection_ready) < 0) {
        log_limited(LOG_LEVEL_WARN, "a management connection is refused: too many (%u)", m->connection_count);
        close(fd);
        free(c);
        return;
    }
    c->manager = m;
    list_push_back(&m->connections, &c->node);
    m->connection_count++;
}

int cache_manager_new(struct cache_manager **out, const struct cache_manager_args *args, struct errmsg *e)
{
    struct cache_manager *m = calloc(1, sizeof *m);
    if (!m) return errmsg_sys(e, ENOMEM, "management socket");
    m->a = *args;
    list_init(&m->connections);
    int ret = loop_add(args->loop, &m->watch, args->listen_fd, EPOLLIN, listen_ready);
    if (ret < 0) {
        free(m);
        return errmsg_sys(e, -ret, "management socket");
    }
    *out = m;
    return 0;
}

void cache_manager_free(struct cache_manager *m)
{
    if (!m) return;
    while (!list_empty(&m->connections))
        connection_close(list_entry(m->connections.next, struct connection, node));
    loop_remove(&m->watch);
    close(m->a.listen_fd);
    free(m);
}
