/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP streams whose every byte is checked, for both ends: in a guest, in a network namespace of the host.
 *
 *     guest-net serve PORT                                        answer for ever
 *     guest-net stream ADDRESS PORT up|down|both BYTES            one connection; BYTES each way
 *     guest-net steady ADDRESS PORT SECONDS                       small messages, echoed; how long the longest stood still
 *     guest-net talk PORT BYTES ADDRESS...                        serve, and stream both ways with each of these; for the demo
 *     guest-net frame INTERFACE HEX [COUNT]                       send this Ethernet frame, whatever it says
 *     guest-net offloads INTERFACE on|off                         checksums, segmentation and merging left to the card, or not
 *
 * A connection begins with a request (struct request). From then on either direction carries the content that its seed
 * gives: byte n is a function of the seed and n, so a byte that is lost, doubled, changed or somebody else's is
 * seen at once. Each side says at its end how many bytes it found right (struct verdict), and the client prints both.
 * "steady" reads and writes numbered lines of 64 bytes a hundred times a second: what is wanted to survive a switch that goes away
 * and comes back.
 *
 * The last line is for programs: "net: ok ..." or "net: FAILED ..."; the exit status says the same.
 *
 * Statically linked: the initial RAM disk has no C library.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK_BYTES 65536u
#define MAGIC 0x63726e65u
#define LINE_BYTES 64u
#define QUIET_S 60 /* a direction that stands still for so long has failed */

struct request {
    uint32_t magic, echo; /* echo: send back what comes, nothing else */
    uint64_t up_bytes, down_bytes, seed;
};

struct verdict {
    uint64_t right_bytes; /* of those that came in */
    uint64_t sound;       /* 1: all that were promised came, and were right */
};

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int fail(const char *what)
{
    printf("net: FAILED %s: %s\n", what, strerror(errno));
    return 1;
}

/* ---- Content ---- */

static uint64_t word_at(uint64_t seed, uint64_t index)
{
    uint64_t z = seed + (index + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    return z ^ (z >> 32);
}

static void fill(uint64_t seed, uint64_t at, uint64_t *chunk)
{
    for (uint64_t i = 0; i < CHUNK_BYTES / 8; i++) {
        chunk[i] = word_at(seed, at / 8 + i);
    }
}

/* ---- Whole reads and writes ---- */

static bool read_whole(int fd, void *to, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = read(fd, (char *)to + done, n - done);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) errno = ECONNRESET;
        if (got <= 0) return false;
        done += (size_t)got;
    }
    return true;
}

static bool write_whole(int fd, const void *from, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t put = send(fd, (const char *)from + done, n - done, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        done += (size_t)put;
    }
    return true;
}

/* ---- A direction ---- */

struct direction {
    int fd;
    uint64_t seed, bytes;
    struct verdict verdict;
    uint64_t wrong_at; /* of the first byte that is not right */
    pthread_t thread;
};

static size_t least(uint64_t a, uint64_t b)
{
    return (size_t)(a < b ? a : b);
}

static void *send_all(void *arg)
{
    struct direction *d = arg;
    static _Thread_local uint64_t chunk[CHUNK_BYTES / 8];
    for (uint64_t at = 0; at < d->bytes; at += CHUNK_BYTES) {
        fill(d->seed, at, chunk);
        if (!write_whole(d->fd, chunk, least(CHUNK_BYTES, d->bytes - at))) break;
    }
    return NULL;
}

static void *receive_all(void *arg)
{
    struct direction *d = arg;
    static _Thread_local uint64_t chunk[CHUNK_BYTES / 8], wanted[CHUNK_BYTES / 8];
    d->verdict = (struct verdict){0};
    for (uint64_t at = 0; at < d->bytes; at += CHUNK_BYTES) {
        size_t n = least(CHUNK_BYTES, d->bytes - at);
        if (!read_whole(d->fd, chunk, n)) return NULL;
        fill(d->seed, at, wanted);
        if (memcmp(chunk, wanted, n) != 0) {
            size_t i = 0;
            while (((char *)chunk)[i] == ((char *)wanted)[i]) {
                i++;
            }
            d->wrong_at = at + i;
            d->verdict.right_bytes += i;
            return NULL;
        }
        d->verdict.right_bytes += n;
    }
    d->verdict.sound = 1;
    return NULL;
}

