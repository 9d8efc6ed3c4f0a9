/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LOOP_THREAD_H
#define LOOP_THREAD_H

#include <pthread.h>

/*
 * Start a thread named `name` (at most 15 bytes are kept) with a small stack and every signal
 * blocked, so that signals reach the main thread's loop only. 0 or -errno.
 */
int thread_start(pthread_t *thread, const char *name, void *(*body)(void *arg), void *arg);

#endif
