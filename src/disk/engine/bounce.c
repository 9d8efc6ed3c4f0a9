/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/engine/bounce.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static_assert(BOUNCE_BYTES % ENGINE_ALIGN_MAX == 0 && BOUNCE_BYTES >= 2 * ENGINE_ALIGN_MAX,
              "a slot holds a widened piece, and so makes progress at any alignment");

static int pool_fill(struct bounce_pool *pool)
{
    pool->memory = aligned_alloc(ENGINE_ALIGN_MAX, (size_t)BOUNCE_SLOTS * BOUNCE_BYTES);
    if (!pool->memory) return -ENOMEM;
    for (unsigned i = 0; i < BOUNCE_SLOTS; i++)
        pool->free[i] = (char *)pool->memory + (size_t)(BOUNCE_SLOTS - 1 - i) * BOUNCE_BYTES;
    pool->free_count = BOUNCE_SLOTS;
    return 0;
}

int bounce_take(struct bounce_pool *pool, void **slot)
{
    if (!pool->memory) {
        int ret = pool_fill(pool);
        if (ret < 0) return ret;
    }
    if (pool->free_count == 0) return -EAGAIN;
    *slot = pool->free[--pool->free_count]; /* the one used last: its pages are there already */
    return 0;
}

void bounce_give(struct bounce_pool *pool, void *slot)
{
    assert(pool->free_count < BOUNCE_SLOTS);
    pool->free[pool->free_count++] = slot;
}

bool bounce_is_idle(const struct bounce_pool *pool)
{
    return pool->memory && pool->free_count == BOUNCE_SLOTS;
}

void bounce_trim(struct bounce_pool *pool)
{
    if (!bounce_is_idle(pool)) return;
    free(pool->memory);
    pool->memory = NULL;
    pool->free_count = 0;
}
