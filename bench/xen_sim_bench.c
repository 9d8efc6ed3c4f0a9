/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xen-sim-bench: what Xen 4.4's event channels and grant tables changed, measured on a simulated machine (guest/sim.h) at native speed.
 *
 *     xen-sim-bench [--json] [events] [idle] [density] [copy] [map]     default: all
 *
 * events   what an event costs (sent by the guest, taken and unmasked by the host) with so many channels open, of which any may be next;
 *          one at a time, where waking and the pipe have most of it, and 64 at a time
 * idle     CPU time of a thread that waits for half a second with so many channels open
 * density  how many VMs with 4 and with 10 channels each can be attached before no channel is left
 * copy     grant copies from a guest for each thread, with one lock for all grants (6.2) and one for each (4.4)
 * map      a page mapped and unmapped, copied, and taken from those that stay mapped
 *
 * The sender is the same thread, so that no figure is about waking another processor.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "guest/persistent.h"
#include "guest/sim.h"

#define EVENTS 200000u
#define BURST 64u
#define ROUNDS 5u
#define THREADS_MAX 8u
#define COPY_NS (UINT64_C(300) * 1000000)
#define PAGES 256u

static const char *const abi_names[] = {"2-level, 1,023", "2-level, 4,095", "FIFO, 131,071"};
static const unsigned abi_channels[] = {1023, 4095, 131071};

struct bed {
    char dir[64];
    struct sim *sim;
    struct xen *xen;
    struct sim_guest *guest;
    unsigned channels; /* bound; the guest's ports are 1 ... */
    int *guest_port;   /* by the host's */
};

static bool json;

static void line(const char *what, const char *variant, double parameter, double value, const char *unit)
{
    if (json)
        printf("{\"what\":\"%s\",\"variant\":\"%s\",\"parameter\":%.0f,\"value\":%.3f,\"unit\":\"%s\"}\n", what,
               variant, parameter, value, unit);
    else printf("%-14s %-28s %10.0f %14.2f %s\n", what, variant, parameter, value, unit);
    fflush(stdout);
}

static void die(const char *what, const struct errmsg *e)
{
    fprintf(stderr, "xen-sim-bench: %s: %s\n", what, e->text);
    exit(2);
}

static void bed_open(struct bed *b, const struct sim_options *o)
{
    struct errmsg e = {{0}};
    *b = (struct bed){.dir = "/dev/shm/xen-sim-bench-XXXXXX"};
    if (!mkdtemp(b->dir)) errmsg_sys(&e, errno, "mkdtemp"), die(b->dir, &e);
    if (sim_create(&b->sim, b->dir, o, &e)) die("machine", &e);
    if (sim_xen_open(&b->xen, b->sim, NULL, false, &e)) die("host", &e);
    b->guest_port = calloc(131072, sizeof *b->guest_port);
    struct sim_guest_options g = {.domid = 1, .pages = PAGES, .grants = PAGES + 8, .abi = SIM_FIFO};
    if (sim_guest_create(&b->guest, b->sim, &g, &e)) die("guest", &e);
}

static void bed_close(struct bed *b)
{
    xen_close(b->xen);
    sim_guest_free(b->guest);
    sim_detach(b->sim);
    sim_remove(b->dir);
    free(b->guest_port);
}

static bool bind_one(struct bed *b)
{
    int guest_port = sim_port_alloc(b->guest, SIM_HOST), ports[1];
    int port = guest_port < 0 ? guest_port : b->xen->ops->bind(b->xen, 1, (uint32_t)guest_port);
    if (port < 0) return false;
    b->guest_port[b->channels++] = guest_port;
    while (b->xen->ops->pending(b->xen, ports, 1))
        b->xen->ops->unmask(b->xen, ports[0]);
    return true;
}

/* ns an event, `burst` at a time. The median of a few rounds. */
static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static uint64_t events_round(struct bed *b, unsigned burst, unsigned total, uint64_t *seed)
{
    int ports[BURST];
    uint64_t start = bench_now_ns();
    for (unsigned sent = 0; sent < total; sent += burst) {
        for (unsigned i = 0; i < burst; i++)
            sim_port_notify(b->guest, b->guest_port[bench_random_below(seed, b->channels)]);
        for (unsigned n; (n = b->xen->ops->pending(b->xen, ports, BURST));)
            for (unsigned i = 0; i < n; i++)
                b->xen->ops->unmask(b->xen, ports[i]);
    }
    return bench_now_ns() - start;
}

