/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creedence-vbd: the disk worker. Alone it follows QEMU's "backend program conventions" for vhost-user
 * programs; under the daemon it is told everything over --link-fd.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"
#include "cmd/vbd_worker.h"
#include "control/unix_socket.h"
#include "control/version.h"
#include "guest/memory.h"
#include "loop/clock.h"

#define STOP_LOOK_NS (10 * NS_PER_MS)
#define STOP_LIMIT_NS NS_PER_SECOND

enum {
    OPT_SOCKET_PATH = 256,
    OPT_CONNECT,
    OPT_FD,
    OPT_LINK_FD,
    OPT_PRINT_CAPABILITIES,
    OPT_BLK_FILE,
    OPT_DISK,
    OPT_BACKING,
    OPT_BACKING_NAME,
    OPT_READ_ONLY,
    OPT_NUM_QUEUES,
    OPT_QUEUE_SIZE,
    OPT_SECTOR_SIZE,
    OPT_WRITE_CACHE,
    OPT_SERIAL,
    OPT_SEG_MAX,
    OPT_SIZE_MAX,
    OPT_PACKED,
    OPT_POLL_US,
    OPT_DATAPATH,
    OPT_CACHE_SOCKET,
    OPT_ONCE,
    OPT_USER,
    OPT_SANDBOX,
    OPT_NAME,
    OPT_XEN,
    OPT_XEN_RING,
};

