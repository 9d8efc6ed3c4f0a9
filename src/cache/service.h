/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The read-cache service: the one process of a host that reads base layers from storage, keeps what it read in
 * memory that its clients map, and throws out what is least worth keeping. What it shares with a client
 * is cache/layout.h.
 *
 *   control thread (cmd/)                      data thread (this folder)
 *   open an image, ask for channels  --mail--> bases, fetches, channels, eviction: everything
 *   set the budget, ask for figures  <-------  in one thread over one engine, no lock
 *
 * A `base` is one layer in one format of one file (device and inode), shared by all who descend from it. It
 * stays when its last client leaves, until its memory is wanted or the file changes.
 *
 * Thread-safety: every function here from one control thread. They wait for the data thread, which does not
 * wait for storage.
 */
#ifndef CACHE_SERVICE_H
#define CACHE_SERVICE_H

#include <stdint.h>

#include "base/errmsg.h"
#include "cache/layout.h"
#include "disk/disk.h"

struct cache_service;

#define CACHE_BUDGET_MIN_BYTES (UINT64_C(16) << 20)
#define CACHE_BASES_MAX 4096    /* layers known at once */
#define CACHE_BASES_IDLE_MAX 64 /* of which nobody uses */
#define CACHE_CHANNELS_MAX 65536
#define CACHE_SESSION_CHANNELS_MAX 64 /* of one cache_service_connect() */
/* Largest layer: a client maps it whole, of the 128 TiB that a process can address. */
#define CACHE_BASE_SIZE_MAX (UINT64_C(64) << 40)

struct cache_service_config {
    uint64_t budget_bytes;
    uint64_t budget_most_bytes;       /* what the budget may ever be set to: sizes the eviction's memory */
    const struct engine_maker *maker; /* the data thread's engine, and its layers'. NULL: io_uring */
    bool small_pages;                 /* make no huge pages of what is cached */
    int fd_dir;                       /* /proc/self/fd, when it cannot be opened any more; taken over. 0: open it */
};

/* Starts the data thread. 0 or -errno. */
int cache_service_start(struct cache_service **out, const struct cache_service_config *config, struct errmsg *e);
/* 0, or the -errno of an engine that is broken for good: clients were let go, the process should end. */
int cache_service_failed(struct cache_service *s);
/* Ends the data thread, closes every channel and base. NULL is harmless. */
void cache_service_stop(struct cache_service *s);

/* A layer that somebody wants to read through the cache. */
struct cache_layer_want {
    int fd;           /* of the image, readable; taken over, on failure too, and set to -1 */
    const char *path; /* for messages and figures */
    enum disk_format format;
};

/*
 * One client: `channel_count` channels that all see the layers `wants` (nearest the leaf first). channel_fds
 * receives the client's ends, close-on-exec, HELLO queued in each. 0 or -errno with the reason, which
 * names the layer; then nothing was opened.
 */
int cache_service_connect(struct cache_service *s, struct cache_layer_want *wants, unsigned want_count,
                          int *channel_fds, unsigned channel_count, struct errmsg *e);

/* Shrinking takes effect gradually, in the data thread. Less than the minimum is raised to it. */
void cache_service_set_budget(struct cache_service *s, uint64_t budget_bytes);
/* Evict everything, of the layers with this path only when it is not NULL. Returns how many layers. */
unsigned cache_service_drop(struct cache_service *s, const char *path);
/* Let go of idle layers whose file changed or was removed, and of the oldest when there are too many. To be
 * called every few seconds. */
void cache_service_tidy(struct cache_service *s);

struct cache_base_stats {
    char *path;
    enum disk_format format;
    uint64_t size_bytes;
    uint64_t cached_bytes;        /* data in memory now */
    uint64_t huge_bytes;          /* of these, in huge pages */
    uint64_t storage_read_bytes;  /* read from the file, tables included */
    uint64_t metadata_read_bytes; /* of these, what did not go straight into the cache */
    uint64_t filled_bytes;        /* data made present */
    uint64_t fills;               /* requests of clients */
    uint64_t coalesced;           /* of these, how many waited for a read that another one began */
    uint64_t readahead_bytes;
    uint64_t evicted_bytes;
    uint64_t errors;
    uint64_t stray_bytes; /* memory that clients made by reading holes, taken back */
    unsigned clients;
};

struct cache_service_stats {
    uint64_t budget_bytes;
    uint64_t used_bytes;       /* data, words, marks and bookkeeping */
    uint64_t channels_refused; /* closed because of what the client did */
    unsigned channels;
    unsigned base_count;
    struct cache_base_stats *bases;
};
/* 0 or -ENOMEM. Free with cache_service_stats_clear(). */
int cache_service_stats(struct cache_service *s, struct cache_service_stats *out);
void cache_service_stats_clear(struct cache_service_stats *stats);

#endif
