/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/service.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/service_internal.h"
#include "loop/clock.h"
#include "loop/thread.h"

/* ---- calls from the control thread ---- */

static void call_run(struct mail *m)
{
    struct service_call *call = container_of(m, struct service_call, mail);
    call->ret = call->fn(call->service, call->arg);
    sem_post(call->done);
}

int service_call(struct cache_service *s, int (*fn)(struct cache_service *s, void *arg), void *arg)
{
    sem_t done;
    sem_init(&done, 0, 0);
    struct service_call call = {.mail.run = call_run, .service = s, .fn = fn, .arg = arg, .done = &done};
    mailbox_post(&s->mailbox, &call.mail);
    while (sem_wait(&done) < 0)
        ; /* EINTR */
    sem_destroy(&done);
    return call.ret;
}

/* ---- the data thread ---- */

#define TICK_NS NS_PER_SECOND
#define TICK_BUSY_NS (20 * NS_PER_MS) /* while an audit is not through */

/* Look after every base; true when there is more to do soon. */
static bool service_tick(struct cache_service *s)
{
    bool more = false;
    LIST_FOR_EACH (node, &s->bases) {
        struct base_layer *b = list_entry(node, struct base_layer, node);
        if (b->sessions) service_base_changed(b);
        more |= service_audit(b);
    }
    if (service_used_bytes(s) > s->budget_bytes) service_shrink_soon(s);
    service_fetch_relax(s);
    service_huge_go(s);
    return more || s->buffers_used;
}

static bool anybody_there(const struct cache_service *s)
{
    return s->channel_count > 0;
}

/* How long to sleep. Nobody connected: until somebody is. */
static uint64_t run_tick(struct cache_service *s)
{
    uint64_t now_ns = clock_now_ns();
    if (!anybody_there(s) && s->next_tick_ns == UINT64_MAX) return UINT64_MAX;
    if (now_ns >= s->next_tick_ns || s->next_tick_ns == UINT64_MAX) {
        bool more = service_tick(s);
        s->next_tick_ns = more ? now_ns + TICK_BUSY_NS : anybody_there(s) ? now_ns + TICK_NS : UINT64_MAX;
    }
    return s->next_tick_ns == UINT64_MAX ? UINT64_MAX : s->next_tick_ns - now_ns;
}

static void mail_ready(struct engine_watch *w)
{
    struct cache_service *s = w->priv;
    mailbox_run(&s->mailbox);
}

static void close_channels(struct cache_service *s)
{
    while (!list_empty(&s->channels))
        service_channel_close(list_entry(s->channels.next, struct service_channel, node));
}

/* The engine is broken: no more I/O. Clients are let go (they read by themselves), calls are still answered. */
static void serve_without_engine(struct cache_service *s, int error)
{
    log_error("the cache's I/O engine failed: %s", strerror(-error));
    s->failed = error;
    close_channels(s);
    while (!s->stopping) {
        struct pollfd p = {.fd = mailbox_fd(&s->mailbox), .events = POLLIN};
        poll(&p, 1, -1);
        mailbox_run(&s->mailbox);
    }
}

static void drain(struct cache_service *s)
{
    close_channels(s);
    LIST_FOR_EACH (node, &s->bases)
        list_entry(node, struct base_layer, node)->dropping = false;
    while (!s->failed && (s->fetch_count || !list_empty(&s->engine->deferred))) {
        int ret = engine_sleep(s->engine, UINT64_MAX);
        if (ret < 0 && ret != -EINTR) s->failed = ret;
    }
    if (s->failed) engine_run_deferred(s->engine);
}

static void *service_body(void *arg)
{
    struct cache_service *s = arg;
    while (!s->stopping) {
        int ret = engine_sleep(s->engine, run_tick(s));
        if (ret < 0 && ret != -EINTR) serve_without_engine(s, ret);
    }
    drain(s);
    return NULL;
}

static int stop_call(struct cache_service *s, void *arg)
{
    (void)arg;
    s->stopping = true;
    return 0;
}

/* ---- start and stop ---- */

