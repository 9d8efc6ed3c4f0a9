/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bench.h"

void bench_wait_calls(struct frontend *f, int wait_ms)
{
    enum { WAIT_QUEUES_MAX = 64 };
    struct pollfd p[WAIT_QUEUES_MAX + 1];
    unsigned n = f->args.queues < WAIT_QUEUES_MAX ? f->args.queues : WAIT_QUEUES_MAX;
    for (unsigned i = 0; i < n; i++) {
        p[i] = (struct pollfd){.fd = f->queue[i].call_fd, .events = POLLIN};
    }
    p[n] = (struct pollfd){.fd = f->sock, .events = POLLRDHUP};
    if (poll(p, n + 1, wait_ms) <= 0) return;
    for (unsigned i = 0; i < n; i++) {
        uint64_t count;
        if ((p[i].revents & POLLIN) && read(p[i].fd, &count, sizeof count) > 0) f->queue[i].calls++;
    }
}

static int compare_paths(const void *a, const void *b)
{
    const char *x = *(char *const *)a, *y = *(char *const *)b;
    size_t nx = strlen(x), ny = strlen(y);
    return nx != ny ? (nx < ny ? -1 : 1) : strcmp(x, y);
}

void bench_free_paths(char **paths, unsigned count)
{
    for (unsigned i = 0; paths && i < count; i++) {
        free(paths[i]);
    }
    free(paths);
}

/* All of them, *found of them; NULL when memory is short. */
static char **scan_sockets(DIR *d, const char *dir, unsigned *found)
{
    char **all = calloc(1, sizeof *all);
    for (struct dirent *entry; all && (entry = readdir(d));) {
        size_t n = strlen(entry->d_name);
        if (n < 5 || strcmp(entry->d_name + n - 5, ".sock") != 0) continue;
        char **more = realloc(all, (*found + 2) * sizeof *all);
        char *path = NULL;
        if (more) all = more;
        if (!more || asprintf(&path, "%s/%s", dir, entry->d_name) < 0) {
            bench_free_paths(all, *found);
            return NULL;
        }
        all[(*found)++] = path;
    }
    return all;
}

char **bench_socket_paths(const char *dir, unsigned count, struct errmsg *e)
{
    DIR *d = opendir(dir);
    if (!d) {
        errmsg_sys(e, errno, "%s", dir);
        return NULL;
    }
    unsigned found = 0;
    char **all = scan_sockets(d, dir, &found);
    closedir(d);
    if (!all) {
        errmsg_sys(e, ENOMEM, "%s", dir);
        return NULL;
    }
    qsort(all, found, sizeof *all, compare_paths);
    if (found < count) {
        errmsg_set(e, ENOENT, "%s has %u sockets (*.sock), %u asked for", dir, found, count);
        bench_free_paths(all, found);
        return NULL;
    }
    for (unsigned i = count; i < found; i++) {
        free(all[i]);
    }
    return all;
}

uint64_t bench_cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}
