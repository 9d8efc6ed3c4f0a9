/* SPDX-License-Identifier: Apache-2.0 */
#include "control/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"

#define UNIX_SOCKET_BACKLOG 1024 /* cut to net.core.somaxconn */

/* Fill in the address; *dir_fd is set when the address goes through it and must outlive its use. */
static int address_of(struct sockaddr_un *a, int *dir_fd, const char *path, struct errmsg *e)
{
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    *dir_fd = -1;
    size_t len = strlen(path);
    if (len < sizeof a->sun_path) {
        memcpy(a->sun_path, path, len + 1);
        return 0;
    }
    const char *name = strrchr(path, '/');
    if (!name) return errmsg_set(e, ENAMETOOLONG, "%s: name of a socket is too long", path);
    char *dir = strndup(path, (size_t)(name - path));
    if (!dir) return -ENOMEM;
    int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int error = errno;
    free(dir);
    if (fd < 0) return errmsg_sys(e, error, "%s", path);
    int n = snprintf(a->sun_path, sizeof a->sun_path, "/proc/self/fd/%d%s", fd, name);
    if (n < 0 || (size_t)n >= sizeof a->sun_path) {
        close(fd);
        return errmsg_set(e, ENAMETOOLONG, "%s: name of a socket is too long", path);
    }
    *dir_fd = fd;
    return 0;
}

/* Somebody accepts connections there; of whatever type. */
static bool is_served(const struct sockaddr_un *a, int type)
{
    autoclose int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)a, sizeof *a) == 0) return true;
    return errno != ECONNREFUSED && errno != ENOENT;
}

static int remove_old(const struct sockaddr_un *a, int type, const char *path, struct errmsg *e)
{
    struct stat st;
    if (lstat(path, &st) < 0) return errno == ENOENT ? 0 : errmsg_sys(e, errno, "%s", path);
    if (!S_ISSOCK(st.st_mode)) return errmsg_set(e, EEXIST, "%s exists and is not a socket", path);
    if (is_served(a, type)) return errmsg_set(e, EADDRINUSE, "%s: another program listens there", path);
    if (unlink(path) < 0 && errno != ENOENT) return errmsg_sys(e, errno, "%s: removing an old socket", path);
    return 0;
}

int unix_socket_bind(int *out, int type, const char *path, mode_t mode, struct errmsg *e)
{
    *out = -1;
    autoclose int dir_fd = -1;
    struct sockaddr_un a;
    int ret = address_of(&a, &dir_fd, path, e);
    if (ret < 0) return ret;
    ret = remove_old(&a, type, path, e);
    if (ret < 0) return ret;
    autoclose int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return errmsg_sys(e, errno, "%s: socket", path);
    /* The mode of the descriptor is the mode that the name is born with: nobody gets in before a chmod. */
    if (fchmod(fd, mode) < 0) return errmsg_sys(e, errno, "%s: fchmod", path);
    mode_t old_mask = umask(0);
    ret = bind(fd, (struct sockaddr *)&a, sizeof a) < 0 ? errno : 0;
    umask(old_mask);
    if (ret) return errmsg_sys(e, ret, "%s: bind", path);
    *out = steal_fd(&fd);
    return 0;
}

int unix_socket_begin(int fd, const char *path, struct errmsg *e)
{
    return listen(fd, UNIX_SOCKET_BACKLOG) < 0 ? errmsg_sys(e, errno, "%s: listen", path) : 0;
}

int unix_socket_listen(int *out, int type, const char *path, mode_t mode, struct errmsg *e)
{
    int ret = unix_socket_bind(out, type, path, mode, e);
    if (ret < 0) return ret;
    ret = unix_socket_begin(*out, path, e);
    if (ret == 0) return 0;
    unlink(path);
    close(*out);
    *out = -1;
    return ret;
}

void unix_socket_remove(const char *path)
{
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode)) unlink(path);
}

int unix_socket_connect(int *out, int type, const char *path, struct errmsg *e)
{
    *out = -1;
    autoclose int dir_fd = -1;
    struct sockaddr_un a;
    int ret = address_of(&a, &dir_fd, path, e);
    if (ret < 0) return ret;
    autoclose int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return errmsg_sys(e, errno, "%s: socket", path);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0) return errmsg_sys(e, errno, "%s: connect", path);
    *out = steal_fd(&fd);
    return 0;
}
