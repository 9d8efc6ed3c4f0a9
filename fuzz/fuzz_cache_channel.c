/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of the read cache, both ways. The first byte of the input chooses the side:
 *
 *   even  datagrams go to the service, as from a client that a guest took over. It must live on, and a well-behaved
 *         client beside it must go on reading the right bytes through it.
 *   odd   datagrams go to a client, as from a service that went mad. Its reads must still end, with the right bytes.
 *
 * Then datagrams: a byte that says what to patch, a byte of length, the bytes. Patching puts a valid type, layer or
 * cookie in, so that the fuzzer need not guess them.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/log.h"
#include "cache/client.h"
#include "cache/service.h"
#include "disk/file.h"

#define IMAGE_BYTES (UINT64_C(512) << 10)
#define READ_BYTES 8192u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct cache_service *service;
static char image_path[] = "/tmp/fuzz-cache-XXXXXX";
static int image_fd;
static uint8_t image[IMAGE_BYTES];

struct reader {
    struct engine *engine;
    struct engine_file file;
    struct layer *own, *cached;
    struct cache_client *client;
    struct disk_chans chans;
    bool done;
    int ret;
};
static struct reader reader;

static int open_channel(void)
{
    struct cache_layer_want want = {.fd = dup(image_fd), .path = image_path, .format = DISK_FORMAT_RAW};
    int fd = -1;
    int ret = cache_service_connect(service, &want, 1, &fd, 1, NULL);
    assert(ret == 0);
    return fd;
}

static void set_up(void)
{
    log_setup("fuzz", LOG_LEVEL_ERROR);
    image_fd = mkstemp(image_path);
    assert(image_fd >= 0);
    unlink(image_path);
    for (size_t i = 0; i < sizeof image; i++)
        image[i] = (uint8_t)(i * 31 + i / 4096);
    assert(pwrite(image_fd, image, sizeof image, 0) == (ssize_t)sizeof image);
    const struct cache_service_config config = {.budget_bytes = CACHE_BUDGET_MIN_BYTES};
    int ret = cache_service_start(&service, &config, NULL);
    if (ret == 0) ret = engine_uring_new(&reader.engine, 32, NULL);
    if (ret == 0) ret = disk_file_adopt(&reader.file, dup(image_fd), image_path, NULL);
    const struct layer_args args = {.file = &reader.file, .maker = &engine_uring_maker};
    if (ret == 0) ret = layer_open(&reader.own, DISK_FORMAT_RAW, &args, NULL);
    if (ret == 0) ret = cache_layer_open(&reader.cached, reader.own, NULL, 0, NULL);
    if (ret == 0) ret = cache_client_new(&reader.client, reader.engine);
    if (ret == 0) ret = disk_chans_open(&reader.chans, &reader.cached, 1, reader.engine);
    assert(ret == 0);
    cache_client_join(reader.client, reader.chans.chan[0]);
}

static void read_done(struct disk_req *req, int ret)
{
    (void)req;
    reader.done = true;
    reader.ret = ret;
}

/* Whatever happened: the right bytes come. `feed` is called until they have. */
static void read_and_check(uint64_t offset, void (*feed)(void *arg), void *arg)
{
    static uint8_t buf[READ_BYTES];
    struct iovec iov = {buf, sizeof buf};
    struct disk_req req = {.op = DISK_READ,
                           .offset_bytes = offset,
                           .length_bytes = sizeof buf,
                           .iov = &iov,
                           .iov_count = 1,
                           .done = read_done};
    reader.done = false;
    layer_submit(reader.chans.chan[0], &req);
    while (!reader.done) {
        if (feed) feed(arg);
        assert(engine_sleep(reader.engine, UINT64_C(10000000)) >= 0);
    }
    assert(reader.ret == 0 && memcmp(buf, image + offset, sizeof buf) == 0);
}

/* The next datagram of the input into msg; its length, or -1 at the end. */
static int next_datagram(struct cursor *in, uint8_t *msg, uint8_t *patch)
{
    const uint8_t *head = cursor_pull(in, 2);
    const uint8_t *body = head ? cursor_pull(in, head[1]) : NULL;
    if (!body) return -1;
    *patch = head[0];
    memcpy(msg, body, head[1]);
    return head[1];
}