static const struct option options[] = {
    {"socket-path", required_argument, NULL, OPT_SOCKET_PATH},
    {"connect", required_argument, NULL, OPT_CONNECT},
    {"fd", required_argument, NULL, OPT_FD},
    {"link-fd", required_argument, NULL, OPT_LINK_FD},
    {"print-capabilities", no_argument, NULL, OPT_PRINT_CAPABILITIES},
    {"blk-file", required_argument, NULL, OPT_BLK_FILE},
    {"disk", required_argument, NULL, OPT_DISK},
    {"backing", required_argument, NULL, OPT_BACKING},
    {"backing-name", required_argument, NULL, OPT_BACKING_NAME},
    {"read-only", no_argument, NULL, OPT_READ_ONLY},
    {"num-queues", required_argument, NULL, OPT_NUM_QUEUES},
    {"queue-size", required_argument, NULL, OPT_QUEUE_SIZE},
    {"sector-size", required_argument, NULL, OPT_SECTOR_SIZE},
    {"write-cache", required_argument, NULL, OPT_WRITE_CACHE},
    {"serial", required_argument, NULL, OPT_SERIAL},
    {"seg-max", required_argument, NULL, OPT_SEG_MAX},
    {"size-max", required_argument, NULL, OPT_SIZE_MAX},
    {"packed", required_argument, NULL, OPT_PACKED},
    {"poll-us", required_argument, NULL, OPT_POLL_US},
    {"datapath", required_argument, NULL, OPT_DATAPATH},
    {"cache-socket", required_argument, NULL, OPT_CACHE_SOCKET},
    {"once", no_argument, NULL, OPT_ONCE},
    {"user", required_argument, NULL, OPT_USER},
    {"sandbox", required_argument, NULL, OPT_SANDBOX},
    {"name", required_argument, NULL, OPT_NAME},
    {"xen", required_argument, NULL, OPT_XEN},
    {"xen-ring", required_argument, NULL, OPT_XEN_RING},
    {"verbose", no_argument, NULL, 'v'},
    {"version", no_argument, NULL, 'V'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static const char usage_text[] =
    "Usage: creedence-vbd --socket-path=PATH --disk FILE,format=FORMAT [OPTION]...\n"
    "Serve one virtual disk to one guest over vhost-user-blk.\n"
    "\n"
    "Where the front end is (one of):\n"
    "  --socket-path=PATH      listen on this Unix socket\n"
    "  --connect=PATH          connect to a front end that listens there\n"
    "  --fd=N                  use the socket inherited as descriptor N, listening or connected\n"
    "  --xen domid=N[,mode=auto|copy|map|persistent][,cdrom=on][,protocol=NAME][,persistent=on]\n"
    "                          a Xen guest's rings, for who does xenstore's part; no socket\n"
    "  --xen-ring refs=N[+N]...,port=N\n"
    "                          pages and event channel of a ring; repeat for each queue\n"
    "\n"
    "The disk:\n"
    "  --disk FILE,format=raw|qcow2[,direct=on|off]\n"
    "                          the image that the guest writes; direct=on: O_DIRECT\n"
    "  --backing FILE,format=raw|qcow2[,direct=on|off]\n"
    "                          what the image was cloned from; repeat for each layer, nearest first\n"
    "  --backing-name=same|any same (the default): an image must name the backing file that is given;\n"
    "                          any: for files that were moved\n"
    "  --blk-file=FILE         the same as --disk FILE,format=raw\n"
    "  --read-only             refuse writes\n"
    "  --sector-size=512|4096  logical block size (default 512)\n"
    "  --write-cache=writeback|writethrough\n"
    "  --serial=TEXT           at most 20 bytes (default: the file's name)\n"
    "\n"
    "The device:\n"
    "  --num-queues=N          1 to 64, a thread each (default 1)\n"
    "  --queue-size=N          largest queue expected; sizes what survives a crash (default 1024)\n"
    "  --seg-max=N             data segments in a request (default 126)\n"
    "  --size-max=BYTES        largest segment (default: no limit)\n"
    "  --packed=on|off         offer the packed ring (default on; User-mode Linux needs off)\n"
    "  --poll-us=N             longest adaptive polling, 0: none (default 50)\n"
    "  --datapath=direct|staged\n"
    "                          staged: two more hops and copies, for comparison\n"
    "  --cache-socket=PATH     read backing files through the cache service there\n"
    "\n"
    "The process:\n"
    "  --once                  end when the first front end leaves\n"
    "  --user=NAME             become this user once the disk is open\n"
    "  --sandbox=on|try|off    on: refuse to run without (default try)\n"
    "  --print-capabilities    print what vhost-user tools ask for, and exit\n"
    "  --name=TEXT             what the log calls the disk (default: the image's path)\n"
    "  --link-fd=N             take orders from creedenced on this listening socket\n"
    "  --verbose, --version, --help\n"
    "\n"
    "Examples:\n"
    "  creedence-vbd --socket-path=/run/vm1.sock --disk vm1.qcow2,format=qcow2,direct=on \\\n"
    "      --backing golden.raw,format=raw --num-queues=2\n"
    "  qemu-system-x86_64 ... -chardev socket,id=c0,path=/run/vm1.sock,reconnect=1 \\\n"
    "      -device vhost-user-blk-pci,chardev=c0,num-queues=2\n";

struct arguments {
    struct worker_config config;
    const char *socket_path, *connect_path, *cache_socket;
    int fd, link_fd;
    struct worker_xen_front xen;
    bool once;
    struct sandbox_args sandbox;
    bool sandbox_off;
};

static int number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *out, struct errmsg *e)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || *end || end == text || *text == '-' || v < min || v > max)
        return errmsg_set(e, EINVAL, "--%s=%s: expected a number, %llu to %llu", option, text, (unsigned long long)min,
                          (unsigned long long)max);
    *out = v;
    return 0;
}

static int word(const char *option, const char *text, const char *const *words, unsigned *out, struct errmsg *e)
{
    for (unsigned i = 0; words[i]; i++) {
        if (strcmp(words[i], text) == 0) {
            *out = i;
            return 0;
        }
    }
    return errmsg_set(e, EINVAL, "--%s=%s: expected %s or %s", option, text, words[0], words[1]);
}

