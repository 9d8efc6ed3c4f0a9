/* SPDX-License-Identifier: Apache-2.0 */
#include "control/target.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/unix_socket.h"

#define BACKLOG 64

static const struct {
    const char *prefix;
    bool passive, tls, local;
} kinds[] = {
    {"tcp:", false, false, false}, {"ssl:", false, true, false}, {"unix:", false, false, true},
    {"ptcp:", true, false, false}, {"pssl:", true, true, false}, {"punix:", true, false, true},
};

static bool port_of(const char *text, size_t len, unsigned *out)
{
    unsigned long n = 0;
    if (len < 1 || len > 5) return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        n = n * 10 + (unsigned long)(text[i] - '0');
    }
    *out = (unsigned)n;
    return n >= 1 && n <= 65535;
}

/* With or without brackets. */
static bool set_address(struct target *t, const char *text, size_t len, unsigned port)
{
    char copy[INET6_ADDRSTRLEN];
    struct sockaddr_in *in4 = (struct sockaddr_in *)(void *)&t->address;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)&t->address;
    if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
        text++;
        len -= 2;
    }
    if (len >= sizeof copy) return false;
    memcpy(copy, text, len);
    copy[len] = 0;
    memset(&t->address, 0, sizeof t->address);
    if (inet_pton(AF_INET, copy, &in4->sin_addr) == 1) {
        t->family = in4->sin_family = AF_INET;
        in4->sin_port = htons((uint16_t)port);
        t->address_bytes = sizeof *in4;
        return true;
    }
    if (inet_pton(AF_INET6, copy, &in6->sin6_addr) != 1) return false;
    t->family = in6->sin6_family = AF_INET6;
    in6->sin6_port = htons((uint16_t)port);
    t->address_bytes = sizeof *in6;
    return true;
}

/* ADDRESS[:PORT] */
static bool parse_active(struct target *t, const char *text)
{
    size_t len = strlen(text);
    const char *colon = strrchr(text, ':'), *bracket = strrchr(text, ']');
    unsigned port = TARGET_PORT_DEFAULT;
    bool one_colon = colon && strchr(text, ':') == colon;
    if (!colon || (bracket ? bracket > colon : !one_colon)) return set_address(t, text, len, port);
    return port_of(colon + 1, strlen(colon + 1), &port) && set_address(t, text, (size_t)(colon - text), port);
}

/* [PORT][:ADDRESS] */
static bool parse_passive(struct target *t, const char *text)
{
    unsigned port = TARGET_PORT_DEFAULT;
    size_t digits = strcspn(text, ":");
    if (digits && !port_of(text, digits, &port)) return false;
    const char *address = text[digits] ? text + digits + 1 : "0.0.0.0";
    return set_address(t, address, strlen(address), port);
}

int target_parse(struct target *t, const char *text, struct errmsg *e)
{
    memset(t, 0, sizeof *t);
    for (unsigned i = 0; i < ARRAY_LEN(kinds) && strlen(text) <= TARGET_MAX; i++) {
        size_t len = strlen(kinds[i].prefix);
        if (strncmp(text, kinds[i].prefix, len) != 0) continue;
        const char *rest = text + len;
        bool good;
        t->passive = kinds[i].passive;
        t->tls = kinds[i].tls;
        if (kinds[i].local) {
            good = *rest == '/';
            t->family = AF_UNIX;
            memcpy(t->path, rest, strlen(rest) + 1);
        } else {
            good = t->passive ? parse_passive(t, rest) : parse_active(t, rest);
        }
        if (good) return 0;
    }
    return errmsg_set(e, EINVAL,
                      "\"%.64s\": expected tcp:ADDRESS[:PORT], ssl:ADDRESS[:PORT], unix:/PATH, ptcp:[PORT][:ADDRESS], "
                      "pssl:[PORT][:ADDRESS] or punix:/PATH",
                      text);
}

bool target_is_same(const char *a, const char *b)
{
    struct target x, y;
    struct errmsg e;
    if (strcmp(a, b) == 0) return true;
    if (target_parse(&x, a, &e) < 0 || target_parse(&y, b, &e) < 0) return false;
    return x.passive == y.passive && x.tls == y.tls && x.family == y.family && strcmp(x.path, y.path) == 0 &&
           memcmp(&x.address, &y.address, sizeof x.address) == 0;
}

int target_listen(int *out, const struct target *t, mode_t mode, struct errmsg *e)
{
    int yes = 1;
    *out = -1;
    if (t->family == AF_UNIX) return unix_socket_listen(out, SOCK_STREAM, t->path, mode, e);
    autoclose int fd = socket(t->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return errmsg_sys(e, errno, "socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (const struct sockaddr *)&t->address, t->address_bytes) < 0) return errmsg_sys(e, errno, "bind");
    if (listen(fd, BACKLOG) < 0) return errmsg_sys(e, errno, "listen");
    *out = steal_fd(&fd);
    return 0;
}

int target_connect(int *out, const struct target *t, struct errmsg *e)
{
    int yes = 1;
    *out = -1;
    if (t->family == AF_UNIX) return unix_socket_connect(out, SOCK_STREAM, t->path, e);
    autoclose int fd = socket(t->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return errmsg_sys(e, errno, "socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    int ret = connect(fd, (const struct sockaddr *)&t->address, t->address_bytes) < 0 ? -errno : 0;
    if (ret < 0 && ret != -EINPROGRESS) return errmsg_sys(e, -ret, "connect");
    *out = steal_fd(&fd);
    return ret;
}

int target_connected(int fd)
{
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0) return -errno;
    return -error;
}
