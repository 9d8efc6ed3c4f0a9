/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps a User-mode Linux with several vhost-user devices from losing interrupts; part of uml-xstate.so.
 *
 * UML (seen with 6.1) lets epoll_wait fill one static array with the descriptors that are ready, and runs their handlers one
 * after the other. A handler may let softirqs run (network receive does), and a signal that comes then fills the
 * same array anew: the events of the outer round that were still to be handled are lost. They are edge-triggered, so nobody
 * tells of them again, and with EVENT_IDX the device has no reason to interrupt once more: a disk read waits for ever. With a
 * disk and a card, both busy, it takes seconds to happen.
 *
 * One event at a time cannot be overwritten before it was taken: UML asks again until there is none.
 *
 * Source: Linux, arch/um/kernel/irq.c (sigio_handler) and arch/um/os-Linux/irq.c (os_waiting_for_events_epoll).
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/epoll.h>

static int (*next_epoll_wait)(int fd, struct epoll_event *events, int max, int timeout_ms);

__attribute__((constructor)) static void find_next(void)
{
    *(void **)&next_epoll_wait = dlsym(RTLD_NEXT, "epoll_wait");
    if (!next_epoll_wait) abort();
}

int epoll_wait(int fd, struct epoll_event *events, int max, int timeout_ms)
{
    return next_epoll_wait(fd, events, max > 1 ? 1 : max, timeout_ms);
}
