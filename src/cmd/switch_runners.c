/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which thread serves what. By default every transmit queue of a VIF has a runner of its own, named after it and free to run on
 * any CPU. The receive queues of ports of the host have one each as well, until there is one for every two CPUs; then they share,
 * so that threads leave room for whoever speaks through them (docs/adr/0009): none is one port's for good, and they are called
 * ports.N. While they are busy they stay on a CPU for a while (port/stay.h). Where we may use one CPU only, the queues of VIFs join
 * them: nothing could run beside another, and each switch of threads would be a loss. With --vif-threads=N the queues of VIFs are
 * hashed onto N threads that all VIFs share: the design of before, to compare with.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "cmd/switch_net.h"

#define NAME_BYTES (PORT_NAME_BYTES + 8)

struct own_runner {
    struct list node;
    unsigned users;
    bool of_port;
    unsigned number; /* of a port's: its N */
    struct runner *runner;
    char name[NAME_BYTES];
};

struct net_runners {
    struct net *net;
    struct list own; /* struct own_runner: one queue each, or several of ports */
    unsigned cpus;   /* that we may use */
    unsigned port_runners;
    unsigned shared_count;
    struct runner *shared[NET_VIF_THREADS_MAX]; /* NULL until the first queue falls on it */
};

static unsigned cpus_allowed(void)
{
    cpu_set_t cpus;
    return sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? (unsigned)CPU_COUNT(&cpus) : 2;
}

/* One for every two CPUs. */
static unsigned port_runners_max(const struct net_runners *r)
{
    return r->cpus < 4 ? 1 : r->cpus / 2;
}

int net_runners_new(struct net_runners **out, struct net *n)
{
    struct net_runners *r = calloc(1, sizeof *r);
    if (!r) return -ENOMEM;
    r->net = n;
    r->shared_count = n->options.vif_threads;
    r->cpus = cpus_allowed();
    list_init(&r->own);
    *out = r;
    return 0;
}

void net_runners_free(struct net_runners *r)
{
    assert(list_empty(&r->own));
    for (unsigned i = 0; i < r->shared_count; i++)
        if (r->shared[i]) runner_free(r->shared[i]);
    free(r);
}

static int start(struct net *n, struct runner **out, const char *name)
{
    return runner_new(out, name, switch_sink(n->sw), n->options.poll_ns);
}

/* A thread's name has 15 bytes: of a long one of several the end is kept, where they differ. */
static void name_pair(char out[NAME_BYTES], const char *name, unsigned pair, unsigned pairs)
{
    if (pairs == 1) snprintf(out, NAME_BYTES, "%.15s", name);
    else snprintf(out, NAME_BYTES, "%.12s.%u", name, pair);
}

static int own_new(struct net_runners *r, const char *name, struct own_runner **out)
{
    struct own_runner *o = calloc(1, sizeof *o);
    if (!o) return -ENOMEM;
    snprintf(o->name, sizeof o->name, "%s", name);
    int ret = start(r->net, &o->runner, o->name);
    if (ret < 0) {
        free(o);
        return ret;
    }
    o->users = 1;
    list_push_back(&r->own, &o->node);
    *out = o;
    return 0;
}

static void own_free(struct net_runners *r, struct runner *runner)
{
    LIST_FOR_EACH_SAFE (node, &r->own) {
        struct own_runner *o = list_entry(node, struct own_runner, node);
        if (o->runner != runner) continue;
        if (--o->users > 0) return;
        if (o->of_port) r->port_runners--;
        list_remove(&o->node);
        runner_free(runner);
        free(o);
        return;
    }
}

/* FNV-1a of the name and the queue. */
static unsigned hash_queue(const char *name, unsigned pair)
{
    uint32_t h = 2166136261u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 16777619u;
    h = (h ^ pair) * 16777619u;
    return h ^ h >> 16;
}

