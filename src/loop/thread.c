/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/thread.h"

#include <signal.h>
#include <stddef.h>
#include <stdio.h>

#define THREAD_STACK_BYTES (256u * 1024)

int thread_start(pthread_t *thread, const char *name, void *(*body)(void *arg), void *arg)
{
    sigset_t all, old;
    sigfillset(&all);
    /* Faults stay deliverable: a blocked SIGBUS would kill the process with no chance to say why. */
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGABRT);
    sigdelset(&all, SIGTRAP);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(CREEDENCE_SANITIZED)
    pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
#endif
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int ret = pthread_create(thread, &attr, body, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (ret) return -ret;
    char kept[16];
    snprintf(kept, sizeof kept, "%s", name);
    pthread_setname_np(*thread, kept);
    return 0;
}
