/* SPDX-License-Identifier: Apache-2.0 */
#include "port/test_net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define STREAM_PORT 5001
#define ECHO_PORT 5002
#define WAIT_S 20
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

bool net_permitted(void)
{
    if (unshare(CLONE_NEWNET) < 0) return false;
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0) return false;
    close(fd);
    return true;
}

int net_here(void)
{
    int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

void net_enter(int net)
{
    assert_int_equal(setns(net, CLONE_NEWNET), 0);
}

static int shell(const char *command)
{
    return system(command); /* NOLINT(cert-env33-c): the tests' own command lines */
}

int net_new(void)
{
    int before = net_here();
    assert_int_equal(unshare(CLONE_NEWNET), 0);
    int made = net_here();
    assert_int_equal(shell("ip link set lo up"), 0);
    net_enter(before);
    close(before);
    return made;
}

void net_run(int net, const char *format, ...)
{
    char command[512];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args); /* NOLINT(clang-analyzer-valist.Uninitialized) */
    va_end(args);
    int before = net_here();
    net_enter(net);
    int ret = shell(command);
    if (ret) print_error("%s\n", command);
    assert_int_equal(ret, 0);
    net_enter(before);
    close(before);
}

/* ---- the hub ---- */

struct hub_thread {
    struct hub *hub;
    struct packet_pool *pool;
};

static void *hub_thread_new(void *arg, struct packet_pool *pool)
{
    struct hub_thread *t = calloc(1, sizeof *t);
    assert_non_null(t);
    t->hub = arg;
    t->pool = pool;
    return t;
}

static void hub_thread_free(void *thread)
{
    free(thread);
}

static void hub_input(void *thread, struct port *in, struct packet *const *packets, unsigned count)
{
    struct hub_thread *t = thread;
    struct hub *h = t->hub;
    for (unsigned i = 0; i < count; i++) {
        const struct packet *p = packets[i];
        if (p->length_bytes > 2000) atomic_fetch_add(&h->large, 1);
        if (p->offload.csum_partial) atomic_fetch_add(&h->partial, 1);
        if (p->length_bytes > atomic_load(&h->largest_bytes)) atomic_store(&h->largest_bytes, p->length_bytes);
    }
    port_send(in == h->ports[0] ? h->ports[1] : h->ports[0], packets, count, t->pool);
}

void hub_init(struct hub *h, struct port *a, struct port *b)
{
    memset(h, 0, sizeof *h);
    h->sink = (struct runner_sink){
        .thread_new = hub_thread_new, .thread_free = hub_thread_free, .input = hub_input, .arg = h};
    h->ports[0] = a;
    h->ports[1] = b;
}

void hub_add(struct hub *h, struct port_source *s)
{
    assert_true(h->count < ARRAY_LEN(h->runners));
    assert_int_equal(runner_new(&h->runners[h->count], "hub", &h->sink, RUNNER_POLL_NS_DEFAULT), 0);
    assert_int_equal(runner_add(h->runners[h->count], s), 0);
    h->sources[h->count++] = s;
}

void hub_stop(struct hub *h)
{
    for (unsigned i = 0; i < h->count; i++)
        runner_remove(h->sources[i]);
    for (unsigned i = 0; i < h->count; i++)
        runner_free(h->runners[i]);
    h->count = 0;
}

struct broken {
    const struct port_source *source;
    bool broken;
};

static void look_broken(void *arg)
{
    struct broken *b = arg;
    b->broken = atomic_load(&b->source->broken) != 0;
}

bool hub_broken(struct hub *h, unsigned i)
{
    struct broken b = {.source = h->sources[i]};
    runner_call(h->runners[i], look_broken, &b);
    return b.broken;
}

/* ---- sockets ---- */

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
    socklen_t bytes;
};

static struct address address_of(const char *text, uint16_t port)
{
    struct address a = {0};
    if (strchr(text, ':')) {
        a.v6.sin6_family = AF_INET6;
        a.v6.sin6_port = htons(port);
        assert_int_equal(inet_pton(AF_INET6, text, &a.v6.sin6_addr), 1);
        a.bytes = sizeof a.v6;
    } else {
        a.v4.sin_family = AF_INET;
        a.v4.sin_port = htons(port);
        assert_int_equal(inet_pton(AF_INET, text, &a.v4.sin_addr), 1);
        a.bytes = sizeof a.v4;
    }
    return a;
}

