/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/mark.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/random.h>
#include <time.h>

#include "base/checked.h"
#include "base/log.h"
#include "loop/clock.h"

#define FIRST_BYTE (UINT64_C(1) << 62) /* and up to the largest offset there is */
#define LOOK_FIRST_NS (NS_PER_MS / 4)
#define LOOK_LAST_NS (20 * NS_PER_MS)

static struct flock lock_of(uint64_t mark, short type)
{
    return (struct flock){
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)(FIRST_BYTE | (mark & (FIRST_BYTE - 1))), .l_len = 1};
}

uint64_t disk_mark_new(void)
{
    uint64_t mark = DISK_MARK_NONE;
    while (mark == DISK_MARK_NONE)
        if (getrandom(&mark, sizeof mark, 0) != (ssize_t)sizeof mark) mark = DISK_MARK_NONE;
    return mark;
}

int disk_mark_set(const struct engine_file *f, uint64_t mark, struct errmsg *e)
{
    struct flock lock = lock_of(mark, F_RDLCK);
    if (fcntl(f->fd, F_OFD_SETLK, &lock) == 0) return 0;
    return errmsg_sys(e, errno, "%s: cannot lock a byte of it, without which direct I/O is not safe", f->name);
}

/* 1, 0 or -errno. Asking for a lock of one's own to write needs no descriptor that can be written. */
static int is_marked(const struct engine_file *f, uint64_t mark)
{
    struct flock lock = lock_of(mark, F_WRLCK);
    if (fcntl(f->fd, F_OFD_GETLK, &lock) < 0) return -errno;
    return lock.l_type != F_UNLCK;
}

int disk_mark_wait(const struct engine_file *f, uint64_t mark, uint64_t deadline_ns, struct errmsg *e)
{
    if (mark == DISK_MARK_NONE) return 0;
    bool told = false;
    for (uint64_t pause_ns = LOOK_FIRST_NS, began_ns = clock_now_ns();;) {
        int ret = is_marked(f, mark);
        if (ret == 0) return 0;
        if (ret < 0) return errmsg_sys(e, -ret, "%s: cannot look at its locks", f->name);
        uint64_t now_ns = clock_now_ns();
        if (now_ns >= deadline_ns) break;
        if (!told && now_ns - began_ns >= NS_PER_SECOND) {
            log_warn("%s: waiting for storage to end what the last worker had on its way", f->name);
            told = true;
        }
        nanosleep(&(struct timespec){.tv_nsec = (long)min_u64(pause_ns, deadline_ns - now_ns)}, NULL);
        pause_ns = min_u64(2 * pause_ns, LOOK_LAST_NS);
    }
    return errmsg_set(e, ETIMEDOUT,
                      "%s: storage has not ended yet what the last worker had on its way (its lock is on byte %" PRIu64
                      "; `lslocks` shows it)",
                      f->name, (uint64_t)lock_of(mark, F_RDLCK).l_start);
}
