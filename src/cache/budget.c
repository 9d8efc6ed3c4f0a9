/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/budget.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "cache/service.h"
#include "loop/clock.h"

#define RESERVE_MIN_BYTES (UINT64_C(256) << 20)
#define HOLD_NS (10 * NS_PER_SECOND)
/* Some task stalled for 150 ms within 2 s: windows of 2 s are open to users without rights. */
#define PRESSURE_TRIGGER "some 150000 2000000"

/* ---- where the figures come from ---- */

/* The file from its start; -errno, or how much was read. */
static ssize_t read_text(int fd, char *text, size_t room)
{
    ssize_t n = pread(fd, text, room - 1, 0);
    if (n < 0) return -errno;
    text[n] = 0;
    return n;
}

/* A number of bytes alone in a file; UINT64_MAX for "max" and what cannot be read. */
static uint64_t read_bytes(int fd)
{
    char text[64], *end;
    if (read_text(fd, text, sizeof text) <= 0) return UINT64_MAX;
    unsigned long long v = strtoull(text, &end, 10);
    return end == text ? UINT64_MAX : v;
}

static bool meminfo_line(const char *text, const char *name, uint64_t *out)
{
    const char *at = strstr(text, name);
    if (!at) return false;
    *out = strtoull(at + strlen(name), NULL, 10) * 1024;
    return true;
}

static int open_in(const char *root, const char *group, const char *name, int flags)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s%s/%s", root, group, name) >= (int)sizeof path) return -1;
    return open(path, flags | O_CLOEXEC);
}

/* The group and its parents, as far as they have files to read. */
static void open_levels(struct cache_memory_source *s, const char *root, char *group, const char *limit,
                        const char *usage)
{
    while (s->level_count < CACHE_MEMORY_LEVELS) {
        int limit_fd = open_in(root, group, limit, O_RDONLY), usage_fd = open_in(root, group, usage, O_RDONLY);
        if (limit_fd >= 0 && usage_fd >= 0) {
            s->limit_fd[s->level_count] = limit_fd;
            s->usage_fd[s->level_count++] = usage_fd;
        } else {
            if (limit_fd >= 0) close(limit_fd);
            if (usage_fd >= 0) close(usage_fd);
        }
        char *slash = strrchr(group, '/');
        if (!slash) return;
        *slash = 0;
    }
}

static int arm_pressure(int fd)
{
    if (fd < 0) return -1;
    if (write(fd, PRESSURE_TRIGGER, sizeof PRESSURE_TRIGGER) >= 0) return fd;
    close(fd);
    return -1;
}

/* /proc/self/cgroup: "0::/group" is version 2, "N:memory:/group" version 1. */
static void open_groups(struct cache_memory_source *s)
{
    char text[4096];
    autoclose int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read_text(fd, text, sizeof text) <= 0) return;
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *group = strchr(line, '/');
        if (!group) continue;
        if (strcmp(group, "/") == 0) *group = 0;
        if (strncmp(line, "0::", 3) == 0) {
            if (*group)
                s->pressure_fd[1] =
                    arm_pressure(open_in("/sys/fs/cgroup", group, "memory.pressure", O_RDWR | O_NONBLOCK));
            open_levels(s, "/sys/fs/cgroup", group, "memory.max", "memory.current");
        } else if (strstr(line, ":memory:")) {
            open_levels(s, "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes", "memory.usage_in_bytes");
        }
    }
}

int cache_memory_open(struct cache_memory_source *s)
{
    *s = (struct cache_memory_source){.pressure_fd = {-1, -1}};
    s->meminfo_fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    if (s->meminfo_fd < 0) return -errno;
    s->pressure_fd[0] = arm_pressure(open("/proc/pressure/memory", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    open_groups(s);
    return 0;
}

void cache_memory_close(struct cache_memory_source *s)
{
    close(s->meminfo_fd);
    for (unsigned i = 0; i < s->level_count; i++) {
        close(s->limit_fd[i]);
        close(s->usage_fd[i]);
    }
    for (unsigned i = 0; i < ARRAY_LEN(s->pressure_fd); i++)
        if (s->pressure_fd[i] >= 0) close(s->pressure_fd[i]);
}

int cache_memory_read(const struct cache_memory_source *s, struct cache_memory *out)
{
    char text[4096];
    ssize_t n = read_text(s->meminfo_fd, text, sizeof text);
    if (n < 0) return (int)n;
    if (!meminfo_line(text, "MemTotal:", &out->total_bytes) ||
        !meminfo_line(text, "MemAvailable:", &out->available_bytes))
        return -EPROTO;
    out->group_left_bytes = UINT64_MAX;
    out->group_limit_bytes = UINT64_MAX;
    for (unsigned i = 0; i < s->level_count; i++) {
        uint64_t limit = read_bytes(s->limit_fd[i]), usage = read_bytes(s->usage_fd[i]);
        if (limit >= out->total_bytes || usage == UINT64_MAX) continue; /* version 1 says "no limit" by a huge one */
        uint64_t left = limit > usage ? limit - usage : 0;
        if (left >= out->group_left_bytes) continue;
        out->group_left_bytes = left;
        out->group_limit_bytes = limit;
    }
    return 0;
}

/* ---- what follows from them ---- */

static uint64_t less_reserve(uint64_t spare, uint64_t reserve)
{
    return spare > reserve ? spare - reserve : 0;
}

static uint64_t target(const struct cache_memory *m, uint64_t used_bytes)
{
    uint64_t bytes = less_reserve(m->available_bytes + used_bytes, max_u64(m->total_bytes / 8, RESERVE_MIN_BYTES));
    if (m->group_left_bytes != UINT64_MAX)
        bytes = min_u64(bytes, less_reserve(m->group_left_bytes + used_bytes, m->group_limit_bytes / 8));
    return max_u64(bytes, CACHE_BUDGET_MIN_BYTES);
}

void cache_budget_fix(struct cache_budget *b, uint64_t bytes)
{
    b->automatic = false;
    b->bytes = max_u64(bytes, CACHE_BUDGET_MIN_BYTES);
}

void cache_budget_auto(struct cache_budget *b, const struct cache_memory *m, uint64_t used_bytes)
{
    b->automatic = true;
    b->bytes = target(m, used_bytes);
}

bool cache_budget_tick(struct cache_budget *b, const struct cache_memory *m, uint64_t used_bytes, uint64_t now_ns)
{
    if (!b->automatic) return false;
    uint64_t want = target(m, used_bytes), was = b->bytes;
    if (want > was) {
        /* Small steps up are not worth telling anybody, nor is room that nobody fills. */
        if (now_ns < b->hold_until_ns || want - was < was / 64) return false;
        want = min_u64(want, was + max_u64(was / 8, CACHE_BUDGET_MIN_BYTES));
    }
    b->bytes = want;
    return want != was;
}

bool cache_budget_pressure(struct cache_budget *b, uint64_t used_bytes, uint64_t now_ns)
{
    if (!b->automatic) return false;
    uint64_t base = min_u64(b->bytes, used_bytes);
    b->hold_until_ns = now_ns + HOLD_NS;
    b->pressure_shrinks++;
    uint64_t was = b->bytes;
    b->bytes = max_u64(base - base / 8, CACHE_BUDGET_MIN_BYTES);
    return b->bytes != was;
}
