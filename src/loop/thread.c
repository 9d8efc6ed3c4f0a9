/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/thread.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define THREAD_STACK_BYTES (256u * 1024)

struct start {
    void *(*body)(void *arg);
    void *arg;
    char name[16];
};

/* It names itself: naming another one takes a file below /proc, which a sandbox does not have. */
static void *named_body(void *arg)
{
    struct start s = *(struct start *)arg;
    free(arg);
    pthread_setname_np(pthread_self(), s.name);
    return s.body(s.arg);
}

int thread_start(pthread_t *thread, const char *name, void *(*body)(void *arg), void *arg)
{
    sigset_t all, old;
    struct start *start = malloc(sizeof *start);
    if (!start) return -ENOMEM;
    start->body = body;
    start->arg = arg;
    snprintf(start->name, sizeof start->name, "%s", name);
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
    int ret = pthread_create(thread, &attr, named_body, start);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (ret) free(start);
    return -ret;
}
