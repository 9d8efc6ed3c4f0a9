/* SPDX-License-Identifier: Apache-2.0 */
/* Release at the end of a scope, for cold paths (gcc and clang's cleanup attribute). */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free(void *slot)
{
    free(*(void **)slot);
}

static inline void cleanup_close(int *fd)
{
    if (*fd >= 0) close(*fd);
}

#define autofree __attribute__((cleanup(cleanup_free)))
#define autoclose __attribute__((cleanup(cleanup_close)))

/* Give the value away and leave nothing for the cleanup to release. */
static inline int steal_fd(int *fd)
{
    int v = *fd;
    *fd = -1;
    return v;
}

static inline void *steal_ptr(void *slot)
{
    void *v = *(void **)slot;
    *(void **)slot = NULL;
    return v;
}

#endif
