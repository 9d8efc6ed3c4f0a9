/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creedenced: the host daemon. Options, directories, and the life of the process; what it does is in control/.
 *
 * Ending it, in any way, ends nothing else: workers, the cache service and guests go on, and the next daemon finds them.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/cache_keeper.h"
#include "control/daemon.h"
#include "control/holder.h"
#include "control/network.h"
#include "control/size.h"
#include "control/unix_socket.h"
#include "control/vdisk.h"
#include "control/version.h"
#include "control/xenstore_backends.h"
#include "loop/clock.h"

#define LOCK_WAIT_MS 2000 /* a daemon that was just killed may still be going */
#define LAST_ANSWERS_MS 500u
#define XEN_CARD_QUEUES_DEFAULT 4
#define XEN_MAP_ENTRIES_DEFAULT 262144u /* the hypervisor's own: 1024 frames */
#define XEN_MAP_ENTRIES_MAX (1u << 30)
#define HOLD_FD 3 /* the holder's listening socket */

enum {
    OPT_STATE_DIR = 256,
    OPT_RUN_DIR,
    OPT_BIN_DIR,
    OPT_USER,
    OPT_GROUP,
    OPT_VM_GROUP,
    OPT_CGROUP,
    OPT_CACHE,
    OPT_CACHE_BUDGET,
    OPT_XEN,
    OPT_XEN_DISKS,
    OPT_XEN_CARDS,
    OPT_XEN_CARD_QUEUES,
    OPT_XEN_MAP_ENTRIES,
    OPT_XEN_ANY_SCRIPT,
    OPT_XEN_WORLD,
    OPT_HOLD,
};