static int service_init(struct cache_service *s, const struct cache_service_config *config, struct errmsg *e)
{
    list_init(&s->bases);
    list_init(&s->channels);
    list_init(&s->starved);
    s->budget_bytes = max_u64(config->budget_bytes, CACHE_BUDGET_MIN_BYTES);
    s->next_tick_ns = UINT64_MAX;
    list_init(&s->free_fetches);
    s->fd_dir = config->fd_dir ? config->fd_dir : open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (s->fd_dir < 0) return errmsg_sys(e, errno, "cannot open /proc/self/fd");
    if (service_engine_init(s, config->maker) < 0) return errmsg_sys(e, ENOMEM, "cannot allocate the cache's tables");
    int ret = s->maker.make(s->maker.arg, &s->engine, e);
    if (ret < 0) return ret;
    ret = service_memory_init(s, max_u64(config->budget_most_bytes, s->budget_bytes));
    if (ret == 0) ret = service_fetch_init(s);
    if (ret < 0) return errmsg_sys(e, -ret, "cannot allocate the cache's tables");
    ret = mailbox_init(&s->mailbox);
    if (ret < 0) return errmsg_sys(e, -ret, "cannot make the cache's mailbox");
    s->mail_watch = (struct engine_watch){.fd = mailbox_fd(&s->mailbox), .ready = mail_ready, .priv = s};
    ret = engine_watch(s->engine, &s->mail_watch);
    if (ret < 0) return errmsg_sys(e, -ret, "cannot watch the cache's mailbox");
    service_huge_start(s, !config->small_pages);
    return 0;
}

static void service_free(struct cache_service *s)
{
    service_huge_stop(s);
    if (s->mailbox.event_fd >= 0) mailbox_destroy(&s->mailbox);
    if (s->fd_dir >= 0) close(s->fd_dir);
    service_memory_destroy(s);
    engine_free(s->engine);
    service_fetch_destroy(s);
    free(s->base_of_fd);
    free(s);
}

int cache_service_start(struct cache_service **out, const struct cache_service_config *config, struct errmsg *e)
{
    struct cache_service *s = calloc(1, sizeof *s);
    if (!s) return errmsg_sys(e, ENOMEM, "cannot start the cache");
    s->mailbox.event_fd = s->fd_dir = -1;
    int ret = service_init(s, config, e);
    if (ret == 0) {
        ret = thread_start(&s->thread, "cache-data", service_body, s);
        if (ret < 0) errmsg_sys(e, -ret, "cannot start the cache's thread");
    }
    if (ret < 0) service_free(s);
    else *out = s;
    return ret;
}

void cache_service_stop(struct cache_service *s)
{
    if (!s) return;
    service_call(s, stop_call, NULL);
    pthread_join(s->thread, NULL);
    service_huge_stop(s);
    /* The kernel may still write into memory that a broken engine gave it: better to leave all of it. */
    if (s->failed) return;
    while (!list_empty(&s->bases)) {
        struct base_layer *b = list_entry(s->bases.next, struct base_layer, node);
        service_base_detach(b);
        service_base_close(b);
    }
    service_free(s);
}

/* ---- connecting ---- */

struct find_args {
    const struct disk_file_identity *identity;
    enum disk_format format;
    const char *path;
    struct base_layer *found;
    struct base_layer *stale; /* detached, to be closed */
    bool again;               /* it is held for a moment: ask once more */
    struct errmsg *e;
};

static int find_call(struct cache_service *s, void *arg)
{
    struct find_args *a = arg;
    if (s->failed) return errmsg_sys(a->e, -s->failed, "the cache's I/O engine failed");
    LIST_FOR_EACH (node, &s->bases) {
        struct base_layer *b = list_entry(node, struct base_layer, node);
        const struct disk_file_identity *i = &b->identity;
        if (i->device != a->identity->device || i->inode != a->identity->inode || b->format != a->format) continue;
        bool same = !b->broken && i->size_bytes == a->identity->size_bytes && i->mtime_ns == a->identity->mtime_ns;
        bool idle = b->sessions == 0 && b->fetches == 0;
        /* A change of ctime alone is a rename or a new mode; with nobody using it, better to be sure. */
        if (same && (!idle || i->ctime_ns == a->identity->ctime_ns)) {
            a->found = b;
            return 0;
        }
        if (!idle)
            return errmsg_set(a->e, ESTALE,
                              "%s: changed (size or time of change) while other disks use it as a base; "
                              "detach them first",
                              a->path);
        a->again = b->held > 0;
        if (a->again) {
            service_base_drop(b); /* no more of it is taken up */
            return 0;
        }
        service_base_detach(b);
        a->stale = b;
        return 0;
    }
    if (s->base_count >= CACHE_BASES_MAX)
        return errmsg_set(a->e, EMFILE, "%s: the cache already has %u layers", a->path, CACHE_BASES_MAX);
    return 0;
}

