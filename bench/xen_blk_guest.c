/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xen-blk-guest: a guest with a blkfront, on a simulated Xen machine of its own (guest/sim.h). A disk worker whose world is that
 * machine serves it; whoever tests the worker tells both what to do.
 *
 * On start a line of JSON says where the rings are, as a worker's `connect` takes it. Then commands are read, a line each, and each is
 * answered by a line of JSON:
 *
 *   load     begin to read and write at random, and to check what is read against what was written last
 *   rest     add nothing more, wait for what is open, and say how it went
 *   anew     the front end starts again, as after a reboot: what it had granted it takes back, which fails while somebody uses it, and
 *            grants it anew; other event channels; nothing is open
 *   spoil    the index of its first ring is nonsense from now on; it should be at rest
 *   kill N   kill process N between two of its calls of the hypervisor
 *   crash    the domain is destroyed with whatever is open
 *   boot N   after that: a new domain, of that number, on the same disk
 *   say      nothing else
 *   quit     (or the end of the input) and the machine goes
 *
 * Answers also say what the host has of the machine: pages mapped, and ports bound; and the rings, if they changed.
 *
 * Each ring has a part of the disk of its own, of BLOCKS blocks; no two requests of the same blocks are open at a time.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "guest/sim.h"
#include "guest_commands.h"
#include "ring/blkif_sim.h"
#include "ring/xen_ring.h"

#define RINGS_MAX 16u
#define SLOTS 32u /* requests open at a time on a ring */
#define PAGES 24u /* of data, of each */
#define BLOCKS 256u
#define DIRECT 11u         /* segments in a request itself */
#define UNKNOWN UINT64_MAX /* what a block holds: it was discarded, or a write of it was open in a crash */
#define SETTLE_NS UINT64_C(20000000000)
#define IDLE_MS 1

struct slot {
    bool open;
    uint8_t op;
    unsigned block, count;
    uint32_t ref[PAGES];
    uint8_t *page[PAGES];
    uint32_t indirect_ref;
    uint8_t *indirect;
};

struct ring {
    struct blkif_sim front;
    void *memory;
    uint32_t ref[BLKIF_RING_PAGES_MAX];
    int port;
    struct slot slot[SLOTS];
    uint64_t written[BLOCKS]; /* the number that each block has, or is to have; or UNKNOWN */
    bool busy[BLOCKS];
};

struct guest {
    struct sim *sim;
    struct sim_guest *guest;
    const char *dir;
    unsigned domid, rings, ring_pages, segments;
    enum blkif_abi abi;
    struct ring *ring;
    bool loads, discards;
    unsigned open;
    uint64_t random, number, done, discarded, errors, wrong, longest_ns, last_ns;
};

static void die(const char *what)
{
    fprintf(stderr, "xen-blk-guest: %s\n", what);
    exit(2);
}

/* ---- the domain ---- */

static uint32_t grant(struct guest *g, uint8_t **page)
{
    int64_t frame = sim_page_take(g->guest);
    if (frame < 0) die("no page left");
    *page = sim_guest_page(g->guest, (uint32_t)frame);
    int64_t ref = sim_grant(g->guest, SIM_HOST, (uint32_t)frame, false);
    if (ref < 0) die("no grant left");
    return (uint32_t)ref;
}

static void make_slot(struct guest *g, struct slot *s)
{
    for (unsigned i = 0; i < PAGES; i++)
        s->ref[i] = grant(g, &s->page[i]);
    s->indirect_ref = grant(g, &s->indirect);
}

static void make_ring(struct guest *g, struct ring *r)
{
    for (unsigned i = 0; i < g->ring_pages; i++) {
        uint8_t *page;
        r->ref[i] = grant(g, &page);
        if (i == 0) r->memory = page;
    }
    for (unsigned i = 0; i < SLOTS; i++)
        make_slot(g, &r->slot[i]);
    r->port = sim_port_alloc(g->guest, SIM_HOST);
    if (r->port < 0) die("no event channel left");
    blkif_sim_init(&r->front, r->memory, g->ring_pages, g->abi);
}

static void make_domain(struct guest *g)
{
    struct errmsg e = {""};
    struct sim_guest_options go = {.domid = (xen_domid)g->domid, .abi = SIM_FIFO};
    go.pages = g->rings * (g->ring_pages + SLOTS * (PAGES + 1)) + 16;
    go.grants = go.pages + 64;
    if (sim_guest_create(&g->guest, g->sim, &go, &e)) die(e.text);
    for (unsigned i = 0; i < g->rings; i++)
        make_ring(g, &g->ring[i]);
}

static void make_guest(struct guest *g)
{
    struct errmsg e = {""};
    struct sim_options o = {.abi = SIM_FIFO};
    if (sim_create(&g->sim, g->dir, &o, &e)) die(e.text);
    g->ring = calloc(g->rings, sizeof *g->ring);
    if (!g->ring) die("out of memory");
    make_domain(g);
}

