/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/sandbox.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sockios.h>
#include <pwd.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"

static const int allowed_calls[] = {
    /* memory: guest regions come and go, layers are mapped whole, the allocator, thread stacks */
    SCMP_SYS(mmap),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(mprotect),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(memfd_create),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fchmod),
    /* images: the ring, and growth, sync, tables and size by control and metadata threads */
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(io_uring_register),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(preadv),
    SCMP_SYS(pwritev),
    SCMP_SYS(fallocate),
    SCMP_SYS(fdatasync),
    SCMP_SYS(fsync),
    SCMP_SYS(lseek),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(statx),
    SCMP_SYS(fstatfs),
    SCMP_SYS(fadvise64),
    /* sockets and events: the front end, the daemon, the cache; kicks and calls; replies sent exactly once */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    SCMP_SYS(sendfile),
    SCMP_SYS(accept4),
    SCMP_SYS(socketpair),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(shutdown),
    SCMP_SYS(close),
    SCMP_SYS(dup),
    SCMP_SYS(fcntl),
    SCMP_SYS(eventfd2),
    SCMP_SYS(timerfd_create),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    /* threads and time; qsort() asks how much memory there is */
    SCMP_SYS(clone),
    SCMP_SYS(clone3),
    SCMP_SYS(futex),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(prctl),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(getrusage),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getrandom),
    SCMP_SYS(sysinfo),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(restart_syscall),
    /* faults: SIGBUS of a truncated guest region, abort() of an assertion */
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(tgkill),
};

static int part_failed(const struct sandbox_args *a, const char *what, int code, struct errmsg *e)
{
    if (a->required) return errmsg_sys(e, code, "sandbox: %s", what);
    log_debug("sandbox: %s: %s; going on without", what, strerror(code));
    return 0;
}

/* 1 when the process has a mount namespace of its own now. */
static int leave_namespaces(const struct sandbox_args *a, struct errmsg *e)
{
    int kinds = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    if (unshare(kinds) == 0) return 1;
    /* A user namespace only when nothing of the outer user's is needed: becoming another one is. */
    if (geteuid() != 0 && unshare(kinds | CLONE_NEWUSER) == 0) return 1;
    return part_failed(a, "namespaces", errno, e);
}

static int leave_file_system(const struct sandbox_args *a, struct errmsg *e)
{
    const char *empty = "/proc"; /* a directory that exists everywhere; hidden from here on */
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", empty, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "size=4k,mode=555") < 0)
        return part_failed(a, "an empty root directory", errno, e);
    if (chdir(empty) == 0 && syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0 && chdir("/") == 0)
        return 0;
    if (chroot(empty) == 0 && chdir("/") == 0) return 0; /* an initramfs cannot be pivoted away from */
    return part_failed(a, "changing the root directory", errno, e);
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

int sandbox_leave_host(const struct sandbox_args *args, struct errmsg *e)
{
    const struct passwd *pw = NULL;
    if (args->user && !(pw = getpwnam(args->user)))
        return errmsg_set(e, EINVAL, "sandbox: no such user: %s", args->user);
    int ret = leave_namespaces(args, e);
    if (ret > 0) ret = leave_file_system(args, e);
    return ret < 0 ? ret : leave_user(args, pw, e);
}

int sandbox_filter(const struct sandbox_args *args, enum sandbox_extra extra, struct errmsg *e)
{
    /* What is not listed fails and is not carried out. It does not kill: a libc that learns a new call falls back on
     * ENOSYS, and a guest keeps its disk. */
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    int ret = ctx ? seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1) : -ENOMEM;
    for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(allowed_calls); i++)
        ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed_calls[i], 0);
    /* Block devices: discard, zero out, size. Sockets: how much waits. A terminal's: refused as on any file that is none. */
    if (ret == 0)
        ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, 0x1200));
    if (ret == 0) ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, SIOCINQ));
    if (ret == 0) ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, SIOCOUTQ));
    if (ret == 0) ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOTTY), SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, TCGETS));
    /* By path from the root: nothing is there any more. */
    if (ret == 0)
        ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOENT), SCMP_SYS(openat), 1, SCMP_A0_32(SCMP_CMP_EQ, AT_FDCWD));
    if (ret == 0 && (extra & SANDBOX_REOPEN))
        ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 2, SCMP_A0(SCMP_CMP_LT, 1u << 20),
                               SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY));
    if (ret == 0) ret = seccomp_load(ctx);
    seccomp_release(ctx);
    return ret < 0 ? part_failed(args, "system call filter", -ret, e) : 0;
}
