/* SPDX-License-Identifier: Apache-2.0 */
/* xenstore in a build without Xen's libraries: there is none, so nothing else is ever called. */
#include "control/xenstore.h"

#include <errno.h>

int xenstore_open(struct xenstore **out, struct errmsg *e)
{
    return errmsg_set(e, ENODEV, "this build is without libxenstore");
}

void xenstore_close(struct xenstore *s) {}

bool xenstore_is_alive(struct xenstore *s)
{
    return false;
}

int xenstore_read(struct xenstore *s, const char *dir, const char *key, char *out, size_t room)
{
    *out = 0;
    return -ENODEV;
}

int xenstore_write_keys(struct xenstore *s, const char *dir, const char *guard, const struct xenstore_key *keys,
                        unsigned count)
{
    return -ENODEV;
}

int xenstore_remove(struct xenstore *s, const char *dir, const char *key)
{
    return -ENODEV;
}

int xenstore_write_deep(struct xenstore *s, const char *dir, const char *guard, const struct xenstore_key *key)
{
    return -ENODEV;
}

int xenstore_remove_deep(struct xenstore *s, const char *dir, const char *key)
{
    return -ENODEV;
}

int xenstore_list(struct xenstore *s, const char *dir, unsigned max, void (*found)(void *arg, const char *name),
                  void *arg)
{
    return -ENODEV;
}

void xenstore_snapshot_begin(struct xenstore *s) {}

void xenstore_snapshot_end(struct xenstore *s) {}

int xenstore_watch(struct xenstore *s, const char *path, const char *token)
{
    return -ENODEV;
}

void xenstore_unwatch(struct xenstore *s, const char *path, const char *token) {}

int xenstore_fd(struct xenstore *s)
{
    return -1;
}

bool xenstore_event(struct xenstore *s, char path[XENSTORE_PATH_MAX], char token[XENSTORE_PATH_MAX])
{
    return false;
}
