/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creedence-cache: the shared read cache of a host (or of a tenant). Here: arguments, giving up rights, and the
 * watch over how much memory there is. The cache itself is cache/service.h, on its own thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/budget.h"
#include "cache/service.h"
#include "cmd/cache_manager.h"
#include "cmd/sandbox.h"
#include "control/link.h"
#include "control/version.h"
#include "loop/clock.h"
#include "loop/loop.h"

#define LOOK_NS NS_PER_SECOND /* at memory, while somebody uses the cache */
#define LOOK_IDLE_NS (5 * NS_PER_SECOND)
#define TIDY_NS (5 * NS_PER_SECOND)

static const char usage_text[] =
    "Usage: creedence-cache --socket PATH [OPTION]...\n"
    "The shared read cache: reads base layers of disks once and keeps them in memory.\n"
    "\n"
    "  -s, --socket PATH       management socket (made; or passed by systemd, then not given here)\n"
    "  -b, --budget SIZE|auto  most memory to use: bytes, or with K, M, G, T; auto (the default): what\n"
    "                          the host can spare\n"
    "      --huge-pages on|off     collapse what is cached whole into huge pages (on)\n"
    "      --user NAME         become this user\n"
    "      --sandbox MODE      on: refuse to run with less than the full sandbox; try (the default); off\n"
    "  -v, --verbose           say more\n"
    "  -V, --version           print the version and the kind of build\n"
    "  -h, --help              print this\n"
    "\n"
    "See creedence-cache(8).\n";

struct arguments {
    const char *socket_path;
    bool budget_auto;
    uint64_t budget_bytes;
    bool small_pages;
    bool sandbox_off;
    struct sandbox_args sandbox;
};

struct program {
    struct loop *loop;
    struct loop_watch signals;
    struct loop_watch pressure[2];
    struct loop_timer look, tidy;
    struct cache_memory_source memory;
    struct cache_budget budget;
    struct cache_service *service;
    struct cache_manager *manager;
    int failed; /* -errno: why it ends, when that is not as asked */
};

/* ---- arguments ---- */

static int parse_size(const char *text, uint64_t *out)
{
    static const char units[] = "KMGT";
    char *end;
    if (*text < '0' || *text > '9') return -EINVAL;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno) return -EINVAL;
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (*end && (!unit || end[1])) return -EINVAL;
    return mul_fits(n, unit ? UINT64_C(1) << 10 * (unit - units + 1) : 1, out) ? 0 : -EINVAL;
}

static int parse_budget(struct arguments *a, const char *text, struct errmsg *e)
{
    a->budget_auto = strcmp(text, "auto") == 0;
    if (a->budget_auto || parse_size(text, &a->budget_bytes) == 0) return 0;
    return errmsg_set(e, EINVAL, "--budget %s: a size (such as 4G) or \"auto\" is expected", text);
}

static int parse_sandbox(struct arguments *a, const char *text, struct errmsg *e)
{
    a->sandbox.required = strcmp(text, "on") == 0;
    a->sandbox_off = strcmp(text, "off") == 0;
    if (a->sandbox.required || a->sandbox_off || strcmp(text, "try") == 0) return 0;
    return errmsg_set(e, EINVAL, "--sandbox %s: on, try or off is expected", text);
}

static int parse_huge_pages(struct arguments *a, const char *text, struct errmsg *e)
{
    a->small_pages = strcmp(text, "off") == 0;
    if (a->small_pages || strcmp(text, "on") == 0) return 0;
    return errmsg_set(e, EINVAL, "--huge-pages %s: on or off is expected", text);
}

enum { OPT_USER = 256, OPT_SANDBOX, OPT_HUGE_PAGES };

