/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening image files and block devices: mode, alignment, and locks that other programs honour.
 *
 * Locks are open-file-description byte locks at the offsets that QEMU uses (docs/interop of QEMU, "image
 * locking": bytes 100+n say "I use permission n", 200+n "I do not share permission n"), so
 * qemu-img and qemu-storage-daemon refuse an image that a guest writes through us, and we refuse theirs.
 * A duplicate of the descriptor keeps the lock: a restarted worker still owns its leaf.
 */
#ifndef DISK_FILE_H
#define DISK_FILE_H

#include "base/errmsg.h"
#include "disk/engine/engine.h"

enum disk_file_flags {
    DISK_FILE_WRITE = 1 << 0,  /* read-write; exclusive: nobody else may write, nor write-lock */
    DISK_FILE_DIRECT = 1 << 1, /* O_DIRECT */
    DISK_FILE_NO_LOCK = 1 << 2,
    DISK_FILE_CREATE = 1 << 3, /* must not exist yet */
    /* A lock is not waited for. Otherwise it is for half a second: whoever used the image through io_uring until a moment ago has it
     * until the kernel has put the last request away. */
    DISK_FILE_NO_WAIT = 1 << 4,
};

/* Open path. On failure the message names the path, what was tried and, for a lock, who to look for.
 * out->name is `path` itself: the caller keeps it. 0 or -errno (-EAGAIN for a lock). */
int disk_file_open(struct engine_file *out, const char *path, unsigned flags, struct errmsg *e);

/* Describe a descriptor that somebody else opened (and locked). Takes fd over, on failure too. */
int disk_file_adopt(struct engine_file *out, int fd, const char *name, struct errmsg *e);

/* Open the same file once more, in the same way: what holds duplicates of the old descriptor has none of the new one. The
 * old one, with its locks, is the caller's in *old_fd. One that can be written has a writer's locks too: a process that was
 * killed may have writes on their way through it when whoever held the old one has let go of the image; nobody may
 * use that before they are over. f stays as it was on failure. 0 or -errno. */
int disk_file_reopen(struct engine_file *f, int *old_fd, struct errmsg *e);

void disk_file_close(struct engine_file *f);

/* Identity of a base layer, to see that it did not change behind our back. */
struct disk_file_identity {
    uint64_t device, inode, size_bytes;
    int64_t mtime_ns, ctime_ns;
};
int disk_file_identify(const struct engine_file *f, struct disk_file_identity *out);

#endif
