/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xen-net-guest: two guests with a netfront each, on a simulated Xen machine of their own (guest/sim.h), which send to each other
 * through a switch whose world is that machine; whoever tests the switch tells both what to do.
 *
 * On start a line of JSON says where the rings are. Then commands are read, a line each, and each is answered by a line of JSON:
 *
 *   load I   guest I (0, 1) begins to send on every queue: datagrams, and TCP segments that are to be cut, or not, on the way
 *   rest I   it sends nothing more, and waits until what it sent is answered
 *   say      nothing else
 *   anew I   it starts again, as after a reboot: what it had granted it takes back, which fails while somebody uses it,
 *            and grants it anew; other event channels
 *   spoil I  the index of its first transmit ring is nonsense from now on; it should be at rest
 *   kill N   kill process N between two of its calls of the hypervisor
 *   crash I  the domain of guest I is destroyed with whatever is open
 *   boot I D after that: a new domain, number D
 *   quit     (or the end of the input) and the machine goes
 *
 * Each answer says how it went: frames of each sender's queue that came (and how many were wrong, or came twice), and what the host has
 * of the machine: pages mapped, and ports bound; and the rings, if they changed.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "guest_commands.h"
#include "loop/clock.h"
#include "ring/xen_ring.h"
#include "vif/test_netfront.h"

#define GUESTS 2u
#define STAMP_BYTES 16u
#define FRAME_MAX 20000u
#define MSS 1448u
#define BATCH 8u
#define SETTLE_NS UINT64_C(20000000000)
#define IDLE_MS 1

struct stamp {
    uint64_t number;
    uint32_t length, from; /* whole frame; guest and queue */
};
_Static_assert(sizeof(struct stamp) == STAMP_BYTES, "stamp");

struct guest {
    struct netfront front; /* .guest NULL: there is none */
    unsigned domid;
    bool loads;
    uint64_t sent[NETFRONT_QUEUES_MAX];
    /* Of the other's queues: how many frames came, and the last one's number of each kind; and on which of its own queues. */
    uint64_t came[NETFRONT_QUEUES_MAX], last[NETFRONT_QUEUES_MAX][2], came_on[NETFRONT_QUEUES_MAX];
};

struct bed {
    struct sim *sim;
    const char *dir;
    unsigned queues;
    bool split;
    struct guest guest[GUESTS];
    uint64_t failed, wrong, repeated;
};

static void die(const char *what)
{
    fprintf(stderr, "xen-net-guest: %s\n", what);
    exit(2);
}

/* ---- the domains ---- */

static void post_all(struct guest *g)
{
    for (unsigned i = 0; i < g->front.queues; i++) {
        netfront_post(&g->front.queue[i], NETIF_ENTRIES);
        netfront_publish_rx(&g->front, &g->front.queue[i]);
    }
}

static void make_domain(struct bed *b, struct guest *g)
{
    int ret = netfront_open(&g->front, b->sim, (xen_domid)g->domid, b->queues, b->split);
    if (ret < 0) die(strerror(-ret));
    post_all(g);
}

/* False: somebody uses it. */
static bool grant_again(struct guest *g, uint32_t *ref, uint32_t frame, bool readonly)
{
    return sim_grant_anew(g->front.guest, ref, SIM_HOST, frame, readonly) == 0;
}

static void ports_anew(struct guest *g, struct netfront_queue *q)
{
    bool split = q->rx_port != q->tx_port;
    if (split) sim_port_free(g->front.guest, q->rx_port);
    sim_port_free(g->front.guest, q->tx_port);
    q->tx_port = sim_port_alloc(g->front.guest, SIM_HOST);
    q->rx_port = split ? sim_port_alloc(g->front.guest, SIM_HOST) : q->tx_port;
}

