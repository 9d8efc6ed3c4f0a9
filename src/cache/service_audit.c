/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking back memory that clients made. Reading a hole of a mapped memfd allocates a page of zeroes; a client
 * does so now and then when it races with eviction, and one that means harm can do it for a whole layer. So what
 * the memfd really holds is compared with what was put there, and what nobody put there is punched again, a
 * bounded piece at a time.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/service_internal.h"

#define PUNCHES_PER_LOOK 512u
#define EXTENTS_PER_LOOK 4096u
#define PAGES_PER_LOOK 8192u

static uint64_t resident_bytes(int fd)
{
    struct stat st;
    return fstat(fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

/* Punch the blocks of [first, end) of one chunk that are not in use; returns how many punches that took. */
static unsigned audit_chunk(struct base_layer *b, uint64_t first, uint64_t end)
{
    const struct chunk *c = service_chunk_find(b, first / CACHE_CHUNK_BLOCKS);
    if (c && c->fetch) return 0;
    unsigned punches = 0;
    for (uint64_t block = first, next; block < end; block = next) {
        next = block + 1;
        if (c && c->data_blocks & 1u << block % CACHE_CHUNK_BLOCKS) continue;
        while (next < end && !(c && c->data_blocks & 1u << next % CACHE_CHUNK_BLOCKS))
            next++;
        uint64_t bytes = (next - block) << CACHE_BLOCK_SHIFT;
        if (fallocate(b->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(block << CACHE_BLOCK_SHIFT),
                      (off_t)bytes) == 0)
            b->stats.stray_bytes += bytes;
        punches++;
    }
    return punches;
}

/* Look at what is resident from audit_offset on. True when the end was not reached. */
static bool audit_data(struct base_layer *b)
{
    unsigned punches = 0;
    for (unsigned extents = 0; extents < EXTENTS_PER_LOOK && punches < PUNCHES_PER_LOOK; extents++) {
        off_t from = lseek(b->data_fd, (off_t)b->audit_offset, SEEK_DATA);
        if (from < 0) return false; /* ENXIO: nothing after it */
        off_t to = lseek(b->data_fd, from, SEEK_HOLE);
        if (to <= from) return false;
        uint64_t block = (uint64_t)from >> CACHE_BLOCK_SHIFT, end = (uint64_t)to >> CACHE_BLOCK_SHIFT;
        while (block < end && punches < PUNCHES_PER_LOOK) {
            uint64_t stop = min_u64((block / CACHE_CHUNK_BLOCKS + 1) * CACHE_CHUNK_BLOCKS, end);
            punches += audit_chunk(b, block, stop);
            block = stop;
        }
        b->audit_offset = block << CACHE_BLOCK_SHIFT;
    }
    return true;
}

/* Pages of words without a region are zeroes that a client read into being. Goes round and round. */
static void audit_words(struct base_layer *b)
{
    unsigned punches = 0;
    for (unsigned pages = 0; pages < PAGES_PER_LOOK && punches < PUNCHES_PER_LOOK; pages++) {
        off_t from = lseek(b->words_fd, (off_t)b->audit_words_offset, SEEK_DATA);
        if (from < 0) {
            b->audit_words_offset = 0;
            return;
        }
        uint64_t region = (uint64_t)from / 4096;
        b->audit_words_offset = (region + 1) * 4096;
        if (region < b->region_count && b->regions[region]) continue;
        punches++;
        if (fallocate(b->words_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, 4096) == 0)
            b->stats.stray_bytes += 4096;
    }
}

bool service_audit(struct base_layer *b)
{
    struct cache_service *s = b->service;
    uint64_t touched_bytes = resident_bytes(b->touched_fd);
    s->meta_bytes += touched_bytes - b->touched_bytes;
    b->touched_bytes = touched_bytes;
    if (resident_bytes(b->words_fd) > b->words_bytes) audit_words(b);

    if (!b->audit_going) {
        if (resident_bytes(b->data_fd) <= b->cached_bytes + b->fetching_bytes) return false;
        b->audit_going = true;
        b->audit_offset = 0;
    }
    b->audit_going = audit_data(b);
    return b->audit_going;
}