static void say_rings(const struct guest *g)
{
    printf("\"domid\": %u, \"rings\": [", g->domid);
    for (unsigned i = 0; i < g->rings; i++) {
        printf("%s{\"port\": %d, \"refs\": [", i ? ", " : "", g->ring[i].port);
        for (unsigned k = 0; k < g->ring_pages; k++)
            printf("%s%u", k ? ", " : "", g->ring[i].ref[k]);
        printf("]}");
    }
    printf("]");
}

static void say_where(const struct guest *g)
{
    printf("{\"bytes\": %u, \"protocol\": \"%s\", ", g->rings * BLOCKS * 4096,
           g->abi == BLKIF_ABI_X86_32 ? "x86_32-abi" : "x86_64-abi");
    say_rings(g);
    printf("}\n");
    fflush(stdout);
}

/* ---- the load ---- */

static uint64_t word_of(uint64_t block, uint64_t number)
{
    return number ? number << 32 | block : 0; /* a block that was never written is zeroes */
}

static void fill(uint8_t *page, uint64_t word)
{
    for (unsigned i = 0; i < 4096; i += 8)
        memcpy(page + i, &word, 8);
}

static bool holds(const uint8_t *page, uint64_t word)
{
    for (unsigned i = 0; i < 4096; i += 8)
        if (memcmp(page + i, &word, 8) != 0) return false;
    return true;
}

static void say_segments(const struct guest *g, struct slot *s, struct blkif_request *q, struct blkif_segment *segment)
{
    for (unsigned i = 0; i < s->count; i++)
        segment[i] = (struct blkif_segment){s->ref[i], 0, 7};
    q->segments = segment;
    q->segment_count = s->count;
    if (s->count <= DIRECT) return;
    memset(s->indirect, 0, 4096);
    for (unsigned i = 0; i < s->count; i++) {
        memcpy(s->indirect + i * 8, &s->ref[i], 4);
        s->indirect[i * 8 + 5] = 7;
    }
    q->indirect_pages = 1;
    q->indirect_ref[0] = s->indirect_ref;
}

static bool is_free(const struct ring *r, unsigned block, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (block + i >= BLOCKS || r->busy[block + i]) return false;
    return true;
}

static void add_data(struct guest *g, unsigned index, struct ring *r, struct slot *s, unsigned which)
{
    unsigned most = g->segments > DIRECT && bench_random_below(&g->random, 4) == 0 ? g->segments : DIRECT;
    uint64_t kind = bench_random_below(&g->random, 16);
    s->count = (unsigned)bench_random_below(&g->random, most < PAGES ? most : PAGES) + 1;
    s->block = (unsigned)bench_random_below(&g->random, BLOCKS);
    s->op = kind < 8 ? BLKIF_READ : kind == 15 && s->count <= DIRECT ? BLKIF_WRITE_BARRIER : BLKIF_WRITE;
    if (!is_free(r, s->block, s->count)) return;
    struct blkif_segment segment[PAGES];
    struct blkif_request q = {.op = s->op, .sector = (uint64_t)(index * BLOCKS + s->block) * 8};
    say_segments(g, s, &q, segment);
    if (!blkif_sim_add(&r->front, &q, which)) return;
    for (unsigned i = 0; i < s->count; i++) {
        r->busy[s->block + i] = true;
        if (s->op != BLKIF_READ) r->written[s->block + i] = ++g->number;
        fill(s->page[i], s->op == BLKIF_READ ? UINT64_MAX : word_of(s->block + i, r->written[s->block + i]));
    }
    s->open = true;
    g->open++;
}

/* What the blocks hold then is not said. */
static void add_discard(struct guest *g, unsigned index, struct ring *r, struct slot *s, unsigned which)
{
    s->op = BLKIF_DISCARD;
    s->count = (unsigned)bench_random_below(&g->random, BLOCKS / 16) + 1;
    s->block = (unsigned)bench_random_below(&g->random, BLOCKS);
    if (!is_free(r, s->block, s->count)) return;
    struct blkif_request q = {.op = BLKIF_DISCARD, .sector = (uint64_t)(index * BLOCKS + s->block) * 8};
    q.discard_sectors = (uint64_t)s->count * 8;
    if (!blkif_sim_add(&r->front, &q, which)) return;
    for (unsigned i = 0; i < s->count; i++) {
        r->busy[s->block + i] = true;
        r->written[s->block + i] = UNKNOWN;
    }
    s->open = true;
    g->open++;
    g->discarded++;
}

