/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/vbd_chain.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/client.h"
#include "disk/image.h"
#include "disk/mark.h"
#include "disk/staged.h"
#include "disk/sync.h"
#include "loop/clock.h"

/* Less than the daemon gives a worker to be configured in. */
#define PREVIOUS_LIMIT_NS (20 * NS_PER_SECOND)

struct chain_thread {
    struct disk_chans chans;
    struct cache_client *cache;
    int cache_fd; /* waiting for the thread to take it, or -1 */
    _Atomic bool open;
};

struct chain {
    struct worker_config *config; /* the worker's */
    unsigned count;               /* layers of the configuration */
    struct engine_file file[DISK_CHAIN_MAX];
    struct disk_sync sync;                /* of the leaf */
    int shared_fd[DISK_CHAIN_MAX];        /* opened first: locked, and the daemon's as well; -1: it is the file's own */
    struct layer *own[DISK_CHAIN_MAX];    /* each image, directly */
    struct layer *cached[DISK_CHAIN_MAX]; /* the same through the cache; NULL for the leaf */
    struct layer *stack[DISK_CHAIN_MAX];  /* what threads open, leaf first */
    struct layer *staged;                 /* what they open instead, for comparison; or NULL */
    struct chain_thread thread[VBD_QUEUES_MAX];
    struct chain_thread stage; /* with staged: the one thread that has the channels of the stack */
};

static int open_one(struct chain *c, unsigned i, bool writable, struct errmsg *e)
{
    struct worker_layer *l = &c->config->layer[i];
    if (l->fd >= 0) {
        int fd = l->fd;
        l->fd = -1;
        return disk_file_adopt(&c->file[i], fd, l->path, e);
    }
    unsigned flags = (writable ? DISK_FILE_WRITE : 0u) | (l->direct ? DISK_FILE_DIRECT : 0u);
    return disk_file_open(&c->file[i], l->path, flags, e);
}

/* What a killed worker has left in the kernel must not land, on an image or in the guest's memory, after its successor has
 * begun: its direct I/O goes through descriptions that nobody else has, and that are marked (disk/mark.h). A buffered leaf
 * is flushed through one of our own, and the other is the witness of what its flushes are worth (disk/sync.h). */
static int open_file(struct chain *c, unsigned i, uint64_t mark, struct errmsg *e)
{
    bool adopted = c->config->layer[i].fd >= 0, writable = i == 0 && !c->config->device.read_only;
    int ret = open_one(c, i, writable, e);
    if (ret < 0) return ret;
    c->count = i + 1;
    bool direct = c->file[i].direct;
    if (direct ? adopted : writable) ret = disk_file_reopen(&c->file[i], &c->shared_fd[i], e);
    if (ret == 0 && direct) ret = disk_mark_set(&c->file[i], mark, e);
    if (i == 0 && !direct) c->sync.witness_fd = c->shared_fd[i];
    return ret;
}

/* A clone opened without its base, or on another one, reads as something else, and what is then written to it is filled
 * up with that. Comparing needs the file system, so it comes before the sandbox. */
static int compare_backing(const struct chain *c, unsigned i, struct errmsg *e)
{
    const struct worker_layer *l = &c->config->layer[i], *below = i + 1 < c->count ? l + 1 : NULL;
    struct image_info info;
    int ret = image_info_file(&c->file[i], l->format, &info, e);
    if (ret < 0) return ret;
    if (!below && info.backing_name[0])
        return errmsg_set(e, EINVAL,
                          "%s says that it is based on %s, but nothing is configured below it: add --backing "
                          "%s,format=%s if that is right",
                          l->path, info.backing_name, info.backing_name,
                          info.backing_format[0] ? info.backing_format : "FORMAT");
    return image_compare_backing(l->path, &info, below ? below->path : NULL, below ? below->format : DISK_FORMAT_RAW,
                                 c->config->backing_names == BACKING_NAMES_ANY, e);
}

int chain_wait_previous(struct chain *c, uint64_t mark, struct errmsg *e)
{
    uint64_t deadline_ns = clock_now_ns() + PREVIOUS_LIMIT_NS;
    for (unsigned i = 0; i < c->count; i++) {
        int ret = c->file[i].direct ? disk_mark_wait(&c->file[i], mark, deadline_ns, e) : 0;
        if (ret < 0) return ret;
    }
    return 0;
}

/* Of the channels for the queues' threads the stage thread, which reads for all of them, takes the first. */
static void stage_take_fds(struct chain *c)
{
    if (c->thread[0].cache_fd >= 0) {
        if (c->stage.cache_fd >= 0) close(c->stage.cache_fd);
        c->stage.cache_fd = c->thread[0].cache_fd;
        c->thread[0].cache_fd = -1;
    }
    for (unsigned i = 1; i < VBD_QUEUES_MAX; i++) {
        if (c->thread[i].cache_fd >= 0) close(c->thread[i].cache_fd);
        c->thread[i].cache_fd = -1;
    }
}

