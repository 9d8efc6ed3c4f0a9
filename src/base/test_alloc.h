/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: an allocation that fails. What test_alloc.c has in place of the C library's functions takes effect for those that the
 * test is linked with --wrap for.
 *
 * Thread-safety: none; it counts on one thread at a time.
 */
#ifndef BASE_TEST_ALLOC_H
#define BASE_TEST_ALLOC_H

#include <stdbool.h>

extern unsigned alloc_countdown; /* to the allocation (1: the next) that fails; 0: none */
extern bool alloc_failed;        /* it did */

/* One step of the count, for other calls that a test makes fail. */
bool alloc_fails(void);

#endif
