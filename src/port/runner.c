/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A runner's thread, and the orders that the control thread gives it: each runs between two rounds (runner_pass.c) while
 * the control thread waits, so that what it changes is obeyed when it returns.
 */
#include <assert.h>
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "loop/thread.h"
#include "port/runner_internal.h"

/* ---- the thread ---- */

struct start_order {
    struct runner *runner;
    sem_t ready;
    int ret;
};

static void wait_for(sem_t *done)
{
    while (sem_wait(done) < 0)
        ;
}

static int thread_open(struct runner *r)
{
    r->pool = packet_pool_new();
    if (!r->pool) return -ENOMEM;
    r->thread_arg = r->sink->thread_new(r->sink->arg, r->pool);
    if (r->thread_arg) return 0;
    packet_pool_free(r->pool);
    return -ENOMEM;
}

static void *thread_main(void *arg)
{
    struct start_order *order = arg;
    struct runner *r = order->runner;
    int ret = thread_open(r);
    order->ret = ret;
    sem_post(&order->ready); /* order is gone from here on */
    if (ret < 0) return NULL;
    while (!r->quit)
        runner_pass(r);
    r->sink->thread_free(r->thread_arg);
    packet_pool_free(r->pool);
    return NULL;
}

static int thread_begin(struct runner *r, const char *name)
{
    struct start_order order = {.runner = r};
    sem_init(&order.ready, 0, 0);
    int ret = thread_start(&r->thread, name, thread_main, &order);
    if (ret == 0) {
        wait_for(&order.ready);
        ret = order.ret;
        if (ret < 0) pthread_join(r->thread, NULL);
    }
    sem_destroy(&order.ready);
    return ret;
}

static int waits_open(struct runner *r)
{
    int ret = mailbox_init(&r->mailbox);
    if (ret < 0) return ret;
    r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event mail = {.events = EPOLLIN, .data.ptr = NULL};
    if (r->epoll_fd >= 0 && epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, mailbox_fd(&r->mailbox), &mail) == 0) return 0;
    ret = -errno;
    if (r->epoll_fd >= 0) close(r->epoll_fd);
    mailbox_destroy(&r->mailbox);
    return ret;
}

static void waits_close(struct runner *r)
{
    close(r->epoll_fd);
    mailbox_destroy(&r->mailbox);
}

int runner_new(struct runner **out, const char *name, const struct runner_sink *sink, uint64_t poll_ns)
{
    struct runner *r = calloc(1, sizeof *r);
    if (!r) return -ENOMEM;
    r->sink = sink;
    atomic_init(&r->poll_ns, poll_ns);
    runner_pass_init(r);
    int ret = waits_open(r);
    if (ret == 0) {
        ret = thread_begin(r, name);
        if (ret < 0) waits_close(r);
    }
    if (ret < 0) {
        free(r);
        return ret;
    }
    *out = r;
    return 0;
}

/* ---- orders: run on the thread between two rounds while the control thread waits ---- */

struct order {
    struct mail mail;
    sem_t done;
    void (*run)(struct runner *r, struct order *o);
    struct runner *runner;
    struct port_source *source;
    void (*fn)(void *arg);
    void *arg;
    int ret;
};

static void order_run(struct mail *m)
{
    struct order *o = container_of(m, struct order, mail);
    o->run(o->runner, o);
    sem_post(&o->done);
}

static void command(struct runner *r, struct order *o)
{
    o->runner = r;
    o->mail.run = order_run;
    sem_init(&o->done, 0, 0);
    mailbox_post(&r->mailbox, &o->mail);
    wait_for(&o->done);
    sem_destroy(&o->done);
}

static void run_add(struct runner *r, struct order *o)
{
    o->ret = runner_pass_add(r, o->source);
}

static void run_remove(struct runner *r, struct order *o)
{
    (void)r;
    runner_pass_remove(o->source);
}

static void run_call(struct runner *r, struct order *o)
{
    (void)r;
    o->fn(o->arg);
}

static void run_set_poll(struct runner *r, struct order *o)
{
    (void)o;
    runner_pass_wake_all(r);
}

static void run_stay(struct runner *r, struct order *o)
{
    stay_set(&r->stay, o->ret);
}

static void run_quit(struct runner *r, struct order *o)
{
    (void)o;
    r->quit = true;
}

void runner_free(struct runner *r)
{
    if (!r) return;
    struct order o = {.run = run_quit};
    command(r, &o);
    pthread_join(r->thread, NULL);
    assert(list_empty(&r->active) && list_empty(&r->idle) && list_empty(&r->unkicked) && list_empty(&r->throttled) &&
           list_empty(&r->broken));
    waits_close(r);
    free(r);
}

int runner_add(struct runner *r, struct port_source *s)
{
    struct order o = {.run = run_add, .source = s};
    command(r, &o);
    return o.ret;
}

void runner_remove(struct port_source *s)
{
    if (!s->runner) return;
    struct order o = {.run = run_remove, .source = s};
    command(s->runner, &o);
}

void runner_call(struct runner *r, void (*fn)(void *arg), void *arg)
{
    struct order o = {.run = run_call, .fn = fn, .arg = arg};
    command(r, &o);
}

void runner_set_poll(struct runner *r, uint64_t poll_ns)
{
    atomic_store(&r->poll_ns, poll_ns);
    struct order o = {.run = run_set_poll};
    command(r, &o);
}

void runner_set_stay(struct runner *r, bool stays)
{
    struct order o = {.run = run_stay, .ret = stays};
    command(r, &o);
}

void runner_stats_read(struct runner *r, struct runner_stats *out)
{
    out->rounds = atomic_load_explicit(&r->rounds, memory_order_relaxed);
    out->sleeps = atomic_load_explicit(&r->sleeps, memory_order_relaxed);
    out->packets = atomic_load_explicit(&r->packets, memory_order_relaxed);
    out->polled_ns = atomic_load_explicit(&r->polled_ns, memory_order_relaxed);
}