int chain_open_files(struct chain **out, struct worker_config *config, const int *cache_fd, uint64_t mark,
                     struct errmsg *e)
{
    struct chain *c = calloc(1, sizeof *c);
    if (!c) return errmsg_set(e, ENOMEM, "out of memory");
    *out = c;
    c->config = config;
    c->stage.cache_fd = -1;
    disk_sync_init(&c->sync, -1);
    for (unsigned i = 0; i < DISK_CHAIN_MAX; i++)
        c->shared_fd[i] = -1;
    for (unsigned i = 0; i < VBD_QUEUES_MAX; i++)
        c->thread[i].cache_fd = cache_fd[i];
    if (config->datapath == DATAPATH_STAGED) stage_take_fds(c);
    for (unsigned i = 0; i < config->layer_count; i++) {
        int ret = open_file(c, i, mark, e);
        if (ret < 0) return ret;
    }
    for (unsigned i = 0; i < c->count && config->backing_names != BACKING_NAMES_CHECKED; i++) {
        int ret = compare_backing(c, i, e);
        if (ret < 0) return ret;
    }
    if (c->file[0].direct && c->file[0].io_align > config->device.sector_bytes)
        return errmsg_set(e, EINVAL,
                          "%s: direct I/O here works in units of %u bytes, the disk's sectors have %u: use "
                          "--sector-size %u or direct=off",
                          c->file[0].name, c->file[0].io_align, config->device.sector_bytes, c->file[0].io_align);
    return 0;
}

unsigned chain_engines(const struct chain *c)
{
    bool grows = !c->config->device.read_only && c->config->layer[0].format == DISK_FORMAT_QCOW2;
    unsigned count = c->config->device.queues + (c->config->datapath == DATAPATH_STAGED) + grows;
    for (unsigned i = 0; i < c->count; i++)
        if (c->config->layer[i].format == DISK_FORMAT_QCOW2) count += 2; /* while it is opened; its keeper's thread */
    return count;
}

/* ---- what a thread has ---- */

static void cache_take(struct chain_thread *t)
{
    if (t->cache_fd < 0) return;
    int ret = cache_client_attach(t->cache, t->cache_fd);
    t->cache_fd = -1;
    if (ret < 0) log_warn("the read cache's channel is of no use: %s; reading base images directly", strerror(-ret));
}

static int thread_join(struct chain_thread *t, struct engine *e, const struct disk_chans *chans)
{
    int ret = cache_client_new(&t->cache, e);
    if (ret < 0) return ret;
    t->chans = *chans;
    for (unsigned i = 0; i < t->chans.count; i++)
        cache_client_join(t->cache, t->chans.chan[i]);
    cache_take(t);
    atomic_store(&t->open, true);
    return 0;
}

static int stage_opened(void *arg, struct engine *e, const struct disk_chans *chans)
{
    return thread_join(&((struct chain *)arg)->stage, e, chans);
}

static void stage_closed(void *arg)
{
    cache_client_free(((struct chain *)arg)->stage.cache);
}

static void stage_call(void *arg)
{
    cache_take(arg);
}

/* ---- the layers ---- */

int chain_open_layers(struct chain *c, struct disk_stash stash, const struct engine_maker *maker, struct errmsg *e)
{
    for (unsigned i = c->count; i-- > 0;) {
        struct layer_args args = {
            .file = &c->file[i],
            .below = i + 1 < c->count ? c->stack[i + 1] : NULL,
            .writable = i == 0 && !c->config->device.read_only,
            .stash = i == 0 ? stash : (struct disk_stash){0},
            .sync = i == 0 ? &c->sync : NULL,
            .maker = maker,
        };
        int ret = layer_open(&c->own[i], c->config->layer[i].format, &args, e);
        if (ret == 0 && i > 0) ret = cache_layer_open(&c->cached[i], c->own[i], args.below, i - 1, e);
        if (ret < 0) return ret;
        c->stack[i] = i > 0 ? c->cached[i] : c->own[i];
    }
    if (c->config->datapath == DATAPATH_DIRECT) return 0;
    struct staged_hooks hooks = {.opened = stage_opened, .closed = stage_closed, .arg = c};
    return layer_staged_open(&c->staged, c->stack, c->count, maker, &hooks, e);
}

