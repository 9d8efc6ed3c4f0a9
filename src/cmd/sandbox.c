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
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"

/* SCMP_A0() and its like leave out datum_b, of which clang warns. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

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
    SCMP_SYS(sync_file_range),
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
    SCMP_SYS(listen),
    SCMP_SYS(accept4),
    SCMP_SYS(socketpair),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(shutdown),
    SCMP_SYS(close),
    SCMP_SYS(dup),
    SCMP_SYS(eventfd2),
    SCMP_SYS(timerfd_create),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_pwait2),
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

/* Descriptors, their flags and seals; and looking at locks, never taking or dropping one: whoever may read a base image could otherwise
 * keep others from opening it, or a neighbour's next worker waiting for a mark (disk/mark.h). */
static const int allowed_fcntls[] = {
    F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_ADD_SEALS, F_GET_SEALS, F_OFD_GETLK,
};

/* What opening a port of the host takes, a front end's socket, and signals to and from one that do not wait (guest/notify.c). */
static const int network_calls[] = {
    SCMP_SYS(socket),    SCMP_SYS(bind),         SCMP_SYS(connect),      SCMP_SYS(getsockname), SCMP_SYS(getpeername),
    SCMP_SYS(sendmmsg),  SCMP_SYS(recvmmsg),     SCMP_SYS(bpf),          SCMP_SYS(unlink),      SCMP_SYS(access),
    SCMP_SYS(readlink),  SCMP_SYS(fchmodat),     SCMP_SYS(fdatasync),    SCMP_SYS(setrlimit),   SCMP_SYS(prlimit64),
    SCMP_SYS(uname),     SCMP_SYS(umask),        SCMP_SYS(readlinkat),   SCMP_SYS(getdents64),  SCMP_SYS(openat),
    SCMP_SYS(open),      SCMP_SYS(geteuid),      SCMP_SYS(faccessat2),   SCMP_SYS(mincore),     SCMP_SYS(flock),
    SCMP_SYS(mkdir),     SCMP_SYS(statfs),       SCMP_SYS(clock_getres), SCMP_SYS(faccessat),   SCMP_SYS(io_setup),
    SCMP_SYS(io_submit), SCMP_SYS(io_getevents), SCMP_SYS(preadv2),      SCMP_SYS(pwritev2),    SCMP_SYS(fcntl),
};
#define TUN_WRITES 0x40045400u /* TUNSETIFF and its like */
#define TUN_READS 0x80045400u
#define SOCKET_IOCTLS 0x8900u
#define GNTDEV_IOCTLS 0x4700u /* map, unmap, copy; the devices themselves say what is allowed */
#define EVTCHN_IOCTLS 0x4500u /* bind, unbind, notify */
#define TUN_MAJOR 10
#define TUN_MINOR 200

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

/* To the working directory, which is a mount of its own. */
static int change_root(void)
{
    if (syscall(SYS_pivot_root, ".", ".") == 0) return umount2(".", MNT_DETACH) == 0 ? chdir("/") : -1;
    return chroot(".") == 0 ? chdir("/") : -1; /* an initramfs cannot be pivoted away from */
}

static int leave_file_system(const struct sandbox_args *a, struct errmsg *e)
{
    const char *empty = "/proc"; /* a directory that exists everywhere; hidden from here on */
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", empty, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "size=4k,mode=555") < 0)
        return part_failed(a, "an empty root directory", errno, e);
    if (chdir(empty) == 0 && change_root() == 0) return 0;
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

/* ---- the network process ---- */

/* The little of the file system that opening ports takes, at the same names under the new root. */
static const char *const kept_directories[] = {"/sys", "/usr/lib", "/lib", "/lib64"};

static int make_directories(char *path, char *from)
{
    for (char *slash = strchr(from, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        int ret = mkdir(path, 0755);
        if (ret == 0) ret = chmod(path, 0755); /* our umask may be the daemon's, and we another user soon */
        *slash = '/';
        if (ret < 0 && errno != EEXIST) return -errno;
    }
    return 0;
}

static int keep_directory(const char *root, const char *path)
{
    char at[128];
    int n = snprintf(at, sizeof at, "%s%s/", root, path);
    if (access(path, F_OK) < 0) return 0; /* this host has none */
    int ret = make_directories(at, at + strlen(root) + 1);
    if (ret < 0) return ret;
    at[n - 1] = 0;
    if (mount(path, at, NULL, MS_BIND | MS_REC, NULL) < 0) return -errno;
    mount(NULL, at, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID, NULL);
    return 0;
}

/* A device of our own: the host's may be root's alone, and we another user then. */
static int make_tun(const char *root)
{
    char at[128];
    snprintf(at, sizeof at, "%s/dev/net/tun", root);
    int ret = make_directories(at, at + strlen(root) + 1);
    if (ret < 0) return ret;
    if (mknod(at, S_IFCHR | 0666, makedev(TUN_MAJOR, TUN_MINOR)) < 0 || chmod(at, 0666) < 0) return -errno;
    return 0;
}

/* The same, of the devices that this host has: their numbers are the kernel's choice. */
static int make_xen(const char *root)
{
    static const char *const devices[] = {"/dev/xen/gntdev", "/dev/xen/evtchn"};
    for (unsigned i = 0; i < ARRAY_LEN(devices); i++) {
        struct stat st;
        char at[128];
        if (stat(devices[i], &st) < 0 || !S_ISCHR(st.st_mode)) continue;
        snprintf(at, sizeof at, "%s%s", root, devices[i]);
        int ret = make_directories(at, at + strlen(root) + 1);
        if (ret < 0) return ret;
        if (mknod(at, S_IFCHR | 0666, st.st_rdev) < 0 || chmod(at, 0666) < 0) return -errno;
    }
    return 0;
}

static int leave_files(const struct sandbox_args *a, struct errmsg *e)
{
    const char *root = "/proc"; /* as in leave_file_system() */
    if (unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) < 0) return part_failed(a, "namespaces", errno, e);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", root, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=755") < 0)
        return part_failed(a, "an empty root directory", errno, e);
    int ret = make_tun(root);
    if (ret == 0) ret = make_xen(root);
    for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(kept_directories); i++)
        ret = keep_directory(root, kept_directories[i]);
    if (ret < 0) return part_failed(a, "what opening ports takes", -ret, e);
    if (chdir(root) == 0 && change_root() == 0 &&
        mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL) == 0)
        return 0;
    return part_failed(a, "changing the root directory", errno, e);
}

