/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the read-cache service. Everything here belongs to the data thread.
 *
 *   channel --FILL--> fill --> fetch (one per chunk at most) --> layer: MAP, READ into the memfd
 *                      ^                                           |
 *                      +---- FILLED <--- words published <---------+
 *
 * A `fill` is what a client asked for; it walks its range from the first block on and, where a block is not
 * known, waits for the `fetch` that is bringing it. However many fills want a chunk, one fetch works on it. A
 * `region` is 4 MiB of a layer, whose words fill one page; regions and chunks have structs only while something
 * is known of them, so a sparse layer of many TiB costs what was looked at.
 *
 * Words are published with the base's generation as change count: it goes up with each eviction of the base, so
 * a block never gets the same word for two fillings, even when its page of words went in between.
 */
#ifndef CACHE_SERVICE_INTERNAL_H
#define CACHE_SERVICE_INTERNAL_H

#include <pthread.h>
#include <semaphore.h>

#include "cache/policy.h"
#include "cache/service.h"
#include "disk/disk.h"
#include "disk/file.h"
#include "loop/mailbox.h"

#define REGION_SHIFT 22
#define REGION_BYTES (UINT64_C(1) << REGION_SHIFT)
#define REGION_BLOCKS (1u << (REGION_SHIFT - CACHE_BLOCK_SHIFT))
#define SPAN_BLOCKS (1u << (CACHE_HUGE_SHIFT - CACHE_BLOCK_SHIFT))
#define SPANS_PER_REGION (REGION_BLOCKS / SPAN_BLOCKS)
#define REGION_CHUNKS (1u << (REGION_SHIFT - CACHE_CHUNK_SHIFT))
_Static_assert(REGION_BLOCKS * sizeof(cache_word) == 4096, "a region's words are one page");
_Static_assert(CACHE_CHUNK_BLOCKS == 16, "a chunk's blocks are the bits of a uint16_t");

#define FETCHES_MAX 128u           /* under way at once */
#define FETCHES_AHEAD_MAX 48u      /* of which for nobody yet */
#define FETCH_BLOCKS_MAX 256u      /* 1 MiB: one read of storage */
#define FETCH_AHEAD_BLOCKS_MAX 64u /* ahead in smaller steps: who catches up waits for less */
#define FETCH_BYTES_MAX (FETCH_BLOCKS_MAX * CACHE_BLOCK_BYTES)
#define FETCH_COST 2u                             /* of each byte under way: in the buffer and in the cache */
#define FETCH_UNCOUNTED_BYTES (UINT64_C(4) << 20) /* may be under way when nothing can be evicted */
#define SERVICE_FDS_MAX (1u << 20)                /* above, what is read is not counted */
#define STREAMS_PER_BASE 16u
#define AHEAD_BLOCKS_MAX 256u

struct base_layer;
struct service_channel;

struct chunk {
    struct policy_item item;
    struct base_layer *base;
    uint64_t index;
    struct service_fetch *fetch; /* the one that works on this chunk, or NULL */
    uint16_t data_blocks;        /* one bit per block whose word is DATA */
    uint32_t miss_clock;         /* the base's, when a client last missed here */
};

/* What one huge page could hold. */
struct span {
    uint16_t data_blocks; /* how many of its blocks are DATA */
    uint8_t tries;        /* that failed to make it one huge page */
    bool huge;
};

struct region {
    struct list node;      /* of cache_service.empty_regions while no chunk of it has a struct */
    struct list huge_node; /* of cache_service.huge.candidates */
    struct span span[SPANS_PER_REGION];
    struct base_layer *base;
    uint64_t index;
    unsigned chunk_count;
    struct chunk *chunk[REGION_CHUNKS];
};

/* A sequential reader, as far as its misses show one. */
struct stream {
    uint64_t next_block;  /* where its next miss is expected */
    uint64_t ahead_block; /* start of what was read ahead last; next_block is its end */
    uint64_t run_blocks;  /* how far it has come */
    uint32_t miss_clock;  /* when it was last met */
};

struct base_layer {
    struct list node;
    struct cache_service *service;
    char *path;
    enum disk_format format;
    struct engine_file file;
    struct disk_file_identity identity;
    struct layer *layer;
    struct layer_chan *chan;
    uint64_t size_bytes, block_count, region_count;

    int data_fd, words_fd, touched_fd; /* read-write; the last one is also what clients get */
    int data_ro_fd, words_ro_fd;       /* what clients get */
    cache_word *words;
    _Atomic uint8_t *touched;
    struct region **regions;