/* Both directions at once; what came in is in `in`. */
static void exchange(int fd, struct direction *in, struct direction *out)
{
    in->fd = out->fd = fd;
    if (pthread_create(&out->thread, NULL, send_all, out) != 0) return;
    receive_all(in);
    if (!in->verdict.sound) shutdown(fd, SHUT_RDWR); /* the other direction's end is of no interest then */
    pthread_join(out->thread, NULL);
}

static void set_up(int fd)
{
    int one = 1;
    unsigned quiet_ms = QUIET_S * 1000;
    struct timeval quiet = {.tv_sec = QUIET_S};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &quiet_ms, sizeof quiet_ms);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &quiet, sizeof quiet);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &quiet, sizeof quiet);
}

/* ---- Server ---- */

static atomic_uint connections; /* that are served, or that we have made */

static void *serve_one(void *arg)
{
    int fd = (int)(intptr_t)arg;
    struct request r;
    atomic_fetch_add(&connections, 1);
    set_up(fd);
    if (read_whole(fd, &r, sizeof r) && r.magic == MAGIC) {
        if (r.echo) {
            char line[LINE_BYTES];
            while (read_whole(fd, line, sizeof line) && write_whole(fd, line, sizeof line)) {
            }
        } else {
            struct direction in = {.seed = r.seed, .bytes = r.up_bytes}, out = {.seed = ~r.seed, .bytes = r.down_bytes};
            exchange(fd, &in, &out);
            write_whole(fd, &in.verdict, sizeof in.verdict);
        }
    }
    close(fd);
    atomic_fetch_sub(&connections, 1);
    return NULL;
}

static int serve(const char *port)
{
    int one = 1, fd = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = any6.sin6_port};
    struct sockaddr *any = (struct sockaddr *)&any6;
    socklen_t length = sizeof any6;
    if (fd < 0) { /* a kernel without IPv6 */
        fd = socket(AF_INET, SOCK_STREAM, 0);
        any = (struct sockaddr *)&any4;
        length = sizeof any4;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, any, length) < 0 || listen(fd, 64) < 0) return fail("listening");
    puts("net: serving");
    fflush(stdout);
    for (;;) {
        int peer = accept(fd, NULL, NULL);
        pthread_t thread;
        if (peer < 0) continue;
        if (pthread_create(&thread, NULL, serve_one, (void *)(intptr_t)peer) != 0) {
            close(peer);
            continue;
        }
        pthread_detach(thread);
    }
}

/* ---- Client ---- */

static int connect_to(const char *address, const char *port)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = v4.sin_port};
    bool is_v4 = inet_pton(AF_INET, address, &v4.sin_addr) == 1;
    if (!is_v4 && inet_pton(AF_INET6, address, &v6.sin6_addr) != 1) return -1;
    int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM, 0);
    struct sockaddr *to = is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
    if (fd < 0) return -1;
    set_up(fd);
    if (connect(fd, to, is_v4 ? sizeof v4 : sizeof v6) == 0) return fd;
    close(fd);
    return -1;
}

