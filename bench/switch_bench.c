/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the switch costs per packet, rings and copies left out: bursts of 32 frames, whose heads have just been written, go in,
 * and come out of ports that do nothing. Only the switch's part is timed; the median burst is shown, and the mean of the thread's
 * own time, page faults and all, which others on the machine have no part in.
 *
 * usage: switch-bench [packets per figure, default 2000000] [figure]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "loop/clock.h"
#include "switch/meter.h"
#include "switch/group.h"
#include "switch/switch.h"
#ifdef __x86_64__
#include <x86intrin.h>
#endif

#define BURST 32u
#define FLOWS 65536u
#define RULES 10000u
#define FRAME_BYTES 64u
#define PORTS 4u

struct tuple {
    uint32_t src, dst;
    uint16_t sport, dport;
    uint8_t proto;
};

struct bench {
    struct net_switch *sw;
    struct bridge *bridge;
    const struct runner_sink *sink;
    void *thread;
    struct packet_pool *pool;
    struct port ports[PORTS];
    struct switch_port *sp[PORTS];
    uint64_t packets;
    struct tuple *tuples;
    unsigned flows;
    bool labelled; /* frames come with an MPLS label */
    struct packet burst[BURST];
    uint8_t heads[BURST][320];
    uint64_t *cycles; /* of each burst */
    uint64_t own_ns;  /* of all bursts */
};

static uint64_t seed = 88172645463325252u;

static uint32_t rnd(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed >> 32) * below >> 32);
}

static uint64_t cycles_now(void)
{
#ifdef __x86_64__
    unsigned cpu;
    return __rdtscp(&cpu);
#else
    return clock_now_ns();
#endif
}

static uint64_t own_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SECOND + (uint64_t)ts.tv_nsec;
}

/* Of the counter in a nanosecond. */
static double cycles_per_ns(void)
{
    uint64_t start = cycles_now(), start_ns = clock_now_ns(), now_ns;
    while ((now_ns = clock_now_ns()) - start_ns < 10 * NS_PER_MS)
        ;
    return (double)(cycles_now() - start) / (double)(now_ns - start_ns);
}

static void fail(const char *what)
{
    fprintf(stderr, "switch-bench: %s\n", what);
    exit(1);
}

static void drop(struct port *p, struct packet *const *packets, unsigned count, struct packet_pool *pool)
{
    (void)p;
    (void)packets;
    (void)count;
    (void)pool;
}

static const struct port_ops ops = {.type = "none", .send = drop};

/* megaflows_max: 0: as many as there are by default. */
static void open_with(struct bench *b, unsigned megaflows_max)
{
    struct switch_config c;
    struct errmsg e;
    switch_config_default(&c);
    if (megaflows_max) c.megaflows_max = megaflows_max;
    if (switch_new(&b->sw, &c) || bridge_new(&b->bridge, b->sw, "br0", BRIDGE_SECURE, &e)) fail("no switch");
    for (unsigned i = 0; i < PORTS; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%u", i + 1);
        port_init(&b->ports[i], &ops, name);
        atomic_store(&b->ports[i].takes, PORT_TAKES_ALL);
        if (bridge_add_port(b->bridge, &b->ports[i], i + 1, NULL, &b->sp[i], &e)) fail(e.text);
    }
    b->sink = switch_sink(b->sw);
    b->pool = packet_pool_new();
    b->thread = b->sink->thread_new(b->sink->arg, b->pool);
    if (!b->pool || !b->thread) fail("no thread");
}

static void open_switch(struct bench *b)
{
    open_with(b, 0);
}

static void close_switch(struct bench *b)
{
    b->sink->asleep(b->thread);
    for (unsigned i = 0; i < PORTS; i++)
        bridge_remove_port(b->sp[i]);
    b->sink->thread_free(b->thread);
    packet_pool_free(b->pool);
    switch_free(b->sw);
}

static void flow(struct bench *b, const char *text)
{
    struct flow_spec f;
    struct errmsg e;
    if (flow_parse(&f, text, FLOW_PARSE_ADD, NULL, &e) || bridge_flow_add(b->bridge, &f, NULL, &e)) {
        fprintf(stderr, "%s: %s\n", text, e.text);
        exit(1);
    }
    instructions_clear(&f.instructions);
}

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

