/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for the direct I/O that a killed process left in the kernel.
 *
 * When a process dies its io_uring workers are waited for, and requests not yet begun are cancelled; buffered writes are
 * therefore over. Direct writes that the block layer has accepted are not: nobody waits for them, and one may land
 * after a successor has written the same place again. The kernel knows them per inode (its count of direct I/O
 * in flight) and waits for them before it changes a file's allocation: ext4, XFS, f2fs and NFS do so at the start of
 * every fallocate(). We ask for a change that changes nothing: allocating, within the file's size, one byte that
 * is allocated. Btrfs waits for the range only; but its direct writes are ordered extents, which fsync() waits for.
 *
 * Block devices have no such count. Their number of requests in flight is in sysfs; as soon as it has been seen at
 * zero once, everything from before has landed. Limit: what a control group's bandwidth limit (io.max) holds back is
 * not in that number; a worker on a block device is better limited elsewhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "disk/engine/engine.h"
#include "loop/clock.h"

#define DEVICE_REST_NS (5 * NS_PER_SECOND)
#define DEVICE_LOOK_NS (NS_PER_MS / 2)

/* Up to two numbers from a file of sysfs whose name is made from the device's. Returns how many, or -errno. */
static int read_sysfs(dev_t device, const char *what, unsigned long value[2])
{
    char path[96], line[96];
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s", major(device), minor(device), what);
    FILE *f = fopen(path, "re");
    if (!f) return -errno;
    bool read = fgets(line, sizeof line, f) != NULL;
    fclose(f);
    int n = 0;
    for (char *at = line, *end; read && n < 2; at = end, n++) {
        value[n] = strtoul(at, &end, 10);
        if (end == at) break;
    }
    return n;
}

static int wait_device(dev_t device)
{
    unsigned long value[2];
    /* With accounting off the numbers stay at zero. (A partition has no queue of its own: then nothing is known.) */
    if (read_sysfs(device, "queue/iostats", value) == 1 && value[0] == 0) return -EOPNOTSUPP;
    uint64_t deadline_ns = clock_now_ns() + DEVICE_REST_NS;
    for (;;) {
        int n = read_sysfs(device, "inflight", value);
        if (n < 0) return n == -ENOENT ? -EOPNOTSUPP : n;
        if (n != 2) return -EOPNOTSUPP;
        if (value[0] == 0 && value[1] == 0) return 0;
        if (clock_now_ns() >= deadline_ns) return -ETIMEDOUT;
        nanosleep(&(struct timespec){.tv_nsec = DEVICE_LOOK_NS}, NULL);
    }
}

/* A byte that is allocated, or 0 when there is none: allocating there then costs a block, and reads the same. */
static off_t allocated_byte(int fd, off_t size)
{
    off_t at = lseek(fd, 0, SEEK_DATA);
    return at > 0 && at < size ? at : 0;
}

/* NFS before 4.2 has no fallocate(), but before it reads through the page cache it waits for direct I/O. */
static int wait_by_buffered_read(int fd)
{
    char path[32], byte;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    autoclose int buffered = open(path, O_RDONLY | O_CLOEXEC);
    return buffered < 0 || pread(buffered, &byte, 1, 0) < 0 ? -errno : 0;
}

static int wait_regular(const struct engine_file *f, const struct stat *st)
{
    struct statfs fs;
    if (fstatfs(f->fd, &fs) < 0) return -errno;
    if (fs.f_type == BTRFS_SUPER_MAGIC) return fsync(f->fd) < 0 ? -errno : 0;
    while (fallocate(f->fd, FALLOC_FL_KEEP_SIZE, allocated_byte(f->fd, st->st_size), 1) < 0) {
        if (errno == EINTR) continue;
        if (errno == ENOSPC || errno == EDQUOT) return 0; /* it has waited, and then found no room for that byte */
        if (errno != EOPNOTSUPP && errno != ENOSYS) return -errno;
        if (!f->direct) return 0; /* the predecessor's were buffered writes, too */
        return fs.f_type == NFS_SUPER_MAGIC ? wait_by_buffered_read(f->fd) : -EOPNOTSUPP;
    }
    return 0;
}

int engine_wait_previous(const struct engine_file *f)
{
    struct stat st;
    if (fstat(f->fd, &st) < 0) return -errno;
    if (S_ISBLK(st.st_mode)) return wait_device(st.st_rdev);
    if (!f->writable) return 0; /* nobody resubmits writes here */
    return wait_regular(f, &st);
}
