/* SPDX-License-Identifier: Apache-2.0 */
/* Between the channel (client.c) and the layer that uses it (cached.c). One thread. */
#ifndef CACHE_CLIENT_INTERNAL_H
#define CACHE_CLIENT_INTERNAL_H

#include "cache/client.h"
#include "cache/map.h"

/* A request to the service. The asker's, embedded in something of its own; the client's from ask to done. */
struct cache_ask {
    unsigned layer;
    uint64_t first_block;
    uint32_t block_count;
    /* 0, or -errno of the service or of the channel. Never called from inside cache_client_ask(). */
    void (*done)(struct cache_ask *ask, int result);

    struct list node;
    uint64_t asked_ns;
    uint32_t slot;
};

/* False: there is nobody to ask, or it does not answer. */
bool cache_client_ask(struct cache_client *c, struct cache_ask *ask);

/* One cached layer on one thread: the part that the client keeps up to date. */
struct cache_member {
    struct list node;
    struct cache_map *map; /* NULL: no memory to look at. The client's reference */
    unsigned index;
    uint64_t size_bytes;
};
void cache_client_add(struct cache_client *c, struct cache_member *m);
void cache_client_remove(struct cache_member *m); /* harmless when it was not added */

#endif
