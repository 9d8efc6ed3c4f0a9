/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test_alloc.h"

#include <stdlib.h>

/* Weak: of a function that is not wrapped there is no such name, and nobody calls ours. */
#define REAL __attribute__((weak))
REAL void *__real_malloc(size_t n);
REAL void *__real_calloc(size_t n, size_t m);
REAL void *__real_realloc(void *p, size_t n);
REAL void *__real_aligned_alloc(size_t a, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t m);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t a, size_t n);

unsigned alloc_countdown;
bool alloc_failed;

bool alloc_fails(void)
{
    if (alloc_countdown == 0 || --alloc_countdown > 0) return false;
    alloc_failed = true;
    return true;
}

void *__wrap_malloc(size_t n)
{
    return alloc_fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t m)
{
    return alloc_fails() ? NULL : __real_calloc(n, m);
}

void *__wrap_realloc(void *p, size_t n)
{
    return alloc_fails() ? NULL : __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t a, size_t n)
{
    return alloc_fails() ? NULL : __real_aligned_alloc(a, n);
}