static int device_option(struct arguments *a, int opt, const char *name, const char *text, struct errmsg *e)
{
    struct vbd_config *d = &a->config.device;
    uint64_t n = 0;
    unsigned w = 0;
    int ret = 0;
    switch (opt) {
    case OPT_READ_ONLY: d->read_only = true; break;
    case OPT_NUM_QUEUES: ret = number(name, text, 1, VBD_QUEUES_MAX, &n, e), d->queues = (unsigned)n; break;
    case OPT_QUEUE_SIZE:
        ret = number(name, text, 2, VIRTQ_SIZE_MAX, &n, e), a->config.queue_size_max = (uint16_t)n;
        break;
    case OPT_SECTOR_SIZE: ret = number(name, text, 512, 4096, &n, e), d->sector_bytes = (uint32_t)n; break;
    case OPT_SEG_MAX: ret = number(name, text, 1, VBD_SEG_MAX_LIMIT, &n, e), d->seg_max = (uint32_t)n; break;
    case OPT_SIZE_MAX: ret = number(name, text, 0, UINT32_MAX, &n, e), d->size_max_bytes = (uint32_t)n; break;
    case OPT_POLL_US: ret = number(name, text, 0, 1000000, &n, e), d->poll_ns = n * 1000; break;
    case OPT_WRITE_CACHE:
        ret = word(name, text, (const char *const[]){"writeback", "writethrough", NULL}, &w, e), d->write_through = w;
        break;
    case OPT_PACKED: ret = word(name, text, (const char *const[]){"off", "on", NULL}, &w, e), d->packed = w; break;
    case OPT_DATAPATH:
        ret = word(name, text, (const char *const[]){"direct", "staged", NULL}, &w, e);
        a->config.datapath = w ? DATAPATH_STAGED : DATAPATH_DIRECT;
        break;
    case OPT_SERIAL:
        if (strlen(text) > VBD_SERIAL_BYTES - 1)
            return errmsg_set(e, EINVAL, "--serial=%s: expected at most %d bytes", text, VBD_SERIAL_BYTES - 1);
        snprintf(d->serial, sizeof d->serial, "%s", text);
        break;
    default: assert(false && "an option without a case");
    }
    return ret;
}

/* The leaf is layers[0] wherever it stands on the command line. */
static int disk_option(struct arguments *a, const char *text, bool *leaf_given, struct errmsg *e)
{
    struct worker_config *c = &a->config;
    if (*leaf_given) return errmsg_set(e, EINVAL, "--disk: given twice");
    int ret = worker_config_add_layer(c, text, e);
    if (ret < 0) return ret;
    struct worker_layer leaf = c->layer[c->layer_count - 1];
    memmove(&c->layer[1], &c->layer[0], (c->layer_count - 1) * sizeof c->layer[0]);
    c->layer[0] = leaf;
    *leaf_given = true;
    return 0;
}

static int blk_file_option(struct arguments *a, const char *path, bool *leaf_given, struct errmsg *e)
{
    char *text = malloc(2 * strlen(path) + sizeof ",format=raw");
    if (!text) return errmsg_set(e, ENOMEM, "out of memory");
    size_t n = 0;
    for (; *path; path++) {
        if (*path == ',') text[n++] = ',';
        text[n++] = *path;
    }
    strcpy(text + n, ",format=raw");
    int ret = disk_option(a, text, leaf_given, e);
    free(text);
    return ret;
}

static void print_capabilities(void)
{
    puts("{\n  \"type\": \"block\",\n  \"features\": [\n    \"read-only\",\n    \"blk-file\"\n  ]\n}");
}

