/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors kept under names for the next worker of a disk: the connection to the front end, guest memory, ring
 * notifications, the memory with the device's state.
 */
#ifndef CONTROL_HELD_H
#define CONTROL_HELD_H

#include <stdbool.h>

#include "control/link.h"

#define HELD_MAX 1024u /* of one disk; a worker's own limit is lower */

struct held_fd {
    char name[LINK_FD_NAME_MAX + 1];
    int fd;
    bool stale; /* of an earlier daemon; not confirmed yet by the worker that runs */
};

struct held {
    struct held_fd *list;
    unsigned count, room;
};

struct held_fd *held_find(const struct held *h, const char *name);
/* Keep fd, replacing what was there under that name. Takes fd over when it returns true; false: too many, or no memory. */
bool held_keep(struct held *h, const char *name, int fd);
bool held_drop(struct held *h, const char *name); /* false: there was none */
void held_clear(struct held *h);                  /* close all and release the memory */

#endif