static bool queue_anew(struct guest *g, struct netfront_queue *q)
{
    bool good = grant_again(g, &q->tx_ref, sim_guest_frame(g->front.guest, q->tx.ring), false);
    good = grant_again(g, &q->rx_ref, sim_guest_frame(g->front.guest, q->rx.ring), false) && good;
    for (uint16_t i = 0; i < NETIF_ENTRIES; i++) {
        good = grant_again(g, &q->tx_grant[i], q->tx_page[i], true) && good;
        good = grant_again(g, &q->rx_grant[i], q->rx_page[i], false) && good;
        q->tx_free[i] = q->rx_free[i] = i;
    }
    q->tx_free_count = q->rx_free_count = NETIF_ENTRIES;
    q->sent = q->answered = 0;
    ports_anew(g, q);
    netif_sim_init(&q->tx, q->tx.ring, true);
    netif_sim_init(&q->rx, q->rx.ring, false);
    return good;
}

static const char *anew(struct guest *g)
{
    bool good = true;
    if (!g->front.guest) return "there is no domain";
    for (unsigned i = 0; i < g->front.queues; i++)
        good = queue_anew(g, &g->front.queue[i]) && good;
    post_all(g);
    return good ? NULL : "pages are still in use";
}

static const char *spoil(struct guest *g)
{
    if (!g->front.guest) return "there is no domain";
    struct netfront_queue *q = &g->front.queue[0];
    struct xen_ring *ring = q->tx.ring;
    __atomic_store_n(&ring->req_prod, q->tx.req_prod + 2 * NETIF_ENTRIES, __ATOMIC_RELEASE);
    sim_port_notify(g->front.guest, q->tx_port);
    return NULL;
}

static void crash(struct guest *g)
{
    if (g->front.guest) netfront_close(&g->front);
    g->loads = false;
}

static const char *boot(struct bed *b, struct guest *g, unsigned domid)
{
    if (g->front.guest) return "a domain is there";
    g->domid = domid;
    make_domain(b, g);
    return NULL;
}

/* ---- frames ---- */

static void make_frame(uint8_t *f, unsigned from, unsigned queue, uint64_t number, unsigned length, bool tcp)
{
    struct stamp stamp = {.number = number, .length = length, .from = from << 8 | queue};
    netfront_headers(f, from, queue, length, tcp);
    memcpy(f + NETFRONT_HEADER_BYTES, &stamp, sizeof stamp);
    for (unsigned i = NETFRONT_HEADER_BYTES + STAMP_BYTES; i < length; i++)
        f[i] = (uint8_t)(number * 31 + i);
}

static bool is_tcp(uint64_t number)
{
    return number % 4 == 0;
}

static bool send_one(struct bed *b, unsigned from, unsigned queue)
{
    static uint8_t frame[FRAME_MAX];
    struct guest *g = &b->guest[from];
    uint64_t number = g->sent[queue] + 1;
    bool tcp = is_tcp(number);
    unsigned length = tcp ? 3000 + (unsigned)(number * 997 % (FRAME_MAX - 3000))
                          : NETFRONT_HEADER_BYTES + STAMP_BYTES +
                                (unsigned)(number * 61 % (1514 - NETFRONT_HEADER_BYTES - STAMP_BYTES));
    struct netfront_send how = {0};
    if (tcp) how = (struct netfront_send){.flags = NETIF_TX_CSUM_BLANK, .gso = NETIF_GSO_TCP4, .gso_size = MSS};
    make_frame(frame, from, queue, number, length, tcp);
    if (!netfront_add(&g->front, &g->front.queue[queue], frame, length, &how)) return false;
    g->sent[queue] = number;
    return true;
}

static bool is_intact(const uint8_t *f, unsigned length, const struct stamp *s)
{
    if (s->length != length) return false;
    for (unsigned i = NETFRONT_HEADER_BYTES + STAMP_BYTES; i < length; i++)
        if (f[i] != (uint8_t)(s->number * 31 + i)) return false;
    return true;
}

