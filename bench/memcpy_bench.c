/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memcpy-bench: how often a second one core of this machine copies BLOCK bytes from random places of an area of
 * SIZE bytes (a memfd, as a cached base layer is) into a small set of buffers (as a guest's are). The ceiling of
 * any cache whose hit is one copy; measured in the same run as what is held against it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

enum { BUFFERS = 64, BATCH = 256 };

static char *area_map(uint64_t bytes, int prot, int fd)
{
    void *p = mmap(NULL, bytes, prot, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Copies a second. */
static double measure(const char *area, uint64_t area_bytes, char *buffers, uint64_t block_bytes, bool random,
                      double seconds)
{
    uint64_t rng = 7, blocks = area_bytes / block_bytes, n = 0, cursor = 0;
    uint64_t start_ns = bench_now_ns(), end_ns = start_ns + (uint64_t)(seconds * 1e9), now_ns;
    do {
        for (unsigned i = 0; i < BATCH; i++, n++) {
            uint64_t block = random ? bench_random_below(&rng, blocks) : cursor++ % blocks;
            memcpy(buffers + n % BUFFERS * block_bytes, area + block * block_bytes, block_bytes);
            __asm__ volatile("" ::: "memory");
        }
        now_ns = bench_now_ns();
    } while (now_ns < end_ns);
    return (double)n / ((double)(now_ns - start_ns) / 1e9);
}

/* Touch every page, so that none is mapped for the first time while measured. */
static void warm(const char *area, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += 4096) {
        (void)*(const volatile char *)(area + at);
    }
}

int main(int argc, char **argv)
{
    if (argc != 5 || (strcmp(argv[3], "random") != 0 && strcmp(argv[3], "sequential") != 0)) {
        fprintf(stderr, "usage: memcpy-bench AREA-BYTES BLOCK-BYTES random|sequential SECONDS\n");
        return 2;
    }
    uint64_t area_bytes = strtoull(argv[1], NULL, 10), block_bytes = strtoull(argv[2], NULL, 10);
    double seconds = strtod(argv[4], NULL);
    int fd = memfd_create("area", MFD_CLOEXEC);
    if (block_bytes == 0 || area_bytes < block_bytes || fd < 0 || ftruncate(fd, (off_t)area_bytes) < 0) {
        fprintf(stderr, "memcpy-bench: an area of %s bytes in blocks of %s: %s\n", argv[1], argv[2], strerror(errno));
        return 2;
    }
    char *writable = area_map(area_bytes, PROT_READ | PROT_WRITE, fd);
    char *area = area_map(area_bytes, PROT_READ, fd);
    char *buffers = malloc(BUFFERS * block_bytes);
    if (!writable || !area || !buffers) {
        fprintf(stderr, "memcpy-bench: no memory for %s bytes\n", argv[1]);
        return 2;
    }
    memset(writable, 0x5a, area_bytes);
    memset(buffers, 0, BUFFERS * block_bytes);
    munmap(writable, area_bytes);
    warm(area, area_bytes);
    bool random = strcmp(argv[3], "random") == 0;
    measure(area, area_bytes, buffers, block_bytes, random, seconds / 4);
    double rate = measure(area, area_bytes, buffers, block_bytes, random, seconds);
    printf("{\"area_bytes\":%llu,\"block_bytes\":%llu,\"random\":%s,\"copies_per_s\":%.0f,\"bytes_per_s\":%.0f}\n",
           (unsigned long long)area_bytes, (unsigned long long)block_bytes, random ? "true" : "false", rate,
           rate * (double)block_bytes);
    free(buffers);
    munmap(area, area_bytes);
    close(fd);
    return 0;
}
