/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xenstore: the tree of short texts in which a Xen host's toolstack, backends and guests tell each other of devices.
 *
 * Nothing above includes Xen's headers. xenstore.c is on libxenstore, xenstore_none.c stands for a build without it. The store is
 * the Unix socket at $XENSTORED_PATH (or Xen's own place), or the kernel's device.
 *
 * Calls wait for the store's answer. It is local, answers from memory, and everything on the host stands still when it does.
 *
 * A guest writes its own part of the tree: every value is copied into a buffer of the caller's, whose size is its bound, and is text
 * without control characters, or it is refused.
 *
 * Thread-safety: a connection belongs to one thread.
 */
#ifndef CONTROL_XENSTORE_H
#define CONTROL_XENSTORE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/errmsg.h"

#define XENSTORE_PATH_MAX 256u   /* of what is used here; the store's own bound is 3072 */
#define XENSTORE_VALUE_MAX 2048u /* with the final 0 */

struct xenstore;

/* 0, or -errno with the reason: -ENODEV: built without, or this is no Xen host. */
int xenstore_open(struct xenstore **out, struct errmsg *e);
void xenstore_close(struct xenstore *s);
/* False: the connection is of no use any more; open another one. */
bool xenstore_is_alive(struct xenstore *s);

/* DIR/KEY, or DIR if key is NULL. 0, -ENOENT, -EACCES; -E2BIG: longer than room; -EINVAL: not text; another -errno. */
int xenstore_read(struct xenstore *s, const char *dir, const char *key, char *out, size_t room);
/* All at one moment, and only while there is a `guard` in the directory: to write into one that is gone would bring it back.
 * -ENOENT: it is gone. */
struct xenstore_key {
    const char *key, *value;
};
int xenstore_write_keys(struct xenstore *s, const char *dir, const char *guard, const struct xenstore_key *keys,
                        unsigned count);
int xenstore_remove(struct xenstore *s, const char *dir, const char *key); /* -ENOENT: it was not there */
/* A key some levels below the directory, where others have keys, too: missing levels are made, and marked as ours; and those that
 * are so marked are removed with the last that was in them. */
int xenstore_write_deep(struct xenstore *s, const char *dir, const char *guard, const struct xenstore_key *key);
int xenstore_remove_deep(struct xenstore *s, const char *dir, const char *key);
/* Names below a directory, at most max. 0, or -errno. Every one is passed on; those too long or with a '/' are left out. */
int xenstore_list(struct xenstore *s, const char *dir, unsigned max, void (*found)(void *arg, const char *name),
                  void *arg);

/* Reads between these see the tree at one moment; nothing may be written. */
void xenstore_snapshot_begin(struct xenstore *s);
void xenstore_snapshot_end(struct xenstore *s);

/* An event comes at once, and whenever something at or below the path changes. */
int xenstore_watch(struct xenstore *s, const char *path, const char *token);
/* Events of it that are under way still come. */
void xenstore_unwatch(struct xenstore *s, const char *path, const char *token);
int xenstore_fd(struct xenstore *s); /* readable when there are events */
/* The next event. False: there is none now. Paths that are too long are cut. */
bool xenstore_event(struct xenstore *s, char path[XENSTORE_PATH_MAX], char token[XENSTORE_PATH_MAX]);

#endif