/* 0: go on; 1: done; -EINVAL. */
static int parse(struct arguments *a, int argc, char **argv, struct errmsg *e)
{
    static const struct option options[] = {
        {"socket", required_argument, NULL, 's'},
        {"budget", required_argument, NULL, 'b'},
        {"user", required_argument, NULL, OPT_USER},
        {"sandbox", required_argument, NULL, OPT_SANDBOX},
        {"huge-pages", required_argument, NULL, OPT_HUGE_PAGES},
        {"verbose", no_argument, NULL, 'v'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int opt, ret = 0;
    while (ret == 0 && (opt = getopt_long(argc, argv, "s:b:vVh", options, NULL)) != -1) {
        switch (opt) {
        case 's': a->socket_path = optarg; break;
        case 'b': ret = parse_budget(a, optarg, e); break;
        case OPT_USER: a->sandbox.user = optarg; break;
        case OPT_SANDBOX: ret = parse_sandbox(a, optarg, e); break;
        case OPT_HUGE_PAGES: ret = parse_huge_pages(a, optarg, e); break;
        case 'v': log_setup("creedence-cache", LOG_LEVEL_DEBUG); break;
        case 'V': version_print("creedence-cache", false); return 1;
        case 'h': fputs(usage_text, stdout); return 1;
        default: return errmsg_set(e, EINVAL, "try --help");
        }
    }
    if (ret == 0 && optind < argc) return errmsg_set(e, EINVAL, "%s: unexpected argument; try --help", argv[optind]);
    return ret;
}

/* ---- memory ---- */

static void apply_budget(struct program *p)
{
    log_debug("budget: %" PRIu64 " MiB", p->budget.bytes >> 20);
    cache_service_set_budget(p->service, p->budget.bytes);
}

static void look_at_memory(struct loop_timer *t)
{
    struct program *p = container_of(t, struct program, look);
    struct cache_service_stats stats;
    struct cache_memory memory;
    uint64_t next_ns = LOOK_IDLE_NS;
    p->failed = cache_service_failed(p->service);
    if (p->failed) {
        loop_stop(p->loop);
        return;
    }
    if (cache_service_stats(p->service, &stats) == 0) {
        if (p->budget.automatic && cache_memory_read(&p->memory, &memory) == 0 &&
            cache_budget_tick(&p->budget, &memory, stats.used_bytes, clock_now_ns()))
            apply_budget(p);
        if (stats.channels) next_ns = LOOK_NS;
        cache_service_stats_clear(&stats);
    }
    loop_timer_arm(p->loop, t, next_ns, look_at_memory);
}

static void under_pressure(struct program *p)
{
    struct cache_service_stats stats;
    if (cache_service_stats(p->service, &stats) < 0) return;
    if (cache_budget_pressure(&p->budget, stats.used_bytes, clock_now_ns())) {
        log_limited(LOG_LEVEL_INFO, "tasks stall for memory: the cache shrinks to %" PRIu64 " MiB",
                    p->budget.bytes >> 20);
        apply_budget(p);
    }
    cache_service_stats_clear(&stats);
}

static void host_pressure_ready(struct loop_watch *w, uint32_t events)
{
    if (events & EPOLLERR) loop_remove(w); /* the control group is gone */
    else under_pressure(container_of(w, struct program, pressure[0]));
}

static void group_pressure_ready(struct loop_watch *w, uint32_t events)
{
    if (events & EPOLLERR) loop_remove(w);
    else under_pressure(container_of(w, struct program, pressure[1]));
}

static void tidy(struct loop_timer *t)
{
    struct program *p = container_of(t, struct program, tidy);
    cache_service_tidy(p->service);
    loop_timer_arm(p->loop, t, TIDY_NS, tidy);
}

static void signal_ready(struct loop_watch *w, uint32_t events)
{
    struct signalfd_siginfo info;
    (void)events;
    if (read(w->fd, &info, sizeof info) > 0) loop_stop(w->loop);
}

/* ---- life ---- */

static int open_socket(const struct arguments *a, int *fd, struct errmsg *e)
{
    int passed = sd_listen_fds(1);
    if (passed > 1) return errmsg_set(e, EINVAL, "%d sockets passed, one is expected", passed);
    if (passed == 1 && !a->socket_path) {
        *fd = SD_LISTEN_FDS_START;
        if (sd_is_socket_unix(*fd, SOCK_SEQPACKET, 1, NULL, 0) > 0) return 0;
        return errmsg_set(e, EINVAL, "the socket passed is not a listening Unix socket of type SEQPACKET");
    }
    if (!a->socket_path) return errmsg_set(e, EINVAL, "--socket PATH is missing; try --help");
    return link_listen(fd, a->socket_path, e);
}

/* Each layer takes six descriptors, each channel one. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int choose_budget(struct program *p, const struct arguments *a, struct cache_service_config *config,
                         struct errmsg *e)
{
    struct cache_memory memory;
    int ret = cache_memory_open(&p->memory);
    if (ret == 0) ret = cache_memory_read(&p->memory, &memory);
    if (ret < 0) return errmsg_sys(e, -ret, "/proc/meminfo");
    if (a->budget_auto) cache_budget_auto(&p->budget, &memory, 0);
    else cache_budget_fix(&p->budget, a->budget_bytes);
    *config = (struct cache_service_config){.budget_bytes = p->budget.bytes,
                                            .budget_most_bytes = max_u64(p->budget.bytes, memory.total_bytes),
                                            .small_pages = a->small_pages,
                                            .fd_dir = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC)};
    return config->fd_dir < 0 ? errmsg_sys(e, errno, "/proc/self/fd") : 0;
}

static int start_watching(struct program *p, const sigset_t *signals, struct errmsg *e)
{
    static void (*const pressure_ready[])(struct loop_watch *, uint32_t) = {host_pressure_ready, group_pressure_ready};
    int signal_fd = signalfd(-1, signals, SFD_CLOEXEC | SFD_NONBLOCK);
    int ret = signal_fd < 0 ? -errno : loop_add(p->loop, &p->signals, signal_fd, EPOLLIN, signal_ready);
    for (unsigned i = 0; i < ARRAY_LEN(p->pressure) && ret == 0; i++)
        if (p->memory.pressure_fd[i] >= 0)
            ret = loop_add(p->loop, &p->pressure[i], p->memory.pressure_fd[i], EPOLLPRI, pressure_ready[i]);
    if (ret < 0) return errmsg_sys(e, -ret, "event loop");
    loop_timer_arm(p->loop, &p->look, LOOK_NS, look_at_memory);
    loop_timer_arm(p->loop, &p->tidy, TIDY_NS, tidy);
    return 0;
}

/* What is opened by path is opened first; threads start without rights; the filter comes when all have started. */
static int set_up(struct program *p, const struct arguments *a, const sigset_t *signals, struct errmsg *e)
{
    struct cache_service_config config;
    int listen_fd = -1;
    int ret = open_socket(a, &listen_fd, e);
    if (ret == 0) ret = choose_budget(p, a, &config, e);
    if (ret == 0 && !(p->loop = loop_new())) ret = errmsg_sys(e, errno, "event loop");
    if (ret == 0) ret = start_watching(p, signals, e);
    if (ret == 0 && !a->sandbox_off) ret = sandbox_leave_host(&a->sandbox, e);
    if (ret == 0) ret = cache_service_start(&p->service, &config, e);
    if (ret == 0 && !a->sandbox_off) ret = sandbox_filter(&a->sandbox, SANDBOX_REOPEN, e);
    if (ret < 0) return ret;
    const struct cache_manager_args args = {
        .loop = p->loop, .listen_fd = listen_fd, .service = p->service, .memory = &p->memory, .budget = &p->budget};
    return cache_manager_new(&p->manager, &args, e);
}

static int run(const struct arguments *a, struct errmsg *e)
{
    struct program p = {0};
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    int ret = set_up(&p, a, &signals, e);
    if (ret < 0) return ret;
    log_info("serving; budget %" PRIu64 " MiB%s", p.budget.bytes >> 20, p.budget.automatic ? " (auto)" : "");
    sd_notify(0, "READY=1");
    ret = loop_run(p.loop);
    sd_notify(0, "STOPPING=1");
    cache_manager_free(p.manager);
    cache_service_stop(p.service);
    close(p.signals.fd);
    loop_free(p.loop);
    cache_memory_close(&p.memory);
    if (ret < 0) return errmsg_sys(e, -ret, "event loop");
    return p.failed ? errmsg_sys(e, -p.failed, "the cache's I/O engine") : 0;
}

int main(int argc, char **argv)
{
    struct arguments a = {.budget_auto = true};
    struct errmsg e = {""};
    log_setup("creedence-cache", LOG_LEVEL_INFO);
    int ret = parse(&a, argc, argv, &e);
    if (ret < 0) fprintf(stderr, "creedence-cache: %s\n", e.text);
    if (ret != 0) return ret < 0 ? 2 : 0;
    ret = run(&a, &e);
    if (ret < 0) log_error("%s", e.text);
    return ret < 0 ? 1 : 0;
}
