/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-user messages of a front end: see frontend.h. A message is a header of three 32-bit words,
 * then a payload, with descriptors beside the header (QEMU's docs/interop/vhost-user.rst).
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frontend.h"

const char *frontend_request_name(uint32_t request)
{
    static const char *const names[] = {
        [FE_GET_FEATURES] = "GET_FEATURES",
        [FE_SET_FEATURES] = "SET_FEATURES",
        [FE_SET_OWNER] = "SET_OWNER",
        [FE_SET_MEM_TABLE] = "SET_MEM_TABLE",
        [FE_SET_VRING_NUM] = "SET_VRING_NUM",
        [FE_SET_VRING_ADDR] = "SET_VRING_ADDR",
        [FE_SET_VRING_BASE] = "SET_VRING_BASE",
        [FE_GET_VRING_BASE] = "GET_VRING_BASE",
        [FE_SET_VRING_KICK] = "SET_VRING_KICK",
        [FE_SET_VRING_CALL] = "SET_VRING_CALL",
        [FE_SET_VRING_ERR] = "SET_VRING_ERR",
        [FE_GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
        [FE_SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
        [FE_GET_QUEUE_NUM] = "GET_QUEUE_NUM",
        [FE_SET_VRING_ENABLE] = "SET_VRING_ENABLE",
        [FE_SET_BACKEND_REQ_FD] = "SET_BACKEND_REQ_FD",
        [FE_GET_CONFIG] = "GET_CONFIG",
        [FE_SET_CONFIG] = "SET_CONFIG",
        [FE_GET_INFLIGHT_FD] = "GET_INFLIGHT_FD",
        [FE_SET_INFLIGHT_FD] = "SET_INFLIGHT_FD",
        [FE_RESET_DEVICE] = "RESET_DEVICE",
        [FE_GET_MAX_MEM_SLOTS] = "GET_MAX_MEM_SLOTS",
        [FE_ADD_MEM_REG] = "ADD_MEM_REG",
        [FE_REM_MEM_REG] = "REM_MEM_REG",
        [FE_SET_STATUS] = "SET_STATUS",
        [FE_GET_STATUS] = "GET_STATUS",
    };
    const char *name = request < sizeof names / sizeof names[0] ? names[request] : NULL;
    return name ? name : "?";
}

int frontend_send_raw(struct frontend *f, const void *bytes, size_t length, const int *fds, unsigned fd_count)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int) * FRONTEND_FDS_MAX)];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = length};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd_count > FRONTEND_FDS_MAX) return -EINVAL;
    if (fd_count) {
        m.msg_control = control.room;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
    }
    while (iov.iov_len) {
        ssize_t n = sendmsg(f->sock, &m, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno == ECONNRESET ? -EPIPE : -errno;
        iov.iov_base = (char *)iov.iov_base + n;
        iov.iov_len -= (size_t)n;
        m.msg_control = NULL; /* descriptors went with the first byte */
        m.msg_controllen = 0;
    }
    return 0;
}

/* ---- Receiving ---- */

struct fd_basket {
    int *fds;
    unsigned count, room;
};

static void basket_take(struct fd_basket *b, struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
            if (b->count < b->room) {
                b->fds[b->count++] = fd;
            } else {
                close(fd);
            }
        }
    }
}

static int recv_exactly(struct frontend *f, void *to, size_t length, struct fd_basket *basket)
{
    while (length) {
        struct pollfd p = {.fd = f->sock, .events = POLLIN};
        int ready = poll(&p, 1, (int)f->args.reply_wait_ms);
        if (ready == 0) return -ETIMEDOUT;
        if (ready < 0) {
            if (errno == EINTR) continue;
            return -errno;
        }
        union {
            struct cmsghdr align;
            char room[CMSG_SPACE(sizeof(int) * FRONTEND_FDS_MAX)];
        } control;
        struct iovec iov = {.iov_base = to, .iov_len = length};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t n = recvmsg(f->sock, &m, MSG_CMSG_CLOEXEC);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n == 0 || (n < 0 && errno == ECONNRESET)) return -EPIPE;
        if (n < 0) return -errno;
        basket_take(basket, &m);
        to = (char *)to + n;
        length -= (size_t)n;
    }
    return 0;
}

