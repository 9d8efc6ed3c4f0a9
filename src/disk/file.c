/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image files: opening, what direct I/O asks of buffers, and locks.
 *
 * Locking (QEMU's scheme: qemu-storage-daemon(1), "locking", and the comments on permissions in its manual). A
 * program that uses a permission n on an image holds a shared lock on byte 100 + n; one that does not want others to
 * use it holds a shared lock on byte 200 + n. Whoever opens takes its own locks first and then looks whether
 * somebody else holds an opposite one. Shared locks never wait for each other, so nobody can be kept waiting; two that open
 * at the same moment may both be refused.
 *
 * Alignment: the kernel says (statx, STATX_DIOALIGN, Linux 6.1) except on file systems that do not tell; then it is
 * found out by reading.
 */
#include "disk/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"

/* ---- Locks ---- */

#define LOCK_USED 100    /* + permission: I use it */
#define LOCK_REFUSED 200 /* + permission: others shall not */

enum permission {
    PERM_CONSISTENT_READ = 0,
    PERM_WRITE = 1,
    PERM_WRITE_UNCHANGED = 2, /* rewriting the same content, as a copy in the background does */
    PERM_RESIZE = 3,
    PERM_COUNT
};

static const char *const permission_verbs[] = {
    [PERM_CONSISTENT_READ] = "read",
    [PERM_WRITE] = "write",
    [PERM_WRITE_UNCHANGED] = "rewrite",
    [PERM_RESIZE] = "resize",
};
static_assert(ARRAY_LEN(permission_verbs) == PERM_COUNT, "every permission has a verb");

#define READER_USES (1u << PERM_CONSISTENT_READ)
#define WRITER_USES (1u << PERM_CONSISTENT_READ | 1u << PERM_WRITE | 1u << PERM_RESIZE)
#define BOTH_REFUSE (1u << PERM_WRITE | 1u << PERM_RESIZE)

#define LOCK_TRIES 25u
#define LOCK_WAIT_US 20000u

static int lock_byte(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

/* Does somebody else hold a lock, even a shared one, on the byte? 1, 0 or -errno. */
static int byte_is_locked(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0) return -errno;
    return lock.l_type != F_UNLCK;
}

static int take_locks(int fd, unsigned uses, unsigned refuses)
{
    for (int perm = 0; perm < PERM_COUNT; perm++) {
        int ret = uses & 1u << perm ? lock_byte(fd, LOCK_USED + perm) : 0;
        if (ret == 0 && refuses & 1u << perm) ret = lock_byte(fd, LOCK_REFUSED + perm);
        if (ret < 0) return ret;
    }
    return 0;
}

static int check_one(int fd, const char *path, enum permission perm, bool we_use, struct errmsg *e)
{
    off_t byte = (we_use ? LOCK_REFUSED : LOCK_USED) + perm;
    int held = byte_is_locked(fd, byte);
    if (held < 0) return errmsg_sys(e, -held, "%s: cannot look at its locks", path);
    if (!held) return 0;
    return errmsg_set(
        e, EAGAIN,
        "%s: in use by another program, which %s %s it (lock on byte %d; `lslocks` or `fuser -v %s` shows who)", path,
        we_use ? "does not let others" : "may", permission_verbs[perm], (int)byte, path);
}

static int lock_image(int fd, const char *path, bool writable, struct errmsg *e)
{
    unsigned uses = writable ? WRITER_USES : READER_USES;
    int ret = take_locks(fd, uses, BOTH_REFUSE);
    if (ret == -EAGAIN || ret == -EACCES)
        return errmsg_set(e, EAGAIN, "%s: in use: another program holds an exclusive lock (`lslocks` shows who)", path);
    if (ret < 0) return errmsg_sys(e, -ret, "%s: cannot lock it", path);
    for (enum permission perm = 0; perm < PERM_COUNT; perm++) {
        if (uses & 1u << perm) ret = check_one(fd, path, perm, true, e);
        if (ret == 0 && BOTH_REFUSE & 1u << perm) ret = check_one(fd, path, perm, false, e);
        if (ret < 0) return ret;
    }
    return 0;
}

/* ---- Alignment ---- */

/* 0: no answer. */
static int ask_alignment(struct engine_file *f)
{
    struct statx stx;
    memset(&stx, 0, sizeof stx);
    if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) < 0 || !(stx.stx_mask & STATX_DIOALIGN)) return 0;
    if (stx.stx_dio_mem_align == 0 || stx.stx_dio_offset_align == 0) return -EOPNOTSUPP;
    f->mem_align = stx.stx_dio_mem_align;
    f->io_align = stx.stx_dio_offset_align;
    return 1;
}

