/* SPDX-License-Identifier: Apache-2.0 */
#include "pattern.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

#define SECTOR 512u
#define WRITE_BYTES (1u << 20)

void pattern_fill(void *data, uint64_t offset, size_t length)
{
    char *p = data;
    for (size_t i = 0; i + 8 <= length; i += 8) {
        uint64_t w = pattern_word(offset + i);
        memcpy(p + i, &w, sizeof w);
    }
}

static bool word_right(const char *data, uint64_t offset, size_t at)
{
    uint64_t w;
    memcpy(&w, data + at, sizeof w);
    return w == pattern_word(offset + at);
}

/* The first and last word of each `unit` bytes. */
static int64_t check_ends(const char *data, uint64_t offset, size_t length, size_t unit)
{
    for (size_t at = 0; at < length; at += unit) {
        size_t last = (length - at < unit ? length : at + unit) - 8;
        if (!word_right(data, offset, at)) return (int64_t)at;
        if (!word_right(data, offset, last)) return (int64_t)last;
    }
    return -1;
}

int64_t pattern_check(const void *data, uint64_t offset, size_t length, enum pattern_depth depth)
{
    switch (depth) {
    case PATTERN_NONE: return -1;
    case PATTERN_BLOCK: return check_ends(data, offset, length, 4096);
    case PATTERN_SECTORS: return check_ends(data, offset, length, SECTOR);
    case PATTERN_FULL: return check_ends(data, offset, length, 8);
    }
    return -1;
}

int pattern_make_file(const char *path, uint64_t size_bytes, struct errmsg *e)
{
    if (size_bytes % SECTOR) return errmsg_set(e, EINVAL, "%s: the size must be a multiple of %u", path, SECTOR);
    autoclose int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0) return errmsg_sys(e, errno, "%s", path);
    autofree char *buffer = malloc(WRITE_BYTES);
    if (!buffer) return errmsg_sys(e, ENOMEM, "%s", path);
    for (uint64_t at = 0; at < size_bytes;) {
        size_t n = size_bytes - at < WRITE_BYTES ? (size_t)(size_bytes - at) : WRITE_BYTES;
        pattern_fill(buffer, at, n);
        ssize_t written = pwrite(fd, buffer, n, (off_t)at);
        if (written <= 0)
            return errmsg_sys(e, written ? errno : EIO, "writing %s at %llu", path, (unsigned long long)at);
        at += (uint64_t)written;
    }
    return fdatasync(fd) < 0 ? errmsg_sys(e, errno, "syncing %s", path) : 0;
}