static void fuzz_service(struct cursor *in)
{
    int fd = open_channel();
    if (!cache_client_connected(reader.client)) cache_client_attach(reader.client, open_channel());
    uint8_t msg[256], patch;
    for (int n; (n = next_datagram(in, msg, &patch)) >= 0;) {
        struct cache_fill fill;
        if (patch & 1 && n >= (int)sizeof fill) {
            memcpy(&fill, msg, sizeof fill);
            fill.type = CACHE_MSG_FILL;
            if (patch & 2) fill.layer = 0;
            if (patch & 4) fill.first_block %= IMAGE_BYTES / CACHE_BLOCK_BYTES;
            if (patch & 8) fill.block_count %= 16;
            memcpy(msg, &fill, sizeof fill);
            if (patch & 16) n = sizeof fill;
        }
        if (send(fd, msg, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
    }
    cache_service_drop(service, NULL); /* also: it answers, so it lives */
    read_and_check((uint64_t)(in->left_bytes * READ_BYTES) % IMAGE_BYTES, NULL, NULL);
    close(fd);
}

struct mad_service {
    struct cursor *in;
    int fd;
};

/* Answer what the client asked with the next datagram; hang up when there is none left. */
static void mad_answer(void *arg)
{
    struct mad_service *m = arg;
    struct cache_fill fill;
    uint8_t msg[256], patch = 0;
    if (m->fd < 0 || recv(m->fd, &fill, sizeof fill, MSG_DONTWAIT) != (ssize_t)sizeof fill) return;
    int n = next_datagram(m->in, msg, &patch);
    if (n < 0) {
        close(m->fd);
        m->fd = -1;
        return;
    }
    struct cache_filled filled;
    if (patch & 1 && n >= (int)sizeof filled) {
        memcpy(&filled, msg, sizeof filled);
        filled.type = CACHE_MSG_FILLED;
        if (patch & 2) filled.cookie = fill.cookie;
        memcpy(msg, &filled, sizeof filled);
        if (patch & 4) n = sizeof filled;
    }
    send(m->fd, msg, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int sealed_memory(uint64_t bytes)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    return fd;
}

static void send_hello(int fd, const struct cache_hello *hello, size_t bytes, unsigned fd_count)
{
    int fds[3] = {sealed_memory(IMAGE_BYTES), sealed_memory(4096), sealed_memory(4096)};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof fds)];
    } control = {0};
    struct iovec iov = {(void *)(uintptr_t)hello, bytes};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd_count) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(cmsg), fds, fd_count * sizeof(int));
    }
    sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    for (unsigned i = 0; i < 3; i++)
        close(fds[i]);
}

static void fuzz_client(struct cursor *in)
{
    int pair[2];
    assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    struct cache_hello hello = {.type = CACHE_MSG_HELLO,
                                .version = CACHE_PROTOCOL_VERSION,
                                .layer_count = 1,
                                .layer_size_bytes = {IMAGE_BYTES}};
    uint8_t msg[256], patch = 0;
    int n = next_datagram(in, msg, &patch);
    if (n > 0 && patch & 1) memcpy(&hello, msg, min_u64((uint64_t)n, sizeof hello));
    send_hello(pair[0], &hello, patch & 2 ? sizeof hello - patch / 4 : sizeof hello, patch & 1 ? patch / 4 % 4 : 3);
    cache_client_attach(reader.client, pair[1]);
    struct mad_service m = {.in = in, .fd = pair[0]};
    read_and_check((uint64_t)(in->left_bytes * READ_BYTES) % IMAGE_BYTES, mad_answer, &m);
    cache_client_attach(reader.client, -1);
    if (m.fd >= 0) close(m.fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!service) set_up();
    struct cursor in = cursor_over(data, size);
    const uint8_t *side = cursor_pull(&in, 1);
    if (!side) return 0;
    if (*side % 2) fuzz_client(&in);
    else fuzz_service(&in);
    return 0;
}
