/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's disk: the leaf on its own file, every layer below it through the read cache with a direct
 * way round it, and per queue thread the channels of all of them.
 *
 *     [staged]  only with --datapath=staged; then one thread has the channels of what is below, and reads the cache
 *     leaf
 *     cached(base 0) --own--> base 0 (direct)
 *     cached(base 1) --own--> base 1 (direct)
 *
 * Thread-safety: control thread; the callbacks on the queue threads.
 */
#ifndef CMD_VBD_CHAIN_H
#define CMD_VBD_CHAIN_H

#include "cmd/vbd_worker.h"

struct chain;

/* Open (or adopt) every file of the configuration, and mark those of direct I/O as ours. cache_fd: a channel per queue, taken
 * over, -1 for none. */
int chain_open_files(struct chain **out, struct worker_config *c, const int *cache_fd, uint64_t mark, struct errmsg *e);
/* Wait until nothing can land any more of what the process of this mark had on its way: before anything of its is done again.
 * Blocks. 0, -ETIMEDOUT after 20 s, or other -errno. */
int chain_wait_previous(struct chain *c, uint64_t mark, struct errmsg *e);
/* How many engines opening the layers and serving them will ask for. */
unsigned chain_engines(const struct chain *c);
/* Open the layers on them; nothing of the host's file system is needed any more. */
int chain_open_layers(struct chain *c, struct disk_stash stash, const struct engine_maker *maker, struct errmsg *e);
/* Device and its threads are gone. Makes the leaf durable, whatever was opened of it. */
int chain_close(struct chain *c, struct errmsg *e);

struct layer *chain_leaf(struct chain *c);
/* The descriptor that may be given away (the image's lock lives in it); nothing is read or written through a shared one. */
int chain_shared_fd(const struct chain *c, unsigned layer);
struct vbd_chains chain_callbacks(struct chain *c);
uint32_t chain_cluster_bytes(const struct chain *c); /* the leaf's unit of allocation, 0: none */
int chain_resize(struct chain *c, uint64_t size_bytes, struct errmsg *e);
/* Queues are stopped. */
int chain_set_stash(struct chain *c, struct disk_stash stash, struct errmsg *e);
/* Where it is kept, from now on, that a flush failed for good (disk/sync.h). Queues are stopped. */
void chain_keep_sync(struct chain *c, _Atomic bool *kept);
/* Give the queue threads of d new channels of the cache. */
int chain_cache_attach(struct chain *c, struct vbd *d, const int *fds, unsigned count);

struct chain_stats {
    uint64_t cache_hit_bytes, cache_fill_bytes, base_direct_bytes, zero_bytes;
};
void chain_stats_read(struct chain *c, struct chain_stats *out);

#endif
