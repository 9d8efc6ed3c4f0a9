/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How large the read cache may be: a number of bytes, or `auto`: what the host does not need for anything else.
 *
 * auto: what is available (the kernel's MemAvailable, which does not count the cache's own memory) and what the
 * cache has already, less a reserve of an eighth of all memory; the same within the control groups that the
 * service is in. It follows down at once, and up by an eighth a look. When tasks stall for memory (PSI) an eighth of what
 * is cached goes at once, whatever the figures say, and it does not grow again for a while.
 *
 * Thread-safety: none; the control thread.
 */
#ifndef CACHE_BUDGET_H
#define CACHE_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#define CACHE_MEMORY_LEVELS 8u /* control groups looked at: the own one and its parents */

/* Where the figures come from. Opened before the file system is given up. */
struct cache_memory_source {
    int meminfo_fd;
    unsigned level_count;
    int limit_fd[CACHE_MEMORY_LEVELS], usage_fd[CACHE_MEMORY_LEVELS];
    int pressure_fd[2]; /* of the host and of the control group: readable by priority (EPOLLPRI); -1: none */
};

struct cache_memory {
    uint64_t total_bytes, available_bytes;
    uint64_t group_left_bytes;  /* the least that any control group leaves; UINT64_MAX: no limit */
    uint64_t group_limit_bytes; /* of that one */
};

/* Fails only when /proc/meminfo cannot be read. 0 or -errno. */
int cache_memory_open(struct cache_memory_source *s);
void cache_memory_close(struct cache_memory_source *s);
int cache_memory_read(const struct cache_memory_source *s, struct cache_memory *out);

struct cache_budget {
    bool automatic;
    uint64_t bytes;         /* now */
    uint64_t hold_until_ns; /* no growth before */
    uint64_t pressure_shrinks;
};

void cache_budget_fix(struct cache_budget *b, uint64_t bytes);
/* used_bytes: what the cache has now. */
void cache_budget_auto(struct cache_budget *b, const struct cache_memory *m, uint64_t used_bytes);
/* Look again; true when bytes changed. */
bool cache_budget_tick(struct cache_budget *b, const struct cache_memory *m, uint64_t used_bytes, uint64_t now_ns);
/* Tasks stall for memory; true when bytes changed. Nothing happens to a fixed budget. */
bool cache_budget_pressure(struct cache_budget *b, uint64_t used_bytes, uint64_t now_ns);

#endif
