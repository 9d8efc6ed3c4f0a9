/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection, made so that a kill at any instruction neither loses nor repeats anything on it.
 *
 * Receiving: a message is peeked at, its descriptors too (the kernel duplicates them), and stays in the
 * socket until it was carried out. A peek stops behind the bytes that descriptors came with, so
 * it is done piece by piece with SO_PEEK_OFF, which is set anew each time. And it looks too far: where what was
 * asked for came without descriptors, Linux also shows those of the next piece, though none of its bytes
 * (unix_stream_read_generic()). So when more is queued than this message, descriptors past those
 * that it may have are taken for the next one's, which will show them again.
 *
 * Sending: an answer is written to the reply file, a memfd that the next process is given, and goes from
 * there to the socket by sendfile(2), which moves the file's position in the very call that
 * sends. Whatever is left between the position and the answer's end is still to be sent, exactly. The file's pages
 * travel by reference: bytes in it are not reused before the front end has read all that it was
 * sent, or a lap of the file later, which is more than a socket holds.
 * (An answer with a descriptor cannot go that way: it is sent between two marks.)
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "guest/notify.h"
#include "guest/vhost_user_session.h"

#define REPLY_SLOT_BYTES 1024u
#define REPLY_FILE_BYTES (REPLY_SLOT_BYTES * 512u) /* sparse; a socket holds some 280 answers unread */
static_assert(sizeof(struct vu_header) + VU_REPLY_MAX <= REPLY_SLOT_BYTES, "an answer fits its slot");

/* A send on a closed connection is an error like any other, not the end of the process. */
static void ignore_sigpipe(void)
{
    struct sigaction now;
    if (sigaction(SIGPIPE, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL)
        signal(SIGPIPE, SIG_IGN);
}

int vhost_socket_prepare(int fd, struct errmsg *e)
{
    int domain = 0, type = 0;
    socklen_t length = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0)
        return errmsg_sys(e, errno, "vhost-user connection");
    length = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0) return errmsg_sys(e, errno, "vhost-user connection");
    if (domain != AF_UNIX || type != SOCK_STREAM)
        return errmsg_set(e, EPROTOTYPE, "vhost-user connection: not a Unix stream socket");
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) return errmsg_sys(e, errno, "vhost-user connection");
    ignore_sigpipe();
    return 0;
}

/* ---- receiving ---- */

static void take_fds(struct vhost_message *m, struct msghdr *h)
{
    if (h->msg_flags & MSG_CTRUNC) m->fds_lost = true;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (m->fd_count < VU_FDS_MAX) {
                m->fd[m->fd_count++] = fd;
            } else {
                guest_fd_drop(fd);
                m->fds_lost = true;
            }
        }
    }
}

static void give_back_fds(struct vhost_message *m, unsigned keep)
{
    while (m->fd_count > keep)
        guest_fd_drop(m->fd[--m->fd_count]);
    m->fds_lost = false;
}

/*
 * Peek at the first `bytes` of the socket. Returns how many are there (fewer: they have not come yet), or
 * -ENOTCONN when the connection ended before them. fds: NULL, or where descriptors go.
 */