static double event_ns(struct bed *b, unsigned burst)
{
    double ns[ROUNDS];
    uint64_t seed = 1;
    unsigned total = EVENTS / (burst == 1 ? 4 : 1);
    events_round(b, burst, total / 4, &seed);
    for (unsigned i = 0; i < ROUNDS; i++)
        ns[i] = (double)events_round(b, burst, total, &seed) / total;
    qsort(ns, ROUNDS, sizeof ns[0], by_value);
    return ns[ROUNDS / 2];
}

static double cpu_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static double idle_cpu_ms(struct bed *b)
{
    int ports[BURST];
    double start = cpu_ms();
    uint64_t end = bench_now_ns() + UINT64_C(500000000);
    for (uint64_t now; (now = bench_now_ns()) < end;) {
        struct pollfd p = {.fd = b->xen->ops->event_fd(b->xen), .events = POLLIN};
        if (poll(&p, 1, (int)((end - now) / 1000000) + 1) > 0) b->xen->ops->pending(b->xen, ports, BURST);
    }
    return cpu_ms() - start;
}

static void channels(bool events, bool idle)
{
    static const unsigned counts[] = {1000, 4000, 10000, 131071};
    for (unsigned abi = 0; abi < 3; abi++) {
        struct bed b;
        bed_open(&b, &(struct sim_options){.abi = abi});
        for (unsigned i = 0; i < sizeof counts / sizeof counts[0] && counts[i] <= abi_channels[abi]; i++) {
            while (b.channels < counts[i] && bind_one(&b))
                ;
            if (events) line("event", abi_names[abi], b.channels, event_ns(&b, 1), "ns, one at a time");
            if (events) line("event", abi_names[abi], b.channels, event_ns(&b, BURST), "ns, 64 at a time");
            if (idle) line("idle", abi_names[abi], b.channels, idle_cpu_ms(&b), "ms of CPU in 500 ms");
        }
        bed_close(&b);
    }
}

static void density(void)
{
    for (unsigned abi = 0; abi < 3; abi++) {
        struct bed b;
        bed_open(&b, &(struct sim_options){.abi = abi});
        while (bind_one(&b))
            ;
        line("density", abi_names[abi], 4, b.channels / 4, "VMs of 4 channels");
        line("density", abi_names[abi], 10, b.channels / 10, "VMs of 10 channels");
        bed_close(&b);
    }
}

/* ---- grant copies ---- */

struct copier {
    struct sim *sim;
    xen_domid domid;
    uint32_t refs[PAGES];
    unsigned bytes;
    pthread_barrier_t *start;
    uint64_t copies, ns;
};

static void *copier(void *arg)
{
    struct copier *c = arg;
    struct xen *x = NULL;
    struct xen_copy copies[16];
    static _Thread_local char local[16 * XEN_PAGE_BYTES];
    struct errmsg e = {{0}};
    if (sim_xen_open(&x, c->sim, NULL, false, &e)) die("host", &e);
    pthread_barrier_wait(c->start);
    uint64_t start = bench_now_ns(), end = start + COPY_NS, now;
    for (unsigned at = 0; (now = bench_now_ns()) < end; c->copies += 16) {
        for (unsigned i = 0; i < 16; i++, at++)
            copies[i] = (struct xen_copy){.ref = c->refs[at % PAGES],
                                          .length = (uint16_t)c->bytes,
                                          .local = local + i * XEN_PAGE_BYTES,
                                          .to_guest = true};
        x->ops->copy(x, c->domid, copies, 16);
    }
    c->ns = now - start;
    xen_close(x);
    return NULL;
}

