/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client's mappings of the service's memory: one per layer and process, whichever thread's channel brought
 * the descriptors. The same layer is known by its memfds' inodes.
 *
 * Thread-safety: all functions from any thread. The memory changes under the reader: cache/layout.h.
 */
#ifndef CACHE_MAP_H
#define CACHE_MAP_H

#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "cache/layout.h"

struct cache_map {
    const uint8_t *data;
    const cache_word *words;
    _Atomic uint8_t *touched;
    uint64_t size_bytes; /* of the layer */

    struct list node;
    unsigned refs;
    ino_t inode[CACHE_FDS_PER_LAYER];
    uint64_t map_bytes[CACHE_FDS_PER_LAYER];
};

/* fds: data, words, touched; they stay the caller's. 0, or -errno: -EPROTO when the memory is too short for the
 * layer or might become so (no seal). */
int cache_map_get(struct cache_map **out, uint64_t size_bytes, const int *fds);
void cache_map_put(struct cache_map *m); /* NULL is harmless */

#endif