static void write_head(struct bench *b, unsigned i, const struct tuple *t)
{
    uint8_t *f = b->heads[i] + 64;
    memcpy(f, "\x02\0\0\0\0\x0b\x02\0\0\0\0\x0a\x08\0\x45", 15);
    memset(f + 15, 0, FRAME_BYTES - 15);
    put16(f + 16, 50);
    f[22] = 64;
    f[23] = t->proto;
    put32(f + 26, t->src);
    put32(f + 30, t->dst);
    put16(f + 34, t->sport);
    put16(f + 36, t->dport);
    if (b->labelled) {
        memmove(f - 4, f, 12);
        memcpy((f -= 4) + 12, "\x88\x47\0\4\xd1\x40", 6);
    }
    b->burst[i] = (struct packet){.head = f, .head_bytes = FRAME_BYTES, .room_bytes = 60, .length_bytes = FRAME_BYTES};
    if (b->labelled) b->burst[i].head_bytes = (uint16_t)(b->burst[i].length_bytes += 4);
}

static uint64_t one_burst(struct bench *b, uint64_t from, bool in_order)
{
    struct packet *packets[BURST];
    for (unsigned i = 0; i < BURST; i++) {
        write_head(b, i, &b->tuples[in_order ? (from + i) % b->flows : rnd(b->flows)]);
        packets[i] = &b->burst[i];
    }
    uint64_t start_ns = own_ns(), start = cycles_now();
    b->sink->input(b->thread, &b->ports[0], packets, BURST);
    packet_pool_reset(b->pool);
    b->sink->quiescent(b->thread);
    uint64_t cycles = cycles_now() - start;
    b->own_ns += own_ns() - start_ns;
    return cycles;
}