static const struct option options[] = {
    {"state-dir", required_argument, NULL, OPT_STATE_DIR},
    {"run-dir", required_argument, NULL, OPT_RUN_DIR},
    {"bin-dir", required_argument, NULL, OPT_BIN_DIR},
    {"user", required_argument, NULL, OPT_USER},
    {"group", required_argument, NULL, OPT_GROUP},
    {"vm-group", required_argument, NULL, OPT_VM_GROUP},
    {"cgroup", required_argument, NULL, OPT_CGROUP},
    {"cache", required_argument, NULL, OPT_CACHE},
    {"cache-budget", required_argument, NULL, OPT_CACHE_BUDGET},
    {"xen", required_argument, NULL, OPT_XEN},
    {"xen-disks", required_argument, NULL, OPT_XEN_DISKS},
    {"xen-cards", required_argument, NULL, OPT_XEN_CARDS},
    {"xen-card-queues", required_argument, NULL, OPT_XEN_CARD_QUEUES},
    {"xen-map-entries", required_argument, NULL, OPT_XEN_MAP_ENTRIES},
    {"xen-any-script", no_argument, NULL, OPT_XEN_ANY_SCRIPT},
    {"xen-world", required_argument, NULL, OPT_XEN_WORLD}, /* of tests (guest/xen_world.h) */
    {"hold", required_argument, NULL, OPT_HOLD},           /* how the daemon starts its holder (control/holder.h) */
    {"verbose", no_argument, NULL, 'v'},
    {"version", no_argument, NULL, 'V'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static const char usage_text[] =
    "Usage: creedenced [OPTION]...\n"
    "Keep this host's virtual disks and networks served. Controlled by `creedence`; see creedenced(8).\n"
    "\n"
    "  --state-dir=DIR        what must survive a power cut (default /var/lib/creedence)\n"
    "  --run-dir=DIR          sockets (default /run/creedence)\n"
    "  --bin-dir=DIR          where the programs it starts are (default: beside creedenced)\n"
    "  --user=USER            whom workers become once their disks are open (default: creedence, if it exists)\n"
    "  --group=GROUP          who may use the control socket, besides its owner\n"
    "  --vm-group=GROUP       who may connect to disks: the group that virtual machines run as\n"
    "  --cgroup=DIR           make a cgroup (v2) below DIR for each worker\n"
    "  --cache=on|off         the read cache, until `creedence cache set` says otherwise (default on)\n"
    "  --cache-budget=SIZE|auto\n"
    "  --xen=auto|on|off      serve the disks and cards that are announced in xenstore (default auto: on a Xen host)\n"
    "  --xen-disks=NAMES      below backend/ there (default vbd,vbd3)\n"
    "  --xen-cards=NAMES      (default vif)\n"
    "  --xen-card-queues=N    rings for each direction that a card's guest may use (default: 4, or as many as CPUs)\n"
    "  --xen-map-entries=N    pages of guests that this domain may have mapped at a time (default 262144, as Xen)\n"
    "  --xen-any-script       also those whose hotplug script is none of Creedence's\n"
    "  --verbose, --version, --help\n"
    "\n"
    "Examples:\n"
    "  creedenced --vm-group=kvm\n"
    "  creedenced --state-dir=/tmp/c/state --run-dir=/tmp/c/run    # one for trying out\n";

struct arguments {
    const char *state_dir, *run_dir, *bin_dir, *user, *group, *vm_group, *cgroup, *hold;
    struct cache_settings cache;
    struct xen_settings xen;
};

static bool number_parse(const char *text, unsigned max, unsigned *out)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    *out = (unsigned)value;
    return *text >= '0' && *text <= '9' && !*end && value >= 1 && value <= max;
}

/* As many as can be served at the same time; each takes 1 MiB of the guest's memory for buffers. */
static unsigned card_queues_default(void)
{
    cpu_set_t cpus;
    int count = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
    return count < XEN_CARD_QUEUES_DEFAULT ? (unsigned)count : XEN_CARD_QUEUES_DEFAULT;
}

static int parse(struct arguments *a, int argc, char **argv)
{
    int opt;
    while ((opt = getopt_long(argc, argv, "vVh", options, NULL)) != -1) {
        switch (opt) {
        case OPT_STATE_DIR: a->state_dir = optarg; break;
        case OPT_RUN_DIR: a->run_dir = optarg; break;
        case OPT_BIN_DIR: a->bin_dir = optarg; break;
        case OPT_USER: a->user = optarg; break;
        case OPT_GROUP: a->group = optarg; break;
        case OPT_VM_GROUP: a->vm_group = optarg; break;
        case OPT_CGROUP: a->cgroup = optarg; break;
        case OPT_HOLD: a->hold = optarg; break;
        case OPT_CACHE:
            a->cache.enabled = strcmp(optarg, "on") == 0;
            if (a->cache.enabled || strcmp(optarg, "off") == 0) break;
            fprintf(stderr, "creedenced: --cache=%s: expected on or off\n", optarg);
            return -1;
        case OPT_CACHE_BUDGET:
            a->cache.budget_bytes = 0;
            if (strcmp(optarg, "auto") == 0 || (size_parse(optarg, &a->cache.budget_bytes) && a->cache.budget_bytes))
                break;
            fprintf(stderr, "creedenced: --cache-budget=%s: expected auto, or a size such as 8G\n", optarg);
            return -1;
        case OPT_XEN_DISKS: a->xen.disks = optarg; break;
        case OPT_XEN_CARDS: a->xen.cards = optarg; break;
        case OPT_XEN_ANY_SCRIPT: a->xen.any_script = true; break;
        case OPT_XEN_WORLD: a->xen.world = optarg; break;
        case OPT_XEN_CARD_QUEUES:
            if (number_parse(optarg, NETWORK_QUEUES_MAX, &a->xen.card_queues)) break;
            fprintf(stderr, "creedenced: --xen-card-queues=%s: expected 1 to %u\n", optarg, NETWORK_QUEUES_MAX);
            return -1;
        case OPT_XEN_MAP_ENTRIES:
            if (number_parse(optarg, XEN_MAP_ENTRIES_MAX, &a->xen.map_entries)) break;
            fprintf(stderr, "creedenced: --xen-map-entries=%s: expected 1 to %u\n", optarg, XEN_MAP_ENTRIES_MAX);
            return -1;
        case OPT_XEN:
            a->xen.wanted = strcmp(optarg, "on") == 0 ? XEN_ON : strcmp(optarg, "off") == 0 ? XEN_OFF : XEN_AUTO;
            if (a->xen.wanted != XEN_AUTO || strcmp(optarg, "auto") == 0) break;
            fprintf(stderr, "creedenced: --xen=%s: expected auto, on or off\n", optarg);
            return -1;
        case 'v': log_setup("creedenced", LOG_LEVEL_DEBUG); break;
        case 'V': version_print("creedenced", false); return 1;
        case 'h': fputs(usage_text, stdout); return 1;
        default: fprintf(stderr, "creedenced: try --help\n"); return -1;
        }
    }
    if (optind == argc) return 0;
    fprintf(stderr, "creedenced: %s: unexpected argument; try --help\n", argv[optind]);
    return -1;
}

/* ---- Directories ---- */

/* The directory as an absolute path with no symbolic link in it, made when missing. */
static char *make_dir(const char *path, mode_t mode, struct errmsg *e)
{
    if (mkdir(path, mode) < 0 && errno != EEXIST) {
        errmsg_sys(e, errno, "%s: making the directory", path);
        return NULL;
    }
    char *real = realpath(path, NULL);
    if (!real) errmsg_sys(e, errno, "%s", path);
    return real;
}

/* An absolute path, symbolic links unresolved, of a directory that exists. */
static char *given_dir(const char *path)
{
    char *cwd = NULL, *whole = NULL;
    if (access(path, X_OK) < 0) return NULL;
    if (*path != '/') cwd = getcwd(NULL, 0);
    if (asprintf(&whole, "%s%s%s", cwd ? cwd : "", cwd ? "/" : "", path) < 0) whole = NULL;
    free(cwd);
    return whole;
}

/* Where we were started from, symbolic links unresolved: a link that is switched to another build takes the workers
 * along at the next start or upgrade. */
static char *own_dir(const char *argv0)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", argv0);
    char *slash = strrchr(path, '/');
    if (slash) {
        snprintf(slash, sizeof path - (size_t)(slash - path), "/creedence-vbd");
        if (access(path, X_OK) == 0) {
            slash[slash == path] = 0;
            return given_dir(path);
        }
    }
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0) return NULL;
    path[n] = 0;
    slash = strrchr(path, '/');
    slash[slash == path] = 0;
    return strdup(path);
}