static void add_flush(struct guest *g, struct ring *r, struct slot *s, unsigned which)
{
    struct blkif_request q = {.op = BLKIF_FLUSH_DISKCACHE};
    s->op = BLKIF_FLUSH_DISKCACHE;
    s->count = 0;
    if (!blkif_sim_add(&r->front, &q, which)) return;
    s->open = true;
    g->open++;
}

static void add(struct guest *g, unsigned index)
{
    struct ring *r = &g->ring[index];
    unsigned some = (unsigned)bench_random_below(&g->random, SLOTS / 2);
    for (unsigned which = 0; some && which < SLOTS; which++) {
        if (r->slot[which].open) continue;
        uint64_t kind = bench_random_below(&g->random, 64);
        if (kind == 0) add_flush(g, r, &r->slot[which], which);
        else if (kind < 4 && g->discards) add_discard(g, index, r, &r->slot[which], which);
        else add_data(g, index, r, &r->slot[which], which);
        some--;
    }
    if (blkif_sim_publish(&r->front)) sim_port_notify(g->guest, r->port);
}

static void finish(struct guest *g, struct ring *r, struct slot *s, int status)
{
    uint64_t now_ns = bench_now_ns();
    if (now_ns - g->last_ns > g->longest_ns) g->longest_ns = now_ns - g->last_ns;
    g->last_ns = now_ns;
    g->done++;
    g->open--;
    s->open = false;
    if (status) g->errors++;
    for (unsigned i = 0; i < s->count; i++) {
        unsigned block = s->block + i;
        r->busy[block] = false;
        if (s->op != BLKIF_READ || status || r->written[block] == UNKNOWN) continue;
        if (!holds(s->page[i], word_of(block, r->written[block]))) g->wrong++;
    }
}

static unsigned take(struct guest *g, struct ring *r)
{
    unsigned n = 0;
    uint64_t which;
    int status;
    while (blkif_sim_get(&r->front, &which, &status)) {
        finish(g, r, &r->slot[which], status);
        n++;
    }
    if (r->front.error) die(r->front.error);
    return n;
}

/* One look at everything. How many answers there were. */
static unsigned pass(struct guest *g)
{
    int ports[RINGS_MAX];
    unsigned n = 0, pending = g->guest ? sim_pending(g->guest, ports, RINGS_MAX) : 0;
    for (unsigned i = 0; i < pending; i++)
        sim_unmask(g->guest, ports[i]);
    for (unsigned i = 0; g->guest && i < g->rings; i++) {
        n += take(g, &g->ring[i]);
        if (g->loads) add(g, i);
        if (blkif_sim_final_check(&g->ring[i].front)) n++;
    }
    return n;
}

/* ---- commands ---- */

static void answer(const struct guest *g, bool rings, const char *error)
{
    printf("{\"done\": %" PRIu64 ", \"discarded\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"wrong\": %" PRIu64
           ", \"open\": %u, \"longest_ms\": %.1f, \"maps\": %u, \"ports\": %u, ",
           g->done, g->discarded, g->errors, g->wrong, g->open, (double)g->longest_ns / 1e6, sim_maps_used(g->sim),
           sim_ports_used(g->sim, SIM_HOST));
    if (rings) {
        say_rings(g);
        printf(", ");
    }
    printf("\"ok\": %s}\n", error ? "false" : "true");
    if (error) fprintf(stderr, "xen-blk-guest: %s\n", error);
    fflush(stdout);
}

static const char *rest(struct guest *g)
{
    uint64_t until_ns = bench_now_ns() + SETTLE_NS;
    g->loads = false;
    while (g->open && bench_now_ns() < until_ns)
        if (pass(g) == 0) usleep(100);
    return g->open ? "requests are not answered" : NULL;
}

/* False: somebody uses it. */
static bool grant_again(struct guest *g, uint32_t *ref, const void *page)
{
    return sim_grant_anew(g->guest, ref, SIM_HOST, sim_guest_frame(g->guest, page), false) == 0;
}

static bool ring_anew(struct guest *g, struct ring *r)
{
    bool good = true;
    for (unsigned i = 0; i < g->ring_pages; i++)
        good = grant_again(g, &r->ref[i], (uint8_t *)r->memory + i * XEN_PAGE_BYTES) && good;
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *s = &r->slot[i];
        for (unsigned k = 0; k < PAGES; k++)
            good = grant_again(g, &s->ref[k], s->page[k]) && good;
        good = grant_again(g, &s->indirect_ref, s->indirect) && good;
    }
    sim_port_free(g->guest, r->port);
    r->port = sim_port_alloc(g->guest, SIM_HOST);
    blkif_sim_init(&r->front, r->memory, g->ring_pages, g->abi);
    return good;
}

static const char *anew(struct guest *g)
{
    bool good = true;
    if (g->open) return "requests are open";
    for (unsigned i = 0; i < g->rings; i++)
        good = ring_anew(g, &g->ring[i]) && good;
    return good ? NULL : "pages are still in use";
}

