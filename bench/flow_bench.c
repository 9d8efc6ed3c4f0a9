/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What changes of flows cost the control thread, texts and messages left out: flows added, replaced, changed, listed and removed a
 * second, and the memory that one takes, everything included.
 *
 * usage: flow-bench [flows, default 100000] [kind]
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "loop/clock.h"
#include "switch/switch.h"

struct bench {
    struct net_switch *sw;
    struct bridge *bridge;
    unsigned flows;
    struct flow_spec *specs;
    struct action output;
};

static uint64_t seed = 88172645463325252u;

static uint32_t rnd(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed >> 32) * below >> 32);
}

static void fail(const char *what)
{
    fprintf(stderr, "flow-bench: %s\n", what);
    exit(1);
}

/* Of the processor: what else runs does not count. */
static uint64_t own_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SECOND + (uint64_t)ts.tv_nsec;
}

static void say(const char *what, uint64_t count, uint64_t start_ns)
{
    double seconds = (double)(own_ns() - start_ns) / 1e9;
    printf("  %-28s %10.0f a second (%.3f s)\n", what, (double)count / seconds, seconds);
}

/* ---- flows ---- */

static void want(struct flow_match *m, enum field_id id, uint64_t value, uint64_t mask)
{
    field_set(&m->key, id, field_value_of(value & mask));
    field_set(&m->mask, id, field_value_of(mask));
}

/* One mask: what a table of hosts looks like. */
static void host(struct flow_match *m, unsigned i)
{
    want(m, FIELD_ETH_TYPE, 0x0800, 0xffff);
    want(m, FIELD_IPV4_DST, 0x0a000000u + i, UINT32_MAX);
}

/* Learned addresses, by port: what a controller's learning switch makes. */
static void address(struct flow_match *m, unsigned i)
{
    want(m, FIELD_IN_PORT, 1 + i % 16, UINT32_MAX);
    want(m, FIELD_ETH_DST, 0x020000000000u + i * 2654435761u, 0xffffffffffffu);
}

static uint64_t prefix(void)
{
    static const uint8_t often[] = {32, 32, 32, 24, 24, 28, 30, 16, 20, 0, 0, 8, 27, 23, 31, 22};
    unsigned length = rnd(8) ? often[rnd(16)] : rnd(33);
    return length ? UINT32_MAX << (32 - length) & UINT32_MAX : 0;
}

/* Hundreds of masks: an access list. */
static void access_list(struct flow_match *m, unsigned i)
{
    bool tcp = rnd(2);
    want(m, FIELD_ETH_TYPE, 0x0800, 0xffff);
    want(m, FIELD_IPV4_SRC, i * 2654435761u, prefix());
    want(m, FIELD_IPV4_DST, rnd(300) * 2246822519u + rnd(65536), prefix());
    if (rnd(4) == 0) return;
    want(m, FIELD_IP_PROTO, tcp ? 6 : 17, 0xff);
    want(m, tcp ? FIELD_TCP_DST : FIELD_UDP_DST, rnd(65536), rnd(3) ? 0xffff : 0xffffu << rnd(10) & 0xffff);
}

static void prepare(struct bench *b, void (*match)(struct flow_match *m, unsigned i), bool priorities)
{
    memset(b->specs, 0, b->flows * sizeof *b->specs);
    for (unsigned i = 0; i < b->flows; i++) {
        struct flow_spec *f = &b->specs[i];
        *f = (struct flow_spec){.priority = (uint16_t)(priorities ? 1 + i * 7 % 60000 : 100),
                                .out_port = SWITCH_PORT_ANY,
                                .out_group = SWITCH_PORT_ANY,
                                .instructions = {.has_apply = true, .apply = {.count = 1, .list = &b->output}}};
        match(&f->match, i);
    }
}

/* ---- what is measured ---- */

static void add_all(struct bench *b, const char *what)
{
    struct errmsg e;
    uint64_t start = own_ns();
    for (unsigned i = 0; i < b->flows; i++)
        if (bridge_flow_add(b->bridge, &b->specs[i], NULL, &e)) fail(e.text);
    say(what, b->flows, start);
}

