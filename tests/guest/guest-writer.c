/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs inside a guest and loads one disk with writes that it can check: guest-writer DEVICE SECONDS [THREADS [BYTES]]
 *
 * Each thread owns an equal part of the first BYTES of the device (default: all of it) and remembers, for every 4 KiB block, the
 * number of the last write. A block says which block it is and which write it came from, in every 8 bytes. So a lost write, one
 * done twice (an older one over a newer), a torn one, or one in the wrong place shows up as a difference, at the
 * next read of that block or in the final pass over all of them.
 *
 * SIGTERM ends it early, with the final pass. One line a second says how far it got, so that whoever watches the
 * console sees whether the disk lives. The last line starts with "writer: ok" or "writer: FAILED"; the exit status says
 * the same.
 *
 * Statically linked: the initial RAM disk has no C library.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BLOCK_BYTES 4096u
#define BLOCKS_PER_REQUEST_MAX 32u
#define THREADS_MAX 32
#define UNKNOWN UINT32_MAX /* what was there before us */

enum { ZEROES = 0 }; /* the number of a "write" that left zeroes */

struct worker {
    pthread_t thread;
    int fd;
    unsigned index;
    uint64_t first_block, block_count;
    uint32_t *last; /* per block: the number of the last write, ZEROES, or UNKNOWN */
    uint32_t number;
    uint64_t random;
    uint64_t *buffer;
};

static atomic_ulong writes, reads, syncs, zeroings;
static atomic_bool stop, failed;

static uint64_t next_random(struct worker *w)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random;
}

/* What every 8 bytes of a block hold: the block, the write, and where in the block they are. */
static uint64_t stamp(uint64_t block, uint32_t number, unsigned word)
{
    return (block << 40) ^ ((uint64_t)number << 9) ^ word;
}

static void fail(const struct worker *w, const char *what, uint64_t block)
{
    if (!atomic_exchange(&failed, true))
        printf("writer: FAILED: thread %u, block %llu: %s\n", w->index, (unsigned long long)block, what);
    fflush(stdout);
}

static void fill(uint64_t *at, uint64_t block, uint32_t number)
{
    for (unsigned i = 0; i < BLOCK_BYTES / 8; i++)
        at[i] = stamp(block, number, i);
}

static bool same(const uint64_t *at, uint64_t block, uint32_t number, char *why, size_t room)
{
    for (unsigned i = 0; i < BLOCK_BYTES / 8; i++) {
        uint64_t want = number == ZEROES ? 0 : stamp(block, number, i);
        if (at[i] == want) continue;
        snprintf(why, room, "byte %u holds %016llx (write %llu), expected %016llx (write %u)", i * 8,
                 (unsigned long long)at[i], (unsigned long long)((at[i] >> 9) & UINT32_MAX), (unsigned long long)want,
                 number);
        return false;
    }
    return true;
}

static bool check(struct worker *w, uint64_t block, unsigned count)
{
    ssize_t n = pread(w->fd, w->buffer, (size_t)count * BLOCK_BYTES, (off_t)(block * BLOCK_BYTES));
    if (n != (ssize_t)((size_t)count * BLOCK_BYTES)) {
        fail(w, n < 0 ? strerror(errno) : "short read", block);
        return false;
    }
    for (unsigned i = 0; i < count; i++) {
        uint32_t number = w->last[block + i - w->first_block];
        char why[160];
        if (number == UNKNOWN || same(w->buffer + (size_t)i * BLOCK_BYTES / 8, block + i, number, why, sizeof why))
            continue;
        fail(w, why, block + i);
        return false;
    }
    atomic_fetch_add(&reads, 1);
    return true;
}

static void do_write(struct worker *w, uint64_t block, unsigned count)
{
    uint32_t number = ++w->number;
    for (unsigned i = 0; i < count; i++) {
        fill(w->buffer + (size_t)i * BLOCK_BYTES / 8, block + i, number);
        w->last[block + i - w->first_block] = number;
    }
    ssize_t n = pwrite(w->fd, w->buffer, (size_t)count * BLOCK_BYTES, (off_t)(block * BLOCK_BYTES));
    if (n != (ssize_t)((size_t)count * BLOCK_BYTES)) fail(w, n < 0 ? strerror(errno) : "short write", block);
    atomic_fetch_add(&writes, 1);
}

