/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker gives up once its disk is open, before it reads the first byte of a guest:
 *
 *   1. the network, IPC and mount namespaces of the host (fresh, empty ones)
 *   2. the file system: its root becomes an empty read-only directory
 *   3. root: another user, when asked, and every capability; no way to gain any (no_new_privs)
 *   4. system calls but those listed here, each with why it is needed (seccomp)
 *
 * A guest that takes the worker over is left with the disk's own descriptors. io_uring could open
 * files without openat(2) being allowed: that is what 2. is for.
 */
#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sockios.h>
#include <pwd.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"
#include "cmd/vbd_worker.h"

static const int allowed_calls[] = {
    /* memory: guest regions come and go, the allocator, thread stacks */
    SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise), SCMP_SYS(brk),
    SCMP_SYS(memfd_create), SCMP_SYS(ftruncate),
    /* disk I/O: the ring, and image growth, sync and size by the control and metadata threads */
    SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register), SCMP_SYS(pread64), SCMP_SYS(pwrite64),
    SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(fallocate), SCMP_SYS(fdatasync), SCMP_SYS(fsync), SCMP_SYS(lseek),
    SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(fstatfs),
    /* sockets and events: the front end, the daemon, the cache; kicks and calls */
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(recvfrom),
    SCMP_SYS(sendto), SCMP_SYS(accept4), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(sendfile), SCMP_SYS(shutdown), SCMP_SYS(close), SCMP_SYS(dup), SCMP_SYS(fcntl),
    SCMP_SYS(eventfd2), SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(socketpair), SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait), SCMP_SYS(poll), SCMP_SYS(ppoll),
    /* threads and time */
    SCMP_SYS(clone), SCMP_SYS(clone3), SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(prctl),
    SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(getrusage), SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getrandom), SCMP_SYS(exit), SCMP_SYS(exit_group),
    SCMP_SYS(restart_syscall), SCMP_SYS(sysinfo) /* qsort */,
    /* faults: SIGBUS of a truncated guest region, abort() of an assertion */
    SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack), SCMP_SYS(tgkill),
};

static int part_failed(const struct sandbox_args *a, const char *what, int code, struct errmsg *e)
{
    if (a->required) return errmsg_sys(e, code, "sandbox: %s", what);
    log_debug("sandbox: %s: %s; going on without", what, strerror(code));
    return 0;
}

static int leave_namespaces(const struct sandbox_args *a, struct errmsg *e)
{
    int kinds = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    if (unshare(kinds) == 0) return 1;
    if (geteuid() != 0 && unshare(kinds | CLONE_NEWUSER) == 0) return 1;
    return part_failed(a, "namespaces", errno, e);
}

static int leave_file_system(const struct sandbox_args *a, struct errmsg *e)
{
    const char *empty = "/proc"; /* any directory that exists; it is hidden below at once */
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", empty, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "size=4k,mode=555") < 0)
        return part_failed(a, "an empty root directory", errno, e);
    if (chdir(empty) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0) {
        /* pivot_root cannot leave an initramfs; chroot into the empty directory does as well here */
        if (chroot(empty) < 0 || chdir("/") < 0) return part_failed(a, "changing the root directory", errno, e);
    }
    return 0;
}

/* The bounding set first: shrinking it takes a capability that a mere user no longer has. */
static int leave_user(const struct sandbox_args *a, const struct passwd *pw, struct errmsg *e)
{
    int ret = 0;
    capng_clear(CAPNG_SELECT_BOTH);
    if (capng_apply(CAPNG_SELECT_BOUNDS) < 0) ret = part_failed(a, "dropping the capability bounding set", EPERM, e);
    if (ret < 0) return ret;
    if (pw && (setgroups(0, NULL) < 0 || setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) < 0 ||
               setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid) < 0))
        return errmsg_sys(e, errno, "sandbox: becoming user %s", a->user);
    capng_clear(CAPNG_SELECT_CAPS);
    if (capng_apply(CAPNG_SELECT_CAPS) < 0) ret = part_failed(a, "dropping capabilities", EPERM, e);
    if (ret == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) ret = part_failed(a, "no_new_privs", errno, e);
    return ret;
}

static int leave_system_calls(const struct sandbox_args *a, struct errmsg *e)
{
    /* What is not listed fails and is not carried out. It does not kill: a libc that learns a new call falls back on
     * ENOSYS, and a guest keeps its disk. */
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    int ret = ctx ? seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1) : -ENOMEM;
    for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(allowed_calls); i++)
        ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed_calls[i], 0);
    /* Block devices: discard, zero out, size. */
    if (ret == 0) ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, 0x1200));
    /* The front end's socket: what is queued in it (guest/vhost_user_socket.c). */
    if (ret == 0) ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, SIOCINQ));
    if (ret == 0) ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, SIOCOUTQ));
    /* isatty() is answered as on any file that is no terminal. */
    if (ret == 0) ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOTTY), SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, TCGETS));
    if (ret == 0) ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOENT), SCMP_SYS(openat), 0);
    if (ret == 0) ret = seccomp_load(ctx);
    seccomp_release(ctx);
    return ret < 0 ? part_failed(a, "system call filter", -ret, e) : 0;
}

int sandbox_enter(const struct sandbox_args *args, struct errmsg *e)
{
    const struct passwd *pw = NULL;
    if (args->user && !(pw = getpwnam(args->user)))
        return errmsg_set(e, EINVAL, "sandbox: no such user: %s", args->user);
    int ret = leave_namespaces(args, e);
    if (ret > 0) ret = leave_file_system(args, e);
    if (ret == 0) ret = leave_user(args, pw, e);
    if (ret == 0) ret = leave_system_calls(args, e);
    return ret;
}