static int attach_call(struct cache_service *s, void *arg)
{
    return service_base_attach(s, arg);
}

/* Find the base, or open it. The result is attached, and stays: only this thread detaches. */
static int want_base(struct cache_service *s, struct cache_layer_want *want, struct base_layer **out, struct errmsg *e)
{
    struct disk_file_identity identity;
    const struct engine_file probe = {.fd = want->fd, .name = want->path};
    int ret = disk_file_identify(&probe, &identity);
    if (ret < 0) return errmsg_sys(e, -ret, "%s: cannot be identified", want->path);
    struct find_args find = {.identity = &identity, .format = want->format, .path = want->path, .e = e};
    do {
        if (find.again) usleep(500);
        find.again = false;
        ret = service_call(s, find_call, &find);
    } while (ret == 0 && find.again);
    service_base_close(find.stale);
    if (ret < 0) return ret;
    if (find.found) {
        *out = find.found;
        return 0;
    }
    struct base_layer *b;
    ret = service_base_open(&b, s, want, e);
    if (ret < 0) return ret;
    ret = service_call(s, attach_call, b);
    if (ret < 0) {
        errmsg_sys(e, -ret, "%s: cannot be opened in the cache", b->path);
        service_base_close(b);
        return ret;
    }
    *out = b;
    return 0;
}

struct session_args {
    struct base_layer **bases;
    unsigned base_count;
    int *channel_fds;
    unsigned channel_count;
};

static int session_call(struct cache_service *s, void *arg)
{
    const struct session_args *a = arg;
    if (s->failed) return s->failed;
    struct service_session *session = calloc(1, sizeof *session);
    if (!session) return -ENOMEM;
    session->layer_count = a->base_count;
    for (unsigned i = 0; i < a->base_count; i++) {
        session->layer[i] = a->bases[i];
        a->bases[i]->sessions++;
    }
    session->channels = 1; /* ours, for the time being */
    int ret = 0;
    for (unsigned i = 0; i < a->channel_count; i++) {
        ret = service_channel_open(s, session, &a->channel_fds[i]);
        if (ret < 0) break;
    }
    service_session_leave(s, session);
    return ret; /* on failure the caller closes the clients' ends, which ends the channels */
}

int cache_service_connect(struct cache_service *s, struct cache_layer_want *wants, unsigned want_count,
                          int *channel_fds, unsigned channel_count, struct errmsg *e)
{
    struct base_layer *bases[CACHE_CHANNEL_LAYERS_MAX];
    int ret = 0;
    for (unsigned i = 0; i < channel_count && i < CACHE_SESSION_CHANNELS_MAX; i++)
        channel_fds[i] = -1;
    if (want_count == 0 || want_count > CACHE_CHANNEL_LAYERS_MAX)
        ret = errmsg_set(e, EINVAL, "%u layers asked for, 1 to %u expected", want_count, CACHE_CHANNEL_LAYERS_MAX);
    else if (channel_count == 0 || channel_count > CACHE_SESSION_CHANNELS_MAX)
        ret =
            errmsg_set(e, EINVAL, "%u channels asked for, 1 to %u expected", channel_count, CACHE_SESSION_CHANNELS_MAX);
    for (unsigned i = 0; i < want_count && ret == 0; i++)
        ret = want_base(s, &wants[i], &bases[i], e);
    if (ret == 0) {
        struct session_args args = {
            .bases = bases, .base_count = want_count, .channel_fds = channel_fds, .channel_count = channel_count};
        ret = service_call(s, session_call, &args);
        if (ret < 0) errmsg_sys(e, -ret, "cannot open the cache's channels");
    }
    for (unsigned i = 0; ret < 0 && i < channel_count && i < CACHE_SESSION_CHANNELS_MAX; i++) {
        if (channel_fds[i] >= 0) close(channel_fds[i]);
        channel_fds[i] = -1;
    }
    for (unsigned i = 0; i < want_count; i++) {
        if (wants[i].fd >= 0) close(wants[i].fd);
        wants[i].fd = -1;
    }
    return ret;
}