static int socket_in(int net, const struct address *a, int type)
{
    int before = net_here(), one = 1;
    net_enter(net);
    int fd = socket(a->any.sa_family, type | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    net_enter(before);
    close(before);
    struct timeval wait = {.tv_sec = WAIT_S};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    return fd;
}

static void pattern(uint8_t *to, uint64_t at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)((at + i) * 7 + ((at + i) >> 8) * 13 + ((at + i) >> 16));
}

struct receiver {
    int listen_fd;
    uint64_t bytes, right;
};

static void *receive_stream(void *arg)
{
    struct receiver *r = arg;
    uint8_t got[16384], wanted[16384];
    int fd = accept(r->listen_fd, NULL, NULL);
    if (fd < 0) return NULL;
    struct timeval wait = {.tv_sec = WAIT_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    while (r->right < r->bytes) {
        ssize_t n = recv(fd, got, sizeof got, 0);
        if (n <= 0) break;
        pattern(wanted, r->right, (size_t)n);
        if (memcmp(got, wanted, (size_t)n) != 0) break;
        r->right += (uint64_t)n;
    }
    close(fd);
    return NULL;
}

void net_stream(int from, int to, const char *text, uint64_t bytes)
{
    struct address a = address_of(text, STREAM_PORT);
    struct receiver r = {.listen_fd = socket_in(to, &a, SOCK_STREAM), .bytes = bytes};
    assert_int_equal(bind(r.listen_fd, &a.any, a.bytes), 0);
    assert_int_equal(listen(r.listen_fd, 1), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, receive_stream, &r), 0);
    int fd = socket_in(from, &a, SOCK_STREAM);
    assert_int_equal(connect(fd, &a.any, a.bytes), 0);
    static uint8_t out[256 * 1024];
    for (uint64_t at = 0; at < bytes;) {
        size_t n = (size_t)min_u64(sizeof out, bytes - at);
        pattern(out, at, n);
        for (size_t done = 0; done < n;) {
            ssize_t sent = send(fd, out + done, n - done, MSG_NOSIGNAL);
            assert_true(sent > 0);
            done += (size_t)sent;
        }
        at += n;
    }
    pthread_join(thread, NULL);
    close(fd);
    close(r.listen_fd);
    assert_int_equal(r.right, bytes);
}

struct echo {
    int fd;
    unsigned count;
};

static void *echo_datagrams(void *arg)
{
    struct echo *e = arg;
    uint8_t got[65536];
    for (unsigned i = 0; i < e->count; i++) {
        struct address from = {.bytes = sizeof from.v6};
        ssize_t n = recvfrom(e->fd, got, sizeof got, 0, &from.any, &from.bytes);
        if (n < 0) break;
        (void)!sendto(e->fd, got, (size_t)n, 0, &from.any, from.bytes);
    }
    return NULL;
}

unsigned net_echo(int from, int to, const char *text, unsigned count, unsigned bytes, unsigned segment)
{
    struct address a = address_of(text, ECHO_PORT);
    unsigned each = segment ? segment : bytes, pieces = (bytes + each - 1) / each, right = 0;
    struct echo e = {.fd = socket_in(to, &a, SOCK_DGRAM), .count = count * pieces};
    assert_int_equal(bind(e.fd, &a.any, a.bytes), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, echo_datagrams, &e), 0);
    int fd = socket_in(from, &a, SOCK_DGRAM), size = (int)segment;
    if (segment) assert_int_equal(setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size), 0);
    assert_int_equal(connect(fd, &a.any, a.bytes), 0);
    uint8_t *out = malloc(bytes), *got = malloc(65536);
    for (unsigned i = 0; i < count; i++) {
        pattern(out, i, bytes);
        assert_int_equal(send(fd, out, bytes, 0), bytes);
        for (unsigned at = 0; at < bytes; at += each) {
            unsigned wanted = bytes - at < each ? bytes - at : each;
            ssize_t n = recv(fd, got, 65536, 0);
            if (n == (ssize_t)wanted && memcmp(got, out + at, wanted) == 0) right++;
        }
    }
    pthread_join(thread, NULL);
    free(out);
    free(got);
    close(fd);
    close(e.fd);
    return right;
}