static int stream(const char *address, const char *port, const char *way, const char *bytes)
{
    struct request r = {.magic = MAGIC, .seed = (uint64_t)getpid() * 1000003u + (uint64_t)time(NULL)};
    uint64_t n = strtoull(bytes, NULL, 10);
    if (strcmp(way, "down") != 0) r.up_bytes = n;
    if (strcmp(way, "up") != 0) r.down_bytes = n;
    int fd = connect_to(address, port);
    if (fd < 0) return fail("connecting");
    double begin_s = now_s();
    if (!write_whole(fd, &r, sizeof r)) return fail("asking");
    struct direction in = {.seed = ~r.seed, .bytes = r.down_bytes}, out = {.seed = r.seed, .bytes = r.up_bytes};
    struct verdict theirs = {0};
    exchange(fd, &in, &out);
    bool heard = in.verdict.sound && read_whole(fd, &theirs, sizeof theirs);
    double seconds = now_s() - begin_s;
    bool ok = heard && theirs.sound && in.verdict.sound;
    if (in.wrong_at) printf("byte %llu is not what was sent\n", (unsigned long long)in.wrong_at);
    printf("net: %s up %llu down %llu seconds %.4f\n", ok ? "ok" : "FAILED", (unsigned long long)theirs.right_bytes,
           (unsigned long long)in.verdict.right_bytes, seconds);
    return ok ? 0 : 1;
}

/* ---- Talking to everybody ---- */

enum { CONNECT_TRIES = 1200, TRY_US = 100000 };

struct talk {
    const char *address, *port;
    uint64_t bytes;
    pthread_t thread;
    bool ok;
};

static volatile sig_atomic_t asked_to_end;

static void ask_to_end(int signal)
{
    (void)signal;
    asked_to_end = 1;
}

static void *talk_to(void *arg)
{
    struct talk *t = arg;
    struct request r = {.magic = MAGIC, .seed = (uint64_t)getpid() * 1000003u + (uint64_t)(uintptr_t)t};
    r.up_bytes = r.down_bytes = t->bytes;
    int fd = -1;
    for (int i = 0; fd < 0 && i < CONNECT_TRIES; i++) {
        fd = connect_to(t->address, t->port); /* its guest may still be booting */
        if (fd < 0) usleep(TRY_US);
    }
    struct direction in = {.seed = ~r.seed, .bytes = r.down_bytes}, out = {.seed = r.seed, .bytes = r.up_bytes};
    struct verdict theirs = {0};
    double begin_s = now_s();
    if (fd >= 0 && write_whole(fd, &r, sizeof r)) exchange(fd, &in, &out);
    t->ok = in.verdict.sound && read_whole(fd, &theirs, sizeof theirs) && theirs.sound;
    double seconds = now_s() - begin_s;
    if (fd >= 0) close(fd);
    printf("demo: %s %s %llu %.3f\n", t->ok ? "talked" : "silent", t->address,
           (unsigned long long)(theirs.right_bytes + in.verdict.right_bytes), seconds);
    fflush(stdout);
    return NULL;
}

static void *serve_for_ever(void *port)
{
    serve(port);
    return NULL;
}

/* Asked to end (a guest shuts down), it stays until its own streams and those of others with it are over. */
static int talk(const char *port, const char *bytes, char **addresses, int count)
{
    struct talk *all = calloc((size_t)count, sizeof *all);
    pthread_t server;
    if (!all) return fail("memory");
    signal(SIGTERM, ask_to_end);
    pthread_create(&server, NULL, serve_for_ever, (void *)(uintptr_t)port);
    for (int i = 0; i < count; i++) {
        all[i] = (struct talk){.address = addresses[i], .port = port, .bytes = strtoull(bytes, NULL, 10)};
        pthread_create(&all[i].thread, NULL, talk_to, &all[i]);
    }
    bool ok = true;
    for (int i = 0; i < count; i++) {
        pthread_join(all[i].thread, NULL);
        ok = ok && all[i].ok;
    }
    while (!asked_to_end || atomic_load(&connections)) {
        usleep(TRY_US);
    }
    return ok ? 0 : 1;
}

