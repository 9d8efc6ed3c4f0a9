/* SPDX-License-Identifier: Apache-2.0 */
/*
 * openflow-bench: how fast a switch takes flow mods over one OpenFlow 1.3 connection, and tells of its flows.
 *
 * All messages are made before the clock starts. After every --barrier flow mods a barrier is sent and its reply waited for.
 * Any error message ends it: what is measured was carried out.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static const char usage[] =
    "usage: openflow-bench --socket=PATH --op=add|modify|delete|dump --rules=N [--from=N] [--barrier=K]\n"
    "  add      N rules (one of each source address, destination and port; four shapes, 100 priorities)\n"
    "  modify   give the same rules another port, one by one (strictly); delete: take them away, one by one\n"
    "  dump     ask for all flows, and count them\n";

#define HELLO 0
#define ERROR 1
#define ECHO_REQUEST 2
#define ECHO_REPLY 3
#define FLOW_MOD 14
#define MULTIPART_REQUEST 18
#define MULTIPART_REPLY 19
#define BARRIER_REQUEST 20
#define BARRIER_REPLY 21
#define MESSAGE_MAX 65535u

enum op { OP_ADD, OP_MODIFY, OP_DELETE, OP_DUMP };
static const char *const op_names[] = {"add", "modify", "delete", "dump", NULL};

static void fail(const char *what)
{
    fprintf(stderr, "openflow-bench: %s: %s\n", what, strerror(errno));
    exit(2);
}

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- messages ---- */

struct message {
    uint8_t *at;
    size_t bytes;
};

static void put(struct message *m, uint64_t value, unsigned bytes)
{
    while (bytes-- > 0)
        m->at[m->bytes++] = (uint8_t)(value >> 8 * bytes);
}

static void begin(struct message *m, unsigned type, uint32_t xid)
{
    put(m, 4, 1);
    put(m, type, 1);
    put(m, 0, 2);
    put(m, xid, 4);
}

static void set_length(uint8_t *at, size_t bytes)
{
    at[0] = (uint8_t)(bytes >> 8);
    at[1] = (uint8_t)bytes;
}

static void put_field(struct message *m, unsigned field, uint64_t value, unsigned bytes)
{
    put(m, 0x80000000u | field << 9 | bytes, 4);
    put(m, value, bytes);
}

static void put_masked(struct message *m, unsigned field, uint32_t value, uint32_t mask)
{
    put(m, 0x80000000u | field << 9 | 0x100u | 8, 4);
    put(m, value & mask, 4);
    put(m, mask, 4);
}

static unsigned priority_of(uint32_t i)
{
    return 100 + i % 100;
}

/* Four shapes of TCP rules; no two rules are the same. */
static void put_match(struct message *m, uint32_t i)
{
    size_t at = m->bytes;
    uint32_t address = 0x0a000000u | i;
    put(m, 1, 2);
    put(m, 0, 2);
    put_field(m, 5, 0x0800, 2);
    put_field(m, 10, 6, 1);
    if (i % 4 == 0) put_masked(m, 11, address << 4, 0xfffffff0u);
    else put_field(m, 11, address, 4);
    if (i % 4 == 1) put_masked(m, 12, 0xc0a80000u, 0xffff0000u);
    else if (i % 4 == 2) put_field(m, 12, 0xc0a80001u + i % 50, 4);
    if (i % 4 != 3) put_field(m, 14, 1 + i % 1000, 2);
    set_length(m->at + at + 2, m->bytes - at);
    while ((m->bytes - at) % 8)
        put(m, 0, 1);
}

static void put_output(struct message *m, uint32_t port)
{
    put(m, 4, 2);
    put(m, 24, 2);
    put(m, 0, 4);
    put(m, 0, 2);
    put(m, 16, 2);
    put(m, port, 4);
    put(m, 0xffff, 2);
    put(m, 0, 6);
}

static void put_flow_mod(struct message *m, enum op op, uint32_t i, uint32_t xid)
{
    static const uint8_t commands[] = {[OP_ADD] = 0, [OP_MODIFY] = 2, [OP_DELETE] = 4};
    size_t at = m->bytes;
    begin(m, FLOW_MOD, xid);
    put(m, 0, 8);
    put(m, 0, 8);
    put(m, 0, 1);
    put(m, commands[op], 1);
    put(m, 0, 4);
    put(m, priority_of(i), 2);
    put(m, 0xffffffffu, 4);
    put(m, 0xffffffffu, 4);
    put(m, 0xffffffffu, 4);
    put(m, 0, 4);
    put_match(m, i);
    if (op != OP_DELETE) put_output(m, op == OP_ADD ? 2 : 3);
    set_length(m->at + at + 2, m->bytes - at);
}

static void put_short(struct message *m, unsigned type, uint32_t xid)
{
    size_t at = m->bytes;
    begin(m, type, xid);
    set_length(m->at + at + 2, m->bytes - at);
}

/* ---- the connection ---- */

struct connection {
    int fd;
    uint8_t *in;
    size_t start, count;
};