static int leave_other_rights(const struct sandbox_args *a, const struct passwd *pw, struct errmsg *e)
{
    static const int kept[] = {CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_IPC_LOCK};
    bool had[ARRAY_LEN(kept)];
    int ret = 0;
    capng_get_caps_process();
    for (unsigned i = 0; i < ARRAY_LEN(kept); i++)
        had[i] = capng_have_capability(CAPNG_PERMITTED, (unsigned)kept[i]);
    capng_clear(CAPNG_SELECT_BOTH);
    for (unsigned i = 0; i < ARRAY_LEN(kept); i++)
        if (had[i]) capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, (unsigned)kept[i]);
    if (pw) {
        ret = capng_change_id((int)pw->pw_uid, (int)pw->pw_gid, CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING);
        if (ret < 0) return errmsg_set(e, EPERM, "sandbox: becoming user %s", a->user);
        ret = 0;
    } else if (capng_apply(CAPNG_SELECT_BOTH) < 0) {
        ret = part_failed(a, "dropping capabilities", EPERM, e);
    }
    if (ret == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) ret = part_failed(a, "no_new_privs", errno, e);
    return ret;
}

int sandbox_leave_host_but_network(const struct sandbox_args *args, bool files, struct errmsg *e)
{
    const struct passwd *pw = NULL;
    if (args->user && !(pw = getpwnam(args->user)))
        return errmsg_set(e, EINVAL, "sandbox: no such user: %s", args->user);
    int ret = files ? leave_files(args, e) : 0;
    return ret < 0 ? ret : leave_other_rights(args, pw, e);
}

static int allow_network(scmp_filter_ctx ctx)
{
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(network_calls); i++)
        ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, network_calls[i], 0);
    const unsigned groups[] = {TUN_WRITES, TUN_READS, SOCKET_IOCTLS};
    for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(groups); i++)
        ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                               SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffff00u, groups[i]));
    /* Of the thread that calls, and of no other: where it stays (port/stay.h). */
    if (ret == 0) ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(sched_setaffinity), 1, SCMP_A0(SCMP_CMP_EQ, 0));
    return ret;
}

/* Their numbers have the argument's size in the upper half. */
static int allow_xen(scmp_filter_ctx ctx)
{
    int ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                               SCMP_A1(SCMP_CMP_MASKED_EQ, 0xc000ff00u, GNTDEV_IOCTLS));
    if (ret == 0)
        ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                               SCMP_A1(SCMP_CMP_MASKED_EQ, 0xc000ff00u, EVTCHN_IOCTLS));
    return ret;
}

/* ---- system calls ---- */

int sandbox_filter(const struct sandbox_args *args, enum sandbox_extra extra, struct errmsg *e)
{
    /* What is not listed fails and is not carried out. It does not kill: a libc that learns a new call falls back on
     * ENOSYS, and a guest keeps its disk. */
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    int ret = ctx ? seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1) : -ENOMEM;
    for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(allowed_calls); i++)
        ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed_calls[i], 0);
    for (unsigned i = 0; ret == 0 && i < ARRAY_LEN(allowed_fcntls); i++)
        ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
                               SCMP_A1_32(SCMP_CMP_EQ, (unsigned)allowed_fcntls[i]));
    /* Block devices: discard, zero out, size. Sockets: how much waits. A terminal's: refused as on any file that is none. */
    if (ret == 0)
        ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, 0x1200));
    if (ret == 0) ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, SIOCINQ));
    if (ret == 0) ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, SIOCOUTQ));
    if (ret == 0) ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOTTY), SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, TCGETS));
    if (ret == 0 && (extra & SANDBOX_NETWORK)) ret = allow_network(ctx);
    if (ret == 0 && (extra & SANDBOX_XEN)) ret = allow_xen(ctx);
    /* By path from the root: nothing is there any more. */
    if (ret == 0 && !(extra & SANDBOX_NETWORK))
        ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOENT), SCMP_SYS(openat), 1, SCMP_A0_32(SCMP_CMP_EQ, AT_FDCWD));
    if (ret == 0 && (extra & SANDBOX_REOPEN))
        ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 2, SCMP_A0(SCMP_CMP_LT, 1u << 20),
                               SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY));
    if (ret == 0) ret = seccomp_load(ctx);
    seccomp_release(ctx);
    return ret < 0 ? part_failed(args, "system call filter", -ret, e) : 0;
}