int chain_close(struct chain *c, struct errmsg *e)
{
    int ret = 0;
    atomic_store(&c->stage.open, false);
    if (c->staged) c->staged->ops->close(c->staged, NULL);
    for (unsigned i = 1; i < c->count; i++)
        if (c->cached[i]) c->cached[i]->ops->close(c->cached[i], NULL);
    for (unsigned i = 0; i < c->count; i++) {
        if (!c->own[i]) continue;
        int closed = c->own[i]->ops->close(c->own[i], i == 0 ? e : NULL);
        if (i == 0) ret = closed;
    }
    for (unsigned i = 0; i < c->count; i++) {
        disk_file_close(&c->file[i]);
        if (c->shared_fd[i] >= 0) close(c->shared_fd[i]);
    }
    for (unsigned i = 0; i < VBD_QUEUES_MAX; i++)
        if (c->thread[i].cache_fd >= 0) close(c->thread[i].cache_fd);
    if (c->stage.cache_fd >= 0) close(c->stage.cache_fd);
    disk_sync_destroy(&c->sync);
    free(c);
    return ret;
}

struct layer *chain_leaf(struct chain *c)
{
    return c->own[0];
}

int chain_shared_fd(const struct chain *c, unsigned layer)
{
    return c->shared_fd[layer] >= 0 ? c->shared_fd[layer] : c->file[layer].fd;
}

uint32_t chain_cluster_bytes(const struct chain *c)
{
    return c->own[0]->unit_bytes;
}

static int thread_open(void *arg, unsigned queue, struct engine *e, struct layer_chan **top)
{
    struct chain *c = arg;
    struct chain_thread *t = &c->thread[queue];
    struct disk_chans chans;
    int ret = c->staged ? disk_chans_open(&chans, &c->staged, 1, e) : disk_chans_open(&chans, c->stack, c->count, e);
    if (ret == 0) {
        ret = thread_join(t, e, &chans);
        if (ret < 0) disk_chans_close(&chans);
    }
    if (ret == 0) *top = t->chans.chan[0];
    return ret;
}

static void thread_close(void *arg, unsigned queue)
{
    struct chain *c = arg;
    struct chain_thread *t = &c->thread[queue];
    atomic_store(&t->open, false);
    disk_chans_close(&t->chans);
    cache_client_free(t->cache);
}

static void thread_call(void *arg, unsigned queue, void *call_arg)
{
    struct chain *c = arg;
    (void)call_arg;
    cache_take(&c->thread[queue]);
}

struct vbd_chains chain_callbacks(struct chain *c)
{
    return (struct vbd_chains){.open = thread_open, .close = thread_close, .call = thread_call, .arg = c};
}

int chain_resize(struct chain *c, uint64_t size_bytes, struct errmsg *e)
{
    return c->own[0]->ops->resize(c->own[0], size_bytes, e);
}

int chain_set_stash(struct chain *c, struct disk_stash stash, struct errmsg *e)
{
    struct layer *leaf = c->own[0];
    return leaf->ops->set_stash ? leaf->ops->set_stash(leaf, stash, e) : 0;
}

void chain_keep_sync(struct chain *c, _Atomic bool *kept)
{
    disk_sync_keep(&c->sync, kept);
}

int chain_cache_attach(struct chain *c, struct vbd *d, const int *fds, unsigned count)
{
    for (unsigned i = 0; i < VBD_QUEUES_MAX; i++) {
        if (i >= count || fds[i] < 0) continue;
        if (c->thread[i].cache_fd >= 0) close(c->thread[i].cache_fd); /* never taken: that queue never ran */
        c->thread[i].cache_fd = fds[i];
    }
    if (c->staged) {
        stage_take_fds(c);
        layer_staged_call(c->staged, stage_call, &c->stage);
    } else {
        vbd_call_queues(d, NULL);
    }
    return 0;
}

static void thread_stats_add(struct chain_thread *t, struct chain_stats *out)
{
    if (!atomic_load(&t->open)) return;
    for (unsigned i = 0; i < t->chans.count; i++) {
        const struct cache_counters *n = cache_client_counters(t->chans.chan[i]);
        if (!n) continue;
        out->cache_hit_bytes += atomic_load_explicit(&n->hit_bytes, memory_order_relaxed);
        out->cache_fill_bytes += atomic_load_explicit(&n->fill_bytes, memory_order_relaxed);
        out->base_direct_bytes += atomic_load_explicit(&n->direct_bytes, memory_order_relaxed);
        out->zero_bytes += atomic_load_explicit(&n->zero_bytes, memory_order_relaxed);
    }
}

void chain_stats_read(struct chain *c, struct chain_stats *out)
{
    *out = (struct chain_stats){0};
    for (unsigned q = 0; q < VBD_QUEUES_MAX; q++)
        thread_stats_add(&c->thread[q], out);
    thread_stats_add(&c->stage, out);
}
