/* SPDX-License-Identifier: Apache-2.0 */
/*
 * netif-bench: two Xen guests on a simulated machine (guest/sim.h) that send to each other as fast as they can, through a switch that
 * somebody else starts and connects:
 *
 *   1. the machine is made, and one line says where the front ends are (what `vif.connect` wants);
 *   2. a line on the standard input says that they are connected;
 *   3. a line with the result.
 *
 * Pages are filled once and granted for good, as they are for vhost-net-bench. Both guests' halves are one thread that never sleeps.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "loop/clock.h"
#include "vif/test_netfront.h"

#define GUESTS 2u
#define BATCH 32u
#define MSS 1448u

static const char usage[] = "usage: netif-bench DIR [options]    DIR: empty, best on a tmpfs\n"
                            "  --frame-bytes=N   of UDP frames, 60 (without the checksum of the wire)\n"
                            "  --stream=BYTES    instead: TCP segments of that size, to be cut (or not) by the switch\n"
                            "  --one-way         only the first guest sends\n"
                            "  --split           an event channel for each direction\n"
                            "  --runtime=S --ramp=S   seconds measured, 3, after a ramp of 1\n"
                            "  --sleep           wait for events where there is nothing to do, instead of polling\n";

struct arguments {
    const char *dir;
    unsigned frame_bytes, stream_bytes;
    bool one_way, split, sleep;
    double runtime_s, ramp_s;
};

struct counts {
    uint64_t packets, bytes, failed, bad, idle, passes;
};

static struct netfront front[GUESTS];
static struct arguments arguments = {.frame_bytes = 60, .runtime_s = 3, .ramp_s = 1};

static void fail(const char *what, int ret)
{
    fprintf(stderr, "netif-bench: %s: %s\n", what, strerror(ret < 0 ? -ret : ret));
    exit(1);
}

static bool arguments_parse(int argc, char **argv)
{
    static const struct option options[] = {{"frame-bytes", required_argument, NULL, 'f'},
                                            {"stream", required_argument, NULL, 't'},
                                            {"one-way", no_argument, NULL, 'o'},
                                            {"split", no_argument, NULL, 's'},
                                            {"runtime", required_argument, NULL, 'r'},
                                            {"ramp", required_argument, NULL, 'a'},
                                            {"sleep", no_argument, NULL, 'w'},
                                            {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'f': arguments.frame_bytes = (unsigned)atoi(optarg); break;
        case 't': arguments.stream_bytes = (unsigned)atoi(optarg); break;
        case 'o': arguments.one_way = true; break;
        case 's': arguments.split = true; break;
        case 'r': arguments.runtime_s = atof(optarg); break;
        case 'a': arguments.ramp_s = atof(optarg); break;
        case 'w': arguments.sleep = true; break;
        default: return false;
        }
    }
    if (optind + 1 != argc) return false;
    arguments.dir = argv[optind];
    unsigned bytes = arguments.stream_bytes ? arguments.stream_bytes : arguments.frame_bytes;
    return bytes >= 60 && bytes <= 65535;
}

/* ---- frames ---- */

static uint8_t *page_of(unsigned guest, unsigned i)
{
    return sim_guest_page(front[guest].guest, front[guest].queue[0].tx_page[i]);
}

static void pages_fill(void)
{
    bool tcp = arguments.stream_bytes != 0;
    for (unsigned g = 0; g < GUESTS; g++)
        for (unsigned i = 0; i < NETIF_ENTRIES; i++) {
            memset(page_of(g, i), (int)i, XEN_PAGE_BYTES);
            netfront_headers(page_of(g, i), g, 0, tcp ? arguments.stream_bytes : arguments.frame_bytes, tcp);
        }
}

/* Entries are answered in order: the page is the one of the index. */
static void add_entry(struct netfront_queue *q, uint16_t size, uint16_t flags)
{
    uint16_t id = (uint16_t)(q->tx.req_prod % NETIF_ENTRIES);
    struct netif_wire_tx w = {.ref = q->tx_grant[id], .id = id, .size = size, .flags = flags};
    netif_sim_add_tx(&q->tx, &w);
}

static void add_stream(struct netfront_queue *q)
{
    unsigned bytes = arguments.stream_bytes;
    uint16_t more = bytes > XEN_PAGE_BYTES ? NETIF_TX_MORE_DATA : 0;
    add_entry(q, (uint16_t)bytes, more | NETIF_TX_EXTRA_INFO | NETIF_TX_CSUM_BLANK);
    struct netif_wire_extra x = {.type = NETIF_EXTRA_GSO};
    x.gso.type = NETIF_GSO_TCP4;
    x.gso.size = MSS;
    netif_sim_add_extra(&q->tx, &x);
    for (unsigned done = XEN_PAGE_BYTES; done < bytes; done += XEN_PAGE_BYTES) {
        unsigned n = bytes - done < XEN_PAGE_BYTES ? bytes - done : XEN_PAGE_BYTES;
        add_entry(q, (uint16_t)n, done + n < bytes ? NETIF_TX_MORE_DATA : 0);
    }
}

