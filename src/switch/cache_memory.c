/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the caches that is reserved at once and taken as it is used. */
#include <sys/mman.h>

#include "switch/cache_internal.h"

#define PAGE_BYTES 4096u
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Not in huge pages: a quiet port's cache is to take no more than it uses, and a busy one would wait while the kernel moves others' memory
 * to make them. */
void *cache_map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    (void)madvise(p, bytes, MADV_NOHUGEPAGE);
    return p;
}

void cache_populate(void *p, size_t bytes)
{
    uintptr_t from = (uintptr_t)p / PAGE_BYTES * PAGE_BYTES;
    (void)madvise((void *)from, (uintptr_t)p - from + bytes, MADV_POPULATE_WRITE);
}

void cache_unmap(void *p, size_t bytes)
{
    if (p) munmap(p, bytes);
}
