/* SPDX-License-Identifier: Apache-2.0 */
#include "control/held.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct held_fd *held_find(const struct held *h, const char *name)
{
    for (unsigned i = 0; i < h->count; i++)
        if (strcmp(h->list[i].name, name) == 0) return &h->list[i];
    return NULL;
}

bool held_keep(struct held *h, const char *name, int fd)
{
    struct held_fd *f = held_find(h, name);
    if (f) {
        close(f->fd);
        f->fd = fd;
        f->stale = false;
        return true;
    }
    if (h->count == HELD_MAX) return false;
    if (h->count == h->room) {
        unsigned room = h->room ? h->room * 2 : 16;
        f = realloc(h->list, room * sizeof *f);
        if (!f) return false;
        h->list = f;
        h->room = room;
    }
    f = &h->list[h->count++];
    *f = (struct held_fd){.fd = fd};
    snprintf(f->name, sizeof f->name, "%s", name);
    return true;
}

bool held_drop(struct held *h, const char *name)
{
    struct held_fd *f = held_find(h, name);
    if (!f) return false;
    close(f->fd);
    *f = h->list[--h->count];
    return true;
}

void held_clear(struct held *h)
{
    while (h->count)
        close(h->list[--h->count].fd);
    free(h->list);
    *h = (struct held){0};
}