static int shared_get(struct net_runners *r, unsigned i, struct runner **out)
{
    char name[16];
    snprintf(name, sizeof name, "vifs.%u", i % NET_VIF_THREADS_MAX);
    int ret = r->shared[i] ? 0 : start(r->net, &r->shared[i], name);
    *out = r->shared[i];
    return ret;
}

static int vif_get(void *arg, unsigned pair, struct runner **out)
{
    struct net_vif *v = arg;
    struct net_runners *r = v->net->runners;
    if (r->shared_count) return shared_get(r, hash_queue(v->a.name, pair) % r->shared_count, out);
    if (r->cpus == 1) return net_runner_new(v->net, out);
    struct own_runner *o;
    char name[NAME_BYTES];
    name_pair(name, v->a.name, pair, v->s.queues);
    int ret = own_new(r, name, &o);
    if (ret == 0) *out = o->runner;
    return ret;
}

static void vif_put(void *arg, unsigned pair, struct runner *runner)
{
    struct net_vif *v = arg;
    (void)pair;
    own_free(v->net->runners, runner); /* a shared one is not among them, and stays */
}

struct vif_runners net_runners_of_vif(struct net_vif *v)
{
    return (struct vif_runners){.get = vif_get, .put = vif_put, .arg = v};
}

/* The one of the ports' runners that serves the fewest. */
static struct own_runner *least_used(struct net_runners *r)
{
    struct own_runner *best = NULL;
    LIST_FOR_EACH (node, &r->own) {
        struct own_runner *o = list_entry(node, struct own_runner, node);
        if (o->of_port && (!best || o->users < best->users)) best = o;
    }
    return best;
}

static bool is_taken(const struct net_runners *r, unsigned number)
{
    LIST_FOR_EACH (node, &r->own) {
        const struct own_runner *o = list_entry(node, struct own_runner, node);
        if (o->of_port && o->number == number) return true;
    }
    return false;
}

static int port_new(struct net_runners *r, struct own_runner **out)
{
    unsigned number = 0;
    char name[16];
    while (is_taken(r, number))
        number++;
    snprintf(name, sizeof name, "ports.%u", number % SWITCH_PORTS_MAX);
    int ret = own_new(r, name, out);
    if (ret < 0) return ret;
    runner_set_stay((*out)->runner, true);
    (*out)->of_port = true;
    (*out)->number = number;
    r->port_runners++;
    return 0;
}

int net_runner_new(struct net *n, struct runner **out)
{
    struct net_runners *r = n->runners;
    struct own_runner *o;
    if (r->port_runners == port_runners_max(r)) {
        o = least_used(r);
        o->users++;
    } else {
        int ret = port_new(r, &o);
        if (ret < 0) return ret;
    }
    *out = o->runner;
    return 0;
}

void net_runner_free(struct net *n, struct runner *runner)
{
    own_free(n->runners, runner);
}

static json_t *runner_json(struct runner *r, const char *name)
{
    struct runner_stats s;
    runner_stats_read(r, &s);
    return json_pack("{s:s, s:I, s:I, s:I, s:I}", "name", name, "rounds", (json_int_t)s.rounds, "sleeps",
                     (json_int_t)s.sleeps, "packets", (json_int_t)s.packets, "polled_ns", (json_int_t)s.polled_ns);
}

void net_runners_json(struct net *n, struct page *p)
{
    char name[16];
    for (unsigned i = 0; i < n->runners->shared_count; i++) {
        if (!n->runners->shared[i] || !page_wants(p)) continue;
        snprintf(name, sizeof name, "vifs.%u", i % NET_VIF_THREADS_MAX);
        page_add(p, runner_json(n->runners->shared[i], name));
    }
    LIST_FOR_EACH (node, &n->runners->own) {
        struct own_runner *o = list_entry(node, struct own_runner, node);
        if (page_wants(p)) page_add(p, runner_json(o->runner, o->name));
    }
}