static int by_size(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void measure(struct bench *b, const char *name, bool warm, bool in_order, uint64_t packets)
{
    struct switch_stats before, s;
    uint64_t bursts = packets / BURST;
    for (uint64_t i = 0; warm && i < 4 * b->flows / BURST + 100; i++)
        one_burst(b, i * BURST, true);
    switch_stats_read(b->sw, &before);
    b->own_ns = 0;
    for (uint64_t i = 0; i < bursts; i++)
        b->cycles[i] = one_burst(b, i * BURST, in_order);
    switch_stats_read(b->sw, &s);
    qsort(b->cycles, bursts, sizeof b->cycles[0], by_size);
    printf("%-34s %7.1f cycles a packet (mean %7.1f)  exact %5.1f %%  translated %5.1f %%  %u megaflows, %u masks\n",
           name, (double)b->cycles[bursts / 2] / BURST, (double)b->own_ns * cycles_per_ns() / (double)(bursts * BURST),
           100.0 * (double)(s.emc_hits - before.emc_hits) / (double)(bursts * BURST),
           100.0 * (double)(s.translations - before.translations) / (double)(bursts * BURST), s.megaflows, s.masks);
    fflush(stdout);
}

static void tuples_spread(struct bench *b, unsigned flows, unsigned nets)
{
    b->flows = flows;
    for (unsigned i = 0; i < flows; i++)
        b->tuples[i] = (struct tuple){.src = 0x0a000000u | rnd(1u << 24),
                                      .dst = ((10 + i % nets) << 24) | i,
                                      .sport = (uint16_t)(1024 + rnd(60000)),
                                      .dport = (uint16_t)(rnd(256)),
                                      .proto = 17};
}

static void in_port(struct bench *b)
{
    open_switch(b);
    flow(b, "in_port=1,actions=output:2");
    tuples_spread(b, 1024, 1);
    measure(b, "in_port rule", true, false, b->packets);
    close_switch(b);
}

/* Eight tables that look at different things. */
static void eight_rules(struct bench *b)
{
    char text[256];
    for (unsigned i = 0; i < 8; i++) {
        snprintf(text, sizeof text, "table=0,priority=10,ip,nw_dst=%u.0.0.0/8,actions=goto_table:%u", 10 + i, i + 1);
        flow(b, text);
    }
    flow(b, "table=1,actions=output:2");
    for (unsigned i = 0; i < 256; i++) {
        snprintf(text, sizeof text, "table=2,udp,tp_dst=%u,actions=output:2", i);
        flow(b, text);
        snprintf(text, sizeof text, "table=3,ip,nw_src=10.%u.0.0/16,actions=output:2", i);
        flow(b, text);
        snprintf(text, sizeof text, "table=4,ip,nw_dst=13.0.%u.0/24,actions=output:2", i);
        flow(b, text);
        snprintf(text, sizeof text, "table=5,udp,tp_src=0x%02x00/0xff00,actions=output:2", i);
        flow(b, text);
        snprintf(text, sizeof text, "table=6,ip,nw_src=10.%u.0.0/16,nw_tos=0,actions=output:2", i);
        flow(b, text);
    }
    flow(b, "table=7,dl_dst=02:00:00:00:00:0b,actions=output:2");
    flow(b, "table=8,dl_src=02:00:00:00:00:0a,actions=output:2");
}

static void exact(struct bench *b)
{
    open_switch(b);
    eight_rules(b);
    tuples_spread(b, 1024, 8);
    measure(b, "exact-match cache, 1,024 flows", true, false, b->packets);
    close_switch(b);
}

static void masks(struct bench *b)
{
    open_switch(b);
    eight_rules(b);
    tuples_spread(b, FLOWS, 8);
    measure(b, "eight masks, 65,536 flows", true, false, b->packets);
    close_switch(b);
}

static void hosts(struct bench *b)
{
    char text[128];
    for (unsigned i = 0; i < FLOWS; i++) {
        snprintf(text, sizeof text, "ip,nw_dst=10.0.%u.%u,actions=output:2", i >> 8, i & 255);
        flow(b, text);
    }
}

static void one_subtable(struct bench *b)
{
    open_switch(b);
    flow(b, "udp,nw_dst=10.0.0.0/8,actions=output:2");
    flow(b, "priority=40000,udp,tp_dst=9999,actions=drop");
    tuples_spread(b, FLOWS, 1);
    measure(b, "one subtable, 65,536 flows, few", true, false, b->packets);
    close_switch(b);
    open_switch(b);
    hosts(b);
    tuples_spread(b, FLOWS, 1);
    measure(b, "one subtable, 65,536 megaflows", true, false, b->packets);
    close_switch(b);
}

static void meter(struct bench *b, const char *text)
{
    struct meter_spec m;
    struct errmsg e;
    if (meter_parse(&m, text, &e) || bridge_meter_add(b->bridge, &m, NULL, &e)) fail("no meter");
}

/* The figures without meters, with one that lets everything through. */
static void metered(struct bench *b)
{
    static const char big[] = "meter=1,kbps,bands=type=drop,rate=4000000000";
    open_switch(b);
    meter(b, big);
    flow(b, "in_port=1,actions=meter:1,output:2");
    tuples_spread(b, 1024, 1);
    measure(b, "in_port rule with a meter", true, false, b->packets);
    close_switch(b);
    open_switch(b);
    meter(b, big);
    flow(b, "table=0,priority=9,in_port=1,actions=meter:1,goto_table:1");
    flow(b, "table=1,udp,nw_dst=10.0.0.0/8,actions=output:2");
    flow(b, "table=1,priority=40000,udp,tp_dst=9999,actions=drop");
    tuples_spread(b, 1024, 1);
    measure(b, "exact-match cache with a meter", true, false, b->packets);
    tuples_spread(b, FLOWS, 1);
    measure(b, "one subtable with a meter", true, false, b->packets);
    close_switch(b);
    open_switch(b);
    flow(b, "table=0,priority=9,in_port=1,actions=goto_table:1");
    flow(b, "table=1,udp,nw_dst=10.0.0.0/8,actions=output:2");
    flow(b, "table=1,priority=40000,udp,tp_dst=9999,actions=drop");
    tuples_spread(b, 1024, 1);
    measure(b, "exact-match cache without a meter", true, false, b->packets);
    tuples_spread(b, FLOWS, 1);
    measure(b, "one subtable without a meter", true, false, b->packets);
    close_switch(b);
}

static void misses(struct bench *b)
{
    open_switch(b);
    hosts(b);
    tuples_spread(b, FLOWS, 1);
    measure(b, "misses, 65,536 rules", false, true, FLOWS);
    close_switch(b);
    open_switch(b);
    for (unsigned i = 0; i < 256; i++) {
        char text[128];
        snprintf(text, sizeof text,
                 "udp,tp_dst=%u,actions=push_vlan:0x8100,move:NXM_OF_IP_DST[0..11]->OXM_OF_VLAN_VID[0..11],output:2",
                 i);
        flow(b, text);
    }
    tuples_spread(b, 4096, 1);
    measure(b, "misses, move of 12 bits", false, true, 4096);
    close_switch(b);
}

/* What an action writes is looked at: a megaflow for each source address. megaflows_max: as in open_with(). */
static void new_megaflows(struct bench *b, const char *name, unsigned megaflows_max, uint64_t packets)
{
    open_with(b, megaflows_max);
    flow(b, "priority=10,ip,in_port=1,actions=set_field:10.9.9.9->ip_src,output:2");
    flow(b, "priority=10,ip,in_port=2,actions=set_field:10.9.9.9->ip_src,output:1");
    tuples_spread(b, FLOWS, 1);
    for (unsigned i = 0; i < FLOWS; i++)
        b->tuples[i].src = 0x0b000000u | i;
    measure(b, name, false, true, packets);
    close_switch(b);
}

static void with_room(struct bench *b)
{
    new_megaflows(b, "new megaflows, two rules", 0, FLOWS);
}

static void without_room(struct bench *b)
{
    new_megaflows(b, "the same without room for them", 1, b->packets);
}

/* ---- an access list ---- */

struct rule {
    uint32_t src, dst;
    unsigned src_len, dst_len;
    uint16_t port, port_mask;
    uint8_t proto; /* 0: any */
};

static uint32_t net(uint32_t a, unsigned length)
{
    return length ? a & (UINT32_MAX << (32 - length)) : 0;
}

static unsigned length_of_prefix(void)
{
    static const uint8_t often[] = {32, 32, 32, 24, 24, 28, 30, 16, 20, 0, 0, 8, 27, 23, 31, 22};
    return rnd(8) ? often[rnd(16)] : rnd(33);
}

/* As in access lists: addresses from some hundreds of networks, ports exact, in ranges, or any. */
static void rule_make(struct rule *r)
{
    r->src_len = length_of_prefix();
    r->dst_len = length_of_prefix();
    if (r->src_len + r->dst_len == 0) r->dst_len = 24;
    r->src = net((rnd(300) * 2654435761u & 0xffff0000u) | rnd(65536), r->src_len);
    r->dst = net((rnd(300) * 2246822519u & 0xffff0000u) | rnd(65536), r->dst_len);
    r->proto = rnd(10) < 6 ? 6 : rnd(2) ? 17 : 0;
    unsigned kind = r->proto ? rnd(4) : 3;
    static const uint32_t masks[] = {0xffff, 0xffff, 0xffff0000, 0};
    r->port_mask = (uint16_t)(masks[kind] >> (kind == 2 ? 15 - rnd(10) : 0));
    r->port = (uint16_t)((rnd(2) ? rnd(1024) : rnd(65536)) & r->port_mask);
}

static void rule_add(struct bench *b, const struct rule *r, unsigned priority, unsigned port)
{
    char text[256], ports[64] = "";
    if (r->port_mask) snprintf(ports, sizeof ports, ",tp_dst=0x%04x/0x%04x", r->port, r->port_mask);
    snprintf(text, sizeof text, "priority=%u,%s,nw_src=%u.%u.%u.%u/%u,nw_dst=%u.%u.%u.%u/%u%s,actions=%s%u", priority,
             r->proto == 6 ? "tcp"
             : r->proto    ? "udp"
                           : "ip",
             r->src >> 24, r->src >> 16 & 255, r->src >> 8 & 255, r->src & 255, r->src_len, r->dst >> 24,
             r->dst >> 16 & 255, r->dst >> 8 & 255, r->dst & 255, r->dst_len, ports, "output:", 2 + port);
    flow(b, text);
}

static void tuple_in(struct tuple *t, const struct rule *r)
{
    uint32_t src_free = r->src_len == 32 ? 0 : UINT32_MAX >> r->src_len,
             dst_free = r->dst_len == 32 ? 0 : UINT32_MAX >> r->dst_len;
    *t = (struct tuple){.src = r->src | (rnd(UINT32_MAX) & src_free),
                        .dst = r->dst | (rnd(UINT32_MAX) & dst_free),
                        .sport = (uint16_t)(1024 + rnd(60000)),
                        .dport = (uint16_t)(r->port | (rnd(65536) & ~r->port_mask)),
                        .proto = r->proto ? r->proto : 6};
}

static void access_list(struct bench *b)
{
    struct rule *rules = calloc(RULES, sizeof *rules);
    open_switch(b);
    for (unsigned i = 0; i < RULES; i++) {
        rule_make(&rules[i]);
        rule_add(b, &rules[i], 1 + i * 6 % 60000, i % 3);
    }
    flow(b, "priority=0,actions=output:2");
    b->flows = FLOWS;
    for (unsigned i = 0; i < FLOWS; i++)
        tuple_in(&b->tuples[i], &rules[rnd(RULES)]);
    measure(b, "10,000 rules, new connections", false, true, FLOWS);
    measure(b, "10,000 rules, 65,536 connections", true, false, b->packets);
    for (unsigned i = 0; i < FLOWS; i++)
        b->tuples[i].sport = (uint16_t)(1024 + rnd(60000));
    measure(b, "10,000 rules, other source ports", false, true, FLOWS);
    for (unsigned i = 0; i < FLOWS; i++)
        tuple_in(&b->tuples[i], &rules[rnd(RULES)]);
    measure(b, "10,000 rules, others of the same", false, true, FLOWS);
    close_switch(b);
    free(rules);
}

static void group(struct bench *b, const char *text)
{
    struct group_spec g;
    struct errmsg e;
    if (group_parse(&g, text, NULL, &e) || bridge_group_add(b->bridge, &g, NULL, &e)) fail(e.text);
    group_spec_clear(&g);
}

/* The same connections by a rule for each, and by groups. */
static void groups(struct bench *b)
{
    static const char *const types[][2] = {
        {"1,024 flows, a rule of ports each", NULL},
        {"1,024 flows, indirect group", "group_id=1,type=indirect,bucket=output:2"},
        {"1,024 flows, select of 4",
         "group_id=1,type=select,bucket=output:2,bucket=output:3,bucket=output:2,bucket=output:3"},
        {"1,024 flows, select of 4, one port",
         "group_id=1,type=select,bucket=output:2,bucket=output:2,bucket=output:2,bucket=output:2"},
        {"1,024 flows, fast failover", "group_id=1,type=ff,bucket=watch_port:9,output:4,bucket=watch_port:2,output:2"},
        {"1,024 flows, all, two ports", "group_id=1,type=all,bucket=output:2,bucket=output:3"},
        {"1,024 flows, all, one changed", "group_id=1,type=all,bucket=dec_ttl,output:2,bucket=output:3"},
    };
    for (unsigned i = 0; i < sizeof types / sizeof types[0]; i++) {
        open_switch(b);
        if (types[i][1]) group(b, types[i][1]);
        flow(b, types[i][1] ? "priority=1,udp,actions=group:1" : "priority=1,udp,actions=output:2");
        if (!types[i][1]) flow(b, "priority=2,udp,nw_src=1.1.1.1,nw_dst=1.1.1.2,tp_src=1,tp_dst=2,actions=drop");
        tuples_spread(b, 1024, 8);
        measure(b, types[i][0], true, false, b->packets);
        close_switch(b);
    }
}

/* Labels taken off, and then by what is inside. */
static void popped(struct bench *b)
{
    char text[128];
    open_switch(b);
    flow(b, "mpls,mpls_label=77,actions=pop_mpls:0x0800,goto_table:1");
    for (unsigned i = 0; i < 256; i++) {
        snprintf(text, sizeof text, "table=1,udp,tp_dst=%u,actions=output:2", i);
        flow(b, text);
    }
    b->labelled = true;
    tuples_spread(b, 1024, 8);
    measure(b, "1,024 flows, a label popped", true, false, b->packets);
    b->labelled = false;
    close_switch(b);
}

static const struct figure {
    const char *name;
    void (*run)(struct bench *b);
} figures[] = {
    {"in_port", in_port}, {"exact", exact},   {"subtable", one_subtable}, {"masks", masks},
    {"meter", metered},   {"misses", misses}, {"new", with_room},         {"full", without_room},
    {"acl", access_list}, {"groups", groups}, {"popped", popped},
};

int main(int argc, char **argv)
{
    static struct bench b;
    b.packets = argc > 1 ? strtoull(argv[1], NULL, 10) : 2000000;
    if (b.packets < FLOWS) b.packets = FLOWS;
    b.tuples = calloc(FLOWS, sizeof *b.tuples);
    b.cycles = calloc(b.packets / BURST + 1, sizeof *b.cycles);
    if (!b.tuples || !b.cycles) fail("no memory");
    for (unsigned i = 0; i < sizeof figures / sizeof figures[0]; i++)
        if (argc < 3 || strcmp(argv[2], figures[i].name) == 0) figures[i].run(&b);
    free(b.tuples);
    free(b.cycles);
    return 0;
}
