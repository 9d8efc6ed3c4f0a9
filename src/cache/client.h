/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading base layers through the read cache: the client's side of cache/layout.h.
 *
 *   layer above                          one per image and process:
 *       |                                  cache_layer_open(): a layer of type "cached"
 *   cached ---hit: copy from shared memory
 *     |  \                               one per queue thread:
 *     |   `--miss: cache_client --FILL--> service
 *     |                                    struct cache_client: the channel, for all its cached layers
 *    own (the image itself, when the service is not there or cannot)
 *
 * A cached layer is always usable. Without a channel, without an answer in time, or on an error of the
 * service it reads the image itself. When the service dies what was mapped goes on being used for hits until
 * another channel is attached.
 *
 * Setting up a thread:
 *   cache_client_new(&client, engine);
 *   disk_chans_open(&chans, ...);
 *   for each channel of chans: cache_client_join(client, chan);   (does nothing for other layers)
 *   cache_client_attach(client, fd);                              (now, later, again: whenever there is one)
 * and closing: disk_chans_close(), cache_client_free().
 *
 * Thread-safety: a client and its channels belong to one thread; counters may be read from any.
 *
 * System calls, for whoever writes a sandbox: timerfd_create, timerfd_settime; recvmsg, recvfrom, sendto, read, close on
 * the channel; fstat, fcntl, mmap, munmap for the memory that comes through it.
 */
#ifndef CACHE_CLIENT_H
#define CACHE_CLIENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "disk/disk.h"

struct cache_client;

/* 0 or -errno. No channel is attached yet. */
int cache_client_new(struct cache_client **out, struct engine *e);
/* All channels that joined are closed. NULL is harmless. */
void cache_client_free(struct cache_client *c);
/* Use this channel of the service from now on; fd is taken over. What waits for the old one's answers is read
 * from the images. -1: none. 0, or -errno when the channel is useless (it is closed then, and the client goes on
 * without). */
int cache_client_attach(struct cache_client *c, int fd);
bool cache_client_connected(const struct cache_client *c);

/*
 * A layer that reads `own` (the image, opened read-only, its below being `below`) through the cache. index: which of
 * the service's layers it is, 0 being the one nearest the leaf. own and below are not taken over: they are closed
 * after it. 0 or -errno.
 */
int cache_layer_open(struct layer **out, struct layer *own, struct layer *below, unsigned index, struct errmsg *e);

/* Let this channel use the client: before its first request. Nothing happens when it is not of a cached layer. */
void cache_client_join(struct cache_client *c, struct layer_chan *chan);

struct cache_counters {
    _Atomic uint64_t hit_bytes;    /* copied at once */
    _Atomic uint64_t fill_bytes;   /* asked for, then copied */
    _Atomic uint64_t direct_bytes; /* read from the image by ourselves */
    _Atomic uint64_t zero_bytes;   /* zeroes, without reading anything */
    _Atomic uint64_t fills;        /* requests to the service */
    _Atomic uint64_t fallbacks;    /* of these, how many came to nothing */
};
/* NULL when chan is not of a cached layer. */
const struct cache_counters *cache_client_counters(const struct layer_chan *chan);

#endif