/* One daemon per directory. The descriptor is kept until the process ends. */
static int lock_dir(const char *dir, struct errmsg *e)
{
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/creedenced.lock", dir) >= sizeof path)
        return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return errmsg_sys(e, errno, "%s", path);
    uint64_t end_ns = clock_now_ns() + LOCK_WAIT_MS * NS_PER_MS;
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int error = errno;
        if (error == EWOULDBLOCK && clock_now_ns() < end_ns) {
            usleep(10000);
            continue;
        }
        close(fd);
        return error == EWOULDBLOCK ? errmsg_set(e, EBUSY, "%s: another creedenced uses this directory", dir)
                                    : errmsg_sys(e, error, "%s", path);
    }
    return fd;
}

static int prepare_dirs(struct host *h, const struct arguments *a, const char *argv0, struct errmsg *e)
{
    static const char *const dirs[] = {"disks", "vifs"};
    h->state_dir = make_dir(a->state_dir, 0700, e);
    h->run_dir = h->state_dir ? make_dir(a->run_dir, 0755, e) : NULL;
    if (!h->run_dir) return -1;
    h->bin_dir = a->bin_dir ? given_dir(a->bin_dir) : own_dir(argv0);
    if (!h->bin_dir) return errmsg_sys(e, errno, "%s", a->bin_dir ? a->bin_dir : argv0);
    h->cgroup_dir = a->cgroup;
    if (lock_dir(h->state_dir, e) < 0 || lock_dir(h->run_dir, e) < 0) return -1;
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        char path[PATH_MAX];
        if (!host_path(path, h, dirs[i])) return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", h->run_dir);
        char *made = make_dir(path, 0755, e);
        free(made);
        if (!made) return -1;
    }
    return state_prepare(h->state_dir, e);
}

/* -1 in *out when no name is given. */
static int find_group(const char *name, gid_t *out, struct errmsg *e)
{
    *out = (gid_t)-1;
    const struct group *g = name ? getgrnam(name) : NULL;
    if (name && !g) return errmsg_set(e, ENOENT, "there is no group \"%s\"", name);
    if (g) *out = g->gr_gid;
    return 0;
}

static int open_control_socket(struct daemon *d, gid_t gid, struct errmsg *e)
{
    char path[PATH_MAX];
    int fd;
    if (!host_path(path, &d->host, "creedenced.sock"))
        return errmsg_set(e, ENAMETOOLONG, "%s: path is too long", d->host.run_dir);
    int ret = unix_socket_listen(&fd, SOCK_STREAM, path, 0660, e);
    if (ret < 0) return ret;
    if (gid != (gid_t)-1 && lchown(path, (uid_t)-1, gid) < 0) {
        ret = errmsg_sys(e, errno, "%s: giving it to its group", path);
        close(fd);
        return ret;
    }
    ret = rpc_server_new(&d->rpc, d->host.loop, fd, daemon_methods, d);
    return ret < 0 ? errmsg_sys(e, -ret, "%s", path) : 0;
}

/* ---- Life ---- */

struct life {
    struct daemon daemon;
    const struct xen_settings *xen;
    struct loop_watch signals;
    struct loop_timer watchdog;
    uint64_t watchdog_ns;
    gid_t control_gid;
    bool failed;
};

static void watchdog_fired(struct loop_timer *t)
{
    struct life *l = container_of(t, struct life, watchdog);
    sd_notify(0, "WATCHDOG=1");
    loop_timer_arm(l->daemon.host.loop, t, l->watchdog_ns, watchdog_fired);
}

static void start_watchdog(struct life *l)
{
    uint64_t usec = 0;
    if (sd_watchdog_enabled(0, &usec) <= 0 || usec == 0) return;
    l->watchdog_ns = usec * NS_PER_US / 2;
    watchdog_fired(&l->watchdog);
}