static double copy_rate(bool one_lock, unsigned threads, unsigned bytes)
{
    struct bed b;
    struct copier c[THREADS_MAX] = {0};
    struct sim_guest *guest[THREADS_MAX];
    pthread_t thread[THREADS_MAX];
    pthread_barrier_t start;
    struct errmsg e = {{0}};
    double rate = 0;
    bed_open(&b, &(struct sim_options){.abi = SIM_FIFO, .one_lock = one_lock});
    pthread_barrier_init(&start, NULL, threads);
    for (unsigned i = 0; i < threads; i++) {
        struct sim_guest_options g = {
            .domid = (xen_domid)(i + 2), .pages = PAGES, .grants = PAGES + 8, .abi = SIM_FIFO};
        if (sim_guest_create(&guest[i], b.sim, &g, &e)) die("guest", &e);
        c[i] = (struct copier){.sim = b.sim, .domid = g.domid, .bytes = bytes, .start = &start};
        for (unsigned k = 0; k < PAGES; k++)
            c[i].refs[k] = (uint32_t)sim_grant(guest[i], SIM_HOST, k, false);
        pthread_create(&thread[i], NULL, copier, &c[i]);
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        rate += (double)c[i].copies * 1e3 / (double)c[i].ns;
        sim_guest_free(guest[i]);
    }
    pthread_barrier_destroy(&start);
    bed_close(&b);
    return rate;
}

static void copy(void)
{
    static const unsigned sizes[] = {64, 1500, 4096};
    for (unsigned s = 0; s < 3; s++)
        for (unsigned one_lock = 0; one_lock < 2; one_lock++)
            for (unsigned threads = 1; threads <= 4; threads *= 2) {
                char unit[64];
                snprintf(unit, sizeof unit, "M copies/s of %u bytes", sizes[s]);
                line("copy", one_lock ? "one lock for all" : "a lock for each grant", threads,
                     copy_rate(one_lock, threads, sizes[s]), unit);
            }
}

/* ---- how a page is reached ---- */

static void map_pages(struct xen *x, const uint32_t *refs, unsigned count)
{
    struct xen_map maps[16];
    for (unsigned at = 0; at < count; at += 16) {
        for (unsigned i = 0; i < 16; i++)
            maps[i] = (struct xen_map){.ref = refs[(at + i) % PAGES]};
        x->ops->map(x, 1, maps, 16, true);
        x->ops->unmap(x, maps, 16);
    }
}

static void map(void)
{
    struct bed b;
    uint32_t refs[PAGES];
    unsigned count = 100000, slot;
    void *page;
    bed_open(&b, &(struct sim_options){.abi = SIM_FIFO});
    for (unsigned k = 0; k < PAGES; k++)
        refs[k] = (uint32_t)sim_grant(b.guest, SIM_HOST, k, false);
    uint64_t start = bench_now_ns();
    map_pages(b.xen, refs, count);
    line("map", "mmap, munmap, 16 a call", 16, (double)(bench_now_ns() - start) / count, "ns a page");
    struct xen *direct;
    struct errmsg e = {{0}};
    if (sim_xen_open(&direct, b.sim, NULL, true, &e)) die("host", &e);
    start = bench_now_ns();
    map_pages(direct, refs, count);
    line("map", "direct, 16 a call", 16, (double)(bench_now_ns() - start) / count, "ns a page");
    xen_close(direct);
    struct persistent *p = persistent_new(b.xen, 1, PAGES);
    start = bench_now_ns();
    for (unsigned i = 0; p && i < count; i++)
        if (persistent_get(p, refs[i % PAGES], true, &page, &slot) == 0) persistent_put(p, slot);
    line("map", "stays mapped", PAGES, (double)(bench_now_ns() - start) / count, "ns a page");
    persistent_free(p);
    bed_close(&b);
}

int main(int argc, char **argv)
{
    bool asked = false, events = false, idle = false, dense = false, copied = false, mapped = false;
    for (int i = 1; i < argc; i++) {
        bool *which = !strcmp(argv[i], "events")    ? &events
                      : !strcmp(argv[i], "idle")    ? &idle
                      : !strcmp(argv[i], "density") ? &dense
                      : !strcmp(argv[i], "copy")    ? &copied
                      : !strcmp(argv[i], "map")     ? &mapped
                      : !strcmp(argv[i], "--json")  ? &json
                                                    : NULL;
        if (!which) {
            fprintf(stderr, "usage: xen-sim-bench [--json] [events] [idle] [density] [copy] [map]\n");
            return 2;
        }
        *which = true;
        asked |= which != &json;
    }
    if (events || idle || !asked) channels(events || !asked, idle || !asked);
    if (dense || !asked) density();
    if (copied || !asked) copy();
    if (mapped || !asked) map();
    return 0;
}