static void do_zero(struct worker *w, uint64_t block, unsigned count)
{
    uint64_t range[2] = {block * BLOCK_BYTES, (uint64_t)count * BLOCK_BYTES};
    if (ioctl(w->fd, BLKZEROOUT, range) < 0) fail(w, strerror(errno), block);
    for (unsigned i = 0; i < count; i++)
        w->last[block + i - w->first_block] = ZEROES;
    atomic_fetch_add(&zeroings, 1);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    while (!atomic_load(&stop) && !atomic_load(&failed)) {
        unsigned kind = (unsigned)(next_random(w) % 100);
        unsigned count = 1 + (unsigned)(next_random(w) % BLOCKS_PER_REQUEST_MAX);
        uint64_t block = w->first_block + next_random(w) % (w->block_count - count + 1);
        if (kind < 60) {
            do_write(w, block, count);
        } else if (kind < 92) {
            check(w, block, count);
        } else if (kind < 96) {
            do_zero(w, block, count);
        } else {
            if (fdatasync(w->fd) < 0) fail(w, strerror(errno), 0);
            atomic_fetch_add(&syncs, 1);
        }
    }
    for (uint64_t b = 0; b < w->block_count && !atomic_load(&failed); b += BLOCKS_PER_REQUEST_MAX) {
        uint64_t left = w->block_count - b;
        check(w, w->first_block + b, left < BLOCKS_PER_REQUEST_MAX ? (unsigned)left : BLOCKS_PER_REQUEST_MAX);
    }
    return NULL;
}

static bool prepare(struct worker *w, unsigned index, const char *device, uint64_t first, uint64_t count)
{
    *w = (struct worker){.index = index, .first_block = first, .block_count = count};
    w->random = 88172645463325252u + index * 7919u;
    w->fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
    w->last = malloc(count * sizeof *w->last);
    w->buffer = aligned_alloc(BLOCK_BYTES, (size_t)BLOCKS_PER_REQUEST_MAX * BLOCK_BYTES);
    if (w->fd < 0 || !w->last || !w->buffer) return false;
    memset(w->last, 0xff, count * sizeof *w->last);
    return true;
}

static void say(const char *what)
{
    printf("writer: %s %lu writes %lu reads %lu zeroings %lu syncs\n", what, atomic_load(&writes), atomic_load(&reads),
           atomic_load(&zeroings), atomic_load(&syncs));
    fflush(stdout);
}

static uint64_t device_blocks(const char *device, uint64_t most_bytes)
{
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    uint64_t size_bytes = 0;
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size_bytes) < 0) {
        printf("writer: FAILED: %s: %s\n", device, strerror(errno));
        exit(1);
    }
    close(fd);
    return (most_bytes && most_bytes < size_bytes ? most_bytes : size_bytes) / BLOCK_BYTES;
}

static void end_early(int signal)
{
    (void)signal;
    atomic_store(&stop, true); /* and sleep(3) returns */
}

int main(int argc, char **argv)
{
    unsigned seconds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0,
             count = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 8;
    if (argc < 3 || argc > 5 || count == 0 || count > THREADS_MAX) {
        fprintf(stderr, "usage: guest-writer DEVICE SECONDS [THREADS [BYTES]]\n");
        return 2;
    }
    uint64_t share = device_blocks(argv[1], argc > 4 ? strtoull(argv[4], NULL, 10) : 0) / count;
    if (share < BLOCKS_PER_REQUEST_MAX) {
        printf("writer: FAILED: %s is too small for %u threads\n", argv[1], count);
        return 1;
    }
    signal(SIGTERM, end_early);
    static struct worker workers[THREADS_MAX];
    for (unsigned i = 0; i < count; i++) {
        if (!prepare(&workers[i], i, argv[1], i * share, share) ||
            pthread_create(&workers[i].thread, NULL, work, &workers[i])) {
            printf("writer: FAILED: cannot start: %s\n", strerror(errno));
            return 1;
        }
    }
    for (unsigned s = 0; s < seconds && !atomic_load(&stop) && !atomic_load(&failed); s++) {
        sleep(1);
        say("did");
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < count; i++)
        pthread_join(workers[i].thread, NULL);
    if (atomic_load(&failed)) return 1;
    say("ok:");
    return 0;
}
