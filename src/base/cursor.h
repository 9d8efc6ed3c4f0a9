/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cursor over bytes that somebody else wrote: headers of images, messages, packets. Pulling
 * more than is left returns NULL (or false) and moves nothing, so a parser may pull in a row and
 * test once. The bytes must be a private copy: nothing else may change them while they are read.
 */
#ifndef BASE_CURSOR_H
#define BASE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/endian.h"

struct cursor {
    const uint8_t *at;
    size_t left_bytes;
};

static inline struct cursor cursor_over(const void *data, size_t len_bytes)
{
    return (struct cursor){.at = data, .left_bytes = len_bytes};
}

/* The next n bytes, or NULL when fewer are left. */
static inline const void *cursor_pull(struct cursor *c, size_t n_bytes)
{
    if (n_bytes > c->left_bytes) return NULL;
    const uint8_t *p = c->at;
    c->at += n_bytes;
    c->left_bytes -= n_bytes;
    return p;
}

#define CURSOR_DEFINE(order, bits)                                                                                     \
    static inline bool cursor_##order##bits(struct cursor *c, uint##bits##_t *out)                                     \
    {                                                                                                                  \
        const struct order##bits *p = cursor_pull(c, sizeof *p);                                                       \
        if (!p) return false;                                                                                          \
        *out = order##bits##_get(*p);                                                                                  \
        return true;                                                                                                   \
    }

CURSOR_DEFINE(be, 16)
CURSOR_DEFINE(be, 32)
CURSOR_DEFINE(be, 64)
CURSOR_DEFINE(le, 16)
CURSOR_DEFINE(le, 32)
CURSOR_DEFINE(le, 64)

#endif
