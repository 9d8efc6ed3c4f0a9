/* SPDX-License-Identifier: Apache-2.0 */
#include "control/process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/state.h"

#define FIRST_FD 3

/* ---- The user ---- */

int process_user_find(struct process_user *out, const char *name, struct errmsg *e)
{
    *out = (struct process_user){.uid = geteuid(), .gid = getegid()};
    errno = 0;
    const struct passwd *pw = getpwnam(name ? name : "creedence");
    if (!pw) {
        if (!name && geteuid() == 0)
            log_warn("there is no user \"creedence\" on this host: workers and the cache service stay root (with no "
                     "capabilities, if they can be sandboxed); make it, or start with --user");
        if (!name) return 0;
        return errno ? errmsg_sys(e, errno, "user %s", name) : errmsg_set(e, ENOENT, "there is no user \"%s\"", name);
    }
    if (geteuid() != 0) {
        if (!name || pw->pw_uid == geteuid()) return 0;
        return errmsg_set(e, EPERM, "only root can start programs as user \"%s\"", name);
    }
    out->drop = pw->pw_uid != 0;
    out->uid = pw->pw_uid;
    out->gid = pw->pw_gid;
    snprintf(out->name, sizeof out->name, "%s", pw->pw_name);
    return 0;
}

/* ---- Records ---- */

/* Clock ticks after boot at which the process started: with the pid, its identity. 0: no such process. */
static uint64_t start_time_of(pid_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n <= 0) return 0;
    text[n] = 0;
    const char *p = strrchr(text, ')'); /* the name may hold anything */
    if (!p || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X') return 0;
    for (int field = 2; field < 22 && p; field++)
        p = strchr(p + 1, ' ');
    return p ? strtoull(p + 1, NULL, 10) : 0;
}

/* Of the calling process. */
static int write_record(const char *path)
{
    char text[96];
    int n = snprintf(text, sizeof text, "%d %llu\n", (int)getpid(), (unsigned long long)start_time_of(getpid()));
    return state_write_file(path, text, (size_t)n, false, NULL);
}

static pid_t read_record(const char *path, uint64_t *start_time)
{
    char text[96];
    autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n <= 0) return 0;
    text[n] = 0;
    char *end;
    long pid = strtol(text, &end, 10);
    *start_time = strtoull(end, NULL, 10);
    return pid > 1 && pid < INT_MAX && *start_time ? (pid_t)pid : 0;
}

/* ---- In the child ---- */

static int move_fds(const struct process_args *a, int *error_pipe)
{
    /* First out of the way of each other, then into place. */
    int floor = FIRST_FD + (int)a->fd_count;
    int moved[PROCESS_FDS_MAX];
    assert(a->fd_count <= PROCESS_FDS_MAX);
    for (unsigned i = 0; i < a->fd_count; i++) {
        moved[i] = fcntl(a->fds[i], F_DUPFD_CLOEXEC, floor);
        if (moved[i] < 0) return -errno;
    }
    int pipe_fd = fcntl(*error_pipe, F_DUPFD_CLOEXEC, floor);
    if (pipe_fd < 0) return -errno;
    *error_pipe = pipe_fd;
    for (unsigned i = 0; i < a->fd_count; i++)
        if (dup2(moved[i], FIRST_FD + (int)i) < 0) return -errno;
    /* Everything of ours is close-on-exec; what the daemon itself was started with may not be. */
    unsigned from = (unsigned)FIRST_FD + a->fd_count;
    syscall(SYS_close_range, from, ~0u, 1u << 2 /* CLOSE_RANGE_CLOEXEC */);
    return 0;
}

static int drop_user(const struct process_user *u)
{
    if (!u || !u->drop) return 0;
    if (setgroups(0, NULL) < 0 || setresgid(u->gid, u->gid, u->gid) < 0 || setresuid(u->uid, u->uid, u->uid) < 0)
        return -errno;
    return 0;
}

/* SIGPIPE stays ignored: a standard error whose reader is gone must not kill anybody. */
static void reset_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    for (int i = 1; i < NSIG; i++)
        if (i != SIGKILL && i != SIGSTOP) signal(i, i == SIGPIPE ? SIG_IGN : SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static int standard_streams(bool quiet)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0) return -errno;
    if (quiet && (dup2(null, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0)) return -errno;
    return 0;
}

static int join_cgroup(int procs_fd)
{
    return procs_fd >= 0 && write(procs_fd, "0", 1) < 0 ? -errno : 0;
}

/*
 * The record is written here, not by the daemon afterwards, which may be killed before it does: then nobody would know
 * of the program. The next daemon cannot look for the record too early: it waits for a lock (cmd/creedenced.c) which
 * this process has open until it becomes the program.
 */