static void add_checked(struct bench *b)
{
    struct errmsg e;
    enum flow_wrong why;
    unsigned added = 0;
    uint64_t start = own_ns();
    for (unsigned i = 0; i < b->flows; i++) {
        struct flow_spec f = b->specs[i];
        f.flags = FLOW_CHECK_OVERLAP;
        if (bridge_flow_add(b->bridge, &f, &why, &e) == 0) added++;
        else if (why != FLOW_OVERLAP) fail(e.text);
    }
    say("added, checked for overlap", b->flows, start);
    if (added != bridge_flow_count(b->bridge)) fail("not as many as were added");
}

static void select_all(struct flow_spec *f)
{
    *f = (struct flow_spec){.out_port = SWITCH_PORT_ANY, .out_group = SWITCH_PORT_ANY};
}

static void delete_all(struct bench *b)
{
    struct errmsg e;
    struct flow_spec all;
    unsigned n;
    select_all(&all);
    uint64_t start = own_ns();
    if (bridge_flow_delete(b->bridge, &all, false, &n, NULL, &e)) fail(e.text);
    say("removed at once", n, start);
    switch_barrier(b->sw);
}

static void delete_each(struct bench *b)
{
    struct errmsg e;
    uint64_t start = own_ns();
    for (unsigned i = 0; i < b->flows; i++)
        if (bridge_flow_delete(b->bridge, &b->specs[i], true, NULL, NULL, &e)) fail(e.text);
    say("removed one by one", b->flows, start);
    switch_barrier(b->sw);
}

static void modify_all(struct bench *b)
{
    struct errmsg e;
    struct flow_spec all;
    unsigned n;
    select_all(&all);
    all.instructions = b->specs[0].instructions;
    uint64_t start = own_ns();
    if (bridge_flow_modify(b->bridge, &all, false, &n, NULL, &e)) fail(e.text);
    say("modified at once", n, start);
}

static void list_all(struct bench *b)
{
    struct flow_spec all, f;
    struct flow_stats s;
    unsigned n = 0;
    select_all(&all);
    uint64_t start = own_ns();
    struct flow_list *l = bridge_flow_list(b->bridge, &all);
    if (!l) fail("no memory");
    uint64_t made = own_ns();
    while (flow_list_next(l, &f, &s))
        n++;
    flow_list_free(l);
    say("listed", n, start);
    printf("  %-28s %10.3f ms\n", "of which before the first", (double)(made - start) / 1e6);
}

static void measure(struct bench *b, const char *name)
{
    struct switch_config c;
    struct errmsg e;
    switch_config_default(&c);
    if (switch_new(&b->sw, &c) || bridge_new(&b->bridge, b->sw, "br0", BRIDGE_SECURE, &e)) fail("no switch");
    malloc_trim(0);
    size_t before = mallinfo2().uordblks;
    printf("%s, %u flows\n", name, b->flows);
    add_all(b, "added");
    switch_barrier(b->sw);
    printf("  %-28s %10.0f\n", "bytes of memory for one",
           (double)(mallinfo2().uordblks - before) / bridge_flow_count(b->bridge));
    add_all(b, "replaced");
    modify_all(b);
    list_all(b);
    delete_all(b);
    add_checked(b);
    delete_each(b);
    switch_free(b->sw);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static struct bench b = {.output = {.type = ACTION_OUTPUT, .output = {.port = 1}}};
    static const struct {
        const char *name;
        void (*match)(struct flow_match *m, unsigned i);
        bool priorities;
    } kinds[] = {{"hosts", host, false}, {"addresses", address, false}, {"access list", access_list, true}};
    b.flows = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 100000;
    b.specs = b.flows ? calloc(b.flows, sizeof *b.specs) : NULL;
    if (!b.specs) fail("no memory");
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (argc > 2 && strcmp(argv[2], kinds[i].name) != 0) continue;
        prepare(&b, kinds[i].match, kinds[i].priorities);
        measure(&b, kinds[i].name);
    }
    free(b.specs);
    return 0;
}