static int steady(const char *address, const char *port, const char *duration)
{
    struct request r = {.magic = MAGIC, .echo = 1};
    int fd = connect_to(address, port);
    if (fd < 0) return fail("connecting");
    if (!write_whole(fd, &r, sizeof r)) return fail("asking");
    double begin_s = now_s(), end_s = begin_s + atof(duration), longest_s = 0, said_s = 0;
    unsigned long lines = 0;
    for (double last_s = begin_s; last_s < end_s; lines++) {
        char line[LINE_BYTES] = "", back[LINE_BYTES];
        snprintf(line, sizeof line, "line %lu", lines);
        if (!write_whole(fd, line, sizeof line) || !read_whole(fd, back, sizeof back)) return fail("the connection");
        if (memcmp(line, back, sizeof line) != 0) {
            errno = EBADMSG;
            return fail("another line came back");
        }
        double now = now_s();
        if (now - last_s > longest_s) longest_s = now - last_s;
        if (now - said_s > 1) {
            printf("steady: %lu\n", lines);
            fflush(stdout);
            said_s = now;
        }
        usleep(10000);
        last_s = now_s();
    }
    printf("net: ok lines %lu longest %.3f\n", lines, longest_s);
    return 0;
}

/* ---- Raw frames ---- */

static int frame(const char *interface, const char *hex, const char *count)
{
    unsigned char bytes[2048];
    size_t n = 0;
    for (unsigned value; n < sizeof bytes && sscanf(hex + 2 * n, "%2x", &value) == 1; n++) {
        bytes[n] = (unsigned char)value;
    }
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(interface)};
    if (fd < 0 || n < 14) return fail("a raw socket");
    for (int i = count ? atoi(count) : 1; i > 0; i--) {
        if (sendto(fd, bytes, n, 0, (struct sockaddr *)&to, sizeof to) < 0) return fail("sending");
    }
    puts("net: ok");
    return 0;
}

/* ---- Offloads ---- */

static int offloads(const char *interface, const char *wish)
{
    static const struct {
        uint32_t command;
        const char *name;
    } each[] = {{ETHTOOL_STXCSUM, "tx"},
                {ETHTOOL_SSG, "sg"},
                {ETHTOOL_STSO, "tso"},
                {ETHTOOL_SGSO, "gso"},
                {ETHTOOL_SGRO, "gro"}};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    unsigned count = sizeof each / sizeof each[0];
    for (unsigned i = 0; i < count; i++) {
        bool on = strcmp(wish, "on") == 0;
        unsigned at =
            on ? i : count - 1 - i; /* segmentation needs checksums and scattered frames: on after, off before them */
        struct ethtool_value value = {.cmd = each[at].command, .data = on};
        struct ifreq request = {.ifr_data = (void *)&value};
        snprintf(request.ifr_name, sizeof request.ifr_name, "%s", interface);
        if (ioctl(fd, SIOCETHTOOL, &request) < 0) printf("%s stays as it is: %s\n", each[at].name, strerror(errno));
    }
    puts("net: ok");
    close(fd);
    return 0;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && strcmp(argv[1], "serve") == 0) return serve(argv[2]);
    if (argc == 6 && strcmp(argv[1], "stream") == 0) return stream(argv[2], argv[3], argv[4], argv[5]);
    if (argc >= 5 && strcmp(argv[1], "talk") == 0) return talk(argv[2], argv[3], argv + 4, argc - 4);
    if (argc == 5 && strcmp(argv[1], "steady") == 0) return steady(argv[2], argv[3], argv[4]);
    if (argc >= 4 && strcmp(argv[1], "frame") == 0) return frame(argv[2], argv[3], argc > 4 ? argv[4] : NULL);
    if (argc == 4 && strcmp(argv[1], "offloads") == 0) return offloads(argv[2], argv[3]);
    fprintf(stderr, "usage: guest-net serve PORT | stream ADDRESS PORT up|down|both BYTES | steady ADDRESS PORT "
                    "SECONDS | talk PORT BYTES ADDRESS... | "
                    "frame INTERFACE HEX [COUNT] | offloads INTERFACE on|off\n");
    return 2;
}