void net_shout(int net, const char *device, const char *text)
{
    struct address a = address_of(text, ECHO_PORT);
    net_run(net, "ip neigh replace %s lladdr 02:00:00:00:00:99 dev %s", text, device);
    int fd = socket_in(net, &a, SOCK_DGRAM);
    assert_int_equal(sendto(fd, "x", 1, 0, &a.any, a.bytes), 1);
    close(fd);
    net_run(net, "ip neigh del %s dev %s", text, device);
}

static uint64_t sum_of(const char *path, const char *prefix, const char *field)
{
    /* Two lines of the same prefix: names, then numbers. */
    char names[2048], numbers[2048];
    uint64_t sum = 0;
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(names, sizeof names, f) && fgets(numbers, sizeof numbers, f)) {
        if (strncmp(names, prefix, strlen(prefix)) != 0) continue;
        char *n = NULL, *v = NULL;
        char *name = strtok_r(names, " \n", &n), *value = strtok_r(numbers, " \n", &v);
        for (; name && value; name = strtok_r(NULL, " \n", &n), value = strtok_r(NULL, " \n", &v))
            if (strcmp(name, field) == 0) sum += strtoull(value, NULL, 10);
    }
    fclose(f);
    return sum;
}

uint64_t net_bad_checksums(int net)
{
    int before = net_here();
    net_enter(net);
    uint64_t sum = sum_of("/proc/thread-self/net/snmp", "Tcp:", "InCsumErrors") +
                   sum_of("/proc/thread-self/net/snmp", "Udp:", "InCsumErrors");
    net_enter(before);
    close(before);
    return sum;
}

static unsigned open_descriptors(int *highest)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    *highest = 0;
    for (struct dirent *entry; (entry = readdir(d)) != NULL;) {
        int fd = (int)strtol(entry->d_name, NULL, 10);
        if (entry->d_name[0] == '.' || fd == dirfd(d)) continue;
        if (fd > *highest) *highest = fd;
        n++;
    }
    closedir(d);
    return n;
}

void net_few_descriptors(int (*make)(void *arg), void *arg)
{
    struct rlimit before, few;
    int highest, ret = -1;
    getrlimit(RLIMIT_NOFILE, &before);
    unsigned open_before = open_descriptors(&highest), failed = 0;
    for (unsigned more = 1; ret < 0; more++) {
        /* Every number below is in use, so that the limit counts. */
        int fill[256], filled = 0;
        few = (struct rlimit){.rlim_cur = (rlim_t)highest + 2, .rlim_max = before.rlim_max};
        setrlimit(RLIMIT_NOFILE, &few);
        while (filled < 256 && (fill[filled] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
            filled++;
        few.rlim_cur += more - 1;
        setrlimit(RLIMIT_NOFILE, &few);
        ret = make(arg);
        setrlimit(RLIMIT_NOFILE, &before);
        while (filled)
            close(fill[--filled]);
        int ignored;
        if (ret < 0) {
            assert_int_equal(open_descriptors(&ignored), open_before);
            failed++;
        }
    }
    assert_true(failed > 0);
}

void net_ethtool(int net, const char *device, uint32_t command, uint32_t value)
{
    int before = net_here();
    net_enter(net);
    struct ethtool_value v = {.cmd = command, .data = value};
    struct ifreq request = {.ifr_data = (char *)&v};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int ret = ioctl(fd, SIOCETHTOOL, &request);
    close(fd);
    net_enter(before);
    close(before);
    assert_int_equal(ret, 0);
}

void net_send_flows(struct port *p)
{
    static const char headers[] = "\x02\0\0\0\0\1\x02\0\0\0\0\2\x08\0\x45\0\0\x2e\0\0\x40\0\x40\x11\x26\xbd"
                                  "\x0a\0\0\1\x0a\0\0\2\x10\0\x20\0\0\x1a\0\0";
    static uint8_t frames[PACKET_BATCH][PACKET_BUFFER_BYTES];
    struct packet packets[PACKET_BATCH], *list[PACKET_BATCH];
    for (unsigned i = 0; i < PACKET_BATCH; i++) {
        uint8_t *head = frames[i] + PACKET_ROOM_BYTES;
        memcpy(head, headers, sizeof headers - 1);
        head[35] = (uint8_t)i; /* of the source port */
        packets[i] = (struct packet){
            .head = head, .head_bytes = 60, .length_bytes = 60, .l3_at = PACKET_NO_LAYER, .l4_at = PACKET_NO_LAYER};
        list[i] = &packets[i];
    }
    p->ops->send(p, list, PACKET_BATCH, NULL);
}