static void check(struct bed *b, unsigned to, unsigned queue, const struct netfront_frame *f)
{
    struct guest *g = &b->guest[to];
    struct stamp s = {0};
    if (f->length >= NETFRONT_HEADER_BYTES + STAMP_BYTES) memcpy(&s, f->bytes + NETFRONT_HEADER_BYTES, sizeof s);
    unsigned from = s.from & 0xff;
    if (f->status || s.from >> 8 != 1 - to || from >= b->queues || !is_intact(f->bytes, f->length, &s)) {
        b->wrong++;
        return;
    }
    uint64_t *last = &g->last[from][is_tcp(s.number)];
    if (s.number <= *last) b->repeated++; /* or late */
    else *last = s.number;
    g->came[from]++;
    g->came_on[queue]++;
}

static unsigned serve_queue(struct bed *b, unsigned who, unsigned queue)
{
    static uint8_t bytes[65536 + XEN_PAGE_BYTES];
    struct guest *g = &b->guest[who];
    struct netfront_queue *q = &g->front.queue[queue];
    struct netfront_frame f = {.bytes = bytes};
    unsigned n = netfront_reap(q), failed = q->failed;
    q->failed = 0;
    b->failed += failed;
    for (; netfront_get(&g->front, q, &f); n++)
        check(b, who, queue, &f);
    netfront_post(q, NETIF_ENTRIES);
    netfront_publish_rx(&g->front, q);
    for (unsigned i = 0; g->loads && i < BATCH && send_one(b, who, queue); i++)
        n++;
    netfront_publish_tx(&g->front, q);
    if (q->tx.error || q->rx.error) die(q->tx.error ? q->tx.error : q->rx.error);
    return n + netif_sim_final_check(&q->tx) + netif_sim_final_check(&q->rx);
}

/* One look at everything. */
static unsigned pass(struct bed *b)
{
    unsigned n = 0;
    for (unsigned who = 0; who < GUESTS; who++) {
        struct sim_guest *guest = b->guest[who].front.guest;
        int ports[2 * NETFRONT_QUEUES_MAX];
        unsigned pending = guest ? sim_pending(guest, ports, ARRAY_LEN(ports)) : 0;
        for (unsigned i = 0; i < pending; i++)
            sim_unmask(guest, ports[i]);
        for (unsigned i = 0; guest && i < b->queues; i++)
            n += serve_queue(b, who, i);
    }
    return n;
}

/* ---- commands ---- */

static unsigned open_entries(const struct guest *g)
{
    unsigned open = 0;
    for (unsigned i = 0; g->front.guest && i < g->front.queues; i++)
        open += g->front.queue[i].sent - g->front.queue[i].answered;
    return open;
}

static void say_list(const char *name, const uint64_t *value, unsigned count)
{
    printf(", \"%s\": [", name);
    for (unsigned i = 0; i < count; i++)
        printf("%s%" PRIu64, i ? ", " : "", value[i]);
    printf("]");
}

static void say_guest(const struct bed *b, const struct guest *g)
{
    printf("{\"domid\": %u, \"queues\": [", g->domid);
    for (unsigned i = 0; i < b->queues; i++) {
        const struct netfront_queue *q = &g->front.queue[i];
        printf("%s{\"tx-ring-ref\": %u, \"rx-ring-ref\": %u, ", i ? ", " : "", q->tx_ref, q->rx_ref);
        if (b->split) printf("\"event-channel-tx\": %d, \"event-channel-rx\": %d}", q->tx_port, q->rx_port);
        else printf("\"event-channel\": %d}", q->tx_port);
    }
    printf("]");
    say_list("sent", g->sent, b->queues);
    say_list("came", g->came, b->queues);
    say_list("came_on", g->came_on, b->queues);
    printf(", \"open\": %u}", open_entries(g));
}

static void answer(const struct bed *b, const char *error)
{
    printf("{\"guests\": [");
    for (unsigned who = 0; who < GUESTS; who++) {
        if (who) printf(", ");
        say_guest(b, &b->guest[who]);
    }
    printf("], \"errors\": %" PRIu64 ", \"wrong\": %" PRIu64 ", \"repeated\": %" PRIu64
           ", \"maps\": %u, \"ports\": %u, \"ok\": %s}\n",
           b->failed, b->wrong, b->repeated, sim_maps_used(b->sim), sim_ports_used(b->sim, SIM_HOST),
           error ? "false" : "true");
    if (error) fprintf(stderr, "xen-net-guest: %s\n", error);
    fflush(stdout);
}

