/* SPDX-License-Identifier: Apache-2.0 */
#include "control/host.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "loop/clock.h"

#define BACKOFF_FREE 5 /* restarts a minute that happen at once */
#define BACKOFF_FIRST_MS 10u

bool host_path(char out[PATH_MAX], const struct host *h, const char *what)
{
    return (size_t)snprintf(out, PATH_MAX, "%s/%s", h->run_dir, what) < PATH_MAX;
}

bool host_disk_path(char out[PATH_MAX], const struct host *h, const char *name, const char *what)
{
    return (size_t)snprintf(out, PATH_MAX, "%s/disks/%s.%s", h->run_dir, name, what) < PATH_MAX;
}

int host_spawn(const struct host *h, struct process *p, struct process_args *a, const char *cgroup,
               void (*exited)(struct process *, int), struct errmsg *e)
{
    char path[PATH_MAX], cgroup_path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", h->bin_dir, a->argv[0]) >= sizeof path)
        return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", h->bin_dir);
    a->path = path;
    if (h->cgroup_dir &&
        (size_t)snprintf(cgroup_path, sizeof cgroup_path, "%s/%s", h->cgroup_dir, cgroup) < sizeof cgroup_path)
        a->cgroup_path = cgroup_path;
    int ret = process_spawn(p, h->loop, a, exited, e);
    a->path = a->cgroup_path = NULL;
    return ret;
}

uint64_t host_backoff_ns(unsigned recent, unsigned most_ms)
{
    if (recent <= BACKOFF_FREE) return 0;
    unsigned doublings = recent - BACKOFF_FREE - 1;
    uint64_t ms = doublings > 20 ? most_ms : (uint64_t)BACKOFF_FIRST_MS << doublings;
    return min_u64(ms, most_ms) * NS_PER_MS;
}

unsigned crash_log_add(struct crash_log *log)
{
    uint64_t now_ns = clock_now_ns();
    log->at_ns[log->next] = now_ns;
    log->next = (log->next + 1) % HOST_CRASHES_KEPT;
    unsigned recent = 0;
    for (unsigned i = 0; i < HOST_CRASHES_KEPT; i++)
        if (log->at_ns[i] && now_ns - log->at_ns[i] < 60 * NS_PER_SECOND) recent++;
    return recent;
}
