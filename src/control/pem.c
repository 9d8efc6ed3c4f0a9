/* SPDX-License-Identifier: Apache-2.0 */
#include "control/pem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

static ssize_t read_text(int fd, char *to, size_t room)
{
    size_t got = 0;
    while (got < room) {
        ssize_t n = read(fd, to + got, room - got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (n == 0) break;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

/* text: PEM_MAX_BYTES and two more, all zero. */
static int read_pem(char *text, const char *path, struct errmsg *e)
{
    struct stat st;
    /* Opening a FIFO waits for nobody. */
    autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) < 0) return errmsg_sys(e, errno, "%s", path);
    if (!S_ISREG(st.st_mode)) return errmsg_set(e, EINVAL, "%s: not a regular file", path);
    ssize_t got = read_text(fd, text, PEM_MAX_BYTES + 1);
    if (got < 0) return errmsg_sys(e, (int)-got, "%s", path);
    if (got > (ssize_t)PEM_MAX_BYTES || strlen(text) != (size_t)got || !strstr(text, "-----BEGIN "))
        return errmsg_set(e, EINVAL, "%s: not a PEM file of at most %u bytes", path, PEM_MAX_BYTES);
    return 0;
}

int pem_read(json_t *object, const char *key, const char *path, struct errmsg *e)
{
    char *text = calloc(1, PEM_MAX_BYTES + 2);
    if (!text) return errmsg_set(e, ENOMEM, "%s: out of memory", path);
    int ret = read_pem(text, path, e);
    if (ret == 0 && json_object_set_new(object, key, json_string(text)) < 0)
        ret = errmsg_set(e, EINVAL, "%s: not a PEM file", path);
    explicit_bzero(text, PEM_MAX_BYTES + 2);
    free(text);
    return ret;
}

void pem_release(json_t *object)
{
    json_t *key = json_object_get(object, "key");
    if (json_is_string(key)) explicit_bzero((char *)(uintptr_t)json_string_value(key), json_string_length(key));
    json_decref(object);
}