    uint32_t generation;
    int broken;        /* 0, or the -errno that every further fill gets */
    unsigned sessions; /* clients */
    unsigned fetches;  /* under way */
    unsigned held;     /* by the thread "cache-huge": it must stay open */
    uint64_t fetching_bytes;
    uint64_t idle_order; /* when its last client left, on the service's count */
    bool dropping;       /* everything is to go, region by region, from drop_region on */
    uint64_t drop_region;
    bool audit_going;
    uint64_t audit_offset, audit_words_offset;
    struct stream stream[STREAMS_PER_BASE];
    uint32_t miss_clock; /* goes up with each miss */
    uint64_t cached_bytes, words_bytes, touched_bytes;
    _Atomic uint64_t storage_read_bytes, metadata_read_bytes; /* also by threads of the layer */
    struct cache_base_stats stats;                            /* without these two */
};

struct service_fetch {
    struct disk_req req;
    struct iovec iov;
    uint8_t *buffer;         /* FETCH_BYTES_MAX */
    struct base_layer *base; /* NULL when free */
    struct list waiters;     /* service_fill.wait_node */
    struct list node;        /* of the free ones */
    uint64_t first, end;     /* blocks */
    uint64_t pos;            /* the first one not dealt with */
    uint64_t step_blocks;    /* being read */
    uint64_t map_bytes;      /* how far the block at pos has been mapped, when extents end inside it */
    unsigned map_kinds;      /* one bit per enum disk_extent_kind seen in it */
    bool ahead;
    int error;
};

struct service_fill {
    struct list wait_node; /* a fetch's waiters, or the service's starved */
    struct list channel_node;
    struct service_channel *channel;
    struct base_layer *base;
    uint64_t cookie;
    uint64_t pos, end; /* blocks */
    bool waited;
};

/* What the channels of one client share. */
struct service_session {
    unsigned channels;
    unsigned layer_count;
    struct base_layer *layer[CACHE_CHANNEL_LAYERS_MAX];
};

struct service_channel {
    struct list node;
    struct cache_service *service;
    struct service_session *session;
    int fd;
    struct engine_watch watch;
    struct engine_task again; /* more messages may be there than one turn takes */
    bool again_queued;
    bool closing; /* from now on only `again` refers to it */
    unsigned fill_count;
    struct list fills;
};

/* A span to be made one huge page: with the thread "cache-huge" while base is not NULL. */
struct huge_job {
    struct mail mail;
    struct base_layer *base; /* whose `held` counts the job */
    uint64_t offset_bytes;
    bool disturbed; /* something of it was evicted meanwhile */
    int ret;
    _Atomic bool quit;
};

struct cache_service {
    pthread_t thread;
    int fd_dir; /* /proc/self/fd */
    struct engine_maker inner_maker, maker;
    _Atomic(struct base_layer *) *base_of_fd; /* SERVICE_FDS_MAX: whose file it is */
    struct engine *engine;
    struct mailbox mailbox;
    struct engine_watch mail_watch;
    bool stopping;
    int failed; /* -errno of the engine */

    struct list bases, channels;
    unsigned base_count, channel_count;
    uint64_t idle_clock;
    uint64_t channels_refused;

    struct service_fetch fetch[FETCHES_MAX];
    struct list free_fetches; /* last used first, so that few buffers are memory */
    uint8_t *buffers;
    bool buffers_used;
    unsigned fetch_count, ahead_count;
    struct list starved; /* fills that found neither a fetch nor room */
    struct engine_task starved_task;
    bool starved_queued;

    struct policy policy;
    struct list empty_regions; /* oldest first */
    uint64_t budget_bytes;
    uint64_t data_bytes;     /* in all bases; the words below too */
    uint64_t fetching_bytes; /* promised to fetches under way */
    uint64_t meta_bytes;     /* words, marks and structs */
    uint64_t region_bytes;   /* of these, what regions cost */
    struct {
        bool on, started, proven; /* wanted; the thread runs; it has worked before */
        unsigned refusals;        /* -EINVAL for no reason of ours, while not proven */
        pthread_t thread;
        sem_t wake;
        struct huge_job job;
        struct list candidates; /* region.huge_node, oldest first */
    } huge;
    struct engine_task shrink_task;
    bool shrink_queued;
    uint64_t next_tick_ns;
};