static _Noreturn void become_program(const struct process_args *a, int cgroup_fd, int error_pipe)
{
    int ret = join_cgroup(cgroup_fd);
    if (ret == 0 && a->record_path) ret = write_record(a->record_path);
    setsid();
    umask(077);
    if (ret == 0) ret = standard_streams(a->quiet);
    if (ret == 0) ret = chdir("/") < 0 ? -errno : 0;
    if (ret == 0) ret = move_fds(a, &error_pipe);
    if (ret == 0) ret = drop_user(a->user);
    reset_signals();
    if (ret == 0) {
        execv(a->path, (char *const *)(uintptr_t)a->argv);
        ret = -errno;
    }
    ssize_t n = write(error_pipe, &ret, sizeof ret);
    (void)n;
    _exit(127);
}

/* ---- Watching ---- */

static void process_ready(struct loop_watch *w, uint32_t events)
{
    struct process *p = container_of(w, struct process, watch);
    int status = -1;
    if (p->child) {
        siginfo_t info = {0};
        if (waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED | WNOHANG) == 0 && info.si_pid)
            status = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status;
    }
    if (p->record_path[0]) unlink(p->record_path);
    process_release(p);
    p->exited(p, status);
}

static int watch_process(struct process *p, struct loop *l, void (*exited)(struct process *, int))
{
    p->exited = exited;
    return loop_add(l, &p->watch, p->pidfd, EPOLLIN, process_ready);
}

void process_release(struct process *p)
{
    if (!p->pid) return;
    loop_remove(&p->watch);
    close(p->pidfd);
    p->pid = 0;
    p->pidfd = -1;
}

void process_kill(struct process *p, int signal)
{
    if (p->pid) syscall(SYS_pidfd_send_signal, p->pidfd, signal, NULL, 0);
}

/* ---- Starting ---- */

static int open_cgroup(const char *path, struct errmsg *e)
{
    if (mkdir(path, 0755) < 0 && errno != EEXIST) return errmsg_sys(e, errno, "%s: making the cgroup", path);
    char procs[PATH_MAX];
    snprintf(procs, sizeof procs, "%s/cgroup.procs", path);
    int fd = open(procs, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? errmsg_sys(e, errno, "%s", procs) : fd;
}

/* Wait for the other end of the pipe to be closed by exec, or to say why that failed. */
static int wait_loaded(int pipe_fd)
{
    int ret = 0;
    ssize_t n;
    do
        n = read(pipe_fd, &ret, sizeof ret);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof ret ? ret : 0;
}

int process_spawn(struct process *p, struct loop *l, const struct process_args *a,
                  void (*exited)(struct process *, int), struct errmsg *e)
{
    *p = (struct process){.pidfd = -1};
    autoclose int cgroup_fd = -1;
    if (a->cgroup_path) {
        cgroup_fd = open_cgroup(a->cgroup_path, e);
        if (cgroup_fd < 0) {
            int ret = cgroup_fd;
            cgroup_fd = -1;
            return ret;
        }
    }
    int pipe_fds[2];
    if (pipe2(pipe_fds, O_CLOEXEC) < 0) return errmsg_sys(e, errno, "%s: pipe", a->path);
    pid_t pid = fork();
    if (pid == 0) become_program(a, cgroup_fd, pipe_fds[1]);
    int error = errno;
    close(pipe_fds[1]);
    autoclose int error_pipe = pipe_fds[0];
    if (pid < 0) return errmsg_sys(e, error, "%s: fork", a->path);

    int ret = wait_loaded(error_pipe);
    if (ret == 0) {
        p->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        ret = p->pidfd < 0 ? -errno : watch_process(p, l, exited);
    }
    if (ret < 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        if (p->pidfd >= 0) close(p->pidfd);
        *p = (struct process){.pidfd = -1};
        if (a->record_path) unlink(a->record_path);
        return errmsg_sys(e, -ret, "%s: starting it", a->path);
    }
    p->pid = pid;
    p->child = true;
    if (a->record_path) snprintf(p->record_path, sizeof p->record_path, "%s", a->record_path);
    return 0;
}

int process_adopt(struct process *p, struct loop *l, const char *record_path, void (*exited)(struct process *, int))
{
    *p = (struct process){.pidfd = -1};
    uint64_t start_time = 0;
    pid_t pid = read_record(record_path, &start_time);
    if (!pid) return -ESRCH;
    p->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    /* Compared after the pidfd was opened: from then on it means this process. */
    if (p->pidfd < 0 || start_time_of(pid) != start_time || watch_process(p, l, exited) < 0) {
        if (p->pidfd >= 0) close(p->pidfd);
        *p = (struct process){.pidfd = -1};
        unlink(record_path);
        return -ESRCH;
    }
    p->pid = pid;
    snprintf(p->record_path, sizeof p->record_path, "%s", record_path);
    return 0;
}

void process_describe_status(int status, char *out, size_t room)
{
    if (status < 0) snprintf(out, room, "how is not known, it was an earlier daemon's child");
    else if (WIFEXITED(status)) snprintf(out, room, "exit status %d", WEXITSTATUS(status));
    else snprintf(out, room, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
}
