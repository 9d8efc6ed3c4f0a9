/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix sockets with a name in the file system.
 *
 * sun_path holds 107 bytes; state and run directories may be deeper. A longer path is reached as
 * /proc/self/fd/N/NAME through a descriptor of its directory (so NAME itself is at most 80 bytes or so).
 */
#ifndef CONTROL_UNIX_SOCKET_H
#define CONTROL_UNIX_SOCKET_H

#include <sys/types.h>

#include "base/errmsg.h"

/*
 * Listen at path, born with this mode (umask does not matter). A socket already there that nobody
 * serves any more is removed; anything else there is an error. *out is non-blocking and close-on-exec. 0 or -errno with the reason in e.
 */
int unix_socket_listen(int *out, int type, const char *path, mode_t mode, struct errmsg *e);
/* The two halves of it: the place is taken, where nobody can connect yet; and now they can. The second closes and removes nothing. */
int unix_socket_bind(int *out, int type, const char *path, mode_t mode, struct errmsg *e);
int unix_socket_begin(int fd, const char *path, struct errmsg *e);

/* Remove the name of a socket; whatever else is there stays. */
void unix_socket_remove(const char *path);

/* Connect to path without waiting: -EAGAIN when its backlog is full, -ECONNREFUSED when nobody listens. */
int unix_socket_connect(int *out, int type, const char *path, struct errmsg *e);

#endif