/* ---- the rest of what the control thread may ask ---- */

static int failed_call(struct cache_service *s, void *arg)
{
    (void)arg;
    return s->failed;
}

int cache_service_failed(struct cache_service *s)
{
    return service_call(s, failed_call, NULL);
}

static int budget_call(struct cache_service *s, void *arg)
{
    const uint64_t *budget_bytes = arg;
    s->budget_bytes = max_u64(*budget_bytes, CACHE_BUDGET_MIN_BYTES);
    service_shrink_soon(s);
    service_starved_wake(s);
    return 0;
}

void cache_service_set_budget(struct cache_service *s, uint64_t budget_bytes)
{
    service_call(s, budget_call, &budget_bytes);
}

static int drop_call(struct cache_service *s, void *arg)
{
    const char *path = arg;
    int count = 0;
    LIST_FOR_EACH (node, &s->bases) {
        struct base_layer *b = list_entry(node, struct base_layer, node);
        if (path && strcmp(path, b->path) != 0) continue;
        service_base_drop(b);
        count++;
    }
    return count;
}

static int dropping_call(struct cache_service *s, void *arg)
{
    (void)arg;
    LIST_FOR_EACH (node, &s->bases)
        if (list_entry(node, struct base_layer, node)->dropping && !s->failed) return 1;
    return 0;
}

unsigned cache_service_drop(struct cache_service *s, const char *path)
{
    int count = service_call(s, drop_call, (void *)(uintptr_t)path);
    while (service_call(s, dropping_call, NULL))
        usleep(200); /* the data thread does it between other work */
    return (unsigned)count;
}

/* The idle base to let go of: one whose file changed or was removed, else the oldest when there are too many. */
static int tidy_call(struct cache_service *s, void *arg)
{
    struct base_layer **out = arg, *oldest = NULL;
    unsigned idle_count = 0;
    LIST_FOR_EACH (node, &s->bases) {
        struct base_layer *b = list_entry(node, struct base_layer, node);
        if (b->sessions || b->fetches || b->held) continue;
        idle_count++;
        if (!oldest || b->idle_order < oldest->idle_order) oldest = b;
        struct stat st;
        if (!service_base_changed(b) && (fstat(b->file.fd, &st) < 0 || st.st_nlink > 0)) continue;
        oldest = b;
        idle_count = CACHE_BASES_IDLE_MAX + 1;
        break;
    }
    if (idle_count <= CACHE_BASES_IDLE_MAX) return 0;
    service_base_detach(oldest);
    *out = oldest;
    return 1;
}

void cache_service_tidy(struct cache_service *s)
{
    struct base_layer *b;
    while (service_call(s, tidy_call, &b))
        service_base_close(b);
}

static int stats_call(struct cache_service *s, void *arg)
{
    struct cache_service_stats *out = arg;
    *out = (struct cache_service_stats){.budget_bytes = s->budget_bytes,
                                        .used_bytes = service_used_bytes(s),
                                        .channels_refused = s->channels_refused,
                                        .channels = s->channel_count};
    out->bases = calloc(max_u64(s->base_count, 1), sizeof *out->bases);
    if (!out->bases) return -ENOMEM;
    LIST_FOR_EACH (node, &s->bases) {
        struct base_layer *b = list_entry(node, struct base_layer, node);
        struct cache_base_stats *t = &out->bases[out->base_count];
        *t = b->stats;
        t->path = strdup(b->path);
        if (!t->path) return -ENOMEM;
        t->format = b->format;
        t->size_bytes = b->size_bytes;
        t->cached_bytes = b->cached_bytes;
        t->storage_read_bytes = atomic_load_explicit(&b->storage_read_bytes, memory_order_relaxed);
        t->metadata_read_bytes = atomic_load_explicit(&b->metadata_read_bytes, memory_order_relaxed);
        t->clients = b->sessions;
        out->base_count++;
    }
    return 0;
}

int cache_service_stats(struct cache_service *s, struct cache_service_stats *out)
{
    int ret = service_call(s, stats_call, out);
    if (ret < 0) cache_service_stats_clear(out);
    return ret;
}

void cache_service_stats_clear(struct cache_service_stats *stats)
{
    for (unsigned i = 0; i < stats->base_count; i++)
        free(stats->bases[i].path);
    free(stats->bases);
    *stats = (struct cache_service_stats){0};
}
