/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The programs that the daemon starts and that must survive it: disk workers and the cache service.
 *
 * Each gets a session of its own (no terminal, no signals meant for the daemon), none of the daemon's
 * descriptors but those named, and the unprivileged user when the daemon is root. Nothing ties its
 * life to the daemon's. A record in the run directory (pid and start time, written before the program is
 * loaded, so none has to be believed about who it is) lets the next daemon find it again; it is watched through a pidfd.
 */
#ifndef CONTROL_PROCESS_H
#define CONTROL_PROCESS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/errmsg.h"
#include "loop/loop.h"

/* Whom programs run as. */
struct process_user {
    bool drop; /* false: as the daemon itself */
    uid_t uid;
    gid_t gid;
    char name[64];
};
/* name NULL: "creedence" where such a user exists, else as the daemon. Not root: as the daemon (an
 * error when a name was asked for and is not the daemon's own). 0 or -errno. */
int process_user_find(struct process_user *out, const char *name, struct errmsg *e);

#define PROCESS_FDS_MAX 8

struct process_args {
    const char *path;
    const char *const *argv; /* argv[0] included, NULL-terminated */
    const int *fds;          /* become descriptors 3, 4, ... of the program */
    unsigned fd_count;
    const struct process_user *user;
    const char *record_path; /* NULL: no record */
    const char *cgroup_path; /* a directory of cgroup v2, made when missing; NULL: the daemon's */
    bool quiet;              /* standard output and error to /dev/null */
};

struct process {
    struct loop_watch watch;
    pid_t pid; /* 0: none */
    int pidfd;
    bool child; /* ours: its status can be collected */
    void (*exited)(struct process *p, int status /* as of waitpid(); -1: unknown */);
    char record_path[PATH_MAX];
};

/* Start; returns when the program was loaded (or could not be). 0 or -errno with the reason in e. */
int process_spawn(struct process *p, struct loop *l, const struct process_args *a,
                  void (*exited)(struct process *, int), struct errmsg *e);

/* The program that an earlier daemon recorded, if it still runs. 0, or -ESRCH. */
int process_adopt(struct process *p, struct loop *l, const char *record_path, void (*exited)(struct process *, int));

static inline bool process_running(const struct process *p)
{
    return p->pid != 0;
}

void process_kill(struct process *p, int signal);

/* Stop watching and let it run on. */
void process_release(struct process *p);

/* "exit status 1", "killed by signal 9 (Killed)". */
void process_describe_status(int status, char *out, size_t room);

#endif
