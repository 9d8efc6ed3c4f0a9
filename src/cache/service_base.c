/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Base layers of the service: an image opened read-only as a layer, and the memory made for it.
 *
 * The memfds have their final size from the start and are sealed so that it stays (a client's copy can then not
 * meet SIGBUS); no write seal, which would forbid punching holes. What clients get is opened anew read-only, and
 * the files' mode keeps other users from opening them again for writing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/service_internal.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif

/* Another description of the same file. Through a directory opened at the start: the process may have given up its
 * file system since. */
static int reopen(const struct cache_service *s, int fd, int flags)
{
    char name[16];
    snprintf(name, sizeof name, "%d", fd);
    int new_fd = openat(s->fd_dir, name, flags | O_CLOEXEC);
    return new_fd < 0 ? -errno : new_fd;
}

static int make_memfd(const char *name, uint64_t bytes)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -errno;
    if (fchmod(fd, 0600) < 0 || ftruncate(fd, (off_t)bytes) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        int code = errno;
        close(fd);
        return -code;
    }
    return fd;
}

static uint64_t data_file_bytes(const struct base_layer *b)
{
    return align_up(max_u64(b->size_bytes, 1), CACHE_CHUNK_BYTES);
}

static uint64_t words_map_bytes(const struct base_layer *b)
{
    return b->region_count * 4096;
}

static uint64_t touched_map_bytes(const struct base_layer *b)
{
    return align_up(data_file_bytes(b) >> CACHE_CHUNK_SHIFT, 4096);
}

/* A memfd, in *ro_fd (when not NULL) a read-only description of it, and in *map (when not NULL) its memory. */
static int make_shared(const struct cache_service *s, const char *name, uint64_t bytes, int *fd, int *ro_fd, void **map)
{
    *fd = make_memfd(name, bytes);
    if (*fd < 0) return *fd;
    if (ro_fd) {
        *ro_fd = reopen(s, *fd, O_RDONLY);
        if (*ro_fd < 0) return *ro_fd;
    }
    if (!map) return 0;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, *fd, 0);
    if (p == MAP_FAILED) return -errno;
    *map = p;
    return 0;
}

static int make_memory(struct base_layer *b, struct errmsg *e)
{
    const struct cache_service *s = b->service;
    void *words = NULL, *touched = NULL;
    int ret = make_shared(s, "creedence-cache-data", data_file_bytes(b), &b->data_fd, &b->data_ro_fd, NULL);
    if (ret == 0)
        ret = make_shared(s, "creedence-cache-words", words_map_bytes(b), &b->words_fd, &b->words_ro_fd, &words);
    b->words = words;
    if (ret == 0) ret = make_shared(s, "creedence-cache-touched", touched_map_bytes(b), &b->touched_fd, NULL, &touched);
    b->touched = touched;
    /* Large, and almost all of it never touched: the allocator maps it. */
    if (ret == 0 && !(b->regions = calloc(b->region_count, sizeof *b->regions))) ret = -ENOMEM;
    if (ret < 0)
        errmsg_sys(e, -ret, "%s: cannot make %llu bytes of cache memory for it", b->path,
                   (unsigned long long)b->size_bytes);
    return ret;
}

/*
 * Read without the page cache where that is allowed: what is cached here needs no second copy there. Setting
 * O_DIRECT on the descriptor itself would set it for whoever gave it to us.
 */
static int adopt_file(struct base_layer *b, struct cache_layer_want *want, struct errmsg *e)
{
    int fd = want->fd;
    want->fd = -1;
    int direct_fd = reopen(b->service, fd, O_RDONLY | O_DIRECT);
    if (direct_fd >= 0) {
        if (disk_file_adopt(&b->file, direct_fd, b->path, e) == 0) {
            close(fd);
            return 0;
        }
    }
    int ret = disk_file_adopt(&b->file, fd, b->path, e);
    /* The kernel's own read-ahead would read what ours decided not to. */
    if (ret == 0) posix_fadvise(b->file.fd, 0, 0, POSIX_FADV_RANDOM);
    return ret;
}

