/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors through which a front end and a device tell each other of work: eventfds, pipes, sockets. The front end has
 * them as well. It may take O_NONBLOCK off them at any time and fill or empty them, so nothing here relies on either:
 * nobody ever waits for a front end.
 *
 * Thread-safety: any thread.
 */
#ifndef GUEST_NOTIFY_H
#define GUEST_NOTIFY_H

#include <stddef.h>
#include <sys/types.h>

/* What a descriptor is: S_IFSOCK, S_IFIFO, S_IFREG and so on, 0 for an eventfd and the like. -errno (as a negative kind is
 * none, in an int). Whoever serves the file system of a file is not asked. */
int guest_fd_kind(int fd);

/* Close what is not wanted. A file's close may be answered by whoever serves its file system (FUSE), and is left to a thread
 * of its own; to GUEST_DROPS_MAX at a time: further ones stay open. */
#define GUEST_DROPS_MAX 16u
void guest_fd_drop(int fd);
unsigned guest_fd_drops(void); /* how many of them are closing */

/* Signal it. What is full is not waited for: the other side has not looked at earlier signals yet. */
void guest_notify(int fd, int kind);

/* Take what was signalled, at most n (at least 8) bytes, to buf. How many, or 0 or less: nothing is there. */
ssize_t guest_notify_take(int fd, int kind, void *buf, size_t n);

#endif