/* service.c: run fn on the data thread and wait for it. */
struct service_call {
    struct mail mail;
    struct cache_service *service;
    int (*fn)(struct cache_service *s, void *arg);
    void *arg;
    int ret;
    void *done; /* sem_t */
};
int service_call(struct cache_service *s, int (*fn)(struct cache_service *s, void *arg), void *arg);

/* service_engine.c: s->maker makes engines that count. 0 or -ENOMEM. */
int service_engine_init(struct cache_service *s, const struct engine_maker *inner);
void service_engine_count(struct base_layer *b, bool on); /* while b's file is open */

/* service_base.c. Opening and closing touch the image: control thread; attach and detach: data thread. */
int service_base_open(struct base_layer **out, struct cache_service *s, struct cache_layer_want *want,
                      struct errmsg *e);
int service_base_attach(struct cache_service *s, struct base_layer *b);
void service_base_detach(struct base_layer *b);
void service_base_close(struct base_layer *b);
/* Compare the file with what it was; true (and the base broken, empty, with a line logged) when it changed. */
bool service_base_changed(struct base_layer *b);
void service_base_break(struct base_layer *b, int error);

/* service_memory.c: words, chunks, regions, room. */
static inline uint32_t service_word(const struct base_layer *b, uint64_t block)
{
    return atomic_load_explicit(&b->words[block], memory_order_relaxed);
}
static inline bool service_known(const struct base_layer *b, uint64_t block)
{
    return cache_word_state(service_word(b, block)) != CACHE_ABSENT;
}
/* Make room for what is not counted yet; false when the budget has none. */
bool service_make_room(struct cache_service *s, uint64_t bytes);
struct chunk *service_chunk_find(const struct base_layer *b, uint64_t index);
struct chunk *service_chunk_get(struct base_layer *b, uint64_t index); /* NULL: out of memory */
void service_chunk_put(struct chunk *c);                               /* frees it when nothing is in it */
/* 0 or -ENOMEM. Blocks that are known already keep their word. The chunks of DATA blocks exist. */
int service_publish(struct base_layer *b, uint64_t first, uint64_t end, enum cache_state state);
void service_base_drop(struct base_layer *b);   /* evict all that is not being fetched, bit by bit */
void service_base_forget(struct base_layer *b); /* at once, before it is closed; no fetch is under way */
void service_shrink_soon(struct cache_service *s);
uint64_t service_used_bytes(const struct cache_service *s);
int service_memory_init(struct cache_service *s, uint64_t budget_most_bytes);
void service_memory_destroy(struct cache_service *s);

/* service_fetch.c */
int service_fetch_init(struct cache_service *s); /* 0 or -errno */
void service_fetch_destroy(struct cache_service *s);
void service_fetch_relax(struct cache_service *s); /* nothing is under way: give the buffers' memory back */
void service_fill_start(struct service_channel *c, const struct cache_fill *msg);
void service_fill_drop(struct service_fill *f); /* the channel goes: no answer */
void service_starved_wake(struct cache_service *s);

/* service_ahead.c: what to read beyond a miss of [first, end). Returns the new end of what is asked for, and
 * the range to read ahead after it (empty: none). */
struct ahead_plan {
    uint64_t first, end;             /* the miss itself, widened */
    uint64_t ahead_first, ahead_end; /* blocks */
};
void service_ahead_plan(struct base_layer *b, uint64_t first, uint64_t end, struct ahead_plan *out);
/* The fetches of the plan are started. */
void service_ahead_note(struct base_layer *b, const struct ahead_plan *plan);

/* service_huge.c */
void service_huge_start(struct cache_service *s, bool on);
void service_huge_stop(struct cache_service *s);                             /* after the data thread has ended */
void service_huge_go(struct cache_service *s);                               /* now may be a good time */
void service_huge_added(struct region *r, uint64_t block);                   /* the block is DATA now */
void service_huge_removed(struct region *r, uint64_t block, unsigned count); /* these of one span no more */

/* service_channel.c */
int service_channel_open(struct cache_service *s, struct service_session *session, int *client_fd);
void service_channel_close(struct service_channel *c);
void service_session_leave(struct cache_service *s, struct service_session *session); /* one channel less */
void service_channel_answer(struct service_channel *c, uint64_t cookie, int result);

/* service_audit.c: one look at the memory that is really there; true when there is more to look at. */
bool service_audit(struct base_layer *b);

#endif
