/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a bridge's controller is, as ovs-vsctl and its like write it:
 *
 *     tcp:ADDRESS[:PORT]   ssl:ADDRESS[:PORT]   unix:PATH      the switch connects
 *     ptcp:[PORT][:ADDRESS]   pssl:[PORT][:ADDRESS]   punix:PATH   it is connected to
 *
 * Addresses are numbers (an IPv6 address with a port stands in brackets): nobody here waits for a name server.
 */
#ifndef CONTROL_TARGET_H
#define CONTROL_TARGET_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "base/errmsg.h"

#define TARGET_MAX 150u /* bytes of its text */
#define TARGET_PORT_DEFAULT 6653u

struct target {
    bool passive, tls;
    int family; /* AF_INET, AF_INET6, AF_UNIX */
    struct sockaddr_storage address;
    socklen_t address_bytes;
    char path[TARGET_MAX + 1]; /* AF_UNIX */
};

/* 0, or -EINVAL with what was expected. */
int target_parse(struct target *out, const char *text, struct errmsg *e);
/* Do both texts mean the same? A port may be left out, an address be written in several ways. */
bool target_is_same(const char *a, const char *b);
/* A socket at which to be connected to, mode: of its name. *out is non-blocking. 0 or -errno with the reason. */
int target_listen(int *out, const struct target *t, mode_t mode, struct errmsg *e);
/* Begin to connect: 0, or -EINPROGRESS: when *out can be written to, target_connected() says what became of it. Or another -errno
 * with the reason, and *out is -1. */
int target_connect(int *out, const struct target *t, struct errmsg *e);
int target_connected(int fd); /* 0 or -errno */

#endif