static int open_layer(struct base_layer *b, struct errmsg *e)
{
    const struct layer_args args = {.file = &b->file, .maker = &b->service->maker};
    service_engine_count(b, true);
    int ret = layer_open(&b->layer, b->format, &args, e);
    if (ret < 0) return ret;
    b->size_bytes = layer_size(b->layer);
    if (b->size_bytes > CACHE_BASE_SIZE_MAX)
        return errmsg_set(e, EFBIG, "%s: is %llu bytes long; the cache takes layers of up to %llu", b->path,
                          (unsigned long long)b->size_bytes, (unsigned long long)CACHE_BASE_SIZE_MAX);
    if (b->size_bytes % DISK_SECTOR_BYTES)
        return errmsg_set(e, EINVAL, "%s: its size of %llu bytes is no multiple of %u", b->path,
                          (unsigned long long)b->size_bytes, DISK_SECTOR_BYTES);
    b->block_count = div_round_up(b->size_bytes, CACHE_BLOCK_BYTES);
    b->region_count = max_u64(div_round_up(b->size_bytes, REGION_BYTES), 1);
    return 0;
}

int service_base_open(struct base_layer **out, struct cache_service *s, struct cache_layer_want *want, struct errmsg *e)
{
    struct base_layer *b = calloc(1, sizeof *b);
    if (!b || !(b->path = strdup(want->path))) {
        free(b);
        return errmsg_sys(e, ENOMEM, "%s", want->path);
    }
    b->service = s;
    b->format = want->format;
    b->file.fd = b->data_fd = b->words_fd = b->touched_fd = b->data_ro_fd = b->words_ro_fd = -1;
    list_init(&b->node);
    int ret = adopt_file(b, want, e);
    if (ret == 0) {
        ret = disk_file_identify(&b->file, &b->identity);
        if (ret < 0) errmsg_sys(e, -ret, "%s: cannot be identified", b->path);
    }
    if (ret == 0) ret = open_layer(b, e);
    if (ret == 0) ret = make_memory(b, e);
    if (ret < 0) service_base_close(b);
    else *out = b;
    return ret;
}

static void close_fd(int fd)
{
    if (fd >= 0) close(fd);
}

static void unmap(void *p, uint64_t bytes)
{
    if (p) munmap(p, bytes);
}

void service_base_close(struct base_layer *b)
{
    if (!b) return;
    assert(!b->chan);
    if (b->data_fd >= 0) {
        /* A client whose channel is gone may go on mapping it: the memory goes now, whatever it does. The
         * words were withdrawn by service_base_detach(). */
        fallocate(b->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)data_file_bytes(b));
    }
    if (b->layer) b->layer->ops->close(b->layer, NULL);
    service_engine_count(b, false);
    unmap((void *)b->words, words_map_bytes(b));
    unmap((void *)b->touched, touched_map_bytes(b));
    free(b->regions);
    close_fd(b->data_fd);
    close_fd(b->data_ro_fd);
    close_fd(b->words_fd);
    close_fd(b->words_ro_fd);
    close_fd(b->touched_fd);
    if (b->file.fd >= 0) disk_file_close(&b->file);
    free(b->path);
    free(b);
}

int service_base_attach(struct cache_service *s, struct base_layer *b)
{
    int ret = b->layer->ops->chan_open(b->layer, s->engine, NULL, &b->chan);
    if (ret < 0) return ret;
    list_push_back(&s->bases, &b->node);
    s->base_count++;
    b->idle_order = ++s->idle_clock;
    return 0;
}

void service_base_detach(struct base_layer *b)
{
    struct cache_service *s = b->service;
    assert(b->sessions == 0 && b->fetches == 0 && b->held == 0);
    service_base_forget(b);
    s->meta_bytes -= b->touched_bytes;
    b->touched_bytes = 0;
    list_remove(&b->node);
    s->base_count--;
    b->layer->ops->chan_close(b->chan);
    b->chan = NULL;
}

void service_base_break(struct base_layer *b, int error)
{
    if (b->broken) return;
    b->broken = error;
    b->stats.errors++;
    service_base_drop(b);
}

bool service_base_changed(struct base_layer *b)
{
    struct disk_file_identity now;
    if (b->broken) return true;
    if (disk_file_identify(&b->file, &now) < 0) return false;
    if (now.size_bytes == b->identity.size_bytes && now.mtime_ns == b->identity.mtime_ns) return false;
    log_error("%s: the base image was changed while in use; it is not cached any more", b->path);
    service_base_break(b, -ESTALE);
    return true;
}