static const char *spoil(struct guest *g)
{
    if (!g->guest) return "there is no domain";
    struct ring *r = &g->ring[0];
    struct xen_ring *ring = r->front.ring;
    __atomic_store_n(&ring->req_prod, r->front.req_prod + 2 * r->front.entries, __ATOMIC_RELEASE);
    sim_port_notify(g->guest, r->port);
    return NULL;
}

static void crash(struct guest *g)
{
    sim_guest_free(g->guest);
    g->guest = NULL;
    g->loads = false;
}

/* What was open may have been done, or not. */
static const char *boot(struct guest *g, unsigned domid)
{
    if (g->guest) return "a domain is there";
    g->domid = domid;
    g->open = 0;
    for (unsigned i = 0; i < g->rings; i++) {
        struct ring *r = &g->ring[i];
        for (unsigned k = 0; k < SLOTS; k++) {
            struct slot *s = &r->slot[k];
            for (unsigned b = 0; s->open && s->op != BLKIF_READ && b < s->count; b++)
                r->written[s->block + b] = UNKNOWN;
            s->open = false;
        }
        memset(r->busy, 0, sizeof r->busy);
    }
    make_domain(g);
    return NULL;
}

/* False: it is to end. */
static bool obey(void *arg, const char *line)
{
    struct guest *g = arg;
    const char *error = NULL;
    bool rings = strcmp(line, "anew") == 0 || strncmp(line, "boot ", 5) == 0;
    if (strcmp(line, "load") == 0) g->loads = true, g->last_ns = bench_now_ns();
    else if (strcmp(line, "rest") == 0) error = rest(g);
    else if (strcmp(line, "anew") == 0) error = anew(g);
    else if (strcmp(line, "spoil") == 0) error = spoil(g);
    else if (strcmp(line, "crash") == 0) crash(g);
    else if (strncmp(line, "boot ", 5) == 0) error = boot(g, (unsigned)atoi(line + 5));
    else if (strncmp(line, "kill ", 5) == 0) error = sim_kill(g->sim, atoi(line + 5)) ? "it cannot be killed" : NULL;
    else if (strcmp(line, "quit") == 0) return false;
    else if (strcmp(line, "say") == 0) error = NULL;
    else error = "no such command";
    answer(g, rings, error);
    return true;
}

static void run(struct guest *g)
{
    for (;;) {
        unsigned n = pass(g);
        struct pollfd p[2] = {{.fd = 0, .events = POLLIN},
                              {.fd = g->guest ? sim_event_fd(g->guest) : -1, .events = POLLIN}};
        if (poll(p, 2, n ? 0 : IDLE_MS) < 0 && errno != EINTR) die("poll");
        if (p[0].revents && !guest_commands(obey, g)) return;
    }
}

static bool parse(struct guest *g, int argc, char **argv)
{
    static const struct option options[] = {{"domid", required_argument, NULL, 'd'},
                                            {"rings", required_argument, NULL, 'r'},
                                            {"pages", required_argument, NULL, 'p'},
                                            {"segments", required_argument, NULL, 's'},
                                            {"abi32", no_argument, NULL, '3'},
                                            {"discard", no_argument, NULL, 'c'},
                                            {0}};
    int opt;
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (opt) {
        case 'd': g->domid = (unsigned)atoi(optarg); break;
        case 'r': g->rings = (unsigned)atoi(optarg); break;
        case 'p': g->ring_pages = (unsigned)atoi(optarg); break;
        case 's': g->segments = (unsigned)atoi(optarg); break;
        case 'c': g->discards = true; break;
        case '3': g->abi = BLKIF_ABI_X86_32; break;
        default: return false;
        }
    }
    g->dir = optind + 1 == argc ? argv[optind] : NULL;
    return g->dir && g->rings >= 1 && g->rings <= RINGS_MAX && g->ring_pages >= 1 &&
           g->ring_pages <= BLKIF_RING_PAGES_MAX && g->segments <= BLKIF_SEGMENTS_MAX;
}

int main(int argc, char **argv)
{
    struct guest g = {
        .domid = 7, .rings = 1, .ring_pages = 1, .segments = DIRECT, .abi = BLKIF_ABI_X86_64, .random = 1};
    if (!parse(&g, argc, argv)) {
        fprintf(stderr,
                "usage: xen-blk-guest [--domid N] [--rings N] [--pages N] [--segments N] [--abi32] [--discard] DIR\n");
        return 2;
    }
    make_guest(&g);
    say_where(&g);
    run(&g);
    if (g.guest) sim_guest_free(g.guest);
    sim_detach(g.sim);
    sim_remove(g.dir);
    free(g.ring);
    return g.wrong ? 1 : 0;
}
