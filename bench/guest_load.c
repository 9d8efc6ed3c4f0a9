/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load from within a guest whose initial RAM disk has no C library (statically linked):
 *
 *     guest-load disk DEVICE read|write BYTES DEPTH SECONDS      requests of BYTES at random places, DEPTH of them at a time
 *     guest-load echo PORT                                       send back each datagram, for ever
 *     guest-load ask ADDRESS PORT BYTES WINDOW SECONDS           datagrams that are echoed, WINDOW of them on their way
 *
 * The last line is for programs: "load: ok NUMBER in SECONDS", of requests done or of datagrams that came back; "load: FAILED ..." else.
 * What is read is not looked at (guest-writer does that).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DEPTH_MAX 256u
#define BYTES_MAX (4u << 20)
#define DATAGRAM_MAX 1472u
#define LOST_MS 200 /* nothing has come back for so long: what was on its way is lost */

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int fail(const char *what)
{
    printf("load: FAILED: %s: %s\n", what, strerror(errno));
    return 1;
}

static int done(uint64_t count, double begin_s)
{
    printf("load: ok %llu in %.4f\n", (unsigned long long)count, now_s() - begin_s);
    return 0;
}

static unsigned number(const char *text, unsigned max)
{
    unsigned long n = strtoul(text, NULL, 10);
    return (unsigned)(n < 1 ? 1 : n > max ? max : n);
}

/* ---- Disk ---- */

struct disk_load {
    int fd;
    aio_context_t context;
    uint64_t places, random;
    unsigned bytes, depth;
    struct iocb requests[DEPTH_MAX];
};

/* One more, in the place of one that is done. */
static int submit(struct disk_load *d, struct iocb *request)
{
    d->random ^= d->random << 13;
    d->random ^= d->random >> 7;
    d->random ^= d->random << 17;
    request->aio_offset = (int64_t)(d->random % d->places * d->bytes);
    return syscall(SYS_io_submit, d->context, 1L, &request) == 1 ? 0 : -1;
}

static int start(struct disk_load *d, const char *device, const char *way)
{
    uint64_t size_bytes = 0;
    d->fd = open(device, O_RDWR | O_DIRECT);
    if (d->fd < 0 || ioctl(d->fd, BLKGETSIZE64, &size_bytes) < 0) return -1;
    d->places = size_bytes / d->bytes;
    errno = EINVAL;
    if (d->places == 0 || syscall(SYS_io_setup, (long)d->depth, &d->context) < 0) return -1;
    for (unsigned i = 0; i < d->depth; i++) {
        void *buffer = aligned_alloc(4096, (d->bytes + 4095) & ~4095u);
        if (!buffer) return -1;
        memset(buffer, (int)i + 1, d->bytes);
        d->requests[i] = (struct iocb){.aio_fildes = (uint32_t)d->fd,
                                       .aio_buf = (uint64_t)(uintptr_t)buffer,
                                       .aio_nbytes = d->bytes,
                                       .aio_lio_opcode = strcmp(way, "write") == 0 ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD};
        if (submit(d, &d->requests[i]) < 0) return -1;
    }
    return 0;
}

static int disk(char **words)
{
    struct disk_load d = {
        .random = 88172645463325252u, .bytes = number(words[2], BYTES_MAX), .depth = number(words[3], DEPTH_MAX)};
    struct io_event events[DEPTH_MAX];
    if (start(&d, words[0], words[1]) < 0) return fail(words[0]);
    uint64_t count = 0;
    double begin_s = now_s(), end_s = begin_s + atof(words[4]);
    for (unsigned left = d.depth; left > 0;) {
        long n = syscall(SYS_io_getevents, d.context, 1L, (long)d.depth, events, NULL);
        bool more = now_s() < end_s;
        for (long i = 0; i < n; i++) {
            errno = EIO;
            if (events[i].res != (int64_t)d.bytes) return fail("a request");
            if (!more) left--;
            else if (submit(&d, (struct iocb *)(uintptr_t)events[i].obj) < 0) return fail("submitting");
        }
        count += (uint64_t)(n > 0 ? n : 0);
    }
    return done(count, begin_s);
}

/* ---- Datagrams ---- */

static int echo(const char *port)
{
    static char data[DATAGRAM_MAX];
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))}, from;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here) < 0) return fail("binding");
    for (;;) {
        socklen_t length = sizeof from;
        ssize_t n = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
        if (n > 0) sendto(fd, data, (size_t)n, 0, (struct sockaddr *)&from, length);
    }
}

static int ask(char **words)
{
    static char data[DATAGRAM_MAX];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[1]))};
    unsigned bytes = number(words[2], DATAGRAM_MAX), window = number(words[3], DEPTH_MAX);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || inet_pton(AF_INET, words[0], &to.sin_addr) != 1 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        return fail(words[0]);
    uint64_t count = 0;
    double begin_s = now_s(), end_s = begin_s + atof(words[4]);
    for (unsigned to_send = window; now_s() < end_s;) {
        for (; to_send > 0; to_send--)
            send(fd, data, bytes, 0);
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, LOST_MS) == 0) to_send = window;
        while (recv(fd, data, sizeof data, 0) >= 0)
            to_send++;
        count += ready.revents ? to_send : 0;
    }
    return done(count, begin_s);
}

int main(int argc, char **argv)
{
    if (argc == 7 && strcmp(argv[1], "disk") == 0) return disk(argv + 2);
    if (argc == 3 && strcmp(argv[1], "echo") == 0) return echo(argv[2]);
    if (argc == 7 && strcmp(argv[1], "ask") == 0) return ask(argv + 2);
    fprintf(stderr, "usage: guest-load disk DEVICE read|write BYTES DEPTH SECONDS | echo PORT | ask ADDRESS PORT BYTES "
                    "WINDOW SECONDS\n");
    return 2;
}