static ssize_t peek(int conn, void *to, size_t bytes, struct vhost_message *fds)
{
    int from_start = 0;
    if (setsockopt(conn, SOL_SOCKET, SO_PEEK_OFF, &from_start, sizeof from_start) < 0) return -errno;
    size_t done = 0;
    while (done < bytes) {
        union {
            struct cmsghdr align;
            char room[CMSG_SPACE(VU_FDS_MAX * sizeof(int))];
        } control;
        struct iovec iov = {.iov_base = (char *)to + done, .iov_len = bytes - done};
        struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
        if (fds) {
            h.msg_control = control.room;
            h.msg_controllen = sizeof control.room;
        }
        ssize_t n = recvmsg(conn, &h, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (n < 0) return errno == ECONNRESET ? -ENOTCONN : -errno;
        if (n == 0) return -ENOTCONN;
        if (fds) take_fds(fds, &h);
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static int peek_failed(ssize_t ret, struct errmsg *e)
{
    if (ret == -ENOTCONN) return errmsg_set(e, ENOTCONN, "the front end closed the connection");
    return errmsg_sys(e, (int)-ret, "receiving from the front end");
}

int vhost_socket_peek(struct vhost_session *s, struct errmsg *e)
{
    struct vhost_message *m = &s->msg;
    struct {
        struct vu_header head;
        uint8_t payload[VU_PAYLOAD_MAX];
    } buf;
    ssize_t n = peek(s->conn_fd, &buf.head, sizeof buf.head, NULL);
    if (n < 0) return peek_failed(n, e);
    if ((size_t)n < sizeof buf.head) return 0;
    if (buf.head.size > VU_PAYLOAD_MAX)
        return errmsg_set(e, EMSGSIZE, "message %u has %u bytes, expected at most %u", buf.head.request, buf.head.size,
                          VU_PAYLOAD_MAX);
    size_t bytes = sizeof buf.head + buf.head.size;
    n = peek(s->conn_fd, &buf, bytes, NULL);
    if (n < 0) return peek_failed(n, e);
    if ((size_t)n < bytes) return 0;

    m->fd_count = 0;
    m->fds_lost = m->answers = false;
    m->reply_bytes = 0;
    m->reply_fd = -1;
    n = peek(s->conn_fd, &buf, bytes, m);
    if (n < 0 || (size_t)n != bytes) {
        vhost_message_close_fds(m);
        return n < 0 ? peek_failed(n, e) : errmsg_set(e, EIO, "a message shrank in the socket");
    }
    m->head = buf.head;
    memcpy(m->payload, buf.payload, buf.head.size);
    int queued = 0;
    if (m->fd_count > vhost_message_fds_most(m) && ioctl(s->conn_fd, SIOCINQ, &queued) == 0 && (size_t)queued > bytes)
        give_back_fds(m, vhost_message_fds_most(m));
    return 1;
}

bool vhost_socket_head_is(struct vhost_session *s, const struct vu_header *head, const uint8_t *payload)
{
    struct {
        struct vu_header head;
        uint8_t payload[VU_PAYLOAD_MAX];
    } buf;
    size_t bytes = sizeof buf.head + head->size;
    return peek(s->conn_fd, &buf, bytes, NULL) == (ssize_t)bytes && memcmp(&buf.head, head, sizeof *head) == 0 &&
           memcmp(buf.payload, payload, head->size) == 0;
}

/* Descriptors that come with it are closed by the kernel: there is no room to put them. */
int vhost_socket_consume(struct vhost_session *s, size_t bytes)
{
    char sink[1024];
    while (bytes > 0) {
        ssize_t n = recv(s->conn_fd, sink, min_u64(bytes, sizeof sink), MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 ? -errno : -ENOTCONN;
        bytes -= (size_t)n;
    }
    return 0;
}

/* ---- answering ---- */

int vhost_reply_file_new(int *out)
{
    int fd = memfd_create("vhost-user-reply", MFD_CLOEXEC);
    if (fd < 0) return -errno;
    if (ftruncate(fd, REPLY_FILE_BYTES) < 0) {
        int ret = -errno;
        close(fd);
        return ret;
    }
    *out = fd;
    return 0;
}

int vhost_reply_store(struct vhost_session *s, struct errmsg *e)
{
    const struct vhost_message *m = &s->msg;
    struct vhost_state *st = s->state;
    if (!m->answers) {
        st->reply_bytes = 0;
        st->reply_has_fd = 0;
        return 0;
    }
    char reply[REPLY_SLOT_BYTES];
    struct vu_header head = {m->head.request, VU_VERSION | VU_FLAG_REPLY, m->reply_bytes};
    memcpy(reply, &head, sizeof head);
    memcpy(reply + sizeof head, m->reply, m->reply_bytes);
    size_t bytes = sizeof head + m->reply_bytes;

    int unread = 1;
    ioctl(s->conn_fd, SIOCOUTQ, &unread);
    uint64_t start = unread == 0 ? 0 : align_down(st->reply_start, REPLY_SLOT_BYTES) + REPLY_SLOT_BYTES;
    if (start >= REPLY_FILE_BYTES) start = 0;
    if (pwrite(s->reply_fd, reply, bytes, (off_t)start) != (ssize_t)bytes ||
        lseek(s->reply_fd, (off_t)start, SEEK_SET) < 0)
        return errmsg_sys(e, errno, "writing an answer down");
    st->reply_start = start;
    st->reply_bytes = (uint32_t)bytes;
    st->reply_has_fd = m->reply_fd >= 0;
    return 0;
}

static int send_with_fd(struct vhost_session *s)
{
    char reply[REPLY_SLOT_BYTES];
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    if (pread(s->reply_fd, reply, s->state->reply_bytes, (off_t)s->state->reply_start) !=
        (ssize_t)s->state->reply_bytes)
        return -EIO;
    struct iovec iov = {reply, s->state->reply_bytes};
    struct msghdr h = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    control.head =
        (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.head), &s->msg.reply_fd, sizeof(int));
    vhost_state_mark(&s->state->step, VHOST_STEP_SENDING);
    ssize_t n = sendmsg(s->conn_fd, &h, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) {
        vhost_state_mark(&s->state->step, VHOST_STEP_CONSUMED);
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    }
    /* A stream socket takes so few bytes whole or not at all. */
    return (size_t)n == iov.iov_len ? 1 : -EIO;
}

int vhost_reply_send(struct vhost_session *s)
{
    const struct vhost_state *st = s->state;
    if (st->reply_bytes == 0) return 1;
    if (st->reply_has_fd) return send_with_fd(s);
    off_t at = lseek(s->reply_fd, 0, SEEK_CUR);
    if (at < 0) return -errno;
    uint64_t end = st->reply_start + st->reply_bytes;
    if ((uint64_t)at < st->reply_start || (uint64_t)at > end) return -EPROTO;
    while ((uint64_t)at < end) {
        ssize_t n = sendfile(s->conn_fd, s->reply_fd, NULL, (size_t)(end - (uint64_t)at));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno == EAGAIN ? 0 : -errno;
        if (n == 0) return -EIO;
        at += n;
    }
    return 1;
}
