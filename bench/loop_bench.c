/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop-bench: what an event costs while many others could come.
 *
 * An event loop (loop/loop.h) watches N eventfds; one after the other, in an order without a pattern, is signalled, and
 * the loop runs until its watch was called. Thousands of guests' channels are open on a host; nearly all of them are silent. What
 * one event costs must not depend on how many are. Two figures: the same 1,000 channels are busy however many are open; any
 * channel may be busy (then caches of the processor and of the kernel have their say, too).
 *
 * A process may have fewer descriptors than that (RLIMIT_NOFILE, which only CAP_SYS_RESOURCE raises): then other processes hold the
 * rest open, and watched by the same epoll instance; only the first process's are ever busy.
 *
 *     loop-bench [COUNT...]     default: 1000 10000 100000 131071
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bench.h"
#include "loop/loop.h"

#define EVENTS 100000u
#define ROUNDS 5u
#define CHANNELS_MAX 1000000u
#define BUSY 1000u
#define SPARE_FDS 100u /* of a process, for everything else */
#define HOLDERS_MAX 128u

struct channel {
    struct loop_watch watch; /* first: see channel_ready() */
    struct bed *bed;
};

struct bed {
    struct loop *loop;
    struct channel *channel;
    unsigned own; /* channels of this process */
    uint64_t events;
    pid_t holder[HOLDERS_MAX];
    unsigned holders;
};

static void channel_ready(struct loop_watch *w, uint32_t events)
{
    struct channel *c = (struct channel *)w;
    uint64_t value;
    if (events & EPOLLIN && read(w->fd, &value, sizeof value) == sizeof value) c->bed->events += value;
}

static int open_channels(struct bed *b, unsigned count)
{
    b->channel = calloc(count, sizeof *b->channel);
    if (!b->channel) return -ENOMEM;
    for (; b->own < count; b->own++) {
        struct channel *c = &b->channel[b->own];
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fd < 0) return -errno;
        c->bed = b;
        int ret = loop_add(b->loop, &c->watch, fd, EPOLLIN, channel_ready);
        if (ret == 0) continue;
        close(fd);
        return ret;
    }
    return 0;
}

/* A process that opens `count` channels, has them watched by our epoll instance, says so, and waits for its end. */
static int start_holder(struct bed *b, unsigned count)
{
    int ready[2], answer = -ECHILD;
    if (pipe(ready) < 0) return -errno;
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct bed held = {.loop = b->loop};
        answer = open_channels(&held, count);
        if (write(ready[1], &answer, sizeof answer) != sizeof answer) _exit(1);
        for (;;) {
            pause();
        }
    }
    close(ready[1]);
    if (pid > 0) b->holder[b->holders++] = pid;
    if (pid > 0 && read(ready[0], &answer, sizeof answer) != sizeof answer) answer = -ECHILD;
    close(ready[0]);
    return answer;
}

static int open_all(struct bed *b, unsigned count)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0) return -errno;
    unsigned room = files.rlim_cur > SPARE_FDS + BUSY ? (unsigned)files.rlim_cur - SPARE_FDS : BUSY;
    unsigned own = count < room ? count : room, left = count - own;
    while (left) {
        unsigned n = left < room ? left : room;
        int ret = b->holders == HOLDERS_MAX ? -EMFILE : start_holder(b, n);
        if (ret < 0) return ret;
        left -= n;
    }
    return open_channels(b, own);
}

static void close_all(struct bed *b)
{
    for (unsigned i = 0; i < b->own; i++) {
        int fd = b->channel[i].watch.fd;
        loop_remove(&b->channel[i].watch);
        close(fd);
    }
    free(b->channel);
    for (unsigned i = 0; i < b->holders; i++) {
        kill(b->holder[i], SIGKILL);
        waitpid(b->holder[i], NULL, 0);
    }
}

/* Nanoseconds for one event: signal, wake, call, read. Negative: the loop failed. */
static double one_round(struct bed *b, unsigned busy, uint64_t *random)
{
    uint64_t one = 1, wanted = b->events + EVENTS, start_ns = bench_now_ns();
    for (unsigned i = 0; i < EVENTS; i++) {
        const struct channel *c = &b->channel[bench_random_below(random, busy)];
        if (write(c->watch.fd, &one, sizeof one) != sizeof one) return -1;
        if (loop_run_once(b->loop, 1000) < 0) return -1;
    }
    return b->events == wanted ? (double)(bench_now_ns() - start_ns) / EVENTS : -1;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median of the rounds; negative: failed. */
static double measure_busy(struct bed *b, unsigned busy)
{
    uint64_t random = 1;
    double ns[ROUNDS];
    for (unsigned i = 0; i < ROUNDS; i++) {
        ns[i] = one_round(b, busy, &random);
        if (ns[i] < 0) return -1;
    }
    qsort(ns, ROUNDS, sizeof ns[0], compare);
    return ns[ROUNDS / 2];
}

static int measure(unsigned count)
{
    struct bed b = {.loop = loop_new()};
    int ret = b.loop ? open_all(&b, count) : -errno;
    double same = ret == 0 ? measure_busy(&b, b.own < BUSY ? b.own : BUSY) : -1;
    double any = same < 0 ? -1 : measure_busy(&b, b.own);
    if (ret == 0 && any < 0) ret = -EIO;
    if (ret == 0) {
        printf("{\"channels\":%u,\"event_ns\":%.1f,\"any_event_ns\":%.1f,\"of\":%u}\n", count, same, any, b.own);
    } else {
        fprintf(stderr, "loop-bench: %u channels: %s\n", count, strerror(-ret));
    }
    fflush(stdout);
    close_all(&b);
    loop_free(b.loop);
    return ret;
}

static void raise_limit(void)
{
    struct rlimit wanted = {.rlim_cur = CHANNELS_MAX + SPARE_FDS, .rlim_max = CHANNELS_MAX + SPARE_FDS}, now;
    if (setrlimit(RLIMIT_NOFILE, &wanted) == 0 || getrlimit(RLIMIT_NOFILE, &now) < 0) return;
    now.rlim_cur = now.rlim_max;
    setrlimit(RLIMIT_NOFILE, &now);
}

int main(int argc, char **argv)
{
    static const unsigned usual[] = {1000, 10000, 100000, 131071};
    int ret = 0;
    raise_limit();
    for (unsigned i = 0; argc < 2 && i < sizeof usual / sizeof usual[0]; i++) {
        if (measure(usual[i]) < 0) ret = 2;
    }
    for (int i = 1; i < argc; i++) {
        long count = strtol(argv[i], NULL, 10);
        if (count < 1 || count > (long)CHANNELS_MAX) {
            fprintf(stderr, "usage: loop-bench [COUNT...], each from 1 to %u\n", CHANNELS_MAX);
            return 2;
        }
        if (measure((unsigned)count) < 0) ret = 2;
    }
    return ret;
}