static const char *rest(struct bed *b, struct guest *g)
{
    uint64_t until_ns = clock_now_ns() + SETTLE_NS;
    g->loads = false;
    while (open_entries(g) && clock_now_ns() < until_ns)
        if (pass(b) == 0) usleep(100);
    pass(b);
    return open_entries(g) ? "frames are not answered" : NULL;
}

/* False: it is to end. */
static bool obey(void *arg, const char *line)
{
    struct bed *b = arg;
    const char *error = NULL;
    unsigned who, domid;
    int pid;
    if (sscanf(line, "load %u", &who) == 1 && who < GUESTS) b->guest[who].loads = true;
    else if (sscanf(line, "rest %u", &who) == 1 && who < GUESTS) error = rest(b, &b->guest[who]);
    else if (strcmp(line, "say") == 0) error = NULL;
    else if (strcmp(line, "quit") == 0) return false;
    else if (sscanf(line, "kill %d", &pid) == 1) error = sim_kill(b->sim, pid) ? "it cannot be killed" : NULL;
    else if (sscanf(line, "anew %u", &who) == 1 && who < GUESTS) error = anew(&b->guest[who]);
    else if (sscanf(line, "spoil %u", &who) == 1 && who < GUESTS) error = spoil(&b->guest[who]);
    else if (sscanf(line, "crash %u", &who) == 1 && who < GUESTS) crash(&b->guest[who]);
    else if (sscanf(line, "boot %u %u", &who, &domid) == 2 && who < GUESTS) error = boot(b, &b->guest[who], domid);
    else error = "no such command";
    answer(b, error);
    return true;
}

static void run(struct bed *b)
{
    for (;;) {
        unsigned n = pass(b);
        struct pollfd p[1 + GUESTS] = {{.fd = 0, .events = POLLIN}};
        for (unsigned who = 0; who < GUESTS; who++) {
            struct sim_guest *guest = b->guest[who].front.guest;
            p[1 + who] = (struct pollfd){.fd = guest ? sim_event_fd(guest) : -1, .events = POLLIN};
        }
        if (poll(p, ARRAY_LEN(p), n ? 0 : IDLE_MS) < 0 && errno != EINTR) die("poll");
        if (p[0].revents && !guest_commands(obey, b)) return;
    }
}

static bool parse(struct bed *b, int argc, char **argv)
{
    static const struct option options[] = {
        {"queues", required_argument, NULL, 'q'}, {"split", no_argument, NULL, 's'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'q': b->queues = (unsigned)atoi(optarg); break;
        case 's': b->split = true; break;
        default: return false;
        }
    }
    b->dir = optind + 1 == argc ? argv[optind] : NULL;
    return b->dir && b->queues >= 1 && b->queues <= NETFRONT_QUEUES_MAX;
}

int main(int argc, char **argv)
{
    static struct bed b = {.queues = 1};
    struct errmsg e = {""};
    if (!parse(&b, argc, argv)) {
        fprintf(stderr, "usage: xen-net-guest [--queues N] [--split] DIR\n");
        return 2;
    }
    struct sim_options o = {.abi = SIM_FIFO};
    if (sim_create(&b.sim, b.dir, &o, &e)) die(e.text);
    for (unsigned who = 0; who < GUESTS; who++) {
        b.guest[who].domid = 7 + who;
        make_domain(&b, &b.guest[who]);
    }
    answer(&b, NULL);
    run(&b);
    for (unsigned who = 0; who < GUESTS; who++)
        if (b.guest[who].front.guest) netfront_close(&b.guest[who].front);
    sim_detach(b.sim);
    sim_remove(b.dir);
    return b.wrong ? 1 : 0;
}