/* Read from where there is data (over a hole, file systems check nothing) with ever larger alignment: what works at
 * one size works at every larger one. A file without data answers nothing; then the unit of nearly all storage is taken. */
static int probe_alignment(struct engine_file *f)
{
    autofree char *buffer = aligned_alloc(ENGINE_ALIGN_MAX, 2 * ENGINE_ALIGN_MAX);
    if (!buffer) return -ENOMEM;
    f->mem_align = f->io_align = 4096;
    off_t data = lseek(f->fd, 0, SEEK_DATA);
    if (data < 0) return 0;
    for (uint32_t align = 512; align <= ENGINE_ALIGN_MAX; align *= 2) {
        /* The address is a multiple of this size and of no larger one. */
        if (pread(f->fd, buffer + align % ENGINE_ALIGN_MAX, align, data) >= 0) {
            f->mem_align = f->io_align = align;
            return 0;
        }
        if (errno != EINVAL) return -errno;
    }
    return -EOPNOTSUPP;
}

static int find_alignment(struct engine_file *f, struct errmsg *e)
{
    f->mem_align = f->io_align = 1;
    if (!f->direct) return 0;
    int ret = ask_alignment(f);
    if (ret == 0) {
        int sector = 0;
        if (f->block_device && ioctl(f->fd, BLKSSZGET, &sector) == 0 && sector > 0)
            f->mem_align = f->io_align = (uint32_t)sector;
        else ret = probe_alignment(f);
    }
    if (ret == -EOPNOTSUPP)
        return errmsg_set(e, EOPNOTSUPP, "%s: its file system has no direct I/O: open it buffered", f->name);
    if (ret < 0) return errmsg_sys(e, -ret, "%s: cannot find out how direct I/O must be aligned", f->name);
    if (!is_power_of_2(f->mem_align) || !is_power_of_2(f->io_align) ||
        max_u64(f->mem_align, f->io_align) > ENGINE_ALIGN_MAX)
        return errmsg_set(
            e, EOPNOTSUPP,
            "%s: direct I/O aligned to %u (memory) and %u bytes (offset): powers of two up to %u are expected", f->name,
            f->mem_align, f->io_align, ENGINE_ALIGN_MAX);
    return 0;
}

/* ---- Opening ---- */

static int find_size(struct engine_file *f, const struct stat *st, struct errmsg *e)
{
    if (S_ISREG(st->st_mode)) {
        f->size_bytes = (uint64_t)st->st_size;
        return 0;
    }
    if (!S_ISBLK(st->st_mode))
        return errmsg_set(e, EINVAL, "%s: a regular file or a block device is expected", f->name);
    f->block_device = true;
    if (ioctl(f->fd, BLKGETSIZE64, &f->size_bytes) < 0)
        return errmsg_sys(e, errno, "%s: cannot read the size of the device", f->name);
    return 0;
}