static void signal_came(struct loop_watch *w, uint32_t events)
{
    struct signalfd_siginfo info;
    if (read(w->fd, &info, sizeof info) != (ssize_t)sizeof info) return;
    log_info("%s: ending; disks stay served", strsignal((int)info.ssi_signo));
    loop_stop(w->loop);
}

/* All saved disks are settled: from now on operators are served. */
static void settled(struct daemon *d)
{
    struct life *l = container_of(d, struct life, daemon);
    struct errmsg e = {""};
    if (open_control_socket(d, l->control_gid, &e) < 0) {
        log_error("%s", e.text);
        l->failed = true;
        loop_stop(d->host.loop);
        return;
    }
    xen_backends_start(d->host.xen);
    log_info("ready: version %s (%s), debug=%s, %u disks", version_number(), version_commit(),
             version_is_debug() ? "y" : "n", d->host.disk_count);
    sd_notifyf(0, "READY=1\nSTATUS=%u disks", d->host.disk_count);
}

static void cache_up(struct host *h)
{
    LIST_FOR_EACH (node, &h->disks)
        vdisk_cache_up(list_entry(node, struct vdisk, node));
}

static void raise_limits(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur == r.rlim_max) return;
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
}

static int run(struct life *l, struct errmsg *e)
{
    struct host *h = &l->daemon.host;
    h->loop = loop_new();
    if (!h->loop) return errmsg_sys(e, errno, "event loop");
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    autoclose int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signal_fd < 0) return errmsg_sys(e, errno, "signalfd");
    int ret = loop_add(h->loop, &l->signals, signal_fd, EPOLLIN, signal_came);
    if (ret == 0) ret = cache_keeper_new(&h->cache, h, cache_up);
    if (ret == 0) ret = network_new(&h->network, h);
    if (ret == 0) h->holder = holder_new(h);
    if (ret == 0 && xen_backends_new(&h->xen, h, l->xen, e) < 0) return -EIO;
    if (ret < 0) return errmsg_sys(e, -ret, "starting");
    start_watchdog(l);
    ret = daemon_restore(&l->daemon, settled, e);
    if (ret == 0 && !l->failed) ret = loop_run(h->loop);
    loop_remove(&l->signals);
    return ret < 0 ? ret : l->failed ? -EIO : 0;
}

/* In an order that answers every call before its connection goes. */
static void clean_up(struct life *l)
{
    struct host *h = &l->daemon.host;
    sd_notify(0, "STOPPING=1");
    xen_backends_end(h->xen);
    LIST_FOR_EACH_SAFE (node, &h->disks)
        vdisk_free(list_entry(node, struct vdisk, node));
    daemon_shutdown_cut_short(&l->daemon);
    network_free(h->network);
    xen_backends_free(h->xen);
    cache_keeper_free(h->cache);
    holder_free(h->holder);
    if (l->daemon.rpc) rpc_server_flush(l->daemon.rpc, LAST_ANSWERS_MS);
    rpc_server_free(l->daemon.rpc);
    loop_free(h->loop);
    free((char *)(uintptr_t)h->state_dir);
    free((char *)(uintptr_t)h->run_dir);
    free((char *)(uintptr_t)h->bin_dir);
}

int main(int argc, char **argv)
{
    log_setup("creedenced", LOG_LEVEL_INFO);
    struct arguments a = {.state_dir = "/var/lib/creedence",
                          .run_dir = "/run/creedence",
                          .cache = {.enabled = true, .huge_pages = true},
                          .xen = {.disks = "vbd,vbd3",
                                  .cards = "vif",
                                  .card_queues = card_queues_default(),
                                  .map_entries = XEN_MAP_ENTRIES_DEFAULT}};
    int ret = parse(&a, argc, argv);
    if (ret) return ret < 0 ? 2 : 0;

    struct life l = {.daemon.started_ns = clock_now_ns(), .daemon.host.socket_mode = 0660};
    struct host *h = &l.daemon.host;
    struct errmsg e = {""};
    list_init(&h->disks);
    signal(SIGPIPE, SIG_IGN);
    raise_limits();
    if (a.hold) return holder_run(HOLD_FD, a.hold);
    h->cache_settings = a.cache;
    l.xen = &a.xen;
    ret = process_user_find(&h->user, a.user, &e);
    if (ret == 0) ret = find_group(a.group, &l.control_gid, &e);
    if (ret == 0) ret = find_group(a.vm_group, &h->socket_gid, &e);
    if (ret == 0) ret = prepare_dirs(h, &a, argv[0], &e);
    if (ret == 0) {
        state_load_cache(h->state_dir, &h->cache_settings);
        ret = run(&l, &e);
    }
    if (ret < 0 && e.text[0]) log_error("%s", e.text);
    clean_up(&l);
    return ret < 0 ? 1 : 0;
}