int frontend_recv_raw(struct frontend *f, struct fe_msg_header *h, void *payload, size_t capacity, int *fds,
                      unsigned *fd_count)
{
    struct fd_basket basket = {.fds = fds, .room = fd_count ? *fd_count : 0};
    int ret = recv_exactly(f, h, sizeof *h, &basket);
    if (ret == 0 && h->size_bytes > capacity) ret = -EPROTO;
    if (ret == 0) ret = recv_exactly(f, payload, h->size_bytes, &basket);
    if (ret < 0) {
        while (basket.count) {
            close(fds[--basket.count]);
        }
    }
    if (fd_count) *fd_count = basket.count;
    return ret < 0 ? ret : (int)h->size_bytes;
}

/* ---- Asking and telling ---- */

static int send_request(struct frontend *f, enum frontend_request request, uint32_t flags, const void *payload,
                        size_t length, const int *fds, unsigned fd_count)
{
    struct {
        struct fe_msg_header h;
        uint8_t payload[FE_PAYLOAD_MAX];
    } msg = {.h = {.request = request, .flags = FE_FLAG_VERSION | flags, .size_bytes = (uint32_t)length}};
    if (length > sizeof msg.payload) return -EINVAL;
    if (length) memcpy(msg.payload, payload, length);
    return frontend_send_raw(f, &msg, sizeof msg.h + length, fds, fd_count);
}

static int recv_answer(struct frontend *f, enum frontend_request request, void *reply, size_t capacity, int *fd,
                       struct errmsg *e)
{
    struct fe_msg_header h;
    int got_fd = -1;
    unsigned fd_count = 1;
    int ret = frontend_recv_raw(f, &h, reply, capacity, &got_fd, &fd_count);
    if (ret < 0) return errmsg_sys(e, -ret, "answer to %s", frontend_request_name(request));
    if (fd_count && !fd) close(got_fd);
    if (fd) *fd = fd_count ? got_fd : -1;
    if (h.request == request && (h.flags & FE_FLAG_REPLY)) return ret;
    if (fd && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return errmsg_set(e, EPROTO, "answer to %s: got request %u (%s), flags 0x%x", frontend_request_name(request),
                      h.request, frontend_request_name(h.request), h.flags);
}

int frontend_tell(struct frontend *f, enum frontend_request request, const void *payload, size_t length, const int *fds,
                  unsigned fd_count, struct errmsg *e)
{
    bool ack = f->protocol & (UINT64_C(1) << FE_PROTO_REPLY_ACK);
    int ret = send_request(f, request, ack ? FE_FLAG_NEED_REPLY : 0, payload, length, fds, fd_count);
    if (ret < 0) return errmsg_sys(e, -ret, "sending %s", frontend_request_name(request));
    if (!ack) return 0;
    uint64_t result = 0;
    ret = recv_answer(f, request, &result, sizeof result, NULL, e);
    if (ret < 0) return ret;
    if (ret != sizeof result)
        return errmsg_set(e, EPROTO, "%s: acknowledged with %d bytes, expected 8", frontend_request_name(request), ret);
    if (result != 0)
        return errmsg_set(e, EREMOTEIO, "%s: the back end refused it (%llu)", frontend_request_name(request),
                          (unsigned long long)result);
    return 0;
}

int frontend_ask(struct frontend *f, enum frontend_request request, const void *payload, size_t length, void *reply,
                 size_t capacity, int *fd, struct errmsg *e)
{
    if (fd) *fd = -1;
    int ret = send_request(f, request, 0, payload, length, NULL, 0);
    if (ret < 0) return errmsg_sys(e, -ret, "sending %s", frontend_request_name(request));
    return recv_answer(f, request, reply, capacity, fd, e);
}