static void send_all(int fd, const uint8_t *at, size_t bytes)
{
    while (bytes) {
        ssize_t n = send(fd, at, bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail("send");
        at += n;
        bytes -= (size_t)n;
    }
}

#define IN_BYTES (4u << 20)

/* The next message; good until the next call. */
static const uint8_t *receive(struct connection *c, size_t *bytes)
{
    for (;;) {
        const uint8_t *at = c->in + c->start;
        size_t have = c->count - c->start;
        *bytes = have >= 8 ? (size_t)at[2] << 8 | at[3] : 0;
        if (have >= 8 && *bytes >= 8 && have >= *bytes) {
            c->start += *bytes;
            if (at[1] != ECHO_REQUEST) return at;
            uint8_t reply[8] = {4, ECHO_REPLY, 0, 8, at[4], at[5], at[6], at[7]};
            send_all(c->fd, reply, sizeof reply);
            continue;
        }
        memmove(c->in, at, have);
        c->start = 0;
        c->count = have;
        ssize_t n = recv(c->fd, c->in + have, IN_BYTES - have, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = ECONNRESET;
        if (n <= 0) fail("receive");
        c->count += (size_t)n;
    }
}

static void wait_for(struct connection *c, unsigned type)
{
    size_t bytes;
    for (;;) {
        const uint8_t *at = receive(c, &bytes);
        if (at[1] == ERROR) {
            fprintf(stderr, "openflow-bench: the switch said error %u, %u\n", (unsigned)(at[8] << 8 | at[9]),
                    (unsigned)(at[10] << 8 | at[11]));
            exit(1);
        }
        if (at[1] == type) return;
    }
}

static void open_connection(struct connection *c, const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path) errno = ENAMETOOLONG, fail(path);
    strcpy(a.sun_path, path);
    *c = (struct connection){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), .in = malloc(IN_BYTES)};
    if (c->fd < 0 || !c->in || connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0) fail(path);
    uint8_t bytes[16];
    struct message hello = {.at = bytes};
    put_short(&hello, HELLO, 1);
    send_all(c->fd, hello.at, hello.bytes);
    wait_for(c, HELLO);
}

/* ---- what is measured ---- */

static double run_mods(struct connection *c, enum op op, uint32_t from, uint32_t rules, uint32_t barrier)
{
    struct message all = {.at = malloc((size_t)rules * 160 + ((size_t)rules / barrier + 2) * 8)};
    size_t *ends = malloc(((size_t)rules / barrier + 2) * sizeof *ends);
    unsigned parts = 0;
    if (!all.at || !ends) fail("memory");
    for (uint32_t i = 0; i < rules; i++) {
        put_flow_mod(&all, op, from + i, i + 2);
        if ((i + 1) % barrier && i + 1 < rules) continue;
        put_short(&all, BARRIER_REQUEST, 0x80000000u + i);
        ends[parts++] = all.bytes;
    }
    double began = now_s();
    size_t at = 0;
    for (unsigned k = 0; k < parts; k++) {
        send_all(c->fd, all.at + at, ends[k] - at);
        at = ends[k];
        wait_for(c, BARRIER_REPLY);
    }
    double took = now_s() - began;
    free(all.at);
    free(ends);
    return took;
}

static double run_dump(struct connection *c, uint32_t *flows)
{
    uint8_t bytes[128];
    struct message ask = {.at = bytes};
    begin(&ask, MULTIPART_REQUEST, 7);
    put(&ask, 1, 2);
    put(&ask, 0, 6);
    put(&ask, 0xff, 1);
    put(&ask, 0, 3);
    put(&ask, 0xffffffffu, 4);
    put(&ask, 0xffffffffu, 4);
    put(&ask, 0, 4);
    put(&ask, 0, 8);
    put(&ask, 0, 8);
    put(&ask, 1u << 16 | 4, 4);
    put(&ask, 0, 4);
    set_length(bytes + 2, ask.bytes);
    double began = now_s();
    *flows = 0;
    send_all(c->fd, ask.at, ask.bytes);
    for (bool more = true; more;) {
        size_t length;
        const uint8_t *at = receive(c, &length);
        if (at[1] == ERROR) wait_for(c, MULTIPART_REPLY);
        if (at[1] != MULTIPART_REPLY) continue;
        more = at[11] & 1;
        for (size_t k = 16; k + 2 <= length; ++*flows) {
            size_t one = (size_t)at[k] << 8 | at[k + 1];
            if (one < 56) errno = EPROTO, fail("a flow");
            k += one;
        }
    }
    return now_s() - began;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"socket", required_argument, NULL, 's'},
                                            {"op", required_argument, NULL, 'o'},
                                            {"rules", required_argument, NULL, 'r'},
                                            {"barrier", required_argument, NULL, 'b'},
                                            {"from", required_argument, NULL, 'f'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *path = NULL;
    uint32_t rules = 10000, barrier = 1, flows = 0, from = 0;
    int op = -1;
    for (int opt; (opt = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (opt == 's') path = optarg;
        else if (opt == 'r') rules = (uint32_t)strtoul(optarg, NULL, 10);
        else if (opt == 'f') from = (uint32_t)strtoul(optarg, NULL, 10);
        else if (opt == 'b') barrier = (uint32_t)strtoul(optarg, NULL, 10);
        else if (opt == 'o')
            for (op = 0; op_names[op] && strcmp(op_names[op], optarg) != 0;)
                op++;
        else {
            fputs(usage, opt == 'h' ? stdout : stderr);
            return opt == 'h' ? 0 : 2;
        }
    }
    if (!path || op < 0 || !op_names[op] || !rules || rules > 1u << 22 || from > 1u << 22 || !barrier) {
        fputs(usage, stderr);
        return 2;
    }
    struct connection c;
    open_connection(&c, path);
    double seconds = op == OP_DUMP ? run_dump(&c, &flows) : run_mods(&c, (enum op)op, from, rules, barrier);
    if (op == OP_DUMP) rules = flows;
    printf("{\"op\": \"%s\", \"rules\": %u, \"barrier\": %u, \"seconds\": %.6f, \"per_s\": %.1f}\n", op_names[op],
           rules, barrier, seconds, rules / seconds);
    return 0;
}