static bool guest_sends(unsigned g, struct counts *c)
{
    struct netfront_queue *q = &front[g].queue[0];
    unsigned entries = arguments.stream_bytes ? (arguments.stream_bytes + XEN_PAGE_BYTES - 1) / XEN_PAGE_BYTES + 1 : 1;
    uint16_t id;
    int status;
    bool moved = false;
    while (netif_sim_get_tx(&q->tx, &id, &status)) {
        c->failed += status != NETIF_OKAY;
        moved = true;
    }
    for (unsigned i = 0; i < BATCH && netif_sim_free(&q->tx) >= entries; i++) {
        if (arguments.stream_bytes) add_stream(q);
        else add_entry(q, (uint16_t)arguments.frame_bytes, 0);
        moved = true;
    }
    netfront_publish_tx(&front[g], q);
    return moved;
}

/* What the next entry of a guest's receive ring is. */
struct expected {
    bool extra, middle;
};

static bool guest_receives(unsigned g, struct counts *c)
{
    static struct expected next[GUESTS];
    struct netfront_queue *q = &front[g].queue[0];
    struct expected *e = &next[g];
    struct netif_wire_rx_response w;
    uint16_t id;
    unsigned n = 0;
    for (; netif_sim_get_rx(&q->rx, &w, &id); n++) {
        netif_sim_add_rx(&q->rx, id, q->rx_grant[id]);
        if (e->extra) {
            e->extra = false;
            continue;
        }
        if (w.status < 0 || w.id != id) c->bad++;
        else c->bytes += (uint64_t)w.status;
        c->packets += !e->middle;
        e->extra = w.flags & NETIF_RX_EXTRA_INFO;
        e->middle = w.flags & NETIF_RX_MORE_DATA;
    }
    if (n) netfront_publish_rx(&front[g], q);
    return n > 0;
}

/* ---- running ---- */

static void wait_events(void)
{
    int ports[8];
    bool there = false;
    for (unsigned g = 0; g < GUESTS; g++) {
        struct netfront_queue *q = &front[g].queue[0];
        while (sim_pending(front[g].guest, ports, 8) == 8) {
        }
        sim_unmask(front[g].guest, q->tx_port);
        sim_unmask(front[g].guest, q->rx_port);
        if (netif_sim_final_check(&q->tx) || netif_sim_final_check(&q->rx)) there = true;
    }
    if (!there) usleep(20);
}

static void pass(struct counts *c)
{
    bool moved = false;
    for (unsigned g = 0; g < GUESTS; g++) {
        moved = guest_receives(g, c) || moved;
        if (g == 0 || !arguments.one_way) moved = guest_sends(g, c) || moved;
        const char *error = front[g].queue[0].tx.error ? front[g].queue[0].tx.error : front[g].queue[0].rx.error;
        if (error) {
            fprintf(stderr, "netif-bench: %s\n", error);
            exit(1);
        }
    }
    c->passes++;
    c->idle += !moved;
    if (!moved && arguments.sleep) wait_events();
}

static double run_for(double seconds, struct counts *c)
{
    uint64_t start = clock_now_ns(), end = start + (uint64_t)(seconds * 1e9), now;
    do
        for (unsigned i = 0; i < 64; i++)
            pass(c);
    while ((now = clock_now_ns()) < end);
    return (double)(now - start) / 1e9;
}

static void say_where(void)
{
    printf("{\"fronts\": [");
    for (unsigned g = 0; g < GUESTS; g++) {
        const struct netfront_queue *q = &front[g].queue[0];
        printf("%s{\"domid\": %u, \"queues\": [{\"tx-ring-ref\": %u, \"rx-ring-ref\": %u, \"event-channel-tx\": %d, "
               "\"event-channel-rx\": %d}]}",
               g ? ", " : "", g + 1, q->tx_ref, q->rx_ref, q->tx_port, q->rx_port);
    }
    printf("]}\n");
    fflush(stdout);
}

static struct sim *machine_make(void)
{
    struct sim_options o = {.abi = SIM_FIFO};
    struct errmsg e = {""};
    struct sim *sim;
    int ret = sim_create(&sim, arguments.dir, &o, &e);
    if (ret < 0) fail(e.text, ret);
    for (unsigned g = 0; ret == 0 && g < GUESTS; g++) {
        ret = netfront_open(&front[g], sim, (xen_domid)(g + 1), 1, arguments.split);
        if (ret < 0) fail("a guest", ret);
        netfront_post(&front[g].queue[0], NETIF_ENTRIES);
        netfront_publish_rx(&front[g], &front[g].queue[0]);
    }
    return sim;
}

int main(int argc, char **argv)
{
    struct counts ramp = {0}, c = {0};
    char line[64];
    if (!arguments_parse(argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    struct sim *sim = machine_make();
    pages_fill();
    say_where();
    if (!fgets(line, sizeof line, stdin)) return 1;
    run_for(arguments.ramp_s, &ramp);
    double seconds = run_for(arguments.runtime_s, &c);
    printf("{\"seconds\": %.6f, \"rx_packets\": %llu, \"rx_bytes\": %llu, \"tx_failed\": %llu, \"rx_failed\": %llu, "
           "\"idle_passes\": %.4f}\n",
           seconds, (unsigned long long)c.packets, (unsigned long long)c.bytes, (unsigned long long)c.failed,
           (unsigned long long)c.bad, (double)c.idle / (double)c.passes);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) line[0] = 0; /* until it is disconnected */
    for (unsigned g = 0; g < GUESTS; g++)
        netfront_close(&front[g]);
    sim_detach(sim);
    sim_remove(arguments.dir);
    return c.failed || c.bad;
}