/* 0: go on; 1: done, exit successfully; -EINVAL. */
static int parse(struct arguments *a, int argc, char **argv, struct errmsg *e)
{
    bool leaf_given = false;
    int opt, index = 0, ret = 0;
    uint64_t n = 0;
    unsigned w = 0;
    while (ret == 0 && (opt = getopt_long(argc, argv, "vVh", options, &index)) != -1) {
        switch (opt) {
        case OPT_SOCKET_PATH: a->socket_path = optarg; break;
        case OPT_CONNECT: a->connect_path = optarg; break;
        case OPT_FD: ret = number("fd", optarg, 0, 1 << 20, &n, e), a->fd = ret ? -1 : (int)n; break;
        case OPT_LINK_FD: ret = number("link-fd", optarg, 0, 1 << 20, &n, e), a->link_fd = ret ? -1 : (int)n; break;
        case OPT_PRINT_CAPABILITIES: print_capabilities(); return 1;
        case OPT_BLK_FILE: ret = blk_file_option(a, optarg, &leaf_given, e); break;
        case OPT_DISK: ret = disk_option(a, optarg, &leaf_given, e); break;
        case OPT_BACKING: ret = worker_config_add_layer(&a->config, optarg, e); break;
        case OPT_BACKING_NAME:
            ret = word("backing-name", optarg, (const char *const[]){"same", "any", NULL}, &w, e);
            a->config.backing_names = w ? BACKING_NAMES_ANY : BACKING_NAMES_SAME;
            break;
        case OPT_CACHE_SOCKET: a->cache_socket = optarg; break;
        case OPT_ONCE: a->once = true; break;
        case OPT_USER: a->sandbox.user = optarg; break;
        case OPT_XEN: ret = worker_xen_config_from_text(&a->config.xen, &a->xen, optarg, e); break;
        case OPT_XEN_RING: ret = worker_xen_ring_from_text(&a->xen, optarg, e); break;
        case OPT_NAME: free(a->config.name), a->config.name = strdup(optarg); break;
        case OPT_SANDBOX:
            ret = word("sandbox", optarg, (const char *const[]){"try", "on", "off", NULL}, &w, e);
            if (ret == 0) a->sandbox.required = w == 1, a->sandbox_off = w == 2;
            break;
        case 'v': log_setup("creedence-vbd", LOG_LEVEL_DEBUG); break;
        case 'V': version_print("creedence-vbd", false); return 1;
        case 'h': fputs(usage_text, stdout); return 1;
        case '?': return errmsg_set(e, EINVAL, "try --help");
        default: ret = device_option(a, opt, options[index].name, optarg, e);
        }
    }
    if (ret < 0 || a->link_fd >= 0) return ret;
    if (optind < argc) return errmsg_set(e, EINVAL, "%s: unexpected argument; try --help", argv[optind]);
    if (!leaf_given) return errmsg_set(e, EINVAL, "no disk given: add --disk FILE,format=raw|qcow2");
    if (!!a->socket_path + !!a->connect_path + (a->fd >= 0) + a->config.xen.there != 1)
        return errmsg_set(e, EINVAL, "expected one of --socket-path, --connect, --fd and --xen");
    if (a->config.xen.there != !!a->xen.rings) return errmsg_set(e, EINVAL, "expected --xen with a --xen-ring or more");
    a->config.device.queues = (unsigned)max_u64(a->config.device.queues, a->xen.rings);
    return worker_config_finish(&a->config, e);
}

static bool is_listening(int fd)
{
    int yes = 0;
    socklen_t len = sizeof yes;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &len) == 0 && yes;
}

static int front_end(const struct arguments *a, struct worker_args *args, struct errmsg *e)
{
    if (a->config.xen.there) return 0;
    args->socket_path = a->socket_path;
    if (a->socket_path) return 0;
    if (a->connect_path) return unix_socket_connect(&args->connected_fd, SOCK_STREAM, a->connect_path, e);
    if (is_listening(a->fd)) args->listen_fd = a->fd;
    else args->connected_fd = a->fd;
    return 0;
}

/*
 * How the loop is stopped: by a signal, and not in the middle of a front end's handshake (QEMU before 8.2 would not come
 * again). One that connected just before has been taken when the timer fires.
 */
