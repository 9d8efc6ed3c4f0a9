/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ramdisk_server SOCKET FILE [packed]: a vhost-user disk whose memory is FILE, for whoever connects, one front end
 * after another, every message told on standard error. To look at what a front end really sends, and does when
 * this is killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "guest/vhost_user_test/ramdisk.h"

struct server {
    struct loop *loop;
    struct loop_watch watch;
    struct ramdisk disk;
    struct vhost_session *session;
    struct vhost_args args;
};

static void ended(void *owner, const char *why)
{
    struct server *s = owner;
    log_info("session ended: %s", why);
    vhost_session_free(s->session);
    s->session = NULL;
}

static void connected(struct loop_watch *w, uint32_t events)
{
    struct server *s = container_of(w, struct server, watch);
    struct errmsg e;
    (void)events;
    int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) return;
    if (s->session) {
        log_info("a second front end: refused");
        close(fd);
        return;
    }
    log_info("a front end connects");
    if (vhost_session_new(&s->session, &s->args, fd, &e) < 0) log_error("%s", e.text);
}

int main(int argc, char **argv)
{
    static struct server s;
    if (argc < 3) {
        fprintf(stderr, "usage: ramdisk_server SOCKET FILE [packed]\n");
        return 2;
    }
    log_setup("ramdisk", LOG_LEVEL_DEBUG);
    guest_memory_init();
    struct stat st;
    int file = open(argv[2], O_RDWR | O_CLOEXEC);
    if (file < 0 || fstat(file, &st) < 0) {
        log_error("%s: %s", argv[2], strerror(errno));
        return 1;
    }
    size_t bytes = (size_t)st.st_size;
    char *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    s.loop = loop_new();
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s", argv[1]);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(argv[1]);
    if (data == MAP_FAILED || !s.loop || bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(fd, 4) < 0) {
        log_error("%s: %s", argv[1], strerror(errno));
        return 1;
    }
    ramdisk_init(&s.disk, s.loop, data, bytes, argc > 3 ? UINT64_C(1) << VIRTIO_F_RING_PACKED : 0);
    s.args = (struct vhost_args){.loop = s.loop,
                                 .ops = &s.disk.ops,
                                 .device = &s.disk,
                                 .owner = &s,
                                 .state = calloc(1, vhost_state_bytes()),
                                 .ended = ended};
    loop_add(s.loop, &s.watch, fd, EPOLLIN, connected);
    return loop_run(s.loop) < 0;
}
