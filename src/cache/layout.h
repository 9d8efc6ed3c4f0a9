/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the read-cache service and its clients share: memory per base layer, and the messages by
 * which a client asks for what is missing.
 *
 * Per layer three memfds, all sparse:
 *
 *   data     byte N of the layer (its virtual bytes) is byte N of the memfd. Clients: read-only.
 *   words    one 32-bit word per 4 KiB block: what is known of it. Clients: read-only.
 *   touched  one byte per 64 KiB chunk: a client sets it to 1 when it used the chunk. Clients:
 *            read-write; a client that lies spoils recency, nothing else.
 *
 * A word holds a state in its low two bits and a change count above. The states:
 *
 *   ABSENT  nothing known, or evicted: ask the service
 *   DATA    the layer has this block and data[] holds it
 *   ZERO    the layer says that it reads as zeroes; data[] is not used
 *   BELOW   the layer has nothing here: look at the same offset in the layer below (zeroes when
 *           there is none, or it is shorter)
 *
 * Reading: load the word (acquire), copy the data, fence (acquire), load the word again; only when
 * both are equal and DATA was the copy good. Filling: write data[], then store the word (release).
 * Evicting: store the word ABSENT with the count advanced (release), full fence, punch the hole.
 * A reader that raced has two different words. The count wraps after 2^30 evictions of one block within
 * one copy, which cannot happen.
 *
 * ZERO and BELOW need no data and are never evicted: a layer is immutable.
 *
 * The last block of a layer whose size is no multiple of 4 KiB is filled up with zeroes.
 */
#ifndef CACHE_LAYOUT_H
#define CACHE_LAYOUT_H

#include <stdatomic.h>
#include <stdint.h>

#define CACHE_BLOCK_SHIFT 12
#define CACHE_BLOCK_BYTES (UINT64_C(1) << CACHE_BLOCK_SHIFT)
#define CACHE_CHUNK_SHIFT 16
#define CACHE_CHUNK_BYTES (UINT64_C(1) << CACHE_CHUNK_SHIFT)
#define CACHE_HUGE_SHIFT 21 /* a huge page; where whole ones may be mapped, both sides map them so */
#define CACHE_HUGE_BYTES (UINT64_C(1) << CACHE_HUGE_SHIFT)
#define CACHE_CHUNK_BLOCKS (1u << (CACHE_CHUNK_SHIFT - CACHE_BLOCK_SHIFT))

enum cache_state { CACHE_ABSENT = 0, CACHE_DATA = 1, CACHE_BELOW = 2, CACHE_ZERO = 3 };

typedef _Atomic uint32_t cache_word;

static inline enum cache_state cache_word_state(uint32_t word)
{
    return (enum cache_state)(word & 3);
}

static inline uint32_t cache_word_next(uint32_t word, enum cache_state state)
{
    return (((word >> 2) + 1) << 2) | (uint32_t)state;
}

/*
 * The channel: a SOCK_SEQPACKET pair, one per client thread. The service sends one HELLO with
 * three descriptors per layer (data, words, touched), then answers FILL requests, each with
 * one FILLED of the same cookie, in any order. Host byte order: both ends are this host.
 */
#define CACHE_PROTOCOL_VERSION 1u
#define CACHE_CHANNEL_LAYERS_MAX 63
#define CACHE_FDS_PER_LAYER 3
/* SCM_RIGHTS carries at most 253 descriptors, so 63 layers fit in one message. */

enum cache_msg_type { CACHE_MSG_HELLO = 1, CACHE_MSG_FILL = 2, CACHE_MSG_FILLED = 3 };

struct cache_hello {
    uint32_t type; /* CACHE_MSG_HELLO */
    uint32_t version;
    uint32_t layer_count;
    uint32_t reserved;
    uint64_t layer_size_bytes[CACHE_CHANNEL_LAYERS_MAX]; /* layer 0 is just below the leaf */
};

/* Make these blocks of that layer known. The service may do more (read ahead), never less. */
struct cache_fill {
    uint32_t type; /* CACHE_MSG_FILL */
    uint32_t layer;
    uint64_t cookie;
    uint64_t first_block;
    uint32_t block_count; /* 1..CACHE_FILL_MAX_BLOCKS */
    uint32_t reserved;
};
#define CACHE_FILL_MAX_BLOCKS 8192u /* 32 MiB, the largest disk request */
/* FILLs of one channel that may be unanswered at once. A client that sends more, or does not read its
 * answers, loses the channel. */
#define CACHE_CHANNEL_FILLS_MAX 128u

struct cache_filled {
    uint32_t type;  /* CACHE_MSG_FILLED */
    int32_t result; /* 0, or -errno of reading the layer */
    uint64_t cookie;
};

#endif