struct stopping {
    struct loop *loop;
    struct loop_watch watch;
    struct loop_timer timer;
    const struct worker *worker;
    uint64_t until_ns; /* at the latest; 0: nobody has asked yet */
};

static void stop_fired(struct loop_timer *t)
{
    struct stopping *s = container_of(t, struct stopping, timer);
    if (worker_greets(s->worker) && clock_now_ns() < s->until_ns) loop_timer_arm(s->loop, t, STOP_LOOK_NS, stop_fired);
    else loop_stop(s->loop);
}

static void stop_ready(struct loop_watch *w, uint32_t events)
{
    struct stopping *s = container_of(w, struct stopping, watch);
    struct signalfd_siginfo info;
    (void)events;
    if (read(w->fd, &info, sizeof info) <= 0 || s->until_ns != 0) return; /* who asks again does not make it later */
    s->until_ns = clock_now_ns() + STOP_LIMIT_NS;
    loop_timer_arm(s->loop, &s->timer, STOP_LOOK_NS, stop_fired);
}

static int run_alone(struct arguments *a, const sigset_t *stop_signals, struct errmsg *e)
{
    struct loop *loop = loop_new();
    struct stopping stop = {.loop = loop};
    struct worker *w;
    struct worker_args args = {.loop = loop,
                               .config = &a->config,
                               .listen_fd = -1,
                               .connected_fd = -1,
                               .one_front_end = a->once,
                               .sandbox = a->sandbox_off ? NULL : &a->sandbox};
    int signal_fd = signalfd(-1, stop_signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (!loop || signal_fd < 0) return errmsg_sys(e, errno, "event loop");
    for (unsigned i = 0; i < VBD_QUEUES_MAX; i++)
        args.cache_fd[i] = -1;
    int ret = front_end(a, &args, e);
    if (ret == 0 && a->cache_socket && cache_connect(a->cache_socket, &a->config, args.cache_fd, e) < 0)
        log_warn("no read cache: %s; reading backing files directly", e->text);
    if (ret == 0) ret = worker_open(&w, &args, e);
    if (ret < 0) return ret;
    ret = worker_serve(w, e);
    if (ret == 0 && a->xen.rings) ret = worker_connect(w, &a->xen, e);
    stop.worker = w;
    if (ret == 0) ret = loop_add(loop, &stop.watch, signal_fd, EPOLLIN, stop_ready);
    if (ret == 0) ret = loop_run(loop);
    int ended = worker_quit(w, ret < 0 ? NULL : e);
    loop_timer_cancel(&stop.timer);
    loop_remove(&stop.watch);
    loop_free(loop);
    close(signal_fd);
    return ret < 0 ? ret : ended;
}

int main(int argc, char **argv)
{
    struct arguments a = {.fd = -1, .link_fd = -1};
    struct errmsg e = {{0}};
    log_setup("creedence-vbd", LOG_LEVEL_INFO);
    worker_config_init(&a.config);
    a.config.backing_names = BACKING_NAMES_SAME;
    int ret = parse(&a, argc, argv, &e);
    if (ret != 0) {
        if (ret < 0) fprintf(stderr, "creedence-vbd: %s\n", e.text);
        worker_config_free(&a.config);
        return ret < 0 ? 2 : 0;
    }
    sigset_t stop_signals;
    sigemptyset(&stop_signals);
    sigaddset(&stop_signals, SIGTERM);
    sigaddset(&stop_signals, SIGINT);
    sigprocmask(SIG_BLOCK, &stop_signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    guest_memory_init();
    if (a.link_fd >= 0) {
        /* Only the daemon's word or SIGKILL ends a worker that a guest depends on. */
        ret = link_worker_run(a.link_fd, a.sandbox_off ? NULL : &a.sandbox);
        worker_config_free(&a.config);
        return ret;
    }
    ret = run_alone(&a, &stop_signals, &e);
    if (ret < 0) log_error("%s", e.text);
    worker_config_free(&a.config);
    return ret < 0 ? 1 : 0;
}
