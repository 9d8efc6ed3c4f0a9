/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Aligned buffers for the few requests whose own buffers the storage cannot reach (direct I/O wants alignment;
 * a guest may give any address). A fixed number of slots, got from the system when the first one is needed and
 * given back by bounce_trim(), so that a disk that never needs them pays nothing.
 *
 * Thread-safety: none; part of one engine.
 */
#ifndef DISK_ENGINE_BOUNCE_H
#define DISK_ENGINE_BOUNCE_H

#include <stdbool.h>

#include "disk/engine/engine.h"

#define BOUNCE_SLOTS 32u
#define BOUNCE_BYTES (128u << 10) /* of one slot; a longer request goes through it piece by piece */

struct bounce_pool {
    void *memory; /* NULL until first needed */
    unsigned free_count;
    void *free[BOUNCE_SLOTS];
};

/* 0, -EAGAIN when every slot is in use, -ENOMEM. The slot is aligned to ENGINE_ALIGN_MAX. */
int bounce_take(struct bounce_pool *pool, void **slot);
void bounce_give(struct bounce_pool *pool, void *slot);

/* There is memory to give back and nobody uses it. */
bool bounce_is_idle(const struct bounce_pool *pool);
void bounce_trim(struct bounce_pool *pool); /* does nothing unless idle */

#endif
