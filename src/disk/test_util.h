/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the tests of this folder: scratch files on a real file system (the current directory: under /tmp there may be
 * a tmpfs, which has no direct I/O of its own) and a small deterministic random generator.
 */
#ifndef DISK_TEST_UTIL_H
#define DISK_TEST_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk/file.h"

struct scratch {
    char path[64];
    char device[64]; /* of a loop device over the file; empty: none */
    struct engine_file file;
};

static inline void scratch_make(struct scratch *s, uint64_t size_bytes)
{
    strcpy(s->path, "scratch-XXXXXX");
    int fd = mkstemp(s->path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size_bytes), 0);
    close(fd);
    s->device[0] = 0;
    s->file.fd = -1;
}

static inline void scratch_open(struct scratch *s, uint64_t size_bytes, unsigned flags)
{
    struct errmsg e = {""};
    scratch_make(s, size_bytes);
    int ret = disk_file_open(&s->file, s->path, flags, &e);
    if (ret < 0) fail_msg("%s", e.text);
}

/* Programs of the host that a test works against; commands are the test's own text. */
static inline int shell(const char *command)
{
    return system(command); /* NOLINT(cert-env33-c) */
}

static inline FILE *shell_open(const char *command, const char *mode)
{
    return popen(command, mode); /* NOLINT(cert-env33-c) */
}

/* The same as a block device with this logical sector. False (and nothing is left) where there are no loop devices. */
static inline bool scratch_open_loop(struct scratch *s, uint64_t size_bytes, unsigned sector_bytes, unsigned flags)
{
    char command[160];
    struct errmsg e = {""};
    scratch_make(s, size_bytes);
    snprintf(command, sizeof command, "losetup -b %u -f --show %s 2>/dev/null", sector_bytes, s->path);
    FILE *p = geteuid() == 0 ? shell_open(command, "re") : NULL;
    if (p && !fgets(s->device, sizeof s->device, p)) s->device[0] = 0;
    s->device[strcspn(s->device, "\n")] = 0;
    if ((p && pclose(p) != 0) || !s->device[0]) {
        unlink(s->path);
        return false;
    }
    int ret = disk_file_open(&s->file, s->device, flags, &e);
    if (ret < 0) fail_msg("%s", e.text);
    return true;
}

static inline void scratch_drop(struct scratch *s)
{
    char command[128];
    disk_file_close(&s->file);
    snprintf(command, sizeof command, "losetup -d %s", s->device);
    if (s->device[0] && shell(command) != 0) fail_msg("%s", command);
    unlink(s->path);
}

static inline struct engine *new_engine(unsigned depth)
{
    struct engine *e;
    struct errmsg msg = {""};
    if (engine_uring_new(&e, depth, &msg) < 0) fail_msg("%s", msg.text);
    return e;
}

/* xorshift64*: good enough to choose test cases by. */
static inline uint64_t rnd(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

static inline uint64_t rnd_below(uint64_t *state, uint64_t limit)
{
    return rnd(state) % limit;
}

static inline void rnd_fill(uint64_t *state, void *buf, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)buf)[i] = (uint8_t)(rnd(state) >> 32);
}

#endif