static bool is_in_memory(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

/* Fill everything in from the descriptor, which stays the caller's when this fails. */
static int describe(struct engine_file *out, int fd, const char *name, struct errmsg *e)
{
    *out = (struct engine_file){.fd = fd, .name = name};
    int flags = fcntl(fd, F_GETFL);
    struct stat st;
    if (flags < 0 || fstat(fd, &st) < 0) return errmsg_sys(e, errno, "%s: cannot look at the open file", name);
    if (flags & O_PATH || (flags & O_ACCMODE) == O_WRONLY)
        return errmsg_set(e, EINVAL, "%s: a descriptor that can be read is expected", name);
    /* With O_NONBLOCK the kernel would fail what it cannot do at once instead of waiting for it. */
    if (flags & O_NONBLOCK && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
        return errmsg_sys(e, errno, "%s: cannot make it blocking", name);
    out->direct = (flags & O_DIRECT) != 0;
    out->writable = (flags & O_ACCMODE) == O_RDWR;
    out->in_memory = S_ISREG(st.st_mode) && is_in_memory(fd);
    int ret = find_size(out, &st, e);
    return ret < 0 ? ret : find_alignment(out, e);
}

/* O_NONBLOCK: a FIFO or a device that would wait for somebody is looked at and refused instead of waited for. */
static int open_flags(unsigned flags)
{
    int oflags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    oflags |= flags & DISK_FILE_WRITE ? O_RDWR : O_RDONLY;
    if (flags & DISK_FILE_DIRECT) oflags |= O_DIRECT;
    if (flags & DISK_FILE_CREATE) oflags |= O_CREAT | O_EXCL;
    return oflags;
}

static int lock_image_patiently(int fd, const char *path, bool writable, unsigned tries, struct errmsg *e)
{
    const struct flock all = {
        .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = LOCK_USED, .l_len = 2 * (LOCK_REFUSED - LOCK_USED)};
    int ret;
    while ((ret = lock_image(fd, path, writable, e)) == -EAGAIN && tries-- > 0) {
        fcntl(fd, F_OFD_SETLK, &all); /* two who wait must not keep one another waiting */
        usleep(LOCK_WAIT_US);
    }
    return ret;
}

int disk_file_open(struct engine_file *out, const char *path, unsigned flags, struct errmsg *e)
{
    const char *mode = flags & DISK_FILE_WRITE ? "writing" : "reading";
    autoclose int fd = open(path, open_flags(flags), 0600);
    if (fd < 0 && errno == EINVAL && flags & DISK_FILE_DIRECT)
        return errmsg_set(e, EINVAL,
                          "%s: cannot open for %s with direct I/O: its file system may have none, open it buffered",
                          path, mode);
    if (fd < 0 && flags & DISK_FILE_CREATE) return errmsg_sys(e, errno, "%s: cannot create it", path);
    if (fd < 0) return errmsg_sys(e, errno, "%s: cannot open for %s", path, mode);
    struct engine_file f;
    int ret = describe(&f, fd, path, e);
    if (ret == 0 && !(flags & DISK_FILE_NO_LOCK))
        ret = lock_image_patiently(fd, path, f.writable, flags & DISK_FILE_NO_WAIT ? 0 : LOCK_TRIES, e);
    if (ret < 0) {
        if (flags & DISK_FILE_CREATE) unlink(path); /* ours: O_EXCL */
        return ret;
    }
    (void)steal_fd(&fd);
    *out = f;
    return 0;
}

int disk_file_adopt(struct engine_file *out, int fd, const char *name, struct errmsg *e)
{
    autoclose int owned = fd;
    int ret = describe(out, fd, name, e);
    if (ret == 0) (void)steal_fd(&owned);
    else out->fd = -1;
    return ret;
}

int disk_file_reopen(struct engine_file *f, int *old_fd, struct errmsg *e)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", f->fd);
    int flags = fcntl(f->fd, F_GETFL);
    autoclose int fd = flags < 0 ? -1 : open(path, (flags & (O_ACCMODE | O_DIRECT)) | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) return errmsg_sys(e, errno, "%s: cannot open it once more", f->name);
    /* Not looked at for others' opposite ones: the old description's are there for that. */
    int ret = f->writable ? take_locks(fd, WRITER_USES, BOTH_REFUSE) : 0;
    if (ret < 0) return errmsg_sys(e, -ret, "%s: cannot lock it once more", f->name);
    *old_fd = f->fd;
    f->fd = steal_fd(&fd);
    return 0;
}

void disk_file_close(struct engine_file *f)
{
    if (f->fd >= 0) close(f->fd);
    f->fd = -1;
}

int disk_file_identify(const struct engine_file *f, struct disk_file_identity *out)
{
    struct stat st;
    if (fstat(f->fd, &st) < 0) return -errno;
    *out = (struct disk_file_identity){
        .device = f->block_device ? st.st_rdev : st.st_dev,
        .inode = f->block_device ? 0 : st.st_ino,
        .size_bytes = f->block_device ? f->size_bytes : (uint64_t)st.st_size,
        .mtime_ns = f->block_device ? 0 : st.st_mtim.tv_sec * INT64_C(1000000000) + st.st_mtim.tv_nsec,
        .ctime_ns = f->block_device ? 0 : st.st_ctim.tv_sec * INT64_C(1000000000) + st.st_ctim.tv_nsec,
    };
    return 0;
}
